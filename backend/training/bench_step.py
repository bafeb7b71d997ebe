"""Figures of training steps on this device: GPT-2 124M beside nanoGPT's bench.py; a small GPU.

Part of `backend/training/bench.py`. Everything runs in processes of its own, which give the memory
back. The keys, and what is done with them, are those of nanoGPT's bench.py.
"""

import itertools
import multiprocessing
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backend.config.loader import load
from backend.config.schema import BenchConfig, ModelConfig, OptimConfig, TrainConfig
from backend.data.batches import open_batches, prefetched
from backend.data.bins import Bins
from backend.errors import ConfigError, DataError
from backend.models.gpt import GPT, flops_per_token, on_meta
from backend.report import table
from backend.runtime import Runtime, detect
from backend.training import estimate, optim
from backend.training.bench_model import checkout, peak_gb
from backend.training.measure import measure
from backend.training.screen import mfu

BURN_IN, MEASURED, PROFILED = 10, 20, 3  # steps
GPT2_IDS = 50_257  # 50,304 with the padding that both have
SMALL_GB = 8.0  # of 1e9 bytes
DARKLYRICS_IDS = 905  # ATOM-GPT's vocabulary (config/train_darklyrics.py)
TRACE = Path("out/bench/trace.json")

# Theirs runs unchanged. It waits for CUDA even where there is none; the last line is ours.
RUNNER = """
import runpy, sys, torch
script = sys.argv[1] + "/bench.py"
sys.path.insert(0, sys.argv[1])
sys.argv = [script, *sys.argv[2:]]
if not torch.cuda.is_available():
    torch.cuda.synchronize = lambda *_: None
runpy.run_path(script, run_name="__main__")
if torch.cuda.is_available():
    print("peak GB:", torch.cuda.max_memory_allocated() / 2**30)
"""


@dataclass(frozen=True)
class Work:
    """Training steps to be measured."""

    shape: ModelConfig
    vocab_size: int
    batch_size: int
    device: str
    dtype: str
    compile: bool
    seed: int
    accumulation: int = 1
    dataset: str | None = None  # a folder of bins; None: one batch of random ids
    at_most_gb: float | None = None  # of the GPU's memory, for this process
    trace: Path | None = None


@dataclass(frozen=True)
class Figures:
    """What they took."""

    seconds: float  # of a step
    tokens_per_s: float
    mfu: float | None  # None where the peak is unknown
    memory_gb: float  # tensors on a GPU; else the whole process
    reserved_gb: float | None = None  # by PyTorch's allocator, gaps included
    operators: str = ""


def step(config: BenchConfig) -> str:
    """Steps of GPT-2 124M: nanoGPT's bench.py, then ours, with the same keys."""
    runtime = detect(device=config.device, dtype=config.dtype, training=True)
    compiles = _compiles(config, runtime)
    bins = _bins(config) if config.real_data else None
    shape = ModelConfig(block_size=config.block_size, bias=config.bias, activation="gelu")
    work = Work(
        shape, GPT2_IDS, config.batch_size, str(runtime.device), _name(runtime.dtype), compiles,
        config.seed, dataset=config.dataset if bins else None,
        trace=TRACE if config.profile else None,
    )  # fmt: skip
    found: dict[str, Figures] = {}
    theirs = checkout(config)
    if theirs:
        found["nanoGPT's bench.py"] = _nanogpt(theirs, work, bins)
    found["ours"] = _in_child(work)
    base = next(iter(found.values())).tokens_per_s
    rows = [
        [name, f"{got.seconds * 1000:,.1f}", f"{got.tokens_per_s:,.0f}",
         f"{got.mfu:.1%}" if got.mfu else "unknown", f"{got.memory_gb:.1f}",
         f"{got.tokens_per_s / base:.2f}"]
        for name, got in found.items()
    ]  # fmt: skip
    head = ["", "ms a step", "tokens/s", "MFU", "peak memory (GB)", f"against {next(iter(found))}"]
    data = f"windows of {config.dataset}" if bins else "one batch of random ids"
    alone = " nanoGPT computes in fp32 on a CPU, on one batch of random ids."
    note = (
        f"{_device(runtime)}; {config.batch_size} x {config.block_size} tokens, "
        f"{data}, {work.dtype}, {'with' if compiles else 'without'} torch.compile, bias "
        f"{config.bias}. {BURN_IN} steps to warm up, then {MEASURED} by the clock. MFU: of the "
        "data sheet's dense peak, for both by our count of operations."
        + alone
        * bool(theirs and runtime.device.type == "cpu")
    )
    if work.trace:
        print(found["ours"].operators)
        print(f"trace: {work.trace}, for chrome://tracing or https://ui.perfetto.dev", flush=True)
    return f"{table(head, rows)}\n\n{note}"


def too_much_for_a_cpu(config: BenchConfig) -> str | None:
    """Why `step` would take hours here, if it would."""
    here = detect(device=config.device, dtype=config.dtype, training=True).device.type
    tokens = config.batch_size * config.block_size
    if here != "cpu" or tokens <= 2048:
        return None
    return f"{tokens:,} tokens a step are for a GPU; here say --batch_size=2 --block_size=256"


def small_gpu(config: BenchConfig) -> str:
    """The step of config/train_darklyrics.py, where the GPU has 8 GB."""
    recipe = load(TrainConfig, ["config/train_darklyrics.py", "--profile=rtx3050"])
    runtime = detect(device="cuda", dtype=recipe.dtype, memory_gb=recipe.memory_gb, training=True)
    division = estimate.divide(recipe, runtime, DARKLYRICS_IDS)
    got = _in_child(
        Work(
            recipe.part(ModelConfig), DARKLYRICS_IDS, division.batch_size, "cuda",
            _name(runtime.dtype), _compiles(config, runtime), recipe.seed,
            accumulation=division.accumulation, at_most_gb=SMALL_GB,
        )
    )  # fmt: skip
    rows = [
        [f"{division.batch_size} x {recipe.block_size} x {division.accumulation}",
         f"{got.seconds * 1000:,.1f}", f"{got.tokens_per_s:,.0f}", f"{got.memory_gb:.2f}",
         f"{got.reserved_gb:.2f}"]
    ]  # fmt: skip
    head = ["sequences x tokens x micro-batches", "ms a step", "tokens/s", "tensors at most (GB)",
            "reserved (GB)"]  # fmt: skip
    note = (
        f"{_device(runtime)}; this process was held to {SMALL_GB:g} GB of it by "
        "torch.cuda.set_per_process_memory_fraction, CUDA's own context on top. "
        f"`config/train_darklyrics.py --profile=rtx3050`, dropout {recipe.dropout:g}, vocabulary "
        f"{DARKLYRICS_IDS}, one batch of random ids, {_name(runtime.dtype)}. A card of that size "
        "has the memory, not the speed."
    )
    return f"{table(head, rows)}\n\n{note}"


def _device(runtime: Runtime) -> str:
    if runtime.device.type == "cuda":
        return torch.cuda.get_device_name(runtime.device)
    return f"{runtime.device}, {torch.get_num_threads()} threads"


def _compiles(config: BenchConfig, runtime: Runtime) -> bool:
    return runtime.device.type == "cuda" if config.compile == "auto" else config.compile


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bins(config: BenchConfig) -> Bins | None:
    """What batches are read from. Where there is none it is said, and there is a way without.

    Raises:
        ConfigError: ids of another vocabulary.
    """
    try:
        bins = Bins.open(config.dataset)
    except DataError as error:
        print(f"note: {error.what}; taking one batch of random ids", flush=True)
        return None
    if bins.tokenizer.vocab_size > GPT2_IDS:
        raise ConfigError(
            f"{config.dataset} has {bins.tokenizer.vocab_size:,} ids, GPT-2 {GPT2_IDS:,}",
            mend="bins of --tokenizer=gpt2, or --real_data=False",
        )
    return bins


# --- ours -----------------------------------------------------------------------------------------


def _in_child(work: Work) -> Figures:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (work,))


def _measured(work: Work) -> Figures:
    """Train for some steps, in this process."""
    runtime = detect(device=work.device, dtype=work.dtype, training=True)
    device, on_gpu = runtime.device, runtime.device.type == "cuda"
    if work.at_most_gb and on_gpu:
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, work.at_most_gb * 1e9 / whole), 0)
    torch.manual_seed(work.seed)
    model = GPT(work.shape, work.vocab_size).to(device).train()
    optimizers = optim.build(model, OptimConfig(learning_rate=1e-4, weight_decay=0.01))
    compiled = torch.compile(model) if work.compile else None
    with closing(prefetched(_batches(work))) as feed:

        def backward(call: Callable[..., Any]) -> torch.Tensor:
            x, y = (t.to(device, non_blocking=True) for t in next(feed))
            with runtime.autocast():
                _, loss = call(x, y)
            (loss / work.accumulation).backward()
            part: torch.Tensor = loss.detach()
            return part

        call, _ = estimate.rehearse(backward, model, compiled)
        model.zero_grad(set_to_none=True)

        def train(steps: int) -> float:
            """Seconds, all that was queued for the device included."""
            _wait(device)
            began = time.perf_counter()
            for _ in range(steps):
                for _ in range(work.accumulation):
                    loss = backward(call)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                loss.item()
            _wait(device)
            return time.perf_counter() - began

        train(BURN_IN)
        seconds = train(MEASURED) / MEASURED
        # before the profiler, which keeps much itself
        gb = torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else peak_gb()
        reserved = torch.cuda.max_memory_reserved(device) / 2**30 if on_gpu else None
        operators = ""
        if work.trace:
            activities = [torch.profiler.ProfilerActivity.CPU]
            activities += [torch.profiler.ProfilerActivity.CUDA] * on_gpu
            with torch.profiler.profile(activities=activities) as profiler:
                train(PROFILED)
            work.trace.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(work.trace))
            order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
            operators = profiler.key_averages().table(sort_by=order, row_limit=15)
    rate = work.batch_size * work.shape.block_size * work.accumulation / seconds
    share = _mfu(model, rate, device, work.dtype)
    return Figures(seconds, rate, share, gb, reserved, operators)


def _batches(work: Work) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Windows of the bins; or the same random ids again and again."""
    B, T = work.batch_size, work.shape.block_size
    if work.dataset is None:
        ids = torch.randint(work.vocab_size, (B, T + 1))
        yield from itertools.repeat((ids[:, :-1].contiguous(), ids[:, 1:].contiguous()))
        return
    windows = open_batches(
        "random", Bins.open(work.dataset), seed=work.seed, block_size=T, document_mask=False
    )
    for i in itertools.count():
        batch = windows.take(i, done=i * B, of=B, rows=range(B))
        yield batch.x, batch.y


def _mfu(model: GPT, tokens_per_s: float, device: torch.device, dtype: str) -> float | None:
    if device.type != "cuda" or dtype == "float32":
        return None
    return mfu(flops_per_token(model) * tokens_per_s, torch.cuda.get_device_name(device))


def _wait(device: torch.device) -> None:
    """Until the device has done what was queued; a CPU queues nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


# --- nanoGPT's ------------------------------------------------------------------------------------


def read_bench(output: str) -> float:
    """Milliseconds of an iteration, as nanoGPT's bench.py prints them.

    Raises:
        ConfigError: it printed none.
    """
    found = re.search(r"time per iteration: ([\d.]+)ms", output)
    if not found:
        raise ConfigError(f"nanoGPT's bench.py printed no time:\n{output[-2000:]}")
    return float(found[1])


def _nanogpt(theirs: Path, work: Work, bins: Bins | None) -> Figures:
    """Their bench.py, in a folder that has the files it looks for, on the same bins."""
    on_gpu = work.device.startswith("cuda")
    real = bins is not None and on_gpu  # it pins its batches, which needs a GPU
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copyfile(theirs / "configurator.py", folder / "configurator.py")
        if bins is not None:
            data = folder / "data" / "openwebtext"
            data.mkdir(parents=True)
            (data / "train.bin").symlink_to((bins.folder / bins.names[0]).absolute())
        keys = {
            "batch_size": work.batch_size, "block_size": work.shape.block_size,
            "bias": work.shape.bias, "real_data": real, "seed": work.seed, "device": work.device,
            "dtype": work.dtype, "compile": work.compile,
        }  # fmt: skip
        words = [f"--{key}={value}" for key, value in keys.items()]
        got = measure([sys.executable, "-B", "-c", RUNNER, str(theirs), *words], folder)
    seconds = read_bench(got.output) / 1000
    rate = work.batch_size * work.shape.block_size / seconds
    peak = re.search(r"peak GB: ([\d.]+)", got.output)
    memory = float(peak[1]) if peak else (got.peak_mb or 0) / 1024
    model = on_meta(work.shape, work.vocab_size)  # the same shape, for the count
    return Figures(seconds, rate, _mfu(model, rate, torch.device(work.device), work.dtype), memory)
