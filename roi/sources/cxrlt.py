"""CXR-LT: more labels for the images of MIMIC-CXR, 0 or 1 in a column each."""

from pathlib import Path

import numpy as np
import pandas as pd

from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.chexpert import mimic_image_path
from roi.sources.label_states import ABSENT, LABEL_INDEX, PRESENT, mark_parent_only
from roi.sources.near_names import words_of
from roi.sources.reading import binary_column, find_file, read_columns, reader_table, split_of
from roi.sources.views import view_of

# Finding -> its column.
CXRLT_COLUMNS = {label: label for label in LABELS} | {
    "Effusion": "Pleural Effusion",
    "Pleural_Thickening": "Pleural Thickening",
}
# Columns of 2024 that are a kind of a finding -> the findings.
CXRLT_KINDS = {
    "Lobar Atelectasis": ("Atelectasis",),
    "Round(ed) Atelectasis": ("Atelectasis",),
    "Hydropneumothorax": ("Effusion", "Pneumothorax"),
}
# The sets of files that an edition may consist of, each with its split ('': the file has a column of it).
CXRLT_FILES = (
    (("labels.csv", ""),),
    (("train.csv", "train"), ("development.csv", "val"), ("test.csv", "test")),
    (("train_labeled.csv", "train"), ("development_labeled_task1.csv", "val"), ("test_labeled_task1.csv", "test")),
    (("train_labeled.csv", "train"), ("development_labeled_task2.csv", "val"), ("test_labeled_task2.csv", "test")),
)


def read_cxrlt(root: str | Path) -> pd.DataFrame:
    """Read CXR-LT 2023 (train.csv, development.csv, test.csv) or 2024 (labels.csv, or the tables of a task).

    Its images are MIMIC-CXR's: `image` is a path below that set and patients are mimic:*. 0 and 1 are as published; a 0
    beside a neighbour that is 1 (Lung Opacity, Granuloma …) is unknown.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of data")
    for folder in (root, root / "cxr-lt-2024", root / "cxr-lt-2023"):
        for files in CXRLT_FILES:
            if all(_is_there(folder / name) for name, _ in files):
                parts = [_read_cxrlt_csv(find_file(folder, name), split) for name, split in files]
                return pd.concat(parts, ignore_index=True)
    wanted = "; or ".join(", ".join(dict(files)) for files in CXRLT_FILES)
    raise UserError(f"{root}: no complete set of tables of CXR-LT is there (looked for {wanted})")


def _is_there(csv: Path) -> bool:
    return csv.is_file() or csv.with_name(f"{csv.name}.gz").is_file()


def _read_cxrlt_csv(csv: Path, split: str) -> pd.DataFrame:
    wanted = ["dicom_id", "subject_id", "study_id", *CXRLT_COLUMNS.values()]
    if not split:
        wanted.append("split")
    # Each edition has some of these.
    optional = [name for name in (*CXRLT_KINDS, *words_of("cxrlt")) if name not in wanted]
    raw = read_columns(csv, wanted, ["path", "fpath", "ViewPosition", *optional])
    subject = raw["subject_id"]
    study = raw["study_id"].str.removeprefix("s")
    patient = "mimic:" + subject
    path = path_of(raw)
    usual_path = mimic_image_path(subject, study, raw["dicom_id"])
    return reader_table(
        "cxrlt",
        path.where(path != "", usual_path),
        _cxrlt_cells(raw, csv),
        patient_id=patient,
        study_id=patient + ":" + study,
        view=view_of(raw["ViewPosition"]),
        split=split or split_of(raw["split"], csv),
        label_source=csv.name.removesuffix(".gz"),
    )


def path_of(raw: pd.DataFrame) -> pd.Series:
    """The path of each image, '' where the table has none: its column has another name in each edition."""
    path = raw["fpath"]
    return path.where(path != "", raw["path"])


def _cxrlt_cells(raw: pd.DataFrame, csv: Path) -> np.ndarray:
    """(N, 14) codes of N images; a column that this edition does not have is empty."""
    cells = np.zeros((len(raw), len(LABELS)), dtype=np.int8)
    for label, column in CXRLT_COLUMNS.items():
        is_present = binary_column(raw[column], csv)
        cells[:, LABEL_INDEX[label]] = np.where(is_present, PRESENT, ABSENT)
    for column, findings in CXRLT_KINDS.items():
        if (raw[column] != "").any():
            is_present = binary_column(raw[column], csv)
            for finding in findings:
                cells[is_present, LABEL_INDEX[finding]] = PRESENT
    # After the kinds of a finding: what is present by them is known.
    for column, findings in words_of("cxrlt").items():
        if (raw[column] != "").any():
            is_present = binary_column(raw[column], csv)
            mark_parent_only(cells, is_present, findings, (ABSENT,))
    return cells
