"""Random numbers that depend on one seed an image and on nothing else: not on batch, process, worker or device.

All images of a batch are drawn at once on their device: no step waits for a generator on the host, and no state has to
be saved. The generator is counter-based: SplitMix64 (Steele et al. 2014).

Letters: B images.
"""

import math

import torch
from torch import Tensor

# One stream for each purpose, so that what is drawn for one says nothing of another. These numbers decide what a seed
# gives: changing one changes the results of every run. That is why stream 0 has two uses.
BLOB_NOISE = 0  # the smooth noise whose highest places are a random mask
CUTOUT_CENTRE = 0  # the first two numbers of an image's blobs
BLOB_SHIFT = 1  # where the grid of that noise begins
FILL_NOISE = 2  # grey noise in the place of what a mask removes
RANDOM_VIEW = 3  # whether an image is seen through a random mask, how much of it, and whether one finding is dropped
DROPPED_FINDING = 4  # which one
AUGMENTATION = 5
HOLES = 6  # of coarse dropout
REPEATS = 7  # which images come once more in an epoch
VIEW_CHOICE = 8  # which images of a large study are looked at
VIEW_DROPOUT = 9  # which images of a study are left out

MASK_24 = (1 << 24) - 1
MASK_33 = (1 << 33) - 1
MASK_34 = (1 << 34) - 1
MASK_37 = (1 << 37) - 1


def _signed(number: int) -> int:
    """The int64 of the same 64 bits: torch has no arithmetic on uint64."""
    if number >> 63:
        return number - (1 << 64)
    return number


GAMMA = _signed(0x9E3779B97F4A7C15)
FIRST = _signed(0xBF58476D1CE4E5B9)
SECOND = _signed(0x94D049BB133111EB)
STREAM_STEP = 0xD1342543DE82EF95


def _mix(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64, whose products wrap around."""
    # >> on int64 copies the sign bit to the left; the masks make it the shift of unsigned numbers.
    z = z ^ ((z >> 30) & MASK_34)
    z = z * FIRST
    z = z ^ ((z >> 27) & MASK_37)
    z = z * SECOND
    return z ^ ((z >> 31) & MASK_33)


def row_seeds(seed: int, epoch: int, rows: Tensor) -> Tensor:
    """One seed an image, another one each epoch.

    Args:
        rows: (B,) int64 rows of a table.

    Returns:
        (B,) int64 on the device of `rows`.
    """
    of_run = _mix(rows.new_full((), seed) + GAMMA)
    of_epoch = _mix(of_run + epoch + GAMMA)
    return _mix(of_epoch + rows + GAMMA)


def uniform(seeds: Tensor, count: int, stream: int) -> Tensor:
    """Draw uniform numbers in [0, 1), multiples of 2^-24.

    Args:
        seeds: (B,) int64
        stream: one of those above; each gives other numbers.

    Returns:
        (B, count) float32
    """
    # An odd multiple: the streams of a seed do not run into each other.
    offset = (2 * stream + 1) * STREAM_STEP
    start = _mix(seeds + _signed(offset % (1 << 64)))
    counter = torch.arange(1, count + 1, device=seeds.device)
    bits = _mix(start[:, None] + counter * GAMMA)  # (B, count)
    upper = (bits >> 40) & MASK_24
    return upper.float() / (1 << 24)


def normal(seeds: Tensor, count: int, stream: int) -> Tensor:
    """Draw normal numbers of mean 0 and variance 1, as `uniform`: (B,) -> (B, count). Box & Muller 1958"""
    pairs = -(-count // 2)
    u, v = uniform(seeds, 2 * pairs, stream).split(pairs, dim=1)  # (B, pairs) each
    # 1 - u is never 0, whose logarithm is infinite.
    radius = (-2 * (1 - u).log()).sqrt()
    angle = 2 * math.pi * v
    z = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return z[:, :count]
