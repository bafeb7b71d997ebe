"""Cleaning: a song keeps its words and its stanzas, and nothing vanishes without a reason."""

import json
import random
import unicodedata
from collections import Counter

import pandas
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.config.schema import BinarizeConfig, CleanConfig
from backend.data import binarize, clean
from backend.data.clean import clean_text, performers, strip_headers
from backend.data.song import Song, read_raw, read_songs
from backend.errors import DataError

BURNS = (
    "Should auld acquaintance be forgot,\nAnd never brought to mind?\n"
    "Should auld acquaintance be forgot,\nAnd auld lang syne?\n\n"
    "For auld lang syne, my jo,\nFor auld lang syne,\n"
    "We'll tak a cup o' kindness yet,\nFor auld lang syne."
)
PIECES = [
    *(
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        " ",
        "\t",
        "\u00a0",
        "\u2005",
        "\u2028",
        "\u2029",
        "\x85",
        "\x0b",
    ),
    *(
        "\u200b",
        "\u200d",
        "\u00ad",
        "\ufeff",
        "\0",
        "\ud800",
        "\udfff",
        "\u0301",
        "\u0308",
        "\u0327",
    ),
    *("’", "“", "´", "`", "…", "\u1fef", "\u1ffd", "\u1100", "\u1161", "\u11a8", "a", "e", "la la"),
    *("[", "]", "[]", "[chorus:]", "[VERSE 1: A & B]", "[x2]", "[Lyrics: Name]", "(", ":", "1"),
]
MESSY = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=()), max_size=30).map(
    "".join
)


# --- clean_text as a whole ------------------------------------------------------------------------


@given(MESSY)
@settings(max_examples=400)
@example("e\0\u0301")
@example("a \u200b\u2005 b")
@example("[\u200bchorus\u00a0]\n\n\nla")
def test_cleaning_twice_changes_nothing(text):
    once = clean_text(text)
    assert clean_text(once) == once


@given(MESSY)
@settings(max_examples=200)
def test_clean_text_is_nfc_with_plain_lines_and_single_blank_ones(text):
    cleaned = clean_text(text)
    assert unicodedata.is_normalized("NFC", cleaned)
    assert "\n\n\n" not in cleaned
    assert cleaned == cleaned.strip("\n")
    assert not [c for c in cleaned if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"]
    assert all(line == line.strip() and "  " not in line for line in cleaned.split("\n"))


def test_songs_of_the_songbook_come_out_unchanged(songbook):
    assert len(songbook) == 24
    for _, _, text in songbook:
        assert clean_text(text) == text


def test_the_crawled_songbook_comes_out_as_it_was_written(demo, songbook):
    written = {title: text for _, title, text in songbook}
    songs = list(read_songs(demo / "data.json"))
    assert len(songs) == 22
    for song in songs:
        assert song.text == written[song.song_name]


def test_changed_counts_the_songs_each_rule_touched():
    changed = Counter()
    clean_text("It’s late\nla", changed)
    clean_text("It’s  late\nla", changed)
    clean_text("It's late\nla", changed)
    assert changed == {"characters": 2, "spaces": 1}


# --- characters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("don’t ‘you’ donʼt rock´n`roll", "don't 'you' don't rock'n'roll"),
        ("“so” „so” «so»", '"so" "so" "so"'),
        ("wait… what", "wait... what"),
        ("a\u00a0b\u2005c\u2009d\u202fe\u3000f\tg", "a b c d e f g"),
        ("a  \u00a0  b", "a b"),
        ("  la la  \n\tla\u00a0", "la la\nla"),
        ("to\u200bmor\u00adrow\ufeff \u2060now\u200e", "tomorrow now"),
        ("\ufeffla", "la"),
        ("la\r\nlo\rlu\u2028li", "la\nlo\nlu\nli"),
        ("la\0la\x07\x1b", "lala"),
        ("la\ud800la\udfff", "lala"),
        ("Cafe\u0301 u\u0308ber N\u0303", "Café über Ñ"),
        ("e\0\u0301", "é"),
    ],
    ids=ascii,
)
def test_characters_are_normalised(given_text, expected):
    assert clean_text(given_text) == expected


# U+1680 is a stroke in Ogham; all others look like a space.
SPACES = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) == "Zs" and c != "\u1680"]


@pytest.mark.parametrize("space", SPACES, ids=ascii)
def test_every_kind_of_space_becomes_a_space(space):
    assert clean_text(f"la{space}la") == "la la"


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x85", "\u2028", "\u2029"], ids=ascii)
def test_every_kind_of_line_end_keeps_its_words_apart(end):
    assert clean_text(f"came the tide{end}under the moon") == "came the tide\nunder the moon"


@pytest.mark.parametrize(
    "text",
    [
        "Façade, naïve, Ærø, Łódź, Þór, Straße, İstanbul, Œuvre",
        "Ночь, улица, фонарь, аптека",
        "Οι άνθρωποι τραγουδούν",
        "古池や蛙飛びこむ水の音",
        "아리랑 아리랑 아라리요",
        "שלום עליכם",
        "يا ليل يا عين",
        "वन्दे मातरम्",
        "ลอยกระทง",
        "¿Dónde estás? ¡Aquí! — 50 % & 3 < 4 #1 (oh) ~ *",
        "👩\u200d🚀 👍🏽 ❤️ 🇩🇪",
    ],
)
def test_accents_other_scripts_and_signs_are_unharmed(text):
    assert clean_text(text) == text


def test_persian_keeps_the_joiner_that_its_spelling_needs():
    text = "می\u200cخواهم بخوانم"
    assert clean_text(text) == text


# --- lines that are not sung ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[chorus:]", "[Chorus]"),
        ("[CHORUS]", "[Chorus]"),
        ("[ chorus ]", "[Chorus]"),
        ("[VERSE 1: A & B]", "[Verse 1]"),
        ("[Verse 2]", "[Verse 2]"),
        ("[verse2]", "[Verse 2]"),
        ("[Pre-Chorus]", "[Pre-Chorus]"),
        ("[pre chorus]", "[Pre-Chorus]"),
        ("[PRECHORUS 2:]", "[Pre-Chorus 2]"),
        ("[Guitar solo: Name]", "[Guitar Solo]"),
        ("[Outro : Both]", "[Outro]"),
    ],
)
def test_section_headers_are_normalised(line, expected):
    assert clean_text(f"{line}\nla la") == f"{expected}\nla la"


@pytest.mark.parametrize(
    "line",
    [
        "[x2]",
        "[whispered]",
        "[Repeat Chorus]",
        "[Chorus x2]",
        "[Verse One And A Half]",
        "[He:] I sing and [She:] I sing",
        "[oh] la la [oh]",
        "And [chorus] in the middle",
        "I sang [softly] to you",
        "[Verse 1] la la",
        "(Chorus)",
        "Chorus:",
        "[]",
        "[Words are all I have]",
        "[Recorded voice: all ashore who go ashore]",
    ],
)
def test_other_bracket_lines_and_inline_brackets_are_kept_letter_for_letter(line):
    assert line in clean_text(f"la la\n{line}\nlo lo").split("\n")


@pytest.mark.parametrize(
    "line",
    [
        "[Lyrics: Name]",
        "[Lyrics by A. Name]",
        "[Music: Name & Other]",
        "[MUSIC BY NAME]",
        "[Lyrics & Music: Name]",
        "[All lyrics by Name]",
        "[All music and lyrics are written by Name]",
        "[Written by Name]",
        "[Words: traditional]",
    ],
)
def test_credits_alone_on_their_line_are_dropped(line):
    assert clean_text(f"{line}\n\nla la\nlo lo") == "la la\nlo lo"
    assert clean_text(f"la la\n\n{line}\n\nlo lo") == "la la\n\nlo lo"


@pytest.mark.parametrize(
    "line",
    [
        "Lyrics are all I have",
        "These Lyrics by heart I know",
        "Lyrics: a word for what I sing",
        "Embed the coin in amber",
        "12Embed",
        "And in the stone Embed",
        "1. Count the ships",
        "2. Count the stars",
        "You might also like the rain",
        "Written by the moon",
    ],
)
def test_sung_lines_that_look_like_a_sites_leftovers_survive(line):
    text = f"la la\n{line}\nlo lo"
    assert clean_text(text) == text
    assert clean_text(f"{line}\nla la") == f"{line}\nla la"


# --- stanzas --------------------------------------------------------------------------------------

LINES = st.lists(
    st.tuples(
        st.sampled_from(["sung", "sung", "sung", "[Chorus]", "[verse 1:]", "[Music: N]", "[x2]"]),
        st.sampled_from(["\n", "\n", "\n\n", "\n \n", "\r\n\r\n", "\n\u00a0\n\n", "\n\n\n\n"]),
    ),
    min_size=1,
)


@given(LINES)
def test_a_stanza_break_is_never_lost_and_never_invented(lines):
    sung, source = [], ""  # (line, was there a blank line or a bracket line since the one before?)
    apart = bracket = False
    for i, (kind, end) in enumerate(lines):
        if kind == "sung":
            sung.append((f"line {i}", apart, bracket))
            apart = bracket = False
        else:
            bracket = True
        source += (f"line {i}" if kind == "sung" else kind) + end
        apart = apart or end not in ("\n",)
    cleaned = clean_text(source).split("\n")
    places = [cleaned.index(line) for line, _, _ in sung]
    assert places == sorted(places)
    for before, after, (_, was_apart, had_bracket) in zip(
        places, places[1:], sung[1:], strict=False
    ):
        if was_apart:
            assert "" in cleaned[before:after]
        elif not had_bracket:
            assert after == before + 1


def test_a_header_opens_its_stanza():
    assert (
        clean_text("la\n[Chorus]\n\n\nlo\n\n\n\n[Outro]\nlu") == "la\n\n[Chorus]\nlo\n\n[Outro]\nlu"
    )


@pytest.mark.parametrize("line", ["[x2]", "[repeat]", "[whispered]", "[oh] la la [oh]"])
def test_a_bracket_line_that_is_no_header_stays_with_its_stanza(line):
    for text in (f"la la\n{line}\n\nlo lo", f"la la\n\n{line}\nlo lo", f"la la\n{line}\nlo lo"):
        assert clean_text(text) == text


def test_strip_headers_takes_the_headers_and_keeps_stanzas_and_other_brackets():
    text = "[Verse 1]\nla\nlo\n\n[Chorus]\nlu [hey]\n\n[x2]\n\n[Outro]\nend"
    assert strip_headers(clean_text(text)) == "la\nlo\n\nlu [hey]\n\n[x2]\n\nend"


def test_performers_are_the_names_after_the_colons_in_order_and_once():
    text = "[Verse 1: Ann & Bo]\nla\n[Chorus: Cy]\nlo\n[VERSE 2: Ann & Bo]\nla\n[Outro:]\n[x: Di]"
    assert performers(text) == ("Ann & Bo", "Cy")
    assert performers("la\nlo: me") == ()
    assert performers("[Verse\u00a01: Ann\u2019s Band]") == ("Ann's Band",)


# --- the stage ------------------------------------------------------------------------------------


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


def test_the_report_names_every_dropped_song(mixed):
    folder, _ = mixed
    main(folder)
    report = (folder / "report.md").read_text(encoding="utf-8")
    for row in dropped(folder):
        assert row["reason"] in report
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


@pytest.mark.parametrize(
    "line",
    ["[Spoken: Let there be light]", "[Chorus: x2]", "[Chorus: twice]", "[Chorus: 4 times]",
     "[Outro: fade out]", "[Bridge: Why?]", "[Music by the river]", "[Words are all I have]"],
)  # fmt: skip
def test_what_is_no_name_is_not_taken_for_one(line):
    assert clean_text(f"{line}\nsung") == f"{line}\nsung"
    assert performers(line) == ()
