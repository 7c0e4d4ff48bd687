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
    for n, k in zip(report, place_in_study(truth) + 1, strict=True):
        ids.append(f"CXR{n}_{k}_IM-{n:04d}-{1000 * k + 1}")
    images: dict[int, list[str]] = {}
    for n, image in zip(report, ids, strict=True):
        images.setdefault(n, []).append(image)
    majors, texts = say_findings(truth, openi_majors), report_texts(truth)
    for row in np.flatnonzero(~report.duplicated()):
        n = report.iloc[row]
        text = openi_xml(n, majors[row].split(";"), texts[row], images[n])
        (root / "ecgen-radiology" / f"{n}.xml").write_bytes(text)
    return write_images(truth, root, [f"{image}.png" for image in ids])


def openi_majors(findings: set[str]) -> str:
    """Index terms as they are in the reports, which say more than the finding."""
    terms = [MESH_OF.get(label, label) for label in (*LABELS, *MORE_LABELS) if label in findings]
    return ";".join(terms) or "normal"


def openi_xml(number: int, majors: Iterable[str], findings: str, images: Iterable[str], impression: str = "") -> bytes:
    """One report as the collection has it; what nobody reads is left out."""
    top = ElementTree.Element("eCitation")
    ElementTree.SubElement(top, "uId", id=f"CXR{number}")
    ElementTree.SubElement(top, "pmcId", id=str(number))
    article = ElementTree.SubElement(ElementTree.SubElement(top, "MedlineCitation"), "Article")
    abstract = ElementTree.SubElement(article, "Abstract")
    for name, text in (("COMPARISON", "None."), ("INDICATION", ""), ("FINDINGS", findings), ("IMPRESSION", impression)):
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
    numbers = (study_numbers(truth) + 1, place_in_study(truth) + 1)
    for split, patient, sex, age, view, n, k, text in zip(*facts, *numbers, report_texts(truth), strict=True):
        person, uid = f"GRDN{patient:08d}", f"1.2.826.0.{n}"
        series = f"{uid}.{k}"
        folder = f"deid_png/site{patient % 3}/{person}/studies/{uid}"
        paths.append(f"{folder}/series/{series}/instances/{series}.1.png")
        studies, key = files[split], f"{person}_A{n}_{uid}"
        if key not in studies:
            studies[key] = rexgradient_study(person, uid, n, sex, age, text)
        studies[key]["ImagePath"].append(f"../{paths[-1]}")
        studies[key]["ImageViewPosition"].append(view)
    for split, studies in files.items():
        name = "valid" if split == "val" else split
        (root / "metadata" / f"{name}_metadata_view_position.json").write_text(json.dumps(studies))
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
