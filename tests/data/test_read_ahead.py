"""Rows of a cache are asked for before they are needed, once and in long pieces; batches stay what they are."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from roi.data.loader import CacheLoader
from roi.data.order import choice, read_ahead
from roi.data.order.blocks import Blocks
from roi.data.order.choice import choose_order
from roi.data.order.memory import Memory, usable_memory
from roi.data.order.read_ahead import REQUEST, opened_rows, runs_of
from roi.data.pixel_cache import PixelCache
from roi.data.sampler import ShardedBatchSampler

N, SIDE, HEAD = 400, 24, 100
ROW = SIDE * SIDE
needs_advice = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice on files")


class Asked:
    """Which bytes the system was told of."""

    def __init__(self) -> None:
        self.bytes = np.zeros(HEAD + N * ROW, dtype=bool)
        self.requests: list[tuple[int, int]] = []
        self.repeated = 0

    def __call__(self, file: int, start: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED and 0 < length <= REQUEST
        os.fstat(file)
        self.requests.append((start, length))
        self.repeated += int(self.bytes[start : start + length].sum())
        self.bytes[start : start + length] = True

    def has(self, row: int) -> bool:
        return bool(self.bytes[HEAD + row * ROW : HEAD + (row + 1) * ROW].all())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()
    monkeypatch.setattr(os, "posix_fadvise", found)
    return found


@pytest.fixture
def cache(tmp_path: Path) -> PixelCache:
    """Rows behind a head of some bytes, in another order than the table's."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (N, SIDE, SIDE), dtype=np.uint8)
    (tmp_path / "pixels.u8").write_bytes(bytes(HEAD) + pixels.tobytes())
    mapped = np.memmap(tmp_path / "pixels.u8", np.uint8, "r", offset=HEAD, shape=pixels.shape)
    return PixelCache(mapped, rng.permutation(N), {})


def loader_of(cache: PixelCache, blocks: Blocks | None, ahead: bool, rank: int = 0, world: int = 1) -> CacheLoader:
    sampler = ShardedBatchSampler(N, 8, 5, rank, world)
    sampler.blocks = blocks
    targets = np.arange(N, dtype=np.float32)[:, None]
    loader = CacheLoader(cache, targets, sampler, torch.device("cpu"), False, 1)
    loader.reads_ahead = ahead
    return loader


def blocks_for(cache: PixelCache) -> Blocks:
    return Blocks(np.argsort(np.argsort(cache.rows)).astype(np.int32), 10, 6)


@needs_advice
@pytest.mark.parametrize("in_blocks", [True, False])
@pytest.mark.parametrize("start", [0, 13])
def test_each_row_is_asked_for_once_and_before_its_batch(
    cache: PixelCache, asked: Asked, in_blocks: bool, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roi.data.loader.CHUNK_BYTES", 5 * 8 * ROW)
    blocks = blocks_for(cache) if in_blocks else None
    loader, plain = loader_of(cache, blocks, True), loader_of(cache, blocks, False)
    loader.sampler.start = plain.sampler.start = start
    expected = list(plain)
    assert not asked.requests
    total = 0
    for got, wanted in zip(loader, expected, strict=True):
        assert torch.equal(got.pixels, wanted.pixels) and torch.equal(got.index, wanted.index)
        assert torch.equal(got.target, wanted.target)
        assert all(asked.has(row) for row in cache.rows[got.index.numpy()])
        total += len(got.index)
    assert asked.repeated == 0 and asked.bytes.sum() == total * ROW
    if in_blocks and not start:
        # 40 blocks in 6 windows; a run a row in a random order.
        assert len(asked.requests) < 70


@needs_advice
def test_an_epoch_is_not_asked_for_at_once(cache: PixelCache, asked: Asked) -> None:
    batches = iter(loader_of(cache, blocks_for(cache), True))
    next(batches)
    # The first window and what is read in the steps that the loader is ahead.
    assert 60 <= asked.bytes.sum() / ROW <= 150


@needs_advice
def test_processes_ask_for_their_own_rows(cache: PixelCache, asked: Asked) -> None:
    for rank in (0, 1):
        list(loader_of(cache, blocks_for(cache), True, rank, 2))
    assert asked.repeated == 0 and asked.bytes[HEAD:].all()


@needs_advice
def test_long_runs_are_asked_for_in_pieces_that_linux_reads_whole(tmp_path: Path, asked: Asked) -> None:
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (40, 4096))
    asked.bytes = np.zeros(array.offset + array.nbytes, dtype=bool)
    with opened_rows(array) as file:
        assert file is not None
        file.will_need(3, 40)
    begin = array.offset + 3 * 4096
    assert asked.requests == [(begin, REQUEST), (begin + REQUEST, 37 * 4096 - REQUEST)]


def test_what_is_not_mapped_is_passed_on() -> None:
    batches = [np.array([1]), np.array([0])]
    assert list(read_ahead.read_ahead(batches, lambda batch: batch, [2], [np.zeros((2, 3))])) == batches


@pytest.mark.parametrize(
    ("rows", "runs"),
    [([], []), ([-1], []), ([5], [(5, 6)]), ([3, 1, 2, 7, 8, 2, -1, 0], [(0, 4), (7, 9)])],
)
def test_neighbours_are_runs(rows: list[int], runs: list[tuple[int, int]]) -> None:
    assert runs_of(np.array(rows, dtype=np.int64)) == runs


# Which order


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable: 1000 kB\n"}
V1 = "sys/fs/cgroup/memory"
GROUPS: dict[str, tuple[dict[str, str], int]] = {
    "version 2: what it has but pages of files": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/memory.current": "5\n",
            "sys/fs/cgroup/a/b/memory.stat": "anon 5\n",
            "sys/fs/cgroup/a/memory.max": "900000\n",
            "sys/fs/cgroup/a/memory.current": "700000\n",
            "sys/fs/cgroup/a/memory.stat": "anon 100000\ninactive_file 400000\nactive_file 50000\n",
        },
        900000 - 700000 + 450000,
    ),
    "version 1 in a container, which sees its group as the mount": (
        {
            "proc/self/cgroup": "9:cpu,memory:/docker/of-the-host\n",
            f"{V1}/memory.limit_in_bytes": "800000\n",
            f"{V1}/memory.usage_in_bytes": "300000\n",
            f"{V1}/memory.stat": "inactive_file 1\ntotal_inactive_file 100000\ntotal_active_file 0\n",
        },
        800000 - 300000 + 100000,
    ),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_a_cgroup_limits_the_memory(tmp_path: Path, kind: str) -> None:
    files, expected = GROUPS[kind]
    root = tree(tmp_path, MACHINE | files)
    assert usable_memory(root, {}) == Memory(expected, "the limit of its cgroup")


def test_the_machine_and_a_job_limit_the_memory(tmp_path: Path) -> None:
    root = tree(tmp_path, MACHINE)
    assert usable_memory(root, {}) == Memory(1_024_000, "free on this machine")
    root = tree(tmp_path, {"proc/meminfo": "MemAvailable: 64000000 kB\n"})
    job = {"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_NODE": "0"}
    assert usable_memory(root, job) == Memory(400 << 20, "SLURM_MEM_PER_CPU")
    assert usable_memory(root, {"SLURM_MEM_PER_NODE": "many"}) == Memory(64_000_000 * 1024, "free on this machine")


@pytest.mark.parametrize(
    ("asked_for", "memory", "blocks", "ahead"),
    [
        ("auto", 1000, False, False),
        ("auto", 900, True, True),
        ("random", 900, False, True),
        ("blocks", 1000, True, False),
        ("auto", None, False, False),
    ],
)
def test_rows_stay_random_while_the_memory_holds_them(
    asked_for: str, memory: int | None, blocks: bool, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = None if memory is None else Memory(memory, "a job")
    monkeypatch.setattr(choice, "usable_memory", lambda: limit)
    order = choose_order(asked_for, np.array([3, -1, 0, 1]), 233, on_device=False)
    assert (order.blocks is not None, order.reads_ahead) == (blocks, ahead)
    assert order.why.startswith("order: blocks of 2,250, " if blocks else "order: random")
    assert "\n" not in order.why and order.why.endswith("ahead") == ahead
    # What lies on a GPU is not read.
    order = choose_order(asked_for, np.arange(4), 10_000, on_device=True)
    assert (order.blocks is not None, order.reads_ahead) == (asked_for == "blocks", False)
