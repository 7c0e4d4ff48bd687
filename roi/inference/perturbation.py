"""Curves of what is kept and dropped: the learned ranking of the pixels against other choices of exactly the same area.

Insertion and deletion after Petsiuk et al. (2018), the model re-run as it was trained: what a mask keeps, and the rest.
Letters: B images, K classes, S sources, F fractions, H x W pixels. A mask is (B, 1, H, W), 1 = kept.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roi import distributed
from roi.data.dataset import Batch
from roi.errors import UserError
from roi.models.masks import exact_topk, kept_pixels, quantize_scores, random_mask
from roi.models.roi_model import RoiModel, Views
from roi.scoring.npz_stream import ArrayWriter, origin

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
SOURCES = ("mask", "inverted", "random", "centre", "reinit")


def fractions(keep_ratio: float) -> list[float]:
    """The kept shares of a curve; the share that the masks keep is always one of them."""
    return sorted({*FRACTIONS, keep_ratio})


def ranks(score: Tensor, hard: Tensor) -> Tensor:
    """(B, 1, H, W) score -> (B, 1, H, W) int64 place of a pixel, 0 the highest; among scores of one grade those in `hard` come first.

    `hard` is exact_topk(score, k), so that the first k places are exactly it, and masks of other sizes nest around it.
    """
    chosen = hard.flatten(1).argsort(dim=1, descending=True, stable=True)  # (B, HW)
    order = chosen.gather(1, quantize_scores(score).gather(1, chosen).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view_as(score)


def perturbations(
    score: Tensor, hard: Tensor, reinit: Tensor, seeds: Tensor, kept: Sequence[float]
) -> Iterator[tuple[str, int, Tensor]]:
    """-> (source, place in `kept`, mask) for every source and fraction.

    score, hard: of the model; reinit: the score of the re-initialised one, all (B, 1, H, W). `inverted` keeps the lowest
    places, `random` blobs (one seed an image), `centre` a disc around the centre. Each keeps kept_pixels(H, W, fraction).
    """
    height, width = score.shape[-2:]
    place = ranks(score, hard)
    y, x = (torch.arange(n, device=score.device) - (n - 1) / 2 for n in (height, width))
    near = -(y[:, None] ** 2 + x[None, :] ** 2).expand_as(score)
    for f, fraction in enumerate(kept):
        k = kept_pixels(height, width, fraction)
        yield "mask", f, (place < k).float()
        yield "inverted", f, (place >= height * width - k).float()
        yield "random", f, random_mask(seeds.to(score.device), (height, width), k)
        yield "centre", f, exact_topk(near, k)
        yield "reinit", f, exact_topk(reinit, k)


class Curves:
    """Collects the images in `seeds` (name -> seed of its random blobs), predicts on their perturbations a full batch at a time,
    and writes them row by row. `models`: the trained one and the re-initialised one.

    As a context manager it leaves no file when an error comes before `close`.
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
        self.model, other = models
        if self.model.mask_net is None:
            raise UserError(
                f"{path}: the checkpoint has no learned mask ({self.model.mask!r}), nothing ranks the pixels; leave out --curves"
            )
        self.other, self.keep_ratio, self.kept = other, keep_ratio, fractions(keep_ratio)
        self.batch_size, self.dtype, self.seeds = batch_size, dtype, seeds
        self.file = ArrayWriter(path)
        self.images: list[str] = []
        self.waiting: list[tuple[int, list[Tensor]]] = []  # seed of an image; its pixels, score, mask and logits

    def __enter__(self) -> "Curves":
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.__exit__(*exc)

    @torch.inference_mode()
    def add(self, batch: Batch, names: list[str], views: Views) -> None:
        for n, name in enumerate(names):
            if name in self.seeds and views.score is not None and views.binary_mask is not None:
                row = [
                    batch.pixels[n].to(views.logits_full.device),
                    views.score[n],
                    views.binary_mask[n],
                    views.logits_full[n],
                ]
                self.images.append(name)
                self.waiting.append(
                    (self.seeds[name], [t.clone() for t in row])
                )  # not views: they would keep the batch in memory
                if len(self.waiting) == self.batch_size:
                    self._flush()

    @torch.inference_mode()
    def _flush(self) -> None:
        pixels, score, hard, full = (
            torch.stack(rows) for rows in zip(*(tensors for _, tensors in self.waiting), strict=True)
        )
        seeds = torch.tensor([seed for seed, _ in self.waiting], device=full.device)
        self.waiting = []
        shape = (len(full), len(SOURCES), len(self.kept), full.shape[1])
        crop, drop = (torch.empty(shape, device=full.device) for _ in range(2))
        with torch.autocast(full.device.type, self.dtype, enabled=self.dtype != torch.float32):
            x = self.model.normalise(pixels)
            reinit, _ = self.other.masks(x, self.keep_ratio, None)
            assert reinit is not None
            for source, f, m in perturbations(score, hard, reinit, seeds, self.kept):
                crop[:, SOURCES.index(source), f] = self.model.crop(x, m, seeds).sigmoid()
                drop[:, SOURCES.index(source), f] = self.model.drop(x, m, seeds).sigmoid()
        self.file.add(full=full.sigmoid().cpu().numpy(), crop=crop.cpu().numpy(), drop=drop.cpu().numpy())

    def close(self, classes: list[str], meta: dict[str, Any], contaminated: Collection[str]) -> int:
        """Write the file; -> its images. `meta`: where it comes from; `contaminated`: images that were trained on."""
        if self.waiting:
            self._flush()
        self.images = [name for names in distributed.all_gather_objects(self.images) for name in names]
        self.file.close(
            **origin(self.images, meta, contaminated),
            classes=np.array(classes),
            sources=np.array(SOURCES),
            fractions=np.array(self.kept),
            keep_ratio=self.keep_ratio,
        )
        return len(self.images)
