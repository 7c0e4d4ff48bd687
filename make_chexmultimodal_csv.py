"""Build the table that training and inference read: from the published NIH files, or from several data sets together.

    python make_chexmultimodal_csv.py --src_csv "$D/Data_Entry_2017.csv" --image_dir "$D/images" \\
        --out_csv nih_roi_train.csv --label_from "Finding Labels" --fillna "Normal"
    python make_chexmultimodal_csv.py --src_csv "$D/Data_Entry_2017.csv" --image_dir "$D/images" \\
        --filter_list "$D/test_list.txt" --out_csv nih_roi_test.csv --label_from "Finding Labels"
    python make_chexmultimodal_csv.py --datasets all --data_root Dataset --views PA AP --out_csv train_metadata_v2.csv
    python make_chexmultimodal_csv.py --cxrlt 2024.1 --data_root Dataset --out_csv cxrlt_2024_1.csv

One row an image: image, labels (comma-separated), unknown, uncertain, soft, patient_id, study_id, view, age, sex,
dataset, split, label_source. The table is written whole or not at all. Rows whose image is missing are an error: they
are counted and listed in <out_csv>_missing.txt; --allow_missing leaves them out instead. Without --image_dir, or with
--no-check_images, no file is looked for.

--datasets: each finding of each image is present, absent, or unknown because the set never looked for it, the report
does not mention it, a wider label may mean it, or the readers disagree; <out_csv>_summary.json counts all of it by
set. Images of which nothing is known are left out and counted. Official splits stay; patients of sets without one are
drawn, each by its own name and --seed. Train with --image_root DATA_ROOT; rows marked test are left out there.

--cxrlt: all labels of an edition by the names of its columns, 26, 40 or 45 (2026: 30); Normal is a class there.
"""

import argparse
import os
from dataclasses import fields
from pathlib import Path

from roi import cli
from roi.labels import normal_name
from roi.sources.label_states import BLANK_POLICIES
from roi.sources.vindr import VOTES

# What goes with one source.
FLAGS_OF = {
    "src_csv": ["image_dir", "filter_list", "label_from"],
    "datasets": ["views", "splits", "blank", "votes", "val_fraction", "test_fraction", "seed", "check_images"]
    + ["check_duplicates", "audit", "format", "summary", "data_root"],
    "cxrlt": ["views", "splits", "check_images", "data_root"],
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--src_csv", metavar="CSV", help="Data_Entry_2017.csv or Data_Entry_2017_v2020.csv")
    text = "sets below --data_root: nih, openi, … (download_datasets.py --list), or all that are there"
    source.add_argument("--datasets", nargs="+", metavar="all|NAME", help=text)
    text = "an edition of CXR-LT below --data_root: its own labels"
    source.add_argument("--cxrlt", choices=("2023", "2024.1", "2024.2", "2024.3", "2026"), help=text)
    parser.add_argument("--out_csv", required=True, metavar="CSV", help="table to write")
    text = "Normal or No Finding: written where an image is known to have no finding (default: an empty field)"
    parser.add_argument("--fillna", default="", metavar="WORD", help=text)
    text = "leave out rows whose image is missing (default: an error)"
    parser.add_argument("--allow_missing", action=cli.on_off, default=False, help=text)
    cli.add_overwrite(parser, "the table if another one is there")
    add_nih(parser)
    add_datasets(parser)
    args = parser.parse_args(argv)
    refuse_flags_of_others(parser, args)
    args.data_root = args.data_root or Path("Dataset")
    if args.fillna and not normal_name(args.fillna):
        remedy = "write Normal or No Finding, or leave the flag out for an empty field"
        parser.error(f"--fillna {args.fillna}: training would take it for a finding; {remedy}")
    return args


def add_nih(parser: cli.Parser) -> None:
    group = parser.add_argument_group("with --src_csv")
    text = "folder of the images (or one with the shards images_*/images beside it); each row must have one"
    group.add_argument("--image_dir", type=Path, metavar="DIR", help=text)
    text = "keep the images of this list, one name a line (default: all)"
    group.add_argument("--filter_list", metavar="TXT", help=text)
    text = "column with the labels, joined by '|' (default: %(default)s)"
    group.add_argument("--label_from", default="Finding Labels", metavar="COLUMN", help=text)


def add_datasets(parser: cli.Parser) -> None:
    group = parser.add_argument_group("with --datasets (the first three and --check_images with --cxrlt, too)")
    text = "holds a folder for each data set, named as in --datasets (default: Dataset)"
    group.add_argument("--data_root", type=Path, metavar="DIR", help=text)
    text = (
        "keep these views: PA, AP, FRONTAL (which of the two is not said), LATERAL, OBLIQUE, UNKNOWN (none is "
        "said); COSTAL, KUB, SWIMMERS and EXCLUDE are kept only if they are named (default: all others)"
    )
    group.add_argument("--views", nargs="+", metavar="VIEW", help=text)
    text = "write these alone, so that each can be a table (default: all)"
    group.add_argument("--splits", nargs="+", choices=("train", "val", "test"), help=text)
    text = "what a report does not mention is … (default: %(default)s)"
    group.add_argument("--blank", choices=BLANK_POLICIES, default="unknown", help=text)
    text = "VinDr's readers: more than half of them, any, or their share (default: %(default)s)"
    group.add_argument("--votes", choices=VOTES, default="majority", help=text)
    text = "patients for val where none is official (default: %(default)s)"
    group.add_argument("--val_fraction", type=cli.number(float, 0, 0.9), default=0.1, metavar="0..0.9", help=text)
    text = "patients for test where none is official (default: %(default)s)"
    group.add_argument("--test_fraction", type=cli.number(float, 0, 0.9), default=0.2, metavar="0..0.9", help=text)
    text = "of the splits that are drawn (default: %(default)s)"
    group.add_argument("--seed", type=cli.number(int, 0), default=0, help=text)
    text = "each row must have its image (default: yes)"
    group.add_argument("--check_images", action=cli.on_off, default=True, help=text)
    text = (
        "find pictures that stand there twice, here or in these folders, which are tested on elsewhere; decodes all of "
        "them once (default: no)"
    )
    group.add_argument("--check_duplicates", nargs="*", type=Path, metavar="DIR", help=text)
    text = "processes that compare pictures (default: all cores)"
    group.add_argument("--workers", type=cli.number(int, 1), default=os.cpu_count() or 1, metavar="N", help=text)
    text = "derivatives of NIH: how many of their images are here"
    group.add_argument("--audit", nargs="+", metavar="CSV", help=text)
    text = "metadata: Image Index, path, 14 digits, Dataset; unknowns become 0 (default: %(default)s)"
    group.add_argument("--format", choices=("table", "metadata"), default="table", help=text)
    text = "counts by set and finding (default: <out_csv>_summary.json)"
    group.add_argument("--summary", type=Path, metavar="JSON", help=text)


def refuse_flags_of_others(parser: cli.Parser, args: argparse.Namespace) -> None:
    """One line for a flag that the chosen source would ignore."""
    chosen = next(source for source in FLAGS_OF if getattr(args, source))
    for other, names in FLAGS_OF.items():
        for name in names:
            if name not in FLAGS_OF[chosen] and getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name} goes with --{other}, not with --{chosen}")
    if args.cxrlt and args.fillna:
        parser.error(f"--fillna {args.fillna} does not go with --cxrlt: Normal is a label of its own there")


def main(args: argparse.Namespace) -> None:
    # Here, so that --help does not wait for scipy.
    from roi.sources.build_table import MergeOptions, Output, build_merged_table, build_nih_table
    from roi.sources.cxrlt_table import NativeOptions, build_native_table
    from roi.sources.merge import ReadOptions

    output = Output(Path(args.out_csv), args.fillna, args.allow_missing, args.overwrite)
    if args.src_csv:
        build_nih_table(args.src_csv, args.label_from, args.filter_list, args.image_dir, output)
    elif args.cxrlt:
        native = NativeOptions(args.cxrlt, args.data_root, args.check_images, args.views, args.splits)
        build_native_table(native, output)
    else:
        flags = {field.name: getattr(args, field.name) for field in fields(MergeOptions) if field.name != "read"}
        options = MergeOptions(read=ReadOptions(args.blank, args.votes, args.check_images), **flags)
        build_merged_table(options, output, vars(args))


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
