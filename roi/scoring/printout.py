"""What evaluate.py and calibrate_conformal.py print."""

from collections.abc import Sequence
from typing import Any

from roi.labels import NORMAL
from roi.scoring import localization, prediction_sets
from roi.scoring.challenge.view_groups import attribute_name
from roi.text import decimal, of_hundred, probability

# What a rule of --threshold_rule makes largest.
RULES = {"f1": "F1 is largest", "youden": "Youden's J is largest"}
TRAINED_ON = {
    True: "CONTAMINATED: the checkpoint was trained on some of these images or patients; these are no test scores",
    False: "none of these images was trained on, nor another image of their patients",
    None: "it cannot be told whether the model was trained on these images: the predictions do not say",
}
SYNTHETIC = "SYNTHETIC: these images are drawn, no X-rays; the scores say nothing about patients"
# Controls that stand beside each finding.
SHOWN_CONTROLS = ("shuffled", "best_place", "centre")
# Scores that stand beside each source, after pointing.
SHOWN_BOX_SCORES = ("recall", "iou@0.1", "iou@0.3")


# ---- cells of tables ------------------------------------------------------------------------------------------------


def with_interval(score: dict[str, float | None]) -> str:
    """0.8123 [0.7911, 0.8301]"""
    value, low, high = score["value"], score["low"], score["high"]
    if value is None:
        return "undefined"
    text = decimal(value, 4)
    if low is not None and high is not None:
        limits = f"{decimal(low, 4)}, {decimal(high, 4)}"
        text += f" [{limits}]"
    return text


def four_digits(value: float | None) -> str:
    return "undefined" if value is None else decimal(value, 4)


def threshold_cell(threshold: float | None) -> str:
    if threshold is None:
        return "infeasible"
    # No probability reaches it: even empty sets keep the promise.
    return "none needed" if threshold > 1 else f"{threshold:.4g}"


def cells(texts: Sequence[str], width: int) -> str:
    """Right-aligned columns."""
    return "".join(text.rjust(width) for text in texts)


# ---- evaluate.py ----------------------------------------------------------------------------------------------------


def show_scores(result: dict[str, Any]) -> None:
    """Print a metrics.json."""
    units = f"{result['n_images']:,} images"
    if "n_studies" in result:
        units = f"{result['n_studies']:,} studies ({units})"
    print(f"{units} of {result['n_patients']:,} patients, split: {result['split']}, labels: {result['label_source']}")
    print(TRAINED_ON[result["contaminated"]])
    if result.get("synthetic"):
        print(SYNTHETIC)
    if result["classes_not_predicted"]:
        print(f"not predicted, so not in the means: {', '.join(result['classes_not_predicted'])}")
    if result["classes_undefined"]:
        print(f"without both classes here, so undefined and not in the means: {', '.join(result['classes_undefined'])}")
    show_classes(result)
    show_chosen(result)
    errors = []
    for method, values in result["calibration"]["methods"].items():
        error = four_digits(values["mean"]["ece"])
        errors.append(f"{method} {error}")
    print(f"calibration error: {', '.join(errors)}")
    show_subgroups(result["subgroups"])
    if "long_tail" in result:
        show_long_tail(result["long_tail"])
    if "view_pointing" in result:
        show_view_pointing(result["view_pointing"])
    if "conformal" in result:
        show_sets(result["conformal"])
    if "comparison" in result:
        comparison = result["comparison"]
        difference = comparison["mean"]["auroc"]
        score, p = with_interval(difference), difference["p"]
        warning = "; THAT MODEL is contaminated" if comparison["contaminated"] else ""
        print(f"minus {comparison['file']}: {score}, p {p}{warning}")
    controls = result.get("faithfulness", {}).get("controls")
    if controls:
        show_controls(controls)
    if "localization" in result:
        show_boxes(result["localization"])


def show_classes(result: dict[str, Any]) -> None:
    """One line a class, the mean first."""
    shown = [name for name in result["mean"] if name.startswith("auroc")]
    shown.append("ap")
    if result["thresholds"]:
        shown.append("f1")
    head = cells(shown, 24)
    rows = {"mean": result["mean"], **result["per_class"]}
    width = max(20, *map(len, rows))
    print(f"{'':{width}s}{'positives':>10s}{head}")
    for c, values in rows.items():
        positives = values.get("positives", "")
        scores = cells([with_interval(values[name]) for name in shown], 24)
        print(f"{c:{width}s}{positives:>10}{scores}")


def show_chosen(result: dict[str, Any]) -> None:
    """The threshold of each finding, where there are some, as a sentence."""
    if not result["thresholds"]:
        return
    print(f"thresholds, {rule_words(result['thresholds'])}:")
    for c, values in result["per_class"].items():
        if c not in NORMAL:
            print(f"  {threshold_sentence(c, values)}")


def rule_words(chosen: dict[str, Any]) -> str:
    """How thresholds were chosen: the block `thresholds` of metrics.json."""
    rule, file = chosen.get("rule", "unknown"), chosen.get("file", "unknown")
    what = RULES.get(rule, f"{rule} is best")
    return f"where {what} on {file}"


def threshold_sentence(finding: str, values: dict[str, Any]) -> str:
    """From which probability on a finding is called present, and what came of it.

    Args:
        values: of its block in metrics.json.
    """
    threshold = values["threshold"]
    if threshold is None:
        return f"{finding}: no threshold, as the images that choose it do not both have it and lack it"
    parts = []
    found, spared = values["recall"]["value"], values["specificity"]["value"]
    if found is not None:
        parts.append(f"finds {of_hundred(found)} that have it")
    if spared is not None:
        parts.append(f"calls {of_hundred(1 - spared)} that do not")
    return f"{finding}: from {probability(threshold)} on it is called present; {', and '.join(parts)}"


def show_subgroups(blocks: dict[str, Any]) -> None:
    for name, block in blocks.items():
        on_common, on_own = [], []
        for group, values in block["groups"].items():
            score = with_interval(values["auroc"])
            on_common.append(f"{group} {score}")
            score = with_interval(values["auroc_own"])
            findings = len(values["findings_own"])
            on_own.append(f"{group} {score} ({findings})")
        common = len(block["findings"])
        print(f"by {attribute_name(name)} ({common} findings): {'; '.join(on_common)}")
        # Data sets differ in what they looked for; other groups do not.
        if name == "dataset":
            print(f"each on its own findings: {'; '.join(on_own)}")


def show_long_tail(block: dict[str, Any]) -> None:
    """The rule, the scores of each bin with its classes and their counts, and the figures of the challenge."""
    images = block["n_train_images"]
    print(f"{block['rule']}; {images:,} training images of {block['train_csv']}")
    for name, values in block["bins"].items():
        classes = values["classes"]
        score, area = with_interval(values["map"]), with_interval(values["mauroc"])
        print(f"{name} ({values['scored']} of {len(classes)} classes can be scored): mAP {score}, mAUROC {area}")
        counts = [f"{c} {block['train_positives'][c]:,}" for c in classes]
        print(f"  {', '.join(counts) or 'no class'}")
    if block["not_in_training"]:
        print(f"not counted in the training table, so in no bin: {', '.join(block['not_in_training'])}")
    figures = block["challenge"]
    scores = []
    for title, key in (("mAP", "map"), ("mAUROC", "mauroc"), ("mF1 at .5", "mf1"), ("mECE", "mece")):
        scores.append(f"{title} {with_interval(figures[key])}")
    print(f"over {figures['classes_scored']} classes: {', '.join(scores)}")
    print(
        f"  {figures['classes_left_out']} classes are left out for want of positives or negatives; "
        f"head, medium, tail and the {figures['mece_bins']} bins of mECE are ours, the challenge published none"
    )


def show_view_pointing(block: dict[str, Any]) -> None:
    """How often the view in which a finding shows adds the most, beside chance."""
    scores = [with_interval(block[name]) for name in ("pointing", "chance", "minus_chance")]
    pointing, chance, difference = scores
    print(
        f"view pointing: {pointing}, chance {chance}, above it {difference}; {block['n_pairs']:,} findings of "
        f"{block['n_studies']:,} studies, each visible in one of several views"
    )
    found = []
    for finding, values in block["findings"].items():
        found.append(f"{finding} {four_digits(values['pointing']['value'])} ({values['n']:,})")
    print(f"  {', '.join(found)}")


def show_controls(controls: dict[str, Any]) -> None:
    """The mask and its controls at the kept share."""
    ratio = controls["keep_ratio"]
    for source, values in controls["sources"].items():
        crop = with_interval(values["crop"])
        drop = with_interval(values["drop"])
        print(f"{source:10s} AUROC at {ratio:g} kept: crop {crop}, drop {drop}")
    if controls["contaminated"]:
        print("the model of --curves is CONTAMINATED: it was trained on some of these images or patients")


def show_sets(block: dict[str, Any]) -> None:
    """What came of the promises."""
    file, alpha, unit = block["file"], block["alpha"], block["unit"]
    print(f"prediction sets of {file}, alpha {alpha:g}, for the next {unit}")
    for rule, row in block["rules"].items():
        risks = []
        for name in prediction_sets.RISKS:
            risk = with_interval(row[name])
            risks.append(f"{name} {risk}")
        print(f"{rule:18s}{', '.join(risks)}")
    for rule in block["infeasible"]:
        print(f"{rule:18s}infeasible at this alpha")
    if block["shift"]["warning"]:
        print(f"WARNING: {block['shift']['warning']}")


def show_boxes(block: dict[str, Any]) -> None:
    """The findings' own maps beside their controls, what that says, each finding, and every source."""
    print(
        f"{block['n_boxes']:,} of the {block['n_boxes_in_file']:,} boxes of {block['box_file']} "
        "are on images with maps; they are scored"
    )
    if block["n_boxes_ambiguous"]:
        print(f"{block['n_boxes_ambiguous']:,} boxes are left out, as their image may be any of several of the table")
    for file, origin in block["maps"].items():
        if origin["contaminated"]:
            print(f"{file}: CONTAMINATED: its model was trained on some of these images or patients")
    show_headline(block["headline"])
    without = block["controls"]["best_place"]["pairs_without_place"]
    if without:
        print(f"  {without:,} findings of images have no box in another fold, so no best place: left out of that line")
    show_pointing(block)
    show_sources(block["sources"])


def show_headline(head: dict[str, Any]) -> None:
    whose = "each finding's own map into its box"
    if head["kind"] == "union":
        whose = "one map for all findings into the box of each"
    source, pointing = head["source"], with_interval(head["pointing"])
    print(f"POINTING of {whose} ({source}): {pointing}")
    for control, score in head["minus"].items():
        name, difference = localization.CONTROL_NAMES[control], with_interval(score)
        print(f"  minus {name:58s}{difference:>26s}")
    for reading in localization.reading(head):
        print(f"  {reading.sentence}")


def show_pointing(block: dict[str, Any]) -> None:
    """One line a finding: its own map and its controls."""
    own, sources = block["headline"]["source"], block["sources"]
    names = localization.controls_of(own, sources)
    shown = [control for control in SHOWN_CONTROLS if control in names]
    head = cells(["own map", *shown], 12)
    print(f"{'pointing':20s}{'boxes':>8s}{head}")
    columns = [own] + [names[control] for control in shown]
    for finding, counts in block["findings"].items():
        values = []
        for source in columns:
            score = sources[source]["per_class"][finding]["pointing"]
            values.append(four_digits(score["value"]))
        boxes = counts["n_boxes"]
        print(f"{finding:20s}{boxes:>8,}{cells(values, 12)}")


def show_sources(sources: dict[str, Any]) -> None:
    unions = []
    for source, block in sources.items():
        pointing = "pointing"
        if block["kind"] == "union":
            pointing = "pointing_union"
            unions.append(source)
        scores = []
        for name in (pointing, *SHOWN_BOX_SCORES):
            score = with_interval(block["mean"][name])
            scores.append(f"{name} {score}")
        print(f"{source:24s} {', '.join(scores)}")
    if unions:
        names = ", ".join(unions)
        print(f"{names}: one map for all findings; boxes mark one of several, so it may be right where no box is")


# ---- calibrate_conformal.py -----------------------------------------------------------------------------------------


def show_thresholds(thresholds: dict[str, Any], out: str) -> None:
    """Print a thresholds.json and its name `out`."""
    print(
        f"{thresholds['n_images']:,} images of {thresholds['n_patients']:,} patients, "
        f"{thresholds['with_finding']:.1%} with a finding; alpha {thresholds['alpha']:g}"
    )
    if thresholds["contaminated"] is None:
        print("the predictions do not say what was trained on: if these images were, nothing is promised")
    if thresholds["n_whole"] < thresholds["n_images"]:
        print(
            f"thresholds of all findings together come from the {thresholds['n_whole']:,} images "
            "of which all findings are known"
        )
    fitted, scale = thresholds["n_fitted"], thresholds["scale"]
    if fitted:
        print(f"{scale} scaling was fitted on {fitted:,} others")
    shift = thresholds["shift"]
    for rule in prediction_sets.RULES:
        if rule != "fnr_shifted" or shift:
            threshold = threshold_cell(thresholds[rule])
            print(f"{rule:18s}{threshold}")
    if shift:
        if "why" in shift:
            print(f"  {shift['why']}")
        estimated = []
        for c, prevalence in shift["prevalence"].items():
            estimated.append(f"{c} {prevalence:.2%}")
        print(f"  prevalence there, estimated: {', '.join(estimated)}")
    head = cells(["present from", "absent to", "precise from"], 14)
    print(f"{'':20s}{'positives':>10s}{head}")
    for c, row in thresholds["each"].items():
        limits = [threshold_cell(row[name]) for name in prediction_sets.EACH]
        positives = row["positives"]
        print(f"{c:20s}{positives:>10,}{cells(limits, 14)}")
    print(out)
