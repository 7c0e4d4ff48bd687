"""From predictions and targets to blocks of metrics.json: tables, subgroups, calibration, comparison of two models.

Scores are statistics of bootstrap weights (roi/scoring/bootstrap.py). They are named first (main_scores),
estimated together, so that all see the same resamples, and put into blocks last.

Letters: N images, K classes, R resamples.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from roi.labels import is_finding
from roi.scoring import metrics
from roi.scoring.bootstrap import (
    UNDEFINED,
    BootstrapEstimate,
    Scratch,
    WeightedStatistic,
    none_if_nan,
    weighted_mean,
)
from roi.text import decimal

AGES = {  # band -> from, to below, in years
    "0-17": (0, 18),
    "18-39": (18, 40),
    "40-59": (40, 60),
    "60-79": (60, 80),
    "80+": (80, 200),
}
# What of metrics.json stands in every row of per_class.csv.
FACTS = ("n_images", "n_patients", "split", "contaminated", "label_source")
# Scores of all findings counted together.
POOLED = ("f1", "precision", "recall", "specificity")
CURVE_POINTS = 101
# Begins the names of ranking scores.
RANKING = "ranking_"
FIRST_GROUP = 2  # column of a ranking, after AUROC and average precision
Groups = dict[str, dict[str, np.ndarray]]  # attribute -> group -> (N,) bool


def scored(target: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """The findings that means are taken over, those with both classes among the images. (N, K) -> (K,) bool"""
    has_positive = (target == 1).any(axis=0)
    has_negative = (target == 0).any(axis=0)
    return is_finding(classes) & has_positive & has_negative


# ---- scores ---------------------------------------------------------------------------------------------------------


def main_scores(
    prob: dict[str, np.ndarray], target: np.ndarray, threshold: np.ndarray | None, groups: Groups
) -> dict[str, WeightedStatistic]:
    """What `tables` and `subgroups` read: ranking of each part, squared error, and counts at thresholds.

    The ranking of the full view has the AUROC in each of the `groups` beside it.
    """
    rows = [rows for parts in groups.values() for rows in parts.values()]
    scores: dict[str, WeightedStatistic] = {}
    for part, values in prob.items():
        scores[f"{RANKING}{part}"] = metrics.ranking(values, target, groups=rows if part == "full" else ())
    full = prob["full"]
    error = (full - np.nan_to_num(target)) ** 2
    scores["brier"] = weighted_mean(error, ~np.isnan(target))
    if threshold is not None:
        called = full >= threshold
        scores["counts"] = confusion(called, target, ~np.isnan(threshold))
    return scores


def confusion(called: np.ndarray, target: np.ndarray, usable: np.ndarray) -> WeightedStatistic:
    """Weighted counts of TP, FP, FN, TN; NaN where not usable. (N, K), (N, K), (K,) bool -> f(weights) = (R, K, 4)"""
    present, absent = target == 1, target == 0
    cells = [called & present, called & absent, ~called & present, ~called & absent]
    images, classes = called.shape
    # One product of matrices counts all four for all classes.
    flat = np.stack(cells, axis=-1).reshape(images, 4 * classes)
    flat = flat.astype(np.float32)
    usable = usable[None, :, None]
    scratch = Scratch()

    def statistic(weights: np.ndarray) -> np.ndarray:
        resamples = weights.shape[1]
        counts = scratch.copy(weights, np.float32).T @ flat
        counts = counts.reshape(resamples, classes, 4)
        return np.where(usable, counts.astype(np.float64), np.nan)

    return statistic


def decisions(counts: np.ndarray) -> dict[str, np.ndarray]:
    """(..., 4) -> DECISIONS and accuracy, each (...)"""
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = (tp + tn) / (tp + fp + fn + tn)
    return {**metrics.decision_scores(tp, fp, fn, tn), "accuracy": accuracy}


def decision(name: str, counts: np.ndarray) -> np.ndarray:
    """One of `decisions`."""
    return decisions(counts)[name]


def sum_over(findings: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(K,) bool, (R, K, 4) -> (R, 4)"""
    return counts[:, findings].sum(axis=1)


# ---- tables ---------------------------------------------------------------------------------------------------------


def tables(
    estimates: dict[str, BootstrapEstimate],
    prob: np.ndarray,
    target: np.ndarray,
    classes: Sequence[str],
    threshold: np.ndarray | None,
) -> dict[str, Any]:
    """The blocks mean, per_class, and with thresholds micro and hamming; all means are over the same findings.

    Args:
        estimates: of main_scores.
        prob: (N, K).
        target: (N, K).
        classes: their names.
        threshold: (K,) from which on a class is called present.
    """
    findings = scored(target, classes)
    columns = score_columns(estimates, threshold is not None)
    blocks: dict[str, Any] = {"mean": {}, "per_class": {}}
    for name, score in columns.items():
        blocks["mean"][name] = score.mean_over(findings).with_interval()
    for j, c in enumerate(classes):
        values: dict[str, Any] = {}
        for name, score in columns.items():
            values[name] = score.column(j).with_interval()
        limit = None if threshold is None else float(threshold[j])
        values |= facts(prob[:, j], target[:, j], limit)
        blocks["per_class"][c] = values
    if threshold is not None:
        usable = findings & ~np.isnan(threshold)
        counts = estimates["counts"].map(partial(sum_over, usable))
        blocks["micro"] = {}
        for name in POOLED:
            pooled = counts.map(partial(decision, name))
            blocks["micro"][name] = pooled.with_interval()
        right = counts.map(partial(decision, "accuracy"))
        blocks["hamming"] = right.with_interval()
    return blocks


def score_columns(estimates: dict[str, BootstrapEstimate], with_decisions: bool) -> dict[str, BootstrapEstimate]:
    """Score -> its estimate of each class (K,)."""
    columns: dict[str, BootstrapEstimate] = {}
    for name, estimate in estimates.items():
        if not name.startswith(RANKING):
            continue
        part = name.removeprefix(RANKING)
        suffix = "" if part == "full" else f"_{part}"
        columns[f"auroc{suffix}"] = estimate.column(0)
        columns[f"ap{suffix}"] = estimate.column(1)
    columns["brier"] = estimates["brier"]
    if with_decisions:
        for name in metrics.DECISIONS:
            columns[name] = estimates["counts"].map(partial(decision, name))
    return columns


def facts(prob: np.ndarray, target: np.ndarray, threshold: float | None) -> dict[str, Any]:
    """What one class has beside scores: counts, the DeLong interval, curves. (N,), (N,)"""
    known = ~np.isnan(target)
    p, y = prob[known], target[known]
    low, high = metrics.delong_interval(p, y)
    area = metrics.auroc(p, y)
    delong = {
        "value": none_if_nan(area),
        "low": none_if_nan(low),
        "high": none_if_nan(high),
    }
    return {
        "auroc_delong": delong,
        "positives": int((y == 1).sum()),
        "known": int(known.sum()),
        "threshold": None if threshold is None else none_if_nan(threshold),
        **curves(p, y),
    }


def curves(prob: np.ndarray, target: np.ndarray) -> dict[str, list[list[float]]]:
    """ROC and precision-recall curve in at most CURVE_POINTS points.

    (N,), (N,) of 0/1 -> {"roc": [fpr, tpr], "pr": [recall, precision]}; empty if undefined
    """
    positives = int((target == 1).sum())
    negatives = int((target == 0).sum())
    if not positives or not negatives:
        return {"roc": [[], []], "pr": [[], []]}
    _, called, hits = metrics.counts_by_threshold(prob, target)
    recall = hits / positives
    precision = hits / called
    false_rate = (called - hits) / negatives
    tpr = np.append(0, recall)
    fpr = np.append(0, false_rate)
    # Even steps in both directions: the corner at the left holds most of what one looks for in a ROC curve.
    steps = np.linspace(0, 1, CURVE_POINTS // 2)
    across = np.searchsorted(fpr, steps)
    up = np.searchsorted(tpr, steps)
    corners = np.concatenate([across, up])
    roc = np.unique(corners.clip(max=len(fpr) - 1))
    points = min(CURVE_POINTS, len(recall))
    pr = np.linspace(0, len(recall) - 1, points)
    pr = pr.round().astype(int)
    return {
        "roc": [_points(fpr, roc), _points(tpr, roc)],
        "pr": [_points(recall, pr), _points(precision, pr)],
    }


def _points(values: np.ndarray, chosen: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values[chosen]]


def per_class_table(result: dict[str, Any]) -> pd.DataFrame:
    """One row a class and one of the mean; where the numbers come from stands in every row."""
    rows = []
    facts = {name: result[name] for name in FACTS}
    for c, values in {"mean": result["mean"], **result["per_class"]}.items():
        row: dict[str, Any] = {"class": c}
        row["positives"] = values.get("positives")
        row["known"] = values.get("known")
        for name in result["mean"]:
            score = values[name]
            row[name] = score["value"]
            row[f"{name}_low"] = score["low"]
            row[f"{name}_high"] = score["high"]
        row["threshold"] = values.get("threshold")
        rows.append(row | facts)
    return pd.DataFrame(rows).astype({"positives": "Int64", "known": "Int64"})


def six_digits(value: Any) -> str:
    return decimal(value, 6)


# ---- subgroups ------------------------------------------------------------------------------------------------------


def groups_of(rows: pd.DataFrame) -> Groups:
    """Data set, view, sex and age band, where there are at least two groups of them: attribute -> group -> (N,) bool"""
    attributes: Groups = {}
    for name in ("dataset", "view", "sex"):
        values = sorted(set(rows[name]) - {""})
        attributes[name] = {value: (rows[name] == value).to_numpy() for value in values}
    age = pd.to_numeric(rows["age"], errors="coerce").to_numpy()
    # Bands that hold nobody are no groups.
    attributes["age"] = {}
    for band, (low, high) in AGES.items():
        inside = (age >= low) & (age < high)
        if inside.any():
            attributes["age"][band] = inside
    return {name: groups for name, groups in attributes.items() if len(groups) > 1}


def subgroups(
    estimates: dict[str, BootstrapEstimate],
    groups: Groups,
    patients: np.ndarray,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Mean AUROC of each group over the findings that all groups of the attribute have in both classes, and the gap.

    A group with less than half as many such findings as another is too small: undefined, and not in the gap.
    auroc_own is the mean over all findings that the group itself has in both classes: data sets differ in what they
    looked for.

    Args:
        estimates: of main_scores with these groups.
        groups: of groups_of.
        patients: (N,).
        classes: their names.
    """
    blocks: dict[str, Any] = {}
    findings = is_finding(classes)
    columns = itertools.count(FIRST_GROUP)
    for attribute, parts in groups.items():
        areas, defined = {}, {}
        for group in parts:
            areas[group] = estimates[f"{RANKING}full"].column(next(columns))
            defined[group] = findings & ~np.isnan(areas[group].value)
        large = large_groups(defined)
        common = findings if large else np.zeros(len(classes), dtype=bool)
        for group in large:
            common = common & defined[group]
        means = {group: areas[group].mean_where(common) for group in large}
        block: dict[str, Any] = {"findings": named(classes, common), "groups": {}}
        for group, rows in parts.items():
            block["groups"][group] = {
                "n_images": int(rows.sum()),
                "n_patients": len(set(patients[rows])),
                "auroc": means[group].with_interval() if group in means else UNDEFINED,
                "auroc_own": areas[group].mean_over(findings).with_interval(),
                "findings_own": named(classes, defined[group]),
            }
        gap = gap_between(means)
        if gap:
            block["gap"] = gap
        blocks[attribute] = block
    return blocks


def large_groups(defined: dict[str, np.ndarray]) -> list[str]:
    """The groups with at least half as many findings (K,) bool as the one that has the most."""
    counts = {group: int(held.sum()) for group, held in defined.items()}
    most = max(counts.values())
    large = []
    for group, count in counts.items():
        if count and 2 * count >= most:
            large.append(group)
    return large


def gap_between(means: dict[str, BootstrapEstimate]) -> dict[str, Any] | None:
    """The best group, the worst, and their difference; None with fewer than two."""
    values = {}
    for group, mean in means.items():
        if not np.isnan(mean.value):
            values[group] = float(mean.value)
    if len(values) < 2:
        return None
    ranked = sorted(values, key=values.__getitem__)
    worst, best = ranked[0], ranked[-1]
    gap = means[best].minus(means[worst])
    return {"best": best, "worst": worst, **gap.with_interval()}


def named(classes: Sequence[str], chosen: np.ndarray) -> list[str]:
    return [c for c, is_chosen in zip(classes, chosen, strict=True) if is_chosen]


# ---- two models -----------------------------------------------------------------------------------------------------


def comparison(
    a: BootstrapEstimate,
    b: BootstrapEstimate,
    prob_a: np.ndarray,
    prob_b: np.ndarray,
    target: np.ndarray,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Paired difference a - b of the AUROC, with p from the resamples and, per finding, from DeLong.

    Args:
        a, b: of metrics.ranking.
        prob_a, prob_b: (N, K).
        target: (N, K).
        classes: their names.
    """
    difference = a.column(0).minus(b.column(0))  # (K,)
    both = is_finding(classes) & ~np.isnan(difference.value)
    of_class: dict[str, Any] = {}
    for j, c in enumerate(classes):
        known = ~np.isnan(target[:, j])
        of_a, of_b = prob_a[known, j], prob_b[known, j]
        p_delong = metrics.delong_p(of_a, of_b, target[known, j])
        score = difference.column(j).with_p()
        of_class[c] = {"auroc": {**score, "p_delong": none_if_nan(p_delong)}}
    # Findings that both can be scored on, so that the mean is a mean of differences.
    mean = difference.mean_where(both)
    return {"mean": {"auroc": mean.with_p()}, "per_class": of_class}
