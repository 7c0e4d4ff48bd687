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

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

from roi.data.images import UnreadableImage, is_constant, read_picture
from roi.errors import UserError
from roi.files import atomic_write, reason
from roi.process_pool import run_jobs
from roi.progress import progress, say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

VERSION = 2  # of the layout, and of how samples of more than 8 bits become grey
SHARD = 256  # rows
BLOCK = 1 << 22  # bytes that are read at once for a checksum
LONG = 1 << 30  # bytes whose check gets a bar
PIECE, PIECES = 1 << 12, 16  # bytes and number of the pieces of a file that are its sample
SPOTS = 16  # files that are sampled though their paths say that they are the same


class Identity(NamedTuple):
    """What the file of an image is known by."""

    name: str  # in the table
    size: int  # bytes
    mtime_ns: int
    path: str  # resolved

    @property
    def stamp(self) -> "Stamp":
        return self[:3]


Stamp = tuple[str, int, int]  # what files have in common that were unpacked from one archive, and sometimes from two


class Shard(NamedTuple):
    first: int  # row
    names: list[str]
    source_bytes: list[int]
    source_mtime_ns: list[int]
    source_path: list[str]
    source_crc32: list[int]  # of a sample
    scale: list[str]  # how samples of more than 8 bits became 8 bits
    constant: list[int]  # 1 where all pixels are alike
    crc32: int  # of the rows

    def identities(self) -> list[Identity]:
        columns = (self.names, self.source_bytes, self.source_mtime_ns, self.source_path)
        return [Identity(*values) for values in zip(*columns, strict=True)]


class Job(NamedTuple):
    pixels: str  # the file pixels.u8
    first: int  # row
    size: int
    files: dict[Identity, str]  # at most SHARD


Outcome = tuple[Shard, dict[Identity, str]]  # what a job wrote, and why some of its images could not be read
Filled = tuple[dict[int, Shard], dict[Identity, str]]  # the same of all shards, by number


@dataclass
class PixelCache:
    """Images decoded once: pixels (N, S, S) uint8, memory-mapped read-only; `rows` of the images asked for."""

    pixels: np.ndarray
    rows: np.ndarray  # (n,) int64, in the order of the images asked for; -1 where one could not be read
    unreadable: dict[int, str]  # position among the images asked for -> why; begins with its path
    constant: list[int] = field(default_factory=list)  # positions of those whose pixels are all alike
    scales: dict[str, int] = field(default_factory=dict)  # how more than 8 bits became 8 -> of how many images

    def gather(self, index: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(b,) positions among the images asked for, all of them readable -> (b, S, S) uint8; into `out` if given."""
        rows = self.rows[index]
        assert rows.min(initial=0) >= 0, f"image {index[rows.argmin()]} could not be read"
        if out is None:
            out = np.empty((len(rows), *self.pixels.shape[1:]), dtype=np.uint8)
        return (
            np.take(self.pixels, rows, axis=0, out=out, mode="clip") if len(rows) else out
        )  # clip: straight into `out`


def open_cache(folder: str | Path, images: Sequence[str], paths: Sequence[str], size: int, workers: int) -> PixelCache:
    """Open the cache under `folder` for `images` (names of the table) whose files are `paths`; decode what it lacks first.

    UserError: the folder is of another cache, lacks images and cannot be written, or the disk is too small.
    """
    recipe = {
        "version": VERSION,
        "size": size,
        "pixels": "grey, 8 bit, as roi.data.images.read_grey",
        "pillow": PIL.__version__,
        "rows_a_shard": SHARD,
    }
    home = Path(folder) / f"{size}px-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:8]}"
    check_recipe(home, recipe)
    asked: list[Identity | None] = []
    unreadable: dict[int, str] = {}
    folders: dict[str, str] = {}
    for position, (name, path) in enumerate(zip(images, paths, strict=True)):
        try:
            asked.append(identify(name, path, folders))
        except OSError as error:  # vanished since the table was made
            asked.append(None)
            unreadable[position] = f"{path}: cannot be read as an image ({reason(error)})"
    files = {identity: path for identity, path in zip(asked, paths, strict=True) if identity}
    samples: dict[str, int | None] = {}
    shards, _ = sound_shards(home, size, files, {})
    missing = lacking(shards, files, samples)
    failed: dict[Identity, str] = {}
    if missing:
        try:
            lock = open_lock(home)
        except OSError as error:
            failed = all_unreadable(home, missing, error)
        else:
            with locked(lock, home):
                shards, failed = fill(home, recipe, files, shards, workers, samples)
    else:
        say(f"pixel cache {home}: all {len(files):,} images there")
    row_of = rows_of(shards, files, samples)
    rows = np.array([row_of.get(identity, -1) if identity else -1 for identity in asked], dtype=np.int64)
    unreadable |= {position: failed[identity] for position, identity in enumerate(asked) if identity in failed}
    constant, scales = facts_of(shards, rows)
    for scale, many in scales.items():
        say(f"pixel cache {home}: {many:,} of {len(rows):,} images have more than 8 bits, {scale}")
    return PixelCache(map_rows(home, int(rows.max(initial=-1)) + 1, size), rows, unreadable, constant, scales)


def identify(name: str, path: str, folders: dict[str, str] | None = None) -> Identity:
    """What an image is known by. `folders`: resolved paths of folders, found once. OSError: no such file"""
    folders = {} if folders is None else folders
    status = os.stat(path)
    folder, file = os.path.split(path)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    resolved = os.path.realpath(path) if os.path.islink(path) else os.path.join(folders[folder], file)
    return Identity(name, status.st_size, status.st_mtime_ns, resolved)


def sample_of(path: str) -> int:
    """CRC-32 of pieces spread over a file, of all of a short one. OSError: it cannot be read"""
    crc = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= PIECE * PIECES:
            return zlib.crc32(file.read())
        for k in range(PIECES):
            file.seek((size - PIECE) * k // (PIECES - 1))
            crc = zlib.crc32(file.read(PIECE), crc)
    return crc


def sample_read(path: str) -> int:
    """UnreadableImage: its bytes cannot be had."""
    try:
        return sample_of(path)
    except OSError as error:
        raise UnreadableImage(f"{path}: cannot be read as an image ({reason(error)})") from error


def sample_files(paths: Collection[str], samples: dict[str, int | None]) -> None:
    """Add the samples of files to `samples`; None where one cannot be read."""

    def sample(path: str) -> int | None:
        with suppress(OSError):
            return sample_of(path)
        return None

    new = [path for path in paths if path not in samples]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        samples.update(zip(new, pool.map(sample, new), strict=True))


def rows_of(
    shards: dict[int, Shard], files: dict[Identity, str], samples: dict[str, int | None]
) -> dict[Identity, int]:
    """Find the rows that have the pixels of files; what no shard holds is left out. `samples` by path, added to.

    A file is the one that was decoded if it lies where that lay, or else if it has the same sample. Another disk may be
    mounted there now: some files are sampled in any case, and where one of them differs no path is believed.
    """
    stamps = {identity.stamp for identity in files}
    held: dict[Stamp, list[tuple[str, int, int]]] = defaultdict(list)  # -> path, sample, row
    for shard in shards.values():
        for k, identity in enumerate(shard.identities()):
            if identity.stamp in stamps:
                held[identity.stamp].append((identity.path, shard.source_crc32[k], shard.first + k))
    row_of: dict[Identity, int] = {}
    sample_of_row: dict[Identity, int] = {}
    for identity in files:
        here = [(sample, row) for path, sample, row in held.get(identity.stamp, ()) if path == identity.path]
        if len(here) == 1:
            sample_of_row[identity], row_of[identity] = here[0]
    found = list(row_of)
    spots = found[:: max(1, len(found) // SPOTS)]
    sample_files([files[identity] for identity in spots], samples)
    if any(samples[files[identity]] != sample_of_row[identity] for identity in spots):
        row_of = {}
    elsewhere = [identity for identity in files if identity not in row_of and identity.stamp in held]
    sample_files([files[identity] for identity in elsewhere], samples)
    for identity in elsewhere:
        same = [row for _, sample, row in held[identity.stamp] if sample == samples[files[identity]]]
        if same:
            row_of[identity] = same[-1]
    return row_of


def lacking(
    shards: dict[int, Shard], files: dict[Identity, str], samples: dict[str, int | None] | None = None
) -> dict[Identity, str]:
    """The files that no shard holds, in the order of `files`."""
    there = rows_of(shards, files, {} if samples is None else samples)
    return {identity: path for identity, path in files.items() if identity not in there}


def facts_of(shards: dict[int, Shard], rows: np.ndarray) -> tuple[list[int], dict[str, int]]:
    """Rows (n,) of the images asked for -> (positions of the constant ones, how many have each scale)."""
    constant: set[int] = set()
    scale_of: dict[int, str] = {}
    for shard in shards.values():
        constant |= {shard.first + k for k, alike in enumerate(shard.constant) if alike}
        scale_of |= {shard.first + k: scale for k, scale in enumerate(shard.scale) if scale}
    scales = Counter(scale_of[row] for row in rows.tolist() if row in scale_of)
    return [position for position, row in enumerate(rows.tolist()) if row in constant], dict(scales.most_common())


def map_rows(home: Path, rows: int, size: int) -> np.ndarray:
    """-> the first (rows, S, S) uint8 of the file, read-only."""
    if rows == 0:
        return np.empty((0, size, size), dtype=np.uint8)
    return np.memmap(home / "pixels.u8", dtype=np.uint8, mode="r", shape=(rows, size, size))


def check_recipe(home: Path, recipe: dict[str, Any]) -> None:
    """UserError: the folder says that it holds something else."""
    path = home / "cache.json"
    with suppress(FileNotFoundError):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            found = reason(error)
        if found != recipe:
            raise UserError(
                f"{path}: is of another cache (found {found}, needs {recipe}); choose another --cache_dir, or remove that folder"
            )


def check_disk(home: Path, need: int) -> None:
    """UserError: fewer than `need` bytes are free."""
    free = shutil.disk_usage(home).free
    if need > free:
        raise UserError(
            f"{home}: the pixel cache needs {need / 1e9:,.2f} GB ({need:,} bytes), {free / 1e9:,.2f} GB ({free:,} bytes) are free; "
            f"choose another --cache_dir or a smaller --img_size"
        )


def read_shard(path: Path) -> Shard:
    """UserError or TypeError: not what `write_shard` writes under this name."""
    shard = Shard(**json.loads(path.read_text(encoding="utf-8")))
    slot = int(path.stem.removeprefix("shard-"))
    numbers = (shard.source_bytes, shard.source_mtime_ns, shard.source_crc32, shard.constant)
    texts = (shard.names, shard.source_path, shard.scale)
    kinds = {type(shard.first), type(shard.crc32), *(type(value) for column in numbers for value in column)}
    words = {type(value) for column in texts for value in column}
    lengths = {len(column) for column in (*numbers, *texts)}
    if kinds != {int} or words != {str} or shard.first != slot * SHARD or len(lengths) != 1 or max(lengths) > SHARD:
        raise UserError("not an index of this shard")
    return shard


def write_shard(home: Path, shard: Shard) -> None:
    with atomic_write(home / f"shard-{shard.first // SHARD:06d}.json") as file:
        json.dump(shard._asdict(), file)


def flaw(file: int, shard: Shard, size: int) -> str:
    """-> what is wrong with the rows of a shard, "" if nothing. `file`: pixels.u8, open for reading"""
    crc, at, left = 0, shard.first * size**2, len(shard.names) * size**2
    try:
        while left:
            block = os.pread(file, min(left, BLOCK), at)
            if not block:
                return "pixels.u8 is cut off"
            crc, at, left = zlib.crc32(block, crc), at + len(block), left - len(block)
    except OSError as error:
        return reason(error)
    return "" if crc == shard.crc32 else "wrong checksum"


def sound_shards(
    home: Path, size: int, files: Collection[Identity], known: dict[int, Shard]
) -> tuple[dict[int, Shard], dict[int, str]]:
    """-> (shards by number, why others are damaged). Those with one of `files` are checked, unless `known` to be sound."""
    shards: dict[int, Shard] = {}
    damaged: dict[int, str] = {}
    for path in sorted(home.glob("shard-" + "[0-9]" * 6 + ".json")):
        slot = int(path.stem.removeprefix("shard-"))
        try:
            shards[slot] = read_shard(path)
        except (ValueError, TypeError, FileNotFoundError) as error:
            damaged[slot] = reason(error)
    stamps = {identity.stamp for identity in files}
    asked_for = [k for k, shard in shards.items() if any(i.stamp in stamps for i in shard.identities())]
    used = [k for k in asked_for if shards[k] != known.get(k)]
    try:
        file = os.open(home / "pixels.u8", os.O_RDONLY)
    except FileNotFoundError:
        return {}, damaged | dict.fromkeys(shards, "pixels.u8 is gone")
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            flaws: Iterable[str] = pool.map(lambda k: flaw(file, shards[k], size), used)  # warms the page cache, too
            if sum(len(shards[k].names) for k in used) * size**2 > LONG:
                flaws = progress(flaws, len(used), "checking the pixel cache", "shard")
            damaged |= {k: why for k, why in zip(used, flaws, strict=True) if why}
    finally:
        os.close(file)
    return {k: shard for k, shard in shards.items() if k not in damaged}, damaged


def open_lock(home: Path) -> int:
    """Make the folder. -> its lock file, open. OSError: it cannot be written"""
    if fcntl is None:
        raise UserError("the pixel cache needs Linux or macOS; leave --cache_dir out")
    home.mkdir(parents=True, exist_ok=True)
    return os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o666)


@contextmanager
def locked(lock: int, home: Path) -> Iterator[None]:
    """Nobody else decodes into this folder meanwhile. Forked workers share the lock: if this process is killed, it outlasts them."""
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


def all_unreadable(home: Path, missing: dict[Identity, str], error: OSError) -> dict[Identity, str]:
    """A folder that cannot be written serves if what it lacks are images that nobody can read. -> why they cannot be read"""
    failed = {}
    for identity, path in missing.items():
        try:
            read_picture(path)
        except UnreadableImage as why:
            failed[identity] = str(why)
        else:
            raise UserError(
                f"{home}: lacks {len(missing):,} of these images and cannot be written ({error.strerror}); choose another --cache_dir"
            ) from error
    return failed


def fill(
    home: Path,
    recipe: dict[str, Any],
    files: dict[Identity, str],
    known: dict[int, Shard],
    workers: int,
    samples: dict[str, int | None],
) -> Filled:
    """Decode what is missing; only under the lock. -> (all sound shards, why some images could not be read)"""
    size = recipe["size"]
    shards, damaged = sound_shards(home, size, files, known)
    missing = lacking(shards, files, samples)
    check_disk(home, len(missing) * size**2)
    for slot in damaged:
        (home / f"shard-{slot:06d}.json").unlink(missing_ok=True)
    if damaged:
        slot, why = next(iter(damaged.items()))
        say(
            f"pixel cache {home}: dropped {len(damaged)} damaged shard(s), the first is {slot} ({why}); what is asked for of them is decoded anew"
        )
    say_others(home, size)
    say(f"pixel cache {home}: {len(files) - len(missing):,} images there, decoding {len(missing):,}")
    jobs, begin, done = split(home, size, missing, shards, workers), time.perf_counter(), 0
    failed: dict[Identity, str] = {}
    try:
        if not (home / "cache.json").exists():
            with atomic_write(home / "cache.json") as file:
                json.dump(recipe, file, indent=1)
        alone = min(workers, len(jobs)) <= 1
        with (
            closing(run_jobs(decode, jobs, 0 if alone else workers)) as ready,
            progress(None, len(missing), "decoding") as bar,
        ):
            for _, outcome in ready:
                if isinstance(outcome, Exception):
                    raise outcome
                shard, unread = outcome
                if shard.names:
                    write_shard(home, shard)
                    shards[shard.first // SHARD] = shard
                failed |= unread
                done += len(shard.names)
                bar.update(len(shard.names) + len(unread))
    except OSError as error:
        raise UserError(
            f"{home}: decoding stopped ({reason(error)}), {done:,} new images are kept; mend that or choose another --cache_dir, and give the same command"
        ) from error
    seconds = time.perf_counter() - begin
    if jobs:
        say(f"pixel cache {home}: decoded {done:,} images in {seconds:.1f} s ({done / seconds:.1f} images/s)")
    return shards, failed


def say_others(home: Path, size: int) -> None:
    """Name the caches of this size that were made in another way: they take up room, and nothing uses them."""
    for other in sorted(home.parent.glob(f"{size}px-*")):
        pixels = other / "pixels.u8"
        if other != home and pixels.exists():
            gigabytes = pixels.stat().st_size / 1e9
            say(
                f"pixel cache {other}: was made by another version of this program or of Pillow, and is not used; "
                f"remove it to free {gigabytes:.2f} GB"
            )


def split(home: Path, size: int, missing: dict[Identity, str], taken: Collection[int], workers: int) -> list[Job]:
    """One job a shard, in free places of the file; fewer rows than SHARD where workers would have none."""
    items = list(missing.items())
    rows = max(1, min(SHARD, -(-len(items) // max(1, workers))))
    slots = (slot for slot in count() if slot not in taken)
    free = [next(slots) for _ in range(0, len(items), rows)]
    return [
        Job(str(home / "pixels.u8"), slot * SHARD, size, dict(items[k * rows : (k + 1) * rows]))
        for k, slot in enumerate(free)
    ]


def decode(job: Job) -> Outcome:
    """Write the rows of a shard, packed, to the disk. OSError: they do not fit."""
    done: list[tuple] = []  # the columns of a Shard
    failed: dict[Identity, str] = {}
    crc = 0
    parent = multiprocessing.parent_process()
    file = os.open(job.pixels, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        for identity, path in job.files.items():
            try:
                pixels, scale = read_picture(path, job.size)
                sample = sample_read(path)
                check_same(identity, path)
            except UnreadableImage as error:
                failed[identity] = str(error)
                continue
            if parent and not parent.is_alive():
                sys.exit()
            data = pixels.tobytes()
            write_at(file, data, (job.first + len(done)) * job.size**2)
            crc = zlib.crc32(data, crc)
            done.append((*identity, sample, scale, int(is_constant(pixels))))
        os.fsync(file)
    finally:
        os.close(file)
    columns = [list(column) for column in zip(*done, strict=True)] if done else [[] for _ in range(7)]
    return Shard._make([job.first, *columns, crc]), failed


def check_same(identity: Identity, path: str) -> None:
    """UnreadableImage: the file is no longer the one that was asked for."""
    try:
        same = identify(identity[0], path) == identity
    except OSError:
        same = False
    if not same:
        raise UnreadableImage(f"{path}: cannot be read as an image (it changed meanwhile)")


def write_at(file: int, data: bytes, at: int) -> None:
    """Not through the map: a full disk is an OSError here, and the end of the process there."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
