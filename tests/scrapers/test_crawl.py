"""The crawl as a user runs it: the demo, a site that fails, Ctrl-C, kill -9, and names."""

import collections
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend.config.loader import load
from backend.config.schema import CrawlConfig
from backend.data.song import Song, read_raw, song_id
from backend.errors import ConfigError, DataError, NetworkError
from backend.scrapers import crawl, darklyrics, demo_site
from backend.scrapers.crawl import main
from backend.scrapers.demo_site import Release
from backend.scrapers.fetch import Fetcher
from backend.scrapers.store import CrawlStore

ROOT = Path(__file__).resolve().parents[2]
SONGBOOK = ROOT / "assets" / "demo_songbook"
DEMO_ARTISTS = {
    "7 Winters Deep", "Ernestine Boone", "Gravenwick", "MC Tessellate", "Neonfähre",
    "Rust, Rain & Ruin", "The Paper Lighthouse", "The Threefoot Navy",
}  # fmt: skip

# A small site in the shape of DarkLyrics's: two poets (public domain), four albums, seven songs.
BURNS, DUNBAR = "ROBERT BURNS", "WILLIAM DUNBAR"
RELEASES = [
    Release(BURNS, "album", "Auld Songs", 1788, (
        ("Auld Lang Syne", "Should auld acquaintance be forgot,\nAnd never brought to min'?"),
        ("A Red, Red Rose", "O my Luve's like a red, red rose,\n\nThat's newly sprung in June"),
    )),
    Release(BURNS, "EP", "Beasties", 1789, (
        ("To a Mouse", "Wee, sleekit, cow'rin, tim'rous beastie"),
        ("To a Louse", "Ha! whaur ye gaun, ye crowlin ferlie?"),
    )),
    Release(BURNS, "demo", "Suppers", 1790, (("Haggis", "Fair fa' your honest, sonsie face"),)),
    Release(DUNBAR, "album", "Makars", 1505, (
        ("Lament", "I that in heill was and gladness"),
        ("Intro", "[Instrumental]"),
    )),
]  # fmt: skip
ALBUMS = {
    "auldsongs": "/lyrics/robertburns/auldsongs.html",
    "beasties": "/lyrics/robertburns/beasties.html",
    "suppers": "/lyrics/robertburns/suppers.html",
    "makars": "/lyrics/williamdunbar/makars.html",
}
WAY_IN = ["/index.html", "/r.html", "/w.html"]
WHOLE_SITE = {*WAY_IN, "/r/robertburns.html", "/w/williamdunbar.html", *ALBUMS.values()}


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    """Retries wait milliseconds here."""
    monkeypatch.setattr(crawl, "Fetcher", functools.partial(Fetcher, backoff_s=0.001))


@pytest.fixture
def site(server):
    """The small site; what a test scripts before for a path is answered before the page."""

    def build(releases=RELEASES, **before):
        """`before`: album -> replies (keywords of `answer`) that come before the page itself."""
        pages = demo_site.pages(list(releases), site=darklyrics.SITE)
        for name, replies in before.items():
            for reply in replies:
                server.answer(ALBUMS[name], **reply)
        for path, html in pages.items():
            server.answer(path, html)
        return server

    return build


@pytest.fixture
def run(server, tmp_path):
    """Crawl the small site, by default both artists, into tmp_path."""

    def start(*artists, **how):
        how = {"delay_s": 0.0, "data_dir": str(tmp_path), "base_url": server.address} | how
        return main(CrawlConfig(artists=artists or (BURNS, DUNBAR), **how))

    return start


def demo(tmp_path, **how):
    return main(CrawlConfig(source=("demo",), data_dir=str(tmp_path), **how))


def stored(tmp_path):
    try:
        return list(read_raw(tmp_path))
    except DataError:  # what it says where there are none
        return []


def texts(tmp_path):
    return {song.title: song.lyrics for song in stored(tmp_path)}


ALL_TEXTS = {
    title: None if text == "[Instrumental]" else text
    for release in RELEASES
    for title, text in release.songs
}


# --- the demo ------------------------------------------------------------------------------------


def songbook(folder):
    """(artist, release, number) -> (title, text), read from the files without our own reader."""
    found = {}
    for path in sorted(folder.glob("*/*.txt")):
        head, *parts = re.split(r"(?m)^# (\d+)\. (.+)\n", path.read_text(encoding="utf-8"))
        artist = re.search(r"(?m)^artist: (.+)$", head)[1]
        release = re.search(r"(?m)^title: (.+)$", head)[1]
        for number, title, text in zip(*(parts[i::3] for i in range(3)), strict=True):
            found[artist, release, int(number)] = (title, text.strip("\n"))
    return found


SONGS = len(songbook(SONGBOOK))
BY_GRAVENWICK = sum(artist == "Gravenwick" for artist, _, _ in songbook(SONGBOOK))


def test_the_demo_gives_every_song_exactly_as_the_songbook_has_it(tmp_path, capsys):
    summary = demo(tmp_path)
    expected = songbook(SONGBOOK)
    found = {(s.artist, s.album, s.track): (s.title, s.lyrics or "[Instrumental]")
             for s in stored(tmp_path)}  # fmt: skip
    assert found == expected
    kinds = collections.Counter(s.kind for s in stored(tmp_path))
    assert kinds == {"song": SONGS - 1, "instrumental": 1}
    assert {s.artist for s in stored(tmp_path)} == DEMO_ARTISTS
    counts = summary.counts
    assert (counts["songs"], counts["instrumental"], counts["new"]) == (SONGS - 1, 1, SONGS)
    said = capsys.readouterr().out
    mine = rf"{BY_GRAVENWICK - 1} songs \({BY_GRAVENWICK} new\), 1 instrumental"
    assert re.search(rf"Gravenwick +{mine}", said)


def test_the_demo_twice_has_nothing_to_do(tmp_path):
    assert not demo(tmp_path).skipped
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    again = demo(tmp_path)
    assert again.skipped
    assert again.counts["songs"] == SONGS - 1
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_force_reads_again_and_finds_nothing_new(tmp_path):
    demo(tmp_path)
    again = demo(tmp_path, force=True)
    assert not again.skipped
    assert (again.counts["songs"], again.counts["new"]) == (SONGS - 1, 0)


def test_an_edited_songbook_is_new_work(tmp_path, monkeypatch):
    mine = tmp_path / "songbook"
    shutil.copytree(SONGBOOK, mine)
    monkeypatch.setattr(demo_site, "SONGBOOK", mine)
    data = tmp_path / "data"
    demo(data)
    file = mine / "gravenwick" / "2011-the-bell-beneath-the-lake.txt"
    words = file.read_text(encoding="utf-8")
    title, text = re.search(r"# 1\. ([^\n]+)\n\n(.+?)\n\n#", words, re.DOTALL).groups()
    file.write_text(words.replace(text, "A single line", 1), encoding="utf-8")
    again = demo(data)
    assert not again.skipped
    assert again.counts["new"] == 1
    assert texts(data)[title] == "A single line"
    assert len(stored(data)) == SONGS


def test_the_demo_works_behind_a_proxy(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    assert demo(tmp_path).counts["songs"] == SONGS - 1


def test_the_demo_takes_chosen_artists_however_they_are_spelled(tmp_path):
    summary = demo(tmp_path, artists=("rust rain ruin", "NEONFAHRE", "the paper lighthouse"))
    assert summary.counts["artists"] == 3
    found = {s.artist for s in stored(tmp_path)}
    assert found == {"Rust, Rain & Ruin", "Neonfähre", "The Paper Lighthouse"}


def test_an_artist_named_twice_is_crawled_once(tmp_path):
    summary = demo(tmp_path, artists=("Gravenwick", "GRAVENWICK"))
    assert (summary.counts["artists"], summary.counts["songs"]) == (1, BY_GRAVENWICK - 1)


# --- the view and the records --------------------------------------------------------------------


def test_the_view_says_what_the_store_says(tmp_path):
    demo(tmp_path)
    views = sorted((tmp_path / "raw" / "demo").glob("*.jsonl"))
    assert [re.sub(r"-[0-9a-f]{6}\.jsonl$", "", p.name) for p in views] == [
        "7-winters-deep", "ernestine-boone", "gravenwick", "mc-tessellate", "neonf-hre",
        "rust-rain-ruin", "the-paper-lighthouse", "the-threefoot-navy",
    ]  # fmt: skip
    from_store = stored(tmp_path)
    (tmp_path / "raw" / "crawl.sqlite").unlink()
    assert sorted(stored(tmp_path), key=lambda s: s.id) == from_store


@pytest.mark.parametrize("odd", ["\u2028", "\u0085", "\x0b", "\x1c"])
def test_the_view_is_readable_whatever_characters_a_song_has(tmp_path, odd):
    with CrawlStore(tmp_path / "raw" / "crawl.sqlite") as store:
        store.put_songs([Song(id="1", source="x", title="A", kind="song", lyrics=f"a{odd}b")])
        store.write_views()
    (tmp_path / "raw" / "crawl.sqlite").unlink()
    assert [song.lyrics for song in stored(tmp_path)] == [f"a{odd}b"]


def test_songs_of_a_mirror_keep_the_sites_own_addresses_and_ids(tmp_path, site, run):
    site()
    run()
    rose = next(s for s in stored(tmp_path) if s.title == "A Red, Red Rose")
    assert rose.url == "http://www.darklyrics.com/lyrics/robertburns/auldsongs.html#2"
    assert rose.id == song_id("darklyrics", "/lyrics/robertburns/auldsongs.html#2")
    assert (rose.source, rose.artist, rose.album, rose.year, rose.track) == (
        "darklyrics", BURNS, "Auld Songs", 1788, 2,
    )  # fmt: skip


def test_a_manifest_says_what_was_asked_and_found(tmp_path):
    demo(tmp_path, artists=("Gravenwick",))
    manifest = json.loads((tmp_path / "raw" / "crawl.manifest.json").read_text())
    assert manifest["stage"] == "crawl"
    assert manifest["settings"]["artists"] == ["Gravenwick"]
    assert manifest["counts"]["songs"] == BY_GRAVENWICK - 1
    assert "crawl.sqlite" in manifest["outputs"]


# --- a whole site --------------------------------------------------------------------------------


def test_each_page_of_a_site_is_fetched_once(tmp_path, site, run):
    server = site()
    summary = run()
    assert sorted(server.paths()) == sorted(WHOLE_SITE)
    assert texts(tmp_path) == ALL_TEXTS
    assert summary.counts["rows in the store"] == 7
    server.forget()
    assert run().skipped
    assert server.asked == []


def test_another_artist_costs_only_that_artists_pages(site, run):
    server = site()
    run(BURNS)
    server.forget()
    run(BURNS, DUNBAR)
    assert server.paths() == ["/w.html", "/w/williamdunbar.html", ALBUMS["makars"]]


def test_a_refresh_asks_only_whether_pages_have_changed_and_goes_on_where_it_was_stopped(
    tmp_path, site, run
):
    server = site()
    for path, replies in server.scripts.items():
        replies[0].headers["ETag"] = f'"{path}"'
    run(BURNS)
    first = next(s for s in stored(tmp_path) if s.title == "Haggis")
    server.forget()
    server.scripts[ALBUMS["beasties"]][0].before = lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(BURNS, refresh=True)
    server.scripts[ALBUMS["beasties"]][0].before = None
    seen = set(server.paths())
    assert ALBUMS["auldsongs"] in seen
    assert all("If-None-Match" in asked.headers for asked in server.asked[1:])
    server.forget()
    summary = run(BURNS, refresh=True)
    assert summary.counts["new"] == 0
    assert set(server.paths()) - {ALBUMS["beasties"]} == {ALBUMS["suppers"]}
    server.forget()
    run(BURNS, refresh=True)  # a new one
    assert len(server.paths()) == 6
    assert first in stored(tmp_path)


def test_refresh_looks_again_and_takes_what_changed(tmp_path, site, run):
    server = site()
    run(DUNBAR)
    changed = RELEASES[3].songs[0][1] + " yet"
    release = Release(DUNBAR, "album", "Makars", 1505, (("Lament", changed), RELEASES[3].songs[1]))
    for replies in server.scripts.values():
        replies.clear()
    site([*RELEASES[:3], release])
    assert run(DUNBAR).skipped
    summary = run(DUNBAR, refresh=True)
    assert summary.counts["new"] == 1
    assert texts(tmp_path)["Lament"] == changed


def test_max_songs_holds_per_artist_and_saves_requests(tmp_path, site, run):
    server = site()
    run(max_songs=2)
    per_artist = collections.Counter(s.artist for s in stored(tmp_path))
    assert per_artist == {BURNS: 2, DUNBAR: 2}
    assert ALBUMS["beasties"] not in server.paths()
    server.forget()
    run()
    assert texts(tmp_path) == ALL_TEXTS
    assert server.paths() == [ALBUMS["beasties"], ALBUMS["suppers"]]


def test_max_songs_may_end_within_an_album(tmp_path, site, run):
    site()
    run(BURNS, max_songs=3)
    assert sorted(texts(tmp_path)) == ["A Red, Red Rose", "Auld Lang Syne", "To a Mouse"]


def test_artists_may_stand_in_a_file(tmp_path, site, run):
    site()
    names = tmp_path / "names.txt"
    names.write_text("\ufeff# poets\n\n  robert burns \nWilliam Dunbar\n", encoding="utf-8")
    config = load(CrawlConfig, [f"--artist_file={names}"])
    assert config.artists == ()
    run(BURNS, artist_file=str(names))
    assert {s.artist for s in stored(tmp_path)} == {BURNS, DUNBAR}


def test_an_artist_file_that_is_not_there_is_told(tmp_path, run):
    for name in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(ConfigError, match="cannot read artist_file"):
            run(artist_file=str(name))


def test_rebuild_writes_the_view_again_without_network(tmp_path, site, run):
    server = site()
    run()
    views = {p: p.read_bytes() for p in (tmp_path / "raw" / "darklyrics").iterdir()}
    assert len(views) == 2
    shutil.rmtree(tmp_path / "raw" / "darklyrics")
    server.forget()
    main(CrawlConfig(rebuild=True, data_dir=str(tmp_path)))
    assert {p: p.read_bytes() for p in (tmp_path / "raw" / "darklyrics").iterdir()} == views
    assert server.asked == []


# --- names ---------------------------------------------------------------------------------------


def test_an_unknown_artist_is_told_with_the_nearest(tmp_path):
    with pytest.raises(DataError) as caught:
        demo(tmp_path, artists=("Gravenwik", "Gravenwick", "Nobody at All"))
    assert "'Gravenwik' is not on" in caught.value.what
    assert "nearest: 'Gravenwick'" in caught.value.what
    assert "'Nobody at All' is not on" in caught.value.what
    assert stored(tmp_path) == []


def test_two_artists_of_one_name_must_be_told_apart(tmp_path, site, run):
    song = (("Rose", "newly sprung in June"),)
    site([Release(f"ABSURD ({land})", "album", land, 1999, song) for land in ("FIFE", "AYR")])
    with pytest.raises(DataError) as caught:
        run("Absurd")
    fife = re.search(r"ABSURD \(FIFE\)  (http://www\.darklyrics\.com/\S+)", caught.value.what)[1]
    assert "ABSURD (AYR)  http" in caught.value.what
    run("absurd (ayr)")
    assert {s.artist for s in stored(tmp_path)} == {"ABSURD (AYR)"}
    run(fife)
    assert {s.artist for s in stored(tmp_path)} == {"ABSURD (AYR)", "ABSURD (FIFE)"}


# --- albums that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults",
    [
        [{"status": 500}] * 5,  # the first try and four more
        [{"body": "cut", "length": 1000}] * 5,
        [{"status": 501}],
        [{"body": "<html>under construction</html>"}],
    ],
    ids=["always 500", "always cut", "501", "no songs"],
)
def test_an_album_that_fails_is_a_row_and_the_next_run_fetches_only_that(
    tmp_path, site, run, capsys, faults
):
    server = site(beasties=faults)
    summary = run()
    assert summary.counts["failed"] == 1
    assert "To a Mouse" not in texts(tmp_path)
    assert len(stored(tmp_path)) == 5
    assert re.search(rf"{BURNS} .*3 songs .*; 1 failed: ", capsys.readouterr().out)
    server.forget()
    again = run()
    assert server.paths() == [ALBUMS["beasties"]]
    assert texts(tmp_path) == ALL_TEXTS
    assert again.counts["new"] == 2
    server.forget()
    assert run().skipped
    assert server.asked == []


def test_an_album_that_is_gone_is_no_failure_and_is_not_asked_for_again(tmp_path, site, run):
    server = site(beasties=[{"status": 404}])
    summary = run(BURNS)
    assert "failed" not in summary.counts
    assert len(stored(tmp_path)) == 3
    server.forget()
    run(BURNS, DUNBAR)
    assert ALBUMS["beasties"] not in server.paths()


def test_an_album_at_a_new_address_is_fetched_once(tmp_path, site, run):
    # No page is fetched twice, also where an old link redirects.
    moved = {"status": 301, "headers": {"Location": "/lyrics/robertburns/beasts.html"}}
    server = site(beasties=[moved])
    del server.scripts[ALBUMS["beasties"]][1:]
    page = demo_site.pages(RELEASES, site=darklyrics.SITE)[ALBUMS["beasties"]]
    server.answer("/lyrics/robertburns/beasts.html", page)
    run(BURNS)
    assert len(stored(tmp_path)) == 5
    server.forget()
    run(BURNS, DUNBAR)
    assert server.paths() == ["/w.html", "/w/williamdunbar.html", ALBUMS["makars"]]


def test_one_refusal_costs_one_page_and_three_in_a_row_stop_the_host(tmp_path, site, run, capsys):
    no = [{"status": 403}]
    server = site(auldsongs=no * 2, beasties=no, suppers=no)
    with pytest.raises(NetworkError, match="stopped asking .*refuses us") as caught:
        run(BURNS)
    assert "same command" in caught.value.mend
    assert "3 failed: " in capsys.readouterr().out
    server.forget()
    summary = run()  # one more 403, then all is well
    assert summary.counts["failed"] == 1
    assert sorted(texts(tmp_path)) == sorted(set(ALL_TEXTS) - {"Auld Lang Syne", "A Red, Red Rose"})
    server.forget()
    run()
    assert server.paths() == [ALBUMS["auldsongs"]]
    assert texts(tmp_path) == ALL_TEXTS


def test_a_page_that_failed_in_three_runs_is_left_to_retry_failed(tmp_path, site, run, capsys):
    odd = [{"body": "<html>under construction</html>"}] * 3
    server = site(beasties=odd, suppers=[{"status": 404}])
    for _ in range(4):
        server.forget()
        assert run(BURNS).counts["failed"] == 1
    assert server.paths() == []  # neither the odd one nor the one that is gone
    assert "--retry_failed" in capsys.readouterr().out
    run(BURNS, retry_failed=True)
    assert sorted(server.paths()) == sorted([ALBUMS["beasties"], ALBUMS["suppers"]])
    assert len(stored(tmp_path)) == 5
    assert run(BURNS).skipped


def test_a_page_that_could_not_be_read_is_kept(tmp_path, site, run):
    site(beasties=[{"body": "<html>under construction</html>"}])
    run(BURNS)
    with CrawlStore(tmp_path / "raw" / "crawl.sqlite", crawl.VERSION) as store:
        url = darklyrics.SITE.rstrip("/") + ALBUMS["beasties"]
        assert store.page(url).body == b"<html>under construction</html>"
        assert (store.outcome(url).state, store.outcome(url).attempts) == ("failed", 1)


def test_a_mended_parser_reads_the_stored_pages_again_without_network(
    tmp_path, site, run, monkeypatch
):
    server = site()
    real = darklyrics.parse_album
    monkeypatch.setattr(darklyrics, "parse_album", lambda *a, **k: real(*a, **k)[:1])
    run(DUNBAR)
    assert len(stored(tmp_path)) == 1
    monkeypatch.setattr(darklyrics, "parse_album", real)
    server.forget()
    assert run(DUNBAR).skipped
    run(DUNBAR, force=True)
    assert len(stored(tmp_path)) == 2
    monkeypatch.setattr(darklyrics, "parse_album", lambda *a, **k: real(*a, **k)[1:])
    monkeypatch.setattr(crawl, "VERSION", crawl.VERSION + 1)
    run(DUNBAR)
    assert server.asked == []


def test_a_host_with_trouble_is_left_alone_after_three_failures(tmp_path, site, run):
    fault = [{"status": 501}]
    server = site(auldsongs=fault, beasties=fault, suppers=fault)
    with pytest.raises(NetworkError, match="stopped"):
        run()
    assert ALBUMS["makars"] not in server.paths()
    run()
    assert texts(tmp_path) == ALL_TEXTS


def test_a_site_that_cannot_be_reached_is_told(tmp_path, run, server):
    address = server.address
    server.answer("/robots.txt", "down", status=500)
    with pytest.raises(NetworkError, match="robots.txt answers 500"):
        run(base_url=address)
    assert stored(tmp_path) == []


def test_a_store_that_cannot_be_opened_is_told(tmp_path, site, run):
    site()
    (tmp_path / "raw" / "crawl.sqlite").mkdir(parents=True)
    with pytest.raises(DataError, match="crawl.sqlite"):
        run()


def test_a_store_that_is_no_database_is_told_and_left_alone(tmp_path, site, run):
    site()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "crawl.sqlite").write_bytes(b"my diary, not a database" * 100)
    with pytest.raises(DataError, match="cannot be used"):
        run()
    assert (tmp_path / "raw" / "crawl.sqlite").read_bytes().startswith(b"my diary")


# --- stopping in the middle ----------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_stored_and_the_next_run_goes_on(tmp_path, site, run):
    def ctrl_c():
        os.kill(os.getpid(), signal.SIGINT)

    server = site(suppers=[{"before": ctrl_c, "body": "a slow page", "drip_s": 0.4}])
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run()
    assert time.monotonic() - began < 2.5
    assert len(stored(tmp_path)) == 4
    assert len(list((tmp_path / "raw" / "darklyrics").iterdir())) == 1  # the view is there too
    run()
    assert texts(tmp_path) == ALL_TEXTS
    asked = collections.Counter(server.paths())
    assert asked.pop(ALBUMS["suppers"]) == 2  # the page in flight
    assert asked == dict.fromkeys(WHOLE_SITE - {ALBUMS["suppers"]}, 1)


def start_crawl(server, tmp_path):
    command = [
        sys.executable, "-m", "backend.scrapers.crawl", "--artists", BURNS, DUNBAR,
        f"--base_url={server.address}", "--delay_s=0.01", f"--data_dir={tmp_path}",
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["beasties", "makars"])
def test_after_kill_9_nothing_is_lost_and_nothing_is_there_twice(tmp_path, site, run, name):
    children = []
    server = site(**{name: [{"before": lambda: children[0].kill()}]})
    children.append(start_crawl(server, tmp_path))
    children[0].communicate(timeout=30)
    assert children[0].returncode == -signal.SIGKILL
    kept = len(stored(tmp_path))
    assert kept == {"beasties": 2, "makars": 5}[name]
    summary = run()
    assert texts(tmp_path) == ALL_TEXTS
    assert len(stored(tmp_path)) == 7
    assert summary.counts["new"] == 7 - kept
    asked = collections.Counter(server.paths())
    assert asked.pop(ALBUMS[name]) == 2  # the page in flight
    assert asked == dict.fromkeys(WHOLE_SITE - {ALBUMS[name]}, 1)


@pytest.mark.e2e
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_crawl_says_so_and_exits_as_promised(tmp_path, site, stop, code):
    children = []
    server = site(makars=[{"before": lambda: children[0].send_signal(stop)}])
    children.append(start_crawl(server, tmp_path))
    _, said = children[0].communicate(timeout=30)
    assert children[0].returncode == code
    assert "what was finished is kept" in said.decode()
    assert "Traceback" not in said.decode()
    assert len(stored(tmp_path)) == 5


def test_an_artist_file_without_names_does_not_crawl_the_whole_site(tmp_path, site, run):
    server = site()
    names = tmp_path / "names.txt"
    names.write_text("# my artists\n\n")
    with pytest.raises(ConfigError, match="names nobody"):
        main(CrawlConfig(artist_file=str(names), data_dir=str(tmp_path), base_url=server.address))
    assert server.asked == []


def test_a_rebuild_without_a_store_is_told(tmp_path):
    with pytest.raises(DataError, match="no store"):
        main(CrawlConfig(source=("demo",), data_dir=str(tmp_path), rebuild=True))


def test_artists_are_no_choice_among_own_files_and_an_address_must_be_one():
    files = CrawlConfig(source=("files",), path="x", artists=("Opeth",))
    assert any("artists choose from a site" in p for p in files.problems())
    for address in ("localhost:9", "foo", "ftp://x/"):
        config = CrawlConfig(artists=("X",), base_url=address)
        assert any("base_url" in p for p in config.problems()), address


def test_a_song_that_a_refreshed_page_no_longer_shows_is_forgotten(tmp_path, monkeypatch):
    mine = tmp_path / "songbook"
    shutil.copytree(SONGBOOK, mine)
    monkeypatch.setattr(demo_site, "SONGBOOK", mine)
    data = tmp_path / "data"
    demo(data)
    file = mine / "gravenwick" / "2011-the-bell-beneath-the-lake.txt"
    words = file.read_text(encoding="utf-8")
    file.write_text(words[: words.index("\n# 2.")], encoding="utf-8")
    demo(data)
    assert len(stored(data)) == SONGS - 1
    assert "The Smith of Hollin Fell" not in texts(data)
