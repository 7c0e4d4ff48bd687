"""PadChest: labels as names in a list."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd

from roi.labels import LABELS
from roi.sources.label_states import ABSENT, EXCLUDED, LABEL_INDEX, NOT_MENTIONED, PARENT_ONLY, PRESENT
from roi.sources.near_names import words_of
from roi.sources.reading import OLDEST, by_kind, finished, named, read_columns, sex_of, source, tally
from roi.sources.views import view_of

PADCHEST = {
    "Atelectasis": (
        "atelectasis",
        "laminar atelectasis",
        "lobar atelectasis",
        "segmental atelectasis",
        "total atelectasis",
        "round atelectasis",
        "atelectasis basal",
    ),
    "Cardiomegaly": ("cardiomegaly",),
    "Effusion": ("pleural effusion", "loculated pleural effusion", "loculated fissural effusion", "hydropneumothorax"),
    "Infiltration": ("infiltrates",),
    "Mass": ("mass", "pulmonary mass"),
    "Nodule": ("nodule", "multiple nodules"),
    "Pneumonia": ("pneumonia", "atypical pneumonia"),
    "Pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "Consolidation": ("consolidation",),
    "Edema": ("pulmonary edema",),
    "Emphysema": ("emphysema",),
    "Fibrosis": ("pulmonary fibrosis",),
    "Pleural_Thickening": ("pleural thickening", "apical pleural thickening", "calcified pleural thickening"),
    "Hernia": ("hiatal hernia",),
}
PADCHEST_NEAR = words_of("padchest")
PADCHEST_META = {"normal", "exclude", "suboptimal study", "unchanged"}
PADCHEST_FILE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def read_padchest(root: str | Path) -> pd.DataFrame:
    """PadChest: the table of 160,861 images; images are <ImageDir>/<ImageID>.

    Labels are compared as whole words after stripping: `subcutaneous emphysema` is not emphysema. What is not named is absent, with exceptions. A label that
    may mean the finding (PADCHEST_NEAR) makes it unknown; `exclude`, `suboptimal study` and cells that are no list say nothing at all; `unchanged` says nothing
    of what it does not name.
    """
    csv = source(root, PADCHEST_FILE)
    raw = read_columns(
        csv,
        ["ImageID", "ImageDir", "PatientID", "Projection", "Labels"],
        ["StudyID", "StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM"],
        skipinitialspace=True,
    )
    ours = {name for names in PADCHEST.values() for name in names} | PADCHEST_NEAR.keys() | PADCHEST_META
    others = named(csv, lambda: tally(raw["Labels"], padchest_names, ours))
    patient = "padchest:" + raw["PatientID"]
    born, taken = (pd.to_numeric(raw[c].str[:4], errors="coerce") for c in ("PatientBirth", "StudyDate_DICOM"))
    age = (taken - born).where(lambda a: (a >= 0) & (a <= OLDEST))
    return finished(
        "padchest",
        raw["ImageDir"] + "/" + raw["ImageID"],
        by_kind(raw["Labels"], padchest_cells),
        others,
        patient_id=patient,
        study_id=(patient + ":" + raw["StudyID"]).where(raw["StudyID"] != "", ""),
        view=view_of(raw["Projection"]),
        age=age.map(lambda a: "" if a != a else str(int(a))),
        sex=sex_of(raw["PatientSex_DICOM"]),
        label_source=csv.name.removesuffix(".gz"),
    )


def padchest_names(field: str) -> set[str]:
    """One `Labels` field, a Python list as text -> its names; none where it is no list."""
    try:
        found = ast.literal_eval(field)
    except (ValueError, SyntaxError, TypeError):
        return set()
    return {str(name).strip().lower() for name in found} - {""} if isinstance(found, list | tuple) else set()


def padchest_cells(field: str) -> np.ndarray:
    """One `Labels` field -> (K,)"""
    names = padchest_names(field)
    if not names or names & {"exclude", "suboptimal study"}:
        return np.full(len(LABELS), EXCLUDED, dtype=np.int8)
    cells = np.full(len(LABELS), NOT_MENTIONED if "unchanged" in names else ABSENT, dtype=np.int8)
    for name in names & PADCHEST_NEAR.keys():
        cells[[LABEL_INDEX[finding] for finding in PADCHEST_NEAR[name]]] = PARENT_ONLY
    for label, exact in PADCHEST.items():
        if names.intersection(exact):
            cells[LABEL_INDEX[label]] = PRESENT
    return cells
