"""--order: whether rows are shuffled one by one or in blocks, and whether they are read ahead."""

from typing import NamedTuple

import numpy as np

from roi import distributed
from roi.data.order.blocks import Blocks, blocks_of
from roi.data.order.memory import SHARE, holds, usable_memory


class Order(NamedTuple):
    """How the rows of a training are shuffled and read."""

    blocks: Blocks | None  # None: any row anywhere
    reads_ahead: bool
    why: str  # a line for the console


def choose_order(choice: str, places: np.ndarray, row_bytes: int, on_device: bool) -> Order:
    """What --order means for rows on a disk, in all processes alike.

    Args:
        choice: auto, random or blocks.
        places: (N,) where the rows lie in the cache; -1 where there is none.
        row_bytes: of the images of a row.
        on_device: all pixels have a place in the memory of the device, whatever the host has.
    """
    size = int((places >= 0).sum()) * row_bytes
    memory = usable_memory()
    fits = on_device or holds(memory, size)
    # A process may lie on a smaller machine, or see more pages of files.
    fits = all(distributed.all_gather_objects(fits))
    blocks = None
    if choice == "blocks" or (choice == "auto" and not fits):
        own = None
        if distributed.rank() == 0:
            own = blocks_of(places, row_bytes)
        # Of one process: the caches of several machines may lie in other orders.
        blocks = distributed.all_gather_objects(own)[0]
    how = "random"
    if blocks is not None:
        together = blocks.rows * blocks.window
        how = f"blocks of {blocks.rows:,}, shuffled {together:,} at a time"
    reason = "" if choice == "auto" else f" (--order {choice})"
    said = f"order: {how}{reason}"
    held = f"the pixels, {size / 1e9:,.2f} GB,"
    if on_device:
        return Order(blocks, False, f"{said}; {held} lie on the device")
    if memory is None:
        return Order(blocks, False, f"{said}; nobody says how much memory may be used")
    verb = "fit into" if fits else "do not fit into"
    usable = f"{memory.bytes / 1e9:,.2f} GB of memory that may be used ({memory.source})"
    ahead = "" if fits else "; they are read ahead"
    return Order(blocks, not fits, f"{said}; {held} {verb} {SHARE:.0%} of the {usable}{ahead}")
