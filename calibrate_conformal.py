"""Thresholds with guarantees, from predictions on images that the model has not seen.

    python calibrate_conformal.py --preds preds_val.json --csv checkpoints/nih_roi_consistency_val.csv \\
        --alpha 0.1 --out thresholds.json
    python evaluate.py --preds preds.json --csv nih_roi_test.csv --thresholds thresholds.json --out scores
    python infer_roi_consistency.py ... --thresholds thresholds.json

What is promised, for images like the calibration images (--alpha 0.1):
  fnr               of a new image's findings, its set lacks at most 10 % in expectation (an image without any loses
                    nothing)
  fnr_with_finding  the same among images that have a finding: larger sets, and what a reader usually means
  fnr_shifted       the same as fnr where prevalence is that of --target_preds: only the frequency of findings may
                    differ, not how they look
  fdr               of a new image's set, at most 10 % is wrong in expectation, with confidence 1 - delta over the draw
                    of calibration images
  of each finding   present_from: at most 10 % of the images that have it lie below; absent_to: at most 10 % of those
                    without it lie above; precise_from: above it at most 10 % lack it, with confidence 1 - delta
The next image is a random one of a new patient (--unit patient): images of one patient are alike and count as one.
"Infeasible" is an answer: with so few images, or so weak a model, no threshold keeps the promise. Nothing is promised
for another hospital, and the validation images that chose the best epoch are a little too easy: images that chose
nothing are better.
"""

import argparse
from pathlib import Path

from roi import cli
from roi.files import refuse_existing, refuse_inputs


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    inside = cli.number(float, 0.001, 0.999)
    parser = cli.Parser(__doc__)
    preds = "predictions on calibration images: validation, never test"
    parser.add_argument("--preds", required=True, metavar="FILE", help=preds)
    csv = "table with their labels; training writes it as <stem>_val.csv beside the checkpoint"
    parser.add_argument("--csv", required=True, metavar="CSV", help=csv)
    parser.add_argument("--out", required=True, metavar="JSON", help="thresholds to write")
    alpha = "risk that is allowed (default: %(default)s)"
    parser.add_argument("--alpha", type=inside, default=0.1, metavar="0..1", help=alpha)
    delta = "1 - confidence of fdr and precision (default: %(default)s)"
    parser.add_argument("--delta", type=inside, default=0.1, metavar="0..1", help=delta)
    unit = (
        "the promise is for an image of the next patient, or for the next image, as if no patient had several "
        "(default: %(default)s)"
    )
    parser.add_argument("--unit", choices=("patient", "image"), default="patient", help=unit)
    classes = "findings that the sets are made of (default: all that are predicted)"
    parser.add_argument("--classes", default="", metavar="A,B", help=classes)
    scale = "mend the probabilities first, on half of the patients (default: %(default)s)"
    parser.add_argument("--scale", choices=("none", "temperature", "platt"), default="none", help=scale)
    seed = "of the halves of --scale (default: %(default)s)"
    parser.add_argument("--seed", type=cli.number(int, 0), default=0, help=seed)
    target = "predictions, without labels, on images the sets are meant for: adds fnr_shifted"
    parser.add_argument("--target_preds", metavar="FILE", help=target)
    cli.add_overwrite(parser, "thresholds")
    return cli.parse(parser, argv)


def main(args: argparse.Namespace) -> None:
    refuse_inputs({"preds": args.preds, "csv": args.csv}, [args.out])
    refuse_existing(Path(args.out), overwrite=args.overwrite)
    # They bring pandas and scipy, for which --help should not wait.
    from roi.scoring import prediction_sets, printout
    from roi.scoring.conformal_calibration import Promise, calibrate_file

    promise = Promise(args.alpha, args.delta, args.unit)
    thresholds = calibrate_file(args.preds, args.csv, promise, args.classes, args.scale, args.seed, args.target_preds)
    prediction_sets.write(args.out, thresholds)
    printout.show_thresholds(thresholds, args.out)


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
