"""--check, the first lines of a training, and its forecast."""

import math
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import one_line_error, run

from roi.files import atomic_write
from roi.models.backbones import build_backbone
from roi.training.preflight import forecast, needs
from roi.training.preflight.flags import tensorboard_folder
from roi.training.preflight.forecast import Forecast, cpu_warning, forward_seconds, in_words

SMALL = ("--workers", 0, "--device", "cpu", "--backbone", "test_resnet", "--weights", "none", "--img_size", 64)


def everything_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    ("script", "more"),
    [
        ("train_roi_consistency.py", ()),
        ("train_roi_baselines.py", ("--mode", "standard")),
        ("train_roi_consistency.py", ("--freeze_backbone", "--epochs", 2)),
        ("train_multiview.py", ("--fusion", "attention", "--fusion_width", 16)),
    ],
)
def test_a_check_makes_a_real_step_and_writes_nothing(
    script: str, more: tuple[object, ...], demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    files = ("--save", tmp_path / "new" / "c.pt", "--cache_dir", tmp_path / "px", "--log_csv", tmp_path / "m" / "m.csv")
    data = ("--train_csv", tables[0], "--image_root", demo, "--batch_size", 4)
    said = run(script, "--check", *data, *files, *SMALL, *more)
    for line in ("leakage check: nothing shared", "weights: none", "disk: checkpoints", "disk: decoded pixels", "step"):
        assert line in said, said
    assert "forecast: " in said and said.endswith("check: nothing stands in the way\n")
    assert everything_below(tmp_path) == []


def test_a_check_comes_before_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a machine with much other work a step is slow, and the second kind is not tried.
    monkeypatch.setattr("roi.training.preflight.setup.SLOW", math.inf)
    said = run("train_roi_consistency.py", "--check", 500, *SMALL, "--epochs", 2)
    assert "no table yet; forecast for 500 images" in said and "forecast: 2 epochs of 450 images" in said
    # The most that a step needs is looked at first.
    assert said.index("step with masks") < said.index("step without masks")


def test_a_check_says_what_stands_in_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*request: object, **more: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr(needs.torch.hub, "get_dir", lambda: str(tmp_path))
    backbone = ("--backbone", "squeezenet1_1", "--weights", "imagenet")
    error = one_line_error("train_roi_consistency.py", "--check", 100, *SMALL, *backbone, "--epochs", 2)
    assert "download.pytorch.org does not answer" in error and "--weights FILE" in error
    (tmp_path / "checkpoints").mkdir()
    # Weights that were fetched once are not asked for.
    url = needs.torchvision.models.get_model_weights("squeezenet1_1")["DEFAULT"].url
    (tmp_path / "checkpoints" / url.rpartition("/")[2]).touch()
    found = needs.find_weights("squeezenet1_1", "imagenet")
    assert not found.problem and "on this machine already" in found.text
    assert "no such file" in needs.find_weights("resnet18", "nowhere.pt").problem


def test_room_on_a_disk_is_asked_of_the_nearest_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (cache, save) = needs.rooms(tmp_path / "a" / "b" / "c.pt", 1_000, str(tmp_path / "px"), 10_000, 224)
    assert save.needed == 40_000 and cache.needed == 10_000 * 224 * 224 and not cache.problem
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda folder: needs.shutil._ntuple_diskusage(9e9, 9e9, 1e6))
    assert "too small" in cache.problem and "0.5 GB" in cache.problem and not save.problem
    # Pixels that are there are not written again.
    (tmp_path / "px").mkdir()
    (tmp_path / "px" / "pixels").write_bytes(bytes(1_000_000))
    assert needs.rooms(tmp_path / "c.pt", 1_000, str(tmp_path / "px"), 10, 224)[0].needed == 40_000


def test_the_forward_of_the_forecast_changes_nothing() -> None:
    backbone = build_backbone("test_resnet", 3, "none", 64, 0).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    drawn = torch.get_rng_state()
    assert forward_seconds(backbone, 64, torch.device("cpu")) > 0
    assert backbone.training and torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


def test_a_cpu_that_would_take_days_is_warned_of_with_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "forward_seconds", lambda *model: 0.5)
    nothing = torch.nn.Identity()
    said = cpu_warning(nothing, "convnext_base", 224, 78_000, (4, 4))
    # 4 epochs of 3 forwards and 4 of 8, half a second each: 44 * 78,000 / 2 s.
    assert "convnext_base take about 19.9 days" in said and "0.50 s for one forward" in said and "GPU" in said
    assert cpu_warning(nothing, "convnext_base", 224, 1_000, (4, 4)) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(40, "40 seconds"), (720, "12 minutes"), (12_600, "3.5 hours"), (72_000, "20 hours"), (362_880, "4.2 days")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_the_forecast_comes_once_a_kind_of_epoch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr(forecast, "perf_counter", lambda: next(clock))
    course = Forecast(steps_an_epoch=100, epochs=4, warmup_epochs=2)
    for step in range(1, 401):
        course.after_step((step - 1) // 100, step)
    warm, masked = capsys.readouterr().out.splitlines()
    # Ten seconds a step: 194 of them left, and 200 that take 8/3 of that.
    assert "10 s a step, about 2.0 hours left" in warm and "from epoch 3 on" in warm
    assert "10 s a step" in masked and "about 32 minutes left" in masked


def test_a_training_says_what_it_is_before_its_first_step(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    log = tmp_path / "m.csv"
    files = ("--save", tmp_path / "c.pt", "--log_csv", log)
    data = ("--train_csv", tables[0], "--image_root", demo, "--epochs", 1, "--batch_size", 8)
    said = run("train_roi_baselines.py", "--mode", "standard", *data, *files, *SMALL)
    first = said.index("training test_resnet, 0.4 million parameters, on the CPU")
    assert said.index("reading ") < first < said.index("epoch 1: ")
    assert " to train on, 15 classes, 64 x 64 pixels, float32; 1 epoch of " in said


def test_a_package_that_is_missing_is_told_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    flags: tuple[Any, ...] = ("--train_csv", "t.csv", "--image_root", ".", "--save", tmp_path / "a" / "c.pt")
    error = one_line_error("train_roi_consistency.py", *flags, "--tensorboard", tmp_path / "tb")
    assert "pip install tensorboard" in error and everything_below(tmp_path) == []
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    assert tensorboard_folder("tb") == "tb"


def test_a_full_disk_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with (
        pytest.raises(ValueError, match=r"scores\.json: cannot be written, the disk is full"),
        atomic_write(tmp_path / "scores.json") as file,
    ):
        file.write("{}")
    assert everything_below(tmp_path) == []
