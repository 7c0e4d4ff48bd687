"""Are all numbers as they were? Run before and after a refactor: other digests, other computations.

    python benchmarks/same_numbers.py --out runs/same --record
    python benchmarks/same_numbers.py --out runs/same2

Trains two epochs of the demo set, evidence and consistency, on one thread, then predicts, scores, calibrates and
reports as a user does. Digests (SHA-256) are of the tensors of the checkpoint, the metrics CSV, preds.json, the arrays
of masks, class maps and curves, metrics.json, thresholds.json and the tables of the report, without what differs from
run to run (times, hosts, versions, folders). --record writes them to benchmarks/results/same_numbers-<machine>.json;
without it they are compared to that file, exit code 1 where one differs. They hold for one processor and one version of
torch.
"""

import argparse
import csv
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, add_machine, script, versions, write_result

from roi import cli

RUNS = {
    "evidence": (),
    "consistency": ("--objective", "consistency", "--mask_net", "conv", "--dynamic_weights"),
}
VOLATILE = {
    "versions",
    "written_by",
    "commit",
    "created",
    "date",
    "host",
    "begun",
    "hours",
    "seconds",
    "command",
    "version",
    "machine",
    "images_per_s",
}  # keys of JSON and columns


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="an empty or a new folder for the demo set and the runs"
    )
    parser.add_argument(
        "--record", action=cli.on_off, default=False, help="write the digests instead of comparing them (default: no)"
    )
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> int:
    make_tables(args.out)
    digests: dict[str, str] = {}
    for name, flags in RUNS.items():
        folder = args.out / name
        train_and_score(args.out, folder, flags)
        digests |= {f"{name}/{part}": digest for part, digest in digests_of(folder, args.out)}
    recorded = ROOT / "benchmarks" / "results" / f"same_numbers-{args.machine}.json"
    if args.record:
        result = {
            "what": "digests of the numbers of two small runs",
            "command": "python benchmarks/same_numbers.py --out … --record",
            "digests": digests,
        }
        print(f"{len(digests)} digests: {write_result('same_numbers', args.machine, result)}")
        return 0
    before = json.loads(recorded.read_text(encoding="utf-8"))
    if before["versions"] != versions():
        print(f"{recorded.name} is of other versions ({before['versions']}): differences may be theirs")
    changed = [part for part in before["digests"] | digests if before["digests"].get(part) != digests.get(part)]
    for part in changed:
        print(f"CHANGED {part}")
    print(f"{len(digests) - len(changed)} of {len(digests)} as recorded at {before['commit']}")
    return 1 if changed else 0


def make_tables(out: Path) -> None:
    data = out / "data"
    script("make_demo_dataset.py", "--out", data, "--images", 480, "--size", 64, "--seed", 3)
    make = ("make_chexmultimodal_csv.py", "--src_csv", data / "Data_Entry_2017.csv", "--image_dir", data)
    script(*make, "--out_csv", out / "train.csv", "--fillna", "Normal")
    script(*make, "--out_csv", out / "test.csv", "--filter_list", data / "test_list.txt")


def train_and_score(out: Path, folder: Path, flags: tuple[str, ...]) -> None:
    """Each script once, on one thread."""
    folder.mkdir(parents=True)
    boxes = ("--bbox_csv", out / "data" / "BBox_List_2017.csv")
    images = ("--image_root", out / "data", "--device", "cpu", "--workers", 0)
    per_class = () if "consistency" in flags else ("--class_masks", folder / "class_masks.npz")
    log = folder / "log.txt"

    def run(*command: object) -> None:
        script(*command, threads=1, log=log)

    run(
        "train_roi_consistency.py",
        "--train_csv",
        out / "train.csv",
        "--exclude_csv",
        out / "test.csv",
        *images,
        "--backbone",
        "test_resnet",
        "--weights",
        "none",
        "--img_size",
        64,
        "--batch_size",
        16,
        "--epochs",
        2,
        "--seed",
        3,
        "--save",
        folder / "roi.pt",
        "--log_csv",
        folder / "metrics.csv",
        *flags,
    )
    for name, table in (("val", folder / "roi_val.csv"), ("test", out / "test.csv")):
        evidence = (
            (
                "--save_masks",
                folder / "masks.npz",
                *per_class,
                "--curves",
                folder / "curves.npz",
                "--curve_samples",
                30,
                *boxes,
            )
            if name == "test"
            else ()
        )
        run(
            "infer_roi_consistency.py",
            "--checkpoint",
            folder / "roi.pt",
            "--csv",
            table,
            *images,
            "--save_json",
            folder / f"{name}.json",
            *evidence,
        )
    run(
        "calibrate_conformal.py",
        "--preds",
        folder / "val.json",
        "--csv",
        folder / "roi_val.csv",
        "--alpha",
        0.4,
        "--classes",
        "Atelectasis,Effusion,Mass",
        "--out",
        folder / "thresholds.json",
    )
    run(
        "evaluate.py",
        "--preds",
        folder / "test.json",
        "--csv",
        out / "test.csv",
        "--resamples",
        50,
        "--out",
        folder / "scores",
        "--threshold_preds",
        folder / "val.json",
        "--threshold_csv",
        folder / "roi_val.csv",
        "--thresholds",
        folder / "thresholds.json",
        "--curves",
        folder / "curves.npz",
        "--masks",
        folder / "masks.npz",
        *per_class[1:],
        *boxes,
    )
    run(
        "make_report.py",
        "--runs",
        folder / "scores",
        "--out",
        folder / "report.html",
        "--image_root",
        out / "data",
        "--cases",
        3,
    )


def digests_of(folder: Path, out: Path) -> Iterator[tuple[str, str]]:
    """-> (what, digest) of all that the run wrote."""
    yield "tensors", tensors(folder / "roi.pt")
    yield "metrics.csv", rows(folder / "metrics.csv")
    yield "val.csv", text((folder / "roi_val.csv").read_text(encoding="utf-8"))
    for path in (
        folder / "val.json",
        folder / "test.json",
        folder / "scores" / "metrics.json",
        folder / "thresholds.json",
    ):
        content = json.loads(path.read_text(encoding="utf-8"))
        yield path.name, text(json.dumps(stable(content), sort_keys=True).replace(str(out), "OUT"))
    for path in sorted(folder.glob("*.npz")):
        yield path.name, arrays(path)
    page = (folder / "report.html").read_text(encoding="utf-8")
    tables = "".join(re.findall(r"<table.*?</table>", page, re.DOTALL)).replace(str(out), "OUT")
    yield "report tables", text(re.sub(r"\b[0-9a-f]{40}\b", "COMMIT", tables))


def text(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def stable(value: Any) -> Any:
    """JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {key: stable(inside) for key, inside in value.items() if key not in VOLATILE}
    return [stable(inside) for inside in value] if isinstance(value, list) else value


def rows(path: Path) -> str:
    with open(path, newline="", encoding="utf-8") as file:
        return text(
            json.dumps(
                [{name: cell for name, cell in row.items() if name not in VOLATILE} for row in csv.DictReader(file)]
            )
        )


def arrays(path: Path) -> str:
    digest = hashlib.sha256()
    with np.load(path) as file:
        for name in sorted(set(file.files) - {"meta"}):
            digest.update(f"{name} {file[name].dtype} {file[name].shape}".encode() + file[name].tobytes())
    return digest.hexdigest()


def tensors(path: Path) -> str:
    import torch

    digest = hashlib.sha256()

    def add(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key in value:
                add(value[key], f"{name}/{key}")
        elif isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())

    state = torch.load(path, map_location="cpu", weights_only=True)
    for part in ("model", "mask_net", "view_norms", "optimizer"):
        add(state[part], part)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main(parse_args()))
