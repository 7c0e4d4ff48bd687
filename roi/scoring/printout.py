"""What evaluate.py and calibrate_conformal.py print."""

from collections.abc import Sequence
from typing import Any

from roi.scoring import localization, prediction_sets
from roi.text import decimal

TRAINED_ON = {
    True: "CONTAMINATED: the checkpoint was trained on some of these images or patients; these are no test scores",
    False: "none of these images was trained on, nor another image of their patients",
    None: "the predictions do not say what was trained on",
}
SHOWN_CONTROLS = ("shuffled", "best_place", "centre")  # of each finding
SHOWN_BOX_SCORES = ("recall", "iou@0.1", "iou@0.3")  # of each source, after pointing


# ---- cells of tables ------------------------------------------------------------------------------------------------


def with_interval(score: dict[str, float | None]) -> str:
    """0.8123 [0.7911, 0.8301]"""
    value, low, high = score["value"], score["low"], score["high"]
    if value is None:
        return "undefined"
    if low is None or high is None:
        return decimal(value, 4)
    return f"{decimal(value, 4)} [{decimal(low, 4)}, {decimal(high, 4)}]"


def four_digits(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def threshold_cell(threshold: float | None) -> str:
    if threshold is None:
        return "infeasible"
    # No probability reaches it: even empty sets keep the promise.
    return "none needed" if threshold > 1 else f"{threshold:.4g}"


def cells(texts: Sequence[str], width: int) -> str:
    """Right-aligned columns."""
    return "".join(f"{text:>{width}s}" for text in texts)


# ---- evaluate.py ----------------------------------------------------------------------------------------------------


def show_scores(result: dict[str, Any]) -> None:
    """Print a metrics.json."""
    print(
        f"{result['n_images']:,} images of {result['n_patients']:,} patients, split: {result['split']}, "
        f"labels: {result['label_source']}"
    )
    print(TRAINED_ON[result["contaminated"]])
    if result["classes_not_predicted"]:
        print(f"not predicted, so not in the means: {', '.join(result['classes_not_predicted'])}")
    if result["classes_undefined"]:
        print(f"without both classes here, so undefined and not in the means: {', '.join(result['classes_undefined'])}")
    show_classes(result)
    errors = []
    for method, values in result["calibration"]["methods"].items():
        errors.append(f"{method} {four_digits(values['mean']['ece'])}")
    print(f"calibration error: {', '.join(errors)}")
    show_subgroups(result["subgroups"])
    if "conformal" in result:
        show_sets(result["conformal"])
    if "comparison" in result:
        comparison = result["comparison"]
        score = comparison["mean"]["auroc"]
        warning = "; THAT MODEL is contaminated" if comparison["contaminated"] else ""
        print(f"minus {comparison['file']}: {with_interval(score)}, p {score['p']}{warning}")
    controls = result.get("faithfulness", {}).get("controls")
    if controls:
        show_controls(controls)
    if "localization" in result:
        show_boxes(result["localization"])


def show_classes(result: dict[str, Any]) -> None:
    """One line a class, the mean first."""
    shown = [name for name in result["mean"] if name.startswith("auroc")] + ["ap"]
    if result["thresholds"]:
        shown.append("f1")
    print(f"{'':20s}{'positives':>10s}{cells(shown, 24)}")
    for c, values in {"mean": result["mean"], **result["per_class"]}.items():
        scores = [with_interval(values[name]) for name in shown]
        print(f"{c:20s}{values.get('positives', ''):>10}{cells(scores, 24)}")


def show_subgroups(blocks: dict[str, Any]) -> None:
    for name, block in blocks.items():
        groups = block["groups"].items()
        scores = [f"{group} {with_interval(values['auroc'])}" for group, values in groups]
        print(f"by {name} ({len(block['findings'])} findings): {'; '.join(scores)}")
        if name == "dataset":
            own = []
            for group, values in groups:
                own.append(f"{group} {with_interval(values['auroc_own'])} ({len(values['findings_own'])})")
            print(f"each on its own findings: {'; '.join(own)}")


def show_controls(controls: dict[str, Any]) -> None:
    """The mask and its controls at the kept share."""
    for source, values in controls["sources"].items():
        crop, drop = with_interval(values["crop"]), with_interval(values["drop"])
        print(f"{source:10s} AUROC at {controls['keep_ratio']:g} kept: crop {crop}, drop {drop}")
    if controls["contaminated"]:
        print("the model of --curves is CONTAMINATED: it was trained on some of these images or patients")


def show_sets(block: dict[str, Any]) -> None:
    """What came of the promises."""
    print(f"prediction sets of {block['file']}, alpha {block['alpha']:g}, for the next {block['unit']}")
    for rule, row in block["rules"].items():
        risks = [f"{name} {with_interval(row[name])}" for name in prediction_sets.RISKS]
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
    print(f"POINTING of {whose} ({head['source']}): {with_interval(head['pointing'])}")
    for control, score in head["minus"].items():
        print(f"  minus {localization.CONTROL_NAMES[control]:58s}{with_interval(score):>26s}")
    for reading in localization.reading(head):
        print(f"  {reading.sentence}")


def show_pointing(block: dict[str, Any]) -> None:
    """One line a finding: its own map and its controls."""
    own, sources = block["headline"]["source"], block["sources"]
    names = localization.controls_of(own, sources)
    shown = [control for control in SHOWN_CONTROLS if control in names]
    print(f"{'pointing':20s}{'boxes':>8s}{'own map':>12s}{cells(shown, 12)}")
    for finding, counts in block["findings"].items():
        values = []
        for source in (own, *(names[control] for control in shown)):
            values.append(four_digits(sources[source]["per_class"][finding]["pointing"]["value"]))
        print(f"{finding:20s}{counts['n_boxes']:>8,}{cells(values, 12)}")


def show_sources(sources: dict[str, Any]) -> None:
    unions = []
    for source, block in sources.items():
        pointing = "pointing"
        if block["kind"] == "union":
            pointing = "pointing_union"
            unions.append(source)
        scores = [f"{name} {with_interval(block['mean'][name])}" for name in (pointing, *SHOWN_BOX_SCORES)]
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
    if thresholds["n_fitted"]:
        print(f"{thresholds['scale']} scaling was fitted on {thresholds['n_fitted']:,} others")
    shift = thresholds["shift"]
    for rule in prediction_sets.RULES:
        if rule != "fnr_shifted" or shift:
            print(f"{rule:18s}{threshold_cell(thresholds[rule])}")
    if shift:
        if "why" in shift:
            print(f"  {shift['why']}")
        estimated = [f"{c} {prevalence:.2%}" for c, prevalence in shift["prevalence"].items()]
        print(f"  prevalence there, estimated: {', '.join(estimated)}")
    print(f"{'':20s}{'positives':>10s}{'present from':>14s}{'absent to':>14s}{'precise from':>14s}")
    for c, row in thresholds["each"].items():
        limits = [threshold_cell(row[name]) for name in prediction_sets.EACH]
        print(f"{c:20s}{row['positives']:>10,}{cells(limits, 14)}")
    print(out)
