"""Section of the report with cases: the files of a run that the gallery needs, and its pictures with their captions."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi import gallery, predictions
from roi.boxes import read_boxes
from roi.images import locate
from roi.maps import read_maps
from roi.page import Cell, esc, image, missing, note, table
from roi.report_runs import EVALUATE, Run
from roi.table import image_keys, read_table, target_matrix


def cases(run: Run, image_root: str | None, count: int) -> str:
    """The gallery. ValueError or OSError of a file it reads is said on the page."""
    given = {**(run.metrics.get("inputs") or {})}
    given.setdefault("preds", (run.metrics.get("predictions") or {}).get("file"))
    root = image_root or (run.metrics.get("predictions") or {}).get("image_root")
    preds_file, table_file = run.find(given.get("preds")), run.find(given.get("csv"))
    if preds_file is None or table_file is None:
        what, command = ("predictions", "infer_roi_consistency.py … --save_json preds.json") if preds_file is None else ("table", "make_chexmultimodal_csv.py")
        named = given.get("preds" if preds_file is None else "csv")
        return missing(f"No gallery: the {what} ({named or 'not named in metrics.json'}) cannot be found from here or from {run.folder}.", command)
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


def draw_cases(run: Run, preds: predictions.Predictions, rows: pd.DataFrame, folder: Path, given: dict[str, Any], count: int) -> str:
    place = {key: n for n, key in enumerate(image_keys(rows["image"]))}
    keys = image_keys(pd.Series(preds.images, dtype=str)).tolist()
    if not any(key in place for key in keys):
        return missing("No gallery: none of the predicted images is in the table.", EVALUATE)
    known = np.array([key in place for key in keys])
    rows = rows.iloc[[place.get(key, 0) for key in keys]].reset_index(drop=True)
    target = target_matrix(rows, preds.classes)
    target[~known] = np.nan
    said: list[str] = []
    boxes = optional(
        run, given.get("bbox_csv"), lambda p: read_boxes(p, given.get("box_space") or 1024.0), "boxes", "evaluate.py … --bbox_csv BBox_List_2017.csv", said
    )
    here: dict[str, list[tuple[str, float, float, float, float]]] = {}
    if boxes is not None:
        for key, *box in zip(image_keys(boxes["image"]), *(boxes[c] for c in ("label", "x", "y", "w", "h")), strict=True):
            here.setdefault(key, []).append(tuple(box))
    boxed = np.array([[any(b[0] == c for b in here.get(key, ())) for c in preds.classes] for key in keys])
    paths = locate(folder, preds.images)
    there = np.array([p is not None for p in paths])
    if not there.any():
        return missing(f"No gallery: none of the images lies under {folder}.", "make_report.py … --image_root DIR")
    chosen = gallery.choose(preds.prob["full"], target, preds.classes, rows["patient_id"].tolist(), there & known, boxed, count)
    wanted = {preds.images[c.row] for c in chosen}
    command = "infer_roi_consistency.py … --save_masks masks.npz, then evaluate.py … --masks masks.npz"
    names = given.get("masks") or []
    files = [
        optional(run, f, lambda p: read_maps(p, spellings(wanted)), "masks", command, said) for f in ([names] if isinstance(names, str) else names) or [None]
    ]
    evidence = gallery.Evidence([f for f in files if f is not None])
    parts = [note(gallery.RULE + ("" if there.all() else f" Only the {int(there.sum()):,} images that lie under {folder} can be shown."))]
    parts += said
    legend = []
    if evidence.source == "mask":
        whose = ", the union of all findings" if evidence.maps is not None and evidence.maps.classes == [""] else ""
        legend = [f"Orange: what the mask keeps{whose}; beside it the crop, its dropped pixels in mean grey."]
    legend += [f"Heat: the {evidence.source} map of the finding, over its own range."] if evidence.source not in ("", "mask") else []
    legend += ["Blue: the boxes of the image."] if boxes is not None else []
    parts.append(note(" ".join(legend)) if legend else "")
    for kind, title in gallery.KINDS.items():
        shown_here = [
            one_case(c, preds, rows.iloc[c.row], str(paths[c.row]), keys[c.row], evidence, here.get(keys[c.row], [])) for c in chosen if c.kind == kind
        ]
        if shown_here:
            parts.append(f'<h3>{esc(title)}</h3><div class="cases">' + "".join(shown_here) + "</div>")
        elif count:
            parts.append(f"<h3>{esc(title)}</h3>" + missing("There is no such case."))
    return "".join(parts)


def spellings(images: Iterable[str]) -> set[str]:
    """The names themselves and without their folders, as files of maps may have them."""
    return {s for image in images for s in (image, image_keys(pd.Series([image])).iloc[0])}


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
    case: gallery.Case,
    preds: predictions.Predictions,
    row: pd.Series,
    path: str,
    key: str,
    evidence: gallery.Evidence,
    boxes: Sequence[tuple[str, float, float, float, float]],
) -> str:
    name = preds.images[case.row]
    try:
        drawn = gallery.draw(path, key, case.finding, evidence, boxes)
        pictures = "".join(image(data, "webp" if data[8:12] == b"WEBP" else "jpeg", f"{name}: {what}") for data, what in drawn)
    except (ValueError, OSError) as error:
        pictures = missing(str(error))
    prob = gallery.caption(preds, case)
    parts = list(preds.prob)
    lines = [[Cell(f"<b>{esc(c)}</b>" if c == case.finding else esc(c), esc(c)), *(Cell(f"{v[p]:.2f}", repr(v[p])) for p in parts)] for c, v in prob.items()]
    return (
        f'<article class="case"><div class="pictures">{pictures}</div><p><b>{esc(case.finding)}</b>, rank {100 * case.rank:.1f} %<br>{esc(name)}<br>'
        f"Labels: {esc(gallery.known_labels(row))}</p>" + table(("Probability", *parts), lines) + "</article>"
    )
