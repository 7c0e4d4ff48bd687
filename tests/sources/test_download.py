"""Downloads against a server on this machine; what is said of folders that are complete, half there, empty or wrong."""

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
from roi.sources.download import archive, completeness, http_file, physionet, sets
from roi.sources.download.catalog import CATALOG
from roi.sources.download.data_set import Edition, Table

BODY = bytes(range(256)) * 4096  # 1 MiB
LOGIN = ("ada", "s3cret")


class Site(http.server.ThreadingHTTPServer):
    """A server whose faults are switched on one by one.

    `log` has a row a request: path, headers, bytes of the body that were sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {"/a.bin": BODY}
        self.log: list[SimpleNamespace] = []
        self.etag, self.modified, self.ranges, self.conforming = '"one"', "", True, True
        self.cut: int | None = None  # bytes after which the connection ends, once
        self.codes: list[int] = []  # answered first, one each
        self.login: tuple[str, str] | None = None  # accepted of wget alone, as PhysioNet does
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
            if not self.headers["User-Agent"].startswith("Wget/"):
                return self.end(403, {})
            login = base64.b64encode(":".join(site.login).encode()).decode()
            if self.headers.get("Authorization") != f"Basic {login}":
                return self.end(401, {"WWW-Authenticate": 'Basic realm="site"'})
        if self.path not in site.files:
            return self.end(404, {})
        kind = "text/html" if self.path.endswith("/") else site.kind
        body, headers = site.files[self.path], {"Content-Type": kind}
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
    for name in ("PHYSIONET_USERNAME", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


get = functools.partial(http_file.fetch, wait=0.0, quiet=True)


def interrupt(site: Site, path: Path, after: int = 600_000) -> int:
    """A download that ends after some bytes; -> the size of what is left on the disk."""
    site.cut = after
    with pytest.raises(ValueError, match="goes on where it stopped"):
        get(f"{site.url}/a.bin", path, tries=1)
    size = path.with_name("a.bin.part").stat().st_size
    assert after - http_file.BLOCK < size <= after and not path.exists()
    site.log.clear()
    return size


def only_file(folder: Path, name: str = "a.bin") -> bool:
    return [p.name for p in folder.iterdir()] == [name]


# One file


@pytest.mark.parametrize(
    ("etag", "modified"),
    [('"one"', ""), ("", "Wed, 21 Oct 2015 07:28:00 GMT"), ('W/"weak"', "Wed, 21 Oct 2015 07:28:00 GMT"), ("", "")],
)
def test_interrupted_then_only_the_rest_is_sent(site: Site, tmp_path: Path, etag: str, modified: str) -> None:
    site.etag, site.modified = etag, modified
    had = interrupt(site, tmp_path / "a.bin")
    assert get(f"{site.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY
    (row,) = site.log
    assert row.headers["Range"] == f"bytes={had}-" and row.sent == len(BODY) - had
    assert row.headers.get("If-Range") == ((modified if etag.startswith("W/") else etag or modified) or None)
    assert only_file(tmp_path)
    assert get(f"{site.url}/a.bin", tmp_path / "a.bin").exists() and len(site.log) == 1  # it is there: nothing is asked


def test_a_flaky_line_is_resumed_within_one_call(site: Site, tmp_path: Path) -> None:
    site.cut = 500_000
    get(f"{site.url}/a.bin", tmp_path / "a.bin", tries=2)
    assert (tmp_path / "a.bin").read_bytes() == BODY and [row.code for row in site.log] == [200, 206]
    assert sum(site.sent()) < len(BODY) + http_file.BLOCK


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
    assert get(f"{site.url}/a.bin", tmp_path / "a.bin").read_bytes() == BODY
    assert [row.code for row in site.log] == [416] and only_file(tmp_path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (401, "answered 401"),
        (403, "answered 403"),
        (404, "not there"),
        (410, "not there"),
        (400, "answered 400"),
    ],
)
def test_refusals_are_one_clear_line_at_once(site: Site, tmp_path: Path, code: int, said: str) -> None:
    site.codes = [code] * 3
    with pytest.raises(ValueError, match=said) as error:
        get(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert "\n" not in str(error.value)
    assert len(site.log) == 1 and not list(tmp_path.iterdir())


def test_a_file_of_the_users_stays_as_it_is(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_text("mine")
    get(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_text() == "mine" and not site.log


def test_server_errors_pass_or_are_given_up(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("roi.sources.download.http_file.time.sleep", slept.append)
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
    assert site.log[-1].code == 206 and 0 < site.log[-1].sent <= len(BODY) // 2 + http_file.BLOCK


def test_no_server_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gave up after 2 tries"):
        get("http://127.0.0.1:9/a.bin", tmp_path / "a.bin", tries=2)


def test_full_disk_is_noticed_before_a_byte_is_written(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    had = interrupt(site, tmp_path / "a.bin")
    free = [len(BODY) - had - 1]
    monkeypatch.setattr("roi.sources.download.http_file.shutil.disk_usage", lambda path: SimpleNamespace(free=free[0]))
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
        "import sys; from roi import cli; from roi.sources.download.http_file import fetch; "
        "cli.run(lambda a: fetch(*sys.argv[1:]) and None, lambda: None)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"{site.url}/a.bin", str(tmp_path / "a.bin")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    part = tmp_path / "a.bin.part"
    end = time.monotonic() + 20
    while (
        not (part.exists() and part.stat().st_size >= len(BODY) // 2 - 2 * http_file.BLOCK) and time.monotonic() < end
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.communicate(timeout=10)[1] and process.returncode == 130
    had, site.pause = part.stat().st_size, 0.0
    get(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY and had > 0 and site.log[-1].sent == len(BODY) - had


# PhysioNet


def landed(folder: Path) -> dict[str, bytes]:
    """The files below a folder, without pages that list others."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "index.html"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def listing(files: dict[str, bytes]) -> dict[str, bytes]:
    """Pages with a link to each file or folder below, by the paths of the folders."""
    pages: dict[str, set[str]] = {}
    for name in files:
        folders = name.split("/")
        for depth in range(len(folders)):
            child = folders[depth] + ("/" if depth + 1 < len(folders) else "")
            pages.setdefault("".join(f"{folder}/" for folder in folders[:depth]), set()).add(child)
    listed = {}
    for path, below in pages.items():
        links = "".join(f'<a href="{child}">{child}</a>' for child in sorted(below))
        listed[path] = f"<html><body>{links}</body></html>".encode()
    return listed


@pytest.fixture
def project(site: Site) -> dict[str, bytes]:
    """The files of a project on a server that lists its folders and takes the password of wget alone."""
    files = {
        "labels.csv": b"a,b\n1,2\n",
        "files/p10/p1/s1/b.jpg": BODY[:5000],
        "files/p11/p2/s2/c.jpg": BODY[7:90_000],
        "more/t.csv.gz": gzip.compress(b"x\n1\n"),
    }
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    files["SHA256SUMS.txt"] = sums.encode()
    site.files = {f"/files/some-project/1.0.0/{name}": data for name, data in (files | listing(files)).items()}
    site.login, site.etag = LOGIN, ""
    return files


def by_wget(site: Site, folder: Path, only: str | None = None) -> subprocess.CompletedProcess:
    command = physionet.wget_command("some-project/1.0.0", folder, LOGIN[0], only)
    command = command.replace("https://physionet.org", site.url).replace("--ask-password", f"--password={LOGIN[1]}")
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(not shutil.which("wget") or not shutil.which("sha256sum"), reason="needs wget and sha256sum")
def test_the_command_for_physionet_fetches_and_checks(site: Site, tmp_path: Path, project: dict[str, bytes]) -> None:
    folder = tmp_path / "a set"
    done = by_wget(site, folder, "*.csv*")
    assert done.returncode == 0, done.stderr
    assert landed(folder) == {name: project[name] for name in ("labels.csv", "more/t.csv.gz", "SHA256SUMS.txt")}
    done = by_wget(site, folder)
    assert done.returncode == 0 and landed(folder) == project, done.stderr
    (folder / "labels.csv").write_bytes(b"a,b\n1,3\n")
    assert (
        "labels.csv: FAILED"
        in subprocess.run(
            ["sha256sum", "--quiet", "-c", "SHA256SUMS.txt"], cwd=folder, capture_output=True, text=True
        ).stdout
    )


def test_what_comes_from_physionet_is_a_command_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("download_datasets.py", "--download", "mimic", "--data_root", tmp_path)
    url = "https://physionet.org/files/mimic-cxr-jpg/2.1.0/"
    assert f"-P {tmp_path}/mimic --user YOURS --ask-password {url} && (cd {tmp_path}/mimic" in one_line_error(*command)
    monkeypatch.setenv("PHYSIONET_USERNAME", "bob")
    assert "--user bob --ask-password" in one_line_error(*command)
    said = one_line_error(*command, "--username", "ada b", "--only", "*.csv*")
    assert "--user 'ada b'" in said and "-A '*.csv*,SHA256SUMS.txt'" in said and "--info mimic" in said
    assert not list(tmp_path.iterdir())


# Kaggle, Hugging Face, OpenI, and those that no program can fetch


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
    monkeypatch.setattr("roi.sources.download.http_file.shutil.disk_usage", lambda path: SimpleNamespace(free=10**12))
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
    monkeypatch.setattr("roi.sources.download.http_file.shutil.disk_usage", lambda path: SimpleNamespace(free=10**10))
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
    monkeypatch.setattr(sets, "OPENI", f"{site.url}/")
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
        archive.unpack(tmp_path / "a.tgz", tmp_path / "a")
    for name in ("../x", "a/../../x", "/tmp/x"):
        (tmp_path / "b.tgz").write_bytes(tgz({name: b"x"}))
        with pytest.raises(ValueError, match="outside"):
            archive.unpack(tmp_path / "b.tgz", tmp_path / "b")
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


# What is known, and what is there


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
        assert completeness.count_rows(shared / "nih_metadata" / name) == published
    assert (
        completeness.count_rows(shared / "openi" / "indiana_reports.csv") == CATALOG["openi"].editions[1].tables[0].rows
    )
    assert (
        completeness.count_rows(shared / "openi" / "NLMCXR_reports.tgz") == CATALOG["openi"].editions[0].tables[0].rows
    )
    (tmp_path / "openi").mkdir()
    (tmp_path / "openi" / "NLMCXR_reports.tgz").symlink_to(shared / "openi" / "NLMCXR_reports.tgz")
    assert "NLMCXR_reports.tgz: 3,955 rows" in completeness.check_set("openi", tmp_path).lines
    for n in (1, 2):
        (tmp_path / "openi" / "ecgen-radiology").mkdir(exist_ok=True)
        (tmp_path / "openi" / "ecgen-radiology" / f"{n}.xml").write_text("<x/>")
    assert (
        "ecgen-radiology/*.xml: 2 files, but 3,955 are published: cut off?"
        in completeness.check_set("openi", tmp_path).lines
    )


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
        assert completeness.count_rows(tmp_path / "a.json") == 12_000


def test_about_is_about(tmp_path: Path) -> None:
    edition = Edition((Table(("t.csv",), 1),), 200, ("x",), exact=False)
    source = dataclasses.replace(CATALOG["padchest"], editions=(edition,))
    (tmp_path / "padchest" / "x").mkdir(parents=True)
    (tmp_path / "padchest" / "t.csv").write_text("a\n1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CATALOG, "padchest", source)
        for i in range(198):
            assert not completeness.check_set("padchest", tmp_path).complete or i == 198
            (tmp_path / "padchest" / "x" / f"{i}.PNG").write_bytes(b"")
        assert completeness.check_set("padchest", tmp_path).complete
