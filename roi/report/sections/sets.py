"""Section of the report on prediction sets: what calibrate_conformal.py promised, and what came of it.

V is {"value", "low", "high"}, each a number or null; a rule or finding is a dict of them, as evaluate.py --thresholds
writes it (roi/scoring/prediction_sets.py).
"""

from typing import NamedTuple

from roi.report import plots
from roi.report.html import (
    ABSENT,
    Block,
    Cell,
    Drawing,
    Interval,
    Row,
    esc,
    figures,
    fold,
    format_interval,
    missing,
    note,
    table,
)
from roi.report.plots import Curve
from roi.report.run_folder import Run
from roi.scoring import prediction_sets


class Rule(NamedTuple):
    title: str
    risk: str  # the realised risk that its promise is about
    promise: str


RULES = {
    "fnr": Rule(
        "Missed findings",
        "fnr",
        "of a new image's findings its set lacks at most {alpha} in expectation; "
        "an image without findings loses nothing",
    ),
    "fnr_with_finding": Rule(
        "Missed findings, images that have one",
        "fnr_with_finding",
        "the same, averaged over the images that have a finding",
    ),
    "fnr_shifted": Rule(
        "Missed findings, prevalence corrected",
        "fnr",
        "as the first, where findings are as frequent as was estimated on the target images",
    ),
    "fdr": Rule(
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
    "patient": "Each promise is for an image of the next patient: images of one patient count as one, in the promise "
    "and in what came of it.",
}
LIKE = (
    "Nothing is promised for images unlike the calibration images. "
    "Brackets: 95 % intervals, patients drawn with replacement."
)
EACH = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "single": "Single answers",
}


def conformal_sets(run: Run) -> str:
    block = run.metrics.get("conformal")
    if not block:
        return ""
    alpha, delta = block["alpha"], block["delta"]
    file = block.get("file", "unknown")
    whose = WHOSE.get(block["unit"], "")
    explanation = f"Thresholds: {file}; alpha {alpha:g}, delta {delta:g}. {whose} {LIKE}"
    return (
        shift_warning(block)
        + note(explanation)
        + promises(block)
        + figures(panels(block))
        + curve_table(block)
        + by_finding(block)
        + prevalences(block)
    )


def shift_warning(block: Block) -> str:
    warning = (block.get("shift") or {}).get("warning")
    return f'<p class="banner" role="alert">Warning: {esc(warning)}.</p>' if warning else ""


def promises(block: Block) -> str:
    """Every rule with its promise and the realised risk; all risks and sizes below.

    Rules without a threshold are called infeasible.
    """
    confidence = 1 - block["delta"]
    levels = {"alpha": percent(block["alpha"]), "confidence": percent(confidence)}
    listed, outcomes, risks, infeasible = "", [], [], []
    for name, rule in RULES.items():
        # A rule that was not asked for is in neither; one without a threshold is named, or it would seem forgotten.
        realised = block["rules"].get(name)
        if realised is None and name not in block["infeasible"]:
            continue
        promise = rule.promise.format(**levels)
        listed += f"<li><b>{esc(rule.title)}</b> ({esc(name)}): {esc(promise)}.</li>"
        outcomes.append(outcome(name, realised, block["alpha"]))
        if realised is not None:
            risks.append([rule_cell(name), *map(realised.get, RISKS)])
        if name in block["infeasible"]:
            infeasible.append(name)
    heads = ("Rule", "Realised risk", "Allowed", "Outcome", "Threshold")
    text = f"<ul>{listed}</ul>" + table(heads, outcomes, "Promised and realised")
    if infeasible:
        why = (
            f"Infeasible at alpha {block['alpha']:g}: {', '.join(infeasible)}. No threshold keeps this promise with "
            "these calibration images and this model, so none is given."
        )
        text += missing(why, "calibrate_conformal.py with more images or a larger --alpha")
    if risks:
        caption = "Every risk of each rule, and the number of findings in a set"
        text += table(("Rule", *RISKS.values()), risks, caption)
    return text


def outcome(name: str, realised: Block | None, alpha: float) -> Row:
    """A row of the table: rule, realised risk, allowed, outcome, threshold."""
    allowed = Cell(f"{alpha:g}", repr(alpha))
    if realised is None:
        infeasible = Cell("infeasible", "infeasible", "text undefined")
        return [rule_cell(name), ABSENT, allowed, infeasible, ABSENT]
    risk, threshold = realised[RULES[name].risk], realised["threshold"]
    # No probability is above 1: every set is empty, which keeps a promise about false findings.
    limit = f"{threshold:.4g}" if threshold <= 1 else "above 1: empty sets"
    result = verdict(risk, alpha)
    return [rule_cell(name), risk, allowed, result, Cell(limit, repr(threshold))]


def percent(value: float) -> str:
    return f"{100 * value:.4g} %"


def rule_cell(name: str) -> Cell:
    title, key = esc(RULES[name].title), esc(name)
    return Cell(f"{title} <small>{key}</small>", key, "text")


def verdict(risk: Interval, alpha: float) -> str:
    """Kept, or above alpha: by so little that the interval reaches down to alpha, or not."""
    value, low = risk["value"], risk["low"]
    # Of images that have a finding, say, there may be none among those scored.
    if value is None:
        return "undefined: no such image"
    if value <= alpha:
        return "kept"
    if low is not None and low <= alpha:
        return "above alpha, within its interval"
    return "not kept"


# ---- figures --------------------------------------------------------------------------------------------------------


def panels(block: Block) -> list[Drawing]:
    shown = []
    if block.get("curve"):
        shown.append(risk_panel(block))
    if any(name in block["rules"] for name in RULES):
        shown.append(promise_panel(block))
    return shown


def risk_panel(block: Block) -> Drawing:
    """Realised false-negative rate of thresholds for every alpha that had one, and a dot at the alpha of the file."""
    alphas = [point["alpha"] for point in block["curve"]]
    risks = [point["fnr"] for point in block["curve"]]
    curves = [Curve("fnr, all images", alphas, risks)]
    at_alpha = block["rules"].get("fnr")
    if at_alpha:
        realised = at_alpha["fnr"]["value"]
        curves.append(Curve("alpha of this file", [block["alpha"]], [realised], dots=True))
    # Both axes end at the highest value, so that the diagonal is one.
    values: list[float] = []
    for curve in curves:
        values += curve.x
        values += [y for y in curve.y if y is not None]
    panel = plots.lines(
        "Realised risk against alpha",
        "alpha (grey: risk = alpha)",
        "missed findings, realised",
        curves,
        square=True,
        diagonal=True,
        end=max(values),
    )
    # First, middle and last point; fewer where they are the same.
    last = len(alphas) - 1
    some = dict.fromkeys((0, len(alphas) // 2, last))
    points = [f"{risks[n]:.3f} at {alphas[n]:g}" for n in some]
    alt = f"Realised share of missed findings by alpha, all images: {', '.join(points)}."
    return panel, alt


def promise_panel(block: Block) -> Drawing:
    """The realised risk of each rule beside alpha."""
    alpha = block["alpha"]
    names = [name for name in RULES if name in block["rules"]]
    risks = [block["rules"][name][RULES[name].risk] for name in names]
    panel = plots.intervals(
        "Realised risk of each promise",
        f"line: alpha = {alpha:g}",
        names,
        {"risk": risks},
        mark=alpha,
    )
    texts = [f"{name} {format_interval(risk)}" for name, risk in zip(names, risks, strict=True)]
    listed = "; ".join(texts)
    return panel, f"Realised risk, alpha {alpha:g}: {listed}."


def curve_table(block: Block) -> str:
    """What the curve shows, and its points."""
    points = block.get("curve") or []
    if not points:
        return missing("No curve of risk against alpha: no alpha has a threshold with so few calibration images.")
    first = points[0]["alpha"]
    explanation = (
        "Curve: the threshold of fnr for every alpha, over all images; where it lies below the diagonal the promise is "
        "kept."
    )
    if first > prediction_sets.CURVE[0]:
        explanation += f" Below alpha {first:g} no threshold is feasible with so few calibration images."
    rows = []
    for point in points:
        alpha = point["alpha"]
        rows.append([Cell(f"{alpha:g}", repr(alpha)), point["fnr"]])
    return note(explanation) + fold("Points of the curve", table(("alpha", "Missed findings, realised"), rows))


# ---- findings -------------------------------------------------------------------------------------------------------


def by_finding(block: Block) -> str:
    rows = []
    for finding, values in block["each"].items():
        row = [finding, *map(values.get, EACH)]
        # Undefined would say that no image lies above the threshold; here there is no threshold.
        if is_imprecise(block, finding):
            row[1 + list(EACH).index("precision")] = Cell("infeasible", "")
        rows.append(row)
    promised = percent(1 - block["alpha"])
    confidence = percent(1 - block["delta"])
    explanation = (
        f"Promised: of the images with a finding at least {promised} keep 'present' in their set (sensitivity), of "
        f"those without it at least {promised} keep 'absent' (specificity), and above the threshold of precision at "
        f"least {promised} have it, with confidence {confidence}. "
        "Single answers: sets that hold one of the two, not both or neither. Precision is undefined where no scored "
        "image lies above its threshold; where calibration images were too few to rule an answer out, every set holds "
        "it."
    )
    return (
        "<h3>By finding</h3>"
        + table(("Finding", *EACH.values()), rows, "Click a header to sort", sortable=True)
        + note(explanation)
    )


def is_imprecise(block: Block, finding: str) -> bool:
    """No threshold keeps the promise of precision for this finding."""
    thresholds = block.get("thresholds") or {}
    return finding in thresholds and thresholds[finding]["precise_from"] is None


def prevalences(block: Block) -> str:
    """How frequent findings are; open where they differ so much that promises do not hold."""
    shift = block.get("shift") or {}
    before = shift.get("calibration") or {}
    now = shift.get("prevalence") or {}
    if not now:
        return ""
    rows = []
    for finding, share in now.items():
        rows.append(prevalence_row(finding, before.get(finding), share))
    content = table(
        ("Finding", "Calibration images", "Scored images", "Ratio"),
        rows,
        "Share of the images of known label that have it",
        foot=prevalence_row("Any finding", shift.get("calibration_with_finding"), shift.get("with_finding")),
        sortable=True,
    )
    if shift.get("warning"):
        return "<h3>Prevalence</h3>" + content
    return fold("Prevalence: no difference that is worth a warning", content)


def prevalence_row(name: str, before: float | None, now: float | None) -> Row:
    # Nothing is a multiple of a share of 0.
    ratio = None
    if before and now is not None:
        times = now / before
        ratio = Cell(f"{times:.2f}", repr(times))
    return [name, share_cell(before), share_cell(now), ratio]


def share_cell(value: float | None) -> Cell | None:
    if value is None:
        return None
    return Cell(f"{100 * value:.2f} %", repr(value))
