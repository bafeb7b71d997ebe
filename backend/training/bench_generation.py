"""Figures of writing: GPT-2's shape beside its peers and beside the memory that feeds it, a small
model of characters, what int8 costs, and how long a program takes to its first word.

Part of `backend/training/bench.py`. What is compared runs in turn, each in a process of its own;
figures are medians.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from backend.config.schema import BenchConfig, ModelConfig
from backend.data.tokenizers import CharTokenizer
from backend.models import checkpoint
from backend.models.generation import Row, Sampling, generate
from backend.models.gpt import GPT
from backend.models.packed import pack
from backend.models.weights import Weights
from backend.report import table
from backend.runtime import cpu_has_bfloat16, keep_freed_memory
from backend.training.bench_model import (
    SONGBOOK,
    VOCABULARY,
    characters,
    checkout,
    children,
    hugging_face,
    nanogpt_model,
    peaks,
    window_loss,
)
from backend.training.compose import Draft, Open, Rules, Spelling
from backend.training.measure import measure, python

ROUNDS = 5
# nanoGPT reads its whole context for every token, so it is asked for fewer
PROMPT, NEW, NEW_UNCACHED, K = 8, 100, 25, 200
SIZES = {"fp32": 4, "bf16": 2, "int8": 1}  # bytes of a weight
# nanoGPT's CPU recipe: the small model
SMALL = ModelConfig(block_size=64, n_layer=4, n_head=4, n_embd=128, bias=False, activation="gelu")
CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # its 65
SAMPLES, SMALL_NEW, SMALL_NEW_UNCACHED = 10, 500, 300
# what int8 is judged on: matrices as wide as those it is for
JUDGED = ModelConfig(block_size=128, n_layer=4, n_head=4, n_embd=256)
STEPS, BATCH, RATE = 300, 16, 1e-3


def generation(config: BenchConfig) -> str:
    """All of it, as one text."""
    parts = (_gpt2, _small, _int8, _start_up)
    return "\n\n".join(part(config) for part in parts)


def _gpt2(config: BenchConfig) -> str:
    """Random weights, alone and eight texts at once."""
    theirs = checkout(config)
    names = [*["nanoGPT, fp32"] * bool(theirs), "Hugging Face, fp32", "ours, fp32"]
    names += [*["ours, bf16"] * cpu_has_bfloat16(), "ours, int8"]
    speed = _bytes_per_second()
    rows = []
    for B in (1, 8):
        with children([f"{name}, {B}" for name in names], theirs, _open) as pools:
            rates: dict[str, list[float]] = {name: [] for name in pools}
            for pool in pools.values():
                pool.apply(_written, (B, 2))  # warms up
            for _ in range(ROUNDS):
                for name, pool in pools.items():
                    rates[name].append(pool.apply(_written, (B, _new(name))))
            memory = peaks(pools)
        base = statistics.median(rates[f"Hugging Face, fp32, {B}"])
        for name, each in rates.items():
            rate = statistics.median(each)
            program = name.rpartition(",")[0]
            read = rate / B * _matrices() * SIZES[program[-4:]]  # bytes a second
            row = [B, program, _new(name), f"{rate:.1f}", f"{rate / base:.2f}"]
            rows.append([*row, f"{read / speed:.0%}"])
            print("  ".join(map(str, rows[-1])), flush=True)
    head = ["texts at once", "program", "new tokens each", "tokens/s", "against Hugging Face",
            "of the memory's speed"]  # fmt: skip
    note = (
        f"{PROMPT} tokens of prompt, drawn from the {K} likeliest. Medians of {ROUNDS}. Each step "
        f"of all texts reads {_matrices() / 1e6:.1f} M weights, of 4, 2 or 1 bytes; this memory "
        f"gives {speed / 1e9:.1f} GB/s. Peak memory of each process at 8 texts, GB: {memory}."
    )
    return table(head, rows) + f"\n\n{note}"


def _new(name: str) -> int:
    return NEW_UNCACHED if name.startswith("nanoGPT") else NEW


def _matrices() -> int:
    """Weights of GPT-2 small that a step multiplies with, the head included."""
    return 12 * 12 * 768 * 768 + VOCABULARY * 768


def _bytes_per_second() -> float:
    """What memory gives, by adding up half a gigabyte."""
    much = torch.ones(2**27)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        much.sum()
        times.append(time.perf_counter() - began)
    return much.nbytes / min(times)


_peer: tuple[str, Any]  # of a child process


def _open(name: str, theirs: Path | None) -> None:
    """Build the model that this child process is for: `program, precision, texts at once`."""
    global _peer
    torch.manual_seed(0)
    program, precision, at_once = name.split(", ")
    if program == "nanoGPT":
        assert theirs is not None
        _peer = program, nanogpt_model(theirs, ModelConfig(block_size=1024))[0].eval()
    elif program == "Hugging Face":
        _peer = program, hugging_face()[0].eval()
    else:
        keep_freed_memory()  # as sample does
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]
        gpt = GPT(ModelConfig(block_size=1024), VOCABULARY).eval()
        _peer = program, pack(gpt, kind, int(at_once))


def _written(B: int, new: int) -> float:
    """Tokens a second, of so many new ones in each of B texts."""
    program, peer = _peer
    ids = torch.randint(50_257, (B, PROMPT))
    began = time.perf_counter()
    if program == "nanoGPT":
        peer.generate(ids, new, top_k=K)
    elif program == "Hugging Face":
        peer.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new,
            do_sample=True, top_k=K, pad_token_id=0,
        )  # fmt: skip
    else:
        rows = [Row(row, seed, left=new) for seed, row in enumerate(ids.tolist())]
        for _ in generate(peer, rows, Sampling(top_k=K)):
            pass
    return B * new / (time.perf_counter() - began)


# --- the small model ------------------------------------------------------------------------------


def _small(config: BenchConfig) -> str:
    """Characters: nanoGPT one song after the other, as its sample.py does; ours all at once, with
    everything that sample does to them."""
    theirs = checkout(config)
    tokenizer = CharTokenizer.train([CHARACTERS])
    torch.manual_seed(0)
    gpt = GPT(SMALL, tokenizer.vocab_size).eval()
    spelling = Spelling(tokenizer, tokenizer.vocab_size)
    peer: Any = nanogpt_model(theirs, SMALL, len(CHARACTERS))[0].eval() if theirs else None

    def ours(samples: int) -> float:
        drafts = {}
        for seed in range(samples):
            draft = Draft(
                ["", Open("song")], Rules(), spelling, front=[tokenizer.eot], headed=False,
                seed=seed, left=SMALL_NEW,
            )  # fmt: skip
            drafts[draft.row] = draft
        how = Sampling(temperature=0.8, top_k=K, never=[tokenizer.eot, tokenizer.unknown])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as sample does
        began = time.perf_counter()
        for row, token in generate(gpt, list(drafts), how):
            drafts[row].take(token)
            drafts[row].fresh()
        seconds = time.perf_counter() - began
        torch.set_num_threads(threads)
        return samples * SMALL_NEW / seconds

    def nanogpt() -> float:
        began = time.perf_counter()
        peer.generate(torch.zeros((1, 1), dtype=torch.long), SMALL_NEW_UNCACHED, top_k=K)
        return SMALL_NEW_UNCACHED / (time.perf_counter() - began)

    rates: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        if peer is not None:
            rates.setdefault("nanoGPT, one after the other", []).append(nanogpt())
        rates.setdefault("ours, one", []).append(ours(1))
        rates.setdefault(f"ours, {SAMPLES} at once", []).append(ours(SAMPLES))
    base = statistics.median(next(iter(rates.values())))
    rows = []
    for name, each in rates.items():
        rate = statistics.median(each)
        rows.append([name, f"{rate:,.0f}", f"{rate / base:.2f}"])
        print("  ".join(rows[-1]), flush=True)
    head = ["4 layers, 128 wide, characters", "tokens/s", f"against {next(iter(rates))}"]
    return table(head, rows)


# --- int8 -----------------------------------------------------------------------------------------


def _int8(config: BenchConfig) -> str:
    """A trained model's loss with weights in a byte each."""
    tokenizer, train, val = characters(config)
    torch.manual_seed(1)
    gpt, T = GPT(JUDGED, tokenizer.vocab_size), JUDGED.block_size
    optimizer = torch.optim.AdamW(gpt.parameters(), lr=RATE, betas=(0.9, 0.99), fused=True)
    for _ in range(STEPS):
        rows = torch.stack([train[s : s + T + 1] for s in torch.randint(len(train) - T, (BATCH,))])
        loss = gpt(rows[:, :-1], rows[:, 1:])[1]
        assert loss is not None
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    plain = window_loss(gpt, val, T)
    small = window_loss(pack(gpt, torch.int8, BATCH), val, T)
    return (
        f"int8: the validation loss of a model of 4 layers, {JUDGED.n_embd} wide, after {STEPS} "
        f"steps on {Path(config.text or SONGBOOK).name} is {small:.4f} where fp32 has {plain:.4f}: "
        f"{small / plain - 1:+.3%}. `sample --quantize=int8` measures the same for its own model."
    )


# --- the program ----------------------------------------------------------------------------------


def _start_up(config: BenchConfig) -> str:
    """Seconds to the first characters of the small model, in a process of its own."""
    tokenizer = CharTokenizer.train([CHARACTERS])
    gpt = GPT(SMALL, tokenizer.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        weights = Weights(gpt.config, gpt.vocab_size, gpt.weights())
        model = Path(folder) / "small"
        checkpoint.save_weights(model, weights, step=0, facts={}, tokenizer=tokenizer.to_json())
        command = python("backend.training.sample", f"--init_from={model}", "--num_samples=1")
        words = [f"--out_dir={folder}/out", "--max_new_tokens=20"]
        times = [measure([*command, *words, f"--seed={seed}"]).seconds for seed in range(ROUNDS)]
    return f"Start-up: {statistics.median(times):.2f} s to 20 characters of the small model."
