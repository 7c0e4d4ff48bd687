"""The order in blocks: every row as often as in any order, the same for all processes, mixed, and long on the disk."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from roi.data.dataset import Batch
from roi.data.order import blocks as blocks_module
from roi.data.order.blocks import Blocks, blocks_of, kept_order
from roi.data.sampler import ShardedBatchSampler

ROWS = 1000


def in_table_order(block: int = 7, window: int = 5, rows: int = ROWS) -> Blocks:
    return Blocks(np.arange(rows, dtype=np.int32), block, window)


def sampler(blocks: Blocks | None = None, **more: Any) -> ShardedBatchSampler:
    settings = {"rows": ROWS, "batch_size": 8, "seed": 3} | more
    made = ShardedBatchSampler(**settings)
    made.blocks = in_table_order() if blocks is None else blocks
    return made


def epoch_of(made: ShardedBatchSampler, epoch: int = 0, start: int = 0) -> list[list[int]]:
    made.epoch, made.start = epoch, start
    return list(made)


def draws(kind: str) -> dict[str, Any]:
    if kind == "balanced":
        return {"groups": np.array(["small"] * 90 + ["large"] * 910)}
    if kind == "repeat_factor":
        factors = np.ones(ROWS)
        factors[:100] = 6
        return {"copies": factors * ROWS / factors.sum()}
    return {}


def test_the_random_order_is_the_one_of_earlier_versions() -> None:
    made = ShardedBatchSampler(ROWS, 8, 3)
    expected = np.random.default_rng([3, 5]).permutation(np.arange(ROWS))
    assert sum(epoch_of(made, 5), []) == expected.tolist()


@pytest.mark.parametrize("kind", ["proportional", "balanced", "repeat_factor"])
@pytest.mark.parametrize("epoch", [0, 4])
def test_an_epoch_has_the_rows_that_the_sampler_draws(kind: str, epoch: int) -> None:
    random = ShardedBatchSampler(ROWS, 8, 3, **draws(kind))
    in_blocks = epoch_of(sampler(**draws(kind)), epoch)
    assert sorted(sum(in_blocks, [])) == sorted(sum(epoch_of(random, epoch), []))
    # Another object and another history: the same order.
    assert epoch_of(sampler(**draws(kind)), epoch) == in_blocks
    assert epoch_of(sampler(**draws(kind)), epoch + 1) != in_blocks


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_share_the_batches_of_one(world: int) -> None:
    alone = epoch_of(sampler(batch_size=6 * world), 2)
    parts = [epoch_of(sampler(batch_size=6, rank=rank, world=world), 2) for rank in range(world)]
    for whole, *shares in zip(alone[:-1], *[part[:-1] for part in parts], strict=True):
        assert [share[0] for share in shares] == whole[:world]
        assert sorted(sum(shares, [])) == sorted(whole)


def test_an_epoch_goes_on_where_it_stopped() -> None:
    whole = epoch_of(sampler(), 1)
    assert epoch_of(sampler(), 1, start=50) == whole[50:]


def test_windows_are_of_whole_blocks_and_none_is_small() -> None:
    blocks = in_table_order()
    order, ends = blocks.shuffled(np.arange(ROWS), np.random.default_rng(0))
    assert ends[-1] == ROWS and len(ends) == 144 // 5
    seen: set[int] = set()
    for first, end in pairwise([0, *ends.tolist()]):
        rows = np.sort(order[first:end])
        # Neighbours of one block come in runs: at least a window of them, less where two blocks touch.
        runs = 1 + int((np.diff(rows) > 1).sum())
        assert len(rows) >= 4 * 7 and runs <= 9
        assert not seen & set(rows.tolist())
        seen |= set(rows.tolist())


def test_blocks_begin_at_other_rows_in_each_epoch() -> None:
    """Else two neighbours of one block would never be in two windows."""
    blocks = in_table_order(block=10, window=2)
    together = []
    for epoch in range(20):
        order, ends = blocks.shuffled(np.arange(ROWS), np.random.default_rng(epoch))
        window = np.empty(ROWS, dtype=int)
        window[order] = np.searchsorted(ends, np.arange(ROWS), side="right")
        together.append(bool(window[4] == window[5]))
    assert 0 < sum(together) < 20


def test_a_batch_of_a_table_sorted_by_class_is_mixed_as_the_docstring_says() -> None:
    """Variance of the share of a class in a batch: p (1 - p) (1 / batch + 1 / window), blocks being of one class."""
    rows, batch, window = 60_000, 25, 50
    blocks = in_table_order(block=20, window=window, rows=rows)
    positive = np.arange(rows) < rows // 2
    shares = []
    for epoch in range(5):
        order, _ = blocks.shuffled(np.arange(rows), np.random.default_rng(epoch))
        shares.append(positive[order].reshape(-1, batch).mean(1))
    variance = np.concatenate(shares).var()
    expected = 0.25 * (1 / batch + 1 / window)
    assert variance == pytest.approx(expected, rel=0.1)
    assert variance > 1.2 * 0.25 / batch  # of an order that is random: the test can tell them apart


def test_what_comes_again_lies_in_other_windows() -> None:
    made = sampler(in_table_order(block=5, window=10), **draws("repeat_factor"))
    order = np.array(sum(epoch_of(made), []))
    times = np.bincount(order % ROWS)
    distances = []
    for row in np.flatnonzero(times > 1):
        places = np.flatnonzero(order % ROWS == row)
        distances.append(np.diff(places).mean())
    # In one window all of them would lie within 100.
    assert len(distances) > 50 and np.mean(distances) > 150


def test_blocks_follow_the_disk_and_not_the_table() -> None:
    places = np.random.default_rng(0).permutation(ROWS)
    layout = blocks_of(places, row_bytes=1 << 17)
    assert (layout.rows, layout.window) == (4, blocks_module.WINDOW)
    order, ends = Blocks(layout.layout, 4, 10).shuffled(np.arange(ROWS), np.random.default_rng(0))
    lies = np.sort(places[order[: ends[0]]])
    assert (np.diff(lies) == 1).mean() > 0.7


def test_a_row_without_pixels_stays_with_its_neighbour() -> None:
    places = np.array([-1, 20, 21, -1, 5, -1])
    assert blocks_of(places, 1).layout.tolist() == [0, 3, 4, 5, 1, 2]
    assert blocks_of(np.array([-1, -1]), 1).layout.tolist() == [0, 1]


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_small_tables_have_one_window(rows: int) -> None:
    order, ends = in_table_order(rows=rows).shuffled(np.arange(rows), np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(rows)) and ends.tolist() == [rows]


def test_a_checkpoint_keeps_the_order(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = blocks_of(np.random.default_rng(1).permutation(ROWS), 1 << 16)
    again = kept_order(in_table_order(), blocks.state_dict())
    assert again is not None and capsys.readouterr().out == ""
    assert epoch_of(sampler(again), 3) == epoch_of(sampler(blocks), 3) != epoch_of(sampler(), 3)
    assert kept_order(in_table_order(), None) is None
    assert capsys.readouterr().out == "order: random, as this run began\n"
    assert kept_order(None, blocks.state_dict()) is not None
    assert capsys.readouterr().out == "order: blocks, as this run began\n"


def test_unreadable_rows_leave_their_batches() -> None:
    made = sampler(world=2)
    whole = [epoch_of(sampler(world=2, rank=rank)) for rank in (0, 1)]
    made.unreadable = np.arange(ROWS) % 9 == 0
    epoch_of(made)
    sizes = [made._size(n) for n in range(len(whole[0]))]
    for size, first, second in zip(sizes, *whole, strict=True):
        assert size == sum(row % 9 != 0 for row in first + second)
    made.start = 0
    empty = [Batch(torch.empty(0), torch.empty(0), torch.empty(0), [])]
    assert made.shares(empty * 3)[1].images == len(range(0, sizes[1], 2))
