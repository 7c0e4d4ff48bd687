"""Does a classifier with batch norm keep its skill when the masks begin? Evidence against the classifier alone.

    python benchmarks/batch_norm.py --out runs/batch_norm

Draws a demo set for each seed, trains a small ResNet alone and with the evidence objective (masks in the second half),
and compares the AUROC on the test images of the epoch that is best by validation. Writes
benchmarks/results/batch_norm-<machine>.json; goal: within .02 in each seed.
"""

import argparse
import csv
import json
from pathlib import Path

from harness import add_machine, script, write_result

from roi import cli

GOAL = 0.02
MODES = {"standard": ("train_roi_baselines.py", "--mode", "standard"), "evidence": ("train_roi_consistency.py",)}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count = cli.number(int, 1)
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the demo sets and the runs; what is there is done",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[11, 12, 13, 14, 15],
        metavar="N",
        help="of set and training (default: %(default)s)",
    )
    parser.add_argument(
        "--images", type=count, default=1200, metavar="N", help="images of a demo set (default: %(default)s)"
    )
    parser.add_argument(
        "--img_size", type=count, default=64, metavar="PX", help="side of the images (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs",
        type=cli.number(int, 2),
        default=6,
        metavar="N",
        help="passes over the training images (default: %(default)s)",
    )
    parser.add_argument(
        "--backbone", default="test_resnet", help="a net with batch norm, trained from scratch (default: %(default)s)"
    )
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    rows = {str(seed): {mode: train(args, mode, seed) for mode in MODES} for seed in args.seeds}
    for row in rows.values():
        row["difference"] = {"test": round(row["evidence"]["test"] - row["standard"]["test"], 4)}
    worst = min(row["difference"]["test"] for row in rows.values())
    flags = " ".join(f"--{name} {getattr(args, name)}" for name in ("images", "img_size", "epochs", "backbone"))
    result = {
        "what": "test AUROC of evidence less that of the classifier alone, a net with batch norm, "
        "the epoch that is best by validation",
        "command": f"python benchmarks/batch_norm.py --seeds {' '.join(map(str, args.seeds))} {flags} --out …",
        "goal": f">= -{GOAL} in each seed",
        "worst": worst,
        "met": worst >= -GOAL,
        "rows": rows,
    }
    path = write_result("batch_norm", args.machine, result)
    for seed, row in rows.items():
        alone, evidence, difference = (row[key]["test"] for key in ("standard", "evidence", "difference"))
        print(f"seed {seed}: standard {alone:.3f}, evidence {evidence:.3f} ({difference:+.3f})")
    print(f"{'met' if worst >= -GOAL else 'MISSED'}: worst {worst:+.3f}; {path}")


def train(args: argparse.Namespace, mode: str, seed: int) -> dict[str, float]:
    """One run; -> AUROC on validation images, epoch by epoch, and on the test images."""
    data, folder = args.out / f"data_{seed}", args.out / f"{mode}_{seed}"
    table, test = args.out / f"train_{seed}.csv", args.out / f"test_{seed}.csv"
    if not (data / "demo.json").is_file():
        script("make_demo_dataset.py", "--out", data, "--images", args.images, "--size", args.img_size, "--seed", seed)
        make = ("make_chexmultimodal_csv.py", "--src_csv", data / "Data_Entry_2017.csv", "--image_dir", data)
        script(*make, "--out_csv", table, "--fillna", "Normal")
        script(*make, "--out_csv", test, "--filter_list", data / "test_list.txt")
    scores = folder / "scores" / "metrics.json"
    if not scores.is_file():
        log = folder / "log.txt"
        script(
            *MODES[mode],
            "--train_csv",
            table,
            "--exclude_csv",
            test,
            "--image_root",
            data,
            "--backbone",
            args.backbone,
            "--weights",
            "none",
            "--batch_size",
            32,
            "--lr",
            2e-3,
            "--epochs",
            args.epochs,
            "--img_size",
            args.img_size,
            "--seed",
            seed,
            "--workers",
            0,
            "--device",
            "cpu",
            "--save",
            folder / "roi.pt",
            "--log_csv",
            folder / "metrics.csv",
            "--resume",
            "auto",
            log=log,
        )
        script(
            "infer_roi_consistency.py",
            "--checkpoint",
            folder / "roi_best.pt",
            "--csv",
            test,
            "--image_root",
            data,
            "--workers",
            0,
            "--device",
            "cpu",
            "--save_json",
            folder / "preds.json",
            "--overwrite",
            log=log,
        )
        script(
            "evaluate.py",
            "--preds",
            folder / "preds.json",
            "--csv",
            test,
            "--out",
            scores.parent,
            "--overwrite",
            log=log,
        )
    with open(folder / "metrics.csv", newline="") as file:
        epochs = {f"val, epoch {row['epoch']}": round(float(row["val_auroc"]), 4) for row in csv.DictReader(file)}
    return epochs | {"test": round(json.loads(scores.read_text())["mean"]["auroc"]["value"], 4)}


if __name__ == "__main__":
    cli.run(main, parse_args)
