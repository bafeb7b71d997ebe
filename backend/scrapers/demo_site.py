"""A small local site with the demo songbook, in the shape of DarkLyrics's pages.

The offline demo crawls it over real HTTP with the real crawler, and so do the tests. It listens on
loopback only. The pages' own addresses are under http://songbook.invalid/, a name that never
resolves.
"""

import html
import re
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from backend.errors import DataError

SITE = "http://songbook.invalid/"
SONGBOOK = Path(__file__).resolve().parents[2] / "assets" / "demo_songbook"
# What stands around the songs on the real pages, and must never get into them.
SEARCH = '<form class="search" action="/search">Browse by band name or enter band/album/song</form>'
CHROME = (
    '<div class="addthis_toolbox">Translate Email Print</div>\n'
    '<div class="trdlg"><select><option>-Select Language-</option></select></div>\n'
)
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
def serve(site_pages: Mapping[str, str]) -> Iterator[str]:
    """Serve the pages on a free port of this machine; gives the root address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            robots = "User-agent: *\nDisallow: /search\n" if path == "/robots.txt" else None
            text = robots or site_pages.get("/index.html" if path == "/" else path)
            body = (text or "<title>not Found</title>").encode()
            self.send_response(200 if text else 404)
            # No charset, like the real site: the page itself says it.
            self.send_header("Content-Type", "text/plain" if robots else "text/html")
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
