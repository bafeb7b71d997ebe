"""Binarize: data.json -> token ids on disk, split by song.

    python -m backend.data.binarize --data_dir=data/demo --tokenizer=char

Reads <data_dir>/data.json. Writes to <data_dir>/{char,gpt2,bpe4096}/ train.bin and val.bin
(headerless little-endian ids, uint16 where the vocabulary fits: nanoGPT's own train.py reads them),
train.idx and val.idx (uint64 pairs: document start, first token of its text), tokenizer.json,
meta.json, and for characters meta.pkl, which nanoGPT reads.

A document is <|endoftext|>, header, text; the stream ends with one more <|endoftext|>.
"""

import hashlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from backend.config.loader import program
from backend.config.schema import BinarizeConfig
from backend.data import tokenizers
from backend.data.song import HEADER, CleanSong, header, read_songs, training_header
from backend.data.tokenizers import Ids, Tokenizer
from backend.errors import DataError
from backend.storage import Stage, Summary, atomic_write, sha256, write_json

VERSION = 1
FEW = 20  # below this many songs a split by song leaves too little on one side


def main(config: BinarizeConfig) -> Summary:
    source = Path(config.data_dir) / "data.json"
    given = Path(config.tokenizer_file) if config.tokenizer_file else None
    tokenizer = tokenizers.load(given) if given else None
    size = str(config.vocab_size) if config.tokenizer == "bpe" and not given else ""
    name = f"{tokenizer.kind}-{_owner(given)}" if tokenizer and given else ""
    folder = Path(config.data_dir) / (name or f"{config.tokenizer}{size}")
    settings = {k: v for k, v in config.as_dict().items() if k not in ("force", "data_dir")}
    settings["vocab_size"] = size
    stage = Stage(
        "binarize", VERSION, folder, settings=settings, inputs=[source, *([given] if given else [])]
    )
    if not config.force and (done := stage.unchanged()):
        print(done.line())
        return done

    notes: list[str] = []
    split_by, sides = _sides(source, config, notes)
    if tokenizer is None:
        # characters of all songs, so that validation has no unknown one; merges of training songs
        learnt = (s for side, s in _sides(source, config, [])[1] if side == "train")
        seen = read_songs(source) if config.tokenizer == "char" else learnt
        texts = (text for song in seen for text in (header(song.header_fields()), song.text))
        tokenizer = tokenizers.make(config.tokenizer, texts, config.vocab_size)
    writers: dict[str, SplitWriter] = {}
    outputs = [folder / f"{s}.{kind}" for s in ("train", "val") for kind in ("bin", "idx")]
    with ExitStack() as stack:  # the old bins stand until every new file is whole
        for name in ("train", "val"):
            bin_file, idx_file = (
                stack.enter_context(atomic_write(folder / f"{name}.{kind}", "wb"))
                for kind in ("bin", "idx")
            )
            writers[name] = SplitWriter(bin_file, idx_file, tokenizer)
        for name, song in sides:
            writers[name].add(
                song,
                training_header(song, config.seed)
                if name == "train"
                else header(song.header_fields()),
            )
        for writer in writers.values():
            writer.close()
        with atomic_write(folder / "tokenizer.json") as file:
            file.write(tokenizer.to_json())
    if tokenizer.kind == "char":
        with atomic_write(folder / "meta.pkl", "wb") as file:
            file.write(tokenizers.nanogpt_meta(tokenizer))
    write_json(
        folder / "meta.json",
        {
            "format": 1,
            "kind": tokenizer.kind,
            "tokenizer_sha256": sha256(folder / "tokenizer.json"),
            "vocab_size": tokenizer.vocab_size,
            "dtype": np.dtype(tokenizer.dtype).name,
            "eot": tokenizer.eot,
            "header": list(HEADER),
            "split_by": split_by,
            "val_fraction": config.val_fraction,
            "seed": config.seed,
            "source_sha256": sha256(source),
            "splits": {name: writer.meta(name) for name, writer in writers.items()},
        },
    )
    if unseen := set().union(*(writer.unseen for writer in writers.values())):
        notes.append(
            f"{given} does not know {' '.join(map(repr, sorted(unseen)))}: {tokenizers.UNKNOWN} now"
        )
    counts = {
        "songs to train on": writers["train"].songs,
        "songs held out": writers["val"].songs,
        "tokens": writers["train"].tokens + writers["val"].tokens,
        "in the vocabulary": tokenizer.vocab_size,
    }
    others = ["tokenizer.json", "meta.json"] + ["meta.pkl"] * (tokenizer.kind == "char")
    outputs += [folder / name for name in others]
    summary = stage.finish(outputs, counts, notes)
    print("\n".join([summary.line(), *(f"  note: {note}" for note in notes)]))
    return summary


def _owner(tokenizer_file: Path) -> str:
    """The run that a tokenizer.json is of."""
    folder = Path(os.path.normpath(tokenizer_file.absolute())).parent
    for parent in folder.parents:
        if parent.name.startswith("models--"):  # Hugging Face's cache
            return parent.name.removeprefix("models--").replace("--", "-")
    return folder.parent.name if folder.name.startswith("export-") else folder.name


@dataclass
class SplitWriter:
    """Appends documents to one split and keeps its counts."""

    bin_file: IO[Any]
    idx_file: IO[Any]
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        self.tokens = self.songs = self.chars = self.bytes = 0
        self.unseen: set[str] = set()  # characters that a tokenizer from elsewhere does not know
        self._digest = hashlib.sha256()

    def add(self, song: CleanSong, head: str) -> None:
        start = self.tokens
        self._put([self.tokenizer.eot])
        # header and text apart: no token spans the border
        ids, text = self.tokenizer.encode(head), self.tokenizer.encode(song.text)
        self._put(ids)
        self.idx_file.write(np.array([start, self.tokens], dtype="<u8").tobytes())
        self._put(text)
        if np.isin(np.concatenate([ids, text]), self.tokenizer.never_sampled()).any():
            self.unseen.update(self.tokenizer.unseen(head + song.text))
        self.songs += 1
        self.chars += len(song.text)
        self.bytes += len(song.text.encode())

    def close(self) -> None:
        self._put([self.tokenizer.eot])

    def meta(self, name: str) -> dict[str, Any]:
        return {
            "files": [f"{name}.bin"],
            "tokens": self.tokens,
            "songs": self.songs,
            "chars": self.chars,
            "bytes": self.bytes,
            "sha256": self._digest.hexdigest(),
        }

    def _put(self, ids: Ids | list[int]) -> None:
        data = np.asarray(ids, dtype=np.dtype(self.tokenizer.dtype).newbyteorder("<")).tobytes()
        self.bin_file.write(data)
        self._digest.update(data)
        self.tokens += len(ids)


def _sides(
    source: Path, config: BinarizeConfig, notes: list[str]
) -> tuple[str, Iterable[tuple[str, CleanSong]]]:
    """How it is split, and (train | val, song) in the order of data.json.

    All versions of a song go to one side.
    """
    # A group is held out only where the hash of every version says so. Then no song that was
    # trained on is held out later: versions that join a group can only take it to training.
    draws: dict[str, float] = {}
    n = 0
    for song in read_songs(source):
        ids = {song.id, song.duplicate_group, *song.versions}
        worst = max(_draw(config.seed, key) for key in ids)
        draws[song.duplicate_group] = max(worst, draws.get(song.duplicate_group, 0.0))
        n += 1
    if n < FEW:
        notes.append(
            f"only {n} songs: the last {config.val_fraction:.0%} of the text is held out, "
            "cut inside a song; a split by song starts at 20"
        )
        return "contiguous", _contiguous(source, config.val_fraction)
    held_out = {group for group, draw in draws.items() if draw < config.val_fraction}
    if not held_out:  # happens to small corpora: one in eight has none at 20 songs
        held_out = {min(draws, key=draws.__getitem__)}
        notes.append("the hash held out no song, so the one nearest to it was taken")
    if len(held_out) == len(draws):
        raise DataError(
            f"val_fraction = {config.val_fraction} leaves no song to train on",
            mend="--val_fraction=0.1",
        )
    songs = read_songs(source)
    return "song", (("val" if s.duplicate_group in held_out else "train", s) for s in songs)


def _draw(seed: int, key: str) -> float:
    """Uniform in [0, 1), the same for a song whatever else is in the corpus."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode()).digest()[:8], "big") / 2**64


def _contiguous(source: Path, val_fraction: float) -> Iterator[tuple[str, CleanSong]]:
    """The first part of the text, then the last, as nanoGPT splits; the song at the cut is divided
    at a line break into two documents.

    Raises:
        DataError: one side would be empty.
    """
    lengths = [len(song.text) for song in read_songs(source)]
    cut = round(sum(lengths) * (1 - val_fraction))
    chars = {"train": 0, "val": 0}
    for song, start in zip(read_songs(source), itertools.accumulate([0, *lengths]), strict=False):
        within = min(max(cut - start, 0), len(song.text))
        if 0 < within < len(song.text) and (line_end := song.text.rfind("\n", 0, within + 1)) > 0:
            within = line_end
        parts = {"train": song.text[:within].strip("\n"), "val": song.text[within:].strip("\n")}
        for side, text in parts.items():
            chars[side] += len(text)
            if text:
                yield side, replace(song, text=text)
    if not all(chars.values()):
        raise DataError(
            f"val_fraction = {val_fraction} of {sum(lengths):,} characters leaves one side empty",
            mend="--val_fraction=0.1, or more songs",
        )


if __name__ == "__main__":
    sys.exit(program(main, BinarizeConfig))
