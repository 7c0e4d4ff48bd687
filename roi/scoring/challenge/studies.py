"""Scores of studies: the images of one visit are one answer, with one probability and one target a class.

Letters: N images, S studies, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from roi.data.targets import target_matrix
from roi.errors import UserError
from roi.labels import is_finding
from roi.scoring.predictions import Predictions, align_with_table

UNITS = ("image", "study")


@dataclass(frozen=True)
class Studies:
    """Which image belongs to which study; studies stand in the order of the table."""

    first: np.ndarray  # (S,) row of the first image of each
    study: np.ndarray  # (N,) study of each image

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(N, K) -> (S, K)"""
        images = np.bincount(self.study)
        columns = [np.bincount(self.study, column) for column in values.T]
        return np.stack(columns, axis=1) / images[:, None]


def group_studies(rows: pd.DataFrame, name: str) -> Studies:
    """Group images by `study_id`; an image without one is a study of its own.

    Args:
        rows: of a table, with image, patient_id and study_id.
        name: of the table, for messages.

    Raises:
        UserError: a study has images of two patients.
    """
    # In the order of the table, so that two files of predictions of the same images name a study alike.
    order = np.argsort(rows.index.to_numpy(), kind="stable")
    study_id = rows["study_id"].to_numpy(dtype=object)
    # Two sets may use the same numbers. The zero byte is in none of these texts: no two kinds of keys are alike.
    named = rows["dataset"].to_numpy(dtype=object) + "\0" + study_id
    alone = "\0\0" + rows["image"].to_numpy(dtype=object)
    code, _ = pd.factorize(np.where(study_id == "", alone, named)[order])
    _, first = np.unique(code, return_index=True)
    first = order[first]
    study = np.empty(len(rows), dtype=np.int64)
    study[order] = code
    patient = rows["patient_id"].to_numpy(dtype=object)
    other = patient != patient[first][study]
    if other.any():
        n = int(other.argmax())
        raise UserError(
            f"{name}: study {study_id[n]!r} has images of two patients, {patient[first[study[n]]]!r} and "
            f"{patient[n]!r}; give each study its own study_id"
        )
    return Studies(first, study)


def mean_per_image(values: np.ndarray, studies: Studies) -> np.ndarray:
    """Give each image the mean of its study. (N, K) -> (N, K)"""
    return studies.mean(values)[studies.study]


def mean_predictions(preds: Predictions, studies: Studies) -> Predictions:
    """The mean of the probabilities of each study's images, under the name of the first one."""
    prob = {part: studies.mean(values) for part, values in preds.prob.items()}
    images = [preds.images[n] for n in studies.first]
    contaminated = np.zeros(len(images), dtype=bool)
    # One image that was trained on gives the whole study away.
    np.logical_or.at(contaminated, studies.study, preds.contaminated)
    return replace(preds, images=images, prob=prob, contaminated=contaminated)


def study_targets(
    target: np.ndarray, classes: list[str], studies: Studies, rows: pd.DataFrame, name: str
) -> np.ndarray:
    """The targets of studies: a known cell goes before an unknown one. (N, K) -> (S, K)

    Raises:
        UserError: two images of a study contradict each other.
    """
    shape = (len(studies.first), target.shape[1])
    present = np.zeros(shape, dtype=bool)
    absent = np.zeros(shape, dtype=bool)
    np.logical_or.at(present, studies.study, target == 1)
    np.logical_or.at(absent, studies.study, target == 0)
    # Normal is derived of the others: it contradicts itself only where they do.
    contradiction = present & absent & is_finding(classes)
    if contradiction.any():
        s, j = np.argwhere(contradiction)[0]
        studies_with = int(contradiction.any(axis=1).sum())
        example = rows["study_id"].iloc[studies.first[s]]
        raise UserError(
            f"{name}: {studies_with:,} studies have images with contradicting labels, the first is {example!r} "
            f"({classes[j]!r}); score images with --unit image"
        )
    merged = np.full(shape, np.nan, dtype=target.dtype)
    merged[absent] = 0
    merged[present] = 1
    return merged


@dataclass(frozen=True)
class Units:
    """What is scored: images, or studies of them."""

    preds: Predictions
    rows: pd.DataFrame  # of the table, one a unit
    target: np.ndarray  # (N, K) or (S, K)
    n_images: int


def align_units(path: str, table: pd.DataFrame, csv: str, unit: str, members: Sequence[str] = ()) -> Units:
    """Read predictions of images, and make those of studies of them where `unit` says so.

    Args:
        path: file of predictions.
        table: of their images.
        csv: its file, for messages.
        unit: one of UNITS.
        members: files of an ensemble.
    """
    preds, rows = align_with_table(path, table, csv, members)
    target = target_matrix(rows, preds.classes)
    if unit == "image":
        return Units(preds, rows, target, len(rows))
    studies = group_studies(rows, csv)
    target = study_targets(target, preds.classes, studies, rows, csv)
    return Units(mean_predictions(preds, studies), rows.iloc[studies.first], target, len(rows))
