"""Crawl: artists of a source -> raw songs.

    python -m backend.scrapers.crawl --artists "Opeth" "At the Gates"
    python -m backend.scrapers.crawl --source=darklyrics --letters=a,b,19
    python -m backend.scrapers.crawl --source=files --path=my_lyrics/

Reads the sites, one request per album or two per song. Writes <data_dir>/raw/crawl.sqlite (pages,
outcomes, songs, one transaction a page), a readable view of it, raw/<source>/<artist>.jsonl, and
raw/crawl.json: what was found, skipped and why. Stop it when you like: the same command goes on
where it was, and no page is fetched twice.
"""

import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from backend.config.loader import program
from backend.config.schema import CrawlConfig
from backend.data.song import raw_path
from backend.errors import ConfigError, DataError, NetworkError, UserError
from backend.scrapers import darklyrics, demo_site, genius, gutenberg
from backend.scrapers.fetch import Cancelled, Fetcher, Host
from backend.scrapers.files import read_files, song_files
from backend.scrapers.progress import (
    Progress,
    Row,
    closing_table,
    counted,
    duration,
    write_readme,
    write_report,
)
from backend.scrapers.sites import DarkLyrics, Genius, Gutenberg, Way
from backend.scrapers.store import CrawlStore, now
from backend.storage import Stage, Summary, alone

VERSION = 2
DELAY_S = {"darklyrics": 3.0, "genius": 1.0, "gutenberg": 1.0, "demo": 0.0}
ASSETS = Path(__file__).resolve().parents[2] / "assets"
WORKS = (ASSETS / "verse_trained.tsv", ASSETS / "verse_held_out.tsv")
TOKEN = "GENIUS_ACCESS_TOKEN"
STOPS_S = 1.5  # a thread may still be reading a page when the user stops us
JITTER = 1.125  # of the delay, on average
REFUSED_SHOWN = 5  # of a music folder there may be thousands


def main(config: CrawlConfig) -> Summary:
    began = time.monotonic()
    data_dir, names = folder(config), _names(config)
    raw = data_dir / "raw"
    sources, why = chosen(config)
    sites = [source for source in sources if source != "files"]
    settings = {
        "source": sources,
        "artists": names,
        "letters": sorted(config.letters),
        "max_songs": config.max_songs,
        "base_url": config.base_url,
        "path": config.path,
        "columns": config.columns,
    }
    inputs = [path for source in sources for path in _inputs(source, config)]
    stage = Stage("crawl", VERSION, raw, settings=settings, inputs=inputs)
    again = (
        config.force or config.refresh or config.rebuild or config.retry_failed or config.dry_run
    )
    if not again and (done := stage.unchanged()):
        print(done.line())
        return done
    if set(sites) - {"demo", "gutenberg"} and not (names or config.letters or config.rebuild):
        raise ConfigError(f"artist_file {config.artist_file} names nobody", mend="one name a line")
    if config.rebuild and not raw_path(data_dir).is_file():
        raise DataError(f"no store in {raw}", mend="crawl first; rebuild needs one")
    raw.mkdir(parents=True, exist_ok=True)
    with alone(raw), CrawlStore(raw_path(data_dir), reader_version=VERSION) as store:
        if config.rebuild:
            store.rebuild()
            write_readme(raw, kinds := store.kinds())
            summary = Summary("crawl", raw, {"rows in the store": kinds.total()})
            print(summary.line())
            return summary
        if config.force:
            store.read_again()
        if why:
            print(f"source: {sources[0]}, since {why}", flush=True)
        crawl = Crawl(config, store, sites)
        files: list[dict[str, Any]] = []
        if config.dry_run:
            summary = crawl.plan(names)
            crawl.progress.close()
            return summary
        try:
            if "files" in sources:
                crawl.rows += _crawl_files(config, store, files)
            crawl.run(names)
        finally:  # Ctrl-C too: view and report show what is in the store
            crawl.progress.close()
            store.write_views()
            write_readme(raw, kinds := store.kinds())
            counts = _counts(crawl.rows)
            write_report(raw, crawl.rows, counts, crawl.fetchers, files)
            if crawl.rows:
                print(closing_table(crawl.rows), flush=True)
        views, failed = store.views(), counts.get("failed", 0)
        if config.refresh and not crawl.errors:
            store.refreshed()
    if crawl.errors and (len(crawl.errors) >= len(sources) or not crawl.rows):
        first, *others = crawl.errors
        raise UserError("\n".join([first.what, *(e.what for e in others)]), first.why, first.mend
                        ) if others else first  # fmt: skip
    if failed and not any(row.songs for row in crawl.rows):
        why = next(why for row in crawl.rows for _, why in row.failed)
        raise NetworkError(f"nothing could be fetched: {why}", mend="run the same command later")
    counts["rows in the store"] = kinds.total()
    notes = [*crawl.notes, *(error.what for error in crawl.errors)]
    if failed:
        notes.append(
            f"{failed} failed: the same command tries them again, after three runs only with "
            f"--retry_failed; all of them are in {raw / 'crawl.json'}"
        )
    if failed or crawl.errors:  # no manifest: the next run has something to do
        summary = Summary("crawl", raw, counts, time.monotonic() - began, notes=notes)
    else:
        summary = stage.finish([raw_path(data_dir), *views], counts, notes)
    print("\n".join([summary.line(), *notes]))
    return summary


def chosen(config: CrawlConfig) -> tuple[tuple[str, ...], str]:
    """The sources, and why, where the user did not say."""
    if config.source:
        return config.source, ""
    if config.base_url or config.letters:
        return ("darklyrics",), "base_url and letters are of it"
    _, where = token(config)
    if where:
        return ("genius",), f"a token is set ({where})"
    return ("darklyrics",), f"no token for genius is set ({TOKEN})"


def token(config: CrawlConfig) -> tuple[str, str]:
    """Genius's token and where it was found; empty without one. It is never shown or stored."""
    places = (
        (config.user_token, "--user_token"),
        (os.environ.get(TOKEN), f"{TOKEN} in the environment"),
        (dotenv_values(".env").get(TOKEN) if Path(".env").is_file() else None, f"{TOKEN} in .env"),
    )
    return next(((value.strip(), where) for value, where in places if value and value.strip()),
                ("", ""))  # fmt: skip


def needed_token(config: CrawlConfig) -> str:
    """Genius's token.

    Raises:
        ConfigError: none is set, or what no token looks like.
    """
    secret, where = token(config)
    if secret and not re.fullmatch("[!-~]+", secret):
        raise ConfigError(
            f"{where} is no token: it has blanks or letters that no token has",
            mend="copy a client access token of https://genius.com/api-clients again",
        )
    if not secret:
        raise ConfigError(
            "source=genius needs a token, and none is set",
            mend="make a client access token at https://genius.com/api-clients and put "
            f"{TOKEN}=... into .env; or --source=darklyrics, which needs none",
        )
    return secret


def folder(config: CrawlConfig) -> Path:
    """The corpus folder: as given, or named after the source."""
    if config.data_dir:
        return Path(config.data_dir)
    sources, _ = chosen(config)
    if len(sources) > 1 or sources == ("genius",):
        return Path("data/lyrics")
    if sources == ("files",):
        return Path("data") / Path(config.path or "files").resolve().stem
    return Path("data") / sources[0]


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
    if source == "gutenberg":
        return list(WORKS)
    if source == "files" and config.path:
        return song_files(Path(config.path), folder(config))
    return []


# --- sites ----------------------------------------------------------------------------------------


class Crawl:
    """One run over the sites: a thread each, since each has its own hosts to be patient with."""

    def __init__(self, config: CrawlConfig, store: CrawlStore, sites: Sequence[str]) -> None:
        self.config, self.store, self.sites = config, store, sites
        self.hosts: dict[str, Host] = {}
        self.fetchers: list[Fetcher] = []
        self.progress = Progress(self.hosts)
        self.rows: list[Row] = []
        self.errors: list[UserError] = []
        self.notes: list[str] = []
        self._stop = threading.Event()
        self._unknown: dict[str, list[str]] = {}  # name -> what each site says
        self._since = store.refreshing_since() if config.refresh else None

    def run(self, names: Sequence[str]) -> None:
        """All sites at once. A mistake or a refusal ends one of them, and is in `errors`."""
        bugs: list[Exception] = []

        def work(site: str) -> None:
            try:
                self._site(site, names)
            except UserError as error:
                self.errors.append(error)
            except Cancelled:
                pass
            except Exception as error:  # noqa: BLE001 raised below, in the thread of the caller
                if not self._stop.is_set():  # else the store is closed already
                    bugs.append(error)

        threads = [threading.Thread(target=work, args=(site,), daemon=True) for site in self.sites]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.5)  # without a limit Windows hears no Ctrl-C
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(STOPS_S / len(threads))
        if bugs:
            raise bugs[0]
        for said in self._unknown.values():
            if len(said) < len(self.sites):
                self.notes += said
            elif len(self.sites) > 1:  # one site alone has told it before it began
                self.errors.append(DataError("\n  ".join(["unknown artist:", *said])))

    def plan(self, names: Sequence[str]) -> Summary:
        """What a run would fetch, and for how long."""
        counts: Counter[str] = Counter()
        for site in self.sites:
            with ExitStack() as stack:
                way = self._way(site, stack)
                links, problems = way.find(names, self.config.letters)
                # A letter has hundreds of artists, whose pages would be fetched to be counted.
                plans = [way.plan(link, look=not self.config.letters) for link in links]
            known = [plan for plan in plans if plan]
            units, pages = (sum(column) for column in zip(*known, (0, 0), strict=True))
            unknown = len(plans) - len(known)
            per_artist = units / len(known) if known else darklyrics.ALBUMS_PER_ARTIST
            pages += round(unknown * (1 + per_artist))
            # Genius's pages come from two hosts in turn.
            seconds = pages * self._delay_s(site) * JITTER / (2 if site == "genius" else 1)
            about = "about " if unknown else ""
            albums = f"{about}{round(units + unknown * per_artist):,} "
            albums += "songs" if site == "genius" else "albums"
            print(
                f"{site}: {counted(len(links), 'artist')}, {albums}, {about}{pages:,} pages to "
                f"fetch, {duration(seconds)} at one every {self._delay_s(site):g} s"
            )
            if unknown:
                print(f"  {unknown:,} artists were not looked at: {per_artist:.1f} albums each")
            lost = [f"{row.artist}: {why}" for row in way.rows for _, why in row.failed]
            print("".join(f"  {line}\n" for line in [*problems.values(), *lost]), end="")
            counts.update(artists=len(links), pages=pages, minutes=round(seconds / 60))
        return Summary("crawl", raw_path(Path(folder(self.config))).parent, counts)

    def _site(self, site: str, names: Sequence[str]) -> None:
        with ExitStack() as stack:
            way = self._way(site, stack)
            way.rows = self.rows
            if site != "demo":
                every = f"one request every {self._delay_s(site):g} s or more"
                self.progress.say(f"looking for the artists on {site}, {every}")
            links, problems = way.find(names, self.config.letters)
            if problems and len(self.sites) == 1:
                raise DataError(
                    "\n  ".join(["unknown artists:", *problems.values()]),
                    mend="--artists with the site's spelling; --refresh if the site has grown",
                )
            for name, line in problems.items():
                self._unknown.setdefault(name, []).append(line)
            self.progress.artists(len(links))
            for link in links:
                way.artist(link)

    def _way(self, site: str, stack: ExitStack) -> Way:
        """The way through a site, over hosts that all sites share."""
        config = self.config
        shared: dict[str, Any] = {
            "source": site, "store": self.store, "progress": self.progress, "since": self._since,
            "retry_failed": config.retry_failed, "max_songs": config.max_songs,
        }  # fmt: skip
        if site == "genius":
            secret = needed_token(config)
            public = config.genius_public_api_root
            return Genius(
                **shared,
                token=secret,
                api=self._fetcher(site, genius.API, config.genius_api_root),
                web=self._fetcher(site, genius.WEB, config.genius_web_root),
                public_api=self._fetcher(site, genius.PUBLIC_API, public) if public else None,
            )
        if site == "demo":
            releases = [demo_site.read_release(path) for path in demo_site.songbook_files()]
            address = stack.enter_context(demo_site.serve(demo_site.site(releases)))
            # It costs nothing, and its songbook may have been edited.
            shared["since"] = now()
            return DarkLyrics(**shared, fetcher=self._fetcher(site, demo_site.SITE, address))
        if site == "gutenberg":
            works = [w for file in WORKS for w in gutenberg.works(file.read_text(encoding="utf-8"))]
            fetcher = self._fetcher(site, gutenberg.SITE, config.base_url)
            return Gutenberg(**shared, fetcher=fetcher, works=works)
        fetcher = self._fetcher(site, darklyrics.SITE, config.base_url)
        return DarkLyrics(**shared, fetcher=fetcher)

    def _fetcher(self, site: str, root: str, served_at: str | None) -> Fetcher:
        fetcher = Fetcher(
            root, served_at=served_at, delay_s=self._delay_s(site), hosts=self.hosts,
            sleep=self._sleep, say=self.progress.say,
        )  # fmt: skip
        self.fetchers.append(fetcher)
        return fetcher

    def _delay_s(self, site: str) -> float:
        return DELAY_S[site] if self.config.delay_s is None else self.config.delay_s

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Cancelled


# --- own files and the counts ---------------------------------------------------------------------


def _crawl_files(config: CrawlConfig, store: CrawlStore, report: list[dict[str, Any]]) -> list[Row]:
    assert config.path is not None  # problems() saw to it
    path = Path(config.path)
    rows: dict[str, Row] = {}
    seen: set[str] = set()
    for file, found in read_files(
        path, folder(config), dict(pair.split("=", 1) for pair in config.columns)
    ):
        if isinstance(found, str):
            report.append({"file": str(file), "refused": found})
            continue
        report.append({"file": str(file), "songs": len(found.songs), "read_as": found.how})
        taken = []
        for song in found.songs:
            artist = song.artist or "unknown"
            row = rows.setdefault(artist, Row("files", artist))
            if config.max_songs is None or row.songs["song"] < config.max_songs:
                row.songs[song.kind] += 1
                taken.append(song)
        for song in store.put_songs(taken):
            rows[song.artist or "unknown"].new += 1
        seen |= {song.id for song in taken}
    refused = [f"  refused {row['file']}: {row['refused']}" for row in report if "refused" in row]
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


def _counts(rows: Sequence[Row]) -> dict[str, Any]:
    """The totals of the table."""
    kinds = sum((row.songs for row in rows), Counter[str]())
    skipped = sum((Counter(row.skipped()) for row in rows), Counter[str]())
    counts: dict[str, Any] = {
        "artists": len(rows),
        "songs": kinds["song"],
        **dict(sorted(skipped.items())),
        "new": sum(row.new for row in rows),
    }
    if failed := sum(len(row.failed) for row in rows):
        counts["failed"] = failed
    return counts


if __name__ == "__main__":
    sys.exit(program(main, CrawlConfig))
