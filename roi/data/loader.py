"""Batches from files, decoded by workers, or from the pixel cache, gathered by a thread.

Letters: B images of a batch, K classes, N images of the cache, S the side of an image in pixels.
"""

import math
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from roi import accelerator
from roi.data.dataset import Batch, XrayDataset
from roi.data.order.choice import Order
from roi.data.order.read_ahead import CHUNK_BYTES, read_ahead
from roi.data.pixel_cache import PixelCache
from roi.data.sampler import ShardedBatchSampler
from roi.errors import RunError
from roi.process_pool import cause_of_death, children, kill

T = TypeVar("T")
LOADER_ERRORS = (RuntimeError, OSError, MemoryError)
REMEDIES = {  # of what a loader may say
    "Too many open files": "; raise the limit with ulimit -n, or give fewer --workers",
    "ancdata": ": too many open files; raise the limit with ulimit -n, or give fewer --workers",
    "No space left on device": "; shared memory (/dev/shm) is full: docker has --shm-size, fewer --workers need less",
    "shared memory": "; docker has --shm-size, fewer --workers need less",
    "Cannot allocate memory": "; fewer --workers need less",
}
COPIED_AT_ONCE = 1024  # images, to the device
JOIN_SECONDS = 5.0  # a disk that hangs must not keep the run


def make_loader(  # noqa: PLR0913 -- what the sampler asks for and what torch's loader asks for, under their own names
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
    copies: np.ndarray | None = None,
) -> tuple["FileLoader", ShardedBatchSampler]:
    """Make a loader that decodes files, and its sampler, whose `epoch` and `start` say what comes next."""
    sampler = ShardedBatchSampler(len(dataset), batch_size, shuffle_seed, rank, world, groups, copies)
    make = partial(
        DataLoader,
        dataset,
        batch_sampler=sampler,
        collate_fn=dataset.collate,
        num_workers=workers,
        # torch refuses both without workers.
        prefetch_factor=prefetch_factor if workers else None,
        persistent_workers=persistent_workers and workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=ignore_signals,
        # The loader draws a number an epoch: not from the global generator.
        generator=torch.Generator(),
    )
    return FileLoader(make), sampler


def ignore_signals(worker: int) -> None:
    """Let only the main process answer Ctrl-C and SIGTERM, which reach every process of a group.

    A worker ends with the main process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


# From files


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
        keep_workers = False
        try:
            with signals_deferred():
                batches = self._start()
            while True:
                with self._watch_workers():
                    batch = next(batches, None)
                if batch is None:
                    break
                yield batch
            keep_workers = self.loader.persistent_workers
        finally:
            if not keep_workers:
                self.close()

    def close(self) -> None:
        """End the workers at once; the next iteration starts others."""
        if self.workers:
            kill(self.workers)
            self.workers = set()
            self.loader = self.make()  # the one before may still count on them

    def _start(self) -> Iterator[Batch]:
        # torch's handler of SIGCHLD raises wherever the main process is; ours only where it waits for a batch.
        signal_handling._SIGCHLD_handler_set = True
        before = children()
        try:
            batches = iter(self.loader)
            # By torch's own list, too: one that is dead already is no child any more.
            self.workers |= set(getattr(batches, "_workers", ()))
            return batches
        except LOADER_ERRORS as error:
            raise self._explain(error) from error
        finally:
            self.workers |= children() - before

    @contextmanager
    def _watch_workers(self) -> Iterator[None]:
        """While the main process waits for the workers, the death of one of them is an error."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        handles_signal = in_main_thread and hasattr(signal, "SIGCHLD")
        before = None
        if handles_signal:
            before = signal.signal(signal.SIGCHLD, self._check_workers)
        try:
            self._check_workers()
            yield
        except LOADER_ERRORS as error:
            raise self._explain(error) from error
        finally:
            if handles_signal:
                signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)

    def _explain(self, error: BaseException) -> RunError:
        """What to say of an error; a worker that has died is the cause of any other."""
        for worker in self.workers:
            if worker.exitcode:
                return RunError(cause_of_death(worker.exitcode))
        if isinstance(error, RunError):
            return error
        return RunError(explain_failure(error))

    def _check_workers(self, *signalled: object) -> None:
        for worker in self.workers:
            if worker.exitcode:
                raise RunError(cause_of_death(worker.exitcode))


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of a block, in which processes and threads start: none is left half-made."""
    received: list[int] = []
    handlers: dict[int, Any] = {}

    def remember(number: int, frame: object) -> None:
        received.append(number)

    if threading.current_thread() is threading.main_thread():
        for handled in (signal.SIGINT, signal.SIGTERM):
            handlers[handled] = signal.signal(handled, remember) or signal.SIG_DFL
    try:
        yield
    finally:
        for changed, handler in handlers.items():
            signal.signal(changed, handler)
        for number in received:
            signal.raise_signal(number)


def explain_failure(error: BaseException) -> str:
    """What an error of a loader says, in one line, with the remedy. That of a worker comes with its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    message = lines[-1]
    if "DataLoader worker" in message:
        return "a worker was killed or crashed; out of memory? Fewer --workers need less"
    remedy = ""
    for word, advice in REMEDIES.items():
        if any(word in line for line in lines):
            remedy = advice
            break
    return f"no batch could be loaded ({message[:200]}){remedy}"


# From the pixel cache


class CacheLoader:
    """Batches gathered from a pixel cache by a thread that is a few batches ahead; or all pixels on the device, and
    nothing to load.

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
        self.cache = cache
        self.sampler = sampler
        self.device = device
        self.accelerator = accelerator.of(device)
        self.prefetch = prefetch
        self.reads_ahead = False  # set by the caller, where the memory does not hold the cache
        self.targets = torch.from_numpy(targets)
        self.pixels: Tensor | None = None  # (N, 1, S, S) on the device
        if on_device:
            self.pixels = pixels_on_device(cache, device)
            self.targets = self.targets.to(device)

    def __iter__(self) -> Iterator[Batch]:
        if self.pixels is not None:
            return self._from_device(self.pixels)
        return prefetch(self._from_cache(), self.prefetch)

    def __len__(self) -> int:
        return len(self.sampler)

    def _from_device(self, pixels: Tensor) -> Iterator[Batch]:
        for batch in self.sampler:
            index = torch.tensor(batch, dtype=torch.int64)
            rows = index % len(self.targets)
            rows = self.accelerator.pinned(rows).to(self.device, non_blocking=True)
            yield Batch(pixels[rows], self.targets[rows], index, [])

    def set_order(self, order: Order) -> None:
        self.sampler.blocks = order.blocks
        self.reads_ahead = order.reads_ahead

    def _announced(self, batches: Iterable[T], rows_of: Callable[[T], np.ndarray], images: int = 1) -> Iterable[T]:
        """Batches whose pixels are read ahead, where that is wanted.

        Args:
            rows_of: positions in the table that a batch needs.
            images: of a row of the sampler.
        """
        if not self.reads_ahead:
            return batches

        def cache_rows(batch: T) -> np.ndarray:
            return self.cache.rows[rows_of(batch)]

        _, *sides = self.cache.pixels.shape
        batch_bytes = self.sampler.batch_size * images * math.prod(sides)
        chunks = self.sampler.chunks(max(1, CHUNK_BYTES // batch_bytes))
        return read_ahead(batches, cache_rows, chunks, [self.cache.pixels])

    def _rows_of(self, batch: list[int]) -> np.ndarray:
        return np.array(batch, dtype=np.int64) % len(self.targets)

    def _from_cache(self) -> Iterator[Batch]:
        for batch in self._announced(self.sampler, self._rows_of):
            index = torch.tensor(batch, dtype=torch.int64)
            rows = index % len(self.targets)
            gathered = self.cache.gather(rows.numpy())
            pixels = torch.from_numpy(gathered).unsqueeze(1)
            target = self.targets[rows]
            # Only from pinned memory the copy to the device goes on while the step computes.
            pixels, target = self.accelerator.pinned(pixels), self.accelerator.pinned(target)
            yield Batch(pixels, target, index, [])


def pixels_on_device(cache: PixelCache, device: torch.device) -> Tensor:
    """All pixels of a cache, (N, 1, S, S); those of an image that cannot be read are undefined: no batch has it."""
    _, *sides = cache.pixels.shape
    pixels = torch.empty(len(cache.rows), 1, *sides, dtype=torch.uint8, device=device)
    readable = np.flatnonzero(cache.rows >= 0)
    # In parts: all at once would need the pixels twice in the memory of the host.
    parts = max(1, len(readable) // COPIED_AT_ONCE)
    for rows in np.array_split(readable, parts):
        part = torch.from_numpy(cache.gather(rows)).unsqueeze(1)
        places = torch.from_numpy(rows).to(device)
        pixels[places] = part.to(device)
    return pixels


def fits_on_device(cache: PixelCache, rows: int, device: torch.device, choice: str) -> bool:
    """Whether the pixels of `rows` images stay on the device.

    `choice` is --cache_on_device: yes, no, or auto, where half of a GPU's free memory must hold them.
    """
    own = accelerator.of(device)
    memory = own.memory()
    if memory is None or choice != "auto":
        return own.keeps_pixels and choice == "yes"
    _, *sides = cache.pixels.shape
    return rows * math.prod(sides) <= memory.free / 2


def prefetch(items: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """The items, made by a thread that is `depth` of them ahead; its error is raised here.

    The thread ends when the consumer does.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    done = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        # With a time limit: a full queue that nobody reads any more would hold the thread for ever.
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
        thread.join(JOIN_SECONDS)
