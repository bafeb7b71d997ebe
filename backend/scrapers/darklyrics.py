"""DarkLyrics's pages -> links and songs. Pure: HTML in, records out, no network, no disk.

    home ─ letter index ─ artist ─ album (all its songs on one page)

Links are followed, never built: the site drops some letters from its names and transliterates
others (dååth is `dth`, Mötley Crüe `motleycrue`), and digits live at /19.html. Only the album page
is known from saved pages; the other three are read tolerantly, and one that holds nothing is an
error.
"""

import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urldefrag, urljoin, urlsplit

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PreformattedString, Tag

from backend.data.song import Kind, Song, song_id
from backend.errors import Gone, PageError
from backend.scrapers.encoding import page_text
from backend.scrapers.names import Link, version_of

SITE = "http://www.darklyrics.com/"
HOME = "index.html"
ALBUMS_PER_ARTIST = 3.1  # 13,800 of 4,500 bands, says its head
REMOVED = re.compile(r"lyrics (?:were|have been|are) removed|removed (?:due to|at|by|upon) the "
                     r"(?:copyright|request)")  # fmt: skip
INSTRUMENTAL = re.compile(r"(?:this (?:song|track) is (?:an? )?)?instrumental(?: (?:song|track))?")

WWW = re.compile(r"https?://(www\.)?darklyrics\.com/", re.IGNORECASE)  # as old links write it


def parse_home(html: bytes, url: str) -> dict[str, str]:
    """Letter pages: `a`..`z` and `19` -> address."""
    soup = _soup(html)
    links = {
        urlsplit(u).path.strip("/").removesuffix(".html"): u
        for u in (_address(a, url) for a in soup.select("div.listrow a[href]"))
    }
    letters = {name: u for name, u in links.items() if re.fullmatch(r"[a-z]|\d+", name)}
    if not letters:
        raise _holds_nothing(soup, url, "letters")
    return letters


def parse_index(html: bytes, url: str) -> list[Link]:
    """Artists of a letter page; both columns. A letter without artists is possible."""
    soup = _soup(html)
    columns = soup.select("div.artists")
    if not columns:
        raise _holds_nothing(soup, url, "artists")
    return [
        Link(_text(a), _address(a, url))
        for column in columns
        for a in column.select("a[href]")
        if _text(a) and _address(a, url)
    ]


def parse_artist(html: bytes, url: str) -> list[Link]:
    """Albums of an artist page, each once though every song links to it."""
    soup = _soup(html)
    albums: dict[str, str] = {}
    for a in soup.select("div.album a[href], div.cont a[href]"):
        address = _address(a, url)
        if "/lyrics/" in urlsplit(address).path:
            heading = a.find_previous("h2")
            albums.setdefault(address, _text(heading) if heading else "")
    if not albums:
        raise _holds_nothing(soup, url, "albums")
    return [Link(name, address) for address, name in albums.items()]


def parse_album(html: bytes, url: str, *, source: str, fetched_at: str) -> list[Song]:
    """Songs of an album page, text exactly as printed.

    `<br>` is a line end, a line of only `<br>` a stanza break, italics (stage directions) are kept;
    the credits under the last song are not part of it.

    Raises:
        PageError: the page holds no songs.
    """
    soup = _soup(html)
    body = soup.select_one("div.lyrics")
    heads = body.select("h3") if body else []
    if body is None or not heads:
        raise _holds_nothing(soup, url, "songs")
    h1, h2 = soup.select_one("h1"), soup.select_one("div.albumlyrics h2")
    artist = re.sub(r"\s+LYRICS$", "", _text(h1)) if h1 else None
    album, year = parse_heading(_text(h2)) if h2 else (None, None)
    if album and re.match(r"non-?album\b", album, re.IGNORECASE):
        album = None  # songs of no release share a page
    songs = []
    seen: Counter[str] = Counter()
    for head, text in _bodies(body):
        anchor = head.select_one("a[name]")
        number = str(anchor["name"]) if anchor else _number(head)
        seen[number] += 1
        if seen[number] > 1:  # a slip of the site; two songs must not share an id
            number = f"{number}-{seen[number]}"
        title = re.sub(r"^\s*\d+\.\s*", "", _text(head))
        kind = _kind(text)
        songs.append(
            Song(
                id=song_id(source, f"{urlsplit(url).path}#{number}"),
                source=source,
                title=title,
                kind=kind,
                url=f"{url}#{number}",
                artist=artist,
                album=album,
                year=year,
                track=int(number) if number.isdigit() else None,
                fetched_at=fetched_at,
                version_of=version_of(title),
                lyrics=text if kind == "song" else None,
            )
        )
    return songs


def parse_heading(text: str) -> tuple[str, int | None]:
    """`album: "Dr. Feelgood" (1989)` -> title and year; type, quotes and year are all optional.

    >>> parse_heading('EP: "Format C: For Cortex" (2004)'), parse_heading("non-album songs")
    (('Format C: For Cortex', 2004), ('non-album songs', None))
    """
    match = re.fullmatch(r'(?:[^:"]*:)?\s*(.*?)\s*(?:\((\d{4})\))?', text.strip(), re.DOTALL)
    assert match  # every group is optional
    title = match[1]
    if len(title) > 1 and title[0] == title[-1] == '"':
        title = title[1:-1]
    return title, int(match[2]) if match[2] else None


def _bodies(body: Tag) -> Iterator[tuple[Tag, str]]:
    """(heading, text) of each song: what stands from its heading to the next, or the credits.

    `<br>` ends a line; the line breaks of the source mean nothing. Walks all descendants, since an
    unclosed <i> takes every later song of the page inside itself.
    """
    last = next((s for s in reversed(list(body.strings)) if s.strip()), None)
    head: Tag | None = None
    lines = [""]
    nodes = iter(body.descendants)
    for node in nodes:
        if isinstance(node, Tag) and (node.name == "h3" or _is_chrome(node, last)):
            if head is not None:
                yield head, "\n".join(lines).strip("\n")
            head, lines = (node if node.name == "h3" else None), [""]
        if isinstance(node, Tag):
            if node.name == "br":
                lines.append("")
            elif node.name in ("h3", "script", "style"):
                for _ in node.descendants:
                    next(nodes)
        elif not isinstance(node, PreformattedString):  # a comment is one
            lines[-1] += re.sub(r"\s*[\r\n]+\s*", " ", str(node).strip("\r\n"))
    if head is not None:
        yield head, "\n".join(lines).strip("\n")


def _is_chrome(node: Tag, last: NavigableString | None) -> bool:
    """Credits, notes and the link back to the band, which follow the last song.

    Any other link stands in a song, and its words are sung. `last` is the last text of the page.
    """
    if node.name == "a" and node.has_attr("href"):
        return _text(node).upper().endswith("LYRICS") or any(s is last for s in node.strings)
    return node.name == "div" and bool({"thanks", "note"} & set(node.get_attribute_list("class")))


def _kind(text: str) -> Kind:
    plain = text.strip().strip("[]()").strip().lower().rstrip(".")
    if not plain:
        return "empty"
    if INSTRUMENTAL.fullmatch(plain):
        return "instrumental"
    if len(plain) < 200 and REMOVED.search(plain):
        return "removed"
    return "song"


def _number(head: Tag) -> str:
    match = re.match(r"\s*(\d+)\.", _text(head))
    return match[1] if match else _text(head)


def _soup(html: bytes) -> BeautifulSoup:
    return BeautifulSoup(page_text(html), "lxml")


def _holds_nothing(soup: BeautifulSoup, url: str, what: str) -> PageError:
    """A page without what it should hold: the site's own "not found", or another shape."""
    if soup.title and "not found" in _text(soup.title).lower():
        return Gone(f"{url}: the site says this page is not found")
    return PageError(
        f"{url} shows no {what}", "that page of the site has another shape now, or is another page"
    )


def _address(a: Tag, base: str) -> str:
    """Where a link leads, by the one name of the site; "" where it is no address."""
    try:
        return WWW.sub(SITE, urldefrag(urljoin(base, str(a["href"]))).url)
    except ValueError:
        return ""


def _text(tag: Tag) -> str:
    return " ".join(tag.get_text().split())
