"""Random numbers by counting: the published algorithm, what they depend on, how they are distributed; masks that are
made of them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from roi import counter_rng
from roi.models.masks import cutout_mask, random_mask

ALL = (1 << 64) - 1
PUBLISHED = (
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
)  # SplitMix64 from 1234567


def mixed(z: int) -> int:
    """The finaliser of SplitMix64 (Steele et al. 2014; constants of its public-domain C code) on integers mod 2^64."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & ALL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & ALL
    return z ^ (z >> 31)


def splitmix(state: int, place: int) -> int:
    """Its number `place`, counted from 1."""
    return mixed((state + place * 0x9E3779B97F4A7C15) & ALL)


def unsigned(values: Tensor) -> list[int]:
    return [value & ALL for value in values.tolist()]


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


CORNERS = [0, 1, -1, 1234567, 2**31, 2**63 - 1, -(2**63), -(2**31) - 7, 0x0123456789ABCDEF]


def test_the_finaliser_is_that_of_splitmix64() -> None:
    assert tuple(splitmix(1234567, n) for n in range(1, 6)) == PUBLISHED  # so the reference is right
    places = torch.arange(1, 6) * counter_rng.GAMMA + 1234567
    assert tuple(unsigned(counter_rng._mix(places))) == PUBLISHED
    corners = torch.tensor(CORNERS)
    assert unsigned(counter_rng._mix(corners)) == [mixed(value & ALL) for value in CORNERS]
    many = torch.randint(-(2**63), 2**63 - 1, (500,), generator=torch.Generator().manual_seed(0))
    assert unsigned(counter_rng._mix(many)) == [mixed(value) for value in unsigned(many)]


@pytest.mark.parametrize("stream", [0, 1, 5])
def test_uniform_is_splitmix64_from_a_state_of_seed_and_stream(stream: int) -> None:
    found = counter_rng.uniform(torch.tensor(CORNERS), 6, stream)
    for seed, row in zip(CORNERS, found.tolist(), strict=True):
        state = mixed((seed + (2 * stream + 1) * 0xD1342543DE82EF95) & ALL)
        assert row == [(splitmix(state, n) >> 40) / 2**24 for n in range(1, 7)]
    assert found.dtype == torch.float32


def test_seeds_of_rows_are_chained_and_never_alike() -> None:
    rows = [0, 1, 2, 112_119, 2**40]
    found = counter_rng.row_seeds(3, 7, torch.tensor(rows))
    assert (
        unsigned(found) == [splitmix((splitmix(splitmix(3, 1) + 7 & ALL, 1) + row) & ALL, 1) for row in rows]
        and found.dtype == torch.int64
    )
    many = torch.cat(
        [counter_rng.row_seeds(seed, epoch, torch.arange(3000)) for seed in range(4) for epoch in range(4)]
    )
    assert len(many.unique()) == len(many)
    assert (
        counter_rng.row_seeds(0, 1, torch.tensor([2]))
        != counter_rng.row_seeds(0, 2, torch.tensor([1]))
        != counter_rng.row_seeds(1, 0, torch.tensor([2]))
    )


@pytest.mark.parametrize("draw", [counter_rng.uniform, counter_rng.normal])
def test_an_image_draws_the_same_in_any_batch(draw) -> None:
    state = torch.get_rng_state()
    seeds = counter_rng.row_seeds(0, 0, torch.arange(37))
    whole = draw(seeds, 101, 2)
    assert whole.shape == (37, 101)
    for size in (1, 2, 5, 16):
        assert torch.equal(torch.cat([draw(part, 101, 2) for part in seeds.split(size)]), whole)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(seeds[order], 101, 2), whole[order])
    assert torch.equal(torch.get_rng_state(), state)
    assert draw(seeds[:0], 3, 2).shape == (0, 3)


# --- distribution: bounds of Kolmogorov-Smirnov at 1 in 1000, and 4.5 standard errors; always the same numbers -------


def distance(values: Tensor, cumulative) -> float:
    """Kolmogorov-Smirnov, in units of its bound at a probability of 0.001."""
    ordered = np.sort(values.flatten().double().numpy())
    n = len(ordered)
    expected = cumulative(ordered)
    steps = np.arange(n + 1) / n
    return max(np.abs(steps[1:] - expected).max(), np.abs(steps[:-1] - expected).max()) * math.sqrt(n) / 1.95


def normal_cumulative(x: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.from_numpy(x)).numpy()


SEEDS = {
    "rows": counter_rng.row_seeds(0, 0, torch.arange(2000)),
    "counted": torch.arange(2000),
    "negative": -torch.arange(1, 2001) * 2**40,
}


@pytest.mark.parametrize("seeds", SEEDS.values(), ids=SEEDS)
def test_uniform_is_uniform_along_an_image_and_across_images(seeds: Tensor) -> None:
    u = counter_rng.uniform(seeds, 60, 0)
    assert u.min() >= 0 and u.max() < 1 and torch.equal(u * 2**24, (u * 2**24).round())
    for part in (
        u,
        u[:, 0],
        u[:, -1],
        u[::2],
        u.diff(dim=1) % 1,
        u.diff(dim=0) % 1,
    ):  # a difference of independent ones is uniform too, mod 1
        assert distance(part, lambda x: x) < 1
    counts = torch.bincount((u * 256).long().flatten(), minlength=256).double()
    chi2 = ((counts - u.numel() / 256) ** 2 / (u.numel() / 256)).sum().item()
    assert abs(chi2 - 255) < 4.5 * math.sqrt(2 * 255)
    low = ((u * 2**24).long() & 255).flatten()  # the lowest bits too
    assert abs(torch.bincount(low, minlength=256).double().var().item() * 256 / u.numel() - 1) < 4.5 * math.sqrt(
        2 / 255
    )


def test_uniform_reaches_both_ends() -> None:
    u = counter_rng.uniform(torch.arange(3000), 1000, 0)
    assert 0 <= u.min() < 1e-5 and 1 - 1e-5 < u.max() < 1


def correlation(a: Tensor, b: Tensor) -> float:
    """In standard errors of two independent draws."""
    a, b = (x.flatten().double() - x.double().mean() for x in (a, b))
    return (a @ b / (a.norm() * b.norm())).item() * math.sqrt(len(a))


@pytest.mark.parametrize("seeds", SEEDS.values(), ids=SEEDS)
def test_streams_images_and_places_do_not_follow_each_other(seeds: Tensor) -> None:
    streams = [counter_rng.uniform(seeds, 40, stream) for stream in range(6)]
    for n, one in enumerate(streams):
        assert abs(correlation(one[:-1], one[1:])) < 4.5 and abs(correlation(one[:, :-1], one[:, 1:])) < 4.5
        for other in streams[n + 1 :]:
            assert not torch.equal(one, other) and abs(correlation(one, other)) < 4.5
            assert abs(correlation(one[:, :-1], other[:, 1:])) < 4.5 and abs(correlation(one[:-1], other[1:])) < 4.5
    pairs = [
        {(a, b) for row in one.tolist() for a, b in zip(row, row[1:], strict=False)} for one in streams
    ]  # 48 bits each
    assert (
        len(set.union(*pairs)) == sum(map(len, pairs)) == 6 * len(seeds) * 39
    )  # none runs into another one, at any place


def test_normal_has_the_moments_of_a_normal_and_independent_halves() -> None:
    z = counter_rng.normal(
        counter_rng.row_seeds(0, 0, torch.arange(1000)), 99, 1
    )  # an odd count: half of a pair is left out
    n = z.numel()
    assert z.dtype == torch.float32 and z.isfinite().all() and 4 < z.abs().max() < 5.8
    moments = [(z.double() ** p).mean().item() * math.sqrt(n) for p in (1, 3)] + [
        ((z.double() ** 2).mean().item() - 1) * math.sqrt(n)
    ]
    kurtosis = ((z.double() ** 4).mean().item() - 3) * math.sqrt(n)
    for error, spread in zip([*moments, kurtosis], (1, math.sqrt(15), math.sqrt(2), math.sqrt(96)), strict=True):
        assert abs(error) < 4.5 * spread
    for part in (z, z[:, 0], z[:, 50], z[:, -1], (z[:, :49] + z[:, 50:]) / math.sqrt(2)):
        assert distance(part, normal_cumulative) < 1
    for power in (1, 2):  # radius and angle do not give themselves away
        assert abs(correlation(z[:, :49] ** power, z[:, 50:] ** power)) < 4.5
        assert abs(correlation(z[:, :-1] ** power, z[:, 1:] ** power)) < 4.5


def test_normal_is_box_and_muller() -> None:
    seeds = torch.tensor([5, -9])
    u, z = counter_rng.uniform(seeds, 6, 3).double().numpy(), counter_rng.normal(seeds, 5, 3).numpy()
    radius, angle = np.sqrt(-2 * np.log(1 - u[:, :3])), 2 * np.pi * u[:, 3:]
    np.testing.assert_allclose(
        z, np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :5], atol=1e-5
    )


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (47, 33)])
def test_random_masks_keep_exactly_k_pixels_one_k_or_one_an_image(size: tuple[int, int]) -> None:
    seeds = counter_rng.row_seeds(1, 2, torch.arange(24))
    pixels = size[0] * size[1]
    for k in (1, 7, pixels // 3, pixels - 1, pixels):
        assert random_mask(seeds, size, k).sum((1, 2, 3)).tolist() == [k] * 24
    each = torch.linspace(math.ceil(0.75 * pixels), pixels, 24).round().long()
    mask = random_mask(seeds, size, each)
    assert mask.sum((1, 2, 3)).tolist() == each.tolist() and set(mask.unique().tolist()) == {0.0, 1.0}
    for n in range(24):
        assert torch.equal(mask[n : n + 1], random_mask(seeds[n : n + 1], size, each[n : n + 1]))
        same = random_mask(seeds[n : n + 1], size, int(each[n]))  # but for pixels that are nearly alike
        assert (mask[n : n + 1] != same).sum() <= 4
    few = random_mask(seeds, size, torch.full((24,), pixels // 2))
    assert few.sum((1, 2, 3)).tolist() == [pixels - pixels // 4] * 24  # at most a quarter is dropped


@pytest.mark.parametrize("place", [random_mask, cutout_mask])
def test_neighbouring_rows_and_epochs_have_unlike_masks(place) -> None:
    """They share what independent ones do: at each pixel the product of how often it is kept."""
    rows = torch.arange(400)
    kept = [place(counter_rng.row_seeds(0, epoch, rows), (64, 64), 410).flatten(1) for epoch in (0, 1)]
    expected = (kept[0].mean(0) * kept[1].mean(0)).sum().item() / 410
    assert 0.09 < expected < 0.2
    for one, other in ((kept[0], kept[1]), (kept[0][:-1], kept[0][1:])):
        assert ((one * other).sum(1) / 410).mean().item() == pytest.approx(expected, abs=0.03) and not (
            one == other
        ).all(1).any()
