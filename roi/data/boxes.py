"""Boxes of findings: the published list of NIH and any CSV like it; those of VinDr-CXR, moved from the DICOM files to their PNG."""

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from roi.data.table import ABSENT, AMBIGUOUS, match_images
from roi.data.text_table import numbers, read_text_table
from roi.errors import UserError
from roi.files import atomic_write
from roi.labels import LABELS, canonical, normal_name
from roi.sources.readers import VINDR

SIDES = ("x", "y", "w", "h")
BOXES = ("image", "label", *SIDES, "width", "height")  # columns that write_boxes gives
Box = tuple[str, float, float, float, float]  # label, then SIDES in 0..1
CORNERS = ["x_min", "y_min", "x_max", "y_max"]
MARKS = ("image_id", "class_name", *CORNERS)  # columns of VinDr-CXR and VinBigData


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


def left_out(boxes_out: Path) -> Path:
    return boxes_out.with_name(f"{boxes_out.stem}_left_out.csv")


def read_marks(csv: Path) -> pd.DataFrame:
    """-> the columns MARKS of annotations_{train,test}.csv or of VinBigData's train.csv. UserError: not such a file"""
    if not csv.is_file():
        raise UserError(f"--boxes {csv}: no such file")
    try:
        # Where nothing was found the corners may be left out.
        marks = read_text_table(csv, may_be_short=True)
    except ValueError as error:
        raise UserError(f"--boxes {error}") from error
    lacking = [column for column in MARKS if column not in marks]
    if lacking:
        raise UserError(f"--boxes {csv}: no column {lacking[0]!r} (found {list(marks)})")
    for column in CORNERS:
        # A reader who found nothing drew no box.
        marks[column] = numbers(marks[column], f"--boxes {csv}", blank=True)
    unnamed = (marks[["image_id", "class_name"]] == "").any(axis=1)
    if unnamed.any():
        raise UserError(f"--boxes {csv}: line {marks.index[int(unnamed.argmax())]} has no image_id or no class_name")
    return marks[list(MARKS)].reset_index(drop=True)


def write_boxes(marks: pd.DataFrame, csv: Path, out: Path, facts: list[dict[str, Any]]) -> None:
    """Boxes in pixels of the PNG (columns BOXES); what has no place among them is counted, and listed where it is no matter of classes.

    `csv`: where `marks` are from; `facts`: rows of the PNG that are there (roi/sources/dicom/convert.py). A box may leave its image by one pixel, which is cut off.
    UserError: none of the images is there.
    """
    nothing = marks["class_name"].map({name: normal_name(name) is not None for name in marks["class_name"].unique()})
    drawn = marks[marks[CORNERS].notna().any(axis=1) & ~nothing.astype(bool)]
    label = drawn["class_name"].map({theirs: ours for ours, theirs in VINDR.items()})
    images = pd.DataFrame(facts, columns=["image", "rows", "columns", "width", "height"])
    # The lists name images without their ending, and perhaps without their folder.
    stems = [str(PurePosixPath(image).with_suffix("")) for image in images["image"]]
    if (match_images(marks["image_id"].unique(), stems) == ABSENT).all():
        raise UserError(
            f"--boxes {csv}: none of its {marks['image_id'].nunique():,} images is among the PNG; is it of this set?"
        )
    boxes = drawn[label.notna()].reset_index(drop=True)
    boxes["label"] = label.dropna().to_numpy()
    place = match_images(boxes["image_id"], stems)
    boxes = boxes.join(images.reindex(place).reset_index(drop=True))  # no row has a negative number
    rows, columns, height, width = (pd.to_numeric(boxes[c]) for c in ("rows", "columns", "height", "width"))
    left, top, right, bottom = (boxes[c] for c in CORNERS)
    outside = (left < -1) | (top < -1) | (right > columns + 1) | (bottom > rows + 1)
    left, right, top, bottom = (
        side.clip(0, most) for side, most in ((left, columns), (right, columns), (top, rows), (bottom, rows))
    )
    across, down = width / columns, height / rows
    boxes["x"], boxes["y"], boxes["w"], boxes["h"] = (
        left * across,
        top * down,
        (right - left) * across,
        (bottom - top) * down,
    )
    boxes[[*SIDES]] = boxes[[*SIDES]].round(3)
    whys = {
        "no such PNG": place == ABSENT,
        "several PNG of this name": place == AMBIGUOUS,
        "leaves its image": outside,
        "no area": ~((boxes["w"] > 0) & (boxes["h"] > 0)),
    }
    boxes["why"] = np.select(list(whys.values()), list(whys), "")
    kept, lost = boxes[boxes["why"] == ""], boxes[boxes["why"] != ""]
    with atomic_write(out) as file:
        kept[list(BOXES)].astype({"width": int, "height": int}).to_csv(file, index=False, lineterminator="\n")
    print(
        f"{out}: {len(kept):,} boxes of {kept['image'].nunique():,} images; {len(marks) - len(drawn):,} rows without a box"
    )
    others = drawn["class_name"][label.isna()].value_counts()
    if len(others):
        print(
            "  classes without a twin among our findings: "
            + ", ".join(f"{name} {count:,}" for name, count in others.items())
        )
    if lost.empty:
        left_out(out).unlink(missing_ok=True)  # of an earlier run: no longer true
        return
    with atomic_write(left_out(out)) as file:
        lost[[*MARKS, "why"]].to_csv(file, index=False, lineterminator="\n")
    print(
        f"  {len(lost):,} boxes left out, listed in {left_out(out)}: "
        + ", ".join(f"{why} {count:,}" for why, count in lost["why"].value_counts().items())
    )
