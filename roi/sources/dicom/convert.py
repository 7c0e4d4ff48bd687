"""Converts a tree of DICOM into a tree of PNG: killed and gone on with at any moment, never over somebody else's file.

    settings = ConvertSettings(1024, "voi", 8, SIDES, False)
    rows, refused = convert_tree(src, out, settings, workers=8, overwrite=False)

A PNG is ours if dicom_facts.csv names it: its name is written there before it is begun, the rest of its row when it is
done.
"""

import csv
import io
import os
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from roi.data.images import UnreadableImageError
from roi.errors import UserError
from roi.files import atomic_write, writable
from roi.process_pool import WorkerDiedError, run_jobs
from roi.progress import progress
from roi.sources.dicom.reader import read_dicom

VERSION = 2  # of how a picture is made
SUFFIXES = (".dicom", ".dcm", ".dic")
FACTS_FILE = "dicom_facts.csv"
UNREADABLE_FILE = "unreadable.csv"
PICTURE_COLUMNS = ("rows", "columns", "photometric", "view", "bits_stored", "burned_in", "shown_by", "note")
FACT_COLUMNS = ("image", *PICTURE_COLUMNS, "width", "height", "made_with")
FACT_COLUMNS_BEFORE = tuple(column for column in FACT_COLUMNS if column != "note")  # of version 1
UNREADABLE_COLUMNS = ("path", "why")
PATIENCE = 10  # seconds that a run which ends leaves its workers for the image they are at
SHOWN = 5  # kinds of notes that the summary names


class ConvertSettings(NamedTuple):
    """How a picture is made; of a worker's job, so it goes through a pipe."""

    size: int | None  # longer side of the PNG in px; none is enlarged
    window: str  # this and the rest: of read_dicom
    bits: int
    sides: tuple[int, int]
    allow_burned_in: bool

    def made_with(self) -> str:
        """What dicom_facts.csv says of a PNG of these settings."""
        size = f"{self.size} px" if self.size else "full size"
        return f"v{VERSION} {self.window} {self.bits} bit {size}"


Job = tuple[str, str, ConvertSettings]  # DICOM, PNG
Row = dict[str, Any]  # of dicom_facts.csv; without made_with: begun, not known to be finished


def convert_tree(
    src: Path, out: Path, settings: ConvertSettings, workers: int, overwrite: bool
) -> tuple[list[Row], dict[str, str]]:
    """Writes the PNG that `out` lacks, dicom_facts.csv and unreadable.csv.

    Args:
        src: folder of the DICOM files.
        out: folder of the PNG; may be `src`.
        settings: how pictures are made.
        workers: processes.
        overwrite: makes PNG of ours anew that were made with other settings.

    Returns:
        (rows of the PNG that are there, DICOM without a PNG of their own -> why).

    Raises:
        UserError: `src` holds no DICOM, or `out` holds PNG of ours that were made with other settings.
    """
    files, refused = find_dicoms(src)
    _remark_on_nested(src, out)
    facts = read_facts(out)
    made_with = settings.made_with()
    present = {image for image in files if (out / image).exists()}
    own = present & facts.keys()
    if not overwrite:
        settings_of = {image: facts[image]["made_with"] for image in files if image in own}
        check_settings(out, settings_of, made_with)
    for image in sorted(present - own):
        refused[files[image]] = f"{image} is there and not of this program; move it away, or name another --out"
    # Made are those that are missing, of other settings, or begun and perhaps not finished; never somebody else's.
    finished = {image for image in own if facts[image]["made_with"] == made_with}
    untouched = finished | (present - own)
    todo = {image: name for image, name in files.items() if image not in untouched}
    start = time.perf_counter()
    unread = convert_all(src, out, todo, settings, workers, facts) if todo else {}
    seconds = time.perf_counter() - start
    write_rows(out / FACTS_FILE, FACT_COLUMNS, _rows_to_keep(out, facts))
    refused |= unread
    made = len(todo) - len(unread)
    print_summary(out, made, len(own - todo.keys()), len(refused), seconds)
    write_unreadable(out, refused)
    rows = [facts[image] for image in files if image in facts and facts[image]["made_with"]]
    print_notes(out, rows)
    return rows, refused


def _remark_on_nested(src: Path, out: Path) -> None:
    """Say where one of the folders lies in the other: a conversion takes no PNG, but who predicts takes both."""
    source, target = src.resolve(), out.resolve()
    if source != target and (source.is_relative_to(target) or target.is_relative_to(source)):
        print(f"one of {src} and {out} lies in the other: name one of the two to --images, or X-rays count twice")


def _rows_to_keep(out: Path, facts: dict[str, Row]) -> Iterator[Row]:
    """Yields the rows in order, but for those of PNG that were begun and never written."""
    for image in sorted(facts):
        row = facts[image]
        if row["made_with"] or (out / image).exists():
            yield row


def check_settings(out: Path, made: dict[str, str], made_with: str) -> None:
    """Refuses to go on where PNG were made with other settings.

    Args:
        out: their folder.
        made: image -> what it was made with, "" where nobody knows.
        made_with: the settings of now.

    Raises:
        UserError: names the first of them.
    """
    others = {image: settings for image, settings in made.items() if settings not in ("", made_with)}
    if others:
        image, settings = next(iter(others.items()))
        raise UserError(
            f"{out}: {len(others):,} PNG were made with other settings ({image} with {settings!r}, now {made_with!r}); "
            "name another --out, or make them anew with --overwrite"
        )


def check_own(path: Path, *headers: tuple[str, ...]) -> None:
    """Raises UserError where a file is there that begins with none of these rows of columns."""
    writable(path)
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        first_line = file.readline()
    if first_line not in [",".join(columns) + "\n" for columns in headers]:
        raise UserError(f"{path} is there and not of this program; move it away, or name another file or folder")


def find_dicoms(src: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Looks for DICOM files; links are followed, each folder is read once.

    Returns:
        (PNG -> DICOM, DICOM that have no PNG of their own -> why), paths below the folders, in order.
    """
    names = sorted(_dicoms_below(src))
    if not names:
        raise UserError(f"--src {src}: holds no DICOM file ({', '.join(SUFFIXES)}, or no suffix and the DICM mark)")
    files: dict[str, str] = {}
    refused = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        image = (stem if suffix.lower() in SUFFIXES else name) + ".png"
        if files.setdefault(image, name) != name:
            refused[name] = f"its PNG is that of {files[image]}"
    return files, refused


def _dicoms_below(src: Path) -> Iterator[str]:
    seen = set()
    for folder, below, names in os.walk(src, followlinks=True):
        # A link may lead to a folder above itself.
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        for name in names:
            path = Path(folder) / name
            if is_dicom(path):
                yield path.relative_to(src).as_posix()


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its suffix, or by its mark where it has no suffix."""
    # DICOMDIR is an index of others.
    if path.name.startswith(".") or path.name == "DICOMDIR":
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    # '1.2.840.7' is a UID and has no suffix.
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    with suppress(OSError), open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def read_facts(out: Path) -> dict[str, Row]:
    """Image -> its row of dicom_facts.csv."""
    path = out / FACTS_FILE
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    # The last line may be torn.
    whole_lines = text[: text.rfind("\n") + 1]
    return {row["image"]: row for row in csv.DictReader(io.StringIO(whole_lines), restval="")}


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


class _FactsWriter:
    """Adds rows to dicom_facts.csv, each as it comes: a killed run must know what it has begun and finished."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.writer = csv.DictWriter(file, FACT_COLUMNS, restval="", lineterminator="\n")

    def add(self, row: Row) -> None:
        self.writer.writerow(row)
        self.file.flush()

    def begin(self, image: str) -> None:
        """From now on a PNG of this name is ours, even if the power fails."""
        self.add({"image": image})
        os.fsync(self.file.fileno())


def convert_all(
    src: Path,
    out: Path,
    todo: dict[str, str],
    settings: ConvertSettings,
    workers: int,
    facts: dict[str, Row],
) -> dict[str, str]:
    """Writes the PNG of `todo` (PNG -> DICOM) and their rows, into `facts` too.

    A decoder that crashes on a file takes one worker with it, not the run.

    Returns:
        DICOM that could not be read -> why.

    Raises:
        OSError: a PNG cannot be written.
    """
    path = out / FACTS_FILE
    # Whole lines, and of this version: what was torn or has other columns is not added to.
    write_rows(path, FACT_COLUMNS, facts.values())
    images = list(todo)
    made_with = settings.made_with()
    unread: dict[str, str] = {}
    with open(path, "a", encoding="utf-8", newline="") as file:
        writer = _FactsWriter(file)
        jobs = _jobs(src, out, todo, settings, writer)
        with (
            closing(run_jobs(convert, jobs, workers, PATIENCE)) as outcomes,
            progress(None, len(todo), "converting") as bar,
        ):
            for k, outcome in outcomes:
                image = images[k]
                # A picture that cannot be read costs itself, a disk that cannot be written the run.
                if isinstance(outcome, str | WorkerDiedError):
                    unread[todo[image]] = str(outcome)
                elif isinstance(outcome, Exception):
                    raise outcome
                else:
                    facts[image] = {"image": image, **outcome, "made_with": made_with}
                    writer.add(facts[image])
                bar.update()
    return unread


def _jobs(src: Path, out: Path, todo: dict[str, str], settings: ConvertSettings, writer: _FactsWriter) -> Iterator[Job]:
    """Yields a job for each PNG of `todo`, when a worker is free for it."""
    for image, name in todo.items():
        writer.begin(image)
        yield str(src / name), str(out / image), settings


def convert(job: Job) -> Row | str:
    """Converts one image, in a worker.

    Returns:
        Its row, or why there is none.

    Raises:
        OSError: the PNG cannot be written.
    """
    source, target, settings = job
    try:
        pixels, facts = read_dicom(source, settings.window, settings.bits, settings.sides, settings.allow_burned_in)
    except UnreadableImageError as error:
        return str(error).removeprefix(f"{source}: ")
    except MemoryError:
        return "too large for the memory of this machine; fewer --workers need less"
    pixels = resize(pixels, settings.size)
    with atomic_write(target, "wb") as file:
        # A third of the time of level 6, and no larger.
        Image.fromarray(pixels).save(file, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return facts | {"width": pixels.shape[1], "height": pixels.shape[0]}


def resize(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """Makes the longer side of (H, W) `size` px by PIL's antialiased bilinear filter; enlarges nothing."""
    longer = max(pixels.shape)
    if size is None or longer <= size:
        return pixels
    height, width = (max(1, round(side * size / longer)) for side in pixels.shape)
    # PIL filters no 16-bit pictures.
    unfiltered = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    image = Image.fromarray(unfiltered).resize((width, height), Image.Resampling.BILINEAR)
    return np.rint(np.asarray(image)).astype(pixels.dtype)


def print_summary(out: Path, made: int, skipped: int, unreadable: int, seconds: float) -> None:
    line = f"{out}: {made:,} converted, {skipped:,} skipped (there already), {unreadable:,} unreadable"
    if made:
        line += f"; {made / seconds:.1f} images/s"
    print(line)


def write_unreadable(out: Path, refused: dict[str, str]) -> None:
    """Lists the DICOM files without a PNG of their own in unreadable.csv, and prints the commonest reasons."""
    path = out / UNREADABLE_FILE
    if not refused:
        path.unlink(missing_ok=True)  # of an earlier run: no longer true
        return
    rows = [{"path": name, "why": why} for name, why in sorted(refused.items())]
    write_rows(path, UNREADABLE_COLUMNS, rows)
    reasons = Counter(refused.values()).most_common()
    parts = [f"{count:,} x {why}" for why, count in reasons[:3]]
    if len(reasons) > 3:
        parts.append("...")
    print(f"  listed in {path}: {'; '.join(parts)}")


def print_notes(out: Path, rows: list[Row]) -> None:
    """Prints what somebody should know who uses the PNG of these rows."""
    burned = sum(row["burned_in"] == "YES" for row in rows)
    if burned:
        print(f"  of {burned:,} PNG the header said that text is burnt in (--allow_burned_in)")
    constant = [row["image"] for row in rows if row["shown_by"] == "constant"]
    if constant:
        first = constant[0]
        print(f"  {len(constant):,} PNG are of one grey value, nothing is to be seen in them; the first is {first}")
    notes: Counter[str] = Counter()
    for row in rows:
        notes.update(filter(None, row["note"].split("; ")))
    for note, count in notes.most_common(SHOWN):
        print(f"  {count:,} x {note} (column note of {out / FACTS_FILE})")
