"""Losses for a long tail against their formulas, written out cell by cell in numpy; BCE in their limits; fp16."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from roi.losses import long_tail, terms

NAN = math.nan
RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=(12, 5)) * 4
TARGET = RNG.choice([0, 1, 0.3, 0.75, NAN], (12, 5), p=[0.35, 0.3, 0.1, 0.1, 0.15])
TARGET[0] = 0  # no finding at all
TARGET[1] = NAN  # nothing is known of this image
TARGET[2] = [NAN, 1, NAN, NAN, NAN]
PRESENT = np.array([900.0, 120, 30, 4, 0])
ABSENT = np.array([1100.0, 1880, 1970, 1600, 2000])
PI = np.array([0.45, 0.06, 0.015, 4 / 1604, 0])
LOG_ODDS = np.log([900 / 1100, 120 / 1880, 30 / 1970, 4 / 1600, 1 / 2000])
COUNT = np.array([900.0, 120, 30, 4, 1])


def t(values: np.ndarray) -> Tensor:
    return torch.tensor(values)


def sigmoid(z: float) -> float:
    return float(1 / (1 + np.exp(-z)))


# A formula: (logit, y 0 or 1, finding k, the targets of the image) -> what the cell costs.
Formula = Callable[[float, int, int, np.ndarray], float]


def weighted_asl(z: float, y: int, k: int, row: np.ndarray) -> float:
    p = sigmoid(z)
    if y == 1:
        return math.exp(1 - PI[k]) * -(1 - p) * math.log(p)
    q = max(p - 0.05, 0)
    return math.exp(PI[k]) * -(q**4) * math.log(1 - q)


def ral(z: float, y: int, k: int, row: np.ndarray, lam: float = 1.5) -> float:
    p = sigmoid(z)
    if y == 1:
        return -(math.log(p) + 1 * (1 - p) + -2.5 / 2 * (1 - p) ** 2)
    x = min(1 - p + 0.05, 1)  # the probability of absence, clipped
    return -math.log(x) * (lam - p) * p**2 * (lam - x) * (1 - x) ** 4


def db(z: float, y: int, k: int, row: np.ndarray, mu: float = 0.2, lam: float = 2.0, kappa: float = 0.05) -> float:
    others = np.nan_to_num(row) / COUNT
    others[k] = y / COUNT[k]
    draws = others.sum()
    r = (1 / COUNT[k]) / draws if draws else math.inf
    weight = 0.1 + (1.0 if r == math.inf else sigmoid(10 * (r - mu)))
    shifted = z - kappa * math.log(1 / (math.exp(LOG_ODDS[k]) / (1 + math.exp(LOG_ODDS[k]))) - 1) / lam
    if y == 1:
        s = sigmoid(shifted)
        return 2 * weight * (1 - s) ** 2 * -math.log(s)
    s, absent = sigmoid(lam * shifted), sigmoid(-lam * shifted)
    return 2 * weight / lam * s**2 * -math.log(absent)


def adjusted(z: float, y: int, k: int, row: np.ndarray, tau: float = 1.0) -> float:
    shifted = z + tau * LOG_ODDS[k]
    return -math.log(sigmoid(shifted)) if y == 1 else -math.log(sigmoid(-shifted))


WEIGHT = long_tail.exponential_weights(PRESENT, ABSENT)
ODDS = t(long_tail.prior_log_odds(PRESENT, ABSENT))
balanced = partial(long_tail.distribution_balanced, present_count=t(COUNT), log_odds=ODDS)
CASES: dict[str, tuple[Callable[..., Tensor], Formula]] = {
    "weighted_asymmetric": (partial(long_tail.weighted_asymmetric, weight=t(WEIGHT)), weighted_asl),
    "ral": (long_tail.robust_asymmetric, ral),
    "ral, other lambda": (partial(long_tail.robust_asymmetric, lam=1.2), partial(ral, lam=1.2)),
    "distribution_balanced": (balanced, db),
    "distribution_balanced, VOC": (partial(balanced, mu=0.3, lam=5.0), partial(db, mu=0.3, lam=5.0)),
    "distribution_balanced, wide margin": (partial(balanced, kappa=0.5), partial(db, kappa=0.5)),
    "logit_adjusted": (partial(long_tail.logit_adjusted, log_odds=ODDS), adjusted),
    "logit_adjusted, half": (partial(long_tail.logit_adjusted, log_odds=ODDS, tau=0.5), partial(adjusted, tau=0.5)),
}


def mean_of(formula: Formula, logits: np.ndarray, target: np.ndarray) -> float:
    """The mean over known cells of y L(1) + (1 - y) L(0), in plain loops."""
    costs = []
    for z_row, row in zip(logits, target, strict=True):
        for k, y in enumerate(row):
            if not math.isnan(y):
                costs.append(y * formula(z_row[k], 1, k, row) + (1 - y) * formula(z_row[k], 0, k, row))
    return sum(costs) / len(costs)


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_its_formula_and_its_slope_that_of_the_formula(name: str) -> None:
    loss, formula = CASES[name]
    logits = t(LOGITS).requires_grad_()
    value = loss(logits, t(TARGET))
    assert value.shape == () and value.item() == pytest.approx(mean_of(formula, LOGITS, TARGET), rel=1e-9)
    value.backward()
    assert logits.grad is not None and (logits.grad[t(np.isnan(TARGET))] == 0).all()
    step = 1e-5
    for i, k in ((0, 0), (3, 1), (5, 3), (7, 4), (11, 2)):
        moved = np.zeros_like(LOGITS)
        moved[i, k] = step
        slope = (mean_of(formula, LOGITS + moved, TARGET) - mean_of(formula, LOGITS - moved, TARGET)) / (2 * step)
        assert logits.grad[i, k].item() == pytest.approx(slope, rel=1e-4, abs=1e-9)
    assert loss(t(LOGITS).float(), t(TARGET).float()).item() == pytest.approx(value.item(), rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_share_is_the_expectation(name: str) -> None:
    """y = .3: .3 times the loss of a present finding and .7 times that of an absent one, the others alike."""
    loss, _ = CASES[name]
    logits = torch.full((1, 5), 0.7, dtype=torch.float64)
    values = []
    for y in (0.3, 1.0, 0.0):
        # Only one cell is known, so that the mean is its loss.
        target = torch.full((1, 5), NAN, dtype=torch.float64)
        target[0, 2] = y
        values.append(loss(logits, target).item())
    assert values[0] == pytest.approx(0.3 * values[1] + 0.7 * values[2], rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_images_without_findings_and_batches_of_unknowns_are_finite(name: str) -> None:
    loss, formula = CASES[name]
    absent = np.zeros((4, 5))
    logits = t(LOGITS[:4]).requires_grad_()
    value = loss(logits, t(absent))
    value.backward()
    assert value.item() == pytest.approx(mean_of(formula, LOGITS[:4], absent), rel=1e-9)
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert loss(t(LOGITS), torch.full_like(t(TARGET), NAN)).item() == 0


@pytest.mark.parametrize("name", CASES)
def test_processes_divide_by_what_all_of_them_know(name: str) -> None:
    loss, _ = CASES[name]
    known = [int((~np.isnan(part)).sum()) for part in (TARGET[:3], TARGET[3:])]
    divisor = torch.tensor(sum(known) / 2, dtype=torch.float64)
    parts = [loss(t(LOGITS[rows]), t(TARGET[rows]), lambda values: divisor) for rows in (slice(0, 3), slice(3, 12))]
    assert sum(part.item() for part in parts) / 2 == pytest.approx(loss(t(LOGITS), t(TARGET)).item(), rel=1e-9)


PLAIN: dict[str, Callable[..., Tensor]] = {
    "bce": terms.bce,
    "weighted": partial(terms.weighted, weight=torch.ones(5)),
    "focal": terms.focal,
    "focal, half a power": partial(terms.focal, gamma=0.5),
    "asymmetric": terms.asymmetric,
    "asymmetric, half a power": partial(terms.asymmetric, gamma_neg=0.5),
    "class_balanced": partial(terms.class_balanced, weight=torch.ones(2, 5)),
    "ldam": partial(terms.ldam, margin=torch.ones(2, 5), scale=30.0),
}


def in_single(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A case with its tensors in fp32, as training has them."""
    if not isinstance(loss, partial):
        return loss
    keywords = {name: v.float() if isinstance(v, Tensor) else v for name, v in loss.keywords.items()}
    return partial(loss.func, *loss.args, **keywords)


ALL = PLAIN | {name: in_single(loss) for name, (loss, _) in CASES.items()}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16])
def test_logits_of_thirty_are_finite_in_half_precision(name: str, autocast: torch.dtype) -> None:
    """A classifier layer under autocast gives fp16; the loss is computed in fp32 and its slope reaches the layer."""
    layer = nn.Linear(1, 5, bias=False)
    nn.init.constant_(layer.weight, 30.0)
    x = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    target = torch.tensor([[0.0], [0.0], [1.0], [1.0]]).expand(4, 5)
    with torch.autocast("cpu", autocast):
        logits = layer(x)
        assert logits.dtype == autocast and logits.abs().min() == 30
        value = ALL[name](logits, target)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and value > 0
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()
    exact = ALL[name](logits.detach().float(), target)
    assert value.item() == exact.item()


@pytest.mark.parametrize("name", CASES)
def test_slopes_stay_finite_however_sure_the_logits_are(name: str) -> None:
    loss = in_single(CASES[name][0])
    for size in (0.0, 90.0, 1e4):
        logits = torch.tensor([[size] * 5, [-size] * 5, [size] * 5, [-size] * 5], requires_grad=True)
        target = torch.tensor([[0.0], [0.0], [1.0], [1.0]]).expand(4, 5)
        value = loss(logits, target)
        value.backward()
        assert value.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_in_their_limits_they_are_bce_and_the_asymmetric_loss() -> None:
    logits, target = t(LOGITS), t(TARGET)
    bce = terms.bce(logits, target).item()
    one, zero = torch.ones(2, 5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    plain = long_tail.weighted_asymmetric(logits, target, weight=one, gamma_pos=0, gamma_neg=0, clip=0)
    assert plain.item() == pytest.approx(bce, rel=1e-9)
    as_published = terms.asymmetric(logits, target, gamma_pos=1, gamma_neg=4, clip=0.05).item()
    assert long_tail.weighted_asymmetric(logits, target, weight=one).item() == pytest.approx(as_published, rel=1e-9)
    # Weights of 1 (sigmoid(0) = .5), no focus, no margin, one scale: twice BCE.
    flat = balanced(logits, target, alpha=0.5, beta=0.0, lam=1.0, kappa=0.0, gamma=0.0).item()
    assert flat == pytest.approx(2 * bce, rel=1e-9)
    assert long_tail.logit_adjusted(logits, target, log_odds=ODDS, tau=0).item() == pytest.approx(bce, rel=1e-9)
    assert long_tail.logit_adjusted(logits, target, log_odds=zero).item() == pytest.approx(bce, rel=1e-9)
    # Of what is present RAL without its series is BCE.
    present = torch.where(target == 1, target, NAN)
    series = long_tail.robust_asymmetric(logits, present, epsilon1=0, epsilon2=0)
    assert series.item() == pytest.approx(terms.bce(logits, present).item(), rel=1e-9)


def test_numbers_by_hand() -> None:
    assert WEIGHT[:, 0] == pytest.approx([math.exp(0.55), math.exp(0.45)])
    assert WEIGHT[:, 4] == pytest.approx([math.e, 1])
    assert ODDS.tolist() == pytest.approx(LOG_ODDS.tolist())
    nobody = np.zeros(1)
    assert long_tail.exponential_weights(nobody, nobody).ravel() == pytest.approx([math.e, 1])
    assert long_tail.prior_log_odds(nobody, nobody).tolist() == [0]
    # p = 1/2: of RAL .5 for the series (log 2 - 1/2 + 1.25/4), of what is absent q = .45.
    z, one, zero = torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1)
    half = math.log(2)
    assert long_tail.robust_asymmetric(z, one).item() == pytest.approx(half - 0.5 + 0.3125)
    absent = 0.45**4 * -math.log(0.55) * 1.0 * 0.25 * 0.95
    assert long_tail.robust_asymmetric(z, zero).item() == pytest.approx(absent, rel=1e-5)


def test_a_rare_finding_beside_a_frequent_one_keeps_its_weight_and_the_frequent_one_loses_it() -> None:
    """The point of distribution-balanced weights: an image of both is met because of the rare one."""
    count = torch.tensor([1000.0, 10.0])
    odds = torch.zeros(2)
    logits = torch.zeros(1, 2)
    costs = {}
    for name, target in {"both": [1.0, 1.0], "frequent": [1.0, NAN], "rare": [NAN, 1.0]}.items():
        logits = torch.zeros(1, 2, requires_grad=True)
        value = long_tail.distribution_balanced(logits, torch.tensor([target]), present_count=count, log_odds=odds)
        (slope,) = torch.autograd.grad(value, logits)
        known = 2 if name == "both" else 1
        costs[name] = (slope[0] * known).abs().tolist()
    assert costs["both"][0] < 0.25 * costs["frequent"][0]
    assert costs["both"][1] == pytest.approx(costs["rare"][1], rel=0.01)
