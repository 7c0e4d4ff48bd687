"""Losses of labels against formulas written out in numpy, numbers computed by hand, the losses that they become in
their limits; nothing where unknown.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from tiny_run import Net
from torch import Tensor

from roi.counter_rng import row_seeds
from roi.losses import long_tail
from roi.losses import terms as losses
from roi.losses.objectives import EvidenceOptions, consistency_terms, evidence_terms
from roi.models.roi_model import ModelOptions, RoiModel
from roi.training.objective import make_label_loss
from roi.training.objective_flags import LOSSES

NAN = math.nan
RNG = np.random.default_rng(2)
LOGITS = RNG.normal(size=(9, 5)) * 4
TARGET = RNG.choice([0, 1, 0.3, 0.75, NAN], (9, 5), p=[0.3, 0.3, 0.1, 0.1, 0.2])
TARGET[:, 4] = NAN  # nothing is known of the last finding
PRESENT, ABSENT = np.array([20.0, 3, 700, 0, 0]), np.array([80.0, 996, 50, 400, 0])
WEIGHT, BALANCED, MARGIN = (
    losses.positive_weights(PRESENT, ABSENT, 90),
    losses.balanced_weights(PRESENT, ABSENT, 0.99),
    losses.margins(PRESENT, ABSENT, 0.5),
)


def t(values: np.ndarray) -> Tensor:
    return torch.tensor(values)


def log_p(z: np.ndarray) -> np.ndarray:
    return np.log(1 / (1 + np.exp(-z)))


def p(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def asl(z: np.ndarray, pos: float, neg: float, clip: float) -> tuple[np.ndarray, np.ndarray]:
    q = np.maximum(p(z) - clip, 0)
    return -((1 - p(z)) ** pos) * log_p(z), -(q**neg) * np.log(1 - q)


# loss, and what a cell costs if its finding is present, and if it is absent
CASES: dict[str, tuple[Callable[..., Tensor], Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]]] = {
    "bce": (losses.bce, lambda z: (-log_p(z), -log_p(-z))),
    "weighted": (partial(losses.weighted, weight=t(WEIGHT)), lambda z: (-WEIGHT * log_p(z), -log_p(-z))),
    "focal": (losses.focal, lambda z: (-0.25 * (1 - p(z)) ** 2 * log_p(z), -0.75 * p(z) ** 2 * log_p(-z))),
    "focal, half a power, no alpha": (
        partial(losses.focal, alpha=-1, gamma=0.5),
        lambda z: (-((1 - p(z)) ** 0.5) * log_p(z), -(p(z) ** 0.5) * log_p(-z)),
    ),
    "asymmetric": (losses.asymmetric, lambda z: asl(z, 0, 4, 0.05)),
    "asymmetric, half a power": (
        partial(losses.asymmetric, gamma_pos=1, gamma_neg=0.5, clip=0.2),
        lambda z: asl(z, 1, 0.5, 0.2),
    ),
    "asymmetric, no clip": (
        partial(losses.asymmetric, gamma_pos=0.5, gamma_neg=3, clip=0),
        lambda z: asl(z, 0.5, 3, 0),
    ),
    "class_balanced": (
        partial(losses.class_balanced, weight=t(BALANCED)),
        lambda z: (-BALANCED[0] * log_p(z), -BALANCED[1] * log_p(-z)),
    ),
    "ldam": (
        partial(losses.ldam, margin=t(MARGIN), scale=3.0),
        lambda z: (-log_p(3 * (z - MARGIN[0])), -log_p(-3 * (z + MARGIN[1]))),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_the_mean_over_known_cells_of_what_is_to_be_expected(name: str) -> None:
    loss, cells = CASES[name]
    present, absent = cells(LOGITS)
    known = ~np.isnan(TARGET)
    expected = (TARGET * present + (1 - TARGET) * absent)[known].mean()
    logits = t(LOGITS).requires_grad_()
    found = loss(logits, t(TARGET))
    assert found.shape == () and found.item() == pytest.approx(expected, rel=1e-9)
    found.backward()
    assert logits.grad is not None and (logits.grad[~t(known)] == 0).all()
    step = 1e-6  # the slope, by differences of the formula
    up, down = (
        np.where(known, TARGET * a + (1 - TARGET) * b, 0) for a, b in (cells(LOGITS + step), cells(LOGITS - step))
    )
    np.testing.assert_allclose(logits.grad.numpy(), (up - down) / (2 * step) / known.sum(), rtol=1e-5, atol=1e-8)
    single = loss(t(LOGITS).float(), t(TARGET).float())
    assert single.item() == pytest.approx(expected, rel=1e-5)
    assert (
        loss(t(LOGITS), torch.full_like(t(TARGET), NAN)).item() == 0
    )  # nothing is known: nothing, and no division by it


@pytest.mark.parametrize("name", CASES)
def test_processes_divide_by_what_all_of_them_know(name: str) -> None:
    """The mean over two processes equals the loss of their images together, though they know unequally much."""
    loss, _ = CASES[name]
    parts = [(slice(0, 2), ~np.isnan(TARGET[:2])), (slice(2, 9), ~np.isnan(TARGET[2:]))]
    counted = torch.tensor(float(sum(known.sum() for _, known in parts)) / 2, dtype=torch.float64)
    found = [loss(t(LOGITS[rows]), t(TARGET[rows]), lambda values: counted).item() for rows, _ in parts]
    assert sum(found) / 2 == pytest.approx(loss(t(LOGITS), t(TARGET)).item(), rel=1e-9)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [0.0, 30.0, 90.0, 1e4])
def test_slopes_stay_finite_however_sure_the_logits_are(name: str, size: float) -> None:
    logits = torch.tensor([[size] * 5, [-size] * 5, [size] * 5, [-size] * 5], requires_grad=True)
    target = torch.tensor([[0.0], [0.0], [1.0], [1.0]]).expand(4, 5)
    loss = CASES[name][0](logits, target)
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_a_root_has_a_finite_slope_at_the_clip_itself() -> None:
    logits = torch.zeros(1, 1, requires_grad=True)  # p = .5, the clip
    losses.asymmetric(logits, torch.zeros(1, 1), gamma_neg=0.5, clip=0.5).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_numbers_by_hand() -> None:
    z, one, zero = torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1)  # p = 1/2
    half = math.log(2)
    assert losses.focal(z, one).item() == pytest.approx(0.25 * 0.25 * half) and losses.focal(
        z, zero
    ).item() == pytest.approx(0.75 * 0.25 * half)
    assert losses.asymmetric(z, one).item() == pytest.approx(half) and losses.asymmetric(
        z, zero
    ).item() == pytest.approx(-(0.45**4) * math.log(0.55))
    assert losses.asymmetric(torch.full((1, 1), -3.0), zero).item() == 0  # p = .047: below the clip, and right
    assert losses.weighted(z, one, weight=torch.tensor([4.0])).item() == pytest.approx(4 * half)
    assert WEIGHT.tolist() == [4, 90, 50 / 700, 90, 0]  # 332 and infinitely many are cut
    eighty, twenty = (1 - 0.99**80) / 0.01, (1 - 0.99**20) / 0.01  # effective numbers: 55.2 and 18.2
    assert BALANCED[:, 0] == pytest.approx(
        [2 * eighty / (eighty + twenty), 2 * twenty / (eighty + twenty)]
    ) and eighty == pytest.approx(55.25, abs=0.01)
    assert losses.balanced_weights(PRESENT, ABSENT, 0).tolist() == [[1] * 5, [1] * 5]
    assert losses.balanced_weights(PRESENT, ABSENT, 1)[:, 0] == pytest.approx([1.6, 0.4])  # as 1/20 to 1/80
    assert losses.margins(np.array([16.0, 81]), np.array([256.0, 10000]), 0.5).ravel() == pytest.approx(
        [0.5, 1 / 3, 0.25, 0.1]
    )
    assert MARGIN.max() == 0.5 and np.isfinite(MARGIN).all()


def test_in_their_limits_they_are_bce() -> None:
    bce = losses.bce(t(LOGITS), t(TARGET)).item()
    one = torch.ones(2, 5, dtype=torch.float64)
    for loss in (
        partial(losses.focal, alpha=-1, gamma=0),
        partial(losses.asymmetric, gamma_pos=0, gamma_neg=0, clip=0),
        partial(losses.weighted, weight=one[0]),
        partial(losses.class_balanced, weight=one),
        partial(losses.ldam, margin=0 * one),
    ):
        assert loss(t(LOGITS), t(TARGET)).item() == pytest.approx(bce, rel=1e-9)
    assert losses.focal(t(LOGITS), t(TARGET), alpha=0.5, gamma=0).item() == pytest.approx(bce / 2, rel=1e-9)


def test_images_are_counted_where_they_are_known_and_in_parts_where_they_are_uncertain() -> None:
    present, absent = losses.counted(np.array([[1, NAN, 0.25], [0, NAN, 1], [1, NAN, NAN]], dtype=np.float32))
    assert present.tolist() == [2, 0, 1.25] and absent.tolist() == [1, 0, 0.75]


FLAGS = argparse.Namespace(
    pos_weight_cap=2.0,
    focal_alpha=0.4,
    focal_gamma=1.5,
    asl_gamma_pos=0.5,
    asl_gamma_neg=3.0,
    asl_clip=0.1,
    cb_beta=0.9,
    ldam_margin=0.7,
    ldam_scale=2.0,
    wasl_gamma_pos=1.5,
    ral_lambda=1.2,
    db_mu=0.3,
    db_lambda=5.0,
    db_kappa=0.1,
    la_tau=0.5,
)


@pytest.mark.parametrize("name", LOSSES)
def test_flags_reach_their_loss_and_nothing_but_the_term_full(name: str) -> None:
    targets = np.random.default_rng(0).choice([0, 1, NAN], (40, 3), p=[0.6, 0.3, 0.1]).astype(np.float32)
    counts = losses.counted(targets)
    logits, target = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.from_numpy(targets[:6])
    loss = make_label_loss(argparse.Namespace(**vars(FLAGS), loss=name), lambda: targets, torch.device("cpu"))
    log_odds = t(long_tail.prior_log_odds(*counts)).float()
    expected = {
        "bce": losses.bce,
        "weighted": partial(losses.weighted, weight=t(losses.positive_weights(*counts, 2.0)).float()),
        "focal": partial(losses.focal, alpha=0.4, gamma=1.5),
        "asymmetric": partial(losses.asymmetric, gamma_pos=0.5, gamma_neg=3.0, clip=0.1),
        "class_balanced": partial(losses.class_balanced, weight=t(losses.balanced_weights(*counts, 0.9)).float()),
        "ldam": partial(losses.ldam, margin=t(losses.margins(*counts, 0.7)).float(), scale=2.0),
        "weighted_asymmetric": partial(
            long_tail.weighted_asymmetric,
            weight=t(long_tail.exponential_weights(*counts)).float(),
            gamma_pos=1.5,
            gamma_neg=3.0,
            clip=0.1,
        ),
        "ral": partial(long_tail.robust_asymmetric, lam=1.2, gamma_pos=0.5, gamma_neg=3.0, clip=0.1),
        "distribution_balanced": partial(
            long_tail.distribution_balanced,
            present_count=t(counts[0]).float(),
            log_odds=log_odds,
            mu=0.3,
            lam=5.0,
            kappa=0.1,
        ),
        "logit_adjusted": partial(long_tail.logit_adjusted, log_odds=log_odds, tau=0.5),
    }[name]
    assert torch.equal(loss(logits, target, losses.count_of_batch), expected(logits, target))
    pixels = torch.randint(0, 256, (6, 1, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    seeds = row_seeds(0, 0, torch.arange(6))
    consistency = partial(consistency_terms, keep_ratio=0.2)
    evidence = partial(evidence_terms, options=EvidenceOptions(0.2, 0.5))
    for mask, terms in (
        ("conv", consistency),
        ("features", evidence),
        ("features", partial(evidence, warm_up=True)),
    ):
        torch.manual_seed(0)
        model = RoiModel(Net(), mask, ModelOptions(per_class=mask == "features"), img_size=20).eval()
        plain = terms(model, pixels, target, seeds=seeds)
        other = terms(model, pixels, target, seeds=seeds, label_loss=loss)
        assert list(plain) == list(other) and all(torch.equal(plain[k], other[k]) for k in plain if k != "full")
        assert torch.equal(plain["full"], other["full"]) == (name == "bce")
