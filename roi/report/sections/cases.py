"""Sections of the report with cases: four of them first, later the gallery with its filter.

Letters: N predicted images, K classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roi.data.boxes import Box
from roi.data.images import remark_on_links
from roi.report import case_pictures, case_selection
from roi.report.case_pictures import OWN_MAP, Evidence, map_name
from roi.report.case_selection import Case
from roi.report.gallery_files import (
    GIVE_IMAGES,
    NotThere,
    Scored,
    boxed_findings,
    image_folder,
    inputs_of,
    locate_below,
    read_evidence,
    read_image_boxes,
)
from roi.report.html import Block, Cell, esc, image, missing, note, table, zoomable
from roi.report.run_folder import EVALUATE, Run
from roi.report.source_names import capitalize
from roi.scoring.predictions import Predictions

# The four cases of the beginning, in their order.
FOUR = {
    "best": "Best right",
    "false": "Most certain wrong",
    "worst": "Missed",
    "typical": "Typical",
}
FOUR_RULE = (
    "Chosen by the scores alone, by the rule of the gallery below. Best right: the image whose finding ranks highest. "
    "Most certain wrong: the image without a finding that ranks highest for it. Missed: the image whose finding ranks "
    "lowest. Typical: an image whose finding ranks in the middle. A click enlarges a picture."
)
# What came of a threshold: finding there or not, called or not.
OUTCOMES = {
    (True, True): ("right", "right"),
    (True, False): ("missed", "missed"),
    (False, True): ("alarm", "a false alarm"),
    (False, False): ("right", "right"),
}
OUTCOME_NAMES = {
    "right": "Right at the threshold",
    "missed": "Missed at the threshold",
    "alarm": "False alarms at the threshold",
}


@dataclass
class Gallery:
    """The cases of a run with all that their pictures need."""

    scored: Scored
    thresholds: Block  # finding -> its threshold, where one was chosen
    chosen: list[Case]
    paths: list[str | None]  # (N,)
    boxes: dict[str, list[Box]]
    evidence: Evidence
    notes: str  # on how they were chosen, and on what cannot be shown


def read_gallery(run: Run, scored: Scored | NotThere, image_root: str | None, count: int) -> Gallery | str:
    """The cases of a run, so many at most; or what is said in their place."""
    if isinstance(scored, NotThere):
        return scored.html("gallery")
    folder = image_folder(run, image_root)
    if isinstance(folder, NotThere):
        return folder.html("gallery")
    try:
        return choose_cases(run, scored, folder, count)
    except (ValueError, OSError) as error:
        return missing(f"No gallery: {error}")


def choose_cases(run: Run, scored: Scored, folder: Path, count: int) -> Gallery | str:
    """Choose the cases, and read what their pictures need.

    Args:
        run: whose files are looked for beside metrics.json.
        scored: N images.
        folder: of the images.
        count: cases at most.
    """
    preds, known, rows = scored.preds, scored.known, scored.rows
    if not known.any():
        return missing("No gallery: none of the predicted images is in the table.", EVALUATE)
    inputs = inputs_of(run)
    notes: list[str] = []
    boxes = read_image_boxes(run, inputs, scored.names, notes)
    boxed = boxed_findings(rows["image"], preds.classes, boxes or {})
    paths = locate_below(folder, preds.images)
    available = np.array([path is not None for path in paths])
    if not available.any():
        return missing(f"No gallery: none of the images lies under {folder}.", GIVE_IMAGES)
    patients = rows["patient_id"].tolist()
    full, shown = preds.prob["full"], available & known
    chosen = case_selection.choose(full, scored.target, preds.classes, patients, shown, boxed, count)
    images = [rows["image"].iloc[case.row] for case in chosen]
    evidence = read_evidence(run, inputs, scored.names, set(images), notes)
    notes.insert(0, note(rule_text(available, folder)))
    notes += notes_on(preds, known, evidence, images, chosen)
    elsewhere = remark_on_links(folder, [path for path in paths if path])
    if elsewhere:
        notes.append(note(f"{elsewhere}."))
    notes.append(legend(evidence, has_boxes=boxes is not None))
    thresholds = {name: scores.get("threshold") for name, scores in run.metrics["per_class"].items()}
    return Gallery(scored, thresholds, chosen, paths, boxes or {}, evidence, "".join(notes))


def four_cases(gallery: Gallery | str) -> str:
    """The first case of each kind, at a glance; "" where no pictures can be shown, as the gallery says why."""
    if isinstance(gallery, str) or not gallery.chosen:
        return ""
    shown = ""
    for kind, title in FOUR.items():
        case = next((case for case in gallery.chosen if case.kind == kind), None)
        if case is not None:
            shown += case_html(gallery, case, f"<h3>{esc(title)}: {esc(case.finding)}</h3>", with_table=False)
    marks = legend(gallery.evidence, has_boxes=bool(gallery.boxes))
    return f'<div class="cases four">{shown}</div>' + marks + note(FOUR_RULE)


def gallery_section(gallery: Gallery | str, count: int) -> str:
    """All cases under the titles of their kinds, with the filter above them."""
    if isinstance(gallery, str):
        return gallery
    drawn = [case_html(gallery, case) for case in gallery.chosen]
    return gallery.notes + filter_html(gallery) + by_kind(gallery.chosen, drawn, count)


def filter_html(gallery: Gallery) -> str:
    """Choices of a finding and of a kind of error; without a script all cases are shown, and no choice."""
    findings = dict.fromkeys(case.finding for case in gallery.chosen)
    if not findings:
        return ""
    # "Best: positives of the highest rank" -> "Best"
    kinds = {kind: title.partition(":")[0] for kind, title in case_selection.KINDS.items()}
    if any(threshold is not None for threshold in gallery.thresholds.values()):
        kinds |= OUTCOME_NAMES
    by_finding = options("All findings", {finding: finding for finding in findings})
    return (
        f'<div class="filter" hidden><label>Finding <select>{by_finding}</select></label>'
        f"<label>Cases <select>{options('All', kinds)}</select></label><output></output></div>"
    )


def options(everything: str, names: dict[str, str]) -> str:
    """The choices of a list, the first of which chooses all."""
    text = f'<option value="">{esc(everything)}</option>'
    for value, name in names.items():
        text += f'<option value="{esc(value)}">{esc(name)}</option>'
    return text


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
            text += f'<div class="kind">{heading}<div class="{style}">{shown}</div></div>'
        elif count:
            text += heading + missing("There is no such case.")
    return text


def legend(evidence: Evidence, has_boxes: bool) -> str:
    """What the colours mean, of those that are there."""
    parts = []
    if evidence.own is not None:
        whose = evidence.own_name if evidence.own_name == OWN_MAP else f"{evidence.own_name} of the finding"
        parts.append(f"Heat: {whose}, over its own range; where there is none, the crop is shown.")
    if evidence.source == "mask":
        mask = "what the mask keeps"
        if evidence.maps is not None and evidence.maps.classes == [""]:
            mask += ", the union of all findings"
        # Beside a map of the finding there is no crop.
        crop = "" if evidence.own else "; beside it the crop, its dropped pixels in mean grey"
        parts.append(f"Orange: {mask}{crop}.")
    elif evidence.source:
        parts.append(f"Heat: {map_name(evidence.source, 'the finding')}, over its own range.")
    if has_boxes:
        parts.append("Blue: the boxes of the finding; grey: those of others.")
    return note(" ".join(parts)) if parts else ""


def notes_on(
    preds: Predictions,
    known: np.ndarray,
    evidence: Evidence,
    images: list[str],
    chosen: Sequence[Case],
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


def case_html(gallery: Gallery, case: Case, title: str = "", *, with_table: bool = True) -> str:
    """Pictures, what was said and whether it is right, names and labels, and the probabilities of each view."""
    scored, preds = gallery.scored, gallery.scored.preds
    name = preds.images[case.row]
    row = scored.rows.iloc[case.row]
    listed = str(row["image"])
    said, kinds = verdict(gallery, case)
    labels = esc(case_pictures.label_text(row))
    if preds.contaminated[case.row]:
        labels += "<br><b>CONTAMINATED: trained on this image or its patient</b>"
    try:
        boxes = gallery.boxes.get(listed, [])
        drawn = case_pictures.draw(str(gallery.paths[case.row]), listed, case.finding, gallery.evidence, boxes)
        pictures = pictures_html(name, drawn)
    except (ValueError, OSError) as error:
        # One file that cannot be read leaves the others their pictures.
        pictures = missing(str(error))
    head = capitalize(said) if title else f"{case.finding}: {said}"
    return (
        f'<article class="case" data-finding="{esc(case.finding)}" data-kinds="{" ".join(kinds)}">{title}'
        f'<div class="pictures">{pictures}</div><p>{esc(head)}</p><p>{esc(name)}<br>Labels: {labels}</p>'
        f"{probability_table(preds, case) if with_table else ''}</article>"
    )


def pictures_html(name: str, drawn: Iterable[case_pictures.CasePicture]) -> str:
    text = ""
    for picture in drawn:
        text += zoomable(image(picture.data, picture.kind, f"{name}: {picture.alt}"))
    return text


def verdict(gallery: Gallery, case: Case) -> tuple[str, list[str]]:
    """In words what the model says of the finding of a case, and the kinds by which the case can be asked for."""
    column = gallery.scored.preds.classes.index(case.finding)
    prob = float(gallery.scored.preds.prob["full"][case.row, column])
    present = bool(gallery.scored.target[case.row, column] == 1)
    truth = "the labels have it" if present else "the labels do not have it"
    rank = f"As high or higher than in {100 * case.rank:.1f} % of the images."
    threshold = gallery.thresholds.get(case.finding)
    if threshold is None:
        return f"probability {prob:.2f}, no threshold; {truth}. {rank}", [case.kind]
    is_called = prob >= threshold
    kind, outcome = OUTCOMES[present, is_called]
    side = "at or above" if is_called else "below"
    called = "called" if is_called else "not called"
    said = f"probability {prob:.2f}, {side} its threshold {threshold:.2f}: {called}; {truth}: {outcome}."
    return f"{said} {rank}", [case.kind, kind]


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
