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
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from backend.data.bins import Split
from backend.errors import DataError
from backend.models.gpt import GPT, IGNORE
from backend.runtime import Runtime

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
    batch_size: int = 16,
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
    was_training = model.training
    model.eval()
    nats = np.zeros(split.songs)
    tokens = 0
    block_size = model.config.block_size
    windows = sorted(_windows(split, block_size, stride), key=lambda w: w.stop - w.start)
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
            ids = split.tokens[start : stop + 1]
            x[row, : stop - start] = ids[:-1]
            y[row, scored - start - 1 : stop - start] = ids[scored - start :]
        if (worst := int(max(x.max(), y.max()))) >= model.vocab_size:
            raise DataError(
                f"token id {worst} in the validation split, but the vocabulary has "
                f"{model.vocab_size} ids",
                mend="make the bins again: --force in python -m backend.data.binarize",
            )
        if mine >= len(batches):
            y.fill(IGNORE)
        with runtime.autocast():
            logits, _ = model(torch.from_numpy(x).to(runtime.device))  # (B, T, V)
        targets = torch.from_numpy(y).to(runtime.device)  # (B, T)
        each = F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
        )  # (B*T,)
        rows = each.view(x.shape).cpu().double().sum(1)  # (B,); an Apple GPU has no float64
        np.add.at(nats, [w.song for w in batch], rows.numpy())
        tokens += int((targets != IGNORE).sum())
    model.train(was_training)
    # one sum of both: what one process has not scored is 0, so that any number of them add up alike
    sums = runtime.sum(torch.from_numpy(np.append(nats, tokens))).numpy()
    return SplitLoss(sums[:-1], int(sums[-1]), split.chars, split.bytes)


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
        for begin in range(start, end, step):
            stop = min(begin + block_size, end)
            if scored <= stop:
                yield Window(song, begin, stop, scored)
                scored = stop + 1
            if stop == end:
                break
