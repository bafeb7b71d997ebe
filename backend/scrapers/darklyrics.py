"""DarkLyrics's pages -> links and songs. Pure: HTML in, records out, no network, no disk.

    home ─ letter index ─ artist ─ album (all its songs on one page)

Links are followed, never built: the site drops some letters from its names and transliterates
others (dååth is `dth`, Mötley Crüe `motleycrue`), and digits live at /19.html. Only the album page
is known from saved pages; the other three are read tolerantly, and one that holds nothing is an
error. Read by lxml alone, not through BeautifulSoup: a whole site is parsed in minutes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urldefrag, urljoin, urlsplit

from lxml import html as parser
from lxml.etree import ParserError
from lxml.html import HtmlElement

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

SOURCE_BREAK = re.compile(r"\s*[\r\n]+\s*")
LISTROW, ARTISTS, ALBUM, CONT, LYRICS, ALBUMLYRICS = (
    f"contains(concat(' ', normalize-space(@class), ' '), ' {name} ')"
    for name in ("listrow", "artists", "album", "cont", "lyrics", "albumlyrics")
)  # of XPath: has this class


def parse_home(html: bytes, url: str) -> dict[str, str]:
    """Letter pages: `a`..`z` and `19` -> address."""
    page = _parsed(html)
    links = {
        urlsplit(u).path.strip("/").removesuffix(".html"): u
        for u in (_address(a, url) for a in page.xpath(f"//div[{LISTROW}]//a[@href]"))
    }
    letters = {name: u for name, u in links.items() if re.fullmatch(r"[a-z]|\d+", name)}
    if not letters:
        raise _holds_nothing(page, url, "letters")
    return letters


def parse_index(html: bytes, url: str) -> list[Link]:
    """Artists of a letter page; both columns. A letter without artists is possible."""
    page = _parsed(html)
    columns = page.xpath(f"//div[{ARTISTS}]")
    if not columns:
        raise _holds_nothing(page, url, "artists")
    return [
        Link(_text(a), _address(a, url))
        for column in columns
        for a in column.xpath(".//a[@href]")
        if _text(a) and _address(a, url)
    ]


def parse_artist(html: bytes, url: str) -> list[Link]:
    """Albums of an artist page, each once though every song links to it."""
    page = _parsed(html)
    albums: dict[str, str] = {}
    for a in page.xpath(f"//div[{ALBUM} or {CONT}]//a[@href]"):
        address = _address(a, url)
        if "/lyrics/" in urlsplit(address).path:
            heading = a.xpath("preceding::h2[1]")
            albums.setdefault(address, _text(heading[0]) if heading else "")
    if not albums:
        raise _holds_nothing(page, url, "albums")
    return [Link(name, address) for address, name in albums.items()]


def parse_album(html: bytes, url: str, *, source: str, fetched_at: str) -> list[Song]:
    """Songs of an album page, text exactly as printed.

    `<br>` is a line end, a line of only `<br>` a stanza break, italics (stage directions) are kept;
    the credits under the last song are not part of it.

    Raises:
        PageError: the page holds no songs.
    """
    page = _parsed(html)
    body = next(iter(page.xpath(f"//div[{LYRICS}][.//h3]")), None)
    if body is None:
        raise _holds_nothing(page, url, "songs")
    h1, h2 = page.xpath("//h1"), page.xpath(f"//div[{ALBUMLYRICS}]//h2")
    artist = re.sub(r"\s+LYRICS$", "", _text(h1[0])) if h1 else None
    album, year = parse_heading(_text(h2[0])) if h2 else (None, None)
    if album and re.match(r"non-?album\b", album, re.IGNORECASE):
        album = None  # songs of no release share a page
    songs = []
    seen: Counter[str] = Counter()
    for head, text in _bodies(body):
        anchor = head.xpath(".//a/@name")
        number = str(anchor[0]) if anchor else _number(head)
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


def _bodies(body: HtmlElement) -> Iterator[tuple[HtmlElement, str]]:
    """(heading, text) of each song: what stands from its heading to the next, or the credits.

    `<br>` ends a line; the line breaks of the source mean nothing. Walks all descendants, since an
    unclosed <i> takes every later song of the page inside itself.
    """
    head: HtmlElement | None = None
    lines = [""]
    nodes = list(_walk(body))
    for i, node in enumerate(nodes):
        if isinstance(node, str):
            text = node.strip("\r\n")
            lines[-1] += SOURCE_BREAK.sub(" ", text) if "\n" in text or "\r" in text else text
        elif node.tag == "br":
            lines.append("")
        elif node.tag == "h3" or _is_chrome(node, nodes[i + 1 :]):
            if head is not None:
                yield head, "\n".join(lines).strip("\n")
            head, lines = (node if node.tag == "h3" else None), [""]
    if head is not None:
        yield head, "\n".join(lines).strip("\n")


def _walk(tag: HtmlElement) -> Iterator[HtmlElement | str]:
    """Elements and texts in the order of the page; not what is in headings and scripts."""
    if tag.text:
        yield tag.text
    for child in tag:
        if isinstance(child.tag, str):  # else a comment
            yield child
            if child.tag not in ("h3", "script", "style"):
                yield from _walk(child)
        if child.tail:
            yield child.tail


def _is_chrome(node: HtmlElement, after: list[HtmlElement | str]) -> bool:
    """Credits, notes and the link back to the band, which follow the last song.

    Any other link stands in a song, and its words are sung.
    """
    if node.tag == "a" and node.get("href"):
        rest = "".join(text for text in after if isinstance(text, str))
        return _text(node).upper().endswith("LYRICS") or " ".join(rest.split()) == _text(node)
    return node.tag == "div" and bool({"thanks", "note"} & set(node.get("class", "").split()))


def _kind(text: str) -> Kind:
    plain = text.strip().strip("[]()").strip().lower().rstrip(".")
    if not plain:
        return "empty"
    if INSTRUMENTAL.fullmatch(plain):
        return "instrumental"
    if len(plain) < 200 and REMOVED.search(plain):
        return "removed"
    return "song"


def _number(head: HtmlElement) -> str:
    match = re.match(r"\s*(\d+)\.", _text(head))
    return match[1] if match else _text(head)


def _parsed(html: bytes) -> HtmlElement:
    # As UTF-8 again, whatever the page says of itself; libxml2 would end at a NUL.
    text = page_text(html).replace("\0", "").encode("utf-8", "replace")
    try:
        return parser.document_fromstring(text, parser=parser.HTMLParser(encoding="utf-8"))
    except (ParserError, ValueError):  # nothing in it
        return parser.Element("html")


def _holds_nothing(page: HtmlElement, url: str, what: str) -> PageError:
    """A page without what it should hold: the site's own "not found", or another shape."""
    if "not found" in (page.findtext(".//title") or "").lower():
        return Gone(f"{url}: the site says this page is not found")
    return PageError(
        f"{url} shows no {what}", "that page of the site has another shape now, or is another page"
    )


def _address(a: HtmlElement, base: str) -> str:
    """Where a link leads, by the one name of the site; "" where it is no address."""
    try:
        return WWW.sub(SITE, urldefrag(urljoin(base, a.get("href"))).url)
    except ValueError:
        return ""


def _text(tag: HtmlElement) -> str:
    return " ".join(tag.text_content().split())
