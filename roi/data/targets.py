"""From the label columns of a table to the targets that losses and metrics take: 1 present, 0 absent, NaN unknown.

Letters: N rows, K classes, M different fields. Zero means looked for and absent.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from roi.data.table import LABEL_COLUMNS, image_keys, shares, tokens
from roi.errors import UserError
from roi.labels import LABELS, NORMAL, spelled

TO_DRAW = 2.0  # stands for a target that is still to be drawn
UNCERTAIN = {  # what such a cell becomes
    "ignore": np.nan,
    "ones": 1.0,
    "zeros": 0.0,
    "soft": TO_DRAW,
}


def class_list(table: pd.DataFrame, requested: str = "") -> list[str]:
    """The classes of a table: LABELS in their order, then others sorted.

    Args:
        requested: the classes asked for, 'Mass,Nodule'; empty for all that the table has.
    """
    all_labels: set[str] = set()
    for column in LABEL_COLUMNS:
        for field in table[column].unique():
            all_labels.update(tokens(field))
    wanted = {spelled(label) for label in tokens(requested)} or all_labels
    unknown = sorted(wanted - all_labels - set(NORMAL))
    if unknown:
        found = sorted(all_labels)
        raise UserError(f"--classes: no row of the table has {unknown[0]!r} (found {found})")
    if not wanted:
        raise UserError("the table has no label at all; name the classes with --classes")
    known = [label for label in LABELS if label in wanted]
    return known + sorted(wanted - set(LABELS))


def target_matrix(
    table: pd.DataFrame,
    classes: Sequence[str],
    uncertain: str = "ignore",
    seed: int | None = None,
) -> np.ndarray:
    """The targets of a table. `Normal` is derived: NaN where nothing is present and anything in doubt.

    Args:
        uncertain: what the cells of that column become. ignore: NaN. ones: 1. zeros: 0. soft: a draw from
            U(.55, .85), the label smoothing of CheXpert's -1 (Pham et al. 2021), which depends on seed, image and
            finding alone.
        seed: with one the targets are those that training learns: the shares of column `soft` are among them. Without
            one (validation, scores) these cells are unknown.

    Returns:
        (N, K) float32
    """
    place = {label: j for j, label in enumerate(classes)}
    columns = list(LABEL_COLUMNS)
    # A table of 100,000 rows has a few thousand different fields.
    fields = table[columns].drop_duplicates()
    rows = np.zeros((len(fields), len(classes)), dtype=np.float32)  # (M, K)
    for row, values in zip(rows, fields.itertuples(index=False), strict=True):
        _fill_row(row, values, place, UNCERTAIN[uncertain])
    kinds = pd.MultiIndex.from_frame(fields)
    all_fields = pd.MultiIndex.from_frame(table[columns])
    target = rows[kinds.get_indexer(all_fields)]
    if uncertain == "soft":
        assert seed is not None, "a draw needs a seed"
        _draw_uncertain(target, table["image"], classes, seed)
    # Scores are of what is known: a share of readers is learned from and not scored against.
    if seed is not None and "soft" in table:
        _fill_shares(target, table["soft"].to_numpy(), place)
    return target


def _fill_row(row: np.ndarray, fields: Sequence[str], place: dict[str, int], uncertain_target: float) -> None:
    """The targets (K,) of the fields LABEL_COLUMNS."""
    present, unknown, uncertain = map(_findings, fields)
    _fill_findings(row, present, place, 1.0)
    _fill_findings(row, uncertain, place, uncertain_target)
    _fill_findings(row, unknown, place, np.nan)
    # Whatever the field says of Normal: it follows from the findings, those that are no class included.
    normal = 1.0
    if present:
        normal = 0.0
    elif unknown or uncertain:
        normal = np.nan
    for label in NORMAL:
        if label in place:
            row[place[label]] = normal


def _findings(field: str) -> set[str]:
    return set(tokens(field)) - set(NORMAL)


def _fill_findings(row: np.ndarray, findings: set[str], place: dict[str, int], value: float) -> None:
    for label in findings & place.keys():
        row[place[label]] = value


def _draw_uncertain(target: np.ndarray, images: pd.Series, classes: Sequence[str], seed: int) -> None:
    """TO_DRAW becomes a draw from U(.55, .85), in place.

    It is the hash of seed, finding and image: other rows, classes, orders and processes change nothing.
    """
    to_draw = target == TO_DRAW  # (N, K)
    rows = np.flatnonzero(to_draw.any(axis=1))
    keys = image_keys(images.iloc[rows]).to_numpy()
    for j, label in enumerate(classes):
        drawn = np.flatnonzero(to_draw[rows, j])
        digests = []
        for key in keys[drawn]:
            text = f"{seed}\n{label}\n{key}"
            digest = hashlib.blake2b(text.encode(), digest_size=8)
            digests.append(digest.digest())
        numbers = np.frombuffer(b"".join(digests), dtype="<u8")
        uniform = numbers / 2**64
        target[rows[drawn], j] = 0.55 + 0.3 * uniform


def _fill_shares(target: np.ndarray, soft: np.ndarray, place: dict[str, int]) -> None:
    """The shares of column `soft` (N,) in the place of their NaN."""
    given = np.flatnonzero(soft != "")
    kinds, fields = pd.factorize(soft[given])
    shape = (len(fields), target.shape[1])
    values = np.full(shape, np.nan, dtype=np.float32)  # (M, K)
    for row, field in zip(values, fields, strict=True):
        for label, share in shares(field).items():
            if label in place and label not in NORMAL:
                row[place[label]] = share
    values = values[kinds]
    # A class without a share keeps its target.
    has_none = np.isnan(values)
    target[given] = np.where(has_none, target[given], values)
