"""Shards of the pixel cache: what a source is known by, how its pixels are decoded into rows of a file, and whether
those rows are sound.

Letters: N rows of the file, S the side of an image in pixels.
"""

import hashlib
import json
import multiprocessing
import os
import sys
import zlib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

from roi.data.images import UnreadableImageError, cannot_read, is_constant, read_picture
from roi.errors import UserError
from roi.files import atomic_write, reason
from roi.progress import progress

VERSION = 2  # of the layout, and of how samples of more than 8 bits become grey
SHARD = 256  # rows
BLOCK = 1 << 22  # bytes that are read at once for a checksum
LONG = 1 << 30  # bytes whose check gets a bar
PIECE, PIECES = 1 << 12, 16  # bytes and number of the pieces of a file that are its sample
READERS = min(8, os.cpu_count() or 1)  # threads that wait for a disk

Stamp = tuple[str, int, int]  # what files have in common that were unpacked from one archive, and sometimes from two


class Identity(NamedTuple):
    """What the file of an image is known by."""

    name: str  # in the table
    size: int  # bytes
    mtime_ns: int
    path: str  # resolved

    @property
    def stamp(self) -> Stamp:
        return self[:3]


class Shard(NamedTuple):
    """What shard-NNNNNN.json says of its rows, one entry a row in each list."""

    first: int  # row
    names: list[str]
    source_bytes: list[int]
    source_mtime_ns: list[int]
    source_path: list[str]
    source_crc32: list[int]  # of a sample
    scale: list[str]  # how samples of more than 8 bits became 8 bits
    constant: list[int]  # 1 where all pixels are alike
    crc32: int  # of the rows

    @property
    def slot(self) -> int:
        """Its number."""
        return self.first // SHARD

    def identities(self) -> list[Identity]:
        columns = (self.names, self.source_bytes, self.source_mtime_ns, self.source_path)
        return [Identity(*values) for values in zip(*columns, strict=True)]


Shards = dict[int, Shard]  # by number
Damage = dict[int, str]  # number of a shard -> what is wrong with it
Files = dict[Identity, str]  # -> path
Failures = dict[Identity, str]  # -> why it cannot be read; begins with its path
Samples = dict[str, int | None]  # path -> sample_of, None where it cannot be read; each file is sampled once


class Job(NamedTuple):
    """Images that one worker decodes into a shard."""

    pixels: str  # the file pixels.u8
    first: int  # row
    size: int
    files: Files  # at most SHARD


Outcome = tuple[Shard, Failures]  # what a job wrote, and why some of its images could not be read


def recipe_of(size: int) -> dict[str, Any]:
    """What decides the pixels and where they lie. Another recipe is another folder."""
    return {
        "version": VERSION,
        "size": size,
        "pixels": "grey, 8 bit, as roi.data.images.read_grey",
        "pillow": PIL.__version__,
        "rows_a_shard": SHARD,
    }


def folder_of(root: str | Path, recipe: dict[str, Any]) -> Path:
    text = json.dumps(recipe)
    digest = hashlib.sha256(text.encode()).hexdigest()
    size = recipe["size"]
    return Path(root) / f"{size}px-{digest[:8]}"


# Sources


def identify(name: str, path: str, folders: dict[str, str] | None = None) -> Identity:
    """What an image is known by.

    Args:
        folders: resolved paths of folders, each found once; added to.

    Raises:
        OSError: no such file.
    """
    folders = {} if folders is None else folders
    status = os.stat(path)
    folder, file = os.path.split(path)
    # Once a folder: realpath asks the disk for every part of a path, and tables have 100,000 of them.
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    resolved = os.path.join(folders[folder], file)
    if os.path.islink(path):
        resolved = os.path.realpath(path)
    return Identity(name, status.st_size, status.st_mtime_ns, resolved)


def sample_of(path: str) -> int:
    """CRC-32 of pieces spread over a file, of all of a short one. OSError: it cannot be read"""
    crc = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= PIECE * PIECES:
            return zlib.crc32(file.read())
        last = size - PIECE
        for k in range(PIECES):
            file.seek(last * k // (PIECES - 1))
            crc = zlib.crc32(file.read(PIECE), crc)
    return crc


def sample_files(paths: Collection[str], samples: Samples) -> None:
    """Add the samples of files to `samples`; None where one cannot be read."""

    def sample(path: str) -> int | None:
        with suppress(OSError):
            return sample_of(path)
        return None

    new = [path for path in paths if path not in samples]
    with ThreadPoolExecutor(READERS) as pool:
        results = pool.map(sample, new)
        samples.update(zip(new, results, strict=True))


# Reading shards


def sound_shards(home: Path, size: int, files: Collection[Identity], known: Shards) -> tuple[Shards, Damage]:
    """Read the shards of a cache. Those with one of `files` are checked, unless `known` to be sound.

    Returns:
        shards by number, why others are damaged
    """
    shards, damaged = read_shards(home)
    stamps = {identity.stamp for identity in files}
    to_check = []
    for slot, shard in shards.items():
        is_used = any(identity.stamp in stamps for identity in shard.identities())
        if is_used and shard != known.get(slot):
            to_check.append(shard)
    try:
        file = os.open(home / "pixels.u8", os.O_RDONLY)
    except FileNotFoundError:
        return {}, damaged | dict.fromkeys(shards, "pixels.u8 is gone")
    try:
        # A checksum of all bytes: a disk that was full or a copy that broke off leaves rows of zeros.
        # Reading them also brings them into the page cache, where the first epoch finds them.
        with ThreadPoolExecutor(READERS) as pool:
            check = partial(find_flaw, file, size=size)
            flaws: Iterable[str] = pool.map(check, to_check)
            rows = sum(len(shard.names) for shard in to_check)
            if rows * size**2 > LONG:
                flaws = progress(flaws, len(to_check), "checking the pixel cache", "shard")
            for shard, flaw in zip(to_check, flaws, strict=True):
                if flaw:
                    damaged[shard.slot] = flaw
    finally:
        os.close(file)
    sound = {slot: shard for slot, shard in shards.items() if slot not in damaged}
    return sound, damaged


def read_shards(home: Path) -> tuple[Shards, Damage]:
    """The indices of all shards by number, and why some cannot be read. The rows are not looked at."""
    shards: Shards = {}
    damaged: Damage = {}
    for path in sorted(home.glob("shard-[0-9][0-9][0-9][0-9][0-9][0-9].json")):
        slot = slot_of(path)
        try:
            shards[slot] = read_shard(path)
        except (ValueError, TypeError, FileNotFoundError) as error:
            damaged[slot] = reason(error)
    return shards, damaged


def read_shard(path: Path) -> Shard:
    """UserError or TypeError: not what `write_shard` writes under this name."""
    values = json.loads(path.read_text(encoding="utf-8"))
    shard = Shard(**values)
    numbers = (shard.source_bytes, shard.source_mtime_ns, shard.source_crc32, shard.constant)
    texts = (shard.names, shard.source_path, shard.scale)
    kinds = {type(shard.first), type(shard.crc32)}
    for column in numbers:
        kinds |= {type(value) for value in column}
    text_kinds: set[type] = set()
    for words in texts:
        text_kinds |= {type(value) for value in words}
    lengths = {len(column) for column in (*numbers, *texts)}
    has_types = kinds == {int} and text_kinds == {str}
    has_lengths = len(lengths) == 1 and max(lengths) <= SHARD
    has_place = shard.first == slot_of(path) * SHARD
    if not (has_types and has_lengths and has_place):
        raise UserError("not an index of this shard")
    return shard


def slot_of(path: Path) -> int:
    return int(path.stem.removeprefix("shard-"))


def index_path(home: Path, slot: int) -> Path:
    return home / f"shard-{slot:06d}.json"


def find_flaw(file: int, shard: Shard, size: int) -> str:
    """What is wrong with the rows of a shard, "" if nothing. `file`: pixels.u8, open for reading"""
    crc = 0
    position = shard.first * size**2
    left = len(shard.names) * size**2
    try:
        while left:
            block = os.pread(file, min(left, BLOCK), position)
            if not block:
                return "pixels.u8 is cut off"
            crc = zlib.crc32(block, crc)
            position += len(block)
            left -= len(block)
    except OSError as error:
        return reason(error)
    return "" if crc == shard.crc32 else "wrong checksum"


def map_rows(home: Path, rows: int, size: int) -> np.ndarray:
    """The first (rows, S, S) uint8 of the file, memory-mapped read-only."""
    if rows == 0:
        return np.empty((0, size, size), dtype=np.uint8)
    return np.memmap(home / "pixels.u8", dtype=np.uint8, mode="r", shape=(rows, size, size))


# Writing shards


def plan_jobs(home: Path, size: int, missing: Files, taken: Collection[int], workers: int) -> list[Job]:
    """One job a shard, in free places of the file; fewer rows than SHARD where workers would have none."""
    items = list(missing.items())
    rows_a_worker = -(-len(items) // max(1, workers))
    rows = max(1, min(SHARD, rows_a_worker))
    pixels = str(home / "pixels.u8")
    free_slots = (slot for slot in count() if slot not in taken)
    jobs = []
    for begin in range(0, len(items), rows):
        files = dict(items[begin : begin + rows])
        first_row = next(free_slots) * SHARD
        jobs.append(Job(pixels, first_row, size, files))
    return jobs


def decode(job: Job) -> Outcome:
    """Write the rows of a shard, packed, to the disk. OSError: they do not fit."""
    shard = Shard(job.first, [], [], [], [], [], [], [], crc32=0)
    columns: tuple[Any, ...] = shard[1:-1]
    failed: Failures = {}
    crc = 0
    parent = multiprocessing.parent_process()
    file = os.open(job.pixels, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        for identity, path in job.files.items():
            try:
                pixels, scale = read_picture(path, job.size)
                sample = _read_sample(path)
                _check_unchanged(identity, path)
            except UnreadableImageError as error:
                failed[identity] = str(error)
                continue
            # A worker that is left alone ends with its image, and gives up the lock that it shares.
            if parent and not parent.is_alive():
                sys.exit()
            data = pixels.tobytes()
            row = job.first + len(shard.names)
            _write_at(file, data, row * job.size**2)
            crc = zlib.crc32(data, crc)
            values = (*identity, sample, scale, int(is_constant(pixels)))
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        # The rows before their index: what an index names is on the disk.
        os.fsync(file)
    finally:
        os.close(file)
    return shard._replace(crc32=crc), failed


def _read_sample(path: str) -> int:
    """UnreadableImageError: its bytes cannot be had."""
    try:
        return sample_of(path)
    except OSError as error:
        raise cannot_read(path, reason(error)) from error


def _check_unchanged(identity: Identity, path: str) -> None:
    """UnreadableImageError: the file is no longer the one that was asked for."""
    try:
        same = identify(identity.name, path) == identity
    except OSError:
        same = False
    if not same:
        raise cannot_read(path, "it changed meanwhile")


def _write_at(file: int, data: bytes, position: int) -> None:
    # Not through the map: a full disk is an OSError here, and the end of the process there.
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, position)
        view = view[written:]
        position += written


def write_shard(home: Path, shard: Shard) -> None:
    with atomic_write(index_path(home, shard.slot)) as file:
        json.dump(shard._asdict(), file)
