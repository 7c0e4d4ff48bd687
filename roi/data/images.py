"""Where an image lies and what its pixels are: grey, 8 bit, upright; never black in place of what cannot be read.

Pictures of 8 bits are as Pillow reads them. What has more is scaled by the white that the file states, or by the fewest
bits that hold 99.9 % of its samples where it states none, or one that makes the picture black.

Letters: H x W pixels, C channels.
"""

import errno
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from roi.errors import UserError
from roi.files import reason

SHARDS = ("images_*/images", "images-*/images-*")  # of NIH as it is published, and of Kaggle's resized copies
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
DEEP_FORMATS = ("PNG", "TIFF", "PPM", "JPEG2000")  # of which it is known what their samples mean
SIXTEEN_BIT_COLOUR = ("LA;16", "RGB;16", "RGBX;16", "RGBA;16")  # unpackers of Pillow, less the letter of the byte order
PPM_COLOUR = "ppm;16B"
OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
FULL = 65535  # the most that 16 bits hold
LEVELS = 32  # grey levels that the white which a file states must leave
LUMA = (19595, 38470, 7471)  # ITU-R BT.601 times 65,536, as Pillow: three equal channels stay what they are
# Tags of TIFF, and their values
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
MAX_SAMPLE = {281: "MaxSampleValue", 341: "SMaxSampleValue"}
WHITE_IS_ZERO = 0
UNSIGNED, SIGNED = 1, 2
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


class UnreadableImage(UserError):
    """An image file that is there but cannot be decoded; the message begins with its path."""


def locate(image_root: str | Path, images: Sequence[str]) -> list[str | None]:
    """Paths of `images`, None where there is no file. Looked for as image_root/images/NAME, image_root/NAME, in the
    shards image_root/images_*/images/NAME and in Kaggle's resized copy image_root/images-224/images-224/NAME; every
    folder is listed once, however many images it holds.

    UserError: no such folder, or a name that leaves it (absolute, or with '..').
    """
    root = Path(image_root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of images (--image_root)")
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
            raise UserError(f"image {image!r} leaves --image_root {root}; tables name images by their path below it")
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


class Picture(NamedTuple):
    pixels: np.ndarray  # (H, W) uint8
    scale: str  # how samples of more than 8 bits became 8 bits, "" where none had more


def read_grey(path: str | Path, size: int | None = None) -> np.ndarray:
    """-> (size, size) uint8, resized by PIL's antialiased bilinear filter; (H, W) as stored without `size`."""
    return read_picture(path, size).pixels


def read_picture(path: str | Path, size: int | None = None) -> Picture:
    """The pixels of `read_grey`, and how deeper samples became 8 bits.

    Raises:
        UnreadableImage: the file cannot be decoded, or it does not say which grey its samples mean.
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
    except OSError as error:
        if error.errno in NOT_THE_FILE:
            raise
        raise UnreadableImage(f"{path}: cannot be read as an image ({reason(error)})") from error
    except Exception as error:  # decoders raise whatever they like on a broken file
        raise UnreadableImage(f"{path}: cannot be read as an image ({reason(error)})") from error


def is_constant(pixels: np.ndarray) -> bool:
    """Whether all pixels are alike: there is nothing to see, whatever the labels say."""
    return bool(pixels.min() == pixels.max())


def to_grey(image: Image.Image, path: str | Path) -> tuple[Image.Image, str]:
    """Any picture -> mode L, upright; and how samples of more than 8 bits became 8 bits, "" where none had more."""
    deep = deep_samples(image, path)
    image.load()  # of a TIFF Pillow turns the pixels then, and forgets their orientation
    if deep is None:
        grey, scale = image if image.mode == "L" else image.convert("L"), ""
    else:
        pixels, scale = in_8_bits(deep)
        grey = Image.fromarray(pixels)
    if image.has_transparency_data and image.mode not in DEEP_MODES and is_constant(np.asarray(grey)):
        low, high = image.convert("RGBA").getchannel("A").getextrema()
        if low != high:
            raise UserError("its colours are all alike, the picture is in its transparency; save it flattened")
    turn = TURNS.get(orientation(image))
    return (grey if turn is None else grey.transpose(turn)), scale


def orientation(image: Image.Image) -> int:
    """What EXIF says of how the picture is to be turned; 1, upright, where it says nothing that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # an EXIF block may hold anything; the picture beside it is whole
        return 1


# Samples of more than 8 bits: what the file stores -> which value is white


class Deep(NamedTuple):
    samples: np.ndarray  # (H, W) integers or float
    white: float | None  # the value that the file says is white, None where it says no more than its samples could hold
    said_by: str  # what in the file says so
    inverted: bool  # its lowest value is white


def deep_samples(image: Image.Image, path: str | Path) -> Deep | None:
    """The samples of a picture with more than 8 bits, or with signed ones; None for others. Of colour the luminance."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    grey = image.mode in DEEP_MODES
    signed_8 = image.mode == "L" and number(tags.get(SAMPLE_FORMAT)) == SIGNED
    colour = "" if grey else sixteen_bit_colour(image)
    if not (grey or signed_8 or colour):
        return None
    if image.format not in DEEP_FORMATS:
        raise UserError(
            f"samples of more than 8 bits in a file of format {image.format}: which value is white is not known; "
            "convert it to PNG or TIFF"
        )
    # What a PPM says is its decoder's argument, which is gone once the pixels are there.
    white, said_by = stated_white(image, path, tags)
    if colour:
        samples = luminance(image, path, colour)
    elif signed_8:
        samples = np.asarray(image).view(np.int8)
    else:
        samples = np.asarray(image)
        if number(tags.get(SAMPLE_FORMAT, 1)) == UNSIGNED and samples.dtype == np.int32:
            samples = samples.view(np.uint32)
    return Deep(samples, white, said_by, tags.get(PHOTOMETRIC) == WHITE_IS_ZERO)


def number(value: Any) -> float:
    """The greatest number of a TIFF tag, which may have one for each sample of a pixel; 0 for none."""
    values = value if isinstance(value, tuple) else (value,)
    return max((float(v) for v in values if isinstance(v, Real)), default=0.0)


def stated_white(image: Image.Image, path: str | Path, tags: Any) -> tuple[float | None, str]:
    """-> (the value that the file says is white, what says so); (None, "") where it says no more than samples hold."""
    if image.format == "PNG":
        bits = significant_bits(path)
        if 0 < bits <= 16:
            return 2**bits - 1, f"sBIT {bits}"
    elif image.format == "PPM":
        maxval = decoder_args(image)[-1]
        if isinstance(maxval, int) and 0 < maxval < FULL and image.mode != "F":
            return FULL, f"maxval {maxval}"  # Pillow has scaled its values to 16 bits
    elif image.format == "JPEG2000":
        bits = precision(path)
        if 8 < bits < 16:
            return FULL, f"precision {bits}"  # the same
    else:
        for tag, name in MAX_SAMPLE.items():
            value = number(tags.get(tag))
            if value > 0 and value != FULL:
                return value, f"{name} {value:g}"
        bits = int(number(tags.get(BITS_PER_SAMPLE)))
        if 8 < bits < 16:
            return 2**bits - 1, f"BitsPerSample {bits}"
    return None, ""


def significant_bits(path: str | Path) -> int:
    """The greatest number of a PNG's chunk sBIT; 0 without one. It must come before the pixels."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"sBIT" and length <= 4:
                return max(file.read(length), default=0)
            file.seek(length + 4, os.SEEK_CUR)
    return 0


def precision(path: str | Path) -> int:
    """Bits of a sample as the SIZ marker of a JPEG 2000 stream says; 0 where none is found."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    at = head.find(b"\xff\x4f\xff\x51")
    return (head[at + 42] & 0x7F) + 1 if 0 <= at < len(head) - 42 else 0


def decoder_args(image: Any) -> tuple:
    """What Pillow hands to the decoder of a picture that is not yet loaded; it begins with the name of the unpacker."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return args if isinstance(args, tuple) and args else (args,)


def sixteen_bit_colour(image: Any) -> str:
    """Pillow's unpacker for colour, or grey with alpha, of 16 bits, of which it keeps the upper 8; "" for others."""
    args = decoder_args(image)
    if image.mode == "CMYK" and str(args[0]).startswith("CMYK;16"):
        raise UserError("CMYK of 16 bits is not read; convert it to grey or RGB")
    if image.mode not in ("RGB", "RGBA") or not isinstance(args[0], str):
        return ""
    if image.format == "PPM":
        return PPM_COLOUR if image.tile[0][0] == "ppm" and args == ("RGB", FULL) else ""
    if image.format == "TIFF" and args[0] == "R" and number(image.tag_v2.get(BITS_PER_SAMPLE)) > 8:
        raise UserError("colour of 16 bits, uncompressed, in planes: Pillow would garble it; convert it to PNG")
    return args[0] if args[0][:-1] in SIXTEEN_BIT_COLOUR else ""


def luminance(image: Any, path: str | Path, rawmode: str) -> np.ndarray:
    """(H, W) 16-bit luminance. Pillow keeps the upper byte of each sample, the lower one in the other byte order."""
    if rawmode == PPM_COLOUR:
        values = np.fromfile(path, dtype=">u2", offset=image.tile[0][2])[: 3 * image.width * image.height]
        wide = values.reshape(image.height, image.width, 3).astype(np.int64)
    elif rawmode == "LA;16B":
        # The four bytes of a pixel, as they stand in the file.
        whole = unpacked(path, lambda name: "RGBA").astype(np.int64)
        return whole[:, :, 0] << 8 | whole[:, :, 1]
    else:
        lower = unpacked(path, lambda name: name[:-1] + OTHER_ORDER[name[-1]])
        wide = np.asarray(image)[:, :, :3].astype(np.int64) << 8 | lower[:, :, :3]
    return (wide @ np.array(LUMA) + 0x8000) >> 16


def unpacked(path: str | Path, other: Callable[[str], str]) -> np.ndarray:
    """(H, W, C) uint8: the picture as other unpackers read its bytes. `other`: Pillow's -> the one that is used."""
    with open(path, "rb") as file, Image.open(file) as image:
        source: Any = image
        source.tile = [with_unpacker(tile, other) for tile in source.tile]
        return np.asarray(image)


def with_unpacker(tile: Any, other: Callable[[str], str]) -> Any:
    args = other(tile[3]) if isinstance(tile[3], str) else (other(tile[3][0]), *tile[3][1:])
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)


def in_8_bits(deep: Deep) -> tuple[np.ndarray, str]:
    """-> ((H, W) uint8, in words how).

    White is what the file states. Where it states nothing, less than 99.9 % of the samples need, or so much more that
    the picture would be black, white is the greatest value of the fewest bits that hold those. Black is 0, or as far
    below 0 where samples are negative.
    """
    floating = deep.samples.dtype.kind == "f"
    x = deep.samples.astype(np.float64)
    if not np.isfinite(x).all():
        raise UserError("holds samples that are no numbers (NaN or infinite); save them as unsigned 8 or 16 bit")
    low, high = outer(x)
    unit = 0 if floating else 1  # two's complement holds one value more below 0 than above
    reach = max(high, -low - unit)
    white, said_by = fewest_bits(reach, floating), "which holds 99.9 % of its samples"
    stated = deep.white
    if stated is not None and reach > stated and deep.said_by.startswith("sBIT"):
        stated = FULL  # the PNG specification has significant bits uppermost, many files have them lowermost
    if stated is not None and low >= 0 and reach <= stated:
        levels = reach * 255 / stated
        if levels >= LEVELS or white >= stated:
            white, said_by = stated, deep.said_by
        else:
            said_by += f"; {deep.said_by} would leave {levels:.0f} grey levels"
    black = -white - unit if low < 0 else 0
    pixels = np.floor((x.clip(black, white) - black) * (255 / (white - black)) + 0.5).astype(np.uint8)
    words = f"black {black:g}, white {white:g} ({said_by})"
    return (255 - pixels, f"{words}, inverted") if deep.inverted else (pixels, words)


def outer(x: np.ndarray) -> tuple[float, float]:
    """The 0.1st and the 99.9th percentile, as samples: a stray one is left out however small the picture."""
    last = x.size - 1
    beyond = min(-(-last // 1000), last // 2)  # samples that are left out at each end
    ordered = np.partition(x.ravel(), (beyond, last - beyond))
    return float(ordered[beyond]), float(ordered[last - beyond])


def fewest_bits(reach: float, floating: bool) -> float:
    """The greatest value of the fewest bits that hold `reach`.

    In floating point up to 1 it is a power of two, and a hundredth more passes.
    """
    if not floating:
        return 2 ** max(1, int(reach).bit_length()) - 1
    reach /= 1.01
    if reach <= 1:
        return 2.0 ** math.ceil(math.log2(reach)) if reach > 0 else 1.0
    return 2.0 ** math.ceil(math.log2(reach + 1)) - 1
