"""Studies: the images of a table that were taken of one patient in one examination, as lists of its rows.

An image stays the row of the table, of the cache and of every file; nothing is padded and nothing is stored twice.

Letters: N rows, M studies, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from roi.errors import UserError
from roi.labels import is_finding

# Kinds of views, as `kinds_of` numbers them.
KINDS = ("frontal", "lateral", "not said")
LATERAL_WORDS = {"LATERAL", "LAT", "L", "LL", "RL", "SWIMMERS"}
FRONTAL_WORDS = {
    "PA",
    "AP",
    "FRONTAL",
    "POSTERIOR",
    "ANTERIOR",
    "POSTEROANTERIOR",
    "ANTEROPOSTERIOR",
    "OBLIQUE",
    "LAO",
    "RAO",
    "LPO",
    "RPO",
    "LLO",
    "RLO",
    "DECUBITUS",
    "LLD",
    "RLD",
}
PA_WORDS = {"PA", "POSTEROANTERIOR"}


@dataclass(frozen=True)
class Studies:
    """Which rows of a table belong together."""

    names: np.ndarray  # (M,) str: study_id, or the image where it stands alone
    rows: np.ndarray  # (N,) int64: the rows of study m are rows[start[m] : start[m + 1]]
    start: np.ndarray  # (M + 1,) int64
    kinds: np.ndarray  # (N,) int8, of each row of the table: a place in KINDS

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> np.ndarray:
        """(M,) images of each study."""
        return np.diff(self.start)

    @property
    def first_rows(self) -> np.ndarray:
        """(M,) the row that stands first in each study."""
        return self.rows[self.start[:-1]]

    @property
    def study_of_row(self) -> np.ndarray:
        """(N,) the study of each row of the table."""
        studies = np.empty(len(self.rows), dtype=np.int64)
        numbers = np.arange(len(self))
        studies[self.rows] = np.repeat(numbers, self.sizes)
        return studies

    def summary(self) -> str:
        """How many studies of how many images there are, for the console."""
        of_size = np.bincount(self.sizes.clip(max=5), minlength=6).tolist()
        parts = []
        for size in (1, 2, 3, 4):
            parts.append(f"{of_size[size]:,} of {size}")
        parts.append(f"{of_size[5]:,} of 5 or more")
        of_kind = np.bincount(self.kinds, minlength=len(KINDS)).tolist()
        views = []
        for kind, count in zip(KINDS, of_kind, strict=True):
            views.append(f"{count:,} {kind}")
        sizes = ", ".join(parts)
        return f"{len(self):,} studies ({sizes} images); views: {', '.join(views)}"


def studies_of(table: pd.DataFrame) -> Studies:
    """The studies of a table, in the order in which they appear in it.

    Images with one study_id, of one data set, are a study; an image without one is a study of its own. In a study
    frontal views come first (PA before others), then lateral ones, then those of which nobody says the kind, each in
    the order of the table.

    Raises:
        UserError: a study has images of two patients.
    """
    images, datasets = (table[name].to_numpy(dtype=object) for name in ("image", "dataset"))
    study_ids = table["study_id"].str.strip().to_numpy(dtype=object)
    codes = _study_codes(datasets, study_ids)
    kinds, rank = kinds_of(table["view"])
    # Of equal keys np.lexsort keeps the order of the table.
    rows = np.lexsort((rank, codes))
    sizes = np.bincount(codes)
    start = np.append(0, sizes.cumsum())
    names_of_rows = np.where(study_ids == "", images, study_ids)
    first_rows = rows[start[:-1]]
    studies = Studies(names_of_rows[first_rows], rows, start, kinds)
    _refuse_two_patients(studies, table["patient_id"].to_numpy(dtype=object))
    return studies


def _study_codes(datasets: np.ndarray, study_ids: np.ndarray) -> np.ndarray:
    """(N,) the number of the study of each row, counted in the order in which studies appear."""
    # Two sets may use the same numbers for their studies.
    dataset_codes, _ = pd.factorize(datasets)
    id_codes, ids = pd.factorize(study_ids)
    datasets_apart = len(ids) + 1
    keys = dataset_codes.astype(np.int64) * datasets_apart + id_codes
    alone = np.flatnonzero(study_ids == "")
    # Beyond all keys of named studies: each image for itself.
    beyond = keys.max(initial=0) + 1
    keys[alone] = beyond + np.arange(len(alone))
    codes, _ = pd.factorize(keys)
    return codes


def kinds_of(views: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each view, (N,) int8 places in KINDS, and (N,) its rank in a study, the lowest first."""
    kind_of_word = {}
    rank_of_word = {}
    for view in views.unique():
        plain = view.upper().replace("_", " ").replace("-", " ")
        words = set(plain.split())
        kind = 2
        if words & LATERAL_WORDS:
            kind = 1
        elif words & FRONTAL_WORDS:
            kind = 0
        kind_of_word[view] = kind
        is_pa = kind == 0 and bool(words & PA_WORDS)
        rank_of_word[view] = 0 if is_pa else kind + 1
    kinds = views.map(kind_of_word).to_numpy(dtype=np.int8)
    ranks = views.map(rank_of_word).to_numpy(dtype=np.int8)
    return kinds, ranks


def _refuse_two_patients(studies: Studies, patients: np.ndarray) -> None:
    patient_codes, _ = pd.factorize(patients)
    codes = patient_codes[studies.rows]
    first_rows = studies.start[:-1]
    expected = np.repeat(codes[first_rows], studies.sizes)
    other = studies.rows[codes != expected]
    if not len(other):
        return
    of_two = studies.study_of_row[other]
    study = of_two[0]
    count = len(np.unique(of_two))
    first_row = studies.first_rows[study]
    both = f"{patients[first_row]!r} and {patients[other[0]]!r}"
    raise UserError(
        f"study {studies.names[study]!r} has images of two patients, {both} ({count:,} such studies); a study is of "
        "one: correct the columns study_id and patient_id, or fill in patient_id where the table lacks it"
    )


class StudyTargets(NamedTuple):
    """What is known of studies."""

    targets: np.ndarray  # (M, K) float32: 1, 0, a share in between, NaN unknown
    filled: int  # cells that are unknown in some image of a study and known in another


def study_targets(
    studies: Studies,
    targets: np.ndarray,
    classes: Sequence[str],
    images: np.ndarray,
    union: bool = False,
) -> StudyTargets:
    """The labels of each study from those of its images.

    What one image knows goes before what another does not, and a certain label before a share. Where images have
    shares alone, their mean counts.

    Args:
        targets: (N, K) of the images.
        classes: K names.
        images: (N,) names, for messages.
        union: a finding is present where any image of the study has it, and the study normal where all images are.

    Raises:
        UserError: one image has a finding that another one of its study lacks (not with `union`).
    """
    ordered = targets[studies.rows]  # (N, K)
    start = studies.start[:-1]
    is_certain = (ordered == 0) | (ordered == 1)
    certain = np.where(is_certain, ordered, np.nan)
    with np.errstate(invalid="ignore"):
        highest = np.fmax.reduceat(certain, start)  # (M, K)
        lowest = np.fmin.reduceat(certain, start)
    # With NaN on both sides this is False.
    contradicting = highest > lowest
    if contradicting.any() and not union:
        _refuse_contradiction(studies, targets, contradicting, classes, images)
    found = np.where(is_finding(classes), highest, lowest).astype(np.float32)
    is_unknown = np.isnan(ordered)
    is_share = ~(is_certain | is_unknown)
    if is_share.any():
        count = np.add.reduceat(is_share, start, dtype=np.int64)
        total = np.add.reduceat(np.where(is_share, ordered, 0), start)
        mean = total / np.maximum(count, 1)
        # Where there is a certain label, or no share either, it stays.
        from_shares = np.isnan(found) & (count > 0)
        found = np.where(from_shares, mean, found).astype(np.float32)
    partly_unknown = np.logical_or.reduceat(is_unknown, start)
    filled = partly_unknown & ~np.isnan(found)
    return StudyTargets(found, int(filled.sum()))


def _refuse_contradiction(
    studies: Studies,
    targets: np.ndarray,
    contradicting: np.ndarray,
    classes: Sequence[str],
    images: np.ndarray,
) -> None:
    study, k = np.argwhere(contradicting)[0]
    first, end = studies.start[study : study + 2]
    rows = studies.rows[first:end]
    labels = targets[rows, k]
    has, *_ = images[rows[labels == 1]]
    lacks, *_ = images[rows[labels == 0]]
    count = int(contradicting.any(axis=1).sum())
    raise UserError(
        f"study {studies.names[study]!r}: {has} has {classes[k]}, {lacks} of the same study lacks it ({count:,} such "
        "studies); labels are the study's: correct the table, or take what any image has with --study_labels any"
    )
