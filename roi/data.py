"""Batches of X-rays: uint8 until the device, in an order that depends on nothing but seed and epoch.

Letters: B images of a batch, K classes, S the side of an image in pixels.
"""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from roi.files import replacing
from roi.images import UnreadableImage, locate, read_grey


class Batch(NamedTuple):
    pixels: Tensor  # (B, 1, S, S) uint8
    target: Tensor  # (B, K) float32: 1, 0, NaN unknown
    index: Tensor  # type: ignore[assignment]  # (B,) int64, rows of the table; hides tuple.index
    failed: list[tuple[int, str]]  # rows whose image could not be read, and why; they are not among the B

    def to(self, device: torch.device) -> "Batch":
        return self._replace(pixels=self.pixels.to(device, non_blocking=True), target=self.target.to(device, non_blocking=True))


class XrayDataset(Dataset):
    """Row i -> (i, (S, S) uint8 or None, why it is None)."""

    def __init__(self, paths: Sequence[str], targets: np.ndarray, size: int) -> None:
        self.paths = np.array([os.fsencode(p) for p in paths])  # one block of memory: workers do not copy it
        self.targets = targets
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[int, np.ndarray | None, str]:
        try:
            return i, read_grey(os.fsdecode(self.paths[i]), self.size), ""
        except UnreadableImage as error:
            return i, None, str(error)

    def collate(self, items: list[tuple[int, np.ndarray | None, str]]) -> Batch:
        rows = [i for i, pixels, _ in items if pixels is not None]
        images = [pixels for _, pixels, _ in items if pixels is not None]
        stack = np.stack(images)[:, None] if images else np.zeros((0, 1, self.size, self.size), dtype=np.uint8)
        failed = [(i, why) for i, pixels, why in items if pixels is None]
        return Batch(torch.from_numpy(stack), torch.from_numpy(self.targets[rows]), torch.tensor(rows, dtype=torch.int64), failed)


class Batches:
    """A batch sampler: rows in table order, or shuffled by (seed, epoch). `start` batches of an epoch can be skipped (resume)."""

    def __init__(self, rows: int, batch_size: int, seed: int | None = None) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.rows) if self.seed is None else np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
        for first in range(self.start * self.batch_size, self.rows, self.batch_size):
            yield order[first : first + self.batch_size].tolist()

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size) - self.start


def present(table: pd.DataFrame, image_root: str, skip: bool, output: Path) -> tuple[pd.DataFrame, list[str]]:
    """-> (rows whose image is there, their paths). Missing ones are an error, or counted and
    listed in <output>_missing.txt with --skip_unreadable."""
    paths = locate(image_root, table["image"].tolist())
    missing = [image for image, path in zip(table["image"], paths, strict=True) if path is None]
    if missing and (not skip or len(missing) == len(paths)):
        raise ValueError(
            f"{len(missing):,} of {len(paths):,} images are not under {image_root}, the first is {missing[0]}; check --image_root, or --skip_unreadable"
        )
    if missing:
        side_file = output.with_name(f"{output.stem}_missing.txt")
        with replacing(side_file) as file:
            file.writelines(f"{image}\n" for image in missing)
        print(f"{len(missing):,} images are missing and were left out; listed in {side_file}")
    here = np.array([path is not None for path in paths])
    return table[here], [path for path in paths if path is not None]


def checked(batches: Iterable[Batch], skip: bool, unreadable: set[str]) -> Iterator[Batch]:
    """The batches as they come; an unreadable image is a ValueError, or with `skip` its reason is added to `unreadable`."""
    for batch in batches:
        for _, why in batch.failed:
            if not skip:
                raise ValueError(f"{why}; mend it, or leave such images out with --skip_unreadable")
            unreadable.add(why)
        yield batch


def note_unreadable(unreadable: set[str], output: Path) -> None:
    """List what `checked` left out in <output>_unreadable.txt, and say how many."""
    if unreadable:
        side_file = output.with_name(f"{output.stem}_unreadable.txt")
        with replacing(side_file) as file:
            file.writelines(f"{why}\n" for why in sorted(unreadable))
        print(f"{len(unreadable):,} images could not be read and were left out; listed in {side_file}", flush=True)


def quiet_worker(worker: int) -> None:
    """Ctrl-C, and SIGTERM of a job scheduler, reach every process of the group; only the main one answers. A worker ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def make_loader(
    dataset: XrayDataset,
    batch_size: int,
    shuffle_seed: int | None = None,
    workers: int = 0,
    prefetch_factor: int = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
) -> tuple[DataLoader, Batches]:
    """-> (loader of Batch, its sampler, whose `epoch` and `start` say what comes next)."""
    sampler = Batches(len(dataset), batch_size, shuffle_seed)
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=dataset.collate,
        num_workers=workers,
        prefetch_factor=prefetch_factor if workers else None,
        persistent_workers=persistent_workers and workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=quiet_worker,
        generator=torch.Generator(),  # the loader draws a number an epoch: not from the global generator
    )
    return loader, sampler
