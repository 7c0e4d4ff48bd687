"""Pieces of an HTML page that needs nothing but itself: tables, figures, notes, and what a number looks like.

Everything from the data goes through `esc`. V is {"value", "low", "high"}, each a number or null, as evaluate.py
writes it.
"""

import base64
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from roi.text import LAYOUT, decimal, printable

Block = dict[str, Any]  # a part of metrics.json
Interval = dict[str, Any]  # a V
Row = list[object]  # of a table: what `to_cell` takes, a value a column
Drawing = tuple[bytes, str]  # an SVG figure, and its text for those who cannot see it

ABSENT = "–"  # not part of this run; what was computed and has no value is "undefined"


def esc(text: object) -> str:
    """Text for a page: names of files and findings may hold anything, tags and control characters too."""
    return html.escape(printable(str(text), LAYOUT), quote=True)


# ---- numbers --------------------------------------------------------------------------------------------------------


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def format_number(value: object, digits: int = 3) -> str:
    """Counts with separators, other numbers with so many digits; "undefined" where there is no finite number."""
    if not is_finite(value):
        return "undefined"
    if isinstance(value, int):
        return f"{value:,}"
    assert isinstance(value, float)
    return decimal(value, digits)


def format_interval(v: Interval | None) -> str:
    """'0.812 [0.790, 0.833]' as plain text; 'undefined'; ABSENT where it was not asked for."""
    if v is None:
        return ABSENT
    value = v.get("value")
    text = format_number(value)
    if is_finite(value):
        limits = format_limits(v)
        text += f" {limits}" if limits else ""
    return text


def format_limits(v: Interval) -> str:
    """'[0.790, 0.833]'; "" where an end is not known."""
    low = v.get("low")
    high = v.get("high")
    if not is_finite(low) or not is_finite(high):
        return ""
    return f"[{format_number(low)}, {format_number(high)}]"


def score_of(scores: Block, name: str) -> object:
    """A score of a run: itself, undefined, or ABSENT."""
    return scores.get(name, ABSENT)


# ---- tables ---------------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    """What stands in a cell of a table, ready for the page."""

    html: str
    sort: str  # "" sorts last whichever way
    kind: str = ""  # CSS class


def to_cell(value: object) -> Cell:
    """The cell of a V, a number or a name; None is undefined."""
    if isinstance(value, Cell):
        return value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Cell("undefined", "", "undefined")
    if isinstance(value, dict):
        return _interval_cell(value)
    # A bool is an int, so it is asked for first.
    if isinstance(value, bool):
        answer = "yes" if value else "no"
        return Cell(answer, answer, "text")
    if isinstance(value, int | float):
        return Cell(format_number(value), repr(value))
    text = esc(value)
    if value == ABSENT:
        return Cell(text, "")
    return Cell(text, text, "text")


def _interval_cell(v: Interval) -> Cell:
    """The value, and its interval in small letters behind it."""
    if not is_finite(v.get("value")):
        return to_cell(None)
    value, _, limits = format_interval(v).partition(" ")
    if limits:
        value += f" <small>{limits}</small>"
    return Cell(value, repr(v["value"]))


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    caption: str = "",
    *,
    foot: Sequence[object] = (),
    sortable: bool = False,
    published: int = 0,
) -> str:
    """A table that scrolls inside itself.

    Args:
        heads: the header of each column. Columns that hold a name anywhere sort as text.
        rows: what `to_cell` takes, a value a column.
        caption: a sentence above the table; a screen reader hears it as the table's name.
        foot: the last row, which stays last when the others are sorted.
        sortable: a click on a header sorts.
        published: how many rows at the end are others' numbers, shown in grey.
    """
    cells = [to_row(row) for row in rows]
    heading = ""
    for head, numeric in zip(heads, numeric_columns(cells, len(heads)), strict=True):
        heading += _head_html(head, numeric, sortable)
    body = ""
    for number, row in enumerate(cells):
        body += _row_html(row, published=number >= len(cells) - published)
    end = f"<tfoot>{_row_html(to_row(foot))}</tfoot>" if foot else ""
    kinds = []
    if sortable:
        kinds.append("sortable")
    # Intervals stand below their values where columns are many.
    if len(heads) > 5:
        kinds.append("wide")
    # A region that scrolls must be reached by keyboard and have a name.
    label = esc(caption or heads[0])
    above = note(caption) if caption else ""
    return (
        f'{above}<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="{" ".join(kinds)}">'
        f"<thead><tr>{heading}</tr></thead><tbody>{body}</tbody>{end}</table></div>"
    )


def to_row(values: Sequence[object]) -> list[Cell]:
    return [to_cell(value) for value in values]


def numeric_columns(rows: Sequence[Sequence[Cell]], count: int) -> list[bool]:
    """Of each of `count` columns: does it sort by number? One name in it, and it does not."""
    if not rows:
        return [False] * count
    numeric = []
    for column in zip(*rows, strict=True):
        numeric.append(not any("text" in cell.kind for cell in column))
    return numeric


def _head_html(head: str, numeric: bool, sortable: bool) -> str:
    kind, style = ("number", "") if numeric else ("text", " class=text")
    label = esc(head)
    if sortable:
        label = f'<button type="button">{label}</button>'
    return f'<th scope="col" data-kind="{kind}"{style}>{label}</th>'


def _row_html(cells: Sequence[Cell], published: bool = False) -> str:
    row = '<tr class="published">' if published else "<tr>"
    for cell in cells:
        style = f' class="{cell.kind}"' if cell.kind else ""
        row += f'<td{style} data-v="{cell.sort}">{cell.html}</td>'
    return row + "</tr>"


# ---- pictures, sentences and boxes ----------------------------------------------------------------------------------


def image(data: bytes, kind: str, alt: str) -> str:
    """A picture inside the page; `alt` is what stands in its place for those who cannot see it."""
    text = base64.b64encode(data).decode()
    return f'<img src="data:image/{kind};base64,{text}" alt="{esc(alt)}">'


def zoomable(picture: str) -> str:
    """A picture of `image` that is enlarged when it is clicked."""
    return f'<button type="button" class="zoom" title="enlarge">{picture}</button>'


def figures(panels: Sequence[Drawing], style: str = "figures") -> str:
    """Figures side by side; "" where there is none."""
    if not panels:
        return ""
    shown = ""
    for data, alt in panels:
        shown += f"<figure>{image(data, 'svg+xml', alt)}</figure>"
    return f'<div class="{style}">{shown}</div>'


def missing(what: str, command: str = "") -> str:
    """A sentence on what is not there, and the command that makes it."""
    text = esc(what)
    if command:
        text += f" Make it with <code>{esc(command)}</code>."
    return f'<p class="missing">{text}</p>'


def banner(text: str) -> str:
    """What nobody may miss."""
    return f'<p class="banner" role="alert">{esc(text)}</p>'


def note(text: str) -> str:
    return f'<p class="note">{esc(text)}</p>'


def fold(title: str, content: str) -> str:
    """What is hidden behind its title until it is asked for."""
    return f"<details><summary>{esc(title)}</summary>{content}</details>"


def card(name: str, v: Interval | None, explained: str = "") -> str:
    """One large number, its interval below; `explained` stands behind its name."""
    value, _, limits = format_interval(v).partition(" ")
    below = limits or "no interval"
    return f'<div class="card"><span>{esc(name)}{explained}</span><b>{value}</b><span>{below}</span></div>'
