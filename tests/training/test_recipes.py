"""What recipes are made of: learning rates, early stopping, averages of weights, parts that learn.

Each on its own, in whole runs, and taken up again.
"""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, one_line_error, run
from tiny_run import Net, make_fit
from torch import nn

from roi.models.backbones import build_backbone
from roi.models.roi_model import RoiModel, build_model
from roi.training import checkpoint
from roi.training.optim import EMA, Schedule, learn_only, make_optimizer
from roi.training.stop import Stop
from roi.training.training_run import TrainingRun

# --- the learning rate -----------------------------------------------------------------------------------------------


def rates(steps: int, *given: Any, scores: list[float] | None = None, every: int = 1) -> list[list[float]]:
    """The rates of two groups at each step of a real optimiser; an epoch has `every` steps."""
    first, second = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = torch.optim.AdamW([{"params": [first]}, {"params": [second], "lr": 0.5}], lr=1.0)
    schedule, found = Schedule(optimizer, *given), []
    for step in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        first.grad = second.grad = torch.ones(1)
        optimizer.step()
        schedule.step()
        assert schedule.used == found[-1][0]
        if scores and (step + 1) % every == 0:
            schedule.epoch(scores[(step + 1) // every - 1])
    return found


def test_each_step_has_the_rate_that_its_schedule_says() -> None:
    assert rates(4) == [[1.0, 0.5]] * 4
    assert rates(6, "constant", 6, 4) == [[(n + 1) / 4, (n + 1) / 8] for n in range(4)] + [[1.0, 0.5]] * 2
    cosine = [0.5 * (1 + math.cos(math.pi * n / 8)) for n in range(8)]
    assert np.array(rates(8, "cosine", 8)) == pytest.approx(np.outer(cosine, [1, 0.5]), abs=1e-12)
    climbed = [1 / 3, 2 / 3, 1, *(0.5 * (1 + math.cos(math.pi * n / 5)) for n in range(4))]
    assert np.array(rates(7, "cosine", 8, 3)) == pytest.approx(np.outer(climbed, [1, 0.5]), abs=1e-12)


@pytest.mark.parametrize(("warmup", "top"), [(0, 2), (6, 5), (1, 1)])
def test_onecycle_is_that_of_torch_and_turns_where_the_warm_up_ends(warmup: int, top: int) -> None:
    found = np.array(rates(10, "onecycle", 10, warmup))
    assert (
        found[:, 0].argmax() == top
        and found[top] == pytest.approx([1, 0.5])
        and found[0] == pytest.approx([1 / 25, 0.5 / 25])
    )
    assert (
        found[-1] == pytest.approx([1 / 25e4, 0.5 / 25e4])
        and (np.diff(found[top:, 0]) < 0).all()
        and (np.diff(found[: top + 1, 0]) > 0).all()
    )


def test_a_plateau_is_counted_in_epochs_after_the_warm_up_and_a_score_that_is_undefined_counts_nothing() -> None:
    scores = [0.5, 0.6, 0.6, math.nan, 0.59, 0.58, 0.61, 0.6, 0.6, 0.6]
    found = rates(20, "plateau", 20, 0, 0.1, 2, scores=scores, every=2)
    assert [round(rate, 6) for rate, _ in found[::2]] == [1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1] and found[
        -1
    ] == pytest.approx([0.1, 0.05])
    late = rates(20, "plateau", 20, 9, 0.1, 0, scores=[0.9] + [0.5] * 9, every=2)  # epochs 1 to 4 are not looked at
    assert [round(rate, 3) for rate, _ in late] == [
        *(round((n + 1) / 9, 3) for n in range(9)),
        1,
        1,
        1,
        *[0.1] * 2,
        *[0.01] * 2,
        *[0.001] * 2,
        0,
        0,
    ]


def recipe_fit(folder: Path, out: Path, name: str, **more: Any) -> TrainingRun:
    """Three epochs of four steps, with a schedule and an average."""
    fit = make_fit(folder, out, **more)
    fit.schedule = Schedule(fit.optimizer, name, 12, 3, 0.5, 0)
    fit.average = EMA(fit.model, 0.8)
    return fit


@pytest.mark.parametrize(
    ("name", "stop_at"),
    [("constant", 2), ("cosine", 4), ("cosine", 6), ("plateau", 4), ("plateau", 9), ("onecycle", 6)],
)
def test_a_stopped_run_goes_on_along_its_schedule_and_with_its_average(
    name: str, stop_at: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch, and at its end, before validation: bit for bit."""
    for part in "ab":
        (tmp_path / part).mkdir()
    whole = recipe_fit(folder, tmp_path / "a", name)
    assert whole.run() == 0
    steps = 0

    def agreed(stop: Stop) -> int:
        nonlocal steps
        steps += 1
        stop.signal = int(signal.SIGTERM) if steps == stop_at else 0
        return stop.signal

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "agreed", agreed)
        assert recipe_fit(folder, tmp_path / "b", name).run() == 128 + signal.SIGTERM
    torch.manual_seed(5)
    state = checkpoint.load(tmp_path / "b" / "c.pt")
    second = recipe_fit(folder, tmp_path / "b", name, done=state["log"])
    second.resume(state)
    assert second.steps == stop_at and second.run() == 0
    a, b = (checkpoint.load(tmp_path / part / "c.pt") for part in "ab")
    for part in ("model", "mask_net"):
        assert all(
            torch.equal(a[part][k], b[part][k]) and torch.equal(a["average"][part][k], b["average"][part][k])
            for k in a[part]
        )
    assert a["schedule"] == b["schedule"] and a["best"] == b["best"] and a["best_epoch"] == b["best_epoch"]
    logs = [pd.read_csv(tmp_path / part / "log.csv").drop(columns=["images_per_s", "seconds"]) for part in "ab"]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    at = {"constant": [1, 1, 1], "cosine": [1, *(0.5 * (1 + math.cos(math.pi * n / 9)) for n in (4, 8))]}
    if name in at:
        assert logs[0]["lr"].tolist() == pytest.approx(
            [1e-3 * factor for factor in at[name]], rel=1e-5
        )  # of the last step of the epoch


# --- early stopping --------------------------------------------------------------------------------------------------


def scored(fit: TrainingRun, scores: list[float]) -> TrainingRun:
    fit.validate = lambda stop: {"val_loss": 0.5, "val_auroc": scores[fit.epoch]}  # type: ignore[method-assign]
    return fit


@pytest.mark.parametrize(
    ("scores", "patience", "first", "epochs", "best"),
    [
        ([0.6, 0.7, 0.65, 0.7, 0.9, 0.9], 2, 1, 4, 2),  # as good is not better
        ([0.6, 0.7, 0.65, 0.75, 0.6, 0.6], 2, 1, 6, 4),
        ([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], 0, 1, 6, 1),
        ([0.9, 0.8, 0.5, 0.4, 0.6, 0.5], 2, 3, 6, 5),  # no epoch before the third is looked at
        ([math.nan] * 6, 3, 1, 3, 0),
    ],
)
def test_it_stops_when_patience_ends_stays_stopped_and_the_best_weights_are_there(
    scores: list[float],
    patience: int,
    first: int,
    epochs: int,
    best: int,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for part in ("early", "short"):
        (tmp_path / part).mkdir()
    fit = scored(make_fit(folder, tmp_path / "early", patience=patience, first_best=first), scores)
    fit.epochs = 6
    assert fit.run() == 0 and fit.epoch == epochs and fit.best_epoch == best
    said = capsys.readouterr().out
    assert (f"stopped after epoch {epochs}" in said) == (epochs < 6) and (
        f"the best is epoch {best}, {scores[best - 1]:.4f}" in said
    ) == (epochs < 6 and best > 0)
    before = (tmp_path / "early" / "c.pt").read_bytes()
    state = checkpoint.load(tmp_path / "early" / "c.pt")
    again = scored(make_fit(folder, tmp_path / "early", patience=patience, first_best=first, done=state["log"]), scores)
    again.epochs = 6
    again.resume(state)
    assert again.run() == 0 and again.epoch == epochs and (tmp_path / "early" / "c.pt").read_bytes() == before
    if best:
        short = scored(make_fit(folder, tmp_path / "short"), scores)
        short.epochs = best
        short.run()
        kept, expected = checkpoint.load(tmp_path / "early" / "c_best.pt"), checkpoint.parts(short.model)
        assert kept["epoch"] == best and all(
            torch.equal(kept[part][k], expected[part][k]) for part in expected for k in expected[part]
        )
    else:
        assert not (tmp_path / "early" / "c_best.pt").exists()


# --- the average of the weights --------------------------------------------------------------------------------------


def test_an_average_follows_its_formula_buffers_too_and_is_lent_but_not_given() -> None:
    torch.manual_seed(0)
    model = RoiModel(Net(), "conv")
    average = EMA(model, 0.6)
    live = checkpoint.parts(model)
    names = [(part, name) for part in live for name in live[part]]
    mine = {key: live[key[0]][key[1]].double().clone() for key in names}
    model.train()
    for step in range(1, 9):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        model(torch.randint(0, 256, (4, 1, 20, 20), dtype=torch.uint8), 0.2)  # moves the statistics of batch norm
        average.update(step)
        decay = min(0.6, (1 + step) / (10 + step))
        for key in names:
            value = live[key[0]][key[1]].double()
            mine[key] = decay * mine[key] + (1 - decay) * value if live[key[0]][key[1]].is_floating_point() else value
    for part, name in names:
        torch.testing.assert_close(average.parts[part][name].double(), mine[part, name], rtol=1e-5, atol=1e-6)
    assert (
        any("running_var" in name for _, name in names)
        and int(average.parts["model"]["layers.1.num_batches_tracked"]) == 8
    )
    own = {key: live[key[0]][key[1]].clone() for key in names}

    def fail_within() -> None:
        with average.within():
            for part, state in checkpoint.parts(model).items():
                assert all(torch.equal(value, average.parts[part][name]) for name, value in state.items())
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail_within()
    assert all(torch.equal(live[part][name], own[part, name]) for part, name in names)


def test_what_is_validated_and_saved_as_the_best_is_the_average(folder: Path, tmp_path: Path) -> None:
    plain, fit = make_fit(folder, tmp_path), make_fit(folder, tmp_path)
    for each in (plain, fit):
        each.epochs = 1
    fit.average = EMA(fit.model, 0.8)
    fit.run()
    best, last = checkpoint.load(tmp_path / "c_best.pt"), checkpoint.load(tmp_path / "c.pt")
    assert all(torch.equal(best["model"][k], last["average"]["model"][k]) for k in best["model"])
    assert any(not torch.equal(best["model"][k], last["model"][k]) for k in best["model"])
    checkpoint.load_parts(plain.model, best, "best")
    scores = plain.validate(Stop())
    assert scores is not None and scores["val_auroc"] == best["val_auroc"] == last["best"]
    logged = pd.read_csv(tmp_path / "log.csv")["val_loss"][0]
    assert logged == pytest.approx(scores["val_loss"], rel=1e-5)
    checkpoint.load_parts(plain.model, last, "last")
    raw = plain.validate(Stop())
    assert raw is not None and raw["val_loss"] != pytest.approx(logged, rel=1e-4)


# --- parts that learn ------------------------------------------------------------------------------------------------


def test_only_the_named_parts_learn_and_batch_norm_elsewhere_stands_still() -> None:
    model = build_model("resnet18", 3, "none", "none", 64)
    learn_only(model, ["layer3", "layer4.1", "fc.bias"])
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = make_optimizer(model, 0.1, 0.1, 0.1)
    for _ in range(2):
        model.eval().train()
        loss = model(torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8), 0.1).logits_full.square().mean()
        loss.backward()
        optimizer.step()
    assert len(optimizer.param_groups[0]["params"]) == sum(p.requires_grad for p in model.parameters())
    moved = {name for name, value in model.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {
        name for name in before if name.startswith(("layer3.", "layer4.1.")) or name == "fc.bias"
    }  # running_mean and the like among them


def test_a_part_is_a_name_and_not_the_beginning_of_one() -> None:
    model = RoiModel(nn.Sequential(*(nn.Linear(2, 2) for _ in range(12))), "none")
    learn_only(model, ["1"])
    assert [name for name, p in model.backbone.named_parameters() if p.requires_grad] == [
        "1.weight",
        "1.bias",
    ]  # not 10 and 11


def test_a_part_that_is_not_there_is_named_with_those_near_it() -> None:
    model = build_model("resnet18", 3, "none", "none", 64)
    for wrong in ("layer5", "layer", "layer4.bn", "c"):
        with pytest.raises(
            ValueError, match=rf"--train_parts: the backbone has no part '{wrong}'; near it: .*(layer4|fc)"
        ) as said:
            learn_only(model, ["fc", wrong])
        assert "\n" not in str(said.value)
    assert all(p.requires_grad for p in model.parameters())


# --- recipes as their users run them ---------------------------------------------------------------------------------

SMALL = (
    "--weights",
    "none",
    "--img_size",
    32,
    "--batch_size",
    8,
    "--workers",
    0,
    "--device",
    "cpu",
    "--val_fraction",
    0.4,
)


def command(demo: Path, table: Path, out: Path, *more: object) -> tuple[object, ...]:
    return (
        "train_roi_baselines.py",
        "--train_csv",
        table,
        "--image_root",
        demo,
        "--save",
        out / "c.pt",
        "--log_csv",
        out / "metrics.csv",
        *SMALL,
        *more,
    )


def config(*flags: object) -> dict[str, dict[str, Any]]:
    return json.loads(run("train_roi_baselines.py", *flags, "--print_config"))


def test_the_configuration_says_what_holds_and_where_it_comes_from(tmp_path: Path) -> None:
    found = config(
        "--recipe",
        "timm_focal",
        "--lr",
        1e-4,
        "--epochs",
        3,
        "--train_csv",
        tmp_path / "nowhere.csv",
        "--no-channels_last",
    )
    expected = {
        "backbone": "convnext_base.fb_in22k_ft_in1k",
        "img_size": 384,
        "loss": "focal",
        "focal_alpha": 0.25,
        "focal_gamma": 2.0,
        "weight_decay": 0.01,
        "batch_size": 64,
        "schedule": "plateau",
        "patience": 15,
        "max_train_samples": 80000,
        "max_test_samples": 20000,
        "mode": "standard",
    }
    assert {name: v["value"] for name, v in found.items() if v["from"] == "recipe"} == expected
    given = {name: v["value"] for name, v in found.items() if v["from"] == "command line"}
    assert given == {
        "recipe": "timm_focal",
        "lr": 1e-4,
        "epochs": 3,
        "train_csv": str(tmp_path / "nowhere.csv"),
        "channels_last": False,
    }
    assert (
        found["weights"] == {"value": "imagenet", "from": "default"}
        and found["rotate"]["value"] == 0
        and not list(tmp_path.iterdir())
    )
    seven = config("--recipe", "seven_sets", "--shift", 0, "--pretrained", "--mode", "full")
    expected = {
        "backbone": "convnext_large.fb_in22k",
        "loss": "focal",
        "focal_alpha": -1,
        "lr": 5e-5,
        "weight_decay": 0.05,
        "batch_size": 32,
        "epochs": 30,
        "rotate": 25,
        "shift": 0,
        "flip": False,
    }
    assert {name: seven[name]["value"] for name in expected} == expected
    assert (
        seven["mode"] == {"value": "full", "from": "command line"}
        and seven["weights"]["from"] == "command line"
        and seven["mask_net"]["value"] == "features"
    )
    for flags, parts in (
        ((), "layer2,layer3,layer4,fc"),
        (("--stage", 2), ""),
        (("--stage", 2, "--train_parts", "fc"), "fc"),
    ):
        staged = config("--recipe", "staged_resnet50", *flags)
        assert staged["train_parts"]["value"] == parts and staged["stage"]["value"] == (2 if flags else 1)
        assert (
            staged["classes"]["value"].split(",")[-2:] == ["Hernia", "No Finding"]
            and len(staged["classes"]["value"].split(",")) == 15
        )
    assert config("--mode", "full")["stage"]["value"] is None


def test_what_a_loss_takes_is_given_by_name_and_kept_as_its_own_flag_was() -> None:
    one = config("--recipe", "timm_focal", "--loss_args", "focal_gamma=3", "asl_clip=0")
    assert one["focal_gamma"] == {"value": 3.0, "from": "command line"} and one["asl_clip"]["value"] == 0.0
    assert one["focal_alpha"] == {"value": 0.25, "from": "recipe"} and "loss_args" not in one
    assert one == config("--recipe", "timm_focal", "--focal_gamma", 3, "--asl_clip", 0)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "the following arguments are required: --mode, or --recipe"),
        (("--recipe", "nobody"), "invalid choice: 'nobody'"),
        (
            ("--recipe", "staged_resnet50", "--stage", 3),
            "--stage 3: there is stage 1 (layer2,layer3,layer4,fc learn) and stage 2 (everything",
        ),
        (("--recipe", "timm_focal", "--stage", 1), "timm_focal has no stages, only staged_resnet50 has"),
        (("--mode", "standard", "--stage", 2), "--stage 2 belongs to --recipe staged_resnet50"),
        (("--recipe", "staged_resnet50", "--stage", 2), "give its checkpoint with --resume CKPT"),
        (("--recipe", "staged_resnet50", "--stage", 2, "--resume", "auto"), "give its checkpoint with --resume CKPT"),
        (
            ("--mode", "standard", "--lr_warmup_steps", 3, "--lr_warmup_epochs", 1),
            "--lr_warmup_steps 3 and --lr_warmup_epochs 1: give one of them",
        ),
        (("--mode", "standard", "--loss_args", "gamma=1"), "'gamma=1' is not NAME=VALUE with one of pos_weight_cap, "),
        (("--mode", "standard", "--loss_args", "focal_gamma"), "'focal_gamma' is not NAME=VALUE"),
        (("--mode", "standard", "--loss_args", "cb_beta=2"), "--loss_args: cb_beta=2 is not between 0 and 1"),
        (("--mode", "standard", "--loss_args", "cb_beta=x"), "invalid float value of cb_beta: 'x'"),
        (("--mode", "standard", "--lr_warmup_epochs", 9), "shorten it, or give more --epochs"),
        (
            ("--mode", "standard", "--patience", 2, "--val_fraction", 0),
            "--patience 2 looks at val_auroc, and nothing is validated",
        ),
        (
            ("--mode", "standard", "--schedule", "plateau", "--val_fraction", 0),
            "--schedule plateau looks at val_auroc, and nothing is validated",
        ),
        (
            ("--mode", "standard", "--train_parts", "layer9"),
            "--train_parts: the backbone has no part 'layer9'; near it: ",
        ),
        (
            ("--mode", "standard", "--backbone", "resnett50"),
            "neither a torchvision nor a timm classifier; near it: resnet50, ",
        ),
        (
            ("--mode", "standard", "--backbone", "resnet50.nobody"),
            "weights of that name are not there for resnet50; there are ",
        ),
        (("--mode", "standard", "--ema", 1), "1 is not between 0 and 0.999999"),
        (("--test", "--checkpoint", "c.pt"), "--test needs --checkpoint, --test_csv and --image_root"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_before_anything_is_written(
    flags: tuple[object, ...], said: str, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    given = (
        ("train_roi_baselines.py",)
        if "--test" in flags
        else command(demo, tables[0], tmp_path, "--backbone", "resnet18")
    )
    assert said in one_line_error(*given, *flags) and not list(tmp_path.iterdir())


def rows_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "metrics.csv")


@pytest.mark.parametrize("recipe", ["timm_focal", "seven_sets"])
def test_a_recipe_trains_small_stops_anywhere_and_goes_on_as_if_nothing_had_happened(
    recipe: str, demo: Path, tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss, schedule, augmentation and images, with an average on top.

    Stopped in the middle of the second epoch.
    """
    flags = (
        "--recipe",
        recipe,
        "--backbone",
        "test_resnet.r160_in1k",
        "--epochs",
        2,
        "--max_train_samples",
        30,
        "--ema",
        0.9,
        "--schedule",
        "onecycle",
        "--augment",
        "seven_sets",
    )
    run(*command(demo, tables[0], tmp_path / "a", *flags))
    steps = 0

    def agreed(stop: Stop) -> int:
        nonlocal steps
        steps += 1
        stop.signal = int(signal.SIGTERM) if steps == 6 else 0
        return stop.signal

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "agreed", agreed)
        run(*command(demo, tables[0], tmp_path / "b", *flags), code=128 + signal.SIGTERM)
    assert checkpoint.load(tmp_path / "b" / "c.pt")["batch"] == 2
    run(*command(demo, tables[0], tmp_path / "b", *flags, "--resume", "auto"))
    a, b = (checkpoint.load(tmp_path / part / "c.pt") for part in "ab")
    assert all(
        torch.equal(a["model"][k], b["model"][k]) and torch.equal(a["average"]["model"][k], b["average"]["model"][k])
        for k in a["model"]
    )
    logs = [rows_of(tmp_path / part).drop(columns=["images_per_s", "seconds"]) for part in "ab"]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    assert ("val_hamming" in logs[0]) == ("val_f1_macro" in logs[0]) == (recipe == "seven_sets") and len(logs[0]) == 2
    assert 20 < len(a["train_images"]) <= 30 and (a["args"]["recipe"], a["args"]["mask"], a["args"]["rotate"]) == (
        recipe,
        "none",
        25,
    )
    error = one_line_error(*command(demo, tables[0], tmp_path / "b", *flags, "--resume", "auto", "--epochs", 3))
    assert "--epochs 2, now 3" in error  # its cycle ends with the last epoch
    assert "--rotate 25.0, now 24.0" in one_line_error(
        *command(demo, tables[0], tmp_path / "b", *flags, "--resume", "auto", "--rotate", 24)
    )
    model, _ = checkpoint.load_model(tmp_path / "b" / "c.pt")
    assert all(
        torch.equal(value, b["average"]["model"][k]) for k, value in model.backbone.state_dict().items()
    )  # whoever reads it gets the average


def test_a_run_that_stopped_early_is_finished(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    flags = (
        "--mode",
        "standard",
        "--backbone",
        "test_resnet",
        "--epochs",
        9,
        "--patience",
        1,
        "--lr",
        0,
        "--resume",
        "auto",
    )  # nothing gets better
    said = run(*command(demo, tables[0], tmp_path, *flags, "--loss", "ldam", "--train_parts", "fc"))
    assert (
        "no better val_auroc in 1 epochs: stopped after epoch 2; the best is epoch 1" in said
        and len(rows_of(tmp_path)) == 2
    )
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "2 of 9 epochs are done" in run(
        *command(demo, tables[0], tmp_path, *flags, "--loss", "ldam", "--train_parts", "fc")
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert "--loss ldam, now bce" in one_line_error(*command(demo, tables[0], tmp_path, *flags, "--train_parts", "fc"))
    assert (
        len(
            run(
                *command(demo, tables[0], tmp_path, *flags, "--loss", "ldam", "--train_parts", "fc", "--patience", 2)
            ).splitlines()
        )
        and len(rows_of(tmp_path)) == 3
    )


def test_weights_of_another_size_are_fitted_to_the_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A ViT whose weights came at 160 px, trained at 96: its positions are resampled, the rest is as published."""
    import timm

    donor = timm.create_model("test_vit", num_classes=1000)
    torch.save(donor.state_dict(), tmp_path / "published.pt")
    create = timm.create_model

    def local(name: str, pretrained: bool = False, **more: Any) -> nn.Module:
        return create(
            name,
            pretrained=pretrained,
            **more,
            **({"pretrained_cfg_overlay": {"file": str(tmp_path / "published.pt")}} if pretrained else {}),
        )

    monkeypatch.setattr(timm, "create_model", local)
    found = build_backbone("test_vit", 3, "imagenet", 96).state_dict()
    assert found["pos_embed"].shape[1] < donor.state_dict()["pos_embed"].shape[1] and torch.equal(
        found["blocks.0.attn.qkv.weight"], donor.blocks[0].attn.qkv.weight
    )


# --- stages ----------------------------------------------------------------------------------------------------------


def staged(demo: Path, table: Path, out: Path, stage: int, *more: object) -> tuple[object, ...]:
    flags = ("--recipe", "staged_resnet50", "--stage", stage, "--backbone", "test_resnet", "--epochs", 1, "--lr", 1e-3)
    return command(demo, table, out, *flags, *more)


@pytest.fixture(scope="module")
def first_stage(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first")
    run(*staged(demo, tables[0], out, 1, "--seed", 4))
    return out


def differing(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    return {name for name in a["model"] if not torch.equal(a["model"][name], b["model"][name])}


def test_stage_1_moves_what_it_names_and_stage_2_everything(
    demo: Path, tables: tuple[Path, Path], first_stage: Path, tmp_path: Path
) -> None:
    one = checkpoint.load(first_stage / "c.pt")
    fresh = {"model": build_model("test_resnet", 15, "none", "none", 32, 4).backbone.state_dict()}
    assert differing(one, fresh) == {
        name for name in one["model"] if name.startswith(("layer2.", "layer3.", "layer4.", "fc."))
    }
    assert (one["classes"][-1], len(one["classes"]), one["args"]["train_parts"]) == (
        "No Finding",
        15,
        "layer2,layer3,layer4,fc",
    )
    before = (first_stage / "c.pt").read_bytes()
    said = run(*staged(demo, tables[0], tmp_path, 2, "--seed", 4, "--resume", first_stage / "c.pt", "--lr", 0))
    assert (
        f"stage 2 begins from {first_stage / 'c.pt'}, epoch 1" in said and (first_stage / "c.pt").read_bytes() == before
    )
    still = checkpoint.load(
        tmp_path / "c.pt"
    )  # rate 0: the weights of stage 1 but for the statistics of all batch norms, which go on now
    assert differing(still, one) == {
        name for name in one["model"] if name.split(".")[-1] in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert (
        still["epoch"] == 1
        and len(still["optimizer"]["state"])
        == len(list(build_model("test_resnet", 15, "none", "none", 32).parameters()))
        and {float(s["step"]) for s in still["optimizer"]["state"].values()} == {still["steps"]}
    )
    run(*staged(demo, tables[0], tmp_path / "b", 2, "--seed", 4, "--resume", first_stage / "c_best.pt"))
    assert differing(checkpoint.load(tmp_path / "b" / "c.pt"), one) == set(one["model"])


def test_the_second_stage_goes_on_by_the_same_command(
    demo: Path, tables: tuple[Path, Path], first_stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--seed", 4, "--resume", first_stage / "c.pt", "--schedule", "cosine", "--ema", 0.5)
    run(*staged(demo, tables[0], tmp_path / "a", 2, *flags))
    steps = 0

    def agreed(stop: Stop) -> int:
        nonlocal steps
        steps += 1
        stop.signal = int(signal.SIGTERM) if steps == 3 else 0
        return stop.signal

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "agreed", agreed)
        run(*staged(demo, tables[0], tmp_path / "b", 2, *flags), code=128 + signal.SIGTERM)
    assert "resumed" in run(*staged(demo, tables[0], tmp_path / "b", 2, *flags))
    a, b = (checkpoint.load(tmp_path / part / "c.pt") for part in "ab")
    assert not differing(a, b) and not differing(a["average"], b["average"]) and a["begun_from"] == b["begun_from"]
    assert "1 of 1 epoch is done" in run(*staged(demo, tables[0], tmp_path / "b", 2, *flags))
    for resume in ("auto", tmp_path / "b" / "c.pt"):
        assert "1 of 1 epoch is done" in run(*staged(demo, tables[0], tmp_path / "b", 2, *flags, "--resume", resume))
    other = checkpoint.load(first_stage / "c.pt")
    other["model"]["fc.bias"] += 1
    torch.save(other, tmp_path / "other.pt")
    assert "did not begin from" in one_line_error(
        *staged(demo, tables[0], tmp_path / "b", 2, *flags, "--resume", tmp_path / "other.pt")
    )
    said = run(*staged(demo, tables[0], tmp_path / "b", 2, *flags, "--resume", tmp_path / "other.pt", "--overwrite"))
    assert "stage 2 begins from" in said and differing(a, checkpoint.load(tmp_path / "b" / "c.pt"))


def test_a_stage_goes_on_from_stage_1_of_the_same_images_alone(
    demo: Path, tables: tuple[Path, Path], first_stage: Path, tmp_path: Path
) -> None:
    state = checkpoint.load(first_stage / "c.pt")
    torch.save({**state, "args": {**state["args"], "stage": None}}, tmp_path / "no.pt")
    torch.save({**state, "contaminated": True}, tmp_path / "seen.pt")
    cases = [
        ((first_stage, "--resume", first_stage / "c.pt"), "is stage 1 itself; give --stage 2 another name"),
        ((first_stage, "--resume", first_stage / "c_best.pt"), "is stage 1 itself"),
        ((tmp_path / "x", "--resume", tmp_path / "no.pt"), "was not trained by --recipe staged_resnet50 --stage 1"),
        ((tmp_path / "x", "--resume", first_stage / "c.pt", "--seed", 5), "was trained on other images"),
        (
            (tmp_path / "x", "--resume", first_stage / "c.pt", "--classes", "Mass"),
            "was trained with other classes, labels",
        ),
        (
            (tmp_path / "x", "--resume", first_stage / "c.pt", "--backbone", "resnet18"),
            "is a test_resnet, not a resnet18",
        ),
        ((tmp_path / "x", "--resume", tmp_path / "nowhere.pt"), "no such checkpoint"),
    ]
    for (out, *flags), said in cases:
        assert said in one_line_error(*staged(demo, tables[0], out, 2, "--seed", 4, *flags)), said
    assert not list((tmp_path / "x").iterdir())
    assert "was trained with --stage 1, now 2" in one_line_error(
        *staged(demo, tables[0], first_stage, 2, "--seed", 4, "--resume", "auto")
    )
    run(*staged(demo, tables[0], tmp_path / "x", 2, "--seed", 4, "--resume", tmp_path / "seen.pt"))
    assert checkpoint.load(tmp_path / "x" / "c.pt")["contaminated"] and set(
        rows_of(tmp_path / "x")["contaminated"]
    ) == {1}


def test_two_processes_go_through_stage_2_as_one_does(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    """All parameters are shared anew once they learn.

    A backbone without batch norm and dropout; weights by count, changed images, averages, a cosine.
    """
    flags = (
        "--backbone",
        "test_convnext",
        "--loss",
        "weighted",
        "--augment",
        "light",
        "--ema",
        0.9,
        "--schedule",
        "cosine",
        "--cache_dir",
        tmp_path / "cache",
        "--autocast_dtype",
        "fp32",
        "--batch_size",
        12,
    )
    run(*staged(demo, tables[0], tmp_path / "one", 1, *flags, "--train_parts", "stages.2,stages.3,head"))
    first = checkpoint.load(tmp_path / "one" / "c.pt")
    second = (*flags, "--resume", tmp_path / "one" / "c.pt", "--epochs", 2)
    run(*staged(demo, tables[0], tmp_path / "alone", 2, *second))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += map(str, staged(demo, tables[0], tmp_path / "both", 2, *second, "--batch_size", 6))
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    alone, both = (checkpoint.load(tmp_path / part / "c.pt") for part in ("alone", "both"))
    assert differing(both, first) == set(first["model"]) and both["args"]["world"] == 2
    for one, other in ((alone, both), (alone["average"], both["average"])):
        for name, value in one["model"].items():
            torch.testing.assert_close(other["model"][name], value, rtol=1e-4, atol=5e-5)
    logs = [rows_of(tmp_path / part).drop(columns=["images_per_s", "seconds"]) for part in ("alone", "both")]
    pd.testing.assert_frame_equal(*logs, check_exact=False, rtol=0, atol=1e-5)
