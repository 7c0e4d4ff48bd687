"""Draws a chest X-ray in unit coordinates (x to the right, y down, both in [0, 1]), and 14 findings in known boxes.

A seed is the same picture at every size; only the noise differs. A picture is a sum of densities (0 = air), then one tone
curve. A finding adds its own density inside its box and nothing outside. Each random stream is made from (seed, patient,
follow-up, stream): no order, no global generator.

Letters: S side in pixels, h x w a window of it, x (1, w) and y (h, 1) its coordinates, float32. Side -1 is image left, 1 right.
Windows are (x0, y0, x1, y1); boxes in the table are (x, y, w, h).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from roi.labels import LABELS

Array = NDArray[Any]  # float32; Python floats leave it float32
Box = tuple[float, float, float, float]
Paint = Callable[[Array, Array], Array]  # x (1, w), y (h, 1) -> density to add (h, w), 0 = untouched

LINES = 320  # side of the layer on which thin normal lines are drawn
GRID = 250  # boxes are found on this grid whatever the size of the image
SPACE = 1024.0  # boxes in the table are in 1024 x 1024 space
PATIENT, IMAGE, DRAW, NOISE, PLAN, FINDING = 1, 2, 3, 4, 5, 16  # streams; a finding's is FINDING + its index


def stream(seed: int, patient: int, followup: int, kind: int) -> np.random.Generator:
    """A generator for one purpose; always four numbers, as SeedSequence pads shorter lists with zeros."""
    return np.random.default_rng([seed, patient, followup, kind])


@dataclass(frozen=True)
class Case:
    """One image to draw. `findings` are (label, follow-up at which it appeared): one that persists keeps its shape."""

    seed: int
    patient: int
    followup: int
    view: str = "PA"
    sex: str = "M"
    age: int = 50
    scanner: str = "2992,2991,0.143,0.143"
    findings: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.patient:08d}_{self.followup:03d}.png"

    @property
    def labels(self) -> tuple[str, ...]:
        """What the table says of the image, in order of LABELS; here what is in it."""
        return tuple(label for label, _ in self.findings)


# ---- shapes ---------------------------------------------------------------------------------------------------------


def axes(start: int, end: int, size: int) -> Array:
    """Unit coordinates of the pixel centres start .. end - 1. -> (end - start,)"""
    return (np.arange(start, end, dtype=np.float32) + np.float32(0.5)) / np.float32(size)


def ramp(distance: Array, soft: float) -> Array:
    """0 outside, 1 inside, smooth over `soft` around distance 0. (h, w) -> (h, w) in [0, 1]"""
    t = distance * (1 / soft)
    t += 0.5
    np.minimum(np.maximum(t, 0, out=t), 1, out=t)
    return t * t * (3 - 2 * t)


def turned(x: Array, y: Array, cx: float, cy: float, angle: float) -> tuple[Array, Array]:
    """Coordinates along and across a direction (radians) from a centre. -> two (h, w)"""
    c, s = math.cos(angle), math.sin(angle)
    dx, dy = x - cx, y - cy
    return dx * c + dy * s, dy * c - dx * s


def ellipse(
    x: Array, y: Array, cx: float, cy: float, rx: float, ry: float, soft: float = 0.012, angle: float = 0.0
) -> Array:
    """A filled ellipse that ends at its radii. -> (h, w) in [0, 1]"""
    p, q = turned(x, y, cx, cy, angle) if angle else (x - cx, y - cy)
    p, q, small = p / rx, q / ry, min(rx, ry)
    return ramp((small - soft / 2) - small * np.sqrt(p * p + q * q), soft)


def segment(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float], width: float) -> Array:
    """A straight line with soft edges. -> (h, w) in [0, 1]"""
    p, q = turned(x, y, *start, math.atan2(end[1] - start[1], end[0] - start[0]))
    p -= np.minimum(np.maximum(p, 0), math.dist(start, end))
    return ramp(width / 2 - np.sqrt(p * p + q * q), width / 2)


def around(cx: float, cy: float, rx: float, ry: float) -> Box:
    """The window around a centre."""
    return cx - rx, cy - ry, cx + rx, cy + ry


def add(canvas: Array, window: Box, paint: Paint) -> None:
    """Add a density to the pixels that a window touches. canvas: (S, S), changed in place"""
    size = len(canvas)
    x0, y0 = (max(0, math.floor(v * size + 1e-6)) for v in window[:2])
    x1, y1 = (min(size, math.ceil(v * size - 1e-6)) for v in window[2:])
    if x1 > x0 and y1 > y0:
        canvas[y0:y1, x0:x1] += paint(axes(x0, x1, size)[None], axes(y0, y1, size)[:, None])


# ---- anatomy --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Body:
    """Where things are, in unit coordinates; drawn once a patient, then moved a little for each image."""

    mid: float  # midline x
    half: float  # half width of the rib cage
    top: float  # apex of the lungs
    dia: tuple[float, float]  # top of the diaphragm domes, image left and right
    dome: float  # how deep the costophrenic angles lie below the domes
    heart: tuple[float, float, float, float, float]  # cx, cy, long and short radius, angle
    ribs: tuple[float, float, float]  # gap, bend, start
    breast: float  # density
    nipple: float  # density
    bubble: float  # density taken out below the right-hand dome
    shoulder: float
    portable: bool
    vessels: tuple[tuple[int, float, float, float, float], ...]  # side, angle, start, length, bend

    def at(self, side: int, u: float, t: float) -> tuple[float, float]:
        """u: 0 midline, 1 widest wall. t: 0 apex, 1 dome of the diaphragm. -> x, y"""
        return self.mid + side * u * self.half, self.top + t * (self.dia[side > 0] - self.top)

    def strip(self, side: int, u0: float, y0: float, y1: float) -> Box:
        """The window from u0 to the wall."""
        x0, x1 = sorted((self.mid + side * u0 * self.half, self.mid + side * 1.01 * self.half))
        return x0, y0, x1, y1

    def across(self, x: Array) -> Array:
        """u of `at`, always positive. (1, w) -> (1, w)"""
        return np.abs(x - self.mid) / self.half

    def wall(self, x: Array, y: Array) -> Array:
        """How far inside the lateral wall. -> (h, w), negative outside"""
        t = np.clip((y - self.top) / (0.85 - self.top), 0, 1)
        return self.half * (0.70 + 0.30 * np.sqrt(t * (2 - t))) - np.abs(x - self.mid)

    def depth(self, x: Array, y: Array) -> Array:
        """How far inside the wall and below the apex of the lungs. -> (h, w)"""
        return np.minimum(self.wall(x, y), y - (self.top + 0.64 * (self.across(x) - 0.38) ** 2))

    def lung(self, x: Array, y: Array) -> Array:
        """Both lungs. -> (h, w) in [0, 1]"""
        off = self.across(x) - 0.42
        floor = np.where(x > self.mid, self.dia[1], self.dia[0]) + self.dome * off**2 * np.where(off > 0, 4, 1)
        inner = (off + 0.27) * self.half
        return ramp(np.minimum(np.minimum(self.depth(x, y), floor.astype(np.float32) - y), inner), 0.018)

    def heart_at(self, x: Array, y: Array, grow: float = 1.0) -> Array:
        cx, cy, long, short, angle = self.heart
        return 0.40 * ellipse(x, y, cx, cy, long * (1 + 0.8 * (grow - 1)), short * grow, 0.025, angle)


@lru_cache(maxsize=8)
def body_of(case: Case) -> Body:
    """The patient's anatomy, then this image's position and view."""
    p = stream(case.seed, case.patient, 0, PATIENT)
    i = stream(case.seed, case.patient, case.followup, IMAGE)
    portable = case.view == "AP"
    mid, shift, scale = 0.5 + i.normal(0, 0.008), i.normal(0, 0.006) - 0.015 * portable, i.uniform(0.98, 1.02)
    dia, offset = p.uniform(0.70, 0.76) + shift, p.uniform(-0.005, 0.02)
    size = p.uniform(0.92, 1.06) * i.uniform(0.97, 1.03) * (1.08 if portable else 1.0)
    return Body(
        mid=mid,
        half=p.uniform(0.35, 0.40) * scale,
        top=p.uniform(0.08, 0.13) + shift,
        dia=(dia, dia + offset),
        dome=p.uniform(0.06, 0.10),
        heart=(
            mid + p.uniform(0.030, 0.050),
            dia - p.uniform(0.07, 0.09),
            0.138 * size,
            0.104 * size,
            p.uniform(0.6, 0.95),
        ),
        ribs=(p.uniform(0.065, 0.085), p.uniform(0.15, 0.29), p.uniform(0, 0.08) + shift),
        breast=p.uniform(0.04, 0.10) * (case.sex == "F"),
        nipple=p.uniform(0.06, 0.10) * (p.random() < 0.25),
        bubble=i.uniform(0.15, 0.3) * (i.random() < 0.5),
        shoulder=p.uniform(0.13, 0.19),
        portable=portable,
        vessels=tuple(
            (s, *p.uniform((-1.2, 0.0, 0.10, -3.0), (1.3, 0.03, 0.22, 3.0)).tolist()) for s in (-1, 1) for _ in range(5)
        ),
    )


def draw_chest(d: Array, body: Body) -> None:
    """Take the lungs out of the torso; ribs over them, the spine, the mediastinum and the heart between them."""
    gap, bend, start = body.ribs

    def lungs(x: Array, y: Array) -> Array:
        u = body.across(x)
        rib = np.cos((y - (bend * (u - 0.45) ** 2 - 0.05 * u + start)) * (2 * math.pi / gap))
        rib -= 0.25
        np.maximum(rib, 0, out=rib)
        rib *= 0.12
        rib -= 0.44
        return rib * body.lung(x, y)

    def spine(x: Array, y: Array) -> Array:
        off = x - body.mid
        vertebrae = 0.10 + 0.025 * np.cos(y * (2 * math.pi / 0.055))
        return np.exp(-((off / 0.055) ** 2)) * 0.20 + np.exp(-((off / 0.035) ** 4)) * vertebrae

    low = max(body.dia) + 1.4 * body.dome + 0.02
    add(d, (body.mid - 1.02 * body.half, body.top - 0.02, body.mid + 1.02 * body.half, low), lungs)
    add(d, (body.mid - 0.13, 0, body.mid + 0.13, 1), spine)
    add(d, around(*body.heart[:2], body.heart[2], body.heart[2]), body.heart_at)
    knob = (body.mid + 0.045, body.top + 0.40 * (body.dia[1] - body.top))
    add(d, around(*knob, 0.042, 0.05), lambda x, y: 0.16 * ellipse(x, y, *knob, 0.04, 0.048, 0.02))


def draw_disc(d: Array, centre: tuple[float, float], rx: float, ry: float, density: float, soft: float = 0.008) -> None:
    add(d, around(*centre, rx, ry), lambda x, y: density * ellipse(x, y, *centre, rx, ry, soft))


def draw_lines(body: Body, size: int) -> Array:
    """Clavicles, vessels and (AP) the edges of the scapulae, at a fixed size and then resized: lines of one grey. -> (S, S)"""
    layer = Image.new("L", (LINES, LINES))
    pen = ImageDraw.Draw(layer)

    def line(points: list[tuple[float, float]], width: float, density: float) -> None:
        pen.line([(LINES * x, LINES * y) for x, y in points], round(500 * density), round(LINES * width), "curve")

    for side, angle, start, length, bend in body.vessels:
        (x, y), points = body.at(side, 0.26, 0.50), []
        for reach in (start, start + 0.4 * length, start + 0.7 * length, start + length):
            turn = angle + bend * (reach - start)
            points.append((x + reach * side * math.cos(turn), y + reach * math.sin(turn)))
        line(points, 0.008, 0.05)
        line(points[:3], 0.012, 0.07)
        line(points[:2], 0.016, 0.09)
    for side in (-1, 1):
        line([body.at(side, 0.13, 0.12), body.at(side, 0.5, 0.07), body.at(side, 0.80, 0.01)], 0.026, 0.15)
        if body.portable:
            line([body.at(side, 0.93, 0.05), body.at(side, 0.90, 0.25), body.at(side, 0.84, 0.42)], 0.012, 0.09)
    return np.asarray(layer.resize((size, size), Image.Resampling.BILINEAR)) * np.float32(1 / 500)


def draw_details(d: Array, body: Body, rng: np.random.Generator) -> None:
    """Hila, breasts, the stomach bubble, and what misleads: nipples, electrodes, a side marker."""
    for side in (-1, 1):
        draw_disc(d, body.at(side, 0.27, 0.50), 0.045, 0.07, 0.12, 0.08)
        if body.nipple:
            draw_disc(d, body.at(side, 0.62, 0.86), 0.014, 0.014, body.nipple)
        if body.breast:
            draw_disc(d, body.at(side, 0.62, 0.92), 0.21, 0.17, body.breast, 0.10)
    if body.bubble:
        draw_disc(d, body.at(1, rng.uniform(0.3, 0.5), 1.13), 0.075, 0.04, -body.bubble)
    for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.25 else 0):
        draw_disc(d, (rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.8)), 0.011, 0.011, 1.2)
    draw_disc(d, (0.07 if rng.random() < 0.5 else 0.91, rng.uniform(0.05, 0.12)), 0.014, 0.028, 1.0)


def draw_body(body: Body, rng: np.random.Generator, size: int) -> Array:
    """A normal chest. -> (S, S) density, about 0 (air) .. 1.5 (bone over heart)"""
    coarse, fine = rng.normal(0, 0.045, (5, 5)).astype(np.float32), rng.normal(0, 0.022, (40, 40)).astype(np.float32)
    fine += np.asarray(Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC))
    tissue = Image.fromarray(
        np.clip((fine + 0.66) * 200, 0, 255).astype(np.uint8)
    )  # bytes: five times faster than floats
    d = np.asarray(tissue.resize((size, size), Image.Resampling.BILINEAR)) * np.float32(1 / 200)
    x, y = axes(0, size, size)[None], axes(0, size, size)[:, None]
    outline = np.where(y > 0.3, 0.54 - 0.10 * (y - 0.3), 0.10 + 0.42 * np.clip((y - 0.02) / body.shoulder, 0, 1) ** 1.5)
    d *= ramp(outline - np.abs(x - body.mid), 0.03)
    d += 0.12 * ramp(y - (body.dia[0] + 0.5 * body.dome), 0.12)
    draw_chest(d, body)
    d += draw_lines(body, size)
    draw_details(d, body, rng)
    return d


# ---- findings: one or two places, each a window and what is added in it ---------------------------------------------

Places = list[tuple[Box, Paint]]


def one_side(rng: np.random.Generator) -> int:
    return -1 if rng.random() < 0.5 else 1


def draw_atelectasis(rng: np.random.Generator, body: Body) -> Places:
    """Two or three parallel plates at a base."""
    side = one_side(rng)
    cx, cy = body.at(side, rng.uniform(0.52, 0.64), rng.uniform(0.80, 0.90))
    dense, length, gap, angle = (
        rng.uniform(0.25, 0.42),
        rng.uniform(0.15, 0.19),
        rng.uniform(0.038, 0.045),
        rng.uniform(-0.35, 0.35),
    )
    plates = [gap * k for k in ((-1, 0, 1) if rng.random() < 0.5 else (-0.5, 0.5))]

    def paint(x: Array, y: Array) -> Array:
        p, q = turned(x, y, cx, cy, angle)
        off = np.minimum.reduce([np.abs(q - plate) for plate in plates])
        return dense * ramp(length / 2 - np.abs(p), 0.02) * ramp(0.010 - off, 0.008)

    return [(around(cx, cy, 0.12, 0.10), paint)]


def draw_cardiomegaly(rng: np.random.Generator, body: Body) -> Places:
    """A heart much larger than it was."""
    grow = rng.uniform(1.30, 1.50)
    return [(around(*body.heart[:2], 0.23, 0.23), lambda x, y: body.heart_at(x, y, grow) - body.heart_at(x, y))]


def draw_effusion(rng: np.random.Generator, body: Body) -> Places:
    """Fluid with a meniscus in a costophrenic angle."""
    side, dense, level, rise = one_side(rng), rng.uniform(0.38, 0.50), rng.uniform(-0.02, 0.03), rng.uniform(0.08, 0.13)
    dia = body.dia[side > 0]

    def paint(x: Array, y: Array) -> Array:
        u = body.across(x)
        surface = dia - level - rise * np.clip((u - 0.5) / 0.5, 0, 1) ** 2
        return dense * ramp(y - surface, 0.012) * body.lung(x, y) * ramp(u - 0.50, 0.08)

    return [(body.strip(side, 0.46, dia - level - rise - 0.02, dia + 1.4 * body.dome), paint)]


def draw_infiltration(rng: np.random.Generator, body: Body) -> Places:
    """Faint blotches in a patch."""
    cx, cy = body.at(one_side(rng), rng.uniform(0.48, 0.66), rng.uniform(0.42, 0.72))
    dense, turn, step = rng.uniform(0.18, 0.28), rng.uniform(0, 6.28), rng.uniform(2.1, 2.7)
    polar = [(0.025 * math.sqrt(k), turn + k * step) for k in range(9)]
    spots = [(cx + r * math.cos(a), cy + r * math.sin(a)) for r, a in polar]
    radii = rng.uniform(0.018, 0.028, 9).tolist()

    def paint(x: Array, y: Array) -> Array:
        return dense * np.maximum.reduce([ellipse(x, y, *c, r, r, 0.022) for c, r in zip(spots, radii, strict=True)])

    return [(around(cx, cy, 0.10, 0.10), paint)]


def draw_mass(rng: np.random.Generator, body: Body) -> Places:
    """A large round opacity."""
    cx, cy = body.at(one_side(rng), rng.uniform(0.42, 0.68), rng.uniform(0.28, 0.78))
    dense, r, ratio, angle = (
        rng.uniform(0.24, 0.42),
        rng.uniform(0.058, 0.080),
        rng.uniform(0.85, 1.0),
        rng.uniform(0, 3.14),
    )
    return [(around(cx, cy, 0.09, 0.09), lambda x, y: dense * ellipse(x, y, cx, cy, r, r * ratio, 0.015, angle))]


def draw_nodule(rng: np.random.Generator, body: Body) -> Places:
    """One or two small round opacities."""

    def place() -> tuple[Box, Paint]:
        cx, cy = body.at(one_side(rng), rng.uniform(0.40, 0.75), rng.uniform(0.22, 0.82))
        dense, r = rng.uniform(0.34, 0.50), rng.uniform(0.026, 0.038)
        return around(cx, cy, 0.04, 0.04), lambda x, y: dense * ellipse(x, y, cx, cy, r, r, 0.010)

    return [place() for _ in range(1 if rng.random() < 0.6 else 2)]


def draw_pneumonia(rng: np.random.Generator, body: Body) -> Places:
    """A soft dense blob with dark branching air bronchograms."""
    side = one_side(rng)
    cx, cy = body.at(side, rng.uniform(0.46, 0.62), rng.uniform(0.55, 0.78))
    dense, r, turn = rng.uniform(0.32, 0.46), rng.uniform(0.080, 0.095), rng.uniform(-0.4, 0.4)
    root, fork = (cx - side * 0.8 * r, cy - 0.25 * r), (cx - side * 0.15 * r, cy)
    tips = [
        (fork[0] + side * 0.75 * r * math.cos(a), fork[1] + 0.75 * r * math.sin(a))
        for a in (turn - 0.75, turn, turn + 0.75)
    ]

    def paint(x: Array, y: Array) -> Array:
        tree = np.maximum.reduce([segment(x, y, root, fork, 0.018)] + [segment(x, y, fork, tip, 0.017) for tip in tips])
        return ellipse(x, y, cx, cy, r, r, 0.06) * dense * (1 - 1.1 * tree)

    return [(around(cx, cy, 0.10, 0.10), paint)]


def draw_pneumothorax(rng: np.random.Generator, body: Body) -> Places:
    """Air between the wall and a thin bright pleural line, at the apex."""
    side, width, end, thin = (
        one_side(rng),
        rng.uniform(0.070, 0.100),
        body.top + rng.uniform(0.20, 0.28),
        rng.uniform(0.12, 0.22),
    )

    def paint(x: Array, y: Array) -> Array:
        inside = body.depth(x, y) - width * np.clip((end - y) / (end - body.top), 0, 1) ** 0.6
        shown = body.lung(x, y) * ramp(end - 0.01 - y, 0.02) * ramp(body.across(x) - 0.44, 0.06)
        return shown * (0.30 * ramp(0.009 - np.abs(inside), 0.008) - thin * ramp(-inside, 0.01))

    return [(body.strip(side, 0.40, body.top - 0.01, end), paint)]


def draw_consolidation(rng: np.random.Generator, body: Body) -> Places:
    """A homogeneous lobe above a fissure: one sharp straight edge, the others fade."""
    dense, angle = rng.uniform(0.26, 0.42), rng.uniform(-0.2, 0.2)
    cx, cy = body.at(one_side(rng), rng.uniform(0.48, 0.58), rng.uniform(0.36, 0.50))
    rx, ry = rng.uniform(0.085, 0.105), rng.uniform(0.12, 0.15)

    def paint(x: Array, y: Array) -> Array:
        above = ramp(-turned(x, y, cx, cy, angle)[1], 0.006)
        return dense * ellipse(x, y, cx, cy, rx, ry, 0.04, angle) * above * body.lung(x, y)

    return [(around(cx, cy, 0.12, 0.17), paint)]


def draw_edema(rng: np.random.Generator, body: Body) -> Places:
    """Haze with short horizontal lines at both hila."""
    dense, starts = rng.uniform(0.14, 0.26), rng.uniform(0, 0.015, (2, 4)).tolist()

    def place(side: int) -> tuple[Box, Paint]:
        cx, cy = body.at(side, 0.36, 0.52)
        lines = [((cx + side * (0.005 + s), cy + (k - 1.5) * 0.036), s) for k, s in enumerate(starts[side > 0])]

        def paint(x: Array, y: Array) -> Array:
            strokes = [segment(x, y, a, (a[0] + side * 0.045, a[1] + s / 2), 0.015) for a, s in lines]
            return dense * (ellipse(x, y, cx, cy, 0.075, 0.085, 0.06) + np.maximum.reduce(strokes))

        return around(cx, cy, 0.09, 0.10), paint

    return [place(-1), place(1)]


def draw_emphysema(rng: np.random.Generator, body: Body) -> Places:
    """One or two bullae: round, darker than lung, with a thin wall."""

    def place(side: int) -> tuple[Box, Paint]:
        cx, cy = body.at(side, rng.uniform(0.50, 0.64), rng.uniform(0.30, 0.70))
        r, air = rng.uniform(0.060, 0.078), rng.uniform(0.10, 0.20)

        def paint(x: Array, y: Array) -> Array:
            off = np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
            return 0.12 * ramp(0.007 - np.abs(off - (r - 0.008)), 0.006) - air * ramp(r - 0.012 - off, 0.012)

        return around(cx, cy, r + 0.01, r + 0.01), paint

    return [place(one_side(rng))] if rng.random() < 0.6 else [place(-1), place(1)]


def draw_fibrosis(rng: np.random.Generator, body: Body) -> Places:
    """A net of fine lines at a base."""
    dense, angle, pitch = rng.uniform(0.24, 0.38), rng.uniform(0.5, 1.0), rng.uniform(0.042, 0.048)
    cx, cy = body.at(one_side(rng), rng.uniform(0.58, 0.70), rng.uniform(0.76, 0.88))
    rx, ry = rng.uniform(0.080, 0.100), rng.uniform(0.060, 0.075)

    def paint(x: Array, y: Array) -> Array:
        p, q = turned(x, y, cx, cy, angle)
        net = np.maximum(np.cos(p * (2 * math.pi / pitch)), np.cos(q * (2 * math.pi / pitch)))
        return dense * ramp(net - 0.55, 0.5) * ellipse(x, y, cx, cy, rx, ry, 0.03)

    return [(around(cx, cy, 0.11, 0.09), paint)]


def draw_pleural_thickening(rng: np.random.Generator, body: Body) -> Places:
    """A bright band along the lateral wall."""
    side, dense, width = one_side(rng), rng.uniform(0.32, 0.46), rng.uniform(0.034, 0.042)
    middle, reach = rng.uniform(0.46, 0.58), rng.uniform(0.10, 0.13)

    def paint(x: Array, y: Array) -> Array:
        inside = body.wall(x, y)
        return (
            dense * ramp(width - inside, 0.010) * ramp(inside + 0.004, 0.008) * ramp(reach - np.abs(y - middle), 0.03)
        )

    return [(body.strip(side, 0.66, middle - reach - 0.02, middle + reach + 0.02), paint)]


def draw_hernia(rng: np.random.Generator, body: Body) -> Places:
    """A ring with air over fluid behind the heart."""
    cx, cy = body.mid + rng.uniform(-0.01, 0.05), body.dia[1] - rng.uniform(0.05, 0.08)
    r, level, air = rng.uniform(0.055, 0.070), rng.uniform(-0.012, 0.016), rng.uniform(0.4, 0.7)

    def paint(x: Array, y: Array) -> Array:
        off = np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
        ring, inside = ramp(0.009 - np.abs(off - (r - 0.010)), 0.006), ramp(r - 0.016 - off, 0.008)
        return 0.30 * ring + inside * (0.15 - (air + 0.15) * ramp(cy + level - y, 0.008))

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


class Patch(NamedTuple):
    """A finding at one place: its window, and what it adds there."""

    label: str
    window: Box
    paint: Paint

    def box(self) -> Box:
        """x, y, w, h in 1024 x 1024 space."""
        x0, y0, x1, y1 = self.window
        return SPACE * x0, SPACE * y0, SPACE * (x1 - x0), SPACE * (y1 - y0)


def tighten(label: str, window: Box, paint: Paint) -> Patch:
    """Shrink a window to what can be seen of the finding, on a grid that does not know the size of the image."""
    x0, y0 = (max(0, math.floor(v * GRID)) for v in window[:2])
    x1, y1 = (min(GRID, math.ceil(v * GRID)) for v in window[2:])
    change = np.abs(paint(axes(x0, x1, GRID)[None], axes(y0, y1, GRID)[:, None]))
    seen = change > 0.08 * change.max()
    rows, cols = np.flatnonzero(seen.any(1)).tolist(), np.flatnonzero(seen.any(0)).tolist()
    return Patch(
        label,
        ((x0 + cols[0]) / GRID, (y0 + rows[0]) / GRID, (x0 + cols[-1] + 1) / GRID, (y0 + rows[-1] + 1) / GRID),
        paint,
    )


def plant(case: Case) -> list[Patch]:
    """The findings of an image, each in its box."""
    return [
        tighten(label, window, paint)
        for label, onset in case.findings
        for window, paint in FINDINGS[label](
            stream(case.seed, case.patient, onset, FINDING + LABELS.index(label)), body_of(case)
        )
    ]


def render(case: Case, size: int, patches: list[Patch] | None = None) -> NDArray[np.uint8]:
    """Draw one image; `patches` are its findings if they are at hand. -> (S, S), grey 0..255"""
    rng = stream(case.seed, case.patient, case.followup, DRAW)
    gain, dark = rng.uniform(1.5, 2.0), rng.uniform(2.0, 10.0)
    grey = draw_body(body_of(case), rng, size)
    for patch in plant(case) if patches is None else patches:
        add(grey, patch.window, patch.paint)
    np.maximum(grey, 0, out=grey)
    grey *= -gain
    np.exp(grey, out=grey)
    grey *= -245
    grey += 245 + dark
    noise = stream(case.seed, case.patient, case.followup, NOISE).integers(0, 256, (2, size, size), dtype=np.uint8)
    grey += (noise[0].astype(np.float32) + noise[1] - 255) * np.float32(3.0 / 104)  # triangular, 3 grey levels
    return np.clip(grey, 0, 255, out=grey).astype(np.uint8)
