"""ReXGradient-160K: reports without labels, which roi/sources/report_labeler.py reads."""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from roi.data.splits import split_word
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
    images: list[tuple[str, str]] = []  # path and view
    image_study: list[int] = []  # number of the study of each image
    studies: list[tuple[str, str, str, str, str]] = []  # patient, study, split, age, sex
    findings: list[str] = []
    impressions: list[str] = []
    for part in ("train", "valid", "test"):
        path = find_file(root, f"metadata/{part}_metadata_view_position.json", f"{part}_metadata_view_position.json")
        for name, study in _studies(path):
            _check_study(path, name, study)
            for image, view in zip(study["ImagePath"], study["ImageViewPosition"], strict=True):
                images.append((image.removeprefix("../"), _text(view)))
                image_study.append(len(studies))
            age, sex = (str(study.get(key) or "") for key in ("PatientAge", "PatientSex"))
            studies.append((str(study["PatientID"]), name, split_word(part) or "", age, sex))
            findings.append(_text(study["Findings"]))
            impressions.append(_text(study["Impression"]))
    if not images:
        raise UserError(f"{root}: its metadata name no image")
    cells = apply_blank_policy(label_reports(findings, impressions), blank)[image_study]
    paths, views = (pd.Series(column, dtype=str) for column in zip(*images, strict=True))
    about = pd.DataFrame(studies, columns=["patient", "study", "split", "age", "sex"], dtype=str)
    about = about.iloc[image_study].reset_index(drop=True)
    patient = "rexgradient:" + about["patient"]
    return reader_table(
        "rexgradient",
        paths,
        cells,
        patient_id=patient,
        study_id=patient + ":" + about["study"],
        view=view_of(views),
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
    missing += [key for key in LISTS if key in study and not isinstance(study[key], list)]
    if not missing and not study["PatientID"]:
        missing = ["PatientID"]
    if missing:
        raise UserError(f"{path}: study {name!r} has no {missing[0]!r}")
    if len(study["ImagePath"]) != len(study["ImageViewPosition"]):
        raise UserError(f"{path}: study {name!r} has not as many views as images")


def _text(value: object) -> str:
    """What is no text (null, NaN) is an empty one."""
    return value if isinstance(value, str) else ""
