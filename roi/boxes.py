"""Boxes of findings: the published list of NIH and any CSV like it."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from roi.labels import LABELS, canonical

SIDES = ("x", "y", "w", "h")


def read_boxes(csv: str | Path, space: float = 1024.0, known: Collection[str] = LABELS) -> pd.DataFrame:
    """Boxes -> (image, label, x, y, w, h): corner and size in 0..1 of the width and height of the image.

    Either BBox_List_2017.csv, whose published header is malformed (`Bbox [x,y,w,h],,,`: columns are read by place) and whose
    boxes are in 1024 x 1024 space whatever the size of the PNG; or any CSV with columns image, label, x, y, w, h in pixels of
    a square of side `space`, or of columns width and height where it has them. `Infiltrate` is Infiltration; `known`: the labels that may stand there.

    ValueError: not such a file, an unknown label, a box without area or outside its image (by over a thousandth of it).
    """
    try:
        with open(csv, encoding="utf-8-sig") as file:
            published = file.readline().startswith("Image Index,Finding Label")
        if published:
            boxes = pd.read_csv(csv, skiprows=1, header=None, usecols=range(6), names=["image", "label", *SIDES])
            space = 1024.0
        else:
            boxes = pd.read_csv(csv, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"{csv}: not a list of boxes ({error})") from error
    lacking = [c for c in ("image", "label", *SIDES) if c not in boxes]
    if lacking or boxes.empty:
        raise ValueError(f"{csv}: " + (f"no column {lacking[0]!r} (found {list(boxes)})" if lacking else "it holds no box"))
    sides = [*SIDES, *(c for c in ("width", "height") if c in boxes)]
    text = [c for c in sides if not pd.api.types.is_numeric_dtype(boxes[c]) or boxes[c].isna().any()]
    if text:
        raise ValueError(f"{csv}: column {text[0]!r} must hold a number in every row")
    boxes["image"] = boxes["image"].astype(str).str.strip()
    spelling = {label: canonical(str(label).strip(), known, str(csv)) for label in boxes["label"].unique()}
    boxes["label"] = boxes["label"].map(spelling)
    width, height = (boxes.get(c, space) for c in ("width", "height"))
    boxes[["x", "w"]] = boxes[["x", "w"]].div(width, axis=0) if isinstance(width, pd.Series) else boxes[["x", "w"]] / width
    boxes[["y", "h"]] = boxes[["y", "h"]].div(height, axis=0) if isinstance(height, pd.Series) else boxes[["y", "h"]] / height
    right, bottom = boxes["x"] + boxes["w"], boxes["y"] + boxes["h"]
    wrong = (boxes[["w", "h"]] <= 0).any(axis=1) | (boxes[["x", "y"]] < -0.001).any(axis=1) | (right > 1.001) | (bottom > 1.001)
    if wrong.any():
        x, y, w, h = boxes.loc[wrong, list(SIDES)].iloc[0].round(3)
        raise ValueError(
            f"{csv}: a box of {boxes['image'][wrong].iloc[0]} is not inside the image (x {x:g}, y {y:g}, w {w:g}, h {h:g} of its sides); "
            "which pixel space is it in? (--box_space)"
        )
    return boxes[["image", "label", *SIDES]]
