"""make_chexmultimodal_csv.py --soften: what a model may fill in, and what never changes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run

from roi.data.table import read_table
from roi.data.targets import target_matrix

IMAGES = ["a.png", "b.png", "c.png", "d.png"]
PROB = {
    "Mass": [0.25, 0.5, 0.75, 0.125],
    "Effusion": [0.0, 0.1, 0.2, 1.0],
    "Edema": [0.3, 0.3, 0.3, 0.3],
    "Normal": [0.9, 0.9, 0.9, 0.9],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of four images and the predictions of them, in another order and under longer names."""
    write_table(tmp_path)
    write_preds(tmp_path, PROB)
    return tmp_path


def write_table(folder: Path, **change: list[str]) -> None:
    columns = {
        "image": IMAGES,
        "labels": ["Mass", "", "Edema", ""],
        "unknown": ["Effusion", "Mass,Effusion", "Mass", "Effusion,Hernia"],
        "uncertain": ["", "", "", "Mass"],
        "soft": ["", "Effusion=0.667", "", ""],
        "patient_id": ["1", "2", "3", "4"],
        "label_source": ["reports", "readers", "", "reports"],
    }
    pd.DataFrame(columns | change).to_csv(folder / "table.csv", index=False)


def write_preds(folder: Path, prob: dict[str, list[float]], **meta: object) -> None:
    rows = []
    for n in (2, 0, 3, 1):
        rows.append({"image": f"nih/{IMAGES[n]}", "prob_full": {c: values[n] for c, values in prob.items()}})
    (folder / "preds.json").write_text(json.dumps(rows))
    known = {"checkpoint": "runs/teacher_best.pt", "epoch": 3, "contaminated": False}
    (folder / "preds.meta.json").write_text(json.dumps(known | meta))


def command(folder: Path, *more: object) -> tuple[object, ...]:
    files = ("--soften", folder / "preds.json", "--csv", folder / "table.csv", "--out_csv", folder / "out.csv")
    return ("make_chexmultimodal_csv.py", *files, *more)


def test_unknown_cells_alone_get_the_probability(folder: Path) -> None:
    said = run(*command(folder))
    before, after = read_table(folder / "table.csv"), read_table(folder / "out.csv")
    # Shares of readers stay; what nobody predicts stays unknown; 0 and 1 are no shares.
    assert after["soft"].tolist() == ["Effusion=0.0001", "Effusion=0.667,Mass=0.5", "Mass=0.75", "Effusion=0.9999"]
    digest = hashlib.sha256((folder / "preds.json").read_bytes()).hexdigest()[:8]
    source = f"soft:teacher_best.pt@{digest}"
    assert after["label_source"].tolist() == [f"reports+{source}", f"readers+{source}", source, f"reports+{source}"]
    assert after.drop(columns=["soft", "label_source"]).equals(before.drop(columns=["soft", "label_source"]))
    assert f"4 of 4 images have labels of {source}" in said and "Effusion 2, Mass 2" in said
    # The same command again finds its own file.
    run(*command(folder))


def test_training_reads_them_and_validation_and_scores_do_not(folder: Path) -> None:
    run(*command(folder))
    before, after = read_table(folder / "table.csv"), read_table(folder / "out.csv")
    classes = ["Mass", "Effusion", "Edema", "Hernia", "Normal"]
    judged = target_matrix(after, classes)
    np.testing.assert_array_equal(judged, target_matrix(before, classes))
    learned, known = target_matrix(after, classes, seed=0), ~np.isnan(judged)
    np.testing.assert_array_equal(learned[known], judged[known])
    expected = [[1, 1e-4, 0, 0, 0], [0.5, 0.667, 0, 0, np.nan], [0.75, 0, 1, 0, 0], [np.nan, 0.9999, 0, np.nan, np.nan]]
    np.testing.assert_allclose(learned, np.array(expected, dtype=np.float32))


def test_classes_that_nobody_looked_for_come_when_they_are_named(folder: Path) -> None:
    write_preds(folder, PROB | {"Fracture": [0.1, 0.2, 0.3, 0.4], "Normal (labelled)": [0.5] * 4})
    error = one_line_error(*command(folder))
    assert "predicts 'Fracture', which no row of" in error and "(2 such classes)" in error
    assert "predicts 'Normal (labelled)'" in one_line_error(*command(folder, "--new_classes", "Fracture"))
    assert "'Mass'" in one_line_error(*command(folder, "--new_classes", "Mass"))
    assert "does not predict it" in one_line_error(*command(folder, "--new_classes", "Kyphosis"))
    assert not (folder / "out.csv").exists()
    run(*command(folder, "--new_classes", "all"))
    after = read_table(folder / "out.csv")
    assert after["unknown"].tolist()[0] == "Effusion,Fracture,Normal (labelled)"
    learned = target_matrix(after, ["Fracture"], seed=0)[:, 0]
    np.testing.assert_allclose(learned, [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    assert np.isnan(target_matrix(after, ["Fracture"])).all()


def test_a_class_comes_under_another_spelling(folder: Path) -> None:
    write_preds(folder, {"Pleural Effusion": [0.1, 0.2, 0.3, 0.4]})
    run(*command(folder))
    soft = read_table(folder / "out.csv")["soft"].tolist()
    assert soft == ["Effusion=0.1", "Effusion=0.667", "", "Effusion=0.4"]


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"contaminated": True}, "teacher_best.pt was trained on test images (contaminated)"),
        ({"contaminated": True, "trained_on_tests": True}, "was trained on test images (contaminated)"),
        ({"checkpoint": None}, "nobody says which model made it"),
        ({"contaminated": None}, "nobody says which model made it"),
    ],
)
def test_a_model_that_has_seen_tests_is_refused(meta: dict[str, object], message: str, folder: Path) -> None:
    write_preds(folder, PROB, **meta)
    if None in meta.values():
        known = json.loads((folder / "preds.meta.json").read_text())
        rest = {key: value for key, value in known.items() if value is not None}
        (folder / "preds.meta.json").write_text(json.dumps(rest))
    assert message in one_line_error(*command(folder))
    assert not (folder / "out.csv").exists()


def test_a_model_may_soften_what_it_was_trained_on(folder: Path) -> None:
    """One of its own training images is no test image; older files cannot tell the two apart."""
    write_preds(folder, PROB, contaminated=True, trained_on_tests=False)
    run(*command(folder))


def test_test_images_and_their_patients_are_refused(folder: Path) -> None:
    write_table(folder, split=["train", "train", "val", "test"])
    assert "1 of its 4 images are test images" in one_line_error(*command(folder))
    write_table(folder, patient_id=["1", "1", "3", "4"])
    (folder / "tests.txt").write_text("b.png\n")
    error = one_line_error(*command(folder, "--exclude_csv", folder / "tests.txt"))
    assert "2 of its 4 images are test images or of test patients" in error
    assert not (folder / "out.csv").exists()


def test_wrong_files_are_one_line(folder: Path) -> None:
    write_table(folder, image=["a.png", "b.png", "x.png", "y.png"])
    error = one_line_error(*command(folder))
    assert "has no prediction for 2 images" in error and "the first is x.png" in error
    write_table(folder)
    (folder / "out.csv").write_text("image,labels\n")
    assert "out.csv exists and differs" in one_line_error(*command(folder))
    same = ("--out_csv", folder / "table.csv")
    assert "is the table itself" in one_line_error(*command(folder, *same))
    assert "give it with --csv" in one_line_error(*command(folder)[:3], *same)
    assert "--csv goes with --soften" in one_line_error(
        "make_chexmultimodal_csv.py", "--src_csv", "x.csv", "--csv", "y.csv", *same
    )
    assert "--fillna does not go with --soften" in one_line_error(*command(folder, "--fillna", "Normal"))
