"""How much of a song stood in the training songs: its longest verbatim run of words, which song has
that, and the share of its 5-word runs that were seen (Merrill, Smith & Elazar 2024, 2406.13069:
songs that people wrote repeat training runs too, so the figures of held-out ones belong beside).

The index is a suffix array over words, `novelty.idx` beside the bins, built on first use:

    words    >u2  a hash of each word of the training songs, 0 behind each song
    suffix   <u4  the places of all words, in the order of the words that follow there
    starts   <u4  where each song begins
    songs         JSON, [id, title, artist] of each
    facts         JSON, and its length as <u8

Six bytes a word, where English songs take 5.3. It is built in pieces of bounded memory and read
where it lies; one file answers for runs of any length. Two words in 65,535 share a hash, so a run
that is told was compared letter by letter.

Words are letters and digits in lower case, across line breaks; section headers are not sung.
"""

import hashlib
import json
import mmap
import re
import statistics
import tempfile
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from backend.data.bins import Bins, Split
from backend.data.sections import sung_lines
from backend.data.song import read_songs, split_header
from backend.data.tokenizers import Tokenizer
from backend.errors import DataError
from backend.storage import atomic_write

FORMAT = 1
NAME = "novelty.idx"
PIECE = 2**18  # tokens of a document that are decoded together
PARTS, LEAST_PART = 32, 2**20  # the words are sorted in so many parts, of at least so many words
DEPTH = 512  # words by which places are ordered: equal runs longer than that keep their order
PROBE = 256  # words of a run that the search compares
MOST = 2**32 - 1  # words: places are of four bytes
HUMAN = 200  # held-out songs that are measured
# a word; in scripts without spaces each character is one
WORD = re.compile(r"[぀-ヿ㐀-鿿]|[^\W_぀-ヿ㐀-鿿]+(?:['’][^\W_]+)*")

Hashes = npt.NDArray[np.uint16]


class SongName(NamedTuple):
    """Which training song: its id in data.json, or `train:<number>` where there is none."""

    id: str
    title: str | None
    artist: str | None


class Run(NamedTuple):
    """The longest run of a text that stands in a training song word for word."""

    n_words: int
    song: SongName | None  # None for no words
    words: str  # the run itself, normalized


@dataclass(frozen=True)
class Figures:
    """Of one text, or of several held-out songs: the median of their runs, the mean share."""

    longest_words: float
    share_5gram: float
    songs: int = 1


def words(text: str) -> list[str]:
    """What is compared: words in lower case, without headers and punctuation.

    >>> words("[Chorus]\\nDon’t go, RIVER\\nof 99 nights")
    ["don't", 'go', 'river', 'of', '99', 'nights']
    """
    return WORD.findall("\n".join(sung_lines(text)).casefold().replace("’", "'"))


def hashes(said: Sequence[str]) -> Hashes:
    """(n,) from 1 to 65,535."""
    return np.array([1 + zlib.crc32(word.encode()) % 65_535 for word in said], dtype=">u2")


class Novelty:
    """The index of a folder of bins. See `open`."""

    def __init__(self, body: mmap.mmap, facts: Mapping[str, Any], bins: Bins) -> None:
        """
        Raises:
            ValueError, KeyError: it is no index of these bins.
        """
        if facts["format"] != FORMAT or facts["bins"] != bins.sha256:
            raise ValueError("of other bins, or of another format")
        self._body, self._end, self.bins = body, facts["bytes"], bins
        self.artists: list[str] = facts["artists"]  # of the training songs
        # what held-out songs have; None where there are none
        self.human = Figures(**facts["human"]) if facts.get("human") else None
        at = 2 * facts["hashes"]
        self.suffix = np.frombuffer(body, "<u4", facts["words"], at)
        at += self.suffix.nbytes
        self.starts = np.frombuffer(body, "<u4", bins.train.songs, at)
        self._names = at + self.starts.nbytes

    @classmethod
    def open(cls, bins: Bins) -> Self:
        """The index beside these bins, built where there is none of theirs.

        Raises:
            DataError: the bins are damaged, or more than an index can hold.
            OSError: it cannot be written there.
        """
        path = bins.folder / NAME
        with suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or of other bins
            return cls._read(path, bins)
        _build(path, bins)
        return cls._read(path, bins)

    @classmethod
    def _read(cls, path: Path, bins: Bins) -> Self:
        with path.open("rb") as file:
            body = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size = int.from_bytes(body[-8:], "little")
        return cls(body, json.loads(body[-8 - size : -8]), bins)

    def longest_run(self, text: str) -> Run:
        """The longest run of its words that stands in a training song, and in which."""
        said = words(text)
        best = Run(0, None, "")
        found = sorted(self._matches(said), reverse=True)  # (length, place there, place here)
        for length, at, here in found:
            if length <= best.n_words:
                break
            number = bisect_right(self.starts, at) - 1
            theirs = [*chain(*_words_of(self.bins.train, number, self.bins.tokenizer))]
            within = at - int(self.starts[number])
            n = 0
            while n < length and theirs[within + n] == said[here + n]:
                n += 1  # hashes may agree where words do not
            if n > best.n_words:
                best = Run(n, self.names[number], " ".join(said[here : here + n]))
        return best

    def seen_share(self, text: str, n: int = 5) -> float:
        """Share of its runs of n words that stand in a training song. 0 for shorter texts."""
        said = words(text)
        runs = len(said) - n + 1
        seen = sum(length >= n for length, _, here in self._matches(said) if here < runs)
        return seen / runs if runs > 0 else 0.0

    def copied(self, said: Sequence[str]) -> bool:
        """Do these words, as `words` gives them, stand in a training song in one run?"""
        return self._longest(hashes(said).tobytes())[0] >= len(said)

    def measure(self, text: str) -> Figures:
        """Both figures of a text."""
        return Figures(self.longest_run(text).n_words, self.seen_share(text))

    @cached_property
    def names(self) -> list[SongName]:
        """Of all training songs."""
        return [SongName(*row) for row in json.loads(self._body[self._names : self._end])]

    def _matches(self, said: Sequence[str]) -> Iterator[tuple[int, int, int]]:
        """(length, place there, place here) of the longest match from each word on."""
        query = hashes(said).tobytes()
        for here in range(len(said)):
            length, at = self._longest(query[2 * here :])
            yield length, at, here

    def _longest(self, query: bytes) -> tuple[int, int]:
        """(words, place) of the longest run that these words begin with: it stands beside the place
        where they would be sorted in."""
        key = query[: 2 * PROBE]

        def text(at: int) -> bytes:
            return self._body[2 * int(at) : 2 * int(at) + len(key)]

        place = bisect_left(self.suffix, key, key=text)
        best = (0, 0)
        for at in map(int, self.suffix[max(place - 1, 0) : place + 1]):
            n = 0
            while 2 * n < len(query) and (
                self._body[2 * (at + n) : 2 * (at + n) + 2] == query[2 * n : 2 * n + 2]
            ):
                n += 1
            best = max(best, (n, at))
        return best


# --- building -------------------------------------------------------------------------------------


def _build(path: Path, bins: Bins) -> None:
    """Words to a file without a name, their order behind them; then all of it to its place."""
    starts: list[int] = []
    n_hashes = n_words = 0
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        for number in range(bins.train.songs):
            starts.append(n_hashes)
            for said in _words_of(bins.train, number, bins.tokenizer):
                spool.write(hashes(said).tobytes())
                n_words += len(said)
            spool.write(bytes(2))  # no run goes on into the next song
            n_hashes = spool.tell() // 2
        spool.write(bytes(8))  # four more, for who reads four at a time
        n_hashes += 4
        if n_hashes > MOST:
            raise DataError(f"{bins.folder} holds {n_hashes:,} words, too many for a novelty index")
        spool.flush()
        hashed = np.memmap(spool, dtype=">u2", mode="r", shape=(n_hashes,))
        for places in _suffixes(hashed):
            spool.write(places.astype("<u4").tobytes())
        spool.write(np.array(starts, dtype="<u4").tobytes())
        names = _names(bins)
        spool.write(json.dumps(names, ensure_ascii=False, separators=(",", ":")).encode())
        spool.flush()
        facts: dict[str, Any] = {
            "format": FORMAT,
            "bins": bins.sha256,
            "hashes": n_hashes,
            "words": n_words,
            "bytes": spool.tell(),
            "artists": sorted({name.artist for name in names if name.artist}),
        }
        body = mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ)
        facts["human"] = _human(Novelty(body, facts, bins))
        with atomic_write(path, "wb") as file:
            spool.seek(0)
            while piece := spool.read(2**20):
                file.write(piece)
            told = json.dumps(facts, ensure_ascii=False).encode()
            file.write(told + len(told).to_bytes(8, "little"))


def _words_of(split: Split, number: int, tokenizer: Tokenizer) -> Iterator[list[str]]:
    """The words of a document, however long it is, in pieces."""
    ids = split.document(number)[1]
    for start in range(0, len(ids), PIECE):
        yield words(tokenizer.decode(ids[start : start + PIECE]))


def _suffixes(hashed: Hashes) -> Iterator[npt.NDArray[np.int64]]:
    """The places of all words in the order of what follows them, part by part."""
    counts = np.zeros(2**16, np.int64)
    pieces = range(0, len(hashed), LEAST_PART)
    for start in pieces:
        counts += np.bincount(hashed[start : start + LEAST_PART], minlength=2**16)
    counts[0] = 0  # the ends of songs
    size = max(LEAST_PART, -(-int(counts.sum()) // PARTS))
    part = np.cumsum(counts) // size  # of each hash: together its words fill about `size`
    part[0] = -1
    for number in range(part[-1] + 1):
        found = (
            start + np.flatnonzero(part[hashed[start : start + LEAST_PART]] == number)
            for start in pieces
        )
        yield _sorted(hashed, np.concatenate([*found]))


def _sorted(hashed: Hashes, at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Places by the words that follow, four words at a time; only ties are looked at again."""
    tied, group = np.arange(len(at)), np.zeros(len(at), np.int64)  # where in `at`; equal so far
    for depth in range(0, DEPTH, 4):
        places = at[tied]
        key, ended = np.zeros(len(tied), np.uint64), np.zeros(len(tied), bool)
        for word in (hashed[places + depth + i] for i in range(4)):
            key = (key << np.uint64(16)) | word.astype(np.uint64)
            ended |= word == 0  # what comes behind the end of a song is never compared
        order = np.lexsort((key, group))
        at[tied], key, group, ended = places[order], key[order], group[order], ended[order]
        new = np.append(True, (group[1:] != group[:-1]) | (key[1:] != key[:-1]))
        more = ~(new & np.append(new[1:], True)) & ~ended
        tied, group = tied[more], np.cumsum(new)[more]
        if not len(tied):
            break
    return at


def _names(bins: Bins) -> list[SongName]:
    """Which song each training document is: found by its text in data.json, else by its header."""
    source = bins.folder.parent / "data.json"
    known: dict[bytes, SongName] = {}
    if source.is_file():
        with suppress(DataError):  # it was changed or damaged since: headers say less, not nothing
            for song in read_songs(source):
                key = _digest(song.text)
                known.setdefault(key, SongName(song.id, song.song_name, song.artist_name))
    names = []
    for number in range(bins.train.songs):
        head, text = bins.train.document(number, most=PIECE)
        name = known.get(_digest(bins.tokenizer.decode(text))) if known else None
        if name is None:
            fields, _ = split_header(bins.tokenizer.decode(head))
            name = SongName(f"train:{number}", fields.get("title"), fields.get("artist"))
        names.append(name)
    return names


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def _human(index: Novelty) -> dict[str, Any] | None:
    """What songs have that people wrote and the model never saw."""
    split = index.bins.val
    chosen = sorted({round(i) for i in np.linspace(0, split.songs - 1, min(HUMAN, split.songs))})
    texts = (index.bins.tokenizer.decode(split.document(i, most=PIECE)[1]) for i in chosen)
    found = [index.measure(text) for text in texts]
    if not found:
        return None
    median = statistics.median(each.longest_words for each in found)
    return vars(Figures(median, statistics.fmean(each.share_5gram for each in found), len(found)))
