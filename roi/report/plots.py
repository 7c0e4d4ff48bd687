"""Figures of the report as SVG bytes: the same data gives the same bytes. No global state of matplotlib stays changed.

Each figure is one panel, small enough to be read on a telephone; the page lays several side by side.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Okabe & Ito 2008, without the yellow that white paper swallows; told apart by line style too
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (5, 1.5, 1.2, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
POINTS = 300  # of a curve: more than a panel of this size can show
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


@dataclass
class Curve:
    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    dots: bool = False  # mark each point: few of them, or unevenly spaced


def style(n: int) -> dict[str, Any]:
    """Colour and dashes of the n-th curve: 28 pairs, and neighbours differ in both."""
    return {"color": PALETTE[n % len(PALETTE)], "linestyle": STYLES[n % len(STYLES)]}


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
    """One panel of curves with its legend below. `square`: both axes are 0..end; `diagonal`: y = x drawn in grey; `log`: logarithmic y."""
    with matplotlib.rc_context(SETTINGS):
        rows = math.ceil(len(curves) / 2)
        height = (4.1 if square else 2.9) + 0.17 * rows
        figure = Figure(figsize=(4.6, height))
        axes = figure.add_axes((0.13, (0.5 + 0.17 * rows) / height, 0.84, 1 - (0.84 + 0.17 * rows) / height))
        if diagonal:
            axes.plot((0, end), (0, end), color="#aaaaaa", linewidth=0.8)
        for n, curve in enumerate(curves):
            x, y = thin(
                np.asarray(curve.x, dtype=float), np.array([np.nan if v is None else v for v in curve.y], dtype=float)
            )
            marker = MARKERS[n % len(MARKERS)] if curve.dots or len(x) == 1 else None
            axes.plot(x, y, label=curve.name, linewidth=1.5, marker=marker, markersize=3.5, **style(n))
        if square:
            axes.set(xlim=(-0.01 * end, 1.01 * end), ylim=(-0.01 * end, 1.01 * end))
        if log and any(v is not None and v > 0 for curve in curves for v in curve.y):
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            few = high / low < 30  # so few decades that 2 and 5 need a label, too
            axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))  # plain: mathematical text is off
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if few and f"{v:e}"[0] in "25" else ""))
        if all(float(v).is_integer() for curve in curves for v in curve.x) and not square:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        if curves:
            figure.legend(
                loc="lower left",
                ncols=2,
                bbox_to_anchor=(0.1, 0.0),
                borderaxespad=0.2,
                handlelength=2.8,
                columnspacing=1.2,
                labelspacing=0.3,
            )
        return svg(figure)


def intervals(
    title: str,
    xlabel: str,
    rows: Sequence[str],
    groups: dict[str, Sequence[dict[str, Any] | None]],
    *,
    mark: float | None = None,
) -> bytes:
    """Dots with their intervals: one line a row, one colour and marker a group; groups: name -> {"value", "low", "high"} or None a row.

    `mark`: an upright grey line there.
    """
    with matplotlib.rc_context(SETTINGS):
        legend = len(groups) > 1
        height = 0.95 + 0.32 * len(rows) + 0.3 * legend
        figure = Figure(figsize=(4.6, height))
        axes = figure.add_axes((0.38, (0.5 + 0.3 * legend) / height, 0.58, 1 - (0.8 + 0.3 * legend) / height))
        for g, (name, values) in enumerate(groups.items()):
            shift = (g - (len(groups) - 1) / 2) * 0.2
            places = [(n + shift, v) for n, v in enumerate(values) if v and v.get("value") is not None]
            for y, v in places:
                if v.get("low") is not None and v.get("high") is not None:
                    axes.plot((v["low"], v["high"]), (y, y), color=PALETTE[g], linewidth=1.4)
            axes.plot(
                [v["value"] for _, v in places],
                [y for y, _ in places],
                MARKERS[g],
                color=PALETTE[g],
                markersize=4.5,
                label=name,
            )
        if mark is not None:
            axes.axvline(mark, color="#777777", linewidth=1.0, zorder=0)
        axes.set(title="", xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
        axes.set_yticklabels([short(r) for r in rows])
        axes.grid(False, axis="y")
        figure.text(0.02, 1 - 0.18 / height, title, weight="bold", size=10, va="center")
        if legend:
            figure.legend(
                loc="lower left", ncols=len(groups), bbox_to_anchor=(0.1, 0.0), borderaxespad=0.2, handletextpad=0.3
            )
        return svg(figure)


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS of the points of a curve, evenly along its length, ends included; points without a value are kept as gaps."""
    if len(x) <= POINTS:
        return x, y
    steps = np.abs(np.diff(x)) / max(np.ptp(x), 1e-12) + np.abs(np.diff(np.nan_to_num(y))) / max(
        np.ptp(np.nan_to_num(y)), 1e-12
    )
    way = np.concatenate([[0.0], np.cumsum(steps)])  # length of the curve up to each point
    kept = np.unique(
        np.append(np.searchsorted(way, np.linspace(0, way[-1], POINTS - 1)).clip(max=len(x) - 1), len(x) - 1)
    )
    return x[kept], y[kept]


def short(text: str, most: int = 23) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def svg(figure: Figure) -> bytes:
    out = io.BytesIO()
    FigureCanvasSVG(figure)
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
