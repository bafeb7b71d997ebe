"""Training as a child process: the very command a person types, with its lines on our screen.

A process of its own frees its memory when it ends, takes signals cleanly, and can be torchrun one
day. A Ctrl-C in a terminal reaches both of us: the child saves and leaves, and we wait for it.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence

GRACE_S = 30.0  # a checkpoint takes less


def run(arguments: Sequence[str]) -> int:
    """`python -m ARGUMENTS` to its end; returns its exit code.

    Whatever stops us (Ctrl-C, SIGTERM, a cancelled flow) stops the child first, and it saves.
    """
    with subprocess.Popen([sys.executable, "-m", *arguments]) as child:
        try:
            return child.wait()
        except BaseException as stop:
            if not isinstance(
                stop, KeyboardInterrupt
            ):  # a terminal sends Ctrl-C to the child itself
                child.send_signal(signal.SIGTERM)
            try:
                child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
