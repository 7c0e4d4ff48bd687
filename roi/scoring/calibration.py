"""Do probabilities mean what they say? Errors of calibration, and two ways to mend it, fitted on other images.

Letters: N images, K classes. Probabilities are (N,) in [0, 1], targets (N,) of 0/1 (unknown ones already left out).
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

BINS = 15


def brier(prob: np.ndarray, target: np.ndarray) -> float:
    """Mean squared error of the probability (Brier 1950). -> in [0, 1]"""
    return float(np.mean((prob - target) ** 2)) if len(prob) else float("nan")


def reliability(prob: np.ndarray, target: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Bins of equal width -> (bins in use, 3): mean probability, observed rate, count."""
    place = np.minimum((prob * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins).astype(float)
    used = count > 0
    return np.stack([np.bincount(place, v, bins)[used] / count[used] for v in (prob, target)] + [count[used]], axis=1)


def ece(prob: np.ndarray, target: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: the mean distance of probability and rate over the bins (Guo et al. 2017, eq. 3). -> in [0, 1]"""
    if not len(prob):
        return float("nan")
    table = reliability(prob, target, bins)
    return float(np.sum(np.abs(table[:, 0] - table[:, 1]) * table[:, 2]) / len(prob))


def logits(prob: np.ndarray) -> np.ndarray:
    return logit(np.clip(prob, 1e-7, 1 - 1e-7))


def fit_temperature(prob: np.ndarray, target: np.ndarray) -> tuple[float]:
    """T of sigmoid(logit / T) with the least log-loss (Guo et al. 2017, section 4.2), .05 to 20. NaN without both classes."""
    if not 0 < target.sum() < len(target):
        return (float("nan"),)
    z = logits(prob)
    best = minimize_scalar(
        lambda log_t: log_loss(z * np.exp(-log_t), target), bounds=(np.log(0.05), np.log(20)), method="bounded"
    )
    return (float(np.exp(best.x)),)


def fit_platt(prob: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, float]:
    """a, b of sigmoid(a logit + b), with the smoothed targets of Platt 1999, so that few positives stay finite.

    `weight` (N,): what each image counts, 1 where it is not given.
    """
    w = np.ones(len(target)) if weight is None else weight
    positives, negatives = float(w @ (target == 1)), float(w @ (target != 1))
    if not positives or not negatives:
        return float("nan"), float("nan")
    z = logits(prob)
    smooth = np.where(target == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(ab: np.ndarray) -> tuple[float, np.ndarray]:
        margin = ab[0] * z + ab[1]
        error = expit(margin) - smooth
        losses = np.logaddexp(0, margin) - smooth * margin
        gradient = np.array([np.average(error * z, weights=w), np.average(error, weights=w)])
        return float(np.average(losses, weights=w)), gradient

    a, b = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x
    return float(a), float(b)


def log_loss(margin: np.ndarray, target: np.ndarray) -> float:
    """Mean of log(1 + e^m) - t m"""
    return float(np.mean(np.logaddexp(0, margin) - target * margin))


def apply(method: str, parameters: tuple[float, ...], prob: np.ndarray) -> np.ndarray:
    """Probabilities after `temperature` or `platt`; NaN where nothing could be fitted."""
    if method == "temperature":
        return expit(logits(prob) / parameters[0])
    return expit(parameters[0] * logits(prob) + parameters[1])


FITS: dict[str, Callable[..., tuple[float, ...]]] = {"temperature": fit_temperature, "platt": fit_platt}
