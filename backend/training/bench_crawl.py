"""Figures of the crawl: a page read and stored, a whole site, and going on in a large store.

Part of `backend/training/bench.py`. All sites are local; no delay is kept.
"""

import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from backend.config.schema import BenchConfig
from backend.data.song import Song, raw_path, song_id
from backend.report import table
from backend.scrapers import crawl as program
from backend.scrapers import darklyrics, demo_site
from backend.scrapers.demo_site import Release
from backend.scrapers.fetch import Page
from backend.scrapers.names import Link
from backend.scrapers.store import CrawlStore, now
from backend.training.measure import measure, python

SONGS_A_PAGE, ALBUMS_A_BAND = 10, 3
READ = 300  # pages parsed and stored
BANDS = 400  # of the site that is crawled: 1,628 pages
LARGE = (8_000, 91_973, 120_000)  # bands, albums and songs of the store in which a crawl goes on


def crawl(config: BenchConfig) -> str:
    """CPU of a page, pages a second of a site, seconds and memory to go on in a large store."""
    with tempfile.TemporaryDirectory() as folder:
        cpu_ms, size_kb = _read_and_store(Path(folder) / "read")
        site = _site(Path(folder) / "site")
        resumed = _resumed(Path(folder) / "large")
    rows = [
        [f"an album page of {SONGS_A_PAGE} songs, {size_kb:.0f} KB: read and stored",
         f"{cpu_ms:.1f} ms CPU"],
        *site,
        *resumed,
    ]  # fmt: skip
    note = (
        "Songs of the demo songbook on pages of DarkLyrics's shape. The site is served by the "
        "program that measures, on the same machine."
    )
    return f"{table(['', ''], rows)}\n\n{note}"


def _read_and_store(folder: Path) -> tuple[float, float]:
    """(ms of CPU, KB) a page."""
    pages = _pages(READ // ALBUMS_A_BAND)
    albums = [(p, html.encode()) for p, html in pages.items() if p.startswith("/lyrics/")]
    with CrawlStore(raw_path(folder)) as store:
        began = time.process_time()
        for path, html in albums:
            url = darklyrics.SITE.rstrip("/") + path
            page = Page(url, 200, {"content-type": "text/html"}, html, now())
            songs = darklyrics.parse_album(html, url, source="darklyrics", fetched_at="")
            assert len(songs) == SONGS_A_PAGE
            found = Counter[str](song.kind for song in songs)
            store.put(page, songs, fetched=True, found=found)
        seconds = time.process_time() - began
    return seconds / len(albums) * 1000, sum(len(html) for _, html in albums) / len(albums) / 1000


def _site(folder: Path) -> list[list[str]]:
    """A whole site, from its first letter to its last album."""
    pages = _pages(BANDS)
    with demo_site.serve(pages.get) as address:
        got = measure(_command(folder, address))
    done = json.loads((folder / "raw" / "crawl.manifest.json").read_text(encoding="utf-8"))
    assert done["counts"]["songs"] == BANDS * ALBUMS_A_BAND * SONGS_A_PAGE
    memory = f"{got.peak_mb:,.0f} MB" if got.peak_mb else "unknown"
    return [
        [f"a site of {len(pages):,} pages, {done['counts']['songs']:,} songs: pages a second",
         f"{len(pages) / done['seconds']:.0f}"],
        ["peak memory", memory],
    ]  # fmt: skip


def _resumed(folder: Path) -> list[list[str]]:
    """A crawl that lacks the last album of a site that is here otherwise."""
    n_bands, n_albums, n_songs = LARGE
    last = (n_bands - 27) // 27 * 27 + 26  # of the last letter
    release = Release(f"Band {last}", "album", "Album 0", 2000, (("T", "la"),))
    missing = f"/lyrics/band{last}/album0.html"
    html = demo_site.pages([release], site=darklyrics.SITE)[missing]
    _large_store(folder, missing)
    came: list[float] = []

    def page(path: str) -> str:
        came.append(time.monotonic())
        assert path == missing
        return html

    with demo_site.serve(page) as address:
        began = time.monotonic()
        got = measure(_command(folder, address))
    (first,) = came  # nothing else was asked for
    memory = f"{got.peak_mb:,.0f} MB" if got.peak_mb else "unknown"
    pages = 28 + n_bands + n_albums
    return [
        [f"going on in a store of {pages:,} pages, {n_songs:,} songs: to the first request",
         f"{first - began:.1f} s"],
        ["to the end, all views and the manifest checked", f"{got.seconds:.1f} s"],
        ["peak memory", memory],
    ]  # fmt: skip


def _command(folder: Path, address: str) -> list[str]:
    return python("backend.scrapers.crawl", "--letters=all", "--delay_s=0",
                  f"--base_url={address}", f"--data_dir={folder}")  # fmt: skip


def _pages(n_bands: int) -> dict[str, str]:
    """A site of so many bands, their albums made of the songs of the songbook."""
    releases = [demo_site.read_release(path) for path in demo_site.songbook_files()]
    songs = [(title, text) for r in releases for title, text in r.songs if "\n" in text]
    bands = [
        Release(
            f"{'abcdefghijklmnopqrstuvwxyz'[band % 26]} band {band}", "album", f"Album {album}",
            2000 + album, tuple(songs[(7 * band + 3 * album + i) % len(songs)]
                                for i in range(SONGS_A_PAGE)),
        )
        for band in range(n_bands) for album in range(ALBUMS_A_BAND)
    ]  # fmt: skip
    return demo_site.pages(bands, site=darklyrics.SITE)


def _large_store(folder: Path, missing: str) -> None:
    """As a crawl of a whole site leaves it, but for one album, which was not fetched yet."""
    n_bands, n_albums, n_songs = LARGE
    root, body, at = darklyrics.SITE, b"<html>" + b"a page " * 60, now()

    def page(path: str) -> Page:
        return Page(root + path, 200, {}, body, at)

    def put(path: str, to: Sequence[Link]) -> None:
        store.put(page(path), fetched=True, links=to, found={})

    letters = [*"abcdefghijklmnopqrstuvwxyz", "19"]
    with CrawlStore(raw_path(folder), program.VERSION) as store:
        put("index.html", [Link(letter, f"{root}{letter}.html") for letter in letters])
        bands = [f"{letters[n % 27]}/band{n}.html" for n in range(n_bands)]
        for i, letter in enumerate(letters):
            put(f"{letter}.html", [Link(band, root + band) for band in bands[i::27]])
        for n, band in enumerate(bands):
            first, last = n_albums * n // n_bands, n_albums * (n + 1) // n_bands
            albums = [f"lyrics/band{n}/album{a - first}.html" for a in range(first, last)]
            put(band, [Link("album", root + album) for album in albums])
            for a, album in zip(range(first, last), albums, strict=True):
                if f"/{album}" == missing:
                    continue
                count = n_songs * (a + 1) // n_albums - n_songs * a // n_albums
                songs = [
                    Song(id=song_id("darklyrics", f"/{album}#{i}"), source="darklyrics",
                         title=f"Song {i}", kind="song", url=f"{root}{album}#{i}",
                         artist=f"Band {n}", album=album, lyrics="la la la, la la\n" * 60)
                    for i in range(count)
                ]  # fmt: skip
                store.put(page(album), songs, fetched=True, found={"song": count})
        store.write_views()
