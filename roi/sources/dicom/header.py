"""The header of a DICOM file: what is read of it, what is refused, and what may be known of the file."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from roi.data.images import UnreadableImageError
from roi.errors import UserError

INSTALL = "pip install -r requirements-dicom.txt"
# Any other text of ViewPosition may be somebody's name.
VIEWS = ("PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LATERAL", "LAT")
# No other element is read: what is not read cannot leak, and cannot fail.
ELEMENT_NAMES = """
SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns
BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit
ModalityLUTSequence RescaleIntercept RescaleSlope
VOILUTSequence WindowCenter WindowWidth VOILUTFunction PresentationLUTShape
ViewPosition BurnedInAnnotation ExtendedOffsetTable ExtendedOffsetTableLengths PixelData
"""
ELEMENTS = ELEMENT_NAMES.split()


def needs_pydicom() -> None:
    """Raises UserError where it is not installed."""
    if find_spec("pydicom") is None:
        raise UserError(f"reading DICOM needs the package pydicom: {INSTALL}")


@contextmanager
def silent_pydicom() -> Iterator[None]:
    """Its warnings quote the header; they belong in no log."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def read_elements(path: str | Path, pixels: bool) -> Any:
    """The elements of ELEMENTS as a pydicom Dataset; the pixels only if `pixels`."""
    import pydicom

    try:
        return pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=ELEMENTS)
    except pydicom.errors.InvalidDicomError as error:
        raise UnreadableImageError("not a DICOM file (no DICM mark after its first 128 bytes)") from error


def check_header(ds: Any, sides: tuple[int, int], allow_burned_in: bool) -> None:
    """Refuses what is not one grey or colour picture of a sensible size, before a pixel of it is decoded.

    Args:
        ds: the header.
        sides: shortest and longest side, px.
        allow_burned_in: takes pictures whose header says that text is burnt in.

    Raises:
        UnreadableImageError: says why.
    """
    _check_size(ds, sides)
    if ds.get("NumberOfFrames") and integer(ds, "NumberOfFrames") != 1:
        raise UnreadableImageError(f"{ds.NumberOfFrames} frames; an X-ray has one")
    kind = str(required(ds, "PhotometricInterpretation"))
    samples = integer(ds, "SamplesPerPixel")
    is_grey = samples == 1 and kind in ("MONOCHROME1", "MONOCHROME2")
    is_colour = samples == 3 and kind.startswith(("RGB", "YBR_"))
    if not is_grey and not is_colour:
        raise UnreadableImageError(
            f"pictures with {samples} samples a pixel of this kind are not read "
            "(only MONOCHROME1, MONOCHROME2, RGB, YBR)"
        )
    allocated = integer(ds, "BitsAllocated")
    stored = integer(ds, "BitsStored")
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise UnreadableImageError(f"{stored} bits stored in {allocated}: only up to 8 in 8 or 16 in 16 are read")
    if integer(ds, "PixelRepresentation") not in (0, 1):
        raise UnreadableImageError(
            f"PixelRepresentation is {ds.PixelRepresentation}: neither 0, unsigned, nor 1, signed"
        )
    if burned_in(ds) == "YES" and not allow_burned_in:
        raise UnreadableImageError(
            "its header says that text is burnt into the picture (--allow_burned_in takes it all the same)"
        )


def _check_size(ds: Any, sides: tuple[int, int]) -> None:
    if "Rows" not in ds or "Columns" not in ds:
        raise UnreadableImageError("holds no picture (no Rows and Columns)")
    rows = integer(ds, "Rows")
    columns = integer(ds, "Columns")
    shortest, longest = sides
    if min(rows, columns) < shortest:
        raise UnreadableImageError(f"{columns} x {rows} px: a side is shorter than {shortest} px (--min_side)")
    if max(rows, columns) > longest:
        raise UnreadableImageError(f"{columns} x {rows} px: a side is longer than {longest} px (--max_side)")


def required(ds: Any, name: str) -> Any:
    """The value of an element; UnreadableImageError where it has none."""
    value = ds.get(name)
    if value is None or value == "":
        raise UnreadableImageError(f"{name} is missing")
    return value


def integer(ds: Any, name: str) -> int:
    """The value of an element; UnreadableImageError where it has none, or one that is no integer."""
    value = required(ds, name)
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise UnreadableImageError(f"{name} is no integer") from error


def burned_in(ds: Any) -> str:
    """Whether text is burnt into the picture: YES, NO, or "" where the header does not say."""
    answer = str(ds.get("BurnedInAnnotation", "")).strip().upper()
    return answer if answer in ("YES", "NO") else ""


def describe_view(ds: Any) -> str:
    """The view as the header has it, 'other' where that is none of VIEWS, "" where it says none."""
    view = str(ds.get("ViewPosition") or "").strip().upper()
    return view if view in ("", *VIEWS) else "other"


def describe(ds: Any) -> dict[str, Any]:
    """What may be known of a file: nothing that tells whose it is."""
    return {
        "rows": int(ds.Rows),
        "columns": int(ds.Columns),
        "photometric": str(ds.PhotometricInterpretation),
        "view": describe_view(ds),
        "bits_stored": int(ds.BitsStored),
        "burned_in": burned_in(ds),
    }
