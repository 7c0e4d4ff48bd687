"""Which loss, and which sampling, for findings of which a few are frequent and many are rare?

    python benchmarks/longtail_study.py --out runs/longtail_study

Synthetic studies with 26 classes, from 30 % down to 0.5 % of them (make_demo_dataset.py --studies --long_tail), and a
classifier of single images. Every recipe begins from the same backbone, which was trained on the 14 findings of
another set, with a new classifier layer, and sees as many images in the same order of epochs. Scores are those of
evaluate.py on test images: mean average precision of all, of head, medium and tail (by training images, 10 % and 1 %),
calibration error (15 bins) as it is, and after Platt scaling on validation images.
Differences to BCE are of the same seed. Runs that are there are not repeated.
Writes benchmarks/results/longtail_study-<machine>.json.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figure, add_machine, script, table, write_result

from roi import cli
from roi.data.table import read_table
from roi.data.targets import target_matrix
from roi.scoring import predictions
from roi.scoring.calibration import apply, ece, fit_platt

BALANCED = ("--sampler", "repeat_factor", "--repeat_threshold", 0.05)
RECIPES: dict[str, tuple[object, ...]] = {
    "bce": (),
    "bce, repeat factors": BALANCED,
    "weighted asymmetric (CheXFusion)": ("--loss", "weighted_asymmetric"),
    "both: weighted asymmetric, repeat factors (--recipe cxrlt)": ("--loss", "weighted_asymmetric", *BALANCED),
    "asymmetric": ("--loss", "asymmetric"),
    "ral": ("--loss", "ral"),
    "distribution balanced": ("--loss", "distribution_balanced"),
    "logit adjusted": ("--loss", "logit_adjusted"),
    "class balanced": ("--loss", "class_balanced"),
    "ldam": ("--loss", "ldam"),
    "focal": ("--loss", "focal"),
}
GOALS = {"tail": ">= 0.03", "head": ">= -0.01", "mece_platt": "<= 0.005"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count = cli.number(int, 1)
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for sets and runs")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--first_seed", type=cli.number(int, 0), default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--studies", type=count, default=7000, metavar="N", help="of a set (default: %(default)s)")
    parser.add_argument("--img_size", type=count, default=64, metavar="PX", help="(default: %(default)s)")
    parser.add_argument("--epochs", type=count, default=6, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--train_images", type=count, default=4000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="(default: all)")
    parser.add_argument("--backbone", default="test_resnet", metavar="NAME", help="(default: %(default)s)")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in args.recipes}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        folder = args.out / f"seed{seed}"
        make_tables(args, folder, seed)
        for name in args.recipes:
            runs[name].append(one_run(args, folder, name, seed))
            print(seed, name, {key: round(value, 4) for key, value in runs[name][-1].items()}, flush=True)
    figures = [figure for name in args.recipes if name != "bce" for figure in differences(name, runs)]
    print(table(figures))
    flags = ("studies", "train_images", "img_size", "epochs", "seeds", "first_seed", "backbone")
    result: dict[str, Any] = {
        "what": "average precision and calibration error of synthetic X-rays with a long tail of findings, by recipe",
        "command": "python benchmarks/longtail_study.py --out … "
        + " ".join(f"--{name} {getattr(args, name)}" for name in flags),
        "figures": [figure.as_dict() for figure in figures],
        "runs": runs,
    }
    print(write_result("longtail_study", args.machine, result))


def make_tables(args: argparse.Namespace, folder: Path, seed: int) -> None:
    """The set of a seed with its tables, and the backbone that all recipes begin from."""
    root, log = folder / "Dataset", folder / "log.txt"
    if not (folder / "test.csv").is_file():
        size = ("--studies", args.studies, "--long_tail", "--size", args.img_size, "--seed", seed)
        script("make_demo_dataset.py", "--out", root / "cxrlt", "--layout", "cxrlt", *size, log=log)
        make = ("make_chexmultimodal_csv.py", "--cxrlt", "2024.2", "--data_root", root, "--overwrite")
        script(*make, "--out_csv", folder / "train.csv", log=log)
        script(*make, "--splits", "test", "--out_csv", folder / "test.csv", log=log)
    start = args.out / "start"
    if (start / "roi.pt").is_file() and (start / "done").is_file():
        return
    pictures = ("--images", 3000, "--size", args.img_size, "--seed", 900)
    script("make_demo_dataset.py", "--out", start / "nih", "--overwrite", *pictures, log=log)
    script("download_datasets.py", "--gather", start / "nih", log=log)
    source = ("--src_csv", start / "nih" / "Data_Entry_2017.csv", "--image_dir", start / "nih" / "images")
    words = ("--label_from", "Finding Labels", "--out_csv", start / "nih.csv", "--overwrite")
    script("make_chexmultimodal_csv.py", *source, *words, log=log)
    data = ("--train_csv", start / "nih.csv", "--image_root", start / "nih", "--cache_dir", start / "pixels")
    model = ("--backbone", args.backbone, "--weights", "none", "--lr", 2e-3, "--epochs", 8, "--save", start / "roi.pt")
    train("--mode", "standard", *data, *model, "--overwrite", args=args, seed=0, log=log)
    (start / "done").touch()


def train(*flags: object, args: argparse.Namespace, seed: int, log: Path) -> None:
    small = ("--workers", 0, "--device", "cpu", "--batch_size", 32, "--img_size", args.img_size, "--seed", seed)
    script("train_roi_baselines.py", *flags, *small, threads=1, log=log)


def one_run(args: argparse.Namespace, folder: Path, name: str, seed: int) -> dict[str, float]:
    """Train with a recipe, predict and score."""
    run = folder / "".join(letter if letter.isalnum() else "_" for letter in name.split(" (")[0])
    log = run / "log.txt"
    data = ("--image_root", folder / "Dataset", "--cache_dir", folder / "pixels")
    if not (run / "scores" / "metrics.json").is_file():
        begin = ("--backbone", args.backbone, "--weights", args.out / "start" / "roi.pt", "--new_head", "--lr", 1e-3)
        table_of = ("--train_csv", folder / "train.csv", "--max_train_samples", args.train_images)
        save = ("--save", run / "roi.pt", "--epochs", args.epochs, "--schedule", "cosine", "--resume", "auto")
        flags = ("--mode", "standard", *table_of, *data, *begin, *save, *RECIPES[name])
        train(*flags, args=args, seed=seed, log=log)
        for split, csv in (("val", run / "roi_val.csv"), ("test", folder / "test.csv")):
            # The last epoch: the best one of validation would be chosen by AUROC, which no loss here trains.
            what = ("--checkpoint", run / "roi.pt", "--csv", csv, "--save_json", run / f"{split}.json", "--overwrite")
            script("infer_roi_consistency.py", *what, *data, "--workers", 0, "--device", "cpu", threads=1, log=log)
        scored = ("--preds", run / "test.json", "--csv", folder / "test.csv", "--train_csv", folder / "train.csv")
        script("evaluate.py", *scored, "--resamples", 0, "--out", run / "scores", "--overwrite", log=log)
    block = json.loads((run / "scores" / "metrics.json").read_text())["long_tail"]
    means = {name: part["map"]["value"] for name, part in block["bins"].items()}
    challenge = block["challenge"]
    return {
        "map": challenge["map"]["value"],
        **means,
        "mece": challenge["mece"]["value"],
        "mece_platt": calibration_after_platt(run, folder / "test.csv"),
    }


def calibration_after_platt(run: Path, test_csv: Path) -> float:
    """Mean calibration error of the classes once a line through their logits was fitted to validation images."""
    errors = []
    val, val_target = scored_images(run / "val.json", run / "roi_val.csv")
    test, target = scored_images(run / "test.json", test_csv)
    for k in range(target.shape[1]):
        if not val_target[:, k].any() or not target[:, k].any():
            continue
        line = fit_platt(val[:, k], val_target[:, k])
        errors.append(ece(apply("platt", line, test[:, k]), target[:, k]))
    return statistics.mean(errors)


def scored_images(preds: Path, csv: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels, (N, K) each."""
    said, rows = predictions.align_with_table(str(preds), read_table(csv), str(csv))
    return said.prob["full"].astype(float), target_matrix(rows, said.classes)


def differences(name: str, runs: dict[str, list[dict[str, float]]]) -> list[Figure]:
    """Scores of a recipe minus those of BCE with the same seed: mean over seeds, and each."""
    figures = []
    for key, goal in GOALS.items():
        each = [own[key] - plain[key] for own, plain in zip(runs[name], runs["bce"], strict=True)]
        figures.append(Figure(f"{name}: {key} - BCE", statistics.mean(each), goal, "", details={"seeds": each}))
    return figures


if __name__ == "__main__":
    cli.run(main, parse_args)
