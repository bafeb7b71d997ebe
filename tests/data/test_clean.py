"""Cleaning as a stage: nothing vanishes without a reason, and the same songs give the same bytes.

What is done to a text is in test_rules.py.
"""

import json
import random
import sqlite3
from dataclasses import replace

import pandas
import pytest

from backend.config.schema import BinarizeConfig, CleanConfig
from backend.data import binarize, clean, corpus_report
from backend.data.clean import guess_language
from backend.data.song import Song, raw_path, read_raw, read_songs
from backend.errors import ConfigError, DataError

BURNS = (
    "Should auld acquaintance be forgot,\nAnd never brought to mind?\n"
    "Should auld acquaintance be forgot,\nAnd auld lang syne?\n\n"
    "For auld lang syne, my jo,\nFor auld lang syne,\n"
    "We'll tak a cup o' kindness yet,\nFor auld lang syne."
)
RESULTS = ("data.json", "dropped.jsonl", "report.md", "dataset_card.md", "report.png")


@pytest.fixture(autouse=True)
def _unpainted(request, monkeypatch):
    """test_corpus_report.py looks at the picture, which takes longer than all else."""
    if not request.node.get_closest_marker("e2e"):
        monkeypatch.setattr(corpus_report, "_plot", lambda facts, path: path.write_bytes(b"PNG"))


def main(folder, **settings):
    return clean.main(CleanConfig(data_dir=str(folder), **settings))


def dropped(folder):
    lines = (folder / "dropped.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


@pytest.fixture
def mixed(raw, invented, tmp_path):
    """Songs to keep, and one of every kind that goes."""

    def songs(start):
        def one(i, **changes):
            return invented(1, start=start + i, **changes)[0]

        long = "\n".join(f"word {i} and more" for i in range(600))
        return [
            *invented(5),
            one(0, kind="instrumental", lyrics="[Instrumental]", title="Quiet"),
            one(1, kind="removed", lyrics=None),
            one(2, lyrics=None),
            one(3, lyrics="la\nla"),
            one(4, lyrics="a\nb\nc\nd"),
            one(5, lyrics=long),
            one(6, lyrics=invented(1)[0].lyrics, title="Harbour 0 (Live)"),
            one(7, lyrics="[Lyrics: Name]\u200b\0"),
        ]

    return raw(tmp_path / "mixed", songs(100)), songs(100)


def test_every_song_is_kept_or_dropped_with_its_reason(mixed):
    folder, songs = mixed
    summary = main(folder)
    rows = dropped(folder)
    assert summary.counts["in"] == len(songs) == 13
    assert summary.counts["out"] == 5
    assert summary.counts["in"] == summary.counts["out"] + sum(summary.counts["dropped"].values())
    assert len(rows) == 8
    kept = {song.id for song in read_songs(folder / "data.json")}
    assert kept | {row["id"] for row in rows} == {song.id for song in songs}
    assert {row["id"][-3:].lstrip("0"): row["reason"] for row in rows} == {
        "64": "instrumental",
        "65": "removed",
        "66": "empty",
        "67": "too few lines",
        "68": "too short",
        "69": "too long",
        "6a": "duplicate of 0000000000000000",
        "6b": "empty",
    }


def test_dropped_rows_have_the_fields_of_data_json_and_their_reason(mixed):
    folder, songs = mixed
    main(folder)
    fields = set(json.loads((folder / "data.json").read_text())[0])
    words = {song.id: (song.lyrics or "").split("\u200b")[0] for song in songs}
    for row in dropped(folder):
        assert row["reason"]
        assert fields <= set(row), "FORMATS: dropped.jsonl is the same plus `reason`"
        assert words[row["id"]] in (row["text"] or "")


def test_no_word_of_a_dropped_song_is_lost(mixed):
    folder, songs = mixed
    main(folder)
    rows = {row["id"]: json.dumps(row, ensure_ascii=False) for row in dropped(folder)}
    for song in songs:
        if song.id in rows and song.lyrics:
            assert all(
                json.dumps(w, ensure_ascii=False)[1:-1] in rows[song.id]
                for w in song.lyrics.split()
            )


def test_the_report_names_every_reason_with_a_song(mixed):
    folder, _ = mixed
    main(folder)
    report = (folder / "report.md").read_text(encoding="utf-8")
    for row in dropped(folder):
        assert row["reason"].split(" of ")[0] in report
        assert row["song_name"] in report
    assert "13 songs in, 5 kept" in report


def test_the_demo_loses_its_instrumental_and_its_live_duplicate(demo):
    rows = {row.get("title", row.get("song_name")): row["reason"] for row in dropped(demo)}
    by_title = {song.title: song.id for song in read_raw(demo)}
    assert rows == {
        "Lamps on Wether Moor": "instrumental",
        "Snowed In at the Library (Live)": f"duplicate of {by_title['Snowed In at the Library']}",
    }


def test_the_same_songs_give_the_same_bytes_wherever_and_in_whatever_order(tmp_path, raw, mixed):
    _, songs = mixed
    first = raw(tmp_path / "one", songs)
    second = raw(tmp_path / "deep" / "er" / "two", random.Random(5).sample(songs, len(songs)))
    main(first)
    main(second)
    for name in ("data.json", "dropped.jsonl", "report.md"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    before = (first / "data.json").read_bytes()
    assert not main(first, force=True).skipped
    assert (first / "data.json").read_bytes() == before


def test_a_second_run_has_nothing_to_do_and_new_settings_do(mixed, capsys):
    folder, _ = mixed
    main(folder)
    assert main(folder).skipped
    assert "nothing to do" in capsys.readouterr().out
    assert not main(folder, min_lines=9).skipped
    assert not main(folder, min_lines=9, force=True).skipped


def test_a_moved_corpus_stays_clean(corpus, tmp_path):
    moved = corpus.rename(tmp_path / "moved")
    assert main(moved).skipped


def test_raw_files_with_a_song_twice_count_it_once(tmp_path, invented):
    folder = tmp_path / "raw" / "files"
    folder.mkdir(parents=True)
    songs = [*invented(2), *invented(1, start=7, kind="removed", lyrics=None)]
    for name in ("new-name.jsonl", "old-name.jsonl"):
        (folder / name).write_text("".join(song.to_json() + "\n" for song in songs))
    counts = main(tmp_path).counts
    assert counts["in"] == 3
    assert counts["in"] == counts["out"] + sum(counts["dropped"].values())
    assert len(dropped(tmp_path)) == 1


def test_strip_takes_section_headers_from_the_texts_and_keeps_the_performers(corpus, raw, tmp_path):
    main(corpus, section_headers="strip")
    songs = list(read_songs(corpus / "data.json"))
    assert not any(line.startswith("[") for song in songs for line in song.text.split("\n"))
    song = Song(id="1", source="files", title="T", kind="song", lyrics=f"[Verse: Ann]\n{BURNS}")
    folder = raw(tmp_path / "named", [song])
    main(folder, section_headers="strip")
    (cleaned,) = read_songs(folder / "data.json")
    assert cleaned.performers == ("Ann",)
    assert cleaned.text == BURNS


def test_songs_carry_what_the_source_said_of_them(tmp_path, raw):
    song = Song(
        id="00ff",
        source="files",
        url="http://songbook.invalid/x#1",
        title="Auld Lang Syne",
        artist="Robert Burns",
        album="Museum",
        year=1796,
        language="sco",
        kind="song",
        lyrics=BURNS,
    )
    main(raw(tmp_path, [song]))
    (row,) = json.loads((tmp_path / "data.json").read_text())
    assert row == {
        "text": BURNS,
        "song_name": "Auld Lang Syne",
        "artist_name": "Robert Burns",
        "album": "Museum",
        "year": 1796,
        "language": "sco",
        "source": "files",
        "url": "http://songbook.invalid/x#1",
        "id": "00ff",
        "duplicate_group": "00ff",
        "versions": [],
        "performers": [],
    }


def test_save_dir_takes_the_results_and_leaves_the_corpus_alone(tmp_path, raw, invented):
    folder = raw(tmp_path / "corpus", invented(3))
    summary = main(folder, save_dir=str(tmp_path / "elsewhere"))
    assert summary.folder == tmp_path / "elsewhere"
    assert (tmp_path / "elsewhere" / "data.json").is_file()
    assert [path.name for path in folder.iterdir()] == ["raw"]


def test_where_everything_is_dropped_binarize_says_so(tmp_path, raw, invented):
    folder = raw(tmp_path, invented(3, lyrics="la\nla"))
    assert main(folder).counts == {"in": 3, "out": 0, "dropped": {"too few lines": 3}}
    assert json.loads((folder / "data.json").read_text()) == []
    assert len(pandas.read_json(folder / "data.json")) == 0
    with pytest.raises(DataError, match="holds no songs") as error:
        binarize.main(BinarizeConfig(data_dir=str(folder)))
    assert "dropped" in error.value.why
    assert "min_lines" in error.value.mend


def test_a_text_of_credits_alone_is_dropped_whatever_the_limits(tmp_path, raw, invented):
    folder = raw(tmp_path, [*invented(1), *invented(1, start=1, lyrics="[Lyrics: Name]")])
    assert main(folder, min_lines=0, min_chars=0).counts["out"] == 1
    assert all(row["text"] for row in json.loads((folder / "data.json").read_text()))


def test_without_raw_songs_the_crawl_command_is_named(tmp_path):
    with pytest.raises(DataError) as error:
        main(tmp_path / "new")
    assert "python -m backend.scrapers.crawl" in error.value.mend
    assert not (tmp_path / "new" / "data.json").exists()


def kept(folder):
    return {song.id: song for song in read_songs(folder / "data.json")}


def reasons(folder):
    return {row["id"]: row["reason"] for row in dropped(folder)}


def test_a_crawled_songbook_comes_out_as_it_was_written(demo, songbook):
    written = {title: text for _, title, text in songbook}
    songs = list(read_songs(demo / "data.json"))
    assert len(songs) == len(songbook) - 2
    for song in songs:
        assert song.text == written[song.song_name]


def test_data_json_is_json_and_loads_with_pandas(mixed):
    folder, _ = mixed
    main(folder)
    rows = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    frame = pandas.read_json(folder / "data.json")
    assert list(frame["text"]) == [row["text"] for row in rows]
    assert list(frame["id"].astype(str).str.zfill(16)) == [row["id"] for row in rows]
    frame = pandas.read_json(folder / "dropped.jsonl", lines=True)
    assert list(frame["reason"]) == [row["reason"] for row in dropped(folder)]


# --- songs that somebody asked to leave out -------------------------------------------------------


@pytest.fixture
def wanted(raw, tmp_path):
    """Three songs of three artists, two on one page."""

    def song(i, artist, page):
        words = "\n".join(f"{artist} sang by harbour {i} number {line}" for line in range(8))
        url = f"https://songbook.invalid/Lyrics/{page}.html#{i}"
        return Song(
            id=f"{i:016x}", source="files", title=f"T{i}", artist=artist, kind="song", url=url,
            lyrics=words,
        )  # fmt: skip

    songs = [song(1, "Ann Opal", "sea"), song(2, "Ann Opal", "sea"), song(3, "Bo O’Dell", "land")]
    return raw(tmp_path / "wanted", songs)


@pytest.mark.parametrize(
    ("entry", "gone"),
    [
        ("0000000000000002", {2}),
        ("https://songbook.invalid/Lyrics/sea.html#2", {2}),
        ("http://www.songbook.invalid/lyrics/sea.html#2", {2}),
        ("songbook.invalid/Lyrics/sea.html#1", {1}),
        ("https://songbook.invalid/Lyrics/sea.html", {1, 2}),
        ("songbook.invalid/lyrics/sea.html/", {1, 2}),
        ("Ann Opal", {1, 2}),
        ("  ann   OPAL ", {1, 2}),
        ("Bo O’Dell", {3}),
        ("bo o'dell", {3}),  # as data.json has it, and as people type it
        ("# Ann Opal", set()),
        ("", set()),
        ("Ann", set()),
        ("/", set()),
        ("https://", set()),
        ("songbook.invalid", set()),
    ],
)
def test_an_entry_of_the_exclude_file_leaves_out_what_it_names(wanted, entry, gone):
    (wanted / "exclude.txt").write_text(f"# asked by letter\n\n{entry}\n", encoding="utf-8")
    summary = main(wanted)
    assert {row["id"] for row in dropped(wanted)} == {f"{i:016x}" for i in gone}
    assert summary.counts["dropped"] == ({"excluded": len(gone)} if gone else {})
    assert summary.counts["out"] == 3 - len(gone)


def test_an_entry_that_is_no_address_leaves_out_no_song_without_one(raw, tmp_path, invented):
    folder = raw(tmp_path, invented(3, artist=None))
    (folder / "exclude.txt").write_text("https://\n/\n")
    assert main(folder).counts["out"] == 3


def test_of_an_excluded_song_no_text_is_kept(wanted):
    main(wanted)
    (wanted / "exclude.txt").write_text("Ann Opal\n")
    assert not main(wanted).skipped  # it appeared since
    for row in dropped(wanted):
        assert (row["reason"], row["text"], row["artist_name"]) == ("excluded", "", "Ann Opal")
        assert row["url"]
    for name in ("data.json", "dropped.jsonl", "report.md", "dataset_card.md"):
        assert "Ann Opal sang" not in (wanted / name).read_text(encoding="utf-8")
    assert main(wanted).skipped
    assert main(wanted, force=True).counts["out"] == 1  # and so at every rebuild
    (wanted / "exclude.txt").unlink()
    assert main(wanted).counts["out"] == 3


def test_an_entry_that_names_no_song_is_a_note_and_in_the_report(wanted, capsys):
    (wanted / "exclude.txt").write_text("Ann Opal\nNobody & Co\n", encoding="utf-8-sig")
    summary = main(wanted)
    assert len(summary.notes) == 1
    assert "'Nobody & Co' names no song here" in summary.notes[0]
    assert "Nobody & Co" in capsys.readouterr().out
    assert "Nobody & Co" in (wanted / "report.md").read_text(encoding="utf-8")
    assert summary.counts["dropped"] == {"excluded": 2}


def test_the_exclude_file_may_lie_elsewhere(wanted, tmp_path):
    other = tmp_path / "asked.txt"
    other.write_text("Ann Opal")
    assert main(wanted, exclude=str(other)).counts["out"] == 1
    other.write_text("Bo O’Dell", encoding="utf-8")
    assert main(wanted, exclude=str(other)).counts["out"] == 2


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00 no text"])
def test_an_exclude_file_that_cannot_be_read_stops_everything(wanted, tmp_path, content):
    path = tmp_path / "asked.txt"
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        main(wanted, exclude=str(path))
    assert str(path) in error.value.what
    assert error.value.mend
    assert not (wanted / "data.json").exists()


# --- languages ------------------------------------------------------------------------------------

LINES = {
    "en": "The river is wide and the night is long\nI carry my lantern over the hill\n"
    "Nobody knows where the water has gone\nBut I hear it singing still\n"
    "Come down to the bank when the morning is grey\nAnd we will be carried away",
    "de": "Der Fluss ist so breit und die Nacht ist so lang\nIch trage die Lampe den Hügel hinauf\n"
    "Und niemand weiß wohin das Wasser verschwand\nDoch höre ich immer noch seinen Lauf\n"
    "Komm mit mir ans Ufer wenn der Morgen ergraut\nDann singen wir beide ganz laut",
    "es": "El río es muy ancho y la noche también\nYo llevo mi lámpara sobre el lugar\n"
    "Y nadie conoce el camino del tren\nPero yo lo escucho todavía cantar\n"
    "Ven conmigo a la orilla cuando llegue el sol\nY seremos llevados los dos",
    "fr": "La rivière est large et la nuit est si longue\nJe porte ma lampe en haut du chemin\n"
    "Personne ne sait où les eaux se confondent\nMais je les entends chanter le matin\n"
    "Viens donc sur la rive quand le jour se lève\nNous serons portés comme dans un rêve",
    "ru": "Река широка и длинна эта ночь\nЯ лампу несу через тёмный холм\n"
    "Никто не узнает куда я ушёл\nНо слышу я песню и знаю о ком\n"
    "Приди же на берег когда рассветёт\nИ нас унесёт это пение вод",
    "ja": "川は広くて夜は長い\n丘を越えてランプを運ぶ\n水がどこへ行ったのか誰も知らない\n"
    "それでも歌は聞こえている\n朝になったら岸辺においで\n二人で遠くへ流れて行こう",
}


@pytest.mark.parametrize("code", [code for code in LINES if code != "ja"])
def test_the_language_of_a_song_is_guessed(code):
    assert guess_language(LINES[code].split("\n")) == code


@pytest.mark.parametrize(
    "text",
    ["", "la la la la\nla la la\nla la la la", "oh oh oh\nhey hey\nna na na na hey", "1 2 3\n4 5",
     "ooh yeah\nooh yeah baby\nyeah"],
)  # fmt: skip
def test_vocables_are_no_language(text):
    assert guess_language(text.split("\n")) is None


def test_a_song_in_two_halves_of_two_languages_is_of_many():
    assert guess_language(f"{LINES['en']}\n{LINES['de']}".split("\n")) == "mul"
    assert guess_language("\n".join([LINES["ru"]] * 2 + [LINES["es"]] * 2).split("\n")) == "mul"
    assert guess_language(f"{LINES['en']}\n{LINES['en']}".split("\n")) == "en"


def test_a_line_in_another_language_changes_nothing():
    lines = f"{LINES['en']}\n{LINES['en']}".split("\n")
    assert guess_language([*lines, LINES["de"].split("\n")[0]]) == "en"


@pytest.fixture
def polyglot(raw, tmp_path, invented):
    la = "\n".join(["la la la la la la la la la la la"] * 9)
    songs = [
        *invented(1, 1, lyrics=LINES["en"]),
        *invented(1, 2, lyrics=LINES["de"]),
        *invented(1, 3, lyrics=LINES["es"], language="de"),  # the source knows better
        *invented(1, 4, lyrics=la),
        *invented(1, 5, lyrics=f"{LINES['fr']}\n\n{LINES['en']}"),
    ]
    return raw(tmp_path / "polyglot", songs)


@pytest.mark.parametrize(
    ("languages", "left"),
    [
        ((), {1: "en", 2: "de", 3: "de", 4: None, 5: "mul"}),
        (("de",), {2: "de", 3: "de"}),
        (("en", "mul"), {1: "en", 5: "mul"}),
        (("es",), {}),
    ],
)
def test_songs_in_other_languages_are_dropped_with_theirs(polyglot, languages, left):
    main(polyglot, languages=languages)
    rows = json.loads((polyglot / "data.json").read_text())
    assert {int(row["id"], 16): row["language"] for row in rows} == left
    told = {1: "en", 2: "de", 3: "de", 4: "unknown", 5: "mul"}
    assert {int(key, 16): reason for key, reason in reasons(polyglot).items()} == {
        i: f"language {code}" for i, code in told.items() if i not in left
    }
    assert all(row["text"] for row in dropped(polyglot))


# --- explicit songs -------------------------------------------------------------------------------


@pytest.fixture
def rude(raw, tmp_path, invented):
    words = invented(1)[0].lyrics
    songs = [
        *invented(1, 1),
        *invented(1, 2, lyrics=words + "\nwhat a Gosh of a night"),
        *invented(1, 3, lyrics=words.replace("Ship", "Boat") + "\nhe was goshing about"),
        *invented(1, 4, lyrics=words.replace("Ship", "Raft") + "\nDARNED if I know"),
        *invented(1, 5, lyrics=words.replace("Ship", "Tug") + "\nundarned socks"),
    ]
    (tmp_path / "words.txt").write_text("# mild ones\ngosh\n\ndarn*\n")
    return raw(tmp_path / "rude", songs), tmp_path / "words.txt"


def test_nothing_is_filtered_for_its_words_unless_asked(rude):
    folder, words = rude
    for settings in ({}, {"explicit_words": str(words)}):
        assert main(folder, force=True, **settings).counts["out"] == 5
        assert all("explicit" not in row for row in json.loads((folder / "data.json").read_text()))


def test_explicit_songs_are_flagged_or_dropped_by_a_list_of_ones_own(rude):
    folder, words = rude
    main(folder, explicit="flag", explicit_words=str(words))
    flags = {int(key, 16): song.explicit for key, song in kept(folder).items()}
    assert flags == {1: False, 2: True, 3: False, 4: True, 5: False}
    assert "2 songs are explicit" in (folder / "report.md").read_text()

    summary = main(folder, explicit="drop", explicit_words=str(words))
    assert summary.counts["dropped"] == {"explicit": 2}
    assert {int(key, 16) for key in reasons(folder)} == {2, 4}
    assert all("Harbour" in row["song_name"] and row["text"] for row in dropped(folder))
    assert main(folder, explicit="drop", explicit_words=str(words)).skipped
    words.write_text("gosh*")
    assert not main(folder, explicit="drop", explicit_words=str(words)).skipped
    assert {int(key, 16) for key in reasons(folder)} == {2, 3}


def test_the_list_that_comes_with_the_program_is_read(rude):
    folder, _ = rude
    assert clean.WORDS.is_file()
    assert main(folder, explicit="drop").counts["out"] == 5
    assert main(folder, explicit="flag").counts["out"] == 5
    assert not any(song.explicit for song in kept(folder).values())


def test_a_list_of_words_that_is_missing_is_named(rude, tmp_path):
    folder, _ = rude
    with pytest.raises(ConfigError) as error:
        main(folder, explicit="drop", explicit_words=str(tmp_path / "none.txt"))
    assert "none.txt" in error.value.what


# --- repeats and headers --------------------------------------------------------------------------


def test_repeats_are_kept_written_out_or_taken_away(raw, tmp_path, invented):
    lyrics = (
        "[Verse 1]\n"
        + invented(1)[0].lyrics
        + "\n\n[Chorus]\nAway with the tide (x2)\nand home\n\n"
        "[Verse 2]\nAnother harbour\nanother day\n\n[Repeat Chorus]"
    )
    folder = raw(tmp_path, invented(1, lyrics=lyrics))

    def text(mode):
        main(folder, repeats=mode)
        (song,) = read_songs(folder / "data.json")
        return song.text

    assert text("keep") == lyrics
    expanded = text("expand")
    assert expanded.count("Away with the tide\nAway with the tide\nand home") == 2
    assert "Repeat" not in expanded
    assert "x2" not in expanded
    once = text("once")
    assert once.count("Away with the tide") == 1
    assert "Repeat" not in once
    assert "x2" not in once


# --- translations ---------------------------------------------------------------------------------


@pytest.fixture
def translated(raw, tmp_path, invented):
    under = f"{LINES['de']}\n\n[English translation:]\n\n{LINES['en']}"
    return raw(tmp_path / "translated", [*invented(2), *invented(1, 7, lyrics=under)])


def test_a_translation_under_a_song_becomes_a_row_of_its_own(translated):
    counts = main(translated).counts
    assert counts == {"in": 3, "out": 3, "translations split off": 1, "dropped": {}}
    song = kept(translated)[f"{7:016x}"]
    assert song.text == LINES["de"]
    assert song.language == "de"
    (row,) = dropped(translated)
    assert row["text"] == LINES["en"]
    assert row["reason"] == f"translation of {song.id}"
    assert row["id"] == song.id
    assert row["song_name"] == song.song_name
    report = (translated / "report.md").read_text(encoding="utf-8")
    assert "1 songs had a translation under them" in report


def test_counts_add_up_where_a_song_with_a_translation_is_dropped(translated):
    counts = main(translated, languages=("en",)).counts
    assert counts["in"] == counts["out"] + sum(counts["dropped"].values()) == 3
    assert "translations split off" not in counts
    (row,) = [row for row in dropped(translated) if row["id"] == f"{7:016x}"]
    assert row["reason"] == "language de"
    assert LINES["de"].split("\n")[0] in row["text"]
    assert LINES["en"].split("\n")[-1] in row["text"], "no word is lost"


# --- what is no song ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(artist="Genius English Translations"), "translation"),
        (dict(artist="Genius Traducciones al Español"), "translation"),
        (dict(artist="Genius Deutsche Übersetzungen"), "translation"),
        (dict(artist="Genius Traductions françaises"), "translation"),
        (dict(artist="Genius Traduções em Português"), "translation"),
        (dict(artist="Genius Türkçe Çeviriler"), "translation"),
        (dict(artist="Genius Romanizations"), "translation"),
        (dict(artist="Genius Russian Translations (Русские переводы)"), "translation"),
        (dict(title="Tide (English Translation)"), "translation"),
        (dict(title="Ann - Tide (Deutsche Übersetzung)"), "translation"),
        (dict(title="Tide [Traducción al Español]"), "translation"),
        (dict(title="Tide (Romanized)"), "translation"),
        (dict(title="Tide [Tracklist]"), "nonsong"),
        (dict(title="Sea (Album Artwork)"), "nonsong"),
        (dict(title="Sea [Liner Notes]"), "nonsong"),
        (dict(title="Tracklist"), "nonsong"),
        (dict(title="Home (Skit)"), "nonsong"),
        (dict(source="genius", url="https://songs.invalid/Ann-sea-annotated"), "nonsong"),
        (dict(kind="unreleased"), "unreleased"),
        (dict(kind="removed"), "removed"),
        (dict(kind="translation"), "translation"),
        (dict(lyrics="   \n\n"), "empty"),
        (dict(lyrics="[Instrumental]"), "instrumental"),
        (dict(lyrics="Lyrics for this song have yet to be released. Please check back once the "
              "song has been released."), "unreleased"),
        # and songs that only sound like one
        (dict(artist="Genius"), None),
        (dict(artist="The Genius Translations of Ann, a band"), None),
        (dict(artist="Genius Child Orchestra"), None),
        (dict(title="Translation"), None),
        (dict(title="Lost in Translation"), None),
        (dict(title="Skit"), None),
        (dict(title="Credits"), None),
        (dict(title="Interview with the Sea"), None),
        (dict(url="https://songs.invalid/Ann-sea-annotated"), None),
    ],
    ids=lambda value: ascii(value)[:50],
)  # fmt: skip
def test_what_the_source_calls_no_song_is_dropped_as_that(raw, tmp_path, invented, changes, reason):
    folder = raw(tmp_path, [*invented(1), *invented(1, 1, **changes)])
    main(folder)
    assert list(reasons(folder).values()) == ([reason] if reason else [])


# --- versions -------------------------------------------------------------------------------------


def test_of_versions_the_studio_one_is_kept_then_the_longest_then_the_smallest_id(
    raw, tmp_path, invented
):
    words = [invented(1, i)[0].lyrics for i in range(3)]
    songs = [
        *invented(1, 0x10, title="Tide (Live)", lyrics=words[0] + "\nThank you good night"),
        *invented(1, 0x11, title="Tide", lyrics=words[0]),
        *invented(1, 0x12, title="Tide (Demo)", lyrics=words[0]),
        *invented(1, 0x20, title="Land", lyrics=words[1]),
        *invented(1, 0x21, title="Land", lyrics=words[1] + "\nand one line more"),
        *invented(1, 0x30, title="Sky", lyrics=words[2]),
        *invented(1, 0x31, title="Sky", lyrics=words[2].upper()),
    ]
    main(raw(tmp_path, songs))
    chosen = {
        int(song.id, 16): (int(song.duplicate_group, 16), [int(v, 16) for v in song.versions])
        for song in kept(tmp_path).values()
    }
    assert chosen == {0x11: (0x10, [0x10, 0x12]), 0x21: (0x20, [0x20]), 0x30: (0x30, [0x31])}
    assert reasons(tmp_path) == {
        f"{i:016x}": f"duplicate of {best:016x}"
        for i, best in ((0x10, 0x11), (0x12, 0x11), (0x20, 0x21), (0x31, 0x30))
    }


def test_near_versions_are_found_as_asked(raw, tmp_path, invented):
    lyrics = invented(1)[0].lyrics  # eight lines
    other = "\n".join([*lyrics.split("\n")[:7], "another end"])  # 7 of 9: 0.78
    folder = raw(tmp_path, [*invented(1, lyrics=lyrics), *invented(1, 1, lyrics=other)])
    assert main(folder, near_duplicate=0.7).counts["out"] == 1
    assert main(folder, near_duplicate=0.95).counts["out"] == 2
    assert main(folder, near_duplicate=1.0).counts["out"] == 2


# --- many songs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Enough songs that processes start: of every kind, with versions among them."""
    draw = random.Random(5)
    folder = tmp_path_factory.mktemp("many") / "corpus"
    (folder / "raw" / "files").mkdir(parents=True)
    words = ["tide", "river", "lantern", "harbour", "winter", "window", "letter", "thunder"]
    lines = []
    for i in range(6 * clean.PIECE + 7):
        text = "\n".join(
            f"{draw.choice(words)} {draw.choice(words)} and {draw.choice(words)} {i} {line}"
            for line in range(draw.choice((1, 6, 9)))
        )
        if i % 50 == 7:
            text = lines[i - 7].partition("|")[2].replace("\\n", "\n")
        song = Song(
            id=f"{i:016x}",
            source="files",
            title=f"Song {i}" + " (Live)" * (i % 3 == 0),
            artist=f"Singer {i % 17}",
            year=1900 + i % 90 if i % 4 else None,
            kind="instrumental" if i % 97 == 0 else "song",
            lyrics="[chorus:]\n" + text if i % 5 else text + "\n\n[Chorus x2]",
        )
        lines.append(f"|{text}")
        with (folder / "raw" / "files" / "a.jsonl").open("a", encoding="utf-8") as file:
            file.write(song.to_json() + "\n")
    return folder


@pytest.mark.e2e
def test_the_number_of_workers_changes_no_byte(many):
    found = []
    for count in (1, 2, 3):
        counts = main(many, workers=count, force=True).counts
        assert counts["in"] == counts["out"] + sum(counts["dropped"].values())
        found.append({name: (many / name).read_bytes() for name in RESULTS})
    assert found[0] == found[1] == found[2]
    assert {"too few lines", "instrumental", "duplicate"} <= counts["dropped"].keys()
    for name in RESULTS[:-1]:
        assert b"2026" not in found[0][name], "it depends on the day"


def test_what_decides_nothing_makes_nothing_again(mixed, tmp_path):
    folder, _ = mixed
    main(folder, workers=1)
    assert main(folder, workers=2).skipped
    moved = folder.rename(tmp_path / "moved")
    assert main(moved).skipped
    for changes in (dict(near_duplicate=0.8), dict(languages=("en",)), dict(repeats="once")):
        assert not main(moved, **changes).skipped
        assert main(moved, **changes).skipped


@pytest.mark.parametrize("place", ["a song", "the report"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
def test_a_kill_in_the_middle_leaves_the_old_files_whole(mixed, raw, monkeypatch, place, fault):
    folder, songs = mixed
    main(folder)
    before = {name: (folder / name).read_bytes() for name in (*RESULTS, "clean.manifest.json")}
    calls = []

    def dies(*words, **settings):
        calls.append(words)
        if len(calls) == 5 or place == "the report":
            raise fault
        return real(*words, **settings)

    raw(folder, [Song(id="ff", source="files", title="T", kind="song", lyrics=BURNS)])
    with monkeypatch.context() as patch:
        name = "clean_text" if place == "a song" else "split_translation"
        real = getattr(clean, name)
        patch.setattr(clean, name, dies)
        with pytest.raises(fault):
            main(folder, workers=1)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert not [path.name for path in folder.iterdir() if "tmp" in path.name]
    assert main(folder).counts["in"] == len(songs) + 1


def test_a_kill_while_data_json_is_written_leaves_the_old_one(mixed, monkeypatch):
    folder, _ = mixed
    main(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    get, calls = clean.Rows.get, []

    def dies(self, number):
        calls.append(number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return get(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(clean.Rows, "get", dies)
        with pytest.raises(KeyboardInterrupt):
            main(folder, min_lines=2)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert main(folder).skipped


def test_versions_of_a_song_that_was_asked_to_be_removed_go_with_it(raw, tmp_path, invented):
    one, other, third = invented(3)
    live = replace(other, id="f" * 16, title="Harbour 1 (Live)", artist="Somebody else")
    folder = raw(tmp_path, [one, other, third, live])
    (folder / "exclude.txt").write_text(f"{other.id}\n{third.artist}\n", encoding="utf-8")
    assert main(folder).counts == {"in": 4, "out": 1, "dropped": {"excluded": 3}}
    gone = {row["id"]: row for row in dropped(folder)}
    assert gone[live.id]["reason"] == f"excluded with {other.id}"
    assert {row["text"] for row in gone.values()} == {""}


def test_covers_by_an_excluded_artist_take_no_original_with_them(raw, tmp_path, invented):
    (one,) = invented(1)
    cover = replace(one, id="0" * 15 + "9", artist="The Cover Band")
    folder = raw(tmp_path, [one, cover])
    (folder / "exclude.txt").write_text("The Cover Band\n", encoding="utf-8")
    main(folder)
    assert [song.id for song in read_songs(folder / "data.json")] == [one.id]


@pytest.mark.parametrize("words", ["", "# none\n", "*\n", "f*ck\n", "***ing\n"])
def test_a_list_of_words_that_cannot_work_is_refused(raw, tmp_path, invented, words):
    folder = raw(tmp_path, invented(1))
    (tmp_path / "words.txt").write_text(words, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"words\.txt"):
        main(folder, explicit="drop", explicit_words=str(tmp_path / "words.txt"))


@pytest.mark.parametrize(
    ("said", "language"), [("EN", "en"), ("pt-BR", "pt"), ("English", "en"), (None, "en")]
)
def test_a_language_is_a_code_whatever_the_source_writes(raw, tmp_path, said, language):
    text = (
        "The river carries all my letters down to the sea\nand nobody on the shore will read them\n"
        "I wrote of the winter and the broken windows\nand of the lamp that my mother kept lit\n"
        "When the morning comes I shall walk along the harbour\nwith my hands in my empty pockets"
    )
    song = Song(id="a", source="files", title="T", kind="song", language=said, lyrics=text)
    folder = raw(tmp_path, [song])
    main(folder)
    assert [s.language for s in read_songs(folder / "data.json")] == [language]


@pytest.mark.parametrize(
    "row",
    [
        '{"id": "a", "source": "s", "title": null, "kind": "song"}',
        '{"id": "a", "source": "s", "title": "T", "kind": "song", "artist": 7}',
        '{"id": "a", "source": "s", "title": "T", "kind": "song", "year": NaN}',
        '{"id": "a\\ud800", "source": "s", "title": "T", "kind": "song"}',
        '{"id": "a", "source": "s", "title": "T", "kind": "song", "lyrics": 5}',
        "{",
    ],
)
@pytest.mark.parametrize("store", [True, False])
def test_a_raw_row_that_is_no_song_is_named(tmp_path, raw, row, store):
    if store:
        raw(tmp_path, [])
        with sqlite3.connect(raw_path(tmp_path)) as db:
            db.execute("INSERT INTO songs VALUES ('a', ?)", (row,))
        db.close()
    else:
        (tmp_path / "raw" / "files").mkdir(parents=True)
        (tmp_path / "raw" / "files" / "x.jsonl").write_text(row + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="not a song"):
        main(tmp_path)
    assert not (tmp_path / "data.json").exists()


def test_a_year_may_be_written_in_any_way(tmp_path, raw, invented):
    raw(tmp_path, [])
    with sqlite3.connect(raw_path(tmp_path)) as db:
        for i, year in enumerate((1999, "1999", 1999.0)):
            row = json.loads(invented(1, i)[0].to_json()) | {"year": year}
            db.execute("INSERT INTO songs VALUES (?, ?)", (row["id"], json.dumps(row)))
    db.close()
    main(tmp_path)
    assert {song.year for song in read_songs(tmp_path / "data.json")} == {1999}


def test_what_a_killed_run_left_goes_with_the_next(raw, tmp_path, invented):
    folder = raw(tmp_path, invented(2))
    (folder / ".tmp-data.json-x1").write_text("half a corpus")
    main(folder)
    assert not list(folder.glob(".tmp-*"))


def test_a_folder_without_songs_is_not_made(tmp_path):
    with pytest.raises(DataError, match="no songs"):
        main(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()
