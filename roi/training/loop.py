"""The one loop of every train script: train_one_epoch, predict. It never knows which system it trains.

A script hands in two functions: losses_fn(model, batch, epoch) -> {name: scalar} and balance({name: scalar}) -> scalar
(fixed weights or GradNorm). Who calls the loop, epoch after epoch: roi/training/training_run.py.

Letters: B images of a batch, K classes.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from roi import distributed
from roi.data.dataset import Batch
from roi.data.sampler import Share
from roi.errors import UserError
from roi.losses.gradnorm import FixedWeights
from roi.models.roi_model import RoiModel, Views
from roi.training import checkpoint

LossesFn = Callable[[RoiModel, Batch, int], dict[str, Tensor]]
NO_VIEWS = Views(*[None] * 5)  # type: ignore[arg-type]


class StepLosses(NamedTuple):
    """The losses of one batch, on their device."""

    terms: list[str]
    values: Tensor  # (terms,)
    rows: Tensor  # (B,) of the table
    images: int  # that count


@dataclass
class Meter:
    """Means over the images of an epoch. The numbers stay on their device until `flush`: no step waits for them."""

    # Rows of the table -> image names, for the error.
    names: Callable[[Tensor], list[str]]
    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    unseen: list[StepLosses] = field(default_factory=list)

    def add(self, losses: dict[str, Tensor], index: Tensor, images: int) -> None:
        values = torch.stack([value.detach().float() for value in losses.values()])
        self.unseen.append(StepLosses(list(losses), values, index, images))

    def flush(self) -> None:
        """Count what came since the last time, in one transfer.

        Raises:
            UserError: a value is not finite; says which term, and on which images
        """
        if not self.unseen:
            return
        steps, self.unseen = self.unseen, []
        # Steps may have different terms: in a warm-up there is no drop.
        # One transfer for all of them, since each waits for the GPU.
        padded = nn.utils.rnn.pad_sequence([step.values for step in steps], batch_first=True)
        for step, values in zip(steps, padded.tolist(), strict=True):
            for term, value in zip(step.terms, values, strict=False):
                if not math.isfinite(value):
                    raise self._not_finite(term, value, step.rows)
                self.sums[term] = self.sums.get(term, 0.0) + value * step.images
            self.images += step.images

    def _not_finite(self, term: str, value: float, index: Tensor) -> UserError:
        images = self.names(index)
        shown = ", ".join(images[:16])
        if len(images) > 16:
            shown += f" and {len(images) - 16} more"
        return UserError(
            f"the term {term!r} of the loss is {value}; stopped before it spoils a checkpoint. "
            f"Images of the step: {shown}"
        )

    def means(self) -> dict[str, float]:
        if not self.images:
            return {}
        return {name: total / self.images for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "images": self.images, "seconds": self.seconds}

    def of_all(self) -> "Meter":
        """The same over the images of all processes."""
        parts = distributed.all_gather_objects((self.sums, self.images))
        sums = {}
        for term in self.sums:
            # A process whose images cannot be read has no terms.
            sums[term] = sum(part.get(term, 0.0) for part, _ in parts)
        return Meter(self.names, sums, sum(images for _, images in parts), self.seconds)


class Step(nn.Module):
    """The terms of a batch as a forward: what several processes share (roi/distributed.py)."""

    def __init__(self, model: RoiModel, losses_fn: LossesFn) -> None:
        super().__init__()
        self.model, self.losses_fn = model, losses_fn

    def forward(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return self.losses_fn(self.model, batch, epoch)


class StepBackup:
    """Batch norm's statistics, random numbers, weights of the terms and sums, as they were after the last step.

    With them the steps before one that fails can be saved as they were. In one process: several do not stand at the
    same step when one of them fails.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        balance: FixedWeights,
        device: torch.device,
    ) -> None:
        self.balance, self.device = balance, device
        # Whether the weights are those of finished steps.
        self.between_steps = False
        # Buffers of one type, and their copies: copied in one call each.
        self.kept: list[tuple[list[Tensor], list[Tensor]]] = []
        live = list(model.buffers())
        for dtype in {buffer.dtype for buffer in live}:
            buffers = [buffer for buffer in live if buffer.dtype == dtype]
            self.kept.append((buffers, [buffer.clone() for buffer in buffers]))
        self.hook = optimizer.register_step_pre_hook(self._optimizer_begins)

    def _optimizer_begins(self, *step: object) -> None:
        self.between_steps = False

    @torch.no_grad()
    def take(self, meter: Meter) -> None:
        """Before the first step, and after each; `meter` has the sums of the epoch."""
        if distributed.world() > 1:
            return
        # Its parameters need no copy: they change in the optimiser alone.
        for buffers, copies in self.kept:
            torch._foreach_copy_(copies, buffers)
        self.rng = checkpoint.rng_state(self.device)
        # Its tensors are replaced, never changed: the dict alone is copied.
        self.balance_state = dict(vars(self.balance))
        self.meter, self.terms_seen = meter, len(meter.unseen)
        self.between_steps = True

    @torch.no_grad()
    def restore(self) -> bool:
        """Take back what was changed since the last step.

        Returns:
            whether all is as it was then; False when the optimiser had begun to change the weights
        """
        if not self.between_steps:
            return False
        try:
            for buffers, copies in self.kept:
                torch._foreach_copy_(buffers, copies)
            checkpoint.restore_rng([self.rng], self.device)
        except RuntimeError:  # a GPU that answers no more
            return False
        vars(self.balance).update(self.balance_state)
        del self.meter.unseen[self.terms_seen :]
        return True

    def close(self) -> None:
        self.hook.remove()


def train_one_epoch(  # noqa: PLR0913 -- every part of a step is handed in, so that the loop shows what it uses
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
    """One optimiser step per `accum_steps` batches; yields, after each, how many batches it took.

    The last group is as large as what is left: no image is dropped. The gradient of a step is the mean over its images.

    Args:
        step: losses_fn as a module, wrapped for several processes
        shares: how much each batch of a step counts, by its size
    """
    step.train()
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, accum_steps)):
        # A batch whose images cannot be read is empty and takes part in nothing.
        pairs = zip(group, shares(group), strict=True)
        counted = [(batch, share) for batch, share in pairs if len(batch.index)]
        for position, (batch, share) in enumerate(counted, 1):
            batch = batch.to(device)._replace(share=share.batch_weight)
            more_to_come = position < len(counted)
            # Gradients travel between processes once a step, with its last batch.
            with distributed.no_sync(step, more_to_come):
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    losses = step(batch, epoch)
                    loss = balance(losses, share.batch_weight)
                # Scaled in fp16 alone: bf16 has the range of fp32.
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
    """Each batch with its views, one by one, each row of the loader exactly once.

    Args:
        seeds: rows of the table -> the seeds of random masks
        full_only: leave out the crop and the drop view
        others: changes of the pixels; probabilities are means over all of them and the image as it is
    """
    model.eval()
    for batch in batches:
        if not len(batch.index):
            yield batch, NO_VIEWS
            continue
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if batch.features is not None:
                # Of a frozen backbone there are no pixels, and so no crop and no drop.
                features = batch.features.to(device)
                logits, _ = model.read_features(features.head, features.stages)
                views = Views(logits, None, None, None, None)
            else:
                on_device = batch._replace(pixels=batch.pixels.to(device, non_blocking=True))
                several = [model.views_of(on_device, keep_ratio, seeds(batch.index), full_only)]
                for change in others:
                    changed = on_device._replace(pixels=change(on_device.pixels))
                    several.append(model.views_of(changed, keep_ratio, seeds(batch.index), full_only))
                views = mean_probabilities(several)
        yield batch, views


def mean_probabilities(several: Sequence[Views]) -> Views:
    """The first of the views, with the logits of the mean probability in place of its own."""
    first = several[0]
    if len(several) == 1:
        return first
    means = {}
    for view in ("logits_full", "logits_crop", "logits_drop"):
        if getattr(first, view) is not None:
            probabilities = torch.stack([getattr(one, view).sigmoid() for one in several])
            means[view] = probabilities.mean(0).logit()
    return first._replace(**means)
