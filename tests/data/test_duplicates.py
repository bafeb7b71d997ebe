"""Duplicates: versions of one song are found, and songs that merely share a line are not."""

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backend.data.duplicates import duplicate_groups, is_version, normal_lines, representative

TIDE = "\n".join(f"The tide came in at number {i}" for i in range(10))


def test_equal_texts_are_one_group_named_by_its_smallest_id():
    assert duplicate_groups({"b": TIDE, "a": TIDE, "c": "another\nsong"}, 0.7) == {
        "a": ["a", "b"],
        "c": ["c"],
    }


def test_case_accents_punctuation_and_headers_do_not_make_another_song():
    other = "[Verse 1]\n" + TIDE.upper().replace("TIDE", "TÍDE,") + "!"
    assert duplicate_groups({"a": TIDE, "b": other}, 1.0) == {"a": ["a", "b"]}


@pytest.mark.parametrize(("changed", "same"), [(0, True), (1, True), (2, False), (9, False)])
def test_overlap_of_lines_decides(changed, same):
    # n lines changed of ten: 10 - n shared of 10 + n; 9/11 = 0.82, 8/12 = 0.67
    other = "\n".join([f"New {i}" for i in range(changed)] + TIDE.split("\n")[changed:])
    assert (len(duplicate_groups({"a": TIDE, "b": other}, 0.7)) == 1) is same


def test_exactly_the_threshold_is_a_duplicate():
    seven = "\n".join(TIDE.split("\n")[:7])
    assert len(duplicate_groups({"a": TIDE, "b": seven}, 0.7)) == 1
    assert len(duplicate_groups({"a": TIDE, "b": seven}, 0.71)) == 2


def test_versions_of_versions_are_one_group():
    lines = [f"Line {i}" for i in range(14)]
    a, b, c = ("\n".join(lines[i : i + 10]) for i in (0, 2, 4))
    assert duplicate_groups({"a": a, "c": c}, 0.6) == {"a": ["a"], "c": ["c"]}
    assert duplicate_groups({"a": a, "b": b, "c": c}, 0.6) == {"a": ["a", "b", "c"]}


def test_a_shared_chorus_alone_makes_no_duplicate():
    chorus = "Oh the sea\nOh the sea and me"
    a, b = (f"{name} one\n{name} two\n{name} three\n{chorus}" for name in ("Ann", "Bo"))
    assert len(duplicate_groups({"a": a, "b": b}, 0.7)) == 2


def test_the_live_song_of_the_songbook_is_the_only_duplicate(songbook):
    texts = {title: text for _, title, text in songbook}
    groups = duplicate_groups(texts, 0.7).values()
    assert [sorted(group) for group in groups if len(group) > 1] == [
        ["Snowed In at the Library", "Snowed In at the Library (Live)"]
    ]


@pytest.mark.parametrize("text", ["", "[Instrumental]", "[Intro]\n[Solo]", "...\n!!!", "\n\n"])
def test_songs_without_sung_lines_are_never_grouped(text):
    assert normal_lines(text) == frozenset()
    assert duplicate_groups({"a": text, "b": text, "c": TIDE}, 0.1) == {
        "a": ["a"],
        "b": ["b"],
        "c": ["c"],
    }


@given(
    st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=8), max_size=8),
    st.sampled_from(["0.1", "0.3", "0.5", "0.6", "0.7", "0.9", "1.0"]),
)
@example([set("abcdefg"), set("abcdefgh")], "0.7")
def test_groups_are_the_connected_parts_of_the_overlap_graph(sets, threshold):
    texts = {f"{i:02}": "\n".join(sorted(lines)) for i, lines in enumerate(sets)}
    parts = [{key} for key in texts]
    for i, a in enumerate(sets):
        for j, b in enumerate(sets[:i]):
            if a & b and Fraction(len(a & b), len(a | b)) >= Fraction(threshold):
                joined = [part for part in parts if f"{i:02}" in part or f"{j:02}" in part]
                parts = [part for part in parts if part not in joined] + [set().union(*joined)]
    expected = {min(part): sorted(part) for part in parts}
    assert duplicate_groups(texts, float(threshold)) == expected
    backwards = dict(reversed(texts.items()))
    assert duplicate_groups(backwards, float(threshold)) == expected


# --- which one is kept ----------------------------------------------------------------------------


def test_studio_wins_over_live_even_where_live_is_longer_and_has_the_smaller_id():
    titles = {"a": "Tide (Live)", "b": "Tide", "c": "Tide [Demo]"}
    texts = {"a": TIDE + "\nThank you!", "b": TIDE, "c": TIDE * 2}
    assert representative(["a", "b", "c"], titles, texts) == "b"


def test_the_longer_one_wins_among_equals_and_then_the_smallest_id():
    titles = dict.fromkeys("abc", "Tide")
    assert representative(["a", "b"], titles, {"a": "la", "b": "la la"}) == "b"
    assert representative(["c", "b", "a"], titles, dict.fromkeys("abc", "la")) == "a"
    live = dict.fromkeys("ab", "Tide (Live)")
    assert representative(["a", "b"], live, {"a": "la", "b": "la la"}) == "b"


@pytest.mark.parametrize(
    "title",
    [
        "Tide (Live)",
        "Tide (live)",
        "Tide [LIVE]",
        "Tide (Live at Quillby Village Hall)",
        "Tide (Live in Oslo, 1999)",
        "Tide [Demo]",
        "Tide (Demo 1987)",
        "Tide (Acoustic)",
        "Tide (Acoustic Version)",
        "Tide (Remix)",
        "Tide (Extended Mix)",
        "Tide (2009 Remaster)",
        "Tide (Remastered)",
        "Tide - Remastered 2009",
        "Tide – Live",
        "Tide — Radio Edit",
        "Tide (Unplugged)",
        "Tide (Rehearsal)",
        "Tide (Nobody cover)",
        "(Live) Tide",
        "Tide (Part 2) [Live]",
        "Tide (feat. Ann) (Live)",
    ],
)
def test_titles_that_name_a_version(title):
    assert is_version(title)


@pytest.mark.parametrize(
    "title",
    [
        "Live",
        "Live and Learn",
        "Live Wire",
        "Long Live the Tide",
        "Demo",
        "Demolition",
        "Remix",
        "Under Cover of Night",
        "Edit the Sky",
        "Acoustic Shadows",
        "Version of Me",
        "Tide (Part 2)",
        "Tide (Alive)",
        "Tide (Delivered)",
        "Tide (feat. Ann)",
        "Tide (Editor's Note)",
        "Tide - The Return",
        "Sea-Live Tide",
        "(I Cannot) Live Alone",
        "Letzte Bahn nach Morgen",
        "",
        "(",
        "Tide (",
    ],
)
def test_titles_that_name_none(title):
    assert not is_version(title)
