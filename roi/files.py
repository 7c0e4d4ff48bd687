"""Whole files or none: what a killed run leaves behind is either complete or absent."""

import errno
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from roi.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FULL = (errno.ENOSPC, errno.EDQUOT)
_held: set[Path] = set()  # locks of this process, to which the system gives a lock twice


@contextmanager
def atomic_write(path: str | Path, mode: str = "w", keep: Path | None = None) -> Iterator[IO]:
    """Open a temporary neighbour of `path`; it takes the name `path` only when the block ends without an error.

    The data is on the disk (fsync) before the name changes. Text is UTF-8 with "\\n" line ends.

    Args:
        keep: gets what `path` was before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    # In the same folder: a file gets another's name at once only on one disk.
    temporary = _temporary_name(path)
    try:
        with _open(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            _link(path, keep)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        # The system does not say which file it was.
        if error.errno in FULL and error.filename is None:
            raise UserError(f"{path}: cannot be written, the disk is full; make room, then the same command") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def beside(path: Path, mode: str = "w") -> Iterator[IO]:
    """A file beside `path` for the length of a block: what one of several processes adds to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # One that is left by a killed run goes when `path` is written.
    temporary = _temporary_name(path)
    try:
        with _open(temporary, mode) as file:
            yield file
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: Path, mode: str) -> IO:
    if "b" in mode:
        return open(path, mode)
    return open(path, mode, encoding="utf-8", newline="\n")


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_process()}.part")


def _remove_leftovers(path: Path) -> None:
    """Remove temporary neighbours of runs that were killed while they wrote."""
    for old in path.parent.glob(f".{path.name}.*.part"):
        process = old.suffixes[-2][1:]
        if not _alive(process):
            old.unlink(missing_ok=True)


def contents(folder: Path, shown: int = 6) -> str:
    """What a folder holds, in a few words for an error: 'a.csv, images, and 3 more'."""
    names = sorted(os.listdir(folder))
    if not names:
        return "nothing"
    first = ", ".join(names[:shown])
    if len(names) > shown:
        return f"{first}, and {len(names) - shown:,} more"
    return first


@contextmanager
def locked(*paths: str | Path) -> Iterator[None]:
    """Nobody else writes `paths` for the length of a block.

    <name>.lock beside each holds the number and the host of this process. The system takes its lock from a process that
    ends, however it ends, so that what it leaves behind is taken over. Where a disk knows no locks, the process of that
    number decides; one on another host counts as alive.

    Raises:
        UserError: another process has one of them.
    """
    taken: list[tuple[Path, int]] = []
    try:
        for path in map(Path, paths):
            lock = path.with_name(f"{path.name}.lock").absolute()
            taken.append((lock, _take(path, lock)))
            _held.add(lock)
        yield
    finally:
        for lock, handle in taken:
            _held.discard(lock)
            # Removed while it is held: what another process takes after that is another file.
            lock.unlink(missing_ok=True)
            os.close(handle)


def _take(path: Path, lock: Path) -> int:
    """Take the lock of `path`; an open file holds it.

    Raises:
        UserError: another process has it, or this one by another block.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    owner = _process()
    while lock not in _held:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        owner = os.read(handle, 200).decode(errors="replace").strip()
        if not _granted(handle, owner):
            os.close(handle)
            break
        if _is_same_file(handle, lock):
            # For who comes next, and for disks that know no locks.
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{_process()}\n".encode(), 0)
            return handle
        # Who had it has just ended and has removed it: this is a file without a name.
        os.close(handle)
    host, _, number = owner.rpartition("-")
    raise UserError(
        f"{path}: process {number} on {host} is writing it; wait for its end, or choose another name "
        f"(if there is no such process any more, remove {lock})"
    )


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.fstat(handle).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _granted(handle: int, owner: str) -> bool:
    """Whether this process now has the lock of an open file; `owner`: who wrote into it."""
    try:
        if fcntl:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # the disk knows no locks
        pass
    return not owner or not _alive(owner)


def _link(path: Path, name: Path) -> None:
    """Give `path` a second name, which may be another file's until now; where there are no links it is copied."""
    # Under a temporary name first: a link cannot take the place of a file.
    link = _temporary_name(name)
    try:
        os.link(path, link)
    except OSError:
        shutil.copy2(path, link)
    os.replace(link, name)


def _sync_folder(folder: Path) -> None:
    """A new name is on the disk when its folder is."""
    with suppress(OSError):  # not every file system, and no Windows, opens folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _process() -> str:
    """Machine and number of this process, as part of a file name."""
    # Letters and digits alone: the name is read back between points and a hyphen.
    machine = "".join(filter(str.isalnum, platform.node()))
    return f"{machine}-{os.getpid()}"


def _alive(process: str) -> bool:
    """Of processes on other machines nobody knows: they count as alive."""
    machine, _, pid = process.rpartition("-")
    if machine != _process().rpartition("-")[0]:
        return True
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # there is one, of another user
        pass
    return True


def can_be_made(path: Path, is_folder: bool = False) -> None:
    """UserError where no file `path`, or none in the folder `path`, could be written; nothing is made."""
    places = (path.absolute(), *path.absolute().parents)[0 if is_folder else 1 :]
    above = next(place for place in places if place.exists())
    if not above.is_dir():
        raise UserError(f"{path}: cannot be written ({above} is a file and no folder)")
    if path.is_dir() and not is_folder:
        raise UserError(f"{path}: cannot be written (it is a folder)")
    if not os.access(above, os.W_OK):
        raise UserError(f"{path}: cannot be written (no permission in {above})")


def writable(path: Path) -> None:
    """Make the folder of `path`; UserError where no file can be written, before hours of work for it."""
    can_be_made(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot make its folder ({error.strerror})") from error
    if path.is_dir():
        raise UserError(f"{path}: cannot be written (it is a folder)")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: cannot be written (no permission)")


def refuse_inputs(flags: Mapping[str, str | Sequence[str] | None], outputs: Sequence[str]) -> None:
    """UserError for an output that is a file or folder which is read: --overwrite is for outputs of an earlier run.

    Args:
        flags: what each flag names that is read.
    """
    for flag, value in flags.items():
        paths = [value] if isinstance(value, str) else value or []
        for path in paths:
            if any(_is_same(path, output) for output in outputs):
                raise UserError(
                    f"{path}: is what --{flag} names, and would be lost under an output; choose another name for it"
                )


def _is_same(path: str, other: str) -> bool:
    """Whether two paths are one file or folder, by whatever name."""
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def refuse_existing(*paths: str | Path | None, overwrite: bool) -> None:
    """UserError if one of `paths` is there (a folder counts when something is in it) and `overwrite` is not set."""
    if overwrite:
        return
    for name in paths:
        if not name:
            continue
        path = Path(name)
        is_empty_folder = path.is_dir() and not any(path.iterdir())
        if path.exists() and not is_empty_folder:
            raise UserError(f"{path} exists; choose another name, or replace it with --overwrite")


def reason(error: BaseException) -> str:
    """What a foreign error says, in one short line."""
    text = " ".join(str(error).split())
    return text[:160] or type(error).__name__
