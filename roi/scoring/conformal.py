"""Prediction sets with bounded errors: thresholds from calibration images that hold on other images of the same kind.

A prediction set holds the classes whose probability is at least the threshold. Unknown is neither present nor wrong, so
that an image of which half is known looks easier than it is: give images that are known throughout. Guarantees are for
images that are exchangeable with the calibration images: same hospitals, same prevalence. None of the thresholds is
sought on a grid: the risk is computed at every score there is.

Letters: N images, K classes, M steps. prob is (N, K) in [0, 1]; target (N, K) of 1, 0, NaN.
"""

import math

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, xlogy
from scipy.stats import binom

from roi.errors import UserError
from roi.scoring.calibration import logits
from roi.scoring.metrics import counts_by_threshold

# A threshold that no probability reaches.
NOTHING = 1.0 + 2.0**-52
# Log of the largest weight that a finding may have relative to its absence.
STEEPEST = 5.0
# Where fixed-sequence tests of a precision begin.
STARTS = 8
# Change of a prevalence at which EM ends.
CONVERGED = 1e-9
# Share of the units that a weighting must leave, in effect: fewer would decide for all.
SMALLEST_SHARE = 1 / 20


# ---- risks ----------------------------------------------------------------------------------------------------------


def false_negative_proportion(prob: np.ndarray, target: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Share of its findings that an image's set lacks; 0 for an image without any.

    (N, K), (N, K), () or (K,) -> (N,) in [0, 1]
    """
    present = target == 1
    missed = (prob < threshold) & present
    findings = present.sum(axis=1)
    return missed.sum(axis=1) / np.maximum(findings, 1)


def false_share(prob: np.ndarray, target: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Share of an image's set that is not present, its false discovery proportion; 0 for an empty set. -> (N,)"""
    chosen = (prob >= threshold) & ~np.isnan(target)
    wrong = chosen & (target == 0)
    size = chosen.sum(axis=1)
    return wrong.sum(axis=1) / np.maximum(size, 1)


# ---- conformal risk control -----------------------------------------------------------------------------------------


def fnr_threshold(
    prob: np.ndarray, target: np.ndarray, alpha: float, weight: np.ndarray | None = None, new: float | None = None
) -> float | None:
    """The largest threshold at which the false-negative rate of a new image is at most alpha in expectation.

    Args:
        prob: (N, K).
        target: (N, K).
        alpha: rate that is allowed.
        weight: (N,) of each image; 1 where it is not given.
        new: weight of the next image: by default the largest of them, as under label shift (Prop. 3); 1 where images of
            a patient share a weight of 1.

    Returns:
        None: no threshold does it with so few images.

    Conformal risk control, Angelopoulos et al. 2022, eq. 4: (sum of losses + 1) / (n + 1) <= alpha, with
    false_negative_proportion as the loss.
    """
    w = np.ones(len(prob)) if weight is None else weight
    present = target == 1
    findings = present.sum(axis=1)
    row, column = np.nonzero(present)
    score = prob[row, column]
    loss_of_one = w / np.maximum(findings, 1)
    loss = loss_of_one[row]
    if new is None:
        new = float(w.max())
    # The next image may lose everything, whatever the threshold: what is left of alpha bounds the summed losses.
    bound = alpha * (w.sum() + new) - new
    if bound < 0:
        return None
    steps, place = np.unique(score, return_inverse=True)
    # What is lost when the threshold is just above step m; (M + 1,), the first entry is for a threshold below all.
    lost = np.cumsum(np.bincount(place, loss, len(steps)))
    lost = np.concatenate([[0.0], lost])
    # steps[m - 1] may be the threshold: what lies below it is affordable.
    affordable = bound * (1 + 1e-12)
    m = int(np.searchsorted(lost, affordable, side="right"))
    if m > len(steps):
        return NOTHING
    return float(steps[m - 1])


def class_thresholds(prob: np.ndarray, target: np.ndarray, alpha: float) -> tuple[float | None, float | None]:
    """One finding: present from the first, absent to the second. (N,), (N,) of 1, 0, NaN

    Of images with the finding at most alpha lie below the first, of those without it at most alpha above the second. In
    between (or where the two cross) the set holds both answers, or none. None: too few of that kind.

    Class-conditional (Mondrian) split conformal prediction, Vovk et al. 2005.
    """
    present_from = _quantile(prob[target == 1], alpha)
    absent_to = _quantile(-prob[target == 0], alpha)
    if absent_to is not None:
        absent_to = -absent_to
    return present_from, absent_to


def _quantile(score: np.ndarray, alpha: float) -> float | None:
    """The floor(alpha (n + 1))-th smallest score."""
    k = math.floor(alpha * (len(score) + 1) + 1e-9)
    if k < 1:
        return None
    in_place = np.partition(score, k - 1)
    return float(in_place[k - 1])


# ---- learn then test ------------------------------------------------------------------------------------------------


def hoeffding_bentkus(risk: np.ndarray, n: int, alpha: float) -> np.ndarray:
    """p-values of "the mean of a loss in [0, 1] is above alpha", given its mean over n images. (M,) -> (M,)

    Angelopoulos et al. 2021, Prop. 1.
    """
    r = np.minimum(risk, alpha)
    complement = (1 - r) / (1 - alpha)
    divergence = xlogy(r, r / alpha) + xlogy(1 - r, complement)
    hoeffding = np.exp(-n * divergence)
    # A whole number of losses must not be rounded up by its last digit.
    losses = np.ceil(n * risk - 1e-9)
    bentkus = math.e * binom.cdf(losses, n, alpha)
    return np.minimum(hoeffding, np.minimum(bentkus, 1.0))


def fdr_threshold(
    prob: np.ndarray,
    target: np.ndarray,
    alpha: float,
    delta: float,
    weight: np.ndarray | None = None,
) -> float | None:
    """The lowest threshold whose false discovery rate is at most alpha, with confidence 1 - delta.

    The rate is the mean of `false_share`. An empty set makes no false discovery.

    Args:
        prob: (N, K).
        target: (N, K).
        alpha: rate that is allowed.
        delta: 1 - confidence.
        weight: (N,) each image's part of its patient; their sum is the number of independent units.

    Returns:
        None: infeasible at this alpha.

    Learn then test (Angelopoulos et al. 2021) in a fixed sequence: from the highest score down until a test fails.
    """
    w = np.ones(len(prob)) if weight is None else weight
    n = round(float(w.sum()))
    # Unknown classes come last, and never enter the set.
    score = np.where(np.isnan(target), -np.inf, prob)
    order = np.argsort(-score, axis=1, kind="stable")
    absent = np.take_along_axis(target == 0, order, 1)
    wrong = np.cumsum(absent, axis=1)
    size = np.arange(1, prob.shape[1] + 1)
    share = wrong / size  # (N, K) after each class that enters the set
    change = np.diff(share, axis=1, prepend=0.0) * w[:, None]
    entered = np.take_along_axis(score, order, 1)
    known = np.isfinite(entered)
    change, entered = change[known], entered[known]
    # Highest scores first; risk[m] is that with the threshold at score m.
    steps, place = np.unique(-entered, return_inverse=True)
    changes = np.bincount(place, change, len(steps))
    risk = np.cumsum(changes) / n
    p = hoeffding_bentkus(np.maximum(risk, 0), n, alpha)
    return _last_pass(-steps, p <= delta)


def precision_threshold(prob: np.ndarray, target: np.ndarray, alpha: float, delta: float) -> float | None:
    """One finding: the lowest threshold above which at most alpha of the images lack it, with confidence 1 - delta.

    Given how many images lie above a threshold, the wrong ones among them are binomial. Sequences of tests go down from
    STARTS sizes, the smallest that could pass and its doubles, each with delta / STARTS. Where a sequence begins is the
    draw's own rank, so that the proof wants a precision that does not fall with the score.

    (N,), (N,) of 1, 0, NaN -> None: infeasible at this alpha

    Angelopoulos et al. 2021, section 3.2.
    """
    known = ~np.isnan(target)
    if not known.any():
        return None
    steps, count, hits = counts_by_threshold(prob[known], target[known])
    errors = count - hits
    # Each sequence may be wrong, all of them together with delta.
    level = delta / STARTS
    passed = binom.cdf(errors, count, alpha) <= level
    # Below this size not even a draw without any error passes: (1 - alpha)^n > level.
    smallest = math.log(level) / math.log(1 - alpha)
    smallest = math.ceil(smallest)
    feasible = []
    for n in range(STARTS):
        size = smallest * 2**n
        first = int(np.searchsorted(count, size))
        threshold = _last_pass(steps[first:], passed[first:])
        if threshold is not None:
            feasible.append(threshold)
    return min(feasible, default=None)


def _last_pass(thresholds: np.ndarray, passed: np.ndarray) -> float | None:
    """The last threshold before the first test that fails."""
    run = len(passed)
    if not passed.all():
        run = int(np.argmin(passed))
    if not run:
        return None
    return float(thresholds[run - 1])


# ---- label shift ----------------------------------------------------------------------------------------------------


def shifted_prevalence(
    prob: np.ndarray,
    prevalence: np.ndarray,
    rounds: int = 200,
    weight: np.ndarray | None = None,
) -> np.ndarray:
    """Prevalence of each finding among images without labels, by EM. -> (K,)

    Args:
        prob: (N, K), calibrated where `prevalence` holds.
        prevalence: (K,).
        rounds: most steps of EM.
        weight: (N,) what each image counts; 1 where it is not given.

    Saerens et al. 2002.
    """
    evidence = logits(prob) - logits(prevalence)  # (N, K) what an image itself says, in log odds
    q = prevalence.astype(float)
    for _ in range(rounds):
        before = q
        posterior = expit(evidence + logits(q))
        q = np.average(posterior, axis=0, weights=weight)
        if np.abs(q - before).max() < CONVERGED:
            break
    return q


def label_shift_weights(target: np.ndarray, prevalence: np.ndarray, share: np.ndarray | None = None) -> np.ndarray:
    """Weights exp(b . y) of the calibration images under which each finding has the given prevalence.

    They are the closest ones in relative entropy. Valid where the pictures of a combination of findings stay as they
    are and only its frequency changes as exp(b . y).

    Args:
        target: (N, K) of 1 and 0, all known.
        prevalence: (K,).
        share: (N,) the part of its unit that each image is: 1 where every image is a unit, summing to 1 over the images
            of a patient.

    Returns:
        (N,) relative weights, whose mean over the units is 1.

    Raises:
        UserError: no weights do it, or only ones that leave fewer than SMALLEST_SHARE of the units.

    Entropy balancing, Hainmueller 2012.
    """
    part = np.ones(len(target)) if share is None else share
    part = part / part.sum()
    # No weight raises a prevalence of 0.
    if (target.sum(axis=0) == 0).any():
        raise UserError("a finding without a positive calibration image cannot be weighted")
    q = np.clip(prevalence, 1e-6, 1 - 1e-6)
    weight = balance(target, q, part)
    weight /= weight @ part
    reached = (weight * part) @ target
    # The mean square bounds the effective number of units, (sum w)^2 / sum w^2, from below.
    mean_square = (weight**2) @ part
    if np.abs(reached - q).max() > 0.01 or mean_square > 1 / SMALLEST_SHARE:
        raise UserError("no sound weighting of the calibration images has these prevalences")
    return weight


def balance(y: np.ndarray, q: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Entropy balancing: exp(b . y), up to a factor, with b within STEEPEST as near to prevalences q as can be.

    (N, K) of 1 and 0, (K,), (N,) parts that sum to 1 -> (N,)
    """

    def dual(b: np.ndarray) -> tuple[float, np.ndarray]:
        z = y @ b
        # The largest exponent is taken out, so that nothing overflows.
        top = z.max()
        weight = np.exp(z - top) * part
        value = top + np.log(weight.sum()) - b @ q
        return float(value), weight @ y / weight.sum() - q

    bounds = [(-STEEPEST, STEEPEST)] * len(q)
    start = logits(q) - logits(part @ y)
    start = np.clip(start, -STEEPEST, STEEPEST)
    b = minimize(dual, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    z = y @ b
    return np.exp(z - z.max())
