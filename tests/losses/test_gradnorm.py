"""GradNorm: what it measures against autograd, its steps against a reference, 100 : 1, what it leaves alone, processes
that share a batch.
"""

import io
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from roi import distributed
from roi.losses import objectives as objectives
from roi.losses.gradnorm import FixedWeights, GradNorm, Taps
from roi.losses.loss_terms import LAYERS, OBJECTIVES
from roi.losses.objectives import EvidenceOptions, consistency_terms, evidence_terms
from roi.losses.terms import Denominator, count_of_batch
from roi.models.backbones import build_backbone
from roi.models.roi_model import ModelOptions, RoiModel

SIZE, K = 32, 4
SEEDS = torch.tensor([4, 8, 1, 22, 6, 17])
MASKS = [("conv", False), ("features", False), ("features", True), ("conv", True)]


class Net(nn.Module):
    """Stages of 4 x 4 and 2 x 2 cells, no batch norm; a head that is a linear layer, one on tokens, or a convolution
    with all its options.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        sizes = ((3, 8), (8, 8), (8, 12), (12, 16))
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(2, b), nn.GELU()) for a, b in sizes
        ]
        self.layers = nn.Sequential(*blocks)
        self.kind = kind
        self.head = (
            nn.Conv2d(16, K, 3, stride=2, padding=2, dilation=2, groups=2)
            if kind == "convolution"
            else nn.Linear(16, K)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = self.layers(x)  # (B, 16, 2, 2)
        if self.kind == "tokens":
            return self.head(maps.flatten(2).transpose(1, 2)).mean(1)
        return self.head(maps.mean((2, 3))) if self.kind == "linear" else self.head(maps).mean((2, 3))


def make(kind: str, mask: str, per_class: bool) -> RoiModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_backbone("squeezenet1_1", K, "none", SIZE) if kind == "squeezenet1_1" else Net(kind)
        model = RoiModel(
            backbone, mask, ModelOptions(per_class), img_size=SIZE, findings=(True, True, True, False)
        ).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        with torch.no_grad():
            model.last_layers()["head"].weight.mul_(5)  # p_drop above p_full somewhere, so that drop is awake
    return model


def batch() -> tuple[Tensor, Tensor]:
    """Six images; an unknown here and there."""
    g = torch.Generator().manual_seed(1)
    target = torch.tensor(
        [[1, 0, 1, 0], [0, 1, math.nan, 0], [1, 1, 1, 0], [math.nan, 0, 1, 0], [0, 0, math.nan, 0], [0, 0, 0, 1]]
    )
    return torch.randint(0, 256, (6, 1, SIZE, SIZE), dtype=torch.uint8, generator=g), target


def terms_of(
    objective: str,
    model: RoiModel,
    rows: slice = slice(None),
    warm_up: bool = False,
    over: Denominator = count_of_batch,
) -> dict[str, Tensor]:
    pixels, target = batch()
    if objective == "consistency":
        return consistency_terms(model, pixels[rows], target[rows], 0.1, SEEDS[rows], over)
    return evidence_terms(model, pixels[rows], target[rows], EvidenceOptions(0.1, 0.5), SEEDS[rows], warm_up, over)


def measuring(
    model: RoiModel, objective: str, **more: Callable
) -> tuple[GradNorm, list[tuple[list[str], Tensor, Tensor]]]:
    """-> (balance, what it measures at each call: terms, g_i, L_i)"""
    balance, seen = GradNorm(dict.fromkeys(OBJECTIVES[objective], 0.5), Taps(model.last_layers()), LAYERS, **more), []
    update = balance.update

    def spy(here: Tensor, g: Tensor, now: Tensor) -> None:
        seen.append(([balance.names[n] for n in here.tolist()], g.clone(), now.clone()))
        update(here, g, now)

    balance.update = spy  # type: ignore[method-assign]
    return balance, seen


@pytest.mark.parametrize(("mask", "per_class"), MASKS)
@pytest.mark.parametrize("kind", ["linear", "tokens", "convolution", "squeezenet1_1"])
@pytest.mark.parametrize("objective", ["evidence", "consistency"])
def test_what_is_measured_is_the_norm_of_the_gradient(
    objective: str, kind: str, mask: str, per_class: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against autograd in the weight of the layer.

    A drop view that teaches the classifier nothing is judged as if it did.
    """
    model, free = make(kind, mask, per_class), make(kind, mask, per_class)
    balance, seen = measuring(model, objective)
    losses = terms_of(objective, model)
    monkeypatch.setattr(objectives, "frozen", lambda module: nullcontext())
    same = terms_of(objective, free)
    total = balance(losses)
    ((names, found, now),) = seen
    assert names == [name for name in OBJECTIVES[objective] if name in losses] and torch.equal(
        now, torch.stack([losses[n].detach() for n in names])
    )
    assert total.item() == pytest.approx(
        sum(0.5 * losses[n].item() for n in names), rel=1e-6
    )  # the weights before this step
    for name, g in zip(names, found.tolist(), strict=True):
        weight = free.last_layers()[LAYERS[name]].weight
        (expected,) = torch.autograd.grad(same[name], weight, retain_graph=True)
        assert g == pytest.approx(expected.norm().item(), rel=1e-5) and g > 1e-7, name


@pytest.mark.parametrize(("mask", "per_class"), MASKS)
@pytest.mark.parametrize("objective", ["evidence", "consistency"])
def test_measuring_goes_back_to_the_last_layer_alone_and_leaves_no_gradient(
    objective: str, mask: str, per_class: bool
) -> None:
    model = make("linear", mask, per_class)
    balance, _ = measuring(model, objective)
    walked: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda grad: walked.append(name))

        return hook

    inside = {"first": model.backbone.layers[0], "last": model.backbone.layers[3], "mask": model.mask_net.layers[0]}
    for name, layer in inside.items():
        layer.register_forward_hook(watch(name))
    total = balance(terms_of(objective, model))
    assert walked == [] and all(p.grad is None for p in model.parameters())
    total.backward()
    assert set(walked) == set(inside)
    assert balance.taps.calls == {"head": [], "mask": []}  # nothing of this step is kept


def test_taps_note_nothing_until_they_are_asked_and_nothing_without_gradient() -> None:
    layer = nn.Linear(2, 2)
    taps = Taps({"head": layer})
    layer(torch.ones(1, 2))
    assert taps.calls is None
    taps.clear()
    with torch.no_grad():
        layer(torch.ones(1, 2))
    with torch.inference_mode():
        layer(torch.ones(1, 2))
    assert taps.calls == {"head": []}
    y = layer(torch.ones(1, 2, requires_grad=True))
    ((x, noted),) = taps.calls["head"]
    assert noted is y and not x.requires_grad


# --- the step --------------------------------------------------------------------------------------------------------


class Reference:
    """GradNorm in numpy, one term at a time: algorithm 1 of Chen et al. 2018 on log w, Adam as in Kingma & Ba 2015, sum
    kept.
    """

    def __init__(self, weights: dict[str, float], alpha: float, lr: float) -> None:
        self.w, self.alpha, self.lr, self.total = dict(weights), alpha, lr, sum(weights.values())
        self.first: dict[str, float] = {}
        self.moments = dict.fromkeys(weights, (0.0, 0.0, 0))

    def step(self, g: dict[str, float], now: dict[str, float]) -> None:
        for name, value in now.items():
            self.first.setdefault(name, value)
        rate = {name: now[name] / self.first[name] for name in now}
        mean_rate, mean_pull = np.mean(list(rate.values())), np.mean([self.w[n] * g[n] for n in now])
        for name in now:
            pull = self.w[name] * g[name]
            slope = pull * np.sign(pull - mean_pull * (rate[name] / mean_rate) ** self.alpha)
            m, v, t = self.moments[name]
            m, v, t = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2, t + 1
            self.moments[name] = m, v, t
            self.w[name] *= math.exp(-self.lr * m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.999**t)) + 1e-12))
        rest = sum(w for name, w in self.w.items() if name not in now)  # who takes no part keeps its weight
        scale = (self.total - rest) / sum(self.w[name] for name in now)
        self.w = {name: w * scale if name in now else w for name, w in self.w.items()}


def single(weights: dict[str, float], **more: float) -> tuple[GradNorm, nn.Linear]:
    """Terms made of the output of one weight of value 1: L = g * y + c has the gradient g."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    return GradNorm(weights, Taps({"head": layer}), dict.fromkeys(weights, "head"), **more), layer


def step(balance: GradNorm, layer: nn.Linear, g: dict[str, float], now: dict[str, float]) -> None:
    y = layer(torch.ones(1, 1)).sum()  # 1
    balance({name: g[name] * (y - 1) + now[name] for name in now})


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_steps_are_those_of_a_reference_through_a_warm_up(alpha: float) -> None:
    """Terms that the warm-up does not have keep their own first loss and their own count of steps."""
    weights = {"full": 1.0, "consist": 0.5, "drop": 1e-3, "locate": 0.25}
    balance, layer = single(weights, alpha=alpha, lr=0.05)
    reference = Reference(weights, alpha, 0.05)
    rng = np.random.default_rng(0)
    for n in range(12):
        names = ["full", "locate"] if n < 4 else list(weights)
        g, now = (
            {name: float(v) for name, v in zip(names, rng.lognormal(0, 1, len(names)), strict=True)} for _ in range(2)
        )
        step(balance, layer, g, now)
        reference.step(g, now)
        assert balance.weights == pytest.approx(reference.w, rel=2e-4), n
    assert balance.steps.tolist() == [12, 8, 8, 12] and sum(balance.weights.values()) == pytest.approx(1.751)


@pytest.mark.parametrize(("alpha", "falls"), [(0.0, True), (1.0, True), (1.34, True), (1.36, False), (1.5, False)])
def test_the_training_rate_has_its_exponent(alpha: float, falls: bool) -> None:
    """r = 1.35 and 0.65, G = 1.5 and 0.5: the first target is 1.35^alpha, which passes G at alpha = ln 1.5 / ln 1.35 =
    1.351.
    """
    balance, layer = single({"slow": 1.0, "fast": 1.0}, alpha=alpha)
    balance.first = torch.tensor([1.0, 1.0])
    step(balance, layer, {"slow": 1.5, "fast": 0.5}, {"slow": 1.35, "fast": 0.65})
    assert (balance.weights["slow"] < balance.weights["fast"]) == falls


def test_of_equal_pulls_the_term_that_learns_more_slowly_gains_weight() -> None:
    balance, layer = single({"slow": 1.0, "fast": 1.0})
    for n in range(10):
        step(balance, layer, {"slow": 1.0, "fast": 1.0}, {"slow": 1.0, "fast": 0.9**n})
    assert balance.weights["slow"] > 1.1 > 0.9 > balance.weights["fast"]


def test_gradients_of_100_to_1_are_evened_out() -> None:
    """Two tasks that train at the same rate, one with gradients 100 times as large: its weight must fall to 1/100 of
    the other's.
    """
    balance, layer = single({"big": 1.0, "small": 1.0})
    for _ in range(600):
        step(balance, layer, {"big": 100, "small": 1}, {"big": 100, "small": 1})
    assert balance.weights["big"] / balance.weights["small"] == pytest.approx(0.01, rel=0.15)
    assert sum(balance.weights.values()) == pytest.approx(2.0)


def test_the_slope_is_the_gradient_of_its_own_loss() -> None:
    """d/dw_i of sum |w_i g_i - target_i|, target constant (Chen et al. 2018, eq. 2), by autograd: the direction of each
    step.
    """
    g, now, first, alpha = (
        torch.tensor([3.0, 1.0, 0.2]),
        torch.tensor([1.0, 2.0, 0.5]),
        torch.tensor([2.0, 2.0, 2.0]),
        1.5,
    )
    w = torch.tensor([1.0, 0.5, 0.7], requires_grad=True)
    rate = now / first
    target = ((w * g).mean() * (rate / rate.mean()) ** alpha).detach()
    (slope,) = torch.autograd.grad((w * g - target).abs().sum(), w)
    balance, layer = single(dict(zip("abc", w.tolist(), strict=True)), alpha=alpha)
    balance.first = first
    before = balance.weights
    step(balance, layer, dict(zip("abc", g.tolist(), strict=True)), dict(zip("abc", now.tolist(), strict=True)))
    ratio = {c: math.log(balance.weights[c] / before[c]) for c in "abc"}  # up to the common factor that keeps the sum
    assert [np.sign(-s) for s in slope.tolist()] == [-1.0, 1.0, 1.0] and min(ratio, key=lambda c: ratio[c]) == "a"
    assert ratio["b"] - ratio["a"] == pytest.approx(
        2 * balance.lr, rel=1e-3
    )  # Adam's first step is lr in each direction
    assert ratio["c"] == pytest.approx(ratio["b"], abs=1e-6) and sum(balance.weights.values()) == pytest.approx(
        sum(before.values())
    )


# --- state -----------------------------------------------------------------------------------------------------------


def state_of(balance: GradNorm) -> dict[str, list]:
    return {name: value if isinstance(value, list) else value.tolist() for name, value in balance.state_dict().items()}


def test_terms_that_take_no_part_keep_their_weight() -> None:
    """A warm-up without the mask: `consist` went from .5 to .046 in it, and the mask began to learn with a tenth of
    what was asked.
    """
    balance, layer = single({"full": 1.0, "consist": 0.5, "drop": 0.5, "locate": 0.25})
    for n in range(300):
        step(balance, layer, {"full": 1.0, "locate": 50.0}, {"full": 0.5 / (n + 1), "locate": 0.5})
    assert balance.weights["consist"] == balance.weights["drop"] == 0.5
    assert balance.weights["full"] != 1.0 and sum(balance.weights.values()) == pytest.approx(2.25)


def moves() -> Iterator[tuple[dict[str, float], dict[str, float]]]:
    rng = np.random.default_rng(3)
    while True:
        yield tuple(
            {c: float(v) for c, v in zip(("x", "y", "off"), rng.lognormal(0, 1, 3), strict=True)} for _ in range(2)
        )  # type: ignore[misc]


def test_state_goes_through_a_file_and_terms_of_weight_0_take_no_part() -> None:
    (a, layer), (b, other) = (single({"x": 1.0, "y": 1.0, "off": 0.0}) for _ in range(2))
    sequence = moves()
    for _ in range(5):
        step(a, layer, *next(sequence))
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    b.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert state_of(a) == state_of(b)
    for _ in range(3):
        move = next(sequence)
        step(a, layer, *move)
        step(b, other, *move)
    assert state_of(a) == state_of(b) and a.weights["off"] == 0 and a.steps.tolist() == [8, 8, 0] and a.first[2] == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_numbers_that_are_not_finite_change_nothing(bad: float, where: str) -> None:
    balance, layer = single({"x": 1.0, "y": 0.5})
    sequence = moves()
    for n in range(4):
        g, now = next(sequence)
        now = {name: now[name] for name in ("x", "y")}
        if n in (0, 2):
            before = state_of(balance)
            step(
                balance,
                layer,
                {**g, "x": bad} if where == "gradient" else g,
                {**now, "x": bad} if where == "loss" else now,
            )
            assert state_of(balance) == before
        step(balance, layer, g, now)
        assert balance.steps.tolist() == [n + 1, n + 1]


def test_without_gradient_the_weights_stay() -> None:
    balance, layer = single({"x": 1.0, "y": 0.5})
    before = state_of(balance)
    with torch.no_grad():
        y = layer(torch.ones(1, 1)).sum()
        assert balance({"x": 2 * y, "y": 4 * y}).item() == pytest.approx(4)
    assert state_of(balance) == before


def test_a_copy_of_the_weights_is_no_door() -> None:
    for balance in (FixedWeights({"x": 1.0}), single({"x": 1.0})[0]):
        balance.weights["x"] = 7.0
        assert balance.weights == {"x": 1.0}


# --- several processes -----------------------------------------------------------------------------------------------


class Together:
    """Threads in the place of processes: `mean` is that of what each of them gives, as of an all_reduce."""

    def __init__(self, world: int) -> None:
        self.given: dict[int, Tensor] = {}
        self.barrier = threading.Barrier(world, timeout=20)

    def mean(self, tensor: Tensor) -> Tensor:
        self.given[threading.get_ident()] = tensor
        self.barrier.wait()
        found = torch.stack(list(self.given.values())).mean(0)
        self.barrier.wait()
        return found


@pytest.mark.parametrize("objective", ["evidence", "consistency"])
@pytest.mark.parametrize("parts", [[3, 3], [4, 2], [2, 4, 0]])
def test_processes_that_share_a_batch_measure_what_one_measures(
    objective: str, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its rows and divides by what counts on all of them; one without a row does the work of another, and
    counts nothing.
    """
    mask, per_class = ("features", True) if objective == "evidence" else ("conv", False)
    model = make("linear", mask, per_class)
    whole, seen = measuring(model, objective)
    whole(terms_of(objective, model))
    world = len(parts)
    together, models = Together(world), [make("linear", mask, per_class) for _ in parts]
    monkeypatch.setattr(distributed, "world", lambda: world)
    monkeypatch.setattr(distributed, "mean", together.mean)

    def process(n: int) -> tuple[list[str], Tensor, Tensor]:
        first, share = sum(parts[:n]), parts[n] * world / sum(parts)
        rows = slice(first, first + parts[n]) if parts[n] else slice(0, 1)
        balance, found = measuring(models[n], objective, mean=distributed.mean)
        balance(terms_of(objective, models[n], rows, over=partial(distributed.counting, share=share)), share)
        return found[0]

    with ThreadPoolExecutor(world) as pool:
        everyone = list(pool.map(process, range(world)))
    for names, g, now in everyone:
        assert names == seen[0][0]
        torch.testing.assert_close(g, seen[0][1], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(now, seen[0][2], rtol=1e-5, atol=1e-8)
