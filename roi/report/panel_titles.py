"""Titles of small panels: in as many lines as their panel has room for, shortened where that is not enough."""

from collections.abc import Sequence

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

FONT = FontProperties(family="DejaVu Sans", weight="bold", size=8)
LINES = 2


def titles_of(names: Sequence[str], values: Sequence[str], points: float) -> list[str]:
    """A title a panel, its name and its value, with line ends where it is broken.

    Args:
        names: of findings.
        values: what stands behind the name and is never cut, "" for nothing.
        points: how wide a line may be, 1/72 inch.
    """
    return [fitted(name, value, points) for name, value in zip(names, values, strict=True)]


def fitted(name: str, value: str, points: float) -> str:
    """One title; a name that needs more lines loses its end."""
    kept = name
    while True:
        lines = broken(f"{kept} {value}".split(), points)
        fits = len(lines) <= LINES and all(width_of(line) <= points for line in lines)
        if fits or len(kept) < 2:
            return "\n".join(lines)
        kept = kept.removesuffix("…")[:-1].rstrip() + "…"


def broken(words: Sequence[str], points: float) -> list[str]:
    """Lines of words, each as long as it may be."""
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer) <= points:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def width_of(text: str) -> float:
    """In points. The font of the page may be another: this one is wider than most."""
    return float(TextPath((0, 0), text, prop=FONT).get_extents().width)
