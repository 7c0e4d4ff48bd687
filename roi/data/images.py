"""Where an image lies and what its pixels are: grey, 8 bit, upright; never black in place of what cannot be read.

Pictures of 8 bits are as Pillow reads them; of those with more roi/data/bit_depth.py makes 8.

Letters: H x W pixels.
"""

import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from roi.data.bit_depth import DEEP_MODES, deep_samples, to_8_bits
from roi.errors import UserError
from roi.files import reason

SHARDS = ("images_*/images", "images-*/images-*")  # of NIH as it is published, and of Kaggle's resized copies
# How a picture is turned by what EXIF says of its orientation
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
NOT_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # too many open files, no memory: no image is at fault


class UnreadableImageError(UserError):
    """An image file that is there but cannot be decoded; the message begins with its path."""


def cannot_read(path: str | Path, message: str) -> UnreadableImageError:
    return UnreadableImageError(f"{path}: cannot be read as an image ({message})")


class Picture(NamedTuple):
    """A decoded image."""

    pixels: np.ndarray  # (H, W) uint8
    scale: str  # how samples of more than 8 bits became 8 bits, "" where none had more


# Where an image lies


class Folders:
    """The names in folders, each of which is listed once, however many images it holds."""

    def __init__(self) -> None:
        self.names: dict[Path, set[str]] = {}

    def listing(self, folder: Path) -> set[str]:
        if folder not in self.names:
            names = os.listdir(folder) if folder.is_dir() else []
            self.names[folder] = set(names)
        return self.names[folder]


def locate(image_root: str | Path, images: Sequence[str]) -> list[str | None]:
    """Paths of `images`, None where there is no file.

    Looked for as image_root/images/NAME, image_root/NAME, in the shards image_root/images_*/images/NAME and in Kaggle's
    resized copy image_root/images-224/images-224/NAME.

    Raises:
        UserError: no such folder, or a name that leaves it (absolute, or with '..').
    """
    root = Path(image_root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of images (--image_root)")
    # As NIH's archives are unpacked, flat or not, and as tables of other sets name images.
    folders = Folders()
    bases = [root / "images", root]
    folder_of: dict[str, Path] = {}  # of names without a folder; the first that has them counts
    for folder in [*bases, *shards_of(root)]:
        for name in folders.listing(folder):
            folder_of.setdefault(name, folder)
    paths: list[str | None] = []
    for image in images:
        if "/" in image:
            paths.append(_locate_path(image, root, bases, folders))
        elif image in folder_of and image != "..":
            paths.append(os.path.join(folder_of[image], image))
        else:
            paths.append(None)
    return paths


def shards_of(root: Path) -> list[Path]:
    folders = []
    for pattern in SHARDS:
        folders += sorted(root.glob(pattern))
    return folders


def _locate_path(image: str, root: Path, bases: Sequence[Path], folders: Folders) -> str | None:
    """The file of an image that a table names with its folder."""
    name = PurePosixPath(image)
    if name.is_absolute() or ".." in name.parts:
        raise UserError(f"image {image!r} leaves --image_root {root}; tables name images by their path below it")
    for base in bases:
        path = base / name
        if name.name in folders.listing(path.parent):
            return str(path)
    return None


def remark_on_links(image_root: str | Path, paths: Sequence[str]) -> str:
    """Say which images a link leads out of `image_root`; "" for none."""
    outside = _files_outside(image_root, paths)
    if not outside:
        return ""
    path, target = outside[0]
    count = f"{len(outside):,} of {len(paths):,} images"
    return f"{count} lie outside {image_root}, behind links: the first is {path} -> {target}"


def _files_outside(image_root: str | Path, paths: Iterable[str]) -> list[tuple[str, str]]:
    """The images that a link leads out of `image_root`: (path, where its file really lies)."""
    root = os.path.join(os.path.realpath(image_root), "")
    # A linked folder (image_root/images -> /data/...) is asked once, whatever it holds; of files those that are links.
    real_folders: dict[str, str] = {}
    links: dict[str, set[str]] = {}  # folder -> the names in it that are links
    outside = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in links:
            with os.scandir(folder) as entries:
                links[folder] = {entry.name for entry in entries if entry.is_symlink()}
            real_folders[folder] = os.path.realpath(folder)
        target = os.path.join(real_folders[folder], name)
        if name in links[folder]:
            target = os.path.realpath(path)
        if not target.startswith(root):
            outside.append((path, target))
    return outside


# What its pixels are


def read_grey(path: str | Path, size: int | None = None) -> np.ndarray:
    """The grey pixels of an image file, uint8.

    Returns:
        (size, size), resized by PIL's antialiased bilinear filter; (H, W) as stored without `size`
    """
    return read_picture(path, size).pixels


def read_picture(path: str | Path, size: int | None = None) -> Picture:
    """The pixels of `read_grey`, and how deeper samples became 8 bits.

    Raises:
        UnreadableImageError: the file cannot be decoded, or it does not say which grey its samples mean.
    """
    try:
        # Given a name, Pillow maps some files into memory: it then garbles TIFF that lies on its side, and dies with a
        # file that is cut meanwhile.
        with open(path, "rb") as file, Image.open(file) as image:
            grey, scale = to_grey(image, path)
            if size is not None:
                grey = grey.resize((size, size), Image.Resampling.BILINEAR)
            return Picture(np.asarray(grey), scale)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # whose words are the path again, and an object's name
        raise cannot_read(path, "it is of no format that Pillow knows") from error
    except OSError as error:
        if error.errno in NOT_THE_FILE:
            raise
        raise cannot_read(path, reason(error)) from error
    except Exception as error:  # decoders raise whatever they like on a broken file
        raise cannot_read(path, reason(error)) from error


def is_constant(pixels: np.ndarray) -> bool:
    """Whether all pixels are alike: there is nothing to see, whatever the labels say."""
    return bool(pixels.min() == pixels.max())


def to_grey(image: Image.Image, path: str | Path) -> tuple[Image.Image, str]:
    """Any picture as mode L, upright; and how samples of more than 8 bits became 8 bits, "" where none had more."""
    deep = deep_samples(image, path)
    # Before its orientation is asked for: of a TIFF Pillow turns the pixels then, and forgets it.
    image.load()
    scale = ""
    if deep is not None:
        pixels, scale = to_8_bits(deep)
        grey = Image.fromarray(pixels)
    elif image.mode == "L":
        grey = image
    else:
        grey = image.convert("L")
    refuse_transparent(image, grey)
    turn = TURNS.get(orientation(image))
    if turn is not None:
        grey = grey.transpose(turn)
    return grey, scale


def refuse_transparent(image: Image.Image, grey: Image.Image) -> None:
    """UserError: the colours of a picture are all alike, and what it shows is in its transparency."""
    has_transparency = image.has_transparency_data and image.mode not in DEEP_MODES
    if has_transparency and is_constant(np.asarray(grey)):
        low, high = image.convert("RGBA").getchannel("A").getextrema()
        if low != high:
            raise UserError("its colours are all alike, the picture is in its transparency; save it flattened")


def orientation(image: Image.Image) -> int:
    """What EXIF says of how the picture is to be turned; 1, upright, where it says nothing that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # an EXIF block may hold anything; the picture beside it is whole
        return 1
