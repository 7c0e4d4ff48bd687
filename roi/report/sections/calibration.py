"""Section of the report on calibration: are predicted probabilities as frequent as they say?"""

import numpy as np

from roi.report import plots
from roi.report.gallery_files import NotThere, Scored
from roi.report.html import Block, Row, figures, fold, format_number, missing, note, table
from roi.report.plots import Curve
from roi.report.run_folder import EVALUATE, Run
from roi.scoring.calibration import reliability

METHODS = {"raw": "as predicted", "temperature": "temperature", "platt": "Platt"}
LEAST_IN_BIN = 5
ERRORS = {"ece": "ECE", "brier": "Brier"}


def calibration(run: Run, scored: Scored | NotThere) -> str:
    block = run.block("calibration")
    methods = in_order(block.get("methods") or {})
    if not methods:
        return missing("No calibration was computed.", EVALUATE)
    fitted = f"Fitted on {block['fitted_on']}." if block.get("fitted_on") else "As predicted: nothing was fitted."
    rows = []
    for name, method in methods.items():
        mean = method.get("mean") or {}
        rows.append([method_name(name), *map(mean.get, ERRORS)])
    text = (
        note(f"{fitted} Bins pool all findings; ECE and Brier are means over findings.")
        + table(("Probabilities", *ERRORS.values()), rows)
        + reliability_figure(methods)
        + reliability_by_finding(scored, run.metrics["per_class"])
        + fold("Calibration of each finding", calibration_by_finding(methods, run.metrics["per_class"]))
    )
    if len(methods) == 1:
        command = f"{EVALUATE} --threshold_preds val_preds.json --threshold_csv val.csv"
        text += missing("No temperature or Platt scaling.", command)
    return text


def in_order(methods: Block) -> Block:
    """The known methods first, those of others after them."""
    ordered = {name: methods[name] for name in METHODS if name in methods}
    return ordered | methods


def method_name(name: str) -> str:
    return METHODS.get(name, name)


def reliability_figure(methods: Block) -> str:
    """Observed rate against mean probability, a curve each method that has a bin with images."""
    curves, errors = [], []
    for name, method in methods.items():
        ece = (method.get("mean") or {}).get("ece")
        errors.append(f"{method_name(name)}: ECE {format_number(ece)}")
        # (mean probability, observed rate, images); an empty bin has no rate.
        bins = [b for b in method.get("reliability") or [] if b[2]]
        if bins:
            predicted = [b[0] for b in bins]
            observed = [b[1] for b in bins]
            curves.append(Curve(method_name(name), predicted, observed, dots=True))
    if not curves:
        return ""
    alt = "Reliability: observed rate against mean probability. " + "; ".join(errors)
    axes = ("mean probability of the bin", "observed rate")
    panel = plots.lines("Reliability", *axes, curves, square=True, diagonal=True)
    return figures([(panel, alt)])


def reliability_by_finding(scored: Scored | NotThere, findings: Block) -> str:
    """Small multiples, as predicted; "" where predictions and labels cannot be read, which the findings have said."""
    if isinstance(scored, NotThere):
        return ""
    curves = []
    for k, finding in enumerate(scored.preds.classes):
        known = ~np.isnan(scored.target[:, k])
        if finding not in findings or not known.any():
            continue
        prob = scored.preds.prob["full"]
        bins = reliability(prob[known, k], scored.target[known, k])
        # A bin of a few images says nothing, and the rate jumps in it.
        bins = bins[bins[:, 2] >= LEAST_IN_BIN]
        if len(bins):
            mean_prob = bins[:, 0].tolist()
            rate = bins[:, 1].tolist()
            curves.append(Curve(finding, mean_prob, rate, dots=True))
    if not curves:
        return ""
    names = [curve.name for curve in curves]
    axes = "mean probability; up: observed rate"
    drawn = plots.small_multiples(names, curves, axes, diagonal=True)
    panels = [(panel, f"Reliability of {name}") for panel, name in zip(drawn, names, strict=True)]
    said = note(f"By finding, as predicted; bins of at least {LEAST_IN_BIN} images; grey: the other findings.")
    return said + figures(panels, "figures small")


def calibration_by_finding(methods: Block, findings: Block) -> str:
    heads = ["Finding"]
    for name in methods:
        heads += [f"{title}, {method_name(name)}" for title in ERRORS.values()]
    rows = []
    for finding in findings:
        row: Row = [finding]
        for method in methods.values():
            errors = (method.get("per_class") or {}).get(finding, {})
            row += map(errors.get, ERRORS)
        rows.append(row)
    return table(heads, rows, sortable=True)
