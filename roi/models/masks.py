"""Masks that keep exactly k pixels of an image: learned (top-k of a score), random or a square.

Letters: B images, M maps, H x W pixels. A mask is (B, 1, H, W), 1 = kept.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from roi.counter_rng import BLOB_NOISE, BLOB_SHIFT, CUTOUT_CENTRE, normal, uniform

GRADES = 512  # of a score, in one standard deviation of the scores of its image


def kept_pixels(height: int, width: int, keep_ratio: float) -> int:
    """The number of pixels that a mask keeps, at least one."""
    return max(1, round(keep_ratio * height * width))


def exact_topk(score: Tensor, k: int) -> Tensor:
    """Exactly k ones an image, on its highest scores, whatever the ties: (B, 1, H, W) -> 0/1 of the same shape."""
    grades = quantize_scores(score)
    highest = grades.topk(k, dim=1, sorted=False).indices  # (B, k)
    mask = torch.zeros_like(grades)
    mask.scatter_(1, highest, 1.0)
    return mask.view_as(score)


def quantize_scores(score: Tensor) -> Tensor:
    """Scores in grades of a 512th of the spread of their image, where equal ones tie: (B, 1, H, W) -> (B, HW)."""
    # Rounding errors, which differ with the batch and the machine, may not choose among pixels that are else equal.
    flat = score.detach().flatten(1).float()
    mean = flat.mean(1, keepdim=True)
    spread = flat.std(1, keepdim=True)
    grades_per_unit = GRADES / spread.clamp(min=1e-30)
    grades = (flat - mean) * grades_per_unit
    return grades.round()


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard` with the gradient of `soft` (Bengio et al. 2013)."""
    # The bracket is exactly 0, so that the mask stays exactly 0/1; (hard - soft) + soft would round.
    return hard + (soft - soft.detach())


def standardised(maps: Tensor) -> Tensor:
    """Each map with mean 0 and spread 1, a constant one with 0 everywhere: (B, M, h, w) -> (B, M, h, w)."""
    flat = maps.flatten(2)
    mean = flat.mean(2)  # (B, M)
    spread = flat.std(2)
    centred = maps - mean[:, :, None, None]
    return centred / (spread[:, :, None, None] + 1e-6)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells to pixels, bilinear: (B, M, h, w) -> (B, M, H, W)."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def per_image(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1), to go with maps."""
    return values[:, None, None, None]


def soft_topk(score: Tensor, k: int, tau: float = 0.5) -> Tensor:
    """A soft mask in which pixels compete for k places: (B, 1, H, W) -> (B, 1, H, W) in (0, 1).

    s = sigmoid((z - z_(k)) / tau), z with mean 0 and spread 1, z_(k) its k-th highest value: s neither saturates nor
    dies, whatever the scale of the score. No gradient goes through z_(k).
    """
    z = standardised(score)
    flat = z.detach().flatten(1)  # (B, HW)
    highest = flat.topk(k, dim=1).values  # (B, k)
    margin = z - per_image(highest[:, -1])
    return torch.sigmoid(margin / tau)


def random_mask(seeds: Tensor, size: tuple[int, int], k: int | Tensor, cell: int = 16) -> Tensor:
    """Blobs at random places, the top-k of smooth noise: -> (B, 1, H, W).

    Args:
        seeds: (B,) one an image (roi/counter_rng.py).
        size: height and width in pixels.
        k: pixels that are kept; (B,), one an image, where most of them are.
        cell: pixels between the nodes of the noise.
    """
    height, width = size
    device = seeds.device
    rows = math.ceil(height / cell) + 2  # of nodes
    columns = math.ceil(width / cell) + 2
    nodes = normal(seeds, rows * columns, BLOB_NOISE)
    nodes = nodes.view(-1, 1, rows, columns)
    pixels = [(rows - 1) * cell, (columns - 1) * cell]
    noise = F.interpolate(nodes, size=pixels, mode="bilinear", align_corners=True)
    # Nodes are the likely places of a blob: a random shift makes all pixels equally likely.
    shift = uniform(seeds, 2, BLOB_SHIFT) * cell  # (B, 2)
    top, left = shift.long().unbind(1)  # (B,), in 0 .. cell - 1
    y = top[:, None] + torch.arange(height, device=device)  # (B, H)
    x = left[:, None] + torch.arange(width, device=device)  # (B, W)
    image = torch.arange(len(seeds), device=device)
    # The window of each image in its own noise, without a loop over them.
    image = image[:, None, None]
    y = y[:, :, None]
    x = x[:, None, :]
    score = noise[image, 0, y, x][:, None]  # (B, 1, H, W)
    if isinstance(k, int):
        return exact_topk(score, k)
    return without_lowest(score, height * width - k)


def without_lowest(score: Tensor, dropped: Tensor) -> Tensor:
    """All but the `dropped` (B,) lowest pixels of each image, at most a quarter: (B, 1, H, W) -> 0/1 of that shape."""
    flat = score.detach().flatten(1)  # (B, HW)
    # The largest number is not asked for: it would have to come from the device, and the step would wait for it.
    quarter = flat.shape[1] // 4
    lowest = flat.topk(quarter, dim=1, largest=False, sorted=True).indices
    rank = torch.arange(quarter, device=score.device)
    kept = (rank >= dropped[:, None]).float()
    mask = torch.ones_like(flat)
    mask.scatter_(1, lowest, kept)
    return mask.view_as(score)


def cutout_mask(seeds: Tensor, size: tuple[int, int], k: int) -> Tensor:
    """A square of k pixels at a random place -> (B, 1, H, W); the drop view is Cutout (DeVries & Taylor 2017)."""
    half = math.sqrt(k) / 2
    draws = uniform(seeds, 2, CUTOUT_CENTRE)  # (B, 2)
    distances = []  # of each row, and of each column, from the centre of the square
    for axis, pixels in enumerate(size):
        places = torch.arange(pixels, dtype=torch.float32, device=seeds.device)
        middles = places + 0.5
        # The square lies inside the image.
        first = min(half, pixels / 2)
        room = max(pixels - 2 * half, 0)
        centre = first + draws[:, axis] * room  # (B,)
        distances.append((middles - centre[:, None]).abs())
    rows, columns = distances  # (B, H), (B, W)
    # The larger of the two is alike all along the sides of a square.
    rows = rows[:, None, :, None]
    columns = columns[:, None, None, :]
    distance = torch.maximum(rows, columns)  # (B, 1, H, W)
    return exact_topk(-distance, k)
