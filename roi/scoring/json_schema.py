"""What a JSON file must look like: a description of its keys and values, and what is wrong with one, by the path to it.

A shape is one of
    NUMBER, COUNT, TEXT, FLAG, ANY   a value; the first three never null
    Maybe(shape)                     or null
    Items(shape, few)                a list, of exactly `few` items where given
    Either((shape, shape))           one or the other
    Each(shape)                      an object of any keys
    Keys({name: shape}, {...})       an object: keys that it must have, and those that it may have; others do not matter

ORIGIN is what every file of predictions, maps, curves and thresholds says of where it comes from.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roi.errors import UserError

NUMBER, COUNT, TEXT, FLAG, ANY = "a number", "a whole number", "a text", "true or false", "anything"
KINDS: dict[str, tuple[type, ...]] = {
    NUMBER: (int, float),
    COUNT: (int,),
    TEXT: (str,),
    FLAG: (bool,),
    ANY: (object,),
}
# Characters of a value in a message.
SHOWN = 40


@dataclass(frozen=True)
class Maybe:
    shape: Any


@dataclass(frozen=True)
class Items:
    shape: Any
    few: int | None = None


@dataclass(frozen=True)
class Either:
    shapes: tuple[Any, ...]


@dataclass(frozen=True)
class Each:
    shape: Any


@dataclass(frozen=True)
class Keys:
    needed: dict[str, Any] = field(default_factory=dict)
    optional: dict[str, Any] = field(default_factory=dict)


# Of all flags of a training only those are described that are read here.
ARGS = Keys(
    optional={
        "log_csv": Maybe(TEXT),
        "without": Maybe(Items(TEXT)),
        "normalisation": Maybe(Items(Items(NUMBER, 3), 2)),
    }
)
MODEL = {"checkpoint": Maybe(TEXT), "epoch": Maybe(COUNT), "contaminated": Maybe(FLAG)}
TRAINING = Keys(
    optional={
        "images": COUNT,
        "table": Maybe(TEXT),
        "host": Maybe(TEXT),
        "begun": Maybe(TEXT),
        "hours": Maybe(NUMBER),
    }
)
ORIGIN = Keys(
    optional={
        **MODEL,
        "ensemble": Items(Keys(optional={**MODEL, "file": TEXT})),
        "table": Maybe(TEXT),
        "image_root": Maybe(TEXT),
        "keep_ratio": Maybe(NUMBER),
        "tta": Maybe(TEXT),
        "classes": Items(TEXT),
        "args": Maybe(ARGS),
        "versions": Maybe(Each(Maybe(TEXT))),
        "command": Maybe(TEXT),
        "date": Maybe(TEXT),
        "host": Maybe(TEXT),
        "backbone": Maybe(TEXT),
        "parameters": Maybe(COUNT),
        "training": Maybe(TRAINING),
        "images": COUNT,
        "synthetic": FLAG,
        "trained_on_synthetic": FLAG,
        "contaminated_images": COUNT,
    }
)

# What metrics.json passes on of preds.meta.json.
PASSED_ON = (
    *("checkpoint", "epoch", "keep_ratio", "tta", "versions", "args", "command", "image_root", "ensemble"),
    *("date", "host", "backbone", "parameters", "training"),
)


def check_origin(meta: object, where: str) -> dict[str, Any]:
    """Return `meta` as it is. UserError: it is no object, or a value in it is not what it must be."""
    problem = next(problems(meta, ORIGIN), "")
    if problem or not isinstance(meta, dict):
        raise UserError(f"{where}: {problem}; make it anew with infer_roi_consistency.py")
    return meta


def problems(value: object, shape: Any, path: str = "") -> Iterator[str]:
    """What is wrong with `value`, as in "'mean.auroc.low' is 'x', not a number".

    Args:
        value: what json.load gave.
        shape: what it must be, as above.
        path: the keys that lead to the value.
    """
    if isinstance(shape, Maybe):
        if value is not None:
            yield from problems(value, shape.shape, path)
    elif isinstance(shape, Either):
        alternatives = [list(problems(value, alternative, path)) for alternative in shape.shapes]
        if all(alternatives):
            yield alternatives[0][0]
    elif isinstance(shape, Items):
        yield from _problems_of_list(value, shape, path)
    elif isinstance(shape, Each | Keys):
        yield from _problems_of_object(value, shape, path)
    elif not _is_a(value, shape):
        yield _wrong(path, value, shape)


def _is_a(value: object, kind: str) -> bool:
    # To Python a truth value is a number.
    if isinstance(value, bool) and kind in (NUMBER, COUNT):
        return False
    return isinstance(value, KINDS[kind])


def _problems_of_list(value: object, shape: Items, path: str) -> Iterator[str]:
    if not isinstance(value, list) or shape.few not in (None, len(value)):
        wanted = "a list" if not shape.few else f"a list of {shape.few}"
        yield _wrong(path, value, wanted)
        return
    for n, item in enumerate(value):
        yield from problems(item, shape.shape, f"{path}[{n}]")


def _problems_of_object(value: object, shape: Each | Keys, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _wrong(path, value, "an object")
        return
    if isinstance(shape, Each):
        for key, item in value.items():
            yield from problems(item, shape.shape, _join(path, key))
        return
    for key in shape.needed:
        if key not in value:
            yield f"{_join(path, key)!r} is missing"
    for key, inner in {**shape.optional, **shape.needed}.items():
        if key in value:
            yield from problems(value[key], inner, _join(path, key))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _wrong(path: str, value: object, wanted: str) -> str:
    shown = repr(value)
    if len(shown) > SHOWN:
        shown = shown[: SHOWN - 3] + "..."
    subject = repr(path) if path else "it"
    return f"{subject} is {shown}, not {wanted}"


def rows_of_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a list of objects that stand a line each, as roi/scoring/predictions.py writes them.

    One at a time: of 900,000 images the whole list would take several GB.

    Raises:
        JSONDecodeError: the file has another layout, which may be noticed at its end.
    """
    with open(path, encoding="utf-8") as file:
        line = file.readline()
        expects_row = line == "[\n"
        for line in file:
            text = line.rstrip("\n")
            if not expects_row:
                break
            expects_row = text.endswith(",")
            yield json.loads(text.removesuffix(","))
        # The last row has no comma.
        if expects_row or line.rstrip("\n") != "]" or file.readline():
            raise json.JSONDecodeError("no row a line", "", 0)
