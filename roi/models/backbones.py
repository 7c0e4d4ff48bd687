"""Backbones: the classifiers of torchvision and timm by name, their published weights, and the pixels these expect.

Letters: B images, K classes, H x W pixels.
"""

import difflib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from roi.errors import UserError
from roi.files import reason
from roi.models.exported import read_header
from roi.models.hub import is_hub, mean_and_std, read_hub
from roi.models.weights import load_weights, read_tensors, read_weights
from roi.progress import say

# Mean and standard deviation of red, green and blue, for pixels in 0..1.
Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def classifier_layer(backbone: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the layer that gives the logits.

    It is what timm's models call their classifier, or else the last linear or convolutional layer.
    """
    layers = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            layers.append((name, module))
    if hasattr(backbone, "get_classifier"):
        classifier = backbone.get_classifier()  # type: ignore[operator]
        for name, layer in layers:
            if layer is classifier:
                return name, layer
    return layers[-1]


def build_backbone(
    name: str,
    classes: int,
    weights: str = "imagenet",
    img_size: int = 224,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    zero_head: bool = False,
    new_head: bool = False,
) -> nn.Module:
    """A classifier with `classes` raw logits: (B, 3, H, W) -> (B, K).

    Args:
        name: a model of torchvision, or else one of timm.
        weights: "imagenet" (downloaded), "none", a file (roi/models/weights.py) or a model of the hub (hub.py).
        seed: draws the new layers; the global generator stays as it was.
        class_names: the classes of the new last layer, which takes its rows from a file by these names.
        zero_head: begin with a last layer of zeros, for one that learns alone: what some models draw for it is as
            large as what a few epochs teach it.
        new_head: none of the last layer comes from a file, whatever its classes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if name in torchvision_names():
            backbone = _torchvision_model(name, classes, img_size)
        else:
            backbone = _timm_model(name, classes, img_size)
    last_name, last = classifier_layer(backbone)
    if zero_head:
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
    # Weights come after the draw: their download builds a second model, which draws from the global generator too.
    if weights == "imagenet":
        load_weights(backbone, last_name, imagenet_weights(name, img_size), f"the ImageNet weights of {name}")
    elif weights != "none":
        if is_hub(weights):
            state, file_classes = read_hub(weights, name, _input_size(name, img_size))
        else:
            state, file_classes = read_weights(Path(weights))
        if new_head:
            file_classes = []
        load_weights(backbone, last_name, state, weights, class_names, file_classes)
    return backbone


def torchvision_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _torchvision_model(name: str, classes: int, img_size: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):
        # Their auxiliary heads would make the output a tuple in training.
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": img_size}
    elif name == "maxvit_t":
        options = {"input_size": (img_size, img_size)}
    backbone = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    if name.startswith("squeezenet"):
        # It ends in a ReLU, and the logits of several labels must go below 0.
        backbone.classifier[2] = nn.Identity()
    return backbone


def _timm_model(name: str, classes: int, img_size: int) -> nn.Module:
    base, _, tag = name.partition(".")
    if base not in timm.list_models():
        similar = difflib.get_close_matches(name, {*torchvision_names(), *timm.list_models()}, n=4)
        hint = f"; near it: {', '.join(similar)}" if similar else ""
        raise UserError(f"--backbone {name!r}: neither a torchvision nor a timm classifier{hint}")
    names_with_tags = timm.list_models(f"{base}.*", pretrained=True)
    tags = [tagged.partition(".")[2] for tagged in names_with_tags]
    if tag and tag not in tags:
        hint = f"; there are {', '.join(tags)}" if tags else ""
        raise UserError(f"--backbone {name!r}: weights of that name are not there for {base}{hint}")
    try:
        return timm.create_model(name, pretrained=False, num_classes=classes, **_input_size(name, img_size))
    except RuntimeError as error:
        raise UserError(f"--backbone {name!r}: {error}") from error


def _input_size(name: str, img_size: int) -> dict[str, Any]:
    """The argument that tells a timm model the side of its input, where its layers depend on it (ViT, Swin)."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return {"img_size": img_size} if config is not None and config.fixed_input_size else {}


def imagenet_weights(name: str, img_size: int = 224) -> dict[str, Tensor]:
    """The published weights of a backbone, from the cache or downloaded; timm fits positions to the side of the input.

    Raises:
        UserError: they cannot be had; it says the way round.
    """
    try:
        if name in torchvision_names():
            # The state of a whole model, for old files spell some keys in another way, which torchvision mends.
            return torchvision.models.get_model(name, weights="DEFAULT").state_dict()
        return timm.create_model(name, pretrained=True, **_input_size(name, img_size)).state_dict()
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise UserError(
            f"cannot get the ImageNet weights of {name} ({reason(error)}); on a machine without network download them "
            "elsewhere and give --weights FILE, or train from scratch with --weights none"
        ) from error


def normalisation_of(name: str, weights: str) -> Normalisation:
    """The mean and standard deviation of the pixels with which `weights` of the backbone `name` were trained.

    timm says so for each of its models (.5 and .5 for EfficientNet-Lite, Inception, BEiT and many ViT); torchvision's
    are ImageNet's but for Inception and GoogLeNet. A checkpoint of this project (`weights` is its path), what was
    exported from one, and a model of the hub have their own.
    From scratch ("none"): ImageNet's.
    """
    if weights == "none":
        return IMAGENET
    header = read_header(weights)
    if header is not None:
        mean, std = header["normalisation"]
        return tuple(mean), tuple(std)
    if is_hub(weights):
        return mean_and_std(weights) or IMAGENET
    if weights != "imagenet" and Path(weights).is_file():
        # What is wrong with a file is said by build_backbone, which reads it with the flag at hand.
        with suppress(UserError):
            state = read_tensors(Path(weights))
            if isinstance(state, dict) and "mask_net" in state:
                return state["args"].get("normalisation", IMAGENET)
    if name in torchvision_names():
        return HALVES if name in ("inception_v3", "googlenet") else IMAGENET
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return IMAGENET
    mean_red, mean_green, mean_blue = config.mean
    std_red, std_green, std_blue = config.std
    return (mean_red, mean_green, mean_blue), (std_red, std_green, std_blue)


def say_normalisation(normalisation: Normalisation) -> None:
    """Tell the user where it is not ImageNet's: who makes images ready for the weights elsewhere must know."""
    if normalisation == IMAGENET:
        return
    mean, spread = (", ".join(map(str, values)) for values in normalisation)
    say(f"pixels as the weights know them: mean {mean}, standard deviation {spread} (not ImageNet's)")
