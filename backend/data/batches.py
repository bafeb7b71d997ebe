"""Bins -> batches of (x, y), a pure function of (seed, step, micro-batch): hence exactly resumable.

Letters: B batch, T block size.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backend.data import tokenizers
from backend.errors import DataError
from backend.storage import sha256


@dataclass(frozen=True)
class Split:
    """One split: the stream of ids and where its documents lie."""

    tokens: npt.NDArray[np.unsignedinteger]  # (n_tokens,) memory-mapped
    index: npt.NDArray[np.uint64]  # (n_songs, 2): document start, first token of its text
    songs: int
    chars: int


@dataclass(frozen=True)
class Bins:
    """A folder of bins, checked."""

    folder: Path
    tokenizer: tokenizers.Tokenizer
    train: Split
    val: Split
    split_by: str  # song, or contiguous for a handful
    sha256: str  # of both streams and the vocabulary: what a checkpoint was trained on

    def summary(self) -> dict[str, Any]:
        """What a checkpoint says of its data: counts, never text."""
        counts = {
            name: {"songs": split.songs, "tokens": len(split.tokens), "characters": split.chars}
            for name, split in (("train", self.train), ("val", self.val))
        }
        corpus = self.folder.absolute().parent.name
        how = {"tokenizer": self.tokenizer.kind, "split_by": self.split_by}
        return {"corpus": corpus, **how, **counts}

    def files(self) -> list[Path]:
        """What a manifest names as inputs."""
        names = ("train.bin", "val.bin", "train.idx", "val.idx", "tokenizer.json", "meta.json")
        return [self.folder / name for name in names]


def open_bins(dataset: str) -> Bins:
    """`darklyrics/char` (under data/) or a path.

    Raises:
        DataError: not there, damaged, or of another format.
    """
    folder = next((p for p in (Path("data") / dataset, Path(dataset)) if p.is_dir()), None)
    if folder is None or not (folder / "meta.json").is_file():
        missing = folder or Path("data") / dataset
        raise DataError(f"no train.bin in {missing}", mend=_binarize(missing))
    again = f"{_binarize(folder)} --force"
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != 1:
            raise DataError(
                f"{folder} is of format {meta['format']}, this version reads 1", mend=again
            )
        if sha256(folder / "tokenizer.json") != meta["tokenizer_sha256"]:
            raise DataError(f"{folder}/tokenizer.json is not the one of these bins", mend=again)
        splits = {name: _split(folder, name, meta) for name in ("train", "val")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the bins in {folder} are damaged: {error}", mend=again) from error
    digest = "-".join(
        m[:16]
        for m in (
            meta["tokenizer_sha256"],
            meta["splits"]["train"]["sha256"],
            meta["splits"]["val"]["sha256"],
        )
    )
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    split_by = str(meta.get("split_by", "song"))
    return Bins(folder, tokenizer, splits["train"], splits["val"], split_by, digest)


def _binarize(folder: Path) -> str:
    """The command that makes these bins."""
    size = folder.name.removeprefix("bpe")
    kind = {"char": "", "gpt2": " --tokenizer=gpt2"}.get(folder.name, "")
    kind = f" --tokenizer=bpe --vocab_size={size}" if size.isdecimal() else kind
    return f"python -m backend.data.binarize --data_dir={folder.parent}{kind}"


def _split(folder: Path, name: str, meta: dict[str, Any]) -> Split:
    facts = meta["splits"][name]
    path = folder / f"{name}.bin"
    kind = np.dtype(meta["dtype"]).newbyteorder("<")
    if path.stat().st_size != facts["tokens"] * kind.itemsize:
        raise ValueError(
            f"{path.name} has {path.stat().st_size:,} bytes, meta.json says "
            f"{facts['tokens'] * kind.itemsize:,}"
        )
    index = np.fromfile(folder / f"{name}.idx", dtype="<u8").reshape(-1, 2)
    if len(index) != facts["songs"]:
        raise ValueError(f"{name}.idx has {len(index)} songs, meta.json says {facts['songs']}")
    return Split(np.memmap(path, dtype=kind, mode="r"), index, facts["songs"], facts["chars"])


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
