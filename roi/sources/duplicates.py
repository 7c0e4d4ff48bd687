"""The same picture under two names: found by a perceptual hash, so that none stands in training and test at once.

Letters: N images.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain, combinations_with_replacement, compress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi.data.images import UnreadableImageError, read_grey
from roi.errors import UserError
from roi.process_pool import in_order
from roi.progress import progress

# Pixels a side of the picture that is hashed, and frequencies a side: a hash has 256 bits.
SIDE, LOW = 64, 16
# Bits. Copies that were resized (to 28 px even), re-encoded or brightened differ by up to 10, two of 3,219 X-rays of
# NIH by at least 42.
NEAR = 10
# Two hashes that differ in at most NEAR bits agree in at least one of so many bands.
BANDS = NEAR + 1
CHUNK = 64  # pictures that a worker reads at a time
BLOCK = 1024  # rows of a bucket that are compared at once
BITS_OF_BYTE = np.array([n.bit_count() for n in range(256)], dtype=np.uint8)
PICTURES = (".png", ".jpg", ".jpeg")
ELSEWHERE = "elsewhere"  # the data set of pictures that are none of the table's


def phash(pixels: np.ndarray) -> np.ndarray:
    """Perceptual hash (pHash, Zauner 2010, of 16 x 16 frequencies instead of 8 x 8).

    Args:
        pixels: (64, 64).

    Returns:
        (256,) bool: which of the lowest frequencies lie above their median.
    """
    # Half a second to load, for which tables without --check_duplicates should not wait.
    from scipy.fft import dctn

    frequencies = dctn(pixels.astype(np.float32), norm="ortho")
    # Fine detail goes: it is what resizing and compression change.
    low = frequencies[:LOW, :LOW]
    return (low > np.median(low)).ravel()


def hash_image(path: str) -> np.ndarray | None:
    """(32,) uint8, the bits of phash; None where the image cannot be read."""
    try:
        bits = phash(read_grey(path, SIDE))
        return np.packbits(bits)
    except UnreadableImageError:
        return None


def hash_images(paths: list[str]) -> list[np.ndarray | None]:
    """A worker's task: many images, because each result crosses a pipe."""
    return [hash_image(path) for path in paths]


def near_pairs(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of pictures whose hashes differ in at most NEAR bits.

    Args:
        hashes: (N, 32) uint8.

    Returns:
        Rows i and j of all pairs, i < j, in order.
    """
    bits = np.unpackbits(hashes, axis=1)  # (N, 256)
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for band in range(BANDS):
        keys = np.packbits(bits[:, band::BANDS], axis=1)
        # Only pictures that agree in a band can be near: comparing all with all grows with the square of N.
        for bucket in _equal_rows(keys):
            # In blocks, because many pictures may agree in a band: black ones, say.
            for a, b in combinations_with_replacement(_chunks(bucket, BLOCK), 2):
                pairs.append(_near_in_blocks(hashes, a, b))
    unique = np.unique(np.concatenate(pairs), axis=0)
    return unique[:, 0], unique[:, 1]


def _equal_rows(keys: np.ndarray) -> Iterator[np.ndarray]:
    """(N, B) bytes -> the numbers of the rows that are equal, where there are several."""
    order = np.lexsort(keys.T)
    ordered = keys[order]
    is_other = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.flatnonzero(is_other) + 1
    for rows in np.split(order, starts):
        if len(rows) > 1:
            yield rows


def _near_in_blocks(hashes: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(pairs, 2) rows, one of `a` and one of `b`, that are near."""
    rows, columns = hashes[a], hashes[b]
    differing = rows[:, None] ^ columns[None]  # (A, B, 32)
    distance = BITS_OF_BYTE[differing].sum(axis=2, dtype=np.int32)
    x, y = np.nonzero(distance <= NEAR)
    pairs = np.stack([a[x], b[y]], axis=1)
    # A block that is compared with itself has each picture beside itself.
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return np.sort(pairs, axis=1)


def duplicate_groups(hashes: np.ndarray) -> np.ndarray:
    """(N, 32) uint8 -> (N,) number of the group of equal pictures; a picture that is alone has a number of its own."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    images, pairs = len(hashes), near_pairs(hashes)
    is_near = np.ones(len(pairs[0]))
    graph = coo_matrix((is_near, pairs), shape=(images, images))
    _, group = connected_components(graph, directed=False)
    return group


def drop_duplicates(
    table: pd.DataFrame, data_root: Path, others: Sequence[Path], workers: int, rank: dict[str, int]
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """Leave pictures that stand in several splits in the strictest of them alone.

    Copies within one split stay, and are listed.

    Args:
        table: its rows have a split each.
        data_root: `image` is a path below it.
        others: folders of pictures that are tested on elsewhere: their copies leave train and val.
        workers: processes.
        rank: number of each split, the strictest highest.

    Returns:
        The table, counts, and a row for each picture that has a copy, with the number of its group.
    """
    pictures = _pictures_in(others)
    paths = [str(data_root / image) for image in table["image"]]
    paths += pictures
    hashes, readable = _hash_all(paths, workers)
    columns = {"image": pictures, "dataset": ELSEWHERE, "patient_id": "", "split": "test"}
    elsewhere = pd.DataFrame(columns)
    # The rows of the table come first, so that they keep their numbers.
    all_pictures = pd.concat([table[list(elsewhere)], elsewhere], ignore_index=True)
    all_pictures = all_pictures[readable].assign(group=duplicate_groups(hashes))
    copies = all_pictures[all_pictures["group"].duplicated(keep=False)].copy()
    ranks = copies["split"].map(rank)
    strictest = ranks.groupby(copies["group"]).transform("max")
    copies["left_out"] = ranks < strictest
    # Pictures from elsewhere are listed, but stand in no row of the table.
    is_dropped = copies["left_out"] & (copies["dataset"] != ELSEWHERE)
    dropped = copies.index[is_dropped]
    datasets = copies.groupby("group")["dataset"].transform("nunique")
    counts = {
        "pictures_with_a_copy": len(copies),
        "in_several_data_sets": int((datasets > 1).sum()),
        "left_out_of_a_laxer_split": len(dropped),
        "unreadable": int((~readable).sum()),
    }
    kept = table.drop(table.index[dropped]).reset_index(drop=True)
    return kept, counts, copies.sort_values(["group", "image"])


def _pictures_in(folders: Sequence[Path]) -> list[str]:
    """Paths of all pictures below the folders; UserError for a folder without one."""
    pictures: list[str] = []
    for folder in folders:
        files = sorted(folder.rglob("*"))
        paths = [str(path) for path in files if path.suffix.lower() in PICTURES]
        if not paths:
            kinds = ", ".join(PICTURES)
            raise UserError(f"{folder}: no picture is there ({kinds}); --check_duplicates takes folders of images")
        pictures += paths
    return pictures


def _hash_all(paths: list[str], workers: int) -> tuple[np.ndarray, np.ndarray]:
    """(readable images, 32) uint8 hashes, and (images,) bool which of the images can be read."""
    with closing(in_order(hash_images, _chunks(paths, CHUNK), workers)) as ready:
        results = list(progress(chain.from_iterable(ready), len(paths), "comparing pictures"))
    readable = np.array([result is not None for result in results])
    hashes = np.stack(list(compress(results, readable)))
    return hashes, readable


def _chunks(values: Any, size: int) -> list[Any]:
    """A list or an array in parts of `size`, the last one shorter."""
    starts = range(0, len(values), size)
    return [values[start : start + size] for start in starts]
