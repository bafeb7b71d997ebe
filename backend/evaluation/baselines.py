"""What a model that knows next to nothing scores: the floor under every figure of a corpus.

    uniform   every token is equally likely: ln V nats
    unigram   tokens are as frequent as in training (one added to each count), in any order
    5-gram    a token depends on the four before it (evaluation/ngram.py)
    xz        what the texts add to the compressed size of the training texts before them

Over the tokens that evaluation/loss.py scores: each text and its closing end-of-text, a blank line
for xz. A model above `uniform` is broken, one at `unigram` has learnt the letters and nothing of
their order, one at `5-gram` how words look. Kept as baselines.json beside the bins; the last two,
which take seconds, once somebody evaluates.
"""

import json
import lzma
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backend.data.bins import Bins, Split
from backend.errors import DataError
from backend.evaluation.ngram import NGram
from backend.storage import write_json

FORMAT = 1
CHUNK = 2**22  # tokens at once
MOST = 2**23  # tokens that the 5-gram counts, or characters that xz reads: the last of the training
NAME = "baselines.json"
SLOW = {"5-gram", "xz"}


class Baseline(NamedTuple):
    """A score of the validation split."""

    loss: float | None  # nats per token; None for what knows no tokens, such as a compressor
    bpc: float  # bits per character


def baselines(bins: Bins, *, counted: Callable[[], NGram] | None = None) -> dict[str, Baseline]:
    """Name -> score; read where these very bins were scored before, else computed and kept.

    Args:
        counted: the 5-gram of these bins, asked for where it is needed: score it, and xz, too. Else
            they are among the scores where they were kept.
    Raises:
        DataError: the validation split holds no song, or an id is beyond the vocabulary.
    """
    kept = _read(bins.folder)
    found = kept[1] if kept and kept[0] == bins.sha256 else {}
    if found and (counted is None or found.keys() >= SLOW):
        return found
    if bins.val.songs == 0 or bins.val.chars == 0:
        raise DataError(
            "the validation split is empty",
            mend="more songs, or a larger --val_fraction in python -m backend.data.binarize",
        )
    size = bins.tokenizer.vocab_size
    scored = _scored(bins.val, size)
    trained = _counted(bins.train, size)
    for name, counts in (("val", scored), ("train", trained)):
        if len(counts) > size:
            raise bins.damaged(
                f"token id {len(counts) - 1} in {bins.folder}/{name}.bin, but its vocabulary has "
                f"{size} ids",
                why="the model has no embedding for it",
            )
    likely = np.log(trained + 1.0)
    n, bits = int(scored.sum()), math.log(2) * bins.val.chars
    nats = {
        "uniform": n * math.log(size),
        "unigram": float(scored @ (math.log(len(bins.train.tokens) + size) - likely)),
    }
    if counted:
        nats["5-gram"] = _ngram_nats(bins, counted())
    found = {name: Baseline(each / n, each / bits) for name, each in nats.items()}
    if counted:
        found["xz"] = Baseline(None, _xz_bits(bins) / bins.val.chars)
    value = {
        "format": FORMAT,
        "bins": bins.sha256,
        "baselines": {name: each._asdict() for name, each in found.items()},
    }
    with suppress(OSError):  # a folder that is not ours to write in costs seconds, nothing more
        write_json(bins.folder / NAME, value)
    return found


def ngram(bins: Bins) -> NGram:
    """The 5-gram of the training stream, or of its last MOST tokens."""
    return NGram(bins.train.tokens[-MOST:], bins.tokenizer.vocab_size)


def _ngram_nats(bins: Bins, model: NGram) -> float:
    """Over all scored tokens; the stream is read in pieces that overlap by a context."""
    split, total = bins.val, 0.0
    for start in range(0, len(split.tokens), CHUNK):
        seen = min(start, model.n - 1)
        nats = model.nats(split.tokens[start - seen : start + CHUNK])[seen:]
        total += float(nats[_is_scored(split, start, len(nats))].sum())
    return total


def _xz_bits(bins: Bins) -> float:
    """What the validation texts add behind the training texts, which xz has then seen."""

    def size(splits: Sequence[Split]) -> int:
        xz = lzma.LZMACompressor()  # preset 6 looks back 8 MB
        return sum(
            len(xz.compress(text.encode())) for each in splits for text in texts(each)
        ) + len(xz.flush())

    def texts(split: Split) -> Iterator[str]:
        first = 0
        if split is bins.train:  # the last that xz can look back to
            bound = max(0, len(split.tokens) - MOST)
            first = int(np.searchsorted(split.index[:, 0], bound))
        for i in range(first, split.songs):
            yield bins.tokenizer.decode(split.document(i)[1].tolist()) + "\n\n"

    with ThreadPoolExecutor(2) as pool:  # xz lets go of the GIL
        whole, before = pool.map(size, ([bins.train, bins.val], [bins.train]))
    return 8.0 * (whole - before)


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
    for start in range(0, len(split.tokens), CHUNK):
        ids: npt.NDArray[Any] = split.tokens[start : start + CHUNK]
        counts = _plus(counts, ids[_is_scored(split, start, len(ids))])
    return counts


def _is_scored(split: Split, start: int, n: int) -> npt.NDArray[np.bool_]:
    """Of n tokens of a stream from `start` on: (n,)."""
    heads, texts = (split.index[:, i].astype(np.int64) for i in (0, 1))  # (n_songs,) each
    inside = np.zeros(n + 1, np.int64)  # +1 where a header begins, -1 where it ended
    np.add.at(inside, np.clip(heads + 1 - start, 0, n), 1)
    np.add.at(inside, np.clip(texts - start, 0, n), -1)
    scored: npt.NDArray[np.bool_] = np.cumsum(inside[:-1]) == 0
    if start == 0:
        scored[:1] = False  # the first end-of-text closes nothing
    return scored
