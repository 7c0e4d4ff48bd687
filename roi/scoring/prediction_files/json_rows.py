"""Rows of preds.json: as text, as arrays, and the refusal of what would never be scored.

Letters: N rows, K classes.
"""

import json
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from roi.errors import UserError
from roi.scoring.prediction_files.flat_csv import PARTS


def row_text(row: dict[str, Any], is_first: bool) -> str:
    """A row as it stands in the list of the file."""
    comma = "" if is_first else ","
    return f"{comma}\n{json.dumps(row)}"


def probabilities(rows: list[dict[str, Any]], part: str, classes: list[str]) -> np.ndarray:
    """(N, K) of one part of all rows."""
    probs = list(map(itemgetter(f"prob_{part}"), rows))
    values = np.empty((len(rows), len(classes)))
    # A column at a time: without a list of each row, which is half of the time.
    for k, c in enumerate(classes):
        values[:, k] = np.fromiter(map(itemgetter(c), probs), np.float64, len(probs))
    return values


def refuse_unscored(path: Path, rows: list[dict[str, Any]], classes: list[str], parts: list[str], first: int) -> None:
    """UserError: a row has a class or a view that row 1 has not, and which would never be scored.

    `first`: the number of the first of these rows.
    """
    views = [f"prob_{part}" for part in parts]
    other_views = [f"prob_{part}" for part in PARTS if part not in parts]
    for n, row in enumerate(rows, first):
        unscored = [view for view in other_views if view in row]
        for view in views:
            if len(row[view]) > len(classes):
                unscored += [f"{view} of {c}" for c in row[view] if c not in classes]
        if unscored:
            raise UserError(
                f"{path}: row {n} ({row['image']!r}) has {unscored[0]}, which row 1 has not; "
                "all rows must have the same classes"
            )
