"""Kill it at random moments, give the same command again: is the result that of a run nobody touched?

    python benchmarks/faults.py --out /tmp/faults --kills 50

On a small demo set, SIGKILL for whole process groups strikes the build of a pixel cache, two trainings (the published
objective with GradNorm and accumulation, the evidence objective with workers; both with dropout in the backbone,
--cache_dir, --save_every_steps and --resume auto) and inference, at moments drawn with --seed. After each kill the same
command is given again, a run is struck --kills_a_run times at most and then left to end. Its weights, optimiser state,
metrics (but for times), predictions and cached pixels must be those of the run nobody touched, bit for bit.

Then faults that a run answers itself, --faults of each, at moments drawn the same way: SIGKILL of one worker of a
training and of an inference that decode files, SIGTERM for a training with its workers, and the same training started a
second time. What was struck must end within 10 s, in words; the same command again, or the first of the two, must end
as the run nobody touched.

Prints a table and writes benchmarks/results/faults-<machine>.json and faults-answered-<machine>.json. Takes about 25
minutes on two cores; --smoke: fewer and shorter runs, whose figures go to --out.
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

ENDS = 10.0  # seconds in which a run that was struck must have ended
SIDE = 64  # pixels of the images in the cache
TIMES = ("images_per_s", "seconds")  # columns of the metrics that no two runs share
OWN = ("args", "log", "meter")  # of a checkpoint: names of its folder, and the times of its epochs
BUILD = """
import csv, sys
from roi.data.pixel_cache import open_cache
from roi.data.images import locate
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


@dataclass
class Answer:
    """How runs answered one kind of fault."""

    faults: int = 0  # that struck a living process
    seconds: list[float] = field(default_factory=list)  # until it had ended
    wrong: list[str] = field(default_factory=list)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count, none = cli.number(int, 1), cli.number(int, 0)
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="scratch folder; what an earlier run of this left there is removed",
    )
    parser.add_argument(
        "--kills", type=none, default=50, metavar="N", help="over all stages; 0: others alone (default: %(default)s)"
    )
    parser.add_argument(
        "--kills_a_run", type=count, default=5, metavar="N", help="then the run is left to end (default: %(default)s)"
    )
    parser.add_argument(
        "--faults", type=none, default=8, metavar="N", help="of each other kind; 0: kills alone (default: %(default)s)"
    )
    parser.add_argument("--seed", type=cli.number(int, 0), default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--smoke", action=cli.on_off, default=False, help="shorter runs (default: no)")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    stages, decoding = prepare(args)
    rng = random.Random(args.seed)
    figures: list[Figure] = []
    found: dict[str, Any] = {}
    if args.kills:
        counts: dict[str, Count] = {}
        done = 0
        for place, (name, stage) in enumerate(stages.items(), 1):
            quota = round(args.kills * place / len(stages)) - done
            counts[name] = struck(stage, folder_of(args, name), quota, args.kills_a_run, rng)
            done += quota
            print(f"{name}: {summary(counts[name])}", flush=True)
        what = (
            "SIGKILL at random moments, the same command again; "
            "results against those of a run nobody touched, bit for bit"
        )
        kills = judge(args, counts)
        write(args, "faults", what, kills, counts)
        figures += kills
        found |= counts
    if args.faults:
        answers: dict[str, Answer] = {}
        homes: dict[int, Path] = {}  # of the untouched run of each stage
        for name, (stage, strike) in decoding.items():
            home = homes.setdefault(id(stage), folder_of(args, name) / "untouched")
            answers[name] = answered(stage, folder_of(args, name), home, strike, args.faults, rng)
            answer = answers[name]
            worst = max(answer.seconds, default=0.0)
            print(f"{name}: {answer.faults} faults, ended within {worst:.1f} s, {len(answer.wrong)} wrong", flush=True)
        what = (
            "workers that die, SIGTERM for a run and its workers, a second start of a run: seconds until what was "
            "struck has ended, the same command again; results against those of a run nobody touched, bit for bit"
        )
        ends = judge_answers(args, answers)
        write(args, "faults-answered", what, ends, answers)
        figures += ends
        found |= answers
    print(f"\n{table(figures)}")
    for name, one in found.items():
        for why in one.wrong[:5]:
            print(f"{name}: {why}")


def folder_of(args: argparse.Namespace, name: str) -> Path:
    return args.out / name.replace(", ", "_").replace(" ", "_")


def write(args: argparse.Namespace, name: str, what: str, figures: list[Figure], found: dict[str, Any]) -> None:
    """The result file of one half of the benchmark."""
    content = {
        "what": what,
        "command": shlex.join(["python", "benchmarks/faults.py", *numbers_of(args)]) + " --out …",
        "figures": [figure.as_dict() for figure in figures],
        "stages": {stage: vars(one) for stage, one in found.items()},
    }
    print(write_result(name, args.machine, content, args.out if args.smoke else None))


def numbers_of(args: argparse.Namespace) -> list[str]:
    """The flags that say how much was done."""
    words = [word for name in ("kills", "faults", "seed") for word in (f"--{name}", str(getattr(args, name)))]
    return [*words, "--smoke"] if args.smoke else words


def prepare(args: argparse.Namespace) -> tuple[dict[str, Stage], dict[str, tuple[Stage, Strike]]]:
    """The demo set, tables, what is killed, and what answers a fault: without a cache, so that workers live."""
    out = args.out
    data, many = out / "data", out / "many"
    if not (data / "demo.json").is_file():
        script(
            "make_demo_dataset.py", "--out", data, "--images", 120 if args.smoke else 240, "--size", 512, "--seed", 0
        )
    make = ("make_chexmultimodal_csv.py", "--src_csv", data / "Data_Entry_2017.csv", "--image_dir", data, "--overwrite")
    script(*make, "--out_csv", out / "train.csv", "--filter_list", data / "train_val_list.txt")
    rows = linked(data, many, 300 if args.smoke else 1500)
    epochs = 2 if args.smoke else 6
    train: list[object] = [
        "train_roi_consistency.py",
        "--train_csv",
        out / "train.csv",
        "--image_root",
        data,
        "--backbone",
        "squeezenet1_1",
        "--weights",
        "none",
        "--img_size",
        SIDE,
        "--batch_size",
        8,
        "--epochs",
        epochs,
        "--lr",
        1e-3,
        "--device",
        "cpu",
        "--save_every_steps",
        3,
        "--resume",
        "auto",
    ]

    def training(*flags: object) -> Stage:
        def command(folder: Path) -> list[object]:
            return [
                *train,
                *flags,
                "--cache_dir",
                folder / "pixels",
                "--save",
                folder / "roi.pt",
                "--log_csv",
                folder / "metrics.csv",
            ]

        return Stage(
            command,
            "roi.pt",
            r"^resumed ",
            lambda a, b: different_training(a, b) + different_cache(a, b, out / "train.csv", data),
        )

    trainings = {
        "training, consistency": training(
            "--objective", "consistency", "--dynamic_weights", "--accum_steps", 2, "--workers", 0
        ),
        "training, evidence": training("--warmup_epochs", epochs // 2, "--workers", 2),
    }
    trained = "training, evidence" if args.kills else "training, a worker dies"
    checkpoint = folder_of(args, trained) / "untouched" / "roi.pt"

    def infer(folder: Path, *cache: object) -> list[object]:
        shared = ["--csv", rows, "--image_root", many, *cache, "--device", "cpu", "--workers", 2]
        return [
            "infer_roi_consistency.py",
            "--checkpoint",
            checkpoint,
            *shared,
            "--save_json",
            folder / "preds.json",
            "--overwrite",
        ]

    def train_from_files(folder: Path) -> list[object]:
        where = ["--save", folder / "roi.pt", "--log_csv", folder / "metrics.csv"]
        return [*train, "--warmup_epochs", epochs // 2, "--workers", 2, *where]

    def infer_cached(folder: Path) -> list[object]:
        return infer(folder, "--cache_dir", folder / "pixels")

    files_training = Stage(train_from_files, "roi.pt", r"^resumed ", different_training)
    files_inference = Stage(infer, "preds.json", r"$^", different_predictions)
    decoding: dict[str, tuple[Stage, Strike]] = {
        "training, a worker dies": (files_training, kill_a_worker),
        "inference, a worker dies": (files_inference, kill_a_worker),
        "training, SIGTERM": (files_training, terminate),
        "training, started twice": (files_training, start_again),
    }
    there, shards = r"^pixel cache .* (all )?[1-9][0-9,]* images there", "pixels/*/shard-*.json"
    stages = {
        "cache build": Stage(
            lambda f: ["-c", BUILD, rows, many, f / "pixels", SIDE],
            shards,
            there,
            lambda a, b: different_cache(a, b, rows, many),
        ),
        **trainings,
        "inference": Stage(
            infer_cached, shards, there, lambda a, b: different_predictions(a, b) + different_cache(a, b, rows, many)
        ),
    }
    return stages, decoding


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
            count.resumed += kill > 0 and bool(
                re.search(stage.resumed, (run / "log.txt").read_text(errors="replace"), re.MULTILINE)
            )
            if code != -signal.SIGKILL:
                break
        problems = [f"exit code {code}: {last_line(run)}"] if code else stage.differs(run, untouched)
        count.identical += not problems
        count.wrong += [f"{run.name}: {why}" for why in problems]
    return count


def attempt(stage: Stage, run: Path, after: float | None, count: Count) -> int:
    """Give the command and kill it `after` so many seconds, if it still lives. -> its exit code"""
    began = time.time()
    process = started(stage, run)
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
        count.lost.append(
            round(time.time() - max([began, *(path.stat().st_mtime for path in run.glob(stage.saved))]), 2)
        )
    return code


def started(stage: Stage, run: Path, log: str = "log.txt") -> subprocess.Popen[bytes]:
    """Give the command; what it says goes to `log` in its folder, that of the last time."""
    run.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, *map(str, stage.command(run))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(run / log, "w", encoding="utf-8") as file:
        return subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def answered(stage: Stage, folder: Path, untouched: Path, strike: Strike, quota: int, rng: random.Random) -> Answer:
    """Strike runs of a stage `quota` times, each once, then give the command again: all end as the untouched one."""
    shutil.rmtree(folder, ignore_errors=True)
    answer = Answer()
    if not untouched.is_dir():
        began = time.time()
        if attempt(stage, untouched, None, Count()) != 0:
            answer.wrong.append(f"the untouched run failed: {last_line(untouched)}")
            return answer
        (untouched / "seconds.txt").write_text(str(time.time() - began))
    takes = float((untouched / "seconds.txt").read_text())
    for n in range(10 * quota):  # some have ended before they are struck
        if answer.faults == quota or len(answer.wrong) > 2:
            break
        run = folder / f"run-{n}"
        process = started(stage, run)
        try:
            process.wait(rng.uniform(1.0, takes))
        except subprocess.TimeoutExpired:
            seconds, problems = strike(stage, run, process, rng)
        else:
            continue
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if seconds is None:
            continue
        answer.faults += 1
        answer.seconds.append(round(seconds, 2))
        if not problems and attempt(stage, run, None, Count()) != 0:
            problems = [f"the same command again failed: {last_line(run)}"]
        answer.wrong += [f"{run.name}: {why}" for why in problems or stage.differs(run, untouched)]
    return answer


def kill_a_worker(
    stage: Stage, run: Path, process: subprocess.Popen[bytes], rng: random.Random
) -> tuple[float | None, list[str]]:
    """-> seconds until the run had ended, None where it had no worker any more; and what is wrong with how it ended."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers: list[str] = []
    while not workers and process.poll() is None:
        time.sleep(0.05)
        workers = children.read_text().split() if children.exists() else []
    if process.poll() is not None:
        return None, []
    try:
        os.kill(int(rng.choice(workers)), signal.SIGKILL)
    except ProcessLookupError:
        return None, []
    seconds = ending(process)
    if process.returncode == 0:  # all batches were there already
        return None, []
    return seconds, wrong_end(run, process, 1, "a worker was killed")


def terminate(
    stage: Stage, run: Path, process: subprocess.Popen[bytes], rng: random.Random
) -> tuple[float | None, list[str]]:
    """As a job scheduler does, to the run and all its workers."""
    os.killpg(process.pid, signal.SIGTERM)
    seconds = ending(process)
    begun = bool((run / "log.txt").read_text(errors="replace"))
    if process.returncode == 0 or process.returncode == -signal.SIGTERM and not begun:  # Python itself had not started
        return None, []
    return seconds, wrong_end(run, process, 128 + signal.SIGTERM, "")


def start_again(
    stage: Stage, run: Path, process: subprocess.Popen[bytes], rng: random.Random
) -> tuple[float | None, list[str]]:
    """The same command while it runs: the second must end, the first go on."""
    second = started(stage, run, "second.txt")
    seconds = ending(second)
    if process.poll() is not None:
        return None, []
    problems = wrong_end(run, second, 2, "is writing it", "second.txt")
    if process.wait() != 0:
        problems.append(f"the first of the two failed: {last_line(run)}")
    return seconds, problems


Strike = Callable[[Stage, Path, "subprocess.Popen[bytes]", random.Random], tuple[float | None, list[str]]]


def ending(process: subprocess.Popen[bytes]) -> float:
    """Seconds until it has ended by itself; after a minute it is killed."""
    began = time.monotonic()
    try:
        process.wait(60.0)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return time.monotonic() - began


def wrong_end(run: Path, process: subprocess.Popen[bytes], code: int, words: str, log: str = "log.txt") -> list[str]:
    """What is wrong with how a run ended: its exit code, a traceback, or that it does not say why in one line."""
    said = (run / log).read_text(errors="replace")
    wrong = [] if process.returncode == code else [f"exit code {process.returncode}, not {code}"]
    if "Traceback" in said:
        wrong.append("a traceback")
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    if words and (len(lines) != 1 or words not in lines[0]):
        wrong.append(f"{len(lines)} lines of errors: {lines[:1]}")
    return wrong


def last_line(run: Path) -> str:
    return ((run / "log.txt").read_text(errors="replace").strip().splitlines() or [""])[-1][:300]


def different_cache(run: Path, untouched: Path, rows: Path, root: Path) -> list[str]:
    """The shards of both must be sound, and hold the same pixels of every image."""
    import numpy as np

    from roi.data.images import locate
    from roi.data.pixel_cache import PixelCache, missing_files
    from roi.data.pixel_shards import identify, map_rows, sound_shards
    from roi.data.table import read_table

    names = read_table(rows)["image"].tolist()
    files = {identify(name, str(path)): str(path) for name, path in zip(names, locate(root, names), strict=True)}
    found: list[Any] = []
    for folder in (run, untouched):
        (home,) = (folder / "pixels").glob(f"{SIDE}px-*")
        shards, damaged = sound_shards(home, SIDE, files, {})
        if damaged:
            return [f"{len(damaged)} damaged shards of the cache"]
        row_of = {
            identity: shard.first + k for shard in shards.values() for k, identity in enumerate(shard.identities())
        }
        here = np.array([row_of[identity] for identity in files if identity in row_of])
        found.append(
            (
                len(missing_files(shards, files, {})),
                PixelCache(map_rows(home, here.max() + 1, SIDE), here, {}).gather(np.arange(len(here))),
            )
        )
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
        wrong += [
            f"{name}: {key}" for key in sorted(mine.keys() | other.keys()) if not same(mine.get(key), other.get(key))
        ]
    rows = [metrics(folder / "metrics.csv") for folder in (run, untouched)]
    wrong += [] if rows[0] == rows[1] else ["metrics.csv"]
    return wrong + (
        [] if (run / "roi_val.csv").read_bytes() == (untouched / "roi_val.csv").read_bytes() else ["roi_val.csv"]
    )


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
        f"{count.kills} kills in {count.runs} runs of {count.untouched_s:.1f} s (untouched), "
        f"{count.resumed} starts went on, {count.identical} identical, worst time lost {worst}"
    )


def judge(args: argparse.Namespace, counts: dict[str, Count]) -> list[Figure]:
    kills = sum(count.kills for count in counts.values())
    figures = [Figure("kills that struck a living process", kills, f">= {args.kills}", "kills")]
    for name, count in counts.items():
        details = {"kills": count.kills, "runs": count.runs, "resumed": count.resumed}
        bad = count.runs - count.identical + bool(count.wrong and not count.runs)
        figures.append(
            Figure(
                f"{name}: runs that do not end as the untouched one", bad, "<= 0", f"of {count.runs}", details=details
            )
        )
        worst = max(count.lost, default=None)
        figures.append(
            Figure(
                f"{name}: most time lost to a kill",
                worst,
                unit="s",
                why="no kill struck",
                details={"untouched_s": count.untouched_s},
            )
        )
    return figures


def judge_answers(args: argparse.Namespace, answers: dict[str, Answer]) -> list[Figure]:
    figures = []
    for name, answer in answers.items():
        worst = max(answer.seconds, default=None)
        bad = len(answer.wrong) + max(0, args.faults - answer.faults)
        figures.append(Figure(f"{name}: longest until it had ended", worst, f"<= {ENDS:g}", "s", why="no fault struck"))
        figures.append(Figure(f"{name}: runs that do not end as the untouched one", bad, "<= 0", f"of {answer.faults}"))
    return figures


if __name__ == "__main__":
    cli.run(main, parse_args)
