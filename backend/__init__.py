"""lyrics-pipeline: scrape, prepare, finetune, generate."""

import os
import sys
import time
from pathlib import Path
from types import TracebackType

__version__ = "0.1.0"


def _alone() -> bool:
    """Does nobody else want the cores now? Linux counts who does, us included."""
    try:
        for _ in range(3):  # something always runs for a moment
            running = Path("/proc/loadavg").read_text(encoding="ascii").split()[3]
            if int(running.partition("/")[0]) <= 1:
                return True
            time.sleep(0.005)
    except (OSError, ValueError, IndexError):  # another system
        return False
    return False


# How threads of OpenMP wait for each other, read when torch is loaded. Sleeping at once costs half
# the speed of a small model on quiet cores; spinning while another program wants them makes it up
# to ten times slower. So: sleep, and where we are alone, spin for some microseconds before
# (docs/log.md). Results do not depend on it. What another program of ours set holds for that one.
if "LYRICS_WAITS" in os.environ or not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ |= {"LYRICS_WAITS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    os.environ.pop("GOMP_SPINCOUNT", None)
    if _alone():
        os.environ["GOMP_SPINCOUNT"] = "10000"


def _quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a program still loads: a word, not the traceback of its imports."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # `python -m` is loading one of our programs
    sys.excepthook = _quietly
