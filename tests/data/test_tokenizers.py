"""Tokenizers: text comes back, ids are nanoGPT's, and tokenizer.json means the same elsewhere."""

import json

import numpy as np
import pytest
import tokenizers as hugging_face
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.data import tokenizers
from backend.data.tokenizers import CharTokenizer
from backend.errors import DataError

ALPHABET = "\n !',-.?ABCTabcdefghiklmnorstuwxyäéñß<|>_\t\r\u0301\u200d\u2028日本語אب👩🚀🇩🇪\ufeff\0"
CHARS = CharTokenizer.train([ALPHABET])
THEIRS = hugging_face.Tokenizer.from_str(CHARS.to_json())
TEXTS = st.text(st.sampled_from(ALPHABET), max_size=60)


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
    assert chars.decode([0, chars.unknown, chars.eot]) == "a<|unknown|><|endoftext|>"
    assert chars.never_sampled() == [chars.unknown]


@pytest.mark.parametrize("name", ["<|endoftext|>", "<|unknown|>"])
def test_the_literal_name_of_a_special_token_is_its_characters(name):
    assert len(CHARS.encode(name)) == len(name)
    assert CHARS.eot not in CHARS.encode(f"la {name}{name} la")
    theirs = THEIRS.encode(f"la {name}{name} la").ids
    assert CHARS.eot not in theirs
    assert CHARS.encode(f"la {name}{name} la").tolist() == theirs


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


def test_load_reads_what_to_json_wrote(tmp_path):
    (tmp_path / "tokenizer.json").write_text(CHARS.to_json(), encoding="utf-8")
    loaded = tokenizers.load(tmp_path / "tokenizer.json")
    assert loaded.encode(ALPHABET).tolist() == CHARS.encode(ALPHABET).tolist()
    assert loaded.kind == "char"


def other(vocabulary):
    return json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
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
