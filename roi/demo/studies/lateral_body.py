"""The chest from the side: the same body as on its frontal images, with the heights of its lungs, heart and domes.

The patient faces image left: sternum left, spine right. Side -1 is the front half of the chest, 1 the back half, so
that findings drawn for a lung on a frontal image can be drawn here (roi/demo/studies/lateral_findings.py).

Letters: S side in pixels, h x w a window of it, x (1, w) and y (h, 1) its coordinates. Density 0 is air.
"""

import math
from dataclasses import dataclass, fields
from functools import lru_cache, partial

import numpy as np
from PIL import Image, ImageDraw

from roi.demo.phantom_body import LINES, TONES, Body, Case, body_of, draw_disc, draw_tissue
from roi.demo.phantom_shapes import (
    Array,
    Box,
    Point,
    add,
    around,
    coordinates,
    ramp,
    resized,
    segment,
    stream,
    toward,
)

SIDE_VIEW = 60  # stream


@dataclass(frozen=True)
class SideBody(Body):
    """Where things are from the side. `half` is half the depth of the chest, `mid` the middle of it."""

    def axis(self, y: Array) -> Array:
        """x of the middle of the lungs, which lean back at the apex. (h, 1) -> (h, 1)"""
        t = np.clip((y - self.top) / (0.85 - self.top), 0, 1)
        return self.mid + 0.04 * (1 - t)

    def wall(self, x: Array, y: Array) -> Array:
        """How far inside the front or the back wall, negative outside. (h, w)"""
        below_apex = (y - self.top) / (0.85 - self.top)
        t = np.clip(below_apex, 0, 1)
        wide = np.sqrt(t * (2 - t))
        half = self.half * (0.62 + 0.38 * wide)
        return half - np.abs(x - self.axis(y))

    def depth(self, x: Array, y: Array) -> Array:
        """How far inside the walls and below the apex. (h, w)"""
        off = x - self.mid - 0.04
        apex = self.top + 0.50 * np.square(off) / self.half
        return np.minimum(self.wall(x, y), y - apex)

    def floor(self, x: Array) -> Array:
        """y of the dome of the right lung, low at the back: the posterior sulcus. (1, w) -> (1, w)"""
        # Highest in front of the middle; from there it falls farther at the back than in front.
        off = (x - self.mid) / self.half + 0.25
        steep = np.where(off > 0, 1.5, 0.7)
        return self.dia[0] + self.dome * off**2 * steep

    def lung(self, x: Array, y: Array) -> Array:
        """Both lungs, one behind the other; below the higher dome there is one of them. (h, w) in [0, 1]"""
        inside = self.depth(x, y)
        floor = self.floor(x).astype(np.float32)
        # The heart lies on the left dome, which so ends lower on the image.
        lower = self.dia[1] - self.dia[0] + 0.018
        right = ramp(np.minimum(inside, floor - y), 0.018)
        left = ramp(np.minimum(inside, floor + lower - y), 0.018)
        return 0.5 * (right + left)

    def spine(self, y: Array) -> Array:
        """x of the vertebrae. (h, 1) -> (h, 1)"""
        back = self.mid + 0.80 * self.half
        return back + 0.035 * np.sin(math.pi * (y - 0.05))


@lru_cache(maxsize=8)
def side_body_of(case: Case) -> SideBody:
    """The body of a frontal image of the same patient, turned by a quarter."""
    body = body_of(case)
    rng = stream(case.seed, case.patient, 0, SIDE_VIEW)
    # A broad chest is a deep one.
    half = 0.80 * body.half * rng.uniform(0.94, 1.06)
    # Farther in front than in the middle, where it lies on the diaphragm.
    _, heart_y, long, short, _ = body.heart
    heart = (
        body.mid - 0.45 * half,
        heart_y + 0.015,
        long,
        0.95 * short,
        rng.uniform(-0.95, -0.7),
    )
    # All heights stay: what lies high from the front lies high from the side.
    values = {field.name: getattr(body, field.name) for field in fields(Body)}
    return SideBody(**values | {"half": half, "heart": heart})


# ---- the normal chest -----------------------------------------------------------------------------------------------


def draw_side(body: SideBody, rng: np.random.Generator, size: int) -> Array:
    """A normal chest from the side. (S, S) density"""
    canvas = draw_tissue(rng, size)
    x, y = coordinates(0, 0, size, size, size)
    below_neck = np.clip((y - 0.02) / body.shoulder, 0, 1)
    outline = 0.14 + (body.half - 0.06) * below_neck**1.2
    # Before the outline is cut, as nothing is drawn beside the body.
    abdomen = body.dia[0] + 0.5 * body.dome
    canvas += 0.14 * ramp(y - abdomen, 0.12)
    raised_arms = (body.mid - 0.02, 0.04)
    draw_disc(canvas, raised_arms, 0.26, 0.13, 0.16, 0.06)
    off = np.abs(x - body.axis(y))
    canvas *= ramp(outline - off, 0.03)
    add(canvas, side_rib_cage(body), partial(side_lungs, body))
    back = body.mid + 0.80 * body.half
    column = (back - 0.10, 0.11, back + 0.14, 1)
    add(canvas, column, partial(side_spine, body))
    draw_front(canvas, body)
    canvas += side_vessels(body, size)
    draw_side_details(canvas, body, rng)
    return canvas


def side_rib_cage(body: SideBody) -> Box:
    half = body.half + 0.05
    low = max(body.dia) + 2.6 * body.dome + 0.03
    return body.mid - half, body.top - 0.02, body.mid + half, low


def side_lungs(body: SideBody, x: Array, y: Array) -> Array:
    """What the lungs take away, less where ribs cross them obliquely. (h, w) density"""
    gap, _, start = body.ribs
    turn = 2 * math.pi / gap
    # Those of the right and of the left side never lie on each other.
    ahead = body.mid - x
    rib = np.cos((y - 0.45 * ahead - start) * turn)
    rib += np.cos((y - 0.36 * ahead - start - 0.4 * gap) * turn)
    np.maximum(rib, 0.3, out=rib)
    rib *= 0.045
    rib -= 0.46
    return rib * body.lung(x, y)


def side_spine(body: SideBody, x: Array, y: Array) -> Array:
    """Vertebrae, one below the other, and the processes behind them. (h, w) density"""
    # Each vertebra is a bright block, the discs between them are darker.
    off = x - body.spine(y)
    waves = 2 * math.pi / 0.062
    discs = 0.22 + 0.06 * np.cos(y * waves)
    behind = (off - 0.055) / 0.03
    processes = 0.10 * np.exp(-(behind**2))
    column = np.exp(-((off / 0.040) ** 4))
    return column * discs + processes


def draw_front(canvas: Array, body: SideBody) -> None:
    """Sternum, heart, the great vessels above it, windpipe and hila. canvas changes in place"""
    height = body.dia[1] - body.top
    reach = body.heart[2]
    add(canvas, around(*body.heart[:2], reach, reach), body.heart_at)
    front = body.mid - body.half
    start = (front + 0.13, body.top + 0.04)
    end = (front - 0.005, body.top + 0.75 * height)
    window = (front - 0.03, start[1] - 0.02, front + 0.16, end[1] + 0.02)
    add(canvas, window, partial(line, start, end, 0.026, 0.22))
    aorta = (body.mid - 0.02, body.top + 0.36 * height)
    draw_disc(canvas, aorta, 0.075, 0.085, 0.12, 0.05)
    hila = (body.mid + 0.02, body.top + 0.50 * height)
    draw_disc(canvas, hila, 0.05, 0.06, 0.14, 0.05)
    # Air between them: darker than what it lies in.
    top, fork = windpipe(body)
    window = (top[0] - 0.05, 0, fork[0] + 0.05, fork[1] + 0.03)
    add(canvas, window, partial(line, top, fork, 0.034, -0.14))


def windpipe(body: SideBody) -> tuple[Point, Point]:
    """Its upper end on the image, and where it forks."""
    height = body.dia[1] - body.top
    return (body.mid, 0.02), (body.mid + 0.045, body.top + 0.38 * height)


def line(
    start: Point,
    end: Point,
    width: float,
    density: float,
    x: Array,
    y: Array,
) -> Array:
    """(h, w) density"""
    return density * segment(x, y, start, end, width)


def side_vessels(body: SideBody, size: int) -> Array:
    """The vessels of both lungs, from the hila outwards. (S, S)"""
    layer = Image.new("L", (LINES, LINES))
    pen = ImageDraw.Draw(layer)
    hilum = (body.mid + 0.02, body.top + 0.50 * (body.dia[1] - body.top))
    for side, angle, start, length, bend in body.vessels:
        # Seen from the side they are shorter.
        points = []
        for reach in (start, start + 0.4 * length, start + 0.8 * length):
            turn = angle + bend * (reach - start)
            x, y = toward(hilum, reach, turn, side)
            points.append((LINES * x, LINES * y))
        # Fainter and thinner the farther it is from the hilum.
        pen.line(points, round(TONES * 0.06), round(LINES * 0.008), "curve")
        pen.line(points[:2], round(TONES * 0.09), round(LINES * 0.014), "curve")
    return resized(layer, size, Image.Resampling.BILINEAR) * np.float32(1 / TONES)


def draw_side_details(canvas: Array, body: SideBody, rng: np.random.Generator) -> None:
    """A breast, the stomach bubble, and what misleads: electrodes, a side marker."""
    if body.breast:
        height = body.dia[1] - body.top
        draw_disc(
            canvas,
            (body.mid - body.half - 0.03, body.top + 0.82 * height),
            0.10,
            0.13,
            2 * body.breast,
            0.06,
        )
    if body.bubble:
        bubble_x = body.mid - rng.uniform(0.05, 0.15) * body.half
        bubble = (bubble_x, body.dia[1] + 0.085)
        draw_disc(canvas, bubble, 0.07, 0.035, -body.bubble)
    if rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 4))):
            x = rng.uniform(0.2, 0.8)
            electrode = (x, rng.uniform(0.15, 0.8))
            draw_disc(canvas, electrode, 0.011, 0.011, 1.2)
    marker_x = 0.07 if rng.random() < 0.5 else 0.93
    marker_y = rng.uniform(0.05, 0.12)
    draw_disc(canvas, (marker_x, marker_y), 0.014, 0.028, 1.0)
