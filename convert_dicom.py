"""Convert a tree of DICOM X-rays into a tree of grey PNG: same folders, same names, .png in place of .dicom, .dcm or .dic.

    python convert_dicom.py --src vindr-cxr/1.0.0 --out vindr-cxr/1.0.0 --size 1024 --workers 8 \\
        --boxes vindr-cxr/1.0.0/annotations/annotations_train.csv --boxes_out data/vindr_boxes_train.csv

DIR/**/NAME.png        nothing but the picture: no word of the DICOM header
DIR/dicom_facts.csv    a row each PNG: size, photometric interpretation, view, bits of the original, and how the PNG was made; nothing that tells whose it is
DIR/unreadable.csv     what could not be converted, and why; exit code 1 if it is there

Killed at any moment, the same command goes on where it stopped, and the tree is then what it would have been. A PNG that this
program did not make (dicom_facts.csv does not name it) is never touched. Boxes are given in pixels of the PNG.
"""

import argparse
import csv
import io
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from roi import cli
from roi.dicom import SIDES, VINDR_TWINS, WINDOWS, needs_pydicom, read_dicom
from roi.files import replacing, writable
from roi.images import UnreadableImage
from roi.log import progress

VERSION = 1  # of how a picture is made
SUFFIXES = (".dicom", ".dcm", ".dic")
FACTS = ("image", "rows", "columns", "photometric", "view", "bits_stored", "burned_in", "shown_by", "width", "height", "made_with")
WHY = ("path", "why")
BOXES = ("image", "label", "x", "y", "w", "h", "width", "height")
CORNERS = ["x_min", "y_min", "x_max", "y_max"]
MARKS = ("image_id", "class_name", *CORNERS)
Job = tuple[str, str, int | None, dict[str, Any]]  # DICOM, PNG, longer side, flags of read_dicom
Outcome = dict[str, Any] | str  # a row of dicom_facts.csv, or why there is none
Facts = dict[str, dict[str, Any]]  # image -> row of dicom_facts.csv; without made_with: begun, not known to be finished


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--src", type=Path, required=True, metavar="DIR", help="holds the DICOM files: .dicom, .dcm, .dic, or no suffix and the DICM mark")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the PNG go; may be --src")
    parser.add_argument("--size", type=cli.number(int, 16), metavar="PX", help="longer side of the PNG; none is enlarged (default: as it is)")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of a pixel of the PNG (default: %(default)s)")
    window = "voi: the VOI LUT or window of the file, percentiles where it has none; percentile: always those, 0.5 and 99.5 (default: %(default)s)"
    parser.add_argument("--window", choices=WINDOWS, default="voi", help=window)
    parser.add_argument(
        "--workers", type=cli.number(int, 1), default=min(8, os.cpu_count() or 1), metavar="N", help="processes; change no file (default: %(default)s)"
    )
    parser.add_argument("--min_side", type=cli.number(int, 1), default=SIDES[0], metavar="PX", help="refuse images with a shorter side (default: %(default)s)")
    parser.add_argument("--max_side", type=cli.number(int, 1), default=SIDES[1], metavar="PX", help="refuse images with a longer side (default: %(default)s)")
    parser.add_argument(
        "--allow_burned_in", action=cli.on_off, default=False, help="take images whose header says that text is burnt in, perhaps a name (default: refuse)"
    )
    parser.add_argument("--boxes", type=Path, metavar="CSV", help="annotations_train.csv, annotations_test.csv of VinDr-CXR, or train.csv of VinBigData")
    parser.add_argument("--boxes_out", type=Path, metavar="CSV", help="the same boxes in pixels of the PNG; what is left out stands in <stem>_left_out.csv")
    cli.add_overwrite(parser, "PNG of this program that were made with other settings")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> int:
    check(args)
    marks = read_marks(args.boxes) if args.boxes else None
    files, refused = find(args.src)
    facts = read_facts(args.out)
    made_with = f"v{VERSION} {args.window} {args.bits} bit {f'{args.size} px' if args.size else 'full size'}"
    there = {image for image in files if (args.out / image).exists()}
    check_settings(args, {image: facts[image]["made_with"] for image in files if image in there & facts.keys()}, made_with)
    refused |= {files[image]: f"{image} is there and not of this program; move it away, or name another --out" for image in sorted(there - facts.keys())}
    todo = [image for image in files if image not in there or image in facts and facts[image]["made_with"] != made_with]
    begin = time.perf_counter()
    unread = convert_all(args, {image: files[image] for image in todo}, facts, made_with)
    seconds = time.perf_counter() - begin
    write_rows(args.out / "dicom_facts.csv", FACTS, (facts[i] for i in sorted(facts) if facts[i]["made_with"] or (args.out / i).exists()))
    refused |= unread
    report(args.out, refused, len(todo) - len(unread), len(there & facts.keys() - set(todo)), seconds)
    burned = sum(facts[image]["burned_in"] == "YES" for image in files if image in facts)
    if burned:
        print(f"  of {burned:,} PNG the header said that text is burnt in (--allow_burned_in)")
    if marks is not None:
        write_boxes(marks, args.boxes, args.boxes_out, [facts[i] for i in files if i in facts and facts[i]["made_with"]])
    return 1 if refused else 0


def check(args: argparse.Namespace) -> None:
    """ValueError: flags that cannot be, or files of somebody else under the names that are written."""
    needs_pydicom()
    if not args.src.is_dir():
        raise ValueError(f"--src {args.src}: no such folder")
    if args.min_side > args.max_side:
        raise ValueError(f"--min_side {args.min_side} is above --max_side {args.max_side}")
    if (args.boxes is None) != (args.boxes_out is None):
        raise ValueError("--boxes and --boxes_out go together: give both or none")
    written = {args.out / "dicom_facts.csv": FACTS, args.out / "unreadable.csv": WHY}
    if args.boxes_out:
        written |= {args.boxes_out: BOXES, left_out(args.boxes_out): (*MARKS, "why")}
    for path, columns in written.items():
        writable(path)
        if path.exists():
            with open(path, encoding="utf-8", errors="replace") as file:
                if file.readline() != ",".join(columns) + "\n":
                    raise ValueError(f"{path} is there and not of this program; move it away, or name another file or folder")


def check_settings(args: argparse.Namespace, theirs: dict[str, str], made_with: str) -> None:
    """ValueError: some of the PNG that are there were made with other settings. `theirs`: image -> what it was made with."""
    other = {image: settings for image, settings in theirs.items() if settings not in ("", made_with)}
    if other and not args.overwrite:
        image, settings = next(iter(other.items()))
        raise ValueError(
            f"{args.out}: {len(other):,} PNG were made with other settings ({image} with {settings!r}, now {made_with!r}); "
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
        raise ValueError(f"--src {src}: holds no DICOM file ({', '.join(SUFFIXES)}, or no suffix and the DICM mark)")
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


def read_facts(out: Path) -> Facts:
    """What dicom_facts.csv says, whose last line may be torn."""
    path = out / "dicom_facts.csv"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return {row["image"]: row for row in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]), restval="")}


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with replacing(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def convert_all(args: argparse.Namespace, todo: dict[str, str], facts: Facts, made_with: str) -> dict[str, str]:
    """Write the PNG of `todo` (PNG -> DICOM) and their rows into `facts`. -> DICOM that could not be read -> why"""
    if not todo:
        return {}
    flags = {"window": args.window, "bits": args.bits, "sides": (args.min_side, args.max_side), "allow_burned_in": args.allow_burned_in}
    path = args.out / "dicom_facts.csv"
    write_rows(path, FACTS, facts.values())
    unread: dict[str, str] = {}
    with open(path, "a", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, FACTS, restval="", lineterminator="\n")

        def jobs() -> Iterator[Job]:
            for image, name in todo.items():
                rows.writerow({"image": image})  # begun: a PNG of this name is ours from now on
                file.flush()
                os.fsync(file.fileno())
                yield str(args.src / name), str(args.out / image), args.size, flags

        with closing(outcomes(jobs(), min(args.workers, len(todo)))) as ready, progress(None, len(todo), "converting") as bar:
            for target, outcome in ready:
                image = Path(target).relative_to(args.out).as_posix()
                if isinstance(outcome, str):
                    unread[todo[image]] = outcome
                else:
                    facts[image] = {"image": image, **outcome, "made_with": made_with}
                    rows.writerow(facts[image])
                    file.flush()
                bar.update()
    return unread


def convert(job: Job) -> Outcome:
    """One image, in a worker. OSError: the PNG cannot be written."""
    source, target, size, flags = job
    try:
        pixels, facts = read_dicom(source, **flags)
    except UnreadableImage as error:
        return str(error).removeprefix(f"{source}: ")
    except MemoryError:
        return "too large for the memory of this machine; fewer --workers need less"
    pixels = fit(pixels, size)
    with replacing(target, "wb") as file:
        Image.fromarray(pixels).save(file, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)  # a third of the time of level 6, and no larger
    return facts | {"width": pixels.shape[1], "height": pixels.shape[0]}


def fit(pixels: np.ndarray, size: int | None) -> np.ndarray:
    """(H, W) -> the longer side is `size` px, by PIL's antialiased bilinear filter; never enlarged."""
    longer = max(pixels.shape)
    if size is None or longer <= size:
        return pixels
    height, width = (max(1, round(side * size / longer)) for side in pixels.shape)
    image = Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32))
    return np.rint(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))).astype(pixels.dtype)


def outcomes(jobs: Iterator[Job], workers: int) -> Generator[tuple[str, Outcome], None, None]:
    """PNG and what came of it, as the jobs end; no more than `workers` are begun. Closing it lets the workers end what they are at.

    A decoder that crashes on a file takes one worker with it, not the run. OSError: a PNG cannot be written.
    """
    crew: dict[Any, Any] = {}  # our end of a pipe -> the process at the other end
    doing: dict[Any, Job] = {}
    try:
        for job in islice(jobs, workers):
            assign(job, hire(crew), doing)
        while doing:
            ended: list[Any] = multiprocessing.connection.wait(list(doing))
            for end in ended:
                job = doing.pop(end)
                try:
                    outcome = end.recv()
                except (EOFError, ConnectionResetError):
                    outcome = obituary(crew, end)
                    end = hire(crew)
                if isinstance(outcome, Exception):
                    raise outcome
                following = next(jobs, None)
                if following:
                    assign(following, end, doing)
                yield job[1], outcome
    finally:
        dismiss(crew)


def assign(job: Job, end: Any, doing: dict[Any, Job]) -> None:
    doing[end] = job
    end.send(job)


def hire(crew: dict[Any, Any]) -> Any:
    """Start a worker. -> our end of its pipe"""
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    ours, theirs = context.Pipe()
    crew[ours] = context.Process(target=work, args=(ours, theirs), daemon=True)
    crew[ours].start()
    theirs.close()
    return ours


def obituary(crew: dict[Any, Any], end: Any) -> str:
    """Why there will be no outcome."""
    process = crew.pop(end)
    process.join()
    end.close()
    killed = process.exitcode == -getattr(signal, "SIGKILL", 0)
    return "its process was killed; out of memory? Fewer --workers need less" if killed else f"its decoder crashed (exit code {process.exitcode})"


def dismiss(crew: dict[Any, Any]) -> None:
    try:
        for end in crew:
            end.close()
        for process in crew.values():
            process.join(10)
    finally:  # a second Ctrl-C, or a decoder that hangs
        for process in crew.values():
            process.kill()
            process.join()


def work(ours: Connection, theirs: Connection) -> None:
    """A worker: jobs come and outcomes go through `theirs`. Ctrl-C and SIGTERM are answered by the parent: the pipe ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ours.close()  # a fork's copy
    with suppress(EOFError, OSError):
        while True:
            job = theirs.recv()
            try:
                theirs.send(convert(job))
            except Exception as error:
                theirs.send(error)


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
    print(f"  listed in {side_file}: " + "; ".join(f"{count:,} x {why}" for why, count in reasons[:3]) + ("; ..." if len(reasons) > 3 else ""))


def left_out(boxes_out: Path) -> Path:
    return boxes_out.with_name(f"{boxes_out.stem}_left_out.csv")


def read_marks(csv: Path) -> pd.DataFrame:
    """-> the columns MARKS of annotations_{train,test}.csv or of VinBigData's train.csv. ValueError: not such a file"""
    if not csv.is_file():
        raise ValueError(f"--boxes {csv}: no such file")
    try:
        marks = pd.read_csv(csv, dtype={"image_id": str, "class_name": str}, encoding="utf-8-sig")
    except ValueError as error:
        raise ValueError(f"--boxes {csv}: not a CSV table ({error})") from error
    lacking = [column for column in MARKS if column not in marks]
    if lacking:
        raise ValueError(f"--boxes {csv}: no column {lacking[0]!r} (found {list(marks)})")
    text = [column for column in CORNERS if not pd.api.types.is_numeric_dtype(marks[column])]
    if text or marks[["image_id", "class_name"]].isna().any(axis=None):
        raise ValueError(f"--boxes {csv}: " + (f"column {text[0]!r} must hold numbers" if text else "a row has no image_id or no class_name"))
    return marks[list(MARKS)]


def write_boxes(marks: pd.DataFrame, csv: Path, out: Path, facts: list[dict[str, Any]]) -> None:
    """Boxes in pixels of the PNG (columns BOXES); what has no place among them is counted, and listed where it is no matter of classes.

    A box may leave its image by one pixel, which is cut off. ValueError: none of the images is there.
    """
    drawn = marks[marks[CORNERS].notna().any(axis=1) & (marks["class_name"] != "No finding")]
    label = drawn["class_name"].map(VINDR_TWINS)
    images = pd.DataFrame(facts, columns=list(FACTS))
    images["image_id"] = [PurePosixPath(image).stem for image in images["image"]]
    twice = set(images["image_id"][images["image_id"].duplicated()])
    if not set(marks["image_id"]) & set(images["image_id"]):
        raise ValueError(f"--boxes {csv}: none of its {marks['image_id'].nunique():,} images is among the PNG; is it of this set?")
    boxes = drawn[label.notna()].merge(images.drop_duplicates("image_id"), on="image_id", how="left")
    boxes["label"] = label.dropna().to_numpy()
    rows, columns, height, width = (pd.to_numeric(boxes[c]) for c in ("rows", "columns", "height", "width"))
    left, top, right, bottom = (boxes[c] for c in CORNERS)
    outside = (left < -1) | (top < -1) | (right > columns + 1) | (bottom > rows + 1)
    left, right, top, bottom = (side.clip(0, most) for side, most in ((left, columns), (right, columns), (top, rows), (bottom, rows)))
    across, down = width / columns, height / rows
    boxes["x"], boxes["y"], boxes["w"], boxes["h"] = left * across, top * down, (right - left) * across, (bottom - top) * down
    boxes[["x", "y", "w", "h"]] = boxes[["x", "y", "w", "h"]].round(3)
    whys = {
        "no such PNG": boxes["image"].isna(),
        "several PNG of this name": boxes["image_id"].isin(twice),
        "leaves its image": outside,
        "no area": ~((boxes["w"] > 0) & (boxes["h"] > 0)),
    }
    boxes["why"] = np.select(list(whys.values()), list(whys), "")
    kept, lost = boxes[boxes["why"] == ""], boxes[boxes["why"] != ""]
    with replacing(out) as file:
        kept[list(BOXES)].astype({"width": int, "height": int}).to_csv(file, index=False, lineterminator="\n")
    print(f"{out}: {len(kept):,} boxes of {kept['image'].nunique():,} images; {len(marks) - len(drawn):,} rows without a box")
    others = drawn["class_name"][label.isna()].value_counts()
    if len(others):
        print("  classes without a twin among our findings: " + ", ".join(f"{name} {count:,}" for name, count in others.items()))
    if lost.empty:
        left_out(out).unlink(missing_ok=True)  # of an earlier run: no longer true
        return
    with replacing(left_out(out)) as file:
        lost[[*MARKS, "why"]].to_csv(file, index=False, lineterminator="\n")
    print(f"  {len(lost):,} boxes left out, listed in {left_out(out)}: " + ", ".join(f"{why} {count:,}" for why, count in lost["why"].value_counts().items()))


if __name__ == "__main__":
    cli.run(main, parse_args)
