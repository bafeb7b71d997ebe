"""Training as a child process: the very command a person types, with its lines on our screen.

A process of its own frees its memory when it ends, takes signals cleanly, and can be torchrun one
day. Whatever stops us, the child is asked to stop as well, saves and leaves, and we wait for it.
(On Windows it is ended unasked, and the checkpoint of the last evaluation is what remains.)
"""

import subprocess
import sys
from collections.abc import Sequence

GRACE_S = 60.0  # a step and a checkpoint take less


def run(arguments: Sequence[str]) -> int:
    """`python -m ARGUMENTS` to its end; returns its exit code.

    Whatever stops us (Ctrl-C, SIGTERM, a cancelled flow) stops the child first, and it saves.
    """
    with subprocess.Popen([sys.executable, "-m", *arguments]) as child:
        try:
            return child.wait()
        except BaseException:
            child.terminate()  # also after a Ctrl-C, which reaches the child only from a terminal
            try:
                child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
