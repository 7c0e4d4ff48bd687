"""Sections of the report that compare: another model on the same images, and runs side by side."""

from collections.abc import Sequence

import pandas as pd

from roi.report import plots
from roi.report.html import (
    ABSENT,
    Block,
    Cell,
    Interval,
    Row,
    banner,
    figures,
    format_number,
    missing,
    note,
    score_of,
    table,
)
from roi.report.run_folder import Run
from roi.training.metrics_log import TERMS

# Where a finding has no map of its own.
PLACES_BY = {"mask": " (places by the mask, a union)", "cam": " (places by Grad-CAM)"}
VIEWS = {"full": "auroc", "crop": "auroc_crop", "drop": "auroc_drop"}
HEADS = (
    *("Run", "AUROC", "AUROC, crop", "AUROC, drop", "Faithfulness"),
    *("Pointing", "Pointing minus another patient's", "IoU > .1"),
    *(f"loss {term}" for term in TERMS),
    *("Mask kept", "Images"),
)
NOT_COMPARABLE = (
    '<p class="banner">These runs were not scored on the same images and labels: their rows cannot be compared.</p>'
)


def comparison(run: Run) -> str:
    """This model against another one on the same images; "" where no other was given."""
    block = run.metrics.get("comparison")
    if not block:
        return ""
    text = ""
    if block.get("contaminated"):
        text += banner("CONTAMINATED: the other model was trained on some of these images or patients.")
    text += note(
        f"Difference in AUROC, this run minus {block.get('file', 'unknown')}, "
        f"on the same {format_number(block.get('n_images'))} images, paired."
    )
    rows = []
    for finding, scores in (block.get("per_class") or {}).items():
        auroc = scores.get("auroc")
        p = auroc or {}
        rows.append([finding, auroc, p.get("p"), p.get("p_delong")])
    mean = (block.get("mean") or {}).get("auroc") or {}
    foot = ["Mean", mean, mean.get("p"), ABSENT]
    return text + table(("Finding", "Difference", "p, bootstrap", "p, DeLong"), rows, foot=foot, sortable=True)


def ablation(runs: Sequence[Run]) -> str:
    """The runs of a study, a row each."""
    names = distinct_names(runs)
    rows = [ablation_row(run, name) for run, name in zip(runs, names, strict=True)]
    # It is said and not refused: runs of several splits may be shown side by side on purpose.
    text = "" if are_comparable(runs) else NOT_COMPARABLE
    # The first run's own sections say what of it is left out.
    for run in runs[1:]:
        text += run.left_out(*run.problems)
    text += table(HEADS, rows, "Click a header to sort", sortable=True)
    text += note(
        "Losses and mask area of the last epoch; faithfulness on positives; pointing of each finding's own map. "
        f"{ABSENT}: not part of the run or not computed."
    )
    without = [name for run, name in zip(runs, names, strict=True) if run.log is None]
    if without:
        command = "train_roi_baselines.py … --log_csv RUN/train_metrics.csv"
        text += missing(f"No training log, so no losses: {', '.join(without)}.", command)
    panel = plots.intervals("Mean AUROC by view", "mean AUROC", names, auroc_by_view(runs))
    alt = "Mean AUROC of each run, full, crop and drop view; the values stand in the table."
    return text + figures([(panel, alt)])


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """A name a run, with its folder where several have the same flags."""
    plain = [run.name for run in runs]
    names = []
    for run in runs:
        name = run.name
        if plain.count(name) > 1:
            name += f" ({run.folder.name})"
        if run.metrics["contaminated"]:
            name += " CONTAMINATED"
        names.append(name)
    return names


def are_comparable(runs: Sequence[Run]) -> bool:
    """The same number of images of the same split, with the same labels."""
    scored = set()
    for run in runs:
        metrics = run.metrics
        scored.add((metrics["n_images"], metrics.get("split"), metrics.get("label_source")))
    return len(scored) == 1


def ablation_row(run: Run, name: str) -> Row:
    metrics = run.metrics
    # The place of the run's headline, whichever source that is: its name says so.
    localization = metrics.get("localization") or {}
    head = localization.get("headline") or {"source": None, "minus": {}}
    places = localization["sources"][head["source"]]["mean"] if head["source"] else {}
    faithfulness = (metrics.get("faithfulness") or {}).get("positives", {})
    return [
        name + PLACES_BY.get(head["source"], ""),
        *(score_of(metrics["mean"], score) for score in VIEWS.values()),
        score_of(faithfulness, "mean"),
        score_of(places, "pointing"),
        score_of(head["minus"], "shuffled"),
        score_of(places, "iou@0.1"),
        *last_losses(run),
        metrics["n_images"],
    ]


def last_losses(run: Run) -> Row:
    """Each loss term and the area of the mask in the last epoch; ABSENT where the log has none."""
    last: Block = {}
    if run.log is not None:
        last = {str(column): value for column, value in run.log.iloc[-1].items()}
    cells: Row = []
    for column in (*(f"loss_{term}" for term in TERMS), "mask_kept"):
        if column in last and pd.notna(last[column]):
            value = float(last[column])
            cells.append(Cell(f"{value:.4g}", repr(value)))
        else:
            cells.append(ABSENT)
    return cells


def auroc_by_view(runs: Sequence[Run]) -> dict[str, Sequence[Interval | None]]:
    """View -> mean AUROC of each run, for the views that any of them has."""
    values: dict[str, Sequence[Interval | None]] = {}
    for view, score in VIEWS.items():
        if any(score in run.metrics["mean"] for run in runs):
            values[view] = [run.metrics["mean"].get(score) for run in runs]
    return values
