"""MIMIC-CXR-JPG out of PhysioNet's bucket at Google, by Google's own client; on wish made smaller folder by folder.

    fetch("mimic", folder, "my-project")                   # the bucket as it is
    fetch_shrunk("mimic", folder, "my-project", 512)       # never more than a tenth of it in its full size on the disk

No password is handled here: the client has its own login. It checks what it fetches and leaves alone what is there.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from roi.errors import UserError
from roi.files import atomic_write, refuse_existing
from roi.process_pool import run_jobs
from roi.progress import progress
from roi.sources.download.http_file import require_space
from roi.sources.download.physionet import CLOUD_STEPS

BUCKETS = {"mimic": "mimic-cxr-jpg-2.1.0.physionet.org"}
PARTS = tuple(f"p{number}" for number in range(10, 20))  # folders of the patients, a tenth of the images each
PART_BYTES = 60e9  # of the largest of them, about
SHRUNK = ".shrunk"  # DIR/files/p10.shrunk: that folder is done, and to how many px
OURS = ".fetched-by-roi"  # in a folder that this program made to fetch into
QUALITY = 95  # of a JPEG
PATIENCE = 10  # seconds that a run which ends leaves its workers


class Shrunk(NamedTuple):
    """What became of the images of a folder."""

    made: int = 0
    present: int = 0  # there already, somebody's or of an interrupted run, and left as they are
    as_they_were: int = 0  # not larger, or no grey or colour picture of 8 bits


def fetch(name: str, folder: Path, project: str) -> None:
    """All files of a set that are not there yet."""
    _rsync(f"gs://{_bucket(name)}", folder, project, recursive=True)


def fetch_shrunk(name: str, folder: Path, project: str, side: int) -> None:
    """Tables as they are, images with a shorter side of `side` px at most: what training with --img_size `side` needs.

    A folder of patients is fetched beside its place, made smaller into it, and only then what was fetched is removed:
    killed at any moment, the same command fetches no image twice, which the bucket would charge again.

    Raises:
        UserError: no client, no access, no space, or folders of another side.
    """
    source = f"gs://{_bucket(name)}"
    _refuse_another_side(folder, side)
    _rsync(source, folder, project, recursive=False)
    # Ten times a tenth: the disk never holds more than one of them in full size.
    for part in PARTS:
        staging = folder / f".fetch-{part}"
        target = folder / "files" / part
        mark = folder / "files" / f"{part}{SHRUNK}"
        if not mark.exists():
            _make_staging(staging, side)
            _rsync(f"{source}/files/{part}", staging, project, recursive=True)
            counts = _shrink_all(staging, target, side)
            print(f"{target}: {counts.made:,} images made smaller, {counts.as_they_were:,} kept as they were, ", end="")
            print(f"{counts.present:,} were there")
            # From here on this folder is never fetched again.
            with atomic_write(mark) as file:
                file.write(f"{side}\n")
        # Also after a kill between the mark and the removal.
        _remove_fetched(staging, target)


def _bucket(name: str) -> str:
    if name not in BUCKETS:
        raise UserError(f"--via gcs: {name} is not there; {', '.join(BUCKETS)} is")
    return BUCKETS[name]


def _refuse_another_side(folder: Path, side: int) -> None:
    for mark in (*sorted(folder.glob(f"files/p*{SHRUNK}")), *folder.glob(f".fetch-p*/{OURS}")):
        before = mark.read_text(encoding="utf-8").strip()
        if before != str(side):
            raise UserError(f"--shrink {side}: {folder} has images of {before} px; go on with --shrink {before}")


def _rsync(source: str, target: Path, project: str, recursive: bool) -> None:
    """Copies what is not there, by Google's client; its output is its own."""
    command = _command(project, recursive)
    target.mkdir(parents=True, exist_ok=True)
    # As a list, without a shell: a folder may have spaces in its name.
    code = subprocess.run([*command, source, str(target)]).returncode
    # What the client said stands above; it knows best what went wrong.
    if code:
        _print_steps()
        raise UserError(
            f"{command[0]} ended with exit code {code} at {source}; what came is kept, the same command goes on. "
            "If access is what it asks for, the steps are above"
        )


def _command(project: str, recursive: bool) -> list[str]:
    """Nothing that is there is written over: it may be somebody's."""
    deep = ["-r"] if recursive else []
    if shutil.which("gcloud"):
        return ["gcloud", "storage", "rsync", *deep, "--no-clobber", "--billing-project", project]
    if shutil.which("gsutil"):
        return ["gsutil", "-m", "-u", project, "rsync", *deep, "-i"]
    _print_steps()
    raise UserError("--via gcs: neither gcloud nor gsutil is installed; the steps are above, the second installs one")


def _print_steps() -> None:
    for number, step in enumerate(CLOUD_STEPS, 1):
        print(f"{number}. {step}")


def _make_staging(staging: Path, side: int) -> None:
    if not (staging / OURS).exists():
        # A folder of that name may be somebody's, whose files would be removed.
        if staging.exists():
            refuse_existing(staging, overwrite=False)
        require_space(staging.parent, PART_BYTES)
        staging.mkdir(parents=True, exist_ok=True)
        (staging / OURS).write_text(f"{side}\n", encoding="utf-8")


def _fetched(staging: Path) -> Iterator[Path]:
    """Yields the files that were fetched."""
    for folder, _, names in os.walk(staging):
        for name in sorted(names):
            if name != OURS:
                yield Path(folder) / name


def _shrink_all(staging: Path, target: Path, side: int) -> Shrunk:
    """Writes each fetched file to its place, smaller where it can be."""
    jobs = [(str(path), str(target / path.relative_to(staging)), side) for path in _fetched(staging)]
    results = []
    # As many as convert_dicom.py takes: more wait for the disk.
    workers = min(8, os.cpu_count() or 1)
    with (
        closing(run_jobs(shrink, iter(jobs), workers, PATIENCE)) as outcomes,
        progress(None, len(jobs), "making smaller") as bar,
    ):
        for _, outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            results.append(outcome)
            bar.update()
    return Shrunk(results.count("made"), results.count("present"), results.count("as it was"))


def shrink(job: tuple[str, str, int]) -> str:
    """Writes one file to its place, in a worker: made, present or as it was (the fields of Shrunk)."""
    source, target, side = job
    if os.path.lexists(target):
        return "present"
    try:
        with Image.open(source) as image:
            kind = image.format
            smaller = _smaller(image, side) if kind in ("JPEG", "PNG") else None
    except (OSError, ValueError, Image.DecompressionBombError):
        # Training says which file it cannot read; whoever has the original may look at it.
        smaller = None
    with atomic_write(target, "wb") as file:
        if smaller is not None:
            smaller.save(file, format=kind, quality=QUALITY)
            return "made"
        with open(source, "rb") as original:
            shutil.copyfileobj(original, file)
    return "as it was"


def _smaller(image: Image.Image, side: int) -> Image.Image | None:
    """The image with a shorter side of `side` px, its proportions kept; None where it is not larger."""
    shorter = min(image.size)
    if shorter <= side or image.mode not in ("L", "RGB"):
        return None
    # The proportions stay: training makes the square itself.
    width, height = (max(1, round(length * side / shorter)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _remove_fetched(staging: Path, target: Path) -> None:
    """Removes what was fetched and stands in its place; anything else that lies there stays."""
    if not (staging / OURS).exists():
        return
    for path in list(_fetched(staging)):
        # Whoever took an image away from its place may want this one.
        if (target / path.relative_to(staging)).exists():
            path.unlink()
    folders = sorted((path for path in staging.rglob("*") if path.is_dir()), reverse=True)
    for folder in folders:
        with suppress(OSError):  # something else is in it
            folder.rmdir()
    if [path.name for path in staging.iterdir()] == [OURS]:
        (staging / OURS).unlink()
        staging.rmdir()
