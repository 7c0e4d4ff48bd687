"""A synthetic set of studies of several views, in a layout, with truth.csv of what can be seen where.

The same seed and size give the same bytes, whatever the number of workers; a killed run leaves nothing.
"""

import csv
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from roi.demo.nih_set import MARKER, MIN_IMAGES, check_request, new_folder
from roi.demo.phantom_shapes import Box
from roi.demo.studies.study_layouts import (
    OF_MIMIC,
    STUDY_WRITERS,
    mimic_patients,
    mimic_studies,
    plain_patients,
    plain_studies,
)
from roi.demo.studies.study_pictures import DrawnImage, draw_studies
from roi.demo.studies.study_plan import (
    CLASSES,
    CONJUNCTIONS,
    OPACITIES,
    OPACITY,
    Lesion,
    Study,
    plan_studies,
)
from roi.demo.truth_table import MORE_LABELS
from roi.errors import UserError
from roi.labels import LABELS, NORMAL_LABELLED

TRUTH = "truth.csv"
TRUTH_COLUMNS = (
    *("image", "study_id", "patient_id", "split", "view", "finding", "present", "visible", "decided", "box"),
)


@dataclass(frozen=True)
class StudySetRequest:
    """What is to be made."""

    studies: int
    size: int
    seed: int
    layout: str = "table"
    long_tail: bool = False


def make_study_set(out: Path, request: StudySetRequest, workers: int = 2, overwrite: bool = False) -> dict[str, Any]:
    """Write the whole set, or nothing.

    Returns:
        studies, images, patients, test (images), positives {class: studies}, seconds, images_per_s

    Raises:
        UserError: a value that makes no set, a layout without studies, a folder that must not be touched.
    """
    started = time.perf_counter()
    if request.layout not in STUDY_WRITERS:
        raise UserError(
            f"--layout {request.layout}: it has no studies of several views; choose one of {', '.join(STUDY_WRITERS)}"
        )
    out = Path(out).resolve()
    check_request(out, max(request.studies, MIN_IMAGES), request.size, request.seed, workers, overwrite)
    planned = plan_studies(request.studies, request.seed, request.long_tail)
    with new_folder(out) as folder:
        # Drawn once as PNG, then copied or encoded to where this layout has them.
        drawn_to = folder / "drawn"
        drawn_to.mkdir()
        drawn = draw_studies(planned, drawn_to, request.size, workers)
        table = truth_table(planned, drawn)
        paths = STUDY_WRITERS[request.layout](table, folder, None)
        shutil.rmtree(drawn_to)
        write_truth(folder / TRUTH, table, paths, planned, drawn, request.layout)
        summary = summary_of(planned, table)
        about = {"made_by": "make_demo_dataset.py", "seed": request.seed, "size": request.size}
        about |= {"layout": request.layout, "long_tail": request.long_tail} | summary
        (folder / MARKER).write_text(json.dumps(about, indent=1) + "\n")
    seconds = time.perf_counter() - started
    return summary | {"seconds": seconds, "images_per_s": len(table) / seconds}


def summary_of(planned: list[Study], table: pd.DataFrame) -> dict[str, Any]:
    positives = dict.fromkeys(CLASSES, 0)
    for study in planned:
        for label in study.labels:
            positives[label] += 1
    return {
        "studies": len(planned),
        "images": len(table),
        "patients": len({study.patient for study in planned}),
        "test": int((table["split"] == "test").sum()),
        "positives": positives,
    }


def truth_table(planned: list[Study], drawn: list[list[DrawnImage]]) -> pd.DataFrame:
    """A row an image, as roi/demo/truth_table.py has it: the labels of its study."""
    rows = []
    for study, images in zip(planned, drawn, strict=True):
        # Labels are of the study: the same on each of its images, whatever they show.
        labels = study.labels
        cells = {name: int(name in labels) for name in (*LABELS, *MORE_LABELS)}
        who = {
            "patient": study.patient,
            "study": study.number,
            "age": study.age,
            "sex": study.sex,
        }
        for image, view in zip(images, study.views, strict=True):
            own = {"view": view, "split": study.split}
            rows.append({"image": str(image.path), **who, **own, **cells})
    return pd.DataFrame(rows)


# ---- truth.csv ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sight:
    """What the images of a study show of one of its findings."""

    finding: str
    present: bool
    decided: bool  # the images together tell whether it is there
    boxes: list[list[Box]]  # of each image; none: it cannot be seen there


def sights_of(study: Study, images: list[DrawnImage]) -> Iterator[Sight]:
    """Its findings, what only looks like one, and the classes that follow from them."""
    # Seen wherever one of its kinds is.
    opacity: list[list[Box]] = [[] for _ in images]
    for lesion in study.lesions:
        boxes = [image.boxes.get(lesion.label, []) for image in images]
        yield Sight(lesion.label, lesion.present, is_decided(lesion, study, boxes), boxes)
        if lesion.label in OPACITIES:
            for of_image, more in zip(opacity, boxes, strict=True):
                of_image += more
    labels = study.labels
    if OPACITY in labels:
        yield Sight(OPACITY, True, any(opacity), opacity)
    if NORMAL_LABELLED in labels:
        # Nothing can be seen of it, and what cannot be seen may still be there.
        yield Sight(NORMAL_LABELLED, True, False, [[] for _ in images])


def is_decided(lesion: Lesion, study: Study, boxes: list[list[Box]]) -> bool:
    if lesion.label in CONJUNCTIONS:
        return study.has_both_kinds
    return any(boxes)


def write_truth(
    path: Path,
    table: pd.DataFrame,
    paths: list[str],
    planned: list[Study],
    drawn: list[list[DrawnImage]],
    layout: str,
) -> None:
    """A row an image and finding (docs/formats.md)."""
    names = (mimic_patients, mimic_studies) if layout in OF_MIMIC else (plain_patients, plain_studies)
    patients, studies = (name(table) for name in names)
    first = 0
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TRUTH_COLUMNS)
        for study, images in zip(planned, drawn, strict=True):
            rows = range(first, first + len(images))
            for sight in sights_of(study, images):
                for row, view, boxes in zip(rows, study.views, sight.boxes, strict=True):
                    who = (
                        paths[row],
                        studies[row],
                        patients[row],
                        study.split,
                        view,
                        sight.finding,
                    )
                    flags = (int(sight.present), int(bool(boxes)), int(sight.decided))
                    writer.writerow((*who, *flags, box_text(boxes)))
            first += len(images)


def box_text(boxes: list[Box]) -> str:
    """'x y w h', several separated by ';'; "" where there is none. In 1024 x 1024 space"""
    return ";".join(" ".join(f"{edge:.6g}" for edge in box) for box in boxes)
