"""Corpora: the demo songbook, crawled and cleaned once, and invented songs by the dozen."""

import json
import shutil
import sqlite3

import pytest
from hypothesis import settings

from backend.config.schema import BinarizeConfig, CleanConfig, CrawlConfig
from backend.data import binarize, clean
from backend.data.song import SONGS_TABLE, Song, put_song, raw_path
from backend.scrapers import crawl, demo_site
from tests.conftest import ROOT

# A machine that is busy makes an example slow, not wrong.
settings.register_profile("data", deadline=None)
settings.load_profile("data")


@pytest.fixture(scope="session")
def songbook():
    """(artist, title, text) of every song of the demo songbook."""
    releases = [demo_site.read_release(path) for path in demo_site.songbook_files()]
    return [(r.artist, title, text) for r in releases for title, text in r.songs]


@pytest.fixture(scope="session")
def _crawled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crawled") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        crawl.main(CrawlConfig(source=("demo",), data_dir=str(folder)))
    return folder


@pytest.fixture(scope="session")
def public_domain():
    """Some thousand songs of the nineteenth century, as raw songs."""
    path = ROOT.parent / "shared" / "data" / "public_domain_songs.jsonl"
    if not path.is_file():
        pytest.skip(f"no public-domain songs at {path}")
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [
        Song(
            id=row["id"],
            source="files",
            kind="song",
            title=row["title"],
            artist=row["book_author"],
            album=row["book"],
            lyrics="\n\n".join("\n".join(stanza["lines"]) for stanza in row["stanzas"]),
        )
        for row in rows
    ]


@pytest.fixture(scope="module")
def demo(_crawled, tmp_path_factory):
    """The demo corpus, crawled, cleaned and binarized: to read, never to change."""
    folder = tmp_path_factory.mktemp("module") / "demo"
    shutil.copytree(_crawled, folder)
    clean.main(CleanConfig(data_dir=str(folder)))
    binarize.main(BinarizeConfig(data_dir=str(folder)))
    return folder


@pytest.fixture
def corpus(demo, tmp_path):
    """A copy of the demo corpus that a test may change."""
    return shutil.copytree(demo, tmp_path / "data" / "demo")


@pytest.fixture
def raw():
    """raw(folder, songs): a store with these songs, in this order of insertion."""

    def write(folder, songs):
        raw_path(folder).parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(raw_path(folder))
        with db:
            db.execute(SONGS_TABLE)
            for song in songs:
                put_song(db, song)
        db.close()
        return folder

    return write


def verse(name):
    """Eight lines that no other name has."""
    return "\n".join(f"{name} went down to harbour number {line}" for line in range(8))


@pytest.fixture
def invented():
    """invented(n): raw songs that share no line."""

    def songs(n, start=0, **changes):
        return [
            Song(
                **(
                    {
                        "id": f"{i:016x}",
                        "source": "files",
                        "title": f"Harbour {i}",
                        "artist": f"Singer {i % 3}",
                        "kind": "song",
                        "lyrics": verse(f"Ship {i}"),
                    }
                    | changes
                )
            )
            for i in range(start, start + n)
        ]

    return songs


@pytest.fixture
def rows():
    """rows(folder, n or rows): a data.json of objects with text, id and names."""

    def write(folder, songs):
        if isinstance(songs, int):
            songs = [
                {"text": verse(f"Ship {i}"), "id": f"{i:016x}", "song_name": f"Harbour {i}"}
                for i in range(songs)
            ]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data.json").write_text(json.dumps(songs), encoding="utf-8")
        return folder

    return write
