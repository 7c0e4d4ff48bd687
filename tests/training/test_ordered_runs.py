"""Runs on caches larger than the memory: --order from the flag to the loader, and resumed as they began."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_run import CPU, TERMS_OF, make_fit
from torch import Tensor

from roi.data.dataset import Batch
from roi.data.loader import CacheLoader
from roi.data.order import choice
from roi.data.order.blocks import Blocks
from roi.data.order.memory import Memory
from roi.data.sampler import ShardedBatchSampler
from roi.data.table import LABEL_COLUMNS
from roi.errors import UserError
from roi.models.roi_model import RoiModel
from roi.training import checkpoint
from roi.training.frozen_features import FeatureArrays, FeatureLoader
from roi.training.loaders import LoaderFlags, pixel_loader
from roi.training.training_run import TrainingRun

FLAGS = LoaderFlags(
    image_root="",
    img_size=20,
    batch_size=4,
    workers=0,
    prefetch_factor=2,
    persistent_workers=False,
    cache_dir=None,
    cache_on_device="auto",
    skip_unreadable=False,
    uncertain="ignore",
    sampler="proportional",
    order="auto",
    repeat_threshold=0.05,
)


def in_blocks(run: TrainingRun, rows: int = 3) -> TrainingRun:
    run.sampler.blocks = Blocks(np.random.default_rng(rows).permutation(26).astype(np.int32), rows, 2)
    return run


@pytest.mark.parametrize("today", ["the cache lies in another order", "the memory holds it"])
def test_a_run_goes_on_in_the_order_that_it_began_with(folder: Path, tmp_path: Path, today: str) -> None:
    """Stopped in mid-epoch; bit for bit what an uninterrupted run is."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = in_blocks(make_fit(folder, tmp_path / "a"))
    assert whole.run() == 0
    calls = 0

    def interrupted(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 11:
            os.kill(os.getpid(), signal.SIGTERM)
        return TERMS_OF["evidence"](model, batch, epoch)

    first = in_blocks(make_fit(folder, tmp_path / "b", interrupted))
    assert first.run() == 128 + signal.SIGTERM and first.sampler.start
    state = checkpoint.load(tmp_path / "b" / "c.pt")
    second = make_fit(folder, tmp_path / "b", done=state["log"])
    if today == "the cache lies in another order":
        in_blocks(second, rows=5)
    second.resume(state)
    assert second.run() == 0
    one, two = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_run_of_an_older_version_stays_random(folder: Path, tmp_path: Path) -> None:
    run = make_fit(folder, tmp_path)
    run.save_checkpoint()
    state = checkpoint.load(tmp_path / "c.pt")
    assert "blocks" not in state
    again = in_blocks(make_fit(folder, tmp_path, done=state["log"]))
    again.resume(state)
    assert again.sampler.blocks is None


@pytest.mark.parametrize("memory", [26 * 400, 10**9])
def test_the_flag_and_the_memory_decide(
    folder: Path, tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choice, "usable_memory", lambda: Memory(memory, "a job"))
    images = sorted(path.name for path in folder.glob("*.png"))
    empty = dict.fromkeys([*LABEL_COLUMNS, "soft"], "")
    table = pd.DataFrame({"image": images, **empty, "labels": "Mass"})
    flags = replace(FLAGS, image_root=str(folder), cache_dir=str(tmp_path / "cache"))
    loader, sampler, _ = pixel_loader(table, ["Mass"], flags, CPU, tmp_path / "c.pt", 3)
    assert isinstance(loader, CacheLoader)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("order:")]
    large = memory == 26 * 400
    assert len(lines) == 1 and ("blocks" in lines[0]) == large
    assert loader.reads_ahead == large and (sampler.blocks is not None) == large
    seen = [image for batch in loader for image in batch.index.tolist()]
    assert sorted(seen) == list(range(26))
    # Validation comes in the order of the table, and says nothing.
    loader, sampler, _ = pixel_loader(table, ["Mass"], flags, CPU, tmp_path / "c.pt", None)
    assert isinstance(loader, CacheLoader) and loader.reads_ahead == large and sampler.blocks is None
    assert [image for batch in loader for image in batch.index.tolist()] == list(range(26))
    assert "order:" not in capsys.readouterr().out


def test_blocks_need_a_cache(tmp_path: Path) -> None:
    table = pd.DataFrame({"image": ["a.png"], "labels": ["Mass"]})
    with pytest.raises(UserError, match="--order blocks: .* give --cache_dir DIR"):
        pixel_loader(table, ["Mass"], replace(FLAGS, order="blocks"), CPU, tmp_path / "c.pt", 3)


def test_features_are_read_ahead_as_pixels_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = []
    for name, shape in (("head", (50, 8)), ("stage0", (50, 4, 2, 2))):
        np.save(tmp_path / f"{name}.npy", rng.random(shape).astype(np.float16))
        arrays.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    features = FeatureArrays(arrays[0], arrays[1:])
    assert features.row_bytes == 2 * (8 + 16)
    batches = []
    for ahead in (False, True):
        sampler = ShardedBatchSampler(50, 4, seed=2)
        loader = FeatureLoader(features, np.zeros((50, 1), dtype=np.float32), sampler)
        loader.set_order(choice.Order(Blocks(np.arange(50, dtype=np.int32), 3, 4), ahead, ""))
        batches.append(list(loader))
    for plain, read in zip(*batches, strict=True):
        assert torch.equal(plain.index, read.index)
        assert plain.features is not None and read.features is not None
        assert torch.equal(plain.features.head, read.features.head)
