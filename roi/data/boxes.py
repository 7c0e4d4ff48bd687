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
    """Boxes -> (image, label, x, y, w, h): corner and size in 0..1 of the width and height of the image.

    Either BBox_List_2017.csv, whose published header is malformed (`Bbox [x,y,w,h],,,`: columns are read by place) and whose
    boxes are in 1024 x 1024 space whatever the size of the PNG; or any CSV with columns image, label, x, y, w, h in pixels of
    a square of side `space`, or of columns width and height where it has them. `Infiltrate` is Infiltration; `known`: the labels that may stand there.

    UserError: not such a file, an unknown label, a box without area or outside its image (by over a thousandth of it).
    """
    try:
        with open(csv, encoding="utf-8-sig") as file:
            published = file.readline().startswith("Image Index,Finding Label")
        if published:
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
            space = 1024.0
        else:
            boxes = read_text_table(csv)
    except (OSError, ValueError) as error:
        raise UserError(f"{csv}: not a list of boxes ({str(error).removeprefix(f'{csv}: ')})") from error
    lacking = [c for c in ("image", "label", *SIDES) if c not in boxes]
    if lacking or boxes.empty:
        raise UserError(
            f"{csv}: " + (f"no column {lacking[0]!r} (found {list(boxes)})" if lacking else "it holds no box")
        )
    sides = [*SIDES, *(c for c in ("width", "height") if c in boxes)]
    for side in sides:
        boxes[side] = numbers(boxes[side], csv)
    boxes = boxes.reset_index(drop=True)
    boxes["image"] = boxes["image"].str.strip()
    spelling = {label: canonical(label.strip(), known, str(csv)) for label in boxes["label"].unique()}
    boxes["label"] = boxes["label"].map(spelling)
    width, height = (boxes.get(c, space) for c in ("width", "height"))
    boxes[["x", "w"]] = (
        boxes[["x", "w"]].div(width, axis=0) if isinstance(width, pd.Series) else boxes[["x", "w"]] / width
    )
    boxes[["y", "h"]] = (
        boxes[["y", "h"]].div(height, axis=0) if isinstance(height, pd.Series) else boxes[["y", "h"]] / height
    )
    right, bottom = boxes["x"] + boxes["w"], boxes["y"] + boxes["h"]
    wrong = (
        (boxes[["w", "h"]] <= 0).any(axis=1)
        | (boxes[["x", "y"]] < -0.001).any(axis=1)
        | (right > 1.001)
        | (bottom > 1.001)
    )
    if wrong.any():
        x, y, w, h = boxes.loc[wrong, list(SIDES)].iloc[0].round(3)
        raise UserError(
            f"{csv}: a box of {boxes['image'][wrong].iloc[0]} is not inside the image (x {x:g}, y {y:g}, w {w:g}, h {h:g} of its sides); "
            "which pixel space is it in? (--box_space)"
        )
    return boxes[["image", "label", *SIDES]]


def boxes_by_image(boxes: pd.DataFrame, images: Sequence[str]) -> tuple[dict[str, list[Box]], str]:
    """The boxes of each of `images` that has one, and a sentence on those that may be of several images, or "".

    Boxes of images that are not among these are nobody's loss: lists of boxes are of whole data sets.
    """
    place = match_images(boxes["image"], images)
    found: dict[str, list[Box]] = {}
    for n, label, *sides in zip(place.tolist(), *(boxes[c] for c in ("label", *SIDES)), strict=True):
        if n >= 0:
            found.setdefault(images[n], []).append((label, *sides))
    unclear = boxes["image"][place == AMBIGUOUS]
    if unclear.empty:
        return found, ""
    return found, (
        f"{len(unclear):,} boxes are left out, as their image may be any of several (the first is {unclear.iloc[0]}); "
        "name images by their folders, as the table does"
    )
