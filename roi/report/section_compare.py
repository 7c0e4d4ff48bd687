"""Sections of the report that compare: another model on the same images, and runs side by side."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from roi.report import plots
from roi.report.html import ABSENT, Cell, banner, figures, missing, note, number, shown, table
from roi.report.run_folder import Run
from roi.training.metrics_log import TERMS

# Where a finding has no map of its own.
PLACES_BY = {"mask": " (places by the mask, a union)", "cam": " (places by Grad-CAM)"}


def comparison(run: Run) -> str:
    found = run.metrics.get("comparison")
    if not found:
        return ""
    rows = [
        [c, v.get("auroc"), (v.get("auroc") or {}).get("p"), (v.get("auroc") or {}).get("p_delong")]
        for c, v in (found.get("per_class") or {}).items()
    ]
    mean = (found.get("mean") or {}).get("auroc") or {}
    text = f"Difference in AUROC, this run minus {found.get('file', 'unknown')}, on the same {number(found.get('n_images'))} images, paired."
    alarm = (
        banner("CONTAMINATED: the other model was trained on some of these images or patients.")
        if found.get("contaminated")
        else ""
    )
    return (
        alarm
        + note(text)
        + table(
            ("Finding", "Difference", "p, bootstrap", "p, DeLong"),
            rows,
            foot=["Mean", mean, mean.get("p"), ABSENT],
            sortable=True,
        )
    )


def ablation(runs: Sequence[Run]) -> str:
    heads = ["Run", "AUROC", "AUROC, crop", "AUROC, drop", "Faithfulness"]
    heads += ["Pointing", "Pointing minus another patient's", "IoU > .1"]
    heads += [*(f"loss {t}" for t in TERMS), "Mask kept", "Images"]
    rows: list[list[object]] = []
    names = []
    for run in runs:
        name = f"{run.name} ({run.folder.name})" if sum(r.name == run.name for r in runs) > 1 else run.name
        names.append(name + (" CONTAMINATED" if run.metrics["contaminated"] else ""))
    for run, name in zip(runs, names, strict=True):
        m = run.metrics
        located = m.get("localization") or {}
        head = located.get("headline") or {"source": None, "minus": {}}
        place = located["sources"][head["source"]]["mean"] if head["source"] else {}
        last: dict[str, Any] = {} if run.log is None else {str(c): v for c, v in run.log.iloc[-1].items()}
        losses = [
            float(last[c]) if c in last and pd.notna(last[c]) else ABSENT
            for c in (*(f"loss_{t}" for t in TERMS), "mask_kept")
        ]
        faith = (m.get("faithfulness") or {}).get("positives", {})
        rows.append(
            [
                name + PLACES_BY.get(head["source"], ""),
                *(shown(m["mean"], k) for k in ("auroc", "auroc_crop", "auroc_drop")),
                shown(faith, "mean"),
                shown(place, "pointing"),
                shown(head["minus"], "shuffled"),
                shown(place, "iou@0.1"),
                *(Cell(f"{v:.4g}", repr(v)) if isinstance(v, float) else v for v in losses),
                m["n_images"],
            ]
        )
    groups = {"full": "auroc", "crop": "auroc_crop", "drop": "auroc_drop"}
    values: dict[str, Sequence[dict[str, Any] | None]] = {
        name: [run.metrics["mean"].get(k) for run in runs]
        for name, k in groups.items()
        if any(k in r.metrics["mean"] for r in runs)
    }
    same = len({(r.metrics["n_images"], r.metrics.get("split"), r.metrics.get("label_source")) for r in runs}) == 1
    without = [name for run, name in zip(runs, names, strict=True) if run.log is None]
    return (
        (
            ""
            if same
            else '<p class="banner">These runs were not scored on the same images and labels: their rows cannot be compared.</p>'
        )
        + "".join(run.left_out(*run.odd) for run in runs[1:])
        + table(heads, rows, "Click a header to sort", sortable=True)
        + note(
            "Losses and mask area of the last epoch; faithfulness on positives; pointing of each finding's own map. "
            f"{ABSENT}: not part of the run or not computed."
        )
        + (
            missing(
                f"No training log, so no losses: {', '.join(without)}.",
                "train_roi_baselines.py … --log_csv RUN/train_metrics.csv",
            )
            if without
            else ""
        )
        + figures(
            (
                plots.intervals("Mean AUROC by view", "mean AUROC", names, values),
                "Mean AUROC of each run, full, crop and drop view; the values stand in the table.",
            )
        )
    )
