"""Maps (ROI masks, Grad-CAM) against boxes of radiologists: the metrics of each box and pair. Never a torch in here.

Letters: N images, C classes, B boxes, Q pairs (image, finding) that have a box, U maps of a source, m side of a map,
G side of the grid of the kept region (the model's input, or m), D detected boxes. Boxes are (left, top, right,
bottom) in 0..1 of the image.

What is scored (T a threshold; all but `false` lie in 0..1, higher = better):
  pointing          pair: the centre of the map's highest cell lies in a box of the finding (Zhang et al. 2016,
                    "Top-down neural attention by excitation backprop", without their tolerance). Tied cells share
                    the point, so a constant map scores the boxes' share of the cells.
  pointing_union    pair: the same for any box of the image
  recall            box: share of its area that is kept; pixels at its border count by the part that it covers
  precision         pair: share of the kept area inside the finding's boxes (a pixel's cover: the largest over these
                    boxes; smaller than their union only at border pixels that two boxes share)
  precision_union   pair: the same for any box of the image
  centre_small      box with both sides below 80/1024: 1 if its centre is kept
  iou@T, iobb@T     box: some detected box has IoU (IoBB: intersection over the DETECTED box's area) > T. Wang et al.
                    2017 (ChestX-ray8), section 4.2: map scaled to 0..255, cut at 60 and at 180, a detected box around
                    each isolated region of both cuts.
  false@T           pair: number of detected boxes whose IoU with every box of the finding is <= T (the same box from
                    both cuts is one)
  area_iou@T        box: as iou@T with boxes around the regions of the map's highest keep_ratio cells
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects, label

CUTS = (60.0, 180.0)  # of 255
SMALL = 80 / 1024
IOU, IOBB = tuple(k / 10 for k in range(1, 8)), tuple(k / 10 for k in range(1, 10))
UNION = ("pointing_union", "precision_union")  # their mean is over images, not over findings
BY_BOX = (
    "recall",
    "centre_small",
    *(f"iou@{t}" for t in IOU),
    *(f"iobb@{t}" for t in IOBB),
    *(f"area_iou@{t}" for t in IOU),
)
BY_PAIR = ("pointing", "pointing_union", "precision", "precision_union", *(f"false@{t}" for t in IOU))
METRICS = (*BY_PAIR, *BY_BOX)
FLAT = np.zeros((3, 3, 3), dtype=int)  # neighbours in a stack of maps: the eight in the plane, none in another map
FLAT[1] = 1

Values = dict[str, np.ndarray]  # metric -> (B,) of BY_BOX or (Q,) of BY_PAIR, NaN = undefined


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
    patients: list[str]  # names of the patients, by their number

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
    """Row r: how far members[r], some of the boxes, cover each cell of a side x side grid; with `centres` 0/1 by
    the cell's centre.
    """
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
    """The round(keep_ratio * m * m) highest cells (at least one), ties drawn by lot. (U, m, m) -> bool of the same
    shape
    """
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
    """(U, m, m), (U, G, G) of 0/1 or None (then the highest cells are the kept region) -> Source. A constant map
    detects nothing.
    """
    low, high = maps.min((1, 2), keepdims=True).astype(float), maps.max((1, 2), keepdims=True).astype(float)
    varies = high > low
    scaled = (maps - low) / np.where(varies, high - low, 1) * 255
    top = top_cells(maps, keep_ratio, rng)
    peak = (maps == high).reshape(len(maps), -1)
    region = (top if kept is None else kept).reshape(len(maps), -1)
    detected = boxes_around(*(varies & (scaled >= cut) for cut in CUTS))
    return Source(peak / peak.sum(1, keepdims=True), region, detected, boxes_around(varies & top))


def overlaps(truth: Truth, detected: Detected, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pair q sees the boxes detected in map unit[q]. (Q,) -> each box's best IoU (B,), best IoBB (B,); false boxes
    at IOU (Q, len(IOU))
    """
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
        values = {
            name: self.cells(which, m, centres=True).total(source.peak, unit)
            for which, name in ((1, "pointing"), (2, "pointing_union"))
        }
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


def averaged(draws: Iterable[Values]) -> Values:
    """Mean of each unit's values over the draws of a control."""
    each = list(draws)
    return {name: np.mean([d[name] for d in each], axis=0) for name in METRICS}


def other_patients(patient: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For every image an image of another patient, all equally likely. (N,) -> (N,)"""
    order = np.argsort(patient, kind="stable")
    first, last = np.searchsorted(patient[order], patient), np.searchsorted(patient[order], patient, side="right")
    drawn = rng.integers(0, len(patient) - (last - first))
    return order[drawn + np.where(drawn >= first, last - first, 0)]
