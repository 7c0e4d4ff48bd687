"""The two objectives: what one step asks of a classifier and its mask. Each gives its terms by name.

consistency  as published: the crop view agrees with the full view, the drop view does not rise above it, both through one
             classifier that learns from all of them.
evidence     the crop view predicts the labels, the drop view loses what is present. Only the mask learns from the drop view, and the
             classifier has seen images with holes at random places, so that a hole is nothing special (REAL-X, Jethani et al. 2021).

Letters: B images, K classes, M maps, H x W pixels, h x w cells. A NaN target is unknown.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roi.counter_rng import uniform
from roi.losses.terms import (
    Denominator,
    bce,
    consist,
    count_of_batch,
    drop,
    log_mean_exp,
    suppression_loss,
    total_variation,
)
from roi.models.masks import exact_topk, kept_pixels, random_mask, soft_topk, straight_through, upsample
from roi.models.roi_model import RoiModel

OBJECTIVES = {
    "evidence": ("full", "consist", "drop", "locate"),
    "consistency": ("full", "consist", "drop", "sparse", "tv"),
}
LAYER = {
    "full": "head",
    "consist": "head",
    "drop": "head",
    "sparse": "mask",
    "tv": "mask",
    "locate": "mask",
}  # whose output a term is made of
LabelLoss = Callable[[Tensor, Tensor, Denominator], Tensor]  # logits, target, over -> (): what `full` is
LIGHT = (0.9, 0.98)  # share of an image that stays when the classifier sees it through a random mask


def consistency_terms(
    model: RoiModel,
    pixels: Tensor,
    target: Tensor,
    keep_ratio: float,
    seeds: Tensor | None = None,
    over: Denominator = count_of_batch,
    label_loss: LabelLoss = bce,
) -> dict[str, Tensor]:
    """(B, 1, H, W) in 0..255, (B, K) -> {"full": (), "consist": (), ...}

    mask_mean, mask_kept and mask_tv say what the mask did and carry no gradient. A model without a mask has `full` alone,
    one whose mask is not learned has no `sparse` and no `tv`. Random masks need `seeds`, one an image.
    """
    views = model(pixels, keep_ratio, seeds)
    terms = {"full": label_loss(views.logits_full, target, over)}
    if views.binary_mask is not None:
        terms |= {
            "consist": consist(views.logits_full, views.logits_crop),
            "drop": drop(views.logits_full, views.logits_drop),
            "mask_kept": views.binary_mask.mean(),
        }
    if views.soft_mask is not None:
        terms |= {"sparse": views.soft_mask.mean(), "tv": total_variation(views.soft_mask)}
        terms |= {"mask_mean": terms["sparse"].detach(), "mask_tv": terms["tv"].detach()}
    return terms


@dataclass(frozen=True)
class RandomViews:
    """What one step of the evidence objective draws, from one seed an image."""

    light: Tensor  # (B, 1, H, W) 0/1: the image as the classifier sees it in the full view
    one: Tensor  # (B, K) 0/1: the findings that the drop view must lose; all that are present, or one of them
    single: Tensor  # (B,) bool: one of them

    @staticmethod
    def draw(seeds: Tensor, target: Tensor, size: tuple[int, int], random_views: float) -> "RandomViews":
        """(B,) seeds, (B, K) -> all on their device, no loop over images"""
        present = (target == 1).float()  # (B, K)
        through, share, coin = uniform(seeds, 3, stream=3).unbind(1)  # (B,) each
        kept = ((LIGHT[0] + (LIGHT[1] - LIGHT[0]) * share) * (size[0] * size[1])).round().long()
        blobs = random_mask(seeds, size, kept)
        light = torch.where((through < random_views)[:, None, None, None], blobs, 1.0)
        single = (coin < 0.5) & (present.sum(1) > 0)
        chosen = (uniform(seeds, target.shape[1], stream=4) + present).argmax(1)  # a uniform draw among what is present
        one = torch.zeros_like(present).scatter_(1, chosen[:, None], 1.0)
        return RandomViews(light, torch.where(single[:, None], one, present), single)


def label_terms(
    logits: Tensor,
    maps: Tensor | None,
    target: Tensor,
    findings: Tensor,
    sharpness: float,
    over: Denominator = count_of_batch,
    label_loss: LabelLoss = bce,
) -> dict[str, Tensor]:
    """`full` and, where there is a map a finding, `locate`: what is learned from labels alone, of pixels or of features of a frozen backbone.

    (B, K) logits, (B, K, h, w) maps or None, (B, K) target, `findings` the same with NaN for classes that have no place.
    """
    terms = {"full": label_loss(logits, target, over)}
    if maps is not None:
        terms["locate"] = bce(log_mean_exp(maps, sharpness), findings, over)
    return terms


def evidence_terms(
    model: RoiModel,
    pixels: Tensor,
    target: Tensor,
    keep_ratio: float,
    seeds: Tensor,
    random_views: float,
    warm_up: bool = False,
    over: Denominator = count_of_batch,
    label_loss: LabelLoss = bce,
    sharpness: float = 4.0,
) -> dict[str, Tensor]:
    """(B, 1, H, W) in 0..255, (B, K) -> {"full": (), "consist": (), "drop": (), "locate": ()}; in the warm-up no mask is drawn: `full` and `locate` alone.

    full     BCE, or another loss of labels, on the image, a share `random_views` of the images seen through random blobs that keep 90 to 98 %
    consist  BCE on the crop of the mask of all classes; the classifier and the mask learn from it
    drop     -log(1 - p) on what is dropped, of what is present: half of the images drop the mask of all classes and must lose
             all findings, half drop the map of one finding and must lose that one (one map: always all). Only the mask learns
    locate   BCE on the maps alone, pooled over their cells with `sharpness`: a map is high somewhere exactly where its finding is present
    In the crop and the drop view dropout is off, and batch norm has statistics of their own (roi/models/view_norms.py).
    """
    x = model.normalise(pixels)
    findings = target.masked_fill(~model.findings, torch.nan)  # Normal has no place
    if warm_up:
        logits, maps = model.logits_and_maps(x)
        return label_terms(logits, maps if model.per_class else None, target, findings, sharpness, over, label_loss)
    size = (x.shape[-2], x.shape[-1])
    k = kept_pixels(*size, keep_ratio)
    chance = RandomViews.draw(seeds, findings, size, random_views)
    logits, maps = model.logits_and_maps(model.apply_mask(x, chance.light, seeds))
    terms = label_terms(logits, maps if model.per_class else None, target, findings, sharpness, over, label_loss)
    score = model.combine_maps(maps, logits, size)
    hard, soft = exact_topk(score, k), soft_topk(score, k)
    m = dropped = straight_through(hard, soft)
    present = (findings == 1).float()
    if model.per_class:
        own = upsample(
            maps[torch.arange(len(maps), device=maps.device), chance.one.argmax(1)][:, None], size
        )  # (B, 1, H, W)
        dropped = torch.where(
            chance.single[:, None, None, None], straight_through(exact_topk(own, k), soft_topk(own, k)), m
        )
        present = chance.one
    terms["consist"] = bce(model.crop(x, m, seeds), target, over)
    # The classifier must not learn from the drop view: only the mask is asked to remove evidence.
    with frozen(model.backbone):
        left = model.drop(x, dropped, seeds)
    terms["drop"] = suppression_loss(left, present, over)
    return terms | {
        "mask_kept": hard.mean(),
        "mask_mean": soft.detach().mean(),
        "mask_tv": total_variation(soft.detach()),
    }


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """What goes through it for a while sends no gradient into its parameters."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
