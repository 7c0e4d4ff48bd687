"""Section of the report on subgroups: is the model as good for everybody?"""

from collections.abc import Sequence
from typing import Any

from roi.report import plots
from roi.report.html import ABSENT, Cell, esc, figures, fold, format_interval, missing, note, table
from roi.report.run_folder import EVALUATE, Run


def subgroups(run: Run) -> str:
    block = run.metrics.get("subgroups") or {}
    if not block:
        return missing(
            "No subgroups: the table has neither two data sets nor two views, sexes or age bands.",
            "make_chexmultimodal_csv.py, then " + EVALUATE,
        )
    text, panels = "", []
    for name, values in block.items():
        # Data sets differ in what they looked for, so each is scored on its own findings, too.
        of_set = name == "dataset"
        title = "data set" if of_set else str(name)
        groups, gap = values.get("groups") or {}, values.get("gap") or {}
        text += f"<h3>{esc(title.capitalize())}</h3>" + group_table(groups, of_set)
        if gap:
            best, worst = esc(gap.get("best")), esc(gap.get("worst"))
            text += f"<p>Gap, {best} over {worst}: <b>{format_interval(gap)}</b>.</p>"
        if "findings" in values:
            findings = ", ".join(map(str, values["findings"])) or "none"
            text += note(f"Mean over these findings: {findings}.")
        if of_set:
            text += own_findings(groups)
        if groups:
            panels.append(auroc_by_group(title, groups, of_set))
    return text + figures(panels)


def group_table(groups: dict[str, Any], of_set: bool) -> str:
    heads = ["Group", "Images", "Patients"]
    heads += ["AUROC, shared findings", "AUROC, own findings", "Own findings"] if of_set else ["AUROC"]
    rows = []
    for name, group in groups.items():
        row = [name, group.get("n_images"), group.get("n_patients"), group.get("auroc")]
        if of_set:
            findings = group.get("findings_own")
            row += [group.get("auroc_own"), ABSENT if findings is None else len(findings)]
        rows.append(row)
    return table(heads, rows)


def own_findings(groups: dict[str, Any]) -> str:
    rows = []
    for name, group in groups.items():
        findings = ", ".join(map(str, group.get("findings_own") or [])) or "none"
        rows.append([name, Cell(esc(findings), "", "text wrap")])
    return fold("Own findings of each data set", table(("Data set", "Findings it has in both classes"), rows))


def auroc_by_group(title: str, groups: dict[str, Any], of_set: bool) -> tuple[bytes, str]:
    """The panel, and its text."""
    shared = [group.get("auroc") for group in groups.values()]
    dots: dict[str, Sequence[dict[str, Any] | None]] = {"AUROC": shared}
    if of_set:
        own = [group.get("auroc_own") for group in groups.values()]
        dots = {"shared findings": shared, "own findings": own}
    panel = plots.intervals(f"AUROC by {title}", "mean AUROC", list(map(str, groups)), dots)
    values = [f"{name} {format_interval(v)}" for name, v in zip(groups, shared, strict=True)]
    return panel, f"AUROC by {title}: {'; '.join(values)}"
