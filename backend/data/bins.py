"""Bins: the one file that knows how token ids lie on disk, to write them and to read them.

    train.bin, val.bin   little-endian ids without a header, uint16 where the vocabulary fits
    train-00000.bin ...  the same, in shards that are read as one stream
    train.idx, val.idx   uint64 pairs, one per document: its start, the first token of its text
    tokenizer.json       what the ids mean
    meta.json            counts and hashes; meta.pkl says for nanoGPT what characters mean

A document is <|endoftext|>, header, text; the stream ends with one more <|endoftext|>.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from backend.data import tokenizers
from backend.data.song import HEADER
from backend.data.tokenizers import Ids, Tokenizer
from backend.errors import DataError, first_line
from backend.storage import atomic_write, sha256, write_json

FORMAT = 1
BATCH = 2**20  # characters that are encoded together


class Document(NamedTuple):
    """One text of one side, encoded apart from its header: no token spans the border."""

    side: str  # train | val
    header: str
    text: str


# --- writing --------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What one side holds so far, and so how long its files are."""

    tokens: int = 0
    songs: int = 0
    chars: int = 0
    bytes: int = 0


@dataclass
class Writer:
    """Writes a folder of bins aside, as `.<name>.new`; `publish` gives it the name.

    The old folder stands whole until then. With `resumable`, what was written until the last
    `checkpoint` before a kill is taken up again; else it is thrown away.
    """

    folder: Path
    tokenizer: Tokenizer
    shard_tokens: int = 2**62
    resumable: bool = False
    counts: dict[str, Counts] = field(
        default_factory=lambda: {"train": Counts(), "val": Counts()}, init=False
    )
    unseen: set[str] = field(default_factory=set, init=False)  # characters read as others
    state: Any = field(default=None, init=False)  # what the last `checkpoint` was given

    def __post_init__(self) -> None:
        self.new = _new(self.folder)
        self.dtype = np.dtype(self.tokenizer.dtype).newbyteorder("<")
        self._digests = {side: hashlib.sha256() for side in self.counts}
        self._hashing = ThreadPoolExecutor(1)  # beside the encoding, which takes as long
        restore(self.folder)
        if not (self.resumable and self._take_up()):
            discard(self.folder)
            self.new.mkdir(parents=True)
            if self.resumable:
                self._put_tokenizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        if not self.resumable:
            discard(self.folder)

    def add(self, documents: Iterable[Document]) -> None:
        """Append documents, in their order, to their sides."""
        documents = list(documents)
        ids = self._encoded([text for d in documents for text in (d.header, d.text)])
        eot = np.array([self.tokenizer.eot], self.tokenizer.dtype)
        for side, counts in self.counts.items():
            parts: list[npt.NDArray[Any]] = []
            index: list[int] = []
            at = counts.tokens
            for i, document in enumerate(documents):
                if document.side == side:
                    parts += (eot, ids[2 * i], ids[2 * i + 1])
                    index += (at, at + 1 + len(ids[2 * i]))
                    at = index[-1] + len(ids[2 * i + 1])
                    counts.songs += 1
                    counts.chars += len(document.text)
                    counts.bytes += len(document.text.encode())
            if parts:
                with (self.new / f"{side}.idx").open("ab") as file:
                    file.write(np.array(index, "<u8").tobytes())
                self._put(side, np.concatenate(parts))

    def add_to_last(self, side: str, pieces: Sequence[str]) -> None:
        """Append more text to the last document of a side, which is too large for memory.

        The pieces must be cut where no token spans the cut.
        """
        counts = self.counts[side]
        self._put(side, np.concatenate(self._encoded(pieces)))
        counts.chars += sum(map(len, pieces))
        counts.bytes += sum(len(piece.encode()) for piece in pieces)

    def checkpoint(self, state: Any) -> None:
        """What is written so far stays after a kill, and `state` with it."""
        for pattern in ("*.bin", "*.idx"):
            for path in self.new.glob(pattern):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        counts = {side: asdict(each) for side, each in self.counts.items()}
        facts = {"counts": counts, "unseen": sorted(self.unseen), "state": state}
        write_json(self.new / "progress.json", facts | {"shard_tokens": self.shard_tokens})
        self.state = state

    def publish(self, meta: Mapping[str, Any]) -> dict[Path, str | None]:
        """Complete the files and swap the folders; returns their paths, with hashes if known."""
        eot = np.array([self.tokenizer.eot], self.tokenizer.dtype)
        for side in self.counts:
            self._put(side, eot)
            (self.new / f"{side}.idx").touch()
            shards = self._shards(side)
            if len(shards) == 1:
                shards[0].rename(self.new / f"{side}.bin")
        self._put_tokenizer()
        if self.tokenizer.kind == "char":
            with atomic_write(self.new / "meta.pkl", "wb") as file:
                file.write(tokenizers.nanogpt_meta(self.tokenizer))
        self._hashing.shutdown()
        splits = {}
        for side, counts in self.counts.items():
            files = sorted(path.name for path in self.new.glob(f"{side}*.bin"))
            digest = self._digests[side].hexdigest()
            splits[side] = {"files": files, **asdict(counts), "sha256": digest}
        write_json(
            self.new / "meta.json",
            {
                "format": FORMAT,
                "kind": self.tokenizer.kind,
                "tokenizer_sha256": sha256(self.new / "tokenizer.json"),
                "vocab_size": self.tokenizer.vocab_size,
                "dtype": np.dtype(self.tokenizer.dtype).name,
                "eot": self.tokenizer.eot,
                "header": list(HEADER),
                **meta,
                "splits": splits,
            },
        )
        (self.new / "progress.json").unlink(missing_ok=True)
        names = sorted(path.name for path in self.new.iterdir())
        old = _old(self.folder)
        if self.folder.exists():
            self.folder.rename(old)
        try:
            self.new.rename(self.folder)
        except BaseException:
            restore(self.folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        known = {
            side["files"][0]: side["sha256"] for side in splits.values() if len(side["files"]) == 1
        }
        return {self.folder / name: known.get(name) for name in names}

    def _encoded(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each; a character that the tokenizer does not know is read as its nearest."""
        ids = self.tokenizer.encode_batch(texts)
        if any((each == i).any() for i in self.tokenizer.never_sampled() for each in ids):
            self.unseen.update(*map(self.tokenizer.unseen, texts))
            ids = self.tokenizer.encode_batch(list(map(self.tokenizer.nearest, texts)))
        return ids

    def _put(self, side: str, ids: npt.NDArray[Any]) -> None:
        counts = self.counts[side]
        ids = ids.astype(self.dtype, copy=False)
        while len(ids):
            shard, within = divmod(counts.tokens, self.shard_tokens)
            part, ids = np.split(ids, [self.shard_tokens - within])
            with (self.new / f"{side}-{shard:05d}.bin").open("ab") as file:
                file.write(part.data)
            self._hashing.submit(self._digests[side].update, part.data)
            counts.tokens += len(part)

    def _put_tokenizer(self) -> None:
        with atomic_write(self.new / "tokenizer.json") as file:
            file.write(self.tokenizer.to_json())

    def _n_shards(self, counts: Counts) -> int:
        return -(-counts.tokens // self.shard_tokens)

    def _shards(self, side: str) -> list[Path]:
        return sorted(self.new.glob(f"{side}-*.bin"))

    def _take_up(self) -> bool:
        """Cut the files back to the last checkpoint; False where there is none."""
        try:
            facts = json.loads((self.new / "progress.json").read_text(encoding="utf-8"))
            if facts["shard_tokens"] != self.shard_tokens:
                return False
            self.counts = {side: Counts(**each) for side, each in facts["counts"].items()}
            for side, counts in self.counts.items():
                left = [self.new / f"{side}-{n:05d}.bin" for n in range(self._n_shards(counts))]
                for number, path in enumerate(left):
                    tokens = min(counts.tokens - number * self.shard_tokens, self.shard_tokens)
                    _cut(path, tokens * self.dtype.itemsize)
                for path in set(self._shards(side)) - set(left):
                    path.unlink()
                for path in left:
                    with path.open("rb") as file:
                        while piece := file.read(2**20):
                            self._digests[side].update(piece)
                if (index := self.new / f"{side}.idx").exists() or counts.songs:
                    _cut(index, counts.songs * 16)
            self.unseen, self.state = set(facts["unseen"]), facts["state"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.counts = {"train": Counts(), "val": Counts()}
            self._digests = {side: hashlib.sha256() for side in self.counts}
            return False
        for half in self.new.glob(".tmp-*"):
            half.unlink()
        return True


def kept_state(folder: Path) -> tuple[Any, Tokenizer] | None:
    """State at the last `checkpoint` of a killed writer, and its tokenizer, if both are whole."""
    new = _new(folder)
    try:
        facts = json.loads((new / "progress.json").read_text(encoding="utf-8"))
        return facts["state"], tokenizers.load(new / "tokenizer.json")
    except (OSError, ValueError, LookupError, TypeError, DataError):
        return None


def draw(seed: int, key: str) -> float:
    """Uniform in [0, 1), the same for a key whatever else is in the corpus."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode()).digest()[:8], "big") / 2**64


def _cut(path: Path, size: int) -> None:
    """Shorten a file to what it held at the checkpoint.

    Raises:
        ValueError: it is shorter than that.
    """
    if path.stat().st_size < size:
        raise ValueError(f"{path} is cut off")
    if size:
        os.truncate(path, size)
    else:
        path.unlink()


def _new(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.new"


def _old(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.old"


def restore(folder: Path) -> None:
    """Undo the first half of a swap that was killed in the middle."""
    old = _old(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def discard(folder: Path) -> None:
    """Throw away what a killed writer left."""
    shutil.rmtree(_new(folder), ignore_errors=True)


def batched(documents: Iterable[Document], characters: int = BATCH) -> Iterator[list[Document]]:
    """Documents in lists of about this many characters."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.header) + len(document.text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# --- reading --------------------------------------------------------------------------------------


class Unmapped:
    """Ids of a file that cannot be mapped into memory, each slice read when it is asked for."""

    def __init__(self, path: Path, kind: np.dtype[Any]) -> None:
        size = path.stat().st_size
        if size == 0 or size % kind.itemsize:
            raise ValueError(f"{path.name} has {size} bytes, which are no whole ids")
        self.path, self.kind, self.n = path, kind, size // kind.itemsize

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, wanted: slice) -> npt.NDArray[np.unsignedinteger]:
        start, stop, step = wanted.indices(len(self))
        if step != 1:
            raise ValueError("a file is read forwards, every token")
        # opened each time: two threads that share a file would move each other's place in it
        count, offset = max(stop - start, 0), start * self.kind.itemsize
        return np.fromfile(self.path, dtype=self.kind, count=count, offset=offset)


class Shards:
    """Arrays read as one, by slices; none is ever whole in memory."""

    def __init__(self, arrays: Sequence[npt.NDArray[np.unsignedinteger] | Unmapped]) -> None:
        self.arrays = arrays
        self.starts = list(itertools.accumulate(map(len, arrays), initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, wanted: slice) -> npt.NDArray[np.unsignedinteger]:
        start, stop, step = wanted.indices(len(self))
        if step != 1:
            raise ValueError("shards are read forwards, every token")
        parts = [
            array[max(start - first, 0) : stop - first]
            for first, array in zip(self.starts, self.arrays, strict=False)
            if first < stop and first + len(array) > start
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([self.arrays[0][:0], *parts])


@dataclass(frozen=True)
class Split:
    """One split: the stream of ids and where its documents lie."""

    tokens: npt.NDArray[np.unsignedinteger] | Unmapped | Shards  # (n_tokens,) read by slices
    index: npt.NDArray[np.uint64]  # (n_songs, 2): document start, first token of its text
    songs: int
    chars: int  # of the texts, without headers
    bytes: int  # the same in UTF-8

    def document(
        self, i: int, most: int | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Ids of header and of text (at most so many) of document i, without end-of-text."""
        start, text = map(int, self.index[i])
        after = i + 1 < len(self.index)
        end = int(self.index[i + 1][0]) if after else len(self.tokens) - 1
        stop = end if most is None else min(end, text + most)
        return self.tokens[start + 1 : text], self.tokens[text:stop]


@dataclass(frozen=True)
class Bins:
    """A folder of bins, checked."""

    folder: Path
    tokenizer: tokenizers.Tokenizer
    train: Split
    val: Split
    split_by: str  # song, album, artist, row, or contiguous for a handful
    sha256: str  # of both streams and the vocabulary: what a checkpoint was trained on
    names: tuple[str, ...]  # of all its files

    @classmethod
    def open(cls, dataset: str) -> Self:
        """`darklyrics/char` (under data/) or a path.

        Raises:
            DataError: not there, damaged, or of another format.
        """
        places = (Path("data") / dataset, Path(dataset))
        for place in places:
            restore(place)
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None or not (folder / "meta.json").is_file():
            spelt = Path(dataset).is_absolute() or Path(dataset).parts[:1] == ("data",)
            missing = folder or (Path(dataset) if spelt else Path("data") / dataset)
            raise DataError(f"no train.bin in {missing}", mend=_command(missing))
        again = f"{_command(folder)} --force"
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            if meta["format"] != FORMAT:
                raise DataError(
                    f"{folder} is of format {meta['format']}, this version reads {FORMAT}",
                    mend=again,
                )
            if sha256(folder / "tokenizer.json") != meta["tokenizer_sha256"]:
                raise DataError(f"{folder}/tokenizer.json is not the one of these bins", mend=again)
            splits = {name: _split(folder, name, meta) for name in ("train", "val")}
            files = [name for side in meta["splits"].values() for name in side["files"]]
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
        names = (*files, "train.idx", "val.idx", "tokenizer.json", "meta.json")
        return cls(folder, tokenizer, splits["train"], splits["val"], split_by, digest, names)

    def damaged(self, what: str, why: str) -> DataError:
        """What to raise where they turn out to be damaged as they are read."""
        return DataError(what, why=why, mend=f"{_command(self.folder)} --force")

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
        return [self.folder / name for name in self.names]

    def excerpts(self, n: int = 3, lines: int = 6) -> str:
        """The beginnings of n training documents, decoded: what the model will read."""
        shown = []
        for i in sorted({round(k * (self.train.songs - 1) / max(1, n - 1)) for k in range(n)}):
            head, text = map(self.tokenizer.decode, self.train.document(i, most=600))
            begin = (head + text).split("\n")[:lines]
            shown.append(f"  train, document {i + 1:,} of {self.train.songs:,}:")
            shown += [f"    | {line}".rstrip() for line in begin]
        return "\n".join(shown)


def _command(folder: Path) -> str:
    """The command that makes these bins."""
    if (folder / "corpora.manifest.json").is_file():
        return "the python -m backend.data.corpora that made them, with"
    if within := sorted(path.parent for path in folder.glob("*/meta.json")):
        return " or ".join(f"--dataset={path}" for path in within)
    size = folder.name.removeprefix("bpe")
    kind = f" --tokenizer={folder.name}" if folder.name in ("gpt2", "lyrics-base") else ""
    kind = f" --tokenizer=bpe --vocab_size={size}" if size.isdecimal() else kind
    return f"python -m backend.data.binarize --data_dir={folder.parent}{kind}"


def _split(folder: Path, name: str, meta: dict[str, Any]) -> Split:
    facts = meta["splits"][name]
    kind = np.dtype(meta["dtype"]).newbyteorder("<")
    paths = [folder / file for file in facts["files"]]
    size = sum(path.stat().st_size for path in paths)
    if size != facts["tokens"] * kind.itemsize:
        raise ValueError(
            f"{', '.join(facts['files'])} has {size:,} bytes, meta.json says "
            f"{facts['tokens'] * kind.itemsize:,}"
        )
    index = np.fromfile(folder / f"{name}.idx", dtype="<u8").reshape(-1, 2)
    if len(index) != facts["songs"]:
        raise ValueError(f"{name}.idx has {len(index)} songs, meta.json says {facts['songs']}")
    arrays = [_mapped(path, kind) for path in paths]
    tokens = arrays[0] if len(arrays) == 1 else Shards(arrays)
    return Split(tokens, index, facts["songs"], facts["chars"], facts["bytes"])


def _mapped(path: Path, kind: np.dtype[Any]) -> npt.NDArray[Any] | Unmapped:
    """A file of ids: mapped into memory, but on disks that refuse that (some network disks)."""
    try:
        return np.memmap(path, dtype=kind, mode="r")
    except (OSError, ValueError) as error:
        plain = Unmapped(path, kind)
        plain[:1]  # where the file cannot be read either, this says so
        _say_unmapped(path.parent, first_line(error))
        return plain


@cache
def _say_unmapped(folder: Path, reason: str) -> None:
    """Once for all shards of a folder."""
    print(
        f"note: {folder} cannot be mapped into memory ({reason}); its bins are read plainly, which "
        "is slower",
        flush=True,
    )
