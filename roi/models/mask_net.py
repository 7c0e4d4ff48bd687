"""Mask nets: maps of logits that rank the pixels of an image by the evidence they hold.

Letters: B images, M maps (1, or one a class), H x W pixels, h x w cells, D channels of a stage.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roi.errors import UserError

# Pixels a cell of the stages that a mask may be made of.
STRIDES = (8, 16, 32)
# Cells a side, at least, of the finest stage that is used: finer ones see edges, not findings (benchmarks/RESULTS.md,
# "Evidence").
CELLS = 10
WIDTH = 64  # channels of the decoder


# Torch 2.6 to 2.9 end in a segmentation fault on a CPU, in the backward pass of a group norm whose input is channels
# last and needs no gradient; 2.14 does not.
GROUP_NORM_CRASHES = torch.__version__ < (2, 14)  # type: ignore[operator]


class ConvMask(nn.Module):
    """The published mask net, 3 -> 16 -> 32 -> M, which sees 5 x 5 pixels: (B, 3, H, W) -> (B, M, H, W) logits."""

    def __init__(self, maps: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, maps, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class FeatureMask(nn.Module):
    """A light decoder on the stages of a backbone: [(B, D_i, h_i, w_i), finest first] -> (B, M, h, w) logits.

    Each stage is normalised and projected to 64 channels; their sum, in the cells of the finest, goes through two
    convolutions.
    """

    def __init__(self, channels: list[int], maps: int = 1) -> None:
        super().__init__()
        self.project = nn.ModuleList()
        for depth in channels:
            norm = nn.GroupNorm(1, depth)
            conv = nn.Conv2d(depth, WIDTH, 1)
            self.project.append(nn.Sequential(norm, conv))
        self.layers = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(WIDTH, maps, 1),
        )
        # Maps begin near a logit of -2, as rare as findings are (the prior of Lin et al. 2017, section 4.1).
        nn.init.constant_(self.layers[-1].bias, -2.0)  # type: ignore[arg-type]

    def forward(self, stages: list[Tensor]) -> Tensor:
        size = stages[0].shape[-2:]
        resized = []
        for project, stage in zip(self.project, stages, strict=True):
            if GROUP_NORM_CRASHES:
                stage = stage.contiguous()
            resized.append(F.interpolate(project(stage), size=size, mode="bilinear", align_corners=False))
        return self.layers(torch.stack(resized).sum(0))


class Activation(NamedTuple):
    """What a module of a backbone gives."""

    name: str  # of the module
    shape: torch.Size


class Stages:
    """Catches the last activation of a backbone at each stride of STRIDES that is used, as images go through.

    The outermost module whose output has the size of a stride is its stage (layer3 of a ResNet, features.5 of a
    ConvNeXt), the last of several. What comes after the classifier has begun is not looked at, nor are the 1x1
    convolutions that widen the last stage for the classifier (EfficientNet, MobileNet): maps on them point worse
    (benchmarks/RESULTS.md, "Evidence").

    Args:
        head: the classifier layer.
        finest: the smallest stride; 0: 16 where that gives CELLS cells a side, else 8. The coarser ones are used too.
        widened: take the widened last stage, as checkpoints from before that rule do.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        img_size: int,
        finest: int = 0,
        widened: bool = False,
    ) -> None:
        activations = _activations(backbone, head, img_size)
        by_stride = _by_stride(activations, img_size)
        self.finest = finest or _finest_stride(list(by_stride), img_size)  # pixels a cell of the maps
        self.names: list[str] = []
        self.channels: list[int] = []
        self.axes: list[bool] = []  # channels last
        for stride, fitting in by_stride.items():
            if stride < self.finest:
                continue
            stage = _outermost(fitting)
            if not widened:
                stage = _before_widening(backbone, fitting, stage.name)
            self.names.append(stage.name)
            channels_last = _channels_last(stage.shape)
            self.axes.append(channels_last)
            self.channels.append(stage.shape[3] if channels_last else stage.shape[1])
        # A net whose maps all have one size (ViT) has no stages, even where that size fits a stride.
        sides = {_side(activation.shape) for activation in activations}
        if len(sides) < 2 or not self.names:
            raise UserError(
                f"{type(backbone).__name__} has no stages of features at {img_size} pixels (strides {STRIDES}); "
                "give a convolutional backbone, a larger --img_size, or --mask_net conv --objective consistency"
            )
        self.caught: dict[str, Tensor] | None = None
        for name in self.names:
            backbone.get_submodule(name).register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            if self.caught is not None:
                self.caught[name] = output

        return keep

    @contextmanager
    def catch(self) -> Iterator[list[Tensor]]:
        """A list that holds the stages, (B, D_i, h_i, w_i) finest first, once the block is left."""
        stages: list[Tensor] = []
        self.caught = {}
        try:
            yield stages
            for name, channels_last in zip(self.names, self.axes, strict=True):
                stage = self.caught[name]
                stages.append(stage.movedim(-1, 1) if channels_last else stage)
        finally:
            # Else the activations of the last batch would stay in memory.
            self.caught = None


def _activations(backbone: nn.Module, head: nn.Module, img_size: int) -> list[Activation]:
    """The maps of more than one cell that modules give before the head begins, in the order in which they finish."""
    activations: list[Activation] = []
    head_began = False

    def begin(module: nn.Module, inputs: object) -> None:
        nonlocal head_began
        head_began = True

    def note(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if head_began or isinstance(module, nn.Dropout | nn.AdaptiveAvgPool2d):
            return
        if isinstance(output, Tensor) and output.ndim == 4 and _side(output.shape) > 1:
            activations.append(Activation(name, output.shape))

    hooks = [head.register_forward_pre_hook(begin)]
    for name, module in backbone.named_modules():
        if module is not backbone:
            hooks.append(module.register_forward_hook(partial(note, name)))
    training = [module for module in backbone.modules() if module.training]
    device = next(backbone.parameters()).device
    try:
        # In eval mode: batch norm may not count this batch.
        with torch.no_grad():
            backbone.eval()(torch.zeros(2, 3, img_size, img_size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return activations


def _by_stride(activations: list[Activation], img_size: int) -> dict[int, list[Activation]]:
    """The activations of each stride that has some, finest first."""
    by_stride: dict[int, list[Activation]] = {}
    for stride in STRIDES:
        for activation in activations:
            if _has_stride(activation.shape, stride, img_size):
                by_stride.setdefault(stride, []).append(activation)
    return by_stride


def _finest_stride(strides: list[int], img_size: int) -> int:
    """The coarsest stride up to 16 that gives CELLS cells a side; without one the finest there is, 0 without any."""
    finest = min(strides, default=0)
    for stride in strides:
        if stride <= 16 and img_size / stride >= CELLS:
            finest = max(finest, stride)
    return finest


def _depth(name: str) -> int:
    return name.count(".")


def _outermost(activations: list[Activation]) -> Activation:
    """The last of those whose modules lie outermost."""
    outermost = activations[0]
    for activation in activations:
        if _depth(activation.name) <= _depth(outermost.name):
            outermost = activation
    return outermost


def _before_widening(backbone: nn.Module, activations: list[Activation], name: str) -> Activation:
    """The stage `name`, or what comes before the 1x1 convolution that widens it, beside it or in it.

    Args:
        activations: those of the stride of the stage.
    """
    shapes = dict(activations)
    siblings = [other for other in shapes if _depth(other) == _depth(name)]
    kernels = [_largest_kernel(backbone.get_submodule(other)) for other in siblings]
    # After the last convolution that sees its neighbours come only 1x1 ones, norms and activations.
    last = len(siblings) - 1
    for place, kernel in enumerate(kernels):
        if kernel > 1:
            last = place
    name = siblings[last] if 1 in kernels[last + 1 :] else siblings[-1]
    stage = backbone.get_submodule(name)
    if isinstance(stage, nn.Sequential) and _largest_kernel(stage[-1]) == 1:
        before = f"{name}.{len(stage) - 2}"
        if before in shapes:
            name = before
    return Activation(name, shapes[name])


def _largest_kernel(module: nn.Module) -> int:
    """The largest side of its convolutions, 0 without one."""
    largest = 0
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            largest = max(largest, *part.kernel_size)
    return largest


def _has_stride(shape: torch.Size, stride: int, img_size: int) -> bool:
    # By powers of two, for a size that the stride does not divide is rounded up or down.
    power = math.log2(img_size / _side(shape))
    return round(power) == int(math.log2(stride))


def _channels_last(shape: torch.Size) -> bool:
    """Whether (B, ., ., .) of a square image is channels last: its two equal sides stand before the channels."""
    return shape[2] != shape[3] and shape[1] == shape[2]


def _side(shape: torch.Size) -> int:
    """Cells a side; 1 where there is no square map."""
    if _channels_last(shape):
        return shape[1]
    return shape[2] if shape[2] == shape[3] else 1
