"""Exact and near duplicates, found before any split so that no song leaks into validation.

Two songs are versions of one when the sets of their normalised lines overlap by at least a
threshold (Jaccard). Pairs that may are found by MinHash, each then compared exactly. In three
signatures out of 126 a pair with overlap J agrees with probability J^3 (Broder 1997), so one of the
42 bands finds a pair at 0.7 with all but 2e-8.
"""

import hashlib
import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import rensa

BANDS, ROWS = 42, 3
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits spread: three signatures become one number
SEED = 1  # of the permutations; groups do not depend on it, but for one pair in 50 million
Hashes = npt.NDArray[np.uint64]

VERSION = re.compile(
    r"\b(live|demo|remix|mix|remaster(ed)?|acoustic|edit|unplugged|rehearsal|session|version|cover)\b",
    re.IGNORECASE,
)
BRACKETED = re.compile(r"^\[.*\]$", re.MULTILINE)
BETWEEN_WORDS = re.compile(r"[^\w\n]+")


def normal_lines(text: str) -> frozenset[str]:
    """Lines without headers, case, accents and punctuation: what two versions share."""
    if "[" in text:
        text = BRACKETED.sub("", text)
    text = text.casefold()
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in decomposed if not unicodedata.combining(c))
    lines = BETWEEN_WORDS.sub(" ", text).split("\n")
    return frozenset(line.strip() for line in lines) - {""}


@dataclass(frozen=True)
class Fingerprints:
    """What of some songs is enough to compare them, about 600 bytes each."""

    ids: list[str]
    lines: Hashes  # (all lines of all songs,), of each song sorted
    sizes: npt.NDArray[np.int64]  # (songs,) lines of each
    bands: Hashes  # (songs, BANDS): equal in one place, worth comparing

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> Self:
        """Of id -> clean text."""
        sets = [sorted(normal_lines(text)) for text in texts.values()]
        hashes = rensa.RMinHash.hash_token_sets(sets)
        matrix = rensa.RMinHash.digest_matrix_from_token_hash_sets(hashes, BANDS * ROWS, SEED)
        rows = np.array(matrix.to_rows(), np.uint64).reshape(-1, BANDS, ROWS)
        bands = np.zeros(rows.shape[:2], np.uint64)
        for i in range(ROWS):
            bands = (bands ^ rows[:, :, i]) * MIX  # wraps, as it should
        lines = np.array(list(itertools.chain.from_iterable(map(sorted, hashes))), np.uint64)
        return cls(list(texts), lines, np.array(list(map(len, hashes)), np.int64), bands)

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Of all songs of all parts."""
        parts = [cls.of({}), *parts]
        ids = list(itertools.chain.from_iterable(part.ids for part in parts))
        return cls(
            ids,
            np.concatenate([part.lines for part in parts]),
            np.concatenate([part.sizes for part in parts]),
            np.concatenate([part.bands for part in parts]),
        )


def duplicate_groups(songs: Fingerprints, threshold: float) -> dict[str, list[str]]:
    """Groups of song ids (smallest id first), keyed by their smallest id; most hold one song.

    Args:
        threshold: least Jaccard overlap of normalised lines that makes two songs versions of one.
    """
    n = len(songs.ids)
    leader = np.arange(n)  # of each song, in one step after `settle`
    ends = np.cumsum(songs.sizes)

    def settle() -> None:
        while not np.array_equal(further := leader[leader], leader):
            leader[:] = further

    def lines(i: int) -> Hashes:
        return songs.lines[ends[i] - songs.sizes[i] : ends[i]]

    def find(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    # Equal sets first, of which there may be thousands, so that only one of each is compared.
    first: dict[bytes, int] = {}
    for i in np.flatnonzero(songs.sizes).tolist():
        digest = hashlib.blake2b(lines(i).tobytes(), digest_size=16).digest()
        leader[i] = first.setdefault(digest, i)
    distinct = np.array(list(first.values()), np.int64)
    del first

    other: set[int] = set()  # pairs that were compared and are two songs, i * n + j
    for band in range(BANDS):
        values = songs.bands[distinct, band]
        order = np.argsort(values, kind="stable")
        values, at = values[order], distinct[order]
        for distance in itertools.count(1):
            same = values[distance:] == values[:-distance]
            if not same.any():
                break
            settle()
            i, j = np.sort([at[:-distance][same], at[distance:][same]], axis=0)
            less, more = np.sort([songs.sizes[i], songs.sizes[j]], axis=0)
            worth = (leader[i] != leader[j]) & (less >= threshold * more)
            for a, b in zip(i[worth].tolist(), j[worth].tolist(), strict=True):
                if a * n + b not in other and find(a) != find(b):
                    shared = len(np.intersect1d(lines(a), lines(b), assume_unique=True))
                    if shared >= threshold * (songs.sizes[a] + songs.sizes[b] - shared):
                        leader[find(b)] = find(a)
                    else:
                        other.add(a * n + b)
            # A run whose songs are all one by now needs no more pairs: thousands of versions of a
            # song would else be compared each with each.
            settle()
            begins = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
            lengths = np.diff(np.append(begins, len(values)))
            roots = leader[at]
            mixed = np.minimum.reduceat(roots, begins) != np.maximum.reduceat(roots, begins)
            keep = np.repeat(mixed & (lengths > distance), lengths)
            values, at = values[keep], at[keep]
            if not len(values):
                break

    settle()
    groups: dict[int, list[str]] = defaultdict(list)
    for i in sorted(range(n), key=songs.ids.__getitem__):
        groups[int(leader[i])].append(songs.ids[i])
    return {members[0]: members for members in groups.values()}


def representative(versions: Mapping[str, bool], lengths: Mapping[str, int]) -> str:
    """The version to keep: studio before live or demo; then the longest; then the smallest id."""
    return min(versions, key=lambda key: (versions[key], -lengths[key], key))


def is_version(title: str) -> bool:
    """Does the title name a version: "(Live)", "[Demo]", "- Remastered 2009", "(Live) Opening"?

    A song that is simply called "Live" or "Live and Learn" is no version.
    """
    marked = re.findall(r"[(\[]([^)\]]*)[)\]]|\s[-–—]\s(.*)$", title)
    return any(VERSION.search(inside or after) for inside, after in marked)
