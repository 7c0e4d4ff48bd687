"""Do probabilities mean what they say? Errors of calibration, and two ways to mend it, fitted on other images.

Letters: N images, K classes. Probabilities are (N,) in [0, 1], targets (N,) of 0/1 (unknown ones already left out).
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

BINS = 15
NEAREST = 1e-7  # to 0 and 1 that a probability may come before it is made a logit
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


FITS: dict[str, Callable[..., tuple[float, ...]]] = {"temperature": fit_temperature, "platt": fit_platt}


def apply(method: str, parameters: tuple[float, ...], prob: np.ndarray) -> np.ndarray:
    """Probabilities after `temperature` or `platt`; NaN where nothing could be fitted."""
    if method == "temperature":
        return expit(logits(prob) / parameters[0])
    slope, offset = parameters
    return expit(slope * logits(prob) + offset)
