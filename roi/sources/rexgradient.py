"""ReXGradient-160K: reports, which the report labeler reads."""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from roi.data.splits import split_word
from roi.errors import UserError
from roi.sources.label_states import negated
from roi.sources.reading import dicom_years, finished, sex_of, source, text_of, years
from roi.sources.report_labeler import label_reports
from roi.sources.views import view_of


def read_rexgradient(root: str | Path, blank: str = "unknown") -> pd.DataFrame:
    """ReXGradient-160K: metadata/{train,valid,test}_metadata_view_position.json, one row for each image of a study.

    It has no labels: they are read from Findings and Impression by roi/sources/report_labeler.py. What a report does not mention is unknown, or absent with blank="negative".
    """
    rows: list[tuple[str, str, str, str, str, str, str]] = []
    texts: list[tuple[str, str]] = []
    study_of: list[int] = []
    for part in ("train", "valid", "test"):
        path = source(root, f"metadata/{part}_metadata_view_position.json", f"{part}_metadata_view_position.json")
        for study, said in _studies(path):
            lacking = [
                c for c in ("PatientID", "Findings", "Impression", "ImagePath", "ImageViewPosition") if c not in said
            ]
            lacking += [
                c for c in ("ImagePath", "ImageViewPosition") if c not in lacking and not isinstance(said[c], list)
            ]
            lacking += ["PatientID"] if not lacking and not said["PatientID"] else []
            if lacking or len(said["ImagePath"]) != len(said["ImageViewPosition"]):
                raise UserError(
                    f"{path}: study {study!r} "
                    + (f"has no {lacking[0]!r}" if lacking else "has not as many views as images")
                )
            texts.append((text_of(said["Findings"]), text_of(said["Impression"])))
            about = (str(said.get("PatientAge") or ""), str(said.get("PatientSex") or ""))
            who = (str(said["PatientID"]), study, split_word(part) or "", *about)
            for image, view in zip(said["ImagePath"], said["ImageViewPosition"], strict=True):
                rows.append((image.removeprefix("../"), text_of(view), *who))
                study_of.append(len(texts) - 1)
    if not rows:
        raise UserError(f"{root}: its metadata name no image")
    cells = negated(label_reports(*map(list, zip(*texts, strict=True))), blank)[study_of]
    image, view, patient, study_id, split, age, sex = (
        pd.Series(column, dtype=str) for column in zip(*rows, strict=True)
    )
    patient = "rexgradient:" + patient
    return finished(
        "rexgradient",
        image,
        cells,
        patient_id=patient,
        study_id=patient + ":" + study_id,
        view=view_of(view),
        age=years(dicom_years(age)),
        sex=sex_of(sex),
        split=split,
        label_source="report labeler",
    )


def _studies(path: Path) -> Iterable[tuple[str, dict]]:
    try:
        studies = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); is the download complete?") from error
    if not isinstance(studies, dict):
        raise UserError(f"{path}: a {type(studies).__name__}, not studies by name")
    return studies.items()
