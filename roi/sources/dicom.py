"""X-rays in DICOM: what a file stores -> a grey picture, without a word of its header.

    pixels, facts = read_dicom("00f3.dicom", window="voi", bits=8)

The stages are those of PS3.3 C.11 and C.7.6.3, in their order: stored value -> modality LUT, or slope and intercept ->
VOI LUT, window, or percentiles -> MONOCHROME1 inverted -> full range of the bits, padding black. They are computed for
each value that may be stored, not for each pixel, and then looked up. Slope, intercept and windows are pydicom's own
functions; its look-up tables fail on tables that there are (tests/sources/test_dicom.py shows which), those are read here.

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

from roi.data.images import UnreadableImage
from roi.errors import UserError
from roi.files import reason

WINDOWS = ("voi", "percentile")
PERCENTILES = (0.5, 99.5)
TOP = 2**16 - 1
SIDES = (64, 6000)  # px; what lies outside is no chest X-ray: 6,000 x 6,000 px of 16 bit are 72 MB
INSTALL = "pip install -r requirements-dicom.txt"
VIEWS = (
    "PA",
    "AP",
    "LL",
    "RL",
    "LLD",
    "RLD",
    "LLO",
    "RLO",
    "LATERAL",
    "LAT",
)  # any other text of ViewPosition may be somebody's name
LUMA = (19595, 38470, 7471)  # ITU-R BT.601 times 65,536, as Pillow: three equal channels stay what they are
# No other element is read: what is not read cannot leak, and cannot fail.
ELEMENTS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
    "ViewPosition",
    "BurnedInAnnotation",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
)
PLUGINS = {
    "JPEG 2000": "pylibjpeg-openjpeg",
    "High-Throughput JPEG 2000": "pylibjpeg-openjpeg",
    "JPEG": "pylibjpeg-libjpeg",
}  # by how a syntax's name begins
LEVELS = 32  # grey levels that a window must leave
IN_RANGE = 0.05  # of the pixels, that the range of a window must hold
PADDING = 0.01  # of the pixels, that a value must have to be padding which nobody declared
GAP = 0.25  # by how much of the range of the others it must lie apart from them
NEAR = 1 / 8  # of the stored range: neighbouring pixels seldom differ by more
MODULES = {"pylibjpeg": "pylibjpeg", "pylibjpeg-openjpeg": "openjpeg", "pylibjpeg-libjpeg": "libjpeg"}


def read_dicom(
    path: str | Path, window: str = "voi", bits: int = 8, sides: tuple[int, int] = SIDES, allow_burned_in: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """-> ((H, W) uint8 or uint16 in the full range of `bits`, bright is dense; facts about the file, none about the patient).

    `window`: voi, what the file says (VOI LUT, else its first window; percentiles where it says nothing or nonsense, or
    a window that leaves few grey levels or misses nearly all pixels), or percentile: always from the 0.5th to the
    99.5th of the pixels that are not padding. Of colour the luminance is taken; an image of one value is all zero.
    What was not as the header has it stands under `note` of the facts. `sides`: shortest and longest side (px) that is
    decoded; text that the header says is burnt in is refused unless `allow_burned_in`.

    UserError: pydicom is not installed, or no such window or depth. UnreadableImage (begins with the path): everything that is wrong with the file.
    """
    if window not in WINDOWS or bits not in (8, 16):
        raise UserError(f"window {window!r}, {bits} bits: choose one of {', '.join(WINDOWS)}, and 8 or 16")
    needs_pydicom()
    try:
        with silent():
            header = elements(path, pixels=False)
            check(header, sides, allow_burned_in)
            facts, ds = describe(header), elements(path, pixels=True)
            notes: list[str] = []
            stored = decode(ds, notes)
            place = stored.astype(np.intp)
            low = int(place.min())
            place -= low
            counts = np.bincount(place.ravel())  # (V,)
            values = np.arange(low, low + len(counts))
            padding = is_padding(ds, values) | is_undeclared_padding(place, counts, is_padding(ds, values), low, notes)
            grey, facts["shown_by"] = shade(ds, values, np.where(padding, 0, counts), window, notes)
            facts["note"] = "; ".join(notes)
    except MemoryError:
        raise
    except UnreadableImage as error:
        raise UnreadableImage(f"{path}: {error}") from error
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or reason(error)}") from error
    except Exception as error:  # pydicom and its decoders raise whatever they like on a broken file
        raise UnreadableImage(f"{path}: cannot be read as DICOM ({in_words(error)})") from error
    table = np.floor(grey * (2**bits - 1) + 0.5 + 1e-6).astype(
        f"uint{bits}"
    )  # the millionth: a half rounds up whatever rounding errors it has
    table[padding] = 0
    return table[place], facts


def in_words(error: Exception) -> str:
    """What an error of pydicom means to somebody who has the file and not the program."""
    name = getattr(error, "name", None)
    if isinstance(error, AttributeError) and name:
        return f"{name} is missing"
    said = reason(error)
    return f"{type(error).__name__}: {said}" if isinstance(error, KeyError | IndexError | TypeError) else said


def needs_pydicom() -> None:
    """UserError: it is not installed."""
    if find_spec("pydicom") is None:
        raise UserError(f"reading DICOM needs the package pydicom: {INSTALL}")


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
    rows, columns = integer(ds, "Rows"), integer(ds, "Columns")
    short, long = sorted((rows, columns))
    if short < sides[0]:
        raise UnreadableImage(f"{columns} x {rows} px: a side is shorter than {sides[0]} px (--min_side)")
    if long > sides[1]:
        raise UnreadableImage(f"{columns} x {rows} px: a side is longer than {sides[1]} px (--max_side)")
    if ds.get("NumberOfFrames") and integer(ds, "NumberOfFrames") != 1:
        raise UnreadableImage(f"{ds.NumberOfFrames} frames; an X-ray has one")
    kind, samples = str(given(ds, "PhotometricInterpretation")), integer(ds, "SamplesPerPixel")
    grey = samples == 1 and kind in ("MONOCHROME1", "MONOCHROME2")
    if not grey and not (samples == 3 and kind.startswith(("RGB", "YBR_"))):
        raise UnreadableImage(
            f"pictures with {samples} samples a pixel of this kind are not read "
            "(only MONOCHROME1, MONOCHROME2, RGB, YBR)"
        )
    allocated, stored = integer(ds, "BitsAllocated"), integer(ds, "BitsStored")
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise UnreadableImage(f"{stored} bits stored in {allocated}: only up to 8 in 8 or 16 in 16 are read")
    if integer(ds, "PixelRepresentation") not in (0, 1):
        raise UnreadableImage(f"PixelRepresentation is {ds.PixelRepresentation}: neither 0, unsigned, nor 1, signed")
    if burned_in(ds) == "YES" and not allow_burned_in:
        raise UnreadableImage(
            "its header says that text is burnt into the picture (--allow_burned_in takes it all the same)"
        )


def given(ds: Any, name: str) -> Any:
    """The value of an element. UnreadableImage: it has none."""
    value = ds.get(name)
    if value is None or value == "":
        raise UnreadableImage(f"{name} is missing")
    return value


def integer(ds: Any, name: str) -> int:
    """UnreadableImage: the element has no value, or one that is no integer."""
    try:
        return int(given(ds, name))
    except (TypeError, ValueError) as error:
        if isinstance(error, UnreadableImage):
            raise
        raise UnreadableImage(f"{name} is no integer") from error


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


def decode(ds: Any, notes: list[str]) -> np.ndarray:
    """-> (H, W) integers as stored, signed where they are; of colour the luminance. Oddities are added to `notes`.

    UnreadableImage: it cannot be decoded, or a decoder is not installed, which is then named.
    """
    if "PixelData" not in ds:
        raise UnreadableImage("holds no pixels (cut off?)")
    syntax = ds.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise UnreadableImage("TransferSyntaxUID is missing: nothing says how its pixels are packed")
    if "JPEG" in syntax.name and b"\xff\xd9" not in ds.PixelData[-64:]:
        raise UnreadableImage(f"its pixels, {syntax.name}, have no end (cut off?)")  # libjpeg would fill up with grey
    stored = int(ds.BitsStored)
    plain = not syntax.is_compressed or syntax.name.startswith("RLE")
    high = integer(ds, "HighBit") if plain and ds.get("HighBit") is not None else stored - 1
    ds.BitsStored = ds.BitsAllocated  # pydicom leaves all bits as they are: those above may be part of the value
    try:
        pixels = ds.pixel_array
    except MemoryError:
        raise
    except Exception as error:
        wanted = (
            "pylibjpeg",
            next((package for begin, package in PLUGINS.items() if syntax.name.startswith(begin)), ""),
        )
        lacking = [package for package in wanted if package and find_spec(MODULES[package]) is None]
        if wanted[1] and lacking:
            raise UnreadableImage(
                f"compressed as {syntax.name}, which needs the package {' and '.join(lacking)}: {INSTALL}"
            ) from error
        raise
    finally:
        ds.BitsStored = stored
    if pixels.ndim == 3:
        pixels = (pixels.astype(np.int64) @ np.array(LUMA) + 0x8000) >> 16
        pixels >>= max(0, high + 1 - stored)
    if pixels.shape != (ds.Rows, ds.Columns):
        raise UnreadableImage(f"its pixels are {pixels.shape}, its header says {(ds.Rows, ds.Columns)}")
    if ds.SamplesPerPixel > 1:
        return pixels
    if syntax.name.startswith(("JPEG 2000", "High-Throughput JPEG 2000")):
        return with_sign_of_stream(ds, pixels, notes)
    return without_unused_bits(ds, pixels, max(0, high + 1 - stored), notes)


def with_sign_of_stream(ds: Any, pixels: np.ndarray, notes: list[str]) -> np.ndarray:
    """(H, W) JPEG 2000. Where stream and header differ in whether it is signed, the smoother picture is right."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import get_j2k_parameters

    stream = get_j2k_parameters(get_frame(ds.PixelData, 0, number_of_frames=1))
    signed, bits = bool(stream.get("is_signed", ds.PixelRepresentation)), int(stream.get("precision", ds.BitsStored))
    if signed == bool(ds.PixelRepresentation):
        return pixels
    unsigned = pixels.astype(np.int32) & (2**bits - 1)
    choices = {0: unsigned, 1: with_sign(unsigned, bits)}
    jumps = {kind: np.abs(np.diff(picture)).mean() for kind, picture in choices.items()}
    ds.PixelRepresentation = min(jumps, key=lambda kind: jumps[kind])
    words = ("unsigned", "signed")
    read_as = words[ds.PixelRepresentation]
    notes.append(f"the stream is {words[signed]} and the header {words[not signed]}, read as {read_as}")
    return choices[ds.PixelRepresentation]


def with_sign(values: np.ndarray, bits: int) -> np.ndarray:
    """Two's complement of so many bits."""
    return values - ((values >> (bits - 1) & 1) << bits)


def without_unused_bits(ds: Any, pixels: np.ndarray, shift: int, notes: list[str]) -> np.ndarray:
    """(H, W) all bits of each pixel -> the stored values. `shift`: unused bits below them.

    Bits above may be waste, or the header may say too few. Where they change from a pixel to the next one, either the
    value without them goes on smoothly, and they are waste, or the value with them does.
    UnreadableImage: neither does.
    """
    stored, signed = int(ds.BitsStored), bool(ds.PixelRepresentation)
    above = int(ds.BitsAllocated) - shift - stored
    least, most = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    if shift == 0 and least <= pixels.min() and pixels.max() <= most:
        return pixels
    whole = (pixels.astype(np.int32) & (2 ** int(ds.BitsAllocated) - 1)) >> shift
    narrow = whole & (2**stored - 1)
    wide = with_sign(whole, stored + above) if signed else whole
    if signed:
        narrow = with_sign(narrow, stored)
    if above <= 0:
        return narrow
    more = whole >> stored
    if ds.get("PixelPaddingValue") is not None:
        # It may need bits that the picture does not have, and is no part of it.
        is_pad = (pixels.astype(np.int32) - int(ds.PixelPaddingValue)) % 2 ** int(ds.BitsAllocated) == 0
        narrow = np.where(is_pad, wide, narrow)
        more = np.where(is_pad, 0, more)
    # The sign goes on into the bits above.
    expected = np.where(narrow < 0, 2**above - 1, 0)
    odd = (more != 0) & (more != expected)
    if not odd.any() or more.min() == more.max():
        return narrow
    change = np.diff(more) != 0
    near = 2**stored * NEAR
    goes_on = {name: (np.abs(np.diff(v)) <= near)[change].mean() for name, v in (("wide", wide), ("narrow", narrow))}
    needed = int(max(wide.max(), -wide.min() - 1)).bit_length() + signed
    steep = max(goes_on.values()) < 0.5  # neighbours differ by more than the stored bits hold, or are no picture at all
    if steep and not smoothness(wide) > max(0.9, smoothness(narrow) + 0.05):
        raise UnreadableImage(f"BitsStored is {stored}, its pixels have {needed} bits: which of them count is unknown")
    if goes_on["narrow"] > goes_on["wide"] and not steep:
        return narrow
    notes.append(f"BitsStored is {stored}, its pixels have {needed}")
    ds.BitsStored = needed
    return wide


def smoothness(picture: np.ndarray) -> float:
    """Correlation of pixels with their right-hand neighbours; 0 for a picture of one value."""
    left, right = (part.ravel().astype(np.float64) for part in (picture[:, :-1], picture[:, 1:]))
    return float(np.corrcoef(left, right)[0, 1]) if left.std() and right.std() else 0.0


def is_padding(ds: Any, values: np.ndarray) -> np.ndarray:
    """(V,) -> (V,) bool: outside of what was exposed, PS3.3 C.7.5.1.1.2."""
    if ds.get("PixelPaddingValue") is None:
        return np.zeros(len(values), dtype=bool)
    ends = [
        int(ds.PixelPaddingValue),
        int(ds.PixelPaddingValue if ds.get("PixelPaddingRangeLimit") is None else ds.PixelPaddingRangeLimit),
    ]
    span = 2 ** int(ds.BitsAllocated)
    least = -span // 2 if ds.PixelRepresentation else 0
    low, high = sorted(
        (end - least) % span + least for end in ends
    )  # written as unsigned where the pixels are signed, or the other way round
    return (values >= low) & (values <= high)


def is_undeclared_padding(
    place: np.ndarray, counts: np.ndarray, declared: np.ndarray, low: int, notes: list[str]
) -> np.ndarray:
    """(H, W) places among the V values, their counts (V,) -> (V,) bool: outermost values that no element calls padding.

    One is padding if it makes up a part of the picture and of its border, and lies far apart from all other values.
    """
    found = np.zeros(len(counts), dtype=bool)
    used = np.flatnonzero((counts > 0) & ~declared)
    if len(used) <= LEVELS:
        return found
    border = np.concatenate([place[0], place[-1], place[:, 0], place[:, -1]])
    for end, rest in ((used[0], used[1:]), (used[-1], used[:-1])):
        gap = min(abs(int(end) - int(rest[0])), abs(int(end) - int(rest[-1])))
        low_rest, high_rest = percentiles(rest.astype(float), counts[rest])
        many = counts[end] >= PADDING * counts.sum() and np.mean(border == end) >= PADDING
        if many and gap > GAP * (high_rest - low_rest):
            found[end] = True
            notes.append(f"padding {low + int(end)} is not declared")
    return found


def shade(ds: Any, values: np.ndarray, counts: np.ndarray, window: str, notes: list[str]) -> tuple[np.ndarray, str]:
    """Stored values (V,) and how many pixels have each -> ((V,) in 0..1, 1 = bright, what it was shown by)."""
    x = modality(ds, values, notes)
    used = counts > 0
    there = x[used]
    if not there.size or there.min() == there.max():
        return np.zeros(len(x)), "constant"
    low, high = percentiles(x, counts)
    if low == high:  # nearly all pixels are of one value
        low, high = there.min(), there.max()
    y, shown_by = ((x - low) / (high - low)).clip(0, 1), "percentile"
    needed = min(LEVELS, levels(y[used]))
    for name, curve in (("lut", voi_lut), ("window", voi_window)) if window == "voi" else ():
        found = curve(ds, x)
        if found is None:
            continue
        shown, in_range = found
        share = counts[in_range].sum() / counts.sum()
        if levels(shown[used]) < needed:
            notes.append(f"the {name} of the file leaves {levels(shown[used])} grey levels")
        elif share <= IN_RANGE:
            notes.append(f"the {name} of the file misses {1 - share:.0%} of the pixels")
        else:
            y, shown_by = shown, name
            break
    return 1 - y if is_inverted(ds, notes) else y, shown_by


def levels(y: np.ndarray) -> int:
    """Grey levels of 8 bits that are left of so many values between 0 and 1."""
    return len(np.unique(np.floor(y * 255 + 0.5)))


def is_inverted(ds: Any, notes: list[str]) -> bool:
    """Whether the lowest value is white: MONOCHROME1, or PresentationLUTShape INVERSE, which turns MONOCHROME2."""
    negative = ds.PhotometricInterpretation == "MONOCHROME1"
    shape = str(ds.get("PresentationLUTShape") or "").strip().upper()
    if shape == "INVERSE" and not negative:
        notes.append("inverted by PresentationLUTShape")
    return negative or shape == "INVERSE"


def modality(ds: Any, values: np.ndarray, notes: list[str]) -> np.ndarray:
    """PS3.3 C.11.1. (V,) -> (V,) float64"""
    from pydicom import Dataset
    from pydicom.pixels import apply_rescale

    items = ds.get("ModalityLUTSequence")
    if items and (items[0].get("LUTDescriptor") or items[0].get("LUTData")):
        return look_up(ds, items[0], values)
    if items:
        notes.append("an empty modality LUT is left out")
    slope, intercept = (first(ds.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope == 0:
        notes.append("RescaleSlope 0 is left out")
    rescale = Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = slope or 1.0, intercept or 0.0
    return apply_rescale(values, rescale).astype(np.float64)


def voi_lut(ds: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """PS3.3 C.11.2.1.1, scaled from its least to its greatest entry; the first of several. -> (V,) 0..1, (V,) in range.

    None: the file has none, or an empty one.
    """
    items = ds.get("VOILUTSequence")
    if not items or not items[0].get("LUTDescriptor") or not items[0].get("LUTData"):
        return None
    entries = entries_of(ds, items[0])
    low, high = entries.min(), entries.max()
    if high == low:
        return None
    begin = first_mapped(items[0])
    return (look_up(ds, items[0], x) - low) / (high - low), (x >= begin) & (x < begin + len(entries))


def voi_window(ds: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3; the first of several windows. -> (V,) in 0..1, (V,) what is in its range.

    None: the file has none, or an impossible one.
    """
    from pydicom import Dataset
    from pydicom.pixels import apply_windowing

    center, width = (first(ds.get(name)) for name in ("WindowCenter", "WindowWidth"))
    kind = str(ds.get("VOILUTFunction") or "LINEAR").strip().upper()
    kind = kind if kind in ("LINEAR", "LINEAR_EXACT", "SIGMOID") else "LINEAR"
    if center is None or width is None or width <= 0 or kind == "LINEAR" and width < 1:
        return None
    # A header of its own: what pydicom makes of the window is then between 0 and TOP, whatever was rescaled before.
    header = Dataset()
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 16, 0
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = center, width, kind
    return apply_windowing(x, header) / TOP, np.abs(x - center) <= width / 2


def first(value: Any) -> float | None:
    """The first number of an element with one, several or none."""
    try:
        number = float(value if isinstance(value, str | int | float) else value[0])
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def entries_of(ds: Any, item: Any) -> np.ndarray:
    """The entries of a LUT, float64. 8-bit ones may be packed two to a word."""
    count = int(descriptor(item)[0]) or 2**16
    data = item.get("LUTData")
    if data is None:
        raise UnreadableImage("LUTData of a look-up table is missing")
    if isinstance(data, bytes):
        order = "<" if ds.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, dtype=f"{order}u2" if len(data) >= 2 * count else "u1")
    entries = np.atleast_1d(np.asarray(data, dtype=np.float64))[:count]
    if len(entries) < count:
        raise UnreadableImage(f"a look-up table has {len(entries)} of its {count} entries")
    return entries


def descriptor(item: Any) -> Any:
    """(number of entries, first value that is mapped, bits of an entry)"""
    found = item.get("LUTDescriptor")
    if not found or len(found) != 3:
        raise UnreadableImage("LUTDescriptor of a look-up table is missing, or has not 3 values")
    return found


def first_mapped(item: Any) -> int:
    return int(descriptor(item)[1])


def look_up(ds: Any, item: Any, x: np.ndarray) -> np.ndarray:
    """PS3.3 C.11.1.1.1: what lies below or above the table has its first or last entry. (V,) -> (V,) float64"""
    entries = entries_of(ds, item)
    return entries[(np.rint(x) - first_mapped(item)).clip(0, len(entries) - 1).astype(np.intp)]


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
