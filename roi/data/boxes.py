"""Boxes of findings: the published list of NIH, and any CSV like it."""

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from roi.data.table import AMBIGUOUS, match_images
from roi.data.text_table import numbers, read_text_table
from roi.errors import UserError
from roi.labels import LABELS, canonical

SIDES = ("x", "y", "w", "h")
Box = tuple[str, float, float, float, float]  # label, then SIDES in 0..1


def read_boxes(csv: str | Path, space: float = 1024.0, known: Collection[str] = LABELS) -> pd.DataFrame:
    """Read a list of boxes: NIH's BBox_List_2017.csv, or any CSV with columns image, label, x, y, w, h.

    Args:
        space: side of the square in whose pixels the boxes are, where the CSV has no columns width and height.
        known: the labels that may stand there, as they are spelled here or elsewhere (`Infiltrate` is Infiltration).

    Returns:
        (image, label, x, y, w, h): corner and size in 0..1 of the width and height of the image

    Raises:
        UserError: not such a file, an unknown label, a box without area or outside its image (by over a thousandth of
            it).
    """
    boxes, space = _read_columns(csv, space)
    for column in ("image", "label", *SIDES):
        if column not in boxes:
            raise UserError(f"{csv}: no column {column!r} (found {list(boxes)})")
    if boxes.empty:
        raise UserError(f"{csv}: it holds no box")
    for column in (*SIDES, "width", "height"):
        if column in boxes:
            boxes[column] = numbers(boxes[column], csv)
    boxes = boxes.reset_index(drop=True)
    boxes["image"] = boxes["image"].str.strip()
    spelling = {}
    for label in boxes["label"].unique():
        spelling[label] = canonical(label.strip(), known, str(csv))
    boxes["label"] = boxes["label"].map(spelling)
    for side, length in zip(SIDES, ("width", "height", "width", "height"), strict=True):
        boxes[side] = boxes[side] / boxes.get(length, space)
    _check_inside(boxes, csv)
    return boxes[["image", "label", *SIDES]]


def _read_columns(csv: str | Path, space: float) -> tuple[pd.DataFrame, float]:
    """The columns of a list as text, and the side of the square in whose pixels its boxes are."""
    try:
        with open(csv, encoding="utf-8-sig") as file:
            published = file.readline().startswith("Image Index,Finding Label")
        if not published:
            return read_text_table(csv), space
        # The header of NIH's list is malformed (`Bbox [x,y,w,h],,,`): its columns are read by place.
        boxes = pd.read_csv(
            csv,
            skiprows=1,
            header=None,
            usecols=range(6),
            names=["image", "label", *SIDES],
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
        )
        boxes.index += 2
        # Its boxes are in that space whatever the size of the PNG.
        return boxes, 1024.0
    except (OSError, ValueError) as error:
        message = str(error).removeprefix(f"{csv}: ")
        raise UserError(f"{csv}: not a list of boxes ({message})") from error


def _check_inside(boxes: pd.DataFrame, csv: str | Path) -> None:
    right = boxes["x"] + boxes["w"]
    bottom = boxes["y"] + boxes["h"]
    # A thousandth over the edge is a matter of rounding.
    wrong = (boxes["w"] <= 0) | (boxes["h"] <= 0)
    wrong |= (boxes["x"] < -0.001) | (boxes["y"] < -0.001)
    wrong |= (right > 1.001) | (bottom > 1.001)
    if wrong.any():
        image = boxes["image"][wrong].iloc[0]
        first = boxes.loc[wrong, list(SIDES)].iloc[0]
        x, y, w, h = first.round(3)
        raise UserError(
            f"{csv}: a box of {image} is not inside the image (x {x:g}, y {y:g}, w {w:g}, h {h:g} of its sides); "
            "which pixel space is it in? (--box_space)"
        )


def boxes_by_image(boxes: pd.DataFrame, images: Sequence[str]) -> tuple[dict[str, list[Box]], str]:
    """The boxes of each of `images` that has one, and a sentence on those that may be of several images, or ""."""
    place = match_images(boxes["image"], images)
    boxes_of: dict[str, list[Box]] = {}
    columns = [boxes[column] for column in ("label", *SIDES)]
    for n, label, *sides in zip(place.tolist(), *columns, strict=True):
        # Boxes of images that are not among these are nobody's loss: lists of boxes are of whole data sets.
        if n >= 0:
            boxes_of.setdefault(images[n], []).append((label, *sides))
    unclear = boxes["image"][place == AMBIGUOUS]
    if unclear.empty:
        return boxes_of, ""
    remark = (
        f"{len(unclear):,} boxes are left out, as their image may be any of several (the first is {unclear.iloc[0]}); "
        "name images by their folders, as the table does"
    )
    return boxes_of, remark
