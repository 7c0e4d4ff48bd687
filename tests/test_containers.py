"""Containers and cluster scripts by their text, and the scripts with stand-ins for SLURM, Apptainer and Docker.

No image is built here: that needs a daemon and a network.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text(encoding="utf-8")
DEFINITION = (ROOT / "containers" / "roi.def").read_text(encoding="utf-8")
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}\b")
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|_KEY|APIKEY", re.IGNORECASE)
SHELL = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.sh"), *(ROOT / "scripts").glob("*.s*")))


def instructions(text: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, its arguments) of a Dockerfile, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in joined.splitlines()]


def sources() -> list[str]:
    """What is copied from the project."""
    found = []
    for name, arguments in instructions(DOCKERFILE):
        if name in ("COPY", "ADD") and "--from=" not in arguments:
            found += arguments.split()[:-1]
    return found


def test_every_base_is_named_by_its_digest_and_both_files_have_one_base() -> None:
    bases = [arguments for name, arguments in instructions(DOCKERFILE) if name == "FROM"]
    assert len(bases) == 3 and all(DIGEST.search(base) for base in bases)
    (base,) = re.findall(r"^From: (.*)$", DEFINITION, re.MULTILINE)
    # One version of Python in all stages, the same in both files.
    digests = {DIGEST.search(text).group() for text in (*bases[1:], base)}  # type: ignore[union-attr]
    assert len(digests) == 1
    (uv,) = re.findall(r"astral-sh/uv:([\d.]+)@", DOCKERFILE)
    assert f"uv=={uv}" in DEFINITION


def test_the_image_runs_as_nobody_in_particular_and_holds_no_secret() -> None:
    found = instructions(DOCKERFILE)
    users = [arguments for name, arguments in found if name == "USER"]
    assert users and users[-1].split(":")[0] not in ("root", "0")
    last = max(k for k, (name, _) in enumerate(found) if name == "USER")
    assert all(name != "RUN" for name, _ in found[last:])
    settings = [arguments for name, arguments in found if name in ("ENV", "ARG")]
    names = re.findall(r"(\w+)=", " ".join(settings))
    assert names and not [name for name in names if SECRET.search(name)]
    exported = [line for line in DEFINITION.splitlines() if line.strip().startswith("export")]
    assert exported and not [line for line in exported if SECRET.search(line)]
    for needed in ("PYTHONNOUSERSITE=1", "HOME=/tmp", "uv sync --locked --no-dev", "image.revision", "type=cache"):
        assert needed in DOCKERFILE


def test_what_is_copied_is_there_and_let_through() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    # Everything is kept out but what is named: a folder of X-rays beside the code cannot get in.
    assert rules[0] == "*"
    let_through = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = sources()
    assert len(copied) > 8 and set(copied) == let_through
    for source in copied:
        assert glob.glob(str(ROOT / source)), source
    files = re.findall(r"^    (\S+) /app/\S*$", DEFINITION, re.MULTILINE)
    assert set(files) == set(copied)


def test_the_packages_are_locked_to_what_the_project_asks_for() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "--extra dicom" in DOCKERFILE and "--extra dicom" in DEFINITION and "dicom = [" in project
    for command in set(re.findall(r"\broi-[a-z-]+", DOCKERFILE + DEFINITION)) - {"roi-consistency"}:
        assert f"\n{command} = " in project, command


@pytest.mark.parametrize("script", SHELL)
def test_shell_scripts_are_sound(script: str) -> None:
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "-x", script], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_test_of_the_image_is_a_script_of_the_project() -> None:
    (script,) = re.findall(r"%test\n +/app/(\S+)", DEFINITION)
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.slow
def test_the_smoke_test_works_here_and_leaves_nothing(tmp_path: Path) -> None:
    env = {**os.environ, "PY": sys.executable, "TMPDIR": str(tmp_path)}
    done = subprocess.run([ROOT / "scripts" / "smoke_test.sh"], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "all of it works" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


# --- the scripts with stand-ins --------------------------------------------------------------------------------------


def stand_in(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


PRINTS = 'printf "%s\\n" "$0" "$@"'
SLURM = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "4"}


def bash(tmp_path: Path, script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the project where only the stand-ins and the system's own tools are on the PATH."""
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    command = ["bash", str(ROOT / "scripts" / script), *words]
    return subprocess.run(command, cwd=ROOT, env={"PATH": path, **env}, capture_output=True, text=True)


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    stand_in(tmp_path / "bin", "scontrol", "echo n1; echo n2")
    stand_in(tmp_path / "bin", "srun", '"$@"')
    stand_in(tmp_path / "bin", "apptainer", PRINTS + '; env | grep "^APPTAINERENV" | sort')
    stand_in(tmp_path / "bin", "python", PRINTS)
    (tmp_path / "roi.sif").touch()
    return tmp_path


def test_slurm_trains_studies_without_a_container(slurm: Path) -> None:
    python = str(slurm / "bin" / "python")
    done = bash(slurm, "slurm_train.sbatch", "--save", "s.pt", SCRIPT="train_multiview.py", PY=python, **SLURM)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:3] == [python, "-m", "torch.distributed.run"] and "n1:20007" in said
    assert said[-5:] == ["train_multiview.py", "--save", "s.pt", "--resume", "auto"]


def test_slurm_runs_inside_a_container_and_lets_in_what_the_gpus_need(slurm: Path) -> None:
    image = str(slurm / "roi.sif")
    more = {"CUDA_VISIBLE_DEVICES": "2,3", "NCCL_DEBUG": "INFO", "HF_TOKEN": "hf_x", "BIND": "/data"}
    done = bash(
        slurm, "slurm_train.sbatch", "--save", "a b.pt", CONTAINER=image, SCRIPT="train_multiview.py", **SLURM, **more
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[1:8] == ["exec", "--nv", "--cleanenv", "--bind", f"{ROOT},/data", "--pwd", str(ROOT)]
    assert said[8:12] == [image, "python", "-m", "torch.distributed.run"]
    assert "/app/train_multiview.py" in said and "a b.pt" in said
    let_in = [line for line in said if line.startswith("APPTAINERENV")]
    names = [line.partition("=")[0].removeprefix("APPTAINERENV_") for line in let_in]
    assert names == ["CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "OMP_NUM_THREADS"] and "hf_x" not in done.stdout


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"CONTAINER": "nowhere.sif"}, ("CONTAINER=nowhere.sif", "apptainer build")),
        ({"CONTAINER": "roi.sif", "SCRIPT": "train.py"}, ("SCRIPT=train.py",)),
    ],
)
def test_slurm_refuses_what_is_not_there(slurm: Path, env: dict[str, str], words: tuple[str, ...]) -> None:
    if env["CONTAINER"] == "roi.sif":
        env = env | {"CONTAINER": str(slurm / "roi.sif")}
    done = bash(slurm, "slurm_train.sbatch", **SLURM, **env)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and all(word in done.stderr for word in words)


def test_dgx_trains_on_the_gpus_that_are_named_and_adds_to_the_log(tmp_path: Path) -> None:
    stand_in(tmp_path / "bin", "docker", PRINTS + "; exit 3")
    (tmp_path / "data").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "train.log").write_text("before\n")
    env = {"DATA": str(tmp_path / "data"), "RUNS": str(tmp_path / "runs"), "GPUS": "0,2,5"}
    done = bash(tmp_path, "dgx_train.sh", "--save", "my roi.pt", **env)
    assert done.returncode == 3  # that of the training
    log = (tmp_path / "runs" / "train.log").read_text()
    said = done.stdout.splitlines()
    assert log == "before\n" + done.stdout
    assert '"device=0,2,5"' in said and f"{tmp_path / 'data'}:{tmp_path / 'data'}:ro" in said
    assert said[said.index("--nproc_per_node") + 1] == "3" and f"{os.getuid()}:{os.getgid()}" in said
    assert said[-5:] == ["/app/train_roi_consistency.py", "--save", "my roi.pt", "--resume", "auto"]
    stage = ("--recipe", "staged_resnet50", "--stage", "2", "--resume", "one.pt")
    said = bash(tmp_path, "dgx_train.sh", *stage, SCRIPT="train_roi_baselines.py", **env).stdout.splitlines()
    assert said[-6:] == list(stage)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"DATA": ""}, "DATA=: no such folder"),
        ({"RUNS": "/nowhere/at/all"}, "RUNS=/nowhere/at/all: no such folder"),
        ({"GPUS": "all"}, "GPUS=all: numbers"),
        ({"SCRIPT": "train.py"}, "SCRIPT=train.py: no such script"),
    ],
)
def test_dgx_refuses_before_it_starts(env: dict[str, str], words: str, tmp_path: Path) -> None:
    stand_in(tmp_path / "bin", "docker", "touch " + str(tmp_path / "started"))
    done = bash(tmp_path, "dgx_train.sh", **{"DATA": str(tmp_path), "RUNS": str(tmp_path), **env})
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "started").exists() and not (tmp_path / "train.log").exists()
