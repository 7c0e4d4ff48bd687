"""scripts/env.sh, run_tests.sh and the lock: no folder is cleared, tests run before lint, versions are compared."""

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from check_lock import differences

STUB = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  *find_spec*) exit {has_torch} ;;
  *urllib*) exit {offline} ;;
  *"--index-url"*) exit {offline} ;;
  "-m pip --version") exit {pip} ;;
  "-m pytest"*) exit {tests} ;;
  "-m ruff"*) exit {lint} ;;
  scripts/check_lock.py) exit {differs} ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The two scripts and the files that they read, in a folder of their own."""
    folder = tmp_path / "project"
    (folder / "scripts").mkdir(parents=True)
    for name in ("run_tests.sh", "scripts/env.sh", "constraints.txt", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def environment(folder: Path, log: Path, **status: int) -> Path:
    """A folder that looks like an environment, whose Python writes down what it is asked.

    Args:
        status: exit codes of pip, tests, lint, differs, has_torch and offline; 0 where none is given
    """
    codes = dict.fromkeys(("pip", "tests", "lint", "differs", "has_torch", "offline"), 0) | status
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STUB.format(log=log, **codes))
    python.chmod(0o755)
    return folder


def run(project: Path, command: str, **settings: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if name not in ("VENV", "LATEST", "PYTHON", "TORCH")}
    return subprocess.run(
        ["bash", "-c", command], cwd=project, env=clean | settings, capture_output=True, text=True, timeout=120
    )


MAKE = "set -euo pipefail; source scripts/env.sh; make_env requirements.txt"


@pytest.mark.parametrize("content", ["thesis.tex", "bin/notes.txt", ".hidden"])
def test_a_folder_of_somebody_is_refused_and_stays(project: Path, content: str) -> None:
    kept = project / "thesis_folder" / content
    kept.parent.mkdir(parents=True)
    kept.write_text("years of work")
    done = run(project, MAKE, VENV="thesis_folder")
    assert done.returncode == 2
    assert "thesis_folder is there and holds no Python that runs" in done.stderr and "VENV=DIR" in done.stderr
    assert kept.read_text() == "years of work"
    assert [
        p.relative_to(project / "thesis_folder") for p in (project / "thesis_folder").rglob("*") if p.is_file()
    ] == [Path(content)]


def test_a_file_of_that_name_is_refused(project: Path) -> None:
    (project / ".venv").write_text("a note")
    done = run(project, MAKE)
    assert done.returncode == 2 and (project / ".venv").read_text() == "a note"


def test_an_old_python_is_refused_before_anything_is_made(project: Path) -> None:
    old = project / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run(project, MAKE, PYTHON="./python-old")
    assert done.returncode == 2 and "3.10 or newer" in done.stderr and not (project / ".venv").exists()


def test_an_environment_is_made_once_and_installed_again_only_after_a_change(project: Path) -> None:
    """With a real venv; what is installed is a list without packages."""
    for name in ("requirements.txt", "constraints.txt"):
        (project / name).write_text("# nothing\n")
    first = run(project, MAKE, PYTHON=sys.executable)
    assert first.returncode == 0, first.stderr
    assert "creating .venv" in first.stdout and "installing requirements.txt" in first.stdout
    assert run(project, MAKE, PYTHON=sys.executable).stdout == ""
    (project / "constraints.txt").write_text("# other versions\n")
    assert "installing requirements.txt" in run(project, MAKE, PYTHON=sys.executable).stdout


def test_a_half_made_environment_is_finished(project: Path) -> None:
    for name in ("requirements.txt", "constraints.txt"):
        (project / name).write_text("# nothing\n")
    (project / ".venv").mkdir()
    (project / ".venv" / ".made-by-roi").touch()
    done = run(project, MAKE, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert (project / ".venv" / "bin" / "python").exists()


def test_a_linked_environment_is_used_as_it_is(project: Path, tmp_path: Path) -> None:
    there = environment(tmp_path / "elsewhere", tmp_path / "log")
    (project / ".venv").symlink_to(there)
    assert run(project, MAKE).returncode == 0
    assert (project / ".venv").is_symlink() and (project / ".venv").resolve() == there.resolve()
    assert (
        "-m pip install --disable-pip-version-check -r requirements.txt -c constraints.txt"
        in (tmp_path / "log").read_text()
    )


def test_an_environment_without_pip_is_filled_by_uv_and_never_cleared(project: Path, tmp_path: Path) -> None:
    environment(project / ".venv", tmp_path / "log", pip=1)
    (project / ".venv" / "mine").write_text("stays")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "uv"}\n')
    (tools / "uv").chmod(0o755)
    assert run(project, MAKE, PATH=f"{tools}:{os.environ['PATH']}").returncode == 0
    assert (
        tmp_path / "uv"
    ).read_text().strip() == "pip install --python .venv/bin/python -r requirements.txt -c constraints.txt"
    assert (project / ".venv" / "mine").read_text() == "stays"


CPU_INDEX = "--index-url https://download.pytorch.org/whl/cpu"


@pytest.mark.parametrize(
    ("setting", "offline", "wheels", "said"),
    [
        ("cpu", 0, True, "for the CPU, about 0.2 GB"),
        ("cuda", 0, False, "as PyPI gives it"),
        ("", 0, True, "for the CPU, about 0.2 GB"),  # no driver, and the index answers
        ("", 1, False, "as PyPI gives it"),  # it does not: today's way
    ],
)
def test_cpu_wheels_come_where_nothing_could_use_others(
    project: Path, tmp_path: Path, setting: str, offline: int, wheels: bool, said: str
) -> None:
    if not setting and (Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi")):
        pytest.skip("a machine with an NVIDIA driver")
    environment(project / ".venv", tmp_path / "log", has_torch=1, offline=offline)
    done = run(project, MAKE, **({"TORCH": setting} if setting else {}))
    assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr
    installs = [line for line in (tmp_path / "log").read_text().splitlines() if "pip install" in line]
    assert (CPU_INDEX in installs[0] and "torch==2" in installs[0] and "+cpu" in installs[0]) is wheels
    assert installs[-1] == "-m pip install --disable-pip-version-check -r requirements.txt -c constraints.txt"


def test_a_torch_that_is_there_stays_and_nobody_is_asked(project: Path, tmp_path: Path) -> None:
    environment(project / ".venv", tmp_path / "log")
    assert run(project, MAKE).returncode == 0
    log = (tmp_path / "log").read_text()
    assert "urllib" not in log and "index-url" not in log
    done = run(project, MAKE, VENV=str(environment(tmp_path / "v", tmp_path / "log2", has_torch=1)), TORCH="rocm")
    assert done.returncode == 2 and "TORCH=rocm" in done.stderr


def test_what_the_installer_says_stays_in_a_file_until_it_fails(project: Path, tmp_path: Path) -> None:
    folder = environment(project / ".venv", tmp_path / "log")
    stub = (folder / "bin" / "python").read_text()
    noise = '  *"pip install"*) echo noise; echo "ERROR: no such version"; exit {} ;;\nesac'
    (folder / "bin" / "python").write_text(stub.replace("esac", noise.format(0)))
    done = run(project, MAKE)
    assert done.returncode == 0 and "noise" not in done.stdout + done.stderr
    assert "noise" in (folder / "install.log").read_text()
    (folder / ".installed-requirements.txt").unlink()
    (folder / "bin" / "python").write_text(stub.replace("esac", noise.format(1)))
    done = run(project, MAKE)
    assert done.returncode == 2 and "ERROR: no such version" in done.stderr and "install.log" in done.stderr
    assert not (folder / ".installed-requirements.txt").exists()


def test_latest_goes_without_the_lock_into_an_environment_of_its_own(project: Path, tmp_path: Path) -> None:
    environment(project / ".venv-latest", tmp_path / "log")
    assert run(project, MAKE, LATEST="1").returncode == 0
    installs = [line for line in (tmp_path / "log").read_text().splitlines() if "install" in line]
    assert installs == ["-m pip install --disable-pip-version-check --upgrade -r requirements.txt"]
    assert not (project / ".venv").exists()


@pytest.mark.parametrize(
    ("tests", "lint", "differs", "status"),
    [(0, 0, 0, 0), (1, 0, 0, 1), (0, 1, 0, 1), (0, 1, 1, 0), (5, 1, 1, 5), (0, 0, 1, 0)],
)
def test_pytest_runs_first_and_always(
    project: Path, tmp_path: Path, tests: int, lint: int, differs: int, status: int
) -> None:
    """A complaint of ruff or mypy fails the run under the tested versions and is a warning under others."""
    environment(project / ".venv", tmp_path / "log", tests=tests, lint=lint, differs=differs)
    done = run(project, "./run_tests.sh -k masks")
    asked = [
        line
        for line in (tmp_path / "log").read_text().splitlines()
        if line.startswith(("-m pytest", "-m ruff", "-m mypy"))
    ]
    assert asked == ["-m pytest -k masks", "-m ruff check .", "-m mypy ."]
    assert done.returncode == status
    assert ("warning: ruff or mypy" in done.stdout) == bool(lint and differs)


def test_the_lock_tells_other_versions() -> None:
    installed = metadata.version("numpy")
    assert differences(f"# a comment\nnumpy=={installed}\nno-such-package==1.0\n") == []
    assert differences("numpy==0.1\n") == [f"numpy {installed} (tested: 0.1)"]
    assert differences("numpy==0.1 ; python_version < '3'\n") == []


def test_the_lock_names_every_package_that_is_asked_for() -> None:
    """And a version that the request admits; torch without a build, so that it means CPU and CUDA wheels alike."""
    from packaging.requirements import Requirement

    locked = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    asked = [
        Requirement(line.split(" #")[0])
        for name in ("requirements.txt", "requirements-dev.txt", "requirements-dicom.txt")
        for line in (ROOT / name).read_text().splitlines()
        if line and not line.startswith(("#", "-r"))
    ]
    assert len(asked) > 15
    for request in asked:
        versions = [
            str(pin.specifier)[2:]
            for pin in locked
            if pin.name.replace("-", "_").lower() == request.name.replace("-", "_").lower()
        ]
        assert versions, request.name
        assert all(request.specifier.contains(version) and "+" not in version for version in versions), (
            request.name,
            versions,
        )
