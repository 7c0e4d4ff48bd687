"""Who is in which split: official lists, whole patients drawn for validation, and the audit of what leaks.

Letters: N rows. Patients are compared by patient_id and by what the names of the images say (roi/data/patients.py).
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from roi.data.patients import named_patients
from roi.data.table import image_keys, patients_from_names
from roi.errors import UserError

PICTURE = re.compile(r"\.(?:png|jpe?g|tiff?|bmp|dcm|dicom)$", re.IGNORECASE)


def listed(path: str | Path) -> list[str]:
    """The names of an official list, one file name a line."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such list of images")
    text = path.read_text(encoding="utf-8-sig")
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines, 1):
        # A name may hold a comma; a line that does not end as a file name does is a row of a table.
        if "," in line and not PICTURE.search(line):
            raise UserError(f"{path}: line {number} is {line!r}; a list has one file name a line and nothing else")
    names = [line for line in lines if line]
    if not names:
        raise UserError(f"{path}: the list is empty")
    return names


def official_list(folder: Path, split: str) -> Path | None:
    """The published list of NIH's `split` (train_val, test) in a folder, under either name; None if it is not there."""
    for name in (f"{split}_list.txt", f"{split}_list_NIH.txt"):  # the second in Kaggle's resized copies
        if (folder / name).is_file():
            return folder / name
    return None


def read_list(path: str | Path) -> pd.DataFrame:
    """An official list as a table of two columns, image and patient_id."""
    names = pd.Series(listed(path), dtype=str)
    return pd.DataFrame({"image": names, "patient_id": patients_from_names(names)})


def some_patients(table: pd.DataFrame, limit: float, seed: int) -> np.ndarray:
    """Draw whole patients in a seeded order as long as they have no more than `limit` images together.

    Returns:
        (N,) bool: their images; those of at least one patient.
    """
    # In the order of their names: the draw does not depend on the order of the rows.
    sizes = table["patient_id"].value_counts(sort=False).sort_index()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sizes))
    images = np.cumsum(sizes.to_numpy()[order])
    taken = images <= limit
    # The first may have more than that alone: validation on nobody would be no help.
    taken[0] = True
    drawn = sizes.index[order[taken]]
    return table["patient_id"].isin(drawn).to_numpy()


def split_by_patient(table: pd.DataFrame, fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split into train and validation: whole patients drawn until validation holds `fraction` of the images."""
    patients = table["patient_id"].nunique()
    if patients < 2:
        raise UserError(
            f"--val_fraction {fraction}: {patients} patient(s) cannot be split; give --val_csv or --val_fraction 0"
        )
    chosen = some_patients(table, fraction * len(table), seed)
    return table[~chosen], table[chosen]


def overlap(a: pd.DataFrame, b: pd.DataFrame) -> tuple[int, int]:
    """How many images and how many patients stand in both tables."""
    keys = set(image_keys(a["image"]))
    images = keys & set(image_keys(b["image"]))
    patients = a["patient_id"][_patient_in(a, b)]
    return len(images), patients.nunique()


def _patient_in(table: pd.DataFrame, other: pd.DataFrame) -> np.ndarray:
    """Which rows are of a patient who stands in `other`, by patient_id or by what the names say: (N,) bool."""
    # Two tables may know a patient by different names: one by a pseudonym, one by the number in the file names.
    names = named_patients(table)
    others = set(other["patient_id"])
    others |= set(named_patients(other))
    in_other = table["patient_id"].isin(others) | names.isin(others)
    return in_other.to_numpy()


def belongs_to(table: pd.DataFrame, others: Iterable[pd.DataFrame]) -> np.ndarray:
    """Which rows leak: the image, or another image of its patient, stands in one of `others`. (N,) bool"""
    inside = np.zeros(len(table), dtype=bool)
    keys = image_keys(table["image"])
    for other in others:
        same_image = keys.isin(image_keys(other["image"]))
        inside |= same_image.to_numpy()
        inside |= _patient_in(table, other)
    # A list that names an image does not always say its patient. The table may: then the other images of that patient
    # belong there too.
    patients = table["patient_id"]
    return patients.isin(patients[inside]).to_numpy()
