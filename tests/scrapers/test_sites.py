"""Whole sites, from a local server: Genius's shape, letters, several sources, kill -9, dry runs."""

import collections
import functools
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest

from backend.config.loader import program
from backend.config.schema import CrawlConfig
from backend.data.song import SONGS_TABLE, Song, put_song, read_raw, song_id
from backend.errors import ConfigError, DataError, NetworkError, UserError
from backend.scrapers import crawl, darklyrics, demo_site, genius
from backend.scrapers.crawl import chosen, folder, main
from backend.scrapers.demo_site import Release
from backend.scrapers.fetch import Fetcher
from backend.scrapers.store import CrawlStore, now
from backend.storage import alone

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s3cret-Token_x"
SONGBOOK = [demo_site.read_release(path) for path in demo_site.songbook_files()]
ARTISTS = sorted({release.artist for release in SONGBOOK})
TEXTS = {(r.artist, title): text for r in SONGBOOK for title, text in r.songs}


def by(*artists):
    """How many songs of the songbook these have."""
    return sum(artist in artists for artist, _ in TEXTS)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch, tmp_path):
    """Retries wait milliseconds here; no .env of the developer's own."""
    monkeypatch.setattr(crawl, "Fetcher", functools.partial(Fetcher, backoff_s=0.001))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def site(server):
    """Both shapes of the songbook on one server; scripts of a test come first."""

    def build(releases=SONGBOOK):
        server.page = demo_site.site(list(releases), darklyrics.SITE)
        return server

    return build


@pytest.fixture
def run(server, tmp_path):
    def start(*names, source=("genius",), **how):
        how = {
            "delay_s": 0.0, "data_dir": str(tmp_path / "data"), "base_url": server.address,
            "genius_api_root": f"{server.address}api/", "user_token": SECRET,
            "genius_web_root": f"{server.address}genius",
        } | how  # fmt: skip
        return main(CrawlConfig(source=source, artists=names, **how))

    return start


def stored(tmp_path):
    try:
        return list(read_raw(tmp_path / "data"))
    except DataError:
        return []


def report(tmp_path):
    return json.loads((tmp_path / "data" / "raw" / "crawl.json").read_text(encoding="utf-8"))


# --- Genius --------------------------------------------------------------------------------------


def test_genius_gives_every_song_of_its_artists_exactly_and_nothing_is_asked_twice(
    tmp_path, site, run
):
    server = site()
    summary = run(*ARTISTS)
    found = {(s.artist, s.title): s.lyrics or "[Instrumental]" for s in stored(tmp_path)}
    assert found == TEXTS
    assert max(collections.Counter(server.paths()).values()) == 1
    assert (summary.counts["songs"], summary.counts["instrumental"]) == (len(TEXTS) - 1, 1)
    song = next(s for s in stored(tmp_path) if s.artist == "Gravenwick")
    assert song.source == "genius"
    assert song.url.startswith("https://genius.com/Gravenwick-")
    assert song.id == song_id("genius", re.search(r"-(\d+)-lyrics$", song.url)[1])
    assert (song.album, song.language) != (None, None)
    assert {path.split("?")[0].split("/")[1] for path in server.paths()} == {"api", "genius"}
    server.forget()
    assert run(*ARTISTS).skipped
    assert run(*ARTISTS, force=True).counts["new"] == 0
    assert server.asked == []


def test_the_token_is_sent_to_the_api_alone_and_shown_nowhere(tmp_path, site, run, capsys):
    server = site()
    run("Gravenwick")
    for asked in server.asked:
        is_api = asked.path.startswith("/api/")
        sent = asked.headers.get("Authorization", asked.headers.get("authorization"))
        assert sent == (f"Bearer {SECRET}" if is_api else None), asked.path
    config = CrawlConfig(artists=("A",), user_token=SECRET, origins={"user_token": "command line"})
    shown = f"{config!r} {config.as_dict()} {config.shown()} {capsys.readouterr()}"
    files = b"".join(p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file())
    assert SECRET not in shown
    assert SECRET.encode() not in files


def test_a_token_that_is_missing_or_wrong_is_told_and_never_shown(tmp_path, site, run, capsys):
    with pytest.raises(ConfigError, match="needs a token") as caught:
        run("Gravenwick", user_token=None)
    assert "https://genius.com/api-clients" in caught.value.mend
    (tmp_path / ".env").write_text(f"GENIUS_ACCESS_TOKEN='{SECRET}'\n")
    server = site()
    server.answer("/api/search?q=Gravenwick", json.dumps({"error": "invalid_token"}), status=401)
    arguments = ["--source=genius", "--artists", "Gravenwick", "--data_dir=data", "--delay_s=0",
                 f"--genius_api_root={server.address}api/",
                 f"--genius_web_root={server.address}"]  # fmt: skip
    assert program(main, CrawlConfig, arguments) == 2
    said = capsys.readouterr()
    assert "does not accept the token (401)" in said.err
    assert SECRET not in said.out + said.err
    for odd in ("two words", "ümlaut", "a\nb"):
        assert program(main, CrawlConfig, [*arguments, f"--user_token={odd}"]) == 2
        (tmp_path / ".env").write_text(f"GENIUS_ACCESS_TOKEN='{odd}'\n", encoding="utf-8")
        assert program(main, CrawlConfig, arguments) == 2
        said = capsys.readouterr().err
        assert "is no token" in said
        assert odd not in said
    assert [asked.path for asked in server.asked] == ["/robots.txt", "/api/search?q=Gravenwick"]


def test_max_songs_of_genius_are_the_most_popular_and_what_is_no_song_does_not_count(
    tmp_path, site, run
):
    server = site()
    run("Gravenwick", max_songs=2)
    assert collections.Counter(s.kind for s in stored(tmp_path))["song"] == 2
    assert sum(path.startswith("/genius/") for path in server.paths()) == 2
    assert any("sort=popularity" in path for path in server.paths())
    run("Gravenwick")
    assert len(stored(tmp_path)) == by("Gravenwick")


def api(server, path, **response):
    body = json.dumps({"meta": {"status": 200}, "response": response})
    return server.answer(f"/api/{path}", body)


def brief(key, title="Tam", artist=7, **how):
    by = {"id": artist, "name": "Robert Burns"}
    return {"id": key, "title": title, "primary_artist": by, "lyrics_state": "complete",
            "url": f"https://genius.com/R-{key}-lyrics"} | how  # fmt: skip


def one_artist(server, *songs, next_page=None):
    api(server, "search?q=Robert+Burns", hits=[{"result": brief(1)}])
    api(server, "artists/7/songs?page=1&per_page=50&sort=title", songs=songs, next_page=next_page)
    for song in songs:
        api(server, f"songs/{song['id']}?text_format=plain", song=song)
        server.answer(
            f"/genius/R-{song['id']}-lyrics",
            f"<div data-lyrics-container='true'>Wee beastie {song['id']}</div>",
        )
    return server


def test_every_row_says_what_it_is_and_costs_no_more_requests_than_it_needs(server, run, tmp_path):
    live = [{"relationship_type": "live_version_of", "songs": [{"title": "Tam"}]}]
    one_artist(
        server, brief(1), brief(2, instrumental=True), brief(3, lyrics_state="unreleased"),
        brief(4, url="https://genius.com/Genius-releases-annotated"), brief(5, "Tam (Skit)"),
        brief(6, "Tam (Live)", song_relationships=live), brief(8, artist=9), brief(9),
    )  # fmt: skip
    server.scripts["/genius/R-9-lyrics"].clear()
    server.answer("/genius/R-9-lyrics", '<div id="lyrics-root">Lyrics for this song have yet to be '
                  "released. Please check back once the song has been released.</div>")  # fmt: skip
    summary = run("Robert Burns")
    kinds = {int(re.search(r"\d+", s.url)[0]) if "R-" in s.url else 4: s.kind
             for s in stored(tmp_path)}  # fmt: skip
    assert kinds == {1: "song", 2: "instrumental", 3: "unreleased", 4: "nonsong", 5: "nonsong",
                     6: "song", 9: "unreleased"}  # fmt: skip
    assert {s.version_of for s in stored(tmp_path)} == {None, "live: Tam"}
    (row,) = report(tmp_path)["artists"]
    assert row["skipped"] == {"instrumental": 1, "nonsong": 2, "unreleased": 2, "of others": 1}
    assert (row["found"], row["songs"], row["new"]) == (7, 2, 7)
    assert summary.counts["unreleased"] == 2
    assert not [path for path in server.paths() if re.search(r"(songs/|R-)[2348]\b", path)]


def test_lists_in_pages_are_read_to_their_end_and_one_that_repeats_is_told(server, run, tmp_path):
    one_artist(server, brief(1), brief(2), next_page=2)
    api(server, "artists/7/songs?page=2&per_page=50&sort=title",
        songs=[brief(2), brief(3)], next_page=3)  # fmt: skip
    api(server, "songs/3?text_format=plain", song=brief(3))
    server.answer("/genius/R-3-lyrics", "<div class='lyrics'>three</div>")
    api(server, "artists/7/songs?page=3&per_page=50&sort=title",
        songs=[brief(2), brief(3)], next_page=4)  # fmt: skip
    summary = run("Robert Burns")
    assert len(stored(tmp_path)) == summary.counts["songs"] == 3
    assert "repeats what came before" in report(tmp_path)["artists"][0]["failed"][0]["why"]
    assert not [path for path in server.paths() if "page=4" in path]


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/genius/R-1-lyrics", "<html>new layout</html>", "shows no lyrics"),
        ("/genius/R-1-lyrics", "<title>Just a moment...</title>", "refuses us"),
        ("/api/songs/1?text_format=plain", "<html>oops</html>", "no answer of Genius's API"),
        ("/api/songs/1?text_format=plain", '{"response": []}', "no answer of Genius's API"),
        ("/api/songs/1?text_format=plain", '{"response": {"song": {"title": "x"}}}', "has no id"),
        ("/api/artists/7/songs?page=1&per_page=50&sort=title", '{"response": {}}', "no songs"),
        ("/api/search?q=Robert+Burns", '{"error": "x"}', "no answer of Genius's API"),
    ],
)  # fmt: skip
def test_an_odd_answer_is_a_failure_with_its_page_kept_and_the_rest_goes_on(
    server, run, tmp_path, path, body, why
):
    one_artist(server, brief(1), brief(2))
    good = server.scripts[path][0]
    server.scripts[path][:] = []
    server.answer(path, body).answer(path, good.body)
    try:
        run("Robert Burns")
    except NetworkError as error:
        assert why in str(error)  # nothing at all was found
    else:
        assert why in report(tmp_path)["artists"][0]["failed"][0]["why"]
        assert {s.lyrics for s in stored(tmp_path)} == {"Wee beastie 2"}
    server.forget()
    run("Robert Burns")
    assert {s.lyrics for s in stored(tmp_path)} == {"Wee beastie 1", "Wee beastie 2"}
    assert server.paths()[0] == path


def test_two_artists_of_one_name_are_asked_about_and_no_match_names_the_nearest(
    server, run, tmp_path
):
    api(server, "search?q=Burns", hits=[
        {"result": brief(1, primary_artist={"id": key, "name": name})}
        for key, name in [(1, "BURNS"), (2, "Bürns"), (3, "Genius Traducciones al Español")]
    ])  # fmt: skip
    with pytest.raises(DataError, match=r"BURNS  https://api\.genius\.com/artists/1\n") as caught:
        run("Burns")
    assert "Bürns  https://api.genius.com/artists/2" in caught.value.what
    api(server, "search?q=Brns", hits=[{"result": brief(1, primary_artist={"id": 1, "name": "BURNS"}
                                                        )}])  # fmt: skip
    api(server, "search?page=2&q=Brns", hits=[])
    with pytest.raises(DataError, match="nearest: 'BURNS'"):
        run("Brns")
    api(server, "artists/2/songs?page=1&per_page=50&sort=title", songs=[], next_page=None)
    assert run("https://api.genius.com/artists/2").counts["artists"] == 1


def test_the_public_api_is_used_only_when_given(server, run, tmp_path):
    one_artist(server, brief(1))
    server.answer("/pub/search/artist?q=Robert+Burns", json.dumps({"response": {"sections": [
        {"hits": [{"result": {"id": 7, "name": "Robert Burns"}}]}]}}))  # fmt: skip
    run("Robert Burns")
    assert not [path for path in server.paths() if path.startswith("/pub")]
    run("Robert Burns", data_dir=str(tmp_path / "b"),
        genius_public_api_root=f"{server.address}pub/")  # fmt: skip
    asked = [a for a in server.asked if a.path.startswith("/pub")]
    assert len(asked) == 1
    assert "authorization" not in {key.lower() for key in asked[0].headers}


# --- several sources -----------------------------------------------------------------------------


def test_a_blocked_source_stops_and_the_other_goes_on(tmp_path, site, run, capsys):
    server = site()
    blocked = "<title>Attention Required! | Cloudflare</title>"
    rap = server.page
    server.page = lambda path: blocked if path.startswith("/genius/") else rap(path)
    summary = run(*ARTISTS, source=("genius", "darklyrics"))
    assert {s.source for s in stored(tmp_path) if s.kind == "song"} == {"darklyrics"}
    assert collections.Counter(s.source for s in stored(tmp_path))["darklyrics"] == len(TEXTS)
    assert any("stopped asking genius.com" in note for note in summary.notes)
    assert "stopped asking genius.com" in capsys.readouterr().out
    assert not (tmp_path / "data" / "raw" / "crawl.manifest.json").exists()
    assert sum(path.startswith("/genius/") for path in server.paths()) == 3


def test_an_artist_whom_one_source_lacks_is_noted_and_one_whom_all_lack_is_an_error(
    tmp_path, site, run
):
    server = site()
    server.page = lambda path, page=server.page: None if path == "/g.html" else page(path)
    server.answer("/g.html", '<div class="artists fl"></div>')
    summary = run("Gravenwick", "Neonfähre", source=("genius", "darklyrics"))
    assert any("'Gravenwick' is not on http://www.darklyrics.com/" in n for n in summary.notes)
    found = collections.Counter((s.source, s.artist) for s in stored(tmp_path))
    assert found == {("genius", "Gravenwick"): by("Gravenwick"),
                     ("genius", "Neonfähre"): by("Neonfähre"),
                     ("darklyrics", "Neonfähre"): by("Neonfähre")}  # fmt: skip
    both = ("genius", "darklyrics")
    summary = run("Nobody At All", "Neonfähre", source=both)
    assert any("'Nobody At All' is not on Genius" in note for note in summary.notes)
    with pytest.raises(DataError, match="unknown artist"):
        run("Nobody At All", source=both, data_dir=str(tmp_path / "none"))


def test_without_a_source_the_token_decides_and_it_says_why(monkeypatch, tmp_path):
    config = CrawlConfig(artists=("X",))
    assert chosen(config) == (("darklyrics",), "no token for genius is set (GENIUS_ACCESS_TOKEN)")
    assert folder(config) == Path("data/darklyrics")
    (tmp_path / ".env").write_text("GENIUS_ACCESS_TOKEN=abc\n")
    assert chosen(config) == (("genius",), "a token is set (GENIUS_ACCESS_TOKEN in .env)")
    assert folder(config) == Path("data/lyrics")
    monkeypatch.setenv("GENIUS_ACCESS_TOKEN", "   ")
    assert chosen(config)[0] == ("genius",)  # an empty one is none
    assert chosen(CrawlConfig(letters=("a",)))[0] == ("darklyrics",)
    assert chosen(CrawlConfig(artists=("X",), base_url="http://127.0.0.1/"))[0] == ("darklyrics",)


# --- letters, dry runs, mirrors ------------------------------------------------------------------


def test_letters_take_whole_index_pages_and_all_the_whole_site(tmp_path, site, run):
    server = site()
    run(source=("darklyrics",), letters=("19", "g"))
    assert {s.artist for s in stored(tmp_path)} == {"7 Winters Deep", "Gravenwick"}
    server.forget()
    summary = run(source=("darklyrics",), letters=("all",))
    assert len(stored(tmp_path)) == len(TEXTS)
    assert summary.counts["artists"] == len(ARTISTS)
    assert not {"/index.html", "/19.html", "/7/7wintersdeep.html"} & set(server.paths())


def test_a_letter_that_fails_costs_no_other(tmp_path, site, run):
    server = site()
    server.answer("/g.html", "<html>under construction</html>")
    summary = run(source=("darklyrics",), letters=("g", "n"))
    assert {s.artist for s in stored(tmp_path)} == {"Neonfähre"}
    assert summary.counts["failed"] == 1
    with pytest.raises(DataError, match="'Gravenwick' could not be looked up: .* shows no artists"):
        run("Gravenwick", source=("darklyrics",))


def test_a_dry_run_says_what_it_would_fetch_and_for_how_long(tmp_path, site, run, capsys):
    server = site()
    run("Gravenwick", "Neonfähre", source=("darklyrics",), dry_run=True, delay_s=0.01)
    said = capsys.readouterr().out
    albums = sum(release.artist in ("Gravenwick", "Neonfähre") for release in SONGBOOK)
    assert f"darklyrics: 2 artists, {albums} albums, {albums} pages to fetch" in said
    assert "at one every 0.01 s" in said
    assert stored(tmp_path) == []
    assert not [path for path in server.paths() if path.startswith("/lyrics/")]
    n = by("Gravenwick") - 1  # the list says of one that it is an instrumental
    run("Gravenwick", dry_run=True)
    assert f"genius: 1 artist, {n} songs, {2 * n} pages to fetch" in capsys.readouterr().out
    run(source=("darklyrics",), letters=("all",), dry_run=True)
    assert f"{len(ARTISTS) - 2} artists were not looked at" in capsys.readouterr().out
    server.forget()
    run("Gravenwick", "Neonfähre", source=("darklyrics",))
    assert all(path.startswith("/lyrics/") for path in server.paths())
    assert sum(s.source == "darklyrics" for s in stored(tmp_path)) == by("Gravenwick", "Neonfähre")


def test_a_mirror_that_links_to_itself_is_followed_and_songs_keep_the_sites_addresses(
    tmp_path, server, run
):
    for path, html in demo_site.pages(SONGBOOK, site=darklyrics.SITE).items():
        here = html.replace('href="g/', f'href="{server.address}g/')
        server.answer(path, here.replace('href="../lyrics', f'href="{server.address}lyrics'))
    run("Gravenwick", source=("darklyrics",))
    assert {s.url.partition("lyrics/")[0] for s in stored(tmp_path)} == {darklyrics.SITE}
    assert len(stored(tmp_path)) == by("Gravenwick")


# --- what people see -----------------------------------------------------------------------------


def test_the_report_says_per_artist_what_was_found_and_the_readme_whose_texts_they_are(
    tmp_path, site, run, capsys
):
    server = site()
    server.answer("/lyrics/gravenwick/thebellbeneaththelake.html", "", status=501)
    run("Gravenwick", "Neonfähre", source=("darklyrics",))
    said, n = capsys.readouterr().out, by("Neonfähre")
    assert re.search(rf"Neonfähre +{n} songs \({n} new\)\n", said)
    assert re.search(r"Gravenwick .*1 failed: .*answers 501", said)
    assert "--retry_failed" in said
    known = report(tmp_path)
    assert (known["songs"], known["failed"], known["artists"][1]["songs"]) == (
        sum(s.kind == "song" for s in stored(tmp_path)), 1, n)  # fmt: skip
    assert known["artists"][0]["failed"][0]["url"].endswith("thebellbeneaththelake.html")
    assert known["sites"][darklyrics.SITE]["requests"] == len(server.asked)
    readme = (tmp_path / "data" / "raw" / "README.md").read_text(encoding="utf-8")
    assert "belong to those who wrote them" in readme
    assert "www.darklyrics.com" in readme


# --- the store -----------------------------------------------------------------------------------


def test_a_store_of_the_first_version_is_read_without_fetching_a_page_again(tmp_path, site, run):
    server = site()
    run("Gravenwick", source=("darklyrics",))
    new = tmp_path / "data" / "raw" / "crawl.sqlite"
    before = stored(tmp_path)
    pages = sqlite3.connect(new).execute("SELECT * FROM pages").fetchall()
    new.unlink()
    (tmp_path / "data" / "raw" / "crawl.manifest.json").unlink()
    db = sqlite3.connect(new)
    with db:
        db.executescript(f"""
            CREATE TABLE pages (url TEXT PRIMARY KEY, fetched_at TEXT NOT NULL, status INTEGER
                NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL);
            CREATE TABLE urls (url TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT,
                attempts INTEGER NOT NULL);
            {SONGS_TABLE};
            CREATE TABLE meta (schema_version INTEGER NOT NULL);
            INSERT INTO meta VALUES (1);
        """)
        db.executemany("INSERT INTO pages VALUES (?, ?, ?, ?, ?)", pages)
        db.executemany("INSERT INTO urls VALUES (?, 'done', NULL, 1)", [row[:1] for row in pages])
        put_song(db, before[0])
    db.close()
    server.forget()
    assert run("Gravenwick", source=("darklyrics",)).counts["new"] == by("Gravenwick") - 1
    assert stored(tmp_path) == before
    assert server.asked == []
    db = sqlite3.connect(new)
    with db:
        db.execute("UPDATE meta SET schema_version = 99")
    db.close()
    with pytest.raises(DataError, match="of version 99"):
        run("Neonfähre", source=("darklyrics",))


def test_a_damaged_page_of_the_store_is_fetched_again(tmp_path, site, run):
    server = site()
    run("Gravenwick", source=("darklyrics",))
    store = sqlite3.connect(tmp_path / "data" / "raw" / "crawl.sqlite")
    with store:
        store.execute("UPDATE pages SET body = ? WHERE url LIKE '%bellbeneath%'", (b"\0broken",))
    store.close()
    server.forget()
    run("Gravenwick", source=("darklyrics",), force=True)
    assert len(server.paths()) == 1
    assert len(stored(tmp_path)) == by("Gravenwick")


@pytest.mark.parametrize(
    "name", ["../../etc", "a/b\\c:d*e?", "CON", "x" * 300, "\u202eright to left", "😀", "..."]
)
def test_an_artist_of_any_name_has_a_file(tmp_path, name):
    song = Song(id="1", source="x", title=name, kind="song", artist=name, lyrics="la")
    with CrawlStore(tmp_path / "raw" / "crawl.sqlite") as store:
        store.put_songs([song])
        store.write_views()
        (view,) = store.views()
        assert view == store.view("x", name)
    assert view.parent == tmp_path / "raw" / "x"
    assert re.fullmatch(r"[a-z0-9-]{1,60}-[0-9a-f]{6}\.jsonl", view.name)
    assert [Song.from_json(view.read_text(encoding="utf-8"))] == [song]


def test_a_full_disk_is_told_and_what_was_stored_before_stands(tmp_path):
    path = tmp_path / "raw" / "crawl.sqlite"
    songs = [Song(id=str(n), source="x", title="T", kind="song", lyrics="la " * 2000)
             for n in range(400)]  # fmt: skip
    with CrawlStore(path) as store:
        store.put_songs(songs[:3])
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count = {pages + 5}")
        with pytest.raises(DataError, match="cannot be written: .*full") as caught:
            store.put_songs(songs)
        assert "same command" in caught.value.mend
    with CrawlStore(path) as store:
        assert store.kinds().total() == 3


def test_a_second_crawl_on_one_folder_is_told_who_holds_it(tmp_path, site, run):
    site()
    (tmp_path / "data" / "raw").mkdir(parents=True)
    with (
        alone(tmp_path / "data" / "raw"),
        pytest.raises(UserError, match=rf"another .*process {os.getpid()} on .*, since"),
    ):
        run("Gravenwick")


def test_readers_do_not_stop_a_crawl(tmp_path, site, run):
    site()
    run("Gravenwick", source=("darklyrics",))
    reader = sqlite3.connect(tmp_path / "data" / "raw" / "crawl.sqlite")
    rows = reader.execute("SELECT id FROM songs")
    rows.fetchone()  # in the middle of reading
    began = time.monotonic()
    run("Gravenwick", "Neonfähre", source=("darklyrics",))
    assert time.monotonic() - began < 5
    reader.close()
    assert len(stored(tmp_path)) == by("Gravenwick", "Neonfähre")


# --- stopping ------------------------------------------------------------------------------------


def test_ctrl_c_during_a_long_wait_stops_at_once(tmp_path, site, run):
    server = site()
    timer = threading.Timer(0.7, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(*ARTISTS, source=("genius", "darklyrics"), delay_s=60)
    assert time.monotonic() - began < 2.5
    assert len(server.asked) <= 2


def many(n_artists):
    """A site of so many invented artists with three albums of two songs."""
    return [
        Release(f"Band {n:03}", "album", f"Album {a}", 2000 + a, tuple(
            (f"Song {n} {a} {s}", f"line {n} {a} {s}\n\nand its end") for s in (1, 2)))
        for n in range(n_artists) for a in (1, 2, 3)
    ]  # fmt: skip


@pytest.mark.parametrize("source", ["darklyrics", "genius"])
@pytest.mark.parametrize(
    "kills", [pytest.param(4, marks=pytest.mark.e2e), pytest.param(25, marks=pytest.mark.slow)]
)
def test_after_kill_9_at_any_moment_nothing_is_lost_and_nothing_is_fetched_twice(
    tmp_path, site, run, server, source, kills
):
    releases = many((10 if source == "darklyrics" else 3) * kills)
    site(releases)
    names = sorted({release.artist for release in releases})
    (tmp_path / "names.txt").write_text("\n".join(names))
    command = [
        sys.executable, "-m", "backend.scrapers.crawl", f"--source={source}", "--delay_s=0",
        f"--artist_file={tmp_path}/names.txt", f"--data_dir={tmp_path}/data",
        f"--base_url={server.address}", f"--genius_api_root={server.address}api/",
        f"--genius_web_root={server.address}genius/",
    ]  # fmt: skip
    environment = os.environ | {"GENIUS_ACCESS_TOKEN": SECRET, "PYTHONPATH": str(ROOT)}
    draw = random.Random(kills)
    in_store = set()
    for _ in range(kills):
        server.forget()
        child = subprocess.Popen(command, cwd=tmp_path, env=environment,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        wanted = draw.randint(1, 12)
        while child.poll() is None and len(server.paths()) < wanted:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.03))  # between two pages, within one, or in writing it
        child.kill()
        out = child.communicate(timeout=30)[0].decode()
        assert child.returncode == -signal.SIGKILL, out
        assert not in_store & set(server.paths())  # what is here is not asked for again
        # what was in flight when the one before was killed may arrive among these
        assert len(server.paths()) - len(set(server.paths())) <= 1
        db = sqlite3.connect(tmp_path / "data" / "raw" / "crawl.sqlite")
        kept = {url for (url,) in db.execute("SELECT url FROM pages")}
        db.close()
        roots = ((darklyrics.SITE, "/"), (genius.API, "/api/"), (genius.WEB, "/genius/"))
        came = {next(url.replace(a, b, 1) for a, b in roots if url.startswith(a)) for url in kept}
        assert in_store <= came  # what was here is here
        assert len(set(server.paths()) - came) <= 1  # but for the page in flight
        in_store = came
    server.forget()
    run(source=(source,), artist_file=str(tmp_path / "names.txt"))
    assert not in_store & set(server.paths())
    songs = stored(tmp_path)
    assert len(songs) == len({s.id for s in songs}) == 6 * len(names)
    wanted = {(r.artist, title): text for r in releases for title, text in r.songs}
    assert {(s.artist, s.title): s.lyrics for s in songs} == wanted
    views = [json.loads(line) for path in (tmp_path / "data" / "raw" / source).iterdir()
             for line in path.read_text().splitlines()]  # fmt: skip
    assert sorted(row["id"] for row in views) == sorted(s.id for s in songs)


def test_a_page_is_stored_packed(tmp_path, site, run):
    site()
    run("Gravenwick", source=("darklyrics",))
    db = sqlite3.connect(tmp_path / "data" / "raw" / "crawl.sqlite")
    for (body,) in db.execute("SELECT body FROM pages"):
        assert zlib.decompress(body).startswith(b"<!DOCTYPE")
    assert db.execute("SELECT max(checked_at) FROM urls").fetchone()[0] <= now()
    db.close()
