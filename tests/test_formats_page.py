"""docs/formats.md names every key of the files that a run writes."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run
from safetensors import safe_open

from roi.demo.studies.study_set import TRUTH_COLUMNS
from roi.models.queries import write_queries


@pytest.fixture(scope="module")
def folder(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of one epoch leaves."""
    out = tmp_path_factory.mktemp("formats")
    train, test = tables
    compute = ("--image_root", demo, "--workers", 0, "--device", "cpu")
    run(
        *(
            "train_roi_consistency.py",
            "--train_csv",
            train,
            "--exclude_csv",
            test,
            *compute,
            "--backbone",
            "test_resnet",
        ),
        *("--weights", "none", "--img_size", 64, "--epochs", 2, "--batch_size", 8, "--save", out / "roi.pt"),
        *("--log_csv", out / "metrics.csv"),
    )
    maps = ("--save_masks", out / "masks.npz", "--class_masks", out / "class_masks.npz")
    curves = ("--curves", out / "curves.npz", "--curve_samples", 4)
    boxes = ("--bbox_csv", demo / "BBox_List_2017.csv")
    predict = ("infer_roi_consistency.py", "--checkpoint", out / "roi.pt", *compute)
    run(*predict, "--csv", test, "--save_json", out / "preds.json", *maps, *curves, *boxes)
    run(*predict, "--csv", out / "roi_val.csv", "--save_json", out / "val.json")
    run(*predict, "--csv", test, "--save", out / "preds.csv", "--overwrite")
    calibration = ("--preds", out / "val.json", "--csv", out / "roi_val.csv")
    common = json.loads((out / "val.json").read_text())[0]["prob_full"]
    with open(out / "roi_val.csv", newline="", encoding="utf-8") as file:
        labels = ",".join(row["labels"] for row in csv.DictReader(file))
    finding = next(name for name in common if name in labels and name != "Normal")
    run("calibrate_conformal.py", *calibration, "--alpha", 0.5, "--classes", finding, "--out", out / "thresholds.json")
    files = ("--masks", out / "masks.npz", out / "class_masks.npz", "--curves", out / "curves.npz", *boxes)
    off = ("--threshold_preds", out / "val.json", "--threshold_csv", out / "roi_val.csv")
    sets = ("--thresholds", out / "thresholds.json")
    scores = ("evaluate.py", "--preds", out / "preds.json", "--csv", test, "--train_csv", train, "--resamples", 5)
    run(*scores, *off, *sets, *files, "--out", out)
    run("export_model.py", "--checkpoint", out / "roi.pt", "--hub_dir", out / "hub")
    return out


def test_the_page_names_each_key_of_each_file(folder: Path) -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+).*?\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    named = {title: set(re.findall(r"`([^`]+)`", text)) for title, text in sections.items()}
    state = torch.load(folder / "roi.pt", weights_only=True)
    best = torch.load(folder / "roi_best.pt", weights_only=True)
    assert set(state) | set(best) <= named["Checkpoint"] | {"val_auroc"}
    with open(folder / "roi_val.csv", newline="", encoding="utf-8") as file:
        assert set(next(csv.reader(file))) <= named["Table"]
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        columns = {re.sub(r"^(loss|w)_.*", r"\1_<term>", name) for name in next(csv.reader(file))}
    assert columns <= named["Metrics"]
    for name in ("model", "roi/model_roi"):
        with safe_open(folder / "hub" / f"{name}.safetensors", framework="pt") as file:
            assert set(file.metadata()) <= named["Exported"]
    assert set(json.loads((folder / "hub" / "config.json").read_text())) <= named["Exported"]
    first = json.loads((folder / "preds.json").read_text())[0]
    meta = json.loads((folder / "preds.meta.json").read_text())
    assert set(first) | set(meta) <= named["Predictions"] | {"contaminated"}
    with open(folder / "preds.csv", newline="", encoding="utf-8") as file:
        columns = {re.sub(r"^(prob_(full|crop|drop)_).*", r"\1<class>", name) for name in next(csv.reader(file))}
    assert columns == {"image", "contaminated", *(f"prob_{part}_<class>" for part in ("full", "crop", "drop"))}
    assert columns <= named["Predictions"]
    for name in ("masks", "class_masks", "curves"):
        with np.load(folder / f"{name}.npz") as arrays:
            assert {re.sub(r"^(map|kept)_.*", r"\1_<source>", key) for key in arrays.files} <= named["Maps"]
    (folder / "model").mkdir()
    write_queries(folder / "queries.npz", ["Mass"], np.zeros((1, 4)), "{}", folder / "model")
    with np.load(folder / "queries.npz") as arrays:
        assert set(arrays.files) <= named["Queries"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) | set(metrics["mean"]) <= named["Scores"] | {"auroc_drop", "ap_crop", "ap_drop"}
    long_tail = metrics["long_tail"]
    parts = [long_tail, long_tail["challenge"], long_tail["bins"]["head"]]
    assert set().union(*parts) <= named["Scores"] | {"train_csv", "mece_bins"}
    assert set(TRUTH_COLUMNS) <= named["Truth"]
    assert set(json.loads((folder / "thresholds.json").read_text())) <= named["Thresholds"]
