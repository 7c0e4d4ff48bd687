"""Score predictions against a table: AUROC and average precision of each finding, with 95 % intervals by patient.

    python evaluate.py --preds preds.json --csv nih_roi_test.csv --out scores

Writes OUT/metrics.json (n_images, n_patients, split, contaminated, label_source; mean and per_class with auroc, ap, and
auroc_crop, auroc_drop where there is a mask, each {"value", "low", "high"}) and OUT/per_class.csv, and prints the table.
Unknown labels are left out finding by finding; a finding without both classes is undefined (null), never 0.5. Intervals:
patients drawn with replacement, all their images with them. Means are over findings, never over Normal. No model is loaded.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi import cli, predictions
from roi.files import refuse_existing, replacing
from roi.metrics import auroc, average_precision, bootstrap, interval, mean_over_findings, per_class
from roi.table import image_keys, is_finding, read_table, target_matrix


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--preds", required=True, metavar="JSON", help="predictions of infer_roi_consistency.py")
    parser.add_argument("--csv", required=True, metavar="CSV", help="table with the labels of their images")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for metrics.json and per_class.csv")
    parser.add_argument("--resamples", type=cli.number(int, 0), default=1000, metavar="N", help="bootstrap resamples; 0: no intervals (default: %(default)s)")
    parser.add_argument("--seed", type=cli.number(int, 0), default=0, help="of the resamples (default: %(default)s)")
    cli.add_overwrite(parser, "scores of an earlier run")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    out = Path(args.out)
    refuse_existing(out / "metrics.json", out / "per_class.csv", overwrite=args.overwrite)
    preds = predictions.read(args.preds)
    rows = matching_rows(preds, read_table(args.csv), args)
    target = target_matrix(rows, preds.classes)
    scores = score_parts(preds, target, rows["patient_id"].to_numpy(), args)
    metrics: dict[str, Any] = {
        "n_images": len(rows),
        "n_patients": int(rows["patient_id"].nunique()),
        "split": ", ".join(sorted(set(rows["split"]) - {""})) or "unknown",
        "contaminated": bool(preds.contaminated.any() or preds.meta.get("contaminated")),
        "label_source": args.csv,
        "mean": {name: {k: clean(v) for k, v in values["mean"].items()} for name, values in scores.items()},
        "per_class": {c: {name: {k: clean(v) for k, v in values[c].items()} for name, values in scores.items()} for c in preds.classes},
        "predictions": {"file": args.preds, **{k: preds.meta[k] for k in ("checkpoint", "epoch", "keep_ratio", "versions") if k in preds.meta}},
    }
    with replacing(out / "metrics.json") as file:
        json.dump(metrics, file, indent=1)
    table = pd.DataFrame(
        {f"{name}{'' if k == 'value' else '_' + k}": [v[c][k] for c in ["mean", *preds.classes]] for name, v in scores.items() for k in v["mean"]}
    )
    table.insert(0, "class", ["mean", *preds.classes])
    table.insert(1, "positives", [0, *(int(np.nansum(target[:, j])) for j in range(len(preds.classes)))])
    with replacing(out / "per_class.csv") as file:
        table.to_csv(file, index=False, float_format="%.6f")
    show(metrics, scores, table)


def matching_rows(preds: predictions.Predictions, table: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    """The rows of the table in the order of the predictions; every prediction needs one."""
    place = {key: n for n, key in enumerate(image_keys(table["image"]))}
    keys = image_keys(pd.Series(preds.images, dtype=str))
    lacking = [image for image, key in zip(preds.images, keys, strict=True) if key not in place]
    if lacking:
        raise ValueError(f"{args.preds}: {len(lacking):,} of its {len(preds.images):,} images are not in {args.csv}, the first is {lacking[0]}")
    if len(preds.images) < len(table):
        print(f"{args.csv}: {len(table) - len(preds.images):,} of its {len(table):,} images have no prediction; they are not scored")
    return table.iloc[[place[key] for key in keys]]


def score_parts(preds: predictions.Predictions, target: np.ndarray, patients: np.ndarray, args: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """-> name of the score -> "mean" or class -> value, low, high"""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    findings = is_finding(preds.classes)
    for part, prob in preds.prob.items():
        drawn = bootstrap(prob, target, patients, args.resamples, args.seed)  # (R, K, 2)
        suffix = "" if part == "full" else f"_{part}"
        for m, (name, measure) in enumerate((("auroc", auroc), ("ap", average_precision))):
            value = per_class(measure, prob, target)
            defined = findings & ~np.isnan(value)
            means = np.array([r[~np.isnan(r)].mean() if (~np.isnan(r)).any() else np.nan for r in drawn[:, defined, m]])
            low_high = [interval(means), *(interval(drawn[:, j, m]) for j in range(len(value)))]
            values = [mean_over_findings(value, preds.classes), *value]
            scores[name + suffix] = {
                c: {"value": float(v), "low": low, "high": high} for c, v, (low, high) in zip(["mean", *preds.classes], values, low_high, strict=True)
            }
    return scores


def clean(value: float) -> float | None:
    return None if math.isnan(value) else value


def show(metrics: dict[str, Any], scores: dict[str, dict[str, dict[str, float]]], table: pd.DataFrame) -> None:
    shown = [name for name in scores if name.startswith("auroc")] + ["ap"]
    print(f"{metrics['n_images']:,} images of {metrics['n_patients']:,} patients, split: {metrics['split']}, labels: {metrics['label_source']}")
    print("CONTAMINATED: the checkpoint was trained on test images" if metrics["contaminated"] else "none of these images was trained on")
    print(f"{'':20s}{'positives':>10s}" + "".join(f"{name:>24s}" for name in shown))
    for row, (c, positives) in enumerate(zip(table["class"], table["positives"], strict=True)):
        cells = [f"{v['value']:.4f} [{v['low']:.4f}, {v['high']:.4f}]" if not math.isnan(v["value"]) else "undefined" for v in (scores[n][c] for n in shown)]
        print(f"{c:20s}{positives if row else '':>10}" + "".join(f"{cell:>24s}" for cell in cells))


if __name__ == "__main__":
    cli.run(main, parse_args)
