"""A small local site with the demo songbook, in the shape of DarkLyrics's pages and of Genius's.

The offline demo crawls the first over real HTTP with the real crawler, and the tests crawl both. It
listens on loopback only. The pages' own addresses are under http://songbook.invalid/, a name that
never resolves; Genius's shape is under /api/ and /genius/.
"""

import html
import json
import re
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from backend.errors import DataError

SITE = "http://songbook.invalid/"
SONGBOOK = Path(__file__).resolve().parents[2] / "assets" / "demo_songbook"
# What stands around the songs on the real pages, and must never get into them.
SEARCH = '<form class="search" action="/search">Browse by band name or enter band/album/song</form>'
CHROME = (
    '<div class="addthis_toolbox">Translate Email Print</div>\n'
    '<div class="trdlg"><select><option>-Select Language-</option></select></div>\n'
)
ROBOTS = "User-agent: *\nDisallow: /search?\n"
LETTERS = [*"abcdefghijklmnopqrstuvwxyz", "19"]


@dataclass(frozen=True)
class Release:
    """One file of the songbook."""

    artist: str
    kind: str  # album, EP, demo
    title: str
    year: int
    songs: tuple[tuple[str, str], ...]  # (title, text)


def songbook_files() -> list[Path]:
    """The files of the songbook, in a fixed order."""
    return sorted(SONGBOOK.glob("*/*.txt"))


def read_release(path: Path) -> Release:
    """A release from its file: four head lines, then `# 1. Title` before each song.

    Raises:
        DataError: the file has another shape.
    """
    head, *songs = re.split(r"^# \d+\. (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    fields = dict(re.findall(r"^(\w+): (.*)$", head, flags=re.MULTILINE))
    try:
        return Release(
            fields["artist"],
            fields["release"],
            fields["title"],
            int(fields["year"]),
            tuple(zip(songs[::2], (text.strip("\n") for text in songs[1::2]), strict=True)),
        )
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path} is no release of the songbook: {error}",
            mend="assets/demo_songbook/README.md shows the shape",
        ) from error


def pages(releases: list[Release], site: str = SITE) -> dict[str, str]:
    """Path -> HTML of the whole site."""
    artists: dict[str, list[Release]] = {}
    for release in sorted(releases, key=lambda r: (slug(r.artist), r.year)):
        artists.setdefault(release.artist, []).append(release)
    found = {"/index.html": _page("DEMO SONGBOOK", "<h1>DEMO SONGBOOK</h1>")}
    for letter in LETTERS:
        mine = [name for name in artists if _letter(name) == letter]
        columns = "".join(
            f'<div class="artists {side}">\n'
            + "".join(
                f'<a href="{letter}/{slug(name)}.html">{_e(name)}</a><br />\n' for name in names
            )
            + "</div>\n"
            for side, names in (("fl", mine[::2]), ("fr", mine[1::2]))
        )
        found[f"/{letter}.html"] = _page(f"METAL LYRICS - {letter.upper()}", columns)
    for name, mine_too in artists.items():
        found[f"/{_letter(name)}/{slug(name)}.html"] = _artist(name, mine_too)
        for release in mine_too:
            found[f"/lyrics/{slug(name)}/{slug(release.title)}.html"] = _album(release, site)
    return found


def site(releases: list[Release], root: str = SITE) -> Callable[[str], str | None]:
    """Both shapes, for `serve`: path, with its query -> page.

    Args:
        root: of the addresses that the first shape has in its pages.
    """
    metal, rap = pages(releases, root), genius_pages(releases)
    return lambda path: metal.get(path) or rap(path)


def _artist(name: str, releases: list[Release]) -> str:
    folder = f"../lyrics/{slug(name)}"
    body = [f"<h1>{_e(name)} LYRICS</h1>"]
    for release in releases:
        links = "".join(
            f'<a href="{folder}/{slug(release.title)}.html#{n}">{_e(title)}</a><br />\n'
            for n, (title, _) in enumerate(release.songs, 1)
        )
        body.append(
            f'<div class="album">\n<h2>{release.kind}: <strong>"{_e(release.title)}"</strong> '
            f"({release.year})</h2>\n{links}</div>"
        )
    return _page(f"{_e(name)} LYRICS", "\n".join(body))


def _album(release: Release, site: str) -> str:
    back = (
        f'<a href="{site}{_letter(release.artist)}/{slug(release.artist)}.html">'
        f"{_e(release.artist)} LYRICS</a>"
    )
    tracks = "".join(
        f'<a href="#{n}">{n}. {_e(title)}</a><br />\n'
        for n, (title, _) in enumerate(release.songs, 1)
    )
    bodies = "".join(
        f'<h3><a name="{n}">{n}. {_e(title)}</a></h3><br />\n'
        + "".join(_line(line) for line in text.split("\n"))
        + "<br /><br />\n"
        for n, (title, text) in enumerate(release.songs, 1)
    )
    return _page(
        f"{_e(release.artist)} LYRICS - &quot;{_e(release.title)}&quot; "
        f"({release.year}) {release.kind}",
        f'<h1>{back}</h1>\n<div class="albumlyrics">\n<h2>{release.kind}: "{_e(release.title)}" '
        f'({release.year})</h2>\n{tracks}<br /></div>\n<div class="lyrics">\n{bodies}\n<br />'
        f'<div class="thanks">{_e(release.artist)} — Everything<br />\nThanks to the founders for '
        'sending these lyrics.</div><br />\n\n<br /><div class="note">Submits, comments, '
        f"corrections are welcomed at nobody@songbook.invalid</div>\n<br /><br />{back}\n</div>",
    )


def _line(line: str) -> str:
    """A line as the site prints it; what stands in brackets is a stage direction, in italics."""
    shown = f"<i>{_e(line)}</i>" if line.startswith("[") else _e(line)
    return f"{shown}<br />\n"


def _page(title: str, body: str) -> str:
    letters = "".join(
        f'<a href="/{name}.html">{"#" if name == "19" else name.upper()}</a>' for name in LETTERS
    )
    row = f'<div class="listrow">\n{letters}\n</div>'
    return (
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" '
        '"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">\n<html><head>\n'
        f"<title>{title}</title>\n"
        '<meta http-equiv="Content-Type" content="text/html; charset=utf-8" />\n'
        '<meta name="robots" content="noarchive" />\n'
        f'</head><body>\n<div id="main">\n{row}\n<div class="cntwrap">{SEARCH}<div class="cont">\n'
        f"{CHROME}{body}\n{CHROME}</div>{SEARCH}</div>\n{row}\n"
        '<div class="copyright">Public domain (CC0)</div>\n</div>\n'
        "</body></html>\n"
    )


# --- Genius's shape -------------------------------------------------------------------------------


def genius_pages(releases: list[Release]) -> Callable[[str], str | None]:
    """Path and query -> what Genius's API says under /api/, and song pages under /genius/."""
    artists = sorted({release.artist for release in releases})
    songs: dict[int, tuple[Release, str, str]] = {}  # id -> (release, title, text)
    for release in releases:
        for title, text in release.songs:
            songs[1000 + len(songs)] = (release, title, text)

    def brief(key: int) -> dict[str, object]:
        """A song as lists have it."""
        release, title, text = songs[key]
        by = {"id": artists.index(release.artist) + 1, "name": release.artist}
        path = f"/{slug(release.artist).capitalize()}-{slug(title)}-{key}-lyrics"
        return {
            "_type": "song", "id": key, "title": title, "path": path,
            "url": f"https://genius.com{path}", "primary_artist": by, "primary_artists": [by],
            "featured_artists": [], "instrumental": text == "[Instrumental]", "language": "en",
            "lyrics_state": "complete", "release_date_components": {"year": release.year},
        }  # fmt: skip

    def answer(asked: str) -> str | None:
        url = urlsplit(asked)
        query = dict(parse_qsl(url.query))
        path = url.path
        response: dict[str, object]
        if path == "/api/search":
            wanted = slug(query.get("q", ""))
            hits = [brief(key) for key in songs if wanted and wanted in slug(songs[key][0].artist)]
            page, size = int(query.get("page", 1)), 10
            hits = hits[(page - 1) * size : page * size]
            response = {"hits": [{"type": "song", "result": song} for song in hits]}
        elif match := re.fullmatch(r"/api/artists/(\d+)/songs", path):
            mine = [
                brief(k) for k in songs if artists.index(songs[k][0].artist) + 1 == int(match[1])
            ]
            page, size = int(query.get("page", 1)), int(query.get("per_page", 20))
            more = page + 1 if len(mine) > page * size else None
            response = {"songs": mine[(page - 1) * size : page * size], "next_page": more}
        elif (match := re.fullmatch(r"/api/songs/(\d+)", path)) and int(match[1]) in songs:
            album = {"name": songs[int(match[1])][0].title}
            about = {"album": album, "song_relationships": []}
            response = {"song": brief(int(match[1])) | about}
        elif match := re.fullmatch(r"/genius/.*-(\d+)-lyrics", path):
            key = int(match[1])
            return _genius_page(*songs[key][1:]) if key in songs else None
        else:
            return None
        return json.dumps({"meta": {"status": 200}, "response": response})

    return answer


def _genius_page(title: str, text: str) -> str:
    """A song page: its text in containers that end where an advert stands, much around them."""
    stanzas = [html.escape(stanza).replace("\n", "<br/>") for stanza in text.split("\n\n")]
    stanzas[0] = re.sub(  # an annotation, over the end of a line
        r"^(.*?<br/>)(.*?)(<br/>)(.*)$",
        r'\1<a href="/1/x" class="ReferentFragment"><span><i>\2</i>\3\4</span></a>',
        stanzas[0],
    )
    first, rest = stanzas[:1], stanzas[1:]
    container = '<div data-lyrics-container="true" class="Lyrics__Container-sc-0-1">'
    advert = '<div data-exclude-from-selection="true">Advert</div>'
    head = (
        '<div data-exclude-from-selection="true" class="LyricsHeader__Container-sc-0">'
        f"<button>2 Contributors</button><h2>{_e(title)} Lyrics</h2>Read More</div>"
    )
    second = f"{container}</div>{advert}{container}{'<br/><br/>'.join(rest)}</div>" if rest else ""
    return (
        f"<!DOCTYPE html><html><head><title>{_e(title)} Lyrics | Genius</title></head><body>"
        f'<div id="lyrics-root" class="Lyrics__Root-sc-0">{container}{head}{first[0]}'
        f"{'<br/>' if rest else ''}</div>"
        '<div class="RightSidebar__Container-sc-0"><aside>You might also like</aside></div>'
        f'{second}<div class="LyricsFooter__Container-sc-0">12<button>Embed</button></div></div>'
        "</body></html>"
    )


def slug(name: str) -> str:
    """The site's way with names: lower case, accents off, letters and digits only."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def _letter(name: str) -> str:
    first = slug(name)[0]
    return "19" if first.isdigit() else first


def _e(text: str) -> str:
    return html.escape(text, quote=False)


@contextmanager
def serve(page: Callable[[str], str | None]) -> Iterator[str]:
    """Serve pages on a free port of this machine; gives the root address.

    Args:
        page: path, with the query if there is one, -> text; None is not found.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # one connection for all pages
        disable_nagle_algorithm = True  # or the body waits 40 ms for the head

        def do_GET(self) -> None:
            text = ROBOTS if self.path == "/robots.txt" else page(self.path)
            body = (text or "<title>not Found</title>").encode()
            self.send_response(200 if text else 404)
            # No charset, like the real site: the page itself says it.
            kind = "application/json" if body[:1] == b"{" else "text/html"
            self.send_header("Content-Type", "text/plain" if text is ROBOTS else kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent: the crawler says what it does."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
