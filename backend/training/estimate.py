"""What a run will need, told before its first step: micro-batches, memory, minutes, and advice."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from backend.config.schema import ModelConfig, TrainConfig
from backend.data.batches import Batch
from backend.data.bins import Bins
from backend.errors import ConfigError, UserError, first_line
from backend.models import lora
from backend.models.gpt import GPT, n_params, on_meta, training_gb
from backend.runtime import Runtime
from backend.training import optim
from backend.training.screen import clock

ROOM = 0.85  # of the memory: allocators leave gaps


@dataclasses.dataclass(frozen=True)
class Division:
    """How the sequences of one step are dealt out."""

    sequences: int  # of a full step, over all processes
    batch_size: int  # sequences of one micro-batch
    processes: int

    @property
    def accumulation(self) -> int:
        """Micro-batches of one process in a full step."""
        return self.sequences // self.processes // self.batch_size

    def rows(self, rank: int, of: int) -> list[range]:
        """The micro-batches of a process in a step of `of` sequences."""
        share = of // self.processes
        first = rank * share
        starts = range(first, first + share, self.batch_size)
        return [range(start, min(start + self.batch_size, first + share)) for start in starts]


def divide(config: TrainConfig, runtime: Runtime, vocab_size: int) -> Division:
    """The recipe says the tokens of a step; the memory of one device says how they are divided.

    Raises:
        ConfigError: it cannot be divided so.
    """
    per_step, asked = config.tokens_per_step, config.gradient_accumulation_steps
    T, processes = config.block_size, runtime.world_size
    if per_step is None:
        assert isinstance(config.batch_size, int)  # problems() saw to it
        assert asked is not None
        if asked % processes:
            raise ConfigError(
                f"gradient_accumulation_steps = {asked} is not a multiple of {processes} processes",
                mend=f"--gradient_accumulation_steps={_accumulation(config, processes)}",
            )
        nanogpts = Division(config.batch_size * asked, config.batch_size, processes)
        _check_shares(config, nanogpts.sequences, processes)
        return nanogpts
    if per_step % T:
        raise ConfigError(
            f"tokens_per_step = {per_step:,} is not a multiple of block_size = {T}",
            mend=f"--tokens_per_step={max(1, per_step // T) * T}",
        )
    sequences = per_step // T
    _check_shares(config, sequences, processes)
    mine = sequences // processes
    if config.batch_size == "auto":
        fits = [
            2**i
            for i in range(mine.bit_length())
            if mine % 2**i == 0 and _gb(config, vocab_size, 2**i) <= ROOM * runtime.memory_gb
        ]
        batch_size = mine // (asked // processes or 1) if asked else max(fits, default=1)
    else:
        batch_size = config.batch_size
    accumulation = asked or max(1, mine // batch_size) * processes
    if batch_size * accumulation != sequences:
        raise ConfigError(
            f"batch_size {batch_size} x block_size {T} x gradient_accumulation_steps "
            f"{accumulation} = {batch_size * T * accumulation:,} tokens, but tokens_per_step "
            f"= {per_step:,}",
            mend="leave out one of them",
        )
    return Division(sequences, batch_size, processes)


def _check_shares(config: TrainConfig, sequences: int, processes: int) -> None:
    """Each process must have as many sequences as any other, also while the batch warms up."""
    T, warmup = config.block_size, config.batch_warmup_iters
    sizes = {optim.sequences(sequences, warmup, step) for step in range(warmup + 1)}
    if any(size % processes for size in sizes):
        steps = ", ".join(map(str, sorted(sizes)))
        unit = _unit(config, processes)
        mend = (
            f"--tokens_per_step={T * unit * max(1, round(sequences / unit))}"
            if config.tokens_per_step
            else f"--gradient_accumulation_steps={_accumulation(config, processes)}"
        )
        raise ConfigError(
            f"steps of {steps} sequences of {T} tokens cannot be dealt out to {processes} "
            "processes alike",
            mend=f"{mend}, or other processes",
        )


def _unit(config: TrainConfig, processes: int) -> int:
    """Sequences, multiples of which can always be dealt out."""
    return processes * (optim.FIRST_BATCH if config.batch_warmup_iters else 1)


def _accumulation(config: TrainConfig, processes: int) -> int:
    """nanoGPT's key, as near as it can be to what was asked."""
    asked, size = config.gradient_accumulation_steps, config.batch_size
    assert asked is not None
    assert isinstance(size, int)
    unit = _unit(config, processes)
    pieces = math.lcm(processes, unit // math.gcd(unit, size))
    return pieces * max(1, round(asked / pieces))


def _gb(config: TrainConfig, vocab_size: int, batch_size: int) -> float:
    """Estimate of the memory of a step, in GB."""
    model = on_meta(config.part(ModelConfig), vocab_size)
    if config.lora_rank:
        lora.add(model, config.lora_rank, 1.0)
    return training_gb(model, batch_size, checkpointing=config.activation_checkpointing)


def banner(
    config: TrainConfig,
    runtime: Runtime,
    bins: Bins,
    model: GPT,
    division: Division,
    how: str,
    step: int,
) -> str:
    """The arithmetic of the run."""
    tokens = division.sequences * config.block_size
    n = len(bins.train.tokens)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trained = f" ({learning:,} of them trained, LoRA)" if config.lora_rank else ""
    several = f" x {division.processes} processes ({how})" if division.processes > 1 else ""
    rows = "songs" if config.batches == "songs" else "random windows"
    return (
        f"settings:\n{config.shown()}\n"
        f"device:   {runtime.shown()}\n"
        f"data:     {bins.folder}: {bins.train.songs} songs, {n:,} tokens to train on; "
        f"{bins.val.songs} songs, {len(bins.val.tokens):,} tokens held out; "
        f"vocabulary {bins.tokenizer.vocab_size:,}\n"
        f"model:    {n_params(model):,} parameters{trained}, {config.n_layer} layers, "
        f"{config.n_head} heads, {config.n_embd} wide, {model.config.attn_type}\n"
        f"step:     {division.batch_size} sequences x {config.block_size} tokens x "
        f"{division.accumulation} micro-batches{several} = {tokens:,} tokens, {rows}; "
        f"{n / tokens:.1f} steps an epoch\n"
        f"run:      {config.out_dir}, steps {step:,} to {config.max_iters:,}; "
        f"loss of pure chance {math.log(bins.tokenizer.vocab_size):.3f}"
    )


def rehearse(
    step: Callable[[Callable[..., Any]], object],
    eager: Callable[..., Any],
    compiled: Callable[..., Any] | None,
) -> tuple[Callable[..., Any], float]:
    """One micro-batch to warm up and one by the clock; the weights stay as they are.

    Where compilation fails, for want of a C++ compiler, of Triton or of support for the device, it
    is said once, and the run goes on without.

    Args:
        step: forward and backward through the function that it is given.
    Returns:
        (what is called in training, seconds of a micro-batch)
    """
    call = eager
    if compiled is not None:
        began = time.monotonic()
        try:
            step(compiled)
            call = compiled
            print(f"compiled in {time.monotonic() - began:.0f} s", flush=True)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            print(
                f"note: torch.compile fails here ({first_line(error)}); going on without, slower",
                flush=True,
            )
    if call is eager:
        step(eager)
    began = time.monotonic()
    step(call)
    return call, time.monotonic() - began


def forecast(config: TrainConfig, division: Division, model: GPT, seconds: float, step: int) -> str:
    """Two lines: the memory and the time of the run, of which so many steps are done.

    Args:
        seconds: of one micro-batch.
    """
    gb = training_gb(model, division.batch_size, checkpointing=config.activation_checkpointing)
    device = next(model.parameters()).device
    memory = f"about {gb:.1f} GB for a step"
    if device.type == "cuda":
        memory = (
            f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GB for a micro-batch, and "
            f"{_state_gb(model):.1f} GB for the optimizer"
        )
    left = max(0, config.max_iters - step)
    rows = optim.sequences_before(division.sequences, config.batch_warmup_iters, step + left)
    rows -= optim.sequences_before(division.sequences, config.batch_warmup_iters, step)
    total = seconds * rows / division.processes / division.batch_size
    return (
        f"memory:   {memory}\n"
        f"time:     {clock(total)} for {left:,} steps of {seconds * division.accumulation:.2f} s, "
        "without evaluations"
    )


def _state_gb(model: GPT) -> float:
    return 8 * sum(p.numel() for p in model.parameters() if p.requires_grad) / 2**30


def advice(config: TrainConfig, bins: Bins, model: GPT, division: Division) -> str | None:
    """Will it learn the songs by heart? By passes over the data, and parameters for a character.

    Measured (docs/log.md): 3 passes over a million characters want none, 24 over 29,000 want 0.3;
    what lies between is a guess.
    """
    tokens = len(bins.train.tokens)
    epochs = config.max_iters * division.sequences * config.block_size / tokens
    wanted = next(
        rate for least, rate in ((20, 0.3), (10, 0.2), (4, 0.1), (0, 0.0)) if epochs >= least
    )
    if wanted <= config.dropout or config.lora_rank or config.overfit_one_batch:
        return None
    per_char = n_params(model) / max(1, bins.train.chars)
    return (
        f"{epochs:.0f} passes over {bins.train.chars:,} characters, {per_char:.1f} parameters for "
        f"each, at dropout {config.dropout:g}: the songs will be learnt by heart. "
        f"--dropout={wanted} helps, and --patience=5 stops when validation no longer improves"
    )


def excerpt(batch: Batch, bins: Bins, width: int = 60) -> str:
    """The first rows of a batch, x above y: what is read and what is to be guessed."""
    lines = []
    for x, y in itertools.islice(zip(batch.x.tolist(), batch.y.tolist(), strict=True), 2):
        for name, ids in (("x", x), ("y", y)):
            shown = bins.tokenizer.decode([i for i in ids[:width] if i >= 0])
            lines.append(f"  {name} | {shown[:width]!r}")
    return "\n".join(lines)


# --- when it does not fit -------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    """On any device: a CPU's allocator raises a plain RuntimeError."""
    named = isinstance(error, torch.OutOfMemoryError | MemoryError)
    text = str(error).lower()
    return named or "can't allocate memory" in text or "out of memory" in text


def check_memory(
    config: TrainConfig, division: Division, vocab_size: int, runtime: Runtime
) -> None:
    """On a CPU, what no memory of this machine could hold is refused before it is tried: no
    allocator says no there, and the kernel kills without a word.

    Raises:
        UserError: with the knobs that help.
    """
    on_gpu = runtime.device.type == "cuda"
    if not on_gpu and _gb(config, vocab_size, division.batch_size) > runtime.device_gb:
        raise out_of_memory(config, division, vocab_size, runtime)


def out_of_memory(
    config: TrainConfig, division: Division, vocab_size: int, runtime: Runtime
) -> UserError:
    """The message with the three knobs that help, and what each would need. A knob is halved until
    its step fits, once at least."""
    now, T = division.batch_size, config.block_size

    def gb(batch_size: int, **changes: Any) -> float:
        return _gb(dataclasses.replace(config, **changes), vocab_size, batch_size)

    def halved(value: int, least: int, needs: Callable[[int], float]) -> tuple[int, float]:
        value //= 2
        while needs(value) > ROOM * runtime.device_gb and value // 2 >= least:
            value //= 2
        return value, needs(value)

    knobs = []
    if now > 1:
        size, needs = halved(now, 1, gb)
        knobs.append(f"--batch_size={size} (the same step in more pieces): {needs:.1f} GB")
    if not config.activation_checkpointing:
        needs = gb(now, activation_checkpointing=True)
        knobs.append(f"--activation_checkpointing (a third slower): {needs:.1f} GB")
    if T // 2 >= 32:
        size, needs = halved(T, 32, lambda size: gb(now, block_size=size))
        knobs.append(f"--block_size={size} (less context): {needs:.1f} GB")
    return UserError(
        f"out of memory on {runtime.device}, with {now} sequences of {T} tokens",
        why=f"a step needs about {gb(now):.1f} GB, and the device has {runtime.device_gb:.1f} GB, "
        "shared with whatever else runs",
        mend="one of\n    " + "\n    ".join(knobs)
        if knobs
        else "a smaller model: --n_layer, --n_embd",
    )
