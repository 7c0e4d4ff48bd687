"""Pictures whose samples have more than 8 bits: which value is white, and the 8 bits that this gives.

They are scaled by the white that the file states, or by the fewest bits that hold 99.9 % of its samples where it states
none, or one that makes the picture black.

Letters: H x W pixels, C channels.
"""

import math
import os
import sys
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from roi.errors import UserError

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
DEEP_FORMATS = ("PNG", "TIFF", "PPM", "JPEG2000")  # of which it is known what their samples mean
SIXTEEN_BIT_COLOUR = ("LA;16", "RGB;16", "RGBX;16", "RGBA;16")  # unpackers of Pillow, less the letter of the byte order
PPM_COLOUR = "ppm;16B"
NATIVE_ORDER = "L" if sys.byteorder == "little" else "B"
OTHER_ORDER = {"B": "L", "L": "B"}
OTHER_ORDER["N"] = OTHER_ORDER[NATIVE_ORDER]
FULL = 65535  # the most that 16 bits hold
LEVELS = 32  # grey levels that the white which a file states must leave
LUMA = (19595, 38470, 7471)  # ITU-R BT.601 times 65,536, as Pillow: three equal channels stay what they are
# Tags of TIFF, and their values
BITS_PER_SAMPLE = 258
PHOTOMETRIC = 262
SAMPLE_FORMAT = 339
MAX_SAMPLE = {281: "MaxSampleValue", 341: "SMaxSampleValue"}
WHITE_IS_ZERO = 0
UNSIGNED = 1
SIGNED = 2
SIZ = b"\xff\x4f\xff\x51"  # how a JPEG 2000 stream begins; its depth stands DEPTH_OFFSET bytes on
DEPTH_OFFSET = 42

White = tuple[float | None, str]  # the value that is white, None where that is not stated; what says so


class Deep(NamedTuple):
    """What a file stores."""

    samples: np.ndarray  # (H, W) integers or float
    white: float | None  # the value that the file says is white, None where it says no more than its samples could hold
    stated_by: str  # what in the file says so
    inverted: bool  # its lowest value is white


def deep_samples(image: Image.Image, path: str | Path) -> Deep | None:
    """The samples of a picture with more than 8 bits, or with signed ones; None for others. Of colour the luminance."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    is_grey = image.mode in DEEP_MODES
    sample_format = tag_number(tags.get(SAMPLE_FORMAT, UNSIGNED))
    is_signed_8 = image.mode == "L" and sample_format == SIGNED
    colour = "" if is_grey else sixteen_bit_colour(image)
    if not (is_grey or is_signed_8 or colour):
        return None
    if image.format not in DEEP_FORMATS:
        raise UserError(
            f"samples of more than 8 bits in a file of format {image.format}: which value is white is not known; "
            "convert it to PNG or TIFF"
        )
    # What a PPM says is its decoder's argument, which is gone once the pixels are there.
    white, stated_by = stated_white(image, path, tags)
    if colour:
        samples = luminance(image, path, colour)
    elif is_signed_8:
        samples = np.asarray(image).view(np.int8)
    else:
        samples = np.asarray(image)
        # Pillow has no unsigned 32 bits.
        if sample_format == UNSIGNED and samples.dtype == np.int32:
            samples = samples.view(np.uint32)
    is_inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    return Deep(samples, white, stated_by, is_inverted)


# Which value the file says is white


def stated_white(image: Image.Image, path: str | Path, tags: Any) -> White:
    """The value that the file says is white, and what says so; (None, "") where it says no more than samples hold."""
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
        return tiff_white(tags)
    return None, ""


def tiff_white(tags: Any) -> White:
    """`stated_white` of a TIFF."""
    for tag, name in MAX_SAMPLE.items():
        value = tag_number(tags.get(tag))
        if value > 0 and value != FULL:
            return value, f"{name} {value:g}"
    bits = int(tag_number(tags.get(BITS_PER_SAMPLE)))
    if 8 < bits < 16:
        return 2**bits - 1, f"BitsPerSample {bits}"
    return None, ""


def tag_number(value: Any) -> float:
    """The greatest number of a TIFF tag, which may have one for each sample of a pixel; 0 for none."""
    values = value if isinstance(value, tuple) else (value,)
    numbers = [value for value in values if isinstance(value, Real)]
    return max(map(float, numbers), default=0.0)


def significant_bits(path: str | Path) -> int:
    """The greatest number of a PNG's chunk sBIT; 0 without one. It must come before the pixels."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4], "big")
            chunk = head[4:]
            if chunk == b"IDAT":
                return 0
            if chunk == b"sBIT" and length <= 4:
                return max(file.read(length), default=0)
            file.seek(length + 4, os.SEEK_CUR)  # and its checksum
    return 0


def precision(path: str | Path) -> int:
    """Bits of a sample as the SIZ marker of a JPEG 2000 stream says; 0 where none is found."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    begin = head.find(SIZ)
    depth = begin + DEPTH_OFFSET
    if begin < 0 or depth >= len(head):
        return 0
    return (head[depth] & 0x7F) + 1  # the upper bit says that samples are signed


# Colour of 16 bits, of which Pillow keeps the upper 8


def decoder_args(image: Any) -> tuple:
    """What Pillow hands to the decoder of a picture that is not yet loaded; it begins with the name of the unpacker."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ("",)
    _, _, _, args = tiles[0]
    if isinstance(args, tuple) and args:
        return args
    return (args,)


def sixteen_bit_colour(image: Any) -> str:
    """Pillow's unpacker for colour, or grey with alpha, of 16 bits; "" for others."""
    unpacker, *others = decoder_args(image)
    if image.mode == "CMYK" and str(unpacker).startswith("CMYK;16"):
        raise UserError("CMYK of 16 bits is not read; convert it to grey or RGB")
    if image.mode not in ("RGB", "RGBA") or not isinstance(unpacker, str):
        return ""
    if image.format == "PPM":
        decoder = image.tile[0][0]
        if (decoder, unpacker, *others) == ("ppm", "RGB", FULL):
            return PPM_COLOUR
        return ""
    in_planes = image.format == "TIFF" and unpacker == "R"
    if in_planes and tag_number(image.tag_v2.get(BITS_PER_SAMPLE)) > 8:
        raise UserError("colour of 16 bits, uncompressed, in planes: Pillow would garble it; convert it to PNG")
    return unpacker if unpacker[:-1] in SIXTEEN_BIT_COLOUR else ""


def luminance(image: Any, path: str | Path, unpacker: str) -> np.ndarray:
    """The luminance of colour of 16 bits, (H, W)."""
    # Pillow keeps the upper byte of each sample; told the other byte order, it keeps the lower one.
    if unpacker == PPM_COLOUR:
        begin = image.tile[0][2]
        shape = (image.height, image.width, 3)
        values = np.fromfile(path, dtype=">u2", count=math.prod(shape), offset=begin)
        colour = values.reshape(shape).astype(np.int64)
    elif unpacker == "LA;16B":
        # The four bytes of a pixel, as they stand in the file.
        in_file = unpacked(path, as_rgba).astype(np.int64)
        upper = in_file[:, :, 0]
        lower = in_file[:, :, 1]
        return upper << 8 | lower
    else:
        lower = unpacked(path, in_other_order)
        upper = np.asarray(image).astype(np.int64)
        colour = upper[:, :, :3] << 8 | lower[:, :, :3]
    weighted = colour @ np.array(LUMA)
    return (weighted + 0x8000) >> 16


def as_rgba(unpacker: str) -> str:
    return "RGBA"


def in_other_order(unpacker: str) -> str:
    order = unpacker[-1]
    return unpacker[:-1] + OTHER_ORDER[order]


def unpacked(path: str | Path, rename: Callable[[str], str]) -> np.ndarray:
    """The picture as another unpacker of Pillow reads its bytes.

    Args:
        rename: the unpacker that Pillow would take -> the one that is used.

    Returns:
        (H, W, C) uint8
    """
    with open(path, "rb") as file, Image.open(file) as image:
        source: Any = image
        source.tile = [with_unpacker(tile, rename) for tile in source.tile]
        return np.asarray(image)


def with_unpacker(tile: Any, rename: Callable[[str], str]) -> Any:
    *before, args = tile
    if isinstance(args, str):
        args = rename(args)
    else:
        unpacker, *others = args
        args = (rename(unpacker), *others)
    # A tuple with names since Pillow 11.
    if hasattr(tile, "_replace"):
        return tile._replace(args=args)
    return (*before, args)


# Samples to 8 bits


def to_8_bits(deep: Deep) -> tuple[np.ndarray, str]:
    """Scale samples to (H, W) uint8, and say how.

    White is what the file states. Where it states nothing, less than 99.9 % of the samples need, or so much more that
    the picture would be black, white is the greatest value of the fewest bits that hold those. Black is 0, or as far
    below 0 where samples are negative.
    """
    is_float = deep.samples.dtype.kind == "f"
    x = deep.samples.astype(np.float64)
    if not np.isfinite(x).all():
        raise UserError("holds samples that are no numbers (NaN or infinite); save them as unsigned 8 or 16 bit")
    low, high = outer_samples(x)
    unit = 0 if is_float else 1  # two's complement holds one value more below 0 than above
    reach = max(high, -low - unit)
    white, stated_by = choose_white(deep, low, reach, is_float)
    black = -white - unit if low < 0 else 0
    factor = 255 / (white - black)
    scaled = (x.clip(black, white) - black) * factor
    pixels = np.floor(scaled + 0.5).astype(np.uint8)
    scale = f"black {black:g}, white {white:g} ({stated_by})"
    if deep.inverted:
        return 255 - pixels, f"{scale}, inverted"
    return pixels, scale


def choose_white(deep: Deep, low: float, reach: float, is_float: bool) -> tuple[float, str]:
    """Which value is white, and why; `reach`: the value that the samples reach, on either side of 0."""
    white = fewest_bits(reach, is_float)
    why = "which holds 99.9 % of its samples"
    stated = deep.white
    if stated is None:
        return white, why
    # The PNG specification has significant bits uppermost, many files have them lowermost.
    if reach > stated and deep.stated_by.startswith("sBIT"):
        stated = FULL
    if low < 0 or reach > stated:
        return white, why
    levels = reach * 255 / stated
    if levels >= LEVELS or white >= stated:
        return stated, deep.stated_by
    return white, f"{why}; {deep.stated_by} would leave {levels:.0f} grey levels"


def outer_samples(x: np.ndarray) -> tuple[float, float]:
    """The 0.1st and the 99.9th percentile, as samples: a stray one is left out however small the picture."""
    last = x.size - 1
    left_out = min(-(-last // 1000), last // 2)  # at each end
    first = left_out
    last -= left_out
    ordered = np.partition(x.ravel(), (first, last))
    return float(ordered[first]), float(ordered[last])


def fewest_bits(reach: float, is_float: bool) -> float:
    """The greatest value of the fewest bits that hold `reach`.

    In floating point up to 1 it is a power of two, and a hundredth more passes.
    """
    if not is_float:
        bits = int(reach).bit_length()
        return 2 ** max(1, bits) - 1
    reach /= 1.01
    if reach <= 0:
        return 1.0
    if reach <= 1:
        return 2.0 ** math.ceil(math.log2(reach))
    return 2.0 ** math.ceil(math.log2(reach + 1)) - 1
