"""Which of several processes this one is, and what they tell each other, without torch.

Predictions and maps are written and read by what should not wait for torch.

torchrun says in the environment who is who (RANK, LOCAL_RANK, WORLD_SIZE); roi/distributed.py gives the group through
which they talk. In one process nothing here waits for anything.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from roi.files import beside

T = TypeVar("T")


class Group(Protocol):
    """The channel between processes that have joined."""

    def all_gather_objects(self, thing: Any) -> list[Any]: ...

    def barrier(self) -> None: ...


_group: Group | None = None


def set_group(group: Group | None) -> None:
    """Let the processes talk through `group` from now on."""
    global _group
    _group = group


def joined() -> Group:
    assert _group is not None, "several processes, and none has joined: see processes() of roi/distributed.py"
    return _group


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def all_gather_objects(thing: T) -> list[T]:
    """What each process has, in their order, on all of them; for small things, as they travel pickled."""
    if world() == 1:
        return [thing]
    return joined().all_gather_objects(thing)


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        joined().barrier()


@contextmanager
def one_a_machine_first() -> Iterator[None]:
    """A block that the first process of each machine goes through before its others: it makes what all of them read."""
    if local_rank() == 0:
        yield
        barrier()
    else:
        barrier()
        yield


# ---- one file of the rows of all processes --------------------------------------------------------------------------


def open_part(path: Path) -> AbstractContextManager[IO[bytes]]:
    """A temporary file for the rows that this process adds to `path`, open for writing and reading.

    That of process 0 has no name, so that a kill leaves nothing behind. The others' have one, by which process 0 reads
    them.
    """
    if rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=path.parent)
    return beside(path, "wb+")


def merge_parts(own: IO[bytes] | None, others: Sequence[str], target: IO[bytes], separator: bytes = b"") -> None:
    """Copy the parts of all processes into `target`, in the order of the processes.

    Args:
        own: part of process 0, which calls this; None: it has no rows.
        others: names of the other parts, flushed.
        target: file to append to.
        separator: stands between two parts that hold anything.
    """
    written = 0
    if own is not None:
        written = own.tell()
        own.seek(0)
        shutil.copyfileobj(own, target, 1 << 20)
    for name in others:
        with open(name, "rb") as part:
            size = os.fstat(part.fileno()).st_size
            if size and written:
                target.write(separator)
            shutil.copyfileobj(part, target, 1 << 20)
        written += size
