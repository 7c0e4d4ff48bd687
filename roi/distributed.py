"""torchrun in a handful of functions: tensors and gradients between processes. In one process each does nothing.

Started by `torchrun --nproc_per_node N script.py …`. Process 0 writes and speaks. What needs no torch (who is who,
barriers, gathered objects) is roi/process_group.py; code that loads torch anyway finds it here too.
"""

import ctypes
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from roi import accelerator, process_group
from roi.process_group import all_gather_objects, barrier, local_rank, one_a_machine_first, rank, world

__all__ = [
    "all_gather_objects",
    "average",
    "barrier",
    "counting",
    "local_rank",
    "mean",
    "no_sync",
    "one_a_machine_first",
    "processes",
    "rank",
    "world",
    "wrap_ddp",
]

TIMEOUT = timedelta(hours=2)  # one process decodes images while the others wait


class HostGroup:
    """Talks over the host, whatever the device, so that no GPU waits for it."""

    def __init__(self) -> None:
        self.gloo: Any = td.new_group(backend="gloo", timeout=TIMEOUT)

    def all_gather_objects(self, thing: Any) -> list[Any]:
        things: list[Any] = [None] * world()
        td.all_gather_object(things, thing, group=self.gloo)
        return things

    def barrier(self) -> None:
        td.barrier(group=self.gloo)


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes for the length of a block. All but process 0 print nothing but errors.

    Yields:
        the device of this process.
    """
    if world() == 1:
        yield device
        return
    own = accelerator.of(device)
    device = own.of_process(local_rank())
    td.init_process_group(own.backend, timeout=TIMEOUT)
    host = HostGroup()
    process_group.set_group(host)
    keep(host.gloo)
    if own.backend == "gloo":
        keep(td.group.WORLD)
    console = sys.stdout
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        yield device
    finally:
        sys.stdout = console
    # Process 0 may still be writing. Nobody waits here after an error: torchrun ends the others.
    barrier()
    td.destroy_process_group()
    process_group.set_group(None)


def keep(group: Any) -> None:
    """Let a group of gloo live as long as the process does."""
    # Its destructor waits for its threads and holds the lock of Python, for which one of them may wait: a training of
    # two processes that had written everything did not end (torch 2.6, once in many runs).
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def wrap_ddp(step: nn.Module) -> nn.Module:
    """`step` with gradients averaged over the processes while the backward pass still runs."""
    if world() == 1:
        return step
    # A warm-up leaves the mask net out. Statistics of batch norm are averaged after each step, not those of process 0;
    # the flag for that has another name from torch 2.14 on.
    sync_buffers = "forward_sync_buffers"
    if sync_buffers not in inspect.signature(DistributedDataParallel).parameters:
        sync_buffers = "broadcast_buffers"
    flags: dict[str, Any] = {"find_unused_parameters": True, sync_buffers: False}
    return DistributedDataParallel(step, **flags)


def no_sync(step: nn.Module, more: bool) -> AbstractContextManager[None]:
    """While `more` batches of the same optimiser step are to come, gradients stay where they are."""
    if more and isinstance(step, DistributedDataParallel):
        return step.no_sync()
    return nullcontext()


def mean(tensor: Tensor) -> Tensor:
    """The mean over the processes, in place."""
    if world() > 1:
        td.all_reduce(tensor)
        tensor /= world()
    return tensor


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Each tensor is replaced by its mean over the processes, all of them in one transfer."""
    if world() == 1 or not tensors:
        return
    together = mean(torch.cat([tensor.flatten() for tensor in tensors]))
    sizes = [tensor.numel() for tensor in tensors]
    parts = [part.view_as(tensor) for tensor, part in zip(tensors, together.split(sizes), strict=True)]
    torch._foreach_copy_(list(tensors), parts)


def counting(values: Tensor, share: float) -> Tensor:
    """What a sum over the batch of this process is divided by to count every value of all processes once.

    The mean over the processes of (its loss times `share`) is then the sum over all of them divided by all their
    values. A process with share 0 counts nothing. () -> ()
    """
    if world() == 1:
        return values
    return mean(values * (share > 0)) * share
