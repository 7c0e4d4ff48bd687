"""Section of the report on subgroups: is the model as good for everybody?"""

from collections.abc import Sequence

from roi.report import plots
from roi.report.html import (
    ABSENT,
    Block,
    Cell,
    Drawing,
    Interval,
    esc,
    figures,
    fold,
    format_interval,
    missing,
    note,
    table,
)
from roi.report.run_folder import EVALUATE, Run
from roi.report.source_names import capitalize
from roi.scoring.challenge.view_groups import attribute_name


def subgroups(run: Run) -> str:
    block = run.block("subgroups")
    if not block:
        return missing(
            "No subgroups: the table has neither two data sets nor two views, sexes or age bands.",
            "make_chexmultimodal_csv.py, then " + EVALUATE,
        )
    text, panels = "", []
    for name, values in block.items():
        # Data sets differ in what they looked for, so each is scored on its own findings, too.
        of_set = name == "dataset"
        title = "data set" if of_set else attribute_name(name)
        groups = values.get("groups") or {}
        text += f"<h3>{esc(capitalize(title))}</h3>"
        text += group_table(groups, of_set)
        gap = values.get("gap") or {}
        # Between the best and the worst group, with an interval of its own: those of the groups do not give it.
        if gap:
            best = esc(gap.get("best"))
            worst = esc(gap.get("worst"))
            text += f"<p>Gap, {best} over {worst}: <b>{format_interval(gap)}</b>.</p>"
        if "findings" in values:
            findings = ", ".join(map(str, values["findings"])) or "none"
            text += note(f"Mean over these findings: {findings}.")
        if of_set:
            text += own_findings(groups)
        if groups:
            panels.append(auroc_by_group(title, groups, of_set))
    return text + figures(panels)


def group_table(groups: Block, of_set: bool) -> str:
    heads = ["Group", "Images", "Patients", "AUROC"]
    if of_set:
        heads[-1:] = ["AUROC, shared findings", "AUROC, own findings", "Own findings"]
    rows = []
    for name, group in groups.items():
        row = [name, *map(group.get, ("n_images", "n_patients", "auroc"))]
        if of_set:
            row.append(group.get("auroc_own"))
            findings = group.get("findings_own")
            row.append(ABSENT if findings is None else len(findings))
        rows.append(row)
    return table(heads, rows)


def own_findings(groups: Block) -> str:
    rows = []
    for name, group in groups.items():
        findings = group.get("findings_own") or ["none"]
        text = ", ".join(map(str, findings))
        rows.append([name, Cell(esc(text), "", "text wrap")])
    return fold("Own findings of each data set", table(("Data set", "Findings it has in both classes"), rows))


def auroc_by_group(title: str, groups: Block, of_set: bool) -> Drawing:
    """The panel, and its text."""
    shared = [group.get("auroc") for group in groups.values()]
    dots: dict[str, Sequence[Interval | None]] = {"AUROC": shared}
    if of_set:
        own = [group.get("auroc_own") for group in groups.values()]
        dots = {"shared findings": shared, "own findings": own}
    panel = plots.intervals(f"AUROC by {title}", "mean AUROC", list(map(str, groups)), dots)
    values = [f"{name} {format_interval(v)}" for name, v in zip(groups, shared, strict=True)]
    return panel, f"AUROC by {title}: {'; '.join(values)}"
