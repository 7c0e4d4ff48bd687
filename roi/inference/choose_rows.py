"""Which images are predicted: rows of a table, or files that were named; where they lie."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from roi.data.boxes import Box, boxes_by_image, read_boxes
from roi.data.dataset import existing_rows, rows_with_images
from roi.data.splits import some_patients
from roi.data.table import read_table
from roi.errors import UserError
from roi.inference.flags import EVIDENCE, STDOUT
from roi.inference.image_files import check_readers, find_images, paths_beside, table_of, trained_on_files
from roi.training import checkpoint


def side_file_base(args: argparse.Namespace) -> Path | None:
    """The output beside which side files (missing, unreadable images) are written; None: predictions go to a stream."""
    if args.save_json == STDOUT:
        return None
    for name in ("save_json", *EVIDENCE):
        path = getattr(args, name)
        if path:
            return Path(path)
    if args.save_overlay:
        return Path(args.save_overlay) / "overlay.png"
    return Path(args.save_vis_dir or ".") / "roi_vis.png"


@dataclass(frozen=True)
class Rows:
    """The rows of a table that are predicted, and the boxes of radiologists in them."""

    table: pd.DataFrame
    boxes: dict[str, list[Box]]  # image, as the table names it -> its boxes
    boxed: set[str] | None  # images that have a box; None where no boxes were given


def choose_rows(args: argparse.Namespace) -> Rows:
    """The rows of --csv or --images that the flags leave."""
    if args.images:
        # Pictures of an earlier run may lie among the images.
        own = [path for path in (args.save_overlay, args.save_vis_dir) if path]
        found = find_images(args.images, leave_out=own)
        all_rows = table_of(found)
    else:
        all_rows = read_table(args.csv, needed=("image",))
    table = all_rows[: args.max_samples]
    if args.max_test_samples and args.max_test_samples < len(table):
        table = table[some_patients(table, args.max_test_samples, args.seed)]
    if not args.bbox_csv:
        return Rows(table, {}, None)
    # All rows of the table have a say in which image a name means, those that are not predicted, too.
    boxes, unclear = boxes_by_image(read_boxes(args.bbox_csv), all_rows["image"].tolist())
    if unclear:
        print(f"{args.bbox_csv}: {unclear}")
    if args.cam or args.class_masks:
        has_box = table["image"].isin(set(boxes))
        if not has_box.any():
            raise UserError(
                f"{args.bbox_csv}: has no box in any of the {len(table):,} images of {args.csv or '--images'}; "
                "without --bbox_csv all images are taken"
            )
        # Maps are written of images with a box; the others would be predicted for nothing.
        if not (args.save_json or args.save_overlay or args.save_vis_dir or args.save_masks or args.curves):
            table = table[has_box]
    return Rows(table, boxes, set(boxes))


def located(args: argparse.Namespace, table: pd.DataFrame, state: dict[str, Any]) -> pd.DataFrame:
    """The rows whose images are there, with path and contaminated."""
    side_file = side_file_base(args)
    skip = args.skip_unreadable
    if args.image_root:
        table, paths = rows_with_images(table, args.image_root, skip, side_file)
    elif args.images:
        places = [path or None for path in table["path"]]
        table, paths = existing_rows(table, places, ", ".join(args.images), "the list", skip, side_file)
    else:
        places = paths_beside(args.csv, table["image"].tolist())
        table, paths = existing_rows(
            table, places, str(Path(args.csv).parent), "--csv, give --image_root", skip, side_file
        )
    check_readers(paths)
    seen = trained_on_files(state, paths) if args.images else checkpoint.is_contaminated(state, table)
    return table.assign(path=paths, contaminated=seen).reset_index(drop=True)
