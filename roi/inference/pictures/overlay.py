"""A page of pictures of one X-ray: the outline of its mask, and the map of each finding above its threshold.

The X-ray keeps the shape that its file has; the square that the model sees is laid back over it.
Letters: H x W pixels of the X-ray, h x w those of a panel, S x S of the model's input, m x n the cells of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from roi.data.boxes import Box
from roi.scoring.pictures import ALARM, BLACK, BOX, CONTAMINATED, NEIGHBOURS, TEXT, TINT
from roi.text import printable

SHOWN = 5  # findings that have a panel; the others are named
SMALLEST = 384  # px of the longer side of a panel: below, its words have no room
HOTTEST = 0.55  # share of the colour where a map is highest
HEAT = (255, 214, 10)  # there; the tint is where it is lower
OUTLINE = (72, 202, 228)
QUIET = (178, 178, 178)
GAP = 8  # px between panels


class ShownFinding(NamedTuple):
    """A finding above its threshold."""

    name: str
    probability: float
    threshold: float
    cells: np.ndarray | None  # (m, n) its map, of which only the order counts


@dataclass(frozen=True)
class Case:
    """What a page shows."""

    image: str  # its name
    grey: np.ndarray  # (H, W) uint8
    findings: Sequence[ShownFinding]  # above their thresholds, most probable first
    next_finding: str  # in words, what comes nearest where no finding is above its threshold
    mask: np.ndarray | None  # (S, S) 0/1, the union
    boxes: Sequence[Box]
    map_name: str  # what the maps are: "map", "Grad-CAM"
    thresholds: str  # where they come from
    contaminated: bool
    synthetic: str = ""  # what is drawn, the image or all that the model has seen


def page(case: Case, longest: int) -> Image.Image:
    """The page.

    Args:
        longest: px of the longer side of a panel, which is the X-ray's own at most; 0: its own.
    """
    width, height = panel_size(case.grey.shape, longest)
    grey = np.asarray(Image.fromarray(case.grey).resize((width, height), Image.Resampling.BILINEAR))
    panels = [(_first_title(case), _outlined(grey, case))]
    for finding in case.findings[:SHOWN]:
        title = f"{finding.name}  {finding.probability:.2f}  (shown from {finding.threshold:.2f})"
        if finding.cells is not None:
            panels.append((title, _heated(grey, finding.cells)))
    for _, picture in panels:
        _draw_boxes(picture, case.boxes)
    return _laid_out(panels, _words(case), width, height)


def panel_size(shape: Sequence[int], longest: int) -> tuple[int, int]:
    """Width and height of a panel of an X-ray of (H, W), in its proportions."""
    longer = max(shape)
    wanted = max(SMALLEST, min(longer, longest or longer))
    height, width = (max(1, round(side * wanted / longer)) for side in shape)
    return width, height


# Words


def _first_title(case: Case) -> str:
    if case.mask is not None and case.findings:
        return "X-ray, outline: what the mask keeps"
    return "X-ray"


def _words(case: Case) -> list[tuple[str, tuple[int, int, int]]]:
    """The lines below the panels, each with its colour."""
    lines = [(case.image, TEXT)]
    if case.contaminated:
        lines.append((CONTAMINATED, ALARM))
    # A picture goes its own way: what the console said is not beside it.
    if case.synthetic:
        lines.append((case.synthetic, ALARM))
    if not case.findings:
        lines.append((f"no finding above its threshold ({case.next_finding})", TEXT))
    # A model of one mask for all classes has no map to show.
    unmapped = [finding for finding in case.findings[:SHOWN] if finding.cells is None]
    if unmapped:
        lines.append((f"above their thresholds: {_listed(unmapped)}", TEXT))
    more = case.findings[SHOWN:]
    if more:
        lines.append((f"also above their thresholds: {_listed(more)}", TEXT))
    notes = [f"thresholds: {case.thresholds}"]
    if any(finding.cells is not None for finding in case.findings):
        notes.append(f"each {case.map_name} over its own range, + at its highest place")
    lines.append(("; ".join(notes), QUIET))
    return lines


def _listed(findings: Sequence[ShownFinding]) -> str:
    return ", ".join(f"{finding.name} {finding.probability:.2f}" for finding in findings)


# Panels


def _outlined(grey: np.ndarray, case: Case) -> Image.Image:
    """The X-ray with the outline of what the mask keeps, where a finding is above its threshold."""
    colour = np.repeat(grey[:, :, None], 3, axis=2)
    # A mask always keeps its share of the pixels: without a finding these are edges of no meaning.
    if case.mask is not None and case.findings:
        height, width = grey.shape
        # Smooth, for its pixels are coarser than those of the X-ray.
        levels = Image.fromarray((case.mask > 0).astype(np.uint8) * 255)
        smooth = levels.resize((width, height), Image.Resampling.BILINEAR)
        kept = np.asarray(smooth) >= 128
        inside = kept
        for _ in range(_line_width(width, height)):
            inside = _eroded(inside)
        colour[kept & ~inside] = OUTLINE
    return Image.fromarray(colour)


def _eroded(kept: np.ndarray) -> np.ndarray:
    inside = kept.copy()
    for step, axis in NEIGHBOURS:
        inside &= np.roll(kept, step, axis)
    return inside


def _heated(grey: np.ndarray, cells: np.ndarray) -> Image.Image:
    """The X-ray under a map, which is clear up to its median and strongest at its highest place."""
    height, width = grey.shape
    # To the shape of the X-ray: cells are of the square that the model sees.
    enlarged = Image.fromarray(cells.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    score = np.asarray(enlarged)
    low = float(np.median(score))
    # A map that is the same everywhere has no range: it stays clear.
    span = max(float(score.max()) - low, 1e-12)
    heat = np.clip((score - low) / span, 0, 1)[:, :, None]
    tint = np.array(TINT, dtype=np.float32)
    colour = tint + heat * (np.array(HEAT, dtype=np.float32) - tint)
    # Squared: what is a little above the median hardly veils the X-ray.
    share = HOTTEST * heat**2
    mixed = (1 - share) * grey[:, :, None] + share * colour
    picture = Image.fromarray(mixed.astype(np.uint8))
    _draw_cross(picture, cells)
    return picture


def _draw_cross(picture: Image.Image, cells: np.ndarray) -> None:
    row, column = np.unravel_index(int(cells.argmax()), cells.shape)
    x = (column + 0.5) / cells.shape[1] * picture.width
    y = (row + 0.5) / cells.shape[0] * picture.height
    arm = max(picture.size) / 50
    draw = ImageDraw.Draw(picture)
    thin = _line_width(*picture.size)
    # Dark below light: it is seen on bone and on lung.
    for ink, line in ((BLACK, thin + 2), (TEXT, thin)):
        draw.line((x - arm, y, x + arm, y), fill=ink, width=line)
        draw.line((x, y - arm, x, y + arm), fill=ink, width=line)


def _draw_boxes(picture: Image.Image, boxes: Sequence[Box]) -> None:
    draw = ImageDraw.Draw(picture)
    size = _font_size(picture.width)
    font = ImageFont.load_default(size=size)
    for label, x, y, w, h in boxes:
        left, top = x * picture.width, y * picture.height
        corners = (left, top, left + w * picture.width, top + h * picture.height)
        draw.rectangle(corners, outline=BOX, width=_line_width(*picture.size))
        place = (left + 2, max(0, top - size - 3))
        draw.text(place, label, fill=BOX, font=font, stroke_width=1, stroke_fill=BLACK)


def _line_width(width: int, height: int) -> int:
    return max(2, round(max(width, height) / 400))


def _font_size(width: int) -> int:
    return max(12, round(width / 30))


# The page


def _laid_out(
    panels: Sequence[tuple[str, Image.Image]],
    words: Sequence[tuple[str, tuple[int, int, int]]],
    width: int,
    height: int,
) -> Image.Image:
    """Panels in rows, each below its title, and lines of words below all."""
    # Up to three beside each other, more in two rows: a page stays wider than high, as a screen is.
    columns = len(panels) if len(panels) <= 3 else (len(panels) + 1) // 2
    rows = -(-len(panels) // columns)
    size = _font_size(width)
    font = ImageFont.load_default(size=size)
    spacing = size + size // 3
    title_height = spacing + 4
    page_width = columns * width + (columns - 1) * GAP
    lines = []
    for text, ink in words:
        lines += [(part, ink) for part in wrapped(printable(text), font, page_width - 8)]
    grid_height = rows * (title_height + height) + (rows - 1) * GAP
    picture = Image.new("RGB", (page_width, grid_height + 6 + spacing * len(lines)), BLACK)
    draw = ImageDraw.Draw(picture)
    for n, (title, panel) in enumerate(panels):
        row, column = divmod(n, columns)
        left = column * (width + GAP)
        top = row * (title_height + height + GAP)
        fitted = _fitting_font(title, size, width - 8)
        draw.text((left + 4, top + 2), title, fill=TEXT, font=fitted)
        picture.paste(panel, (left, top + title_height))
    y = grid_height + 4
    for text, ink in lines:
        draw.text((4, y), text, fill=ink, font=font)
        y += spacing
    return picture


def _fitting_font(text: str, size: int, width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font in which a title has room on one line."""
    # Panels of a tall X-ray are narrow, and names of findings are long.
    length = ImageFont.load_default(size=size).getlength(text)
    return ImageFont.load_default(size=max(9.0, size * min(1.0, width / length)))


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines of a text that are no wider than `width` px; a word that is wider is cut."""
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = word
        while font.getlength(line) > width and len(line) > 1:
            fits = max(n for n in range(1, len(line)) if n == 1 or font.getlength(line[:n]) <= width)
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line]
