"""Curves of what is kept and dropped: the learned ranking of the pixels against other choices of exactly the same area.

Insertion and deletion after Petsiuk et al. (2018), the model re-run as it was trained: what a mask keeps, and the rest.
Letters: B images, K classes, S sources, F fractions, H x W pixels. A mask is (B, 1, H, W), 1 = kept.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from roi import distributed
from roi.data.dataset import Batch
from roi.errors import UserError
from roi.models.masks import exact_topk, kept_pixels, quantize_scores, random_mask
from roi.models.roi_model import RoiModel, Views
from roi.scoring.npz_stream import ArrayWriter, origin

# Shares of the pixels that are kept.
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
# Which pixels these are: those of the mask, and controls (perturbations).
SOURCES = ("mask", "inverted", "random", "centre", "reinit")


def fractions(keep_ratio: float) -> list[float]:
    """The kept shares of a curve; the share that the masks keep is always one of them."""
    return sorted({*FRACTIONS, keep_ratio})


def ranks(score: Tensor, hard: Tensor) -> Tensor:
    """The place of each pixel in the ranking, 0 the highest: (B, 1, H, W) -> (B, 1, H, W) int64.

    Args:
        hard: exact_topk(score, k). Among scores of one grade its pixels come first, so that the first k places are
            exactly it, and masks of other sizes nest around it.
    """
    # Two stable sorts: by the mask, then by the grade.
    by_mask = hard.flatten(1).argsort(dim=1, descending=True, stable=True)  # (B, HW)
    grades = quantize_scores(score).gather(1, by_mask)
    by_grade = grades.argsort(dim=1, descending=True, stable=True)
    order = by_mask.gather(1, by_grade)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    result = torch.empty_like(order)
    result.scatter_(1, order, places)
    return result.view_as(score)


def perturbations(
    score: Tensor,
    hard: Tensor,
    reinit: Tensor,
    seeds: Tensor,
    kept: Sequence[float],
) -> Iterator[tuple[str, int, Tensor]]:
    """The mask of every source and fraction, as (source, place in `kept`, mask); each keeps as many pixels.

    `mask` keeps the highest places, `inverted` the lowest, `random` blobs, `centre` a disc around the centre, `reinit`
    the highest of the re-initialised model.

    Args:
        score: (B, 1, H, W) of the model.
        hard: (B, 1, H, W) its mask.
        reinit: (B, 1, H, W) the score of the re-initialised model.
        seeds: (B,) of the blobs.
        kept: the fractions.
    """
    height, width = score.shape[-2:]
    pixels = height * width
    place = ranks(score, hard)
    y = torch.arange(height, device=score.device) - (height - 1) / 2
    x = torch.arange(width, device=score.device) - (width - 1) / 2
    distance = y[:, None] ** 2 + x[None, :] ** 2
    nearness = -distance.expand_as(score)
    for f, fraction in enumerate(kept):
        k = kept_pixels(height, width, fraction)
        yield "mask", f, (place < k).float()
        yield "inverted", f, (place >= pixels - k).float()
        yield "random", f, random_mask(seeds.to(score.device), (height, width), k)
        yield "centre", f, exact_topk(nearness, k)
        yield "reinit", f, exact_topk(reinit, k)


class Waiting(NamedTuple):
    """An image until there is a batch of them."""

    seed: int  # of its random blobs
    pixels: Tensor  # (1, H, W)
    score: Tensor  # (1, H, W)
    hard: Tensor  # (1, H, W)
    logits: Tensor  # (K,) of the full view


class Curves:
    """Collects images, predicts on their perturbations a full batch at a time, and writes them row by row.

    As a context manager it leaves no file when an error comes before `close`.

    Args:
        models: the trained one and the re-initialised one.
        seeds: the images that have a curve, and the seed of the random blobs of each.
    """

    def __init__(
        self,
        path: str | Path,
        models: tuple[RoiModel, RoiModel],
        keep_ratio: float,
        batch_size: int,
        dtype: torch.dtype,
        seeds: dict[str, int],
    ) -> None:
        self.model, self.reinit = models
        if self.model.mask_net is None:
            raise UserError(
                f"{path}: the checkpoint has no learned mask ({self.model.mask!r}), nothing ranks the pixels; "
                "leave out --curves"
            )
        self.keep_ratio = keep_ratio
        self.kept = fractions(keep_ratio)
        self.batch_size = batch_size
        self.dtype = dtype
        self.seeds = seeds
        self.file = ArrayWriter(path)
        self.images: list[str] = []
        self.waiting: list[Waiting] = []

    def __enter__(self) -> "Curves":
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.__exit__(*exc)

    @torch.inference_mode()
    def add(self, batch: Batch, names: list[str], views: Views) -> None:
        if views.score is None or views.binary_mask is None:
            return
        for n, name in enumerate(names):
            if name not in self.seeds:
                continue
            # Copies, for a slice of the batch would keep all of it in memory.
            image = Waiting(
                seed=self.seeds[name],
                pixels=batch.pixels[n].to(views.logits_full.device).clone(),
                score=views.score[n].clone(),
                hard=views.binary_mask[n].clone(),
                logits=views.logits_full[n].clone(),
            )
            # Few images of a batch may have a curve: they wait until they are a full one.
            self.images.append(name)
            self.waiting.append(image)
            if len(self.waiting) == self.batch_size:
                self._flush()

    @torch.inference_mode()
    def _flush(self) -> None:
        """Predict on the perturbations of the images that wait, and write them."""
        seeds_of_images, *columns = zip(*self.waiting, strict=True)
        pixels, score, hard, logits = (torch.stack(column) for column in columns)
        self.waiting = []
        device = logits.device
        seeds = torch.tensor(seeds_of_images, device=device)
        shape = (len(logits), len(SOURCES), len(self.kept), logits.shape[1])  # (B, S, F, K)
        crop = torch.empty(shape, device=device)
        drop = torch.empty(shape, device=device)
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            x = self.model.normalise(pixels)
            reinit, _ = self.reinit.masks(x, self.keep_ratio, None)
            assert reinit is not None
            for source, f, m in perturbations(score, hard, reinit, seeds, self.kept):
                s = SOURCES.index(source)
                logits_crop = self.model.crop(x, m, seeds)
                crop[:, s, f] = logits_crop.sigmoid()
                logits_drop = self.model.drop(x, m, seeds)
                drop[:, s, f] = logits_drop.sigmoid()
        # What the whole image gives: curves are measured against it.
        full = logits.sigmoid()
        self.file.add(full=full.cpu().numpy(), crop=crop.cpu().numpy(), drop=drop.cpu().numpy())

    def close(self, classes: list[str], meta: dict[str, Any], contaminated: Collection[str]) -> int:
        """Write the file, and count its images.

        Args:
            meta: where it comes from.
            contaminated: images that were trained on.
        """
        if self.waiting:
            self._flush()
        # Those of process 0 come first, as do its rows in the file.
        self.images = [name for names in distributed.all_gather_objects(self.images) for name in names]
        self.file.close(
            **origin(self.images, meta, contaminated, self.file.path),
            classes=np.array(classes),
            sources=np.array(SOURCES),
            fractions=np.array(self.kept),
            keep_ratio=self.keep_ratio,
        )
        return len(self.images)
