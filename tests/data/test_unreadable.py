"""What cannot be read, and what has nothing to show: the same batches with and without a cache, everything named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from roi.data.dataset import Batch, XrayDataset, check_batches, open_cache_of_run
from roi.data.images import UnreadableImageError
from roi.data.loader import CacheLoader, make_loader
from roi.data.pixel_cache import open_cache
from roi.data.sampler import ShardedBatchSampler

N, SIZE = 23, 16
BAD = (3, 4, 5, 6, 11, 22)
TARGETS = np.random.default_rng(1).integers(0, 2, (N, 2)).astype(np.float32)
GROUPS = np.array(["a"] * 4 + ["b"] * 19, dtype=object)


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Images that all differ, six of them cut off."""
    rng = np.random.default_rng(0)
    found = []
    for k in range(N):
        found.append(str(tmp_path / f"{k:02d}.png"))
        Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(found[-1])
        if k in BAD:
            Path(found[-1]).write_bytes(Path(found[-1]).read_bytes()[:50])
    return found


def dealt(loader: object, sampler: ShardedBatchSampler) -> list[list[Batch]]:
    """The batches of three epochs."""
    found = []
    for epoch in range(3):
        sampler.epoch = epoch
        found.append(list(check_batches(loader, True, set())))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("seed", "groups"), [(7, None), (7, GROUPS), (None, None)], ids=["shuffled", "balanced", "table"]
)
@pytest.mark.parametrize("on_device", [False, True])
def test_the_same_batches_with_and_without_a_cache(
    tmp_path: Path, paths: list[str], seed: int | None, groups: np.ndarray | None, on_device: bool
) -> None:
    loader, sampler = make_loader(XrayDataset(paths, TARGETS, SIZE), 4, seed, groups=groups)
    cache = open_cache_of_run(
        [Path(p).name for p in paths], paths, str(tmp_path / "c"), SIZE, 0, True, tmp_path / "out"
    )
    assert sorted(cache.unreadable) == list(BAD)
    other = ShardedBatchSampler(N, 4, seed, groups=groups)
    other.unreadable = cache.rows < 0
    gathered = CacheLoader(cache, TARGETS, other, torch.device("cpu"), on_device, 2)
    assert len(loader) == len(gathered) == 6
    for read, found in zip(dealt(loader, sampler), dealt(gathered, other), strict=True):
        assert len(read) == len(found) == 6
        for one, two in zip(read, found, strict=True):
            assert torch.equal(one.index, two.index) and torch.equal(one.pixels, two.pixels)
            assert torch.equal(one.target, two.target)
        rows = torch.cat([batch.index for batch in read]) % N
        assert not set(rows.tolist()) & set(BAD)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 1])
def test_processes_share_the_batches_that_one_would_have(world: int, start: int) -> None:
    whole = ShardedBatchSampler(N, 6, 7)
    parts = [ShardedBatchSampler(N, 6 // world, 7, rank, world) for rank in range(world)]
    for order in (whole, *parts):
        order.unreadable, order.start = np.isin(np.arange(N), BAD), start
    for epoch in range(5):
        for order in (whole, *parts):
            order.epoch = epoch
        batches = [list(part) for part in parts]  # of each process
        shares = [part.shares([batch_of(rows) for rows in own]) for part, own in zip(parts, batches, strict=True)]
        for n, batch in enumerate(whole):
            counted = [own[n][: share[n].images] for own, share in zip(batches, shares, strict=True)]
            assert sorted(sum(counted, [])) == sorted(batch)
            assert all(own[n] for own in batches) or not batch  # all do the same work
            assert sum(share[n].batch_weight for share in shares) == pytest.approx(world if batch else 0)
        total = sum(len(batch) for batch in whole)
        for share in shares:
            assert sum(s.step_weight for s in share) == pytest.approx(world * sum(s.images for s in share) / total)


def batch_of(rows: list[int]) -> Batch:
    return Batch(torch.zeros(len(rows), 1, 1, 1), torch.zeros(len(rows), 1), torch.tensor(rows, dtype=torch.int64), [])


def test_a_batch_of_nothing_but_unreadable_rows_is_a_batch_all_the_same(tmp_path: Path, paths: list[str]) -> None:
    cache = open_cache(tmp_path / "c", [Path(p).name for p in paths], paths, SIZE, 0)
    order = ShardedBatchSampler(N, 1, None)
    order.unreadable = cache.rows < 0
    sizes = [len(batch.index) for batch in CacheLoader(cache, TARGETS, order, torch.device("cpu"), False, 2)]
    assert sizes == [0 if k in BAD else 1 for k in range(N)]


def test_unreadable_images_stop_or_are_listed(tmp_path: Path, paths: list[str], capsys: pytest.CaptureFixture) -> None:
    names = [Path(p).name for p in paths]
    with pytest.raises(UnreadableImageError, match=r"03\.png: .*--skip_unreadable \(6 of 23 images\)"):
        open_cache_of_run(names, paths, str(tmp_path / "c"), SIZE, 0, False, tmp_path / "out")
    open_cache_of_run(names, paths, str(tmp_path / "c"), SIZE, 0, True, tmp_path / "out")
    assert (tmp_path / "out_unreadable.txt").read_text().count("\n") == 6
    assert "6 images could not be read and were left out" in capsys.readouterr().out
    only = [paths[k] for k in BAD]
    with pytest.raises(UnreadableImageError, match="6 of 6"):
        open_cache_of_run([names[k] for k in BAD], only, str(tmp_path / "c"), SIZE, 0, True, tmp_path / "out")


def test_constant_images_are_counted_and_named(tmp_path: Path, paths: list[str], capsys: pytest.CaptureFixture) -> None:
    fine = [path for k, path in enumerate(paths) if k not in BAD]
    for k in (2, 9):
        Image.fromarray(np.full((20, 20), 77, dtype=np.uint8)).save(fine[k])
    open_cache_of_run([Path(p).name for p in fine], fine, str(tmp_path / "c"), SIZE, 0, False, tmp_path / "out")
    assert (tmp_path / "out_constant.txt").read_text() == f"{fine[2]}\n{fine[9]}\n"
    said = capsys.readouterr().out
    assert "2 images are of one grey value: nothing is to be seen in them" in said and f"the first is {fine[2]}" in said
    loader, _ = make_loader(XrayDataset(fine, TARGETS[: len(fine)], SIZE), 4, 7)
    constant: set[str] = set()
    list(check_batches(loader, False, set(), constant))
    assert constant == {fine[2], fine[9]}
