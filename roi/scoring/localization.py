"""Score maps (ROI masks, Grad-CAM) against boxes, beside controls that keep the same area. Never a torch in here.

Letters: N images, C classes, B boxes, Q pairs (image, finding) that have a box, P patients, K folds, F findings, m
side of a map, R resamples. The metrics stand in roi/scoring/box_matching.py.

A control has every metric; `minus` is a source less a control, paired, patients drawn:
  shuffled      the source's own maps and kept regions, each of another patient's image: SHUFFLES draws averaged. It
                is the same finding's map, so that own - shuffled is what the map owes to its image; a map that is a
                fixed place has 0.
  best_place    the best fixed place a finding, cross-fitted by patient on the boxes (roi/scoring/fixed_places.py)
  label_place   the fixed place a finding that labels alone choose by the source's own maps, cross-fitted too (there)
  reinit        the source of the same model with new weights (Adebayo et al. 2018)
  random        white noise blurred by a Gaussian, DRAWS draws an image averaged
  centre        a disc in the middle of the image
shuffled and best_place are the bar that a map of evidence must pass. random and centre say how hard the boxes are,
which differs between findings: a disc in the middle finds nearly every heart and no nodule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from roi.data.table import match_images
from roi.errors import UserError
from roi.labels import LABELS
from roi.scoring.box_matching import (
    BY_BOX,
    METRICS,
    SMALL,
    UNION,
    Scorer,
    Source,
    Truth,
    Values,
    averaged,
    other_patients,
    prepare,
)
from roi.scoring.fixed_places import DEALS, LabelledMaps, count_boxes, deal_folds, folds_of, label_differences
from roi.scoring.map_file import REINIT, Maps
from roi.scoring.metrics import interval
from roi.text import decimal

DRAWS, SHUFFLES, BLOB = 20, 10, 1.5 / 32  # BLOB: sigma of the random maps, in sides of the map
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
SHARED = ("best_place", "random", "centre")  # controls that are the same for every source


# ---- means and intervals --------------------------------------------------------------------------------------------


def resampled(truth: Truth, values: Values, weights: np.ndarray) -> np.ndarray:
    """Patients counted as each row of weights says. (R, patients) -> (R, metrics of values, 1 + findings), the first
    the mean; NaN = undefined

    A finding's score is the mean over its boxes or pairs, the mean is over findings; that of UNION is over images (an image's pairs averaged).
    """
    patient, finding = truth.image_patient[truth.pair_image], truth.pair_finding
    share = 1 / np.bincount(truth.pair_image)[truth.pair_image]  # (Q,): every image counts once
    patients, findings = weights.shape[1], len(truth.findings)
    drawn = np.full((len(weights), len(values), 1 + findings), np.nan)

    def mean(value: np.ndarray, weight: np.ndarray, who: np.ndarray, what: np.ndarray, groups: int) -> np.ndarray:
        """-> (R, groups)"""
        place, known = who * groups + what, ~np.isnan(value)
        total = np.bincount(place[known], (value * weight)[known], patients * groups).reshape(patients, groups)
        count = np.bincount(place[known], weight[known], patients * groups).reshape(patients, groups)
        top, below = weights @ total, weights @ count
        return np.divide(top, below, out=np.full(top.shape, np.nan), where=below > 0)

    for k, (name, value) in enumerate(values.items()):
        unit = truth.box_pair if name in BY_BOX else np.arange(len(finding))
        each = mean(value, np.ones(len(unit)), patient[unit], finding[unit], findings)
        drawn[:, k, 1:] = each
        if name in UNION:
            drawn[:, k, 0] = mean(value, share, patient, np.zeros(len(finding), dtype=int), 1)[:, 0]
        else:
            defined = (~np.isnan(each)).sum(1)
            drawn[:, k, 0] = np.divide(
                np.nansum(each, axis=1), defined, out=np.full(len(each), np.nan), where=defined > 0
            )
    return drawn


def with_interval(value: float, drawn: np.ndarray) -> dict[str, float | None]:
    """-> {"value", "low", "high"}: percentile interval over the resamples; None = undefined. (R,)"""
    low, high = interval(drawn)
    return {key: None if np.isnan(v) else float(v) for key, v in (("value", value), ("low", low), ("high", high))}


# ---- the section of metrics.json ------------------------------------------------------------------------------------


def read_truth(sets: Sequence[Maps], boxes: pd.DataFrame, patients: pd.Series) -> tuple[Truth, list[np.ndarray]]:
    """-> the boxes of images that every set has, and for each set the rows of these images (N,)"""
    places = np.stack([match_images(boxes["image"], one.images) for one in sets])  # (sets, boxes)
    inside = (places >= 0).all(0)
    if not inside.any():
        example = (
            f" (a box of {boxes['image'].iloc[0]!r}, a map of {sets[0].images[0]!r})"
            if len(boxes) and sets[0].images
            else ""
        )
        raise UserError(
            f"none of the {len(boxes)} boxes belongs to an image that every maps file has{example}; make the maps of images that have boxes"
        )
    boxes = boxes.iloc[np.flatnonzero(inside)].reset_index(drop=True)
    places = places[:, inside]
    for one in sets:
        missing = sorted(set(boxes["label"]) - set(one.classes)) if one.classes != [""] else []
        if missing:
            raise UserError(
                f"boxes of {missing[0]!r} have no map (the maps file has {one.classes}); leave these boxes out or make maps of that class"
            )
    corner = boxes[["x", "y"]].to_numpy(float)
    box = np.clip(np.concatenate([corner, corner + boxes[["w", "h"]].to_numpy(float)], axis=1), 0, 1)
    empty = ~((box[:, 2:] - box[:, :2]) > 0).all(1)
    if empty.any():
        x, y, w, h = boxes.loc[empty, ["x", "y", "w", "h"]].iloc[0]
        raise UserError(
            f"the box ({x:g}, {y:g}, {w:g}, {h:g}) of {boxes['image'][empty].iloc[0]!r} has no area inside the image (sides are 0..1); correct it"
        )
    present = set(boxes["label"])
    findings = [c for c in LABELS if c in present] + sorted(present - set(LABELS))
    finding = boxes["label"].map({c: j for j, c in enumerate(findings)}).to_numpy()
    _, first, image = np.unique(places[0], return_index=True, return_inverse=True)
    pair, box_pair = np.unique(image * len(findings) + finding, return_inverse=True)
    names = pd.Series([sets[0].images[row] for row in places[0, first]], dtype=str)
    known = match_images(names, patients.index)
    if (known < 0).any():
        raise UserError(
            f"{names[known < 0].iloc[0]!r} has a map and a box, but no patient; give the table that lists this image"
        )
    people, patient = np.unique(patients.to_numpy().astype(str)[known], return_inverse=True)
    small = (boxes[["w", "h"]] < SMALL).all(axis=1).to_numpy()
    pair_image, pair_finding = pair // len(findings), pair % len(findings)
    truth = Truth(box, box_pair, small, pair_image, pair_finding, patient, findings, people.tolist())
    return truth, list(places[:, first])


def agreed_ratio(sets: Sequence[Maps], keep_ratio: float) -> float:
    """The kept share that the files were made with; `keep_ratio` where no file says (0)."""
    said = sorted({float(one.keep_ratio) for one in sets if one.keep_ratio > 0})
    if said and said[-1] - said[0] > 1e-6:
        raise UserError(
            f"the maps files keep different shares of the image ({', '.join(f'{r:g}' for r in said)}); make them with one --keep_ratio"
        )
    ratio = said[0] if said else keep_ratio
    if not 0 < ratio <= 1:
        raise UserError(f"keep_ratio {ratio:g}: choose a share above 0 and at most 1")
    return ratio


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
        labelled: maps of images with known labels, from which label_place is chosen; none: there is no label_place.

    Returns:
        n_boxes, n_small_boxes, n_images, n_patients, keep_ratio;
        findings {finding: the same counts};
        headline: the source that stands for the model (headline_source), its pointing and its differences;
        controls: how they were made, and for how many pairs there was no place;
        sources {name: kind ("finding": a map a finding, "union": one map for all findings, "control"), mean, per_class,
        minus {control: {metric: V}}, minus_per_class {control: {finding: {metric: V}}}}.
    """
    if not sets:
        raise UserError("no maps to score; give a maps file")
    ratio = agreed_ratio(sets, keep_ratio)
    truth, rows = read_truth(sets, boxes, patients)
    score = Scorer(truth)
    ties, noise = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    values, shuffled, kinds = dict[str, Values](), dict[str, Values](), dict[str, str]()
    for one, row in zip(sets, rows, strict=True):
        columns = [0] if one.classes == [""] else [one.classes.index(c) for c in truth.findings]
        for name, stack in one.maps.items():
            if name in values or name in SHARED:
                raise UserError(f"two sources are called {name!r}; give each maps file once")
            maps = stack[row][:, columns].reshape(-1, *stack.shape[2:])  # (N * columns, m, m)
            kept = None
            if name in one.kept:
                kept = one.kept[name][row][:, columns].reshape(-1, *one.kept[name].shape[2:])
            source = prepare(maps, kept, ratio, ties)
            values[name] = score(source, map_of_pair(truth, len(columns)))
            kinds[name] = "union" if one.classes == [""] else "finding"
            if not name.endswith(REINIT):
                shuffled[f"{name}_shuffled"] = score_shuffled(score, source, len(columns), seed)
    m = next(iter(sets[0].maps.values())).shape[-1]
    dealing = np.random.default_rng([seed, 4])
    deals = [deal_folds(len(truth.patients), dealing) for _ in range(DEALS)]
    values |= score_blobs(score, m, ratio, ties, noise)
    values["best_place"] = averaged(score_best_place(score, m, folds, ratio, ties) for folds in deals)
    values |= shuffled
    chosen_by = dict[str, Any]()
    for name, maps_of in label_sources(kinds, labelled).items():
        places = averaged(score_label_place(score, maps_of, name, folds, ratio, ties) for folds in deals)
        values[f"{name}_label_place"], without = places, count_undefined(places)
        chosen_by[name] = {"from": maps_of.origin, "n_images": len(maps_of.patients), "pairs_without_place": without}
    sources = summaries(truth, values, kinds, resamples, seed)
    return {
        **counts(truth),
        "keep_ratio": ratio,
        "findings": {c: counts(truth, j) for j, c in enumerate(truth.findings)},
        "headline": headline(sources),
        "controls": {
            "folds": int(deals[0].max()) + 1,
            "deals": DEALS,
            "grid": m,
            "shuffled": {"draws": SHUFFLES},
            "best_place": {"pairs_without_place": count_undefined(values["best_place"])},
            "label_place": chosen_by,
            "random": {"draws": DRAWS},
        },
        "sources": sources,
    }


def map_of_pair(truth: Truth, columns: int, image: np.ndarray | None = None) -> np.ndarray:
    """The place of each pair's map among those of all images, each of which has `columns`: one for all findings, or
    one a finding.

    With `image` (N,) an image is scored on the maps of image[n] instead of its own. -> (Q,)
    """
    chosen = truth.pair_image if image is None else image[truth.pair_image]
    return chosen * columns + truth.pair_finding * (columns > 1)


def count_undefined(values: Values) -> int:
    return int(np.isnan(values["pointing"]).sum())


# ---- controls -------------------------------------------------------------------------------------------------------


def score_shuffled(score: Scorer, source: Source, columns: int, seed: int) -> Values:
    """The maps of other patients' images, the mean over draws; undefined where there is no other patient."""
    truth, rng = score.truth, np.random.default_rng([seed, 3])
    if len(truth.patients) == 1:
        return {name: np.full(len(truth.box if name in BY_BOX else truth.pair_image), np.nan) for name in METRICS}
    others = (other_patients(truth.image_patient, rng) for _ in range(SHUFFLES))
    return averaged(score(source, map_of_pair(truth, columns, other)) for other in others)


def score_blobs(
    score: Scorer, m: int, ratio: float, ties: np.random.Generator, noise: np.random.Generator
) -> dict[str, Values]:
    """The controls `random` and `centre`."""
    truth = score.truth
    images, sigma = len(truth.image_patient), (0, BLOB * m, BLOB * m)
    blobs = (gaussian_filter(noise.standard_normal((images, m, m)), sigma, mode="wrap") for _ in range(DRAWS))
    random = averaged(score(prepare(blob, None, ratio, ties), truth.pair_image) for blob in blobs)
    away = np.square(np.arange(m) + 0.5 - m / 2)
    # A disc for every image, as the cells at its rim are drawn by lot.
    disc = np.broadcast_to(-(away[:, None] + away), (images, m, m))
    return {"random": random, "centre": score(prepare(disc, None, ratio, ties), truth.pair_image)}


def score_places(
    score: Scorer, places: np.ndarray, folds: np.ndarray, ratio: float, ties: np.random.Generator
) -> Values:
    """Each pair on the map of its finding that was chosen outside its patient's fold.

    (K, F, m, m) with NaN where there is no place, (P,) folds -> values, undefined where there is no place
    """
    truth = score.truth
    maps = places.reshape(-1, *places.shape[2:])  # (K * F, m, m)
    unit = folds[truth.image_patient[truth.pair_image]] * len(truth.findings) + truth.pair_finding
    unknown = np.isnan(maps).any(axis=(1, 2))[unit]  # (Q,)
    values = score(prepare(np.nan_to_num(maps), None, ratio, ties), unit)
    for name, value in values.items():
        value[unknown[truth.box_pair] if name in BY_BOX else unknown] = np.nan
    return values


def score_best_place(score: Scorer, m: int, folds: np.ndarray, ratio: float, ties: np.random.Generator) -> Values:
    """The cell that the most boxes of the finding in the other folds contain."""
    truth, inside = score.truth, score.cells(0, m, centres=True)
    pair = truth.box_pair[inside.row]
    fold = folds[truth.image_patient[truth.pair_image[pair]]]
    shape = (int(folds.max()) + 1, len(truth.findings), m)
    counted = count_boxes(fold, truth.pair_finding[pair], inside.cell, shape)
    counted[~counted.any(axis=(2, 3))] = np.nan  # the other folds have no box of that finding
    return score_places(score, counted, folds, ratio, ties)


def label_sources(kinds: dict[str, str], labelled: Sequence[LabelledMaps]) -> dict[str, LabelledMaps]:
    """The sources with a map a finding -> the first labelled maps of the same source; those that have none are left
    out.
    """
    chosen = dict[str, LabelledMaps]()
    for name, kind in kinds.items():
        having = [one for one in labelled if name in one.maps.maps]
        if kind == "finding" and not name.endswith(REINIT) and having:
            chosen[name] = having[0]
    return chosen


def score_label_place(
    score: Scorer, labelled: LabelledMaps, name: str, folds: np.ndarray, ratio: float, ties: np.random.Generator
) -> Values:
    """The mean map of source `name` over images with the finding minus that over images without it."""
    truth = score.truth
    columns = [labelled.maps.classes.index(c) for c in truth.findings]
    maps, target = labelled.maps.maps[name][:, columns], labelled.target[:, columns]
    fold = folds_of(labelled.patients, truth.patients, folds)
    places = label_differences(maps, target, fold, int(folds.max()) + 1)
    return score_places(score, places, folds, ratio, ties)


def controls_of(name: str, sources: Iterable[str]) -> dict[str, str]:
    """Control -> the source that it is, those that there are. New weights are a control themselves, beside blobs
    and disc.
    """
    wanted = {key: key if key in SHARED else f"{name}_{key}" for key in CONTROL_NAMES}
    if name.endswith(REINIT):
        wanted = {key: key for key in ("random", "centre")}
    there = set(sources)
    return {key: control for key, control in wanted.items() if control in there}


# ---- tables ---------------------------------------------------------------------------------------------------------


def summaries(
    truth: Truth, values: dict[str, Values], kinds: dict[str, str], resamples: int, seed: int
) -> dict[str, Any]:
    """Every source with its means, its findings and its differences, all from the same resamples of patients."""
    patients = len(truth.patients)
    draws = resamples if patients > 1 else 0  # one patient alone has no spread to draw
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(patients, np.full(patients, 1 / patients), size=draws).astype(float)

    def tables(scored: Values) -> tuple[dict[str, Any], dict[str, Any]]:
        """-> {metric: V} of the mean, {finding: {metric: V}}"""
        point = resampled(truth, scored, np.ones((1, patients)))[0]  # (metrics, 1 + findings)
        drawn = resampled(truth, scored, weights)  # (R, metrics, 1 + findings)
        each = []
        for j in range(1 + len(truth.findings)):
            each.append({metric: with_interval(point[k, j], drawn[:, k, j]) for k, metric in enumerate(scored)})
        return each[0], dict(zip(truth.findings, each[1:], strict=True))

    sources = dict[str, Any]()
    for name, scored in values.items():
        mean, per_class = tables(scored)
        block = {"kind": kinds.get(name, "control"), "mean": mean, "per_class": per_class}
        minus, minus_per_class = dict[str, Any](), dict[str, Any]()
        for key, control in controls_of(name, values).items() if name in kinds else ():
            difference = {metric: scored[metric] - values[control][metric] for metric in COMPARED}
            minus[key], minus_per_class[key] = tables(difference)
        sources[name] = {**block, "minus": minus, "minus_per_class": minus_per_class}
    return sources


def counts(truth: Truth, finding: int | None = None) -> dict[str, int]:
    """Boxes, small boxes, images and patients, of all findings or of one."""
    everything = np.arange(len(truth.pair_image))
    pairs = everything if finding is None else np.flatnonzero(truth.pair_finding == finding)
    boxes, images = np.isin(truth.box_pair, pairs), np.unique(truth.pair_image[pairs])
    return {
        "n_boxes": int(boxes.sum()),
        "n_small_boxes": int(truth.small[boxes].sum()),
        "n_images": len(images),
        "n_patients": len(np.unique(truth.image_patient[images])),
    }


def headline_source(sources: dict[str, Any]) -> str:
    """The source that stands for the model: the findings' own maps; else the union of a mask; Grad-CAM where there
    is no other.
    """
    maps = [name for name, block in sources.items() if block["kind"] != "control"]
    ours = [name for name in maps if not name.endswith(REINIT)] or maps
    order = {"class_mask": 0, "cam": 3}
    return min(ours, key=lambda name: order.get(name, 1 if sources[name]["kind"] == "finding" else 2))


def headline(sources: dict[str, Any]) -> dict[str, Any]:
    """-> source, kind, pointing, minus {control: V} of pointing: the mean over findings"""
    name = headline_source(sources)
    minus = {control: values["pointing"] for control, values in sources[name]["minus"].items()}
    pointing = sources[name]["mean"]["pointing"]
    return {"source": name, "kind": sources[name]["kind"], "pointing": pointing, "minus": minus}


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


def reading(found: dict[str, Any]) -> list[Reading]:
    """What the differences of the block `headline` allow to say; those without an interval allow nothing."""
    readings = []
    for control, (above, equal, below) in READINGS.items():
        v = found["minus"].get(control) or {"low": None}
        if v["low"] is None:
            continue
        verdict, said = "equal", equal
        if v["low"] > 0:
            verdict, said = "above", above
        elif v["high"] < 0:
            verdict, said = "below", below
        value, low, high = (decimal(v[key], 3, "+") for key in ("value", "low", "high"))
        sentence = f"{said} ({value} [{low}, {high}])."
        readings.append(Reading(control, verdict, sentence))
    return readings
