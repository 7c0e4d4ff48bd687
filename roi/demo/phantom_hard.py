"""Draws the hard phantom: the findings of roi/demo/phantom.py made faint, in a chest that is posed, exposed, collimated
and marked as on a ward (roi/demo/phantom_acquisition.py).

Everything but the findings is drawn from streams of its own and knows nothing of them, devices included. As in the easy
phantom a finding adds density inside its box and nothing outside, and a seed is the same picture at every size.

Letters: S side in pixels; x, y coordinates of the image in [0, 1]; u, v those of the upright body (roi/demo/phantom.py),
both (h, w). Density 0 is air.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from roi.demo.phantom import (
    FINDING,
    FINDINGS,
    LINES,
    NOISE,
    Array,
    Body,
    Box,
    Case,
    Paint,
    Patch,
    Places,
    add,
    around,
    axes,
    body_of,
    ellipse,
    ramp,
    stream,
    tighten,
)
from roi.demo.phantom_acquisition import edges_of, field_mask, pose_of, stamp_marks
from roi.labels import LABELS

ANATOMY, VESSELS, TISSUE, DEVICES, EXPOSURE = 50, 51, 52, 53, 54  # streams
HEART = 1.15  # times the size of the easy phantom's
ANATOMY_SIDE = 160  # side on which the anatomy is drawn before it is resized: nothing of it is sharper

# How much of its density in the easy set a finding has: drawn anew for each, between these. Chosen by a
# classifier's AUROC on two seeds (benchmarks/RESULTS.md): about .6 to .9, as of real findings.
FAINT: dict[str, tuple[float, float]] = {
    "Atelectasis": (0.18, 0.48),
    "Cardiomegaly": (1.00, 1.00),  # a whole shadow that is larger: see draw_large_heart
    "Effusion": (0.30, 0.70),
    "Infiltration": (0.32, 0.72),
    "Mass": (0.22, 0.55),
    "Nodule": (0.35, 0.75),
    "Pneumonia": (0.30, 0.70),
    "Pneumothorax": (0.38, 0.80),
    "Consolidation": (0.30, 0.65),
    "Edema": (0.25, 0.60),
    "Emphysema": (0.35, 0.80),
    "Fibrosis": (0.30, 0.70),
    "Pleural_Thickening": (0.45, 0.95),
    "Hernia": (0.60, 1.00),
}


# ---- anatomy --------------------------------------------------------------------------------------------------------


def draw_tissue(rng: np.random.Generator) -> Array:
    """Mottle on three scales. -> (ANATOMY_SIDE, ANATOMY_SIDE), around 1"""
    fine = rng.normal(0, 0.050, (96, 96)).astype(np.float32)
    for cells, spread in ((24, 0.045), (6, 0.07)):
        coarse = Image.fromarray(rng.normal(0, spread, (cells, cells)).astype(np.float32))
        fine += np.asarray(coarse.resize((96, 96), Image.Resampling.BICUBIC))
    return np.asarray(Image.fromarray(fine + 1).resize((ANATOMY_SIDE, ANATOMY_SIDE), Image.Resampling.BICUBIC))


def torso(body: Body, wall: float, u: Array, v: Array) -> Array:
    """Neck, shoulders, a round chest and the abdomen. -> (h, w) density"""
    off = np.abs(u - body.mid)
    rise = np.minimum(np.maximum(v - 0.01, 0) * (1 / body.shoulder), 1)
    girdle = 0.09 + 0.46 * rise * np.sqrt(rise)
    chest = (body.half + wall) + 0.06 * np.maximum(v - 0.3, 0) - 0.25 * np.maximum(0.22 - v, 0)
    depth = np.sqrt(np.maximum(1 - np.square(off / (chest + 0.03)), 0))
    arm = ramp(0.30 + 0.5 * (off - 0.3) - v, 0.22)
    density = (0.22 + 0.46 * depth) * ramp(chest - off, 0.05) * (1 - arm) + (0.30 + 0.36 * depth) * arm
    density *= ramp(girdle - off, 0.05)
    return density + 0.50 * depth * ramp(v - (max(body.dia) + 0.3 * body.dome), 0.16)


def lungs(body: Body, u: Array, v: Array) -> Array:
    """Share of the tissue that the lungs take away, least at their edges. -> (h, w) in [0, 1]"""
    thick = np.minimum(np.maximum(body.depth(u, v) * (1 / 0.11), 0), 1)
    return body.lung(u, v) * (0.54 + 0.20 * thick * (2 - thick))


def ribs(body: Body, u: Array, v: Array) -> Array:
    """Posterior ribs, and fainter anterior ones that run the other way. -> (h, w) density"""
    gap, bend, start = body.ribs
    across = np.abs(u - body.mid) * (1 / body.half)
    back = np.cos((v - (bend * np.square(across - 0.45) - 0.05 * across + start)) * (2 * math.pi / gap))
    front = np.cos((v - (0.24 * across * across + 1.6 * start)) * (2 * math.pi / (1.25 * gap)))
    shown = np.maximum(back - 0.1, 0) * 0.09
    shown += np.maximum(front - 0.3, 0) * np.minimum(np.maximum(0.14 * across - 0.035, 0), 0.07)
    return shown * ramp(body.wall(u, v) + 0.012, 0.02)


def mediastinum(body: Body, width: float, u: Array, v: Array) -> Array:
    """Spine, great vessels and the windpipe. -> (h, w) density"""
    near = np.square((u - body.mid) * np.float32(1 / width))
    vertebrae = 0.06 + 0.02 * np.cos(v * (2 * math.pi / 0.055))
    column = np.exp(-6.0 * near * near) * vertebrae
    soft = np.exp(-near) * (0.30 + 0.10 * ramp(v - 0.45, 0.5))
    trachea = 0.16 * np.exp(-14.0 * near) * ramp(body.at(1, 0, 0.42)[1] - v, 0.06)
    return soft + column - trachea


def draw_anatomy(case: Case, size: int) -> Array:
    """A normal chest in its pose. -> (S, S) density"""
    body, pose = body_of(case), pose_of(case)
    rng = stream(case.seed, case.patient, case.followup, TISSUE)
    own = stream(case.seed, case.patient, 0, ANATOMY)  # of the patient, the same in each follow-up
    wall, width = own.uniform(0.035, 0.12), own.uniform(0.055, 0.072)
    grid = axes(0, ANATOMY_SIDE, ANATOMY_SIDE)
    canvas = torso(body, wall, *pose.to_body(grid[None], grid[:, None]))

    def shape(window: Box, paint: Paint) -> None:
        add(canvas, pose.window(window), lambda x, y: paint(*pose.to_body(x, y)))

    low = max(body.dia) + 1.4 * body.dome + 0.02
    rib_cage = (body.mid - 1.02 * body.half, body.top - 0.02, body.mid + 1.02 * body.half, low)
    x0, y0, x1, y1 = (min(max(round(edge * ANATOMY_SIDE), 0), ANATOMY_SIDE) for edge in pose.window(rib_cage))
    inner = pose.to_body(grid[None, x0:x1], grid[y0:y1, None])
    part = canvas[y0:y1, x0:x1]
    part *= 1 - lungs(body, *inner)
    part += ribs(body, *inner)
    canvas *= draw_tissue(rng)
    shape((body.mid - 0.17, -0.2, body.mid + 0.17, 1.2), partial(mediastinum, body, width))
    reach = HEART * body.heart[2]
    shape(around(*body.heart[:2], reach, reach), partial(heart_shadow, body, 1.0))
    atrium = (body.mid - 0.030, body.heart[1] - 0.01)
    shape(around(*atrium, 0.085, 0.13), partial(soft_disc, atrium, 0.085, 0.13, 0.20, 0.04))
    knob = (body.mid + 0.045, body.top + 0.40 * (body.dia[1] - body.top))
    shape(around(*knob, 0.042, 0.05), partial(soft_disc, knob, 0.040, 0.048, 0.14, 0.025))
    for side in (-1, 1):
        hilum, breast, nipple = body.at(side, 0.27, 0.50), body.at(side, 0.60, 0.88), body.at(side, 0.62, 0.86)
        shape(around(*hilum, 0.06, 0.09), partial(soft_disc, hilum, 0.06, 0.09, 0.13, 0.10))
        if body.nipple:
            shape(around(*nipple, 0.014, 0.014), partial(soft_disc, nipple, 0.014, 0.014, body.nipple, 0.010))
        if body.breast:
            shape(around(*breast, 0.20, 0.17), partial(soft_disc, breast, 0.20, 0.17, 1.8 * body.breast, 0.05))
    if body.bubble:
        centre = body.at(1, rng.uniform(0.3, 0.5), 1.13)
        shape(around(*centre, 0.09, 0.04), partial(soft_disc, centre, 0.09, 0.04, -1.5 * body.bubble, 0.02))
    return np.asarray(Image.fromarray(canvas).resize((size, size), Image.Resampling.BICUBIC))


def soft_disc(
    centre: tuple[float, float], rx: float, ry: float, density: float, soft: float, u: Array, v: Array
) -> Array:
    return density * ellipse(u, v, *centre, rx, ry, soft)


def heart_shadow(body: Body, grow: float, u: Array, v: Array) -> Array:
    """The left heart, `grow` times as wide as it was. -> (h, w) density"""
    cx, cy, long, short, angle = body.heart
    long, short = HEART * long * (1 + 0.8 * (grow - 1)), HEART * short * grow
    return 0.34 * ellipse(u, v, cx, cy, long, short, 0.05, angle)


def draw_large_heart(rng: np.random.Generator, body: Body) -> Places:
    """Cardiomegaly: a faint one is not a paler heart but one that has grown less."""
    grow = rng.uniform(1.25, 1.60)
    window = around(*body.heart[:2], 0.28, 0.28)
    return [(window, lambda u, v: heart_shadow(body, grow, u, v) - heart_shadow(body, 1.0, u, v))]


def draw_fine_lines(case: Case, size: int) -> Array:
    """Vessels, clavicles, scapulae and devices on a layer of fixed side, then posed and resized. -> (S, S) density"""
    body, pose = body_of(case), pose_of(case)
    own = stream(case.seed, case.patient, 0, VESSELS)
    layer = Image.new("L", (LINES, LINES))
    pen = ImageDraw.Draw(layer)

    def line(points: list[tuple[float, float]], width: float, density: float) -> None:
        pen.line([(LINES * u, LINES * v) for u, v in points], round(400 * density), round(LINES * width), "curve")

    for side in (-1, 1):
        collar = [body.at(side, u, t) for u, t in ((0.10, 0.13), (0.5, 0.05), (0.85, -0.06), (1.1, -0.09))]
        line(collar, 0.026, 0.10)
        line([body.at(side, 1.04, 0.02), body.at(side, 1.0, 0.22), body.at(side, 0.90, 0.40)], 0.012, 0.07)
        for _ in range(9):
            branch(line, body, side, own)
    draw_devices(line, pen, case, body)
    posed = layer.transform((LINES, LINES), Image.Transform.AFFINE, pose.affine(LINES), Image.Resampling.BILINEAR)
    return np.asarray(posed.resize((size, size), Image.Resampling.BICUBIC)) * np.float32(1 / 400)


Line = Callable[[list[tuple[float, float]], float, float], None]


def branch(line: Line, body: Body, side: int, rng: np.random.Generator) -> None:
    """A vessel that leaves the hilum, thins out and forks."""
    u, v = body.at(side, 0.27, 0.50)
    angle, length, bend = rng.uniform(-1.35, 1.4), rng.uniform(0.10, 0.24), rng.uniform(-2.5, 2.5)
    points = []
    for reach in (0.01, 0.35 * length, 0.65 * length, length):
        turn = angle + bend * reach
        points.append((u + reach * side * math.cos(turn), v + reach * math.sin(turn)))
    line(points, 0.006, 0.06)
    line(points[:3], 0.009, 0.09)
    line(points[:2], 0.014, 0.12)
    turn = angle + bend * 0.65 * length + rng.choice((-0.6, 0.6))
    tip = (points[2][0] + 0.35 * length * side * math.cos(turn), points[2][1] + 0.35 * length * math.sin(turn))
    line([points[2], tip], 0.005, 0.05)


def draw_devices(line: Line, pen: ImageDraw.ImageDraw, case: Case, body: Body) -> None:
    """Electrodes with their leads, a central line, a tube, a pacemaker; portable images have more of them."""
    rng = stream(case.seed, case.patient, case.followup, DEVICES)
    often = 2.0 if body.portable else 0.6
    neck = (body.mid + 0.03, -0.1)
    if rng.random() < 0.22 * often:
        for _ in range(int(rng.integers(2, 5))):
            u, v = rng.uniform(0.18, 0.82), rng.uniform(0.15, 0.75)
            bend = (u + rng.normal(0, 0.08), v + rng.uniform(0.1, 0.2))
            line([(u, v), bend, (bend[0] + rng.normal(0, 0.15), 1.1)], 0.004, 0.22)
            disc = [LINES * (u - 0.012), LINES * (v - 0.012), LINES * (u + 0.012), LINES * (v + 0.012)]
            pen.ellipse(disc, round(400 * rng.uniform(0.2, 0.5)))
    if rng.random() < 0.12 * often:
        side = -1 if rng.random() < 0.7 else 1
        line([body.at(side, 0.5, -0.15), body.at(side, 0.25, 0.12), body.at(-1, 0.08, 0.42)], 0.005, 0.16)
    if rng.random() < 0.08 * often:
        line([neck, (body.mid + 0.005, 0.1), body.at(1, 0.0, 0.33)], 0.010, 0.14)
    if rng.random() < 0.03:
        u, v = body.at(1, 0.62, 0.16)
        can = (u - 0.045, v - 0.04, u + 0.045, v + 0.04)
        pen.rounded_rectangle([LINES * edge for edge in can], 9, 220)
        line([(u, v), body.at(1, 0.1, 0.25), body.at(1, 0.05, 0.6), body.at(1, 0.25, 0.93)], 0.007, 0.4)


# ---- findings and the image -----------------------------------------------------------------------------------------


def plant_hard(case: Case) -> list[Patch]:
    """The findings of an image, faint, in its pose, and only where the shutters are open; each in its box."""
    body, pose, edges = body_of(case), pose_of(case), edges_of(case)
    patches: list[Patch] = []
    for label, onset in case.findings:
        rng = stream(case.seed, case.patient, onset, FINDING + LABELS.index(label))
        places = (draw_large_heart if label == "Cardiomegaly" else FINDINGS[label])(rng, body)
        strength = rng.uniform(*FAINT[label])
        for window, paint in places:

            def posed(x: Array, y: Array, paint: Paint = paint, strength: float = strength) -> Array:
                return strength * paint(*pose.to_body(x, y)) * field_mask(edges, x, y)

            patches.append(tighten(label, pose.window(window), posed))
    return patches


def render_hard(case: Case, size: int, patches: list[Patch] | None = None) -> NDArray[np.uint8]:
    """Draw one image; `patches` are its findings if they are at hand. -> (S, S), grey 0..255"""
    rng = stream(case.seed, case.patient, case.followup, EXPOSURE)
    grey = draw_anatomy(case, size) + draw_fine_lines(case, size)
    for patch in plant_hard(case) if patches is None else patches:
        add(grey, patch.window, patch.paint)
    # The tone curve: exposure, then a veil of scattered X-rays, which portable images have more of.
    gain, dark, bright = rng.uniform(1.3, 2.9), rng.uniform(0, 12), rng.uniform(205, 255)
    veil = rng.beta(1.5, 6) + 0.12 * (case.view == "AP")
    np.maximum(grey, 0, out=grey)
    grey *= -gain
    np.exp(grey, out=grey)
    grey *= -(bright - dark) * (1 - veil)
    grey += dark + (bright - dark) * (1 - 0.45 * veil)
    noise = stream(case.seed, case.patient, case.followup, NOISE).integers(0, 256, (2, size, size), dtype=np.uint8)
    grey += (noise[0].astype(np.float32) + noise[1] - 255) * np.float32(rng.uniform(1.0, 4.0) / 104)  # triangular
    border = rng.uniform(0, 8) if rng.random() < 0.9 else rng.uniform(225, 255)
    edges = edges_of(case)
    if edges:
        grey -= border
        grey *= field_mask(edges, axes(0, size, size)[None], axes(0, size, size)[:, None])
        grey += border
    stamp_marks(grey, case)
    return np.clip(grey, 0, 255, out=grey).astype(np.uint8)
