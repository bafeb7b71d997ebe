"""People's own lyrics: every encoding and shape that is read, and a reason for every refusal."""

import csv
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lyricsgenius.types import Album as GeniusAlbum
from lyricsgenius.types import Artist as GeniusArtist
from lyricsgenius.types import Song as GeniusSong

from backend.config.loader import program
from backend.config.schema import CrawlConfig
from backend.data.song import Song, read_raw, song_id
from backend.errors import DataError
from backend.scrapers.crawl import folder, main
from backend.scrapers.encoding import file_text
from backend.scrapers.files import read_files


def decode(data):
    return file_text(data)[0]


MOUSE = "Wee, sleekit, cow'rin, tim'rous beastie,\nO, what a panic's in thy breastie!\n\nThou need"
ACCENTS = "Ça ira — “naïve” señor"


@pytest.fixture
def write(tmp_path):
    def make(name, content):
        path = tmp_path / "songs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


@pytest.fixture
def crawl(tmp_path):
    def run(**how):
        path, data = str(tmp_path / "songs"), str(tmp_path / "data")
        return main(CrawlConfig(source=("files",), path=path, data_dir=data, **how))

    return run


def songs(path):
    """All songs under a path; none may be refused."""
    found = []
    for file, result in read_files(path):
        assert not isinstance(result, str), f"{file}: {result}"
        found += result.songs
    return found


def refusal(path):
    ((_, reason),) = read_files(path)
    assert isinstance(reason, str)
    return reason


# --- text files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "artist", "title"),
    [
        ("Robert Burns/To a Mouse.txt", "Robert Burns", "To a Mouse"),
        ("Robert Burns - To a Mouse.txt", "Robert Burns", "To a Mouse"),
        ("Poets/Robert Burns - To a Mouse.TXT", "Robert Burns", "To a Mouse"),
        ("Robert Burns - Tam - Live.txt", "Robert Burns", "Tam - Live"),
        ("Rust, Rain & Ruin - O'er.txt", "Rust, Rain & Ruin", "O'er"),
    ],
)
def test_artist_and_title_come_from_folder_and_name(write, tmp_path, name, artist, title):
    write(name, MOUSE + "\n")
    (song,) = songs(tmp_path / "songs")
    assert (song.artist, song.title, song.lyrics) == (artist, title, MOUSE)
    assert (song.source, song.kind) == ("files", "song")
    assert song.id == song_id("files", f"{name}#0")


def test_a_single_file_may_be_given(write):
    (song,) = songs(write("To a Mouse.txt", MOUSE))
    assert (song.artist or None, song.title, song.lyrics) == (None, "To a Mouse", MOUSE)


def test_the_id_of_a_song_does_not_depend_on_where_the_folder_is(write, tmp_path):
    write("a/b.txt", MOUSE)
    here = songs(tmp_path / "songs")[0].id
    (tmp_path / "songs").rename(tmp_path / "moved")
    assert songs(tmp_path / "moved")[0].id == here


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-16-le", ACCENTS),
        ("utf-16-be", ACCENTS),
        ("latin-1", "Ça ira, señor"),
        ("utf-8", ACCENTS + " 夜"),
        ("utf-8-sig", ACCENTS + " 夜"),
        ("utf-16", ACCENTS + " 夜"),
        ("cp1252", ACCENTS),
    ],
)
def test_text_in_the_usual_encodings_is_read_exactly(write, encoding, text):
    (song,) = songs(write("a.txt", (text + "\n\nWee beastie").encode(encoding)))
    assert song.lyrics == text + "\n\nWee beastie"


def test_utf16_of_either_byte_order_is_read():
    assert decode(b"\xff\xfe" + ACCENTS.encode("utf-16-le")) == ACCENTS
    assert decode(b"\xfe\xff" + ACCENTS.encode("utf-16-be")) == ACCENTS


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\ufeff")))
def test_any_utf8_text_is_read_as_it_is(text):
    assert decode(text.encode()) == text


@given(st.binary())
def test_any_bytes_are_text_or_refused(data):
    try:
        assert isinstance(decode(data), str)
    except ValueError as reason:
        assert str(reason)


def test_leading_spaces_and_blank_lines_within_a_song_are_kept(write):
    (song,) = songs(write("a.txt", "\n\n  Wee\n beastie\n\n\nO\n\n"))
    assert song.lyrics == "  Wee\n beastie\n\n\nO"


def test_an_empty_file_is_a_song_without_text(write):
    (song,) = songs(write("A - B.txt", " \n\n"))
    assert (song.kind, song.lyrics) == ("empty", None)


# --- JSON ----------------------------------------------------------------------------------------

ROWS = [
    {"text": MOUSE, "song_name": "To a Mouse", "artist_name": "Robert Burns", "year": 1785,
     "album": "Kilmarnock", "language": "en"},
    {"lyrics": ACCENTS, "title": "Ça ira", "artist": "Anon"},
    {"text": "nameless"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dump.json", json.dumps(ROWS)),
        ("dump.json", json.dumps(ROWS, ensure_ascii=False, indent=2).encode("utf-16")),
        ("dump.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n"),
        ("dump.JSONL", "\r\n".join(map(json.dumps, ROWS))),
    ],
)
def test_json_and_json_lines_of_other_projects_are_read(write, name, content):
    first, second, third = songs(write(name, content))
    assert (first.title, first.artist, first.lyrics) == ("To a Mouse", "Robert Burns", MOUSE)
    assert (first.year, first.album, first.language) == (1785, "Kilmarnock", "en")
    assert (second.title, second.artist, second.lyrics) == ("Ça ira", "Anon", ACCENTS)
    assert (third.title, third.artist, third.lyrics) == ("dump", None, "nameless")
    assert len({first.id, second.id, third.id}) == 3


@pytest.mark.parametrize("odd", ["\u2028", "\u0085", "\x7f", "\u2029"])
def test_a_json_line_may_hold_characters_that_look_like_line_ends(write, odd):
    text = f"Wee{odd}beastie"
    row = json.dumps({"text": text}, ensure_ascii=False)
    (song, other) = songs(write("dump.jsonl", row + "\n" + row))
    assert song.lyrics == other.lyrics == text


def test_text_that_is_null_gives_way_to_lyrics(write):
    (song,) = songs(write("dump.json", json.dumps([{"text": None, "lyrics": MOUSE}])))
    assert song.lyrics == MOUSE


# --- what other programs wrote -------------------------------------------------------------------


def genius_song(title, lyrics, **how):
    """As lyricsgenius makes it of what the API says."""
    artist = {"id": 7, "name": "Robert Burns"}
    known = {"id": 1, "title": title, "primary_artist": artist, "album": {"name": "Kilmarnock"},
             "release_date_components": {"year": 1786, "month": 7}, "language": "sco"}  # fmt: skip
    return GeniusSong(lyrics, known | how)


def facts(song):
    return (song.artist, song.title, song.album, song.year, song.kind, song.lyrics)


def test_dumps_of_lyricsgenius_are_read_as_it_writes_them(write, tmp_path):
    mouse, rose = genius_song("To a Mouse", MOUSE), genius_song("Rose (Live)", ACCENTS)
    silent = genius_song("Intro", None, instrumental=True)
    addresses = dict.fromkeys(
        ["api_path", "header_image_url", "image_url", "url", "cover_art_url", "full_title",
         "cover_art_thumbnail_url", "name_with_artist"], "x",
    ) | {"is_meme_verified": False, "is_verified": False}  # fmt: skip
    artist = GeniusArtist(addresses | {"name": "Robert Burns"})
    artist.songs += [mouse, rose, silent]
    album = GeniusAlbum(addresses | {"name": "Poems", "artist": {"name": "R. Burns"}},
                        [genius_song("Rose (Live)", ACCENTS, album=None)])  # fmt: skip
    write("song.json", mouse.to_json())
    write("artist.json", artist.to_json())
    write("album.json", album.to_json(ensure_ascii=False))
    write("artists.json", json.dumps({"artists": [artist.to_dict()]}))
    found = {file.stem: [facts(song) for song in result.songs]
             for file, result in read_files(tmp_path / "songs")}  # fmt: skip
    first = ("Robert Burns", "To a Mouse", "Kilmarnock", 1786, "song", MOUSE)
    assert found["song"] == [first]
    assert found["artist"] == found["artists"] == [
        first,
        ("Robert Burns", "Rose (Live)", "Kilmarnock", 1786, "song", ACCENTS),
        ("Robert Burns", "Intro", "Kilmarnock", 1786, "instrumental", None),
    ]  # fmt: skip
    assert found["album"] == [("Robert Burns", "Rose (Live)", "Poems", 1786, "song", ACCENTS)]
    (live, *_) = [s for _, result in read_files(tmp_path / "songs" / "album.json")
                  for s in result.songs]  # fmt: skip
    assert (live.track, live.version_of, live.language) == (1, "live: Rose", "sco")


def test_the_files_of_nanorapgpt_are_read(write, tmp_path):
    one = {"artist_name": "MC Burns", "song_name": "Mouse", "language": "en", "lyrics": MOUSE}
    two = one | {"song_name": "Ça", "lyrics": ACCENTS}
    write("MC Burns/meta.json", json.dumps({"0": one, "1": two, "counts": 2}, indent=4))
    rows = [{"text": "[Intro]\nWee", "song_name": "Mouse", "artist_name": "MC Burns"}]
    write("data.json", json.dumps(rows, indent=4, ensure_ascii=False))
    found = {facts(song) for song in songs(tmp_path / "songs")}
    assert found == {
        ("MC Burns", "Mouse", None, None, "song", MOUSE),
        ("MC Burns", "Ça", None, None, "song", ACCENTS),
        ("MC Burns", "Mouse", None, None, "song", "[Intro]\nWee"),
    }


ATOM = """\
# Metal Music Dataset with Complete Lyrics
# Format: Band Name → Song Titles → Full Lyrics
# For personal AI training


### ROBERT BURNS ###

=== kilmarnock ===

--- To a Mouse ---
Wee, sleekit, cow'rin
# 1 o' the beasties

--- Silence ---
[Lyrics not available or could not be extracted]

=== poems ===

--- Tam - Live ---
When chapman billies

==================================================

### ÆTHER --- RUIN ###

--- Loose ---
words
==================================================
"""


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_all_lyrics_of_atom_gpt_is_read_to_its_first_and_last_band(write, ends):
    found = songs(write("all_lyrics.txt", ATOM.replace("\n", ends)))
    assert [(s.artist, s.album, s.title, s.kind) for s in found] == [
        ("ROBERT BURNS", "kilmarnock", "To a Mouse", "song"),
        ("ROBERT BURNS", "kilmarnock", "Silence", "empty"),
        ("ROBERT BURNS", "poems", "Tam - Live", "song"),
        ("ÆTHER --- RUIN", None, "Loose", "song"),
    ]
    mouse = "Wee, sleekit, cow'rin\n# 1 o' the beasties"
    assert [s.lyrics for s in found] == [mouse, None, "When chapman billies", "words"]
    assert found[2].version_of == "live: Tam"
    assert len({s.id for s in found}) == 4


@pytest.mark.parametrize(
    ("head", "between", "encoding"),
    [
        (["Title", "Artist", "Lyrics", "Year"], ",", "utf-8"),
        (["song", "BAND", "text", "release_year"], ";", "cp1252"),
        (["song_name", "artist_name", "lyrics", "year"], "\t", "utf-16"),
    ],
)
def test_a_table_is_read_by_the_usual_names_of_its_columns(write, head, between, encoding):
    rows = [["Ça ira", "Anon", 'one, "two"\n\nthree; four', "1790-07-14"], ["B", "", "", ""]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=between).writerows([head, *rows])
    first, empty = songs(write("dump.csv", file.getvalue().encode(encoding)))
    assert facts(first) == ("Anon", "Ça ira", None, 1790, "song", rows[0][2])
    assert facts(empty) == (None, "B", None, None, "empty", None)


def test_columns_of_other_names_are_named_by_the_user(write, crawl, tmp_path):
    path = write("dump.csv", "nr,who,what,words\n1,Anon,Tide,la la\n")
    assert "no column of lyrics among nr, who, what, words" in refusal(path)
    with pytest.raises(DataError, match="no songs"):
        crawl(columns=("text=lyrics",))
    crawl(columns=("text=words", "song_name=what", "artist_name=who"))
    (song,) = read_raw(tmp_path / "data")
    assert facts(song) == ("Anon", "Tide", None, None, "song", "la la")


@pytest.mark.parametrize("pair", ["words", "text=", "lyrics=words", "=x"])
def test_a_wrong_column_map_is_told(pair):
    config = CrawlConfig(source=("files",), path="x", columns=(pair,))
    assert any("columns" in problem for problem in config.problems())


def test_our_own_raw_songs_and_data_json_are_read_back(write, tmp_path):
    raw = Song(id="1", source="darklyrics", title="Intro", kind="instrumental", artist="A", track=3)
    whole = Song(id="2", source="genius", title="B", kind="translation", artist="A", lyrics="la",
                 version_of="live: X")  # fmt: skip
    write("raw.jsonl", f"{raw.to_json()}\n{whole.to_json()}\n")
    one, two = songs(tmp_path / "songs")
    assert (one.kind, one.track, one.lyrics) == ("instrumental", 3, None)
    assert (two.kind, two.lyrics, two.version_of) == ("translation", "la", "live: X")


def test_every_file_is_in_the_report_as_read_or_refused(write, crawl, tmp_path):
    write("Anon - Tide.txt", "é".encode("latin-1"))
    write("cover.jpg", b"\xff\xd8\xff\0")
    crawl()
    report = json.loads((tmp_path / "data/raw/crawl.json").read_text())["files"]
    said = {row["file"].rpartition("/")[2]: row for row in report}
    assert said["Anon - Tide.txt"] | {"file": ""} == {
        "file": "", "songs": 1, "read_as": "a song, latin-1"}  # fmt: skip
    assert "not one of" in said["cover.jpg"]["refused"]


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("photo.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a text file"),
        ("a.txt", b"\x81\x8d no such letters", "neither UTF-8 (.*) nor Windows-1252"),
        ("a.txt", b"\xff\xfea", "utf-16"),
        ("song.mp3", b"ID3", "not one of .txt, .json, .jsonl, .csv, .tsv"),
        ("dump.csv", "", "no column of lyrics"),
        ("dump.csv", 'lyrics\n"open', "unexpected end"),
        ("dump.json", '{"songs": [5]}', "entry 1 has no text"),
        ("dump.json", '{"tracks": [{"number": 1}]}', "entry 1 has no text"),
        ("dump.json", '{"0": {"name": "x"}, "counts": 1}', "entry 1 has no text"),
        ("dump.json", "{", "Expecting"),
        ("dump.json", '{"name": "a"}', "not a list of songs"),
        ("dump.json", '[{"text": "a"}, {"title": "b"}]', "entry 2 has no text"),
        ("dump.json", '["a"]', "entry 1 has no text"),
        ("dump.json", '[{"text": 5}]', "entry 1 has no text"),
        ("dump.jsonl", '{"text": "a"}\nnot json', "Expecting"),
        ("dump.json", "[" * 100_000, ""),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(write, name, content, reason):
    said = refusal(write(name, content))
    assert re.search(reason, said) or reason in said


def test_one_bad_file_does_not_cost_the_others(write, tmp_path):
    write("bad.json", "{")
    write("good.txt", MOUSE)
    found = {path.name: result for path, result in read_files(tmp_path / "songs")}
    assert isinstance(found["bad.json"], str)
    assert found["good.txt"].songs[0].lyrics == MOUSE


def test_hidden_files_are_not_songs(write, tmp_path):
    write(".git/description.txt", "x")
    write("a/.DS_Store", "x")
    write("a/b.txt", MOUSE)
    assert [song.title for song in songs(tmp_path / "songs")] == ["b"]


def test_songs_under_a_hidden_folder_of_the_users_are_read(tmp_path):
    home = tmp_path / ".local" / "songs"
    home.mkdir(parents=True)
    (home / "a.txt").write_text(MOUSE)
    assert [song.title for song in songs(home)] == ["a"]


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        list(read_files(tmp_path / "none"))


# --- the crawl of files --------------------------------------------------------------------------


def test_own_files_are_stored_and_refusals_are_shown(write, crawl, tmp_path, capsys):
    write("Robert Burns/To a Mouse.txt", MOUSE)
    write("cover.jpg", b"\xff\xd8\xff\0")
    summary = crawl()
    assert [song.lyrics for song in read_raw(tmp_path / "data")] == [MOUSE]
    assert summary.counts["songs"] == 1
    said = capsys.readouterr().out
    assert "cover.jpg: not one of" in said
    assert "Robert Burns" in said


def test_unchanged_files_are_skipped_and_edited_ones_are_not(write, crawl, tmp_path):
    write("a.txt", MOUSE)
    write("b.txt", MOUSE)
    crawl()
    assert crawl().skipped
    write("b.txt", "Gang aft a-gley")
    again = crawl()
    assert not again.skipped
    assert again.counts["new"] == 1
    assert {song.lyrics for song in read_raw(tmp_path / "data")} == {MOUSE, "Gang aft a-gley"}


def test_max_songs_holds_per_artist_for_files_too(write, crawl, tmp_path):
    for name in ("Burns/a", "Burns/b", "Dunbar/c"):
        write(f"{name}.txt", MOUSE)
    rows = [{"text": MOUSE, "artist": artist} for artist in ("Burns", "Hogg", "Hogg")]
    write("dump.json", json.dumps(rows))
    crawl(max_songs=1)
    artists = sorted(song.artist for song in read_raw(tmp_path / "data"))
    assert artists == ["Burns", "Dunbar", "Hogg"]


def test_no_songs_at_all_is_told(write, crawl):
    write("cover.jpg", b"\xff\xd8\xff\0")
    with pytest.raises(DataError, match="no songs in .*; 1 files refused"):
        crawl()


@pytest.mark.parametrize(
    "row",
    [
        {"artist": 1349},
        {"artist": ["A", "B"]},
        {"album": 1984},
        {"artist": {"name": "A"}},
        {"title": 1999},
        {"year": "1785"},
        {"language": 5},
        {"artist": "A\0B", "title": "\0"},
        {"title": "broken emoji \ud83d"},
        {"text": "broken emoji \ud83d"},
    ],
    ids=lambda row: ascii(row),
)
def test_a_dump_with_odd_values_is_read_or_refused_never_a_crash(write, tmp_path, row, capsys):
    good = {"text": MOUSE, "artist": "A", "album": "B", "title": "C"}
    write("good.json", json.dumps([good]))
    write("odd.json", json.dumps([{"text": MOUSE, "artist": "A"} | row]))
    argv = ["--source=files", f"--path={tmp_path}/songs", f"--data_dir={tmp_path}/data"]
    assert program(main, CrawlConfig, argv) == 0
    stored = list(read_raw(tmp_path / "data"))
    refused = "refused" in capsys.readouterr().out
    assert len(stored) == (1 if refused else 2)
    for song in stored:
        for value in (song.artist, song.title, song.album, song.language):
            assert value is None or isinstance(value, str)


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ({"source": ("files",), "path": "my/songs/"}, "data/songs"),
        ({"source": ("files",), "path": "dump.json"}, "data/dump"),
        ({"source": ("demo",)}, "data/demo"),
        ({"source": ("darklyrics",)}, "data/darklyrics"),
        ({"source": ("demo", "files"), "path": "x"}, "data/lyrics"),
        ({"source": ("demo",), "data_dir": "elsewhere"}, "elsewhere"),
    ],
)
def test_songs_go_to_a_folder_named_after_their_source(how, where):
    assert folder(CrawlConfig(**how)).as_posix() == where


def test_folders_name_artist_and_album_and_numbers_are_no_artists(tmp_path):
    names = ["Opeth/01 - Song.txt", "Burns/Songs/02 - Tam Glen.txt", "Burns/Ae Fond Kiss.txt",
             "Anon - Tide.txt", "Loose.txt"]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("words\n")
    songs = {s.title: s for _, found in read_files(tmp_path) for s in found.songs}
    assert {t: (s.artist, s.album, s.track) for t, s in songs.items()} == {
        "Song": ("Opeth", None, 1),
        "Tam Glen": ("Burns", "Songs", 2),
        "Ae Fond Kiss": ("Burns", None, None),
        "Tide": ("Anon", None, None),
        "Loose": (None, None, None),
    }


def test_a_song_whose_file_is_gone_is_forgotten_and_other_folders_are_left_alone(tmp_path, capsys):
    def crawl(folder):
        return main(CrawlConfig(source=("files",), path=str(tmp_path / folder),
                                data_dir=str(tmp_path / "data")))  # fmt: skip

    for where, names in {"a": ("Tide", "Moon"), "b": ("Star",)}.items():
        (tmp_path / where).mkdir()
        for name in names:
            (tmp_path / where / f"Anon - {name}.txt").write_text(f"{name}\n")
    crawl("a"), crawl("b")
    (tmp_path / "a/Anon - Tide.txt").unlink()
    crawl("a")
    assert "1 song forgotten" in capsys.readouterr().out
    assert {song.title for song in read_raw(tmp_path / "data")} == {"Moon", "Star"}
    (tmp_path / "a/Anon - Moon.txt").rename(tmp_path / "a/Someone - Moon.txt")
    crawl("a")
    views = sorted(path.name for path in (tmp_path / "data/raw/files").iterdir())
    assert [name[:4] for name in views] == ["anon", "some"]
    (tmp_path / "b/Anon - Star.txt").rename(tmp_path / "b/Someone - Star.txt")
    crawl("b")
    assert [p.name[:4] for p in (tmp_path / "data/raw/files").iterdir()] == ["some"]


def test_neighbours_whose_names_begin_alike_are_not_forgotten(tmp_path):
    def crawl(name):
        main(CrawlConfig(source=("files",), path=str(tmp_path / name),
                         data_dir=str(tmp_path / "data")))  # fmt: skip

    for name in ("songs", "songs2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"Anon - {name}.txt").write_text("words\n")
    (tmp_path / "a.jsonl").write_text('{"text": "long"}')
    (tmp_path / "a.json").write_text('[{"text": "short"}]')
    for name in ("songs2", "songs", "a.jsonl", "a.json"):
        crawl(name)
    assert len(list(read_raw(tmp_path / "data"))) == 4


def test_the_corpus_inside_the_folder_of_lyrics_is_no_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Anon - Tide.txt").write_text("words\n")
    config = CrawlConfig(source=("files",), path=".", data_dir="data/mine")
    assert main(config).counts["songs"] == 1
    (tmp_path / "data/mine/data.json").write_text('[{"text": "not a source"}]')
    assert main(config).skipped


def test_a_folder_full_of_music_does_not_flood_the_screen(tmp_path, capsys):
    for n in range(40):
        (tmp_path / f"{n}.mp3").write_bytes(b"ID3")
    (tmp_path / "Anon - Tide.txt").write_text("words\n")
    main(CrawlConfig(source=("files",), path=str(tmp_path), data_dir=str(tmp_path / "data")))
    out = capsys.readouterr().out
    assert "40 files refused" in out
    assert len(out.splitlines()) < 12
