"""Do probabilities mean what they say? Errors of calibration, and two ways to mend it, fitted on other images.

Letters: N images, K classes. Probabilities are (N,) in [0, 1], targets (N,) of 0/1 (unknown ones already left out).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

from roi.scoring.bootstrap import none_if_nan
from roi.scoring.metrics import known_columns

# (N, K) probabilities and targets of images that are not scored.
Fit = tuple[np.ndarray, np.ndarray]
BINS = 15
# A probability of 0 or 1 has no finite logit: this near it may come.
NEAREST = 1e-7
TEMPERATURES = (0.05, 20.0)


# ---- errors ---------------------------------------------------------------------------------------------------------


def brier(prob: np.ndarray, target: np.ndarray) -> float:
    """Mean squared error of the probability (Brier 1950). -> in [0, 1]"""
    if not len(prob):
        return math.nan
    error = prob - target
    return float(np.mean(error**2))


def reliability(prob: np.ndarray, target: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Mean probability, observed rate and count in bins of equal width. -> (bins in use, 3)"""
    place = (prob * bins).astype(int)
    # A probability of 1 belongs to the last bin.
    place = np.minimum(place, bins - 1)
    count = np.bincount(place, minlength=bins).astype(float)
    used = count > 0
    size = count[used]
    mean = np.bincount(place, prob, bins)[used] / size
    rate = np.bincount(place, target, bins)[used] / size
    return np.stack([mean, rate, size], axis=1)


def ece(prob: np.ndarray, target: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: the mean distance of probability and rate over the bins. -> in [0, 1]

    Guo et al. 2017, eq. 3.
    """
    if not len(prob):
        return math.nan
    mean, rate, count = reliability(prob, target, bins).T
    distance = np.abs(mean - rate)
    return float(np.sum(distance * count) / len(prob))


def log_loss(margin: np.ndarray, target: np.ndarray) -> float:
    """Mean of log(1 + e^m) - t m"""
    losses = np.logaddexp(0, margin) - target * margin
    return float(np.mean(losses))


# ---- two ways to mend -----------------------------------------------------------------------------------------------


def logits(prob: np.ndarray) -> np.ndarray:
    clipped = np.clip(prob, NEAREST, 1 - NEAREST)
    return logit(clipped)


def fit_temperature(prob: np.ndarray, target: np.ndarray) -> tuple[float]:
    """T of sigmoid(logit / T) with the least log-loss, within TEMPERATURES. NaN without both classes.

    Guo et al. 2017, section 4.2.
    """
    if not 0 < target.sum() < len(target):
        return (math.nan,)
    z = logits(prob)

    # In the logarithm the search is as fine below 1 as above.
    def loss(log_t: float) -> float:
        inverse = np.exp(-log_t)
        return log_loss(z * inverse, target)

    low, high = TEMPERATURES
    bounds = (np.log(low), np.log(high))
    best = minimize_scalar(loss, bounds=bounds, method="bounded")
    return (float(np.exp(best.x)),)


def fit_platt(prob: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, float]:
    """a, b of sigmoid(a logit + b) with the least log-loss. NaN without both classes.

    Args:
        prob: (N,).
        target: (N,).
        weight: (N,) what each image counts; 1 where it is not given.

    The smoothed targets of Platt 1999 keep the parameters finite where there are few positives.
    """
    w = np.ones(len(target)) if weight is None else weight
    positives = float(w @ (target == 1))
    negatives = float(w @ (target != 1))
    if not positives or not negatives:
        return math.nan, math.nan
    z = logits(prob)
    for_positive = (positives + 1) / (positives + 2)
    for_negative = 1 / (negatives + 2)
    smooth = np.where(target == 1, for_positive, for_negative)

    def loss(ab: np.ndarray) -> tuple[float, np.ndarray]:
        margin = ab[0] * z + ab[1]
        error = expit(margin) - smooth
        losses = np.logaddexp(0, margin) - smooth * margin
        by_a = np.average(error * z, weights=w)
        by_b = np.average(error, weights=w)
        value = np.average(losses, weights=w)
        return float(value), np.array([by_a, by_b])

    # It starts from the probabilities as they are.
    start = np.array([1.0, 0.0])
    a, b = minimize(loss, start, jac=True, method="BFGS").x
    return float(a), float(b)


FITS: dict[str, Callable[..., tuple[float, ...]]] = {
    "temperature": fit_temperature,
    "platt": fit_platt,
}


def apply(method: str, parameters: tuple[float, ...], prob: np.ndarray) -> np.ndarray:
    """Probabilities after `temperature` or `platt`; NaN where nothing could be fitted."""
    if method == "temperature":
        return expit(logits(prob) / parameters[0])
    slope, offset = parameters
    return expit(slope * logits(prob) + offset)


# ---- the block of metrics.json --------------------------------------------------------------------------------------


def calibrations(
    prob: np.ndarray,
    target: np.ndarray,
    classes: Sequence[str],
    findings: np.ndarray,
    fit: Fit | None,
) -> dict[str, Any]:
    """ECE, Brier and reliability as they are and, with `fit`, after temperature and Platt scaling.

    Args:
        prob, target: (N, K), (N, K) with NaN = unknown.
        classes: their names.
        findings: (K,) bool, those of the means; of them the ones for which every method is defined.
        fit: images on which the scaling is fitted.

    Returns:
        the methods of the block `calibration`.
    """
    scaled: dict[str, np.ndarray] = {"raw": prob}
    fitted: dict[str, dict[str, list[float | None]]] = {"raw": {}}
    if fit is not None:
        for method in FITS:
            parameters = fit_classes(method, fit)
            columns = []
            fitted[method] = {}
            for j, c in enumerate(classes):
                scaled_one = apply(method, parameters[j], prob[:, j])
                columns.append(scaled_one)
                fitted[method][c] = [none_if_nan(value) for value in parameters[j]]
            scaled[method] = np.stack(columns, axis=1)
    for values in scaled.values():
        findings = findings & ~np.isnan(values).any(axis=0)
    methods: dict[str, Any] = {}
    for method, values in scaled.items():
        errors = calibration_errors(values, target, classes, findings)
        methods[method] = {**errors, "parameters": fitted[method]}
    return methods


def fit_classes(method: str, fit: Fit) -> list[tuple[float, ...]]:
    """The parameters of each class, from the images where it is known."""
    fit_one = FITS[method]
    return [fit_one(prob, target) for prob, target in known_columns(*fit)]


def calibration_errors(
    prob: np.ndarray,
    target: np.ndarray,
    classes: Sequence[str],
    findings: np.ndarray,
) -> dict[str, Any]:
    """Mean, per_class and reliability of one method; (K,) `findings` are those of the mean."""
    known = ~np.isnan(target) & ~np.isnan(prob)
    # A class that could not be fitted has no probability, and no error.
    columns = list(known_columns(prob, np.where(known, target, np.nan)))
    measures = (("ece", ece), ("brier", brier))
    mean: dict[str, float | None] = {}
    of_class: dict[str, dict[str, float | None]] = {c: {} for c in classes}
    for name, measure in measures:
        errors = np.array([measure(p, y) for p, y in columns])
        for c, error in zip(classes, errors, strict=True):
            of_class[c][name] = none_if_nan(error)
        mean[name] = None
        if findings.any():
            mean[name] = none_if_nan(errors[findings].mean())
    pooled = known & findings
    bins = []
    if pooled.any():
        table = reliability(prob[pooled], target[pooled])
        bins = table.round(6).tolist()
    return {"mean": mean, "per_class": of_class, "reliability": bins}
