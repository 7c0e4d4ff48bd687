"""What is exported of a checkpoint: the model, and what whoever gets it must know."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from roi import WRITTEN_BY
from roi.errors import UserError
from roi.models import exported
from roi.models.backbones import IMAGENET, torchvision_names
from roi.models.hub import is_hub
from roi.models.roi_model import RoiModel
from roi.scoring.metrics_file import read_metrics
from roi.training.checkpoint import Checkpoint, identity


@dataclass(frozen=True)
class Export:
    """A model and what is known of it."""

    model: RoiModel  # in eval mode, on the CPU
    state: Mapping[str, Any]  # the checkpoint
    metrics: dict[str, Any]  # of metrics.json, empty where none was given
    fingerprints: bool

    @property
    def args(self) -> dict[str, Any]:
        return self.state["args"]

    @property
    def classes(self) -> list[str]:
        return self.state["classes"]

    @property
    def side(self) -> int:
        return self.args["img_size"]

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        mean, std = self.args.get("normalisation") or IMAGENET
        return tuple(mean), tuple(std)

    @property
    def library(self) -> str:
        return "torchvision" if self.args["backbone"] in torchvision_names() else "timm"

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.backbone.parameters())

    def thresholds(self) -> dict[str, float]:
        """Finding -> the probability from which evaluate.py calls it present, where it chose one."""
        # An export that is exported again keeps its own, where there are no others.
        found = {} if self.metrics else dict(self.state.get("thresholds") or {})
        for finding, scores in self.metrics.get("per_class", {}).items():
            if scores.get("threshold") is not None:
                found[finding] = scores["threshold"]
        return found


def read_scores(path: str | None, state: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """metrics.json of this checkpoint; empty without a path.

    Raises:
        UserError: it is of another checkpoint or epoch.
    """
    if path is None:
        return {}
    if not Path(path).is_file():
        raise UserError(f"--metrics {path}: no such file; evaluate.py --out DIR writes DIR/metrics.json")
    metrics, odd = read_metrics(Path(path))
    for why in odd.values():
        print(f"{path}: {why}; what it belongs to is left out")
    # Predictions of others do not say which checkpoint they are of.
    scored = metrics.get("predictions") or {}
    name = Path(scored.get("checkpoint") or checkpoint).name
    same_epoch = scored.get("epoch", state["epoch"]) == state["epoch"]
    if name != Path(checkpoint).name or not same_epoch:
        raise UserError(
            f"--metrics {path}: scores {name}, epoch {scored.get('epoch')}, not {Path(checkpoint).name}, epoch "
            f"{state['epoch']}; give the scores of this checkpoint"
        )
    unknown = [finding for finding in metrics["per_class"] if finding not in state["classes"]]
    if unknown:
        raise UserError(f"--metrics {path}: scores {unknown[0]!r}, which {checkpoint} does not predict")
    return metrics


def without_folders(value: Any) -> Any:
    """Flags of training as they may be handed on: of a path its last part."""
    if isinstance(value, list | tuple):
        return [without_folders(one) for one in value]
    if isinstance(value, str) and not is_hub(value) and ("/" in value or "\\" in value):
        return value.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return value


def header_of(export: Export) -> dict[str, Any]:
    """What stands in the header of the safetensors."""
    state = export.state
    # Where the data of a hospital lie is nobody's business.
    flags = {name: without_folders(value) for name, value in export.args.items()}
    header = {
        "written_by": WRITTEN_BY,
        "backbone": export.args["backbone"],
        "library": export.library,
        "classes": export.classes,
        "side": export.side,
        "normalisation": export.normalisation,
        "thresholds": export.thresholds(),
        "keep_ratio": export.args["keep_ratio"],
        "contaminated": state["contaminated"],
        "epoch": state["epoch"],
        "args": flags,
        "versions": state["versions"],
        "fingerprints": export.fingerprints,
        "parameters": export.parameters,
    }
    if state.get("hours") is not None:
        header["hours"] = state["hours"]
    # By which a model that began from it knows it again.
    header["identity"] = identity(cast(Checkpoint, state))
    header |= {key: state[key] for key in exported.SOMETIMES if state.get(key) is not None}
    return header


def write_safetensors(export: Export, path: Path, second: Path) -> None:
    """The classifier, and the rest of the model in a second file."""
    model = export.model
    rest: dict[str, dict[str, Tensor]] = {"view_norms": model.view_norms.state_dict()}
    if model.mask_net is not None:
        rest["mask_net"] = model.mask_net.state_dict()
    if model.fusion is not None:
        rest["fusion"] = model.fusion.state_dict()
    if export.fingerprints:
        known = [key for key in (*exported.FINGERPRINTS, exported.SETS) if key in export.state]
        rest[""] = {key: export.state[key] for key in known}
    exported.write(path, second, model.backbone.state_dict(), rest, header_of(export))
    print(f"{path}: the classifier, {export.parameters:,} parameters, keys of {export.library}")
    print(f"{second}: the rest of the model; keep it with the first")
