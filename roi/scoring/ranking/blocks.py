"""One class, its images sorted by score, in blocks that fit the cache of a core, with the sums that a resample needs.

AUROC and average precision change only at ties that hold a positive (an image that shares its score with none is a tie
of its own). Which images lie between two of them is the same in all resamples; only their weights differ.

Letters: n images of known target, highest scores first, N images in all, B of a block, G parts: all images, then each
group of them; T ties of a part that hold a positive, of all parts together where a block is meant; C blocks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse

# Images of a block. Their weights in 64 resamples take half a megabyte, a core's own cache is rarely smaller.
BLOCK = 4096


@dataclass(frozen=True)
class Block:
    """Images that follow each other; it never parts a tie."""

    rows: np.ndarray  # (B,) places among all N
    # (T + G + T + T, B) ones: what lies after the last tie up to the end of this one, after the last tie of each part,
    # the positives of each tie, all images of each tie.
    sums: sparse.csr_array
    ends: np.ndarray  # (G + 1,) the ties of part g are ends[g] : ends[g + 1]
    longest: int  # images of the longest sum


class Sums(NamedTuple):
    """Sums over images that follow each other."""

    members: np.ndarray  # (m,) places among the n sorted images, ascending
    ends: np.ndarray  # (T,) members up to the end of each sum
    limits: np.ndarray  # (C + 1,) members before each block

    def of_block(self, b: int, ties: slice) -> tuple[np.ndarray, np.ndarray]:
        """Members and lengths of the sums of one block."""
        first = self.limits[b]
        ends = self.ends[ties]
        last = ends[-1] if len(ends) else first
        return self.members[first:last], np.diff(ends, prepend=first)


class Part(NamedTuple):
    """All images, or a group of them."""

    ties: np.ndarray  # (C + 1,) ties before each block
    between: Sums
    positives: Sums
    tied: Sums

    def of_block(self, b: int) -> slice:
        return slice(self.ties[b], self.ties[b + 1])

    def rest(self, b: int) -> tuple[np.ndarray, np.ndarray]:
        """Members of a block after its last tie, as a sum."""
        first, end = self.between.limits[b : b + 2]
        ends = self.between.ends[self.of_block(b)]
        if len(ends):
            first = ends[-1]
        return self.between.members[first:end], np.array([end - first])


def blocks_of(score: np.ndarray, target: np.ndarray, rows: np.ndarray, groups: Sequence[np.ndarray]) -> list[Block]:
    """Sort the images of a class and cut them into blocks.

    Args:
        score: (n,).
        target: (n,) of 0/1.
        rows: (n,) places of these images among all N.
        groups: (N,) bool each.
    """
    images = len(score)
    order = np.argsort(-score)
    changes = np.flatnonzero(np.diff(score[order])) + 1
    start = np.concatenate([[0], changes, [images]])  # of each tie, and the end
    ties = np.arange(len(start) - 1, dtype=np.int32)
    tie = np.repeat(ties, np.diff(start))  # (n,)
    cuts = cut_between_ties(start)
    is_positive = target[order] == 1
    sorted_rows = rows[order]
    everything = np.arange(images, dtype=np.int32)
    parts = [part_of(everything, tie, is_positive, cuts)]
    for group in groups:
        members = np.flatnonzero(group[sorted_rows])
        members = members.astype(np.int32)
        parts.append(part_of(members, tie, is_positive, cuts))
    return list(assemble(parts, sorted_rows, cuts))


def cut_between_ties(start: np.ndarray) -> np.ndarray:
    """Where blocks begin, and the end. A block has at most BLOCK images, unless one tie has more. (C + 1,)"""
    cuts = [0]
    while cuts[-1] < start[-1]:
        place = np.searchsorted(start, cuts[-1] + BLOCK, side="right") - 1
        if start[place] == cuts[-1]:
            place += 1
        cuts.append(int(start[place]))
    return np.array(cuts)


def part_of(members: np.ndarray, tie: np.ndarray, is_positive: np.ndarray, cuts: np.ndarray) -> Part:
    """The sums of some of the sorted images. (M,), (n,) tie of each image, (n,) bool, (C + 1,)"""
    positives = members[is_positive[members]]
    tie_of_member, tie_of_positive = tie[members], tie[positives]
    ties, first = np.unique(tie_of_positive, return_index=True)
    begin = np.searchsorted(tie_of_member, ties)
    end = np.searchsorted(tie_of_member, ties, side="right")
    size = end - begin
    # Where most scores differ, most ties are one positive.
    tied = positives
    if size.sum() > len(positives):
        steps = np.zeros(len(members) + 1, dtype=np.int8)
        steps[begin] += 1
        steps[end] -= 1
        is_tied = np.cumsum(steps[:-1], dtype=np.int8) == 1
        tied = members[is_tied]

    def sums(among: np.ndarray, ends: np.ndarray) -> Sums:
        return Sums(among, ends, np.searchsorted(among, cuts))

    return Part(
        np.searchsorted(positives[first], cuts),
        sums(members, end),
        sums(positives, np.searchsorted(tie_of_positive, ties, side="right")),
        sums(tied, np.cumsum(size)),
    )


def assemble(parts: Sequence[Part], rows: np.ndarray, cuts: np.ndarray) -> Iterator[Block]:
    """The blocks of the sums of all parts."""
    for b in range(len(cuts) - 1):
        first, end = cuts[b], cuts[b + 1]
        pieces = sums_of_block(parts, b)
        members = np.concatenate([among for among, _ in pieces])
        lengths = np.concatenate([length for _, length in pieces])
        pointers = np.append(0, np.cumsum(lengths))
        places = (members - first).astype(np.int32)
        ones = np.ones(len(places), dtype=np.int16)
        matrix = ones, places, pointers.astype(np.int32)
        sums = sparse.csr_array(matrix, shape=(len(lengths), end - first))
        ties = [part.ties[b + 1] - part.ties[b] for part in parts]
        ends = np.append(0, np.cumsum(ties))
        yield Block(rows[first:end], sums, ends, int(lengths.max()))


def sums_of_block(parts: Sequence[Part], b: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Members and lengths of the sums of a block, in the order of Block.sums."""
    between, rests, positives, tied = [], [], [], []
    for part in parts:
        ties = part.of_block(b)
        between.append(part.between.of_block(b, ties))
        rests.append(part.rest(b))
        positives.append(part.positives.of_block(b, ties))
        tied.append(part.tied.of_block(b, ties))
    return [*between, *rests, *positives, *tied]
