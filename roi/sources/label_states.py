"""What a source says about an image and a finding: present, absent, or unknown for a reason that has a name.

Letters: N images, K = 14 findings in the order of LABELS. A matrix of cells is (N, K) int8.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from roi.errors import UserError
from roi.labels import LABELS

LABEL_INDEX = {label: j for j, label in enumerate(LABELS)}
ABSENT, PRESENT, UNCERTAIN, NOT_LABELED, NOT_MENTIONED, PARENT_ONLY, EXCLUDED, READERS_DISAGREE = range(8)
REASONS = {
    UNCERTAIN: "the source says that it is uncertain",
    NOT_LABELED: "the data set never looked for it",
    NOT_MENTIONED: "not mentioned",
    PARENT_ONLY: "a wider or neighbouring label is present that may mean it",
    EXCLUDED: "the image or its labels are of no use: excluded, not indexed, not readable",
    READERS_DISAGREE: "the readers disagree",
}


def kinds_of_rows(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) int8 -> (first (U,): a row of each kind, kind (N,): the kind of each row).

    Eight cells at a time are one whole number, so that any K fits.
    """
    rows, classes = cells.shape
    padded = np.zeros((rows, -(-classes // 8) * 8), dtype=np.int8)
    padded[:, :classes] = cells
    kind = np.zeros(rows, dtype=np.int64)
    for word in padded.view(np.int64).T:  # (N,)
        part, words = pd.factorize(word)
        # At most N kinds so far and N of this word: their product fits 64 bits for as many rows as a memory holds.
        kind, _ = pd.factorize(kind * len(words) + part)
    _, first = np.unique(kind, return_index=True)
    return first, kind


def fields(cells: np.ndarray, labels: Sequence[str] = LABELS) -> dict[str, np.ndarray]:
    """The fields of the table that say the same.

    (N, K) -> {"labels", "uncertain", "unknown"}: (N,) of comma-separated findings, `labels` (K,) being their names.
    """
    first, row = kinds_of_rows(cells)
    kinds = cells[first]  # (U, K)
    chosen = {"labels": kinds == PRESENT, "uncertain": kinds == UNCERTAIN, "unknown": kinds > UNCERTAIN}
    found = {}
    for name, on in chosen.items():
        texts = [",".join(itertools.compress(labels, line)) for line in on.tolist()]
        found[name] = np.array(texts, dtype=object)[row]
    return found


def negated(cells: np.ndarray, blank: str) -> np.ndarray:
    """The policy for what is not mentioned: 'unknown' leaves it so, 'negative' makes it absent."""
    if blank not in ("unknown", "negative"):
        raise UserError(f"blank {blank!r} is neither unknown nor negative")
    return np.where(cells == NOT_MENTIONED, ABSENT, cells).astype(np.int8) if blank == "negative" else cells


def leave_unknown(cells: np.ndarray, rows: np.ndarray, findings: Sequence[str], open_cells: Sequence[int]) -> None:
    """Make COARSE the cells of `findings` that are one of `open_cells`, in `rows` (N,) bool: a neighbour is present."""
    for finding in findings:
        column = cells[:, LABEL_INDEX[finding]]
        column[rows & np.isin(column, open_cells)] = PARENT_ONLY
