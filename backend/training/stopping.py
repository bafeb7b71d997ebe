"""Ctrl-C, SIGTERM and a closed terminal: the work is saved, then the program leaves.

Whatever changes no state (a forward pass, an evaluation, a sample, a compilation) is broken off at
once; an update of the weights, a log line, a save is finished first:

    draw a batch - forward - backward ┊ update - log - save ┊ evaluate - sample ┊
           interrupted at once        ┊       held          ┊  at once          ┊

Of several processes none may leave alone, or the others wait for it in the next reduction: there a
signal is noted, and the loop asks at the end of each step whether any has been told to stop.
"""

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
    """

    def __init__(self, *, together: bool = False) -> None:
        self.asked: BaseException | None = None
        self._holding = together
        self._together = together

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
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.asked = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        with suppress(OSError, ValueError):  # the terminal may be gone, and why we are asked
            print("\nstopping ...", file=sys.stderr)
        if not self._holding:
            raise self.asked

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
