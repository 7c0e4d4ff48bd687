"""Stored values as grey: modality LUT or slope, then VOI LUT, window or percentiles, then inversion.

The stages are those of PS3.3 C.11, computed for each value that may be stored. Slope, intercept and windows are
pydicom's own functions; its look-up tables fail on tables that there are (tests/sources/test_dicom.py shows which), so
those are read here.

Letters: V values from the lowest to the highest that the file stores (at most 65,536).
"""

from typing import Any, NamedTuple

import numpy as np

from roi.data.images import UnreadableImageError

PERCENTILES = (0.5, 99.5)
TOP = 2**16 - 1
LEVELS = 32  # grey levels that a window must leave
IN_RANGE = 0.05  # of the pixels, that the range of a window must hold


class Curve(NamedTuple):
    """What a VOI LUT or a window makes of values."""

    grey: np.ndarray  # (V,) in 0..1
    in_range: np.ndarray  # (V,) bool, values that lie between its ends


def shade(ds: Any, values: np.ndarray, counts: np.ndarray, window: str, notes: list[str]) -> tuple[np.ndarray, str]:
    """The grey of each stored value.

    Args:
        ds: the elements of the file.
        values: (V,) stored.
        counts: (V,) pixels that have each; 0 of padding.
        window: "voi" or "percentile", as of read_dicom.
        notes: what was not as the header has it is added.

    Returns:
        ((V,) in 0..1, 1 = bright; what it was shown by: lut, window, percentile or constant).
    """
    x = modality(ds, values, notes)
    used = counts > 0
    if not used.any() or np.ptp(x[used]) == 0:
        return np.zeros(len(x)), "constant"
    grey = _between_percentiles(x, counts)
    shown_by = "percentile"
    # A picture of few values cannot have more levels than those.
    levels = min(LEVELS, grey_levels(grey[used]))
    curves = (("lut", voi_lut), ("window", voi_window)) if window == "voi" else ()
    for name, read_curve in curves:
        curve = read_curve(ds, x)
        if curve is not None and _is_of_use(curve, counts, levels, name, notes):
            grey = curve.grey
            shown_by = name
            break
    if is_inverted(ds, notes):
        grey = 1 - grey
    return grey, shown_by


def _between_percentiles(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    low, high = percentiles(x, counts)
    if low == high:  # nearly all pixels are of one value
        used = x[counts > 0]
        low, high = used.min(), used.max()
    return ((x - low) / (high - low)).clip(0, 1)


def _is_of_use(curve: Curve, counts: np.ndarray, levels: int, name: str, notes: list[str]) -> bool:
    """Whether a curve leaves so many grey levels and shows more than nearly nothing; if not, `notes` says why."""
    # Files carry windows of other pictures: one that shows next to nothing is no window of this one.
    left = grey_levels(curve.grey[counts > 0])
    share = counts[curve.in_range].sum() / counts.sum()
    if left < levels:
        notes.append(f"the {name} of the file leaves {left} grey levels")
        return False
    if share <= IN_RANGE:
        notes.append(f"the {name} of the file misses {1 - share:.0%} of the pixels")
        return False
    return True


def grey_levels(grey: np.ndarray) -> int:
    """How many of the 256 levels of 8 bits values between 0 and 1 have."""
    tones = np.floor(grey * 255 + 0.5)
    return len(np.unique(tones))


def is_inverted(ds: Any, notes: list[str]) -> bool:
    """Whether the lowest value is white: MONOCHROME1, or PresentationLUTShape INVERSE, which turns MONOCHROME2."""
    is_negative = ds.PhotometricInterpretation == "MONOCHROME1"
    shape = str(ds.get("PresentationLUTShape") or "").strip().upper()
    if shape == "INVERSE" and not is_negative:
        notes.append("inverted by PresentationLUTShape")
    return is_negative or shape == "INVERSE"


def modality(ds: Any, values: np.ndarray, notes: list[str]) -> np.ndarray:
    """What the device measured, (V,) float64, by its table or its slope and intercept. PS3.3 C.11.1."""
    from pydicom import Dataset
    from pydicom.pixels import apply_rescale

    items = ds.get("ModalityLUTSequence")
    if items:
        item = items[0]
        if item.get("LUTDescriptor") or item.get("LUTData"):
            return look_up(ds, item, values)
        notes.append("an empty modality LUT is left out")
    slope = first_number(ds.get("RescaleSlope"))
    if slope == 0:
        notes.append("RescaleSlope 0 is left out")
    rescale = Dataset()
    rescale.RescaleSlope = slope or 1.0
    rescale.RescaleIntercept = first_number(ds.get("RescaleIntercept")) or 0.0
    return apply_rescale(values, rescale).astype(np.float64)


def voi_lut(ds: Any, x: np.ndarray) -> Curve | None:
    """The first VOI LUT, scaled from its least to its greatest entry; None where there is none. PS3.3 C.11.2.1.1."""
    items = ds.get("VOILUTSequence")
    if not items:
        return None
    item = items[0]
    if not item.get("LUTDescriptor") or not item.get("LUTData"):
        return None
    entries = entries_of(ds, item)
    low, high = entries.min(), entries.max()
    if high == low:
        return None
    start = first_mapped(item)
    end = start + len(entries)
    grey = (look_up(ds, item, x) - low) / (high - low)
    return Curve(grey, (x >= start) & (x < end))


def voi_window(ds: Any, x: np.ndarray) -> Curve | None:
    """The first window; None where there is none, or an impossible one. PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    from pydicom import Dataset
    from pydicom.pixels import apply_windowing

    center = first_number(ds.get("WindowCenter"))
    width = first_number(ds.get("WindowWidth"))
    kind = str(ds.get("VOILUTFunction") or "LINEAR").strip().upper()
    if kind not in ("LINEAR_EXACT", "SIGMOID"):
        kind = "LINEAR"
    if center is None or width is None or width <= 0:
        return None
    # Its formula divides by width - 1.
    if kind == "LINEAR" and width < 1:
        return None
    # A header of its own: what pydicom makes of the window is then between 0 and TOP, whatever was rescaled before.
    header = Dataset()
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsStored = 16
    header.PixelRepresentation = 0
    header.WindowCenter = center
    header.WindowWidth = width
    header.VOILUTFunction = kind
    grey = apply_windowing(x, header) / TOP
    in_window = np.abs(x - center) <= width / 2
    return Curve(grey, in_window)


def first_number(value: Any) -> float | None:
    """The first number of an element with one, several or none."""
    try:
        if not isinstance(value, str | int | float):
            value = value[0]
        number = float(value)
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def entries_of(ds: Any, item: Any) -> np.ndarray:
    """The entries of a look-up table, float64."""
    count = int(descriptor(item)[0]) or 2**16
    data = item.get("LUTData")
    if data is None:
        raise UnreadableImageError("LUTData of a look-up table is missing")
    if isinstance(data, bytes):
        # Entries of 8 bits may be packed two to a word.
        order = "<" if ds.file_meta.TransferSyntaxUID.is_little_endian else ">"
        kind = f"{order}u2" if len(data) >= 2 * count else "u1"
        data = np.frombuffer(data, dtype=kind)
    entries = np.atleast_1d(np.asarray(data, dtype=np.float64))
    entries = entries[:count]
    if len(entries) < count:
        raise UnreadableImageError(f"a look-up table has {len(entries)} of its {count} entries")
    return entries


def descriptor(item: Any) -> Any:
    """(number of entries, first value that is mapped, bits of an entry) of a look-up table."""
    values = item.get("LUTDescriptor")
    if not values or len(values) != 3:
        raise UnreadableImageError("LUTDescriptor of a look-up table is missing, or has not 3 values")
    return values


def first_mapped(item: Any) -> int:
    return int(descriptor(item)[1])


def look_up(ds: Any, item: Any, x: np.ndarray) -> np.ndarray:
    """The entry of each value, (V,) float64; below or above the table its first or last one. PS3.3 C.11.1.1.1."""
    # x is float after a rescale; entries are of integers.
    entries = entries_of(ds, item)
    place = np.rint(x) - first_mapped(item)
    inside = place.clip(0, len(entries) - 1)
    return entries[inside.astype(np.intp)]


def percentiles(x: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The PERCENTILES of pixels of which `counts` (V,) have the value `x` (V,), as numpy.percentile of the pixels."""
    # Counts are looked at, not pixels: a picture has millions of these and few thousand values.
    order = np.argsort(x, kind="stable")
    ranks = counts[order].cumsum()
    last = ranks[-1] - 1
    low, high = (_ranked(x[order], ranks, percent / 100 * last) for percent in PERCENTILES)
    return low, high


def _ranked(x: np.ndarray, ranks: np.ndarray, rank: float) -> float:
    """The value of a rank, between two ranks by linear interpolation."""
    floor = np.floor(rank)
    below = x[np.searchsorted(ranks, floor, side="right")]
    above = x[np.searchsorted(ranks, np.ceil(rank), side="right")]
    return float(below + (above - below) * (rank - floor))
