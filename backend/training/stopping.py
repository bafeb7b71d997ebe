"""Ctrl-C, SIGTERM and a closed terminal: the work is saved, then the program leaves.

Whatever changes no state (a forward pass, an evaluation, a sample, a compilation) is broken off at
once; an update of the weights, a log line, a save is finished first:

    draw a batch - forward - backward ┊ update - log - save ┊ evaluate - sample ┊
           interrupted at once        ┊       held          ┊  at once          ┊

A second Ctrl-C cannot wait: it breaks off those too, and then nothing more is saved, since a half
made update would be. SIGHUP, of a terminal that was closed, is to us what SIGTERM is; where it is
ignored already, as under nohup, it stays so.

Of several processes none may leave alone, or the others wait for it in the next reduction: there a
signal is noted, and the loop asks, at the end of each step and between the batches of an
evaluation, whether any has been told to stop. A Ctrl-C comes twice there, from the terminal and
from torchrun, and counts once.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Self

from backend.errors import Terminated

ASKS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Stopping:
    """While this context is open, signals ask; outside they do what they did before.

    Args:
        together: several processes train; a signal is only noted.
        quiet: say nothing, as all processes but one.
    """

    def __init__(self, *, together: bool = False, quiet: bool = False) -> None:
        self.asked: BaseException | None = None
        self.hurried = False  # a second Ctrl-C came: whatever was under way is half done
        self._holding = together
        self._together = together
        self._quiet = quiet

    def __enter__(self) -> Self:
        numbers = [getattr(signal, name) for name in ASKS if hasattr(signal, name)]
        # nohup and batch systems ignore the hang-up on purpose
        self._numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
        self._before = [signal.signal(number, self._ask) for number in self._numbers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for number, handler in zip(self._numbers, self._before, strict=True):
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked is not None:  # only a second Ctrl-C cannot wait: a SIGTERM often comes twice
            if number == signal.SIGINT and not self._together:
                self.hurried = True
                raise KeyboardInterrupt
            return
        self.asked = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        if not self._quiet:
            self._say("stopping ..." if self._together else "stopping; again: without saving ...")
        if not self._holding:
            raise self.asked

    def _say(self, text: str) -> None:
        """Past Python's streams, one of which this may have interrupted; the terminal may be gone,
        and why we are asked."""
        with suppress(AttributeError, OSError, ValueError):
            os.write(sys.stderr.fileno(), f"\n{text}\n".encode())

    @contextmanager
    def held(self) -> Iterator[None]:
        """What stands in this block is finished before the program leaves, at its end."""
        before, self._holding = self._holding, True
        try:
            yield
        finally:
            self._holding = before
        if self.asked is not None and not self._holding:
            raise self.asked
