"""Names of artists and titles of songs."""

import pytest

from backend.scrapers.names import Link, matching, nearest, plain, version_of
from backend.scrapers.sites import likely

LETTERS = [*"abcdefghijklmnopqrstuvwxyz", "19"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Mötley Crüe", "MOTLEY CRUE"),
        ("ÆTHER REALM", "Aether Realm"),
        ("...AAAARRGHH...", "aaaarrghh"),
        ("the ABSENCE", "Absence"),
        ("AC/DC", "ac dc"),
        ("Łzy", "LZY"),
        ("Dååth", "daath"),
        ("Blöðberg", "BLODBERG"),
        ("Straße", "STRASSE"),
        ("Rust, Rain & Ruin", "rust rain ruin"),
    ],
)
def test_accents_case_and_punctuation_do_not_matter(one, other):
    assert plain(one) == plain(other) != ""


@pytest.mark.parametrize(
    ("one", "other"), [("Opeth", "Opeths"), ("The The", "Themes"), ("Кино", "Kino"), ("311", "312")]
)
def test_other_names_stay_other_names(one, other):
    assert plain(one) != plain(other)


@pytest.mark.parametrize(
    ("name", "letters"),
    [
        ("Opeth", ["o"]),
        ("Ørkenkjøtt", ["o"]),
        ("The Absence", ["a"]),
        ("Therion", []),
        ("1349", ["19"]),
        ("7 Winters Deep", ["19"]),
        ("...And Oceans", ["a"]),
    ],
)
def test_a_name_is_looked_up_where_the_site_may_list_it(name, letters):
    assert likely(name, LETTERS) == [*letters, "t"]  # under a "The" that the name leaves out
    assert likely("!!!", LETTERS) == likely("Кино", LETTERS) == LETTERS


def test_an_exact_name_wins_over_one_that_adds_a_country():
    plain_one, other = Link("ABSURD", "u/1"), Link("ABSURD (RUSSIA)", "u/2")
    assert matching("Absurd", [plain_one, other, plain_one]) == [plain_one]
    assert matching("Absurd (Russia)", [plain_one, other]) == [other]
    assert matching("Absurd", [other]) == [other]
    assert matching("Absurdity", [plain_one, other]) == []


def test_the_nearest_names_come_first():
    links = [Link(name, name) for name in ("Opera", "OPETH", "Zeal")]
    assert nearest("Opteh", links)[0] == "OPETH"
    assert "Zeal" not in nearest("Opteh", links)


@pytest.mark.parametrize(
    ("title", "version"),
    [
        ("Dr. Feelgood (Demo)", "demo: Dr. Feelgood"),
        ("Tam - Live at Wembley", "live: Tam"),
        ("(Live) Opening", "live: Opening"),
        ("Tam [Live]", "live: Tam"),
        ("Blood (Live in Tokyo 2003)", "live: Blood"),
        ("Mouse (1988 Demo)", "demo: Mouse"),
        ("Tam - 2015 Remastered", "remaster: Tam"),
        ("Tam (Remastered 2009)", "remaster: Tam"),
        ("Tam - Radio Remix", "remix: Tam"),
        ("Tam (Remixed by A. Smith)", "remix: Tam"),
        ("Tam (Acoustic Version)", "acoustic: Tam"),
        ("Tam (Version 2)", "version: Tam"),
        ("Tam (Rab's Version) [From the Vault]", "version: Tam"),
        ("Tam (feat. Meg) [Live]", "live: Tam (feat. Meg)"),
        ("Tam (Demo) [2009 Remaster]", "demo: Tam"),
        ("Tam (Somebody Else cover)", "cover: Tam"),
        ("Live and Let Die", None),
        ("Tam (Long Live the Mouse)", None),
        ("Tam (Live Wire)", None),
        ("Live", None),
        ("Demo", None),
        ("Alive", None),
        ("Cover Me", None),
        ("Anti-Hero", None),
        ("Undiscovered (Discover Me)", None),
        ("Tam (feat. Meg)", None),
        ("", None),
    ],
)
def test_a_title_says_of_which_song_it_is_a_version(title, version):
    assert version_of(title) == version
