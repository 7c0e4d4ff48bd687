"""A submission of the CXR-LT challenge: the file that its server reads, in the order that its template gives.

The order of columns is the template's, never ours: published submissions have exchanged two classes because the
template lists Normal before Nodule and the model after it.

Letters: N rows of the template, K classes.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from roi.data.table import read_table
from roi.data.text_table import read_text_table
from roi.errors import UserError
from roi.files import atomic_write
from roi.labels import published_name
from roi.scoring.challenge.studies import group_studies, mean_per_image
from roi.scoring.predictions import Predictions, match_rows

# Names of the images in the templates of the editions.
ID_COLUMNS = ("dicom_id", "ImageID")
# What else the tables of a task have beside the classes.
METADATA = (
    "subject_id",
    "study_id",
    "PatientID",
    "StudyDate_DICOM",
    "ViewPosition",
    "ViewCodeSequence_CodeMeaning",
    "path",
    "fpath",
    "split",
)
# In the zip.
CSV_NAME = "predictions.csv"
CODE_FOLDER = "code"
# The same submission is the same file, whenever it is written.
DATE = (2024, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Template:
    """What the server wants."""

    path: str
    id_column: str
    images: list[str]  # (N,)
    classes: list[str]  # (K,) as it spells them


def read_template(path: str) -> Template:
    """Read a sample submission, or the table of a task: the images and the classes, in its order."""
    table = read_text_table(path)
    id_columns = [column for column in ID_COLUMNS if column in table]
    if not id_columns:
        raise UserError(
            f"{path}: no column {' or '.join(ID_COLUMNS)} (found {list(table)}); give the template of the task"
        )
    id_column = id_columns[0]
    columns = [str(column) for column in table]
    classes = [column for column in columns if column != id_column and column not in METADATA]
    if table.empty or not classes:
        raise UserError(f"{path}: a template has a row an image and a column a class (found {list(table)})")
    images = table[id_column].str.strip()
    twice = images[images.duplicated()].tolist()
    if twice:
        raise UserError(f"{path}: lists {twice[0]!r} twice; one row an image")
    return Template(path, id_column, images.tolist(), classes)


def image_id(image: str) -> str:
    """'files/p10/p10000032/s50414267/02aa804e.jpg' -> '02aa804e', as templates name images."""
    name = image.replace("\\", "/").rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")
    return stem if dot and ending.lower() in ("jpg", "jpeg", "png", "dcm") else name


# ---- from predictions to the rows of the template -------------------------------------------------------------------


def class_places(template: Template, preds: Predictions, path: str, allow_extra: bool) -> list[int]:
    """Which class of the predictions each column of the template is, by name.

    A model may have been trained on the published names or on those of make_chexmultimodal_csv.py --cxrlt.

    Raises:
        UserError: a class of the template is not predicted, or one is predicted that it does not have.
    """
    places, missing = [], []
    for column in template.classes:
        known = [name for name in (column, published_name(column)) if name in preds.classes]
        if known:
            places.append(preds.classes.index(known[0]))
        else:
            missing.append(column)
    if missing:
        names = ", ".join(missing)
        predicted = ", ".join(preds.classes)
        raise UserError(
            f"{path}: {len(missing)} classes of {template.path} are not predicted: {names} (predicted: {predicted})"
        )
    extra = [c for j, c in enumerate(preds.classes) if j not in places]
    if extra and not allow_extra:
        raise UserError(
            f"{path}: predicts {len(extra)} classes that {template.path} does not have: {', '.join(extra)}; "
            "is it the template of this task? --allow_extra leaves them out"
        )
    return places


def image_places(template: Template, preds: Predictions, path: str) -> np.ndarray:
    """Which image of the predictions each row of the template is. (N,)

    Raises:
        UserError: an image is not predicted, or two predictions are of one id.
    """
    ids = pd.Index([image_id(image) for image in preds.images])
    twice = ids[ids.duplicated()]
    if len(twice):
        raise UserError(f"{path}: two images have the id {twice[0]!r}; predict the images of one task alone")
    wanted = [image_id(image) for image in template.images]
    places = ids.get_indexer(pd.Index(wanted))
    missing = np.flatnonzero(places < 0)
    if len(missing):
        raise UserError(
            f"{path}: {len(missing):,} of the {len(wanted):,} images of {template.path} are not predicted, "
            f"the first is {template.images[missing[0]]}; predict all of them"
        )
    return places


def study_probabilities(preds: Predictions, prob: np.ndarray, path: str, csv: str) -> np.ndarray:
    """Give the images of a study the mean of their probabilities. (n, K) -> (n, K)"""
    table = read_table(csv)
    rows = table.iloc[match_rows(preds.images, table["image"].tolist(), path, csv)]
    return mean_per_image(prob, group_studies(rows, csv))


def refuse_binary(prob: np.ndarray, classes: Sequence[str], path: str) -> None:
    """UserError: a column is 0 or 1 in every row: average precision ranks probabilities."""
    is_binary = np.isin(prob, (0, 1)).all(axis=0)
    if is_binary.any():
        names = np.array(classes)[is_binary].tolist()
        raise UserError(
            f"{path}: {len(names)} classes are 0 or 1 in every row: {', '.join(names)}; average precision needs "
            "probabilities (--allow_binary writes them all the same)"
        )


def make_table(template: Template, prob: np.ndarray) -> pd.DataFrame:
    """The submission: the template with probabilities. (N, K)"""
    assert prob.shape == (len(template.images), len(template.classes)) and not np.isnan(prob).any()
    table = pd.DataFrame(prob, columns=template.classes)
    table.insert(0, template.id_column, template.images)
    return table


# ---- the file -------------------------------------------------------------------------------------------------------


def write(out: Path, table: pd.DataFrame, code: Path | None) -> list[str]:
    """Write a CSV, or a zip of it and the folder code/ as entrants upload it.

    Returns:
        what the zip holds; the file itself where it is none.
    """
    text = table.to_csv(index=False, lineterminator="\n")
    if out.suffix.lower() == ".csv":
        with atomic_write(out) as file:
            file.write(text)
        return [out.name]
    with atomic_write(out, "wb") as file:
        return _write_zip(file, text, code)


def _write_zip(file: IO[bytes], text: str, code: Path | None) -> list[str]:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, CSV_NAME, text.encode())
        if code is not None:
            for path in code_files(code):
                name = f"{CODE_FOLDER}/{path.relative_to(code).as_posix()}"
                _add(archive, name, path.read_bytes())
        return archive.namelist()


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content)


def code_files(folder: Path) -> list[Path]:
    """The files of a folder in order, without hidden ones and caches."""
    if not folder.is_dir():
        raise UserError(f"--code {folder}: no such folder")
    files = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not is_hidden:
            files.append(path)
    if not files:
        raise UserError(f"--code {folder}: it holds no file")
    return files
