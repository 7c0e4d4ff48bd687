"""VinDr-CXR and VinBigData: several readers an image, who say findings or draw their boxes.

Letters: N images, K = 14 findings, M rows of an annotation file.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from roi.data.boxes import SIDES
from roi.data.table import ABSENT as NO_SUCH_IMAGE
from roi.data.table import AMBIGUOUS, match_images
from roi.data.text_table import numbers, read_text_table
from roi.errors import UserError
from roi.files import atomic_write
from roi.labels import LABELS, normal_name
from roi.sources.label_states import ABSENT, LABEL_INDEX, NOT_LABELED, READERS_DISAGREE, mark_parent_only
from roi.sources.near_names import words_of
from roi.sources.reading import binary_column, find_file, map_unique, read_columns, reader_table

# Finding -> class. Mass and Nodule are one class there, and nobody looked for hernias.
VINDR_CLASSES = {label: label for label in LABELS if label not in ("Mass", "Nodule", "Hernia")} | {
    "Effusion": "Pleural effusion",
    "Pleural_Thickening": "Pleural thickening",
    "Fibrosis": "Pulmonary fibrosis",
}
VINDR_NEAR = words_of("vindr")
VINBIGDATA_CLASSES = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
NOTHING = "No finding"  # what a reader of VinBigData says who found nothing
VOTES = ("majority", "any", "fraction")
CORNERS = ["x_min", "y_min", "x_max", "y_max"]
MARKS = ("image_id", "class_name", *CORNERS)  # columns of the annotation files of both sets
BOXES = ("image", "label", *SIDES, "width", "height")  # columns that write_boxes gives


# Labels


def combine_votes(share: dict[str, np.ndarray], votes: str) -> tuple[np.ndarray, np.ndarray]:
    """Make one answer an image of the answers of its readers.

    Nodule/Mass and other neighbours, where present, leave their findings unknown.

    Args:
        share: class -> (N,) in [0, 1], how many of the readers say it; a class that nobody was asked about is not
        there. votes: majority: more than half of them decide; any: one of them; fraction: all or none, else the
        readers
            disagree and their share stands in the column `soft`.

    Returns:
        (N, K) codes, and (N,) texts of the column `soft`.
    """
    if votes not in VOTES:
        raise UserError(f"votes {votes!r} is none of {', '.join(VOTES)}")
    threshold = 0.5 if votes == "majority" else 0.0
    present = {name: part > threshold for name, part in share.items()}
    images = len(next(iter(share.values())))
    cells = np.full((images, len(LABELS)), NOT_LABELED, dtype=np.int8)
    soft = np.zeros(cells.shape)
    for label, name in VINDR_CLASSES.items():
        if name in share:
            divided = (votes == "fraction") & (share[name] > 0) & (share[name] < 1)
            cells[:, LABEL_INDEX[label]] = np.where(divided, READERS_DISAGREE, present[name])
            soft[:, LABEL_INDEX[label]] = np.where(divided, share[name], 0)
    # Absent, unless the class Nodule/Mass, one of the neighbours, leaves open which of the two it is.
    cells[:, [LABEL_INDEX["Mass"], LABEL_INDEX["Nodule"]]] = ABSENT
    for name, findings in VINDR_NEAR.items():
        if name in share:
            mark_parent_only(cells, present[name], findings, (ABSENT,))
    return cells, _soft_column(soft)


def _soft_column(soft: np.ndarray) -> np.ndarray:
    """(N, K) shares, 0 where there is none -> (N,) texts, 'Mass=0.333,Nodule=0.667'."""
    distinct, row = np.unique(soft.round(3), axis=0, return_inverse=True)
    texts = []
    for shares in distinct.tolist():
        named = zip(LABELS, shares, strict=True)
        texts.append(",".join(f"{label}={share:g}" for label, share in named if share))
    return np.array(texts, dtype=object)[row.ravel()]


def read_vindr(root: str | Path, votes: str = "majority") -> pd.DataFrame:
    """Read VinDr-CXR 1.0.0: annotations/image_labels_{train,test}.csv; images are train/<image_id>.png.

    Training images have three readers (`votes`), test images their consensus. Classes that may mean a finding leave it
    unknown (roi/sources/near_names.py). Hernia was never looked for. Each image is a patient of its own.
    """
    parts = []
    for split in ("train", "test"):
        csv = find_file(root, f"annotations/image_labels_{split}.csv", f"image_labels_{split}.csv")
        images, share = _read_image_labels(csv)
        cells, soft = combine_votes(share, votes)
        parts.append(_vin_table("vindr", split, split, images, cells, soft, csv))
    return pd.concat(parts, ignore_index=True)


def _read_image_labels(csv: Path) -> tuple[pd.Series, dict[str, np.ndarray]]:
    """The images of one file of VinDr-CXR, and the share of their readers who say each class."""
    classes = list(dict.fromkeys([*VINDR_CLASSES.values(), *VINDR_NEAR]))
    raw = read_columns(csv, ["image_id", *classes], ["rad_id"])
    # Of test images there is a consensus, in one row without a reader.
    twice = raw["image_id"][raw.duplicated(["image_id", "rad_id"])]
    if len(twice):
        raise UserError(f"{csv}: image {twice.iloc[0]!r} stands there twice with the same reader")
    code, names = pd.factorize(raw["image_id"])
    readers = np.bincount(code)
    share = {name: np.bincount(code, weights=binary_column(raw[name], csv)) / readers for name in classes}
    return pd.Series(names), share


def read_vinbigdata(root: str | Path, votes: str = "majority") -> pd.DataFrame:
    """Read VinBigData (Kaggle): train.csv, one row for each box of each reader; images are train/<image_id>.png.

    A reader says a finding who drew a box of it. Edema, Emphysema, Pneumonia and Hernia were never looked for;
    otherwise as read_vindr.
    """
    csv = find_file(root, "train.csv")
    raw = read_columns(csv, ["image_id", "class_name", "rad_id"])
    raw["class_name"] = map_unique(raw["class_name"], lambda name: NOTHING if normal_name(name) else name)
    unknown = Counter(raw["class_name"][~raw["class_name"].isin([*VINBIGDATA_CLASSES, NOTHING])])
    if unknown:
        listed = ", ".join(f"{name!r} in {count:,} rows" for name, count in unknown.most_common())
        raise UserError(f"{csv}: unknown classes: {listed}")
    code, names = pd.factorize(raw["image_id"])
    # Several boxes of one reader are one answer.
    answers = pd.DataFrame({"image": code, "reader": raw["rad_id"], "class": raw["class_name"]}).drop_duplicates()
    readers = np.bincount(answers.drop_duplicates(["image", "reader"])["image"])
    share = {}
    for name in VINBIGDATA_CLASSES:
        images = answers["image"][answers["class"] == name]
        share[name] = np.bincount(images, minlength=len(names)) / readers
    cells, soft = combine_votes(share, votes)
    return _vin_table("vinbigdata", "train", "", pd.Series(names), cells, soft, csv)


def _vin_table(
    name: str, folder: str, split: str, images: pd.Series, cells: np.ndarray, soft: np.ndarray, csv: Path
) -> pd.DataFrame:
    """What is the same in both sets; `images` (N,) are their names without folder and ending."""
    return reader_table(
        name,
        f"{folder}/" + images + ".png",
        cells,
        soft=soft,
        patient_id=f"{name}:" + images,
        view="PA",
        split=split,
        label_source=csv.name.removesuffix(".gz"),
    )


# Boxes, moved from the DICOM files to their PNG


def left_out(boxes_out: Path) -> Path:
    """The file that lists the boxes without a place in `boxes_out`."""
    return boxes_out.with_name(f"{boxes_out.stem}_left_out.csv")


def read_marks(csv: Path) -> pd.DataFrame:
    """Read annotations_{train,test}.csv of VinDr-CXR, or train.csv of VinBigData.

    Returns:
        (M rows) the columns MARKS, corners in pixels of the DICOM file, NaN for a reader who found nothing.

    Raises:
        UserError: not such a file.
    """
    if not csv.is_file():
        raise UserError(f"--boxes {csv}: no such file")
    try:
        # Where nothing was found the corners may be left out.
        marks = read_text_table(csv, may_be_short=True)
    except ValueError as error:
        raise UserError(f"--boxes {error}") from error
    missing = [column for column in MARKS if column not in marks]
    if missing:
        raise UserError(f"--boxes {csv}: no column {missing[0]!r} (found {list(marks)})")
    for column in CORNERS:
        # A reader who found nothing drew no box.
        marks[column] = numbers(marks[column], f"--boxes {csv}", blank=True)
    unnamed = (marks[["image_id", "class_name"]] == "").any(axis=1)
    if unnamed.any():
        line = marks.index[int(unnamed.argmax())]
        raise UserError(f"--boxes {csv}: line {line} has no image_id or no class_name")
    return marks[list(MARKS)].reset_index(drop=True)


def write_boxes(marks: pd.DataFrame, csv: Path, out: Path, facts: list[dict[str, Any]]) -> None:
    """Write the boxes of our findings in pixels of the PNG (columns BOXES), and print what became of the others.

    Boxes without a place among the PNG are listed in left_out(out).

    Args:
        marks: what read_marks gives.
        csv: where `marks` are from, for messages.
        out: the file to write.
        facts: a row for each PNG that is there (roi/sources/dicom/convert.py).

    Raises:
        UserError: none of the images is there.
    """
    nothing = [name for name in marks["class_name"].unique() if normal_name(name) is not None]
    drawn = marks[marks[CORNERS].notna().any(axis=1) & ~marks["class_name"].isin(nothing)]
    images = pd.DataFrame(facts, columns=["image", "rows", "columns", "width", "height"])
    # The lists name images without their ending, and perhaps without their folder.
    stems = [str(PurePosixPath(image).with_suffix("")) for image in images["image"]]
    named = marks["image_id"].unique()
    if (match_images(named, stems) == NO_SUCH_IMAGE).all():
        raise UserError(f"--boxes {csv}: none of its {len(named):,} images is among the PNG; is it of this set?")
    label = drawn["class_name"].map({name: label for label, name in VINDR_CLASSES.items()})
    boxes = _in_png_pixels(drawn[label.notna()].assign(label=label.dropna()), images, stems)
    kept, lost = boxes[boxes["why"] == ""], boxes[boxes["why"] != ""]
    with atomic_write(out) as file:
        kept[list(BOXES)].astype({"width": int, "height": int}).to_csv(file, index=False, lineterminator="\n")
    without_box = len(marks) - len(drawn)
    print(f"{out}: {len(kept):,} boxes of {kept['image'].nunique():,} images; {without_box:,} rows without a box")
    other_classes = drawn["class_name"][label.isna()]
    if len(other_classes):
        print(f"  classes without a twin among our findings: {_counts(other_classes)}")
    if lost.empty:
        left_out(out).unlink(missing_ok=True)  # of an earlier run: no longer true
        return
    with atomic_write(left_out(out)) as file:
        lost[[*MARKS, "why"]].to_csv(file, index=False, lineterminator="\n")
    print(f"  {len(lost):,} boxes left out, listed in {left_out(out)}: {_counts(lost['why'])}")


def _counts(words: pd.Series) -> str:
    return ", ".join(f"{word} {count:,}" for word, count in words.value_counts().items())


def _in_png_pixels(boxes: pd.DataFrame, images: pd.DataFrame, stems: Sequence[str]) -> pd.DataFrame:
    """Add to each box its image, the columns SIDES, and `why` it has no place ('' if it has one).

    Args:
        boxes: rows of read_marks with their `label`.
        images: a row for each PNG: image, rows and columns of the DICOM file, width and height of the PNG.
        stems: the names of the images without ending.
    """
    boxes = boxes.reset_index(drop=True)
    place = match_images(boxes["image_id"], stems)
    boxes = boxes.join(images.reindex(place).reset_index(drop=True))  # no row has a negative number
    rows, columns, width, height = (pd.to_numeric(boxes[c]) for c in ("rows", "columns", "width", "height"))
    left, top, right, bottom = (boxes[corner] for corner in CORNERS)
    # A box may leave its image by one pixel, which is cut off.
    outside = (left < -1) | (top < -1) | (right > columns + 1) | (bottom > rows + 1)
    left, right = left.clip(0, columns), right.clip(0, columns)
    top, bottom = top.clip(0, rows), bottom.clip(0, rows)
    across, down = width / columns, height / rows
    boxes["x"], boxes["w"] = left * across, (right - left) * across
    boxes["y"], boxes["h"] = top * down, (bottom - top) * down
    boxes[[*SIDES]] = boxes[[*SIDES]].round(3)
    reasons = {
        "no such PNG": place == NO_SUCH_IMAGE,
        "several PNG of this name": place == AMBIGUOUS,
        "leaves its image": outside,
        "no area": ~((boxes["w"] > 0) & (boxes["h"] > 0)),
    }
    boxes["why"] = np.select(list(reasons.values()), list(reasons), "")
    return boxes
