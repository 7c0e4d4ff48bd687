"""Soft shapes of density in unit coordinates, of which the phantom is made, and its random streams.

Letters: S side in pixels, h x w a window of it, x (1, w) and y (h, 1) its coordinates, float32. Windows are
(x0, y0, x1, y1).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]  # float32; Python floats leave it float32
Box = tuple[float, float, float, float]
Point = tuple[float, float]
Paint = Callable[[Array, Array], Array]  # x (1, w), y (h, 1) -> density to add (h, w), 0 = untouched

PATIENT, IMAGE, DRAW, NOISE, PLAN, FINDING = 1, 2, 3, 4, 5, 16  # streams; a finding's is FINDING + its index


def stream(seed: int, patient: int, followup: int, kind: int) -> np.random.Generator:
    """A generator for one purpose; always four numbers, as SeedSequence pads shorter lists with zeros."""
    return np.random.default_rng([seed, patient, followup, kind])


def axes(start: int, end: int, size: int) -> Array:
    """Unit coordinates of the pixel centres start .. end - 1. (end - start,)"""
    pixels = np.arange(start, end, dtype=np.float32)
    return (pixels + np.float32(0.5)) / np.float32(size)


def coordinates(x0: int, y0: int, x1: int, y1: int, size: int) -> tuple[Array, Array]:
    """x (1, w) and y (h, 1) of the pixels of a window of an image of this side."""
    x = axes(x0, x1, size)
    y = axes(y0, y1, size)
    return x[None], y[:, None]


def ramp(distance: Array, soft: float) -> Array:
    """0 outside, 1 inside, smooth over `soft` around distance 0. (h, w) -> (h, w) in [0, 1]"""
    # In place where it can be, as every shape of every image goes through here.
    t = distance * (1 / soft)
    t += 0.5
    np.maximum(t, 0, out=t)
    np.minimum(t, 1, out=t)
    return t * t * (3 - 2 * t)


def turned(x: Array, y: Array, cx: float, cy: float, angle: float) -> tuple[Array, Array]:
    """Coordinates along and across a direction (radians) from a centre. Two of (h, w)"""
    c = math.cos(angle)
    s = math.sin(angle)
    dx = x - cx
    dy = y - cy
    return dx * c + dy * s, dy * c - dx * s


def ellipse(
    x: Array,
    y: Array,
    cx: float,
    cy: float,
    rx: float,
    ry: float,
    soft: float = 0.012,
    angle: float = 0.0,
) -> Array:
    """A filled ellipse that ends at its radii. (h, w) in [0, 1]"""
    p, q = turned(x, y, cx, cy, angle) if angle else (x - cx, y - cy)
    p, q = p / rx, q / ry
    small = min(rx, ry)
    off = np.sqrt(p * p + q * q)
    edge = small - soft / 2
    return ramp(edge - small * off, soft)


def soft_disc(
    centre: Point,
    rx: float,
    ry: float,
    density: float,
    soft: float,
    x: Array,
    y: Array,
    angle: float = 0.0,
) -> Array:
    """An ellipse of a density. (h, w)"""
    return density * ellipse(x, y, *centre, rx, ry, soft, angle)


def segment(x: Array, y: Array, start: Point, end: Point, width: float) -> Array:
    """A straight line with soft edges. (h, w) in [0, 1]"""
    (x0, y0), (x1, y1) = start, end
    direction = math.atan2(y1 - y0, x1 - x0)
    p, q = turned(x, y, *start, direction)
    # Beyond the ends: the distance to them.
    p -= np.minimum(np.maximum(p, 0), math.dist(start, end))
    off = np.sqrt(p * p + q * q)
    return ramp(width / 2 - off, width / 2)


def toward(point: Point, reach: float, angle: float, side: int = 1) -> Point:
    """The point so far away in a direction (radians), which is mirrored on the side of image left."""
    across = reach * side * math.cos(angle)
    down = reach * math.sin(angle)
    return point[0] + across, point[1] + down


def resized(image: Image.Image, size: int, method: Image.Resampling) -> Array:
    """(size, size)"""
    return np.asarray(image.resize((size, size), method))


def around(cx: float, cy: float, rx: float, ry: float) -> Box:
    """The window around a centre."""
    return cx - rx, cy - ry, cx + rx, cy + ry


def add(canvas: Array, window: Box, paint: Paint) -> None:
    """Add a density to the pixels that a window touches. canvas: (S, S), changed in place"""
    size = len(canvas)
    # A window that ends at the edge of a pixel must not touch the next one for a rounding error.
    left, top, right, bottom = window
    x0 = max(0, math.floor(left * size + 1e-6))
    y0 = max(0, math.floor(top * size + 1e-6))
    x1 = min(size, math.ceil(right * size - 1e-6))
    y1 = min(size, math.ceil(bottom * size - 1e-6))
    if x1 > x0 and y1 > y0:
        x, y = coordinates(x0, y0, x1, y1, size)
        canvas[y0:y1, x0:x1] += paint(x, y)
