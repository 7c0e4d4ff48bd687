"""Fixtures: a small demo set in NIH's layout, the tables made from it, and the real files where they are at hand."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from roi.demo import make_demo_dataset

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"  # real X-rays, tables and weights; not part of the project


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 images of 48 pixels in shards, lists, boxes."""
    root = tmp_path_factory.mktemp("demo") / "nih"
    make_demo_dataset(root, images=96, size=48, seed=3, workers=1)
    return root


@pytest.fixture(scope="session")
def tables(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(training table with Normal, test table), made by the published commands."""
    out = tmp_path_factory.mktemp("tables")
    make = ("make_chexmultimodal_csv.py", "--src_csv", demo / "Data_Entry_2017.csv", "--image_dir", demo / "images")
    run(*make, "--out_csv", out / "train.csv", "--fillna", "Normal")
    run(*make, "--out_csv", out / "test.csv", "--filter_list", demo / "test_list.txt")
    return out / "train.csv", out / "test.csv"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the real files are not at hand (../shared)")
    return SHARED


def run(*command: object, code: int = 0) -> str:
    """Run a script as a user does; -> what it printed, errors too."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def one_line_error(*command: object) -> str:
    """Run a script that must refuse: exit code 2 and one line that begins with 'error: '."""
    said = run(*command, code=2)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in said, said
    return errors[0]
