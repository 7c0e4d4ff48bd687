"""Repeat factors: the formula, epochs of one length, counts in the long run, processes, and runs taken up again."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roi.data.dataset import XrayDataset
from roi.data.loader import CacheLoader, make_loader
from roi.data.pixel_cache import open_cache
from roi.data.repeat_factors import (
    class_factors,
    copies_of_epoch,
    expected_copies,
    repeat_factors,
    rows_of_epoch,
)
from roi.data.sampler import ShardedBatchSampler

NAN = math.nan
N, SEED = 331, 3
SHARES = np.array([0.4, 0.1, 0.02, 0.004, 0.0])
TARGETS = (np.random.default_rng(1).random((N, 5)) < SHARES).astype(np.float32)
TARGETS[7, 3] = 1
THRESHOLD = 0.05
COPIES = expected_copies(repeat_factors(TARGETS, THRESHOLD))


def test_factors_are_those_of_the_paper() -> None:
    """Written out: of each image the largest max(1, sqrt(t / f)) of the classes that it has."""
    expected = []
    for row in TARGETS:
        factor = 1.0
        for k in range(5):
            share = float(TARGETS[:, k].sum()) / N
            if row[k] == 1:
                factor = max(factor, min(10.0, math.sqrt(THRESHOLD / share)))
        expected.append(factor)
    factors = repeat_factors(TARGETS, THRESHOLD)
    np.testing.assert_allclose(factors, expected, rtol=1e-12)
    assert factors.min() == 1 and len(set(factors.round(6))) >= 3


def test_numbers_by_hand() -> None:
    targets = np.zeros((1000, 4), dtype=np.float32)
    targets[:500, 0] = targets[:40, 1] = targets[:10, 2] = 1
    assert class_factors(targets, 0.16).tolist() == pytest.approx([1, 2, 4, 1])  # the last one: nobody has it
    factors = repeat_factors(targets, 0.16)
    assert factors[[0, 20, 100, 900]].tolist() == pytest.approx([4, 2, 1, 1])
    targets[0, 3] = 1
    assert repeat_factors(targets, 0.16)[0] == 10  # sqrt(160), and no more than 10
    assert (repeat_factors(targets, 0.0) == 1).all()


def test_the_unknown_repeats_nothing_and_a_share_what_is_to_be_expected() -> None:
    targets = np.array([[1, NAN], [0, 1], [NAN, NAN], [0, 0.5]] + [[0, 0]] * 96)
    rare, rarer = class_factors(targets, 1.0)
    assert rare == pytest.approx(10) and rarer == pytest.approx(math.sqrt(100 / 1.5))
    factors = repeat_factors(targets, 1.0)
    assert factors[:5].tolist() == pytest.approx([rare, rarer, 1, 1 + 0.5 * (rarer - 1), 1])


def test_an_epoch_has_its_length_and_each_row_its_number_rounded() -> None:
    assert COPIES.sum() == pytest.approx(N) and COPIES.max() > 2 > 1 > COPIES.min()
    for epoch in range(50):
        copies = copies_of_epoch(COPIES, SEED, epoch)
        assert copies.sum() == N
        assert (copies >= np.floor(COPIES)).all() and (copies <= np.ceil(COPIES)).all()


def test_in_the_long_run_every_row_comes_as_often_as_expected() -> None:
    """Within 1 % after 1,000 epochs, and never more than a few times off on the way."""
    total = np.zeros(N)
    for epoch in range(1000):
        total += copies_of_epoch(COPIES, SEED, epoch)
        assert np.abs(total - (epoch + 1) * COPIES).max() < 4
    np.testing.assert_allclose(total / 1000, COPIES, rtol=0.01)
    factors = repeat_factors(TARGETS, THRESHOLD)
    # What the paper asks for: an image of a rare class as many times more often than one of none.
    np.testing.assert_allclose(total / total[factors == 1].mean(), factors, rtol=0.02)


def test_neighbours_in_the_table_do_not_come_in_turns() -> None:
    """Images of one patient stand together: whether one comes says nothing of the next."""
    half = np.full(2000, 0.5)
    half[1000:] = 1.5
    together = 0.0
    for seed in range(20):
        comes = copies_of_epoch(half, seed, 0)[:1000]
        together += (comes[::2] * comes[1::2]).mean() / 20
    assert together == pytest.approx(0.25, abs=0.02)


def test_a_row_that_comes_again_is_told_apart() -> None:
    rows = rows_of_epoch(COPIES, SEED, 4)
    assert len(set(rows.tolist())) == N == len(rows)
    copies = copies_of_epoch(COPIES, SEED, 4)
    for row in range(N):
        assert sorted(rows[rows % N == row] // N) == list(range(copies[row]))


def test_where_nothing_is_rare_an_epoch_is_the_one_without_factors() -> None:
    plain = ShardedBatchSampler(N, 8, SEED)
    factors = repeat_factors(TARGETS, 0.0)
    repeated = ShardedBatchSampler(N, 8, SEED, copies=expected_copies(factors))
    for epoch in range(3):
        plain.epoch = repeated.epoch = epoch
        assert list(plain) == list(repeated)


def test_order_depends_on_seed_and_epoch_alone_and_can_be_entered_anywhere() -> None:
    torch.manual_seed(0)
    first, second = (ShardedBatchSampler(N, 8, SEED, copies=COPIES) for _ in range(2))
    first.epoch = 7
    later = list(first)
    torch.manual_seed(1)
    for epoch in range(8):
        second.epoch = epoch
        last = list(second)
    assert later == last and len(later) == math.ceil(N / 8) == len(first)
    second.epoch = 6
    assert list(second) != later
    other = ShardedBatchSampler(N, 8, SEED + 1, copies=COPIES)
    other.epoch = 7
    assert list(other) != later
    for start in (1, 9, len(later) - 1):
        first.start = start
        assert list(first) == later[start:] and len(first) == len(later) - start


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 3])
def test_processes_share_the_batches_of_one(world: int, start: int) -> None:
    whole = ShardedBatchSampler(N, 12, SEED, copies=COPIES)
    parts = [ShardedBatchSampler(N, 12 // world, SEED, rank, world, copies=COPIES) for rank in range(world)]
    for sampler in (whole, *parts):
        sampler.epoch, sampler.start = 2, start
    dealt = [list(sampler) for sampler in parts]
    expected = list(whole)
    assert {len(batches) for batches in dealt} == {len(expected)}
    for n, batch in enumerate(expected):
        together: Counter[int] = Counter()
        for rank, batches in enumerate(dealt):
            # A process that is left without a row has one that counts nothing.
            own = len(range(rank, len(batch), world))
            together.update(batches[n][:own])
        assert together == Counter(batch)


def test_every_loader_gives_the_image_that_comes_again(tmp_path: Path) -> None:
    files = []
    for n in range(24):
        files.append(tmp_path / f"{n:02d}.png")
        pixels = np.random.default_rng(n).integers(0, 256, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(files[-1])
    targets = np.zeros((24, 2), dtype=np.float32)
    targets[:2, 0] = 1
    copies = expected_copies(repeat_factors(targets, 1.0))
    paths = [str(path) for path in files]
    loader, _ = make_loader(XrayDataset(paths, targets, 20), 5, shuffle_seed=3, copies=copies)
    cache = open_cache(tmp_path / "cache", [path.name for path in files], paths, 20, 1)
    sampler = ShardedBatchSampler(24, 5, 3, copies=copies)
    gathered = CacheLoader(cache, targets, sampler, torch.device("cpu"), False, 2)
    positives = 0
    for one, two in zip(loader, gathered, strict=True):
        assert torch.equal(one.index, two.index) and torch.equal(one.pixels, two.pixels)
        assert torch.equal(one.target, torch.from_numpy(targets[one.index.numpy() % 24]))
        assert torch.equal(one.target, two.target)
        positives += int(one.target[:, 0].sum())
    assert positives in (math.floor(copies[0]) * 2, math.floor(copies[0]) * 2 + 1, math.ceil(copies[0]) * 2)
    assert positives > 4
