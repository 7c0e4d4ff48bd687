"""The maths of one step: masks of exactly k pixels, where gradients go, losses against closed forms, the consistency
objective.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from roi.losses import terms as losses
from roi.losses.gradnorm import FixedWeights
from roi.losses.objectives import consistency_terms
from roi.models import masks
from roi.models.roi_model import RoiModel


@pytest.mark.parametrize("score", ["constant", "saturated", "random", "few values"])
@pytest.mark.parametrize("k", [1, 7, 100, 255, 256])
def test_topk_keeps_exactly_k_whatever_the_ties(score: str, k: int) -> None:
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 1, 16, 16, generator=g)
    z = {"constant": noise * 0, "saturated": (noise * 100).sigmoid(), "random": noise, "few values": noise.round()}[
        score
    ]
    hard = masks.exact_topk(z, k)
    assert hard.unique().tolist() in ([0, 1], [1]) and hard.sum(dim=(1, 2, 3)).tolist() == [k] * 3
    for i in range(3):  # nothing kept lies below anything dropped, by more than what counts as a tie
        kept, dropped = z[i][hard[i] == 1], z[i][hard[i] == 0]
        assert not len(dropped) or kept.min() >= dropped.max() - z[i].std() / 512


@pytest.mark.parametrize("k", [102, 300])
def test_rounding_does_not_choose_among_equal_scores(k: int) -> None:
    """Enlarged cells are flat at the border, and another batch size rounds them otherwise."""
    g = torch.Generator().manual_seed(0)
    score = masks.upsample(torch.randn(8, 1, 4, 4, generator=g), (32, 32))
    noise = torch.randn(score.shape, generator=g) * 3e-7
    kth = score.flatten(1).topk(k).values[:, -1]
    assert (((score - kth[:, None, None, None]).abs() < 1e-6).sum((1, 2, 3)) > 1).any()  # there are ties to break
    assert torch.equal(masks.exact_topk(score + noise, k), masks.exact_topk(score, k))


def test_kept_pixels() -> None:
    assert (
        masks.kept_pixels(224, 224, 0.1) == 5018
        and masks.kept_pixels(4, 4, 0.0) == 1
        and masks.kept_pixels(4, 4, 1.0) == 16
    )


def test_straight_through_has_the_value_of_hard_and_the_gradient_of_soft() -> None:
    soft = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    hard = masks.exact_topk(soft, 5)
    m = masks.straight_through(hard, soft)
    assert torch.equal(m, hard)  # exactly 0/1, not nearly
    upstream = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    m.backward(upstream)
    assert soft.grad is not None and torch.equal(soft.grad, upstream)


def distinct(images: int = 3, size: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """(B, 1, S, S) normal scores, no two alike."""
    score = torch.randn(images, 1, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    assert all(len(row.unique()) == size * size for row in score)
    return score


def test_standardised_and_enlarged_are_closed_forms() -> None:
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 7 + 3
    flat = maps.numpy().reshape(2, 3, 20)
    expected = (flat - flat.mean(2, keepdims=True)) / flat.std(2, ddof=1, keepdims=True)
    np.testing.assert_allclose(masks.standardised(maps).numpy().reshape(2, 3, 20), expected, atol=1e-5)
    assert (masks.standardised(torch.full((1, 1, 4, 4), 3.0)) == 0).all()
    assert masks.upsample(maps, (4, 5)) is maps
    ramp = torch.tensor(
        [[[[0.0, 4.0], [8.0, 12.0]]]]
    )  # pixel centres at -1/4, 1/4, 3/4, 5/4 cells, cut off at the outer centres
    place = np.array([0, 0.25, 0.75, 1])
    np.testing.assert_allclose(
        masks.upsample(ramp, (4, 4))[0, 0].numpy(), 8 * place[:, None] + 4 * place[None], atol=1e-6
    )


@pytest.mark.parametrize("k", [1, 14, 100, 144])
def test_competing_puts_exactly_k_pixels_above_one_half_whatever_the_scale(k: int) -> None:
    score = distinct()
    s = masks.soft_topk(score, k)
    assert (
        torch.equal((s >= 0.5).double(), masks.exact_topk(score, k))
        and (s == 0.5).sum(dim=(1, 2, 3)).tolist() == [1] * 3
    )
    for scale, shift in ((1000.0, 0.0), (1.0, -40.0), (0.01, 5.0)):
        torch.testing.assert_close(masks.soft_topk(scale * score + shift, k), s, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(masks.soft_topk(score**3, k), s, atol=1e-2)  # its shape does matter


def test_competing_is_near_the_kept_share_and_neither_saturates_nor_dies() -> None:
    for share in (0.05, 0.1, 0.3):
        s = masks.soft_topk(distinct(size=64) * 300, masks.kept_pixels(64, 64, share))
        assert share < s.mean().item() < share + 0.1 and s.min() > 1e-5 and s.max() < 1 - 1e-5
    assert (distinct(size=64) * 300).sigmoid().mean().item() == pytest.approx(
        0.5, abs=0.02
    )  # which the plain soft mask does


def test_the_gradient_of_competing_takes_the_kth_value_for_a_constant() -> None:
    """Against finite differences of sigmoid((z - c) / tau) at c = z_(k)."""
    score, k, tau = distinct(2, 4), 5, 0.7
    kth = masks.standardised(score).flatten(1).sort(dim=1, descending=True).values[:, k - 1].view(2, 1, 1, 1)
    weight = distinct(2, 4, seed=1)

    def reference(z: torch.Tensor) -> torch.Tensor:
        return (((masks.standardised(z) - kth) / tau).sigmoid() * weight).sum()

    z = score.clone().requires_grad_()
    (found,) = torch.autograd.grad((masks.soft_topk(z, k, tau) * weight).sum(), z)
    expected = torch.empty_like(score)
    for n in range(score.numel()):
        step = torch.zeros(score.numel(), dtype=score.dtype)
        step[n] = 1e-5
        expected.view(-1)[n] = (reference(score + step.view_as(score)) - reference(score - step.view_as(score))) / 2e-5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    assert (found.flatten(1).abs() > 1e-4).all()  # every pixel competes


@pytest.mark.parametrize("place", [masks.random_mask, masks.cutout_mask])
def test_random_masks_keep_k_pixels_by_their_seed_alone(place) -> None:
    state = torch.get_rng_state()
    both = place(torch.tensor([5, 6]), (48, 40), 192)
    assert both.shape == (2, 1, 48, 40) and both.sum(dim=(1, 2, 3)).tolist() == [192, 192]
    assert torch.equal(both[1:], place(torch.tensor([6]), (48, 40), 192)) and not torch.equal(both[0], both[1])
    assert torch.equal(torch.get_rng_state(), state)
    many = place(torch.arange(400), (48, 40), 192).mean(dim=0)[0]
    assert many.max() < 0.35 and many[8:40, 8:32].min() > 0.02  # everywhere inside, nowhere always


def test_cutout_is_a_square() -> None:
    kept = masks.cutout_mask(torch.arange(3), (32, 32), 64)[:, 0]
    for mask in kept:
        y, x = mask.nonzero(as_tuple=True)
        assert (y.max() - y.min() + 1) <= 9 and (x.max() - x.min() + 1) <= 9


def test_bce_leaves_unknown_out_and_gives_it_no_gradient() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.tensor([[1, 0, math.nan], [0, math.nan, math.nan], [1, 1, 0], [math.nan] * 3])
    known = ~target.isnan()
    loss = losses.bce(logits, target)
    assert loss.item() == pytest.approx(
        F.binary_cross_entropy_with_logits(logits[known], target[known]).item(), rel=1e-6
    )
    loss.backward()
    assert logits.grad is not None and (logits.grad[~known] == 0).all() and (logits.grad[known] != 0).all()
    assert losses.bce(logits, torch.full_like(target, math.nan)).item() == 0


def test_terms_of_consistency_by_hand() -> None:
    full, other = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -1.0]])
    p, q = full.sigmoid(), other.sigmoid()
    assert losses.consist(full, other).item() == pytest.approx((p - q).abs().mean().item())
    assert losses.drop(full, other).item() == pytest.approx((q - p)[0, 0].item() / 2)
    soft = torch.zeros(1, 1, 4, 4)
    soft[..., 2:] = 1  # one vertical edge: 4 of 12 steps to the right
    assert losses.total_variation(soft).item() == pytest.approx(4 / 12)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 4.0])
def test_log_mean_exp_is_its_formula(sharpness: float) -> None:
    maps = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)) * 5
    expected = np.log(np.exp(sharpness * maps.double().numpy()).mean((2, 3))) / sharpness
    np.testing.assert_allclose(losses.log_mean_exp(maps, sharpness).numpy(), expected, rtol=1e-5)
    constant = torch.tensor([-3.0, 400.0])[None, :, None, None].expand(1, 2, 4, 5)
    torch.testing.assert_close(losses.log_mean_exp(constant, sharpness), torch.tensor([[-3.0, 400.0]]))


def test_log_mean_exp_goes_from_the_mean_to_the_maximum() -> None:
    maps = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses.log_mean_exp(maps.double(), 1e-4), maps.double().mean((2, 3)), atol=1e-3, rtol=0)
    torch.testing.assert_close(losses.log_mean_exp(maps, 1e3), maps.amax((2, 3)), atol=5e-3, rtol=0)


def test_lost_is_the_surprise_at_what_is_present_alone() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [30.0, -40.0, 1.0]], requires_grad=True)
    present = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    loss = losses.suppression_loss(logits, present)
    odds = np.exp(logits.detach().double().numpy())
    assert loss.item() == pytest.approx(
        np.log1p(odds)[present == 1].mean(), rel=1e-6
    )  # -log(1 - p) of the 4 that are present
    loss.backward()
    np.testing.assert_allclose(logits.grad, odds / (1 + odds) * present.numpy() / 4, rtol=1e-5)  # 0 where absent
    assert losses.suppression_loss(logits, torch.zeros_like(present)).item() == 0


class Mean(nn.Module):
    """A backbone that any mask changes: logits are linear in the mean pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean(dim=(2, 3)))


def make(mask: str) -> tuple[RoiModel, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RoiModel(Mean(), mask)
    g = torch.Generator().manual_seed(1)
    return (
        model,
        torch.randint(0, 256, (5, 1, 24, 24), dtype=torch.uint8, generator=g),
        torch.randint(0, 2, (5, 4), generator=g).float(),
    )


@pytest.mark.parametrize("term", ["consist", "drop", "sparse", "tv"])
def test_the_mask_net_receives_gradient_from_each_of_its_terms(term: str) -> None:
    model, pixels, target = make("conv")
    with torch.no_grad():  # p_drop above p_full somewhere, so that drop is awake
        model.backbone.head.weight.mul_(20)
    consistency_terms(model, pixels, target, 0.1, torch.zeros(5, dtype=torch.int64))[term].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.mask_net.parameters())


def test_full_gives_the_mask_net_no_gradient_and_hard_masks_keep_k() -> None:
    model, pixels, target = make("conv")
    consistency_terms(model, pixels, target, 0.1, torch.zeros(5, dtype=torch.int64))["full"].backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.mask_net.parameters())
    views = model(pixels, 0.1)
    assert views.binary_mask.sum(dim=(1, 2, 3)).tolist() == [58] * 5 and set(views.binary_mask.unique().tolist()) == {
        0.0,
        1.0,
    }
    x = model.normalise(pixels)
    torch.testing.assert_close(
        views.logits_crop, model.backbone(x * views.binary_mask)
    )  # one forward of 3B = three forwards
    torch.testing.assert_close(views.logits_drop, model.backbone(x * (1 - views.binary_mask)))


def test_normalise_is_totensor_and_normalize() -> None:
    from torchvision.transforms import functional as T

    model, pixels, _ = make("none")
    rgb = pixels[0, 0].numpy()[:, :, None].repeat(3, axis=2)
    expected = T.normalize(T.to_tensor(rgb), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(model.normalise(pixels)[0], expected, rtol=1e-6, atol=1e-6)


def test_terms_by_mask() -> None:
    names = {
        mask: set(consistency_terms(*make(mask), 0.1, torch.ones(5, dtype=torch.int64)))
        for mask in ("conv", "random", "cutout", "none")
    }
    assert names["none"] == {"full"} and names["random"] == names["cutout"] == {"full", "consist", "drop", "mask_kept"}
    assert names["conv"] == {"full", "consist", "drop", "sparse", "tv", "mask_kept", "mask_mean", "mask_tv"}


def test_a_weight_of_zero_takes_its_term_out() -> None:
    terms = {"full": torch.tensor(2.0), "consist": torch.tensor(math.nan), "mask_mean": torch.tensor(9.0)}
    assert FixedWeights({"full": 0.5, "consist": 0.0})(terms).item() == 1.0


@pytest.mark.parametrize("kind", ["GroupNorm", "plain", "LayerNorm"])
@pytest.mark.parametrize("mask", ["conv", "random"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_one_forward_of_three_views_has_the_gradients_of_three_forwards(
    dtype: torch.dtype, mask: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No layer looks across the batch: each parameter gets the same gradient, to the last digits."""
    if dtype == torch.float64:
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # what is cast to fp32 stays fp64 here
    size, images_ = 32, 6
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norms = {
            "GroupNorm": lambda d, s: nn.GroupNorm(4, d),
            "plain": lambda d, s: nn.Identity(),
            "LayerNorm": lambda d, s: nn.LayerNorm([d, s, s]),
        }
        widths = [(3, 8, 16), (8, 16, 8), (16, 16, 4)]
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), norms[kind](b, s), nn.GELU()) for a, b, s in widths
        ]
        backbone = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
        model = RoiModel(backbone, mask).to(dtype)
    g = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (images_, 1, size, size), dtype=torch.uint8, generator=g)
    target, seeds = torch.randint(0, 2, (images_, 4), generator=g).float(), torch.arange(images_)
    weights = {"full": 1.0, "consist": 1.0, "drop": 0.5, "sparse": 1e-2, "tv": 1e-2}

    def gradients(terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.stack([w * terms[name] for name, w in weights.items() if name in terms]).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    found = gradients(consistency_terms(model, pixels, target, 0.1, seeds))
    x, k = model.normalise(pixels), masks.kept_pixels(size, size, 0.1)
    if mask == "conv":
        soft = model.mask_net(x).sigmoid()
        m = masks.straight_through(masks.exact_topk(model.mask_net(x), k), soft)
    else:
        m = masks.random_mask(seeds, (size, size), k)
    full, crop, drop = (backbone(view) for view in (x, x * m, x * (1 - m)))
    terms = {"full": losses.bce(full, target), "consist": losses.consist(full, crop), "drop": losses.drop(full, drop)}
    assert terms["drop"] > 0
    expected = gradients(
        terms | ({"sparse": soft.mean(), "tv": losses.total_variation(soft)} if mask == "conv" else {})
    )
    for name, b in expected.items():
        near = 1e-12 if dtype == torch.float64 else 1e-5
        assert b.dtype == dtype and b.norm() > 1e-6 and (found[name] - b).norm() <= near * b.norm(), name
