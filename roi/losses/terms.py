"""Losses: pure functions, in fp32. Those for labels with a long tail: roi/losses/long_tail.py.

A NaN target is unknown: it adds nothing and gets no gradient. A target between 0 and 1 is the chance that the finding
is present. Letters: B images, K classes, H x W pixels; s is the soft mask (B, 1, H, W) in (0, 1), p = sigmoid(logits).

The losses of labels ask of each finding for itself whether it is present, as BCE does. Of a target y between 0 and 1
they take what is to be expected: y L(1) + (1 - y) L(0). Some count: `present` and `absent` (K,) are the images of the
training table with and without the finding (counted).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# How many values a sum is divided by: from those of this batch to those that count (roi/distributed.py).
Denominator = Callable[[Tensor], Tensor]


def count_of_batch(values: Tensor) -> Tensor:
    return values


def full_precision(logits: Tensor) -> Tensor:
    """The logits as fp32 where a forward pass gave fewer bits; fp64 stays."""
    # In fp16 a logit of 20 has p = 1 and the logarithm of 1 - p is infinite.
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def bce(logits: Tensor, target: Tensor, denominator: Denominator = count_of_batch) -> Tensor:
    """Mean binary cross-entropy over what is known: (B, K), (B, K) with NaN = unknown -> ()."""
    logits = full_precision(logits)
    # A number for what is unknown: its loss is computed and then left out.
    nll = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none")
    return _mean_of_known(nll, target, denominator)


def weighted(logits: Tensor, target: Tensor, denominator: Denominator = count_of_batch, *, weight: Tensor) -> Tensor:
    """BCE in which what is present counts `weight` (K,) times (positive_weights): (B, K), (B, K) -> ()."""
    logits = full_precision(logits)
    present = weight * F.softplus(-logits)
    absent = F.softplus(logits)
    return expected_loss(present, absent, target, denominator)


def focal(
    logits: Tensor,
    target: Tensor,
    denominator: Denominator = count_of_batch,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Focal loss, -alpha_t (1 - p_t)^gamma log p_t: what is sure already counts less. (B, K), (B, K) -> ()

    alpha weighs what is present and 1 - alpha what is absent; below 0: neither (eq. 4). gamma 0 without alpha is BCE.
    Lin et al. 2017, eq. 5.
    """
    logits = full_precision(logits)
    weight_present, weight_absent = 1.0, 1.0
    if alpha >= 0:
        weight_present, weight_absent = alpha, 1 - alpha
    # Powers by their logarithm: slopes stay finite for any gamma.
    focus_present = (gamma * F.logsigmoid(-logits)).exp()
    present = weight_present * focus_present * F.softplus(-logits)
    focus_absent = (gamma * F.logsigmoid(logits)).exp()
    absent = weight_absent * focus_absent * F.softplus(logits)
    return expected_loss(present, absent, target, denominator)


def asymmetric(
    logits: Tensor,
    target: Tensor,
    denominator: Denominator = count_of_batch,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
) -> Tensor:
    """Focal loss with a power for each side, in which what is absent rests below p = clip. (B, K), (B, K) -> ()

    present: -(1 - p)^gamma_pos log p; absent: -q^gamma_neg log(1 - q) with q = max(p - clip, 0).
    Ridnik et al. 2021, eqs. 4-7.
    """
    present, absent = asymmetric_cells(full_precision(logits), gamma_pos, gamma_neg, clip)
    return expected_loss(present, absent, target, denominator)


def asymmetric_cells(logits: Tensor, gamma_pos: float, gamma_neg: float, clip: float) -> tuple[Tensor, Tensor]:
    """The asymmetric loss of each cell if its finding were present, and if it were absent: (B, K) -> (B, K), (B, K)."""
    focus_present = (gamma_pos * F.logsigmoid(-logits)).exp()
    present = focus_present * F.softplus(-logits)
    q, nll = clipped(logits, clip)
    return present, q**gamma_neg * nll


def clipped(logits: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """q = max(p - clip, 0), and -log(1 - q): (B, K) -> (B, K), (B, K)."""
    # Not clamped at 0, where a power below 1 has no slope.
    q = (logits.sigmoid() - clip).clamp(min=1e-12)
    if not clip:
        return q, F.softplus(logits)
    one_minus_q = (logits.neg().sigmoid() + clip).clamp(max=1)
    return q, -one_minus_q.log()


def class_balanced(
    logits: Tensor, target: Tensor, denominator: Denominator = count_of_batch, *, weight: Tensor
) -> Tensor:
    """BCE with weights by the effective number of images (balanced_weights): (B, K), (B, K) -> ().

    Args:
        weight: (2, K) of present and absent.
    """
    logits = full_precision(logits)
    present = weight[0] * F.softplus(-logits)
    absent = weight[1] * F.softplus(logits)
    return expected_loss(present, absent, target, denominator)


def ldam(
    logits: Tensor,
    target: Tensor,
    denominator: Denominator = count_of_batch,
    *,
    margin: Tensor,
    scale: float = 1.0,
) -> Tensor:
    """BCE with a margin, the wider the rarer (margins): (B, K), (B, K) -> ().

    It is taken at s (z - margin) for what is present and s (z + margin) for what is absent. The margin of the paper
    stands in a softmax over classes; a finding has two, present and absent. Cao et al. 2019.

    Args:
        margin: (2, K) of present and absent.
    """
    logits = full_precision(logits)
    present = F.softplus(-scale * (logits - margin[0]))
    absent = F.softplus(scale * (logits + margin[1]))
    return expected_loss(present, absent, target, denominator)


def expected_loss(present: Tensor, absent: Tensor, target: Tensor, denominator: Denominator) -> Tensor:
    """Mean over what is known of y present + (1 - y) absent: (B, K) each -> ().

    Args:
        present: the loss of each cell if its finding were there.
        absent: the same if it were not.
    """
    y = target.nan_to_num()
    return _mean_of_known(y * present + (1 - y) * absent, target, denominator)


def _mean_of_known(loss: Tensor, target: Tensor, denominator: Denominator) -> Tensor:
    """Mean of a loss over the cells whose target is known: (B, K), (B, K) -> ()."""
    known = ~target.isnan()  # (B, K)
    # Chosen, not multiplied by 0: a loss that is infinite where nothing is known would become NaN.
    total = torch.where(known, loss, 0).sum()
    return total / divisor(known.sum(), denominator)


def divisor(values: Tensor, denominator: Denominator) -> Tensor:
    """What a sum of so many values is divided by; 1 where there is none, without a look at the number on its device."""
    count = denominator(values.float())
    return torch.where(count > 0, count, 1.0)


def counted(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images with and without each finding, an uncertain one in parts: (N, K) with NaN = unknown -> (K,), (K,)."""
    targets = targets.astype(np.float64)
    present = np.nansum(targets, axis=0)
    absent = np.nansum(1 - targets, axis=0)
    return np.asarray(present), np.asarray(absent)


def positive_weights(present: np.ndarray, absent: np.ndarray, cap: float) -> np.ndarray:
    """absent / present, at most `cap`: with it both sides of a finding weigh the same. (K,), (K,) -> (K,)"""
    ratio = absent / np.maximum(present, 1e-9)
    return np.minimum(ratio, cap)


def balanced_weights(present: np.ndarray, absent: np.ndarray, beta: float) -> np.ndarray:
    """Weights 1 / E, with E = (1 - beta^n) / (1 - beta) the effective number of n images: (K,), (K,) -> (2, K).

    A finding has two classes, present and absent; as in the paper its weights add up to their number. beta 0: no
    weights; beta to 1: 1 / n. Cui et al. 2019.
    """
    # What no image has counts as one, so that no weight is infinite.
    n = np.maximum(np.stack([present, absent]), 1.0)
    weight = 1 / n if beta == 1 else (1 - beta) / (1 - beta**n)
    return 2 * weight / weight.sum(axis=0)


def margins(present: np.ndarray, absent: np.ndarray, largest: float) -> np.ndarray:
    """C / n^(1/4), C so that the rarest has the `largest` (Cao et al. 2019): (K,), (K,) -> (2, K)."""
    n = np.maximum(np.stack([present, absent]), 1.0)
    root = n**0.25
    return largest * root.min() / root


def consist(logits_full: Tensor, logits_crop: Tensor) -> Tensor:
    """mean |p_full - p_crop|: the prediction survives on what is kept. (B, K), (B, K) -> ()"""
    difference = logits_full.sigmoid() - logits_crop.sigmoid()
    return difference.abs().mean()


def drop(logits_full: Tensor, logits_drop: Tensor) -> Tensor:
    """mean ReLU(p_drop - p_full): the prediction does not rise without what is kept. (B, K), (B, K) -> ()"""
    rise = logits_drop.sigmoid() - logits_full.sigmoid()
    return F.relu(rise).mean()


def suppression_loss(logits_drop: Tensor, present: Tensor, denominator: Denominator = count_of_batch) -> Tensor:
    """mean -log(1 - p_drop) over what is present: without its evidence a finding is not found. (B, K), (B, K) -> ()

    Args:
        present: 0/1, 1 where the target is 1: of one between 0 and 1 nobody is sure that there is evidence to lose.
    """
    total = (F.softplus(logits_drop) * present).sum()
    return total / divisor(present.sum(), denominator)


def log_mean_exp(maps: Tensor, sharpness: float) -> Tensor:
    """The logit of a finding that may lie in any cell of its map: (B, K, h, w) -> (B, K).

    1/r log mean exp(r z) over the cells: near the mean of the map for a small `sharpness` r, its maximum for a large
    one. Pinheiro & Collobert 2015, eq. 6.
    """
    cells = maps.flatten(2) * sharpness
    log_mean = cells.logsumexp(2) - math.log(cells.shape[2])
    return log_mean / sharpness


def total_variation(soft: Tensor) -> Tensor:
    """Mean absolute step to the right plus mean absolute step down: (B, 1, H, W) -> ()."""
    right = soft.diff(dim=-1).abs().mean()
    down = soft.diff(dim=-2).abs().mean()
    return right + down
