"""Whole files or none: what a killed run leaves behind is either complete or absent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary neighbour of `path`; it takes the name `path` only when the block ends without an error.

    The data is on the disk (fsync) before the name changes. Text is UTF-8 with "\\n" line ends.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f".{path.name}.*.part"):  # of a run that was killed while it wrote
        if old.suffixes[-2:-1] and not _alive(old.suffixes[-2][1:]):
            old.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        text = "b" not in mode
        with open(temporary, mode, encoding="utf-8" if text else None, newline="\n" if text else None) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def writable(path: Path) -> None:
    """Make the folder of `path`; ValueError where no file can be written, before hours of work for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot make its folder ({error.strerror})") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: cannot be written ({'it is a folder' if path.is_dir() else 'no permission'})")


def refuse_existing(*paths: str | Path | None, overwrite: bool) -> None:
    """ValueError if one of `paths` is there (a folder counts when something is in it) and `overwrite` is not set."""
    for path in (Path(p) for p in paths if p):
        if path.exists() and not overwrite and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path} exists; choose another name, or replace it with --overwrite")


def reason(error: BaseException) -> str:
    """What a foreign error says, in one short line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
