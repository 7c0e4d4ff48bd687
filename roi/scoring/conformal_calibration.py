"""What calibrate_conformal.py does: thresholds of prediction sets from calibration images.

Letters: N images, K classes. prob is (N, K) in [0, 1]; target (N, K) of 1, 0, NaN (unknown). Only findings are in the
sets, never Normal.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from roi import WRITTEN_BY
from roi.data.table import ABSENT, match_images, patients_from_names, read_table
from roi.data.targets import target_matrix
from roi.errors import UserError
from roi.labels import NORMAL, canonical, is_finding
from roi.scoring import calibration, conformal, predictions
from roi.scoring.metrics import known_columns
from roi.scoring.prediction_files.model_facts import is_contaminated, same_model
from roi.scoring.prediction_sets import CURVE, VERSION, Scaling, apply_scale, hashes, prevalence


@dataclass(frozen=True)
class Promise:
    """What the thresholds must keep."""

    alpha: float  # risk that is allowed
    delta: float  # 1 - confidence of fdr and precision
    unit: str  # whom the promise is for, the next "image" or the next "patient"


@dataclass(frozen=True)
class Unlabelled:
    """Predictions on the images that the thresholds are meant for, where prevalence may differ."""

    prob: np.ndarray  # (N, K)
    patients: np.ndarray | None = None  # (N,) whose they are, as far as anybody knows


@dataclass(frozen=True)
class CalibrationImages:
    """The images that set the thresholds."""

    prob: np.ndarray  # (N, K) scaled
    target: np.ndarray  # (N, K)
    patients: np.ndarray  # (N,)

    def only(self, rows: np.ndarray) -> "CalibrationImages":
        """Those of `rows` (N,) bool."""
        return CalibrationImages(self.prob[rows], self.target[rows], self.patients[rows])

    def fnr_threshold(self, alpha: float, unit: str) -> float | None:
        if not len(self.prob):
            return None
        weights = image_weights(self.patients, unit)
        return conformal.fnr_threshold(self.prob, self.target, alpha, weights, 1.0)


def calibrate(
    prob: np.ndarray,
    target: np.ndarray,
    patients: np.ndarray,
    classes: Sequence[str],
    promise: Promise,
    scale: str,
    seed: int,
    unlabelled: Unlabelled | None = None,
) -> dict[str, Any]:
    """Everything that thresholds.json says.

    Thresholds of all findings together come from images of which all of `classes` are known.

    Args:
        prob, target, patients: (N, K), (N, K), (N,) of the calibration images.
        classes: findings that the sets are made of.
        promise: what the thresholds must keep.
        scale: none, temperature or platt, fitted on half of the patients, which then set no threshold.
        seed: of the halves, and of the image that stands for a patient.
        unlabelled: where given, there is a threshold for their prevalence.

    Raises:
        UserError: no image has all findings known, or a finding is without both kinds.
    """
    images, scaling = scale_images(prob, target, patients, classes, scale, seed)
    complete = complete_images(images)
    shift = None
    if unlabelled is not None:
        scaled = apply_scale(unlabelled.prob, classes, scale, scaling)
        shift = shift_to(complete, Unlabelled(scaled, unlabelled.patients), classes, promise)
    each = {c: finding_thresholds(images, k, promise, seed) for k, c in enumerate(classes)}
    return {
        "version": VERSION,
        **asdict(promise),
        "classes": list(classes),
        **common_thresholds(complete, promise, shift),
        "each": each,
        "shift": shift,
        "scale": scale,
        "scaling": scaling,
        "curve": [{"alpha": alpha, "fnr": complete.fnr_threshold(alpha, promise.unit)} for alpha in CURVE],
        **facts(images, complete, patients, classes),
    }


def facts(
    images: CalibrationImages, complete: CalibrationImages, patients: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """What the thresholds come from; `patients` (N,) are those of all images, the ones of the scaling among them."""
    return {
        "n_images": len(images.target),
        "n_whole": len(complete.target),
        "n_patients": len(np.unique(images.patients)),
        "n_fitted": len(patients) - len(images.patients),
        "with_finding": float(has_finding(images.target).mean()),
        "prevalence": prevalence(images.target, classes),
        # Nobody who had a part in it may be scored later, also not who was only fitted on.
        "patients": hashes(patients),
    }


def complete_images(images: CalibrationImages) -> CalibrationImages:
    """Those of which all findings are known. UserError: there is none."""
    complete = images.only(~np.isnan(images.target).any(axis=1))
    if not len(complete.target):
        raise UserError("no calibration image has all of these findings known; name fewer with --classes")
    return complete


def has_finding(target: np.ndarray) -> np.ndarray:
    """(N, K) -> (N,) bool"""
    return (target == 1).any(axis=1)


# ---- scaling --------------------------------------------------------------------------------------------------------


def scale_images(
    prob: np.ndarray, target: np.ndarray, patients: np.ndarray, classes: Sequence[str], scale: str, seed: int
) -> tuple[CalibrationImages, Scaling | None]:
    """The images that set thresholds, scaled, and the scaling that was fitted on the others."""
    fit = scaling_rows(patients, scale, seed)
    check_both(target, fit, classes)
    scaling = fit_scaling(prob[fit], target[fit], classes, scale)
    scaled = apply_scale(prob[~fit], classes, scale, scaling)
    return CalibrationImages(scaled, target[~fit], patients[~fit]), scaling


def scaling_rows(patients: np.ndarray, scale: str, seed: int) -> np.ndarray:
    """The images of the half of the patients on which the scaling is fitted. (N,) -> (N,) bool"""
    if scale == "none":
        return np.zeros(len(patients), dtype=bool)
    # Halves of patients, not of images: what is fitted on must be independent of what sets thresholds.
    names = np.unique(patients)
    order = np.random.default_rng(seed).permutation(names)
    half = order[: len(names) // 2]
    return np.isin(patients, half)


def fit_scaling(prob: np.ndarray, target: np.ndarray, classes: Sequence[str], scale: str) -> Scaling | None:
    """Class -> parameters, from the images where it is known."""
    if scale == "none":
        return None
    fit_one = calibration.FITS[scale]
    scaling = {}
    for c, (p, y) in zip(classes, known_columns(prob, target), strict=True):
        scaling[c] = list(fit_one(p, y))
    return scaling


def check_both(target: np.ndarray, fit: np.ndarray, classes: Sequence[str]) -> None:
    """UserError: a finding that no calibration image has, or that none is known to lack, in either half."""
    halves = [half for half in (fit, ~fit) if half.any()]
    for kind, verb in ((1, "has"), (0, "is known to lack")):
        held = np.ones(len(classes), dtype=bool)
        for half in halves:
            held &= (target[half] == kind).any(axis=0)
        lacking = [c for c, is_held in zip(classes, held, strict=True) if not is_held]
        if lacking:
            rest = ",".join(c for c in classes if c not in lacking) or "(none is left)"
            raise UserError(
                f"no calibration image {verb} {lacking[0]!r}, so nothing can be promised of it; "
                f"give more images, or --classes {rest}"
            )


# ---- images of one patient ------------------------------------------------------------------------------------------


def one_each(kind: np.ndarray, patients: np.ndarray, unit: str, seed: int) -> np.ndarray:
    """Rows that are independent of each other: all known ones, or one drawn image of each patient and kind.

    Args:
        kind: (N,) of 1, 0, NaN.
        patients: (N,).
        unit: "image" or "patient".
        seed: of the draw.
    """
    known = np.flatnonzero(~np.isnan(kind))
    if unit == "image":
        return known
    order = np.random.default_rng(seed).permutation(known)
    # The first of each patient and kind in a random order is a random one.
    patient, _ = pd.factorize(patients[order])
    group = patient * 2 + kind[order].astype(int)
    _, first = np.unique(group, return_index=True)
    return np.sort(order[first])


def image_weights(patients: np.ndarray, unit: str) -> np.ndarray:
    """(N,) what an image counts: 1, or its part of its patient."""
    if unit == "image":
        return np.ones(len(patients))
    _, place, count = np.unique(patients, return_inverse=True, return_counts=True)
    return 1 / count[place]


# ---- thresholds -----------------------------------------------------------------------------------------------------


def common_thresholds(complete: CalibrationImages, promise: Promise, shift: dict[str, Any] | None) -> dict[str, Any]:
    """The thresholds of all findings together, by rule."""
    with_finding = complete.only(has_finding(complete.target))
    share = image_weights(complete.patients, promise.unit)
    return {
        "fnr": complete.fnr_threshold(promise.alpha, promise.unit),
        "fnr_with_finding": with_finding.fnr_threshold(promise.alpha, promise.unit),
        "fnr_shifted": shift and shift["threshold"],
        "fdr": conformal.fdr_threshold(complete.prob, complete.target, promise.alpha, promise.delta, share),
    }


def finding_thresholds(images: CalibrationImages, k: int, promise: Promise, seed: int) -> dict[str, Any]:
    """The thresholds of one finding, and from how many images."""
    prob = images.prob[:, k]
    target = images.target[:, k]
    known = ~np.isnan(target)
    rows = one_each(target, images.patients, promise.unit, seed)
    present_from, absent_to = conformal.class_thresholds(prob[rows], target[rows], promise.alpha)
    # Precision is of both kinds together, so that each patient has one image in all.
    one_kind = np.where(known, 0, np.nan)
    rows = one_each(one_kind, images.patients, promise.unit, seed)
    return {
        "present_from": present_from,
        "absent_to": absent_to,
        "precise_from": conformal.precision_threshold(prob[rows], target[rows], promise.alpha, promise.delta),
        "positives": int((target == 1).sum()),
        "known": int(known.sum()),
    }


def shift_to(
    complete: CalibrationImages, unlabelled: Unlabelled, classes: Sequence[str], promise: Promise
) -> dict[str, Any]:
    """`shifted`, each image counting its part of its patient."""
    patients = unlabelled.patients
    if patients is None:
        patients = np.arange(len(unlabelled.prob))
    return shifted(
        complete.prob,
        complete.target,
        unlabelled.prob,
        classes,
        promise.alpha,
        complete.patients,
        image_weights(complete.patients, promise.unit),
        image_weights(patients, promise.unit),
    )


def shifted(
    scaled: np.ndarray,
    target: np.ndarray,
    unlabelled: np.ndarray,
    classes: Sequence[str],
    alpha: float,
    patients: np.ndarray,
    share: np.ndarray,
    unlabelled_share: np.ndarray,
) -> dict[str, Any]:
    """The threshold for images whose prevalence is that of `unlabelled`.

    It is estimated by EM from Platt-scaled predictions, and the calibration images are weighted to it.

    Args:
        scaled, target: (N, K) probabilities and targets of the calibration images, all known.
        unlabelled: (M, K) probabilities.
        classes: their names.
        alpha: rate that is allowed.
        patients: (N,).
        share, unlabelled_share: (N,), (M,) what each image counts, so that images of a patient count as one
            (image_weights).
    """
    base = share @ target / share.sum()
    # EM wants probabilities that are calibrated where the prevalence is known.
    platt = {}
    for k, c in enumerate(classes):
        parameters = calibration.fit_platt(scaled[:, k], target[:, k], share)
        platt[c] = list(parameters)
    calibrated = apply_scale(unlabelled, classes, "platt", platt)
    q = conformal.shifted_prevalence(calibrated, base, weight=unlabelled_share)
    estimated = dict(zip(classes, q.tolist(), strict=True))
    block: dict[str, Any] = {"prevalence": estimated, "n_unlabelled": len(unlabelled)}
    # A shift that no weighting explains is an answer, not an error.
    try:
        relative = conformal.label_shift_weights(target, q, share)
    except UserError as error:
        return {**block, "threshold": None, "why": f"{error}; more than prevalence differs there"}
    weight = relative * share
    # The next unit weighs at most as much as its heaviest image.
    threshold = conformal.fnr_threshold(scaled, target, alpha, weight, float(relative.max()))
    units = patients
    if (share == 1).all():
        units = np.arange(len(weight))
    return {**block, "threshold": threshold, "effective_images": effective_number(weight, units)}


def effective_number(weight: np.ndarray, unit: np.ndarray) -> float:
    """How many units of equal weight say as much (Kish). (N,), (N,) -> ()"""
    place, _ = pd.factorize(unit)
    of_units = np.bincount(place, weight)
    return float(of_units.sum() ** 2 / (of_units**2).sum())


# ---- what the user gave ---------------------------------------------------------------------------------------------


def calibrate_file(
    path: str, csv: str, promise: Promise, wanted: str, scale: str, seed: int, target_path: str | None
) -> dict[str, Any]:
    """Everything that thresholds.json says, from files.

    Args:
        path: predictions on calibration images.
        csv: table of their labels.
        promise: what the thresholds must keep.
        wanted: --classes.
        scale, seed: see `calibrate`.
        target_path: predictions of images whose prevalence may differ; None: there is no threshold for these.
    """
    preds, rows = predictions.align_with_table(path, read_table(csv), csv)
    if is_contaminated(preds):
        raise UserError(
            f"--preds {path}: the model was trained on some of these images or patients; calibrate on others"
        )
    classes = findings_of(preds.classes, wanted)
    columns = [preds.classes.index(c) for c in classes]
    prob = preds.prob["full"][:, columns]
    target, patients = target_matrix(rows, classes), rows["patient_id"].to_numpy()
    unlabelled = read_unlabelled(target_path, classes, preds) if target_path else None
    try:
        thresholds = calibrate(prob, target, patients, classes, promise, scale, seed, unlabelled)
    except UserError as error:
        raise UserError(f"{csv}: {error}") from error
    return {
        **thresholds,
        "preds": path,
        "csv": csv,
        "command": shlex.join(sys.argv),
        "written_by": WRITTEN_BY,
        "contaminated": is_contaminated(preds),  # false, or null where nobody says
        "model": {key: preds.meta[key] for key in ("checkpoint", "epoch", "ensemble") if key in preds.meta},
    }


def findings_of(classes: Sequence[str], wanted: str = "") -> list[str]:
    """The classes that sets are made of: the findings among them, or those asked for ('Mass,Nodule')."""
    asked = [c.strip() for c in wanted.split(",") if c.strip()]
    normal = sorted(set(asked) & set(NORMAL))
    if normal:
        raise UserError(f"--classes {wanted}: {', '.join(normal)} is no finding; sets are made of findings")
    for c in asked:
        if c not in classes:
            raise UserError(f"--classes: there is no prediction for {c!r} (there is {', '.join(classes)})")
    if asked:
        return asked
    return [c for c, finding in zip(classes, is_finding(classes), strict=True) if finding]


def read_unlabelled(path: str, classes: list[str], calibrated_on: predictions.Predictions) -> Unlabelled:
    """Predictions of the same model on other images, on which it was not trained; patients are those of their names."""
    preds = predictions.read(path)
    same_model(calibrated_on, preds.meta, f"--target_preds {path}")
    shared = int((match_images(preds.images, calibrated_on.images) != ABSENT).sum())
    if shared:
        raise UserError(f"--target_preds {path}: {shared:,} of its images set the thresholds")
    if is_contaminated(preds):
        raise UserError(f"--target_preds {path}: the model was trained on some of these images")
    # A file without a table has its own spelling of classes, and no patients but in the names of its images.
    known = [*classes, *preds.classes]
    names = [canonical(c, known, path) for c in preds.classes]
    for c in classes:
        if c not in names:
            raise UserError(f"--target_preds {path}: has no prediction for {c!r}")
    patients = patients_from_names(pd.Series(preds.images, dtype=str)).to_numpy()
    columns = [names.index(c) for c in classes]
    return Unlabelled(preds.prob["full"][:, columns], patients)
