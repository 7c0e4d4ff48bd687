"""The order of the batches: it depends on nothing but seed and epoch, and is shared out among the processes.

Letters: N rows of the table.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
import pandas as pd

from roi.data.dataset import Batch
from roi.data.order.blocks import Blocks
from roi.data.repeat_factors import rows_of_epoch

DRAWN_AT_ONCE = 4096  # rows: permutations of small groups are drawn many at a time, which is faster


class Share(NamedTuple):
    """What the batch of one process counts."""

    images: int  # of this process that count
    batch_weight: float  # relative to the mean over the processes
    step_weight: float  # the same over an optimiser step, whose loss is the mean over processes of loss * step_weight


class ShardedBatchSampler:
    """The rows of each batch of an epoch: in table order, or shuffled by (seed, epoch).

    Several processes share a shuffled batch of batch_size * world rows, each takes every world-th of it; of rows in
    order each takes every world-th of all. A process that is left without a row by the last batch gets one that counts
    nothing (`shares`), so that all of them do the same work.

    With groups, all of them have the same part of an epoch of N rows, to within one row. Each is dealt out permutation
    by permutation, and an epoch goes on where the last one ended: all rows of a group have come equally often, to
    within one. A row that an epoch has had k times already is called row + k * N, so that its random views differ.

    With expected copies, rows come more or less often than once an epoch (roi/data/repeat_factors.py), and N in all.

    Args:
        rows: N.
        seed: of the shuffles; None for table order.
        groups: (N,) the name of each row's group.
        copies: (N,) how often each row comes in the mean over epochs, adding up to N; not with groups.

    The caller sets, before an epoch:
        epoch: its number.
        start: how many of its batches are skipped (resume).
        least: images that a process needs (batch norm learns nothing from one): a last batch that has fewer goes into
            the batch before it.
        unreadable: (N,) bool, where it is known which rows have no pixels. They are dealt out with the others and then
            left out of their batches, which are then those of a loader that finds out when it reads them.
        blocks: how rows are shuffled that lie on a disk (roi/data/order/blocks.py); None: any row anywhere.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        groups: np.ndarray | None = None,
        copies: np.ndarray | None = None,
    ) -> None:
        assert groups is None or copies is None
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.groups: list[np.ndarray] = []  # the rows of each
        if groups is not None:
            for name in np.unique(groups):
                self.groups.append(np.flatnonzero(groups == name))
        self.copies = copies
        # Set by the caller before an epoch, see above.
        self.epoch = 0
        self.start = 0
        self.least = 1
        self.unreadable: np.ndarray | None = None  # (N,) bool
        self.blocks: Blocks | None = None
        # An epoch, its order, and where the windows of its blocks end.
        self._shuffled: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def global_batch_size(self) -> int:
        """Images of a batch over all processes."""
        return self.batch_size * self.world

    @property
    def merged(self) -> int:
        """Images that would have been a batch of their own, and go into the one before it; 0: none."""
        rest = self.rows % self.global_batch_size
        # All processes share what is left.
        too_few = rest < self.least * self.world
        # A batch size below `least` cannot be helped by merging the last batch.
        helps = self.batch_size >= self.least > 1
        if self.seed is None or rest == self.rows:
            return 0
        return rest if too_few and helps else 0

    @property
    def last_batch(self) -> int:
        """Images of the last batch over all processes."""
        return self._planned_size(self._count() - 1)

    def _count(self) -> int:
        """Batches of a shuffled epoch."""
        return -(-self.rows // self.global_batch_size) - bool(self.merged)

    def _planned_size(self, n: int) -> int:
        """Images of batch number `n` of a shuffled epoch over all processes, whether they can be read or not."""
        if n == self._count() - 1:
            return self.rows - n * self.global_batch_size
        return self.global_batch_size

    def __iter__(self) -> Iterator[list[int]]:
        if self.seed is None:
            return self._in_order()
        return self._in_shuffled_order(self.seed)

    def _in_order(self) -> Iterator[list[int]]:
        own = np.arange(self.rank, self.rows, self.world)
        skipped = self.start * self.batch_size
        for first in range(skipped, len(own), self.batch_size):
            batch = own[first : first + self.batch_size]
            yield self._readable(batch).tolist()

    def _in_shuffled_order(self, seed: int) -> Iterator[list[int]]:
        # Once: a loader that is ahead goes on with this epoch when the next one is named.
        order = self._shuffled_rows(seed)
        for n in range(self.start, self._count()):
            batch = self._global_batch(order, n)
            own = batch[self.rank :: self.world]
            # Every process needs a row, or it would not take part in what they do together.
            if not len(own):
                own = batch[:1]
            yield own.tolist()

    def _global_batch(self, order: np.ndarray, n: int) -> np.ndarray:
        """The readable rows of batch number `n` over all processes."""
        first = n * self.global_batch_size
        last = first + self._planned_size(n)
        return self._readable(order[first:last])

    def _shuffled_rows(self, seed: int) -> np.ndarray:
        """The rows of this epoch, shuffled."""
        # Kept for the epoch: shares() asks for the sizes of its batches, one by one.
        if self._shuffled is None or self._shuffled[0] != self.epoch:
            rows = np.arange(self.rows)
            if self.groups:
                pieces = [self._group_rows(g, seed) for g in range(len(self.groups))]
                rows = np.concatenate(pieces)
            elif self.copies is not None:
                rows = rows_of_epoch(self.copies, seed, self.epoch)
            rng = np.random.default_rng([seed, self.epoch])
            if self.blocks is None:
                self._shuffled = self.epoch, rng.permutation(rows), np.array([len(rows)])
            else:
                self._shuffled = self.epoch, *self.blocks.shuffled(rows, rng)
        return self._shuffled[1]

    def _readable(self, batch: np.ndarray) -> np.ndarray:
        if self.unreadable is None:
            return batch
        rows = batch % self.rows
        return batch[~self.unreadable[rows]]

    def _group_rows(self, g: int, seed: int) -> np.ndarray:
        """What group `g` gives to the epoch: the next piece of its permutations one after the other."""
        rows = self.groups[g]
        # Rounded so that the pieces of all groups add up to N rows in every epoch.
        count = len(self.groups)
        first = (self.epoch * self.rows + g) // count
        last = ((self.epoch + 1) * self.rows + g) // count
        cycles = max(1, DRAWN_AT_ONCE // len(rows))
        length = cycles * len(rows)
        first_block = first // length
        blocks = []
        for block in range(first_block, -(-last // length)):
            # Named by its number: an epoch can be made without those before it. 1: unlike [seed, epoch].
            rng = np.random.default_rng([seed, g, block, 1])
            repeated = np.tile(rows, (cycles, 1))
            permutations = rng.permuted(repeated, axis=1)
            blocks.append(permutations.ravel())
        begin = first_block * length
        drawn = np.concatenate(blocks)
        order = drawn[first - begin : last - begin]
        times_before = pd.Series(order).groupby(order).cumcount()
        return order + self.rows * times_before.to_numpy()

    def chunks(self, batches: int) -> Iterator[int]:
        """How many batches are read ahead at once, from `start` on: those of a window, or else so many."""
        if self.seed is not None and self.blocks is not None:
            self._shuffled_rows(self.seed)
            assert self._shuffled is not None
            _, _, ends = self._shuffled
            # A batch of two windows is read with the first of them.
            first_of_next = -(-ends // self.global_batch_size)
            later = np.unique(first_of_next[first_of_next > self.start])
            yield from np.diff(later, prepend=self.start).tolist()
        yield from repeat(batches)

    def __len__(self) -> int:
        if self.seed is not None:
            return max(0, self._count() - self.start)
        own = len(range(self.rank, self.rows, self.world))
        return -(-own // self.batch_size) - self.start

    def shares(self, group: Sequence[Batch]) -> list[Share]:
        """What the batches of a step count, the first of them number `start`.

        The gradient of a step is the mean over its images, however they lie in batches and processes.
        """
        shares = []
        if self.world == 1:
            counts = [len(batch.index) for batch in group]
            total = max(1, sum(counts))
            for images in counts:
                shares.append(Share(images, 1.0, images / total))
            return shares
        # From the plan and not from the batches: no process sees those of the others.
        sizes = [self._size(self.start + n) for n in range(len(group))]
        total = max(1, sum(sizes))
        for size in sizes:
            images = len(range(self.rank, size, self.world))
            batch_weight = images * self.world / max(1, size)
            step_weight = images * self.world / total
            shares.append(Share(images, batch_weight, step_weight))
        return shares

    def _size(self, n: int) -> int:
        """Images of batch number `n` of a shuffled epoch, over all processes."""
        if self.unreadable is None or self.seed is None:
            return self._planned_size(n)
        order = self._shuffled_rows(self.seed)
        return len(self._global_batch(order, n))
