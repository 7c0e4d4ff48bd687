"""Mask nets: maps of logits that rank the pixels of an image by the evidence they hold.

Letters: B images, M maps (1, or one a class), H x W pixels, h x w cells, D channels of a stage.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roi.errors import UserError

STRIDES = (8, 16, 32)  # pixels a cell
CELLS = 10  # a side, at least, of the finest stage that is used: finer ones see edges, not findings (benchmarks/RESULTS.md, "Evidence")
WIDTH = 64  # channels of the decoder


class ConvMask(nn.Module):
    """The published mask net, 3 -> 16 -> 32 -> M. (B, 3, H, W) normalised -> (B, M, H, W) logits; it sees 5 x 5 pixels."""

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
    """A light decoder on the stages of a backbone: each normalised and projected to 64 channels, summed at the finest, two
    convolutions. [(B, D_i, h_i, w_i), finest first] -> (B, M, h, w) logits, h x w the cells of the finest stage.

    The maps begin near a logit of -2, as rare as findings are (the prior of Lin et al. 2017, section 4.1)."""

    def __init__(self, channels: list[int], maps: int = 1) -> None:
        super().__init__()
        self.project = nn.ModuleList([nn.Sequential(nn.GroupNorm(1, d), nn.Conv2d(d, WIDTH, 1)) for d in channels])
        self.layers = nn.Sequential(
            nn.GELU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.GELU(), nn.Conv2d(WIDTH, maps, 1)
        )
        nn.init.constant_(self.layers[-1].bias, -2.0)  # type: ignore[arg-type]

    def forward(self, stages: list[Tensor]) -> Tensor:
        size = stages[0].shape[-2:]
        projected = [project(stage) for project, stage in zip(self.project, stages, strict=True)]
        return self.layers(
            torch.stack([F.interpolate(p, size=size, mode="bilinear", align_corners=False) for p in projected]).sum(0)
        )


class Stages:
    """Catches the last activation of a backbone at each stride of STRIDES that it uses, as images go through.

    The finest of them is 16 where that gives CELLS cells a side, else 8, or `finest` where that is given; the coarser ones are used too.
    The outermost module whose output has the size of a stride is its stage (layer3 of a ResNet, features.5 of a ConvNeXt),
    the last of several; what comes after the classifier `head` has begun is not looked at. Nor are the 1x1 convolutions that widen the last
    stage for the classifier (EfficientNet, MobileNet): maps on them point worse (benchmarks/RESULTS.md, "Evidence"). Checkpoints from
    before that rule have such a `widened` stage.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, img_size: int, finest: int = 0, widened: bool = False
    ) -> None:
        found = _sizes(backbone, head, img_size)
        there = {stride for stride in STRIDES for _, shape in found if _has_stride(shape, stride, img_size)}
        fine_enough = [stride for stride in there if stride <= 16 and img_size / stride >= CELLS]
        self.finest = finest or max(fine_enough, default=min(there, default=0))  # pixels a cell of the maps
        self.names: list[str] = []
        self.channels: list[int] = []
        self.axes: list[bool] = []  # channels last
        for stride in [stride for stride in STRIDES if stride >= self.finest]:
            here = [(name, shape) for name, shape in found if _has_stride(shape, stride, img_size)]
            if here:
                depth = min(name.count(".") for name, _ in here)
                name, shape = [(name, shape) for name, shape in here if name.count(".") == depth][-1]
                if not widened:
                    name, shape = _before_widening(backbone, here, name)
                self.names.append(name)
                self.axes.append(_last(shape))
                self.channels.append(shape[3] if _last(shape) else shape[1])
        if len({_side(shape) for _, shape in found}) < 2 or not self.names:
            raise UserError(
                f"{type(backbone).__name__} has no stages of features at {img_size} pixels (strides {STRIDES}); "
                "give a convolutional backbone, a larger --img_size, or --mask_net conv --objective consistency"
            )
        self.caught: dict[str, Tensor] | None = None
        for name in self.names:
            backbone.get_submodule(name).register_forward_hook(self._hook(name))

    def _hook(self, name: str):  # type: ignore[no-untyped-def]
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
            stages += [
                self.caught[name].movedim(-1, 1) if last else self.caught[name]
                for name, last in zip(self.names, self.axes, strict=True)
            ]
        finally:
            self.caught = None


def _sizes(backbone: nn.Module, head: nn.Module, img_size: int) -> list[tuple[str, torch.Size]]:
    """-> (module, shape of its output) in the order in which the modules finish, up to the head: those with maps of more than one cell."""
    found: list[tuple[str, torch.Size]] = []
    begun = False

    def begin(module: nn.Module, inputs: object) -> None:
        nonlocal begun
        begun = True

    def note(name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if (
                not begun
                and isinstance(output, Tensor)
                and output.ndim == 4
                and _side(output.shape) > 1
                and not isinstance(module, nn.Dropout | nn.AdaptiveAvgPool2d)
            ):
                found.append((name, output.shape))

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in backbone.named_modules() if name]
    hooks.append(head.register_forward_pre_hook(begin))
    training = [module for module in backbone.modules() if module.training]
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(2, 3, img_size, img_size, device=next(backbone.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return found


def _before_widening(backbone: nn.Module, here: list[tuple[str, torch.Size]], name: str) -> tuple[str, torch.Size]:
    """The stage `name`, or what comes before the 1x1 convolution that widens it, beside it or in it; `here`: the modules of its stride."""
    shapes = dict(here)
    beside = [other for other in shapes if other.count(".") == name.count(".")]
    sees = [_largest_kernel(backbone.get_submodule(other)) for other in beside]
    last = max(
        (n for n, size in enumerate(sees) if size > 1), default=len(sees) - 1
    )  # after it come a 1x1 convolution, norms, activations
    name = beside[last] if 1 in sees[last + 1 :] else beside[-1]
    stage = backbone.get_submodule(name)
    if isinstance(stage, nn.Sequential) and _largest_kernel(stage[-1]) == 1 and f"{name}.{len(stage) - 2}" in shapes:
        name = f"{name}.{len(stage) - 2}"
    return name, shapes[name]


def _largest_kernel(module: nn.Module) -> int:
    """The largest side of its convolutions, 0 without one."""
    return max((max(part.kernel_size) for part in module.modules() if isinstance(part, nn.Conv2d)), default=0)


def _has_stride(shape: torch.Size, stride: int, img_size: int) -> bool:
    return round(math.log2(img_size / _side(shape))) == int(math.log2(stride))


def _last(shape: torch.Size) -> bool:
    """Whether (B, ., ., .) of a square image is channels last: its two equal sides stand before the channels."""
    return shape[2] != shape[3] and shape[1] == shape[2]


def _side(shape: torch.Size) -> int:
    """Cells a side; 1 where there is no square map."""
    return shape[1] if _last(shape) else shape[2] if shape[2] == shape[3] else 1
