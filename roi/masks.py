"""Masks that keep exactly k pixels of an image: learned (top-k of a score), random or a square.

Letters: B images, H x W pixels. A mask is (B, 1, H, W), 1 = kept.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def kept_pixels(height: int, width: int, keep_ratio: float) -> int:
    """k = max(1, round(keep_ratio * H * W))"""
    return max(1, round(keep_ratio * height * width))


def exact_topk(score: Tensor, k: int) -> Tensor:
    """(B, 1, H, W) -> 0/1 of the same shape: exactly k ones an image, on its highest scores, whatever the ties."""
    flat = score.detach().flatten(1)  # (B, HW)
    best = flat.topk(k, dim=1, sorted=False).indices  # (B, k)
    return torch.zeros_like(flat).scatter_(1, best, 1.0).view_as(score)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard`, the gradient of `soft` (Bengio et al. 2013). The bracket is exactly 0, so that m is exactly 0/1."""
    return hard + (soft - soft.detach())


def standardised(maps: Tensor) -> Tensor:
    """Each map with mean 0 and spread 1. (B, M, h, w) -> (B, M, h, w); a constant map becomes 0."""
    flat = maps.flatten(2)
    return (maps - flat.mean(2)[:, :, None, None]) / (flat.std(2)[:, :, None, None] + 1e-6)


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells to pixels, bilinear. (B, M, h, w) -> (B, M, H, W)"""
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def competing(score: Tensor, k: int, tau: float = 0.5) -> Tensor:
    """s = sigmoid((z - z_(k)) / tau), z with mean 0 and spread 1, z_(k) its k-th highest value: pixels compete for k places, so that
    s neither saturates nor dies, whatever the scale of the score. (B, 1, H, W) -> (B, 1, H, W) in (0, 1); no gradient through z_(k)."""
    z = standardised(score)
    kth = z.detach().flatten(1).topk(k, dim=1).values[:, -1]  # (B,)
    return ((z - kth[:, None, None, None]) / tau).sigmoid()


def random_mask(seeds: Sequence[int], size: tuple[int, int], k: int, cell: int = 16) -> Tensor:
    """Blobs at random places: top-k of smooth noise -> (B, 1, H, W). One seed an image.

    The noise lives on a grid of `cell` pixels, whose nodes are the likely places: the grid itself is shifted at random.
    """
    height, width = size
    grid = (math.ceil(height / cell) + 2, math.ceil(width / cell) + 2)
    scores = []
    for generator in (torch.Generator().manual_seed(s) for s in seeds):
        noise = F.interpolate(torch.randn(1, 1, *grid, generator=generator), size=[(n - 1) * cell for n in grid], mode="bilinear", align_corners=True)
        top, left = torch.randint(cell, (2,), generator=generator).tolist()
        scores.append(noise[0, :, top : top + height, left : left + width])
    return exact_topk(torch.stack(scores), k)


def cutout_mask(seeds: Sequence[int], size: tuple[int, int], k: int) -> Tensor:
    """The square of Cutout (DeVries & Taylor 2017), of k pixels, at a random place -> (B, 1, H, W); the drop view is Cutout."""
    half = math.sqrt(k) / 2
    centres = torch.stack([torch.rand(2, generator=torch.Generator().manual_seed(s)) for s in seeds])  # (B, 2), in 0..1
    y, x = (torch.arange(n, dtype=torch.float32) + 0.5 for n in size)
    cy, cx = (min(half, n / 2) + centres[:, i] * max(n - 2 * half, 0) for i, n in enumerate(size))
    away = torch.maximum((y[None] - cy[:, None]).abs()[:, :, None], (x[None] - cx[:, None]).abs()[:, None, :])  # (B, H, W)
    return exact_topk(-away[:, None], k)
