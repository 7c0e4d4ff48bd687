"""What the benchmarks share: running the scripts as a user does, and result files that say where they come from."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from roi import cli  # noqa: E402
from roi.files import replacing  # noqa: E402


def add_machine(parser: cli.Parser) -> None:
    parser.add_argument("--machine", default=f"{platform.machine()}-{os.cpu_count()}cores", metavar="NAME", help="names the result file (default: %(default)s)")


def script(*command: object, threads: int | None = None, log: Path | None = None) -> None:
    """Run a script of the project; CalledProcessError if it fails. `threads` for torch, `log`: a file for what it prints."""
    env = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    words = [sys.executable, *map(str, command)]
    if log is None:
        subprocess.run(words, cwd=ROOT, env=env, check=True)
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        subprocess.run(words, cwd=ROOT, env=env, check=True, stdout=file, stderr=subprocess.STDOUT)


def write_result(name: str, machine: str, result: dict[str, Any]) -> Path:
    """benchmarks/results/<name>-<machine>.json, with the processor."""
    path = ROOT / "benchmarks" / "results" / f"{name}-{machine}.json"
    with replacing(path) as file:
        json.dump(result | {"machine": machine, "processor": processor()}, file, indent=1)
        file.write("\n")
    return path


def interval(score: dict[str, float | None]) -> str:
    return " ".join("undefined" if score[k] is None else f"{score[k]:.3f}" for k in ("value", "low", "high"))


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0] if names else platform.processor()
