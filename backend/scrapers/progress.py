"""What people see of a crawl: one bar, a table at the end, the same as JSON, and a README.

raw/crawl.json holds the table: artists, songs, what was skipped by kind, what failed and why.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend.scrapers.fetch import Fetcher, Host
from backend.storage import atomic_write, write_json

LINE_EVERY_S = 60  # where there is no terminal to draw a bar on
ROWS_SHOWN = 40
WHERE = {
    "darklyrics": "www.darklyrics.com",
    "genius": "genius.com, by its developer API and its song pages",
    "gutenberg": "Project Gutenberg's books (public domain), from copies at github.com",
    "demo": "the songbook of this project (CC0)",
    "files": "your own files",
}


@dataclass
class Row:
    """What the crawl found of one artist."""

    source: str
    artist: str
    url: str = ""
    songs: Counter[str] = field(default_factory=Counter)  # by kind
    new: int = 0
    others: int = 0  # songs of others on which the artist is heard
    gone: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)  # (address, why)

    def skipped(self) -> dict[str, int]:
        """What is there and is no song, counted by what it is."""
        kinds = {kind: n for kind, n in sorted(self.songs.items()) if kind != "song"}
        return kinds | {k: n for k, n in (("of others", self.others), ("gone", self.gone)) if n}

    def as_dict(self) -> dict[str, Any]:
        failed = [{"url": url, "why": why} for url, why in self.failed]
        return {
            "source": self.source, "artist": self.artist, "url": self.url,
            "found": self.songs.total(), "songs": self.songs["song"], "new": self.new,
            "skipped": self.skipped(), "failed": failed,
        }  # fmt: skip


class Progress:
    """Pages, songs, seconds waited and the time that is left, for all sources of a run."""

    def __init__(self, hosts: Mapping[str, Host]) -> None:
        self._hosts, self._lock = hosts, threading.Lock()
        self._pages = self._songs = self._left = 0
        self._artists_left = self._artists_done = self._pages_of_artists = 0
        self._began = self._told = time.monotonic()
        self._bar: Any = None  # drawn with the first page

    def artists(self, n: int) -> None:
        """So many artists are to be looked at."""
        with self._lock:
            self._artists_left += n

    def artist(self) -> None:
        """One of them has its turn."""
        with self._lock:
            self._artists_left -= 1
            self._artists_done += 1

    def expect(self, pages: int) -> None:
        """So many more of its pages are not here yet."""
        with self._lock:
            self._pages_of_artists += pages
            self._left += pages

    def fetched(self) -> None:
        """A page came."""
        with self._lock:
            self._pages += 1
            self._left = max(0, self._left - 1)
            self._show()

    def songs(self, n: int) -> None:
        with self._lock:
            self._songs += n

    def say(self, line: str) -> None:
        """A line that the bar does not overwrite."""
        with self._lock:
            tqdm.write(line)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _show(self) -> None:
        if self._bar is None:
            self._bar = tqdm(unit=" pages", disable=None, smoothing=0, dynamic_ncols=True)
        # Of artists that nobody looked at yet, as many pages as of the others, and their own one.
        mean = self._pages_of_artists / max(1, self._artists_done)
        left = self._left + round(self._artists_left * (1 + mean))
        waited = sum(host.waited_s for host in list(self._hosts.values()))
        facts = f"{self._songs:,} songs, {waited:,.0f} s waited"
        self._bar.total = self._pages + left if left else None  # nobody knows yet, or the last one
        self._bar.set_postfix_str(facts, refresh=False)
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and now - self._told > LINE_EVERY_S:
            self._told = now
            eta = duration((now - self._began) / self._pages * left)
            print(f"  {self._pages:,} pages, {facts}, about {eta} left", flush=True)


def duration(seconds: float) -> str:
    """In the unit people would use.

    >>> duration(40), duration(600), duration(9000)
    ('40 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(n: int, what: str) -> str:
    """`1 song`, `2,000 songs`."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def closing_table(rows: Sequence[Row]) -> str:
    """Found, new, skipped by kind, failed and why, one artist a line."""
    shown = list(rows)
    if len(rows) > ROWS_SHOWN:  # a whole site: those that need a look
        shown = [row for row in rows if row.failed][:ROWS_SHOWN]
    lines = []
    for row in shown:
        skipped = "".join(f", {n:,} {kind}" for kind, n in row.skipped().items())
        songs = counted(row.songs["song"], "song")
        line = f"  {row.artist:<32} {songs} ({row.new:,} new){skipped}"
        if row.failed:
            line += f"; {len(row.failed)} failed: {row.failed[0][1]}"
        lines.append(line)
    if len(shown) < len(rows):
        lines.append(f"  ... {len(rows) - len(shown):,} more artists, all of them in crawl.json")
    return "\n".join(lines)


def write_report(
    folder: Path, rows: Iterable[Row], totals: Mapping[str, Any], fetchers: Iterable[Fetcher],
    files: Sequence[Mapping[str, Any]],
) -> None:  # fmt: skip
    """crawl.json: the table and the totals for programs."""
    write_json(
        folder / "crawl.json",
        {
            **totals,
            "sites": {
                fetcher.site: {
                    "requests": fetcher.requests,
                    "stopped": fetcher.stopped.what if fetcher.stopped else None,
                }
                for fetcher in fetchers
            },
            "artists": [row.as_dict() for row in rows],
            "files": list(files),
        },
    )


def write_readme(folder: Path, kinds: Mapping[tuple[str, str], int]) -> None:
    """raw/README.md: where the texts come from, and whose they are."""
    lines = []
    for source in sorted({source for source, _ in kinds}):
        rows = ", ".join(
            counted(n, kind) if kind == "song" else f"{n:,} {kind}"
            for (of, kind), n in sorted(kinds.items())
            if of == source
        )
        lines.append(f"- {source}, from {WHERE.get(source, source)}: {rows}")
    text = "\n".join(
        [
            "# Raw songs",
            "",
            "Fetched by lyrics-pipeline; each song names its page and the time it was read.",
            "",
            *lines,
            "",
            "**Lyrics belong to those who wrote them.** What a crawl brings is for your own use: "
            "do not publish it, nor",
            "put it into a repository. What somebody wants gone: its id, address or artist into "
            "`../exclude.txt`.",
            "",
            "`crawl.sqlite` holds everything (pages as they came, what became of each address, "
            "songs); the folders are",
            "views of its songs, one file an artist, written again by `--rebuild`. `crawl.json` "
            "says what the last crawl found.",
            "",
        ]
    )
    path = folder / "README.md"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with atomic_write(path) as file:
            file.write(text)
