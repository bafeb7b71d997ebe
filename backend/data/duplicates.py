"""Exact and near duplicates, found before any split so that no song leaks into validation.

Two songs are versions of one when the sets of their lines, or of their phrases of three words,
overlap enough (Jaccard). Lines tell versions that add or leave out; phrases those that break lines
elsewhere or change a word in each. Both are compared without case, accents, punctuation and
headers. Songs worth comparing are found by MinHash (Broder 1997): three signatures out of 126 agree
with probability J^3, so one of the 42 bands finds a pair at 0.6 but for 4 in 100,000.
"""

import hashlib
import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import rensa

BANDS, ROWS = 42, 3
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits spread: three signatures become one number
SEED = 1  # of the permutations; groups do not depend on it, but for one pair in 50 million
FEW = 8  # phrases; "la la la" is anybody's

VERSION = re.compile(
    r"\b(live|demo|remix|mix|remaster(ed)?|acoustic|edit|unplugged|rehearsal|session|version|cover)\b",
    re.IGNORECASE,
)
BRACKETED = re.compile(r"^\[.*\]$", re.MULTILINE)
BETWEEN_WORDS = re.compile(r"[^\w\n]+")


def _normal(text: str) -> str:
    """Words and line breaks alone, without headers, case and accents."""
    if "[" in text:
        text = BRACKETED.sub("", text)
    text = text.casefold()
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in decomposed if not unicodedata.combining(c))
    return BETWEEN_WORDS.sub(" ", text)


def normal_lines(text: str) -> frozenset[str]:
    """The lines that two versions of a song share."""
    return frozenset(line.strip() for line in _normal(text).split("\n")) - {""}


def phrases(text: str) -> frozenset[str]:
    """Three neighbouring words, wherever lines end; none where there are too few to tell songs
    apart."""
    words = _normal(text).split()
    found = frozenset(map(" ".join, zip(words, words[1:], words[2:], strict=False)))
    return found if len(found) >= FEW else frozenset()


@dataclass(frozen=True)
class View:
    """One set of every song, and the bands by which equal ones are found."""

    sets: npt.NDArray[np.uint32]  # (all members of all sets,), hashed, of each song sorted
    sizes: npt.NDArray[np.int64]  # (songs,) members of each
    bands: npt.NDArray[np.uint64]  # (songs, BANDS): equal in one place, worth comparing

    @classmethod
    def of(cls, sets: Iterable[frozenset[str]]) -> Self:
        hashes = rensa.RMinHash.hash_token_sets(list(map(sorted, sets)))
        matrix = rensa.RMinHash.digest_matrix_from_token_hash_sets(hashes, BANDS * ROWS, SEED)
        rows = np.array(matrix.to_rows(), np.uint64).reshape(-1, BANDS, ROWS)
        bands = np.zeros(rows.shape[:2], np.uint64)
        for i in range(ROWS):
            bands = (bands ^ rows[:, :, i]) * MIX  # wraps, as it should
        short = [sorted({each >> 32 for each in one}) for one in hashes]
        members = np.array(list(itertools.chain.from_iterable(short)), np.uint32)
        return cls(members, np.array(list(map(len, short)), np.int64), bands)


@dataclass(frozen=True)
class Fingerprints:
    """What of some songs is enough to compare them, 2 kB each."""

    ids: list[str]
    views: tuple[View, View]  # lines, phrases

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> Self:
        """Of id -> clean text."""
        views = (View.of(map(each, texts.values())) for each in (normal_lines, phrases))
        return cls(list(texts), (next(views), next(views)))

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Of all songs of all parts."""
        parts = [cls.of({}), *parts]
        lines, words = (
            View(*(np.concatenate(arrays) for arrays in zip(*map(_arrays, views), strict=True)))
            for views in zip(*(part.views for part in parts), strict=True)
        )
        return cls(list(itertools.chain.from_iterable(part.ids for part in parts)), (lines, words))


def _arrays(view: View) -> tuple[npt.NDArray[Any], ...]:
    return view.sets, view.sizes, view.bands


def of_phrases(threshold: float) -> float:
    """The overlap of phrases that goes with one of lines: 0.6 with 0.7, all with all."""
    return max(0.6, 1 - (1 - threshold) * 4 / 3)


def duplicate_groups(songs: Fingerprints, threshold: float) -> dict[str, list[str]]:
    """Groups of song ids (smallest id first), keyed by their smallest id; most hold one song.

    Args:
        threshold: least Jaccard overlap of lines that makes two songs versions of one. A changed
            word costs one line and three phrases: of those, 0.6 is enough where it is 0.7.
    """
    n = len(songs.ids)
    leader = np.arange(n)  # of each song, in one step after `settle`

    def settle() -> None:
        while not np.array_equal(further := leader[leader], leader):
            leader[:] = further

    def find(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    # Equal lines first, of which there may be thousands, so that only one of each is compared.
    lines = songs.views[0]
    first: dict[bytes, int] = {}
    for i, (end, size) in enumerate(zip(np.cumsum(lines.sizes), lines.sizes, strict=True)):
        if size:
            whole = lines.sets[end - size : end].tobytes()
            leader[i] = first.setdefault(hashlib.blake2b(whole, digest_size=16).digest(), i)
    distinct = np.array(list(first.values()), np.int64)
    del first

    for view, least in zip(songs.views, (threshold, of_phrases(threshold)), strict=True):
        ends = np.cumsum(view.sizes)
        other: set[int] = set()  # pairs that were compared and are two songs, i * n + j
        among = distinct[view.sizes[distinct] > 0]
        for band in range(BANDS):
            values = view.bands[among, band]
            order = np.argsort(values, kind="stable")
            values, at = values[order], among[order]
            for distance in itertools.count(1):
                same = values[distance:] == values[:-distance]
                if not same.any():
                    break
                settle()
                i, j = np.sort([at[:-distance][same], at[distance:][same]], axis=0)
                less, more = np.sort([view.sizes[i], view.sizes[j]], axis=0)
                worth = (leader[i] != leader[j]) & (less >= least * more)
                for a, b in zip(i[worth].tolist(), j[worth].tolist(), strict=True):
                    if a * n + b not in other and find(a) != find(b):
                        one = view.sets[ends[a] - view.sizes[a] : ends[a]]
                        two = view.sets[ends[b] - view.sizes[b] : ends[b]]
                        shared = len(np.intersect1d(one, two, assume_unique=True))
                        if shared >= least * (len(one) + len(two) - shared):
                            leader[find(b)] = find(a)
                        else:
                            other.add(a * n + b)
                # A run whose songs are all one by now needs no more pairs: thousands of versions
                # of a song would else be compared each with each.
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
