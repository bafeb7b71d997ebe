"""Project Gutenberg: books of verse -> poems as songs. Pure: text in, songs out.

Stanzas keep their breaks. Where a poem has a chorus, marked as one or sung again in the same words,
its stanzas are named as songs name them: [Verse 1], [Chorus].
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Stanza(NamedTuple):
    """Lines that stand together."""

    lines: tuple[str, ...]
    chorus: bool = False  # the book says so


# --- a poem as a song -----------------------------------------------------------------------------

SMALL = re.compile("an?|and|as|at|but|by|for|from|in|into|nor|o'|of|on|or|the|to|upon|with")
ROMAN = re.compile(r"[IVXLC]+", re.IGNORECASE)
NO_TITLE = re.compile(r"\W*(?:[IVXLC]+|\d+|[A-Z]|Untitled)?\W*", re.IGNORECASE)
BYLINE = re.compile(r"[.,:;]?\s+BY\s+[A-Z][A-Z .,'’&-]+$")  # a title and who wrote it, in capitals
EDITED = re.compile(
    r"\((?:ed|editor|compiler)s?\.?\)|^(?:various|anonymous|unknown)\b|\band others\b",
    re.IGNORECASE,
)


def lyrics(stanzas: Sequence[Stanza]) -> str:
    """The text of a song, with section headers where there is a chorus.

    >>> print(lyrics([Stanza(("O row",)), Stanza(("Yo ho",), chorus=True)]))
    [Verse 1]
    O row
    <BLANKLINE>
    [Chorus]
    Yo ho
    """
    words = ["".join(filter(str.isalpha, "".join(s.lines))).casefold() for s in stanzas]
    again = {w for w, n in Counter(words).items() if w and n > 1}
    chorus = [s.chorus or w in again for s, w in zip(stanzas, words, strict=True)]
    texts, verse = [], 0
    for stanza, is_chorus in zip(stanzas, chorus, strict=True):
        verse += not is_chorus
        named = [] if not any(chorus) else ["[Chorus]"] if is_chorus else [f"[Verse {verse}]"]
        texts.append("\n".join([*named, *stanza.lines]))
    return "\n\n".join(texts)


def natural(title: str) -> str:
    """A title as people write it; empty where it is none, such as a number.

    >>> natural("THE PLAIN-DEALING MAN. BY JOHN BELL."), natural("XII."), natural("Mrs. K.")
    ('The Plain-Dealing Man', '', 'Mrs. K.')
    """
    title = " ".join(title.replace("_", "").split())
    title = BYLINE.sub("", title)
    if NO_TITLE.fullmatch(title):
        return ""
    if title.isupper():
        title = title.rstrip(".,:;")
        words = title.lower().split()
        keep = [i in (0, len(words) - 1) or not SMALL.fullmatch(w) for i, w in enumerate(words)]
        words = [_capital(w) if k else w for w, k in zip(words, keep, strict=True)]
        title = " ".join(words)
    return title


def _capital(word: str) -> str:
    """plain-dealing -> Plain-Dealing, o'er -> O'er, iv. -> IV."""
    if ROMAN.fullmatch(word.strip(".,")):
        return word.upper()
    return re.sub(r"(^|[-—(\"“‘'\[])(\w)", lambda match: match[1] + match[2].upper(), word)


def one_author(names: Iterable[str | None]) -> str | None:
    """Who wrote all of a book; None of a collection.

    >>> one_author(["Robert Burns"] * 2), one_author(["John Bell (ed.)"]), one_author("AB")
    ('Robert Burns', None, None)
    """
    all_names = set(names)
    name = all_names.pop() if len(all_names) == 1 else None
    return None if not name or EDITED.search(name) else name


def year(published: str | None) -> int | None:
    """The first year of "1842-86", "before 1926"."""
    found = re.search(r"\b1[4-9]\d\d\b", published or "")
    return int(found[0]) if found else None


def from_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Poems that are stored as {title, author, book, published, stanzas: [{type, lines}]}, as rows
    with text, song_name, artist_name, album, year. Whom a collection names may be the poet of the
    poem before: only books of one author have an artist.

    Raises:
        ValueError: a row is of another shape.
    """
    authors = defaultdict(set)
    for row in rows:
        authors[row.get("book")].add(row.get("author") or row.get("book_author"))
    return [
        {
            "text": lyrics(list(map(_stanza, row["stanzas"]))),
            "song_name": natural(row.get("title") or ""),
            "artist_name": one_author(authors[row.get("book")]),
            "album": row.get("book"),
            "year": year(row.get("published")),
        }
        for row in rows
    ]


def _stanza(stanza: Any) -> Stanza:
    if not isinstance(stanza, dict) or not isinstance(stanza.get("lines"), list):
        raise ValueError("a stanza without lines")
    return Stanza(tuple(map(str, stanza["lines"])), chorus=stanza.get("type") == "chorus")
