"""lyrics-pipeline: scrape, prepare, finetune, generate."""

import os
import sys
from types import TracebackType

# Waiting threads sleep instead of spinning. With another program on the cores, spinning makes small
# models train up to ten times slower; alone on them it gains a tenth. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"


def _quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a program still loads: a word, not the traceback of its imports."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # `python -m` is loading one of our programs
    sys.excepthook = _quietly
