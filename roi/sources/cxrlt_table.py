"""The table of an edition of CXR-LT is built and written: all of its labels, the images where they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from roi.data.table import COLUMNS, check_table
from roi.data.targets import class_list, target_matrix
from roi.sources.build_table import Output, report_missing, write_table
from roi.sources.cxrlt_native import read_native, removed_images
from roi.sources.merge import locate_images, rows_named
from roi.sources.views import chosen_views
from roi.synthetic import mark_synthetic


@dataclass(frozen=True)
class NativeOptions:
    """Which edition, and which of its rows."""

    edition: str
    data_root: Path
    check_images: bool
    views: Sequence[str] | None  # None: all; a submission must have every image, whatever its view
    splits: Sequence[str] | None


def build_native_table(options: NativeOptions, output: Output) -> None:
    """Write the table of an edition, and say how often it has each class."""
    data_root = options.data_root
    folder = data_root / "cxrlt"
    # The challenge's tables alone, without the folders of other sets.
    if not folder.is_dir():
        folder = data_root
    table = read_native(folder, data_root, options.edition)
    names = table["image"].str.rpartition("/")[2]
    is_removed = names.isin(removed_images(folder))
    if is_removed.any():
        print(f"{int(is_removed.sum()):,} images were taken back by the organisers; left out")
        table = table[~is_removed].reset_index(drop=True)
    total = len(table)
    table, missing = _locate(table, data_root, options.check_images)
    report_missing(missing, total, data_root, output)
    table = check_table(table, f"CXR-LT {options.edition}")
    table = mark_synthetic(_choose(table, options), data_root)
    write_table(table[list(COLUMNS)], output)
    _print_counts(table, output.csv)


def _locate(table: pd.DataFrame, data_root: Path, check_images: bool) -> tuple[pd.DataFrame, list[str]]:
    """Make `image` a path below `data_root`, set by set; also the images that are not there."""
    parts, missing = [], []
    for dataset in sorted(set(table["dataset"])):
        own = table[table["dataset"] == dataset]
        rows, nowhere = locate_images(own, dataset, data_root, check_images)
        parts.append(rows)
        missing += nowhere
    located = pd.concat(parts).sort_index()
    return located.reset_index(drop=True), missing


def _choose(table: pd.DataFrame, options: NativeOptions) -> pd.DataFrame:
    """The rows of the views and the splits that are asked for."""
    kept = np.ones(len(table), dtype=bool)
    if options.views:
        names = chosen_views(list(options.views), set(table["view"]))
        kept &= rows_named("--views", options.views, names, table["view"], kept)
    if options.splits:
        kept &= rows_named("--splits", options.splits, options.splits, table["split"], kept)
    return table[kept].reset_index(drop=True)


def _print_counts(table: pd.DataFrame, csv: Path) -> None:
    splits = []
    for split, images in table["split"].value_counts().items():
        splits.append(f"{split or 'no split'} {images:,}")
    patients = table["patient_id"].nunique()
    studies = table["study_id"].nunique()
    print(f"{csv}: {len(table):,} images of {patients:,} patients, {studies:,} studies; {', '.join(splits)}")
    classes = class_list(table)
    target = target_matrix(table, classes)
    positives = (target == 1).sum(axis=0)
    unknown = np.isnan(target).sum(axis=0)
    counts = []
    for j, label in enumerate(classes):
        text = f"{label} {positives[j]:,}"
        if unknown[j]:
            text += f" ({unknown[j]:,} unknown)"
        counts.append(text)
    print(f"  {len(classes)} classes: {', '.join(counts)}")
