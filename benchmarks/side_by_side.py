"""What does a second training on the same cores cost? One training, and two side by side, as threads wait.

    python benchmarks/side_by_side.py --out runs/side_by_side

The same small training of synthetic images (test_resnet, 96 px, 3 epochs), seconds by the clock from start to end: as
the scripts set OpenMP by themselves (roi/threads.py), as GNU's OpenMP does without that (threads spin 300,000 turns),
and with one thread each. Goal: two side by side take at most 1.15 times as long as one after the other.
Writes benchmarks/results/side_by_side-<machine>.json.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import ROOT, Figure, add_machine, script, table, write_result

from roi import cli
from roi.threads import WAITING

WAYS: dict[str, dict[str, str]] = {
    "as the scripts set it": {},
    "endless spinning": {"GOMP_SPINCOUNT": "300000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the set and the runs")
    parser.add_argument("--turns", type=cli.number(int, 1), default=2, metavar="N", help="(default: %(default)s)")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    data = args.out / "data"
    script("make_demo_dataset.py", "--out", data, "--images", 1500, "--size", 96, "--overwrite")
    script("download_datasets.py", "--gather", data)
    source = ("--src_csv", data / "Data_Entry_2017.csv", "--image_dir", data / "images")
    words = ("--label_from", "Finding Labels", "--out_csv", args.out / "table.csv", "--overwrite")
    script("make_chexmultimodal_csv.py", *source, *words)
    together(args.out, {}, 1)  # the pixels are decoded
    took: dict[str, dict[int, list[float]]] = {way: {1: [], 2: []} for way in WAYS}
    for _ in range(args.turns):
        for way, environment in WAYS.items():
            for number in (1, 2):
                took[way][number].append(together(args.out, environment, number))
    figures = []
    for way, seconds in took.items():
        alone, both = (statistics.median(seconds[number]) for number in (1, 2))
        goal = "<= 1.15" if way == "as the scripts set it" else ""
        figures.append(Figure(f"{way}: two side by side / one after the other", both / (2 * alone), goal))
    print(table(figures))
    result = {
        "what": "seconds of a small training alone and beside another, by how OpenMP's threads wait",
        "command": f"python benchmarks/side_by_side.py --out … --turns {args.turns}",
        "load_average": os.getloadavg()[0],
        "figures": [figure.as_dict() for figure in figures],
        "seconds": took,
    }
    print(write_result("side_by_side", args.machine, result))


def together(out: Path, environment: dict[str, str], number: int) -> float:
    """Seconds until the last of so many trainings has ended."""
    own = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", *WAITING)}
    began = time.perf_counter()
    running = []
    for place in range(number):
        data = ("--train_csv", out / "table.csv", "--image_root", out / "data", "--cache_dir", out / "pixels")
        model = ("--backbone", "test_resnet", "--weights", "none", "--img_size", 96, "--lr", 2e-3, "--epochs", 3)
        save = ("--save", out / f"roi{place}.pt", "--overwrite", "--workers", 1, "--device", "cpu", "--batch_size", 32)
        words = ("train_roi_baselines.py", "--mode", "standard", *data, *model, *save)
        command = [sys.executable, *map(str, words)]
        with open(out / f"log{place}.txt", "a", encoding="utf-8") as log:
            running.append(subprocess.Popen(command, cwd=ROOT, env=own | environment, stdout=log, stderr=log))
    codes = [process.wait() for process in running]
    if any(codes):
        raise RuntimeError(f"a training ended with exit code {max(codes)}; see {out / 'log0.txt'}")
    return time.perf_counter() - began


if __name__ == "__main__":
    cli.run(main, parse_args)
