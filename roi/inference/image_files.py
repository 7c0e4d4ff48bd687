"""Images that are named without a table: files, folders, patterns, lists. And the pixels of any image, of DICOM too."""

import glob
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from roi.data.images import read_grey
from roi.data.table import COLUMNS, image_keys, patients_from_names
from roi.errors import UserError
from roi.files import contents, reason
from roi.scoring.pictures import own_picture
from roi.sources.dicom.convert import SUFFIXES as DICOM_SUFFIXES
from roi.sources.dicom.convert import is_dicom
from roi.sources.dicom.header import needs_pydicom
from roi.sources.dicom.reader import read_dicom

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".jp2")
KINDS = "PNG, JPEG, TIFF, BMP, WebP, PGM, JPEG 2000, DICOM"
LIST = ".txt"
WILD = "*?["


class NamedImage(NamedTuple):
    """An image and its name in the outputs."""

    name: str
    path: str | None  # None: a list names it, and it is not there


class _Given(NamedTuple):
    """What one of the paths stands for."""

    base: Path  # names of its files are relative to this folder
    files: list[Path]
    missing: list[str]  # lines of a list


# What a path stands for


def find_images(
    given: Sequence[str | Path], leave_out: Collection[str | Path] = (), say: Callable[[str], None] = print
) -> list[NamedImage]:
    """The images behind paths, each once, in the order of the paths, those of a folder by name.

    A path is an image, a folder (with all below it), a pattern (`scans/**/*.png`) or a text file that lists such files,
    one a line. Names are relative: to the folder, to the fixed part of the pattern, to the folder of the file; where
    two images would have one name, to the folder that holds all of them.

    Args:
        leave_out: folders that are not looked into: pictures of an earlier run.
        say: takes a line on what was left out of the paths, for it is no X-ray or one a second time.

    Raises:
        UserError: a path that is none of these, or without an image.
    """
    # The same file may be behind two of the paths: it is predicted once.
    skipped = {os.path.abspath(folder) for folder in leave_out}
    files: dict[str, str] = {}  # absolute path -> name
    missing: list[str] = []
    for path in given:
        found = _behind(str(path), skipped)
        for file in found.files:
            name = Path(os.path.relpath(file, found.base)).as_posix()
            files.setdefault(os.path.abspath(file), name)
        missing += found.missing
    files = _without_own_pictures(files, say)
    files = _without_converted(files, say)
    # Two names with one key would be one image to whoever reads the predictions.
    names = pd.Series(list(files.values()), dtype=str)
    if image_keys(names).duplicated().any():
        names = _names_below_common_folder(list(files))
    images = [NamedImage(name, path) for name, path in zip(names, files, strict=True)]
    return images + [NamedImage(line, None) for line in missing]


def _without_own_pictures(files: dict[str, str], say: Callable[[str], None]) -> dict[str, str]:
    """Path -> name without masks, crops and overlays of an earlier run, wherever they lie."""
    others = {path: name for path, name in files.items() if not own_picture(path)}
    own = [path for path in files if path not in others]
    if own and not others:
        raise UserError(f"{own[0]}: is a picture that this program made, no X-ray, as is all that --images names")
    if own:
        say(f"left out {len(own):,} pictures that this program made, which are no X-rays: the first is {own[0]}")
    return others


def _without_converted(files: dict[str, str], say: Callable[[str], None]) -> dict[str, str]:
    """Path -> name without DICOM files that have their PNG beside them, as convert_dicom.py may leave both."""
    stems = {os.path.splitext(path)[0] for path in files if path.lower().endswith(".png")}
    twice = {path for path in files if _png_stem(path) in stems and is_dicom(Path(path))}
    if twice:
        say(f"left out {len(twice):,} DICOM files beside a PNG of the same name, which is predicted: {min(twice)}")
    return {path: name for path, name in files.items() if path not in twice}


def _png_stem(path: str) -> str:
    """What a path and its PNG have in common. '1.2.840.7' is a UID and has no suffix."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in DICOM_SUFFIXES else path


def _behind(given: str, skipped: Collection[str]) -> _Given:
    # "" would be the folder where we are, with all below it.
    if not given.strip():
        raise UserError('--images "": an empty name is no image; is a variable of the shell not set?')
    path = Path(given)
    if path.is_dir():
        files = list(_images_below(path, skipped))
        if not files:
            raise UserError(f"{given}: holds no image ({KINDS}); there is {contents(path)}")
        return _Given(path, files, [])
    if path.is_file():
        return _of_file(path)
    # After the files: a name may hold such a sign itself.
    if any(sign in given for sign in WILD):
        return _of_pattern(given, skipped)
    raise UserError(f"{given}: no such image, folder or list of images")


def _of_file(path: Path) -> _Given:
    suffix = path.suffix.lower()
    if suffix == LIST:
        return _of_list(path)
    if suffix == ".csv":
        raise UserError(f"{path}: is a table and no image; give it as --csv {path}")
    if not is_image(path):
        raise UserError(f"{path}: no image by its suffix {path.suffix!r}; give {KINDS}, or a list of images ({LIST})")
    return _Given(path.parent, [path], [])


def _of_pattern(given: str, skipped: Collection[str]) -> _Given:
    files: list[Path] = []
    for match in sorted(glob.glob(given, recursive=True)):
        path = Path(match)
        if path.is_dir():
            # '**' gives each folder and each of its files: what is below a folder comes by itself.
            if not given.endswith("**"):
                files += _images_below(path, skipped)
        elif is_image(path):
            files.append(path)
    if not files:
        raise UserError(f"{given}: no image ({KINDS}) fits this pattern")
    # Names begin where the pattern does, as those of a folder begin below it.
    fixed: list[str] = []
    for part in Path(given).parts[:-1]:
        if any(sign in part for sign in WILD):
            break
        fixed.append(part)
    return _Given(Path(*fixed), files, [])


def _of_list(path: Path) -> _Given:
    """The images that a text file lists: below its own folder, or below the folder where we are."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no list of images ({reason(error)}); one path a line, in UTF-8") from error
    files: list[Path] = []
    missing: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        places = [path.parent / line, Path(line)]
        # The list's own folder first: it may have been moved together with its images.
        there = [place for place in places if place.is_file()]
        if not there:
            missing.append(line)
        elif is_image(there[0]):
            files.append(there[0])
        else:
            raise UserError(f"{path}: lists {line!r}, which is no image by its suffix; give {KINDS}")
    if not files:
        raise UserError(f"{path}: lists no image that is there; one path a line, from the folder of the list")
    return _Given(path.parent, files, missing)


def _images_below(folder: Path, skipped: Collection[str]) -> Iterator[Path]:
    seen = set()
    for here, below, names in os.walk(folder, followlinks=True):
        # A link may lead to a folder above itself.
        real = os.path.realpath(here)
        if real in seen or os.path.abspath(here) in skipped:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            path = Path(here) / name
            if is_image(path):
                yield path


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix, or DICOM by its mark where it has none. Hidden ones are not."""
    if path.name.startswith("."):
        return False
    return path.suffix.lower() in SUFFIXES or is_dicom(path)


def _names_below_common_folder(paths: Sequence[str]) -> pd.Series:
    folders = {os.path.dirname(path) for path in paths}
    common = os.path.commonpath(folders)
    names = pd.Series([Path(os.path.relpath(path, common)).as_posix() for path in paths], dtype=str)
    if image_keys(names).duplicated().any():
        # x.png and images/x.png are one image in NIH's layout; with the name of the folder before them they are two.
        names = f"{Path(common).name}/" + names
    return names


# As a table


def table_of(images: Sequence[NamedImage]) -> pd.DataFrame:
    """A table of images of which nothing is known: columns as read_table gives them, and path, "" for none."""
    # Not None, of which a table makes NaN.
    rows = [(image.name, image.path or "") for image in images]
    table = pd.DataFrame(rows, columns=["image", "path"])
    table = table.reindex(columns=[*COLUMNS, "path"], fill_value="")
    return table.assign(patient_id=patients_from_names(table["image"]))


def paths_beside(csv: str | Path, names: Sequence[str]) -> list[str | None]:
    """Where the images of a table lie that has no --image_root: below its own folder, or where their names say."""
    folder = Path(csv).parent
    paths: list[str | None] = []
    for name in names:
        places = (folder / name, Path(name))
        there = [str(place) for place in places if place.is_file()]
        paths.append(there[0] if there else None)
    return paths


# Pixels


def read_xray(path: str | Path, size: int | None = None) -> np.ndarray:
    """The grey pixels of an image file, (H, W) or (size, size) uint8, as roi.data.images.read_grey; of DICOM, too.

    Raises:
        UnreadableImageError: the file cannot be decoded.
    """
    if not is_dicom(Path(path)):
        return read_grey(path, size)
    # The facts of the header stay here.
    pixels, _ = read_dicom(path)
    return pixels if size is None else resized(pixels, size)


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """(H, W) uint8 -> (size, size), by the filter by which files are read."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def check_readers(paths: Sequence[str]) -> None:
    """UserError where DICOM is among the files and the package that reads it is not installed."""
    # Before the first batch: an error of a worker is no sentence.
    if any(is_dicom(Path(path)) for path in paths):
        needs_pydicom()
