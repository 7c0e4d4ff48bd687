"""Losses: pure functions, in fp32. A NaN target is unknown: it adds nothing and gets no gradient. One between 0 and 1 is the chance that it is present.

Letters: B images, K classes, H x W pixels; s is the soft mask (B, 1, H, W) in (0, 1). p = sigmoid(logits).

The losses of labels ask of each finding for itself whether it is present, as BCE does. Of a target y between 0 and 1 they take what is to be expected:
y L(1) + (1 - y) L(0). Some count: `present` and `absent` (K,) are the images of the training table with and without the finding (counted).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Denominator = Callable[
    [Tensor], Tensor
]  # how many values a sum is divided by: those of this batch -> those that count (roi/distributed.py)


def count_of_batch(values: Tensor) -> Tensor:
    return values


def bce(logits: Tensor, target: Tensor, over: Denominator = count_of_batch) -> Tensor:
    """Mean binary cross-entropy over what is known. (B, K), (B, K) with NaN = unknown -> ()"""
    known = ~target.isnan()  # (B, K)
    nll = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none")
    return torch.where(known, nll, 0).sum() / _divisor(known.sum(), over)


def weighted(logits: Tensor, target: Tensor, over: Denominator = count_of_batch, *, weight: Tensor) -> Tensor:
    """BCE in which what is present counts `weight` times (positive_weights). (B, K), (B, K), weight (K,) -> ()"""
    return _expected(weight * F.softplus(-logits), F.softplus(logits), target, over)


def focal(
    logits: Tensor, target: Tensor, over: Denominator = count_of_batch, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t, what is sure already counts less (Lin et al. 2017, eq. 5). (B, K), (B, K) -> ()

    alpha weighs what is present and 1 - alpha what is absent; below 0: neither (eq. 4). gamma 0 without alpha is BCE.
    """
    up, down = (alpha, 1 - alpha) if alpha >= 0 else (1.0, 1.0)
    present = (
        up * (gamma * F.logsigmoid(-logits)).exp() * F.softplus(-logits)
    )  # powers by their logarithm: slopes stay finite for any gamma
    absent = down * (gamma * F.logsigmoid(logits)).exp() * F.softplus(logits)
    return _expected(present, absent, target, over)


def asymmetric(
    logits: Tensor,
    target: Tensor,
    over: Denominator = count_of_batch,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
) -> Tensor:
    """Focal with a power for each side, and what is absent is at rest below p = clip (Ridnik et al. 2021, eqs. 4-7). (B, K), (B, K) -> ()

    present: -(1 - p)^gamma_pos log p; absent: -q^gamma_neg log(1 - q) with q = max(p - clip, 0).
    """
    present = (gamma_pos * F.logsigmoid(-logits)).exp() * F.softplus(-logits)
    q = (logits.sigmoid() - clip).clamp(min=1e-12)  # a power below 1 has no slope at 0
    nll = -(logits.neg().sigmoid() + clip).clamp(max=1).log() if clip else F.softplus(logits)
    return _expected(present, q**gamma_neg * nll, target, over)


def class_balanced(logits: Tensor, target: Tensor, over: Denominator = count_of_batch, *, weight: Tensor) -> Tensor:
    """BCE with weights by the effective number of images (balanced_weights). (B, K), (B, K), weight (2, K) of present and absent -> ()"""
    return _expected(weight[0] * F.softplus(-logits), weight[1] * F.softplus(logits), target, over)


def ldam(
    logits: Tensor, target: Tensor, over: Denominator = count_of_batch, *, margin: Tensor, scale: float = 1.0
) -> Tensor:
    """BCE at s (z - margin) for what is present and s (z + margin) for what is absent: the rarer the wider (margins; Cao et al. 2019).

    (B, K), (B, K), margin (2, K) of present and absent -> (). The paper's margin stands in a softmax over classes; a finding has two, present and absent.
    """
    return _expected(F.softplus(-scale * (logits - margin[0])), F.softplus(scale * (logits + margin[1])), target, over)


def _expected(present: Tensor, absent: Tensor, target: Tensor, over: Denominator) -> Tensor:
    """Mean over what is known of y present + (1 - y) absent, the losses of each cell if its finding were there and if not. (B, K) each -> ()"""
    known = ~target.isnan()  # (B, K)
    y = target.nan_to_num()
    return torch.where(known, y * present + (1 - y) * absent, 0).sum() / _divisor(known.sum(), over)


def counted(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images with and without each finding, an uncertain one in parts. (N, K) with NaN = unknown -> (K,), (K,) float64"""
    whole = targets.astype(np.float64)
    return np.asarray(np.nansum(whole, axis=0)), np.asarray(np.nansum(1 - whole, axis=0))


def positive_weights(present: np.ndarray, absent: np.ndarray, cap: float) -> np.ndarray:
    """absent / present, at most `cap`: with it both sides of a finding weigh the same. (K,), (K,) -> (K,)"""
    return np.minimum(absent / np.maximum(present, 1e-9), cap)


def balanced_weights(present: np.ndarray, absent: np.ndarray, beta: float) -> np.ndarray:
    """1 / E with E = (1 - beta^n) / (1 - beta), the effective number of n images (Cui et al. 2019). (K,), (K,) -> (2, K)

    A finding has two classes, present and absent; as in the paper its weights add up to their number. beta 0: no weights; beta to 1: 1 / n.
    """
    n = np.maximum(np.stack([present, absent]), 1.0)
    weight = 1 / n if beta == 1 else (1 - beta) / (1 - beta**n)
    return 2 * weight / weight.sum(axis=0)


def margins(present: np.ndarray, absent: np.ndarray, largest: float) -> np.ndarray:
    """C / n^(1/4), C so that the rarest has the `largest` (Cao et al. 2019). (K,), (K,) -> (2, K)"""
    n = np.maximum(np.stack([present, absent]), 1.0) ** 0.25
    return largest * n.min() / n


def _divisor(values: Tensor, over: Denominator) -> Tensor:
    count = over(values.float())
    return torch.where(count > 0, count, 1.0)


def consist(logits_full: Tensor, logits_crop: Tensor) -> Tensor:
    """mean |p_full - p_crop|: the prediction survives on what is kept. (B, K), (B, K) -> ()"""
    return (logits_full.sigmoid() - logits_crop.sigmoid()).abs().mean()


def drop(logits_full: Tensor, logits_drop: Tensor) -> Tensor:
    """mean ReLU(p_drop - p_full): the prediction does not rise without what is kept. (B, K), (B, K) -> ()"""
    return F.relu(logits_drop.sigmoid() - logits_full.sigmoid()).mean()


def suppression_loss(logits_drop: Tensor, present: Tensor, over: Denominator = count_of_batch) -> Tensor:
    """mean -log(1 - p_drop) over what is present: without its evidence a finding is not found. (B, K), (B, K) 0/1 -> ()

    Present is a target of 1. Of one between 0 and 1 nobody is sure that there is evidence to lose.
    """
    return (F.softplus(logits_drop) * present).sum() / _divisor(present.sum(), over)


def log_mean_exp(maps: Tensor, sharpness: float) -> Tensor:
    """The logit of a finding that may lie in any cell of its map (Pinheiro & Collobert 2015, eq. 6). (B, K, h, w) -> (B, K)

    1/r log mean exp(r z) over the cells: near the mean of the map for a small `sharpness` r, its maximum for a large one.
    """
    flat = maps.flatten(2) * sharpness
    return (flat.logsumexp(2) - math.log(flat.shape[2])) / sharpness


def total_variation(soft: Tensor) -> Tensor:
    """Mean absolute step to the right plus mean absolute step down. (B, 1, H, W) -> ()"""
    return soft.diff(dim=-1).abs().mean() + soft.diff(dim=-2).abs().mean()
