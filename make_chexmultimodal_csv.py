"""Build the table that training and inference read from the published NIH files.

    python make_chexmultimodal_csv.py --src_csv "$D/Data_Entry_2017.csv" --image_dir "$D/images" \\
        --out_csv nih_roi_train.csv --label_from "Finding Labels" --fillna "Normal"
    python make_chexmultimodal_csv.py --src_csv "$D/Data_Entry_2017.csv" --image_dir "$D/images" \\
        --filter_list "$D/test_list.txt" --out_csv nih_roi_test.csv --label_from "Finding Labels"

One row an image: image, labels (comma-separated), unknown, uncertain, patient_id, study_id, view, age, sex, dataset,
split. The table is written whole or not at all. Rows whose image is missing are an error: they are counted and listed in
<out_csv>_missing.txt; --allow_missing leaves them out instead. Without --image_dir no file is looked for.
"""

import argparse
from collections import Counter
from pathlib import Path

import pandas as pd

from roi import cli
from roi.files import replacing
from roi.images import locate
from roi.sources import read_nih
from roi.table import check_table, class_list, listed, tokens


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--src_csv", required=True, metavar="CSV", help="Data_Entry_2017.csv or Data_Entry_2017_v2020.csv")
    parser.add_argument("--image_dir", metavar="DIR", help="folder of the images (or one with the shards images_*/images beside it); each row must have one")
    parser.add_argument("--filter_list", metavar="TXT", help="keep the images of this list, one name a line (default: all)")
    parser.add_argument("--out_csv", required=True, metavar="CSV", help="table to write")
    parser.add_argument("--label_from", default="Finding Labels", metavar="COLUMN", help="column with the labels, joined by '|' (default: %(default)s)")
    parser.add_argument("--fillna", default="", metavar="WORD", help="written where an image has no finding (default: an empty field)")
    parser.add_argument("--allow_missing", action=cli.on_off, default=False, help="leave out rows whose image is missing (default: an error)")
    cli.add_overwrite(parser, "the table if another one is there")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    table = check_table(read_nih(args.src_csv, args.label_from), args.src_csv)
    if args.filter_list:
        table = keep_listed(table, args.filter_list, args.src_csv)
    out = Path(args.out_csv)
    if args.image_dir:
        table = keep_present(table, Path(args.image_dir), out.with_name(f"{out.stem}_missing.txt"), args.allow_missing)
    table["labels"] = table["labels"].where(table["labels"] != "", args.fillna)
    write(table, out, args.overwrite)
    counts: Counter[str] = Counter()
    for field, images in table["labels"].value_counts().items():
        counts.update({label: images for label in tokens(str(field))})
    print(f"{out}: {len(table):,} images of {table['patient_id'].nunique():,} patients")
    print("  " + ", ".join(f"{c} {counts[c]:,}" for c in (class_list(table) if counts else [])))


def keep_listed(table: pd.DataFrame, filter_list: str, src_csv: str) -> pd.DataFrame:
    """The rows that the list names; every name of the list must have one."""
    names = set(listed(filter_list))
    lacking = sorted(names - set(table["image"]))
    if lacking:
        raise ValueError(f"{filter_list}: {len(lacking)} of its {len(names)} images are not in {src_csv}, the first is {lacking[0]}")
    return table[table["image"].isin(names)].copy()


def keep_present(table: pd.DataFrame, folder: Path, side_file: Path, allow_missing: bool) -> pd.DataFrame:
    """The rows whose image is there; ValueError if that is not all of them and `allow_missing` is not set."""
    root = folder.parent if folder.name == "images" else folder
    here = pd.Series(locate(root, table["image"].tolist()), index=table.index).notna()
    if here.all():
        side_file.unlink(missing_ok=True)  # of an earlier run: no longer true
        return table
    with replacing(side_file) as file:
        file.writelines(f"{name}\n" for name in table["image"][~here])
    said = f"{(~here).sum():,} of {len(here):,} images are missing under {folder}, listed in {side_file}"
    if not here.any() or not allow_missing:
        raise ValueError(
            f"{said}; " + ("is this the right --image_dir?" if not here.any() else "complete the download, or leave them out with --allow_missing")
        )
    print(f"{said}; their rows are left out")
    return table[here].copy()


def write(table: pd.DataFrame, out: Path, overwrite: bool) -> None:
    text = table.to_csv(index=False, lineterminator="\n")
    if out.exists() and out.read_text() == text:
        return  # nothing to do
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists and differs; choose another --out_csv, or replace it with --overwrite")
    with replacing(out) as file:
        file.write(text)


if __name__ == "__main__":
    cli.run(main, parse_args)
