"""The published recipes of train_roi_baselines.py, scaled down by flags, on a small part of NIH ChestX-ray14.

    python benchmarks/recipes.py --data_path /data/nih_256 --weights squeezenet1_1_imagenet.safetensors \\
        --out runs/recipes

Each recipe trains as a user would run it, with another backbone, 224 px, few epochs and no more than that changed; the
staged one in two stages, of which the first moves the last layers alone. The best epoch by validation predicts the
official test images. Compare benchmarks/nih_subset.py: the same images, `standard` and the ROI models. Prints a table
and writes benchmarks/results/recipes-<machine>.json.
"""

import argparse
import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import add_machine, interval, script, write_result

from roi import cli

PARTS = "features.9,features.10,features.11,features.12,classifier"  # the last layers of SqueezeNet 1.1


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--data_path",
        type=Path,
        required=True,
        metavar="DIR",
        help="Data_Entry_2017.csv, test_list.txt and images/ as NIH has them",
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="ImageNet weights of SqueezeNet 1.1")
    parser.add_argument(
        "--epochs",
        type=cli.number(int, 2),
        default=5,
        metavar="N",
        help="passes over the training images (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=cli.number(int, 1),
        default=2,
        metavar="N",
        help="runs side by side, a thread each (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for tables, checkpoints and scores; what is there is done",
    )
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    make = (
        "make_chexmultimodal_csv.py",
        "--src_csv",
        args.data_path / "Data_Entry_2017.csv",
        "--image_dir",
        args.data_path / "images",
    )
    script(*make, "--out_csv", args.out / "train.csv")
    script(*make, "--out_csv", args.out / "test.csv", "--filter_list", args.data_path / "test_list.txt")
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = dict(zip(RUNS, pool.map(lambda name: run(args, name), RUNS), strict=True))
    command = f"python benchmarks/recipes.py --epochs {args.epochs} --data_path … --weights … --out …"
    path = write_result(
        "recipes",
        args.machine,
        {"what": "mean AUROC over the 14 findings on official test images", "command": command, "rows": rows},
    )
    print("| recipe | changed by flags | epochs, best | AUROC | minutes |\n|---|---|---|---|---|")
    for name, row in rows.items():
        epochs = f"{row['epochs']}, {row['best_epoch']}"
        print(f"| {name} | {row['flags']} | {epochs} | {row['auroc']} | {row['minutes']:.0f} |")
    print(path)


def train(args: argparse.Namespace, recipe: str, save: Path, *flags: object) -> None:
    script(
        "train_roi_baselines.py",
        "--recipe",
        recipe,
        "--train_csv",
        args.out / "train.csv",
        "--exclude_csv",
        args.out / "test.csv",
        "--image_root",
        args.data_path,
        "--backbone",
        "squeezenet1_1",
        "--img_size",
        224,
        "--batch_size",
        32,
        "--workers",
        0,
        "--device",
        "cpu",
        "--cache_dir",
        args.out / "pixels",
        "--save",
        save,
        "--log_csv",
        save.with_suffix(".csv"),
        *flags,
        threads=1,
        log=save.with_suffix(".log"),
    )


def whole(args: argparse.Namespace, recipe: str, folder: Path) -> list[Path]:
    train(args, recipe, folder / "roi.pt", "--weights", args.weights, "--epochs", args.epochs, "--resume", "auto")
    return [folder / "roi.pt"]


def staged(args: argparse.Namespace, recipe: str, folder: Path) -> list[Path]:
    first, second = folder / "stage1.pt", folder / "roi.pt"
    train(
        args,
        recipe,
        first,
        "--weights",
        args.weights,
        "--train_parts",
        PARTS,
        "--epochs",
        args.epochs // 2,
        "--resume",
        "auto",
    )
    train(
        args,
        recipe,
        second,
        "--stage",
        2,
        "--epochs",
        args.epochs - args.epochs // 2,
        "--resume",
        second if second.exists() else first,
    )
    return [first, second]


RUNS = {
    "timm_focal": (whole, "SqueezeNet 1.1, 224 px, batch 32"),
    "seven_sets": (whole, "SqueezeNet 1.1, one set"),
    "staged_resnet50": (staged, "SqueezeNet 1.1, its last layers first"),
}


def run(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Train, predict, score. -> figures"""
    way, flags = RUNS[name]
    folder = args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    parts = way(args, name, folder)
    common: dict[str, Any] = {"threads": 1, "log": folder / "test.log"}
    test = ("--csv", args.out / "test.csv")
    if not (folder / "scores" / "metrics.json").is_file():
        best = (
            "infer_roi_consistency.py",
            "--checkpoint",
            folder / "roi_best.pt",
            "--image_root",
            args.data_path,
            "--cache_dir",
            args.out / "pixels",
        )
        script(
            *best,
            *test,
            "--save_json",
            folder / "preds.json",
            "--workers",
            0,
            "--device",
            "cpu",
            "--overwrite",
            **common,
        )
        script(
            "evaluate.py", "--preds", folder / "preds.json", *test, "--out", folder / "scores", "--overwrite", **common
        )
    scores = json.loads((folder / "scores" / "metrics.json").read_text())
    epochs = []
    for save in parts:
        with open(save.with_suffix(".csv"), newline="") as file:
            epochs.append(list(csv.DictReader(file)))
    return {
        "flags": flags,
        "auroc": interval(scores["mean"]["auroc"]),
        "images": scores["n_images"],
        "contaminated": scores["contaminated"],
        "epochs": " + ".join(str(len(part)) for part in epochs),
        "best_epoch": json.loads((folder / "preds.meta.json").read_text())["epoch"],
        "minutes": sum(float(row["seconds"]) for part in epochs for row in part) / 60,
        "val_auroc": [row["val_auroc"] for part in epochs for row in part],
    }


if __name__ == "__main__":
    cli.run(main, parse_args)
