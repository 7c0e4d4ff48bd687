"""Do prediction sets keep their promise on real predictions, and what does a change of prevalence do to them?

    python benchmarks/conformal_study.py --preds chexnet_reproduction_predictions.csv \\
        --metadata Data_Entry_2017_v2020.csv

Halves: patients are drawn into calibration and test images, 20 times; one threshold for all findings, the
false-negative rate of a new image at most alpha. Official: calibrated on the images of NIH's train_val list, scored on
those of its test list, where findings are far more frequent: without and with the correction for prevalence, estimated
from the test predictions alone or taken from the test labels (which nobody has); and finding by finding, where
sensitivity should not depend on prevalence. The predictions must be of a model that was trained on neither.

Prints two tables and writes benchmarks/results/conformal-<machine>.json.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from harness import add_machine, write_result

from roi import cli
from roi.data.targets import target_matrix
from roi.scoring import conformal, prediction_sets, predictions
from roi.scoring.conformal_calibration import Promise, Unlabelled, calibrate
from roi.sources.nih import nih_label_table

ALPHAS = (0.05, 0.1, 0.2)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--preds",
        type=Path,
        required=True,
        metavar="CSV",
        help="predictions on NIH images of both official lists, trained on neither",
    )
    parser.add_argument(
        "--metadata",
        type=Path,
        required=True,
        metavar="CSV",
        help="Data_Entry_2017_v2020.csv, the official lists beside it",
    )
    parser.add_argument(
        "--seeds", type=cli.number(int, 2), default=20, metavar="N", help="draws of halves (default: %(default)s)"
    )
    parser.add_argument(
        "--resamples",
        type=cli.number(int, 0),
        default=1000,
        metavar="N",
        help="of the intervals (default: %(default)s)",
    )
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    preds = predictions.read(args.preds)
    rows = nih_label_table(args.metadata).set_index("image").loc[preds.images]
    prob, target = preds.prob["full"], target_matrix(rows, preds.classes)
    patients, split = rows["patient_id"].to_numpy(), rows["split"].to_numpy()
    found: dict[str, Any] = {
        "halves": halves(prob, target, patients, args.seeds),
        "official": official(prob, target, patients, split, preds.classes, args.resamples),
    }
    path = write_result(
        "conformal",
        args.machine,
        {"command": "python benchmarks/conformal_study.py --preds … --metadata …", "images": len(prob)} | found,
    )
    print("| alpha | realised | size | images with a finding: realised | size |\n|---|---|---|---|---|")
    for row in found["halves"]:
        print(
            f"| {row['alpha']} | "
            + " | ".join(
                f"{row[k]['mean']:.3f} ± {row[k]['sd']:.3f}"
                for k in ("fnr", "size", "fnr_with_finding", "size_with_finding")
            )
            + " |"
        )
    print("| official lists, alpha .1 | realised | size | size with a finding |\n|---|---|---|---|")
    for rule, row in found["official"]["rules"].items():
        print(f"| {rule} | " + " | ".join(text(row[k]) for k in (promised(rule), "size", "size_with_finding")) + " |")
    print(f"estimated prevalence: {found['official']['shift_estimated']}")
    print(f"true prevalence: {found['official']['true_prevalence']}")
    print(found["official"]["shift"]["warning"])
    print(path)


def promised(rule: str) -> str:
    return {"fnr_shifted": "fnr"}.get(rule, rule)


def text(score: dict[str, float]) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def halves(prob: np.ndarray, target: np.ndarray, patients: np.ndarray, seeds: int) -> list[dict[str, Any]]:
    names, place = np.unique(patients, return_inverse=True)
    some = (target == 1).any(axis=1)
    rows = []
    for alpha in ALPHAS:
        drawn = []
        for seed in range(seeds):
            cal = (np.random.default_rng(seed).permutation(len(names)) < len(names) // 2)[place]
            result = []
            for chosen in (np.ones(len(prob), dtype=bool), some):
                t = conformal.fnr_threshold(prob[cal & chosen], target[cal & chosen], alpha)
                test = ~cal & chosen
                result += (
                    [
                        float(conformal.false_negative_proportion(prob[test], target[test], t).mean()),
                        float((prob[test] >= t).sum(axis=1).mean()),
                    ]
                    if t is not None
                    else [np.nan] * 2
                )
            drawn.append(result)
        keys = ("fnr", "size", "fnr_with_finding", "size_with_finding")
        rows.append(
            {
                "alpha": alpha,
                **{
                    k: {"mean": statistics.fmean(v), "sd": statistics.stdev(v)}
                    for k, v in zip(keys, zip(*drawn, strict=True), strict=True)
                },
            }
        )
    return rows


def official(
    prob: np.ndarray, target: np.ndarray, patients: np.ndarray, split: np.ndarray, classes: list[str], resamples: int
) -> dict[str, Any]:
    cal, test = split == "train_val", split == "test"
    promise = Promise(alpha=0.1, delta=0.1, unit="image")
    other = Unlabelled(prob[test])
    thresholds = calibrate(prob[cal], target[cal], patients[cal], classes, promise, "none", 0, other)
    found = prediction_sets.realised(thresholds, prob[test], target[test], patients[test], resamples, 0)
    weight = conformal.label_shift_weights(target[cal], np.nanmean(target[test], axis=0))
    known = conformal.fnr_threshold(prob[cal], target[cal], 0.1, weight)
    assert known is not None
    risk = {
        "threshold": known,
        "fnr": float(conformal.false_negative_proportion(prob[test], target[test], known).mean()),
        "size": float((prob[test] >= known).sum(axis=1).mean()),
    }
    return found | {
        "n_calibration": int(cal.sum()),
        "n_test": int(test.sum()),
        "shift_estimated": thresholds["shift"],
        "true_prevalence": risk,
    }


if __name__ == "__main__":
    cli.run(main, parse_args)
