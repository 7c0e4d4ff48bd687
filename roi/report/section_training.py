"""Sections of the report on training: curves of the metrics CSV of a run."""

import math

import pandas as pd

from roi.report import plots
from roi.report.html import banner, figures, missing, note
from roi.report.plots import Curve
from roi.report.run_folder import OF_SET, Run
from roi.training.mask_verdict import MASK_CONTROLS, UNIFORM_BORDER, complaints
from roi.training.metrics_log import TERMS


def training(run: Run) -> str:
    if run.log is None:
        why = f"{run.log_odd}." if run.log_odd else f"There is no train_metrics.csv or metrics.csv in {run.folder}."
        return missing(why, f"train_roi_consistency.py … --log_csv {run.folder}/train_metrics.csv")
    log = run.log
    epochs = log["epoch"].tolist()
    sets = {c: plots.short(c.removeprefix(OF_SET)) for c in map(str, log) if c.startswith(OF_SET)}
    panels = []
    for title, columns, log_scale in (
        ("Losses", {"loss": "total", **{f"loss_{t}": t for t in TERMS}, "val_loss": "validation"}, True),
        ("Weights of the losses", {f"w_{t}": t for t in TERMS}, True),
        ("Area of the mask", {"mask_mean": "soft, mean", "mask_kept": "hard, kept"}, False),
        ("AUROC of the crop", {"crop_auroc": "what the mask keeps", "blobs_auroc": "random blobs of its area"}, False),
        (
            "What the drop view loses",
            {"drop_contrast": "mask dropped", "drop_contrast_blobs": "random blobs dropped"},
            False,
        ),
        (
            "Mask at the border",
            {"mask_border": f"kept pixels in the outer tenth ({UNIFORM_BORDER} of a uniform mask)"},
            False,
        ),
        ("Validation AUROC", {"val_auroc": "mean of the data sets" if sets else "mean over findings", **sets}, False),
    ):
        curves = [
            Curve(name, epochs, numbers(log[c]), True)
            for c, name in columns.items()
            if c in log and log[c].notna().any()
        ]
        if curves:
            last = ", ".join(
                f"{c.name} {next((f'{v:.4g}' for v in reversed(c.y) if v is not None), 'undefined')}" for c in curves
            )
            panels.append(
                (
                    plots.lines(
                        title, "epoch", "share of the pixels" if "mask" in title else "", curves, log=log_scale
                    ),
                    f"{title} by epoch. Last: {last}.",
                )
            )
        else:
            panels.append((b"", title))
    lacking = [title for data, title in panels if not data]
    leaked = "contaminated" in log and (log["contaminated"] == 1).any()
    return (
        (banner("CONTAMINATED: this training saw test images (--allow_leakage).") if leaked else "")
        + "".join(banner(f"In the last epoch {line}.") for line in complaints(last_controls(log)))
        + figures(*(p for p in panels if p[0]))
        + note(
            f"{len(log)} epochs, from {run.log_file}. Losses and weights on a logarithmic axis (a value of 0 is not drawn)."
        )
        + (
            missing(
                f"Not in this log: {', '.join(lacking)} (a run without a mask has no mask area and no controls of it, one without validation images "
                "neither those nor a validation AUROC)."
            )
            if lacking
            else ""
        )
    )


def last_controls(log: pd.DataFrame) -> dict[str, float]:
    """The controls of the mask in the last epoch that has them; {} where none does."""
    columns = [column for column in MASK_CONTROLS if column in log]
    rows = (
        log[columns].apply(pd.to_numeric, errors="coerce").dropna()
        if len(columns) == len(MASK_CONTROLS)
        else log[[]][:0]
    )
    return {} if rows.empty else {str(name): float(value) for name, value in rows.iloc[-1].items()}


def numbers(column: pd.Series) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in pd.to_numeric(column, errors="coerce")]
