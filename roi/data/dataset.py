"""X-rays and their targets by row of the table, uint8 until the device; what is done with images that cannot be read.

Letters: B images of a batch, K classes, N rows of the table, S the side of an image in pixels.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import methodcaller
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from roi import distributed
from roi.data.images import UnreadableImageError, is_constant, locate, read_grey, remark_on_links
from roi.data.pixel_cache import PixelCache, open_cache
from roi.errors import UserError
from roi.files import atomic_write
from roi.text import counted

Item = tuple[int, np.ndarray | None, str]  # row, (S, S) uint8 or None, why there are no pixels
Reader = Callable[[str, int], np.ndarray]  # path, S -> (S, S) uint8


class Features(NamedTuple):
    """What a frozen backbone makes of B images (roi/training/frozen_features.py)."""

    head: Tensor  # (B, D) what the classifier layer is given
    stages: list[Tensor]  # (B, D_i, h_i, w_i) finest first; empty where the model has no maps

    def to(self, device: torch.device) -> "Features":
        move = methodcaller("to", device, non_blocking=True)
        return Features(move(self.head), list(map(move, self.stages)))


class StudyBatch(NamedTuple):
    """How the images of a batch of B studies belong together: V images, n of the largest study."""

    place: Tensor  # (B, n) int64: places among the V images; -1 where a study has no more
    owner: Tensor  # (V,) int64: the study of the batch that an image belongs to
    kinds: Tensor  # (V,) int64: places in roi.data.studies.KINDS
    rows: Tensor  # (V,) int64: rows of the table, plus N for each time an epoch has had the study before

    def to(self, device: torch.device) -> "StudyBatch":
        move = methodcaller("to", device, non_blocking=True)
        return StudyBatch(*map(move, self))


class Batch(NamedTuple):
    """Images of a table with their targets."""

    pixels: Tensor  # (B, 1, S, S) uint8
    target: Tensor  # (B, K) float32: 1, 0, NaN unknown
    # (B,) int64 rows of the table, plus N for each time an epoch has had the row before.
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    failed: list[tuple[int, str]]  # rows whose image could not be read, and why; they are not among the B
    share: float = 1.0  # how many of its images count, relative to the mean over the processes
    constant: tuple[str, ...] = ()  # paths of those of its images, just decoded, whose pixels are all alike
    features: Features | None = None  # in the place of pixels, which are then (B, 0)
    studies: StudyBatch | None = None  # where a unit is a study: target and index are of studies, pixels (V, 1, S, S)

    def to(self, device: torch.device) -> "Batch":
        pixels = self.pixels.to(device, non_blocking=True)
        target = self.target.to(device, non_blocking=True)
        features = self.features.to(device) if self.features else None
        studies = self.studies.to(device) if self.studies else None
        return self._replace(pixels=pixels, target=target, features=features, studies=studies)


class XrayDataset(Dataset):
    """The image files of a table, decoded when they are asked for.

    Item i is of row i modulo N: a sampler counts on beyond N where an epoch has a row again.

    Args:
        read: of an image file; one that knows more kinds of files than this room does. Raises UnreadableImageError.
    """

    def __init__(self, paths: Sequence[str], targets: np.ndarray, size: int, read: Reader | None = None) -> None:
        # One block of memory: forked workers would copy a list of strings page by page, as they count references.
        self.paths = np.array(list(map(os.fsencode, paths)))
        self.targets = targets
        self.size = size
        self.read = read or read_grey

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Item:
        # An error in a worker would end the run with its traceback: what to do is decided where the batch comes.
        try:
            return i, self.read(self._path(i), self.size), ""
        except UnreadableImageError as error:
            return i, None, str(error)

    def _path(self, i: int) -> str:
        row = i % len(self)
        return os.fsdecode(self.paths[row])

    def collate(self, items: list[Item]) -> Batch:
        rows: list[int] = []
        grey: list[np.ndarray] = []
        failed: list[tuple[int, str]] = []
        constant: list[str] = []
        for row, pixels, reason in items:
            if pixels is None:
                failed.append((row, reason))
                continue
            rows.append(row)
            grey.append(pixels)
            if is_constant(pixels):
                constant.append(self._path(row))
        # Of a batch in which nothing can be read the pixels have a shape all the same.
        stack = np.zeros((0, self.size, self.size), dtype=np.uint8)
        if grey:
            stack = np.stack(grey)
        images = torch.from_numpy(stack).unsqueeze(1)
        index = torch.tensor(rows, dtype=torch.int64)
        target = self.targets[index.numpy() % len(self)]
        return Batch(images, torch.from_numpy(target), index, failed, constant=tuple(constant))


# Images that are missing, cannot be read or show nothing


def rows_with_images(
    table: pd.DataFrame,
    image_root: str,
    skip: bool,
    output: Path | None,
) -> tuple[pd.DataFrame, list[str]]:
    """Find the image files of a table.

    Args:
        skip: leave out rows whose image is missing (--skip_unreadable), counted and listed in <output>_missing.txt.

    Returns:
        the rows whose image is there, their paths

    Raises:
        UserError: an image is missing and `skip` is not set, or all of them are.
    """
    paths = locate(image_root, table["image"].tolist())
    table, existing = existing_rows(table, paths, image_root, "--image_root", skip, output)
    remark = remark_on_links(image_root, existing)
    if remark:
        print(remark)
    return table, existing


def existing_rows(
    table: pd.DataFrame,
    paths: Sequence[str | None],
    where: str,
    named_by: str,
    skip: bool,
    output: Path | None,
) -> tuple[pd.DataFrame, list[str]]:
    """`rows_with_images` of paths that were looked for; None: not there.

    Args:
        where: they were looked for, for messages.
        named_by: the flag that said so.
        output: None: missing ones are named on the console alone.
    """
    exists = np.array([path is not None for path in paths])
    missing = table["image"][~exists].tolist()
    nothing_left = len(missing) == len(paths)
    if missing and (nothing_left or not skip):
        raise UserError(
            f"{len(missing):,} of {len(paths):,} images are not under {where}, the first is {missing[0]}; "
            f"check {named_by}, or --skip_unreadable"
        )
    if missing and output is None:
        print(f"{len(missing):,} images are missing and were left out: {', '.join(missing)}")
    elif missing and output:
        side_file = output.with_name(f"{output.stem}_missing.txt")
        # Every process knows the table, one writes.
        if distributed.rank() == 0:
            _write_lines(side_file, missing)
        print(f"{len(missing):,} images are missing and were left out; listed in {side_file}")
    return table[exists], [path for path in paths if path is not None]


def open_cache_of_run(
    images: Sequence[str],
    paths: Sequence[str],
    folder: str,
    size: int,
    workers: int,
    skip: bool,
    output: Path,
) -> PixelCache:
    """The pixel cache under `folder` for `images` (names of the table) whose files are `paths`.

    With `skip` an image that cannot be read has no row (-1) and is listed beside `output`. Constant ones are listed
    there, too.

    Raises:
        UnreadableImageError: an image cannot be read and `skip` is not set, or none can.
    """
    # One process of a machine decodes, the others then find the pixels there.
    with distributed.one_a_machine_first():
        cache = open_cache(folder, images, paths, size, workers)
    unreadable = cache.unreadable
    nothing_left = len(unreadable) == len(images)
    if unreadable and (nothing_left or not skip):
        first = next(iter(unreadable.values()))
        raise UnreadableImageError(
            f"{first}; mend it, or leave such images out with --skip_unreadable "
            f"({len(unreadable):,} of {len(images):,} images)"
        )
    if distributed.rank() == 0:
        note_unreadable(set(unreadable.values()), output)
        note_constant({paths[position] for position in cache.constant}, output)
    return cache


def check_batches(
    batches: Iterable[Batch],
    skip: bool,
    unreadable: set[str],
    constant: set[str] | None = None,
) -> Iterator[Batch]:
    """The batches as they come, with a look at what could not be read.

    Args:
        skip: go on without images that cannot be read.
        unreadable: gets the reason for each of them.
        constant: gets the paths of images whose pixels are all alike.

    Raises:
        UnreadableImageError: an image cannot be read and `skip` is not set.
    """
    for batch in batches:
        for _, reason in batch.failed:
            if not skip:
                raise UnreadableImageError(f"{reason}; mend it, or leave such images out with --skip_unreadable")
            unreadable.add(reason)
        if constant is not None:
            constant.update(batch.constant)
        yield batch


def note_unreadable(unreadable: set[str], output: Path | None) -> None:
    """List what `check_batches` left out in <output>_unreadable.txt, and say how many; without `output` name them."""
    verb = "was" if len(unreadable) == 1 else "were"
    said = f"{counted(len(unreadable), 'image')} could not be read and {verb} left out"
    if unreadable and output is None:
        listed = "; ".join(sorted(unreadable))
        print(f"{said}: {listed}", flush=True)
    elif unreadable and output:
        side_file = output.with_name(f"{output.stem}_unreadable.txt")
        _write_lines(side_file, sorted(unreadable))
        print(f"{said}; the first: {min(unreadable)}; listed in {side_file}", flush=True)


def note_constant(constant: set[str], output: Path) -> None:
    """List images whose pixels are all alike in <output>_constant.txt, and say how many."""
    if constant:
        side_file = output.with_name(f"{output.stem}_constant.txt")
        _write_lines(side_file, sorted(constant))
        print(
            f"{len(constant):,} images are of one grey value: nothing is to be seen in them, they are taken anyway; "
            f"the first is {min(constant)}, listed in {side_file}",
            flush=True,
        )


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_write(path) as file:
        for line in lines:
            file.write(f"{line}\n")
