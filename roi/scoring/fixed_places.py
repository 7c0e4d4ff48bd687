"""Fixed places: maps that are the same for every image of a finding, which a map that sees the image must beat.

Hearts are where hearts are: a map that always points there finds nearly every box of Cardiomegaly without a look at
the image. Two such places a finding are controls of roi/scoring/localization.py. Both are cross-fitted by patient: the scored
patients are dealt into FOLDS folds, and a patient is scored on the place that the other folds choose, so that no box
or image chooses its own. The mean over DEALS dealings is taken.

  best_place    the cell whose centre the most boxes of the finding in the other folds contain, on a grid of m x m
                cells, that of the maps: the best that one can do who knows the boxes of other patients and never sees
                an image.
  label_place   no box is needed: the highest cell of the mean map of images with the finding minus that of images
                without it.

Letters: K folds, F findings, N images, P patients, m x m the cells of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roi.scoring.map_file import Maps

# Of one dealing into 5, 10 or 20 folds the score of best_place on 655 boxes of NIH has a spread of .005 between
# seeds. More folds score lower (.354, .348, .340): a box that is taken out of nearly flat counts takes the best place
# away from itself.
FOLDS, DEALS = 5, 5
NOBODY = -1  # fold of an image whose patient is not scored: every fold learns from it


@dataclass(frozen=True)
class LabelledMaps:
    """Maps of images whose labels are known, the scored images or others (training images)."""

    maps: Maps
    target: np.ndarray  # (N, classes of the maps), 1 present, 0 absent, NaN unknown
    patients: np.ndarray  # (N,) names
    origin: str  # where they are from, for metrics.json


def deal_folds(patients: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each patient, all of nearly equal size; fewer than FOLDS where there are fewer patients. -> (P,)"""
    return rng.permutation(patients) % min(FOLDS, patients)


def folds_of(names: Sequence[str] | np.ndarray, scored: Sequence[str], folds: np.ndarray) -> np.ndarray:
    """The fold of each image by the name of its patient, NOBODY for patients who are not scored.

    (N,) names, (P,) names of the scored patients, (P,) folds -> (N,)
    """
    fold = dict(zip(scored, folds.tolist(), strict=True))
    return np.array([fold.get(name, NOBODY) for name in names], dtype=int)


def count_boxes(fold: np.ndarray, finding: np.ndarray, cell: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """How many boxes of a finding in the OTHER folds contain each cell's centre.

    Args:
        fold, finding, cell: (E,) one entry for every box and cell inside it.
        shape: K, F, m.

    Returns:
        (K, F, m, m) counts; [k] holds no box of fold k.
    """
    folds, findings, m = shape
    counts = np.zeros((folds, findings, m * m))
    np.add.at(counts, (fold, finding, cell), 1)
    return (counts.sum(0) - counts).reshape(folds, findings, m, m)


def label_differences(maps: np.ndarray, target: np.ndarray, fold: np.ndarray, folds: int) -> np.ndarray:
    """Mean map of the images with a finding minus that of those without it, over the images outside each fold.

    (N, F, m, m), (N, F) of 1, 0, NaN, (N,) in NOBODY..K-1 -> (K, F, m, m), NaN where there is no image of one kind
    """
    found = np.empty((folds, *maps.shape[1:]))
    for k in range(folds):
        # A fold's own images never enter the sum; taken out again, they would leave a residue that chooses among ties.
        outside = fold != k
        found[k] = _mean_map(maps, outside[:, None] & (target == 1)) - _mean_map(maps, outside[:, None] & (target == 0))
    return found


def _mean_map(maps: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(N, F, m, m), (N, F) bool -> (F, m, m), NaN where nothing is chosen"""
    mean = np.full(maps.shape[1:], np.nan)
    for j in np.flatnonzero(chosen.any(axis=0)):
        mean[j] = maps[chosen[:, j], j].mean(axis=0, dtype=np.float64)
    return mean
