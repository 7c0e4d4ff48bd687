"""26, 40 and 45 classes of CXR-LT from the published files to the report and the submission, as a user runs them."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import run
from PIL import Image

from roi.labels import NORMAL_LABELLED
from roi.sources.cxrlt_editions import EDITIONS

PATIENTS = {"train": range(0, 20), "development": range(20, 26), "test": range(26, 36)}


def write_labels(root: Path, edition: str) -> pd.DataFrame:
    """The tables of an edition and images, two views a study: column k is bright where class k is present."""
    rng = np.random.default_rng(0)
    labels = ["No Finding" if edition == "2023" and c == "Normal" else c for c in EDITIONS[edition].labels]
    rows = []
    for split, patients in PATIENTS.items():
        for patient in patients:
            present = rng.random(len(labels)) < 0.3
            present[(patient * 2) % len(labels)] = True
            for view in ("PA", "LATERAL"):
                study, name = f"s{50000000 + patient}", f"{patient:08x}-{view.lower()}"
                path = f"files/p10/p{10000000 + patient}/{study}/{name}.jpg"
                row = {"dicom_id": name, "subject_id": 10000000 + patient, "study_id": study, "ViewPosition": view}
                rows.append(
                    row | {"fpath": path} | dict(zip(labels, present.astype(int), strict=True)) | {"split": split}
                )
                pixels = rng.integers(0, 80, (32, 64), dtype=np.uint8)
                pixels[:, : len(labels)][:, present] += 150
                image = root / "mimic" / path
                image.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(image)
    table = pd.DataFrame(rows)
    (root / "cxrlt").mkdir()
    table.to_csv(root / "cxrlt" / "labels.csv", index=False)
    if edition == "2023":
        for split in PATIENTS:
            table[table["split"] == split].drop(columns="split").to_csv(root / "cxrlt" / f"{split}.csv", index=False)
    return table


@pytest.mark.parametrize("edition", ["2023", "2024.1", "2024.3"])
def test_all_stages(edition: str, tmp_path: Path) -> None:
    published = write_labels(tmp_path, edition)
    k = len(EDITIONS[edition].labels)
    table = ("make_chexmultimodal_csv.py", "--cxrlt", edition, "--data_root", tmp_path)
    said = run(*table, "--out_csv", tmp_path / "all.csv")
    assert f"{k} classes: " in said
    run(*table, "--out_csv", tmp_path / "test.csv", "--splits", "test")
    compute = ("--image_root", tmp_path, "--workers", 0, "--device", "cpu", "--batch_size", 8)
    model = ("--backbone", "test_resnet", "--weights", "none", "--img_size", 48, "--epochs", 2)
    files = ("--save", tmp_path / "roi.pt", "--log_csv", tmp_path / "metrics.csv")
    run("train_roi_consistency.py", "--train_csv", tmp_path / "all.csv", *compute, *model, *files)
    predict = (
        "infer_roi_consistency.py",
        "--checkpoint",
        tmp_path / "roi.pt",
        "--csv",
        tmp_path / "test.csv",
        *compute,
    )
    run(*predict, "--save_json", tmp_path / "preds.json", "--save_masks", tmp_path / "masks.npz")
    scores = ("evaluate.py", "--preds", tmp_path / "preds.json", "--csv", tmp_path / "test.csv", "--resamples", 10)
    said = run(*scores, "--train_csv", tmp_path / "all.csv", "--unit", "study", "--out", tmp_path / "study")
    assert "10 studies (20 images)" in said and "40 training images" in said
    run(*scores, "--train_csv", tmp_path / "all.csv", "--masks", tmp_path / "masks.npz", "--out", tmp_path)
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert len(result["per_class"]) == k and result["classes_not_predicted"] == []
    figures = result["long_tail"]["challenge"]
    assert figures["classes_scored"] + figures["classes_left_out"] == k
    assert sum(len(values["classes"]) for values in result["long_tail"]["bins"].values()) == k
    # It counts in the mean: of the classes that are scored it is one.
    assert result["per_class"][NORMAL_LABELLED]["positives"] > 0
    run("make_report.py", "--runs", tmp_path, "--image_root", tmp_path, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in ("Support Devices", NORMAL_LABELLED))
    # The template in an order of its own.
    labels = list(published.columns[5:-1])[::-1]
    test = published[published["split"] == "test"]["dicom_id"].iloc[::-1]
    pd.DataFrame({"dicom_id": test, **dict.fromkeys(labels, 0)}).to_csv(tmp_path / "sample.csv", index=False)
    submission = ("make_submission.py", "--preds", tmp_path / "preds.json", "--template", tmp_path / "sample.csv")
    run(*submission, "--out", tmp_path / "s.zip")
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        written = pd.read_csv(BytesIO(archive.read("predictions.csv")))
    assert list(written) == ["dicom_id", *labels] and written["dicom_id"].tolist() == test.tolist()
    first = json.loads((tmp_path / "preds.json").read_text())[-1]
    normal = "No Finding" if edition == "2023" else "Normal"
    assert first["image"].endswith(f"{test.iloc[0]}.jpg")
    assert written[normal][0] == pytest.approx(first["prob_full"][NORMAL_LABELLED], abs=1e-7)
