"""Pictures of a case: the X-ray with its boxes and with what the model looked at, and the labels beside it.

Letters: N images, C findings, H x W pixels of a picture, m x m cells of a map.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image, features

from roi.data.boxes import Box
from roi.data.images import read_grey
from roi.labels import is_finding
from roi.report.case_selection import Case
from roi.scoring.map_file import REINIT, Maps
from roi.scoring.pictures import DROPPED, crop_picture, mask_picture, overlay_picture
from roi.scoring.predictions import Predictions

SIZE = 256  # pixels a side of a picture


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
        # Beside a mask, which is a union, the finding's own map; Grad-CAM is a map of another method.
        if masks:
            for maps, source in candidates:
                if maps.classes != [""] and source not in maps.kept and source != "cam":
                    self.own = maps, source
                    break

    def own_heat(self, image: str, finding: str) -> np.ndarray | None:
        """The finding's own map where there is one beside the mask. (SIZE, SIZE) in 0..1"""
        if self.own is None:
            return None
        maps, source = self.own
        if image not in maps.images or finding not in maps.classes:
            return None
        row, column = maps.images.index(image), maps.classes.index(finding)
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


def heat_overlay(grey: np.ndarray, heat: np.ndarray, boxes: Sequence[Box]) -> Image.Image:
    """The X-ray under a map in colours, the boxes on top. (SIZE, SIZE) each"""
    colour = matplotlib.colormaps["inferno"](heat)
    colour = colour[:, :, :3] * 255  # (H, W, 3)
    share = (0.6 * heat)[:, :, None]  # (H, W, 1)
    layers = grey[:, :, None]
    blended = (1 - share) * layers + share * colour
    # Boxes and their names stay as they are: where the X-ray with boxes is not the X-ray.
    base = np.asarray(overlay_picture(grey, empty_mask(), boxes, []))
    is_line = (base != layers).any(axis=2, keepdims=True)
    mixed = np.where(is_line, base, blended)
    return Image.fromarray(mixed.astype(np.uint8))


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
        overlay = heat_overlay(grey, heat, boxes)
        return [encode(overlay, f"X-ray with the {evidence.source} map of {finding} as heat")]
    pictures = []
    own = evidence.own_heat(name, finding)
    mask = evidence.mask(name, finding)
    if own is not None:
        overlay = heat_overlay(grey, own, boxes)
        pictures.append(encode(overlay, f"X-ray with the model's own map of {finding} as heat"))
    alt = "X-ray" if mask is None else "X-ray with the outline of the mask"
    if boxes:
        alt += " and boxes"
    outline = overlay_picture(grey, mask or empty_mask(), boxes, [])
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
