"""The evidence objective: who learns from which term, terms against their definition, what chance draws, what the
warm-up leaves out; fills of holes.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roi.losses import terms as losses
from roi.losses.gradnorm import GradNorm, Taps
from roi.losses.loss_terms import LAYERS, OBJECTIVES
from roi.losses.objectives import LIGHT, EvidenceOptions, RandomViews, consistency_terms, evidence_terms
from roi.models import masks
from roi.models.roi_model import FILLS, ModelOptions, RoiModel

SIZE, K, RATIO, SHARPNESS = 32, 4, 0.1, 4.0
KEPT = masks.kept_pixels(SIZE, SIZE, RATIO)
SEEDS = torch.tensor([4, 8, 1, 22, 6, 17])  # the first two lose one finding
SINGLE, ALL = (
    torch.tensor([3, 4, 5, 7, 8, 9]),
    torch.tensor([1, 2, 6, 16, 17, 22]),
)  # each loses one finding; each loses all
FINDINGS = (True, True, True, False)  # the last class is Normal


def block(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class Net(nn.Module):
    """Stages of 4 x 4 and 2 x 2 cells, batch norm, and dropout if asked."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(block(3, 8), block(8, 8), block(8, 12), nn.Dropout(dropout), block(12, 16))
        self.head = nn.Linear(16, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(dim=(2, 3)))


def make(mask: str = "features", per_class: bool = True, fill: str = "mean", dropout: float = 0.0) -> RoiModel:
    """Statistics of batch norm as after some training, so that train and eval mode differ but little."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RoiModel(Net(dropout), mask, ModelOptions(per_class, fill), img_size=SIZE, findings=FINDINGS).train()
        for _ in range(20):
            model.backbone(model.normalise(images()))
        with torch.no_grad():
            model.backbone.head.weight.mul_(5)
    return model


def images(seed: int = 1) -> Tensor:
    coarse = torch.randint(0, 256, (len(SEEDS), 1, 8, 8), generator=torch.Generator().manual_seed(seed)).float()
    return F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear").to(torch.uint8)


def targets() -> Tensor:
    """(6, 4) with unknowns; row 4 has no finding, row 5 is Normal."""
    n = math.nan
    return torch.tensor([[1, 0, 1, 0], [0, 1, n, 0], [1, 1, 1, 0], [n, n, 1, 0], [0, 0, n, 0], [0, 0, 0, 1]])


def terms(
    model: RoiModel, target: Tensor | None = None, random_views: float = 0.5, seeds: Tensor = SEEDS, **more: bool
) -> dict[str, Tensor]:
    return evidence_terms(
        model,
        images(),
        targets() if target is None else target,
        EvidenceOptions(RATIO, random_views, SHARPNESS),
        seeds,
        **more,
    )


def learns(module: nn.Module) -> set[str]:
    """The parameters that have a gradient.

    The last bias moves a map as a whole, which masks do not see; its noise is left out.
    """
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-6}


@pytest.mark.parametrize("mask", ["features", "conv"])
@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("term", OBJECTIVES["evidence"])
def test_who_learns_from_which_term(term: str, per_class: bool, mask: str) -> None:
    """consist: both; full: the classifier alone; drop and locate: the mask net alone."""
    model = make(mask, per_class)
    found = terms(model)
    assert ("locate" in found) == per_class
    if term not in found:
        return
    found[term].backward()
    last = {name for name, p in model.mask_net.named_parameters() if p.ndim == 1}  # biases and norms may see little
    weights = {name for name, _ in model.mask_net.named_parameters()} - last
    assert learns(model.mask_net) >= weights if term != "full" else not learns(model.mask_net)
    assert (
        ({"head.weight", "layers.0.0.weight"} <= learns(model.backbone))
        if term in ("full", "consist")
        else not learns(model.backbone)
    )
    if term in ("drop", "locate"):
        assert all(p.grad is None for p in model.backbone.parameters())  # not even zeros, which AdamW would decay by


@pytest.mark.parametrize("mask", ["features", "conv"])
def test_a_dropped_map_is_that_of_its_finding(mask: str) -> None:
    """Where one finding is lost its map alone learns; where all are lost every map of a finding does."""
    target = torch.tensor([0.0, 1, 0, 1]).expand(len(SEEDS), K)
    for seeds, rows in ((SINGLE, [1]), (ALL, [0, 1, 2])):
        assert RandomViews.draw(seeds, target, (SIZE, SIZE), 0.5).loses_one.all() == (rows == [1])
        model = make(mask)
        terms(model, target, seeds=seeds)["drop"].backward()
        weight = model.mask_net.layers[-1].weight
        assert weight.grad is not None and weight.grad.flatten(1).abs().amax(1).nonzero().flatten().tolist() == rows


def by_hand(model: RoiModel, target: Tensor, random_views: float) -> dict[str, float]:
    """The definition, in eval mode."""
    x, findings = model.normalise(images()), target.clone()
    findings[:, ~torch.tensor(FINDINGS)] = math.nan
    chance = RandomViews.draw(SEEDS, findings, (SIZE, SIZE), random_views)
    assert (
        chance.loses_one.tolist() == [True, True] + [False] * 4 and (chance.to_lose[0] != target[0].nan_to_num()).any()
    )
    full, maps = model.logits_and_maps(model.apply_mask(x, chance.light_mask, SEEDS))
    hard = masks.exact_topk(model.combine_maps(maps, full, (SIZE, SIZE)), KEPT)
    gone, lose = hard.clone(), findings == 1
    if model.per_class:
        for n in chance.loses_one.nonzero().flatten().tolist():
            (k,) = chance.to_lose[n].nonzero().flatten().tolist()
            gone[n : n + 1] = masks.exact_topk(
                F.interpolate(maps[n : n + 1, k : k + 1], size=(SIZE, SIZE), mode="bilinear"), KEPT
            )
            lose[n] = torch.arange(K) == k

    def bce(p: Tensor, of: Tensor) -> float:
        return F.binary_cross_entropy(p.double()[~of.isnan()], of.double()[~of.isnan()]).item()

    crop, drop = (model.backbone(model.apply_mask(x, m, SEEDS)).sigmoid() for m in (hard, 1 - gone))
    found = {
        "full": bce(full.sigmoid(), target),
        "consist": bce(crop, target),
        "drop": -(1 - drop.double()).log()[lose].mean().item(),
    }
    return found | (
        {"locate": bce((((SHARPNESS * maps).exp().mean((2, 3)).log()) / SHARPNESS).sigmoid(), findings)}
        if model.per_class
        else {}
    )


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(
    ("mask", "per_class"), [("features", True), ("features", False), ("conv", True), ("conv", False)]
)
def test_terms_are_their_definition(mask: str, per_class: bool, fill: str) -> None:
    model = make(mask, per_class, fill).eval()
    with torch.no_grad():
        found, expected = terms(model), by_hand(model, targets(), 0.5)
    assert set(found) == {*expected, "mask_kept", "mask_mean", "mask_tv"} and found[
        "mask_kept"
    ].item() == pytest.approx(KEPT / SIZE**2)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-3), name


def test_unknown_adds_nothing_to_any_term() -> None:
    """A batch with an image of which nothing is known gives the terms of the batch without it; a gap is no absence."""
    model, target = make("conv").eval(), targets()  # pixels, not cells: no ties for batches of another size to break
    blank = target.clone()
    blank[2] = math.nan
    rest = [0, 1, 3, 4, 5]
    with torch.no_grad():
        found = terms(model, blank)
        alone = evidence_terms(model, images()[rest], target[rest], EvidenceOptions(RATIO, 0.5, SHARPNESS), SEEDS[rest])
        absent = terms(model, blank.nan_to_num())
    for name in OBJECTIVES["evidence"]:
        assert found[name].item() == pytest.approx(alone[name].item(), rel=1e-5), name
        assert (found[name].item() == pytest.approx(absent[name].item(), rel=1e-4)) == (name == "drop"), name
    nothing = terms(model, torch.full_like(target, math.nan))
    assert [nothing[name].item() for name in OBJECTIVES["evidence"]] == [0.0] * 4


def test_a_class_that_is_no_finding_has_no_place() -> None:
    """Normal is classified, but neither lost nor located, and its map is not in the mask."""
    model, target = make().eval(), targets()
    other = target.clone()
    other[:, 3] = 1 - other[:, 3]
    with torch.no_grad():
        a, b = terms(model, target), terms(model, other)
        logits, maps = model.logits_and_maps(model.normalise(images()))
        score, raised = model.combine_maps(maps, logits, (SIZE, SIZE)), maps.clone()
        raised[:, 3] = maps[:, 3].flip(2) * 9
        assert torch.equal(model.combine_maps(raised, logits + torch.tensor([0.0, 0, 0, 9]), (SIZE, SIZE)), score)
    assert (
        a["drop"] == b["drop"]
        and a["locate"] == b["locate"]
        and a["full"] != b["full"]
        and a["consist"] != b["consist"]
    )


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def test_only_the_full_view_moves_running_statistics_and_training_goes_on_as_before() -> None:
    model, other = make(dropout=0.5), make(dropout=0.5)
    for m in (model, other):
        m.backbone.layers[1].eval()  # a part that the user has frozen
    before, flags = state_of(model.backbone), [part.training for part in model.modules()]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        terms(model)["consist"].backward()
        torch.manual_seed(5)
        x = other.normalise(images())
        other.backbone(other.apply_mask(x, RandomViews.draw(SEEDS, targets(), (SIZE, SIZE), 0.5).light_mask))
    after, expected = state_of(model.backbone), state_of(other.backbone)
    assert all(torch.equal(after[name], expected[name]) for name in after)
    assert {name for name in after if torch.equal(after[name], before[name])} == {
        name for name in after if name.startswith("layers.1.")
    }
    assert (
        [part.training for part in model.modules()] == flags
        and not all(flags)
        and not model.backbone.layers[1][1].training
    )


def test_crop_and_drop_are_normalised_by_their_own_batch() -> None:
    """Running statistics are those of whole images, and trail the weights: a crop that is judged by them trains the
    weights against them.
    """
    model = make()
    norm = next(part for part in model.backbone.modules() if isinstance(part, nn.BatchNorm2d))
    outputs: list[Tensor] = []
    norm.register_forward_hook(lambda part, inputs, output: outputs.append(output.detach().clone()))
    terms(model)
    assert len(outputs) == 3  # full, crop, drop
    for output in outputs:
        torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(output.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(output.var((0, 2, 3), correction=0), torch.ones(output.shape[1]), atol=2e-2, rtol=0)
    running = make()
    for part in running.backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean += 3.0
    for name, value in terms(make()).items():
        torch.testing.assert_close(terms(running)[name], value)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_in_crop_and_drop(training: bool) -> None:
    model = make(dropout=0.5).train(training)
    modes: list[bool] = []
    model.backbone.layers[3].register_forward_pre_hook(lambda dropout, inputs: modes.append(dropout.training))
    terms(model)
    assert modes == [training, False, False] and model.training == training  # full, crop, drop


def test_the_warm_up_learns_labels_without_masks() -> None:
    model, other = make(dropout=0.5), make(dropout=0.5)
    findings = targets()
    findings[:, 3] = math.nan
    with torch.random.fork_rng():
        torch.manual_seed(5)
        found = terms(model, random_views=1.0, warm_up=True)  # no random views either
        torch.manual_seed(5)
        logits, maps = other.logits_and_maps(other.normalise(images()))
    assert set(found) == {"full", "locate"}
    assert torch.equal(found["full"], losses.bce(logits, targets()))
    assert torch.equal(found["locate"], losses.bce(losses.log_mean_exp(maps, SHARPNESS), findings))
    found["full"].backward()
    assert not learns(model.mask_net) and "head.weight" in learns(model.backbone)
    one = make(per_class=False)
    assert set(terms(one, warm_up=True)) == {"full"}
    expected = losses.bce(make(per_class=False).backbone(one.normalise(images())), targets())
    assert torch.equal(terms(make(per_class=False), warm_up=True)["full"], expected)


def test_seeds_alone_decide() -> None:
    model = make(fill="noise").eval()
    state = torch.get_rng_state()
    with torch.no_grad():
        a, b, c = (terms(model, seeds=seeds) for seeds in (SEEDS, SEEDS, SEEDS + 100))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[name], b[name]) for name in a) and all(
        a[name] != c[name] for name in ("full", "consist", "drop", "locate")
    )
    both, alone = (RandomViews.draw(SEEDS[n:], targets()[n:], (SIZE, SIZE), 0.5) for n in (0, 3))
    for field in ("light_mask", "to_lose", "loses_one"):
        assert torch.equal(getattr(both, field)[3:], getattr(alone, field))  # the rest of the batch does not matter


def test_random_views_is_the_share_of_images_that_are_seen_through_blobs() -> None:
    seeds, target = torch.arange(1500), torch.ones(1500, K)
    shares = {r: RandomViews.draw(seeds, target, (SIZE, SIZE), r).light_mask.mean((1, 2, 3)) for r in (0.0, 0.3, 1.0)}
    assert (
        (shares[0.0] == 1).all()
        and (shares[1.0] < 1).all()
        and (shares[0.3] < 1).float().mean().item() == pytest.approx(0.3, abs=0.04)
    )
    low, high = LIGHT
    kept = shares[1.0]
    assert (
        kept.min() >= low - 1e-3
        and kept.max() <= high + 1e-3
        and kept.mean().item() == pytest.approx((low + high) / 2, abs=0.003)
    )
    assert (kept < low + (high - low) / 10).any() and (kept > high - (high - low) / 10).any()
    model = make().eval()
    with torch.no_grad():
        x = model.normalise(images())
        assert torch.equal(terms(model, random_views=0)["full"], losses.bce(model.backbone(x), targets()))
        light = RandomViews.draw(SEEDS, targets(), (SIZE, SIZE), 1.0).light_mask
        torch.testing.assert_close(
            terms(model, random_views=1)["full"], losses.bce(model.backbone(x * light), targets())
        )


def test_half_of_the_images_with_findings_lose_one_of_them() -> None:
    target = torch.tensor([[1, 1, math.nan, 0], [0, 0, math.nan, 0], [1, 1, 1, 1]]).repeat(1000, 1)
    chance = RandomViews.draw(torch.arange(3000), target, (SIZE, SIZE), 0)
    present = target == 1
    assert (
        not (chance.to_lose.bool() & ~present).any() and not chance.loses_one[1::3].any()
    )  # nothing to lose in the second
    for row in (0, 2):
        single = chance.loses_one[row::3]
        one = chance.to_lose[row::3]
        assert single.float().mean().item() == pytest.approx(0.5, abs=0.05)
        assert (one[single].sum(1) == 1).all() and torch.equal(one[~single], present[row::3][~single].float())
        share = one[single].mean(0)[present[row]]
        assert share.sum().item() == pytest.approx(1) and (share - 1 / len(share)).abs().max() < 0.07  # any of them


def test_the_place_of_the_holes_does_not_follow_the_coin() -> None:
    chance = RandomViews.draw(torch.arange(1200), torch.ones(1200, K), (112, 112), 1.0)
    hole = 1 - chance.light_mask[:, 0, :16, :16].mean((1, 2))  # the corner, where the first numbers of a seed go
    a, b = hole[chance.loses_one], hole[~chance.loses_one]
    assert abs(a.mean() - b.mean()) < 4 * math.sqrt(a.var() / len(a) + b.var() / len(b))


def test_gradnorm_moves_the_weights_of_all_four_terms() -> None:
    model = make()
    balance = GradNorm(dict.fromkeys(OBJECTIVES["evidence"], 0.5), Taps(model.last_layers()), LAYERS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    balance(terms(model, warm_up=True))
    awake = dict(balance.weights)
    assert awake["consist"] == awake["drop"] and awake["full"] != awake["locate"]  # the two that the warm-up has
    for _ in range(4):
        optimizer.zero_grad()
        balance(terms(model)).backward()
        optimizer.step()
    assert (
        all(w > 0 and w != awake[name] for name, w in balance.weights.items())
        and len(set(balance.weights.values())) == 4
    )
    assert (
        sum(balance.weights.values()) == pytest.approx(2.0)
        and (balance.first > 0).all()
        and balance.steps.tolist() == [5, 4, 4, 5]
    )
    assert {name: layer.weight.shape for name, layer in model.last_layers().items()} == {
        "head": (K, 16),
        "mask": (K, 64, 1, 1),
    }


# --- fills -----------------------------------------------------------------------------------------------------------


def kept(fill: str, x: Tensor, m: float | Tensor, seeds: Tensor | None = SEEDS) -> Tensor:
    where = torch.full((len(x), 1, *x.shape[2:]), m) if isinstance(m, float) else m
    return make("none", fill=fill).apply_mask(x, where, seeds)


@pytest.mark.parametrize("fill", FILLS)
def test_all_kept_is_the_image_nothing_kept_is_the_fill(fill: str) -> None:
    x = torch.randn(len(SEEDS), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    nothing = kept(fill, x, 0.0)
    assert torch.equal(kept(fill, x, 1.0), x) and not torch.equal(nothing, x)
    half = torch.zeros(len(SEEDS), 1, SIZE, SIZE)
    half[..., : SIZE // 2] = 1
    assert torch.equal(kept(fill, x, half), torch.cat([x[..., : SIZE // 2], nothing[..., SIZE // 2 :]], dim=3))


def test_mean_is_the_mean_of_imagenet_and_blur_the_image_by_sixteenths() -> None:
    model = make("none")
    pixels = torch.randint(
        0, 256, (len(SEEDS), 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    x = model.normalise(pixels)
    assert (kept("mean", x, 0.0) == 0).all()
    blurred = kept("blur", x, 0.0)
    torch.testing.assert_close(blurred.mean((2, 3)), x.mean((2, 3)), rtol=0, atol=1e-5)
    shuffled = x.reshape(-1, 3, 16, 4, 16, 4).flip((3, 5)).reshape(x.shape)  # within its blocks of a sixteenth
    torch.testing.assert_close(kept("blur", shuffled, 0.0), blurred, rtol=0, atol=1e-5)
    assert (kept("blur", x.flip(3), 0.0) - blurred).abs().max() > 0.1 and blurred.std() < x.std() / 2
    ramp = torch.arange(64.0).expand(1, 3, 64, 64)  # stays a ramp but for half a block at the border
    torch.testing.assert_close(kept("blur", ramp, 0.0, None)[..., 2:-2], ramp[..., 2:-2])


def test_noise_comes_from_the_seeds_alone() -> None:
    x = torch.randn(len(SEEDS), 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    noise = kept("noise", x, 0.0)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(kept("noise", x * 3 + 1, 0.0), noise)
    assert torch.equal(kept("noise", x[2:3], 0.0, SEEDS[2:3]), noise[2:3]) and not torch.equal(noise[0], noise[1])
    assert torch.equal(noise[:, 0], noise[:, 1]) and torch.equal(noise[:, 0], noise[:, 2])  # grey
    assert noise.mean().abs() < 0.05 and noise.std().item() == pytest.approx(1, abs=0.03)
    with pytest.raises(ValueError, match="one seed an image"):
        kept("noise", x, 0.0, None)
    with pytest.raises(ValueError, match="fill 'black'"):
        make(fill="black")


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("mask", ["conv", "features", "random"])
def test_the_consistency_objective_and_inference_take_each_fill(mask: str, fill: str) -> None:
    model = make(mask, False, fill).eval()
    with torch.no_grad():
        found, views = consistency_terms(model, images(), targets(), RATIO, SEEDS), model(images(), RATIO, SEEDS)
        x = model.normalise(images())
        crop, drop = (model.backbone(kept(fill, x, m)) for m in (views.binary_mask, 1 - views.binary_mask))
        full = model.backbone(x)
    for got, expected in ((views.logits_full, full), (views.logits_crop, crop), (views.logits_drop, drop)):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    expected_terms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"consist": losses.consist, "drop": losses.drop}
    for (name, term), view in zip(expected_terms.items(), (crop, drop), strict=True):
        torch.testing.assert_close(found[name], term(full, view), rtol=1e-3, atol=1e-5)
    assert views.binary_mask.sum((1, 2, 3)).tolist() == [KEPT] * len(SEEDS)


# --- the union of maps -----------------------------------------------------------------------------------------------


def test_union_weighs_maps_by_their_probability() -> None:
    model = make()
    g = torch.Generator().manual_seed(0)
    maps, logits = (
        torch.randn(2, K, 4, 4, generator=g).mul(3).requires_grad_(),
        torch.randn(2, K, generator=g).requires_grad_(),
    )
    z = maps.detach().double().numpy()
    z = (z - z.mean((2, 3), keepdims=True)) / z.std((2, 3), ddof=1, keepdims=True)
    p = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    found = model.combine_maps(maps, logits, (4, 4))
    np.testing.assert_allclose(
        found.detach()[:, 0], np.log((p[:, :3, None, None] * np.exp(z[:, :3])).sum(1)), rtol=1e-4, atol=1e-5
    )
    found.square().sum().backward()
    assert (
        logits.grad is None
        and maps.grad is not None
        and (maps.grad[:, :3].abs() > 0).any(dim=1).all()
        and (maps.grad[:, 3] == 0).all()
    )


def test_union_is_the_map_of_what_is_certain_and_a_single_map_itself() -> None:
    model = make()
    maps = torch.randn(1, K, 4, 4, generator=torch.Generator().manual_seed(0))
    sure = model.combine_maps(maps, torch.tensor([[-30.0, 30.0, -30.0, 30.0]]), (4, 4))
    torch.testing.assert_close(sure, masks.standardised(maps)[:, 1:2])
    single = make(per_class=False)
    assert torch.equal(single.combine_maps(maps[:, :1], torch.full((1, K), -30.0), (4, 4)), maps[:, :1])
    assert torch.equal(
        single.combine_maps(maps[:, :1], torch.zeros(1, K), (8, 8)),
        F.interpolate(maps[:, :1], size=(8, 8), mode="bilinear"),
    )
