"""Build the table that training and inference read: from the published NIH files, or from several data sets together.

    python make_chexmultimodal_csv.py --src_csv "$D/Data_Entry_2017.csv" --image_dir "$D/images" \\
        --out_csv nih_roi_train.csv --label_from "Finding Labels" --fillna "Normal"
    python make_chexmultimodal_csv.py --src_csv "$D/Data_Entry_2017.csv" --image_dir "$D/images" \\
        --filter_list "$D/test_list.txt" --out_csv nih_roi_test.csv --label_from "Finding Labels"
    python make_chexmultimodal_csv.py --datasets all --data_root Dataset --views PA AP --out_csv data/processed/train_metadata_v2.csv

One row an image: image, labels (comma-separated), unknown, uncertain, soft, patient_id, study_id, view, age, sex, dataset, split, label_source. The table
is written whole or not at all. Rows whose image is missing are an error: they are counted and listed in <out_csv>_missing.txt; --allow_missing leaves
them out instead. Without --image_dir, or with --no-check_images, no file is looked for.

--datasets: each finding of each image is present, absent, or unknown because the set never looked for it, the report does not mention it, a wider label may
mean it, or the readers disagree; <out_csv>_summary.json counts all of it by set. Images of which nothing is known are left out and counted. Official splits
stay; patients of sets without one are drawn, each by its own name and --seed. Train on it with --image_root DATA_ROOT; the rows marked test are left out there.
"""

import argparse
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi import cli
from roi.data.images import locate
from roi.data.table import COLUMNS, check_table, class_list, csv_text, listed, match_images, tokens, unmatched
from roi.errors import UserError
from roi.files import atomic_write, contents
from roi.labels import LABELS, normal_name
from roi.sources.nih import read_nih
from roi.sources.vindr import VOTES

ONE = {"image_dir": None, "filter_list": None, "label_from": "Finding Labels"}
SEVERAL: dict[str, Any] = {
    "views": None,
    "splits": None,
    "blank": "unknown",
    "votes": "majority",
    "val_fraction": 0.1,
    "test_fraction": 0.2,
    "seed": 0,
    "check_images": True,
    "check_duplicates": None,
    "audit": None,
    "format": "table",
    "summary": None,
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    share = cli.number(float, 0, 0.9)
    parser = cli.Parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--src_csv", metavar="CSV", help="Data_Entry_2017.csv or Data_Entry_2017_v2020.csv")
    what.add_argument(
        "--datasets",
        nargs="+",
        metavar="all|NAME",
        help="sets below --data_root: nih, openi, … (download_datasets.py --list), or all that are there",
    )
    parser.add_argument("--out_csv", required=True, metavar="CSV", help="table to write")
    filler = "Normal or No Finding: written where an image is known to have no finding (default: an empty field)"
    parser.add_argument("--fillna", default="", metavar="WORD", help=filler)
    parser.add_argument(
        "--allow_missing",
        action=cli.on_off,
        default=False,
        help="leave out rows whose image is missing (default: an error)",
    )
    cli.add_overwrite(parser, "the table if another one is there")
    one = parser.add_argument_group("with --src_csv")
    one.add_argument(
        "--image_dir",
        metavar="DIR",
        help="folder of the images (or one with the shards images_*/images beside it); each row must have one",
    )
    one.add_argument(
        "--filter_list", metavar="TXT", help="keep the images of this list, one name a line (default: all)"
    )
    one.add_argument(
        "--label_from",
        default=ONE["label_from"],
        metavar="COLUMN",
        help="column with the labels, joined by '|' (default: %(default)s)",
    )
    several = parser.add_argument_group("with --datasets")
    several.add_argument(
        "--data_root",
        type=Path,
        metavar="DIR",
        help="holds a folder for each data set, named as in --datasets (default: Dataset)",
    )
    several.add_argument(
        "--views",
        nargs="+",
        metavar="VIEW",
        help="keep these views: PA, AP, FRONTAL (which of the two is not said), LATERAL, OBLIQUE, UNKNOWN (none is "
        "said); COSTAL, KUB, SWIMMERS and EXCLUDE are kept only if they are named (default: all others)",
    )
    several.add_argument(
        "--splits",
        nargs="+",
        choices=("train", "val", "test"),
        help="write these alone, so that each can be a table (default: all)",
    )
    several.add_argument(
        "--blank",
        choices=("unknown", "negative"),
        default="unknown",
        help="what a report does not mention is … (default: %(default)s)",
    )
    several.add_argument(
        "--votes",
        choices=VOTES,
        default="majority",
        help="VinDr's readers: more than half of them, any, or their share (default: %(default)s)",
    )
    several.add_argument(
        "--val_fraction",
        type=share,
        default=0.1,
        metavar="0..0.9",
        help="patients for val where none is official (default: %(default)s)",
    )
    several.add_argument(
        "--test_fraction",
        type=share,
        default=0.2,
        metavar="0..0.9",
        help="patients for test where none is official (default: %(default)s)",
    )
    several.add_argument(
        "--seed", type=cli.number(int, 0), default=0, help="of the splits that are drawn (default: %(default)s)"
    )
    several.add_argument(
        "--check_images", action=cli.on_off, default=True, help="each row must have its image (default: yes)"
    )
    several.add_argument(
        "--check_duplicates",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="find pictures that stand there twice, here or in these folders, which are tested on elsewhere; decodes all of them once (default: no)",
    )
    several.add_argument(
        "--workers",
        type=cli.number(int, 1),
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that compare pictures (default: all cores)",
    )
    several.add_argument(
        "--audit",
        nargs="+",
        metavar="CSV",
        help="tables of other sets made of NIH images: how many of them are trained on",
    )
    several.add_argument(
        "--format",
        choices=("table", "metadata"),
        default="table",
        help="metadata: Image Index, path, 14 digits, Dataset; unknowns become 0 (default: %(default)s)",
    )
    several.add_argument(
        "--summary", metavar="JSON", help="counts by set and finding (default: <out_csv>_summary.json)"
    )
    args = parser.parse_args(argv)
    for name, default in (SEVERAL | {"data_root": None} if args.src_csv else ONE).items():
        if getattr(args, name) != default:
            parser.error(
                f"--{name} goes with {'--datasets' if args.src_csv else '--src_csv'}, not with {'--src_csv' if args.src_csv else '--datasets'}"
            )
    args.data_root = args.data_root or Path("Dataset")
    if args.fillna and not normal_name(args.fillna):
        remedy = "write Normal or No Finding, or leave the flag out for an empty field"
        parser.error(f"--fillna {args.fillna}: training would take it for a finding; {remedy}")
    return args


def main(args: argparse.Namespace) -> None:
    if args.datasets:
        make_union(args)
    else:
        make_nih(args)


def make_nih(args: argparse.Namespace) -> None:
    table = check_table(read_nih(args.src_csv, args.label_from)[list(COLUMNS)], args.src_csv, separator="|")
    if args.filter_list:
        table = keep_listed(table, args.filter_list, args.src_csv)
    out = Path(args.out_csv)
    if args.image_dir:
        table = keep_present(table, Path(args.image_dir), missing_file(out), args.allow_missing)
    table["labels"] = table["labels"].where(table["labels"] != "", args.fillna)
    write(table, out, args.overwrite)
    counts: Counter[str] = Counter()
    for field, images in table["labels"].value_counts().items():
        counts.update({label: images for label in tokens(str(field))})
    print(f"{out}: {len(table):,} images of {table['patient_id'].nunique():,} patients")
    print("  " + ", ".join(f"{c} {counts[c]:,}" for c in (class_list(table) if counts else [])))


def make_union(args: argparse.Namespace) -> None:
    from roi.sources import merge

    out = Path(args.out_csv)
    summary_file = Path(args.summary) if args.summary else out.with_name(f"{out.stem}_summary.json")
    if summary_file.resolve() == out.resolve():
        raise UserError(f"--summary {summary_file} is the table itself; choose another name")
    if args.val_fraction + args.test_fraction >= 1:
        raise UserError(
            f"--val_fraction {args.val_fraction:g} and --test_fraction {args.test_fraction:g} leave nobody to train on"
        )
    if args.check_duplicates is not None and not args.check_images:
        raise UserError("--check_duplicates looks at the images: it does not go with --no-check_images")
    table, facts, missing = merge.gathered(
        args.datasets, args.data_root, args.blank, args.votes, args.check_images, print
    )
    report_missing(missing, len(table) + len(missing), args.data_root, missing_file(out), args.allow_missing)
    table = pd.concat([check_table(table[list(COLUMNS)].copy(), "the union"), table[list(LABELS)]], axis=1)
    table["split"], moved = merge.assign_splits(table, args.val_fraction, args.test_fraction, args.seed)
    facts |= moved
    groups = None
    if args.check_duplicates is not None:
        from roi.sources.duplicates import without_duplicates

        table, facts["duplicates"], groups = without_duplicates(
            table, args.data_root, args.check_duplicates, args.workers, merge.RANK
        )
    table, left_out = merge.chosen_rows(table, args.views, args.splits)
    facts |= left_out | {f"audit of {csv}": merge.audit(table, Path(csv)) for csv in args.audit or ()}
    counted = merge.summary(table)
    for name, fact in facts.items():
        print(merge.told(name, fact))
    print(merge.printed(counted))
    none = (table["labels"] == "") & (table["unknown"] == "") & (table["uncertain"] == "")
    table["labels"] = table["labels"].mask(none, args.fillna)
    if args.format == "metadata":
        lost = sum(f["unknown"] + f["uncertain"] for s in counted["datasets"].values() for f in s["findings"].values())
        print(
            f"warning: {lost:,} cells that are unknown are 0 in this format, as if somebody had looked; training on them teaches absence"
        )
    write(
        merge.published_format(table, args.data_root) if args.format == "metadata" else table[list(COLUMNS)],
        out,
        args.overwrite,
    )
    if groups is not None:
        with atomic_write(out.with_name(f"{out.stem}_duplicates.csv")) as file:
            file.write(groups.to_csv(index=False, lineterminator="\n"))
    with atomic_write(summary_file) as file:
        json.dump(counted | {"facts": facts, "flags": vars(args)}, file, indent=1, default=str)
        file.write("\n")
    print(f"{out}: {len(table):,} images of {table['patient_id'].nunique():,} patients; counted in {summary_file}")


def keep_listed(table: pd.DataFrame, filter_list: str, src_csv: str) -> pd.DataFrame:
    """The rows that the list names; every name of the list must have one."""
    names = sorted(set(listed(filter_list)))
    place = match_images(names, table["image"])
    if (place < 0).any():
        lacking = f"{(place < 0).sum()} of its {len(names)} images are not in {src_csv}"
        raise UserError(f"{filter_list}: {lacking}, {unmatched(names, place)}")
    return table.iloc[np.unique(place)].copy()


def keep_present(table: pd.DataFrame, folder: Path, side_file: Path, allow_missing: bool) -> pd.DataFrame:
    """The rows whose image is there; UserError if that is not all of them and `allow_missing` is not set."""
    root = folder.parent if folder.name == "images" else folder
    here = pd.Series(locate(root, table["image"].tolist()), index=table.index).notna()
    report_missing(table["image"][~here].tolist(), len(here), folder, side_file, allow_missing)
    return table[here].copy()


def missing_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}_missing.txt")


def report_missing(missing: list[str], of: int, folder: Path, side_file: Path, allow_missing: bool) -> None:
    """List the missing images in `side_file`; UserError where that is not allowed, or where none is there."""
    if not missing:
        side_file.unlink(missing_ok=True)  # of an earlier run: no longer true
        return
    with atomic_write(side_file) as file:
        file.writelines(f"{name}\n" for name in missing)
    said = f"{len(missing):,} of {of:,} images are missing under {folder}, listed in {side_file}"
    if len(missing) == of or not allow_missing:
        below = folder / missing[0].split("/")[0]  # the folder of the set in a union
        searched = next(place for place in (below, folder, folder.parent) if place.is_dir())
        remedy = "complete the download, or leave them out with --allow_missing"
        if len(missing) == of:
            remedy = "is this the right folder?"
        raise UserError(f"{said}, the first is {missing[0]}; {searched} holds {contents(searched)}; {remedy}")
    print(f"{said}; their rows are left out")


def write(table: pd.DataFrame, out: Path, overwrite: bool) -> None:
    text = csv_text(table)
    if out.exists() and out.read_text(encoding="utf-8") == text:
        return  # nothing to do
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists and differs; choose another --out_csv, or replace it with --overwrite")
    with atomic_write(out) as file:
        file.write(text)


if __name__ == "__main__":
    cli.run(main, parse_args)
