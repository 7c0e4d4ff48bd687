"""The two objectives: what one step asks of a classifier and its mask. Each gives its terms by name (loss_terms.py).

consistency  as published: the crop view agrees with the full view, the drop view does not rise above it, both through
             one classifier that learns from all of them.
evidence     the crop view predicts the labels, the drop view loses what is present. Only the mask learns from the drop
             view, and the classifier has seen images with holes at random places, so that a hole is nothing special
             (REAL-X, Jethani et al. 2021). Its terms:
    full     BCE, or another loss of labels, on the image, a share of the images seen through random blobs that keep 90
             to 98 %
    consist  BCE on the crop of the mask of all classes; the classifier and the mask learn from it
    drop     -log(1 - p) on what is dropped, of what is present: half of the images drop the mask of all classes and
             must lose all findings, half drop the map of one finding and must lose that one (one map: always all)
    locate   BCE on the maps alone, pooled over their cells: a map is high somewhere exactly where its finding is
             present

Letters: B images, K classes, M maps, H x W pixels, h x w cells. A NaN target is unknown.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from roi.counter_rng import DROPPED_FINDING, RANDOM_VIEW, uniform
from roi.losses.terms import (
    Denominator,
    bce,
    consist,
    count_of_batch,
    divisor,
    drop,
    log_mean_exp,
    suppression_loss,
    total_variation,
)
from roi.models.masks import (
    exact_topk,
    kept_pixels,
    per_image,
    random_mask,
    soft_topk,
    straight_through,
    upsample,
)
from roi.models.roi_model import RoiModel
from roi.models.view_norms import VIEWS

# Logits, target, denominator -> (): what `full` is.
LabelLoss = Callable[[Tensor, Tensor, Denominator], Tensor]
# The share of an image that stays when the classifier sees it through a random mask.
LIGHT = (0.9, 0.98)


def consistency_terms(
    model: RoiModel,
    pixels: Tensor,
    target: Tensor,
    keep_ratio: float,
    seeds: Tensor | None = None,
    denominator: Denominator = count_of_batch,
    label_loss: LabelLoss = bce,
) -> dict[str, Tensor]:
    """The terms of the published objective.

    A model without a mask has `full` alone, one whose mask is not learned has no `sparse` and no `tv`.

    Args:
        pixels: (B, 1, H, W) in 0..255.
        target: (B, K).
        seeds: (B,), for random masks.

    Returns:
        Terms, () each. mask_mean, mask_kept and mask_tv say what the mask did and carry no gradient.
    """
    views = model(pixels, keep_ratio, seeds)
    terms = {"full": label_loss(views.logits_full, target, denominator)}
    if views.binary_mask is not None:
        terms["consist"] = consist(views.logits_full, views.logits_crop)
        terms["drop"] = drop(views.logits_full, views.logits_drop)
        terms["mask_kept"] = views.binary_mask.mean()
    if views.soft_mask is not None:
        terms["sparse"] = views.soft_mask.mean()
        terms["tv"] = total_variation(views.soft_mask)
        # The columns of the metrics CSV that both objectives fill.
        terms["mask_mean"] = terms["sparse"].detach()
        terms["mask_tv"] = terms["tv"].detach()
    return terms


@dataclass(frozen=True)
class RandomViews:
    """What one step of the evidence objective draws, from one seed an image."""

    light_mask: Tensor  # (B, 1, H, W) 0/1: through it the classifier sees the image in the full view
    to_lose: Tensor  # (B, K) 0/1: the findings that the drop view must lose; all that are present, or one of them
    loses_one: Tensor  # (B,) bool: one of them

    def first(self, images: int | None) -> "RandomViews":
        """Those of the first so many images; None: of all."""
        return RandomViews(self.light_mask[:images], self.to_lose[:images], self.loses_one[:images])

    @staticmethod
    def draw(seeds: Tensor, target: Tensor, size: tuple[int, int], random_views: float) -> "RandomViews":
        """Draw for (B,) seeds and (B, K) targets, all on their device.

        Args:
            random_views: share of the images that get a light mask.
        """
        # Of a target between 0 and 1 nobody is sure that there is something to lose.
        present = (target == 1).float()  # (B, K)
        has_light_mask, kept_share, coin = uniform(seeds, 3, RANDOM_VIEW).unbind(1)  # (B,) each
        kept_share = LIGHT[0] + (LIGHT[1] - LIGHT[0]) * kept_share
        kept = (kept_share * (size[0] * size[1])).round().long()
        seen_through = has_light_mask < random_views
        nothing_hidden = torch.ones(len(seeds), 1, *size, device=seeds.device)
        light_mask = masks_where(
            seen_through, nothing_hidden, lambda images: random_mask(seeds[images], size, kept[images])
        )
        loses_one = (coin < 0.5) & (present.sum(1) > 0)
        # What is present has a draw above 1, so that the highest is a uniform draw among it.
        draws = uniform(seeds, target.shape[1], DROPPED_FINDING) + present
        chosen = draws.argmax(1)
        one = torch.zeros_like(present).scatter_(1, chosen[:, None], 1.0)
        to_lose = torch.where(loses_one[:, None], one, present)
        return RandomViews(light_mask, to_lose, loses_one)


def label_terms(
    logits: Tensor,
    maps: Tensor | None,
    target: Tensor,
    findings: Tensor,
    sharpness: float,
    denominator: Denominator = count_of_batch,
    label_loss: LabelLoss = bce,
) -> dict[str, Tensor]:
    """What is learned from labels alone, of pixels or of features of a frozen backbone.

    It is `full` and, where there is a map a finding, `locate`.

    Args:
        logits: (B, K).
        maps: (B, K, h, w) or None.
        target: (B, K).
        findings: the same with NaN for classes that have no place.
        sharpness: with which the cells of a map are pooled (log_mean_exp).
    """
    terms = {"full": label_loss(logits, target, denominator)}
    if maps is not None:
        terms["locate"] = bce(log_mean_exp(maps, sharpness), findings, denominator)
    return terms


@dataclass(frozen=True)
class EvidenceOptions:
    """What a run says once of the evidence objective."""

    keep_ratio: float  # share of the pixels that the mask keeps
    random_views: float  # share of the images that the classifier sees through random blobs
    sharpness: float = 4.0  # with which the cells of a map are pooled (log_mean_exp)


def evidence_terms(  # noqa: PLR0913  # all that a step knows of its batch
    model: RoiModel,
    pixels: Tensor,
    target: Tensor,
    options: EvidenceOptions,
    seeds: Tensor,
    warm_up: bool = False,
    denominator: Denominator = count_of_batch,
    label_loss: LabelLoss = bce,
    viewed: int | None = None,
) -> dict[str, Tensor]:
    """The terms of the evidence objective, () each; mask_mean, mask_kept and mask_tv carry no gradient.

    Args:
        pixels: (B, 1, H, W) in 0..255.
        target: (B, K).
        seeds: (B,).
        warm_up: no mask is drawn: `full` and `locate` alone.
        viewed: `consist` and `drop` are of the first so many images, which may be none; None: of all.
    """
    x = model.normalise(pixels)
    findings = target.masked_fill(~model.findings, torch.nan)  # Normal has no place
    size = (x.shape[-2], x.shape[-1])
    seen = x
    if not warm_up:
        random = RandomViews.draw(seeds, findings, size, options.random_views)
        seen = model.apply_mask(x, random.light_mask, seeds)
    logits, maps = model.logits_and_maps(seen)
    class_maps = maps if model.per_class else None
    terms = label_terms(logits, class_maps, target, findings, options.sharpness, denominator, label_loss)
    if warm_up:
        return terms
    if viewed == 0:
        return terms | _terms_without_views(model, logits[:0], target[:0], denominator)
    first = slice(viewed)
    masks = _masks_of_step(
        model, maps[first], logits[first], findings[first], random.first(viewed), kept_pixels(*size, options.keep_ratio)
    )
    terms |= _view_terms(model, x[first], target[first], masks, seeds[first], denominator)
    figures = mask_figures(masks.hard, masks.soft.detach())
    if viewed is None:
        return terms | figures
    return terms | _over_processes(figures, viewed, logits, denominator)


class StepMasks(NamedTuple):
    """What one step of the evidence objective keeps and drops; masks are (B, 1, H, W)."""

    hard: Tensor  # the mask of all classes, 0/1
    soft: Tensor  # the same in (0, 1)
    kept: Tensor  # `hard` with the gradient of `soft`
    dropped: Tensor  # what the drop view goes without: `kept`, or the mask of one finding
    to_lose: Tensor  # (B, K) 0/1: the findings that it must lose


def _masks_of_step(
    model: RoiModel,
    maps: Tensor,
    logits: Tensor,
    findings: Tensor,
    random: RandomViews,
    k: int,
) -> StepMasks:
    """Masks of k pixels from the maps (B, M, h, w) and the logits (B, K) of the full view."""
    height, width = random.light_mask.shape[-2:]
    score = model.combine_maps(maps, logits, (height, width))
    hard = exact_topk(score, k)
    soft = soft_topk(score, k)
    kept = straight_through(hard, soft)
    if not model.per_class:
        # One map for all findings can only lose all of them at once.
        return StepMasks(hard, soft, kept, kept, (findings == 1).float())
    first_lost = random.to_lose.argmax(1)  # where it is one, that one
    dropped = masks_where(
        random.loses_one, kept, lambda images: _mask_of_one(maps[images, first_lost[images]], (height, width), k)
    )
    return StepMasks(hard, soft, kept, dropped, random.to_lose)


def _view_terms(
    model: RoiModel, x: Tensor, target: Tensor, masks: StepMasks, seeds: Tensor, denominator: Denominator
) -> dict[str, Tensor]:
    """`consist` and `drop` of (B, 3, H, W) images, normalised, with their targets (B, K)."""
    # In both views dropout is off, and batch norm has statistics of their own (roi/models/view_norms.py).
    logits_crop = model.crop(x, masks.kept, seeds)
    terms = {"consist": bce(logits_crop, target, denominator)}
    # The classifier must not learn from the drop view: only the mask is asked to remove evidence.
    with frozen(model.backbone):
        logits_drop = model.drop(x, masks.dropped, seeds)
    return terms | {"drop": suppression_loss(logits_drop, masks.to_lose, denominator)}


def mask_figures(hard: Tensor, soft: Tensor) -> dict[str, Tensor]:
    """What the mask did, for the metrics CSV."""
    return {"mask_kept": hard.mean(), "mask_mean": soft.mean(), "mask_tv": total_variation(soft)}


def _terms_without_views(
    model: RoiModel, logits: Tensor, target: Tensor, denominator: Denominator
) -> dict[str, Tensor]:
    """The terms of a process that has none of the images of crop and drop: (0, K) each -> 0, with no gradient.

    It does what the processes do together: they count values, and statistics of the views begin.
    """
    for view in VIEWS:
        with model.view_norms.of(view):
            pass
    terms = {
        "consist": bce(logits, target, denominator),
        "drop": suppression_loss(logits, torch.zeros_like(logits), denominator),
    }
    nothing = {name: logits.new_zeros(()) for name in ("mask_kept", "mask_mean", "mask_tv")}
    return terms | _over_processes(nothing, 0, logits, denominator)


def _over_processes(
    figures: dict[str, Tensor], images: int, like: Tensor, denominator: Denominator
) -> dict[str, Tensor]:
    """Means over so many images as what the process adds to the mean over the images of all."""
    weight = images / divisor(like.new_tensor(float(images)), denominator)
    return {name: value * weight for name, value in figures.items()}


def _mask_of_one(maps: Tensor, size: tuple[int, int], k: int) -> Tensor:
    """The mask of the one finding that an image must lose, from its map: (B, h, w) -> (B, 1, H, W)."""
    score = upsample(maps[:, None], size)
    return straight_through(exact_topk(score, k), soft_topk(score, k))


def masks_where(chosen: Tensor, others: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
    """Masks that `make` gives to the chosen images, `others` for the rest: (B,) bool, (B, 1, H, W) -> (B, 1, H, W).

    Args:
        make: which images (n,) -> (n, 1, H, W), each from its own image alone.
    """
    if chosen.device.type != "cpu":
        # Made for all images: to ask who needs one would wait for the device.
        every = torch.arange(len(chosen), device=chosen.device)
        return torch.where(per_image(chosen), make(every), others)
    images = chosen.nonzero().flatten()
    if not len(images):
        return others
    return others.index_copy(0, images, make(images))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """What goes through a module for a while sends no gradient into its parameters."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
