"""What predictions say of the model behind them: its size, what it was trained on, where and how long."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roi import run_facts
from roi.models.roi_model import RoiModel
from roi.training.metrics_log import COLUMNS, hours_of


def facts_of(model: RoiModel, state: Mapping[str, Any]) -> dict[str, Any]:
    """For preds.meta.json: when and where it was predicted, by what model, how that was trained."""
    return {
        **run_facts.here(),
        "backbone": state["args"]["backbone"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training": training_of(state),
    }


def training_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint knows of its training; what it does not know is left out.

    `table` has names of files alone: their folders are those of another machine.
    """
    # Counted by fingerprints: the table may have lost rows to test images.
    known: dict[str, Any] = {"images": len(state["train_images"])}
    tables = state["args"].get("train_csv")
    if tables:
        names = tables if isinstance(tables, list) else [tables]
        known["table"] = ", ".join(Path(name).name for name in names)
    for key in ("host", "begun", "hours"):
        if state.get(key) not in (None, ""):
            known[key] = state[key]
    # The last epoch has the rows of its log; the best one has their sum.
    if "hours" not in known and state.get("log"):
        known["hours"] = hours_of(COLUMNS, state["log"])
    return known
