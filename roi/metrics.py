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


def by_weight(score: np.ndarray, target: np.ndarray) -> Callable[[np.ndarray], tuple[float, float]]:
    """Sort once, weigh often: -> f(weights (N,)) = (AUROC, average precision), image i counted weights[i] times."""
    order = np.argsort(-score, kind="stable")
    start = np.flatnonzero(np.diff(score[order], prepend=np.inf))  # the first image of each tie, highest scores first
    positive = (target[order] == 1).astype(float)

    def measure(weights: np.ndarray) -> tuple[float, float]:
        w = weights[order]
        p, n = np.add.reduceat(w * positive, start), np.add.reduceat(w * (1 - positive), start)  # by tie
        hits, false = np.cumsum(p), np.cumsum(n)
        if not hits[-1] or not false[-1]:
            return float("nan"), float("nan")
        area = float(np.sum(p * (false[-1] - false + n / 2)) / (hits[-1] * false[-1]))
        return area, float(np.sum(p / hits[-1] * hits / np.maximum(hits + false, 1e-300)))

    return measure


def bootstrap(score: np.ndarray, target: np.ndarray, patients: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Patients drawn with replacement, all their images with them (cluster bootstrap, Field & Welsh 2007).

    (N, K), (N, K), (N,) -> (resamples, K, 2): AUROC and average precision of each class in each resample.
    """
    _, patient = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    known = ~np.isnan(target)
    measures = [by_weight(score[known[:, j], j], target[known[:, j], j]) if known[:, j].any() else None for j in range(target.shape[1])]
    drawn = np.full((resamples, target.shape[1], 2), np.nan)
    for r in range(resamples):
        times = np.bincount(rng.integers(0, patient.max() + 1, patient.max() + 1), minlength=patient.max() + 1)[patient].astype(float)  # (N,)
        for j, measure in enumerate(measures):
            if measure is not None:
                drawn[r, j] = measure(times[known[:, j]])
    return drawn


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the defined resamples. (R,) -> (low, high)"""
    defined = drawn[~np.isnan(drawn)]
    return tuple(float(q) for q in np.quantile(defined, (0.025, 0.975))) if len(defined) else (float("nan"), float("nan"))  # type: ignore[return-value]
