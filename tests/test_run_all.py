"""run_all.sh as its users run it: from nothing to scores, killed, run again, with a test list that leaks."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, copy_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"))


def start(project: Path, out: str, pipe: str = "", **settings: object) -> subprocess.Popen[str]:
    small = {
        "DEMO_IMAGES": 60,
        "IMG_SIZE": 64,
        "EPOCHS": 2,
        "BACKBONE": "test_convnext",
        "MAX_VIS": 2,
        "CURVE_SAMPLES": 8,
        "VENV": "venv",
        "OUT": out,
        "WORKERS": 0,
        "OMP_NUM_THREADS": 1,
    }
    environment = {**os.environ, **{k: str(v) for k, v in {**small, **settings}.items()}}
    return subprocess.Popen(
        ["bash", "-c", f"exec ./run_all.sh --demo{pipe}"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.time() + 120
    while not condition():
        assert time.time() < deadline
        time.sleep(0.05)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    said = process.communicate(timeout=240)[0]
    assert process.returncode == code, said
    return said


def test_demo_ends_with_scores_and_a_second_run_skips_what_is_done(project: Path) -> None:
    said = finish(start(project, "a"))
    assert (
        "none of these images was trained on" in said and "mean " in said and "a/report.html" in said.splitlines()[-1]
    )
    metrics = json.loads((project / "a" / "scores" / "metrics.json").read_text())
    assert metrics["thresholds"] and metrics["localization"]["sources"].keys() >= {
        "mask",
        "class_mask",
        "cam",
        "random",
        "centre",
    }
    assert metrics["faithfulness"]["controls"]["sources"].keys() >= {"mask", "inverted", "random", "centre", "reinit"}
    log = project / "a" / "roi-run.log"
    assert said == log.read_text()
    rewritten = ("roi-run.log", "train_metrics.csv", "report.html", "metrics.json", "per_class.csv")
    made = {p: p.stat().st_mtime_ns for p in (project / "a").rglob("*") if p.is_file() and p.name not in rewritten}
    again = finish(start(project, "a", "| tee -a a/roi-run.log"))
    assert "2 of 2 epochs are done" in again and "images/s" not in again
    assert said + again == log.read_text()  # the user's tee writes it: each line once, below what was there
    assert made == {p: p.stat().st_mtime_ns for p in made}


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_by_the_same_command(project: Path, number: int) -> None:
    out = project / f"killed{int(number)}"
    process = start(project, out.name, EPOCHS=12)
    wait_for((out / "checkpoints" / "nih_roi_consistency.pt").exists)
    if number == signal.SIGKILL:
        subprocess.run(["pkill", "-KILL", "-f", "--", f"--save {out}/checkpoints"], check=True)
        finish(process, 137)
    else:
        os.kill(process.pid, number)
        assert "go on with the same command" in finish(process, 143)
    epochs = len((out / "train_metrics.csv").read_text().splitlines()) - 1
    assert epochs < 12
    assert "resumed" in finish(start(project, out.name, EPOCHS=12))
    rows = [line.split(",")[0] for line in (out / "train_metrics.csv").read_text().splitlines()[1:]]
    assert rows == [str(n + 1) for n in range(12)]


def test_ctrl_c_reaches_the_log_though_it_ends_the_users_tee(project: Path) -> None:
    """Ctrl-C goes to every process of the terminal, tee included; the last lines must still be in roi-run.log."""
    (project / "ctrl").mkdir()
    process = start(project, "ctrl", " | tee -a ctrl/roi-run.log", EPOCHS=12)
    wait_for((project / "ctrl" / "checkpoints" / "nih_roi_consistency.pt").exists)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    log = project / "ctrl" / "roi-run.log"
    wait_for(lambda: "go on with the same command" in log.read_text())
    assert "Traceback" not in log.read_text() and log.read_text().count("== 4/6") == 1


def test_the_full_list_is_contaminated_everywhere(project: Path) -> None:
    said = finish(start(project, "leak", FULL_LIST=1, EPOCHS=1))
    marked = [line for line in said.splitlines() if "CONTAMINATED" in line]
    for what in ("masks.npz: ", "cam.npz: ", "class_masks.npz: ", "--curves is "):
        assert sum(f"{what}CONTAMINATED" in line for line in marked) == (2 if what == "masks.npz: " else 1), what
    assert sum(line.startswith("CONTAMINATED") for line in marked) == 3  # training, predictions, scores
    assert json.loads((project / "leak" / "scores" / "metrics.json").read_text())["contaminated"] is True


def test_without_kaggle_one_clear_message(project: Path) -> None:
    """kagglehub that cannot connect: what to do, exit code 2, nothing half-made."""
    fake = project / "fake"
    fake.mkdir()
    (fake / "kagglehub.py").write_text("def dataset_download(name):\n    raise ConnectionError('no route to host')\n")
    environment = {**os.environ, "PYTHONPATH": str(fake), "VENV": "venv", "OUT": "none"}
    environment.pop("DATA_PATH", None)
    done = subprocess.run(["./run_all.sh"], cwd=project, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stdout
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    for remedy in ("no route to host", "KAGGLE_USERNAME", "DATA_PATH=", "--demo"):
        assert remedy in error
    assert [path.name for path in (project / "none").iterdir()] == ["roi-run.log"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(("--help",), 0, "DATA_PATH"), (("--demp",), 2, "--demp"), (("--demo", "--demo"), 2, "one argument")],
)
def test_help_and_wrong_arguments(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = subprocess.run(["./run_all.sh", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert "exec" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("--epochs", "3"), "EPOCHS=3 ./run_all.sh"),
        (("--batch-size=32",), "BATCH_SIZE=32 ./run_all.sh"),
        (("--lr",), "LR=… ./run_all.sh"),
        (("--rotate", "7"), "TRAIN_FLAGS"),
    ],
)
def test_a_setting_that_is_written_as_a_flag_is_answered_with_how_it_is_written(
    arguments: tuple[str, ...], answer: str
) -> None:
    done = subprocess.run(["./run_all.sh", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and answer in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("given", ["nih/images", "nih/..", "elsewhere"])
def test_a_data_path_one_level_off_names_the_right_one(tmp_path: Path, given: str) -> None:
    (tmp_path / "nih" / "images").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "nih" / "Data_Entry_2017.csv").touch()
    environment = {**os.environ, "DATA_PATH": str(tmp_path / given), "OUT": str(tmp_path / "out")}
    done = subprocess.run(["./run_all.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    named = "it lies in DATA_PATH=" in done.stderr and "/nih\n" in done.stderr
    assert named is (given != "elsewhere"), done.stderr


def test_a_check_writes_nothing_and_says_what_a_run_needs(project: Path) -> None:
    before = sorted(project.rglob("*.pt"))
    environment = {**os.environ, "VENV": "venv", "OUT": "looked", "WORKERS": "0", "DEVICE": "cpu", "EPOCHS": "2"}
    small = {"BACKBONE": "test_resnet", "WEIGHTS": "none", "IMG_SIZE": "64", "AUTOCAST_DTYPE": "fp32"}
    environment.pop("DATA_PATH", None)
    command = ["./run_all.sh", "--check"]
    done = subprocess.run(command, cwd=project, env=environment | small, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    for words in ("45 GB to fetch", "weights: none", "disk: checkpoints take", "device: the CPU", "step with masks"):
        assert words in said, said
    assert "forecast: 2 epochs of" in said
    # The disk of who tests may be smaller than NIH's 45 GB.
    assert done.returncode == (2 if "too small for the data" in said else 0), said
    assert not (project / "looked").exists() and sorted(project.rglob("*.pt")) == before


def test_a_log_whose_checkpoint_is_gone_steps_aside(project: Path) -> None:
    out = project / "aside"
    out.mkdir()
    (out / "train_metrics.csv").write_text("epoch,mine\n1,2\n")
    said = finish(start(project, "aside", EPOCHS=2))
    assert "train_metrics-before-1.csv" in said
    assert (out / "train_metrics-before-1.csv").read_text() == "epoch,mine\n1,2\n"
    assert len((out / "train_metrics.csv").read_text().splitlines()) == 3
    # The result of a run is not trained over.
    (out / "checkpoints" / "nih_roi_consistency.pt").unlink()
    left = {path: path.read_bytes() for path in (out / "checkpoints").iterdir()}
    said = finish(start(project, "aside", EPOCHS=2), 2)
    assert "stays as it is" in said and "OUT=" in said
    assert left and left == {path: path.read_bytes() for path in (out / "checkpoints").iterdir()}
