"""Genius's answers and song pages -> artists, songs and their text. Pure: no network, no disk.

    search ─ artist ─ lists of songs ─ song (what the API says of it) ─ its page (the text)

The API never holds the text, and the page says little of what the API says. Its answers are read
tolerantly: a field that is missing or of another kind is unknown, but without ids and addresses
there is nothing to read.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bs4 import BeautifulSoup
from bs4.element import PreformattedString, Tag

from backend.data.song import Kind, Song, song_id
from backend.errors import PageError
from backend.scrapers.encoding import page_text
from backend.scrapers.names import Link, version_of

API, WEB, PUBLIC_API = "https://api.genius.com/", "https://genius.com/", "https://genius.com/api/"
# Accounts of Genius that print songs of others: "Genius Traducciones al Español".
CURATOR = re.compile(
    r"genius\b.*\b(translations?|traducciones|traductions|tradu[çc][õo]es|traduzioni|romanizations?|"
    r"übersetzungen|çevirileri?|tłumaczenia|переводы?|oversættelser|översättningar|vertalingen|"
    r"fordítások|terjemahan|annotations?|users?)\b.*",
    re.IGNORECASE,
)
# What stands beside songs, by its title: in brackets, or after a dash.
BESIDE = re.compile(
    r"track ?list(?:ing)?|album art(?:work)?|liner notes|set ?list|"
    r"(?:.*[\[(]|.* [-–—] )(?:track ?list(?:ing)?|album art(?:work)?|cover art|liner notes|booklet"
    r"|credits|interview|skit|set ?list)(?:[\])].*)?",
    re.IGNORECASE,
)
NO_WORDS = re.compile(r".*[\[(](?:instrumental)[\])]", re.IGNORECASE)
# As the page says it in place of the text.
PLACEHOLDERS: dict[Kind, re.Pattern[str]] = {
    "unreleased": re.compile(r"lyrics for this song have yet to be (?:released|transcribed)", re.I),
    "instrumental": re.compile(r"this song is an instrumental", re.I),
    "removed": re.compile(r"lyrics (?:were|have been|are) removed|removed at the request", re.I),
}
# relation of a song to others -> what it is of them
RELATIONS = {"live_version_of": "live", "performed_live_as": "", "remix_of": "remix",
             "cover_of": "cover", "translation_of": "translation"}  # fmt: skip
CHROME = re.compile(r"LyricsHeader|LyricsFooter|RightSidebar|LyricsEditExplainer|ShareButtons")
STATE = re.compile(r"__PRELOADED_STATE__\s*=\s*JSON\.parse\('((?:[^'\\]|\\.)*)'\)", re.DOTALL)
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
PLAIN = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": ""}


@dataclass(frozen=True)
class Listed:
    """One page of an artist's songs."""

    songs: list[Mapping[str, Any]]  # of the artist, as the API has them
    others: int  # songs of others, on which the artist is heard
    next_page: int | None


def artists_of(answer: Mapping[str, Any]) -> list[Link]:
    """Artists among the hits of a search for songs, or for artists; never a curator's account."""
    hits = _list(answer, "hits") + [
        hit for section in _list(answer, "sections") for hit in _list(section, "hits")
    ]
    found: dict[str, Link] = {}
    for hit in hits:
        result = hit.get("result")
        if not isinstance(result, Mapping):
            continue
        by = [result] if "primary_artist" not in result else [
            result.get("primary_artist"), *_list(result, "primary_artists"),
            *_list(result, "featured_artists"),
        ]  # fmt: skip
        for artist in by:
            if isinstance(artist, Mapping) and isinstance(artist.get("id"), int):
                name = _text(artist, "name") or ""
                if name and not CURATOR.fullmatch(name):
                    url = f"{API}artists/{artist['id']}"
                    found.setdefault(url, Link(name, url))
    return list(found.values())


def artist_id(url: str) -> int | None:
    """The id in an artist's address of the API, or None."""
    match = re.fullmatch(re.escape(API) + r"artists/(\d+)", url)
    return int(match[1]) if match else None


def listed(answer: Mapping[str, Any], artist: int) -> Listed:
    """An answer of `artist_songs`.

    Raises:
        PageError: it is no such list.
    """
    if not isinstance(answer.get("songs"), list):
        raise PageError(f"Genius's list of the songs of artist {artist} holds no songs")
    rows = _list(answer, "songs")
    songs = [
        row
        for row in rows
        if any(by.get("id") == artist for by in (_dict(row, "primary_artist"),
                                                 *_list(row, "primary_artists")))
    ]  # fmt: skip
    next_page = answer.get("next_page")
    return Listed(songs, len(rows) - len(songs), next_page if type(next_page) is int else None)


def song_in(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer of `song`.

    Raises:
        PageError: it holds no song with an id.
    """
    song = _dict(answer, "song")
    link(song)
    return song


def link(song: Mapping[str, Any]) -> Link:
    """A song as the API names it.

    Raises:
        PageError: it has no id.
    """
    if type(song.get("id")) is not int:
        raise PageError("a song of Genius's API has no id")
    return Link(_text(song, "title") or "", f"{API}songs/{song['id']}")


def page_url(song: Mapping[str, Any]) -> str:
    """The song's page.

    Raises:
        PageError: the API names none, or one that is not on the site.
    """
    url = _text(song, "url") or ""
    if not url.startswith(WEB):
        raise PageError(f"{link(song).url} leads to {url!r}, which is no page of {WEB}")
    return url


def kind_of(song: Mapping[str, Any]) -> Kind:
    """What the API says that it is; "song" where the page must be read for that."""
    url, title = _text(song, "url") or "", _text(song, "title") or ""
    if CURATOR.fullmatch(_text(_dict(song, "primary_artist"), "name") or ""):
        return "translation"
    if url.endswith("-annotated"):
        return "nonsong"
    if song.get("instrumental") is True or NO_WORDS.fullmatch(title):
        return "instrumental"
    if any(relation == "translation" for relation, _ in _relations(song)):
        return "translation"
    if song.get("lyrics_state") == "unreleased":
        return "unreleased"
    return "song"


def song_of(song: Mapping[str, Any], *, kind: Kind, lyrics: str | None, fetched_at: str) -> Song:
    """The record. What stands beside songs (a tracklist, a skit) keeps its text, and says so."""
    title = _text(song, "title") or "untitled"
    year = _dict(song, "release_date_components").get("year")
    if kind == "song" and BESIDE.fullmatch(title):
        kind = "nonsong"
    relation = next((f"{how}: {what}" for how, what in _relations(song)), version_of(title))
    return Song(
        id=song_id("genius", str(song["id"])),
        source="genius",
        url=_text(song, "url"),
        title=title,
        kind=kind,
        artist=_text(_dict(song, "primary_artist"), "name"),
        album=_text(_dict(song, "album"), "name"),
        year=year if type(year) is int else None,
        language=_text(song, "language"),
        fetched_at=fetched_at,
        version_of=relation,
        lyrics=lyrics,
    )


def _relations(song: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(what it is, of which song)."""
    for row in _list(song, "song_relationships"):
        kind = _text(row, "relationship_type") or _text(row, "type") or ""
        for other in _list(row, "songs"):
            if RELATIONS.get(kind):
                yield RELATIONS[kind], _text(other, "full_title") or _text(other, "title") or ""


# --- the page -------------------------------------------------------------------------------------


def parse_page(html: bytes, url: str) -> tuple[Kind, str | None]:
    """What a song page holds, and the text exactly as printed: `<br>` is a line end.

    Raises:
        PageError: it has no text, and does not say why.
    """
    page = page_text(html)
    soup = BeautifulSoup(page, "lxml")
    text = ""
    for selector in ("[data-lyrics-container=true]", "[class*=Lyrics__Container]", "div.lyrics"):
        found = soup.select(selector)
        known = set(map(id, found))  # a container within another is part of it
        outer = (tag for tag in found if not any(id(parent) in known for parent in tag.parents))
        if text := _joined(map(_printed, outer)).strip("\n"):
            break
    said = text if len(text) < 300 else ""  # a song may quote what a placeholder says
    if not text.strip():
        state = _dict(_state(page), "lyricsData")
        body = (_text(_dict(state, "body"), "html") or "").replace("\n", "")
        text = _printed(BeautifulSoup(body, "lxml")).strip("\n")
        said = f"{state.get('lyricsPlaceholderReason')} {' '.join(soup.get_text(' ').split())}"
    for kind, words in PLACEHOLDERS.items():
        if words.search(said) or (not text.strip() and said.startswith(f"{kind} ")):
            return kind, None
    if re.fullmatch(r"[\[(]?\s*instrumental\s*[\])]?", text.strip(), re.IGNORECASE):
        return "instrumental", None
    if not text.strip():
        raise PageError(
            f"{url} shows no lyrics",
            why="it says neither that the song is an instrumental nor that it is unreleased: the "
            "page has another shape now, or is another page",
        )
    return "song", text


def _printed(container: Tag) -> str:
    """The text of a container without the page's own: headers, adverts, buttons."""
    lines = [""]
    nodes = iter(container.descendants)
    for node in nodes:
        if isinstance(node, Tag):
            classes = " ".join(map(str, node.get_attribute_list("class")))
            if node.name == "br":
                lines.append("")
            elif node.name == "p" and lines != [""]:  # the theme before the containers
                lines += ["", ""]
            elif (
                node.get("data-exclude-from-selection") == "true"
                or node.name in ("script", "style", "button", "noscript")
                or CHROME.search(classes)
            ):
                for _ in node.descendants:
                    next(nodes)
        elif not isinstance(node, PreformattedString):  # a comment is one
            lines[-1] += re.sub(r"\s*[\r\n]+\s*", " ", str(node).strip("\r\n"))
    return "\n".join(lines)


def _joined(containers: Iterable[str]) -> str:
    """Containers end anywhere, with a `<br>` before, after, or none: at least a line ends there. An
    empty one stands for a blank line, and no more than one comes from a boundary."""
    text = ""
    for i, part in enumerate(containers):
        if i == 0 or not text:
            text += part
            continue
        if not part.strip():
            text += "\n"
            continue
        after = len(part) - len(part.lstrip("\n"))
        before = len(text) - len(text.rstrip("\n"))
        text = text.rstrip("\n") + "\n" * min(2, max(1, before + after)) + part.lstrip("\n")
    return text


def _state(page: str) -> Mapping[str, Any]:
    """`songPage` of the state that the page carries for its own scripts; empty without one."""
    match = STATE.search(page)
    if not match:
        return {}
    unescaped = ESCAPE.sub(
        lambda m: chr(int(m[1] or m[2], 16)) if m[1] or m[2] else PLAIN.get(m[3], m[3]), match[1]
    )
    try:
        # \uD83D\uDE00 came as two halves
        whole = unescaped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        state = json.loads(whole)
    except ValueError:
        return {}
    return _dict(state, "songPage") if isinstance(state, Mapping) else {}


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    # A NUL is JSON, and nothing that a database can compare.
    return value.replace("\0", "") if isinstance(value, str) and value.strip("\0 ") else None


def _dict(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = row.get(key)
    return value if isinstance(value, Mapping) else {}


def _list(row: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = row.get(key)
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []
