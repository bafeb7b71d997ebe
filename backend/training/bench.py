"""Bench: measured figures -> the marked sections of docs/benchmarks.md.

    python -m backend.training.bench --only=help,road

Each section says machine, date, commit and command. Nobody types figures there.
"""

import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from backend.config.loader import program
from backend.config.schema import BenchConfig
from backend.errors import ConfigError
from backend.report import table
from backend.storage import Summary, atomic_write, git_commit, packages
from backend.training import bench_data, bench_model
from backend.training.log import read_metrics
from backend.training.measure import measure, python

HELP_RUNS = 5


def main(config: BenchConfig) -> Summary:
    started = time.monotonic()
    path = Path(config.file)
    for name in config.only:
        print(f"measuring {name} ...", flush=True)
        text = SECTIONS[name](config)
        machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
        head = (
            f"{date.today()}, commit {git_commit()}, {machine}, "
            f"Python {platform.python_version()}, PyTorch {packages()['torch']}: "
            f"`python -m backend.training.bench --only={name}{_given(config, name)}`"
        )
        _replace_section(path, name, f"{head}\n\n{text}")
        print(text, flush=True)
    seconds = time.monotonic() - started
    return Summary("bench", path, {"sections": len(config.only)}, seconds)


def _given(config: BenchConfig, name: str) -> str:
    """The keys that a section's figures depend on, for its command."""
    if name in ("attention", "bins") and config.text:
        return f" --text={Path(config.text).name}"
    if name == "clean" and config.songs:
        return f" --songs={config.songs}"
    checkout = config.nanogpt or os.environ.get("NANOGPT")
    return " --nanogpt=PATH" if name == "model" and checkout else ""


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


def _tests(config: BenchConfig) -> str:
    """The two test targets."""
    rows = []
    for name, marks in (("make test-fast", "not slow and not e2e"), ("make test", "not slow")):
        got = measure(python("pytest", "-q", "-m", marks))
        rows.append([f"`{name}`", f"{got.seconds:.0f}", got.output.strip().splitlines()[-1]])
    return table(["command", "seconds", "result"], rows)


SECTIONS: dict[str, Callable[[BenchConfig], str]] = {
    "help": _help,
    "road": _road,
    "tests": _tests,
    "model": bench_model.model,
    "attention": bench_model.attention,
    "lora": bench_model.lora_memory,
    "clean": bench_data.clean,
    "bins": bench_data.bins,
}


def _replace_section(path: Path, name: str, text: str) -> None:
    """Put `text` between the marks of a section; the rest of the page stays.

    Raises:
        ConfigError: the page has no such marks.
    """
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ConfigError(f"{path} has no section {begin} ... {end}", mend="put the marks in")
    with atomic_write(path) as file:
        file.write(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page))


if __name__ == "__main__":
    sys.exit(program(main, BenchConfig))
