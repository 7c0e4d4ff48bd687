"""What a run begins from: nothing, its own checkpoint, or the checkpoint of the stage before."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from roi.data.identity import trained_on
from roi.errors import UserError
from roi.files import refuse_existing
from roi.models import exported
from roi.models.roi_model import RoiModel
from roi.models.weights import read_tensors
from roi.text import counted
from roi.training import checkpoint
from roi.training.checkpoint import Checkpoint, best_path, val_path
from roi.training.metrics_log import has_no_row
from roi.training.rows import Rows


@dataclass(frozen=True)
class StartFlags:
    """The flags that say where a run begins, and which files it writes."""

    save: str
    resume: str | None
    stage: int | None  # of a recipe in stages
    backbone: str
    log_csv: str | None
    val_csv: str | None
    overwrite: bool

    @property
    def path(self) -> Path:
        """The checkpoint that --resume means."""
        return Path(self.save if self.resume in (None, "auto") else self.resume)

    def refuse_existing(self, *more: Path) -> None:
        """Nothing that is there is replaced unless --overwrite says so."""
        save = Path(self.save)
        held_out = None if self.val_csv else val_path(save)
        log = None if self.log_csv and has_no_row(self.log_csv) else self.log_csv
        refuse_existing(*more, best_path(save), log, held_out, overwrite=self.overwrite)


@dataclass(frozen=True)
class Start:
    """What a run begins from; neither: from the first weights."""

    # Of the checkpoint, for messages.
    path: Path
    # The run itself, that goes on.
    resumed: Checkpoint | None = None
    # The weights of a finished run, for --stage 2.
    stage_before: Checkpoint | None = None

    @property
    def checkpoint(self) -> Checkpoint | None:
        return self.resumed or self.stage_before

    @property
    def weights(self) -> Checkpoint | None:
        """The same with the weights to begin with: of a finished run those that were validated."""
        if self.stage_before:
            return checkpoint.validated_weights(self.stage_before)
        return self.resumed

    def say_resumed(self, epoch: int, epochs: int, batches: int) -> None:
        """On the console: what the run has behind it, epochs and batches of the next one."""
        more = f", and {batches} batches of the next" if batches else ""
        print(f"resumed {self.path}: {epochs_done(epoch, epochs)}{more}")

    @property
    def begun_from(self) -> str | None:
        """Identity of the weights of stage 1, from which stage 2 began."""
        if self.stage_before:
            return checkpoint.identity(self.stage_before)
        return self.resumed.get("begun_from") if self.resumed else None


def epochs_done(done: int, epochs: int) -> str:
    """What a run that goes on has behind it, in words."""
    if done > epochs:
        return f"{counted(done, 'epoch')} are done, more than --epochs {epochs} asks for"
    return f"{done} of {counted(epochs, 'epoch')} {'is' if epochs == 1 else 'are'} done"


def find_start(flags: StartFlags) -> Start:
    """Look for the checkpoint to begin from.

    Raises:
        UserError: there is none where one is asked for, or a file would be replaced without --overwrite
    """
    save = Path(flags.save)
    # With --resume auto stage 2 goes on as any run does, once it has a checkpoint.
    if flags.stage == 2 and not (flags.resume == "auto" and save.exists()):
        before = stage_before(flags)
        if before is not None and not has_begun(flags, before):
            flags.refuse_existing()
            return Start(flags.path, stage_before=before)
        if before is not None:
            return Start(save, resumed=checkpoint.load_last_good(save))
    return Start(flags.path, resumed=resumed(flags))


def resumed(flags: StartFlags) -> Checkpoint | None:
    """The checkpoint that a run goes on from, its own or one of another name; None: it starts anew."""
    save, path = Path(flags.save), flags.path
    if flags.resume and (flags.resume != "auto" or path.exists()):
        # Only a checkpoint that this run wrote has one before it.
        state = checkpoint.load_last_good(path) if flags.resume == "auto" else checkpoint.load(path)
        if path.resolve() != save.resolve():  # goes on under another name
            flags.refuse_existing(save)
        return state
    if save.exists() and not flags.overwrite:
        raise UserError(
            f"{save} exists; go on from it with --resume auto, replace it with --overwrite, or choose another --save"
        )
    flags.refuse_existing()
    return None


def stage_before(flags: StartFlags) -> Checkpoint | None:
    """The checkpoint of stage 1 that --stage 2 begins from; None where --resume names one of stage 2, that goes on."""
    if flags.resume in (None, "auto"):
        raise UserError("--stage 2 goes on from stage 1: give its checkpoint with --resume CKPT, and another --save")
    path, save = flags.path, Path(flags.save)
    state = checkpoint.load(path)
    if state["args"].get("stage") == 2:
        return None
    if state["args"].get("stage") != 1:
        raise UserError(
            f"--resume {path}: was not trained by --recipe staged_resnet50 --stage 1, from which --stage 2 goes on; "
            "--weights takes any model"
        )
    backbone = state["args"]["backbone"]
    if backbone != flags.backbone:
        raise UserError(f"--resume {path}: is a {backbone}, not a {flags.backbone}; give the --backbone of stage 1")
    # It would be overwritten by its own successor.
    if path.resolve() in (save.resolve(), best_path(save).resolve()):
        raise UserError(f"--save {save} is stage 1 itself; give --stage 2 another name")
    return state


def has_begun(flags: StartFlags, before: Checkpoint) -> bool:
    """Whether --save holds a stage 2 that began from this stage 1: the same command again goes on with it."""
    save = Path(flags.save)
    if not save.exists() or flags.overwrite:
        return False
    if checkpoint.load(save).get("begun_from") != checkpoint.identity(before):
        raise UserError(
            f"--save {save} exists and did not begin from {flags.path}; choose another name, "
            "or replace it with --overwrite"
        )
    return True


def load_weights(model: RoiModel, meta: Checkpoint, start: Start) -> None:
    """Give the model the weights of the stage before, and note in `meta` which they are."""
    begun_from = start.begun_from
    if begun_from:
        meta["begun_from"] = begun_from
    if start.stage_before and start.weights:
        checkpoint.load_parts(model, start.weights, start.path)
        print(f"stage 2 begins from {start.path}, epoch {start.stage_before['epoch']}")


def pretrained(weights: str, new_head: bool, start: Start) -> Checkpoint | None:
    """The checkpoint of this project that --weights names; None: it names something else, or is not begun from.

    Raises:
        UserError: --new_head, and there is none
    """
    if start.checkpoint:
        return None
    # Those of others name no images that they have seen.
    path = exported.file_of(weights)
    if weights not in ("imagenet", "none") and path.is_file():
        # What is wrong with a file is said by what takes its weights.
        with suppress(UserError):
            header = exported.read_header(path)
            state = read_tensors(path) if header is None else exported.read_checkpoint(path, header)
            if isinstance(state, dict) and {"mask_net", "train_images", "train_patients"} <= state.keys():
                _say_what_is_taken(weights, state)
                return cast(Checkpoint, state)
    if new_head:
        raise UserError(
            f"--new_head with --weights {weights}: there is no head of a training to begin anew; give --weights CKPT"
        )
    return None


def _say_what_is_taken(weights: str, state: Mapping[str, Any]) -> None:
    """On the console, what nobody would guess of a checkpoint that --weights names."""
    # Older checkpoints may lack a key.
    if "epoch" in state and checkpoint.is_untrained(state):
        print(f"WARNING: --weights {weights} was never trained (epoch 0, step 0): it is what its training began with")
    if "fusion" in state.get("args", {}):
        print(f"--weights {weights} is a model of studies: its backbone is taken, its fusion is not")


def remember_seen(meta: Checkpoint, before: Checkpoint | None) -> None:
    """Add to what a checkpoint says of its run the patients that its first weights had learned from.

    Predictions of them are no test either.
    """
    if before is None:
        return
    own = meta["train_patients"]
    # Each once and in one order, however often the run was stopped.
    both = torch.cat([own, before["train_patients"]]).unique()
    if len(both) > len(own):
        meta["train_patients"] = both
        if "train_sets" in meta and "train_sets" in before:
            meta["train_sets"] = torch.cat([meta["train_sets"], before["train_sets"]]).unique()
            meta["synthetic"] = meta["synthetic"] and before["synthetic"]


def say_seen_before(flag: str, before: Checkpoint | None, rows: Rows, image_root: str) -> None:
    """Warn where the first weights have learned from patients who are to validate the run.

    Args:
        flag: which names them
    """
    if before is None or rows.val is None:
        return
    seen = int(trained_on(before, rows.val, image_root).seen.sum())
    if seen:
        print(
            f"WARNING: {flag} was trained on the patients of {seen:,} of {len(rows.val):,} validation images: "
            "val_auroc is too high, and the best epoch is not the best; split both trainings alike (--val_csv)"
        )
