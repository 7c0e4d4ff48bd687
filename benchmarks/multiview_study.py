"""What are several views of a study worth, and what is attention over them worth?

    python benchmarks/multiview_study.py --out runs/multiview_study

Synthetic studies of one to four images (make_demo_dataset.py --studies): most findings show in one kind of view or in
both, each by itself; two of them only both kinds of view together decide. For each seed a set of its own; all study
models begin from the same image model, whose features stay, and learn for as many epochs:

  image      a classifier of single images, asked for the labels of their study
  mean       its probabilities, averaged over the images of a study
  head       the attention of train_multiview.py on one image at a time, averaged: what the head is worth by itself
  attention  the same head over all images of a study together

Average precision of test studies: of all, of those of several images, of those of one. A perfect reader, who sees what
truth.csv says can be seen and else guesses the prevalence, is the ceiling with the first frontal image and with all.
View pointing: where a finding can be seen in one of several images of its study, how often that image adds the most.
Runs that are there are not repeated. Writes benchmarks/results/multiview_study-<machine>.json.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from harness import Figure, add_machine, script, table, write_result

from roi import cli
from roi.data.studies import studies_of
from roi.scoring.challenge.perfect_reader import conjunctions_of, lone_views, perfect_scores, read_truth
from roi.scoring.metrics import average_precision, mean_defined

ROUNDS = ("image", "head", "attention")


class Seen(NamedTuple):
    """Test studies of one seed: M studies, K classes."""

    target: np.ndarray  # (M, K) 0/1
    several: np.ndarray  # (M,) has more than one image
    both: np.ndarray  # (K,) only both kinds of view decide it
    prob: dict[str, np.ndarray]  # (M, K) of each reader
    perfect: tuple[float, float]  # mean AP of the perfect reader: first frontal image, all images
    pointing: float  # of attention
    chance: float


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count = cli.number(int, 1)
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for sets and runs")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--studies", type=count, default=4000, metavar="N", help="of a set (default: %(default)s)")
    parser.add_argument("--img_size", type=count, default=96, metavar="PX", help="(default: %(default)s)")
    parser.add_argument("--epochs", type=count, default=10, metavar="N", help="image model (default: %(default)s)")
    parser.add_argument("--study_epochs", type=count, default=8, metavar="N", help="others (default: %(default)s)")
    parser.add_argument("--backbone", default="test_resnet", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="seeds side by side (default: %(default)s)")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    with ThreadPoolExecutor(args.jobs) as pool:
        seen = list(pool.map(lambda seed: one_seed(args, seed), range(args.seeds)))
    figures = compare(seen)
    print(table(figures))
    flags = ("studies", "img_size", "epochs", "study_epochs", "seeds", "backbone")
    result: dict[str, Any] = {
        "what": "average precision of synthetic test studies, by who looks at which images",
        "command": "python benchmarks/multiview_study.py --out … "
        + " ".join(f"--{name} {getattr(args, name)}" for name in flags),
        "figures": [figure.as_dict() for figure in figures],
        "seeds": [summary(studies) for studies in seen],
    }
    print(write_result("multiview_study", args.machine, result))


# ---- runs -----------------------------------------------------------------------------------------------------------


def one_seed(args: argparse.Namespace, seed: int) -> Seen:
    """Draw a set, train the three models on it, predict its test studies."""
    folder = args.out / f"seed{seed}"
    log = folder / "log.txt"
    make_tables(args, folder, seed)
    for name in ROUNDS:
        if not (folder / f"{name}.json").is_file():
            train(args, folder, name, seed, log)
            predict(folder, name, log)
    return read(folder)


def make_tables(args: argparse.Namespace, folder: Path, seed: int) -> None:
    """The set, its tables, and the tables in which each image is a study of its own."""
    root, log = folder / "Dataset", folder / "log.txt"
    if not (folder / "test.csv").is_file():
        size = ("--studies", args.studies, "--size", args.img_size, "--seed", seed)
        script("make_demo_dataset.py", "--out", root / "cxrlt", "--layout", "cxrlt", *size, log=log)
        make = ("make_chexmultimodal_csv.py", "--cxrlt", "2024.2", "--data_root", root, "--overwrite")
        script(*make, "--out_csv", folder / "train.csv", log=log)
        script(*make, "--splits", "test", "--out_csv", folder / "test.csv", log=log)
    for split in ("train", "test"):
        rows = pd.read_csv(folder / f"{split}.csv", dtype=str, keep_default_na=False)
        rows.assign(study_id="").to_csv(folder / f"{split}_alone.csv", index=False)


def table_of(folder: Path, name: str, split: str) -> Path:
    return folder / (f"{split}_alone.csv" if name == "head" else f"{split}.csv")


def train(args: argparse.Namespace, folder: Path, name: str, seed: int, log: Path) -> None:
    data = ("--train_csv", table_of(folder, name, "train"), "--image_root", folder / "Dataset")
    small = ("--cache_dir", folder / "pixels", "--workers", 0, "--device", "cpu", "--batch_size", 32, "--seed", seed)
    save = ("--save", folder / f"{name}.pt", "--log_csv", folder / f"{name}.csv", "--resume", "auto")
    model: tuple[object, ...]
    command: tuple[object, ...]
    if name == "image":
        model = ("--backbone", args.backbone, "--weights", "none", "--img_size", args.img_size, "--lr", 2e-3)
        command = ("train_roi_baselines.py", "--mode", "standard", "--epochs", args.epochs)
    else:
        # Frozen, so that both heads are compared on the same features.
        begun = ("--init", folder / "image_best.pt", "--freeze_backbone", "--fusion", "attention")
        model = (*begun, "--lr", 1e-3, "--fusion_lr", 2e-3, "--schedule", "onecycle")
        command = ("train_multiview.py", "--epochs", args.study_epochs)
    script(*command, *model, *data, *small, *save, threads=1, log=log)


def predict(folder: Path, name: str, log: Path) -> None:
    checkpoint = ("--checkpoint", folder / f"{name}_best.pt", "--csv", table_of(folder, name, "test"))
    data = ("--image_root", folder / "Dataset", "--cache_dir", folder / "pixels", "--workers", 0, "--device", "cpu")
    script(
        "infer_roi_consistency.py",
        *(*checkpoint, *data, "--save_json", folder / f"{name}.json", "--overwrite"),
        threads=1,
        log=log,
    )


# ---- figures --------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Seen:
    """What each reader says of the test studies."""
    rows = pd.read_csv(folder / "test.csv", dtype=str, keep_default_na=False)
    studies = studies_of(rows)
    said = {name: json.loads((folder / f"{name}.json").read_text()) for name in ROUNDS}
    classes = list(said["attention"][0]["prob_full"])
    prob = {}
    for name, records in said.items():
        prob[name] = np.array([[record["prob_full"][c] for c in classes] for record in records])[studies.rows]
    first = studies.start[:-1]
    has_label = [labels.split(",") for labels in rows["labels"].iloc[studies.rows[first]]]
    target = np.array([[float(c in labels) for c in classes] for labels in has_label])
    truth = read_truth(folder / "Dataset" / "cxrlt" / "truth.csv", ["test"])
    perfect = perfect_scores(truth)
    pointing, chance = view_pointing(truth, said["attention"])
    return Seen(
        target,
        studies.sizes > 1,
        np.isin(classes, list(conjunctions_of(truth))),
        {
            "first": prob["image"][first],
            "mean": mean_of(prob["image"], studies.start),
            "head": mean_of(prob["head"], studies.start),
            "attention": prob["attention"][first],
        },
        (perfect.mean_first_frontal, perfect.mean_all_views),
        pointing,
        chance,
    )


def mean_of(values: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(V, K) of images in the order of their studies -> (M, K)"""
    return np.add.reduceat(values, start[:-1]) / np.diff(start)[:, None]


def view_pointing(truth: pd.DataFrame, records: list[dict[str, Any]]) -> tuple[float, float]:
    """How often the one image that shows a finding adds the most to its study's probability; and by chance."""
    by_study: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_study.setdefault(record["study"], []).append(record)
    hits, chances = [], []
    for row in lone_views(truth).itertuples():
        images = by_study[str(row.study_id)]
        added = [image["prob_full"][row.finding] - image["without"][row.finding] for image in images]
        best = images[int(np.argmax(added))]["image"]
        hits.append(Path(best).stem == Path(str(row.image)).stem)
        chances.append(1 / len(images))
    return statistics.mean(hits), statistics.mean(chances)


def mean_ap(seen: Seen, name: str, studies: np.ndarray, classes: np.ndarray) -> float:
    """Mean average precision of a reader over some classes on some studies."""
    prob, target = seen.prob[name][studies], seen.target[studies]
    return mean_defined(np.array([average_precision(prob[:, k], target[:, k]) for k in np.flatnonzero(classes)]))


def compare(seen: list[Seen]) -> list[Figure]:
    """The figures of the issue's table: a mean over seeds, and each seed's."""
    every = np.ones_like(seen[0].both)
    figures = []

    def add(name: str, goal: str, of_seed: Callable[[Seen], float], **details: Any) -> None:
        each = [of_seed(studies) for studies in seen]
        # A goal holds in each seed.
        worst = min(each) if goal.startswith(">") else max(each)
        spread = {"seeds": each, "mean": statistics.mean(each)}
        figures.append(Figure(name, worst, goal, "", details=spread | details))

    def gain(name: str, other: str, several: bool, both: np.ndarray | None = None) -> Callable[[Seen], float]:
        def of_seed(studies: Seen) -> float:
            rows = studies.several if several else ~studies.several
            classes = every if both is None else both
            return mean_ap(studies, name, rows, classes) - mean_ap(studies, other, rows, classes)

        return of_seed

    def share_of_gap(studies: Seen) -> float:
        all_rows = np.ones_like(studies.several)
        own = mean_ap(studies, "attention", all_rows, every)
        first = mean_ap(studies, "first", all_rows, every)
        return (own - first) / (studies.perfect[1] - first)

    add("mean of views - first frontal, studies of several images, mAP", ">= 0.05", gain("mean", "first", True))
    both = seen[0].both
    name = "attention - the same head a view, averaged; studies of several images"
    add(f"{name}: findings that need both views, AP", ">= 0.1", gain("attention", "head", True, both))
    add(f"{name}: all others, AP", ">= -0.005", gain("attention", "head", True, ~both))
    add("share of the gap from the first frontal image to a perfect reader of all", ">= 0.6", share_of_gap)
    add("studies of one image: study model - image model, mAP", ">= -0.005", gain("attention", "first", False))
    chance = statistics.mean(studies.chance for studies in seen)
    add("view pointing", ">= 0.9", lambda studies: studies.pointing, chance=chance)
    return figures


def summary(seen: Seen) -> dict[str, Any]:
    """Mean AP of every reader on every kind of study."""
    kinds = {"all": np.ones_like(seen.several), "several": seen.several, "one": ~seen.several}
    every = np.ones_like(seen.both)
    scores: dict[str, Any] = {"perfect_first_frontal": seen.perfect[0], "perfect_all_views": seen.perfect[1]}
    for kind, rows in kinds.items():
        scores[kind] = {"studies": int(rows.sum())} | {name: mean_ap(seen, name, rows, every) for name in seen.prob}
    scores["both_views"] = {name: mean_ap(seen, name, seen.several, seen.both) for name in seen.prob}
    return scores


if __name__ == "__main__":
    cli.run(main, parse_args)
