"""Weights of the Hugging Face hub, or of a folder in its format, as timm names them: hf-hub:NAME, local-dir:DIR."""

import json
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import hf_hub_download
from torch import Tensor

from roi.errors import UserError
from roi.files import reason
from roi.models.exported import FOLDER

HUB = "hf-hub:"


def is_hub(weights: str) -> bool:
    return weights.startswith((HUB, FOLDER))


def read_config(weights: str) -> dict[str, Any]:
    """config.json of hf-hub:NAME[@REVISION] or local-dir:DIR.

    Raises:
        UserError: it cannot be had, or is not timm's.
    """
    source, _, name = weights.partition(":")
    try:
        if f"{source}:" == FOLDER:
            path = Path(name) / "config.json"
        else:
            repository, _, revision = name.partition("@")
            path = Path(hf_hub_download(repository, "config.json", revision=revision or None))
        config = json.loads(path.read_text(encoding="utf-8"))
    # The hub's client has errors of its own, and those of its transport.
    except Exception as error:
        raise unreachable(weights, error) from error
    if not isinstance(config, dict) or "architecture" not in config:
        raise UserError(f"--weights {weights}: its config.json names no architecture of timm; give --weights FILE")
    return config


def unreachable(weights: str, error: Exception) -> UserError:
    return UserError(
        f"--weights {weights}: cannot be read ({reason(error)}); look at the name, or download its model.safetensors "
        "elsewhere and give --weights FILE"
    )


def read_hub(weights: str, backbone: str, size: dict[str, Any]) -> tuple[dict[str, Tensor], list[str] | None]:
    """The tensors by name, and the classes where the config names them.

    Args:
        backbone: that is trained, which must be of the same architecture.
        size: the argument that tells timm the side of the input, where the layers depend on it.
    """
    config = read_config(weights)
    # Said by name, before the weights are fetched: a misfit would be a list of tensors.
    architecture = config["architecture"]
    if backbone.partition(".")[0] != architecture:
        raise UserError(f"--weights {weights}: is a {architecture}, not a {backbone}; give --backbone {architecture}")
    if config.get("contaminated") is True:
        raise UserError(f"--weights {weights}: was trained on test images; what starts from it has seen them too")
    try:
        state = timm.create_model(weights, pretrained=True, **size).state_dict()
    except Exception as error:
        raise unreachable(weights, error) from error
    # ImageNet's come as names of a thousand things, which are no class of an X-ray; they do no harm.
    names = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names")
    return state, names if isinstance(names, list) else None


def mean_and_std(weights: str) -> tuple[Any, Any] | None:
    """Those of the pixels with which the weights were trained; None where the config does not say."""
    config = read_config(weights)
    pixels = config.get("pretrained_cfg", config)
    if "mean" not in pixels or "std" not in pixels:
        return None
    return tuple(map(float, pixels["mean"])), tuple(map(float, pixels["std"]))
