"""Was a model trained on an image? By its patient, and by its name together with its data set.

A file name alone is no identity: 0001.png is in many sets. Where neither side says of which set an image is, and it
lies in another folder than the training images did, the answer is that nobody can tell.

Letters: N rows of a table.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from roi.data.patients import IDENTITY, named_patients, published_set
from roi.data.table import image_keys, patients_from_names
from roi.synthetic import SYNTHETIC, named_sets, sets_of_files


class TrainingSets(TypedDict):
    """What a checkpoint remembers of the data sets of its training rows."""

    train_sets: Tensor  # (n,) fingerprints, "" among them where a row names none
    synthetic: bool  # all of them were drawn


class Seen(NamedTuple):
    """Which rows were trained on, or other images of their patients."""

    seen: np.ndarray  # (N,) bool
    doubt: np.ndarray  # (N,) bool: the name was trained on, and nobody can tell whether the image was


def fingerprints(names: Sequence[str]) -> Tensor:
    """What a checkpoint remembers of the images or patients it was trained on: (N,) int64, one a name."""
    # Hashes: a checkpoint is shared, the names of patients are not.
    hashes = []
    for name in names:
        digest = hashlib.blake2b(name.encode(), digest_size=8)
        hashes.append(digest.digest())
    numbers = np.frombuffer(b"".join(hashes), dtype=np.int64)
    return torch.from_numpy(numbers.copy())


def among(names: Sequence[str], known: Tensor) -> np.ndarray:
    """Which names a checkpoint remembers. (N,) bool"""
    return np.isin(fingerprints(names), known)


def set_names(table: pd.DataFrame, image_root: str) -> list[str]:
    """The data set of each row: a synthetic one by its marker, others by the column dataset; '' where nobody says."""
    table = table.reindex(columns=["image", "dataset", "label_source"], fill_value="")
    drawn = named_sets(table, Path(image_root))
    names = []
    for synthetic, dataset in zip(drawn, table["dataset"], strict=True):
        # Two spellings of a hospital's own set are one, as those of the published sets are.
        plain = " ".join(dataset.casefold().split())
        names.append(synthetic or published_set(dataset) or plain)
    return names


def training_sets(names: Sequence[str]) -> TrainingSets:
    """Of the names that set_names gives."""
    # Distinct and sorted: the same rows give the same checkpoint, in whatever order.
    distinct = sorted(set(names))
    all_drawn = bool(distinct) and all(name.startswith(SYNTHETIC) for name in distinct)
    return {"train_sets": fingerprints(distinct), "synthetic": all_drawn}


def trained_on(
    state: Mapping[str, Any],
    table: pd.DataFrame,
    image_root: str,
    sets: Sequence[str] | None = None,
) -> Seen:
    """Was the checkpoint trained on the image, or on another image of its patient?

    Args:
        table: with columns as read_table gives them
        image_root: folder of its images
        sets: data set of each row, where more is known than `set_names` tells
    """
    old_root = state.get("args", {}).get("image_root")
    same_root = False
    if old_root:
        same_root = Path(old_root).resolve() == Path(image_root).resolve()
    names = set_names(table, image_root) if sets is None else sets
    lies_there = np.full(len(table), same_root)
    return _seen(state, table, names, lies_there)


def trained_on_file(state: Mapping[str, Any], path: Path) -> Seen:
    """The same for a file that no table names; of one row."""
    paths = [str(path)]
    return trained_on_files(state, paths, sets_of_files(paths))


def trained_on_files(state: Mapping[str, Any], paths: Sequence[str], sets: Sequence[str]) -> Seen:
    """The same for files by their paths; of a row a file.

    Args:
        sets: data set of each file, '' where nobody says
    """
    old_root = state.get("args", {}).get("image_root")
    home = Path(old_root).resolve() if old_root else None
    # A table may have named them by any end of their paths.
    ends: list[str] = []
    owners: list[int] = []
    below = np.zeros(len(paths), dtype=bool)
    for n, path in enumerate(map(Path, paths)):
        below[n] = home is not None and path.resolve().is_relative_to(home)
        folders = path.absolute().parts[1:]
        for start in range(len(folders)):
            ends.append("/".join(folders[start:]))
            owners.append(n)
    names = pd.Series(ends, dtype=str)
    table = pd.DataFrame({"image": names, "patient_id": patients_from_names(names)})
    of_file = np.array(owners, dtype=np.int64)
    set_of_ends = [sets[n] for n in owners]
    of_ends = _seen(state, table, set_of_ends, below[of_file])
    # A file is what one of its ends says.
    seen = np.bincount(of_file, weights=of_ends.seen, minlength=len(paths)) > 0
    doubt = np.bincount(of_file, weights=of_ends.doubt, minlength=len(paths)) > 0
    return Seen(seen, doubt & ~seen)


def _seen(state: Mapping[str, Any], table: pd.DataFrame, sets: Sequence[str], same_root: np.ndarray) -> Seen:
    """Which rows were trained on.

    Args:
        sets: data set of each row, '' where nobody says
        same_root: (N,) the image lies where the training images lay
    """
    by_patient, by_name = _matches(state, table)
    if "train_sets" not in state:
        # An older checkpoint remembers names alone: they count, as they did.
        seen = by_patient | by_name
        doubt = np.zeros(len(table), dtype=bool)
    else:
        known = np.array([name != "" for name in sets], dtype=bool)
        drawn = np.array([name.startswith(SYNTHETIC) for name in sets], dtype=bool)
        same_set = among(sets, state["train_sets"]) & known
        may_be_drawn = state["synthetic"]
        # The demo sets have the names of NIH's files, each of them.
        other_drawn = drawn & ~same_set
        real_beside_drawn = ~drawn & known & may_be_drawn
        another_kind = other_drawn | real_beside_drawn
        # An image that left its folder may be drawn or not.
        maybe_another = ~known & may_be_drawn & ~same_root
        all_named = not among([""], state["train_sets"]).all()
        another_set = another_kind | (known & ~same_set & all_named)
        seen = by_patient & ~another_kind & ~maybe_another
        # A name counts beside its set, or where it is the same file.
        same_image = same_set | same_root
        seen |= by_name & ~another_set & same_image
        doubt = (by_patient | by_name) & ~another_set & ~seen
    # A patient of whom one image is known to be trained on is known by that.
    patients = table["patient_id"]
    seen = patients.isin(patients[seen]).to_numpy()
    doubt = patients.isin(patients[doubt]).to_numpy()
    return Seen(seen, doubt & ~seen)


def _matches(state: Mapping[str, Any], table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose patient was trained on, by a name that says the set (nih:13); rows by any other name. (N,), (N,)"""
    keys = image_keys(table["image"]).tolist()
    by_name = among(keys, state["train_images"])
    by_patient = np.zeros(len(table), dtype=bool)
    # As the table and as the file name give the patient.
    for names in (table["patient_id"], named_patients(table)):
        match = among(names.tolist(), state["train_patients"])
        is_named = names.str.contains(":") & ~names.str.startswith(IDENTITY)
        says_set = is_named.to_numpy(dtype=bool)
        by_patient |= match & says_set
        by_name |= match & ~says_set
    return by_patient, by_name
