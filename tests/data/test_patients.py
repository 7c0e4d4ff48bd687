"""Who is whom: one patient under every spelling, in every place that asks; which word means which split."""

import argparse
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error

import train_roi_consistency
from roi.data import identity, patients, split_words
from roi.data.identity import fingerprints
from roi.data.splits import belongs_to, overlap
from roi.data.table import patients_from_names, read_table
from roi.training.rows import Rows, choose_rows

# Spellings of patient 5 beside a name of NIH, and beside a name that says nothing.
NIH = (
    "",
    "5",
    "00000005",
    "5.0",
    "P5",
    "p00000005",
    "patient 5",
    "Patient_00005",
    "nih:5",
    "nih:5.0",
    "NIH:5",
    "nih:00000005",
)
NIH += ("nih_5", "NIH ChestX-ray14: 5", "nan", "ChestX-ray14:5.00", " 5 ")
PLAIN = ("5", "5.0", "0005", "P5", "p-5", "Patient 5", "subject_005", " 5", "pt5.0", "id 5")
# Two images of one patient, and one of another, in the published layouts.
LAYOUTS = {
    "nih": ("images_001/images/00000005_000.png", "00000005_001.png", "00000006_000.png"),
    "nih, without an ending": ("00000005_000", "00000005_001", "00000006_000"),
    "chexpert": (
        "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
        "train/patient00001/study2/view1_lateral.png",
        "train/patient00002/study1/view1_frontal.png",
    ),
    "chexpert, in one folder": (
        "train/patient00001/study1/view1_frontal.jpg",
        "patient00001_study2_view1_lateral.png",
        "patient00002_study1_view1_frontal.png",
    ),
    "mimic, in one folder": (
        "p10000032_s50414267_a.jpg",
        "files/p10/p10000032/s53189527/b.jpg",
        "p10000764_s57375967_c.jpg",
    ),
    "mimic": (
        "files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg",
        "mimic/files/p10/p10000032/s53189527/2a2277a9-b0ded155-c0de8eb9-c124d10e-82c5caab.jpg",
        "files/p10/p10000764/s57375967/096052b7-d256dc40-453a102b-fa7d01c6-1b22c6b4.jpg",
    ),
    "padchest": (  # of one study
        "0/216840111366964012339356563862009041085518120_00-025-080.png",
        "216840111366964012339356563862009041085518120_00-025-081.png",
        "0/216840111366964012373310883942009117084022290_00-064-025.png",
    ),
    "openi": ("CXR1_1_IM-0001-3001.png", "images/images_normalized/1_IM-0001-4001.dcm.png", "CXR10_IM-0002-1001.png"),
    "rexgradient": (
        "deid_png/GRDNX/GRDN0001/studies/1.2.3/series/1.2.1/instances/9.1.png",
        "deid_png/GRDNX/grdn0001/studies/1.2.4/series/1.2.1/instances/9.2.png",
        "deid_png/GRDNX/GRDN0002/studies/1.2.5/series/1.2.1/instances/9.3.png",
    ),
    "vindr": (
        "train/9a5094b2563a1ef3ff50dc5c7ff71345.dicom",
        "vindr/train/9a5094b2563a1ef3ff50dc5c7ff71345.png",
        "train/051132a778e61a86eb147c7c6f564dfe.png",
    ),
}
PLACES = ("exclude_csv", "split", "val_csv", "inference", "audit")


def write(path: Path, rows: list[tuple[str, ...]], header: str = "image,labels,patient_id") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def chosen(folder: Path, table: Path, *more: object) -> Rows:
    root = folder / "root"
    root.mkdir(exist_ok=True)
    given = {str(flag).removeprefix("--"): value for flag, value in zip(more[::2], more[1::2], strict=True)}
    args = vars(defaults()) | {"train_csv": str(table), "image_root": str(root)} | given
    return choose_rows(argparse.Namespace(**args))


@cache
def defaults() -> argparse.Namespace:
    return train_roi_consistency.parse_args(["--train_csv", "t.csv", "--image_root", ".", "--save", "x.pt"])


def is_noticed(place: str, folder: Path, ours: tuple[str, str], theirs: tuple[str, str]) -> bool:
    """Is (image, patient) `ours` of the training table taken for the patient of `theirs`, which stands elsewhere?"""
    others = [("z1.png", "Mass", "z1"), ("z2.png", "", "z2"), ("z3.png", "", "z3")]
    table = write(folder / "train.csv", [(ours[0], "Mass", ours[1]), *others])
    other = write(folder / "other.csv", [(theirs[0], "", theirs[1])])
    if place == "exclude_csv":
        return ours[0] not in set(chosen(folder, table, "--exclude_csv", other, "--val_fraction", 0).train["image"])
    if place == "split":
        rows = [
            (ours[0], "Mass", ours[1], ""),
            (theirs[0], "", theirs[1], "test"),
            *((*row, "train") for row in others),
        ]
        write(table, rows, "image,labels,patient_id,split")
        return ours[0] not in set(chosen(folder, table, "--val_fraction", 0).train["image"])
    if place == "val_csv":
        try:
            chosen(folder, table, "--val_csv", other)
        except ValueError as error:
            return "shares 1 patients" in str(error)
        return False
    mine, elsewhere = read_table(table), read_table(other)
    if place == "audit":
        return overlap(mine, elsewhere)[1] == 1
    return bool(identity.trained_on(remembered(mine), elsewhere, str(folder)).seen[0])


def remembered(table: pd.DataFrame) -> dict:
    """What a checkpoint knows of the rows it was trained on."""
    known = sorted({*table["patient_id"], *patients.named_patients(table)})
    names = fingerprints(table["image"].tolist()), fingerprints(known)
    return {"train_images": names[0], "train_patients": names[1]}


@pytest.mark.parametrize("place", [*PLACES, "official list", "derived list"])
@pytest.mark.parametrize("spelling", NIH)
def test_every_spelling_of_an_nih_patient_is_one_everywhere(place: str, spelling: str, tmp_path: Path) -> None:
    ours, theirs = ("00000005_000.png", spelling), ("images_001/images/00000005_001.png", "nih:5")
    if place in PLACES:
        assert is_noticed(place, tmp_path, ours, theirs)
        assert is_noticed(place, tmp_path, theirs, ours)
        assert not is_noticed(place, tmp_path, ours, ("00000006_000.png", "6"))
        return
    name = "00000005_001.png" if place == "official list" else "nih/images/00000005_001.png"
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "test_list.txt").write_text(f"{name}\n00000099_000.png\n")
    table = write(
        tmp_path / "train.csv",
        [(ours[0], "Mass", spelling), ("00000006_000.png", "", "6"), ("00000007_000.png", "", "7.0")],
    )
    assert chosen(tmp_path, table, "--val_fraction", 0).train["patient_id"].tolist() == ["nih:6", "nih:7"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("spelling", PLAIN)
def test_every_spelling_of_a_patient_is_one_everywhere(place: str, spelling: str, tmp_path: Path) -> None:
    assert is_noticed(place, tmp_path, ("a.png", spelling), ("b.png", "5"))
    assert not is_noticed(place, tmp_path, ("a.png", spelling), ("b.png", "55"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_say_the_patient(place: str, layout: str, tmp_path: Path) -> None:
    first, second, other = LAYOUTS[layout]
    assert is_noticed(place, tmp_path, (first, ""), (second, ""))
    assert not is_noticed(place, tmp_path, (first, ""), (other, ""))


def test_a_reader_and_a_name_say_the_same_patient() -> None:
    """What the readers of roi/sources write in patient_id is what the name alone says."""
    said = {
        "nih/images/00000013_005.png": "nih:13",
        "chexpert/CheXpert-v1.0/train/patient00013/study1/view1_frontal.jpg": "chexpert:13",
        "mimic/files/p10/p10000032/s50414267/a.jpg": "mimic:10000032",
        "openi/CXR13_1_IM-0001-3001.png": "openi:13",
        "rexgradient/deid_png/GRDN/GRDN0001/studies/1.2.3/series/1.2.1/instances/9.1.png": "rexgradient:GRDN0001",
        "vinbigdata/train/9a5094b2563a1ef3ff50dc5c7ff71345.png": "vinbigdata:9a5094b2563a1ef3ff50dc5c7ff71345",
        "scan.jpg": "image:scan.jpg",
        "images/scan.jpg": "image:scan.jpg",
    }
    assert patients_from_names(pd.Series(list(said))).tolist() == list(said.values())


@pytest.mark.parametrize(
    ("given", "form"),
    [
        (
            "83986048869429233163798823568146090",
            "83986048869429233163798823568146090",
        ),  # PadChest's: longer than any float
        ("rexgradient:GRDN0001", "rexgradient:GRDN0001"),
        ("rexgradient:grdn0001", "rexgradient:GRDN0001"),
        ("mimic-cxr:p10000032", "mimic:10000032"),
        ("CXR-LT:10000032", "mimic:10000032"),
        ("openi:CXR12", "openi:12"),
        ("Ward 3:0012", "ward 3:12"),
        ("0", "0"),
        ("000", "0"),
        ("5.5", "5.5"),
        ("MÜLLER", "müller"),
        ("12ab", "12ab"),
        ("one", "one"),
        ("P5a", "P5A"),
    ],
)
def test_normal_form(given: str, form: str) -> None:
    for patient in (given, form):
        assert patients.join_patient(*patients.split_patient(patient)) == form


@pytest.mark.parametrize("lost", ["8.39860488694292e+35", "12345678901234567000.0"])
def test_a_patient_that_was_a_float_is_refused(lost: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 3: .*lost its digits"):
        read_table(write(tmp_path / "t.csv", [("a.png", "", "1"), ("b.png", "", lost)]))


@pytest.mark.parametrize(
    ("image", "given"),
    [
        ("00000013_005.png", "14"),
        ("images/00000013_005.png", "nih:14"),
        ("00000013_005.png", "0"),
        ("00000013_005.png", "vindr:14"),
        ("train/patient00001/study1/view1_frontal.jpg", "2"),
        ("files/p10/p10000032/s50414267/a.jpg", "10000033"),
        ("CXR1_1_IM-0001-3001.png", "2"),
    ],
)
def test_a_name_of_another_patient_than_the_column_is_an_error(image: str, given: str, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [("a.png", "", "1"), (image, "", given)])
    with pytest.raises(ValueError, match=f"row 3: patient_id '{given}'"):
        read_table(table)


@pytest.mark.parametrize("place", PLACES)
def test_a_pseudonym_and_the_number_in_the_name_are_both_known(place: str, tmp_path: Path) -> None:
    assert is_noticed(place, tmp_path, ("00000005_000.png", "Anna"), ("00000005_001.png", "5"))
    assert is_noticed(place, tmp_path, ("a.png", "Anna"), ("00000005_001.png", "anna"))
    assert not is_noticed(place, tmp_path, ("00000005_000.png", "Anna"), ("00000006_001.png", "6"))


def test_two_pseudonyms_of_one_patient_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [("00000005_000.png", "", "Anna"), ("00000006_000.png", "", "Anna"), ("00000005_001.png", "", "Bert")]
    with pytest.raises(ValueError, match="row 4: patient_id 'Bert'.*nih:5, whose patient_id is 'anna' elsewhere"):
        read_table(write(tmp_path / "t.csv", rows))
    table = read_table(write(tmp_path / "t.csv", rows[:2]))
    assert table["patient_id"].nunique() == 1
    assert "2 images have a patient_id that is not the number in their names" in capsys.readouterr().out


def test_names_like_nihs_of_another_set_say_nothing(tmp_path: Path) -> None:
    """Where column dataset names the set, its own patients count; so do numbers that NIH does not have."""
    rows = [("00000013_005.png", "", "H-77", "our hospital"), ("20200131_001.png", "", "78", "")]
    table = read_table(write(tmp_path / "t.csv", rows, "image,labels,patient_id,dataset"))
    assert table["patient_id"].tolist() == ["H-77", "78"]


@pytest.mark.parametrize(
    "column", ["patient", "Patient ID", "subject_id", "PatientID", "Subject", "patient-id", "PATIENT_ID", "mrn"]
)
def test_a_column_of_patients_is_read_under_its_other_names(
    column: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [("a.png", "Mass", "7.0"), ("b.png", "", "7"), ("c.png", "", "8")]
    table = read_table(write(tmp_path / "t.csv", rows, f"image,labels,{column}"))
    assert (
        table["patient_id"].tolist() == ["7", "7", "8"]
        and f"{column!r} is read as 'patient_id'" in capsys.readouterr().out
    )


def test_two_columns_of_patients_are_not_guessed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="'patient', 'subject_id' may each be 'patient_id'"):
        read_table(write(tmp_path / "t.csv", [("a.png", "", "1", "2")], "image,labels,patient,subject_id"))
    table = read_table(write(tmp_path / "t.csv", [("a.png", "", "1", "2")], "image,labels,patient_id,subject_id"))
    assert table["patient_id"].tolist() == ["1"] and "'subject_id' is not read" in capsys.readouterr().out


def test_training_says_its_classes_before_the_audit(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = write(tmp_path / "t.csv", [(f"{n}.png", "Mass" if n % 2 else "", str(n)) for n in range(20)])
    chosen(tmp_path, table)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"reading {table}"
    assert said[1].split()[:2] == ["class", "positive"] and said[2].startswith("Mass") and said[-3].startswith("train ")


def test_images_that_are_taken_as_patients_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    read_table(write(tmp_path / "t.csv", [("a.png", ""), ("b.png", ""), ("00000013_005.png", "")], "image,labels"))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and "2 images are taken as patients of their own, of 3" in said[0] and "patient_id" in said[0]
    read_table(write(tmp_path / "t.csv", [("a.png", "", "1"), ("00000013_005.png", "", "")]))
    assert capsys.readouterr().out == ""


def test_a_list_that_names_one_image_takes_the_others_of_its_patient() -> None:
    """The list does not say whose the image is; the table does."""
    table = pd.DataFrame({"image": ["a.png", "b.png", "c.png"], "patient_id": ["7", "7", "8"]})
    names = pd.Series(["a.png"])
    assert belongs_to(table, [pd.DataFrame({"image": names, "patient_id": patients_from_names(names)})]).tolist() == [
        True,
        True,
        False,
    ]
    state = remembered(pd.DataFrame({"image": ["a.png"], "patient_id": ["image:a.png"]}))
    assert identity.trained_on(state, table, ".").seen.tolist() == [True, True, False]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_single_file_is_marked_by_its_path(layout: str, tmp_path: Path) -> None:
    first, second, other = LAYOUTS[layout]
    images = pd.Series([first])
    state = remembered(pd.DataFrame({"image": images, "patient_id": patients_from_names(images)}))
    found = [bool(identity.trained_on_file(state, tmp_path / name).seen[0]) for name in (first, second, other)]
    assert found == [True, True, False]


def test_a_single_file_of_no_layout_is_marked_by_any_end_of_its_path(tmp_path: Path) -> None:
    state = remembered(pd.DataFrame({"image": ["ward/scan.png"], "patient_id": ["7"]}))
    assert identity.trained_on_file(state, tmp_path / "x" / "ward" / "scan.png").seen.all()
    assert not identity.trained_on_file(state, tmp_path / "other" / "scan.png").seen.any()


# Names in several sets


def with_sets(state: dict, sets: list[str], synthetic: bool = False, root: str = "/data/a") -> dict:
    """The memory of a checkpoint that knows its data sets, too."""
    return {**state, "train_sets": fingerprints(sets), "synthetic": synthetic, "args": {"image_root": root}}


@pytest.mark.parametrize(
    ("trained", "dataset", "root", "answer"),
    [
        (["ward"], "ward", "/data/b", "seen"),  # name and set
        (["ward"], "Clinic", "/data/b", "other"),  # the same file name in another set
        (["ward", ""], "clinic", "/data/b", "doubt"),  # some training rows name no set: it may be theirs
        (["ward"], "", "/data/b", "doubt"),
        ([""], "", "/data/b", "doubt"),
        ([""], "", "/data/a", "seen"),  # the same file: it lies where the training images lay
    ],
)
def test_a_file_name_is_no_identity_without_its_data_set(
    trained: list[str], dataset: str, root: str, answer: str, tmp_path: Path
) -> None:
    table = pd.DataFrame({"image": ["0001.png"], "patient_id": ["image:0001.png"]})
    state = with_sets(remembered(table), trained)
    found = identity.trained_on(state, table.assign(dataset=dataset, label_source=""), root)
    assert (found.seen.tolist(), found.doubt.tolist()) == ([answer == "seen"], [answer == "doubt"])


def test_an_nih_patient_is_known_whatever_folder_he_lies_in_and_the_demo_set_is_not_nih(tmp_path: Path) -> None:
    """Its files have the names of NIH's, each of them."""
    table = pd.DataFrame({"image": ["00000013_005.png"], "patient_id": ["nih:13"]})
    real = with_sets(remembered(table), ["nih"])
    rows = table.assign(dataset="nih", label_source="Data_Entry_2017.csv")
    assert identity.trained_on(real, rows.assign(dataset=""), "/elsewhere").seen.all()
    drawn = with_sets(remembered(table), ["synthetic set (seed 0; 96 images of 48 px)"], synthetic=True)
    found = identity.trained_on(drawn, rows, "/elsewhere")
    assert not found.seen.any() and not found.doubt.any()
    # A lone file: nobody says whether it is drawn.
    assert identity.trained_on_file(drawn, tmp_path / "00000013_005.png").doubt.all()
    (tmp_path / "demo.json").write_text('{"made_by": "make_demo_dataset.py", "seed": 0, "images": 96, "size": 48}')
    assert identity.trained_on_file(drawn, tmp_path / "00000013_005.png").seen.all()
    assert not identity.trained_on_file(real, tmp_path / "00000013_005.png").seen.any()
    (tmp_path / "demo.json").write_text('{"made_by": "somebody"}')
    assert identity.trained_on_file(real, tmp_path / "00000013_005.png").seen.all()


# Splits

WORDS = {
    "train": ("train", "Train", "TRAINING", "training_set", "Train set", "trainset", " train "),
    "train_val": ("train_val", "trainval", "TRAIN-VAL", "train/val"),
    "val": (
        "val",
        "VALID",
        "validation",
        "Validation Set",
        "validate",
        "dev",
        "development",
        "dev_set",
        "val_split",
        "tuning",
    ),
    "test": ("test", "Test", "testing", "test_set", "TEST SET", "testset", "test-split", "test_"),
    "": ("", "  "),
}


@pytest.mark.parametrize(("split", "word"), [(split, word) for split, words in WORDS.items() for word in words])
def test_every_word_for_a_split_is_obeyed(split: str, word: str, tmp_path: Path) -> None:
    assert split_words.split_word(word) == split
    rows = [("a.png", "Mass", word), ("b.png", "Mass", "train"), ("c.png", "", "train"), ("d.png", "", "train")]
    table = write(tmp_path / "t.csv", rows, "image,labels,split")
    assert read_table(table)["split"].tolist()[0] == split
    found = chosen(tmp_path, table, "--val_fraction", 0.3)
    trained_on, judged = ("a.png" in set(rows["image"]) for rows in (found.train, found.val))
    assert {"test": (False, False), "val": (False, True)}.get(split, (trained_on, judged)) == (trained_on, judged)


@pytest.mark.parametrize("word", ["internal", "0", "nan", "tset", "fold1", "trainX"])
def test_an_unknown_word_for_a_split_is_an_error(word: str, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", [("a.png", "Mass", "train"), ("b.png", "", word)], "image,labels,split")
    with pytest.raises(ValueError, match=f"row 3: split '{word}'.*train, val or test"):
        read_table(table)
    assert word in one_line_error(
        "train_roi_consistency.py", "--train_csv", table, "--image_root", tmp_path, "--save", tmp_path / "x.pt"
    )


@pytest.mark.parametrize("column", ["Split", "SPLIT", "subset", "partition", "data_split"])
def test_a_column_of_splits_is_read_under_its_other_names(
    column: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = read_table(
        write(tmp_path / "t.csv", [("a.png", "", "Testing"), ("b.png", "", "train")], f"image,labels,{column}")
    )
    assert table["split"].tolist() == ["test", "train"] and f"{column!r} is read as 'split'" in capsys.readouterr().out
    other = read_table(write(tmp_path / "t.csv", [("a.png", "", "Testing")], "image,labels,remark"))
    assert other["split"].tolist() == [""]


def test_every_reader_uses_the_same_words() -> None:
    from roi.sources.reading import split_of

    words = [word for found in WORDS.values() for word in found]
    np.testing.assert_array_equal(split_of(pd.Series(words), "x"), [split_words.split_word(word) for word in words])
