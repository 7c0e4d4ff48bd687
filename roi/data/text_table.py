"""A CSV that somebody hands in, as text: nothing is cut, dropped or read as a number in silence."""

import csv
import gzip
import io
import re
from array import array
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from roi.errors import UserError

SHOWN = 80  # characters of a row in a message


def read_text_table(path: str | Path, may_be_short: bool = False) -> pd.DataFrame:
    """All columns as text, '' where a field is empty; the index holds the number of the line on which each row begins.

    `may_be_short`: rows may leave out the fields at their end.

    Raises:
        UserError: no CSV, a column twice, a row that is longer or shorter than the header. Messages begin with `path`.
    """
    path = Path(path)
    try:
        text = _text(path)
        header, lines = _checked(text, path, may_be_short)
        if not lines:
            return pd.DataFrame({name: pd.Series(dtype=str) for name in header if name})
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, header=None, skiprows=_begin(text))
    except (OSError, EOFError, UnicodeError, csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not a CSV table ({str(error).strip()})") from error
    table = table.iloc[1:]
    table.index = pd.Index(lines)
    table.columns = pd.Index(header)
    return _named(table, path)


def refuse_long_rows(path: Path) -> None:
    """UserError for a row that is longer than the header; pandas would cut it where columns are chosen."""
    try:
        reader = csv.reader(io.StringIO(_text(path), newline=""))
        header = next(filter(None, reader), [])
        for row in reader:
            if len(row) > len(header):
                raise UserError(f"{path}: {_length(row, header, reader.line_num)}")
    except (OSError, EOFError, UnicodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV table ({str(error).strip()})") from error


def _length(row: list[str], header: list[str], line: int) -> str:
    """What is said of a row of another length than the header."""
    remedy = "is the file cut off?"
    if len(row) > len(header):
        remedy = 'a field with commas stands in quotes, as in "Mass,Edema"'
    shown = ",".join(row)[:SHOWN]
    return f"line {line} has {len(row)} fields, the header has {len(header)}: {shown!r}; {remedy}"


def _text(path: Path) -> str:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
            return file.read()
    with open(path, encoding="utf-8-sig", newline="") as file:
        return file.read()


def _begin(text: str) -> int:
    """Blank lines before the header."""
    lines = io.StringIO(text, newline=None)
    return next((n for n, line in enumerate(lines) if line.strip("\n")), 0)


def _checked(text: str, path: Path, may_be_short: bool) -> tuple[list[str], list[int]]:
    """-> the names of the columns, and the line on which each row begins.

    Raises:
        UserError: a row of another length than the header, a name that stands there twice.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    header: list[str] = []
    lines = array("q")
    before = 0
    for row in reader:
        begin, before = before + 1, reader.line_num
        if not row:
            continue
        if not header:
            header = [name.strip() for name in row]
            twice = [name for name, count in Counter(header).items() if name and count > 1]
            if twice:
                raise UserError(f"{path}: line {begin} names the column {twice[0]!r} twice; one column a name")
            other = re.search(r"[;\t]", header[0])
            if len(header) == 1 and other:
                raise UserError(
                    f"{path}: its columns are separated by {other[0]!r}; write it with columns separated by commas"
                )
            continue
        if len(row) > len(header) or len(row) < len(header) and not may_be_short:
            raise UserError(f"{path}: {_length(row, header, begin)}")
        lines.append(begin)
    if not header:
        raise UserError(f"{path}: not a CSV table (it is empty)")
    return header, lines.tolist()


def _named(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Without columns that have no name: empty ones, and the row numbers that pandas writes."""
    for place, name in enumerate(table.columns):
        if name:
            continue
        values = table.iloc[:, place].str.strip()
        is_index = place == 0 and values.str.fullmatch(r"\d+").all()
        filled = values != ""
        if filled.any() and not is_index:
            where = f"line {table.index[int(filled.argmax())]} has {values[filled].iloc[0]!r}"
            raise UserError(f"{path}: {where} in a column without a name; name it in the header")
    return table.loc[:, [bool(name) for name in table.columns]]


def numbers(column: pd.Series, path: str | Path, what: str = "a number", blank: bool = False) -> np.ndarray:
    """A column of text (its index: lines) -> (N,) float64; an empty field is NaN where that is allowed (`blank`).

    Raises:
        UserError: a field that is no number, with its line; `what` the column holds.
    """
    text = column.str.strip()
    values = pd.to_numeric(text, errors="coerce")
    wrong = values.isna() & ~((text == "") & blank)
    if wrong.any():
        line = column.index[int(wrong.argmax())]
        held = f"line {line} holds text, {column.loc[line]!r}"
        raise UserError(f"{path}: column {column.name!r} must hold {what} in every row; {held}")
    return values.to_numpy(dtype=np.float64)
