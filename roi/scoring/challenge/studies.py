"""Scores of studies: the images of one visit are one answer, with one probability and one target a class.

Letters: N images, S studies, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from roi.data.studies import studies_of
from roi.data.targets import target_matrix
from roi.errors import UserError
from roi.labels import is_finding
from roi.scoring.predictions import Predictions, align_with_table

UNITS = ("image", "study")


@dataclass(frozen=True)
class StudyRows:
    """Which predicted image belongs to which study; studies stand in the order of the table."""

    first: np.ndarray  # (S,) the image of each that the table lists first
    study: np.ndarray  # (N,) study of each image
    kinds: np.ndarray  # (N,) of each image, places in roi.data.studies.KINDS

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(N, K) -> (S, K)"""
        images = np.bincount(self.study)
        sums = [np.bincount(self.study, column) for column in values.T]
        return np.stack(sums, axis=1) / images[:, None]


def group_studies(rows: pd.DataFrame, name: str) -> StudyRows:
    """The studies of predicted images, as training and prediction have them (roi.data.studies).

    Args:
        rows: of a table, in the order of the predictions.
        name: of the table, for messages.

    Raises:
        UserError: a study has images of two patients.
    """
    # In the order of the table, so that two files of predictions of the same images name a study alike.
    order = np.argsort(rows.index.to_numpy(), kind="stable")
    try:
        studies = studies_of(rows.iloc[order])
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    # Not the frontal view that the study model looks at first: the name of a study is that of its first row.
    listed_first = np.minimum.reduceat(studies.rows, studies.start[:-1])
    study = np.empty(len(rows), dtype=np.int64)
    kinds = np.empty(len(rows), dtype=np.int8)
    study[order], kinds[order] = studies.study_of_row, studies.kinds
    return StudyRows(order[listed_first], study, kinds)


def mean_per_image(values: np.ndarray, studies: StudyRows) -> np.ndarray:
    """Give each image the mean of its study. (N, K) -> (N, K)"""
    return studies.mean(values)[studies.study]


def mean_predictions(preds: Predictions, studies: StudyRows) -> Predictions:
    """The mean of the probabilities of each study's images, under the name of the first one."""
    prob = {part: studies.mean(values) for part, values in preds.prob.items()}
    images = [preds.images[n] for n in studies.first]
    contaminated = np.zeros(len(images), dtype=bool)
    # One image that was trained on gives the whole study away.
    np.logical_or.at(contaminated, studies.study, preds.contaminated)
    return replace(preds, images=images, prob=prob, contaminated=contaminated)


def study_targets(
    target: np.ndarray,
    classes: list[str],
    studies: StudyRows,
    rows: pd.DataFrame,
    name: str,
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
    studies: StudyRows | None  # of all images; None where the table has no such studies


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
        return Units(preds, rows, target, len(rows), _studies_if_any(rows, csv))
    studies = group_studies(rows, csv)
    target = study_targets(target, preds.classes, studies, rows, csv)
    means = mean_predictions(preds, studies)
    return Units(means, rows.iloc[studies.first], target, len(rows), studies)


def _studies_if_any(rows: pd.DataFrame, csv: str) -> StudyRows | None:
    """The studies of images that are scored one by one, for which nobody needs studies."""
    try:
        return group_studies(rows, csv)
    except UserError as error:
        print(f"{error}; no groups by views")
        return None
