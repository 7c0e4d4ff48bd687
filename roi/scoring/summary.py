"""From predictions and targets to the blocks of metrics.json: a value and its interval for every score.

Each score is a function of weights, f(weights (N, R)) -> (R, ...). With weights of one it gives the value; with those of the
resamples its spread. All scores see the same resamples, so their differences are paired.

Letters: N images, K classes, R resamples.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from roi.labels import is_finding
from roi.scoring import calibration, metrics

WeightedStatistic = Callable[[np.ndarray], np.ndarray]
AGES = ((0, 18, "0-17"), (18, 40, "18-39"), (40, 60, "40-59"), (60, 80, "60-79"), (80, 200, "80+"))  # years
CURVE_POINTS = 101


class BootstrapEstimate:
    """A score: `value` (...) and `drawn` (R, ...)."""

    def __init__(self, value: np.ndarray, drawn: np.ndarray) -> None:
        self.value, self.drawn = value, drawn

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "BootstrapEstimate":
        """`function` works on arrays with resamples first."""
        return BootstrapEstimate(function(self.value[None])[0], function(self.drawn))

    def over(self, findings: np.ndarray) -> "BootstrapEstimate":
        """(..., K), (K,) bool -> (...): the mean over those of `findings` that are defined; the same ones in each resample."""
        chosen = findings & ~np.isnan(self.value)
        if not chosen.any():
            return BootstrapEstimate(np.array(math.nan), np.full(len(self.drawn), math.nan))
        return self.map(lambda v: _nanmean(v[..., chosen]))

    def summary(self) -> dict[str, float | None]:
        """-> {"value", "low", "high"}; undefined is None."""
        return summary(float(self.value), self.drawn)


def summary(value: float, drawn: np.ndarray) -> dict[str, float | None]:
    low, high = metrics.interval(drawn)
    return {"value": defined(value), "low": defined(low), "high": defined(high)}


def defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _nanmean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def scored(target: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """(K,) bool: the findings that means are taken over, those with both classes among the images. (N, K)"""
    return is_finding(classes) & (target == 1).any(axis=0) & (target == 0).any(axis=0)


def estimate(
    scores: dict[str, WeightedStatistic], patients: np.ndarray, resamples: int, seed: int
) -> dict[str, BootstrapEstimate]:
    """Every score on the images themselves and in `resamples` draws of their patients; one patient alone has no spread to draw."""
    resamples = resamples if len(set(patients)) > 1 else 0
    ones, none = np.ones((len(patients), 1), dtype=np.int32), np.zeros((len(patients), 0), dtype=np.int32)
    blocks: dict[str, list[np.ndarray]] = {name: [score(none)] for name, score in scores.items()}
    for weights in metrics.resamples(patients, resamples, seed):
        for name, score in scores.items():
            blocks[name].append(score(weights))
    return {name: BootstrapEstimate(score(ones)[0], np.concatenate(blocks[name])) for name, score in scores.items()}


def weighted_mean(values: np.ndarray, counted: np.ndarray) -> WeightedStatistic:
    """(N, M), (N, M) bool -> f(weights) = (R, M): the mean of the counted values."""
    held, top = counted.astype(np.float32), np.where(counted, values, 0).astype(np.float32)

    def score(weights: np.ndarray) -> np.ndarray:
        w = weights.T.astype(np.float32)
        count = w @ held
        return np.where(count > 0, (w @ top) / np.maximum(count, 1), np.nan)

    return score


def weighted_by(values: np.ndarray, share: np.ndarray) -> WeightedStatistic:
    """(N, M), (N, M) -> f(weights (N, R)) = (R, M): the mean of the values, each counting its share."""
    top = np.where(share > 0, values, 0) * share

    def score(weights: np.ndarray) -> np.ndarray:
        w = weights.T.astype(float)
        count = w @ share
        return np.where(count > 0, (w @ top) / np.where(count > 0, count, 1), np.nan)

    return score


def within(rows: np.ndarray, score: WeightedStatistic) -> WeightedStatistic:
    """The score of the images `rows` (N,) bool alone."""
    return lambda weights: score(weights[rows])


def confusion(called: np.ndarray, target: np.ndarray, usable: np.ndarray) -> WeightedStatistic:
    """(N, K) bool, (N, K), (K,) bool -> f(weights) = (R, K, 4): weighted counts of TP, FP, FN, TN; NaN where not usable."""
    cells = [called & (target == 1), called & (target == 0), ~called & (target == 1), ~called & (target == 0)]
    flat = np.stack(cells, axis=-1).reshape(len(called), -1).astype(np.float32)  # (N, 4K)

    def score(weights: np.ndarray) -> np.ndarray:
        counts = (weights.T.astype(np.float32) @ flat).reshape(weights.shape[1], called.shape[1], 4).astype(np.float64)
        return np.where(usable[None, :, None], counts, np.nan)

    return score


def decisions(counts: np.ndarray) -> dict[str, np.ndarray]:
    """(..., 4) -> DECISIONS and accuracy, each (...)"""
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {**metrics.decision_scores(tp, fp, fn, tn), "accuracy": (tp + tn) / (tp + fp + fn + tn)}


def decision(name: str, counts: np.ndarray) -> np.ndarray:
    """One of `decisions`."""
    return decisions(counts)[name]


def main_scores(
    prob: dict[str, np.ndarray], target: np.ndarray, threshold: np.ndarray | None
) -> dict[str, WeightedStatistic]:
    """What `tables` reads: ranking of each part, squared error, and counts at thresholds."""
    scores: dict[str, WeightedStatistic] = {f"ranking_{part}": metrics.ranking(p, target) for part, p in prob.items()}
    known = ~np.isnan(target)
    scores["brier"] = weighted_mean((prob["full"] - np.nan_to_num(target)) ** 2, known)
    if threshold is not None:
        scores["counts"] = confusion(prob["full"] >= threshold, target, ~np.isnan(threshold))
    return scores


def tables(
    drawn: dict[str, BootstrapEstimate],
    prob: np.ndarray,
    target: np.ndarray,
    classes: Sequence[str],
    threshold: np.ndarray | None,
) -> dict[str, Any]:
    """-> mean, per_class, and with thresholds micro and hamming; all means over the same findings"""
    findings = scored(target, classes)
    columns: dict[str, BootstrapEstimate] = {}  # score -> (K,)
    for name, score in drawn.items():
        if name.startswith("ranking_"):
            suffix = "" if name == "ranking_full" else name.removeprefix("ranking")
            for m, kind in enumerate(("auroc", "ap")):
                columns[f"{kind}{suffix}"] = score.map(itemgetter((..., m)))
    columns["brier"] = drawn["brier"]
    if threshold is not None:
        columns |= {name: drawn["counts"].map(partial(decision, name)) for name in metrics.DECISIONS}
    blocks: dict[str, Any] = {
        "mean": {name: score.over(findings).summary() for name, score in columns.items()},
        "per_class": {
            c: {
                **{name: summary(float(score.value[j]), score.drawn[:, j]) for name, score in columns.items()},
                **facts(prob[:, j], target[:, j], None if threshold is None else float(threshold[j])),
            }
            for j, c in enumerate(classes)
        },
    }
    if threshold is not None:
        usable = findings & ~np.isnan(threshold)
        pooled = drawn["counts"].map(lambda c: c[:, usable].sum(axis=1))
        blocks["micro"] = {
            name: pooled.map(partial(decision, name)).summary() for name in ("f1", "precision", "recall", "specificity")
        }
        blocks["hamming"] = pooled.map(partial(decision, "accuracy")).summary()
    return blocks


def facts(prob: np.ndarray, target: np.ndarray, threshold: float | None) -> dict[str, Any]:
    """What one class has beside scores: counts, the DeLong interval, curves. (N,), (N,)"""
    known = ~np.isnan(target)
    p, y = prob[known], target[known]
    low, high = metrics.delong_interval(p, y)
    return {
        "auroc_delong": {"value": defined(metrics.auroc(p, y)), "low": defined(low), "high": defined(high)},
        "positives": int((y == 1).sum()),
        "known": int(known.sum()),
        "threshold": None if threshold is None else defined(threshold),
        **curves(p, y),
    }


def curves(prob: np.ndarray, target: np.ndarray) -> dict[str, list[list[float]]]:
    """ROC and precision-recall curve in at most CURVE_POINTS points: {"roc": [fpr, tpr], "pr": [recall, precision]}; empty if undefined."""
    p, n = int((target == 1).sum()), int((target == 0).sum())
    if not p or not n:
        return {"roc": [[], []], "pr": [[], []]}
    order = np.argsort(-prob, kind="stable")
    last = np.append(np.flatnonzero(np.diff(prob[order])), len(prob) - 1)
    hits = np.cumsum(target[order] == 1)[last]
    false = last + 1 - hits
    points = {"roc": (np.append(0, false / n), np.append(0, hits / p)), "pr": (hits / p, hits / (last + 1))}
    thin = {}
    for name, (x, y) in points.items():
        along = np.linspace(0, len(x) - 1, min(CURVE_POINTS, len(x))).round().astype(int)
        if name == "roc":  # even steps in both directions: the corner at the left holds most of what one looks for
            along = np.unique(
                np.concatenate([np.searchsorted(v, np.linspace(0, 1, CURVE_POINTS // 2)) for v in (x, y)]).clip(
                    max=len(x) - 1
                )
            )
        thin[name] = [[round(float(v), 5) for v in a[along]] for a in (x, y)]
    return thin


def calibrations(
    prob: np.ndarray, target: np.ndarray, classes: Sequence[str], fit: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, Any]:
    """ECE, Brier and reliability as they are and, with `fit` = (probabilities, targets) of other images, after temperature and
    Platt scaling. -> methods of the block `calibration`"""
    mended: dict[str, tuple[np.ndarray, dict[str, list[float | None]]]] = {"raw": (prob, {})}
    if fit is not None:
        for method, fitter in calibration.FITS.items():
            parameters = [
                fitter(fit[0][k, j], fit[1][k, j]) for j in range(len(classes)) for k in [~np.isnan(fit[1][:, j])]
            ]
            values = np.stack(
                [calibration.apply(method, parameters[j], prob[:, j]) for j in range(len(classes))], axis=1
            )
            mended[method] = values, {c: [defined(v) for v in p] for c, p in zip(classes, parameters, strict=True)}
    methods: dict[str, Any] = {}
    findings = scored(target, classes) & np.all(
        [~np.isnan(values).any(axis=0) for values, _ in mended.values()], axis=0
    )
    for method, (values, fitted) in mended.items():
        known = ~np.isnan(target) & ~np.isnan(values)
        errors = {
            name: np.array([measure(values[known[:, j], j], target[known[:, j], j]) for j in range(len(classes))])
            for name, measure in (("ece", calibration.ece), ("brier", calibration.brier))
        }
        pooled = known & findings
        methods[method] = {
            "mean": {
                name: defined(float(e[findings].mean())) if findings.any() else None for name, e in errors.items()
            },
            "per_class": {c: {name: defined(float(e[j])) for name, e in errors.items()} for j, c in enumerate(classes)},
            "reliability": calibration.reliability(values[pooled], target[pooled]).round(6).tolist()
            if pooled.any()
            else [],
            "parameters": fitted,
        }
    return methods


def groups_of(rows: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    """attribute -> group -> (N,) bool: data set, view, sex and age band, where the table has at least two groups of them."""
    age = pd.to_numeric(rows["age"], errors="coerce").to_numpy()
    named = {
        name: {g: (rows[name] == g).to_numpy() for g in sorted(set(rows[name]) - {""})}
        for name in ("dataset", "view", "sex")
    }
    named["age"] = {label: (age >= low) & (age < high) for low, high, label in AGES}
    named = {name: {g: chosen for g, chosen in groups.items() if chosen.any()} for name, groups in named.items()}
    return {name: groups for name, groups in named.items() if len(groups) > 1}


def subgroup_scores(
    prob: np.ndarray, target: np.ndarray, groups: dict[str, dict[str, np.ndarray]]
) -> dict[str, WeightedStatistic]:
    scores: dict[str, WeightedStatistic] = {}
    for name, parts in groups.items():
        for group, chosen in parts.items():
            ranked = metrics.ranking(prob[chosen], target[chosen])
            scores[f"group_{name}_{group}"] = within(chosen, lambda w, f=ranked: f(w)[..., 0])  # type: ignore[misc]
    return scores


def subgroups(
    drawn: dict[str, BootstrapEstimate],
    groups: dict[str, dict[str, np.ndarray]],
    patients: np.ndarray,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Mean AUROC of each group over the findings that all groups of the attribute have in both classes, and the gap between best
    and worst. A group with less than half as many such findings as another is too small: undefined, and not in the gap.

    auroc_own is the mean over all findings that the group itself has in both classes: data sets differ in what they looked for.
    """
    blocks: dict[str, Any] = {}
    for name, parts in groups.items():
        scored = {g: drawn[f"group_{name}_{g}"] for g in parts}
        held = {g: is_finding(classes) & ~np.isnan(s.value) for g, s in scored.items()}
        most = max(h.sum() for h in held.values())
        usable = [g for g, h in held.items() if h.any() and 2 * h.sum() >= most]
        shared = np.all([held[g] for g in usable], axis=0) if usable else np.zeros(len(classes), dtype=bool)
        means = {g: scored[g].map(lambda v, shared=shared: _nanmean(np.where(shared, v, np.nan))) for g in usable}  # type: ignore[misc]
        block: dict[str, Any] = {
            "findings": [c for c, used in zip(classes, shared, strict=True) if used],
            "groups": {
                g: {
                    "n_images": int(chosen.sum()),
                    "n_patients": len(set(patients[chosen])),
                    "auroc": means[g].summary() if g in means else summary(math.nan, np.zeros(0)),
                    "auroc_own": scored[g].over(is_finding(classes)).summary(),
                    "findings_own": [c for c, used in zip(classes, held[g], strict=True) if used],
                }
                for g, chosen in parts.items()
            },
        }
        ranked = sorted((g for g in means if not np.isnan(means[g].value)), key=lambda g: float(means[g].value))
        if len(ranked) > 1:
            best, worst = means[ranked[-1]], means[ranked[0]]
            block["gap"] = {
                "best": ranked[-1],
                "worst": ranked[0],
                **summary(float(best.value - worst.value), best.drawn - worst.drawn),
            }
        blocks[name] = block
    return blocks


def comparison(
    ours: BootstrapEstimate,
    theirs: BootstrapEstimate,
    a: np.ndarray,
    b: np.ndarray,
    target: np.ndarray,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Paired difference ours - theirs of the AUROC, with p from the resamples and, per finding, from DeLong. (N, K) each"""
    both = is_finding(classes) & ~np.isnan(ours.value[:, 0]) & ~np.isnan(theirs.value[:, 0])
    difference = BootstrapEstimate(
        ours.value[:, 0] - theirs.value[:, 0], ours.drawn[..., 0] - theirs.drawn[..., 0]
    )  # (K,)
    mean = difference.map(lambda v: _nanmean(np.where(both, v, np.nan)))
    per_class: dict[str, Any] = {}
    for j, c in enumerate(classes):
        known = ~np.isnan(target[:, j])
        p_delong = metrics.delong_p(a[known, j], b[known, j], target[known, j])
        values = summary(float(difference.value[j]), difference.drawn[:, j])
        per_class[c] = {
            "auroc": {
                **values,
                "p": defined(metrics.difference_p(difference.drawn[:, j])),
                "p_delong": defined(p_delong),
            }
        }
    return {
        "mean": {"auroc": {**mean.summary(), "p": defined(metrics.difference_p(mean.drawn))}},
        "per_class": per_class,
    }
