"""Kill it at random moments, give the same command again: is the result that of a run nobody touched?

    python benchmarks/faults.py --out /tmp/faults --kills 50

On a small demo set, SIGKILL for whole process groups strikes the build of a pixel cache, two trainings (the published objective with GradNorm
and accumulation, the evidence objective with workers; both with dropout in the backbone, --cache_dir, --save_every_steps and --resume auto) and
inference, at moments drawn with --seed. After each kill the same command is given again, a run is struck --kills_a_run times at most and then
left to end. Its weights, optimiser state, metrics (but for times), predictions and cached pixels must be those of the run nobody touched, bit for bit.

Prints a table and writes benchmarks/results/faults-<machine>.json. Takes about 15 minutes on two cores; --smoke: a few kills of shorter runs,
whose figures go to --out.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import ROOT, Figure, add_machine, linked, script, table, write_result

from roi import cli

SIDE = 64  # pixels of the images in the cache
TIMES = ("images_per_s", "seconds")  # columns of the metrics that no two runs share
OWN = ("args", "log", "meter")  # of a checkpoint: names of its folder, and the times of its epochs
BUILD = """
import csv, sys
from roi.cache import open_cache
from roi.images import locate
table, root, folder, side = sys.argv[1:]
names = [row["image"] for row in csv.DictReader(open(table))]
open_cache(folder, names, locate(root, names), int(side), 2)
"""


@dataclass
class Stage:
    command: Callable[[Path], list[object]]  # of a run in a folder
    saved: str  # files that a kill does not take away, as a pattern below the folder
    resumed: str  # what the output says where a run goes on
    differs: Callable[[Path, Path], list[str]]  # folder of a run, of the untouched one -> in what


@dataclass
class Count:
    kills: int = 0  # that struck a living process
    runs: int = 0
    resumed: int = 0  # starts that found something of a run before
    identical: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)  # seconds between a kill and what was last saved, or the start
    untouched_s: float = 0.0


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count = cli.number(int, 1)
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="scratch folder; what an earlier run of this left there is removed")
    parser.add_argument("--kills", type=count, default=50, metavar="N", help="over all stages (default: %(default)s)")
    parser.add_argument("--kills_a_run", type=count, default=5, metavar="N", help="then the run is left to end (default: %(default)s)")
    parser.add_argument("--seed", type=cli.number(int, 0), default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--smoke", action=cli.on_off, default=False, help="shorter runs (default: no)")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    stages = prepare(args)
    rng = random.Random(args.seed)
    counts: dict[str, Count] = {}
    done = 0
    for place, (name, stage) in enumerate(stages.items(), 1):
        quota = round(args.kills * place / len(stages)) - done
        counts[name] = struck(stage, args.out / name.replace(", ", "_").replace(" ", "_"), quota, args.kills_a_run, rng)
        done += quota
        print(f"{name}: {summary(counts[name])}", flush=True)
    figures = judge(args, counts)
    path = write_result(
        "faults", args.machine,
        {
            "what": "SIGKILL at random moments, the same command again; results against those of a run nobody touched, bit for bit",
            "command": shlex.join(["python", "benchmarks/faults.py", "--kills", str(args.kills), "--seed", str(args.seed)]) + " --out …",
            "figures": [figure.as_dict() for figure in figures],
            "stages": {name: vars(count) for name, count in counts.items()},
        },
        args.out if args.smoke else None,
    )  # fmt: skip
    print(f"\n{table(figures)}\n{path}")
    for name, count in counts.items():
        for why in count.wrong[:5]:
            print(f"{name}: {why}")


def prepare(args: argparse.Namespace) -> dict[str, Stage]:
    """The demo set, tables, and what is struck."""
    out = args.out
    data, many = out / "data", out / "many"
    if not (data / "demo.json").is_file():
        script("make_demo_dataset.py", "--out", data, "--images", 120 if args.smoke else 240, "--size", 512, "--seed", 0)
    make = ("make_chexmultimodal_csv.py", "--src_csv", data / "Data_Entry_2017.csv", "--image_dir", data, "--overwrite")
    script(*make, "--out_csv", out / "train.csv", "--filter_list", data / "train_val_list.txt")
    rows = linked(data, many, 300 if args.smoke else 1500)
    epochs = 2 if args.smoke else 6
    train: list[object] = [
        "train_roi_consistency.py", "--train_csv", out / "train.csv", "--image_root", data, "--backbone", "squeezenet1_1", "--weights", "none",
        "--img_size", SIDE, "--batch_size", 8, "--epochs", epochs, "--lr", 1e-3, "--device", "cpu", "--save_every_steps", 3, "--resume", "auto",
    ]  # fmt: skip

    def training(*flags: object) -> Stage:
        def command(folder: Path) -> list[object]:
            return [*train, *flags, "--cache_dir", folder / "pixels", "--save", folder / "roi.pt", "--log_csv", folder / "metrics.csv"]

        return Stage(command, "roi.pt", r"^resumed ", lambda a, b: different_training(a, b) + different_cache(a, b, out / "train.csv", data))

    trainings = {
        "training, consistency": training("--objective", "consistency", "--dynamic_weights", "--accum_steps", 2, "--workers", 0),
        "training, evidence": training("--warmup_epochs", epochs // 2, "--workers", 2),
    }
    checkpoint = out / "training_evidence" / "untouched" / "roi.pt"

    def infer(folder: Path) -> list[object]:
        shared = ["--csv", rows, "--image_root", many, "--cache_dir", folder / "pixels", "--device", "cpu", "--workers", 2]
        return ["infer_roi_consistency.py", "--checkpoint", checkpoint, *shared, "--save_json", folder / "preds.json", "--overwrite"]

    there, shards = r"^pixel cache .* (all )?[1-9][0-9,]* images there", "pixels/*/shard-*.json"
    return {
        "cache build": Stage(lambda f: ["-c", BUILD, rows, many, f / "pixels", SIDE], shards, there, lambda a, b: different_cache(a, b, rows, many)),
        **trainings,
        "inference": Stage(infer, shards, there, lambda a, b: different_predictions(a, b) + different_cache(a, b, rows, many)),
    }


def struck(stage: Stage, folder: Path, quota: int, a_run: int, rng: random.Random) -> Count:
    """Runs of a stage until `quota` kills have struck it."""
    shutil.rmtree(folder, ignore_errors=True)
    untouched, count = folder / "untouched", Count()
    began = time.monotonic()
    if attempt(stage, untouched, None, count) != 0:
        count.wrong.append(f"the untouched run failed: {last_line(untouched)}")
        return count
    count.untouched_s = round(time.monotonic() - began, 2)
    while count.kills < quota and len(count.wrong) < 3:
        run = folder / f"run-{count.runs}"
        most = min(a_run, quota - count.kills)
        count.runs += 1
        code = -signal.SIGKILL
        for kill in range(most + 1):
            code = attempt(stage, run, rng.uniform(0, count.untouched_s) if kill < most else None, count)
            count.resumed += kill > 0 and bool(re.search(stage.resumed, (run / "log.txt").read_text(errors="replace"), re.MULTILINE))
            if code != -signal.SIGKILL:
                break
        problems = [f"exit code {code}: {last_line(run)}"] if code else stage.differs(run, untouched)
        count.identical += not problems
        count.wrong += [f"{run.name}: {why}" for why in problems]
    return count


def attempt(stage: Stage, run: Path, after: float | None, count: Count) -> int:
    """Give the command and kill it `after` so many seconds, if it still lives. -> its exit code"""
    run.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, *map(str, stage.command(run))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    began = time.time()
    with open(run / "log.txt", "w", encoding="utf-8") as log:  # of the last attempt
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait(after)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    if code == -signal.SIGKILL:
        count.kills += 1
        count.lost.append(round(time.time() - max([began, *(path.stat().st_mtime for path in run.glob(stage.saved))]), 2))
    return code


def last_line(run: Path) -> str:
    return ((run / "log.txt").read_text(errors="replace").strip().splitlines() or [""])[-1][:300]


def different_cache(run: Path, untouched: Path, rows: Path, root: Path) -> list[str]:
    """The shards of both must be sound, and hold the same pixels of every image."""
    import numpy as np

    from roi.cache import PixelCache, identify, lacking, map_rows, sound_shards
    from roi.images import locate
    from roi.table import read_table

    names = read_table(rows)["image"].tolist()
    files = {identify(name, str(path)): str(path) for name, path in zip(names, locate(root, names), strict=True)}
    found: list[Any] = []
    for folder in (run, untouched):
        (home,) = (folder / "pixels").glob(f"{SIDE}px-*")
        shards, damaged = sound_shards(home, SIDE, files, {})
        if damaged:
            return [f"{len(damaged)} damaged shards of the cache"]
        row_of = {identity: shard.first + k for shard in shards.values() for k, identity in enumerate(shard.identities())}
        here = np.array([row_of[identity] for identity in files if identity in row_of])
        found.append((len(lacking(shards, files)), PixelCache(map_rows(home, here.max() + 1, SIDE), here, {}).gather(np.arange(len(here)))))
    (lacks, pixels), (other_lacks, other) = found
    return ["images of the cache"] if lacks != other_lacks or not np.array_equal(pixels, other) else []


def different_training(run: Path, untouched: Path) -> list[str]:
    import torch

    wrong = []
    for name in ("roi.pt", "roi_best.pt"):
        there = [(folder / name).is_file() for folder in (run, untouched)]
        if there != [True, True]:  # no epoch is the best where the validation images have no score
            wrong += [f"{name} is in one of them alone"] if any(there) else []
            continue
        states = [torch.load(folder / name, map_location="cpu", weights_only=True) for folder in (run, untouched)]
        mine, other = ({key: value for key, value in state.items() if key not in OWN} for state in states)
        wrong += [f"{name}: {key}" for key in sorted(mine.keys() | other.keys()) if not same(mine.get(key), other.get(key))]
    rows = [metrics(folder / "metrics.csv") for folder in (run, untouched)]
    wrong += [] if rows[0] == rows[1] else ["metrics.csv"]
    return wrong + ([] if (run / "roi_val.csv").read_bytes() == (untouched / "roi_val.csv").read_bytes() else ["roi_val.csv"])


def same(a: Any, b: Any) -> bool:
    """Bit for bit, through dicts and lists."""
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def metrics(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def different_predictions(run: Path, untouched: Path) -> list[str]:
    return [] if (run / "preds.json").read_bytes() == (untouched / "preds.json").read_bytes() else ["preds.json"]


def summary(count: Count) -> str:
    worst = f"{max(count.lost):.1f} s" if count.lost else "none"
    return (
        f"{count.kills} kills in {count.runs} runs of {count.untouched_s:.1f} s (untouched), {count.resumed} starts went on, "
        f"{count.identical} identical, worst time lost {worst}"
    )


def judge(args: argparse.Namespace, counts: dict[str, Count]) -> list[Figure]:
    kills = sum(count.kills for count in counts.values())
    figures = [Figure("kills that struck a living process", kills, f">= {args.kills}", "kills")]
    for name, count in counts.items():
        details = {"kills": count.kills, "runs": count.runs, "resumed": count.resumed}
        bad = count.runs - count.identical + bool(count.wrong and not count.runs)
        figures.append(Figure(f"{name}: runs that do not end as the untouched one", bad, "<= 0", f"of {count.runs}", details=details))
        worst = max(count.lost, default=None)
        figures.append(Figure(f"{name}: most time lost to a kill", worst, unit="s", why="no kill struck", details={"untouched_s": count.untouched_s}))
    return figures


if __name__ == "__main__":
    cli.run(main, parse_args)
