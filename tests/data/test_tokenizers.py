"""Tokenizers: text comes back, ids are nanoGPT's and GPT-2's, tokenizer.json means the same
elsewhere."""

import hashlib
import json
import pickle
import pickletools
import unicodedata

import numpy as np
import pytest
import requests
import tiktoken
import tokenizers as hugging_face
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from backend.data import tokenizers
from backend.data.tokenizers import ByteBPE, CharTokenizer
from backend.errors import DataError
from tests.conftest import ROOT

ALPHABET = "\n !',-.?ABCTabcdefghiklmnorstuwxyäéñß<|>_\t\r\u0301\u200d\u2028日本語אب👩🚀🇩🇪\ufeff\0"
CHARS = CharTokenizer.train([ALPHABET])
THEIRS = hugging_face.Tokenizer.from_str(CHARS.to_json())
TEXTS = st.text(st.sampled_from(ALPHABET), max_size=60)

SHARED = ROOT.parent / "shared" / "data"
VERSE = "The tide, the tide goes out\nand nobody knows where the tide is going\n\n"
BPE = ByteBPE.train([VERSE, "Ständchen über dem Fluß"], 300)
# What a pattern of words splits wrongly where it is not quite GPT-2's: contractions, runs of white
# space of every kind at every place, digits that are none, marks, controls, halves of emoji.
AWKWARD = [
    "",
    "I'll say it's we'VE 'twas they'd've, o'er ''s 's's",
    "don’t ‘tis I’LL",
    "  two  spaces   three \t tabs\t\tend  ",
    "\n\n\nlines\r\n\r\n \n  \n",
    "a\xa0b\u3000c\u2009d\u2028e\u2029f\x85g\u200bh\u180ei\x1cj\x0bk\x0cl",
    "1,000 ½ ² Ⅷ ٣٤ 九 1st x2y3",
    "e\u0301 e\u0301\u0327 ñ ﬁ ſ İı ß ẞ",
    "👩\u200d🚀🇩🇪🏴\U000e0067\U000e007f ☃\ufe0f",
    "שלום עולם مرحبا नमस्ते ไทย 日本語の歌 한국어",
    "\0\x01\x7f\ufeff\ufffd\uffff\ue000\U0010ffff",
    "[Verse 1]\n(oh, oh-oh) -- *la* #1 & <|endoftext|><|unknown|>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 8 + "!" * 99 + " " * 99 + ".",
]
TRICKY = st.text(st.sampled_from(" \n\t'’sStTrRemllvdDaé1½_-\xa0\u3000\u0301🎵<|>"), max_size=60)
ANY_TEXT = st.text(max_size=60) | TRICKY


@pytest.fixture(scope="module")
def vocabulary_files():
    """TIKTOKEN_CACHE_DIR, so that nothing is downloaded."""
    folder = SHARED / "tiktoken_cache"
    if not folder.is_dir():
        pytest.skip(f"GPT-2's vocabulary is not in {folder}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def gpt2(vocabulary_files):
    return ByteBPE.gpt2()


@pytest.fixture(scope="module")
def openai(vocabulary_files):
    """GPT-2's tokenizer by OpenAI's own code, from the files of 2019 that we do not read."""
    return tiktoken.get_encoding("gpt2")


@pytest.fixture(scope="module", params=["trained", "gpt2"])
def bpe(request):
    """A BPE of each origin."""
    return BPE if request.param == "trained" else request.getfixturevalue("gpt2")


@pytest.fixture(scope="module")
def library(bpe):
    """Its tokenizer.json in the hands of the `tokenizers` library alone."""
    return hugging_face.Tokenizer.from_str(bpe.to_json())


@pytest.fixture(params=["char", "bpe", "gpt2"])
def tokenizer(request):
    """One of each kind."""
    own = {"char": CHARS, "bpe": BPE}
    return own.get(request.param) or request.getfixturevalue("gpt2")


@given(TEXTS)
def test_text_comes_back_from_its_ids(text):
    ids = CHARS.encode(text)
    assert len(ids) == len(text)
    assert CHARS.decode(ids) == CHARS.decode(ids.tolist()) == text


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
@settings(max_examples=50)
def test_ids_are_those_of_nanogpt(texts):
    stoi = {c: i for i, c in enumerate(sorted(set("".join(texts))))}  # nanoGPT's prepare.py
    chars = CharTokenizer.train(texts)
    for text in texts:
        assert chars.encode(text).tolist() == [stoi[c] for c in text]
    assert (chars.eot, chars.unknown, chars.vocab_size) == (len(stoi), len(stoi) + 1, len(stoi) + 2)


def test_training_needs_neither_order_nor_one_text():
    whole = CharTokenizer.train(["the tide"])
    assert CharTokenizer.train(["edit", " eht"]).characters == whole.characters


def test_characters_never_seen_become_unknown_and_are_listed_in_order():
    chars = CharTokenizer.train(["abc"])
    assert chars.encode("zaya").tolist() == [chars.unknown, 0, chars.unknown, 0]
    assert chars.unseen("zaya z\n") == ["z", "y", " ", "\n"]
    assert chars.unseen("cab") == []
    for ids in ([0, chars.unknown, chars.eot], np.array([0, chars.unknown, chars.eot])):
        assert chars.decode(ids) == "a<|unknown|><|endoftext|>"
    assert chars.never_sampled() == [chars.unknown]


@pytest.mark.parametrize("name", ["<|endoftext|>", "<|unknown|>"])
def test_the_literal_name_of_a_special_token_is_its_characters(name):
    assert len(CHARS.encode(name)) == len(name)
    assert CHARS.eot not in CHARS.encode(f"la {name}{name} la")
    theirs = THEIRS.encode(f"la {name}{name} la").ids
    assert CHARS.eot not in theirs
    assert CHARS.encode(f"la {name}{name} la").tolist() == theirs


# --- many texts at once ---------------------------------------------------------------------------

SEVERAL = st.lists(ANY_TEXT, max_size=6)


@given(SEVERAL)
@settings(max_examples=60)
@example(["", "", "a", "", "e", "\u0301", ""])
def test_many_texts_at_once_have_the_ids_of_one_by_one(bpe, texts):
    for own in (CHARS, bpe):
        found = own.encode_batch(texts)
        assert [ids.tolist() for ids in found] == [own.encode(text).tolist() for text in texts]
        assert {ids.dtype.type for ids in found} <= {own.dtype}


def test_more_texts_than_one_thread_takes_keep_their_order(tokenizer):
    texts = [f"song {i}\n{ALPHABET[: i % 40]}" * 60 for i in range(3 * tokenizers.PART // 1500)]
    found = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in found] == [
        tokenizer.decode(tokenizer.encode(text)) for text in texts
    ]


@pytest.mark.parametrize("text", AWKWARD, ids=lambda text: ascii(text[:40]))
def test_awkward_texts_at_once_have_the_ids_of_one_by_one(tokenizer, text):
    found = tokenizer.encode_batch([text, "la", text])
    assert [ids.tolist() for ids in found] == [
        tokenizer.encode(each).tolist() for each in (text, "la", text)
    ]


@pytest.mark.parametrize("text", ["\ud83d", "la \udcff la", "\ude00\ud83d", "\ud83d\ude00"])
def test_halves_of_surrogate_pairs_stop_nothing_in_a_batch_either(tokenizer, text):
    found = tokenizer.encode_batch(["la", text, "\udcff"])
    assert found[1].tolist() == tokenizer.encode(text).tolist()


# --- the nearest character ------------------------------------------------------------------------

PLAIN = CharTokenizer.train(["abcdefghijklmnopqrstuvwxyz '\"-.,\n"])
UPPER = CharTokenizer.train(["ABCDEFGHIJKLMNOPQRSTUVWXYZ '\"-.,\n"])


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("café Ärger ñandú", "cafe arger nandu"),
        ("SHOUT", "shout"),
        ("don’t ‘so’ “so” „so“ «so»", 'don\'t \'so\' "so" "so" "so"'),
        ("a–b—c‐d−e", "a-b-c-d-e"),
        ("øæłđßþœħı ØÆŁĐÞŒ", "oaldstohi oaldto"),
        ("Ǻǿ ặ ṩ", "ao a s"),
        ("wait…", "wait."),
        ("a\u00a0b\tc", "a b c"),
        ("ｆｕｌｌ ＷＩＤＥ", "full wide"),
        ("ſet İn", "set in"),
        ("日本 ☃ λ Ж", "日本 ☃ λ Ж"),
        ("", ""),
    ],
)
def test_an_unseen_character_is_read_as_its_nearest(text, read):
    assert PLAIN.nearest(text) == read
    assert CHARS.nearest(ALPHABET) == ALPHABET


def test_small_letters_are_read_as_capitals_where_only_those_are_known():
    assert UPPER.nearest("café øre don’t") == "CAFE ORE DON'T"


def test_a_known_character_stays_though_a_plainer_one_is_known_too():
    both = CharTokenizer.train(["eéEo’'"])
    assert both.nearest("éE’'È") == "éE’'E"


# A letter, and the accent, case and form of it: whatever is left of these must be read.
FORMS = st.builds(
    lambda letter, mark, upper: (
        unicodedata.normalize("NFC", letter + mark).swapcase()
        if upper
        else unicodedata.normalize("NFC", letter + mark)
    ),
    st.sampled_from("abcdefghijklmnopqrstuvwxyzøł"),
    st.sampled_from(["", "\u0301", "\u0308", "\u0327", "\u030a", "\u0302\u0301"]),
    st.booleans(),
).filter(lambda c: len(c) == 1)


@given(st.text(FORMS, max_size=8), st.sampled_from([PLAIN, UPPER]))
@example("ǾŁø", PLAIN)
@example("ǿł", UPPER)
def test_no_letter_stays_unseen_where_a_neighbour_is_known(text, own):
    assert own.unseen(own.nearest(text)) == []


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_reading_the_nearest_keeps_the_length_and_what_is_known_and_is_done_once(text):
    for own in (PLAIN, UPPER, CHARS, BPE):
        read = own.nearest(text)
        assert len(read) == len(text)
        assert own.nearest(read) == read
        unseen = set(own.unseen(text))
        assert all(a == b or a in unseen for a, b in zip(text, read, strict=True))
        assert set(own.unseen(read)) <= unseen


def test_a_bpe_spells_everything_and_changes_nothing(bpe):
    for text in AWKWARD:
        assert bpe.nearest(text) == text


# --- tokenizer.json -------------------------------------------------------------------------------


@given(TEXTS)
def test_the_tokenizers_library_gives_the_same_ids_and_the_same_text(text):
    ids = THEIRS.encode(text).ids
    assert ids == CHARS.encode(text).tolist()
    assert THEIRS.decode(ids) == text


@pytest.mark.parametrize(
    "text", ["la\n\nla\r\n", "👩\u200d🚀🇩🇪", "e\u0301\u0301", " \t ", "\0", ""]
)
def test_the_tokenizers_library_agrees_where_others_would_join_or_drop(text):
    assert THEIRS.encode(text).ids == CHARS.encode(text).tolist()
    assert THEIRS.decode(THEIRS.encode(text).ids) == text


def test_the_tokenizers_library_agrees_on_unknown_characters_and_the_vocabulary():
    assert THEIRS.encode("a§b").ids == CHARS.encode("a§b").tolist()
    assert THEIRS.get_vocab_size() == CHARS.vocab_size
    assert THEIRS.token_to_id("<|endoftext|>") == CHARS.eot
    assert THEIRS.token_to_id("<|unknown|>") == CHARS.unknown


@given(st.text(max_size=30))
@settings(max_examples=30)
def test_a_tokenizer_comes_back_from_its_json(text):
    chars = CharTokenizer.train([text])
    again = CharTokenizer.from_json(chars.to_json())
    assert again.characters == chars.characters
    assert again.to_json() == chars.to_json()
    assert again.encode(text).tolist() == chars.encode(text).tolist()


def test_load_reads_what_to_json_wrote(tmp_path, tokenizer):
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    loaded = tokenizers.load(path)
    for attribute in ("kind", "vocab_size", "eot", "dtype"):
        assert getattr(loaded, attribute) == getattr(tokenizer, attribute)
    assert loaded.vocabulary() == tokenizer.vocabulary()
    assert sorted(loaded.vocabulary().values()) == list(range(loaded.vocab_size))
    assert loaded.never_sampled() == tokenizer.never_sampled()
    assert loaded.to_json() == tokenizer.to_json()
    for text in [ALPHABET, *AWKWARD]:
        assert loaded.encode(text).tolist() == tokenizer.encode(text).tolist()
        assert loaded.decode(loaded.encode(text)) == tokenizer.decode(tokenizer.encode(text))


def test_other_texts_give_another_vocabulary():
    assert CharTokenizer.train(["abc"]).vocabulary() != CharTokenizer.train(["abd"]).vocabulary()
    assert ByteBPE.train(["la la la"], 300).vocabulary() != BPE.vocabulary()


def other(vocabulary):
    return json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}}).encode()


def spoilt(**changes):
    """Our BPE with other values in its model."""
    whole = json.loads(BPE.to_json())
    whole["model"].update(changes)
    return json.dumps(whole).encode()


def of_others(model):
    """A tokenizer.json as other projects have it."""
    return hugging_face.Tokenizer(model).to_str().encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 200_000,
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"model": null}',
        b'{"model": {}}',
        CHARS.to_json().encode()[:200],
        other(None),
        other({}),
        other([]),
        other([["a", -1.5], ["b", -2.0]]),
        other({"a": 0, "b": 1}),
        other({"the": 0, "<|endoftext|>": 1, "<|unknown|>": 2}),
        other({"a": 0, "<|unknown|>": 1, "<|endoftext|>": 2}),
        other({"a": 0, "b": "1", "<|endoftext|>": 2, "<|unknown|>": 3}),
        other({"a": 0, "b": 7, "<|endoftext|>": 8, "<|unknown|>": 9}),
        other({"a": 0, "b": 0, "<|endoftext|>": 2, "<|unknown|>": 3}),
        of_others(models.Unigram([("a", -1.0), ("<|endoftext|>", -2.0), ("<|unknown|>", -3.0)], 2)),
        of_others(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")),
        of_others(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])),  # no end of text
        json.dumps(json.loads(BPE.to_json()) | {"added_tokens": []}).encode(),
        BPE.to_json().encode()[:-200],
        spoilt(vocab=None),
        spoilt(vocab={}),
        spoilt(vocab={"a": -1}),
        spoilt(merges=[["no", "where"]]),
        spoilt(merges=7),
        spoilt(type="Unigram"),
        spoilt(type=["BPE"]),
    ],
    ids=lambda content: ascii(content[:60]),
)
def test_a_damaged_or_foreign_tokenizer_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        tokenizers.load(path)
    assert str(path) in error.value.what
    assert "backend.data.binarize" in error.value.mend


WHOLE = json.loads(BPE.to_json())
MODEL, VOCABULARY = WHOLE["model"], WHOLE["model"]["vocab"]
SPACES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
NO_SPACE = {("no space" if token == "Ġ" else token): i for token, i in VOCABULARY.items()}
LOSSES = {
    "accents are joined": {"normalizer": {"type": "NFC"}},
    "case is lost": {"normalizer": {"type": "Lowercase"}},
    "a space is put before": {"pre_tokenizer": SPACES},
    "white space is lost": {"pre_tokenizer": {"type": "Whitespace"}},
    "text is not made bytes": {"pre_tokenizer": None},
    "bytes are not made text": {"decoder": None},
    "a byte is missing": {"model": MODEL | {"vocab": NO_SPACE, "merges": []}},
    "ids have gaps": {"model": MODEL | {"vocab": VOCABULARY | {"z": 100_000}}},
    "its name is the end": {"added_tokens": [WHOLE["added_tokens"][0] | {"special": False}]},
}


@pytest.mark.parametrize("change", LOSSES.values(), ids=LOSSES)
def test_a_bpe_that_would_lose_text_or_end_a_song_at_the_name_of_the_end_is_refused(
    tmp_path, change
):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(WHOLE | change), encoding="utf-8")
    with pytest.raises(DataError) as error:
        tokenizers.load(path)
    assert str(path) in error.value.what


def test_the_tokenizer_json_that_was_released_with_gpt2_is_read(tmp_path, gpt2):
    whole = json.loads(gpt2.to_json())
    del whole["model"]["type"]  # it is older than types, and than merges as pairs
    whole["model"]["merges"] = [" ".join(pair) for pair in whole["model"]["merges"]]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    released = tokenizers.load(path)
    assert (released.kind, released.eot) == ("gpt2", gpt2.eot)
    assert released.vocabulary() == gpt2.vocabulary()
    for text in AWKWARD:
        assert released.encode(text).tolist() == gpt2.encode(text).tolist()


def test_a_missing_tokenizer_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(DataError) as error:
        tokenizers.load(tmp_path / "tokenizer.json")
    assert str(tmp_path) in error.value.what
    assert "backend.data.binarize" in error.value.mend


# --- the type of the bins -------------------------------------------------------------------------


def test_ids_are_two_bytes_as_long_as_the_vocabulary_fits_and_four_after():
    letters = [chr(i) for i in range(0x20000) if not 0xD800 <= i < 0xE000]
    most = CharTokenizer(letters[: 2**16 - 2])
    assert (most.dtype, most.vocab_size) == (np.uint16, 2**16)
    assert most.encode("\0\U0010ffff").tolist() == [0, 2**16 - 1]
    more = CharTokenizer(letters[: 2**16 - 1])
    assert more.dtype == more.encode("a").dtype == np.uint32
    assert more.encode("\U0010ffff" + letters[2**16 - 2]).tolist() == [2**16, 2**16 - 2]
    assert more.decode([2**16 - 2]) == letters[2**16 - 2]


def test_a_bpe_of_more_than_two_bytes_has_ids_of_four(tmp_path):
    whole = json.loads(BPE.to_json())
    vocabulary = whole["model"]["vocab"]
    vocabulary.update({f"filler{i}": i for i in range(len(vocabulary), 2**16 - 1)})
    whole["added_tokens"][0]["id"] = 2**16 - 1
    most = ByteBPE.from_json(json.dumps(whole))
    assert (most.dtype, most.vocab_size, most.eot) == (np.uint16, 2**16, 2**16 - 1)
    assert most.encode(VERSE).dtype == np.uint16
    vocabulary["one more"] = 2**16 - 1
    whole["added_tokens"][0]["id"] = 2**16
    more = ByteBPE.from_json(json.dumps(whole))
    assert (more.vocab_size, more.eot) == (2**16 + 1, 2**16)
    assert more.dtype == more.encode(VERSE).dtype == np.uint32
    assert more.encode(VERSE).tolist() == most.encode(VERSE).tolist() == BPE.encode(VERSE).tolist()


# --- byte-level BPE -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", AWKWARD, ids=lambda text: ascii(text[:40]))
def test_ids_of_gpt2_are_those_of_tiktoken(gpt2, openai, text):
    assert gpt2.encode(text).tolist() == openai.encode_ordinary(text)


@given(ANY_TEXT)
@settings(max_examples=200)
def test_ids_of_gpt2_are_those_of_tiktoken_for_any_text(gpt2, openai, text):
    assert gpt2.encode(text).tolist() == openai.encode_ordinary(text)


@pytest.mark.e2e
def test_ids_of_gpt2_are_those_of_tiktoken_for_a_whole_corpus(gpt2, openai):
    path = SHARED / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"Tiny Shakespeare is not at {path}")
    text = path.read_text(encoding="utf-8")
    ids = gpt2.encode(text)
    assert ids.tolist() == openai.encode_ordinary(text)
    assert ids.dtype == np.uint16
    assert gpt2.decode(ids) == text


def test_gpt2_has_the_vocabulary_of_openai(gpt2, openai):
    assert (gpt2.kind, gpt2.vocab_size, gpt2.eot) == ("gpt2", openai.n_vocab, openai.eot_token)
    assert (gpt2.vocab_size, gpt2.eot) == (50_257, 50_256)
    assert gpt2.decode([gpt2.eot]) == "<|endoftext|>"
    for i in range(0, 50_256, 97):
        assert gpt2.decode([i]) == openai.decode([i])


@given(ANY_TEXT)
def test_any_text_comes_back_from_the_ids_of_a_bpe(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == bpe.decode(ids.tolist()) == text
    assert bpe.unseen(text) == []


@given(ANY_TEXT)
def test_the_tokenizers_library_gives_the_same_ids_for_a_bpe(bpe, library, text):
    ids = library.encode(text).ids
    assert ids == bpe.encode(text).tolist()
    assert library.decode(ids, skip_special_tokens=False) == text


def test_the_tokenizers_library_knows_the_end_of_text_of_a_bpe(bpe):
    theirs = hugging_face.Tokenizer.from_str(bpe.to_json())
    assert theirs.get_vocab() == bpe.vocabulary()
    # a prompt of other programs may hold it: theirs to decide, and so they expect it
    assert theirs.encode("<|endoftext|>la").ids == [bpe.eot, *bpe.encode("la")]
    theirs.encode_special_tokens = True
    for text in AWKWARD:
        assert theirs.encode(text).ids == bpe.encode(text).tolist()


def test_no_text_makes_a_special_id_whatever_it_spells(tmp_path, tokenizer):
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    for own in (tokenizer, tokenizers.load(path)):  # after to_json too
        for text in ("<|endoftext|>", "la <|endoftext|><|endoftext|> la\n", "<|unknown|>"):
            ids = own.encode(text).tolist()
            assert own.eot not in ids
            assert not set(own.never_sampled()) & set(ids)
            assert own.decode(ids) == text


@pytest.mark.parametrize("text", ["\ud83d", "la \udcff la", "\ude00\ud83d", "\ud83d\ude00"])
def test_halves_of_surrogate_pairs_stop_nothing_and_spoil_nothing_beside_them(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size and i != tokenizer.eot for i in ids)
    shown = tokenizer.decode(ids)
    shown.encode()  # a text that can be written
    letters = [c for c in text if not "\ud800" <= c <= "\udfff"]
    assert shown.startswith("la ") == text.startswith("la ")
    assert shown.endswith(" la") == text.endswith(" la")
    assert len(shown) > len(letters)


# --- a BPE of one's own ---------------------------------------------------------------------------


def test_a_trained_bpe_has_every_byte_its_merges_and_the_end_of_text_last():
    vocabulary = BPE.vocabulary()
    assert (BPE.kind, BPE.vocab_size, BPE.eot) == ("bpe", 300, 299)
    assert vocabulary["<|endoftext|>"] == 299
    assert set(pre_tokenizers.ByteLevel.alphabet()) < vocabulary.keys()
    assert "Ġtide" in vocabulary
    assert len(BPE.encode(VERSE)) < len(VERSE) / 2
    assert BPE.never_sampled() == []


def test_a_small_corpus_gives_fewer_merges_than_asked_for():
    small = ByteBPE.train(["la la la la"], 4096)
    assert 257 < small.vocab_size < 270
    assert small.eot == small.vocab_size - 1
    assert small.decode(small.encode(VERSE)) == VERSE


def test_the_smallest_bpe_is_bytes_alone():
    smallest = ByteBPE.train([VERSE], 257)
    assert (smallest.vocab_size, smallest.eot) == (257, 256)
    for text in (VERSE, "日本語 🎵"):
        assert len(smallest.encode(text)) == len(text.encode())
        assert smallest.decode(smallest.encode(text)) == text


def test_a_bpe_of_ones_own_with_as_many_tokens_as_gpt2_is_not_taken_for_it():
    whole = json.loads(ByteBPE.train(["la la"], 300).to_json())
    vocabulary = whole["model"]["vocab"]
    vocabulary.update({f"filler{i}": i for i in range(len(vocabulary), 50_256)})
    whole["added_tokens"][0]["id"] = 50_256
    own = ByteBPE.from_json(json.dumps(whole))
    assert (own.kind, own.vocab_size, own.eot) == ("bpe", 50_257, 50_256)


def test_the_same_texts_give_the_same_bpe():
    texts = [*AWKWARD, VERSE, "so many pairs are seen just once: every tie is broken one way"]
    first = ByteBPE.train(texts, 400).to_json()
    assert all(ByteBPE.train(iter(texts), 400).to_json() == first for _ in range(5))


def test_a_trained_bpe_never_learns_the_end_of_text_from_songs_that_spell_it():
    bpe = ByteBPE.train(["<|endoftext|> <|endoftext|>\n" * 50], 400)
    assert bpe.eot == bpe.vocab_size - 1
    assert bpe.eot not in bpe.encode("<|endoftext|> <|endoftext|>\n")


def test_gpt2s_vocabulary_is_made_without_reading_a_song(gpt2, monkeypatch):
    monkeypatch.setattr(ByteBPE, "gpt2", lambda: gpt2)  # it takes half a second
    songs = iter(["a song"])
    assert tokenizers.make("gpt2", songs, 300) is gpt2
    assert next(songs) == "a song"


@pytest.mark.parametrize(("kind", "size"), [("char", 6), ("bpe", 258)])
def test_a_tokenizer_is_made_of_the_texts_given(kind, size):
    made = tokenizers.make(kind, iter(["abba", "abcd"]), 258)
    assert (made.kind, made.vocab_size) == (kind, size)
    assert "abba" not in made.vocabulary()
    assert ("ab" in made.vocabulary()) == (kind == "bpe")


def unreachable(address):
    raise requests.ConnectionError(f"no route to {address}")


def spoilt_on_the_way(address):
    return b"<html>log in to the network first</html>"


@pytest.mark.parametrize("read", [unreachable, spoilt_on_the_way])
@pytest.mark.parametrize("cached", [False, True])
def test_gpt2_without_its_vocabulary_is_a_sentence_that_says_where_to_put_it(
    tmp_path, monkeypatch, read, cached
):
    asked = []
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.load.read_file", lambda a: (asked.append(a), read(a))[1])
    if cached:  # and damaged
        name = hashlib.sha1(tokenizers.MERGES[0].encode()).hexdigest()
        (tmp_path / name).write_bytes(b"#version: 0.2\na b\n")
    with pytest.raises(DataError) as error:
        ByteBPE.gpt2()
    assert asked
    assert "GPT-2's vocabulary" in error.value.what
    assert "TIKTOKEN_CACHE_DIR" in error.value.mend
    assert not list(tmp_path.glob("*.tmp"))


# --- nanoGPT --------------------------------------------------------------------------------------


def test_nanogpts_sample_encodes_and_decodes_with_our_meta():
    data = tokenizers.nanogpt_meta(CHARS)
    meta = pickle.loads(data)  # noqa: S301 (our own bytes)
    stoi, itos = meta["stoi"], meta["itos"]  # as nanoGPT's sample.py
    assert [stoi[c] for c in ALPHABET] == CHARS.encode(ALPHABET).tolist()
    assert "".join([itos[i] for i in CHARS.encode(ALPHABET).tolist()]) == ALPHABET
    assert meta["vocab_size"] == CHARS.vocab_size == len(itos)  # as its train.py
    assert itos[CHARS.eot] == "<|endoftext|>"
    assert set(stoi) == set(ALPHABET)
    called = {"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "NEWOBJ"}
    assert not called & {code.name for code, *_ in pickletools.genops(data)}, "it runs code"
