"""The numbers of a validation: logits of all images, gathered from all processes, and their scores.

Letters: N images, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from roi import distributed
from roi.losses.terms import bce
from roi.scoring.metrics import validation_aurocs, validation_decisions


class Logits(NamedTuple):
    """What a model says of validation images, on the CPU."""

    logit: Tensor  # (N, K)
    target: Tensor  # (N, K), NaN = unknown
    rows: Tensor  # (N,) of the table


def concatenate(batches: Sequence[Logits]) -> Logits:
    """The batches of one process as one."""
    if not batches:
        return Logits(torch.zeros(0), torch.zeros(0), torch.zeros(0))
    return Logits(*(torch.cat(column).cpu() for column in zip(*batches, strict=True)))


def gather(own: Logits, signal: int) -> tuple[Logits, int]:
    """The images of all processes in the order of the table, and the signal that any of them got (0: none)."""
    everyone = distributed.all_gather_objects(([part.numpy() for part in own], signal))
    signal = max(other for _, other in everyone)
    # A process without images has no number of classes either, so that its array does not fit to the others.
    filled = [arrays for arrays, _ in everyone if len(arrays[2])]
    if not filled:
        return concatenate([]), signal
    logit, target, rows = (torch.from_numpy(np.concatenate(column)) for column in zip(*filled, strict=True))
    # The order of the table: sums in floating point, and so the scores, do not depend on the number of processes.
    order = rows.argsort()
    return Logits(logit[order], target[order], rows[order]), signal


def validation_scores(
    logits: Logits,
    classes: Sequence[str],
    datasets: np.ndarray | None,
    decisions: bool,
) -> dict[str, float]:
    """{"val_loss", "val_auroc", …} as roi.scoring.metrics.validation_aurocs gives them.

    Args:
        datasets: of each validation row of the table, where there are several
        decisions: whether right and wrong ones at p = 0.5 are counted as well
    """
    logit = logits.logit.numpy()
    target = logits.target.numpy()
    if datasets is not None:
        datasets = datasets[logits.rows.numpy()]
    scores = {"val_loss": float(bce(logits.logit, logits.target))}
    scores |= validation_aurocs(logit, target, classes, datasets)
    if decisions:
        scores |= validation_decisions(logit > 0, target, classes)
    return scores
