"""What a JSON file must look like: a description of its keys and values, and what is wrong with one, by the way to it.

A shape is one of
    NUMBER, COUNT, TEXT, FLAG, ANY   a value; the first three never null
    Maybe(shape)                     or null
    Items(shape, few)                a list, of exactly `few` items where given
    Either((shape, shape))           one or the other
    Each(shape)                      an object of any keys
    Keys({name: shape}, {...})       an object: keys that it must have, and those that it may have; others do not matter
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NUMBER, COUNT, TEXT, FLAG, ANY = "a number", "a whole number", "a text", "true or false", "anything"
KINDS: dict[str, tuple[type, ...]] = {NUMBER: (int, float), COUNT: (int,), TEXT: (str,), FLAG: (bool,), ANY: (object,)}


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


def problems(value: object, shape: Any, way: str = "") -> Iterator[str]:
    """What is wrong with `value`, as in "'mean.auroc.low' is 'x', not a number"; `way`: the keys that lead to it."""
    if isinstance(shape, Maybe):
        if value is not None:
            yield from problems(value, shape.shape, way)
    elif isinstance(shape, Either):
        found = [list(problems(value, one, way)) for one in shape.shapes]
        if all(found):
            yield found[0][0]
    elif isinstance(shape, Items):
        if not isinstance(value, list) or shape.few not in (None, len(value)):
            yield _wrong(way, value, "a list" + (f" of {shape.few}" if shape.few else ""))
            return
        for n, item in enumerate(value):
            yield from problems(item, shape.shape, f"{way}[{n}]")
    elif isinstance(shape, Each | Keys):
        if not isinstance(value, dict):
            yield _wrong(way, value, "an object")
        elif isinstance(shape, Each):
            for key, item in value.items():
                yield from problems(item, shape.shape, _below(way, key))
        else:
            yield from _keys(value, shape, way)
    elif not isinstance(value, KINDS[shape]) or isinstance(value, bool) and shape in (NUMBER, COUNT):
        yield _wrong(way, value, shape)


def _keys(value: dict[str, Any], shape: Keys, way: str) -> Iterator[str]:
    for key in (key for key in shape.needed if key not in value):
        yield f"{_below(way, key)!r} is missing"
    for key, inner in {**shape.optional, **shape.needed}.items():
        if key in value:
            yield from problems(value[key], inner, _below(way, key))


def _below(way: str, key: str) -> str:
    return f"{way}.{key}" if way else key


def _wrong(way: str, value: object, wanted: str) -> str:
    text = repr(value)
    shown = text if len(text) <= 40 else text[:37] + "..."
    return f"{way!r} is {shown}, not {wanted}" if way else f"it is {shown}, not {wanted}"
