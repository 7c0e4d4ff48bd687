"""What the readers share: files are found, columns are read and brought to one spelling, errors are named.

A reader is a function: folder of a data set -> one row an image, with the columns READER_COLUMNS and, for each of the
14 findings, an int8 column of its code (roi/sources/label_states.py). `image` is the path below that folder; sets that
are published as DICOM are read from the PNG that convert_dicom.py puts beside the files. A wrong folder, a missing
column, a value or a label that the format does not have is a UserError with its name and count.

Letters: N images, K = 14 findings.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from roi.data.split_words import read_splits
from roi.data.table import COLUMNS, LABEL_COLUMNS
from roi.errors import UserError
from roi.files import contents
from roi.labels import LABELS

# Columns of text that are made of the codes when a table is written.
READER_COLUMNS = tuple(column for column in COLUMNS if column not in LABEL_COLUMNS)
# Years. Ages above it are typing errors.
OLDEST = 120
# A number with the unit of DICOM: years, months, weeks or days.
AGE = re.compile(r"\s*(\d+)\s*([YMWD]?)\s*")
UNITS_A_YEAR = {"M": 12, "W": 52, "D": 365}
BINARY = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
# From this similarity (of difflib) to a label of ours on, another one is taken for a typing error.
MISSPELLED = 0.92


def find_file(root: str | Path, *names: str) -> Path:
    """The first of `names` that lies under `root`, as it is or as .gz; UserError says what was looked for."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of data")
    # Some browsers and users unpack what they download, others leave it as it is.
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    remedy = "is it the folder of this data set, and is the archive unpacked?"
    raise UserError(f"{root}: none of {', '.join(names)} is there (nor as .gz); it holds {contents(root)}; {remedy}")


def read_columns(
    csv: Path,
    wanted: Sequence[str],
    optional: Sequence[str] = (),
    skip_spaces: bool = False,
) -> pd.DataFrame:
    """Columns of a CSV as text, blanks as ''.

    Args:
        csv: the file, which may be compressed.
        wanted: columns that it must have.
        optional: columns that are empty where it has none of that name.
        skip_spaces: spaces after a comma are none of the field.

    Raises:
        UserError: no table, a column of `wanted` is not there, no rows.
    """
    try:
        # The header first, so that the error names the column, and not pandas' usecols.
        header = list(pd.read_csv(csv, nrows=0, dtype=str, encoding="utf-8-sig").columns)
        missing = [column for column in wanted if column not in header]
        if missing:
            raise UserError(f"no column {missing[0]!r} (found {header})")
        # Text alone: numbers of 36 digits, and ids that begin with 0, are read as they are written.
        table = pd.read_csv(
            csv,
            usecols=[column for column in (*wanted, *optional) if column in header],
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
            skipinitialspace=skip_spaces,
        )
    except (OSError, EOFError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).strip()
        raise UserError(f"{csv}: not a table of this data set ({reason})") from error
    if table.empty:
        raise UserError(f"{csv}: it has no rows")
    return table.reindex(columns=[*wanted, *optional], fill_value="")


def reader_table(
    name: str, image: pd.Series, cells: np.ndarray, others: dict[str, int] | None = None, **columns: object
) -> pd.DataFrame:
    """What a reader gives.

    Args:
        name: of the data set.
        image: (N,) paths.
        cells: (N, K) codes.
        others: labels that are none of the 14, and how often; they stand in `.attrs["others"]`.
        columns: those of READER_COLUMNS that the data set has; the others are empty.

    Raises:
        UserError: an image stands there twice.
    """
    # All readers give all columns, so that tables can be put under each other.
    values: dict[str, object] = dict.fromkeys(READER_COLUMNS, "")
    values |= columns
    values |= {"image": image.to_numpy(), "dataset": name}
    table = pd.DataFrame(values)
    twice = image[image.duplicated()].tolist()
    if twice:
        raise UserError(f"{name}: {len(twice):,} images are listed twice, the first is {twice[0]!r}; one row an image")
    codes = pd.DataFrame(cells, columns=list(LABELS))
    table = pd.concat([table, codes], axis=1)
    table.attrs["others"] = others or {}
    return table


@contextmanager
def error_context(name: str | Path) -> Iterator[None]:
    """A UserError of this block begins with the name of the file."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def count_other_labels(
    fields: pd.Series,
    labels_of: Callable[[str], Iterable[str]],
    known: Collection[str],
) -> dict[str, int]:
    """How many rows have each label that is none of ours, most frequent first.

    Args:
        fields: (N,) labels as published.
        labels_of: one field -> its labels; asked once for each distinct field.
        known: the labels that are ours.

    Raises:
        UserError: a label that is nearly one of `known`.
    """
    counts: Counter[str] = Counter()
    for field, rows in fields.value_counts().items():
        others = set(labels_of(str(field))).difference(known)
        # Sorted, because sets of texts have another order in each process, and labels of one count keep theirs.
        for label in sorted(others):
            counts[label] += int(rows)
    # A misspelled finding would be absent in silence.
    for label, rows in counts.items():
        near = difflib.get_close_matches(label, known, n=1, cutoff=MISSPELLED)
        if near:
            raise UserError(f"unknown label {label!r} in {rows:,} rows; did you mean {near[0]!r}?")
    return dict(counts.most_common())


def cells_by_field(fields: pd.Series, cells_of: Callable[[str], np.ndarray]) -> np.ndarray:
    """(N,) texts, few of them distinct -> (N, K) codes; `cells_of` (one text -> (K,)) is asked once for each."""
    # Fields repeat: the 112,120 images of NIH have 836 different ones.
    kind, distinct = pd.factorize(fields)
    rows = np.stack([cells_of(field) for field in distinct])
    return rows[kind]


def map_unique(texts: pd.Series, change: Callable[[str], str]) -> pd.Series:
    """`change` of each text, asked once for each distinct one."""
    return texts.map({text: change(text) for text in texts.unique()})


def coded_column(texts: pd.Series, codes: dict[str, int], csv: str | Path, allowed: str) -> np.ndarray:
    """The codes of a column of text.

    Args:
        texts: (N,) as published.
        codes: text -> code.
        csv: the file, for messages.
        allowed: what the column may hold, for messages.

    Returns:
        (N,) int8.

    Raises:
        UserError: a text without a code.
    """
    number, distinct = pd.factorize(texts)
    for text in distinct:
        if text.strip() not in codes:
            rows = int((texts == text).sum())
            raise UserError(f"{csv}: {rows:,} values {text!r} in column {texts.name!r}; it holds {allowed}")
    code = np.array([codes[text.strip()] for text in distinct], dtype=np.int8)
    return code[number]


def binary_column(texts: pd.Series, csv: str | Path) -> np.ndarray:
    """A column of 0 and 1 -> (N,) bool; UserError for anything else."""
    return coded_column(texts, BINARY, csv, "0 or 1").astype(bool)


def split_of(words: pd.Series, csv: str | Path) -> pd.Series:
    """train, val or test; UserError for a split of another name."""
    with error_context(csv):
        return read_splits(words, range(2, len(words) + 2))


def sex_of(words: pd.Series) -> pd.Series:
    """M, F, or '' for any other word."""
    return map_unique(words, lambda word: SEXES.get(word.strip().lower(), ""))


def age_in_years(ages: pd.Series) -> pd.Series:
    """Ages as DICOM writes them, '' where there is none: '067Y' -> '067', '18M' -> '1', '64' -> '64'."""
    return map_unique(ages, _years)


def _years(age: str) -> str:
    match = AGE.fullmatch(age.upper())
    if not match:
        return ""
    number, unit = match.groups()
    # Whole years, as in all other sets: a child of 18 months is 1.
    if unit in UNITS_A_YEAR:
        return str(int(number) // UNITS_A_YEAR[unit])
    return number


def plausible_age(years: pd.Series) -> pd.Series:
    """Ages in years, '' where there is none or it is over 120. The spelling stays ('058')."""
    numbers = pd.to_numeric(years, errors="coerce")
    return years.where(numbers <= OLDEST, "")


def without_leading_zeros(numbers: pd.Series) -> pd.Series:
    """'00013' -> '13', '000' -> '0'."""
    stripped = numbers.str.strip().str.lstrip("0")
    return stripped.where(stripped != "", "0")
