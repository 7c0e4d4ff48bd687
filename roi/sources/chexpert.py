"""CheXpert and MIMIC-CXR-JPG: the labels of the CheXpert labeler, which are 1, 0, -1 or blank.

Letters: N images (in MIMIC's table of labels: studies), K = 14 findings.
"""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from roi.data.split_words import split_word
from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.label_states import (
    ABSENT,
    LABEL_INDEX,
    NOT_LABELED,
    NOT_MENTIONED,
    PRESENT,
    UNCERTAIN,
    apply_blank_policy,
    label_indices,
    mark_parent_only,
)
from roi.sources.near_names import words_of
from roi.sources.reading import (
    coded_column,
    find_file,
    plausible_age,
    read_columns,
    reader_table,
    sex_of,
    split_of,
    without_leading_zeros,
)
from roi.sources.views import view_of

# The columns of the labeler that are findings of ours.
CHEXPERT_FINDINGS = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Pleural Effusion": "Effusion",
}
CHEXPERT_NEAR = words_of("chexpert")
CHEXPERT_NAMES = list(dict.fromkeys([*CHEXPERT_FINDINGS, *CHEXPERT_NEAR, "No Finding"]))
STATES = {
    "1.0": PRESENT,
    "1": PRESENT,
    "0.0": ABSENT,
    "0": ABSENT,
    "-1.0": UNCERTAIN,
    "-1": UNCERTAIN,
    "": NOT_MENTIONED,
}
FOLDER = "[Cc]he[Xx]pert*"
BATCH = re.compile(r"chexpert.* batch \d", re.IGNORECASE)


def chexpert_cells(raw: pd.DataFrame, csv: str | Path, blank: str) -> np.ndarray:
    """What the columns of the CheXpert labeler say of the 14 findings.

    Seven findings have a column; the other seven were never looked for. `No Finding` makes what is blank among the
    seven absent. What is still blank, or was never looked for, is PARENT_ONLY where a neighbour (Lung Opacity, Lung
    Lesion …) is present, and what is blank also where it is uncertain: `blank` says nothing of it then.

    Args:
        raw: the columns CHEXPERT_NAMES as text.
        csv: their file, for messages.
        blank: what is blank is "unknown", or absent ("negative").

    Returns:
        (N, K) codes.
    """
    allowed = "1, 0, -1 or nothing"
    states = {name: coded_column(raw[name], STATES, csv, allowed) for name in CHEXPERT_NAMES}
    is_normal = states["No Finding"] == PRESENT
    cells = np.full((len(raw), len(LABELS)), NOT_LABELED, dtype=np.int8)
    for name, label in CHEXPERT_FINDINGS.items():
        state = states[name]
        state[is_normal & (state == NOT_MENTIONED)] = ABSENT
        cells[:, LABEL_INDEX[label]] = state
    # Before the policy of blanks: a neighbour says that a blank is no absence.
    for name, findings in CHEXPERT_NEAR.items():
        state = states[name]
        mark_parent_only(cells, state == PRESENT, findings, (NOT_MENTIONED, NOT_LABELED))
        mark_parent_only(cells, state == UNCERTAIN, findings, (NOT_MENTIONED,))
    return apply_blank_policy(cells, blank)


# CheXpert


def read_chexpert(root: str | Path, blank: str = "unknown") -> pd.DataFrame:
    """Read train.csv and valid.csv (test.csv where it is there), in `root` or in CheXpert-v1.0[-small] below it.

    The full download may stay in the folders of its archives ("CheXpert-v1.0 batch 2 (train 1)/patient00001 ...").
    -1 is uncertain, a blank is unknown, or absent with blank="negative". Infiltration, Mass, Nodule, Emphysema,
    Fibrosis, Pleural_Thickening and Hernia were never looked for.
    """
    root = Path(root)
    train = _find_train_csv(root)
    tables = [train, find_file(train.parent, "valid.csv")]
    if train.with_name("test.csv").is_file():
        tables.append(train.with_name("test.csv"))
    folder = train.parent.relative_to(root).as_posix()
    batches = _folder_of_patients(root, train)
    parts = [_read_chexpert_csv(csv, folder, batches, blank) for csv in tables]
    return pd.concat(parts, ignore_index=True)


def _read_chexpert_csv(csv: Path, folder: str, batches: dict[str, str], blank: str) -> pd.DataFrame:
    raw = read_columns(csv, ["Path", *CHEXPERT_NAMES], ["Sex", "Age", "Frontal/Lateral", "AP/PA"])
    # The first folder of a path is the name of the download, which differs between full and small.
    image = raw["Path"].str.replace(r"^[^/]*/(?=(?:train|valid|test)/)", "", regex=True)
    number = image.str.extract(r"/patient(\d+)/", expand=False)
    nameless = raw["Path"][number.isna()].tolist()
    if nameless:
        raise UserError(f"{csv}: {len(nameless):,} paths name no patient, the first is {nameless[0]!r}")
    patient = "chexpert:" + without_leading_zeros(number)
    study = image.str.extract(r"/study(\d+)/", expand=False).fillna("")
    # Lateral images have no AP/PA.
    projection, direction = raw["AP/PA"], raw["Frontal/Lateral"].str.upper()
    view = projection.where(projection != "", direction)
    return reader_table(
        "chexpert",
        _image_paths(image, folder, batches),
        chexpert_cells(raw, csv, blank),
        patient_id=patient,
        study_id=patient + ":" + study,
        view=view_of(view),
        age=plausible_age(raw["Age"]),
        sex=sex_of(raw["Sex"]),
        split=split_word(csv.name.split(".")[0]),
        label_source=csv.name,
    )


def _find_train_csv(root: Path) -> Path:
    """train.csv in `root`, or below one or two folders with the name of the set."""
    outer = sorted(root.glob(f"{FOLDER}/train.csv"))
    inner = sorted(root.glob(f"{FOLDER}/{FOLDER}/train.csv"))
    nested = [path.relative_to(root).as_posix() for path in (*outer, *inner)]
    return find_file(root, "train.csv", "CheXpert-v1.0-small/train.csv", "CheXpert-v1.0/train.csv", *nested)


def _folder_of_patients(root: Path, train: Path) -> dict[str, str]:
    """Name of each patient -> the folder below `root` that holds it, where the archives were not merged; else {}."""
    around = train.parent
    # The tables may lie in the first batch, beside which the others are.
    if around != root and BATCH.search(around.name):
        around = around.parent
    folders: dict[str, str] = {}
    for batch in sorted(around.iterdir()):
        if not BATCH.search(batch.name) or not batch.is_dir():
            continue
        # Patients lie in the folder itself, or below the folders that the archive has inside.
        for folder in (batch, *batch.glob("[tv]*"), *batch.glob(f"{FOLDER}/[tv]*")):
            if folder.is_dir():
                below = folder.relative_to(root).as_posix()
                patients = [name for name in os.listdir(folder) if name.startswith("patient")]
                folders |= dict.fromkeys(patients, below)
    return folders


def _image_paths(image: pd.Series, folder: str, batches: dict[str, str]) -> pd.Series:
    """Paths as the table has them, train/patient00001/study1/view1_frontal.jpg -> paths below the folder of the set."""
    merged = image
    if folder != ".":
        merged = folder + "/" + image
    if not batches:
        return merged
    inside = image.str.split("/", n=1).str[1]  # patient00001/study1/view1_frontal.jpg
    patient = inside.str.split("/", n=1).str[0]
    batch = patient.map(batches)
    in_batch = batch + "/" + inside
    return in_batch.where(batch.notna(), merged)


# MIMIC-CXR-JPG


def read_mimic(root: str | Path, blank: str = "unknown") -> pd.DataFrame:
    """Read mimic-cxr-2.0.0-{metadata,chexpert,split}.csv[.gz]; images are files/p10/p10000032/s50414267/<dicom_id>.jpg.

    The labels are one row a study, as CheXpert's; an image of a study without a row has no label that is known. Age and
    sex are not in these files.
    """
    metadata = find_file(root, "mimic-cxr-2.0.0-metadata.csv")
    labels = find_file(root, "mimic-cxr-2.0.0-chexpert.csv")
    split = find_file(root, "mimic-cxr-2.0.0-split.csv")
    raw = read_columns(metadata, ["dicom_id", "subject_id", "study_id", "ViewPosition"])
    cells = _mimic_cells(raw, labels, blank)
    subject, study = raw["subject_id"], raw["study_id"]
    patient = "mimic:" + subject
    return reader_table(
        "mimic",
        mimic_image_path(subject, study, raw["dicom_id"]),
        cells,
        patient_id=patient,
        study_id=patient + ":" + study,
        view=view_of(raw["ViewPosition"]),
        split=_mimic_splits(raw["dicom_id"], split),
        label_source=labels.name.removesuffix(".gz"),
    )


def mimic_image_path(subject: pd.Series, study: pd.Series, dicom_id: pd.Series) -> pd.Series:
    """files/p10/p10000032/s50414267/<dicom_id>.jpg"""
    patient = "files/p" + subject.str[:2] + "/p" + subject
    return patient + "/s" + study + "/" + dicom_id + ".jpg"


def _mimic_cells(images: pd.DataFrame, labels: Path, blank: str) -> np.ndarray:
    """(N, K) codes of the images by the labels of their studies."""
    studies = read_columns(labels, ["subject_id", "study_id", *CHEXPERT_NAMES])
    names = studies["study_id"]
    twice = names[names.duplicated()].tolist()
    if twice:
        raise UserError(f"{labels}: {len(twice):,} studies have two rows, the first is {twice[0]}")
    known = studies["subject_id"] + "/" + studies["study_id"]
    wanted = images["subject_id"] + "/" + images["study_id"]
    row = pd.Index(known).get_indexer(pd.Index(wanted))
    # The last row is of studies without labels (-1 above): `blank` is of reports that the labeler has read.
    unread = np.full((1, len(LABELS)), NOT_LABELED, dtype=np.int8)
    unread[0, label_indices(CHEXPERT_FINDINGS.values())] = NOT_MENTIONED
    cells = np.concatenate([chexpert_cells(studies, labels, blank), unread])
    return cells[row]


def _mimic_splits(dicom_id: pd.Series, csv: Path) -> np.ndarray:
    """(N,) train, val, test, or '' for an image that the file does not name."""
    listed = read_columns(csv, ["dicom_id", "split"])
    twice = listed["dicom_id"].duplicated()
    if twice.any():
        raise UserError(f"{csv}: {twice.sum():,} images are listed twice")
    row = pd.Index(listed["dicom_id"]).get_indexer(pd.Index(dicom_id))
    splits = split_of(listed["split"], csv).to_numpy(dtype=object)
    return np.append(splits, "")[row]
