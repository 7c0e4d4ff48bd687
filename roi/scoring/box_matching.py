"""Maps (ROI masks, Grad-CAM) against boxes of radiologists: the metrics of each box and pair.

Letters: N images, B boxes, Q pairs (image, finding) that have a box, U maps of a source, m side of a map, G side of the
grid of the kept region (the model's input, or m), D detected boxes. Boxes are (left, top, right, bottom) in 0..1 of the
image.

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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.ndimage import find_objects, label

# Where a map that is scaled to 0..255 is cut, as Wang et al. 2017 did.
CUTS = (60.0, 180.0)
SMALL = 80 / 1024
IOU = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
IOBB = (*IOU, 0.8, 0.9)
# Their mean is over images, not over findings.
UNION = ("pointing_union", "precision_union")
BY_BOX = (
    "recall",
    "centre_small",
    *(f"iou@{t}" for t in IOU),
    *(f"iobb@{t}" for t in IOBB),
    *(f"area_iou@{t}" for t in IOU),
)
BY_PAIR = ("pointing", "pointing_union", "precision", "precision_union", *(f"false@{t}" for t in IOU))
METRICS = (*BY_PAIR, *BY_BOX)
# Neighbours in a stack of maps: the eight in the plane, none in another map. One call then labels all maps.
IN_PLANE = np.zeros((3, 3, 3), dtype=int)
IN_PLANE[1] = 1

# Metric -> (B,) of BY_BOX or (Q,) of BY_PAIR, NaN = undefined.
Values = dict[str, np.ndarray]


# ---- boxes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroundTruth:
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

    def map_index(self, columns: int, image: np.ndarray | None = None) -> np.ndarray:
        """The place of each pair's map among those of all images. -> (Q,)

        Args:
            columns: maps an image, one for all findings, or one a finding.
            image: (N,) an image is scored on the maps of image[n] instead of its own.
        """
        chosen = self.pair_image if image is None else image[self.pair_image]
        return chosen * columns + self.pair_finding * (columns > 1)


def corners(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, 4) -> (left, top) (B, 2), (right, bottom) (B, 2)"""
    return box[:, :2], box[:, 2:]


def areas(box: np.ndarray) -> np.ndarray:
    """(B, 4) -> (B,)"""
    begin, end = corners(box)
    return (end - begin).prod(1)


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area that two boxes share. (B, 4), (B, 4) -> (B,)"""
    begin_a, end_a = corners(a)
    begin_b, end_b = corners(b)
    begin = np.maximum(begin_a, begin_b)
    sides = np.minimum(end_a, end_b) - begin
    return np.clip(sides, 0, None).prod(1)


@dataclass(frozen=True)
class CellWeights:
    """Sparse weights of the cells of a grid: entry e says that row[e] gives weight[e] to cell[e]."""

    row: np.ndarray
    cell: np.ndarray
    weight: np.ndarray
    rows: int

    def total(self, field: np.ndarray, map_index: np.ndarray) -> np.ndarray:
        """Weighted sum of field[map_index[row]] for every row. (U, cells), (rows,) -> (rows,)"""
        which_map = map_index[self.row]
        values = field[which_map, self.cell]
        return np.bincount(self.row, self.weight * values, self.rows)


def cover(low: np.ndarray, high: np.ndarray, side: int) -> np.ndarray:
    """Part of each cell of an axis inside [low, high]. (n,), (n,) in 0..1 -> (n, side) in 0..1"""
    high = high[:, None]
    low = low[:, None]
    edge = np.arange(side)
    end = np.minimum(high * side, edge + 1)
    begin = np.maximum(low * side, edge)
    return np.clip(end - begin, 0, 1)


def holds(low: np.ndarray, high: np.ndarray, side: int) -> np.ndarray:
    """1 where a cell's centre lies in [low, high]. (n,), (n,) in 0..1 -> (n, side) of 0/1"""
    centre = (np.arange(side) + 0.5) / side
    after_begin = low[:, None] <= centre
    before_end = centre <= high[:, None]
    return (after_begin & before_end).astype(float)


def cells_of(box: np.ndarray, members: Sequence[np.ndarray], side: int, centres: bool = False) -> CellWeights:
    """How far groups of boxes cover each cell of a side x side grid.

    Args:
        box: (B, 4).
        members: of each row of the result, which boxes are in the group.
        side: cells a side.
        centres: 0/1 by the cell's centre instead of the part that is covered.
    """
    axis = holds if centres else cover
    left, top, right, bottom = box.T
    across = axis(left, right, side)  # (B, side)
    down = axis(top, bottom, side)  # (B, side)
    rows, cells, weights = [], [], []
    for r, group in enumerate(members):
        covered = down[group, :, None] * across[group, None, :]
        # The largest over the boxes of the group: what two boxes share is not counted twice.
        covered = covered.max(0).ravel()
        cell = np.flatnonzero(covered)
        rows.append(np.full(len(cell), r))
        cells.append(cell)
        weights.append(covered[cell])
    return CellWeights(
        row=np.concatenate(rows),
        cell=np.concatenate(cells),
        weight=np.concatenate(weights),
        rows=len(members),
    )


# ---- maps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Detected:
    """Detected boxes, those of map u in rows start[u]:start[u + 1]."""

    box: np.ndarray  # (D, 4)
    start: np.ndarray  # (U + 1,)


@dataclass(frozen=True)
class PreparedMaps:
    """What the scores need of U maps."""

    peak: np.ndarray  # (U, m * m): 1 / number of the highest cells on each of them
    kept: np.ndarray  # (U, G * G): 0/1
    detected: Detected
    area: Detected


def top_cells(maps: np.ndarray, keep_ratio: float, rng: np.random.Generator) -> np.ndarray:
    """The round(keep_ratio * m * m) highest cells, at least one, ties drawn by lot. (U, m, m) -> (U, m, m) bool"""
    flat = maps.reshape(len(maps), -1)
    count = max(1, round(keep_ratio * flat.shape[1]))
    lots = rng.random(flat.shape)
    order = np.lexsort((lots, -flat), axis=-1)
    best = order[:, :count]
    top = np.zeros(flat.shape, dtype=bool)
    np.put_along_axis(top, best, True, axis=1)
    return top.reshape(maps.shape)


def boxes_around(*cuts: np.ndarray) -> Detected:
    """A box around each 8-connected region of each cut; the same box of one map counts once. (U, m, m) bool each"""
    rows = []
    for cut in cuts:
        regions, _ = label(cut, IN_PLANE)
        for u, y, x in find_objects(regions):
            box = (x.start, y.start, x.stop, y.stop)
            rows.append((u.start, *box))
    maps, _, side = cuts[0].shape
    table = np.array(rows, dtype=int).reshape(-1, 5)
    table = np.unique(table, axis=0)  # sorted by map
    owner = table[:, 0]
    start = np.searchsorted(owner, np.arange(maps + 1))
    return Detected(table[:, 1:] / side, start)


def prepare(maps: np.ndarray, kept: np.ndarray | None, keep_ratio: float, rng: np.random.Generator) -> PreparedMaps:
    """Find the peaks, the kept region and the detected boxes. A constant map detects nothing.

    Args:
        maps: (U, m, m).
        kept: (U, G, G) of 0/1; None: the highest cells are the kept region.
        keep_ratio: share of the cells that are the highest.
        rng: of the lots among ties.
    """
    low = maps.min((1, 2), keepdims=True).astype(float)
    high = maps.max((1, 2), keepdims=True).astype(float)
    varies = high > low
    width = np.where(varies, high - low, 1)
    scaled = (maps - low) / width * 255
    top = top_cells(maps, keep_ratio, rng)
    peak = (maps == high).reshape(len(maps), -1)
    region = top if kept is None else kept
    cuts = [varies & (scaled >= cut) for cut in CUTS]
    detected = boxes_around(*cuts)
    return PreparedMaps(
        peak=peak / peak.sum(1, keepdims=True),
        kept=region.reshape(len(maps), -1),
        detected=detected,
        area=boxes_around(varies & top),
    )


class Matches(NamedTuple):
    """Boxes against what was detected on their maps."""

    iou: np.ndarray  # (B,) the best of each box
    iobb: np.ndarray  # (B,)
    false: np.ndarray  # (Q, len(IOU)): detected boxes that match no box of the pair


def match_boxes(truth: GroundTruth, detected: Detected, map_index: np.ndarray) -> Matches:
    """Match each box to the boxes that are detected on the map of its pair. map_index (Q,): pair -> map"""
    count = np.diff(detected.start)[map_index]  # (Q,) detected boxes of each pair
    # E entries, one for every box and detected box of its pair; nth counts the detected ones of one box.
    times = count[truth.box_pair]
    boxes = len(truth.box)
    box = np.repeat(np.arange(boxes), times)
    first_entry = np.cumsum(times) - times
    number = np.arange(len(box))
    nth = number - np.repeat(first_entry, times)
    pair = truth.box_pair[box]
    start = detected.start[map_index[pair]]
    true = truth.box[box]  # (E, 4)
    drawn = detected.box[start + nth]  # (E, 4)
    shared = intersections(true, drawn)
    drawn_area = areas(drawn)
    union = areas(true) + drawn_area - shared
    iou = shared / union
    iobb = shared / drawn_area
    best_iou = np.zeros(boxes)
    best_iobb = np.zeros(boxes)
    np.maximum.at(best_iou, box, iou)
    np.maximum.at(best_iobb, box, iobb)
    # The same seen from the detected boxes, those of pair 0 first: one far from every box of its pair is false.
    nearest = np.zeros(count.sum())
    first = np.cumsum(count) - count
    np.maximum.at(nearest, first[pair] + nth, iou)
    owner = np.repeat(np.arange(len(map_index)), count)
    false = []
    for t in IOU:
        far = nearest <= t
        false.append(np.bincount(owner, far, len(map_index)))
    return Matches(best_iou, best_iobb, np.stack(false, axis=1))


# ---- scores ---------------------------------------------------------------------------------------------------------


class Scorer:
    """Scores maps against the boxes, whose cover of every grid that is met is worked out once.

    Args:
        truth: the boxes.
        keep_ratio: share of the cells that are kept where a map comes without its kept region.
        ties: decides among equal cells of the maps, in the order in which they are prepared.
    """

    def __init__(self, truth: GroundTruth, keep_ratio: float, ties: np.random.Generator) -> None:
        self.truth = truth
        self.keep_ratio = keep_ratio
        self.ties = ties
        self.members = {
            "box": truth.of_boxes(),
            "pair": truth.of_pairs(),
            "image": truth.of_images(),
        }
        self._cells: dict[tuple[str, int, bool], CellWeights] = {}

    def cells(self, unit: str, side: int, centres: bool = False) -> CellWeights:
        """The cells of each box, of the boxes of each pair, or of those of each pair's image. unit: box, pair, image"""
        key = (unit, side, centres)
        if key not in self._cells:
            members = self.members[unit]
            self._cells[key] = cells_of(self.truth.box, members, side, centres)
        return self._cells[key]

    def prepare(self, maps: np.ndarray, kept: np.ndarray | None = None) -> PreparedMaps:
        return prepare(maps, kept, self.keep_ratio, self.ties)

    def score(self, source: PreparedMaps, map_index: np.ndarray) -> Values:
        """Score pair q on map map_index[q]. (Q,) -> METRICS"""
        truth = self.truth
        side = round(source.peak.shape[1] ** 0.5)
        of_pair = self.cells("pair", side, centres=True)
        of_image = self.cells("image", side, centres=True)
        values = {
            "pointing": of_pair.total(source.peak, map_index),
            "pointing_union": of_image.total(source.peak, map_index),
        }
        values |= self._score_region(source.kept, map_index)
        detected = match_boxes(truth, source.detected, map_index)
        around = match_boxes(truth, source.area, map_index)
        for k, t in enumerate(IOU):
            values[f"iou@{t}"] = detected.iou > t
            values[f"area_iou@{t}"] = around.iou > t
            values[f"false@{t}"] = detected.false[:, k]
        for t in IOBB:
            values[f"iobb@{t}"] = detected.iobb > t
        return {name: np.asarray(value, dtype=float) for name, value in values.items()}

    def _score_region(self, kept: np.ndarray, map_index: np.ndarray) -> Values:
        """What is kept inside the boxes: recall, precision, centre_small. (U, G * G)"""
        truth = self.truth
        map_of_box = map_index[truth.box_pair]  # (B,)
        side = round(kept.shape[1] ** 0.5)
        box_size = areas(truth.box) * side**2
        size = kept.sum(1, dtype=float)
        size = np.where(size > 0, size, np.nan)  # of nothing there is no precision
        size = size[map_index]  # (Q,)
        begin, end = corners(truth.box)
        centre = (begin + end) / 2 * side
        centre = np.minimum(centre, side - 1)  # the image's own edge belongs to its last cell
        x, y = centre.astype(int).T
        at_centre = kept[map_of_box, y * side + x]
        return {
            "recall": self.cells("box", side).total(kept, map_of_box) / box_size,
            "precision": self.cells("pair", side).total(kept, map_index) / size,
            "precision_union": self.cells("image", side).total(kept, map_index) / size,
            "centre_small": np.where(truth.small, at_centre, np.nan),
        }


def undefined_values(truth: GroundTruth) -> Values:
    """METRICS of a control that there is not."""
    values = {}
    boxes = len(truth.box)
    pairs = len(truth.pair_image)
    for name in METRICS:
        units = boxes if name in BY_BOX else pairs
        values[name] = np.full(units, np.nan)
    return values


def mean_values(draws: Sequence[Values]) -> Values:
    """Mean of each unit's values over the draws of a control."""
    means = {}
    for name in METRICS:
        values = [draw[name] for draw in draws]
        means[name] = np.mean(values, axis=0)
    return means
