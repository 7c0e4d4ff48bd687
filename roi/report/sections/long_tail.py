"""Section of the report on the long tail: what becomes of the classes that training has rarely seen.

V is {"value", "low", "high"}, each a number or null, as evaluate.py writes it.
"""

from collections.abc import Sequence

from roi.report import plots
from roi.report.html import (
    ABSENT,
    Block,
    Cell,
    Interval,
    Row,
    card,
    esc,
    figures,
    format_interval,
    format_number,
    missing,
    note,
    score_of,
    table,
)
from roi.report.plots import Dot
from roi.report.run_folder import Run
from roi.report.source_names import capitalize

MEANS = ("map", "mauroc")
FIGURES = {"map": "mAP", "mauroc": "mAUROC", "mf1": "mF1 at .5", "mece": "mECE"}
HOW_TO_READ = (
    "A class of few training images is rare among the scored ones as well: its interval is wide, and its average "
    "precision by chance is its prevalence (grey dashes). A gap between two bins is that of their classes, too, not of "
    "the counts alone."
)


def long_tail(run: Run) -> str:
    """Empty where no training table was given."""
    block = run.block("long_tail")
    if not block:
        return ""
    bin_of: dict[str, str] = {}
    for name, values in (block.get("bins") or {}).items():
        bin_of |= dict.fromkeys(values["classes"], name)
    counts = block["train_positives"]
    # Most frequent first; classes that nobody counted are in no bin and stand last.
    names = sorted(counts, key=lambda c: (c not in bin_of, -counts[c]))
    per_class = run.metrics["per_class"]
    images = format_number(block["n_train_images"])
    parts = [
        note(f"{capitalize(block['rule'])}; {images} training images of {block.get('train_csv', 'unknown')}."),
        challenge_figures(block),
        bin_table(block),
        figures(panels(block, bin_of, per_class)),
        note(HOW_TO_READ),
    ]
    without = [c for c in names if c in bin_of and counts[c] <= 0]
    if without:
        parts.append(note(f"No training image has them, so that the axis has no place for them: {', '.join(without)}."))
    parts.append(class_table(names, bin_of, block, per_class))
    return "".join(parts)


def challenge_figures(block: Block) -> str:
    """The four figures of CXR-LT, and what they are means of."""
    found = block.get("challenge")
    if not found:
        return missing("No figures of the challenge were computed.")
    cards = ""
    for key, title in FIGURES.items():
        cards += card(title, found.get(key))
    scored, left_out = (format_number(found.get(f"classes_{what}")) for what in ("scored", "left_out"))
    bins = format_number(found.get("mece_bins"))
    text = (
        f"Means over {scored} classes that have positives and negatives here ({left_out} left out). Bins of classes "
        f"and the {bins} bins of the calibration error are ours: the challenge published none."
    )
    if lies_below(found.get("mece")):
        text += (
            " The calibration error lies below its own interval: images drawn with replacement are fewer different "
            "ones, whose bins are further off."
        )
    return f'<div class="cards">{cards}</div>' + note(text)


def lies_below(score: Interval | None) -> bool:
    """Whether a score is less than the lower end of its interval."""
    value, low = ((score or {}).get(key) for key in ("value", "low"))
    return value is not None and low is not None and value < low


def bin_table(block: Block) -> str:
    """Head, medium and tail with their intervals and counts."""
    counts = block["train_positives"]
    rows: list[Row] = []
    for name, values in (block.get("bins") or {}).items():
        held = [counts[c] for c in values["classes"] if c in counts]
        span = f"{min(held):,} to {max(held):,}" if held else ABSENT
        scored = values.get("scored", ABSENT)
        rows.append([name, len(values["classes"]), scored, Cell(span, ""), *(score_of(values, k) for k in MEANS)])
    text = table(("Bin", "Classes", "Scored", "Training images of a class", "mAP", "mAUROC"), rows)
    # Said, as a reader would look for them in the tail.
    others = block.get("not_in_training")
    if others:
        text += note(f"Not counted in the training table, so in no bin: {', '.join(others)}.")
    return text


def panels(block: Block, bin_of: dict[str, str], per_class: Block) -> list[tuple[bytes, str]]:
    """Average precision against the count, and the means of the bins."""
    counts = block["train_positives"]
    bins = block.get("bins") or {}
    groups: dict[str, list[Dot]] = {name: [] for name in bins}
    for c, name in bin_of.items():
        # What a coin has, so that a rare class is not read as a bad one.
        scores = per_class.get(c, {})
        known = scores.get("known") or 0
        prevalence = scores.get("positives", 0) / known if known else None
        groups[name].append(Dot(counts.get(c, 0), scores.get("ap"), prevalence))
    held: dict[str, Sequence[Dot]] = {name: dots for name, dots in groups.items() if dots}
    drawn: list[tuple[bytes, str]] = []
    if held:
        panel = plots.dots("Average precision by count", "training images (log)", "average precision", held)
        drawn.append((panel, "Average precision of each class against its training images; the table has the values."))
    if bins:
        means: dict[str, Sequence[Interval | None]] = {}
        for key in MEANS:
            means[FIGURES[key]] = [values.get(key) for values in bins.values()]
        panel = plots.intervals("Means of the bins", "mean over classes", list(bins), means)
        said = [f"{name} mAP {format_interval(values.get('map'))}" for name, values in bins.items()]
        drawn.append((panel, "; ".join(said)))
    return drawn


def class_table(names: list[str], bin_of: dict[str, str], block: Block, per_class: Block) -> str:
    counts, images = block["train_positives"], block["n_train_images"]
    rows = []
    for c in names:
        scores = per_class.get(c, {})
        share = 100 * counts[c] / images if images else None
        percent = Cell(f"{share:.2f} %", repr(share)) if share is not None else ABSENT
        # A class in no bin was not counted: its 0 would look like one that is absent everywhere.
        seen = [counts[c], percent] if c in bin_of else [ABSENT, ABSENT]
        own = [scores.get("positives", ABSENT), score_of(scores, "ap"), score_of(scores, "auroc")]
        rows.append([Cell(esc(c), esc(c), "text"), bin_of.get(c, ABSENT), *seen, *own])
    heads = ("Class", "Bin", "Training images", "Share", "Positives here", "Average precision", "AUROC")
    return table(heads, rows, "Classes by their training images; click a header to sort", sortable=True)
