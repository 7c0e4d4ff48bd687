"""Files that others made to break decoders: is each read rightly, or refused in words?

    pip install --target /tmp/pydicom_data pydicom-data
    python benchmarks/foreign_files.py --images Pillow/Tests/images \\
        --dicom pydicom/data/test_files /tmp/pydicom_data/data_store

Every file below the folders goes through decoding and the pixel cache (pictures), or through decoding and conversion
(DICOM), in a process of its own that is killed after --limit seconds. A file is

- right: the picture is that of Pillow, or of pydicom. Pictures of 8 bits must be Pillow's bit for bit, upright, without
  alpha. What has more bits, and DICOM, must correlate with the samples (DICOM: after pydicom's modality and VOI
  functions) by at least .99, with the sign that the header gives it, and use the range that the samples use of theirs,
  or 32 grey levels where the file states white or a window. One that is black, or of one grey, where the reference is
  not is wrong; so is one that the cache or the converted PNG shows otherwise. Declared padding is left out; what
  percentiles clip, the reference clips;
- named: refused by UnreadableImageError, in one line that begins with the path and has no Python in it;
- wrong: anything else that ended; a crash or a hang did not end.

Prints a table and every file that is not right or named, and writes benchmarks/results/foreign_files-<machine>.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from harness import Figure, add_machine, table, write_result
from PIL import Image, ImageOps

from roi import cli
from roi.data.bit_depth import DEEP_MODES
from roi.data.images import UnreadableImageError, read_grey, read_picture
from roi.data.pixel_cache import open_cache
from roi.errors import UserError
from roi.sources.dicom.convert import ConvertSettings, convert
from roi.sources.dicom.grey import LEVELS, percentiles
from roi.sources.dicom.reader import read_dicom

SIDE = 64  # px of the pixel cache
SIDES = (1, 20_000)  # px of DICOM: no file is refused for its size alone
LEAST = 0.99  # correlation
SPAN = 0.3  # of the part of the range that the samples use of theirs: the fewest bits hold up to twice as much
PYTHON = re.compile(r"object has no|NoneType|'[A-Z]\w+' object|<class|unsupported operand|not subscriptable")
KINDS = ("right", "named", "wrong", "crash", "hang")


class Verdict(NamedTuple):
    kind: str  # one of KINDS
    why: str


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--images", type=Path, nargs="+", default=[], metavar="DIR", help="folders of pictures")
    parser.add_argument("--dicom", type=Path, nargs="+", default=[], metavar="DIR", help="folders of DICOM")
    parser.add_argument(
        "--limit", type=cli.number(float, 1), default=30, metavar="S", help="seconds a file (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=cli.number(int, 1), default=2, metavar="N", help="files at once (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the result goes (default: benchmarks/results)")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> int:
    figures, details = [], {}
    for what, folders, judge in (("pictures", args.images, picture), ("DICOM", args.dicom, dicom)):
        files = [path for folder in folders for path in files_below(folder)]
        if not files:
            continue
        verdicts = dict(judged(judge, files, args.limit, args.workers))
        counts = Counter(verdict.kind for verdict in verdicts.values())
        reasons = Counter(shortened(verdict.why) for verdict in verdicts.values() if verdict.kind == "named")
        for kind in KINDS:
            goal = "" if kind in ("right", "named") else "<= 0"
            figures.append(Figure(f"{what}: {kind}", counts[kind], goal, f"of {len(files)}"))
        bad = {path: v for path, v in verdicts.items() if v.kind not in ("right", "named")}
        for path, verdict in bad.items():
            print(f"{verdict.kind}: {path}: {verdict.why}")
        details[what] = {
            "folders": [folder.name for folder in folders],
            "named": dict(reasons.most_common()),
            "bad": {path.name: list(verdict) for path, verdict in bad.items()},
        }
    names = {flag: " ".join(folder.name for folder in getattr(args, flag)) for flag in ("images", "dicom")}
    words = [f"--{flag} {name}" for flag, name in names.items() if name]
    path = write_result(
        "foreign_files",
        args.machine,
        {
            "what": "files that others made to break decoders: right, refused in words, or wrong",
            "command": " ".join(["python benchmarks/foreign_files.py", *words]),
            "pydicom": metadata.version("pydicom"),
            "limit_s": args.limit,
            "figures": [figure.as_dict() for figure in figures],
            "details": details,
        },
        args.out,
    )
    print(f"{table(figures)}\n{path}")
    return int(any(figure.met is False for figure in figures))


def files_below(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]


def shortened(why: str) -> str:
    """Numbers and quoted names taken out, so that the same reason of two files is the same."""
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'|\"[^\"]*\"|b'.*'", "…", why))[:120]


# Each file in a process of its own


def judged(judge: Any, files: list[Path], limit: float, workers: int) -> Iterator[tuple[Path, Verdict]]:
    """The verdict on each file; what crashes or hangs takes its own process with it."""
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    todo = iter(files)
    running: Any = {}  # our end of a pipe -> file, process, when it began
    more = True
    while more or running:
        while more and len(running) < workers:
            path = next(todo, None)
            if path is None:
                more = False
                break
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(judge, path, theirs), daemon=True)
            process.start()
            theirs.close()
            running[ours] = path, process, time.monotonic()
        ended: Any = wait(list(running), 0.05)
        for end in ended:
            path, process, _ = running.pop(end)
            try:
                verdict = Verdict(*end.recv())
            except EOFError:
                process.join()
                verdict = Verdict("crash", f"exit code {process.exitcode}")
            process.join()
            yield path, verdict
        for end, (path, process, began) in list(running.items()):
            if time.monotonic() - began > limit:
                process.kill()
                process.join()
                del running[end]
                yield path, Verdict("hang", f"no end in {limit:g} s")


def work(judge: Any, path: Path, end: Any) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)  # libtiff speaks to the console itself
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    warnings.simplefilter("ignore")
    try:
        end.send(tuple(judge(path)))
    except Exception as error:  # not UnreadableImageError: it would be a traceback in a run
        end.send(("crash", f"{type(error).__name__}: {error}"[:200]))


def named(path: Path, error: UnreadableImageError) -> Verdict:
    text = str(error)
    if not text.startswith(f"{path}: ") or "\n" in text or PYTHON.search(text):
        return Verdict("wrong", f"refused in other words: {text.removeprefix(f'{path}: ')[:150]}")
    return Verdict("named", text.removeprefix(f"{path}: "))


# What is right


def picture(path: Path) -> Verdict:
    """Decode, compare with Pillow, then the same from the pixel cache."""
    reference, why = of_pillow(path)
    try:
        pixels, scale = read_picture(path)
    except UnreadableImageError as error:
        return named(path, error)
    if reference is None:
        return Verdict("wrong", f"read, and Pillow does not read it: {why}")
    if reference.shape != pixels.shape:
        return Verdict("wrong", f"{pixels.shape}, and Pillow says {reference.shape}")
    if why == "8 bit":
        differ = int((reference != pixels).sum())
        if differ:
            return Verdict("wrong", f"{differ} pixels are not Pillow's")
    elif flaw := unlike(reference.astype(np.float64), pixels, scale):
        return Verdict("wrong", flaw)
    with tempfile.TemporaryDirectory() as folder:
        cache = open_cache(folder, [path.name], [str(path)], SIDE, 0)
        if cache.unreadable or not np.array_equal(cache.gather(np.array([0]))[0], read_grey(path, SIDE)):
            return Verdict("wrong", "the cache has other pixels")
    return Verdict("right", "")


def of_pillow(path: Path) -> tuple[np.ndarray | None, str]:
    """-> (grey as Pillow has it, upright, (H, W): uint8, or samples; "8 bit" or "deep"). None: why it reads none"""
    try:
        # Not by its name: Pillow would map it into memory, and garble TIFF that lie on their side.
        with open(path, "rb") as file, Image.open(file) as opened:
            image: Any = opened
            rawmode = str(image.tile[0][3]) if getattr(image, "tile", None) else ""
            image.load()
            tags: Any = getattr(image, "tag_v2", {})
            upright = ImageOps.exif_transpose(image)
            if upright.mode in DEEP_MODES:
                samples = np.asarray(upright).astype(np.float64)
                if image.format == "TIFF" and tags.get(339, (1,)) in (1, (1,)) and tags.get(258, (0,))[0] == 32:
                    samples %= 2.0**32
                return (-samples if tags.get(262) == 0 else samples), "deep"
            if image.mode == "L" and image.format == "TIFF" and tags.get(339, (1,))[0] == 2:
                return np.asarray(upright).view(np.int8).astype(np.float64), "deep"
            grey = np.asarray(upright.convert("L"))
            return grey, "deep" if ";16" in rawmode and image.mode in ("RGB", "RGBA") else "8 bit"
    except Exception as error:  # whatever Pillow raises: it does not read it
        return None, f"{type(error).__name__}: {error}"[:100]


def unlike(reference: np.ndarray, pixels: np.ndarray, scale: str) -> str:
    """What is wrong with grey levels of samples, "" if nothing. `scale`: how they were made, in words."""
    if not np.isfinite(reference).all():
        return "the reference has no numbers, and it was read"
    low, high = np.percentile(reference, (0.1, 99.9))
    if low == high:
        return ""  # all but a few samples are alike: there is nothing to see in either
    clipped = reference.clip(low, high)
    grey = pixels.astype(np.float64)
    if np.ptp(grey) == 0:
        return "it is of one grey level"
    correlation = np.corrcoef(clipped.ravel(), grey.ravel().clip(*np.percentile(grey, (0.1, 99.9))))[0, 1]
    if not correlation >= LEAST:
        return f"its correlation with the samples is {correlation:.3f}"
    used = (high - low) / max(abs(low), abs(high), 1e-30) / (2 if low < 0 < high else 1)
    span = np.ptp(np.percentile(grey, (0.1, 99.9))) / 255
    least = SPAN * used if "which holds" in scale else used * LEVELS / 256
    return "" if span >= least else f"it uses {span:.0%} of the range, the samples {used:.0%}"


def dicom(path: Path) -> Verdict:
    """Decode, compare with pydicom, then the same from the converted PNG."""
    try:
        pixels, facts = read_dicom(path, "voi", 8, SIDES, allow_burned_in=True)
    except UnreadableImageError as error:
        return named(path, error)
    try:
        reference, inside = of_pydicom(path, facts)
    except Exception as error:  # whatever pydicom raises: there is no reference
        return Verdict("wrong", f"read, and pydicom does not read it: {type(error).__name__}: {error}"[:150])
    if flaw := unlike_dicom(reference, inside, pixels, facts):
        return Verdict("wrong", flaw)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "x.png"
        row = convert((str(path), str(target), ConvertSettings(None, "voi", 8, SIDES, True)))
        if isinstance(row, str) or not np.array_equal(read_grey(target), pixels):
            return Verdict("wrong", f"the converted PNG has other pixels ({row})")
    return Verdict("right", facts["shown_by"])


def unlike_dicom(reference: np.ndarray, inside: np.ndarray, pixels: np.ndarray, facts: dict[str, Any]) -> str:
    """What is wrong with a converted picture, "" if nothing."""
    if reference.shape != pixels.shape:
        return f"{pixels.shape}, and pydicom says {reference.shape}"
    values, grey = reference[inside], pixels[inside].astype(np.float64)
    if facts["shown_by"] == "constant" or not values.size or np.ptp(values) == 0:
        same = not values.size or np.ptp(values) == 0
        return "" if same and not grey.any() else "it is of one value, or pydicom's is"
    if np.ptp(grey) == 0:
        return "it is of one grey level"
    correlation = np.corrcoef(values, grey)[0, 1]
    if not correlation >= LEAST:
        return f"its correlation with pydicom's picture is {correlation:.3f} ({facts['shown_by']}, {facts['note']})"
    if facts["shown_by"] == "percentile":
        return "" if np.ptp(grey) == 255 else f"it uses {np.ptp(grey):.0f} of 255 grey levels"
    few = len(np.unique(grey)) < min(LEVELS, len(np.unique(values)))
    return f"its {facts['shown_by']} leaves {len(np.unique(grey))} grey levels" if few else ""


def of_pydicom(path: Path, facts: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """-> (what pydicom's functions make of the file, bright is dense (H, W); (H, W) bool: no declared padding).

    Where the window of the file is of no use, which the facts say, the percentiles of what is inside take its place.
    """
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    ds = pydicom.dcmread(path)
    stored = ds.pixel_array
    if stored.ndim == 3:
        grey = np.rint(stored.astype(np.float64) @ (0.299, 0.587, 0.114))  # as Pillow, whole numbers
        inside = np.ones(grey.shape, dtype=bool)
    else:
        inside = np.ones(stored.shape, dtype=bool)
        if ds.get("PixelPaddingValue") is not None:
            ends = [int(ds.PixelPaddingValue), int(ds.get("PixelPaddingRangeLimit") or ds.PixelPaddingValue)]
            inside = (stored < min(ends)) | (stored > max(ends))
        grey = apply_modality_lut(stored, ds).astype(np.float64)
    if facts["shown_by"] in ("window", "lut"):
        grey = apply_voi_lut(grey.astype(np.int64) if facts["shown_by"] == "lut" else grey, ds).astype(np.float64)
    elif inside.any():
        values, counts = np.unique(grey[inside], return_counts=True)
        low, high = percentiles(values, counts)
        grey = grey.clip(low, high) if high > low else grey
    inverted = ds.PhotometricInterpretation == "MONOCHROME1" or ds.get("PresentationLUTShape") == "INVERSE"
    return (-grey if inverted else grey), inside


if __name__ == "__main__":
    cli.run(main, parse_args)
