"""Worker processes: every job once, lazily, whatever its function raises and whichever worker dies."""

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from roi.process_pool import WorkerDiedError, in_order, run_jobs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forks there")


def square(n: int) -> int:
    time.sleep(0.03 * (n % 3))
    return n * n


def moody(n: int) -> int:
    if n % 4 == 1:
        raise ArithmeticError(f"not {n}")
    if n % 4 == 3:
        faulthandler.disable()  # pytest's
        os.kill(os.getpid(), signal.SIGKILL if n % 8 == 3 else signal.SIGSEGV)
    return n


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_every_job_once_and_in_order(workers: int) -> None:
    with closing(run_jobs(square, iter(range(12)), workers)) as ready:
        assert sorted(ready) == [(n, n * n) for n in range(12)]
    assert list(in_order(square, range(12), workers)) == [n * n for n in range(12)]
    assert list(run_jobs(square, [], workers)) == list(in_order(square, [], workers)) == []
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_jobs_are_taken_when_a_worker_is_free(workers: int) -> None:
    taken, done = 0, 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for n in range(9):
            taken += 1
            assert taken - done <= max(workers, 1) + 1  # the one that is yielded counts as done only here
            yield n

    for _ in run_jobs(square, jobs(), workers):
        done += 1
        assert taken <= done + workers and len(multiprocessing.active_children()) <= workers
    assert done == taken == 9


@pytest.mark.parametrize("workers", [1, 3])
def test_errors_and_deaths_cost_their_job_alone(workers: int) -> None:
    came = dict(run_jobs(moody, range(16), workers))
    assert sorted(came) == list(range(16))
    for n, outcome in came.items():
        if n % 4 in (0, 2):
            assert outcome == n
        elif n % 4 == 1:
            assert isinstance(outcome, ArithmeticError) and str(outcome) == f"not {n}"
        else:
            assert isinstance(outcome, WorkerDiedError) and (
                "was killed; out of memory?" if n % 8 == 3 else "crashed (exit code -11)"
            ) in str(outcome)
    for first, kind in ((1, ArithmeticError), (3, WorkerDiedError)):
        with pytest.raises(kind):
            list(in_order(moody, [0, 2, first, 4], workers))
    with pytest.raises(ArithmeticError):
        list(in_order(moody, [1], 0))
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_while_it_has_nothing_to_do() -> None:
    ready = run_jobs(square, iter([0, 3, 6, 9]), 1)
    crewed = dict([next(ready)])
    crewed |= dict([next(ready)])
    (worker,) = multiprocessing.active_children()
    time.sleep(0.1)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    crewed |= dict(ready)
    assert [type(crewed[n]) for n in range(4)] == [int, int, int, int] or any(
        isinstance(o, WorkerDiedError) for o in crewed.values()
    )
    assert len(crewed) == 4


def write_slowly(path: str) -> None:
    Path(path + ".begun").touch()
    # Long beside what a loaded machine needs to kill it.
    time.sleep(2)
    Path(path).touch()


@pytest.mark.parametrize("patience", [0, 10])
def test_closing_kills_or_lets_them_end(tmp_path: Path, patience: int) -> None:
    paths = [str(tmp_path / str(k)) for k in range(6)]
    paths[0] = ""
    ready = run_jobs(lambda path: write_slowly(path) if path else None, paths, 2, patience)
    assert next(ready) == (0, None)
    while len(list(tmp_path.glob("*.begun"))) < 2:
        time.sleep(0.01)
    begin = time.monotonic()
    ready.close()
    assert (time.monotonic() - begin < 1.5) == (patience == 0)
    assert not multiprocessing.active_children()
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == "") == (
        [] if patience == 0 else ["1", "2"]
    )


def test_ctrl_c_and_sigterm_are_left_to_the_parent() -> None:
    def told(n: int) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        return n

    assert list(in_order(told, range(4), 2)) == [0, 1, 2, 3]
