"""What a model that knows next to nothing scores: the floor under every figure of a corpus.

    uniform   every token is equally likely: ln V nats
    unigram   tokens are as frequent as in training (one added to each count), in any order

Both over the tokens that evaluation/loss.py scores: each text and its closing end-of-text. A model
above `uniform` is broken, one at `unigram` has learnt the letters and nothing of their order.
Kept as baselines.json beside the bins.
"""

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backend.data.bins import Bins, Split
from backend.errors import DataError
from backend.storage import write_json

FORMAT = 1
CHUNK = 2**22  # tokens at once
NAME = "baselines.json"


class Baseline(NamedTuple):
    """A score of the validation split."""

    loss: float | None  # nats per token; None for what knows no tokens, such as a compressor
    bpc: float  # bits per character


def baselines(bins: Bins) -> dict[str, Baseline]:
    """Name -> score; read where these very bins were scored before, else computed and kept.

    Raises:
        DataError: the validation split holds no song, or an id is beyond the vocabulary.
    """
    if (kept := _read(bins.folder)) and kept[0] == bins.sha256:
        return kept[1]
    if bins.val.songs == 0 or bins.val.chars == 0:
        raise DataError(
            "the validation split is empty",
            mend="more songs, or a larger --val_fraction in python -m backend.data.binarize",
        )
    size = bins.tokenizer.vocab_size
    scored = _scored(bins.val, size)
    counted = _counted(bins.train, size)
    for name, counts in (("val", scored), ("train", counted)):
        if len(counts) > size:
            raise bins.damaged(
                f"token id {len(counts) - 1} in {bins.folder}/{name}.bin, but its vocabulary has "
                f"{size} ids",
                why="the model has no embedding for it",
            )
    likely = np.log(counted + 1.0)
    n, bits = int(scored.sum()), math.log(2) * bins.val.chars
    nats = {
        "uniform": n * math.log(size),
        "unigram": float(scored @ (math.log(len(bins.train.tokens) + size) - likely)),
    }
    found = {name: Baseline(each / n, each / bits) for name, each in nats.items()}
    value = {
        "format": FORMAT,
        "bins": bins.sha256,
        "baselines": {name: each._asdict() for name, each in found.items()},
    }
    with suppress(OSError):  # a folder that is not ours to write in costs seconds, nothing more
        write_json(bins.folder / NAME, value)
    return found


def find(dataset: str) -> dict[str, Baseline]:
    """What was kept beside the bins of a dataset, as a run names it; empty where nothing was."""
    for folder in (Path("data") / dataset, Path(dataset)):
        if kept := _read(folder):
            return kept[1]
    return {}


def _read(folder: Path) -> tuple[str, dict[str, Baseline]] | None:
    """(hash of the bins, scores) of a whole file of our format."""
    try:
        value = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if value["format"] != FORMAT:
            return None
        return value["bins"], {k: Baseline(**each) for k, each in value["baselines"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _counted(split: Split, size: int) -> npt.NDArray[np.int64]:
    """How often each id stands in a stream, header lines and all: (V,), or longer where an id is
    beyond the vocabulary."""
    counts = np.zeros(size, np.int64)
    for start in range(0, len(split.tokens), CHUNK):
        counts = _plus(counts, split.tokens[start : start + CHUNK])
    return counts


def _plus(counts: npt.NDArray[np.int64], ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    more = np.bincount(ids, minlength=len(counts))
    more[: len(counts)] += counts
    return more


def _scored(split: Split, size: int) -> npt.NDArray[np.int64]:
    """How often each id is scored: all of the stream but the first token and the headers; (V,)."""
    counts = np.zeros(size, np.int64)
    heads, texts = (split.index[:, i].astype(np.int64) for i in (0, 1))  # (n_songs,) each
    for start in range(0, len(split.tokens), CHUNK):
        ids: npt.NDArray[Any] = split.tokens[start : start + CHUNK]
        inside = np.zeros(len(ids) + 1, np.int64)  # +1 where a header begins, -1 where it ended
        np.add.at(inside, np.clip(heads + 1 - start, 0, len(ids)), 1)
        np.add.at(inside, np.clip(texts - start, 0, len(ids)), -1)
        counts = _plus(counts, ids[np.cumsum(inside[:-1]) == 0])
    counts[split.tokens[:1]] -= 1  # the first end-of-text closes nothing
    return counts
