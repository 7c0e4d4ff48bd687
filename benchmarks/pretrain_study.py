"""Is it worth to begin from other data sets? Few studies to learn from, with and without a model of other sets.

    python benchmarks/pretrain_study.py --out runs/pretrain_study

Three synthetic sets in the layouts of NIH, CheXpert and VinBigData, in one table where what a set never looked for is
unknown, train an image model (train_roi_baselines.py --mode standard). The 26 classes of CXR-LT are then learned from
about 400 studies of another set: from scratch; from that model, whose classifier layer comes by the names of its
classes; and from that model once it has said what its own three tables do not know
(make_chexmultimodal_csv.py --soften) and was trained again. Mean average precision on test images of the fourth set, as
evaluate.py has it; differences are of the same seed. Runs that are there are not repeated.
Writes benchmarks/results/pretrain_study-<machine>.json.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from harness import Figure, add_machine, script, table, write_result

from roi import cli

SETS = {"nih": 1500, "chexpert": 1500, "vinbigdata": 1500}
ARMS = ("scratch", "pretrained", "pseudo labels")
GOALS = {"pretrained": ("scratch", ">= 0.03"), "pseudo labels": ("pretrained", ">= -0.005")}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count = cli.number(int, 1)
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for sets and runs")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--first_seed", type=cli.number(int, 0), default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--studies", type=count, default=3000, metavar="N", help="of the set (default: %(default)s)")
    parser.add_argument("--train_images", type=count, default=650, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--img_size", type=count, default=64, metavar="PX", help="(default: %(default)s)")
    parser.add_argument("--epochs", type=count, default=10, metavar="N", help="of other sets (default: %(default)s)")
    parser.add_argument("--few_epochs", type=count, default=20, metavar="N", help="of few (default: %(default)s)")
    parser.add_argument("--backbone", default="test_resnet", metavar="NAME", help="(default: %(default)s)")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    runs: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        folder = args.out / f"seed{seed}"
        make_tables(args, folder, seed)
        pretrain(args, folder, seed)
        for arm in ARMS:
            runs[arm].append(one_run(args, folder, arm, seed))
            print(seed, arm, round(runs[arm][-1], 4), flush=True)
    figures = []
    for arm, (other, goal) in GOALS.items():
        each = [own - plain for own, plain in zip(runs[arm], runs[other], strict=True)]
        details = {"seeds": each, "mean": statistics.mean(each)}
        figures.append(Figure(f"{arm} - {other}, mAP, worst seed", min(each), goal, "", details=details))
    print(table(figures))
    flags = ("studies", "train_images", "img_size", "epochs", "few_epochs", "seeds", "first_seed", "backbone")
    result: dict[str, Any] = {
        "what": "mean average precision of 26 classes learned from few synthetic studies, by what the model began from",
        "command": "python benchmarks/pretrain_study.py --out … "
        + " ".join(f"--{name} {getattr(args, name)}" for name in flags),
        "other_sets": SETS,
        "figures": [figure.as_dict() for figure in figures],
        "map": runs,
    }
    print(write_result("pretrain_study", args.machine, result))


def make_tables(args: argparse.Namespace, folder: Path, seed: int) -> None:
    """The three sets in one table, and the few studies with their test images."""
    if (folder / "test.csv").is_file():
        return
    root, log = folder / "Dataset", folder / "log.txt"
    for place, (name, images) in enumerate(SETS.items()):
        size = ("--images", images, "--size", args.img_size, "--seed", 1000 + 10 * seed + place)
        script("make_demo_dataset.py", "--out", root / name, "--layout", name, "--overwrite", *size, log=log)
    union = ("--datasets", *SETS, "--data_root", root, "--splits", "train", "val")
    script("make_chexmultimodal_csv.py", *union, "--out_csv", folder / "others.csv", "--overwrite", log=log)
    size = ("--studies", args.studies, "--size", args.img_size, "--seed", seed)
    script("make_demo_dataset.py", "--out", root / "cxrlt", "--layout", "cxrlt", "--overwrite", *size, log=log)
    make = ("make_chexmultimodal_csv.py", "--cxrlt", "2024.2", "--data_root", root, "--overwrite")
    script(*make, "--out_csv", folder / "train.csv", log=log)
    script(*make, "--splits", "test", "--out_csv", folder / "test.csv", log=log)


def pretrain(args: argparse.Namespace, folder: Path, seed: int) -> None:
    """A model of the three sets; and one of the same table with what the first model says of its unknown cells."""
    others, softened = folder / "others.csv", folder / "softened.csv"
    train(args, folder, "pre", others, seed, "--weights", "none", "--lr", 2e-3, "--epochs", args.epochs)
    if not softened.is_file():
        predict(folder, "pre", others)
        soften = ("--soften", folder / "pre.json", "--csv", others, "--out_csv", softened)
        script("make_chexmultimodal_csv.py", *soften, log=folder / "log.txt")
    train(args, folder, "student", softened, seed, "--weights", "none", "--lr", 2e-3, "--epochs", args.epochs)


def train(args: argparse.Namespace, folder: Path, name: str, csv: Path, seed: int, *flags: object) -> None:
    if (folder / f"{name}.done").is_file():
        return
    data = ("--train_csv", csv, "--image_root", folder / "Dataset", "--cache_dir", folder / "pixels", "--workers", 0)
    model = ("--backbone", args.backbone, "--img_size", args.img_size, "--batch_size", 32, "--device", "cpu")
    save = ("--save", folder / f"{name}.pt", "--seed", seed, "--resume", "auto")
    script(
        "train_roi_baselines.py", "--mode", "standard", *data, *model, *save, *flags, threads=1, log=folder / "log.txt"
    )
    (folder / f"{name}.done").touch()


def predict(folder: Path, name: str, csv: Path) -> None:
    data = ("--csv", csv, "--image_root", folder / "Dataset", "--cache_dir", folder / "pixels", "--workers", 0)
    words = ("--checkpoint", folder / f"{name}.pt", "--save_json", folder / f"{name}.json", "--overwrite")
    script("infer_roi_consistency.py", *words, *data, "--device", "cpu", threads=1, log=folder / "log.txt")


def one_run(args: argparse.Namespace, folder: Path, arm: str, seed: int) -> float:
    """Learn the 26 classes from few studies, predict the test images -> mean average precision."""
    name = arm.replace(" ", "_")
    scores = folder / f"scores_{name}"
    if not (scores / "metrics.json").is_file():
        begin = {"scratch": "none", "pretrained": folder / "pre.pt", "pseudo labels": folder / "student.pt"}[arm]
        few = ("--weights", begin, "--max_train_samples", args.train_images, "--epochs", args.few_epochs)
        train(args, folder, name, folder / "train.csv", seed, *few, "--lr", 1e-3, "--schedule", "cosine")
        predict(folder, name, folder / "test.csv")
        scored = ("--preds", folder / f"{name}.json", "--csv", folder / "test.csv", "--train_csv", folder / "train.csv")
        script("evaluate.py", *scored, "--resamples", 0, "--out", scores, "--overwrite", log=folder / "log.txt")
    return json.loads((scores / "metrics.json").read_text())["long_tail"]["challenge"]["map"]["value"]


if __name__ == "__main__":
    cli.run(main, parse_args)
