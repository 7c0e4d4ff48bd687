"""Downloads against a server on this machine, and what is said of folders that are complete, half there, empty or wrong."""

import base64
import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from conftest import ROOT, one_line_error, run

import download_datasets
from roi.sources import catalog, download
from roi.sources.catalog import CATALOG, Edition, Table

BODY = bytes(range(256)) * 4096  # 1 MiB
SECRET = "s3cret:pä$$ w#rd"
LOGIN = ("ada", SECRET)
NAME = "some-project/1.0.0"


class Site(http.server.ThreadingHTTPServer):
    """A server whose faults are switched on one by one; `log` has a row a request: path, headers, bytes of the body that were sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {"/a.bin": BODY}
        self.log: list[SimpleNamespace] = []
        self.etag, self.modified, self.ranges, self.conforming = '"one"', "", True, True
        self.cut: int | None = None  # bytes after which the connection ends, once
        self.codes: list[int] = []  # answered first, one each
        self.login: tuple[str, str] | None = None
        self.agents, self.signed = "", True
        self.pause, self.kind = 0.0, "application/octet-stream"
        self.redirects: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def sent(self) -> list[int]:
        return [row.sent for row in self.log]

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that go away


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def log_message(self, *args: object) -> None:
        pass

    def end(self, code: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        site, self.row.code = self.server, code
        if site.cut is not None and len(body) > site.cut:
            body, site.cut, self.close_connection = body[: site.cut], None, True
        if site.pause and body:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(site.pause)
            body = body[len(body) // 2 :]
        self.wfile.write(body)
        self.row.sent += len(body)

    def do_GET(self) -> None:
        site = self.server
        self.row = SimpleNamespace(path=self.path, headers=dict(self.headers), sent=0, code=0)
        site.log.append(self.row)
        if site.codes:
            return self.end(site.codes.pop(0), {})
        if self.path in site.redirects:
            return self.end(302, {"Location": site.redirects[self.path]})
        if site.login:
            known = re.match(site.agents, self.headers["User-Agent"]) is not None
            right = (
                self.headers.get("Authorization") == "Basic " + base64.b64encode(":".join(site.login).encode()).decode()
            )
            if not known or (right and not site.signed):
                return self.end(403, {})
            if not right:
                return self.end(401, {"WWW-Authenticate": 'Basic realm="site", charset="UTF-8"'})
        if self.path not in site.files:
            return self.end(404, {})
        body, headers = site.files[self.path], {"Content-Type": site.kind}
        headers |= {k: v for k, v in (("ETag", site.etag), ("Last-Modified", site.modified)) if v}
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        changed = site.conforming and self.headers.get("If-Range") not in (None, site.etag, site.modified)
        if span and site.ranges and not changed:
            start = int(span[1])
            if start >= len(body):
                return self.end(416, {"Content-Range": f"bytes */{len(body)}"})
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.end(206, headers, body[start:])
        return self.end(200, headers, body)


@pytest.fixture
def site():
    with Site() as server:
        threading.Thread(target=functools.partial(server.serve_forever, 0.01), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the logins nor the proxies of whoever runs the tests."""
    for name in (
        "PHYSIONET_USERNAME",
        "PHYSIONET_PASSWORD",
        "HF_TOKEN",
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


get = functools.partial(download.fetch, wait=0.0, quiet=True)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def interrupt(site: Site, path: Path, after: int = 600_000) -> int:
    """A download that ends after some bytes; -> the size of what is left on the disk."""
    site.cut = after
    with pytest.raises(ValueError, match="goes on where it stopped"):
        get(f"{site.url}/a.bin", path, tries=1)
    size = path.with_name("a.bin.part").stat().st_size
    assert after - download.BLOCK < size <= after and not path.exists()
    site.log.clear()
    return size


def only_file(folder: Path, name: str = "a.bin") -> bool:
    return [p.name for p in folder.iterdir()] == [name]


# --- one file ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("etag", "modified"),
    [('"one"', ""), ("", "Wed, 21 Oct 2015 07:28:00 GMT"), ('W/"weak"', "Wed, 21 Oct 2015 07:28:00 GMT"), ("", "")],
)
def test_interrupted_then_only_the_rest_is_sent(site: Site, tmp_path: Path, etag: str, modified: str) -> None:
    site.etag, site.modified = etag, modified
    had = interrupt(site, tmp_path / "a.bin")
    assert (
        get(f"{site.url}/a.bin", tmp_path / "a.bin", sha256=sha(BODY), md5=hashlib.md5(BODY).hexdigest()).read_bytes()
        == BODY
    )
    (row,) = site.log
    assert row.headers["Range"] == f"bytes={had}-" and row.sent == len(BODY) - had
    assert row.headers.get("If-Range") == ((modified if etag.startswith("W/") else etag or modified) or None)
    assert only_file(tmp_path)
    assert get(f"{site.url}/a.bin", tmp_path / "a.bin").exists() and len(site.log) == 1  # it is there: nothing is asked


def test_a_flaky_line_is_resumed_within_one_call(site: Site, tmp_path: Path) -> None:
    site.cut = 500_000
    get(f"{site.url}/a.bin", tmp_path / "a.bin", tries=2)
    assert (tmp_path / "a.bin").read_bytes() == BODY and [row.code for row in site.log] == [200, 206]
    assert sum(site.sent()) < len(BODY) + download.BLOCK


def test_progress_starts_the_count_of_tries_anew(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = [200_000] * 4
    end = Answer.end

    def cut_again(self: Answer, *args: object) -> None:
        self.server.cut = cuts.pop() if cuts else None
        end(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Answer, "end", cut_again)
    assert get(f"{site.url}/a.bin", tmp_path / "a.bin", tries=2).read_bytes() == BODY and len(site.log) == 5


def test_server_without_ranges_sends_all_of_it_again(site: Site, tmp_path: Path) -> None:
    interrupt(site, tmp_path / "a.bin")
    site.ranges = False
    assert get(f"{site.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY and site.sent() == [len(BODY)]


@pytest.mark.parametrize("conforming", [True, False])
@pytest.mark.parametrize("size", [len(BODY), len(BODY) // 3, len(BODY) * 2])
def test_file_that_changed_in_between_is_fetched_anew(site: Site, tmp_path: Path, conforming: bool, size: int) -> None:
    """Not even a server that ignores If-Range can mix the two."""
    interrupt(site, tmp_path / "a.bin")
    site.files["/a.bin"], site.etag, site.conforming = bytes(size), '"two"', conforming
    assert get(f"{site.url}/a.bin", tmp_path / "a.bin").read_bytes() == bytes(size)
    assert [row.code for row in site.log] == ([200] if conforming else [416 if size < 500_000 else 206, 200])


def test_part_of_another_url_or_of_unknown_origin_is_not_used(site: Site, tmp_path: Path) -> None:
    interrupt(site, tmp_path / "a.bin")
    site.files["/b.bin"] = BODY[::-1]
    assert get(f"{site.url}/b.bin", tmp_path / "a.bin").read_bytes() == BODY[::-1]
    (tmp_path / "c.bin.part").write_bytes(b"what is this?")
    assert get(f"{site.url}/a.bin", tmp_path / "c.bin").read_bytes() == BODY
    assert not any("Range" in row.headers for row in site.log)


def test_killed_between_the_last_byte_and_the_name(site: Site, tmp_path: Path) -> None:
    interrupt(site, tmp_path / "a.bin")
    (tmp_path / "a.bin.part").write_bytes(BODY)
    assert get(f"{site.url}/a.bin", tmp_path / "a.bin", sha256=sha(BODY)).read_bytes() == BODY
    assert [row.code for row in site.log] == [416] and only_file(tmp_path)


def test_wrong_checksum_is_not_put_in_place(site: Site, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for kind in ("sha256", "md5"):
        with pytest.raises(ValueError, match="not the published checksum"):
            get(f"{site.url}/a.bin", tmp_path / "a.bin", **{kind: "0" * (64 if kind == "sha256" else 32)})
        assert only_file(tmp_path, "mine.txt") and (tmp_path / "mine.txt").read_text() == "mine"
    site.log.clear()
    get(f"{site.url}/a.bin", tmp_path / "a.bin", sha256=sha(BODY).upper())
    assert site.sent() == [len(BODY)]  # anew, from the first byte


def test_a_file_of_the_users_stays_as_it_is(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_text("mine")
    with pytest.raises(ValueError, match="move it away"):
        get(f"{site.url}/a.bin", tmp_path / "a.bin", sha256=sha(BODY))
    get(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_text() == "mine" and not site.log


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (401, "user name or password"),
        (403, "no permission"),
        (404, "not there"),
        (410, "not there"),
        (400, "answered 400"),
    ],
)
def test_refusals_are_one_clear_line_at_once(site: Site, tmp_path: Path, code: int, said: str) -> None:
    site.codes = [code] * 3
    with pytest.raises(ValueError, match=said) as error:
        get(f"{site.url}/a.bin", tmp_path / "a.bin", auth=LOGIN, hint="sign the agreement")
    assert (
        SECRET not in str(error.value)
        and "\n" not in str(error.value)
        and ("sign the agreement" in str(error.value)) == (code in (401, 403))
    )
    assert len(site.log) == 1 and not list(tmp_path.iterdir())


def test_login_is_basic_in_utf_8(site: Site, tmp_path: Path) -> None:
    site.login = LOGIN
    assert get(f"{site.url}/a.bin", tmp_path / "a.bin", auth=LOGIN).read_bytes() == BODY
    with pytest.raises(ValueError, match="401"):
        get(f"{site.url}/a.bin", tmp_path / "b.bin", auth=("ada", "wrong"))


def test_server_errors_pass_or_are_given_up(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("roi.sources.download.time.sleep", slept.append)
    site.codes = [500, 503, 429]
    assert get(f"{site.url}/a.bin", tmp_path / "a.bin", tries=4, wait=2.0).read_bytes() == BODY and slept == [2, 4, 8]
    site.codes = [502] * 9
    with pytest.raises(ValueError, match="gave up after 3 tries.*502"):
        get(f"{site.url}/a.bin", tmp_path / "b.bin", tries=3)
    assert len(site.codes) == 6


def test_slow_server_times_out_and_keeps_what_came(site: Site, tmp_path: Path) -> None:
    site.pause = 1.0
    start = time.monotonic()
    with pytest.raises(ValueError, match="gave up after 1 tries.*timed out"):
        get(f"{site.url}/a.bin", tmp_path / "a.bin", timeout=0.2, tries=1)
    assert time.monotonic() - start < 0.9
    site.pause = 0.0
    site.log.clear()
    get(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert site.log[-1].code == 206 and 0 < site.log[-1].sent <= len(BODY) // 2 + download.BLOCK


def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gave up after 2 tries"):
        get("http://127.0.0.1:9/a.bin", tmp_path / "a.bin", tries=2)


def test_redirect_to_another_host_does_not_carry_the_password(site: Site, tmp_path: Path) -> None:
    with Site() as other:
        threading.Thread(target=functools.partial(other.serve_forever, 0.01), daemon=True).start()
        site.redirects = {"/far": f"{other.url.replace('127.0.0.1', 'localhost')}/a.bin", "/near": "/a.bin"}
        for name, log in (("far", other.log), ("near", site.log)):
            get(f"{site.url}/{name}", tmp_path / name, auth=LOGIN)
            assert (tmp_path / name).read_bytes() == BODY and "Authorization" in site.log[0].headers
            assert ("Authorization" in log[-1].headers) == (name == "near")
        other.shutdown()


def test_full_disk_is_noticed_before_a_byte_is_written(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    had = interrupt(site, tmp_path / "a.bin")
    free = [len(BODY) - had - 1]
    monkeypatch.setattr("roi.sources.download.shutil.disk_usage", lambda path: SimpleNamespace(free=free[0]))
    with pytest.raises(ValueError, match="are free; make room"):
        get(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin.part").stat().st_size == had and len(site.log) == 1
    free[0] += 1  # just enough for the rest
    assert get(f"{site.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY


def test_a_web_page_is_no_file(site: Site, tmp_path: Path) -> None:
    site.kind = "text/html; charset=utf-8"
    with pytest.raises(ValueError, match="web page"):
        get(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_a_part_that_the_next_run_resumes(site: Site, tmp_path: Path) -> None:
    site.pause = 20.0
    code = (
        "import sys; from roi import cli; from roi.sources import download; cli.run(lambda a: download.fetch(*sys.argv[1:]) and None, lambda: None)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"{site.url}/a.bin", str(tmp_path / "a.bin")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    part = tmp_path / "a.bin.part"
    end = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size >= len(BODY) // 2 - 2 * download.BLOCK) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.communicate(timeout=10)[1] and process.returncode == 130
    had, site.pause = part.stat().st_size, 0.0
    get(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY and had > 0 and site.log[-1].sent == len(BODY) - had


# --- PhysioNet --------------------------------------------------------------------------------------------------------------


def test_sha256sums_are_read_as_sha256sum_writes_them() -> None:
    a, b = sha(b"a"), sha(b"b")
    assert download.read_sums(f"{a}  x/y z.csv\n{b.upper()} *b.bin\n\n{a} ./one.txt\n") == {
        "x/y z.csv": a,
        "b.bin": b,
        "one.txt": a,
    }
    for wrong in ("<html>", f"{a}", f"{a[:-1]}  x", f"{a}  ../x", f"{a}  x/../../y", f"{a}  /etc/x"):
        with pytest.raises(ValueError, match="SHA256SUMS"):
            download.read_sums(wrong)


@pytest.fixture
def project(site: Site, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Its files, by name; some are tables."""
    files = {
        "labels.csv": b"a,b\n1,2\n",
        "files/p10/a b.jpg": BODY[:5000],
        "files/p11/c.jpg": BODY[7:90_000],
        "more/t.csv.gz": gzip.compress(b"x\n1\n"),
    }
    sums = "".join(f"{sha(data)}  {name}\n" for name, data in files.items())
    site.files = {
        f"/files/{NAME}/{download.quote(name)}": data
        for name, data in {**files, "SHA256SUMS.txt": sums.encode()}.items()
    }
    site.login = LOGIN
    monkeypatch.setattr(download, "PHYSIONET", f"{site.url}/files/")
    monkeypatch.setitem(CATALOG, "mimic", dataclasses.replace(CATALOG["mimic"], project=NAME, gigabytes=1e-6))
    monkeypatch.setenv("PHYSIONET_PASSWORD", SECRET)
    return files


def mimic(tmp_path: Path, *flags: str, code: int = 0) -> str:
    said = run(
        "download_datasets.py",
        "--download",
        "mimic",
        "--data_root",
        tmp_path / "data",
        "--username",
        "ada",
        *flags,
        code=code,
    )
    everything = [said, *(p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*") if p.is_file())]
    for text in (SECRET, SECRET.encode().decode("latin-1"), base64.b64encode(":".join(LOGIN).encode()).decode()):
        assert not any(text in one for one in everything)
    return said


def landed(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "SHA256SUMS.txt"
    }


def test_a_project_of_physionet(site: Site, tmp_path: Path, project: dict[str, bytes]) -> None:
    said = mimic(tmp_path, "--only", "*.csv*")
    folder = tmp_path / "data" / "mimic"
    assert landed(folder) == {name: project[name] for name in ("labels.csv", "more/t.csv.gz")}
    assert said.splitlines()[-1] == str(folder) and "2 files fetched, 0 were there" in said
    assert "2 files fetched, 2 were there" in mimic(tmp_path, "--path_file", str(tmp_path / "path.txt"))
    assert landed(folder) == project and (tmp_path / "path.txt").read_text() == f"{folder}\n"
    site.log.clear()
    assert "0 files fetched, 4 were there" in mimic(tmp_path) and not site.log
    assert "no file of such a name" in mimic(tmp_path, "--only", "*.xyz", code=2)


def test_a_wrong_file_of_physionet_is_not_put_in_place(site: Site, tmp_path: Path, project: dict[str, bytes]) -> None:
    site.files[f"/files/{NAME}/labels.csv"] = b"something else"
    assert "checksum" in mimic(tmp_path, code=2) and not landed(tmp_path / "data" / "mimic")


def test_wrong_login_and_missing_agreement(
    site: Site, tmp_path: Path, project: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roi.sources.download.shutil.which", lambda name: None)
    site.signed = False
    said = mimic(tmp_path, code=2)
    assert (
        "403" in said
        and f"https://physionet.org/content/{NAME}/" in said
        and "--ask-password" in said
        and said.count("error:") == 1
    )
    site.login = ("ada", "another")
    assert "wrong user name or password (401)" in mimic(tmp_path, code=2) and not landed(tmp_path / "data" / "mimic")


def test_username_and_password_are_asked_for(
    site: Site, tmp_path: Path, project: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--info mimic" in one_line_error("download_datasets.py", "--download", "mimic", "--data_root", tmp_path)
    monkeypatch.delenv("PHYSIONET_PASSWORD")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert "PHYSIONET_PASSWORD" in mimic(tmp_path, code=2)
    asked: list[str] = []
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or SECRET)
    mimic(tmp_path)
    assert len(asked) == 1 and "ada" in asked[0] and landed(tmp_path / "data" / "mimic") == project


def test_no_room_for_the_whole_project(
    site: Site, tmp_path: Path, project: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOG, "mimic", dataclasses.replace(CATALOG["mimic"], gigabytes=1e9))
    assert "GB are needed" in mimic(tmp_path, code=2) and not site.log


wget = pytest.mark.skipif(not shutil.which("wget") or not hasattr(os, "memfd_create"), reason="needs wget on Linux")


@wget
def test_wget_goes_on_where_the_server_knows_only_wget(
    site: Site, tmp_path: Path, project: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PhysioNet's server does; and no list of processes shows the password."""
    site.agents = "Wget/"
    started: list[str] = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **options) -> None:
            started.append(repr((args, options)))
            super().__init__(*args, **options)

    monkeypatch.setattr("roi.sources.download.subprocess.Popen", Popen)
    folder = tmp_path / "data" / "mimic"
    (folder / ".part" / "files" / "p11").mkdir(parents=True)  # interrupted before
    (folder / ".part" / "files" / "p11" / "c.jpg").write_bytes(project["files/p11/c.jpg"][:80_000])
    said = mimic(tmp_path)
    assert (
        landed(folder) == project
        and "4 files by wget" in said
        and "4 files fetched" in said
        and not (folder / ".part").exists()
    )
    assert len(started) == 2 and not any(SECRET in one or repr(SECRET)[1:-1] in one for one in started)
    (row,) = [row for row in site.log if row.path.endswith("c.jpg")]
    assert row.headers["Range"] == "bytes=80000-" and row.sent == len(project["files/p11/c.jpg"]) - 80_000


@wget
def test_a_refusal_ends_wget_at_once(site: Site, tmp_path: Path) -> None:
    """Not one request for each of a hundred thousand files."""
    site.login, site.agents, names = LOGIN, "Wget/", {f"{i}.bin": "0" * 64 for i in range(3000)}
    with pytest.raises(ValueError, match=r"401.*sign here"), download.tqdm(disable=True) as bar:
        download._by_wget(f"{site.url}/x/", names, tmp_path, ("ada", "wrong"), "sign here", bar)
    assert len(site.log) < 2000


@wget
def test_half_a_list_of_checksums_is_not_put_in_place(site: Site, tmp_path: Path, project: dict[str, bytes]) -> None:
    site.agents, stage = "Wget/", tmp_path / "data" / "mimic" / ".part"
    stage.mkdir(parents=True)
    (stage / "SHA256SUMS.txt").write_bytes(site.files[f"/files/{NAME}/SHA256SUMS.txt"][:100])
    site.codes = [403, 500, 500, 500, 500, 500, 500]
    assert (
        "did not come whole" in mimic(tmp_path, code=2)
        and not (tmp_path / "data" / "mimic" / "SHA256SUMS.txt").exists()
    )
    site.codes = []
    stage.mkdir(exist_ok=True)
    (stage / "SHA256SUMS.txt").write_bytes(b"#" * 100)  # of no known origin: it is not what the rest is added to
    mimic(tmp_path)
    assert landed(tmp_path / "data" / "mimic") == project


@wget
def test_what_wget_is_refused_is_said_too(site: Site, tmp_path: Path, project: dict[str, bytes]) -> None:
    site.agents = "Wget/"
    site.files[f"/files/{NAME}/labels.csv"] = b"something else"
    said = mimic(tmp_path, code=2)
    assert "1 of 4 files did not come whole, the first is labels.csv" in said and "checksum" in said
    assert landed(tmp_path / "data" / "mimic") == {name: data for name, data in project.items() if name != "labels.csv"}
    site.files[f"/files/{NAME}/labels.csv"] = project["labels.csv"]
    site.signed = False
    site.log.clear()
    assert "no permission (403)" in mimic(tmp_path, code=2)
    site.signed, site.login = True, ("ada", "another")
    assert "wrong user name or password (401)" in mimic(tmp_path, code=2)
    site.login = LOGIN
    assert "1 files fetched, 3 were there" in mimic(tmp_path) and landed(tmp_path / "data" / "mimic") == project


# --- Kaggle, Hugging Face, OpenI, and those that no program can fetch ---------------------------------------------------------


def kaggle(monkeypatch: pytest.MonkeyPatch, **functions: object) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(**functions))


def fail(error: Exception) -> object:
    def function(*args: object, **options: object) -> None:
        raise error

    return function


def test_nih_stays_in_the_cache_of_kagglehub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, asked = tmp_path / "cache", []
    (cache / "images_001" / "images").mkdir(parents=True)
    (cache / "images_001" / "images" / "00000001_000.png").write_bytes(b"")
    kaggle(monkeypatch, dataset_download=lambda handle: asked.append(handle) or str(cache))
    monkeypatch.chdir(tmp_path)
    said = run("download_datasets.py", "--download", "nih")
    assert (
        asked == ["nih-chest-xrays/data"]
        and said.splitlines()[-1] == str(cache)
        and "1 images of 1 shards linked" in said
    )
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]  # no link that nobody asked for
    said = run("download_datasets.py", "--download", "nih", "--data_root", "sets")
    assert Path("sets/nih").resolve() == cache and said.splitlines()[-1] == str(cache)
    assert "is a link" in run("download_datasets.py", "--download", "nih", "--data_root", "sets")
    Path("mine/nih").mkdir(parents=True)
    assert (
        "stays as it is" in run("download_datasets.py", "--download", "nih", "--data_root", "mine")
        and not Path("mine/nih").is_symlink()
    )


def test_vinbigdata_is_a_competition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    kaggle(monkeypatch, competition_download=lambda handle: asked.append(handle) or str(tmp_path))
    said = run("download_datasets.py", "--download", "vinbigdata", "--data_root", tmp_path / "sets")
    assert (
        asked == ["vinbigdata-chest-xray-abnormalities-detection"]
        and (tmp_path / "sets" / "vinbigdata").resolve() == tmp_path
    )
    assert said.splitlines()[-1] == str(tmp_path)
    kaggle(monkeypatch, competition_download=fail(requests.HTTPError("403 Client Error.\n\nYou must accept the rules")))
    said = one_line_error("download_datasets.py", "--download", "vinbigdata", "--data_root", tmp_path / "sets")
    assert "403 Client Error. You must accept" in said and "/rules" in said and "kaggle.json" in said


def test_rexgradient_comes_through_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict] = []

    def snapshot_download(repo: str, **options: object) -> None:
        calls.append({"repo": repo, **options})
        (Path(options["local_dir"])).mkdir(parents=True, exist_ok=True)
        (Path(options["local_dir"]) / "deid_png.part00").write_bytes(b"")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    monkeypatch.setattr("roi.sources.download.shutil.disk_usage", lambda path: SimpleNamespace(free=10**12))
    folder = tmp_path / "sets" / "rexgradient"
    command = ("download_datasets.py", "--download", "rexgradient", "--data_root", tmp_path / "sets")
    said = run(*command, "--token", "hf_abc", "--only", "metadata/*")
    monkeypatch.setenv("HF_TOKEN", "hf_env")
    run(*command)
    same = {"repo": "rajpurkarlab/ReXGradient-160K", "repo_type": "dataset", "local_dir": str(folder)}
    assert calls == [
        {**same, "token": "hf_abc", "allow_patterns": ["metadata/*"]},
        {**same, "token": "hf_env", "allow_patterns": None},
    ]
    assert f"cd {folder} && cat deid_png.part* | tar --zstd -x" in said and said.splitlines()[-1] == str(folder)
    monkeypatch.setitem(
        sys.modules,
        "huggingface_hub",
        SimpleNamespace(snapshot_download=fail(OSError("Access to hf_env is restricted\n\nsign in"))),
    )
    said = one_line_error(*command)
    assert (
        "restricted sign in" in said and "HF_TOKEN" in said and "datasets/rajpurkarlab" in said and "hf_env" not in said
    )
    monkeypatch.setattr("roi.sources.download.shutil.disk_usage", lambda path: SimpleNamespace(free=10**10))
    assert "GB are needed, 10.0 GB are free" in one_line_error(*command)


def tgz(names: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def test_openi_is_fetched_and_unpacked(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    images = {f"CXR{i}.png": bytes([i]) * 70_000 for i in range(3)}
    site.files = {"/NLMCXR_reports.tgz": tgz({"ecgen-radiology/1.xml": b"<x/>"}), "/NLMCXR_png.tgz": tgz(images)}
    monkeypatch.setattr(download_datasets, "OPENI", f"{site.url}/")
    args = download_datasets.parse_args(["--download", "openi", "--data_root", str(tmp_path)])
    download_datasets.main(args)
    folder = tmp_path / "openi"
    assert landed(folder) == {"ecgen-radiology/1.xml": b"<x/>", **images, **{k[1:]: v for k, v in site.files.items()}}
    assert capsys.readouterr().out.splitlines()[-1] == str(folder)
    (folder / "CXR0.png").unlink()
    (folder / "CXR1.png").write_bytes(b"half")
    download_datasets.main(args)
    assert (
        "2 files unpacked, 1 were there" in capsys.readouterr().out
        and landed(folder).items() >= images.items()
        and len(site.log) == 2
    )


def test_archives_that_are_cut_off_or_lead_outside(tmp_path: Path) -> None:
    whole = tgz({f"{i}.png": os.urandom(50_000) for i in range(3)})
    (tmp_path / "a.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        download.unpack(tmp_path / "a.tgz", tmp_path / "a")
    for name in ("../x", "a/../../x", "/tmp/x"):
        (tmp_path / "b.tgz").write_bytes(tgz({name: b"x"}))
        with pytest.raises(ValueError, match="outside"):
            download.unpack(tmp_path / "b.tgz", tmp_path / "b")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["chexpert", "padchest"])
def test_what_no_program_can_fetch(tmp_path: Path, name: str) -> None:
    said = one_line_error("download_datasets.py", "--download", name, "--data_root", tmp_path)
    assert f"download_datasets.py --info {name}" in said and not list(tmp_path.iterdir())


def test_wrong_flags_are_one_line(tmp_path: Path) -> None:
    assert "cxrlt" in one_line_error("download_datasets.py", "--download", "chestxpert")  # all names are listed
    assert "--only" in one_line_error("download_datasets.py", "--download", "nih", "--only", "*.csv")
    assert "no such folder" in one_line_error("download_datasets.py", "--check", "--data_root", tmp_path / "none")
    one_line_error("download_datasets.py")


# --- what is known, and what is there ---------------------------------------------------------------------------------------


def test_the_catalog_knows_every_set(tmp_path: Path) -> None:
    assert set(CATALOG) == {
        "nih",
        "openi",
        "rexgradient",
        "chexpert",
        "mimic",
        "padchest",
        "vindr",
        "vinbigdata",
        "cxrlt",
    }
    listed = run("download_datasets.py", "--list", "--data_root", tmp_path).splitlines()
    for name, source in CATALOG.items():
        said = run("download_datasets.py", "--info", name)
        assert source.title in said and source.url.split("#")[0] in said and len(said.splitlines()) > 8
        assert all(len(line) <= 130 for line in said.splitlines() if "http" not in line)
        assert sum(line.startswith(f"{name} ") and source.images in line and line.endswith("-") for line in listed) == 1
    assert run("download_datasets.py", "--info", "cxr-lt") == run("download_datasets.py", "--info", "cxrlt")


def test_published_counts_agree_with_each_other() -> None:
    rows = {
        name: {t.names[0].split("/")[-1]: t.rows for e in s.editions for t in e.tables} for name, s in CATALOG.items()
    }
    assert (
        rows["nih"]["train_val_list.txt"] + rows["nih"]["test_list.txt"]
        == CATALOG["nih"].editions[0].images
        == rows["nih"]["Data_Entry_2017_v2020.csv"]
    )
    assert CATALOG["rexgradient"].editions[0].images == 238_968 + 17_007 + 17_029
    assert (
        rows["chexpert"]["train.csv"] + rows["chexpert"]["valid.csv"]
        == CATALOG["chexpert"].editions[0].images
        == 224_316 - 668
    )
    assert (
        rows["vindr"]["image_labels_train.csv"] // 3 + rows["vindr"]["image_labels_test.csv"]
        == CATALOG["vindr"].editions[0].images
    )
    lt = rows["cxrlt"]
    assert (
        lt["train_labeled.csv"] + lt["development_labeled_task1.csv"] + lt["test_labeled_task1.csv"]
        == lt["labels.csv"]
        == 377_110
    )
    assert lt["train.csv"] + lt["development.csv"] + lt["test.csv"] == CATALOG["mimic"].editions[0].images


def test_published_counts_are_those_of_the_real_files(shared: Path, tmp_path: Path) -> None:
    tables = {t.names[0]: t.rows for t in CATALOG["nih"].editions[0].tables}
    for name, published in tables.items():
        assert catalog.count_rows(shared / "nih_metadata" / name) == published
    assert catalog.count_rows(shared / "openi" / "indiana_reports.csv") == CATALOG["openi"].editions[1].tables[0].rows
    assert catalog.count_rows(shared / "openi" / "NLMCXR_reports.tgz") == CATALOG["openi"].editions[0].tables[0].rows
    (tmp_path / "openi").mkdir()
    (tmp_path / "openi" / "NLMCXR_reports.tgz").symlink_to(shared / "openi" / "NLMCXR_reports.tgz")
    assert "NLMCXR_reports.tgz: 3,955 rows" in catalog.check("openi", tmp_path).lines
    for n in (1, 2):
        (tmp_path / "openi" / "ecgen-radiology").mkdir(exist_ok=True)
        (tmp_path / "openi" / "ecgen-radiology" / f"{n}.xml").write_text("<x/>")
    assert "ecgen-radiology/*.xml: 2 files, but 3,955 are published: cut off?" in catalog.check("openi", tmp_path).lines


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """nih with five images, mimic with two studies, cxrlt with one image: the layouts stay as they are published."""

    def shrink(name: str, *editions: tuple[list[int | None], int]) -> None:
        new = tuple(
            dataclasses.replace(
                e, images=n, tables=tuple(dataclasses.replace(t, rows=r) for t, r in zip(e.tables, rows, strict=True))
            )
            for e, (rows, n) in zip(CATALOG[name].editions, editions, strict=True)
        )
        monkeypatch.setitem(CATALOG, name, dataclasses.replace(CATALOG[name], editions=new))

    shrink("nih", ([5, 3, 2, 1], 5))
    shrink("mimic", ([2, 2, 1, 1], 2))
    shrink("cxrlt", ([1, 1, 1, 1, 1, None, None, None], 0), ([1, 1, 1], 0))
    shrink("rexgradient", ([2, 1, 1], 3))
    shrink("chexpert", ([2, 1, None], 3))


def nih(root: Path) -> Path:
    names = [f"{i:08d}_000.png" for i in range(5)]
    for i, name in enumerate(names):
        shard = root / f"images_{i % 2 + 1:03d}" / "images"
        shard.mkdir(parents=True, exist_ok=True)
        (shard / name).write_bytes(b"")
    (root / "Data_Entry_2017.csv").write_text(
        "Image Index,Finding Labels\n" + "".join(f'{n},"Mass\n|Nodule"\n' for n in names)
    )
    (root / "train_val_list.txt").write_text("\n".join(names[:3]))  # no final newline, as published
    (root / "test_list.txt").write_text("\n".join(names[3:]))
    return root


def state(data_root: Path, *names: str, code: int) -> str:
    return run("download_datasets.py", "--check", *names, "--data_root", data_root, code=code)


@pytest.mark.usefixtures("small")
def test_check_of_a_complete_set(tmp_path: Path) -> None:
    nih(tmp_path / "nih")
    said = state(tmp_path, "nih", code=0)
    assert (
        f"nih: complete, {tmp_path / 'nih'}" in said
        and "Data_Entry_2017.csv: 5 rows\n" in said
        and "all 5 are there" in said
    )
    run("download_datasets.py", "--gather", tmp_path / "nih")
    assert state(tmp_path, "nih", code=0) == said  # links are not images
    assert "mimic: not there" in state(tmp_path, code=0) and "mimic: not there" in state(
        tmp_path, "nih", "mimic", code=1
    )
    (line,) = [
        line
        for line in run("download_datasets.py", "--list", "--data_root", tmp_path).splitlines()
        if line.startswith("nih ")
    ]
    assert line.endswith("tables are there")


@pytest.mark.usefixtures("small")
def test_check_of_a_half_extracted_set(tmp_path: Path) -> None:
    root = nih(tmp_path / "nih")
    (root / "images_001" / "images" / "00000002_000.png").unlink()
    (root / "test_list.txt").unlink()
    (root / "train_val_list.txt").write_text("00000000_000.png\n")
    said = state(tmp_path, code=1)
    assert "nih: NOT COMPLETE" in said and "test_list.txt: missing" in said and "4 of 5, 1 are missing" in said
    assert "train_val_list.txt: 1 rows, but 3 are published: cut off?" in said
    (line,) = [
        line
        for line in run("download_datasets.py", "--list", "--data_root", tmp_path).splitlines()
        if line.startswith("nih ")
    ]
    assert line.endswith("2 of 3 tables")


@pytest.mark.usefixtures("small")
def test_check_of_empty_and_wrong_folders(tmp_path: Path) -> None:
    (tmp_path / "nih").mkdir()
    said = state(tmp_path, "nih", code=1)
    assert (
        "nih: NOT COMPLETE" in said
        and f"looked in {tmp_path / 'nih'} for Data_Entry_2017_v2020.csv + train_val_list.txt + test_list.txt" in said
    )
    nih(tmp_path / "elsewhere")
    said = state(tmp_path / "elsewhere", "nih", code=1)
    assert "nih: not there" in said and "lies in --data_root itself" in said
    assert "none of the sets" in state(tmp_path / "elsewhere", code=1)


@pytest.mark.usefixtures("small")
def test_check_reads_compressed_tables_to_their_end(tmp_path: Path) -> None:
    root = tmp_path / "mimic"
    (root / "files" / "p10" / "p10000001" / "s1").mkdir(parents=True)
    for i in range(2):
        (root / "files" / "p10" / "p10000001" / "s1" / f"{i}.jpg").write_bytes(b"")
    text = b"dicom_id,x\na,1\n" + b"".join(b"%d,%d\n" % (i, i * 7919) for i in range(20_000))
    for what, rows in (("metadata", 2), ("split", 2), ("chexpert", 1), ("negbio", 1)):
        (root / f"mimic-cxr-2.0.0-{what}.csv.gz").write_bytes(gzip.compress(b"\n".join(text.split(b"\n")[: rows + 1])))
    assert "mimic: complete" in state(tmp_path, "mimic", code=0)
    whole = gzip.compress(text)
    (root / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(whole[: len(whole) // 2])
    said = state(tmp_path, "mimic", code=1)
    assert "mimic-cxr-2.0.0-split.csv.gz: cannot be read to its end" in said and "Traceback" not in said
    (root / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(whole)
    assert "20,001 rows, but 2 are published: another version?" in state(tmp_path, "mimic", code=1)


@pytest.mark.usefixtures("small")
def test_check_knows_other_spellings_editions_and_inner_folders(tmp_path: Path) -> None:
    for name in ("train.csv", "development.csv", "test.csv"):
        (tmp_path / "cxr-lt").mkdir(exist_ok=True)
        (tmp_path / "cxr-lt" / name).write_text("dicom_id\na\n")
    assert "cxrlt: complete" in state(tmp_path, "cxr-lt", code=0)
    inner = tmp_path / "chexpert" / "CheXpert-v1.0-small"
    for path in (
        "train/patient00001/study1/view1_frontal.jpg",
        "train/patient00002/study1/view1_frontal.jpg",
        "valid/patient64541/study1/view1_frontal.jpg",
    ):
        (inner / path).parent.mkdir(parents=True)
        (inner / path).write_bytes(b"")
    (inner / "train.csv").write_text("Path\na\nb\n")
    (inner / "valid.csv").write_text("Path\na\n")
    assert f"chexpert: complete, {inner}" in state(tmp_path, "chexpert", code=0)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("around", ["", "chexpertchestxrays-u20210408"])
def test_check_knows_chexpert_as_its_archives_unpack(tmp_path: Path, around: str) -> None:
    home = tmp_path / "chexpert" / around
    first, second, third = (f"CheXpert-v1.0 batch {n}" for n in ("1 (validate & csv)", "2 (train 1)", "3 (train 2)"))
    for patient in (f"{second}/patient00001", f"{third}/patient21514", f"{first}/valid/patient64541"):
        (home / patient / "study1").mkdir(parents=True)
        (home / patient / "study1" / "view1_frontal.jpg").write_bytes(b"")
    (home / first / "train.csv").write_text("Path\na\nb\n")
    (home / first / "valid.csv").write_text("Path\na\n")
    assert f"chexpert: complete, {home}" in state(tmp_path, "chexpert", code=0)


@pytest.mark.usefixtures("small")
def test_check_knows_kaggles_resized_copy(tmp_path: Path) -> None:
    root = nih(tmp_path / "nih")
    target = root / "images-224" / "images-224"
    target.mkdir(parents=True)
    for path in root.glob("images_*/images/*.png"):
        path.rename(target / path.name)
    for split in ("train_val", "test"):
        (root / f"{split}_list.txt").rename(root / f"{split}_list_NIH.txt")
    assert "nih: complete" in state(tmp_path, "nih", code=0)


@pytest.mark.usefixtures("small")
def test_check_says_what_is_there_instead(tmp_path: Path) -> None:
    (tmp_path / "padchest" / "other").mkdir(parents=True)
    assert "; it holds other" in state(tmp_path, "padchest", code=1)


@pytest.mark.usefixtures("small")
def test_check_says_how_to_unpack(tmp_path: Path) -> None:
    root = tmp_path / "rexgradient"
    (root / "metadata").mkdir(parents=True)
    for split, studies in (("train", 2), ("valid", 1), ("test", 1)):
        text = json.dumps(
            {f"s{i}": {"StudyInstanceUid": f"s{i}", "Findings": 'no "StudyInstanceUid" here'} for i in range(studies)}
        )
        (root / "metadata" / f"{split}_metadata_view_position.json").write_text(text)
    for i in range(9):
        (root / f"deid_png.part{i:02d}").write_bytes(b"")
    assert "deid_png.part*: 9 of 10 here; the download is not complete" in state(tmp_path, "rexgradient", code=1)
    (root / "deid_png.part09").write_bytes(b"")
    said = state(tmp_path, "rexgradient", code=1)
    assert "to unpack: cat deid_png.part* | tar --zstd -x" in said and "0 of 3, 3 are missing" in said
    deep = root / "deid_png" / "i" / "p" / "studies" / "s" / "series" / "e" / "instances"
    deep.mkdir(parents=True)
    for i in range(3):
        (deep / f"{i}.png").write_bytes(b"")
    assert "rexgradient: complete" in state(tmp_path, "rexgradient", code=0)
    (root / "metadata" / "test_metadata_view_position.json").write_text('{"s0": {"StudyInstanceUid": "s0", ')
    assert "does not end" in state(tmp_path, "rexgradient", code=1)


def test_json_is_counted_across_blocks(tmp_path: Path) -> None:
    text = json.dumps([{"StudyInstanceUid": "x" * 1000} for _ in range(12_000)])  # over two blocks of 4 MiB
    for shift in range(0, 20, 7):
        (tmp_path / "a.json").write_text(" " * shift + text)
        assert catalog.count_rows(tmp_path / "a.json") == 12_000


def test_about_is_about(tmp_path: Path) -> None:
    edition = Edition((Table(("t.csv",), 1),), 200, ("x",), exact=False)
    source = dataclasses.replace(CATALOG["padchest"], editions=(edition,))
    (tmp_path / "padchest" / "x").mkdir(parents=True)
    (tmp_path / "padchest" / "t.csv").write_text("a\n1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CATALOG, "padchest", source)
        for i in range(198):
            assert not catalog.check("padchest", tmp_path).complete or i == 198
            (tmp_path / "padchest" / "x" / f"{i}.PNG").write_bytes(b"")
        assert catalog.check("padchest", tmp_path).complete
