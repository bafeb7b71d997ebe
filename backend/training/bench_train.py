"""Figures of training on a CPU: beside nanoGPT's own CPU recipe, to its loss and for its time.

Part of `backend/training/bench.py`. Each run is a process of its own, one after the other, on bins
of the same characters; one function scores what they leave. Seconds are those of training steps:

    nanoGPT  what its lines say, all iterations together; one that holds an evaluation counts as the
             median of those that do not
    ours     metrics.jsonl, whose clock stands still in evaluations

The seed of nanoGPT's train.py is fixed, so it has one run; ours have several.
"""

import math
import os
import pickle
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from backend.config.loader import load
from backend.config.schema import BenchConfig, DataConfig, ModelConfig, OptimConfig, TrainConfig
from backend.data.bins import Bins
from backend.errors import ConfigError
from backend.evaluation.compare import read_metrics
from backend.evaluation.loss import split_loss
from backend.models import checkpoint
from backend.report import table
from backend.runtime import detect
from backend.storage import atomic_write
from backend.training.bench_model import checkout, window_loss
from backend.training.measure import Measured, measure, python

# nanoGPT's recipe for a CPU, its README's; a line for every iteration, so that all are counted
THEIR_RECIPE = (
    "config/train_shakespeare_char.py", "--device=cpu", "--compile=False", "--eval_iters=20",
    "--log_interval=1", "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4",
    "--n_embd=128", "--dropout=0.0",
)  # fmt: skip
THEIR_CONTEXT, THEIR_BATCH, THEIR_EVALUATION = 64, 12, 250
# The same experiment in our words, where the ladder begins.
SAME_RECIPE = (
    "config/train_shakespeare_char.py", "--block_size=64", "--tokens_per_step=768", "--n_layer=4",
    "--n_head=4", "--n_embd=128", "--dropout=0", "--dtype=float32",
)  # fmt: skip
OURS = ("config/lyrics_cpu.py",)
SHORT = (
    "--n_layer=1",
    "--block_size=64",
    "--tokens_per_step=1024",
    "--muon_lr=0.02",
    "--learning_rate=8e-3",
    "--beta2=0.95",
)  # over OURS, for the run that only has to reach their loss
SHORT_SHARE = 0.05  # of their time
CALIBRATION, WARM = 60, 20  # steps that say what a step costs, but for the first ones
NEAR = (0.95, 1.02)  # of the seconds aimed at; what lies outside is run again, once
EVALUATIONS = 20  # of the run for the picture

# What the ladder adds, rung by rung, as far as our recipe has it.
RUNGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("bf16", ("dtype",)),
    ("modern blocks", ("position", "qk_norm", "activation", "tied_head", "zero_init", "init",
                       "bias", "logit_softcap", "n_layer", "n_head", "n_embd")),
    ("Muon, with its batch and schedule", (
        "optimizer", "muon_lr", "muon_momentum", "learning_rate", "min_lr", "schedule", "cooldown",
        "warmup_iters", "weight_decay", "beta1", "beta2", "grad_clip", "tokens_per_step",
        "batch_warmup_iters")),
    ("bigram table", ("bigram",)),
    ("longer context", ("block_size",)),
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A training run that ended."""

    steps: int
    seconds: float  # of training steps
    tokens: float
    curve: list[tuple[float, float]]  # (seconds, validation loss as the program itself measures it)
    process: Measured
    place: Path  # of its checkpoint

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


# --- what the programs leave ----------------------------------------------------------------------


def read_nanogpt(output: str) -> tuple[list[float], list[tuple[float, float]]]:
    """(seconds of each iteration, its curve) from what nanoGPT's train.py prints."""
    times = re.findall(r"^iter (\d+): loss \S+, time ([\d.]+)ms", output, re.MULTILINE)
    losses = re.findall(r"^step (\d+): train loss \S+, val loss (\S+)", output, re.MULTILINE)
    evaluated = {int(step) for step, _ in losses}
    plain = [float(ms) / 1000 for i, ms in times if int(i) not in evaluated]
    if not plain:
        raise ConfigError(f"nanoGPT's train.py printed no iteration:\n{output[-2000:]}")
    typical = statistics.median(plain)
    seconds = [typical if int(i) in evaluated else float(ms) / 1000 for i, ms in times]
    return seconds, [(sum(seconds[: int(step)]), float(loss)) for step, loss in losses]


def read_ours(out_dir: Path) -> tuple[list[float], float, list[tuple[float, float]]]:
    """(seconds of each step, tokens, its curve) from metrics.jsonl with a row for every step."""
    seconds: list[float] = []
    tokens = 0.0
    curve = []
    for row in read_metrics(out_dir):
        if row["split"] == "train":
            seconds.append(row["seconds"])
            tokens += row["seconds"] * row["tokens_per_s"]
        elif row["split"] == "val":
            curve.append((sum(seconds), row["loss"]))
    return seconds, tokens, curve


def steps_for(goal: float, seconds: float, steps: int) -> int:
    """Steps that take `goal` seconds, where `steps` took `seconds`."""
    return max(2, int(goal * steps / seconds))


def closing(theirs: Run, their_loss: float, ours: "Result", short: "Result") -> str:
    """The three lines that a comparison closes with; ours first, losses at nanoGPT's context."""
    reached = short.loss <= their_loss
    above, below = ("", "") if reached else ("above ", "below ")
    return "\n".join(
        [
            f"time to nanoGPT's loss: {above}{short.seconds:.1f} s against {theirs.seconds:.1f} s, "
            f"ratio {below}{theirs.seconds / short.seconds:.1f}",
            f"loss at equal time: {ours.loss:.4f} against {their_loss:.4f}",
            f"tokens/s ratio: {ours.rate / theirs.rate:.2f}",
        ]
    )


@dataclass(frozen=True)
class Result:
    """Medians over the seeds."""

    seconds: float
    rate: float
    loss: float  # at nanoGPT's context, or over the songs in bits per character
    own: float  # at our own context
    spread: float  # of loss

    @classmethod
    def of(cls, runs: Sequence[Run], losses: Sequence[tuple[float, float]]) -> "Result":
        at_theirs, at_own = zip(*losses, strict=True)
        return cls(
            statistics.median(run.seconds for run in runs),
            statistics.median(run.rate for run in runs),
            statistics.median(at_theirs),
            statistics.median(at_own),
            max(at_theirs) - min(at_theirs),
        )


# --- one corpus, both programs --------------------------------------------------------------------


class Race:
    """Bins of one corpus for both programs, and the runs on them."""

    def __init__(self, config: BenchConfig, folder: Path, bins: Bins, *, plain: bool) -> None:
        """plain: nanoGPT gets the characters alone, as its own prepare.py would write them; else
        our stream as it is, headers and ends of songs with it."""
        self.config, self.folder, self.bins, self.plain, self.n = config, folder, bins, plain, 0

    def laid_out(self) -> Path:
        """The corpus as nanoGPT reads it."""
        data, size = self.folder / "nanogpt", 0
        data.mkdir(exist_ok=True)
        for name, split in (("train", self.bins.train), ("val", self.bins.val)):
            ids = split.tokens[1:-1] if self.plain else split.tokens[:]
            ids.astype(np.uint16).tofile(data / f"{name}.bin")
            size = max(size, int(ids.max()) + 1)
        size = size if self.plain else self.bins.tokenizer.vocab_size
        (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": size}))
        return data

    def nanogpt(self, iterations: int | None = None) -> Run:
        """Their recipe, word for word; its files stay out of their checkout."""
        theirs = checkout(self.config)
        assert theirs is not None  # the caller saw to it
        n, out = iterations or self.config.max_iters, self.folder / "nanogpt-out"
        command = [sys.executable, "-B", "train.py", *THEIR_RECIPE, f"--max_iters={n}"]
        command += [f"--lr_decay_iters={n}", f"--out_dir={out}"]
        command += [f"--dataset={self.laid_out()}"]  # an absolute path, under their data/
        if n % THEIR_EVALUATION:  # a trial: they save where they evaluate, and warm up for 100
            command += [f"--eval_interval={n}", f"--warmup_iters={min(100, n // 4)}"]
        process = measure(command, theirs)
        seconds, curve = read_nanogpt(process.output)
        tokens = len(seconds) * THEIR_BATCH * THEIR_CONTEXT
        return self._told(
            "nanoGPT", Run(len(seconds), sum(seconds), tokens, curve, process, out / "ckpt.pt")
        )

    def ours(
        self, words: Sequence[str], steps: int, *, seed: int, evaluations: int = 1, name: str = ""
    ) -> Run:
        """A run of `words`, a recipe and keys; a warm-up longer than a quarter of it is cut."""
        self.n += 1
        out = self.folder / f"run{self.n}"
        warmup = min(load(TrainConfig, words).warmup_iters, steps // 4)
        process = measure(
            python(
                "backend.training.train", *words, f"--dataset={self.bins.folder}",
                f"--out_dir={out}", f"--max_iters={steps}", f"--warmup_iters={warmup}",
                f"--seed={seed}", f"--eval_interval={max(1, steps // evaluations)}", "--device=cpu",
                "--log_interval=1", "--eval_iters=0", "--sample_chars=0", "--patience=0",
                "--always_save_checkpoint=False",
            )
        )  # fmt: skip
        seconds, tokens, curve = read_ours(out)
        return self._told(name, Run(steps, sum(seconds), tokens, curve, process, out))

    def cost(self, words: Sequence[str]) -> float:
        """Seconds of a step."""
        run = self.ours(words, CALIBRATION, seed=self.config.seed, name="calibration")
        return statistics.mean(read_ours(run.place)[0][WARM:])

    def in_time(self, goal: float, words: Sequence[str], seeds: int, name: str) -> list[Run]:
        """Runs as long as `goal` seconds. What a step costs is taken from the run before; of a run
        and its repetition the one stays that is nearer to the goal, whatever its loss."""
        steps = steps_for(goal, self.cost(words), 1)
        runs = []
        for seed in range(self.config.seed, self.config.seed + seeds):
            run = self.ours(words, steps, seed=seed, name=f"{name}, seed {seed}")
            if not NEAR[0] <= run.seconds / goal <= NEAR[1]:
                steps = steps_for(goal, run.seconds, run.steps)
                again = self.ours(words, steps, seed=seed, name=f"{name}, seed {seed}, again")
                run = min(run, again, key=lambda run: abs(math.log(run.seconds / goal)))
            steps = steps_for(goal, run.seconds, run.steps)
            runs.append(run)
        return runs

    def losses(self, run: Run) -> tuple[float, float]:
        """Over the whole validation split, in fp32: nats a character at nanoGPT's context and at
        the model's own; of songs bits per character at the model's own, twice."""
        gpt = checkpoint.load_model(checkpoint.find(run.place, "last"))
        if not self.plain:
            bpc = split_loss(gpt, self.bins.val, detect(device="cpu", dtype="float32")).bpc
            return bpc, bpc
        ids = self.characters
        return window_loss(gpt, ids, THEIR_CONTEXT), window_loss(gpt, ids, gpt.config.block_size)

    @cached_property
    def characters(self) -> torch.Tensor:
        """The validation split without the ends of text around it, (n,)."""
        return torch.from_numpy(self.bins.val.tokens[1:-1].astype(np.int64))

    def _told(self, name: str, run: Run) -> Run:
        print(
            f"  {name}: {run.steps:,} steps in {run.seconds:.1f} s, {run.rate:,.0f} tokens/s",
            flush=True,
        )
        return run


def _text_race(config: BenchConfig, folder: Path) -> Race:
    """Nine tenths and one, as nanoGPT cuts a text, and its ids."""
    assert config.text is not None  # bench.py saw to it
    text = Path(config.text).absolute()
    measure(
        python("backend.data.corpora", "--corpus=tinyshakespeare", f"--path={text}",
               f"--data_dir={folder / 'text'}")
    )  # fmt: skip
    return Race(config, folder, Bins.open(str(folder / "text" / "char")), plain=True)


def _songs_race(config: BenchConfig, folder: Path) -> Race:
    """Held out by song; nanoGPT reads the same stream."""
    (folder / "songs").mkdir()
    shutil.copyfile(data_json(config), folder / "songs" / "data.json")
    measure(python("backend.data.binarize", f"--data_dir={folder / 'songs'}"))
    return Race(config, folder, Bins.open(str(folder / "songs" / "char")), plain=False)


def data_json(config: BenchConfig) -> Path:
    """The songs to train on.

    Raises:
        ConfigError: the folder has none.
    """
    path = Path(str(config.songs)) / "data.json"
    if not path.is_file():
        raise ConfigError(
            f"no data.json in {config.songs}",
            mend=f"python -m backend.data.clean --data_dir={config.songs}",
        )
    return path


# --- sections -------------------------------------------------------------------------------------


def train(config: BenchConfig) -> str:
    """Our recipe beside nanoGPT's: for its time, and for a small part of it."""
    if config.songs:
        data_json(config)  # or it is missed after many minutes
    with tempfile.TemporaryDirectory() as name:
        race = _text_race(config, Path(name))
        theirs = race.nanogpt()
        full = race.in_time(theirs.seconds, OURS, config.seeds, "ours")
        quick = race.in_time(
            theirs.seconds * SHORT_SHARE, (*OURS, *SHORT), config.seeds, "ours, short"
        )
        drawn = race.ours(
            OURS, full[-1].steps, seed=config.seed, evaluations=EVALUATIONS, name="picture"
        )
        their_loss, _ = race.losses(theirs)
        losses = [race.losses(run) for run in full]
        quick_losses = [race.losses(run) for run in quick]
        ours, short = Result.of(full, losses), Result.of(quick, quick_losses)
        rows = [_row("nanoGPT", theirs, f"{their_loss:.4f}", f"{their_loss:.4f}")]
        for kind, runs, scores in (("ours", full, losses), ("ours, short", quick, quick_losses)):
            for i, (run, (at_theirs, at_own)) in enumerate(zip(runs, scores, strict=True)):
                kind_and_seed = f"{kind}, seed {config.seed + i}"
                rows.append(_row(kind_and_seed, run, f"{at_theirs:.4f}", f"{at_own:.4f}"))
        picture = Path(config.picture)
        _draw(picture, theirs, their_loss, drawn, ours, short)
    parts = [
        table(
            ["run", "steps", "seconds", "CPU seconds", "tokens/s", "peak memory (MB)",
             f"loss at {THEIR_CONTEXT}", "loss at its own context"],
            rows,
        ),
        _read(config, full[0], ours, short, their_loss),
        f"![Validation loss over the seconds of training]({link(picture, Path(config.file))})",
    ]  # fmt: skip
    if config.songs:
        parts.append(_songs(config))
    parts.append(f"```text\n{closing(theirs, their_loss, ours, short)}\n```")
    return "\n\n".join(parts)


def _row(name: str, run: Run, *losses: str) -> list[str]:
    peak = run.process.peak_mb
    return [
        name, f"{run.steps:,}", f"{run.seconds:.1f}", f"{run.process.cpu_seconds:.0f}",
        f"{run.rate:,.0f}", f"{peak:,.0f}" if peak else "unknown", *losses,
    ]  # fmt: skip


def _read(config: BenchConfig, run: Run, ours: Result, short: Result, their_loss: float) -> str:
    """What the table is of, and its medians."""
    recipe, quick = " ".join(OURS), " ".join(SHORT)
    missed = "" if short.loss <= their_loss else f"; **nanoGPT's {their_loss:.4f} not reached**"
    return (
        f"Characters of {Path(str(config.text)).name}; `{recipe}` beside "
        f"`train.py {' '.join(THEIR_RECIPE)}`, the short runs with `{quick}` too. Loss: nats a "
        "character over the whole validation split, in windows that do not overlap, fp32, the "
        "weights at the end (nanoGPT's: its best by its own estimate). Seconds: training steps; "
        "CPU seconds and memory: the whole process, start and evaluations included. Medians: "
        f"{ours.loss:.4f} at {THEIR_CONTEXT} characters (spread {ours.spread:.4f}), "
        f"{ours.own:.4f} at our own context, in {ours.seconds:.1f} s; short {short.loss:.4f} "
        f"(spread {short.spread:.4f}) in {short.seconds:.1f} s{missed}."
    )


def _songs(config: BenchConfig) -> str:
    """The same recipes on songs, at equal time."""
    print("songs:", flush=True)
    with tempfile.TemporaryDirectory() as name:
        race = _songs_race(config, Path(name))
        theirs = race.nanogpt()
        runs = race.in_time(theirs.seconds, OURS, config.seeds, "ours")
        their_bpc = race.losses(theirs)[0]
        losses = [race.losses(run) for run in runs]
        result = Result.of(runs, losses)
        rows = [_row("nanoGPT", theirs, f"{their_bpc:.4f}")]
        rows += [
            _row(f"ours, seed {config.seed + i}", run, f"{bpc:.4f}")
            for i, (run, (bpc, _)) in enumerate(zip(runs, losses, strict=True))
        ]
        counts = race.bins
    note = (
        f"{counts.train.songs:,} songs to train on, {counts.val.songs:,} held out by song; nanoGPT "
        "reads the same stream. Bits per character as `train` measures them, each model at its own "
        f"context. Median: {result.loss:.4f} (spread {result.spread:.4f}) in "
        f"{result.seconds:.1f} s; nanoGPT {their_bpc:.4f} in {theirs.seconds:.1f} s."
    )
    head = ["songs", "steps", "seconds", "CPU seconds", "tokens/s", "peak memory (MB)", "bits/char"]
    return f"{table(head, rows)}\n\n{note}"


def ladder(config: BenchConfig) -> str:
    """From nanoGPT's recipe to ours, one thing after the other, each for nanoGPT's time."""
    with tempfile.TemporaryDirectory() as name:
        race = _text_race(config, Path(name))
        theirs = race.nanogpt()
        before, _ = race.losses(theirs)
        rows = [["nanoGPT", f"{theirs.steps:,}", f"{theirs.seconds:.1f}", f"{theirs.rate:,.0f}",
                 f"{before:.4f}", f"{before:.4f}", ""]]  # fmt: skip
        for rung, words in rungs():
            [run] = race.in_time(theirs.seconds, words, 1, rung)
            loss, own = race.losses(run)
            rows.append(
                [rung, f"{run.steps:,}", f"{run.seconds:.1f}", f"{run.rate:,.0f}", f"{loss:.4f}",
                 f"{own:.4f}", f"{loss - before:+.4f}"]
            )  # fmt: skip
            print("  ".join(rows[-1]), flush=True)
            before = loss
    head = ["with", "steps", "seconds", "tokens/s", f"loss at {THEIR_CONTEXT}",
            "loss at its own context", f"difference at {THEIR_CONTEXT}"]  # fmt: skip
    note = (
        "Each row keeps what the rows above it added. One seed each: differences below the spread "
        f"of the seeds above are noise. Text and losses as there, `{' '.join(OURS)}` at the end."
    )
    return f"{table(head, rows)}\n\n{note}"


def rungs() -> list[tuple[str, tuple[str, ...]]]:
    """(name, recipe and keys) of each rung, the last with all of our recipe. Where the recipe has
    no such thing there is no rung."""
    start, end = load(TrainConfig, SAME_RECIPE).as_dict(), load(TrainConfig, OURS).as_dict()
    parts = (ModelConfig, DataConfig, OptimConfig)
    of_recipe = {key for part in parts for key in part().as_dict()} | {"dtype"}
    left = {key for key in of_recipe if start[key] != end[key]}
    left -= {"dataset", "max_iters", "lr_decay_iters"}
    words: tuple[str, ...] = SAME_RECIPE
    found = [("its recipe in our loop, fp32", words)]
    for name, keys in (*RUNGS, ("the rest of the recipe", tuple(sorted(left)))):
        if new := [key for key in keys if key in left]:
            words = (*words, *(f"--{key}={end[key]}" for key in new))
            found.append((name, words))
            left -= set(new)
    return found


def link(picture: Path, page: Path) -> str:
    return Path(os.path.relpath(picture, page.parent)).as_posix()


def _draw(
    path: Path, theirs: Run, their_loss: float, drawn: Run, ours: Result, short: Result
) -> None:
    """Both losses over the seconds. The lines are what each program says of itself on the way, the
    stars what one function says of both, over the whole split at nanoGPT's context."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    blue, orange = "#0072b2", "#d55e00"  # told apart by everybody (Okabe and Ito), and in grey
    figure, axes = pyplot.subplots(figsize=(8, 4.2), layout="constrained")
    axes.plot(*zip(*theirs.curve, strict=True), "s--", color=orange, markersize=4)
    axes.plot(*zip(*drawn.curve, strict=True), "o-", color=blue, markersize=4)
    stars = (
        (theirs.seconds, their_loss, orange, "nanoGPT", (4, 14), "right"),
        (ours.seconds, ours.loss, blue, "ours, for the same time", (4, -24), "right"),
        (short.seconds, short.loss, blue, "ours, at once", (-10, -40), "left"),
    )
    for seconds, loss, color, name, offset, side in stars:
        axes.plot(seconds, loss, "*", color=color, markersize=16, markeredgecolor="white")
        axes.annotate(
            f"{name}: {loss:.3f}", (seconds, loss), offset, textcoords="offset points", ha=side,
            color=color, fontsize=12, fontweight="bold",
        )  # fmt: skip
    axes.axhline(their_loss, color="grey", linestyle=":", linewidth=1)
    axes.set_ylim(min(ours.loss, ours.own) - 0.2, max(their_loss, short.loss) + 0.9)
    axes.set_xlabel("seconds of training on a CPU", fontsize=12)
    axes.set_ylabel("validation loss (nats a character)", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
    pyplot.close(figure)
