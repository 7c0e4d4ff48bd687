"""What predictions say of the model behind them: which checkpoint it is, and what it has seen."""

from pathlib import Path
from typing import Any

import pandas as pd

from roi.errors import UserError
from roi.scoring.predictions import Predictions
from roi.synthetic import is_synthetic


def is_contaminated(preds: Predictions) -> bool | None:
    """Was the model trained on these images or their patients? None: nobody says."""
    if preds.contaminated.any():
        return True
    unsaid = False if preds.meta else None
    return preds.meta.get("contaminated", unsaid)


def synthetic_mark(preds: Predictions, rows: pd.DataFrame) -> dict[str, bool]:
    """{"synthetic": True} where the table or who predicted says that images are drawn; {} where nobody does.

    {"trained_on_synthetic": True} where only the images of the checkpoint were.
    """
    # Predictions of others have no origin, and the table may be of another program: one of the two suffices.
    if preds.meta.get("synthetic") or is_synthetic(rows).any():
        return {"synthetic": True}
    return {"trained_on_synthetic": True} if preds.meta.get("trained_on_synthetic") else {}


def same_model(preds: Predictions, meta: dict[str, Any], path: str) -> None:
    """UserError if a file says that it comes from another checkpoint than the predictions that are scored."""
    scored, other = models_of(preds.meta), models_of(meta)
    if scored and other and scored != other:
        raise UserError(
            f"{path}: comes from {', '.join(other)}, the predictions from {', '.join(scored)}; "
            "give files of one checkpoint"
        )


def models_of(meta: dict[str, Any]) -> list[str]:
    """The checkpoints behind predictions; none where nobody says."""
    models = []
    for member in meta.get("ensemble", [meta]):
        if not member.get("checkpoint"):
            return []
        checkpoint = Path(member["checkpoint"]).name
        models.append(f"{checkpoint}, epoch {member.get('epoch')}")
    return sorted(models)
