"""CXR-LT in its own label space: 26 to 45 labels of an edition, each a class by the name of its column.

Unlike roi/sources/cxrlt.py, which gives the 14 findings of the union, nothing is merged or left in doubt here: 0 and 1
are as published, and Normal is a class that may stand beside Support Devices.

Letters: N images, K classes of the edition.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from roi.cxrlt_labels import CXRLT_CLASSES
from roi.data.table import COLUMNS
from roi.data.text_table import UNNAMED
from roi.errors import UserError
from roi.files import contents
from roi.labels import published_name
from roi.sources.chexpert import mimic_image_path
from roi.sources.cxrlt import path_of
from roi.sources.cxrlt_editions import EDITIONS, Edition, EditionTable
from roi.sources.padchest import PADCHEST_CSV
from roi.sources.reading import BINARY, binary_column, find_file, read_columns, split_of, without_leading_zeros
from roi.sources.views import view_of

MIMIC_IDS = ("dicom_id", "subject_id", "study_id")
PADCHEST_IDS = ("ImageID", "PatientID")
# Columns of one edition or another.
DETAILS = ("ViewPosition", "path", "fpath", "split")
# What is no label, though it may be of 0 and 1.
METADATA = (*MIMIC_IDS, *PADCHEST_IDS, *DETAILS, "ViewCodeSequence_CodeMeaning", "StudyDate_DICOM")
# Of 2026: images that the organisers took back.
REMOVED = ("corrupted_images.csv", "Removal.csv")
# NIH's images among PadChest's.
NIH_NAME = re.compile(r"(\d{8})_\d{3}\.png")
# A number that a spreadsheet has rounded: of 36 digits a handful is left.
ROUNDED = re.compile(r"\d*\.?\d+[eE]\+?\d+|\d+\.\d+")


@dataclass(frozen=True)
class EditionPart:
    """A file of an edition as it was read."""

    raw: pd.DataFrame
    present: np.ndarray  # (N, K) bool
    unknown: list[str]  # classes of which it says nothing
    csv: Path
    split: str  # '': in its column of that name


def read_native(folder: Path, data_root: Path, edition: str) -> pd.DataFrame:
    """Read an edition.

    Args:
        folder: the tables of the challenge, or one above them.
        data_root: of 2026 the folder that holds padchest/, whose own table says where its images are.
        edition: one of EDITIONS.

    Returns:
        a table of COLUMNS; `image` is a path below the folder of the set that `dataset` names (cxrlt: MIMIC-CXR).

    Raises:
        UserError: files or columns are missing, a column is a label of no edition, an image stands there twice.
    """
    classes = EDITIONS[edition].classes
    tables = []
    for csv, table in _find_tables(folder, edition):
        part = _read_part(csv, table, EDITIONS[edition])
        rows = _padchest_rows(part, data_root) if edition == "2026" else _mimic_rows(part)
        rows["labels"] = label_text(part.present, classes)
        rows["unknown"] = ",".join(part.unknown)
        rows["split"] = part.split or split_of(part.raw["split"], csv)
        rows["label_source"] = csv.name.removesuffix(".gz")
        tables.append(rows)
    merged = pd.concat(tables, ignore_index=True)
    twice = merged["image"][merged["image"].duplicated()].tolist()
    if twice:
        count = f"{len(twice):,} images are listed twice"
        raise UserError(f"{folder}: {count}, the first is {twice[0]!r}; one row an image")
    return merged.reindex(columns=list(COLUMNS), fill_value="")


def label_text(present: np.ndarray, classes: list[str]) -> np.ndarray:
    """The field `labels` of each image. (N, K) bool -> (N,)"""
    # The 258,871 images of 2024 have some 50,000 different sets of labels.
    kinds, code = np.unique(np.packbits(present, axis=1), axis=0, return_inverse=True)
    patterns = np.unpackbits(kinds, axis=1, count=len(classes)).astype(bool)
    names = np.array(classes, dtype=object)
    texts = [",".join(names[pattern]) for pattern in patterns]
    return np.array(texts, dtype=object)[code.ravel()]


# ---- files ----------------------------------------------------------------------------------------------------------


def _find_tables(folder: Path, edition: str) -> list[tuple[Path, EditionTable]]:
    """The first complete set of files of an edition."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of data")
    wanted = []
    for tables in EDITIONS[edition].file_sets:
        for root in (folder, folder / "cxr-lt-2024", folder / "cxr-lt-2023"):
            files = [_first_file(root, table.names) for table in tables]
            complete = [(csv, table) for csv, table in zip(files, tables, strict=True) if csv is not None]
            if len(complete) == len(tables):
                return complete
        wanted.append(", ".join(table.names[0] for table in tables))
    raise UserError(
        f"{folder}: no complete set of tables of CXR-LT {edition} is there (looked for {'; or '.join(wanted)}); "
        f"it holds {contents(folder)}"
    )


def _first_file(root: Path, names: tuple[str, ...]) -> Path | None:
    for name in names:
        for csv in (root / name, root / f"{name}.gz"):
            if csv.is_file():
                return csv
    return None


def _read_part(csv: Path, table: EditionTable, edition: Edition) -> EditionPart:
    """Read one file; its labels are found by the names of their columns, in whatever order."""
    column_of = _label_columns(csv)
    missing = [label for label in table.labels if published_name(label) not in column_of]
    if missing:
        count = f"{len(missing)} of {len(table.labels)} labels are missing"
        raise UserError(f"{csv}: no column {missing[0]!r} ({count})")
    of_edition = edition.classes
    unknown = [name for name in of_edition if name not in column_of]
    strangers = [column for name, column in column_of.items() if name not in CXRLT_CLASSES]
    ids = PADCHEST_IDS if edition is EDITIONS["2026"] else MIMIC_IDS
    labels = [column_of[name] for name in of_edition if name in column_of]
    wanted = [*ids, *labels]
    if not table.split:
        wanted.append("split")
    optional = [column for column in (*DETAILS, *strangers) if column not in wanted]
    raw = read_columns(csv, wanted, optional)
    _refuse_labels(raw, strangers, len(table.labels), csv)
    present = np.zeros((len(raw), len(of_edition)), dtype=bool)
    for j, name in enumerate(of_edition):
        if name in column_of:
            column = raw[column_of[name]]
            present[:, j] = binary_column(column, csv)
    return EditionPart(raw, present, unknown, csv, table.split)


def _label_columns(csv: Path) -> dict[str, str]:
    """Class -> its column, of all columns that may hold labels."""
    try:
        header = pd.read_csv(csv, nrows=0, dtype=str, encoding="utf-8-sig").columns
    except (OSError, EOFError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{csv}: not a table of CXR-LT ({str(error).strip()})") from error
    column_of: dict[str, str] = {}
    for column in header:
        if column in METADATA:
            continue
        # A class would be made of it.
        if UNNAMED.fullmatch(column):
            print(f"{csv}: column {column!r} is the row numbers of pandas; it is left out")
            continue
        name = published_name(column)
        if name in column_of:
            raise UserError(f"{csv}: columns {column_of[name]!r} and {column!r} are one label; keep one of them")
        column_of[name] = column
    return column_of


def _refuse_labels(raw: pd.DataFrame, strangers: list[str], labels: int, csv: Path) -> None:
    """UserError: a column of 0 and 1 is no label of the challenge: a misspelled one would be lost in silence."""
    for column in strangers:
        if set(raw[column].unique()) <= BINARY.keys():
            raise UserError(
                f"{csv}: column {column!r} is none of the labels of CXR-LT, of which {labels} are wanted here; "
                "rename it or take it out"
            )


# ---- images of MIMIC-CXR --------------------------------------------------------------------------------------------


def _mimic_rows(part: EditionPart) -> pd.DataFrame:
    raw = part.raw
    subject = raw["subject_id"]
    study = raw["study_id"].str.removeprefix("s")
    patient = "mimic:" + subject
    path = path_of(raw)
    image = path.copy()
    nameless = path == ""
    image[nameless] = mimic_image_path(subject[nameless], study[nameless], raw["dicom_id"][nameless])
    columns = {
        "image": image,
        "patient_id": patient,
        "study_id": patient + ":" + study,
        "view": view_of(raw["ViewPosition"]),
        "dataset": "cxrlt",
    }
    return pd.DataFrame(columns)


# ---- images of PadChest and NIH -------------------------------------------------------------------------------------


def _padchest_rows(part: EditionPart, data_root: Path) -> pd.DataFrame:
    """Of 2026: PadChest's own table, where it is there, says folder, patient, study and view of its images."""
    names = part.raw["ImageID"].str.strip()
    is_nih = names.str.fullmatch(NIH_NAME)
    known = _padchest_images(data_root / "padchest").reindex(names, fill_value="").reset_index(drop=True)
    in_padchest = known["PatientID"] != ""
    nih_patient = "nih:" + without_leading_zeros(names.str[:8])
    patient = known["PatientID"].where(in_padchest, part.raw["PatientID"])
    patient = "padchest:" + patient
    unnamed = part.raw["PatientID"][~is_nih & ~in_padchest]
    rounded = unnamed[unnamed.str.fullmatch(ROUNDED) | (unnamed == "")]
    if len(rounded):
        raise UserError(
            f"{part.csv}: {len(rounded):,} values of PatientID are no names of patients, the first is "
            f"{rounded.iloc[0]!r}: different patients would be one; put {PADCHEST_CSV} into {data_root / 'padchest'}"
        )
    folder = known["ImageDir"] + "/"
    folder = folder.where(in_padchest, "")
    has_study = known["StudyID"] != ""
    study = patient + ":" + known["StudyID"]
    columns = {
        "image": names.where(is_nih, folder + names),
        "patient_id": nih_patient.where(is_nih, patient),
        "study_id": study.where(has_study & ~is_nih, ""),
        "view": view_of(known["Projection"]),
        # The two differ in prevalence: pooled, a model gains by telling them apart.
        "dataset": np.where(is_nih, "nih", "padchest"),
    }
    return pd.DataFrame(columns)


def _padchest_images(folder: Path) -> pd.DataFrame:
    """ImageID -> ImageDir, PatientID, StudyID, Projection; empty without PadChest's table."""
    columns = ["ImageDir", "PatientID", "StudyID", "Projection"]
    if _first_file(folder, (PADCHEST_CSV,)) is None:
        return pd.DataFrame(columns=columns, dtype=str)
    csv = find_file(folder, PADCHEST_CSV)
    table = read_columns(csv, ["ImageID", "ImageDir", "PatientID", "Projection"], ["StudyID"], skip_spaces=True)
    return table.drop_duplicates("ImageID").set_index("ImageID")[columns]


def removed_images(folder: Path) -> set[str]:
    """Of 2026: names of the images that the organisers took back, where the lists are there."""
    names: set[str] = set()
    for csv in (folder / name for name in REMOVED):
        if csv.is_file():
            table = pd.read_csv(csv, dtype=str, keep_default_na=False, encoding="utf-8-sig")
            column = "ImageID" if "ImageID" in table else table.columns[0]
            names.update(table[column].str.strip())
    return names
