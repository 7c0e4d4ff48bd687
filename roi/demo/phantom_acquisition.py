"""How an image of the hard phantom is taken: pose, shutters, side markers and text.

roi/demo/phantom_hard.py has the rest.

Nothing here is told which findings an image has: a border or a marker is no shortcut to a label.

Letters: S side in pixels; x, y coordinates of the image in [0, 1]; u, v those of the upright body
(roi/demo/phantom_body.py), both (h, w).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from roi.demo.phantom_body import Case
from roi.demo.phantom_shapes import Array, Box, Point, ramp

POSE, FIELD, MARKS = 40, 41, 42  # streams; those of the findings end at 29
BORDERS = ((1, 0, 0.0), (-1, 0, -1.0), (0, 1, 0.0), (0, -1, -1.0))  # of the whole image, as edges
CORNERS = ((1, 1), (-1, 1), (1, -1), (-1, -1))  # the same of its corners, without what is cut
WORDS = ("PORTABLE", "AP", "SUPINE", "SEMI-ERECT", "AP PORTABLE", "UPRIGHT")
GLYPH = 48  # height at which text is drawn once, before it is resized


# ---- geometry: how the patient stands before the plate, and what of the plate is exposed ----------------------------


@dataclass(frozen=True)
class Pose:
    """From the image to the upright body: rotation in radians, zoom, shift."""

    angle: float
    zoom: float
    shift: Point

    def to_body(self, x: Array, y: Array) -> tuple[Array, Array]:
        """x (1, w), y (h, 1) -> u, v (h, w)"""
        c = math.cos(self.angle) / self.zoom
        s = math.sin(self.angle) / self.zoom
        x = x - (0.5 + self.shift[0])
        y = y - (0.5 + self.shift[1])
        # Grouped so that the whole window is touched once: the rest is of a row or a column.
        row = s * y + 0.5
        column = 0.5 - s * x
        return c * x + row, column + c * y

    def to_image(self, u: float, v: float) -> Point:
        c = math.cos(self.angle) * self.zoom
        s = math.sin(self.angle) * self.zoom
        u = u - 0.5
        v = v - 0.5
        x = c * u - s * v
        y = s * u + c * v
        return x + 0.5 + self.shift[0], y + 0.5 + self.shift[1]

    def window(self, box: Box) -> Box:
        """The upright window around a window of the body."""
        u0, v0, u1, v1 = box
        corners = [
            self.to_image(u0, v0),
            self.to_image(u0, v1),
            self.to_image(u1, v0),
            self.to_image(u1, v1),
        ]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def affine(self, side: int) -> tuple[float, ...]:
        """Pillow's six numbers for a layer of this side: pixel of the output -> pixel of the input."""
        c = math.cos(self.angle) / self.zoom
        s = math.sin(self.angle) / self.zoom
        cx = (0.5 + self.shift[0]) * side
        cy = (0.5 + self.shift[1]) * side
        shift_x = side / 2 - c * cx - s * cy
        shift_y = side / 2 + s * cx - c * cy
        return c, s, shift_x, -s, c, shift_y


Edge = tuple[float, float, float]  # inside where a * x + b * y > c


def field_mask(edges: tuple[Edge, ...], x: Array, y: Array) -> Array:
    """What the shutters and the plate leave open. (h, w) in [0, 1]"""
    if not edges:
        shape = (y.shape[0], x.shape[1])
        return np.ones(shape, np.float32)
    distances = []
    for a, b, c in edges:
        row = b * y - c
        distances.append(a * x + row)
    nearest = np.minimum.reduce(distances)
    return ramp(nearest, 0.006)


@lru_cache(maxsize=8)
def pose_of(case: Case) -> Pose:
    """Portable images are more crooked, and taken from nearer."""
    rng = case.stream(POSE)
    # Within limits: a chest that leaves the image has findings that nobody could see.
    loose = 1.5 if case.view == "AP" else 1.0
    angle = float(rng.normal(0, 0.022 * loose))
    angle = float(np.clip(angle, -0.09, 0.09))
    zoom = float(rng.uniform(0.86, 1.0))
    shift = rng.normal(0, 0.012 * loose, 2)
    x, y = shift.clip(-0.04, 0.04).tolist()
    return Pose(angle, zoom, (x, y))


@lru_cache(maxsize=8)
def edges_of(case: Case) -> tuple[Edge, ...]:
    """Borders (each may be missing), turned together by a crooked plate, and now and then cut corners."""
    rng = case.stream(FIELD)
    edges = draw_borders(rng)
    if rng.random() < 0.25:
        edges += draw_cut_corners(rng)
    return tuple(edges)


def draw_borders(rng: np.random.Generator) -> list[Edge]:
    """Left, right, upper and lower border, as far as they lie on the image."""
    # A plate that lies crooked has all its four borders on the image.
    tilt = rng.normal(0, 0.030) if rng.random() < 0.35 else 0.0
    edges: list[Edge] = []
    for a, b, c in BORDERS:
        inset = 0.075 * rng.beta(1.2, 2.0)
        used = rng.random() < 0.4
        if used or tilt:
            turn = tilt + rng.normal(0, 0.004)
            cos = math.cos(turn)
            sin = math.sin(turn)
            slope_a = a * cos - b * sin
            slope_b = a * sin + b * cos
            middle = 0.5 * (a + b) - c - inset  # distance of the centre of the image from the edge
            offset = 0.5 * (slope_a + slope_b) - middle
            edges.append((slope_a, slope_b, offset))
    return edges


def draw_cut_corners(rng: np.random.Generator) -> list[Edge]:
    """Each corner is cut in every second image that has any cut."""
    root = math.sqrt(2)
    edges: list[Edge] = []
    for a, b in CORNERS:
        if rng.random() < 0.5:
            cut = rng.uniform(0.05, 0.16)
            corner = min(a, 0) + min(b, 0) + cut
            edges.append((a / root, b / root, corner / root))
    return edges


# ---- marks ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def glyphs(text: str) -> Image.Image:
    """Text at a fixed height; a circle around it where it is written as (L)."""
    font = ImageFont.load_default(GLYPH)
    bare = text.strip("()")
    left, top, right, bottom = font.getbbox(bare)
    ring = 20 if bare != text else 4
    width = int(right - left) + 2 * ring
    height = int(bottom - top) + 2 * ring
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    start = (ring - left, ring - top)
    pen.text(start, bare, 255, font=font)
    if bare != text:
        circle = [1, 1, width - 2, height - 2]
        pen.ellipse(circle, outline=255, width=4)
    return image


def stamp(
    grey: Array,
    text: str,
    centre: Point,
    height: float,
    angle: float,
    tone: float,
) -> None:
    """Burn text into an image, kept whole inside it.

    Args:
        grey: (S, S), changed in place.
        text: what stands there.
        centre: of the text, x and y.
        height: in shares of the side.
        angle: in degrees.
        tone: its grey level.
    """
    # Drawn once at a fixed height and resized, so that a set looks the same at every size.
    size = len(grey)
    mark = glyphs(text)
    scale = height * size / mark.height
    width_px = max(1, round(mark.width * scale))
    height_px = max(1, round(mark.height * scale))
    mark = mark.resize((width_px, height_px), Image.Resampling.BILINEAR)
    mark = mark.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    w = min(mark.width, size)
    h = min(mark.height, size)
    x = inside(centre[0] * size - w / 2, size - w)
    y = inside(centre[1] * size - h / 2, size - h)
    ink = np.asarray(mark, np.float32)[:h, :w]
    ink = ink * np.float32(1 / 255)
    part = grey[y : y + h, x : x + w]
    part += (tone - part) * ink


def inside(start: float, last: int) -> int:
    """The pixel at which something begins, so that it ends within the image."""
    return min(max(0, round(start)), last)


def stamp_marks(grey: Array, case: Case) -> None:
    """A side marker with initials, and how the image was taken; near the upper corners, seldom below."""
    rng = case.stream(MARKS)
    side = 1 if rng.random() < 0.75 else -1
    tone = rng.uniform(200, 255)
    x = 0.5 + side * rng.uniform(0.36, 0.46)
    y = rng.uniform(0.04, 0.12)
    if rng.random() < 0.15:
        x = 0.5 + side * 0.45
        y = rng.uniform(0.5, 0.95)
    angle = rng.normal(0, 9)
    # Now and then the marker lies on its side.
    if rng.random() < 0.1:
        angle += 90 * side
    letter = "L" if side > 0 else "R"
    form = rng.random()
    initials = "".join(map(chr, rng.integers(65, 91, 3)))
    height = rng.uniform(0.022, 0.048)
    if form < 0.3:
        stamp(grey, f"({letter})", (x, y), 1.6 * height, angle, tone)
    elif form < 0.92:
        stamp(grey, letter, (x, y), height, angle, tone)
    if form < 0.45:
        below = (x, y + 1.3 * height)
        stamp(grey, initials, below, 0.5 * height, angle, tone)
    if case.view == "AP" and rng.random() < 0.7:
        stamp_words(grey, rng, side, tone)


def stamp_words(grey: Array, rng: np.random.Generator, side: int, tone: float) -> None:
    """What stands on portable images."""
    words = WORDS[int(rng.integers(len(WORDS)))]
    x = 0.5 - side * rng.uniform(0.28, 0.40)
    # Seldom below.
    y = rng.uniform(0.02, 0.09) if rng.random() < 0.8 else 0.96
    height = rng.uniform(0.014, 0.024)
    angle = rng.normal(0, 3)
    stamp(grey, words, (x, y), height, angle, tone)
