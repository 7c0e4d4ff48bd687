"""Masks that keep exactly k pixels of an image: learned (top-k of a score), random or a square.

Letters: B images, H x W pixels. A mask is (B, 1, H, W), 1 = kept.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from roi.counter_rng import normal, uniform


def kept_pixels(height: int, width: int, keep_ratio: float) -> int:
    """k = max(1, round(keep_ratio * H * W))"""
    return max(1, round(keep_ratio * height * width))


def exact_topk(score: Tensor, k: int) -> Tensor:
    """(B, 1, H, W) -> 0/1 of the same shape: exactly k ones an image, on its highest scores, whatever the ties (`graded`)."""
    flat = quantize_scores(score)
    best = flat.topk(k, dim=1, sorted=False).indices  # (B, k)
    return torch.zeros_like(flat).scatter_(1, best, 1.0).view_as(score)


def quantize_scores(score: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, HW) in grades of a 512th of the spread of an image: scores of one grade tie, so that rounding errors, which
    differ with the batch and the machine, do not choose among pixels that are equal but for them."""
    flat = score.detach().flatten(1).float()
    return ((flat - flat.mean(1, keepdim=True)) * (512 / flat.std(1, keepdim=True).clamp(min=1e-30))).round()


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard`, the gradient of `soft` (Bengio et al. 2013). The bracket is exactly 0, so that m is exactly 0/1."""
    return hard + (soft - soft.detach())


def standardised(maps: Tensor) -> Tensor:
    """Each map with mean 0 and spread 1. (B, M, h, w) -> (B, M, h, w); a constant map becomes 0."""
    flat = maps.flatten(2)
    return (maps - flat.mean(2)[:, :, None, None]) / (flat.std(2)[:, :, None, None] + 1e-6)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells to pixels, bilinear. (B, M, h, w) -> (B, M, H, W)"""
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def soft_topk(score: Tensor, k: int, tau: float = 0.5) -> Tensor:
    """s = sigmoid((z - z_(k)) / tau), z with mean 0 and spread 1, z_(k) its k-th highest value: pixels compete for k places, so that
    s neither saturates nor dies, whatever the scale of the score. (B, 1, H, W) -> (B, 1, H, W) in (0, 1); no gradient through z_(k)."""
    z = standardised(score)
    kth = z.detach().flatten(1).topk(k, dim=1).values[:, -1]  # (B,)
    return ((z - kth[:, None, None, None]) / tau).sigmoid()


def random_mask(seeds: Tensor, size: tuple[int, int], k: int | Tensor, cell: int = 16) -> Tensor:
    """Blobs at random places: top-k of smooth noise -> (B, 1, H, W). One seed an image (roi/counter_rng.py); k may be (B,), one an image.

    The noise lives on a grid of `cell` pixels, whose nodes are the likely places: the grid itself is shifted at random.
    """
    height, width = size
    grid = (math.ceil(height / cell) + 2, math.ceil(width / cell) + 2)
    noise = normal(seeds, grid[0] * grid[1]).view(-1, 1, *grid)
    noise = F.interpolate(noise, size=[(n - 1) * cell for n in grid], mode="bilinear", align_corners=True)
    top, left = (uniform(seeds, 2, stream=1) * cell).long().unbind(1)  # (B,), in 0 .. cell - 1
    rows, columns = (
        top[:, None] + torch.arange(height, device=seeds.device),
        left[:, None] + torch.arange(width, device=seeds.device),
    )
    images = torch.arange(len(seeds), device=seeds.device)
    score = noise[images[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]  # (B, 1, H, W)
    return exact_topk(score, k) if isinstance(k, int) else without_lowest(score, height * width - k)


def without_lowest(score: Tensor, dropped: Tensor) -> Tensor:
    """(B, 1, H, W), (B,) -> 0/1: all but the `dropped[b]` lowest pixels of each image; at most a quarter of them."""
    flat = score.detach().flatten(1)  # (B, HW)
    lowest = flat.topk(flat.shape[1] // 4, dim=1, largest=False, sorted=True).indices
    kept = (torch.arange(lowest.shape[1], device=score.device) >= dropped[:, None]).float()
    return torch.ones_like(flat).scatter_(1, lowest, kept).view_as(score)


def cutout_mask(seeds: Tensor, size: tuple[int, int], k: int) -> Tensor:
    """The square of Cutout (DeVries & Taylor 2017), of k pixels, at a random place -> (B, 1, H, W); the drop view is Cutout."""
    half = math.sqrt(k) / 2
    centres = uniform(seeds, 2)  # (B, 2)
    y, x = (torch.arange(n, dtype=torch.float32, device=seeds.device) + 0.5 for n in size)
    cy, cx = (min(half, n / 2) + centres[:, i] * max(n - 2 * half, 0) for i, n in enumerate(size))
    away = torch.maximum(
        (y[None] - cy[:, None]).abs()[:, :, None], (x[None] - cx[:, None]).abs()[:, None, :]
    )  # (B, H, W)
    return exact_topk(-away[:, None], k)
