"""The facts of the machine, in one frozen value: device, precision, rank, and why each was chosen.

The one file that knows torchrun's environment. Only files about torch import it.
"""

import ctypes
import os
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch

from backend.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Built once per program by `detect`."""

    device: torch.device
    device_reason: str
    dtype: torch.dtype
    dtype_reason: str
    memory_gb: float

    def autocast(self) -> AbstractContextManager[object]:
        """Matrix products in `dtype`; the rest stays fp32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device_type=self.device.type, dtype=self.dtype)

    def shown(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.device} ({self.device_reason}), {kind} ({self.dtype_reason})"


def detect(
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory_gb: float | None = None,
    threads: int | None = None,
) -> Runtime:
    """Look at the machine, take what was asked for, and say why.

    Raises:
        ConfigError: a device that is not there, or several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "torchrun started several processes, and training runs on one device in this version",
            mend="start it with python -m backend.training.train",
        )
    if threads:
        torch.set_num_threads(threads)
    place, device_reason = _device(device)
    if place.type == "cpu":
        keep_freed_memory()
    kind, dtype_reason = _dtype(dtype, place)
    return Runtime(place, device_reason, kind, dtype_reason, memory_gb or _memory_gb(place))


@cache
def keep_freed_memory() -> None:
    """Let glibc keep what a step frees. It hands blocks above 32 MB straight back to the kernel,
    and the next step pays for fresh pages: a fifth to a third of a step of GPT-2 124M."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        # M_MMAP_THRESHOLD: smaller blocks come from the heap. An old glibc refuses so much, and
        # then the other setting alone would do harm. M_TRIM_THRESHOLD: the heap does not shrink.
        if mallopt(-3, 2**30):
            mallopt(-1, 2**31 - 1)


def _device(asked: str) -> tuple[torch.device, str]:
    if asked == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"found {torch.cuda.get_device_name()}"
        if torch.backends.mps.is_available():
            return torch.device("mps"), "found an Apple GPU"
        return torch.device("cpu"), f"no GPU found, {torch.get_num_threads()} threads"
    try:
        place = torch.device(asked)
    except RuntimeError:
        raise ConfigError(
            f"device = {asked!r} is no device", mend="cpu, cuda, cuda:1, mps or auto"
        ) from None
    found = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (place.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not found.get(place.type, False):
        raise ConfigError(
            f"device = {asked}: this machine, or PyTorch {torch.__version__}, has none",
            mend="--device=auto takes what is there",
        )
    return place, "asked for"


def _dtype(asked: str, device: torch.device) -> tuple[torch.dtype, str]:
    if asked != "auto":
        if asked == "float16" and device.type != "cuda":
            raise ConfigError(
                f"dtype = float16 trains on CUDA only, not on {device.type}",
                mend="--dtype=float32, or bfloat16 where the processor has it",
            )
        return DTYPES[asked], "asked for"
    if device.type != "cuda":
        return torch.float32, f"the safe choice on {device.type}"
    # is_bf16_supported() also says yes where bf16 is emulated, and slow.
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16, "the GPU has it"
    return torch.float16, "the GPU has no bfloat16; with a gradient scaler"


def _memory_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory / 2**30)
    return 2.0  # laptops share their memory with the rest of life
