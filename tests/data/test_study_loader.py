"""Which images of a study are looked at: the first ones in prediction, seeded draws in training."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roi.data import study_loader
from roi.data.order.blocks import Blocks
from roi.data.pixel_cache import PixelCache
from roi.data.sampler import ShardedBatchSampler
from roi.data.studies import Studies
from roi.data.study_loader import StudyLoader, ViewChoice, choose_views

SIZES = (1, 7, 3, 5, 2)


def make_studies() -> Studies:
    start = np.concatenate([[0], np.cumsum(SIZES)])
    rows = np.random.default_rng(0).permutation(start[-1])
    return Studies(np.array(list("abcde"), dtype=object), rows, start, (rows % 3).astype(np.int8))


def rows_of(index: list[int], choice: ViewChoice, epoch: int = 0) -> list[list[int]]:
    chosen = choose_views(make_studies(), np.array(index), choice, epoch)
    return [chosen.rows[row[row >= 0]].tolist() for row in chosen.place]


def test_prediction_takes_the_first_views() -> None:
    studies = make_studies()
    expected = [studies.rows[studies.start[m] :][: min(4, SIZES[m])].tolist() for m in (3, 0, 1)]
    assert rows_of([3, 0, 1], ViewChoice(4)) == expected


def test_training_draws_by_seed_epoch_and_study_alone() -> None:
    choice = ViewChoice(4, seed=3, dropout=0.3)
    drawn = rows_of([0, 1, 2, 3, 4], choice, epoch=2)
    assert drawn == [rows_of([m], choice, epoch=2)[0] for m in range(5)]
    assert rows_of([1, 3], choice, 2) != rows_of([1, 3], choice, 3)
    assert rows_of([1 + 5, 3 + 5], choice, 2) != rows_of([1, 3], choice, 2)


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_every_view_of_a_large_study_comes_as_often_as_another(dropout: float) -> None:
    counts = np.zeros(18)
    views = []
    for epoch in range(4000):
        found = rows_of([1, 0], ViewChoice(4, 3, dropout), epoch)
        counts[found[0]] += 1
        views.append(len(found[0]))
        assert len(found[1]) == 1 and len(set(found[0])) == len(found[0]) and 1 <= len(found[0]) <= 4
    # All four are dropped with probability d^4, and then one stays.
    expected = 4 * (1 - dropout) + dropout**4
    assert np.mean(views) == pytest.approx(expected, abs=0.08)
    each = counts[make_studies().rows[1:8]] / 4000
    np.testing.assert_allclose(each, expected / 7, atol=0.04)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_batch_holds_the_pixels_kinds_and_targets_of_its_studies(on_device: bool) -> None:
    studies = make_studies()
    pixels = np.arange(18, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    cache = PixelCache(pixels, np.arange(18), {})
    targets = np.arange(10, dtype=np.float32).reshape(5, 2)
    sampler = ShardedBatchSampler(5, 2, seed=1)
    loader = StudyLoader(cache, studies, targets, sampler, ViewChoice(4, 1), torch.device("cpu"), on_device, 2)
    seen: list[int] = []
    for batch in loader:
        assert batch.studies is not None
        rows = batch.studies.rows
        assert torch.equal(batch.pixels[:, 0, 0, 0].long(), rows)
        assert torch.equal(batch.studies.kinds, torch.from_numpy(studies.kinds[rows.numpy()]).long())
        assert torch.equal(batch.target, torch.from_numpy(targets[batch.index.numpy()]))
        for study, place in zip(batch.index.tolist(), batch.studies.place, strict=True):
            members = rows[place[place >= 0]].numpy()
            assert (studies.study_of_row[members] == study).all() and len(members) == min(4, SIZES[study])
        seen += batch.index.tolist()
    assert sorted(seen) == list(range(5))


@pytest.mark.parametrize("choice", [ViewChoice(4), ViewChoice(2, 5), ViewChoice(4, 3, 0.3)])
def test_a_batch_that_is_planned_with_others_is_what_it_is_alone(
    choice: ViewChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 7, 50)
    start = np.append(0, sizes.cumsum())
    images = int(start[-1])
    names = np.arange(50).astype(str)
    studies = Studies(names, rng.permutation(images), start, rng.integers(0, 3, images).astype(np.int8))
    cache = PixelCache(np.zeros((images, 2, 2), dtype=np.uint8), np.arange(images), {})
    # Copies: a study that comes twice has other draws then. Some batches are empty.
    copies = rng.random(50)
    sampler = ShardedBatchSampler(50, 3, seed=1, copies=copies * 50 / copies.sum())
    sampler.unreadable = rng.random(50) < 0.6
    sampler.epoch = 2
    targets = np.zeros((50, 1), dtype=np.float32)
    monkeypatch.setattr(study_loader, "PLANNED_AT_ONCE", 12)
    loader = StudyLoader(cache, studies, targets, sampler, choice, torch.device("cpu"), False, 2)
    planned = list(loader)
    alone = list(sampler)
    assert len(planned) == len(alone) > 12 and [] in alone and sampler.epoch == 2
    for batch, numbers in zip(planned, alone, strict=True):
        expected = choose_views(studies, np.array(numbers, dtype=np.int64), choice, epoch=2)
        views = batch.studies
        assert views is not None and batch.index.tolist() == numbers
        np.testing.assert_array_equal(views.place, expected.place)
        np.testing.assert_array_equal(views.owner, expected.owner)
        np.testing.assert_array_equal(views.rows % images, expected.rows)
        assert len(batch.pixels) == len(expected.rows)


def test_images_of_studies_are_read_ahead(tmp_path: Path) -> None:
    studies = make_studies()
    np.save(tmp_path / "pixels.npy", np.arange(18, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2))
    cache = PixelCache(np.load(tmp_path / "pixels.npy", mmap_mode="r"), np.arange(18)[::-1].copy(), {})
    targets = np.zeros((5, 1), dtype=np.float32)
    batches = []
    for ahead in (False, True):
        sampler = ShardedBatchSampler(5, 2, seed=1)
        sampler.blocks = Blocks(np.arange(5, dtype=np.int32), 1, 2)
        loader = StudyLoader(cache, studies, targets, sampler, ViewChoice(4, 1), torch.device("cpu"), False, 2)
        loader.reads_ahead = ahead
        batches.append(list(loader))
    for plain, read in zip(*batches, strict=True):
        assert torch.equal(plain.pixels, read.pixels) and torch.equal(plain.index, read.index)
