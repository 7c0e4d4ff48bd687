"""What do 900,000 images of 14 findings cost from predictions to the page? Time and memory of each stage.

    python benchmarks/score_speed.py --out runs/score_speed

Writes a table of 900,000 images of 300,000 patients and a preds.json with some skill, as infer_roi_consistency.py
writes it; runs evaluate.py with 1,000 resamples and make_report.py, and notes seconds (wall and processor) and the peak
of memory of each, start-up included. Then predicts tables of 100,000 and of 900,000 images with a stub in the place of
loader and network (benchmarks/stub_inference.py): what is written must not gather in memory. Goals: 60 s and 4 GB;
10 s; .2 GB between the two tables, which is what the table itself takes.
Writes benchmarks/results/score_speed-<machine>.json.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cxrlt_speed import measure
from harness import ROOT, add_machine, write_result

from roi import cli
from roi.files import atomic_write
from roi.labels import LABELS
from roi.scoring.predictions import Predictions, records, write

PREVALENCE = np.array([0.1, 0.025, 0.12, 0.18, 0.05, 0.056, 0.013, 0.047, 0.04, 0.02, 0.022, 0.015, 0.03, 0.002])
GOALS = {"evaluate": {"seconds": 60, "gb": 4}, "report": {"seconds": 10}, "inference": {"growth_gb": 0.2}}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files, 2 GB")
    parser.add_argument("--images", type=cli.number(int, 1000), default=900_000, metavar="N", help="(default: 900000)")
    parser.add_argument(
        "--resamples", type=cli.number(int, 1), default=1000, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--views", type=cli.number(int, 1, 3), default=1, metavar="N", help="full; crop and drop with 3"
    )
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    table, preds, scores = args.out / "table.csv", args.out / "preds.json", args.out / "scores"
    write_inputs(table, preds, args.images, args.views)
    flags = ("--resamples", args.resamples, "--out", scores, "--overwrite")
    costs = {"evaluate": measure("evaluate.py", "--preds", preds, "--csv", table, *flags)}
    page = ("--runs", scores, "--out", args.out / "report.html", "--overwrite")
    costs["report"] = measure("make_report.py", *page)
    for images in (args.images // 9, args.images):
        stub = (ROOT / "benchmarks" / "stub_inference.py", "--images", images, "--out", args.out / "stub.json")
        costs[f"inference of {images:,}"] = measure(*stub)
    few, many = (costs[f"inference of {images:,}"]["gb"] for images in (args.images // 9, args.images))
    result: dict[str, Any] = {
        "what": f"scores, report and inference (a stub in the place of the network) of {args.images:,} images, "
        f"{len(LABELS)} findings, {args.views} view(s)",
        "command": f"python benchmarks/score_speed.py --out … --resamples {args.resamples} --views {args.views}",
        "load_average": os.getloadavg()[0],
        "goals": GOALS,
        "costs": costs,
        "inference_growth_gb": round(many - few, 2),
    }
    print(json.dumps(costs, indent=1))
    print(write_result("score_speed", args.machine, result))


def write_inputs(table: Path, preds: Path, images: int, views: int) -> None:
    """The table, and predictions that rank an image with a finding above one without it four times of five."""
    rng = np.random.default_rng(0)
    present = rng.random((images, len(LABELS))) < PREVALENCE
    names = [f"images/{n:08d}_000.png" for n in range(images)]
    found = [",".join(np.array(LABELS)[row]) for row in present]
    columns = {"image": names, "labels": found, "patient_id": (np.arange(images) // 3).astype(str)}
    frame = pd.DataFrame(columns).assign(dataset="own", split="test")
    frame["view"] = rng.choice(["PA", "AP"], images)
    frame["sex"] = rng.choice(["M", "F"], images)
    frame["age"] = rng.integers(20, 90, images)
    with atomic_write(table) as file:
        frame.to_csv(file, index=False)
    prob = {}
    for part in ("full", "crop", "drop")[:views]:
        logit = 1.2 * present + rng.normal(size=present.shape) - 2
        prob[part] = 1 / (1 + np.exp(-logit))
    contaminated = np.zeros(images, dtype=bool)
    write(preds, records(Predictions(names, list(LABELS), prob, contaminated, {})), {"contaminated": False})


if __name__ == "__main__":
    cli.run(main, parse_args)
