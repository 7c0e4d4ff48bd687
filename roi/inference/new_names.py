"""Other names than those that a model of studies was trained on: --queries of infer_roi_consistency.py."""

from collections.abc import Sequence
from typing import Any

from roi.errors import UserError
from roi.models.fusion import StudyModel, ViewAttention
from roi.models.queries import read_queries, vectors_of_new_names
from roi.models.roi_model import RoiModel


def ask_new_names(
    queries: str,
    asked: Sequence[str],
    checkpoint: str,
    model: RoiModel,
    state: dict[str, Any],
) -> None:
    """The model predicts these names in the place of its own classes, whether trained on or not.

    Args:
        queries: --queries.
        asked: flags of outputs and thresholds that are given.
        checkpoint: for messages.
        model: of the checkpoint; its queries change.
        state: of the checkpoint; its classes change.
    """
    if not isinstance(model, StudyModel) or not model.shared:
        raise UserError(
            f"--queries {queries}: {checkpoint} has a last layer for each of its own classes; train with "
            "train_multiview.py --queries NPZ --shared_queries"
        )
    # Maps and thresholds are of the classes that the backbone was trained on.
    others = [name for name in asked if name != "save_json"]
    if others:
        raise UserError(f"--queries {queries} gives probabilities of other names alone; leave out --{others[0]}")
    file = read_queries(queries)
    # Everything else of the model is the same for any name.
    assert isinstance(model.fusion, ViewAttention)
    model.fusion.text = vectors_of_new_names(file, state["args"].get("query_model"))
    trained = [name for name in file.names if name in state["classes"]]
    print(f"--queries: {len(file.names)} names, of which {len(trained)} were trained on")
    state["classes"] = file.names
