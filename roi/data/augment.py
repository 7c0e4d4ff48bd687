"""Random changes of training images, on the device, each image by its own seed: the same in any batch, order and process, and after a resume.

Letters: B images of H x W pixels.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from roi.counter_rng import AUGMENTATION, HOLES, uniform

GREY = 255 * (0.485 + 0.456 + 0.406) / 3  # the mean of ImageNet: about 0 once normalised


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
    def of(args: argparse.Namespace) -> "Augment | None":
        """The flags, None where all of them are 0."""
        how = Augment(
            args.rotate, args.shift, args.scale, args.flip, args.dropout_holes, args.brightness, args.contrast
        )
        return None if how == Augment() else how


def augmented(pixels: Tensor, seeds: Tensor, how: Augment) -> Tensor:
    """(B, 1, H, W) uint8, (B,) seeds -> (B, 1, H, W) float in 0..255. One resampling for all that moves pixels; what comes in from outside is black."""
    angle, size, across, down, coin, light, spread = (uniform(seeds, 7, AUGMENTATION) * 2 - 1).unbind(
        1
    )  # (B,) each, in -1..1
    x = pixels.float()
    if how.rotate or how.shift or how.scale or how.flip:
        mirror = torch.where(coin < 0, -1.0, 1.0) if how.flip else torch.ones_like(coin)
        x = moved(
            x, angle * math.radians(how.rotate), 1 + size * how.scale, across * how.shift, down * how.shift, mirror
        )
    if how.brightness or how.contrast:
        gain, more = (value[:, None, None, None] for value in (1 + spread * how.contrast, light * how.brightness))
        x = ((x - 127.5) * gain + 127.5 + 255 * more).clamp(0, 255)
    return with_holes(x, seeds, how.dropout_holes) if how.dropout_holes else x


def moved(x: Tensor, angle: Tensor, scale: Tensor, across: Tensor, down: Tensor, mirror: Tensor) -> Tensor:
    """(B, 1, H, W), (B,) radians clockwise, times as large, shares of the side to the right and down, -1 for left and right exchanged -> (B, 1, H, W)

    Bilinear. Written out pixel by pixel: a product of matrices may round otherwise in another batch.
    """
    height, width = x.shape[-2:]
    ys = ((torch.arange(height, device=x.device) + 0.5) * 2 / height - 1)[
        None, :, None
    ]  # centres of the pixels, the image is -1..1
    xs = ((torch.arange(width, device=x.device) + 0.5) * 2 / width - 1)[None, None, :]
    cos, sin, scale, across, down, mirror = (
        value[:, None, None] for value in (angle.cos(), angle.sin(), scale, across, down, mirror)
    )
    ys, xs = ys - 2 * down, xs - 2 * across  # from where it lies to where it comes from
    ratio = height / width
    source_x = (cos * xs + sin * ys * ratio) / scale * mirror
    source_y = (cos * ys - sin * xs / ratio) / scale
    return F.grid_sample(
        x, torch.stack([source_x, source_y], dim=-1), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def flipped(pixels: Tensor) -> Tensor:
    return pixels.flip(3)


def zoomed(pixels: Tensor, by: float) -> Tensor:
    """(B, 1, H, W) uint8 -> (B, 1, H, W) float in 0..255, `by` times as large around the middle."""
    zero, one = torch.zeros(len(pixels), device=pixels.device), torch.ones(len(pixels), device=pixels.device)
    return moved(pixels.float(), zero, by * one, zero, zero, one)


OTHER_VIEWS: dict[str, list[Callable[[Tensor], Tensor]]] = {  # what --tta looks at beside the image as it is
    "none": [],
    "flips": [flipped],
    "scales": [partial(zoomed, by=0.9), partial(zoomed, by=1.1)],
}


def with_holes(x: Tensor, seeds: Tensor, holes: int) -> Tensor:
    """Grey rectangles at random places, inside the image (coarse dropout, DeVries & Taylor 2017). (B, 1, H, W) -> (B, 1, H, W)"""
    height, width = x.shape[-2:]
    top, left, tall, wide = uniform(seeds, 4 * holes, HOLES).view(-1, 4, holes, 1).unbind(1)  # (B, holes, 1) each
    tall, wide = ((0.02 + 0.1 * side) * length for side, length in ((tall, height), (wide, width)))
    top, left = top * (height - tall), left * (width - wide)
    ys, xs = (torch.arange(length, device=x.device) + 0.5 for length in (height, width))
    rows, columns = (ys >= top) & (ys < top + tall), (xs >= left) & (xs < left + wide)  # (B, holes, H), (B, holes, W)
    inside = (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True)  # (B, 1, H, W)
    return torch.where(inside, GREY, x)
