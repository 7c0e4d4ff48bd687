"""Section of the report on calibration: are predicted probabilities as frequent as they say?"""

from roi.report import plots
from roi.report.html import Block, Row, figures, fold, format_number, missing, note, table
from roi.report.plots import Curve
from roi.report.run_folder import EVALUATE, Run

METHODS = {"raw": "as predicted", "temperature": "temperature", "platt": "Platt"}
ERRORS = {"ece": "ECE", "brier": "Brier"}


def calibration(run: Run) -> str:
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
