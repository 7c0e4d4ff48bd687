"""Images decoded once: one memory-mapped array of grey pixels and a small index, shared by every table and run.

    cache = open_cache("pixels", table["image"], paths, size=224, workers=8)
    cache.gather(np.array([5, 0]))  # (2, 224, 224) uint8, the pixels of read_grey

A source is known by its name in the table, bytes, mtime and resolved path. One that lies elsewhere is the same if a
sample of its bytes is; of those that seem to lie where they were a few are sampled each time.

DIR/224px-1a2b3c4d/     a folder for each size and way of decoding (digest of cache.json)
    cache.json          that way, in words
    pixels.u8           rows of S x S bytes; shard k begins at row k * SHARD
    shard-000000.json   which images its rows are, facts about them, and the checksum of the rows; written after them:
                        a killed build leaves whole shards
    lock                held by the run that decodes

Letters: n images asked for, N rows of the file, b images of a batch, S the side of an image in pixels.
"""

import json
import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from roi.data import pixel_shards
from roi.data.images import UnreadableImageError, cannot_read
from roi.data.pixel_shards import Damage, Failures, Files, Identity, Job, Outcome, Samples, Shards, Stamp
from roi.errors import UserError
from roi.files import atomic_write, can_be_made, reason
from roi.process_pool import run_jobs
from roi.progress import progress, say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SPOTS = 16  # files that are sampled though their paths say that they are the same


@dataclass
class PixelCache:
    """Images decoded once: pixels (N, S, S) uint8, memory-mapped read-only; `rows` of the images asked for."""

    pixels: np.ndarray
    rows: np.ndarray  # (n,) int64, in the order of the images asked for; -1 where one could not be read
    unreadable: dict[int, str]  # position among the images asked for -> why; begins with its path
    constant: list[int] = field(default_factory=list)  # positions of those whose pixels are all alike
    scales: dict[str, int] = field(default_factory=dict)  # how more than 8 bits became 8 -> of how many images

    def gather(self, index: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The pixels of (b,) positions among the images asked for, all of them readable.

        Returns:
            (b, S, S) uint8; `out` if given.
        """
        rows = self.rows[index]
        assert rows.min(initial=0) >= 0, f"image {index[rows.argmin()]} could not be read"
        if out is None:
            _, *sides = self.pixels.shape
            out = np.empty((len(rows), *sides), dtype=np.uint8)
        if len(rows) == 0:
            return out
        # With "clip" numpy writes straight into `out`; by default it makes a copy first.
        return np.take(self.pixels, rows, axis=0, out=out, mode="clip")


def open_cache(folder: str | Path, images: Sequence[str], paths: Sequence[str], size: int, workers: int) -> PixelCache:
    """Open the cache under `folder`, and decode first what it has not.

    Args:
        images: names of the table.
        paths: their files.

    Raises:
        UserError: the folder is of another cache, lacks images and cannot be written, or the disk is too small.
    """
    recipe = pixel_shards.recipe_of(size)
    home = pixel_shards.folder_of(folder, recipe)
    check_recipe(home, recipe)
    asked, unreadable = identify_all(images, paths)
    files = {identity: path for identity, path in zip(asked, paths, strict=True) if identity}
    samples: Samples = {}
    # What is unreadable has no row, and is tried again by each run: the file may have been mended.
    shards, _ = pixel_shards.sound_shards(home, size, files, {})
    missing = missing_files(shards, files, samples)
    failed: Failures = {}
    if missing:
        try:
            lock = open_lock(home)
        except OSError as error:
            failed = refuse_readable(home, missing, error)
        else:
            with locked(lock, home):
                shards, failed = fill(home, recipe, files, shards, workers, samples)
    else:
        say(f"pixel cache {home}: all {len(files):,} images there")
    row_of = find_rows(shards, files, samples)
    rows = np.full(len(asked), -1, dtype=np.int64)
    for position, identity in enumerate(asked):
        if identity in row_of:
            rows[position] = row_of[identity]
        if identity in failed:
            unreadable[position] = failed[identity]
    constant, scales = facts_of(shards, rows)
    for scale, images_of_scale in scales.items():
        count = f"{images_of_scale:,} of {len(rows):,} images"
        say(f"pixel cache {home}: {count} have more than 8 bits, {scale}")
    last_row = int(rows.max(initial=-1))
    pixels = pixel_shards.map_rows(home, last_row + 1, size)
    return PixelCache(pixels, rows, unreadable, constant, scales)


def check_recipe(home: Path, recipe: dict[str, Any]) -> None:
    """UserError: the folder says that it holds something else."""
    # Its folder, which the user named, below a file.
    if not home.parent.is_dir():
        can_be_made(home.parent, is_folder=True)
    path = home / "cache.json"
    with suppress(FileNotFoundError):
        try:
            existing = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            existing = reason(error)
        if existing != recipe:
            raise UserError(
                f"{path}: is of another cache (found {existing}, needs {recipe}); "
                "choose another --cache_dir, or remove that folder"
            )


def identify_all(images: Sequence[str], paths: Sequence[str]) -> tuple[list[Identity | None], dict[int, str]]:
    """What each image is known by, and why it has no identity, by position."""
    asked: list[Identity | None] = []
    unreadable: dict[int, str] = {}
    folders: dict[str, str] = {}
    for position, (name, path) in enumerate(zip(images, paths, strict=True)):
        try:
            asked.append(pixel_shards.identify(name, path, folders))
        except OSError as error:  # vanished since the table was made
            asked.append(None)  # no identity: it has no row
            unreadable[position] = str(cannot_read(path, reason(error)))
    return asked, unreadable


# Which rows are which files


class Row(NamedTuple):
    """A row of the cache and the file that it was decoded from."""

    path: str  # resolved
    sample: int
    row: int


def find_rows(shards: Shards, files: Files, samples: Samples) -> dict[Identity, int]:
    """Find the rows that have the pixels of files; what no shard holds is left out. `samples` is added to.

    A file is the one that was decoded if it lies where that lay, or else if it has the same sample.
    """
    rows = _rows_by_stamp(shards, {identity.stamp for identity in files})
    row_of = _rows_by_path(rows, files)
    # Another disk may be mounted there now: some files are sampled in any case, and where one of them differs no path
    # is believed.
    step = max(1, len(row_of) // SPOTS)
    spots = list(row_of)[::step]
    pixel_shards.sample_files([files[identity] for identity in spots], samples)
    for identity in spots:
        if samples[files[identity]] != row_of[identity].sample:
            row_of = {}
            break
    elsewhere = [identity for identity in files if identity not in row_of and identity.stamp in rows]
    pixel_shards.sample_files([files[identity] for identity in elsewhere], samples)
    for identity in elsewhere:
        for row in rows[identity.stamp]:
            if row.sample == samples[files[identity]]:
                row_of[identity] = row
    return {identity: row.row for identity, row in row_of.items()}


def _rows_by_stamp(shards: Shards, stamps: set[Stamp]) -> dict[Stamp, list[Row]]:
    rows: dict[Stamp, list[Row]] = defaultdict(list)
    for shard in shards.values():
        for k, identity in enumerate(shard.identities()):
            if identity.stamp in stamps:
                row = Row(identity.path, shard.source_crc32[k], shard.first + k)
                rows[identity.stamp].append(row)
    return rows


def _rows_by_path(rows: dict[Stamp, list[Row]], files: Files) -> dict[Identity, Row]:
    """The rows of files that lie where exactly one row was decoded from."""
    row_of = {}
    for identity in files:
        candidates = rows.get(identity.stamp, ())
        same = [row for row in candidates if row.path == identity.path]
        if len(same) == 1:
            row_of[identity] = same[0]
    return row_of


def missing_files(shards: Shards, files: Files, samples: Samples) -> Files:
    """The files that no shard holds, in the order of `files`."""
    held = find_rows(shards, files, samples)
    return {identity: path for identity, path in files.items() if identity not in held}


def facts_of(shards: Shards, rows: np.ndarray) -> tuple[list[int], dict[str, int]]:
    """What the shards say of the images asked for, whose rows are (n,).

    Returns:
        positions of constant images, how many images have each scale
    """
    constant_rows: set[int] = set()
    scale_of: dict[int, str] = {}
    for shard in shards.values():
        for k in range(len(shard.names)):
            row = shard.first + k
            if shard.constant[k]:
                constant_rows.add(row)
            if shard.scale[k]:
                scale_of[row] = shard.scale[k]
    asked = rows.tolist()
    constant = [position for position, row in enumerate(asked) if row in constant_rows]
    scales = Counter(scale_of[row] for row in asked if row in scale_of)
    return constant, dict(scales.most_common())


# Decoding what is missing


def open_lock(home: Path) -> int:
    """Make the folder and open its lock file. OSError: it cannot be written"""
    if fcntl is None:
        raise UserError("the pixel cache needs Linux or macOS; leave --cache_dir out")
    home.mkdir(parents=True, exist_ok=True)
    return os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o666)


@contextmanager
def locked(lock: int, home: Path) -> Iterator[None]:
    """Nobody else decodes into this folder meanwhile."""
    # Not a lock of roi/files.py: this one is shared with forked workers and outlasts this process, if it is killed,
    # until they have stopped writing.
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"pixel cache {home}: another run is decoding into it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"{home}: its disk cannot lock files ({error.strerror}); choose another --cache_dir"
            ) from error
        yield
    finally:
        os.close(lock)


def refuse_readable(home: Path, missing: Files, error: OSError) -> Failures:
    """A folder that cannot be written serves if what it lacks are images that nobody can read.

    Returns:
        why they cannot be read

    Raises:
        UserError: one of them can.
    """
    failed = {}
    for identity, path in missing.items():
        try:
            pixel_shards.read_picture(path)
        except UnreadableImageError as message:
            failed[identity] = str(message)
        else:
            raise UserError(
                f"{home}: lacks {len(missing):,} of these images and cannot be written ({error.strerror}); "
                "choose another --cache_dir"
            ) from error
    return failed


def fill(
    home: Path, recipe: dict[str, Any], files: Files, known: Shards, workers: int, samples: Samples
) -> tuple[Shards, Failures]:
    """Decode what is missing; only under the lock.

    Returns:
        all sound shards, why some images could not be read
    """
    size = recipe["size"]
    # Another run may have decoded them while this one waited for the lock.
    shards, damaged = pixel_shards.sound_shards(home, size, files, known)
    missing = missing_files(shards, files, samples)
    # Before hours of decoding, not at their end.
    check_disk(home, len(missing) * size**2)
    drop_damaged(home, damaged)
    say_unused(home, size)
    cached = len(files) - len(missing)
    say(f"pixel cache {home}: {cached:,} images there, decoding {len(missing):,}")
    jobs = pixel_shards.plan_jobs(home, size, missing, shards, workers)
    begin = time.perf_counter()
    done = 0
    failed: Failures = {}
    try:
        write_recipe(home, recipe)
        with closing(decode_all(jobs, workers, len(missing))) as outcomes:
            for shard, unreadable in outcomes:
                # Written as they come: a run that is killed keeps them.
                if shard.names:
                    pixel_shards.write_shard(home, shard)
                    shards[shard.slot] = shard
                failed |= unreadable
                done += len(shard.names)
    except OSError as error:
        raise UserError(
            f"{home}: decoding stopped ({reason(error)}), {done:,} new images are kept; mend that or choose another "
            "--cache_dir, and give the same command"
        ) from error
    seconds = time.perf_counter() - begin
    if jobs:
        rate = done / seconds
        say(f"pixel cache {home}: decoded {done:,} images in {seconds:.1f} s ({rate:.1f} images/s)")
    return shards, failed


def decode_all(jobs: list[Job], workers: int, images: int) -> Generator[Outcome, None, None]:
    """What comes of the jobs, as they end, with a bar."""
    # One worker alone would be slower than this process.
    processes = workers if min(workers, len(jobs)) > 1 else 0
    with (
        closing(run_jobs(pixel_shards.decode, jobs, processes)) as ready,
        progress(None, images, "decoding") as bar,
    ):
        for _, outcome in ready:
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome
            shard, unreadable = outcome
            bar.update(len(shard.names) + len(unreadable))


def check_disk(home: Path, need: int) -> None:
    """UserError: fewer than `need` bytes are free."""
    free = shutil.disk_usage(home).free
    if need > free:
        raise UserError(
            f"{home}: the pixel cache needs {need / 1e9:,.2f} GB ({need:,} bytes), {free / 1e9:,.2f} GB ({free:,} "
            "bytes) are free; choose another --cache_dir or a smaller --img_size"
        )


def drop_damaged(home: Path, damaged: Damage) -> None:
    """Remove the indices of damaged shards: their rows are free."""
    for slot in damaged:
        pixel_shards.index_path(home, slot).unlink(missing_ok=True)
    if damaged:
        slot, flaw = next(iter(damaged.items()))
        say(
            f"pixel cache {home}: dropped {len(damaged)} damaged shard(s), the first is {slot} ({flaw}); what is "
            "asked for of them is decoded anew"
        )


def say_unused(home: Path, size: int) -> None:
    """Name the caches of this size that were made in another way: they take up room, and nothing uses them."""
    for other in sorted(home.parent.glob(f"{size}px-*")):
        pixels = other / "pixels.u8"
        if other != home and pixels.exists():
            gigabytes = pixels.stat().st_size / 1e9
            say(
                f"pixel cache {other}: was made by another version of this program or of Pillow, and is not used; "
                f"remove it to free {gigabytes:.2f} GB"
            )


def write_recipe(home: Path, recipe: dict[str, Any]) -> None:
    path = home / "cache.json"
    if not path.exists():
        with atomic_write(path) as file:
            json.dump(recipe, file, indent=1)
