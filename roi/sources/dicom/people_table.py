"""A hospital's images and its own table of labels or reports, joined without a patient number.

The images are those of dicom_people.csv. A label table names its rows by accession number, which becomes a key by the
same salt, or by the name of the file.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from roi.data.table import COLUMNS, check_table
from roi.data.text_table import read_text_table
from roi.errors import UserError
from roi.labels import LABELS, normal_name, spelled
from roi.sources.build_table import Output, with_label_text, write_table
from roi.sources.dicom.people import PEOPLE_COLUMNS, key, read_salt
from roi.sources.label_states import ABSENT, NOT_LABELED, PRESENT, UNCERTAIN, apply_blank_policy
from roi.sources.reading import cells_by_field, coded_column, count_other_labels, error_context, reader_table
from roi.sources.report_labeler import label_reports
from roi.sources.views import view_of

ACCESSION = ("accession", "accessionnumber", "accession_number")
FILE = ("image", "file", "filename", "file_name", "path", "dicom_id", "image_id", "image index")
LABEL_FIELD = ("labels", "finding labels", "label")
REPORT = ("report", "report_text", "text")
SIGNS = {"1": PRESENT, "1.0": PRESENT, "0": ABSENT, "0.0": ABSENT, "-1": UNCERTAIN, "-1.0": UNCERTAIN}
SUFFIXES = (".dcm", ".dicom", ".dic", ".png", ".jpg")  # of what a row of labels may name
NAME = "pacs"  # of the data set


class Sources(NamedTuple):
    """What is joined."""

    people: Path  # dicom_people.csv
    labels: Path
    salt: Path | None


def build_people_table(sources: Sources, output: Output) -> None:
    """Write the table of the images that the label table has a row for; both sides' others are counted.

    Raises:
        UserError: a column is missing, two rows name the same images, nothing fits.
    """
    people = _read(sources.people)
    missing = [column for column in PEOPLE_COLUMNS if column not in people.columns]
    if missing:
        remedy = "convert_dicom.py --salt FILE writes such a table"
        raise UserError(f"{sources.people}: no column {missing[0]!r}; {remedy}")
    given = _read(sources.labels)
    # Images lead: a row of labels may be of several views of one study.
    row = _rows_of_images(people, given, sources)  # (N,), -1 where there is none
    found = row >= 0
    cells, source = _cells(given, sources.labels)
    chosen = people[found].reset_index(drop=True)
    used = np.unique(row[found])
    unused = len(given) - len(used)
    views = chosen["view"].str.upper().replace("OTHER", "")
    # The table has whole years: the first of the ten.
    ages = chosen["age_band"].str.extract(r"^(\d+)", expand=False)
    table = reader_table(
        NAME,
        chosen["image"],
        cells[row[found]],
        patient_id=_named(chosen["patient_key"]),
        study_id=_named(chosen["study_key"]),
        view=view_of(views),
        age=ages.fillna(""),
        sex=chosen["sex"],
        label_source=source,
    )
    table = with_label_text(table)[list(COLUMNS)]
    table = check_table(table.copy(), str(sources.labels))
    label_cells = table[["labels", "unknown", "uncertain"]]
    is_normal = (label_cells == "").all(axis=1)
    table["labels"] = table["labels"].mask(is_normal, output.fillna)
    write_table(table, output)
    patients = table["patient_id"].nunique()
    unlabelled = int((~found).sum())
    print(f"{output.csv}: {len(table):,} images of {patients:,} patients, labels of {source}")
    print(f"  left out: {unlabelled:,} images without a row of labels, {unused:,} rows without an image")


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such table")
    return read_text_table(path)


def _named(keys: pd.Series) -> pd.Series:
    """With the name of the set before them; '' stays."""
    named = f"{NAME}:" + keys
    return named.where(keys != "", "")


def _column(table: pd.DataFrame, names: Iterable[str]) -> str | None:
    """The first column that is spelled so, in whatever case."""
    spellings: dict[str, str] = {}
    for column in table.columns:
        spellings.setdefault(column.strip().lower(), column)
    for name in names:
        if name in spellings:
            return spellings[name]
    return None


def _rows_of_images(people: pd.DataFrame, given: pd.DataFrame, sources: Sources) -> np.ndarray:
    """(N,) the row of labels of each image."""
    accession = _column(given, ACCESSION)
    file = _column(given, FILE)
    if accession is None and file is None:
        columns = ", ".join(given.columns)
        raise UserError(f"{sources.labels}: no column {ACCESSION[0]} or {FILE[0]} (found {columns})")
    # Safer than a file name, which may come again in another export.
    if accession is not None:
        if sources.salt is None or not sources.salt.is_file():
            raise UserError(
                f"{sources.labels}: joined by {accession}, for which --salt FILE of convert_dicom.py is needed"
            )
        salt = read_salt(sources.salt)
        keys = [key(salt, "accession", text) for text in given[accession]]
        row = _places(keys, people["accession_key"], sources.labels)
        remedy = f"is {sources.salt} the salt that convert_dicom.py had?"
    else:
        files = given[str(file)]
        stems = people["image"].map(_stem)
        row = _places(map(_stem, files), stems, sources.labels)
        if (row < 0).all():
            # Without their folders; a name that several folders have may mean any of them.
            names = people["image"].map(_name)
            names = names.mask(names.duplicated(keep=False), "")
            row = _places(map(_name, files), names, sources.labels)
        remedy = "are these the names of the DICOM files?"
    if (row < 0).all():
        raise UserError(f"{sources.labels}: none of its {len(given):,} rows is that of an image; {remedy}")
    return row


def _stem(path: str) -> str:
    """'a/b.dcm', 'a/b.png' and 'a/b' are one name; a UID keeps its points."""
    pure = PurePosixPath(path.strip())
    is_file = pure.suffix.lower() in SUFFIXES
    return str(pure.with_suffix("")) if is_file else str(pure)


def _name(path: str) -> str:
    return PurePosixPath(_stem(path)).name


def _places(names: Iterable[str], wanted: pd.Series, csv: Path) -> np.ndarray:
    """(N,) where each wanted name stands among `names`, or -1."""
    place: dict[str, int] = {}
    for number, name in enumerate(names):
        if name and place.setdefault(name, number) != number:
            # By their lines: a number of a patient belongs into no log.
            lines = f"lines {place[name] + 2} and {number + 2}"
            raise UserError(f"{csv}: {lines} are of the same images; keep one of them")
    # An image without a name has no row.
    rows = [place.get(name, -1) if name else -1 for name in wanted]
    return np.array(rows, dtype=np.intp)


def _cells(given: pd.DataFrame, csv: Path) -> tuple[np.ndarray, str]:
    """(N, K) codes of the rows of labels, and what they come from."""
    report = _column(given, REPORT)
    if report is not None:
        nothing = [""] * len(given)
        codes = label_reports(nothing, given[report].tolist())
        return apply_blank_policy(codes, "unknown"), "report labeler"
    field = _column(given, LABEL_FIELD)
    if field is not None:
        with error_context(csv):
            # One that is nearly spelled as ours is refused.
            others = count_other_labels(given[field], _names, LABELS)
        if others:
            counts = ", ".join(f"{name} {rows:,}" for name, rows in others.items())
            print(f"  labels that are none of ours: {counts}")
        return cells_by_field(given[field], _present), "its own labels"
    columns = {label: _column(given, [label.lower()]) for label in LABELS}
    if not any(columns.values()):
        raise UserError(
            f"{csv}: no column labels, report, or one a finding, {', '.join(LABELS[:2])} … "
            f"(found {', '.join(given.columns)})"
        )
    signs = SIGNS | {"": NOT_LABELED}
    cells = np.full((len(given), len(LABELS)), NOT_LABELED, np.int8)
    for k, column in enumerate(columns.values()):
        if column is not None:
            cells[:, k] = coded_column(given[column], signs, csv, "1, 0, -1 or nothing")
    return cells, "its own labels"


def _names(field: str) -> list[str]:
    """The findings of 'Mass|Nodule' or 'Mass, Nodule', as we spell them."""
    parts = [part.strip() for part in field.replace("|", ",").split(",")]
    return [spelled(part) for part in parts if part and normal_name(part) is None]


def _present(field: str) -> np.ndarray:
    """(K,) codes: what is not named is absent; of an empty field nothing is known."""
    if not field.strip():
        return np.full(len(LABELS), NOT_LABELED, np.int8)
    is_named = np.isin(LABELS, _names(field))
    return np.where(is_named, PRESENT, ABSENT).astype(np.int8)
