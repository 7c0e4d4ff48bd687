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
        names = [field.name for field in fields(Augment)]
        augment = Augment(**{name: flags[name] for name in names})
        return None if augment == Augment() else augment

    @property
    def moves_pixels(self) -> bool:
        return any((self.rotate, self.shift, self.scale, self.flip))


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
        x = affine(
            x,
            angle=angle * math.radians(augment.rotate),
            scale=1 + size * augment.scale,
            across=across * augment.shift,
            down=down * augment.shift,
            mirror=torch.where(coin < 0, -1.0, 1.0) if augment.flip else torch.ones_like(coin),
        )
    if augment.brightness or augment.contrast:
        gain = _per_image(1 + spread * augment.contrast)
        offset = _per_image(light * augment.brightness)
        x = (x - MIDDLE) * gain + MIDDLE
        x = (x + 255 * offset).clamp(0, 255)
    if augment.dropout_holes:
        x = coarse_dropout(x, seeds, augment.dropout_holes)
    return x


def _per_image(values: Tensor) -> Tensor:
    """One value an image, to be multiplied with its pixels: (B,) -> (B, 1, 1, 1)."""
    return values[:, None, None, None]


def affine(
    x: Tensor,
    angle: Tensor,
    scale: Tensor,
    across: Tensor,
    down: Tensor,
    mirror: Tensor,
) -> Tensor:
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
    cos = _per_image(angle.cos())
    sin = _per_image(angle.sin())
    scale = _per_image(scale)
    mirror = _per_image(mirror)
    # Less the shift: from where a pixel lies to where it comes from.
    ys = _centres(height, x.device)[:, None] - 2 * _per_image(down)  # (B, 1, H, 1)
    xs = _centres(width, x.device) - 2 * _per_image(across)  # (B, 1, 1, W)
    # Written out pixel by pixel: a product of matrices may round otherwise in another batch.
    ratio = height / width
    turned_x = cos * xs + sin * ys * ratio  # (B, 1, H, W)
    turned_y = cos * ys - sin * xs / ratio
    source_x = turned_x / scale * mirror
    source_y = turned_y / scale
    grid = torch.stack([source_x, source_y], dim=-1).squeeze(1)  # (B, H, W, 2)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _centres(length: int, device: torch.device) -> Tensor:
    """Of the pixels along a side of an image that is -1..1."""
    places = torch.arange(length, device=device) + 0.5
    return places * 2 / length - 1


def coarse_dropout(x: Tensor, seeds: Tensor, holes: int) -> Tensor:
    """Put grey rectangles at random places inside the images: (B, 1, H, W) -> (B, 1, H, W). DeVries & Taylor 2017"""
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
    in_hole = rows.unsqueeze(-1) & columns.unsqueeze(-2)  # (B, holes, H, W)
    inside = in_hole.any(1, keepdim=True)
    return torch.where(inside, GREY, x)


# Views for --tta


def flipped(pixels: Tensor) -> Tensor:
    return pixels.flip(3)


def zoomed(pixels: Tensor, by: float) -> Tensor:
    """Images `by` times as large around the middle: (B, 1, H, W) uint8 -> (B, 1, H, W) float in 0..255."""
    zero = torch.zeros(len(pixels), device=pixels.device)
    one = torch.ones(len(pixels), device=pixels.device)
    return affine(pixels.float(), angle=zero, scale=by * one, across=zero, down=zero, mirror=one)


OTHER_VIEWS: dict[str, list[Callable[[Tensor], Tensor]]] = {  # what is looked at beside the image as it is
    "none": [],
    "flips": [flipped],
    "scales": [partial(zoomed, by=0.9), partial(zoomed, by=1.1)],
}
