"""Images and findings that are known, written as each source publishes its own: the demo set in nine layouts.

The readers of roi/sources are tested on them, too. What a layout has no place for is lost, as it is in the published
set: VinDr-CXR has no patients, CheXpert no Hernia. What is written comes from a table of truth
(roi/demo/truth_table.py).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from roi.demo.nih_set import HEADER, SHARDS
from roi.demo.report_layouts import write_openi, write_rexgradient
from roi.demo.source_tables import (
    CHEXPERT,
    CHEXPERT_KNOWS,
    CHEXPERT_OF,
    CXRLT,
    CXRLT_OF,
    PADCHEST,
    PADCHEST_OF,
    VINBIG,
    VINDR,
    VINDR_OF,
)
from roi.demo.truth_table import (
    BESIDE_NORMAL,
    MORE_LABELS,
    SIDE,
    Boxes,
    constant,
    hashed_names,
    join_paths,
    place_in_study,
    say_findings,
    study_numbers,
    write_images,
    write_rows,
)
from roi.labels import LABELS

# ---- NIH ChestX-ray14 -----------------------------------------------------------------------------------------------


def write_nih(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """Data_Entry_2017.csv with its comma at the end of the header, the two official lists, twelve shards of PNG."""
    followup = truth.groupby("patient").cumcount()
    names = []
    for patient, n in zip(truth["patient"], followup, strict=True):
        names.append(f"{patient:08d}_{n:03d}.png")
    labels = say_findings(truth, nih_labels)
    scanner = constant(truth, "2992,2991,0.143,0.143")
    person = [truth[name] for name in ("patient", "age", "sex", "view")]
    columns: list[Iterable] = [names, labels, followup, *person, scanner]
    write_rows(root / "Data_Entry_2017.csv", HEADER, columns, end="\r\n")
    test = (truth["split"] == "test").to_numpy()
    for file, listed in (("train_val_list.txt", ~test), ("test_list.txt", test)):
        lines = np.array(names)[listed]
        (root / file).write_text("\n".join(lines))
    paths = []
    for row, name in enumerate(names):
        shard = 1 + SHARDS * row // len(names)
        paths.append(f"images_{shard:03d}/images/{name}")
    return write_images(truth, root, paths)


def nih_labels(findings: set[str]) -> str:
    return "|".join(sorted(findings)) or "No Finding"


# ---- CheXpert, MIMIC-CXR and CXR-LT ---------------------------------------------------------------------------------


def write_chexpert(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """train.csv, valid.csv, test.csv and JPEG files.

    Normal images say No Finding and leave the others blank, as published.
    """
    by_patient = truth.groupby("patient")["study"]
    study = by_patient.rank(method="dense").astype(int)
    folder = truth["split"].replace({"val": "valid"})
    is_lateral = truth["view"] == "LATERAL"
    side = is_lateral.map({True: "Lateral", False: "Frontal"})
    within = place_in_study(truth) + 1
    paths = []
    rows = zip(folder, truth["patient"], study, within, side.str.lower(), strict=True)
    for split, p, s, k, kind in rows:
        paths.append(f"{split}/patient{p:05d}/study{s}/view{k}_{kind}.jpg")
    table = pd.DataFrame(
        {
            "path": [f"CheXpert-v1.0-small/{path}" for path in paths],
            "sex": truth["sex"].map({"M": "Male", "F": "Female"}).to_numpy(),
            "age": truth["age"].to_numpy(),
            "side": side.to_numpy(),
            "view": truth["view"].where(truth["view"] != "LATERAL", "").to_numpy(),
            "labels": say_findings(truth, chexpert_labels),
        }
    )
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT)
    for name in ("train", "valid", "test"):
        rows = table[(folder == name).to_numpy()]
        # The test set was published later than the others, which are always there.
        if len(rows) or name != "test":
            columns: list[Iterable] = [rows[column] for column in rows]
            write_rows(root / f"{name}.csv", header, columns)
    return write_images(truth, root, paths)


def chexpert_labels(findings: set[str]) -> str:
    return ",".join(chexpert_cells(findings).values())


def chexpert_cells(findings: set[str]) -> dict[str, str]:
    """The 14 cells of CheXpert, in its order: 1.0, 0.0 or blank."""
    positive = {CHEXPERT_OF.get(label, label) for label in findings}
    if not findings - BESIDE_NORMAL:
        positive.add("No Finding")
    cells = dict.fromkeys(CHEXPERT, "")
    if findings:
        cells |= dict.fromkeys(CHEXPERT_KNOWS, "0.0")
    return cells | dict.fromkeys(positive & set(CHEXPERT), "1.0")


def write_mimic(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """The three compressed tables (labels a study) and the JPEG files in files/."""
    ids = mimic_ids(truth)
    dicom, study, subject = ids["dicom_id"], ids["study_id"], ids["subject_id"]
    procedure = constant(truth, "CHEST (PA AND LAT)")
    rest = constant(truth, "3056,2544,21800506,213014.531,,,")
    write_rows(
        root / "mimic-cxr-2.0.0-metadata.csv.gz",
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning",
        [dicom, subject, study, procedure, truth["view"], rest],
    )
    # Labels are of a study: that of its first image.
    first = ~study.duplicated()
    # Alphabetical, unlike CheXpert's own.
    names = sorted(CHEXPERT)
    labels = say_findings(truth[first], partial(mimic_labels, names))
    header = "subject_id,study_id," + ",".join(names)
    columns: list[Iterable] = [subject[first], study[first], labels]
    write_rows(root / "mimic-cxr-2.0.0-chexpert.csv.gz", header, columns)
    split = truth["split"].replace({"val": "validate"})
    header = "dicom_id,study_id,subject_id,split"
    columns = [dicom, study, subject, split]
    write_rows(root / "mimic-cxr-2.0.0-split.csv.gz", header, columns)
    return write_images(truth, root, ids["path"])


def mimic_labels(names: list[str], findings: set[str]) -> str:
    cells = chexpert_cells(findings)
    return ",".join(cells[name] for name in names)


def mimic_ids(truth: pd.DataFrame) -> pd.DataFrame:
    """dicom_id, subject_id, study_id and path of each row; the same truth has the same."""
    subject = 10_000_000 + truth["patient"]
    study = 50_000_000 + study_numbers(truth)
    dicom, paths = [], []
    for name, p, s in zip(hashed_names(truth), subject, study, strict=True):
        parts = [name[k : k + 8] for k in range(0, 40, 8)]
        identifier = "-".join(parts)
        dicom.append(identifier)
        folder = f"files/p{str(p)[:2]}/p{p}/s{s}"
        paths.append(f"{folder}/{identifier}.jpg")
    columns = {
        "dicom_id": dicom,
        "subject_id": subject.to_numpy(),
        "study_id": study.to_numpy(),
        "path": paths,
    }
    return pd.DataFrame(columns, index=truth.index)


def write_cxrlt(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """labels.csv of 2024: 45 findings and the split; images and patients are those of write_mimic."""
    ids = mimic_ids(truth)
    columns: list[Iterable] = [
        ids["dicom_id"],
        ids["subject_id"],
        [f"s{study}" for study in ids["study_id"]],
        truth["view"],
        constant(truth, ""),
        ids["path"],
        say_findings(truth, cxrlt_labels),
        truth["split"].replace({"val": "development"}),
    ]
    header = f"dicom_id,subject_id,study_id,ViewPosition,ViewCodeSequence_CodeMeaning,fpath,{','.join(CXRLT)},split"
    write_rows(root / "labels.csv", header, columns)
    return write_images(truth, root, ids["path"])


def cxrlt_labels(findings: set[str]) -> str:
    return cxrlt_cells(CXRLT, findings)


def cxrlt_cells(names: Sequence[str], findings: set[str]) -> str:
    """0 or 1 for each column of labels."""
    positive = {CXRLT_OF.get(label, label) for label in findings}
    if not findings - BESIDE_NORMAL:
        positive |= {"Normal", "No Finding"}  # one of them is a column
    cells = [int(name in positive) for name in names]
    return ",".join(map(str, cells))


# ---- PadChest -------------------------------------------------------------------------------------------------------


def write_padchest(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """The one table, compressed, and 16-bit PNG files in folders 0 to 50 and 54.

    Labels are a list in text whose items may begin with a space.
    """
    number = study_numbers(truth)
    study = [f"2168401113669640138295431665{n:010d}" for n in number]
    names = []
    for one, name in zip(study, hashed_names(truth), strict=True):
        names.append(f"{one}_{name[:6]}.png")
    folders = []
    for row in range(len(truth)):
        # As published, there is no folder 51 to 53.
        folder = row % 52
        folders.append(54 if folder == 51 else folder)
    columns: list[Iterable] = [
        range(len(truth)),
        names,
        folders,
        constant(truth, "20140915"),
        study,
        [f"83986048869429233163798823{patient:010d}" for patient in truth["patient"]],
        [f"{2014 - age}.0" for age in truth["age"]],
        truth["sex"],
        constant(truth, "POSTEROANTERIOR"),
        truth["view"].replace({"LATERAL": "L"}),
        constant(truth, "Manual review of DICOM fields,No" + "," * 16),
        number,
        constant(truth, "torax"),
        constant(truth, "Physician"),
        say_findings(truth, padchest_labels),
        constant(truth, "[],[],[],[]"),
    ]
    write_rows(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", PADCHEST, columns)
    paths = join_paths(folders, names)
    return write_images(truth, root, paths, bits=16)


def padchest_labels(findings: set[str]) -> str:
    words = []
    for label in (*LABELS, *MORE_LABELS):
        if label in findings:
            words.append(PADCHEST_OF.get(label, label.lower()))
    words = words or ["normal"]
    # Some items of the published lists begin with a space: here every second one.
    words[1::2] = [f" {word}" for word in words[1::2]]
    return f'"{words}"'


# ---- VinDr-CXR and VinBigData ---------------------------------------------------------------------------------------


def write_vindr(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """annotations/image_labels_train.csv, image_labels_test.csv, and PNG twins of the DICOM files.

    Of the training images there are three readers, who agree; of the test images none is named.
    """
    ids = [name[:32] for name in hashed_names(truth)]
    labels = say_findings(truth, vindr_labels)
    test = (truth["split"] == "test").to_numpy()
    table = pd.DataFrame({"id": ids, "labels": labels})
    readers = pd.DataFrame({"reader": ["R8", "R9", "R10"]})
    read = table[~test].merge(readers, how="cross")
    header = "image_id,rad_id," + ",".join(VINDR)
    columns: list[Iterable] = [read["id"], read["reader"], read["labels"]]
    write_rows(root / "annotations" / "image_labels_train.csv", header, columns)
    # The published header of the test set spells one name differently.
    header = "image_id," + ",".join(VINDR).replace("Other diseases", "Other disease")
    tested = table[test]
    columns = [tested["id"], tested["labels"]]
    write_rows(root / "annotations" / "image_labels_test.csv", header, columns)
    folders = np.where(test, "test", "train")
    paths = join_paths(folders, [f"{name}.png" for name in ids])
    return write_images(truth, root, paths)


def vindr_labels(findings: set[str]) -> str:
    """What VinDr's readers call it; No finding where they have no word for it."""
    positive = {VINDR_OF.get(label, label) for label in findings} & set(VINDR)
    positive = positive or {"No finding"}
    cells = [int(name in positive) for name in VINDR]
    return ",".join(map(str, cells))


def write_vinbigdata(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """train.csv, a row each box and reader (three who agree), and PNG twins of the DICOM files."""
    ids = [name[:32] for name in hashed_names(truth)]
    lines = []
    rows = zip(ids, truth["image"], say_findings(truth, nih_labels), strict=True)
    for image, source, findings in rows:
        corners = vinbigdata_corners(source, findings.split("|"), boxes or {})
        for reader in ("R8", "R9", "R10"):
            for label, edges in corners.items():
                lines.append(f"{image},{label},{reader},{edges}")
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
    write_rows(root / "train.csv", header, [lines])
    paths = [f"train/{name}.png" for name in ids]
    return write_images(truth, root, paths)


def vinbigdata_corners(source: str, findings: Iterable[str], boxes: Boxes) -> dict[str, str]:
    """Name and number of each class that is found -> corners of its box, or of the middle where none is known."""
    side = Image.open(source).width if source else SIDE
    corners: dict[str, str] = {}
    for label in findings:
        name = VINDR_OF.get(label, label)
        if name in VINBIG:
            key = (Path(source).name, label)
            x, y, w, h = boxes.get(key, (0.25, 0.25, 0.5, 0.5))
            corners_of_box = (x, y, x + w, y + h)
            edges = ",".join(f"{side * value:.1f}" for value in corners_of_box)
            # A mass and a nodule are one class there: the first has the box.
            corners.setdefault(f"{name},{VINBIG.index(name)}", edges)
    return corners or {"No finding,14": ",,,"}


# ---- all of them ----------------------------------------------------------------------------------------------------

# Each gives the path of every image below the folder.
WRITERS: dict[str, Callable[[pd.DataFrame, Path, Boxes | None], list[str]]] = {
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
