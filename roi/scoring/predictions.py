"""Files of predictions: preds.json, written as a stream, complete or absent; or a CSV of anybody. Read back as arrays.

Letters: N images, K classes.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi import WRITTEN_BY, process_group
from roi.cxrlt_labels import CXRLT_CLASSES
from roi.data.table import image_keys, match_images, unmatched
from roi.data.targets import class_list
from roi.data.text_table import numbers, read_text_table
from roi.errors import UserError
from roi.files import atomic_write
from roi.labels import LABELS, NORMAL, canonical
from roi.run_paths import portable_origin, read_origin
from roi.scoring.json_schema import check_origin, rows_of_lines
from roi.scoring.prediction_files import flat_csv, json_rows
from roi.scoring.prediction_files.flat_csv import PARTS

# The second is what NIH calls it.
IMAGE_COLUMNS = ("image", "Image Index")
YES = ("1", "1.0", "true")
# Of preds.json, that are Python's objects at a time: these stay in a core's cache, which makes reading twice as fast.
ROWS_AT_ONCE = 128


@dataclass
class Predictions:
    images: list[str]
    classes: list[str]
    prob: dict[str, np.ndarray]  # part -> (N, K) in [0, 1]; "full", and "crop" and "drop" where there is a mask
    contaminated: np.ndarray  # (N,) bool: the checkpoint was trained on the image
    meta: dict[str, Any]  # where the predictions come from; empty if unknown


def meta_path(path: str | Path) -> Path:
    return Path(path).with_suffix(".meta.json")


# ---- writing --------------------------------------------------------------------------------------------------------


def record(image: str, classes: list[str], prob: dict[str, np.ndarray], contaminated: bool) -> dict[str, Any]:
    """One image as it stands in the file, with seven digits, as many as a float32 has. prob: part -> (K,)"""
    row: dict[str, Any] = {"image": image}
    for part, values in prob.items():
        row[f"prob_{part}"] = by_class(classes, values)
    if "drop" in prob:
        row["faithfulness"] = by_class(classes, prob["full"] - prob["drop"])
    if contaminated:
        row["contaminated"] = True
    return row


def by_class(classes: list[str], values: np.ndarray) -> dict[str, float]:
    return {c: seven_digits(value) for c, value in zip(classes, values.tolist(), strict=True)}


def seven_digits(value: float) -> float:
    # -0.0 + 0.0 is 0.0: nobody wants to read a negative zero.
    return float(f"{value:.7g}") + 0.0


def records(preds: Predictions) -> Iterator[dict[str, Any]]:
    """The rows that `write` takes."""
    for n, image in enumerate(preds.images):
        prob = {part: values[n] for part, values in preds.prob.items()}
        yield record(image, preds.classes, prob, bool(preds.contaminated[n]))


def write(path: str | Path, rows: Iterable[dict[str, Any]], meta: dict[str, Any]) -> tuple[int, int]:
    """Write rows one by one, and `meta` beside them; memory does not grow with the rows. `.csv` is flat, else JSON.

    Where several processes have rows, those of process 0 come first, then those of process 1, and so on.

    Returns:
        the number of images, and of those that were trained on.
    """
    path = Path(path)
    is_csv = path.suffix.lower() == ".csv"
    # Rows go to a part of this process's own first: the file is written when all have come to their end.
    images = contaminated = 0
    header = ""
    with process_group.open_part(path) as part:
        for row in rows:
            if is_csv and not header:
                header = flat_csv.line(flat_csv.columns_of(row))
            part.write((flat_csv.row_line(row) if is_csv else json_rows.row_text(row, is_first=not images)).encode())
            images += 1
            contaminated += bool(row.get("contaminated"))
        part.flush()
        # When all have answered, all parts are complete.
        parts = process_group.all_gather_objects((part.name, images, contaminated, header))
        images = sum(count for _, count, _, _ in parts)
        contaminated = sum(count for _, _, count, _ in parts)
        # A process may have no row, and so no header.
        header = max((header for _, _, _, header in parts), key=len)
        before, between, after = (header.encode(), b"", b"") if is_csv else (b"[", b",", b"\n]\n")
        if process_group.rank() == 0:
            # The meta is there before the predictions have their name: these never stand without their origin.
            with atomic_write(path, "wb") as file:
                file.write(before)
                others = [name for name, _, _, _ in parts[1:]]
                process_group.merge_parts(part, others, file, separator=between)
                file.write(after)
                _write_meta(path, meta, images, contaminated)
        process_group.barrier()
    return images, contaminated


def _write_meta(path: Path, meta: dict[str, Any], images: int, contaminated: int) -> None:
    known = {
        **portable_origin(meta, path),
        "written_by": WRITTEN_BY,
        "images": images,
        "contaminated_images": contaminated,
    }
    if contaminated:
        known["contaminated"] = True
    with atomic_write(meta_path(path)) as file:
        json.dump(known, file, indent=1)


# ---- reading --------------------------------------------------------------------------------------------------------


def read(path: str | Path) -> Predictions:
    """Read preds.json, or a CSV with a column of images (IMAGE_COLUMNS) and one of probabilities a class.

    Those are `prob_Mass`, or as we write them `prob_full_Mass`, beside which may stand `prob_crop_Mass`.

    Raises:
        UserError: not such a file, an image twice, other classes in one row than in the first, not a probability.
    """
    path = Path(path)
    is_csv = path.suffix.lower() == ".csv"
    preds = _read_csv(path) if is_csv else _read_json(path)
    names = pd.Series(preds.images, dtype=str)
    repeated = names[image_keys(names).duplicated().to_numpy()]
    if len(repeated):
        raise UserError(f"{path}: lists {repeated.iloc[0]!r} twice; one row an image")
    for part, values in preds.prob.items():
        inside = (values >= 0) & (values <= 1)
        outside = np.argwhere(~inside)
        if len(outside):
            n, k = outside[0]
            image = preds.images[n]
            c = preds.classes[k]
            value = values[n, k]
            raise UserError(f"{path}: prob_{part} of {image!r} for {c!r} is {value}, not a probability in 0..1")
    return preds


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: is damaged ({error}); predict anew, "
            "or remove it (then nobody knows where the predictions come from)"
        ) from error
    return read_origin(check_origin(meta, str(path)), path)


def _read_csv(path: Path) -> Predictions:
    if not path.is_file():
        raise UserError(f"{path}: no such file of predictions")
    table = read_text_table(path)
    image_columns = [name for name in IMAGE_COLUMNS if name in table]
    by_part = flat_csv.columns_by_part(list(map(str, table)))
    if not image_columns or not by_part or table.empty:
        raise UserError(
            f"{path}: a CSV of predictions has rows with a column 'image' and one 'prob_CLASS' a class "
            f"(found {list(table)})"
        )
    classes = list(by_part["full"])
    prob = {}
    for part, column_of in by_part.items():
        if set(column_of) != set(classes):
            raise UserError(f"{path}: has other classes in prob_{part}_ than in prob_full_; all parts have the same")
        values = [numbers(table[column_of[c]], path, "a probability", blank=True) for c in classes]
        prob[part] = np.stack(values, axis=1)
    images = table[image_columns[0]].str.strip()
    nameless = images == ""
    if nameless.any():
        line = images.index[int(nameless.argmax())]
        raise UserError(f"{path}: line {line} names no image")
    contaminated = np.zeros(len(table), dtype=bool)
    if "contaminated" in table:
        answers = table["contaminated"].str.strip().str.lower()
        contaminated = answers.isin(YES).to_numpy()
    # Other people's file may lie beside a file of ours that has its name.
    is_ours = any(name.startswith("prob_full_") for name in by_part["full"].values())
    meta = _read_meta(meta_path(path)) if is_ours else {}
    return Predictions(images.tolist(), classes, prob, contaminated, meta)


def _read_json(path: Path) -> Predictions:
    try:
        try:
            preds = _collect(path, rows_of_lines(path))
        except json.JSONDecodeError:
            # Another layout than that of `write`, or damaged: the whole file tells.
            preds = _collect(path, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file of predictions; make it with infer_roi_consistency.py --save_json"
        ) from error
    except UserError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of predictions ({type(error).__name__}: {error})") from error
    for image in preds.images:
        if not isinstance(image, str):
            raise UserError(f"{path}: image {image!r} is no text; names of images stand in quotes")
    return replace(preds, meta=_read_meta(meta_path(path)))


def _collect(path: Path, rows: Iterable[dict[str, Any]]) -> Predictions:
    """Predictions of rows as they stand in the file; of few rows at a time, which take ten times the room."""
    source = iter(rows)
    block = list(islice(source, ROWS_AT_ONCE))
    classes = list(block[0]["prob_full"])
    parts = [part for part in PARTS if f"prob_{part}" in block[0]]
    images: list[str] = []
    contaminated: list[bool] = []
    values: dict[str, list[np.ndarray]] = {part: [] for part in parts}
    while block:
        for part in parts:
            values[part].append(json_rows.probabilities(block, part, classes))
        json_rows.refuse_unscored(path, block, classes, parts, len(images) + 1)
        images += [row["image"] for row in block]
        contaminated += [bool(row.get("contaminated")) for row in block]
        block = list(islice(source, ROWS_AT_ONCE))
    prob = {part: np.concatenate(blocks) for part, blocks in values.items()}
    return Predictions(images, classes, prob, np.array(contaminated), {})


# ---- several models -------------------------------------------------------------------------------------------------


def ensemble(paths: Sequence[str]) -> Predictions:
    """The mean of the probabilities in several files of the same images and classes, in the order of the first.

    It is contaminated if one of its models is. If one of the files does not say what its model was trained on, neither
    does the ensemble.
    """
    members = [read(path) for path in paths]
    first = members[0]
    for path, other in zip(paths[1:], members[1:], strict=True):
        _reorder(other, path, first, paths[0])
    prob = {}
    for part in PARTS:
        values = [member.prob[part] for member in members if part in member.prob]
        if len(values) == len(members):
            prob[part] = np.mean(values, axis=0)
    contaminated = np.any([member.contaminated for member in members], axis=0)
    origin: list[dict[str, Any]] = []
    for path, member in zip(paths, members, strict=True):
        known: dict[str, Any] = {}
        for key in ("checkpoint", "epoch", "contaminated"):
            if key in member.meta:
                known[key] = member.meta[key]
        origin.append({"file": path, **known})
    answers = [member.meta.get("contaminated") for member in members]
    answer: bool | None = any(answers)
    if not answer and None in answers:
        answer = None
    meta = {"ensemble": origin, "contaminated": answer}
    return Predictions(first.images, first.classes, prob, contaminated, meta)


def _reorder(other: Predictions, path: str, first: Predictions, first_path: str) -> None:
    """Bring the rows and columns of `other` into the order of `first`. UserError: other images or other classes."""
    rows = match_images(first.images, other.images)
    missing = int((rows < 0).sum())
    if missing or len(other.images) != len(rows):
        example = f", {unmatched(first.images, rows)}" if missing else ""
        raise UserError(
            f"{path}: predicts {len(other.images):,} images, {first_path} {len(rows):,}, "
            f"{missing:,} of which are not there{example}; an ensemble is of the same images"
        )
    if set(other.classes) != set(first.classes):
        raise UserError(
            f"{path}: has the classes {', '.join(other.classes)}, {first_path} {', '.join(first.classes)}; "
            "an ensemble is of the same classes"
        )
    # Rows and columns are matched by name: files may list them in any order.
    columns = [other.classes.index(c) for c in first.classes]
    for part, values in other.prob.items():
        other.prob[part] = values[rows][:, columns]
    other.contaminated = other.contaminated[rows]


# ---- predictions and the table of their images ----------------------------------------------------------------------


def align_with_table(
    path: str,
    table: pd.DataFrame,
    csv: str,
    members: Sequence[str] = (),
) -> tuple[Predictions, pd.DataFrame]:
    """Predictions, their classes spelled as here, and the rows of the table in their order; every prediction needs one.

    Args:
        path: file of predictions.
        table: labels of their images.
        csv: file of the table, for messages.
        members: files of an ensemble, whose mean is taken instead of `path`.
    """
    preds = ensemble(members) if members else read(path)
    # A table without any label cannot say how a class is spelled.
    known = [*LABELS, *NORMAL]
    if table["labels"].any():
        known += [c for c in class_list(table) if c not in LABELS]
    # A rare class may have no image in a test table: it is undefined there, not misspelled.
    preds.classes = [c if c in CXRLT_CLASSES else canonical(c, known, path) for c in preds.classes]
    for n, c in enumerate(preds.classes):
        if c in preds.classes[:n]:
            raise UserError(f"{path}: has two columns for {c!r}")
    place = match_images(preds.images, table["image"])
    missing = (place < 0).sum()
    if missing:
        examples = unmatched(preds.images, place)
        raise UserError(
            f"{path}: {missing:,} of its {len(place):,} images are not in {csv}, {examples}; give their own table"
        )
    unpredicted = len(table) - len(preds.images)
    if unpredicted > 0:
        count = f"{unpredicted:,} of its {len(table):,} images"
        print(f"{csv}: {count} have no prediction in {path}; they are not scored")
    return preds, table.iloc[place]


def class_columns(classes: list[str], wanted: list[str], path: str) -> list[int]:
    """The columns of `wanted` among those of predictions. UserError: one is not predicted."""
    for c in wanted:
        if c not in classes:
            predicted = ", ".join(classes)
            raise UserError(f"{path}: has no prediction for {c!r} (it has {predicted})")
    return [classes.index(c) for c in wanted]


def match_rows(images: list[str], known: list[str], path: str, known_path: str) -> np.ndarray:
    """Rows of `images` among `known`. UserError: one is not there."""
    place = match_images(images, known)
    missing = (place < 0).sum()
    if missing:
        examples = unmatched(images, place)
        raise UserError(
            f"{path}: {missing:,} of {len(images):,} images are not in {known_path}, {examples}; "
            "give files of the same images"
        )
    return place
