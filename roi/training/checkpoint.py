"""Checkpoints: plain dicts of tensors and numbers, written whole, read without running code from them.

Every key is described in docs/formats.md.
"""

import hashlib
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from roi import __version__, accelerator, distributed
from roi.errors import UserError
from roi.files import atomic_write, reason
from roi.models import exported
from roi.models.fusion import study_model_from_args
from roi.models.roi_model import RoiModel, model_from_args
from roi.models.weights import misfits, read_tensors

# Without these a file is no checkpoint of this project.
NEEDED = ("model", "mask_net", "classes", "args", "epoch", "contaminated", "train_images", "train_patients", "versions")
# The model, of its `args`.
DESCRIBES = ("backbone", "mask", "img_size", "mask_per_class", "fill", "keep_ratio")
# Flags that may differ between the run that stopped and the one that goes on: they do not change the result.
FREE = {
    "epochs",
    "patience",
    "workers",
    "prefetch_factor",
    "persistent_workers",
    "save",
    "log_csv",
    "tensorboard",
    "resume",
    "overwrite",
    "image_root",
    "train_csv",
    "val_csv",
    "exclude_csv",
    "device",
    "skip_unreadable",
    "weights",
    "init",
    "cache_dir",
    "cache_on_device",
    "compile",
    "checkpoint_activations",
    "save_every_steps",
    # The product of these two is `together`, which may not differ.
    "batch_size",
    "world",
    # What these two stand for may not differ.
    "recipe",
    "augment",
    "print_config",
    "test",
    "checkpoint",
    "test_csv",
    "test_out",
    "max_test_samples",
}
# Flags that an older checkpoint does not say, with what its run had.
ADDED = {"view_share": 1.0, "map_average": 0.0}


class Checkpoint(TypedDict, total=False):
    """What a checkpoint holds. One of the best epoch has no training state, but val_auroc."""

    # The model, and what it was trained on.
    model: dict[str, Tensor]
    mask_net: dict[str, Tensor]  # empty where no mask is learned
    fusion: dict[str, Tensor]  # of a study model with attention
    view_norms: dict[str, Tensor]  # statistics of batch norm in the crop and the drop view; not in older files
    classes: list[str]
    args: dict[str, Any]  # the flags, and what they came to (setup.checkpoint_args)
    contaminated: bool  # whether test images were trained on
    train_images: Tensor  # (N,) int64 fingerprints
    val_images: Tensor
    train_patients: Tensor
    train_sets: Tensor  # (n,) fingerprints of the data sets of the rows, "" among them; not in older files
    synthetic: bool  # whether all that was trained on was drawn (roi/synthetic.py)
    labels: str  # digest of classes, names and targets
    versions: dict[str, str]
    host: str  # the machine that began the training
    begun: str  # when, in UTC
    hours: float  # of training until the best epoch
    begun_from: str  # identity of the weights of stage 1
    epoch: int  # finished epochs
    val_auroc: float
    # Training state: what an exact resume needs.
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    balance: dict[str, Any]
    schedule: dict[str, Any]
    average: dict[str, dict[str, Tensor]]  # averaged by --ema, or mask_net alone by map_average
    batch: int  # batches of the next epoch that are done
    steps: int
    best: float
    best_epoch: int
    before_masks: float
    meter: dict[str, Any]
    unreadable: list[str]
    blocks: dict[str, Any]  # of a shuffled epoch (roi/data/order/blocks.py); not where any row may lie anywhere
    rng: list[dict[str, Tensor]]  # of each process
    log: list[str]  # rows of the metrics CSV
    identity: str  # of an exported model alone
    # Never written: `load_last_good` found the newest file damaged.
    fell_back: bool


def save(path: str | Path, state: Mapping[str, Any], keep: Path | None = None) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        keep: the name that the checkpoint which it replaces then has

    Raises:
        UserError: the disk is full, or refuses
    """
    path = Path(path)
    try:
        with atomic_write(path, "wb", keep) as file:
            torch.save(state, file)
    except (OSError, RuntimeError, UserError) as error:
        # Torch's writer has errors of its own, and a full disk is a UserError whose remedy is not that of a training.
        why = reason(error.__cause__ or error)
        raise UserError(
            f"{path}: cannot be written ({why}); make room, then --resume auto: the checkpoint before it is as it was"
        ) from error


def best_path(save: Path) -> Path:
    """Where the best epoch lies beside the last one."""
    return save.with_name(f"{save.stem}_best.pt")


def previous_path(save: Path) -> Path:
    """Where the checkpoint before the last one lies: it is good when a disk damages the last one."""
    return save.with_name(f"{save.stem}_previous.pt")


def val_path(save: Path) -> Path:
    """Where the validation rows lie that training held out."""
    return save.with_name(f"{save.stem}_val.csv")


def clear_away(save: Path, val_csv: str | None) -> None:
    """Remove what lies beside the checkpoint of a run that is replaced; a table of the user's own stays."""
    best_path(save).unlink(missing_ok=True)
    previous_path(save).unlink(missing_ok=True)
    if not val_csv:
        val_path(save).unlink(missing_ok=True)


def load(path: str | Path) -> Checkpoint:
    """What `save` wrote, on the CPU.

    Raises:
        UserError: it is anything else, or damaged
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    header = exported.read_header(path)
    if header is not None:
        return cast(Checkpoint, exported.read_checkpoint(path, header))
    try:
        _check_archive(path)
        state = read_tensors(path)
    except UserError as error:
        message = str(error).removeprefix(f"{path}:")
        raise UserError(f"{path}: not a checkpoint, or a damaged one (it{message})") from error
    except Exception as error:  # a damaged archive has errors of its own
        raise UserError(f"{path}: not a checkpoint, or a damaged one ({reason(error)})") from error
    missing = [key for key in NEEDED if not isinstance(state, dict) or key not in state]
    if missing:
        problem = f"it has no {missing[0]!r}"
        if isinstance(state, dict) and any(isinstance(value, Tensor) for value in state.values()):
            problem = "weights alone: training begins from them with --weights"
        raise UserError(f"{path}: not a checkpoint of this project ({problem})")
    return cast(Checkpoint, state)


def _check_archive(path: Path) -> None:
    """Compare the checksums of a zip file, which torch does not look at."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        changed = archive.testzip()
    if changed:
        raise zipfile.BadZipFile(f"{changed} is not as it was written")


def load_last_good(save: Path) -> Checkpoint:
    """The checkpoint `save`, or the one before it where a disk has damaged it."""
    try:
        return load(save)
    except UserError as error:
        previous = previous_path(save)
        if not previous.is_file():
            raise
        state = load(previous)
        print(f"{error}; going on from the one before it, {previous}")
    state["fell_back"] = True
    return state


def load_model(path: str | Path, channels_last: bool = True) -> tuple[RoiModel, dict[str, Any]]:
    """The model of a checkpoint in eval mode, on the CPU, and the checkpoint.

    The file says which backbone, mask and classes; averages of a run with --ema or map_average.
    """
    state = load(path)
    undescribed = [name for name in DESCRIBES if name not in state["args"]]
    if undescribed:
        raise UserError(f"{path}: does not say how its model is built (its args have no {undescribed[0]!r})")
    build = study_model_from_args if "fusion" in state["args"] else model_from_args
    model = build(state["args"], state["classes"], 0, channels_last)
    load_parts(model, validated_weights(state), path)
    return model.eval(), dict(state)


def parts(model: RoiModel) -> dict[str, dict[str, Tensor]]:
    """The weights and statistics of a model; the tensors are its own."""
    mask_net = {} if model.mask_net is None else model.mask_net.state_dict()
    own = {"model": model.backbone.state_dict(), "mask_net": mask_net, "view_norms": model.view_norms.state_dict()}
    if model.fusion is not None:
        own["fusion"] = model.fusion.state_dict()
    return own


def validated_weights(state: Checkpoint) -> Checkpoint:
    """The checkpoint with the weights that were validated: averages (--ema, map_average), else its own."""
    return cast(Checkpoint, {**state, **state.get("average", {})})


def load_parts(model: RoiModel, state: Checkpoint, path: str | Path) -> None:
    """Give a model the weights of a checkpoint.

    Raises:
        UserError: they do not fit
    """
    # Checked before torch does, whose message names every tensor.
    pairs = [(model.backbone, state["model"])]
    if model.mask_net is not None:
        pairs.append((model.mask_net, state["mask_net"]))
    if model.fusion is not None:
        pairs.append((model.fusion, state.get("fusion", {})))
    # Older checkpoints have no statistics of the crop and the drop view.
    pairs.append((model.view_norms, state.get("view_norms") or model.view_norms.state_dict()))
    for module, weights in pairs:
        wrong = misfits(module.state_dict(), weights)
        if wrong:
            raise UserError(f"{path}: its weights do not fit its own description ({'; '.join(wrong[:3])})")
        module.load_state_dict(weights)


def same_flags(state: Checkpoint, flags: dict[str, Any], path: str | Path) -> None:
    """UserError unless a checkpoint was trained with the same flags, where they matter."""
    if "optimizer" not in state:
        raise UserError(f"{path}: holds a model but no training state; resume from the checkpoint that --save names")
    if "before_masks" not in state:
        raise UserError(
            f"{path}: is of an older version, whose objective and batch statistics differ; finish it there, "
            "or give another --save"
        )
    of_studies = "fusion" in state["args"]
    if of_studies != ("fusion" in flags):
        kind, script = ("studies", "another train script") if of_studies else ("images", "train_multiview.py")
        raise UserError(f"{path}: is a model of {kind}, which {script} cannot go on with; give another --save")
    free = FREE
    if state["args"].get("schedule") in ("cosine", "onecycle"):
        # These curves end with the last epoch.
        free = FREE - {"epochs"}
    added = {name: default for name, default in ADDED.items() if name in flags}
    for name, old in (added | state["args"]).items():
        if name not in free and flags.get(name) != old:
            flag = "batch_size times the number of processes" if name == "together" else name
            raise UserError(
                f"{path}: was trained with --{flag} {old}, now {flags.get(name)}; give the old value, or another --save"
            )


def same_rows(state: Checkpoint, meta: Checkpoint, path: str | Path) -> None:
    """UserError unless a checkpoint was made from the same images in the same order, with the same labels."""
    # Older checkpoints do not name the images of validation.
    pairs = (
        ("trained", state["train_images"], meta["train_images"]),
        ("validated", state.get("val_images", meta["val_images"]), meta["val_images"]),
    )
    for verb, old, new in pairs:
        if torch.equal(old, new):
            continue
        if torch.equal(old.sort().values, new.sort().values):
            raise UserError(
                f"{path}: was {verb} on the same {len(old):,} images in another order, so that batches would differ; "
                "give the rows in the old order, or another --save"
            )
        raise UserError(
            f"{path}: was {verb} on other images ({len(old):,}, now {len(new):,}); "
            "give the same tables, or another --save"
        )
    if state["labels"] != meta["labels"]:
        old_names, new_names = ", ".join(state["classes"]), ", ".join(meta["classes"])
        which = f" (classes {old_names}; now {new_names})" if old_names != new_names else ""
        raise UserError(
            f"{path}: was trained with other classes, labels or validation images{which}; "
            "give the same tables, or another --save"
        )


def versions() -> dict[str, str]:
    """Of this project, and of what it computes with."""
    return {
        "roi": __version__,
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def identity(state: Checkpoint) -> str:
    """Which weights a checkpoint holds; of an export that of the checkpoint that it was made of."""
    return state.get("identity") or digest(*(value.float().numpy() for value in state["model"].values()))


def is_untrained(state: Mapping[str, Any]) -> bool:
    """Whether nothing was learned yet: a training writes its checkpoint before its first step.

    What began from another checkpoint has its weights.
    """
    return not (state["epoch"] or state.get("steps") or state.get("begun_from"))


def digest(*things: Any) -> str:
    """One hash of lists of names and arrays."""
    state = hashlib.blake2b(digest_size=16)
    for thing in things:
        data = thing.tobytes() if isinstance(thing, np.ndarray) else "\n".join(thing).encode()
        state.update(data)
    return state.hexdigest()


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The global generators that dropout and stochastic depth draw from."""
    return {"cpu": torch.get_rng_state()} | accelerator.of(device).rng_state()


def restore_rng(states: list[dict[str, Tensor]], device: torch.device) -> None:
    """A resumed run goes on drawing where it stopped: the one place that sets the global generators.

    Args:
        states: one a process; where their number changed, dropout draws anew from the script's seed
    """
    # A generator belongs to one process and its part of the batches.
    if len(states) != distributed.world():
        return
    state = states[distributed.rank()]
    torch.set_rng_state(state["cpu"])
    accelerator.of(device).set_rng_state(state)
