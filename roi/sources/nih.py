"""NIH ChestX-ray14: labels that a program read from reports, one list a row."""

from pathlib import Path

import numpy as np
import pandas as pd

from roi.data.table import image_keys, listed, official_list
from roi.data.text_table import refuse_long_rows
from roi.errors import UserError
from roi.labels import LABELS, normal_name, refuse_no_label, spelled
from roi.sources.reading import by_kind, dicom_years, finished, named, plain_number, read_columns, source, tally, years
from roi.sources.views import view_of

NIH_COLUMNS = {
    "Patient ID": "patient_id",
    "View Position": "view",
    "Patient Age": "age",
    "Patient Gender": "sex",
    "Follow-up #": "study_id",
}


def read_nih(root: str | Path, label_from: str = "Finding Labels") -> pd.DataFrame:
    """NIH ChestX-ray14: the folder, or Data_Entry_2017.csv (comma at the end of its header) or Data_Entry_2017_v2020.csv itself.

    All 14 findings are known in every image. Labels are split on '|', `No Finding` is no label (empty field). `split` is train_val or test where the
    official lists lie beside the file. Any CSV with `Image Index` and a column of labels (`label_from`) is read; labels that are none of the 14 stay in the
    field; columns that it lacks stay empty.
    """
    csv = source(root, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv") if Path(root).is_dir() else Path(root)
    if not csv.is_file():
        raise UserError(f"{csv}: no such file")
    refuse_long_rows(csv)
    raw = read_columns(
        csv, ["Image Index", label_from], [c for c in NIH_COLUMNS if c != label_from], skipinitialspace=True
    )
    cut = raw["Image Index"][raw[label_from] == ""]
    if len(cut):
        raise UserError(
            f"{csv}: {len(cut)} rows have no {label_from!r}, the first is {cut.iloc[0]!r}; normal ones say 'No Finding', so is the file cut off?"
        )
    found = named(csv, lambda: {field: nih_findings(field) for field in raw[label_from].unique()})
    cells = by_kind(raw[label_from], lambda field: np.isin(LABELS, found[field]).astype(np.int8))
    others = named(csv, lambda: tally(raw[label_from], lambda field: found[field], LABELS))
    patient = "nih:" + plain_number(raw["Patient ID"])
    patient = patient.where(raw["Patient ID"] != "", "")
    study = (patient + ":" + raw["Follow-up #"]).where(raw["Follow-up #"] != "", "")
    table = finished(
        "nih",
        raw["Image Index"],
        cells,
        others,
        patient_id=patient,
        study_id=study,
        view=view_of(raw["View Position"]),
        age=years(dicom_years(raw["Patient Age"])),
        sex=raw["Patient Gender"],
        label_source=csv.name,
    )
    table["labels"] = raw[label_from].map({field: ",".join(labels) for field, labels in found.items()})
    for split in ("train_val", "test"):
        names = official_list(csv.parent, split)
        if names:
            on_list = image_keys(pd.Series(listed(names), dtype=str))
            table.loc[image_keys(table["image"]).isin(on_list), "split"] = split
    return table


def nih_findings(field: str) -> list[str]:
    """'Mass|Infiltrate' -> ['Mass', 'Infiltration']; a word for nothing found is none. UserError: no label at all."""
    parts = [part.strip() for part in field.split("|")]
    findings = [part for part in parts if part and normal_name(part) is None]
    for part in findings:
        refuse_no_label(part, "|")
    return [spelled(part) for part in findings]
