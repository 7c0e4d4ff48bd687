"""Files of maps (.npz): where a model looks, one small map an image and source.

roi/inference/map_writers.py writes them, evaluate.py and the report read them.

Letters: N images, C findings (1 where one map serves all), S sources, m x m the cells of a map, P x P the pixels of the
input. A file holds images (N,), classes (C,), sources (S,); per source map_<s> (N, C, m, m) float16, higher = more
evidence, and, where there is a mask, kept_<s> (N, C, P P / 8) uint8, its packed 0/1 pixels; side = P (0 without masks),
keep_ratio, meta (JSON); contaminated (N,) bool, the images that were trained on (files of others may lack it).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi.data.table import AMBIGUOUS, match_images, unmatched
from roi.errors import UserError
from roi.scoring.npz_stream import is_contaminated, read_arrays, read_meta, scalar

KIND = "file of maps (infer_roi_consistency.py --save_masks or --cam)"
ARRAYS = ("images", "classes", "sources", "side", "keep_ratio", "meta")
# A source of the same name from a model with new weights: the check of Adebayo et al. (2018).
REINIT = "_reinit"


@dataclass
class Maps:
    images: list[str]
    classes: list[str]  # [""] where one map serves all findings
    maps: dict[str, np.ndarray]  # source -> (N, C, m, m) float32, higher = more evidence
    kept: dict[str, np.ndarray]  # source -> (N, C, P, P) uint8 0/1, for the sources that have a mask
    keep_ratio: float  # share of the pixels that a mask keeps
    meta: dict[str, Any]  # checkpoint, epoch, command, ...
    contaminated: bool | None = None  # trained on some of these images or their patients? None: nobody says

    @property
    def one_for_all(self) -> bool:
        """Whether one map serves all findings."""
        return self.classes == [""]


def read_maps(path: str | Path, images: Sequence[str] | None = None, wanted: np.ndarray | None = None) -> Maps:
    """Read a file of maps.

    Args:
        path: the file.
        images: (M,) names by which the caller knows its images: only their maps are read, under these names.
        wanted: (M,) bool, of which of them.

    Raises:
        UserError: not such a file, an image twice or of a name that may mean several of `images`, a map that is not
            finite.
    """
    data = read_arrays(path, ARRAYS, KIND)
    names = strings(data["images"])
    classes = strings(data["classes"])
    sources = strings(data["sources"])
    side = int(scalar(data, "side", path))
    masked = [source for source in sources if f"kept_{source}" in data]
    for source in sources:
        check_map(path, data, source, names, classes)
    for source in masked:
        check_mask(path, data, source, names, classes, side)
    listed = pd.Series(names)
    # Which of two maps of an image is meant, nobody could say.
    repeated = listed[listed.duplicated()]
    if len(repeated):
        raise UserError(f"{path}: lists {repeated.iloc[0]!r} twice")
    rows, place = match_maps(path, names, images, wanted)
    meta = read_meta(data["meta"], path, KIND)
    known = names if images is None else images
    return Maps(
        images=[known[n] for n in place],
        classes=classes,
        maps={source: data[f"map_{source}"][rows].astype(np.float32) for source in sources},
        kept={source: unpack(data[f"kept_{source}"][rows], side) for source in masked},
        keep_ratio=scalar(data, "keep_ratio", path),
        meta=meta,
        contaminated=is_contaminated(data, meta, rows, path),
    )


def strings(array: np.ndarray) -> list[str]:
    return np.atleast_1d(array).astype(str).tolist()


def check_map(path: str | Path, data: dict[str, np.ndarray], source: str, names: list[str], classes: list[str]) -> None:
    """UserError: the maps of a source are missing, not (N, C, m, m), or not finite."""
    name = f"map_{source}"
    check_shape(path, data, name, (len(names), len(classes)), 4)
    finite = np.isfinite(data[name])
    if not finite.all():
        first, *_ = np.argwhere(~finite)[0]
        raise UserError(f"{path}: {name} of {names[first]!r} is not finite; write the file anew")


def check_mask(
    path: str | Path,
    data: dict[str, np.ndarray],
    source: str,
    names: list[str],
    classes: list[str],
    side: int,
) -> None:
    """UserError: the masks of a source are not (N, C, bytes of side x side bits)."""
    name = f"kept_{source}"
    check_shape(path, data, name, (len(names), len(classes)), 3)
    size = data[name].shape[2]
    wanted = -(-side * side // 8)
    if size != wanted:
        raise UserError(f"{path}: {name} holds {size} bytes an image, a mask of {side} x {side} pixels needs {wanted}")


def check_shape(
    path: str | Path,
    data: dict[str, np.ndarray],
    name: str,
    begin: tuple[int, int],
    dimensions: int,
) -> None:
    array = data.get(name)
    if array is None or array.shape[:2] != begin or array.ndim != dimensions:
        shape = "nothing" if array is None else array.shape
        images, maps = begin
        raise UserError(f"{path}: not a {KIND}: {name} is {shape} for {images} images and {maps} maps each")


def match_maps(
    path: str | Path,
    names: list[str],
    images: Sequence[str] | None,
    wanted: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the file that are read, and their places among `images`; see read_maps."""
    if images is None:
        everywhere = np.arange(len(names))
        return everywhere, everywhere.copy()
    place = match_images(names, images)
    ambiguous = place == AMBIGUOUS
    if ambiguous.any():
        examples = unmatched(names, np.where(ambiguous, place, 0))
        raise UserError(f"{path}: its images cannot be told apart by their names: {examples}")
    inside = place >= 0
    # Maps are large: only those that are asked for are unpacked.
    if wanted is not None:
        asked = wanted[place[inside]]
        inside[inside] = asked
    return np.flatnonzero(inside), place[inside]


def agreed_ratio(sets: Sequence[Maps], keep_ratio: float) -> float:
    """The kept share that the files were made with; `keep_ratio` where no file says (0)."""
    ratios = sorted({float(maps.keep_ratio) for maps in sets if maps.keep_ratio > 0})
    if ratios and ratios[-1] - ratios[0] > 1e-6:
        listed = ", ".join(f"{ratio:g}" for ratio in ratios)
        raise UserError(
            f"the maps files keep different shares of the image ({listed}); make them with one --keep_ratio"
        )
    ratio = ratios[0] if ratios else keep_ratio
    if not 0 < ratio <= 1:
        raise UserError(f"keep_ratio {ratio:g}: choose a share above 0 and at most 1")
    return ratio


def pack(mask: np.ndarray) -> np.ndarray:
    """(N, C, P, P) 0/1 -> (N, C, ceil(P P / 8)) uint8"""
    images, maps = mask.shape[:2]
    pixels = mask.astype(bool).reshape(images, maps, -1)
    return np.packbits(pixels, axis=-1)


def unpack(bits: np.ndarray, side: int) -> np.ndarray:
    """(N, C, ceil(P P / 8)) -> (N, C, P, P) uint8 0/1"""
    images, maps = bits.shape[:2]
    pixels = np.unpackbits(bits, axis=-1, count=side * side)
    return pixels.reshape(images, maps, side, side)
