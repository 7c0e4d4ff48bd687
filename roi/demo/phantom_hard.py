"""Draws the hard phantom: the findings of the easy one made faint, in a chest that is taken as on a ward.

The chest is drawn by roi/demo/phantom_anatomy.py, posed, exposed, collimated and marked by
roi/demo/phantom_acquisition.py; neither is told what is found. As in the easy phantom a finding adds density inside its
box and nothing outside, and a seed is the same picture at every size.

Letters: S side in pixels; x, y coordinates of the image in [0, 1]; u, v those of the upright body
(roi/demo/phantom_body.py), both (h, w). Density 0 is air.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from roi.demo.phantom import Patch, add_noise, finding_stream, tighten
from roi.demo.phantom_acquisition import Edge, Pose, edges_of, field_mask, pose_of, stamp_marks
from roi.demo.phantom_anatomy import draw_anatomy, draw_fine_lines, heart_shadow
from roi.demo.phantom_body import Body, Case, body_of
from roi.demo.phantom_findings import FINDINGS, Places
from roi.demo.phantom_shapes import Array, Paint, add, around, coordinates

EXPOSURE = 54  # stream
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


def draw_large_heart(rng: np.random.Generator, body: Body) -> Places:
    """Cardiomegaly: a faint one is not a paler heart but one that has grown less."""
    grow = rng.uniform(1.25, 1.60)

    def paint(u: Array, v: Array) -> Array:
        larger = heart_shadow(body, grow, u, v)
        return larger - heart_shadow(body, 1.0, u, v)

    cx, cy = body.heart[:2]
    return [(around(cx, cy, 0.28, 0.28), paint)]


HARD_FINDINGS = FINDINGS | {"Cardiomegaly": draw_large_heart}


def plant_hard(case: Case) -> list[Patch]:
    """The findings of an image, faint, in its pose, and only where the shutters are open; each in its box."""
    pose, edges = pose_of(case), edges_of(case)
    patches: list[Patch] = []
    for label, onset in case.findings:
        rng = finding_stream(case, label, onset)
        places = HARD_FINDINGS[label](rng, body_of(case))
        strength = rng.uniform(*FAINT[label])
        for window, paint in places:
            faint = partial(taken, pose, edges, paint, strength)
            patches.append(tighten(label, pose.window(window), faint))
    return patches


def taken(
    pose: Pose,
    edges: tuple[Edge, ...],
    paint: Paint,
    strength: float,
    x: Array,
    y: Array,
) -> Array:
    """What an image shows of a finding. (h, w) density"""
    shown = paint(*pose.to_body(x, y))
    return strength * shown * field_mask(edges, x, y)


def render_hard(case: Case, size: int, patches: list[Patch] | None = None) -> NDArray[np.uint8]:
    """Draw one image; `patches` are its findings if they are at hand. (S, S), grey 0..255"""
    rng = case.stream(EXPOSURE)
    grey = draw_anatomy(case, size) + draw_fine_lines(case, size)
    if patches is None:
        patches = plant_hard(case)
    for patch in patches:
        add(grey, patch.window, patch.paint)
    expose(grey, rng, case.view == "AP")
    add_noise(grey, case, rng.uniform(1.0, 4.0))
    # What the shutters cover is black, on a few images white.
    border = rng.uniform(0, 8) if rng.random() < 0.9 else rng.uniform(225, 255)
    edges = edges_of(case)
    if edges:
        grey -= border
        x, y = coordinates(0, 0, size, size, size)
        grey *= field_mask(edges, x, y)
        grey += border
    stamp_marks(grey, case)
    np.clip(grey, 0, 255, out=grey)
    return grey.astype(np.uint8)


def expose(density: Array, rng: np.random.Generator, portable: bool) -> None:
    """The tone curve: exposure, then a veil of scattered X-rays, which portable images have more of.

    density: (S, S), becomes grey levels in place
    """
    gain = rng.uniform(1.3, 2.9)
    dark = rng.uniform(0, 12)
    bright = rng.uniform(205, 255)
    veil = rng.beta(1.5, 6) + 0.12 * portable
    np.maximum(density, 0, out=density)
    density *= -gain
    np.exp(density, out=density)
    density *= -(bright - dark) * (1 - veil)
    density += dark + (bright - dark) * (1 - 0.45 * veil)
