"""Whole runs for a long tail: the recipe, its sampler taken up again, each loss, a head on fixed features."""

import csv
import json
import math
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import one_line_error, run

import train_roi_baselines
from roi.data.repeat_factors import copies_of_epoch, expected_copies, repeat_factors
from roi.training import checkpoint
from roi.training.setup import build_training_run
from roi.training.stop import Stop


def command(demo: Path, table: Path, out: Path, *more: object) -> tuple[object, ...]:
    """Two epochs of 20 images and more in batches of 8, two batches a step."""
    data = ("--train_csv", table, "--image_root", demo, "--save", out / "c.pt", "--log_csv", out / "metrics.csv")
    model = ("--backbone", "test_resnet", "--weights", "none", "--img_size", 32, "--device", "cpu", "--workers", 0)
    steps = ("--batch_size", 8, "--accum_steps", 2, "--epochs", 2, "--val_fraction", 0.3, "--lr", 1e-3)
    return ("train_roi_baselines.py", "--recipe", "cxrlt", *data, *model, *steps, "--repeat_threshold", 0.4, *more)


@pytest.fixture(scope="module")
def whole(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    (out / "said.txt").write_text(run(*command(demo, tables[0], out)))
    return out


def test_the_recipe_draws_what_its_factors_say(
    demo: Path, tables: tuple[Path, Path], whole: Path, tmp_path: Path
) -> None:
    flags = [str(flag) for flag in command(demo, tables[0], tmp_path)[1:]]
    args = train_roi_baselines.parse_args(flags)
    assert (args.loss, args.sampler, args.repeat_threshold) == ("weighted_asymmetric", "repeat_factor", 0.4)
    trained = build_training_run(args, "none", ("consist", "drop", "sparse", "tv"), torch.device("cpu"))
    count = trained.sampler.rows
    copies = torch.zeros(count, dtype=torch.int64)
    for epoch in range(2):
        trained.sampler.epoch = epoch
        drawn = 0
        for batch in trained.train_loader:
            rows = batch.index % count
            copies += rows.bincount(minlength=count)
            drawn += len(rows)
        assert drawn == count
    targets = trained.train_loader.loader.dataset.targets  # type: ignore[attr-defined]
    factors = repeat_factors(targets, 0.4)
    expected = expected_copies(factors)
    both = copies_of_epoch(expected, args.seed, 0) + copies_of_epoch(expected, args.seed, 1)
    assert copies.tolist() == both.tolist() and factors.max() > 1.5
    message = (whole / "said.txt").read_text()
    assert f"of {count} images come more often, at most {factors.max():.1f} times" in message
    assert "classes are rarer than 0.4" in message


@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_stopped_run_goes_on_bit_for_bit(
    stop_at: int, demo: Path, tables: tuple[Path, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the first epoch, and of the second."""
    steps = 0

    def agreed(stop: Stop) -> int:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            stop.signal = int(signal.SIGTERM)
        return stop.signal

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "agreed", agreed)
        run(*command(demo, tables[0], tmp_path), code=128 + signal.SIGTERM)
    stopped = checkpoint.load(tmp_path / "c.pt")
    assert stopped["batch"] > 0 and stopped["epoch"] == (stop_at > 3)
    run(*command(demo, tables[0], tmp_path, "--resume", "auto"))
    one, other = (checkpoint.load(folder / "c.pt") for folder in (whole, tmp_path))
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    logs = [pd.read_csv(folder / "metrics.csv") for folder in (whole, tmp_path)]
    logs = [log.drop(columns=["images_per_s", "seconds"]) for log in logs]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


def test_another_threshold_is_another_run(demo: Path, tables: tuple[Path, Path], whole: Path) -> None:
    error = one_line_error(*command(demo, tables[0], whole, "--resume", "auto", "--repeat_threshold", 0.3))
    assert "was trained with --repeat_threshold 0.4, now 0.3; give the old value, or another --save" in error


@pytest.mark.parametrize("loss", ["bce", "ral", "distribution_balanced", "logit_adjusted"])
def test_each_loss_trains(loss: str, demo: Path, tables: tuple[Path, Path], whole: Path, tmp_path: Path) -> None:
    run(*command(demo, tables[0], tmp_path, "--loss", loss))
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss_full"]) for row in rows]
    assert all(math.isfinite(value) for value in losses) and losses[1] < losses[0]
    state, plain = checkpoint.load(tmp_path / "c.pt"), checkpoint.load(whole / "c.pt")
    assert state["args"]["loss"] == loss
    assert any(not torch.equal(state["model"][name], plain["model"][name]) for name in plain["model"])


def test_the_head_alone_goes_on_on_fixed_features(
    demo: Path, tables: tuple[Path, Path], whole: Path, tmp_path: Path
) -> None:
    """Decoupling (Kang et al. 2020), but that the head begins with what it has learned: sampling changes it alone."""
    first = checkpoint.load(whole / "c.pt")["model"]
    flags = ("--weights", whole / "c.pt", "--freeze_backbone", "--repeat_threshold", 1)
    message = run(*command(demo, tables[0], tmp_path, *flags))
    assert "classes are rarer than 1;" in message
    second = checkpoint.load(tmp_path / "c.pt")["model"]
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--repeat_threshold", 2), "--repeat_threshold: 2 is not between 0 and 1"),
        (("--sampler", "repeat"), "invalid choice: 'repeat'"),
        (("--loss", "asl"), "invalid choice: 'asl'"),
        (("--loss_args", "db_lambda=0"), "db_lambda=0 is below 0.01"),
        (("--loss_args", "ral_lambda=0.5"), "ral_lambda=0.5 is below 1"),
        (("--stage", 2), "cxrlt has no stages, only staged_resnet50 has"),
    ],
)
def test_a_wrong_flag_is_one_line(
    flags: tuple[object, ...], message: str, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    assert message in one_line_error(*command(demo, tables[0], tmp_path, *flags))
    assert not list(tmp_path.iterdir())


def test_the_recipe_says_what_it_stands_for() -> None:
    def config(*flags: str) -> dict[str, dict[str, object]]:
        return json.loads(run("train_roi_baselines.py", "--recipe", "cxrlt", *flags, "--print_config"))

    recipe = {name: entry["value"] for name, entry in config().items() if entry["from"] == "recipe"}
    assert recipe == {
        "mode": "standard",
        "loss": "weighted_asymmetric",
        "sampler": "repeat_factor",
        "repeat_threshold": 0.05,
    }
    published = config("--sampler", "proportional")
    assert published["loss"] == {"value": "weighted_asymmetric", "from": "recipe"}
    values = [published[name]["value"] for name in ("wasl_gamma_pos", "asl_gamma_neg", "asl_clip", "sampler")]
    assert values == [1.0, 4.0, 0.05, "proportional"]
