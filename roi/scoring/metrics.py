"""Scores from saved predictions.

Unknown targets are NaN and left out, finding by finding; what is undefined is NaN, never 0.5.

Letters: N images, K classes, M predictors, R resamples. Scores are (N, K), targets (N, K)
of 1, 0, NaN; weights (N, R): how often a resample drew each image (roi/scoring/bootstrap.py).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from roi.labels import is_finding
from roi.scoring.bootstrap import WeightedStatistic
from roi.scoring.ranking.blocks import blocks_of
from roi.scoring.ranking.resampled import rank

Measure = Callable[[np.ndarray, np.ndarray], float]
# Quantile of the standard normal distribution.
NORMAL_97_5 = 1.959963984540054
DECISIONS = ("f1", "precision", "recall", "specificity", "youden")
AVERAGED_DECISIONS = ("f1", "precision", "recall")
VALIDATION_DECISIONS = (
    "val_f1_micro",
    "val_f1_macro",
    "val_precision_micro",
    "val_precision_macro",
    "val_recall_micro",
    "val_recall_macro",
    "val_hamming",
)


# ---- ranking --------------------------------------------------------------------------------------------------------


def auroc(score: np.ndarray, target: np.ndarray) -> float:
    """Area under the ROC curve by ranks, ties counted half (Mann & Whitney 1947). (N,), (N,) of 0/1 -> in [0, 1]"""
    positive = target == 1
    images = len(target)
    positives = int(positive.sum())
    if positives in (0, images):
        return math.nan
    ranks = mid_ranks(score)[positive].sum()
    least = positives * (positives + 1) / 2  # sum of ranks if every positive lay below every negative
    pairs = positives * (images - positives)
    return float((ranks - least) / pairs)


def mid_ranks(score: np.ndarray) -> np.ndarray:
    """Ranks from 1 on, those of a tie their mean; NaN where a score is NaN, which has no rank. (N,) -> (N,)"""
    if np.isnan(score).any():
        return np.full(len(score), np.nan)
    order = np.argsort(score)
    changes = np.flatnonzero(np.diff(score[order])) + 1
    start = np.concatenate([[0], changes, [len(score)]])  # of each tie, and the end
    rank = (start[:-1] + start[1:] + 1) / 2
    ranks = np.empty(len(score))
    ranks[order] = np.repeat(rank, np.diff(start))
    return ranks


def average_precision(score: np.ndarray, target: np.ndarray) -> float:
    """Sum of precision times the step in recall, over distinct thresholds. (N,), (N,) of 0/1 -> in [0, 1]"""
    positives = int((target == 1).sum())
    if positives in (0, len(target)):
        return math.nan
    _, called, hits = counts_by_threshold(score, target)
    steps = np.diff(hits, prepend=0) / positives
    return float(np.sum(steps * hits / called))


class ThresholdCounts(NamedTuple):
    """At each distinct score, highest first."""

    threshold: np.ndarray
    called: np.ndarray  # how many images reach it
    hits: np.ndarray  # how many of these are positive


def counts_by_threshold(score: np.ndarray, target: np.ndarray) -> ThresholdCounts:
    """What each threshold would call. (N,) with at least one image, (N,) of 0/1"""
    order = np.argsort(-score)
    changes = np.flatnonzero(np.diff(score[order]))
    last = np.append(changes, len(score) - 1)  # the last image of each tie
    hits = np.cumsum(target[order] == 1)
    return ThresholdCounts(score[order[last]], last + 1, hits[last])


def per_class(measure: Measure, score: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Each class on the images where it is known. (N, K), (N, K) -> (K,)"""
    return np.array([measure(s, t) for s, t in known_columns(score, target)])


def known_columns(score: np.ndarray, target: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores and targets of each class where its target is known. (N, K), (N, K) -> K times (n,), (n,)"""
    known = ~np.isnan(target)
    for j in range(target.shape[1]):
        rows = known[:, j]
        yield score[rows, j], target[rows, j]


def mean_over_findings(values: np.ndarray, classes: Sequence[str]) -> float:
    """Mean of the defined values over findings, `Normal` left out; NaN when there is none. (K,) -> ()"""
    return mean_defined(values[is_finding(classes)])


def mean_defined(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def validation_aurocs(
    score: np.ndarray, target: np.ndarray, classes: Sequence[str], datasets: np.ndarray | None = None
) -> dict[str, float]:
    """Mean AUROC over findings, as training reports it.

    Args:
        score: (N, K).
        target: (N, K).
        classes: their names.
        datasets: (N,) data set of each image, where there are several. val_auroc is then the mean over the sets, each
            counting once. Over all images together it would compare the positives of one set with the negatives of
            another: a model that tells the sets apart, which differ in prevalence, would rise without knowing a
            finding.

    Returns:
        {"val_auroc"} and, with `datasets`, {"val_auroc_NAME"} of each.
    """
    if datasets is None:
        areas = per_class(auroc, score, target)
        return {"val_auroc": mean_over_findings(areas, classes)}
    of_sets = {}
    for name in sorted(set(datasets)):
        rows = datasets == name
        areas = per_class(auroc, score[rows], target[rows])
        of_sets[f"val_auroc_{name}"] = mean_over_findings(areas, classes)
    defined = [value for value in of_sets.values() if not math.isnan(value)]
    mean = math.nan
    if defined:
        mean = math.fsum(defined) / len(defined)
    return {"val_auroc": mean, **of_sets}


def can_be_scored(target: np.ndarray, classes: Sequence[str], datasets: np.ndarray | None = None) -> bool:
    """Whether val_auroc is a number, whatever the scores. (N, K), (N,) data set of each image"""
    if not len(target):
        return False
    scores = np.zeros(target.shape)
    aurocs = validation_aurocs(scores, target, classes, datasets)
    return not math.isnan(aurocs["val_auroc"])


# ---- ranking in many resamples --------------------------------------------------------------------------------------


def ranking(
    score: np.ndarray, target: np.ndarray, rows: np.ndarray | None = None, groups: Sequence[np.ndarray] = ()
) -> WeightedStatistic:
    """AUROC and average precision of each class in each resample, then the AUROC in each group.

    (N, K), (N, K) -> f(weights (N, R)) = (R, K, 2 + groups)

    Args:
        rows: (N,) bool, the images that are ranked (default: all).
        groups: (N,) bool each. They share the sort and the look-up of weights, most of the time that each would take.
    """
    known = ~np.isnan(target)
    if rows is not None:
        known &= rows[:, None]
    blocks = []
    for j in range(target.shape[1]):
        # By their places: a copy of the weights of some images is slow.
        places = np.flatnonzero(known[:, j])
        blocks.append(blocks_of(score[places, j], target[places, j], places, groups))

    def statistic(weights: np.ndarray) -> np.ndarray:
        most = int(weights.max(initial=0))
        values = [rank(of_class, 1 + len(groups), weights, most) for of_class in blocks]
        return np.stack(values, axis=1)

    return statistic


# ---- intervals of an AUROC in closed form ---------------------------------------------------------------------------


def delong(scores: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs of M predictors of the same images and their covariance.

    It takes images to be independent: with several images a patient it is too narrow. (M, N), (N,) of 0/1 -> (M,), (M,
    M)

    DeLong et al. 1988, by ranks as in Sun & Xu 2014.
    """
    positive, negative = target == 1, target != 1
    p = int(positive.sum())
    n = int(negative.sum())
    if p < 2 or n < 2:
        areas = [auroc(score, target) for score in scores]
        undefined = np.full((len(scores), len(scores)), np.nan)
        return np.array(areas), undefined
    below, above = [], []
    for score in scores:
        ranks = mid_ranks(score)
        # Less the rank among its own kind, a rank counts those of the other kind.
        others_below = ranks[positive] - mid_ranks(score[positive])
        others_above = ranks[negative] - mid_ranks(score[negative])
        below.append(others_below / n)
        above.append(1 - others_above / p)
    negatives_below = np.stack(below)  # (M, p): share of the negatives below each positive
    positives_above = np.stack(above)  # (M, n): share of the positives above each negative
    covariance = np.atleast_2d(np.cov(negatives_below)) / p
    covariance = covariance + np.atleast_2d(np.cov(positives_above)) / n
    return negatives_below.mean(axis=1), covariance


def delong_interval(score: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """95 % interval of an AUROC, cut at 0 and 1. (N,), (N,) -> (low, high)"""
    areas, covariance = delong(score[None], target)
    variance = covariance[0, 0]
    if not variance >= 0:
        return math.nan, math.nan
    area = float(areas[0])
    half = NORMAL_97_5 * math.sqrt(variance)
    return max(0.0, area - half), min(1.0, area + half)


def delong_p(a: np.ndarray, b: np.ndarray, target: np.ndarray) -> float:
    """Two-sided p of the difference of two AUROCs on the same images. (N,), (N,), (N,) -> ()"""
    areas, covariance = delong(np.stack([a, b]), target)
    of_a, of_b = np.diag(covariance)
    variance = of_a + of_b - 2 * covariance[0, 1]
    if variance > 1e-18:
        difference = abs(areas[0] - areas[1])
        return math.erfc(difference / math.sqrt(2 * variance))
    # The same ranks: nothing to tell apart.
    if areas[0] == areas[1] and not math.isnan(variance):
        return 1.0
    # Too few images, or scores without any spread.
    return math.nan


# ---- decisions ------------------------------------------------------------------------------------------------------


def best_threshold(score: np.ndarray, target: np.ndarray, rule: str = "f1") -> float:
    """The score from which on an image counts as positive, so that F1 or Youden's J is largest.

    Candidates are the scores themselves; of equally good ones the highest is taken. NaN without both classes.
    (N,), (N,) of 0/1 -> in [0, 1]
    """
    positives = float((target == 1).sum())
    negatives = float((target == 0).sum())
    if not positives or not negatives:
        return math.nan
    threshold, called, hits = counts_by_threshold(score, target)
    false = called - hits
    value = hits / positives - false / negatives
    if rule == "f1":
        value = 2 * hits / (hits + false + positives)
    return float(threshold[int(np.argmax(value))])


def decision_scores(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> dict[str, np.ndarray]:
    """Counts of any shape -> DECISIONS of that shape; NaN where the denominator is 0 (no positive, nothing called)."""
    positives, negatives = tp + fn, tn + fp
    called = tp + fp
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = tp / positives
        specificity = tn / negatives
        precision = tp / called
        f1 = 2 * tp / (2 * tp + fp + fn)
    # Without a positive neither says anything, though nothing need be divided by 0.
    return {
        "f1": np.where(positives > 0, f1, np.nan),
        "precision": np.where(positives > 0, precision, np.nan),
        "recall": recall,
        "specificity": specificity,
        "youden": recall + specificity - 1,
    }


def validation_decisions(called: np.ndarray, target: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """VALIDATION_DECISIONS of the findings, NaN where undefined.

    micro: all images and findings in one count; macro: the mean over findings where it is defined; hamming: the share
    of right answers. (N, K) bool, (N, K) -> {name: value}
    """
    findings = is_finding(classes)
    called = called[:, findings]
    target = target[:, findings]
    present, absent = target == 1, target == 0
    cells = (
        called & present,
        called & absent,
        ~called & present,
        ~called & absent,
    )  # TP, FP, FN, TN
    counts = np.stack(cells).sum(axis=1)  # (4, findings)
    counts = counts.astype(float)
    of_each = decision_scores(*counts)
    of_all = decision_scores(*counts.sum(axis=1))
    values = {}
    for name in AVERAGED_DECISIONS:
        values[f"val_{name}_micro"] = float(of_all[name])
        values[f"val_{name}_macro"] = mean_defined(of_each[name])
    known = (~np.isnan(target)).sum()
    tp, _, _, tn = cells
    right = (tp | tn).sum()
    values["val_hamming"] = float(right / known) if known else math.nan
    return values
