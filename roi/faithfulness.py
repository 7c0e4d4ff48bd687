"""Does the prediction live on what the mask keeps? Scores from saved predictions; no model is loaded.

Letters: N images, K classes, S sources of masks (the mask and its controls), F fractions of the pixels, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roi import metrics
from roi.arrays import read_arrays
from roi.scores import Drawn, Weighed, estimate, weighted_mean

WHAT = "file of curves (infer_roi_consistency.py --curves)"


@dataclass
class Curves:
    images: list[str]
    classes: list[str]
    sources: list[str]
    fractions: np.ndarray  # (F,) kept, ascending, in (0, 1)
    crop: np.ndarray  # (N, S, F, K) probabilities on the best-ranked fraction of the pixels
    drop: np.ndarray  # (N, S, F, K) probabilities on the rest
    keep_ratio: float


def read_curves(path: str | Path) -> Curves:
    """ValueError: not such a file, or a probability that is none."""
    arrays = read_arrays(path, ("images", "classes", "sources", "fractions", "crop", "drop", "keep_ratio"), WHAT)
    for part in ("crop", "drop"):
        if not ((arrays[part] >= 0) & (arrays[part] <= 1)).all():
            raise ValueError(f"{path}: holds values of {part!r} that are no probabilities in 0..1")
    images, classes, sources = (arrays[name].astype(str).tolist() for name in ("images", "classes", "sources"))
    return Curves(images, classes, sources, arrays["fractions"], arrays["crop"], arrays["drop"], float(arrays["keep_ratio"]))


def confidence_scores(prob: dict[str, np.ndarray], target: np.ndarray) -> dict[str, Weighed]:
    """Mean of full - drop on positives and on negatives, f(weights) = (R, K)."""
    lost = prob["full"] - prob["drop"]
    return {name: weighted_mean(lost, target == value) for name, value in (("faithfulness_positives", 1), ("faithfulness_negatives", 0))}


def confidence(drawn: dict[str, Drawn], classes: Sequence[str]) -> dict[str, Any]:
    """-> positives and negatives of the block `faithfulness`"""
    return {
        name: {
            "mean": drawn[f"faithfulness_{name}"].over_findings(classes).summary(),
            "per_class": {c: drawn[f"faithfulness_{name}"].map(lambda v, j=j: v[..., j]).summary() for j, c in enumerate(classes)},  # type: ignore[misc]
        }
        for name in ("positives", "negatives")
    }


def controls(curves: Curves, target: np.ndarray, patients: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """Insertion and deletion curves (Petsiuk et al. 2018) in mean AUROC over findings, of the mask and of controls that keep
    exactly as many pixels. (N, K) targets, (N,) patients of the images of `curves` -> the block `controls`.

    insertion: AUROC on the kept fraction alone; deletion: AUROC without it; area: the mean height of a curve over the fractions
    (trapezoids). A good mask has a high insertion and a low deletion curve, both against its controls.
    """
    scores: dict[str, Weighed] = {}
    for s, source in enumerate(curves.sources):
        for f in range(len(curves.fractions)):
            for part, prob in (("insertion", curves.crop), ("deletion", curves.drop)):
                ranked = metrics.ranking(prob[:, s, f], target)
                scores[f"{source}/{f}/{part}"] = lambda w, g=ranked: g(w)[..., 0]  # type: ignore[misc]
    drawn = {name: score.over_findings(curves.classes) for name, score in estimate(scores, patients, resamples, seed).items()}
    at = int(np.argmin(np.abs(curves.fractions - curves.keep_ratio)))
    block: dict[str, Any] = {}
    for source in curves.sources:
        lines = {
            part: Drawn(
                np.array([drawn[f"{source}/{f}/{part}"].value for f in range(len(curves.fractions))]),
                np.stack([drawn[f"{source}/{f}/{part}"].drawn for f in range(len(curves.fractions))], axis=-1),
            )
            for part in ("insertion", "deletion")
        }
        block[source] = {
            "crop": lines["insertion"].map(lambda v: v[..., at]).summary(),
            "drop": lines["deletion"].map(lambda v: v[..., at]).summary(),
            **{part: [None if np.isnan(v) else round(float(v), 6) for v in line.value] for part, line in lines.items()},
            **{f"{part}_area": line.map(lambda v: area(v, curves.fractions)).summary() for part, line in lines.items()},
        }
    return {"n_images": len(curves.images), "keep_ratio": curves.keep_ratio, "fractions": [float(f) for f in curves.fractions], "sources": block}


def area(height: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """(..., F), (F,) ascending -> (...): the mean height between the first and the last fraction."""
    return ((height[..., 1:] + height[..., :-1]) / 2 * np.diff(fractions)).sum(axis=-1) / (fractions[-1] - fractions[0])
