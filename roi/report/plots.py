"""Figures of the report as SVG bytes: the same data gives the same bytes. No global state of matplotlib stays changed.

Each figure is one panel, small enough to be read on a telephone; the page lays several side by side.
"""

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from roi.report.html import Interval
from roi.report.panel_titles import FONT, titles_of

# Okabe & Ito 2008, without the yellow that white paper swallows; told apart by line style too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (5, 1.5, 1.2, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SMALL = 2.1  # inches, the width of one of the small multiples
POINTS = 300  # of a curve: more than a panel of this size can show
# The salt makes the same names of parts each time, so that the same data gives the same bytes. Names of findings may
# hold a dollar sign, which begins no formula here.
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "roi",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.linewidth": 0.8,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
# What figures have at night, when the page is dark: text, axes, grid, and the two colours that black paper swallows.
AT_NIGHT = {
    "#000000": "#f0f3f6",
    "#0072b2": "#2b82d4",
    "#e6e6e6": "#2b343d",
    "#333333": "#c9d1d9",
    "#555555": "#aab4be",
    "#aaaaaa": "#7b8794",
    "#bbbbbb": "#55606b",
}


@dataclass
class Curve:
    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    dots: bool = False  # mark each point: few of them, or unevenly spaced


class Dot(NamedTuple):
    """A point of `dots`."""

    x: float
    y: Interval | None
    chance: float | None  # the y that chance would have


def style(n: int) -> dict[str, Any]:
    """Colour and dashes of the n-th curve: 28 pairs, and neighbours differ in both."""
    colour = PALETTE[n % len(PALETTE)]
    return {"color": colour, "linestyle": STYLES[n % len(STYLES)]}


def lines(
    title: str,
    xlabel: str,
    ylabel: str,
    curves: Sequence[Curve],
    *,
    square: bool = False,
    diagonal: bool = False,
    log: bool = False,
    end: float = 1.0,
) -> bytes:
    """One panel of curves with its legend below.

    Args:
        title, xlabel, ylabel: what stands at it.
        curves: points without a value are gaps.
        square: both axes are 0..end.
        diagonal: y = x drawn in grey.
        log: logarithmic y, where any value is positive.
        end: of square axes and of the diagonal.
    """
    with matplotlib.rc_context(SETTINGS):
        legend = 0.17 * math.ceil(len(curves) / 2)  # inches; two names a row
        height = (4.1 if square else 2.9) + legend
        figure = Figure(figsize=(4.6, height))
        # Room for the legend and the axis below, for the title above.
        bottom = (0.5 + legend) / height
        axes = figure.add_axes((0.13, bottom, 0.84, 1 - (0.84 + legend) / height))
        if diagonal:
            axes.plot((0, end), (0, end), color="#aaaaaa", linewidth=0.8)
        for n, curve in enumerate(curves):
            draw_curve(axes, curve, n)
        if square:
            limits = (-0.01 * end, 1.01 * end)
            axes.set(xlim=limits, ylim=limits)
        if log and has_positive(curves):
            scale_logarithmically(axes)
        if not square and has_whole_x(curves):
            count_along_x(axes, curves)
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        if curves:
            spacing = {"borderaxespad": 0.2, "handlelength": 2.8, "columnspacing": 1.2, "labelspacing": 0.3}
            figure.legend(loc="lower left", ncols=2, bbox_to_anchor=(0.1, 0.0), **spacing)
        return svg(figure)


def draw_curve(axes: Axes, curve: Curve, n: int) -> None:
    """The n-th curve of a panel; one of a single point would not be seen without a marker."""
    x, y = thin(*values_of(curve))
    marker = None
    if curve.dots or len(x) == 1:
        marker = MARKERS[n % len(MARKERS)]
    axes.plot(x, y, label=curve.name, linewidth=1.5, marker=marker, markersize=3.5, **style(n))


def has_positive(curves: Sequence[Curve]) -> bool:
    """A logarithmic axis has a place for something."""
    values = itertools.chain.from_iterable(curve.y for curve in curves)
    return any(value is not None and value > 0 for value in values)


def has_whole_x(curves: Sequence[Curve]) -> bool:
    """x counts something, epochs for instance: there is nothing between two of them."""
    values = itertools.chain.from_iterable(curve.x for curve in curves)
    return all(float(value).is_integer() for value in values)


def count_along_x(axes: Axes, curves: Sequence[Curve]) -> None:
    """Labels at whole numbers alone; a single one stands in the middle of its axis."""
    numbers = set(itertools.chain.from_iterable(curve.x for curve in curves))
    if len(numbers) == 1:
        # Matplotlib would label 0.95 to 1.05.
        (only,) = numbers
        axes.set(xlim=(only - 0.5, only + 0.5), xticks=[only], xticklabels=[f"{only:g}"])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def scale_logarithmically(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # So few decades that the axis would have one label or none: 2 and 5 get one, too.
    minor = "25" if high / low < 30 else ""
    # Plain numbers: matplotlib writes powers of ten as formulas, which are off.
    axes.yaxis.set_major_formatter(FuncFormatter(plain_label))
    axes.yaxis.set_minor_formatter(FuncFormatter(partial(digit_label, digits=minor)))


def plain_label(value: float, _position: int | None) -> str:
    return f"{value:g}"


def digit_label(value: float, _position: int | None, digits: str) -> str:
    """A label where the number begins with one of these digits."""
    first = f"{value:e}"[0]
    return f"{value:g}" if first in digits else ""


def intervals(
    title: str,
    xlabel: str,
    rows: Sequence[str],
    groups: dict[str, Sequence[Interval | None]],
    *,
    mark: float | None = None,
) -> bytes:
    """Dots with their intervals: one line a row, one colour and marker a group.

    Args:
        title, xlabel: what stands at it.
        rows: names, from the top.
        groups: name -> {"value", "low", "high"} or None, a row each.
        mark: an upright grey line there.
    """
    with matplotlib.rc_context(SETTINGS):
        legend = 0.3 if len(groups) > 1 else 0.0  # inches
        height = 0.95 + 0.32 * len(rows) + legend
        figure = Figure(figsize=(4.6, height))
        bottom = (0.5 + legend) / height
        axes = figure.add_axes((0.38, bottom, 0.58, 1 - (0.8 + legend) / height))
        for g, (name, values) in enumerate(groups.items()):
            # The groups of a row lie side by side around its line.
            shift = (g - (len(groups) - 1) / 2) * 0.2
            draw_intervals(axes, name, values, g, shift)
        if mark is not None:
            axes.axvline(mark, color="#777777", linewidth=1.0, zorder=0)
        axes.set(title="", xlabel=xlabel)
        axes.set(ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))  # downwards, as a table is read
        axes.set_yticklabels([short(row) for row in rows])
        axes.grid(False, axis="y")
        # Names of rows are wide: a title over the axes alone would leave the left half of the panel empty.
        figure.text(0.02, 1 - 0.18 / height, title, weight="bold", size=10, va="center")
        if legend:
            spacing = {"borderaxespad": 0.2, "handletextpad": 0.3}
            figure.legend(loc="lower left", ncols=len(groups), bbox_to_anchor=(0.1, 0.0), **spacing)
        return svg(figure)


def draw_intervals(axes: Axes, name: str, values: Sequence[Interval | None], group: int, shift: float) -> None:
    """One group: a dot a row that has a value, its interval where it has both ends."""
    xs, ys = [], []
    for n, v in enumerate(values):
        if not v or v.get("value") is None:
            continue
        y = n + shift
        xs.append(v["value"])
        ys.append(y)
        low, high = v.get("low"), v.get("high")
        if low is not None and high is not None:
            axes.plot((low, high), (y, y), color=PALETTE[group], linewidth=1.4)
    axes.plot(xs, ys, MARKERS[group], color=PALETTE[group], markersize=4.5, label=name)


def dots(title: str, xlabel: str, ylabel: str, groups: dict[str, Sequence[Dot]]) -> bytes:
    """Dots with upright intervals over a logarithmic x, one colour and marker a group, a grey dash at what chance has.

    A dot without a value, or at an x that a logarithmic axis has no place for, is left out.
    """
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(4.6, 3.4))
        axes = figure.add_axes((0.13, 0.24, 0.84, 0.64))
        axes.set_xscale("log")
        for g, (name, members) in enumerate(groups.items()):
            draw_dots(axes, name, members, g)
        # Decades alone: the counts themselves stand in a table.
        axes.xaxis.set_major_formatter(FuncFormatter(plain_label))
        axes.xaxis.set_minor_formatter(FuncFormatter(partial(digit_label, digits="")))
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(-0.02, 1.02))
        spacing = {"borderaxespad": 0.2, "handletextpad": 0.3, "columnspacing": 1.2}
        figure.legend(loc="lower left", ncols=len(groups), bbox_to_anchor=(0.1, 0.0), **spacing)
        return svg(figure)


def draw_dots(axes: Axes, name: str, members: Sequence[Dot], group: int) -> None:
    colour = PALETTE[group % len(PALETTE)]
    xs, ys = [], []
    for x, y, chance in members:
        if not y or y.get("value") is None or x <= 0:
            continue
        xs.append(float(x))
        ys.append(y["value"])
        low, high = y.get("low"), y.get("high")
        if low is not None and high is not None:
            axes.plot((x, x), (low, high), color=colour, linewidth=1.0, alpha=0.7)
        if chance is not None:
            axes.plot([x], [chance], "_", color="#999999", markersize=7)
    axes.plot(xs, ys, MARKERS[group % len(MARKERS)], color=colour, markersize=4.5, label=name, linestyle="none")


def thin(x: np.ndarray, y: np.ndarray, most: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most so many of the points of a curve, evenly along its length, ends included.

    Points without a value are kept as gaps.
    """
    kept = thin_places(x, y, most)
    return x[kept], y[kept]


def thin_places(x: np.ndarray, y: np.ndarray, most: int) -> np.ndarray:
    """Which points `thin` keeps, in their order."""
    # A ROC curve of 100,000 images would be megabytes of a page.
    if len(x) <= most:
        return np.arange(len(x))
    # Evenly along the curve and not along x, as a ROC curve of a rare finding is steep where it matters.
    last = len(x) - 1
    lengths = np.cumsum(steps(x) + steps(np.nan_to_num(y)))
    way = np.concatenate([[0.0], lengths])  # length of the curve up to each point
    wanted = np.linspace(0, way[-1], most - 1)
    nearest = np.searchsorted(way, wanted).clip(max=last)
    return np.unique(np.append(nearest, last))


def steps(values: np.ndarray) -> np.ndarray:
    """From each point to the next, as shares of the range."""
    span = max(np.ptp(values), 1e-12)
    return np.abs(np.diff(values)) / span


def small_multiples(
    names: Sequence[str],
    curves: Sequence[Curve],
    ticks: str,
    *,
    values: Sequence[str] | None = None,
    diagonal: bool = False,
) -> list[bytes]:
    """A small panel a curve over 0..1, the others behind it in grey.

    Args:
        names: above the panels.
        curves: one a panel.
        ticks: what the axes are, below each panel.
        values: behind the names.
        diagonal: y = x drawn in grey.
    """
    # Grey curves tell where the others are, not their steps: the page holds each of them once a panel.
    few = max(12, 600 // max(len(curves), 1))
    greys = [thin(*values_of(curve), most=few) for curve in curves]
    with matplotlib.rc_context(SETTINGS):
        titles = titles_of(names, values or [""] * len(names), 0.96 * 72 * SMALL)
    panels = []
    for n, curve in enumerate(curves):
        behind = greys[:n] + greys[n + 1 :]
        panels.append(small_panel(titles[n], curve, behind, ticks, diagonal, any("\n" in title for title in titles)))
    return panels


def small_panel(
    title: str,
    curve: Curve,
    behind: Sequence[tuple[np.ndarray, np.ndarray]],
    ticks: str,
    diagonal: bool,
    two_lines: bool,
) -> bytes:
    """One of the small multiples; `two_lines`: the title of one of them has two, so that all have the room."""
    with matplotlib.rc_context(SETTINGS):
        height = 2.38 if two_lines else 2.25
        figure = Figure(figsize=(SMALL, height))
        axes = figure.add_axes((0.15, 0.45 / height, 0.8, 1.53 / height))
        if diagonal:
            axes.plot((0, 1), (0, 1), color="#aaaaaa", linewidth=0.8)
        # One line for all of them, lifted between two.
        xs = [np.append(x, np.nan) for x, _ in behind]
        ys = [np.append(y, np.nan) for _, y in behind]
        if behind:
            axes.plot(np.concatenate(xs), np.concatenate(ys), color="#bbbbbb", linewidth=0.5, alpha=0.6)
        x, y = thin(*values_of(curve))
        marker = "o" if curve.dots else None
        axes.plot(x, y, color=PALETTE[0], linewidth=1.8, marker=marker, markersize=3)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.tick_params(labelsize=8, length=2, pad=2)
        axes.set_xticklabels(("0", ".5", "1"))
        axes.set_yticklabels(("0", ".5", "1"))
        axes.set_xlabel(ticks, fontsize=7.5, labelpad=2)
        # From the edge of the panel, not of its axes: there it is longer.
        figure.text(0.02, 2.04 / height, title, fontproperties=FONT, linespacing=1.1)
        return svg(figure)


def values_of(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a curve, NaN where there is no y."""
    y = np.array([np.nan if value is None else value for value in curve.y], dtype=float)
    return np.asarray(curve.x, dtype=float), y


def short(text: str, most: int = 23) -> str:
    """A name that fits into a legend."""
    return text if len(text) <= most else text[: most - 1] + "…"


def svg(figure: Figure) -> bytes:
    out = io.BytesIO()
    FigureCanvasSVG(figure)
    # Without a ground of its own a figure stands on that of the page.
    figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    return out.getvalue().replace(b"</style>", night_style().encode() + b"</style>", 1)


def night_style() -> str:
    """Rules that turn the colours of a figure where the page is dark; those of the palette stay apart for all eyes."""
    rules = "text { fill: #c9d1d9 !important }"
    for day, night in AT_NIGHT.items():
        for what in ("stroke", "fill"):
            rules += f'[style*="{what}: {day}"] {{ {what}: {night} !important }}'
    return f"@media (prefers-color-scheme: dark) {{ {rules} }}"
