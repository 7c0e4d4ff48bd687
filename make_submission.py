"""Write a submission of the CXR-LT challenge: predictions in the columns and the rows of its template, zipped.

    python make_submission.py --preds preds.json --template test_task1_sample_submission.csv --out task1.zip
    python make_submission.py --preds preds.json --template test_labeled_task2.csv --unit study --csv cxrlt.csv \\
        --code my_code --out task2.zip

The template is the sample submission or the table of the task: its header and its order are those of the submission,
and columns are found by name. Every image and every class of the template must be predicted, and no other class;
probabilities must be numbers, and a class that is 0 or 1 everywhere is refused, since average precision ranks. The zip
holds predictions.csv and, with --code, the folder code/; --out x.csv writes the CSV alone. --unit study gives all
images of a study the mean of their probabilities (a study model does so anyway). No model is loaded.
"""

import argparse
from pathlib import Path

from roi import cli
from roi.files import refuse_existing, refuse_inputs


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    preds = "predictions: preds.json of infer_roi_consistency.py, or a CSV with prob_CLASS columns"
    parser.add_argument("--preds", required=True, metavar="FILE", help=preds)
    template = "sample submission, or the table of the task: a column dicom_id (2026: ImageID) and one a class"
    parser.add_argument("--template", required=True, metavar="CSV", help=template)
    out = "submission to write: a zip, or a CSV by its ending"
    parser.add_argument("--out", required=True, type=Path, metavar="ZIP|CSV", help=out)
    code = "folder that goes into the zip as code/ (default: none)"
    parser.add_argument("--code", type=Path, metavar="DIR", help=code)
    unit = "study: all images of a study get the mean of their probabilities (default: %(default)s)"
    parser.add_argument("--unit", choices=("image", "study"), default="image", help=unit)
    parser.add_argument("--csv", metavar="CSV", help="table of the images with column study_id, for --unit study")
    extra = "leave out classes that the template does not have (default: an error)"
    parser.add_argument("--allow_extra", action=cli.on_off, default=False, help=extra)
    binary = "write a class that is 0 or 1 everywhere (default: an error)"
    parser.add_argument("--allow_binary", action=cli.on_off, default=False, help=binary)
    cli.add_overwrite(parser, "an earlier submission")
    args = parser.parse_args(argv)
    if (args.unit == "study") != bool(args.csv):
        parser.error("--unit study and --csv, which says what a study is, go together")
    if args.out.suffix.lower() not in (".zip", ".csv"):
        parser.error(f"--out {args.out}: write a .zip or a .csv")
    if args.code and args.out.suffix.lower() == ".csv":
        parser.error("--code goes into a zip; give --out x.zip")
    return args


def main(args: argparse.Namespace) -> None:
    refuse_inputs({"preds": args.preds, "template": args.template, "csv": args.csv}, [str(args.out)])
    refuse_existing(args.out, overwrite=args.overwrite)
    # They bring pandas and scipy, for which --help should not wait.
    from roi.scoring import predictions, printout
    from roi.scoring.challenge import submission
    from roi.scoring.prediction_files.model_facts import is_contaminated

    template = submission.read_template(args.template)
    preds = predictions.read(args.preds)
    columns = submission.class_places(template, preds, args.preds, args.allow_extra)
    rows = submission.image_places(template, preds, args.preds)
    prob = preds.prob["full"]
    if args.unit == "study":
        prob = submission.study_probabilities(preds, prob, args.preds, args.csv)
    prob = prob[rows][:, columns]
    if not args.allow_binary:
        submission.refuse_binary(prob, template.classes, args.preds)
    names = submission.write(args.out, submission.make_table(template, prob), args.code)
    print(printout.TRAINED_ON[is_contaminated(preds)])
    unused = len(preds.images) - len(rows)
    if unused:
        print(f"{unused:,} predicted images are not in the template; left out")
    images, classes = prob.shape
    held = ", ".join(names)
    print(f"{args.out}: {images:,} images, {classes} classes in the order of {args.template}; holds {held}")


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
