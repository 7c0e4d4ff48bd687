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
    toward,
)

ANATOMY, VESSELS, TISSUE, DEVICES = 50, 51, 52, 53  # streams
HEART = 1.15  # times the size of the easy phantom's
ANATOMY_SIDE = 160  # side on which the anatomy is drawn before it is resized: nothing of it is sharper
# Of bones, places in a lung as in Body.at.
CLAVICLE = ((0.10, 0.13), (0.5, 0.05), (0.85, -0.06), (1.1, -0.09))
SCAPULA = ((1.04, 0.02), (1.0, 0.22), (0.90, 0.40))
TONES = 400  # grey levels of the layer of lines for a density of 1


# ---- anatomy --------------------------------------------------------------------------------------------------------


def draw_tissue(rng: np.random.Generator) -> Array:
    """Mottle on three scales. (ANATOMY_SIDE, ANATOMY_SIDE), around 1"""
    fine = rng.normal(0, 0.050, (96, 96)).astype(np.float32)
    for cells, spread in ((24, 0.045), (6, 0.07)):
        coarse = rng.normal(0, spread, (cells, cells)).astype(np.float32)
        fine += resized(Image.fromarray(coarse), 96, Image.Resampling.BICUBIC)
    tissue = Image.fromarray(fine + 1)
    return resized(tissue, ANATOMY_SIDE, Image.Resampling.BICUBIC)


def torso(body: Body, wall: float, u: Array, v: Array) -> Array:
    """Neck, shoulders, a round chest and the abdomen. (h, w) density"""
    off = np.abs(u - body.mid)
    below_neck = np.maximum(v - 0.01, 0)
    rise = np.minimum(below_neck * (1 / body.shoulder), 1)
    girdle = 0.09 + 0.46 * rise * np.sqrt(rise)
    # Below and above the ribs that are widest.
    wider = np.maximum(v - 0.3, 0)
    narrower = np.maximum(0.22 - v, 0)
    chest = (body.half + wall) + 0.06 * wider - 0.25 * narrower
    # A chest is round: thickest at the midline.
    from_midline = off / (chest + 0.03)
    depth = np.sqrt(np.maximum(1 - np.square(from_midline), 0))
    armpit = 0.30 + 0.5 * (off - 0.3)
    arm = ramp(armpit - v, 0.22)
    trunk = (0.22 + 0.46 * depth) * ramp(chest - off, 0.05)
    shoulder = 0.30 + 0.36 * depth
    density = trunk * (1 - arm) + shoulder * arm
    density *= ramp(girdle - off, 0.05)
    diaphragm = max(body.dia) + 0.3 * body.dome
    abdomen = ramp(v - diaphragm, 0.16)
    return density + 0.50 * depth * abdomen


def lungs(body: Body, u: Array, v: Array) -> Array:
    """Share of the tissue that the lungs take away, least at their edges. (h, w) in [0, 1]"""
    inside = body.depth(u, v) * (1 / 0.11)
    thick = np.minimum(np.maximum(inside, 0), 1)
    share = 0.54 + 0.20 * thick * (2 - thick)
    return body.lung(u, v) * share


def ribs(body: Body, u: Array, v: Array) -> Array:
    """Posterior ribs, and fainter anterior ones that run the other way. (h, w) density"""
    gap, bend, start = body.ribs
    across = np.abs(u - body.mid) * (1 / body.half)
    back_line = bend * np.square(across - 0.45) - 0.05 * across + start
    front_line = 0.24 * across * across + 1.6 * start
    back_waves = 2 * math.pi / gap
    front_waves = 2 * math.pi / (1.25 * gap)
    back = np.cos((v - back_line) * back_waves)
    front = np.cos((v - front_line) * front_waves)
    shown = np.maximum(back - 0.1, 0) * 0.09
    # Near the midline they are cartilage, which an X-ray does not show.
    bone = np.maximum(0.14 * across - 0.035, 0)
    bone = np.minimum(bone, 0.07)
    shown += np.maximum(front - 0.3, 0) * bone
    within = body.wall(u, v) + 0.012
    return shown * ramp(within, 0.02)


def mediastinum(body: Body, width: float, u: Array, v: Array) -> Array:
    """Spine, great vessels and the windpipe. (h, w) density"""
    # All three are bells around the midline, the narrower the higher the power.
    off = (u - body.mid) * np.float32(1 / width)
    near = np.square(off)
    waves = 2 * math.pi / 0.055
    vertebrae = 0.06 + 0.02 * np.cos(v * waves)
    column = np.exp(-6.0 * near * near) * vertebrae
    depth = 0.30 + 0.10 * ramp(v - 0.45, 0.5)
    soft = np.exp(-near) * depth
    _, fork = body.at(1, 0, 0.42)
    trachea = 0.16 * np.exp(-14.0 * near)
    trachea = trachea * ramp(fork - v, 0.06)
    return soft + column - trachea


def heart_shadow(body: Body, grow: float, u: Array, v: Array) -> Array:
    """The left heart, `grow` times as wide as it was. (h, w) density"""
    cx, cy, long, short, angle = body.heart
    long = HEART * long * (1 + 0.8 * (grow - 1))
    short = HEART * short * grow
    return 0.34 * ellipse(u, v, cx, cy, long, short, 0.05, angle)


def draw_anatomy(case: Case, size: int) -> Array:
    """A normal chest in its pose. (S, S) density"""
    body = body_of(case)
    pose = pose_of(case)
    rng = case.stream(TISSUE)
    own = case.patient_stream(ANATOMY)
    wall = own.uniform(0.035, 0.12)
    width = own.uniform(0.055, 0.072)
    grid = axes(0, ANATOMY_SIDE, ANATOMY_SIDE)
    u, v = pose.to_body(grid[None], grid[:, None])
    canvas = torso(body, wall, u, v)
    draw_rib_cage(canvas, body, pose, grid)
    # Mottle is of tissue: what lies in front of it, heart and vessels, is drawn after.
    canvas *= draw_tissue(rng)
    draw_middle(canvas, body, pose, width)
    draw_soft_parts(canvas, body, pose)
    if body.bubble:
        bubble = body.at(1, rng.uniform(0.3, 0.5), 1.13)
        draw_disc(canvas, pose, bubble, 0.09, 0.04, -1.5 * body.bubble, 0.02)
    return resized(Image.fromarray(canvas), size, Image.Resampling.BICUBIC)


def draw_middle(canvas: Array, body: Body, pose: Pose, width: float) -> None:
    """Spine, great vessels and heart. canvas changes in place"""
    column = (body.mid - 0.17, -0.2, body.mid + 0.17, 1.2)
    draw_shape(canvas, pose, column, partial(mediastinum, body, width))
    cx, cy, long = body.heart[:3]
    reach = HEART * long
    draw_shape(canvas, pose, around(cx, cy, reach, reach), partial(heart_shadow, body, 1.0))
    atrium = (body.mid - 0.030, cy - 0.01)
    draw_disc(canvas, pose, atrium, 0.085, 0.13, 0.20, 0.04)
    knob = body.aortic_knob()
    paint = partial(soft_disc, knob, 0.040, 0.048, 0.14, 0.025)
    draw_shape(canvas, pose, around(*knob, 0.042, 0.05), paint)


def draw_soft_parts(canvas: Array, body: Body, pose: Pose) -> None:
    """Hila, nipples and breasts. canvas changes in place"""
    for side in (-1, 1):
        hilum = body.at(side, 0.27, 0.50)
        draw_disc(canvas, pose, hilum, 0.06, 0.09, 0.13, 0.10)
        if body.nipple:
            nipple = body.at(side, 0.62, 0.86)
            draw_disc(canvas, pose, nipple, 0.014, 0.014, body.nipple, 0.010)
        if body.breast:
            breast = body.at(side, 0.60, 0.88)
            draw_disc(canvas, pose, breast, 0.20, 0.17, 1.8 * body.breast, 0.05)


def draw_shape(canvas: Array, pose: Pose, window: Box, paint: Paint) -> None:
    """Add what is painted in coordinates of the body. canvas changes in place"""
    add(canvas, pose.window(window), partial(posed, pose, paint))


def draw_disc(
    canvas: Array,
    pose: Pose,
    centre: Point,
    rx: float,
    ry: float,
    density: float,
    soft: float,
) -> None:
    """Add an ellipse of a density. canvas changes in place"""
    paint = partial(soft_disc, centre, rx, ry, density, soft)
    draw_shape(canvas, pose, around(*centre, rx, ry), paint)


def draw_rib_cage(canvas: Array, body: Body, pose: Pose, grid: Array) -> None:
    """Take the lungs out of the torso, and draw the ribs over them. canvas changes in place"""
    pixels = []
    for edge in pose.window(body.rib_cage()):
        pixel = round(edge * ANATOMY_SIDE)
        pixels.append(min(max(pixel, 0), ANATOMY_SIDE))
    x0, y0, x1, y1 = pixels
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
    body = body_of(case)
    pose = pose_of(case)
    own = case.patient_stream(VESSELS)
    layer = Image.new("L", (LINES, LINES))
    pen = ImageDraw.Draw(layer)

    def line(points: list[Point], width: float, density: float) -> None:
        pixels = [(LINES * u, LINES * v) for u, v in points]
        tone = round(TONES * density)
        pen.line(pixels, tone, round(LINES * width), "curve")

    for side in (-1, 1):
        clavicle = body.path(side, *CLAVICLE)
        line(clavicle, 0.026, 0.10)
        scapula = body.path(side, *SCAPULA)
        line(scapula, 0.012, 0.07)
        for _ in range(9):
            branch(line, body, side, own)
    draw_devices(line, pen, case, body)
    affine = pose.affine(LINES)
    size_of_layer = (LINES, LINES)
    layer = layer.transform(size_of_layer, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    shown = resized(layer, size, Image.Resampling.BICUBIC)
    return shown * np.float32(1 / TONES)


def branch(line: Line, body: Body, side: int, rng: np.random.Generator) -> None:
    """A vessel that leaves the hilum, thins out and forks."""
    hilum = body.at(side, 0.27, 0.50)
    angle = rng.uniform(-1.35, 1.4)
    length = rng.uniform(0.10, 0.24)
    bend = rng.uniform(-2.5, 2.5)
    points = []
    for reach in (0.01, 0.35 * length, 0.65 * length, length):
        turn = angle + bend * reach
        points.append(toward(hilum, reach, turn, side))
    line(points, 0.006, 0.06)
    line(points[:3], 0.009, 0.09)
    line(points[:2], 0.014, 0.12)
    fork = points[2]
    turn = angle + bend * 0.65 * length
    turn = turn + rng.choice((-0.6, 0.6))
    tip = toward(fork, 0.35 * length, turn, side)
    line([fork, tip], 0.005, 0.05)


def draw_devices(line: Line, pen: ImageDraw.ImageDraw, case: Case, body: Body) -> None:
    """Electrodes with their leads, a central line, a tube, a pacemaker; portable images have more of them."""
    rng = case.stream(DEVICES)
    # Who is X-rayed in bed is ill; ill with what, no device tells.
    often = 2.0 if body.portable else 0.6
    if rng.random() < 0.22 * often:
        count = int(rng.integers(2, 5))
        for _ in range(count):
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
    u = rng.uniform(0.18, 0.82)
    v = rng.uniform(0.15, 0.75)
    bend_u = u + rng.normal(0, 0.08)
    bend_v = v + rng.uniform(0.1, 0.2)
    end_u = bend_u + rng.normal(0, 0.15)
    line([(u, v), (bend_u, bend_v), (end_u, 1.1)], 0.004, 0.22)
    disc = (u - 0.012, v - 0.012, u + 0.012, v + 0.012)
    tone = round(TONES * rng.uniform(0.2, 0.5))
    pen.ellipse([LINES * edge for edge in disc], tone)
