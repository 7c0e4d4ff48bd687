"""Does the prediction live on what the mask keeps? Scores from saved predictions; no model is loaded.

Letters: N images, K classes, S sources of masks (the mask and its controls), F fractions of the pixels, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from roi.errors import UserError
from roi.scoring import metrics
from roi.scoring.bootstrap import BootstrapEstimate, WeightedStatistic, estimate, none_if_nan, of_column, weighted_mean
from roi.scoring.npz_stream import is_contaminated, read_arrays, read_meta, scalar
from roi.scoring.summary import scored

KIND = "file of curves (infer_roi_consistency.py --curves)"
ARRAYS = ("images", "classes", "sources", "fractions", "crop", "drop", "full", "keep_ratio", "meta")
SIGNS = {"positives": 1, "negatives": 0}
CURVES = ("insertion", "deletion")


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
    contaminated: bool | None = None  # trained on some of these images or their patients? None: nobody says

    @property
    def at_keep_ratio(self) -> int:
        """The fraction that is nearest to what the mask keeps."""
        off = np.abs(self.fractions - self.keep_ratio)
        return int(np.argmin(off))


def read_curves(path: str | Path) -> Curves:
    """Read a file of curves. UserError: not such a file, or a probability that is none."""
    arrays = read_arrays(path, ARRAYS, KIND)
    n = np.atleast_1d(arrays["images"]).size
    s = np.atleast_1d(arrays["sources"]).size
    f = np.atleast_1d(arrays["fractions"]).size
    k = np.atleast_1d(arrays["classes"]).size
    shapes = {"crop": (n, s, f, k), "drop": (n, s, f, k), "full": (n, k)}
    for name, wanted in shapes.items():
        shape = arrays[name].shape
        if shape != wanted:
            raise UserError(f"{path}: not a {KIND}: {name} is {shape}, not {wanted}")
    ascend = np.diff(arrays["fractions"]) > 0
    if f < 2 or not ascend.all():
        raise UserError(f"{path}: not a {KIND}: its fractions do not ascend")
    for name in shapes:
        values = arrays[name]
        inside = (values >= 0) & (values <= 1)
        if not inside.all():
            raise UserError(f"{path}: holds values of {name!r} that are no probabilities in 0..1")
    meta = read_meta(arrays["meta"], path, KIND)
    return Curves(
        images=arrays["images"].astype(str).tolist(),
        classes=arrays["classes"].astype(str).tolist(),
        sources=arrays["sources"].astype(str).tolist(),
        fractions=arrays["fractions"],
        crop=arrays["crop"],
        drop=arrays["drop"],
        full=arrays["full"],
        keep_ratio=scalar(arrays, "keep_ratio", path),
        meta=meta,
        contaminated=is_contaminated(arrays, meta, np.arange(n), path),
    )


# ---- loss of confidence ---------------------------------------------------------------------------------------------


def confidence_scores(prob: dict[str, np.ndarray], target: np.ndarray) -> dict[str, WeightedStatistic]:
    """Mean of full - drop on positives and on negatives, f(weights) = (R, K) each."""
    loss = prob["full"] - prob["drop"]
    scores = {}
    for name, value in SIGNS.items():
        scores[f"faithfulness_{name}"] = weighted_mean(loss, target == value)
    return scores


def confidence(estimates: dict[str, BootstrapEstimate], classes: Sequence[str], findings: np.ndarray) -> dict[str, Any]:
    """The entries positives and negatives of the block `faithfulness`; the means are over `findings` (K,) bool."""
    block: dict[str, Any] = {}
    for name in SIGNS:
        score = estimates[f"faithfulness_{name}"]
        mean = score.mean_over(findings)
        block[name] = {"mean": mean.with_interval(), "per_class": score.by_name(classes)}
    return block


# ---- insertion and deletion -----------------------------------------------------------------------------------------


def controls(curves: Curves, target: np.ndarray, patients: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """Insertion and deletion curves of the mask and of controls that keep exactly as many pixels: the block `controls`.

    The curves are of the mean AUROC over findings. insertion: on the kept fraction alone; deletion: without it; area:
    the mean height of a curve over the fractions (trapezoids). A good mask has a high insertion and a low deletion
    curve, both against its controls. positives, negatives: mean of full - drop at keep_ratio. minus: the mask less each
    control, paired.

    Args:
        curves: predictions at each fraction.
        target: (N, K) of the images of `curves`.
        patients: (N,) of the same.
        resamples: of the intervals.
        seed: of the resamples.

    Petsiuk et al. 2018.
    """
    findings = scored(target, curves.classes)
    estimates = estimate(curve_scores(curves, target), patients, resamples, seed)
    means = {name: score.mean_over(findings) for name, score in estimates.items()}
    blocks: dict[str, Any] = {}
    figures: dict[str, dict[str, BootstrapEstimate]] = {}
    for source in curves.sources:
        lines = {}
        for name in CURVES:
            lines[name] = curve_of(means, source, name, len(curves.fractions))
        figures[source] = figures_of(lines, curves)
        for name in SIGNS:
            figures[source][name] = means[f"{source}/{name}"]
        blocks[source] = {}
        for name, figure in figures[source].items():
            blocks[source][name] = figure.with_interval()
        for name, line in lines.items():
            heights = line.value.tolist()
            blocks[source][name] = [none_if_nan(round(height, 6)) for height in heights]
    # A file may hold controls alone.
    if "mask" in figures:
        blocks["mask"]["minus"] = differences(figures)
    return {
        "n_images": len(curves.images),
        "contaminated": curves.contaminated,
        "keep_ratio": curves.keep_ratio,
        "fractions": [float(fraction) for fraction in curves.fractions],
        "sources": blocks,
    }


def curve_scores(curves: Curves, target: np.ndarray) -> dict[str, WeightedStatistic]:
    """AUROC of each source at each fraction, and its loss of confidence: "mask/3/insertion", "mask/positives"."""
    scores: dict[str, WeightedStatistic] = {}
    # All statistics are named before any is estimated: the same resamples make differences paired.
    for s, source in enumerate(curves.sources):
        loss = curves.full - curves.drop[:, s, curves.at_keep_ratio]
        for name, value in SIGNS.items():
            scores[f"{source}/{name}"] = weighted_mean(loss, target == value)
        for f in range(len(curves.fractions)):
            insertion = metrics.ranking(curves.crop[:, s, f], target)
            deletion = metrics.ranking(curves.drop[:, s, f], target)
            scores[f"{source}/{f}/insertion"] = of_column(0, insertion)
            scores[f"{source}/{f}/deletion"] = of_column(0, deletion)
    return scores


def curve_of(means: dict[str, BootstrapEstimate], source: str, name: str, fractions: int) -> BootstrapEstimate:
    """The heights of one curve at all fractions: (F,)"""
    points = [means[f"{source}/{f}/{name}"] for f in range(fractions)]
    value = np.array([point.value for point in points])
    resampled = np.stack([point.resampled for point in points], axis=-1)
    return BootstrapEstimate(value, resampled)


def figures_of(lines: dict[str, BootstrapEstimate], curves: Curves) -> dict[str, BootstrapEstimate]:
    """What is read off the two curves: AUROC at keep_ratio, and the area under each."""
    figures = {
        "crop": lines["insertion"].column(curves.at_keep_ratio),
        "drop": lines["deletion"].column(curves.at_keep_ratio),
    }
    area_below = partial(area, fractions=curves.fractions)
    for name, line in lines.items():
        figures[f"{name}_area"] = line.map(area_below)
    return figures


def differences(figures: dict[str, dict[str, BootstrapEstimate]]) -> dict[str, Any]:
    """The mask less each control."""
    minus: dict[str, Any] = {}
    for control, of_control in figures.items():
        if control == "mask":
            continue
        minus[control] = {}
        for name, figure in figures["mask"].items():
            minus[control][name] = figure.minus(of_control[name]).with_interval()
    return minus


def area(height: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """The mean height between the first and the last fraction. (..., F), (F,) ascending -> (...)"""
    left = height[..., :-1]
    right = height[..., 1:]
    middle = (right + left) / 2
    width = np.diff(fractions)
    total = (middle * width).sum(axis=-1)
    return total / (fractions[-1] - fractions[0])
