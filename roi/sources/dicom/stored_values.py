"""The values that a DICOM file stores: decoded, without unused bits, and which of them are padding.

Letters: H x W pixels; V values from the lowest to the highest that the file stores (at most 65,536).
"""

from importlib.util import find_spec
from typing import Any

import numpy as np

from roi.data.images import UnreadableImageError
from roi.sources.dicom.grey import LEVELS, percentiles
from roi.sources.dicom.header import INSTALL, integer

LUMA = (19595, 38470, 7471)  # ITU-R BT.601 times 65,536, as Pillow: three equal channels stay what they are
# Of pylibjpeg, by how the name of a transfer syntax begins; JPEG 2000 before JPEG.
PLUGINS = {
    "JPEG 2000": "pylibjpeg-openjpeg",
    "High-Throughput JPEG 2000": "pylibjpeg-openjpeg",
    "JPEG": "pylibjpeg-libjpeg",
}
MODULES = {"pylibjpeg": "pylibjpeg", "pylibjpeg-openjpeg": "openjpeg", "pylibjpeg-libjpeg": "libjpeg"}
JPEG_2000 = ("JPEG 2000", "High-Throughput JPEG 2000")
END_OF_JPEG = b"\xff\xd9"
PADDING = 0.01  # of the pixels, that a value must have to be padding which nobody declared
GAP = 0.25  # by how much of the range of the others it must lie apart from them
NEAR = 1 / 8  # of the stored range: neighbouring pixels seldom differ by more
SMOOTH = 0.9  # correlation of neighbouring pixels that a picture has, even a steep one


def decode(ds: Any, notes: list[str]) -> np.ndarray:
    """The pixels as stored, (H, W) integers, signed where they are; of colour the luminance.

    Args:
        ds: the elements of the file. BitsStored and PixelRepresentation are set right where they were wrong.
        notes: what was not as the header has it is added.

    Raises:
        UnreadableImageError: it cannot be decoded, or a decoder is not installed, which is then named.
    """
    if "PixelData" not in ds:
        raise UnreadableImageError("holds no pixels (cut off?)")
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise UnreadableImageError("TransferSyntaxUID is missing: nothing says how its pixels are packed")
    # libjpeg would fill up with grey.
    if "JPEG" in syntax.name and END_OF_JPEG not in ds.PixelData[-64:]:
        raise UnreadableImageError(f"its pixels, {syntax.name}, have no end (cut off?)")
    shift = _unused_bits_below(ds, syntax)
    pixels = _unpack(ds, syntax)
    if pixels.ndim == 3:
        pixels = luminance(pixels) >> shift
    size = (ds.Rows, ds.Columns)
    if pixels.shape != size:
        raise UnreadableImageError(f"its pixels are {pixels.shape}, its header says {size}")
    if ds.SamplesPerPixel > 1:
        return pixels
    if syntax.name.startswith(JPEG_2000):
        return with_sign_of_stream(ds, pixels, notes)
    return without_unused_bits(ds, pixels, shift, notes)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Grey of colour, (H, W, 3) integers -> (H, W)."""
    weighted = pixels.astype(np.int64) @ np.array(LUMA)
    half = 2**15
    return (weighted + half) >> 16


def _unused_bits_below(ds: Any, syntax: Any) -> int:
    """The number of bits below the stored ones."""
    # A compressed stream has none, whatever its header says.
    is_plain = not syntax.is_compressed or syntax.name.startswith("RLE")
    if not is_plain or ds.get("HighBit") is None:
        return 0
    return max(0, integer(ds, "HighBit") + 1 - int(ds.BitsStored))


def _unpack(ds: Any, syntax: Any) -> np.ndarray:
    """What pydicom makes of the pixels, all allocated bits of them."""
    stored = int(ds.BitsStored)
    # pydicom masks what is above BitsStored, and that may be part of the value.
    ds.BitsStored = ds.BitsAllocated
    try:
        return ds.pixel_array
    except MemoryError:
        raise
    except Exception as error:
        missing = _missing_packages(syntax)
        if missing:
            needs = f"which needs the package {' and '.join(missing)}"
            raise UnreadableImageError(f"compressed as {syntax.name}, {needs}: {INSTALL}") from error
        raise
    finally:
        ds.BitsStored = stored


def _missing_packages(syntax: Any) -> list[str]:
    """The packages that decode a transfer syntax and are not installed."""
    for beginning, plugin in PLUGINS.items():
        if syntax.name.startswith(beginning):
            needed = ("pylibjpeg", plugin)
            return [package for package in needed if find_spec(MODULES[package]) is None]
    return []


def with_sign_of_stream(ds: Any, pixels: np.ndarray, notes: list[str]) -> np.ndarray:
    """(H, W) of JPEG 2000. Where stream and header differ in whether it is signed, the smoother picture is right."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import get_j2k_parameters

    stream = get_j2k_parameters(get_frame(ds.PixelData, 0, number_of_frames=1))
    signed = bool(stream.get("is_signed", ds.PixelRepresentation))
    bits = int(stream.get("precision", ds.BitsStored))
    if signed == bool(ds.PixelRepresentation):
        return pixels
    as_unsigned = pixels.astype(np.int32) & (2**bits - 1)
    as_signed = with_sign(as_unsigned, bits)
    is_signed = _mean_jump(as_signed) < _mean_jump(as_unsigned)
    ds.PixelRepresentation = int(is_signed)
    words = ("unsigned", "signed")
    read_as = words[is_signed]
    notes.append(f"the stream is {words[signed]} and the header {words[not signed]}, read as {read_as}")
    return as_signed if is_signed else as_unsigned


def _mean_jump(picture: np.ndarray) -> float:
    """How much a pixel differs from the next one."""
    return float(np.abs(np.diff(picture)).mean())


def with_sign(values: np.ndarray, bits: int) -> np.ndarray:
    """Two's complement of so many bits."""
    is_negative = values >> (bits - 1) & 1
    return values - (is_negative << bits)


def without_unused_bits(ds: Any, pixels: np.ndarray, shift: int, notes: list[str]) -> np.ndarray:
    """The stored values of pixels with all their bits, (H, W) both. `shift`: unused bits below them.

    Bits above may be waste, or the header may say too few. Where they change from a pixel to the next one, either the
    value without them goes on smoothly, and they are waste, or the value with them does.

    Raises:
        UnreadableImageError: neither does.
    """
    stored = int(ds.BitsStored)
    allocated = int(ds.BitsAllocated)
    signed = bool(ds.PixelRepresentation)
    if shift == 0 and _fits(pixels, stored, signed):
        return pixels
    above = allocated - shift - stored
    all_bits = pixels.astype(np.int32)
    wide = (all_bits & (2**allocated - 1)) >> shift
    narrow = wide & (2**stored - 1)
    upper = wide >> stored
    if signed:
        narrow = with_sign(narrow, stored)
        wide = with_sign(wide, stored + above)
    if above <= 0:
        return narrow
    padding = ds.get("PixelPaddingValue")
    if padding is not None:
        # It may need bits that the picture does not have, and is no part of it.
        is_pad = (all_bits - int(padding)) % 2**allocated == 0
        narrow = np.where(is_pad, wide, narrow)
        upper = np.where(is_pad, 0, upper)
    # The sign goes on into the bits above.
    sign = np.where(narrow < 0, 2**above - 1, 0)
    is_odd = (upper != 0) & (upper != sign)
    if not is_odd.any() or upper.min() == upper.max():
        return narrow
    needed = _bits_needed(wide, signed)
    if not _upper_bits_count(wide, narrow, upper, needed, stored):
        return narrow
    notes.append(f"BitsStored is {stored}, its pixels have {needed}")
    ds.BitsStored = needed
    return wide


def _fits(pixels: np.ndarray, bits: int, signed: bool) -> bool:
    """Whether so many bits hold all values."""
    least, most = 0, 2**bits - 1
    if signed:
        half = 2 ** (bits - 1)
        least, most = -half, half - 1
    return bool(least <= pixels.min() and pixels.max() <= most)


def _bits_needed(values: np.ndarray, signed: bool) -> int:
    """The number of bits that hold all values."""
    largest = max(values.max(), -values.min() - 1)
    return int(largest).bit_length() + signed


def _upper_bits_count(wide: np.ndarray, narrow: np.ndarray, upper: np.ndarray, needed: int, stored: int) -> bool:
    """Whether the values with the bits above (`wide`), and not those without, go on from a pixel to the next one."""
    changes = np.diff(upper) != 0
    near = 2**stored * NEAR
    wide_goes_on = _share_of_near(wide, changes, near)
    narrow_goes_on = _share_of_near(narrow, changes, near)
    if max(wide_goes_on, narrow_goes_on) >= 0.5:
        return wide_goes_on >= narrow_goes_on
    # Neighbours differ by more than the stored bits hold, or are no picture at all.
    if smoothness(wide) > max(SMOOTH, smoothness(narrow) + 0.05):
        return True
    raise UnreadableImageError(f"BitsStored is {stored}, its pixels have {needed} bits: which of them count is unknown")


def _share_of_near(picture: np.ndarray, changes: np.ndarray, near: float) -> float:
    """Of the neighbours at `changes`, those that differ by no more than `near`."""
    jumps = np.abs(np.diff(picture))
    return float((jumps <= near)[changes].mean())


def smoothness(picture: np.ndarray) -> float:
    """Correlation of pixels with their right-hand neighbours; 0 for a picture of one value."""
    left = picture[:, :-1].ravel().astype(np.float64)
    right = picture[:, 1:].ravel().astype(np.float64)
    if not left.std() or not right.std():
        return 0.0
    return float(np.corrcoef(left, right)[0, 1])


def declared_padding(ds: Any, values: np.ndarray) -> np.ndarray:
    """Which values (V,) the header calls padding, outside of what was exposed: (V,) bool. PS3.3 C.7.5.1.1.2."""
    value = ds.get("PixelPaddingValue")
    if value is None:
        return np.zeros(len(values), dtype=bool)
    limit = ds.get("PixelPaddingRangeLimit")
    if limit is None:
        limit = value
    # They may be written as unsigned where the pixels are signed, or the other way round.
    span = 2 ** int(ds.BitsAllocated)
    least = -span // 2 if ds.PixelRepresentation else 0
    low, high = sorted((int(end) - least) % span + least for end in (value, limit))
    return (values >= low) & (values <= high)


def undeclared_padding(
    place: np.ndarray,
    counts: np.ndarray,
    declared: np.ndarray,
    low: int,
    notes: list[str],
) -> np.ndarray:
    """Which outermost values are padding that no element declares, (V,) bool.

    One is padding if it makes up a part of the picture and of its border, and lies far apart from all other values.

    Args:
        place: (H, W) of each pixel among the V values.
        counts: (V,) pixels that have each.
        declared: (V,) bool, the padding that the header names.
        low: the lowest value.
        notes: what is found is added.
    """
    padding = np.zeros(len(counts), dtype=bool)
    used = np.flatnonzero((counts > 0) & ~declared)
    # A drawing of few values has no padding to be told apart.
    if len(used) <= LEVELS:
        return padding
    top, bottom = place[0], place[-1]
    left = place[:, 0]
    right = place[:, -1]
    border = np.concatenate([top, bottom, left, right])
    least_pixels = PADDING * counts.sum()
    for end, others in ((used[0], used[1:]), (used[-1], used[:-1])):
        share_of_border = np.mean(border == end)
        if counts[end] < least_pixels or share_of_border < PADDING:
            continue
        lowest, highest = percentiles(others.astype(float), counts[others])
        if _distance(end, others) > GAP * (highest - lowest):
            padding[end] = True
            notes.append(f"padding {low + int(end)} is not declared")
    return padding


def _distance(value: int, others: np.ndarray) -> int:
    """How far a value lies outside of others, which are sorted."""
    lowest = int(others[0])
    highest = int(others[-1])
    return min(abs(int(value) - lowest), abs(int(value) - highest))
