"""Losses: pure functions, in fp32. A NaN target is unknown: it adds nothing and gets no gradient. One between 0 and 1 is the chance that it is present.

Letters: B images, K classes, H x W pixels; s is the soft mask (B, 1, H, W) in (0, 1). p = sigmoid(logits).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Over = Callable[[Tensor], Tensor]  # how many values a sum is divided by: those of this batch -> those that count (roi/dist.py)


def of_batch(values: Tensor) -> Tensor:
    return values


def bce(logits: Tensor, target: Tensor, over: Over = of_batch) -> Tensor:
    """Mean binary cross-entropy over what is known. (B, K), (B, K) with NaN = unknown -> ()"""
    known = ~target.isnan()  # (B, K)
    nll = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none")
    return torch.where(known, nll, 0).sum() / _divisor(known.sum(), over)


def _divisor(values: Tensor, over: Over) -> Tensor:
    count = over(values.float())
    return torch.where(count > 0, count, 1.0)


def consist(logits_full: Tensor, logits_crop: Tensor) -> Tensor:
    """mean |p_full - p_crop|: the prediction survives on what is kept. (B, K), (B, K) -> ()"""
    return (logits_full.sigmoid() - logits_crop.sigmoid()).abs().mean()


def drop(logits_full: Tensor, logits_drop: Tensor) -> Tensor:
    """mean ReLU(p_drop - p_full): the prediction does not rise without what is kept. (B, K), (B, K) -> ()"""
    return F.relu(logits_drop.sigmoid() - logits_full.sigmoid()).mean()


def lost(logits_drop: Tensor, present: Tensor, over: Over = of_batch) -> Tensor:
    """mean -log(1 - p_drop) over what is present: without its evidence a finding is not found. (B, K), (B, K) 0/1 -> ()

    Present is a target of 1. Of one between 0 and 1 nobody is sure that there is evidence to lose.
    """
    return (F.softplus(logits_drop) * present).sum() / _divisor(present.sum(), over)


def pooled(maps: Tensor) -> Tensor:
    """log mean exp over the cells: the logit of a finding that may lie in any of them (Pinheiro & Collobert 2015). (B, K, h, w) -> (B, K)"""
    flat = maps.flatten(2)
    return flat.logsumexp(2) - math.log(flat.shape[2])


def total_variation(soft: Tensor) -> Tensor:
    """Mean absolute step to the right plus mean absolute step down. (B, 1, H, W) -> ()"""
    return soft.diff(dim=-1).abs().mean() + soft.diff(dim=-2).abs().mean()
