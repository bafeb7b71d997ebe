"""Exact and near duplicates, found before any split so that no song leaks into validation.

Two songs are versions of one when the sets of their normalised lines overlap by at least a
threshold (Jaccard). Exact, by an index from line to songs.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

VERSION = re.compile(
    r"\b(live|demo|remix|mix|remaster(ed)?|acoustic|edit|unplugged|rehearsal|session|version|cover)\b",
    re.IGNORECASE,
)


def normal_lines(text: str) -> frozenset[str]:
    """Lines without headers, case, accents and punctuation: what two versions share."""
    lines = set()
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            continue
        decomposed = unicodedata.normalize("NFKD", line.casefold())
        words = re.findall(r"\w+", "".join(c for c in decomposed if not unicodedata.combining(c)))
        if words:
            lines.add(" ".join(words))
    return frozenset(lines)


def duplicate_groups(texts: Mapping[str, str], threshold: float) -> dict[str, list[str]]:
    """Groups of song ids (smallest id first), keyed by their smallest id; most hold one song.

    Args:
        texts: id -> clean text.
        threshold: least Jaccard overlap of normalised lines that makes two songs versions of one.
    """
    lines = {key: normal_lines(text) for key, text in texts.items()}
    holders: dict[str, list[str]] = defaultdict(list)
    leader = {key: key for key in texts}

    def find(key: str) -> str:
        while leader[key] != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    for key in sorted(texts):
        shared = Counter(other for line in lines[key] for other in holders[line])
        for other, n in shared.items():
            if n >= threshold * (len(lines[key]) + len(lines[other]) - n):
                a, b = sorted((find(key), find(other)))
                leader[b] = a
        for line in lines[key]:
            holders[line].append(key)
    groups: dict[str, list[str]] = defaultdict(list)
    for key in sorted(texts):
        groups[find(key)].append(key)
    return dict(groups)


def representative(
    group: Sequence[str], titles: Mapping[str, str], texts: Mapping[str, str]
) -> str:
    """The version to keep: studio before live or demo; then the longest; then the smallest id."""
    return min(group, key=lambda key: (is_version(titles[key]), -len(texts[key]), key))


def is_version(title: str) -> bool:
    """Does the title name a version: "(Live)", "[Demo]", "- Remastered 2009", "(Live) Opening"?

    A song that is simply called "Live" or "Live and Learn" is no version.
    """
    marked = re.findall(r"[(\[]([^)\]]*)[)\]]|\s[-–—]\s(.*)$", title)
    return any(VERSION.search(inside or after) for inside, after in marked)
