"""The maths of one step: masks of exactly k pixels, where gradients go, losses against closed forms, the consistency objective, GradNorm."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from roi import losses, masks
from roi.gradnorm import FixedWeights, GradNorm
from roi.model import RoiModel
from roi.objective import consistency_terms


@pytest.mark.parametrize("score", ["constant", "saturated", "random", "few values"])
@pytest.mark.parametrize("k", [1, 7, 100, 255, 256])
def test_topk_keeps_exactly_k_whatever_the_ties(score: str, k: int) -> None:
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 1, 16, 16, generator=g)
    z = {"constant": noise * 0, "saturated": (noise * 100).sigmoid(), "random": noise, "few values": noise.round()}[score]
    hard = masks.exact_topk(z, k)
    assert hard.unique().tolist() in ([0, 1], [1]) and hard.sum(dim=(1, 2, 3)).tolist() == [k] * 3
    for i in range(3):  # nothing kept lies below anything dropped
        kept, dropped = z[i][hard[i] == 1], z[i][hard[i] == 0]
        assert not len(dropped) or kept.min() >= dropped.max()


def test_kept_pixels() -> None:
    assert masks.kept_pixels(224, 224, 0.1) == 5018 and masks.kept_pixels(4, 4, 0.0) == 1 and masks.kept_pixels(4, 4, 1.0) == 16


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
    assert masks.enlarged(maps, (4, 5)) is maps
    ramp = torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]])  # pixel centres at -1/4, 1/4, 3/4, 5/4 cells, cut off at the outer centres
    place = np.array([0, 0.25, 0.75, 1])
    np.testing.assert_allclose(masks.enlarged(ramp, (4, 4))[0, 0].numpy(), 8 * place[:, None] + 4 * place[None], atol=1e-6)


@pytest.mark.parametrize("k", [1, 14, 100, 144])
def test_competing_puts_exactly_k_pixels_above_one_half_whatever_the_scale(k: int) -> None:
    score = distinct()
    s = masks.competing(score, k)
    assert torch.equal((s >= 0.5).double(), masks.exact_topk(score, k)) and (s == 0.5).sum(dim=(1, 2, 3)).tolist() == [1] * 3
    for scale, shift in ((1000.0, 0.0), (1.0, -40.0), (0.01, 5.0)):
        torch.testing.assert_close(masks.competing(scale * score + shift, k), s, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(masks.competing(score**3, k), s, atol=1e-2)  # its shape does matter


def test_competing_is_near_the_kept_share_and_neither_saturates_nor_dies() -> None:
    for share in (0.05, 0.1, 0.3):
        s = masks.competing(distinct(size=64) * 300, masks.kept_pixels(64, 64, share))
        assert share < s.mean().item() < share + 0.1 and s.min() > 1e-5 and s.max() < 1 - 1e-5
    assert (distinct(size=64) * 300).sigmoid().mean().item() == pytest.approx(0.5, abs=0.02)  # which the plain soft mask does


def test_the_gradient_of_competing_takes_the_kth_value_for_a_constant() -> None:
    """Against finite differences of sigmoid((z - c) / tau) at c = z_(k)."""
    score, k, tau = distinct(2, 4), 5, 0.7
    kth = masks.standardised(score).flatten(1).sort(dim=1, descending=True).values[:, k - 1].view(2, 1, 1, 1)
    weight = distinct(2, 4, seed=1)

    def reference(z: torch.Tensor) -> torch.Tensor:
        return (((masks.standardised(z) - kth) / tau).sigmoid() * weight).sum()

    z = score.clone().requires_grad_()
    (found,) = torch.autograd.grad((masks.competing(z, k, tau) * weight).sum(), z)
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
    both = place([5, 6], (48, 40), 192)
    assert both.shape == (2, 1, 48, 40) and both.sum(dim=(1, 2, 3)).tolist() == [192, 192]
    assert torch.equal(both[1:], place([6], (48, 40), 192)) and not torch.equal(both[0], both[1])
    assert torch.equal(torch.get_rng_state(), state)
    many = place(list(range(400)), (48, 40), 192).mean(dim=0)[0]
    assert many.max() < 0.35 and many[8:40, 8:32].min() > 0.02  # everywhere inside, nowhere always


def test_cutout_is_a_square() -> None:
    kept = masks.cutout_mask([0, 1, 2], (32, 32), 64)[:, 0]
    for mask in kept:
        y, x = mask.nonzero(as_tuple=True)
        assert (y.max() - y.min() + 1) <= 9 and (x.max() - x.min() + 1) <= 9


def test_bce_leaves_unknown_out_and_gives_it_no_gradient() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.tensor([[1, 0, math.nan], [0, math.nan, math.nan], [1, 1, 0], [math.nan] * 3])
    known = ~target.isnan()
    loss = losses.bce(logits, target)
    assert loss.item() == pytest.approx(F.binary_cross_entropy_with_logits(logits[known], target[known]).item(), rel=1e-6)
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


def test_pooled_is_log_mean_exp_over_the_cells() -> None:
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 5
    np.testing.assert_allclose(losses.pooled(maps).numpy(), np.log(np.exp(maps.double().numpy()).mean((2, 3))), rtol=1e-5)
    constant = torch.tensor([[-3.0, 400.0]])[:, :, None, None].expand(1, 2, 7, 7)  # exp(400) overflows
    torch.testing.assert_close(losses.pooled(constant), torch.tensor([[-3.0, 400.0]]))


def test_lost_is_the_surprise_at_what_is_present_alone() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [30.0, -40.0, 1.0]], requires_grad=True)
    present = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    loss = losses.lost(logits, present)
    odds = np.exp(logits.detach().double().numpy())
    assert loss.item() == pytest.approx(np.log1p(odds)[present == 1].mean(), rel=1e-6)  # -log(1 - p) of the 4 that are present
    loss.backward()
    np.testing.assert_allclose(logits.grad, odds / (1 + odds) * present.numpy() / 4, rtol=1e-5)  # 0 where absent
    assert losses.lost(logits, torch.zeros_like(present)).item() == 0


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
    return model, torch.randint(0, 256, (5, 1, 24, 24), dtype=torch.uint8, generator=g), torch.randint(0, 2, (5, 4), generator=g).float()


@pytest.mark.parametrize("term", ["consist", "drop", "sparse", "tv"])
def test_the_mask_net_receives_gradient_from_each_of_its_terms(term: str) -> None:
    model, pixels, target = make("conv")
    with torch.no_grad():  # p_drop above p_full somewhere, so that drop is awake
        model.backbone.head.weight.mul_(20)
    consistency_terms(model, pixels, target, 0.1, [0] * 5)[term].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.mask_net.parameters())


def test_full_gives_the_mask_net_no_gradient_and_hard_masks_keep_k() -> None:
    model, pixels, target = make("conv")
    consistency_terms(model, pixels, target, 0.1, [0] * 5)["full"].backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.mask_net.parameters())
    views = model(pixels, 0.1)
    assert views.hard.sum(dim=(1, 2, 3)).tolist() == [58] * 5 and set(views.hard.unique().tolist()) == {0.0, 1.0}
    x = model.normalise(pixels)
    torch.testing.assert_close(views.crop, model.backbone(x * views.hard))  # one forward of 3B = three forwards
    torch.testing.assert_close(views.drop, model.backbone(x * (1 - views.hard)))


def test_normalise_is_totensor_and_normalize() -> None:
    from torchvision.transforms import functional as T

    model, pixels, _ = make("none")
    rgb = pixels[0, 0].numpy()[:, :, None].repeat(3, axis=2)
    expected = T.normalize(T.to_tensor(rgb), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(model.normalise(pixels)[0], expected, rtol=1e-6, atol=1e-6)


def test_terms_by_mask() -> None:
    names = {mask: set(consistency_terms(*make(mask), 0.1, [1] * 5)) for mask in ("conv", "random", "cutout", "none")}
    assert names["none"] == {"full"} and names["random"] == names["cutout"] == {"full", "consist", "drop", "mask_kept"}
    assert names["conv"] == {"full", "consist", "drop", "sparse", "tv", "mask_kept", "mask_mean", "mask_tv"}


def test_a_weight_of_zero_takes_its_term_out() -> None:
    terms = {"full": torch.tensor(2.0), "consist": torch.tensor(math.nan), "mask_mean": torch.tensor(9.0)}
    assert FixedWeights({"full": 0.5, "consist": 0.0})(terms).item() == 1.0


def test_gradnorm_evens_out_gradients_of_100_to_1() -> None:
    """Two tasks that train at the same rate, one with gradients 100 times as large: its weight must fall to 1/100 of the other's."""
    shared = nn.Parameter(torch.ones(4))
    balance = GradNorm({"big": 1.0, "small": 1.0}, [shared], alpha=1.5)
    for _ in range(600):
        base = (shared * torch.arange(1.0, 5.0)).sum()
        total = balance({"big": 100 * base, "small": base})
    assert balance.weights["big"] / balance.weights["small"] == pytest.approx(0.01, rel=0.15)
    assert sum(balance.weights.values()) == pytest.approx(2.0) and total.requires_grad


def test_gradnorm_slope_is_the_gradient_of_its_own_loss() -> None:
    """d/dw_i of sum |w_i g_i - target_i|, target constant (Chen et al. 2018, eq. 2), by autograd: the direction of each step."""
    g, now, first, alpha = torch.tensor([3.0, 1.0, 0.2]), torch.tensor([1.0, 2.0, 0.5]), torch.tensor([2.0, 2.0, 2.0]), 1.5
    w = torch.tensor([1.0, 0.5, 0.7], requires_grad=True)
    rate = now / first
    target = ((w * g).mean() * (rate / rate.mean()) ** alpha).detach()
    (slope,) = torch.autograd.grad((w * g - target).abs().sum(), w)
    shared = nn.Parameter(torch.ones(()))
    balance = GradNorm(dict(zip("abc", w.tolist(), strict=True)), [shared], alpha)
    balance.first = dict(zip("abc", first.tolist(), strict=True))
    before = dict(balance.weights)
    balance({c: g[i] * (shared - 1) + now[i] for i, c in enumerate("abc")})
    ratio = {c: math.log(balance.weights[c] / before[c]) for c in "abc"}  # up to the common factor that keeps the sum
    order = np.argsort([ratio[c] for c in "abc"], kind="stable")
    assert [np.sign(-s) for s in slope.tolist()] == [-1.0, 1.0, 1.0] and order[0] == 0
    assert ratio["b"] - ratio["a"] == pytest.approx(2 * balance.lr, rel=1e-3)  # Adam's first step is lr in each direction
    assert sum(balance.weights.values()) == pytest.approx(sum(before.values()))


def test_gradnorm_state_round_trip_and_excluded_terms() -> None:
    shared = nn.Parameter(torch.ones(2))
    a, b = (GradNorm({"x": 1.0, "y": 1.0, "off": 0.0}, [shared]) for _ in range(2))

    def terms() -> dict[str, torch.Tensor]:
        return {"x": 3 * shared.sum(), "y": (shared**2).sum(), "off": 7 * shared.sum()}

    for _ in range(5):
        a(terms())
    b.load_state_dict(a.state_dict())
    a(terms()), b(terms())
    assert a.weights == b.weights and a.weights["off"] == 0
