"""What a reader would score who sees all that can be seen: from truth.csv of a synthetic set of studies.

    scores = perfect_scores(read_truth("Dataset/cxrlt/truth.csv"))
    scores.mean_first_frontal, scores.mean_all_views

Where evidence is seen that settles a finding, the reader says 1. Elsewhere he says how often the finding is there among
the studies in which he sees the same: the prevalence among unseen where he sees nothing. He does not use what findings
say of each other, nor that of a study without laterals more is hidden than of one with both kinds of view: a model may.

Letters: M studies.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from roi.errors import UserError
from roi.labels import NORMAL_LABELLED
from roi.scoring.metrics import average_precision, mean_defined

TRUTH_COLUMNS = ("image", "study_id", "patient_id", "split", "view", "finding", "present", "visible", "decided", "box")
LATERAL = "LATERAL"
# Not seen, but what follows from others that are.
DERIVED = ("Lung Opacity", NORMAL_LABELLED)
# An image with a tube and nothing else is normal.
BESIDE_NORMAL = "Support Devices"


@dataclass(frozen=True)
class PerfectScores:
    """AP of each class, and the means over classes."""

    first_frontal: dict[str, float]
    all_views: dict[str, float]

    @property
    def mean_first_frontal(self) -> float:
        scores = list(self.first_frontal.values())
        return mean_defined(np.array(scores))

    @property
    def mean_all_views(self) -> float:
        scores = list(self.all_views.values())
        return mean_defined(np.array(scores))


def read_truth(path: str | Path, splits: Iterable[str] = ()) -> pd.DataFrame:
    """Read truth.csv.

    Args:
        path: the file.
        splits: keep these alone (none: all).

    Raises:
        UserError: no such file, other columns, no row of these splits.
    """
    try:
        truth = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no truth of a synthetic set of studies ({error})") from error
    missing = [name for name in TRUTH_COLUMNS if name not in truth]
    if missing:
        remedy = "make the set with make_demo_dataset.py --studies N"
        raise UserError(f"{path}: no column {missing[0]!r}; {remedy}")
    for name in ("present", "visible", "decided"):
        truth[name] = truth[name] == "1"
    wanted = set(splits)
    if wanted:
        truth = truth[truth["split"].isin(wanted)]
        truth = truth.reset_index(drop=True)
        if truth.empty:
            raise UserError(f"{path}: no row of split {', '.join(sorted(wanted))}")
    return truth


def perfect_scores(truth: pd.DataFrame) -> PerfectScores:
    """Of all studies of `truth`, those of one view included."""
    studies = truth["study_id"].unique()
    present = truth[truth["present"]]
    first_frontal: dict[str, float] = {}
    all_views: dict[str, float] = {}
    for finding in sorted(present["finding"].unique()):
        has_finding = present["finding"] == finding
        target = np.isin(studies, present.loc[has_finding, "study_id"]).astype(int)
        for scores, first_alone in ((first_frontal, True), (all_views, False)):
            evidence = evidence_of(truth, finding, studies, first_alone)
            scores[finding] = average_precision(posterior(evidence, target), target)
    return PerfectScores(first_frontal, all_views)


def posterior(evidence: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(M,) how often the finding is there among studies of the same evidence."""
    # Counted among the studies that are scored: what he knows beforehand is their prevalence, and no label.
    _, code = np.unique(evidence, return_inverse=True)
    positives = np.bincount(code, weights=target)
    return (positives / np.bincount(code))[code]


def evidence_of(truth: pd.DataFrame, finding: str, studies: np.ndarray, first_alone: bool) -> np.ndarray:
    """What the reader sees of a finding in each study: (M,) words, equal ones where he sees the same.

    Args:
        first_alone: he is given the first frontal image alone, in studies without one the first image.
    """
    if finding == NORMAL_LABELLED:
        return other_evidence(truth, studies, first_alone)
    rows = truth[truth["finding"] == finding]
    is_conjunction = finding in conjunctions_of(truth)
    if is_conjunction and not first_alone:
        return conjunction_evidence(rows, studies)
    if first_alone:
        chosen = first_images(truth)
        rows = rows[rows["image"].isin(chosen)]
    seen = rows[rows["visible"]]
    is_seen = np.isin(studies, seen["study_id"])
    if not is_conjunction:
        return np.where(is_seen, "seen", "unseen")
    # A sign on a frontal image and one on a lateral image need not say the same.
    from_side = seen.loc[seen["view"] == LATERAL, "study_id"]
    on_lateral = np.isin(studies, from_side)
    where = np.where(on_lateral, "sign on lateral", "sign on frontal")
    return np.where(is_seen, where, "unseen")


def conjunctions_of(truth: pd.DataFrame) -> set[str]:
    """Findings that one view cannot decide: of some a sign is drawn where they are absent."""
    return set(truth.loc[~truth["present"], "finding"])


def conjunction_evidence(rows: pd.DataFrame, studies: np.ndarray) -> np.ndarray:
    """With all views: settled where both kinds are there, else which kind shows the sign. (M,) words"""
    shown = rows.assign(lateral=rows["view"] == LATERAL)
    by_study = shown.groupby("study_id")
    is_visible = by_study["visible"].any()
    words = is_visible.map({True: "sign on ", False: "unseen"})
    is_lateral = by_study["lateral"].any()
    kind = is_lateral.map({True: "lateral", False: "frontal"})
    words = words.where(words == "unseen", words + kind)
    is_settled = by_study["decided"].any()
    is_present = by_study["present"].any()
    is_present = is_present.map({True: "present", False: "absent"})
    # Studies without a row have no sign on any view.
    words = words.where(~is_settled, is_present)
    return words.reindex(studies, fill_value="unseen").to_numpy(dtype=str)


def other_evidence(truth: pd.DataFrame, studies: np.ndarray, first_alone: bool) -> np.ndarray:
    """Of Normal: whether any finding is seen that does not go with it. (M,) words"""
    # What needs two views settles nothing until both are looked at.
    is_other = ~truth["finding"].isin([*DERIVED, BESIDE_NORMAL])
    conjunctions = truth["finding"].isin(conjunctions_of(truth))
    settles = truth["visible"] & ~conjunctions
    if first_alone:
        settles &= truth["image"].isin(first_images(truth))
    else:
        settles |= conjunctions & truth["decided"] & truth["present"]
    seen = truth.loc[is_other & settles, "study_id"]
    return np.where(np.isin(studies, seen), "seen", "")


def first_images(truth: pd.DataFrame) -> set[str]:
    """The first frontal image of each study; where it has none, the first image."""
    images = truth.drop_duplicates("image")
    is_lateral = images["view"] == LATERAL
    ordered = images.assign(lateral=is_lateral).sort_values("lateral", kind="stable")
    return set(ordered.drop_duplicates("study_id")["image"])


def lone_views(truth: pd.DataFrame) -> pd.DataFrame:
    """What view pointing is scored on: findings that are visible on exactly one of several images of their study.

    Returns:
        study_id, finding, image (the one that shows it), views (images of the study; chance is 1 / views)
    """
    views = truth.groupby("study_id")["image"].nunique()
    of_both = conjunctions_of(truth) | set(DERIVED)
    is_shown = truth["present"] & truth["visible"]
    shown = truth[is_shown & ~truth["finding"].isin(of_both)]
    is_on_several = shown.duplicated(["study_id", "finding"], keep=False)
    alone = shown[~is_on_several].join(views.rename("views"), on="study_id")
    several = alone[alone["views"] > 1]
    return several[["study_id", "finding", "image", "views"]].reset_index(drop=True)
