"""Part of the findings' section: a slider for the threshold of a finding, with what each threshold would call.

Letters: n images of known label, T steps of a threshold.
"""

import json
from typing import NamedTuple

import numpy as np

from roi.report import plots
from roi.report.gallery_files import NotThere, Scored
from roi.report.glossary import hint
from roi.report.html import Block, Cell, esc, format_number, note, table
from roi.report.run_folder import Run
from roi.scoring.metrics import counts_by_threshold

STEPS = 100  # of a finding at most: the page holds the counts of each
# Where no threshold was chosen.
MIDDLE = 0.5


class Counts(NamedTuple):
    """What each threshold of a finding calls, the lowest threshold first."""

    finding: str
    steps: list[float]  # (T,)
    calls: list[int]  # (T,) images at or above it
    hits: list[int]  # (T,) those of them that have the finding
    positives: int
    known: int
    start: int  # the step of the run's own threshold

    def figures(self) -> dict[str, object]:
        """What the script shows, at the step where it begins."""
        hits = self.hits[self.start]
        calls = self.calls[self.start]
        wrong, negatives = calls - hits, self.known - self.positives
        return {
            "threshold": f"{self.steps[self.start]:.6g}",
            "sensitivity": share(hits, self.positives),
            "specificity": share(negatives - wrong, negatives),
            "ppv": share(hits, calls),
            "hits": hits,
            "missed": self.positives - hits,
            "wrong": wrong,
            "left": negatives - wrong,
        }


def share(part: int, whole: int) -> str:
    return format_number(part / whole if whole else None)


def threshold_slider(run: Run, scored: Scored | NotThere) -> str:
    """The slider; a sentence where predictions and labels cannot be read."""
    if isinstance(scored, NotThere):
        return scored.html("slider of thresholds")
    counts = counts_of_findings(scored, run.metrics["per_class"])
    if not counts:
        return ""
    return "<h3>Try a threshold</h3>" + slider_html(counts)


def counts_of_findings(scored: Scored, per_class: Block) -> list[Counts]:
    """Of each finding that has images with and without it."""
    counts = []
    for k, finding in enumerate(scored.preds.classes):
        known = ~np.isnan(scored.target[:, k])
        target = scored.target[known, k]
        if finding in per_class and len(np.unique(target)) == 2:
            threshold = per_class[finding].get("threshold")
            counts.append(counts_of(finding, scored.preds.prob["full"][known, k], target, threshold))
    return counts


def counts_of(finding: str, score: np.ndarray, target: np.ndarray, threshold: float | None) -> Counts:
    """Counts at STEPS thresholds, the run's own among them. (n,) in 0..1, (n,) of 0 and 1"""
    steps, calls, hits = counts_by_threshold(score, target)
    positives = int((target == 1).sum())
    known = len(target)
    # Evenly along the ROC curve: evenly in probability a rare finding would have two or three steps that matter.
    false_alarms = (calls - hits) / (known - positives)
    kept = plots.thin_places(false_alarms, hits / positives, STEPS)
    own = MIDDLE if threshold is None else threshold
    last = int(np.searchsorted(-steps, -own, side="right"))  # images of the first steps are called
    # Of a threshold above all steps nobody is called.
    called = (int(calls[last - 1]), int(hits[last - 1])) if last else (0, 0)
    rows = {own: called}
    for place in kept.tolist():
        rows.setdefault(float(steps[place]), (int(calls[place]), int(hits[place])))
    ascending = sorted(rows)
    shown = [float(f"{step:.6g}") for step in ascending]
    return Counts(
        finding,
        shown,
        [rows[step][0] for step in ascending],
        [rows[step][1] for step in ascending],
        positives,
        known,
        ascending.index(own),
    )


def slider_html(counts: list[Counts]) -> str:
    """The box of the slider; without a script it shows the first finding at its own threshold."""
    fields = [one._asdict() for one in counts]
    data = esc(json.dumps(fields, separators=(",", ":")))
    names = ""
    for n, one in enumerate(counts):
        names += f'<option value="{n}">{esc(one.finding)}</option>'
    figures = counts[0].figures()
    cards = ""
    for key, name in (("sensitivity", "Sensitivity"), ("specificity", "Specificity"), ("ppv", "PPV")):
        cards += f'<div class="card"><span>{name}{hint(name)}</span><b data-is="{key}">{figures[key]}</b></div>'
    cells = {key: Cell(f'<span data-is="{key}">{value}</span>', "") for key, value in figures.items()}
    confusion = table(
        ("Images", "called", "not called"),
        [("with the finding", cells["hits"], cells["missed"]), ("without it", cells["wrong"], cells["left"])],
    )
    at = f'<b data-is="threshold">{figures["threshold"]}</b>'
    return (
        f'<div class="try" data-counts="{data}"><p><label>Finding <select>{names}</select></label></p>'
        f"<label>Threshold{hint('Threshold')} {at}"
        f'<input type="range" min="0" max="{len(counts[0].steps) - 1}" value="{counts[0].start}"></label>'
        f'<div class="cards">{cards}</div>{confusion}</div>'
        + note(
            "It begins at the threshold of the run, or at 0.5 where none was chosen. These are the images that were "
            "scored: a threshold that is chosen on them looks better than it is."
        )
    )
