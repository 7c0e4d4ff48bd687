"""The 14 findings of the phantom: each of one or two places, a place being a window and what is added in it.

A finding adds its own density inside its box and nothing outside. Where it lies and how it looks is drawn from a stream
of its own; the order of the draws is part of the published set.

Letters: h x w a window, x (1, w) and y (h, 1) its coordinates. Side -1 is image left, 1 right. Density 0 is air.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from roi.demo.phantom_body import Body
from roi.demo.phantom_shapes import Array, Box, Paint, Point, around, ellipse, ramp, segment, soft_disc, toward, turned

Places = list[tuple[Box, Paint]]


def one_side(rng: np.random.Generator) -> int:
    return -1 if rng.random() < 0.5 else 1


def draw_atelectasis(rng: np.random.Generator, body: Body) -> Places:
    """Two or three parallel plates at a base."""
    side = one_side(rng)
    u = rng.uniform(0.52, 0.64)
    t = rng.uniform(0.80, 0.90)
    cx, cy = body.at(side, u, t)
    dense = rng.uniform(0.25, 0.42)
    length = rng.uniform(0.15, 0.19)
    gap = rng.uniform(0.038, 0.045)
    angle = rng.uniform(-0.35, 0.35)
    places = (-1, 0, 1) if rng.random() < 0.5 else (-0.5, 0.5)  # of gaps from the middle
    plates = [gap * place for place in places]

    def paint(x: Array, y: Array) -> Array:
        p, q = turned(x, y, cx, cy, angle)
        off = np.minimum.reduce([np.abs(q - plate) for plate in plates])
        along = ramp(length / 2 - np.abs(p), 0.02)
        across = ramp(0.010 - off, 0.008)
        return dense * along * across

    return [(around(cx, cy, 0.12, 0.10), paint)]


def draw_cardiomegaly(rng: np.random.Generator, body: Body) -> Places:
    """A heart much larger than it was: what it adds to the normal one."""
    grow = rng.uniform(1.30, 1.50)

    def paint(x: Array, y: Array) -> Array:
        larger = body.heart_at(x, y, grow)
        return larger - body.heart_at(x, y)

    cx, cy = body.heart[:2]
    return [(around(cx, cy, 0.23, 0.23), paint)]


def draw_effusion(rng: np.random.Generator, body: Body) -> Places:
    """Fluid with a meniscus in a costophrenic angle."""
    side = one_side(rng)
    dense = rng.uniform(0.38, 0.50)
    level = rng.uniform(-0.02, 0.03)
    rise = rng.uniform(0.08, 0.13)
    dia = body.dia[side > 0]

    def paint(x: Array, y: Array) -> Array:
        u = body.across(x)
        lateral = np.clip((u - 0.5) / 0.5, 0, 1)
        surface = dia - level - rise * lateral**2  # it climbs the wall
        lung = body.lung(x, y)
        fluid = dense * ramp(y - surface, 0.012) * lung
        return fluid * ramp(u - 0.50, 0.08)

    top = dia - level - rise - 0.02
    bottom = dia + 1.4 * body.dome
    return [(body.strip(side, 0.46, top, bottom), paint)]


def draw_infiltration(rng: np.random.Generator, body: Body) -> Places:
    """Faint blotches in a patch."""
    side = one_side(rng)
    u = rng.uniform(0.48, 0.66)
    t = rng.uniform(0.42, 0.72)
    cx, cy = body.at(side, u, t)
    dense = rng.uniform(0.18, 0.28)
    turn = rng.uniform(0, 6.28)
    step = rng.uniform(2.1, 2.7)
    radii = rng.uniform(0.018, 0.028, 9).tolist()
    # Along a spiral with the root of k as its radius: as dense outside as at the centre, and no grid.
    spots = []
    for k in range(9):
        reach = 0.025 * math.sqrt(k)
        spots.append(toward((cx, cy), reach, turn + k * step))

    def paint(x: Array, y: Array) -> Array:
        blotches = []
        for spot, r in zip(spots, radii, strict=True):
            blotches.append(ellipse(x, y, *spot, r, r, 0.022))
        return dense * np.maximum.reduce(blotches)

    return [(around(cx, cy, 0.10, 0.10), paint)]


def draw_mass(rng: np.random.Generator, body: Body) -> Places:
    """A large round opacity."""
    side = one_side(rng)
    u = rng.uniform(0.42, 0.68)
    t = rng.uniform(0.28, 0.78)
    centre = body.at(side, u, t)
    dense = rng.uniform(0.24, 0.42)
    r = rng.uniform(0.058, 0.080)
    ratio = rng.uniform(0.85, 1.0)
    angle = rng.uniform(0, 3.14)
    paint = partial(soft_disc, centre, r, r * ratio, dense, 0.015, angle=angle)
    return [(around(*centre, 0.09, 0.09), paint)]


def draw_nodule(rng: np.random.Generator, body: Body) -> Places:
    """One or two small round opacities."""
    places: Places = []
    count = 1 if rng.random() < 0.6 else 2
    for _ in range(count):
        side = one_side(rng)
        u = rng.uniform(0.40, 0.75)
        t = rng.uniform(0.22, 0.82)
        centre = body.at(side, u, t)
        dense = rng.uniform(0.34, 0.50)
        r = rng.uniform(0.026, 0.038)
        paint = partial(soft_disc, centre, r, r, dense, 0.010)
        places.append((around(*centre, 0.04, 0.04), paint))
    return places


def draw_pneumonia(rng: np.random.Generator, body: Body) -> Places:
    """A soft dense blob with dark branching air bronchograms."""
    side = one_side(rng)
    u = rng.uniform(0.46, 0.62)
    t = rng.uniform(0.55, 0.78)
    cx, cy = body.at(side, u, t)
    dense = rng.uniform(0.32, 0.46)
    r = rng.uniform(0.080, 0.095)
    turn = rng.uniform(-0.4, 0.4)
    root = (cx - side * 0.8 * r, cy - 0.25 * r)
    fork = (cx - side * 0.15 * r, cy)
    angles = (turn - 0.75, turn, turn + 0.75)
    tips = [toward(fork, 0.75 * r, angle, side) for angle in angles]

    def paint(x: Array, y: Array) -> Array:
        branches = [segment(x, y, root, fork, 0.018)]
        branches += [segment(x, y, fork, tip, 0.017) for tip in tips]
        tree = np.maximum.reduce(branches)
        blob = ellipse(x, y, cx, cy, r, r, 0.06) * dense
        return blob * (1 - 1.1 * tree)

    return [(around(cx, cy, 0.10, 0.10), paint)]


def draw_pneumothorax(rng: np.random.Generator, body: Body) -> Places:
    """Air between the wall and a thin bright pleural line, at the apex."""
    side = one_side(rng)
    width = rng.uniform(0.070, 0.100)
    end = body.top + rng.uniform(0.20, 0.28)
    thin = rng.uniform(0.12, 0.22)

    def paint(x: Array, y: Array) -> Array:
        left = (end - y) / (end - body.top)
        height = np.clip(left, 0, 1)
        inside = body.depth(x, y) - width * height**0.6  # of the pleural line
        shown = body.lung(x, y) * ramp(end - 0.01 - y, 0.02)
        lateral = body.across(x) - 0.44
        shown = shown * ramp(lateral, 0.06)
        line = 0.30 * ramp(0.009 - np.abs(inside), 0.008)
        air = ramp(-inside, 0.01)
        return shown * (line - thin * air)

    window = body.strip(side, 0.40, body.top - 0.01, end)
    return [(window, paint)]


def draw_consolidation(rng: np.random.Generator, body: Body) -> Places:
    """A homogeneous lobe above a fissure: one sharp straight edge, the others fade."""
    dense = rng.uniform(0.26, 0.42)
    angle = rng.uniform(-0.2, 0.2)
    side = one_side(rng)
    u = rng.uniform(0.48, 0.58)
    t = rng.uniform(0.36, 0.50)
    cx, cy = body.at(side, u, t)
    rx = rng.uniform(0.085, 0.105)
    ry = rng.uniform(0.12, 0.15)

    def paint(x: Array, y: Array) -> Array:
        _, below = turned(x, y, cx, cy, angle)
        above = ramp(-below, 0.006)
        lobe = dense * ellipse(x, y, cx, cy, rx, ry, 0.04, angle)
        return lobe * above * body.lung(x, y)

    return [(around(cx, cy, 0.12, 0.17), paint)]


def draw_edema(rng: np.random.Generator, body: Body) -> Places:
    """Haze with short horizontal lines at both hila."""
    dense = rng.uniform(0.14, 0.26)
    starts = rng.uniform(0, 0.015, (2, 4)).tolist()
    places: Places = []
    for side in (-1, 1):
        centre = body.at(side, 0.36, 0.52)
        paint = partial(haze_with_lines, centre, side, dense, starts[side > 0])
        places.append((around(*centre, 0.09, 0.10), paint))
    return places


def haze_with_lines(
    centre: Point,
    side: int,
    dense: float,
    starts: list[float],
    x: Array,
    y: Array,
) -> Array:
    """Of one hilum, its lines one below the other. (h, w) density"""
    cx, cy = centre
    strokes = []
    for k, start in enumerate(starts):
        begin_x = cx + side * (0.005 + start)
        begin_y = cy + (k - 1.5) * 0.036
        begin = (begin_x, begin_y)
        end = (begin_x + side * 0.045, begin_y + start / 2)
        strokes.append(segment(x, y, begin, end, 0.015))
    haze = ellipse(x, y, cx, cy, 0.075, 0.085, 0.06)
    return dense * (haze + np.maximum.reduce(strokes))


def draw_emphysema(rng: np.random.Generator, body: Body) -> Places:
    """One or two bullae: round, darker than lung, with a thin wall."""
    sides = (one_side(rng),) if rng.random() < 0.6 else (-1, 1)
    places: Places = []
    for side in sides:
        u = rng.uniform(0.50, 0.64)
        t = rng.uniform(0.30, 0.70)
        centre = body.at(side, u, t)
        r = rng.uniform(0.060, 0.078)
        air = rng.uniform(0.10, 0.20)
        reach = r + 0.01
        paint = partial(bulla, centre, r, air)
        places.append((around(*centre, reach, reach), paint))
    return places


def bulla(centre: Point, r: float, air: float, x: Array, y: Array) -> Array:
    off = distance(x, y, centre)
    from_wall = np.abs(off - (r - 0.008))
    wall = 0.12 * ramp(0.007 - from_wall, 0.006)
    return wall - air * ramp(r - 0.012 - off, 0.012)


def distance(x: Array, y: Array, centre: Point) -> Array:
    """(h, w)"""
    dx = x - centre[0]
    dy = y - centre[1]
    return np.sqrt(dx**2 + dy**2)


def draw_fibrosis(rng: np.random.Generator, body: Body) -> Places:
    """A net of fine lines at a base."""
    dense = rng.uniform(0.24, 0.38)
    angle = rng.uniform(0.5, 1.0)
    pitch = rng.uniform(0.042, 0.048)
    side = one_side(rng)
    u = rng.uniform(0.58, 0.70)
    t = rng.uniform(0.76, 0.88)
    cx, cy = body.at(side, u, t)
    rx = rng.uniform(0.080, 0.100)
    ry = rng.uniform(0.060, 0.075)

    def paint(x: Array, y: Array) -> Array:
        p, q = turned(x, y, cx, cy, angle)
        waves = 2 * math.pi / pitch
        net = np.maximum(np.cos(p * waves), np.cos(q * waves))
        lines = dense * ramp(net - 0.55, 0.5)
        return lines * ellipse(x, y, cx, cy, rx, ry, 0.03)

    return [(around(cx, cy, 0.11, 0.09), paint)]


def draw_pleural_thickening(rng: np.random.Generator, body: Body) -> Places:
    """A bright band along the lateral wall."""
    side = one_side(rng)
    dense = rng.uniform(0.32, 0.46)
    width = rng.uniform(0.034, 0.042)
    middle = rng.uniform(0.46, 0.58)
    reach = rng.uniform(0.10, 0.13)

    def paint(x: Array, y: Array) -> Array:
        inside = body.wall(x, y)
        band = dense * ramp(width - inside, 0.010)
        band = band * ramp(inside + 0.004, 0.008)
        off = np.abs(y - middle)
        return band * ramp(reach - off, 0.03)

    top = middle - reach - 0.02
    bottom = middle + reach + 0.02
    return [(body.strip(side, 0.66, top, bottom), paint)]


def draw_hernia(rng: np.random.Generator, body: Body) -> Places:
    """A ring with air over fluid behind the heart."""
    cx = body.mid + rng.uniform(-0.01, 0.05)
    cy = body.dia[1] - rng.uniform(0.05, 0.08)
    r = rng.uniform(0.055, 0.070)
    level = rng.uniform(-0.012, 0.016)
    air = rng.uniform(0.4, 0.7)

    def paint(x: Array, y: Array) -> Array:
        off = distance(x, y, (cx, cy))
        from_ring = np.abs(off - (r - 0.010))
        ring = ramp(0.009 - from_ring, 0.006)
        inside = ramp(r - 0.016 - off, 0.008)
        gas = (air + 0.15) * ramp(cy + level - y, 0.008)  # above its level
        return 0.30 * ring + inside * (0.15 - gas)

    return [(around(cx, cy, 0.08, 0.08), paint)]


FINDINGS: dict[str, Callable[[np.random.Generator, Body], Places]] = {
    "Atelectasis": draw_atelectasis,
    "Cardiomegaly": draw_cardiomegaly,
    "Effusion": draw_effusion,
    "Infiltration": draw_infiltration,
    "Mass": draw_mass,
    "Nodule": draw_nodule,
    "Pneumonia": draw_pneumonia,
    "Pneumothorax": draw_pneumothorax,
    "Consolidation": draw_consolidation,
    "Edema": draw_edema,
    "Emphysema": draw_emphysema,
    "Fibrosis": draw_fibrosis,
    "Pleural_Thickening": draw_pleural_thickening,
    "Hernia": draw_hernia,
}
