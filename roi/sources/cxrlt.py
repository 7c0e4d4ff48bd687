"""CXR-LT: more labels for the images of MIMIC-CXR."""

from pathlib import Path

import numpy as np
import pandas as pd

from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.label_states import ABSENT, LABEL_INDEX, PRESENT, leave_unknown
from roi.sources.near_names import words_of
from roi.sources.reading import finished, flags, read_columns, source, split_of
from roi.sources.views import view_of

CXRLT = {label: label for label in LABELS} | {
    "Effusion": "Pleural Effusion",
    "Pleural_Thickening": "Pleural Thickening",
}
CXRLT_ALSO = {
    "Lobar Atelectasis": ("Atelectasis",),
    "Round(ed) Atelectasis": ("Atelectasis",),
    "Hydropneumothorax": ("Effusion", "Pneumothorax"),
}
CXRLT_FILES = (
    (("labels.csv", ""),),
    (("train.csv", "train"), ("development.csv", "val"), ("test.csv", "test")),
    (("train_labeled.csv", "train"), ("development_labeled_task1.csv", "val"), ("test_labeled_task1.csv", "test")),
    (("train_labeled.csv", "train"), ("development_labeled_task2.csv", "val"), ("test_labeled_task2.csv", "test")),
)


def read_cxrlt(root: str | Path) -> pd.DataFrame:
    """CXR-LT 2023 (train.csv, development.csv, test.csv) or 2024 (labels.csv, else train_labeled.csv with {development,test}_labeled_task{1,2}.csv).

    Its images are MIMIC-CXR's: `image` is a path below that set and patients are mimic:*. 0 and 1 as published, by the
    name of the column; a 0 beside a neighbour that is 1 (Lung Opacity, Granuloma …) is unknown.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of data")
    for folder in (root, root / "cxr-lt-2024", root / "cxr-lt-2023"):
        for files in CXRLT_FILES:
            if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name, _ in files):
                return pd.concat([_cxrlt(source(folder, name), split) for name, split in files], ignore_index=True)
    wanted = "; or ".join(", ".join(name for name, _ in files) for files in CXRLT_FILES)
    raise UserError(f"{root}: no complete set of tables of CXR-LT is there (looked for {wanted})")


def _cxrlt(csv: Path, split: str) -> pd.DataFrame:
    wanted = ["dicom_id", "subject_id", "study_id", *CXRLT.values(), *(() if split else ("split",))]
    near = words_of("cxrlt")
    optional = [name for name in (*CXRLT_ALSO, *near) if name not in wanted]
    raw = read_columns(csv, wanted, ["path", "fpath", "ViewPosition", *optional])
    cells = np.zeros((len(raw), len(LABELS)), dtype=np.int8)
    for ours, theirs in CXRLT.items():
        cells[:, LABEL_INDEX[ours]] = np.where(flags(raw[theirs], csv), PRESENT, ABSENT)
    for theirs, several in CXRLT_ALSO.items():
        for ours in several if (raw[theirs] != "").any() else ():  # a kind of the finding that has a column of its own
            cells[flags(raw[theirs], csv), LABEL_INDEX[ours]] = PRESENT
    for theirs, findings in near.items():
        if (raw[theirs] != "").any():  # each edition has some of these columns
            leave_unknown(cells, flags(raw[theirs], csv), findings, (ABSENT,))
    path = raw["fpath"].where(raw["fpath"] != "", raw["path"])
    subject, study = raw["subject_id"], raw["study_id"].str.removeprefix("s")
    made = "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + raw["dicom_id"] + ".jpg"
    patient = "mimic:" + subject
    return finished(
        "cxrlt",
        path.where(path != "", made),
        cells,
        patient_id=patient,
        study_id=patient + ":" + study,
        view=view_of(raw["ViewPosition"]),
        split=split or split_of(raw["split"], csv),
        label_source=csv.name.removesuffix(".gz"),
    )
