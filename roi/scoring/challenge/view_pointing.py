"""View pointing: is it the view in which a finding shows that makes the study model say so?

Asked of findings that are visible in exactly one of several views of their study: does that view add the most to the
probability of the study? A model that cannot tell its views apart is right by chance, one in as many as there are.

Letters: T rows of the truth, N images, S studies, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi.data.table import match_images
from roi.data.targets import target_matrix
from roi.data.text_table import numbers, read_text_table
from roi.errors import UserError
from roi.labels import canonical
from roi.scoring.bootstrap import estimate, share_weighted_mean, weighted_mean
from roi.scoring.challenge.contributions import Contributions, read_contributions
from roi.scoring.challenge.studies import StudyRows, group_studies
from roi.scoring.predictions import Predictions, align_with_table

COLUMNS = ("image", "study_id", "finding", "visible")


@dataclass(frozen=True)
class Pointing:
    """Of each study and finding; K classes."""

    counted: np.ndarray  # (S, K) bool: present, and visible in exactly one of several views
    hit: np.ndarray  # (S, K) whether that view adds the most; equal ones share
    chance: np.ndarray  # (S,) 1 / views


def score_views(
    preds_path: str,
    truth_path: str,
    table: pd.DataFrame,
    csv: str,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """The block `view_pointing` of metrics.json.

    Args:
        preds_path: predictions of a study model, of images of the table.
        truth_path: which finding is visible in which image, COLUMNS.
        table: with the labels.
        csv: its file, for messages.
        draws: bootstrap resamples of patients.
        seed: of the resamples.

    Raises:
        UserError: the predictions say nothing of single views, or no finding is visible in exactly one of several.
    """
    preds, rows = align_with_table(preds_path, table, csv)
    contributions = read_contributions(preds_path)
    if contributions is None or not contributions.several.any():
        raise UserError(
            f"{preds_path}: says nothing of what each view adds, which --truth_csv asks for; predict studies of "
            "several images with a checkpoint of train_multiview.py"
        )
    studies = group_studies(rows, csv)
    # As the predictions are grouped, so that a study of the truth is one of the model.
    visible = read_visible(truth_path, preds, studies, rows)
    pointing = point(contributions, visible, target_matrix(rows, preds.classes), studies)
    if not pointing.counted.any():
        raise UserError(
            f"--truth_csv {truth_path}: no finding that {csv} calls present is visible in exactly one of several views "
            f"of {preds_path}; give the truth of these images"
        )
    patients = rows["patient_id"].to_numpy()[studies.first]
    return {"truth_csv": truth_path, **summarise(pointing, preds.classes, patients, draws, seed)}


def read_visible(path: str, preds: Predictions, studies: StudyRows, rows: pd.DataFrame) -> np.ndarray:
    """Which class is visible in which image; what the truth does not list is not. -> (N, K) bool"""
    if not Path(path).is_file():
        raise UserError(f"--truth_csv {path}: no such file")
    truth = read_text_table(path)
    lacking = [name for name in COLUMNS if name not in truth]
    if lacking:
        columns = ", ".join(map(str, truth))
        raise UserError(f"--truth_csv {path}: no column {lacking[0]!r} (it has {columns})")
    shown = numbers(truth["visible"], path, "0 or 1")
    is_wrong = ~np.isin(shown, (0, 1))
    if is_wrong.any():
        first = int(np.argmax(is_wrong))
        wrong = truth["visible"].iloc[first]
        raise UserError(f"--truth_csv {path}: visible is {wrong!r}, not 0 or 1")
    place = match_images(truth["image"], preds.images)
    _refuse_other_studies(path, truth, place, rows)
    findings = truth["finding"]
    column_of = _columns(path, findings.unique().tolist(), preds.classes)
    column = findings.map(column_of).to_numpy()
    # A truth may be of more images than are predicted.
    chosen = (place >= 0) & (column >= 0) & (shown == 1)
    shape = (len(preds.images), len(preds.classes))
    visible = np.zeros(shape, dtype=bool)
    visible[place[chosen], column[chosen]] = True
    return visible


def _columns(path: str, findings: list[str], classes: list[str]) -> dict[str, int]:
    """The column of each finding of the truth, -1 where it is not predicted."""
    columns = {}
    for finding in findings:
        try:
            columns[finding] = classes.index(canonical(finding, classes, path))
        except UserError:
            columns[finding] = -1
    others = [finding for finding, column in columns.items() if column < 0]
    # Said, as one that is misspelled would go unnoticed.
    if others:
        names = ", ".join(others)
        print(f"{path}: {names}: not predicted, so not asked for")
    return columns


def _refuse_other_studies(path: str, truth: pd.DataFrame, place: np.ndarray, rows: pd.DataFrame) -> None:
    """UserError: the truth has an image in another study than the table."""
    here = np.flatnonzero(place >= 0)
    given = truth["study_id"].to_numpy(dtype=object)[here]
    own = rows["study_id"].to_numpy(dtype=object)
    own = own[place[here]]
    other = (given != own) & (given != "") & (own != "")
    if other.any():
        n = int(other.argmax())
        image = truth["image"].iloc[here[n]]
        raise UserError(
            f"--truth_csv {path}: {image} is of study {given[n]!r} there, of {own[n]!r} in the table; "
            "give the truth of these images"
        )


def point(contributions: Contributions, visible: np.ndarray, target: np.ndarray, studies: StudyRows) -> Pointing:
    """Which view adds the most, among those that were looked at.

    Args:
        visible: (N, K) bool.
        target: (N, K) labels; NaN unknown.
        studies: of the N images.
    """
    shape = (len(studies.first), visible.shape[1])
    several = contributions.several
    study = studies.study[several]
    added = contributions.added[several]
    shown = visible[several]
    # Views that the model has looked at; those beyond --max_views could not add anything.
    views = np.bincount(study, minlength=shape[0])
    # The highest of each study: where all views lower the probability, the one that lowers it least.
    most = np.full(shape, -np.inf)
    np.maximum.at(most, study, added)
    is_most = added == most[study]
    # Views that add the same share the point: a model that adds nothing anywhere is at chance.
    tied = np.zeros(shape)
    right = np.zeros(shape)
    seen_in = np.zeros(shape)
    np.add.at(tied, study, is_most)
    np.add.at(right, study, is_most & shown)
    np.add.at(seen_in, study, shown)
    # What a distractor shows is visible, too: the labels say what is a finding.
    present = np.zeros(shape, dtype=bool)
    np.logical_or.at(present, studies.study, target == 1)
    counted = present & (seen_in == 1)
    hit = np.divide(right, tied, out=np.zeros(shape), where=tied > 0)
    chance = 1 / np.maximum(views, 1)
    return Pointing(counted, hit, chance)


def summarise(pointing: Pointing, classes: list[str], patients: np.ndarray, draws: int, seed: int) -> dict[str, Any]:
    """The share of right views beside chance, over all pairs of a study and a finding, and finding by finding."""
    asked = pointing.counted.any(axis=1)
    counted = pointing.counted[asked]
    hit = pointing.hit[asked]
    chance = pointing.chance[asked]
    pairs = counted.sum(axis=1)
    # A study counts as often as it has findings that are asked for.
    of_study = np.where(counted, hit, 0).sum(axis=1) / pairs
    values = np.stack([of_study, chance, of_study - chance], axis=1)
    share = np.repeat(pairs[:, None], 3, axis=1).astype(float)
    statistics = {
        "all": share_weighted_mean(values, share),
        "findings": weighted_mean(hit, counted),
    }
    estimates = estimate(statistics, patients[asked], draws, seed)
    # A finding that is asked for in no study has no share.
    findings = {}
    for k in np.flatnonzero(counted.any(axis=0)).tolist():
        score = estimates["findings"].column(k).with_interval()
        findings[classes[k]] = {"n": int(counted[:, k].sum()), "pointing": score}
    return {
        "n_studies": int(asked.sum()),
        "n_patients": len(set(patients[asked])),
        "n_pairs": int(pairs.sum()),
        **estimates["all"].by_name(("pointing", "chance", "minus_chance")),
        "findings": findings,
    }
