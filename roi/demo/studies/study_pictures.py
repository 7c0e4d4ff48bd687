"""Draws the images of studies: frontal ones by roi/demo/phantom_body.py, lateral ones by lateral_body.py.

What is drawn for a finding is known and lies in its boxes, as on the other phantoms (roi/demo/phantom.py).
"""

import zlib
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roi.demo.phantom import Patch, add_noise, tighten
from roi.demo.phantom_body import Case, body_of, draw_body
from roi.demo.phantom_findings import Places
from roi.demo.phantom_shapes import DRAW, Array, Box, add, stream
from roi.demo.studies.frontal_findings import FRONTAL, SIGNS
from roi.demo.studies.lateral_body import draw_side, side_body_of
from roi.demo.studies.lateral_findings import LATERAL, SAME_HEIGHT, at_height, height_of
from roi.demo.studies.study_plan import CLASSES, CONJUNCTIONS, LESION, Lesion, Study
from roi.process_pool import in_order

# Heights of the two zones of a conjunction (0 apex, 1 dome): far enough apart for a grid of 3 x 3 cells.
ZONES = ((0.14, 0.26), (0.74, 0.86))
CHUNK = 16  # studies that a process draws at a time
FRONTAL_SHAPE, LATERAL_SHAPE = 64, 96  # streams: these + the index of the class


def plant_study_view(study: Study, place: int) -> list[Patch]:
    """What of a study's findings, and of what looks like them, is drawn on one of its images; each in its box."""
    case = study.case(place)
    patches = []
    for lesion in study.lesions:
        is_shown = lesion.lateral if case.view == "LATERAL" else lesion.frontal
        if is_shown:
            for window, paint in places_of(lesion, case):
                patches.append(tighten(lesion.label, window, paint))
    return patches


def places_of(lesion: Lesion, case: Case) -> Places:
    """Where it lies on this image."""
    # From the study at which it appeared, so that it keeps its shape while it persists.
    k = CLASSES.index(lesion.label)
    in_front = stream(case.seed, case.patient, lesion.onset, FRONTAL_SHAPE + k)
    at_side = stream(case.seed, case.patient, lesion.onset, LATERAL_SHAPE + k)
    is_lateral = case.view == "LATERAL"
    if lesion.label in CONJUNCTIONS:
        body = side_body_of(case) if is_lateral else body_of(case)
        # The height is the study's, all else the view's own: it says nothing of the other view.
        t = zone_height(lesion, case, lesion.zones[is_lateral])
        rng = at_side if is_lateral else in_front
        return SIGNS[lesion.label](rng, body, t)
    if not is_lateral:
        return FRONTAL[lesion.label](in_front, body_of(case))
    places = LATERAL[lesion.label](at_side, side_body_of(case))
    if lesion.label in SAME_HEIGHT:
        # The body is the same: what lies high from the front lies high from the side.
        (window, _), *_ = FRONTAL[lesion.label](in_front, body_of(case))
        places = at_height(places, height_of(window))
    return places


def zone_height(lesion: Lesion, case: Case, zone: int) -> float:
    """One height a zone and study, so that what lies at the same height does so to the pixel."""
    rng = stream(case.seed, case.patient, lesion.onset, LESION)
    heights = [rng.uniform(*edges) for edges in ZONES]
    return float(heights[zone])


def draw_normal(case: Case, rng: np.random.Generator, size: int) -> Array:
    """The chest without findings, from the front or from the side. (S, S) density"""
    if case.view == "LATERAL":
        return draw_side(side_body_of(case), rng, size)
    return draw_body(body_of(case), rng, size)


def render_study_view(study: Study, place: int, size: int, patches: list[Patch]) -> NDArray[np.uint8]:
    """Draw one image of a study. (S, S), grey 0..255"""
    case = study.case(place)
    rng = case.stream(DRAW)
    gain = rng.uniform(1.5, 2.0)
    dark = rng.uniform(2.0, 10.0)
    grey = draw_normal(case, rng, size)
    for patch in patches:
        add(grey, patch.window, patch.paint)
    # The tone curve of roi/demo/phantom.py.
    np.maximum(grey, 0, out=grey)
    grey *= -gain
    np.exp(grey, out=grey)
    grey *= -245
    grey += 245 + dark
    add_noise(grey, case, 3.0)
    np.clip(grey, 0, 255, out=grey)
    return grey.astype(np.uint8)


class DrawnImage(NamedTuple):
    """An image that was written, and where on it what is drawn for each finding."""

    path: Path
    boxes: dict[str, list[Box]]  # x, y, w, h in 1024 x 1024 space


def draw_studies(studies: list[Study], folder: Path, size: int, workers: int) -> list[list[DrawnImage]]:
    """Write every image below a folder; for each study its images. The number of workers changes nothing."""
    # Small chunks, so that no worker is left with a long one at the end.
    jobs = []
    for start in range(0, len(studies), CHUNK):
        jobs.append((studies[start : start + CHUNK], folder, size))
    drawn: list[list[DrawnImage]] = []
    processes = 0 if workers == 1 else workers
    with closing(in_order(draw_some, jobs, processes)) as chunks:
        for chunk in chunks:
            drawn += chunk
    return drawn


def draw_some(job: tuple[list[Study], Path, int]) -> list[list[DrawnImage]]:
    """A worker's task."""
    studies, folder, size = job
    drawn = []
    for study in studies:
        images = []
        for place in range(len(study.views)):
            patches = plant_study_view(study, place)
            grey = render_study_view(study, place, size, patches)
            picture = Image.fromarray(grey)
            path = folder / f"{study.patient:06d}_{study.number}_{place}.png"
            # Noise does not compress: the fastest way to a valid file.
            picture.save(path, compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
            images.append(DrawnImage(path, boxes_of(patches)))
        drawn.append(images)
    return drawn


def boxes_of(patches: list[Patch]) -> dict[str, list[Box]]:
    """Finding -> its boxes."""
    boxes: dict[str, list[Box]] = {}
    for patch in patches:
        boxes.setdefault(patch.label, []).append(patch.box())
    return boxes
