"""A file over HTTP: resumed where it was interrupted, whole or not there.

What is not complete lies in NAME.part, and NAME.part.tag beside it remembers of which file it is a part (URL, ETag or
Last-Modified, size): a file that changed on the server in between is fetched anew.
"""

import json
import os
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from roi.errors import UserError
from roi.files import atomic_write, reason, writable

AGENT = "roi-download/1.0"
BLOCK = 1 << 16  # bytes at a time: what an interruption may lose
CONNECT = 15.0  # seconds; a server may be slow with a file, but it answers at once
PARTIAL, RANGE_NOT_SATISFIABLE = 206, 416  # answers to a request for the rest of a file


class TryAgainError(Exception):
    """What may go well at the next try."""


RETRIED = (TryAgainError, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True)
class Tag:
    """Of which file a part is."""

    url: str
    validator: str = ""  # ETag, or Last-Modified
    total: int | None = None  # bytes


def fetch(
    url: str, path: str | Path, *, timeout: float = 60.0, tries: int = 6, wait: float = 2.0, quiet: bool = False
) -> Path:
    """Brings `url` to `path`. A file that is there is left alone.

    Args:
        url: of the file.
        path: the name that it gets when all of it is there.
        timeout: seconds without a byte.
        tries: in a row that brought nothing, after which it gives up.
        wait: seconds before the second try, twice as many before the third, and so on.
        quiet: shows no progress.

    Raises:
        UserError: refused, not there, or no space.
    """
    path = Path(path)
    if path.exists():
        return path
    writable(path)
    part = path.with_name(f"{path.name}.part")
    failures = 0
    with requests.Session() as session:
        while True:
            before = _size(part)
            try:
                _transfer(session, url, part, timeout, quiet)
                break
            except RETRIED as error:
                # A flaky line may go on for as long as it brings something.
                if _size(part) > before:
                    failures = 0
                failures += 1
                if failures >= tries:
                    gave_up = f"gave up after {failures} tries ({reason(error)})"
                    raise UserError(f"{url}: {gave_up}; the same command goes on where it stopped") from error
            time.sleep(wait * 2 ** (failures - 1))
    # Killed before this line, the next run is told that nothing is missing (416) and gives the name.
    os.replace(part, path)
    _drop(part)
    return path


def _transfer(session: requests.Session, url: str, part: Path, timeout: float, quiet: bool) -> None:
    """Makes one request; what comes is added to `part`, or begins it anew."""
    old = _read_tag(part, url)
    offset = _size(part) if old else 0
    old = old or Tag(url)
    timeouts = (min(CONNECT, timeout), timeout)
    with session.get(url, headers=_headers(old, offset), timeout=timeouts, stream=True) as answer:
        if answer.status_code == RANGE_NOT_SATISFIABLE:
            if answer.headers.get("Content-Range", "").rpartition("/")[2] == str(offset):
                return  # all of it was there
            _drop(part)
            raise TryAgainError("the part that was there is not of this file")
        _refuse(answer, url)
        new = Tag(url, _validator(answer), _total(answer))
        if answer.status_code != PARTIAL:
            offset = 0  # a server without ranges, or another file than before
        elif not _continues(answer, offset, old, new):
            _drop(part)
            raise TryAgainError("the file has changed on the server")
        # A full disk is noticed before a byte is written.
        if new.total is not None:
            freed = 0 if offset else _size(part)
            require_space(part.parent, new.total - offset - freed)
        # Before the bytes: a part without a tag is of unknown origin and begun anew.
        with atomic_write(_tag_path(part)) as file:
            json.dump(asdict(new), file)
        _write(answer, part, offset, new.total, quiet)


def _headers(tag: Tag, offset: int) -> dict[str, str]:
    """Asks for the rest of a file from `offset`, if it is still the same file."""
    # Compressed on their way, lengths would not be those of the file.
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if tag.validator:
            headers["If-Range"] = tag.validator
    return headers


def _validator(answer: requests.Response) -> str:
    """What tells this version of a file from others. A weak ETag does not: it may stand for other bytes."""
    etag = answer.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return answer.headers.get("Last-Modified", "")


def _range(answer: requests.Response) -> re.Match[str] | None:
    """(first byte, size of the whole file or '*') of a partial answer."""
    return re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))


def _total(answer: requests.Response) -> int | None:
    """The size of the whole file, None where the server does not say."""
    size = answer.headers.get("Content-Length", "")
    if answer.status_code == PARTIAL:
        span = _range(answer)
        size = span[2] if span else ""
    return int(size) if size.isdigit() else None


def _continues(answer: requests.Response, offset: int, old: Tag, new: Tag) -> bool:
    """Whether a partial answer is the rest of the same file. Not all servers look at If-Range."""
    span = _range(answer)
    if span is None or int(span[1]) != offset:
        return False
    return old.total in (None, new.total) and new.validator in ("", old.validator)


def _write(answer: requests.Response, part: Path, offset: int, total: int | None, quiet: bool) -> None:
    # A log needs fewer lines than a terminal.
    mininterval = 0.2 if sys.stderr.isatty() else 20
    bar = tqdm(
        total=total,
        initial=offset,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc=part.stem,
        leave=False,
        disable=quiet,
        mininterval=mininterval,
    )
    with bar, open(part, "ab" if offset else "wb") as file:
        for block in answer.iter_content(BLOCK):
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
    # requests does not notice a connection that ends too soon.
    if total is not None and _size(part) != total:
        raise TryAgainError(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _refuse(answer: requests.Response, url: str) -> None:
    """Raises for every answer but the file itself."""
    code = answer.status_code
    if code in (404, 410):
        raise UserError(f"{url}: not there ({code}); has the set moved? look at its page")
    if code >= 500 or code in (408, 425, 429):
        raise TryAgainError(f"the server answered {code} {answer.reason}")
    if code not in (200, PARTIAL):
        raise UserError(f"{url}: the server answered {code} {answer.reason}")
    # A page to sign in comes with the code of success.
    is_page = answer.headers.get("Content-Type", "").startswith("text/html")
    if is_page and not url.endswith((".html", ".htm", "/")):
        raise UserError(f"{url}: a web page came instead of the file")


def require_space(folder: Path, need: float) -> None:
    """Raises UserError where the disk of `folder`, which need not exist yet, has not `need` bytes left."""
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{folder}: {need / 1e9:,.1f} GB are needed, {free / 1e9:,.1f} GB are free; make room, or choose another "
            "disk with --data_root"
        )


def _tag_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _read_tag(part: Path, url: str) -> Tag | None:
    """What is known of a part; None where nothing is, or where it is of another file: then it is begun anew."""
    try:
        tag = Tag(**json.loads(_tag_path(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return tag if tag.url == url else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_path(part).unlink(missing_ok=True)
