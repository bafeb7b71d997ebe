"""Bins -> batches of (x, y), a pure function of (seed, step, row): hence exactly resumable, and the
same for any micro-batch size and any number of processes.

    random   windows at any place of the stream, as nanoGPT draws them
    songs    rows begin where a song begins, or go on where the cut of a long one ended:

        row 0   [song 3 . . . . . . . .][song 8 . .]         what is left over of a row is filled
        row 1   [song 5, its end . . .][song 1 . . . .]      with end-of-text, of which nothing
        row 2   [song 5, its beginning . . . . . . . .]      is learned

Rows are numbered through the whole run: a step takes `of` of them after the `done` ones of earlier
steps. Letters: B batch, T block size.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from backend.data.bins import Bins
from backend.errors import DataError

IGNORE = -1  # target of positions that carry no loss
BUFFER = 1024  # pieces of songs that wait for a row with room for them

Int64s = npt.NDArray[np.int64]
Item = TypeVar("Item")


class Batch(NamedTuple):
    """What a model learns from at once, on the CPU."""

    x: torch.Tensor  # (B, T) int64
    y: torch.Tensor  # (B, T) int64, IGNORE where nothing is learned
    documents: torch.Tensor | None  # (B, T) int32 number of the document within the row


class Windows:
    """Windows at random offsets of the stream, each token of which is a target."""

    def __init__(self, bins: Bins, *, seed: int, block_size: int, document_mask: bool) -> None:
        self.bins, self.seed, self.T = bins, seed, block_size
        self.document_mask = document_mask

    def take(self, step: int, *, done: int, of: int, rows: range) -> Batch:
        """Rows `rows` of the `of` rows of a step.

        Raises:
            DataError: an id that the vocabulary does not have.
        """
        tokens = self.bins.train.tokens
        starts = np.random.default_rng([self.seed, step]).integers(0, len(tokens) - self.T, of)
        ids = np.empty((len(rows), self.T + 1), dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i] = tokens[starts[row] : starts[row] + self.T + 1]
        _check_ids(self.bins, ids)
        x, y = ids[:, :-1].copy(), ids[:, 1:].copy()
        if not self.document_mask:
            return _batch(x, y, None)
        return _batch(x, y, np.cumsum(x == self.bins.tokenizer.eot, axis=1, dtype=np.int32))

    def targets(self, step: int, *, done: int, of: int) -> int:
        """Targets other than IGNORE in all rows of a step."""
        return of * self.T


class Songs:
    """Every song once an epoch, each token once a target, in rows that begin with a piece of one.

    A song longer than a row is cut where its first piece, of random length, ends, and then every T
    tokens: no place is at a cut in every epoch.
    """

    def __init__(self, bins: Bins, *, seed: int, block_size: int, document_mask: bool) -> None:
        self.bins, self.seed, self.T = bins, seed, block_size
        self.document_mask = document_mask
        self.starts = bins.train.index[:, 0].astype(np.int64)  # (n_songs,)
        self.sizes = np.diff(self.starts, append=len(bins.train.tokens) - 1)  # targets of each
        assert len(self.sizes), "check_size refuses a split without songs"
        if (self.sizes < 1).any():
            raise bins.damaged(
                f"{bins.folder}/train.idx does not fit train.bin",
                why="a song ends before it begins",
            )
        self.plan = lru_cache(maxsize=2)(self._plan)  # a step may lie in two epochs
        self.begins = [0]  # the first row of each epoch planned so far, and of the one after
        self.lock = Lock()  # one thread reads ahead while another counts targets

    def take(self, step: int, *, done: int, of: int, rows: range) -> Batch:
        """Rows `rows` of the `of` rows of a step, `done` rows into the run.

        Raises:
            DataError: an id that the vocabulary does not have.
        """
        tokens, shape = self.bins.train.tokens, (len(rows), self.T)
        x = np.full(shape, self.bins.tokenizer.eot, dtype=np.int64)
        y = np.full(shape, IGNORE, dtype=np.int64)
        documents = np.zeros(shape, dtype=np.int32)
        for i, row in enumerate(rows):
            epoch, at = self._place(done + row)
            end = 0
            for start, size in self.plan(epoch).row(at):
                begin, end = end, end + size
                ids = tokens[start : start + size + 1]
                x[i, begin:end], y[i, begin:end] = ids[:-1], ids[1:]
                documents[i, end:] += 1  # what follows is of another: a song or the padding
        _check_ids(self.bins, x, y)
        return _batch(x, y, documents if self.document_mask else None)

    def targets(self, step: int, *, done: int, of: int) -> int:
        """Targets other than IGNORE in all rows of a step."""
        return self._before(done + of) - self._before(done)

    def _before(self, n: int) -> int:
        """Targets in the first n rows of the run."""
        epoch, row = self._place(n)
        return epoch * int(self.sizes.sum()) + int(self.plan(epoch).targets[row])

    def _place(self, n: int) -> tuple[int, int]:
        """(epoch, row of this epoch) of row n of the run."""
        with self.lock:
            while self.begins[-1] <= n:
                plan = self.plan(len(self.begins) - 1)
                self.begins.append(self.begins[-1] + len(plan.firsts) - 1)
            epoch = bisect_right(self.begins, n) - 1
            return epoch, n - self.begins[epoch]

    def _plan(self, epoch: int) -> "Plan":
        draw = np.random.default_rng([self.seed, epoch])
        starts, sizes = _cut(self.starts, self.sizes, self.T, draw)
        # pieces, not songs, are shuffled: a row's neighbours are not of the same long song
        order = draw.permutation(len(starts))
        starts, sizes = starts[order], sizes[order]
        order, firsts = _pack(sizes, self.T)
        starts, sizes = starts[order], sizes[order]
        return Plan(starts, sizes, firsts, np.append(0, np.cumsum(sizes))[firsts])


class Plan(NamedTuple):
    """The P pieces of songs of one epoch in its R rows."""

    starts: Int64s  # (P,) where in the stream a piece begins
    sizes: Int64s  # (P,) its targets, and so its inputs
    firsts: Int64s  # (R + 1,) the first piece of each row, and P
    targets: Int64s  # (R + 1,) targets before each row, and in all

    def row(self, n: int) -> Iterator[tuple[int, int]]:
        """(start, size) of each piece in a row."""
        pieces = slice(self.firsts[n], self.firsts[n + 1])
        return zip(self.starts[pieces].tolist(), self.sizes[pieces].tolist(), strict=True)


def _cut(
    starts: Int64s, sizes: Int64s, most: int, draw: np.random.Generator
) -> tuple[Int64s, Int64s]:
    """Starts and sizes of the pieces of songs (n_songs,): at most so long, together all of them."""
    first = np.where(sizes > most, draw.integers(1, most, len(sizes), endpoint=True), sizes)
    pieces = 1 - (first - sizes) // most  # the first, and full ones for the rest
    song = np.repeat(np.arange(len(sizes)), pieces)  # (P,) whose piece it is
    number = np.arange(len(song)) - (np.cumsum(pieces) - pieces)[song]  # (P,) 0, 1, ... of a song
    end = first[song] + number * most  # (P,) within the song, or beyond it
    begin = np.maximum(end - most, 0)
    return starts[song] + begin, np.minimum(end, sizes[song]) - begin


def _pack(sizes: Int64s, room: int) -> tuple[Int64s, Int64s]:
    """Pieces (P,) into rows, best fit: the piece that waited longest begins a row, so that none
    starves, and the largest that still fits goes on, as long as one does.

    Returns:
        the pieces (P,) in the order of the rows, the first place (R + 1,) of each row among them
    """
    n = len(sizes)
    size_of = sizes.data  # read one by one, a memoryview is faster than an array
    order, firsts = np.empty(n, dtype=np.int64), []
    waiting: list[int] = []  # size * n + number of each piece in the buffer, ascending
    placed = bytearray(n)
    arrived = oldest = filled = 0
    while filled < n:
        while arrived < n and len(waiting) < BUFFER:
            insort(waiting, size_of[arrived] * n + arrived)
            arrived += 1
        while placed[oldest]:
            oldest += 1
        firsts.append(filled)
        left, at = room, bisect_left(waiting, size_of[oldest] * n + oldest)
        while at >= 0:
            size, piece = divmod(waiting.pop(at), n)
            order[filled], placed[piece] = piece, 1
            filled, left = filled + 1, left - size
            at = bisect_left(waiting, (left + 1) * n) - 1
    return order, np.array([*firsts, n], dtype=np.int64)


def open_batches(
    kind: str, bins: Bins, *, seed: int, block_size: int, document_mask: bool
) -> Windows | Songs:
    """Batches of the training split; kind is random or songs."""
    kinds: dict[str, type[Windows] | type[Songs]] = {"random": Windows, "songs": Songs}
    return kinds[kind](bins, seed=seed, block_size=block_size, document_mask=document_mask)


def check_size(bins: Bins, block_size: int, kind: str = "random") -> None:
    """A training split must hold a song; for random windows one block and the token after it.

    Raises:
        DataError: it is too short.
    """
    n = len(bins.train.tokens)
    if kind == "songs" and bins.train.songs == 0:
        raise DataError(f"{bins.folder}/train.bin has no song", mend="more songs")
    if kind == "random" and n < block_size + 1:
        raise DataError(
            f"{bins.folder}/train.bin has {n:,} tokens, fewer than block_size + 1 = "
            f"{block_size + 1:,}",
            why="one training example is block_size tokens and the token after them",
            mend=f"--block_size={max(8, n // 4)}, or more songs",
        )


def prefetched(items: Iterator[Item], depth: int = 2) -> Generator[Item, None, None]:
    """The same items, so many of them computed ahead by a thread, which ends with the generator.

    What the items raise is raised here, in its place.
    """
    pool = ThreadPoolExecutor(1)
    try:
        ahead = deque(pool.submit(next, items) for _ in range(depth))
        while True:
            try:
                item = ahead.popleft().result()
            except StopIteration:
                return
            ahead.append(pool.submit(next, items))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)  # waits for the one item that is being computed


def _batch(x: Int64s, y: Int64s, documents: npt.NDArray[np.int32] | None) -> Batch:
    numbers = None if documents is None else torch.from_numpy(documents)
    return Batch(torch.from_numpy(x), torch.from_numpy(y), numbers)


def _check_ids(bins: Bins, *ids: Int64s) -> None:
    """On a GPU such an id would stop the program later, and at another line."""
    worst = max(int(each.max(initial=0)) for each in ids)
    if worst >= (size := bins.tokenizer.vocab_size):
        raise bins.damaged(
            f"token id {worst} in {bins.folder}/train.bin, but its vocabulary has {size} ids",
            why="the model has no embedding for it",
        )
