"""Score maps (ROI masks, Grad-CAM) against boxes of radiologists, beside controls that keep the same area. Never a torch in here.

Letters: N images, C classes, B boxes, Q pairs (image, finding) that have a box, U maps of a source, m side of a map, G side of the grid
of the kept region (the model's input, or m), D detected boxes, R resamples. Boxes are (left, top, right, bottom) in 0..1 of the image.

What is scored (T a threshold; all but `false` lie in 0..1, higher = better):
  pointing          pair: the centre of the map's highest cell lies in a box of the finding (Zhang et al. 2016, "Top-down neural attention by
                    excitation backprop", without their tolerance). Tied cells share the point, so a constant map scores the boxes' share of the cells.
  pointing_union    pair: the same for any box of the image
  recall            box: share of its area that is kept; pixels at its border count by the part that it covers
  precision         pair: share of the kept area inside the finding's boxes (a pixel's cover: the largest over these boxes; smaller than
                    their union only at border pixels that two boxes share)
  precision_union   pair: the same for any box of the image
  centre_small      box with both sides below 80/1024: 1 if its centre is kept
  iou@T, iobb@T     box: some detected box has IoU (IoBB: intersection over the DETECTED box's area) > T. Wang et al. 2017 (ChestX-ray8),
                    section 4.2: map scaled to 0..255, cut at 60 and at 180, a detected box around each isolated region of both cuts.
  false@T           pair: number of detected boxes whose IoU with every box of the finding is <= T (the same box from both cuts is one)
  area_iou@T        box: as iou@T with boxes around the regions of the map's highest keep_ratio cells
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.ndimage import find_objects, gaussian_filter, label

from roi.labels import LABELS
from roi.metrics import interval
from roi.table import image_keys

if TYPE_CHECKING:  # roi.maps loads torch
    from roi.maps import Maps

CUTS = (60.0, 180.0)  # of 255
SMALL = 80 / 1024
IOU, IOBB = tuple(k / 10 for k in range(1, 8)), tuple(k / 10 for k in range(1, 10))
DRAWS, SHUFFLES, BLOB = 20, 10, 1.5 / 32  # BLOB: sigma of the random maps, in sides of the map
UNION = ("pointing_union", "precision_union")  # their mean is over images, not over findings
BY_BOX = ("recall", "centre_small", *(f"iou@{t}" for t in IOU), *(f"iobb@{t}" for t in IOBB), *(f"area_iou@{t}" for t in IOU))
BY_PAIR = ("pointing", "pointing_union", "precision", "precision_union", *(f"false@{t}" for t in IOU))
METRICS = (*BY_PAIR, *BY_BOX)
COMPARED = ("pointing", "pointing_union", "recall", "precision", "iou@0.1", "iou@0.3", "iou@0.5", "area_iou@0.1", "area_iou@0.3")
FLAT = np.zeros((3, 3, 3), dtype=int)  # neighbours in a stack of maps: the eight in the plane, none in another map
FLAT[1] = 1


# ---- boxes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """The scored boxes; pairs and images are numbered from 0."""

    box: np.ndarray  # (B, 4)
    box_pair: np.ndarray  # (B,)
    small: np.ndarray  # (B,) bool
    pair_image: np.ndarray  # (Q,)
    pair_finding: np.ndarray  # (Q,)
    image_patient: np.ndarray  # (N,)
    findings: list[str]

    def of_boxes(self) -> list[np.ndarray]:
        """Every box alone."""
        return list(np.arange(len(self.box))[:, None])

    def of_pairs(self) -> list[np.ndarray]:
        """For every pair its boxes."""
        return [np.flatnonzero(self.box_pair == q) for q in range(len(self.pair_image))]

    def of_images(self) -> list[np.ndarray]:
        """For every pair all boxes of its image."""
        image = self.pair_image[self.box_pair]
        return [np.flatnonzero(image == i) for i in self.pair_image]


@dataclass(frozen=True)
class Cells:
    """Sparse weights of the cells of a grid: entry e says that row[e] gives weight[e] to cell[e]."""

    row: np.ndarray
    cell: np.ndarray
    weight: np.ndarray
    rows: int

    def total(self, field: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """Weighted sum of field[unit[row]] for every row. (U, cells), (rows,) -> (rows,)"""
        return np.bincount(self.row, self.weight * field[unit[self.row], self.cell], self.rows)


def cover(low: np.ndarray, high: np.ndarray, side: int) -> np.ndarray:
    """Part of each cell of an axis inside [low, high]. (n,), (n,) in 0..1 -> (n, side) in 0..1"""
    edge = np.arange(side)
    return np.clip(np.minimum(high[:, None] * side, edge + 1) - np.maximum(low[:, None] * side, edge), 0, 1)


def holds(low: np.ndarray, high: np.ndarray, side: int) -> np.ndarray:
    """1 where a cell's centre lies in [low, high]. (n,), (n,) in 0..1 -> (n, side) of 0/1"""
    centre = (np.arange(side) + 0.5) / side
    return ((low[:, None] <= centre) & (centre <= high[:, None])).astype(float)


def cells_of(box: np.ndarray, members: Sequence[np.ndarray], side: int, centres: bool = False) -> Cells:
    """Row r: how far members[r], some of the boxes, cover each cell of a side x side grid; with `centres` 0/1 by the cell's centre."""
    axis = holds if centres else cover
    across, down = axis(box[:, 0], box[:, 2], side), axis(box[:, 1], box[:, 3], side)  # (B, side)
    found = []
    for r, chosen in enumerate(members):
        part = (down[chosen, :, None] * across[chosen, None, :]).max(0).ravel()
        cell = np.flatnonzero(part)
        found.append((np.full(len(cell), r), cell, part[cell]))
    row, cell, weight = (np.concatenate(a) for a in zip(*found, strict=True))
    return Cells(row, cell, weight, len(members))


# ---- maps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Detected:
    """Detected boxes, those of map u in rows start[u]:start[u + 1]."""

    box: np.ndarray  # (D, 4)
    start: np.ndarray  # (U + 1,)


@dataclass(frozen=True)
class Source:
    """What the scores need of U maps."""

    peak: np.ndarray  # (U, m * m): 1 / number of the highest cells on each of them
    kept: np.ndarray  # (U, G * G): 0/1
    detected: Detected
    area: Detected


def top_cells(maps: np.ndarray, keep_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """The round(keep_ratio * m * m) highest cells (at least one), ties drawn by lot. (U, m, m) -> bool of the same shape"""
    flat = maps.reshape(len(maps), -1)
    count = max(1, round(keep_ratio * flat.shape[1]))
    best = np.lexsort((rng.random(flat.shape), -flat), axis=-1)[:, :count]
    top = np.zeros(flat.shape, dtype=bool)
    np.put_along_axis(top, best, True, axis=1)
    return top.reshape(maps.shape)


def boxes_around(*cuts: np.ndarray) -> Detected:
    """A box around each 8-connected region of each cut; the same box of one map counts once. (U, m, m) bool each"""
    rows = []
    for cut in cuts:
        places = find_objects(label(cut, FLAT)[0])
        rows += [(u.start, x.start, y.start, x.stop, y.stop) for u, y, x in places]
    found = np.unique(np.array(rows, dtype=int).reshape(-1, 5), axis=0)  # sorted by map
    return Detected(found[:, 1:] / cuts[0].shape[-1], np.searchsorted(found[:, 0], np.arange(len(cuts[0]) + 1)))


def prepare(maps: np.ndarray, kept: np.ndarray | None, keep_ratio: float, rng: np.random.Generator) -> Source:
    """(U, m, m), (U, G, G) of 0/1 or None (then the highest cells are the kept region) -> Source. A constant map detects nothing."""
    low, high = maps.min((1, 2), keepdims=True).astype(float), maps.max((1, 2), keepdims=True).astype(float)
    varies = high > low
    scaled = (maps - low) / np.where(varies, high - low, 1) * 255
    top = top_cells(maps, keep_ratio, rng)
    peak = (maps == high).reshape(len(maps), -1)
    region = (top if kept is None else kept).reshape(len(maps), -1)
    detected = boxes_around(*(varies & (scaled >= cut) for cut in CUTS))
    return Source(peak / peak.sum(1, keepdims=True), region, detected, boxes_around(varies & top))


def overlaps(truth: Truth, detected: Detected, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair q sees the boxes detected in map unit[q]. (Q,) -> each box's best IoU (B,), best IoBB (B,); false boxes at IOU (Q, len(IOU))"""
    count = np.diff(detected.start)[unit]  # (Q,)
    times = count[truth.box_pair]
    box = np.repeat(np.arange(len(truth.box)), times)  # one entry for every box and detected box of its pair
    nth = np.arange(len(box)) - np.repeat(np.cumsum(times) - times, times)
    pair = truth.box_pair[box]
    a, b = truth.box[box], detected.box[detected.start[unit[pair]] + nth]
    sides = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    shared, area, found = sides.prod(1), (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1)
    iou, iobb = shared / (area + found - shared), shared / found
    best, best_bb, nearest = np.zeros(len(truth.box)), np.zeros(len(truth.box)), np.zeros(count.sum())
    np.maximum.at(best, box, iou)
    np.maximum.at(best_bb, box, iobb)
    np.maximum.at(nearest, (np.cumsum(count) - count)[pair] + nth, iou)
    owner = np.repeat(np.arange(len(unit)), count)
    return best, best_bb, np.stack([np.bincount(owner, nearest <= t, len(unit)) for t in IOU], axis=1)


class Scorer:
    """The boxes on every grid that is met, worked out once."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.members = (truth.of_boxes(), truth.of_pairs(), truth.of_images())
        self.known: dict[tuple[int, int, bool], Cells] = {}

    def cells(self, which: int, side: int, centres: bool = False) -> Cells:
        """`which`: 0 boxes, 1 pairs, 2 the images of the pairs."""
        key = (which, side, centres)
        if key not in self.known:
            self.known[key] = cells_of(self.truth.box, self.members[which], side, centres)
        return self.known[key]

    def __call__(self, source: Source, unit: np.ndarray) -> dict[str, np.ndarray]:
        """Pair q is scored on map unit[q]. (Q,) -> {metric: (B,) of BY_BOX or (Q,) of BY_PAIR}, NaN = undefined"""
        truth, m, side = self.truth, round(source.peak.shape[1] ** 0.5), round(source.kept.shape[1] ** 0.5)
        by_box = unit[truth.box_pair]
        values = {name: self.cells(which, m, centres=True).total(source.peak, unit) for which, name in ((1, "pointing"), (2, "pointing_union"))}
        area = (truth.box[:, 2:] - truth.box[:, :2]).prod(1) * side**2
        values["recall"] = self.cells(0, side).total(source.kept, by_box) / area
        size = source.kept.sum(1, dtype=float)
        size = np.where(size > 0, size, np.nan)[unit]
        for which, name in ((1, "precision"), (2, "precision_union")):
            values[name] = self.cells(which, side).total(source.kept, unit) / size
        x, y = np.minimum((truth.box[:, :2] + truth.box[:, 2:]) / 2 * side, side - 1).astype(int).T
        values["centre_small"] = np.where(truth.small, source.kept[by_box, y * side + x], np.nan)
        best, best_bb, false = overlaps(truth, source.detected, unit)
        around = overlaps(truth, source.area, unit)[0]
        for k, t in enumerate(IOU):
            values[f"iou@{t}"], values[f"area_iou@{t}"], values[f"false@{t}"] = best > t, around > t, false[:, k]
        for t in IOBB:
            values[f"iobb@{t}"] = best_bb > t
        return {name: np.asarray(v, dtype=float) for name, v in values.items()}


def averaged(draws: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean of each unit's values over the draws of a control."""
    each = list(draws)
    return {name: np.mean([d[name] for d in each], axis=0) for name in METRICS}


def other_patients(patient: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For every image an image of another patient, all equally likely. (N,) -> (N,)"""
    order = np.argsort(patient, kind="stable")
    first, last = np.searchsorted(patient[order], patient), np.searchsorted(patient[order], patient, side="right")
    drawn = rng.integers(0, len(patient) - (last - first))
    return order[drawn + np.where(drawn >= first, last - first, 0)]


# ---- means and intervals --------------------------------------------------------------------------------------------


def resampled(truth: Truth, values: dict[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Patients counted as each row of weights says. (R, patients) -> (R, metrics, 1 + findings), the first the mean; NaN = undefined

    A finding's score is the mean over its boxes or pairs, the mean is over findings; that of UNION is over images (an image's pairs averaged).
    """
    patient, finding = truth.image_patient[truth.pair_image], truth.pair_finding
    share = 1 / np.bincount(truth.pair_image)[truth.pair_image]  # (Q,): every image counts once
    patients, findings = weights.shape[1], len(truth.findings)
    drawn = np.full((len(weights), len(METRICS), 1 + findings), np.nan)

    def mean(value: np.ndarray, weight: np.ndarray, who: np.ndarray, what: np.ndarray, groups: int) -> np.ndarray:
        """-> (R, groups)"""
        place, known = who * groups + what, ~np.isnan(value)
        total = np.bincount(place[known], (value * weight)[known], patients * groups).reshape(patients, groups)
        count = np.bincount(place[known], weight[known], patients * groups).reshape(patients, groups)
        top, below = weights @ total, weights @ count
        return np.divide(top, below, out=np.full(top.shape, np.nan), where=below > 0)

    for k, name in enumerate(METRICS):
        value = values[name]
        unit = truth.box_pair if name in BY_BOX else np.arange(len(finding))
        each = mean(value, np.ones(len(unit)), patient[unit], finding[unit], findings)
        drawn[:, k, 1:] = each
        if name in UNION:
            drawn[:, k, 0] = mean(value, share, patient, np.zeros(len(finding), dtype=int), 1)[:, 0]
        else:
            defined = (~np.isnan(each)).sum(1)
            drawn[:, k, 0] = np.divide(np.nansum(each, axis=1), defined, out=np.full(len(each), np.nan), where=defined > 0)
    return drawn


def with_interval(value: float, drawn: np.ndarray) -> dict[str, float | None]:
    """-> {"value", "low", "high"}: percentile interval over the resamples; None = undefined. (R,)"""
    low, high = interval(drawn)
    return {key: None if np.isnan(v) else float(v) for key, v in (("value", value), ("low", low), ("high", high))}


# ---- the section of metrics.json ------------------------------------------------------------------------------------


def find(wanted: pd.Series, names: Iterable[str]) -> np.ndarray:
    """Place of each wanted image among the names, by key, else by its last path component where that is unique; -1 = not there. (n,) -> (n,)"""
    keys = image_keys(pd.Series(list(names), dtype=str)).tolist()
    bare = [key.rpartition("/")[2] for key in keys]
    often = Counter(bare)
    place = {name: n for n, name in enumerate(bare) if often[name] == 1} | {key: n for n, key in enumerate(keys)}
    return np.array([place.get(key, place.get(key.rpartition("/")[2], -1)) for key in image_keys(wanted.astype(str))], dtype=int)


def read_truth(sets: Sequence[Maps], boxes: pd.DataFrame, patients: pd.Series) -> tuple[Truth, list[np.ndarray]]:
    """-> the boxes of images that every set has, and for each set the rows of these images (N,)"""
    places = np.stack([find(boxes["image"], one.images) for one in sets])  # (sets, boxes)
    inside = (places >= 0).all(0)
    if not inside.any():
        example = f" (a box of {boxes['image'].iloc[0]!r}, a map of {sets[0].images[0]!r})" if len(boxes) and sets[0].images else ""
        raise ValueError(f"none of the {len(boxes)} boxes belongs to an image that every maps file has{example}; make the maps of images that have boxes")
    boxes = boxes.iloc[np.flatnonzero(inside)].reset_index(drop=True)
    places = places[:, inside]
    for one in sets:
        missing = sorted(set(boxes["label"]) - set(one.classes)) if one.classes != [""] else []
        if missing:
            raise ValueError(f"boxes of {missing[0]!r} have no map (the maps file has {one.classes}); leave these boxes out or make maps of that class")
    corner = boxes[["x", "y"]].to_numpy(float)
    box = np.clip(np.concatenate([corner, corner + boxes[["w", "h"]].to_numpy(float)], axis=1), 0, 1)
    empty = ~((box[:, 2:] - box[:, :2]) > 0).all(1)
    if empty.any():
        x, y, w, h = boxes.loc[empty, ["x", "y", "w", "h"]].iloc[0]
        raise ValueError(f"the box ({x:g}, {y:g}, {w:g}, {h:g}) of {boxes['image'][empty].iloc[0]!r} has no area inside the image (sides are 0..1); correct it")
    present = set(boxes["label"])
    findings = [c for c in LABELS if c in present] + sorted(present - set(LABELS))
    finding = boxes["label"].map({c: j for j, c in enumerate(findings)}).to_numpy()
    _, first, image = np.unique(places[0], return_index=True, return_inverse=True)
    pair, box_pair = np.unique(image * len(findings) + finding, return_inverse=True)
    names = pd.Series([sets[0].images[row] for row in places[0, first]], dtype=str)
    known = find(names, patients.index)
    if (known < 0).any():
        raise ValueError(f"{names[known < 0].iloc[0]!r} has a map and a box, but no patient; give the table that lists this image")
    patient = np.unique(patients.to_numpy().astype(str)[known], return_inverse=True)[1]
    small = (boxes[["w", "h"]] < SMALL).all(axis=1).to_numpy()
    return Truth(box, box_pair, small, pair // len(findings), pair % len(findings), patient, findings), list(places[:, first])


def agreed_ratio(sets: Sequence[Maps], keep_ratio: float) -> float:
    """The kept share that the files were made with; `keep_ratio` where no file says (0)."""
    said = sorted({float(one.keep_ratio) for one in sets if one.keep_ratio > 0})
    if said and said[-1] - said[0] > 1e-6:
        raise ValueError(f"the maps files keep different shares of the image ({', '.join(f'{r:g}' for r in said)}); make them with one --keep_ratio")
    ratio = said[0] if said else keep_ratio
    if not 0 < ratio <= 1:
        raise ValueError(f"keep_ratio {ratio:g}: choose a share above 0 and at most 1")
    return ratio


def score_maps(sets: Sequence[Maps], boxes: pd.DataFrame, patients: pd.Series, keep_ratio: float, resamples: int, seed: int) -> dict:
    """Every source of the sets and its controls on the same images: those that have a box and a map in every set.

    boxes: image, label, x, y, w, h in 0..1. patients: image key (roi.table.image_keys) -> patient. keep_ratio: used where the files say none.
    -> n_boxes, n_small_boxes, n_images, n_patients, keep_ratio, sources {name: {"mean", "per_class", "minus"}}, see the file's head for the metrics.
    Controls keep the highest keep_ratio cells of maps of the same grid: "random" (white noise blurred by a Gaussian, 20 draws an image averaged),
    "centre" (a disc), "<source>_shuffled" (the source's own maps and kept regions, of another patient's image; 10 draws averaged).
    Intervals: patients drawn with replacement, the same resamples for every source, so that `minus` (source - control) is paired.
    """
    if not sets:
        raise ValueError("no maps to score; give a maps file")
    ratio = agreed_ratio(sets, keep_ratio)
    truth, rows = read_truth(sets, boxes, patients)
    score = Scorer(truth)
    ties, noise = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    values, shuffled_of = dict[str, dict[str, np.ndarray]](), dict[str, str]()
    for one, row in zip(sets, rows, strict=True):
        shared = one.classes == [""]
        columns = [0] if shared else [one.classes.index(c) for c in truth.findings]
        slot = np.zeros(len(truth.pair_image), dtype=int) if shared else truth.pair_finding
        for name, stack in one.maps.items():
            if name in values or name in ("random", "centre"):
                raise ValueError(f"two sources are called {name!r}; give each maps file once")
            maps = stack[row][:, columns].reshape(-1, *stack.shape[2:])  # (N * columns, m, m)
            kept = one.kept[name][row][:, columns].reshape(-1, *one.kept[name].shape[2:]) if name in one.kept else None
            source = prepare(maps, kept, ratio, ties)
            values[name] = score(source, truth.pair_image * len(columns) + slot)
            if name.endswith("_reinit"):
                continue
            shuffled_of[name] = f"{name}_shuffled"
            draw = np.random.default_rng([seed, 3])
            if truth.image_patient.max() == 0:  # there is no other patient
                values[f"{name}_shuffled"] = {metric: np.full(v.shape, np.nan) for metric, v in values[name].items()}
            else:
                others = (other_patients(truth.image_patient, draw) for _ in range(SHUFFLES))
                values[f"{name}_shuffled"] = averaged(score(source, other[truth.pair_image] * len(columns) + slot) for other in others)
    ours = [name for one in sets for name in one.maps]
    m = next(iter(sets[0].maps.values())).shape[-1]
    images, sigma = len(truth.image_patient), (0, BLOB * m, BLOB * m)
    blobs = (gaussian_filter(noise.standard_normal((images, m, m)), sigma, mode="wrap") for _ in range(DRAWS))
    values["random"] = averaged(score(prepare(blob, None, ratio, ties), truth.pair_image) for blob in blobs)
    away = np.square(np.arange(m) + 0.5 - m / 2)
    disc = np.broadcast_to(-(away[:, None] + away), (images, m, m))  # an image each, as the cells at its rim are drawn by lot
    values["centre"] = score(prepare(disc, None, ratio, ties), truth.pair_image)

    n_patients = int(truth.image_patient.max()) + 1
    draws = resamples if n_patients > 1 else 0  # one patient alone has no spread to draw
    weights = np.random.default_rng(seed).multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=draws).astype(float)
    order = [*ours, "random", "centre", *shuffled_of.values()]
    point = {name: resampled(truth, values[name], np.ones((1, n_patients)))[0] for name in order}  # (metrics, 1 + findings)
    drawn = {name: resampled(truth, values[name], weights) for name in order}  # (R, metrics, 1 + findings)
    sources = dict[str, dict]()
    for name in order:
        columns_of = [
            {metric: with_interval(point[name][k, j], drawn[name][:, k, j]) for k, metric in enumerate(METRICS)} for j in range(1 + len(truth.findings))
        ]
        sources[name] = {"mean": columns_of[0], "per_class": dict(zip(truth.findings, columns_of[1:], strict=True)), "minus": {}}
        controls = {"random": "random", "centre": "centre"} if name in ours else {}
        if name in shuffled_of:
            controls["shuffled"] = shuffled_of[name]
        for key, control in controls.items():
            places = {metric: METRICS.index(metric) for metric in COMPARED}
            sources[name]["minus"][key] = {
                metric: with_interval(point[name][k, 0] - point[control][k, 0], drawn[name][:, k, 0] - drawn[control][:, k, 0]) for metric, k in places.items()
            }
    counts = {"n_boxes": len(truth.box), "n_small_boxes": int(truth.small.sum()), "n_images": images, "n_patients": n_patients}
    return {**counts, "keep_ratio": ratio, "sources": sources}
