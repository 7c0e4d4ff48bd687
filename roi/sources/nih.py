"""NIH ChestX-ray14: the labels of a program that read the reports, one field of them an image.

Letters: N images, K = 14 findings.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from roi.data.splits import listed, official_list
from roi.data.table import COLUMNS, image_keys
from roi.data.text_table import refuse_long_rows
from roi.errors import UserError
from roi.labels import LABELS, normal_name, refuse_no_label, spelled
from roi.sources.label_states import ABSENT, PRESENT
from roi.sources.reading import (
    age_in_years,
    cells_by_field,
    count_other_labels,
    error_context,
    find_file,
    plausible_age,
    read_columns,
    reader_table,
    without_leading_zeros,
)
from roi.sources.views import view_of

LABEL_COLUMN = "Finding Labels"
OPTIONAL_COLUMNS = ("Patient ID", "View Position", "Patient Age", "Patient Gender", "Follow-up #")


def read_nih(path: str | Path, label_from: str = LABEL_COLUMN) -> pd.DataFrame:
    """Read NIH ChestX-ray14; all 14 findings are known in every image.

    Any CSV with `Image Index` and a column of labels is read; columns that it lacks stay empty. `split` is train_val or
    test where the official lists lie beside the file.

    Args:
        path: the folder, or Data_Entry_2017.csv or Data_Entry_2017_v2020.csv itself.
        label_from: the column with the labels, separated by '|'; `No Finding` is no label.
    """
    table, _ = _read_entries(_entries_csv(path), label_from)
    return table


def nih_label_table(path: str | Path, label_from: str = LABEL_COLUMN) -> pd.DataFrame:
    """The columns of a table with the labels as published: in their order, with those that are none of the 14.

    The arguments are those of read_nih.
    """
    table, labels = _read_entries(_entries_csv(path), label_from)
    return table.assign(labels=labels, unknown="", uncertain="")[list(COLUMNS)]


def _entries_csv(path: str | Path) -> Path:
    csv = Path(path)
    if csv.is_dir():
        csv = find_file(csv, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    if not csv.is_file():
        raise UserError(f"{csv}: no such file")
    return csv


def _read_entries(csv: Path, label_from: str) -> tuple[pd.DataFrame, pd.Series]:
    """The table of read_nih, and (N,) the labels of each image separated by commas."""
    # Where columns are chosen pandas cuts a row that is longer than the header, and says nothing.
    refuse_long_rows(csv)
    optional = [column for column in OPTIONAL_COLUMNS if column != label_from]
    raw = read_columns(csv, ["Image Index", label_from], optional, skip_spaces=True)
    fields = raw[label_from]
    cut_off = raw["Image Index"][fields == ""]
    if len(cut_off):
        raise UserError(
            f"{csv}: {len(cut_off)} rows have no {label_from!r}, the first is {cut_off.iloc[0]!r}; "
            "normal ones say 'No Finding', so is the file cut off?"
        )
    with error_context(csv):
        findings = {field: nih_findings(field) for field in fields.unique()}
        others = count_other_labels(fields, findings.__getitem__, LABELS)

    def cells_of(field: str) -> np.ndarray:
        is_present = np.isin(LABELS, findings[field])
        return np.where(is_present, PRESENT, ABSENT).astype(np.int8)

    # 13 in the table is 00000013 in the names of the images: one patient, one name.
    patient = "nih:" + without_leading_zeros(raw["Patient ID"])
    patient = patient.where(raw["Patient ID"] != "", "")
    study = patient + ":" + raw["Follow-up #"]
    table = reader_table(
        "nih",
        raw["Image Index"],
        cells_by_field(fields, cells_of),
        others,
        patient_id=patient,
        study_id=study.where(raw["Follow-up #"] != "", ""),
        view=view_of(raw["View Position"]),
        age=plausible_age(age_in_years(raw["Patient Age"])),
        sex=raw["Patient Gender"],
        label_source=csv.name,
    )
    _set_official_splits(table, csv.parent)
    texts = {field: ",".join(labels) for field, labels in findings.items()}
    return table, fields.map(texts)


def _set_official_splits(table: pd.DataFrame, folder: Path) -> None:
    """train_val and test by the lists in `folder`. Changes `table`."""
    keys = image_keys(table["image"])
    for split in ("train_val", "test"):
        names = official_list(folder, split)
        if names:
            on_list = image_keys(pd.Series(listed(names), dtype=str))
            table.loc[keys.isin(on_list), "split"] = split


def nih_findings(field: str) -> list[str]:
    """'Mass|Infiltrate' -> ['Mass', 'Infiltration']; a word for nothing found is none. UserError: no label at all."""
    findings = []
    for part in field.split("|"):
        label = part.strip()
        if label and normal_name(label) is None:
            refuse_no_label(label, "|")
            findings.append(spelled(label))
    return findings
