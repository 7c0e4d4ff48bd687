"""Parts of a backbone that are computed twice, or compiled: the same numbers as without, and whoever looks inside goes
on seeing.
"""

import csv
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import run
from torch import Tensor, nn

from roi.losses.gradnorm import GradNorm, Taps
from roi.losses.loss_terms import LAYERS, OBJECTIVES
from roi.losses.objectives import EvidenceOptions, consistency_terms, evidence_terms
from roi.models import compile
from roi.models.backbones import build_backbone, classifier_layer
from roi.models.roi_model import ModelOptions, RoiModel

SIZE, K = 64, 4
SEEDS = torch.arange(6)


class Residual(nn.Module):
    """What makes computing twice hard: batch norm, dropout, an activation in place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Net(nn.Module):
    def __init__(self, depth: int, classes: int = K) -> None:
        super().__init__()
        stages = [
            nn.Sequential(nn.Conv2d(a, 16, 3, stride=4, padding=1), *(Residual(16) for _ in range(depth)))
            for a in (3, 16)
        ]
        self.stages = nn.Sequential(*stages, nn.Conv2d(16, 16, 3, stride=2, padding=1))
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).mean((2, 3)))


def make(name: str, objective: str) -> RoiModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = Net(2) if name == "own" else build_backbone(name, K, "none", SIZE)
        mask, per_class = ("features", True) if objective == "evidence" else ("conv", False)
        return RoiModel(
            backbone, mask, ModelOptions(per_class), img_size=SIZE, findings=(True, True, True, False)
        ).train()


def trained(model: RoiModel, objective: str, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    """-> every loss and weight, and what the model and its gradients are after some steps.

    The first of evidence is warm-up.
    """
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (len(SEEDS), 1, SIZE, SIZE), dtype=torch.uint8, generator=g)
    target = torch.randint(0, 2, (len(SEEDS), K), generator=g).float()
    target[0, 0] = math.nan
    balance = GradNorm(dict.fromkeys(OBJECTIVES[objective], 0.5), Taps(model.last_layers()), LAYERS)
    optimizer, seen = torch.optim.SGD(model.parameters(), lr=0.05), []
    with torch.random.fork_rng():
        torch.manual_seed(5)  # dropout
        for n in range(steps):
            if objective == "evidence":
                losses = evidence_terms(model, pixels, target, EvidenceOptions(0.1, 0.5), SEEDS + n, warm_up=n == 0)
            else:
                losses = consistency_terms(model, pixels, target, 0.1, SEEDS)
            optimizer.zero_grad()
            balance(losses).backward()
            optimizer.step()
            seen += [*(loss.item() for loss in losses.values()), *balance.weights.values()]
    gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return seen, model.state_dict() | gradients


def expect_equal(found: tuple[list[float], dict[str, Tensor]], expected: tuple[list[float], dict[str, Tensor]]) -> None:
    assert found[0] == expected[0] and list(found[1]) == list(expected[1])
    assert [name for name in expected[1] if not torch.equal(found[1][name], expected[1][name])] == []


@pytest.mark.parametrize("objective", ["evidence", "consistency"])
@pytest.mark.parametrize("name", ["own", "resnet18", "test_convnext", "squeezenet1_1"])
def test_computed_twice_is_the_same_bit_for_bit(name: str, objective: str) -> None:
    """Losses, gradients, running statistics, learned weights of the losses, dropout."""
    plain, twice = make(name, objective), make(name, objective)
    compile.recomputed(twice)
    calls = dict.fromkeys((plain, twice), 0)
    for model in calls:
        inside = list(compile.blocks(model.backbone, classifier_layer(model.backbone)[1]))
        assert len(inside) > 2
        layer = next(m for m in inside[0].modules() if isinstance(m, nn.Conv2d))

        def count(layer: nn.Module, inputs: object, output: Tensor, model: RoiModel = model) -> None:
            calls[model] += torch.is_grad_enabled()

        layer.register_forward_hook(count)
    expect_equal(trained(twice, objective, 2), trained(plain, objective, 2))
    views = 1 + 3 if objective == "evidence" else 2  # in the warm-up one, then full, crop and drop; or all in one
    assert calls[plain] == views and views < calls[twice] <= 2 * views
    assert all(p.requires_grad for p in twice.parameters()) and all(m.training for m in twice.modules())


def test_frozen_parts_and_modes_stay_as_they_are() -> None:
    """A block in eval mode, one whose parameters do not learn: while computed again they are what they were, afterwards
    what they are.
    """
    models = [make("own", "consistency") for _ in range(2)]
    compile.recomputed(models[1])
    found = []
    for model in models:
        first, second = (m for m in model.backbone.stages[0] if isinstance(m, Residual))
        first.eval()
        for p in second.parameters():
            p.requires_grad_(False)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            loss = (
                model.backbone(torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))).square().sum()
            )
            first.train()  # between the forward pass and the backward pass
            second.eval()
            for p in second.parameters():
                p.requires_grad_(True)
            loss.backward()
        assert (
            first.training
            and not second.training
            and not second.layers[3].training
            and all(p.requires_grad for p in second.parameters())
        )
        assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        assert all(p.grad is None for p in second.parameters())
        found.append(
            (
                [loss.item()],
                model.state_dict() | {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
            )
        )
    expect_equal(found[1], found[0])


def test_without_gradient_nothing_is_computed_twice() -> None:
    model = make("own", "consistency")
    x = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.inference_mode():
        before = model.backbone(x)
    compile.recomputed(model)
    with torch.inference_mode():
        assert torch.equal(model.backbone(x), before)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_backbone_without_repeated_blocks_is_refused_in_one_line(depth: int) -> None:
    model = RoiModel(Net(depth), "conv", img_size=SIZE)
    with pytest.raises(ValueError, match="--checkpoint_activations: Net has no repeated blocks; leave it out") as said:
        compile.recomputed(model)
    assert "\n" not in str(said.value)


# --- compiled --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["evidence", "consistency"])
@pytest.mark.parametrize("name", ["own", "test_resnet", "test_convnext", "squeezenet1_1"])
def test_parts_hold_nobody_who_looks_and_not_the_head(
    name: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks inside a compiled part may not run: with all hooks switched off there, everything is still seen."""
    plain, model = make(name, objective), make(name, objective)
    found = list(compile.parts(model.backbone, classifier_layer(model.backbone)[1]))
    inside = [m for part in found for m in part.modules() if m is not part]
    assert (
        found
        and not any(m._forward_hooks for m in inside)
        and classifier_layer(model.backbone)[1] not in inside + found
    )
    assert len({id(m) for m in found} | {id(m) for m in inside}) == len(found) + len(inside)  # none inside another
    weights = sum(p.numel() for part in found for p in part.parameters())
    assert weights > 0.5 * sum(p.numel() for p in model.backbone.parameters())  # most of the work
    compiled: list[Callable] = []

    def compile_(function: Callable) -> Callable:
        compiled.append(function)

        def without_hooks(*inputs: Tensor) -> Tensor:
            monkeypatch.setattr(nn.Module, "__call__", lambda module, *args: module.forward(*args))
            try:
                return function(*inputs)
            finally:
                monkeypatch.undo()

        return without_hooks

    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", compile_)
        compile.compiled(model)
    assert len(compiled) == len(found)
    expect_equal(trained(model, objective, 2), trained(plain, objective, 2))


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [{c: v for c, v in row.items() if c not in ("images_per_s", "seconds")} for row in csv.DictReader(file)]


def command(demo: Path, table: Path, out: Path, *more: object) -> tuple[object, ...]:
    """Evidence with a mask of features; the last batch is a part of one."""
    return (
        "train_roi_consistency.py",
        "--train_csv",
        table,
        "--image_root",
        demo,
        "--backbone",
        "test_convnext",
        "--weights",
        "none",
        "--img_size",
        32,
        "--batch_size",
        8,
        "--max_samples",
        35,
        "--workers",
        0,
        "--device",
        "cpu",
        "--warmup_epochs",
        1,
        "--dynamic_weights",
        "--lr",
        1e-3,
        "--save",
        out / "roi.pt",
        "--log_csv",
        out / "metrics.csv",
        *more,
    )


@pytest.mark.slow
def test_the_command_with_checkpointed_activations_gives_the_same_run(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    """And a run may change it on the way."""
    run(*command(demo, tables[0], tmp_path / "a", "--epochs", 3))
    run(*command(demo, tables[0], tmp_path / "b", "--epochs", 2, "--checkpoint_activations"))
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    run(*command(demo, tables[0], tmp_path / "b", "--epochs", 3, "--checkpoint_activations", "--resume", "auto"))
    run(*command(demo, tables[0], tmp_path / "c", "--epochs", 3, "--resume", "auto"))
    a, *others = (torch.load(tmp_path / x / "roi.pt", weights_only=True) for x in "abc")
    for x, other in zip("bc", others, strict=True):
        assert rows_of(tmp_path / x / "metrics.csv") == rows_of(tmp_path / "a" / "metrics.csv")
        assert all(torch.equal(other[part][k], a[part][k]) for part in ("model", "mask_net") for k in a[part])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")
def test_a_compiled_run_that_goes_on_has_the_losses_of_one_without(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small backbone, since a CPU compiles for minutes: train and eval mode, with and without gradient, whole batches
    and a part of one.
    """
    from torch._dynamo.utils import counters

    def small(name: str, classes: int, *more: object) -> nn.Module:
        torch.manual_seed(0)
        net = Net(1, classes)
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # compiled it draws other numbers
        return net

    monkeypatch.setattr("roi.models.roi_model.build_backbone", small)
    slowly = ("--lr", 1e-4, "--mask_lr", 1e-4)  # rounding does not grow into other pixels of a mask
    run(*command(demo, tables[0], tmp_path / "a", "--epochs", 3, *slowly))
    for n, more in ((2, ()), (3, ("--resume", "auto"))):
        torch._dynamo.reset()
        counters.clear()
        run(*command(demo, tables[0], tmp_path / "b", "--epochs", n, "--compile", *slowly, *more))
        assert counters["frames"]["ok"] > 0 and counters["frames"]["ok"] == counters["frames"]["total"]
    found, expected = rows_of(tmp_path / "b" / "metrics.csv"), rows_of(tmp_path / "a" / "metrics.csv")
    assert len(found) == len(expected) == 3
    for one, other in zip(found, expected, strict=True):
        assert {c for c in one if one[c]} == {c for c in other if other[c]} and one["val_loss"]
        for column in one:
            if one[column] and column != "val_auroc":
                assert float(one[column]) == pytest.approx(float(other[column]), rel=2e-5, abs=2e-5), column
