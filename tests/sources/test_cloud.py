"""MIMIC from Google's cloud with a stand-in for Google's client: what is asked, made smaller, removed."""

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line_error, run
from PIL import Image

from roi.sources.download import cloud

# Copies a local bucket: rsync [-r] --no-clobber --billing-project P gs://BUCKET/PATH DIR; writes down each call.
CLIENT = """#!/bin/bash
echo "$(basename "$0") $*" >> "{log}"
source=${{@: -2:1}}; target=${{@: -1}}
from="{bucket}/${{source#gs://mimic-cxr-jpg-2.1.0.physionet.org}}"
[ -e "{bucket}.fail" ] && [[ $source == *"$(cat "{bucket}.fail")" ]] && exit 1
[[ " $* " == *" -r "* ]] && exec cp -rn "$from/." "$target"
find "$from" -maxdepth 1 -type f -exec cp -n {{}} "$target" \\;
"""


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bucket of ten folders, and the client on the PATH."""
    root = tmp_path / "bucket"
    rng = np.random.default_rng(0)
    for part in cloud.PARTS:
        folder = root / "files" / part / f"{part}000032" / "s5"
        folder.mkdir(parents=True)
        picture(folder / "a.jpg", rng, (300, 200))
        picture(folder / "b.jpg", rng, (100, 80))
    (root / "mimic-cxr-2.0.0-metadata.csv.gz").write_bytes(b"table")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "gcloud").write_text(CLIENT.format(bucket=root, log=tmp_path / "log"))
    (tools / "gcloud").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(cloud, "PART_BYTES", 0)
    return root


def picture(path: Path, rng: np.random.Generator, size: tuple[int, int]) -> None:
    small = Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(path, quality=95)


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def download(tmp_path: Path, *flags: object) -> tuple[object, ...]:
    command = ("download_datasets.py", "--download", "mimic", "--data_root", tmp_path / "d", "--via", "gcs")
    return (*command, "--project", "my-project", *flags)


def test_the_client_is_asked_for_the_bucket_and_nothing_is_written_over(bucket: Path, tmp_path: Path) -> None:
    own = tmp_path / "d" / "mimic" / "mimic-cxr-2.0.0-metadata.csv.gz"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    assert run(*download(tmp_path)).splitlines()[-1] == str(tmp_path / "d" / "mimic")
    target = tmp_path / "d" / "mimic"
    source = "gs://mimic-cxr-jpg-2.1.0.physionet.org"
    expected = f"gcloud storage rsync -r --no-clobber --billing-project my-project {source} {target}"
    assert asked(tmp_path) == [expected] and own.read_bytes() == b"mine" and len(files(target)) == 21
    os.rename(tmp_path / "bin" / "gcloud", tmp_path / "bin" / "gsutil")
    hide = {"PATH": str(tmp_path / "bin")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.which", lambda name: name if (Path(hide["PATH"]) / name).exists() else None)
        run(*download(tmp_path))
    assert asked(tmp_path)[-1] == f"gsutil -m -u my-project rsync -r -i {source} {target}"


def test_images_are_made_smaller_folder_by_folder_and_only_what_was_fetched_goes(bucket: Path, tmp_path: Path) -> None:
    target = tmp_path / "d" / "mimic"
    own = target / "files" / "p10" / "p10000032" / "s5" / "a.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    said = run(*download(tmp_path, "--shrink", 96))
    assert "p10: 0 images made smaller, 1 kept as they were, 1 were there" in said
    assert "p19: 1 images made smaller, 1 kept as they were, 0 were there" in said
    assert own.read_bytes() == b"mine"
    marks = [f"files/{part}.shrunk" for part in cloud.PARTS]
    images = [f"files/{part}/{part}000032/s5/{name}.jpg" for part in cloud.PARTS for name in "ab"]
    assert files(target) == sorted([*marks, *images, "mimic-cxr-2.0.0-metadata.csv.gz"])
    with Image.open(target / images[2]) as made, Image.open(bucket / images[2]) as original:
        assert made.size == (144, 96) and made.format == "JPEG"
        back = np.asarray(made.resize(original.size, Image.Resampling.BICUBIC), float)
        assert abs(back - np.asarray(original, float)).mean() < 3
    assert (target / images[3]).read_bytes() == (bucket / images[3]).read_bytes()  # 80 px: not larger
    # Again: the tables alone are asked for, nothing is fetched twice.
    before = len(asked(tmp_path))
    run(*download(tmp_path, "--shrink", 96))
    assert len(asked(tmp_path)) == before + 1
    assert "go on with --shrink 96" in one_line_error(*download(tmp_path, "--shrink", 128))


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(bucket: Path, tmp_path: Path) -> None:
    """Stopped while it fetches, while it makes images smaller, and while it removes what it fetched."""
    target = tmp_path / "d" / "mimic"
    (tmp_path / "bucket.fail").write_text("p11")
    error = run(*download(tmp_path, "--shrink", 96), code=2)
    assert "exit code 1 at gs://" in error and "the same command goes on" in error and "7. python" in error
    assert (target / "files/p10.shrunk").exists() and not (target / "files" / "p11.shrunk").exists()
    (tmp_path / "bucket.fail").unlink()
    # p12 half made, with all of it fetched; p10 made, with some of it not removed yet.
    for part in ("p10", "p12"):
        staging = target / f".fetch-{part}" / f"{part}000032" / "s5"
        staging.mkdir(parents=True)
        (target / f".fetch-{part}" / cloud.OURS).write_text("96")
        for name in "ab":
            (staging / f"{name}.jpg").write_bytes((bucket / f"files/{part}/{part}000032/s5/{name}.jpg").read_bytes())
    half = target / "files/p12/p12000032/s5/a.jpg"
    assert cloud.shrink((str(target / ".fetch-p12/p12000032/s5/a.jpg"), str(half), 96)) == "made"
    made = half.read_bytes()
    run(*download(tmp_path, "--shrink", 96))
    assert half.read_bytes() == made and not list(target.glob(".fetch-*"))
    assert len(files(target)) == 31
    assert sum("p10 " in line for line in asked(tmp_path)) == 1


def test_somebodys_folder_and_file_of_our_names_stay(bucket: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "d" / "mimic" / ".fetch-p10" / "thesis.tex"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    assert ".fetch-p10 exists" in one_line_error(*download(tmp_path, "--shrink", 96))
    assert theirs.read_text() == "years of work" and len(files(theirs.parent)) == 1


def test_without_a_client_each_step_is_said(bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    said = run(*download(tmp_path), code=2)
    words = ("credentialed", "data use agreement", "settings/cloud", "Ask for access", "gcloud auth login", "billing")
    assert all(word in said for word in words) and said.count("error: ") == 1 and "egress" in said
    assert not (tmp_path / "d").exists() and not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--download", "vindr", "--via", "gcs", "--project", "p"), "--via gcs is for --download of mimic"),
        (("--download", "mimic", "--via", "gcs"), "--via gcs needs --project P"),
        (("--download", "mimic", "--shrink", 512), "--shrink 512 goes with --via gcs"),
        (("--download", "mimic", "--via", "gcs", "--project", "p", "--only", "*.csv*"), "without --only"),
        (("--download", "mimic", "--via", "gcs", "--project", "p", "--shrink", 8), "8 is below 64"),
    ],
)
def test_flags_that_do_not_go_together(flags: tuple[object, ...], words: str) -> None:
    assert words in one_line_error("download_datasets.py", *flags)
