"""Crawl: artists of a source -> raw songs.

    python -m backend.scrapers.crawl --artists "Opeth" "At the Gates"
    python -m backend.scrapers.crawl --source=demo
    python -m backend.scrapers.crawl --source=files --path=my_lyrics/

Reads the site, one request per album. Writes <data_dir>/raw/crawl.sqlite (pages, outcomes, songs,
one transaction a page) and a readable view of it, raw/<source>/<artist>.jsonl. Stop it when you
like: the same command goes on where it was, and no page is fetched twice.
"""

import difflib
import itertools
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from tqdm import tqdm

from backend.config.loader import program
from backend.config.schema import CrawlConfig
from backend.data.song import Song, raw_path
from backend.errors import ConfigError, DataError, NetworkError, PageError
from backend.scrapers import darklyrics, demo_site
from backend.scrapers.fetch import Blocked, Fetcher, Gone, Page
from backend.scrapers.files import read_files, song_files
from backend.scrapers.store import CrawlStore, State
from backend.storage import Stage, Summary

VERSION = 1
DELAY_S = {"darklyrics": 3.0, "demo": 0.0}
FAILURES_IN_A_ROW = 3  # then the host has trouble, and we leave it alone
REFUSED_SHOWN = 5  # of a music folder there may be thousands


@dataclass
class Row:
    """What the crawl found of one artist."""

    artist: str
    songs: Counter[str] = field(default_factory=Counter)  # by kind
    new: int = 0
    failed: list[str] = field(default_factory=list)


def main(config: CrawlConfig) -> Summary:
    data_dir = folder(config)
    artists = _names(config)
    settings = {
        "source": config.source,
        "artists": artists,
        "max_songs": config.max_songs,
        "base_url": config.base_url,
        "path": config.path,
    }
    inputs = [path for source in config.source for path in _inputs(source, config)]
    stage = Stage("crawl", VERSION, data_dir / "raw", settings=settings, inputs=inputs)
    if not (config.force or config.refresh or config.rebuild) and (done := stage.unchanged()):
        print(done.line())
        return done

    if "darklyrics" in config.source and not (artists or config.rebuild):
        raise ConfigError(f"artist_file {config.artist_file} names nobody", mend="one name a line")
    if config.rebuild and not raw_path(data_dir).is_file():
        raise DataError(f"no store in {data_dir / 'raw'}", mend="crawl first; rebuild needs one")
    rows: list[Row] = []
    with CrawlStore(raw_path(data_dir)) as store:
        try:
            for source in config.source if not config.rebuild else ():
                if source == "files":
                    rows += _crawl_files(config, store)
                else:
                    rows += _crawl_site(source, artists, config, store)
        finally:  # Ctrl-C too: the view shows what is in the store
            views = store.write_views()
        total = sum(1 for _ in store.songs())
    _table(rows)
    kinds = sum((row.songs for row in rows), Counter[str]())
    counts: dict[str, Any] = {
        "artists": len(rows),
        "songs": sum(kinds.values()),
        "new": sum(row.new for row in rows),
        "songs in the store": total,
    }
    failed = [reason for row in rows for reason in row.failed]
    if failed or config.rebuild:
        # No manifest: the next run has something to do.
        note = f"{len(failed)} failed; the same command tries them again"
        summary = Summary(
            "crawl",
            data_dir / "raw",
            counts | {"failed": len(failed)},
            notes=[note] if failed else [],
        )
        print("\n".join([summary.line(), *summary.notes]))
        if failed and not kinds:
            raise NetworkError(
                f"nothing could be fetched: {failed[0]}", mend="run the same command later"
            )
        return summary
    summary = stage.finish([raw_path(data_dir), *views], counts)
    print(summary.line())
    return summary


def folder(config: CrawlConfig) -> Path:
    """The corpus folder: as given, or named after the source."""
    if config.data_dir:
        return Path(config.data_dir)
    if len(config.source) > 1:
        return Path("data/lyrics")
    if config.source[0] == "files":
        return Path("data") / Path(config.path or "files").resolve().stem
    return Path("data") / config.source[0]


def _names(config: CrawlConfig) -> list[str]:
    names = list(config.artists)
    if config.artist_file:
        try:
            lines = Path(config.artist_file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read artist_file {config.artist_file}: {error}") from None
        names += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return list(dict.fromkeys(names))


def _inputs(source: str, config: CrawlConfig) -> list[Path]:
    """Local files a source is made of: an edited one is new work."""
    if source == "demo":
        return demo_site.songbook_files()
    if source == "files" and config.path:
        return song_files(Path(config.path), folder(config))
    return []


# --- a site ---------------------------------------------------------------------------------------


def _crawl_site(
    source: str, artists: Sequence[str], config: CrawlConfig, store: CrawlStore
) -> list[Row]:
    """DarkLyrics, or the demo site in its shape: home -> letters -> artists -> albums."""
    site = darklyrics.SITE if source == "darklyrics" else demo_site.SITE
    served: AbstractContextManager[str | None] = nullcontext(config.base_url)
    if source == "demo":
        releases = [demo_site.read_release(path) for path in demo_site.songbook_files()]
        served = demo_site.serve(demo_site.pages(releases))
    with served as address:
        delay_s = DELAY_S[source] if config.delay_s is None else config.delay_s
        site_crawl = SiteCrawl(
            source,
            site,
            Fetcher(site, served_at=address, delay_s=delay_s),
            store,
            # The demo costs nothing, and its songbook may have been edited.
            refresh=config.refresh or source == "demo",
            max_songs=config.max_songs,
        )
        if source != "demo":
            print(
                f"reading the index of {site}, one request every {delay_s:g} s or more", flush=True
            )
        found = site_crawl.find(artists)
        rows = []
        with tqdm(total=len(found), unit=" artists", disable=None, desc=source) as bar:
            for link in found:
                bar.set_postfix_str(link.name)
                rows.append(site_crawl.artist(link))
                bar.update()
        return rows


class SiteCrawl:
    """One crawl of one site in DarkLyrics's shape."""

    def __init__(
        self,
        source: str,
        site: str,
        fetcher: Fetcher,
        store: CrawlStore,
        *,
        refresh: bool,
        max_songs: int | None,
    ) -> None:
        self.source, self.site, self.fetcher, self.store = source, site, fetcher, store
        self.refresh, self.max_songs = refresh, max_songs
        self._failures = 0

    def find(self, artists: Sequence[str]) -> list[darklyrics.Link]:
        """Artist pages of the names; without names all of the site.

        Raises:
            DataError: a name the site does not have (with the nearest), or has twice.
        """
        letters = self._parsed(urljoin(self.site, darklyrics.HOME), darklyrics.parse_home)
        if not artists:
            return [link for url in letters.values() for link in self._index(url)]
        found, problems = [], []
        for name in artists:
            known: list[darklyrics.Link] = []
            links: list[darklyrics.Link] = []
            # The site may list it under a "The" that the name leaves out: looked at last.
            for letter in dict.fromkeys([*initials(name), "t"]):
                if not links and letter in letters:
                    known += self._index(letters[letter])
                    links = matching(name, known)
            if len(links) == 1:
                found += [link for link in links if link not in found]
            elif links:
                names = ", ".join(repr(link.name) for link in links)
                problems.append(f"{name!r} could be {names}; write it in full")
            else:
                near = nearest(name, known)
                problems.append(
                    f"{name!r} is not on {self.site}"
                    + (f"; nearest: {', '.join(map(repr, near))}" if near else "")
                )
        if problems:
            raise DataError(
                "\n  ".join(["unknown artists:", *problems]),
                mend="--artists with the site's spelling; --refresh if the site has grown",
            )
        return found

    def artist(self, link: darklyrics.Link) -> Row:
        """All songs of an artist, album by album."""
        row = Row(link.name)
        try:
            albums = self._parsed(link.url, darklyrics.parse_artist)
        except NetworkError as error:
            self._failed(row, link.url, error)
            return row
        left = self.max_songs
        for album in albums:
            if left is not None and left <= 0:
                break
            if self.store.state(album.url) == "gone" and not self.refresh:
                continue
            page = None
            try:
                page, fetched = self._page(album.url)
                songs = darklyrics.parse_album(
                    page.body, page.url, source=self.source, fetched_at=page.fetched_at
                )
            except NetworkError as error:
                self._failed(row, album.url, error, page)
                continue
            songs = songs[:left]
            row.new += self.store.put(page, songs, fetched=fetched, whole=left is None)
            row.songs.update(song.kind for song in songs)
            self._failures = 0
            left = None if left is None else left - len(songs)
        return row

    def _index(self, url: str) -> list[darklyrics.Link]:
        found: list[darklyrics.Link] = self._parsed(url, darklyrics.parse_index)
        return found

    def _parsed(self, url: str, parse: Any) -> Any:
        """A page that leads on, parsed; kept even where its shape is unknown."""
        page, fetched = self._page(url)
        try:
            links = parse(page.body, page.url)
        except PageError as error:
            self.store.fail(url, "failed", error.what, page)
            raise
        if fetched:
            self.store.put(page, fetched=True)
        return links

    def _page(self, url: str) -> tuple[Page, bool]:
        """The page and whether it was fetched now; one that could not be read is fetched again."""
        stored = self.store.page(url)
        if stored and not self.refresh and self.store.state(url) != "failed":
            return stored, False
        page = self.fetcher.get(url)
        return page, stored is None or stored.body != page.body

    def _failed(self, row: Row, url: str, error: NetworkError, page: Page | None = None) -> None:
        """Count it, remember why, and stop asking a host that has trouble."""
        state: State = "gone" if isinstance(error, Gone) else "failed"
        self.store.fail(url, state, error.what, page)
        if state == "gone":
            return
        row.failed.append(error.what)
        if isinstance(error, PageError):
            return  # an odd page; the host is well
        self._failures += 1
        if isinstance(error, Blocked) or self._failures >= FAILURES_IN_A_ROW:
            raise NetworkError(
                f"stopped: {error.what}",
                why="this host has trouble or refuses us; all that was fetched is stored",
                mend=error.mend or "run the same command later",
            ) from error


# --- names ----------------------------------------------------------------------------------------

FOLDED = str.maketrans({"æ": "ae", "ø": "o", "ð": "d", "þ": "th", "ł": "l", "œ": "oe", "đ": "d"})


def plain(name: str) -> str:
    """A name without accents, case and punctuation: what two spellings share.

    >>> plain("Mötley Crüe"), plain("ÆTHER REALM"), plain("The Absence")
    ('motleycrue', 'aetherrealm', 'absence')
    """
    folded = unicodedata.normalize("NFKD", name.casefold().translate(FOLDED))
    words = re.findall(r"\w+", "".join(c for c in folded if not unicodedata.combining(c)))
    return "".join(words[1:] if len(words) > 1 and words[0] == "the" else words)


def initials(name: str) -> list[str]:
    """Letter pages where the site may list a name: digits share one; "The" counts or does not."""
    firsts = dict.fromkeys(
        c for c in (plain(name)[:1], "t" if name.lower().startswith("the ") else "") if c
    )
    return ["19" if c.isdigit() else c for c in firsts]


def matching(name: str, links: Sequence[darklyrics.Link]) -> list[darklyrics.Link]:
    """Links of that name; else those that add a country, as in ABSURD (RUSSIA)."""
    unique = {link.url: link for link in links}.values()
    equal = [link for link in unique if plain(link.name) == plain(name)]
    return equal or [
        link for link in unique if plain(re.sub(r"\s*\([^()]*\)\s*$", "", link.name)) == plain(name)
    ]


def nearest(name: str, links: Sequence[darklyrics.Link]) -> list[str]:
    """The names most like it."""
    names = {plain(link.name): link.name for link in links}
    return [names[key] for key in difflib.get_close_matches(plain(name), names, n=5, cutoff=0.5)]


# --- own files and the closing table --------------------------------------------------------------


def _crawl_files(config: CrawlConfig, store: CrawlStore) -> list[Row]:
    assert config.path is not None  # problems() saw to it
    path = Path(config.path)
    rows: dict[str, Row] = {}
    refused: list[str] = []
    seen: list[Song] = []
    for file, found in read_files(path, folder(config)):
        if isinstance(found, str):
            refused.append(f"  refused {file}: {found}")
            continue
        for artist, songs in itertools.groupby(found, key=lambda song: song.artist or "unknown"):
            row = rows.setdefault(artist, Row(artist))
            left = config.max_songs and config.max_songs - row.songs.total()
            taken = list(itertools.islice(songs, left))
            row.new += store.put_songs(taken)
            row.songs.update(song.kind for song in taken)
            seen += taken
    if refused:
        print("\n".join(refused[:REFUSED_SHOWN]))
        print(f"  {len(refused)} file{'s' * (len(refused) > 1)} refused")
    if not rows:
        raise DataError(
            f"no songs in {config.path}" + (f"; {len(refused)} files refused" if refused else ""),
            mend="one song per .txt file, or .json / .jsonl with text, song_name, artist_name",
        )
    if config.max_songs is None and (gone := store.forget(path.resolve().as_uri(), seen)):
        print(f"  {gone} song{'s' * (gone > 1)} forgotten, whose files are gone")
    return list(rows.values())


def _table(rows: Sequence[Row]) -> None:
    for row in rows:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(row.songs.items())) or "nothing"
        failed = f"; {len(row.failed)} failed: {row.failed[0]}" if row.failed else ""
        print(f"  {row.artist:<32} {kinds} ({row.new} new){failed}")


if __name__ == "__main__":
    sys.exit(program(main, CrawlConfig))
