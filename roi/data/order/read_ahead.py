"""Rows of a mapped file are read before they are asked for.

A page of a mapped file that is not in the memory makes its reader wait, for one page after the other. Here the system
is told which rows come next, and reads them meanwhile, in the order in which they lie on the disk.
"""

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
# Bytes asked for at once: Linux reads no more of a request than the readahead of the disk, which is this by default.
REQUEST = 1 << 17
CHUNK_BYTES = 32 << 20  # of what is read ahead in an order that has no windows


class MappedRows(NamedTuple):
    """A file of rows of one length."""

    file: int  # open for reading
    begin: int  # of the first row, in bytes
    row_bytes: int

    def will_need(self, first: int, end: int) -> None:
        """Have rows read; this does not wait for them."""
        position = self.begin + first * self.row_bytes
        last = self.begin + end * self.row_bytes
        # Not mmap.madvise, which keeps all other threads of Python waiting.
        for start in range(position, last, REQUEST):
            os.posix_fadvise(self.file, start, min(REQUEST, last - start), os.POSIX_FADV_WILLNEED)


@contextmanager
def opened_rows(array: np.ndarray) -> Iterator[MappedRows | None]:
    """The file below an array; None where it is not mapped, or the system cannot be told (macOS)."""
    if not isinstance(array, np.memmap) or not hasattr(os, "posix_fadvise"):
        yield None
        return
    assert array.filename is not None
    file = os.open(array.filename, os.O_RDONLY)
    # What is read before it is asked for is known here: with a page that is missed the system would read megabytes
    # around it, as it does in a file that is read from the beginning to the end, and push out what is needed.
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_RANDOM)
    try:
        yield MappedRows(file, array.offset, array[0].nbytes)
    finally:
        os.close(file)


def runs_of(rows: np.ndarray) -> list[tuple[int, int]]:
    """First and end of each run of neighbours among some rows, in the order in which they lie."""
    rows = np.unique(rows[rows >= 0])
    if not len(rows):
        return []
    gaps = np.flatnonzero(np.diff(rows) > 1)
    firsts = rows[np.append(0, gaps + 1)]
    ends = rows[np.append(gaps, len(rows) - 1)] + 1
    return list(zip(firsts.tolist(), ends.tolist(), strict=True))


def read_ahead(
    batches: Iterable[T],
    rows_of: Callable[[T], np.ndarray],
    lengths: Iterable[int],
    arrays: Sequence[np.ndarray],
) -> Iterator[T]:
    """The batches, while the rows of `arrays` that the next chunk of them needs are read bit by bit.

    Args:
        rows_of: the rows that a batch needs; negative ones are left out.
        lengths: batches of each chunk.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(opened_rows(array)) for array in arrays]
        files = [file for file in opened if file is not None]
        remaining = iter(batches)
        chunks = (list(islice(remaining, length)) for length in lengths)
        current = next(chunks, [])
        will_need(files, _runs_of_chunk(current, rows_of))
        while current:
            following = next(chunks, [])
            runs = _runs_of_chunk(following, rows_of)
            done = 0
            for n, batch in enumerate(current, 1):
                # Evenly: all at once would push out what is needed before it.
                until = len(runs) * n // len(current)
                will_need(files, runs[done:until])
                done = until
                yield batch
            current = following


def will_need(files: Sequence[MappedRows], runs: Sequence[tuple[int, int]]) -> None:
    for file in files:
        for first, end in runs:
            file.will_need(first, end)


def _runs_of_chunk(chunk: Sequence[T], rows_of: Callable[[T], np.ndarray]) -> list[tuple[int, int]]:
    rows = [rows_of(batch) for batch in chunk]
    return runs_of(np.concatenate(rows)) if rows else []
