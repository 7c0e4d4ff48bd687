"""Pictures of the first images of a table, beside its predictions.

Letters: K classes, m x m the cells of a map.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from roi import distributed
from roi.data.boxes import Box
from roi.errors import UserError
from roi.files import atomic_write
from roi.inference.grad_cam import GradCam
from roi.inference.image_files import read_xray
from roi.inference.predict import Outcome, Predictor
from roi.scoring.pictures import DROPPED, file_stems, save_cam, save_pictures

CamOfFile = Callable[[str], np.ndarray]  # path of an image -> (K, m, m) in 0..1


class PictureWriter:
    """Writes mask, crop and overlay of an image, or its Grad-CAM where the checkpoint has no mask.

    Args:
        folder: of the pictures.
        table: image, path, labels and contaminated of all rows that are predicted.
        count: pictures are made of the first so many rows.
        size: pixels a side.
        boxes: those of each image, as the table names it.
        cam: Grad-CAM of each class, where there is no mask.
        studies: what the picture of an image says of its study, of a model of studies.
        dropped: grey of what a crop leaves out.
    """

    def __init__(
        self,
        folder: str | Path,
        table: pd.DataFrame,
        count: int,
        size: int,
        boxes: Mapping[str, Sequence[Box]],
        cam: CamOfFile | None = None,
        studies: Mapping[str, dict[str, Any]] | None = None,
        dropped: int = DROPPED,
    ) -> None:
        self.target = Path(folder)
        self.table = table
        self.count = count
        self.size = size
        self.boxes, self.cam = boxes, cam
        self.studies = studies or {}
        self.dropped = dropped
        # Of the whole table, so that the name of a picture does not depend on how many are made.
        self.stems = file_stems(table["image"])

    def write(self, outcome: Outcome) -> None:
        """The pictures of an image, if it is among the first; `outcome.row` counts in the whole table."""
        n = outcome.row
        if n >= self.count:
            return
        row = self.table.iloc[n]
        path = row["path"]
        labels = row["labels"]
        record = outcome.record | self.studies.get(row["image"], {})
        grey = read_xray(path, self.size)
        stem = self.target / self.stems[n]
        boxes = self.boxes.get(row["image"], [])
        if self.cam is not None:
            save_cam(self.cam(path), stem, grey, record, labels, boxes)
        elif outcome.mask is not None:
            save_pictures(stem, grey, outcome.mask, record, labels, boxes, self.dropped)

    def close(self, predicted: Sequence[str]) -> None:
        """Say what was made, and list the pictures of images that were trained on.

        Args:
            predicted: the images of all processes, in order.
        """
        # Those that could not be read have none.
        made = len(set(self.table["image"].iloc[: self.count]) & set(predicted))
        print(f"{self.target}: pictures of {made:,} images")
        mark_images(self.target, self.table.iloc[: self.count], predicted)


def refuse_among_images(flag: str, folder: Path, table: pd.DataFrame) -> None:
    """UserError for a folder of pictures that holds the X-rays themselves, which --overwrite does not mean.

    An image x.png may have a neighbour x_mask.png, and the next run would take the pictures for X-rays.
    """
    holders = {os.path.realpath(os.path.dirname(path)) for path in table["path"]}
    if os.path.realpath(folder) in holders:
        raise UserError(f"{flag} {folder}: holds the X-rays; choose another folder")


def mark_images(folder: Path, table: pd.DataFrame, predicted: Sequence[str]) -> None:
    """List those images of a table that were predicted and trained on in CONTAMINATED.txt of their pictures' folder."""
    if distributed.rank() == 0:
        contaminated = set(table["image"][table["contaminated"]])
        mark_folder(folder, [image for image in predicted if image in contaminated])


def mark_folder(folder: Path, images: list[str]) -> None:
    """List images that were trained on in CONTAMINATED.txt: a mask or a crop has no room for words."""
    path = folder / "CONTAMINATED.txt"
    if not images:
        # That of an earlier run is no longer true.
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as file:
        file.write("The checkpoint was trained on these images or on other images of their patients:\n")
        file.writelines(f"{image}\n" for image in images)


def cam_of_files(predictor: Predictor, map_size: int) -> CamOfFile:
    """The function from the path of an image to Grad-CAM of each class, (K, m, m) in 0..1, m = `map_size`."""
    side = predictor.img_size
    cam = GradCam(predictor.model, side)

    def cam_of_file(path: str) -> np.ndarray:
        # A copy, for torch takes no array that nobody may write to.
        grey = torch.from_numpy(read_xray(path, side).copy())
        maps = cam(grey[None, None].to(predictor.device), map_size)[0]
        # The highest place of each map is shown as brightly as that of any other.
        highest = maps.amax((1, 2), keepdim=True)
        return (maps / highest.clamp_min(1e-30)).cpu().numpy()

    return cam_of_file
