"""Where an image lies and what its pixels are. Always grey, 8 bit; never a black image in place of one that cannot be read."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from roi.files import reason

SHARDS = ("images_*/images", "images-*/images-*")  # of NIH as it is published, and of Kaggle's resized copies
SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")


class UnreadableImage(ValueError):
    """An image file that is there but cannot be decoded; the message begins with its path."""


def locate(image_root: str | Path, images: Sequence[str]) -> list[str | None]:
    """Paths of `images`, None where there is no file. Looked for as image_root/images/NAME, image_root/NAME, in the
    shards image_root/images_*/images/NAME and in Kaggle's resized copy image_root/images-224/images-224/NAME; every
    folder is listed once, however many images it holds.

    ValueError: no such folder, or a name that leaves it (absolute, or with '..').
    """
    root = Path(image_root)
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder of images (--image_root)")
    folders: dict[Path, set[str]] = {}

    def listing(folder: Path) -> set[str]:
        if folder not in folders:
            folders[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
        return folders[folder]

    bases = [root / "images", root]
    shards = [folder for pattern in SHARDS for folder in sorted(root.glob(pattern))]
    flat = {name: folder for folder in reversed([*bases, *shards]) for name in listing(folder)}
    paths: list[str | None] = []
    for image in images:
        if "/" not in image:
            paths.append(os.path.join(flat[image], image) if image in flat and image != ".." else None)
            continue
        name = PurePosixPath(image)
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(f"image {image!r} leaves --image_root {root}; tables name images by their path below it")
        paths.append(next((str(base / name) for base in bases if name.name in listing((base / name).parent)), None))
    return paths


def outside(image_root: str | Path, paths: Iterable[str]) -> list[tuple[str, str]]:
    """The images that a link leads out of `image_root`: (path, where its file really lies).

    A linked folder (image_root/images -> /data/...) is asked once, whatever it holds; of files those that are links.
    """
    root = os.path.realpath(image_root)
    folders: dict[str, tuple[str, set[str]]] = {}  # folder -> where it really lies, the names in it that are links
    found = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            with os.scandir(folder) as entries:
                links = {entry.name for entry in entries if entry.is_symlink()}
            folders[folder] = os.path.realpath(folder), links
        real, links = folders[folder]
        target = os.path.realpath(path) if name in links else os.path.join(real, name)
        if not target.startswith(os.path.join(root, "")):
            found.append((path, target))
    return found


def said_outside(image_root: str | Path, paths: Sequence[str]) -> str:
    """The same in one sentence; "" where none leads out."""
    found = outside(image_root, paths)
    if not found:
        return ""
    path, target = found[0]
    count = f"{len(found):,} of {len(paths):,} images lie outside {image_root}, behind links"
    return f"{count}: the first is {path} -> {target}"


def to_grey(image: Image.Image) -> Image.Image:
    """Any mode of PNG or JPEG -> mode L. 16-bit pixels are divided by their range: the bits that the brightest one needs."""
    if image.mode in SIXTEEN_BIT:
        pixels = np.asarray(image).astype(np.int64)  # (H, W)
        top = 2 ** max(8, int(pixels.max()).bit_length()) - 1
        return Image.fromarray(((pixels * 255 + top // 2) // top).astype(np.uint8))
    return image if image.mode == "L" else image.convert("L")


def read_grey(path: str | Path, size: int | None = None) -> np.ndarray:
    """-> (size, size) uint8, resized by PIL's antialiased bilinear filter; (H, W) as stored without `size`."""
    try:
        with Image.open(path) as image:
            grey = to_grey(image)
            return np.asarray(grey if size is None else grey.resize((size, size), Image.Resampling.BILINEAR))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they like on a broken file
        raise UnreadableImage(f"{path}: cannot be read as an image ({reason(error)})") from error
