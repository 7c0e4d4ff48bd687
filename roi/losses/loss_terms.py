"""The terms of a loss, one table: objectives, flags, GradNorm, the metrics CSV and the report read it. Loads no torch.

A new term is a row here and a value in roi/losses/objectives.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LossTerm:
    """A term of the loss: loss_NAME and w_NAME are its columns of the metrics CSV."""

    name: str
    layer: str  # the last layer of whose output it is made: "head" (of the classifier) or "mask"
    weight_flag: str  # the flag of its weight; "" where the weight is 1
    first_weight: float  # under GradNorm: the default of --w_NAME_init
    objectives: tuple[str, ...]  # those that it is part of


# The order of the columns, and that in which the weights of GradNorm lie in a checkpoint.
LOSS_TERMS = (
    LossTerm("full", "head", "", 1.0, ("evidence", "consistency")),
    LossTerm("consist", "head", "alpha", 0.5, ("evidence", "consistency")),
    LossTerm("drop", "head", "beta", 1e-3, ("evidence", "consistency")),
    LossTerm("sparse", "mask", "gamma", 1e-4, ("consistency",)),
    LossTerm("tv", "mask", "delta", 1e-5, ("consistency",)),
    LossTerm("locate", "mask", "epsilon", 0.25, ("evidence",)),
)


def terms_of(objective: str) -> tuple[str, ...]:
    """The names of the terms of an objective."""
    return tuple(term.name for term in LOSS_TERMS if objective in term.objectives)


TERMS = tuple(term.name for term in LOSS_TERMS)
OBJECTIVES = {objective: terms_of(objective) for objective in ("evidence", "consistency")}
LAYERS = {term.name: term.layer for term in LOSS_TERMS}
