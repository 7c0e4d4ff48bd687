"""Sections of the report on scores: the headline, each finding, calibration, subgroups.

V is {"value", "low", "high"}, each a number or null, as evaluate.py writes it.
"""

from collections.abc import Sequence
from typing import Any

from roi.report import plots
from roi.report.html import (
    ABSENT,
    Cell,
    card,
    defined,
    esc,
    figures,
    fold,
    interval,
    missing,
    note,
    number,
    shown,
    table,
)
from roi.report.plots import Curve
from roi.report.run_folder import EVALUATE, Run
from roi.report.section_evidence import source_name

TRAINED_ON = {
    True: "the checkpoint was trained on some of them",
    False: "none of these images or patients was trained on",
    None: "whether the model was trained on them is not known: the predictions do not say",
}
# Published mean AUROC over the 14 findings of ChestX-ray14: source, value as printed, split
PUBLISHED_AUROC = (
    ("Wang et al. 2017", ".7451", "official"),
    ("Yao et al. 2018", ".761", "official"),
    ("Guendel et al. 2018", ".807", "official"),
    ("DenseNet-121, 224 px", ".8025", "official"),
    ("DenseNet-121, 512 px", ".8171", "official"),
    ("ConvNeXtV2-B, 512 px", ".825", "official"),
    ("CheXNet (Rajpurkar et al. 2017)", ".8414", "own"),
    ("Reproduction of CheXNet", ".8383", "own"),
)
SCORES = {
    "auroc": "AUROC",
    "ap": "Average precision",
    "auroc_crop": "AUROC, crop only",
    "auroc_drop": "AUROC, mask dropped",
    "ap_crop": "AP, crop only",
    "ap_drop": "AP, mask dropped",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "specificity": "Specificity",
    "youden": "Youden J",
    "brier": "Brier",
}


def headline(run: Run) -> str:
    m, mean = run.metrics, run.metrics["mean"]
    faith = (m.get("faithfulness") or {}).get("positives", {}).get("mean")
    located = m.get("localization") or {}
    cards = [(score_name(k), mean.get(k)) for k in ("auroc", "ap", "auroc_crop", "auroc_drop", "f1") if k in mean]
    cards += [("Faithfulness, positives", faith)] if faith is not None else []
    if located.get("headline"):
        head = located["headline"]
        cards.append((f"{source_name(head['source'])}: pointing", head["pointing"]))
        # What the figure above owes to the image, and whether it passes who never looks at one.
        for control, title in (("shuffled", "another patient's map"), ("best_place", "best fixed place")):
            if control in head["minus"]:
                cards.append((f"Pointing minus {title}", head["minus"][control]))
    parts = []
    patients = f" of {number(m['n_patients'])} patients" if "n_patients" in m else ""
    trained = TRAINED_ON[m["contaminated"]]
    parts.append(
        f'<p class="{"honest" if m["contaminated"] is False else "missing"}">Scored on {number(m["n_images"])} images{patients}; '
        f"split: <b>{esc(m.get('split') or 'unknown')}</b>; "
        f"labels: <b>{esc(m.get('label_source', 'unknown'))}</b>; {trained}.</p>"
    )
    if m.get("classes_not_predicted"):
        parts.append(
            note(f"Findings of the table that are not predicted: {', '.join(map(str, m['classes_not_predicted']))}.")
        )
    parts.append('<div class="cards">' + "".join(card(name, v) for name, v in cards) + "</div>")
    parts.append(
        note(
            "Means over findings; brackets: 95 % intervals, patients drawn with replacement. A score without both classes is undefined."
        )
    )
    mark = " CONTAMINATED" if m["contaminated"] else ""
    ours: list[list[object]] = [
        [run.name + " (this run)" + mark, str(m.get("split") or "unknown"), shown(mean, "auroc")]
    ]
    rows = ours + [[name, f"{split} split", Cell(value, value)] for name, value, split in PUBLISHED_AUROC]
    parts.append(
        table(
            ("Model", "Split", "Mean AUROC"),
            rows,
            "Beside published mean AUROC on ChestX-ray14",
            published=len(PUBLISHED_AUROC),
        )
    )
    parts.append(
        note(
            "Only rows of the same split and label file can be compared; those with a split of their own were scored on other images."
        )
    )
    return "".join(parts)


def score_name(name: str) -> str:
    return SCORES.get(name, name)


def per_finding(run: Run) -> str:
    classes, mean = run.metrics["per_class"], run.metrics["mean"]
    names = [
        n
        for n in ("auroc", "auroc_delong", "ap", "f1", "precision", "recall", "specificity")
        if n in mean or any(n in v for v in classes.values())
    ]
    heads = ["Finding", "Positives", *("DeLong interval" if n == "auroc_delong" else score_name(n) for n in names)]
    limits = any("threshold" in v and v["threshold"] is not None for v in classes.values())

    def delong(v: dict[str, Any] | None) -> object:
        if v is None:
            return ABSENT
        low, high = v.get("low"), v.get("high")
        return Cell(f"[{number(low)}, {number(high)}]", repr(low)) if defined(low) and defined(high) else None

    def row(c: str, v: dict[str, Any]) -> list[object]:
        values = [delong(v.get(n)) if n == "auroc_delong" else shown(v, n) for n in names]
        return [c, v.get("positives", ABSENT), *values, *([v.get("threshold")] if limits else [])]

    foot = ["Mean", "", *(ABSENT if n == "auroc_delong" else shown(mean, n) for n in names), *([""] if limits else [])]
    parts = [
        table(
            [*heads, *(["Threshold"] if limits else [])],
            [row(c, v) for c, v in classes.items()],
            "Click a header to sort",
            foot=foot,
            sortable=True,
        )
    ]
    if limits:
        given = run.metrics.get("thresholds") or {}
        parts.append(
            note(f"Thresholds: {given.get('rule', 'unknown rule')}, chosen on {given.get('file', 'unknown')}.")
        )
        micro = run.metrics.get("micro") or {}
        if micro:
            heads = [score_name(k) for k in micro] + (["Hamming accuracy"] if "hamming" in run.metrics else [])
            values = [*micro.values(), *([run.metrics["hamming"]] if "hamming" in run.metrics else [])]
            parts.append(table(["Over all cells", *heads], [["micro", *values]]))
    else:
        parts.append(
            missing(
                "No thresholds, so no F1, precision, recall and specificity.",
                f"{EVALUATE} --threshold_preds val_preds.json --threshold_csv val.csv",
            )
        )
    panels = []
    for key, title, x, y in (
        ("roc", "ROC curves", "false positive rate", "true positive rate"),
        ("pr", "Precision and recall", "recall", "precision"),
    ):
        curves = [Curve(plots.short(c), *v[key]) for c, v in classes.items() if v.get(key) and len(v[key][0])]
        if curves:
            panels.append(
                (
                    plots.lines(title, x, y, curves, square=True, diagonal=key == "roc"),
                    f"{title} of {len(curves)} findings; their areas stand in the table.",
                )
            )
        else:
            parts.append(missing(f"{title}: metrics.json holds none.", EVALUATE))
    return "".join(parts) + figures(*panels)


def calibration(run: Run) -> str:
    found = run.metrics.get("calibration") or {}
    methods = found.get("methods") or {}
    if not methods:
        return missing("No calibration was computed.", EVALUATE)
    order: list[str] = [m for m in ("raw", "temperature", "platt") if m in methods] + [
        m for m in methods if m not in ("raw", "temperature", "platt")
    ]
    title: dict[str, str] = {"raw": "as predicted", "temperature": "temperature", "platt": "Platt"}
    bins = {m: [b for b in methods[m].get("reliability") or [] if b[2]] for m in order}
    curves = [
        Curve(title.get(m, m), [b[0] for b in bins[m]], [b[1] for b in bins[m]], dots=True) for m in order if bins[m]
    ]
    rows = [[title.get(m, m), *((methods[m].get("mean") or {}).get(k) for k in ("ece", "brier"))] for m in order]
    text = f"Fitted on {found['fitted_on']}." if found.get("fitted_on") else "As predicted: nothing was fitted."
    alt = "Reliability: observed rate against mean probability. " + "; ".join(
        f"{r[0]}: ECE {number(r[1])}" for r in rows
    )
    heads = ["Finding", *(f"{k}, {title.get(m, m)}" for m in order for k in ("ECE", "Brier"))]
    per_class = [
        [c, *((methods[m].get("per_class") or {}).get(c, {}).get(k) for m in order for k in ("ece", "brier"))]
        for c in run.metrics["per_class"]
    ]
    return (
        note(text + " Bins pool all findings; ECE and Brier are means over findings.")
        + table(("Probabilities", "ECE", "Brier"), rows)
        + (
            figures(
                (
                    plots.lines(
                        "Reliability",
                        "mean probability of the bin",
                        "observed rate",
                        curves,
                        square=True,
                        diagonal=True,
                    ),
                    alt,
                )
            )
            if curves
            else ""
        )
        + fold("Calibration of each finding", table(heads, per_class, sortable=True))
        + (
            ""
            if len(order) > 1
            else missing(
                "No temperature or Platt scaling.",
                f"{EVALUATE} --threshold_preds val_preds.json --threshold_csv val.csv",
            )
        )
    )


def subgroups(run: Run) -> str:
    found = run.metrics.get("subgroups") or {}
    if not found:
        return missing(
            "No subgroups: the table has neither two data sets nor two views, sexes or age bands.",
            "make_chexmultimodal_csv.py, then " + EVALUATE,
        )
    parts, panels = [], []
    for by, values in found.items():
        groups, gap = values.get("groups") or {}, values.get("gap") or {}
        of_set = by == "dataset"  # data sets differ in what they looked for, so each is scored on its own findings, too
        title = "data set" if of_set else str(by)
        rows = [
            [name, *(v.get(k) for k in ("n_images", "n_patients", "auroc")), *(own(v) if of_set else [])]
            for name, v in groups.items()
        ]
        heads = (
            "Group",
            "Images",
            "Patients",
            *(("AUROC, shared findings", "AUROC, own findings", "Own findings") if of_set else ("AUROC",)),
        )
        parts.append(f"<h3>{esc(title.capitalize())}</h3>" + table(heads, rows))
        if gap:
            parts.append(f"<p>Gap, {esc(gap.get('best'))} over {esc(gap.get('worst'))}: <b>{interval(gap)}</b>.</p>")
        if "findings" in values:
            parts.append(note(f"Mean over these findings: {', '.join(map(str, values['findings'])) or 'none'}."))
        if of_set:
            listed = [
                [name, Cell(esc(", ".join(map(str, v.get("findings_own") or [])) or "none"), "", "text wrap")]
                for name, v in groups.items()
            ]
            parts.append(
                fold("Own findings of each data set", table(("Data set", "Findings it has in both classes"), listed))
            )
        if groups:
            dots: dict[str, Sequence[dict[str, Any] | None]] = {"AUROC": [v.get("auroc") for v in groups.values()]}
            if of_set:
                dots = {"shared findings": dots["AUROC"], "own findings": [v.get("auroc_own") for v in groups.values()]}
            panel = plots.intervals(f"AUROC by {title}", "mean AUROC", list(map(str, groups)), dots)
            panels.append(
                (
                    panel,
                    f"AUROC by {title}: "
                    + "; ".join(f"{name} {interval(v.get('auroc'))}" for name, v in groups.items()),
                )
            )
    return "".join(parts) + figures(*panels)


def own(group: dict[str, Any]) -> list[object]:
    """AUROC of a data set over the findings that it has itself in both classes, and how many they are."""
    findings = group.get("findings_own")
    return [group.get("auroc_own"), ABSENT if findings is None else len(findings)]
