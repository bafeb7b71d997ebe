"""Figures of the model: beside its peers in training, of every kind of attention, with and without
LoRA.

Part of `backend/training/bench.py`. What is compared runs in turn, so that a busy machine slows all
of it alike; figures are medians.
"""

import importlib.util
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from backend.config.kinds import KINDS
from backend.config.schema import PRESETS, BenchConfig, ModelConfig
from backend.data.tokenizers import CharTokenizer
from backend.errors import ConfigError
from backend.models import lora
from backend.models.gpt import GPT, n_params
from backend.report import table
from backend.runtime import keep_freed_memory
from backend.training.measure import WAITS

ROUNDS = 5
GNU_SPINS = "300000"  # what it does where OMP_WAIT_POLICY is not set
SHAPES = ((2, 256), (1, 1024))  # sequences x tokens
VOCABULARY = 50_304  # padded, for all of them alike
# The table of attention kinds: facts of the trial on which the defaults rest.
SONGBOOK = Path(__file__).resolve().parents[2] / "assets" / "demo_songbook"
SMALL = ModelConfig(block_size=64, n_layer=2, n_head=4, n_embd=64)
STEPS, BATCH, RATE, SEEDS = 500, 16, 1e-3, (1, 2, 3)

Step = Callable[[torch.Tensor], torch.Tensor]  # ids (B, T+1) -> loss ()


def checkout(config: BenchConfig) -> Path | None:
    """Where nanoGPT lies, if it does.

    Raises:
        ConfigError: what was named is no checkout of it.
    """
    named = config.nanogpt or os.environ.get("NANOGPT")
    if named and not (Path(named) / "model.py").is_file():
        raise ConfigError(f"no model.py in {named}", mend="--nanogpt=PATH of a checkout of nanoGPT")
    return Path(named).absolute() if named else None


def model(config: BenchConfig) -> str:
    """Forward and backward of GPT-2 124M: nanoGPT's, Hugging Face's, ours; each in a process of its
    own, that do a step in turn."""
    theirs = checkout(config)
    names = ["nanoGPT, fp32"] * bool(theirs)
    names += ["Hugging Face, fp32", "ours, fp32", "ours, bf16"]
    rows = []
    with children(names, theirs, _open) as pools:
        for B, T in SHAPES:
            seconds: dict[str, list[float]] = {name: [] for name in names}
            for round_ in range(ROUNDS + 1):
                for name, pool in pools.items():
                    took = pool.apply(_timed, (B, T))
                    if round_:  # the first one warms up
                        seconds[name].append(took)
            base = statistics.median(seconds[names[0]])
            for name, times in seconds.items():
                median = statistics.median(times)
                row = [f"{B} x {T}", name, f"{median:.2f}", f"{B * T / median:,.0f}"]
                rows.append([*row, f"{base / median:.2f}"])
                print("  ".join(rows[-1]), flush=True)
        memory = peaks(pools)
    head = ["sequences x tokens", "model", "seconds", "tokens/s", f"against {names[0]}"]
    note = f"Medians of {ROUNDS}. Peak memory of each process, GB: {memory}."
    return table(head, rows) + f"\n\n{note}"


@contextmanager
def children(
    names: Sequence[str], theirs: Path | None, opened: Callable[[str, Path | None], None]
) -> Iterator[dict[str, Pool]]:
    """A process for each peer, in which its model was opened: one after the other, so that each
    finds the cores as free as a program alone does. How OpenMP waits is then the choice of
    `backend` in ours; peers, who import it here alone, get what GNU OpenMP does by itself."""
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pools: dict[str, Pool] = {}
        for name in names:
            with _waiting_as(name):
                pools[name] = stack.enter_context(spawn.Pool(1, opened, (name, theirs)))
                pools[name].apply(os.getpid)  # answers when it has opened
        yield pools


@contextmanager
def _waiting_as(name: str) -> Iterator[None]:
    """What is set of OpenMP for a child; where the user set it, that holds for all."""
    kept = {key: os.environ[key] for key in WAITS & os.environ.keys()}
    if "LYRICS_WAITS" in kept:
        for key in kept:
            del os.environ[key]
        if not name.startswith("ours"):
            os.environ["GOMP_SPINCOUNT"] = GNU_SPINS
    try:
        yield
    finally:
        os.environ.pop("GOMP_SPINCOUNT", None)
        os.environ |= kept


def peaks(pools: dict[str, Pool]) -> str:
    return ", ".join(f"{name} {pool.apply(peak_gb):.1f}" for name, pool in pools.items())


_peer: tuple[str, torch.nn.Module, Step]  # of a child process


def _open(name: str, theirs: Path | None) -> None:
    """Build the model that this child process is for."""
    global _peer
    torch.manual_seed(0)
    shape = ModelConfig(block_size=1024)
    if name.startswith("nanoGPT"):
        assert theirs is not None
        _peer = name, *nanogpt_model(theirs, shape)
    elif name.startswith("Hugging Face"):
        _peer = name, *hugging_face()
    else:
        keep_freed_memory()  # as train does
        half = torch.autocast("cpu", torch.bfloat16, enabled=name.endswith("bf16"))
        gpt = GPT(shape, VOCABULARY)
        _peer = name, gpt, _step(gpt, half)


def _timed(B: int, T: int) -> float:
    """Seconds of forward and backward."""
    _, module, step = _peer
    ids = torch.randint(50_257, (B, T + 1))
    began = time.perf_counter()
    step(ids).backward()  # type: ignore[no-untyped-call]
    module.zero_grad(set_to_none=True)
    return time.perf_counter() - began


def peak_gb() -> float:
    """Peak resident memory of this process."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KB on Linux


def _step(module: GPT, precision: AbstractContextManager[Any]) -> Step:
    def step(ids: torch.Tensor) -> torch.Tensor:
        with precision:
            loss: torch.Tensor | None = module(ids[:, :-1], ids[:, 1:])[1]
        assert loss is not None
        return loss

    return step


def hugging_face() -> tuple[torch.nn.Module, Step]:
    """Hugging Face's GPT-2 124M, with random weights, and a step of it."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = GPT2Config(vocab_size=VOCABULARY, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    theirs: Any = GPT2LMHeadModel(settings)

    def step(ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = theirs(ids[:, :-1]).logits
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return theirs, step


def nanogpt_model(
    checkout: Path, shape: ModelConfig, vocab_size: int = VOCABULARY
) -> tuple[torch.nn.Module, Step]:
    """nanoGPT's model of this shape, from a checkout, and a step of it."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sizes = {k: getattr(shape, k) for k in ("block_size", "n_layer", "n_head", "n_embd", "bias")}
    theirs: Any = module.GPT(module.GPTConfig(vocab_size=vocab_size, dropout=0.0, **sizes))

    def step(ids: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = theirs(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())[1]
        return loss

    return theirs, step


def characters(config: BenchConfig) -> tuple[CharTokenizer, torch.Tensor, torch.Tensor]:
    """The characters of a text, and their ids: nine tenths to train on, and the rest."""
    files = [Path(config.text)] if config.text else sorted(SONGBOOK.rglob("*.*"))
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    tokenizer = CharTokenizer.train([text])
    ids = torch.from_numpy(tokenizer.encode(text).astype(np.int64))
    return tokenizer, ids[: int(0.9 * len(ids))], ids[int(0.9 * len(ids)) :]


def attention(config: BenchConfig) -> str:
    """Every kind trained alike on characters of a text: loss, speed, memory."""
    tokenizer, train, val = characters(config)
    chosen = [("SM", "none"), ("GK", "none"), ("GK", "row"), ("GK", "norm")]
    chosen += [("GKpoly-4", "none"), ("GKpoly-8", "none"), ("PA_relu", "T")]
    chosen += [(kind, "row") for kind in KINDS if kind.startswith("PA_")]
    rows = []
    for kind, scale in chosen:
        shape: Any = {"attn_type": kind, "attn_scale": scale}
        settings = ModelConfig(**SMALL.as_dict() | shape)
        runs = [_train(settings, tokenizer.vocab_size, train, val, seed) for seed in SEEDS]
        losses = [loss for loss, _, _ in runs]
        spread = max(losses) - min(losses)
        speed = statistics.median(rate for _, rate, _ in runs)
        row = [kind, scale, f"{statistics.median(losses):.3f}", f"{spread:.3f}", f"{speed:,.0f}"]
        rows.append([*row, f"{runs[0][2]:.1f}"])
        print("  ".join(rows[-1]), flush=True)
    head = ["attn_type", "attn_scale", "loss", "spread", "tokens/s", "MB for backward"]
    note = (
        f"{SMALL.n_layer} layers, {SMALL.n_head} heads, {SMALL.n_embd} wide; {STEPS} AdamW steps "
        f"of {BATCH} x {SMALL.block_size} characters of {Path(config.text or SONGBOOK).name} "
        f"({len(train) + len(val):,} in all) at {RATE:g}, fp32. Loss: nats a character over the "
        f"last tenth, median of {len(SEEDS)} seeds, and their spread."
    )
    return table(head, rows) + f"\n\n{note}"


def _train(
    settings: ModelConfig, vocab_size: int, train: torch.Tensor, val: torch.Tensor, seed: int
) -> tuple[float, float, float]:
    """(validation loss, tokens/s, MB that the backward pass keeps)."""
    torch.manual_seed(seed)
    gpt = GPT(settings, vocab_size)
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=RATE, betas=(0.9, 0.99), fused=True)
    T = settings.block_size
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in gpt.parameters()}

    def weigh(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def batch() -> torch.Tensor:
        starts = torch.randint(len(train) - T, (BATCH,))
        return torch.stack([train[s : s + T + 1] for s in starts])  # (B, T+1)

    step = _step(gpt, nullcontext())
    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        step(batch())
    began = time.perf_counter()
    for _ in range(STEPS):
        step(batch()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    rate = STEPS * BATCH * T / (time.perf_counter() - began)
    return window_loss(gpt, val, T), rate, sum(kept.values()) / 2**20


@torch.inference_mode()
def window_loss(gpt: GPT, ids: torch.Tensor, T: int) -> float:
    """Nats a token over a whole text (n,), read in windows of T that do not overlap, the last one
    shorter: every token but the first is guessed once, from at most T before it."""
    was_training = gpt.training
    gpt.eval()
    whole = (len(ids) - 1) // T * T
    x, y = ids[:whole].view(-1, T), ids[1 : whole + 1].view(-1, T)
    pieces = list(zip(torch.split(x, 64), torch.split(y, 64), strict=True))
    if whole < len(ids) - 1:
        pieces.append((ids[None, whole:-1], ids[None, whole + 1 :]))
    total = 0.0
    for a, b in pieces:
        loss = gpt(a, b)[1]
        assert loss is not None
        total += loss.item() * a.numel()
    gpt.train(was_training)
    return total / (len(ids) - 1)


def lora_memory(config: BenchConfig) -> str:
    """One step of finetuning, all weights against LoRA, each in a process of its own."""
    rows = []
    for preset, rank in (("gpt2-medium", 0), ("gpt2-medium", 16), ("gpt2-large", 16)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            trained, total, seconds, gb = pool.apply(_one_step, (preset, rank))
        how = f"LoRA, rank {rank}" if rank else "all weights"
        share = f"{trained:,} ({trained / total:.1%})"
        rows.append([preset, how, share, f"{gb:.1f}", f"{seconds:.1f}"])
        print("  ".join(rows[-1]), flush=True)
    head = ["model", "trained", "parameters trained", "peak memory (GB)", "seconds a step"]
    return table(head, rows) + "\n\nAdamW, fp32 weights, bf16 products, 1 x 512 tokens."


def _one_step(preset: str, rank: int) -> tuple[int, int, float, float]:
    """(parameters trained, parameters, seconds, peak GB of this process)."""
    keep_freed_memory()  # as train does
    torch.manual_seed(0)
    sizes: Any = PRESETS[preset]
    gpt = GPT(ModelConfig(**sizes), 50_257)
    if rank:
        lora.add(gpt, rank, 2.0 * rank)
    trained = [p for p in gpt.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    step = _step(gpt, torch.autocast("cpu", torch.bfloat16))
    times = []
    for _ in range(2):
        began = time.perf_counter()
        step(torch.randint(50_257, (1, 513))).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
    return sum(p.numel() for p in trained), n_params(gpt), min(times), peak_gb()
