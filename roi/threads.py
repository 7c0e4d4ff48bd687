"""How many threads a process computes with, and how they wait for each other. Decided before torch is imported.

The threads of OpenMP wait by spinning: a core that spins for another thread does no work of the process that this
thread waits for. Alone on a machine that costs nothing; beside a second training of the same kind both took ten times
as long (benchmarks/RESULTS.md, "Two runs side by side").
"""

import os
import statistics
import time
from collections.abc import MutableMapping
from pathlib import Path

# Turns of the waiting loop of GNU's OpenMP before a thread sleeps: alone as fast as endless spinning, and a neighbour
# is held up for microseconds.
BRIEF_SPIN = "3000"
# Of these variables a user's own wins.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
CGROUP = Path("/sys/fs/cgroup")
LOADAVG = Path("/proc/loadavg")
LOOKS, PAUSE = 5, 0.004  # how often it is looked at, and seconds between
BUSY = 0.5  # share of the machine's cores that others keep busy, from which on nobody should spin


# What bound_threads has decided for this process, in words.
_decided: list[str] = []


def usable_cores() -> int:
    """Cores that this process may use: its affinity, less what a container's quota or SLURM leaves of it."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    limits = [quota_cores(), _positive(os.environ.get("SLURM_CPUS_PER_TASK", ""))]
    return min([cores, *(limit for limit in limits if limit)])


def quota_cores(cgroup: Path = CGROUP) -> int:
    """Whole cores that the quota of a container is worth, at least one; 0: no quota."""
    quota = period = ""
    try:
        if (cgroup / "cpu.max").is_file():  # version 2
            quota, period = (cgroup / "cpu.max").read_text().split()
        elif (cgroup / "cpu" / "cpu.cfs_quota_us").is_file():
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return 0  # what cannot be read binds nobody
    granted, each = _positive(quota), _positive(period)
    if not granted or not each:
        return 0
    return max(1, granted // each)


def _positive(text: str) -> int:
    """The number that a text is, if it is one above 0; else 0."""
    return int(text) if text.isdecimal() else 0


def others_busy() -> float:
    """Processes and threads of others that want a core of the machine just now."""
    try:
        counts = []
        for _ in range(LOOKS):
            # "0.20 0.18 0.12 3/450 11206": three of 450 want a core, one of them is this process.
            running = LOADAVG.read_text().split()[3].split("/")[0]
            counts.append(int(running) - 1)
            time.sleep(PAUSE)
    except (OSError, ValueError, IndexError):
        # Of the last minute, so that what this user's last command did is among it: better than nothing.
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return statistics.median(counts)


def bound_threads(environment: MutableMapping[str, str] | None = None) -> str:
    """Set what OpenMP reads from the environment when torch is imported; what is set already stays.

    Several processes on one machine (torchrun) share its cores. Where one process has all cores of the machine, torch
    takes as many threads as it finds best.

    Returns:
        What was decided, in words.
    """
    environment = os.environ if environment is None else environment
    cores, there = usable_cores(), os.cpu_count() or 1
    processes = _positive(environment.get("LOCAL_WORLD_SIZE", "")) or 1
    if "OMP_NUM_THREADS" in environment:
        why = "as OMP_NUM_THREADS says"
    elif processes > 1:
        why = f"{cores} cores shared by {processes} processes"
        environment["OMP_NUM_THREADS"] = str(max(1, cores // processes))
    elif cores < there:
        why = f"{cores} of {there} cores may be used"
        environment["OMP_NUM_THREADS"] = str(cores)
    else:
        why = f"{cores} cores"
    _decided[:] = [f"{why}; {_bound_waiting(environment)}"]
    return _decided[0]


def decided() -> str:
    """What bound_threads has decided for this process, in words; empty where it was not asked."""
    return _decided[0] if _decided else ""


def _bound_waiting(environment: MutableMapping[str, str]) -> str:
    """How threads wait, in words."""
    for name in WAITING:
        if name in environment:
            return f"waiting as {name} says"
    busy = others_busy()
    if busy > BUSY * (os.cpu_count() or 1):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        return f"they sleep while they wait: others keep {busy:.0f} cores busy"
    environment["GOMP_SPINCOUNT"] = BRIEF_SPIN
    return "they spin briefly while they wait"
