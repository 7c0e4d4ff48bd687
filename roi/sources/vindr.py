"""VinDr-CXR and VinBigData: several readers an image."""

from collections import Counter
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
from roi.sources.label_states import ABSENT, LABEL_INDEX, NOT_LABELED, READERS_DISAGREE, leave_unknown
from roi.sources.near_names import words_of
from roi.sources.reading import finished, flags, mapped, read_columns, source

VINDR = {label: label for label in LABELS if label not in ("Mass", "Nodule", "Hernia")} | {
    "Effusion": "Pleural effusion",
    "Pleural_Thickening": "Pleural thickening",
    "Fibrosis": "Pulmonary fibrosis",
}
VINDR_NEAR = words_of("vindr")
VINBIGDATA = (
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
    "No finding",
)
VOTES = ("majority", "any", "fraction")
CORNERS = ["x_min", "y_min", "x_max", "y_max"]
MARKS = ("image_id", "class_name", *CORNERS)  # columns of VinDr-CXR and VinBigData
BOXES = ("image", "label", *SIDES, "width", "height")  # columns that write_boxes gives


def voted(share: dict[str, np.ndarray], votes: str) -> tuple[np.ndarray, np.ndarray]:
    """Share of the readers who say each class, (N,) in [0, 1] -> ((N, K) cells, (N,) texts of the column `soft`).

    majority: more than half of them; any: one of them; fraction: all or none, else the readers are divided and the share stands in `soft`.
    A class that nobody was asked about is not in `share`. Nodule/Mass and other neighbours, where present, leave their
    findings unknown.
    """
    if votes not in VOTES:
        raise UserError(f"votes {votes!r} is none of {', '.join(VOTES)}")
    above = {theirs: part > 0.5 if votes == "majority" else part > 0 for theirs, part in share.items()}
    cells = np.full((len(next(iter(share.values()))), len(LABELS)), NOT_LABELED, dtype=np.int8)
    shown = np.zeros(cells.shape)
    for ours, theirs in VINDR.items():
        if theirs in share:
            part = share[theirs]
            divided = (votes == "fraction") & (part > 0) & (part < 1)
            cells[:, LABEL_INDEX[ours]] = np.where(divided, READERS_DISAGREE, above[theirs])
            shown[:, LABEL_INDEX[ours]] = np.where(divided, part, 0)
    cells[:, [LABEL_INDEX["Mass"], LABEL_INDEX["Nodule"]]] = ABSENT
    for theirs, findings in VINDR_NEAR.items():
        if theirs in share:
            leave_unknown(cells, above[theirs], findings, (ABSENT,))
    kinds, row = np.unique(shown.round(3), axis=0, return_inverse=True)
    texts = [
        ",".join(f"{label}={part:g}" for label, part in zip(LABELS, line, strict=True) if part)
        for line in kinds.tolist()
    ]
    return cells, np.array(texts, dtype=object)[row.ravel()]


def read_vindr(root: str | Path, votes: str = "majority") -> pd.DataFrame:
    """VinDr-CXR 1.0.0: annotations/image_labels_{train,test}.csv; images train/<image_id>.png beside the published .dicom.

    Training images have three readers (`votes`), test images their consensus. Classes that may mean a finding leave it
    unknown (roi/sources/near_names.py). Hernia was never looked for. Each image is a patient of its own.
    """
    parts = []
    for split in ("train", "test"):
        csv = source(root, f"annotations/image_labels_{split}.csv", f"image_labels_{split}.csv")
        classes = list(dict.fromkeys([*VINDR.values(), *VINDR_NEAR]))
        raw = read_columns(csv, ["image_id", *classes], ["rad_id"])
        code, names = pd.factorize(raw["image_id"])
        if raw["rad_id"].eq("").all() and len(names) < len(raw) or raw.duplicated(["image_id", "rad_id"]).any():
            twice = raw["image_id"][raw.duplicated(["image_id", "rad_id"])].iloc[0]
            raise UserError(f"{csv}: image {twice!r} stands there twice with the same reader")
        readers = np.bincount(code)
        share = {c: np.bincount(code, weights=flags(raw[c], csv)) / readers for c in classes}
        parts.append(_vin("vindr", split, pd.Series(names), share, votes, csv.name.removesuffix(".gz"), split))
    return pd.concat(parts, ignore_index=True)


def read_vinbigdata(root: str | Path, votes: str = "majority") -> pd.DataFrame:
    """VinBigData (Kaggle): train.csv, one row for each box of each reader; images train/<image_id>.png beside the published .dicom.

    A reader says a finding who drew a box of it. Edema, Emphysema, Pneumonia and Hernia were never looked for; otherwise as read_vindr.
    """
    csv = source(root, "train.csv")
    raw = read_columns(csv, ["image_id", "class_name", "rad_id"])
    raw["class_name"] = mapped(raw["class_name"], lambda name: "No finding" if normal_name(name) else name)
    other = Counter(raw["class_name"][~raw["class_name"].isin(VINBIGDATA)])
    if other:
        raise UserError(
            f"{csv}: unknown classes: "
            + ", ".join(f"{name!r} in {count:,} rows" for name, count in other.most_common())
        )
    code, names = pd.factorize(raw["image_id"])
    said = pd.DataFrame({"image": code, "reader": raw["rad_id"], "class": raw["class_name"]}).drop_duplicates()
    readers = np.bincount(said.drop_duplicates(["image", "reader"])["image"])
    share = {
        c: np.bincount(said["image"][said["class"] == c], minlength=len(names)) / readers
        for c in VINBIGDATA
        if c != "No finding"
    }
    return _vin("vinbigdata", "train", pd.Series(names), share, votes, csv.name.removesuffix(".gz"), "")


def _vin(
    name: str, folder: str, ids: pd.Series, share: dict[str, np.ndarray], votes: str, label_source: str, split: str
) -> pd.DataFrame:
    cells, soft = voted(share, votes)
    return finished(
        name,
        f"{folder}/" + ids + ".png",
        cells,
        soft=soft,
        patient_id=f"{name}:" + ids,
        view="PA",
        split=split,
        label_source=label_source,
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
    if (match_images(marks["image_id"].unique(), stems) == NO_SUCH_IMAGE).all():
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
        "no such PNG": place == NO_SUCH_IMAGE,
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
