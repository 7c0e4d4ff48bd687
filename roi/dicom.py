"""X-rays in DICOM: what a file stores -> a grey picture, without a word of its header.

    pixels, facts = read_dicom("00f3.dicom", window="voi", bits=8)

The stages are those of PS3.3 C.11 and C.7.6.3, in their order: stored value -> modality LUT, or slope and intercept -> VOI LUT, window, or percentiles ->
MONOCHROME1 inverted -> full range of the bits, padding black. They are computed for each value that may be stored, not for each pixel, and then looked up.

Letters: H x W pixels; V values from the lowest to the highest that the file stores (at most 65,536).
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from roi.files import reason
from roi.images import UnreadableImage

WINDOWS = ("voi", "percentile")
PERCENTILES = (0.5, 99.5)
SIDES = (64, 6000)  # px; what lies outside is no chest X-ray: 6,000 x 6,000 px of 16 bit are 72 MB
INSTALL = "pip install -r requirements-dicom.txt"
VIEWS = ("PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LATERAL", "LAT")  # any other text of ViewPosition may be somebody's name
LUMA = (19595, 38470, 7471)  # ITU-R BT.601 times 65,536, as Pillow: three equal channels stay what they are
# No other element is read: what is not read cannot leak, and cannot fail.
ELEMENTS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "VOILUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "ViewPosition", "BurnedInAnnotation", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData",
)  # fmt: skip
PLUGINS = {"JPEG 2000": "pylibjpeg-openjpeg", "High-Throughput JPEG 2000": "pylibjpeg-openjpeg", "JPEG": "pylibjpeg-libjpeg"}  # by how a syntax's name begins
MODULES = {"pylibjpeg": "pylibjpeg", "pylibjpeg-openjpeg": "openjpeg", "pylibjpeg-libjpeg": "libjpeg"}


def read_dicom(
    path: str | Path, window: str = "voi", bits: int = 8, sides: tuple[int, int] = SIDES, allow_burned_in: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """-> ((H, W) uint8 or uint16 in the full range of `bits`, bright is dense; facts about the file, none about the patient).

    `window`: voi, what the file says (VOI LUT, else its first window; percentiles where it says nothing, nonsense, or a window in which no two of its pixels
    differ), or percentile: always from the 0.5th to the 99.5th of the pixels that are not padding. Of colour the luminance is taken; an image of
    one value is all zero. `sides`: shortest and longest side (px) that is decoded; text that the header says is burnt in is refused unless `allow_burned_in`.

    ValueError: pydicom is not installed, or no such window or depth. UnreadableImage (begins with the path): everything that is wrong with the file.
    """
    if window not in WINDOWS or bits not in (8, 16):
        raise ValueError(f"window {window!r}, {bits} bits: choose one of {', '.join(WINDOWS)}, and 8 or 16")
    needs_pydicom()
    try:
        with silent():
            check(ds := elements(path, pixels=False), sides, allow_burned_in)
            stored = decode(elements(path, pixels=True))
            facts = describe(ds)
            place = stored.astype(np.intp)
            low = int(place.min())
            place -= low
            counts = np.bincount(place.ravel())  # (V,)
            values = np.arange(low, low + len(counts))
            padding = is_padding(ds, values)
            grey, facts["shown_by"] = shade(ds, values, np.where(padding, 0, counts), window)
    except MemoryError:
        raise
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from error
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or reason(error)}") from error
    except Exception as error:  # pydicom and its decoders raise whatever they like on a broken file
        raise UnreadableImage(f"{path}: cannot be read as DICOM ({reason(error)})") from error
    table = np.floor(grey * (2**bits - 1) + 0.5 + 1e-6).astype(f"uint{bits}")  # the millionth: a half rounds up whatever rounding errors it has
    table[padding] = 0
    return table[place], facts


def needs_pydicom() -> None:
    """ValueError: it is not installed."""
    if find_spec("pydicom") is None:
        raise ValueError(f"reading DICOM needs the package pydicom: {INSTALL}")


@contextmanager
def silent() -> Iterator[None]:
    """pydicom's warnings quote the header; they belong in no log."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def elements(path: str | Path, pixels: bool) -> Any:
    """The elements of ELEMENTS as a pydicom Dataset."""
    import pydicom

    try:
        return pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=list(ELEMENTS))
    except pydicom.errors.InvalidDicomError as error:
        raise UnreadableImage("not a DICOM file (no DICM mark after its first 128 bytes)") from error


def check(ds: Any, sides: tuple[int, int], allow_burned_in: bool) -> None:
    """UnreadableImage: not one grey or colour picture of a sensible size, before a pixel of it is decoded."""
    if "Rows" not in ds or "Columns" not in ds:
        raise UnreadableImage("holds no picture (no Rows and Columns)")
    short, long = sorted((int(ds.Rows), int(ds.Columns)))
    if short < sides[0]:
        raise UnreadableImage(f"{ds.Columns} x {ds.Rows} px: a side is shorter than {sides[0]} px (--min_side)")
    if long > sides[1]:
        raise UnreadableImage(f"{ds.Columns} x {ds.Rows} px: a side is longer than {sides[1]} px (--max_side)")
    if int(ds.get("NumberOfFrames") or 1) != 1:
        raise UnreadableImage(f"{ds.NumberOfFrames} frames; an X-ray has one")
    kind, samples = str(ds.get("PhotometricInterpretation", "")), int(ds.get("SamplesPerPixel", 1))
    if not (samples == 1 and kind in ("MONOCHROME1", "MONOCHROME2") or samples == 3 and kind.startswith(("RGB", "YBR_"))):
        raise UnreadableImage(f"pictures with {samples} samples a pixel of this kind are not read (only MONOCHROME1, MONOCHROME2, RGB, YBR)")
    if ds.BitsAllocated not in (8, 16) or not 1 <= ds.BitsStored <= ds.BitsAllocated:
        raise UnreadableImage(f"{ds.BitsStored} bits stored in {ds.BitsAllocated}: only up to 8 in 8 or 16 in 16 are read")
    if burned_in(ds) == "YES" and not allow_burned_in:
        raise UnreadableImage("its header says that text is burnt into the picture (--allow_burned_in takes it all the same)")


def burned_in(ds: Any) -> str:
    said = str(ds.get("BurnedInAnnotation", "")).strip().upper()
    return said if said in ("YES", "NO") else ""


def describe(ds: Any) -> dict[str, Any]:
    """What may be known of a file: nothing that tells whose it is."""
    view = str(ds.get("ViewPosition", "")).strip().upper()
    return {
        "rows": int(ds.Rows),
        "columns": int(ds.Columns),
        "photometric": str(ds.PhotometricInterpretation),
        "view": view if view in VIEWS else "other" if view else "",
        "bits_stored": int(ds.BitsStored),
        "burned_in": burned_in(ds),
    }


def decode(ds: Any) -> np.ndarray:
    """-> (H, W) integers as stored, signed where they are; of colour the luminance. UnreadableImage names a decoder that is not installed."""
    if "PixelData" not in ds:
        raise UnreadableImage("holds no pixels (cut off?)")
    syntax = ds.file_meta.TransferSyntaxUID
    if "JPEG" in syntax.name and b"\xff\xd9" not in ds.PixelData[-64:]:
        raise UnreadableImage(f"its pixels, {syntax.name}, have no end (cut off?)")  # libjpeg would fill up with grey
    shift = 0
    if not syntax.is_compressed or syntax.name.startswith("RLE"):
        shift = max(0, int(ds.get("HighBit", ds.BitsStored - 1)) + 1 - ds.BitsStored)
        ds.BitsStored = min(ds.BitsStored + shift, ds.BitsAllocated)  # unused bits are below the stored ones: taken with them, then dropped
    try:
        pixels = ds.pixel_array
    except MemoryError:
        raise
    except Exception as error:
        wanted = ("pylibjpeg", next((package for begin, package in PLUGINS.items() if syntax.name.startswith(begin)), ""))
        lacking = [package for package in wanted if package and find_spec(MODULES[package]) is None]
        if wanted[1] and lacking:
            raise UnreadableImage(f"compressed as {syntax.name}, which needs the package {' and '.join(lacking)}: {INSTALL}") from error
        raise
    if pixels.ndim == 3:
        pixels = (pixels.astype(np.int64) @ np.array(LUMA) + 0x8000) >> 16
    if pixels.shape != (ds.Rows, ds.Columns):
        raise UnreadableImage(f"its pixels are {pixels.shape}, its header says {(ds.Rows, ds.Columns)}")
    return pixels >> shift if shift else pixels


def is_padding(ds: Any, values: np.ndarray) -> np.ndarray:
    """(V,) -> (V,) bool: outside of what was exposed, PS3.3 C.7.5.1.1.2."""
    if ds.get("PixelPaddingValue") is None:
        return np.zeros(len(values), dtype=bool)
    ends = [int(ds.PixelPaddingValue), int(ds.PixelPaddingValue if ds.get("PixelPaddingRangeLimit") is None else ds.PixelPaddingRangeLimit)]
    span = 2 ** int(ds.BitsAllocated)
    least = -span // 2 if ds.PixelRepresentation else 0
    low, high = sorted((end - least) % span + least for end in ends)  # written as unsigned where the pixels are signed, or the other way round
    return (values >= low) & (values <= high)


def shade(ds: Any, values: np.ndarray, counts: np.ndarray, window: str) -> tuple[np.ndarray, str]:
    """Stored values (V,) and how many pixels have each -> ((V,) in 0..1, 1 = bright, what it was shown by)."""
    x = modality(ds, values)
    there = x[counts > 0]
    if not there.size or there.min() == there.max():
        return np.zeros(len(x)), "constant"
    y, shown_by = None, "percentile"
    if window == "voi":
        for name, curve in (("lut", voi_lut), ("window", voi_window)):
            y = curve(ds, x)
            if y is not None and np.ptp(y[counts > 0]) > 0:
                shown_by = name
                break
            y = None
    if y is None:
        low, high = percentiles(x, counts)
        if low == high:  # nearly all pixels are of one value
            low, high = there.min(), there.max()
        y = ((x - low) / (high - low)).clip(0, 1)
    return 1 - y if ds.PhotometricInterpretation == "MONOCHROME1" else y, shown_by


def modality(ds: Any, values: np.ndarray) -> np.ndarray:
    """PS3.3 C.11.1. (V,) -> (V,) float64"""
    if ds.get("ModalityLUTSequence"):
        return look_up(ds, ds.ModalityLUTSequence[0], values)
    slope, intercept = (first(ds.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    return values * float(1 if slope is None else slope) + float(0 if intercept is None else intercept)


def voi_lut(ds: Any, x: np.ndarray) -> np.ndarray | None:
    """PS3.3 C.11.2.1.1, scaled from its least and greatest entry; the first of several. None: the file has none, or an empty one."""
    items = ds.get("VOILUTSequence")
    if not items or not items[0].get("LUTDescriptor") or not items[0].get("LUTData"):
        return None
    entries = entries_of(ds, items[0])
    low, high = entries.min(), entries.max()
    return (look_up(ds, items[0], x) - low) / (high - low) if high > low else None


def voi_window(ds: Any, x: np.ndarray) -> np.ndarray | None:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3 for an output in 0..1; the first of several windows. None: the file has none, or an impossible one."""
    center, width = (first(ds.get(name)) for name in ("WindowCenter", "WindowWidth"))
    kind = str(ds.get("VOILUTFunction") or "LINEAR").upper()
    if center is None or width is None or width <= 0 or kind == "LINEAR" and width < 1:
        return None
    if kind == "SIGMOID":
        return 1 / (1 + np.exp((-4 * (x - center) / width).clip(-700, 700)))
    if kind == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (x > center).astype(float)
    return ((x - center) / width + 0.5).clip(0, 1)


def first(value: Any) -> float | None:
    """The first number of an element with one, several or none."""
    try:
        number = float(value if isinstance(value, str | int | float) else value[0])
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def entries_of(ds: Any, item: Any) -> np.ndarray:
    """The entries of a LUT, float64. 8-bit ones may be packed two to a word."""
    count = int(item.LUTDescriptor[0]) or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if ds.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, dtype=f"{order}u2" if len(data) >= 2 * count else "u1")
    entries = np.atleast_1d(np.asarray(data, dtype=np.float64))[:count]
    if len(entries) < count:
        raise UnreadableImage(f"a look-up table has {len(entries)} of its {count} entries")
    return entries


def look_up(ds: Any, item: Any, x: np.ndarray) -> np.ndarray:
    """PS3.3 C.11.1.1.1: what lies below or above the table has its first or last entry. (V,) -> (V,) float64"""
    entries = entries_of(ds, item)
    return entries[(np.rint(x) - int(item.LUTDescriptor[1])).clip(0, len(entries) - 1).astype(np.intp)]


def percentiles(x: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The PERCENTILES of pixels of which `counts` (V,) have the value `x` (V,): what numpy.percentile says of the pixels themselves."""
    order = np.argsort(x, kind="stable")
    upto = counts[order].cumsum()
    found = []
    for percent in PERCENTILES:
        rank = percent / 100 * (upto[-1] - 1)
        below, above = (x[order[np.searchsorted(upto, k, side="right")]] for k in (np.floor(rank), np.ceil(rank)))
        found.append(float(below + (above - below) * (rank - np.floor(rank))))
    return found[0], found[1]
