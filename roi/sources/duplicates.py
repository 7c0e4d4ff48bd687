"""The same picture under two names: found by a perceptual hash, so that none stands in training and test at once.

Letters: N images.
"""

from collections.abc import Sequence
from contextlib import closing
from itertools import chain, combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from roi.data.images import UnreadableImage, read_grey
from roi.errors import UserError
from roi.process_pool import in_order
from roi.progress import progress

SIDE, LOW = 64, 16  # pixels of the picture that is hashed; frequencies a side, so a hash has 256 bits
NEAR = 10  # bits: copies that were resized (to 28 px even), re-encoded or brightened differ by up to 10, two of 3,219 X-rays of NIH by at least 42
BANDS = NEAR + 1  # two hashes that differ in at most NEAR bits agree in at least one band
CHUNK = 64  # pictures that a worker reads at a time
BLOCK = 1024  # rows of a bucket that are compared at once
ONES = np.array([n.bit_count() for n in range(256)], dtype=np.uint8)  # of each byte
PICTURES = (".png", ".jpg", ".jpeg")


def phash(pixels: np.ndarray) -> np.ndarray:
    """(64, 64) -> (256,) bool: which of the lowest frequencies lie above their median (pHash, Zauner 2010, of 16 x 16 instead of 8 x 8)."""
    low = dctn(pixels.astype(np.float32), norm="ortho")[:LOW, :LOW]
    return (low > np.median(low)).ravel()


def hashed(path: str) -> np.ndarray | None:
    """-> (32,) uint8, the bits of phash; None where the image cannot be read."""
    try:
        return np.packbits(phash(read_grey(path, SIDE)))
    except UnreadableImage:
        return None


def hashed_chunk(paths: list[str]) -> list[np.ndarray | None]:
    """A worker's task."""
    return [hashed(path) for path in paths]


def near_pairs(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 32) uint8 -> (i, j), i < j, of all pairs that differ in at most NEAR bits. Compares what agrees in a band, not all with all."""
    bits = np.unpackbits(hashes, axis=1)  # (N, 256)
    found = []
    for band in range(BANDS):
        key = np.packbits(bits[:, band::BANDS], axis=1)
        order = np.lexsort(key.T)
        ends = np.flatnonzero((key[order][1:] != key[order][:-1]).any(axis=1)) + 1
        for bucket in np.split(order, ends):
            blocks = [bucket[first : first + BLOCK] for first in range(0, len(bucket) if len(bucket) > 1 else 0, BLOCK)]
            for a, b in combinations_with_replacement(blocks, 2):
                x, y = np.nonzero(ONES[hashes[a][:, None] ^ hashes[b][None]].sum(axis=2, dtype=np.int32) <= NEAR)
                found.append(np.sort(np.stack([a[x], b[y]], axis=1), axis=1)[a[x] != b[y]])
    pairs = np.unique(np.concatenate([np.zeros((0, 2), dtype=np.int64), *found]), axis=0)
    return pairs[:, 0], pairs[:, 1]


def groups(hashes: np.ndarray) -> np.ndarray:
    """(N, 32) uint8 -> (N,) number of the group of equal pictures; a picture that is alone has a number of its own."""
    i, j = near_pairs(hashes)
    graph = coo_matrix((np.ones(len(i)), (i, j)), shape=(len(hashes),) * 2)
    return connected_components(graph, directed=False)[1]


def without_duplicates(
    table: pd.DataFrame, data_root: Path, others: Sequence[Path], workers: int, rank: dict[str, int]
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """Pictures that stand in several splits stay in the strictest (`rank`: the highest) alone -> (table, counts, every group of equal pictures).

    Pictures of `others`, folders that are tested on elsewhere, count as tests: their copies leave train and val. Copies within one split stay, and are listed.
    """
    foreign = [str(path) for folder in others for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURES]
    for folder in others:
        if not any(Path(path).is_relative_to(folder) for path in foreign):
            raise UserError(
                f"{folder}: no picture is there ({', '.join(PICTURES)}); --check_duplicates takes folders of images"
            )
    paths = [str(data_root / image) for image in table["image"]] + foreign
    chunks = [paths[k : k + CHUNK] for k in range(0, len(paths), CHUNK)]
    with closing(in_order(hashed_chunk, chunks, workers)) as ready:
        found = list(progress(chain.from_iterable(ready), len(paths), "comparing pictures"))
    read = np.array([h is not None for h in found])
    elsewhere = pd.DataFrame({"image": foreign, "dataset": "elsewhere", "patient_id": "", "split": "test"})
    every = pd.concat(
        [table[["image", "dataset", "patient_id", "split"]], elsewhere], ignore_index=True
    )  # the rows of the table first
    every = every[read].assign(group=groups(np.stack([h for h in found if h is not None])))
    every = every[every["group"].duplicated(keep=False)]
    strictest = every["split"].map(rank).groupby(every["group"]).transform("max")
    every["left_out"] = every["split"].map(rank) < strictest
    dropped = every.index[every["left_out"] & (every["dataset"] != "elsewhere")]
    counts = {
        "pictures_with_a_copy": len(every),
        "in_several_data_sets": int((every.groupby("group")["dataset"].transform("nunique") > 1).sum()),
        "left_out_of_a_laxer_split": len(dropped),
        "unreadable": int((~read).sum()),
    }
    return table.drop(table.index[dropped]).reset_index(drop=True), counts, every.sort_values(["group", "image"])
