"""Files of maps (.npz): where a model looks, one small map an image and source; written by roi/evidence.py, read by evaluate.py.

Letters: N images, C findings (1 where one map serves all), S sources, m x m the cells of a map, P x P the pixels of the input.
images (N,), classes (C,), sources (S,); per source map_<s> (N, C, m, m) float16, higher = more evidence, and, where there is
a mask, kept_<s> (N, C, P P / 8) uint8, its packed 0/1 pixels; side = P (0 without masks), keep_ratio, meta (JSON).
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from roi.arrays import read_arrays

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


def read_maps(path: str | Path, only: Collection[str] | None = None) -> Maps:
    """Read a file of maps, the images whose file name (without folders) is in `only` alone if given.

    ValueError: not such a file, an image twice, a map that is not finite.
    """
    data = read_arrays(path, ("images", "classes", "sources", "side", "keep_ratio", "meta"), WHAT)
    images, classes, sources, side = data["images"].tolist(), data["classes"].tolist(), data["sources"].tolist(), int(data["side"])
    shape = (len(images), len(classes))
    for name in [f"map_{s}" for s in sources] + [f"kept_{s}" for s in sources if f"kept_{s}" in data]:
        if name not in data or data[name].shape[:2] != shape or data[name].ndim != (4 if name.startswith("map_") else 3):
            found = data[name].shape if name in data else "nothing"
            raise ValueError(f"{path}: not a {WHAT}: {name} is {found} for {shape[0]} images and {shape[1]} maps each")
        if name.startswith("map_") and not np.isfinite(data[name]).all():
            raise ValueError(f"{path}: {name} of {images[int(np.argwhere(~np.isfinite(data[name]))[0][0])]!r} is not finite; write the file anew")
        if name.startswith("kept_") and data[name].shape[2] != -(-side * side // 8):
            raise ValueError(f"{path}: {name} holds {data[name].shape[2]} bytes an image, a mask of {side} x {side} pixels needs {-(-side * side // 8)}")
    if len(set(images)) < len(images):
        raise ValueError(f"{path}: lists {next(i for n, i in enumerate(images) if i in images[:n])!r} twice")
    rows = np.arange(len(images)) if only is None else np.array([n for n, image in enumerate(images) if PurePosixPath(image).name in only], dtype=np.int64)
    maps = {s: data[f"map_{s}"][rows].astype(np.float32) for s in sources}
    kept = {s: unpack(data[f"kept_{s}"][rows], side) for s in sources if f"kept_{s}" in data}
    try:
        meta = json.loads(str(data["meta"]))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a {WHAT}: its meta is no JSON ({error})") from error
    return Maps([images[n] for n in rows], classes, maps, kept, float(data["keep_ratio"]), meta)


def pack(mask: np.ndarray) -> np.ndarray:
    """(N, C, P, P) 0/1 -> (N, C, ceil(P P / 8)) uint8"""
    return np.packbits(mask.astype(bool).reshape(*mask.shape[:2], -1), axis=-1)


def unpack(bits: np.ndarray, side: int) -> np.ndarray:
    """(N, C, ceil(P P / 8)) -> (N, C, P, P) uint8 0/1"""
    return np.unpackbits(bits, axis=-1, count=side * side).reshape(*bits.shape[:2], side, side)
