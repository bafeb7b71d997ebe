"""The ways through the sites: from names of artists to their songs, and what of them is here.

    DarkLyrics   home ─ letter ─ artist ─ album (all its songs on one page)
    Genius       search ─ artist ─ lists of songs ─ song (API) ─ its page
    Gutenberg    list of works ─ book (all its poems in one text)

Every page comes from the store where it is in there. What an address gave is stored with it, so an
artist who is done costs a look into the store and no parsing.
"""

import abc
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args
from urllib.parse import urlencode, urljoin, urlsplit

from backend.data.song import Kind, Song
from backend.errors import Blocked, Gone, HostStopped, NetworkError, PageError
from backend.scrapers import darklyrics, genius, gutenberg
from backend.scrapers.encoding import page_text
from backend.scrapers.fetch import Fetcher, Page
from backend.scrapers.names import Link, matching, nearest, plain
from backend.scrapers.progress import Progress, Row
from backend.scrapers.store import CrawlStore, Outcome, State

GIVEN_UP = 3  # runs in which a page failed; after that only --retry_failed asks for it
PER_PAGE = 50  # songs in a list of Genius's, the most it gives
KINDS = get_args(Kind)
LAST_LIST = 1000  # nobody has 50,000 songs: a list that goes on longer has no end


Problems = dict[str, str]
Links = list[tuple[Link, Outcome | None]]
Read = tuple[Sequence[Link], Sequence[Song], Mapping[str, int]]  # what an answer holds, found


@dataclass
class Way(abc.ABC):
    """What both ways share: which pages are asked for, and how a failure is remembered.

    Args:
        since: pages that were checked before are asked for again; None asks for none again.
        retry_failed: also for those that failed in three runs, or were gone.
        max_songs: per artist; rows that are no songs do not count.
    """

    source: str
    store: CrawlStore
    progress: Progress
    since: str | None = None
    retry_failed: bool = False
    max_songs: int | None = None
    rows: list[Row] = field(default_factory=list)
    noted: set[str] = field(default_factory=set)  # addresses that failed in this run

    @abc.abstractmethod
    def find(self, names: Sequence[str], letters: Sequence[str]) -> tuple[list[Link], Problems]:
        """Artists of these names, and a sentence on each name that is not one artist's."""

    @abc.abstractmethod
    def artist(self, link: Link) -> None:
        """All songs of an artist, into the store; the row is in `rows` from the start."""

    @abc.abstractmethod
    def plan(self, link: Link, look: bool) -> tuple[int, int] | None:
        """(albums or songs, pages still to be fetched) of an artist; None where that is not known
        and `look`, leave to fetch what leads to them, is not given."""

    def _taken(self, outcome: Outcome | None) -> bool:
        """Is all of this address in the store, and recent enough?"""
        return outcome is not None and outcome.found is not None and self._recent(outcome)

    def _recent(self, outcome: Outcome) -> bool:
        return self.since is None or outcome.checked_at >= self.since

    def _page(
        self, url: str, fetcher: Fetcher, headers: Mapping[str, str] | None = None
    ) -> tuple[Page, bool]:
        """A page, and whether it is new; from the store where that is what is asked for.

        Raises:
            NetworkError: as the fetcher, or as before for a page that is not asked for again.
        """
        outcome, stored = self.store.outcome(url), self.store.page(url)
        well = outcome is None or outcome.state == "done"
        if outcome and not well and not self.retry_failed and self._recent(outcome):
            if outcome.state == "gone":
                raise KnownGone(outcome.reason or url)
            if outcome.attempts >= GIVEN_UP:
                raise GivenUp(f"{outcome.reason} (in {outcome.attempts} runs)")
        if stored and well and (outcome is None or self._recent(outcome)):
            return stored, False
        page = fetcher.get(url, headers=headers, known=stored if well else None)
        self.progress.fetched()
        if stored and page.body == stored.body:  # it says so, or it is
            self.store.unchanged(url)
            return stored, False
        return page, True

    def _links(
        self, url: str, fetcher: Fetcher, parse: Callable[[bytes, str], Iterable[Link]]
    ) -> Links:
        """Where a page leads."""
        outcome = self.store.outcome(url)
        if not self._taken(outcome):
            page, fetched = self._page(url, fetcher)
            if fetched or outcome is None or outcome.found is None:
                try:
                    links = [Link(link.name, fetcher.own(link.url))
                             for link in parse(page.body, page.url)]  # fmt: skip
                    links = [link for link in links if link.url.startswith(fetcher.site)]
                except PageError as error:
                    self._remember(url, error, page)
                    raise
                self.store.put(page, fetched=fetched, links=links, found={})
        return self.store.links(url)

    def _failed(self, row: Row, url: str, error: NetworkError, page: Page | None = None) -> None:
        """An address gave nothing: why stands in the store and in the artist's row.

        Raises:
            HostStopped: the error was one; nothing more is asked of that host.
        """
        self._remember(url, error, page)
        if isinstance(error, Gone):
            row.gone += 1
        else:
            row.failed.append((url, error.what))
        if isinstance(error, HostStopped):
            raise error

    def _remember(self, url: str, error: NetworkError, page: Page | None = None) -> None:
        """Once a run, and not what was only looked up."""
        if url in self.noted or isinstance(error, KnownGone | GivenUp):
            return
        self.noted.add(url)
        state: State = "failed"
        if isinstance(error, Gone | Blocked):
            state = "gone" if isinstance(error, Gone) else "blocked"
        self.store.fail(url, state, error.what, page)

    def _full(self, row: Row) -> bool:
        return self.max_songs is not None and row.songs["song"] >= self.max_songs

    def _add(self, row: Row, found: Mapping[str, int]) -> None:
        for what, n in found.items():
            if what in KINDS:
                row.songs[what] += n
        row.others += found.get("of others", 0)


class GivenUp(PageError):
    """A page that failed in run after run, and is not asked for any more."""


class KnownGone(Gone):
    """A page that was not there in an earlier run."""


# --- DarkLyrics -----------------------------------------------------------------------------------


@dataclass
class DarkLyrics(Way):
    """Also the demo site, which has its shape."""

    fetcher: Fetcher = field(kw_only=True)

    def find(self, names: Sequence[str], letters: Sequence[str]) -> tuple[list[Link], Problems]:
        home = urljoin(self.fetcher.site, darklyrics.HOME)
        index = {
            link.name: link.url
            for link, _ in self._links(home, self.fetcher, lambda body, url: [
                Link(*pair) for pair in darklyrics.parse_home(body, url).items()
            ])
        }  # fmt: skip
        problems: Problems = {}
        found: dict[str, Link] = {}
        lists: dict[str, list[Link]] = {}  # letter -> its artists
        lost: dict[str, str] = {}  # letter -> why it could not be had, which costs no other

        def artists_of(letter: str) -> list[Link]:
            if letter not in lists:
                url, lists[letter] = index[letter], []
                try:
                    links = self._links(url, self.fetcher, darklyrics.parse_index)
                    lists[letter] = [link for link, _ in links]
                except NetworkError as error:
                    lost[letter] = error.what
                    row = Row(self.source, f"letter {letter}", url)
                    self.rows.append(row)
                    self._failed(row, url, error)
            return lists[letter]

        for letter in [*index] if "all" in letters or not (names or letters) else letters:
            if letter in index:
                found |= {link.url: link for link in artists_of(letter)}
            else:
                problems[letter] = f"{self.fetcher.site} has no letter {letter!r}"
        for name in names:
            if name.startswith(("http://", "https://")):  # chosen by its address
                url = darklyrics.WWW.sub(darklyrics.SITE, self.fetcher.own(name))
                stem = urlsplit(url).path.rpartition("/")[2].removesuffix(".html")
                found.setdefault(url, Link(stem, url))
                continue
            links: list[Link] = []
            seen: list[Link] = []
            looked_at = likely(name, [*index])
            for letter in looked_at:
                seen += artists_of(letter)
                if links := matching(name, seen):
                    break
            if len(links) == 1:
                found |= {link.url: link for link in links}
            elif not links and (missing := [lost[x] for x in looked_at if x in lost]):
                problems[name] = f"{name!r} could not be looked up: {missing[0]}"
            else:
                near = nearest(name, seen)
                problems[name] = _which(name, links, near, self.fetcher.site)
        return list(found.values()), problems

    def artist(self, link: Link) -> None:
        row = Row(self.source, link.name, link.url)
        self.rows.append(row)
        self.progress.artist()
        try:
            albums = self._links(link.url, self.fetcher, darklyrics.parse_artist)
        except NetworkError as error:
            self._failed(row, link.url, error)
            return
        self.progress.expect(sum(not self._taken(outcome) for _, outcome in albums))
        for album, outcome in albums:
            if self._full(row):
                break
            if outcome and outcome.found is not None and self._taken(outcome):
                self._add(row, outcome.found)
                continue
            page = None
            try:
                page, fetched = self._page(album.url, self.fetcher)
                if outcome and outcome.found is not None and not fetched:  # it is as it was
                    self._add(row, outcome.found)
                    continue
                songs = darklyrics.parse_album(
                    page.body, page.url, source=self.source, fetched_at=page.fetched_at
                )
            except NetworkError as error:
                self._failed(row, album.url, error, page)
                continue
            taken: list[Song] = []
            for song in songs:
                if not self._full(row):
                    taken.append(song)
                    row.songs[song.kind] += 1
            whole = len(taken) == len(songs)
            found = Counter[str](song.kind for song in taken) if whole else None
            row.new += self.store.put(page, taken, fetched=fetched, found=found)
            self.progress.songs(len(taken))
        if row.new:
            self.store.write_views()

    def plan(self, link: Link, look: bool) -> tuple[int, int] | None:
        if not (look or self._taken(self.store.outcome(link.url))):
            return None
        albums = self._links(link.url, self.fetcher, darklyrics.parse_artist)
        return len(albums), sum(not self._taken(outcome) for _, outcome in albums)


def likely(name: str, letters: Sequence[str]) -> list[str]:
    """Letter pages where the site may list a name, in the order to look: digits share one, a "The"
    counts or does not, and a name that begins with no letter of ours may stand anywhere.

    >>> likely("The Absence", ["a", "t", "z"]), likely("1349", ["a", "19"])
    (['a', 't'], ['19'])
    """
    first = "19" if plain(name)[:1].isdigit() else plain(name)[:1]
    order = dict.fromkeys([first, "t"] if first in letters else letters)
    return [letter for letter in order if letter in letters]


def _which(name: str, links: Sequence[Link], near: Sequence[str], site: str) -> str:
    """Why a name is no artist."""
    if links:
        choices = "".join(f"\n    {link.name}  {link.url}" for link in links)
        return (
            f"{name!r} could be {len(links)} artists; name one in full or by its address:{choices}"
        )
    return f"{name!r} is not on {site}" + (
        f"; nearest: {', '.join(map(repr, near))}" if near else ""
    )


# --- Project Gutenberg ----------------------------------------------------------------------------


@dataclass
class Gutenberg(Way):
    """A book counts as an artist does; names are those of authors or of books."""

    fetcher: Fetcher = field(kw_only=True)
    works: Sequence[gutenberg.Work] = field(kw_only=True)

    def find(self, names: Sequence[str], letters: Sequence[str]) -> tuple[list[Link], Problems]:
        books = [Link(work.title, work.url) for work in self.works]
        known = books + [Link(work.author, work.url) for work in self.works]
        found = {name: matching(name, known) for name in names}
        problems = {
            name: _which(name, (), nearest(name, known), "the list of works")
            for name, links in found.items()
            if not links
        }
        asked = {link.url for links in found.values() for link in links}
        return [book for book in books if not names or book.url in asked], problems

    def artist(self, link: Link) -> None:
        row = Row(self.source, link.name, link.url)
        self.rows.append(row)
        self.progress.artist()
        outcome = self.store.outcome(link.url)
        if outcome and outcome.found is not None and self._taken(outcome):
            self._add(row, outcome.found)
            return
        self.progress.expect(1)
        try:
            page, fetched = self._page(link.url, self.fetcher)
        except NetworkError as error:
            self._failed(row, link.url, error)
            return
        work = next(work for work in self.works if work.url == link.url)
        songs = gutenberg.songs(page_text(page.body), work, page.fetched_at)[: self.max_songs]
        found = {"song": len(songs)}
        self._add(row, found)
        row.new += self.store.put(
            page, songs, fetched=fetched, found=found if self.max_songs is None else None
        )
        self.progress.songs(len(songs))
        self.store.write_views()

    def plan(self, link: Link, look: bool) -> tuple[int, int] | None:
        return 1, int(not self._taken(self.store.outcome(link.url)))


# --- Genius ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What lyricsgenius reads of a response."""

    text: str
    status_code: int = 200

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Genius(Way):
    """The developer API through lyricsgenius, whose requests go our way; pages by ourselves.

    A song is done when its record is stored under the API's address of it. Before that stand two
    pages, the API's and the site's, each stored as it comes.
    """

    token: str = field(kw_only=True, repr=False)
    api: Fetcher = field(kw_only=True)
    web: Fetcher = field(kw_only=True)
    public_api: Fetcher | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        import lyricsgenius  # 0.3 s that other sources need not pay

        self._calls: Any = lyricsgenius.Genius(self.token, sleep_time=0, retries=0)
        self._calls._session = self  # it calls `request`, here below, and nothing else
        self._came: tuple[Page, bool] | None = None
        self._asked = ""

    def request(
        self, method: str, url: str, *, params: Mapping[str, Any], headers: Any, **_: Any
    ) -> Answer:
        """lyricsgenius asks: the stored answer, or a polite request.

        Raises:
            NetworkError: as `_page`. PageError: the answer is no object of JSON.
        """
        url = address(url, params)
        fetcher = self.public_api if url.startswith(genius.PUBLIC_API) else self.api
        assert method == "GET" and fetcher is not None  # the calls below are all there are
        self._asked, self._came = url, None
        self._came = self._page(url, fetcher, headers)
        text = self._came[0].body.decode("utf-8", "replace")
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("response"), dict):
            raise PageError(f"{url} is no answer of Genius's API", "it is no JSON of its shape")
        return Answer(text)

    def find(self, names: Sequence[str], letters: Sequence[str]) -> tuple[list[Link], Problems]:
        found: dict[str, Link] = {}
        problems: Problems = {}
        path = f"{genius.PUBLIC_API}search/artist" if self.public_api else f"{genius.API}search"
        call = self._calls.search_artists if self.public_api else self._calls.search_songs
        for name in names:
            if genius.artist_id(name):  # chosen by its address
                found.setdefault(name, Link(name, name))
                continue
            row = Row(self.source, name)
            known: list[Link] = []
            for page in (1, 2):  # a name that many others quote stands further down
                params = {"q": name, "page": page} if page > 1 else {"q": name}
                links, _ = self._read(
                    row, address(path, params),
                    partial(call, name, page=page if page > 1 else None),
                    lambda answer, at: (genius.artists_of(answer), [], {}),
                )  # fmt: skip
                known += [link for link, _ in links]
                if row.failed or not links or matching(name, known):
                    break
            chosen = matching(name, known)
            if row.failed:
                self.rows.append(row)
            elif len(chosen) == 1:
                found |= {link.url: link for link in chosen}
            else:
                problems[name] = _which(name, chosen, nearest(name, known), "Genius")
        return list(found.values()), problems

    def artist(self, link: Link) -> None:
        row = Row(self.source, link.name, link.url)
        self.rows.append(row)
        self.progress.artist()
        for song, outcome in self._songs(row, link):
            if self._full(row):
                break
            if outcome and outcome.found is not None and self._taken(outcome):
                self._add(row, outcome.found)
            else:
                self._song(row, song)
        if row.new:
            self.store.write_views()

    def plan(self, link: Link, look: bool) -> tuple[int, int] | None:
        songs = list(itertools.islice(self._songs(Row(self.source, link.name), link),
                                      self.max_songs))  # fmt: skip
        return len(songs), 2 * sum(not self._taken(outcome) for _, outcome in songs)

    def _songs(self, row: Row, link: Link) -> Iterator[tuple[Link, Outcome | None]]:
        """Songs of an artist that their page must say more of; the row counts the others."""
        artist = genius.artist_id(link.url)
        # By title the lists do not move while we read; the most popular where that decides.
        sort = "title" if self.max_songs is None else "popularity"
        seen: set[str] = set()
        number = 1
        while number:
            params = {"page": number, "per_page": PER_PAGE, "sort": sort}
            url = address(f"{link.url}/songs", params)
            songs, found = self._read(
                row, url,
                partial(self._calls.artist_songs, artist, **params),
                lambda answer, at: _listed(answer, artist, at),
            )  # fmt: skip
            self._add(row, found)
            fresh = {song.url: (song, outcome) for song, outcome in songs if song.url not in seen}
            if (songs and not fresh) or number > LAST_LIST:
                error = PageError(f"{url} repeats what came before; the list is not read further")
                self._failed(row, url, error)
                return
            seen |= fresh.keys()
            self.progress.expect(2 * sum(not self._taken(o) for _, o in fresh.values()))
            yield from fresh.values()
            number = found.get("next page", 0)

    def _read(
        self, row: Row, url: str, call: Callable[[], Any], read: Callable[[Any, str], Read]
    ) -> tuple[Links, Mapping[str, int]]:
        """Where an answer of the API leads, and what it gave; nothing, and the row says why."""
        outcome = self.store.outcome(url)
        if not self._taken(outcome):
            try:
                answer = call()
                assert self._came is not None
                page, fetched = self._came
                if fetched or outcome is None or outcome.found is None:
                    links, songs, found = read(answer, page.fetched_at)
                    row.new += self.store.put(
                        page, songs, fetched=fetched, unit=url, links=links, found=found
                    )
            except NetworkError as error:
                self._failed(row, self._asked, error, self._came[0] if self._came else None)
                return [], {}
            outcome = self.store.outcome(url)
        assert outcome is not None
        return self.store.links(url), outcome.found or {}

    def _song(self, row: Row, link: Link) -> None:
        """One song: what the API says of it, and the text on its page."""
        at, page, fetched = "", None, False
        try:
            song = genius.song_in(self._calls.song(int(link.url.rpartition("/")[2])))
            assert self._came is not None
            page, fetched = self._came
            kind, lyrics = genius.kind_of(song), None
            if kind == "song":
                if fetched:  # it is here, whatever becomes of the other
                    self.store.put(page, fetched=True)
                at, page = genius.page_url(song), None
                page, fetched = self._page(at, self.web)
                kind, lyrics = genius.parse_page(page.body, at)
        except NetworkError as error:
            if not at:
                at, page = self._asked, self._came[0] if self._came else None
            self._failed(row, at, error, page)
            return
        record = genius.song_of(song, kind=kind, lyrics=lyrics, fetched_at=page.fetched_at)
        row.new += self.store.put(
            page, [record], fetched=fetched, unit=link.url, found={record.kind: 1}
        )
        row.songs[record.kind] += 1
        self.progress.songs(1)


def address(url: str, params: Mapping[str, Any]) -> str:
    """A call's address, the same whatever order its parameters came in."""
    given = {key: value for key, value in sorted(params.items()) if value is not None}
    return f"{url}?{urlencode(given)}" if given else url


def _listed(answer: Mapping[str, Any], artist: int | None, at: str) -> Read:
    """A list of songs: those to look at, and records of those that the list says enough of."""
    assert artist is not None
    listed = genius.listed(answer, artist)
    links, songs = [], []
    for song in listed.songs:
        if (kind := genius.kind_of(song)) == "song":
            links.append(genius.link(song))
        else:
            genius.link(song)  # without an id it is no song of the API's
            songs.append(genius.song_of(song, kind=kind, lyrics=None, fetched_at=at))
    found = Counter({"of others": listed.others, "next page": listed.next_page or 0})
    found.update(song.kind for song in songs)
    return links, songs, {key: n for key, n in found.items() if n}
