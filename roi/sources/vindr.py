"""VinDr-CXR and VinBigData: several readers an image, who say findings or draw their boxes.

Letters: N images, K = 14 findings, M rows of an annotation file.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from roi.choices import VOTES
from roi.data.boxes import SIDES
from roi.data.table import ABSENT as NO_SUCH_IMAGE
from roi.data.table import AMBIGUOUS, match_images
from roi.data.text_table import numbers, read_text_table
from roi.errors import UserError
from roi.files import atomic_write
from roi.labels import LABELS, normal_name
from roi.sources.label_states import ABSENT, LABEL_INDEX, NOT_LABELED, READERS_DISAGREE, label_indices, mark_parent_only
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
# What a reader of VinBigData says who found nothing.
NOTHING = "No finding"
CORNERS = ["x_min", "y_min", "x_max", "y_max"]
# Columns of the annotation files of both sets, and those that write_boxes gives.
MARKS = ("image_id", "class_name", *CORNERS)
BOXES = ("image", "label", *SIDES, "width", "height")


# Labels


def combine_votes(share: dict[str, np.ndarray], votes: str) -> tuple[np.ndarray, np.ndarray]:
    """Make one answer an image of the answers of its readers.

    Nodule/Mass and other neighbours, where present, leave their findings unknown.

    Args:
        share: class -> (N,) in [0, 1], how many of the readers say it; a class that nobody was asked about is not
            there.
        votes: majority: more than half of them decide; any: one of them; fraction: all or none, else the readers
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
    soft = np.zeros((images, len(LABELS)))
    for label, name in VINDR_CLASSES.items():
        if name not in share:
            continue
        column = LABEL_INDEX[label]
        part = share[name]
        divided = np.zeros(images, dtype=bool)
        if votes == "fraction":
            divided = (part > 0) & (part < 1)
        cells[:, column] = np.where(divided, READERS_DISAGREE, present[name])
        soft[:, column] = np.where(divided, part, 0)
    # Absent, unless the class Nodule/Mass, one of the neighbours, leaves open which of the two it is.
    cells[:, label_indices(("Mass", "Nodule"))] = ABSENT
    for name, findings in VINDR_NEAR.items():
        if name in share:
            mark_parent_only(cells, present[name], findings, (ABSENT,))
    return cells, _soft_column(soft)


def _soft_column(soft: np.ndarray) -> np.ndarray:
    """(N, K) shares, 0 where there is none -> (N,) texts, 'Mass=0.333,Nodule=0.667'."""
    # Readers are few, and so are the rows that differ: text is made once for each of these.
    distinct, row = np.unique(soft.round(3), axis=0, return_inverse=True)
    texts = []
    for shares in distinct.tolist():
        named = zip(LABELS, shares, strict=True)
        parts = [f"{label}={share:g}" for label, share in named if share]
        texts.append(",".join(parts))
    return np.array(texts, dtype=object)[row.ravel()]


def read_vindr(root: str | Path, votes: str = "majority") -> pd.DataFrame:
    """Read VinDr-CXR 1.0.0: annotations/image_labels_{train,test}.csv; images are train/<image_id>.png.

    Training images have three readers (`votes`), test images their consensus. Classes that may mean a finding leave it
    unknown (roi/sources/near_names.py). Hernia was never looked for. Each image is a patient of its own.
    """
    parts = []
    for split in ("train", "test"):
        name = f"image_labels_{split}.csv"
        csv = find_file(root, f"annotations/{name}", name)
        images, share = _read_image_labels(csv)
        cells, soft = combine_votes(share, votes)
        parts.append(_vin_table("vindr", split, split, images, cells, soft, csv))
    return pd.concat(parts, ignore_index=True)


def _read_image_labels(csv: Path) -> tuple[pd.Series, dict[str, np.ndarray]]:
    """The images of one file of VinDr-CXR, and the share of their readers who say each class."""
    classes = list(dict.fromkeys([*VINDR_CLASSES.values(), *VINDR_NEAR]))
    raw = read_columns(csv, ["image_id", *classes], ["rad_id"])
    # Of test images there is a consensus, in one row without a reader.
    is_twice = raw.duplicated(["image_id", "rad_id"])
    if is_twice.any():
        image = raw["image_id"][is_twice].iloc[0]
        raise UserError(f"{csv}: image {image!r} stands there twice with the same reader")
    image, names = pd.factorize(raw["image_id"])
    readers = np.bincount(image)
    share = {}
    for name in classes:
        is_present = binary_column(raw[name], csv)
        share[name] = np.bincount(image, weights=is_present) / readers
    return pd.Series(names), share


def read_vinbigdata(root: str | Path, votes: str = "majority") -> pd.DataFrame:
    """Read VinBigData (Kaggle): train.csv, one row for each box of each reader; images are train/<image_id>.png.

    A reader says a finding who drew a box of it. Edema, Emphysema, Pneumonia and Hernia were never looked for;
    otherwise as read_vindr.
    """
    csv = find_file(root, "train.csv")
    raw = read_columns(csv, ["image_id", "class_name", "rad_id"])
    image, names = pd.factorize(raw["image_id"])
    answers = pd.DataFrame({"image": image, "reader": raw["rad_id"]})
    answers["class"] = map_unique(raw["class_name"], lambda name: NOTHING if normal_name(name) else name)
    _refuse_unknown_classes(answers["class"], csv)
    # Several boxes of one reader are one answer; who found nothing is a reader, too.
    answers = answers.drop_duplicates()
    readers = np.bincount(answers.drop_duplicates(["image", "reader"])["image"])
    share = {}
    for name in VINBIGDATA_CLASSES:
        images = answers["image"][answers["class"] == name]
        share[name] = np.bincount(images, minlength=len(names)) / readers
    cells, soft = combine_votes(share, votes)
    # Its test images have no published labels, so it names no split.
    return _vin_table("vinbigdata", "train", "", pd.Series(names), cells, soft, csv)


def _refuse_unknown_classes(names: pd.Series, csv: Path) -> None:
    is_known = names.isin([*VINBIGDATA_CLASSES, NOTHING])
    unknown = Counter(names[~is_known])
    if unknown:
        counts = [f"{name!r} in {rows:,} rows" for name, rows in unknown.most_common()]
        raise UserError(f"{csv}: unknown classes: {', '.join(counts)}")


def _vin_table(
    name: str,
    folder: str,
    split: str,
    images: pd.Series,
    cells: np.ndarray,
    soft: np.ndarray,
    csv: Path,
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
    drawn = _drawn(marks)
    images = pd.DataFrame(facts, columns=["image", "rows", "columns", "width", "height"])
    # The lists name images without their ending, and perhaps without their folder.
    paths = [PurePosixPath(image) for image in images["image"]]
    stems = [str(path.with_suffix("")) for path in paths]
    named = marks["image_id"].unique()
    place = match_images(named, stems)
    if (place == NO_SUCH_IMAGE).all():
        raise UserError(f"--boxes {csv}: none of its {len(named):,} images is among the PNG; is it of this set?")
    findings = {name: label for label, name in VINDR_CLASSES.items()}
    drawn = drawn.assign(label=drawn["class_name"].map(findings))
    has_label = drawn["label"].notna()
    boxes = _in_png_pixels(drawn[has_label], images, stems)
    has_place = boxes["why"] == ""
    kept, lost = boxes[has_place], boxes[~has_place]
    with atomic_write(out) as file:
        table = kept[list(BOXES)].astype({"width": int, "height": int})
        table.to_csv(file, index=False, lineterminator="\n")
    with_box = kept["image"].nunique()
    without_box = len(marks) - len(drawn)
    print(f"{out}: {len(kept):,} boxes of {with_box:,} images; {without_box:,} rows without a box")
    if not has_label.all():
        counts = _counts(drawn["class_name"][~has_label])
        print(f"  classes without a twin among our findings: {counts}")
    _list_left_out(lost, left_out(out))


def _list_left_out(boxes: pd.DataFrame, side_file: Path) -> None:
    """Write the boxes without a place, each with its reason."""
    if boxes.empty:
        side_file.unlink(missing_ok=True)  # of an earlier run: no longer true
        return
    with atomic_write(side_file) as file:
        boxes[[*MARKS, "why"]].to_csv(file, index=False, lineterminator="\n")
    counts = _counts(boxes["why"])
    print(f"  {len(boxes):,} boxes left out, listed in {side_file}: {counts}")


def _drawn(marks: pd.DataFrame) -> pd.DataFrame:
    """The rows with a box; `No finding` is none, whatever its corners are."""
    names = marks["class_name"]
    nothing = [name for name in names.unique() if normal_name(name)]
    has_corners = marks[CORNERS].notna().any(axis=1)
    return marks[has_corners & ~names.isin(nothing)]


def _counts(words: pd.Series) -> str:
    parts = [f"{word} {rows:,}" for word, rows in words.value_counts().items()]
    return ", ".join(parts)


def _in_png_pixels(boxes: pd.DataFrame, images: pd.DataFrame, stems: Sequence[str]) -> pd.DataFrame:
    """Add to each box its image, the columns SIDES, and `why` it has no place ('' if it has one).

    Args:
        boxes: rows of read_marks with their `label`.
        images: a row for each PNG: image, rows and columns of the DICOM file, width and height of the PNG.
        stems: the names of the images without ending.
    """
    boxes = boxes.reset_index(drop=True)
    place = match_images(boxes["image_id"], stems)
    # A place below 0 is no row of the images: those boxes get NaN.
    boxes = boxes.join(images.reindex(place).reset_index(drop=True))
    boxes["x"], boxes["w"], outside_across = _on_axis(boxes, "x_min", "x_max", "columns", "width")
    boxes["y"], boxes["h"], outside_down = _on_axis(boxes, "y_min", "y_max", "rows", "height")
    boxes[[*SIDES]] = boxes[[*SIDES]].round(3)
    has_area = (boxes["w"] > 0) & (boxes["h"] > 0)
    reasons = {
        "no such PNG": place == NO_SUCH_IMAGE,
        "several PNG of this name": place == AMBIGUOUS,
        "leaves its image": outside_across | outside_down,
        "no area": ~has_area,
    }
    boxes["why"] = np.select(list(reasons.values()), list(reasons), "")
    return boxes


def _on_axis(
    boxes: pd.DataFrame,
    first: str,
    last: str,
    dicom_side: str,
    png_side: str,
) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Start and length of each box on one axis of the PNG, and whether it leaves the image there.

    Args:
        boxes: rows with both sides of their image.
        first: column of the lower corner, in pixels of the DICOM file.
        last: column of the upper corner.
        dicom_side: column of the side of the DICOM file.
        png_side: column of the side of the PNG.
    """
    side = pd.to_numeric(boxes[dicom_side])
    scale = pd.to_numeric(boxes[png_side]) / side
    # A box may leave its image by one pixel, which is cut off.
    outside = (boxes[first] < -1) | (boxes[last] > side + 1)
    start = boxes[first].clip(0, side)
    end = boxes[last].clip(0, side)
    return start * scale, (end - start) * scale, outside
