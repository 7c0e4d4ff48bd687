"""A learned mask on validation images beside controls: the figures that show a mask which only looks right.

    controls = MaskControls(model, keep_ratio, device, dtype, every)
    controls.add(batch)                   # for each batch of validation
    figures = controls.figures(classes)   # roi/training/mask_verdict.py says in words what is wrong with them

  mask_border           share of the kept pixels in the outer tenth of the image (a uniform mask has .36)
  crop_auroc            mean AUROC on what the mask keeps
  blobs_auroc           the same on random blobs of equal area
  drop_contrast         fall of the logits of present findings less that of absent ones when the mask is dropped: what
                        falls for all findings alike is a shift, no evidence
  drop_contrast_blobs   the same when random blobs of equal area are dropped

Letters: B images of a batch, N of all batches, K classes, H x W pixels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from roi import distributed
from roi.counter_rng import row_seeds
from roi.data.dataset import Batch
from roi.labels import has_place
from roi.models.masks import kept_pixels, random_mask
from roi.models.roi_model import RoiModel
from roi.scoring.metrics import validation_aurocs

BORDER = 0.1  # of a side
# Validation images that are looked at, at most.
ROWS = 500


class Looks(NamedTuple):
    """What was seen on N images."""

    rows: np.ndarray  # (N,) of the table
    target: np.ndarray  # (N, K), NaN = unknown
    border: np.ndarray  # (N,) share of the mask
    full: np.ndarray  # (N, K) logits of the whole image
    crop: np.ndarray  # of what the mask keeps
    drop: np.ndarray  # of the rest
    crop_blobs: np.ndarray  # the same of random blobs
    drop_blobs: np.ndarray


class MaskControls:
    """Collects, batch by batch, what the mask keeps and what the classifier makes of it and of random blobs.

    Args:
        every: of the rows of the table every so manieth is looked at
    """

    def __init__(
        self,
        model: RoiModel,
        keep_ratio: float,
        device: torch.device,
        dtype: torch.dtype,
        every: int = 1,
    ) -> None:
        self.model, self.keep_ratio, self.device, self.dtype = model, keep_ratio, device, dtype
        self.every = every
        self.parts: list[Looks] = []

    @torch.inference_mode()
    def add(self, batch: Batch) -> None:
        """Look at every `every`-th row of the table that is in the batch."""
        # By the number of the row: the same images whatever the batches and processes.
        chosen = batch.index % self.every == 0
        if not chosen.any():
            return
        index = batch.index[chosen]
        target = batch.target[chosen.to(batch.target.device)]
        # The same blobs in every epoch: a figure that moves is then the mask.
        seeds = row_seeds(0, 0, index.to(self.device))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            pixels = batch.pixels[chosen.to(batch.pixels.device)]
            pixels = pixels.to(self.device)
            views = self.model(pixels, self.keep_ratio, seeds)
            assert views.binary_mask is not None and views.logits_crop is not None and views.logits_drop is not None
            height, width = pixels.shape[-2:]
            kept = kept_pixels(height, width, self.keep_ratio)
            blobs = random_mask(seeds, (height, width), kept)
            x = self.model.normalise(pixels)
            crop_blobs = self.model.crop(x, blobs, seeds)
            drop_blobs = self.model.drop(x, blobs, seeds)
        border = border_share(views.binary_mask)
        logits = (views.logits_full, views.logits_crop, views.logits_drop, crop_blobs, drop_blobs)
        tensors = (index, target, border, *logits)
        self.parts.append(Looks(*(tensor.cpu().numpy() for tensor in tensors)))

    def figures(self, classes: Sequence[str]) -> dict[str, float]:
        """Over the images of all processes; {} where none was added."""
        everyone: list[Looks] = []
        for parts in distributed.all_gather_objects(self.parts):
            everyone += parts
        if not everyone:
            return {}
        # Whatever the number of processes.
        rows = np.concatenate([part.rows for part in everyone])
        order = np.argsort(rows)
        columns = zip(*everyone, strict=True)
        looks = Looks(*(np.concatenate(column)[order] for column in columns))
        return {
            "mask_border": float(looks.border.mean()),
            "crop_auroc": validation_aurocs(looks.crop, looks.target, classes)["val_auroc"],
            "blobs_auroc": validation_aurocs(looks.crop_blobs, looks.target, classes)["val_auroc"],
            "drop_contrast": contrast(looks.full - looks.drop, looks.target, classes),
            "drop_contrast_blobs": contrast(looks.full - looks.drop_blobs, looks.target, classes),
        }


def border_share(hard: Tensor) -> Tensor:
    """Share of the kept pixels within a tenth of the side from the edge. (B, 1, H, W) 0/1 -> (B,)"""
    height, width = hard.shape[-2:]
    top = max(1, round(BORDER * height))
    left = max(1, round(BORDER * width))
    inside = hard[..., top : height - top, left : width - left]
    share_inside = inside.sum((1, 2, 3)) / hard.sum((1, 2, 3))
    return 1 - share_inside


def contrast(fall: np.ndarray, target: np.ndarray, classes: Sequence[str]) -> float:
    """Mean fall of the logits of findings that are present less that of absent ones.

    (N, K), (N, K) with NaN = unknown -> float; NaN where there are no present or no absent ones
    """
    findings = has_place(classes)
    fall = fall[:, findings]
    target = target[:, findings]
    present = fall[target == 1]
    absent = fall[target == 0]
    if not len(present) or not len(absent):
        return math.nan
    return float(present.mean() - absent.mean())
