"""Processes that work for this one, and end with it.

    with closing(run_jobs(decode, jobs, workers=8)) as ready:
        for k, outcome in ready:  # of the k-th job, or an Exception

Letters: J is a job, R what comes of it; both go through pipes.
"""

import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import signal
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, TypeVar

J = TypeVar("J")
R = TypeVar("R")


def children() -> set[multiprocessing.process.BaseProcess]:
    """The processes that this one has started and that still run."""
    return set(multiprocessing.active_children())


def kill(processes: Iterable[multiprocessing.process.BaseProcess]) -> None:
    """End them at once, whatever they are at."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join(1.0)  # a disk that hangs holds even a killed one


def cause_of_death(code: int | None) -> str:
    """What an exit code of a worker says, with the remedy."""
    if code == -getattr(signal, "SIGKILL", 0):
        return "a worker was killed; out of memory? Fewer --workers need less"
    if code == -getattr(signal, "SIGBUS", 0):
        return "a worker crashed: shared memory is full (/dev/shm; docker has --shm-size); fewer --workers need less"
    return f"a worker crashed (exit code {code})"


class Died(OSError):
    """The process that was at a job crashed or was killed."""


def run_jobs(
    function: Callable[[J], R], jobs: Iterable[J], workers: int, patience: float = 0
) -> Generator[tuple[int, R | Exception], None, None]:
    """(place among the jobs, what came of it) as the jobs end, in whatever order; a job is taken when a worker is free for it.

    What `function` raises comes back as an outcome, and so does Died: it costs one job, and another worker goes on. 0 workers: in this process.
    Closing the generator leaves the workers `patience` seconds for what they are at, then kills them. When this process is killed, each ends with its job.
    """
    todo = enumerate(jobs)
    if workers == 0:
        for k, job in todo:
            yield k, attempt(function, job)
        return
    staff: dict[Any, Any] = {}  # our end of a pipe -> the process at the other end
    doing: dict[Any, int] = {}
    try:
        for k, job in islice(todo, workers):
            assign(job, start_worker(function, staff), k, doing)
        while doing:
            ended: list[Any] = multiprocessing.connection.wait(list(doing))
            for end in ended:
                done = doing.pop(end)
                try:
                    outcome = end.recv()
                except (EOFError, OSError):
                    outcome = reap_worker(staff, end)
                for k, job in islice(todo, 1):
                    assign(job, end if end in staff else start_worker(function, staff), k, doing)
                yield done, outcome
    finally:
        dismiss(staff, patience)


def in_order(function: Callable[[J], R], jobs: Iterable[J], workers: int) -> Generator[R, None, None]:
    """What comes of the jobs, in their order. Raises what `function` raised, or Died."""
    early: dict[int, R] = {}
    due = 0
    with closing(run_jobs(function, jobs, workers)) as ready:
        for k, outcome in ready:
            if isinstance(outcome, Exception):
                raise outcome
            early[k] = outcome
            while due in early:
                yield early.pop(due)
                due += 1


def assign(job: Any, end: Any, k: int, doing: dict[Any, int]) -> None:
    doing[end] = k
    with suppress(
        BrokenPipeError, ConnectionResetError
    ):  # it was killed while it had nothing to do: there will be no outcome
        end.send(job)


def start_worker(function: Callable, staff: dict[Any, Any]) -> Any:
    """Start a worker. -> our end of its pipe"""
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    ours, theirs = context.Pipe()
    staff[ours] = context.Process(target=work, args=(function, ours, theirs), daemon=True)
    staff[ours].start()
    theirs.close()
    return ours


def reap_worker(staff: dict[Any, Any], end: Any) -> Died:
    """Why there is no outcome."""
    process = staff.pop(end)
    process.join()
    end.close()
    return Died(cause_of_death(process.exitcode))


def dismiss(staff: dict[Any, Any], patience: float) -> None:
    started = [process for process in staff.values() if process.pid]
    try:
        for end in staff:
            end.close()
        for process in started:
            process.join(patience)
    finally:  # a second Ctrl-C, or a job that hangs
        for process in started:
            process.kill()
            process.join()


def work(function: Callable[[J], R], ours: Connection, theirs: Connection) -> None:
    """A worker: jobs come and outcomes go through `theirs`. Ctrl-C and SIGTERM are answered by the parent; the pipe ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ours.close()  # a fork's copy
    with suppress(EOFError, OSError):
        while True:
            theirs.send(attempt(function, theirs.recv()))


def attempt(function: Callable[[J], R], job: J) -> R | Exception:
    try:
        return function(job)
    except Exception as error:
        return error
