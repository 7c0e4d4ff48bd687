"""CheXpert and MIMIC-CXR-JPG: the labels of the CheXpert labeler."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from roi.data.splits import split_word
from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.label_states import (
    ABSENT,
    LABEL_INDEX,
    NOT_LABELED,
    NOT_MENTIONED,
    PRESENT,
    UNCERTAIN,
    leave_unknown,
    negated,
)
from roi.sources.near_names import words_of
from roi.sources.reading import finished, plain_number, read_columns, sex_of, source, split_of, years
from roi.sources.views import view_of

CHEXPERT = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Pleural Effusion": "Effusion",
}
CHEXPERT_NEAR = words_of("chexpert")
CHEXPERT_FOLDER = "[Cc]he[Xx]pert*"
CHEXPERT_BATCH = re.compile(r"chexpert.* batch \d", re.IGNORECASE)
CHEXPERT_NAMES = list(dict.fromkeys([*CHEXPERT, *CHEXPERT_NEAR, "No Finding"]))
SAID = {"1.0": PRESENT, "1": PRESENT, "0.0": ABSENT, "0": ABSENT, "-1.0": UNCERTAIN, "-1": UNCERTAIN, "": NOT_MENTIONED}


def chexpert_cells(raw: pd.DataFrame, name: str | Path, blank: str) -> np.ndarray:
    """Columns of the CheXpert labeler (1, 0, -1, blank as text) -> (N, K).

    Seven findings have a twin. The other seven were never looked for. `No Finding` makes what is blank among the seven
    absent. What is still blank, or was never looked for, is unknown because of a neighbour (Lung Opacity, Lung Lesion
    …) where that is present or uncertain: `blank` says nothing of it then.
    """
    cells = np.full((len(raw), len(LABELS)), NOT_LABELED, dtype=np.int8)
    said = {}
    for column in CHEXPERT_NAMES:
        code, kinds = pd.factorize(raw[column])
        other = {kind: int((code == n).sum()) for n, kind in enumerate(kinds) if kind.strip() not in SAID}
        if other:
            value, count = next(iter(other.items()))
            raise UserError(f"{name}: {count:,} values {value!r} in column {column!r}; it holds 1, 0, -1 or nothing")
        said[column] = np.array([SAID[kind.strip()] for kind in kinds], dtype=np.int8)[code]
    normal = said["No Finding"] == PRESENT
    for theirs, ours in CHEXPERT.items():
        cells[:, LABEL_INDEX[ours]] = np.where(normal & (said[theirs] == NOT_MENTIONED), ABSENT, said[theirs])
    for theirs, findings in CHEXPERT_NEAR.items():
        leave_unknown(cells, said[theirs] == PRESENT, findings, (NOT_MENTIONED, NOT_LABELED))
        leave_unknown(cells, said[theirs] == UNCERTAIN, findings, (NOT_MENTIONED,))
    return negated(cells, blank)


def read_chexpert(root: str | Path, blank: str = "unknown") -> pd.DataFrame:
    """CheXpert: train.csv and valid.csv (test.csv where it is there), in `root` or in CheXpert-v1.0[-small] below it.

    The full download may stay in the folders of its archives ("CheXpert-v1.0 batch 2 (train 1)/patient00001 ...").
    -1 is uncertain, a blank is unknown, or absent with blank="negative". Infiltration, Mass, Nodule, Emphysema,
    Fibrosis, Pleural_Thickening and Hernia were never looked for.
    """
    root = Path(root)
    train = chexpert_table(root)
    others = [source(train.parent, "valid.csv"), *(p for p in [train.with_name("test.csv")] if p.is_file())]
    holders = chexpert_batches(root, train)
    below = train.parent.relative_to(root).as_posix()
    parts = []
    for csv in (train, *others):
        raw = read_columns(csv, ["Path", *CHEXPERT_NAMES], ["Sex", "Age", "Frontal/Lateral", "AP/PA"])
        cells = chexpert_cells(raw, csv, blank)
        image = raw["Path"].str.replace(r"^[^/]*/(?=(?:train|valid|test)/)", "", regex=True)
        patient = image.str.extract(r"/patient(\d+)/", expand=False)
        if patient.isna().any():
            raise UserError(
                f"{csv}: {patient.isna().sum():,} paths name no patient, the first is {raw['Path'][patient.isna()].iloc[0]!r}"
            )
        patient = "chexpert:" + plain_number(patient)
        frontal = raw["Frontal/Lateral"].str.upper()
        parts.append(
            finished(
                "chexpert",
                chexpert_places(image, below, holders),
                cells,
                patient_id=patient,
                study_id=patient + ":" + image.str.extract(r"/study(\d+)/", expand=False).fillna(""),
                view=view_of(raw["AP/PA"].where(raw["AP/PA"] != "", frontal)),
                age=years(raw["Age"]),
                sex=sex_of(raw["Sex"]),
                split=split_word(csv.name.split(".")[0]),
                label_source=csv.name,
            )
        )
    return pd.concat(parts, ignore_index=True)


def chexpert_table(root: Path) -> Path:
    """train.csv: in `root`, or below one or two folders with the name of the set."""
    outer = sorted(root.glob(f"{CHEXPERT_FOLDER}/train.csv"))
    inner = sorted(root.glob(f"{CHEXPERT_FOLDER}/{CHEXPERT_FOLDER}/train.csv"))
    nested = [path.relative_to(root).as_posix() for path in (*outer, *inner)]
    return source(root, "train.csv", "CheXpert-v1.0-small/train.csv", "CheXpert-v1.0/train.csv", *nested)


def chexpert_batches(root: Path, train: Path) -> dict[str, str]:
    """Folder of each patient -> the folder below `root` that holds it, where the archives were not merged; else {}."""
    in_a_batch = train.parent != root and CHEXPERT_BATCH.search(train.parent.name)
    around = train.parent.parent if in_a_batch else train.parent
    batches = [folder for folder in sorted(around.iterdir()) if CHEXPERT_BATCH.search(folder.name)]
    holders: dict[str, str] = {}
    for batch in filter(Path.is_dir, batches):
        # Patients lie in the folder itself, or below the folders that the archive has inside.
        inside = [batch, *batch.glob("[tv]*"), *batch.glob(f"{CHEXPERT_FOLDER}/[tv]*")]
        for folder in filter(Path.is_dir, inside):
            below = folder.relative_to(root).as_posix()
            holders |= {name: below for name in os.listdir(folder) if name.startswith("patient")}
    return holders


def chexpert_places(image: pd.Series, below: str, holders: dict[str, str]) -> pd.Series:
    """Paths of the table, train/patient00001/study1/view1_frontal.jpg -> paths below the folder of the set."""
    merged = image if below == "." else below + "/" + image
    if not holders:
        return merged
    inside = image.str.split("/", n=1).str[1]  # patient00001/study1/view1_frontal.jpg
    holder = inside.str.split("/", n=1).str[0].map(holders)
    return (holder + "/" + inside).where(holder.notna(), merged)


def read_mimic(root: str | Path, blank: str = "unknown") -> pd.DataFrame:
    """MIMIC-CXR-JPG 2.x: mimic-cxr-2.0.0-{metadata,chexpert,split}.csv[.gz]; images files/p10/p10000032/s50414267/<dicom_id>.jpg.

    The labels are one row a study, as CheXpert's; an image of a study without a row has no label that is known. Age and sex are not in these files.
    """
    metadata, labels, split = (
        source(root, f"mimic-cxr-2.0.0-{part}.csv") for part in ("metadata", "chexpert", "split")
    )
    raw = read_columns(metadata, ["dicom_id", "subject_id", "study_id", "ViewPosition"])
    said = read_columns(labels, ["subject_id", "study_id", *CHEXPERT_NAMES])
    twice = said["study_id"][said["study_id"].duplicated()]
    if len(twice):
        raise UserError(f"{labels}: {len(twice):,} studies have two rows, the first is {twice.iloc[0]}")
    study = pd.Index(said["subject_id"] + "/" + said["study_id"]).get_indexer(
        pd.Index(raw["subject_id"] + "/" + raw["study_id"])
    )
    nothing = np.full((1, len(LABELS)), NOT_LABELED, dtype=np.int8)
    nothing[0, [LABEL_INDEX[ours] for ours in CHEXPERT.values()]] = NOT_MENTIONED
    cells = np.concatenate([chexpert_cells(said, labels, blank), nothing])[study]
    parts = read_columns(split, ["dicom_id", "split"])
    if parts["dicom_id"].duplicated().any():
        raise UserError(f"{split}: {parts['dicom_id'].duplicated().sum():,} images are listed twice")
    row = pd.Index(parts["dicom_id"]).get_indexer(pd.Index(raw["dicom_id"]))
    names = np.append(split_of(parts["split"], split).to_numpy(dtype=object), "")[row]
    patient = "mimic:" + raw["subject_id"]
    folder = "files/p" + raw["subject_id"].str[:2] + "/p" + raw["subject_id"] + "/s" + raw["study_id"] + "/"
    return finished(
        "mimic",
        folder + raw["dicom_id"] + ".jpg",
        cells,
        patient_id=patient,
        study_id=patient + ":" + raw["study_id"],
        view=view_of(raw["ViewPosition"]),
        split=names,
        label_source=labels.name.removesuffix(".gz"),
    )
