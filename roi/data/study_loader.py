"""Batches of studies, gathered from the pixel cache: which of their images are looked at, and where each belongs.

Letters: N images of the cache, M studies, B studies of a batch, V their images, n images of the largest of them,
K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
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

PLANNED_AT_ONCE = 4096  # studies: a hundred small numpy calls a batch took longer than its pixels


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
    most = there.shape[1]
    chosen = there.copy()
    # Most studies have no more images than are looked at: nothing is drawn for them.
    large = np.flatnonzero(there.sum(1) > choice.max_views)
    if len(large):
        seeds = row_seeds(seed, epoch, index[large])
        draws = uniform(seeds, most, VIEW_CHOICE).numpy()
        # What is not there comes last.
        order = np.where(there[large], draws, 2.0)
        rank = order.argsort(1).argsort(1)
        chosen[large] &= rank < choice.max_views
    if not choice.dropout:
        return chosen
    seeds = row_seeds(seed, epoch, index)
    luck = uniform(seeds, most, VIEW_DROPOUT).numpy()
    luck = np.where(chosen, luck, -1.0)
    # The image with the most luck always stays.
    luckiest = luck == luck.max(1, keepdims=True, initial=-1.0)
    return (luck >= choice.dropout) | luckiest


def split_views(chosen: ChosenViews, sizes: np.ndarray) -> Iterator[ChosenViews]:
    """Cut the images of some batches, of (b,) `sizes` studies each, into what choose_views says of each alone."""
    is_view = chosen.place >= 0
    views_of_study = is_view.sum(1)
    ends = sizes.cumsum()
    views_until = np.append(0, views_of_study.cumsum())
    ends_of_views = views_until[ends]
    firsts = ends - sizes
    first_views = views_until[firsts]
    # Places and owners are counted from the beginning of their batch.
    place = chosen.place - np.repeat(first_views, sizes)[:, None]
    place[~is_view] = -1
    owner = chosen.owner - np.repeat(firsts, ends_of_views - first_views)
    counts = views_of_study.tolist()
    studies = zip(firsts.tolist(), ends.tolist(), strict=True)
    views = zip(first_views.tolist(), ends_of_views.tolist(), strict=True)
    for (first, end), (first_view, end_view) in zip(studies, views, strict=True):
        most = max(counts[first:end], default=0)
        rows = chosen.rows[first_view:end_view]
        owner_of_batch = owner[first_view:end_view]
        place_of_batch = place[first:end, :most]
        yield ChosenViews(rows, owner_of_batch, place_of_batch)


class Plan(NamedTuple):
    """A batch without its pixels."""

    numbers: Tensor  # (B,) of the studies, plus M for each time an epoch has had one before
    target: Tensor  # (B, K)
    rows: np.ndarray  # (V,) of the table
    views: StudyBatch


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
        self.largest = 0  # images of a batch so far

    def _from_device(self, pixels: Tensor) -> Iterator[Batch]:
        for plan in self._plans():
            views = plan.views.to(self.device)
            rows = views.rows % len(self.kinds)
            yield Batch(pixels[rows], plan.target, plan.numbers, [], studies=views)

    def _from_cache(self) -> Iterator[Batch]:
        a_study = max(1, len(self.studies))
        images = -(-len(self.studies.rows) // a_study)  # rounded up
        for plan in self._announced(self._plans(), lambda plan: plan.rows, images):
            room = self._room(len(plan.rows))
            gathered = self.cache.gather(plan.rows, room)
            # Only from pinned memory the copy to the device goes on while the step computes.
            pixels = self.accelerator.pinned(torch.from_numpy(gathered).unsqueeze(1))
            target = self.accelerator.pinned(plan.target)
            yield Batch(pixels, target, plan.numbers, [], studies=plan.views)

    def _room(self, images: int) -> np.ndarray:
        """(images, S, S) uint8, for pixels."""
        _, *sides = self.cache.pixels.shape
        # Of blocks of one size the allocator hands out again what it got back; other sizes are new pages each time,
        # which the system fills with zeros for as long as gathering takes.
        self.largest = max(self.largest, images)
        return np.empty((self.largest, *sides), dtype=np.uint8)[:images]

    def _plans(self) -> Iterator[Plan]:
        epoch = self.sampler.epoch
        batches = iter(self.sampler)
        at_once = max(1, PLANNED_AT_ONCE // self.sampler.batch_size)
        while group := list(islice(batches, at_once)):
            yield from self._plan(group, epoch)

    def _plan(self, group: list[list[int]], epoch: int) -> Iterator[Plan]:
        """Plan some batches, each a list of studies."""
        numbers = np.fromiter(chain.from_iterable(group), dtype=np.int64)
        sizes = np.array(list(map(len, group)))
        chosen = choose_views(self.studies, numbers, self.choice, epoch)
        # An image that comes again in an epoch gets another number, and so other random changes.
        rounds = numbers[chosen.owner] // len(self.studies)
        rows = torch.from_numpy(chosen.rows + rounds * len(self.kinds))
        index = torch.from_numpy(numbers)
        studies = index.to(self.targets.device) % len(self.studies)
        target = self.targets[studies]
        kinds = self.kinds[chosen.rows]
        lengths = sizes.tolist()
        of_studies = index.split(lengths), target.split(lengths)
        views = list(split_views(chosen, sizes))
        sizes_of_views = [len(batch.rows) for batch in views]
        of_images = kinds.split(sizes_of_views), rows.split(sizes_of_views)
        for batch, *parts in zip(views, *of_studies, *of_images, strict=True):
            index_of_batch, target_of_batch, kinds_of_batch, rows_of_batch = parts
            place = torch.from_numpy(batch.place)
            owner = torch.from_numpy(batch.owner)
            together = StudyBatch(place, owner, kinds_of_batch, rows_of_batch)
            yield Plan(index_of_batch, target_of_batch, batch.rows, together)
