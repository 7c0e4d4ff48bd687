"""Overlays of --save_overlay: a page of pictures an image, beside its predictions.

Letters: K classes, m x n the cells of a map.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi.data.boxes import Box
from roi.errors import UserError
from roi.inference.image_files import read_xray
from roi.inference.pictures import overlay
from roi.inference.pictures.overlay import Case, ShownFinding
from roi.inference.pictures.picture_writer import CamOfFile, mark_images, refuse_among_images
from roi.inference.predict import Outcome
from roi.inference.thresholds import Thresholds
from roi.scoring.pictures import file_stems, save_png
from roi.text import counted

PNG = ".png"
# Keys of the origin of predictions -> what a page says then.
SYNTHETIC = {
    "synthetic": "SYNTHETIC: a drawn image, no X-ray",
    "trained_on_synthetic": "SYNTHETIC: the model has seen drawn images alone; this page says nothing about a patient",
}


def is_one_page(target: str | Path | None) -> bool:
    """Whether --save_overlay names a file, not a folder."""
    return Path(target or "").suffix.lower() == PNG


def refuse_one_of_the_images(target: Path, table: pd.DataFrame) -> None:
    """UserError for a page in the place of an X-ray."""
    if os.path.realpath(target) in map(os.path.realpath, table["path"]):
        raise UserError(f"--save_overlay {target}: is the X-ray itself; choose another name")


class OverlayWriter:
    """Writes a page of each of the first images: the X-ray, its mask, the maps of what is above its threshold.

    Args:
        target: folder of the pages, or the file of the only one (`.png`).
        table: image, path and contaminated of all rows that are predicted.
        count: pages are made of the first so many rows.
        longest: px of the longer side of an X-ray on its page; 0: as in its file.
        classes: (K,) names.
        thresholds: from which on a finding is shown.
        boxes: those of each image, as the table names it.
        cam: Grad-CAM of each class, where the model has no map of each.
    """

    def __init__(
        self,
        target: str | Path,
        table: pd.DataFrame,
        count: int,
        longest: int,
        classes: Sequence[str],
        thresholds: Thresholds,
        boxes: Mapping[str, Sequence[Box]],
        cam: CamOfFile | None = None,
    ) -> None:
        self.target = Path(target)
        if is_one_page(self.target) and len(table) > 1:
            raise UserError(
                f"--save_overlay {target}: is one picture, but there are {len(table):,} images; give a folder"
            )
        if is_one_page(target):
            refuse_one_of_the_images(self.target, table)
        else:
            refuse_among_images("--save_overlay", self.target, table)
        self.table = table
        self.count = count
        self.longest = longest
        self.classes = list(classes)
        self.thresholds = thresholds
        self.boxes = boxes
        self.cam = cam
        self.synthetic = ""
        # Of the whole table, so that the name of a picture does not depend on how many are made.
        self.stems = file_stems(table["image"])

    def mark(self, origin: Mapping[str, Any]) -> None:
        """Let each page say what the predictions of this origin must not be taken for."""
        self.synthetic = next((text for key, text in SYNTHETIC.items() if origin.get(key)), "")

    def write(self, outcome: Outcome) -> None:
        """The page of an image, if it is among the first; `outcome.row` counts in the whole table."""
        if outcome.row >= self.count:
            return
        case = self.case(outcome)
        save_png(overlay.page(case, self.longest), self.path_of(outcome.row), "overlay", case.contaminated)

    def path_of(self, row: int) -> Path:
        if is_one_page(self.target):
            return self.target
        return self.target / f"{self.stems[row]}_overlay{PNG}"

    def case(self, outcome: Outcome) -> Case:
        """What the page of an image shows."""
        row = self.table.iloc[outcome.row]
        # From the record: what is written beside the picture has these digits.
        of_class = outcome.record["prob_full"]
        prob = np.array([of_class[name] for name in self.classes])
        places = self.thresholds.above(prob)
        maps = outcome.maps
        # A gradient a class: for images without a finding it would be made in vain.
        if self.cam is not None and len(places):
            maps = self.cam(row["path"])
        findings = []
        for k in places.tolist():
            cells = None if maps is None else maps[k]
            findings.append(ShownFinding(self.classes[k], float(prob[k]), float(self.thresholds.values[k]), cells))
        return Case(
            image=row["image"],
            grey=read_xray(row["path"]),
            findings=findings,
            next_finding=self.nearest(prob),
            mask=outcome.mask,
            boxes=self.boxes.get(row["image"], []),
            map_name="map" if self.cam is None else "Grad-CAM",
            thresholds=self.thresholds.source,
            contaminated=bool(outcome.record.get("contaminated")),
            synthetic=self.synthetic,
        )

    def nearest(self, prob: np.ndarray) -> str:
        """In words: the most probable finding, and its threshold."""
        limits = self.thresholds.values
        if np.isnan(limits).all():
            return "the model knows no finding"
        # Normal, which has no threshold, may be more probable than all findings.
        k = int(np.argmax(np.where(np.isnan(limits), -1, prob)))
        return f"most probable: {self.classes[k]} {prob[k]:.2f}, shown from {limits[k]:.2f}"

    def close(self, predicted: Sequence[str]) -> None:
        """Say what was made, and list the pictures of images that were trained on.

        Args:
            predicted: the images of all processes, in order.
        """
        # Those that could not be read have none.
        made = len(set(self.table["image"].iloc[: self.count]) & set(predicted))
        print(f"{self.target}: overlays of {counted(made, 'image')}; findings are shown from: {self.thresholds.source}")
        if not is_one_page(self.target):
            mark_images(self.target, self.table.iloc[: self.count], predicted)
