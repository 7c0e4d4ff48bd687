"""Section of the report on studies of several views: which view carries the answer, and a gallery of studies.

Letters: N predicted images, S studies, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from roi.data.boxes import Box
from roi.data.studies import KINDS, kinds_of
from roi.data.table import match_images, read_table
from roi.data.targets import target_matrix
from roi.report import case_pictures, case_selection
from roi.report.case_pictures import OWN_MAP, Evidence, map_name
from roi.report.case_selection import Case
from roi.report.gallery_files import (
    GalleryFiles,
    NotThere,
    boxed_findings,
    find_files,
    locate_below,
    read_evidence,
    read_image_boxes,
)
from roi.report.html import Row, card, esc, fold, image, missing, note, table, zoomable
from roi.report.run_folder import Run
from roi.report.sections.cases import by_kind
from roi.scoring import predictions
from roi.scoring.challenge.contributions import Contributions, read_contributions
from roi.scoring.predictions import Predictions
from roi.text import decimal

RULE = (
    "A row of pictures is a study. Studies of at least two views are shown, chosen as the cases of the gallery are, by "
    "the rank of the study's probability among all studies. “Alone” is what the image says by itself. The bar is what "
    "the view adds: the probability of the study minus that of the study without it, to the right where it raises it; "
    "the longest bar of a study fills its half."
)


@dataclass(frozen=True)
class Gathered:
    """The predicted images, and the studies that they are of."""

    preds: Predictions
    rows: pd.DataFrame  # of the table, in the order of the predictions
    added: Contributions
    study: np.ndarray  # (N,)
    order: np.ndarray  # (N,) images study after study, frontal views first
    first: np.ndarray  # (S,) the image of each that stands first

    def images_of(self, study: int) -> list[int]:
        """The images of a study, in its order."""
        is_member = self.study[self.order] == study
        return self.order[is_member].tolist()


def studies(run: Run, image_root: str | None, count: int) -> str:
    """View pointing and the gallery; empty where nothing was predicted of studies."""
    return view_pointing(run) + study_gallery(run, image_root, count)


def view_pointing(run: Run) -> str:
    """How often the view in which a finding shows is the one that adds the most."""
    block = run.block("view_pointing")
    if not block:
        return ""
    explanation = (
        f"View pointing: of {block['n_pairs']:,} findings of {block['n_studies']:,} studies, each visible in exactly "
        "one of several views, the share in which that view adds the most to the probability of the study. Chance is "
        "one in as many views."
    )
    cards = card("View pointing", block["pointing"]) + card("Chance", block["chance"])
    cards += card("Above chance", block["minus_chance"])
    rows: list[Row] = []
    for finding, values in (block.get("findings") or {}).items():
        rows.append([finding, values["n"], values["pointing"]])
    each = table(("Finding", "Findings", "View pointing"), rows, sortable=True)
    return f'<div class="cards">{cards}</div>' + note(explanation) + fold("View pointing of each finding", each)


def study_gallery(run: Run, image_root: str | None, count: int) -> str:
    """The gallery of studies; what it lacks the gallery of images has said already."""
    files = find_files(run, image_root)
    if isinstance(files, NotThere):
        return ""
    try:
        added = read_contributions(files.predictions)
        if added is None or not added.several.any():
            return ""
        preds = predictions.read(files.predictions)
        table_rows = read_table(files.table, compare_names=False)
        return gallery(run, gather(preds, table_rows, added), files, table_rows["image"].tolist(), count)
    except (ValueError, OSError) as error:
        return missing(f"No gallery of studies: {error}")


def gather(preds: Predictions, table_rows: pd.DataFrame, added: Contributions) -> Gathered:
    """Predicted images beside the rows of the table; one that is not there is of a study of its own."""
    place = match_images(preds.images, table_rows["image"].tolist())
    known = place >= 0
    rows = table_rows.iloc[np.where(known, place, 0)].reset_index(drop=True)
    # Two data sets may number their studies alike, but no two have a patient in common.
    keys = rows["patient_id"] + "\0" + pd.Series(added.studies, dtype=str)
    unknown = [name for name, listed in zip(preds.images, known, strict=True) if not listed]
    keys[~known] = ["\0\0" + name for name in unknown]
    study, _ = pd.factorize(keys)
    # The order in which the study model has looked at them.
    _, rank = kinds_of(rows["view"])
    order = np.lexsort((rank, study))
    _, starts = np.unique(study[order], return_index=True)
    return Gathered(preds, rows, added, study, order, order[starts])


def gallery(run: Run, found: Gathered, files: GalleryFiles, names: list[str], count: int) -> str:
    """Choose the studies, and draw them.

    Args:
        run: whose files are looked for beside metrics.json.
        found: what is predicted.
        files: of the gallery.
        names: of all images of the table.
        count: studies at most.
    """
    # What is not there the gallery of images has said.
    boxes = read_image_boxes(run, files.inputs, names, []) or {}
    paths = locate_below(files.folder, found.preds.images)
    available = np.array([path is not None for path in paths])
    chosen = choose(found, available, boxes, count)
    shown = [n for case in chosen for n in found.images_of(case.row)]
    shown_images = set(found.rows["image"].iloc[shown])
    evidence = read_evidence(run, files.inputs, names, shown_images, [])
    drawn = []
    for case in chosen:
        drawn.append(study_html(case, found, paths, evidence, boxes))
    text = note(RULE) + legend(evidence, bool(boxes))
    return text + by_kind(chosen, drawn, count, "studies")


def choose(found: Gathered, available: np.ndarray, boxes: dict[str, list[Box]], count: int) -> list[Case]:
    """The cases, whose `row` is a study. available: (N,) bool, has a picture"""
    classes = found.preds.classes
    shape = (len(found.first), len(classes))
    # NaN: of no image of the study it is known.
    target = np.full(shape, np.nan)
    # What one image knows counts for its study.
    np.fmax.at(target, found.study, target_matrix(found.rows, classes))
    boxed = np.zeros(shape, dtype=bool)
    np.logical_or.at(boxed, found.study, boxed_findings(found.rows["image"], classes, boxes))
    can_show = np.zeros(shape[0], dtype=bool)
    np.logical_or.at(can_show, found.study, available)
    # A study of one view has nothing to compare; the gallery of images has it.
    several = found.study[found.added.several]
    views = np.bincount(several, minlength=shape[0])
    prob = found.preds.prob["full"][found.first]
    patients = found.rows["patient_id"].iloc[found.first].tolist()
    of_several = can_show & (views > 1)
    return case_selection.choose(prob, target, classes, patients, of_several, boxed, count)


def legend(evidence: Evidence, has_boxes: bool) -> str:
    """What the colours mean; of a mask and a map of the finding a row shows the map."""
    parts = []
    if evidence.own is not None:
        whose = evidence.own_name if evidence.own_name == OWN_MAP else f"{evidence.own_name} of the finding"
        parts.append(f"Heat: {whose}, over its own range.")
    elif evidence.source == "mask":
        parts.append("Orange: what the mask keeps.")
    elif evidence.source:
        parts.append(f"Heat: {map_name(evidence.source, 'the finding')}, over its own range.")
    else:
        parts.append("Without a map: none was given to evaluate.py --masks, or the files hold none of these images.")
    if has_boxes:
        parts.append("Blue: the boxes of the finding; grey: those of others.")
    return note(" ".join(parts))


# ---- one study ------------------------------------------------------------------------------------------------------


def study_html(
    case: Case,
    found: Gathered,
    paths: Sequence[object],
    evidence: Evidence,
    boxes: dict[str, list[Box]],
) -> str:
    """The views of a study side by side, and below them what is known of it."""
    column = found.preds.classes.index(case.finding)
    members = found.images_of(case.row)
    # Most views add little: a common scale would leave nothing to see.
    added = found.added.added[members, column]
    longest = np.nanmax(np.abs(added))
    views = ""
    for n in members:
        views += view_html(n, case.finding, found, str(paths[n] or ""), evidence, boxes, longest)
    # Labels are the study's: those of any of its images.
    first = found.rows.iloc[members[0]]
    labels = esc(case_pictures.label_text(first))
    if found.preds.contaminated[members].any():
        labels += "<br><b>CONTAMINATED: trained on one of these images or their patient</b>"
    prob = found.preds.prob["full"][members[0], column]
    return (
        f'<article class="case"><div class="views">{views}</div>'
        f"<p><b>{esc(case.finding)}</b>: study {prob:.2f}, rank {100 * case.rank:.1f} %<br>"
        f"Study {esc(found.added.studies[members[0]])}, {len(members)} views<br>Labels: {labels}</p></article>"
    )


def view_html(
    n: int,
    finding: str,
    found: Gathered,
    path: str,
    evidence: Evidence,
    boxes: dict[str, list[Box]],
    longest: float,
) -> str:
    """One view: its picture, what it says alone, and what it adds."""
    row = found.rows.iloc[n]
    name = found.preds.images[n]
    column = found.preds.classes.index(finding)
    kinds, _ = kinds_of(found.rows["view"].iloc[[n]])
    kind = KINDS[kinds[0]]
    view = f"{row['view']}, {kind}" if row["view"] else f"view {kind}"
    picture = picture_html(name, str(row["image"]), path, finding, evidence, boxes)
    alone = found.added.alone[n, column]
    added = found.added.added[n, column]
    # Three cases: beyond the most views, alone in its study, one of several.
    if np.isnan(alone):
        said = "<p>not looked at: beyond the most views of a study</p>"
    elif np.isnan(added):
        said = f"<p>alone {alone:.2f}</p>"
    else:
        said = f"<p>alone {alone:.2f}<br>adds {signed(added)}</p>{bar_html(added, longest)}"
    return f'<div class="view">{picture}<p>{esc(view)}<br>{esc(name)}</p>{said}</div>'


def picture_html(
    name: str,
    listed: str,
    path: str,
    finding: str,
    evidence: Evidence,
    boxes: dict[str, list[Box]],
) -> str:
    """The X-ray with the map of the finding or the outline of the mask, where there is one."""
    if not path:
        return missing("No picture: the image is not under the folder.")
    try:
        # Beside a map of the finding stand the outline, or the crop: a row has place for one of them.
        first, *_ = case_pictures.draw(path, listed, finding, evidence, boxes.get(listed, []))
    except (ValueError, OSError) as error:
        return missing(str(error))
    return zoomable(image(first.data, first.kind, f"{name}: {first.alt}"))


def bar_html(added: float, longest: float) -> str:
    """A bar from the middle, to the right where the view raises the probability."""
    # Where no view adds anything, no bar has a length.
    width = 50 * abs(added) / longest if longest else 0.0
    left = 50.0 if added >= 0 else 50 - width
    style = "" if added >= 0 else ' class="less"'
    place = f"left:{left:.1f}%;width:{width:.1f}%"
    return f'<div class="bar" role="img" aria-label="adds {signed(added)}"><i{style} style="{place}"></i></div>'


def signed(value: float) -> str:
    """With its sign; what rounds to nothing has none."""
    text = decimal(value, 3)
    return f"+{text}" if float(text) > 0 else text
