"""What evaluate.py does: predictions, and what belongs to them, against the labels of a table.

Letters: N images that are scored, K classes.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi import WRITTEN_BY, run_facts
from roi.data.boxes import read_boxes
from roi.data.splits import overlap
from roi.data.table import AMBIGUOUS, match_images, read_table
from roi.data.targets import class_list, target_matrix
from roi.errors import UserError
from roi.files import atomic_write
from roi.labels import LABELS, NORMAL, canonical
from roi.run_paths import portable_metrics
from roi.scoring import faithfulness, localization, metrics, prediction_sets, predictions, summary
from roi.scoring.bootstrap import BootstrapEstimate, estimate
from roi.scoring.calibration import Fit, calibrations
from roi.scoring.challenge import long_tail
from roi.scoring.challenge.studies import Units, align_units
from roi.scoring.challenge.view_groups import groups_of_units
from roi.scoring.challenge.view_pointing import score_views
from roi.scoring.json_schema import PASSED_ON
from roi.scoring.map_controls import LabelledMaps, check_same_kind
from roi.scoring.map_file import REINIT, Maps, read_maps
from roi.scoring.prediction_files.model_facts import is_contaminated, same_model, synthetic_mark
from roi.scoring.predictions import Predictions, class_columns, match_rows

# Files and settings that metrics.json names among its inputs.
INPUTS = ("masks", "curves", "bbox_csv", "box_space", "train_masks", "train_csv", "truth_csv")


@dataclass(frozen=True)
class Options:
    """What is measured beside the scores, and how; files as the flags of the same name give them."""

    resamples: int
    seed: int
    threshold_preds: str | None
    threshold_csv: str | None
    threshold_rule: str
    thresholds: str | None
    curves: str | None
    masks: list[str]
    bbox_csv: str | None
    box_space: float
    train_masks: list[str]
    train_csv: str | None
    compare: str | None
    unit: str = "image"
    truth_csv: str | None = None


@dataclass(frozen=True)
class Scored:
    """The images that are scored."""

    path: str  # file of the predictions
    csv: str  # file of the table
    table: pd.DataFrame
    units: Units  # images, or studies: fewer than images

    @property
    def preds(self) -> Predictions:
        return self.units.preds

    @property
    def rows(self) -> pd.DataFrame:
        """Those of the table in the order of the predictions."""
        return self.units.rows

    @property
    def target(self) -> np.ndarray:
        """(N, K)"""
        return self.units.target

    @property
    def patients(self) -> np.ndarray:
        """(N,)"""
        return self.rows["patient_id"].to_numpy()


def read_scored(path: str, csv: str, members: Sequence[str], unit: str = "image") -> Scored:
    """Read predictions, or the mean of those of `members`, and the rows of their images or studies."""
    table = read_table(csv)
    return Scored(path, csv, table, align_units(path, table, csv, unit, members))


def evaluate(scored: Scored, options: Options) -> dict[str, Any]:
    """Everything that metrics.json says."""
    preds, target, classes = scored.preds, scored.target, scored.preds.classes
    prob = preds.prob["full"]
    fit = read_validation(scored, options) if options.threshold_preds else None
    threshold = None if fit is None else best_thresholds(fit, options.threshold_rule)
    other = None if options.compare is None else read_other_model(scored, options.compare, options.unit)
    counts = long_tail.read_training_counts(options.train_csv, classes, bool(options.train_masks))
    groups = summary.groups_of(scored.rows) | groups_of_units(scored.units, counts)
    statistics = summary.main_scores(preds.prob, target, threshold, groups)
    if "drop" in preds.prob:
        statistics |= faithfulness.confidence_scores(preds.prob, target)
    if counts is not None:
        statistics |= long_tail.statistics(prob, target)
    if other is not None:
        statistics["other"] = metrics.ranking(other.prob["full"], target)
    # All at once: every score sees the same resamples.
    estimates = estimate(statistics, scored.patients, options.resamples, options.seed)

    result = provenance(scored, options)
    result |= summary.tables(estimates, prob, target, classes, threshold)
    chosen_on = {"file": options.threshold_preds, "rule": options.threshold_rule}
    result["thresholds"] = None if fit is None else chosen_on
    findings = summary.scored(target, classes)
    methods = calibrations(prob, target, classes, findings, fit)
    result["calibration"] = {"fitted_on": options.threshold_preds, "methods": methods}
    result["subgroups"] = summary.subgroups(estimates, groups, scored.patients, classes)
    if counts is not None:
        result["long_tail"] = long_tail.long_tail_block(estimates, counts, target)
    if "drop" in preds.prob:
        result["faithfulness"] = faithfulness.confidence(estimates, classes, findings)
    if options.curves:
        block = score_curves(scored, options.curves, options.resamples, options.seed)
        result.setdefault("faithfulness", {})["controls"] = block
    if options.thresholds:
        result["conformal"] = score_promises(scored, options.thresholds, options.resamples, options.seed)
    if options.bbox_csv:
        result["localization"] = score_boxes(scored, options.bbox_csv, options)
    if options.truth_csv:
        result["view_pointing"] = score_truth(scored, options.truth_csv, options)
    if other is not None:
        result["comparison"] = compare(scored, other, estimates, options)
    return result


def compare(
    scored: Scored, other: Predictions, estimates: dict[str, BootstrapEstimate], options: Options
) -> dict[str, Any]:
    """The block of the model that --compare names."""
    ours, theirs = scored.preds.prob["full"], other.prob["full"]
    a, b = estimates["ranking_full"], estimates["other"]
    block = {"file": options.compare, "n_images": len(scored.rows), "contaminated": is_contaminated(other)}
    return block | summary.comparison(a, b, ours, theirs, scored.target, scored.preds.classes)


def provenance(scored: Scored, options: Options) -> dict[str, Any]:
    """Which labels, which split, how many images and patients, trained on or not: stands in every output."""
    preds, rows = scored.preds, scored.rows
    sources = sorted(set(rows["label_source"]) - {""})
    splits = sorted(set(rows["split"]) - {""})
    labelled = set()
    if scored.table["labels"].any():
        labelled = set(class_list(scored.table))
    unpredicted = labelled - set(preds.classes) - set(NORMAL)
    undefined = []
    is_defined = summary.scored(scored.target, preds.classes)
    for c, defined in zip(preds.classes, is_defined, strict=True):
        if not defined and c not in NORMAL:
            undefined.append(c)
    label_source = scored.csv
    if sources:
        label_source = f"{', '.join(sources)} ({scored.csv})"
    studies = {} if options.unit == "image" else {"n_studies": len(rows)}
    return {
        "n_images": scored.units.n_images,
        **studies,
        "n_patients": int(rows["patient_id"].nunique()),
        **synthetic_mark(preds, rows),
        "split": ", ".join(splits) or "unknown",
        "contaminated": is_contaminated(preds),
        "label_source": label_source,
        "classes_not_predicted": sorted(unpredicted, key=foreign_last),
        "classes_undefined": undefined,
        "command": shlex.join(sys.argv),
        "written_by": WRITTEN_BY,
        **run_facts.here(),
        "predictions": {"file": scored.path, **{key: preds.meta[key] for key in PASSED_ON if key in preds.meta}},
        "inputs": {
            "preds": scored.path,
            "csv": scored.csv,
            **{name: getattr(options, name) for name in INPUTS},
        },
    }


def foreign_last(c: str) -> tuple[bool, str]:
    return c not in LABELS, c


def best_thresholds(fit: Fit, rule: str) -> np.ndarray:
    """(K,)"""
    return metrics.per_class(partial(metrics.best_threshold, rule=rule), *fit)


# ---- other files of predictions -------------------------------------------------------------------------------------


def read_validation(scored: Scored, options: Options) -> Fit:
    """Probabilities and targets of --threshold_preds, classes as in the scored ones; nobody may be in both."""
    path, csv = str(options.threshold_preds), str(options.threshold_csv)
    units = align_units(path, read_table(csv), csv, options.unit)
    preds = units.preds
    same_model(scored.preds, preds.meta, path)
    # A threshold that was chosen on what the model knows by heart promises too much elsewhere.
    if is_contaminated(preds):
        raise UserError(
            f"--threshold_preds {path}: the model was trained on some of these images or patients; "
            "choose thresholds on others"
        )
    images, patients = overlap(units.rows, scored.rows)
    if images or patients:
        raise UserError(
            f"--threshold_preds {path}: shares {images:,} images and {patients:,} patients with those that are scored; "
            "thresholds and calibration must be chosen on others (validation)"
        )
    classes = scored.preds.classes
    columns = class_columns(preds.classes, classes, path)
    return preds.prob["full"][:, columns], units.target[:, columns]


def read_other_model(scored: Scored, path: str, unit: str) -> Predictions:
    """Predictions of --compare, images and classes in the order of the scored ones. UserError: they are others."""
    preds = scored.preds
    other = align_units(path, scored.table, scored.csv, unit).preds
    if len(other.images) != len(preds.images):
        raise UserError(
            f"--compare {path}: predicts {len(other.images):,} images, not the same {len(preds.images):,}; "
            "compare on the same images"
        )
    rows = match_rows(preds.images, other.images, "--preds", path)
    columns = class_columns(other.classes, preds.classes, path)
    prob = {"full": other.prob["full"][rows][:, columns]}
    return replace(other, images=preds.images, classes=preds.classes, prob=prob)


# ---- curves and prediction sets -------------------------------------------------------------------------------------


def score_curves(scored: Scored, path: str, resamples: int, seed: int) -> dict[str, Any]:
    """The block `controls` of a file of curves, whose images are some of those that are scored."""
    curves = faithfulness.read_curves(path)
    same_model(scored.preds, curves.meta, path)
    curves.classes = [canonical(c, scored.preds.classes, path) for c in curves.classes]
    place = match_rows(curves.images, scored.preds.images, path, scored.path)
    rows = scored.rows.iloc[place]
    target = target_matrix(rows, curves.classes)
    return faithfulness.controls(curves, target, rows["patient_id"].to_numpy(), resamples, seed)


def score_promises(scored: Scored, path: str, resamples: int, seed: int) -> dict[str, Any]:
    """What came of --thresholds on the scored images; nobody may be among those that set the thresholds."""
    thresholds = prediction_sets.read(path)
    same_model(scored.preds, thresholds["model"], path)
    # Patients are hashed there: names stay with whoever calibrated.
    shared = set(prediction_sets.hashes(scored.patients)) & set(thresholds["patients"])
    if shared:
        raise UserError(
            f"--thresholds {path}: {len(shared):,} patients who are scored set the thresholds; "
            "score others, or calibrate on others"
        )
    columns = class_columns(scored.preds.classes, thresholds["classes"], path)
    prob = scored.preds.prob["full"][:, columns]
    target = target_matrix(scored.rows, thresholds["classes"])
    return {"file": path} | prediction_sets.realised(thresholds, prob, target, scored.patients, resamples, seed)


def score_truth(scored: Scored, path: str, options: Options) -> dict[str, Any]:
    """View pointing by the file of --truth_csv, of images even where studies are scored."""
    return score_views(scored.path, path, scored.table, scored.csv, options.resamples, options.seed)


# ---- maps and boxes -------------------------------------------------------------------------------------------------


def score_boxes(scored: Scored, bbox_csv: str, options: Options) -> dict[str, Any]:
    """Maps against boxes, on the images that are predicted: the block `localization`."""
    table, rows = scored.table, scored.rows
    others = [c for c in scored.preds.classes if c not in LABELS]
    boxes = read_boxes(bbox_csv, options.box_space, [*LABELS, *others])
    names = table["image"].tolist()
    place = match_images(boxes["image"], names)  # (boxes,)
    boxed = np.isin(np.arange(len(table)), place)
    boxed &= is_scored(scored)
    if not boxed.any():
        example = boxes["image"].iloc[0]
        predicted = rows["image"].iloc[0]
        raise UserError(
            f"{bbox_csv}: none of its {len(boxes):,} boxes is of an image "
            f"that {scored.csv} lists and that is predicted "
            f"(a box of {example!r}, a prediction of {predicted!r})"
        )
    # From here on an image has the name that the table gives it; maps of other images would only fill the memory.
    sets = [read_maps(path, names, boxed) for path in options.masks]
    matched = place >= 0
    known_names = [names[n] for n in place[matched]]
    boxes_here = boxes[matched].assign(image=known_names)
    patients = pd.Series(scored.patients, index=rows["image"])
    # The fixed place that labels choose comes from training images where there are maps of them, else in folds.
    if options.train_masks:
        labelled = read_training_maps(options.train_masks, str(options.train_csv), sets)
    else:
        labelled = read_scored_maps(scored, options.masks, sets)
    block = localization.score_maps(
        sets, boxes_here, patients, sets[0].keep_ratio, options.resamples, options.seed, labelled
    )
    return {
        "box_file": bbox_csv,
        "n_boxes_in_file": len(boxes),
        "n_boxes_ambiguous": int((place == AMBIGUOUS).sum()),
        "maps": {path: origin_of(maps) for path, maps in zip(options.masks, sets, strict=True)},
        **block,
    }


def is_scored(scored: Scored) -> np.ndarray:
    """Which rows of the table are predicted. -> bool, a row of the table"""
    return scored.table["image"].isin(scored.rows["image"]).to_numpy()


def origin_of(maps: Maps) -> dict[str, Any]:
    origin: dict[str, Any] = {}
    for key in ("checkpoint", "epoch"):
        if key in maps.meta:
            origin[key] = maps.meta[key]
    origin["contaminated"] = maps.contaminated
    return origin


def with_labels(maps: Maps, table: pd.DataFrame, origin: str) -> LabelledMaps:
    """The maps of images that the table lists, with its labels; without those of new weights."""
    row = match_images(maps.images, table["image"])
    known = np.flatnonzero(row >= 0)
    grids = {}
    for name, grid in maps.maps.items():
        if not name.endswith(REINIT):
            grids[name] = grid[known]
    images = [maps.images[n] for n in known]
    chosen = replace(maps, images=images, maps=grids, kept={})
    labels = table.iloc[row[known]]
    patients = labels["patient_id"].to_numpy().astype(str)
    return LabelledMaps(chosen, target_matrix(labels, maps.classes), patients, origin)


def read_scored_maps(scored: Scored, paths: Sequence[str], sets: Sequence[Maps]) -> list[LabelledMaps]:
    """Labelled maps of the scored images, with boxes or without, of the files that hold a map a finding."""
    names, predicted = scored.table["image"].tolist(), is_scored(scored)
    labelled = []
    for path, maps in zip(paths, sets, strict=True):
        if not maps.one_for_all:
            every_map = read_maps(path, names, predicted)
            labelled.append(with_labels(every_map, scored.rows, "scored images, in folds of patients"))
    return labelled


def read_training_maps(paths: Sequence[str], csv: str, sets: Sequence[Maps]) -> list[LabelledMaps]:
    """Labelled maps of --train_masks; each file must be of the model and the kind of one of --masks, the `sets`."""
    table = read_table(csv)
    labelled = []
    for path in paths:
        maps = read_maps(path)
        check_same_kind(path, maps, sets)
        known = with_labels(maps, table, f"{path}, labels of {csv}")
        if not known.maps.images:
            raise UserError(
                f"--train_masks {path}: none of its {len(maps.images):,} images is in --train_csv {csv}; "
                "give their table"
            )
        images = len(maps.images)
        unlisted = images - len(known.maps.images)
        if unlisted:
            print(f"{path}: {unlisted:,} of its {images:,} images are not in {csv}; left out")
        labelled.append(known)
    return labelled


# ---- files ----------------------------------------------------------------------------------------------------------


def write(out: Path, result: dict[str, Any], ensemble: Scored | None = None) -> None:
    """Write metrics.json and per_class.csv, and the predictions of an ensemble, which are a file like any other."""
    if ensemble is not None:
        predictions.write(ensemble.path, predictions.records(ensemble.preds), ensemble.preds.meta)
    with atomic_write(out / "metrics.json") as file:
        json.dump(portable_metrics(result, out / "metrics.json"), file, indent=1)
    with atomic_write(out / "per_class.csv") as file:
        summary.per_class_table(result).to_csv(file, index=False, float_format=summary.six_digits)
