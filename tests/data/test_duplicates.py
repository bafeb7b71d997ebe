"""Duplicates: versions of one song are found, and songs that merely share a line are not."""

import itertools
import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.data import duplicates
from backend.data.duplicates import (
    Fingerprints,
    is_version,
    normal_lines,
    of_phrases,
    phrases,
    representative,
)
from tests.data.oracles import closure, groups

TIDE = "\n".join(f"The tide came in at number {i}" for i in range(10))


def duplicate_groups(texts, threshold):
    return duplicates.duplicate_groups(Fingerprints.of(texts), threshold)


def test_equal_texts_are_one_group_named_by_its_smallest_id():
    assert duplicate_groups({"b": TIDE, "a": TIDE, "c": "another\nsong"}, 0.7) == {
        "a": ["a", "b"],
        "c": ["c"],
    }


def test_case_accents_punctuation_and_headers_do_not_make_another_song():
    other = "[Verse 1]\n" + TIDE.upper().replace("TIDE", "TÍDE,") + "!"
    assert duplicate_groups({"a": TIDE, "b": other}, 1.0) == {"a": ["a", "b"]}


@pytest.mark.parametrize(("changed", "same"), [(0, True), (1, True), (4, False), (9, False)])
def test_overlap_of_lines_decides(changed, same):
    # n lines changed of ten: 10 - n shared of 10 + n; 9/11 = 0.82, 6/14 = 0.43
    other = "\n".join([f"New {i}" for i in range(changed)] + TIDE.split("\n")[changed:])
    assert (len(duplicate_groups({"a": TIDE, "b": other}, 0.7)) == 1) is same


def test_exactly_the_threshold_is_a_duplicate():
    ten = list("abcdefghij")  # a word each, and backwards, so that no phrase is shared
    texts = {"a": "\n".join(ten), "b": "\n".join(ten[6::-1])}
    assert len(duplicate_groups(texts, 0.7)) == 1
    assert len(duplicate_groups(texts, 0.71)) == 2


def test_other_line_breaks_make_no_other_song():
    words = [f"{a}{b}" for a in ["stone", "salt", "tide", "gull"] for b in range(12)]
    a, b = ("\n".join(" ".join(words[i : i + n]) for i in range(0, 48, n)) for n in (6, 4))
    assert not normal_lines(a) & normal_lines(b)
    assert len(duplicate_groups({"a": a, "b": b}, 0.7)) == 1


def test_a_word_changed_in_every_second_line_makes_no_other_song():
    lines = [[f"word{i}{k}" for k in range(9)] for i in range(10)]
    other = [[*line[:8], "new"] if i % 2 else line for i, line in enumerate(lines)]
    a, b = ("\n".join(map(" ".join, song)) for song in (lines, other))
    assert len(normal_lines(a) & normal_lines(b)) == 5
    assert len(duplicate_groups({"a": a, "b": b}, 0.7)) == 1


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


# --- against all pairs ----------------------------------------------------------------------------


def by_all_pairs(texts, threshold):
    """Groups of id -> text, each pair compared in both views."""
    views = [
        (normal_lines, Fraction(str(threshold))),
        (phrases, Fraction(str(round(of_phrases(threshold), 6)))),
    ]
    overlaps = []
    for view, least in views:
        sets = {key: view(text) for key, text in texts.items()}
        overlaps += [
            (a, b)
            for a, b in itertools.combinations(sets, 2)
            if (both := len(sets[a] & sets[b])) and Fraction(both, len(sets[a] | sets[b])) >= least
        ]
    return closure(overlaps, texts)


@st.composite
def songs_and_versions(draw):
    """Songs of invented lines, and versions of them with lines less, more and in another order."""
    sets = {}
    for song in range(draw(st.integers(0, 5))):
        n = draw(st.integers(0, 20))
        lines = [f"song{song} line{i}" for i in range(n)]
        for _ in range(draw(st.integers(1, 5))):
            kept = draw(st.sets(st.sampled_from(lines))) if lines else set()
            more = draw(st.integers(0, 4))
            version = kept | {f"song{song} other{i}" for i in range(more)}
            sets[f"{len(sets):02}"] = version
    return sets


@given(songs_and_versions(), st.sampled_from([0.7, 0.8, 0.9, 1.0]), st.randoms())
@settings(max_examples=60)
@example({"00": set("abcdefg"), "01": set("abcdefghij")}, 0.7, random.Random(0))
def test_groups_are_the_connected_parts_of_the_overlap_graph(sets, threshold, order):
    keys = order.sample(list(sets), len(sets))
    texts = {key: "\n".join(order.sample(sorted(sets[key]), len(sets[key]))) for key in keys}
    expected = by_all_pairs(texts, threshold)
    assert duplicate_groups(texts, threshold) == expected
    assert groups(texts, threshold) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_at_one_half_too_hardly_a_pair_is_missed(n):
    # MinHash finds a pair that overlaps by exactly 0.5 with 1 - (1 - 0.5**3)**42 = 0.9963
    missed = 0
    for k in range(100):
        lines = [f"song{k}line{i}" for i in range(2 * n)]
        texts = {"a": "\n".join(lines), "b": "\n".join(lines[:n])}
        missed += len(duplicate_groups(texts, 0.5)) - 1
    assert missed <= 5


@pytest.fixture(scope="module")
def texts(public_domain):
    return {song.id: song.lyrics for song in public_domain}


@pytest.fixture(scope="module")
def prints(texts):
    return Fingerprints.of(texts)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "threshold", [0.7, *(pytest.param(t, marks=pytest.mark.slow) for t in (0.5, 0.9, 1.0))]
)
def test_groups_of_thousands_of_real_songs_are_those_of_all_pairs(prints, texts, threshold):
    expected = groups(texts, threshold)
    assert duplicates.duplicate_groups(prints, threshold) == expected
    assert any(len(group) > 1 for group in expected.values())


@pytest.mark.e2e
def test_neither_order_nor_parts_of_thousands_of_songs_matter(texts, prints):
    expected = duplicates.duplicate_groups(prints, 0.7)
    keys = random.Random(3).sample(sorted(texts), len(texts))
    parts = [
        Fingerprints.of({key: texts[key] for key in keys[i : i + 1000]})
        for i in range(0, len(keys), 1000)
    ]
    whole = Fingerprints.joined(iter(parts))
    assert whole.ids == keys
    assert duplicates.duplicate_groups(whole, 0.7) == expected


@given(songs_and_versions(), st.lists(st.integers(0, 25), max_size=4))
@settings(max_examples=40)
def test_joined_parts_are_one_whole(sets, cuts):
    texts = {key: "\n".join(sorted(lines)) for key, lines in sets.items()}
    whole, keys = Fingerprints.of(texts), list(texts)
    bounds = [0, *sorted(min(cut, len(keys)) for cut in cuts), len(keys)]
    joined = Fingerprints.joined(
        Fingerprints.of({key: texts[key] for key in keys[a:b]})
        for a, b in zip(bounds, bounds[1:], strict=False)
    )
    assert joined.ids == whole.ids
    for one, other in zip(joined.views, whole.views, strict=True):
        assert np.array_equal(one.bands, other.bands)
        assert np.array_equal(one.sizes, other.sizes)
        assert np.array_equal(one.sets, other.sets)


def test_of_nothing_there_are_no_groups():
    assert duplicate_groups({}, 0.7) == {}
    assert duplicates.duplicate_groups(Fingerprints.joined([]), 0.7) == {}


@pytest.fixture
def compared(monkeypatch):
    """Counts the pairs that are compared line by line."""
    calls, intersect = [], np.intersect1d

    def counted(*arrays, **settings):
        calls.append(arrays)
        return intersect(*arrays, **settings)

    monkeypatch.setattr(np, "intersect1d", counted)
    return calls


def test_ten_thousand_equal_songs_are_not_compared_in_pairs(compared):
    one, other = Fingerprints.of({"": TIDE}), Fingerprints.of({"other": "Another song\nof the sea"})
    ids = [f"{i:05}" for i in range(10_000)]
    copies = Fingerprints.joined([*(replace(one, ids=[key]) for key in ids), other])
    assert duplicates.duplicate_groups(copies, 0.7) == {"00000": ids, "other": ["other"]}
    assert len(compared) <= 1


def test_versions_that_are_known_to_be_one_are_not_compared_again(compared):
    chorus = "\n".join(f"The same old line {i}" for i in range(20))
    texts = {f"{i:03}": f"{chorus}\nand one of its own, {i}" for i in range(150)}
    assert duplicate_groups(texts, 0.7) == {"000": sorted(texts)}
    assert len(compared) <= len(texts)


# --- which one is kept ----------------------------------------------------------------------------


def kept(titles, texts):
    return representative(
        {key: is_version(title) for key, title in titles.items()},
        {key: len(texts[key]) for key in titles},
    )


def test_studio_wins_over_live_even_where_live_is_longer_and_has_the_smaller_id():
    titles = {"a": "Tide (Live)", "b": "Tide", "c": "Tide [Demo]"}
    texts = {"a": TIDE + "\nThank you!", "b": TIDE, "c": TIDE * 2}
    assert kept(titles, texts) == "b"


def test_the_longer_one_wins_among_equals_and_then_the_smallest_id():
    assert kept(dict.fromkeys("ab", "Tide"), {"a": "la", "b": "la la"}) == "b"
    assert kept(dict.fromkeys("cba", "Tide"), dict.fromkeys("abc", "la")) == "a"
    assert kept(dict.fromkeys("ab", "Tide (Live)"), {"a": "la", "b": "la la"}) == "b"


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
