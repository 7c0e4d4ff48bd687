"""How much memory this process may use for what it reads: of the machine, a container or a job."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MEGABYTE = 1 << 20
SHARE = 0.7  # of the memory that may be used: model, batches and what else runs need the rest
SLURM_LIMITS = {  # megabytes a unit -> how many units this node gives the job
    "SLURM_MEM_PER_NODE": "",
    "SLURM_MEM_PER_CPU": "SLURM_CPUS_ON_NODE",
    "SLURM_MEM_PER_GPU": "SLURM_GPUS_ON_NODE",
}


class Memory(NamedTuple):
    """Memory that may still be used."""

    bytes: int
    source: str  # what says so


def usable_memory(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Memory | None:
    """The least that machine, cgroups (containers, SLURM) and the job leave; None where nobody says.

    Args:
        root: where proc and sys lie.
    """
    limits = [*_machine(root), *_cgroups(root), *_job(environment)]
    return min(limits, default=None)


def holds(memory: Memory | None, size: int) -> bool:
    """Whether so many bytes of a file stay in the memory once they are read."""
    return memory is None or size <= SHARE * memory.bytes


def _machine(root: Path) -> Iterator[Memory]:
    """What Linux could give without swapping; elsewhere all memory there is."""
    with suppress(OSError):
        for line in (root / "proc" / "meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                yield Memory(int(value.split()[0]) * 1024, "free on this machine")
                return
    with suppress(ValueError, OSError, AttributeError):
        yield Memory(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "of this machine")


def _cgroups(root: Path) -> Iterator[Memory]:
    """What the groups of this process leave, and the groups above them, in version 1 and 2."""
    mount = root / "sys" / "fs" / "cgroup"
    with suppress(OSError):
        for line in (root / "proc" / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                names = ("memory.max", "memory.current", "")
                yield from _group_and_above(mount, path, *names)
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
                yield from _group_and_above(mount / "memory", path, *names)


def _group_and_above(mount: Path, path: str, limit: str, usage: str, prefix: str) -> Iterator[Memory]:
    # In a container the path may be that of the host, which is not there: its own group is then the mount.
    group = mount / path.lstrip("/")
    while True:
        # A number, or "max".
        with suppress(OSError, ValueError):
            most = int((group / limit).read_text())
            used = int((group / usage).read_text())
            # Pages of files are given back when memory is asked for.
            left = most - used + _pages_of_files(group / "memory.stat", prefix)
            yield Memory(max(0, left), "the limit of its cgroup")
        if group == mount:
            return
        group = group.parent


def _pages_of_files(stat: Path, prefix: str) -> int:
    """Bytes; `prefix`: of the names that count the groups below as well."""
    names = {f"{prefix}inactive_file", f"{prefix}active_file"}
    pairs = [line.split() for line in stat.read_text().splitlines()]
    return sum(int(value) for name, value in pairs if name in names)


def _job(environment: Mapping[str, str]) -> Iterator[Memory]:
    """What SLURM was asked for, where it does not enforce it."""
    for name, count in SLURM_LIMITS.items():
        with suppress(ValueError, KeyError):
            units = int(environment[count]) if count else 1
            megabytes = int(environment[name]) * units
            # 0: all memory of the node.
            if megabytes:
                yield Memory(megabytes * MEGABYTE, name)
