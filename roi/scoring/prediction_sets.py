"""thresholds.json: written, read again, and what its promises are worth on other images.

Letters: N images, K classes, M columns of values, R resamples. prob is (N, K) in [0, 1]; target (N, K) of 1, 0, NaN
(unknown). Only findings are in the sets, never Normal. The thresholds are made in roi/scoring/conformal_calibration.py.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi.errors import UserError
from roi.files import atomic_write
from roi.run_paths import MARK, portable, portable_origin
from roi.scoring import calibration, conformal
from roi.scoring.bootstrap import WeightedStatistic, estimate, share_weighted_mean
from roi.scoring.json_schema import COUNT, NUMBER, ORIGIN, TEXT, Each, Items, Keys, Maybe, problems

# Class -> parameters of temperature or Platt scaling.
Scaling = dict[str, list[float]]
VERSION = 1
# Prevalences that differ by more than this share of the calibration's are worth a warning.
SHIFT = 0.25
# Alphas of the risk curve.
ALPHAS = np.arange(0.01, 0.51, 0.01)
CURVE = tuple(round(alpha, 2) for alpha in ALPHAS.tolist())
# One threshold for all findings.
RULES = ("fnr", "fnr_with_finding", "fnr_shifted", "fdr")
# Thresholds of a finding.
EACH = ("present_from", "absent_to", "precise_from")
# What is measured of each rule.
RISKS = ("fnr", "fnr_with_finding", "fdr", "size", "size_with_finding")
# What is measured of each finding.
RATES = ("sensitivity", "specificity", "precision", "single")
THRESHOLDS = Keys(
    {
        "alpha": NUMBER,
        "delta": NUMBER,
        "unit": TEXT,
        "classes": Items(TEXT),
        **dict.fromkeys(RULES, Maybe(NUMBER)),
        "each": Each(Keys(dict.fromkeys(EACH, Maybe(NUMBER)))),
        "shift": Maybe(Keys()),
        "scale": TEXT,
        "scaling": Maybe(Each(Items(NUMBER))),
        "curve": Items(Keys({"alpha": NUMBER, "fnr": Maybe(NUMBER)})),
        "n_patients": COUNT,
        "with_finding": NUMBER,
        "prevalence": Each(NUMBER),
        "patients": Items(TEXT),
        "model": ORIGIN,
    }
)


# ---- the file -------------------------------------------------------------------------------------------------------


def write(path: str | Path, thresholds: dict[str, Any]) -> None:
    """Write a file of thresholds, whose paths count from its own folder."""
    written = {**thresholds, "paths": MARK}
    for key in ("preds", "csv"):
        if key in thresholds:
            written[key] = portable(thresholds[key], Path(path))
    if "model" in thresholds:
        written["model"] = portable_origin(thresholds["model"], Path(path))
    with atomic_write(path) as file:
        json.dump(written, file, indent=1, allow_nan=False)
        file.write("\n")


def read(path: str | Path) -> dict[str, Any]:
    """Read a file of calibrate_conformal.py. UserError: it is none."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of thresholds; make it with calibrate_conformal.py")
    try:
        thresholds = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not a file of thresholds ({error})") from error
    if not isinstance(thresholds, dict) or thresholds.get("version") != VERSION:
        raise UserError(f"{path}: not a file of calibrate_conformal.py, or of another version of it; make it anew")
    problem = next(problems(thresholds, THRESHOLDS), "") or _missing_class(thresholds)
    if problem:
        raise UserError(f"{path}: not a file of calibrate_conformal.py: {problem}; make it anew")
    return thresholds


def _missing_class(thresholds: dict[str, Any]) -> str:
    """What is wrong with a file whose keys are right: a class that one of its blocks lacks, or an unknown scaling."""
    blocks = ["each", "prevalence"]
    if thresholds["scale"] != "none":
        blocks.append("scaling")
    for block in blocks:
        for c in thresholds["classes"]:
            if c not in (thresholds[block] or {}):
                return f"{block!r} has no {c!r}"
    if thresholds["scale"] not in ("none", *calibration.FITS):
        return f"'scale' is {thresholds['scale']!r}"
    return ""


def hashes(patients: np.ndarray) -> list[str]:
    """Who was calibrated on, without names: enough to notice them among the images that are scored."""
    digests = []
    for name in set(patients.tolist()):
        digest = hashlib.blake2b(str(name).encode(), digest_size=6)
        digests.append(digest.hexdigest())
    return sorted(digests)


def prevalence(target: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    present = (target == 1).sum(axis=0)
    known = (~np.isnan(target)).sum(axis=0)
    rates = present / np.maximum(known, 1)
    return dict(zip(classes, rates.tolist(), strict=True))


# ---- the sets of images ---------------------------------------------------------------------------------------------


def apply_scale(prob: np.ndarray, classes: Sequence[str], scale: str, scaling: Scaling | None) -> np.ndarray:
    """(N, K) -> (N, K) as the thresholds see them."""
    if scale == "none" or scaling is None:
        return prob
    columns = []
    for k, c in enumerate(classes):
        parameters = tuple(scaling[c])
        columns.append(calibration.apply(scale, parameters, prob[:, k]))
    return np.stack(columns, axis=1)


def sets_by_rule(thresholds: dict[str, Any], prob: np.ndarray) -> dict[str, np.ndarray]:
    """The prediction sets by every rule that has a threshold. (N, K) of thresholds["classes"] -> (N, K) bool each

    fnr …: one threshold for all findings; present: findings whose presence cannot be ruled out; absent: whose absence
    cannot; precise: precision 1 - alpha.
    """
    classes = thresholds["classes"]
    p = apply_scale(prob, classes, thresholds["scale"], thresholds["scaling"])
    sets = {}
    for rule in RULES:
        if thresholds[rule] is not None:
            sets[rule] = p >= thresholds[rule]
    limits = {}
    for name in EACH:
        # A limit that there is not is NaN, to which every comparison is false: nothing can be ruled out.
        of_classes = [thresholds["each"][c][name] for c in classes]
        limits[name] = np.array(of_classes, dtype=float)
    with np.errstate(invalid="ignore"):
        sets["present"] = ~(p < limits["present_from"])
        sets["absent"] = ~(p > limits["absent_to"])
        sets["precise"] = p >= limits["precise_from"]
    return sets


def described(thresholds: dict[str, Any], prob: np.ndarray) -> list[dict[str, Any]]:
    """For each image its sets by name: `set`, `certain` (present, and absence is ruled out), `possible`. (N, K)

    `set` is by the rule named `set_rule`: fnr_shifted where it was asked for, else fnr; all findings where that is
    infeasible: nothing less keeps the promise.
    """
    # All findings where a rule is infeasible: nothing less keeps the promise.
    sets = sets_by_rule(thresholds, prob)
    rule = "fnr_shifted" if thresholds["shift"] else "fnr"
    wide = sets.get(rule, np.ones(prob.shape, dtype=bool))
    certain = sets["present"] & ~sets["absent"]
    possible = sets["present"] & sets["absent"]
    names = np.array(thresholds["classes"], dtype=object)
    rows = []
    for n in range(len(prob)):
        row = {
            "set": names[wide[n]].tolist(),
            "set_rule": rule,
            "certain": names[certain[n]].tolist(),
            "possible": names[possible[n]].tolist(),
        }
        rows.append(row)
    return rows


# ---- what came of the promises --------------------------------------------------------------------------------------


def realised(
    thresholds: dict[str, Any], prob: np.ndarray, target: np.ndarray, patients: np.ndarray, resamples: int, seed: int
) -> dict[str, Any]:
    """What came of the promises: risks and sizes of the sets, with intervals by patient; the block `conformal`.

    Each rule of RULES: RISKS, where fnr is the mean share of an image's findings that its set lacks, 0 without any. Of
    each finding: sensitivity of `present`, specificity of `absent`, precision of `precise`, share of images whose
    answer is single.

    Args:
        thresholds: of `read`.
        prob, target: (N, K) of thresholds["classes"].
        patients: (N,).
        resamples, seed: of the intervals.
    """
    classes, unit = thresholds["classes"], thresholds["unit"]
    complete = ~np.isnan(target).any(axis=1)
    statistics = set_statistics(sets_by_rule(thresholds, prob), target, patients, unit)
    estimates = estimate(statistics, patients, resamples, seed)
    rules: dict[str, Any] = {}
    for rule in RULES:
        if rule in estimates:
            rules[rule] = {**estimates[rule].by_name(RISKS), "threshold": thresholds[rule]}
    each: dict[str, Any] = {c: {} for c in classes}
    for name in RATES:
        for c, rate in estimates[name].by_name(classes).items():
            each[c][name] = rate
    # Without --target_preds nobody asked for fnr_shifted.
    asked = [rule for rule in RULES if rule != "fnr_shifted" or thresholds["shift"]]
    curve = []
    if complete.any():
        curve = risk_curve(thresholds, prob, target, shares(complete, patients, unit))
    return {
        "alpha": thresholds["alpha"],
        "delta": thresholds["delta"],
        "unit": unit,
        "thresholds": thresholds["each"],
        "n_whole": int(complete.sum()),
        "rules": rules,
        "infeasible": [rule for rule in asked if thresholds[rule] is None],
        "each": each,
        "curve": curve,
        "shift": prevalence_shift(thresholds, target, len(set(patients.tolist()))),
    }


def set_statistics(
    sets: dict[str, np.ndarray],
    target: np.ndarray,
    patients: np.ndarray,
    unit: str,
) -> dict[str, WeightedStatistic]:
    """RISKS of each rule that has a threshold, and RATES."""
    positive, negative = target == 1, target == 0
    known = ~np.isnan(target)
    complete = known.all(axis=1)
    with_finding = complete & positive.any(axis=1)
    # In the order of RISKS. Half-known images look easier than they are, and images without a finding lose nothing.
    counted = np.stack([complete, with_finding, complete, complete, with_finding], axis=1)

    def mean(values: np.ndarray, counted: np.ndarray) -> WeightedStatistic:
        return share_weighted_mean(values, shares(counted, patients, unit))

    statistics: dict[str, WeightedStatistic] = {}
    for rule in RULES:
        if rule not in sets:
            continue
        inside = sets[rule]
        size = inside.sum(axis=1)
        missed = share_of(~inside & positive, positive)
        false = share_of(inside & negative, inside & known)
        values = np.stack([missed, missed, false, size, size], axis=1)
        statistics[rule] = mean(values, counted)
    statistics["sensitivity"] = mean(sets["present"], positive)
    statistics["specificity"] = mean(sets["absent"], negative)
    statistics["precision"] = mean(positive, sets["precise"] & known)
    single = sets["present"] != sets["absent"]
    statistics["single"] = mean(single, np.ones(target.shape, dtype=bool))
    return statistics


def share_of(part: np.ndarray, everything: np.ndarray) -> np.ndarray:
    """The share of each row that is in `part`; 0 where there is nothing. (N, K) bool, (N, K) bool -> (N,)"""
    size = everything.sum(axis=1)
    return part.sum(axis=1) / np.maximum(size, 1)


def risk_curve(
    thresholds: dict[str, Any],
    prob: np.ndarray,
    target: np.ndarray,
    share: np.ndarray,
) -> list[dict[str, float]]:
    """The false-negative rate at the threshold of every alpha that has one. (N,) `share`: what each image counts."""
    scaled = apply_scale(prob, thresholds["classes"], thresholds["scale"], thresholds["scaling"])
    curve = []
    for row in thresholds["curve"]:
        if row["fnr"] is not None:
            proportion = conformal.false_negative_proportion(scaled, target, row["fnr"])
            rate = np.average(proportion, weights=share)
            curve.append({"alpha": row["alpha"], "fnr": float(rate)})
    return curve


def shares(counted: np.ndarray, patients: np.ndarray, unit: str) -> np.ndarray:
    """What each image counts in a mean: 1, or with unit patient its part of what its patient has of them.

    (N, M) or (N,) bool -> the same shape
    """
    held = counted.astype(float)
    if unit == "image":
        return held
    patient, people = pd.factorize(patients)
    total = np.zeros((len(people), *held.shape[1:]))
    np.add.at(total, patient, held)
    return held / np.maximum(total[patient], 1)


# ---- another prevalence ---------------------------------------------------------------------------------------------


def prevalence_shift(thresholds: dict[str, Any], target: np.ndarray, people: int) -> dict[str, Any]:
    """How the prevalences of these images differ from those of the calibration images, and a warning.

    It is given where one differs by more than SHIFT of itself, and more than three standard errors, as if each patient
    had one image.

    Args:
        thresholds: of `read`.
        target: (N, K).
        people: number of patients of these images.
    """
    classes, before = thresholds["classes"], thresholds["prevalence"]
    now = prevalence(target, classes)
    with_finding = float((target == 1).any(axis=1).mean())
    variance = 1 / people + 1 / thresholds["n_patients"]
    far = []
    for c in classes:
        pooled = (now[c] + before[c]) / 2
        # A prevalence of 0 or 1 in both has no spread, and no error of 0 may call it far.
        spread = max(pooled * (1 - pooled), 1e-12)
        error = math.sqrt(spread * variance)
        if abs(now[c] - before[c]) > max(SHIFT * before[c], 3 * error):
            far.append(c)

    def ratio(c: str) -> float:
        grown = (now[c] + 1e-9) / (before[c] + 1e-9)
        return abs(math.log(grown))

    worst = sorted(far, key=ratio, reverse=True)[:3]
    warning = ""
    if worst:
        changes = [f"{c} {before[c]:.2%} -> {now[c]:.2%}" for c in worst]
        warning = (
            f"prevalence differs from that of the calibration images ({', '.join(changes)}; "
            f"with a finding {thresholds['with_finding']:.1%} -> {with_finding:.1%}): "
            "fnr, fdr and precision, which are averaged over images, are not guaranteed here; "
            "sensitivity and specificity of each finding are, if nothing but prevalence changed"
        )
    return {
        "prevalence": now,
        "calibration": before,
        "with_finding": with_finding,
        "calibration_with_finding": thresholds["with_finding"],
        "warning": warning,
    }
