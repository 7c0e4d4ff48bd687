"""Files of maps (.npz): where a model looks, one small map an image and source; written by roi/inference/map_writers.py, read by evaluate.py.

Letters: N images, C findings (1 where one map serves all), S sources, m x m the cells of a map, P x P the pixels of the input.
images (N,), classes (C,), sources (S,); per source map_<s> (N, C, m, m) float16, higher = more evidence, and, where there is
a mask, kept_<s> (N, C, P P / 8) uint8, its packed 0/1 pixels; side = P (0 without masks), keep_ratio, meta (JSON);
contaminated (N,) bool, the images that were trained on (files of others may lack it).
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

WHAT = "file of maps (infer_roi_consistency.py --save_masks or --cam)"
REINIT = "_reinit"  # a source of the same name from a model with new weights: the check of Adebayo et al. (2018)


@dataclass
class Maps:
    images: list[str]
    classes: list[str]  # [""] where one map serves all findings
    maps: dict[str, np.ndarray]  # source -> (N, C, m, m) float32, higher = more evidence
    kept: dict[str, np.ndarray]  # source -> (N, C, P, P) uint8 0/1, for the sources that have a mask
    keep_ratio: float  # share of the pixels that a mask keeps
    meta: dict[str, Any]  # checkpoint, epoch, command, ...
    contaminated: bool | None = (
        None  # was the checkpoint trained on some of these images or their patients? None: nobody says
    )


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
    data = read_arrays(path, ("images", "classes", "sources", "side", "keep_ratio", "meta"), WHAT)
    names, classes, sources = (
        np.atleast_1d(data[key]).astype(str).tolist() for key in ("images", "classes", "sources")
    )
    side = int(scalar(data, "side", path))
    shape = (len(names), len(classes))
    for name in [f"map_{s}" for s in sources] + [f"kept_{s}" for s in sources if f"kept_{s}" in data]:
        if (
            name not in data
            or data[name].shape[:2] != shape
            or data[name].ndim != (4 if name.startswith("map_") else 3)
        ):
            found = data[name].shape if name in data else "nothing"
            raise UserError(f"{path}: not a {WHAT}: {name} is {found} for {shape[0]} images and {shape[1]} maps each")
        if name.startswith("map_") and not np.isfinite(data[name]).all():
            raise UserError(
                f"{path}: {name} of {names[int(np.argwhere(~np.isfinite(data[name]))[0][0])]!r} is not finite; "
                "write the file anew"
            )
        if name.startswith("kept_") and data[name].shape[2] != -(-side * side // 8):
            raise UserError(
                f"{path}: {name} holds {data[name].shape[2]} bytes an image, a mask of {side} x {side} pixels needs {-(-side * side // 8)}"
            )
    twice = pd.Series(names)[pd.Series(names).duplicated().to_numpy()]
    if len(twice):
        raise UserError(f"{path}: lists {twice.iloc[0]!r} twice")
    rows, place = chosen(path, names, images, wanted)
    maps = {s: data[f"map_{s}"][rows].astype(np.float32) for s in sources}
    kept = {s: unpack(data[f"kept_{s}"][rows], side) for s in sources if f"kept_{s}" in data}
    meta = read_meta(data["meta"], path, WHAT)
    known = names if images is None else images
    marked = is_contaminated(data, meta, rows, path)
    return Maps([known[n] for n in place], classes, maps, kept, scalar(data, "keep_ratio", path), meta, marked)


def chosen(
    path: str | Path, names: list[str], images: Sequence[str] | None, wanted: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """-> rows of the file that are read, and their places among `images`."""
    if images is None:
        return np.arange(len(names)), np.arange(len(names))
    place = match_images(names, images)
    if (place == AMBIGUOUS).any():
        raise UserError(
            f"{path}: its images cannot be told apart by their names: "
            f"{unmatched(names, np.where(place == AMBIGUOUS, place, 0))}"
        )
    inside = place >= 0
    if wanted is not None:
        inside[inside] = wanted[place[inside]]
    return np.flatnonzero(inside), place[inside]


def pack(mask: np.ndarray) -> np.ndarray:
    """(N, C, P, P) 0/1 -> (N, C, ceil(P P / 8)) uint8"""
    return np.packbits(mask.astype(bool).reshape(*mask.shape[:2], -1), axis=-1)


def unpack(bits: np.ndarray, side: int) -> np.ndarray:
    """(N, C, ceil(P P / 8)) -> (N, C, P, P) uint8 0/1"""
    return np.unpackbits(bits, axis=-1, count=side * side).reshape(*bits.shape[:2], side, side)
