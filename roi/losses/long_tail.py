"""Losses of labels for a long tail: a few findings that many images have, and many that few have.

They are called like those of roi/losses/terms.py: a NaN target adds nothing, one between 0 and 1 stands for the chance
that its finding is present, and the loss is the mean over what is known. Published code sums over a batch instead.

Letters: B images, K classes; z are the logits, p = sigmoid(z), and q = max(p - clip, 0). Of the training table (counted
in terms.py) n_k images have finding k, which is the share pi_k of those that say something about it.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from roi.losses.terms import (
    Denominator,
    asymmetric_cells,
    bce,
    clipped,
    count_of_batch,
    expected_loss,
    full_precision,
)

# The published distribution-balanced loss counts twice, so that it weighs about as much as BCE.
DB_SCALE = 2.0


def weighted_asymmetric(
    logits: Tensor,
    target: Tensor,
    denominator: Denominator = count_of_batch,
    *,
    weight: Tensor,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
) -> Tensor:
    """The asymmetric loss in which what is rare counts more where it is present, and less where it is absent.

    CheXFusion (Kim 2023); the weights are those of Wu et al. 2021, eq. 4. (B, K), (B, K) -> ()

    Args:
        weight: (2, K) of present and absent (exponential_weights).
    """
    present, absent = asymmetric_cells(full_precision(logits), gamma_pos, gamma_neg, clip)
    return expected_loss(weight[0] * present, weight[1] * absent, target, denominator)


def robust_asymmetric(  # noqa: PLR0913  # the names of the formula
    logits: Tensor,
    target: Tensor,
    denominator: Denominator = count_of_batch,
    *,
    lam: float = 1.5,
    epsilon1: float = 1.0,
    epsilon2: float = -2.5,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
) -> Tensor:
    """The asymmetric loss with another series for what is present, and less for what is absent where p is high.

    present: -(1 - p)^gamma_pos [log p + epsilon1 (1 - p) + epsilon2 / 2 (1 - p)^2];
    absent: -q^gamma_neg log(1 - q) (lam - p) p^2 (lam - (1 - q)): a cell that is surely there is taken for a wrong
    label. The last factor stands in the published code. RAL (Park et al. 2023). (B, K), (B, K) -> ()
    """
    logits = full_precision(logits)
    p, one_minus_p = logits.sigmoid(), logits.neg().sigmoid()
    focus_present = (gamma_pos * F.logsigmoid(-logits)).exp()
    series = epsilon1 * one_minus_p + epsilon2 / 2 * one_minus_p**2
    present = focus_present * (F.softplus(-logits) - series)
    q, nll_absent = clipped(logits, clip)
    rest_if_sure = (lam - p) * p**2
    absent = q**gamma_neg * nll_absent * rest_if_sure * (lam - 1 + q)
    return expected_loss(present, absent, target, denominator)


def distribution_balanced(  # noqa: PLR0913  # the names of the formula
    logits: Tensor,
    target: Tensor,
    denominator: Denominator = count_of_batch,
    *,
    present_count: Tensor,
    log_odds: Tensor,
    alpha: float = 0.1,
    beta: float = 10.0,
    mu: float = 0.2,
    lam: float = 2.0,
    kappa: float = 0.05,
    gamma: float = 2.0,
) -> Tensor:
    """Focal loss that undoes how often an image is met because of its other findings, with a margin for what is rare.

    An image of several findings is drawn for each of them. With r = (1 / n_k) / sum_j y_j / n_j, the share of the draws
    that are due to finding k, a cell counts w = alpha + sigmoid(beta (r - mu)). The logit z' = z + kappa / lam log_odds
    begins where the finding is as rare as it is. present: 2 w (1 - s)^gamma (-log s) with s = sigmoid(z'); absent: the
    same of -lam z', over lam. Wu et al. 2020; the defaults are theirs for COCO. (B, K), (B, K) -> ()

    Of the other findings of an image r takes what is to be expected: nothing where they are unknown.

    Args:
        present_count: (K,) n_k, at least 1.
        log_odds: (K,) log(pi / (1 - pi)) (prior_log_odds).
    """
    inverse = 1 / present_count
    draws = target.nan_to_num() * inverse
    draws_of_others = (draws.sum(1, keepdim=True) - draws).clamp(min=0)
    share_if_present = inverse / (draws_of_others + inverse)
    # Without any finding r has no bound, and its sigmoid is 1.
    share_if_absent = inverse / draws_of_others.clamp(min=1e-12)
    weight_present = alpha + torch.sigmoid(beta * (share_if_present - mu))
    weight_absent = alpha + torch.sigmoid(beta * (share_if_absent - mu))
    shifted = full_precision(logits) + kappa / lam * log_odds
    scaled = lam * shifted
    focus_present = (gamma * F.logsigmoid(-shifted)).exp()
    focus_absent = (gamma * F.logsigmoid(scaled)).exp()
    present = DB_SCALE * weight_present * focus_present * F.softplus(-shifted)
    absent = DB_SCALE / lam * weight_absent * focus_absent * F.softplus(scaled)
    return expected_loss(present, absent, target, denominator)


def logit_adjusted(
    logits: Tensor,
    target: Tensor,
    denominator: Denominator = count_of_batch,
    *,
    log_odds: Tensor,
    tau: float = 1.0,
) -> Tensor:
    """BCE of z + tau log_odds: what is rare must be told from its rarity by more than that. (B, K), (B, K) -> ()

    The model keeps z: at p = .5 a finding is as likely as it is in the training table, at any rarity. That is what
    Menon et al. 2021 ask for, and a constant for a class changes no ranking of its images. Probabilities that agree
    with how often a finding occurs need it back: sigmoid(z + tau log_odds), or a calibration on validation images.

    Args:
        log_odds: (K,) log(pi / (1 - pi)) (prior_log_odds).
    """
    return bce(full_precision(logits) + tau * log_odds, target, denominator)


def prior_log_odds(present: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """log(pi / (1 - pi)) of each finding: (K,), (K,) -> (K,)"""
    # What no image has, or lacks, counts as one, so that no logit is infinite.
    return np.log(np.maximum(present, 1.0) / np.maximum(absent, 1.0))


def exponential_weights(present: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """exp(1 - pi) where a finding is present and exp(pi) where it is absent: (K,), (K,) -> (2, K)."""
    # The share of those images that say something: of all images a finding of one data set would look rarer than it is.
    share = present / np.maximum(present + absent, 1.0)
    return np.exp(np.stack([1 - share, share]))
