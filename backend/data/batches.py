"""Bins -> batches of (x, y), a pure function of (seed, step, micro-batch): hence exactly resumable.

Letters: B batch, T block size.
"""

import numpy as np
import torch

from backend.data.bins import Bins, Split
from backend.errors import DataError


def check_size(bins: Bins, block_size: int) -> None:
    """A training split must hold at least one block and the token after it."""
    n = len(bins.train.tokens)
    if n < block_size + 1:
        raise DataError(
            f"{bins.folder}/train.bin has {n:,} tokens, fewer than block_size + 1 = "
            f"{block_size + 1:,}",
            why="one training example is block_size tokens and the token after them",
            mend=f"--block_size={max(8, n // 4)}, or more songs",
        )


def random_windows(
    split: Split, *, seed: int, step: int, micro: int, batch_size: int, block_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows at random offsets of the stream, as nanoGPT draws them.

    Returns:
        x, y: (B, T) int64 on the CPU; y is x shifted by one token.
    """
    draw = np.random.default_rng([seed, step, micro])
    starts = draw.integers(0, len(split.tokens) - block_size, size=batch_size)
    rows = np.stack([split.tokens[s : s + block_size + 1] for s in starts]).astype(np.int64)
    both = torch.from_numpy(rows)  # (B, T+1)
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()
