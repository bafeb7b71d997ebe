"""Time and memory of a command and of all that it starts. Part of `backend/training/bench.py`."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
WAITS = {"LYRICS_WAITS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}  # set by backend/__init__.py


@dataclass(frozen=True)
class Measured:
    """A command from start to end."""

    seconds: float
    cpu_seconds: float  # user and system, of all its processes: what a shared machine cannot change
    peak_mb: float | None  # resident memory of all its processes together; None without `ps`
    output: str


def measure(command: Sequence[str], cwd: Path = ROOT) -> Measured:
    """Run a command, and watch it and all that it starts.

    It finds the environment as this program was given it: how OpenMP waits, which the package
    `backend` sets for itself, is left to each program.

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

    environment = {k: v for k, v in os.environ.items() if k not in WAITS}
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", start_new_session=True, env=environment,
    ) as child:  # fmt: skip
        watcher = threading.Thread(target=watch, args=(child.pid,), daemon=True)
        watcher.start()
        try:
            assert child.stdout is not None
            output = child.stdout.read()
            _, status, used = os.wait4(child.pid, 0)  # not on Windows; wait() keeps no usage
            child.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:  # Ctrl-C does not reach another session by itself
            os.killpg(child.pid, signal.SIGTERM)
            raise
        seconds = time.monotonic() - began
        done.set()
        watcher.join()
    if child.returncode:
        raise ConfigError(f"{' '.join(command)} ended with {child.returncode}:\n{output[-2000:]}")
    return Measured(seconds, used.ru_utime + used.ru_stime, peak_kb / 1024 or None, output)


def python(*arguments: str) -> list[str]:
    """A module of this Python, as a command."""
    return [sys.executable, "-m", *arguments]
