"""What the classes of a study model ask with (roi/models/fusion.py): learned, random or made of their names.

A file of queries (make_queries.py) has a vector a name. It holds no code: it is read without pickle.

Letters: K classes, N names, d numbers a vector.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from roi.errors import UserError
from roi.files import atomic_write, reason
from roi.labels import same_classes

LEARNED, RANDOM, PERMUTED = "learned", "random", "permuted:"
# Arrays of a file of queries.
KEYS = ("names", "vectors", "template", "model", "model_sha256")
# Of a file that is hashed, read at once.
CHUNK = 1 << 20


class Queries(NamedTuple):
    """Where the queries of K classes come from."""

    fixed: bool = False  # drawn once and never learned
    text: Tensor | None = None  # (K, d) fp32 of the names, from which a layer that learns makes them
    shared: bool = False  # one weight and one bias for all classes, so that a new name has a logit


# Learned, one a class.
OWN = Queries()


class QueryFile(NamedTuple):
    """What make_queries.py wrote."""

    path: str
    names: list[str]  # (N,)
    vectors: Tensor  # (N, d) fp32
    model_sha256: str  # of the folder of the language model


def write_queries(path: Path, names: Sequence[str], vectors: np.ndarray, template: str, folder: Path) -> str:
    """Write a file of queries, whole or not at all; -> the digest of the folder of the language model."""
    digest = folder_sha256(folder)
    model = folder.resolve().name
    # Arrays of text and numbers alone: an object would be a pickle.
    values = [np.array(value) for value in (list(names), vectors.astype(np.float32), template, model, digest)]
    arrays = dict(zip(KEYS, values, strict=True))
    with atomic_write(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return digest


def folder_sha256(folder: Path) -> str:
    """The digest of names and contents of all files of a folder but hidden ones."""
    digest = hashlib.sha256()
    # In one order on every disk.
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in name.parts)
        if is_hidden or not path.is_file():
            continue
        digest.update(f"{name.as_posix()} {path.stat().st_size}\n".encode())
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def read_queries(path: str) -> QueryFile:
    """Read a file of queries.

    Raises:
        UserError: it is something else, or holds no vector of numbers a name
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names, vectors, _, _, digest = (file[key] for key in KEYS)
    except FileNotFoundError as error:
        raise UserError(f"--queries {path}: no such file; make it with make_queries.py") from error
    except Exception as error:  # a damaged archive has errors of its own
        raise UserError(f"--queries {path}: not a file of make_queries.py ({reason(error)})") from error
    # A file of somebody else's may have the keys and other things in them.
    has_shape = names.ndim == 1 and vectors.ndim == 2
    of_names = has_shape and len(vectors) == len(names)
    is_float = vectors.dtype == np.float32
    if not of_names or not is_float or not np.isfinite(vectors).all():
        raise UserError(
            f"--queries {path}: {names.shape} names and {vectors.shape} vectors of {vectors.dtype}; a file of "
            "make_queries.py has one vector of finite float32 a name"
        )
    known = [str(name) for name in names]
    twice = sorted(name for name, count in Counter(known).items() if count > 1)
    if twice:
        raise UserError(f"--queries {path}: has {twice[0]!r} twice; one vector a name")
    return QueryFile(path, known, torch.from_numpy(vectors), str(digest))


def vectors_by_name(file: QueryFile, classes: Sequence[str]) -> Tensor:
    """(K, d) of these classes, whatever the order of the file; another spelling of a name is the same class.

    Raises:
        UserError: a class is not there
    """
    # Never by place: the file has the order of whoever wrote it.
    names = same_classes(classes, file.names)
    missing = [c for c in classes if c not in names]
    if missing:
        raise UserError(
            f"--queries {file.path}: has no {missing[0]!r} ({len(missing)} of {len(classes)} classes are missing); "
            "make it of all classes with make_queries.py --csv TABLE"
        )
    rows = [file.names.index(names[c]) for c in classes]
    return file.vectors[rows]


def permuted(vectors: Tensor, seed: int) -> Tensor:
    """The vectors, each at the place of another class: what names are worth is what this control lacks. (K, d)"""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(vectors), generator=generator)
    # One round through all classes: none keeps its own.
    moved = torch.empty_like(vectors)
    moved[order] = vectors[order.roll(1)]
    return moved


def file_of(choice: str) -> str | None:
    """The file that --queries names; None: no file."""
    return None if choice in (LEARNED, RANDOM) else choice.removeprefix(PERMUTED)


def vectors_of_new_names(file: QueryFile, trained_with: str | None) -> Tensor:
    """(N, d) of all names of a file, for a model whose classes share their last layer.

    Args:
        trained_with: digest of the language model of its own classes.

    Raises:
        UserError: the vectors are of another language model
    """
    if file.model_sha256 != trained_with:
        raise UserError(
            f"--queries {file.path}: of another language model ({file.model_sha256[:12]}) than the queries that the "
            f"checkpoint was trained with ({str(trained_with)[:12]}); make it with that model"
        )
    return file.vectors
