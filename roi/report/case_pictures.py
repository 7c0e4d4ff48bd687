"""Pictures of a case: the X-ray with its boxes and with what the model looked at, and the labels beside it.

Letters: N images, C findings, H x W pixels of a picture, m x m cells of a map.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from roi.data.boxes import Box
from roi.data.images import read_grey
from roi.labels import is_finding
from roi.report.case_selection import Case
from roi.report.source_names import source_name
from roi.scoring.map_file import REINIT, Maps
from roi.scoring.pictures import BLACK, BOX, DROPPED, crop_picture, mask_picture, overlay_picture
from roi.scoring.predictions import Predictions

SIZE = 400  # pixels a side of a picture: it is shown at half of them, and enlarged
LETTERS = 26  # pixels high, of the names of boxes: readable at half the size, too
OWN_MAP = "the finding's own map"
MOST_NAMES = 3  # of boxes
OTHER_BOX = (200, 206, 214)


def map_name(source: str, finding: str) -> str:
    """What the page calls the map of a finding: 'Grad-CAM of Mass'."""
    if source == "class_mask":
        return f"the model's own map of {finding}"
    return f"{source_name(source)} of {finding}"


class CasePicture(NamedTuple):
    data: bytes
    kind: str  # of image: webp or jpeg
    alt: str  # what it shows


class Evidence:
    """Masks or maps of the images, by the names that the table gives them.

    Shown are the outline of what is kept, or, without a mask, a heat map.
    """

    def __init__(self, files: Sequence[Maps], dropped: int = DROPPED) -> None:
        self.dropped = dropped  # grey of what a crop leaves out
        self.maps: Maps | None = None
        self.source = ""
        self.own: tuple[Maps, str] | None = None
        candidates = []
        for maps in files:
            candidates += [(maps, source) for source in maps.maps if not source.endswith(REINIT)]
        masks = [(maps, source) for maps, source in candidates if source in maps.kept]
        scored_masks = [(maps, source) for maps, source in candidates if source == "mask"]
        # Pixels of a mask before its map, of which the mask can be made again, and that before any other map.
        preferred = masks or scored_masks or candidates
        if preferred:
            self.maps, self.source = preferred[0]
        images = self.maps.images if self.maps else []
        self.place = {image: n for n, image in enumerate(images)}
        # Beside a mask, which is a union, a map of the finding: the model's own, else that of another method.
        if self.maps is not None and self.maps.classes == [""]:
            of_findings = [(maps, source) for maps, source in candidates if maps.classes != [""]]
            of_findings.sort(key=lambda candidate: candidate[1] == "cam")
            self.own = next(iter(of_findings), None)

    @property
    def own_name(self) -> str:
        """What the map beside the mask is called."""
        if self.own is None:
            return ""
        return source_name(self.own[1]) if self.own[1] == "cam" else OWN_MAP

    def own_heat(self, image: str, finding: str) -> np.ndarray | None:
        """The map of the finding where there is one beside the mask. (SIZE, SIZE) in 0..1"""
        if self.own is None:
            return None
        maps, source = self.own
        if image not in maps.images or finding not in maps.classes:
            return None
        row = maps.images.index(image)
        column = maps.classes.index(finding)
        return stretch(maps.maps[source][row, column])

    def _place_of(self, image: str, finding: str) -> tuple[int, int] | None:
        """Row and column of the map; one map may serve all findings."""
        if self.maps is None or image not in self.place:
            return None
        if self.maps.classes == [""]:
            return self.place[image], 0
        if finding not in self.maps.classes:
            return None
        return self.place[image], self.maps.classes.index(finding)

    def has(self, image: str, finding: str) -> bool:
        return self._place_of(image, finding) is not None

    def mask(self, image: str, finding: str) -> Image.Image | None:
        """Picture of SIZE x SIZE, 255 where kept; from the highest cells of its map where the file holds no pixels."""
        place = self._place_of(image, finding)
        if place is None or self.maps is None:
            return None
        if self.source in self.maps.kept:
            return mask_picture(self.maps.kept[self.source][place], (SIZE, SIZE))
        if self.source != "mask":
            return None
        cells = self.maps.maps[self.source][place]
        return mask_picture(highest(cells, self.maps.keep_ratio), (SIZE, SIZE))

    def heat(self, image: str, finding: str) -> np.ndarray | None:
        """The map over its own range; None where there is a mask, or no map of the finding. (SIZE, SIZE) in 0..1"""
        place = self._place_of(image, finding)
        if place is None or self.maps is None or self.source in self.maps.kept or self.source == "mask":
            return None
        return stretch(self.maps.maps[self.source][place])


# ---- drawing --------------------------------------------------------------------------------------------------------


def upsample(cells: np.ndarray) -> np.ndarray:
    """A map at the size of a picture. (m, m) -> (SIZE, SIZE)"""
    picture = Image.fromarray(cells)
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def stretch(cells: np.ndarray) -> np.ndarray:
    """A map over its own range. (m, m) -> (SIZE, SIZE) in 0..1"""
    score = upsample(cells)
    # A map that is the same everywhere has no range: it becomes 0.
    span = max(float(np.ptp(score)), 1e-12)
    return (score - score.min()) / span


def highest(cells: np.ndarray, keep_ratio: float) -> np.ndarray:
    """The share of the pixels where a map is highest. (m, m) -> (SIZE, SIZE) of 0 and 1"""
    score = upsample(cells)
    count = max(1, round(keep_ratio * score.size))
    best = np.argsort(-score.ravel(), kind="stable")
    kept = np.zeros(score.size, dtype=np.uint8)
    kept[best[:count]] = 1
    return kept.reshape(score.shape)


def heat_overlay(grey: np.ndarray, heat: np.ndarray) -> Image.Image:
    """The X-ray under a map in colours. (SIZE, SIZE) each"""
    colour = matplotlib.colormaps["inferno"](heat)
    colour = colour[:, :, :3] * 255  # (H, W, 3)
    share = (0.6 * heat)[:, :, None]  # (H, W, 1)
    layers = grey[:, :, None]
    blended = (1 - share) * layers + share * colour
    return Image.fromarray(blended.astype(np.uint8))


def add_boxes(picture: Image.Image, boxes: Sequence[Box], finding: str) -> Image.Image:
    """Boxes in 0..1 with their names on black; that of the finding stands out, on top of the others."""
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=LETTERS)
    # The finding's own boxes last, and all names on top of all lines.
    ordered = sorted(boxes, key=lambda box: box[0] == finding)
    for label, x, y, w, h in ordered:
        colour = BOX if label == finding else OTHER_BOX
        width = 4 if label == finding else 2
        corners = (x * SIZE, y * SIZE, (x + w) * SIZE, (y + h) * SIZE)
        draw.rectangle(corners, outline=colour, width=width)
    taken: list[tuple[float, float, float, float]] = []
    for label, x, y, _, _ in ordered:
        # The names of many boxes would hide what they are about.
        if label != finding and len(boxes) > MOST_NAMES:
            continue
        extent = draw.textbbox((0, 0), label, font=font)
        place = free_place(extent, x * SIZE, y * SIZE, taken)
        taken.append(place)
        draw.rectangle(place, fill=BLACK)
        ink = BOX if label == finding else OTHER_BOX
        start = (place[0] + 3, place[1] + 3)
        draw.text(start, label, fill=ink, font=font, anchor="lt")
    return picture


def free_place(
    extent: tuple[float, float, float, float],
    left: float,
    top: float,
    taken: Sequence[tuple[float, ...]],
) -> tuple[float, float, float, float]:
    """Where a name fits: above its box, inside the picture, below names that are there already."""
    width = extent[2] - extent[0] + 6
    height = extent[3] - extent[1] + 6
    x = max(0.0, min(left, SIZE - width))
    y = max(0.0, top - height)
    # Each round leaves one name behind.
    for _ in taken:
        for x0, y0, x1, y1 in taken:
            if x < x1 and x0 < x + width and y < y1 and y0 < y + height:
                y = y1
    return x, y, x + width, min(y + height, SIZE)


def empty_mask() -> Image.Image:
    return Image.fromarray(np.zeros((SIZE, SIZE), dtype=np.uint8))


def draw(path: str, name: str, finding: str, evidence: Evidence, boxes: Sequence[Box]) -> list[CasePicture]:
    """The X-ray with what is known of it, and the crop where there is a mask; boxes in 0..1.

    Args:
        path: the image file.
        name: of the image, as in the table.
        finding: whose map is shown.
        evidence: where a mask or map of it may be.
        boxes: of the image.
    """
    grey = read_grey(path, SIZE)
    heat = evidence.heat(name, finding)
    # Without a mask there is no outline and no crop.
    if heat is not None:
        overlay = add_boxes(heat_overlay(grey, heat), boxes, finding)
        return [encode(overlay, f"X-ray with {map_name(evidence.source, finding)} as heat")]
    pictures = []
    own = evidence.own_heat(name, finding)
    mask = evidence.mask(name, finding)
    if own is not None:
        overlay = add_boxes(heat_overlay(grey, own), boxes, finding)
        whose = map_name(evidence.own[1], finding) if evidence.own else ""
        pictures.append(encode(overlay, f"X-ray with {whose} as heat"))
    alt = "X-ray" if mask is None else "X-ray with the outline of the mask"
    if boxes:
        alt += " and boxes"
    outline = add_boxes(overlay_picture(grey, mask or empty_mask(), [], []), boxes, finding)
    pictures.append(encode(outline, alt))
    # The crop shows no more than the outline does, so that it gives way to the finding's own map.
    if mask is not None and own is None:
        pictures.append(
            encode(crop_picture(grey, mask, evidence.dropped), "Crop: what the mask keeps, the rest in mean grey")
        )
    return pictures


def encode(picture: Image.Image, alt: str) -> CasePicture:
    """The page holds every picture inside itself, so the smaller WebP is taken where this Pillow has it."""
    out = io.BytesIO()
    if features.check("webp"):
        picture.save(out, format="WEBP", quality=80, method=4)
        return CasePicture(out.getvalue(), "webp", alt)
    picture.convert("RGB").save(out, format="JPEG", quality=82)
    return CasePicture(out.getvalue(), "jpeg", alt)


# ---- what stands beside a picture -----------------------------------------------------------------------------------


def probabilities(preds: Predictions, case: Case) -> dict[str, dict[str, float]]:
    """Class -> view -> probability: the finding of the case, then the three most probable findings."""
    # By the full view, as ranks are; the other views stand beside it.
    full = preds.prob["full"][case.row]
    findings = np.flatnonzero(is_finding(preds.classes))
    order = np.argsort(-full[findings], kind="stable")
    most_probable = findings[order][:3].tolist()
    own = preds.classes.index(case.finding)
    values = {}
    for k in dict.fromkeys([own, *most_probable]):
        by_view = {view: float(prob[case.row, k]) for view, prob in preds.prob.items()}
        values[preds.classes[k]] = by_view
    return values


def label_text(row: Any) -> str:
    """Labels of a row of the table, for the caption."""
    text = str(row["labels"]).replace(",", ", ") or "none"
    if row["unknown"]:
        unknown = str(row["unknown"]).replace(",", ", ")
        text += f" (unknown: {unknown})"
    return text
