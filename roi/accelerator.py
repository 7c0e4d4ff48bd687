"""What the code asks of the device that computes: the one place that calls torch.cuda and torch.mps.

A CPU answers the same questions, so that no caller asks which kind it has. tests/test_accelerator.py lets a CPU answer
as a GPU does, and takes whole trainings and predictions along the ways of a GPU.
"""

from typing import NamedTuple

import torch
from torch import Tensor

GIB = 2**30


class Memory(NamedTuple):
    """Of a device, in bytes."""

    free: int
    total: int


class Accelerator:
    """A device; of this class itself, the CPU or one of a kind that nothing is known of."""

    backend = "gloo"  # of torch.distributed
    pins = False  # copies from pinned memory of the host go on while it computes
    keeps_pixels = False  # has memory of its own, which may hold the pixels of a whole cache

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def of_process(self, local_rank: int) -> torch.device:
        """The device of this process among those of the machine, made the current one."""
        return self.device

    def name(self) -> str:
        return self.device.type

    def memory(self) -> Memory | None:
        """None: it is the machine's."""
        return None

    def peak_memory(self) -> int:
        """The most bytes of `memory` that this process had; 0 where that is None."""
        return 0

    def usual_dtype(self) -> torch.dtype:
        """What --autocast_dtype auto stands for."""
        return torch.float32

    def rng_state(self) -> dict[str, Tensor]:
        """The generator that dropout draws from, by the kind of device; empty: it is that of the CPU."""
        return {}

    def set_rng_state(self, states: dict[str, Tensor]) -> None:
        """Of `rng_state`; states of another kind of device are left alone."""

    def pinned(self, tensor: Tensor) -> Tensor:
        """The same values where a copy to the device can begin and not be waited for."""
        return tensor.pin_memory() if self.pins else tensor


class Cuda(Accelerator):
    backend = "nccl"
    pins = True
    keeps_pixels = True

    def of_process(self, local_rank: int) -> torch.device:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device

    def name(self) -> str:
        return torch.cuda.get_device_name(self.device)

    def memory(self) -> Memory:
        return Memory(*torch.cuda.mem_get_info(self.device))

    def peak_memory(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)

    def usual_dtype(self) -> torch.dtype:
        # fp16 on an older one.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    def rng_state(self) -> dict[str, Tensor]:
        return {"cuda": torch.cuda.get_rng_state(self.device)}

    def set_rng_state(self, states: dict[str, Tensor]) -> None:
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)


class Mps(Accelerator):
    keeps_pixels = True

    def rng_state(self) -> dict[str, Tensor]:
        return {"mps": torch.mps.get_rng_state()}

    def set_rng_state(self, states: dict[str, Tensor]) -> None:
        if "mps" in states:
            torch.mps.set_rng_state(states["mps"])


KINDS: dict[str, type[Accelerator]] = {"cuda": Cuda, "mps": Mps, "cpu": Accelerator}


def of(device: torch.device) -> Accelerator:
    return KINDS.get(device.type, Accelerator)(device)


def available() -> list[str]:
    """Kinds of devices that are here, the best first."""
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.insert(0, "mps")
    if torch.cuda.is_available():
        found.insert(0, "cuda")
    return found
