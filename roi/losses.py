"""Losses: pure functions, in fp32. A NaN target is unknown: it adds nothing and gets no gradient.

Letters: B images, K classes, H x W pixels; s is the soft mask (B, 1, H, W) in (0, 1). p = sigmoid(logits).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from roi.model import RoiModel

TERMS = ("full", "consist", "drop", "sparse", "tv")


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy over what is known. (B, K), (B, K) with NaN = unknown -> ()"""
    known = ~target.isnan()  # (B, K)
    nll = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(), reduction="none")
    return torch.where(known, nll, 0).sum() / known.sum().clamp(min=1)


def consist(logits_full: Tensor, logits_crop: Tensor) -> Tensor:
    """mean |p_full - p_crop|: the prediction survives on what is kept. (B, K), (B, K) -> ()"""
    return (logits_full.sigmoid() - logits_crop.sigmoid()).abs().mean()


def drop(logits_full: Tensor, logits_drop: Tensor) -> Tensor:
    """mean ReLU(p_drop - p_full): the prediction does not rise without what is kept. (B, K), (B, K) -> ()"""
    return F.relu(logits_drop.sigmoid() - logits_full.sigmoid()).mean()


def total_variation(soft: Tensor) -> Tensor:
    """Mean absolute step to the right plus mean absolute step down. (B, 1, H, W) -> ()"""
    return soft.diff(dim=-1).abs().mean() + soft.diff(dim=-2).abs().mean()


def roi_terms(model: "RoiModel", pixels: Tensor, target: Tensor, keep_ratio: float, seeds: list[int] | None = None) -> dict[str, Tensor]:
    """The terms of one ROI step, by name. (B, 1, H, W) uint8, (B, K) -> {"full": (), "consist": (), ...}

    mask_mean, mask_kept and mask_tv say what the mask did and carry no gradient. A model without a mask has `full` alone,
    one whose mask is not learned has no `sparse` and no `tv`. Random masks need `seeds`, one an image.
    """
    views = model(pixels, keep_ratio, seeds)
    terms = {"full": bce(views.full, target)}
    if views.hard is not None:
        terms |= {"consist": consist(views.full, views.crop), "drop": drop(views.full, views.drop), "mask_kept": views.hard.mean()}
    if views.soft is not None:
        terms |= {"sparse": views.soft.mean(), "tv": total_variation(views.soft)}
        terms |= {"mask_mean": terms["sparse"].detach(), "mask_tv": terms["tv"].detach()}
    return terms
