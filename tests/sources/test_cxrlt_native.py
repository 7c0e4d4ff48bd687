"""CXR-LT in its own label spaces: columns by name, Normal a class, unknown classes, patients, what is refused."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run
from PIL import Image

from roi.cxrlt_labels import TASK_1, TASK_2, ZERO_SHOT
from roi.data.table import read_table
from roi.data.targets import class_list, target_matrix
from roi.labels import NORMAL_LABELLED, is_finding, published_name
from roi.sources.cxrlt_editions import EDITIONS
from roi.sources.cxrlt_native import read_native

# The header of the training table of 2024, as it was printed by a reader of the real file.
METADATA = ["dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "fpath"]
REAL_40 = sorted(TASK_1)
# Task 2 lists Normal before Nodule.
REAL_26 = sorted(TASK_2, key=lambda name: "Nnn" if name == "Normal" else name)


def mimic_rows(first: int, images: int, labels: Sequence[str], seed: int) -> pd.DataFrame:
    """Rows as the files have them: study_id with an s, blank views, 0 and 1."""
    rng = np.random.default_rng(seed)
    number = first + np.arange(images)
    subject = 10000000 + number // 3
    study = 50000000 + number // 2 * 7
    name = [f"{n:08x}-bde0afdd" for n in number]
    table = pd.DataFrame({"dicom_id": name, "subject_id": subject, "study_id": [f"s{s}" for s in study]})
    table["ViewPosition"] = rng.choice(["AP", "PA", "LATERAL", "LL", ""], images)
    table["ViewCodeSequence_CodeMeaning"] = ""
    folders = zip(subject, study, name, strict=True)
    table["fpath"] = [f"files/p{str(p)[:2]}/p{p}/s{s}/{one}.jpg" for p, s, one in folders]
    present = (rng.random((images, len(labels))) < 0.15).astype(int)
    return pd.concat([table, pd.DataFrame(present, columns=list(labels))], axis=1)


def write_2024(
    root: Path, task: int, labels: Sequence[str], others: Sequence[str], images: int = 24
) -> dict[str, pd.DataFrame]:
    """The three files of a task below root/cxrlt; patients are apart."""
    folder = root / "cxrlt"
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "train_labeled": mimic_rows(0, images, labels, 1),
        f"development_labeled_task{task}": mimic_rows(3_000_000, images // 2, others, 2),
        f"test_labeled_task{task}": mimic_rows(6_000_000, images // 2, others, 3),
    }
    for name, table in files.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return files


def build(root: Path, edition: str, *flags: object) -> pd.DataFrame:
    out = root / f"{edition}.csv"
    run("make_chexmultimodal_csv.py", "--cxrlt", edition, "--data_root", root, "--out_csv", out, "--overwrite", *flags)
    return read_table(out)


def test_the_label_spaces_have_as_many_classes_as_the_challenges() -> None:
    sizes = {name: len(set(edition.classes)) for name, edition in EDITIONS.items()}
    assert sizes == {"2023": 26, "2024.1": 40, "2024.2": 26, "2024.3": 45, "2026": 30}
    assert len(METADATA + REAL_40) == 46 and REAL_26[13:16] == ["Mass", "Normal", "Nodule"]
    assert published_name("No Finding") == published_name("Normal") == NORMAL_LABELLED
    assert (
        published_name("pleural thickening") == "Pleural_Thickening"
        and published_name("Pleural Effusion") == "Effusion"
    )
    assert published_name("cardiomegaly") == "Cardiomegaly" and published_name("Fracture") == "Fracture"
    for edition in EDITIONS.values():
        assert is_finding(edition.classes).all() and NORMAL_LABELLED in edition.classes


def test_targets_are_the_published_cells_whatever_the_order_of_columns(tmp_path: Path) -> None:
    files = write_2024(tmp_path, 1, REAL_40, REAL_40)
    table = build(tmp_path, "2024.1", "--no-check_images")
    published = pd.concat(files.values(), ignore_index=True)
    classes = class_list(table)
    assert len(classes) == 40 and classes[:2] == ["Atelectasis", "Cardiomegaly"]
    target = target_matrix(table, classes)
    for label in REAL_40:
        assert target[:, classes.index(published_name(label))].tolist() == published[label].tolist()
    assert table["split"].tolist() == ["train"] * 24 + ["val"] * 12 + ["test"] * 12
    first = published.iloc[0]
    assert table["patient_id"][0] == f"mimic:{first['subject_id']}"
    assert table["study_id"][0] == f"mimic:{first['subject_id']}:{first['study_id'][1:]}"
    assert set(table["view"]) == {"AP", "PA", "LATERAL", ""}
    text = (tmp_path / "2024.1.csv").read_text()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        for name, rows in files.items():
            rows[rng.permutation(rows.columns)].to_csv(tmp_path / "cxrlt" / f"{name}.csv", index=False)
        build(tmp_path, "2024.1", "--no-check_images")
        assert (tmp_path / "2024.1.csv").read_text() == text


def test_normal_stands_beside_support_devices_and_task_2_takes_its_26(tmp_path: Path) -> None:
    files = write_2024(tmp_path, 2, REAL_40, REAL_26)
    train = files["train_labeled"]
    train.loc[:, REAL_40] = 0
    train.loc[0, ["Normal", "Support Devices"]] = 1
    train.loc[1, ["Nodule", "Rib Fracture"]] = 1
    train.to_csv(tmp_path / "cxrlt" / "train_labeled.csv", index=False)
    table = build(tmp_path, "2024.2", "--no-check_images")
    assert table["labels"].tolist()[:3] == ["Normal (labelled),Support Devices", "Nodule", ""]
    # All 26 are classes, whatever the images have: one without a positive would be missing in a submission.
    assert len(class_list(table)) <= 26 and "Rib Fracture" not in class_list(table)
    development = files["development_labeled_task2"]
    normal = table[table["split"] == "val"]["labels"].str.contains("Normal \\(labelled\\)")
    assert normal.tolist() == development["Normal"].astype(bool).tolist()


@pytest.mark.parametrize("one_file", [False, True])
def test_task_3_has_45_classes_and_what_nobody_labelled_is_unknown(tmp_path: Path, one_file: bool) -> None:
    files = write_2024(tmp_path, 3, REAL_40, ZERO_SHOT)
    if one_file:
        labels = mimic_rows(0, 30, [*REAL_40, *ZERO_SHOT], 4).assign(
            split=["train"] * 20 + ["development"] * 5 + ["test"] * 5
        )
        labels.to_csv(tmp_path / "cxrlt" / "labels.csv", index=False)
    table = build(tmp_path, "2024.3", "--no-check_images")
    classes = class_list(table)
    assert set(classes) == set(EDITIONS["2024.3"].classes)
    target = target_matrix(table, classes)
    if one_file:
        assert not np.isnan(target).any() and table["split"].tolist() == ["train"] * 20 + ["val"] * 5 + ["test"] * 5
        return
    new = np.isin(classes, ZERO_SHOT)
    assert np.isnan(target[:24][:, new]).all() and not np.isnan(target[:24][:, ~new]).any()
    assert np.isnan(target[24:][:, ~new]).all()
    published = files["development_labeled_task3"]["Hilum"].tolist()
    assert target[24:36, classes.index("Hilum")].tolist() == published


def test_2023_names_normal_no_finding_and_its_paths_path(tmp_path: Path) -> None:
    labels = ["No Finding" if name == "Normal" else name for name in REAL_26]
    (tmp_path / "cxrlt").mkdir()
    for n, name in enumerate(("train", "development", "test")):
        rows = mimic_rows(n * 3000, 9, labels, n).rename(columns={"fpath": "path"})
        rows["study_id"] = rows["study_id"].str[1:]
        rows.to_csv(tmp_path / "cxrlt" / f"{name}.csv", index=False)
    table = pd.read_csv(tmp_path / "cxrlt" / "train.csv", dtype=str)
    made = read_native(tmp_path / "cxrlt", tmp_path, "2023")
    assert made["image"][0] == table["path"][0] and made["study_id"][0] == f"mimic:10000000:{table['study_id'][0]}"
    normal = made["labels"][:9].str.contains(NORMAL_LABELLED, regex=False)
    assert normal.tolist() == (table["No Finding"] == "1").tolist()


def test_images_are_looked_for_in_mimic_and_views_and_splits_chosen(tmp_path: Path) -> None:
    files = write_2024(tmp_path, 1, REAL_40, REAL_40)
    published = pd.concat(files.values(), ignore_index=True)
    for path in published["fpath"][:-1]:
        image = tmp_path / "mimic" / path
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(image)
    command = (
        "make_chexmultimodal_csv.py",
        "--cxrlt",
        "2024.1",
        "--data_root",
        tmp_path,
        "--out_csv",
        tmp_path / "t.csv",
    )
    assert "1 of 48 images are missing" in one_line_error(*command)
    table = build(tmp_path, "2024.1", "--allow_missing", "--views", "PA", "AP", "--splits", "train")
    kept = published[:24][published["ViewPosition"][:24].isin(["PA", "AP"])]
    assert table["image"].tolist() == ("mimic/" + kept["fpath"]).tolist()
    assert "no image is left" in one_line_error(*command, "--allow_missing", "--views", "OBLIQUE")


def test_2026_finds_patients_and_folders_in_padchest(tmp_path: Path) -> None:
    """Rounded numbers of patients would make one patient of many."""
    (tmp_path / "cxrlt").mkdir()
    (tmp_path / "padchest").mkdir()
    labels = EDITIONS["2026"].labels
    rows = pd.DataFrame(
        {"ImageID": ["1_a.png", "2_b.png", "00000013_005.png", "3_c.png"], "StudyDate_DICOM": "20140915"}
    )
    rows["PatientID"] = ["3.24E+38", "3.24E+38", "13", "3.24E+38"]
    rows[list(labels)] = 0
    rows.loc[0, ["Normal", "Support Devices"]] = 1
    rows.loc[1, ["pleural effusion", "aortic elongation"]] = 1
    rows.to_csv(tmp_path / "cxrlt" / "CXRLT_2026_training.csv", index=False)
    command = ("make_chexmultimodal_csv.py", "--cxrlt", "2026", "--data_root", tmp_path, "--no-check_images")
    error = one_line_error(*command, "--out_csv", tmp_path / "t.csv")
    assert "3 values of PatientID are no names of patients, the first is '3.24E+38'" in error
    padchest = pd.DataFrame({"ImageID": ["3_c.png", "2_b.png", "1_a.png"], "ImageDir": [5, 4, 54]})
    padchest = padchest.assign(
        StudyID=["s3", "s2", "s1"],
        PatientID=[
            "839860488694292331637988235681460983",
            "839860488694292331637988235681460982",
            "839860488694292331637988235681460981",
        ],
        Projection="AP_horizontal",
    )
    csv = tmp_path / "padchest" / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    padchest.to_csv(csv, index=False)
    pd.DataFrame({"ImageID": ["3_c.png"]}).to_csv(tmp_path / "cxrlt" / "Removal.csv", index=False)
    table = build(tmp_path, "2026", "--no-check_images")
    assert table["image"].tolist() == ["padchest/54/1_a.png", "padchest/4/2_b.png", "nih/images/00000013_005.png"]
    assert table["patient_id"].tolist() == [
        "padchest:839860488694292331637988235681460981",
        "padchest:839860488694292331637988235681460982",
        "nih:13",
    ]
    assert table["study_id"].tolist() == [
        "padchest:839860488694292331637988235681460981:s1",
        "padchest:839860488694292331637988235681460982:s2",
        "",
    ]
    assert table["labels"].tolist() == ["Normal (labelled),Support Devices", "aortic elongation,Effusion", ""]
    assert table["view"].tolist() == ["AP", "AP", ""]


def test_what_is_refused(tmp_path: Path) -> None:
    files = write_2024(tmp_path, 1, REAL_40, REAL_40)
    out = tmp_path / "t.csv"
    command = ("make_chexmultimodal_csv.py", "--data_root", tmp_path, "--no-check_images", "--out_csv", out)
    train, csv = files["train_labeled"], tmp_path / "cxrlt" / "train_labeled.csv"
    task_1 = (*command, "--cxrlt", "2024.1")
    train.assign(Pnuemonia=1).to_csv(csv, index=False)
    assert "column 'Pnuemonia' is none of the labels of CXR-LT, of which 40" in one_line_error(*task_1)
    train.drop(columns="Fibrosis").to_csv(csv, index=False)
    assert "no column 'Fibrosis' (1 of 40 labels are missing)" in one_line_error(*task_1)
    train.assign(**{"No Finding": 0}).to_csv(csv, index=False)
    assert "are one label" in one_line_error(*task_1)
    train.assign(Mass=2).to_csv(csv, index=False)
    assert "values '2' in column 'Mass'" in one_line_error(*task_1)
    train.assign(dicom_id="x", fpath="x.jpg").to_csv(csv, index=False)
    assert "listed twice" in one_line_error(*task_1)
    csv.unlink()
    assert "no complete set of tables of CXR-LT 2024.1" in one_line_error(*task_1)
    assert "Normal is a label of its own" in run(*task_1, "--fillna", "Normal", code=2)
    assert "--blank goes with --datasets, not with --cxrlt" in run(*task_1, "--blank", "negative", code=2)
    assert not out.exists()


@pytest.mark.slow
def test_the_training_table_of_2024_is_quick(tmp_path: Path) -> None:
    """258,871 rows of 40 labels: goal 4 s."""
    write_2024(tmp_path, 1, REAL_40, REAL_40, images=129_436)
    began = time.process_time()
    table = read_native(tmp_path / "cxrlt", tmp_path, "2024.1")
    seconds = time.process_time() - began
    assert len(table) == 258_872 and seconds < 8, seconds
