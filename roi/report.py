"""The report: run folders with metrics.json -> one HTML page that needs nothing but itself.

What is not there makes its section say so, with the command that makes it.
V is {"value", "low", "high"}, each a number or null, as evaluate.py writes it.
"""

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi import gallery, plots, predictions
from roi.boxes import read_boxes
from roi.images import locate
from roi.log import TERMS
from roi.maps import REINIT, read_maps
from roi.page import ABSENT, CSS, POLICY, SCRIPT, Cell, card, defined, esc, figures, fold, image, interval, missing, note, number, table
from roi.plots import Curve
from roi.table import image_keys, read_table, target_matrix

COMPARED = ("crop", "drop", "insertion_area", "deletion_area", "positives", "negatives")  # figures of a mask and its controls
ROOT = Path(__file__).resolve().parent.parent

# Published mean AUROC over the 14 findings of ChestX-ray14: source, value as printed, split
TRAINED_ON = {
    True: "the checkpoint was trained on some of them",
    False: "none of these images or patients was trained on",
    None: "whether the model was trained on them is not known: the predictions do not say",
}
PUBLISHED_AUROC = (
    ("Wang et al. 2017", ".7451", "official"), ("Yao et al. 2018", ".761", "official"), ("Guendel et al. 2018", ".807", "official"),
    ("DenseNet-121, 224 px", ".8025", "official"), ("DenseNet-121, 512 px", ".8171", "official"), ("ConvNeXtV2-B, 512 px", ".825", "official"),
    ("CheXNet (Rajpurkar et al. 2017)", ".8414", "own"), ("Reproduction of CheXNet", ".8383", "own"),
)  # fmt: skip
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
SCORES = {
    "auroc": "AUROC", "ap": "Average precision", "auroc_crop": "AUROC, crop only", "auroc_drop": "AUROC, mask dropped", "ap_crop": "AP, crop only",
    "ap_drop": "AP, mask dropped", "f1": "F1", "precision": "Precision", "recall": "Recall", "specificity": "Specificity", "youden": "Youden J",
    "brier": "Brier",
}  # fmt: skip
PLACES = {
    "pointing": "Pointing", "pointing_union": "Pointing, any box", "recall": "Recall of the box", "precision": "Precision in the box",
    "precision_union": "Precision, any box", "centre_small": "Centre, small boxes",
}  # fmt: skip
LIMITS = {"iou": "IoU", "iobb": "IoBB", "area_iou": "Same area, IoU", "false": "False boxes, IoU"}
EVALUATE = "evaluate.py --preds preds.json --csv nih_roi_test.csv --out scores"


@dataclass
class Run:
    folder: Path
    name: str
    metrics: dict[str, Any]
    log: pd.DataFrame | None  # columns of roi/log.py, a row an epoch
    log_file: str  # where it was read, or why there is none

    def find(self, file: str | None) -> Path | None:
        """A path of metrics.json: from the current folder, else from the run's; None where there is no such file."""
        candidates = [Path(file), self.folder / file] if file else []
        return next((p for p in candidates if p.exists()), None)


def read_run(path: str | Path) -> Run:
    """A run folder (DIR/scores/metrics.json or DIR/metrics.json), or the file itself. ValueError: there is none, or it is not one."""
    path = Path(path)
    files = [path / "scores" / "metrics.json", path / "metrics.json"] if path.is_dir() else [path]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise ValueError(f"{path}: no scores/metrics.json there (--runs); make it with {EVALUATE.replace('--out scores', f'--out {path}/scores')}")
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
        for key in ("mean", "per_class"):
            if not isinstance(metrics[key], dict) or not all(isinstance(v, dict) for v in metrics[key].values()):
                raise TypeError(f"{key!r} is not an object of objects")
        for key in ("calibration", "subgroups", "comparison", "faithfulness", "localization", "predictions", "inputs"):
            if not isinstance(metrics.get(key) or {}, dict):
                raise TypeError(f"{key!r} is not an object")
        _ = int(metrics["n_images"]), metrics["contaminated"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: not a metrics.json of evaluate.py ({type(error).__name__}: {error})") from error
    folder = file.parent.parent if file.parent.name == "scores" else file.parent
    run = Run(folder, run_name(metrics, folder), metrics, None, "")
    flagged = (metrics.get("predictions") or {}).get("args", {}) or {}
    for log in (folder / "train_metrics.csv", folder / "metrics.csv", run.find(flagged.get("log_csv"))):
        if log is not None and log.is_file():
            run.log_file = str(log)
            try:
                table = pd.read_csv(log)
                run.log = table if "epoch" in table and len(table) else None
            except (ValueError, OSError):
                run.log = None
            break
    return run


def run_name(metrics: dict[str, Any], folder: Path) -> str:
    """What the training flags call it: the mode, or the kind of mask and the terms left out; else the folder's name."""
    args = (metrics.get("predictions") or {}).get("args") or {}
    if args.get("mode"):
        return str(args["mode"])
    if args.get("mask"):
        return f"{args['mask']} mask" + (f" without {', '.join(args['without'])}" if args.get("without") else "")
    return folder.resolve().name


# --- pieces of HTML ---


def source_name(source: str) -> str:
    for end, more in (("_shuffled", " of another patient's image"), (REINIT, ", new weights")):
        if source.endswith(end):
            return source_name(source.removesuffix(end)) + more
    return NAMES.get(source, source)


def score_name(name: str) -> str:
    return SCORES.get(name, name)


def place_name(name: str) -> str:
    """'iou@0.3' -> 'IoU > .3'"""
    kind, _, limit = name.partition("@")
    return f"{LIMITS.get(kind, kind)} > {limit.removeprefix('0')}" if limit else PLACES.get(name, name)


def shown(mean: dict[str, Any], name: str) -> object:
    """A score of a run: itself, undefined, or ABSENT."""
    return mean.get(name, ABSENT)


# --- sections, in the order of the page ---


def headline(run: Run) -> str:
    m, mean = run.metrics, run.metrics["mean"]
    faith = (m.get("faithfulness") or {}).get("positives", {}).get("mean")
    sources = (m.get("localization") or {}).get("sources", {})
    cards = [(score_name(k), mean.get(k)) for k in ("auroc", "ap", "auroc_crop", "auroc_drop", "f1") if k in mean]
    cards += [("Faithfulness, positives", faith)] if faith is not None else []
    cards += [(f"Pointing, {source_name(s)}", sources[s]["mean"].get("pointing")) for s in ("mask", "cam") if s in sources]
    parts = []
    if m["contaminated"]:
        parts.append(
            '<p class="banner" role="alert">CONTAMINATED: the checkpoint was trained on images or patients scored here. These are not test scores.</p>'
        )
    patients = f" of {number(m['n_patients'])} patients" if "n_patients" in m else ""
    trained = TRAINED_ON[m["contaminated"]]
    parts.append(
        f'<p class="{"honest" if m["contaminated"] is False else "missing"}">Scored on {number(m["n_images"])} images{patients}; '
        f"split: <b>{esc(m.get('split') or 'unknown')}</b>; "
        f"labels: <b>{esc(m.get('label_source', 'unknown'))}</b>; {trained}.</p>"
    )
    if m.get("classes_not_predicted"):
        parts.append(note(f"Findings of the table that are not predicted: {', '.join(map(str, m['classes_not_predicted']))}."))
    parts.append('<div class="cards">' + "".join(card(name, v) for name, v in cards) + "</div>")
    parts.append(note("Means over findings; brackets: 95 % intervals, patients drawn with replacement. A score without both classes is undefined."))
    ours: list[list[object]] = [[run.name + " (this run)", str(m.get("split") or "unknown"), shown(mean, "auroc")]]
    rows = ours + [[name, f"{split} split", Cell(value, value)] for name, value, split in PUBLISHED_AUROC]
    parts.append(table(("Model", "Split", "Mean AUROC"), rows, "Beside published mean AUROC on ChestX-ray14", published=len(PUBLISHED_AUROC)))
    parts.append(note("Only rows of the same split and label file can be compared; those with a split of their own were scored on other images."))
    return "".join(parts)


def training(run: Run) -> str:
    if run.log is None:
        why = f"{run.log_file} is not a log of training." if run.log_file else f"There is no train_metrics.csv or metrics.csv in {run.folder}."
        return missing(why, f"train_roi_consistency.py … --log_csv {run.folder}/train_metrics.csv")
    log = run.log
    epochs = log["epoch"].tolist()
    panels = []
    for title, columns, log_scale in (
        ("Losses", {"loss": "total", **{f"loss_{t}": t for t in TERMS}, "val_loss": "validation"}, True),
        ("Weights of the losses", {f"w_{t}": t for t in TERMS}, True),
        ("Area of the mask", {"mask_mean": "soft, mean", "mask_kept": "hard, kept"}, False),
        ("Validation AUROC", {"val_auroc": "mean over findings"}, False),
    ):
        curves = [Curve(name, epochs, numbers(log[c]), True) for c, name in columns.items() if c in log and log[c].notna().any()]
        if curves:
            last = ", ".join(f"{c.name} {next((f'{v:.4g}' for v in reversed(c.y) if v is not None), 'undefined')}" for c in curves)
            panels.append(
                (plots.lines(title, "epoch", "share of the pixels" if "mask" in title else "", curves, log=log_scale), f"{title} by epoch. Last: {last}.")
            )
        else:
            panels.append((b"", title))
    lacking = [title for data, title in panels if not data]
    return (
        figures(*(p for p in panels if p[0]))
        + note(f"{len(log)} epochs, from {run.log_file}. Losses and weights on a logarithmic axis (a value of 0 is not drawn).")
        + (
            missing(f"Not in this log: {', '.join(lacking)} (a run without a mask has no mask area, one without validation images no validation AUROC).")
            if lacking
            else ""
        )
    )


def numbers(column: pd.Series) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in pd.to_numeric(column, errors="coerce")]


def per_finding(run: Run) -> str:
    classes, mean = run.metrics["per_class"], run.metrics["mean"]
    names = [n for n in ("auroc", "auroc_delong", "ap", "f1", "precision", "recall", "specificity") if n in mean or any(n in v for v in classes.values())]
    heads = ["Finding", "Positives", *("DeLong interval" if n == "auroc_delong" else score_name(n) for n in names)]
    limits = any("threshold" in v and v["threshold"] is not None for v in classes.values())

    def delong(v: dict[str, Any] | None) -> object:
        if v is None:
            return ABSENT
        low, high = v.get("low"), v.get("high")
        return Cell(f"[{low:.3f}, {high:.3f}]", repr(low)) if defined(low) and defined(high) else None

    def row(c: str, v: dict[str, Any]) -> list[object]:
        values = [delong(v.get(n)) if n == "auroc_delong" else shown(v, n) for n in names]
        return [c, v.get("positives", ABSENT), *values, *([v.get("threshold")] if limits else [])]

    foot = ["Mean", "", *(ABSENT if n == "auroc_delong" else shown(mean, n) for n in names), *([""] if limits else [])]
    parts = [table([*heads, *(["Threshold"] if limits else [])], [row(c, v) for c, v in classes.items()], "Click a header to sort", foot=foot, sortable=True)]
    if limits:
        given = run.metrics.get("thresholds") or {}
        parts.append(note(f"Thresholds: {given.get('rule', 'unknown rule')}, chosen on {given.get('file', 'unknown')}."))
        micro = run.metrics.get("micro") or {}
        if micro:
            heads = [score_name(k) for k in micro] + (["Hamming accuracy"] if "hamming" in run.metrics else [])
            values = [*micro.values(), *([run.metrics["hamming"]] if "hamming" in run.metrics else [])]
            parts.append(table(["Over all cells", *heads], [["micro", *values]]))
    else:
        parts.append(
            missing("No thresholds, so no F1, precision, recall and specificity.", f"{EVALUATE} --threshold_preds val_preds.json --threshold_csv val.csv")
        )
    panels = []
    for key, title, x, y in (("roc", "ROC curves", "false positive rate", "true positive rate"), ("pr", "Precision and recall", "recall", "precision")):
        curves = [Curve(plots.short(c), *v[key]) for c, v in classes.items() if v.get(key) and len(v[key][0])]
        if curves:
            panels.append(
                (plots.lines(title, x, y, curves, square=True, diagonal=key == "roc"), f"{title} of {len(curves)} findings; their areas stand in the table.")
            )
        else:
            parts.append(missing(f"{title}: metrics.json holds none.", EVALUATE))
    return "".join(parts) + figures(*panels)


def calibration(run: Run) -> str:
    found = run.metrics.get("calibration") or {}
    methods = found.get("methods") or {}
    if not methods:
        return missing("No calibration was computed.", EVALUATE)
    order: list[str] = [m for m in ("raw", "temperature", "platt") if m in methods] + [m for m in methods if m not in ("raw", "temperature", "platt")]
    title: dict[str, str] = {"raw": "as predicted", "temperature": "temperature", "platt": "Platt"}
    bins = {m: [b for b in methods[m].get("reliability") or [] if b[2]] for m in order}
    curves = [Curve(title.get(m, m), [b[0] for b in bins[m]], [b[1] for b in bins[m]], dots=True) for m in order if bins[m]]
    rows = [[title.get(m, m), *((methods[m].get("mean") or {}).get(k) for k in ("ece", "brier"))] for m in order]
    text = f"Fitted on {found['fitted_on']}." if found.get("fitted_on") else "As predicted: nothing was fitted."
    alt = "Reliability: observed rate against mean probability. " + "; ".join(f"{r[0]}: ECE {number(r[1])}" for r in rows)
    heads = ["Finding", *(f"{k}, {title.get(m, m)}" for m in order for k in ("ECE", "Brier"))]
    per_class = [[c, *((methods[m].get("per_class") or {}).get(c, {}).get(k) for m in order for k in ("ece", "brier"))] for c in run.metrics["per_class"]]
    return (
        note(text + " Bins pool all findings; ECE and Brier are means over findings.")
        + table(("Probabilities", "ECE", "Brier"), rows)
        + (figures((plots.lines("Reliability", "mean probability of the bin", "observed rate", curves, square=True, diagonal=True), alt)) if curves else "")
        + fold("Calibration of each finding", table(heads, per_class, sortable=True))
        + ("" if len(order) > 1 else missing("No temperature or Platt scaling.", f"{EVALUATE} --threshold_preds val_preds.json --threshold_csv val.csv"))
    )


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
        rows = read_table(table_file)
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
    legend = ["Orange: what the mask keeps; beside it the crop, its dropped pixels in mean grey."] if evidence.source == "mask" else []
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


def subgroups(run: Run) -> str:
    found = run.metrics.get("subgroups") or {}
    if not found:
        return missing("No subgroups: the table has no view, sex or age.", "make_chexmultimodal_csv.py, then " + EVALUATE)
    parts, panels = [], []
    for by, values in found.items():
        groups, gap = values.get("groups") or {}, values.get("gap") or {}
        rows = [[name, *(v.get(k) for k in ("n_images", "n_patients", "auroc"))] for name, v in groups.items()]
        parts.append(f"<h3>{esc(str(by).capitalize())}</h3>" + table(("Group", "Images", "Patients", "AUROC"), rows))
        if gap:
            parts.append(f"<p>Gap, {esc(gap.get('best'))} over {esc(gap.get('worst'))}: <b>{interval(gap)}</b>.</p>")
        if "findings" in values:
            parts.append(note(f"Mean over these findings: {', '.join(map(str, values['findings'])) or 'none'}."))
        if groups:
            panel = plots.intervals(f"AUROC by {by}", "mean AUROC", list(map(str, groups)), {"AUROC": [v.get("auroc") for v in groups.values()]})
            panels.append((panel, f"AUROC by {by}: " + "; ".join(f"{name} {interval(v.get('auroc'))}" for name, v in groups.items())))
    return "".join(parts) + figures(*panels)


def comparison(run: Run) -> str:
    found = run.metrics["comparison"]
    rows = [[c, v.get("auroc"), (v.get("auroc") or {}).get("p"), (v.get("auroc") or {}).get("p_delong")] for c, v in (found.get("per_class") or {}).items()]
    mean = (found.get("mean") or {}).get("auroc") or {}
    text = f"Difference in AUROC, this run minus {found.get('file', 'unknown')}, on the same {number(found.get('n_images'))} images, paired."
    return note(text) + table(("Finding", "Difference", "p, bootstrap", "p, DeLong"), rows, foot=["Mean", mean, mean.get("p"), ABSENT], sortable=True)


def ablation(runs: Sequence[Run]) -> str:
    heads = ["Run", "AUROC", "AUROC, crop", "AUROC, drop", "Faithfulness", "Pointing", "IoU > .1", *(f"loss {t}" for t in TERMS), "Mask kept", "Images"]
    rows: list[list[object]] = []
    names = [f"{run.name} ({run.folder.name})" if sum(r.name == run.name for r in runs) > 1 else run.name for run in runs]
    for run, name in zip(runs, names, strict=True):
        m = run.metrics
        sources = (m.get("localization") or {}).get("sources", {})
        source = next((s for s in ("mask", "cam") if s in sources), None)
        place = sources[source]["mean"] if source else {}
        last: dict[str, Any] = {} if run.log is None else {str(c): v for c, v in run.log.iloc[-1].items()}
        losses = [float(last[c]) if c in last and pd.notna(last[c]) else ABSENT for c in (*(f"loss_{t}" for t in TERMS), "mask_kept")]
        faith = (m.get("faithfulness") or {}).get("positives", {})
        rows.append([
            name + (" CONTAMINATED" if m["contaminated"] else "") + (" (places by Grad-CAM)" if source == "cam" else ""),
            *(shown(m["mean"], k) for k in ("auroc", "auroc_crop", "auroc_drop")), shown(faith, "mean"), shown(place, "pointing"), shown(place, "iou@0.1"),
            *(Cell(f"{v:.4g}", repr(v)) if isinstance(v, float) else v for v in losses), m["n_images"],
        ])  # fmt: skip
    groups = {"full": "auroc", "crop": "auroc_crop", "drop": "auroc_drop"}
    values: dict[str, Sequence[dict[str, Any] | None]] = {
        name: [run.metrics["mean"].get(k) for run in runs] for name, k in groups.items() if any(k in r.metrics["mean"] for r in runs)
    }
    same = len({(r.metrics["n_images"], r.metrics.get("split"), r.metrics.get("label_source")) for r in runs}) == 1
    without = [name for run, name in zip(runs, names, strict=True) if run.log is None]
    return (
        ("" if same else '<p class="banner">These runs were not scored on the same images and labels: their rows cannot be compared.</p>')
        + table(heads, rows, "Click a header to sort", sortable=True)
        + note(f"Losses and mask area of the last epoch; faithfulness on positives. {ABSENT}: not part of the run or not computed.")
        + (missing(f"No training log, so no losses: {', '.join(without)}.", "train_roi_baselines.py … --log_csv RUN/train_metrics.csv") if without else "")
        + figures(
            (
                plots.intervals("Mean AUROC by view", "mean AUROC", names, values),
                "Mean AUROC of each run, full, crop and drop view; the values stand in the table.",
            )
        )
    )


def configuration(run: Run) -> str:
    m, made = run.metrics, run.metrics.get("predictions") or {}
    given = m.get("inputs") or {}
    facts: list[tuple[str, object]] = [
        ("Images", m["n_images"]), ("Patients", m.get("n_patients")), ("Classes", len(m["per_class"])), ("Split", m.get("split")),
        ("Labels", m.get("label_source")),
        *((f"Input: {k}", ", ".join(map(str, v)) if isinstance(v, list) else v) for k, v in given.items() if v),
        ("Checkpoint", made.get("checkpoint")), ("Epoch", made.get("epoch")), ("Share of pixels kept", made.get("keep_ratio")),
        ("Versions", ", ".join(f"{k} {v}" for k, v in made["versions"].items()) if isinstance(made.get("versions"), dict) else made.get("versions")),
        ("Commit of the code that made this page", commit()), ("Command of the predictions", made.get("command")), ("Command of the scores", m.get("command")),
        ("Command of this page", shlex.join(sys.argv)),
    ]  # fmt: skip

    def lines(pairs: Iterable[tuple[str, object]]) -> list[list[object]]:
        return [[k, Cell(f"<code>{esc('unknown' if v is None else v)}</code>", "", "text wrap")] for k, v in pairs]

    flags = made.get("args")
    args = table(("Flag", "Value"), lines((f"--{k}", json.dumps(v) if not isinstance(v, str) else v) for k, v in flags.items())) if flags else ""
    return table(("What", "Value"), lines(facts)) + (
        fold("Training flags", args) if args else missing("The training flags are not known: these predictions say nothing of their checkpoint.")
    )


def commit() -> str:
    """Of the project's own repository, with a mark where tracked files differ from it; 'unknown' outside one."""
    try:
        said = [
            subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            for command in (["rev-parse", "--show-toplevel"], ["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return (said[1] + (" with uncommitted changes" if said[2] else "")) if Path(said[0]) == ROOT else "unknown"


def page(runs: Sequence[Run], image_root: str | None = None, count: int = 24, title: str = "Evidence report") -> str:
    """The whole page; the first run in full, all of them in the ablation table where there are several."""
    run = runs[0]
    sections: list[tuple[str, str, str]] = [
        ("scores", "Scores and split", headline(run)), ("training", "Training", training(run)), ("findings", "Findings", per_finding(run)),
        ("calibration", "Calibration", calibration(run)), ("faithfulness", "Faithfulness against controls", faithfulness(run)),
        ("localisation", "Localisation", localisation(run)), ("gallery", "Gallery", cases(run, image_root, count)), ("subgroups", "Subgroups", subgroups(run)),
        *([("comparison", "Comparison", comparison(run))] if run.metrics.get("comparison") else []),
        *([("ablation", "Runs side by side", ablation(runs))] if len(runs) > 1 else []),
        ("configuration", "Configuration", configuration(run)),
    ]  # fmt: skip
    nav = "".join(f'<a href="#{key}">{esc(name)}</a>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}"><h2>{esc(name)}</h2>{content}</section>' for key, name, content in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{esc(title)}</title><style>{CSS}</style></head>\n'
        f'<body><header><h1>{esc(title)}</h1><p class="note">Run: {esc(run.name)}, {esc(run.folder)}'
        + (f"; beside {len(runs) - 1} other{'s' if len(runs) > 2 else ''}" if len(runs) > 1 else "")
        + f"</p><nav>{nav}</nav></header>\n<main>{body}</main>\n<script>{SCRIPT}</script></body></html>\n"
    )
