"""A training run: epoch after epoch, its validation, its log and its checkpoints, and how it goes on after any end."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roi import distributed
from roi.data.dataset import Batch, check_batches, note_constant, note_unreadable
from roi.data.images import UnreadableImageError
from roi.data.loader import FileLoader
from roi.data.order.blocks import kept_order
from roi.data.sampler import ShardedBatchSampler
from roi.errors import UserError
from roi.losses.gradnorm import FixedWeights
from roi.losses.loss_terms import TERMS
from roi.models.roi_model import RoiModel
from roi.progress import progress, say
from roi.training import checkpoint
from roi.training.checkpoint import Checkpoint
from roi.training.device import explain_error
from roi.training.loop import LossesFn, Meter, Step, StepBackup, predict, train_one_epoch
from roi.training.mask_controls import MaskControls
from roi.training.mask_verdict import complaints, lost_skill
from roi.training.metrics_log import MetricsLog
from roi.training.optim import EMA, Schedule, batch_norms
from roi.training.preflight.forecast import Forecast
from roi.training.stop import Stop, Stopped
from roi.training.validation import Logits, concatenate, gather, validation_scores

# What torch says of a batch norm that sees one image and one cell.
NORM_OF_ONE = "more than 1 value per channel"
# Seconds between looks at the numbers of a GPU.
REFRESH = 1.0


@dataclass
class TrainingRun:
    """A training run: what it trains on, with what, and where it writes. `meta` goes into the checkpoint as it is."""

    model: RoiModel
    train_loader: Iterable[Batch]
    sampler: ShardedBatchSampler
    val_loader: Iterable[Batch] | None
    classes: list[str]
    losses_fn: LossesFn
    balance: FixedWeights
    optimizer: torch.optim.Optimizer
    device: torch.device
    dtype: torch.dtype
    epochs: int
    accum_steps: int
    names: Callable[[Tensor], list[str]]  # rows of the table -> image names
    log: MetricsLog
    save: Path
    meta: Checkpoint
    skip_unreadable: bool = False
    unit: str = "image"  # what a batch counts
    # The epoch from which the best one is looked for, counted from 1: the first with masks.
    first_best: int = 1
    # Of the validation rows every so manieth meets the controls of the mask, in each epoch with masks; 0: none.
    mask_every: int = 0
    # Their pixels, where val_loader gives features: looked at in the last epoch alone.
    mask_loader: Iterable[Batch] | None = None
    save_every_steps: int = 0  # 0: at the end of an epoch alone
    datasets: np.ndarray | None = None  # (N,) data set of each validation row, where there are several
    schedule: Schedule = None  # type: ignore[assignment]  # constant, where none is given
    # What is validated, and saved as the best.
    average: EMA | None = None
    # Whether validation counts right and wrong ones as well.
    decisions: bool = False
    # Epochs without a better val_auroc after which it stops; 0: never.
    patience: int = 0
    epoch: int = 0  # finished epochs
    steps: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    # The best val_auroc of the epochs before first_best.
    before_masks: float = -math.inf
    unreadable: set[str] = field(default_factory=set)  # path and reason
    # Paths of images without anything to see.
    constant: set[str] = field(default_factory=set)
    constant_noted: int = 0  # how many of them the user was told of
    # Opens the files of the run, once signals are answered by a checkpoint.
    begin: Callable[[], None] | None = None
    forecast: Forecast | None = None  # of the process that says it
    saved: int = 0  # steps in the checkpoint
    # What `save` holds, so that the one before it stays.
    damaged: bool = False

    def __post_init__(self) -> None:
        # bf16 and fp32 have the range of fp32: their gradients need no scale.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.meter = Meter(self.names)
        self.schedule = self.schedule or Schedule(self.optimizer)

    def resume(self, state: Checkpoint) -> None:
        """Go on from a checkpoint: mid-epoch if it was taken there.

        On a CPU the result equals an uninterrupted run bit for bit.
        """
        checkpoint.load_parts(self.model, state, self.save)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average:
            self.average.load(state["average"])
        self.balance.load_state_dict(state["balance"])
        self.epoch, self.steps = state["epoch"], state["steps"]
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.before_masks = state["before_masks"]
        self.saved, self.damaged = self.steps, "fell_back" in state
        self.sampler.start = state["batch"]
        # A cache that was made anew lies in another order, and this machine may have another memory.
        self.sampler.blocks = kept_order(self.sampler.blocks, state.get("blocks"))
        # The sums are those of all processes: the first one goes on with them.
        sums = state["meter"] if distributed.rank() == 0 else {}
        self.meter = Meter(self.names, **sums)
        self.unreadable = set(state["unreadable"])
        checkpoint.restore_rng(state["rng"], self.device)

    def run(self) -> int:
        """Train what is left.

        Returns:
            the exit code: 0, or 128 + signal when stopped (the checkpoint then goes on from there)
        """
        self.step = distributed.wrap_ddp(Step(self.model, self.losses_fn))
        self.backup = StepBackup(self.model, self.optimizer, self.balance, self.device)
        self.statistics = self._statistics()
        try:
            with Stop() as stop:
                if self.begin:
                    self.begin()
                    self.begin = None  # it knows this run: a circle
                while self.epoch < self.epochs and not self.done_early():
                    if not self._one_epoch(stop):
                        return 128 + stop.signal
        except UnreadableImageError as error:  # the steps before it are good
            raise UnreadableImageError(f"{error}. {self.save_if_new()}; then go on with --resume auto") from error
        except ValueError as error:
            if NORM_OF_ONE not in str(error):
                raise
            raise UserError(
                "batch norm needs at least two images a process in each batch; give a larger --batch_size, "
                "or more training images"
            ) from error
        except (RuntimeError, MemoryError) as error:
            failed = explain_error(error, f"epoch {self.epoch + 1}, batch {self.sampler.start}")
            raise type(failed)(f"{failed}. {self.save_if_new()}; go on with --resume auto") from error
        finally:
            self.backup.close()
            # Workers outlive a run that ends by an error, and hold the memory of their batches.
            for loader in (self.train_loader, self.val_loader, self.mask_loader):
                if isinstance(loader, FileLoader):
                    loader.close()
        if self.epoch < self.epochs:
            epochs = self._epochs_without_better()
            say(f"no better val_auroc in {epochs} epochs: stopped after epoch {self.epoch}{self.which_is_best()}")
        return 0

    def _statistics(self) -> list[Tensor]:
        """Those of batch norm: each process has seen its own images, one set is validated and saved."""
        buffers: list[Tensor | None] = []
        for norm in batch_norms(self.model):
            buffers += [norm.running_mean, norm.running_var]
        buffers += self.model.view_norms.buffers()
        return [values for values in buffers if values is not None and values.is_floating_point()]

    def _one_epoch(self, stop: Stop) -> bool:
        """Train, validate, log and save; False when stopped before the end, with a checkpoint from there."""
        scores = None
        with suppress(Stopped):
            if self._train(stop):
                scores = self.validate(stop)
        if scores is not None:
            self._finish_epoch(scores)
            return True
        self.save_checkpoint()
        say(f"stopped after {self.where()}; saved {self.save}; go on with the same command and --resume auto")
        return False

    def _epochs_without_better(self) -> int:
        return self.epoch - max(self.best_epoch, self.first_best - 1)

    def done_early(self) -> bool:
        # In the middle of an epoch (a run that is resumed) the epoch is finished first.
        if not self.patience or self.sampler.start:
            return False
        return self._epochs_without_better() >= self.patience

    def which_is_best(self) -> str:
        if not self.best_epoch:
            return ""
        return f"; the best is epoch {self.best_epoch}, {self.best:.4f}, in {checkpoint.best_path(self.save)}"

    def where(self) -> str:
        if self.sampler.start:
            return f"epoch {self.epoch + 1}, batch {self.sampler.start}"
        return f"epoch {self.epoch}"

    def _train(self, stop: Stop) -> bool:
        """The rest of the epoch; False when stopped before its end."""
        self.sampler.epoch = self.epoch
        began, seconds_before, last_look, stopped = perf_counter(), self.meter.seconds, 0.0, 0
        title = f"epoch {self.epoch + 1}/{self.epochs}"
        with progress(None, self.sampler.rows, title, self.unit, self.meter.images) as bar:
            batches = check_batches(
                stop.before_each(self.train_loader), self.skip_unreadable, self.unreadable, self.constant
            )
            self.backup.take(self.meter)
            for taken in train_one_epoch(
                self.step,
                batches,
                self.epoch,
                self.balance,
                self.optimizer,
                self.scaler,
                self.meter,
                self.device,
                self.dtype,
                self.accum_steps,
                self.sampler.shares,
            ):
                self._after_step(taken)
                self.meter.seconds = seconds_before + perf_counter() - began
                # A look waits for the GPU, so that it is not taken after each step there.
                if self.device.type == "cpu" or self.meter.seconds - last_look > REFRESH:
                    last_look = self.meter.seconds
                    self.meter.flush()
                    bar.set_postfix(loss=f"{self.meter.means().get('loss', math.nan):.4f}", refresh=False)
                    bar.update(self.meter.images * distributed.world() - bar.n)
                if stopped := stop.agreed():
                    break
                if self.save_every_steps and self.steps % self.save_every_steps == 0:
                    self.save_checkpoint()
                self.backup.take(self.meter)
        self.meter.flush()
        if not self.meter.images and not stopped and distributed.world() == 1:
            raise UserError("no training image could be read; see --skip_unreadable")
        return not stopped

    def _after_step(self, batches: int) -> None:
        """Count an optimiser step of so many batches, and let what follows the weights follow."""
        self.sampler.start += batches
        self.steps += 1
        distributed.average(self.statistics)
        self.schedule.step()
        if self.average:
            self.average.update(self.steps)
        if self.forecast:
            self.forecast.after_step(self.epoch, self.steps)

    def validate(self, stop: Stop) -> dict[str, float] | None:
        """The scores of the full view of every validation image once (validation.validation_scores).

        With those of the mask's controls in an epoch that has masks. {} without validation, None when stopped.
        """
        if self.val_loader is None:
            return {}
        found: list[Logits] = []
        controls = self._mask_controls()
        batches = check_batches(stop.before_each(self.val_loader), self.skip_unreadable, self.unreadable, self.constant)
        # Of a run with averages they are what users get.
        with self.average.within() if self.average else nullcontext():
            for batch, views in predict(
                self.model, batches, self.device, self.dtype, 1.0, lambda index: None, full_only=True
            ):
                if len(batch.index):
                    found.append(Logits(views.logits_full, batch.target, batch.index))
                    if controls and self.mask_loader is None:
                        controls.add(batch)
                if distributed.world() == 1 and stop.signal:
                    return None
            if controls and self.mask_loader is not None:
                for batch in check_batches(stop.before_each(self.mask_loader), self.skip_unreadable, self.unreadable):
                    controls.add(batch)
        logits, stop.signal = gather(concatenate(found), stop.signal)
        if stop.signal:
            return None
        if not len(logits.rows):
            raise UserError("no validation image could be read; see --skip_unreadable")
        scores = validation_scores(logits, self.classes, self.datasets, self.decisions)
        if controls:
            scores |= controls.figures(self.classes)
        return scores

    def _mask_controls(self) -> MaskControls | None:
        """What the mask of this epoch is held against; None in an epoch without masks, or without their pixels."""
        epoch = self.epoch + 1
        if not self.mask_every or epoch < self.first_best:
            return None
        if self.mask_loader is not None and epoch < self.epochs:
            return None
        return MaskControls(self.model, self.meta["args"]["keep_ratio"], self.device, self.dtype, self.mask_every)

    def _finish_epoch(self, scores: dict[str, float]) -> None:
        """Metrics row first, then the checkpoint: a run killed in between does the epoch again and drops the row."""
        meter = self.meter.of_all()
        self.epoch += 1
        self.sampler.start = 0
        self.meter = Meter(self.names)
        self.log.row(self._metrics(meter, scores))
        # NaN is never better: without a score no epoch is the best.
        score = scores.get("val_auroc", math.nan)
        better = score > self.best and self.epoch >= self.first_best
        if better:
            self.best, self.best_epoch = score, self.epoch
        if self.epoch >= self.first_best:
            self.schedule.epoch(score)
            for line in complaints(scores) + lost_skill(score, self.before_masks):
                say(f"warning: {line}")
        elif not math.isnan(score):
            self.before_masks = max(self.before_masks, score)
        # Each process has read its own images.
        constant = set().union(*distributed.all_gather_objects(self.constant))
        if distributed.rank() == 0:
            note_unreadable(self.unreadable, self.save)
            if len(constant) > self.constant_noted:
                note_constant(constant, self.save)
                self.constant_noted = len(constant)
            if better:
                self._save_best(score)
        self.save_checkpoint()

    def _metrics(self, meter: Meter, scores: dict[str, float]) -> dict[str, Any]:
        """The row of the metrics CSV for the epoch that has just ended."""
        row: dict[str, Any] = {"epoch": self.epoch, "steps": self.steps}
        for name, value in meter.means().items():
            # What is no term says how it went: the whole loss, mask_mean and the like.
            row[f"loss_{name}" if name in TERMS else name] = value
        for name, weight in self.balance.weights.items():
            row[f"w_{name}"] = float(weight)
        for name, value in scores.items():
            if not math.isnan(value):
                row[name] = value
        row["lr"] = self.schedule.used
        row["images_per_s"] = meter.images / max(meter.seconds, 1e-9)
        row["seconds"] = meter.seconds
        row["contaminated"] = int(self.meta["contaminated"])
        return row

    def save_if_new(self) -> str:
        """Save the steps since the last checkpoint, after an error; says what became of them.

        In one process: several do not stand at the same step when one of them fails. What the step that failed has
        changed is taken back, so that a resumed run is the one that nothing happened to.
        """
        if self.steps > self.saved and distributed.world() == 1 and self.backup.restore():
            try:
                self.save_checkpoint()
            except RuntimeError:  # nothing can be read from a GPU any more
                return f"{self.save} is as it was"
        if self.saved != self.steps:
            return f"{self.save} is as it was"
        return f"Saved {self.save} after {self.where()}"

    def _save_best(self, score: float) -> None:
        # What was validated is what is saved.
        weights = checkpoint.parts(self.model) | (self.average.parts if self.average else {})
        best = {**self.meta, **weights, "epoch": self.epoch, "val_auroc": score, "hours": self.log.hours()}
        checkpoint.save(checkpoint.best_path(self.save), best)

    def save_checkpoint(self) -> None:
        """All processes together; process 0 writes. The checkpoint before it stays as previous_path(save)."""
        self.meter.flush()
        meter = self.meter.of_all()
        rng = distributed.all_gather_objects(checkpoint.rng_state(self.device))
        if distributed.rank() == 0:
            state: dict[str, Any] = {
                **self.meta,
                **checkpoint.parts(self.model),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "balance": self.balance.state_dict(),
                "batch": self.sampler.start,
                **{name: getattr(self, name) for name in ("epoch", "steps", "best", "best_epoch", "before_masks")},
                "schedule": self.schedule.state_dict(),
                "meter": meter.state_dict(),
                "unreadable": sorted(self.unreadable),
                "rng": rng,
                "log": self.log.lines,
            }
            if self.average:
                state["average"] = self.average.parts
            if self.sampler.blocks:
                state["blocks"] = self.sampler.blocks.state_dict()
            # A damaged file must not take the place of the good one before it.
            keep = checkpoint.previous_path(self.save) if self.saved and not self.damaged else None
            checkpoint.save(self.save, state, keep)
        self.saved, self.damaged = self.steps, False
