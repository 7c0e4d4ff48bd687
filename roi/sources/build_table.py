"""The table that training and inference read is built and written: of NIH's files alone, or of several data sets.

A table is written whole or not at all, and one that is there is not replaced unless that is asked for.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi.data.images import locate
from roi.data.splits import listed
from roi.data.table import COLUMNS, check_table, match_images, tokens, unmatched
from roi.data.targets import class_list
from roi.data.text_table import csv_text
from roi.errors import UserError
from roi.files import atomic_write, contents
from roi.labels import LABELS
from roi.sources.duplicates import drop_duplicates
from roi.sources.label_states import PRESENT, label_columns
from roi.sources.merge import RANK, ReadOptions, assign_splits, choose_rows, merge_datasets
from roi.sources.nih import nih_label_table
from roi.sources.reading import LABEL_COLUMNS
from roi.sources.table_counts import count_findings, count_nih_images, format_counts, format_fact
from roi.synthetic import mark_synthetic


@dataclass(frozen=True)
class Output:
    """The table that is written, and what is allowed."""

    csv: Path
    fillna: str = ""  # written where an image is known to have no finding
    allow_missing: bool = False  # rows without an image are left out; otherwise they are an error
    overwrite: bool = False


@dataclass(frozen=True)
class MergeOptions:
    """Which data sets make a table, and which of their rows."""

    datasets: Sequence[str]
    data_root: Path
    read: ReadOptions
    views: Sequence[str] | None  # None: all
    splits: Sequence[str] | None
    val_fraction: float  # of the patients for whom no split is official
    test_fraction: float
    seed: int
    check_duplicates: Sequence[Path] | None  # folders that are tested on elsewhere; None: pictures are not compared
    workers: int  # processes that compare pictures
    audit: Sequence[str] | None  # tables of other sets made of NIH's images
    format: str  # table, or metadata as published
    summary: Path | None  # None: beside the table


# Of NIH's files


def build_nih_table(
    src_csv: str,
    label_from: str,
    filter_list: str | None,
    image_dir: Path | None,
    output: Output,
) -> None:
    """Write the table of Data_Entry_2017.csv, with the labels that it has in its column `label_from`.

    Args:
        src_csv: the file.
        label_from: the column with the labels.
        filter_list: a list of images to keep, one name a line (None: all).
        image_dir: the folder in which each row must have its image (None: none is looked for).
        output: what is written.
    """
    table = check_table(nih_label_table(src_csv, label_from), src_csv, separator="|")
    if filter_list:
        table = _keep_listed(table, filter_list, src_csv)
    table = mark_synthetic(table, image_dir or Path(src_csv).absolute().parent)
    if image_dir:
        table = _keep_present(table, image_dir, output)
    # All findings of NIH are known: an image without a label is normal.
    labels = table["labels"]
    table["labels"] = labels.where(labels != "", output.fillna)
    write_table(table, output)
    patients = table["patient_id"].nunique()
    print(f"{output.csv}: {len(table):,} images of {patients:,} patients")
    _print_label_counts(table)


def _print_label_counts(table: pd.DataFrame) -> None:
    counts: Counter[str] = Counter()
    for field, images in table["labels"].value_counts().items():
        for label in tokens(str(field)):
            counts[label] += images
    # A table without any label has no classes, which class_list refuses.
    classes = class_list(table) if counts else []
    parts = [f"{label} {counts[label]:,}" for label in classes]
    print("  " + ", ".join(parts))


def _keep_listed(table: pd.DataFrame, filter_list: str, src_csv: str) -> pd.DataFrame:
    """The rows that the list names; every name of the list must have one."""
    names = sorted(set(listed(filter_list)))
    place = match_images(names, table["image"])
    missing = int((place < 0).sum())
    if missing:
        count = f"{missing} of its {len(names)} images are not in {src_csv}"
        first = unmatched(names, place)
        raise UserError(f"{filter_list}: {count}, {first}")
    return table.iloc[np.unique(place)].copy()


def _keep_present(table: pd.DataFrame, folder: Path, output: Output) -> pd.DataFrame:
    """The rows whose image is there."""
    # Beside images/ may lie the shards images_*/images of the same set.
    root = folder.parent if folder.name == "images" else folder
    paths = pd.Series(locate(root, table["image"].tolist()), index=table.index)
    is_there = paths.notna()
    report_missing(table["image"][~is_there].tolist(), len(table), folder, output)
    return table[is_there].copy()


# Of several data sets


def build_merged_table(options: MergeOptions, output: Output, flags: Mapping[str, object]) -> None:
    """Write the table of several data sets, and beside it its summary.

    Args:
        options: which data sets, and which of their rows.
        output: what is written.
        flags: those of the command, for the summary.
    """
    summary = options.summary or _beside(output.csv, "_summary.json")
    _check_options(options, output, summary)
    table, facts, missing = merge_datasets(options.datasets, options.data_root, options.read, print)
    report_missing(missing, len(table) + len(missing), options.data_root, output)
    table = with_label_text(table)
    table = mark_synthetic(table, options.data_root)
    checked = check_table(table[list(COLUMNS)].copy(), "the union")
    table = pd.concat([checked, table[list(LABELS)]], axis=1)
    table["split"], moved = assign_splits(table, options.val_fraction, options.test_fraction, options.seed)
    facts |= moved
    # Before rows are chosen: a training table must not hold copies of pictures of the test table.
    groups = None
    if options.check_duplicates is not None:
        table, facts["duplicates"], groups = drop_duplicates(
            table,
            options.data_root,
            options.check_duplicates,
            options.workers,
            RANK,
        )
    table, left_out = choose_rows(table, options.views, options.splits)
    facts |= left_out
    for csv in options.audit or ():
        facts[f"audit of {csv}"] = count_nih_images(table, Path(csv))
    counts = count_findings(table)
    for name, fact in facts.items():
        print(format_fact(name, fact))
    print(format_counts(counts))
    _write_merged(table, counts, options, output)
    if groups is not None:
        with atomic_write(_beside(output.csv, "_duplicates.csv")) as file:
            file.write(groups.to_csv(index=False, lineterminator="\n"))
    with atomic_write(summary) as file:
        json.dump(counts | {"facts": facts, "flags": flags}, file, indent=1, default=str)
        file.write("\n")
    patients = table["patient_id"].nunique()
    print(f"{output.csv}: {len(table):,} images of {patients:,} patients; counted in {summary}")


def _write_merged(table: pd.DataFrame, counts: dict[str, Any], options: MergeOptions, output: Output) -> None:
    """Write the table in the format that is asked for; `counts` are those of count_findings."""
    if options.format == "metadata":
        _warn_of_unknowns(counts)
        write_table(metadata_format(table, options.data_root), output)
        return
    # Where something is unknown or uncertain nobody has called the image normal.
    is_normal = (table[list(LABEL_COLUMNS)] == "").all(axis=1)
    labels = table["labels"].mask(is_normal, output.fillna)
    write_table(table.assign(labels=labels)[list(COLUMNS)], output)


def _beside(csv: Path, ending: str) -> Path:
    """t.csv -> t_summary.json"""
    return csv.with_name(f"{csv.stem}{ending}")


def _check_options(options: MergeOptions, output: Output, summary: Path) -> None:
    """UserError: options that do not go together."""
    val, test = options.val_fraction, options.test_fraction
    if summary.resolve() == output.csv.resolve():
        raise UserError(f"--summary {summary} is the table itself; choose another name")
    if val + test >= 1:
        raise UserError(f"--val_fraction {val:g} and --test_fraction {test:g} leave nobody to train on")
    if options.check_duplicates is not None and not options.read.check_images:
        raise UserError("--check_duplicates looks at the images: it does not go with --no-check_images")


def with_label_text(table: pd.DataFrame) -> pd.DataFrame:
    """Add to what readers give the columns labels, unknown and uncertain, made of the codes."""
    texts = label_columns(table[list(LABELS)].to_numpy())
    return table.assign(**texts)[[*COLUMNS, *LABELS]]


def _warn_of_unknowns(counts: dict[str, Any]) -> None:
    """Print how many cells are 0 in the format of metadata though nobody knows them."""
    unknown = 0
    for dataset in counts["datasets"].values():
        for finding in dataset["findings"].values():
            unknown += finding["unknown"] + finding["uncertain"]
    print(
        f"warning: {unknown:,} cells that are unknown are 0 in this format, as if somebody had looked; "
        "training on them teaches absence"
    )


def metadata_format(table: pd.DataFrame, data_root: Path) -> pd.DataFrame:
    """The table as a published project has it, with 14 digits in the order of LABELS; what is unknown is 0."""
    cells = table[list(LABELS)].to_numpy()
    # The fourteen ASCII digits of a row, which must lie side by side, are read as one text.
    digits = np.where(cells == PRESENT, ord("1"), ord("0")).astype(np.uint8)
    labels = np.ascontiguousarray(digits).view(f"S{len(LABELS)}").ravel()
    return pd.DataFrame(
        {
            "Image Index": table["image"].str.rsplit("/", n=1).str[-1],
            "Processed Image Path": f"{data_root}/" + table["image"],
            "Harmonized Labels": labels.astype(str),
            "Dataset": table["dataset"],
        }
    )


# Of both


def report_missing(missing: list[str], total: int, folder: Path, output: Output) -> None:
    """List the missing images in a file beside the table.

    Raises:
        UserError: missing images are not allowed, or none of the `total` is there.
    """
    side_file = _beside(output.csv, "_missing.txt")
    if not missing:
        side_file.unlink(missing_ok=True)  # of an earlier run: no longer true
        return
    with atomic_write(side_file) as file:
        file.writelines(f"{name}\n" for name in missing)
    message = f"{len(missing):,} of {total:,} images are missing under {folder}, listed in {side_file}"
    if len(missing) < total and output.allow_missing:
        print(f"{message}; their rows are left out")
        return
    # The first part of a path is the folder of the set, where there are several.
    first = missing[0]
    candidates = (folder / first.split("/")[0], folder, folder.parent)
    searched = next(path for path in candidates if path.is_dir())
    remedy = "complete the download, or leave them out with --allow_missing"
    if len(missing) == total:
        remedy = "is this the right folder?"
    raise UserError(f"{message}, the first is {first}; {searched} holds {contents(searched)}; {remedy}")


def write_table(table: pd.DataFrame, output: Output) -> None:
    text = csv_text(table)
    if output.csv.exists():
        if output.csv.read_text(encoding="utf-8") == text:
            return
        if not output.overwrite:
            remedy = "choose another --out_csv, or replace it with --overwrite"
            raise UserError(f"{output.csv} exists and differs; {remedy}")
    with atomic_write(output.csv) as file:
        file.write(text)
