"""What would a user pick instead, and is it faster? Training and inference beside four others, on the same images.

    pip install --target /tmp/peers --no-deps torchxrayvision scikit-image imageio lazy_loader tifffile
    pip install --target /tmp/peers --no-deps onnx onnxscript onnx-ir ml_dtypes onnxruntime flatbuffers openvino
    PYTHONPATH=/tmp/peers python benchmarks/peers.py --data_path NIH_FOLDER --originals NIH_ORIGINALS \
        --weights WEIGHTS --out runs/peers

NIH_FOLDER has Data_Entry_2017.csv and images/; --weights is a file with ImageNet weights of tf_efficientnet_lite0.
The others: the published loop with its three forwards (benchmarks/published.py), a plain PyTorch loop, the data set
and the loss of torchxrayvision, the pipeline of timm (all in benchmarks/peer_loops.py), for inference also ONNX Runtime
and OpenVINO on what export_model.py writes. Packages that are not there are said so and left out.

Each contender is a process of its own that does one epoch when it is told, so that they come in turns (ABAB) and what
else the machine does strikes all; imports are not counted. A first epoch begins with flags and an empty folder: it
makes model, loaders and, here, the pixel cache. Ratios are medians over the turns, by the clock and in processor time
(of all processes of a contender). Writes benchmarks/results/peers-<machine>.json.
"""

from __future__ import annotations

import argparse
import ast
import csv
import importlib.util
import inspect
import json
import math
import multiprocessing
import os
import shutil
import statistics
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import ROOT, Figure, add_machine, commit, script, table, threads, write_result

from roi import cli
from roi.errors import UserError
from roi.labels import LABELS

if TYPE_CHECKING:
    from peer_loops import Task

RIVALS = ("plain", "xrv", "timm")
NEEDS = {"xrv": "torchxrayvision", "onnx": "onnxruntime", "openvino": "openvino"}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SMALL, LARGE = ("test_resnet", 96), ("convnext_tiny", 128)  # bound by loading; by computing
REAL = ("tf_efficientnet_lite0", 96)
CLOCKS = ("seconds", "processor")  # of a Lap
WITHIN = 8  # epochs of the plain loop, whose val_auroc is to be reached


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="scratch folder: demo set, caches, runs")
    parser.add_argument("--data_path", type=Path, required=True, metavar="DIR", help="NIH images, smaller or not")
    parser.add_argument("--weights", type=Path, metavar="FILE", help=f"of {REAL[0]} (default: no AUROC on real images)")
    originals = "NIH images as NIH has them, 1,024 px (default: no row of them)"
    parser.add_argument("--originals", type=Path, metavar="DIR", help=originals)
    parser.add_argument("--rows", default=",".join(ROWS), metavar="A,B", help="what to measure (default: %(default)s)")
    parser.add_argument("--turns", type=cli.number(int, 1), default=3, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--later", type=cli.number(int, 1), default=2, metavar="N", help="epochs after the first of a turn"
    )
    parser.add_argument(
        "--images", type=cli.number(int, 40), default=256, metavar="N", help="trained on (default: %(default)s)"
    )
    parser.add_argument("--predicted", type=cli.number(int, 8), metavar="N", help="of inference (default: all)")
    published = "race the published loop as well, the slowest (default: yes)"
    parser.add_argument("--published", action=cli.on_off, default=True, help=published)
    parser.add_argument("--seeds", type=cli.number(int, 1), default=3, metavar="N", help="of the demo set's AUROC")
    parser.add_argument("--workers", type=cli.number(int, 0), default=2, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--threads", type=cli.number(int, 1), default=1, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="autocast (default: %(default)s)")
    add_machine(parser)
    args = parser.parse_args(argv)
    unknown = set(args.rows.split(",")) - set(ROWS)
    if unknown:
        parser.error(f"--rows: there is no {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return args


def main(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "what": "this project beside what a user would pick instead: ratios > 1 say that this project is faster",
        "command": "PYTHONPATH=… python benchmarks/peers.py --data_path … --weights … --out …",
        "flags": {
            name: getattr(args, name) for name in ("rows", "turns", "later", "images", "workers", "threads", "dtype")
        },
        "absent": sorted(package for package in NEEDS.values() if importlib.util.find_spec(package) is None),
        "lines_a_user_writes": lines_written(),
        # Rows that an earlier run has measured stay.
        "rows": earlier_rows(args.machine),
    }
    for package in result["absent"]:
        print(f"{package} is not installed: left out")
    figures: list[Figure] = []
    for name in args.rows.split(","):
        print(f"== {name}", flush=True)
        found = ROWS[name](args)
        print(table(found), flush=True)
        figures += found
        measured = {"commit": commit(), "load_average": os.getloadavg()[0]}
        result["rows"][name] = measured | {"figures": [figure.as_dict() for figure in found]}
        # After each row: a run that is ended keeps what it has measured.
        write_result("peers", args.machine, result, args.out)
    # Anew: another run with other rows may have ended meanwhile.
    result["rows"] = earlier_rows(args.machine) | {name: result["rows"][name] for name in args.rows.split(",")}
    print(f"\n{table(figures)}\n{write_result('peers', args.machine, result)}")


def earlier_rows(machine: str) -> dict[str, Any]:
    path = ROOT / "benchmarks" / "results" / f"peers-{machine}.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else {}


def installed(names: Sequence[str]) -> list[str]:
    return [name for name in names if name not in NEEDS or importlib.util.find_spec(NEEDS[name]) is not None]


# A contender in a process of its own


@dataclass
class Lap:
    """What a contender needed for one epoch, or one inference."""

    seconds: float  # of training alone
    processor: float
    whole: float = 0.0  # with validation and saving
    whole_processor: float = 0.0
    auroc: float = 0.0
    megabytes: float = 0.0


@dataclass
class Contender:
    name: str
    task: Task
    kind: str  # training or inference
    pipe: Connection = field(init=False)

    def __post_init__(self) -> None:
        # Forked, so that imports, which all share, are done once.
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        from peer_process import serve

        self.task.folder.parent.mkdir(parents=True, exist_ok=True)
        self.process = context.Process(target=serve, args=(theirs, self.name, self.kind, self.task))
        self.process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until it can be told."""
        self.pipe.recv()

    def lap(self, first: bool = False) -> Lap:
        if first:
            shutil.rmtree(self.task.folder, ignore_errors=True)
            self.task.folder.mkdir(parents=True)
        self.pipe.send("first" if first else "next")
        try:
            lap = Lap(**self.pipe.recv())
        except EOFError:
            raise RuntimeError(f"{self.name} ended; its output is in {self.task.folder}.log") from None
        print(
            f"{self.name}: {lap.seconds:.1f} s, {lap.processor:.1f} s of a processor, {lap.megabytes:.0f} MB",
            flush=True,
        )
        return lap


@contextmanager
def racing(names: Sequence[str], kind: str, make: Callable[[str], Task]) -> Iterator[list[Contender]]:
    """The contenders, ready; whatever happens they end."""
    contenders = [Contender(name, make(name), kind) for name in names]
    try:
        for contender in contenders:
            contender.ready()
        yield contenders
        for contender in contenders:
            contender.pipe.send(None)
            contender.process.join()
            shutil.rmtree(contender.task.folder, ignore_errors=True)
    finally:
        for contender in contenders:
            contender.process.kill()


def in_turns(
    args: argparse.Namespace, names: Sequence[str], kind: str, later: int, turns: int, make: Callable[[str], Task]
) -> tuple[dict[str, list[Lap]], dict[str, list[Lap]]]:
    """First and later laps of each contender. Each turn begins anew."""
    first: dict[str, list[Lap]] = {name: [] for name in names}
    after: dict[str, list[Lap]] = {name: [] for name in names}
    with racing(names, kind, make) as contenders:
        for _ in range(turns):
            for lap in range(1 + later):
                for contender in contenders:
                    found = first if lap == 0 else after
                    found[contender.name].append(contender.lap(lap == 0))
    return first, after


# Training


def tasks(
    args: argparse.Namespace,
    rows: Rows,
    model: tuple[str, int],
    trained: int,
    validated: int,
    name: str = "table",
    **more: Any,
) -> Callable[[str], Task]:
    """-> the task of a contender by its name"""
    from peer_loops import Task

    backbone, side = model
    picked = rows.split(trained, validated)
    images = [rows.images[n] for n in picked]
    path = args.out / f"{name}-{len(images)}-{backbone}.csv"
    rows.write_nih(path, picked)
    common: dict[str, Any] = {
        "classes": sorted(LABELS),
        "trained": len(picked) - validated,
        "table": path,
        "weights": "none",
        "mean": IMAGENET[0],
        "std": IMAGENET[1],
        "lr": 2e-3,
        "seed": 0,
        "workers": args.workers,
        "threads": args.threads,
        "dtype": args.dtype,
        **more,
    }
    batch = common.pop("batch", 32)
    return lambda name: Task(
        images,
        rows.targets[picked],
        folder=args.out / "runs" / name,
        backbone=backbone,
        side=side,
        batch=batch,
        **common,
    )


@dataclass
class Rows:
    """Images of a Data_Entry_2017.csv whose files are there."""

    images: list[str]
    targets: np.ndarray
    lines: list[dict[str, str]]

    def split(self, trained: int, validated: int) -> list[int]:
        """The first so many to train on, and the last ones to validate, of other patients."""
        held = [*range(len(self.lines) - validated, len(self.lines))]
        patients = {self.lines[n]["Patient ID"] for n in held}
        others = [n for n in range(len(self.lines) - validated) if self.lines[n]["Patient ID"] not in patients]
        return others[:trained] + held

    def write_nih(self, path: Path, picked: Sequence[int]) -> None:
        """As NIH has it, with the paths for names: what torchxrayvision reads."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            out = csv.DictWriter(file, list(self.lines[0]))
            out.writeheader()
            out.writerows(self.lines[n] | {"Image Index": self.images[n]} for n in picked)


def read_rows(folder: Path, limit: int | None = None, test: bool = False) -> Rows:
    """Those of the official list for training, with `test` all; the first `limit`."""
    from roi.data.images import locate

    with open(folder / "Data_Entry_2017.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    if not test:
        listed = set((folder / "test_list.txt").read_text().split())
        lines = [line for line in lines if line["Image Index"] not in listed]
    paths = locate(folder, [line["Image Index"] for line in lines])
    there = [(str(Path(path).resolve()), line) for path, line in zip(paths, lines, strict=True) if path]
    if not there:
        raise UserError(f"{folder}: none of the images of Data_Entry_2017.csv is there")
    there = there[:limit]
    classes = sorted(LABELS)
    targets = np.zeros((len(there), len(classes)), dtype=np.float32)
    for row, (_, line) in enumerate(there):
        for label in line["Finding Labels"].split("|"):
            if label in classes:
                targets[row, classes.index(label)] = 1
    return Rows([path for path, _ in there], targets, [line for _, line in there])


def epochs(args: argparse.Namespace) -> list[Figure]:
    """Small backbone: loading decides."""
    rows = read_rows(args.data_path)
    make = tasks(args, rows, SMALL, args.images, 64)
    names = installed(("ours", *(("published",) if args.published else ()), *RIVALS))
    first, later = in_turns(args, names, "training", args.later, args.turns, make)
    return compared("small", SMALL, make("ours").trained, first, later, 3.0)


def epochs_large(args: argparse.Namespace) -> list[Figure]:
    """ConvNeXt-Tiny: computing decides; the published loop computes three times as much and is left out."""
    rows = read_rows(args.data_path)
    make = tasks(args, rows, LARGE, 32, 16, batch=16, lr=1e-4)
    first, later = in_turns(args, installed(("ours", *RIVALS)), "training", args.later, args.turns, make)
    return compared("large", LARGE, make("ours").trained, first, later, 1.1)


def epochs_originals(args: argparse.Namespace) -> list[Figure]:
    """Files of 1,024 px, as they are downloaded; few are at hand, so each is there several times."""
    title = f"originals of 1,024 px, {SMALL[0]} {SMALL[1]} px"
    if args.originals is None:
        return [Figure(title, None, ">= 3.0", why="--originals not given")]
    rows = copied(read_rows(args.originals), args.out / "originals", args.images + 64)
    make = tasks(args, rows, SMALL, args.images, 64, name="originals")
    first, later = in_turns(args, installed(("ours", *RIVALS)), "training", args.later, args.turns, make)
    return compared("originals", SMALL, make("ours").trained, first, later, 3.0, ", originals of 1,024 px")


def copied(rows: Rows, folder: Path, number: int) -> Rows:
    """`number` images, copies of these in turn: a file of its own each, and a patient of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    order = [n % len(rows.images) for n in range(number)]
    images = [str((folder / f"{n:05d}_000.png").resolve()) for n in range(number)]
    for image, n in zip(images, order, strict=True):
        shutil.copyfile(rows.images[n], image)
    lines = [rows.lines[n] | {"Patient ID": str(1 + place)} for place, n in enumerate(order)]
    return Rows(images, rows.targets[order], lines)


def compared(
    name: str,
    model: tuple[str, int],
    images: int,
    first: dict[str, list[Lap]],
    later: dict[str, list[Lap]],
    goal: float,
    of: str = "",
) -> list[Figure]:
    figures = []
    backbone = f"{model[0]} {model[1]} px{of}"
    # The cache is made of the validation images, too: a first epoch counts with its validation.
    title = f"first epoch with validation, {backbone}"
    figures += against_best(title, first, images, 1.0, ("whole", "whole_processor"))
    figures += against_best(f"later epochs, {backbone}", later, images, goal)
    last = {who: round(statistics.median(lap.megabytes for lap in laps)) for who, laps in later.items()}
    figures.append(
        Figure(f"memory, {backbone}", last["ours"] / min(last[r] for r in RIVALS if r in last), details=last)
    )
    return figures


def against_best(
    title: str, laps: dict[str, list[Lap]], images: int, goal: float, kinds: tuple[str, str] = CLOCKS
) -> list[Figure]:
    """The clock and the processor, against the best of the rivals by its median."""
    figures = []
    for kind, unit in zip(kinds, ("clock", "processor time"), strict=True):
        times = {name: [getattr(lap, kind) for lap in found] for name, found in laps.items()}
        rates = {f"{name}_images_per_s": images / statistics.median(values) for name, values in times.items()}
        rivals = [name for name in times if name in RIVALS]
        best = min(rivals, key=lambda name: statistics.median(times[name]))
        ratios = [theirs / ours for theirs, ours in zip(times[best], times["ours"], strict=True)]
        spread = {"best": best, "lowest": min(ratios), "highest": max(ratios), "turns": len(ratios), "images": images}
        figure = Figure(
            f"{title}, against {best}, {unit}", statistics.median(ratios), f">= {goal}", details=spread | rates
        )
        figures.append(figure)
    return figures


# Time to a given AUROC


def auroc_demo(args: argparse.Namespace) -> list[Figure]:
    figures = []
    for seed in range(args.seeds):
        data = args.out / f"demo-{seed}"
        if not (data / "demo.json").is_file():
            script("make_demo_dataset.py", "--out", data, "--images", 600, "--size", 256, "--seed", seed)
        rows = read_rows(data)
        make = tasks(args, rows, SMALL, 300, 100, batch=16, seed=seed)
        figures.append(time_to_auroc(f"demo set, seed {seed}, {SMALL[0]} {SMALL[1]} px", make))
        shutil.rmtree(data)
    return [*figures, median_of_seeds("demo set", figures)]


def auroc_nih(args: argparse.Namespace) -> list[Figure]:
    title = f"real X-rays, {REAL[0]} {REAL[1]} px"
    if args.weights is None:
        return [Figure(title, None, "<= 0.5", why="--weights not given")]
    from roi.models.backbones import normalisation_of

    rows = read_rows(args.data_path)
    mean, std = normalisation_of(REAL[0], str(args.weights))
    weights = str(args.weights.resolve())
    figures = []
    for way in ("ours", "frozen"):
        found = []
        for seed in range(args.seeds):
            more: dict[str, Any] = {"batch": 16, "weights": weights, "mean": mean, "std": std, "lr": 1e-4, "seed": seed}
            make = tasks(args, rows, REAL, args.images, 400, **more)
            found.append(time_to_auroc(f"{title}, {way}, seed {seed}", make, way))
        figures += [*found, median_of_seeds(f"{title}, {way}", found)]
    return figures


def median_of_seeds(title: str, figures: list[Figure]) -> Figure:
    """What was not reached took at least as long."""
    middle = statistics.median(math.inf if figure.value is None else figure.value for figure in figures)
    name = f"{title}, median of the seeds"
    return Figure(name, None, "<= 0.5", why="not reached") if math.isinf(middle) else Figure(name, middle, "<= 0.5")


def time_to_auroc(title: str, make: Callable[[str], Task], way: str = "ours") -> Figure:
    """Seconds until val_auroc is what the plain loop has after WITHIN epochs, epochs in turns, validation included."""
    theirs: list[Lap] = []
    mine: list[Lap] = []
    with racing(("plain", way), "training", make) as (plain, ours):
        for _ in range(WITHIN):
            theirs.append(plain.lap(not theirs))
            mine.append(ours.lap(not mine))
        target = theirs[-1].auroc
        # Not longer than the others needed.
        whole = sum(lap.whole for lap in theirs)
        while max(lap.auroc for lap in mine) < target and sum(lap.whole for lap in mine) < whole:
            mine.append(ours.lap())
    reached = next((n for n, lap in enumerate(mine, 1) if lap.auroc >= target), None)
    details = {
        "target": target,
        "plain_auroc": [lap.auroc for lap in theirs],
        "ours_auroc": [lap.auroc for lap in mine],
        "plain_seconds": [lap.whole for lap in theirs],
        "ours_seconds": [lap.whole for lap in mine],
        "reached_in_epoch": reached,
    }
    if reached is None:
        return Figure(
            f"time to AUROC {target:.3f}, {title}", None, "<= 0.5", why="not reached in the same time", details=details
        )
    details["processor"] = sum(lap.processor for lap in mine[:reached]) / sum(lap.processor for lap in theirs)
    value = sum(lap.whole for lap in mine[:reached]) / whole
    return Figure(f"time to AUROC {target:.3f}, {title}", value, "<= 0.5", details=details)


# Inference


def inference(args: argparse.Namespace) -> list[Figure]:
    return inferred(args, read_rows(args.data_path, args.predicted, True), SMALL, args.turns)


def inference_large(args: argparse.Namespace) -> list[Figure]:
    return inferred(args, read_rows(args.data_path, 96, True), LARGE, args.turns)


def inferred(args: argparse.Namespace, rows: Rows, model: tuple[str, int], turns: int) -> list[Figure]:
    """Flags to written file, images from their PNGs; the first lap warms up."""
    checkpoint, onnx = trained_model(args, model)
    names = ["ours", *RIVALS, *(("onnx", "openvino") if onnx else ())]
    names = installed(names)
    make = tasks(args, rows, model, len(rows.images), 0, checkpoint=str(checkpoint), onnx=str(onnx))
    _, laps = in_turns(args, names, "inference", turns, 1, make)
    title = f"inference from PNG, {model[0]} {model[1]} px"
    figures = against_best(title, laps, len(rows.images), 2.0)
    figures += [forward(args, model, checkpoint, onnx)]
    return figures


def trained_model(args: argparse.Namespace, model: tuple[str, int]) -> tuple[Path, Path | None]:
    """A checkpoint of an epoch of few images, and its ONNX file."""
    backbone, side = model
    run = args.out / f"model-{backbone}"
    if not (run / "roi.pt").is_file():
        rows = read_rows(args.data_path, 40)
        task = tasks(args, rows, model, 40, 0)("model")
        from peer_loops import root_of, write_table

        run.mkdir(parents=True, exist_ok=True)
        write_table(task, run / "rows.csv", range(40))
        words: tuple[object, ...] = (
            "--train_csv",
            run / "rows.csv",
            "--image_root",
            root_of(task),
            "--val_fraction",
            0,
        )
        words += ("--backbone", backbone, "--weights", "none", "--img_size", side, "--epochs", 1, "--batch_size", 8)
        script("train_roi_baselines.py", "--mode", "standard", *words, "--device", "cpu", "--save", run / "roi.pt")
    if importlib.util.find_spec("onnxscript") is None:
        return run / "roi.pt", None
    if not (run / "model.onnx").is_file():
        script("export_model.py", "--checkpoint", run / "roi.pt", "--out", run / "model.onnx")
    return run / "roi.pt", run / "model.onnx"


def forward(args: argparse.Namespace, model: tuple[str, int], checkpoint: Path, onnx: Path | None) -> Figure:
    """A batch that is there, through this project's model and through the two runtimes, in one process."""
    from peer_process import forward_seconds

    title = f"forward alone, {model[0]} {model[1]} px, the faster runtime against torch"
    runtimes = installed(("onnx", "openvino"))
    if onnx is None or not runtimes:
        return Figure(title, None, why="onnx or a runtime is not installed")
    with threads(args.threads):
        times = forward_seconds(checkpoint, onnx, runtimes, args.threads, 32, 7)
    ratios = {name: statistics.median(map(float, np.divide(times["torch"], times[name]))) for name in runtimes}
    rates = {f"{name}_images_per_s": 32 / statistics.median(values) for name, values in times.items()}
    return Figure(title, max(ratios.values()), details=ratios | rates)


def lines_written() -> dict[str, int]:
    """Lines that hold code, of what is in peer_loops.py; of this project the commands of the README."""
    from peer_loops import WRITTEN

    counts = {"ours": 2}  # a table, a training
    for name, parts in WRITTEN.items():
        counts[name] = sum(code_lines(textwrap.dedent(inspect.getsource(part))) for part in parts)
    return counts


def code_lines(source: str) -> int:
    found: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and not text:
            found.add(node.lineno)
    return len(found)


ROWS: dict[str, Callable[[argparse.Namespace], list[Figure]]] = {
    "epochs": epochs,
    "epochs_originals": epochs_originals,
    "epochs_large": epochs_large,
    "auroc_demo": auroc_demo,
    "auroc_nih": auroc_nih,
    "inference": inference,
    "inference_large": inference_large,
}

if __name__ == "__main__":
    cli.run(main, parse_args)
