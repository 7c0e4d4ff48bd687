"""Section of the report with cases: the files of a run that the gallery needs, and its pictures with their captions.

Letters: N predicted images, K classes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from roi.data.boxes import Box, boxes_by_image, read_boxes
from roi.data.images import locate, remark_on_links
from roi.data.table import match_images, read_table
from roi.data.targets import target_matrix
from roi.report import case_pictures, case_selection
from roi.report.case_pictures import Evidence
from roi.report.case_selection import Case
from roi.report.html import Block, Cell, esc, image, missing, note, table
from roi.report.run_folder import EVALUATE, Run
from roi.scoring import predictions
from roi.scoring.map_file import read_maps
from roi.scoring.pictures import dropped_grey
from roi.scoring.predictions import Predictions

MAKE_MASKS = "infer_roi_consistency.py … --save_masks masks.npz, then evaluate.py … --masks masks.npz"
GIVE_IMAGES = "make_report.py … --image_root DIR"


class GalleryFiles(NamedTuple):
    """What a gallery reads."""

    predictions: Path
    table: Path
    folder: Path  # of the images
    inputs: Block  # the files that metrics.json names


def cases(run: Run, image_root: str | None, count: int) -> str:
    """The gallery. UserError or OSError of a file it reads is said on the page."""
    files = find_files(run, image_root)
    if isinstance(files, str):
        return files
    try:
        preds = predictions.read(files.predictions)
        # Pictures are shown here; nobody is trained or scored.
        rows = read_table(files.table, compare_names=False)
        return gallery(run, preds, rows, files.folder, files.inputs, count)
    except (ValueError, OSError) as error:
        return missing(f"No gallery: {error}")


def find_files(run: Run, image_root: str | None) -> GalleryFiles | str:
    """The files of a gallery, or what is said on the page where one of them is not there."""
    inputs = dict(run.block("inputs"))
    predicted = run.block("predictions")
    inputs.setdefault("preds", predicted.get("file"))
    preds_file = run.find(inputs.get("preds"))
    table_file = run.find(inputs.get("csv"))
    if preds_file is None:
        command = "infer_roi_consistency.py … --save_json preds.json"
        return not_found(run, "predictions", inputs.get("preds"), command)
    if table_file is None:
        return not_found(run, "table", inputs.get("csv"), "make_chexmultimodal_csv.py")
    root = image_root or predicted.get("image_root")
    folder = Path(image_root) if image_root else run.find(root)
    if folder is None or not folder.is_dir():
        why = "metrics.json does not say where the images are"
        if root:
            why = f"{root} is no folder of images"
        return missing(f"No gallery: {why}.", GIVE_IMAGES)
    return GalleryFiles(preds_file, table_file, folder, inputs)


def not_found(run: Run, what: str, file: str | None, command: str) -> str:
    name = file or "not named in metrics.json"
    return missing(f"No gallery: the {what} ({name}) cannot be found from here or from {run.folder}.", command)


def gallery(run: Run, preds: Predictions, table_rows: pd.DataFrame, folder: Path, inputs: Block, count: int) -> str:
    """Choose the cases, and draw them.

    Args:
        run: whose files are looked for beside metrics.json.
        preds: of N images.
        table_rows: the table of labels.
        folder: of the images.
        inputs: the files that metrics.json names.
        count: cases at most.
    """
    names = table_rows["image"].tolist()
    place = match_images(preds.images, names)  # (N,)
    known = place >= 0
    if not known.any():
        return missing("No gallery: none of the predicted images is in the table.", EVALUATE)
    # From here on an image has the name that the table gives it.
    rows = table_rows.iloc[np.where(known, place, 0)].reset_index(drop=True)
    target = target_matrix(rows, preds.classes)
    # An image that is not in the table took the first row above: nothing is known of it.
    target[~known] = np.nan
    notes: list[str] = []
    boxes = read_image_boxes(run, inputs, names, notes)
    boxed = boxed_findings(rows["image"], preds.classes, boxes or {})
    paths = locate(folder, preds.images)
    available = np.array([path is not None for path in paths])
    if not available.any():
        return missing(f"No gallery: none of the images lies under {folder}.", GIVE_IMAGES)
    patients = rows["patient_id"].tolist()
    full, shown = preds.prob["full"], available & known
    chosen = case_selection.choose(full, target, preds.classes, patients, shown, boxed, count)
    images = [rows["image"].iloc[case.row] for case in chosen]
    evidence = read_evidence(run, inputs, names, set(images), notes)
    parts = [note(rule_text(available, folder))]
    parts += notes
    parts += notes_on(preds, known, evidence, images, chosen)
    elsewhere = remark_on_links(folder, [path for path in paths if path])
    if elsewhere:
        parts.append(note(f"{elsewhere}."))
    parts.append(legend(evidence, has_boxes=boxes is not None))
    drawn = []
    for case, name in zip(chosen, images, strict=True):
        row, path = rows.iloc[case.row], str(paths[case.row])
        drawn.append(case_html(case, preds, row, path, evidence, (boxes or {}).get(name, [])))
    return "".join(parts) + by_kind(chosen, drawn, count)


def rule_text(available: np.ndarray, folder: Path) -> str:
    """How the cases were chosen. available: (N,) bool"""
    if available.all():
        return case_selection.RULE
    count = f"{int(available.sum()):,} images"
    return f"{case_selection.RULE} Only the {count} that lie under {folder} can be shown."


def by_kind(chosen: Sequence[Case], drawn: Sequence[str], count: int, style: str = "cases") -> str:
    """The drawn cases under the titles of their kinds; where cases were asked for, also what kind has none."""
    text = ""
    for kind, title in case_selection.KINDS.items():
        shown = ""
        for case, html in zip(chosen, drawn, strict=True):
            if case.kind == kind:
                shown += html
        heading = f"<h3>{esc(title)}</h3>"
        if shown:
            text += f'{heading}<div class="{style}">{shown}</div>'
        elif count:
            text += heading + missing("There is no such case.")
    return text


def legend(evidence: Evidence, has_boxes: bool) -> str:
    """What the colours mean, of those that are there."""
    parts = []
    if evidence.own is not None:
        parts.append(
            "Heat: the finding's own map, over its own range; where the files of maps have none, the crop is shown."
        )
    if evidence.source == "mask":
        mask = "what the mask keeps"
        if evidence.maps is not None and evidence.maps.classes == [""]:
            mask += ", the union of all findings"
        parts.append(f"Orange: {mask}; beside it the crop, its dropped pixels in mean grey.")
    elif evidence.source:
        parts.append(f"Heat: the {evidence.source} map of the finding, over its own range.")
    if has_boxes:
        parts.append("Blue: the boxes of the image.")
    return note(" ".join(parts)) if parts else ""


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
    maps = [read_optional(run, file, read, "masks", MAKE_MASKS, notes) for file in files]
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


def notes_on(
    preds: Predictions, known: np.ndarray, evidence: Evidence, images: list[str], chosen: Sequence[Case]
) -> list[str]:
    """What is not shown, and what should not have been scored."""
    notes = []
    if not known.all():
        unknown = int((~known).sum())
        count = f"{unknown:,} of the {len(known):,} predicted images"
        notes.append(missing(f"{count} are not in the table, or cannot be told apart there."))
    without = 0
    for name, case in zip(images, chosen, strict=True):
        without += not evidence.has(name, case.finding)
    if evidence.maps is not None and without:
        count = f"{without:,} of the {len(images):,} cases"
        notes.append(missing(f"{count} have no {evidence.source} map in the files of maps."))
    contaminated = int(preds.contaminated.sum())
    if contaminated:
        notes.append(
            f'<p class="banner">CONTAMINATED: {contaminated:,} of the {len(preds.images):,} predicted images, '
            "or other images of their patients, were trained on. Cases among them say so.</p>"
        )
    return notes


# ---- one case -------------------------------------------------------------------------------------------------------


def case_html(
    case: Case, preds: Predictions, row: pd.Series, path: str, evidence: Evidence, boxes: Sequence[Box]
) -> str:
    """Pictures, names and labels, and the probabilities of each view."""
    name = preds.images[case.row]
    pictures = ""
    try:
        for picture in case_pictures.draw(path, str(row["image"]), case.finding, evidence, boxes):
            pictures += image(picture.data, picture.kind, f"{name}: {picture.alt}")
    except (ValueError, OSError) as error:
        # One file that cannot be read leaves the others their pictures.
        pictures = missing(str(error))
    labels = esc(case_pictures.label_text(row))
    if preds.contaminated[case.row]:
        labels += "<br><b>CONTAMINATED: trained on this image or its patient</b>"
    return (
        f'<article class="case"><div class="pictures">{pictures}</div>'
        f"<p><b>{esc(case.finding)}</b>, rank {100 * case.rank:.1f} %<br>{esc(name)}<br>Labels: {labels}</p>"
        f"{probability_table(preds, case)}</article>"
    )


def probability_table(preds: Predictions, case: Case) -> str:
    rows = []
    for finding, by_view in case_pictures.probabilities(preds, case).items():
        text = esc(finding)
        name = f"<b>{text}</b>" if finding == case.finding else text
        row = [Cell(name, text)]
        for value in by_view.values():
            row.append(Cell(f"{value:.2f}", repr(value)))
        rows.append(row)
    return table(("Probability", *preds.prob), rows)
