"""Project Gutenberg: the plain text of a book of verse -> its poems, as songs. Pure.

A poem is what stands under a heading: blocks of lines that are no prose, until the next heading.
What stands around poems in such a book (licence, title page, contents, prefaces, notes, page and
line numbers, illustrations) is left out, and so is verse that prose quotes.

Stanzas keep their breaks. Where a poem has a chorus, marked as one or sung again in the same words,
its stanzas are named as songs name them: [Verse 1], [Chorus].
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from backend.data.song import Song, song_id


class Stanza(NamedTuple):
    """Lines that stand together."""

    lines: tuple[str, ...]
    chorus: bool = False  # the book says so


@dataclass
class Poem:
    """A poem of a book."""

    title: str = ""
    author: str | None = None  # where its heading names one, as collections do
    stanzas: list[Stanza] = field(default_factory=list)


# --- the books ------------------------------------------------------------------------------------

SITE = "https://raw.githubusercontent.com/"  # www.gutenberg.org wants no robots; copies are here


class Work(NamedTuple):
    """A line of assets/verse_*.tsv. The commit names the very text, whatever is mended later."""

    title: str
    author: str
    published: str
    number: str  # Project Gutenberg's
    repository: str
    path: str
    commit: str

    @property
    def url(self) -> str:
        return f"{SITE}{self.repository}/{self.commit}/{self.path}"


def works(text: str) -> list[Work]:
    """The lines of such a list."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return [Work(*line.split("\t")) for line in lines]


def songs(book: str, work: Work, fetched_at: str | None = None) -> list[Song]:
    """The poems of a book as songs of an album."""
    found = poems(book)
    return [
        Song(
            id=song_id("gutenberg", f"{work.number}#{number}"),
            source="gutenberg",
            url=f"https://www.gutenberg.org/ebooks/{work.number}#{number}",
            title=natural(poem.title),
            kind="song",
            artist=poem.author or one_author([work.author]),
            album=work.title,
            year=year(work.published),
            track=number,
            fetched_at=fetched_at,
            lyrics=lyrics(poem.stanzas),
        )
        for number, poem in enumerate(found, 1)
    ]


# --- the text of a book -> poems ------------------------------------------------------------------

START = re.compile(
    r"^\*{2,3} ?START OF (?:THE|THIS) PROJECT GUTENBERG.*$|^\*END\*? ?THE SMALL PRINT.*$"
    r"|^\*+ ?END\*? ?THE SMALL PRINT.*$",
    re.MULTILINE | re.IGNORECASE,
)
END = re.compile(
    r"^\W*END OF (?:THE |THIS )?PROJECT GUTENBERG.*$|^\*{2,3} ?END OF (?:THE|THIS) PROJECT.*$",
    re.MULTILINE | re.IGNORECASE,
)
# Notes of a transcriber or editor, illustrations, footnotes, page marks: in brackets or braces.
NOTE = re.compile(
    r"\[(?:illustration|footnotes?\b|transcriber|notes?\b|sidenote|this etext|editor|pg\b|page\b"
    r"|blank page|music)[^\]]{0,9999}\]|\{[ivxlc\d]+\}",
    re.IGNORECASE,
)
MARK = re.compile(r"\[(?:\d{1,3}|[A-Z*])\]|\^\{?\d{1,3}\}?|(?<=[\w.,;:!?])\*+(?=\s|$)")
LINE_NUMBER = re.compile(r"\s{2,}\[?\d{1,4}\]?$")
# Of contents: dots, a page, a number before.
ENTRY = re.compile(r"(?:\.\s?){4,}|\s{2,}[\divxlc]{1,6}$|^(?:\d+|[IVXLC]+)\.?\s{2,}\S")
ONE_ENTRY = re.compile(r"\s{4,}\d{1,3}$")
NUMBERED = re.compile(r"\d{1,2}\.?\s+(?=\W?[A-Z])")  # a stanza of a hymn
PART = re.compile(r"\W*(?:(?:part|canto|book)\s+)?(?:[IVXLC]+|\d{1,3})\W*", re.IGNORECASE)
RULE = re.compile(r"[\s*.·_=—~-]+")  # a row of stars or dots
CHORUS = re.compile(  # alone on its line, or before the first words
    r"[\W_]*(?:full |grand )?(?:chorus|choir|refrain)(?:\W*$|\s?[.:]?\s?[—–]+\s?|[.:]\s)",
    re.IGNORECASE,
)
TUNE = re.compile(r"\W*(?:tune|air|to the tune|words by|music by)\b", re.IGNORECASE)
WORD = r"(?:[A-Z][\w.'’-]*|\d{4}\.?|of|de|and|&),?"
SIGNED = re.compile(rf"{WORD}(?: {WORD})*")  # Isaac Watts, 1707. AMEN.
BY = re.compile(r"\W*by\s+(?:the\s)?(.+)", re.IGNORECASE)
POET = re.compile(r"\s*\[([A-Z][^\[\]]+)\]$")  # City Roofs. [Charles Hanson Towne]
NOT_A_POEM = re.compile(
    r"\W*(?:contents|table of contents|page|index\b.*|preface.*|glossary|notes|footnotes?"
    r"|advertisement|biographical.*|memoir.*|acknowledge?ments?|list of .*|errata|appendix.*"
    r"|about the author.*|transcriber.*|books? by.*|by the same author.*)\W*",
    re.IGNORECASE,
)
LONG, FILLED = 55, 45  # characters: what no title is as long as; lines of prose, on average
HEADING_LINES, LEAST_LINES = 4, 4  # a heading has at most, a poem at least
FAR = 9  # blank lines, as at the ends of a book
CENTRED = 25  # columns: where no verse begins
WHOLE = 40  # characters that a line has before it is broken for want of room
PREAMBLE = 8  # lines of prose between a title and its poem; after more, what follows is quoted


class Block(NamedTuple):
    """Lines without a blank one, and how many blank ones stand before."""

    lines: list[str]  # with their indentation
    gap: int


def poems(book: str) -> list[Poem]:
    """The poems of a book in its order.

    Args:
        book: Project Gutenberg's plain text, licence and all.
    """
    blocks = list(_blocks(_body(book)))
    short = (block.lines for block in blocks if len(block.lines) <= 2)
    titles = {_key(text) for lines in short for text in (lines[0], " ".join(lines))}
    found: list[Poem] = []
    poem: Poem | None = None  # the one that is read; None where what comes is nobody's
    prose = 0  # lines of it since the heading
    for i, block in enumerate(blocks):
        after = blocks[i + 1].gap if i + 1 < len(blocks) else FAR
        begun = poem is not None and bool(poem.stanzas)
        if _is_contents(block, titles):
            poem = None
        elif poem is not None and not begun and _is_subtitle(block):
            _tell(poem, block)
        elif _is_heading(block, after, begun=begun):
            poem, prose = Poem(), 0
            _tell(poem, block)
            if NOT_A_POEM.fullmatch(poem.title):
                poem = None
            else:
                found.append(poem)
        elif _is_prose(block.lines):
            prose += len(block.lines)
            if begun or prose > PREAMBLE:
                poem = None
        elif poem is not None:
            poem.stanzas += _stanzas(block)
    for poem in found:
        _settle(poem)
    return [p for p in found if sum(len(s.lines) for s in p.stanzas) >= LEAST_LINES]


def _body(book: str) -> str:
    """The book without Project Gutenberg's licence and without notes in brackets."""
    text = book.replace("\r\n", "\n").replace("\ufeff", "").expandtabs()
    starts = [match.end() for match in START.finditer(text)]
    text = text[starts[-1] :] if starts else text
    if end := END.search(text):
        text = text[: end.start()]
    return NOTE.sub("", text)


def _blocks(text: str) -> Iterator[Block]:
    lines: list[str] = []
    gap = FAR  # before the first
    blank = 0
    for line in [*text.split("\n"), ""]:
        if line.strip():
            if not lines:
                gap = blank if blank else gap
            lines.append(line.rstrip())
            blank = 0
        else:
            if lines:
                yield Block(lines, gap)
            lines, blank = [], blank + 1


def _key(line: str) -> str:
    return "".join(filter(str.isalpha, line.casefold()))


def _is_contents(block: Block, titles: set[str]) -> bool:
    """Titles one under the other: with their pages or numbers, or such as stand alone elsewhere."""
    lines = [line.strip() for line in block.lines]
    if len(lines) == 1:
        return ONE_ENTRY.search(lines[0]) is not None
    entries = sum(ENTRY.search(line) is not None for line in lines)
    again = sum(_key(line) in titles for line in lines)
    return 2 * entries >= len(lines) or (len(lines) > 2 and 2 * again > len(lines))


def _is_subtitle(block: Block) -> bool:
    """Under a title and before its poem: who wrote it, an occasion, a motto, the number of a part.
    What stands further off is a title, and the one before was of a group of poems."""
    text = _title(block)
    if len(block.lines) > HEADING_LINES or block.gap > 3:
        return False
    if text[:1] in "([_" or BY.match(text) or PART.fullmatch(text):
        return True
    alone = len(block.lines) == 1 and text[-1:] not in ",;"
    return block.gap < 2 and (alone or text.isupper())


def _is_heading(block: Block, after: int, *, begun: bool) -> bool:
    """A few short lines apart from what is above; numbers of parts are none within a poem."""
    text = _title(block)
    if len(block.lines) > HEADING_LINES or any(len(s.strip()) > LONG for s in block.lines):
        return False
    if not any(map(str.isalnum, text)) or CHORUS.fullmatch(text) or TUNE.match(text):
        return False
    first = block.lines[0].rstrip()
    if text[-1] in ",;" or (
        len(block.lines) == 2 and first[-1] in ",;:!?—-" and not text.isupper()
    ):
        return False  # a line of verse; a couplet
    if begun:
        numbered = len(block.lines) == 2 and PART.fullmatch(block.lines[0].strip())
        if numbered and _indent(block.lines[0]) >= CENTRED:
            return True  # a number and a title
        if block.gap < 2 or _is_aside(block, after):
            return False
        if block.gap < 3 and (PART.fullmatch(text) or _is_sentence(text)):
            return False  # a part; a line that stands alone
    return len(block.lines) <= 2 or text.isupper()


def _is_sentence(text: str) -> bool:
    """Does it end as one, and begin its words small, as no title does?"""
    words = re.findall(r"\b[^\W\d_]{4,}", text)[1:]
    return text[-1] in ".:!?—" and 2 * sum(word.islower() for word in words) > len(words)


def _is_aside(block: Block, after: int) -> bool:
    """A line far to the right under a poem: a name, a place, a date."""
    right = all(_indent(line) >= CENTRED for line in block.lines)
    return len(block.lines) <= 2 and right and after > 2


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_prose(lines: Sequence[str]) -> bool:
    """Filled lines that begin anywhere in a sentence; verse begins each with a capital, or is
    ragged."""
    words = [line.strip() for line in lines]
    if len(words) == 1:
        return len(words[0]) > 75
    filled = sum(map(len, words[:-1])) / (len(words) - 1)
    begins = [next((c for c in line if c.isalpha()), "a") for line in words[1:]]
    capital = sum(c.isupper() for c in begins) / len(begins)
    return filled > FILLED and capital < (0.8 if filled > 60 else 0.5)


def _stanzas(block: Block) -> Iterator[Stanza]:
    """The lines of a block as one stanza; nothing where it is a number, a rule or an aside."""
    text = " ".join(block.lines)
    if RULE.fullmatch(text) or PART.fullmatch(text) or TUNE.match(text) or _is_aside(block, FAR):
        return
    lines = [_line(line) for line in _unbroken(block.lines)]
    lines = [line for line in lines if line and not RULE.fullmatch(line)]
    if not lines:
        return
    if len(lines) > 1 and PART.fullmatch(lines[0]):
        lines = lines[1:]
    lines[0] = NUMBERED.sub("", lines[0], count=1)
    starts = {i for i, line in enumerate(lines) if CHORUS.match(line)}
    for start, end in itertools.pairwise(sorted({0, *starts, len(lines)})):
        some, chorus = lines[start:end], start in starts
        if chorus:
            some[0] = CHORUS.sub("", some[0], count=1)
            if some[0].endswith(("&c", "&c.", "etc.")):  # as above
                continue
        if some and (chorus or any(some)):
            yield Stanza(tuple(filter(None, some)), chorus)


def _unbroken(lines: Sequence[str]) -> list[str]:
    """A long line that was broken for want of room goes on indented, in the middle of a phrase."""
    whole = [lines[0]]
    for line in lines[1:]:
        text, before = line.strip(), whole[-1]
        deeper = _indent(line) >= _indent(before) + 3
        if deeper and text[0].islower() and len(before.strip()) >= WHOLE and before[-1].isalnum():
            whole[-1] = f"{before} {text}"
        else:
            whole.append(line)
    return whole


def _line(line: str) -> str:
    """A line without numbers, marks of notes and of italics."""
    line = MARK.sub("", LINE_NUMBER.sub("", line.rstrip()))
    line = line.replace("_", "").replace("=", "")
    return " ".join(re.sub(r"\s?-{2,}\s?", "—", line).split())


def _title(block: Block) -> str:
    return " ".join(_line(line) for line in block.lines)


def _tell(poem: Poem, block: Block) -> None:
    """What a heading says of its poem. The first heading is its title; below it stands who wrote
    it, if anybody is named, or a subtitle, which is left out."""
    for line in map(_line, block.lines):
        if poet := POET.search(line):
            poem.author = poet[1]
            line = POET.sub("", line)
        if by := BY.fullmatch(line):
            poem.author = poem.author or natural(by[1]).rstrip(".")
        elif line and not poem.title and not PART.fullmatch(line):
            poem.title = line


def _settle(poem: Poem) -> None:
    """CHORUS alone in its block names the one after it."""
    settled: list[Stanza] = []
    named = False
    for stanza in poem.stanzas:
        if stanza.chorus and not stanza.lines:
            named = True
        else:
            settled.append(stanza._replace(chorus=stanza.chorus or named))
            named = False
    # who wrote it, when; AMEN.
    while settled and len(settled[-1].lines) == 1 and SIGNED.fullmatch(settled[-1].lines[0]):
        settled.pop()
    poem.stanzas = settled


# --- a poem as a song -----------------------------------------------------------------------------

SMALL = re.compile("an?|and|as|at|but|by|for|from|in|into|nor|o'|of|on|or|the|to|upon|with")
ROMAN = re.compile(r"[IVXLC]+", re.IGNORECASE)
NO_TITLE = re.compile(r"\W*(?:[IVXLC]+|\d+|[A-Z]|Untitled)?\W*", re.IGNORECASE)
METRE = re.compile(r"^\d{1,4}\.?\s.*\b(?:[LCSHP]\. ?M|\d+s)\b.*")  # a hymn's number, tune and metre
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
    title = METRE.sub("", " ".join(title.replace("_", "").split()))
    title = re.sub(r"^[IVXLC]+\.\s+(?=\w)", "", BYLINE.sub("", title))
    title = re.sub(r"(?<=\w{3})[.,:;]+$", "", title)
    title = re.sub(r"^(.+), (The|A|An)$", r"\2 \1", title)
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
    return re.sub(r"(^\W*|[-—])(\w)", lambda match: match[1] + match[2].upper(), word)


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
