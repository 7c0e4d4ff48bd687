"""The normal chest of the hard phantom: anatomy in its pose, fine lines, and the devices of a ward.

Everything here is drawn from streams of its own and knows nothing of the findings, devices included.

Letters: S side in pixels; x, y coordinates of the image in [0, 1]; u, v those of the upright body
(roi/demo/phantom_body.py), both (h, w). Density 0 is air.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from roi.demo.phantom_acquisition import Pose, pose_of
from roi.demo.phantom_body import LINES, Body, Case, body_of
from roi.demo.phantom_shapes import (
    Array,
    Box,
    Paint,
    Point,
    add,
    around,
    axes,
    ellipse,
    ramp,
    resized,
    soft_disc,
    stream,
    toward,
)

ANATOMY, VESSELS, TISSUE, DEVICES = 50, 51, 52, 53  # streams
HEART = 1.15  # times the size of the easy phantom's
ANATOMY_SIDE = 160  # side on which the anatomy is drawn before it is resized: nothing of it is sharper
TONES = 400  # grey levels of the layer of lines for a density of 1


# ---- anatomy --------------------------------------------------------------------------------------------------------


def draw_tissue(rng: np.random.Generator) -> Array:
    """Mottle on three scales. (ANATOMY_SIDE, ANATOMY_SIDE), around 1"""
    fine = rng.normal(0, 0.050, (96, 96)).astype(np.float32)
    for cells, spread in ((24, 0.045), (6, 0.07)):
        coarse = rng.normal(0, spread, (cells, cells)).astype(np.float32)
        fine += resized(Image.fromarray(coarse), 96, Image.Resampling.BICUBIC)
    return resized(Image.fromarray(fine + 1), ANATOMY_SIDE, Image.Resampling.BICUBIC)


def torso(body: Body, wall: float, u: Array, v: Array) -> Array:
    """Neck, shoulders, a round chest and the abdomen. (h, w) density"""
    off = np.abs(u - body.mid)
    rise = np.minimum(np.maximum(v - 0.01, 0) * (1 / body.shoulder), 1)
    girdle = 0.09 + 0.46 * rise * np.sqrt(rise)
    wider, narrower = np.maximum(v - 0.3, 0), np.maximum(0.22 - v, 0)  # below and above the ribs that are widest
    chest = (body.half + wall) + 0.06 * wider - 0.25 * narrower
    # A chest is round: thickest at the midline.
    depth = np.sqrt(np.maximum(1 - np.square(off / (chest + 0.03)), 0))
    arm = ramp(0.30 + 0.5 * (off - 0.3) - v, 0.22)
    trunk = (0.22 + 0.46 * depth) * ramp(chest - off, 0.05)
    density = trunk * (1 - arm) + (0.30 + 0.36 * depth) * arm
    density *= ramp(girdle - off, 0.05)
    diaphragm = max(body.dia) + 0.3 * body.dome
    return density + 0.50 * depth * ramp(v - diaphragm, 0.16)


def lungs(body: Body, u: Array, v: Array) -> Array:
    """Share of the tissue that the lungs take away, least at their edges. (h, w) in [0, 1]"""
    inside = body.depth(u, v) * (1 / 0.11)
    thick = np.minimum(np.maximum(inside, 0), 1)
    return body.lung(u, v) * (0.54 + 0.20 * thick * (2 - thick))


def ribs(body: Body, u: Array, v: Array) -> Array:
    """Posterior ribs, and fainter anterior ones that run the other way. (h, w) density"""
    gap, bend, start = body.ribs
    across = np.abs(u - body.mid) * (1 / body.half)
    back_line = bend * np.square(across - 0.45) - 0.05 * across + start
    front_line = 0.24 * across * across + 1.6 * start
    back = np.cos((v - back_line) * (2 * math.pi / gap))
    front = np.cos((v - front_line) * (2 * math.pi / (1.25 * gap)))
    shown = np.maximum(back - 0.1, 0) * 0.09
    # Near the midline they are cartilage, which an X-ray does not show.
    bone = np.minimum(np.maximum(0.14 * across - 0.035, 0), 0.07)
    shown += np.maximum(front - 0.3, 0) * bone
    return shown * ramp(body.wall(u, v) + 0.012, 0.02)


def mediastinum(body: Body, width: float, u: Array, v: Array) -> Array:
    """Spine, great vessels and the windpipe. (h, w) density"""
    # All three are bells around the midline, the narrower the higher the power.
    near = np.square((u - body.mid) * np.float32(1 / width))
    vertebrae = 0.06 + 0.02 * np.cos(v * (2 * math.pi / 0.055))
    column = np.exp(-6.0 * near * near) * vertebrae
    soft = np.exp(-near) * (0.30 + 0.10 * ramp(v - 0.45, 0.5))
    _, fork = body.at(1, 0, 0.42)
    trachea = 0.16 * np.exp(-14.0 * near) * ramp(fork - v, 0.06)
    return soft + column - trachea


def heart_shadow(body: Body, grow: float, u: Array, v: Array) -> Array:
    """The left heart, `grow` times as wide as it was. (h, w) density"""
    cx, cy, long, short, angle = body.heart
    long = HEART * long * (1 + 0.8 * (grow - 1))
    short = HEART * short * grow
    return 0.34 * ellipse(u, v, cx, cy, long, short, 0.05, angle)


def draw_anatomy(case: Case, size: int) -> Array:
    """A normal chest in its pose. (S, S) density"""
    body, pose = body_of(case), pose_of(case)
    rng = stream(case.seed, case.patient, case.followup, TISSUE)
    own = stream(case.seed, case.patient, 0, ANATOMY)  # of the patient, the same in each follow-up
    wall, width = own.uniform(0.035, 0.12), own.uniform(0.055, 0.072)
    grid = axes(0, ANATOMY_SIDE, ANATOMY_SIDE)
    canvas = torso(body, wall, *pose.to_body(grid[None], grid[:, None]))
    draw_rib_cage(canvas, body, pose, grid)
    # Mottle is of tissue: what lies in front of it, heart and vessels, is drawn after.
    canvas *= draw_tissue(rng)

    def shape(window: Box, paint: Paint) -> None:
        add(canvas, pose.window(window), partial(posed, pose, paint))

    def disc(centre: Point, rx: float, ry: float, density: float, soft: float) -> None:
        shape(around(*centre, rx, ry), partial(soft_disc, centre, rx, ry, density, soft))

    shape((body.mid - 0.17, -0.2, body.mid + 0.17, 1.2), partial(mediastinum, body, width))
    reach = HEART * body.heart[2]
    shape(around(*body.heart[:2], reach, reach), partial(heart_shadow, body, 1.0))
    disc((body.mid - 0.030, body.heart[1] - 0.01), 0.085, 0.13, 0.20, 0.04)  # the right atrium
    knob = (body.mid + 0.045, body.top + 0.40 * (body.dia[1] - body.top))  # of the aorta
    shape(around(*knob, 0.042, 0.05), partial(soft_disc, knob, 0.040, 0.048, 0.14, 0.025))
    for side in (-1, 1):
        disc(body.at(side, 0.27, 0.50), 0.06, 0.09, 0.13, 0.10)  # the hilum
        if body.nipple:
            disc(body.at(side, 0.62, 0.86), 0.014, 0.014, body.nipple, 0.010)
        if body.breast:
            disc(body.at(side, 0.60, 0.88), 0.20, 0.17, 1.8 * body.breast, 0.05)
    if body.bubble:
        bubble = body.at(1, rng.uniform(0.3, 0.5), 1.13)
        disc(bubble, 0.09, 0.04, -1.5 * body.bubble, 0.02)
    return resized(Image.fromarray(canvas), size, Image.Resampling.BICUBIC)


def draw_rib_cage(canvas: Array, body: Body, pose: Pose, grid: Array) -> None:
    """Take the lungs out of the torso, and draw the ribs over them. canvas changes in place"""
    window = pose.window(body.rib_cage())
    x0, y0, x1, y1 = (min(max(round(edge * ANATOMY_SIDE), 0), ANATOMY_SIDE) for edge in window)
    u, v = pose.to_body(grid[None, x0:x1], grid[y0:y1, None])
    part = canvas[y0:y1, x0:x1]
    part *= 1 - lungs(body, u, v)
    part += ribs(body, u, v)


def posed(pose: Pose, paint: Paint, x: Array, y: Array) -> Array:
    """What is painted in coordinates of the body, in those of the image. (h, w) density"""
    return paint(*pose.to_body(x, y))


# ---- lines ----------------------------------------------------------------------------------------------------------

Line = Callable[[list[Point], float, float], None]  # points, width, density


def draw_fine_lines(case: Case, size: int) -> Array:
    """Vessels, clavicles, scapulae and devices on a layer of fixed side, then posed and resized. (S, S) density"""
    body, pose = body_of(case), pose_of(case)
    own = stream(case.seed, case.patient, 0, VESSELS)
    layer = Image.new("L", (LINES, LINES))
    pen = ImageDraw.Draw(layer)

    def line(points: list[Point], width: float, density: float) -> None:
        pixels = [(LINES * u, LINES * v) for u, v in points]
        pen.line(pixels, round(TONES * density), round(LINES * width), "curve")

    for side in (-1, 1):
        clavicle = body.path(side, (0.10, 0.13), (0.5, 0.05), (0.85, -0.06), (1.1, -0.09))
        line(clavicle, 0.026, 0.10)
        scapula = body.path(side, (1.04, 0.02), (1.0, 0.22), (0.90, 0.40))
        line(scapula, 0.012, 0.07)
        for _ in range(9):
            branch(line, body, side, own)
    draw_devices(line, pen, case, body)
    affine = pose.affine(LINES)
    layer = layer.transform((LINES, LINES), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return resized(layer, size, Image.Resampling.BICUBIC) * np.float32(1 / TONES)


def branch(line: Line, body: Body, side: int, rng: np.random.Generator) -> None:
    """A vessel that leaves the hilum, thins out and forks."""
    hilum = body.at(side, 0.27, 0.50)
    angle = rng.uniform(-1.35, 1.4)
    length = rng.uniform(0.10, 0.24)
    bend = rng.uniform(-2.5, 2.5)
    points = []
    for reach in (0.01, 0.35 * length, 0.65 * length, length):
        points.append(toward(hilum, reach, angle + bend * reach, side))
    line(points, 0.006, 0.06)
    line(points[:3], 0.009, 0.09)
    line(points[:2], 0.014, 0.12)
    fork = points[2]
    turn = angle + bend * 0.65 * length + rng.choice((-0.6, 0.6))
    line([fork, toward(fork, 0.35 * length, turn, side)], 0.005, 0.05)


def draw_devices(line: Line, pen: ImageDraw.ImageDraw, case: Case, body: Body) -> None:
    """Electrodes with their leads, a central line, a tube, a pacemaker; portable images have more of them."""
    rng = stream(case.seed, case.patient, case.followup, DEVICES)
    # Who is X-rayed in bed is ill; ill with what, no device tells.
    often = 2.0 if body.portable else 0.6
    if rng.random() < 0.22 * often:
        for _ in range(int(rng.integers(2, 5))):
            draw_electrode(line, pen, rng)
    if rng.random() < 0.12 * often:
        side = -1 if rng.random() < 0.7 else 1
        # From either shoulder it ends in the vein that lies on image left.
        central_line = [
            body.at(side, 0.5, -0.15),
            body.at(side, 0.25, 0.12),
            body.at(-1, 0.08, 0.42),
        ]
        line(central_line, 0.005, 0.16)
    if rng.random() < 0.08 * often:
        tube = [
            (body.mid + 0.03, -0.1),
            (body.mid + 0.005, 0.1),
            body.at(1, 0.0, 0.33),
        ]
        line(tube, 0.010, 0.14)
    # A pacemaker is worn, so portable images do not have more of them.
    if rng.random() < 0.03:
        u, v = body.at(1, 0.62, 0.16)
        can = (u - 0.045, v - 0.04, u + 0.045, v + 0.04)
        pen.rounded_rectangle([LINES * edge for edge in can], 9, 220)
        wire = body.path(1, (0.1, 0.25), (0.05, 0.6), (0.25, 0.93))
        line([(u, v), *wire], 0.007, 0.4)


def draw_electrode(line: Line, pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """A disc on the skin, and its lead down to the edge of the image."""
    u, v = rng.uniform(0.18, 0.82), rng.uniform(0.15, 0.75)
    bend = (u + rng.normal(0, 0.08), v + rng.uniform(0.1, 0.2))
    end = (bend[0] + rng.normal(0, 0.15), 1.1)
    line([(u, v), bend, end], 0.004, 0.22)
    disc = (u - 0.012, v - 0.012, u + 0.012, v + 0.012)
    pen.ellipse([LINES * edge for edge in disc], round(TONES * rng.uniform(0.2, 0.5)))
