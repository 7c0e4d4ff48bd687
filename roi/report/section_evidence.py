"""Sections of the report on evidence: does the mask matter, and does it lie where the boxes are?"""

import math
from typing import Any

from roi.report import plots
from roi.report.html import ABSENT, Cell, banner, esc, figures, fold, missing, note, number, shown, table
from roi.report.plots import Curve
from roi.report.run_folder import Run
from roi.scoring import localization
from roi.scoring.map_file import REINIT

# Published localisation on the boxes of ChestX-ray14, mean over its 8 findings: source, values as printed by metric, split
PUBLISHED_PLACE: tuple[tuple[str, dict[str, str], str], ...] = (
    (
        "Grad-CAM++, DenseNet-121, 512 px",
        {"iou@0.1": ".62", "iou@0.3": ".28", "iou@0.5": ".10", "pointing": ".544"},
        "not stated",
    ),
    ("Grad-CAM", {"pointing": ".496"}, "not stated"),
    ("Random map", {"iou@0.1": ".29", "iou@0.3": ".10", "iou@0.5": ".03", "pointing": ".228"}, "not stated"),
)
NAMES = {
    "mask": "ROI mask",
    "class_mask": "Finding's map",
    "cam": "Grad-CAM",
    "random": "Random blobs",
    "centre": "Centre disc",
    "inverted": "Inverted mask",
    "reinit": "Mask, new weights",
    "best_place": "Best fixed place a finding",
    "full": "full view",
    "crop": "crop view",
    "drop": "drop view",
}
PLACES = {
    "pointing": "Pointing",
    "pointing_union": "Pointing, any box",
    "recall": "Recall of the box",
    "precision": "Precision in the box",
    "precision_union": "Precision, any box",
    "centre_small": "Centre, small boxes",
}
LIMITS = {"iou": "IoU", "iobb": "IoBB", "area_iou": "Same area, IoU", "false": "False boxes, IoU"}
# What a control of localisation asks of the map.
ASKED = {
    "shuffled": "Does the map look at its own image? A map that is always the same place has a difference of 0.",
    "best_place": "Does it find more than somebody who knows where the finding usually is, and does not look?",
    "label_place": "The same, of a place that was chosen without any box.",
    "reinit": "Was it the training that made the map?",
    "random": "How large are the boxes?",
    "centre": "How many of the boxes lie in the middle of the image?",
}
ENDS = {"_shuffled": " of another patient's image", "_label_place": ", fixed place by labels", REINIT: ", new weights"}
SHORT = {
    "shuffled": "another patient's map",
    "best_place": "best fixed place",
    "label_place": "place by labels",
    "reinit": "new weights",
    "random": "random blobs",
    "centre": "centre disc",
}
BY_FINDING = ("shuffled", "best_place", "label_place", "random", "centre")
MINUS_BY_FINDING = ("shuffled", "best_place")
# CSS class of a sentence: passed; a map that ignores its image; a bar that is hard to pass.
STYLES = {"above": "honest", "shuffled": "banner", "best_place": "caution"}
COMPARED = (
    "crop",
    "drop",
    "insertion_area",
    "deletion_area",
    "positives",
    "negatives",
)  # figures of a mask and its controls


def faithfulness(run: Run) -> str:
    found = run.metrics.get("faithfulness") or {}
    if not found:
        return missing(
            "No faithfulness: the predictions have no drop view (a model without a mask).",
            "infer_roi_consistency.py with a checkpoint that has a mask",
        )
    sides = [s for s in ("positives", "negatives") if s in found]
    mean = run.metrics["mean"]
    views = [
        [NAMES[v], shown(mean, "auroc" + end), shown(mean, "ap" + end)]
        for v, end in (("full", ""), ("crop", "_crop"), ("drop", "_drop"))
    ]
    classes = [[c, *((found[s].get("per_class") or {}).get(c) for s in sides)] for c in run.metrics["per_class"]]
    parts = [
        table(
            ("View", "AUROC", "Average precision"),
            views,
            "What is left of the skill when only the mask is kept (crop) and when it is removed (drop)",
        ),
        table(
            ("Cases", "Full − drop probability"),
            [[s.capitalize(), found[s].get("mean")] for s in sides],
            "Faithfulness, mean over findings",
        ),
        fold(
            "Faithfulness of each finding", table(["Finding", *(s.capitalize() for s in sides)], classes, sortable=True)
        ),
    ]
    controls = found.get("controls")
    if not controls:
        return "".join(parts) + missing(
            "No controls at the same kept area.",
            "infer_roi_consistency.py … --curves curves.npz, then evaluate.py … --curves curves.npz",
        )
    sources, x = controls["sources"], controls["fractions"]
    heads = (
        "Pixels ranked by",
        "AUROC, kept only",
        "AUROC, removed",
        "Insertion area",
        "Deletion area",
        "Full − drop, positives",
        "Full − drop, negatives",
    )
    rows = [[source_name(s), *(v.get(k) for k in COMPARED)] for s, v in sources.items()]
    parts.append("<h3>Against controls of the same area</h3>")
    if controls.get("contaminated"):
        parts.append(banner("CONTAMINATED: the model of these curves was trained on some of these images or patients."))
    parts.append(
        table(
            heads,
            rows,
            f"{number(controls.get('n_images'))} images, {100 * controls.get('keep_ratio', math.nan):.4g} % of the pixels; mean AUROC",
        )
    )
    minus = (sources.get("mask") or {}).get("minus") or {}
    if minus:
        rows = [[source_name(s), *(v.get(k) for k in COMPARED)] for s, v in minus.items()]
        parts.append(
            table(
                ("ROI mask minus", *heads[1:]), rows, "Paired differences: an interval that holds 0 shows no difference"
            )
        )
    panels = []
    for key, title, axis in (
        ("insertion", "Insertion", "share of the pixels kept"),
        ("deletion", "Deletion", "share of the pixels removed"),
    ):
        curves = [Curve(source_name(s), x, v[key], True) for s, v in sources.items() if v.get(key)]
        alt = f"{title} curves of {', '.join(c.name for c in curves)}; their areas stand in the table."
        panels.append((plots.lines(title, axis, "mean AUROC", curves), alt))
    note_text = "A mask that shows evidence stands above the controls in insertion and below them in deletion. New weights: the mask of a re-initialised model, "
    note_text += "which must score as random blobs do."
    return "".join(parts) + figures(*panels) + note(note_text)


def localisation(run: Run) -> str:
    found = run.metrics.get("localization") or {}
    metrics = ("pointing", "iou@0.1", "iou@0.3", "iou@0.5")
    published = [
        [name, split, *(Cell(v[k], v[k]) if k in v else ABSENT for k in metrics), ABSENT, ABSENT, ABSENT]
        for name, v, split in PUBLISHED_PLACE
    ]
    heads = (
        "Map",
        "Split",
        *map(place_name, metrics),
        "False boxes an image",
        "Recall of the box",
        "Precision in the box",
    )
    after = note(
        "Published rows: mean over the 8 findings with boxes. Hits as Wang et al. 2017 define them; no threshold was tuned on the boxes scored here. "
        "False boxes: detected boxes an image and finding that miss at IoU .1; many boxes hit often."
    )
    if not found:
        made = (
            "infer_roi_consistency.py … --class_masks class_masks.npz --save_masks masks.npz, then "
            "evaluate.py … --masks class_masks.npz masks.npz --bbox_csv BBox_List_2017.csv"
        )
        return (
            missing("No localisation was computed.", made)
            + table(heads, published, "Published", published=len(published))
            + after
        )
    sources = found["sources"]
    split = str(run.metrics.get("split") or "unknown")
    counts = [f"{number(found[k])} {k.removeprefix('n_')}" for k in ("n_boxes", "n_images", "n_patients") if k in found]
    kept = 100 * found.get("keep_ratio", math.nan)
    where = found.get("box_file", "unknown")
    trained = [file for file, facts in (found.get("maps") or {}).items() if facts.get("contaminated")]
    parts = []
    if trained:
        alarm = f"CONTAMINATED: the model of {', '.join(trained)} was trained on some of these images or patients."
        parts.append(banner(alarm))
    if found.get("n_boxes_ambiguous"):
        count = f"{number(found['n_boxes_ambiguous'])} boxes are left out"
        parts.append(note(f"{count}, as their image may be any of several of the table."))
    parts += [note(f"{', '.join(counts)}, from {where}. Masks keep {kept:.4g} % of the pixels.")]
    if found.get("headline"):
        parts += [own_maps(found), by_finding(found), unions(sources)]
    shown_metrics = (*metrics, "false@0.1", "recall", "precision")
    ours = [[source_name(s), split, *(shown(v["mean"], k) for k in shown_metrics)] for s, v in sources.items()]
    parts.append("<h3>Every map beside published figures</h3>")
    parts.append(
        table(heads, [*ours, *published], "Ours, controls, and published rows (grey)", published=len(published))
    )
    parts.append(after)
    minus = []
    for source, block in sources.items():
        for control, values in (block.get("minus") or {}).items():
            name = f"{source_name(source)} − {control_name(source, control)}"
            minus.append([name, *(shown(values, k) for k in (*metrics, "recall", "precision"))])
    if minus:
        columns = ("Difference", *map(place_name, metrics), "Recall of the box", "Precision in the box")
        parts.append(fold("Every map minus its controls", table(columns, minus, "Paired, with intervals")))
    parts.append(fold("Pointing and IoU of each finding", each_finding(sources, metrics)))
    parts.append(fold("Every metric and threshold", every_metric(sources)))
    return "".join(parts)


def own_maps(found: dict[str, Any]) -> str:
    """The headline: the findings' own maps beside what they must beat."""
    head, sources = found["headline"], found["sources"]
    source, per_finding = head["source"], head["kind"] == "finding"
    title = "Does each finding's own map point into its box?"
    if not per_finding:
        title = "Does the one map of all findings point into the box of each?"
    parts = [
        f"<h3>{title}</h3>",
        note(
            "Pointing: the middle of the map's highest cell lies in a box of the finding; mean over findings. The "
            "first two controls decide whether the map is evidence; the others say what is behind the figures."
        ),
    ]
    for said in localization.reading(head):
        style = STYLES["above" if said.verdict == "above" else said.control]
        parts.append(f'<p class="{style}">{esc(said.sentence)}</p>')
    rows: list[list[object]] = [[source_name(source), head["pointing"], ABSENT, ABSENT]]
    dots, apart = [head["pointing"]], []
    names = localization.controls_of(source, sources)
    for control, difference in head["minus"].items():
        pointing = sources[names[control]]["mean"]["pointing"]
        asked = Cell(esc(ASKED[control]), "", "text wrap")
        rows.append([capital(SHORT[control]), pointing, difference, asked])
        dots.append(pointing)
        apart.append(difference)
    parts.append(table(("Map", "Pointing", f"{source_name(source)} minus this", "What the control asks"), rows))
    labels = [source_name(source), *(capital(SHORT[control]) for control in head["minus"])]
    whole = plots.intervals("Pointing into the box", "mean over findings", labels, {"pointing": dots})
    less = plots.intervals("Own map minus control", "mean over findings", labels[1:], {"difference": apart}, mark=0.0)
    parts.append(
        figures(
            (whole, "Pointing of the map and its controls with intervals; the values stand in the table."),
            (less, "Differences between the map and its controls with intervals; the values stand in the table."),
        )
    )
    parts.append(note(how_places_were_chosen(found)))
    return "".join(parts)


def how_places_were_chosen(found: dict[str, Any]) -> str:
    controls = found["controls"]
    text = (
        f"Fixed places: patients are dealt into {controls['folds']} folds; a patient is scored on the cell (of "
        f"{controls['grid']} × {controls['grid']}) that the most boxes of the finding in the other folds contain, mean "
        f"of {controls['deals']} dealings."
    )
    by_labels = controls["label_place"].get(found["headline"]["source"])
    if by_labels:
        text += (
            " By labels alone: the highest cell of the mean map of images with the finding minus that of images "
            f"without it, from {number(by_labels['n_images'])} images ({by_labels['from']})."
        )
    without = controls["best_place"]["pairs_without_place"]
    if without:
        text += (
            f" {number(without)} findings of images have no box in another fold: no best place, and no part in that "
            "difference."
        )
    return text


def by_finding(found: dict[str, Any]) -> str:
    """Pointing of each finding, own map beside controls: what is high on average may be one finding."""
    head, sources = found["headline"], found["sources"]
    names = localization.controls_of(head["source"], sources)
    heads = ["Finding", "Boxes", source_name(head["source"])]
    for control in (control for control in BY_FINDING if control in names):
        heads += [capital(SHORT[control]), *(["minus this"] if control in MINUS_BY_FINDING else [])]

    def line(finding: str | None) -> list[object]:
        """A finding, or the mean over findings."""

        def value(source: str) -> object:
            block = sources[source]
            return (block["per_class"][finding] if finding else block["mean"])["pointing"]["value"]

        own = sources[head["source"]]
        minus = {c: v[finding] if finding else own["minus"][c] for c, v in own["minus_per_class"].items()}
        boxes = found["findings"][finding] if finding else found
        cells: list[object] = [finding or "Mean", boxes["n_boxes"], value(head["source"])]
        for control in (control for control in BY_FINDING if control in names):
            cells += [value(names[control]), *([minus[control]["pointing"]] if control in MINUS_BY_FINDING else [])]
        return cells

    return (
        "<h3>Pointing, finding by finding</h3>"
        + table(heads, map(line, found["findings"]), "Click a header to sort", foot=line(None), sortable=True)
        + note(
            "“minus this”: the own map minus the control, with its interval. Where a control is high, the place of "
            "that finding is known without a look at the image (a heart lies near the middle); there a map shows only "
            "what it has above the control."
        )
    )


def unions(sources: dict[str, Any]) -> str:
    """Maps that serve all findings of an image."""
    names = [name for name, block in sources.items() if block.get("kind") == "union"]
    if not names:
        return ""
    names += [f"{name}_shuffled" for name in names if f"{name}_shuffled" in sources]
    metrics = ("pointing_union", "precision_union", "recall")
    names += ["random", "centre"]
    rows = [[source_name(name), *(shown(sources[name]["mean"], k) for k in metrics)] for name in names]
    return (
        "<h3>The mask: one map for all findings</h3>"
        + note(
            "The mask is a union: it keeps what speaks for any finding. The boxes of NIH mark one finding of several "
            "in an image, so a mask can be right where no box is; these figures are of the union and say nothing of a "
            "single finding."
        )
        + table(("Map", *map(place_name, metrics)), rows)
    )


def each_finding(sources: dict[str, Any], metrics: tuple[str, ...]) -> str:
    """Some metrics of every map that is no control, finding by finding."""
    maps = [name for name, block in sources.items() if block.get("kind") != "control" and not name.endswith(REINIT)]
    findings = dict.fromkeys(finding for name in maps for finding in sources[name]["per_class"])
    rows = []
    for finding in findings:
        values = [sources[name]["per_class"].get(finding, {}).get(metric) for name in maps for metric in metrics]
        rows.append([finding, *values])
    heads = [f"{source_name(name)}: {place_name(metric)}" for name in maps for metric in metrics]
    return table(["Finding", *heads], rows, sortable=True)


def every_metric(sources: dict[str, Any]) -> str:
    every = list(dict.fromkeys(k for block in sources.values() for k in block["mean"]))
    rows = [[place_name(k), *(shown(block["mean"], k) for block in sources.values())] for k in every]
    return table(["Metric", *map(source_name, sources)], rows)


def control_name(source: str, control: str) -> str:
    """Of a row of differences: the same map of another patient, or what every map is compared with."""
    return SHORT[control] if control in SHORT else source_name(control).lower()


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def source_name(source: str) -> str:
    for end, more in ENDS.items():
        if source.endswith(end):
            return source_name(source.removesuffix(end)) + more
    return NAMES.get(source, source)


def place_name(name: str) -> str:
    """'iou@0.3' -> 'IoU > .3'"""
    kind, _, limit = name.partition("@")
    return f"{LIMITS.get(kind, kind)} > {limit.removeprefix('0')}" if limit else PLACES.get(name, name)
