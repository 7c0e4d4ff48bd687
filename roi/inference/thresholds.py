"""From which probability on a finding is shown: thresholds of calibrate_conformal.py or evaluate.py, else one half."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from roi.errors import UserError
from roi.labels import NORMAL_LABELLED, is_finding
from roi.scoring import metrics_file, prediction_sets

DEFAULT = 0.5


@dataclass(frozen=True)
class Thresholds:
    """Of each class; Normal is no finding and has none (NaN)."""

    values: np.ndarray  # (K,) of the probability of the full view
    source: str  # where they come from, for a person

    def above(self, prob: np.ndarray) -> np.ndarray:
        """Which classes reach their threshold, most probable first. (K,) -> places"""
        # A comparison with NaN is false.
        places = np.flatnonzero(prob >= self.values)
        return places[np.argsort(-prob[places], kind="stable")]


def default_thresholds(classes: Sequence[str]) -> Thresholds:
    """One half for each finding: nobody has chosen better ones."""
    values = dict.fromkeys(classes, DEFAULT)
    return _of_classes(values, classes, f"{DEFAULT:g} for each finding, for no --thresholds were given")


def read_thresholds(path: str | Path, classes: Sequence[str]) -> Thresholds:
    """Thresholds of a file; a finding of which it has none is shown from one half on.

    Args:
        path: metrics.json of evaluate.py with --threshold_preds (the best of each finding on validation images), or
            thresholds.json of calibrate_conformal.py (that of its sets).
        classes: of the model.

    Raises:
        UserError: neither of them, or without a threshold.
    """
    path = Path(path)
    values = _of_metrics(path) if is_metrics(path) else _of_conformal(path)
    # A file may be of a union of classes, of which this model has some.
    known = {name: value for name, value in values.items() if value is not None and name in classes}
    if not known:
        raise UserError(
            f"{path}: has no threshold of a class of this model; make it with evaluate.py --threshold_preds, or "
            "with calibrate_conformal.py and a larger --alpha"
        )
    return _of_classes(known, classes, path.name)


def given_thresholds(values: Mapping[str, float], classes: Sequence[str]) -> Thresholds:
    """Thresholds by class; those of other classes are one half. UserError: not a class of the model."""
    for name, value in values.items():
        if name not in classes:
            raise UserError(f"thresholds: the model has no class {name!r} (it has {', '.join(classes)})")
        if not 0 <= value <= 1:
            raise UserError(f"thresholds: {name} {value} is not between 0 and 1")
    return _of_classes(dict(values), classes, "given")


def is_metrics(path: Path) -> bool:
    """Whether a file is of evaluate.py; what cannot be read is not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "per_class" in content


def model_of_metrics(path: Path) -> dict[str, Any]:
    """Checkpoint and epoch of the predictions that a metrics.json scores; empty where nobody says."""
    metrics, _ = metrics_file.read_metrics(path)
    return metrics.get("predictions", {})


def _of_metrics(path: Path) -> dict[str, float | None]:
    metrics, _ = metrics_file.read_metrics(path)
    return {name: scores.get("threshold") for name, scores in metrics["per_class"].items()}


def _of_conformal(path: Path) -> dict[str, float | None]:
    """The threshold of the sets, as one of the probability before scaling."""
    found = prediction_sets.read(path)
    limit = found["fnr_shifted" if found["shift"] else "fnr"]
    # Infeasible: the set is then all findings, which an overlay cannot show.
    if limit is None:
        return {}
    return {
        name: _before_scaling(limit, found["scale"], (found["scaling"] or {}).get(name)) for name in found["classes"]
    }


def _before_scaling(limit: float, scale: str, parameters: Sequence[float] | None) -> float | None:
    """The probability that temperature or Platt scaling makes `limit`; None where it does not rise."""
    if scale == "none" or parameters is None or not 0 < limit < 1:
        return limit
    # sigmoid(slope * logit(p) + offset) reaches the limit where logit(p) reaches this.
    slope, offset = (1 / parameters[0], 0.0) if scale == "temperature" else parameters
    if not slope > 0:
        return None
    return float(expit((logit(limit) - offset) / slope))


def _of_classes(values: dict[str, Any], classes: Sequence[str], source: str) -> Thresholds:
    limits = np.array([values.get(name, DEFAULT) for name in classes], dtype=np.float64)
    shown = is_finding(classes) & (np.array(classes) != NORMAL_LABELLED)
    limits[~shown] = np.nan
    return Thresholds(limits, source)
