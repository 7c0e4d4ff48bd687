"""A pixel cache larger than the memory: how fast it is read in which order, and whether the order changes what is
learned.

    python benchmarks/large_cache.py --out runs/large_cache

Rate: a cache of random bytes, --times as large as the memory that a cgroup lets the reading process have (root is
needed for it). Each case reads for --seconds: as fast as it can, and as a training reads that takes so many images a
second. Before each of them the file leaves the memory, and then the process reads as much of it as its memory holds.
Order: val_auroc of a small net on a demo set whose table is sorted by label, with blocks and windows far smaller than
those of a real run, since the set has no more than one of their windows. Writes
benchmarks/results/large_cache-<machine>.json. What it needs on the disk it removes.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from harness import ROOT, Figure, add_machine, script, table, write_result

from roi import cli
from roi.errors import UserError

SIDE, BATCH = 224, 64
ROW = SIDE**2
PACES = (500,)  # images a second of a training on GPUs
WINDOW = 64  # blocks, a quarter of what a run has: two windows are 64 MB, in the proportion of 256 MB to 2 GB
GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))  # version 1, 2
LIMITS = ("memory.limit_in_bytes", "memory.max")
# Block and window of the study of orders: none, and one that mixes an eighth of the blocks that a real one does.
STUDIED = ((0, 0), (8, 32))
TRAIN = """
import sys
from roi.data.order import blocks
blocks.BLOCK_BYTES, blocks.WINDOW = int(sys.argv[1]), int(sys.argv[2])
import train_roi_baselines as script
sys.exit(script.main(script.parse_args(sys.argv[3:])))
"""


class Case(NamedTuple):
    """How a process reads."""

    pixels: str
    in_blocks: bool
    ahead: bool
    pace: int  # images a second; 0: as fast as it can
    seconds: float
    filled: int  # bytes that are in the memory when it begins
    unlimited: bool = False

    @property
    def name(self) -> str:
        words = ["memory" if self.unlimited else "disk", "blocks" if self.in_blocks else "random"]
        if self.ahead:
            words.append("read ahead")
        return ", ".join([*words, f"{self.pace} images/s wanted" if self.pace else "as fast as it can"])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    count = cli.number(int, 1)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="on the disk that is to be measured")
    parser.add_argument("--limit_mb", type=count, default=512, metavar="MB", help="memory (default: %(default)s)")
    parser.add_argument("--times", type=count, default=4, metavar="N", help="size of the cache (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=15, metavar="S", help="of a case (default: %(default)s)")
    parser.add_argument("--turns", type=count, default=3, metavar="N", help="of each case (default: %(default)s)")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="of the orders (default: %(default)s)")
    parser.add_argument("--epochs", type=count, default=4, metavar="N", help="of a training (default: %(default)s)")
    parser.add_argument("--part", choices=("all", "rate", "order"), default="all", help="(default: %(default)s)")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # of a process that this one starts
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    if args.case:
        print(json.dumps([read(Case(*values)) for values in json.loads(args.case)]))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    rows: dict[str, Any] = {}
    if args.part != "order":
        rows["rate"], more = measure_rates(args)
        figures += more
    if args.part != "rate":
        rows["order"], more = study_orders(args)
        figures += more
    print(table(figures))
    result = {"figures": [figure.as_dict() for figure in figures], **rows}
    command = "python benchmarks/large_cache.py --out …"
    name = "large_cache" if args.part == "all" else f"large_cache_{args.part}"
    print(write_result(name, args.machine, {"command": command, "limit_mb": args.limit_mb} | result))


# Rate


def measure_rates(args: argparse.Namespace) -> tuple[dict[str, Any], list[Figure]]:
    limit = args.limit_mb << 20
    pixels = args.out / "pixels.u8"
    measured: dict[str, list[dict[str, float]]] = {}
    try:
        make_pixels(pixels, args.times * limit)
        disk = []
        # In turns, so that what else the machine does strikes all.
        for _ in range(args.turns):
            disk.append(sequential_rate(pixels, args.seconds))
            every = list(cases(str(pixels), args.seconds, limit // 4, args.times * limit))
            for free in (True, False):
                some = [case for case in every if case.unlimited == free]
                for case, result in zip(some, measure_cases(some, None if free else limit), strict=True):
                    measured.setdefault(case.name, []).append(result)
                    print(case.name, result, flush=True)
    finally:
        pixels.unlink(missing_ok=True)
    rates = {name: statistics.median(turn["images_per_s"] for turn in turns) for name, turns in measured.items()}
    return {"sequential_mb_per_s": disk, "cases": measured}, rate_figures(rates, statistics.median(disk))


def make_pixels(path: Path, size: int) -> None:
    """Random bytes; all rows of it whole."""
    rows = size // ROW // BATCH * BATCH
    # Of a benchmark that was stopped.
    if path.exists() and path.stat().st_size == rows * ROW:
        return
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for _ in range(rows // BATCH):
            file.write(rng.bytes(ROW * BATCH))
        os.fsync(file.fileno())


def cases(pixels: str, seconds: float, filled: int, size: int) -> Iterator[Case]:
    for pace in (0, *PACES):
        yield Case(pixels, False, False, pace, seconds, size, unlimited=True)
        for in_blocks in (False, True):
            for ahead in (False, True):
                yield Case(pixels, in_blocks, ahead, pace, seconds, filled)


def measure_cases(some: Sequence[Case], limit: int | None) -> list[dict[str, float]]:
    """Run cases in a process of their own, with so many bytes of memory."""
    words = [sys.executable, __file__, "--out", ".", "--case", json.dumps(some)]
    # Pages count for the group of the process that brings them into the memory.
    forget(some[0].pixels)
    if limit is None:
        return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    with memory_group(limit) as group:
        join = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        words = ["sh", "-c", join, "sh", *words]
        return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A cgroup with so many bytes, pages of files included."""
    for mount, name in zip(GROUPS, LIMITS, strict=True):
        group = mount / f"roi-large-cache-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / name).exists():
                (group / name).write_text(str(limit))
                yield group
                return
        finally:
            group.rmdir()
    raise UserError(f"no memory cgroup can be made below {GROUPS[0]} or {GROUPS[1]}; run this as root")


def forget(pixels: str) -> None:
    """Let the pages of a file leave the memory."""
    file = os.open(pixels, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def sequential_rate(pixels: Path, seconds: float) -> float:
    """MB/s of the disk, read from the beginning to the end in long pieces."""
    forget(str(pixels))
    began, done = time.perf_counter(), 0
    with open(pixels, "rb", buffering=0) as file:
        while time.perf_counter() - began < seconds and (piece := file.read(8 << 20)):
            done += len(piece)
    return done / 1e6 / (time.perf_counter() - began)


def read(case: Case) -> dict[str, float]:
    """Read batches as training does, and say how fast."""
    import torch

    from roi.data.loader import CacheLoader
    from roi.data.order.blocks import blocks_of
    from roi.data.pixel_cache import PixelCache
    from roi.data.sampler import ShardedBatchSampler

    rows = os.path.getsize(case.pixels) // ROW
    pixels = np.memmap(case.pixels, np.uint8, "r", shape=(rows, SIDE, SIDE))
    sampler = ShardedBatchSampler(rows, BATCH, seed=0)
    if case.in_blocks:
        sampler.blocks = replace(blocks_of(np.arange(rows), ROW), window=WINDOW)
    if not case.unlimited:
        forget(case.pixels)
    cache = PixelCache(pixels, np.arange(rows), {})
    targets = np.zeros((rows, 1), dtype=np.float32)
    loader = CacheLoader(cache, targets, sampler, torch.device("cpu"), False, 2)
    loader.reads_ahead = case.ahead
    with open(case.pixels, "rb", buffering=0) as file:
        while file.tell() < case.filled and file.read(8 << 20):
            pass
    before = bytes_read()
    images, began, due = 0, time.perf_counter(), time.perf_counter()
    while True:
        for batch in loader:
            images += len(batch.index)
            now = time.perf_counter()
            if case.pace:
                # A step begins when the one before it is done and the batch is there.
                due = max(due, now) + len(batch.index) / case.pace
                time.sleep(max(0.0, due - now))
            if time.perf_counter() - began > case.seconds:
                seconds = time.perf_counter() - began
                kilobytes = (bytes_read() - before) / 1e3
                return {"images_per_s": images / seconds, "read_kb_an_image": kilobytes / images}
        sampler.epoch += 1


def bytes_read() -> int:
    """Of this process, from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    values = dict(line.split(": ") for line in lines)
    return int(values["read_bytes"])


def rate_figures(rates: dict[str, float], disk: float) -> list[Figure]:
    figures = [Figure("the disk, read from the beginning to the end", disk, unit="MB/s")]
    for pace in (0, *PACES):
        speed = f"{pace} images/s wanted" if pace else "as fast as it can"
        memory = rates[f"memory, random, {speed}"]
        for how in ("random", "random, read ahead", "blocks", "blocks, read ahead"):
            rate = rates[f"disk, {how}, {speed}"]
            goal = ">= 0.8" if how == "blocks, read ahead" else ""
            details = {"images_per_s": rate, "from_memory": memory, "share_of_disk": rate * ROW / 1e6 / disk}
            figures.append(Figure(f"{how}, {speed}: rate / from memory", rate / memory, goal, details=details))
    return figures


# Order


def study_orders(args: argparse.Namespace) -> tuple[dict[str, Any], list[Figure]]:
    data = args.out / "demo"
    if not (data / "demo.json").exists():
        script("make_demo_dataset.py", "--out", data, "--images", 1600, "--size", 64)
    csv_path, in_order = args.out / "table.csv", args.out / "by_label.csv"
    script("make_chexmultimodal_csv.py", "--src_csv", data / "Data_Entry_2017.csv", "--image_dir", data, "--out_csv",
           csv_path)  # fmt: skip
    rows = pd.read_csv(csv_path, dtype=str, keep_default_na=False)
    rows.sort_values("labels", kind="stable").to_csv(in_order, index=False)
    scores: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        for block, window in STUDIED:
            name = f"blocks of {block}, {window} a window" if block else "random"
            scores.setdefault(name, []).append(trained(args, in_order, data, block, window, seed))
            print(name, seed, scores[name][-1], flush=True)
    return {"val_auroc": scores}, order_figures(scores)


def trained(args: argparse.Namespace, rows: Path, data: Path, block: int, window: int, seed: int) -> float:
    """val_auroc of the last epoch."""
    out = args.out / f"{block}_{window}_{seed}"
    order = "blocks" if block else "random"
    flags: Sequence[object] = (
        *("--mode", "standard", "--backbone", "test_resnet", "--weights", "none", "--img_size", 64),
        *("--train_csv", rows, "--image_root", data, "--cache_dir", args.out / "cache", "--order", order),
        *("--epochs", args.epochs, "--batch_size", 32, "--lr", 2e-3, "--seed", seed, "--workers", 1),
        *("--save", out / "c.pt", "--log_csv", out / "log.csv", "--overwrite"),
    )
    words = [sys.executable, "-c", TRAIN, str(block * 64**2), str(window), *map(str, flags)]
    out.mkdir(exist_ok=True)
    with open(out / "log.txt", "w") as log:
        subprocess.run(words, cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)
    with open(out / "log.csv", newline="") as file:
        return float(list(csv.DictReader(file))[-1]["val_auroc"])


def order_figures(scores: dict[str, list[float]]) -> list[Figure]:
    """Of each order the mean difference to random over seeds; noise: what seeds alone do to random."""
    random = scores["random"]
    noise = statistics.stdev(random) if len(random) > 1 else 0.0
    figures = [Figure("random: val_auroc", statistics.mean(random), unit="", details={"sd_of_seeds": noise})]
    for name, values in scores.items():
        if name != "random":
            differences = [value - other for value, other in zip(values, random, strict=True)]
            mean = statistics.mean(differences)
            figures.append(
                Figure(f"{name}: val_auroc - random's", mean, f">= {-noise:.4f}", "", details={"each": differences})
            )
    return figures


if __name__ == "__main__":
    cli.run(main, parse_args)
