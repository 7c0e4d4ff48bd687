"""Checkpoints: plain dicts of tensors and numbers, written whole, read without running code from them."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from roi import distributed
from roi.data.patients import named_patients
from roi.data.table import image_keys, patients_from_names
from roi.errors import UserError
from roi.files import atomic_write, reason
from roi.models.roi_model import RoiModel, model_from_args
from roi.models.weights import misfits, read_tensors

NEEDED = ("model", "mask_net", "classes", "args", "epoch", "contaminated", "train_images", "train_patients", "versions")
DESCRIBES = ("backbone", "mask", "img_size", "mask_per_class", "fill", "keep_ratio")  # the model, of its `args`
FREE = {  # flags that may differ between the run that stopped and the one that goes on: they do not change the result
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
    "cache_dir",
    "cache_on_device",
    "compile",
    "checkpoint_activations",
    "save_every_steps",
    "batch_size",
    "world",  # their product is `together`
    "recipe",
    "augment",  # what they stand for may not
    "print_config",
    "test",
    "checkpoint",
    "test_csv",
    "test_out",
    "max_test_samples",
}


def save(path: str | Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Write a checkpoint, whole or not at all; the one that it replaces is then called `keep`. UserError when the disk is full."""
    path = Path(path)
    try:
        with atomic_write(path, "wb", keep) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer has errors of its own
        raise UserError(
            f"{path}: cannot be written ({reason(error)}); make room, then --resume auto: the checkpoint before it is as it was"
        ) from error


def load(path: str | Path) -> dict[str, Any]:
    """-> the dict that `save` wrote, on the CPU. UserError for anything else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch does not look at its checksums
                changed = archive.testzip()
            if changed:
                raise zipfile.BadZipFile(f"{changed} is not as it was written")
        state = read_tensors(path)
    except UserError as error:
        what = str(error).removeprefix(f"{path}:")
        raise UserError(f"{path}: not a checkpoint, or a damaged one (it{what})") from error
    except Exception as error:  # a damaged archive has errors of its own
        raise UserError(f"{path}: not a checkpoint, or a damaged one ({reason(error)})") from error
    missing = [key for key in NEEDED if not isinstance(state, dict) or key not in state]
    if missing:
        tensors = isinstance(state, dict) and any(isinstance(value, torch.Tensor) for value in state.values())
        what = "weights alone: training begins from them with --weights" if tensors else f"it has no {missing[0]!r}"
        raise UserError(f"{path}: not a checkpoint of this project ({what})")
    return state


def load_model(path: str | Path, channels_last: bool = True) -> tuple[RoiModel, dict[str, Any]]:
    """-> (model in eval mode, on the CPU, the checkpoint). The file says which backbone, mask and classes; of a run with --ema it is the average."""
    state = load(path)
    undescribed = [name for name in DESCRIBES if name not in state["args"]]
    if undescribed:
        raise UserError(f"{path}: does not say how its model is built (its args have no {undescribed[0]!r})")
    model = model_from_args(state["args"], state["classes"], 0, channels_last)
    load_parts(model, state | state.get("average", {}), path)
    return model.eval(), state


def parts(model: RoiModel) -> dict[str, Any]:
    mask_net = {} if model.mask_net is None else model.mask_net.state_dict()
    return {"model": model.backbone.state_dict(), "mask_net": mask_net, "view_norms": model.view_norms.state_dict()}


def load_parts(model: RoiModel, state: dict[str, Any], path: str | Path) -> None:
    pairs = [(model.backbone, state["model"])]
    if model.mask_net is not None:
        pairs.append((model.mask_net, state["mask_net"]))
    pairs.append((model.view_norms, state.get("view_norms") or model.view_norms.state_dict()))
    for module, weights in pairs:
        wrong = misfits(module.state_dict(), weights)
        if wrong:
            raise UserError(f"{path}: its weights do not fit its own description ({'; '.join(wrong[:3])})")
        module.load_state_dict(weights)


def same_flags(state: dict[str, Any], args: dict[str, Any], path: str | Path) -> None:
    """UserError unless a checkpoint was trained with the same flags, where they matter."""
    if "optimizer" not in state:
        raise UserError(f"{path}: holds a model but no training state; resume from the checkpoint that --save names")
    if "before_masks" not in state:
        raise UserError(
            f"{path}: is of an older version, whose objective and batch statistics differ; finish it there, or give another --save"
        )
    free = (
        FREE - {"epochs"} if state["args"].get("schedule") in ("cosine", "onecycle") else FREE
    )  # they end with the last one
    for name, old in state["args"].items():
        if name not in free and args.get(name) != old:
            flag = "batch_size times the number of processes" if name == "together" else name
            raise UserError(
                f"{path}: was trained with --{flag} {old}, now {args.get(name)}; give the old value, or another --save"
            )


def same_rows(state: dict[str, Any], meta: dict[str, Any], path: str | Path) -> None:
    """UserError unless a checkpoint was made from the same images in the same order, with the same labels."""
    for key, verb in (("train_images", "trained"), ("val_images", "validated")):
        old, new = state.get(key, meta[key]), meta[key]  # older checkpoints do not name the images of validation
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
        old, new = ", ".join(state["classes"]), ", ".join(meta["classes"])
        which = f" (classes {old}; now {new})" if old != new else ""
        raise UserError(
            f"{path}: was trained with other classes, labels or validation images{which}; "
            "give the same tables, or another --save"
        )


def identity(state: dict[str, Any]) -> str:
    """Which weights a checkpoint holds."""
    return digest(*(value.float().numpy() for value in state["model"].values()))


def digest(*things: Any) -> str:
    """One hash of lists of names and arrays."""
    state = hashlib.blake2b(digest_size=16)
    for thing in things:
        state.update(thing.tobytes() if isinstance(thing, np.ndarray) else "\n".join(thing).encode())
    return state.hexdigest()


def fingerprints(images: Sequence[str]) -> torch.Tensor:
    """Names -> (N,) int64: what a checkpoint remembers of the images it was trained on."""
    return torch.from_numpy(
        np.frombuffer(
            b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in images), dtype=np.int64
        ).copy()
    )


def is_contaminated(state: dict[str, Any], table: pd.DataFrame) -> np.ndarray:
    """Was the checkpoint trained on the image, or on another image of its patient?

    Args:
        table: with the columns image and patient_id, as read_table gives them

    Returns:
        (N,) bool
    """
    seen = np.isin(fingerprints(image_keys(table["image"]).tolist()), state["train_images"])
    for names in (table["patient_id"], named_patients(table)):
        seen |= np.isin(fingerprints(names.tolist()), state["train_patients"])
    # A patient of whom one image is known to be trained on is known by that.
    return table["patient_id"].isin(table["patient_id"][seen]).to_numpy()


def trained_on_file(state: dict[str, Any], path: Path) -> bool:
    """As trained_on, for a file that no table names: a table may have named it by any end of its path."""
    parts = path.absolute().parts[1:]
    names = pd.Series(["/".join(parts[n:]) for n in range(len(parts))], dtype=str)
    return bool(is_contaminated(state, pd.DataFrame({"image": names, "patient_id": patients_from_names(names)})).any())


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The global generators that dropout and stochastic depth draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_rng(states: list[dict[str, torch.Tensor]], device: torch.device) -> None:
    """A resumed run goes on drawing where it stopped: the one place that sets the global generators. One state a process; where their
    number changed, dropout draws anew from the script's seed."""
    if len(states) != distributed.world():
        return
    state = states[distributed.rank()]
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
