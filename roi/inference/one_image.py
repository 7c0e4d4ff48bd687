"""One image file: probabilities on the console, mask and crop at the size of the file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from roi.data.dataset import XrayDataset
from roi.inference.image_files import read_xray
from roi.inference.predict import Predictor, Target, save_predictions, say_contaminated
from roi.inference.predict_table import Pictures
from roi.scoring.pictures import crop_picture, dropped_grey, mask_picture, save_png
from roi.text import decimal


@dataclass(frozen=True)
class ImageOutputs:
    """Where the outputs go; None: not asked for."""

    predictions: Target | None
    mask: str | None
    crop: str | None


def predict_image(
    predictor: Predictor, table: pd.DataFrame, outputs: ImageOutputs, origin: dict[str, Any], pictures: Pictures | None
) -> None:
    """Predict one image.

    Args:
        table: one row, its image, path and contaminated.
        origin: where the predictions come from, for the file beside them.
        pictures: the overlay, where it was asked for.
    """
    # At its own size first: mask and crop are as large as the file.
    path = table["path"].iloc[0]
    grey = read_xray(path)
    dataset = XrayDataset([path], predictor.no_targets(1), predictor.img_size, read_xray)
    # A batch as a loader gives it, without the workers of one.
    batches = [dataset.collate([dataset[0]])]
    (outcome,) = predictor.outcomes(table, batches, None)
    print_record(outcome.record, predictor)
    if outcome.record.get("contaminated"):
        print("CONTAMINATED: the checkpoint was trained on this image or on another image of its patient")
    else:
        say_contaminated(0, 1, predictor.state)
    if outputs.predictions:
        save_predictions(outputs.predictions, iter([outcome.record]), origin)
    if outcome.mask is not None:
        dropped = dropped_grey(predictor.state["args"])
        save_mask(outcome.mask, grey, outputs, bool(outcome.record.get("contaminated")), dropped)
    if pictures:
        pictures.write(outcome)
        pictures.close([outcome.record["image"]])


def print_record(record: dict[str, Any], predictor: Predictor) -> None:
    """A line a finding with what is predicted of it, then the prediction sets."""
    parts = [key for key, values in record.items() if isinstance(values, dict)]
    for finding in predictor.classes:
        line = f"{finding:20s}"
        for part in parts:
            view = part.removeprefix("prob_")
            line += f"  {view} {decimal(record[part][finding], 3)}"
        print(line)
    if predictor.sets:
        for kind in ("set", "certain", "possible"):
            print(f"{kind:20s}  {', '.join(record[kind]) or '(empty)'}")


def save_mask(mask: np.ndarray, grey: np.ndarray, outputs: ImageOutputs, contaminated: bool, dropped: int) -> None:
    """The mask, and what it keeps of the image, at the size of the file.

    Args:
        mask: (S, S) 0/1, at the size of the input.
        grey: the image as the file has it.
        dropped: grey of what the crop leaves out.
    """
    height, width = grey.shape
    picture = mask_picture(mask, (width, height))
    crop = crop_picture(grey, picture, dropped)
    for path, image, kind in ((outputs.mask, picture, "mask"), (outputs.crop, crop, "crop")):
        if path:
            save_png(image, path, kind, contaminated)
            print(f"{path}: {image.width} x {image.height} pixels")
