"""CSV as text: of one that somebody hands in nothing is cut, dropped or read as a number in silence."""

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

NEEDS_QUOTES = re.compile(r'[,"\n\r]')  # of a field
# What pandas calls a column without a name that it reads and writes again.
UNNAMED = re.compile(r"Unnamed: \d+(\.\d+)*(_level_\d+)?")
SHOWN = 80  # characters of a row in a message
NOT_A_TABLE = (OSError, EOFError, UnicodeError, csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError)


def read_text_table(path: str | Path, may_be_short: bool = False) -> pd.DataFrame:
    """All columns as text, '' where a field is empty; the index holds the number of the line on which each row begins.

    Args:
        may_be_short: rows may leave out the fields at their end.

    Raises:
        UserError: no CSV, a column twice, a row that is longer or shorter than the header. Messages begin with `path`.
    """
    path = Path(path)
    try:
        text = _read_text(path)
        header, lines = _check_rows(text, path, may_be_short)
        if not lines:
            named = list(filter(None, header))
            return pd.DataFrame(columns=named, dtype=str)
        # The header is read as a row: pandas would rename columns that have no name.
        table = pd.read_csv(
            io.StringIO(text),
            dtype=str,
            keep_default_na=False,
            header=None,
            skiprows=_blank_lines(text),
        )
    except NOT_A_TABLE as error:
        raise _no_table(path, error) from error
    table = table.iloc[1:]
    table.index = pd.Index(lines)
    table.columns = pd.Index(header)
    return _drop_unnamed(table, path)


def refuse_long_rows(path: Path) -> None:
    """UserError for a row that is longer than the header; pandas would cut it where columns are chosen."""
    try:
        text = _read_text(path)
        reader = csv.reader(io.StringIO(text, newline=""))
        header = next(filter(None, reader), [])
        for row in reader:
            if len(row) > len(header):
                raise UserError(f"{path}: {_length_message(row, header, reader.line_num)}")
    except NOT_A_TABLE as error:
        raise _no_table(path, error) from error


def _no_table(path: Path, error: Exception) -> UserError:
    message = "it is no text in UTF-8" if isinstance(error, UnicodeError) else str(error).strip()
    return UserError(f"{path}: not a CSV table ({message})")


def numbers(column: pd.Series, path: str | Path, what: str = "a number", blank: bool = False) -> np.ndarray:
    """A column of text as numbers.

    Args:
        column: (N,), its index holds lines.
        what: the column must hold, for messages.
        blank: an empty field is allowed, and NaN.

    Returns:
        (N,) float64

    Raises:
        UserError: a field that is no number, with its line.
    """
    text = column.str.strip()
    values = pd.to_numeric(text, errors="coerce")
    allowed = (text == "") & blank
    wrong = values.isna() & ~allowed
    if wrong.any():
        line = column.index[int(wrong.argmax())]
        raise UserError(
            f"{path}: column {column.name!r} must hold {what} in every row; "
            f"line {line} holds text, {column.loc[line]!r}"
        )
    return values.to_numpy(dtype=np.float64)


def _read_text(path: Path) -> str:
    # With newline="" a line end inside a quoted field stays what it is.
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
            return file.read()
    with open(path, encoding="utf-8-sig", newline="") as file:
        return file.read()


def _blank_lines(text: str) -> int:
    """Blank lines before the header."""
    for number, line in enumerate(io.StringIO(text, newline=None)):
        if line.strip("\n"):
            return number
    return 0


def _check_rows(text: str, path: Path, may_be_short: bool) -> tuple[list[str], list[int]]:
    """The names of the columns, and the line on which each row begins.

    Raises:
        UserError: a row of another length than the header, and what _check_header refuses.
    """
    # pandas says nothing of rows that are too short, nor on which line a row begins.
    reader = csv.reader(io.StringIO(text, newline=""))
    header: list[str] = []
    lines = array("q")
    last_line = 0
    for row in reader:
        # A row may have several lines: its number is that of the first.
        line = last_line + 1
        last_line = reader.line_num
        if not row:
            continue
        if not header:
            header = [name.strip() for name in row]
            _check_header(header, path, line)
            continue
        too_short = len(row) < len(header) and not may_be_short
        if too_short or len(row) > len(header):
            raise UserError(f"{path}: {_length_message(row, header, line)}")
        lines.append(line)
    if not header:
        raise UserError(f"{path}: not a CSV table (it is empty)")
    return header, lines.tolist()


def _check_header(header: list[str], path: Path, line: int) -> None:
    """UserError: a name stands there twice, or another sign than a comma separates the columns."""
    counts = Counter(filter(None, header))
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        first = twice[0]
        raise UserError(f"{path}: line {line} names the column {first!r} twice; one column a name")
    other_sign = re.search(r"[;\t]", header[0])
    if len(header) == 1 and other_sign:
        raise UserError(
            f"{path}: its columns are separated by {other_sign[0]!r}; write it with columns separated by commas"
        )


def _length_message(row: list[str], header: list[str], line: int) -> str:
    """What is said of a row of another length than the header."""
    remedy = "is the file cut off?"
    if len(row) > len(header):
        remedy = 'a field with commas stands in quotes, as in "Mass,Edema"'
    shown = ",".join(row)[:SHOWN]
    lengths = f"line {line} has {len(row)} fields, the header has {len(header)}"
    return f"{lengths}: {shown!r}; {remedy}"


def _drop_unnamed(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table without columns that have no name: empty ones, and the row numbers that pandas writes."""
    unnamed = [not name or bool(UNNAMED.fullmatch(name)) for name in table.columns]
    for place, name in enumerate(table.columns):
        if not unnamed[place]:
            continue
        values = table.iloc[:, place].str.strip()
        is_index = (place == 0 or bool(name)) and bool(values.str.fullmatch(r"\d+").all())
        filled = values != ""
        if name and (is_index or not filled.any()):
            print(f"{path}: column {name!r} is the row numbers of pandas; it is left out")
        if filled.any() and not is_index:
            line = table.index[int(filled.argmax())]
            value = values[filled].iloc[0]
            raise UserError(f"{path}: line {line} has {value!r} in a column without a name; name it in the header")
    return table.loc[:, [not is_unnamed for is_unnamed in unnamed]]


# Writing


def csv_text(table: pd.DataFrame) -> str:
    """The table as CSV, byte for byte as pandas writes columns of text, in a fraction of its time."""
    columns = []
    for name in table:
        values = table[name].tolist()
        # One search for a whole column: few have a field that needs quotes.
        if _needs_quotes("\0".join(values)):
            quoted = {value: _quoted(value) for value in set(values)}
            values = [quoted[value] for value in values]
        columns.append(values)
    header = ",".join(map(str, table))
    lines = map(",".join, zip(*columns, strict=True))
    return "\n".join([header, *lines, ""])


def _needs_quotes(text: str) -> bool:
    return NEEDS_QUOTES.search(text) is not None


def _quoted(value: str) -> str:
    if not _needs_quotes(value):
        return value
    doubled = value.replace('"', '""')
    return f'"{doubled}"'
