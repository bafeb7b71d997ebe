"""Loss on a whole split: deterministic, each token scored once, in units that compare tokenizers.

Bits per character = -log2 p of the text tokens and the closing end-of-text, divided by the
characters of the text: the same songs and characters for every tokenizer. Header lines are
context, not scored.

A song longer than the block is read in windows that overlap by half, so that every scored token but
the first ones sees at least half a block:

    ids      0 1 2 3 4 5 6 7 8 9 ...
    window 1 [scored . . .]
    window 2     [seen|scored]
    window 3         [seen|scored]

Letters: B batch, T window, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from backend.data.bins import Split
from backend.errors import DataError
from backend.models.gpt import GPT, IGNORE
from backend.runtime import Runtime

ROOM = 2**24  # logits at once: 64 MB in fp32, of which a few copies live


@dataclass(frozen=True)
class SplitLoss:
    """Summed negative log-likelihood of a split, and what it is a sum over."""

    nats: float
    tokens: int
    chars: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def bpc(self) -> float:
        """Bits per character."""
        return self.nats / math.log(2) / self.chars


@torch.no_grad()  # not inference_mode: FSDP would keep buffers made in it, and train on them
def split_loss(
    model: GPT,
    split: Split,
    runtime: Runtime,
    *,
    batch_size: int = 16,
    between: Callable[[], object] = lambda: None,
) -> SplitLoss:
    """Score every song of a split. Of several processes each scores a share, and must call it; all
    get the whole result.

    Args:
        model: the GPT itself, which DDP holds inside and FSDP changed in place.
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
    nats, tokens = 0.0, 0
    windows = sorted(_windows(split, model.config.block_size), key=lambda w: len(w[0]))
    batches = list(_batches(windows, batch_size, model.vocab_size))
    # dealt out in turn: neighbours are about as long. Under FSDP a forward is a collective, so who
    # has none left goes through the last one again and scores nothing
    for first in range(0, len(batches), runtime.world_size):
        between()
        mine = first + runtime.rank
        batch = batches[min(mine, len(batches) - 1)]
        longest = max(len(x) for x, _ in batch)
        x = np.zeros((len(batch), longest), dtype=np.int64)
        y = np.full((len(batch), longest), IGNORE, dtype=np.int64)
        for row, (ids, targets) in enumerate(batch):
            x[row, : len(ids)], y[row, : len(targets)] = ids, targets
        if (worst := int(x.max())) >= model.vocab_size:
            raise DataError(
                f"token id {worst} in the validation split, but the vocabulary has "
                f"{model.vocab_size} ids",
                mend="make the bins again: --force in python -m backend.data.binarize",
            )
        if mine >= len(batches):
            y.fill(IGNORE)
        with runtime.autocast():
            logits, _ = model(torch.from_numpy(x).to(runtime.device))  # (B, T, V)
        scored = torch.from_numpy(y).to(runtime.device)  # (B, T)
        each = F.cross_entropy(
            logits.float().flatten(0, 1), scored.flatten(), ignore_index=IGNORE, reduction="none"
        )  # (B*T,)
        nats += each.cpu().double().sum().item()  # an Apple GPU has no float64
        tokens += int((scored != IGNORE).sum())
    model.train(was_training)
    sums = runtime.sum(torch.tensor([nats, tokens], dtype=torch.float64))
    return SplitLoss(sums[0].item(), int(sums[1]), split.chars)


Window = tuple[np.ndarray, np.ndarray]  # (ids, targets), each (T,)


def _batches(windows: list[Window], batch_size: int, vocab_size: int) -> Iterator[list[Window]]:
    """At most batch_size windows, fewer where their logits would not fit the room."""
    i = 0
    while i < len(windows):
        n = batch_size
        while n > 1 and n * len(windows[min(i + n, len(windows)) - 1][0]) * vocab_size > ROOM:
            n //= 2
        yield windows[i : i + n]
        i += n


def _windows(split: Split, block_size: int) -> Iterator[Window]:
    """Every window, at most block_size long."""
    starts = split.index[:, 0].astype(np.int64)
    ends = np.append(starts[1:], len(split.tokens) - 1)  # position of the closing end-of-text
    stride = max(1, block_size // 2)
    for start, end, text in zip(starts, ends, split.index[:, 1].astype(np.int64), strict=True):
        ids = split.tokens[start : end + 1].astype(
            np.int64
        )  # end-of-text, header, text, end-of-text
        scored = int(text - start)  # the first target that counts
        for begin in range(0, len(ids) - 1, stride):
            stop = min(begin + block_size, len(ids) - 1)
            targets = ids[begin + 1 : stop + 1].copy()
            targets[: max(0, scored - begin - 1)] = IGNORE
            if (targets != IGNORE).any():
                yield ids[begin:stop], targets
            scored = max(scored, stop + 1)
            if stop == len(ids) - 1:
                break
