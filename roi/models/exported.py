"""Exported weights: safetensors whose header says which classes, side, pixels and thresholds they are of.

MODEL.safetensors holds the classifier alone, under the keys of timm or torchvision, so that these load it. What they do
not know (mask net, statistics of the crop and the drop view, fusion, fingerprints of what was trained on) lies beside
it in MODEL_roi.safetensors, or in the folder roi/ beside it. Both carry the digest of the classifier: a file of another
export is noticed.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from roi.errors import UserError
from roi.files import atomic_write, reason

# Of the second file: each part under its name, and the fingerprints of what was trained on.
PARTS = ("mask_net", "view_norms", "fusion")
FINGERPRINTS = ("train_images", "train_patients")
# Fingerprints too, which older checkpoints do not have.
SETS = "train_sets"
# What only some checkpoints say; an export says it where its checkpoint does.
SOMETIMES = ("synthetic", "steps", "begun_from", "identity")
# How timm calls a folder of the hub, and the weights in it.
FOLDER = "local-dir:"
HUB_WEIGHTS = "model.safetensors"
# Below such a folder lies the second file: timm before 1.0.31 takes no folder of two files of weights.
BELOW = "roi"
# Keys of the header whose values are JSON; the others are text.
JSON_KEYS = (
    *("classes", "side", "normalisation", "thresholds", "keep_ratio", "contaminated", "epoch", "args", "versions"),
    *("fingerprints", "parameters", "hours", "synthetic", "steps"),
)


def second_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}_roi.safetensors")


def second_file_below(path: Path) -> Path:
    """The place of the second file in a folder of the hub."""
    return path.parent / BELOW / second_file(path).name


def _find_second_file(path: Path, weights: str) -> Path | None:
    """The rest of a model, below or beside; where there are two, that of these weights."""
    there = [place for place in (second_file_below(path), second_file(path)) if place.is_file()]
    for place in there:
        if (read_header(place) or {}).get("weights") == weights:
            return place
    return there[0] if there else None


def file_of(weights: str) -> Path:
    """The file that --weights names; of a folder of the hub (local-dir:DIR) the one that timm takes."""
    if weights.startswith(FOLDER):
        return Path(weights.removeprefix(FOLDER)) / HUB_WEIGHTS
    return Path(weights)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """One hash of names and values."""
    state = hashlib.blake2b(digest_size=16)
    # safetensors orders tensors as it likes.
    for name in sorted(tensors):
        state.update(name.encode())
        # Bit by bit, as no text of a number would hold it.
        plain = tensors[name].detach().contiguous().view(-1)
        state.update(plain.view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def write(
    path: Path,
    second: Path,
    classifier: Mapping[str, Tensor],
    rest: Mapping[str, Mapping[str, Tensor]],
    header: dict[str, Any],
) -> None:
    """Write both files, the second one first: the classifier never stands without it.

    Args:
        second: place of the second file, beside or below.
        classifier: state dict of the backbone.
        rest: part (PARTS, and "" for the fingerprints) -> its tensors.
        header: values by key.
    """
    known = {"format": "pt", **header, "weights": digest_of(classifier)}
    text = {}
    for key, value in known.items():
        text[key] = json.dumps(value) if key in JSON_KEYS else str(value)
    # One flat list of names, as the format has it.
    others = {}
    for part, tensors in rest.items():
        for name, value in tensors.items():
            others[f"{part}.{name}" if part else name] = value
    for target, of_file in ((second, others), (path, classifier)):
        # Copies in the plain order of memory: safetensors takes no views.
        plain = {}
        for key, value in of_file.items():
            plain[key] = value.detach().contiguous().clone()
        with atomic_write(target, "wb") as file:
            file.write(save(plain, text))


def read_header(path: str | Path) -> dict[str, Any] | None:
    """The header of an exported file; None where it is none."""
    path = Path(path)
    # Only a name that says so: everything else is left to those who read it.
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = file.metadata() or {}
        # Anybody's safetensors may have metadata.
        if not {"classes", "weights", "args"} <= text.keys():
            return None
        return {key: json.loads(value) if key in JSON_KEYS else value for key, value in text.items()}
    except (SafetensorError, OSError, ValueError):
        return None


def read_checkpoint(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint of this project holds but for its training state, from both files.

    Raises:
        UserError: the second file is not there, or one of them is of another export, or damaged.
    """
    second = _find_second_file(path, header["weights"])
    if second is None:
        raise UserError(
            f"{path}: the rest of the model is missing, {second_file(path)} (of a folder of the hub "
            f"{second_file_below(path)}); copy it too (--weights takes the first file alone)"
        )
    classifier = _tensors(path)
    others = read_header(second) or {}
    # The format has no checksum of its own.
    if digest_of(classifier) != header["weights"] or others.get("weights") != header["weights"]:
        raise UserError(f"{path}: damaged, or {second.name} is of another export; copy both files anew")
    state: dict[str, Any] = {"model": classifier, **{part: {} for part in PARTS}}
    for name, value in _tensors(second).items():
        part, _, key = name.partition(".")
        if part in PARTS:
            state[part][key] = value
        else:
            state[name] = value
    for part in ("view_norms", "fusion"):
        # As checkpoints have it: no statistics, or no fusion, is no key.
        if not state[part]:
            del state[part]
    for key in ("classes", "args", "epoch", "versions", "thresholds", "contaminated", "hours"):
        state[key] = header.get(key)
    state |= {key: header[key] for key in SOMETIMES if key in header}
    # The name of a folder of another machine: one of that name here holds other images.
    state["args"] = {**header["args"], "image_root": ""}
    if not header["fingerprints"]:
        _without_fingerprints(state, path)
    return state


def _without_fingerprints(state: dict[str, Any], path: Path) -> None:
    """Nobody can tell what it was trained on: unknown, not clean."""
    print(f"{path}: was exported without fingerprints; whether it was trained on an image cannot be told")
    state["contaminated"] = state["contaminated"] or None
    for key in FINGERPRINTS:
        state[key] = torch.zeros(0, dtype=torch.int64)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from error
