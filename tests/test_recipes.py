"""What recipes are made of: learning rates, early stopping, averages of weights, parts that learn; each on its own, in whole runs, and taken up again."""

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_engine import Net, folder, make_fit  # noqa: F401  # the fixture as well
from torch import nn

from roi import checkpoint
from roi.engine import Fit, Stop
from roi.model import RoiModel, build_model
from roi.optim import Average, Schedule, learn_only, make_optimizer

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
    assert found[:, 0].argmax() == top and found[top] == pytest.approx([1, 0.5]) and found[0] == pytest.approx([1 / 25, 0.5 / 25])
    assert found[-1] == pytest.approx([1 / 25e4, 0.5 / 25e4]) and (np.diff(found[top:, 0]) < 0).all() and (np.diff(found[: top + 1, 0]) > 0).all()


def test_a_plateau_is_counted_in_epochs_after_the_warm_up_and_a_score_that_is_undefined_counts_nothing() -> None:
    scores = [0.5, 0.6, 0.6, math.nan, 0.59, 0.58, 0.61, 0.6, 0.6, 0.6]
    found = rates(20, "plateau", 20, 0, 0.1, 2, scores=scores, every=2)
    assert [round(rate, 6) for rate, _ in found[::2]] == [1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1] and found[-1] == pytest.approx([0.1, 0.05])
    late = rates(20, "plateau", 20, 9, 0.1, 0, scores=[0.9] + [0.5] * 9, every=2)  # epochs 1 to 4 are not looked at
    assert [round(rate, 3) for rate, _ in late] == [*(round((n + 1) / 9, 3) for n in range(9)), 1, 1, 1, *[0.1] * 2, *[0.01] * 2, *[0.001] * 2, 0, 0]


def recipe_fit(folder: Path, out: Path, name: str, **more: Any) -> Fit:  # noqa: F811
    """Three epochs of four steps, with a schedule and an average."""
    fit = make_fit(folder, out, **more)
    fit.schedule = Schedule(fit.optimizer, name, 12, 3, 0.5, 0)
    fit.average = Average(fit.model, 0.8)
    return fit


@pytest.mark.parametrize("name", ["constant", "cosine", "plateau", "onecycle"])
@pytest.mark.parametrize("stop_at", [2, 4, 6, 9])
def test_a_stopped_run_goes_on_along_its_schedule_and_with_its_average(
    name: str, stop_at: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
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
        assert all(torch.equal(a[part][k], b[part][k]) and torch.equal(a["average"][part][k], b["average"][part][k]) for k in a[part])
    assert a["schedule"] == b["schedule"] and a["best"] == b["best"] and a["best_epoch"] == b["best_epoch"]
    logs = [pd.read_csv(tmp_path / part / "log.csv").drop(columns=["images_per_s", "seconds"]) for part in "ab"]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    at = {"constant": [1, 1, 1], "cosine": [1, *(0.5 * (1 + math.cos(math.pi * n / 9)) for n in (4, 8))]}
    if name in at:
        assert logs[0]["lr"].tolist() == pytest.approx([1e-3 * factor for factor in at[name]], rel=1e-5)  # of the last step of the epoch


# --- early stopping --------------------------------------------------------------------------------------------------


def scored(fit: Fit, scores: list[float]) -> Fit:
    fit._validate = lambda stop: {"val_loss": 0.5, "val_auroc": scores[fit.epoch]}  # type: ignore[method-assign]
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
    scores: list[float], patience: int, first: int, epochs: int, best: int, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]  # noqa: F811
) -> None:  # fmt: skip
    for part in ("early", "short"):
        (tmp_path / part).mkdir()
    fit = scored(make_fit(folder, tmp_path / "early", patience=patience, first_best=first), scores)
    fit.epochs = 6
    assert fit.run() == 0 and fit.epoch == epochs and fit.best_epoch == best
    said = capsys.readouterr().out
    assert (f"stopped after epoch {epochs}" in said) == (epochs < 6) and (f"the best is epoch {best}, {scores[best - 1]:.4f}" in said) == (
        epochs < 6 and best > 0
    )
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
        assert kept["epoch"] == best and all(torch.equal(kept[part][k], expected[part][k]) for part in expected for k in expected[part])
    else:
        assert not (tmp_path / "early" / "c_best.pt").exists()


# --- the average of the weights --------------------------------------------------------------------------------------


def test_an_average_follows_its_formula_buffers_too_and_is_lent_but_not_given() -> None:
    torch.manual_seed(0)
    model = RoiModel(Net(), "conv")
    average = Average(model, 0.6)
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
    assert any("running_var" in name for _, name in names) and int(average.parts["model"]["layers.1.num_batches_tracked"]) == 8
    own = {key: live[key[0]][key[1]].clone() for key in names}
    with pytest.raises(RuntimeError, match="on the way"), average.within():
        for part, state in checkpoint.parts(model).items():
            assert all(torch.equal(value, average.parts[part][name]) for name, value in state.items())
        raise RuntimeError("on the way")
    assert all(torch.equal(live[part][name], own[part, name]) for part, name in names)


def test_what_is_validated_and_saved_as_the_best_is_the_average(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    plain, fit = make_fit(folder, tmp_path), make_fit(folder, tmp_path)
    for each in (plain, fit):
        each.epochs = 1
    fit.average = Average(fit.model, 0.8)
    fit.run()
    best, last = checkpoint.load(tmp_path / "c_best.pt"), checkpoint.load(tmp_path / "c.pt")
    assert all(torch.equal(best["model"][k], last["average"]["model"][k]) for k in best["model"])
    assert any(not torch.equal(best["model"][k], last["model"][k]) for k in best["model"])
    checkpoint.load_parts(plain.model, best, "best")
    scores = plain._validate(Stop())
    assert scores is not None and scores["val_auroc"] == best["val_auroc"] == last["best"]


# --- parts that learn ------------------------------------------------------------------------------------------------


def test_only_the_named_parts_learn_and_batch_norm_elsewhere_stands_still() -> None:
    model = build_model("resnet18", 3, "none", "none", 64)
    learn_only(model, ["layer3", "layer4.1", "fc.bias"])
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    optimizer = make_optimizer(model, 0.1, 0.1, 0.1)
    for _ in range(2):
        model.eval().train()
        loss = model(torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8), 0.1).full.square().mean()
        loss.backward()
        optimizer.step()
    assert len(optimizer.param_groups[0]["params"]) == sum(p.requires_grad for p in model.parameters())
    moved = {name for name, value in model.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith(("layer3.", "layer4.1.")) or name == "fc.bias"}  # running_mean and the like among them


def test_a_part_that_is_not_there_is_named_with_those_near_it() -> None:
    model = build_model("resnet18", 3, "none", "none", 64)
    for wrong in ("layer5", "layer", "layer4.bn", "c"):
        with pytest.raises(ValueError, match=rf"--train_parts: the backbone has no part '{wrong}'; near it: .*(layer4|fc)") as said:
            learn_only(model, ["fc", wrong])
        assert "\n" not in str(said.value)
    assert all(p.requires_grad for p in model.parameters())
