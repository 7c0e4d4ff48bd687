"""Scores from saved predictions. Unknown targets are NaN and left out, finding by finding; what is undefined is NaN, never 0.5.

Letters: N images, K classes. Scores are (N, K), targets (N, K) of 1, 0, NaN.
"""

from collections.abc import Callable, Sequence

import numpy as np

from roi.table import is_finding


def auroc(score: np.ndarray, target: np.ndarray) -> float:
    """Area under the ROC curve by ranks, ties counted half (Mann & Whitney 1947). (N,), (N,) of 0/1 -> in [0, 1]"""
    positive = target == 1
    n, p = len(target), int(positive.sum())
    if p == 0 or p == n:
        return float("nan")
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]  # mean rank of a tie, from 1
    return float((rank[positive].sum() - p * (p + 1) / 2) / (p * (n - p)))


def average_precision(score: np.ndarray, target: np.ndarray) -> float:
    """Sum of precision times the step in recall, over distinct thresholds. (N,), (N,) of 0/1 -> in [0, 1]"""
    p = int((target == 1).sum())
    if p == 0:
        return float("nan")
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # the last image of each tie
    hits = np.cumsum(target[order] == 1)[last]
    return float(np.sum(np.diff(hits, prepend=0) / p * hits / (last + 1)))


def per_class(measure: Callable[[np.ndarray, np.ndarray], float], score: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N, K), (N, K) with NaN = unknown -> (K,), each class on the images where it is known."""
    known = ~np.isnan(target)
    return np.array([measure(score[known[:, j], j], target[known[:, j], j]) for j in range(target.shape[1])])


def mean_over_findings(values: np.ndarray, classes: Sequence[str]) -> float:
    """Mean of the defined values over findings, `Normal` left out; NaN when there is none. (K,) -> ()"""
    chosen = values[is_finding(classes) & ~np.isnan(values)]
    return float(chosen.mean()) if len(chosen) else float("nan")
