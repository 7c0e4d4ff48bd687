"""map_average: the mask net that is validated and kept is a moving average, the classifier is as it learned."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import make_fit
from torch import Tensor

from roi.training import checkpoint
from roi.training.optim import EMA, averages
from roi.training.training_run import TrainingRun

DECAY = 0.9


def run_of(folder: Path, out: Path, **more: Any) -> tuple[TrainingRun, EMA]:
    out.mkdir(exist_ok=True)
    fit = make_fit(folder, out, **more)
    average = averages(fit.model, 0.0, DECAY)
    assert average is not None
    fit.average = average
    return fit, average


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_average_is_that_of_the_mask_net_after_each_step(folder: Path, tmp_path: Path) -> None:
    fit, average = run_of(folder, tmp_path)
    maps = fit.model.mask_net
    assert maps is not None
    expected = {name: value.clone().double() for name, value in maps.state_dict().items()}
    update = average.update

    def noted(step: int) -> None:
        decay = min(DECAY, (1 + step) / (10 + step))
        for name, value in maps.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
        update(step)

    average.update = noted  # type: ignore[method-assign]
    fit.run()
    assert average.parts.keys() == {"mask_net"}
    for name, value in average.parts["mask_net"].items():
        torch.testing.assert_close(value.double(), expected[name], atol=1e-5, rtol=1e-5)


def test_the_classifier_learns_as_without_and_the_best_has_the_averaged_maps(folder: Path, tmp_path: Path) -> None:
    plain = make_fit(folder, tmp_path)
    plain.run()
    fit, _ = run_of(folder, tmp_path / "averaged")
    fit.run()
    kept = checkpoint.load(tmp_path / "averaged" / "c.pt")
    # The average follows the training and does not touch it.
    assert same(plain.model.state_dict(), fit.model.state_dict())
    assert same(kept["model"], fit.model.backbone.state_dict())
    assert not same(kept["average"]["mask_net"], kept["mask_net"])
    fit.epoch = 99
    fit._save_best(0.5)
    best = checkpoint.load(checkpoint.best_path(tmp_path / "averaged" / "c.pt"))
    assert best["epoch"] == 99 and same(best["mask_net"], kept["average"]["mask_net"])
    assert same(best["model"], kept["model"]) and same(best["view_norms"], kept["view_norms"])


def test_a_resumed_average_goes_on_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    whole, average = run_of(folder, tmp_path / "whole")
    whole.run()
    part, _ = run_of(folder, tmp_path / "part")
    part.epochs = 1
    part.run()
    state = checkpoint.load(tmp_path / "part" / "c.pt")
    torch.manual_seed(5)
    again, resumed = run_of(folder, tmp_path / "part", done=state["log"])
    again.resume(state)
    again.run()
    assert same(average.parts["mask_net"], resumed.parts["mask_net"])
    assert same(whole.model.state_dict(), again.model.state_dict())


@pytest.mark.parametrize(("ema", "maps", "parts"), [(0.9, 0.0, 3), (0.0, 0.9, 1), (0.0, 0.0, 0)])
def test_what_is_averaged(folder: Path, tmp_path: Path, ema: float, maps: float, parts: int) -> None:
    found = averages(make_fit(folder, tmp_path).model, ema, maps)
    assert (len(found.parts) if isinstance(found, EMA) else 0) == parts
