"""Scores from saved predictions. Unknown targets are NaN and left out, finding by finding; what is undefined is NaN, never 0.5.

Letters: N images, K classes, R resamples. Scores are (N, K), targets (N, K) of 1, 0, NaN; weights (N, R): how often a
resample drew each image.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.stats import rankdata

from roi.labels import is_finding

CHUNK = 64  # resamples computed at once: their cumulative weights stay in the cache of a core
Measure = Callable[[np.ndarray, np.ndarray], float]


def auroc(score: np.ndarray, target: np.ndarray) -> float:
    """Area under the ROC curve by ranks, ties counted half (Mann & Whitney 1947). (N,), (N,) of 0/1 -> in [0, 1]"""
    positive = target == 1
    n, p = len(target), int(positive.sum())
    if p == 0 or p == n:
        return float("nan")
    return float((rankdata(score)[positive].sum() - p * (p + 1) / 2) / (p * (n - p)))


def average_precision(score: np.ndarray, target: np.ndarray) -> float:
    """Sum of precision times the step in recall, over distinct thresholds. (N,), (N,) of 0/1 -> in [0, 1]"""
    p = int((target == 1).sum())
    if p == 0 or p == len(target):
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # the last image of each tie
    hits = np.cumsum(target[order] == 1)[last]
    return float(np.sum(np.diff(hits, prepend=0) / p * hits / (last + 1)))


def per_class(measure: Measure, score: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N, K), (N, K) with NaN = unknown -> (K,), each class on the images where it is known."""
    known = ~np.isnan(target)
    return np.array([measure(score[known[:, j], j], target[known[:, j], j]) for j in range(target.shape[1])])


def mean_over_findings(values: np.ndarray, classes: Sequence[str]) -> float:
    """Mean of the defined values over findings, `Normal` left out; NaN when there is none. (K,) -> ()"""
    chosen = values[is_finding(classes) & ~np.isnan(values)]
    return float(chosen.mean()) if len(chosen) else float("nan")


def validation_aurocs(
    score: np.ndarray, target: np.ndarray, classes: Sequence[str], datasets: np.ndarray | None = None
) -> dict[str, float]:
    """Means over findings. (N, K), (N, K), (N,) data set of each image -> {"val_auroc"} and, with `datasets`, {"val_auroc_NAME"} of each.

    val_auroc is then their mean, each set counting once. Over all images together it would compare the positives of one set with the negatives of another: a
    model that tells the sets apart, which differ in prevalence, would rise without knowing a finding.
    """

    def of(rows: np.ndarray | slice) -> float:
        return mean_over_findings(per_class(auroc, score[rows], target[rows]), classes)

    if datasets is None:
        return {"val_auroc": of(slice(None))}
    each = {name: of(datasets == name) for name in sorted(set(datasets))}
    defined = [value for value in each.values() if not math.isnan(value)]
    mean = math.fsum(defined) / len(defined) if defined else math.nan
    return {"val_auroc": mean} | {f"val_auroc_{name}": value for name, value in each.items()}


def can_be_scored(target: np.ndarray, classes: Sequence[str], datasets: np.ndarray | None = None) -> bool:
    """Whether val_auroc is a number, whatever the scores. (N, K) with NaN unknown, (N,) data set of each image."""
    if not len(target):
        return False
    scores = np.zeros(target.shape)
    return not math.isnan(validation_aurocs(scores, target, classes, datasets)["val_auroc"])


# Intervals


def resamples(patients: np.ndarray, count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Patients drawn with replacement, all their images with them (cluster bootstrap, Field & Welsh 2007).

    (N,) -> blocks (N, at most CHUNK) of int32 weights, `count` columns in all; the same for every score, so that
    differences are paired.
    """
    _, patient = np.unique(patients, return_inverse=True)
    people = int(patient.max()) + 1
    rng = np.random.default_rng(seed)
    for first in range(0, count, CHUNK):
        columns = [
            np.bincount(rng.integers(0, people, people), minlength=people) for _ in range(min(CHUNK, count - first))
        ]
        yield np.stack(columns, axis=1).astype(np.int32)[patient]


def by_weight(score: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Sort once, weigh often. (N,), (N,) of 0/1 -> f(weights (N, R)) = (AUROC (R,), average precision (R,)).

    Only ties that hold a positive matter for either; what lies before and in each of them is a cumulative weight.
    """
    order = np.argsort(-score, kind="stable")
    tie = (
        np.cumsum(np.diff(score[order], prepend=score[order[:1]]) != 0) if len(order) else np.zeros(0, dtype=int)
    )  # highest scores first
    positive = np.flatnonzero(target[order] == 1)  # places of the positives
    groups, first = np.unique(tie[positive], return_index=True)
    begin, end = np.searchsorted(tie, groups), np.searchsorted(tie, groups, side="right")

    def measure(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nothing = np.full(weights.shape[1], np.nan)
        if not len(positive):
            return nothing, nothing
        w = weights[order]
        p = np.add.reduceat(w[positive], first, axis=0).astype(np.float64)  # (T, R) positives of each tie
        hits = np.cumsum(p, axis=0)
        np.cumsum(w, axis=0, out=w)
        total, seen = w[-1].astype(np.float64), w[end - 1].astype(np.float64)
        before = np.where(begin[:, None] > 0, w[begin - 1], 0) - (hits - p)  # negatives above the tie
        false = seen - hits
        positives, negatives = hits[-1], total - hits[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            area = (p * (negatives - (before + false) / 2)).sum(axis=0) / (positives * negatives)
            precision = (p * hits / np.maximum(seen, 1)).sum(axis=0) / positives
        area[(positives == 0) | (negatives == 0)] = np.nan
        precision[np.isnan(area)] = np.nan
        return area, precision

    return measure


def ranking(score: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """(N, K), (N, K) -> f(weights (N, R)) = (R, K, 2): AUROC and average precision of each class in each resample."""
    known = ~np.isnan(target)
    measures = [by_weight(score[known[:, j], j], target[known[:, j], j]) for j in range(target.shape[1])]
    whole = known.all(axis=0)

    def measure(weights: np.ndarray) -> np.ndarray:
        return np.stack(
            [np.stack(f(weights if whole[j] else weights[known[:, j]]), axis=-1) for j, f in enumerate(measures)],
            axis=1,
        )

    return measure


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the defined resamples. (R,) -> (low, high)"""
    defined = drawn[~np.isnan(drawn)]
    low, high = np.quantile(defined, (0.025, 0.975)) if len(defined) else (math.nan, math.nan)
    return float(low), float(high)


def difference_p(drawn: np.ndarray) -> float:
    """Two-sided p of a paired difference from its resamples, never below 2 / (R + 1). (R,) -> ()"""
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return math.nan
    tail = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (len(defined) + 1)))


def delong(scores: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs of M predictors of the same images and their covariance (DeLong et al. 1988), by ranks (Sun & Xu 2014).

    (M, N), (N,) of 0/1 -> (M,), (M, M). It takes images to be independent: with several images a patient it is too narrow.
    """
    positive = target == 1
    p, n = int(positive.sum()), int((~positive).sum())
    m = len(scores)
    if p < 2 or n < 2:
        return np.array([auroc(s, target) for s in scores]), np.full((m, m), np.nan)
    every = np.stack([rankdata(s) for s in scores])
    over = (
        every[:, positive] - np.stack([rankdata(s[positive]) for s in scores])
    ) / n  # (M, p): share of negatives below each positive
    under = (
        1 - (every[:, ~positive] - np.stack([rankdata(s[~positive]) for s in scores])) / p
    )  # (M, n): share of positives above each negative
    return over.mean(axis=1), np.atleast_2d(np.cov(over)) / p + np.atleast_2d(np.cov(under)) / n


def delong_interval(score: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """95 % interval of an AUROC, cut at 0 and 1. (N,), (N,) -> (low, high)"""
    area, covariance = delong(score[None], target)
    half = 1.959963984540054 * math.sqrt(covariance[0, 0]) if covariance[0, 0] >= 0 else math.nan
    return (
        (math.nan, math.nan) if math.isnan(half) else (max(0.0, float(area[0]) - half), min(1.0, float(area[0]) + half))
    )


def delong_p(a: np.ndarray, b: np.ndarray, target: np.ndarray) -> float:
    """Two-sided p of the difference of two AUROCs on the same images. (N,), (N,), (N,) -> ()"""
    areas, covariance = delong(np.stack([a, b]), target)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if (
        not variance > 1e-18
    ):  # the same ranks: nothing to tell apart; otherwise too few images, or scores without any spread
        return 1.0 if areas[0] == areas[1] and not math.isnan(variance) else math.nan
    return math.erfc(abs(areas[0] - areas[1]) / math.sqrt(2 * variance))


# Decisions


def best_threshold(score: np.ndarray, target: np.ndarray, rule: str = "f1") -> float:
    """The score from which on an image counts as positive, so that F1 or Youden's J is largest. (N,), (N,) of 0/1 -> in [0, 1]

    Candidates are the scores themselves; of equally good ones the highest is taken. NaN without both classes.
    """
    p, n = float((target == 1).sum()), float((target == 0).sum())
    if not p or not n:
        return math.nan
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits = np.cumsum(target[order] == 1)[last]
    false = last + 1 - hits
    value = 2 * hits / (hits + false + p) if rule == "f1" else hits / p - false / n
    return float(score[order[last[int(np.argmax(value))]]])


DECISIONS = ("f1", "precision", "recall", "specificity", "youden")


VALIDATION_DECISIONS = tuple(
    f"val_{name}_{mean}" for name in ("f1", "precision", "recall") for mean in ("micro", "macro")
) + ("val_hamming",)


def validation_decisions(called: np.ndarray, target: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """VALIDATION_DECISIONS of the findings. (N, K) bool, (N, K) with NaN = unknown -> {name: value}, NaN where undefined

    micro: all images and findings in one count; macro: the mean over findings where it is defined; hamming: the share of right answers.
    """
    findings = is_finding(classes)
    called, target = called[:, findings], target[:, findings]
    tp, fp, fn, tn = ((called == c) & (target == y) for c, y in ((True, 1), (True, 0), (False, 1), (False, 0)))
    each, all_ = (
        decision_scores(*(np.asarray(count.sum(axis=axis), dtype=float) for count in (tp, fp, fn, tn)))
        for axis in (0, None)
    )
    means = {
        "micro": {name: float(value) for name, value in all_.items()},
        "macro": {name: mean_defined(value) for name, value in each.items()},
    }
    right = {"val_hamming": float((tp | tn).sum() / known) if (known := (~np.isnan(target)).sum()) else math.nan}
    return {
        f"val_{name}_{mean}": means[mean][name] for name in ("f1", "precision", "recall") for mean in ("micro", "macro")
    } | right


def mean_defined(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def decision_scores(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> dict[str, np.ndarray]:
    """Counts of any shape -> DECISIONS of that shape; NaN where the denominator is 0 (no positive, nothing called)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, specificity = tp / (tp + fn), tn / (tn + fp)
        f1 = np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan)
        return {
            "f1": f1,
            "precision": np.where(tp + fn > 0, tp / (tp + fp), np.nan),
            "recall": recall,
            "specificity": specificity,
            "youden": recall + specificity - 1,
        }
