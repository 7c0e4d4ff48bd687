"""Where each finding lies from the side, and how it looks there.

Findings that are a patch in the lung look alike from everywhere: they are drawn by the painters of the frontal image in
the body seen from the side, at the height that they have there. The others have a picture of their own.

Letters: h x w a window, x (1, w) and y (h, 1) its coordinates. Side -1 is the front, 1 the back.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from roi.demo.phantom_findings import FINDINGS, Places, haze_with_lines, one_side
from roi.demo.phantom_shapes import Array, Box, Paint, around, ellipse, ramp
from roi.demo.studies.frontal_findings import (
    SIGNS,
    arc,
    broken_rib,
    crescent,
    plate,
    rod,
    streak,
    streak_heights,
    streaks,
    winding,
)
from roi.demo.studies.lateral_body import SideBody, windpipe

SidePainter = Callable[[np.random.Generator, SideBody], Places]
# A patch in the lung: from the side it has the height that it has on the frontal image.
SAME_HEIGHT = ("Atelectasis", "Infiltration", "Mass", "Pneumonia", "Consolidation", "Emphysema", "Fibrosis", "Fracture")
TALLEST_MOVE = 0.25  # in shares of the image


def moved(places: Places, dy: float) -> Places:
    """The same places, lower by `dy`."""
    lower: Places = []
    for (x0, y0, x1, y1), paint in places:
        window = (x0, y0 + dy, x1, y1 + dy)
        lower.append((window, partial(lowered, paint, dy)))
    return lower


def lowered(paint: Paint, dy: float, x: Array, y: Array) -> Array:
    return paint(x, y - np.float32(dy))


def height_of(window: Box) -> float:
    return (window[1] + window[3]) / 2


def at_height(places: Places, height: float) -> Places:
    """The places, moved so that the first of them is at a height of the image, or as near as it can be."""
    # A window that was moved far would leave the lungs.
    window, _ = places[0]
    dy = height - height_of(window)
    dy = float(np.clip(dy, -TALLEST_MOVE, TALLEST_MOVE))
    return moved(places, dy)


# ---- pictures of their own -------------------------------------------------------------------------------------------


def draw_side_effusion(rng: np.random.Generator, body: SideBody) -> Places:
    """Fluid in the posterior sulcus, with a meniscus that climbs the back wall."""
    dense = rng.uniform(0.38, 0.50)
    level = rng.uniform(-0.02, 0.03)
    rise = rng.uniform(0.08, 0.13)
    # The back of the lungs reaches lower than their domes, and fluid falls there first.
    surface = body.dia[0] + 0.02 - level

    def paint(x: Array, y: Array) -> Array:
        back = np.clip((x - body.mid) / body.half, 0, 1)
        edge = surface - rise * back**2
        fluid = dense * ramp(y - edge, 0.012) * body.lung(x, y)
        behind = x - body.mid - 0.1 * body.half
        return fluid * ramp(behind, 0.05)

    bottom = max(body.dia) + 2.6 * body.dome + 0.03
    window = (
        body.mid,
        surface - rise - 0.02,
        body.mid + body.half + 0.05,
        bottom,
    )
    return [(window, paint)]


def draw_side_edema(rng: np.random.Generator, body: SideBody) -> Places:
    """Haze with short lines at the hila, which lie on each other."""
    # Denser than on the frontal image: two hila lie behind each other.
    dense = rng.uniform(0.20, 0.32)
    starts = rng.uniform(0, 0.015, 4).tolist()
    centre = (body.mid + 0.02, body.at(1, 0, 0.52)[1])
    paint = partial(haze_with_lines, centre, one_side(rng), dense, starts)
    return [(around(*centre, 0.09, 0.10), paint)]


def draw_side_calcification(rng: np.random.Generator, body: SideBody) -> Places:
    """The arch of the aorta as a bright bow, open below."""
    centre = (body.mid - 0.01, body.top + 0.40 * (body.dia[1] - body.top))
    r = rng.uniform(0.075, 0.090)
    dense = rng.uniform(0.50, 0.80)
    paint = partial(arc, centre, r, 0.015, dense, upper=True)
    window = (
        centre[0] - 0.11,
        centre[1] - 0.11,
        centre[0] + 0.11,
        centre[1] + 0.03,
    )
    return [(window, paint)]


def draw_side_mediastinum(rng: np.random.Generator, body: SideBody) -> Places:
    """The space behind the sternum is no longer dark."""
    u = rng.uniform(0.34, 0.42)
    t = rng.uniform(0.26, 0.34)
    centre = body.at(-1, u, t)
    dense = rng.uniform(0.28, 0.40)

    def paint(x: Array, y: Array) -> Array:
        blob = ellipse(x, y, *centre, 0.085, 0.13, 0.05)
        return dense * blob * body.lung(x, y)

    return [(around(*centre, 0.095, 0.14), paint)]


def draw_side_fracture(rng: np.random.Generator, body: SideBody) -> Places:
    """A rib broken in front of the spine."""
    # Farther back it would lie on the vertebrae, which are as bright.
    u = rng.uniform(0.25, 0.50)
    t = rng.uniform(0.32, 0.72)
    centre = body.at(1, u, t)
    angle = rng.uniform(-0.8, -0.3)
    dense = rng.uniform(0.40, 0.60)
    paint = partial(broken_rib, centre, angle, dense)
    return [(around(*centre, 0.07, 0.07), paint)]


def draw_side_plaque(rng: np.random.Generator, body: SideBody) -> Places:
    """A calcified plate on the dome."""
    cx = body.mid + rng.uniform(-0.05, 0.30) * body.half
    reach = rng.uniform(0.060, 0.085)
    thick = rng.uniform(0.024, 0.032)
    dense = rng.uniform(0.40, 0.60)
    paint = partial(plate, body, cx, reach, thick, dense)
    middle = body.dia[0]
    window = (
        cx - reach - 0.01,
        middle - thick - 0.02,
        cx + reach + 0.01,
        middle + 0.12,
    )
    return [(window, paint)]


def draw_side_pneumomediastinum(rng: np.random.Generator, body: SideBody) -> Places:
    """Air in front of the windpipe and behind the sternum."""
    places: Places = []
    air = rng.uniform(0.20, 0.32)
    # The windpipe itself is dark in every chest, so the streaks lie beside it.
    for away in (-0.045, -0.110):
        x = body.mid + away + rng.uniform(-0.01, 0.01)
        _, low = body.at(1, 0, rng.uniform(0.42, 0.54))
        start = (x, body.top + 0.01)
        end = (x - 0.02, low)
        places.append(
            (
                (
                    x - 0.045,
                    start[1] - 0.02,
                    x + 0.04,
                    low + 0.02,
                ),
                partial(streak, start, end, air=air),
            )
        )
    return places


def draw_side_pneumoperitoneum(rng: np.random.Generator, body: SideBody) -> Places:
    """A dark crescent of air below the front of the dome."""
    cx = body.mid - rng.uniform(0.20, 0.45) * body.half
    reach = rng.uniform(0.10, 0.13)
    paint = partial(
        crescent,
        body,
        cx,
        reach,
        rng.uniform(0.030, 0.045),
        rng.uniform(0.35, 0.50),
    )
    window = (
        cx - reach - 0.01,
        body.dia[0],
        cx + reach + 0.01,
        body.dia[0] + 0.14,
    )
    return [(window, paint)]


def draw_side_subcutaneous_air(rng: np.random.Generator, body: SideBody) -> Places:
    """Streaks in front of the sternum."""
    cx = body.mid - body.half + rng.uniform(-0.015, 0.0)
    cy = rng.uniform(0.36, 0.52)
    heights = streak_heights(rng)
    paint = partial(streaks, (cx, cy), 1, heights, 0.30)
    return [(around(cx, cy, 0.07, 0.16), paint)]


def draw_side_devices(rng: np.random.Generator, body: SideBody) -> Places:
    """A tube in the windpipe, and a wire that comes down to the heart."""
    dense = rng.uniform(0.35, 0.55)
    top, fork = windpipe(body)
    share = rng.uniform(0.65, 0.90)
    # A tube ends above the fork: farther down it would air one lung alone.
    tip_x = top[0] + share * (fork[0] - top[0])
    tip_y = top[1] + share * (fork[1] - top[1])
    tip = (tip_x, tip_y)
    tube = partial(rod, [(top[0], 0.0), tip], 0.018, dense)
    vein = (body.mid - 0.06, body.top + 0.10)
    _, heart_y = body.at(1, 0, rng.uniform(0.62, 0.75))
    heart = (body.heart[0] + 0.02, heart_y)
    start = (body.mid - 0.02, 0.04)
    wire = partial(rod, [start, vein, heart], 0.013, dense)
    around_wire = (
        min(vein[0], heart[0]) - 0.02,
        0.02,
        body.mid + 0.02,
        heart[1] + 0.02,
    )
    return [
        (
            (
                top[0] - 0.03,
                0.0,
                fork[0] + 0.03,
                tip[1] + 0.02,
            ),
            tube,
        ),
        (around_wire, wire),
    ]


def draw_side_tortuous_aorta(rng: np.random.Generator, body: SideBody) -> Places:
    """The descending aorta winds in front of the spine."""
    swing = rng.uniform(0.040, 0.055)
    height = body.dia[1] - body.top
    ends = (body.top + 0.36 * height, body.dia[1] + 0.02)
    middle = body.mid + 0.42 * body.half
    dense = rng.uniform(0.30, 0.42)
    paint = partial(winding, middle, -swing, ends, 0.060, dense)
    window = (
        middle - 0.11,
        ends[0] - 0.02,
        middle + 0.11,
        ends[1] + 0.02,
    )
    return [(window, paint)]


LATERAL: dict[str, SidePainter] = {name: paint for name, paint in FINDINGS.items() if name not in SIGNS} | {
    "Effusion": draw_side_effusion,
    "Edema": draw_side_edema,
    "Calcification of the Aorta": draw_side_calcification,
    "Enlarged Cardiomediastinum": draw_side_mediastinum,
    "Fracture": draw_side_fracture,
    "Pleural Other": draw_side_plaque,
    "Pneumomediastinum": draw_side_pneumomediastinum,
    "Pneumoperitoneum": draw_side_pneumoperitoneum,
    "Subcutaneous Emphysema": draw_side_subcutaneous_air,
    "Support Devices": draw_side_devices,
    "Tortuous Aorta": draw_side_tortuous_aorta,
}
