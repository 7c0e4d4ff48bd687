"""run_cxrlt.sh as its users run it: from nothing to a submission, and once more."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, copy_project

SMALL = {
    "DEMO_STUDIES": 1500,  # fewer lack a class of the tail
    "IMG_SIZE": 48,
    "PRETRAIN_EPOCHS": 1,
    "IMAGE_EPOCHS": 1,
    "STUDY_EPOCHS": 1,
    "WORKERS": 0,
    "OMP_NUM_THREADS": 1,
    "VENV": "venv",
}


def run_it(folder: Path, *words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **{name: str(value) for name, value in (SMALL | settings).items()}}
    command = ["bash", "./run_cxrlt.sh", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_help_names_every_setting_that_the_script_reads() -> None:
    text = (ROOT / "run_cxrlt.sh").read_text()
    said = run_it(ROOT, "--help").stdout
    settings = [line.split("=")[0] for line in text.splitlines() if "=${" in line and line[:1].isupper()]
    own = [name for name in settings if f"${{{name}" in text and name not in ("VAL_CSV", "TRAIN_CSV", "TEST_CSV")]
    assert len(own) > 15
    for name in own:
        assert f"\n  {name} " in said, name


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--fusion", "max"], "FUSION=max ./run_cxrlt.sh"),
        (["--nonsense"], "unknown argument '--nonsense'"),
        (["--demo", "more"], "one argument at most"),
    ],
)
def test_a_wrong_argument_is_one_line_and_writes_nothing(words: list[str], remedy: str, tmp_path: Path) -> None:
    done = run_it(ROOT, *words, OUT=tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and remedy in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ({"EDITION": "2025"}, "EDITION=2025 is none of 2023, 2024.1, 2024.2, 2024.3, 2026"),
        ({"FUSION": "mean"}, "FUSION=mean is none of mean_p, max, lse, attention"),
        ({"TEMPLATE": "nowhere.csv"}, "nowhere.csv is not there"),
        ({"RECIPE_FLAGS": ""}, "RECIPE_FLAGS= names no --recipe and no --mode"),
    ],
)
def test_what_later_stages_would_refuse_is_said_at_once(setting: dict[str, str], remedy: str, tmp_path: Path) -> None:
    done = run_it(ROOT, "--demo", OUT=tmp_path / "out", **setting)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and remedy in done.stderr
    assert not (tmp_path / "out").exists()


def test_flags_of_a_later_stage_are_looked_at_before_anything_is_computed() -> None:
    lines = (ROOT / "run_cxrlt.sh").read_text().splitlines()
    checks = [line.replace(" x.pt", f" {os.devnull}.pt") for line in lines if line.startswith("check_setting ")]
    assert [line.split()[1] for line in checks] == ["RECIPE_FLAGS", "STUDY_FLAGS"]
    assert lines.index('say "2/8 data"') > max(n for n, line in enumerate(lines) if line.startswith("check_setting "))
    head = f"set -eu; source scripts/stages.sh; PY={sys.executable}; FUSION=attention RECIPE_FLAGS='--recipe cxrlt'; "
    for flags, code in (("--freeze_backbone --schedule onecycle", 0), ("--freeze_bacbone", 2)):
        words = f"{head} STUDY_FLAGS='{flags}'; " + "; ".join(checks)
        done = subprocess.run(["bash", "-c", words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    assert "unrecognized arguments: --freeze_bacbone" in done.stderr
    assert "STUDY_FLAGS=--freeze_bacbone is not taken by train_multiview.py" in done.stderr


@pytest.mark.slow
def test_the_demo_ends_with_a_submission_and_a_report_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    done = run_it(project, "--demo", OUT="out")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    out = project / "out"
    block = json.loads((out / "scores" / "metrics.json").read_text())
    assert set(block["long_tail"]["bins"]) == {"head", "medium", "tail"} and block["synthetic"]
    template = next(out.glob("Dataset/cxrlt/**/test_labeled_task2.csv"))
    with zipfile.ZipFile(out / "submission.zip") as archive, archive.open("predictions.csv") as file:
        submitted = pd.read_csv(file)
    wanted = pd.read_csv(template)
    # Columns and rows as the template has them, Normal before Nodule.
    assert list(submitted.columns)[1:] == list(wanted.columns)[-26:]
    assert submitted["dicom_id"].tolist() == wanted["dicom_id"].tolist()
    assert "Mass,Normal,Nodule" in ",".join(submitted.columns)
    assert (out / "report.html").stat().st_size > 100_000
    before = {path: path.stat().st_mtime_ns for path in (out / "checkpoints").glob("*.pt")}
    again = run_it(project, "--demo", OUT="out")
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (out / "checkpoints").glob("*.pt")}
