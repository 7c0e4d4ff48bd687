"""Batches of a run: of files, of the pixel cache, or of the features of a frozen backbone.

Letters: N images, K classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from roi import accelerator, distributed
from roi.data.dataset import Batch, XrayDataset, check_batches, open_cache_of_run, rows_with_images
from roi.data.loader import CacheLoader, fits_on_device, make_loader
from roi.data.order.choice import choose_order
from roi.data.repeat_factors import class_factors, expected_copies, repeat_factors
from roi.data.sampler import ShardedBatchSampler
from roi.data.targets import target_matrix
from roi.errors import UserError
from roi.models.roi_model import LEARNED, RoiModel
from roi.training import mask_controls
from roi.training.frozen_features import FeatureLoader, frozen_features
from roi.training.optim import batch_norms
from roi.training.rows import Rows


@dataclass(frozen=True)
class LoaderFlags:
    """The flags that say how images are read and in which batches they come."""

    image_root: str
    img_size: int
    batch_size: int
    workers: int
    prefetch_factor: int
    persistent_workers: bool
    cache_dir: str | None
    cache_on_device: str
    skip_unreadable: bool
    uncertain: str
    sampler: str
    order: str
    repeat_threshold: float


class Draws(NamedTuple):
    """How often the rows of an epoch come, as ShardedBatchSampler takes it; neither: each once."""

    groups: np.ndarray | None = None  # (N,) all groups have the same part
    copies: np.ndarray | None = None  # (N,) so often in the mean over epochs


@dataclass
class Loaders:
    """The batches of a run."""

    train: Iterable[Batch]
    sampler: ShardedBatchSampler  # of `train`
    val: Iterable[Batch] | None = None
    # Pixels of validation, where `val` gives features and a mask is to be looked at.
    mask: Iterable[Batch] | None = None
    mask_every: int = 0  # of the validation rows every so manieth is looked at; 0: none
    # Names of what `train` has, images or studies; and the data set of each that `val` has, where there are several.
    names: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=object))
    val_datasets: np.ndarray | None = None


def make_loaders(
    rows: Rows,
    flags: LoaderFlags,
    model: RoiModel,
    frozen: bool,
    device: torch.device,
    dtype: torch.dtype,
    save: Path,
    seed: int,
) -> Loaders:
    """The loaders of training and validation. Rows whose image is not there leave `rows`.

    Args:
        frozen: features of the backbone in the place of pixels (--freeze_backbone)
        save: the checkpoint, beside which side files list what is left out
    """
    loader = partial(feature_loader, model, dtype) if frozen else pixel_loader
    train, sampler, rows.train = loader(rows.train, rows.classes, flags, device, save, seed)
    if batch_norms(model):
        # One image has no variance to learn from.
        sampler.least = 2
    if sampler.merged:
        print(
            f"the last {sampler.merged} images of an epoch are too few for batch norm: they go into the batch before "
            f"them, which has {sampler.last_batch:,} images"
        )
    loaders = Loaders(train, sampler, names=rows.train["image"].to_numpy())
    if rows.val is None:
        return loaders
    # Side files of validation stand beside those of training.
    output = save.with_name(f"{save.stem}_val.pt")
    loaders.val, _, rows.val = loader(rows.val, rows.classes, flags, device, output, None)
    read_ahead_alike(loaders)
    loaders.val_datasets = rows.val_datasets
    if model.mask in LEARNED:
        loaders.mask_every = -(-len(rows.val) // mask_controls.ROWS)
        if frozen:
            loaders.mask, _, _ = pixel_loader(rows.val, rows.classes, flags, device, output, None)
    return loaders


def read_ahead_alike(loaders: Loaders) -> None:
    """Validation finds none of its images in the memory after an epoch that has filled it."""
    kinds = (CacheLoader, FeatureLoader)
    if isinstance(loaders.train, kinds) and isinstance(loaders.val, kinds):
        loaders.val.reads_ahead |= loaders.train.reads_ahead


def names_of_batch(names: np.ndarray, index: torch.Tensor) -> list[str]:
    """Names of the images or studies of a batch; one that an epoch has had before comes as its number + N."""
    return names[index.numpy() % len(names)].tolist()


def pixel_loader(
    table: pd.DataFrame,
    classes: list[str],
    flags: LoaderFlags,
    device: torch.device,
    output: Path,
    seed: int | None,
) -> tuple[Iterable[Batch], ShardedBatchSampler, pd.DataFrame]:
    """Batches of pixels, their sampler, and the rows whose image is there.

    For validation (no `seed`) in table order, for training shuffled. The rows are the same with and without a cache:
    what cannot be read is left out of its batch.
    """
    if flags.order == "blocks" and not flags.cache_dir:
        raise UserError(
            "--order blocks: without --cache_dir images are files of their own; give --cache_dir DIR as well"
        )
    table, paths = rows_with_images(table, flags.image_root, flags.skip_unreadable, output)
    if not flags.cache_dir:
        return *_file_loader(table, paths, classes, flags, device, seed), table
    names = table["image"].tolist()
    cache = open_cache_of_run(
        names, paths, flags.cache_dir, flags.img_size, flags.workers, flags.skip_unreadable, output
    )
    targets = training_targets(table, classes, flags, seed)
    draws = draws_of(table, targets, flags, seed)
    processes = distributed.rank(), distributed.world()
    sampler = ShardedBatchSampler(len(table), flags.batch_size, seed, *processes, *draws)
    if cache.unreadable:
        # The same batches as without a cache, where such rows are left out when they are read.
        sampler.unreadable = cache.rows < 0
    on_device = fits_on_device(cache, len(table), device, flags.cache_on_device)
    loader = CacheLoader(cache, targets, sampler, device, on_device, flags.prefetch_factor)
    set_order(loader, flags.order, seed, cache.rows, flags.img_size**2)
    return loader, sampler, table


def set_order(
    loader: CacheLoader | FeatureLoader, choice: str, seed: int | None, places: np.ndarray, row_bytes: int
) -> None:
    """Shuffle and read ahead as --order says; without a seed, for validation, rows stay in the order of the table.

    Args:
        places: (N,) where the rows of the sampler lie.
    """
    on_device = isinstance(loader, CacheLoader) and loader.pixels is not None
    order = choose_order("random" if seed is None else choice, places, row_bytes, on_device)
    loader.set_order(order)
    if seed is not None:
        print(order.why)


def _file_loader(
    table: pd.DataFrame,
    paths: list[str],
    classes: list[str],
    flags: LoaderFlags,
    device: torch.device,
    seed: int | None,
) -> tuple[Iterable[Batch], ShardedBatchSampler]:
    """Batches of pixels that are decoded anew each time, and their sampler."""
    if flags.skip_unreadable and distributed.world() > 1:
        raise UserError(
            "--skip_unreadable with several processes needs --cache_dir: which images cannot be read must be known "
            "before they share them"
        )
    targets = training_targets(table, classes, flags, seed)
    return make_loader(
        XrayDataset(paths, targets, flags.img_size),
        flags.batch_size,
        seed,
        flags.workers,
        flags.prefetch_factor,
        flags.persistent_workers,
        accelerator.of(device).pins,
        distributed.rank(),
        distributed.world(),
        *draws_of(table, targets, flags, seed),
    )


def feature_loader(
    model: RoiModel,
    dtype: torch.dtype,
    table: pd.DataFrame,
    classes: list[str],
    flags: LoaderFlags,
    device: torch.device,
    output: Path,
    seed: int | None,
) -> tuple[Iterable[Batch], ShardedBatchSampler, pd.DataFrame]:
    """`pixel_loader` for a frozen backbone: batches of its features in the place of pixels."""
    # In the order of the table: features are kept in it, and shuffled when they are read.
    pixels, in_order, table = pixel_loader(table, classes, flags, device, output, None)

    def read_again() -> Iterable[Batch]:
        return check_batches(pixels, False, set())

    features = frozen_features(model, read_again, len(table), flags.cache_dir, device, dtype)
    targets = training_targets(table, classes, flags, seed)
    draws = draws_of(table, targets, flags, seed)
    sampler = ShardedBatchSampler(len(table), flags.batch_size, seed, 0, 1, *draws)
    sampler.unreadable = in_order.unreadable
    loader = FeatureLoader(features, targets, sampler, flags.prefetch_factor)
    set_order(loader, flags.order, seed, np.arange(len(table)), features.row_bytes)
    return loader, sampler, table


def training_targets(table: pd.DataFrame, classes: list[str], flags: LoaderFlags, seed: int | None) -> np.ndarray:
    """Targets (N, K) to learn; without a seed, for validation, what is certain."""
    if seed is None:
        return target_matrix(table, classes)
    return target_matrix(table, classes, flags.uncertain, seed)


def draws_of(table: pd.DataFrame, targets: np.ndarray, flags: LoaderFlags, seed: int | None) -> Draws:
    """Which rows --sampler draws how often; each once for validation, which has no seed."""
    if seed is None or flags.sampler == "proportional":
        return Draws()
    if flags.sampler == "balanced":
        return Draws(groups=table["dataset"].to_numpy(dtype=object))
    rare = class_factors(targets, flags.repeat_threshold) > 1
    factors = repeat_factors(targets, flags.repeat_threshold)
    repeated = factors > 1
    print(
        f"repeat factors: {rare.sum()} of {len(rare)} classes are rarer than {flags.repeat_threshold:g}; "
        f"{repeated.sum():,} of {len(factors):,} images come more often, at most {factors.max():.1f} times as "
        "often as the others"
    )
    return Draws(copies=expected_copies(factors))
