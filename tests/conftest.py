"""Fixtures: a small demo set in NIH's layout, the tables made from it, and the real files where they are at hand."""

import io
import runpy
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from roi import cli
from roi.demo.nih_set import make_demo_dataset

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"  # real X-rays, tables and weights; not part of the project


cli.set_environment()


@pytest.fixture(autouse=True, scope="session")
def _two_threads() -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))  # one where OMP_NUM_THREADS says so


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
    """Run a script as its command line would, in this process; -> what it printed, errors too."""
    script, *flags = map(str, command)
    said, status = io.StringIO(), 0
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with mock.patch.object(sys, "argv", [script, *flags]), redirect_stdout(said), redirect_stderr(said):
            runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert status == code, f"exit code {status}\n{said.getvalue()}"
    return said.getvalue()


def one_line_error(*command: object) -> str:
    """Run a script that must refuse: exit code 2 and one line that begins with 'error: '."""
    said = run(*command, code=2)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in said, said
    return errors[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 images of noise, 20 pixels a side: the data of tiny_run."""
    root = tmp_path_factory.mktemp("pixels")
    rng = np.random.default_rng(0)
    for n in range(26):
        Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(root / f"{n:02d}.png")
    return root


def copy_project(copy: Path) -> Path:
    """The project in another folder, with an environment that is already there."""
    scripts = [path.name for path in ROOT.glob("*.py")]
    shells = [path.name for path in ROOT.glob("run_*.sh")]
    for name in ("roi", "scripts", *scripts, *shells, "requirements.txt", "constraints.txt"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
    venv = copy / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (venv / "python").chmod(0o755)
    installed = "".join((ROOT / name).read_text() for name in ("constraints.txt", "requirements.txt"))
    (copy / "venv" / ".installed-requirements.txt").write_text(installed)
    return copy
