"""Does the prediction live on what the mask keeps? Scores from saved predictions; no model is loaded.

Letters: N images, K classes, S sources of masks (the mask and its controls), F fractions of the pixels, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from roi.errors import UserError
from roi.scoring import metrics
from roi.scoring.npz_stream import is_contaminated, read_arrays, read_meta, scalar
from roi.scoring.summary import BootstrapEstimate, WeightedStatistic, estimate, scored, weighted_mean

WHAT = "file of curves (infer_roi_consistency.py --curves)"


@dataclass
class Curves:
    images: list[str]
    classes: list[str]
    sources: list[str]
    fractions: np.ndarray  # (F,) kept, ascending, in (0, 1)
    crop: np.ndarray  # (N, S, F, K) probabilities on the best-ranked fraction of the pixels
    drop: np.ndarray  # (N, S, F, K) probabilities on the rest
    full: np.ndarray  # (N, K) probabilities on the whole image
    keep_ratio: float
    meta: dict[str, Any]  # where it comes from
    contaminated: bool | None = (
        None  # was the checkpoint trained on some of these images or their patients? None: nobody says
    )


def read_curves(path: str | Path) -> Curves:
    """UserError: not such a file, or a probability that is none."""
    arrays = read_arrays(
        path, ("images", "classes", "sources", "fractions", "crop", "drop", "full", "keep_ratio", "meta"), WHAT
    )
    n, s, f, k = (len(np.atleast_1d(arrays[name])) for name in ("images", "sources", "fractions", "classes"))
    shapes = {"crop": (n, s, f, k), "drop": (n, s, f, k), "full": (n, k)}
    wrong = next((name for name, shape in shapes.items() if arrays[name].shape != shape), None)
    if wrong or f < 2 or (np.diff(arrays["fractions"]) <= 0).any():
        raise UserError(
            f"{path}: not a {WHAT}: "
            + (f"{wrong} is {arrays[wrong].shape}, not {shapes[wrong]}" if wrong else "its fractions do not ascend")
        )
    for part in shapes:
        if not ((arrays[part] >= 0) & (arrays[part] <= 1)).all():
            raise UserError(f"{path}: holds values of {part!r} that are no probabilities in 0..1")
    images, classes, sources = (arrays[name].astype(str).tolist() for name in ("images", "classes", "sources"))
    meta = read_meta(arrays["meta"], path, WHAT)
    return Curves(
        images,
        classes,
        sources,
        arrays["fractions"],
        arrays["crop"],
        arrays["drop"],
        arrays["full"],
        scalar(arrays, "keep_ratio", path),
        meta,
        is_contaminated(arrays, meta, np.arange(n), path),
    )


def confidence_scores(prob: dict[str, np.ndarray], target: np.ndarray) -> dict[str, WeightedStatistic]:
    """Mean of full - drop on positives and on negatives, f(weights) = (R, K)."""
    lost = prob["full"] - prob["drop"]
    return {
        name: weighted_mean(lost, target == value)
        for name, value in (("faithfulness_positives", 1), ("faithfulness_negatives", 0))
    }


def confidence(drawn: dict[str, BootstrapEstimate], classes: Sequence[str], findings: np.ndarray) -> dict[str, Any]:
    """-> positives and negatives of the block `faithfulness`; the means are over `findings` (K,) bool"""
    return {
        name: {
            "mean": drawn[f"faithfulness_{name}"].over(findings).summary(),
            "per_class": {
                c: drawn[f"faithfulness_{name}"].map(itemgetter((..., j))).summary() for j, c in enumerate(classes)
            },
        }
        for name in ("positives", "negatives")
    }


def controls(curves: Curves, target: np.ndarray, patients: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """Insertion and deletion curves (Petsiuk et al. 2018) in mean AUROC over findings, of the mask and of controls that keep
    exactly as many pixels. (N, K) targets, (N,) patients of the images of `curves` -> the block `controls`.

    insertion: AUROC on the kept fraction alone; deletion: AUROC without it; area: the mean height of a curve over the fractions
    (trapezoids). A good mask has a high insertion and a low deletion curve, both against its controls. positives, negatives: mean of
    full - drop at keep_ratio. minus: the mask less each control, paired.
    """
    scores: dict[str, WeightedStatistic] = {}
    findings = scored(target, curves.classes)
    at = int(np.argmin(np.abs(curves.fractions - curves.keep_ratio)))
    for s, source in enumerate(curves.sources):
        for name, value in (("positives", 1), ("negatives", 0)):
            scores[f"{source}/{name}"] = weighted_mean(curves.full - curves.drop[:, s, at], target == value)
    for s, source in enumerate(curves.sources):
        for f in range(len(curves.fractions)):
            for part, prob in (("insertion", curves.crop), ("deletion", curves.drop)):
                ranked = metrics.ranking(prob[:, s, f], target)
                scores[f"{source}/{f}/{part}"] = lambda w, g=ranked: g(w)[..., 0]  # type: ignore[misc]
    drawn = {name: score.over(findings) for name, score in estimate(scores, patients, resamples, seed).items()}
    block: dict[str, Any] = {}
    figures: dict[str, dict[str, BootstrapEstimate]] = {}
    for source in curves.sources:
        lines = {
            part: BootstrapEstimate(
                np.array([drawn[f"{source}/{f}/{part}"].value for f in range(len(curves.fractions))]),
                np.stack([drawn[f"{source}/{f}/{part}"].drawn for f in range(len(curves.fractions))], axis=-1),
            )
            for part in ("insertion", "deletion")
        }
        figures[source] = {
            "crop": lines["insertion"].map(lambda v: v[..., at]),
            "drop": lines["deletion"].map(lambda v: v[..., at]),
            **{f"{part}_area": line.map(lambda v: area(v, curves.fractions)) for part, line in lines.items()},
            **{name: drawn[f"{source}/{name}"] for name in ("positives", "negatives")},
        }
        block[source] = {
            **{name: figure.summary() for name, figure in figures[source].items()},
            **{part: [None if np.isnan(v) else round(float(v), 6) for v in line.value] for part, line in lines.items()},
        }
    if "mask" in figures:
        block["mask"]["minus"] = {
            control: {
                name: BootstrapEstimate(ours.value - theirs[name].value, ours.drawn - theirs[name].drawn).summary()
                for name, ours in figures["mask"].items()
            }
            for control, theirs in figures.items()
            if control != "mask"
        }
    return {
        "n_images": len(curves.images),
        "contaminated": curves.contaminated,
        "keep_ratio": curves.keep_ratio,
        "fractions": [float(f) for f in curves.fractions],
        "sources": block,
    }


def area(height: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """(..., F), (F,) ascending -> (...): the mean height between the first and the last fraction."""
    return ((height[..., 1:] + height[..., :-1]) / 2 * np.diff(fractions)).sum(axis=-1) / (fractions[-1] - fractions[0])
