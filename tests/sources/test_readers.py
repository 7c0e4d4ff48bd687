"""Every reader, cell by cell, on tables as they are published with their odd cases; what cannot be read is named.

Codes were worked out by hand. A row of cells is a word of 14 letters in the order of LABELS (Atelectasis Cardiomegaly
Effusion Infiltration Mass Nodule Pneumonia Pneumothorax Consolidation Edema Emphysema Fibrosis Pleural_Thickening
Hernia): Absent, Present, Uncertain, never Sought, Blank, Coarse (a parent alone), eXcluded, Divided readers.
"""

import csv
import gzip
import io
import itertools
import json
import tarfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from roi.choices import LAYOUTS
from roi.data.images import locate
from roi.data.table import COLUMNS, check_table
from roi.demo.layout_set import make_demo_layout
from roi.demo.report_layouts import openi_xml
from roi.demo.source_layouts import WRITERS
from roi.demo.source_tables import CHEXPERT, CXRLT, PADCHEST, VINDR
from roi.demo.studies.study_layouts import STUDY_WRITERS
from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.build_table import with_label_text
from roi.sources.label_states import ABSENT, EXCLUDED, NOT_LABELED, NOT_MENTIONED, PARENT_ONLY, PRESENT
from roi.sources.merge import READERS
from roi.sources.nih import nih_label_table
from roi.sources.reading import READER_COLUMNS, count_other_labels

LETTERS = "APUSBCXD"
ALL = ("nih", "openi", "rexgradient", "chexpert", "mimic", "padchest", "vindr", "vinbigdata", "cxrlt")
CXRLT_2023 = [
    "Atelectasis",
    "Calcification of the Aorta",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged Cardiomediastinum",
    "Fibrosis",
    "Fracture",
    "Hernia",
    "Infiltration",
    "Lung Lesion",
    "Lung Opacity",
    "Mass",
    "No Finding",
    "Nodule",
    "Pleural Effusion",
    "Pleural Other",
    "Pleural Thickening",
    "Pneumomediastinum",
    "Pneumonia",
    "Pneumoperitoneum",
    "Pneumothorax",
    "Subcutaneous Emphysema",
    "Support Devices",
    "Tortuous Aorta",
]


def read(name: str, root: Path, **options: str) -> pd.DataFrame:
    """A source as a table whose fields say what its cells say; one row an image, looked up by it."""
    given = READERS[name](root, **options)
    assert list(given) == [*READER_COLUMNS, *LABELS] and "soft" in READER_COLUMNS
    table = with_label_text(given)
    assert list(table) == [*COLUMNS, *LABELS]
    assert all(isinstance(value, str) for column in COLUMNS for value in table[column].unique())
    assert {table[label].dtype for label in LABELS} == {np.dtype(np.int8)}
    assert set(table["dataset"]) == {name} and table["image"].is_unique
    for field, codes in (("labels", {1}), ("uncertain", {2}), ("unknown", {3, 4, 5, 6, 7})):
        for said, *cells in table[[field, *LABELS]].drop_duplicates().itertuples(index=False):
            ours = [label for label, code in zip(LABELS, cells, strict=True) if code in codes]
            assert said == ",".join(ours)
    return check_table(table, name).set_index("image", drop=False)


def words(table: pd.DataFrame) -> dict[str, str]:
    """Image -> its 14 letters."""
    return {
        image: "".join(LETTERS[code] for code in cells)
        for image, *cells in table[["image", *LABELS]].itertuples(index=False)
    }


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def as_csv(header: list[str], rows: list[dict[str, object]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


# NIH


NIH_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
NIH_ROWS = (
    "00000001_000.png,Cardiomegaly|Emphysema,0,1,411,M,PA,2682,2749,0.143,0.143\r\n"
    "00000013_005.png,No Finding,5,13,058,F,AP,2682,2749,0.143,0.143\r\n"
    "00000013_006.png,Pleural_Thickening|Infiltration|Hernia,6,13,59,F,AP,2682,2749,0.143,0.143\r\n"
)


@pytest.mark.parametrize("whole_folder", [True, False])
def test_nih(tmp_path: Path, whole_folder: bool) -> None:
    """The 2017 file: a comma too many in the header, an age of 411, Windows line ends; the lists say who is tested."""
    file = write(tmp_path / "Data_Entry_2017.csv", f"{NIH_2017}\r\n{NIH_ROWS}")
    write(tmp_path / "train_val_list.txt", "00000001_000.png\n00000013_006.png")
    write(tmp_path / "test_list.txt", "00000013_005.png")
    table = read("nih", tmp_path if whole_folder else file)
    assert words(table) == {
        "00000001_000.png": "APAAAAAAAAPAAA",
        "00000013_005.png": "AAAAAAAAAAAAAA",
        "00000013_006.png": "AAAPAAAAAAAAPP",
    }
    assert table["patient_id"].tolist() == ["nih:1", "nih:13", "nih:13"] and table["study_id"].tolist() == [
        "nih:1:0",
        "nih:13:5",
        "nih:13:6",
    ]
    assert table["split"].tolist() == ["train_val", "test", "train_val"] and table["view"].tolist() == [
        "PA",
        "AP",
        "AP",
    ]
    assert table["age"].str.lstrip("0").tolist() == ["", "58", "59"] and table["sex"].tolist() == ["M", "F", "F"]
    assert set(table["label_source"]) == {"Data_Entry_2017.csv"}


def test_nih_keeps_a_label_that_is_not_one_of_the_14(tmp_path: Path) -> None:
    write(
        tmp_path / "Data_Entry_2017.csv",
        f"{NIH_2017}\r\n{NIH_ROWS.replace('Cardiomegaly|', 'Tuberculosis|Cardiomegaly|')}",
    )
    table = nih_label_table(tmp_path)
    assert list(table) == list(COLUMNS)
    assert table["labels"].tolist()[0] == "Tuberculosis,Cardiomegaly,Emphysema"
    assert table["labels"].tolist()[1:] == ["", "Pleural_Thickening,Infiltration,Hernia"]  # in the order of the file
    assert words(read("nih", tmp_path))["00000001_000.png"] == "APAAAAAAAAPAAA"


def test_nih_real_totals(shared: Path) -> None:
    """All 14, as published and as counted in the raw file."""
    table = read("nih", shared / "nih_metadata" / "Data_Entry_2017_v2020.csv")
    totals = [11_559, 2_776, 13_317, 19_894, 5_782, 6_331, 1_431, 5_302, 4_667, 2_303, 2_516, 1_686, 3_385, 227]
    assert len(table) == 112_120 and (table[list(LABELS)] == PRESENT).sum().tolist() == totals
    assert set(np.unique(table[list(LABELS)])) == {ABSENT, PRESENT}
    with open(shared / "nih_metadata" / "Data_Entry_2017_v2020.csv") as file:
        raw = Counter(label for row in csv.DictReader(file) for label in row["Finding Labels"].split("|"))
    assert [raw[label] for label in LABELS] == totals
    assert (
        table["split"].value_counts().to_dict() == {"train_val": 86_524, "test": 25_596}
        and table["patient_id"].nunique() == 30_805
    )


# CheXpert and MIMIC-CXR-JPG


CHEXPERT_HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]
# Path below the folder of the set -> (cells of the source, letters, letters where blank is negative).
CHEXPERT_CASES = {
    "train/patient00001/study1/view1_frontal.jpg": ({"No Finding": "1.0"}, "AAASSSAAAASSSS", "AAASSSAAAASSSS"),
    "train/patient00002/study2/view1_frontal.jpg": (
        {
            "Cardiomegaly": "-1.0",
            "Lung Opacity": "1.0",
            "Edema": "-1.0",
            "Consolidation": "-1.0",
            "Atelectasis": "-1.0",
            "Pleural Effusion": "-1.0",
            "Fracture": "1.0",
        },
        "UUUCSSCBUUSSSS",
        "UUUCSSCAUUSSSS",
    ),
    "train/patient00002/study2/view2_lateral.jpg": (
        {"Lung Lesion": "1.0", "Edema": "1.0", "Atelectasis": "0.0", "Pneumothorax": "0", "Pleural Other": "1.0"},
        "ABBSCCBABPSSCS",
        "AAASCCAAAPSSCS",
    ),
    "train/patient00003/study1/view1_lateral.jpg": ({}, "BBBSSSBBBBSSSS", "AAASSSAAAASSSS"),
    "train/patient00003/study11/view1_frontal.jpg": (
        {"No Finding": "1", "Pneumonia": "-1", "Support Devices": "1"},
        "AAASSSUAAASSSS",
        "AAASSSUAAASSSS",
    ),
    "train/patient64540/study1/view1_frontal.jpg": (
        {"Lung Lesion": "-1.0", "Lung Opacity": "0.0", "Pleural Other": "0.0", "Pneumonia": "1.0"},
        "BBBSSSPBBBSSSS",
        "AAASSSPAAASSSS",
    ),
}
CHEXPERT_WHO = (
    ("Female", 68, "Frontal", "AP"),
    ("Male", 87, "Frontal", "PA"),
    ("Male", 87, "Lateral", ""),
    ("Unknown", 0, "Lateral", "LL"),
    ("Female", 90, "Frontal", ""),
    ("Male", 18, "Frontal", "AP"),
)


def chexpert_set(root: Path, folder: str = "CheXpert-v1.0-small", name: str = "train.csv") -> Path:
    who = [dict(zip(CHEXPERT_HEADER[1:5], person, strict=True)) for person in CHEXPERT_WHO]
    rows = [
        {"Path": f"{folder}/{path}", **person, **case[0]}
        for (path, case), person in zip(CHEXPERT_CASES.items(), who, strict=True)
    ]
    write(root / name, as_csv(CHEXPERT_HEADER, rows))
    valid = dict.fromkeys(CHEXPERT, "0.0") | {
        "Path": "CheXpert-v1.0/valid/patient64541/study1/view1_frontal.jpg",
        "Sex": "Male",
        "Age": 73,
    }
    write(
        root / "valid.csv",
        as_csv(CHEXPERT_HEADER, [valid | {"Frontal/Lateral": "Frontal", "AP/PA": "AP", "Cardiomegaly": "1.0"}]),
    )
    return root


@pytest.mark.parametrize("folder", ["CheXpert-v1.0", "CheXpert-v1.0-small"])
@pytest.mark.parametrize("blank", ["unknown", "negative"])
def test_chexpert(tmp_path: Path, folder: str, blank: str) -> None:
    table = read("chexpert", chexpert_set(tmp_path, folder), blank=blank)
    expected = {path: letters[blank == "negative"] for path, (_, *letters) in CHEXPERT_CASES.items()}
    assert words(table) == expected | {"valid/patient64541/study1/view1_frontal.jpg": "APASSSAAAASSSS"}
    assert table["patient_id"].tolist() == [f"chexpert:{n}" for n in (1, 2, 2, 3, 3, 64540, 64541)]
    assert table["study_id"].tolist() == [
        f"chexpert:{n}" for n in ("1:1", "2:2", "2:2", "3:1", "3:11", "64540:1", "64541:1")
    ]
    assert table["view"].tolist() == ["AP", "PA", "LATERAL", "LATERAL", "FRONTAL", "AP", "AP"]
    assert table["sex"].tolist() == ["F", "M", "M", "", "F", "M", "M"] and table["age"].tolist() == [
        "68",
        "87",
        "87",
        "0",
        "90",
        "18",
        "73",
    ]
    assert table["split"].tolist() == ["train"] * 6 + ["val"] and table["label_source"].tolist() == [
        "train.csv"
    ] * 6 + ["valid.csv"]


def test_chexpert_is_found_inside_the_folder_of_its_archive(tmp_path: Path) -> None:
    """The image is where it lies below the folder that was named."""
    nested = read("chexpert", chexpert_set(tmp_path / "CheXpert-v1.0-small").parent)
    assert list(words(nested))[0] == "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    assert list(words(nested).values()) == list(words(read("chexpert", tmp_path / "CheXpert-v1.0-small")).values())


BATCHES = ("CheXpert-v1.0 batch 2 (train 1)", "CheXpert-v1.0 batch 3 (train 2)", "CheXpert-v1.0 batch 4 (train 3)")
FIRST_BATCH = "CheXpert-v1.0 batch 1 (validate & csv)"


@pytest.mark.parametrize(
    ("around", "inside", "tables"),
    [
        ("", "", FIRST_BATCH),
        ("chexpertchestxrays-u20210408", "", FIRST_BATCH),
        ("", "train", FIRST_BATCH),
        ("", "CheXpert-v1.0/train", ""),
    ],
)
def test_chexpert_stays_as_its_archives_unpack(tmp_path: Path, around: str, inside: str, tables: str) -> None:
    """Tables in the first batch or beside them, patients of train in three others: images are found, rows alike."""
    merged = read("chexpert", chexpert_set(tmp_path / "merged"))
    home = tmp_path / "chexpert" / around
    chexpert_set(home / tables)
    for n, image in enumerate(merged["image"]):
        folder, below = image.split("/", 1)
        batch = f"{FIRST_BATCH}/valid" if folder == "valid" else f"{BATCHES[int(below[7:12]) % 3]}/{inside}"
        write(home / batch / below, f"picture {n}")
    (home / "README.md").write_text("")
    table = read("chexpert", tmp_path / "chexpert")
    paths = locate(tmp_path / "chexpert", table["image"].tolist())
    assert [Path(str(path)).read_text() for path in paths] == [f"picture {n}" for n in range(len(merged))]
    assert list(words(table).values()) == list(words(merged).values())
    for column in ("patient_id", "study_id", "split", "view", "label_source"):
        assert table[column].tolist() == merged[column].tolist()


def test_what_is_there_instead_of_a_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "chexpert" / "CheXpert-v1.0 batch 2 (train 1)" / "patient00001").mkdir(parents=True)
    assert "it holds CheXpert-v1.0 batch 2 (train 1);" in refused("chexpert", tmp_path / "chexpert")
    for n in range(9):
        write(tmp_path / "padchest" / f"{n}.zip", "")
    assert "it holds 0.zip, 1.zip, 2.zip, 3.zip, 4.zip, 5.zip, and 3 more;" in refused(
        "padchest", tmp_path / "padchest"
    )
    (tmp_path / "nih").mkdir()
    assert "it holds nothing;" in refused("nih", tmp_path / "nih")


MIMIC = "mimic-cxr-2.0.0"
MIMIC_NAMES = ["Atelectasis", *sorted(set(CHEXPERT) - {"Atelectasis"})]  # alphabetical, unlike CheXpert's
DICOMS = [f"{k}2aa804e-bde0afdd-112c0b34-7bc16630-4e384014" for k in range(5)]
MIMIC_IMAGES = [
    f"files/p{p[:2]}/p{p}/s{s}/{dicom}.jpg"
    for (p, s), dicom in zip(
        [
            ("10000032", "50414267"),
            ("10000032", "50414267"),
            ("10000032", "53189527"),
            ("19999733", "57132437"),
            ("19999733", "58825743"),
        ],
        DICOMS,
        strict=True,
    )
]


def mimic_set(root: Path, ending: str = ".csv.gz") -> Path:
    """Two images of one study, a study without labels, images without a view."""
    header = [
        "dicom_id",
        "subject_id",
        "study_id",
        "PerformedProcedureStepDescription",
        "ViewPosition",
        "Rows",
        "Columns",
        "StudyDate",
        "StudyTime",
    ]
    header += [f"{name}CodeSequence_CodeMeaning" for name in ("Procedure", "View", "PatientOrientation")]
    keys = [
        dict(
            zip(
                ("subject_id", "study_id", "dicom_id"),
                (image.split("/")[2][1:], image.split("/")[3][1:], image.split("/")[4][:-4]),
                strict=True,
            )
        )
        for image in MIMIC_IMAGES
    ]
    views = ("PA", "LATERAL", "", "LL", "AP")
    write(
        root / f"{MIMIC}-metadata{ending}",
        as_csv(header, [k | {"ViewPosition": v, "Rows": 3056} for k, v in zip(keys, views, strict=True)]),
    )
    labels = (
        {"subject_id": 19999733, "study_id": 57132437, "No Finding": "1.0"},
        {
            "subject_id": 10000032,
            "study_id": 50414267,
            "Atelectasis": "-1.0",
            "Pleural Effusion": "1.0",
            "Pneumonia": "0.0",
            "Lung Lesion": "1.0",
        },
        {"subject_id": 10000032, "study_id": 53189527, "Edema": "0.0", "Consolidation": "1.0", "Pneumothorax": "-1.0"},
    )
    write(root / f"{MIMIC}-chexpert{ending}", as_csv(["subject_id", "study_id", *MIMIC_NAMES], list(labels)))
    write(
        root / f"{MIMIC}-negbio{ending}",
        as_csv(["subject_id", "study_id", *MIMIC_NAMES], [row | {"Hernia": ""} and row for row in labels[:1]]),
    )
    split = [
        key | {"split": name} for key, name in zip(keys, ("train", "train", "train", "validate", "test"), strict=True)
    ]
    write(root / f"{MIMIC}-split{ending}", as_csv(["dicom_id", "study_id", "subject_id", "split"], split))
    return root


@pytest.mark.parametrize("ending", [".csv.gz", ".csv"])
@pytest.mark.parametrize("blank", ["unknown", "negative"])
def test_mimic(tmp_path: Path, ending: str, blank: str) -> None:
    table = read("mimic", mimic_set(tmp_path, ending), blank=blank)
    unknown = ["UBPSCCABBBSSSS", "UBPSCCABBBSSSS", "BBBSSSBUPASSSS", "AAASSSAAAASSSS", "BBBSSSBBBBSSSS"]
    negative = ["UAPSCCAAAASSSS", "UAPSCCAAAASSSS", "AAASSSAUPASSSS", "AAASSSAAAASSSS"]
    found = words(table)
    assert list(found) == MIMIC_IMAGES
    assert list(found.values())[:4] == (negative if blank == "negative" else unknown[:4])
    if blank == "unknown":
        assert found[MIMIC_IMAGES[4]] == unknown[4]
    assert table["patient_id"].tolist() == [f"mimic:{n}" for n in [10000032] * 3 + [19999733] * 2]
    assert table["study_id"].iloc[[0, 4]].tolist() == ["mimic:10000032:50414267", "mimic:19999733:58825743"]
    assert table["view"].tolist() == ["PA", "LATERAL", "", "LATERAL", "AP"] and table["split"].tolist() == [
        "train"
    ] * 3 + ["val", "test"]
    assert set(table["label_source"]) == {f"{MIMIC}-chexpert.csv"} and set(table["age"]) == set(table["sex"]) == {""}


def test_a_study_without_labels_is_blank_whatever_blank_means(tmp_path: Path) -> None:
    """`negative` is about findings that a labeled report does not mention; here no report was labeled."""
    table = read("mimic", mimic_set(tmp_path), blank="negative")
    assert words(table)[MIMIC_IMAGES[4]] == "BBBSSSBBBBSSSS"


# PadChest


PADCHEST_CASES = (  # Labels as published -> letters
    ("['normal']", "AAAAAAAAAAAAAA"),
    (
        "['pulmonary mass', ' pleural effusion', 'subcutaneous emphysema ', 'pseudonodule', ' breast mass', "
        "'pericardial effusion']",
        "AAPAPCAAAAAAAA",
    ),
    (
        "['hydropneumothorax', 'laminar atelectasis', ' atypical pneumonia', 'multiple nodules', 'hiatal hernia']",
        "PAPAAPPPAAAAAP",
    ),
    (
        "['costophrenic angle blunting', 'kerley lines', 'COPD signs', 'fibrotic band', 'pleural plaques', "
        "'air bronchogram']",
        "AACCAAAACCCCCA",
    ),
    (
        "['costophrenic angle blunting', 'pleural effusion', 'bullas', 'emphysema', 'infiltrates', "
        "'interstitial pattern', 'consolidation', 'air bronchogram', 'post radiotherapy changes']",
        "AAPPAAAAPAPCCA",
    ),
    ("['consolidation']", "AAACAAAAPAAAAA"),
    ("['ground glass pattern']", "AAACAAAAAAAAAA"),
    ("['reticular interstitial pattern']", "AAACAAAAAAACAA"),
    ("['reticulonodular interstitial pattern']", "AAACAAAAAAACAA"),
    ("['alveolar pattern']", "AAACAACACAAAAA"),
    ("['lobar atelectasis', 'pneumonia', 'cardiomegaly', 'apical pleural thickening']", "PPAAAAPAAAAAPA"),
    ("['segmental atelectasis', 'calcified pleural thickening', 'fissure thickening']", "PAAAAAAAAAAAPA"),
    ("['atelectasis basal', 'mass', 'nipple shadow', 'pulmonary fibrosis']", "PAAAPAAAAAAPAA"),
    (
        "['total atelectasis', 'mediastinal mass', 'soft tissue mass', 'pleural mass', 'minor fissure thickening']",
        "PAAAAAAAAAAAAA",
    ),
    ("['round atelectasis', 'loculated pleural effusion', 'nodule', 'pneumothorax']", "PAPAAPAPAAAAAA"),
    ("['atelectasis', 'loculated fissural effusion', 'pulmonary edema', 'pleural thickening']", "PAPAAAAAAPAAPA"),
    ("['calcified pleural plaques', 'heart insufficiency', 'a name that nobody knows']", "AAAAAAAAACAACA"),
    ("['unchanged', ' cardiomegaly']", "BPBBBBBBBBBBBB"),
    ("['unchanged']", "BBBBBBBBBBBBBB"),
    ("['exclude']", "XXXXXXXXXXXXXX"),
    ("['suboptimal study', 'cardiomegaly']", "XXXXXXXXXXXXXX"),
    ("['normal', ", "XXXXXXXXXXXXXX"),
    ("normal", "XXXXXXXXXXXXXX"),
    ("", "XXXXXXXXXXXXXX"),
    ("nan", "XXXXXXXXXXXXXX"),
    ("'cardiomegaly'", "XXXXXXXXXXXXXX"),
    ("[]", "XXXXXXXXXXXXXX"),
)


def padchest_set(
    root: Path, ending: str = ".csv.gz", labels: tuple[str, ...] = tuple(case[0] for case in PADCHEST_CASES)
) -> Path:
    """Ids of 36 digits and more, which no number holds; years as 1930.0."""
    views = itertools.chain(["PA", "L", "AP", "AP_horizontal", "COSTAL", ""], itertools.repeat("PA"))
    sexes = itertools.chain(["M", "F", "", "O"], itertools.repeat("F"))
    births = itertools.chain(["1930.0", "", "1801.0", "2014"], itertools.repeat("1950.0"))
    rows = [
        {
            "": k,
            "ImageID": f"2168401113669640138295431665133820131357478{k:02d}_02-094-102.png",
            "ImageDir": (0, 50, 54)[k % 3],
            "StudyDate_DICOM": "20140915",
            "StudyID": f"205366866401363481362486798914558864{k // 2:02d}",
            "PatientID": f"8398604886942923316379882356814609{k // 4:02d}",
            "PatientBirth": birth,
            "PatientSex_DICOM": sex,
            "ViewPosition_DICOM": "POSTEROANTERIOR",
            "Projection": view,
            "Pediatric": "No",
            "MethodLabel": "Physician" if k % 2 else "RNN_model",
            "Labels": said,
        }
        for k, (said, view, sex, birth) in enumerate(zip(labels, views, sexes, births, strict=False))
    ]
    write(root / f"PADCHEST_chest_x_ray_images_labels_160K_01.02.19{ending}", as_csv(PADCHEST.split(","), rows))
    return root


@pytest.mark.parametrize("ending", [".csv.gz", ".csv"])
def test_padchest(tmp_path: Path, ending: str) -> None:
    table = read("padchest", padchest_set(tmp_path, ending))
    assert list(zip((case[0] for case in PADCHEST_CASES), words(table).values(), strict=True)) == list(PADCHEST_CASES)
    assert table["image"].iloc[2] == "54/216840111366964013829543166513382013135747802_02-094-102.png"
    assert table["patient_id"].iloc[[0, 3, 4]].tolist() == [
        f"padchest:83986048869429233163798823568146090{k}" for k in (0, 0, 1)
    ]
    assert (
        table["study_id"].iloc[3]
        == "padchest:839860488694292331637988235681460900:20536686640136348136248679891455886401"
    )
    assert table["view"].iloc[:7].tolist() == ["PA", "LATERAL", "AP", "AP", "COSTAL", "", "PA"]
    assert table["sex"].iloc[:5].tolist() == ["M", "F", "", "", "F"] and table["age"].iloc[:5].tolist() == [
        "84",
        "",
        "",
        "0",
        "64",
    ]
    assert set(table["split"]) == {""} and set(table["label_source"]) == {
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    }


# VinDr-CXR and VinBigData


def vindr_set(root: Path) -> Path:
    """Readers who disagree, an image with two of them, and the consensus of test images, without a reader."""
    votes = {
        "a" * 32: (["Cardiomegaly", "Edema", "ILD", "Nodule/Mass"], ["Cardiomegaly"], ["No finding"]),
        "b" * 32: (
            ["Lung tumor", "Infiltration"],
            ["Lung tumor", "Infiltration", "Lung Opacity"],
            ["Lung Opacity", "Infiltration"],
        ),
        "c" * 32: (["Pneumonia"], ["Pneumothorax", "Pneumonia"]),
        "d" * 32: (
            ["Pulmonary fibrosis", "Other lesion", "COPD"],
            ["Pulmonary fibrosis", "Other lesion"],
            ["Pulmonary fibrosis", "Rib fracture"],
        ),
        "e" * 32: (["No finding"], ["No finding"], ["No finding"]),
    }
    rows = [
        {"image_id": image, "rad_id": f"R{k}", **dict.fromkeys(VINDR, 0), **dict.fromkeys(said, 1)}
        for k in (10, 8, 9)  # not in order of image
        for image, readers in votes.items()
        for said in readers[k - 8 : k - 7]
    ]
    write(root / "annotations" / "image_labels_train.csv", as_csv(["image_id", "rad_id", *VINDR], rows))
    header = [name.replace("Other diseases", "Other disease") for name in VINDR]
    consensus = dict.fromkeys(header, 0) | {
        "image_id": "f" * 32,
        "Emphysema": 1,
        "Pleural effusion": 1,
        "Pleural thickening": 1,
        "Atelectasis": 1,
    }
    write(root / "annotations" / "image_labels_test.csv", as_csv(["image_id", *header], [consensus]))
    return root


VINDR_EXPECTED = {
    "majority": (
        "APAAAAAAAAAAAS",
        "AAAPCACACAACAS",
        "AAAAAAPAAAAAAS",
        "AAACAAAAAAAPAS",
        "AAAAAAAAAAAAAS",
        "PAPAAAAAAAPAPS",
    ),
    "any": ("APACCCAAAPACAS", "AAAPCACACAACAS", "AAAAAAPPAAAAAS", "AAACAAAAAACPAS", "AAAAAAAAAAAAAS", "PAPAAAAAAAPAPS"),
    "fraction": (
        "ADACCCAAADACAS",
        "AAAPCACACAACAS",
        "AAAAAAPDAAAAAS",
        "AAACAAAAAACPAS",
        "AAAAAAAAAAAAAS",
        "PAPAAAAAAAPAPS",
    ),
}


@pytest.mark.parametrize("votes", ["majority", "any", "fraction"])
def test_vindr_votes(tmp_path: Path, votes: str) -> None:
    table = read("vindr", vindr_set(tmp_path), votes=votes)
    images = [f"train/{letter * 32}.png" for letter in "abcde"] + [f"test/{'f' * 32}.png"]
    found = words(table)
    assert sorted(found) == sorted(images)
    assert [found[image] for image in images] == list(VINDR_EXPECTED[votes])
    soft = ["Cardiomegaly=0.667,Edema=0.333", "", "Pneumothorax=0.5", "", "", ""]
    assert table["soft"].loc[images].tolist() == (soft if votes == "fraction" else [""] * 6)
    assert table["split"].loc[images].tolist() == ["train"] * 5 + ["test"] and set(table["view"]) == {"PA"}
    assert table["patient_id"].loc[images[0]] == f"vindr:{'a' * 32}" and set(table["age"]) == set(table["sex"]) == {""}
    assert table["label_source"].loc[images].tolist() == ["image_labels_train.csv"] * 5 + ["image_labels_test.csv"]


def test_majority_is_the_default_and_more_than_half(tmp_path: Path) -> None:
    assert words(read("vindr", vindr_set(tmp_path))) == words(
        read("vindr", tmp_path, votes="majority")
    )  # one of two readers is no majority


VINBIG_HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
VINBIG_ROWS = (
    f"{'a' * 32},Cardiomegaly,3,R1,691,1375,1653,1831\n{'a' * 32},Cardiomegaly,3,R1,690,1370,1650,1830\n"
    f"{'a' * 32},No finding,14,R2,,,,\n"
    f"{'a' * 32},Cardiomegaly,3,R3,691,1375,1653,1831\n{'a' * 32},Pleural effusion,10,R3,1,1,2,2\n"
    f"{'b' * 32},No finding,14,R11,,,,\n{'b' * 32},Pneumothorax,12,R15,1,1,9,9\n"
    f"{'b' * 32},Pneumothorax,12,R15,9,9,19,19\n{'b' * 32},No finding,14,R8,,,,\n"
    f"{'c' * 32},Nodule/Mass,8,R9,1,1,9,9\n{'c' * 32},Lung Opacity,7,R10,1,1,9,9\n"
    f"{'c' * 32},Nodule/Mass,8,R10,1,1,9,9\n"
    f"{'c' * 32},Infiltration,6,R8,1,1,9,9\n{'c' * 32},Aortic enlargement,0,R8,1,1,9,9\n"
    f"{'d' * 32},Consolidation,4,R1,1,1,9,9\n{'d' * 32},Consolidation,4,R2,1,1,9,9\n"  # two readers, who agree
)
VINBIG_EXPECTED = {
    "majority": ("APAAAASAASSAAS", "AAAAAASAASSAAS", "AAAACCSAASSAAS", "AAAAAASAPSSAAS"),
    "any": ("APPAAASAASSAAS", "AAAAAASPASSAAS", "AAAPCCSACSSCAS", "AAAAAASAPSSAAS"),
    "fraction": ("ADDAAASAASSAAS", "AAAAAASDASSAAS", "AAADCCSACSSCAS", "AAAAAASAPSSAAS"),
}


@pytest.mark.parametrize("votes", ["majority", "any", "fraction"])
def test_vinbigdata_counts_readers_and_not_their_boxes(tmp_path: Path, votes: str) -> None:
    write(tmp_path / "train.csv", f"{VINBIG_HEADER}\n{VINBIG_ROWS}")
    table = read("vinbigdata", tmp_path, votes=votes)
    images = [f"train/{letter * 32}.png" for letter in "abcd"]
    assert sorted(table["image"]) == images and [words(table)[image] for image in images] == list(
        VINBIG_EXPECTED[votes]
    )
    soft = ["Cardiomegaly=0.667,Effusion=0.333", "Pneumothorax=0.333", "Infiltration=0.333", ""]
    assert table["soft"].loc[images].tolist() == (soft if votes == "fraction" else [""] * 4)
    assert table["patient_id"].loc[images].tolist() == [f"vinbigdata:{letter * 32}" for letter in "abcd"]
    assert set(table["split"]) == {""} and set(table["view"]) == {"PA"} and set(table["label_source"]) == {"train.csv"}


# CXR-LT


def cxrlt_file(
    path: Path,
    names: list[str],
    rows: list[tuple[int, set[str], dict[str, str]]],
    image: str = "fpath",
    prefix: str = "s",
) -> None:
    """Rows (number, labels present, more); numbers name images of MIMIC_IMAGES."""
    header = ["dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", image, *names]
    made = []
    for number, found, more in rows:
        assert found <= set(names)
        person, study, file = MIMIC_IMAGES[number].split("/")[2:]
        row = {
            "dicom_id": file[:-4],
            "subject_id": person[1:],
            "study_id": prefix + study[1:],
            "ViewPosition": "AP",
            image: MIMIC_IMAGES[number],
        }
        made.append(row | dict.fromkeys(names, 0) | dict.fromkeys(found, 1) | more)
    write(path, as_csv(header + [name for name in ("split",) if any(name in row for row in made)], made))


def test_cxrlt_2023(tmp_path: Path) -> None:
    cxrlt_file(
        tmp_path / "train.csv",
        CXRLT_2023,
        [
            (0, {"No Finding"}, {"ViewPosition": ""}),
            (1, {"Pleural Effusion", "Pleural Thickening", "Nodule"}, {"ViewPosition": "LL"}),
        ],
        "path",
        "",
    )
    cxrlt_file(
        tmp_path / "development.csv",
        CXRLT_2023,
        [(3, {"Subcutaneous Emphysema", "Lung Lesion", "Pleural Other"}, {})],
        "path",
        "",
    )
    cxrlt_file(
        tmp_path / "test.csv",
        CXRLT_2023,
        [(4, {"Mass", "Hernia", "Fibrosis", "Emphysema", "Infiltration"}, {})],
        "path",
        "",
    )
    table = read("cxrlt", tmp_path)
    expected = ("AAAAAAAAAAAAAA", "AAPAAPAAAAAAPA", "AAAACCAAAAAACA", "AAAPPAAAAAPPAP")
    assert words(table) == dict(zip([MIMIC_IMAGES[k] for k in (0, 1, 3, 4)], expected, strict=True))
    assert table["split"].tolist() == ["train", "train", "val", "test"] and table["view"].tolist() == [
        "",
        "LATERAL",
        "AP",
        "AP",
    ]
    assert table["patient_id"].tolist() == [f"mimic:{n}" for n in (10000032, 10000032, 19999733, 19999733)]
    assert table["study_id"].iloc[0] == "mimic:10000032:50414267"  # the name that it has in MIMIC-CXR
    assert table["label_source"].tolist() == ["train.csv", "train.csv", "development.csv", "test.csv"]


@pytest.mark.parametrize("nested", [False, True])
def test_cxrlt_2024_in_one_table(tmp_path: Path, nested: bool) -> None:
    rows = [
        (0, {"Normal"}, {"split": "train"}),
        (1, {"Lobar Atelectasis", "Hydropneumothorax"}, {"split": "train"}),
        (3, {"Round(ed) Atelectasis", "Bulla"}, {"split": "development"}),
        (4, {"Mass", "Pneumonia", "Edema", "Consolidation"}, {"split": "test"}),
    ]
    cxrlt_file((tmp_path / "cxr-lt-2024" if nested else tmp_path) / "labels.csv", list(CXRLT), rows)
    table = read("cxrlt", tmp_path)
    assert list(words(table).values()) == ["AAAAAAAAAAAAAA", "PAPAAAAPAAAAAA", "PAAAAAAAAACAAA", "AAAAPAPAPPAAAA"]
    assert table["split"].tolist() == ["train", "train", "val", "test"]
    assert table["patient_id"].iloc[0] == "mimic:10000032" and table["study_id"].iloc[0] == "mimic:10000032:50414267"


def test_cxrlt_2024_columns_go_by_name(tmp_path: Path) -> None:
    """The tables of task 2 list Mass, Normal, Nodule; those of task 1 Mass, Nodule, Normal."""
    task_1 = [name for name in CXRLT if name not in ("Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis")]
    task_2 = ["Normal" if name == "No Finding" else name for name in CXRLT_2023]
    assert (
        len(task_1) == 40
        and len(task_2) == 26
        and task_2[13:16] == ["Mass", "Normal", "Nodule"]
        and task_1 == sorted(task_1)
    )
    for task, names in ((1, task_1), (2, task_2)):
        root = tmp_path / f"task{task}"
        cxrlt_file(root / "train_labeled.csv", task_1, [(0, {"Nodule", "Lobar Atelectasis"}, {})])
        cxrlt_file(root / f"development_labeled_task{task}.csv", names, [(1, {"Normal"}, {}), (2, {"Nodule"}, {})])
        cxrlt_file(root / f"test_labeled_task{task}.csv", names, [(3, {"Pneumothorax"}, {}), (4, {"Mass"}, {})])
        table = read("cxrlt", root)
        expected = ("PAAAAPAAAAAAAA", "AAAAAAAAAAAAAA", "AAAAAPAAAAAAAA", "AAAAAAAPAAAAAA", "AAAAPAAAAAAAAA")
        assert words(table) == dict(zip(MIMIC_IMAGES, expected, strict=True))
        assert table["split"].tolist() == ["train", "val", "val", "test", "test"]


def test_cxrlt_without_a_column_is_refused(tmp_path: Path) -> None:
    """A renamed column is not a set that never looked."""
    names = [name for name in CXRLT if name != "Fibrosis"]
    cxrlt_file(tmp_path / "labels.csv", names, [(0, {"Normal"}, {"split": "train"})])
    with pytest.raises(ValueError, match="no column 'Fibrosis'"):
        read("cxrlt", tmp_path)
    cxrlt_file(tmp_path / "labels.csv", CXRLT, [(0, {"Normal"}, {})])
    with pytest.raises(ValueError, match="no column 'split'"):
        read("cxrlt", tmp_path)


# OpenI


OPENI_CASES = (  # MeSH/major -> letters; FORMATS: heads only, and only some qualifiers
    (["normal"], "AAAAAAAAAAAAAA"),
    (["Pulmonary Atelectasis/base/left", "Pleural Effusion/left/small", "Cardiomegaly/borderline"], "PPPAAAAAAAAAAA"),
    (
        ["Pericardial Effusion/small", "Subcutaneous Emphysema/neck", "Cystic Fibrosis", "Pneumonectomy/left"],
        "AAAAAAAAAAAAAA",
    ),
    (
        ["Infiltrate/lung/base", "Mass/lung/upper lobe/right", "Nodule/lung/middle lobe", "Pneumonia/upper lobe"],
        "AAAPPPPAAAAAAA",
    ),
    (["Mass/mediastinum", "Hydropneumothorax/right", "Consolidation/lung/base"], "AAPAAAAPPAAAAA"),
    (
        ["Mass/hilum/right", "Pulmonary Edema/mild", "Pulmonary Emphysema", "Pulmonary Fibrosis/interstitial"],
        "AAAAPAAAAPPPAA",
    ),
    (["Thickening/pleura/apex/bilateral", "Hernia, Hiatal/large", "Emphysema"], "AAAAAAAAAAPAPP"),
    (
        ["Thickening/bronchovascular/bilateral", "Hernia, Diaphragmatic", "Calcified Granuloma/lung/base"],
        "AAAAACAAAAAAAP",
    ),
    (["Pulmonary Congestion", "Lung Diseases, Interstitial", "Granuloma/lung", "Nodule/lung"], "AAAAAPAAACACAA"),
    (["Opacity/lung/base/left"], "AAACAACACAAAAA"),
    (["Airspace Disease/lung/base", "Pneumonia/lower lobe"], "AAACAAPACAAAAA"),
    (["No Indexing"], "XXXXXXXXXXXXXX"),
    (["Technical Quality of Image Unsatisfactory "], "XXXXXXXXXXXXXX"),
)


def test_openi_reports(tmp_path: Path) -> None:
    """A report with two images has two rows, one without an image none."""
    for number, (majors, _) in enumerate(OPENI_CASES, start=1):
        images = [f"CXR{number}_IM-{number:04d}-{1001 + k}" for k in range(1 + (number == 2))]
        write(tmp_path / "ecgen-radiology" / f"{number}.xml", openi_xml(number, majors, "Clear.", images).decode())
    write(tmp_path / "ecgen-radiology" / "99.xml", openi_xml(99, ["normal"], "Clear.", []).decode())
    table = read("openi", tmp_path)
    rows = [
        (f"CXR{n}_IM-{n:04d}-{1001 + k}.png", letters)
        for n, (_, letters) in enumerate(OPENI_CASES, start=1)
        for k in range(1 + (n == 2))
    ]
    assert words(table) == dict(rows)
    assert table["patient_id"].loc["CXR2_IM-0002-1002.png"] == "openi:2" and set(table["split"]) == set(
        table["view"]
    ) == {""}


def test_openi_published_archive_need_not_be_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "NLMCXR_reports.tgz", "w:gz") as archive:
        for number, (majors, _) in enumerate(OPENI_CASES, start=1):
            data = openi_xml(number, majors, "Clear.", [f"CXR{number}_IM-{number:04d}-1001"])
            entry = tarfile.TarInfo(f"ecgen-radiology/{number}.xml")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    assert sorted(words(read("openi", tmp_path)).values()) == sorted(letters for _, letters in OPENI_CASES)


def test_openi_as_kaggle_has_it(tmp_path: Path) -> None:
    header = ["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"]
    reports = [
        {"uid": n, "MeSH": ";".join(majors), "Problems": "", "findings": 'Clear, "normal".'}
        for n, (majors, _) in enumerate(OPENI_CASES, start=1)
    ]
    write(tmp_path / "indiana_reports.csv", as_csv(header, reports))
    views = [
        {"uid": n, "filename": f"{n}_IM-{n:04d}-{k}001.dcm.png", "projection": ("Frontal", "Lateral")[k - 3]}
        for n in (1, 2, 12)
        for k in (3, 4)
    ]
    write(tmp_path / "indiana_projections.csv", as_csv(["uid", "filename", "projection"], views))
    table = read("openi", tmp_path)
    assert [(Path(image).name, letters) for image, letters in words(table).items()] == [
        (v["filename"], OPENI_CASES[v["uid"] - 1][1]) for v in views
    ]
    assert table["view"].tolist() == ["FRONTAL", "LATERAL"] * 3 and table["patient_id"].tolist() == [
        f"openi:{n}" for n in (1, 1, 2, 2, 12, 12)
    ]


def test_openi_real_counts(shared: Path, tmp_path: Path) -> None:
    """The heads of FORMATS in the raw file, and the reports that have them: 3,955, of which 104 have no image."""
    (tmp_path / "NLMCXR_reports.tgz").symlink_to(shared / "openi" / "NLMCXR_reports.tgz")
    table = read("openi", tmp_path)
    heads: Counter[str] = Counter()
    images: dict[str, list[str]] = {}
    with tarfile.open(shared / "openi" / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            if member.name.endswith(".xml"):
                tree = ElementTree.parse(archive.extractfile(member))
                majors = [(major.text or "").split("/")[0].strip() for major in tree.iterfind("MeSH/major")]
                heads.update(majors)
                for image in tree.iterfind("parentImage"):
                    images[image.get("id", "") + ".png"] = majors
    published = {
        "Cardiomegaly": 375,
        "Pulmonary Atelectasis": 347,
        "Pleural Effusion": 172,
        "Nodule": 121,
        "Infiltrate": 68,
        "Emphysema": 62,
        "Hernia, Hiatal": 48,
        "Pulmonary Edema": 47,
        "Pneumonia": 43,
        "Consolidation": 33,
        "Pneumothorax": 23,
        "Pulmonary Fibrosis": 19,
        "Mass": 18,
        "normal": 1391,
        "No Indexing": 95,
    }
    assert {head: heads[head] for head in published} == published
    assert len(table) == len(images) == 7470 and table["patient_id"].nunique() == 3851
    for label, head in (
        ("Atelectasis", "Pulmonary Atelectasis"),
        ("Cardiomegaly", "Cardiomegaly"),
        ("Infiltration", "Infiltrate"),
        ("Nodule", "Nodule"),
        ("Pneumonia", "Pneumonia"),
        ("Consolidation", "Consolidation"),
        ("Edema", "Pulmonary Edema"),
        ("Fibrosis", "Pulmonary Fibrosis"),
    ):
        usable = {
            image
            for image, majors in images.items()
            if head in majors and not {"No Indexing", "Technical Quality of Image Unsatisfactory"} & set(majors)
        }
        assert set(table["image"][table[label] == PRESENT]) == usable, label
    unfit = {
        image
        for image, majors in images.items()
        if {"No Indexing", "Technical Quality of Image Unsatisfactory"} & set(majors)
    }
    assert set(table["image"][table["Mass"] == EXCLUDED]) == unfit
    normal = [image for image, majors in images.items() if majors == ["normal"]]
    assert (table.loc[normal, list(LABELS)] == ABSENT).all(axis=None)


# ReXGradient


def rexgradient_set(root: Path, **changed: object) -> Path:
    study = {
        "PatientID": "GRDN0001",
        "StudyInstanceUid": "1.2.3",
        "AccessionNumber": "A1",
        "PatientSex": "F",
        "PatientAge": "036Y",
        "StudyDate": "20170304",
        "Indication": "Cough.",
        "Comparison": "None.",
        "Findings": "There is a pleural effusion. No pneumothorax.",
        "Impression": "Pleural effusion.",
        "ImagePath": [f"../deid_png/GRDN/GRDN0001/studies/1.2.3/series/1.2.{k}/instances/9.{k}.png" for k in range(3)],
        "ImageViewPosition": ["PA", "LATERAL", None],
    }
    other = study | {
        "PatientID": "GRDN0002",
        "PatientAge": "007M",
        "PatientSex": None,
        "Findings": float("nan"),
        "Impression": "No acute disease.",
        "ImagePath": ["../deid_png/GRDN/GRDN0002/studies/1.2.4/series/1/instances/1.png"],
        "ImageViewPosition": ["LL"],
    }
    third = other | {
        "PatientID": "GRDN0003",
        "ImagePath": ["../deid_png/GRDN/GRDN0003/studies/1.2.5/series/1/instances/1.png"],
        "PatientSex": "M",
    }
    for name, studies in (("train", {"p1": study | changed}), ("valid", {"p2": other}), ("test", {"p3": third})):
        write(root / "metadata" / f"{name}_metadata_view_position.json", json.dumps(studies))
    return root


def test_rexgradient(tmp_path: Path) -> None:
    table = read("rexgradient", rexgradient_set(tmp_path))
    assert table["image"].tolist()[:2] == [
        f"deid_png/GRDN/GRDN0001/studies/1.2.3/series/1.2.{k}/instances/9.{k}.png" for k in (0, 1)
    ]
    assert table["patient_id"].tolist() == ["rexgradient:GRDN0001"] * 3 + [
        "rexgradient:GRDN0002",
        "rexgradient:GRDN0003",
    ]
    assert table["split"].tolist() == ["train"] * 3 + ["val", "test"] and table["view"].tolist() == [
        "PA",
        "LATERAL",
        "",
        "LATERAL",
        "LATERAL",
    ]
    assert table["age"].astype(int).tolist() == [36] * 3 + [0, 0] and table["sex"].tolist() == ["F"] * 3 + ["", "M"]
    assert table["study_id"].iloc[:3].nunique() == 1 and set(table["label_source"]) == {"report labeler"}
    for image in table.index[:3]:
        assert table.loc[image, ["Effusion", "Pneumothorax", "Hernia"]].tolist() == [PRESENT, ABSENT, NOT_MENTIONED]
    negative = read("rexgradient", tmp_path, blank="negative")
    assert negative.iloc[0][["Effusion", "Pneumothorax", "Hernia"]].tolist() == [PRESENT, ABSENT, ABSENT]
    assert ((table[list(LABELS)] == negative[list(LABELS)]) | (table[list(LABELS)] == NOT_MENTIONED)).all(axis=None)


def test_rexgradient_refuses_lists_of_different_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="p1"):
        READERS["rexgradient"](rexgradient_set(tmp_path, ImageViewPosition=["PA"]))


# Writer and reader


def truth(images: int = 400, seed: int = 0, source: Path | None = None) -> pd.DataFrame:
    """Patients with studies of one to three images; the images of a study have its findings."""
    rng = np.random.default_rng(seed)
    study = np.sort(rng.integers(0, images // 2, images))
    patient = study // 3 + 1
    found = (rng.random((images // 2, len(LABELS))) < 0.12).astype(int)
    found[: len(LABELS)] = np.eye(len(LABELS), dtype=int)[: images // 2]  # each finding alone, too
    frame = pd.DataFrame(found[study], columns=list(LABELS))
    frame["patient"], frame["study"] = patient, study
    frame["image"] = str(source or "")
    frame["view"] = rng.choice(["PA", "AP", "LATERAL"], images, p=[0.6, 0.3, 0.1])
    frame["age"], frame["sex"] = 20 + patient % 70, np.where(patient % 2, "M", "F")
    frame["split"] = np.choose(patient % 5, ["test", "val", "train", "train", "train"])
    return frame


COARSE_IN = {  # findings that a set does not see by themselves
    "chexpert": ("Infiltration", "Mass", "Nodule", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
    "vindr": ("Hernia",),
    "vinbigdata": ("Edema", "Emphysema", "Pneumonia", "Hernia"),
}
COARSE_IN["mimic"] = COARSE_IN["chexpert"]


def expected_cells(name: str, known: pd.DataFrame) -> np.ndarray:
    """(N, 14): what the set can say of what is known."""
    cells = known[list(LABELS)].to_numpy().copy()
    cells[:, [LABELS.index(label) for label in COARSE_IN.get(name, ())]] = NOT_LABELED
    column = {label: cells[:, k] for k, label in enumerate(LABELS)}
    if name in ("chexpert", "mimic"):
        lesion = (known["Mass"] | known["Nodule"]) == 1
        column["Mass"][lesion] = column["Nodule"][lesion] = PARENT_ONLY
        column["Pleural_Thickening"][known["Pleural_Thickening"] == 1] = PARENT_ONLY
        column["Infiltration"][known["Infiltration"] == 1] = PARENT_ONLY
    if name in ("vindr", "vinbigdata"):
        lesion = (known["Mass"] | known["Nodule"]) == 1
        column["Mass"][lesion] = column["Nodule"][lesion] = PARENT_ONLY
        column["Mass"][~lesion] = column["Nodule"][~lesion] = ABSENT
    if name == "padchest":
        column["Infiltration"][(known["Consolidation"] == 1) & (known["Infiltration"] == 0)] = PARENT_ONLY
    return cells


@pytest.mark.parametrize("name", ALL)
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    """Every cell, patient, study and split of 400 rows; each set keeps what it has a place for."""
    known = truth()
    WRITERS[name](known, tmp_path, None)
    table = read(name, tmp_path)
    order = written_order(name, known)
    cells = table[list(LABELS)].to_numpy()
    np.testing.assert_array_equal(cells, expected_cells(name, known.iloc[order]))
    known = known.iloc[order]
    if name not in ("vindr", "vinbigdata"):
        groups = known["study" if name == "openi" else "patient"]
        assert same_groups(table["patient_id"], groups)
        assert name == "nih" or same_groups(table["study_id"], known["study"])
    views = {"openi": [""] * len(known), "vindr": ["PA"] * len(known), "vinbigdata": ["PA"] * len(known)}
    assert table["view"].tolist() == views.get(name, known["view"].tolist())
    splits = {
        "openi": {},
        "padchest": {},
        "vinbigdata": {},
        "nih": {"train": "train_val", "val": "train_val", "test": "test"},
        "vindr": {"train": "train", "val": "train", "test": "test"},
    }
    same = {split: split for split in ("train", "val", "test")}
    assert table["split"].tolist() == [splits.get(name, same).get(split, "") for split in known["split"]]
    if name in ("nih", "chexpert", "padchest", "rexgradient"):
        assert (
            table["age"].astype(int).tolist() == known["age"].tolist()
            and table["sex"].tolist() == known["sex"].tolist()
        )


def written_order(name: str, known: pd.DataFrame) -> np.ndarray:
    """Rows of the truth in the order of the table that is read: sets of several files have them one after another."""
    files = {
        "rexgradient": ("train", "val", "test"),
        "chexpert": ("train", "val", "test"),
        "vindr": ("train+val", "test"),
    }.get(name, ("train+val+test",))
    return np.concatenate([np.flatnonzero(known["split"].isin(file.split("+"))) for file in files])


def same_groups(a: pd.Series, b: pd.Series) -> bool:
    pairs = set(zip(a, b, strict=True))
    return len(pairs) == len(set(a)) == len(set(b))


def test_three_readers_who_agree_leave_nothing_divided(tmp_path: Path) -> None:
    for name in ("vindr", "vinbigdata"):
        WRITERS[name](truth(60), tmp_path / name, None)
        tables = [words(read(name, tmp_path / name, votes=votes)) for votes in ("majority", "any", "fraction")]
        assert tables[0] == tables[1] == tables[2]


@pytest.mark.parametrize("name", ALL)
def test_demo_set_in_every_layout_has_its_images(tmp_path: Path, name: str) -> None:
    """Each row's image is found, and shows what the same row shows in NIH's layout."""
    out = tmp_path / name
    made = make_demo_layout(out, name, images=20, size=32, seed=5, workers=1, overwrite=False)
    table = read(name, out)
    paths = locate(out, table["image"].tolist())
    assert made["images"] == len(table) == 20 and all(paths)
    pictures = [Image.open(path) for path in paths]
    assert {picture.size for picture in pictures} == {(32, 32)}
    assert {picture.format for picture in pictures} == ({"JPEG"} if name in ("chexpert", "mimic", "cxrlt") else {"PNG"})
    assert json.loads((out / "demo.json").read_text())["positives"] == made["positives"]
    if name == "padchest":
        assert all(np.asarray(picture).max() > 255 for picture in pictures)
        assert any((table["Infiltration"] == PARENT_ONLY) | (table["Infiltration"] == PRESENT))
    with pytest.raises(ValueError, match="not empty"):
        make_demo_layout(out, name, images=20, size=32, seed=5, workers=1, overwrite=False)
    make_demo_layout(out, name, images=20, size=32, seed=6, workers=1, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing half-written beside it


# What cannot be read is named


LOOKED_FOR = {
    "nih": "Data_Entry_2017",
    "openi": "NLMCXR_reports.tgz",
    "rexgradient": "train_metadata_view_position.json",
    "chexpert": "train.csv",
    "mimic": "mimic-cxr-2.0.0-metadata.csv",
    "padchest": "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
    "vindr": "image_labels_train.csv",
    "vinbigdata": "train.csv",
    "cxrlt": "labels.csv",
}


def refused(name: str, root: Path) -> str:
    with pytest.raises(UserError) as error:
        check_table(with_label_text(READERS[name](root)), name)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ALL)
def test_a_wrong_folder_says_what_was_looked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        said = refused(name, tmp_path / folder)
        assert str(tmp_path / folder) in said and (LOOKED_FOR[name] in said or folder == "nowhere"), said
    wrong = "padchest" if name != "padchest" else "nih"
    WRITERS[wrong](truth(40), tmp_path / "other", None)
    assert LOOKED_FOR[name] in refused(name, tmp_path / "other")


HALVES = [
    ("mimic", "mimic-cxr-2.0.0-chexpert.csv"),
    ("mimic", "mimic-cxr-2.0.0-split.csv"),
    ("mimic", "mimic-cxr-2.0.0-metadata.csv"),
    ("rexgradient", "metadata/valid_metadata_view_position.json"),
    ("rexgradient", "metadata/test_metadata_view_position.json"),
    ("chexpert", "valid.csv"),
    ("vindr", "annotations/image_labels_test.csv"),
    ("vindr", "annotations/image_labels_train.csv"),
]


@pytest.mark.parametrize(("name", "file"), HALVES)
def test_half_an_archive_names_the_other_half(tmp_path: Path, name: str, file: str) -> None:
    WRITERS[name](truth(60), tmp_path, None)
    for path in (tmp_path / Path(file).parent).glob(Path(file).name + "*"):
        path.unlink()
    assert Path(file).name in refused(name, tmp_path)


def test_half_of_cxrlt_and_of_openi(tmp_path: Path) -> None:
    cxrlt_file(tmp_path / "cxrlt" / "train.csv", CXRLT_2023, [(0, {"Mass"}, {})], "path", "")
    assert "development.csv" in refused("cxrlt", tmp_path / "cxrlt")
    write(
        tmp_path / "openi" / "indiana_reports.csv",
        "uid,MeSH,Problems,image,indication,comparison,findings,impression\n1,normal,normal,,,,,\n",
    )
    assert "indiana_projections.csv" in refused("openi", tmp_path / "openi")


def edit(path: Path, old: str, new: str) -> None:
    """Replace in a file, compressed or not; it must be there."""
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    assert old in text
    write(path, text.replace(old, new))


TABLES = {
    "nih": "Data_Entry_2017.csv",
    "chexpert": "train.csv",
    "mimic": "mimic-cxr-2.0.0-metadata.csv.gz",
    "padchest": "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
    "vindr": "annotations/image_labels_test.csv",
    "vinbigdata": "train.csv",
    "cxrlt": "labels.csv",
}
RENAMED = [
    ("nih", "Data_Entry_2017.csv", "Finding Labels"),
    ("chexpert", "train.csv", "Pleural Effusion"),
    ("chexpert", "train.csv", "Path"),
    ("mimic", "mimic-cxr-2.0.0-chexpert.csv.gz", "Pleural Effusion"),
    ("mimic", "mimic-cxr-2.0.0-metadata.csv.gz", "dicom_id"),
    ("mimic", "mimic-cxr-2.0.0-split.csv.gz", "split"),
    ("padchest", TABLES["padchest"], "Labels"),
    ("padchest", TABLES["padchest"], "ImageDir"),
    ("vindr", "annotations/image_labels_train.csv", "Pleural effusion"),
    ("vindr", "annotations/image_labels_test.csv", "Nodule/Mass"),
    ("vinbigdata", "train.csv", "class_name"),
    ("vinbigdata", "train.csv", "rad_id"),
    ("cxrlt", "labels.csv", "dicom_id"),
]


@pytest.mark.parametrize(("name", "file", "column"), RENAMED)
def test_a_renamed_column_is_missed(tmp_path: Path, name: str, file: str, column: str) -> None:
    WRITERS[name](truth(40), tmp_path, None)
    path = tmp_path / file
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    header, _, rows = text.partition("\n")
    end = "\r" if header.endswith("\r") else ""
    names = header.rstrip("\r").split(",")
    names[names.index(column)] = "Renamed"
    write(path, ",".join(names) + end + "\n" + rows)
    said = refused(name, tmp_path)
    assert column in said and path.name in said, said


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"vinbigdata"}))
def test_two_rows_for_one_image_are_refused(tmp_path: Path, name: str) -> None:
    WRITERS[name](truth(40), tmp_path, None)
    path = tmp_path / TABLES[name]
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    write(path, text + text.rstrip("\r\n").rsplit("\n", 1)[1] + "\n")
    said = refused(name, tmp_path)
    assert "twice" in said or "two rows" in said or "more than one" in said, said


def test_two_rows_of_labels_for_one_study_or_reader_are_refused(tmp_path: Path) -> None:
    for name, file in (
        ("mimic", "mimic-cxr-2.0.0-chexpert.csv.gz"),
        ("mimic", "mimic-cxr-2.0.0-split.csv.gz"),
        ("vindr", "annotations/image_labels_train.csv"),
    ):
        root = tmp_path / f"{name}-{Path(file).stem}"
        WRITERS[name](truth(40), root, None)
        text = (
            gzip.decompress((root / file).read_bytes()) if file.endswith(".gz") else (root / file).read_bytes()
        ).decode()
        write(root / file, text + text.rstrip("\n").rsplit("\n", 1)[1] + "\n")
        assert Path(file).name in refused(name, root)


def test_an_unknown_token_is_named_and_counted(tmp_path: Path) -> None:
    write(
        tmp_path / "vinbigdata" / "train.csv",
        f"{VINBIG_HEADER}\n{VINBIG_ROWS.replace('Pneumothorax,12', 'Pneumo Thorax,12')}",
    )
    said = refused("vinbigdata", tmp_path / "vinbigdata")
    assert "train.csv" in said and "'Pneumo Thorax' in 2 rows" in said
    chexpert_set(tmp_path / "chexpert")
    edit(tmp_path / "chexpert" / "train.csv", "-1.0", "0.5")
    said = refused("chexpert", tmp_path / "chexpert")
    assert "train.csv" in said and "1 values '0.5' in column" in said
    mimic_set(tmp_path / "mimic")
    edit(tmp_path / "mimic" / "mimic-cxr-2.0.0-chexpert.csv.gz", "-1.0", "x")
    said = refused("mimic", tmp_path / "mimic")
    assert "mimic-cxr-2.0.0-chexpert.csv.gz" in said and "'x'" in said
    cxrlt_file(
        tmp_path / "cxrlt" / "labels.csv",
        list(CXRLT),
        [(k, {"Mass"}, {"split": "train", "Nodule": "-1"}) for k in range(3)],
    )
    said = refused("cxrlt", tmp_path / "cxrlt")
    assert "labels.csv" in said and "3 values '-1' in column 'Nodule'" in said
    vindr_set(tmp_path / "vindr")
    edit(
        tmp_path / "vindr" / "annotations" / "image_labels_train.csv", ",R10,0,0,0,0", ",R10,0,0,0,2"
    )  # of five images two have a third reader
    said = refused("vindr", tmp_path / "vindr")
    assert "image_labels_train.csv" in said and "'2'" in said


def test_other_labels_of_one_count_come_in_one_order() -> None:
    """A set of texts has another order in each process; the summary of the same files has not."""
    fields = pd.Series([",".join("hgfedcba"), "z", "z"])
    counts = count_other_labels(fields, lambda field: set(field.split(",")), ())
    assert list(counts.items()) == [("z", 2), *((letter, 1) for letter in "abcdefgh")]


def test_an_unknown_split_is_named(tmp_path: Path) -> None:
    cxrlt_file(tmp_path / "labels.csv", list(CXRLT), [(0, {"Mass"}, {"split": "holdout"})])
    assert "'holdout'" in refused("cxrlt", tmp_path)


@pytest.mark.parametrize(
    ("name", "option"),
    [("chexpert", "blank"), ("mimic", "blank"), ("rexgradient", "blank"), ("vindr", "votes"), ("vinbigdata", "votes")],
)
def test_an_unknown_option_is_named(tmp_path: Path, name: str, option: str) -> None:
    WRITERS[name](truth(40), tmp_path, None)
    with pytest.raises(ValueError, match="'sometimes'"):
        READERS[name](tmp_path, **{option: "sometimes"})


def test_columns_that_nobody_asked_for_do_no_harm(tmp_path: Path) -> None:
    """A new column in front moves all others."""
    for name in sorted(set(TABLES) - {"nih"}):
        WRITERS[name](truth(40), tmp_path / name, None)
        before = read(name, tmp_path / name)
        path = tmp_path / name / TABLES[name]
        lines = (
            (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode().splitlines()
        )
        write(path, "\n".join(f"{'new column' if k == 0 else '1'},{line}" for k, line in enumerate(lines)) + "\n")
        pd.testing.assert_frame_equal(read(name, tmp_path / name), before)


def test_the_layouts_that_a_flag_offers_are_those_that_can_be_written() -> None:
    assert tuple(dict.fromkeys([*WRITERS, *STUDY_WRITERS])) == LAYOUTS
