"""An order of the rows of an epoch that reads a cache larger than the memory in long pieces.

In an order that is drawn from all rows each row is a read of its own. Here blocks of neighbours on the disk are
shuffled, and then the rows inside of windows of many blocks: a window is read block by block while the one before it
is trained on.

Neighbours may be of one patient or class. What a window has of a class deviates from what all rows have as that of a
batch of WINDOW images drawn at random does, even if each block were of one class: with 256 blocks by 3 % where half of
the images have it, a third of what batches of 32 do in any order.

Letters: N rows of the table, n rows of an epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

BLOCK_BYTES = 1 << 19  # 10 images at 224 px; few disks are faster with longer reads
WINDOW = 256  # blocks: two windows, the one that is read and the one that is trained on, are 256 MB


@dataclass(frozen=True, eq=False)
class Blocks:
    """How an epoch is cut. A checkpoint holds it: a cache that was made anew may lie in another order."""

    layout: np.ndarray  # (N,) int32, the place of each row among all of them, as they lie on the disk
    rows: int  # of a block
    window: int  # blocks of a window, at least

    def shuffled(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Shuffle the rows of an epoch; one that it has had k times already is row + k * N.

        Returns:
            (n,) the rows, and where their windows end
        """
        times_before, images = np.divmod(rows, len(self.layout))
        # What comes again lies in blocks of its own: it comes at any time of the epoch, not beside its first time.
        place = self.layout[images]
        in_place = rows[np.lexsort((place, times_before))]
        # Drawn, so that blocks begin at other rows in each epoch.
        offset = rng.integers(self.rows)
        shifted = np.arange(len(rows)) + offset
        block = shifted // self.rows
        blocks = int(block.max(initial=0)) + 1
        # No window is smaller than the others, as one of a single block at the end of the epoch would be.
        windows = max(1, blocks // self.window)
        window_of_block = rng.permutation(blocks) * windows // blocks
        window = window_of_block[block]
        luck = rng.random(len(rows))
        order = np.lexsort((luck, window))
        ends = np.bincount(window, minlength=windows).cumsum()
        return in_place[order], ends

    def state_dict(self) -> dict[str, Any]:
        layout = torch.from_numpy(self.layout)
        return {"layout": layout, "rows": self.rows, "window": self.window}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Blocks":
        return cls(state["layout"].numpy(), state["rows"], state["window"])


def kept_order(chosen: Blocks | None, state: Mapping[str, Any] | None) -> Blocks | None:
    """The order that a run began with, of its checkpoint, in the place of the one that would be chosen today."""
    kept = None if state is None else Blocks.from_state(state)
    if (kept is None) != (chosen is None):
        print(f"order: {'random' if kept is None else 'blocks'}, as this run began")
    return kept


def blocks_of(places: np.ndarray, row_bytes: int) -> Blocks:
    """Blocks of rows of so many bytes.

    Args:
        places: (N,) the row of the cache; -1 where there is none.
    """
    # A row without pixels keeps to its neighbour in the table; together they would be a block that has none.
    known = pd.Series(places).where(places >= 0)
    neighbours = known.ffill().fillna(-1).to_numpy()
    layout = np.empty(len(places), dtype=np.int32)
    layout[neighbours.argsort(kind="stable")] = np.arange(len(places))
    return Blocks(layout, max(1, BLOCK_BYTES // row_bytes), WINDOW)
