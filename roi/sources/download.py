"""Files over HTTP: resumed where they were interrupted, checked, whole or not there. And the projects of PhysioNet.

What is not complete lies in NAME.part, and NAME.part.tag beside it remembers of which file it is a part (URL, ETag or
Last-Modified, size): a file that changed on the server in between is fetched anew.
"""

import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.auth import HTTPBasicAuth
from tqdm import tqdm

from roi.errors import UserError
from roi.files import atomic_write, reason, writable

AGENT = "roi-download/1.0"
PHYSIONET = "https://physionet.org/files/"
BLOCK = 1 << 16  # bytes at a time: what an interruption may lose
CONNECT = 15.0  # seconds
WGET_SAYS = {
    0: "their checksums are not the published ones",
    3: "the disk is full or cannot be written",
    4: "the network failed",
    5: "TLS failed",
}
Login = tuple[str, str]


class Again(Exception):
    """What may go well at the next try."""


class Forbidden(UserError):
    """403: the server knows who asks, or does not care, and refuses."""


def fetch(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    auth: Login | None = None,
    session: requests.Session | None = None,
    timeout: float = 60.0,
    tries: int = 6,
    wait: float = 2.0,
    hint: str = "",
    quiet: bool = False,
) -> Path:
    """Bring `url` to `path`. A file that is there is left alone; so is everything else of the user's.

    `auth`: (user, password), sent to the host of `url` and to no other that it redirects to. `timeout`: seconds without a byte.
    After `tries` in a row that brought nothing it gives up; between them it waits `wait`, 2 `wait`, 4 `wait` ... seconds.
    `hint`: what to do about 401 and 403. UserError: refused, not there, no space, not the published checksum; `path` is then not written.
    """
    path = Path(path)
    if path.exists():
        if not _matches(path, sha256, md5):
            raise UserError(
                f"{path} is there, but its checksum is not the published one; move it away and run the same command again"
            )
        return path
    writable(path)
    part = path.with_name(f"{path.name}.part")
    own = session or requests.Session()
    failures = 0
    try:
        while True:
            before = _size(part)
            try:
                _transfer(own, url, part, auth, timeout, hint, quiet)
                break
            except (
                Again,
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
            ) as error:
                failures = 1 if _size(part) > before else failures + 1
                if failures >= tries:
                    raise UserError(
                        f"{url}: gave up after {failures} tries ({reason(error)}); the same command goes on where it stopped"
                    ) from error
            time.sleep(wait * 2 ** (failures - 1))
    finally:
        if session is None:
            own.close()
    if not _matches(part, sha256, md5):
        _drop(part)
        raise UserError(
            f"{url}: what came has not the published checksum, so {path} was not made; the same command fetches it anew"
        )
    os.replace(part, path)
    _drop(part)
    return path


def _transfer(
    session: requests.Session, url: str, part: Path, auth: Login | None, timeout: float, hint: str, quiet: bool
) -> None:
    """One request; what comes is added to `part`, or begins it anew."""
    old = _read_tag(part, url)
    offset = _size(part) if old else 0
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}  # lengths are those of the file
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if old["validator"]:
            headers["If-Range"] = old["validator"]
    login = HTTPBasicAuth(auth[0].encode(), auth[1].encode()) if auth else None
    with session.get(url, headers=headers, auth=login, timeout=(min(CONNECT, timeout), timeout), stream=True) as answer:
        if answer.status_code == 416:
            if answer.headers.get("Content-Range", "").rpartition("/")[2] == str(offset):
                return  # all of it was there
            _drop(part)
            raise Again("the part that was there is not of this file")
        _refuse(answer, url, hint)
        etag = answer.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
        total = int(answer.headers["Content-Length"]) if answer.headers.get("Content-Length", "").isdigit() else None
        if answer.status_code == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
            total = int(span[2]) if span and span[2].isdigit() else None
            if not (
                span
                and int(span[1]) == offset
                and old.get("total") in (None, total)
                and validator in ("", old.get("validator"))
            ):
                _drop(part)
                raise Again("the file has changed on the server")
        else:
            offset = 0  # a server without ranges, or another file than before
        if total is not None:
            room(part.parent, total - offset - (0 if offset else _size(part)))
        with atomic_write(_tag(part)) as file:
            json.dump({"url": url, "validator": validator, "total": total}, file)
        _write(answer, part, offset, total, quiet)


def _write(answer: requests.Response, part: Path, offset: int, total: int | None, quiet: bool) -> None:
    terminal = sys.stderr.isatty()
    bar = tqdm(
        total=total,
        initial=offset,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc=part.stem,
        leave=False,
        disable=quiet,
        mininterval=0.2 if terminal else 20,
    )
    with bar, open(part, "ab" if offset else "wb") as file:
        for block in answer.iter_content(BLOCK):
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and _size(part) != total:
        raise Again(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _refuse(answer: requests.Response, url: str, hint: str) -> None:
    """Every answer but the file itself."""
    code, hint = answer.status_code, f"; {hint}" if hint else ""
    if code == 401:
        raise UserError(f"{url}: wrong user name or password (401){hint}")
    if code == 403:
        raise Forbidden(f"{url}: no permission (403){hint}")
    if code in (404, 410):
        raise UserError(f"{url}: not there ({code}); has the set moved? look at its page")
    if code >= 500 or code in (408, 425, 429):
        raise Again(f"the server answered {code} {answer.reason}")
    if code not in (200, 206):
        raise UserError(f"{url}: the server answered {code} {answer.reason}")
    if answer.headers.get("Content-Type", "").startswith("text/html") and not url.endswith((".html", ".htm", "/")):
        raise UserError(f"{url}: a web page came instead of the file{hint}")


def room(folder: Path, need: float) -> None:
    """UserError where the disk of `folder` has not `need` bytes left."""
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{folder}: {need / 1e9:,.1f} GB are needed, {free / 1e9:,.1f} GB are free; make room, or choose another disk with --data_root"
        )


def _matches(path: Path, sha256: str | None, md5: str | None) -> bool:
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        if expected:
            digest = hashlib.new(kind)
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            if digest.hexdigest() != expected.strip().lower():
                return False
    return True


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _read_tag(part: Path, url: str) -> dict[str, Any]:
    """What is known of a part; empty where nothing is, or where it is of another file: then it is begun anew."""
    try:
        tag = json.loads(_tag(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tag if isinstance(tag, dict) and tag.get("url") == url and {"validator", "total"} <= tag.keys() else {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


# --- PhysioNet ---------------------------------------------------------------------------------------------------------------


def read_sums(text: str) -> dict[str, str]:
    """SHA256SUMS.txt -> {name: SHA-256}. UserError: another file, or a name that leads out of the folder."""
    sums = {}
    for line in filter(str.strip, text.splitlines()):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *]?(?:\./)?(\S.*?)\s*", line)
        if not match or match[2].startswith("/") or ".." in match[2].split("/"):
            raise UserError(f"SHA256SUMS.txt: {line[:100]!r} is not a checksum and a name")
        sums[match[2]] = match[1].lower()
    return sums


def physionet(project: str, folder: Path, auth: Login, only: str = "*") -> tuple[int, int]:
    """Fetch the files of a project ('vindr-cxr/1.0.0') whose names match `only` (fnmatch); -> (fetched, were there).

    A file gets its name when its checksum is that of SHA256SUMS.txt; those that have theirs are not read again.
    """
    url = f"{PHYSIONET}{project}/"
    ask = f"sign in and sign the agreement at https://physionet.org/content/{project}/"
    with requests.Session() as session:
        _bring(url, {"SHA256SUMS.txt": None}, folder, session, auth, ask)
        sums = read_sums((folder / "SHA256SUMS.txt").read_text(encoding="utf-8"))
        wanted = {name: sha256 for name, sha256 in sums.items() if fnmatch.fnmatchcase(name, only)}
        if not wanted:
            raise UserError(
                f"--only {only!r}: {project} has no file of such a name; all are listed in {folder / 'SHA256SUMS.txt'}"
            )
        lacking = {name: sha256 for name, sha256 in wanted.items() if not (folder / name).exists()}
        _bring(url, lacking, folder, session, auth, ask)
    return len(lacking), len(wanted) - len(lacking)


def _bring(
    url: str, names: Mapping[str, str | None], folder: Path, session: requests.Session, auth: Login, ask: str
) -> None:
    """Fetch {name: SHA-256} into `folder`; where the server refuses this program, by wget.

    PhysioNet takes passwords only from programs on a list of its own (HTTP_AUTH_USER_AGENT in the source of its server); for one that
    is not on it the answer is 403, as it is for a user who has not signed the agreement. wget is on it, and PhysioNet's own advice.
    """
    many = len(names) > 1
    by_hand = f"wget -r -N -c -np -nH --cut-dirs=3 -P {folder} --user {auth[0]} --ask-password {url}"
    hint = f"{ask} (if that is done, PhysioNet does not know this program, but: {by_hand})"
    with tqdm(
        total=len(names), unit="file", leave=False, disable=not many, mininterval=0.5 if sys.stderr.isatty() else 20
    ) as bar:
        for name, sha256 in names.items():
            try:
                fetch(
                    url + quote(name), folder / name, sha256=sha256, auth=auth, session=session, hint=hint, quiet=many
                )
            except Forbidden:
                if not (shutil.which("wget") and hasattr(os, "memfd_create")):
                    raise
                rest = {n: s for n, s in names.items() if not (folder / n).exists()}
                print(f"{len(rest):,} file{'s' * many} by wget: the server refuses this program")
                _by_wget(url, rest, folder, auth, ask, bar)
                return
            bar.update()


def _by_wget(url: str, names: Mapping[str, str | None], folder: Path, auth: Login, ask: str, bar: tqdm) -> None:
    """The same by the program wget, into folder/.part; each file is checked and gets its name as it comes.

    The password is handed over in memory (memfd): it is in no file, no argument and no variable of the environment.
    """
    stage = folder / ".part"
    stage.mkdir(parents=True, exist_ok=True)
    for name in (n for n, sha256 in names.items() if sha256 is None):
        (stage / name).unlink(missing_ok=True)  # nobody could say whether it is whole
    depth = len([p for p in urlsplit(url).path.split("/") if p])
    login, todo = (
        _in_memory(f"user = {auth[0]}\npassword = {auth[1]}\n"),
        _in_memory("".join(f"{url}{quote(n)}\n" for n in names)),
    )
    command = f"wget --config=/dev/fd/{login} -nv -x -nH --cut-dirs={depth} -c --no-hsts --tries=5 --timeout=60 --max-redirect=0 -i -".split()
    environment = {k: v for k, v in os.environ.items() if k != "PHYSIONET_PASSWORD"} | {"LC_ALL": "C"}
    errors: set[str] = set()
    with subprocess.Popen(
        [*command, "-P", str(stage)],
        stdin=todo,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        pass_fds=(login,),
        env=environment,
    ) as wget:
        os.close(login)
        os.close(todo)
        try:
            for line in wget.stderr or ():
                errors.update(re.findall(r"ERROR (\d{3})", line), ["401"] * ("Authentication Failed" in line))
                if errors & {"401", "403"}:  # so would all the others be
                    wget.terminate()
                    break
                for file in re.findall(r'-> "(.+)" \[', line):
                    name = Path(file).relative_to(stage).as_posix()
                    bar.update(_settle(stage / name, folder / name, names.get(name), whole=True))
        except BaseException:  # what ends us ends wget too
            wget.terminate()
            raise
    whole = wget.returncode in (0, 8)  # no connection broke: what is left was there in full before (416), and wrong
    lacking = [
        n
        for n, s in names.items()
        if not (folder / n).exists() and not (s and _settle(stage / n, folder / n, s, whole))
    ]
    for place, _, _ in os.walk(stage, topdown=False):
        with suppress(OSError):  # parts of files that were not asked for this time
            os.rmdir(place)
    if "401" in errors or wget.returncode == 6:
        raise UserError(f"{url}: wrong user name or password (401); {ask}")
    if "403" in errors:
        raise Forbidden(f"{url}: no permission (403); {ask}")
    if lacking:
        why = (
            f"the server answered {', '.join(sorted(errors))}"
            if errors
            else WGET_SAYS.get(wget.returncode, f"wget ended with code {wget.returncode}")
        )
        raise UserError(
            f"{url}: {len(lacking):,} of {len(names):,} files did not come whole, the first is {lacking[0]} ({why}); the same command goes on"
        )


def _settle(staged: Path, path: Path, sha256: str | None, whole: bool) -> bool:
    """A staged file gets its name if its checksum is right; if not, and nothing of it is to come, it goes."""
    if not staged.is_file():
        return False
    if not _matches(staged, sha256, None):
        if whole:
            staged.unlink()
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staged, path)
    return True


def _in_memory(text: str) -> int:
    """A file without a name that holds `text`, to be read from its beginning; -> its descriptor."""
    handle = os.memfd_create("roi")  # type: ignore[attr-defined,unused-ignore]
    os.write(handle, text.encode())
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


# --- archives ----------------------------------------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path) -> tuple[int, int]:
    """A tar archive -> its files in `folder`; -> (unpacked, were there at their full size). An interrupted run is taken up again.

    UserError: the archive is cut off, or names a file outside the folder.
    """
    made = there = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise UserError(
                        f"{archive}: {member.name!r} lies outside the folder; this is not the published archive"
                    )
                path = folder / member.name
                if path.is_file() and path.stat().st_size == member.size:
                    there += 1
                    continue
                source = tar.extractfile(member)
                assert source is not None  # it is a file
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f"{path.name}.part")
                with source, open(part, "wb") as file:
                    shutil.copyfileobj(source, file)
                os.replace(part, path)
                made += 1
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(
            f"{archive}: cannot be unpacked ({reason(error)}); move it away and download it again"
        ) from error
    return made, there
