"""The facts of the machine, in one frozen value: device, precision, rank, and why each was chosen.

The one file that knows torchrun's environment. Only files about torch import it.
"""

import contextlib
import ctypes
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from backend.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# The others wait while rank 0 fetches or evaluates; of a process that died torchrun tells sooner.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Runtime:
    """Built once per program by `detect`."""

    device: torch.device
    device_reason: str
    dtype: torch.dtype
    dtype_reason: str
    memory_gb: float  # to be used
    device_gb: float  # there at all; a CPU's is the machine's
    rank: int = 0  # among all processes
    local_rank: int = 0  # among those of this machine
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """The one process that writes and prints."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """Matrix products in `dtype`; the rest stays fp32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device_type=self.device.type, dtype=self.dtype)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Over all processes, each of which must call it; with one process the tensor itself."""
        if self.world_size == 1:
            return tensor
        # NCCL adds up on GPUs only, and an Apple GPU has neither NCCL nor float64
        total = tensor.detach().to(self.device if self.device.type == "cuda" else "cpu", copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def any(self, flag: bool) -> bool:
        """True everywhere where it is true in one process; every process must call it."""
        return bool(self.sum(torch.tensor(int(flag))) > 0)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.sum(torch.zeros(())).item()  # item: a GPU would only queue the sum

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 runs the block, then the others do; nobody leaves before all are through it.

        Where rank 0 fails the others still get their turn, and fail over the same thing.
        """
        if not self.is_main:
            self.barrier()
        try:
            yield
        finally:
            if self.is_main:
                self.barrier()
        self.barrier()

    def close(self) -> None:
        """Leave the other processes, whatever they do. Nothing to do for one alone, or a second
        time."""
        if self.world_size > 1 and dist.is_initialized():
            # Gloo's threads drop the last tensors a moment after their work is done, and need the
            # GIL for it. Whoever destroys the group with the GIL in hand waits for them forever,
            # and at the interpreter's end they abort the process: one run in four, on a full CPU.
            time.sleep(0.1)
            dist.destroy_process_group()

    def shown(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        whole = f"{self.device} ({self.device_reason}), {kind} ({self.dtype_reason})"
        if self.world_size == 1:
            return whole
        return f"{whole}, process {self.rank + 1} of {self.world_size}"


def detect(
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory_gb: float | None = None,
    threads: int | None = None,
    backend: str = "auto",
    training: bool = False,
) -> Runtime:
    """Look at the machine, take what was asked for, and say why. Where torchrun started several
    processes they meet here.

    Args:
        threads: CPU threads of this process; None is PyTorch's choice, or a fair share.
        backend: torch.distributed's, for several processes.
        training: may take bfloat16 on a CPU, and may be one of several processes. Generation on a
            CPU stays in fp32, where it is the same with the cache and without.
    Raises:
        ConfigError: a device or backend that is not there, or several processes that do not train.
    """
    us = _processes(training)
    place, device_reason = _device(device, us)
    if place.type == "cpu":
        keep_freed_memory()
    # torchrun says 1 where the user said nothing
    said = os.environ.get("OMP_NUM_THREADS", "1") != "1"
    if threads is None and us.local_size > 1 and place.type == "cpu" and not said:
        threads = max(1, _cores() // us.local_size)
    if threads:
        torch.set_num_threads(threads)
    if device == "auto" and place.type == "cpu":
        n = torch.get_num_threads()
        device_reason += f", {n} thread" + "s" * (n != 1)
    kind, dtype_reason = _dtype(dtype, place, training)
    if us.world_size > 1:
        _meet(backend, place)
    return Runtime(
        place,
        device_reason,
        kind,
        dtype_reason,
        memory_gb or _memory_gb(place),
        _device_gb(place),
        us.rank,
        us.local_rank,
        us.world_size,
    )


class _Processes(NamedTuple):
    """This one's place among those that torchrun started."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_size: int = 1  # how many of them are on this machine


def _processes(training: bool) -> _Processes:
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return _Processes()
    if not training:
        raise ConfigError(
            "torchrun started several processes, and only training is shared among them",
            mend="start this program with python -m",
        )
    if missing := [name for name in TORCHRUN if name not in os.environ]:
        raise ConfigError(
            f"WORLD_SIZE = {os.environ['WORLD_SIZE']} asks for several processes, but "
            f"{', '.join(missing)} is not set",
            why="torchrun sets them all, and a job scheduler only some",
            mend="make ddp-train NGPUS=2 CONFIG=...; or unset WORLD_SIZE for one process",
        )
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    return _Processes(*(int(os.environ[name]) for name in names))


def _meet(backend: str, device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    name = ("nccl" if on_gpu else "gloo") if backend == "auto" else backend
    # on Windows and macOS some of torch.distributed may be missing
    if not dist.is_available() or not dist.is_backend_available(name):
        raise ConfigError(
            f"backend = {name}: PyTorch {torch.__version__} has none here",
            why="several processes need one to talk to each other",
            mend="--backend=auto takes nccl on CUDA and gloo elsewhere; or start one process",
        )
    if name == "nccl" and not on_gpu:
        raise ConfigError(
            f"backend = nccl talks between CUDA devices, and this is {device}",
            mend="--backend=gloo",
        )
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(name, timeout=PATIENCE, device_id=device if name == "nccl" else None)


def _cores() -> int:
    """Those that this process may use, of which a container may have fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


def _device(asked: str, us: _Processes) -> tuple[torch.device, str]:
    """One of several processes takes the GPU of its local rank."""
    if asked == "auto":
        if torch.cuda.is_available():
            place = _own_gpu(us)
            return place, f"found {torch.cuda.get_device_name(place)}"
        if torch.backends.mps.is_available() and us.world_size == 1:
            return torch.device("mps"), "found an Apple GPU"
        return torch.device("cpu"), "no GPU found"
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
    if us.world_size > 1 and (":" in asked or place.type == "mps"):
        raise ConfigError(
            f"device = {asked} is one device, and torchrun started {us.world_size} processes",
            mend="--device=cuda gives each its own, --device=cpu a share of the cores",
        )
    if place.type == "cuda" and ":" not in asked:
        place = _own_gpu(us)
    return place, "asked for"


def _own_gpu(us: _Processes) -> torch.device:
    if us.world_size == 1:
        return torch.device("cuda")
    if (gpus := torch.cuda.device_count()) < us.local_size:
        raise ConfigError(
            f"{us.local_size} processes on this machine, which has {gpus} GPU" + "s" * (gpus != 1),
            why="each trains on a GPU of its own",
            mend=f"torchrun --nproc_per_node={gpus}, or --device=cpu",
        )
    return torch.device("cuda", us.local_rank)


def _dtype(asked: str, device: torch.device, training: bool) -> tuple[torch.dtype, str]:
    if asked != "auto":
        if asked == "float16" and device.type != "cuda":
            raise ConfigError(
                f"dtype = float16 trains on CUDA only, not on {device.type}",
                mend="--dtype=float32, or bfloat16 where the processor has it",
            )
        emulated = asked == "bfloat16" and device.type == "cpu" and not cpu_has_bfloat16()
        return DTYPES[asked], "asked for; emulated, slow" if emulated else "asked for"
    if device.type == "cpu" and training:
        if cpu_has_bfloat16():
            return torch.bfloat16, "the processor has it"
        return torch.float32, "the processor has no bfloat16"
    if device.type != "cuda":
        return torch.float32, f"the safe choice on {device.type}"
    # is_bf16_supported() also says yes where bf16 is emulated, and slow.
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16, "the GPU has it"
    return torch.float16, "the GPU has no bfloat16; with a gradient scaler"


def cpu_has_bfloat16() -> bool:
    """Products of bfloat16 in the processor, and oneDNN, whose kernels use them.

    PyTorch's own table of the processor came late, and before it only private probes, for Intel's
    and AMD's: what a version has of neither counts as no.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if table := getattr(torch.cpu, "get_capabilities", None):
        has = table()
        return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in probes)


def _memory_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return _device_gb(device)
    return 2.0  # laptops share their memory with the rest of life


def _device_gb(device: torch.device) -> float:
    """All memory of a GPU; else that of the machine, or of the container we are in."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory / 2**30)
    if not hasattr(os, "sysconf"):  # Windows
        return math.inf
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there, or the word max
            limits.append(int(Path(name).read_text(encoding="ascii")))
    return min(limits) / 2**30
