"""Thresholds with guarantees, from predictions on images that the model has not seen.

    python calibrate_conformal.py --preds preds_val.json --csv checkpoints/nih_roi_consistency_val.csv --alpha 0.1 --out thresholds.json
    python evaluate.py --preds preds.json --csv nih_roi_test.csv --thresholds thresholds.json --out scores
    python infer_roi_consistency.py ... --thresholds thresholds.json

What is promised, for images like the calibration images (--alpha 0.1):
  fnr               of a new image's findings, its set lacks at most 10 % in expectation (an image without any loses nothing)
  fnr_with_finding  the same among images that have a finding: larger sets, and what a reader usually means
  fnr_shifted       the same as fnr where prevalence is that of --target_preds: only the frequency of findings may differ, not how they look
  fdr               of a new image's set, at most 10 % is wrong in expectation, with confidence 1 - delta over the draw of calibration images
  of each finding   present_from: at most 10 % of the images that have it lie below; absent_to: at most 10 % of those without it lie above;
                    precise_from: above it at most 10 % lack it, with confidence 1 - delta
The next image is a random one of a new patient (--unit patient): images of one patient are alike and count as one.
"Infeasible" is an answer: with so few images, or so weak a model, no threshold keeps the promise. Nothing is promised for another hospital, and the validation
images that chose the best epoch are a little too easy: images that chose nothing are better.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi import cli
from roi.data.table import ABSENT, match_images, patients_from_names, read_table
from roi.data.targets import target_matrix
from roi.errors import UserError
from roi.files import refuse_existing
from roi.labels import canonical
from roi.scoring import prediction_sets, predictions
from roi.scoring.predictions import align_with_table, is_contaminated, same_model


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    inside = cli.number(float, 0.001, 0.999)
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--preds", required=True, metavar="FILE", help="predictions on calibration images: validation, never test"
    )
    parser.add_argument(
        "--csv",
        required=True,
        metavar="CSV",
        help="table with their labels; training writes it as <stem>_val.csv beside the checkpoint",
    )
    parser.add_argument("--out", required=True, metavar="JSON", help="thresholds to write")
    parser.add_argument(
        "--alpha", type=inside, default=0.1, metavar="0..1", help="risk that is allowed (default: %(default)s)"
    )
    parser.add_argument(
        "--delta",
        type=inside,
        default=0.1,
        metavar="0..1",
        help="1 - confidence of fdr and precision (default: %(default)s)",
    )
    unit = "the promise is for an image of the next patient, or for the next image, as if no patient had several (default: %(default)s)"
    parser.add_argument("--unit", choices=("patient", "image"), default="patient", help=unit)
    parser.add_argument(
        "--classes",
        default="",
        metavar="A,B",
        help="findings that the sets are made of (default: all that are predicted)",
    )
    parser.add_argument(
        "--scale",
        choices=("none", "temperature", "platt"),
        default="none",
        help="mend the probabilities first, on half of the patients (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=cli.number(int, 0), default=0, help="of the halves of --scale (default: %(default)s)"
    )
    parser.add_argument(
        "--target_preds",
        metavar="FILE",
        help="predictions, without labels, on images the sets are meant for: adds fnr_shifted",
    )
    cli.add_overwrite(parser, "thresholds")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    refuse_existing(Path(args.out), overwrite=args.overwrite)
    table = read_table(args.csv)
    preds, rows = align_with_table(args.preds, table, args.csv)
    if is_contaminated(preds):
        raise UserError(
            f"--preds {args.preds}: the model was trained on some of these images or patients; calibrate on others"
        )
    classes = prediction_sets.findings_of(preds.classes, args.classes)
    place = [preds.classes.index(c) for c in classes]
    unlabelled, people = read_unlabelled(args.target_preds, classes, preds) if args.target_preds else (None, None)
    try:
        found = prediction_sets.calibrate(
            preds.prob["full"][:, place],
            target_matrix(rows, classes),
            rows["patient_id"].to_numpy(),
            classes,
            args.alpha,
            args.delta,
            args.unit,
            args.scale,
            args.seed,
            unlabelled,
            people,
        )
    except ValueError as error:
        raise UserError(f"{args.csv}: {error}") from error
    found |= {
        "preds": args.preds,
        "csv": args.csv,
        "command": shlex.join(sys.argv),
        "contaminated": is_contaminated(preds),  # false, or null where nobody says
        "model": {k: preds.meta[k] for k in ("checkpoint", "epoch", "ensemble") if k in preds.meta},
    }
    prediction_sets.write(args.out, found)
    show(found, args.out)


def read_unlabelled(
    path: str, classes: list[str], calibration: predictions.Predictions
) -> tuple[np.ndarray, np.ndarray]:
    """(M, K) predictions of the same model on other images, on which it was not trained; (M,) the patients that their
    names say."""
    preds = predictions.read(path)
    same_model(calibration, preds.meta, f"--target_preds {path}")
    shared = int((match_images(preds.images, calibration.images) != ABSENT).sum())
    if shared or is_contaminated(preds):
        why = (
            f"{shared:,} of its images set the thresholds"
            if shared
            else "the model was trained on some of these images"
        )
        raise UserError(f"--target_preds {path}: {why}")
    names = [canonical(c, [*classes, *preds.classes], path) for c in preds.classes]
    lacking = [c for c in classes if c not in names]
    if lacking:
        raise UserError(f"--target_preds {path}: has no prediction for {lacking[0]!r}")
    patients = patients_from_names(pd.Series(preds.images, dtype=str)).to_numpy()
    return preds.prob["full"][:, [names.index(c) for c in classes]], patients


def show(found: dict[str, Any], out: str) -> None:
    print(
        f"{found['n_images']:,} images of {found['n_patients']:,} patients, {found['with_finding']:.1%} with a finding; alpha {found['alpha']:g}"
    )
    if found["contaminated"] is None:
        print("the predictions do not say what was trained on: if these images were, nothing is promised")
    if found["n_whole"] < found["n_images"]:
        print(
            f"thresholds of all findings together come from the {found['n_whole']:,} images of which all findings are known"
        )
    if found["n_fitted"]:
        print(f"{found['scale']} scaling was fitted on {found['n_fitted']:,} others")
    for rule in prediction_sets.RULES:
        if rule != "fnr_shifted" or found["shift"]:
            print(f"{rule:18s}{_text(found[rule])}")
    if found["shift"]:
        if "why" in found["shift"]:
            print(f"  {found['shift']['why']}")
        print(
            "  prevalence there, estimated: "
            + ", ".join(f"{c} {q:.2%}" for c, q in found["shift"]["prevalence"].items())
        )
    print(f"{'':20s}{'positives':>10s}{'present from':>14s}{'absent to':>14s}{'precise from':>14s}")
    for c, row in found["each"].items():
        print(f"{c:20s}{row['positives']:>10,}" + "".join(f"{_text(row[name]):>14s}" for name in prediction_sets.EACH))
    print(out)


def _text(threshold: float | None) -> str:
    return "infeasible" if threshold is None else "none needed" if threshold > 1 else f"{threshold:.4g}"


if __name__ == "__main__":
    cli.run(main, parse_args)
