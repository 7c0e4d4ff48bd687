"""roi/threads.py: cores that a process may use, and how its threads wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from roi import threads


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight cores on which nobody else works."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "quota_cores", lambda: 0)
    monkeypatch.setattr(threads, "others_busy", lambda: 0.2)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 0), ("250000 100000", 2), ("50000 100000", 1), ("400000 100000", 4), ("", 0)]
)
def test_the_quota_of_a_container_counts_whole_cores(text: str, cores: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert threads.quota_cores(tmp_path) == cores


def test_the_older_kind_of_quota_is_read(tmp_path: Path) -> None:
    assert threads.quota_cores(tmp_path) == 0
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert threads.quota_cores(tmp_path) == 0
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    assert threads.quota_cores(tmp_path) == 3


def test_the_smallest_of_affinity_quota_and_slurm_binds(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads.usable_cores() == 8
    monkeypatch.setattr(threads, "quota_cores", lambda: 4)
    assert threads.usable_cores() == 4
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert threads.usable_cores() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5}, raising=False)
    assert threads.usable_cores() == 1


def test_alone_threads_spin_briefly_and_beside_others_they_sleep(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    alone: dict[str, str] = {}
    assert threads.bound_threads(alone) == threads.decided() == "8 cores; they spin briefly while they wait"
    # How many of all cores are best is left to torch.
    assert alone == {"GOMP_SPINCOUNT": threads.BRIEF_SPIN}
    monkeypatch.setattr(threads, "others_busy", lambda: 5.0)
    beside: dict[str, str] = {}
    assert "others keep 5 cores busy" in threads.bound_threads(beside)
    assert beside == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_a_share_of_the_cores_is_not_exceeded(quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "quota_cores", lambda: 3)
    environment: dict[str, str] = {}
    assert threads.bound_threads(environment).startswith("3 of 8 cores may be used; ")
    assert environment["OMP_NUM_THREADS"] == "3"


def test_several_processes_share_the_cores(quiet: None) -> None:
    environment = {"LOCAL_WORLD_SIZE": "3"}
    assert "8 cores shared by 3 processes" in threads.bound_threads(environment)
    assert environment["OMP_NUM_THREADS"] == "2"


def test_what_a_user_set_stays(quiet: None) -> None:
    environment = {"OMP_NUM_THREADS": "3", "GOMP_SPINCOUNT": "7"}
    before = dict(environment)
    said = threads.bound_threads(environment)
    assert environment == before
    assert said == "as OMP_NUM_THREADS says; waiting as GOMP_SPINCOUNT says"


def test_who_wants_a_core_is_counted_without_oneself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "LOADAVG", tmp_path / "loadavg")
    (tmp_path / "loadavg").write_text("0.20 0.18 0.12 4/450 11206\n")
    assert threads.others_busy() == 3
    (tmp_path / "loadavg").write_text("garbage")
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 1.0, 0.5))
    assert threads.others_busy() == 1.5


def test_torch_takes_what_was_decided() -> None:
    code = "from roi import cli; cli.set_environment(); import torch; print(torch.get_num_threads())"
    names = ("OMP_NUM_THREADS", *threads.WAITING)
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | {"SLURM_CPUS_PER_TASK": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "1", done.stderr
