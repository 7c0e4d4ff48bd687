"""A contender of benchmarks/peers.py in its own process: one epoch, or one inference, each time it is told.

Here also how this project trains there: train_roi_baselines.py --mode standard with a pixel cache, as a user runs it;
only where an epoch begins it waits until it is told.
"""

from __future__ import annotations

import csv
import gc
import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from peer_loops import INFERENCE, TRAINING, Task, onnx_session, openvino_session, root_of, write_table

# Imports are done before a lap begins, those of the scripts and of what others need too.
import infer_roi_consistency  # noqa: F401
import train_roi_baselines
from roi import distributed
from roi.data.dataset import Batch
from roi.inference.setup import run as infer_ours  # noqa: F401
from roi.scoring.metrics import validation_aurocs
from roi.training.checkpoint import load_model
from roi.training.device import pick_device
from roi.training.recipes import MODES
from roi.training.setup import build_training_run

OURS: dict[str, tuple[object, ...]] = {  # contenders of this project: what they say beside the others
    "ours": (),
    # The learning rate is the default of a frozen backbone: a new head bears more than a whole network.
    "frozen": ("--freeze_backbone",),
}
for package in ("torchxrayvision", "onnxruntime", "openvino"):
    with suppress(ImportError):
        importlib.import_module(package)


class Anew(BaseException):
    """The next lap begins again from nothing."""


def serve(pipe: Connection, name: str, kind: str, task: Task) -> None:
    """What the process does until it is told None; "first" has it begin anew, in an empty folder."""
    # What it says last is what helps when it dies.
    output = os.open(task.folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    torch.set_num_threads(task.threads)
    work = infer if kind == "inference" else train
    turn = Turn(pipe)
    pipe.send("ready")
    with suppress(Anew):
        turn.begin()
    while True:
        gc.collect()
        with suppress(Anew):
            work(name, task, turn)


def infer(name: str, task: Task, turn: Turn) -> None:
    for _ in INFERENCE[name](task):
        turn.trained()
        turn.scored(math.nan)
        turn.begin()


def train(name: str, task: Task, turn: Turn) -> None:
    if name in OURS:
        train_ours(task, turn, OURS[name])
    learned = task.learned
    validated = task.targets[task.trained :, learned]
    classes = [task.classes[n] for n in learned]
    steps = TRAINING[name](task)
    while True:
        next(steps)
        turn.trained()
        logits = next(steps)
        turn.scored(validation_aurocs(logits[:, learned], validated, classes, None)["val_auroc"])
        turn.begin()


class Turn:
    """When it begins, how long it took, what it gave."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def begin(self) -> None:
        told = self.pipe.recv()
        if told is None:
            # Nothing is left to be tidied up but workers, which end with their parent.
            os._exit(0)
        self.began, self.processor = perf_counter(), processor_seconds()
        if told == "first":
            raise Anew

    def trained(self) -> None:
        seconds, processor = perf_counter() - self.began, processor_seconds() - self.processor
        self.found = {"seconds": seconds, "processor": processor, "megabytes": megabytes()}

    def scored(self, auroc: float) -> None:
        whole, processor = perf_counter() - self.began, processor_seconds() - self.processor
        self.pipe.send(self.found | {"whole": whole, "whole_processor": processor, "auroc": auroc})


def children() -> list[int]:
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        found += map(int, path.read_text().split())
    return found


def processor_seconds() -> float:
    """Of this process and its workers, those that have ended included."""
    total = sum(os.times()[:4])
    for pid in children():
        # Behind the name, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def megabytes() -> float:
    """The most that this process has had, and what its workers have now and share with nobody."""
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert peak
    total = int(peak[1])
    for pid in children():
        own = re.search(r"Private_Dirty:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())
        total += int(own[1]) if own else 0
    return total / 1024


# This project


class Gate:
    """The batches of an epoch; before the first of each epoch but the first it waits until it is told."""

    def __init__(self, batches: Any, turn: Turn, log: Path) -> None:
        self.batches, self.turn, self.log = batches, turn, log

    def __iter__(self) -> Iterator[Batch]:
        if self.log.is_file():
            with open(self.log, newline="", encoding="utf-8") as file:
                scores = [row["val_auroc"] for row in csv.DictReader(file)]
            if scores:
                self.turn.scored(float(scores[-1] or "nan"))
                self.turn.begin()
        yield from self.batches
        self.turn.trained()

    def __len__(self) -> int:
        return len(self.batches)


def train_ours(task: Task, turn: Turn, more: tuple[object, ...]) -> None:
    train, val, log = (task.folder / name for name in ("train.csv", "val.csv", "metrics.csv"))
    write_table(task, train, range(task.trained))
    write_table(task, val, range(task.trained, len(task.images)))
    words = ["--mode", "standard", "--train_csv", train, "--val_csv", val, "--image_root", root_of(task)]
    words += [
        "--classes",
        ",".join(task.classes[n] for n in task.learned),
        "--backbone",
        task.backbone,
        "--weights",
        task.weights,
    ]
    words += ["--img_size", task.side, "--batch_size", task.batch, "--accum_steps", 1]
    words += more or ("--lr", task.lr)
    words += ["--weight_decay", 0.01, "--seed", task.seed, "--workers", task.workers, "--device", "cpu"]
    words += ["--autocast_dtype", task.dtype, "--cache_dir", task.folder / "cache", "--epochs", 1000]
    words += ["--save", task.folder / "roi.pt", "--log_csv", log]
    args = train_roi_baselines.parse_args([str(word) for word in words])
    mode = MODES["standard"]
    with distributed.processes(pick_device("cpu")) as device:
        run = build_training_run(args, mode.mask, mode.without, device)
        run.train_loader = Gate(run.train_loader, turn, log)
        run.run()


# A forward alone


def forward_seconds(
    checkpoint: Path, onnx: Path, runtimes: list[str], threads: int, batch: int, turns: int
) -> dict[str, list[float]]:
    """Seconds of a batch through the model of a checkpoint and through its ONNX file, in turns."""
    model, state = load_model(str(checkpoint), True)
    model.eval()
    side = state["args"]["img_size"]
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 1, side, side), dtype=np.uint8)
    of_torch = Batch(torch.from_numpy(pixels), torch.zeros(batch, 1), torch.arange(batch), [])

    def by_torch() -> None:
        with torch.inference_mode():
            model.views_of(of_torch, 1.0, None, True)

    works: dict[str, Callable[[], Any]] = {"torch": by_torch}
    makers = {"onnx": onnx_session, "openvino": openvino_session}
    for name in runtimes:
        works[name] = partial(makers[name](str(onnx), threads), pixels.astype(np.float32))
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 2):
        for name, work in works.items():
            began = perf_counter()
            work()
            if turn >= 2:
                times[name].append(perf_counter() - began)
    return times
