"""The one loop of every train script: train_one_epoch, predict, fit. It never knows which system it trains.

A script hands in two functions: losses_fn(model, batch, epoch) -> {name: scalar} and balance({name: scalar}) -> scalar
(fixed weights or GradNorm). Letters: B images of a batch, K classes.
"""

import itertools
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from roi import checkpoint
from roi.data import Batch, Batches, checked, note_unreadable
from roi.gradnorm import FixedWeights
from roi.log import MetricsLog, progress, say
from roi.losses import TERMS, bce
from roi.metrics import auroc, mean_over_findings, per_class
from roi.model import RoiModel, Views

LossesFn = Callable[[RoiModel, Batch, int], dict[str, Tensor]]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Stop:
    """SIGTERM or Ctrl-C asks for a stop at the next safe place; the second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal = 0

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


@dataclass
class Meter:
    """Means over the images of an epoch. Values leave a GPU one step late, so that no step waits for them."""

    names: Callable[[Tensor], list[str]]  # rows of the table -> image names, for the error
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    pending: tuple[list[str], Tensor, Any, Tensor] | None = None

    def add(self, losses: dict[str, Tensor], index: Tensor) -> None:
        values = torch.stack([v.detach().float() for v in losses.values()])
        self.flush()
        event = None
        if values.is_cuda:
            host = torch.empty(values.shape, pin_memory=True)
            host.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            values = host
        self.pending = (list(losses), values, event, index)
        if event is None:
            self.flush()

    def flush(self) -> None:
        """Count the pending step. ValueError on a value that is not finite: the term and the images."""
        if self.pending is None:
            return
        (names, values, event, index), self.pending = self.pending, None
        if event is not None:
            event.synchronize()
        for name, value in zip(names, values.tolist(), strict=True):
            if not math.isfinite(value):
                images = self.names(index)
                shown = ", ".join(images[:16]) + (f" and {len(images) - 16} more" if len(images) > 16 else "")
                raise ValueError(f"the term {name!r} of the loss is {value}; stopped before it spoils a checkpoint. Images of the step: {shown}")
            self.sums[name] = self.sums.get(name, 0.0) + value * len(index)
        self.images += len(index)

    def means(self) -> dict[str, float]:
        return {name: total / self.images for name, total in self.sums.items()} if self.images else {}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "images": self.images, "seconds": self.seconds}


def train_one_epoch(
    model: RoiModel,
    batches: Iterable[Batch],
    epoch: int,
    losses_fn: LossesFn,
    balance: FixedWeights,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    meter: Meter,
    device: torch.device,
    dtype: torch.dtype,
    accum_steps: int,
) -> Iterator[int]:
    """One optimiser step per `accum_steps` batches, the last group as large as what is left; yields the batches it took.

    The gradient of a step is the mean over its images: a batch counts by its size. No image is dropped.
    """
    model.train()
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, accum_steps)):
        images = sum(len(batch.index) for batch in group)
        for batch in (b.to(device) for b in group if len(b.index)):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                losses = losses_fn(model, batch, epoch)
                loss = balance(losses)
            meter.add({"loss": loss, **losses}, batch.index)
            scaler.scale(loss * (len(batch.index) / images)).backward()
        if images:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
        yield len(group)


@torch.inference_mode()
def predict(
    model: RoiModel, batches: Iterable[Batch], device: torch.device, dtype: torch.dtype, keep_ratio: float,
    seeds: Callable[[Tensor], list[int]], full_only: bool = False,
) -> Iterator[tuple[Batch, Views]]:  # fmt: skip
    """-> (batch, its views) one by one, each row of the loader exactly once."""
    model.eval()
    for batch in batches:
        if not len(batch.index):
            yield batch, Views(*[None] * 5)  # type: ignore[arg-type]
            continue
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            views = model(batch.pixels.to(device, non_blocking=True), keep_ratio, seeds(batch.index), full_only)
        yield batch, views


@dataclass
class Fit:
    """A training run: what it trains on, with what, and where it writes. `meta` goes into the checkpoint as it is."""

    model: RoiModel
    train_loader: DataLoader
    sampler: Batches
    val_loader: DataLoader | None
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
    first_best: int = 1  # the epoch from which the best one is looked for, counted from 1
    epoch: int = 0  # finished epochs
    steps: int = 0
    best: float = -math.inf
    unreadable: set[str] = field(default_factory=set)  # path and reason

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.meter = Meter(self.names)

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: mid-epoch if it was taken there. On a CPU the result equals an uninterrupted run bit for bit."""
        checkpoint.load_parts(self.model, state, self.save)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.balance.load_state_dict(state["balance"])
        self.epoch, self.steps, self.best = state["epoch"], state["steps"], state["best"]
        self.sampler.start = state["batch"]
        self.meter = Meter(self.names, **state["meter"])
        self.unreadable = set(state["unreadable"])
        checkpoint.restore_rng(state["rng"], self.device)

    def run(self) -> int:
        """Train what is left; -> 0, or 128 + signal when stopped (the checkpoint then goes on from there)."""
        with Stop() as stop:
            while self.epoch < self.epochs:
                finished = self._train(stop)
                scores = self._validate(stop) if finished else None
                if scores is None:
                    self.save_checkpoint()
                    where = f"epoch {self.epoch + 1}, batch {self.sampler.start}" if self.sampler.start else f"epoch {self.epoch}"
                    say(f"stopped after {where}; saved {self.save}; go on with the same command and --resume auto")
                    return 128 + stop.signal
                self._finish_epoch(scores)
        return 0

    def _train(self, stop: Stop) -> bool:
        """The rest of the epoch; False when stopped before its end."""
        self.sampler.epoch = self.epoch
        began, before = time.perf_counter(), self.meter.seconds
        with progress(None, self.sampler.rows, f"epoch {self.epoch + 1}/{self.epochs}", initial=self.meter.images) as bar:
            batches = checked(self.train_loader, self.skip_unreadable, self.unreadable)
            for taken in train_one_epoch(
                self.model,
                batches,
                self.epoch,
                self.losses_fn,
                self.balance,
                self.optimizer,
                self.scaler,
                self.meter,
                self.device,
                self.dtype,
                self.accum_steps,
            ):
                self.sampler.start += taken
                self.steps += 1
                self.meter.seconds = before + time.perf_counter() - began
                if self.meter.images:
                    bar.set_postfix(loss=f"{self.meter.sums['loss'] / self.meter.images:.4f}", refresh=False)
                    bar.update(self.meter.images - bar.n)
                if stop.signal:
                    break
        self.meter.flush()
        if not self.meter.images and not stop.signal:
            raise ValueError("no training image could be read; see --skip_unreadable")
        return not stop.signal

    def _validate(self, stop: Stop) -> dict[str, float] | None:
        """{"val_loss", "val_auroc"} on the full view, {} without validation images, None when stopped."""
        if self.val_loader is None:
            return {}
        logits, targets = [], []
        batches = checked(self.val_loader, self.skip_unreadable, self.unreadable)
        for batch, views in predict(self.model, batches, self.device, self.dtype, 1.0, lambda index: [], full_only=True):
            if len(batch.index):
                logits.append(views.full.cpu())
                targets.append(batch.target)
            if stop.signal:
                return None
        if not logits:
            raise ValueError("no validation image could be read; see --skip_unreadable")
        logit, target = torch.cat(logits), torch.cat(targets)
        score = mean_over_findings(per_class(auroc, logit.numpy(), target.numpy()), self.classes)
        return {"val_loss": float(bce(logit, target)), "val_auroc": score}

    def _finish_epoch(self, scores: dict[str, float]) -> None:
        """Metrics row first, then the checkpoint: a run killed in between does the epoch again and drops the row."""
        means, meter = self.meter.means(), self.meter
        self.epoch += 1
        self.sampler.start = 0
        self.meter = Meter(self.names)
        self.log.row(
            {
                "epoch": self.epoch, "steps": self.steps, **{f"loss_{k}" if k in TERMS else k: v for k, v in means.items()},
                **{f"w_{name}": float(w) for name, w in self.balance.weights.items()}, **{k: v for k, v in scores.items() if not math.isnan(v)},
                "lr": self.optimizer.param_groups[0]["lr"], "images_per_s": meter.images / max(meter.seconds, 1e-9), "seconds": meter.seconds,
                "contaminated": int(self.meta["contaminated"]),
            }
        )  # fmt: skip
        note_unreadable(self.unreadable, self.save)
        score = scores.get("val_auroc", math.nan)
        if score > self.best and self.epoch >= self.first_best:
            self.best = score
            best = {**self.meta, **checkpoint.parts(self.model), "epoch": self.epoch, "val_auroc": score}
            checkpoint.save(best_path(self.save), best)
        self.save_checkpoint()

    def save_checkpoint(self) -> None:
        checkpoint.save(
            self.save,
            {
                **self.meta, **checkpoint.parts(self.model), "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
                "balance": self.balance.state_dict(), "epoch": self.epoch, "batch": self.sampler.start, "steps": self.steps, "best": self.best,
                "meter": self.meter.state_dict(), "unreadable": sorted(self.unreadable), "rng": checkpoint.rng_state(self.device),
            },
        )  # fmt: skip


def best_path(save: Path) -> Path:
    """Where the best epoch lies beside the last one."""
    return save.with_name(f"{save.stem}_best.pt")


def pick_device(name: str) -> torch.device:
    """auto -> cuda, mps or cpu, the first there is. ValueError if the one asked for is not there.

    On a GPU: TF32 matrix products, and cuDNN picks its kernels by trial, since shapes stay the same all through a run.
    """
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in there.items() if here))
    if not there.get(name.split(":")[0], False):
        raise ValueError(f"--device {name}: not available here (there is {', '.join(k for k, here in there.items() if here)})")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: no such device") from error


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto -> bf16 on a GPU that has it (fp16 on an older one), fp32 on a CPU."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.float32


def mask_seeds(seed: int, epoch: int, index: Tensor) -> list[int]:
    """One seed an image, for random masks: the same whatever the batch size, the workers or where a run was resumed."""
    return [int(np.random.SeedSequence([seed, epoch, row]).generate_state(1)[0]) for row in index.tolist()]
