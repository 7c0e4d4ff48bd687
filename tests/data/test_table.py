"""Tables: labels by token, order of findings, unknown, splits by patient, leakage; and the script that makes them."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run

from roi.data import splits, targets
from roi.data import table as t
from roi.labels import LABELS

HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def frame(**columns: list[str]) -> pd.DataFrame:
    rows = len(columns["image"])
    return pd.DataFrame({c: columns.get(c, [""] * rows) for c in t.COLUMNS})


@pytest.mark.parametrize(
    ("wanted", "known", "place"),
    [
        (["a.png", "b.png", "c.png"], ["b.png", "a.png"], [1, 0, -1]),
        (["images/a.png", "images_003/images/a.png", "./a.png", "a.png"], ["a.png"], [0, 0, 0, 0]),  # NIH's shards
        (["a.png", "a.png"], ["nih/images/a.png", "openi/b.png"], [0, 0]),  # a list of boxes, without folders
        (["nih/images/a.png"], ["a.png"], [0]),
        (["t/x/a.png"], ["nih/x/a.png"], [-1]),
        (["s/a.png"], ["nih/s/a.png", "openi/a.png"], [0]),  # by whole folders, from the end
        (["s/a.png"], ["nih/xs/a.png"], [-1]),
        (["a/1.png"], ["b/1.png"], [-1]),  # another image
        (["1.png"], ["a/1.png", "b/1.png"], [-2]),
        (["a/1.png", "b/1.png"], ["1.png"], [-2, -2]),
        (["1.png", "a/1.png"], ["1.png"], [0, -2]),  # that one has its own name here
        (["1.png", "a/1.png"], ["a/1.png"], [-2, 0]),
        (["1.png"], ["1.png", "a/1.png"], [0]),
        (["1.png"], ["images/1.png", "1.png"], [-2]),
        (["1.png", "2.png"], [], [-1, -1]),
        ([], ["1.png"], []),
    ],
)
def test_the_same_image_or_not(wanted: list[str], known: list[str], place: list[int]) -> None:
    found = t.match_images(wanted, known)
    assert found.tolist() == place and found.dtype == np.int64
    assert (t.ABSENT, t.AMBIGUOUS) == (-1, -2)


def test_matches_do_not_depend_on_the_order_and_are_fast() -> None:
    rng = np.random.default_rng(0)
    names = [f"{n % 5}/{n % 700}.png" for n in range(3000)] + [f"{n}.png" for n in range(900)]
    wanted, known = (list(dict.fromkeys(rng.choice(names, 600).tolist())) for _ in range(2))
    place = t.match_images(wanted, known)
    order, other = rng.permutation(len(wanted)), rng.permutation(len(known))
    moved = t.match_images([wanted[n] for n in order], [known[n] for n in other])
    expected = [place[n] if place[n] < 0 else int(np.flatnonzero(other == place[n])[0]) for n in order]
    assert moved.tolist() == expected and {-1, -2} < set(expected)
    begin = time.process_time()
    t.match_images([f"nih/{n}.png" for n in range(100_000)], [f"{n}.png" for n in range(100_000)])
    assert time.process_time() - begin < 3


def test_order_of_classes_is_the_fields_order_then_sorted() -> None:
    table = frame(image=["a", "b"], labels=["Zebra,Hernia,Atelectasis", "Normal"], unknown=["Mass", ""])
    assert targets.class_list(table) == ["Atelectasis", "Mass", "Hernia", "Normal", "Zebra"]
    assert targets.class_list(table, "Hernia, Atelectasis") == ["Atelectasis", "Hernia"]
    with pytest.raises(ValueError, match="'Edema'"):
        targets.class_list(table, "Edema")


def test_targets_are_present_absent_unknown_and_normal_is_derived() -> None:
    table = frame(
        image=list("abcd"),
        labels=["Mass", "", "Normal,Mass", ""],
        unknown=["", "", "", "Hernia"],
        uncertain=["Hernia", "", "", ""],
    )
    target = targets.target_matrix(table, ["Mass", "Hernia", "Normal"])
    np.testing.assert_array_equal(
        target, np.array([[1, np.nan, 0], [0, 0, 1], [1, 0, 0], [0, np.nan, np.nan]], dtype=np.float32)
    )


def test_label_is_never_matched_by_substring() -> None:
    target = targets.target_matrix(frame(image=["a"], labels=["Massive,Subcutaneous Emphysema"]), ["Mass", "Emphysema"])
    assert target.sum() == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image,label\na.png,Mass\n", "no column 'labels'"),
        ("image,labels\n", "no rows"),
        ("image,labels\na.png,Mass\na.png,\n", "listed twice"),
        ("image,labels,unknown\na.png,Mass,Mass\n", "both present and unknown"),
        ("image,labels\n,Mass\n", "row 2 names no image"),
        ("", "not a CSV table"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        t.read_table(path)
    assert str(path) in str(error.value)


def test_two_columns_suffice_and_patients_come_from_nih_names(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("image,labels\n00000013_005.png,Mass\nimages_001/images/00000013_006.png,\nscan.jpg,\n")
    assert t.read_table(path)["patient_id"].tolist() == ["nih:13", "nih:13", "image:scan.jpg"]


def test_split_keeps_patients_whole_and_is_seeded() -> None:
    rng = np.random.default_rng(0)
    table = frame(image=[f"{i}.png" for i in range(500)], patient_id=[f"p{n}" for n in rng.integers(0, 150, 500)])
    train, val = splits.split_by_patient(table, 0.2, seed=1)
    assert len(train) + len(val) == 500 and not set(train["patient_id"]) & set(val["patient_id"])
    assert 0.17 <= len(val) / 500 <= 0.2
    assert splits.split_by_patient(table, 0.2, seed=1)[1].equals(val) and not splits.split_by_patient(
        table, 0.2, seed=2
    )[1].equals(val)


def test_overlap_sees_through_spellings_and_follows_patients() -> None:
    a = frame(image=["images_003/images/x.png", "y.png", "z.png"], patient_id=["1", "2", "3"])
    b = frame(image=["x.png", "other.png"], patient_id=["1", "2"])
    assert splits.overlap(a, b) == (1, 2)
    assert splits.belongs_to(a, [b]).tolist() == [True, True, False]


def test_one_patient_and_one_image_under_two_spellings() -> None:
    table = t.check_table(frame(image=["00000013_005.png", "00000013_006.png"], patient_id=["13", ""]), "t")
    assert table["patient_id"].tolist() == ["nih:13", "nih:13"]
    with pytest.raises(ValueError, match="listed twice"):
        t.check_table(frame(image=["scan.png", "images//scan.png"]), "t")


def write_nih(folder: Path, rows: list[str], header: str = HEADER_2017, names: list[str] | None = None) -> Path:
    (folder / "images").mkdir(parents=True)
    for name in [row.split(",")[0] for row in rows] if names is None else names:
        (folder / "images" / name).write_bytes(b"")
    (folder / "Data_Entry_2017.csv").write_text("\r\n".join([header, *rows]) + "\r\n")
    return folder


ROWS = [
    "00000001_000.png,Cardiomegaly|Emphysema,0,1,411,M,PA,2682,2749,0.143,0.143",
    "00000001_001.png,No Finding,1,1,058,F,AP,2682,2749,0.143,0.143",
]


def test_make_csv_writes_the_contracted_columns(tmp_path: Path) -> None:
    nih = write_nih(tmp_path / "nih", ROWS)
    make = (
        "make_chexmultimodal_csv.py",
        "--src_csv",
        nih / "Data_Entry_2017.csv",
        "--image_dir",
        nih / "images",
        "--out_csv",
        tmp_path / "out.csv",
    )
    run(*make, "--fillna", "Normal")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "image,labels,unknown,uncertain,soft,patient_id,study_id,view,age,sex,dataset,split,label_source"
    assert (
        lines[1] == '00000001_000.png,"Cardiomegaly,Emphysema",,,,nih:1,nih:1:0,PA,,M,nih,,Data_Entry_2017.csv'
    )  # an age of 411 years is no age
    assert lines[2].startswith("00000001_001.png,Normal,,,,nih:1,nih:1:1,AP,058,F")
    run(*make, "--fillna", "Normal")  # the same again: nothing to complain about
    assert "exists and differs" in one_line_error(*make)
    run(*make, "--overwrite")
    assert (tmp_path / "out.csv").read_text().splitlines()[2].startswith("00000001_001.png,,,,")


def test_make_csv_names_what_is_wrong(tmp_path: Path) -> None:
    nih = write_nih(tmp_path / "nih", ROWS)
    (tmp_path / "list.txt").write_text("00000001_000.png\n00000009_000.png")
    make = ("make_chexmultimodal_csv.py", "--src_csv", nih / "Data_Entry_2017.csv", "--out_csv", tmp_path / "out.csv")
    assert "00000009_000.png" in one_line_error(*make, "--filter_list", tmp_path / "list.txt")
    assert "no column 'Labels'" in one_line_error(*make, "--label_from", "Labels")
    assert "no such folder" in one_line_error(*make, "--image_dir", tmp_path / "nowhere/images")
    double = write_nih(tmp_path / "double", [ROWS[0], ROWS[0]])
    assert "listed twice" in one_line_error(
        make[0], "--src_csv", double / "Data_Entry_2017.csv", "--out_csv", tmp_path / "out.csv"
    )
    empty = write_nih(tmp_path / "empty", [])
    assert "no rows" in one_line_error(
        make[0], "--src_csv", empty / "Data_Entry_2017.csv", "--out_csv", tmp_path / "out.csv"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["double", "empty", "list.txt", "nih"]  # nothing half-written


def test_make_csv_counts_missing_images(tmp_path: Path) -> None:
    nih = write_nih(tmp_path / "nih", ROWS, names=["00000001_001.png"])
    make = (
        "make_chexmultimodal_csv.py",
        "--src_csv",
        nih / "Data_Entry_2017.csv",
        "--image_dir",
        nih / "images",
        "--out_csv",
        tmp_path / "out.csv",
    )
    assert "1 of 2 images are missing" in one_line_error(*make)
    assert (tmp_path / "out_missing.txt").read_text() == "00000001_000.png\n" and not (tmp_path / "out.csv").exists()
    assert "1 of 2 images are missing" in run(*make, "--allow_missing")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2


def test_make_csv_on_the_demo_set(demo: Path, tables: tuple[Path, Path]) -> None:
    train, test = (t.read_table(p) for p in tables)
    official = (demo / "test_list.txt").read_text().split()
    assert len(train) == 96 and sorted(test["image"]) == sorted(official)
    assert set(train.loc[train["split"] == "test", "image"]) == set(official)
    assert targets.class_list(train) == [*LABELS, "Normal"]


def test_real_metadata_row_for_row(shared: Path, tmp_path: Path) -> None:
    nih = shared / "nih_metadata"
    make = ("make_chexmultimodal_csv.py", "--src_csv", nih / "Data_Entry_2017_v2020.csv")
    expected = [11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227]
    for out, rows, more in (
        ("all.csv", 112_120, ()),
        ("trainval.csv", 86_524, ("train_val_list.txt",)),
        ("test.csv", 25_596, ("test_list.txt",)),
    ):
        run(*make, "--out_csv", tmp_path / out, *(("--filter_list", nih / more[0]) if more else ()))
        table = t.read_table(tmp_path / out)
        assert len(table) == rows
        if not more:
            assert targets.class_list(table) == list(LABELS)
            assert targets.target_matrix(table, LABELS).sum(axis=0).astype(int).tolist() == expected
    assert splits.overlap(t.read_table(tmp_path / "trainval.csv"), t.read_table(tmp_path / "test.csv")) == (0, 0)


def test_real_2017_header_with_its_trailing_comma(shared: Path) -> None:
    from roi.sources.nih import read_nih

    table = read_nih(shared / "nih_metadata" / "Data_Entry_2017_format_sample.csv")
    assert len(table) == 5606 and table["image"].is_unique and table["age"].str.match(r"^\d{0,3}$").all()


@pytest.mark.parametrize("label", ["Atelectesis", "mass", "Pleural thickening", "Mass|Nodule", "nan"])
def test_a_label_that_is_nearly_one_is_refused(tmp_path: Path, label: str) -> None:
    (tmp_path / "t.csv").write_text(f'image,labels\na.png,"{label},Edema"\n')
    with pytest.raises(ValueError, match="did you mean|is no label"):
        t.read_table(tmp_path / "t.csv")


def test_known_spellings_become_ours_and_other_classes_stay(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('image,labels\na.png,"Infiltrate,Tuberculosis"\n')
    assert t.read_table(tmp_path / "t.csv")["labels"].tolist() == ["Infiltration,Tuberculosis"]


def test_a_resized_copy_holds_the_same_image() -> None:
    names = ["00000013_005.png", "images/00000013_005.png", "images-224/images-224/00000013_005.png"]
    assert set(t.image_keys(pd.Series(names))) == {names[0]}


@pytest.mark.parametrize("ending", ["", "_NIH"])
def test_the_official_list_is_found_under_both_names(tmp_path: Path, ending: str) -> None:
    assert splits.official_list(tmp_path, "test") is None
    (tmp_path / f"test_list{ending}.txt").write_text("a.png\n")
    assert splits.official_list(tmp_path, "test") == tmp_path / f"test_list{ending}.txt"


def test_missing_images_are_said_with_what_is_there(tmp_path: Path) -> None:
    """Also where the folder that was named is not there: the one above it is shown."""
    csv = tmp_path / "Data_Entry_2017.csv"
    csv.write_text(f"{HEADER_2017}\n00000001_000.png,Mass,0,1,50,M,PA,1,1,1,1\n")
    flags = ("--src_csv", csv, "--image_dir", tmp_path / "images", "--out_csv", tmp_path / "o" / "t.csv")
    said = one_line_error("make_chexmultimodal_csv.py", *flags)
    assert "the first is 00000001_000.png" in said and f"{tmp_path} holds Data_Entry_2017.csv, o;" in said
