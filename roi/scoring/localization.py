"""Score maps (ROI masks, Grad-CAM) against boxes, beside controls that keep the same area: the block `localization`.

Letters: N images, C classes, B boxes, Q pairs (image, finding) that have a box, P patients, F findings, M metrics, m
side of a map, R resamples. The metrics stand in roi/scoring/box_matching.py.

A control (roi/scoring/map_controls.py) has every metric; `minus` is a source less a control, paired, patients drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from roi.data.table import match_images
from roi.errors import UserError
from roi.labels import LABELS
from roi.scoring.bootstrap import BootstrapEstimate, Interval, divide, grouped_mean, patient_weights
from roi.scoring.box_matching import BY_BOX, SMALL, UNION, GroundTruth, Scorer, Values, corners
from roi.scoring.map_controls import SHARED, LabelledMaps, add_controls, label_sources, score_shuffled
from roi.scoring.map_file import REINIT, Maps, agreed_ratio
from roi.text import decimal

COMPARED = (
    "pointing",
    "pointing_union",
    "recall",
    "precision",
    "iou@0.1",
    "iou@0.3",
    "iou@0.5",
    "area_iou@0.1",
    "area_iou@0.3",
)
CONTROL_NAMES = {  # the primary ones first
    "shuffled": "the same finding's map of other patients' images",
    "best_place": "the best fixed place a finding, by other patients' boxes",
    "label_place": "the fixed place a finding that labels alone choose",
    "reinit": "the map of a model with new weights",
    "random": "random blobs",
    "centre": "a disc in the centre",
}


# ---- what is scored -------------------------------------------------------------------------------------------------


def read_truth(sets: Sequence[Maps], boxes: pd.DataFrame, patients: pd.Series) -> tuple[GroundTruth, list[np.ndarray]]:
    """The boxes of images that every set has, and for each set the rows of these images (N,)."""
    boxes, places = boxes_with_maps(sets, boxes)
    box = box_corners(boxes)
    present = set(boxes["label"])
    findings = [c for c in LABELS if c in present]
    findings += sorted(present - set(LABELS))
    number = {c: j for j, c in enumerate(findings)}
    finding = boxes["label"].map(number).to_numpy()
    _, first, image = np.unique(places[0], return_index=True, return_inverse=True)
    # A pair is an image and a finding, in one number.
    pair, box_pair = np.unique(image * len(findings) + finding, return_inverse=True)
    images = np.array(sets[0].images, dtype=object)
    names = pd.Series(images[places[0, first]], dtype=str)
    # Intervals draw patients: an image without one cannot be scored.
    known = match_images(names, patients.index)
    unknown = names[known < 0]
    if len(unknown):
        raise UserError(
            f"{unknown.iloc[0]!r} has a map and a box, but no patient; give the table that lists this image"
        )
    patient_names = patients.to_numpy().astype(str)
    people, patient = np.unique(patient_names[known], return_inverse=True)
    truth = GroundTruth(
        box=box,
        box_pair=box_pair,
        small=(boxes[["w", "h"]] < SMALL).all(axis=1).to_numpy(),
        pair_image=pair // len(findings),
        pair_finding=pair % len(findings),
        image_patient=patient,
        findings=findings,
        patients=people.tolist(),
    )
    return truth, list(places[:, first])


def boxes_with_maps(sets: Sequence[Maps], boxes: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """The boxes of images that every set has, and the rows of these images in each set (sets, B)."""
    places = np.stack([match_images(boxes["image"], maps.images) for maps in sets])
    inside = (places >= 0).all(0)
    if not inside.any():
        example = ""
        if len(boxes) and sets[0].images:
            boxed = boxes["image"].iloc[0]
            mapped = sets[0].images[0]
            example = f" (a box of {boxed!r}, a map of {mapped!r})"
        raise UserError(
            f"none of the {len(boxes)} boxes belongs to an image that every maps file has{example}; "
            "make the maps of images that have boxes"
        )
    boxes = boxes.iloc[np.flatnonzero(inside)].reset_index(drop=True)
    for maps in sets:
        missing = sorted(set(boxes["label"]) - set(maps.classes))
        if missing and not maps.one_for_all:
            raise UserError(
                f"boxes of {missing[0]!r} have no map (the maps file has {maps.classes}); "
                "leave these boxes out or make maps of that class"
            )
    return boxes, places[:, inside]


def box_corners(boxes: pd.DataFrame) -> np.ndarray:
    """(left, top, right, bottom) of each box, cut to the image. UserError: nothing is left. -> (B, 4)"""
    # What lies outside the image is no part of a box.
    corner = boxes[["x", "y"]].to_numpy(float)
    opposite = corner + boxes[["w", "h"]].to_numpy(float)
    box = np.concatenate([corner, opposite], axis=1)
    box = np.clip(box, 0, 1)
    begin, end = corners(box)
    empty = ~(end > begin).all(1)
    if empty.any():
        first = boxes[empty].iloc[0]
        image, x, y, w, h = first[["image", "x", "y", "w", "h"]]
        raise UserError(
            f"the box ({x:g}, {y:g}, {w:g}, {h:g}) of {image!r} has no area inside the image (sides are 0..1); "
            "correct it"
        )
    return box


# ---- the block of metrics.json --------------------------------------------------------------------------------------


def score_maps(
    sets: Sequence[Maps],
    boxes: pd.DataFrame,
    patients: pd.Series,
    keep_ratio: float,
    resamples: int,
    seed: int,
    labelled: Sequence[LabelledMaps] = (),
) -> dict[str, Any]:
    """Score every source of the sets beside its controls, on the images that have a box and a map in every set.

    Intervals: patients drawn with replacement, the same resamples for every source, so that `minus` is paired. A box
    or pair on which a control is undefined (no other patient has a box of its finding) is left out of both sides of
    that difference.

    Args:
        sets: files of maps.
        boxes: image, label, x, y, w, h in 0..1.
        patients: image -> patient.
        keep_ratio: used where the files say none; the controls keep that share of the cells of a grid.
        resamples, seed: of the intervals; the controls are drawn with the same seed.
        labelled: maps of images with known labels, from which label_place is chosen; none: there is no label_place.

    Returns:
        n_boxes, n_small_boxes, n_images, n_patients, keep_ratio; findings {finding: the same counts}; headline;
        controls: how they were made (add_controls); sources {name: what summaries gives}.
    """
    if not sets:
        raise UserError("no maps to score; give a maps file")
    ratio = agreed_ratio(sets, keep_ratio)
    truth, rows = read_truth(sets, boxes, patients)
    scorer = Scorer(truth, ratio, ties=np.random.default_rng([seed, 1]))
    kinds, values, shuffled = score_sources(scorer, sets, rows, seed)
    by_labels = label_sources(kinds, labelled)
    values, places = add_controls(scorer, values, shuffled, by_labels, map_side(sets), seed)
    sources = summaries(truth, values, kinds, resamples, seed)
    return {
        **counts(truth),
        "keep_ratio": ratio,
        "findings": {c: counts(truth, j) for j, c in enumerate(truth.findings)},
        "headline": headline(sources),
        "controls": places,
        "sources": sources,
    }


def map_side(sets: Sequence[Maps]) -> int:
    """The side of the grid on which controls are made: that of the first source."""
    first = next(iter(sets[0].maps.values()))
    return first.shape[-1]


def score_sources(
    scorer: Scorer,
    sets: Sequence[Maps],
    rows: Sequence[np.ndarray],
    seed: int,
) -> tuple[dict[str, str], dict[str, Values], dict[str, Values]]:
    """Each source of the sets: its kind, its values, and those of its shuffled control; `rows` (N,) a set."""
    kinds: dict[str, str] = {}
    values: dict[str, Values] = {}
    shuffled: dict[str, Values] = {}
    truth = scorer.truth
    for maps, row in zip(sets, rows, strict=True):
        columns = [0]
        if not maps.one_for_all:
            columns = [maps.classes.index(c) for c in truth.findings]
        for name, stack in maps.maps.items():
            if name in values or name in SHARED:
                raise UserError(f"two sources are called {name!r}; give each maps file once")
            kept = maps.kept.get(name)
            # A union mask has one region for all findings, like its map.
            region = None if kept is None else flat_maps(kept[row], columns)
            source = scorer.prepare(flat_maps(stack[row], columns), region)
            values[name] = scorer.score(source, truth.map_index(len(columns)))
            kinds[name] = "union" if maps.one_for_all else "finding"
            if not name.endswith(REINIT):
                shuffled[f"{name}_shuffled"] = score_shuffled(scorer, source, len(columns), seed)
    return kinds, values, shuffled


def flat_maps(stack: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """(N, C, m, m) -> (N * columns, m, m)"""
    return stack[:, columns].reshape(-1, *stack.shape[2:])


def controls_of(name: str, sources: Iterable[str]) -> dict[str, str]:
    """Control -> the source that it is, those that there are. New weights are a control themselves, beside blobs
    and disc.
    """
    wanted = ("random", "centre") if name.endswith(REINIT) else tuple(CONTROL_NAMES)
    existing = set(sources)
    controls = {}
    for key in wanted:
        control = key if key in SHARED else f"{name}_{key}"
        if control in existing:
            controls[key] = control
    return controls


# ---- means and intervals --------------------------------------------------------------------------------------------


def summaries(
    truth: GroundTruth,
    values: dict[str, Values],
    kinds: dict[str, str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Every source with its means, its findings and its differences, all from the same resamples of patients.

    Returns:
        source -> kind ("finding": a map a finding, "union": one map for all findings, "control"), mean {metric: V},
        per_class {finding: {metric: V}}, minus {control: {metric: V}} and minus_per_class.
    """
    # The same draws for every source, so that differences are paired.
    weights = patient_weights(len(truth.patients), resamples, seed)
    sources: dict[str, Any] = {}
    for name, own in values.items():
        mean, of_findings = metric_tables(truth, own, weights)
        minus: dict[str, Any] = {}
        minus_of_findings: dict[str, Any] = {}
        controls = controls_of(name, values) if name in kinds else {}
        for key, control in controls.items():
            difference = {metric: own[metric] - values[control][metric] for metric in COMPARED}
            minus[key], minus_of_findings[key] = metric_tables(truth, difference, weights)
        sources[name] = {
            "kind": kinds.get(name, "control"),
            "mean": mean,
            "per_class": of_findings,
            "minus": minus,
            "minus_per_class": minus_of_findings,
        }
    return sources


def metric_tables(
    truth: GroundTruth,
    values: Values,
    weights: np.ndarray,
) -> tuple[dict[str, Interval], dict[str, dict[str, Interval]]]:
    """Metric -> V of the mean, and finding -> metric -> V. (R, P)"""
    ones = np.ones((1, weights.shape[1]))
    point = metric_means(truth, values, ones)[0]  # (M, 1 + F)
    estimate = BootstrapEstimate(point, metric_means(truth, values, weights))
    tables = []
    for j in range(1 + len(truth.findings)):
        tables.append(estimate.column(j).by_name(list(values)))
    of_findings = dict(zip(truth.findings, tables[1:], strict=True))
    return tables[0], of_findings


def metric_means(truth: GroundTruth, values: Values, weights: np.ndarray) -> np.ndarray:
    """Means with patients counted as each row of weights says; NaN = undefined.

    A finding's score is the mean over its boxes or pairs, the mean is over findings; that of UNION is over images (an
    image's pairs averaged). (R, P) -> (R, M, 1 + F), the first the mean
    """
    patient = truth.image_patient[truth.pair_image]  # (Q,)
    share = 1 / np.bincount(truth.pair_image)[truth.pair_image]  # (Q,): every image counts once
    findings = len(truth.findings)
    means = np.full((len(weights), len(values), 1 + findings), np.nan)
    for k, (name, value) in enumerate(values.items()):
        pair = truth.box_pair if name in BY_BOX else np.arange(len(patient))
        alike = np.ones(len(pair))
        each = grouped_mean(value, alike, patient[pair], truth.pair_finding[pair], findings, weights)
        means[:, k, 1:] = each
        if name in UNION:
            one_group = np.zeros(len(patient), dtype=int)
            mean = grouped_mean(value, share, patient, one_group, 1, weights)
            means[:, k, 0] = mean[:, 0]
        else:
            # A mean over all boxes would be that of the finding with the most of them.
            defined = (~np.isnan(each)).sum(1)
            means[:, k, 0] = divide(np.nansum(each, axis=1), defined)
    return means


def counts(truth: GroundTruth, finding: int | None = None) -> dict[str, int]:
    """Boxes, small boxes, images and patients, of all findings or of one."""
    pairs = np.arange(len(truth.pair_image))
    if finding is not None:
        pairs = np.flatnonzero(truth.pair_finding == finding)
    boxes = np.isin(truth.box_pair, pairs)
    images = np.unique(truth.pair_image[pairs])
    return {
        "n_boxes": int(boxes.sum()),
        "n_small_boxes": int(truth.small[boxes].sum()),
        "n_images": len(images),
        "n_patients": len(np.unique(truth.image_patient[images])),
    }


# ---- what it says ---------------------------------------------------------------------------------------------------


def headline_source(sources: dict[str, Any]) -> str:
    """The source that stands for the model: the findings' own maps; else the union of a mask; Grad-CAM where there
    is no other.
    """
    maps = [name for name, block in sources.items() if block["kind"] != "control"]
    trained = [name for name in maps if not name.endswith(REINIT)] or maps

    def order(name: str) -> int:
        if name in ("class_mask", "cam"):
            return 0 if name == "class_mask" else 3
        return 1 if sources[name]["kind"] == "finding" else 2

    return min(trained, key=order)


def headline(sources: dict[str, Any]) -> dict[str, Any]:
    """The entries source, kind, pointing, minus {control: V} of pointing: the mean over findings."""
    name = headline_source(sources)
    source = sources[name]
    minus = {}
    for control, values in source["minus"].items():
        minus[control] = values["pointing"]
    return {
        "source": name,
        "kind": source["kind"],
        "pointing": source["mean"]["pointing"],
        "minus": minus,
    }


# What a difference allows to say: above its interval, no difference shown, below.
READINGS = {
    "shuffled": (
        "The map depends on its image: the same map of another patient's image points into the box less often",
        "Nothing shows that the map depends on its image: the same map of another patient's image does as well",
        "The same map of another patient's image points into the box more often than the image's own",
    ),
    "best_place": (
        "The map finds more than the best fixed place a finding",
        "The map is not shown to find more than the best fixed place a finding",
        "The map finds less than the best fixed place a finding: pointing at one spot, without looking, does better",
    ),
}


class Reading(NamedTuple):
    control: str
    verdict: str  # "above", "equal" or "below" the control
    sentence: str


def reading(block: dict[str, Any]) -> list[Reading]:
    """What the differences of the block `headline` allow to say; those without an interval allow nothing."""
    readings = []
    for control, (above, equal, below) in READINGS.items():
        v = block["minus"].get(control)
        if v is None or v["low"] is None:
            continue
        verdict, message = "equal", equal
        if v["low"] > 0:
            verdict, message = "above", above
        elif v["high"] < 0:
            verdict, message = "below", below
        value, low, high = (decimal(v[key], 3, "+") for key in ("value", "low", "high"))
        sentence = f"{message} ({value} [{low}, {high}])."
        readings.append(Reading(control, verdict, sentence))
    return readings
