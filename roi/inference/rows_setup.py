"""Which images are predicted: rows of a table, or files that were named; where they lie."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from roi.data.boxes import Box, boxes_by_image, read_boxes
from roi.data.dataset import existing_rows, rows_with_images
from roi.data.identity import Seen, set_names, trained_on, trained_on_file, trained_on_files
from roi.data.splits import some_patients
from roi.data.table import read_table
from roi.errors import UserError
from roi.inference.flags import EVIDENCE, STDOUT
from roi.inference.image_files import check_readers, find_images, paths_beside, table_of
from roi.scoring.pictures import own_picture
from roi.synthetic import SYNTHETIC, sets_of_files


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


@dataclass(frozen=True)
class Located:
    """The rows whose images are there."""

    table: pd.DataFrame  # with path, and contaminated
    found: Seen  # what the checkpoint has seen of them
    is_drawn: bool  # some are of a synthetic set


def located(args: argparse.Namespace, table: pd.DataFrame, state: dict[str, Any]) -> Located:
    """The rows of a table whose images are there, and what the checkpoint has seen of them."""
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
    table = table.assign(path=paths).reset_index(drop=True)
    drawn = any(name.startswith(SYNTHETIC) for name in data_sets(args, table))
    found = seen_of(args, table, state)
    return Located(table.assign(contaminated=found.seen), found, drawn)


def data_sets(args: argparse.Namespace, table: pd.DataFrame) -> list[str]:
    """The data set of each located row, '' where nobody says."""
    if args.image_root:
        return set_names(table, args.image_root)
    of_files = sets_of_files(table["path"].tolist())
    if args.images:
        return of_files
    # Of a table beside its images: names may be paths from anywhere, so that each file is asked where it lies.
    named = set_names(table, str(Path(args.csv).parent))
    return [drawn or own for own, drawn in zip(named, of_files, strict=True)]


def seen_of(args: argparse.Namespace, table: pd.DataFrame, state: dict[str, Any]) -> Seen:
    """What a checkpoint has seen of located rows: by what the table says of them, and by where the files lie."""
    sets = data_sets(args, table)
    if args.image_root:
        return trained_on(state, table, args.image_root, sets)
    by_file = trained_on_files(state, table["path"].tolist(), sets)
    if args.images:
        return by_file
    by_table = trained_on(state, table, str(Path(args.csv).parent), sets)
    seen = by_table.seen | by_file.seen
    return Seen(seen, (by_table.doubt | by_file.doubt) & ~seen)


def row_of_file(path: Path, state: dict[str, Any]) -> Located:
    """The table of one image file. UserError: there is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such image (--image); --images takes folders, patterns and lists")
    if own_picture(path):
        print(f"{path}: is a picture that this program made, no X-ray")
    check_readers([str(path)])
    found = trained_on_file(state, path)
    table = pd.DataFrame({"image": [path.name], "path": [str(path)], "contaminated": found.seen})
    return Located(table, found, is_drawn=any(sets_of_files([str(path)])))
