"""How long does a user wait for the first sign of life? --help, the first line of each stage, the first training step.

    python benchmarks/start.py --out runs/start

Each script as a user starts it, on a demo set of 64 images. --help of every script; from its start to the first line on
the console of table, training, inference, scores and report; a whole training of one step (32 images, no validation)
from the pixel cache of the training before it, from start to end. By the clock and in processor time, which other work
on the machine does not reach; the median of some runs. Goals: .5 s, 3 s, 10 s. Writes
benchmarks/results/start-<machine>.json.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cxrlt_speed import measure
from harness import ROOT, Figure, add_machine, script, table, write_result

from roi import cli
from roi.errors import UserError

HELP, LINE, STEP = 0.5, 3.0, 10.0
IMAGES = 64
BATCH = 32


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="scratch folder, new or empty")
    parser.add_argument("--runs", type=cli.number(int, 1), default=3, metavar="N", help="(default: %(default)s)")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"--out {args.out}: is there and not empty; give a folder that is new")
    stages = prepared(args.out)
    figures = []
    helps = {
        path.name: medians([measure(path, "--help") for _ in range(args.runs)]) for path in sorted(ROOT.glob("*.py"))
    }
    slowest = max(helps, key=lambda name: helps[name]["processor_seconds"])
    figures += both(f"--help, the slowest of {len(helps)} scripts ({slowest})", helps[slowest], HELP, helps)
    for name, words in stages.items():
        figures += both(f"first line of {name}", medians([first_line(words) for _ in range(args.runs)]), LINE)
    steps = [measure(*one_step(args.out, f"step-{run}")) for run in range(args.runs)]
    figures += both("a training of one step, cache there", medians(steps), STEP)
    print(table(figures))
    result: dict[str, Any] = {
        "what": "seconds that a user waits: medians, by the clock and in processor time",
        "command": f"python benchmarks/start.py --runs {args.runs} --out …",
        "load_average": os.getloadavg()[0],
        "figures": [figure.as_dict() for figure in figures],
    }
    print(write_result("start", args.machine, result))


def prepared(out: Path) -> dict[str, tuple[object, ...]]:
    """Make what the stages read -> their commands."""
    data = out / "demo"
    script("make_demo_dataset.py", "--out", data, "--images", IMAGES, "--size", 64, "--seed", 0)
    make = ("make_chexmultimodal_csv.py", "--src_csv", data / "Data_Entry_2017.csv", "--image_dir", data)
    script(*make, "--out_csv", out / "all.csv")
    lines = (out / "all.csv").read_text().splitlines()
    # The set has its own test list, which a training leaves out.
    tests = set((data / "test_list.txt").read_text().split())
    kept = [line for line in lines[1:] if line.split(",")[0] not in tests]
    (out / "train.csv").write_text("\n".join([lines[0], *kept[:BATCH]]) + "\n")
    script(*one_step(out, "first"))
    infer: tuple[object, ...] = (
        "infer_roi_consistency.py",
        "--checkpoint",
        out / "first.pt",
        "--csv",
        out / "all.csv",
        "--image_root",
        data,
    )
    infer += ("--cache_dir", out / "cache", "--device", "cpu", "--save_json")
    script(*infer, out / "preds.json")
    scores = ("evaluate.py", "--preds", out / "preds.json", "--csv", out / "all.csv", "--resamples", 10, "--out")
    script(*scores, out / "scores")
    return {
        "the table": (*make, "--out_csv", out / "again.csv", "--overwrite"),
        "a training": one_step(out, "again", "--overwrite"),
        "inference": (*infer, out / "again.json", "--overwrite"),
        "the scores": (*scores, out / "scores-again", "--overwrite"),
        "the report": ("make_report.py", "--runs", out / "scores", "--out", out / "again.html", "--overwrite"),
    }


def one_step(out: Path, name: str, *more: object) -> tuple[object, ...]:
    words: tuple[object, ...] = (
        "train_roi_baselines.py",
        "--mode",
        "standard",
        "--train_csv",
        out / "train.csv",
        "--image_root",
        out / "demo",
    )
    words += ("--backbone", "test_resnet", "--weights", "none", "--img_size", 64, "--batch_size", BATCH)
    words += ("--accum_steps", 1, "--val_fraction", 0, "--epochs", 1, "--cache_dir", out / "cache", "--device", "cpu")
    return (*words, "--save", out / f"{name}.pt", *more)


def first_line(words: tuple[object, ...]) -> dict[str, float]:
    """Start a script, wait for a line that holds something, and end it."""
    began = time.perf_counter()
    command = [sys.executable, "-u", *map(str, words)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    while not process.stdout.readline().strip():
        if process.poll() is not None:
            raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.perf_counter() - began
    # Behind the name, which may hold anything. A process that has ended already is a zombie, and still counted.
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    processor = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    process.kill()
    process.communicate()
    return {"wall_seconds": seconds, "processor_seconds": processor}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def both(name: str, cost: dict[str, float], goal: float, details: dict[str, Any] | None = None) -> list[Figure]:
    found = []
    for kind, key in (("clock", "wall_seconds"), ("processor time", "processor_seconds")):
        found.append(Figure(f"{name}, {kind}", cost[key], f"<= {goal}", "s", details=details or {}))
    return found


if __name__ == "__main__":
    cli.run(main, parse_args)
