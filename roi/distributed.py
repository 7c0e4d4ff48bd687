"""torchrun in a handful of functions: everything that knows of several processes. In one process each of them does nothing.

Started by `torchrun --nproc_per_node N script.py …`, which sets RANK, LOCAL_RANK and WORLD_SIZE. Process 0 writes and speaks.
"""

import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes for the length of a block; -> the device of this one. All but process 0 print nothing but errors."""
    if world() == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
    hours = timedelta(hours=2)  # one decodes images while the others wait
    td.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=hours)
    global _host
    _host = td.new_group(backend="gloo", timeout=hours)
    spoken = sys.stdout
    if rank():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        yield device
    finally:
        sys.stdout = spoken
    barrier()  # process 0 may still be writing
    td.destroy_process_group()  # not after an error: it would wait for the others, and torchrun ends them all


_host: Any = None  # the group that talks over the host, whatever the device: no GPU waits for it


def wrap_ddp(step: nn.Module) -> nn.Module:
    """`step` with gradients averaged over the processes (DistributedDataParallel: overlapped with the backward pass)."""
    if world() == 1:
        return step
    # A warm-up leaves the mask net out. Statistics of batch norm are averaged after each step, not those of process 0.
    named = inspect.signature(DistributedDataParallel).parameters
    ours = (
        "forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers"
    )  # its name before torch 2.14
    flags: dict[str, Any] = {"find_unused_parameters": True, ours: False}
    return DistributedDataParallel(step, **flags)


def no_sync(step: nn.Module, more: bool) -> AbstractContextManager[None]:
    """While `more` batches of the same optimiser step are to come, gradients stay where they are."""
    return step.no_sync() if more and isinstance(step, DistributedDataParallel) else nullcontext()


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
    parts = together.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(tensor) for tensor, part in zip(tensors, parts, strict=True)])


def counting(values: Tensor, share: float) -> Tensor:
    """() what a sum over the batch of this process is divided by, so that the mean over the processes of its loss times `share`
    is the sum over all of them divided by all their values. A process with share 0 counts nothing."""
    if world() == 1:
        return values
    return mean(values * (share > 0)) * share


def all_gather_objects(thing: T) -> list[T]:
    """What each process has, in their order, on all of them; for small things (it travels as a pickle between our own processes)."""
    if world() == 1:
        return [thing]
    found: list[Any] = [None] * world()
    td.all_gather_object(found, thing, group=_host)
    return found


def highest(number: int) -> int:
    """The highest over the processes."""
    if world() == 1:
        return number
    value = torch.tensor(number)
    td.all_reduce(value, td.ReduceOp.MAX, group=_host)
    return int(value)


def barrier() -> None:
    """Until every process is here."""
    if world() > 1:
        td.barrier(group=_host)


@contextmanager
def one_a_machine_first() -> Iterator[None]:
    """A block that the first process of each machine goes through before its others: it makes what all of them read."""
    if local_rank() == 0:
        yield
        barrier()
    else:
        barrier()
        yield
