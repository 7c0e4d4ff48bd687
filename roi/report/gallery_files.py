"""What the report reads of a run beside metrics.json: predictions with their labels, images, boxes, masks and maps.

Letters: N predicted images, K classes.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from roi.data.boxes import Box, boxes_by_image, read_boxes
from roi.data.images import locate
from roi.data.table import match_images, read_table
from roi.data.targets import target_matrix
from roi.report.case_pictures import Evidence
from roi.report.html import Block, missing
from roi.report.run_folder import Run
from roi.scoring import predictions
from roi.scoring.map_file import read_maps
from roi.scoring.pictures import dropped_grey
from roi.scoring.predictions import Predictions

MAKE_MASKS = "infer_roi_consistency.py … --save_masks masks.npz, then evaluate.py … --masks masks.npz"
MAKE_CAM = "infer_roi_consistency.py … --cam cam.npz, then evaluate.py … --masks cam.npz"
GIVE_IMAGES = "make_report.py … --image_root DIR"


@dataclass(frozen=True)
class NotThere:
    """Why something cannot be shown, and the command that makes it."""

    why: str
    command: str = ""

    def html(self, what: str) -> str:
        return missing(f"No {what}: {self.why}", self.command)


class Scored(NamedTuple):
    """The predicted images beside their rows of the table."""

    preds: Predictions
    rows: pd.DataFrame  # of the table, in the order of the predictions; the first where it is not known
    names: list[str]  # of all images of the table
    known: np.ndarray  # (N,) bool: is in the table
    target: np.ndarray  # (N, K), NaN = unknown


class GalleryFiles(NamedTuple):
    """What a gallery reads."""

    predictions: Path
    table: Path
    folder: Path  # of the images
    inputs: Block  # the files that metrics.json names


# ---- predictions and labels -----------------------------------------------------------------------------------------


def read_scored(run: Run) -> Scored | NotThere:
    """Predictions and labels of a run, or why there are none; UserError or OSError of a file is said on the page."""
    files = scored_files(run)
    if isinstance(files, NotThere):
        return files
    try:
        preds = predictions.read(files[0])
        # Images are shown here; nobody is trained or scored.
        table = read_table(files[1], compare_names=False)
        return beside_table(preds, table)
    except (ValueError, OSError) as error:
        return NotThere(str(error))


def beside_table(preds: Predictions, table: pd.DataFrame) -> Scored:
    """Each predicted image with what the table says of it."""
    names = table["image"].tolist()
    place = match_images(preds.images, names)  # (N,)
    known = place >= 0
    # From here on an image has the name that the table gives it.
    rows = table.iloc[np.where(known, place, 0)].reset_index(drop=True)
    target = target_matrix(rows, preds.classes)
    # An image that is not in the table took the first row above: nothing is known of it.
    target[~known] = np.nan
    return Scored(preds, rows, names, known, target)


def scored_files(run: Run) -> tuple[Path, Path] | NotThere:
    """The files of predictions and of labels."""
    inputs = inputs_of(run)
    preds_file = run.find(inputs.get("preds"))
    table_file = run.find(inputs.get("csv"))
    if preds_file is None:
        return not_found(run, "predictions", inputs.get("preds"), "infer_roi_consistency.py … --save_json preds.json")
    if table_file is None:
        return not_found(run, "table", inputs.get("csv"), "make_chexmultimodal_csv.py")
    return preds_file, table_file


def inputs_of(run: Run) -> Block:
    """The files that metrics.json names."""
    inputs = dict(run.block("inputs"))
    inputs.setdefault("preds", run.block("predictions").get("file"))
    return inputs


def not_found(run: Run, what: str, file: str | None, command: str) -> NotThere:
    name = file or "not named in metrics.json"
    return NotThere(f"the {what} ({name}) cannot be found from here or from {run.folder}.", command)


# ---- images ---------------------------------------------------------------------------------------------------------


def image_folder(run: Run, image_root: str | None) -> Path | NotThere:
    """The folder of the images; `image_root` is what the user has named."""
    root = image_root or run.block("predictions").get("image_root")
    folder = Path(image_root) if image_root else run.find(root)
    if folder is None or not folder.is_dir():
        why = "metrics.json does not say where the images are"
        if root:
            why = f"{root} is no folder of images"
        return NotThere(f"{why}.", GIVE_IMAGES)
    return folder


def find_files(run: Run, image_root: str | None) -> GalleryFiles | NotThere:
    """The files of a gallery, or which of them is not there."""
    files = scored_files(run)
    if isinstance(files, NotThere):
        return files
    folder = image_folder(run, image_root)
    if isinstance(folder, NotThere):
        return folder
    return GalleryFiles(*files, folder, inputs_of(run))


def locate_below(folder: Path, images: Sequence[str]) -> list[str | None]:
    """Paths of the images: where training looks for them, else in any folder below, where one file alone has the name.

    A name that several folders have is one that cannot be told apart: such an image has no path.
    """
    paths = locate(folder, images)
    absent = {PurePosixPath(image).name for image, path in zip(images, paths, strict=True) if path is None}
    if not absent:
        return paths
    found: dict[str, list[str]] = {name: [] for name in absent}
    for parent, _, files in os.walk(folder):
        for name in absent.intersection(files):
            found[name].append(os.path.join(parent, name))
    for n, image in enumerate(images):
        if paths[n] is None:
            candidates = found[PurePosixPath(image).name]
            # What the table says of folders must not be contradicted.
            ending = os.sep + image.replace("/", os.sep)
            candidates = [path for path in candidates if path.endswith(ending)]
            if len(candidates) == 1:
                paths[n] = candidates[0]
    return paths


# ---- files that may be missing --------------------------------------------------------------------------------------


def read_image_boxes(run: Run, inputs: Block, names: list[str], notes: list[str]) -> dict[str, list[Box]] | None:
    """Boxes of each image of the table that has some; None where there is no file of boxes."""
    # NIH's boxes are in 1024 x 1024 space whatever the size of the images.
    read = partial(read_boxes, space=inputs.get("box_space") or 1024.0)
    command = "evaluate.py … --bbox_csv BBox_List_2017.csv"
    boxes = read_optional(run, inputs.get("bbox_csv"), read, "boxes", command, notes)
    if boxes is None:
        return None
    by_image, unclear = boxes_by_image(boxes, names)
    if unclear:
        notes.append(missing(f"{inputs['bbox_csv']}: {unclear}."))
    if not by_image:
        first = boxes["image"].iloc[0]
        why = f"{inputs['bbox_csv']} has none of an image of the table (its first is of {first})"
        notes.append(missing(f"No boxes: {why}."))
    return by_image


def boxed_findings(images: pd.Series, classes: Sequence[str], boxes: dict[str, list[Box]]) -> np.ndarray:
    """(N, K) bool: the image has a box of the finding."""
    boxed = np.zeros((len(images), len(classes)), dtype=bool)
    for n, name in enumerate(images):
        labels = {label for label, *_ in boxes.get(name, [])}
        boxed[n] = [finding in labels for finding in classes]
    return boxed


def read_evidence(run: Run, inputs: Block, names: list[str], wanted: set[str], notes: list[str]) -> Evidence:
    """Masks or maps of the images that are shown; a file of maps may be larger than memory."""
    # Those of the other images would be unpacked for nothing.
    shown = np.array([name in wanted for name in names])
    files = inputs.get("masks") or [None]
    if isinstance(files, str):
        files = [files]
    read = partial(read_maps, images=names, wanted=shown)
    what, command = ("masks", MAKE_MASKS) if run.has_mask else ("maps", MAKE_CAM)
    maps = [read_optional(run, file, read, what, command, notes) for file in files]
    dropped = dropped_grey(run.block("predictions").get("args"))
    return Evidence([one for one in maps if one is not None], dropped)


def read_optional(
    run: Run, file: str | None, read: Callable[[Path], Any], what: str, command: str, notes: list[str]
) -> Any:
    """What `read` makes of a file; None, and a sentence in `notes`, where it is not there or not readable."""
    path = run.find(file)
    if path is None:
        why = f"No {what} were given."
        if file:
            why = f"No {what}: {file} cannot be found."
        notes.append(missing(why, command))
        return None
    try:
        return read(path)
    except (ValueError, OSError) as error:
        notes.append(missing(f"No {what}: {error}."))
        return None
