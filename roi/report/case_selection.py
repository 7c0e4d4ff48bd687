"""Cases of the report: chosen by the scores alone, never by how their masks look, and drawn.

Letters: N images, K classes, H x W pixels of a picture.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, features
from scipy.stats import rankdata

from roi.data.boxes import Box
from roi.data.images import read_grey
from roi.labels import is_finding
from roi.scoring.map_file import REINIT, Maps
from roi.scoring.pictures import crop_picture, mask_picture, overlay_picture
from roi.scoring.predictions import Predictions

SIZE = 256  # pixels a side of a picture
MIDDLE = 0.1  # positives of median rank: within this share of the positives from their median
KINDS = {
    "best": "Best: positives of the highest rank",
    "typical": "Typical: positives of median rank",
    "worst": "Worst: positives of the lowest rank (false negatives)",
    "false": "False positives: negatives of the highest rank",
}
RULE = (
    "Chosen by the scores alone, never by how the masks look. An image's rank is the share of the images of known label with a lower or equal full-view "
    "probability of the finding. Best: positives of the highest rank; typical: positives between the 40th and the 60th percentile of the positives, those "
    "with a box of the finding first; worst: positives of the lowest rank; false positives: negatives of the highest rank. Within each kind the findings "
    "differ as long as there are enough; patients are never shown twice while others are left."
)


Queues = dict[
    str, list[tuple[float, float, int, float]]
]  # finding -> candidates in their order: two sorting keys, row, rank


@dataclass
class Case:
    kind: str  # of KINDS
    finding: str
    row: int  # of the predictions
    rank: float  # in 0..1 among the images of known label


def choose(
    prob: np.ndarray,
    target: np.ndarray,
    classes: Sequence[str],
    patients: Sequence[str],
    shown: np.ndarray,
    boxed: np.ndarray,
    count: int,
) -> list[Case]:
    """prob, target (N, K), NaN = unknown; shown (N,) bool: has a picture; boxed (N, K) bool: has a box of the finding -> `count` cases at most."""
    queues: dict[str, Queues] = {kind: {} for kind in KINDS}
    for k in np.flatnonzero(is_finding(classes)).tolist():
        known = np.flatnonzero(~np.isnan(target[:, k]))
        positive, negative = (np.flatnonzero(target[:, k] == v) for v in (1, 0))
        if not len(positive) or not len(negative):
            continue
        rank = np.full(len(prob), np.nan)
        rank[known] = rankdata(prob[known, k], method="max") / len(known)
        place = (rankdata(prob[positive, k]) - 0.5) / len(positive) - 0.5  # among the positives, 0 = median
        near = np.abs(place) <= max(MIDDLE, np.abs(place).min())
        for kind, rows, first, second in (
            ("best", positive, -rank[positive], 0.0 * place),
            ("typical", positive[near], -1.0 * boxed[positive[near], k], np.abs(place[near])),
            ("worst", positive, rank[positive], 0.0 * place),
            ("false", negative, -rank[negative], np.zeros(len(negative))),
        ):
            order = sorted(zip(first.tolist(), second.tolist(), rows.tolist(), strict=True))
            queues[kind][classes[k]] = [(a, b, n, float(rank[n])) for a, b, n in order if shown[n]]
    cases: list[Case] = []
    for n, kind in enumerate(KINDS):
        cases += pick(kind, queues[kind], patients, cases, count // len(KINDS) + (n < count % len(KINDS)))
    return cases


def pick(kind: str, queues: Queues, patients: Sequence[str], before: Sequence[Case], count: int) -> list[Case]:
    """Round after round, each finding once in a round, the most extreme candidate first; patients shown already only when no others are left."""
    cases: list[Case] = []
    seen, pairs = {patients[c.row] for c in before}, {(c.finding, c.row) for c in before}
    for again in (False, True):
        waiting: set[str] = set()
        while len(cases) < count:
            firsts = {}
            for finding in waiting or queues:
                free = (
                    c for c in queues[finding] if (finding, c[2]) not in pairs and (again or patients[c[2]] not in seen)
                )
                if (first := next(free, None)) is not None:
                    firsts[finding] = first
            if not firsts and not waiting:
                break
            if not firsts:
                waiting = set()  # the next round
                continue
            finding = min(firsts, key=lambda f: (firsts[f], f))
            _, _, row, rank = firsts[finding]
            cases.append(Case(kind, finding, row, rank))
            seen.add(patients[row])
            pairs.add((finding, row))
            waiting = set(firsts) - {finding}
    return cases


class Evidence:
    """Masks or maps of the images, by the names that the table gives them.

    Shown are the outline of what is kept, or, without a mask, a heat map.
    """

    def __init__(self, files: Sequence[Maps]) -> None:
        self.maps: Maps | None = None
        self.source = ""
        real = [(maps, source) for maps in files for source in maps.maps if not source.endswith(REINIT)]
        masks = [(maps, source) for maps, source in real if source in maps.kept]
        for maps, source in (masks or [(m, s) for m, s in real if s == "mask"] or real)[:1]:
            self.maps, self.source = maps, source
        self.place = {image: n for n, image in enumerate(self.maps.images)} if self.maps else {}
        # Beside a mask, which is a union, the finding's own map; Grad-CAM is a map of another method.
        self.own: tuple[Maps, str] | None = None
        for maps, source in real if masks else []:
            if self.own is None and maps.classes != [""] and source not in maps.kept and source != "cam":
                self.own = maps, source

    def own_heat(self, image: str, finding: str) -> np.ndarray | None:
        """(SIZE, SIZE) in 0..1, the finding's own map where there is one beside the mask."""
        if self.own is None:
            return None
        maps, source = self.own
        if image not in maps.images or finding not in maps.classes:
            return None
        return stretched(maps.maps[source][maps.images.index(image), maps.classes.index(finding)])

    def _row_class(self, image: str, finding: str) -> tuple[int, int] | None:
        if (
            self.maps is None
            or image not in self.place
            or (finding not in self.maps.classes and self.maps.classes != [""])
        ):
            return None
        return self.place[image], self.maps.classes.index(finding) if finding in self.maps.classes else 0

    def has(self, image: str, finding: str) -> bool:
        return self._row_class(image, finding) is not None

    def mask(self, image: str, finding: str) -> Image.Image | None:
        """Picture of SIZE x SIZE, 255 where kept; from the map (its highest cells) where the file holds no pixels of a mask."""
        found = self._row_class(image, finding)
        if found is None or self.maps is None:
            return None
        if self.source in self.maps.kept:
            return mask_picture(self.maps.kept[self.source][found], (SIZE, SIZE))
        if self.source != "mask":
            return None
        score = np.asarray(
            Image.fromarray(self.maps.maps[self.source][found]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        )
        best = np.argsort(-score.ravel(), kind="stable")[: max(1, round(self.maps.keep_ratio * score.size))]
        kept = np.zeros(score.size, dtype=np.uint8)
        kept[best] = 1
        return mask_picture(kept.reshape(score.shape), (SIZE, SIZE))

    def heat(self, image: str, finding: str) -> np.ndarray | None:
        """(SIZE, SIZE) in 0..1, the map stretched over its own range; None where there is a mask, or no map of the finding."""
        found = self._row_class(image, finding)
        if found is None or self.maps is None or self.source in self.maps.kept or self.source == "mask":
            return None
        return stretched(self.maps.maps[self.source][found])


def stretched(cells: np.ndarray) -> np.ndarray:
    """A map over its own range. (m, m) -> (SIZE, SIZE) in 0..1"""
    score = np.asarray(Image.fromarray(cells).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return (score - score.min()) / max(float(np.ptp(score)), 1e-12)


def heat_picture(grey: np.ndarray, heat: np.ndarray, boxes: Sequence[Box]) -> Image.Image:
    """The X-ray under a map in colours, the boxes on top. (SIZE, SIZE) each"""
    colour = matplotlib.colormaps["inferno"](heat)[:, :, :3] * 255  # (H, W, 3)
    share = (0.6 * heat)[:, :, None]
    blank = Image.fromarray(np.zeros((SIZE, SIZE), dtype=np.uint8))
    base = np.asarray(overlay_picture(grey, blank, boxes, []))
    lines = (base != grey[:, :, None]).any(axis=2)
    mixed = np.where(lines[:, :, None], base, (1 - share) * grey[:, :, None] + share * colour)
    return Image.fromarray(mixed.astype(np.uint8))


def draw(path: str, name: str, finding: str, evidence: Evidence, boxes: Sequence[Box]) -> list[tuple[bytes, str]]:
    """The X-ray with what is known of it, and the crop where there is a mask -> (picture, what it shows); boxes in 0..1."""
    grey = read_grey(path, SIZE)
    mask, heat = evidence.mask(name, finding), evidence.heat(name, finding)
    blank = Image.fromarray(np.zeros((SIZE, SIZE), dtype=np.uint8))
    if heat is not None:
        return [(encode(heat_picture(grey, heat, boxes)), f"X-ray with the {evidence.source} map of {finding} as heat")]
    own, pictures = evidence.own_heat(name, finding), []
    if own is not None:
        pictures = [(encode(heat_picture(grey, own, boxes)), f"X-ray with the model's own map of {finding} as heat")]
    what = ("X-ray" if mask is None else "X-ray with the outline of the mask") + (" and boxes" if boxes else "")
    pictures.append((encode(overlay_picture(grey, mask or blank, boxes, [])), what))
    # The crop shows no more than the outline does, so that it gives way to the finding's own map.
    if mask is not None and own is None:
        crop = encode(crop_picture(grey, mask))
        pictures.append((crop, "Crop: what the mask keeps, the rest in mean grey"))
    return pictures


def encode(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    if features.check("webp"):
        picture.save(out, format="WEBP", quality=80, method=4)
    else:
        picture.convert("RGB").save(out, format="JPEG", quality=82)
    return out.getvalue()


def caption(preds: Predictions, case: Case) -> dict[str, dict[str, float]]:
    """class -> part -> probability: the finding of the case, then the three most probable findings."""
    full = preds.prob["full"][case.row]
    first = sorted(np.flatnonzero(is_finding(preds.classes)).tolist(), key=lambda k: -full[k])[:3]
    chosen: dict[int, None] = dict.fromkeys([preds.classes.index(case.finding), *first])
    return {preds.classes[k]: {part: float(prob[case.row, k]) for part, prob in preds.prob.items()} for k in chosen}


def known_labels(row: Any) -> str:
    """Labels of a row of the table, for the caption."""
    text = str(row["labels"]).replace(",", ", ") or "none"
    return text + (f" (unknown: {str(row['unknown']).replace(',', ', ')})" if row["unknown"] else "")
