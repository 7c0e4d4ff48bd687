"""A folder as the Hugging Face hub holds a model: weights, config.json in timm's format, and the model card."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from roi import WRITTEN_BY
from roi.files import atomic_write
from roi.inference.export.model import Export, write_safetensors
from roi.inference.export.model_card import Card, model_card
from roi.models import exported
from roi.models.backbones import classifier_layer
from roi.models.exported import HUB_WEIGHTS


def write_folder(export: Export, folder: Path, data_licence: str) -> None:
    """DIR/model.safetensors, roi/model_roi.safetensors, config.json, README.md."""
    loads = loads_in_timm(export)
    # Made before anything is written.
    card = Card(export, folder.resolve().name, data_licence, loads)
    text = model_card(card)
    weights = folder / HUB_WEIGHTS
    write_safetensors(export, weights, exported.second_file_below(weights))
    # Of an export before, which --overwrite replaces: its second file lay beside the first.
    old = exported.second_file(weights)
    if exported.read_header(old) is not None:
        old.unlink()
    with atomic_write(folder / "config.json") as file:
        json.dump(config(export, loads), file, indent=2)
        file.write("\n")
    with atomic_write(folder / "README.md") as file:
        file.write(text)
    how = "timm loads it (hf-hub:, local-dir:)" if loads else "timm has no such model; torchvision has"
    print(f"{folder}: {how}; read README.md before you upload it")


def timm_model(export: Export) -> nn.Module | None:
    """The model of the same name in timm, with new weights; None where there is none."""
    name = export.args["backbone"].partition(".")[0]
    if name not in timm.list_models():
        return None
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    size: dict[str, Any] = {"img_size": export.side} if known is not None and known.fixed_input_size else {}
    # The draw of its weights, which are replaced, may not move the generator of the caller.
    with torch.random.fork_rng(devices=[]):
        return timm.create_model(name, pretrained=False, num_classes=len(export.classes), **size).eval()


def loads_in_timm(export: Export) -> bool:
    """Whether timm's model of that name takes the weights and gives the same logits.

    Many of torchvision's do (ResNet, DenseNet, VGG); others of the same name (ConvNeXt) have other keys.
    """
    other = timm_model(export)
    if other is None:
        return False
    try:
        other.load_state_dict(export.model.backbone.state_dict())
    except RuntimeError:
        return False
    # Keys may agree where layers do not: a stride, or the padding.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, export.side, export.side, generator=generator)
    with torch.no_grad():
        return torch.allclose(other(x), export.model.backbone(x), atol=1e-4, rtol=1e-4)


def config(export: Export, loads: bool) -> dict[str, Any]:
    """config.json. Without timm's keys where timm cannot load it."""
    # Under one key of our own: timm takes unknown ones for parts of its settings.
    own = {
        "library": export.library,
        "backbone": export.args["backbone"],
        "side": export.side,
        "normalisation": export.normalisation,
        "thresholds": export.thresholds(),
        "written_by": WRITTEN_BY,
    }
    common = {
        "num_classes": len(export.classes),
        "label_names": export.classes,
        "contaminated": export.state["contaminated"],
        # Older checkpoints do not say it.
        "synthetic": export.state.get("synthetic"),
        "roi_consistency": own,
    }
    # An architecture that timm lacks, or builds in another way, would be an error there, or wrong in silence.
    if not loads:
        return common
    name = export.args["backbone"].partition(".")[0]
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    fixed = known is not None and known.fixed_input_size
    backbone = export.model.backbone
    mean, std = export.normalisation
    pixels = {
        "tag": "roi_consistency",
        "input_size": [3, export.side, export.side],
        "fixed_input_size": fixed,
        # As images are made ready here: the whole of them, squeezed into a square.
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": mean,
        "std": std,
        "num_classes": len(export.classes),
        "pool_size": None,
        "first_conv": known.first_conv if known is not None else None,
        "classifier": classifier_layer(backbone)[0],
    }
    model_args = {"model_args": {"img_size": export.side}} if fixed else {}
    features = getattr(backbone, "num_features", None)
    return {"architecture": name, "num_features": features, **common, **model_args, "pretrained_cfg": pixels}
