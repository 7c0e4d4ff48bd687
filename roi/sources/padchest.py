"""PadChest: labels as names of a tree, in a list an image, by physicians or by a network that read the report.

K = 14 findings.
"""

import ast
from pathlib import Path

import numpy as np
import pandas as pd

from roi.labels import LABELS
from roi.sources.label_states import ABSENT, EXCLUDED, LABEL_INDEX, NOT_MENTIONED, PARENT_ONLY, PRESENT, label_indices
from roi.sources.near_names import words_of
from roi.sources.reading import (
    OLDEST,
    cells_by_field,
    count_other_labels,
    error_context,
    find_file,
    read_columns,
    reader_table,
    sex_of,
)
from roi.sources.views import view_of

# Exact names alone: in parts of names `subcutaneous emphysema` and `breast mass` would be findings.
PADCHEST_NAMES = {
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
# Of a whole image: nothing that is not named is absent.
UNUSABLE = {"exclude", "suboptimal study"}
# Names that are known and say nothing of a finding.
NO_FINDING = {"normal", "unchanged", *UNUSABLE}
PADCHEST_CSV = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def read_padchest(root: str | Path) -> pd.DataFrame:
    """Read the table of 160,861 images; images are <ImageDir>/<ImageID>.

    Labels are compared as whole names after stripping: `subcutaneous emphysema` is not emphysema.
    """
    csv = find_file(root, PADCHEST_CSV)
    raw = read_columns(
        csv,
        ["ImageID", "ImageDir", "PatientID", "Projection", "Labels"],
        ["StudyID", "StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM"],
        skip_spaces=True,
    )
    known = {*PADCHEST_NEAR, *NO_FINDING}
    known.update(*PADCHEST_NAMES.values())
    with error_context(csv):
        others = count_other_labels(raw["Labels"], padchest_names, known)
    patient = "padchest:" + raw["PatientID"]
    study = patient + ":" + raw["StudyID"]
    return reader_table(
        "padchest",
        raw["ImageDir"] + "/" + raw["ImageID"],
        cells_by_field(raw["Labels"], padchest_cells),
        others,
        patient_id=patient,
        study_id=study.where(raw["StudyID"] != "", ""),
        view=view_of(raw["Projection"]),
        age=_ages(raw["PatientBirth"], raw["StudyDate_DICOM"]),
        sex=sex_of(raw["PatientSex_DICOM"]),
        label_source=csv.name.removesuffix(".gz"),
    )


def _ages(birth: pd.Series, study_date: pd.Series) -> pd.Series:
    """(N,) ages in years as text, '' where a year is missing or cannot be: years of birth are 1930 or 1930.0."""
    born = pd.to_numeric(birth.str[:4], errors="coerce")
    taken = pd.to_numeric(study_date.str[:4], errors="coerce")
    age = taken - born
    possible = (age >= 0) & (age <= OLDEST)
    text = age.where(possible, 0).astype(int).astype(str)
    return text.where(possible, "")


def padchest_names(field: str) -> set[str]:
    """The names in one `Labels` field, a Python list as text; none where it is no list."""
    # About a hundred fields of the published table are empty or cut off.
    try:
        names = ast.literal_eval(field)
    except (ValueError, SyntaxError, TypeError):
        return set()
    if not isinstance(names, list | tuple):
        return set()
    return {str(name).strip().lower() for name in names} - {""}


def padchest_cells(field: str) -> np.ndarray:
    """What one `Labels` field says of the findings, (K,) codes.

    What is not named is ABSENT, with exceptions: a name that may mean the finding (PADCHEST_NEAR) makes it PARENT_ONLY;
    `unchanged` says nothing of what it does not name; `exclude`, `suboptimal study` and a field that is no list say
    nothing at all.
    """
    names = padchest_names(field)
    if not names or names & UNUSABLE:
        return np.full(len(LABELS), EXCLUDED, dtype=np.int8)
    # An unchanged image has the findings of an earlier one, which this field does not repeat.
    unnamed = ABSENT
    if "unchanged" in names:
        unnamed = NOT_MENTIONED
    cells = np.full(len(LABELS), unnamed, dtype=np.int8)
    for name in names & PADCHEST_NEAR.keys():
        cells[label_indices(PADCHEST_NEAR[name])] = PARENT_ONLY
    # A finding by its own name outranks what may mean it.
    for label, exact in PADCHEST_NAMES.items():
        if names.intersection(exact):
            cells[LABEL_INDEX[label]] = PRESENT
    return cells
