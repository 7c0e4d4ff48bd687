"""Batches of studies, gathered from the pixel cache: which of their images are looked at, and where each belongs.

Letters: N images of the cache, M studies, B studies of a batch, V their images, n images of the largest of them,
K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from roi.counter_rng import VIEW_CHOICE, VIEW_DROPOUT, row_seeds, uniform
from roi.data.dataset import Batch, StudyBatch
from roi.data.loader import CacheLoader
from roi.data.pixel_cache import PixelCache
from roi.data.sampler import ShardedBatchSampler
from roi.data.studies import Studies


@dataclass(frozen=True)
class ViewChoice:
    """Which images of a study are looked at."""

    max_views: int
    seed: int | None = None  # of the draws in training; None: the first ones, in the order of the study
    dropout: float = 0.0  # share of the images that training leaves out; one always stays


class ChosenViews(NamedTuple):
    """The images of a batch."""

    rows: np.ndarray  # (V,) of the table, study after study
    owner: np.ndarray  # (V,) which of the B studies
    place: np.ndarray  # (B, n) places among the V; -1 where a study has no more


def choose_views(studies: Studies, index: np.ndarray, choice: ViewChoice, epoch: int = 0) -> ChosenViews:
    """The images of some studies.

    A study's draws depend on seed, epoch and study alone: not on its batch, the process or a resume.

    Args:
        index: (B,) studies, plus M for each time an epoch has had one before: its draws are then others.
    """
    number = index % len(studies)
    first = studies.start[number]
    # Of these studies alone: a table has a hundred thousand.
    sizes = studies.start[number + 1] - first
    slots = np.arange(sizes.max(initial=0))
    there = slots < sizes[:, None]  # (B, n)
    if choice.seed is None:
        chosen = there & (slots < choice.max_views)
    else:
        chosen = _drawn(there, torch.from_numpy(index), choice, choice.seed, epoch)
    owner, slot = np.nonzero(chosen)
    rows = studies.rows[first[owner] + slot]
    counts = chosen.sum(1)
    most = counts.max(initial=0)
    place = np.full((len(index), most), -1, dtype=np.int64)
    taken = np.arange(most) < counts[:, None]
    place[taken] = np.arange(len(rows))
    return ChosenViews(rows, owner, place)


def _drawn(there: np.ndarray, index: Tensor, choice: ViewChoice, seed: int, epoch: int) -> np.ndarray:
    """(B, n) bool: at most max_views of the images that are `there`, less those that view dropout leaves out."""
    seeds = row_seeds(seed, epoch, index)
    most = there.shape[1]
    draws = uniform(seeds, most, VIEW_CHOICE).numpy()
    # What is not there comes last.
    order = np.where(there, draws, 2.0)
    rank = order.argsort(1).argsort(1)
    chosen = there & (rank < choice.max_views)
    if not choice.dropout:
        return chosen
    luck = uniform(seeds, most, VIEW_DROPOUT).numpy()
    luck = np.where(chosen, luck, -1.0)
    # The image with the most luck always stays.
    luckiest = luck == luck.max(1, keepdims=True)
    return (luck >= choice.dropout) | luckiest


class StudyLoader(CacheLoader):
    """Batches of studies from a pixel cache; their targets are of studies, their pixels of all images side by side.

    Args:
        targets: (M, K) float32.
        sampler: of studies.
    """

    def __init__(
        self,
        cache: PixelCache,
        studies: Studies,
        targets: np.ndarray,
        sampler: ShardedBatchSampler,
        choice: ViewChoice,
        device: torch.device,
        on_device: bool,
        prefetch: int,
    ) -> None:
        super().__init__(cache, targets, sampler, device, on_device, prefetch)
        self.studies = studies
        self.choice = choice
        self.kinds = torch.from_numpy(studies.kinds.astype(np.int64))

    def _from_device(self, pixels: Tensor) -> Iterator[Batch]:
        for numbers in self.sampler:
            index, views = self._views(numbers)
            views = views.to(self.device)
            rows = views.rows % len(self.kinds)
            studies = index.to(self.device) % len(self.studies)
            yield Batch(pixels[rows], self.targets[studies], index, [], studies=views)

    def _from_cache(self) -> Iterator[Batch]:
        for numbers in self.sampler:
            index, views = self._views(numbers)
            rows = views.rows % len(self.kinds)
            gathered = self.cache.gather(rows.numpy())
            pixels = torch.from_numpy(gathered).unsqueeze(1)
            target = self.targets[index % len(self.studies)]
            # Only from pinned memory the copy to the device goes on while the step computes.
            if self.device.type == "cuda":
                pixels, target = pixels.pin_memory(), target.pin_memory()
            yield Batch(pixels, target, index, [], studies=views)

    def _views(self, numbers: list[int]) -> tuple[Tensor, StudyBatch]:
        index = np.array(numbers, dtype=np.int64)
        chosen = choose_views(self.studies, index, self.choice, self.sampler.epoch)
        # An image that comes again in an epoch gets another number, and so other random changes.
        rounds = index[chosen.owner] // len(self.studies)
        rows = chosen.rows + rounds * len(self.kinds)
        place, owner, numbers_of_rows = map(torch.from_numpy, (chosen.place, chosen.owner, rows))
        views = StudyBatch(place, owner, self.kinds[chosen.rows], numbers_of_rows)
        return torch.from_numpy(index), views
