"""thresholds.json: made from calibration images, read again, and what its promises are worth on other images.

Letters: N images, K classes, R resamples. prob is (N, K) in [0, 1]; target (N, K) of 1, 0, NaN (unknown). Only findings are in the sets, never Normal.
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
from roi.labels import NORMAL, is_finding
from roi.scoring import calibration, conformal
from roi.scoring.json_schema import COUNT, NUMBER, TEXT, Each, Items, Keys, Maybe, problems
from roi.scoring.json_schema import ORIGIN
from roi.scoring.summary import BootstrapEstimate, WeightedStatistic, estimate, weighted_by

VERSION = 1
SHIFT = 0.25  # prevalences that differ by more than this share of the calibration's are worth a warning
CURVE = tuple(round(a, 2) for a in np.arange(0.01, 0.51, 0.01).tolist())  # alphas of the risk curve
RULES = ("fnr", "fnr_with_finding", "fnr_shifted", "fdr")  # one threshold for all findings
EACH = ("present_from", "absent_to", "precise_from")  # thresholds of a finding
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


def calibrate(
    prob: np.ndarray,
    target: np.ndarray,
    patients: np.ndarray,
    classes: Sequence[str],
    alpha: float,
    delta: float,
    unit: str,
    scale: str,
    seed: int,
    unlabelled: np.ndarray | None = None,
    unlabelled_patients: np.ndarray | None = None,
) -> dict[str, Any]:
    """Everything that thresholds.json says. `unit`: whom a promise is for, the next image or the next patient; `scale`: none, temperature or platt, fitted on
    half of the patients, which then set no threshold; `unlabelled` (M, K): predictions on the images it is meant for,
    where prevalence may differ, and `unlabelled_patients` (M,): whose they are, as far as anybody knows.

    Thresholds of all findings together come from images of which all of `classes` are known. UserError: there is none, or a finding without both kinds.
    """
    fit = np.zeros(len(prob), dtype=bool)
    if scale != "none":
        names = np.unique(patients)
        fit = np.isin(patients, np.random.default_rng(seed).permutation(names)[: len(names) // 2])
    check_both(target, fit, classes)
    scaling = (
        None
        if scale == "none"
        else {c: list(calibration.FITS[scale](*_known(prob[fit, k], target[fit, k]))) for k, c in enumerate(classes)}
    )
    scaled, y, who = apply_scale(prob[~fit], classes, scale, scaling), target[~fit], patients[~fit]
    whole = ~np.isnan(y).any(axis=1)
    if not whole.any():
        raise UserError("no calibration image has all of these findings known; name fewer with --classes")
    together = whole & (y == 1).any(axis=1)

    def fnr(level: float, rows: np.ndarray = whole) -> float | None:
        return (
            conformal.fnr_threshold(scaled[rows], y[rows], level, image_weights(who[rows], unit), 1.0)
            if rows.any()
            else None
        )

    shift = None
    if unlabelled is not None:
        others = np.arange(len(unlabelled)) if unlabelled_patients is None else unlabelled_patients
        there = apply_scale(unlabelled, classes, scale, scaling)
        weights = image_weights(who[whole], unit), image_weights(others, unit)
        shift = shifted(scaled[whole], y[whole], there, classes, alpha, who[whole], *weights)
    each = {}
    for k, c in enumerate(classes):
        rows = one_each(y[:, k], who, unit, seed)
        present, absent = conformal.class_thresholds(scaled[rows, k], y[rows, k], alpha)
        rows = one_each(np.where(np.isnan(y[:, k]), np.nan, 0), who, unit, seed)
        each[c] = {
            "present_from": present,
            "absent_to": absent,
            "precise_from": conformal.precision_threshold(scaled[rows, k], y[rows, k], alpha, delta),
        }
        each[c] |= {"positives": int((y[:, k] == 1).sum()), "known": int((~np.isnan(y[:, k])).sum())}
    return {
        "version": VERSION,
        "alpha": alpha,
        "delta": delta,
        "unit": unit,
        "classes": list(classes),
        "fnr": fnr(alpha),
        "fnr_with_finding": fnr(alpha, together),
        "fnr_shifted": shift and shift["threshold"],
        "fdr": conformal.fdr_threshold(scaled[whole], y[whole], alpha, delta, image_weights(who[whole], unit)),
        "each": each,
        "shift": shift,
        "scale": scale,
        "scaling": scaling,
        "curve": [{"alpha": a, "fnr": fnr(a)} for a in CURVE],
        "n_images": len(y),
        "n_whole": int(whole.sum()),
        "n_patients": len(np.unique(who)),
        "n_fitted": int(fit.sum()),
        "with_finding": float((y == 1).any(axis=1).mean()),
        "prevalence": prevalence(y, classes),
        "patients": hashes(patients),
    }


def check_both(target: np.ndarray, fit: np.ndarray, classes: Sequence[str]) -> None:
    """UserError: a finding that no calibration image has, or that none is known to lack, in either half."""
    for kind, word in ((1, "has"), (0, "is known to lack")):
        poor = [
            c
            for c, column in zip(classes, target.T, strict=True)
            for part in (fit, ~fit)
            if part.any() and not (column[part] == kind).any()
        ]
        if poor:
            rest = ",".join(c for c in classes if c not in poor)
            raise UserError(
                f"no calibration image {word} {poor[0]!r}, so nothing can be promised of it; give more images, or --classes {rest or '(none is left)'}"
            )


def one_each(kind: np.ndarray, patients: np.ndarray, unit: str, seed: int) -> np.ndarray:
    """Rows that are independent of each other: all known ones, or with unit patient one drawn image of each patient and kind (N,) of 1, 0, NaN."""
    known = np.flatnonzero(~np.isnan(kind))
    if unit == "image":
        return known
    order = np.random.default_rng(seed).permutation(known)
    _, first = np.unique(pd.factorize(patients[order])[0] * 2 + kind[order].astype(int), return_index=True)
    return np.sort(order[first])


def image_weights(patients: np.ndarray, unit: str) -> np.ndarray:
    """(N,) what an image counts: 1, or its part of its patient."""
    _, place, count = np.unique(patients, return_inverse=True, return_counts=True)
    return np.ones(len(patients)) if unit == "image" else 1 / count[place]


def shifted(
    scaled: np.ndarray,
    y: np.ndarray,
    unlabelled: np.ndarray,
    classes: Sequence[str],
    alpha: float,
    patients: np.ndarray,
    share: np.ndarray,
    unlabelled_share: np.ndarray,
) -> dict[str, Any]:
    """The threshold for images whose prevalence is that of `unlabelled`.

    It is estimated by EM from Platt-scaled predictions, and the calibration images are weighted to it. `share` (N,) and
    `unlabelled_share` (M,): what each image counts, so that images of a patient count as one (image_weights).
    """
    base = share @ y / share.sum()
    platt = {c: list(calibration.fit_platt(scaled[:, k], y[:, k], share)) for k, c in enumerate(classes)}
    q = conformal.shifted_prevalence(apply_scale(unlabelled, classes, "platt", platt), base, weight=unlabelled_share)
    found = {"prevalence": dict(zip(classes, q.tolist(), strict=True)), "n_unlabelled": len(unlabelled)}
    try:
        tilt = conformal.label_shift_weights(y, q, share)
    except ValueError as error:
        return found | {"threshold": None, "why": f"{error}; more than prevalence differs there"}
    weight = tilt * share
    # The next unit weighs at most as much as its heaviest image.
    threshold = conformal.fnr_threshold(scaled, y, alpha, weight, float(tilt.max()))
    units = weight if (share == 1).all() else np.bincount(pd.factorize(patients)[0], weight)
    return found | {"threshold": threshold, "effective_images": float(units.sum() ** 2 / (units**2).sum())}


def _known(prob: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = ~np.isnan(target)
    return prob[known], target[known]


def apply_scale(
    prob: np.ndarray, classes: Sequence[str], scale: str, scaling: dict[str, list[float]] | None
) -> np.ndarray:
    """(N, K) -> (N, K) as the thresholds see them."""
    if scale == "none" or scaling is None:
        return prob
    return np.stack([calibration.apply(scale, tuple(scaling[c]), prob[:, k]) for k, c in enumerate(classes)], axis=1)


def prevalence(target: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    known = ~np.isnan(target)
    return {c: float((target[:, k] == 1).sum() / max(1, known[:, k].sum())) for k, c in enumerate(classes)}


def hashes(patients: np.ndarray) -> list[str]:
    """Who was calibrated on, without names: enough to notice them among the images that are scored."""
    return sorted(hashlib.blake2b(str(name).encode(), digest_size=6).hexdigest() for name in set(patients.tolist()))


def write(path: str | Path, thresholds: dict[str, Any]) -> None:
    with atomic_write(path) as file:
        json.dump(thresholds, file, indent=1, allow_nan=False)
        file.write("\n")


def read(path: str | Path) -> dict[str, Any]:
    """UserError: not a file of calibrate_conformal.py."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of thresholds; make it with calibrate_conformal.py")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not a file of thresholds ({error})") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise UserError(f"{path}: not a file of calibrate_conformal.py, or of another version of it; make it anew")
    wrong = next(problems(found, THRESHOLDS), "")
    for block in ("each", "prevalence", *(["scaling"] if found.get("scale") != "none" else [])):
        lacking = [] if wrong else [c for c in found["classes"] if c not in (found[block] or {})]
        wrong = wrong or (f"{block!r} has no {lacking[0]!r}" if lacking else "")
    if not wrong and found["scale"] not in ("none", *calibration.FITS):
        wrong = f"'scale' is {found['scale']!r}"
    if wrong:
        raise UserError(f"{path}: not a file of calibrate_conformal.py: {wrong}; make it anew")
    return found


# On images


def chosen(thresholds: dict[str, Any], prob: np.ndarray) -> dict[str, np.ndarray]:
    """(N, K) probabilities of thresholds["classes"] -> rule: (N, K) bool, the prediction set. Rules without a threshold are not there.

    fnr …: one threshold for all findings; present: findings whose presence cannot be ruled out; absent: whose absence cannot; precise: precision 1 - alpha.
    """
    p = apply_scale(prob, thresholds["classes"], thresholds["scale"], thresholds["scaling"])
    sets = {rule: p >= thresholds[rule] for rule in RULES if thresholds[rule] is not None}
    limits = {name: np.array([_number(thresholds["each"][c][name]) for c in thresholds["classes"]]) for name in EACH}
    with np.errstate(invalid="ignore"):
        sets["present"] = ~(p < limits["present_from"])  # no limit: nothing can be ruled out
        sets["absent"] = ~(p > limits["absent_to"])
        sets["precise"] = p >= limits["precise_from"]
    return sets


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def described(thresholds: dict[str, Any], prob: np.ndarray) -> list[dict[str, Any]]:
    """(N, K) -> for each image its sets by name: `set` (by the rule named `set_rule`), `certain` (present, and absence is ruled out), `possible`.

    `set` is that of fnr_shifted where it was asked for, else of fnr; all findings where that is infeasible: nothing less keeps the promise.
    """
    sets, classes = chosen(thresholds, prob), thresholds["classes"]

    def names(row: np.ndarray) -> list[str]:
        return [c for c, on in zip(classes, row.tolist(), strict=True) if on]

    rule = "fnr_shifted" if thresholds["shift"] else "fnr"
    wide = sets.get(rule, np.ones(prob.shape, dtype=bool))
    certain, possible = sets["present"] & ~sets["absent"], sets["present"] & sets["absent"]
    return [
        {"set": names(a), "set_rule": rule, "certain": names(b), "possible": names(c)}
        for a, b, c in zip(wide, certain, possible, strict=True)
    ]


def realised(
    thresholds: dict[str, Any], prob: np.ndarray, target: np.ndarray, patients: np.ndarray, resamples: int, seed: int
) -> dict[str, Any]:
    """What came of the promises: risks and sizes of the sets, with intervals by patient. prob and target of thresholds["classes"].

    Each rule of RULES: fnr (mean share of an image's findings that its set lacks, 0 without any), fnr_with_finding, fdr, size, size_with_finding. Of each
    finding: sensitivity of `present`, specificity of `absent`, precision of `precise`, share of images whose answer is single.
    """
    classes, positive, negative = thresholds["classes"], target == 1, target == 0
    sets, known, whole = chosen(thresholds, prob), ~np.isnan(target), ~np.isnan(target).any(axis=1)
    some = whole & positive.any(axis=1)
    everyone = np.stack([whole, some, whole, whole, some], axis=1)

    def mean(values: np.ndarray, counted: np.ndarray) -> WeightedStatistic:
        return weighted_by(values, shares(counted, patients, thresholds["unit"]))

    measures: dict[str, WeightedStatistic] = {}
    for rule in (r for r in RULES if r in sets):
        inside = sets[rule]
        lost = (~inside & positive).sum(axis=1) / np.maximum(positive.sum(axis=1), 1)
        false = (inside & negative).sum(axis=1) / np.maximum((inside & known).sum(axis=1), 1)
        size = inside.sum(axis=1)
        measures[rule] = mean(np.stack([lost, lost, false, size, size], axis=1), everyone)
    measures["sensitivity"] = mean(sets["present"], positive)
    measures["specificity"] = mean(sets["absent"], negative)
    measures["precision"] = mean(positive, sets["precise"] & known)
    measures["single"] = mean(sets["present"] != sets["absent"], np.ones(prob.shape, dtype=bool))
    drawn = estimate(measures, patients, resamples, seed)
    names = ("fnr", "fnr_with_finding", "fdr", "size", "size_with_finding")
    rules = {
        r: {n: column(drawn[r], j) for j, n in enumerate(names)} | {"threshold": thresholds[r]}
        for r in RULES
        if r in drawn
    }
    each = {
        c: {m: column(drawn[m], k) for m in ("sensitivity", "specificity", "precision", "single")}
        for k, c in enumerate(classes)
    }
    scaled, share = (
        apply_scale(prob, classes, thresholds["scale"], thresholds["scaling"]),
        shares(whole, patients, thresholds["unit"]),
    )
    steps = [row for row in thresholds["curve"] if row["fnr"] is not None and whole.any()]
    curve = [
        {
            "alpha": row["alpha"],
            "fnr": float(np.average(conformal.false_negative_proportion(scaled, target, row["fnr"]), weights=share)),
        }
        for row in steps
    ]
    found = {
        "rules": rules,
        "infeasible": [r for r in RULES if thresholds[r] is None and (r != "fnr_shifted" or thresholds["shift"])],
        "each": each,
        "curve": curve,
    }
    origin = {k: thresholds[k] for k in ("alpha", "delta", "unit")} | {
        "thresholds": thresholds["each"],
        "n_whole": int(whole.sum()),
    }
    return origin | found | {"shift": prevalence_shift(thresholds, target, len(set(patients.tolist())))}


def shares(counted: np.ndarray, patients: np.ndarray, unit: str) -> np.ndarray:
    """(N, M) or (N,) bool -> what each image counts in a mean: 1, or with unit patient its part of what its patient has of them."""
    held = counted.astype(float)
    if unit == "image":
        return held
    code = pd.factorize(patients)[0]
    total = np.zeros((code.max() + 1, *held.shape[1:]))
    np.add.at(total, code, held)
    return held / np.maximum(total[code], 1)


def column(drawn: BootstrapEstimate, j: int) -> dict[str, float | None]:
    return drawn.map(lambda values: values[..., j]).summary()


def prevalence_shift(thresholds: dict[str, Any], target: np.ndarray, people: int) -> dict[str, Any]:
    """How the prevalences of these images differ from those of the calibration images, and the warning that this deserves: by more than SHIFT of itself, and
    more than three standard errors, as if each patient had one image."""
    classes, before = thresholds["classes"], thresholds["prevalence"]
    now, some = prevalence(target, classes), float((target == 1).any(axis=1).mean())
    several = 1 / people + 1 / thresholds["n_patients"]
    error = {
        c: math.sqrt(max(p * (1 - p), 1e-12) * several) for c, p in ((c, (now[c] + before[c]) / 2) for c in classes)
    }
    far = [c for c in classes if abs(now[c] - before[c]) > max(SHIFT * before[c], 3 * error[c])]
    worst = sorted(far, key=lambda c: -abs(math.log((now[c] + 1e-9) / (before[c] + 1e-9))))
    warning = ""
    if worst:
        said = ", ".join(f"{c} {before[c]:.2%} -> {now[c]:.2%}" for c in worst[:3])
        warning = (
            f"prevalence differs from that of the calibration images ({said}; with a finding {thresholds['with_finding']:.1%} -> {some:.1%}): "
            "fnr, fdr and precision, which are averaged over images, are not guaranteed here; sensitivity and specificity of each finding are, "
            "if nothing but prevalence changed"
        )
    return {
        "prevalence": now,
        "calibration": before,
        "with_finding": some,
        "calibration_with_finding": thresholds["with_finding"],
        "warning": warning,
    }


def findings_of(classes: Sequence[str], wanted: str = "") -> list[str]:
    """The classes that sets are made of: the findings among them, or those asked for ('Mass,Nodule')."""
    asked = [c.strip() for c in wanted.split(",") if c.strip()]
    if set(asked) & set(NORMAL):
        raise UserError(
            f"--classes {wanted}: {', '.join(sorted(set(asked) & set(NORMAL)))} is no finding; sets are made of findings"
        )
    lacking = [c for c in asked if c not in classes]
    if lacking:
        raise UserError(f"--classes: there is no prediction for {lacking[0]!r} (there is {', '.join(classes)})")
    return asked or [c for c, on in zip(classes, is_finding(classes), strict=True) if on]
