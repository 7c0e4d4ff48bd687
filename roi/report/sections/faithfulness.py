"""Section of the report on faithfulness: does the model need what its mask keeps, more than what a control keeps?"""

import math

from roi.report import plots
from roi.report.html import Block, Drawing, Row, banner, figures, fold, format_number, missing, note, score_of, table
from roi.report.plots import Curve
from roi.report.run_folder import Run
from roi.report.source_names import source_name

# Figures of a mask and its controls -> their columns.
COMPARED = {
    "crop": "AUROC, kept only",
    "drop": "AUROC, removed",
    "insertion_area": "Insertion area",
    "deletion_area": "Deletion area",
    "positives": "Full − drop, positives",
    "negatives": "Full − drop, negatives",
}
CURVES = (
    ("insertion", "Insertion", "share of the pixels kept"),
    ("deletion", "Deletion", "share of the pixels removed"),
)
READING = (
    "A mask that shows evidence stands above the controls in insertion and below them in deletion. New weights: the "
    "mask of a re-initialised model, which must score as random blobs do."
)


def faithfulness(run: Run) -> str:
    block = run.block("faithfulness")
    if not block:
        return missing(
            "No faithfulness: it asks what is left of the skill without what a mask keeps, and these predictions are "
            "of a model without a mask."
        )
    text = skill_by_view(run.metrics["mean"])
    text += drops(block, run.metrics["per_class"])
    controls = block.get("controls")
    if not controls:
        return text + missing(
            "No controls at the same kept area.",
            "infer_roi_consistency.py … --curves curves.npz, then evaluate.py … --curves curves.npz",
        )
    text += control_tables(controls)
    text += figures(perturbation_curves(controls))
    return text + note(READING)


def skill_by_view(mean: Block) -> str:
    rows = []
    for name, suffix in (("full view", ""), ("crop view", "_crop"), ("drop view", "_drop")):
        auroc = score_of(mean, "auroc" + suffix)
        rows.append([name, auroc, score_of(mean, "ap" + suffix)])
    caption = "What is left of the skill when only the mask is kept (crop) and when it is removed (drop)"
    return table(("View", "AUROC", "Average precision"), rows, caption)


def drops(block: Block, per_class: Block) -> str:
    """By how much the probability falls when the mask is removed, for images with a finding and without it."""
    # Positives should need what the mask keeps, negatives should not.
    sides = [side for side in ("positives", "negatives") if side in block]
    means = [[side.capitalize(), block[side].get("mean")] for side in sides]
    rows = []
    for finding in per_class:
        values = [(block[side].get("per_class") or {}).get(finding) for side in sides]
        rows.append([finding, *values])
    heads = ["Finding", *map(str.capitalize, sides)]
    return table(("Cases", "Full − drop probability"), means, "Faithfulness, mean over findings") + fold(
        "Faithfulness of each finding", table(heads, rows, sortable=True)
    )


def control_tables(controls: Block) -> str:
    sources = controls["sources"]
    parts = ["<h3>Against controls of the same area</h3>"]
    # The curves may come from another model than the predictions.
    if controls.get("contaminated"):
        parts.append(banner("CONTAMINATED: the model of these curves was trained on some of these images or patients."))
    images = format_number(controls.get("n_images"))
    kept = 100 * controls.get("keep_ratio", math.nan)
    caption = f"{images} images, {kept:.4g} % of the pixels; mean AUROC"
    parts.append(table(("Pixels ranked by", *COMPARED.values()), compared_rows(sources), caption))
    # Paired, image by image: intervals of the rows above may overlap where a difference is certain.
    minus = (sources.get("mask") or {}).get("minus") or {}
    if minus:
        caption = "Paired differences: an interval that holds 0 shows no difference"
        parts.append(table(("ROI mask minus", *COMPARED.values()), compared_rows(minus), caption))
    return "".join(parts)


def compared_rows(sources: Block) -> list[Row]:
    rows: list[Row] = []
    for source, scores in sources.items():
        rows.append([source_name(source), *map(scores.get, COMPARED)])
    return rows


def perturbation_curves(controls: Block) -> list[Drawing]:
    """Mean AUROC while pixels are added or removed in the order of each source."""
    panels = []
    for key, title, axis in CURVES:
        curves = []
        for source, scores in controls["sources"].items():
            if scores.get(key):
                curves.append(Curve(source_name(source), controls["fractions"], scores[key], dots=True))
        names = ", ".join(curve.name for curve in curves)
        alt = f"{title} curves of {names}; their areas stand in the table."
        panels.append((plots.lines(title, axis, "mean AUROC", curves), alt))
    return panels
