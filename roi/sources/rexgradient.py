"""ReXGradient-160K: reports without labels, which roi/sources/report_labeler.py reads."""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from roi.data.split_words import split_word
from roi.errors import UserError
from roi.sources.label_states import apply_blank_policy
from roi.sources.reading import age_in_years, find_file, plausible_age, reader_table, sex_of
from roi.sources.report_labeler import label_reports
from roi.sources.views import view_of

REQUIRED = ("PatientID", "Findings", "Impression", "ImagePath", "ImageViewPosition")
LISTS = ("ImagePath", "ImageViewPosition")


def read_rexgradient(root: str | Path, blank: str = "unknown") -> pd.DataFrame:
    """Read metadata/{train,valid,test}_metadata_view_position.json, one row for each image of a study.

    Args:
        root: the folder of the data set.
        blank: what a report does not mention is "unknown", or absent ("negative").
    """
    studies: list[dict[str, str]] = []
    images: list[tuple[str, str, int]] = []  # path, view, number of the study
    for part in ("train", "valid", "test"):
        name = f"{part}_metadata_view_position.json"
        path = find_file(root, f"metadata/{name}", name)
        split = split_word(part) or ""
        for name, study in _studies(path):
            _check_study(path, name, study)
            for image, view in zip(study["ImagePath"], study["ImageViewPosition"], strict=True):
                path_below = image.removeprefix("../")
                images.append((path_below, _text(view), len(studies)))
            studies.append(_about_study(name, study) | {"split": split})
    if not images:
        raise UserError(f"{root}: its metadata name no image")
    table = pd.DataFrame(images, columns=["path", "view", "study"])
    about = pd.DataFrame(studies, dtype=str)
    # A report is of a whole study: it is read once, and its images share what it says.
    findings = about["findings"].tolist()
    codes = label_reports(findings, about["impression"].tolist())
    cells = apply_blank_policy(codes, blank)[table["study"]]
    about = about.iloc[table["study"]].reset_index(drop=True)
    patient = "rexgradient:" + about["patient"]
    return reader_table(
        "rexgradient",
        table["path"],
        cells,
        patient_id=patient,
        study_id=patient + ":" + about["study"],
        view=view_of(table["view"]),
        age=plausible_age(age_in_years(about["age"])),
        sex=sex_of(about["sex"]),
        split=about["split"],
        label_source="report labeler",
    )


def _studies(path: Path) -> Iterable[tuple[str, dict]]:
    """Name and content of each study."""
    try:
        studies = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); is the download complete?") from error
    if not isinstance(studies, dict):
        raise UserError(f"{path}: a {type(studies).__name__}, not studies by name")
    return studies.items()


def _check_study(path: Path, name: str, study: dict) -> None:
    """UserError: something that every study has is not there, or views and images do not go together."""
    missing = [key for key in REQUIRED if key not in study]
    if not missing:
        missing = [key for key in LISTS if not isinstance(study[key], list)]
    # A study without a patient could be of one that is tested.
    if not missing and not study["PatientID"]:
        missing = ["PatientID"]
    if missing:
        raise UserError(f"{path}: study {name!r} has no {missing[0]!r}")
    if len(study["ImagePath"]) != len(study["ImageViewPosition"]):
        raise UserError(f"{path}: study {name!r} has not as many views as images")


def _text(value: object) -> str:
    """What is no text (null, NaN) is an empty one."""
    return value if isinstance(value, str) else ""


def _about_study(name: str, study: dict) -> dict[str, str]:
    """What is kept of a study, as text."""
    return {
        "patient": str(study["PatientID"]),
        "study": name,
        "age": str(study.get("PatientAge") or ""),
        "sex": str(study.get("PatientSex") or ""),
        "findings": _text(study["Findings"]),
        "impression": _text(study["Impression"]),
    }
