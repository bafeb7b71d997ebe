"""Songs: the raw record, data.json, and the document a model reads."""

import dataclasses
import hashlib
import json
import random
from urllib.parse import urlsplit

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.data.song import (
    HEADER,
    CleanSong,
    Song,
    header,
    raw_path,
    read_raw,
    read_songs,
    song_id,
    split_header,
    training_header,
    write_songs,
)
from backend.errors import DataError

WORDS = st.text(min_size=1)
MAYBE = st.none() | WORDS
SONGS = st.builds(
    Song,
    id=WORDS,
    source=WORDS,
    title=st.text(),
    kind=st.sampled_from(["song", "instrumental", "empty", "removed", "nonsong"]),
    url=MAYBE,
    artist=MAYBE,
    album=MAYBE,
    year=st.none() | st.integers(1900, 2100),
    track=st.none() | st.integers(1, 99),
    language=MAYBE,
    fetched_at=MAYBE,
    version_of=MAYBE,
    lyrics=MAYBE,
)
CLEAN = st.builds(
    CleanSong,
    text=st.text().map(lambda text: text + "la"),
    song_name=MAYBE,
    artist_name=MAYBE,
    album=MAYBE,
    year=st.none() | st.integers(1900, 2100),
    language=MAYBE,
    source=MAYBE,
    url=MAYBE,
    id=WORDS,
    duplicate_group=WORDS,
    versions=st.lists(WORDS, max_size=3).map(tuple),
    performers=st.lists(WORDS, max_size=3).map(tuple),
    explicit=st.none() | st.booleans(),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples of a property; each writes its file anew."""
    return tmp_path_factory.mktemp("songs")


# --- ids ------------------------------------------------------------------------------------------


def test_an_id_is_the_documented_hash_of_source_and_key():
    key = "/lyrics/opalsea/tides.html#3"
    expected = hashlib.sha256(b"darklyrics\n" + key.encode()).hexdigest()[:16]
    assert song_id("darklyrics", key) == expected == "cb08aba3c2227de9"
    assert song_id("files", key) != expected


def test_crawled_songs_carry_the_id_of_their_path_and_fragment_without_the_host(demo, songbook):
    songs = list(read_raw(demo))
    assert len(songs) == len(songbook)
    for song in songs:
        url = urlsplit(song.url)
        assert song.id == song_id("demo", f"{url.path}#{url.fragment}")


# --- raw songs ------------------------------------------------------------------------------------


@given(SONGS)
def test_a_raw_song_comes_back_from_its_line(song):
    line = song.to_json()
    assert "\n" not in line
    assert Song.from_json(line) == song


def test_a_line_holds_only_what_is_known_and_names_of_later_versions_are_passed_over():
    song = Song(id="1", source="files", title="Tide", kind="empty")
    assert set(json.loads(song.to_json())) == {"id", "source", "title", "kind"}
    later = json.dumps(json.loads(song.to_json()) | {"mood": "calm"})
    assert Song.from_json(later) == song


def jsonl(folder, name, lines):
    path = folder / "raw" / "files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_database_wins_over_the_jsonl_views(tmp_path, raw, invented):
    stored, viewed = invented(2), invented(1, start=9)
    raw(tmp_path, stored)
    jsonl(tmp_path, "a.jsonl", [song.to_json() for song in viewed])
    assert list(read_raw(tmp_path)) == stored
    raw_path(tmp_path).unlink()
    assert list(read_raw(tmp_path)) == viewed


def test_raw_songs_come_in_the_order_of_their_ids_from_the_database_and_from_files(
    tmp_path, raw, invented
):
    songs = invented(6)
    shuffled = random.Random(3).sample(songs, 6)
    raw(tmp_path / "store", shuffled)
    jsonl(tmp_path / "views", "b.jsonl", [song.to_json() for song in shuffled[:3]])
    jsonl(tmp_path / "views", "a.jsonl", [song.to_json() for song in shuffled[3:]])
    assert list(read_raw(tmp_path / "store")) == songs
    assert list(read_raw(tmp_path / "views")) == songs


@given(st.text(st.sampled_from("ab\n\r\x0b\x0c\x1c\x85\u2028\u2029ä"), min_size=1))
@settings(max_examples=50)
def test_a_jsonl_view_holds_lyrics_with_any_line_break(folder, lyrics):
    songs = [Song(id=key, source="files", title="Tide", kind="song", lyrics=lyrics) for key in "ab"]
    jsonl(folder, "a.jsonl", [song.to_json() for song in songs])
    assert list(read_raw(folder)) == songs


@pytest.mark.parametrize("line", ["{broken", '{"id": "1"}', "", "[1]", '"Tide"', "7", "null"])
def test_a_line_that_is_no_song_is_named(tmp_path, invented, line):
    good = invented(1)[0].to_json()
    path = jsonl(tmp_path, "a.jsonl", [good, line, good])
    with pytest.raises(DataError) as error:
        list(read_raw(tmp_path))
    assert f"{path} line 2" in error.value.what
    assert error.value.mend


def test_without_raw_songs_the_crawl_command_is_named(tmp_path):
    with pytest.raises(DataError) as error:
        list(read_raw(tmp_path / "data" / "new"))
    assert "python -m backend.scrapers.crawl" in error.value.mend
    assert f"--data_dir={tmp_path / 'data' / 'new'}" in error.value.mend


def test_a_database_that_is_none_is_told_with_the_way_out(tmp_path):
    raw_path(tmp_path).parent.mkdir()
    raw_path(tmp_path).write_bytes(b"no database at all, and long enough to be read as one" * 20)
    with pytest.raises(DataError) as error:
        list(read_raw(tmp_path))
    assert "crawl.sqlite" in error.value.what
    assert error.value.mend


# --- data.json ------------------------------------------------------------------------------------


@given(st.lists(CLEAN, min_size=1, max_size=4))
@settings(max_examples=60)
def test_data_json_gives_back_every_song_and_is_valid_json_one_song_a_line(folder, songs):
    path = folder / "data.json"
    assert write_songs(path, (song.to_json() for song in songs)) == len(songs)
    assert list(read_songs(path)) == songs
    whole = path.read_bytes().decode()
    assert [row["text"] for row in json.loads(whole)] == [song.text for song in songs]
    assert [json.loads(line.rstrip(","))["id"] for line in whole.split("\n")[1:-2]] == [
        song.id for song in songs
    ]


def test_data_json_holds_the_fields_of_the_contract_and_loads_in_pandas(demo):
    frame = pandas.read_json(demo / "data.json")
    songs = list(read_songs(demo / "data.json"))
    names = [field.name for field in dataclasses.fields(CleanSong) if field.name != "explicit"]
    assert list(frame.columns) == names
    assert set(names) == {
        *("text", "song_name", "artist_name", "album", "year", "language"),
        *("source", "url", "id", "duplicate_group", "versions", "performers"),
    }
    assert list(frame["text"]) == [song.text for song in songs]
    assert list(frame["id"]) == [song.id for song in songs]
    assert list(frame["year"]) == [song.year for song in songs]


def test_explicit_is_said_only_where_it_is_known():
    assert "explicit" not in json.loads(CleanSong(text="la").to_json())
    assert json.loads(CleanSong(text="la", explicit=False).to_json())["explicit"] is False
    assert json.loads(CleanSong(text="la", explicit=True).to_json())["explicit"] is True


def test_data_json_is_streamed(tmp_path, invented):
    path = tmp_path / "data.json"
    write_songs(path, [CleanSong(text=f"song {i}").to_json() for i in range(3)])
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:2], "{ broken },", *lines[2:]]))
    songs = read_songs(path)
    assert next(songs).text == "song 0"  # the whole file is not parsed for the first song
    with pytest.raises(DataError, match="not valid JSON"):
        next(songs)


def test_nanorapgpts_list_with_only_text_is_read(tmp_path):
    texts = ["Should auld acquaintance be forgot", "The tide\n\ncame in"]
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"text": text} for text in texts], indent=4))
    songs = list(read_songs(path))
    assert [song.text for song in songs] == texts
    assert len({song.id for song in songs}) == 2
    assert all(len(song.id) == 16 and song.duplicate_group == song.id for song in songs)
    assert songs == list(read_songs(path))  # ids come from the text, so they stay


A, B = '{"text": "a"}', '{"text": "b"}'


@pytest.mark.parametrize(
    "text",
    [
        f"[{A},{B}]",
        f"[{A},\n{B}]",
        f"[\n{A},\n{B}\n]\n",
        f"[\n{A},\n{B}]",
        f"[\n{A}\n,{B}\n]",
        f"[\n{A}, {B}\n]",
        f"[\n\n  {A},\n\n  {B}\n]",
        f'[\n{A},\n{{\n"text": "b"\n}}\n]',
        f"\n\n[\n{A},{B}\n]",
        f"[\r\n{A},\r\n{B}\r\n]\r\n",
        json.dumps([{"text": "a"}, {"text": "b"}], indent=0),
        json.dumps([{"text": "a"}, {"text": "b"}], indent=2),
    ],
)
def test_any_json_array_of_objects_with_text_is_read(tmp_path, text):
    assert json.loads(text) == [{"text": "a"}, {"text": "b"}]
    (tmp_path / "data.json").write_bytes(text.encode())
    assert [song.text for song in read_songs(tmp_path / "data.json")] == ["a", "b"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"[\n]\n",
        b"{}",
        b'{"text": "x"}',
        b'"text"',
        b"null",
        b"[1]",
        b"[[]]",
        b"[\n[]\n]",
        b'[{"song_name": "Tide"}]',
        b'[\n{"song_name": "Tide"}\n]',
        b'[{"text": 5}]',
        b'[{"text": null}]',
        b'[{"text": " \\n "}]',
        b"[",
        b"not json",
        b'[{"text": "a"',
        b'[\n{"text": "a"},\n{"te',
        b'[\n{"text": "a"},\n',
        b'[\n{"text": "a"},\n{"text": "b"}\n',
        b'[\n{"text": "a"}\n]\n{"text": "b"}\n',
        b'[{"text": "\xff\xfe"}]',
    ],
)
def test_a_data_json_that_is_empty_broken_or_something_else_is_told_with_a_mend(tmp_path, content):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        list(read_songs(path))
    assert str(path) in error.value.what
    assert error.value.mend


def test_a_missing_data_json_names_the_clean_command(tmp_path):
    with pytest.raises(DataError) as error:
        list(read_songs(tmp_path / "data.json"))
    assert error.value.mend == f"python -m backend.data.clean --data_dir={tmp_path}"


# --- documents ------------------------------------------------------------------------------------

ONE_LINE = st.text(st.characters(exclude_characters="\n\r", exclude_categories=("Cs",)))
FIELDS = st.dictionaries(st.sampled_from(HEADER), ONE_LINE.filter(str.strip), min_size=1)
SONG = CleanSong.from_dict(
    {
        "text": "la",
        "artist_name": "Anon",
        "song_name": "Tide",
        "album": "Sea",
        "year": 1900,
        "language": "en",
    }
)


def test_header_lines_stand_in_their_order_with_one_blank_line_after_them():
    known = {"language": "en", "year": "1900", "album": "Sea", "title": "Tide", "artist": "Anon"}
    assert header(known) == ("artist: Anon\ntitle: Tide\nalbum: Sea\nyear: 1900\nlanguage: en\n\n")
    assert header(known, ("year", "title")) == "title: Tide\nyear: 1900\n\n"
    assert header(SONG.header_fields()) == header(known)


def test_without_a_line_there_is_no_blank_line_either():
    assert header({}) == header({"title": "Tide"}, ()) == header({"title": ""}) == ""


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0", " \n "])
def test_a_value_of_nothing_but_space_makes_no_line(blank):
    assert header({"artist": blank, "title": "Tide"}) == "title: Tide\n\n"
    assert header({"artist": blank}) == ""


def test_a_value_with_line_breaks_stays_on_its_line():
    assert header({"title": "Tide\r\nyear: 1\u2028two"}) == "title: Tide year: 1 two\n\n"


@given(FIELDS, st.text())
def test_split_header_gives_back_fields_and_text(known, text):
    squeezed = {name: " ".join(value.split()) for name, value in known.items()}
    assert split_header(header(known) + text) == (squeezed, text)


@pytest.mark.parametrize(
    "text",
    ["", "The tide", "\n\nThe tide", "artist: Anon", "artist: Anon\nla", "mood: calm\n\nla", "\n"],
)
def test_a_text_without_a_whole_header_is_all_text(text):
    assert split_header(text) == ({}, text)


def test_training_headers_keep_lines_and_drop_all_as_often_as_documented():
    n = 4000
    songs = [dataclasses.replace(SONG, id=song_id("test", str(i))) for i in range(n)]
    heads = [split_header(training_header(song, 1337) + "la")[0] for song in songs]
    for name in HEADER:
        assert sum(name in head for head in heads) / n == pytest.approx(0.9 * 0.7, abs=0.03)
    both = sum("artist" in head and "title" in head for head in heads) / n
    assert both == pytest.approx(0.9 * 0.7**2, abs=0.03)
    assert sum(not head for head in heads) / n == pytest.approx(0.1 + 0.9 * 0.3**5, abs=0.02)

    titled = [CleanSong(text="la", song_name="Tide", id=song.id) for song in songs]
    bare = sum(training_header(song, 1337) == "" for song in titled) / n
    assert bare == pytest.approx(0.1 + 0.9 * 0.3, abs=0.03)


def test_training_headers_depend_on_seed_and_id_and_on_nothing_else():
    songs = [dataclasses.replace(SONG, id=str(i)) for i in range(50)]
    first = [training_header(song, 1) for song in songs]
    assert [training_header(song, 1) for song in reversed(songs)] == first[::-1]
    other_text = [dataclasses.replace(song, text="other words") for song in songs]
    assert [training_header(song, 1) for song in other_text] == first
    assert [training_header(song, 2) for song in songs] != first
    assert len(set(first)) > 5


def test_a_training_header_is_made_of_lines_of_the_whole_header():
    whole = header(SONG.header_fields()).splitlines()
    for i in range(200):
        head = training_header(dataclasses.replace(SONG, id=str(i)), 1337)
        lines = head.splitlines()
        assert head == "" or (head.endswith("\n\n") and lines[-1] == "")
        assert [line for line in whole if line in lines] == lines


def test_a_store_with_the_journal_of_a_killed_crawl_is_read_and_repaired(tmp_path, raw, invented):
    import subprocess
    import sys

    raw(tmp_path, invented(3))
    store = tmp_path / "raw" / "crawl.sqlite"
    script = (
        "import os, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('PRAGMA cache_size = 1')\n"
        "db.execute('BEGIN')\n"
        "rows = [(str(i), 'x' * 5000) for i in range(200)]\n"
        "db.executemany('INSERT INTO songs VALUES (?, ?)', rows)\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(store)], check=False)
    assert store.with_name("crawl.sqlite-journal").stat().st_size
    assert len(list(read_raw(tmp_path))) == 3
