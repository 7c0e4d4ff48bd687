"""Files of predictions: preds.json, written as a stream, complete or absent; or a CSV of anybody. Read back as arrays.

Letters: N images, K classes.
"""

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi.data.table import image_keys, match_images, unmatched
from roi.data.targets import class_list
from roi.data.text_table import numbers, read_text_table
from roi.errors import UserError
from roi.files import atomic_write, beside
from roi.labels import LABELS, NORMAL, canonical
from roi.scoring.provenance import check_origin

PARTS = ("full", "crop", "drop")


@dataclass
class Predictions:
    images: list[str]
    classes: list[str]
    prob: dict[str, np.ndarray]  # part -> (N, K) in [0, 1]; "full", and "crop" and "drop" where there is a mask
    contaminated: np.ndarray  # (N,) bool: the checkpoint was trained on the image
    meta: dict[str, Any]  # where the predictions come from; empty if unknown


def meta_path(path: str | Path) -> Path:
    return Path(path).with_suffix(".meta.json")


def record(image: str, classes: list[str], prob: dict[str, np.ndarray], contaminated: bool) -> dict[str, Any]:
    """One image as it stands in the file; prob: part -> (K,). Seven digits, as many as a float32 has."""
    row: dict[str, Any] = {"image": image}
    for part, values in prob.items():
        row[f"prob_{part}"] = {c: seven_digits(p) for c, p in zip(classes, values.tolist(), strict=True)}
    if "drop" in prob:
        lost = (prob["full"] - prob["drop"]).tolist()
        row["faithfulness"] = {c: seven_digits(p) for c, p in zip(classes, lost, strict=True)}
    return {**row, "contaminated": True} if contaminated else row


def seven_digits(value: float) -> float:
    return float(f"{value:.7g}") + 0.0  # -0.0 + 0.0 is 0.0


def records(preds: Predictions) -> Iterator[dict[str, Any]]:
    """What `write` writes."""
    for n, image in enumerate(preds.images):
        yield record(
            image, preds.classes, {part: values[n] for part, values in preds.prob.items()}, bool(preds.contaminated[n])
        )


def write(path: str | Path, rows: Iterable[dict[str, Any]], meta: dict[str, Any]) -> tuple[int, int]:
    """Write rows one by one, then `meta` beside them; memory does not grow with the rows. Where several processes have rows, those of
    process 0 come first, then those of process 1, and so on. -> images, contaminated ones"""
    from roi import distributed  # brings torch, which reading does without

    path = Path(path)
    count = marked = 0
    with ExitStack() as stack:
        own = stack.enter_context(atomic_write(path) if distributed.rank() == 0 else beside(path))
        if distributed.rank() == 0:
            own.write("[")
        for row in rows:
            own.write(("," if count else "") + "\n" + json.dumps(row))
            count += 1
            marked += bool(row.get("contaminated"))
        own.flush()
        everyone = distributed.all_gather_objects((own.name, count, marked))  # and all are done
        if distributed.rank() == 0:
            for before, (name, there, _) in zip(
                itertools.accumulate(n for _, n, _ in everyone), everyone[1:], strict=False
            ):
                with open(name, encoding="utf-8") as file:
                    own.write("," if before and there else "")
                    shutil.copyfileobj(file, own)
            own.write("\n]\n")
        count, marked = (sum(numbers) for numbers in list(zip(*everyone, strict=True))[1:])
        if distributed.rank() == 0:
            known = {**meta, "images": count, "contaminated_images": marked}
            if marked:
                known["contaminated"] = True
            with atomic_write(meta_path(path)) as file:
                json.dump(known, file, indent=1)
        distributed.barrier()
    return count, marked


def read(path: str | Path) -> Predictions:
    """preds.json, or a CSV with a column of images (`image` or `Image Index`) and one of probabilities a class (`prob_Mass`).

    UserError: not such a file, an image twice, other classes in one row than in the first, not a probability.
    """
    path = Path(path)
    preds = _read_csv(path) if path.suffix.lower() == ".csv" else _read_json(path)
    twice = pd.Series(preds.images)[image_keys(pd.Series(preds.images, dtype=str)).duplicated().to_numpy()]
    if len(twice):
        raise UserError(f"{path}: lists {twice.iloc[0]!r} twice; one row an image")
    for part, values in preds.prob.items():
        wrong = ~((values >= 0) & (values <= 1))
        if wrong.any():
            n, k = np.argwhere(wrong)[0]
            raise UserError(
                f"{path}: prob_{part} of {preds.images[n]!r} for {preds.classes[k]!r} is {values[n, k]}, not a probability in 0..1"
            )
    return preds


def ensemble(paths: Sequence[str]) -> Predictions:
    """The mean of the probabilities in several files of the same images and classes, in the order of the first.

    It is contaminated if one of its models is, and if one of the files does not say what its model was trained on, neither does the ensemble.
    """
    first, *others = members = [read(path) for path in paths]
    for path, other in zip(paths[1:], others, strict=True):
        rows = match_images(first.images, other.images)
        differing = int((rows < 0).sum())
        if differing or len(other.images) != len(rows):
            raise UserError(
                f"{path}: predicts {len(other.images):,} images, {paths[0]} {len(rows):,}, "
                f"{differing:,} of which are not there"
                + (f", {unmatched(first.images, rows)}" if differing else "")
                + "; an ensemble is of the same images"
            )
        if set(other.classes) != set(first.classes):
            raise UserError(
                f"{path}: has the classes {', '.join(other.classes)}, {paths[0]} {', '.join(first.classes)}; an ensemble is of the same classes"
            )
        columns = [other.classes.index(c) for c in first.classes]
        other.prob = {part: values[rows][:, columns] for part, values in other.prob.items()}
        other.contaminated = other.contaminated[rows]
    parts = [part for part in PARTS if all(part in one.prob for one in members)]
    prob = {part: np.mean([one.prob[part] for one in members], axis=0) for part in parts}
    origin = [
        {"file": path, **{k: one.meta[k] for k in ("checkpoint", "epoch", "contaminated") if k in one.meta}}
        for path, one in zip(paths, members, strict=True)
    ]
    said = [one.meta.get("contaminated") for one in members]
    meta = {"ensemble": origin, "contaminated": True if any(said) else None if None in said else False}
    return Predictions(first.images, first.classes, prob, np.any([one.contaminated for one in members], axis=0), meta)


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: is damaged ({error}); predict anew, or remove it (then nobody knows where the predictions come from)"
        ) from error
    return check_origin(meta, str(path))


def _read_csv(path: Path) -> Predictions:
    if not path.is_file():
        raise UserError(f"{path}: no such file of predictions")
    table = read_text_table(path)
    images = next((c for c in ("image", "Image Index") if c in table), None)
    columns = [c for c in map(str, table) if c.startswith("prob_")]
    if images is None or not columns or table.empty:
        raise UserError(
            f"{path}: a CSV of predictions has rows with a column 'image' and one 'prob_CLASS' a class (found {list(table)})"
        )
    prob = {"full": np.stack([numbers(table[c], path, "a probability", blank=True) for c in columns], axis=1)}
    names = table[images].str.strip()
    if (names == "").any():
        raise UserError(f"{path}: line {names.index[int((names == '').argmax())]} names no image")
    marked = np.zeros(len(table), dtype=bool)
    if "contaminated" in table:
        marked = table["contaminated"].str.strip().str.lower().isin(("1", "1.0", "true")).to_numpy()
    return Predictions(names.tolist(), [c.removeprefix("prob_") for c in columns], prob, marked, {})


def _read_json(path: Path) -> Predictions:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        classes = list(rows[0]["prob_full"])
        parts = [p for p in PARTS if f"prob_{p}" in rows[0]]
        images = [row["image"] for row in rows]
        other = [image for image in images if not isinstance(image, str)]
        prob = {p: np.array([[row[f"prob_{p}"][c] for c in classes] for row in rows], dtype=np.float64) for p in parts}
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file of predictions; make it with infer_roi_consistency.py --save_json"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of predictions ({type(error).__name__}: {error})") from error
    if other:
        raise UserError(f"{path}: image {other[0]!r} is no text; names of images stand in quotes")
    _nothing_more(path, rows, classes, parts)
    meta = _read_meta(meta_path(path))
    return Predictions(images, classes, prob, np.array([bool(row.get("contaminated")) for row in rows]), meta)


def _nothing_more(path: Path, rows: list[dict[str, Any]], classes: list[str], parts: list[str]) -> None:
    """UserError: a row has a class or a view that the first row has not, and which would never be scored."""
    views = [f"prob_{part}" for part in parts]
    for n, row in enumerate(rows):
        more = [view for view in (f"prob_{part}" for part in PARTS) if view in row and view not in views]
        for view in views:
            if len(row[view]) > len(classes):
                more += [f"{view} of {c}" for c in row[view] if c not in classes]
        if more:
            raise UserError(
                f"{path}: row {n + 1} ({row['image']!r}) has {more[0]}, which row 1 has not; "
                "all rows must have the same classes"
            )


# Predictions and the table of their images


def align_with_table(
    path: str, table: pd.DataFrame, csv: str, members: Sequence[str] = ()
) -> tuple[Predictions, pd.DataFrame]:
    """Predictions, or the mean of an ensemble, their classes spelled as here, and the rows of the table in their order; every prediction needs one."""
    preds = ensemble(members) if members else read(path)
    known = (
        [*LABELS, *NORMAL, *(c for c in class_list(table) if c not in LABELS)]
        if table["labels"].any()
        else [*LABELS, *NORMAL]
    )
    preds.classes = [canonical(c, known, path) for c in preds.classes]
    twice = [c for n, c in enumerate(preds.classes) if c in preds.classes[:n]]
    if twice:
        raise UserError(f"{path}: has two columns for {twice[0]!r}")
    place = match_images(preds.images, table["image"])
    if (place < 0).any():
        lacking = f"{(place < 0).sum():,} of its {len(place):,} images are not in {csv}"
        raise UserError(f"{path}: {lacking}, {unmatched(preds.images, place)}; give their own table")
    if len(preds.images) < len(table):
        print(
            f"{csv}: {len(table) - len(preds.images):,} of its {len(table):,} images have no prediction in {path}; they are not scored"
        )
    return preds, table.iloc[place]


def columns(have: list[str], wanted: list[str], path: str) -> list[int]:
    lacking = [c for c in wanted if c not in have]
    if lacking:
        raise UserError(f"{path}: has no prediction for {lacking[0]!r} (it has {', '.join(have)})")
    return [have.index(c) for c in wanted]


def match_rows(images: list[str], have: list[str], path: str, whose: str) -> np.ndarray:
    """Rows of `images` among `have`. UserError: one is not there."""
    place = match_images(images, have)
    if (place < 0).any():
        lacking = f"{(place < 0).sum():,} of {len(images):,} images are not in {whose}"
        raise UserError(f"{path}: {lacking}, {unmatched(images, place)}; give files of the same images")
    return place


def is_contaminated(preds: Predictions) -> bool | None:
    """Was the model trained on these images or their patients? None: nobody says."""
    said = preds.meta.get("contaminated", False if preds.meta else None)
    return True if preds.contaminated.any() or said else said


def same_model(preds: Predictions, meta: dict[str, Any], path: str) -> None:
    """UserError if a file says that it comes from another checkpoint than the predictions that are scored."""
    ours, theirs = (models_of(m) for m in (preds.meta, meta))
    if ours and theirs and ours != theirs:
        raise UserError(
            f"{path}: comes from {', '.join(theirs)}, the predictions from {', '.join(ours)}; give files of one checkpoint"
        )


def models_of(meta: dict[str, Any]) -> list[str]:
    """The checkpoints behind predictions; none where nobody says."""
    members = meta.get("ensemble", [meta])
    if not all(m.get("checkpoint") for m in members):
        return []
    return sorted(f"{Path(m['checkpoint']).name}, epoch {m.get('epoch')}" for m in members)
