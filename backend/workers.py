"""Work on many pieces at once, in processes, with results in the order of the pieces."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from backend.errors import UserError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

FEW = 4  # pieces that are done before a process would have started


def in_order(
    work: Callable[[Piece], Result], pieces: Iterable[Piece], workers: int = 0
) -> Iterator[Result]:
    """work(piece) for every piece, in their order, on `workers` processes (0: one a core).

    A few pieces are worked on right here, since a process takes a second to start. Pieces are taken
    as they are needed, never far ahead, so that a stream of any length fits in memory.

    Raises:
        UserError: a process was killed from outside, most likely for want of memory.
    """
    workers = workers or os.cpu_count() or 1
    stream = iter(pieces)
    head = list(itertools.islice(stream, FEW + 1))
    if workers == 1 or len(head) <= FEW:
        yield from map(work, itertools.chain(head, stream))
        return
    # spawn, everywhere: a fork in a program with threads may hang, and behaves otherwise elsewhere
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_as_a_worker) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for piece in itertools.chain(head, stream):
                waiting.append(pool.submit(work, piece))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                f"one of {workers} worker processes was killed",
                why="most likely for want of memory; no result was changed",
                mend="--workers=1 takes the least",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _as_a_worker() -> None:
    """Ctrl-C is for the parent to act on, and nobody survives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_it, daemon=True).start()
