"""What the readers of all data sets share: published files -> columns of the table, checked.

Letters: N images, K = 14 findings.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from roi.data.splits import read_splits
from roi.data.table import COLUMNS
from roi.errors import UserError
from roi.files import contents
from roi.labels import LABELS
from roi.sources.label_states import fields

T = TypeVar("T")
OLDEST = 120  # years; ages above it are typing errors
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}


def source(root: str | Path, *names: str) -> Path:
    """The first of `names` that lies under `root`, as it is or as .gz; UserError says what was looked for."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of data")
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    raise UserError(
        f"{root}: none of {', '.join(names)} is there (nor as .gz); it holds {contents(root)}; is it the folder of "
        "this data set, and is the archive unpacked?"
    )


def read_columns(csv: Path, wanted: Sequence[str], optional: Sequence[str] = (), **how: object) -> pd.DataFrame:
    """Text columns of a CSV, blanks as ''. UserError names a column that is not there; those of `optional` are then empty."""
    try:
        header = list(pd.read_csv(csv, nrows=0, dtype=str, encoding="utf-8-sig").columns)
        lacking = [c for c in wanted if c not in header]
        if lacking:
            raise UserError(f"no column {lacking[0]!r} (found {header})")
        chosen = [c for c in (*wanted, *optional) if c in header]
        text = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "index_col": False}
        table = pd.read_csv(csv, usecols=chosen, **{**text, **how})  # type: ignore[call-overload]
    except (OSError, EOFError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{csv}: not a table of this data set ({str(error).strip()})") from error
    if table.empty:
        raise UserError(f"{csv}: it has no rows")
    return table.reindex(columns=[*wanted, *optional], fill_value="")


def finished(
    name: str, image: pd.Series, cells: np.ndarray, others: dict[str, int] | None = None, **columns: object
) -> pd.DataFrame:
    """(N,) paths, (N, K) cells and what else is known -> what a reader gives. `others`: labels that are none of the 14, and how often; they stand in
    `.attrs["others"]`. UserError: an image twice."""
    table = pd.DataFrame(
        {c: columns.get(c, "") for c in COLUMNS} | {"image": image.to_numpy(), "dataset": name} | fields(cells)
    )
    twice = table["image"][table["image"].duplicated()]
    if len(twice):
        raise UserError(
            f"{name}: {len(twice):,} images are listed twice, the first is {twice.iloc[0]!r}; one row an image"
        )
    table = pd.concat([table, pd.DataFrame(cells, columns=list(LABELS))], axis=1)
    table.attrs["others"] = others or {}
    return table


def tally(keys: pd.Series, tokens_of: Callable[[str], Iterable[str]], ours: Collection[str]) -> dict[str, int]:
    """How many rows have each token that is none of `ours`, most frequent first. UserError: one that is nearly one of them."""
    found: Counter[str] = Counter()
    for kind, count in keys.value_counts().items():
        found.update({token: int(count) for token in set(tokens_of(str(kind))) - set(ours)})
    for token, count in found.items():
        near = difflib.get_close_matches(token, ours, 1, 0.92)
        if near:
            raise UserError(f"unknown label {token!r} in {count:,} rows; did you mean {near[0]!r}?")
    return dict(found.most_common())


def by_kind(keys: pd.Series, cells_of: Callable[[str], np.ndarray]) -> np.ndarray:
    """(N,) texts of few kinds -> (N, K) cells, `cells_of` (K,) being asked once a kind."""
    code, kinds = pd.factorize(keys)
    return np.stack([cells_of(kind) for kind in kinds])[code]


def years(text: pd.Series) -> pd.Series:
    """Ages in years, '' where there is none or it is over 120. The spelling stays ('058')."""
    return text.where(pd.to_numeric(text, errors="coerce") <= OLDEST, "")


def plain_number(text: pd.Series) -> pd.Series:
    """'00013' -> '13'."""
    return text.str.strip().str.lstrip("0").where(lambda t: t != "", "0")


def mapped(text: pd.Series, meaning: Callable[[str], str]) -> pd.Series:
    """Each text by its meaning, which is asked once a kind."""
    return text.map({kind: meaning(kind) for kind in text.unique()})


def sex_of(text: pd.Series) -> pd.Series:
    return mapped(text, lambda word: SEXES.get(word.strip().lower(), ""))


def split_of(text: pd.Series, name: str | Path) -> pd.Series:
    """train, val or test; UserError for a split of another name."""
    return named(name, lambda: read_splits(text, range(2, len(text) + 2)))


def named(name: str | Path, work: Callable[[], T]) -> T:
    """What `work` gives; a UserError of it begins with the name of the file."""
    try:
        return work()
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def text_of(value: object) -> str:
    """What is no text (null, NaN) is an empty one."""
    return value if isinstance(value, str) else ""


def dicom_years(age: pd.Series) -> pd.Series:
    """'067Y' -> '067', '18M' -> '1', '64' -> '64'."""

    def year(text: str) -> str:
        found = re.fullmatch(r"\s*(\d+)\s*([YMWD]?)\s*", text.upper())
        if not found or not found[2] or found[2] == "Y":
            return found[1] if found else ""
        return str(int(found[1]) // {"M": 12, "W": 52, "D": 365}[found[2]])

    return mapped(age, year)


def flags(text: pd.Series, name: str | Path) -> np.ndarray:
    """A column of 0 and 1 -> (N,) bool; UserError for anything else."""
    code, kinds = pd.factorize(text)
    other = [kind for kind in kinds if kind.strip() not in ("0", "1", "0.0", "1.0")]
    if other:
        raise UserError(
            f"{name}: {int((text == other[0]).sum()):,} values {other[0]!r} in column {text.name!r}; it holds 0 or 1"
        )
    return np.array([kind.strip() in ("1", "1.0") for kind in kinds])[code]
