"""Loss on a whole split: deterministic, each token scored once, in units that compare tokenizers.

Bits per character = -log2 p of the text tokens and the closing end-of-text, divided by the
characters of the text: the same songs and characters for every tokenizer. Header lines are
context, not scored.

A song longer than the block is read in windows that overlap, by half unless another stride is asked
for, so that every scored token but the first ones sees at least block_size - stride tokens:

    ids      0 1 2 3 4 5 6 7 8 9 ...
    window 1 [scored . . .]
    window 2     [seen|scored]
    window 3         [seen|scored]

Letters: B batch, T window, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from backend.data.batches import Songs, Windows
from backend.data.bins import Split
from backend.errors import DataError
from backend.models.gpt import GPT, IGNORE
from backend.runtime import Runtime

WINDOWS = 32  # at once
ROOM = 2**24  # logits at once: 64 MB in fp32, of which a few copies live


@dataclass(frozen=True)
class SplitLoss:
    """Negative log-likelihood of each song of a split, and what it is a sum over."""

    songs: npt.NDArray[np.float64]  # (n_songs,) nats
    tokens: int
    chars: int
    bytes: int

    @property
    def nats(self) -> float:
        """Of all songs."""
        return float(self.songs.sum())

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bpc(self) -> float:
        """Bits per character."""
        return self.nats / math.log(2) / self.chars

    @property
    def bpb(self) -> float:
        """Bits per byte of UTF-8."""
        return self.nats / math.log(2) / self.bytes

    @property
    def perplexity(self) -> float:
        """Per token: no figure to compare tokenizers by."""
        return math.exp(min(self.loss, 700))


@torch.no_grad()  # not inference_mode: FSDP would keep buffers made in it, and train on them
def split_loss(
    model: GPT,
    split: Split,
    runtime: Runtime,
    *,
    batch_size: int = WINDOWS,
    stride: int | None = None,
    between: Callable[[], object] = lambda: None,
) -> SplitLoss:
    """Score every song of a split. Of several processes each scores a share, and must call it; all
    get the whole result.

    Args:
        model: the GPT itself, which DDP holds inside and FSDP changed in place.
        stride: tokens from one window of a song to the next, at most the block; None is half of it.
        between: called before each batch, by all processes equally often; it may raise.
    Raises:
        DataError: the split holds no song.
    """
    if split.songs == 0 or split.chars == 0:
        raise DataError(
            "the validation split is empty",
            mend="more songs, or a larger --val_fraction in python -m backend.data.binarize",
        )
    windows = list(_windows(split, model.config.block_size, stride))
    try:
        scores = _scores(model, split.tokens, windows, split.songs, runtime, batch_size, between)
    except _UnknownIdError as error:
        raise DataError(
            f"token id {error} in the validation split, but the vocabulary has "
            f"{model.vocab_size} ids",
            mend="make the bins again: --force in python -m backend.data.binarize",
        ) from None
    return SplitLoss(scores.nats, int(scores.tokens.sum()), split.chars, split.bytes)


@torch.no_grad()
def continuations(
    model: GPT,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    runtime: Runtime,
    *,
    batch_size: int = WINDOWS,
    between: Callable[[], object] = lambda: None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """How likely each text is after its context, both in ids, neither empty: (n,) nats, and (n,)
    whether its every token is the likeliest. Processes share the work, as in split_loss.

    What is longer than the block loses the beginning of its context; a text that is longer itself
    is read in windows that overlap by half.
    """
    tokens = np.array([i for pair in requests for part in pair for i in part], np.int64)
    windows: list[Window] = []
    start = 0
    for n, (context, text) in enumerate(requests):
        scored, last = start + len(context), start + len(context) + len(text) - 1
        block = model.config.block_size
        first = max(start, last - block if len(text) <= block else scored - 1 - block // 2)
        windows += _cut(n, first, last, scored, block, max(1, block // 2))
        start = last + 1
    scores = _scores(model, tokens, windows, len(requests), runtime, batch_size, between)
    return scores.nats, scores.likeliest == scores.tokens


@torch.no_grad()
def random_loss(
    model: GPT, batches: Windows | Songs, runtime: Runtime, *, iters: int, batch_size: int
) -> float:
    """nanoGPT's estimate: the mean loss in nats per token of random batches. It wobbles, headers
    and cut songs are in it: for comparison with old logs alone."""
    was_training = model.training
    model.eval()
    total = 0.0
    for i in range(iters):
        x, y, documents = (
            None if t is None else t.to(runtime.device)
            for t in batches.take(i, done=i * batch_size, of=batch_size, rows=range(batch_size))
        )
        with runtime.autocast():
            total += model(x, y, documents=documents)[1].item()
    model.train(was_training)
    return total / iters


class _UnknownIdError(Exception):
    """An id beyond the vocabulary."""


class _Scores(NamedTuple):
    """Of each song: (n_songs,) each."""

    nats: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.float64]  # scored
    likeliest: npt.NDArray[np.float64]  # of these, that the model would take at temperature 0


def _scores(
    model: GPT,
    tokens: Any,
    windows: Sequence["Window"],
    n: int,
    runtime: Runtime,
    batch_size: int,
    between: Callable[[], object],
) -> _Scores:
    """Of n songs, which lie in the windows of a stream."""
    was_training = model.training
    model.eval()
    scores = np.zeros((3, n))
    windows = sorted(windows, key=lambda w: w.stop - w.start)
    batches = list(_batches(windows, batch_size, model.vocab_size))
    # dealt out in turn: neighbours are about as long. Under FSDP a forward is a collective, so who
    # has none left goes through the last one again and scores nothing
    for first in range(0, len(batches), runtime.world_size):
        between()
        mine = first + runtime.rank
        batch = batches[min(mine, len(batches) - 1)]
        longest = max(w.stop - w.start for w in batch)
        x = np.zeros((len(batch), longest), dtype=np.int64)
        y = np.full((len(batch), longest), IGNORE, dtype=np.int64)
        for row, (_, start, stop, scored) in enumerate(batch):
            ids = tokens[start : stop + 1]
            x[row, : stop - start] = ids[:-1]
            y[row, scored - start - 1 : stop - start] = ids[scored - start :]
        if (worst := int(max(x.max(), y.max()))) >= model.vocab_size:
            raise _UnknownIdError(worst)
        if mine >= len(batches):
            y.fill(IGNORE)
        with runtime.autocast():
            logits, _ = model(torch.from_numpy(x).to(runtime.device))  # (B, T, V)
        targets = torch.from_numpy(y).to(runtime.device)  # (B, T)
        each = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
        ).view(x.shape)  # (B, T)
        right = logits.argmax(-1) == targets  # (B, T)
        found = torch.stack([each.cpu().double(), (targets != IGNORE).cpu(), right.cpu()])
        # (3, B): on the CPU, since an Apple GPU has no float64
        np.add.at(scores.T, [w.song for w in batch], found.sum(-1).numpy().T)
    model.train(was_training)
    # one sum of all: where a process scored nothing stands 0, so any number of them add up alike
    return _Scores(*runtime.sum(torch.from_numpy(scores)).numpy())


class Window(NamedTuple):
    """A piece of a song: the model reads tokens start to stop, and is asked for scored to stop."""

    song: int
    start: int
    stop: int  # of what it reads; the token here is the last one asked for
    scored: int  # the first one asked for


def _batches(
    windows: Sequence[Window], batch_size: int, vocab_size: int
) -> Iterator[Sequence[Window]]:
    """At most batch_size windows, fewer where their logits would not fit the room."""
    i = 0
    while i < len(windows):
        n = batch_size
        while n > 1:
            longest = windows[min(i + n, len(windows)) - 1]
            if n * (longest.stop - longest.start) * vocab_size <= ROOM:
                break
            n //= 2
        yield windows[i : i + n]
        i += n


def _windows(split: Split, block_size: int, stride: int | None = None) -> Iterator[Window]:
    """Every window, at most block_size long. A song is end-of-text, header, text, end-of-text."""
    starts = split.index[:, 0].astype(np.int64)
    ends = np.append(starts[1:], len(split.tokens) - 1)  # position of the closing end-of-text
    step = min(stride or max(1, block_size // 2), block_size)
    texts = split.index[:, 1].astype(np.int64)
    for song, (start, end, scored) in enumerate(
        zip(starts.tolist(), ends.tolist(), texts.tolist(), strict=True)
    ):
        yield from _cut(song, start, end, scored, block_size, step)


def _cut(
    song: int, start: int, end: int, scored: int, block_size: int, step: int
) -> Iterator[Window]:
    """The windows of one song, from position `start` to `end`, scored from `scored` on."""
    for begin in range(start, end, step):
        stop = min(begin + block_size, end)
        if scored <= stop:
            yield Window(song, begin, stop, scored)
            scored = stop + 1
        if stop == end:
            break
