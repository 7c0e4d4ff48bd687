"""What a data set says about a finding in an image: present, absent, or unknown for a reason that has a name.

Readers give these codes alone. Their text is made once, when a table is written, and read back by roi/data/table.py.

Letters: N images, K = 14 findings in the order of LABELS, U distinct rows. A matrix of codes (`cells`) is (N, K) int8.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from roi.choices import BLANK_POLICIES
from roi.errors import UserError
from roi.labels import LABELS

LABEL_INDEX = {label: k for k, label in enumerate(LABELS)}
# All codes above UNCERTAIN are unknown.
ABSENT, PRESENT, UNCERTAIN, NOT_LABELED, NOT_MENTIONED, PARENT_ONLY, EXCLUDED, READERS_DISAGREE = range(8)
REASONS = {
    UNCERTAIN: "the source says that it is uncertain",
    NOT_LABELED: "the data set never looked for it",
    NOT_MENTIONED: "not mentioned",
    PARENT_ONLY: "a wider or neighbouring label is present that may mean it",
    EXCLUDED: "the image or its labels are of no use: excluded, not indexed, not readable",
    READERS_DISAGREE: "the readers disagree",
}


def label_indices(findings: Iterable[str]) -> list[int]:
    """Their columns in a matrix of codes."""
    return [LABEL_INDEX[finding] for finding in findings]


def unique_rows(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the distinct rows of a matrix of codes.

    Args:
        cells: (N, K) int8, of any K.

    Returns:
        (U,) the first row of each kind, and (N,) the kind of each row.
    """
    rows, classes = cells.shape
    # Eight codes are read as one whole number: comparing numbers is many times faster than comparing rows.
    words_a_row = -(-classes // 8)
    padded = np.zeros((rows, 8 * words_a_row), dtype=np.int8)
    padded[:, :classes] = cells
    kind = np.zeros(rows, dtype=np.int64)
    for word in padded.view(np.int64).T:  # (N,)
        part, words = pd.factorize(word)
        # At most N kinds so far and N of this word: their product fits 64 bits for as many rows as a memory holds.
        kind, _ = pd.factorize(kind * len(words) + part)
    _, first = np.unique(kind, return_index=True)
    return first, kind


def label_columns(cells: np.ndarray, labels: Sequence[str] = LABELS) -> dict[str, np.ndarray]:
    """The columns `labels`, `uncertain` and `unknown` of the table.

    Args:
        cells: (N, K) codes.
        labels: (K,) names of the findings.

    Returns:
        Name of each column -> (N,) texts, findings separated by commas.
    """
    # A table of hundreds of thousands of images has a few hundred distinct rows: text is made once for each of these.
    first, row = unique_rows(cells)
    distinct = cells[first]  # (U, K)
    is_named = {
        "labels": distinct == PRESENT,
        "uncertain": distinct == UNCERTAIN,
        "unknown": distinct > UNCERTAIN,
    }
    columns = {}
    for name, lines in is_named.items():
        texts = [",".join(itertools.compress(labels, line)) for line in lines.tolist()]
        columns[name] = np.array(texts, dtype=object)[row]
    return columns


def apply_blank_policy(cells: np.ndarray, blank: str) -> np.ndarray:
    """What a report does not mention stays so with `blank` "unknown", and is absent with "negative"."""
    if blank not in BLANK_POLICIES:
        raise UserError(f"blank {blank!r} is neither unknown nor negative")
    if blank == "unknown":
        return cells
    return np.where(cells == NOT_MENTIONED, ABSENT, cells).astype(np.int8)


def mark_parent_only(cells: np.ndarray, rows: np.ndarray, findings: Sequence[str], replaced: Sequence[int]) -> None:
    """A wider or neighbouring label is present: what is not known of `findings` may be meant by it. Changes `cells`.

    Args:
        cells: (N, K) codes.
        rows: (N,) bool, the images with that label.
        findings: names of the findings that it may mean.
        replaced: the codes that give way; what a source says of a finding by name stays.
    """
    for finding in findings:
        column = cells[:, LABEL_INDEX[finding]]
        column[rows & np.isin(column, replaced)] = PARENT_ONLY
