"""How long a training takes: before it from one forward, and once it runs from its first steps."""

from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn

from roi.progress import say

# In forwards of one image: a step on the whole image alone, and one on its three views (whole, crop, drop).
FORWARDS = {False: 3.0, True: 8.0}
# Below these nothing is said: the first steps are slow, and a short run needs no forecast.
STEPS, SECONDS = 5, 15.0
LONG = 24.0  # hours on a CPU, from which on the user is warned


def in_words(seconds: float) -> str:
    """'40 seconds', '12 minutes', '3.5 hours', '4.2 days'"""
    for unit, length, most in (("seconds", 1, 90), ("minutes", 60, 90), ("hours", 3600, 48)):
        if seconds < most * length:
            value = seconds / length
            return f"{value:.1f} {unit}" if unit == "hours" and value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def short(seconds: float) -> str:
    """Two digits at least, and no power of ten."""
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:.0f}"


@torch.no_grad()
def forward_seconds(backbone: nn.Module, img_size: int, device: torch.device) -> float:
    """Of one image, without its first run. The model stays as it was: eval mode changes and draws nothing."""
    was_training = backbone.training
    backbone.eval()
    image = torch.zeros(1, 3, img_size, img_size, device=device)
    seconds = 0.0
    # The first run allocates.
    for _ in range(2):
        began = perf_counter()
        backbone(image)
        seconds = perf_counter() - began
    backbone.train(was_training)
    return seconds


def cpu_warning(backbone: nn.Module, name: str, img_size: int, images: int, epochs: tuple[int, int]) -> str:
    """What a training on a CPU would take, where that is more than a day; else "".

    Args:
        epochs: without and with masks
    """
    # A forward of one image is slower an image than a batch: the forecast is a little too long.
    forwards = epochs[0] * FORWARDS[False] + epochs[1] * FORWARDS[True]
    one = forward_seconds(backbone, img_size, torch.device("cpu"))
    seconds = one * forwards * images
    if seconds < LONG * 3600:
        return ""
    return (
        f"WARNING: on this CPU {sum(epochs)} epochs of {name} take about {in_words(seconds)} "
        f"({one:.2f} s for one forward of one image); take a GPU, a smaller --backbone or --img_size, fewer images "
        "(--max_train_samples), or --freeze_backbone"
    )


@dataclass
class Forecast:
    """Says once for the epochs without masks, and once for those with them, how long all of it takes."""

    steps_an_epoch: int
    epochs: int
    warmup_epochs: int
    phase: bool | None = None  # whether the steps that are being timed have masks
    began: float = 0.0
    first: int = 0
    said: bool = False

    def after_step(self, epoch: int, steps: int) -> None:
        """Look at the clock after an optimiser step.

        Args:
            epoch: which is trained, from 0
            steps: that were made since the first epoch
        """
        phase = epoch >= self.warmup_epochs
        if phase != self.phase:
            # The first step of a phase compiles, allocates, and tries kernels.
            self.phase, self.began, self.first, self.said = phase, perf_counter(), steps, False
            return
        seconds = perf_counter() - self.began
        made = steps - self.first
        if self.said or made < STEPS or seconds < SECONDS:
            return
        self.said = True
        say(self.sentence(seconds / made, steps))

    def sentence(self, a_step: float, steps: int) -> str:
        """How long what is left takes, at so many seconds a step."""
        left = self.steps_an_epoch * self.epochs - steps
        if self.phase or self.warmup_epochs >= self.epochs:
            return f"forecast: {short(a_step)} s a step, about {in_words(a_step * left)} left, validation not counted"
        # Nobody has timed a step with masks yet.
        with_masks = self.steps_an_epoch * (self.epochs - self.warmup_epochs)
        times = FORWARDS[True] / FORWARDS[False]
        seconds = a_step * (left - with_masks + times * with_masks)
        return (
            f"forecast: {short(a_step)} s a step, about {in_words(seconds)} left, validation not counted; a step with "
            f"masks, from epoch {self.warmup_epochs + 1} on, is taken for {times:.1f} without"
        )
