"""Section of the report with cases: the files of a run that the gallery needs, and its pictures with their captions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi.data.boxes import Box, boxes_by_image, read_boxes
from roi.data.images import locate, remark_on_links
from roi.data.table import match_images, read_table
from roi.data.targets import target_matrix
from roi.report import case_selection
from roi.report.html import Cell, esc, image, missing, note, table
from roi.report.run_folder import EVALUATE, Run
from roi.scoring import predictions
from roi.scoring.map_file import read_maps


def cases(run: Run, image_root: str | None, count: int) -> str:
    """The gallery. UserError or OSError of a file it reads is said on the page."""
    given = {**(run.metrics.get("inputs") or {})}
    given.setdefault("preds", (run.metrics.get("predictions") or {}).get("file"))
    root = image_root or (run.metrics.get("predictions") or {}).get("image_root")
    preds_file, table_file = run.find(given.get("preds")), run.find(given.get("csv"))
    if preds_file is None or table_file is None:
        what, command = (
            ("predictions", "infer_roi_consistency.py … --save_json preds.json")
            if preds_file is None
            else ("table", "make_chexmultimodal_csv.py")
        )
        named = given.get("preds" if preds_file is None else "csv")
        return missing(
            f"No gallery: the {what} ({named or 'not named in metrics.json'}) cannot be found from here or from {run.folder}.",
            command,
        )
    folder = Path(root) if image_root and root else run.find(root)
    if folder is None or not folder.is_dir():
        return missing(
            f"No gallery: {f'{root} is no folder of images' if root else 'metrics.json does not say where the images are'}.",
            "make_report.py … --image_root DIR",
        )
    try:
        preds = predictions.read(preds_file)
        # Pictures are shown here; nobody is trained or scored.
        rows = read_table(table_file, compare_names=False)
        return draw_cases(run, preds, rows, folder, given, count)
    except (ValueError, OSError) as error:
        return missing(f"No gallery: {error}")


def draw_cases(
    run: Run, preds: predictions.Predictions, table_rows: pd.DataFrame, folder: Path, given: dict[str, Any], count: int
) -> str:
    """From here on an image has the name that the table gives it."""
    names = table_rows["image"].tolist()
    place = match_images(preds.images, names)  # (N,)
    known = place >= 0
    if not known.any():
        return missing("No gallery: none of the predicted images is in the table.", EVALUATE)
    rows = table_rows.iloc[np.where(known, place, 0)].reset_index(drop=True)
    target = target_matrix(rows, preds.classes)
    target[~known] = np.nan
    said: list[str] = []
    boxes, here = boxes_of(run, given, names, said)
    boxed = np.array(
        [[any(box[0] == c for box in here.get(image, ())) for c in preds.classes] for image in rows["image"]]
    )
    paths = locate(folder, preds.images)
    there = np.array([p is not None for p in paths])
    if not there.any():
        return missing(f"No gallery: none of the images lies under {folder}.", "make_report.py … --image_root DIR")
    chosen = case_selection.choose(
        preds.prob["full"], target, preds.classes, rows["patient_id"].tolist(), there & known, boxed, count
    )
    evidence = evidence_of(run, given, names, {rows["image"].iloc[c.row] for c in chosen}, said)
    parts = [
        note(
            case_selection.RULE
            + ("" if there.all() else f" Only the {int(there.sum()):,} images that lie under {folder} can be shown.")
        )
    ]
    parts += said + notes_on(preds, known, evidence, [rows["image"].iloc[c.row] for c in chosen], chosen)
    elsewhere = remark_on_links(folder, [path for path in paths if path])
    parts += [note(elsewhere + ".")] if elsewhere else []
    legend = []
    if evidence.source == "mask":
        whose = ", the union of all findings" if evidence.maps is not None and evidence.maps.classes == [""] else ""
        legend = [f"Orange: what the mask keeps{whose}; beside it the crop, its dropped pixels in mean grey."]
    legend += (
        [f"Heat: the {evidence.source} map of the finding, over its own range."]
        if evidence.source not in ("", "mask")
        else []
    )
    if evidence.own is not None:
        legend.insert(
            0, "Heat: the finding's own map, over its own range; where the files of maps have none, the crop is shown."
        )
    legend += ["Blue: the boxes of the image."] if boxes is not None else []
    parts.append(note(" ".join(legend)) if legend else "")
    for kind, title in case_selection.KINDS.items():
        shown_here = []
        for case in chosen:
            if case.kind == kind:
                row = rows.iloc[case.row]
                shown_here.append(
                    one_case(case, preds, row, str(paths[case.row]), evidence, here.get(row["image"], []))
                )
        if shown_here:
            parts.append(f'<h3>{esc(title)}</h3><div class="cases">' + "".join(shown_here) + "</div>")
        elif count:
            parts.append(f"<h3>{esc(title)}</h3>" + missing("There is no such case."))
    return "".join(parts)


def boxes_of(
    run: Run, given: dict[str, Any], names: list[str], said: list[str]
) -> tuple[pd.DataFrame | None, dict[str, list[Box]]]:
    """-> the file of boxes, None where there is none; the boxes of each image that has some."""
    space = given.get("box_space") or 1024.0
    command = "evaluate.py … --bbox_csv BBox_List_2017.csv"
    boxes = optional(run, given.get("bbox_csv"), lambda path: read_boxes(path, space), "boxes", command, said)
    if boxes is None:
        return None, {}
    here, unclear = boxes_by_image(boxes, names)
    if unclear:
        said.append(missing(f"{given['bbox_csv']}: {unclear}."))
    if not here:
        first = boxes["image"].iloc[0]
        said.append(
            missing(f"No boxes: {given['bbox_csv']} has none of an image of the table (its first is of {first}).")
        )
    return boxes, here


def evidence_of(
    run: Run, given: dict[str, Any], names: list[str], wanted: set[str], said: list[str]
) -> case_selection.Evidence:
    """Masks or maps of the images that are shown."""
    command = "infer_roi_consistency.py … --save_masks masks.npz, then evaluate.py … --masks masks.npz"
    shown = np.array([name in wanted for name in names])
    files = given.get("masks") or []
    read = []
    for file in ([files] if isinstance(files, str) else files) or [None]:
        maps = optional(run, file, lambda path: read_maps(path, names, shown), "masks", command, said)
        if maps is not None:
            read.append(maps)
    return case_selection.Evidence(read)


def notes_on(
    preds: predictions.Predictions,
    known: np.ndarray,
    evidence: case_selection.Evidence,
    images: list[str],
    chosen: Sequence[case_selection.Case],
) -> list[str]:
    """What is not shown, and what should not have been scored."""
    said = []
    if not known.all():
        said.append(
            missing(
                f"{(~known).sum():,} of the {len(known):,} predicted images are not in the table, "
                "or cannot be told apart there."
            )
        )
    without = sum(not evidence.has(image, case.finding) for image, case in zip(images, chosen, strict=True))
    if evidence.maps is not None and without:
        said.append(
            missing(f"{without:,} of the {len(images):,} cases have no {evidence.source} map in the files of maps.")
        )
    marked = int(preds.contaminated.sum())
    if marked:
        said.append(
            f'<p class="banner">CONTAMINATED: {marked:,} of the {len(preds.images):,} predicted images, '
            "or other images of their patients, were trained on. Cases among them say so.</p>"
        )
    return said


def optional(run: Run, file: str | None, read: Callable[[Path], Any], what: str, command: str, said: list[str]) -> Any:
    """What `read` makes of a file; None, and a sentence in `said`, where it is not there or not readable."""
    path = run.find(file)
    if path is None:
        said.append(missing(f"No {what}" + (f": {file} cannot be found." if file else " were given."), command))
        return None
    try:
        return read(path)
    except (ValueError, OSError) as error:
        said.append(missing(f"No {what}: {error}."))
        return None


def one_case(
    case: case_selection.Case,
    preds: predictions.Predictions,
    row: pd.Series,
    path: str,
    evidence: case_selection.Evidence,
    boxes: Sequence[Box],
) -> str:
    name = preds.images[case.row]
    marked = "<br><b>CONTAMINATED: trained on this image or its patient</b>" if preds.contaminated[case.row] else ""
    try:
        drawn = case_selection.draw(path, str(row["image"]), case.finding, evidence, boxes)
        pictures = "".join(
            image(data, "webp" if data[8:12] == b"WEBP" else "jpeg", f"{name}: {what}") for data, what in drawn
        )
    except (ValueError, OSError) as error:
        pictures = missing(str(error))
    prob = case_selection.caption(preds, case)
    parts = list(preds.prob)
    lines = [
        [
            Cell(f"<b>{esc(c)}</b>" if c == case.finding else esc(c), esc(c)),
            *(Cell(f"{v[p]:.2f}", repr(v[p])) for p in parts),
        ]
        for c, v in prob.items()
    ]
    return (
        f'<article class="case"><div class="pictures">{pictures}</div><p><b>{esc(case.finding)}</b>, rank {100 * case.rank:.1f} %<br>{esc(name)}<br>'
        f"Labels: {esc(case_selection.known_labels(row))}{marked}</p>"
        + table(("Probability", *parts), lines)
        + "</article>"
    )
