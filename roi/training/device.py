"""Where a model computes and in which precision, and what torch's errors say to a user."""

import ctypes
from contextlib import suppress

import torch

from roi import accelerator
from roi.errors import RunError, UserError
from roi.files import reason

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LESS_MEMORY = (
    "give a smaller --batch_size and more --accum_steps, --checkpoint_activations, --autocast_dtype bf16, "
    "a smaller --img_size, or --cache_on_device no"
)
# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def pick_device(name: str) -> torch.device:
    """The device that --device names; auto: cuda, mps or cpu, the first there is.

    Raises:
        UserError: there is no such device here
    """
    # TF32 matrix products on a GPU; cuDNN picks its kernels by trial, since shapes stay the same all through a run.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    _keep_memory()
    available = accelerator.available()
    if name == "auto":
        return torch.device(available[0])
    if name.split(":")[0] not in available:
        raise UserError(f"--device {name}: not available here (there is {', '.join(available)})")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such device") from error


def _keep_memory() -> None:
    """Let glibc keep the memory of large tensors, up to 2 GB beyond what is in use. Other systems go without."""
    # glibc gives the memory of each large tensor back to the system, and takes it anew page by page, which costs
    # a CPU much of its time on large batches.
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type that --autocast_dtype names; auto: bf16 on a GPU that has it (fp16 on an older one), fp32 on a CPU."""
    if name != "auto":
        return DTYPES[name]
    return accelerator.of(device).usual_dtype()


def explain_error(error: BaseException, where: str, less_memory: str = LESS_MEMORY) -> UserError | RunError:
    """An error of torch in one line, with the remedy where there is one.

    Args:
        where: what was being done, in words
        less_memory: the flags that need less memory
    """
    # It has said what happened: where is all that is missing.
    if isinstance(error, RunError):
        return RunError(f"{where}: {error}")
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if out_of_memory or "can't allocate memory" in str(error):
        return UserError(f"out of memory in {where} ({reason(error)}); {less_memory}")
    return RunError(f"{where}: {type(error).__name__}: {reason(error)} (ROI_DEBUG=1 shows where it came from)")
