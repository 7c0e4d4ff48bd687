"""Scores where few classes are frequent and many are rare: head, medium and tail, and the four figures of CXR-LT.

Which bin a class belongs to is decided by the training table, never by the images that are scored: a bin that moved
with the test set would make two test sets incomparable. The challenge has published neither its bins nor how its
calibration error is taken over classes; both are ours here, and stand in every output.

Letters: N images that are scored, K classes, R resamples, B bins of probability.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from roi.data.patients import named_patients
from roi.data.table import read_table
from roi.data.targets import class_list, target_matrix
from roi.errors import UserError
from roi.labels import is_finding
from roi.scoring import calibration, summary
from roi.scoring.bootstrap import BootstrapEstimate, WeightedStatistic

# Share of the training images from which on a class is in the bin.
LOWER_EDGES = {"head": 0.1, "medium": 0.01, "tail": 0.0}
RULE = "share of the training images that have the class: head from 10 %, medium from 1 %, tail below"
# At which a class is called present for F1, as the challenge does.
CALLED_FROM = 0.5
# Of the table, images that no model may learn from.
HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class TrainingCounts:
    """How often the training table has each class."""

    path: str
    images: int  # rows that may be trained on
    classes: list[str]
    positives: np.ndarray  # (K,)
    known: np.ndarray  # (K,) images of which it is known whether they have the class
    patients: frozenset[str] = frozenset()  # by any of their names

    @property
    def share(self) -> np.ndarray:
        """(K,) NaN: nobody looked for the class, or the table does not name it."""
        undefined = np.full(len(self.classes), np.nan)
        return np.divide(self.positives, self.known, out=undefined, where=self.known > 0)

    def knows_patient(self, rows: pd.DataFrame) -> np.ndarray:
        """(N,) bool: an image of the patient is among the training images."""
        known = rows["patient_id"].isin(self.patients) | named_patients(rows).isin(self.patients)
        return known.to_numpy()


def count_training(table: pd.DataFrame, path: str, classes: Sequence[str]) -> TrainingCounts:
    """Count the classes in the rows of a table that may be trained on."""
    rows = table[~table["split"].isin(HELD_OUT)]
    if rows.empty:
        raise UserError(f"--train_csv {path}: all of its rows are validation or test; give the training table")
    target = target_matrix(rows, classes)
    known = (~np.isnan(target)).sum(axis=0)
    # A class that no row names is one that the table does not know, not one that is absent everywhere.
    named = class_list(table) if table["labels"].any() else []
    is_named = np.isin(classes, named) | ~is_finding(classes)
    positives = (target == 1).sum(axis=0)
    # Two tables may know a patient by different names.
    by_table = frozenset(rows["patient_id"])
    patients = by_table | frozenset(named_patients(rows))
    return TrainingCounts(
        path,
        len(rows),
        list(classes),
        positives,
        np.where(is_named, known, 0),
        patients,
    )


def read_training_counts(path: str | None, classes: Sequence[str], has_other_use: bool) -> TrainingCounts | None:
    """Count the classes in the file of --train_csv.

    Returns:
        None without a file, or where all of its rows are held out and it `has_other_use`: the labels of --train_masks.
    """
    if path is None:
        return None
    table = read_table(path)
    if has_other_use and table["split"].isin(HELD_OUT).all():
        return None
    return count_training(table, path, classes)


def bin_classes(counts: TrainingCounts) -> dict[str, list[str]]:
    """The findings of each bin, most frequent first; those that cannot be counted are in none."""
    share = counts.share
    members: dict[str, list[str]] = {name: [] for name in LOWER_EDGES}
    findings = is_finding(counts.classes)
    # Ties keep the order of the classes.
    for j in np.argsort(-share, kind="stable"):
        if not findings[j] or np.isnan(share[j]):
            continue
        name = next(name for name, edge in LOWER_EDGES.items() if share[j] >= edge)
        members[name].append(counts.classes[j])
    return members


# ---- statistics -----------------------------------------------------------------------------------------------------


def statistics(prob: np.ndarray, target: np.ndarray) -> dict[str, WeightedStatistic]:
    """What `long_tail_block` reads beside the ranking of the classes. (N, K), (N, K)"""
    everywhere = np.ones(target.shape[1], dtype=bool)
    return {
        "counts_at_half": summary.confusion(prob >= CALLED_FROM, target, everywhere),
        "calibration_error": calibration_errors(prob, target),
    }


def calibration_errors(prob: np.ndarray, target: np.ndarray, bins: int = calibration.BINS) -> WeightedStatistic:
    """Expected calibration error of each class in each resample, in bins of equal width.

    (N, K), (N, K) -> f(weights (N, R)) = (R, K); NaN where nothing is known
    """
    images, classes = target.shape
    known = ~np.isnan(target)
    row, column = np.nonzero(known)
    p, y = prob[known], target[known]
    place = np.minimum((p * bins).astype(int), bins - 1)
    cell = column * bins + place
    # |mean probability - rate| times the count is |sum of p - y|: one sparse product sums all bins of all classes.
    shape = (classes * bins, images)
    difference = sparse.csr_matrix((p - y, (cell, row)), shape=shape)
    held = known.T.astype(np.float64)

    def statistic(weights: np.ndarray) -> np.ndarray:
        w = weights.astype(np.float64)
        distance = np.abs(difference @ w)  # (K * B, R)
        total = distance.reshape(classes, bins, -1).sum(axis=1)
        count = held @ w  # (K, R)
        undefined = np.full(count.shape, np.nan)
        return np.divide(total, count, out=undefined, where=count > 0).T

    return statistic


# ---- the block of metrics.json --------------------------------------------------------------------------------------


def long_tail_block(
    estimates: dict[str, BootstrapEstimate],
    counts: TrainingCounts,
    target: np.ndarray,
) -> dict[str, Any]:
    """The block `long_tail`: the rule, the counts, the scores of each bin, the four figures of the challenge.

    Args:
        estimates: of the ranking of all classes, and of `statistics`.
        counts: of the training table, classes as scored.
        target: (N, K).
    """
    classes = counts.classes
    scored = summary.scored(target, classes)
    members = bin_classes(counts)
    bins = {}
    for name, names in members.items():
        usable = scored & np.isin(classes, names)
        bins[name] = {
            "classes": names,
            "scored": int(usable.sum()),
            **mean_scores(estimates, usable),
        }
    findings = is_finding(classes)
    is_unknown = np.isnan(counts.share)
    not_counted = [classes[j] for j in np.flatnonzero(findings & is_unknown)]
    return {
        "train_csv": counts.path,
        "rule": RULE,
        "n_train_images": counts.images,
        "train_positives": {c: int(n) for c, n in zip(classes, counts.positives, strict=True)},
        "not_in_training": not_counted,
        "bins": bins,
        "challenge": challenge_figures(estimates, findings, scored),
    }


def mean_scores(estimates: dict[str, BootstrapEstimate], usable: np.ndarray) -> dict[str, Any]:
    """mAP and mAUROC over the classes `usable` (K,) bool."""
    ranking = estimates["ranking_full"]
    return {
        "map": ranking.column(1).mean_over(usable).with_interval(),
        "mauroc": ranking.column(0).mean_over(usable).with_interval(),
    }


def challenge_figures(
    estimates: dict[str, BootstrapEstimate],
    findings: np.ndarray,
    scored: np.ndarray,
) -> dict[str, Any]:
    """mAP, mAUROC, mF1 at .5 and mECE over the classes that have both kinds of images. (K,), (K,) bool"""
    f1 = estimates["counts_at_half"].map(partial(summary.decision, "f1"))
    return {
        **mean_scores(estimates, scored),
        "mf1": f1.mean_over(scored).with_interval(),
        "mece": estimates["calibration_error"].mean_over(scored).with_interval(),
        "classes_scored": int(scored.sum()),
        "classes_left_out": int((findings & ~scored).sum()),
        "mece_bins": calibration.BINS,
    }
