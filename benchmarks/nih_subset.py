"""Train and score on a small part of NIH ChestX-ray14 with its official lists: what is learned, and where it looks.

    python benchmarks/nih_subset.py --data_path /data/nih_256 --weights squeezenet1_1_imagenet.safetensors \\
        --out runs/nih_subset

Runs the scripts as a user does: tables, then for each of `standard` (two seeds), the published objective and the
evidence objective: training on the official train_val images less 10 % of them for validation, predictions of the best
epoch on the official test images with masks, Grad-CAM and controls, scores, a report. Writes
benchmarks/results/nih_subset-<machine>.json; goal: mean AUROC of standard >= .64 on the test images.
"""

import argparse
import csv
import json
import shlex
from pathlib import Path
from typing import Any

from harness import add_machine, interval, script, write_result

from roi import cli

GOAL = {"standard": 0.64}
SHOWN = (
    "pointing",
    "pointing_union",
    "recall",
    "precision",
    "iou@0.1",
    "iou@0.3",
    "iou@0.5",
    "iobb@0.1",
    "area_iou@0.1",
    "centre_small",
    "false@0.1",
)
RUNS = {  # name: (script and mode, seed)
    "standard, seed 0": (("train_roi_baselines.py", "--mode", "standard"), 0),
    "standard, seed 1": (("train_roi_baselines.py", "--mode", "standard"), 1),
    "ROI consistency, seed 0": (("train_roi_consistency.py", "--objective", "consistency"), 0),
    "ROI evidence, seed 0": (("train_roi_consistency.py",), 0),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--data_path",
        required=True,
        metavar="DIR",
        help="Data_Entry_2017.csv, test_list.txt and images/ as NIH has them",
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="ImageNet weights of --backbone")
    parser.add_argument(
        "--backbone", default="squeezenet1_1", help="any torchvision or timm classifier (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=int, default=8, metavar="N", help="passes over the training images (default: %(default)s)"
    )
    parser.add_argument(
        "--curve_samples",
        type=int,
        default=300,
        metavar="N",
        help="test images on which masks meet their controls (default: %(default)s)",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for tables, checkpoints and scores; what is there is done"
    )
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    data, out = Path(args.data_path), Path(args.out)
    make = ("make_chexmultimodal_csv.py", "--src_csv", data / "Data_Entry_2017.csv", "--image_dir", data / "images")
    script(*make, "--out_csv", out / "train.csv", "--fillna", "Normal")
    script(*make, "--out_csv", out / "test.csv", "--filter_list", data / "test_list.txt")
    rows = {name: run(args, data, out, name, train, seed) for name, (train, seed) in RUNS.items()}
    versions = json.loads((out / "standard_seed_0" / "preds.meta.json").read_text())["versions"]
    result: dict[str, Any] = {
        "what": "mean AUROC over findings on the official test images of the subset",
        "goal": {"standard": f">= {GOAL['standard']}"},
        "command": shlex.join(
            ["python", "benchmarks/nih_subset.py", "--backbone", args.backbone, "--epochs", str(args.epochs)]
        )
        + " --data_path … --weights …",
        "versions": versions,
        "rows": rows,
    }
    write_result("nih_subset", args.machine, result)
    for name, row in rows.items():
        print(f"{name:26s}" + "  ".join(f"{k} {v}" for k, v in row.items() if not isinstance(v, dict)))
        for source, figures in row["localization"].items():
            print(f"  {source:16s}" + "  ".join(f"{k} {v}" for k, v in figures.items()))


def run(
    args: argparse.Namespace, data: Path, out: Path, name: str, train: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """One training, its predictions and scores. -> figures"""
    folder = out / name.replace(", ", "_").replace(" ", "_")
    script(
        *train,
        "--train_csv",
        out / "train.csv",
        "--exclude_csv",
        out / "test.csv",
        "--image_root",
        data,
        "--backbone",
        args.backbone,
        "--weights",
        args.weights,
        "--batch_size",
        32,
        "--lr",
        1e-4,
        "--epochs",
        args.epochs,
        "--img_size",
        224,
        "--seed",
        seed,
        "--workers",
        1,
        "--device",
        "cpu",
        "--save",
        folder / "roi.pt",
        "--log_csv",
        folder / "metrics.csv",
        "--resume",
        "auto",
    )
    best = (
        "infer_roi_consistency.py",
        "--checkpoint",
        folder / "roi_best.pt",
        "--image_root",
        data,
        "--device",
        "cpu",
        "--workers",
        1,
        "--overwrite",
    )
    boxes = ("--bbox_csv", data / "BBox_List_2017.csv")
    masked = train[-1] != "standard"
    by_class = name.startswith("ROI evidence")
    masks: tuple[object, ...] = ("--class_masks", folder / "class_masks.npz") if by_class else ()
    masks += (
        ("--save_masks", folder / "masks.npz", "--curves", folder / "curves.npz", "--curve_samples", args.curve_samples)
        if masked
        else ()
    )
    maps = [
        folder / file
        for file in (*(("masks.npz",) if masked else ()), "cam.npz", *(("class_masks.npz",) if by_class else ()))
    ]
    made = [folder / "preds.json", folder / "preds_val.json", *maps, *((folder / "curves.npz",) if masked else ())]
    if not all(p.is_file() and p.stat().st_mtime > (folder / "roi_best.pt").stat().st_mtime for p in made):
        script(
            *best,
            "--csv",
            out / "test.csv",
            "--save_json",
            folder / "preds.json",
            "--cam",
            folder / "cam.npz",
            *boxes,
            *masks,
        )
        script(*best, "--csv", folder / "roi_val.csv", "--save_json", folder / "preds_val.json")
    script(
        "evaluate.py",
        "--preds",
        folder / "preds.json",
        "--csv",
        out / "test.csv",
        "--threshold_preds",
        folder / "preds_val.json",
        "--threshold_csv",
        folder / "roi_val.csv",
        *(("--curves", folder / "curves.npz") if masked else ()),
        "--masks",
        *maps,
        *boxes,
        "--out",
        folder / "scores",
        "--overwrite",
    )
    script("make_report.py", "--runs", folder, "--out", folder / "report.html", "--overwrite")
    scores = json.loads((folder / "scores" / "metrics.json").read_text())
    with open(folder / "metrics.csv", newline="") as file:
        epochs = list(csv.DictReader(file))
    row: dict[str, Any] = {
        "images": scores["n_images"],
        "patients": scores["n_patients"],
        "contaminated": scores["contaminated"],
    }
    for key in ("auroc", "auroc_crop", "auroc_drop"):
        if key in scores["mean"]:
            row[key] = interval(scores["mean"][key])
    row["best_epoch"] = json.loads((folder / "preds.meta.json").read_text())["epoch"]
    row["minutes"] = round(sum(float(e["seconds"]) for e in epochs) / 60, 1)
    row |= {
        k: float(epochs[-1][k])
        for k in ("loss_full", "loss_consist", "loss_drop", "loss_sparse", "loss_tv", "loss_locate", "mask_kept")
        if epochs[-1][k]
    }
    located = scores["localization"]
    row["boxes"] = {k: located[k] for k in ("n_boxes", "n_images", "n_patients")}
    row["localization"] = {
        source: {m: interval(block["mean"][m]) for m in SHOWN} for source, block in located["sources"].items()
    }
    if masked:
        controls = scores["faithfulness"]["controls"]
        sources = controls["sources"] | {
            f"mask minus {control}": block for control, block in controls["sources"]["mask"]["minus"].items()
        }
        figures = ("crop", "drop", "insertion_area", "deletion_area", "positives", "negatives")
        row["controls"] = {"images": controls["n_images"]} | {
            name: {m: interval(block[m]) for m in figures} for name, block in sources.items()
        }
    return row


if __name__ == "__main__":
    cli.run(main, parse_args)
