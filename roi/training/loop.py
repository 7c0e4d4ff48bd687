"""The one loop of every train script: train_one_epoch, predict, fit. It never knows which system it trains.

A script hands in two functions: losses_fn(model, batch, epoch) -> {name: scalar} and balance({name: scalar}) -> scalar
(fixed weights or GradNorm). Letters: B images of a batch, K classes.
"""

import ctypes
import itertools
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from roi import distributed
from roi.data.dataset import Batch, check_batches, note_constant, note_unreadable
from roi.data.images import UnreadableImage
from roi.data.loader import FileLoader
from roi.data.sampler import ShardedBatchSampler, Share
from roi.errors import RunError, UserError
from roi.files import reason
from roi.losses.gradnorm import FixedWeights
from roi.losses.terms import bce
from roi.models.roi_model import RoiModel, Views
from roi.progress import progress, say
from roi.scoring.metrics import validation_aurocs, validation_decisions
from roi.training import checkpoint
from roi.training.mask_controls import MaskControls
from roi.training.mask_verdict import complaints
from roi.training.metrics_log import TERMS, MetricsLog
from roi.training.optim import EMA, Schedule, batch_norms

NORM_OF_ONE = "more than 1 value per channel"  # what torch says of a batch norm that sees one image and one cell
LossesFn = Callable[[RoiModel, Batch, int], dict[str, Tensor]]
REFRESH = 1.0  # seconds between looks at the numbers of a GPU
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Stopped(BaseException):
    """A signal came while the main process waited for a batch: it stands between two steps."""


class Stop:
    """SIGTERM or Ctrl-C asks for a stop at the next safe place; the second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal = 0
        self.waiting = False  # for a batch
        self.steps = self.every = 1  # several processes agree after every `every` steps, about once a second
        self.began = time.perf_counter()

    def __enter__(self) -> "Stop":
        self.before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        say("stopping after this step; the checkpoint will be saved")
        if self.waiting:
            self.waiting = False
            raise Stopped

    def before_each(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches. A signal ends the wait for the next one (Stopped), however long a disk or a worker hangs.

        Not with several processes: they stop after the same step.
        """
        source = iter(batches)
        while True:
            self.waiting = distributed.world() == 1
            try:
                if self.waiting and self.signal:
                    raise Stopped
                batch = next(source, None)
            finally:
                self.waiting = False
            if batch is None:
                return
            yield batch

    def agreed(self) -> int:
        """The signal, the same one on all processes at the same step; 0 while none came."""
        if distributed.world() == 1:
            return self.signal
        self.steps -= 1
        if self.steps > 0:
            return 0
        rate = self.every / max(time.perf_counter() - self.began, 1e-3)
        told = distributed.all_gather_objects((self.signal, rate))
        self.signal = max(number for number, _ in told)
        self.steps = self.every = max(1, int(min(rate for _, rate in told)))
        self.began = time.perf_counter()
        return self.signal


@dataclass
class Meter:
    """Means over the images of an epoch. The numbers stay on their device until `look`: no step waits for them."""

    names: Callable[[Tensor], list[str]]  # rows of the table -> image names, for the error
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    unseen: list[tuple[list[str], Tensor, Tensor, int]] = field(
        default_factory=list
    )  # terms, their values, rows, images that count

    def add(self, losses: dict[str, Tensor], index: Tensor, images: int) -> None:
        self.unseen.append((list(losses), torch.stack([v.detach().float() for v in losses.values()]), index, images))

    def flush(self) -> None:
        """Count what came since the last look, in one transfer. UserError on a value that is not finite: the term and the images."""
        if not self.unseen:
            return
        steps, self.unseen = self.unseen, []
        table = torch.nn.utils.rnn.pad_sequence([values for _, values, _, _ in steps], batch_first=True).tolist()
        for (terms, _, index, images), values in zip(steps, table, strict=True):
            for term, value in zip(terms, values, strict=False):  # padded
                if not math.isfinite(value):
                    named = self.names(index)
                    shown = ", ".join(named[:16]) + (f" and {len(named) - 16} more" if len(named) > 16 else "")
                    raise UserError(
                        f"the term {term!r} of the loss is {value}; stopped before it spoils a checkpoint. Images of the step: {shown}"
                    )
                self.sums[term] = self.sums.get(term, 0.0) + value * images
            self.images += images

    def means(self) -> dict[str, float]:
        return {name: total / self.images for name, total in self.sums.items()} if self.images else {}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "images": self.images, "seconds": self.seconds}

    def of_all(self) -> "Meter":
        """The same over the images of all processes."""
        parts = distributed.all_gather_objects((self.sums, self.images))
        sums = {term: sum(part.get(term, 0.0) for part, _ in parts) for term in self.sums}
        return Meter(self.names, sums, sum(images for _, images in parts), self.seconds)


class Step(nn.Module):
    """The terms of a batch as a forward: what several processes share (roi/distributed.py)."""

    def __init__(self, model: RoiModel, losses_fn: LossesFn) -> None:
        super().__init__()
        self.model, self.losses_fn = model, losses_fn

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return self.losses_fn(self.model, batch, epoch)


def train_one_epoch(
    step: nn.Module,
    batches: Iterable[Batch],
    epoch: int,
    balance: FixedWeights,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    meter: Meter,
    device: torch.device,
    dtype: torch.dtype,
    accum_steps: int,
    shares: Callable[[Sequence[Batch]], list[Share]],
) -> Iterator[int]:
    """One optimiser step per `accum_steps` batches, the last group as large as what is left; yields the batches it took.

    The gradient of a step is the mean over its images: a batch counts by its size (`shares`). No image is dropped.
    """
    step.train()
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, accum_steps)):
        counted = [(batch, share) for batch, share in zip(group, shares(group), strict=True) if len(batch.index)]
        for place, (batch, share) in enumerate(counted, 1):
            batch = batch.to(device)._replace(share=share.batch_weight)
            with distributed.no_sync(step, place < len(counted)):
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    losses = step(batch, epoch)
                    loss = balance(losses, share.batch_weight)
                scaler.scale(loss * share.step_weight).backward()
            meter.add({"loss": loss, **losses}, batch.index, share.images)
        if counted:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
        yield len(group)


@torch.inference_mode()
def predict(
    model: RoiModel,
    batches: Iterable[Batch],
    device: torch.device,
    dtype: torch.dtype,
    keep_ratio: float,
    seeds: Callable[[Tensor], Tensor | None],
    full_only: bool = False,
    others: Sequence[Callable[[Tensor], Tensor]] = (),
) -> Iterator[tuple[Batch, Views]]:
    """-> (batch, its views) one by one, each row of the loader exactly once. With `others`, changes of the pixels, probabilities are means over all of them."""
    model.eval()
    for batch in batches:
        if not len(batch.index):
            yield batch, Views(*[None] * 5)  # type: ignore[arg-type]
            continue
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if batch.features is not None:
                features = batch.features.to(device)
                views = Views(model.read_features(features.head, features.stages)[0], None, None, None, None)
            else:
                pixels = batch.pixels.to(device, non_blocking=True)
                views = averaged(
                    [
                        model(change(pixels), keep_ratio, seeds(batch.index), full_only)
                        for change in (lambda same: same, *others)
                    ]
                )
        yield batch, views


def averaged(views: Sequence[Views]) -> Views:
    """The first of them, with the logits of the mean probability in place of its own."""

    if len(views) == 1:
        return views[0]
    there = [part for part in ("logits_full", "logits_crop", "logits_drop") if getattr(views[0], part) is not None]
    return views[0]._replace(
        **{part: torch.stack([getattr(one, part).sigmoid() for one in views]).mean(0).logit() for part in there}
    )


class StepBackup:
    """What a step changes before its end: batch norm's statistics, random numbers, weights of the terms, sums.

    A step that fails half-way is taken back, so that the steps before it can be saved as they were. In one process:
    several do not stand at the same step when one of them fails.
    """

    def __init__(self, fit: "TrainingRun") -> None:
        self.fit = fit
        self.between_steps = False  # whether the weights are those of finished steps
        self.kept: list[tuple[list[Tensor], list[Tensor]]] = []  # buffers of a type, and their copies
        live = list(fit.model.buffers())
        for dtype in {buffer.dtype for buffer in live}:
            buffers = [buffer for buffer in live if buffer.dtype == dtype]
            self.kept.append((buffers, [buffer.clone() for buffer in buffers]))
        self.hook = fit.optimizer.register_step_pre_hook(self._optimizer_begins)

    def _optimizer_begins(self, *step: object) -> None:
        self.between_steps = False

    @torch.no_grad()
    def take(self) -> None:
        """Before the first step, and after each."""
        if distributed.world() > 1:
            return
        for buffers, copies in self.kept:
            torch._foreach_copy_(copies, buffers)
        self.rng = checkpoint.rng_state(self.fit.device)
        self.balance = dict(vars(self.fit.balance))  # its tensors are replaced, never changed
        self.terms_seen = len(self.fit.meter.unseen)
        self.between_steps = True

    @torch.no_grad()
    def restore(self) -> bool:
        """-> whether all is as it was after the last step; False when the optimiser had begun to change the weights."""
        if not self.between_steps:
            return False
        try:
            for buffers, copies in self.kept:
                torch._foreach_copy_(buffers, copies)
            checkpoint.restore_rng([self.rng], self.fit.device)
        except RuntimeError:  # a GPU that answers no more
            return False
        vars(self.fit.balance).update(self.balance)
        del self.fit.meter.unseen[self.terms_seen :]
        return True


LESS_MEMORY = (
    "give a smaller --batch_size and more --accum_steps, --checkpoint_activations, --autocast_dtype bf16, "
    "a smaller --img_size, or --cache_on_device no"
)


def what_failed(error: BaseException, where: str, less_memory: str = LESS_MEMORY) -> UserError | RunError:
    """An error of torch in one line, with the remedy where there is one."""
    if isinstance(error, RunError):
        return RunError(f"{where}: {error}")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return UserError(f"out of memory in {where} ({reason(error)}); {less_memory}")
    return RunError(f"{where}: {type(error).__name__}: {reason(error)} (ROI_DEBUG=1 shows where it came from)")


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
    names: Callable[[Tensor], list[str]]
    log: MetricsLog
    save: Path
    meta: dict[str, Any]
    skip_unreadable: bool = False
    first_best: int = 1  # the epoch from which the best one is looked for, counted from 1: the first with masks
    mask_every: int = 0  # of the validation rows every so manieth meets the controls of the mask, in each epoch that has masks; 0: none
    mask_loader: Iterable[Batch] | None = (
        None  # their pixels, where val_loader gives features: looked at in the last epoch alone
    )
    save_every_steps: int = 0  # 0: at the end of an epoch alone
    datasets: np.ndarray | None = None  # (N,) data set of each validation row, where there are several
    schedule: Schedule = None  # type: ignore[assignment]  # constant, where none is given
    average: EMA | None = None  # what is validated, and saved as the best
    decisions: bool = False  # whether validation counts right and wrong ones as well
    patience: int = 0  # epochs without a better val_auroc after which it stops; 0: never
    epoch: int = 0  # finished epochs
    steps: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    before_masks: float = -math.inf  # the best val_auroc of the epochs before first_best
    unreadable: set[str] = field(default_factory=set)  # path and reason
    constant: set[str] = field(default_factory=set)  # paths of images without anything to see
    constant_noted: int = 0  # how many of them the user was told of
    begin: Callable[[], None] | None = None  # opens the files of the run, once signals are answered by a checkpoint
    saved: int = 0  # steps in the checkpoint
    damaged: bool = False  # what `save` holds, so that the one before it stays

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.meter = Meter(self.names)
        self.schedule = self.schedule or Schedule(self.optimizer)

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: mid-epoch if it was taken there. On a CPU the result equals an uninterrupted run bit for bit."""
        checkpoint.load_parts(self.model, state, self.save)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average:
            self.average.load(state["average"])
        self.balance.load_state_dict(state["balance"])
        self.epoch, self.steps, self.best, self.best_epoch = (
            state["epoch"],
            state["steps"],
            state["best"],
            state["best_epoch"],
        )
        self.before_masks = state["before_masks"]
        self.saved, self.damaged = self.steps, "fell_back" in state
        self.sampler.start = state["batch"]
        self.meter = Meter(self.names, **state["meter"]) if distributed.rank() == 0 else Meter(self.names)
        self.unreadable = set(state["unreadable"])
        checkpoint.restore_rng(state["rng"], self.device)

    def run(self) -> int:
        """Train what is left; -> 0, or 128 + signal when stopped (the checkpoint then goes on from there)."""
        self.step = distributed.wrap_ddp(Step(self.model, self.losses_fn))
        self.backup = StepBackup(self)
        # Of batch norm: each process has seen its own images, one set is validated and saved.
        both = [values for norm in batch_norms(self.model) for values in (norm.running_mean, norm.running_var)]
        self.statistics = [
            values
            for values in (*both, *self.model.view_norms.buffers())
            if values is not None and values.is_floating_point()
        ]
        try:
            with Stop() as stop:
                if self.begin:
                    self.begin()
                    self.begin = None  # it knows this run: a circle
                while self.epoch < self.epochs and not self.done_early():
                    scores = None
                    with suppress(Stopped):
                        scores = self._validate(stop) if self._train(stop) else None
                    if scores is None:
                        self.save_checkpoint()
                        say(
                            f"stopped after {self.where()}; saved {self.save}; go on with the same command and --resume auto"
                        )
                        return 128 + stop.signal
                    self._finish_epoch(scores)
        except UnreadableImage as error:  # the steps before it are good
            raise UnreadableImage(f"{error}. {self.save_if_new()}; then go on with --resume auto") from error
        except ValueError as error:
            if NORM_OF_ONE not in str(error):
                raise
            raise UserError(
                "batch norm needs at least two images a process in each batch; give a larger --batch_size, "
                "or more training images"
            ) from error
        except (RuntimeError, MemoryError) as error:
            failed = what_failed(error, f"epoch {self.epoch + 1}, batch {self.sampler.start}")
            raise type(failed)(f"{failed}. {self.save_if_new()}; go on with --resume auto") from error
        finally:
            self.backup.hook.remove()
            for loader in (self.train_loader, self.val_loader, self.mask_loader):
                if isinstance(loader, FileLoader):
                    loader.close()
        if self.epoch < self.epochs:
            say(
                f"no better val_auroc in {self.epoch - max(self.best_epoch, self.first_best - 1)} epochs: stopped after epoch {self.epoch}"
                + self.which_is_best()
            )
        return 0

    def done_early(self) -> bool:
        return (
            bool(self.patience)
            and not self.sampler.start
            and self.epoch - max(self.best_epoch, self.first_best - 1) >= self.patience
        )

    def which_is_best(self) -> str:
        return (
            f"; the best is epoch {self.best_epoch}, {self.best:.4f}, in {best_path(self.save)}"
            if self.best_epoch
            else ""
        )

    def where(self) -> str:
        return f"epoch {self.epoch + 1}, batch {self.sampler.start}" if self.sampler.start else f"epoch {self.epoch}"

    def _train(self, stop: Stop) -> bool:
        """The rest of the epoch; False when stopped before its end."""
        self.sampler.epoch = self.epoch
        began, before, looked, stopped = time.perf_counter(), self.meter.seconds, 0.0, 0
        with progress(
            None, self.sampler.rows, f"epoch {self.epoch + 1}/{self.epochs}", initial=self.meter.images
        ) as bar:
            batches = check_batches(
                stop.before_each(self.train_loader), self.skip_unreadable, self.unreadable, self.constant
            )
            self.backup.take()
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
                self.sampler.start += taken
                self.steps += 1
                distributed.average(self.statistics)
                self.schedule.step()
                if self.average:
                    self.average.update(self.steps)
                self.meter.seconds = before + time.perf_counter() - began
                if self.device.type == "cpu" or self.meter.seconds - looked > REFRESH:
                    looked = self.meter.seconds
                    self.meter.flush()
                    bar.set_postfix(loss=f"{self.meter.means().get('loss', math.nan):.4f}", refresh=False)
                    bar.update(self.meter.images * distributed.world() - bar.n)
                if stopped := stop.agreed():
                    break
                if self.save_every_steps and self.steps % self.save_every_steps == 0:
                    self.save_checkpoint()
                self.backup.take()
        self.meter.flush()
        if not self.meter.images and not stopped and distributed.world() == 1:
            raise UserError("no training image could be read; see --skip_unreadable")
        return not stopped

    def _validate(self, stop: Stop) -> dict[str, float] | None:
        """{"val_loss", "val_auroc", ...} (metrics.validation_aurocs) on the full view of every validation image once, {} without any, None when stopped."""
        if self.val_loader is None:
            return {}
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        controls = self._mask_controls()
        batches = check_batches(stop.before_each(self.val_loader), self.skip_unreadable, self.unreadable, self.constant)
        with self.average.within() if self.average else nullcontext():
            for batch, views in predict(
                self.model, batches, self.device, self.dtype, 1.0, lambda index: None, full_only=True
            ):
                if len(batch.index):
                    found.append((views.logits_full, batch.target, batch.index))
                    if controls and self.mask_loader is None:
                        controls.add(batch)
                if distributed.world() == 1 and stop.signal:
                    return None
            if controls and self.mask_loader is not None:
                for batch in check_batches(stop.before_each(self.mask_loader), self.skip_unreadable, self.unreadable):
                    controls.add(batch)
        logit, target, index = (
            (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
            if found
            else (torch.zeros(0), torch.zeros(0), torch.zeros(0))
        )
        everyone = distributed.all_gather_objects((logit.numpy(), target.numpy(), index.numpy(), stop.signal))
        stop.signal = max(part[3] for part in everyone)
        if stop.signal:
            return None
        logit, target, index = (
            torch.from_numpy(np.concatenate([part[n] for part in everyone if len(part[2])] or [np.zeros(0)]))
            for n in range(3)
        )
        if not len(index):
            raise UserError("no validation image could be read; see --skip_unreadable")
        order = index.argsort()
        logit, target = logit[order], target[order]
        datasets = None if self.datasets is None else self.datasets[index[order].numpy()]
        found_right = validation_decisions(logit.numpy() > 0, target.numpy(), self.classes) if self.decisions else {}
        scores = {
            "val_loss": float(bce(logit, target)),
            **validation_aurocs(logit.numpy(), target.numpy(), self.classes, datasets),
        }
        return scores | found_right | (controls.figures(self.classes) if controls else {})

    def _mask_controls(self) -> MaskControls | None:
        """What the mask of this epoch is held against (roi/training/mask_controls.py); None in an epoch without masks."""
        epoch = self.epoch + 1
        if not self.mask_every or epoch < self.first_best or (self.mask_loader is not None and epoch < self.epochs):
            return None
        return MaskControls(self.model, self.meta["args"]["keep_ratio"], self.device, self.dtype, self.mask_every)

    def _finish_epoch(self, scores: dict[str, float]) -> None:
        """Metrics row first, then the checkpoint: a run killed in between does the epoch again and drops the row."""
        meter = self.meter.of_all()
        self.epoch += 1
        self.sampler.start = 0
        self.meter = Meter(self.names)
        self.log.row(
            {
                "epoch": self.epoch,
                "steps": self.steps,
                **{f"loss_{k}" if k in TERMS else k: v for k, v in meter.means().items()},
                **{f"w_{name}": float(w) for name, w in self.balance.weights.items()},
                **{k: v for k, v in scores.items() if not math.isnan(v)},
                "lr": self.schedule.used,
                "images_per_s": meter.images / max(meter.seconds, 1e-9),
                "seconds": meter.seconds,
                "contaminated": int(self.meta["contaminated"]),
            }
        )
        score = scores.get("val_auroc", math.nan)
        better = score > self.best and self.epoch >= self.first_best
        if better:
            self.best, self.best_epoch = score, self.epoch
        if self.epoch >= self.first_best:
            self.schedule.epoch(score)
            for line in complaints(scores) + self._lost_skill(score):
                say(f"warning: {line}")
        elif not math.isnan(score):
            self.before_masks = max(self.before_masks, score)
        constant = set().union(*distributed.all_gather_objects(self.constant))
        if distributed.rank() == 0:
            note_unreadable(self.unreadable, self.save)
            if len(constant) > self.constant_noted:
                note_constant(constant, self.save)
                self.constant_noted = len(constant)
            if better:
                weights = self.average.parts if self.average else checkpoint.parts(self.model)
                checkpoint.save(best_path(self.save), {**self.meta, **weights, "epoch": self.epoch, "val_auroc": score})
        self.save_checkpoint()

    def _lost_skill(self, score: float) -> list[str]:
        """In words, that the classifier is worse than before there were masks; the best checkpoint is one with masks."""
        if self.before_masks - score < 0.01:  # also where there was no epoch before, or no score
            return []
        return [
            f"val_auroc {score:.4f} is below that of the epochs before the masks, {self.before_masks:.4f}; no checkpoint of those is kept as the best"
        ]

    def save_if_new(self) -> str:
        """Save the steps since the last checkpoint, after an error; -> what became of them.

        In one process: several do not stand at the same step when one of them fails. What the step that failed has
        changed is taken back, so that a resumed run is the one that nothing happened to.
        """
        if self.steps > self.saved and distributed.world() == 1 and self.backup.restore():
            try:
                self.save_checkpoint()
            except RuntimeError:  # nothing can be read from a GPU any more
                return f"{self.save} is as it was"
        return f"Saved {self.save} after {self.where()}" if self.saved == self.steps else f"{self.save} is as it was"

    def save_checkpoint(self) -> None:
        """All processes together; process 0 writes. The checkpoint before it stays as previous_path(save)."""
        self.meter.flush()
        meter, rng = self.meter.of_all(), distributed.all_gather_objects(checkpoint.rng_state(self.device))
        if distributed.rank() == 0:
            state = {
                **self.meta,
                **checkpoint.parts(self.model),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "balance": self.balance.state_dict(),
                "epoch": self.epoch,
                "batch": self.sampler.start,
                "steps": self.steps,
                "best": self.best,
                "best_epoch": self.best_epoch,
                "before_masks": self.before_masks,
                "schedule": self.schedule.state_dict(),
                **({"average": self.average.parts} if self.average else {}),
                "meter": meter.state_dict(),
                "unreadable": sorted(self.unreadable),
                "rng": rng,
                "log": self.log.lines,
            }
            checkpoint.save(
                self.save, state, keep=previous_path(self.save) if self.saved and not self.damaged else None
            )
        self.saved, self.damaged = self.steps, False


def previous_path(save: Path) -> Path:
    """Where the checkpoint before the last one lies: it is good when a disk damages the last one."""
    return save.with_name(f"{save.stem}_previous.pt")


def best_path(save: Path) -> Path:
    """Where the best epoch lies beside the last one."""
    return save.with_name(f"{save.stem}_best.pt")


def pick_device(name: str) -> torch.device:
    """auto -> cuda, mps or cpu, the first there is. UserError if the one asked for is not there.

    On a GPU: TF32 matrix products, and cuDNN picks its kernels by trial, since shapes stay the same all through a run.
    """
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    _keep_memory()
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in there.items() if here))
    if not there.get(name.split(":")[0], False):
        raise UserError(
            f"--device {name}: not available here (there is {', '.join(k for k, here in there.items() if here)})"
        )
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such device") from error


def _keep_memory() -> None:
    """glibc gives the memory of each large tensor back to the system, and takes it anew page by page, which costs
    a CPU much of its time on large batches. It keeps it instead, up to 2 GB beyond what is in use. Other systems go without."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto -> bf16 on a GPU that has it (fp16 on an older one), fp32 on a CPU."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.float32
