"""A tree of DICOM -> a tree of PNG, killed and gone on with at any moment, never over somebody else's file.

    rows, refused = convert_tree(src, out, How(1024, "voi", 8, SIDES, False), workers=8, overwrite=False)

A PNG is ours if dicom_facts.csv names it: its name is written there before it is begun, the rest of its row when it is done.
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
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from roi.data.images import UnreadableImage
from roi.errors import UserError
from roi.files import atomic_write
from roi.process_pool import Died, run_jobs
from roi.progress import progress
from roi.sources.dicom import read_dicom

VERSION = 2  # of how a picture is made
SUFFIXES = (".dicom", ".dcm", ".dic")
FACTS = (
    "image",
    "rows",
    "columns",
    "photometric",
    "view",
    "bits_stored",
    "burned_in",
    "shown_by",
    "note",
    "width",
    "height",
    "made_with",
)
FACTS_BEFORE = tuple(column for column in FACTS if column != "note")  # of version 1
WHY = ("path", "why")
PATIENCE = 10  # seconds that a run which ends leaves its workers for the image they are at


class How(NamedTuple):
    size: int | None  # longer side of the PNG in px; none is enlarged
    window: str  # this and the rest: of read_dicom
    bits: int
    sides: tuple[int, int]
    allow_burned_in: bool


Job = tuple[str, str, How]  # DICOM, PNG
Row = dict[str, Any]  # of dicom_facts.csv; without made_with: begun, not known to be finished


def convert_tree(src: Path, out: Path, how: How, workers: int, overwrite: bool) -> tuple[list[Row], dict[str, str]]:
    """Write the PNG that `out` lacks, dicom_facts.csv and unreadable.csv. -> (rows of the PNG that are there, DICOM without one of their own -> why)

    UserError: `src` holds no DICOM, or `out` holds PNG of ours that were made with other settings (`overwrite` makes them anew).
    """
    files, refused = find(src)
    facts = read_facts(out)
    there = {image for image in files if (out / image).exists()}
    made_with = f"v{VERSION} {how.window} {how.bits} bit {f'{how.size} px' if how.size else 'full size'}"
    if not overwrite:
        check_settings(
            out, {image: facts[image]["made_with"] for image in files if image in there & facts.keys()}, made_with
        )
    refused |= {
        files[image]: f"{image} is there and not of this program; move it away, or name another --out"
        for image in sorted(there - facts.keys())
    }
    todo = {
        image: name
        for image, name in files.items()
        if image not in there or image in facts and facts[image]["made_with"] != made_with
    }
    begin = time.perf_counter()
    unread = convert_all(src, out, todo, how, made_with, workers, facts) if todo else {}
    seconds = time.perf_counter() - begin
    write_rows(
        out / "dicom_facts.csv", FACTS, (facts[i] for i in sorted(facts) if facts[i]["made_with"] or (out / i).exists())
    )
    refused |= unread
    rows = [facts[i] for i in files if i in facts and facts[i]["made_with"]]
    report(out, refused, len(todo) - len(unread), len(there & facts.keys() - todo.keys()), seconds)
    burned = sum(row["burned_in"] == "YES" for row in rows)
    if burned:
        print(f"  of {burned:,} PNG the header said that text is burnt in (--allow_burned_in)")
    constant = [row["image"] for row in rows if row["shown_by"] == "constant"]
    if constant:
        first = constant[0]
        print(f"  {len(constant):,} PNG are of one grey value, nothing is to be seen in them; the first is {first}")
    notes = Counter(note for row in rows for note in row["note"].split("; ") if note)
    for note, count in notes.most_common(5):
        print(f"  {count:,} x {note} (column note of {out / 'dicom_facts.csv'})")
    return rows, refused


def check_settings(out: Path, theirs: dict[str, str], made_with: str) -> None:
    """UserError: some of the PNG that are there were made with other settings. `theirs`: image -> what it was made with."""
    other = {image: settings for image, settings in theirs.items() if settings not in ("", made_with)}
    if other:
        image, settings = next(iter(other.items()))
        raise UserError(
            f"{out}: {len(other):,} PNG were made with other settings ({image} with {settings!r}, now {made_with!r}); "
            "name another --out, or make them anew with --overwrite"
        )


def find(src: Path) -> tuple[dict[str, str], dict[str, str]]:
    """-> (PNG -> DICOM, DICOM that have no PNG of their own -> why), paths below the folders, in order. Links are followed, each folder is read once."""
    found, seen = [], set()
    for folder, below, names in os.walk(src, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        found += [(Path(folder) / name).relative_to(src).as_posix() for name in names if is_dicom(Path(folder) / name)]
    if not found:
        raise UserError(f"--src {src}: holds no DICOM file ({', '.join(SUFFIXES)}, or no suffix and the DICM mark)")
    files: dict[str, str] = {}
    refused = {}
    for name in sorted(found):
        stem, suffix = os.path.splitext(name)
        image = (stem if suffix.lower() in SUFFIXES else name) + ".png"
        if files.setdefault(image, name) != name:
            refused[name] = f"its PNG is that of {files[image]}"
    return files, refused


def is_dicom(path: Path) -> bool:
    """By its suffix, or its mark where it has none; '1.2.840.7' is a UID and has none. DICOMDIR is an index of others."""
    if path.name.startswith(".") or path.name == "DICOMDIR":
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    with suppress(OSError), open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def read_facts(out: Path) -> dict[str, Row]:
    """Image -> its row of dicom_facts.csv, whose last line may be torn."""
    path = out / "dicom_facts.csv"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return {row["image"]: row for row in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]), restval="")}


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def convert_all(
    src: Path, out: Path, todo: dict[str, str], how: How, made_with: str, workers: int, facts: dict[str, Row]
) -> dict[str, str]:
    """Write the PNG of `todo` (PNG -> DICOM) and their rows, into `facts` too. -> DICOM that could not be read -> why

    A decoder that crashes on a file takes one worker with it, not the run. OSError: a PNG cannot be written.
    """
    path = out / "dicom_facts.csv"
    write_rows(path, FACTS, facts.values())
    images = list(todo)
    unread: dict[str, str] = {}
    with open(path, "a", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, FACTS, restval="", lineterminator="\n")

        def jobs() -> Iterator[Job]:
            for image, name in todo.items():
                rows.writerow({"image": image})  # begun: a PNG of this name is ours from now on
                file.flush()
                os.fsync(file.fileno())
                yield str(src / name), str(out / image), how

        with (
            closing(run_jobs(convert, jobs(), workers, PATIENCE)) as ready,
            progress(None, len(todo), "converting") as bar,
        ):
            for k, outcome in ready:
                image = images[k]
                if isinstance(outcome, str | Died):
                    unread[todo[image]] = str(outcome)
                elif isinstance(outcome, Exception):
                    raise outcome
                else:
                    facts[image] = {"image": image, **outcome, "made_with": made_with}
                    rows.writerow(facts[image])
                    file.flush()
                bar.update()
    return unread


def convert(job: Job) -> Row | str:
    """One image, in a worker. -> its row, or why there is none. OSError: the PNG cannot be written."""
    source, target, how = job
    try:
        pixels, facts = read_dicom(source, how.window, how.bits, how.sides, how.allow_burned_in)
    except UnreadableImage as error:
        return str(error).removeprefix(f"{source}: ")
    except MemoryError:
        return "too large for the memory of this machine; fewer --workers need less"
    pixels = fit(pixels, how.size)
    with atomic_write(target, "wb") as file:
        Image.fromarray(pixels).save(
            file, format="PNG", compress_level=1, compress_type=zlib.Z_RLE
        )  # a third of the time of level 6, and no larger
    return facts | {"width": pixels.shape[1], "height": pixels.shape[0]}


def fit(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """(H, W) -> the longer side is `size` px, by PIL's antialiased bilinear filter; never enlarged."""
    longer = max(pixels.shape)
    if size is None or longer <= size:
        return pixels
    height, width = (max(1, round(side * size / longer)) for side in pixels.shape)
    image = Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32))
    return np.rint(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))).astype(pixels.dtype)


def report(out: Path, refused: dict[str, str], made: int, there: int, seconds: float) -> None:
    """The side file and the summary."""
    side_file = out / "unreadable.csv"
    said = f"{out}: {made:,} converted, {there:,} skipped (there already), {len(refused):,} unreadable"
    print(said + (f"; {made / seconds:.1f} images/s" if made else ""))
    if not refused:
        side_file.unlink(missing_ok=True)  # of an earlier run: no longer true
        return
    write_rows(side_file, WHY, ({"path": name, "why": refused[name]} for name in sorted(refused)))
    reasons = Counter(refused.values()).most_common()
    print(
        f"  listed in {side_file}: "
        + "; ".join(f"{count:,} x {why}" for why, count in reasons[:3])
        + ("; ..." if len(reasons) > 3 else "")
    )
