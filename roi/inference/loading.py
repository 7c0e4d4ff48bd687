"""Batches of the images that are to be predicted, decoded from their files or gathered from the pixel cache."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from roi import accelerator
from roi.data.dataset import Batch, XrayDataset, open_cache_of_run
from roi.data.loader import CacheLoader, make_loader
from roi.data.order.memory import holds, usable_memory
from roi.data.sampler import ShardedBatchSampler
from roi.inference.image_files import read_xray
from roi.inference.predict import Predictor

Loader = Callable[[int, int], Iterable[Batch]]  # first row and end -> the batches of these rows


@dataclass(frozen=True)
class Loading:
    """How images are read."""

    batch_size: int
    workers: int
    prefetch_factor: int
    cache_dir: str | None = None  # of the pixel cache; without it files are decoded
    skip_unreadable: bool = False


def row_loader(predictor: Predictor, table: pd.DataFrame, loading: Loading, side_file: Path | None) -> Loader:
    """The function that loads some rows of a table, less those that cannot be read.

    Args:
        table: image and path of each row.
        side_file: the output beside which unreadable images of the cache are listed; given with a cache.
    """
    if loading.cache_dir:
        return _gathering(predictor, table, loading, loading.cache_dir, side_file or Path())
    return _decoding(predictor, table, loading)


def _decoding(predictor: Predictor, table: pd.DataFrame, loading: Loading) -> Loader:
    paths = table["path"].tolist()

    def load(first: int, end: int) -> Iterable[Batch]:
        targets = predictor.no_targets(end - first)
        dataset = XrayDataset(paths[first:end], targets, predictor.img_size, read_xray)
        # Pinned memory goes to a GPU while it computes.
        loader, _ = make_loader(
            dataset,
            loading.batch_size,
            workers=loading.workers,
            prefetch_factor=loading.prefetch_factor,
            pin_memory=accelerator.of(predictor.device).pins,
        )
        return loader

    return load


def _gathering(predictor: Predictor, table: pd.DataFrame, loading: Loading, cache_dir: str, side_file: Path) -> Loader:
    images = table["image"].tolist()
    paths = table["path"].tolist()
    cache = open_cache_of_run(
        images, paths, cache_dir, predictor.img_size, loading.workers, loading.skip_unreadable, side_file
    )
    reads_ahead = not holds(usable_memory(), len(cache.rows) * predictor.img_size**2)

    def load(first: int, end: int) -> Iterable[Batch]:
        # A view of the cache: its pixels stay one mapped file.
        rows = replace(cache, rows=cache.rows[first:end])
        sampler = ShardedBatchSampler(end - first, loading.batch_size)
        sampler.unreadable = rows.rows < 0
        targets = predictor.no_targets(end - first)
        # Pixels come batch by batch: inference sees each once, so that a place on the device would not pay.
        loader = CacheLoader(rows, targets, sampler, predictor.device, False, loading.prefetch_factor)
        loader.reads_ahead = reads_ahead
        return loader

    return load
