"""Build the table that training and inference read: from the published NIH files, or from several data sets together.

    python make_chexmultimodal_csv.py --src_csv "$D/Data_Entry_2017.csv" --image_dir "$D/images" \\
        --out_csv nih_roi_train.csv --label_from "Finding Labels" --fillna "Normal"
    python make_chexmultimodal_csv.py --src_csv "$D/Data_Entry_2017.csv" --image_dir "$D/images" \\
        --filter_list "$D/test_list.txt" --out_csv nih_roi_test.csv --label_from "Finding Labels"
    python make_chexmultimodal_csv.py --datasets all --data_root Dataset --views PA AP --out_csv train_metadata_v2.csv
    python make_chexmultimodal_csv.py --cxrlt 2024.1 --data_root Dataset --out_csv cxrlt_2024_1.csv
    python make_chexmultimodal_csv.py --people png/dicom_people.csv --labels reports.csv --salt salt.txt --out_csv t.csv
    python make_chexmultimodal_csv.py --soften preds.json --csv others.csv --new_classes all --out_csv student.csv

One row an image: image, labels (comma-separated), unknown, uncertain, soft, patient_id, study_id, view, age, sex,
dataset, split, label_source. The table is written whole or not at all. Rows whose image is missing are an error: they
are counted and listed in <out_csv>_missing.txt; --allow_missing leaves them out instead. Without --image_dir, or with
--no-check_images, no file is looked for.

--datasets: each finding of each image is present, absent, or unknown because the set never looked for it, the report
does not mention it, a wider label may mean it, or the readers disagree; <out_csv>_summary.json counts all of it by
set. Images of which nothing is known are left out and counted. Official splits stay; patients of sets without one are
drawn, each by its own name and --seed. Train with --image_root DATA_ROOT; rows marked test are left out there.

--cxrlt: all labels of an edition by the names of its columns, 26, 40 or 45 (2026: 30); Normal is a class there.

--soften: what --csv does not know gets the probability of a model as a share in column soft, which training reads and
validation does not; what is known stays. Refused: a model that was trained on test images, and test images.
"""

import argparse
from dataclasses import fields
from pathlib import Path

from roi import cli
from roi.files import refuse_inputs
from roi.labels import normal_name
from roi.sources.dicom.people_flags import add_people
from roi.sources.table_flags import add_datasets, add_nih, add_soften, refuse_flags_of_others

# Flags that name a file that is read; of --csv --soften says it.
INPUTS = ("src_csv", "filter_list", "people", "labels", "salt", "soften", "exclude_csv")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--src_csv", metavar="CSV", help="Data_Entry_2017.csv or Data_Entry_2017_v2020.csv")
    text = "sets below --data_root: nih, openi, … (download_datasets.py --list), or all that are there"
    source.add_argument("--datasets", nargs="+", metavar="all|NAME", help=text)
    text = "an edition of CXR-LT below --data_root: its own labels"
    source.add_argument("--cxrlt", choices=("2023", "2024.1", "2024.2", "2024.3", "2026"), help=text)
    text = "fill in what --csv does not know from these predictions of a model (preds.json)"
    source.add_argument("--soften", metavar="JSON", help=text)
    source.add_argument("--people", type=Path, metavar="CSV", help="dicom_people.csv of convert_dicom.py")
    parser.add_argument("--out_csv", required=True, metavar="CSV", help="table to write")
    text = "Normal or No Finding: written where an image is known to have no finding (default: an empty field)"
    parser.add_argument("--fillna", default="", metavar="WORD", help=text)
    text = "leave out rows whose image is missing (default: an error)"
    parser.add_argument("--allow_missing", action=cli.on_off, default=False, help=text)
    cli.add_overwrite(parser, "the table if another one is there")
    add_nih(parser)
    add_datasets(parser)
    add_soften(parser)
    add_people(parser)
    args = cli.parse(parser, argv)
    refuse_flags_of_others(parser, args)
    args.data_root = args.data_root or Path("Dataset")
    if args.fillna and not normal_name(args.fillna):
        remedy = "write Normal or No Finding, or leave the flag out for an empty field"
        parser.error(f"--fillna {args.fillna}: training would take it for a finding; {remedy}")
    return args


def main(args: argparse.Namespace) -> None:
    read = {name: getattr(args, name) for name in INPUTS if getattr(args, name)}
    refuse_inputs({name: str(path) for name, path in read.items()}, [str(args.out_csv)])
    # Here, so that --help does not wait for scipy.
    from roi.sources.build_table import MergeOptions, Output, build_merged_table, build_nih_table
    from roi.sources.cxrlt_table import NativeOptions, build_native_table
    from roi.sources.dicom.people_table import Sources, build_people_table
    from roi.sources.merge import ReadOptions

    if args.soften:
        soften_table(args)
        return
    output = Output(Path(args.out_csv), args.fillna, args.allow_missing, args.overwrite)
    if args.src_csv:
        build_nih_table(args.src_csv, args.label_from, args.filter_list, args.image_dir, output)
    elif args.people:
        build_people_table(Sources(args.people, args.labels, args.salt), output)
    elif args.cxrlt:
        native = NativeOptions(args.cxrlt, args.data_root, args.check_images, args.views, args.splits)
        build_native_table(native, output)
    else:
        flags = {field.name: getattr(args, field.name) for field in fields(MergeOptions) if field.name != "read"}
        options = MergeOptions(read=ReadOptions(args.blank, args.votes, args.check_images), **flags)
        build_merged_table(options, output, vars(args))


def soften_table(args: argparse.Namespace) -> None:
    from roi.scoring.challenge.pseudo_labels import SoftenOptions, soften

    out_csv = Path(args.out_csv)
    soften(SoftenOptions(args.soften, args.csv, out_csv, args.exclude_csv, args.new_classes, args.overwrite))


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
