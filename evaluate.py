"""Score predictions against a table: how good, how sure, how well calibrated, for whom, and does the mask matter?

    python evaluate.py --preds preds.json --csv nih_roi_test.csv --out scores
    python evaluate.py --ensemble seed0/preds.json seed1/preds.json --csv nih_roi_test.csv --out scores_ensemble
    python evaluate.py --preds preds.json --csv cxrlt.csv --train_csv cxrlt_train.csv --unit study --out scores_study
    python evaluate.py --preds preds.json --csv nih_roi_test.csv \\
        --threshold_preds preds_val.json --threshold_csv checkpoints/nih_roi_consistency_val.csv \\
        --masks masks.npz cam.npz --bbox_csv "$D/BBox_List_2017.csv" --curves curves.npz \\
        --compare preds_standard.json --out scores

Predictions are preds.json, or any CSV with a column `image` and one of probabilities a class (prob_Mass ...). Writes
OUT/metrics.json, which the report reads, and OUT/per_class.csv, and prints the scores. Every value has a 95 % interval:
patients are drawn with replacement, all their images with them. Unknown labels are left out finding by finding; a
finding without both classes is undefined (null), never 0.5. Means are over findings, never over Normal. A table of
several data sets is also scored set by set: over all images a model gains by telling the sets apart.

F1, precision, recall, specificity and Youden's J stand at thresholds chosen on --threshold_preds (validation images),
where temperature and Platt scaling are fitted too; its patients may not be among those that are scored. --curves adds
what happens when the mask, or a control of the same area, keeps 1 to 50 % of the image. --thresholds adds what came of
the promises of calibrate_conformal.py: realised risks and sizes of the prediction sets. No model is loaded.
--train_csv adds mAP and mAUROC of head, medium and tail, which are the classes of at least 10 %, at least 1 % and less
of the training images, and the four figures of CXR-LT. --unit study scores the mean of each study's images. --truth_csv
asks a study model whether the view in which a finding shows is the one that adds the most.
--masks with --bbox_csv adds the boxes: pointing game, IoU, IoBB, share kept. The headline is each finding's own map
(--class_masks of infer_roi_consistency.py), less what it must beat: the same finding's map of other patients' images
(a map that never looks at its image equals it) and the best fixed place a finding, chosen in 5 folds of patients on the
boxes of the other folds. Beside them: the fixed place that labels alone choose, by the mean map of images with the
finding minus that of images without it (of the scored images, in folds, too; or of training images, whose maps
--train_masks gives and whose labels --train_csv), a model with new weights, random blobs, a disc in the centre.
"""

import argparse
from dataclasses import fields
from pathlib import Path

from roi import cli
from roi.files import refuse_existing


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    preds = "predictions: preds.json of infer_roi_consistency.py, or a CSV with prob_CLASS columns"
    parser.add_argument("--preds", metavar="FILE", help=preds)
    ensemble = (
        "predictions of several models for the same images, --preds among them or left out: the mean of their "
        "probabilities is scored, and written to OUT/ensemble.json, which is a file of predictions like any other"
    )
    parser.add_argument("--ensemble", nargs="+", default=[], metavar="FILE", help=ensemble)
    parser.add_argument("--csv", required=True, metavar="CSV", help="table with the labels of their images")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for metrics.json and per_class.csv")
    resamples = "bootstrap resamples, shared by up to 4 cores if there is much to do; 0: none (default: %(default)s)"
    parser.add_argument("--resamples", type=cli.number(int, 0), default=1000, metavar="N", help=resamples)
    seed = "of the resamples and of the random controls (default: %(default)s)"
    parser.add_argument("--seed", type=cli.number(int, 0), default=0, help=seed)
    add_thresholds(parser)
    add_evidence(parser)
    compare = "predictions of another model for the same images: paired differences, ours minus theirs"
    parser.add_argument("--compare", metavar="FILE", help=compare)
    train_csv = "training table, for head, medium and tail; with --train_masks the labels of its images, too"
    parser.add_argument("--train_csv", metavar="CSV", help=train_csv)
    unit = "score each image, or each study (column study_id) by the mean of its images (default: %(default)s)"
    parser.add_argument("--unit", choices=("image", "study"), default="image", help=unit)
    cli.add_overwrite(parser, "scores of an earlier run")
    args = cli.parse(parser, argv)
    settle_predictions(parser, args)
    if bool(args.threshold_preds) != bool(args.threshold_csv):
        parser.error("--threshold_preds and --threshold_csv go together")
    if args.bbox_csv and not args.masks:
        parser.error("--bbox_csv needs --masks")
    if args.train_masks and not args.train_csv:
        parser.error("--train_masks needs --train_csv: the labels of its images")
    if args.train_masks and not args.bbox_csv:
        parser.error("--train_masks needs --masks and --bbox_csv: it gives a control for pointing into boxes")
    if args.truth_csv and args.ensemble:
        parser.error("--truth_csv does not go with --ensemble, whose mean says nothing of single views")
    refuse_files_of_images(parser, args)
    return args


def refuse_files_of_images(parser: cli.Parser, args: argparse.Namespace) -> None:
    """With --unit study no file that holds something of each image."""
    if args.unit == "image":
        return
    for name in ("ensemble", "masks", "curves", "thresholds"):
        if getattr(args, name):
            parser.error(f"--unit study does not go with --{name}, which is of images; score images with --unit image")


def add_thresholds(parser: cli.Parser) -> None:
    group = parser.add_argument_group("thresholds and calibration, from images that are not scored")
    preds = "predictions on validation images (default: no thresholds)"
    group.add_argument("--threshold_preds", metavar="FILE", help=preds)
    csv = "their table; training writes it as <stem>_val.csv beside the checkpoint"
    group.add_argument("--threshold_csv", metavar="CSV", help=csv)
    rule = "what a threshold makes largest there (default: %(default)s)"
    group.add_argument("--threshold_rule", choices=("f1", "youden"), default="f1", help=rule)
    thresholds = "of calibrate_conformal.py: what came of its promises on these images"
    group.add_argument("--thresholds", metavar="JSON", help=thresholds)


def add_evidence(parser: cli.Parser) -> None:
    group = parser.add_argument_group("evidence")
    curves = "of infer_roi_consistency.py --curves: the mask against controls of the same area"
    group.add_argument("--curves", metavar="NPZ", help=curves)
    masks = "of infer_roi_consistency.py --class_masks, --save_masks or --cam; scored with --bbox_csv, else shown alone"
    group.add_argument("--masks", nargs="+", default=[], metavar="NPZ", help=masks)
    boxes = "BBox_List_2017.csv, or any table with image, label, x, y, w, h"
    group.add_argument("--bbox_csv", metavar="CSV", help=boxes)
    truth = "of a study model: which finding shows in which view (image, study_id, finding, visible), for view pointing"
    group.add_argument("--truth_csv", metavar="CSV", help=truth)
    space = "side of the square that boxes of another table live in (default: 1024)"
    group.add_argument("--box_space", type=cli.number(float, 1), default=1024.0, metavar="PX", help=space)
    train_masks = "--class_masks or --cam of training images, for the place that labels choose (default: scored ones)"
    group.add_argument("--train_masks", nargs="+", default=[], metavar="NPZ", help=train_masks)


def settle_predictions(parser: cli.Parser, args: argparse.Namespace) -> None:
    """--preds among the members of --ensemble, each once; --preds is then the file that the ensemble is written to."""
    if args.ensemble and args.preds:
        args.ensemble.insert(0, args.preds)
    args.ensemble = list(dict.fromkeys(args.ensemble))
    if len(args.ensemble) == 1:
        parser.error("--ensemble needs at least two files")
    if args.ensemble:
        args.preds = str(Path(args.out) / "ensemble.json")
    if not args.preds:
        parser.error("give --preds FILE, or --ensemble FILE FILE …")


def main(args: argparse.Namespace) -> None:
    out = Path(args.out)
    ensemble = args.preds if args.ensemble else None
    refuse_existing(out / "metrics.json", out / "per_class.csv", ensemble, overwrite=args.overwrite)
    # They bring pandas and scipy, for which --help should not wait.
    from roi.scoring import evaluate, printout

    scored = evaluate.read_scored(args.preds, args.csv, args.ensemble, args.unit)
    options = evaluate.Options(**{field.name: getattr(args, field.name) for field in fields(evaluate.Options)})
    result = evaluate.evaluate(scored, options)
    evaluate.write(out, result, scored if args.ensemble else None)
    printout.show_scores(result)


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
