"""Bench: measured figures -> the marked sections of docs/benchmarks.md.

    python -m backend.training.bench --only=help,road

Each section says machine, date, commit and command. Nobody types figures there.
"""

import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from backend.config.loader import program
from backend.config.schema import BenchConfig
from backend.errors import ConfigError
from backend.report import table
from backend.storage import Summary, atomic_write, git_commit, packages
from backend.training import bench_model
from backend.training.log import read_metrics

ROOT = Path(__file__).resolve().parents[2]
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
    if name == "attention" and config.text:
        return f" --text={Path(config.text).name}"
    checkout = config.nanogpt or os.environ.get("NANOGPT")
    return " --nanogpt=PATH" if name == "model" and checkout else ""


@dataclass(frozen=True)
class Measured:
    """A command from start to end."""

    seconds: float
    peak_mb: float | None  # resident memory of all its processes together; None without `ps`
    output: str


def measure(command: Sequence[str], cwd: Path = ROOT) -> Measured:
    """Run a command, and watch it and all that it starts.

    Raises:
        ConfigError: it failed; its last lines are in the message.
    """
    peak_kb = 0
    done = threading.Event()

    def watch(root: int) -> None:
        nonlocal peak_kb
        while not done.wait(0.25):
            try:
                listing = subprocess.run(
                    ["ps", "-A", "-o", "pid=,ppid=,rss="],
                    capture_output=True,
                    text=True,
                    check=True,
                )
            except (OSError, subprocess.CalledProcessError):
                return
            rows = [tuple(map(int, line.split())) for line in listing.stdout.splitlines()]
            tree = {root}
            for _ in rows:  # a parent may stand after its child
                grown = tree | {pid for pid, parent, _ in rows if parent in tree}
                if grown == tree:
                    break
                tree = grown
            peak_kb = max(peak_kb, sum(rss for pid, _, rss in rows if pid in tree))

    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", start_new_session=True,
    ) as child:  # fmt: skip
        watcher = threading.Thread(target=watch, args=(child.pid,), daemon=True)
        watcher.start()
        try:
            output, _ = child.communicate()
        except BaseException:  # Ctrl-C does not reach another session by itself
            os.killpg(child.pid, signal.SIGTERM)
            raise
        seconds = time.monotonic() - began
        done.set()
        watcher.join()
    if child.returncode:
        raise ConfigError(f"{' '.join(command)} ended with {child.returncode}:\n{output[-2000:]}")
    return Measured(seconds, peak_kb / 1024 or None, output)


def _help(config: BenchConfig) -> str:
    """Seconds until --help has been printed, median of some runs."""
    lyrics = str(Path(sys.executable).with_name("lyrics"))
    commands = {
        "lyrics crawl --help": [lyrics, "crawl", "--help"],
        "lyrics clean --help": [lyrics, "clean", "--help"],
        "lyrics binarize --help": [lyrics, "binarize", "--help"],
        "lyrics train --help": [lyrics, "train", "--help"],
        "lyrics pipeline --help": [lyrics, "pipeline", "--help"],
        "python -m backend.scrapers.crawl --help": _python("backend.scrapers.crawl", "--help"),
        "python -m backend.training.train --help": _python("backend.training.train", "--help"),
        "python -m backend.training.sample --help": _python("backend.training.sample", "--help"),
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
            got = measure(_python("flows.lyrics_pipeline"), cwd)
            memory = f"{got.peak_mb:,.0f}" if got.peak_mb else "unknown"
            rows.append([name, f"{got.seconds:.0f}", memory])
        scores = [row["bpc"] for row in read_metrics(cwd / "out/demo") if row["split"] == "val"]
    note = f"Best validation: {min(scores):.3f} bits per character on the held-out songs."
    return table(["`make lyrics`", "seconds", "peak memory (MB)"], rows) + f"\n\n{note}"


def _tests(config: BenchConfig) -> str:
    """The two test targets."""
    rows = []
    for name, marks in (("make test-fast", "not slow and not e2e"), ("make test", "not slow")):
        got = measure(_python("pytest", "-q", "-m", marks))
        rows.append([f"`{name}`", f"{got.seconds:.0f}", got.output.strip().splitlines()[-1]])
    return table(["command", "seconds", "result"], rows)


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


SECTIONS: dict[str, Callable[[BenchConfig], str]] = {
    "help": _help,
    "road": _road,
    "tests": _tests,
    "model": bench_model.model,
    "attention": bench_model.attention,
    "lora": bench_model.lora_memory,
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
