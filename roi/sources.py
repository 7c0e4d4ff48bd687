"""One function a source data set: its published files -> a table (roi/table.py). How it looks stands in its docstring."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from roi.labels import LABELS, NORMAL, canonical
from roi.table import COLUMNS, listed

NIH_COLUMNS = {"Patient ID": "patient_id", "View Position": "view", "Patient Age": "age", "Patient Gender": "sex", "Follow-up #": "study_id"}
SIDES = ("x", "y", "w", "h")
OLDEST = 120  # years; ages above it in the 2017 file are typing errors


def read_nih(csv: str | Path, label_from: str = "Finding Labels") -> pd.DataFrame:
    """NIH ChestX-ray14, Data_Entry_2017.csv (comma at the end of its header) or Data_Entry_2017_v2020.csv -> table.

    Labels are split on '|', `No Finding` is no label (empty field). Impossible ages (over 120 years) become empty.
    `split` is train_val or test where the official lists lie beside the file. Any CSV with `Image Index` and a column of
    labels (`label_from`) is read; columns that it lacks stay empty. ValueError names a column that is not there.
    """
    csv = Path(csv)
    if not csv.is_file():
        raise ValueError(f"{csv}: no such file (--src_csv)")
    try:
        header = pd.read_csv(csv, nrows=0, dtype=str, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{csv}: not a CSV table ({str(error).strip()})") from error
    for column in ("Image Index", label_from):
        if column not in header:
            raise ValueError(f"{csv}: no column {column!r} (found {[c for c in map(str, header) if not c.startswith('Unnamed')]})")
    wanted = ["Image Index", label_from, *(c for c in NIH_COLUMNS if c in header and c != label_from)]
    raw = pd.read_csv(csv, usecols=wanted, dtype=str, keep_default_na=False, index_col=False, skipinitialspace=True, encoding="utf-8-sig")
    cut = raw["Image Index"][raw[label_from] == ""]
    if len(cut):
        raise ValueError(f"{csv}: {len(cut)} rows have no {label_from!r}, the first is {cut.iloc[0]!r}; normal ones say 'No Finding', so is the file cut off?")
    table = pd.DataFrame("", index=raw.index, columns=list(COLUMNS), dtype=str)
    table["image"] = raw["Image Index"]
    spelling = {field: ",".join(t for t in (part.strip() for part in field.split("|")) if t and t not in NORMAL) for field in raw[label_from].unique()}
    table["labels"] = raw[label_from].map(spelling)
    for theirs, ours in NIH_COLUMNS.items():
        if theirs in raw:
            table[ours] = raw[theirs]
    if "Patient ID" in raw:
        table["patient_id"] = ("nih:" + table["patient_id"]).where(table["patient_id"] != "", "")
        table["study_id"] = (table["patient_id"] + ":" + table["study_id"]) if "Follow-up #" in raw else ""
    age = pd.to_numeric(table["age"], errors="coerce")
    table["age"] = table["age"].where(age <= OLDEST, "")
    table["dataset"], table["label_source"] = "nih", csv.name
    for split in ("train_val", "test"):
        names = csv.with_name(f"{split}_list.txt")
        if names.is_file():
            table.loc[table["image"].isin(listed(names)), "split"] = split
    return table


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
