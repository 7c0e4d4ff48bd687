"""Does it matter that what a data set never looked for is unknown, not absent? One of three lacks six findings.

    python benchmarks/union_study.py --out runs/union_study

Draws three demo sets in the layouts of NIH, PadChest and VinBigData (which never looked for Edema, Emphysema, Pneumonia
and Hernia, and has one class for Mass and Nodule), makes one table of them with make_chexmultimodal_csv.py, and trains
train_roi_baselines.py --mode standard on it, for each seed three times: with the unknown cells left out of the loss,
with zeros in their place as the published union had them, and without the third set. The test images are those of NIH's
and PadChest's layouts, where all 14 findings are known. Runs that are there are not repeated.

Prints the table of the README and writes benchmarks/results/union_study-<machine>.json.
"""

import argparse
import json
import shlex
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import add_machine, script, write_result

from roi import cli

SETS = ("nih", "padchest", "vinbigdata")
LACKING = ("Edema", "Emphysema", "Pneumonia", "Hernia", "Mass", "Nodule")
VARIANTS = {"unknown left out": "masked", "unknown as zero": "zeros", "without that set": "without"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count = cli.number(int, 1)
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the sets and the runs; what is there is done"
    )
    parser.add_argument(
        "--images",
        type=count,
        nargs=3,
        default=[900, 900, 2400],
        metavar="N",
        help="images of each of the three sets (default: 900 900 2400)",
    )
    parser.add_argument(
        "--img_size", type=count, default=64, metavar="PX", help="side of the images (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=count, default=10, metavar="N", help="passes over the training images (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=cli.number(int, 2), default=3, metavar="N", help="runs of each variant (default: %(default)s)"
    )
    parser.add_argument(
        "--backbone", default="test_resnet", metavar="NAME", help="trained from scratch (default: %(default)s)"
    )
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=count, default=2, metavar="N", help="runs side by side, a thread each (default: %(default)s)"
    )
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    tables = make_tables(args)
    runs = [(name, seed) for seed in range(args.seeds) for name in VARIANTS.values()]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda run: train_and_score(args, *run), runs))
    rows = {
        f"{title}, seed {seed}": figures(args, name, seed)
        for seed in range(args.seeds)
        for title, name in VARIANTS.items()
    }
    summary = {
        title: {
            key: spread([rows[f"{title}, seed {s}"][key] for s in range(args.seeds)])
            for key in ("lacking", "other", *LACKING)
        }
        for title in VARIANTS
    }
    gains = [
        rows[f"unknown left out, seed {s}"]["lacking"] - rows[f"unknown as zero, seed {s}"]["lacking"]
        for s in range(args.seeds)
    ]
    goal = {
        "figure": "AUROC of the six findings, unknown left out against unknown as zero",
        "goal": "above 0 in each seed",
        "gains": gains,
        "met": min(gains) > 0,
    }
    command = [
        "python",
        "benchmarks/union_study.py",
        "--images",
        *args.images,
        *(f"--{n}={getattr(args, n)}" for n in ("img_size", "epochs", "seeds", "backbone", "lr")),
    ]
    path = write_result(
        "union_study",
        args.machine,
        {
            "what": "one set of three never looked for six findings; "
            "AUROC on test images of the other two, where all is known",
            "command": shlex.join(map(str, command)) + " --out …",
            "goal": goal,
            "tables": tables,
            "summary": summary,
            "rows": rows,
        },
    )
    print(table(summary))
    print(f"{'met' if goal['met'] else 'MISSED'}: gain {', '.join(f'{g:+.3f}' for g in gains)}; {path}")


def make_tables(args: argparse.Namespace) -> dict[str, Any]:
    """The three sets and their tables -> the counts of the union."""
    import pandas as pd

    root = args.out / "Dataset"
    for seed, (name, images) in enumerate(zip(SETS, args.images, strict=True)):
        if not (root / name / "demo.json").is_file():
            script(
                "make_demo_dataset.py",
                "--out",
                root / name,
                "--layout",
                name,
                "--images",
                images,
                "--size",
                args.img_size,
                "--seed",
                100 + seed,
            )
    make = ("make_chexmultimodal_csv.py", "--data_root", root, "--overwrite", "--datasets")
    script(*make, *SETS, "--out_csv", args.out / "masked.csv", "--splits", "train", "val")
    script(*make, *SETS[:2], "--out_csv", args.out / "without.csv", "--splits", "train", "val")
    script(*make, *SETS[:2], "--out_csv", args.out / "test.csv", "--splits", "test")
    table = pd.read_csv(args.out / "masked.csv", dtype=str, keep_default_na=False)
    table.assign(unknown="").to_csv(args.out / "zeros.csv", index=False)
    return json.loads((args.out / "masked_summary.json").read_text())["datasets"]


def train_and_score(args: argparse.Namespace, name: str, seed: int) -> None:
    """Train, predict, score; what is there is done."""
    folder = args.out / f"{name}_{seed}"
    if (folder / "scores" / "metrics.json").is_file():
        return
    images = (
        "--image_root",
        args.out / "Dataset",
        "--workers",
        0,
        "--device",
        args.device,
        "--cache_dir",
        folder / "pixels",
    )
    common = {"threads": 1, "log": folder / "log.txt"}
    script(
        "train_roi_baselines.py",
        "--mode",
        "standard",
        "--train_csv",
        args.out / f"{name}.csv",
        "--exclude_csv",
        args.out / "test.csv",
        *images,
        "--backbone",
        args.backbone,
        "--weights",
        "none",
        "--batch_size",
        32,
        "--lr",
        args.lr,
        "--epochs",
        args.epochs,
        "--img_size",
        args.img_size,
        "--seed",
        seed,
        "--save",
        folder / "roi.pt",
        "--log_csv",
        folder / "metrics.csv",
        "--resume",
        "auto",
        **common,
    )
    test = ("--csv", args.out / "test.csv")
    script(
        "infer_roi_consistency.py",
        "--checkpoint",
        folder / "roi_best.pt",
        *test,
        *images,
        "--save_json",
        folder / "preds.json",
        "--overwrite",
        **common,
    )
    script("evaluate.py", "--preds", folder / "preds.json", *test, "--out", folder / "scores", "--overwrite", **common)


def figures(args: argparse.Namespace, name: str, seed: int) -> dict[str, float]:
    """AUROC of each finding, and the means over those that the third set lacks and over the others."""
    scores = json.loads((args.out / f"{name}_{seed}" / "scores" / "metrics.json").read_text())
    found = {label: row["auroc"]["value"] for label, row in scores["per_class"].items()}
    means = {
        "lacking": statistics.fmean(found[c] for c in LACKING),
        "other": statistics.fmean(v for c, v in found.items() if c not in LACKING),
    }
    return means | found | {"test_images": scores["n_images"]}


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values)}


def table(summary: dict[str, dict[str, dict[str, float]]]) -> str:
    keys = ("lacking", "other", *LACKING)
    lines = [
        "| training | the six findings | the other eight | " + " | ".join(LACKING) + " |",
        "|---" * (len(keys) + 1) + "|",
    ]
    return "\n".join(
        [
            *lines,
            *(
                f"| {title} | " + " | ".join(f"{row[k]['mean']:.3f} ± {row[k]['sd']:.3f}" for k in keys) + " |"
                for title, row in summary.items()
            ),
        ]
    )


if __name__ == "__main__":
    cli.run(main, parse_args)
