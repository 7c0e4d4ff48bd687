"""Other names than those that a model of studies was trained on: --queries of infer_roi_consistency.py."""

import argparse
from typing import Any

from roi.errors import UserError
from roi.inference.flags import OUTPUTS
from roi.models.fusion import StudyModel, ViewAttention
from roi.models.queries import read_queries, vectors_of_new_names
from roi.models.roi_model import RoiModel


def ask_new_names(args: argparse.Namespace, model: RoiModel, state: dict[str, Any]) -> None:
    """--queries: the model predicts these names in the place of its own classes, whether trained on or not."""
    if not isinstance(model, StudyModel) or not model.shared:
        raise UserError(
            f"--queries {args.queries}: {args.checkpoint} has a last layer for each of its own classes; train with "
            "train_multiview.py --queries NPZ --shared_queries"
        )
    # Maps and thresholds are of the classes that the backbone was trained on.
    others = [name for name in (*OUTPUTS, "thresholds") if name != "save_json" and getattr(args, name)]
    if others:
        raise UserError(f"--queries {args.queries} gives probabilities of other names alone; leave out --{others[0]}")
    file = read_queries(args.queries)
    # Everything else of the model is the same for any name.
    assert isinstance(model.fusion, ViewAttention)
    model.fusion.text = vectors_of_new_names(file, state["args"].get("query_model"))
    trained = [name for name in file.names if name in state["classes"]]
    print(f"--queries: {len(file.names)} names, of which {len(trained)} were trained on")
    state["classes"] = file.names
