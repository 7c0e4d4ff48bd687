"""Train and score on a small part of NIH ChestX-ray14 with its official lists: does the chain learn, and where does it look?

    python benchmarks/nih_subset.py --data_path /data/nih_256 --weights squeezenet1_1_imagenet.safetensors --out runs/nih_subset

Runs the scripts as a user does: tables, then for each of `standard` (two seeds) and ROI consistency: training on the
official train_val images less 10 % of them for validation, predictions of the best epoch on the official test images with masks,
Grad-CAM and controls, scores, a report. Writes benchmarks/results/nih_subset-<machine>.json; goal: mean AUROC of standard >= .64 on the test images.
"""

import argparse
import csv
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from roi import cli  # noqa: E402
from roi.files import replacing  # noqa: E402

GOAL = {"standard": 0.64}
SHOWN = ("pointing", "pointing_union", "recall", "precision", "iou@0.1", "iou@0.3", "iou@0.5", "iobb@0.1", "area_iou@0.1", "centre_small", "false@0.1")
RUNS = {  # name: (script and mode, seed)
    "standard, seed 0": (("train_roi_baselines.py", "--mode", "standard"), 0),
    "standard, seed 1": (("train_roi_baselines.py", "--mode", "standard"), 1),
    "ROI consistency, seed 0": (("train_roi_consistency.py",), 0),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--data_path", required=True, metavar="DIR", help="Data_Entry_2017.csv, test_list.txt and images/ as NIH has them")
    parser.add_argument("--weights", required=True, metavar="FILE", help="ImageNet weights of --backbone")
    parser.add_argument("--backbone", default="squeezenet1_1", help="any torchvision or timm classifier (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="passes over the training images (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for tables, checkpoints and scores; what is there is done")
    parser.add_argument("--machine", default=f"{platform.machine()}-{os.cpu_count()}cores", metavar="NAME", help="names the result file (default: %(default)s)")
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
        "command": shlex.join(["python", "benchmarks/nih_subset.py", "--backbone", args.backbone, "--epochs", str(args.epochs)]) + " --data_path … --weights …",
        "machine": args.machine,
        "processor": processor(),
        "versions": versions,
        "rows": rows,
    }
    with replacing(ROOT / "benchmarks" / "results" / f"nih_subset-{args.machine}.json") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    for name, row in rows.items():
        print(f"{name:26s}" + "  ".join(f"{k} {v}" for k, v in row.items() if not isinstance(v, dict)))
        for source, figures in row["localization"].items():
            print(f"  {source:16s}" + "  ".join(f"{k} {v}" for k, v in figures.items()))


def script(*command: object) -> None:
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True)


def run(args: argparse.Namespace, data: Path, out: Path, name: str, train: tuple[str, ...], seed: int) -> dict[str, Any]:
    """One training, its predictions and scores. -> figures"""
    folder = out / name.replace(", ", "_").replace(" ", "_")
    script(
        *train, "--train_csv", out / "train.csv", "--exclude_csv", out / "test.csv",
        "--image_root", data, "--backbone", args.backbone, "--weights", args.weights,
        "--batch_size", 32, "--lr", 1e-4, "--epochs", args.epochs, "--img_size", 224, "--seed", seed, "--workers", 1, "--device", "cpu",
        "--save", folder / "roi.pt", "--log_csv", folder / "metrics.csv", "--resume", "auto",
    )  # fmt: skip
    best = ("infer_roi_consistency.py", "--checkpoint", folder / "roi_best.pt", "--image_root", data, "--device", "cpu", "--workers", 1, "--overwrite")
    boxes = ("--bbox_csv", data / "BBox_List_2017.csv")
    masked = train[-1] != "standard"
    masks = ("--save_masks", folder / "masks.npz", "--curves", folder / "curves.npz", "--curve_samples", 300) if masked else ()
    made = [folder / name for name in ("preds.json", "cam.npz", "preds_val.json", *(("masks.npz", "curves.npz") if masked else ()))]
    if not all(p.is_file() and p.stat().st_mtime > (folder / "roi_best.pt").stat().st_mtime for p in made):
        script(*best, "--csv", out / "test.csv", "--save_json", folder / "preds.json", "--cam", folder / "cam.npz", *boxes, *masks)
        script(*best, "--csv", folder / "roi_val.csv", "--save_json", folder / "preds_val.json")
    script(
        "evaluate.py", "--preds", folder / "preds.json", "--csv", out / "test.csv", "--threshold_preds", folder / "preds_val.json",
        "--threshold_csv", folder / "roi_val.csv", *(("--curves", folder / "curves.npz") if masked else ()),
        "--masks", *((folder / "masks.npz",) if masked else ()), folder / "cam.npz", *boxes, "--out", folder / "scores", "--overwrite",
    )  # fmt: skip
    script("make_report.py", "--runs", folder, "--out", folder / "report.html", "--overwrite")
    scores = json.loads((folder / "scores" / "metrics.json").read_text())
    with open(folder / "metrics.csv", newline="") as file:
        epochs = list(csv.DictReader(file))
    row: dict[str, Any] = {"images": scores["n_images"], "patients": scores["n_patients"], "contaminated": scores["contaminated"]}
    for key in ("auroc", "auroc_crop", "auroc_drop"):
        if key in scores["mean"]:
            row[key] = interval(scores["mean"][key])
    row["best_epoch"] = json.loads((folder / "preds.meta.json").read_text())["epoch"]
    row["minutes"] = round(sum(float(e["seconds"]) for e in epochs) / 60, 1)
    row |= {k: float(epochs[-1][k]) for k in ("loss_full", "loss_consist", "loss_drop", "loss_sparse", "loss_tv", "mask_kept") if epochs[-1][k]}
    located = scores["localization"]
    row["boxes"] = {k: located[k] for k in ("n_boxes", "n_images", "n_patients")}
    row["localization"] = {source: {m: interval(block["mean"][m]) for m in SHOWN} for source, block in located["sources"].items()}
    if masked:
        controls = scores["faithfulness"]["controls"]
        sources = controls["sources"] | {f"mask minus {control}": block for control, block in controls["sources"]["mask"]["minus"].items()}
        figures = ("crop", "drop", "insertion_area", "deletion_area", "positives", "negatives")
        row["controls"] = {"images": controls["n_images"]} | {name: {m: interval(block[m]) for m in figures} for name, block in sources.items()}
    return row


def interval(score: dict[str, float | None]) -> str:
    return " ".join("undefined" if score[k] is None else f"{score[k]:.3f}" for k in ("value", "low", "high"))


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    cli.run(main, parse_args)
