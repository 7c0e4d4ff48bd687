"""Batches of X-rays: uint8 until the device, in an order that depends on nothing but seed and epoch.

Letters: B images of a batch, K classes, S the side of an image in pixels.
"""

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from roi import distributed
from roi.data.images import UnreadableImage, is_constant, locate, read_grey, said_outside
from roi.data.pixel_cache import PixelCache, open_cache
from roi.errors import RunError, UserError
from roi.files import atomic_write
from roi.process_pool import cause_of_death, children, kill

LOADER_ERRORS = (RuntimeError, OSError, MemoryError)
REMEDIES = {  # of what a loader may say
    "Too many open files": "; raise the limit with ulimit -n, or give fewer --workers",
    "ancdata": ": too many open files; raise the limit with ulimit -n, or give fewer --workers",
    "No space left on device": "; shared memory (/dev/shm) is full: docker has --shm-size, fewer --workers need less",
    "shared memory": "; docker has --shm-size, fewer --workers need less",
    "Cannot allocate memory": "; fewer --workers need less",
}


class Features(NamedTuple):
    """What a frozen backbone makes of B images (roi/training/frozen_features.py)."""

    head: Tensor  # (B, D) what the classifier layer is given
    stages: list[Tensor]  # (B, D_i, h_i, w_i) finest first; empty where the model has no maps

    def to(self, device: torch.device) -> "Features":
        head, *stages = (part.to(device, non_blocking=True) for part in (self.head, *self.stages))
        return Features(head, stages)


class Batch(NamedTuple):
    pixels: Tensor  # (B, 1, S, S) uint8
    target: Tensor  # (B, K) float32: 1, 0, NaN unknown
    index: Tensor  # type: ignore[assignment]  # (B,) int64, rows of the table, plus N for each time an epoch has had the row before; hides tuple.index
    failed: list[tuple[int, str]]  # rows whose image could not be read, and why; they are not among the B
    share: float = 1.0  # how many of its images count, relative to the mean over the processes
    constant: tuple[str, ...] = ()  # paths of those of its images, just decoded, whose pixels are all alike
    features: Features | None = None  # in the place of pixels, which are then (B, 0)

    def to(self, device: torch.device) -> "Batch":
        pixels, target = (part.to(device, non_blocking=True) for part in (self.pixels, self.target))
        return self._replace(pixels=pixels, target=target, features=self.features.to(device) if self.features else None)


class XrayDataset(Dataset):
    """Row i, modulo their number N -> (i, (S, S) uint8 or None, why it is None)."""

    def __init__(self, paths: Sequence[str], targets: np.ndarray, size: int) -> None:
        self.paths = np.array([os.fsencode(p) for p in paths])  # one block of memory: workers do not copy it
        self.targets = targets
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[int, np.ndarray | None, str]:
        try:
            return i, read_grey(os.fsdecode(self.paths[i % len(self)]), self.size), ""
        except UnreadableImage as error:
            return i, None, str(error)

    def collate(self, items: list[tuple[int, np.ndarray | None, str]]) -> Batch:
        rows = [i for i, pixels, _ in items if pixels is not None]
        images = [pixels for _, pixels, _ in items if pixels is not None]
        stack = np.stack(images)[:, None] if images else np.zeros((0, 1, self.size, self.size), dtype=np.uint8)
        failed = [(i, why) for i, pixels, why in items if pixels is None]
        alike = [i % len(self) for i, pixels in zip(rows, images, strict=True) if is_constant(pixels)]
        constant = tuple(os.fsdecode(self.paths[i]) for i in alike)
        index = torch.tensor(rows, dtype=torch.int64)
        target = torch.from_numpy(self.targets[index.numpy() % len(self)])
        return Batch(torch.from_numpy(stack), target, index, failed, constant=constant)


class ShardedBatchSampler:
    """A batch sampler: rows in table order, or shuffled by (seed, epoch). `start` batches of an epoch can be skipped (resume).

    Several processes share a shuffled batch of batch_size * world rows, each takes every world-th of it; of rows in order each takes
    every world-th of all. A process that is left without a row by the last batch gets one that counts nothing (`shares`), so that
    all of them do the same work. Where `least` images a process are needed (batch norm learns nothing from one), a
    last batch that has fewer goes into the batch before it.

    `unreadable` (N,), where it is known which rows have no pixels: they are dealt out with the others and then left out
    of their batches. That gives the batches of a loader that finds out when it reads them.

    With `groups` (N,), the name of each row's group, all groups have the same part of an epoch of N rows, to within one row. Each is dealt
    out permutation by permutation, and an epoch goes on where the last one ended: all rows of a group have come equally often, to within
    one. A row that an epoch has had k times already is called row + k * N, so that its random views differ.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
        groups: np.ndarray | None = None,
    ) -> None:
        self.rows, self.batch_size, self.seed, self.rank, self.world = rows, batch_size, seed, rank, world
        self.groups = [] if groups is None else [np.flatnonzero(groups == name) for name in np.unique(groups)]
        self.epoch = self.start = 0
        self.unreadable: np.ndarray | None = None  # (N,) bool
        self._drawn: tuple[int, np.ndarray] | None = None  # an epoch and its order
        self.least = 1

    @property
    def together(self) -> int:
        """Images of a batch over all processes."""
        return self.batch_size * self.world

    @property
    def merged(self) -> int:
        """Images that would have been a batch of their own, and go into the one before it; 0: none."""
        rest = self.rows % self.together
        few = rest < self.least * self.world and self.batch_size >= self.least > 1
        return rest if few and rest < self.rows and self.seed is not None else 0

    @property
    def last_batch(self) -> int:
        """Images of the last batch over all processes."""
        return self._planned(self._count() - 1)

    def _count(self) -> int:
        """Batches of a shuffled epoch."""
        return -(-self.rows // self.together) - bool(self.merged)

    def _planned(self, n: int) -> int:
        """Images of batch number `n` of a shuffled epoch over all processes, whether they can be read or not."""
        return self.rows - n * self.together if n == self._count() - 1 else self.together

    def __iter__(self) -> Iterator[list[int]]:
        if self.seed is None:
            order = np.arange(self.rank, self.rows, self.world)
            for first in range(self.start * self.batch_size, len(order), self.batch_size):
                yield self._readable(order[first : first + self.batch_size]).tolist()
            return
        order = self._order(self.seed)
        for n in range(self.start, self._count()):
            first = n * self.together
            batch = self._readable(order[first : first + self._planned(n)])
            own = batch[self.rank :: self.world]
            yield (own if len(own) else batch[:1]).tolist()

    def _order(self, seed: int) -> np.ndarray:
        """The rows of this epoch, shuffled."""
        if self._drawn is None or self._drawn[0] != self.epoch:
            order = np.arange(self.rows)
            if self.groups:
                order = np.concatenate([self._dealt(g, seed) for g in range(len(self.groups))])
            self._drawn = self.epoch, np.random.default_rng([seed, self.epoch]).permutation(order)
        return self._drawn[1]

    def _readable(self, batch: np.ndarray) -> np.ndarray:
        return batch if self.unreadable is None else batch[~self.unreadable[batch % self.rows]]

    def _dealt(self, g: int, seed: int) -> np.ndarray:
        """What group `g` gives to the epoch: the next piece of its permutations one after the other."""
        rows, many = self.groups[g], len(self.groups)
        first, last = (
            (epoch * self.rows + g) // many for epoch in (self.epoch, self.epoch + 1)
        )  # over the groups their differences add up to `rows`
        cycles = max(1, 4096 // len(rows))  # permutations that are drawn at once
        length = cycles * len(rows)
        blocks = range(first // length, -(-last // length))
        drawn = [
            np.random.default_rng([seed, g, n, 1]).permuted(np.tile(rows, (cycles, 1)), axis=1).ravel() for n in blocks
        ]  # 1: unlike [seed, epoch]
        order = np.concatenate(drawn)[first - blocks[0] * length : last - blocks[0] * length]
        return order + self.rows * pd.Series(order).groupby(order).cumcount().to_numpy()

    def __len__(self) -> int:
        if self.seed is not None:
            return max(0, self._count() - self.start)
        return -(-len(range(self.rank, self.rows, self.world)) // self.batch_size) - self.start

    def shares(self, group: Sequence[Batch]) -> list["Share"]:
        """What the batches of a step count, the first of them number `start`: the gradient of a step is the mean over its images."""
        if self.world == 1:
            total = sum(len(batch.index) for batch in group)
            return [Share(len(batch.index), 1.0, len(batch.index) / total if total else 0.0) for batch in group]
        sizes = [self._size(self.start + n) for n in range(len(group))]
        own = [len(range(self.rank, size, self.world)) for size in sizes]
        total = max(1, sum(sizes))
        count_of_batch = [n * self.world / max(1, size) for n, size in zip(own, sizes, strict=True)]
        return [Share(n, share, n * self.world / total) for n, share in zip(own, count_of_batch, strict=True)]

    def _size(self, n: int) -> int:
        """Images of batch number `n` of a shuffled epoch, over all processes."""
        first = n * self.together
        if self.unreadable is None or self.seed is None:
            return self._planned(n)
        return len(self._readable(self._order(self.seed)[first : first + self._planned(n)]))


class Share(NamedTuple):
    images: int  # of this process that count
    count_of_batch: float  # relative to the mean over the processes
    of_step: float  # the same over all batches of an optimiser step; the mean over the processes of loss * of_step is the loss of the step


def present(table: pd.DataFrame, image_root: str, skip: bool, output: Path) -> tuple[pd.DataFrame, list[str]]:
    """-> (rows whose image is there, their paths). Missing ones are an error, or counted and
    listed in <output>_missing.txt with --skip_unreadable."""
    paths = locate(image_root, table["image"].tolist())
    missing = [image for image, path in zip(table["image"], paths, strict=True) if path is None]
    if missing and (not skip or len(missing) == len(paths)):
        raise UserError(
            f"{len(missing):,} of {len(paths):,} images are not under {image_root}, the first is {missing[0]}; check --image_root, or --skip_unreadable"
        )
    if missing:
        side_file = output.with_name(f"{output.stem}_missing.txt")
        if distributed.rank() == 0:
            with atomic_write(side_file) as file:
                file.writelines(f"{image}\n" for image in missing)
        print(f"{len(missing):,} images are missing and were left out; listed in {side_file}")
    here = np.array([path is not None for path in paths])
    there = [path for path in paths if path is not None]
    elsewhere = said_outside(image_root, there)
    if elsewhere:
        print(elsewhere)
    return table[here], there


def cached(
    images: Sequence[str], paths: Sequence[str], folder: str, size: int, workers: int, skip: bool, output: Path
) -> PixelCache:
    """The pixel cache under `folder` for `images` (names of the table) whose files are `paths`.

    An unreadable image is an error, or with `skip` it is listed beside `output` and has no row (-1). Constant ones are
    listed there, too.
    """
    with distributed.one_a_machine_first():
        cache = open_cache(folder, images, paths, size, workers)
    unreadable = cache.unreadable
    if unreadable and (not skip or len(unreadable) == len(images)):
        raise UnreadableImage(
            f"{next(iter(unreadable.values()))}; mend it, or leave such images out with --skip_unreadable "
            f"({len(unreadable):,} of {len(images):,} images)"
        )
    if distributed.rank() == 0:
        note_unreadable(set(unreadable.values()), output)
        note_constant({paths[position] for position in cache.constant}, output)
    return cache


def checked(
    batches: Iterable[Batch], skip: bool, unreadable: set[str], constant: set[str] | None = None
) -> Iterator[Batch]:
    """The batches as they come. An unreadable image is a UserError, or with `skip` its reason is put in `unreadable`.

    Paths of constant images are added to `constant`.
    """
    for batch in batches:
        for _, why in batch.failed:
            if not skip:
                raise UnreadableImage(f"{why}; mend it, or leave such images out with --skip_unreadable")
            unreadable.add(why)
        if constant is not None:
            constant.update(batch.constant)
        yield batch


def note_unreadable(unreadable: set[str], output: Path) -> None:
    """List what `checked` left out in <output>_unreadable.txt, and say how many."""
    if unreadable:
        side_file = output.with_name(f"{output.stem}_unreadable.txt")
        with atomic_write(side_file) as file:
            file.writelines(f"{why}\n" for why in sorted(unreadable))
        print(f"{len(unreadable):,} images could not be read and were left out; listed in {side_file}", flush=True)


def note_constant(constant: set[str], output: Path) -> None:
    """List images whose pixels are all alike in <output>_constant.txt, and say how many."""
    if constant:
        side_file = output.with_name(f"{output.stem}_constant.txt")
        with atomic_write(side_file) as file:
            file.writelines(f"{path}\n" for path in sorted(constant))
        print(
            f"{len(constant):,} images are of one grey value: nothing is to be seen in them, they are taken anyway; "
            f"the first is {min(constant)}, listed in {side_file}",
            flush=True,
        )


def quiet_worker(worker: int) -> None:
    """Ctrl-C, and SIGTERM of a job scheduler, reach every process of the group; only the main one answers. A worker ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class FileLoader:
    """Batches that a DataLoader decodes from files. A worker that fails is a RunError where a batch is asked for.

    torch raises the death of a worker wherever the main process happens to be, in the middle of an optimiser step too,
    and in the end waits for workers that do not answer SIGTERM.
    """

    def __init__(self, make: Callable[[], DataLoader]) -> None:
        self.make = make
        self.loader = make()
        self.workers: set[BaseProcess] = set()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        more = False
        try:
            with undisturbed():
                batches = self._begun()
            while True:
                with self._watched():
                    batch = next(batches, None)
                if batch is None:
                    break
                yield batch
            more = self.loader.persistent_workers
        finally:
            if not more:
                self.close()

    def close(self) -> None:
        """End the workers at once; the next iteration starts others."""
        if self.workers:
            kill(self.workers)
            self.workers = set()
            self.loader = self.make()  # the one before may still count on them

    def _begun(self) -> Iterator[Batch]:
        # torch's handler of SIGCHLD raises wherever the main process is; ours, in _watched, where it waits for a batch.
        signal_handling._SIGCHLD_handler_set = True
        before = children()
        try:
            batches = iter(self.loader)
            self.workers |= set(getattr(batches, "_workers", ()))  # one that is dead already is no child any more
            return batches
        except LOADER_ERRORS as error:
            raise self._why(error) from error
        finally:
            self.workers |= children() - before

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """While the main process waits for the workers, the death of one of them is an error."""
        here = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
        before = signal.signal(signal.SIGCHLD, self._look) if here else None
        try:
            self._look()
            yield
        except LOADER_ERRORS as error:
            raise self._why(error) from error
        finally:
            if here:
                signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)

    def _why(self, error: BaseException) -> RunError:
        """What to say of an error; a worker that has died is the cause of any other."""
        dead = [worker.exitcode for worker in self.workers if worker.exitcode]
        if dead:
            return RunError(cause_of_death(dead[0]))
        return error if isinstance(error, RunError) else RunError(failure(error))

    def _look(self, *signalled: object) -> None:
        for worker in self.workers:
            if worker.exitcode:
                raise RunError(cause_of_death(worker.exitcode))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of a block, in which processes and threads start: none is left half-made."""
    came: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, frame: came.append(number)) or signal.SIG_DFL
    try:
        yield
    finally:
        for handled, handler in before.items():
            signal.signal(handled, handler)
        for sent in came:
            signal.raise_signal(sent)


def failure(error: BaseException) -> str:
    """What an error of a loader says, in one line, with the remedy. That of a worker comes with its traceback."""
    said = str(error).strip().splitlines() or [type(error).__name__]
    if "DataLoader worker" in said[-1]:
        return "a worker was killed or crashed; out of memory? Fewer --workers need less"
    remedy = next((remedy for word, remedy in REMEDIES.items() if any(word in line for line in said)), "")
    return f"no batch could be loaded ({said[-1][:200]}){remedy}"


class CacheLoader:
    """Batches gathered from a pixel cache, by a thread that is a few batches ahead; or all pixels on the device, and nothing to load.

    `targets` (N, K) float32 of the images of the cache, in their order.
    """

    def __init__(
        self,
        cache: PixelCache,
        targets: np.ndarray,
        sampler: ShardedBatchSampler,
        device: torch.device,
        on_device: bool,
        prefetch: int,
    ) -> None:
        self.cache, self.sampler, self.device, self.prefetch = cache, sampler, device, prefetch
        self.targets = torch.from_numpy(targets)
        self.pixels: Tensor | None = None  # (N, 1, S, S) on the device
        if on_device:
            self.pixels = torch.empty(len(targets), 1, *cache.pixels.shape[1:], dtype=torch.uint8, device=device)
            readable = np.flatnonzero(cache.rows >= 0)  # no batch has another
            for rows in np.array_split(readable, max(1, len(readable) // 1024)):
                pixels = torch.from_numpy(cache.gather(rows))[:, None]
                self.pixels[torch.from_numpy(rows).to(device)] = pixels.to(device)
            self.targets = self.targets.to(device)

    def __iter__(self) -> Iterator[Batch]:
        rows = (torch.tensor(batch, dtype=torch.int64) for batch in self.sampler)
        if self.pixels is not None:
            pixels = self.pixels
            return (
                Batch(pixels[on], self.targets[on], n, []) for n in rows for on in [self._there(n % len(self.targets))]
            )
        return ahead((self._gathered(n) for n in rows), self.prefetch)

    def __len__(self) -> int:
        return len(self.sampler)

    def _there(self, rows: Tensor) -> Tensor:
        return (rows.pin_memory() if self.device.type == "cuda" else rows).to(self.device, non_blocking=True)

    def _gathered(self, rows: Tensor) -> Batch:
        there = rows % len(self.targets)
        pixels = torch.from_numpy(self.cache.gather(there.numpy()))[:, None]
        batch = Batch(pixels, self.targets[there], rows, [])
        return (
            batch._replace(pixels=pixels.pin_memory(), target=batch.target.pin_memory())
            if self.device.type == "cuda"
            else batch
        )


def fits(cache: PixelCache, rows: int, device: torch.device, wish: str) -> bool:
    """Whether the pixels of `rows` images stay on the device: --cache_on_device yes, no, or auto, where half of a GPU's free memory holds them."""
    if device.type != "cuda" or wish != "auto":
        return device.type != "cpu" and wish == "yes"
    return rows * int(np.prod(cache.pixels.shape[1:])) <= torch.cuda.mem_get_info(device)[0] / 2


def ahead(items: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """The items, made by a thread that is `depth` of them ahead; its error is raised here. It ends when the consumer does."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    done = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not done.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if done.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        done.set()
        thread.join(5.0)  # a disk that hangs must not keep the run


def make_loader(
    dataset: XrayDataset,
    batch_size: int,
    shuffle_seed: int | None = None,
    workers: int = 0,
    prefetch_factor: int = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    rank: int = 0,
    world: int = 1,
    groups: np.ndarray | None = None,
) -> tuple[FileLoader, ShardedBatchSampler]:
    """-> (loader of Batch that decodes files, its sampler, whose `epoch` and `start` say what comes next)."""
    sampler = ShardedBatchSampler(len(dataset), batch_size, shuffle_seed, rank, world, groups)
    make = partial(
        DataLoader,
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
    return FileLoader(make), sampler
