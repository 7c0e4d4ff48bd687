"""Sections of the report on scores: the headline beside published figures, and each finding.

V is {"value", "low", "high"}, each a number or null, as evaluate.py writes it.
"""

from roi.report import plots
from roi.report.gallery_files import NotThere, Scored
from roi.report.glossary import WORDS, hint
from roi.report.html import (
    ABSENT,
    Block,
    Cell,
    Interval,
    Row,
    card,
    esc,
    figures,
    format_limits,
    format_number,
    is_finite,
    missing,
    note,
    score_of,
    table,
)
from roi.report.plots import Curve
from roi.report.run_folder import EVALUATE, OFFICIAL_TEST_IMAGES, Run
from roi.report.sections.thresholds import threshold_slider
from roi.report.source_names import source_name
from roi.scoring.printout import rule_words

TRAINED_ON = {
    True: "the checkpoint was trained on some of them",
    False: "none of these images or patients was trained on",
    None: "whether the model was trained on them is not known: the predictions do not say",
}
# Published mean AUROC over the 14 findings of ChestX-ray14: source, value as printed, split.
PUBLISHED_AUROC = (
    ("Wang et al. 2017", ".7451", "official"),
    ("Yao et al. 2018", ".761", "official"),
    ("Guendel et al. 2018", ".807", "official"),
    ("DenseNet-121, 224 px", ".8025", "official"),
    ("DenseNet-121, 512 px", ".8171", "official"),
    ("ConvNeXtV2-B, 512 px", ".825", "official"),
    ("CheXNet (Rajpurkar et al. 2017)", ".8414", "own"),
    ("Reproduction of CheXNet", ".8383", "own"),
)
SCORES = {
    "auroc": "AUROC",
    "ap": "Average precision",
    "auroc_crop": "AUROC, crop only",
    "auroc_drop": "AUROC, mask dropped",
    "ap_crop": "AP, crop only",
    "ap_drop": "AP, mask dropped",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "specificity": "Specificity",
    "youden": "Youden J",
    "brier": "Brier",
}
IN_CARDS = ("auroc", "ap", "auroc_crop", "auroc_drop", "f1")
BY_FINDING = ("auroc", "auroc_delong", "ap", "f1", "precision", "recall", "specificity")
AREAS = {"roc": "auroc", "pr": "ap"}
CURVES = (
    ("roc", "ROC curves", "false positives", "true positives"),
    ("pr", "Precision and recall", "recall", "precision"),
)


def headline(run: Run) -> str:
    """Mean scores, what they are of, and the published ones."""
    metrics = run.metrics
    # First of all what was scored: a figure without its split says nothing.
    parts = [scored_on(metrics)]
    if metrics.get("classes_not_predicted"):
        names = ", ".join(map(str, metrics["classes_not_predicted"]))
        parts.append(note(f"Findings of the table that are not predicted: {names}."))
    parts.append('<div class="cards">')
    for name, v in headline_values(metrics):
        parts.append(card(name, v, explained(name)))
    parts.append("</div>")
    parts.append(
        f'<p class="note">Means over findings; brackets: 95 % intervals, patients drawn with replacement'
        f"{hint('Interval')}. A score without both classes is undefined.</p>"
    )
    parts.append(beside_published(run))
    return "".join(parts)


def explained(name: str) -> str:
    """The question mark behind the name of a card; the last word of it that the glossary has."""
    words = [word for word in WORDS if word.lower() in name.lower()]
    if "dropped" in name:
        words.append("Drop")
    return hint(words[-1]) if words else ""


def scored_on(metrics: Block) -> str:
    """How many images of whom, and whether the model has seen them: green only where it is known that it has not."""
    style = "honest" if metrics["contaminated"] is False else "missing"
    scored = f"{format_number(metrics['n_images'])} images"
    if "n_patients" in metrics:
        scored += f" of {format_number(metrics['n_patients'])} patients"
    split = esc(metrics.get("split") or "unknown")
    labels = esc(metrics.get("label_source", "unknown"))
    trained = TRAINED_ON[metrics["contaminated"]]
    return f'<p class="{style}">Scored on {scored}; split: <b>{split}</b>; labels: <b>{labels}</b>; {trained}.</p>'


def headline_values(metrics: Block) -> list[tuple[str, Interval | None]]:
    """The figures in large letters: title and V."""
    mean = metrics["mean"]
    # A score that was computed and has no value is shown as undefined; one that was not computed is not shown.
    values = [(score_name(name), mean.get(name)) for name in IN_CARDS if name in mean]
    faithfulness = (metrics.get("faithfulness") or {}).get("positives", {}).get("mean")
    if faithfulness is not None:
        values.append(("Faithfulness, positives", faithfulness))
    head = (metrics.get("localization") or {}).get("headline")
    if head:
        values.append((f"{source_name(head['source'])}: pointing", head["pointing"]))
        # What the figure above owes to the image, and whether it passes who never looks at one.
        for control, title in (("shuffled", "another patient's map"), ("best_place", "best fixed place")):
            if control in head["minus"]:
                values.append((f"Pointing minus {title}", head["minus"][control]))
    return values


def beside_published(run: Run) -> str:
    """This run above the published ones; without them where other images were scored, a synthetic set for example."""
    scored = run.metrics["n_images"]
    if not run.on_official_test:
        return note(
            f"Published AUROCs of ChestX-ray14 stand here where its official test list was scored, which has "
            f"{OFFICIAL_TEST_IMAGES:,} images; these are {scored:,}."
        )
    mark = " CONTAMINATED" if run.metrics["contaminated"] else ""
    split = str(run.metrics.get("split") or "unknown")
    auroc = score_of(run.metrics["mean"], "auroc")
    rows: list[Row] = [[f"{run.name} (this run){mark}", split, auroc]]
    # As printed: two digits of a paper are not four.
    for name, value, split in PUBLISHED_AUROC:
        rows.append([name, f"{split} split", Cell(value, value)])
    caption = "Beside published mean AUROC on ChestX-ray14"
    comparable = (
        "Only rows of the same split and label file can be compared; those with a split of their own were scored "
        "on other images."
    )
    return table(("Model", "Split", "Mean AUROC"), rows, caption, published=len(PUBLISHED_AUROC)) + note(comparable)


def score_name(name: str) -> str:
    return SCORES.get(name, name)


def per_finding(run: Run, scored: Scored | NotThere) -> str:
    """Scores of each finding, with thresholds where there are some and a slider for them, and the curves."""
    per_class = run.metrics["per_class"]
    has_thresholds = any(scores.get("threshold") is not None for scores in per_class.values())
    text = finding_table(run.metrics, has_thresholds)
    if has_thresholds:
        text += thresholds_and_micro(run.metrics)
    else:
        command = f"{EVALUATE} --threshold_preds val_preds.json --threshold_csv val.csv"
        text += missing("No thresholds, so no F1, precision, recall and specificity.", command)
    text += threshold_slider(run, scored)
    for key, title, xlabel, ylabel in CURVES:
        curves = curves_of(per_class, key)
        if not curves:
            text += missing(f"{title}: metrics.json holds none.", EVALUATE)
            continue
        text += f"<h3>{esc(title)}</h3>" + note("One panel a finding, in blue; grey: the other findings.")
        names = [curve.name for curve in curves]
        areas = [area_text(per_class[name].get(AREAS[key])) for name in names]
        axes = f"{xlabel}; up: {ylabel}"
        drawn = plots.small_multiples(names, curves, axes, values=areas, diagonal=key == "roc")
        panels = []
        for panel, name, area in zip(drawn, names, areas, strict=True):
            panels.append((panel, f"{title} of {name} {area}".rstrip()))
        text += figures(panels, "figures small")
    return text


def finding_table(metrics: Block, has_thresholds: bool) -> str:
    per_class, mean = metrics["per_class"], metrics["mean"]
    names = []
    for name in BY_FINDING:
        if name in mean or any(name in scores for scores in per_class.values()):
            names.append(name)
    heads = ["Finding", "Positives"]
    foot: Row = ["Mean", ""]
    for name in names:
        # The closed form of DeLong is of one finding: their mean has none.
        heads.append("DeLong interval" if name == "auroc_delong" else score_name(name))
        foot.append(ABSENT if name == "auroc_delong" else score_of(mean, name))
    # A mean of thresholds says nothing.
    if has_thresholds:
        heads.append("Threshold")
        foot.append("")
    rows = []
    for finding, scores in per_class.items():
        row = [finding, scores.get("positives", ABSENT)]
        for name in names:
            value = score_of(scores, name)
            if name == "auroc_delong":
                value = delong_limits(scores.get(name))
            row.append(value)
        if has_thresholds:
            row.append(scores.get("threshold"))
        rows.append(row)
    return table(heads, rows, "Click a header to sort", foot=foot, sortable=True)


def delong_limits(v: Interval | None) -> object:
    """The interval alone, as its value is the AUROC beside it."""
    if v is None:
        return ABSENT
    limits = format_limits(v)
    return Cell(limits, repr(v["low"])) if limits else None


def thresholds_and_micro(metrics: Block) -> str:
    """Where the thresholds come from, and what they give over all cells of the table of labels."""
    text = note(f"Thresholds: {rule_words(metrics.get('thresholds') or {})}.")
    micro = metrics.get("micro") or {}
    if micro:
        heads = list(map(score_name, micro))
        values = list(micro.values())
        if "hamming" in metrics:
            heads.append("Hamming accuracy")
            values.append(metrics["hamming"])
        text += table(["Over all cells", *heads], [["micro", *values]])
    return text


def curves_of(per_class: Block, key: str) -> list[Curve]:
    """ROC ("roc") or precision-recall ("pr") curve of each finding that has one."""
    curves = []
    for finding, scores in per_class.items():
        # A finding without both classes has no curve.
        if scores.get(key) and len(scores[key][0]):
            x, y = scores[key]
            curves.append(Curve(finding, x, y))
    return curves


def area_text(area: Interval | None) -> str:
    """The area below a curve; "" where it is not known."""
    value = (area or {}).get("value")
    return format_number(value) if is_finite(value) else ""
