"""Random numbers that depend on one seed an image and on nothing else: not on the batch, the process, the worker or the device.

Counter-based (SplitMix64, Steele et al. 2014): all images of a batch are drawn at once where they are, so that no step waits
for a generator on the host, and no state has to be saved. Letters: B images.
"""

import math

import torch
from torch import Tensor


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


GAMMA, FIRST, SECOND = (_signed(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(z: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64, whose products wrap around; >> is arithmetic there, hence the masks."""
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * FIRST
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * SECOND
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def row_seeds(seed: int, epoch: int, rows: Tensor) -> Tensor:
    """(B,) int64 rows of a table -> (B,) int64, one seed an image, another one each epoch; on the device of `rows`."""
    state = rows.new_full((), seed)
    return _mix(_mix(_mix(state + GAMMA) + epoch + GAMMA) + rows + GAMMA)


def uniform(seeds: Tensor, count: int, stream: int = 0) -> Tensor:
    """(B,) int64 -> (B, count) float32 in [0, 1), multiples of 2^-24. Each `stream` gives other numbers."""
    start = _mix(
        seeds + _signed((2 * stream + 1) * 0xD1342543DE82EF95 % (1 << 64))
    )  # an odd multiple: streams do not run into each other
    places = torch.arange(1, count + 1, device=seeds.device)
    return ((_mix(start[:, None] + places * GAMMA) >> 40) & ((1 << 24) - 1)).float() / (1 << 24)


def normal(seeds: Tensor, count: int, stream: int = 0) -> Tensor:
    """(B,) int64 -> (B, count) float32, mean 0 and variance 1 (Box & Muller 1958)."""
    pairs = -(-count // 2)
    u = uniform(seeds, 2 * pairs, stream)  # (B, 2 pairs)
    radius = (-2 * (1 - u[:, :pairs]).log()).sqrt()
    angle = 2 * math.pi * u[:, pairs:]
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]
