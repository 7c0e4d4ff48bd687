"""Labels that nobody knows, from a model that says how likely they are: the noisy student (Xie et al. 2020).

A cell that a table calls unknown gets the predicted probability as a share in the column `soft`. Training reads that
column; validation and scores do not. What a table knows never changes.

Letters: N rows of the table, K classes that are predicted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from roi.data.split_words import split_word
from roi.data.splits import belongs_to, read_list
from roi.data.table import match_images, read_table, shares, tokens, unmatched
from roi.data.targets import class_list
from roi.data.text_table import csv_text
from roi.errors import UserError
from roi.files import atomic_write
from roi.labels import LABELS, NORMAL, same_classes
from roi.scoring import predictions
from roi.scoring.predictions import Predictions

# A share of 0 or 1 would be a certainty, which the column does not hold.
LEAST = 1e-4
ALL = "all"


@dataclass(frozen=True)
class SoftenOptions:
    """Which predictions soften which table."""

    preds: str
    csv: str
    out_csv: Path
    exclude_csv: str | None  # the test set: a table, or a list of images (.txt)
    new_classes: Sequence[str]  # that nobody looked for in the table; "all": every predicted class that it lacks
    overwrite: bool


def soften(options: SoftenOptions) -> None:
    """Write the table with shares where it knows nothing, and say of which classes how many there are.

    Raises:
        UserError: the model has seen test images or nobody says, the table holds test images, an image or a class is
            missing on one side, or another table would be replaced.
    """
    if options.out_csv.resolve() == Path(options.csv).resolve():
        raise UserError(f"--out_csv {options.out_csv} is the table itself; choose another name")
    # Before the table, which may be large.
    preds = predictions.read(options.preds)
    source = name_of_model(preds, options.preds)
    table = read_table(options.csv)
    refuse_test_images(table, options)
    columns = columns_of(preds.classes, table, options)
    for c in added_classes(columns, table):
        # Nobody looked for it in any of these images.
        before = table["unknown"]
        table["unknown"] = (before + "," + c).str.removeprefix(",")
    # From here on every cell that may change is one that the table itself calls unknown.
    softened, counts = with_shares(table, preds, columns, options)
    changed = softened["soft"] != table["soft"]
    # Rows that get nothing keep their source.
    before = table["label_source"]
    named = (before + "+" + source).str.removeprefix("+")
    softened["label_source"] = before.mask(changed, named)
    write_new(softened, options)
    images = int(changed.sum())
    print(f"{options.out_csv}: {images:,} of {len(table):,} images have labels of {source}")
    parts = [f"{c} {count:,}" for c, count in counts.items()]
    print(f"  unknown cells with a share: {', '.join(parts) or 'none'}")


def name_of_model(preds: Predictions, path: str) -> str:
    """What label_source says of the labels: the checkpoint, and the digest of its predictions.

    Raises:
        UserError: the model was trained on test images, or its origin is not known.
    """
    checkpoint = preds.meta.get("checkpoint")
    # Older files say whether one of their own images was trained on, too, and do not tell the two apart.
    seen = preds.meta.get("trained_on_tests", preds.meta.get("contaminated"))
    if not checkpoint or seen is None:
        raise UserError(
            f"{path}: nobody says which model made it, and whether that one has seen test images; keep "
            f"{predictions.meta_path(path).name} beside it, as infer_roi_consistency.py wrote it"
        )
    if seen:
        raise UserError(
            f"{path}: {checkpoint} was trained on test images (contaminated); a student of it would have seen them, "
            "too. Predict with another checkpoint"
        )
    # Checkpoints of two runs may have one name; their predictions differ.
    content = Path(path).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return f"soft:{Path(checkpoint).name}@{digest[:8]}"


def refuse_test_images(table: pd.DataFrame, options: SoftenOptions) -> None:
    """UserError: the table holds test images, marked or of --exclude_csv, or other images of their patients."""
    # Training leaves marked images out; those of a list it leaves out only where it finds that list.
    is_test = table["split"].map(split_word) == "test"
    tests = {"split = test": table[is_test]}
    if options.exclude_csv:
        is_list = Path(options.exclude_csv).suffix.lower() == ".txt"
        read = read_list if is_list else read_table
        tests[options.exclude_csv] = read(options.exclude_csv)
    for name, test in tests.items():
        count = int(belongs_to(table, [test]).sum())
        if count:
            raise UserError(
                f"{options.csv}: {count:,} of its {len(table):,} images are test images or of test patients ({name}); "
                "give a table without them (--splits train val)"
            )


def columns_of(classes: Sequence[str], table: pd.DataFrame, options: SoftenOptions) -> dict[str, int]:
    """The classes of the table that are predicted, each with its column; those of --new_classes are among them.

    Raises:
        UserError: a class is predicted that the table does not have, or --new_classes names another one.
    """
    # Normal follows from the findings, so that no cell of it is unknown by itself.
    predicted = [c for c in classes if c not in NORMAL]
    # The 14 that no row names are absent in all: a table says what it does not know.
    known = list(dict.fromkeys([*LABELS, *class_list(table)]))
    names = same_classes(known, predicted)
    lacking = [c for c in predicted if c not in names.values()]
    for c in options.new_classes:
        if c != ALL and c not in lacking:
            where = f"{options.csv} has it" if c in names else f"{options.preds} does not predict it"
            remedy = "name classes that are predicted and not in the table"
            raise UserError(f"--new_classes {c!r}: {where}; {remedy}")
    missing = []
    if ALL not in options.new_classes:
        missing = [c for c in lacking if c not in options.new_classes]
    if missing:
        raise UserError(
            f"{options.preds}: predicts {missing[0]!r}, which no row of {options.csv} names ({len(missing)} such "
            f"classes); where nobody looked for them there say --new_classes {ALL}, or their names"
        )
    # Columns by name on both sides: the table and the model order their classes each in its own way.
    column_of = {c: classes.index(there) for c, there in names.items()}
    return column_of | {c: classes.index(c) for c in lacking}


def added_classes(columns: dict[str, int], table: pd.DataFrame) -> list[str]:
    known = {*LABELS, *class_list(table)}
    return [c for c in columns if c not in known]


def with_shares(
    table: pd.DataFrame,
    preds: Predictions,
    columns: dict[str, int],
    options: SoftenOptions,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The table with its column `soft` filled, and how many cells of each class got a share.

    Args:
        columns: class -> its column of the predictions.
    """
    prob = preds.prob["full"].clip(LEAST, 1 - LEAST)
    place = match_images(table["image"], preds.images)
    fields = table["soft"].tolist()
    counts = dict.fromkeys(columns, 0)
    unpredicted = np.zeros(len(table), dtype=bool)
    for n, unknown in enumerate(table["unknown"].tolist()):
        # The share of readers who disagree is worth more than what a model thinks.
        said = shares(fields[n])
        asked = [c for c in tokens(unknown) if c in columns and c not in said]
        if not asked:
            continue
        if place[n] < 0:
            unpredicted[n] = True
            continue
        given = [fields[n]]
        for c in asked:
            probability = prob[place[n], columns[c]]
            given.append(f"{c}={probability:.4g}")
        fields[n] = ",".join(given).removeprefix(",")
        for c in asked:
            counts[c] += 1
    # A table that is softened in part would tell the two parts apart by what is unknown.
    if unpredicted.any():
        rows = np.flatnonzero(unpredicted)
        example = unmatched(table["image"].iloc[rows].tolist(), place[rows])
        raise UserError(
            f"{options.preds}: has no prediction for {len(rows):,} images of {options.csv} with unknown labels, "
            f"{example}; predict the whole table"
        )
    return table.assign(soft=fields), {c: count for c, count in counts.items() if count}


def write_new(table: pd.DataFrame, options: SoftenOptions) -> None:
    """Write the table; UserError where another one is there."""
    # The same command again is no conflict.
    path, text = options.out_csv, csv_text(table)
    if path.exists() and not options.overwrite and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path} exists and differs; choose another --out_csv, or replace it with --overwrite")
    with atomic_write(path) as file:
        file.write(text)
