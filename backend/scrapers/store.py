"""raw/crawl.sqlite: pages, what became of each address, and the songs; one transaction a page.

    pages(url, fetched_at, status, headers, body)    body zlib-compressed; a page is fetched once
    urls(url, state, reason, attempts, found, checked_at)    done | gone | failed | blocked
    links(parent, position, url, name)               what a page leads to, in its order
    songs(id, json)                                  data/song.py knows it
    stale(source, artist)                            whose JSONL view is to be written again
    meta(schema_version, reader_version, refreshing_since)

`found` says what a page gave, {"song": 9, "instrumental": 1}, once all of it is taken; a page that
is there without it is read again, not fetched again. So a crawl that goes on knows what is left
from the addresses alone. A process killed at any moment loses at most the page in flight.
"""

import hashlib
import json
import re
import sqlite3
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Literal, NamedTuple, Self

from backend.data.song import SONGS_TABLE, Song, put_song
from backend.errors import DataError
from backend.scrapers.fetch import Page
from backend.scrapers.names import Link
from backend.storage import atomic_write

SCHEMA_VERSION = 2
OLD_REFRESH = 7  # days, after which one that was stopped is not gone on with
State = Literal["done", "gone", "failed", "blocked"]
SOURCE, ARTIST, URL, KIND = (f"json_extract(json, '$.{key}')" for key in
                             ("source", "artist", "url", "kind"))  # fmt: skip
ORDER = "json_extract(json, '$.year'), json_extract(json, '$.album'), json_extract(json, '$.track')"


def now() -> str:
    """UTC, finer than pages come."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Outcome(NamedTuple):
    """What became of an address."""

    state: State
    reason: str | None
    attempts: int
    found: Mapping[str, int] | None  # None: not, or not all, read yet
    checked_at: str


class CrawlStore:
    """Opened for writing, by one process; its threads may share it. A context manager.

    Args:
        reader_version: of the parsers; a store read by others is read again, not fetched again.
    """

    def __init__(self, path: Path, reader_version: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, timeout=10, check_same_thread=False)
            self._open(reader_version)
        except sqlite3.Error as error:
            raise DataError(
                f"{path} cannot be used: {error}",
                mend="free the disk or the file; a damaged one: move it away and crawl again (the "
                "JSONL files beside it hold the songs too)",
            ) from error

    def _open(self, reader_version: int) -> None:
        """Make the tables, or bring those of version 1 up to date."""
        db = self._db
        with suppress(sqlite3.OperationalError):  # some network disks cannot; it works without
            # A transaction costs no wait for the disk then, and readers do not stop us.
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
        db.execute("CREATE TABLE IF NOT EXISTS meta (schema_version INTEGER NOT NULL)")
        (version,) = db.execute("SELECT schema_version FROM meta").fetchone() or (None,)
        if version is not None and version > SCHEMA_VERSION:
            raise DataError(
                f"{self.path} is of version {version}, this program reads {SCHEMA_VERSION}",
                mend="update lyrics-pipeline",
            )
        if version != SCHEMA_VERSION:
            db.executescript(f"""
                BEGIN;
                CREATE TABLE IF NOT EXISTS pages (
                    url TEXT PRIMARY KEY, fetched_at TEXT NOT NULL, status INTEGER NOT NULL,
                    headers TEXT NOT NULL, body BLOB NOT NULL);
                CREATE TABLE IF NOT EXISTS urls (
                    url TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT,
                    attempts INTEGER NOT NULL);
                ALTER TABLE urls ADD COLUMN found TEXT;
                ALTER TABLE urls ADD COLUMN checked_at TEXT NOT NULL DEFAULT '';
                CREATE TABLE links (
                    parent TEXT NOT NULL, position INTEGER NOT NULL, url TEXT NOT NULL,
                    name TEXT NOT NULL, PRIMARY KEY (parent, position)) WITHOUT ROWID;
                {SONGS_TABLE};
                CREATE INDEX songs_artist ON songs ({SOURCE}, {ARTIST});
                CREATE INDEX songs_url ON songs ({URL});
                CREATE TABLE stale (source TEXT, artist TEXT, PRIMARY KEY (source, artist));
                ALTER TABLE meta ADD COLUMN reader_version INTEGER;
                ALTER TABLE meta ADD COLUMN refreshing_since TEXT;
                DELETE FROM meta;
                INSERT INTO meta VALUES ({SCHEMA_VERSION}, {reader_version}, NULL);
                COMMIT;
            """)
        (read_by,) = db.execute("SELECT reader_version FROM meta").fetchone()
        if read_by != reader_version:  # what it could not read before, it may read now
            with db:
                db.execute(
                    "DELETE FROM urls WHERE state = 'failed' AND url IN (SELECT url FROM pages)"
                )
                db.execute("UPDATE urls SET found = NULL")
                db.execute("UPDATE meta SET reader_version = ?", (reader_version,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction.

        Raises:
            DataError: it could not be written; what was before stands.
        """
        with self._lock:
            try:
                with self._db:
                    yield self._db
            except sqlite3.Error as error:
                raise DataError(
                    f"{self.path} cannot be written: {error}",
                    mend="free space or permissions there, and run the same command: what is "
                    "stored stays stored",
                ) from error

    # --- pages and what became of them ---

    def page(self, url: str) -> Page | None:
        """A page fetched before."""
        with self._lock:
            row = self._db.execute(
                "SELECT status, headers, body, fetched_at FROM pages WHERE url = ?", (url,)
            ).fetchone()
        if row is None:
            return None
        try:
            return Page(url, row[0], json.loads(row[1]), zlib.decompress(row[2]), row[3])
        except (zlib.error, ValueError):
            return None  # damaged on the disk: as if it had never come

    def outcome(self, url: str) -> Outcome | None:
        """What became of an address; None where it was never asked for."""
        with self._lock:
            row = self._db.execute(
                "SELECT state, reason, attempts, found, checked_at FROM urls WHERE url = ?", (url,)
            ).fetchone()
        return _outcome(row) if row else None

    def links(self, url: str) -> list[tuple[Link, Outcome | None]]:
        """What a page leads to, and what became of that; empty where it was not read yet."""
        with self._lock:
            rows = self._db.execute(
                "SELECT name, links.url, state, reason, attempts, found, checked_at "
                "FROM links LEFT JOIN urls USING (url) WHERE parent = ? ORDER BY position",
                (url,),
            ).fetchall()
        return [(Link(row[0], row[1]), _outcome(row[2:]) if row[2] else None) for row in rows]

    def put(
        self,
        page: Page,
        songs: Iterable[Song] = (),
        *,
        fetched: bool,
        links: Sequence[Link] | None = None,
        unit: str | None = None,
        found: Mapping[str, int] | None = None,
    ) -> int:
        """A page, its songs and its links, in one transaction; how many songs are new or changed.

        Args:
            fetched: the page is new; what an older one had and it has not is forgotten.
            links: what it leads to, if it is such a page.
            unit: the address under which it counts and leads on, where that is not its own.
            found: what it gave, counted; None as long as something of it is left to take.
        """
        songs = list(songs)
        with self._writing() as db:
            if fetched:
                if found is not None and self.outcome(page.url):  # it may have had other songs
                    self._forget(page.url, {song.id for song in songs})
                self._keep(page)
            if links is not None:
                parent = unit or page.url
                db.execute("DELETE FROM links WHERE parent = ?", (parent,))
                db.executemany(
                    "INSERT INTO links VALUES (?, ?, ?, ?)",
                    [(parent, i, link.url, link.name) for i, link in enumerate(links)],
                )
            changed = sum(self._put_song(song) for song in songs)
            at = now() if fetched else page.fetched_at
            if unit is not None and unit != page.url:
                self._mark(unit, "done", None, found, at)
                found = {}
            self._mark(page.url, "done", None, found, at)
        return changed

    def unchanged(self, url: str) -> None:
        """The site says that the page is still what we have."""
        with self._writing() as db:
            db.execute("UPDATE urls SET checked_at = ? WHERE url = ?", (now(), url))

    def fail(self, url: str, state: State, reason: str, page: Page | None = None) -> None:
        """Remember why an address gave nothing; a page whose shape we do not know is kept."""
        with self._writing():
            if page is not None:
                self._keep(page)
            self._mark(url, state, reason, None, now())

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

    def _mark(
        self, url: str, state: State, reason: str | None, found: Mapping[str, int] | None, at: str
    ) -> None:
        # A row that says the same already is not touched: an unchanged crawl leaves the file alone.
        self._db.execute(
            "INSERT INTO urls VALUES (?, ?, ?, 1, ?, ?) ON CONFLICT (url) DO UPDATE SET "
            "state = excluded.state, reason = excluded.reason, found = excluded.found, "
            "checked_at = max(checked_at, excluded.checked_at), "
            "attempts = CASE WHEN state = excluded.state THEN attempts + 1 ELSE 1 END "
            "WHERE state != 'done' OR (state, found) IS NOT (excluded.state, excluded.found) "
            "OR checked_at < excluded.checked_at",
            (url, state, reason, None if found is None else json.dumps(found), at),
        )

    # --- a refresh that was stopped goes on ---

    def refreshing_since(self) -> str:
        """When the refresh began that is under way; one begins now where none is, or an old one."""
        old = (datetime.now(UTC) - timedelta(days=OLD_REFRESH)).isoformat()
        with self._writing() as db:
            db.execute(
                "UPDATE meta SET refreshing_since = ? "
                "WHERE refreshing_since IS NULL OR refreshing_since < ?",
                (now(), old),
            )
            (since,) = db.execute("SELECT refreshing_since FROM meta").fetchone()
        return str(since)

    def refreshed(self) -> None:
        with self._writing() as db:
            db.execute("UPDATE meta SET refreshing_since = NULL WHERE refreshing_since IS NOT NULL")

    def read_again(self) -> None:
        """Every page is to be read again, not fetched again."""
        with self._writing() as db:
            db.execute("UPDATE urls SET found = NULL WHERE found IS NOT NULL")

    # --- songs ---

    def put_songs(self, songs: Iterable[Song]) -> list[Song]:
        """Songs that came from no page, in one transaction; those of them that are new."""
        with self._writing():
            return [song for song in songs if self._put_song(song)]

    def forget(self, address: str, keep: set[str]) -> int:
        """Delete the songs of a file, or under a folder, that are not to keep; says how many."""
        with self._writing():
            return self._forget(address, keep)

    def _put_song(self, song: Song) -> bool:
        had = self._db.execute(
            f"SELECT {SOURCE}, {ARTIST} FROM songs WHERE id = ?", (song.id,)
        ).fetchone()
        changed = put_song(self._db, song)
        if changed:
            self._stale({(song.source, song.artist), had or (song.source, song.artist)})
        return changed

    def _forget(self, address: str, keep: set[str]) -> int:
        # The address itself, its fragments, and what lies under it: not a neighbour whose name
        # begins alike, as songs2/ beside songs/ and a.jsonl beside a.json. `$` follows `#`, and
        # `0` follows `/`.
        found = self._db.execute(
            f"SELECT id, {SOURCE}, {ARTIST} FROM songs WHERE {URL} = ?1 "
            f"OR ({URL} >= ?1 || '#' AND {URL} < ?1 || '$') "
            f"OR ({URL} >= ?1 || '/' AND {URL} < ?1 || '0')",
            (address,),
        ).fetchall()
        gone = [row for row in found if row[0] not in keep]
        self._db.executemany("DELETE FROM songs WHERE id = ?", [row[:1] for row in gone])
        self._stale({row[1:] for row in gone})
        return len(gone)

    def _stale(self, artists: set[tuple[str, str | None]]) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO stale VALUES (?, ?)", [(s, a or "") for s, a in artists]
        )

    def kinds(self) -> Counter[tuple[str, str]]:
        """(source, kind) -> songs in the store."""
        with self._lock:
            rows = self._db.execute(f"SELECT {SOURCE}, {KIND}, COUNT(*) FROM songs GROUP BY 1, 2")
            return Counter({(source, kind): n for source, kind, n in rows})

    def songs_of(self, source: str, artist: str) -> list[Song]:
        """Of one artist ("" is unknown), by year, album and number."""
        known = "IS NULL" if not artist else "= ?2"
        with self._lock:
            rows = self._db.execute(
                f"SELECT json FROM songs WHERE {SOURCE} = ?1 AND {ARTIST} {known} "
                f"ORDER BY {ORDER}, id",
                (source, artist) if artist else (source,),
            ).fetchall()
        return [Song.from_json(line) for (line,) in rows]

    # --- the view ---

    def rebuild(self) -> None:
        """Write the view of every artist again, and delete those of artists who are gone."""
        with self._writing() as db:
            db.execute(
                f"INSERT OR IGNORE INTO stale SELECT DISTINCT {SOURCE}, IFNULL({ARTIST}, '') "
                "FROM songs"
            )
            wanted = {self.view(*row) for row in db.execute("SELECT source, artist FROM stale")}
        for path in self.views():
            if path not in wanted:
                path.unlink()
        self.write_views()

    def write_views(self) -> None:
        """`<source>/<artist-slug>-<6 hex>.jsonl` of the artists whose songs changed."""
        with self._lock:
            stale = self._db.execute("SELECT source, artist FROM stale").fetchall()
        for source, artist in stale:
            path = self.view(source, artist)
            text = "".join(song.to_json() + "\n" for song in self.songs_of(source, artist))
            if not text:
                path.unlink(missing_ok=True)  # of an artist without songs any more
            elif not path.is_file() or path.read_text(encoding="utf-8") != text:
                with atomic_write(path) as file:
                    file.write(text)
            with self._writing() as db:
                db.execute("DELETE FROM stale WHERE source = ? AND artist = ?", (source, artist))

    def view(self, source: str, artist: str) -> Path:
        """Where the songs of an artist can be read as JSON lines."""
        slug = re.sub(r"[^a-z0-9]+", "-", artist.lower()).strip("-")[:60] or "unknown"
        tail = hashlib.sha256(f"{source}\n{artist}".encode()).hexdigest()[:6]
        return self.path.parent / source / f"{slug}-{tail}.jsonl"

    def views(self) -> list[Path]:
        """The views that are there."""
        return sorted(self.path.parent.glob(f"*/*-{'[0-9a-f]' * 6}.jsonl"))


def _outcome(row: tuple[State, str | None, int, str | None, str]) -> Outcome:
    return Outcome(row[0], row[1], row[2], None if row[3] is None else _found(row[3]), row[4])


@lru_cache(maxsize=4096)
def _found(counted: str) -> Mapping[str, int]:
    """Of a hundred thousand pages most gave the same as others."""
    return MappingProxyType(json.loads(counted))
