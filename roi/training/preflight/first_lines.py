"""The first lines of a training: on what, what, how much, how long; and what stands in its way."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from roi import accelerator
from roi.accelerator import GIB
from roi.errors import UserError
from roi.models.roi_model import RoiModel
from roi.progress import say
from roi.text import counted
from roi.threads import decided
from roi.training.preflight.forecast import cpu_warning
from roi.training.preflight.needs import rooms


@dataclass(frozen=True)
class FirstLinesFlags:
    """The flags that the first lines name."""

    backbone: str
    img_size: int
    epochs: int
    warmup_epochs: int
    freeze_backbone: bool
    compile: bool
    save: str


class Work(NamedTuple):
    """What an epoch has to do."""

    units: int  # images or studies, over all processes
    steps: int
    classes: int


def parameters_of(model: RoiModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def device_text(device: torch.device) -> str:
    own = accelerator.of(device)
    memory = own.memory()
    if memory:
        return f"{own.name()} ({memory.free / GIB:.0f} of {memory.total / GIB:.0f} GiB free)"
    if device.type == "cpu":
        count = torch.get_num_threads()
        number = "1 thread" if count == 1 else f"{count} threads"
        why = decided()
        return f"the CPU, {number} ({why})" if why else f"the CPU, {number}"
    return own.name()


def say_first_lines(
    flags: FirstLinesFlags, work: Work, model: RoiModel, device: torch.device, dtype: torch.dtype
) -> None:
    """Say what begins, and warn where it takes days.

    Raises:
        UserError: the disk has no room for the checkpoints
    """
    parameters = parameters_of(model)
    (room,) = rooms(Path(flags.save), parameters, None, 0, flags.img_size)
    if room.is_short:
        raise UserError(room.problem)
    say(f"training {flags.backbone}, {parameters / 1e6:.1f} million parameters, on {device_text(device)}")
    size = f"{flags.img_size} x {flags.img_size} pixels, {str(dtype).removeprefix('torch.')}"
    epochs = f"{counted(flags.epochs, 'epoch')} of {counted(work.steps, 'step')}"
    say(f"{work.units:,} to train on, {work.classes} classes, {size}; {epochs}")
    # A compiled backbone would be compiled for this one image, a frozen one computes its features once.
    if device.type != "cpu" or flags.compile or flags.freeze_backbone:
        return
    masked = flags.epochs - min(flags.warmup_epochs, flags.epochs) if model.mask != "none" else 0
    warning = cpu_warning(model.backbone, flags.backbone, flags.img_size, work.units, (flags.epochs - masked, masked))
    if warning:
        say(warning)
