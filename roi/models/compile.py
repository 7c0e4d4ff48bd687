"""Parts of a backbone that are compiled, or computed twice instead of kept.

What looks into the backbone (the stages of a mask, the taps of GradNorm) goes on seeing every call: its hooks stay
outside the parts.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from roi.errors import UserError
from roi.models.backbones import classifier_layer
from roi.models.roi_model import RoiModel


def compiled(model: RoiModel) -> None:
    """torch.compile the largest parts inside which nobody looks, one by one.

    The first batch of a new size takes minutes.
    """
    _, last = classifier_layer(model.backbone)
    compiled_parts = list(parts(model.backbone, last))
    for part in compiled_parts:
        part.forward = torch.compile(part.forward)
    # Stages share the code of their forward, and torch counts the forms of one code: each part comes in train and eval
    # mode, with and without gradients.
    config = torch._dynamo.config
    limit = "recompile_limit"
    if not hasattr(config, limit):
        limit = "cache_size_limit"  # before torch 2.7
    needed = 16 * len(compiled_parts)
    setattr(config, limit, max(getattr(config, limit), needed))


def parts(module: nn.Module, last: nn.Module) -> Iterator[nn.Module]:
    """The largest submodules with layers of their own into which nobody looks.

    They hold neither the classifier layer `last` nor a module that somebody hooked.
    """
    for child in module.children():
        # A single layer gains nothing, and the classifier layer is looked at by GradNorm.
        if child is last or not _descendants(child):
            continue
        if _is_watched(child, last):
            yield from parts(child, last)
        elif next(child.parameters(), None) is not None:
            yield child


def recomputed(model: RoiModel) -> None:
    """Keep only the inputs of the repeated blocks of the backbone, for less memory (Chen et al. 2016).

    Their inside is computed again in the backward pass.

    Raises:
        UserError: the backbone has no repeated blocks.
    """
    _, last = classifier_layer(model.backbone)
    repeated = list(blocks(model.backbone, last))
    if not repeated:
        name = type(model.backbone).__name__
        raise UserError(f"--checkpoint_activations: {name} has no repeated blocks; leave it out")
    for block in repeated:
        block.forward = _recomputing_forward(block, block.forward)


def blocks(module: nn.Module, last: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that stand several times in a row of a Sequential or a ModuleList, each with layers."""
    containers = nn.Sequential | nn.ModuleList
    counts: Counter[type] = Counter()
    if isinstance(module, containers):
        counts.update(type(child) for child in module.children())
    for child in module.children():
        repeated = counts[type(child)] > 1 and not isinstance(child, containers)
        if repeated and _descendants(child) and not _is_watched(child, last):
            yield child
        else:
            yield from blocks(child, last)


def _descendants(module: nn.Module) -> list[nn.Module]:
    return [inner for inner in module.modules() if inner is not module]


def _is_watched(module: nn.Module, last: nn.Module) -> bool:
    """Whether `last`, or a module that somebody hooked, lies inside."""
    return any(inner is last or inner._forward_hooks for inner in _descendants(module))


def _recomputing_forward(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """The `forward` of a block that keeps its inputs alone for the backward pass."""

    def run(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        modes = modes_of(block)
        requires_grad = _requires_grad(block)
        calls = 0

        def again(*inputs: Any) -> Any:
            nonlocal calls
            calls += 1
            with _as_it_was(block, modes, requires_grad, first=calls == 1):
                return forward(*inputs)

        return checkpoint(again, *inputs, use_reentrant=False)

    return run


def modes_of(block: nn.Module) -> list[bool]:
    return [module.training for module in block.modules()]


def _requires_grad(block: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in block.parameters()]


@contextmanager
def _as_it_was(block: nn.Module, modes: list[bool], requires_grad: list[bool], first: bool) -> Iterator[None]:
    """The block in the modes of its first call, whatever came after it, as that of another view."""
    now = modes_of(block), _requires_grad(block)
    # Batch norm counts a batch once: the second call learns into copies, and the buffers come back afterwards.
    norms: list[nn.Module] = []
    if not first:
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    buffers_before = [dict(norm._buffers) for norm in norms]
    _set(block, modes, requires_grad)
    for norm in norms:
        norm._buffers.update(_cloned(norm._buffers))
    try:
        yield
    finally:
        _set(block, *now)
        for norm, buffers in zip(norms, buffers_before, strict=True):
            norm._buffers.update(buffers)


def _cloned(buffers: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    copies = dict(buffers)
    for name, value in buffers.items():
        if value is not None:
            copies[name] = value.clone()
    return copies


def _set(block: nn.Module, modes: list[bool], requires_grad: list[bool]) -> None:
    for module, training in zip(block.modules(), modes, strict=True):
        module.training = training
    for parameter, learns in zip(block.parameters(), requires_grad, strict=True):
        parameter.requires_grad_(learns)
