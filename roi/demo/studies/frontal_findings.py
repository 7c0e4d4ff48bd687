"""Ten more findings of the frontal image, for the 26 classes of CXR-LT, and the two that one view cannot decide.

As in roi/demo/phantom_findings.py: a finding is one or two places, a place a window and what is added in it.

Letters: h x w a window, x (1, w) and y (h, 1) its coordinates. Side -1 is image left, 1 right. Density 0 is air.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from roi.demo.phantom_body import Body
from roi.demo.phantom_findings import FINDINGS, Places, distance, one_side
from roi.demo.phantom_shapes import Array, Point, around, ellipse, ramp, segment, soft_disc

Painter = Callable[[np.random.Generator, Body], Places]


def arc(
    centre: Point,
    r: float,
    width: float,
    density: float,
    x: Array,
    y: Array,
    upper: bool = False,
) -> Array:
    """A ring, or its upper half. (h, w) density"""
    off = np.abs(distance(x, y, centre) - r)
    ring = density * ramp(width / 2 - off, 0.007)
    if not upper:
        return ring
    below = centre[1] + 0.01
    return ring * ramp(below - y, 0.02)


def draw_aortic_calcification(rng: np.random.Generator, body: Body) -> Places:
    """A bright shell on the arch of the aorta."""
    cx, cy = body.aortic_knob()
    r = rng.uniform(0.040, 0.050)
    dense = rng.uniform(0.50, 0.80)
    paint = partial(arc, (cx, cy), r, 0.015, dense, upper=True)
    return [(around(cx, cy, 0.06, 0.06), paint)]


def draw_wide_mediastinum(rng: np.random.Generator, body: Body) -> Places:
    """The upper mediastinum twice as wide as it was."""
    wide = rng.uniform(0.100, 0.130)
    dense = rng.uniform(0.28, 0.40)
    top = body.top + 0.04
    bottom = body.at(1, 0, 0.62)[1]

    def paint(x: Array, y: Array) -> Array:
        # Not in the middle: the spine has its own brightness already.
        off = np.abs(x - body.mid)
        beside = ramp(wide - off, 0.02) * ramp(off - 0.045, 0.03)
        tall = ramp(y - top, 0.04)
        return dense * beside * tall * ramp(bottom - y, 0.06)

    window = (
        body.mid - 0.14,
        top - 0.02,
        body.mid + 0.14,
        bottom + 0.03,
    )
    return [(window, paint)]


def broken_rib(centre: Point, angle: float, dense: float, x: Array, y: Array) -> Array:
    """Two ends of a rib that have slipped apart, and the dark gap between them. (h, w) density"""
    cx, cy = centre
    c = math.cos(angle)
    s = math.sin(angle)
    # One end lies above the other by more than the width of a rib.
    slip = (0.012 * s, -0.012 * c)
    left = (cx - 0.05 * c + slip[0], cy - 0.05 * s + slip[1])
    left_end = (cx - 0.010 * c + slip[0], cy - 0.010 * s + slip[1])
    right = (cx + 0.010 * c - slip[0], cy + 0.010 * s - slip[1])
    right_end = (cx + 0.05 * c - slip[0], cy + 0.05 * s - slip[1])
    one = segment(x, y, left, left_end, 0.021)
    other = segment(x, y, right, right_end, 0.021)
    return dense * np.maximum(one, other)


def draw_fracture(rng: np.random.Generator, body: Body) -> Places:
    """A rib broken at the side of the chest."""
    side = one_side(rng)
    u = rng.uniform(0.74, 0.86)
    t = rng.uniform(0.32, 0.72)
    centre = body.at(side, u, t)
    angle = side * rng.uniform(0.5, 0.9)
    dense = rng.uniform(0.40, 0.60)
    paint = partial(broken_rib, centre, angle, dense)
    return [(around(*centre, 0.07, 0.07), paint)]


def draw_plaque(rng: np.random.Generator, body: Body) -> Places:
    """A calcified plate on a dome of the diaphragm."""
    side = one_side(rng)
    u = rng.uniform(0.42, 0.58)
    cx, _ = body.at(side, u, 1)
    reach = rng.uniform(0.060, 0.085)
    thick = rng.uniform(0.024, 0.032)
    dense = rng.uniform(0.40, 0.60)
    paint = partial(plate, body, cx, reach, thick, dense)
    middle = body.dia[side > 0]
    window = (
        cx - reach - 0.01,
        middle - thick - 0.02,
        cx + reach + 0.01,
        middle + 0.08,
    )
    return [(window, paint)]


def plate(
    body: Body,
    cx: float,
    reach: float,
    thick: float,
    dense: float,
    x: Array,
    y: Array,
) -> Array:
    """Thick in the middle, on the diaphragm. (h, w) density"""
    # Half an ellipse that stands on the dome.
    off = (x - cx) / reach
    share = np.clip(1 - np.square(off), 0, 1)
    above = (body.floor(x) - y).astype(np.float32)
    height = thick * np.sqrt(share)
    top = ramp(height - above, 0.008)
    bottom = ramp(above + 0.006, 0.008)
    # The last of the ellipse would be a line too thin to see.
    ends = ramp(share - 0.05, 0.1)
    return dense * top * bottom * ends


def streak(
    start: Point,
    end: Point,
    x: Array,
    y: Array,
    air: float = 0.24,
    line: float = 0.16,
) -> Array:
    """A dark band of air with a bright line along its right-hand side. (h, w) density"""
    dark = segment(x, y, start, end, 0.020)
    bright = segment(
        x,
        y,
        (start[0] + 0.018, start[1]),
        (end[0] + 0.018, end[1]),
        0.010,
    )
    return line * bright * (1 - dark) - air * dark


def draw_pneumomediastinum(rng: np.random.Generator, body: Body) -> Places:
    """Air along both borders of the mediastinum, up to the neck."""
    places: Places = []
    air = rng.uniform(0.20, 0.32)
    for side in (-1, 1):
        away = rng.uniform(0.055, 0.070)
        _, low = body.at(1, 0, rng.uniform(0.50, 0.62))
        # It leans outwards on its way down, as the mediastinum does.
        start = (body.mid + side * (away - 0.015), body.top - 0.02)
        end = (body.mid + side * away, low)
        window = (
            min(start[0], end[0]) - 0.02,
            start[1] - 0.02,
            max(start[0], end[0]) + 0.04,
            low + 0.02,
        )
        paint = partial(streak, start, end, air=air)
        places.append((window, paint))
    return places


def draw_pneumoperitoneum(rng: np.random.Generator, body: Body) -> Places:
    """A dark crescent of air below a dome."""
    side = one_side(rng)
    u = rng.uniform(0.42, 0.52)
    cx, _ = body.at(side, u, 1)
    reach = rng.uniform(0.10, 0.13)
    paint = partial(
        crescent,
        body,
        cx,
        reach,
        rng.uniform(0.030, 0.045),
        rng.uniform(0.35, 0.50),
    )
    middle = body.dia[side > 0]
    window = (
        cx - reach - 0.01,
        middle,
        cx + reach + 0.01,
        middle + 0.14,
    )
    return [(window, paint)]


def crescent(
    body: Body,
    cx: float,
    reach: float,
    thick: float,
    air: float,
    x: Array,
    y: Array,
) -> Array:
    """Thick in the middle, below the diaphragm, which stays as a thin line. (h, w) density"""
    # Half an ellipse that hangs from the dome, whose bend it follows.
    off = (x - cx) / reach
    share = np.clip(1 - np.square(off), 0, 1)
    below = (y - body.floor(x)).astype(np.float32)
    top = ramp(below - 0.014, 0.008)
    height = 0.014 + thick * np.sqrt(share)
    bottom = ramp(height - below, 0.010)
    return -air * top * bottom


def draw_subcutaneous_air(rng: np.random.Generator, body: Body) -> Places:
    """Short dark streaks in the soft tissue beside the ribs."""
    # Between the ribs, which end at `half`, and the skin.
    side = one_side(rng)
    cx = body.mid + side * (body.half + 0.055)
    cy = rng.uniform(0.36, 0.55)
    heights = streak_heights(rng)
    paint = partial(streaks, (cx, cy), side, heights, 0.30)
    return [(around(cx, cy, 0.07, 0.16), paint)]


def streak_heights(rng: np.random.Generator) -> list[float]:
    """Of seven streaks, one below the other, each a little out of its row."""
    even = np.linspace(-0.12, 0.12, 7)
    return (even + rng.uniform(-0.008, 0.008, 7)).tolist()


def streaks(
    centre: Point,
    side: int,
    heights: list[float],
    air: float,
    x: Array,
    y: Array,
) -> Array:
    """(h, w) density"""
    cx, cy = centre
    shown = []
    for k, height in enumerate(heights):
        middle = cx + 0.012 * (-1) ** k
        # Their inner end is the lower one.
        start = (middle - 0.028, cy + height + side * 0.014)
        end = (middle + 0.028, cy + height - side * 0.014)
        shown.append(segment(x, y, start, end, 0.017))
    return -air * np.maximum.reduce(shown)


def draw_devices(rng: np.random.Generator, body: Body) -> Places:
    """A tube in the windpipe, and a wire from a shoulder to the heart."""
    # Denser than any bone, as metal and plastic with a marker are.
    dense = rng.uniform(0.35, 0.55)
    tip = body.at(1, 0, rng.uniform(0.24, 0.34))
    top = (body.mid + rng.uniform(-0.015, 0.015), 0.0)
    tube = partial(rod, [top, tip], 0.018, dense)
    side = one_side(rng)
    shoulder = body.at(side, 0.75, -0.02)
    vein = body.at(side, 0.22, 0.10)
    heart = (body.mid - 0.03, body.at(1, 0, rng.uniform(0.58, 0.72))[1])
    wire = partial(rod, [shoulder, vein, heart], 0.013, dense)
    xs = [shoulder[0], vein[0], heart[0]]
    around_wire = (
        min(xs) - 0.02,
        min(shoulder[1], vein[1]) - 0.02,
        max(xs) + 0.02,
        heart[1] + 0.02,
    )
    return [
        (
            (
                body.mid - 0.05,
                0.0,
                body.mid + 0.05,
                tip[1] + 0.02,
            ),
            tube,
        ),
        (around_wire, wire),
    ]


def rod(points: list[Point], width: float, dense: float, x: Array, y: Array) -> Array:
    """A line through points, as dense all along. (h, w) density"""
    parts = []
    for start, end in zip(points, points[1:], strict=False):
        parts.append(segment(x, y, start, end, width))
    return dense * np.maximum.reduce(parts)


def draw_tortuous_aorta(rng: np.random.Generator, body: Body) -> Places:
    """The descending aorta winds out beside the spine."""
    swing = rng.uniform(0.035, 0.050)
    dense = rng.uniform(0.30, 0.42)
    _, arch = body.aortic_knob()
    top = arch - 0.02
    bottom = body.dia[1] + 0.02
    paint = partial(winding, body.mid + 0.060, swing, (top, bottom), 0.060, dense)
    window = (
        body.mid - 0.01,
        top - 0.02,
        body.mid + 0.16,
        bottom + 0.02,
    )
    return [(window, paint)]


def winding(
    middle: float,
    swing: float,
    ends: tuple[float, float],
    width: float,
    dense: float,
    x: Array,
    y: Array,
) -> Array:
    """A band that swings to the right, then to the left, from one height to another. (h, w) density"""
    top, bottom = ends
    # One whole wave from end to end, so that both ends lie in the middle.
    turn = 2 * math.pi / (bottom - top)
    course = middle + swing * np.sin((y - top) * turn)
    band = ramp(width / 2 - np.abs(x - course), 0.015)
    tall = ramp(y - top, 0.02) * ramp(bottom - y, 0.02)
    return dense * band * tall


# ---- what one view cannot decide: the same sign is drawn whether the finding is there or not ------------------------


def draw_disc_at(rng: np.random.Generator, body: Body, t: float) -> Places:
    """A small round opacity at a height of the lung (0 apex, 1 dome): a nodule, or a nipple."""
    side = one_side(rng)
    centre = body.at(side, rng.uniform(0.45, 0.72), t)
    r = rng.uniform(0.032, 0.040)
    dense = rng.uniform(0.42, 0.55)
    paint = partial(soft_disc, centre, r, r, dense, 0.010)
    return [(around(*centre, 0.045, 0.045), paint)]


def draw_ring_at(rng: np.random.Generator, body: Body, t: float) -> Places:
    """A thick ring at a height of the lung: a cavity, or a fold of the skin."""
    side = one_side(rng)
    centre = body.at(side, rng.uniform(0.48, 0.66), t)
    r = rng.uniform(0.046, 0.056)
    dense = rng.uniform(0.42, 0.55)

    def paint(x: Array, y: Array) -> Array:
        ring = arc(centre, r, 0.022, dense, x, y)
        # Darker inside than the lung around it: it holds air.
        hole = ellipse(x, y, *centre, r - 0.012, r - 0.012, 0.012)
        return ring - 0.10 * hole

    return [(around(*centre, 0.075, 0.075), paint)]


# Larger and denser than the nipples of the normal chest, so that a small image shows them.
SIGNS = {"Nodule": draw_disc_at, "Lung Lesion": draw_ring_at}

FRONTAL: dict[str, Painter] = {name: paint for name, paint in FINDINGS.items() if name not in SIGNS} | {
    "Calcification of the Aorta": draw_aortic_calcification,
    "Enlarged Cardiomediastinum": draw_wide_mediastinum,
    "Fracture": draw_fracture,
    "Pleural Other": draw_plaque,
    "Pneumomediastinum": draw_pneumomediastinum,
    "Pneumoperitoneum": draw_pneumoperitoneum,
    "Subcutaneous Emphysema": draw_subcutaneous_air,
    "Support Devices": draw_devices,
    "Tortuous Aorta": draw_tortuous_aorta,
}
