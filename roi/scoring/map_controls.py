"""Controls of a map: what a map that sees its image must beat, each with the same area and every metric.

  shuffled      the source's own maps and kept regions, each of another patient's image: SHUFFLES draws averaged. It
                is the same finding's map, so that own - shuffled is what the map owes to its image; a map that is a
                fixed place has 0.
  best_place    the best fixed place a finding: the cell whose centre the most boxes of the finding in the other folds
                contain, on a grid of m x m cells, that of the maps: the best that one can do who knows the boxes of
                other patients and never sees an image.
  label_place   no box is needed: the highest cell of the mean map of images with the finding minus that of images
                without it.
  reinit        the source of the same model with new weights (Adebayo et al. 2018); a source like any other
  random        white noise blurred by a Gaussian, DRAWS draws an image averaged
  centre        a disc in the middle of the image
shuffled and best_place are the bar that a map of evidence must pass. random and centre say how hard the boxes are,
which differs between findings: a disc in the middle finds nearly every heart and no nodule.

Hearts are where hearts are: a map that always points there finds nearly every box of Cardiomegaly without a look at the
image. The two fixed places are cross-fitted by patient: the scored patients are dealt into FOLDS folds, and a patient
is scored on the place that the other folds choose, so that no box or image chooses its own. The mean over DEALS
dealings is taken.

Letters: K folds, F findings, N images, P patients, Q pairs (image, finding) that have a box, m x m the cells of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from roi.errors import UserError
from roi.scoring.box_matching import BY_BOX, PreparedMaps, Scorer, Values, mean_values, undefined_values
from roi.scoring.map_file import REINIT, Maps
from roi.scoring.prediction_files.model_facts import models_of

DRAWS, SHUFFLES = 20, 10
# Sigma of the random maps, in sides of the map.
BLOB = 1.5 / 32
# Controls that are the same for every source.
SHARED = ("best_place", "random", "centre")
# Of one dealing into 5, 10 or 20 folds the score of best_place on 655 boxes of NIH has a spread of .005 between
# seeds. More folds score lower (.354, .348, .340): a box that is taken out of nearly flat counts takes the best place
# away from itself.
FOLDS, DEALS = 5, 5
# Fold of an image whose patient is not scored: every fold learns from it.
NOBODY = -1


@dataclass(frozen=True)
class LabelledMaps:
    """Maps of images whose labels are known, the scored images or others (training images)."""

    maps: Maps
    target: np.ndarray  # (N, classes of the maps), 1 present, 0 absent, NaN unknown
    patients: np.ndarray  # (N,) names
    origin: str  # where they are from, for metrics.json


# ---- all controls of all sources ----------------------------------------------------------------------------------


def add_controls(
    scorer: Scorer,
    values: dict[str, Values],
    shuffled: dict[str, Values],
    labelled: dict[str, LabelledMaps],
    m: int,
    seed: int,
) -> tuple[dict[str, Values], dict[str, Any]]:
    """The values with those of all controls, and the block `controls`: how these were made."""
    dealing = np.random.default_rng([seed, 4])
    patients = len(scorer.truth.patients)
    deals = [deal_folds(patients, dealing) for _ in range(DEALS)]
    noise = np.random.default_rng([seed, 2])
    values = values | score_blobs(scorer, m, noise)
    # In the order in which metrics.json lists them: shared controls, then those of each source.
    values["best_place"] = mean_values([score_best_place(scorer, m, folds) for folds in deals])
    values |= shuffled
    chosen_by: dict[str, Any] = {}
    for name, maps in labelled.items():
        places = mean_values([score_label_place(scorer, maps, name, folds) for folds in deals])
        values[f"{name}_label_place"] = places
        chosen_by[name] = {
            "from": maps.origin,
            "n_images": len(maps.patients),
            "pairs_without_place": count_undefined(places),
        }
    block = {
        "folds": int(deals[0].max()) + 1,
        "deals": DEALS,
        "grid": m,
        "shuffled": {"draws": SHUFFLES},
        "best_place": {"pairs_without_place": count_undefined(values["best_place"])},
        "label_place": chosen_by,
        "random": {"draws": DRAWS},
    }
    return values, block


def count_undefined(values: Values) -> int:
    undefined = np.isnan(values["pointing"])
    return int(undefined.sum())


def score_shuffled(scorer: Scorer, source: PreparedMaps, columns: int, seed: int) -> Values:
    """The maps of other patients' images, the mean over draws; undefined where there is no other patient."""
    truth = scorer.truth
    rng = np.random.default_rng([seed, 3])
    if len(truth.patients) == 1:
        return undefined_values(truth)
    draws = []
    for _ in range(SHUFFLES):
        image = other_patients(truth.image_patient, rng)
        draws.append(scorer.score(source, truth.map_index(columns, image)))
    return mean_values(draws)


def other_patients(patient: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For every image an image of another patient, all equally likely. (N,) -> (N,)"""
    order = np.argsort(patient, kind="stable")
    first = np.searchsorted(patient[order], patient)
    end = np.searchsorted(patient[order], patient, side="right")
    own = end - first
    # Drawn among the images of others alone; from its own patient on, the place moves up by the patient's images.
    drawn = rng.integers(0, len(patient) - own)
    beyond_own = np.where(drawn >= first, own, 0)
    return order[drawn + beyond_own]


def score_blobs(scorer: Scorer, m: int, noise: np.random.Generator) -> dict[str, Values]:
    """The controls `random` and `centre`, on m x m cells."""
    truth = scorer.truth
    images = len(truth.image_patient)
    sigma = (0, BLOB * m, BLOB * m)
    draws = []
    for _ in range(DRAWS):
        grey = noise.standard_normal((images, m, m))
        blobs = gaussian_filter(grey, sigma, mode="wrap")
        draws.append(scorer.score(scorer.prepare(blobs), truth.pair_image))
    from_middle = np.arange(m) + 0.5 - m / 2
    away = np.square(from_middle)
    distance = away[:, None] + away
    # A disc for every image, as the cells at its rim are drawn by lot.
    disc = np.broadcast_to(-distance, (images, m, m))
    centre = scorer.score(scorer.prepare(disc), truth.pair_image)
    return {"random": mean_values(draws), "centre": centre}


def label_sources(kinds: dict[str, str], labelled: Sequence[LabelledMaps]) -> dict[str, LabelledMaps]:
    """The sources with a map a finding -> the first labelled maps of the same source, where there are any."""
    chosen: dict[str, LabelledMaps] = {}
    for name, kind in kinds.items():
        having = [maps for maps in labelled if name in maps.maps.maps]
        if kind == "finding" and not name.endswith(REINIT) and having:
            chosen[name] = having[0]
    return chosen


# ---- folds ----------------------------------------------------------------------------------------------------------


def deal_folds(patients: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each patient, all of nearly equal size; fewer than FOLDS where there are fewer patients. -> (P,)"""
    return rng.permutation(patients) % min(FOLDS, patients)


def folds_of(names: Sequence[str] | np.ndarray, scored: Sequence[str], folds: np.ndarray) -> np.ndarray:
    """The fold of each image by the name of its patient, NOBODY for patients who are not scored.

    (N,) names, (P,) names of the scored patients, (P,) folds -> (N,)
    """
    fold = dict(zip(scored, folds.tolist(), strict=True))
    folds_of_names = [fold.get(name, NOBODY) for name in names]
    return np.array(folds_of_names, dtype=int)


# ---- places ---------------------------------------------------------------------------------------------------------


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
    of_others = counts.sum(0) - counts
    return of_others.reshape(folds, findings, m, m)


def label_differences(maps: np.ndarray, target: np.ndarray, fold: np.ndarray, folds: int) -> np.ndarray:
    """Mean map of the images with a finding minus that of those without it, over the images outside each fold.

    (N, F, m, m), (N, F) of 1, 0, NaN, (N,) in NOBODY..K-1 -> (K, F, m, m), NaN where there is no image of one kind
    """
    differences = np.empty((folds, *maps.shape[1:]))
    for k in range(folds):
        # A fold's own images never enter the sum; taken out again, they would leave a residue that chooses among ties.
        outside = (fold != k)[:, None]
        present = _mean_map(maps, outside & (target == 1))
        absent = _mean_map(maps, outside & (target == 0))
        differences[k] = present - absent
    return differences


def _mean_map(maps: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(N, F, m, m), (N, F) bool -> (F, m, m), NaN where nothing is chosen"""
    mean = np.full(maps.shape[1:], np.nan)
    for j in np.flatnonzero(chosen.any(axis=0)):
        rows = chosen[:, j]
        mean[j] = maps[rows, j].mean(axis=0, dtype=np.float64)
    return mean


# ---- scores of fixed places -----------------------------------------------------------------------------------------


def score_places(scorer: Scorer, places: np.ndarray, folds: np.ndarray) -> Values:
    """Score each pair on the map of its finding that was chosen outside its patient's fold.

    (K, F, m, m) with NaN where there is no place, (P,) folds -> values, undefined where there is no place
    """
    truth = scorer.truth
    maps = places.reshape(-1, *places.shape[2:])  # (K * F, m, m)
    image_of_pair = truth.image_patient[truth.pair_image]
    map_index = folds[image_of_pair] * len(truth.findings) + truth.pair_finding  # (Q,)
    is_missing = np.isnan(maps).any(axis=(1, 2))
    without_place = is_missing[map_index]  # (Q,)
    sound = np.nan_to_num(maps)
    values = scorer.score(scorer.prepare(sound), map_index)
    for name, value in values.items():
        undefined = without_place[truth.box_pair] if name in BY_BOX else without_place
        value[undefined] = np.nan
    return values


def score_best_place(scorer: Scorer, m: int, folds: np.ndarray) -> Values:
    """The cell that the most boxes of the finding in the other folds contain."""
    truth = scorer.truth
    inside = scorer.cells("box", m, centres=True)
    pair = truth.box_pair[inside.row]
    image = truth.pair_image[pair]
    fold = folds[truth.image_patient[image]]
    shape = (int(folds.max()) + 1, len(truth.findings), m)
    counts = count_boxes(fold, truth.pair_finding[pair], inside.cell, shape)
    nowhere = ~counts.any(axis=(2, 3))  # the other folds have no box of that finding
    counts[nowhere] = np.nan
    return score_places(scorer, counts, folds)


def score_label_place(scorer: Scorer, labelled: LabelledMaps, name: str, folds: np.ndarray) -> Values:
    """The mean map of source `name` over images with the finding minus that over images without it."""
    truth = scorer.truth
    columns = [labelled.maps.classes.index(c) for c in truth.findings]
    maps = labelled.maps.maps[name][:, columns]
    target = labelled.target[:, columns]
    fold = folds_of(labelled.patients, truth.patients, folds)
    places = label_differences(maps, target, fold, int(folds.max()) + 1)
    return score_places(scorer, places, folds)


def check_same_kind(path: str, maps: Maps, sets: Sequence[Maps]) -> None:
    """UserError: none of the scored files has maps of the same classes and source, or it is of another checkpoint."""
    alike = []
    for other in sets:
        same_source = other.maps.keys() & maps.maps.keys()
        if other.classes == maps.classes and same_source and not maps.one_for_all:
            alike.append(other)
    if not alike:
        raise UserError(
            f"--train_masks {path}: holds {', '.join(maps.maps)} of {len(maps.classes)} classes, and no file of "
            "--masks holds the same; make both with infer_roi_consistency.py --class_masks (or --cam), "
            "of one checkpoint"
        )
    training = models_of(maps.meta)
    scored = models_of(alike[0].meta)
    if training and scored and training != scored:
        raise UserError(
            f"--train_masks {path}: comes from {training[0]}, the scored maps from {scored[0]}; "
            "make both of one checkpoint"
        )
