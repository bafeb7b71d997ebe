"""raw/crawl.sqlite: pages, what became of each address, and the songs; one transaction a page.

    pages(url, fetched_at, status, headers, body)    body zlib-compressed; a page is fetched once
    urls(url, state, reason, attempts)               done | gone | failed
    songs(id, json)                                  data/song.py knows it
    meta(schema_version)

A process killed at any moment loses at most the page in flight.
"""

import hashlib
import json
import re
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from backend.data.song import SONGS_TABLE, Song, put_song
from backend.errors import DataError
from backend.scrapers.fetch import Page
from backend.storage import atomic_write

SCHEMA_VERSION = 1
State = Literal["done", "gone", "failed"]


class CrawlStore:
    """Opened for writing; a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=10)
            self._db.executescript(f"""
                CREATE TABLE IF NOT EXISTS pages (
                    url TEXT PRIMARY KEY, fetched_at TEXT NOT NULL, status INTEGER NOT NULL,
                    headers TEXT NOT NULL, body BLOB NOT NULL);
                CREATE TABLE IF NOT EXISTS urls (
                    url TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT,
                    attempts INTEGER NOT NULL);
                {SONGS_TABLE};
                CREATE TABLE IF NOT EXISTS meta (schema_version INTEGER NOT NULL);
                INSERT INTO meta SELECT {SCHEMA_VERSION} WHERE NOT EXISTS (SELECT 1 FROM meta);
            """)
            (version,) = self._db.execute("SELECT schema_version FROM meta").fetchone()
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{path} cannot be used: {error}",
                mend="another crawl may hold it; else move it away and crawl again",
            ) from error
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{path} is of version {version}, this program reads {SCHEMA_VERSION}",
                mend="update lyrics-pipeline",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._db.close()

    def page(self, url: str) -> Page | None:
        """A page fetched before."""
        row = self._db.execute(
            "SELECT status, headers, body, fetched_at FROM pages WHERE url = ?", (url,)
        ).fetchone()
        if row is None:
            return None
        return Page(url, row[0], json.loads(row[1]), zlib.decompress(row[2]), row[3])

    def state(self, url: str) -> State | None:
        """What became of an address."""
        row = self._db.execute("SELECT state FROM urls WHERE url = ?", (url,)).fetchone()
        return row[0] if row else None

    def put(
        self, page: Page, songs: Iterable[Song] = (), *, fetched: bool, whole: bool = True
    ) -> int:
        """A page and its songs in one transaction; returns how many songs are new or changed.

        Args:
            fetched: the page is new; what an older one had and it has not is forgotten.
            whole: these are all songs of the page.
        """
        songs = list(songs)
        with self._db:
            if fetched:
                if whole and self.state(page.url):  # seen before: it may have had other songs
                    self._forget(page.url, songs)
                self._keep(page)
            changed = sum(put_song(self._db, song) for song in songs)
            self._mark(page.url, "done", None)
        return changed

    def put_songs(self, songs: Iterable[Song]) -> int:
        """Songs that came from no page."""
        with self._db:
            return sum(put_song(self._db, song) for song in songs)

    def forget(self, address: str, keep: Iterable[Song]) -> int:
        """Delete the songs of a file, or under a folder, that are not in `keep`; says how many."""
        with self._db:
            return self._forget(address, keep)

    def fail(self, url: str, state: State, reason: str, page: Page | None = None) -> None:
        """Remember why an address gave nothing; a page whose shape we do not know is kept."""
        with self._db:
            if page is not None:
                self._keep(page)
            self._mark(url, state, reason)

    def _forget(self, address: str, keep: Iterable[Song]) -> int:
        kept = {song.id for song in keep}
        # The address itself, its fragments, and what lies under it: not a neighbour whose name
        # begins alike, as songs2/ beside songs/ and a.jsonl beside a.json.
        found = self._db.execute(
            "SELECT id FROM (SELECT id, json_extract(json, '$.url') AS url FROM songs) "
            "WHERE url = ?1 OR substr(url, 1, length(?1) + 1) IN (?1 || '#', ?1 || '/')",
            (address,),
        )
        gone = [(key,) for (key,) in found if key not in kept]
        self._db.executemany("DELETE FROM songs WHERE id = ?", gone)
        return len(gone)

    def _keep(self, page: Page) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?)",
            (
                page.url,
                page.fetched_at,
                page.status,
                json.dumps(page.headers),
                zlib.compress(page.body),
            ),
        )

    def _mark(self, url: str, state: State, reason: str | None) -> None:
        # A row that says the same already is not touched: an unchanged crawl leaves the file alone.
        self._db.execute(
            "INSERT INTO urls VALUES (?, ?, ?, 1) ON CONFLICT (url) DO UPDATE SET "
            "state = excluded.state, reason = excluded.reason, attempts = attempts + 1 "
            "WHERE state != 'done' OR excluded.state != 'done'",
            (url, state, reason),
        )

    def songs(self) -> Iterable[Song]:
        for (line,) in self._db.execute("SELECT json FROM songs ORDER BY id"):
            yield Song.from_json(line)

    def write_views(self) -> list[Path]:
        """`<source>/<artist-slug>-<6 hex>.jsonl`, one per artist; unchanged ones are left alone."""
        artists: dict[tuple[str, str], list[Song]] = defaultdict(list)
        for song in self.songs():
            artists[song.source, song.artist or ""].append(song)
        paths = []
        for (source, artist), songs in sorted(artists.items()):
            songs.sort(key=lambda s: (s.year or 0, s.album or "", s.track or 0, s.id))
            text = "".join(song.to_json() + "\n" for song in songs)
            slug = re.sub(r"[^a-z0-9]+", "-", artist.lower()).strip("-")[:60] or "unknown"
            tail = hashlib.sha256(f"{source}\n{artist}".encode()).hexdigest()[:6]
            path = self.path.parent / source / f"{slug}-{tail}.jsonl"
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                with atomic_write(path) as file:
                    file.write(text)
            paths.append(path)
        for stale in set(self.path.parent.glob(f"*/*-{'[0-9a-f]' * 6}.jsonl")) - set(paths):
            stale.unlink()  # of an artist without songs any more
        return paths
