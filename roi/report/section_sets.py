"""Section of the report on prediction sets: what calibrate_conformal.py promised, and what came of it on the scored images.

V is {"value", "low", "high"}, each a number or null; a rule or finding is a dict of them, as evaluate.py --thresholds writes it (roi/scoring/prediction_sets.py).
"""

from collections.abc import Sequence
from typing import Any

from roi.report import plots
from roi.report.html import ABSENT, Cell, esc, figures, fold, interval, missing, note, table
from roi.report.plots import Curve
from roi.report.run_folder import Run
from roi.scoring import prediction_sets

RULES = {  # rule -> its name, the realised risk that its promise is about, the promise
    "fnr": (
        "Missed findings",
        "fnr",
        "of a new image's findings its set lacks at most {alpha} in expectation; an image without findings loses nothing",
    ),
    "fnr_with_finding": (
        "Missed findings, images that have one",
        "fnr_with_finding",
        "the same, averaged over the images that have a finding",
    ),
    "fnr_shifted": (
        "Missed findings, prevalence corrected",
        "fnr",
        "as the first, where findings are as frequent as was estimated on the target images",
    ),
    "fdr": (
        "False findings",
        "fdr",
        "of a new image's set at most {alpha} is wrong in expectation, with confidence {confidence}",
    ),
}
RISKS = {
    "fnr": "Missed, all images",
    "fnr_with_finding": "Missed, with a finding",
    "fdr": "False in the set",
    "size": "Size of the set",
    "size_with_finding": "Size, with a finding",
}
WHOSE = {  # unit -> for whom a promise is
    "image": "Each promise is for the next image, as if no patient had several.",
    "patient": "Each promise is for an image of the next patient: images of one patient count as one, in the promise and in what came of it.",
}
LIKE = "Nothing is promised for images unlike the calibration images. Brackets: 95 % intervals, patients drawn with replacement."
EACH = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "single": "Single answers",
}


def conformal_sets(run: Run) -> str:
    found = run.metrics.get("conformal")
    if not found:
        return ""
    return (
        shift_warning(found)
        + note(
            f"Thresholds: {found.get('file', 'unknown')}; alpha {found['alpha']:g}, delta {found['delta']:g}. {WHOSE.get(found['unit'], '')} {LIKE}"
        )
        + promises(found)
        + figures(*panels(found))
        + curve_note(found)
        + by_finding(found)
        + prevalences(found)
    )


def shift_warning(found: dict[str, Any]) -> str:
    warning = (found.get("shift") or {}).get("warning")
    return f'<p class="banner" role="alert">Warning: {esc(warning)}.</p>' if warning else ""


def promises(found: dict[str, Any]) -> str:
    """Every rule with its promise and the realised risk; all risks and sizes below. Rules without a threshold are called infeasible."""
    alpha, said = found["alpha"], {"alpha": percent(found["alpha"]), "confidence": percent(1 - found["delta"])}
    asked = [r for r in RULES if r in found["rules"] or r in found["infeasible"]]
    listed = "".join(
        f"<li><b>{esc(RULES[r][0])}</b> ({esc(r)}): {esc(RULES[r][2].format(**said))}.</li>" for r in asked
    )
    rows = [outcome(rule, found) for rule in asked]
    risks = [[name_of(rule), *(found["rules"][rule].get(k) for k in RISKS)] for rule in asked if rule in found["rules"]]
    lacking = ", ".join(r for r in asked if r in found["infeasible"])
    why = f"Infeasible at alpha {alpha:g}: {lacking}. No threshold keeps this promise with these calibration images and this model, so none is given."
    return (
        f"<ul>{listed}</ul>"
        + table(("Rule", "Realised risk", "Allowed", "Outcome", "Threshold"), rows, "Promised and realised")
        + (missing(why, "calibrate_conformal.py with more images or a larger --alpha") if lacking else "")
        + (
            table(("Rule", *RISKS.values()), risks, "Every risk of each rule, and the number of findings in a set")
            if risks
            else ""
        )
    )


def outcome(rule: str, found: dict[str, Any]) -> list[object]:
    """A row of the table: rule, realised risk, allowed, outcome, threshold."""
    allowed = Cell(f"{found['alpha']:g}", repr(found["alpha"]))
    if rule not in found["rules"]:
        return [name_of(rule), ABSENT, allowed, Cell("infeasible", "infeasible", "text undefined"), ABSENT]
    risk, threshold = found["rules"][rule][RULES[rule][1]], found["rules"][rule]["threshold"]
    limit = Cell(f"{threshold:.4g}" if threshold <= 1 else "above 1: empty sets", repr(threshold))
    return [name_of(rule), risk, allowed, verdict(risk, found["alpha"]), limit]


def percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def name_of(rule: str) -> Cell:
    return Cell(f"{esc(RULES[rule][0])} <small>{esc(rule)}</small>", esc(rule), "text")


def verdict(risk: dict[str, Any], alpha: float) -> str:
    """Kept, or above alpha: by so little that the interval reaches down to alpha, or not."""
    value, low = risk["value"], risk["low"]
    if value is None:
        return "undefined: no such image"
    if value <= alpha:
        return "kept"
    return "above alpha, within its interval" if low is not None and low <= alpha else "not kept"


def panels(found: dict[str, Any]) -> list[tuple[bytes, str]]:
    made = []
    alpha, rules = found["alpha"], [r for r in RULES if r in found["rules"]]
    curves = risk_curves(found)
    if curves:
        end = max(v for c in curves for v in (*c.x, *c.y) if v is not None)
        drawn = plots.lines(
            "Realised risk against alpha",
            "alpha (grey: risk = alpha)",
            "missed findings, realised",
            curves,
            square=True,
            diagonal=True,
            end=end,
        )
        alt = (
            "Realised share of missed findings by alpha, all images: "
            + ", ".join(f"{y:.3f} at {x:g}" for x, y in ends(curves[0]))
            + "."
        )
        made.append((drawn, alt))
    if rules:
        values = [found["rules"][r][RULES[r][1]] for r in rules]
        drawn = plots.intervals(
            "Realised risk of each promise", f"line: alpha = {alpha:g}", rules, {"risk": values}, mark=alpha
        )
        made.append(
            (
                drawn,
                f"Realised risk, alpha {alpha:g}: "
                + "; ".join(f"{r} {interval(v)}" for r, v in zip(rules, values, strict=True))
                + ".",
            )
        )
    return made


def risk_curves(found: dict[str, Any]) -> list[Curve]:
    """Realised false-negative rate of thresholds for every alpha that had one, and a dot at the alpha of the file."""
    points, got = found.get("curve") or [], found["rules"].get("fnr")
    curves = [Curve("fnr, all images", [p["alpha"] for p in points], [p["fnr"] for p in points])] if points else []
    return curves + (
        [Curve("alpha of this file", [found["alpha"]], [got["fnr"]["value"]], dots=True)] if curves and got else []
    )


def ends(curve: Curve) -> Sequence[tuple[float, float | None]]:
    return [(curve.x[n], curve.y[n]) for n in dict.fromkeys((0, len(curve.x) // 2, len(curve.x) - 1))]


def curve_note(found: dict[str, Any]) -> str:
    points = found.get("curve") or []
    if not points:
        return missing("No curve of risk against alpha: no alpha has a threshold with so few calibration images.")
    rows = [[Cell(f"{p['alpha']:g}", repr(p["alpha"])), p["fnr"]] for p in points]
    begin = points[0]["alpha"]
    few = (
        f" Below alpha {begin:g} no threshold is feasible with so few calibration images."
        if begin > prediction_sets.CURVE[0]
        else ""
    )
    return note(
        f"Curve: the threshold of fnr for every alpha, over all images; where it lies below the diagonal the promise is kept.{few}"
    ) + fold("Points of the curve", table(("alpha", "Missed findings, realised"), rows))


def by_finding(found: dict[str, Any]) -> str:
    limits = found.get("thresholds") or {}

    def cell(c: str, kind: str, value: object) -> object:
        infeasible = kind == "precision" and c in limits and limits[c]["precise_from"] is None
        return Cell("infeasible", "") if infeasible else value

    rows = [[c, *(cell(c, k, v.get(k)) for k in EACH)] for c, v in found["each"].items()]
    asked = percent(1 - found["alpha"])
    return (
        "<h3>By finding</h3>"
        + table(("Finding", *EACH.values()), rows, "Click a header to sort", sortable=True)
        + note(
            f"Promised: of the images with a finding at least {asked} keep 'present' in their set (sensitivity), of those without it at least {asked} keep "
            f"'absent' (specificity), and above the threshold of precision at least {asked} have it, with confidence {percent(1 - found['delta'])}. "
            "Single answers: sets that hold one of the two, not both or neither. Precision is undefined where no scored image lies above "
            "its threshold; where calibration images were too few to rule an answer out, every set holds it."
        )
    )


def prevalences(found: dict[str, Any]) -> str:
    """Open where they differ so much that promises do not hold."""
    shift = found.get("shift") or {}
    before, now = shift.get("calibration") or {}, shift.get("prevalence") or {}
    if not now:
        return ""

    def row(name: str, old: float | None, new: float | None) -> list[object]:
        ratio = new / old if old and new is not None else None
        return [name, share(old), share(new), None if ratio is None else Cell(f"{ratio:.2f}", repr(ratio))]

    foot = row("Any finding", shift.get("calibration_with_finding"), shift.get("with_finding"))
    content = table(
        ("Finding", "Calibration images", "Scored images", "Ratio"),
        [row(c, before.get(c), v) for c, v in now.items()],
        "Share of the images of known label that have it",
        foot=foot,
        sortable=True,
    )
    return (
        "<h3>Prevalence</h3>" + content
        if shift.get("warning")
        else fold("Prevalence: no difference that is worth a warning", content)
    )


def share(value: float | None) -> Cell | None:
    return None if value is None else Cell(f"{100 * value:.2f} %", repr(value))
