"""Books of verse as Project Gutenberg prints them: poems found, and nothing that stands around."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.config.schema import CrawlConfig
from backend.data.song import read_raw
from backend.errors import DataError, UserError
from backend.scrapers import crawl
from backend.scrapers.crawl import main
from backend.scrapers.gutenberg import Stanza, Work, lyrics, natural, one_author, poems, year
from tests.conftest import ROOT

BOOK = """\
The Project Gutenberg EBook of Songs of Many Kinds, by Various

Title: Songs of Many Kinds

*** START OF THIS PROJECT GUTENBERG EBOOK SONGS OF MANY KINDS ***

Produced by Somebody and the Online
Distributed Proofreading Team



[Transcriber's Note: Italics are marked by
underscores.]



SONGS OF MANY KINDS




CONTENTS


THE TYGER                         1
A Red, Red Rose                   2
The Wind                          4




INTRODUCTION


Those who print verse are in the habit of saying a word before it, and
this word is as long as others are. It goes on for several lines, which
are filled to their ends as prose is, and it quotes what it likes best,
for which reason a reader of such books has to be told apart from those
who look for poems alone: what stands here is a poem of somebody else,
and it is cut short by whoever wrote these lines of no importance, who
goes on after it as if nothing had happened. That is why verse under a
preface is nobody's, and is left where it is, however good it may be, by
this program and by everybody else who has ever tried to read such books
by the dozen, and has found that their editors were fond of quotations.
So it is, and so it will be with prefaces until the last book has been
written by the last editor, and read to its end by nobody in the world.

    It was a lover and his lass,
    With a hey, and a ho, and a hey nonino,
    That o'er the green corn-field did pass
    In the spring time, the only pretty ring time,




THE TYGER


    Tyger! Tyger! burning _bright_                       1
    In the forests of the night,
    What immortal hand or eye[A]
    Could frame thy fearful symmetry?

{12}

    In what distant deeps or skies                       5
    Burnt the fire of thine eyes?
    On what wings dare he aspire?
    What the hand dare seize the fire?

                                        _W. B._

[Footnote A: Some copies have
"What immortal hand and eye".]




A Red, Red Rose.  [Robert Burns]

      Tune--"Major Graham."


1 O my luve's like a red, red rose
    That's newly sprung in June;
  O my luve's like the melodie
    That's sweetly play'd in tune.

      CHORUS.

  Till a' the seas gang dry, my dear,
    And the rocks melt wi' the sun--
  I will luve thee still, my dear,
    While the sands o' life shall run.

2 As fair art thou, my bonnie lass,
    So deep in luve am I;
  And I will luve thee still, my dear,
    Till a' the seas gang dry.

  Chorus.--Till a' the seas gang dry, &c.

[Illustration: a rose]




                                II
                             The Wind

  I saw you toss the kites on high
  And blow the birds about the sky,
  And all around I heard you pass, and sang with the
       ladies' skirts across the grass--

  O wind, a-blowing all day long,

  O wind, that sings so loud a song!

                               III
                             The Cow

  The friendly cow all red and white,
  I love with all my heart:
  She gives me cream with all her might,
  To eat with apple-tart.



End of the Project Gutenberg EBook of Songs of Many Kinds

*** END OF THIS PROJECT GUTENBERG EBOOK SONGS OF MANY KINDS ***

    This is a licence, and it
    Is no poem, whatever it
    Looks like to those who
    Never read a licence.
"""


def told(book=BOOK):
    return {natural(poem.title): lyrics(poem.stanzas) for poem in poems(book)}


def test_poems_are_found_under_their_titles_and_nothing_else_is():
    assert list(told()) == ["The Tyger", "A Red, Red Rose", "The Wind", "The Cow"]
    assert [poem.author for poem in poems(BOOK)] == [None, "Robert Burns", None, None]


def test_numbers_notes_italics_and_signatures_are_no_part_of_a_line():
    assert told()["The Tyger"] == (
        "Tyger! Tyger! burning bright\nIn the forests of the night,\nWhat immortal hand or eye\n"
        "Could frame thy fearful symmetry?\n\n"
        "In what distant deeps or skies\nBurnt the fire of thine eyes?\n"
        "On what wings dare he aspire?\nWhat the hand dare seize the fire?"
    )


def test_a_marked_chorus_names_all_stanzas_and_one_that_is_only_called_is_not_written():
    text = told()["A Red, Red Rose"]
    assert re.findall(r"\[.*\]", text) == ["[Verse 1]", "[Chorus]", "[Verse 2]"]
    assert "[Verse 1]\nO my luve's" in text
    assert (
        "[Chorus]\nTill a' the seas gang dry, my dear,\nAnd the rocks melt wi' the sun—\n" in text
    )
    assert text.endswith("Till a' the seas gang dry.")


def test_a_line_broken_for_want_of_room_is_whole_again_and_a_lone_line_stays():
    text = told()["The Wind"]
    assert "I heard you pass, and sang with the ladies' skirts across the grass—\n\n" in text
    assert text.endswith("O wind, a-blowing all day long,\n\nO wind, that sings so loud a song!")


def test_line_ends_of_windows_change_nothing():
    assert told(BOOK.replace("\n", "\r\n")) == told()


def test_stanzas_sung_again_in_the_same_words_are_the_chorus():
    again, other = Stanza(("Hey, ho,", "the wind!")), Stanza(("A verse", "of two"))
    sung = lyrics([other, again, Stanza(("Another", "one")), Stanza(("HEY HO", "The wind"))])
    assert re.findall(r"\[.*\]", sung) == ["[Verse 1]", "[Chorus]", "[Verse 2]", "[Chorus]"]
    assert "[" not in lyrics([again, other])


@pytest.mark.parametrize(
    ("printed", "natural_title"),
    [
        ("THE SONG OF THE CAMP.", "The Song of the Camp"),
        ("O'ER THE SEA", "O'er the Sea"),
        ("HENRY IV. AND THE KNIGHT", "Henry IV. and the Knight"),
        ("A BALLAD OF DARBYSHIRE. BY SIR ASTON COKAIN.", "A Ballad of Darbyshire"),
        ("Lass Of Cessnock Banks, The", "The Lass Of Cessnock Banks"),
        ("IV. The Shepherd", "The Shepherd"),
        ("10     Rockingham. L.M.", ""),
        ("XII.", ""),
        ("1783", ""),
        ("", ""),
    ],
)
def test_titles_are_as_people_write_them(printed, natural_title):
    assert natural(printed) == natural_title


def test_only_a_book_of_one_author_has_an_artist():
    assert one_author(["Sara Teasdale", "Sara Teasdale"]) == "Sara Teasdale"
    for names in (["A", "B"], ["Various"], ["John Bell (ed.)"], [None], ["Adams (compilers)"]):
        assert one_author(names) is None
    assert [year(text) for text in ("1842-86", "before 1926", "", None)] == [1842, 1926, None, None]


def test_a_line_of_capitals_takes_no_time():
    book = "THE TITLE\n\n" + "A line,\n" * 4 + "\n" + "A" * 60 + "!\n"
    assert len(poems(book)) == 1


@given(st.text(alphabet="AaZz .,[]-\n\r\t1I_*{}—", max_size=400))
def test_no_book_breaks_it_and_no_line_is_blank(text):
    for poem in poems(text):
        assert sum(len(stanza.lines) for stanza in poem.stanzas) >= 4
        for stanza in poem.stanzas:
            assert stanza.lines
            assert all(line.strip() == line != "" for line in stanza.lines)


def test_poems_kept_as_stanzas_are_read_from_files(tmp_path):
    def row(title, author, book):
        stanzas = [
            {"type": "verse", "lines": ["  One,", "two"]},
            {"type": "chorus", "lines": ["O"]},
        ]
        return {"title": title, "author": author, "book": book, "published": "1885-90",
                "stanzas": stanzas}  # fmt: skip

    rows = [row("THE SWING", "R. L. S.", "Verses"), row(None, "R. L. S.", "Verses"),
            row("X", "A", "Many"), row("Y y", "B", "Many")]  # fmt: skip
    copy = tmp_path / "copies" / "verse.jsonl"
    copy.parent.mkdir()
    copy.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    main(CrawlConfig(source=("files",), path=str(copy.parent), data_dir=str(tmp_path / "data")))
    found = {song.title: song for song in read_raw(tmp_path / "data")}
    assert set(found) == {"The Swing", "", "Y y"}
    swing = found["The Swing"]
    assert (swing.artist, swing.album, swing.year) == ("R. L. S.", "Verses", 1885)
    assert swing.lyrics == "[Verse 1]\n  One,\ntwo\n\n[Chorus]\nO"
    assert found["Y y"].artist is None


def test_the_lists_of_works_name_each_book_once_with_the_very_text_that_is_meant():
    rows = {}
    for name in ("verse_trained", "verse_held_out"):
        lines = (ROOT / "assets" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        rows[name] = [line.split("\t") for line in lines if not line.startswith("#")]
    every = rows["verse_trained"] + rows["verse_held_out"]
    assert len({row[3] for row in every}) == len(every) == 282
    for _, _, published, number, repository, path, commit in every:
        assert number.isdigit()
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", repository)
        assert path.endswith(".txt")
        assert re.fullmatch("[0-9a-f]{40}", commit)
        assert year(published) < 1929
    held_out = {row[0] for row in rows["verse_held_out"]}
    assert not held_out & {row[0] for row in rows["verse_trained"]}


# --- crawled --------------------------------------------------------------------------------------

LISTED = [
    Work("Songs of Many Kinds", "Various", "1885-90", "9136", "a/b_9136", "9136.txt", "c" * 40),
    Work("Winds", "R. L. Stevenson", "1885", "9137", "a/b_9137", "9137-8.txt", "d" * 40),
]


@pytest.fixture
def books(server, tmp_path, monkeypatch):
    """books(...): a crawl of two listed books from a server of this machine."""
    listed = tmp_path / "works.tsv"
    lines = ["# title\tauthor", *("\t".join(work) for work in LISTED)]
    listed.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(crawl, "WORKS", (listed,))
    server.answer(f"/a/b_9136/{'c' * 40}/9136.txt", BOOK)
    winds = BOOK.replace("kites", "k\u00eetes").replace("[Robert Burns]", "").encode("cp1252")
    server.answer(f"/a/b_9137/{'d' * 40}/9137-8.txt", winds)

    def run(**how):
        how = {"delay_s": 0.0, "data_dir": str(tmp_path / "data")} | how
        return main(CrawlConfig(source=("gutenberg",), base_url=server.address, **how))

    return run


def test_listed_books_are_crawled_into_songs_of_albums_once(books, server, tmp_path):
    assert books().counts["songs"] == 8
    found = {(song.album, song.title): song for song in read_raw(tmp_path / "data")}
    rose = found["Songs of Many Kinds", "A Red, Red Rose"]
    assert (rose.artist, rose.year, rose.source) == ("Robert Burns", 1885, "gutenberg")
    assert rose.url == "https://www.gutenberg.org/ebooks/9136#2"
    assert found["Songs of Many Kinds", "The Tyger"].artist is None  # a collection
    wind = found["Winds", "The Wind"]
    assert wind.artist == "R. L. Stevenson"
    assert "k\u00eetes" in wind.lyrics
    assert [path.rpartition("/")[2] for path in server.paths()] == ["9136.txt", "9137-8.txt"]
    server.forget()
    assert books().skipped
    assert books(force=True).counts["new"] == 0
    assert not server.paths()


def test_authors_and_books_are_chosen_by_name_and_an_unknown_one_is_told(books, server):
    assert books(artists=("r l stevenson",)).counts["songs"] == 4
    with pytest.raises(DataError, match=r"'Windz' is not on the list of works; nearest: 'Winds'"):
        books(artists=("Windz",))


def test_a_book_that_is_gone_costs_no_other(books, server, capsys):
    del server.scripts[f"/a/b_9136/{'c' * 40}/9136.txt"]
    summary = books()
    assert summary.counts["songs"] == 4
    assert summary.counts["gone"] == 1


def test_robots_txt_is_obeyed(books, server):
    server.answer("/robots.txt", "User-agent: *\nDisallow: /a/")
    with pytest.raises(UserError, match=r"robots\.txt does not allow"):
        books()
    assert not server.paths()
