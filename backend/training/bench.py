"""Bench: measured figures -> the marked sections of docs/benchmarks.md.

    python -m backend.training.bench --only=help,road
    python -m backend.training.bench --only=train --text=tinyshakespeare.txt --nanogpt=PATH

Each section says machine, date, commit and command. Nobody types figures there. A section that
needs what is not here is left out with a line, and stays as it is on the page.
"""

import os
import platform
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch

from backend.config.loader import program
from backend.config.schema import BenchConfig
from backend.errors import ConfigError
from backend.evaluation.compare import read_metrics
from backend.report import table
from backend.storage import Summary, atomic_write, git_commit, packages
from backend.training import (
    bench_crawl,
    bench_data,
    bench_generation,
    bench_model,
    bench_songs,
    bench_step,
    bench_train,
)
from backend.training.measure import measure, python

HELP_RUNS = 5


def main(config: BenchConfig) -> Summary:
    started = time.monotonic()
    path = Path(config.file)
    lacking = {name: why for name in config.only if (why := SECTIONS[name].lacks(config))}
    if len(lacking) == len(config.only):
        told = "; ".join(f"{name}: {why}" for name, why in lacking.items())
        raise ConfigError(f"nothing of {', '.join(config.only)} can be measured here: {told}")
    for name, why in lacking.items():
        print(f"leaving out {name}: {why}", flush=True)
    chosen = [name for name in config.only if name not in lacking]
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    for name in chosen:
        replaced(page, name, "", path)  # hours are not to be measured for a page without marks
    for name in chosen:
        print(f"measuring {name} ...", flush=True)
        text = SECTIONS[name].measure(config)
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        head = (
            f"{date.today()}, commit {git_commit()}, {machine}, "
            f"Python {platform.python_version()}, PyTorch {packages()['torch']}: "
            f"`python -m backend.training.bench --only={name}{_given(config, name)}`"
        )
        page = path.read_text(encoding="utf-8")  # somebody may have written on it meanwhile
        with atomic_write(path) as file:
            file.write(replaced(page, name, f"{head}\n\n{text}", path))
        print(text, flush=True)
    seconds = time.monotonic() - started
    return Summary("bench", path, {"sections": len(chosen)}, seconds)


def _given(config: BenchConfig, name: str) -> str:
    """The keys that a section's figures depend on, for its command; no path of this machine."""
    words = []
    default = BenchConfig()
    for key in SECTIONS[name].keys:
        value = getattr(config, key)
        if key == "nanogpt":
            words += ["--nanogpt=PATH"] * bool(bench_model.checkout(config))
        elif value != getattr(default, key):
            words.append(f"--{key}={Path(value).name if key == 'text' else value}")
    return "".join(f" {word}" for word in words)


def _help(config: BenchConfig) -> str:
    """Seconds until --help has been printed, median of some runs."""
    lyrics = str(Path(sys.executable).with_name("lyrics"))
    commands = {
        "lyrics crawl --help": [lyrics, "crawl", "--help"],
        "lyrics clean --help": [lyrics, "clean", "--help"],
        "lyrics binarize --help": [lyrics, "binarize", "--help"],
        "lyrics train --help": [lyrics, "train", "--help"],
        "lyrics pipeline --help": [lyrics, "pipeline", "--help"],
        "python -m backend.scrapers.crawl --help": python("backend.scrapers.crawl", "--help"),
        "python -m backend.training.train --help": python("backend.training.train", "--help"),
        "python -m backend.training.sample --help": python("backend.training.sample", "--help"),
    }
    rows = []
    for name, command in commands.items():
        times = [measure(command).seconds for _ in range(HELP_RUNS)]
        rows.append([f"`{name}`", f"{statistics.median(times):.2f}"])
    return table(["command", f"seconds (median of {HELP_RUNS})"], rows)


def _road(config: BenchConfig) -> str:
    """`make lyrics` in an empty folder, then again with nothing changed."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        for name in ("first run", "second run, nothing changed"):
            got = measure(python("flows.lyrics_pipeline"), cwd)
            memory = f"{got.peak_mb:,.0f}" if got.peak_mb else "unknown"
            rows.append([name, f"{got.seconds:.0f}", memory])
        scores = [row["bpc"] for row in read_metrics(cwd / "out/demo") if row["split"] == "val"]
    note = f"Best validation: {min(scores):.3f} bits per character on the held-out songs."
    return table(["`make lyrics`", "seconds", "peak memory (MB)"], rows) + f"\n\n{note}"


FLOW_RUNS = 3
FLOW_STEPS = 20  # of training: its minutes are the same with the flow and without


def _flow(config: BenchConfig) -> str:
    """The demo by its bare commands and by the flow, each in an empty folder, in turn."""
    short = [f"max_iters={FLOW_STEPS}", f"eval_interval={FLOW_STEPS}"]
    bare = [
        python("backend.scrapers.crawl", "--source=demo"),
        python("backend.data.clean", "--data_dir=data/demo"),
        python("backend.data.binarize", "--data_dir=data/demo", "--tokenizer=lyrics-base"),
        python("backend.training.train", "config/finetune_lyrics_base.py",
               "--dataset=demo/lyrics-base", "--out_dir=out/demo", *(f"--{key}" for key in short)),
        python("backend.evaluation.evaluate", "--out_dir=out/demo"),
        python("backend.training.sample", "--out_dir=out/demo"),
    ]  # fmt: skip
    flow = python("flows.lyrics_pipeline", "--train_overrides", *short)
    names = ("bare commands", "flow, on a temporary server", "again, nothing changed",
             "again, on a running server")  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    before = dict(os.environ)
    url = "http://127.0.0.1:4297/api"
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"PREFECT_HOME": home, "PREFECT_API_URL": url}
        start = "import sys; from flows import server; server.start(sys.argv[1])"
        measure([sys.executable, "-c", start, url])
        try:
            for _ in range(FLOW_RUNS):
                with tempfile.TemporaryDirectory() as folder:
                    one = [measure(command, Path(folder)) for command in bare]
                seconds[names[0]].append(sum(got.seconds for got in one))
                peaks[names[0]].append(max(got.peak_mb or 0 for got in one))
                with tempfile.TemporaryDirectory() as folder:
                    for name, server in zip(names[1:], ("", "", url), strict=True):
                        os.environ["PREFECT_API_URL"] = server
                        got = measure(flow, Path(folder))
                        seconds[name].append(got.seconds)
                        peaks[name].append(got.peak_mb or 0)
        finally:
            os.kill(int((Path(home) / "server.pid").read_text(encoding="ascii")), signal.SIGTERM)
            os.environ.clear()
            os.environ |= before
    medians = {name: statistics.median(seconds[name]) for name in names}
    memory = {name: statistics.median(peaks[name]) for name in names}
    rows = [[name, f"{medians[name]:.1f}", f"{memory[name]:,.0f}"] for name in names]
    more_s, more_mb = (by[names[1]] - by[names[0]] for by in (medians, memory))
    shown = table([f"the demo, {FLOW_STEPS} steps", "seconds", "peak memory (MB)"], rows)
    return f"{shown}\n\nMedians of {FLOW_RUNS}. The flow adds {more_s:.1f} s and {more_mb:,.0f} MB."


def _tests(config: BenchConfig) -> str:
    """The two test targets."""
    rows = []
    for name, marks in (("make test-fast", "not slow and not e2e"), ("make test", "not slow")):
        cores = ("-n", "logical", "--maxprocesses=4", "--dist=worksteal")  # as the Makefile does
        got = measure(python("pytest", "-q", *cores, "-m", marks))
        rows.append([f"`{name}`", f"{got.seconds:.0f}", got.output.strip().splitlines()[-1]])
    return table(["command", "seconds", "result"], rows)


# --- the sections ---------------------------------------------------------------------------------


def _nothing(config: BenchConfig) -> str | None:
    return None


def _text_and_nanogpt(config: BenchConfig) -> str | None:
    given = {"--text=FILE": config.text, "--nanogpt=PATH": bench_model.checkout(config)}
    if config.text and not Path(config.text).is_file():
        return f"there is no {config.text}"
    missing = [key for key, value in given.items() if not value]
    return f"it needs {' and '.join(missing)}" if missing else None


def _cuda(config: BenchConfig) -> str | None:
    return None if torch.cuda.is_available() else "it needs a CUDA GPU"


class Section(NamedTuple):
    """What is measured, on which keys that depends, and what is missing here."""

    measure: Callable[[BenchConfig], str]
    keys: tuple[str, ...] = ()
    lacks: Callable[[BenchConfig], str | None] = _nothing


SONGS = ("songs", "seeds", "seconds", "seed")
RACE = ("text", "nanogpt", "max_iters", "seed")
STEP = ("nanogpt", "batch_size", "block_size", "bias", "real_data", "dataset", "seed", "device",
        "dtype", "compile")  # fmt: skip
SECTIONS: dict[str, Section] = {
    "help": Section(_help),
    "road": Section(_road),
    "flow": Section(_flow),
    "tests": Section(_tests),
    "model": Section(bench_model.model, ("nanogpt",)),
    "generation": Section(bench_generation.generation, ("text", "nanogpt")),
    "attention": Section(bench_model.attention, ("text",)),
    "lora": Section(bench_model.lora_memory),
    "crawl": Section(bench_crawl.crawl),
    "evaluation": Section(bench_songs.evaluation, ("songs",), bench_songs.lacks_songs),
    "tokenizers": Section(bench_songs.tokenizers, SONGS, bench_songs.lacks_songs),
    "transfer": Section(bench_songs.transfer, (*SONGS, "artist"), bench_songs.lacks_songs),
    "base": Section(bench_songs.base, (*SONGS, "nanogpt")),
    "clean": Section(bench_data.clean, ("songs",)),
    "bins": Section(bench_data.bins, ("text",)),
    "data": Section(bench_data.batches, ("songs",)),
    "train": Section(bench_train.train, (*RACE, "songs", "seeds"), _text_and_nanogpt),
    "ladder": Section(bench_train.ladder, RACE, _text_and_nanogpt),
    "step": Section(bench_step.step, STEP, bench_step.too_much_for_a_cpu),
    "small_gpu": Section(bench_step.small_gpu, ("compile",), _cuda),
}


def replaced(page: str, name: str, text: str, path: Path) -> str:
    """The page with `text` between the marks of a section; the rest stays.

    Raises:
        ConfigError: the page has no such marks.
    """
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ConfigError(f"{path} has no section {begin} ... {end}", mend="put the marks in")
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page)


if __name__ == "__main__":
    sys.exit(program(main, BenchConfig))
