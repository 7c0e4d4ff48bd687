"""X-rays in DICOM as grey pictures, without a word of their header.

    pixels, facts = read_dicom("00f3.dicom", window="voi", bits=8)

The stages are those of PS3.3 C.11 and C.7.6.3, in their order: stored value -> modality LUT, or slope and intercept ->
VOI LUT, window, or percentiles -> MONOCHROME1 inverted -> full range of the bits, padding black. They are computed for
each value that may be stored, not for each pixel, and then looked up.

Letters: H x W pixels; V values from the lowest to the highest that the file stores (at most 65,536).
"""

from pathlib import Path
from typing import Any

import numpy as np

from roi.choices import SIDES, WINDOWS
from roi.data.images import UnreadableImageError
from roi.errors import UserError
from roi.files import reason
from roi.sources.dicom.grey import shade
from roi.sources.dicom.header import check_header, describe, needs_pydicom, read_elements, silent_pydicom
from roi.sources.dicom.stored_values import declared_padding, decode, undeclared_padding

TINY = 1e-6  # of a grey level: a half rounds up whatever rounding errors it has


def read_dicom(
    path: str | Path,
    window: str = "voi",
    bits: int = 8,
    sides: tuple[int, int] = SIDES,
    allow_burned_in: bool = False,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Reads a picture; of colour the luminance. An image of one value is all zero.

    Args:
        path: of the DICOM file.
        window: "voi", what the file says (VOI LUT, else its first window; percentiles where it says nothing or
            nonsense, or a window that leaves few grey levels or misses nearly all pixels), or "percentile": always from
            the 0.5th to the 99.5th of the pixels that are not padding.
        bits: 8 or 16, of a pixel.
        sides: shortest and longest side (px) that is decoded.
        allow_burned_in: takes pictures whose header says that text is burnt in.

    Returns:
        ((H, W) uint8 or uint16 in the full range of `bits`, bright is dense; facts about the file, none about the
        patient). What was not as the header has it stands under `note` of the facts.

    Raises:
        UserError: pydicom is not installed, or no such window or depth.
        UnreadableImageError: begins with the path; everything that is wrong with the file.
    """
    if window not in WINDOWS or bits not in (8, 16):
        raise UserError(f"window {window!r}, {bits} bits: choose one of {', '.join(WINDOWS)}, and 8 or 16")
    needs_pydicom()
    try:
        with silent_pydicom():
            # The header first: a picture that is refused costs no memory.
            header = read_elements(path, pixels=False)
            check_header(header, sides, allow_burned_in)
            facts = describe(header)
            pixels, more_facts = _picture(read_elements(path, pixels=True), window, bits)
            return pixels, facts | more_facts
    except MemoryError:
        raise
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{path}: {error}") from error
    except OSError as error:
        raise UnreadableImageError(f"{path}: {error.strerror or reason(error)}") from error
    except Exception as error:  # pydicom and its decoders raise whatever they like on a broken file
        raise UnreadableImageError(f"{path}: cannot be read as DICOM ({_in_words(error)})") from error


def _picture(ds: Any, window: str, bits: int) -> tuple[np.ndarray, dict[str, str]]:
    """The grey picture, (H, W), and how it was made."""
    notes: list[str] = []
    place = decode(ds, notes).astype(np.intp)
    # From here on each value is looked at once, however many pixels have it.
    low = int(place.min())
    place -= low
    counts = np.bincount(place.ravel())  # (V,)
    values = np.arange(low, low + len(counts))
    declared = declared_padding(ds, values)
    padding = declared | undeclared_padding(place, counts, declared, low, notes)
    grey, shown_by = shade(ds, values, np.where(padding, 0, counts), window, notes)
    levels = np.floor(grey * (2**bits - 1) + 0.5 + TINY)
    table = levels.astype(f"uint{bits}")
    table[padding] = 0
    return table[place], {"shown_by": shown_by, "note": "; ".join(notes)}


def _in_words(error: Exception) -> str:
    """What an error of pydicom means to somebody who has the file and not the program."""
    name = getattr(error, "name", None)
    if isinstance(error, AttributeError) and name:
        return f"{name} is missing"
    # What these say is a key or an index and no sentence.
    if isinstance(error, KeyError | IndexError | TypeError):
        return f"{type(error).__name__}: {reason(error)}"
    return reason(error)
