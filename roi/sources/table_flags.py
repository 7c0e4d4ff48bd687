"""The flags of make_chexmultimodal_csv.py, by the source that they go with."""

import argparse
import os
from pathlib import Path

from roi import cli
from roi.choices import BLANK_POLICIES, VOTES

# What goes with one source.
FLAGS_OF = {
    "src_csv": ["image_dir", "filter_list", "label_from"],
    "datasets": ["views", "splits", "blank", "votes", "val_fraction", "test_fraction", "seed", "check_images"]
    + ["check_duplicates", "audit", "format", "summary", "data_root"],
    "cxrlt": ["views", "splits", "check_images", "data_root"],
    "soften": ["csv", "exclude_csv", "new_classes"],
    "people": ["labels", "salt"],
}


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


def add_soften(parser: cli.Parser) -> None:
    group = parser.add_argument_group("with --soften")
    group.add_argument("--csv", metavar="CSV", help="table whose unknown cells are filled in")
    text = "a table or list (.txt) of test images: --csv may hold none of them, nor other images of their patients"
    group.add_argument("--exclude_csv", metavar="CSV|TXT", help=text)
    text = (
        "predicted classes that nobody looked for in --csv: unknown in all of its rows, and filled in (default: such a "
        "class is an error)"
    )
    group.add_argument("--new_classes", nargs="+", default=[], metavar="all|CLASS", help=text)


def refuse_flags_of_others(parser: cli.Parser, args: argparse.Namespace) -> None:
    """One line for a flag that the chosen source would ignore."""
    chosen = next(source for source in FLAGS_OF if getattr(args, source))
    for other, names in FLAGS_OF.items():
        for name in names:
            if name not in FLAGS_OF[chosen] and getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name} goes with --{other}, not with --{chosen}")
    if args.cxrlt and args.fillna:
        parser.error(f"--fillna {args.fillna} does not go with --cxrlt: Normal is a label of its own there")
    if args.people and not args.labels:
        parser.error(f"--people {args.people}: with which labels? give them with --labels CSV")
    # What follows is of --soften, whose table is there already.
    if not args.soften:
        return
    if not args.csv:
        parser.error(f"--soften {args.soften}: which table? give it with --csv")
    for name in ("fillna", "allow_missing"):
        if getattr(args, name):
            parser.error(f"--{name} does not go with --soften: the rows of --csv stay as they are")
