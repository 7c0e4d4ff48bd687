"""What changes the weights, and when: the optimiser, what it may change, the rate of each step, averaged weights."""

import difflib
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import get_ema_multi_avg_fn

from roi.errors import UserError
from roi.models.roi_model import RoiModel
from roi.training import checkpoint


def make_optimizer(model: RoiModel, lr: float, weight_decay: float, mask_lr: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) for all parameters that learn.

    Args:
        mask_lr: the rate of the mask net, or of the fusion of a study model, which begin untrained
    """
    # What does not learn must not decay either.
    learning = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": learning}]
    if model.mask_net is not None:
        groups.append({"params": list(model.mask_net.parameters()), "lr": mask_lr})
    if model.fusion is not None:
        groups.append({"params": list(model.fusion.parameters()), "lr": mask_lr})
    # Fused: one kernel for all parameters.
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)


def learn_only(model: RoiModel, parts: list[str]) -> None:
    """Of the backbone only what lies below one of these names ("layer4", "fc") learns.

    Batch norm elsewhere keeps its statistics.

    Raises:
        UserError: the backbone has nothing of that name
    """
    names = [name for name, _ in model.backbone.named_parameters()]
    for part in parts:
        if not any(_lies_below(name, part) for name in names):
            raise UserError(f"--train_parts: the backbone has no part {part!r}; near it: {_near(part, names)}")

    def chosen(name: str) -> bool:
        return any(_lies_below(name, part) for part in parts)

    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad_(chosen(name))
    model.frozen = []
    for name, module in model.backbone.named_modules():
        # A part may be a parameter of the norm itself, as in bn1.weight: then the norm learns, too.
        learns = chosen(name) or any(parameter.requires_grad for parameter in module.parameters())
        if isinstance(module, _BatchNorm) and not learns:
            model.frozen.append(module)


def _lies_below(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")


def _near(part: str, names: list[str]) -> str:
    """Parts of the backbone with a similar name, else its first ones."""
    parts: list[str] = []
    for name in names:
        words = name.split(".")
        parts += [words[0], ".".join(words[:2])]
    parts = list(dict.fromkeys(parts))
    near = difflib.get_close_matches(part, parts, n=4, cutoff=0.5)
    return ", ".join(near or [name for name in parts if "." not in name][:12])


def batch_norms(model: RoiModel) -> list[_BatchNorm]:
    """Those that learn their statistics from the batches."""
    frozen = {id(norm) for norm in model.frozen}
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and id(m) not in frozen]


class Schedule:
    """The learning rate of each optimiser step, by torch's own schedulers.

    Each group of parameters keeps its rate; all of them follow one curve.

    constant
    cosine    half a cosine from the rate to 0 over `total` steps (Loshchilov & Hutter 2017)
    onecycle  up to the rate in the first 30 % of `total` steps, then down to almost 0; beta1 the other way (Smith &
              Topin 2018)
    plateau   times `factor` once val_auroc has not risen for more than `patience` epochs; the best epoch is chosen by
              the same number
    The first `warmup` steps climb in a line, with onecycle along its cosine; a plateau is looked for after them.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        name: str = "constant",
        total: int = 1,
        warmup: int = 0,
        factor: float = 0.1,
        patience: int = 3,
    ) -> None:
        self.optimizer, self.total, self.warmup = optimizer, total, warmup
        self.steps = 0
        # The rate of the step before this one.
        self.used = self.now()
        # At most one curve and one plateau: with --schedule plateau the curve is the warm-up.
        self.curve: LRScheduler | None = None
        self.plateau: ReduceLROnPlateau | None = None
        if name == "plateau":
            self.plateau = ReduceLROnPlateau(optimizer, "max", factor, patience, threshold_mode="abs")
        if name == "onecycle":
            rates = [group["lr"] for group in optimizer.param_groups]
            # Two steps at least: torch divides by one less.
            climb = max(2, warmup) / total if warmup else 0.3
            self.curve = OneCycleLR(optimizer, rates, total, pct_start=climb)
        elif name == "cosine" or warmup:
            self.curve = LambdaLR(optimizer, warmup_factor(warmup, total if name == "cosine" else None))

    def now(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self) -> None:
        """After each optimiser step."""
        self.used = self.now()
        self.steps += 1
        # Torch's curves refuse a step beyond their end; beside a plateau the curve is the warm-up alone.
        end = self.total if self.plateau is None else self.warmup + 1
        if self.curve is not None and self.steps < end:
            self.curve.step()

    def epoch(self, val_auroc: float) -> None:
        """After each epoch that was validated."""
        if self.plateau is not None and self.steps >= self.warmup and not math.isnan(val_auroc):
            self.plateau.step(val_auroc)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"steps": self.steps, "used": self.used}
        if self.curve is not None:
            state["curve"] = self.curve.state_dict()
        if self.plateau is not None:
            state["plateau"] = self.plateau.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """After that of the optimiser, which holds the rates."""
        self.steps, self.used = state["steps"], state["used"]
        if self.curve is not None:
            self.curve.load_state_dict(state["curve"])
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])


def warmup_factor(warmup: int, total: int | None) -> Callable[[int], float]:
    """Steps done -> the factor of the next one.

    A line to 1 over `warmup` steps, then 1, or half a cosine that would be 0 after `total`.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if total is None:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor


class EMA:
    """Exponential moving average of the weights and of the statistics of batch norm (Polyak & Juditsky 1992).

    m = d m + (1 - d) w after each step. Of step n it is d = min(decay, (1 + n) / (10 + n)), so that a young average
    forgets where it began. The model itself goes on with its own weights; `within` lends it the averages.
    """

    # Not torch's AveragedModel: that copies the whole model with its hooks, has one decay, and knows no `within`.

    def __init__(self, model: RoiModel, decay: float, only: Collection[str] = ()) -> None:
        """`only`: parts of the model by their names in a checkpoint; empty: all."""
        self.decay = decay
        self.parts: dict[str, dict[str, Tensor]] = {}
        # The average, and the live tensor of the model.
        self.pairs: list[tuple[Tensor, Tensor]] = []
        for part, state in checkpoint.parts(model).items():
            if only and part not in only:
                continue
            self.parts[part] = {name: value.clone() for name, value in state.items()}
            self.pairs += [(self.parts[part][name], value) for name, value in state.items()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step number `step`, counted from 1."""
        averages, live = [], []
        for average, value in self.pairs:
            if average.is_floating_point():
                averages.append(average)
                live.append(value)
            else:
                average.copy_(value)  # a count of batches
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(averages, live, 0)

    @contextmanager
    def within(self) -> Iterator[None]:
        """The model has the averages for a while."""
        own = [value.clone() for _, value in self.pairs]
        self._give([average for average, _ in self.pairs])
        try:
            yield
        finally:
            self._give(own)

    @torch.no_grad()
    def _give(self, values: list[Tensor]) -> None:
        for (_, live), value in zip(self.pairs, values, strict=True):
            live.copy_(value)

    @torch.no_grad()
    def load(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """Go on from the average of a checkpoint."""
        for part, state in self.parts.items():
            if part not in parts:  # no "view_norms" in a checkpoint from before they were kept
                continue
            for name, average in state.items():
                average.copy_(parts[part][name])


def averages(model: RoiModel, ema: float, map_average: float) -> EMA | None:
    """What --ema and map_average ask for: averages of all weights, of the mask net's, or none."""
    if ema:
        return EMA(model, ema)
    return EMA(model, map_average, only=("mask_net",)) if map_average else None
