"""Reports: Open-i and ReXGradient, which say what is found in words, a report each study."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from roi.demo.source_tables import MESH_OF
from roi.demo.truth_table import (
    MORE_LABELS,
    Boxes,
    place_in_study,
    report_texts,
    say_findings,
    study_numbers,
    write_images,
)
from roi.labels import LABELS

# ---- Open-i ---------------------------------------------------------------------------------------------------------


def write_openi(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """ecgen-radiology/N.xml, a report each study, and the PNG files beside the folder.

    The first row of a study says what is found.
    """
    (root / "ecgen-radiology").mkdir(parents=True, exist_ok=True)
    report = study_numbers(truth) + 1
    ids = []
    places = place_in_study(truth) + 1
    for n, k in zip(report, places, strict=True):
        number = 1000 * k + 1
        ids.append(f"CXR{n}_{k}_IM-{n:04d}-{number}")
    images: dict[int, list[str]] = {}
    for n, image in zip(report, ids, strict=True):
        images.setdefault(n, []).append(image)
    majors = say_findings(truth, openi_majors)
    texts = report_texts(truth)
    first_rows = np.flatnonzero(~report.duplicated())
    for row in first_rows:
        n = report.iloc[row]
        text = openi_xml(n, majors[row].split(";"), texts[row], images[n])
        path = root / "ecgen-radiology" / f"{n}.xml"
        path.write_bytes(text)
    paths = [f"{image}.png" for image in ids]
    return write_images(truth, root, paths)


def openi_majors(findings: set[str]) -> str:
    """Index terms as they are in the reports, which say more than the finding."""
    present = [label for label in (*LABELS, *MORE_LABELS) if label in findings]
    terms = [MESH_OF.get(label, label) for label in present]
    return ";".join(terms) or "normal"


def openi_xml(number: int, majors: Iterable[str], findings: str, images: Iterable[str], impression: str = "") -> bytes:
    """One report as the collection has it; what nobody reads is left out."""
    top = ElementTree.Element("eCitation")
    ElementTree.SubElement(top, "uId", id=f"CXR{number}")
    ElementTree.SubElement(top, "pmcId", id=str(number))
    citation = ElementTree.SubElement(top, "MedlineCitation")
    article = ElementTree.SubElement(citation, "Article")
    abstract = ElementTree.SubElement(article, "Abstract")
    parts = {
        "COMPARISON": "None.",
        "INDICATION": "",
        "FINDINGS": findings,
        "IMPRESSION": impression,
    }
    for name, text in parts.items():
        ElementTree.SubElement(abstract, "AbstractText", Label=name).text = text
    mesh = ElementTree.SubElement(top, "MeSH")
    for major in majors:
        ElementTree.SubElement(mesh, "major").text = major
    for image in images:
        ElementTree.SubElement(top, "parentImage", id=image)
    return ElementTree.tostring(top, encoding="utf-8", xml_declaration=True)


# ---- ReXGradient ----------------------------------------------------------------------------------------------------


def write_rexgradient(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """metadata/{train,valid,test}_metadata_view_position.json, a study each key, and the PNG files that they name."""
    (root / "metadata").mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, dict[str, Any]]] = {"train": {}, "val": {}, "test": {}}
    paths = []
    facts = (truth[name] for name in ("split", "patient", "sex", "age", "view"))
    studies_of_rows = study_numbers(truth) + 1
    places = place_in_study(truth) + 1
    rows = zip(*facts, studies_of_rows, places, report_texts(truth), strict=True)
    for split, patient, sex, age, view, n, k, text in rows:
        person = f"GRDN{patient:08d}"
        uid = f"1.2.826.0.{n}"
        series = f"{uid}.{k}"
        folder = f"deid_png/site{patient % 3}/{person}/studies/{uid}"
        path = f"{folder}/series/{series}/instances/{series}.1.png"
        paths.append(path)
        studies = files[split]
        key = f"{person}_A{n}_{uid}"
        if key not in studies:
            studies[key] = rexgradient_study(person, uid, n, sex, age, text)
        studies[key]["ImagePath"].append(f"../{path}")
        studies[key]["ImageViewPosition"].append(view)
    for split, studies in files.items():
        name = "valid" if split == "val" else split
        out = root / "metadata" / f"{name}_metadata_view_position.json"
        out.write_text(json.dumps(studies))
    return write_images(truth, root, paths)


def rexgradient_study(
    person: str,
    uid: str,
    number: int,
    sex: str,
    age: int,
    findings: str,
) -> dict[str, Any]:
    """A study without its images."""
    return {
        "PatientID": person,
        "StudyInstanceUid": uid,
        "AccessionNumber": f"A{number}",
        "PatientSex": sex,
        "PatientAge": f"{age:03d}Y",
        "StudyDate": "20180101",
        "Indication": "Cough.",
        "Comparison": "None.",
        "Findings": findings,
        "Impression": "",
        "ImagePath": [],
        "ImageViewPosition": [],
    }
