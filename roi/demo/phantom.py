"""Draws a chest X-ray in unit coordinates (x to the right, y down, both in [0, 1]), with findings in known boxes.

A seed is the same picture at every size; only the noise differs. A picture is a sum of densities (0 = air), then one
tone curve. A finding adds its own density inside its box and nothing outside. Each random stream is made from (seed,
patient, follow-up, stream): no order, no global generator.

Letters: S side in pixels. Windows are (x0, y0, x1, y1); boxes in the table are (x, y, w, h).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roi.demo.phantom_body import Case, body_of, draw_body
from roi.demo.phantom_findings import FINDINGS
from roi.demo.phantom_shapes import DRAW, FINDING, NOISE, Array, Box, Paint, add, coordinates, stream
from roi.labels import LABELS

GRID = 250  # boxes are found on this grid whatever the size of the image
SPACE = 1024.0  # boxes in the table are in 1024 x 1024 space


class Patch(NamedTuple):
    """A finding at one place: its window, and what it adds there."""

    label: str
    window: Box
    paint: Paint

    def box(self) -> Box:
        """x, y, w, h in 1024 x 1024 space."""
        x0, y0, x1, y1 = self.window
        width = SPACE * (x1 - x0)
        height = SPACE * (y1 - y0)
        return SPACE * x0, SPACE * y0, width, height


def plant(case: Case) -> list[Patch]:
    """The findings of an image, each in its box."""
    body = body_of(case)
    patches = []
    for label, onset in case.findings:
        rng = finding_stream(case, label, onset)
        for window, paint in FINDINGS[label](rng, body):
            patches.append(tighten(label, window, paint))
    return patches


def finding_stream(case: Case, label: str, onset: int) -> np.random.Generator:
    """The random stream of a finding."""
    # From the follow-up at which it appeared, so that it keeps its shape while it persists.
    kind = FINDING + LABELS.index(label)
    return stream(case.seed, case.patient, onset, kind)


def tighten(label: str, window: Box, paint: Paint) -> Patch:
    """Shrink a window to what can be seen of the finding, on a grid that does not know the size of the image."""
    left, top, right, bottom = window
    x0 = max(0, math.floor(left * GRID))
    y0 = max(0, math.floor(top * GRID))
    x1 = min(GRID, math.ceil(right * GRID))
    y1 = min(GRID, math.ceil(bottom * GRID))
    x, y = coordinates(x0, y0, x1, y1, GRID)
    change = np.abs(paint(x, y))
    # A box around the faintest edge would be larger than anybody draws it.
    seen = change > 0.08 * change.max()
    rows = y0 + np.flatnonzero(seen.any(1))
    columns = x0 + np.flatnonzero(seen.any(0))
    edges = (
        columns[0],
        rows[0],
        columns[-1] + 1,
        rows[-1] + 1,
    )
    left, top, right, bottom = (int(edge) / GRID for edge in edges)
    return Patch(label, (left, top, right, bottom), paint)


def render(case: Case, size: int, patches: list[Patch] | None = None) -> NDArray[np.uint8]:
    """Draw one image; `patches` are its findings if they are at hand. (S, S), grey 0..255"""
    rng = case.stream(DRAW)
    gain = rng.uniform(1.5, 2.0)
    dark = rng.uniform(2.0, 10.0)
    grey = draw_body(body_of(case), rng, size)
    if patches is None:
        patches = plant(case)
    for patch in patches:
        add(grey, patch.window, patch.paint)
    # X-rays fade exponentially in what they pass: bright where there is much of it.
    np.maximum(grey, 0, out=grey)
    grey *= -gain
    np.exp(grey, out=grey)
    grey *= -245
    grey += 245 + dark
    add_noise(grey, case, 3.0)
    np.clip(grey, 0, 255, out=grey)
    return grey.astype(np.uint8)


def add_noise(grey: Array, case: Case, levels: float) -> None:
    """Add triangular noise, the sum of two bytes, of so many grey levels. grey: (S, S), changed in place"""
    rng = case.stream(NOISE)
    first, second = rng.integers(0, 256, (2, *grey.shape), dtype=np.uint8)
    noise = first.astype(np.float32) + second - 255
    grey += noise * np.float32(levels / 104)
