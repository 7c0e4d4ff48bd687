"""Parts of a backbone that are compiled, or computed twice instead of kept.

What looks into the backbone (the stages of a mask, the taps of GradNorm) goes on seeing every call: its hooks stay outside the parts.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from roi.errors import UserError
from roi.models.backbones import classifier_layer
from roi.models.roi_model import RoiModel


def compiled(model: RoiModel) -> None:
    """torch.compile the largest parts inside which nobody looks, one by one. The first batch of a new size takes minutes."""
    found = list(parts(model.backbone, classifier_layer(model.backbone)[1]))
    for part in found:
        part.forward = torch.compile(part.forward)
    limits = torch._dynamo.config  # of the forms of one function: stages share theirs, and each comes in train and eval mode, with and without gradients
    name = "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit"  # before torch 2.7
    setattr(limits, name, max(getattr(limits, name), 16 * len(found)))


def parts(module: nn.Module, last: nn.Module) -> Iterator[nn.Module]:
    """The largest submodules with layers of their own that hold neither the head `last` nor a module that somebody hooked."""
    for child in module.children():
        inside = [m for m in child.modules() if m is not child]
        if child is last or not inside:
            continue
        if any(m is last or m._forward_hooks for m in inside):
            yield from parts(child, last)
        elif any(True for _ in child.parameters()):
            yield child


def recomputed(model: RoiModel) -> None:
    """Keep the inputs of the repeated blocks of the backbone alone, and compute their inside again in the backward pass (Chen et al. 2016).

    UserError: the backbone has no repeated blocks.
    """
    found = list(blocks(model.backbone, classifier_layer(model.backbone)[1]))
    if not found:
        raise UserError(
            f"--checkpoint_activations: {type(model.backbone).__name__} has no repeated blocks; leave it out"
        )
    for block in found:
        block.forward = _twice(block, block.forward)


def blocks(module: nn.Module, last: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that stand several times in a row (of a Sequential or a ModuleList), each with layers of its own."""
    for child in module.children():
        inside = [m for m in child.modules() if m is not child]
        kinds = (
            Counter(type(m) for m in module.children())
            if isinstance(module, nn.Sequential | nn.ModuleList)
            else Counter()
        )
        repeated = kinds[type(child)] > 1 and not isinstance(child, nn.Sequential | nn.ModuleList)
        if inside and repeated and not any(m is last or m._forward_hooks for m in inside):
            yield child
        else:
            yield from blocks(child, last)


def _twice(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        modes = modes_of(block)
        learning = [p.requires_grad for p in block.parameters()]
        calls = 0

        def again(*inputs: Any) -> Any:
            nonlocal calls
            calls += 1
            with _as_it_was(block, modes, learning, first=calls == 1):
                return forward(*inputs)

        return checkpoint(again, *inputs, use_reentrant=False)

    return run


def modes_of(block: nn.Module) -> list[bool]:
    return [module.training for module in block.modules()]


@contextmanager
def _as_it_was(block: nn.Module, modes: list[bool], learning: list[bool], first: bool) -> Iterator[None]:
    """The modes of the first call, whatever came after it; batch norm counts its batch once."""
    now = modes_of(block), [p.requires_grad for p in block.parameters()]
    norms = [] if first else [m for m in block.modules() if isinstance(m, _BatchNorm)]
    statistics = [dict(norm._buffers) for norm in norms]
    _set(block, modes, learning)
    for norm in norms:  # the second call counts into copies
        norm._buffers.update({name: None if value is None else value.clone() for name, value in norm._buffers.items()})
    try:
        yield
    finally:
        _set(block, *now)
        for norm, buffers in zip(norms, statistics, strict=True):
            norm._buffers.update(buffers)


def _set(block: nn.Module, modes: list[bool], learning: list[bool]) -> None:
    for module, training in zip(block.modules(), modes, strict=True):
        module.training = training
    for parameter, learns in zip(block.parameters(), learning, strict=True):
        parameter.requires_grad_(learns)
