"""Images and findings that are known, written as each source publishes its own: the demo set in nine layouts, and what the readers are tested on.

A table of truth has one row an image: `image` (a PNG to make it from, "" for tables alone), `patient` and `study` (whole numbers), `view` (PA, AP or
LATERAL), `age`, `sex` (M, F), `split` (train, val, test) and 0 or 1 for each of LABELS; a column `report`, where there is one, is the text of its report.
What a layout has no place for is lost, as it is in the published set: VinDr-CXR has no patients, CheXpert no Hernia.
"""

import gzip
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np
import pandas as pd
from PIL import Image

from roi.demo.nih_set import EASY, HEADER, MARKER, SHARDS, Phantom, check, make_demo_dataset, remove_stale
from roi.errors import UserError
from roi.labels import LABELS

Boxes = Mapping[
    tuple[str, str], tuple[float, float, float, float]
]  # (name of the source PNG, finding) -> x, y, w, h in 0..1 of the sides

CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
CHEXPERT_OF = {
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pleural_Thickening": "Pleural Other",
    "Infiltration": "Lung Opacity",
    "Effusion": "Pleural Effusion",
}
CHEXPERT_KNOWS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Pneumonia",
    "Pneumothorax",
    "Pleural Effusion",
)
VINDR = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
    "Other diseases",
    "No finding",
)
VINDR_OF = {
    "Mass": "Nodule/Mass",
    "Nodule": "Nodule/Mass",
    "Effusion": "Pleural effusion",
    "Pleural_Thickening": "Pleural thickening",
    "Fibrosis": "Pulmonary fibrosis",
}
VINBIG = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "No finding",
)
CXRLT = (
    "Adenopathy",
    "Atelectasis",
    "Azygos Lobe",
    "Bulla",
    "Calcification of the Aorta",
    "Cardiomegaly",
    "Cardiomyopathy",
    "Clavicle Fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged Cardiomediastinum",
    "Fibrosis",
    "Fissure",
    "Fracture",
    "Granuloma",
    "Hernia",
    "Hilum",
    "Hydropneumothorax",
    "Infarction",
    "Infiltration",
    "Kyphosis",
    "Lobar Atelectasis",
    "Lung Lesion",
    "Lung Opacity",
    "Mass",
    "Nodule",
    "Normal",
    "Osteopenia",
    "Pleural Effusion",
    "Pleural Other",
    "Pleural Thickening",
    "Pneumomediastinum",
    "Pneumonia",
    "Pneumoperitoneum",
    "Pneumothorax",
    "Pulmonary Embolism",
    "Pulmonary Hypertension",
    "Rib Fracture",
    "Round(ed) Atelectasis",
    "Scoliosis",
    "Subcutaneous Emphysema",
    "Support Devices",
    "Tortuous Aorta",
    "Tuberculosis",
)
CXRLT_OF = {"Effusion": "Pleural Effusion", "Pleural_Thickening": "Pleural Thickening"}
PADCHEST = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,MethodProjection,Pediatric,"
    "Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,"
    "BitsStored_DICOM,WindowCenter_DICOM,WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,"
    "ExposureTime,RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS"
)
PADCHEST_OF = {
    "Effusion": "pleural effusion",
    "Infiltration": "infiltrates",
    "Edema": "pulmonary edema",
    "Fibrosis": "pulmonary fibrosis",
    "Pleural_Thickening": "pleural thickening",
    "Hernia": "hiatal hernia",
}
MESH_OF = {
    "Atelectasis": "Pulmonary Atelectasis/base/left",
    "Effusion": "Pleural Effusion/left/small",
    "Infiltration": "Infiltrate/lung/upper lobe/right",
    "Mass": "Mass/lung/upper lobe/left",
    "Nodule": "Nodule/lung/base/right/small",
    "Pneumothorax": "Pneumothorax/apex/right",
    "Consolidation": "Consolidation/lung/base/left",
    "Edema": "Pulmonary Edema/mild",
    "Emphysema": "Pulmonary Emphysema",
    "Fibrosis": "Pulmonary Fibrosis/interstitial",
    "Pleural_Thickening": "Thickening/pleura/apex/bilateral",
    "Hernia": "Hernia, Hiatal/large",
}
WORDS_OF = {
    "Effusion": "pleural effusion",
    "Infiltration": "infiltrate",
    "Mass": "lung mass",
    "Nodule": "pulmonary nodule",
    "Edema": "pulmonary edema",
    "Fibrosis": "pulmonary fibrosis",
    "Pleural_Thickening": "pleural thickening",
    "Hernia": "hiatal hernia",
}
SIDE = 1024  # px, where an image says nothing else


def write_nih(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> None:
    """Data_Entry_2017.csv with its comma at the end of the header, the two official lists, twelve shards of PNG."""
    followup = truth.groupby("patient").cumcount()
    names = [f"{p:08d}_{n:03d}.png" for p, n in zip(truth["patient"], followup, strict=True)]
    labels = coded(truth, lambda found: "|".join(sorted(found)) or "No Finding")
    write_rows(
        root / "Data_Entry_2017.csv",
        HEADER,
        names,
        labels,
        followup,
        truth["patient"],
        truth["age"],
        truth["sex"],
        truth["view"],
        constant(truth, "2992,2991,0.143,0.143"),
        end="\r\n",
    )
    for file, test in (("train_val_list.txt", False), ("test_list.txt", True)):
        (root / file).write_text(
            "\n".join(name for name, split in zip(names, truth["split"], strict=True) if (split == "test") is test)
        )
    place(truth, root, [f"images_{1 + SHARDS * row // len(names):03d}/images/{name}" for row, name in enumerate(names)])


def write_openi(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> None:
    """ecgen-radiology/N.xml, a report each study (its first row says what is found), and the PNG files beside the folder."""
    (root / "ecgen-radiology").mkdir(parents=True, exist_ok=True)
    report = truth.groupby(["patient", "study"], sort=False).ngroup() + 1
    within = report.groupby(report).cumcount() + 1
    ids = [f"CXR{n}_{k}_IM-{n:04d}-{1000 * k + 1}" for n, k in zip(report, within, strict=True)]
    majors = coded(
        truth, lambda found: ";".join(MESH_OF.get(label, label) for label in LABELS if label in found) or "normal"
    )
    images: dict[int, list[str]] = {}
    for n, image in zip(report, ids, strict=True):
        images.setdefault(n, []).append(image)
    said = dict(reversed(list(zip(report, zip(majors, reports(truth), strict=True), strict=True))))
    for n, (major, text) in said.items():
        (root / "ecgen-radiology" / f"{n}.xml").write_bytes(openi_xml(n, major.split(";"), text, images[n]))
    place(truth, root, [f"{image}.png" for image in ids])


def openi_xml(number: int, majors: Iterable[str], findings: str, images: Iterable[str], impression: str = "") -> bytes:
    """One report as the collection has it; what nobody reads is left out."""
    top = xml.Element("eCitation")
    for tag, value in (("uId", f"CXR{number}"), ("pmcId", str(number))):
        xml.SubElement(top, tag, id=value)
    abstract = xml.SubElement(xml.SubElement(xml.SubElement(top, "MedlineCitation"), "Article"), "Abstract")
    for name, text in (("COMPARISON", "None."), ("INDICATION", ""), ("FINDINGS", findings), ("IMPRESSION", impression)):
        xml.SubElement(abstract, "AbstractText", Label=name).text = text
    mesh = xml.SubElement(top, "MeSH")
    for major in majors:
        xml.SubElement(mesh, "major").text = major
    for image in images:
        xml.SubElement(top, "parentImage", id=image)
    return xml.tostring(top, encoding="utf-8", xml_declaration=True)


def write_rexgradient(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> None:
    """metadata/{train,valid,test}_metadata_view_position.json, a study each key, and the PNG files that their paths name."""
    (root / "metadata").mkdir(parents=True, exist_ok=True)
    number = truth.groupby(["patient", "study"], sort=False).ngroup() + 1
    within = number.groupby(number).cumcount() + 1
    person = [f"GRDN{p:08d}" for p in truth["patient"]]
    paths = [
        f"deid_png/site{p % 3}/{who}/studies/1.2.826.0.{n}/series/1.2.826.0.{n}.{k}/instances/1.2.826.0.{n}.{k}.1.png"
        for p, who, n, k in zip(truth["patient"], person, number, within, strict=True)
    ]
    studies: dict[str, dict[str, dict]] = {"train": {}, "valid": {}, "test": {}}
    columns = (truth["split"], person, number, truth["sex"], truth["age"], reports(truth), paths, truth["view"])
    for split, who, n, sex, age, text, path, view in zip(*columns, strict=True):
        study = studies["valid" if split == "val" else split].setdefault(
            f"{who}_A{n}_1.2.826.0.{n}",
            {
                "PatientID": who,
                "StudyInstanceUid": f"1.2.826.0.{n}",
                "AccessionNumber": f"A{n}",
                "PatientSex": sex,
                "PatientAge": f"{age:03d}Y",
                "StudyDate": "20180101",
                "Indication": "Cough.",
                "Comparison": "None.",
                "Findings": text,
                "Impression": "",
                "ImagePath": [],
                "ImageViewPosition": [],
            },
        )
        study["ImagePath"].append(f"../{path}")
        study["ImageViewPosition"].append(view)
    for split, written in studies.items():
        (root / "metadata" / f"{split}_metadata_view_position.json").write_text(json.dumps(written))
    place(truth, root, paths)


def write_chexpert(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> None:
    """train.csv, valid.csv, test.csv and JPEG files; normal images say No Finding and leave the others blank, as published."""
    study = dense(truth, "patient", "study")
    within = truth.groupby(["patient", "study"]).cumcount() + 1
    folder = truth["split"].map({"train": "train", "val": "valid", "test": "test"})
    side = (truth["view"] == "LATERAL").map({True: "Lateral", False: "Frontal"})
    paths = [
        f"{f}/patient{p:05d}/study{s}/view{k}_{kind.lower()}.jpg"
        for f, p, s, k, kind in zip(folder, truth["patient"], study, within, side, strict=True)
    ]
    labels = coded(truth, lambda found: ",".join(chexpert_row(found)))
    columns = [
        [f"CheXpert-v1.0-small/{path}" for path in paths],
        truth["sex"].map({"M": "Male", "F": "Female"}),
        truth["age"],
        side,
        truth["view"].where(truth["view"] != "LATERAL", ""),
        labels,
    ]
    for name in ("train", "valid", "test"):
        rows = np.flatnonzero(folder == name)
        if name == "test" and not len(rows):
            continue  # the others are always published
        header = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT)
        write_rows(root / f"{name}.csv", header, *([column[row] for row in rows] for column in map(list, columns)))
    place(truth, root, paths)


def chexpert_row(found: set[str]) -> list[str]:
    """The 14 cells of CheXpert, in its order: 1.0, 0.0 or blank."""
    theirs = {CHEXPERT_OF.get(label, label) for label in found}
    known = CHEXPERT_KNOWS if found else ()
    return [
        "1.0" if name in theirs or (name == "No Finding" and not found) else "0.0" if name in known else ""
        for name in CHEXPERT
    ]


def write_mimic(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> None:
    """The three compressed tables (labels a study) and the JPEG files in files/."""
    ids = mimic_ids(truth)
    lost = constant(truth, "CHEST (PA AND LAT)")
    write_rows(
        root / "mimic-cxr-2.0.0-metadata.csv.gz",
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning",
        ids["dicom_id"],
        ids["subject_id"],
        ids["study_id"],
        lost,
        truth["view"],
        constant(truth, "3056,2544,21800506,213014.531,,,"),
    )
    names = ["Atelectasis", *sorted(set(CHEXPERT) - {"Atelectasis"})]
    first = ~ids["study_id"].duplicated()
    labels = coded(truth[first], lambda found: ",".join(chexpert_row(found)[CHEXPERT.index(name)] for name in names))
    write_rows(
        root / "mimic-cxr-2.0.0-chexpert.csv.gz",
        "subject_id,study_id," + ",".join(names),
        ids.loc[first, "subject_id"],
        ids.loc[first, "study_id"],
        labels,
    )
    split = truth["split"].replace({"val": "validate"})
    write_rows(
        root / "mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split",
        ids["dicom_id"],
        ids["study_id"],
        ids["subject_id"],
        split,
    )
    place(truth, root, ids["path"])


def write_cxrlt(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> None:
    """labels.csv of 2024: 45 findings and the split; images and patients are those of write_mimic."""
    ids = mimic_ids(truth)
    split = truth["split"].replace({"val": "development"})
    theirs = [CXRLT_OF.get(label, label) for label in LABELS]
    place_of = {label: CXRLT.index(name) for label, name in zip(LABELS, theirs, strict=True)}

    def cells(found: set[str]) -> str:
        row = ["0"] * len(CXRLT)
        for label in found:
            row[place_of[label]] = "1"
        row[CXRLT.index("Normal")] = str(int(not found))
        return ",".join(row)

    header = (
        "dicom_id,subject_id,study_id,ViewPosition,ViewCodeSequence_CodeMeaning,fpath," + ",".join(CXRLT) + ",split"
    )
    study = [f"s{n}" for n in ids["study_id"]]
    write_rows(
        root / "labels.csv",
        header,
        ids["dicom_id"],
        ids["subject_id"],
        study,
        truth["view"],
        constant(truth, ""),
        ids["path"],
        coded(truth, cells),
        split,
    )
    place(truth, root, ids["path"])


def mimic_ids(truth: pd.DataFrame) -> pd.DataFrame:
    """dicom_id, subject_id, study_id and path of each row; the same truth has the same."""
    subject = 10_000_000 + truth["patient"]
    study = 50_000_000 + truth.groupby(["patient", "study"], sort=False).ngroup()
    dicom = ["-".join(name[k : k + 8] for k in range(0, 40, 8)) for name in digests(truth)]
    path = [f"files/p{str(p)[:2]}/p{p}/s{s}/{d}.jpg" for p, s, d in zip(subject, study, dicom, strict=True)]
    return pd.DataFrame(
        {"dicom_id": dicom, "subject_id": subject.to_numpy(), "study_id": study.to_numpy(), "path": path},
        index=truth.index,
    )


def write_padchest(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> None:
    """The one table, compressed, with labels as a list in text whose items may begin with a space, and 16-bit PNG files in folders 0 to 50 and 54."""
    number = truth.groupby(["patient", "study"], sort=False).ngroup()
    study = [f"2168401113669640138295431665{n:010d}" for n in number]
    names = [f"{s}_{name[:6]}.png" for s, name in zip(study, digests(truth), strict=True)]
    folder = [54 if row % 52 == 51 else row % 52 for row in range(len(truth))]
    person = [f"83986048869429233163798823{p:010d}" for p in truth["patient"]]
    labels = coded(
        truth, lambda found: '"' + str([" " * (k % 2) + w for k, w in enumerate(padchest_words(found))]) + '"'
    )
    view = truth["view"].replace({"LATERAL": "L"})
    columns: list[Iterable] = [
        range(len(truth)),
        names,
        folder,
        constant(truth, "20140915"),
        study,
        person,
        (2014 - truth["age"]).map("{}.0".format),
        truth["sex"],
    ]
    columns += [
        constant(truth, "POSTEROANTERIOR"),
        view,
        constant(truth, "Manual review of DICOM fields,No" + "," * 16),
        number,
        constant(truth, "torax"),
    ]
    write_rows(
        root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
        PADCHEST,
        *columns,
        constant(truth, "Physician"),
        labels,
        constant(truth, "[],[],[],[]"),
    )
    place(truth, root, [f"{f}/{name}" for f, name in zip(folder, names, strict=True)], bits=16)


def padchest_words(found: set[str]) -> list[str]:
    return [PADCHEST_OF.get(label, label.lower()) for label in LABELS if label in found] or ["normal"]


def write_vindr(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> None:
    """annotations/image_labels_train.csv with three readers who agree, image_labels_test.csv with none named, and PNG twins of the DICOM files."""
    ids, test = [name[:32] for name in digests(truth)], (truth["split"] == "test").to_numpy()
    labels = coded(truth, lambda found: ",".join(str(int(name in vindr_names(found, VINDR))) for name in VINDR))
    readers = [(row, f"R{reader}") for row in np.flatnonzero(~test) for reader in (8, 9, 10)]
    write_rows(
        root / "annotations" / "image_labels_train.csv",
        "image_id,rad_id," + ",".join(VINDR),
        [ids[row] for row, _ in readers],
        [reader for _, reader in readers],
        [labels[row] for row, _ in readers],
    )
    header = "image_id," + ",".join(VINDR).replace("Other diseases", "Other disease")
    tested = np.flatnonzero(test)
    write_rows(
        root / "annotations" / "image_labels_test.csv",
        header,
        [ids[row] for row in tested],
        [labels[row] for row in tested],
    )
    place(truth, root, [f"{'test' if t else 'train'}/{name}.png" for name, t in zip(ids, test, strict=True)])


def write_vinbigdata(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> None:
    """train.csv, a row each box and reader (three who agree), and PNG twins of the DICOM files; `boxes` says where, the middle where it does not."""
    ids = [name[:32] for name in digests(truth)]
    lines = []
    for row, (source, said) in enumerate(
        zip(truth["image"], coded(truth, lambda found: ";".join(sorted(found))), strict=True)
    ):
        side = Image.open(source).width if source else SIDE
        rows: dict[str, str] = {}
        for label in said.split(";") if said else ():
            name = VINDR_OF.get(label, label)
            if name in VINBIG:
                x, y, w, h = (boxes or {}).get((Path(source).name, label), (0.25, 0.25, 0.5, 0.5))
                corners = ",".join(f"{side * value:.1f}" for value in (x, y, x + w, y + h))
                rows[f"{name},{VINBIG.index(name)}"] = rows.get(f"{name},{VINBIG.index(name)}", corners)
        for reader in ("R8", "R9", "R10"):
            lines += [
                f"{ids[row]},{name},{reader},{corners}" for name, corners in (rows or {"No finding,14": ",,,"}).items()
            ]
    write_rows(root / "train.csv", "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max", lines)
    place(truth, root, [f"train/{name}.png" for name in ids])


def vindr_names(found: set[str], known: Iterable[str]) -> set[str]:
    """What VinDr's readers call it; No finding where they have no word for it."""
    names = {VINDR_OF.get(label, label) for label in found} & set(known)
    return names or {"No finding"}


WRITERS: dict[str, Callable[[pd.DataFrame, Path, Boxes | None], None]] = {
    "nih": write_nih,
    "openi": write_openi,
    "rexgradient": write_rexgradient,
    "chexpert": write_chexpert,
    "mimic": write_mimic,
    "padchest": write_padchest,
    "vindr": write_vindr,
    "vinbigdata": write_vinbigdata,
    "cxrlt": write_cxrlt,
}


def coded(truth: pd.DataFrame, say: Callable[[set[str]], str]) -> list[str]:
    """What `say` makes of the findings of each row; it is asked once for each combination of them."""
    codes, row = np.unique(truth[list(LABELS)].to_numpy(np.int64) @ (1 << np.arange(len(LABELS))), return_inverse=True)
    said = [say({label for k, label in enumerate(LABELS) if code >> k & 1}) for code in codes.tolist()]
    return [said[k] for k in row.tolist()]


def reports(truth: pd.DataFrame) -> list[str]:
    """The text of each report: the column `report`, else a sentence each finding, present or not."""
    if "report" in truth:
        return truth["report"].tolist()
    words = {label: WORDS_OF.get(label, label.lower()) for label in LABELS}
    return coded(
        truth,
        lambda found: " ".join(f"There is {'' if label in found else 'no '}{word}." for label, word in words.items()),
    )


def constant(truth: pd.DataFrame, value: str) -> list[str]:
    return [value] * len(truth)


def dense(truth: pd.DataFrame, outer: str, inner: str) -> pd.Series:
    """1, 2, 3 ... for the values of `inner` within each of `outer`, in their order."""
    return truth.groupby(outer)[inner].rank(method="dense").astype(int)


def digests(truth: pd.DataFrame) -> list[str]:
    """A name of 40 hexadecimal digits for each row, made from patient, study and place in it."""
    place_in = truth.groupby(["patient", "study"]).cumcount()
    return [
        hashlib.sha1(f"{p}/{s}/{k}".encode()).hexdigest()
        for p, s, k in zip(truth["patient"], truth["study"], place_in, strict=True)
    ]


def write_rows(path: Path, header: str, *columns: Iterable, end: str = "\n") -> None:
    """A CSV file of columns whose fields are ready (quoted where they must be, several joined by commas), compressed where its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (",".join(map(str, row)) for row in zip(*columns, strict=True))
    data = end.join([header, *rows, ""]).encode()
    path.write_bytes(gzip.compress(data, compresslevel=1, mtime=0) if path.suffix == ".gz" else data)


def place(truth: pd.DataFrame, root: Path, paths: Iterable[str], bits: int = 8) -> None:
    """Each image that has a source, under the path that it has in this set: copied, or encoded anew as JPEG or with 16 bits."""
    for source, path in zip(truth["image"], paths, strict=True):
        if not source:
            continue
        out = root / path
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".jpg":
            Image.open(source).convert("L").save(out, quality=95)
        elif bits == 16:
            Image.fromarray(np.asarray(Image.open(source).convert("L")).astype(np.uint16) * 257).save(
                out, compress_level=1
            )
        else:
            shutil.copyfile(source, out)


def demo_truth(root: Path) -> tuple[pd.DataFrame, Boxes]:
    """What is known of a demo set in NIH's layout; one in ten patients outside the test list is for validation."""
    entries = pd.read_csv(root / "Data_Entry_2017.csv", index_col=False)
    names, test = entries["Image Index"], set((root / "test_list.txt").read_text().split("\n"))
    files = {path.name: str(path) for path in root.glob("images_*/images/*.png")}
    found = [set(labels.split("|")) for labels in entries["Finding Labels"]]
    val = entries["Patient ID"].isin(entries["Patient ID"][~names.isin(test)].unique()[::10])
    truth = pd.DataFrame(
        {
            "image": names.map(files),
            "patient": entries["Patient ID"],
            "study": entries["Follow-up #"],
            "view": entries["View Position"],
            "age": entries["Patient Age"],
            "sex": entries["Patient Gender"],
            "split": np.where(names.isin(test), "test", np.where(val, "val", "train")),
            **{label: [int(label in labels) for labels in found] for label in LABELS},
        }
    )
    rows = pd.read_csv(root / "BBox_List_2017.csv", skiprows=1, header=None).replace(
        {1: {"Infiltrate": "Infiltration"}}
    )
    boxes = {
        (name, label): (x / SIDE, y / SIDE, w / SIDE, h / SIDE)
        for name, label, x, y, w, h in rows.itertuples(index=False)
    }
    return truth, boxes


def make_demo_layout(
    out: Path,
    layout: str,
    images: int,
    size: int,
    seed: int,
    workers: int,
    overwrite: bool,
    phantom: Phantom = EASY,
) -> dict:
    """The demo set of roi/demo/nih_set.py in another layout, whole or not at all. -> its summary, with the same fields"""
    if layout == "nih":
        return make_demo_dataset(out, images, size, seed, workers, overwrite, phantom)
    if layout == "vinbigdata" and phantom.about.get("hard"):
        # There every label is a box, and a wrong label of the hard set has none.
        message = (
            "--hard --layout vinbigdata: its labels are boxes, and the hard set has labels without one; choose vindr"
        )
        raise UserError(message)
    started = time.perf_counter()
    out = Path(out).resolve()
    check(out, images, size, seed, workers, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(out)
    partial, aside = (out.with_name(f".{out.name}.partial-{kind}{os.getpid()}") for kind in ("", "old-"))
    try:
        summary = make_demo_dataset(partial / "nih", images, size, seed, workers, phantom=phantom)
        truth, boxes = demo_truth(partial / "nih")
        (partial / layout).mkdir()
        WRITERS[layout](truth, partial / layout, boxes)
        made = json.loads((partial / "nih" / MARKER).read_text()) | {"layout": layout}
        (partial / layout / MARKER).write_text(json.dumps(made, indent=1) + "\n")
        if out.exists():
            os.replace(out, aside)
        os.replace(partial / layout, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
    seconds = time.perf_counter() - started
    return summary | {"seconds": seconds, "images_per_s": images / seconds}
