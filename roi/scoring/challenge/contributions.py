"""What each image adds to the prediction of its study, as a study model says in preds.json.

Letters: N images, K classes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roi.errors import UserError


@dataclass(frozen=True)
class Contributions:
    """Of each image of a file of predictions, in its order."""

    studies: list[str]  # (N,) name of the study
    alone: np.ndarray  # (N, K) probability of the image alone; NaN of an image that was not looked at
    added: np.ndarray  # (N, K) of the study, less of the study without the image; NaN where no other was looked at

    @property
    def several(self) -> np.ndarray:
        """(N,) bool: the image is one of several of its study that were looked at."""
        return ~np.isnan(self.added).any(axis=1)


def read_contributions(path: str | Path) -> Contributions | None:
    """Read what a study model says of single images; None where the predictions are of an image model, or a CSV.

    The file has been read by roi.scoring.predictions, which refuses what is no file of predictions.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return None
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not any("study" in row for row in rows):
        return None
    # Columns as roi.scoring.predictions has them: both are used side by side.
    classes = list(rows[0]["prob_full"])
    try:
        full = _matrix(rows, "prob_full", classes)
        alone = _matrix(rows, "prob_view", classes)
        without = _matrix(rows, "without", classes)
        studies = [str(row["study"]) for row in rows]
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: study, prob_view or without is not what infer_roi_consistency.py writes ({error!r})"
        ) from error
    return Contributions(studies, alone, full - without)


def _matrix(rows: list[dict[str, Any]], name: str, classes: list[str]) -> np.ndarray:
    """(N, K) in the order of the classes; NaN in rows that have no such key."""
    values = np.full((len(rows), len(classes)), np.nan)
    for n, row in enumerate(rows):
        # An image beyond --max_views has no prob_view, one that is alone in its study no `without`.
        if name in row:
            values[n] = [row[name][c] for c in classes]
    return values
