"""A run folder that was moved or handed over gives a whole report: paths count from the file that holds them."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import run

from roi import run_paths
from roi.scoring.predictions import read

SECTIONS = ("scores", "training", "findings", "calibration", "faithfulness", "localisation", "gallery", "configuration")


@pytest.fixture(scope="module")
def made(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with data, tables, training, predictions and scores in one folder, by commands in the folder above."""
    above = tmp_path_factory.mktemp("work")
    before = os.getcwd()
    shutil.copytree(demo, above / "mine" / "nih")
    for table in tables:
        shutil.copy(table, above / "mine")
    compute = ("--image_root", "mine/nih", "--workers", 0, "--device", "cpu")
    os.chdir(above)
    try:
        run(
            *("train_roi_consistency.py", "--train_csv", "mine/train.csv", "--exclude_csv", "mine/test.csv", *compute),
            *("--backbone", "test_resnet", "--weights", "none", "--img_size", 64, "--epochs", 2, "--batch_size", 8),
            *("--save", "mine/roi.pt", "--log_csv", "mine/log_of_mine.csv"),
        )
        run(
            *("infer_roi_consistency.py", "--checkpoint", "mine/roi_best.pt", "--csv", "mine/test.csv", *compute),
            *("--save_json", "mine/preds.json", "--save_masks", "mine/masks.npz"),
            *("--curves", "mine/curves.npz", "--curve_samples", 4),
        )
        boxes = ("--bbox_csv", "mine/nih/BBox_List_2017.csv", "--masks", "mine/masks.npz")
        run(
            *("evaluate.py", "--preds", "mine/preds.json", "--csv", "mine/test.csv", *boxes, "--resamples", 5),
            *("--curves", "mine/curves.npz", "--out", "mine/scores"),
        )
    finally:
        os.chdir(before)
    return above / "mine"


def page_of(folder: Path, out: Path, *more: object) -> str:
    run("make_report.py", "--runs", folder, "--out", out, "--cases", 2, *more)
    return out.read_text(encoding="utf-8")


def whole(page: str) -> None:
    """All sections, each with content, and pictures of cases."""
    for key in SECTIONS:
        assert f'<section id="{key}">' in page
    assert "cannot be found" not in page and "No gallery" not in page and "There is no train_metrics" not in page
    assert page.count('class="case"') >= 2 and page.count("data:image/webp") >= 2


def test_a_run_that_was_moved_gives_the_whole_report(made: Path, tmp_path: Path) -> None:
    there = tmp_path / "handed" / "over"
    shutil.copytree(made, there)
    for file in there.glob("*.json"):
        assert str(made.parent) not in file.read_text()
    # The old folder is out of the way: nothing may be read from it.
    hidden = made.with_name("hidden")
    made.rename(hidden)
    try:
        whole(page_of(there, tmp_path / "report.html"))
    finally:
        hidden.rename(made)


def test_paths_count_from_the_file_that_holds_them(made: Path) -> None:
    metrics = json.loads((made / "scores" / "metrics.json").read_text())
    assert metrics["paths"] == run_paths.MARK
    inputs = metrics["inputs"]
    assert (inputs["preds"], inputs["csv"], inputs["masks"]) == ("../preds.json", "../test.csv", ["../masks.npz"])
    assert metrics["predictions"]["image_root"] == "../nih"
    assert metrics["predictions"]["checkpoint"] == "../roi_best.pt"
    assert list(metrics["localization"]["maps"]) == ["../masks.npz"]
    assert metrics["localization"]["box_file"] == "../nih/BBox_List_2017.csv"
    meta = json.loads((made / "preds.meta.json").read_text())
    assert (meta["checkpoint"], meta["table"], meta["image_root"]) == ("roi_best.pt", "test.csv", "nih")
    with np.load(made / "masks.npz") as arrays:
        assert json.loads(str(arrays["meta"]))["image_root"] == "nih"
    # Who reads them has paths from the current folder again.
    assert Path(read(made / "preds.json").meta["image_root"]).samefile(made / "nih")


@pytest.mark.parametrize("old", ["absolute", "as typed"])
def test_files_of_before_are_found_where_they_are_and_where_they_went(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str
) -> None:
    there = tmp_path / "mine"
    shutil.copytree(made, there)
    base = str(made.parent / "mine") if old == "absolute" else "mine"
    file = there / "scores" / "metrics.json"
    text = file.read_text().replace('"../', f'"{base}/')
    metrics = json.loads(text)
    del metrics["paths"]
    file.write_text(json.dumps(metrics))
    # Typed in the folder above.
    monkeypatch.chdir(tmp_path)
    whole(page_of(there, tmp_path / "report.html"))
    # Moved, and asked for from elsewhere.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    there.rename(elsewhere / "other")
    monkeypatch.chdir(elsewhere)
    hidden = made.with_name("hidden")
    made.rename(hidden)
    try:
        whole(page_of(elsewhere / "other", elsewhere / "report.html"))
    finally:
        hidden.rename(made)


def test_a_path_outside_the_run_stays_as_it_was_given_when_it_is_absolute(tmp_path: Path) -> None:
    file = tmp_path / "run" / "scores" / "metrics.json"
    assert run_paths.portable("/data/nih", file) == "/data/nih"
    assert run_paths.portable(str(tmp_path / "run" / "a.csv"), file) == "../a.csv"
    relative = os.path.relpath(tmp_path / "tables" / "b.csv")
    assert run_paths.portable(relative, file) == "../../tables/b.csv"
    assert run_paths.portable(None, file) is None and run_paths.portable("", file) == ""
    # Not scores/: the run is the folder of the file itself, and its neighbour is not part of it.
    other = str(tmp_path / "run" / "a.csv")
    assert run_paths.portable(other, tmp_path / "run" / "b" / "preds.json") == other


def test_a_path_is_looked_for_beside_its_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder may hold a file of the same name that has nothing to do with the run."""
    for folder in ("run", "here"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "preds.json").write_text("[]")
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "run" / "metrics.json"
    assert run_paths.find("preds.json", file, from_file=True) == tmp_path / "run" / "preds.json"
    assert run_paths.find("preds.json", file, from_file=False) == Path("preds.json")
    assert run_paths.find("gone.json", file, from_file=True) is None and run_paths.find(None, file, True) is None


def test_the_head_of_the_report_says_when_where_on_what_and_how_long(made: Path, tmp_path: Path) -> None:
    metrics = json.loads((made / "scores" / "metrics.json").read_text())
    origin = metrics["predictions"]
    assert origin["backbone"] == "test_resnet" and origin["parameters"] > 1000 and origin["training"]["images"] > 20
    assert origin["training"]["table"] == "train.csv" and origin["training"]["hours"] >= 0
    metrics["host"], origin["training"]["host"] = "scorer", "trainer"
    origin["training"]["hours"] = 12.25
    copy = tmp_path / "run"
    shutil.copytree(made, copy)
    (copy / "scores" / "metrics.json").write_text(json.dumps(metrics))
    head = page_of(copy, tmp_path / "a.html").partition("</header>")[0]
    parameters = f"{origin['parameters'] / 1e6:,.1f} million parameters"
    images = f"{origin['training']['images']:,} images"
    for words in (f"Scored {metrics['date'][:10]}", "on scorer", f"test_resnet, {parameters}", "on trainer", images):
        assert words in head
    assert "12.25 hours" in head and "on train.csv" in head
    bare = page_of(copy, tmp_path / "b.html", "--no-host").partition("</header>")[0]
    assert "scorer" not in bare and "trainer" not in bare and "12.25 hours" in bare


def test_the_name_of_the_machine_can_be_another_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from roi import run_facts

    monkeypatch.setenv("ROI_HOST", "")
    assert run_facts.here()["host"] == ""
    monkeypatch.setenv("ROI_HOST", "a node")
    assert run_facts.here()["host"] == "a node"
    # A training that goes on keeps its first start.
    assert run_facts.begun({"host": "x", "begun": "then", "epoch": 1}) == ("x", "then")
    assert run_facts.begun({"epoch": 1}) == ("", "")
