"""Section of the report on localisation: do the maps lie where radiologists drew boxes?"""

import math

from roi.report import plots
from roi.report.html import (
    ABSENT,
    Block,
    Cell,
    Row,
    banner,
    esc,
    figures,
    fold,
    format_number,
    missing,
    note,
    score_of,
    table,
)
from roi.report.run_folder import Run
from roi.report.source_names import capitalize, metric_name, source_name
from roi.scoring import localization
from roi.scoring.map_file import REINIT

# Published localisation on the boxes of ChestX-ray14, mean over its 8 findings: source, values as printed by metric,
# split.
PUBLISHED_PLACE: tuple[tuple[str, dict[str, str], str], ...] = (
    (
        "Grad-CAM++, DenseNet-121, 512 px",
        {"iou@0.1": ".62", "iou@0.3": ".28", "iou@0.5": ".10", "pointing": ".544"},
        "not stated",
    ),
    ("Grad-CAM", {"pointing": ".496"}, "not stated"),
    ("Random map", {"iou@0.1": ".29", "iou@0.3": ".10", "iou@0.5": ".03", "pointing": ".228"}, "not stated"),
)
# What a control asks of the map.
ASKED = {
    "shuffled": "Does the map look at its own image? A map that is always the same place has a difference of 0.",
    "best_place": "Does it find more than somebody who knows where the finding usually is, and does not look?",
    "label_place": "The same, of a place that was chosen without any box.",
    "reinit": "Was it the training that made the map?",
    "random": "How large are the boxes?",
    "centre": "How many of the boxes lie in the middle of the image?",
}
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
# Published rows have these metrics; our own have the others too.
HITS = ("pointing", "iou@0.1", "iou@0.3", "iou@0.5")
COVER = ("recall", "precision")
MAKE_MAPS = (
    "infer_roi_consistency.py … --class_masks class_masks.npz --save_masks masks.npz, then "
    "evaluate.py … --masks class_masks.npz masks.npz --bbox_csv BBox_List_2017.csv"
)
MAKE_CAM = "infer_roi_consistency.py … --cam cam.npz, then evaluate.py … --masks cam.npz --bbox_csv BOXES.csv"
OFFICIAL_BOXES = 984  # of ChestX-ray14, BBox_List_2017.csv
PUBLISHED_ROWS = "Published rows: mean over the 8 findings with boxes."
WITHOUT_PUBLISHED = (
    f"Published rows stand here where the official test list and its {OFFICIAL_BOXES} boxes were scored."
)
HOW_SCORED = (
    "Hits as Wang et al. 2017 define them; no threshold was tuned on the boxes scored here. False boxes: detected "
    "boxes an image and finding that miss at IoU .1; many boxes hit often."
)


def localisation(run: Run) -> str:
    """The findings' own maps beside what they must beat, then every map beside published figures."""
    block = run.block("localization")
    if not block:
        if run.has_mask:
            return missing("No localisation was computed.", MAKE_MAPS)
        why = "No localisation was computed: this model has no mask and no map of its own, but Grad-CAM can be scored."
        return missing(why, MAKE_CAM)
    sources = block["sources"]
    parts = provenance(block)
    # null where metrics.json compares no map of this model with its controls.
    if block.get("headline"):
        parts += [own_maps(block), by_finding(block), unions(sources)]
    official = run.on_official_test and block.get("n_boxes_in_file") == OFFICIAL_BOXES
    beside = "Every map beside published figures" if official else "Every map beside its controls"
    parts.append(f"<h3>{beside}</h3>")
    # A split of one's own cannot be compared: it stands beside each figure.
    split = str(run.metrics.get("split") or "unknown")
    rows = [all_scores(source, split, sources[source]["mean"]) for source in sources]
    parts.append(every_map(rows, official))
    parts.append(note(f"{PUBLISHED_ROWS} {HOW_SCORED}" if official else f"{HOW_SCORED} {WITHOUT_PUBLISHED}"))
    differences = differences_to_controls(sources)
    if differences:
        columns = ("Difference", *map(metric_name, HITS), "Recall of the box", "Precision in the box")
        parts.append(fold("Every map minus its controls", table(columns, differences, "Paired, with intervals")))
    parts.append(fold("Pointing and IoU of each finding", each_finding(sources)))
    parts.append(fold("Every metric and threshold", every_metric(sources)))
    return "".join(parts)


def provenance(block: Block) -> list[str]:
    """What was scored: boxes, images, and what of them is odd."""
    parts = []
    # A file of maps may come from another model than the predictions.
    files = block.get("maps") or {}
    trained = [file for file, facts in files.items() if facts.get("contaminated")]
    if trained:
        alarm = f"CONTAMINATED: the model of {', '.join(trained)} was trained on some of these images or patients."
        parts.append(banner(alarm))
    if block.get("n_boxes_ambiguous"):
        count = f"{format_number(block['n_boxes_ambiguous'])} boxes are left out"
        parts.append(note(f"{count}, as their image may be any of several of the table."))
    counts = []
    for key in ("n_boxes", "n_images", "n_patients"):
        if key in block:
            name = key.removeprefix("n_")
            counts.append(f"{format_number(block[key])} {name}")
    kept = 100 * block.get("keep_ratio", math.nan)
    file = block.get("box_file", "unknown")
    scored = ", ".join(counts)
    parts.append(note(f"{scored}, from {file}. Masks keep {kept:.4g} % of the pixels."))
    return parts


def all_scores(source: str, split: str, mean: Block) -> Row:
    metrics = (*HITS, "false@0.1", *COVER)
    return [source_name(source), split, *scores_of(mean, metrics)]


def scores_of(mean: Block, metrics: tuple[str, ...]) -> Row:
    return [score_of(mean, metric) for metric in metrics]


def every_map(rows: list[Row], official: bool) -> str:
    """Rows of our own; where the official boxes were scored above the published ones, printed as their papers do."""
    heads = (
        "Map",
        "Split",
        *map(metric_name, HITS),
        "False boxes an image",
        "Recall of the box",
        "Precision in the box",
    )
    published: list[Row] = []
    for name, values, split in PUBLISHED_PLACE if official else ():
        row: Row = [name, split]
        for metric in HITS:
            value = values.get(metric)
            row.append(Cell(value, value) if value else ABSENT)
        published.append([*row, ABSENT, ABSENT, ABSENT])
    caption = "Ours, controls, and published rows (grey)" if official else "Ours and their controls"
    return table(heads, [*rows, *published], caption, published=len(published))


def differences_to_controls(sources: Block) -> list[Row]:
    rows: list[Row] = []
    for source, block in sources.items():
        for control, values in (block.get("minus") or {}).items():
            name = f"{source_name(source)} − {control_name(control)}"
            rows.append([name, *scores_of(values, (*HITS, *COVER))])
    return rows


def own_maps(block: Block) -> str:
    """The headline: the findings' own maps beside what they must beat."""
    head, sources = block["headline"], block["sources"]
    source = head["source"]
    title = "Does each finding's own map point into its box?"
    if head["kind"] != "finding":
        title = "Does the one map of all findings point into the box of each?"
    explanation = (
        "Pointing: the middle of the map's highest cell lies in a box of the finding; mean over findings. The "
        "first two controls decide whether the map is evidence; the others say what is behind the figures."
    )
    parts = [f"<h3>{title}</h3>", note(explanation)]
    # In words, coloured by what they say, as a table of differences is easily read too kindly.
    for reading in localization.reading(head):
        style = STYLES["above" if reading.verdict == "above" else reading.control]
        parts.append(f'<p class="{style}">{esc(reading.sentence)}</p>')
    rows: list[Row] = [[source_name(source), head["pointing"], ABSENT, ABSENT]]
    labels = [source_name(source)]
    values = [head["pointing"]]
    differences = []
    names = localization.controls_of(source, sources)
    for control, difference in head["minus"].items():
        pointing = sources[names[control]]["mean"]["pointing"]
        question = Cell(esc(ASKED[control]), "", "text wrap")
        label = capitalize(SHORT[control])
        rows.append([label, pointing, difference, question])
        labels.append(label)
        values.append(pointing)
        differences.append(difference)
    heads = ("Map", "Pointing", f"{source_name(source)} minus this", "What the control asks")
    parts.append(table(heads, rows))
    axis = "mean over findings"
    absolute = plots.intervals("Pointing into the box", axis, labels, {"pointing": values})
    relative = plots.intervals("Own map minus control", axis, labels[1:], {"difference": differences}, mark=0.0)
    panels = [
        (absolute, "Pointing of the map and its controls with intervals; the values stand in the table."),
        (relative, "Differences between the map and its controls with intervals; the values stand in the table."),
    ]
    return "".join(parts) + figures(panels) + note(how_places_were_chosen(block))


def how_places_were_chosen(block: Block) -> str:
    controls = block["controls"]
    text = (
        f"Fixed places: patients are dealt into {controls['folds']} folds; a patient is scored on the cell (of "
        f"{controls['grid']} × {controls['grid']}) that the most boxes of the finding in the other folds contain, mean "
        f"of {controls['deals']} dealings."
    )
    by_labels = controls["label_place"].get(block["headline"]["source"])
    if by_labels:
        text += (
            " By labels alone: the highest cell of the mean map of images with the finding minus that of images "
            f"without it, from {format_number(by_labels['n_images'])} images ({by_labels['from']})."
        )
    # A finding with boxes of one patient alone has none in the other folds.
    without = controls["best_place"]["pairs_without_place"]
    if without:
        text += (
            f" {format_number(without)} findings of images have no box in another fold: no best place, and no part in "
            "that difference."
        )
    return text


def by_finding(block: Block) -> str:
    """Pointing of each finding, own map beside controls: what is high on average may be one finding."""
    head, sources = block["headline"], block["sources"]
    names = localization.controls_of(head["source"], sources)
    shown = [control for control in BY_FINDING if control in names]
    heads = ["Finding", "Boxes", source_name(head["source"])]
    for control in shown:
        heads.append(capitalize(SHORT[control]))
        if control in MINUS_BY_FINDING:
            heads.append("minus this")

    def row(finding: str | None) -> Row:
        """A finding, or the mean over findings."""

        def pointing(source: str) -> object:
            block = sources[source]
            scores = block["per_class"][finding] if finding else block["mean"]
            return scores["pointing"]["value"]

        boxes = block["findings"][finding] if finding else block
        cells: Row = [finding or "Mean", boxes["n_boxes"], pointing(head["source"])]
        own = sources[head["source"]]
        for control in shown:
            cells.append(pointing(names[control]))
            if control in MINUS_BY_FINDING:
                minus = own["minus_per_class"][control][finding] if finding else own["minus"][control]
                cells.append(minus["pointing"])
        return cells

    explanation = (
        "“minus this”: the own map minus the control, with its interval. Where a control is high, the place of "
        "that finding is known without a look at the image (a heart lies near the middle); there a map shows only "
        "what it has above the control."
    )
    rows = [row(finding) for finding in block["findings"]]
    return (
        "<h3>Pointing, finding by finding</h3>"
        + table(heads, rows, "Click a header to sort", foot=row(None), sortable=True)
        + note(explanation)
    )


def unions(sources: Block) -> str:
    """Maps that serve all findings of an image."""
    names = [name for name, block in sources.items() if block.get("kind") == "union"]
    if not names:
        return ""
    # Each beside the masks of other patients, blobs and the centre: large boxes are hit by anything.
    names += [f"{name}_shuffled" for name in names if f"{name}_shuffled" in sources]
    names += ["random", "centre"]
    # A union is right in a box of any finding; recall is of the one box, whatever else is kept.
    metrics = ("pointing_union", "precision_union", "recall")
    rows = []
    for name in names:
        scores = scores_of(sources[name]["mean"], metrics)
        rows.append([source_name(name), *scores])
    explanation = (
        "The mask is a union: it keeps what speaks for any finding. The boxes of NIH mark one finding of several "
        "in an image, so a mask can be right where no box is; these figures are of the union and say nothing of a "
        "single finding."
    )
    return (
        "<h3>The mask: one map for all findings</h3>"
        + note(explanation)
        + table(("Map", *map(metric_name, metrics)), rows)
    )


def each_finding(sources: Block) -> str:
    """Pointing and IoU of every map that is no control, finding by finding."""
    # Sources may know different findings, as a classifier of another table does.
    columns, findings = [], dict[str, None]()
    for name, block in sources.items():
        if block.get("kind") != "control" and not name.endswith(REINIT):
            columns += [(name, metric) for metric in HITS]
            findings |= dict.fromkeys(block["per_class"])
    rows = []
    for finding in findings:
        row: Row = [finding]
        for name, metric in columns:
            scores = sources[name]["per_class"].get(finding, {})
            row.append(scores.get(metric))
        rows.append(row)
    heads = [f"{source_name(name)}: {metric_name(metric)}" for name, metric in columns]
    return table(["Finding", *heads], rows, sortable=True)


def every_metric(sources: Block) -> str:
    metrics: dict[str, None] = {}
    for block in sources.values():
        metrics |= dict.fromkeys(block["mean"])
    rows = []
    for metric in metrics:
        values = [score_of(block["mean"], metric) for block in sources.values()]
        rows.append([metric_name(metric), *values])
    return table(["Metric", *map(source_name, sources)], rows)


def control_name(control: str) -> str:
    """Of a row of differences: the same map of another patient, or what every map is compared with."""
    return SHORT[control] if control in SHORT else source_name(control).lower()
