"""Random changes of training images, on the device, each image by its own seed.

They are the same in any batch, order and process, and after a resume.

Letters: B images of H x W pixels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from roi.counter_rng import AUGMENTATION, HOLES, uniform

GREY = 255 * (0.485 + 0.456 + 0.406) / 3  # the mean of ImageNet: about 0 once normalised
MIDDLE = 127.5  # of the range
HOLE_MIN, HOLE_SPREAD = 0.02, 0.1  # of the side: a hole has 2 to 12 % of it


@dataclass(frozen=True)
class Augment:
    """How far images are changed at most; 0 leaves out."""

    rotate: float = 0.0  # degrees, either way
    shift: float = 0.0  # of the side, either way, down and across
    scale: float = 0.0  # .1: from .9 to 1.1 times as large
    flip: bool = False  # half of the images, left for right
    dropout_holes: int = 0  # grey rectangles, each side 2 to 12 % of the image's
    brightness: float = 0.0  # of the range, added or taken away
    contrast: float = 0.0  # .2: .8 to 1.2 times the distance from the middle of the range

    @staticmethod
    def of(flags: Mapping[str, Any]) -> "Augment | None":
        """The values of the flags of these names, None where all of them are 0."""
        augment = Augment(**{field.name: flags[field.name] for field in fields(Augment)})
        return None if augment == Augment() else augment

    @property
    def moves_pixels(self) -> bool:
        return bool(self.rotate or self.shift or self.scale or self.flip)


def augmented(pixels: Tensor, seeds: Tensor, augment: Augment) -> Tensor:
    """Change images at random; what comes in from outside is black.

    Args:
        pixels: (B, 1, H, W) uint8
        seeds: (B,)

    Returns:
        (B, 1, H, W) float in 0..255
    """
    # All are drawn, whatever is used: a flag that is left out does not change the others' numbers.
    draws = uniform(seeds, 7, AUGMENTATION) * 2 - 1  # (B, 7) in -1..1
    angle, size, across, down, coin, light, spread = draws.unbind(1)
    x = pixels.float()
    # One resampling for all that moves pixels: a second one would blur.
    if augment.moves_pixels:
        mirror = torch.ones_like(coin)
        if augment.flip:
            mirror = torch.where(coin < 0, -1.0, 1.0)
        x = affine(
            x,
            angle * math.radians(augment.rotate),
            1 + size * augment.scale,
            across * augment.shift,
            down * augment.shift,
            mirror,
        )
    if augment.brightness or augment.contrast:
        gain = _per_image(1 + spread * augment.contrast)
        offset = _per_image(light * augment.brightness)
        x = ((x - MIDDLE) * gain + MIDDLE + 255 * offset).clamp(0, 255)
    if augment.dropout_holes:
        x = coarse_dropout(x, seeds, augment.dropout_holes)
    return x


def _per_image(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)"""
    return values[:, None, None, None]


def affine(x: Tensor, angle: Tensor, scale: Tensor, across: Tensor, down: Tensor, mirror: Tensor) -> Tensor:
    """Turn, scale, shift and mirror images around their middle, bilinear.

    Args:
        x: (B, 1, H, W)
        angle: (B,) radians clockwise
        scale: (B,) times as large
        across, down: (B,) shares of the side to the right and down
        mirror: (B,) -1 for left and right exchanged

    Returns:
        (B, 1, H, W)
    """
    height, width = x.shape[-2:]
    # Centres of the pixels, the image is -1..1; less the shift: from where a pixel lies to where it comes from.
    ys = _centres(height, x.device)[None, :, None] - 2 * down[:, None, None]
    xs = _centres(width, x.device)[None, None, :] - 2 * across[:, None, None]
    # Written out pixel by pixel: a product of matrices may round otherwise in another batch.
    cos = angle.cos()[:, None, None]
    sin = angle.sin()[:, None, None]
    ratio = height / width
    source_x = (cos * xs + sin * ys * ratio) / scale[:, None, None] * mirror[:, None, None]
    source_y = (cos * ys - sin * xs / ratio) / scale[:, None, None]
    grid = torch.stack([source_x, source_y], dim=-1)  # (B, H, W, 2)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _centres(length: int, device: torch.device) -> Tensor:
    return (torch.arange(length, device=device) + 0.5) * 2 / length - 1


def coarse_dropout(x: Tensor, seeds: Tensor, holes: int) -> Tensor:
    """Grey rectangles at random places, inside the image (DeVries & Taylor 2017). (B, 1, H, W) -> (B, 1, H, W)"""
    height, width = x.shape[-2:]
    draws = uniform(seeds, 4 * holes, HOLES).view(-1, 4, holes, 1)
    top, left, tall, wide = draws.unbind(1)  # (B, holes, 1) each
    tall = (HOLE_MIN + HOLE_SPREAD * tall) * height
    wide = (HOLE_MIN + HOLE_SPREAD * wide) * width
    top = top * (height - tall)
    left = left * (width - wide)
    ys = torch.arange(height, device=x.device) + 0.5
    xs = torch.arange(width, device=x.device) + 0.5
    rows = (ys >= top) & (ys < top + tall)  # (B, holes, H)
    columns = (xs >= left) & (xs < left + wide)  # (B, holes, W)
    inside = rows[..., :, None] & columns[..., None, :]  # (B, holes, H, W)
    return torch.where(inside.any(1, keepdim=True), GREY, x)


# Views for --tta


def flipped(pixels: Tensor) -> Tensor:
    return pixels.flip(3)


def zoomed(pixels: Tensor, by: float) -> Tensor:
    """(B, 1, H, W) uint8 -> (B, 1, H, W) float in 0..255, `by` times as large around the middle."""
    zero = torch.zeros(len(pixels), device=pixels.device)
    one = torch.ones(len(pixels), device=pixels.device)
    return affine(pixels.float(), angle=zero, scale=by * one, across=zero, down=zero, mirror=one)


OTHER_VIEWS: dict[str, list[Callable[[Tensor], Tensor]]] = {  # what is looked at beside the image as it is
    "none": [],
    "flips": [flipped],
    "scales": [partial(zoomed, by=0.9), partial(zoomed, by=1.1)],
}
