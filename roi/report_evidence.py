"""Sections of the report on evidence: does the mask matter, and does it lie where the boxes are?"""

import math
from collections.abc import Sequence
from typing import Any

from roi import plots
from roi.maps import REINIT
from roi.page import ABSENT, Cell, figures, fold, missing, note, number, shown, table
from roi.plots import Curve
from roi.report_runs import Run

# Published localisation on the boxes of ChestX-ray14, mean over its 8 findings: source, values as printed by metric, split
PUBLISHED_PLACE: tuple[tuple[str, dict[str, str], str], ...] = (
    ("Grad-CAM++, DenseNet-121, 512 px", {"iou@0.1": ".62", "iou@0.3": ".28", "iou@0.5": ".10", "pointing": ".544"}, "not stated"),
    ("Grad-CAM", {"pointing": ".496"}, "not stated"),
    ("Random map", {"iou@0.1": ".29", "iou@0.3": ".10", "iou@0.5": ".03", "pointing": ".228"}, "not stated"),
)
NAMES = {
    "mask": "ROI mask", "class_mask": "Finding's map", "cam": "Grad-CAM", "random": "Random blobs", "centre": "Centre prior",
    "inverted": "Inverted mask", "reinit": "Mask, new weights",
    "full": "full view", "crop": "crop view", "drop": "drop view",
}  # fmt: skip
PLACES = {
    "pointing": "Pointing", "pointing_union": "Pointing, any box", "recall": "Recall of the box", "precision": "Precision in the box",
    "precision_union": "Precision, any box", "centre_small": "Centre, small boxes",
}  # fmt: skip
LIMITS = {"iou": "IoU", "iobb": "IoBB", "area_iou": "Same area, IoU", "false": "False boxes, IoU"}
COMPARED = ("crop", "drop", "insertion_area", "deletion_area", "positives", "negatives")  # figures of a mask and its controls


def faithfulness(run: Run) -> str:
    found = run.metrics.get("faithfulness") or {}
    if not found:
        return missing(
            "No faithfulness: the predictions have no drop view (a model without a mask).", "infer_roi_consistency.py with a checkpoint that has a mask"
        )
    sides = [s for s in ("positives", "negatives") if s in found]
    mean = run.metrics["mean"]
    views = [[NAMES[v], shown(mean, "auroc" + end), shown(mean, "ap" + end)] for v, end in (("full", ""), ("crop", "_crop"), ("drop", "_drop"))]
    classes = [[c, *((found[s].get("per_class") or {}).get(c) for s in sides)] for c in run.metrics["per_class"]]
    parts = [
        table(("View", "AUROC", "Average precision"), views, "What is left of the skill when only the mask is kept (crop) and when it is removed (drop)"),
        table(("Cases", "Full − drop probability"), [[s.capitalize(), found[s].get("mean")] for s in sides], "Faithfulness, mean over findings"),
        fold("Faithfulness of each finding", table(["Finding", *(s.capitalize() for s in sides)], classes, sortable=True)),
    ]
    controls = found.get("controls")
    if not controls:
        return "".join(parts) + missing(
            "No controls at the same kept area.", "infer_roi_consistency.py … --curves curves.npz, then evaluate.py … --curves curves.npz"
        )
    sources, x = controls["sources"], controls["fractions"]
    heads = ("Pixels ranked by", "AUROC, kept only", "AUROC, removed", "Insertion area", "Deletion area", "Full − drop, positives", "Full − drop, negatives")
    rows = [[source_name(s), *(v.get(k) for k in COMPARED)] for s, v in sources.items()]
    parts.append("<h3>Against controls of the same area</h3>")
    parts.append(table(heads, rows, f"{number(controls.get('n_images'))} images, {100 * controls.get('keep_ratio', math.nan):.4g} % of the pixels; mean AUROC"))
    minus = (sources.get("mask") or {}).get("minus") or {}
    if minus:
        rows = [[source_name(s), *(v.get(k) for k in COMPARED)] for s, v in minus.items()]
        parts.append(table(("ROI mask minus", *heads[1:]), rows, "Paired differences: an interval that holds 0 shows no difference"))
    panels = []
    for key, title, axis in (("insertion", "Insertion", "share of the pixels kept"), ("deletion", "Deletion", "share of the pixels removed")):
        curves = [Curve(source_name(s), x, v[key], True) for s, v in sources.items() if v.get(key)]
        alt = f"{title} curves of {', '.join(c.name for c in curves)}; their areas stand in the table."
        panels.append((plots.lines(title, axis, "mean AUROC", curves), alt))
    note_text = (
        "A mask that shows evidence stands above the controls in insertion and below them in deletion. New weights: the mask of a re-initialised model, "
    )
    note_text += "which must score as random blobs do."
    return "".join(parts) + figures(*panels) + note(note_text)


def localisation(run: Run) -> str:
    found = run.metrics.get("localization") or {}
    metrics = ("pointing", "iou@0.1", "iou@0.3", "iou@0.5")
    published = [[name, split, *(Cell(v[k], v[k]) if k in v else ABSENT for k in metrics), ABSENT, ABSENT, ABSENT] for name, v, split in PUBLISHED_PLACE]
    heads = ("Map", "Split", *map(place_name, metrics), "False boxes an image", "Recall of the box", "Precision in the box")
    after = note(
        "Published rows: mean over the 8 findings with boxes. Hits as Wang et al. 2017 define them; no threshold was tuned on the boxes scored here. "
        "False boxes: detected boxes an image and finding that miss at IoU .1; many boxes hit often."
    )
    if not found:
        made = "infer_roi_consistency.py … --save_masks masks.npz, then evaluate.py … --masks masks.npz --bbox_csv BBox_List_2017.csv"
        return missing("No localisation was computed.", made) + table(heads, published, "Published", published=len(published)) + after
    sources = found["sources"]
    split = str(run.metrics.get("split") or "unknown")
    ours = [[source_name(s), split, *(shown(v["mean"], k) for k in (*metrics, "false@0.1", "recall", "precision"))] for s, v in sources.items()]
    counts = ", ".join(f"{number(found[k])} {text}" for k, text in (("n_boxes", "boxes"), ("n_images", "images"), ("n_patients", "patients")) if k in found)
    parts = [note(f"{counts}, from {found.get('box_file', 'unknown')}. Masks keep {100 * found.get('keep_ratio', math.nan):.4g} % of the pixels.")]
    parts.append(table(heads, [*ours, *published], "Ours, controls, and published rows (grey)", published=len(published)))
    parts.append(after)
    seen = [s for s in sources if s not in ("random", "centre") and not s.endswith("_shuffled")] or list(sources)
    dots: dict[str, Sequence[dict[str, Any] | None]] = {place_name(k): [v["mean"].get(k) for v in sources.values()] for k in ("pointing", "iou@0.1")}
    panel = plots.intervals("Localisation and controls", "mean over findings", [source_name(s) for s in sources], dots)
    parts.append(figures((panel, "Pointing and IoU > .1 of each map and control with intervals; the values stand in the table.")))
    minus = [
        [f"{source_name(s)} − {source_name(control).lower()}", *(shown(v, k) for k in (*metrics, "recall", "precision"))]
        for s in seen
        for control, v in (sources[s].get("minus") or {}).items()
    ]
    if minus:
        parts.append(
            table(("Difference", *map(place_name, metrics), "Recall of the box", "Precision in the box"), minus, "Ours minus controls, paired, with intervals")
        )
    scored = [s for s in seen if not s.endswith(REINIT)] or seen
    finding_rows = [
        [c, *(v.get(k) for s in scored for v in [sources[s]["per_class"].get(c, {})] for k in metrics)]
        for c in dict.fromkeys(c for s in scored for c in sources[s].get("per_class", {}))
    ]
    if finding_rows:
        named = [place_name(k) if len(scored) == 1 else f"{source_name(s)}: {place_name(k)}" for s in scored for k in metrics]
        parts.append("<h3>By finding</h3>" + table(["Finding", *named], finding_rows, "Click a header to sort", sortable=True))
    every = list(dict.fromkeys(k for v in sources.values() for k in v["mean"]))
    parts.append(
        fold(
            "Every metric and threshold",
            table(["Metric", *map(source_name, sources)], [[place_name(k), *(shown(v["mean"], k) for v in sources.values())] for k in every]),
        )
    )
    return "".join(parts)


def source_name(source: str) -> str:
    for end, more in (("_shuffled", " of another patient's image"), (REINIT, ", new weights")):
        if source.endswith(end):
            return source_name(source.removesuffix(end)) + more
    return NAMES.get(source, source)


def place_name(name: str) -> str:
    """'iou@0.3' -> 'IoU > .3'"""
    kind, _, limit = name.partition("@")
    return f"{LIMITS.get(kind, kind)} > {limit.removeprefix('0')}" if limit else PLACES.get(name, name)
