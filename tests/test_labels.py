"""What a label is: every spelling of nothing found, what is no label; CSV files that are read as they were meant."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run

from roi.data.boxes import read_boxes
from roi.data.splits import listed
from roi.data.table import read_table
from roi.data.targets import class_list, target_matrix
from roi.errors import UserError
from roi.labels import LABELS, NORMAL, canonical, is_finding, normal_name
from roi.scoring import predictions
from roi.sources.label_states import ABSENT, PRESENT, REASONS, UNCERTAIN, label_columns
from roi.training.rows import print_classes

NOTHING = (
    "Normal",
    "normal",
    "NORMAL",
    " normal ",
    "No Finding",
    "No finding",
    "NO FINDING",
    "no_finding",
    "No_Finding",
    "no-finding",
    "NoFinding",
)
NOTHING += ("No Findings", "no  finding", "No_Findings", "NO-FINDINGS", "Healthy", "no abnormality", "normal.")
SOMETHING = ("Abnormal", "Normal variant", "Nodule", "No Mass", "Paranormal", "Normal sinus rhythm", "Finding")


def csv(folder: Path, text: str) -> Path:
    path = folder / "t.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("word", NOTHING)
def test_every_spelling_of_nothing_found_is_no_finding(word: str, tmp_path: Path) -> None:
    table = read_table(csv(tmp_path, f'image,labels\na.png,"{word}"\nb.png,Mass\n'))
    classes = class_list(table)
    assert classes[0] == "Mass" and classes[1] in NORMAL and is_finding(classes).tolist() == [True, False]
    np.testing.assert_array_equal(target_matrix(table, classes), [[0, 1], [1, 0]])
    assert class_list(table, f"Mass,{word.strip()}")[1] in NORMAL
    assert canonical(word.strip(), [*LABELS, *NORMAL], "t") in NORMAL


@pytest.mark.parametrize("word", SOMETHING)
def test_what_only_looks_like_it_stays(word: str) -> None:
    assert normal_name(word) is None


@pytest.mark.parametrize("word", ["No_Finding", "NO FINDING", "no finding", "Normal", "No Findings"])
def test_the_nih_reader_takes_every_spelling(word: str, tmp_path: Path) -> None:
    """No_Finding stands in 3,044 rows of a public copy of Kaggle's sample."""
    source = csv(tmp_path, f"Image Index,Finding Labels\n00000001_000.png,{word}\n00000002_000.png,Mass\n")
    run("make_chexmultimodal_csv.py", "--src_csv", source, "--out_csv", tmp_path / "out.csv", "--fillna", "Normal")
    table = read_table(tmp_path / "out.csv")
    assert table["labels"].tolist() == ["Normal", "Mass"] and class_list(table) == ["Mass", "Normal"]


def test_fillna_is_a_word_for_nothing_found(tmp_path: Path) -> None:
    source = csv(tmp_path, "Image Index,Finding Labels\n00000001_000.png,No Finding\n")
    assert "--fillna None" in one_line_error(
        "make_chexmultimodal_csv.py", "--src_csv", source, "--out_csv", tmp_path / "o.csv", "--fillna", "None"
    )


@pytest.mark.parametrize("word", ["No finding", "No Finding", "NO_FINDING"])
def test_vinbigdata_takes_every_spelling(word: str, tmp_path: Path) -> None:
    from roi.sources.vindr import read_vinbigdata

    (tmp_path / "train.csv").write_text(f"image_id,class_name,rad_id\na,{word},R1\nb,Cardiomegaly,R1\n")
    table = read_vinbigdata(tmp_path)
    assert table["Cardiomegaly"].tolist() == [ABSENT, PRESENT]


# No labels


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("Mass;Edema", "separated by ',', as in 'Mass,Edema'"),
        ("Mass/Edema", "'Mass,Edema'"),
        ("Mass|Edema", "'Mass,Edema'"),
        ("mass / edema", "'mass,edema'"),
        ("Mass + Edema", "'Mass,Edema'"),
        ("Mass & Edema", "'Mass,Edema'"),
        ("Mass and Edema", "'Mass,Edema'"),
        ("Mass Edema", "'Mass,Edema'"),
        ("Mass\tEdema", "'Mass,Edema'"),
        ("Mass\nEdema", "'Mass,Edema'"),
        ("Mass;", "separated by ','"),
        ("Mass|Tuberculosis", "'Mass,Tuberculosis'"),
        ("['Mass', 'Edema']", "list as Python writes it"),
        ("['Mass']", "list as Python writes it"),
        ("[]", "list as Python writes it"),
        ("('Mass', 'Edema')", "list as Python writes it"),
        ("{'Mass'}", "list as Python writes it"),
        ("0", "is no label but a number"),
        ("1", "is no label but a number"),
        ("1.0", "is no label but a number"),
        ("-1", "is no label but a number"),
        ("Mass,1", "is no label but a number"),
        ("None", "leave the field empty"),
        ("none", "leave the field empty"),
        ("N/A", "leave the field empty"),
        ("NA", "leave the field empty"),
        ("null", "leave the field empty"),
        ("NULL", "leave the field empty"),
        ("NaN", "leave the field empty"),
        ("nan", "leave the field empty"),
        ("-", "leave the field empty"),
        ("?", "leave the field empty"),
        ("True", "leave the field empty"),
    ],
)
@pytest.mark.parametrize("column", ["labels", "unknown", "uncertain"])
def test_what_is_no_label_is_refused_with_the_remedy(field: str, said: str, column: str, tmp_path: Path) -> None:
    columns = {"labels": "Hernia", "unknown": "", "uncertain": ""}
    columns[column] = field
    rows = pd.DataFrame([{"image": "a.png", "labels": "Fibrosis"}, {"image": "b.png", **columns}]).fillna("")
    rows.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="row 3: ") as error:
        read_table(tmp_path / "t.csv")
    assert said in str(error.value)


@pytest.mark.parametrize(
    "label",
    [
        "Nodule/Mass",
        "Round(ed) Atelectasis",
        "Tuberculosis",
        "COPD",
        "Aortic enlargement",
        "Opacity/lung/base",
        "COVID-19",
    ],
)
def test_labels_of_other_sets_stay(label: str, tmp_path: Path) -> None:
    assert class_list(read_table(csv(tmp_path, f"image,labels\na.png,{label}\n"))) == [label]


def test_the_source_names_its_own_separator(tmp_path: Path) -> None:
    for field in ("Mass;Edema", '"Mass,Edema"', "Mass/Edema"):
        source = csv(tmp_path, f"Image Index,Finding Labels\n00000001_000.png,{field}\n")
        said = one_line_error("make_chexmultimodal_csv.py", "--src_csv", source, "--out_csv", tmp_path / "out.csv")
        assert "separated by '|', as in 'Mass|Edema'" in said


def test_training_says_its_classes_first(capsys: pytest.CaptureFixture) -> None:
    table = pd.DataFrame(
        {
            "image": [f"{n}.png" for n in range(8)],
            "labels": ["Mass"] * 6 + ["Edema", ""],
            "unknown": [""] * 6 + ["Mass", "Edema"],
        }
    )
    val = pd.DataFrame({"image": ["v.png"], "labels": ["Mass"], "unknown": [""]})
    table["uncertain"] = ""
    val["uncertain"] = ""
    print_classes(table, val, ["Mass", "Edema"], "ignore", 0)
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["Mass", "6", "1", "1", "1", "0", "0"] and said[2].split() == [
        "Edema",
        "1",
        "6",
        "1",
        "0",
        "1",
        "0",
    ]
    assert (
        said[3].startswith("WARNING: fewer than 5 training images have Edema (1)")
        and "no validation image has Edema" in said[4]
    )


# CSV files as they were meant


LONG = "image,labels\na.png,Mass\nb.png,Mass,Edema,13\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LONG, "line 3 has 4 fields, the header has 2"),
        ("image,labels,patient_id\na.png,Mass,1\n\n\nb.png,Mass,Edema,13\n", "line 5 has 4 fields, the header has 3"),
        ('image,labels\n"a\nb.png",Mass\nc.png,Mass,Edema\n', "line 4 has 3 fields"),
        ("image,labels,patient_id\na.png,Mass,1\nb.png,Ma", "line 3 has 2 fields, the header has 3"),
        ("image,labels,view,labels\na.png,Mass,PA,Edema\n", "line 1 names the column 'labels' twice"),
        ("image,labels,Labels \na.png,Mass,Edema\n", "'labels' and 'Labels' have one name in two spellings"),
        ("image,labels,\na.png,Mass,Edema\n", "line 2 has 'Edema' in a column without a name"),
        ("image;labels\na.png;Mass\n", "its columns are separated by ';'"),
    ],
)
def test_rows_and_columns_that_would_be_lost_are_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_table(csv(tmp_path, text))
    assert said in str(error.value) and str(tmp_path / "t.csv") in str(error.value)


def test_other_csv_files_are_as_strict(tmp_path: Path) -> None:
    for text, read in (
        ("image,prob_Mass\na.png,.5\nb.png,.5,.6\n", predictions.read),
        ("image,label,x,y,w,h\na.png,Mass,1,2,3,4\nb.png,Mass,1,2,3,4,5\n", read_boxes),
    ):
        with pytest.raises(ValueError, match="line 3 has"):
            read(csv(tmp_path, text))
    for text, read in (
        ("image,prob_Mass,prob_Mass\na.png,.5,.6\n", predictions.read),
        ("image,label,x,x,y,w,h\na.png,Mass,1,1,2,3,4\n", read_boxes),
    ):
        with pytest.raises(ValueError, match="twice"):
            read(csv(tmp_path, text))
    with pytest.raises(ValueError, match="line 2 is 'a.png,Mass'"):
        listed(csv(tmp_path, "image,labels\na.png,Mass\n".replace("image,labels", "a,b.png")))


def test_a_long_row_of_the_source_is_named(tmp_path: Path) -> None:
    """Shorter rows are as published: the header of 2017 ends in a comma, its rows do not."""
    rows = ["Image Index,Finding Labels,Patient ID,", "00000001_000.png,Mass,1", "00000002_000.png,Mass,Edema,2,3"]
    source = csv(tmp_path, "\n".join(rows) + "\n")
    make = ("make_chexmultimodal_csv.py", "--src_csv", source, "--out_csv", tmp_path / "out.csv")
    assert "line 3 has 5 fields, the header has 4" in one_line_error(*make)
    csv(tmp_path, "\n".join(rows[:2]) + "\n")
    run(*make)


def test_what_pandas_and_excel_write_is_read(tmp_path: Path) -> None:
    """Row numbers without a name, a byte order mark, CRLF, blank lines, a comma behind the header and each row."""
    frame = pd.DataFrame({"image": ["a.png", "b.png"], "labels": ["Mass,Edema", ""]})
    frame.to_csv(tmp_path / "index.csv")
    (tmp_path / "excel.csv").write_bytes('\ufeff\r\nimage,labels\r\na.png,"Mass,Edema"\r\n\r\nb.png,\r\n'.encode())
    (tmp_path / "commas.csv").write_text('image,labels,\na.png,"Mass,Edema",\nb.png,,\n')
    for name in ("index.csv", "excel.csv", "commas.csv"):
        table = read_table(tmp_path / name)
        assert table["image"].tolist() == ["a.png", "b.png"] and table["labels"].tolist() == ["Mass,Edema", ""], name


# Names are text

NAMES = ("00000013", "NA", "null", "1e5", "True", "1.0", "2024-01-01", "None")


def test_names_are_text_everywhere(tmp_path: Path) -> None:
    table = read_table(csv(tmp_path, "image,labels\n" + "".join(f"{name},Mass\n" for name in NAMES)))
    assert tuple(table["image"]) == NAMES
    csv(tmp_path, "image,prob_Mass\n" + "".join(f"{name},.5\n" for name in NAMES))
    preds = predictions.read(tmp_path / "t.csv")
    assert tuple(preds.images) == NAMES
    rows = [{"image": name, "prob_full": {"Mass": 0.5}} for name in NAMES]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    assert tuple(predictions.read(tmp_path / "p.json").images) == NAMES
    csv(tmp_path, "image,label,x,y,w,h\n" + "".join(f"{name},Mass,1,2,3,4\n" for name in NAMES))
    assert tuple(read_boxes(tmp_path / "t.csv")["image"]) == NAMES
    csv(
        tmp_path,
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + "".join(f"{name},Mass,1,2,3,4,,,\n" for name in NAMES),
    )
    assert tuple(read_boxes(tmp_path / "t.csv")["image"]) == NAMES
    assert tuple(listed(csv(tmp_path, "\n".join(NAMES)))) == NAMES


def test_a_number_as_name_in_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('[{"image": 13, "prob_full": {"Mass": 0.5}}]')
    with pytest.raises(ValueError, match="image 13 is no text"):
        predictions.read(tmp_path / "p.json")


def test_images_called_na_are_scored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [*NAMES, *(f"{n:08d}" for n in range(20, 60))]
    labels = ["Mass" if n % 2 else "" for n in range(len(names))]
    pd.DataFrame({"image": names, "labels": labels, "patient_id": names}).to_csv(tmp_path / "t.csv", index=False)
    pd.DataFrame({"image": names, "prob_Mass": rng.random(len(names))}).to_csv(tmp_path / "p.csv", index=False)
    run(
        "evaluate.py",
        "--preds",
        tmp_path / "p.csv",
        "--csv",
        tmp_path / "t.csv",
        "--out",
        tmp_path / "s",
        "--resamples",
        0,
    )
    assert json.loads((tmp_path / "s" / "metrics.json").read_text())["n_images"] == len(names)


# Any number of findings


@pytest.mark.parametrize("classes", [1, 7, 8, 9, 14, 20, 21, 26, 40, 100])
def test_rows_of_any_number_of_findings_keep_their_cells(classes: int) -> None:
    rng = np.random.default_rng(classes)
    cells = rng.integers(0, max(REASONS) + 1, (300, classes)).astype(np.int8)
    cells = np.concatenate([cells, cells[:50], np.full((1, classes), max(REASONS), dtype=np.int8)])
    names = [f"c{n}" for n in range(classes)]
    found = label_columns(cells, names)
    for name, chosen in (
        ("labels", cells == PRESENT),
        ("uncertain", cells == UNCERTAIN),
        ("unknown", cells > UNCERTAIN),
    ):
        assert found[name].tolist() == [
            ",".join(n for n, on in zip(names, row, strict=True) if on) for row in chosen.tolist()
        ]


def test_a_table_of_a_hundred_findings_is_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = sorted(f"finding {chr(97 + n // 10)}{chr(97 + n % 10)}" for n in range(100))
    cells = rng.choice([ABSENT, PRESENT, UNCERTAIN, UNCERTAIN + 1], (60, 100)).astype(np.int8)
    found = label_columns(cells, names)
    pd.DataFrame({"image": [f"{n}.png" for n in range(60)], **found}).to_csv(tmp_path / "t.csv", index=False)
    table = read_table(tmp_path / "t.csv")
    assert class_list(table) == names
    expected = np.where(cells == PRESENT, 1.0, np.where(cells == ABSENT, 0.0, np.nan))
    np.testing.assert_array_equal(target_matrix(table, names), expected)


@pytest.mark.parametrize("name", ["00000001_000.png", "images/00000001_000.png", "images_001/images/00000001_000.png"])
def test_lists_name_images_in_any_spelling(name: str, tmp_path: Path) -> None:
    source = tmp_path / "Data_Entry_2017.csv"
    source.write_text("Image Index,Finding Labels\n00000001_000.png,Mass\n00000002_000.png,Edema\n")
    (tmp_path / "test_list.txt").write_text(name + "\n")
    make = ("make_chexmultimodal_csv.py", "--src_csv", source, "--out_csv")
    run(*make, tmp_path / "all.csv")
    assert read_table(tmp_path / "all.csv")["split"].tolist() == ["test", ""]
    run(*make, tmp_path / "test.csv", "--filter_list", tmp_path / "test_list.txt")
    assert read_table(tmp_path / "test.csv")["image"].tolist() == ["00000001_000.png"]
