"""The model card (Mitchell et al. 2019) of an exported model, in Markdown: what metrics.json and the checkpoint say.

What they do not say is named as missing, with the command that makes it: a card without scores must not look complete.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from roi import WRITTEN_BY, run_facts
from roi.inference.export.model import Export, without_folders
from roi.inference.origin import training_of

DEVICE = (
    "**Not a medical device.** For research only. It was not assessed by any authority, and nothing that it puts out "
    "may be used to diagnose, to treat, or to decide about a person."
)
CONTAMINATED = "**CONTAMINATED: it was trained on test images. Its scores on these are not test scores.**"
SYNTHETIC = "**SYNTHETIC: the scored images are drawn, no X-rays. The scores say nothing about patients.**"
DRAWN = "**SYNTHETIC: it was trained on drawn images alone; it has never seen an X-ray.**"
SCORE = "infer_roi_consistency.py … --save_json preds.json, then evaluate.py … --out scores"
MEANS = {"auroc": "AUROC", "ap": "Average precision", "f1": "F1", "recall": "Sensitivity", "specificity": "Specificity"}
# Flags by which a training differs from another, beside its images.
TRAINED_WITH = ("mode", "objective", "loss", "epochs", "batch_size", "lr", "schedule", "augment", "seed", "weights")
USES = (
    "Research on classification of chest X-rays and on whether the evidence that a classifier shows is the evidence "
    "that it uses; teaching; a baseline to compare with."
)
NO_USES = (
    "Any clinical use, triage and screening included; images that are no frontal or lateral chest X-rays; findings "
    "that are not in the list above; decisions about a person."
)
LIMITS = (
    "Labels of public sets are mostly mined from reports: they hold errors, and so do scores against them.",
    "Scores hold for images like those that were scored; on another hospital, machine or population they may be lower.",
    "Probabilities are those of the labels in training, not of a disease in another population.",
    "A map shows where a network looked; it is no proof that the finding lies there.",
    "A finding that is rare among the scored images has a wide interval: read the interval, not the value.",
)


@dataclass(frozen=True)
class Card:
    """What a card is made of."""

    export: Export
    name: str  # title
    data_licence: str  # a sentence, or ""
    in_timm: bool  # whether timm loads the folder


def model_card(card: Card) -> str:
    """The text of README.md."""
    parts = [front_matter(card), f"# {card.name}", *warnings_of(card.export), about(card), use(card)]
    parts += [training(card), scores(card), findings(card), calibration(card), subgroups(card), evidence(card)]
    parts += [uses(card), f"---\nMade by {WRITTEN_BY}, {run_facts.now()[:10]}."]
    return "\n\n".join(parts) + "\n"


# ---- pieces ---------------------------------------------------------------------------------------------------------


def missing(what: str, command: str = SCORE) -> str:
    return f"*Missing: {what}. Made by `{command}`, given to export_model.py as `--metrics scores/metrics.json`.*"


def shown(v: dict[str, Any] | None) -> str:
    """'0.812 [0.790, 0.833]', the 95 % interval in brackets."""
    if not v or v.get("value") is None:
        return "undefined"
    text = f"{v['value']:.3f}"
    if v.get("low") is not None and v.get("high") is not None:
        text += f" [{v['low']:.3f}, {v['high']:.3f}]"
    return text


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def cell(value: object) -> str:
    # A name from a table may hold what ends a cell.
    return " ".join(str(value).replace("|", "\\|").split())


def front_matter(card: Card) -> str:
    """What the hub reads."""
    # The terms of the data decide, and these are no licence that the hub has a name for.
    lines = ["---", "license: other", "license_name: see-data-and-licence", "pipeline_tag: image-classification"]
    if card.in_timm:
        lines.append("library_name: timm")
    lines += ["tags:", "- image-classification", "- chest-x-ray", "- medical-imaging", "- research-only", "---"]
    return "\n".join(lines)


def warnings_of(export: Export) -> list[str]:
    lines = [f"> {DEVICE}"]
    if export.state["contaminated"] or export.metrics.get("contaminated"):
        lines.append(f"> {CONTAMINATED}")
    # The scores say it of the images that they are of, the checkpoint of its own.
    label_source = str(export.metrics.get("label_source", ""))
    if export.metrics.get("synthetic") or "synthetic" in label_source:
        lines.append(f"> {SYNTHETIC}")
    if export.state.get("synthetic"):
        lines.append(f"> {DRAWN}")
    return lines


# ---- sections -------------------------------------------------------------------------------------------------------


def about(card: Card) -> str:
    export = card.export
    mask = export.args["mask"]
    kind = f"with a mask of its evidence ({mask}, {100 * export.args['keep_ratio']:g} % of the pixels are kept)"
    if mask == "none":
        kind = "without a mask"
    mean, std = export.normalisation
    return (
        "## What it is\n\n"
        f"A classifier of chest X-rays with {len(export.classes)} classes ({', '.join(export.classes)}), several of "
        f"which may be present, {kind}.\n\n"
        f"Backbone: `{export.args['backbone']}` of {export.library}, {export.parameters:,} parameters.\n\n"
        f"Input: the whole X-ray as grey in 0..255, squeezed to {export.side} x {export.side} pixels (bilinear, with "
        "antialiasing), divided by 255, three times the same channel, mean "
        f"{numbers(mean)} and standard deviation {numbers(std)}. Output: logits; their sigmoid is a probability for "
        "each finding on its own."
    )


def numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def use(card: Card) -> str:
    """How the folder is loaded."""
    export = card.export
    name, count = export.args["backbone"], len(export.classes)
    if card.in_timm:
        code = f'import timm\n\nmodel = timm.create_model("local-dir:{card.name}", pretrained=True).eval()'
    else:
        code = (
            "import torchvision\nfrom safetensors.torch import load_file\n\n"
            f'model = torchvision.models.get_model("{name}", weights=None, num_classes={count})\n'
            f'model.load_state_dict(load_file("{card.name}/model.safetensors"))\nmodel.eval()'
        )
    own = f"infer_roi_consistency.py --checkpoint {card.name}/model.safetensors --csv TABLE --image_root DIR …"
    hub = "Once it is on the hub, `hf-hub:OWNER/NAME` stands in place of `local-dir:…`. " if card.in_timm else ""
    return (
        f"## Use\n\n```python\n{code}\n```\n\n{hub}The probabilities and the masks with this project, which also reads "
        f"`roi/model_roi.safetensors`: `{own}`. Training that begins from it: "
        f"`--weights {card.name}/model.safetensors`."
    )


def training(card: Card) -> str:
    """Data and how it was trained."""
    export = card.export
    known = training_of(export.state)
    rows: list[tuple[str, object]] = [("Training images", f"{known['images']:,}")]
    rows.append(("Table", known.get("table", "not said")))
    rows.append(("Test images among them", {True: "yes", False: "no"}.get(export.state["contaminated"], "not known")))
    if "hours" in known:
        rows.append(("Hours", f"{known['hours']:.2f}"))
    rows.append(("Epochs of the weights", export.state["epoch"]))
    # Flags of before may be missing: nothing is said of them.
    for flag in TRAINED_WITH:
        if export.args.get(flag) not in (None, ""):
            rows.append((f"`--{flag}`", without_folders(export.args[flag])))
    licence = card.data_licence or (
        "*Missing: the licence and terms of the training data; say them with `--data_licence`. They may forbid to hand "
        "the weights on.*"
    )
    return f"## Data and licence\n\n{licence}\n\n{table(('What', 'Value'), rows)}"


def scores(card: Card) -> str:
    metrics = card.export.metrics
    if not metrics:
        return f"## Scores\n\n{missing('scores of this model on images that it has not seen')}"
    images = f"{metrics['n_images']:,} images"
    if "n_patients" in metrics:
        images += f" of {metrics['n_patients']:,} patients"
    unseen = {
        True: "some of them were trained on",
        False: "none of these images or patients was trained on",
        None: "whether they were trained on is not known",
    }[metrics["contaminated"]]
    # Without the file, whose folders are those of another machine.
    labels = without_folders(str(metrics.get("label_source", "unknown")).partition(" (")[0])
    rows = [(name, shown(metrics["mean"].get(key))) for key, name in MEANS.items() if key in metrics["mean"]]
    return (
        f"## Scores\n\nScored on {images}; split: {metrics.get('split') or 'unknown'}; labels: {labels}; {unseen}. "
        "In brackets: 95 % intervals, patients drawn with replacement.\n\n"
        + table(("Mean over findings", "Value"), rows)
    )


def findings(card: Card) -> str:
    metrics = card.export.metrics
    heading = "## Findings"
    if not metrics:
        return f"{heading}\n\n{missing('scores and thresholds of each finding')}"
    thresholds = card.export.thresholds()
    # Undefined ones too: a finding that is left out of a card would be taken for one that works.
    rows = []
    for finding, values in metrics["per_class"].items():
        limit = thresholds.get(finding)
        threshold = "none" if limit is None else f"{limit:.3f}"
        auroc, ap = shown(values.get("auroc")), shown(values.get("ap"))
        rows.append((finding, values.get("positives", "?"), auroc, ap, threshold))
    text = table(("Finding", "Positives", "AUROC", "Average precision", "Threshold"), rows)
    if not thresholds:
        text += f"\n\n{missing('thresholds', 'evaluate.py … --threshold_preds val.json --threshold_csv val.csv')}"
    else:
        rule = (metrics.get("thresholds") or {}).get("rule", "unknown")
        text += f"\n\nThresholds: {rule}, chosen on images that are not scored."
    for key, words in (("classes_not_predicted", "not predicted"), ("classes_undefined", "without both classes")):
        if metrics.get(key):
            text += f"\n\nIn the table of labels, but {words}: {', '.join(metrics[key])}."
    return f"{heading}\n\n{text}"


def calibration(card: Card) -> str:
    methods = (card.export.metrics.get("calibration") or {}).get("methods") or {}
    rows = []
    for name, method in methods.items():
        mean = method.get("mean") or {}
        rows.append((name, decimals(mean.get("ece")), decimals(mean.get("brier"))))
    if not rows:
        return f"## Calibration\n\n{missing('how far probabilities are from shares')}"
    heads = ("Probabilities", "Expected calibration error", "Brier score")
    return f"## Calibration\n\nMeans over findings.\n\n{table(heads, rows)}"


def decimals(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def subgroups(card: Card) -> str:
    blocks = card.export.metrics.get("subgroups") or {}
    rows = []
    for kind, block in blocks.items():
        for name, group in ((block or {}).get("groups") or {}).items():
            rows.append((kind, name, group.get("n_images", "?"), shown(group.get("auroc"))))
        gap = (block or {}).get("gap")
        if gap:
            rows.append((kind, f"gap ({gap.get('best')} minus {gap.get('worst')})", "", shown(gap)))
    if not rows:
        why = "scores by view, sex and age, for which the table of labels needs these columns"
        return f"## Subgroups\n\n{missing(why)}"
    return f"## Subgroups\n\n{table(('By', 'Group', 'Images', 'Mean AUROC'), rows)}"


def evidence(card: Card) -> str:
    """Whether what the mask shows is what the model uses, and where the finding lies."""
    metrics = card.export.metrics
    rows = []
    for name, key in (("crop alone", "auroc_crop"), ("mask dropped", "auroc_drop")):
        if key in metrics.get("mean", {}):
            rows.append((f"Mean AUROC, {name}", shown(metrics["mean"][key])))
    positives = ((metrics.get("faithfulness") or {}).get("positives") or {}).get("mean")
    if positives:
        rows.append(("Fall of the probability of a present finding when the mask is dropped", shown(positives)))
    head = (metrics.get("localization") or {}).get("headline")
    if head:
        rows.append((f"Pointing game of {head['source']}", shown(head["pointing"])))
        for control, difference in head["minus"].items():
            rows.append((f"… minus {control}", shown(difference)))
    if not rows:
        command = "evaluate.py … --masks masks.npz --bbox_csv BOXES --curves curves.npz"
        return f"## Evidence\n\n{missing('whether masks and maps show what the model uses', command)}"
    return f"## Evidence\n\n{table(('What', 'Value'), rows)}"


def uses(card: Card) -> str:
    """Intended use, and limits: those of all such models and those that the numbers show."""
    # What the numbers show stands beside what holds for all such models.
    lines = list(LIMITS)
    metrics = card.export.metrics
    if not metrics:
        lines.insert(0, "No score of this model is known here: treat it as untested.")
    elif "long_tail" not in metrics and not metrics.get("subgroups"):
        lines.append("It was not scored by view, sex or age.")
    limits = "\n".join(f"- {line}" for line in lines)
    return (
        f"## Intended use\n\n{USES}\n\n## Not intended\n\n{NO_USES}\n\n## Limits\n\n{limits}\n\n"
        "**Not a medical device.**"
    )
