"""Section of the report on training: curves of the metrics CSV of a run."""

import math
from typing import NamedTuple

import pandas as pd

from roi import run_paths
from roi.report import plots
from roi.report.html import Drawing, banner, figures, missing, note
from roi.report.plots import Curve
from roi.report.run_folder import OF_SET, Run
from roi.training.mask_verdict import MASK_CONTROLS, UNIFORM_BORDER, complaints
from roi.training.metrics_log import TERMS, VIEW_LOSS


class Panel(NamedTuple):
    title: str
    columns: dict[str, str]  # of the metrics CSV -> name of the curve
    log: bool = False  # logarithmic: terms differ by powers of ten


TERM_LOSSES = {f"loss_{term}": term for term in TERMS}
TERM_WEIGHTS = {f"w_{term}": term for term in TERMS}
BORDER = f"kept pixels in the outer tenth ({UNIFORM_BORDER} of a uniform mask)"
WEIGHTS = Panel("Weights of the losses", TERM_WEIGHTS, log=True)
PANELS = (
    Panel("Losses", {"loss": "total", **TERM_LOSSES, VIEW_LOSS: "single images", "val_loss": "validation"}, log=True),
    WEIGHTS,
    Panel("Area of the mask", {"mask_mean": "soft, mean", "mask_kept": "hard, kept"}),
    Panel("AUROC of the crop", {"crop_auroc": "what the mask keeps", "blobs_auroc": "random blobs of its area"}),
    Panel(
        "What the drop view loses",
        {"drop_contrast": "mask dropped", "drop_contrast_blobs": "random blobs dropped"},
    ),
    Panel("Mask at the border", {"mask_border": BORDER}),
)


def training(run: Run) -> str:
    log = run.log
    if log is None:
        why = f"There is no train_metrics.csv or metrics.csv in {run.folder}."
        if run.log_problem:
            why = f"{run.log_problem}."
        return missing(why, f"train_roi_consistency.py … --log_csv {run.folder}/train_metrics.csv")
    shown, absent, fixed = [], [], ""
    for panel in (*PANELS, validation_panel(log)):
        curves = curves_of(log, panel.columns)
        if panel is WEIGHTS and curves and not any(changes(curve) for curve in curves):
            weights = ", ".join(f"{curve.name} {last_value(curve)}" for curve in curves)
            fixed = f" Weights of the losses, in each epoch: {weights}."
        elif curves:
            shown.append(draw_panel(panel, curves))
        else:
            absent.append(panel.title)
    text = ""
    if "contaminated" in log and (log["contaminated"] == 1).any():
        text += banner("CONTAMINATED: this training saw test images (--allow_leakage).")
    # The words that training itself prints, so that a mask is judged by one measure.
    for complaint in complaints(last_controls(log)):
        text += banner(f"In the last epoch {complaint}.")
    text += figures(shown)
    drawn = "Losses" if fixed else "Losses and weights"
    text += note(
        f"{len(log)} epochs, from {run_paths.portable(run.log_file, run.folder / 'report.html')}. "
        f"{drawn} on a logarithmic axis (a value of 0 is not drawn).{fixed}"
    )
    if absent:
        text += missing(
            f"Not in this log: {', '.join(absent)} (a run without a mask has no mask area and no controls of it, "
            "one without validation images neither those nor a validation AUROC)."
        )
    return text


def validation_panel(log: pd.DataFrame) -> Panel:
    """The mean, and each data set where there are several."""
    data_sets = {}
    for column in map(str, log):
        if column.startswith(OF_SET):
            data_sets[column] = plots.short(column.removeprefix(OF_SET))
    mean = "mean of the data sets" if data_sets else "mean over findings"
    return Panel("Validation AUROC", {"val_auroc": mean, **data_sets})


def curves_of(log: pd.DataFrame, columns: dict[str, str]) -> list[Curve]:
    """Of the columns that the log has and that hold a value anywhere."""
    epochs = log["epoch"].tolist()
    curves = []
    for column, name in columns.items():
        if column in log and log[column].notna().any():
            curves.append(Curve(name, epochs, numbers(log[column]), dots=True))
    return curves


def changes(curve: Curve) -> bool:
    """Whether it has more than one value: weights that do not are said in words."""
    return len({value for value in curve.y if value is not None}) > 1


def draw_panel(panel: Panel, curves: list[Curve]) -> Drawing:
    """The panel, and its text: the last value of each curve."""
    # Losses and AUROC have no unit.
    unit = "share of the pixels" if "mask" in panel.title else ""
    last = ", ".join(f"{curve.name} {last_value(curve)}" for curve in curves)
    drawn = plots.lines(panel.title, "epoch", unit, curves, log=panel.log)
    return drawn, f"{panel.title} by epoch. Last: {last}."


def last_value(curve: Curve) -> str:
    for value in reversed(curve.y):
        if value is not None:
            return f"{value:.4g}"
    return "undefined"


def last_controls(log: pd.DataFrame) -> dict[str, float]:
    """The controls of the mask in the last epoch that has them; {} where none does."""
    # Older logs have some of the controls: the verdict needs all of them.
    columns = list(MASK_CONTROLS)
    if not set(columns) <= set(log):
        return {}
    rows = log[columns].apply(pd.to_numeric, errors="coerce").dropna()
    if rows.empty:
        return {}
    return {str(name): float(value) for name, value in rows.iloc[-1].items()}


def numbers(column: pd.Series) -> list[float | None]:
    """The values of a column, None where there is none."""
    values = pd.to_numeric(column, errors="coerce")
    return [float(value) if math.isfinite(value) else None for value in values]
