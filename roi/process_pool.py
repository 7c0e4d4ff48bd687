"""Processes that work for this one, and end with it.

    with closing(run_jobs(decode, jobs, workers=8)) as ready:
        for k, outcome in ready:  # of the k-th job, or an Exception

Not concurrent.futures: there the death of one worker ends the pool, and all jobs are taken at once.

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
Pipe = Any  # our end of a worker's pipe: a Connection, by whatever class the system has
Workers = dict[Pipe, Any]  # -> the process at the other end
JOIN_SECONDS = 1.0  # a disk that hangs holds even a killed process


def children() -> set[multiprocessing.process.BaseProcess]:
    """The processes that this one has started and that still run."""
    return set(multiprocessing.active_children())


def kill(processes: Iterable[multiprocessing.process.BaseProcess]) -> None:
    """End them at once, whatever they are at."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join(JOIN_SECONDS)


def cause_of_death(code: int | None) -> str:
    """What an exit code of a worker says, with the remedy."""
    if code == -getattr(signal, "SIGKILL", 0):
        return "a worker was killed; out of memory? Fewer --workers need less"
    if code == -getattr(signal, "SIGBUS", 0):
        return "a worker crashed: shared memory is full (/dev/shm; docker has --shm-size); fewer --workers need less"
    return f"a worker crashed (exit code {code})"


class WorkerDiedError(OSError):
    """The process that was at a job crashed or was killed."""


def run_jobs(
    function: Callable[[J], R],
    jobs: Iterable[J],
    workers: int,
    patience: float = 0,
) -> Generator[tuple[int, R | Exception], None, None]:
    """Run jobs in worker processes, and give what comes of them as they end, in whatever order.

    A job is taken when a worker is free for it. What `function` raises comes back as an outcome, and so does
    WorkerDiedError: it costs one job, and another worker goes on. When this process is killed, each worker ends with
    its job.

    Args:
        workers: 0 for this process.
        patience: seconds that the workers have for what they are at when the generator is closed; then they are killed.

    Yields:
        place among the jobs, what came of it
    """
    todo = enumerate(jobs)
    if workers == 0:
        for k, job in todo:
            yield k, attempt(function, job)
        return
    staff: Workers = {}
    busy: dict[Pipe, int] = {}  # -> place of the job that its worker is at
    try:
        for k, job in islice(todo, workers):
            assign(job, k, start_worker(function, staff), busy)
        while busy:
            ended: list[Pipe] = multiprocessing.connection.wait(list(busy))
            for pipe in ended:
                done = busy.pop(pipe)
                try:
                    outcome = pipe.recv()
                except (EOFError, OSError):
                    outcome = reap_worker(staff, pipe)
                # The next job before the outcome is handed out: the worker need not wait for who takes it.
                for k, job in islice(todo, 1):
                    free = pipe if pipe in staff else start_worker(function, staff)
                    assign(job, k, free, busy)
                yield done, outcome
    finally:
        dismiss(staff, patience)


def in_order(function: Callable[[J], R], jobs: Iterable[J], workers: int) -> Generator[R, None, None]:
    """What comes of the jobs, in their order. Raises what `function` raised, or WorkerDiedError."""
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


def assign(job: Any, k: int, pipe: Pipe, busy: dict[Pipe, int]) -> None:
    busy[pipe] = k
    # A worker that was killed while it had nothing to do: there will be no outcome.
    with suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(job)


def start_worker(function: Callable, staff: Workers) -> Pipe:
    """Start a worker and give our end of its pipe."""
    # A fork starts at once and has the parent's memory; macOS's libraries do not survive one.
    method = "fork" if sys.platform == "linux" else "spawn"
    context: Any = multiprocessing.get_context(method)
    parent_end, worker_end = context.Pipe()
    process = context.Process(target=work, args=(function, parent_end, worker_end), daemon=True)
    staff[parent_end] = process
    process.start()
    # Only the worker may hold its end: when it dies, ours must see the end of the pipe.
    worker_end.close()
    return parent_end


def reap_worker(staff: Workers, pipe: Pipe) -> WorkerDiedError:
    """Why there is no outcome."""
    process = staff.pop(pipe)
    process.join()
    pipe.close()
    return WorkerDiedError(cause_of_death(process.exitcode))


def dismiss(staff: Workers, patience: float) -> None:
    """End the workers: those that have nothing to do see the end of their pipe."""
    started = [process for process in staff.values() if process.pid]
    try:
        for pipe in staff:
            pipe.close()
        for process in started:
            process.join(patience)
    finally:  # a second Ctrl-C, or a job that hangs
        for process in started:
            process.kill()
            process.join()


def work(function: Callable[[J], R], parent_end: Connection, worker_end: Connection) -> None:
    """A worker: jobs come and outcomes go through its end of the pipe, and it ends with the pipe."""
    # Ctrl-C and SIGTERM reach every process of a group; the parent answers them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent_end.close()  # a fork's copy
    with suppress(EOFError, OSError):
        while True:
            worker_end.send(attempt(function, worker_end.recv()))


def attempt(function: Callable[[J], R], job: J) -> R | Exception:
    try:
        return function(job)
    except Exception as error:
        return error
