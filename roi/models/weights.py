"""Weights from files of others: what a file may be, what of it fits a backbone, and which classes come along."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roi.errors import UserError
from roi.files import reason

AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # training-time heads of Inception and GoogLeNet, not built here
FOREIGN = {  # how a file begins -> what it is
    b"": "is empty",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; fetch it with git lfs pull",
    b"<": "is a web page, not weights: its download went wrong",
    b"\x89HDF": "is HDF5, as Keras writes it; convert it to a PyTorch state dict first",
}
PICKLED = (
    "holds Python objects (a whole model, or settings beside it), and reading those may run code; "
    "where you trust it, load it with torch.load(..., weights_only=False) and torch.save(model.state_dict())"
)


def read_tensors(path: Path) -> Any:
    """What torch.save or safetensors wrote, on the CPU; no code in it is run. UserError says what it is instead."""
    with open(path, "rb") as file:
        start = file.read(64)
    for begin, what in FOREIGN.items():
        if start == begin or begin and start.lstrip().startswith(begin):
            raise UserError(f"{path}: {what}")
    try:
        if path.suffix == ".safetensors" or start[8:9] == b"{":  # after the length of its header
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every unpickler and parser has errors of its own
        raise UserError(f"{path}: {what_it_is(error)}") from error


def what_it_is(error: Exception) -> str:
    """The error of a reader in words."""
    said = str(error)
    if "TorchScript" in said:
        return "is a TorchScript program; save the state_dict() of its model"
    if "Weights only load failed" in said or "Unsupported" in said:
        return PICKLED
    return f"is neither safetensors nor a state dict, or it is damaged ({reason(error)})"


def read_weights(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """A .safetensors file, a state dict, or a checkpoint -> (names to tensors, its classes where it names them)."""
    if not path.is_file():
        raise UserError(f"--weights {path}: no such file (or say imagenet, or none)")
    try:
        state = read_tensors(path)
    except UserError as error:
        raise UserError(f"--weights {error}") from error
    if isinstance(state, dict) and state.get("contaminated") is True:
        raise UserError(
            f"--weights {path}: is a checkpoint that was trained on test images; what starts from it has seen them too"
        )
    classes = state.get("classes") if isinstance(state, dict) and "mask_net" in state else None
    for key in ("model", "state_dict"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"--weights {path}: not a state dict (names to tensors)")
    return state, classes


def load_weights(
    backbone: nn.Module,
    last: str,
    state: dict[str, Tensor],
    source: str,
    classes: Sequence[str] | None = None,
    its_classes: Sequence[str] | None = None,
) -> None:
    """Give the backbone, whose last layer is called `last`, the weights `state`. UserError names what differs.

    Rows of the head come by the name of their class and the others stay as drawn, which is printed. Where the backbone
    has no names (`classes`), a head of the same size comes as it is.
    """
    own = backbone.state_dict()
    heads = [key for key in (f"{last}.weight", f"{last}.bias") if key in own]
    state = {k: v for k, v in without_wrappers(state, own).items() if not k.startswith(AUXILIARY)}
    theirs = {key: state.pop(key) for key in heads if key in state}
    wrong = misfits({k: v for k, v in own.items() if k not in heads}, state)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{source} does not fit the backbone: {'; '.join(wrong[:3])}{more}")
    if classes is not None:
        theirs = head_by_class({key: own[key] for key in heads}, theirs, classes, its_classes, source)
    fitting = {key: value for key, value in theirs.items() if value.shape == own[key].shape}
    backbone.load_state_dict(own | state | fitting)


def head_by_class(
    own: dict[str, Tensor],
    theirs: dict[str, Tensor],
    classes: Sequence[str],
    its_classes: Sequence[str] | None,
    source: str,
) -> dict[str, Tensor]:
    """The head `own` with the rows that `theirs` has of the same class; -> both tensors of it."""
    if its_classes is None:
        print(f"{source} names no classes: the last layer is new")
        return {}
    came = [c for c in classes if c in its_classes]
    fits = theirs.keys() == own.keys() and all(len(theirs[k]) == len(its_classes) for k in own)
    fits = fits and all(theirs[k].shape[1:] == own[k].shape[1:] for k in own)
    if not fits:
        came = []
    new = [c for c in classes if c not in came]
    print(f"{source}: of the last layer came {', '.join(came) or 'no class'}; new {', '.join(new) or 'none'}")
    here = torch.tensor([list(classes).index(c) for c in came], dtype=torch.int64)
    there = torch.tensor([list(its_classes).index(c) for c in came], dtype=torch.int64)
    if not came:
        return own
    return {key: value.index_copy(0, here, theirs[key][there].to(value.dtype)) for key, value in own.items()}


def misfits(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """How the names and shapes of `state` differ from those of `own`, in words."""
    counts = "num_batches_tracked"  # old files lack them
    wrong = [f"{k} is missing" for k in own if k not in state and not k.endswith(counts)]
    wrong += [f"{k} is not part of the model" for k in state if k not in own]
    shared = [k for k in state if k in own and state[k].shape != own[k].shape]
    return wrong + [f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in shared]


def without_wrappers(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the backbone has them.

    Without what DataParallel ("module."), torch.compile ("_orig_mod."), an average of weights or a class of somebody's
    own put around it.
    """
    state = {name.replace("_orig_mod.", ""): value for name, value in state.items() if name != "n_averaged"}
    roots = {name.partition(".")[0] for name in own}
    while state:
        first = {name.partition(".")[0] for name in state}
        if len(first) > 1 or first <= roots or not all("." in name for name in state):
            break
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state
