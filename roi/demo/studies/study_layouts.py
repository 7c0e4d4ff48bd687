"""Layouts that have studies of several views: those of sources that publish them, CXR-LT's editions, and one table.

What is written comes from a table of truth (roi/demo/truth_table.py), with MORE_LABELS.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from roi.cxrlt_labels import TASK_1, TASK_2
from roi.demo.report_layouts import write_openi, write_rexgradient
from roi.demo.source_layouts import cxrlt_cells, mimic_ids, write_chexpert, write_mimic, write_padchest
from roi.demo.truth_table import (
    BESIDE_NORMAL,
    Boxes,
    constant,
    place_in_study,
    say_findings,
    write_images,
    write_rows,
)
from roi.labels import LABELS, NORMAL_LABELLED, published_name

# Files of 2024 and of 2023 -> the split of their rows.
FILES_2023 = {"train.csv": "train", "development.csv": "val", "test.csv": "test"}
TASK_FILES = {"development_labeled_task{}.csv": "val", "test_labeled_task{}.csv": "test"}


def column_order(labels: Sequence[str], normal: str) -> list[str]:
    """Columns as the files of 26 labels have them: by the alphabet, but for Normal, which stands before Nodule."""
    return [normal if name == "Normal" else name for name in sorted(labels, key=before_nodule)]


def before_nodule(name: str) -> str:
    return "Nn" if name == "Normal" else name


def write_editions(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """CXR-LT 2023 and tasks 1 and 2 of 2024, each in its own folder, with the images of MIMIC-CXR beside them.

    What the phantom does not draw is 0. Task 3 asks for findings that it cannot draw, and is left out.
    """
    ids = mimic_ids(truth)
    folder_23, folder_24 = root / "cxr-lt-2023", root / "cxr-lt-2024"
    order_23 = column_order(TASK_2, "No Finding")
    order_26 = column_order(TASK_2, "Normal")
    # Labels of task 1 stand in the order of the alphabet.
    order_40 = sorted(TASK_1)
    for name, split in FILES_2023.items():
        write_part(folder_23 / name, truth, ids, split, order_23, "path")
    write_2024 = partial(write_part, truth=truth, ids=ids, path_column="fpath")
    # The one training table has those of task 1.
    write_2024(folder_24 / "train_labeled.csv", split="train", labels=order_40)
    for pattern, split in TASK_FILES.items():
        write_2024(folder_24 / pattern.format(1), split=split, labels=order_40)
        write_2024(folder_24 / pattern.format(2), split=split, labels=order_26)
    return write_images(truth, root, ids["path"])


def write_part(
    csv: Path,
    truth: pd.DataFrame,
    ids: pd.DataFrame,
    split: str,
    labels: Sequence[str],
    path_column: str,
) -> None:
    """One file of an edition: the images of one split."""
    own = (truth["split"] == split).to_numpy()
    rows, names = truth[own], ids[own]
    studies = names["study_id"]
    # 2023 has bare numbers.
    study_cells = studies if path_column == "path" else [f"s{study}" for study in studies]
    columns: list[Iterable] = [
        names["dicom_id"],
        names["subject_id"],
        study_cells,
        rows["view"],
        constant(rows, ""),
        names["path"],
        say_findings(rows, partial(cxrlt_cells, labels)),
    ]
    header = f"dicom_id,subject_id,study_id,ViewPosition,ViewCodeSequence_CodeMeaning,{path_column}"
    write_rows(csv, f"{header},{','.join(labels)}", columns)


def write_table(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """table.csv as training reads it, a row an image, and images/*.png."""
    paths = []
    rows = zip(truth["patient"], truth["study"], place_in_study(truth), strict=True)
    for patient, study, place in rows:
        paths.append(f"images/{patient:06d}_{study}_{place}.png")
    labels = [f'"{text}"' for text in say_findings(truth, table_labels)]
    rest = [truth[column] for column in ("view", "age", "sex", "split")]
    columns: list[Iterable] = [
        paths,
        labels,
        plain_patients(truth),
        plain_studies(truth),
        *rest,
        constant(truth, "demo"),
    ]
    write_rows(root / "table.csv", "image,labels,patient_id,study_id,view,age,sex,split,dataset", columns)
    return write_images(truth, root, paths)


def table_labels(findings: set[str]) -> str:
    """In the order of task 2, Normal as a class of its own."""
    positive = set(findings)
    if not findings - BESIDE_NORMAL:
        positive.add(NORMAL_LABELLED)
    names = [published_name(name) for name in TASK_2]
    ordered = [*LABELS, *[name for name in names if name not in LABELS]]
    return ",".join(name for name in ordered if name in positive)


def write_openi_studies(truth: pd.DataFrame, root: Path, boxes: Boxes | None = None) -> list[str]:
    """The reports with their images, and indiana_projections.csv of Kaggle, which says the kind of each view."""
    paths = write_openi(truth, root, boxes)
    names = [path.removeprefix("CXR").removesuffix(".png") for path in paths]
    # 1_1_IM-0001-1001 is 1_IM-0001-1001.dcm.png there.
    reports = [name.split("_")[0] for name in names]
    files = []
    for n, name in zip(reports, names, strict=True):
        image = name.split("_")[2]
        files.append(f"{n}_{image}.dcm.png")
    is_lateral = truth["view"] == "LATERAL"
    kinds = is_lateral.map({True: "Lateral", False: "Frontal"})
    write_rows(root / "indiana_projections.csv", "uid,filename,projection", [reports, files, kinds])
    return paths


# ---- names of patients and studies, as the table of each layout has them ---------------------------------------------


def plain_patients(truth: pd.DataFrame) -> list[str]:
    return [f"demo:{patient}" for patient in truth["patient"]]


def plain_studies(truth: pd.DataFrame) -> list[str]:
    return [f"demo:{patient}:{study}" for patient, study in zip(truth["patient"], truth["study"], strict=True)]


def mimic_patients(truth: pd.DataFrame) -> list[str]:
    return [f"mimic:{subject}" for subject in mimic_ids(truth)["subject_id"]]


def mimic_studies(truth: pd.DataFrame) -> list[str]:
    ids = mimic_ids(truth)
    return [f"mimic:{p}:{s}" for p, s in zip(ids["subject_id"], ids["study_id"], strict=True)]


STUDY_WRITERS: dict[str, Callable[[pd.DataFrame, Path, Boxes | None], list[str]]] = {
    "table": write_table,
    "mimic": write_mimic,
    "cxrlt": write_editions,
    "chexpert": write_chexpert,
    "padchest": write_padchest,
    "openi": write_openi_studies,
    "rexgradient": write_rexgradient,
}
OF_MIMIC = ("mimic", "cxrlt")
