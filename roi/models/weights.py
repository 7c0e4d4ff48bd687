"""Weights from files of others: what a file may be, what of it fits a backbone, and which classes come along."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from roi.errors import UserError
from roi.files import reason
from roi.labels import same_classes
from roi.models.exported import read_header

# Heads that Inception and GoogLeNet have in training; they are not built here.
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
# How a file begins -> what it is.
FOREIGN = {
    b"": "is empty",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch it with git lfs pull",
    b"\x89PNG": "is a picture (PNG)",
    b"<": "is a web page, not weights: its download went wrong",
    b"\x89HDF": "is HDF5, as Keras writes it; convert it to a PyTorch state dict first",
}
PICKLED = (
    "holds Python objects (a whole model, or settings beside it), and reading those may run code; "
    "where you trust it, load it with torch.load(..., weights_only=False) and torch.save(model.state_dict())"
)


def read_tensors(path: Path) -> Any:
    """What torch.save or safetensors wrote, on the CPU; no code in it is run.

    Raises:
        UserError: it is something else, and says what.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    for prefix, description in FOREIGN.items():
        if start == prefix or (prefix and start.lstrip().startswith(prefix)):
            raise UserError(f"{path}: {description}")
    # A safetensors file under any name: after the length of its header comes the header, which is JSON.
    is_safetensors = path.suffix == ".safetensors" or start[8:9] == b"{"
    try:
        if is_safetensors:
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every unpickler and parser has errors of its own
        # What torch.save writes is a zip or a pickle; of any other file torch's advice is of no use.
        if not (is_safetensors or start.startswith((b"PK", b"\x80"))):
            message = f"{path}: is neither safetensors nor a state dict; it begins with {start[:16]!r}"
            raise UserError(message) from error
        raise UserError(f"{path}: {what_it_is(error)}") from error


def what_it_is(error: Exception) -> str:
    """The error of a reader in words."""
    message = str(error)
    if "TorchScript" in message:
        return "is a TorchScript program; save the state_dict() of its model"
    if "Weights only load failed" in message or "Unsupported" in message:
        return PICKLED
    return f"is neither safetensors nor a state dict, or it is damaged ({reason(error)})"


def read_weights(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """The tensors by name in a .safetensors file, a state dict or a checkpoint, and its classes where it names them."""
    if not path.is_file():
        raise UserError(f"--weights {path}: no such file (or say imagenet, or none)")
    try:
        state = read_tensors(path)
    except UserError as error:
        raise UserError(f"--weights {error}") from error
    if not isinstance(state, dict):
        raise UserError(f"--weights {path}: not a state dict (names to tensors)")
    # Exported weights say in their header what a checkpoint says beside them.
    said = read_header(path) or state
    if said.get("contaminated") is True:
        raise UserError(
            f"--weights {path}: is a checkpoint that was trained on test images; what starts from it has seen them too"
        )
    # A checkpoint of this project has both keys; that of others may call anything its classes.
    classes = said.get("classes") if said is not state or "mask_net" in state else None
    # Training scripts of others keep the weights under one of these names, beside optimiser and epoch.
    for key in ("model", "state_dict"):
        if isinstance(state.get(key), dict):
            state = state[key]
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"--weights {path}: not a state dict (names to tensors)")
    return state, classes


def load_weights(
    backbone: nn.Module,
    last: str,
    state: dict[str, Tensor],
    source: str,
    classes: Sequence[str] | None = None,
    file_classes: Sequence[str] | None = None,
) -> None:
    """Give a backbone the weights of a file.

    Rows of the last layer come by the name of their class and the others stay as drawn, which is printed. Where the
    backbone has no names, a last layer of the same size comes as it is.

    Args:
        last: name of the last layer.
        state: the weights.
        source: where they come from, for messages.
        classes: of the backbone.
        file_classes: of the weights.

    Raises:
        UserError: they do not fit; it names what differs.
    """
    drawn = backbone.state_dict()
    drawn_head, drawn_body = _split(drawn, (f"{last}.weight", f"{last}.bias"))
    file_head, file_body = _split(without_wrappers(state, drawn), drawn_head)
    differences = misfits(drawn_body, file_body)
    if differences:
        # A model of another kind differs in every name: a few of them tell which it is.
        shown = "; ".join(differences[:3])
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise UserError(f"{source} does not fit the backbone: {shown}{more}")
    head = file_head
    if classes is not None:
        head = head_by_class(drawn_head, file_head, classes, file_classes, source)
    weights = drawn | file_body
    for key, value in head.items():
        if value.shape == drawn[key].shape:
            weights[key] = value
    backbone.load_state_dict(weights)


def _split(state: dict[str, Tensor], head_keys: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The last layer, and all other weights but those of auxiliary heads."""
    head: dict[str, Tensor] = {}
    body: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in head_keys:
            head[key] = value
        elif not key.startswith(AUXILIARY):
            body[key] = value
    return head, body


def head_by_class(
    drawn: dict[str, Tensor],
    file_head: dict[str, Tensor],
    classes: Sequence[str],
    file_classes: Sequence[str] | None,
    source: str,
) -> dict[str, Tensor]:
    """The last layer as drawn, with the rows that a file has of the same classes.

    Args:
        drawn: weight and bias by name, of `classes`.
        file_head: those of the file, of `file_classes`.
        source: the file, for what is printed.
    """
    if file_classes is None:
        print(f"{source} names no classes: the last layer is new")
        return {}
    names: dict[str, str] = {}
    if _same_layers(drawn, file_head, len(file_classes)):
        names = same_classes(classes, file_classes)
    came = []
    for c in names:
        came.append(c if names[c] == c else f"{c} (there {names[c]})")
    new = [c for c in classes if c not in names]
    named = f"came {', '.join(came) or 'no class'}; new {', '.join(new) or 'none'}"
    count = f"{len(came)} of {len(classes)} classes came"
    print(f"{source}: of the last layer {named} ({count})")
    if not names:
        return drawn
    rows = _places(list(names), classes)
    file_rows = _places(list(names.values()), file_classes)
    head = {}
    for key, value in drawn.items():
        taken = file_head[key][file_rows].to(value.dtype)
        head[key] = value.index_copy(0, rows, taken)
    return head


def _places(names: Sequence[str], among: Sequence[str]) -> Tensor:
    places = [list(among).index(name) for name in names]
    return torch.tensor(places, dtype=torch.int64)


def _same_layers(drawn: dict[str, Tensor], file_head: dict[str, Tensor], file_classes: int) -> bool:
    """Whether two last layers differ in the number of their classes alone."""
    if file_head.keys() != drawn.keys():
        return False
    for key, value in drawn.items():
        in_file = file_head[key]
        if len(in_file) != file_classes or in_file.shape[1:] != value.shape[1:]:
            return False
    return True


def misfits(expected: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """How the names and shapes of `state` differ from those that are expected, in words."""
    missing, unknown, other_shape = [], [], []
    for key in expected:
        # Files of old versions of torch have no count of batches, and nothing needs it.
        if key not in state and not key.endswith("num_batches_tracked"):
            missing.append(f"{key} is missing")
    for key, value in state.items():
        if key not in expected:
            unknown.append(f"{key} is not part of the model")
            continue
        shape = tuple(value.shape)
        expected_shape = tuple(expected[key].shape)
        if shape != expected_shape:
            other_shape.append(f"{key} is {shape}, not {expected_shape}")
    return missing + unknown + other_shape


def without_wrappers(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the backbone has them.

    Without what DataParallel ("module."), torch.compile ("_orig_mod."), an average of weights or a class of somebody's
    own put around it.
    """
    unwrapped = {}
    for name, value in state.items():
        if name != "n_averaged":
            unwrapped[name.replace("_orig_mod.", "")] = value
    roots = {name.partition(".")[0] for name in expected}
    # A wrapper is one first part that all names share and that the backbone does not have.
    while unwrapped:
        first_parts = {name.partition(".")[0] for name in unwrapped}
        nested = all("." in name for name in unwrapped)
        if len(first_parts) > 1 or first_parts <= roots or not nested:
            break
        unwrapped = {name.partition(".")[2]: value for name, value in unwrapped.items()}
    return unwrapped
