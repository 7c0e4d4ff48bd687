"""What predictions say of the model behind them, and must not be taken for: its training, what it has seen."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roi import run_facts
from roi.data.identity import Seen
from roi.errors import UserError
from roi.inference.predict import Predictor
from roi.models.roi_model import RoiModel
from roi.training.checkpoint import is_untrained
from roi.training.metrics_log import COLUMNS, hours_of


def provenance(checkpoint: str, predictor: Predictor, table: str | None, image_root: str | None) -> dict[str, Any]:
    """Where an output comes from: paths of the checkpoint, the table and its images, and what the checkpoint says."""
    state = predictor.state
    return {
        "checkpoint": checkpoint,
        "epoch": state["epoch"],
        "table": table,
        "image_root": image_root,
        "keep_ratio": predictor.keep_ratio,
        "tta": predictor.tta,
        "classes": state["classes"],
        "contaminated": state["contaminated"],
        # The key above is also true of a model that has seen one of the images, test or not.
        "trained_on_tests": state["contaminated"],
        "args": state["args"],
        "versions": state["versions"],
        "command": shlex.join(sys.argv),
        **facts_of(predictor.model, state),
    }


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


def marks_of(state: Mapping[str, Any], found: Seen, is_drawn: bool) -> tuple[dict[str, Any], list[str]]:
    """What predictions must not be taken for: keys of their origin, and sentences for the console.

    Args:
        found: which of the images were trained on.
        is_drawn: the images are of a synthetic set.
    """
    marks: dict[str, Any] = {}
    said = []
    doubtful = int(found.doubt.sum())
    if doubtful:
        # Neither yes nor no: the answer of who reads it is "unknown".
        marks["contaminated"] = state["contaminated"] or None
        said.append(
            f"CANNOT BE TOLD whether the checkpoint was trained on {doubtful:,} of these {len(found.doubt):,} images: "
            "images of their names were trained on, and nobody says of which data set the two are; name it in the "
            "column 'dataset' of both tables"
        )
    if is_drawn:
        marks["synthetic"] = True
        said.append("SYNTHETIC: these images are drawn, no X-rays; their scores say nothing about patients")
    elif state.get("synthetic"):
        marks["trained_on_synthetic"] = True
        said.append("SYNTHETIC: the checkpoint was trained on drawn images alone; it has never seen an X-ray")
    return marks, said


def mark_origin(origin: dict[str, Any], state: Mapping[str, Any], found: Seen, is_drawn: bool) -> None:
    """Note in `origin`, and say, what the predictions must not be taken for (`marks_of`)."""
    marks, said = marks_of(state, found, is_drawn)
    origin.update(marks)
    for sentence in said:
        print(sentence)


def refuse_untrained(path: str, state: Mapping[str, Any], untrained: bool | None = None) -> None:
    """UserError for a checkpoint in which nothing was learned yet, unless that is asked for.

    Args:
        untrained: asked for; None: nobody can.
    """
    if untrained or not is_untrained(state):
        return
    remedy = "" if untrained is None else ", or ask for them with --untrained (untrained=True)"
    raise UserError(
        f"{path}: was never trained (epoch 0, step 0): its predictions are chance; go on with the training by "
        f"--resume auto{remedy}"
    )
