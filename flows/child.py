"""Training as a child process: the very command a person types, its lines handed on as they come.

A process of its own frees its memory when it ends, takes signals cleanly, and may be torchrun.
However we end, the child is told to stop, saves and leaves:

    Ctrl-C, SIGTERM, a cancelled run   we tell it, and wait for its checkpoint
    a second Ctrl-C                    it stops without saving
    kill -9 of us                      a shell that waits for our end tells it

It has a session of its own, so that a Ctrl-C in the terminal reaches it once, from us. (On Windows
it is ended unasked, and the checkpoint of the last evaluation is what remains.)
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prefect.exceptions import ExternalSignal

from backend.errors import Terminated

GRACE_S = 60.0  # a step and a checkpoint take less; Prefect gives a cancelled run 30


def run(arguments: Sequence[str], tell: Callable[[str], None]) -> int:
    """`python -m ARGUMENTS` to its end; returns its exit code.

    Args:
        tell: takes each line of its output, stdout and stderr as they come, in another thread. An
            OSError, as of a terminal that is gone, stops the child and is raised here.
    """
    lost: list[OSError] = []
    # Lines at once and whole, whatever the machine thinks of pipes and encodings.
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen(
        [sys.executable, "-m", *arguments], env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
        errors="replace", start_new_session=True,
    )  # fmt: skip
    output = child.stdout
    assert output is not None

    def read() -> None:
        for line in output:
            if lost:
                continue  # read on, or the child would wait for us for ever
            try:
                tell(line.rstrip("\n"))
            except OSError as error:
                lost.append(error)
                child.terminate()

    reader = threading.Thread(target=read, daemon=True)
    with outlived(child.pid):
        reader.start()
        try:
            child.wait()  # here and not in the reader: a signal is raised in this thread
        except BaseException:
            _stop(child)
            raise
        finally:
            reader.join(5)  # its last words; not for ever, since a grandchild may hold the pipe
    output.close()
    if lost:
        raise lost[0]
    return child.returncode


def _stop(child: "subprocess.Popen[str]") -> None:
    """Told once, it saves and leaves. What follows may be another SIGTERM for us, which can wait,
    or a second Ctrl-C, which cannot."""
    child.terminate()
    until = time.monotonic() + GRACE_S
    while child.poll() is None:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
        except (ExternalSignal, Terminated):
            continue
        except subprocess.TimeoutExpired:
            child.kill()


@contextmanager
def outlived(pid: int) -> Iterator[None]:
    """While this is open, our own end, in whatever way, is a SIGTERM to the process: a shell waits
    for the end of a pipe that nobody but us holds open."""
    if os.name != "posix":
        yield
        return
    command = ["sh", "-c", 'read -r _; kill -TERM "$0"', str(pid)]
    guard = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        guard.kill()  # before its pipe is closed
        guard.communicate()
