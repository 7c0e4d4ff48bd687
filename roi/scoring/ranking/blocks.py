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

    def rest(self, b: int) -> np.ndarray:
        """Members of a block after its last tie."""
        last = self.ties[b + 1]
        first = self.between.limits[b]
        if last > self.ties[b]:
            first = self.between.ends[last - 1]
        return self.between.members[first : self.between.limits[b + 1]]


def blocks_of(score: np.ndarray, target: np.ndarray, rows: np.ndarray, groups: Sequence[np.ndarray]) -> list[Block]:
    """Sort the images of a class and cut them into blocks.

    Args:
        score: (n,).
        target: (n,) of 0/1.
        rows: (n,) places of these images among all N.
        groups: (N,) bool each.
    """
    order = np.argsort(-score)
    in_order = score[order]
    changes = np.flatnonzero(np.diff(in_order)) + 1
    start = np.concatenate([[0], changes, [len(order)]])  # of each tie, and the end
    tie = np.repeat(np.arange(len(start) - 1, dtype=np.int32), np.diff(start))  # (n,)
    cuts = cut_between_ties(start)
    is_positive = target[order] == 1
    sorted_rows = rows[order]
    parts = [part_of(np.arange(len(order), dtype=np.int32), tie, is_positive, cuts)]
    for group in groups:
        members = np.flatnonzero(group[sorted_rows])
        parts.append(part_of(members.astype(np.int32), tie, is_positive, cuts))
    most = max(map(sum_of_lengths, parts), default=0)
    ones = np.ones(len(parts) * most, dtype=np.int16)
    return list(assemble(parts, sorted_rows, cuts, ones))


def sum_of_lengths(part: Part) -> int:
    return len(part.between.members) + len(part.positives.members) + len(part.tied.members)


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
    # Where most scores differ, most ties are one positive.
    tied = positives
    if (end - begin).sum() > len(positives):
        steps = np.zeros(len(members) + 1, dtype=np.int8)
        steps[begin] += 1
        steps[end] -= 1
        tied = members[np.cumsum(steps[:-1], dtype=np.int8) == 1]

    def sums(among: np.ndarray, ends: np.ndarray) -> Sums:
        return Sums(among, ends, np.searchsorted(among, cuts))

    last_positive = np.append(first[1:], len(positives))[: len(ties)]
    ties_before = np.searchsorted(positives[first], cuts)
    return Part(
        ties_before,
        sums(members, end),
        sums(positives, last_positive),
        sums(tied, np.cumsum(end - begin)),
    )


def assemble(parts: Sequence[Part], rows: np.ndarray, cuts: np.ndarray, ones: np.ndarray) -> Iterator[Block]:
    """The blocks of the sums of all parts; `ones`: as many as a block needs at most."""
    for b in range(len(cuts) - 1):
        ties = [slice(part.ties[b], part.ties[b + 1]) for part in parts]
        rests = [part.rest(b) for part in parts]
        between = [part.between.of_block(b, held) for part, held in zip(parts, ties, strict=True)]
        others = [part.positives.of_block(b, held) for part, held in zip(parts, ties, strict=True)]
        others += [part.tied.of_block(b, held) for part, held in zip(parts, ties, strict=True)]
        pieces = [*between, *((rest, np.array([len(rest)])) for rest in rests), *others]
        members = np.concatenate([held for held, _ in pieces])
        lengths = np.concatenate([length for _, length in pieces])
        pointers = np.append(0, np.cumsum(lengths)).astype(np.int32)
        shape = (len(lengths), cuts[b + 1] - cuts[b])
        places = (members - cuts[b]).astype(np.int32)
        sums = sparse.csr_array((ones[: len(places)], places, pointers), shape=shape)
        counts = [held.stop - held.start for held in ties]
        ends = np.append(0, np.cumsum(counts))
        yield Block(rows[cuts[b] : cuts[b + 1]], sums, ends, int(lengths.max()))
