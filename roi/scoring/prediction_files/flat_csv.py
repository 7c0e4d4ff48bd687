"""Predictions as a flat CSV: image, prob_full_<class>, prob_crop_<class>, prob_drop_<class>, contaminated.

What preds.json says beside (faithfulness, which is full - drop, and what each image adds to its study) is left to it.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import IO, Any

PARTS = ("full", "crop", "drop")
SETS = ("set", "certain", "possible")  # of --thresholds; findings with commas between them


def columns_of(row: dict[str, Any]) -> list[str]:
    """The header of a file whose first row is `row`, as predictions.record makes them."""
    columns = ["image"]
    if "study" in row:
        columns.append("study")
    for part in PARTS:
        columns += [f"prob_{part}_{name}" for name in row.get(f"prob_{part}", {})]
    columns += [name for name in SETS if name in row]
    return [*columns, "contaminated"]


def line(values: Iterable[object]) -> str:
    """One line of the file, with its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def row_line(row: dict[str, Any]) -> str:
    """A row as predictions.record makes it; all rows of a file have the same parts."""
    values: list[object] = [row["image"]]
    if "study" in row:
        values.append(row["study"])
    for part in PARTS:
        values += row.get(f"prob_{part}", {}).values()
    values += [",".join(row[name]) for name in SETS if name in row]
    values.append(int(bool(row.get("contaminated"))))
    return line(values)


def write_stream(stream: IO[str], rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as they come, to a pipe or a terminal; -> how many."""
    count = 0
    for row in rows:
        # The first row knows the columns; all have the same.
        if not count:
            stream.write(line(columns_of(row)))
        stream.write(row_line(row))
        count += 1
    stream.flush()
    return count


def columns_by_part(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Part -> class -> column of a file of predictions; a plain `prob_<class>` is of the full view."""
    found: dict[str, dict[str, str]] = {}
    for part in PARTS:
        begin = f"prob_{part}_"
        of_part = {name.removeprefix(begin): name for name in columns if name.startswith(begin)}
        if of_part:
            found[part] = of_part
    # A class of somebody else's may be called "crop_x": without the full view these are plain names.
    if "full" in found:
        return found
    plain = {name.removeprefix("prob_"): name for name in columns if name.startswith("prob_")}
    return {"full": plain} if plain else {}
