"""Score predictions against a table: how good, how sure, how well calibrated, for whom, and does the mask matter?

    python evaluate.py --preds preds.json --csv nih_roi_test.csv --out scores
    python evaluate.py --ensemble seed0/preds.json seed1/preds.json seed2/preds.json --csv nih_roi_test.csv --out scores_ensemble
    python evaluate.py --preds preds.json --csv nih_roi_test.csv --threshold_preds preds_val.json --threshold_csv checkpoints/nih_roi_consistency_val.csv \\
        --masks masks.npz cam.npz --bbox_csv "$D/BBox_List_2017.csv" --curves curves.npz --compare preds_standard.json --out scores

Predictions are preds.json, or any CSV with a column `image` and one of probabilities a class (prob_Mass ...). Writes
OUT/metrics.json, which the report reads, and OUT/per_class.csv, and prints the scores. Every value has a 95 % interval:
patients are drawn with replacement, all their images with them. Unknown labels are left out finding by finding; a finding
without both classes is undefined (null), never 0.5. Means are over findings, never over Normal. A table of several data sets is
also scored set by set: over all of its images a model gains by telling the sets apart, since their prevalence differs.

F1, precision, recall, specificity and Youden's J stand at thresholds chosen on --threshold_preds (validation images), where
temperature and Platt scaling are fitted too; its patients may not be among those that are scored. --curves adds what
happens when the mask, or a control of the same area, keeps 1 to 50 % of the image. --thresholds adds what came of
the promises of calibrate_conformal.py: realised risks and sizes of the prediction sets. No model is loaded.

--masks with --bbox_csv adds the boxes: pointing game, IoU, IoBB, share kept. The headline is each finding's own map
(--class_masks of infer_roi_consistency.py), less what it must beat: the same finding's map of other patients' images
(a map that never looks at its image equals it) and the best fixed place a finding, chosen in 5 folds of patients on the
boxes of the other folds. Beside them: the fixed place that labels alone choose, by the mean map of images with the
finding minus that of images without it (of the scored images, in folds, too; or of training images, whose maps
--train_masks gives and whose labels --train_csv), a model with new weights, random blobs, a disc in the centre.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi import cli
from roi.data.boxes import read_boxes
from roi.data.splits import overlap
from roi.data.table import AMBIGUOUS, match_images, read_table
from roi.data.targets import class_list, target_matrix
from roi.errors import UserError
from roi.files import atomic_write, refuse_existing
from roi.labels import LABELS, NORMAL, canonical
from roi.scoring import faithfulness, localization, metrics, prediction_sets, predictions, summary
from roi.scoring.fixed_places import LabelledMaps
from roi.scoring.map_file import REINIT, Maps, read_maps
from roi.scoring.predictions import align_with_table, columns, is_contaminated, match_rows, models_of, same_model
from roi.text import decimal

ORIGIN = (
    "checkpoint",
    "epoch",
    "keep_ratio",
    "tta",
    "versions",
    "args",
    "command",
    "image_root",
    "ensemble",
)  # what is passed on of preds.meta.json
# What the report is told of.
INPUTS = ("preds", "csv", "masks", "curves", "bbox_csv", "box_space", "train_masks", "train_csv")

TRAINED_ON = {
    True: "CONTAMINATED: the checkpoint was trained on some of these images or patients; these are no test scores",
    False: "none of these images was trained on, nor another image of their patients",
    None: "the predictions do not say what was trained on",
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--preds",
        metavar="FILE",
        help="predictions: preds.json of infer_roi_consistency.py, or a CSV with prob_CLASS columns",
    )
    parser.add_argument(
        "--ensemble",
        nargs="+",
        default=[],
        metavar="FILE",
        help="predictions of several models for the same images, --preds among them or left out: the mean of their probabilities is scored, and written "
        "to OUT/ensemble.json, which is a file of predictions like any other",
    )
    parser.add_argument("--csv", required=True, metavar="CSV", help="table with the labels of their images")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for metrics.json and per_class.csv")
    parser.add_argument(
        "--resamples",
        type=cli.number(int, 0),
        default=1000,
        metavar="N",
        help="bootstrap resamples; 0: no intervals (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=cli.number(int, 0),
        default=0,
        help="of the resamples and of the random controls (default: %(default)s)",
    )
    off = parser.add_argument_group("thresholds and calibration, from images that are not scored")
    off.add_argument(
        "--threshold_preds", metavar="FILE", help="predictions on validation images (default: no thresholds)"
    )
    off.add_argument(
        "--threshold_csv", metavar="CSV", help="their table; training writes it as <stem>_val.csv beside the checkpoint"
    )
    off.add_argument(
        "--threshold_rule",
        choices=("f1", "youden"),
        default="f1",
        help="what a threshold makes largest there (default: %(default)s)",
    )
    off.add_argument(
        "--thresholds", metavar="JSON", help="of calibrate_conformal.py: what came of its promises on these images"
    )
    evidence = parser.add_argument_group("evidence")
    evidence.add_argument(
        "--curves",
        metavar="NPZ",
        help="of infer_roi_consistency.py --curves: the mask against controls of the same area",
    )
    evidence.add_argument(
        "--masks",
        nargs="+",
        default=[],
        metavar="NPZ",
        help="of infer_roi_consistency.py --class_masks, --save_masks or --cam; scored where --bbox_csv is given, "
        "shown in the report",
    )
    evidence.add_argument(
        "--bbox_csv", metavar="CSV", help="BBox_List_2017.csv, or any table with image, label, x, y, w, h"
    )
    evidence.add_argument(
        "--box_space",
        type=cli.number(float, 1),
        default=1024.0,
        metavar="PX",
        help="side of the square that boxes of another table live in (default: 1024)",
    )
    evidence.add_argument(
        "--train_masks",
        nargs="+",
        default=[],
        metavar="NPZ",
        help="--class_masks or --cam of training images: the fixed place that labels choose is theirs "
        "(default: that of the scored images, in folds of patients)",
    )
    evidence.add_argument("--train_csv", metavar="CSV", help="table with the labels of the images of --train_masks")
    parser.add_argument(
        "--compare",
        metavar="FILE",
        help="predictions of another model for the same images: paired differences, ours minus theirs",
    )
    cli.add_overwrite(parser, "scores of an earlier run")
    args = parser.parse_args(argv)
    args.ensemble = list(dict.fromkeys([*([args.preds] if args.preds and args.ensemble else []), *args.ensemble]))
    if len(args.ensemble) == 1 or not (args.preds or args.ensemble):
        parser.error(
            "--ensemble needs at least two files" if args.ensemble else "give --preds FILE, or --ensemble FILE FILE …"
        )
    args.preds = str(Path(args.out) / "ensemble.json") if args.ensemble else args.preds
    if bool(args.threshold_preds) != bool(args.threshold_csv):
        parser.error("--threshold_preds and --threshold_csv go together")
    if args.bbox_csv and not args.masks:
        parser.error("--bbox_csv needs --masks")
    if bool(args.train_masks) != bool(args.train_csv):
        parser.error("--train_masks and --train_csv go together")
    if args.train_masks and not args.bbox_csv:
        parser.error("--train_masks needs --masks and --bbox_csv: it gives a control for pointing into boxes")
    return args


def main(args: argparse.Namespace) -> None:
    out = Path(args.out)
    refuse_existing(
        out / "metrics.json", out / "per_class.csv", args.preds if args.ensemble else None, overwrite=args.overwrite
    )
    table = read_table(args.csv)
    preds, rows = align_with_table(args.preds, table, args.csv, args.ensemble)
    target, classes = target_matrix(rows, preds.classes), preds.classes
    prob, patients = preds.prob["full"], rows["patient_id"].to_numpy()
    fit = validation(args, preds, rows)
    threshold = (
        None if fit is None else metrics.per_class(lambda p, y: metrics.best_threshold(p, y, args.threshold_rule), *fit)
    )
    groups = summary.groups_of(rows)
    measures = summary.main_scores(preds.prob, target, threshold) | summary.subgroup_scores(prob, target, groups)
    if "drop" in preds.prob:
        measures |= faithfulness.confidence_scores(preds.prob, target)
    other, other_trained = other_model(args.compare, preds, args.csv, table) if args.compare else (None, None)
    if other is not None:
        measures["other"] = metrics.ranking(other, target)
    drawn = summary.estimate(measures, patients, args.resamples, args.seed)
    result: dict[str, Any] = {
        **provenance(args, preds, rows, table, target),
        **summary.tables(drawn, prob, target, classes, threshold),
        "thresholds": None if fit is None else {"file": args.threshold_preds, "rule": args.threshold_rule},
        "calibration": {"fitted_on": args.threshold_preds, "methods": summary.calibrations(prob, target, classes, fit)},
        "subgroups": summary.subgroups(drawn, groups, patients, classes),
    }
    if "drop" in preds.prob:
        result["faithfulness"] = faithfulness.confidence(drawn, classes, summary.scored(target, classes))
    if args.curves:
        result.setdefault("faithfulness", {})["controls"] = curves_of(args, preds, rows)
    if args.thresholds:
        result["conformal"] = promises(args, preds, rows)
    if args.bbox_csv:
        result["localization"] = boxes_of(args, classes, rows, table)
    if other is not None:
        differences = summary.comparison(drawn["ranking_full"], drawn["other"], prob, other, target, classes)
        result["comparison"] = {
            "file": args.compare,
            "n_images": len(rows),
            "contaminated": other_trained,
            **differences,
        }
    if args.ensemble:
        predictions.write(args.preds, predictions.records(preds), preds.meta)
    with atomic_write(out / "metrics.json") as file:
        json.dump(result, file, indent=1)
    with atomic_write(out / "per_class.csv") as file:
        as_table(result).to_csv(file, index=False, float_format=six_digits)
    show(result)


def validation(
    args: argparse.Namespace, scored: predictions.Predictions, rows: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray] | None:
    """Probabilities and targets of --threshold_preds, classes in the order of `scored`; it may share nobody with the scored rows."""
    if not args.threshold_preds:
        return None
    preds, theirs = align_with_table(args.threshold_preds, read_table(args.threshold_csv), args.threshold_csv)
    same_model(scored, preds.meta, args.threshold_preds)
    if is_contaminated(preds):
        raise UserError(
            f"--threshold_preds {args.threshold_preds}: the model was trained on some of these images or patients; choose thresholds on others"
        )
    images, patients = overlap(theirs, rows)
    if images or patients:
        raise UserError(
            f"--threshold_preds {args.threshold_preds}: shares {images:,} images and {patients:,} patients with those that are scored; "
            "thresholds and calibration must be chosen on others (validation)"
        )
    return preds.prob["full"][:, columns(preds.classes, scored.classes, args.threshold_preds)], target_matrix(
        theirs, scored.classes
    )


def other_model(
    path: str, preds: predictions.Predictions, csv: str, table: pd.DataFrame
) -> tuple[np.ndarray, bool | None]:
    """(N, K) probabilities of --compare in the order of `preds`, and whether that model was trained on them; the images must be the same."""
    other, _ = align_with_table(path, table, csv)
    if len(other.images) != len(preds.images):
        raise UserError(
            f"--compare {path}: predicts {len(other.images):,} images, not the same {len(preds.images):,}; compare on the same images"
        )
    return other.prob["full"][match_rows(preds.images, other.images, "--preds", path)][
        :, columns(other.classes, preds.classes, path)
    ], is_contaminated(other)


def curves_of(args: argparse.Namespace, preds: predictions.Predictions, rows: pd.DataFrame) -> dict[str, Any]:
    curves = faithfulness.read_curves(args.curves)
    same_model(preds, curves.meta, args.curves)
    curves.classes = [canonical(c, preds.classes, args.curves) for c in curves.classes]
    theirs = rows.iloc[match_rows(curves.images, preds.images, args.curves, args.preds)]
    return faithfulness.controls(
        curves, target_matrix(theirs, curves.classes), theirs["patient_id"].to_numpy(), args.resamples, args.seed
    )


def promises(args: argparse.Namespace, preds: predictions.Predictions, rows: pd.DataFrame) -> dict[str, Any]:
    """Prediction sets of --thresholds on the scored images; nobody may be among those that set the thresholds."""
    thresholds = prediction_sets.read(args.thresholds)
    same_model(preds, thresholds["model"], args.thresholds)
    shared = set(prediction_sets.hashes(rows["patient_id"].to_numpy())) & set(thresholds["patients"])
    if shared:
        raise UserError(
            f"--thresholds {args.thresholds}: {len(shared):,} patients who are scored set the thresholds; score others, or calibrate on others"
        )
    place = columns(preds.classes, thresholds["classes"], args.thresholds)
    target = target_matrix(rows, thresholds["classes"])
    found = prediction_sets.realised(
        thresholds, preds.prob["full"][:, place], target, rows["patient_id"].to_numpy(), args.resamples, args.seed
    )
    return {"file": args.thresholds, **found}


def boxes_of(args: argparse.Namespace, classes: list[str], rows: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """Maps against boxes, on the images that are predicted: `rows` of `table`."""
    boxes = read_boxes(args.bbox_csv, args.box_space, [*LABELS, *(c for c in classes if c not in LABELS)])
    names = table["image"].tolist()
    place = match_images(boxes["image"], names)  # (boxes,)
    boxed = np.isin(np.arange(len(table)), place) & table["image"].isin(rows["image"]).to_numpy()
    if not boxed.any():
        raise UserError(
            f"{args.bbox_csv}: none of its {len(boxes):,} boxes is of an image "
            f"that {args.csv} lists and that is predicted "
            f"(a box of {boxes['image'].iloc[0]!r}, a prediction of {rows['image'].iloc[0]!r})"
        )
    # From here on an image has the name that the table gives it; maps of other images would only fill the memory.
    sets = [read_maps(path, names, boxed) for path in args.masks]
    here = boxes[place >= 0].assign(image=[names[n] for n in place[place >= 0]])
    patients = pd.Series(rows["patient_id"].to_numpy(), index=rows["image"])
    origin = {}
    for path, maps in zip(args.masks, sets, strict=True):
        origin[path] = {k: maps.meta[k] for k in ("checkpoint", "epoch") if k in maps.meta} | {
            "contaminated": maps.contaminated
        }
    labelled = training_maps(args, sets) if args.train_masks else scored_maps(args, sets, rows, table)
    scored = localization.score_maps(sets, here, patients, sets[0].keep_ratio, args.resamples, args.seed, labelled)
    return {
        "box_file": args.bbox_csv,
        "n_boxes_in_file": len(boxes),
        "n_boxes_ambiguous": int((place == AMBIGUOUS).sum()),
        "maps": origin,
        **scored,
    }


def with_labels(maps: Maps, table: pd.DataFrame, origin: str) -> LabelledMaps:
    """The maps of images that the table lists, with its labels; without those of new weights."""
    row = match_images(maps.images, table["image"])
    known = np.flatnonzero(row >= 0)
    grids = {name: grid[known] for name, grid in maps.maps.items() if not name.endswith(REINIT)}
    chosen = replace(maps, images=[maps.images[n] for n in known], maps=grids, kept={})
    labels = table.iloc[row[known]]
    patients = labels["patient_id"].to_numpy().astype(str)
    return LabelledMaps(chosen, target_matrix(labels, maps.classes), patients, origin)


def scored_maps(
    args: argparse.Namespace, sets: Sequence[Maps], rows: pd.DataFrame, table: pd.DataFrame
) -> list[LabelledMaps]:
    """Labelled maps of the scored images, with boxes or without, of the files that hold a map a finding."""
    names, predicted = table["image"].tolist(), table["image"].isin(rows["image"]).to_numpy()
    by_finding = [path for path, maps in zip(args.masks, sets, strict=True) if maps.classes != [""]]
    read = [read_maps(path, names, predicted) for path in by_finding]
    return [with_labels(maps, rows, "scored images, in folds of patients") for maps in read]


def training_maps(args: argparse.Namespace, sets: Sequence[Maps]) -> list[LabelledMaps]:
    """Labelled maps of --train_masks; each file must be of the model and the kind of one of --masks."""
    table = read_table(args.train_csv)
    labelled = []
    for path in args.train_masks:
        maps = read_maps(path)
        ours = [one for one in sets if one.classes == maps.classes != [""] and one.maps.keys() & maps.maps.keys()]
        if not ours:
            raise UserError(
                f"--train_masks {path}: holds {', '.join(maps.maps)} of {len(maps.classes)} classes, and no file of "
                "--masks holds the same; make both with infer_roi_consistency.py --class_masks (or --cam), "
                "of one checkpoint"
            )
        theirs, scored = models_of(maps.meta), models_of(ours[0].meta)
        if theirs and scored and theirs != scored:
            raise UserError(
                f"--train_masks {path}: comes from {theirs[0]}, the scored maps from {scored[0]}; "
                "make both of one checkpoint"
            )
        known = with_labels(maps, table, f"{path}, labels of {args.train_csv}")
        if not known.maps.images:
            raise UserError(
                f"--train_masks {path}: none of its {len(maps.images):,} images is in --train_csv {args.train_csv}; "
                "give their table"
            )
        lost = len(maps.images) - len(known.maps.images)
        if lost:
            print(f"{path}: {lost:,} of its {len(maps.images):,} images are not in {args.train_csv}; left out")
        labelled.append(known)
    return labelled


def provenance(
    args: argparse.Namespace,
    preds: predictions.Predictions,
    rows: pd.DataFrame,
    table: pd.DataFrame,
    target: np.ndarray,
) -> dict[str, Any]:
    """Which labels, which split, how many images and patients, trained on or not: stands in every output."""
    sources = sorted(set(rows["label_source"]) - {""})
    present = set(class_list(table)) if table["labels"].any() else set()
    return {
        "n_images": len(rows),
        "n_patients": int(rows["patient_id"].nunique()),
        "split": ", ".join(sorted(set(rows["split"]) - {""})) or "unknown",
        "contaminated": is_contaminated(preds),
        "label_source": f"{', '.join(sources)} ({args.csv})" if sources else args.csv,
        "classes_not_predicted": [
            c for c in sorted(present, key=lambda c: (c not in LABELS, c)) if c not in preds.classes and c not in NORMAL
        ],
        "classes_undefined": [
            c
            for c, ok in zip(preds.classes, summary.scored(target, preds.classes), strict=True)
            if not ok and c not in NORMAL
        ],
        "command": shlex.join(sys.argv),
        "predictions": {"file": args.preds, **{k: preds.meta[k] for k in ORIGIN if k in preds.meta}},
        "inputs": {name: getattr(args, name) for name in INPUTS},
    }


def as_table(result: dict[str, Any]) -> pd.DataFrame:
    """One row a class and one of the mean; where the numbers come from stands in every row."""
    names = list(result["mean"])
    rows = []
    for c, values in {"mean": result["mean"], **result["per_class"]}.items():
        row: dict[str, Any] = {"class": c, "positives": values.get("positives"), "known": values.get("known")}
        for name in names:
            row |= {
                name: values[name]["value"],
                f"{name}_low": values[name]["low"],
                f"{name}_high": values[name]["high"],
            }
        rows.append(
            {**row, "threshold": values.get("threshold")}
            | {k: result[k] for k in ("n_images", "n_patients", "split", "contaminated", "label_source")}
        )
    return pd.DataFrame(rows).astype({"positives": "Int64", "known": "Int64"})


def six_digits(value: Any) -> str:
    return decimal(value, 6)


def text(score: dict[str, float | None]) -> str:
    value, low, high = score["value"], score["low"], score["high"]
    if value is None:
        return "undefined"
    limits = "" if low is None or high is None else f" [{decimal(low, 4)}, {decimal(high, 4)}]"
    return decimal(value, 4) + limits


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['n_images']:,} images of {result['n_patients']:,} patients, split: {result['split']}, labels: {result['label_source']}"
    )
    print(TRAINED_ON[result["contaminated"]])
    if result["classes_not_predicted"]:
        print(f"not predicted, so not in the means: {', '.join(result['classes_not_predicted'])}")
    if result["classes_undefined"]:
        print(f"without both classes here, so undefined and not in the means: {', '.join(result['classes_undefined'])}")
    shown = (
        [name for name in result["mean"] if name.startswith("auroc")]
        + ["ap"]
        + (["f1"] if result["thresholds"] else [])
    )
    print(f"{'':20s}{'positives':>10s}" + "".join(f"{name:>24s}" for name in shown))
    for c, values in {"mean": result["mean"], **result["per_class"]}.items():
        print(f"{c:20s}{values.get('positives', ''):>10}" + "".join(f"{text(values[name]):>24s}" for name in shown))
    errors = {method: values["mean"]["ece"] for method, values in result["calibration"]["methods"].items()}
    print(
        "calibration error: "
        + ", ".join(f"{method} {'undefined' if e is None else f'{e:.4f}'}" for method, e in errors.items())
    )
    for name, block in result["subgroups"].items():
        print(
            f"by {name} ({len(block['findings'])} findings): "
            + "; ".join(f"{g} {text(v['auroc'])}" for g, v in block["groups"].items())
        )
        if name == "dataset":
            print(
                "each on its own findings: "
                + "; ".join(
                    f"{g} {text(v['auroc_own'])} ({len(v['findings_own'])})" for g, v in block["groups"].items()
                )
            )
    if "conformal" in result:
        show_sets(result["conformal"])
    if "comparison" in result:
        score = result["comparison"]["mean"]["auroc"]
        print(
            f"minus {result['comparison']['file']}: {text(score)}, p {score['p']}"
            + ("; THAT MODEL is contaminated" if result["comparison"]["contaminated"] else "")
        )
    controls = result.get("faithfulness", {}).get("controls", {})
    for source, values in controls.get("sources", {}).items():
        print(
            f"{source:10s} AUROC at {controls['keep_ratio']:g} kept: crop {text(values['crop'])}, drop {text(values['drop'])}"
        )
    if controls.get("contaminated"):
        print("the model of --curves is CONTAMINATED: it was trained on some of these images or patients")
    if "localization" in result:
        show_boxes(result["localization"])


def show_boxes(found: dict[str, Any]) -> None:
    """The findings' own maps beside their controls, what that says, each finding, and every source."""
    print(
        f"{found['n_boxes']:,} of the {found['n_boxes_in_file']:,} boxes of {found['box_file']} "
        "are on images with maps; they are scored"
    )
    if found["n_boxes_ambiguous"]:
        print(f"{found['n_boxes_ambiguous']:,} boxes are left out, as their image may be any of several of the table")
    for file in (file for file, facts in found["maps"].items() if facts["contaminated"]):
        print(f"{file}: CONTAMINATED: its model was trained on some of these images or patients")
    head, sources = found["headline"], found["sources"]
    whose = "each finding's own map into its box"
    if head["kind"] == "union":
        whose = "one map for all findings into the box of each"
    print(f"POINTING of {whose} ({head['source']}): {text(head['pointing'])}")
    for control, score in head["minus"].items():
        print(f"  minus {localization.CONTROL_NAMES[control]:58s}{text(score):>26s}")
    for said in localization.reading(head):
        print(f"  {said.sentence}")
    without = found["controls"]["best_place"]["pairs_without_place"]
    if without:
        print(f"  {without:,} findings of images have no box in another fold, so no best place: left out of that line")
    names = localization.controls_of(head["source"], sources)
    shown = {control: names[control] for control in ("shuffled", "best_place", "centre") if control in names}
    print(f"{'pointing':20s}{'boxes':>8s}{'own map':>12s}" + "".join(f"{control:>12s}" for control in shown))
    for finding, counts in found["findings"].items():
        scores_of = [sources[source]["per_class"][finding]["pointing"] for source in (head["source"], *shown.values())]
        values = ["undefined" if v["value"] is None else f"{v['value']:.4f}" for v in scores_of]
        print(f"{finding:20s}{counts['n_boxes']:>8,}" + "".join(f"{v:>12s}" for v in values))
    for source, block in sources.items():
        pointing = "pointing_union" if block["kind"] == "union" else "pointing"
        line = [f"{name} {text(block['mean'][name])}" for name in (pointing, "recall", "iou@0.1", "iou@0.3")]
        print(f"{source:24s} {', '.join(line)}")
    unions = [source for source, block in sources.items() if block["kind"] == "union"]
    if unions:
        names_of = ", ".join(unions)
        print(f"{names_of}: one map for all findings; boxes mark one of several, so it may be right where no box is")


def show_sets(found: dict[str, Any]) -> None:
    print(f"prediction sets of {found['file']}, alpha {found['alpha']:g}, for the next {found['unit']}")
    for rule, row in found["rules"].items():
        said = ", ".join(
            f"{name} {text(row[name])}" for name in ("fnr", "fnr_with_finding", "fdr", "size", "size_with_finding")
        )
        print(f"{rule:18s}{said}")
    for rule in found["infeasible"]:
        print(f"{rule:18s}infeasible at this alpha")
    if found["shift"]["warning"]:
        print(f"WARNING: {found['shift']['warning']}")


if __name__ == "__main__":
    cli.run(main, parse_args)
