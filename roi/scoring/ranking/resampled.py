"""AUROC and average precision of one class in many resamples: sorted once, weighed often.

All but average precision is sums of whole numbers, exact in whatever order they are taken.

Letters as in roi/scoring/ranking/blocks.py; R resamples.
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from roi.scoring.ranking.blocks import Block

LARGEST_SHORT = np.iinfo(np.int16).max


class Ranking:
    """What is known of a class after some of its blocks."""

    def __init__(self, parts: int, resamples: int) -> None:
        shape = (parts, resamples)
        self.weight = np.zeros(shape, dtype=np.int64)  # of all images
        self.positives = np.zeros(shape, dtype=np.int64)
        # Of each positive times that above it and that down to the end of its tie.
        self.pairs = np.zeros(shape, dtype=np.int64)
        self.steps: list[np.ndarray] = []  # (T, R) or (1, R) each: precision times step in recall

    def add(self, block: Block, weights: np.ndarray, most: int) -> None:
        """Go on with the next block. (N, R) weights, of which none is above `most`."""
        parts, ties = len(self.weight), block.ends[-1]
        sums = sums_of(block, weights, most)
        between, rest = sums[:ties], sums[ties : ties + parts]
        positive, tied = np.split(sums[ties + parts :], 2)
        # Over all parts in one go; `before` is what of it belongs to the parts before.
        until = np.zeros((ties + 1, sums.shape[1]), dtype=np.int32)
        np.cumsum(between, axis=0, dtype=np.int32, out=until[1:])
        before = until[block.ends]
        pairs = 2 * until[1:] - tied
        # No sum below is larger than twice the square of this.
        if until[-1].max() > LARGEST_SHORT:
            pairs, positive = pairs.astype(np.int64), positive.astype(np.int64)
        pairs *= positive
        positives = sums_of_parts(positive, block.ends)
        above = self.weight - before[:-1]
        self.pairs += sums_of_parts(pairs, block.ends)
        self.pairs += 2 * above * positives
        first_part = block.ends[1]
        self._add_steps(positive[:first_part], until[1 : first_part + 1])
        self.positives += positives
        self.weight += np.diff(before, axis=0) + rest

    def _add_steps(self, positive: np.ndarray, until: np.ndarray) -> None:
        """Of the ties of all images in a block. (T, R), (T, R) weight up to the end of each, of this block alone"""
        if not len(positive):
            return
        hits = np.cumsum(positive, axis=0, dtype=np.int32)
        hits += self.positives[0].astype(np.int32)
        called = until + self.weight[0].astype(np.int32)
        # Where nothing is called, nothing is hit.
        np.maximum(called, 1, out=called)
        steps = hits.astype(np.float64)
        steps *= positive.astype(np.float64)
        steps /= called.astype(np.float64)
        self.steps.append(steps)
        # Tie after tie, as resamples have always been summed; numpy sums a single one in another order.
        if steps.shape[1] > 1:
            so_far = np.concatenate(self.steps)
            self.steps = [so_far.sum(axis=0, keepdims=True)]

    def scores(self) -> np.ndarray:
        """AUROC and average precision of all images, then the AUROC of each group; NaN: undefined. (R, 1 + G)"""
        positives = self.positives.astype(np.float64)
        negatives = (self.weight - self.positives).astype(np.float64)
        undefined = (positives == 0) | (negatives == 0)
        # Less the pairs of positives, it counts negatives above; those in the tie count half.
        above = (self.pairs - self.positives**2) / 2
        precision = np.zeros(positives.shape[1])
        if self.steps:
            precision = np.concatenate(self.steps).sum(axis=0)
        pairs = positives * negatives
        with np.errstate(divide="ignore", invalid="ignore"):
            area = (pairs - above) / pairs
            precision = precision / positives[0]
        area[undefined] = np.nan
        precision[undefined[0]] = np.nan
        return np.stack([area[0], precision, *area[1:]], axis=1)


def sums_of(block: Block, weights: np.ndarray, most: int) -> np.ndarray:
    """The sums of a block (T + G + T + T, R), in two bytes where they fit."""
    short = block.longest * most <= LARGEST_SHORT
    dtype = np.int16 if short else np.int32
    sums = block.sums if short else block.sums.astype(dtype)
    # The images of a block lie anywhere among all; from here on their weights stay in the cache.
    weight = np.take(weights, block.rows, axis=0)
    return sums @ weight.astype(dtype)


def sums_of_parts(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The sum of the ties of each part. (T, R), (G + 1,) -> (G, R)"""
    sums = np.empty((len(ends) - 1, values.shape[1]), dtype=np.int64)
    for g, (first, end) in enumerate(pairwise(ends)):
        sums[g] = values[first:end].sum(axis=0, dtype=values.dtype)
    return sums


def rank(blocks: Iterable[Block], parts: int, weights: np.ndarray, most: int) -> np.ndarray:
    """AUROC and average precision of a class, then the AUROC of each group. (N, R), none above `most` -> (R, 1 + G)"""
    ranking = Ranking(parts, weights.shape[1])
    if weights.shape[1]:
        for block in blocks:
            ranking.add(block, weights, most)
    return ranking.scores()
