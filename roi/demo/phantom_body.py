"""Who is on the image, and the chest without findings: anatomy, what moves between images, and what misleads.

Letters: S side in pixels, h x w a window of it, x (1, w) and y (h, 1) its coordinates. Side -1 is image left, 1 right.
Density 0 is air.
"""

import math
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from PIL import Image, ImageDraw

from roi.demo.phantom_shapes import (
    IMAGE,
    PATIENT,
    Array,
    Box,
    Point,
    add,
    around,
    coordinates,
    ellipse,
    ramp,
    resized,
    soft_disc,
    stream,
    toward,
)

LINES = 320  # side of the layer on which thin normal lines are drawn
TONES = 500  # grey levels of that layer for a density of 1


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

    def stream(self, kind: int) -> np.random.Generator:
        """Random numbers of this image, for one purpose."""
        return stream(self.seed, self.patient, self.followup, kind)

    def patient_stream(self, kind: int) -> np.random.Generator:
        """Random numbers of the patient, the same in each follow-up."""
        return stream(self.seed, self.patient, 0, kind)


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

    def at(self, side: int, u: float, t: float) -> Point:
        """A place in a lung, as x, y.

        Args:
            side: -1 or 1.
            u: 0 midline, 1 widest wall.
            t: 0 apex, 1 dome of the diaphragm.
        """
        height = self.dia[side > 0] - self.top
        x = self.mid + side * u * self.half
        return x, self.top + t * height

    def path(self, side: int, *places: Point) -> list[Point]:
        """Places in a lung, as in `at`, one after the other."""
        return [self.at(side, u, t) for u, t in places]

    def strip(self, side: int, u0: float, y0: float, y1: float) -> Box:
        """The window from u0 to the wall."""
        inner = self.mid + side * u0 * self.half
        wall = self.mid + side * 1.01 * self.half
        return min(inner, wall), y0, max(inner, wall), y1

    def aortic_knob(self) -> Point:
        """Where the arch of the aorta shows beside the spine."""
        height = self.dia[1] - self.top
        return self.mid + 0.045, self.top + 0.40 * height

    def rib_cage(self) -> Box:
        """The window of both lungs."""
        half = 1.02 * self.half
        left = self.mid - half
        right = self.mid + half
        low = max(self.dia) + 1.4 * self.dome + 0.02
        return left, self.top - 0.02, right, low

    def across(self, x: Array) -> Array:
        """u of `at`, always positive. (1, w) -> (1, w)"""
        return np.abs(x - self.mid) / self.half

    def wall(self, x: Array, y: Array) -> Array:
        """How far inside the lateral wall, negative outside. (h, w)"""
        below_apex = (y - self.top) / (0.85 - self.top)
        t = np.clip(below_apex, 0, 1)
        wide = np.sqrt(t * (2 - t))  # narrow at the apex
        half = self.half * (0.70 + 0.30 * wide)
        return half - np.abs(x - self.mid)

    def depth(self, x: Array, y: Array) -> Array:
        """How far inside the wall and below the apex of the lungs. (h, w)"""
        off = self.across(x) - 0.38
        apex = self.top + 0.64 * off**2
        return np.minimum(self.wall(x, y), y - apex)

    def floor(self, x: Array) -> Array:
        """y of the diaphragm. (1, w) -> (1, w)"""
        off = self.across(x) - 0.42
        # The dome falls off four times as steeply towards the wall: the costophrenic angle.
        steep = np.where(off > 0, 4, 1)
        left, right = self.dia
        dome = np.where(x > self.mid, right, left)
        return dome + self.dome * off**2 * steep

    def lung(self, x: Array, y: Array) -> Array:
        """Both lungs. (h, w) in [0, 1]"""
        off = self.across(x) - 0.42
        above = self.floor(x).astype(np.float32) - y
        beside_heart = (off + 0.27) * self.half
        inside = np.minimum(self.depth(x, y), above)
        return ramp(np.minimum(inside, beside_heart), 0.018)

    def heart_at(self, x: Array, y: Array, grow: float = 1.0) -> Array:
        """The heart, `grow` times as wide as it was. (h, w) density"""
        cx, cy, long, short, angle = self.heart
        long = long * (1 + 0.8 * (grow - 1))
        short = short * grow
        return 0.40 * ellipse(x, y, cx, cy, long, short, 0.025, angle)


@lru_cache(maxsize=8)
def body_of(case: Case) -> Body:
    """The patient's anatomy, then this image's position and view."""
    # Two streams: who somebody is stays from image to image, how he stands and breathes does not. The order of the
    # draws is part of the set: another one is another set.
    p = case.patient_stream(PATIENT)
    i = case.stream(IMAGE)
    portable = case.view == "AP"
    mid = 0.5 + i.normal(0, 0.008)
    shift = i.normal(0, 0.006) - 0.015 * portable
    scale = i.uniform(0.98, 1.02)
    dia = p.uniform(0.70, 0.76) + shift
    offset = p.uniform(-0.005, 0.02)
    # On portable images, taken from the front, the heart is larger.
    size = p.uniform(0.92, 1.06) * i.uniform(0.97, 1.03)
    size = size * (1.08 if portable else 1.0)
    half = p.uniform(0.35, 0.40) * scale
    top = p.uniform(0.08, 0.13) + shift
    dome = p.uniform(0.06, 0.10)
    heart_x = mid + p.uniform(0.030, 0.050)
    heart_y = dia - p.uniform(0.07, 0.09)
    heart_angle = p.uniform(0.6, 0.95)
    heart = (heart_x, heart_y, 0.138 * size, 0.104 * size, heart_angle)
    gap = p.uniform(0.065, 0.085)
    bend = p.uniform(0.15, 0.29)
    ribs = (gap, bend, p.uniform(0, 0.08) + shift)
    return Body(
        mid=mid,
        half=half,
        top=top,
        dia=(dia, dia + offset),
        dome=dome,
        heart=heart,
        ribs=ribs,
        breast=p.uniform(0.04, 0.10) * (case.sex == "F"),
        nipple=p.uniform(0.06, 0.10) * (p.random() < 0.25),
        bubble=i.uniform(0.15, 0.3) * (i.random() < 0.5),
        shoulder=p.uniform(0.13, 0.19),
        portable=portable,
        vessels=draw_vessels(p),
    )


def draw_vessels(rng: np.random.Generator) -> tuple[tuple[int, float, float, float, float], ...]:
    """Five on each side."""
    lowest = (-1.2, 0.0, 0.10, -3.0)
    highest = (1.3, 0.03, 0.22, 3.0)
    vessels = []
    for side in (-1, 1):
        for _ in range(5):
            angle, start, length, bend = rng.uniform(lowest, highest).tolist()
            vessels.append((side, angle, start, length, bend))
    return tuple(vessels)


# ---- the normal chest -----------------------------------------------------------------------------------------------


def draw_body(body: Body, rng: np.random.Generator, size: int) -> Array:
    """A normal chest. (S, S) density, about 0 (air) .. 1.5 (bone over heart)"""
    canvas = draw_tissue(rng, size)
    x, y = coordinates(0, 0, size, size, size)
    draw_torso(canvas, body, x, y)
    draw_chest(canvas, body)
    canvas += draw_lines(body, size)
    draw_details(canvas, body, rng)
    return canvas


def draw_torso(canvas: Array, body: Body, x: Array, y: Array) -> None:
    """Tissue within the outline of the trunk alone, more of it in the abdomen."""
    below_neck = np.clip((y - 0.02) / body.shoulder, 0, 1)
    neck_and_shoulders = 0.10 + 0.42 * below_neck**1.5
    trunk = 0.54 - 0.10 * (y - 0.3)
    outline = np.where(y > 0.3, trunk, neck_and_shoulders)
    off = np.abs(x - body.mid)
    canvas *= ramp(outline - off, 0.03)
    abdomen = body.dia[0] + 0.5 * body.dome
    canvas += 0.12 * ramp(y - abdomen, 0.12)


def draw_tissue(rng: np.random.Generator, size: int) -> Array:
    """Soft tissue with mottle on two scales. (S, S)"""
    coarse = rng.normal(0, 0.045, (5, 5)).astype(np.float32)
    fine = rng.normal(0, 0.022, (40, 40)).astype(np.float32)
    fine += resized(Image.fromarray(coarse), 40, Image.Resampling.BICUBIC)
    # In bytes, which Pillow resizes five times faster than floats.
    tones = np.clip((fine + 0.66) * 200, 0, 255).astype(np.uint8)
    tissue = resized(Image.fromarray(tones), size, Image.Resampling.BILINEAR)
    return tissue * np.float32(1 / 200)


def draw_chest(canvas: Array, body: Body) -> None:
    """Take the lungs out of the torso; ribs over them, the spine, the mediastinum and the heart between them."""
    add(canvas, body.rib_cage(), partial(lungs, body))
    middle = (body.mid - 0.13, 0, body.mid + 0.13, 1)
    add(canvas, middle, partial(spine, body))
    cx, cy, reach = body.heart[:3]
    add(canvas, around(cx, cy, reach, reach), body.heart_at)
    knob = body.aortic_knob()
    paint = partial(soft_disc, knob, 0.04, 0.048, 0.16, 0.02)
    add(canvas, around(*knob, 0.042, 0.05), paint)


def lungs(body: Body, x: Array, y: Array) -> Array:
    """What the lungs take away, less where a rib crosses them. (h, w) density"""
    gap, bend, start = body.ribs
    u = body.across(x)
    off = u - 0.45
    arc = bend * off**2 - 0.05 * u + start
    waves = 2 * math.pi / gap
    rib = np.cos((y - arc) * waves)
    rib -= 0.25
    np.maximum(rib, 0, out=rib)
    rib *= 0.12
    rib -= 0.44
    return rib * body.lung(x, y)


def spine(body: Body, x: Array, y: Array) -> Array:
    """Vertebrae in the soft shadow of the mediastinum. (h, w) density"""
    off = x - body.mid
    waves = 2 * math.pi / 0.055
    vertebrae = 0.10 + 0.025 * np.cos(y * waves)
    shadow = np.exp(-((off / 0.055) ** 2))
    column = np.exp(-((off / 0.035) ** 4))
    return shadow * 0.20 + column * vertebrae


def draw_disc(
    canvas: Array,
    centre: Point,
    rx: float,
    ry: float,
    density: float,
    soft: float = 0.008,
) -> None:
    paint = partial(soft_disc, centre, rx, ry, density, soft)
    add(canvas, around(*centre, rx, ry), paint)


def draw_lines(body: Body, size: int) -> Array:
    """Clavicles, vessels and (AP) the edges of the scapulae. (S, S)

    They are drawn at a fixed size and then resized, so that they are as wide at every size; each line has one grey.
    """
    layer = Image.new("L", (LINES, LINES))
    pen = ImageDraw.Draw(layer)

    def line(points: list[Point], width: float, density: float) -> None:
        pixels = [(LINES * x, LINES * y) for x, y in points]
        tone = round(TONES * density)
        pen.line(pixels, tone, round(LINES * width), "curve")

    for side, angle, start, length, bend in body.vessels:
        hilum = body.at(side, 0.26, 0.50)
        points = []
        reaches = (start, start + 0.4 * length, start + 0.7 * length, start + length)
        for reach in reaches:
            turn = angle + bend * (reach - start)
            points.append(toward(hilum, reach, turn, side))
        # Thinner and fainter the farther it is from the hilum.
        line(points, 0.008, 0.05)
        line(points[:3], 0.012, 0.07)
        line(points[:2], 0.016, 0.09)
    for side in (-1, 1):
        clavicle = body.path(side, (0.13, 0.12), (0.5, 0.07), (0.80, 0.01))
        line(clavicle, 0.026, 0.15)
        # On other images the arms are turned forward, and the shoulder blades lie outside the lungs.
        if body.portable:
            scapula = body.path(side, (0.93, 0.05), (0.90, 0.25), (0.84, 0.42))
            line(scapula, 0.012, 0.09)
    return resized(layer, size, Image.Resampling.BILINEAR) * np.float32(1 / TONES)


def draw_details(canvas: Array, body: Body, rng: np.random.Generator) -> None:
    """Hila, breasts, the stomach bubble, and what misleads: nipples, electrodes, a side marker."""
    for side in (-1, 1):
        hilum = body.at(side, 0.27, 0.50)
        draw_disc(canvas, hilum, 0.045, 0.07, 0.12, 0.08)
        if body.nipple:
            nipple = body.at(side, 0.62, 0.86)
            draw_disc(canvas, nipple, 0.014, 0.014, body.nipple)
        if body.breast:
            breast = body.at(side, 0.62, 0.92)
            draw_disc(canvas, breast, 0.21, 0.17, body.breast, 0.10)
    if body.bubble:
        bubble = body.at(1, rng.uniform(0.3, 0.5), 1.13)
        draw_disc(canvas, bubble, 0.075, 0.04, -body.bubble)
    if rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 4))):
            electrode = (rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.8))
            draw_disc(canvas, electrode, 0.011, 0.011, 1.2)
    marker_x = 0.07 if rng.random() < 0.5 else 0.91
    marker_y = rng.uniform(0.05, 0.12)
    draw_disc(canvas, (marker_x, marker_y), 0.014, 0.028, 1.0)
