"""Which images a run trains on and validates on, and the audit that no test image is among them.

Letters: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from roi.data.split_words import split_word
from roi.data.splits import belongs_to, official_list, overlap, read_list, some_patients, split_by_patient
from roi.data.studies import studies_of
from roi.data.table import read_table
from roi.data.targets import class_list, target_matrix
from roi.errors import UserError
from roi.files import atomic_write
from roi.scoring.metrics import can_be_scored

# Images with a finding, below which a class is warned of.
FEW = 5


@dataclass(frozen=True)
class RowFlags:
    """The flags that say which rows of which tables take part."""

    train_csv: str
    image_root: str
    classes: str
    val_csv: str | None
    val_fraction: float
    exclude_csv: str | None
    allow_leakage: bool
    max_samples: int | None
    max_train_samples: int | None
    uncertain: str
    seed: int


@dataclass
class Rows:
    """What a run trains on: tables of images that are there, and whether test images are among them."""

    train: pd.DataFrame
    val: pd.DataFrame | None
    classes: list[str]
    contaminated: bool

    @property
    def val_datasets(self) -> np.ndarray | None:
        """Data set of each validation row; None where all are of one, or nothing is validated."""
        return None if self.val is None else datasets_of(self.val)


def choose_rows(flags: RowFlags, by_study: bool = False) -> Rows:
    """From tables to who trains and who validates, with the leakage audit printed.

    Args:
        by_study: --max_samples counts studies
    """
    print(f"reading {flags.train_csv}", flush=True)
    table = read_table(flags.train_csv)
    classes = class_list(table, flags.classes)
    val = read_table(flags.val_csv) if flags.val_csv else None
    # Of both tables: a validation table may hold marked test images, too.
    tests = test_tables(flags, table if val is None else pd.concat([table, val]))
    is_test = belongs_to(table, tests.values())
    sizes = []
    for name, test in tests.items():
        images, _ = overlap(table, test)
        sizes.append(f"{name} {images:,}")
    named = ", ".join(sizes) or "no test list found"
    val_has_tests = val is not None and belongs_to(val, tests.values()).any()
    contaminated = bool(flags.allow_leakage and (is_test.any() or val_has_tests))
    if not flags.allow_leakage:
        table = table[~is_test]
    if table.empty:
        raise UserError(
            f"{flags.train_csv}: all its images belong to the test set ({named}); give the training table, "
            "or --allow_leakage"
        )
    if flags.max_samples:
        table = some_rows(table, flags.max_samples, flags.seed, by_study)
    if val is not None:
        check_validation(flags, table, val, f"holds test images ({named})" if val_has_tests else "")
    elif flags.val_fraction:
        table, val = split_validation(table, flags.val_fraction, flags.seed)
    if flags.max_train_samples and flags.max_train_samples < len(table):
        table = table[some_patients(table, flags.max_train_samples, flags.seed)]
    print_classes(table, val, classes, flags.uncertain, flags.seed)
    print_sizes(table, val)
    if contaminated:
        print(
            f"CONTAMINATED: {is_test.sum():,} test images are trained on ({named}); scores on them are not test scores"
        )
    else:
        print(f"left out of training: {is_test.sum():,} test images and images of test patients ({named})")
    print_overlaps(table, val, tests)
    return Rows(table, val, classes, contaminated)


def some_rows(table: pd.DataFrame, count: int, seed: int, by_study: bool) -> pd.DataFrame:
    """So many rows of a table, or all rows of so many studies, drawn and in the order of the table."""
    # All images of a study or none: fewer views are another study.
    units = np.arange(len(table))
    if by_study:
        units = studies_of(table).study_of_row
    total = int(units.max()) + 1
    if count >= total:
        return table
    drawn = np.random.default_rng(seed).choice(total, count, replace=False)
    return table[np.isin(units, drawn)]


def split_validation(table: pd.DataFrame, fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table into training and validation: the patients of the rows whose column split says val.

    Where no row says so, or all do, patients are drawn.
    """
    marked = table["split"].map(split_word) == "val"
    # A mark holds for all images of a patient.
    chosen = belongs_to(table, [table[marked]])
    if marked.any() and not chosen.all():
        return table[~chosen], table[chosen]
    return split_by_patient(table, fraction, seed)


def check_validation(flags: RowFlags, table: pd.DataFrame, val: pd.DataFrame, holds_tests: str) -> None:
    """--val_csv may share nobody with training and nothing with the test set.

    Args:
        holds_tests: in words, that it does; empty: it does not
    """
    images, patients = overlap(table, val)
    if patients or images:
        seen = belongs_to(val, [table]).mean()
        raise UserError(
            f"--val_csv {flags.val_csv}: shares {patients:,} patients and {images:,} images with --train_csv, "
            f"{seen:.1%} of its images are of such patients; a patient stands in one of them"
        )
    if holds_tests and not flags.allow_leakage:
        raise UserError(
            f"--val_csv {flags.val_csv}: {holds_tests}; choosing the best epoch on them would spoil the test. "
            "Give other images"
        )


def test_tables(flags: RowFlags, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every source that says which images are test images, by its name.

    --exclude_csv, the official list beside the images, and the column split.
    """
    tests = {}
    if flags.exclude_csv:
        tests[str(flags.exclude_csv)] = read_table(flags.exclude_csv)
    root = Path(flags.image_root)
    # NIH keeps its list beside the images, or one folder up.
    official = official_list(root, "test") or official_list(root.parent, "test")
    if official:
        tests[official.name] = read_list(official)
    is_marked = table["split"].map(split_word) == "test"
    marked = table[is_marked]
    if len(marked):
        tests["split = test"] = marked
    return tests


def write_validation(table: pd.DataFrame, path: Path) -> None:
    """The rows to choose thresholds and calibration on, as a table of their own."""
    text = table.to_csv(index=False, lineterminator="\n")
    # A finished run that is resumed leaves it as it is.
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    with atomic_write(path) as file:
        file.write(text)


def datasets_of(table: pd.DataFrame) -> np.ndarray | None:
    """(N,) data set of each row; None where all are of one."""
    names = {}
    for name in table["dataset"].unique():
        names[name] = " ".join(name.split()) or "unnamed"
    if len(set(names.values())) <= 1:
        return None
    return table["dataset"].map(names).to_numpy(dtype=object)


def match_data(
    table: pd.DataFrame,
    classes: list[str],
    uncertain: str = "ignore",
    seed: int | None = None,
) -> tuple[list[str], list[str], np.ndarray]:
    """Names, data sets where there are several, and targets: what must be the same for a run to go on."""
    datasets = datasets_of(table)
    names = [] if datasets is None else datasets.tolist()
    return table["image"].tolist(), names, target_matrix(table, classes, uncertain, seed)


def check_sampler(sampler: str, train_csv: str, table: pd.DataFrame) -> None:
    """--sampler balanced must know which data set each training image is of, and there must be several."""
    if sampler != "balanced":
        return
    unnamed = int((table["dataset"] == "").sum())
    if unnamed:
        raise UserError(
            f"--sampler balanced: column 'dataset' of {train_csv} is empty for {unnamed:,} of {len(table):,} training "
            "images; fill it in"
        )
    names = sorted(set(table["dataset"]))
    if len(names) < 2:
        raise UserError(
            f"--sampler balanced: column 'dataset' of {train_csv} names {names[0]!r} alone; leave the flag out, "
            "or give a table of several sets"
        )


def check_validated(rows: Rows, patience: int, schedule: str) -> None:
    """Refuse flags that look at val_auroc where there is none; say where there is no best epoch."""
    asking = ""
    if patience:
        asking = f"--patience {patience}"
    elif schedule == "plateau":
        asking = "--schedule plateau"
    if rows.val is None:
        if asking:
            raise UserError(
                f"{asking} looks at val_auroc, and nothing is validated; give --val_csv, or a --val_fraction above 0"
            )
        return
    target = target_matrix(rows.val, rows.classes)
    if can_be_scored(target, rows.classes, rows.val_datasets):
        return
    images = f"{len(rows.val):,} validation images"
    why = f"in the {images} no finding is both present and absent, so that there is no val_auroc"
    remedy = "give other rows with --val_csv, or more with --val_fraction"
    if asking:
        raise UserError(f"{asking} looks at val_auroc: {why}; {remedy}")
    print(f"{why} and no best checkpoint; {remedy}")


def print_classes(
    table: pd.DataFrame,
    val: pd.DataFrame | None,
    classes: Sequence[str],
    uncertain: str,
    seed: int,
) -> None:
    """What is learned: how many images have each class, lack it, or say nothing of it; warns of what is too rare."""
    classes = list(classes)
    # Of training as --uncertain has it, of validation what is certain.
    learned = target_matrix(table, classes, uncertain, seed)  # (N, K)
    header = ["class", "positive", "negative", "unknown"]
    counts = [count_labels(learned)]
    if val is not None:
        judged = target_matrix(val, classes)
        header += ["validation: positive", "negative", "unknown"]
        counts.append(count_labels(judged))
    lines = [header]
    for name, numbers in zip(classes, np.concatenate(counts, axis=1), strict=True):
        lines.append([name, *(f"{number:,}" for number in numbers)])
    print_table(lines)
    _warn_of_rare(classes, *(count[:, 0] for count in counts))


def print_table(lines: list[list[str]]) -> None:
    """Columns of equal width; the first one is of names, the others are of numbers."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        columns = zip(line, widths, strict=True)
        cells = [text.rjust(width) for text, width in columns]
        cells[0] = line[0].ljust(widths[0])
        print("  ".join(cells))


def _warn_of_rare(classes: list[str], positives: np.ndarray, val_positives: np.ndarray | None = None) -> None:
    """Say which classes are too rare to be learned, and which are not in validation at all. (K,), (K,)"""
    few = []
    for name, count in zip(classes, positives, strict=True):
        if count < FEW:
            few.append(f"{name} ({count})")
    if few:
        names = ", ".join(few)
        print(f"WARNING: fewer than {FEW} training images have {names}: nothing can be learned from so few")
    if val_positives is None:
        return
    absent = [name for name, count in zip(classes, val_positives, strict=True) if not count]
    if absent:
        print(f"WARNING: no validation image has {', '.join(absent)}: not part of val_auroc")


def count_labels(target: np.ndarray) -> np.ndarray:
    """How many images have a class, lack it, and neither for certain. (N, K) -> (K, 3)"""
    positive = (target == 1).sum(axis=0)
    negative = (target == 0).sum(axis=0)
    unknown = len(target) - positive - negative
    return np.stack([positive, negative, unknown], axis=1)


def print_sizes(table: pd.DataFrame, val: pd.DataFrame | None) -> None:
    validation = "no validation" if val is None else f"validation {_size(val)}"
    print(f"train {_size(table)}; {validation}")


def _size(table: pd.DataFrame) -> str:
    patients = table["patient_id"].nunique()
    return f"{len(table):,} images of {patients:,} patients"


def print_overlaps(table: pd.DataFrame, val: pd.DataFrame | None, tests: dict[str, pd.DataFrame]) -> None:
    """What training and validation share with one another and with the test sets, for everybody to see that it is 0."""
    sets = table["dataset"].value_counts()
    if len(sets) > 1:
        sizes = [f"{name or '(no name)'} {count:,}" for name, count in sets.items()]
        print(f"training images of each data set: {', '.join(sizes)}")
    own = {"train": table}
    if val is not None:
        own["validation"] = val
    tables = own | tests
    shared, comparisons = [], 0
    for a, b in combinations(tables, 2):
        # What two test sets share is not our matter.
        if a not in own:
            continue
        comparisons += 1
        images, patients = overlap(tables[a], tables[b])
        if images or patients:
            shared.append(f"{a} and {b} share {images:,} images and {patients:,} patients")
    if not comparisons:
        print("leakage check: nothing to compare the training images with", flush=True)
        return
    plural = "s" if comparisons > 1 else ""
    found = "; ".join(shared) or "nothing shared"
    what = f"{comparisons} comparison{plural} of {', '.join(tables)}"
    print(f"leakage check: {found} in {what}", flush=True)
