"""Tokenizers: text <-> ids, saved whole as a Hugging Face `tokenizer.json`.

char    code points sorted, ids 0..n-1 (nanoGPT's ids), then <|endoftext|> = n, <|unknown|> = n+1
gpt2    GPT-2's byte-level BPE, 50,257 ids, <|endoftext|> = 50,256
bpe     a byte-level BPE trained on the corpus, <|endoftext|> last

The specials are entries of the vocabulary that no text can produce: the literal string
"<|endoftext|>" in lyrics is thirteen characters, or the BPE tokens that spell it.
"""

import itertools
import json
import os
import pickle
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from backend.errors import DataError, first_line

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<|unknown|>"
Ids = npt.NDArray[np.unsignedinteger[Any]]


class Tokenizer(Protocol):
    """What every tokenizer can do. Ids fit `dtype`, which is also the type of the bins."""

    kind: str
    vocab_size: int
    eot: int
    dtype: type[np.unsignedinteger]

    def encode(self, text: str) -> Ids: ...  # (len(text),) for characters

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]: ...  # the same ids, faster

    def decode(self, ids: Iterable[int]) -> str: ...

    def unseen(self, text: str) -> list[str]: ...

    def nearest(self, text: str) -> str: ...  # unseen characters as others that are known

    def never_sampled(self) -> list[int]: ...

    def vocabulary(self) -> dict[str, int]: ...

    def to_json(self) -> str: ...


class CharTokenizer:
    """One token per code point, by a lookup table over UTF-32.

    >>> tokenizer = CharTokenizer.train(["abba", "cab"])
    >>> tokenizer.encode("cab").tolist(), tokenizer.eot, tokenizer.decode([2, 0, 1])
    ([2, 0, 1], 3, 'cab')
    """

    kind = "char"

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = list(characters)
        self.eot = len(self.characters)
        self.unknown = self.eot + 1
        self.vocab_size = self.eot + 2
        self.dtype = np.uint16 if self.vocab_size <= 2**16 else np.uint32
        self._table: Ids = np.full(0x110000, self.unknown, dtype=self.dtype)  # code point -> id
        self._table[[ord(c) for c in self.characters]] = np.arange(self.eot)
        self._points = np.array([ord(c) for c in self.characters], dtype="<u4")  # id -> code point
        # the same for plain text, twice as fast, where its ids fit a byte
        self._plain = (
            self._table[:256].astype(np.uint8).tobytes() if self.vocab_size <= 256 else b""
        )

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """The characters of all texts, sorted by code point."""
        seen = np.zeros(0x110000, dtype=bool)
        plain = b""  # those below U+0080, which bytes finds faster
        for text in texts:
            if text.isascii():
                plain += bytes(set(text.encode().translate(None, plain)))
            else:
                seen[code_points(text)] = True
        seen[list(plain)] = True
        return cls(list(map(chr, np.flatnonzero(seen).tolist())))

    def encode(self, text: str) -> Ids:
        if self._plain and text.isascii():
            translated = text.encode().translate(self._plain)
            return np.frombuffer(translated, np.uint8).astype(self.dtype)
        ids: Ids = self._table[code_points(text)]
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        ids = self.encode("".join(texts))
        ends = itertools.accumulate(map(len, texts), initial=0)
        return [ids[start:end] for start, end in itertools.pairwise(ends)]

    def decode(self, ids: Iterable[int]) -> str:
        """Specials become their names, so that nothing is hidden."""
        if isinstance(ids, np.ndarray) and (ids < self.eot).all():  # ids of bins: twenty times
            return self._points[ids].tobytes().decode("utf-32-le", "surrogatepass")
        names = [*self.characters, END_OF_TEXT, UNKNOWN]
        return "".join(names[i] for i in ids)

    def unseen(self, text: str) -> list[str]:
        """Characters that would become <|unknown|>, in order of appearance."""
        unknown = np.unique(code_points(text)[self.encode(text) == self.unknown])
        return sorted(map(chr, unknown.tolist()), key=text.index)

    def nearest(self, text: str) -> str:
        """Unseen characters as known ones: without accents, of another script's shape, in the other
        case. What has no such neighbour stays, and becomes <|unknown|>."""
        known = set(self.characters)
        become = {}
        for c in self.unseen(text):
            base = unicodedata.normalize("NFKD", ALIKE.get(c, c))[0]
            tries = (ALIKE.get(c, c), base, ALIKE.get(base, base))
            swapped = (t.swapcase() for t in tries)
            become[ord(c)] = next((t for t in (*tries, *swapped) if t in known), c)
        return text.translate(become)

    def never_sampled(self) -> list[int]:
        """Ids no song may contain: the model never saw them, yet their logits are not -inf."""
        return [self.unknown]

    def to_json(self) -> str:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

        vocabulary = {c: i for i, c in enumerate([*self.characters, END_OF_TEXT, UNKNOWN])}
        whole = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        whole.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        whole.decoder = decoders.Fuse()
        return whole.to_str(pretty=True)

    def vocabulary(self) -> dict[str, int]:
        return {name: i for i, name in enumerate([*self.characters, END_OF_TEXT, UNKNOWN])}

    @classmethod
    def from_json(cls, text: str) -> Self:
        vocabulary: dict[str, int] = json.loads(text)["model"]["vocab"]
        ordered = sorted(vocabulary, key=vocabulary.__getitem__)
        if (
            ordered[-2:] != [END_OF_TEXT, UNKNOWN]
            or any(len(c) != 1 for c in ordered[:-2])
            or [vocabulary[c] for c in ordered] != list(range(len(ordered)))
        ):
            raise ValueError("not a character vocabulary of this project")
        return cls(ordered[:-2])


# Characters that Unicode does not take apart, and the ones that people type for them.
ALIKE = dict(zip("øØđĐłŁħŧıæÆœŒßẞðÐþÞ", "oOdDlLhtiaAoOsSdDtT", strict=True))
ALIKE |= dict.fromkeys("‘’‚‛ʼ´`′", "'") | dict.fromkeys("“”„‟«»″", '"')
ALIKE |= dict.fromkeys("‐‑‒–—―−", "-") | {"…": ".", "\t": " ", "\u00a0": " ", "\r": "\n"}


def code_points(text: str) -> npt.NDArray[np.unsignedinteger[Any]]:
    """(len(text),) of the text."""
    if text.isascii():
        return np.frombuffer(text.encode(), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


class ByteBPE:
    """Byte-level BPE as GPT-2 has it: every text can be encoded, and decodes to itself."""

    def __init__(self, whole: Any) -> None:
        """whole: a `tokenizers.Tokenizer` with <|endoftext|>.

        Raises:
            ValueError: it has none.
        """
        whole.no_padding()
        whole.no_truncation()
        whole.encode_special_tokens = True  # the string <|endoftext|> in a song is a string
        self.whole = whole
        self.vocab_size = whole.get_vocab_size()
        eot = whole.token_to_id(END_OF_TEXT)
        if eot is None:
            raise ValueError(f"its vocabulary has no {END_OF_TEXT}")
        self.eot = int(eot)
        is_gpt2 = self.vocab_size == GPT2_SIZE and whole.token_to_id("\u0120the") == 262
        self.kind = "gpt2" if is_gpt2 else "bpe"
        self.dtype = np.uint16 if self.vocab_size <= 2**16 else np.uint32

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """The likeliest merges of the texts; a small corpus may give fewer than asked for."""
        from tokenizers import Tokenizer as Whole
        from tokenizers import models, pre_tokenizers, trainers

        whole = _byte_level(Whole(models.BPE()))
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        whole.train_from_iterator(texts, trainer)
        whole.add_special_tokens([END_OF_TEXT])
        return cls(whole)

    @classmethod
    def gpt2(cls) -> Self:
        """GPT-2's own, from tiktoken's files (downloaded once, or in TIKTOKEN_CACHE_DIR).

        Raises:
            DataError: they are not there and cannot be had.
        """
        from tiktoken.load import read_file_cached
        from tokenizers import Tokenizer as Whole
        from tokenizers import models

        try:
            lines = read_file_cached(*MERGES).decode().splitlines()
        except (OSError, ValueError):  # requests' errors are OSErrors
            raise DataError(
                "GPT-2's vocabulary is not on this computer and cannot be downloaded",
                mend="connect to the network once, or set TIKTOKEN_CACHE_DIR to a folder that has "
                "tiktoken's files; --tokenizer=char and bpe need no download",
            ) from None
        merges = [(a, b) for a, _, b in (line.partition(" ") for line in lines[1:] if line)]
        tokens = [*(_GLYPHS[b] for b in (*_SHOWN, *_HIDDEN)), *(a + b for a, b in merges)]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        whole = _byte_level(Whole(models.BPE(vocab=vocabulary, merges=merges)))
        whole.add_special_tokens([END_OF_TEXT])
        return cls(whole)

    @classmethod
    def from_files(cls, vocab: Path, merges: Path) -> Self:
        """From the two files that older folders have in place of a tokenizer.json."""
        from tokenizers import Tokenizer as Whole
        from tokenizers import models

        whole = _byte_level(Whole(models.BPE.from_file(str(vocab), str(merges))))
        whole.add_special_tokens([END_OF_TEXT])
        return cls(whole)

    def encode(self, text: str) -> Ids:
        whole = self.whole.encode(_spelt(text), add_special_tokens=False)
        return np.array(whole.ids, dtype=self.dtype)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        if self.kind != "gpt2":
            spelt = list(map(_spelt, texts))
            done = self.whole.encode_batch_fast(spelt, add_special_tokens=False)
            return [np.array(each.ids, dtype=self.dtype) for each in done]
        # tiktoken lets go of the interpreter while it encodes, and makes arrays rather than lists
        encode = self._fast.encode_to_numpy

        def encoded(part: Sequence[str]) -> list[Ids]:
            each = (encode(_spelt(text), disallowed_special=()) for text in part)
            return [ids.astype(self.dtype) for ids in each]

        ends = itertools.accumulate(map(len, texts))
        numbered = itertools.groupby(zip(ends, texts, strict=True), lambda pair: pair[0] // PART)
        parts = [[text for _, text in part] for _, part in numbered]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(itertools.chain.from_iterable(threads.map(encoded, parts)))

    @cached_property
    def _fast(self) -> Any:
        """tiktoken with this vocabulary: in GPT-2's, ids are the ranks of the merges."""
        import tiktoken

        bytes_of = {glyph: byte for byte, glyph in _GLYPHS.items()}
        ranks = {
            bytes(bytes_of[c] for c in token): i
            for token, i in self.vocabulary().items()
            if token != END_OF_TEXT
        }
        return tiktoken.Encoding(
            "gpt2", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: self.eot}
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Specials become their names; half a character becomes U+FFFD."""
        numbers = ids.tolist() if isinstance(ids, np.ndarray) else list(map(int, ids))
        return str(self.whole.decode(numbers, skip_special_tokens=False))

    def unseen(self, text: str) -> list[str]:
        return []  # bytes spell everything

    def nearest(self, text: str) -> str:
        return text

    def never_sampled(self) -> list[int]:
        return []

    def vocabulary(self) -> dict[str, int]:
        return dict(self.whole.get_vocab(with_added_tokens=True))

    def to_json(self) -> str:
        return str(self.whole.to_str(pretty=True))

    @classmethod
    def from_json(cls, text: str) -> Self:
        from tokenizers import Tokenizer as Whole

        try:
            whole = Whole.from_str(text)
        except Exception as error:  # noqa: BLE001  the library raises bare Exceptions
            raise ValueError(str(error)) from error
        read = cls(whole)
        if max(read.vocabulary().values()) >= read.vocab_size:
            raise ValueError("its ids have gaps")
        if any(read.decode(read.encode(probe)) != probe for probe in (PROBE, PROBE[1:])):
            raise ValueError("it does not give a text back as it was")
        if read.eot in read.encode(PROBE):
            raise ValueError(f"it takes {END_OF_TEXT} in a text for the end of it")
        return read


GPT2_SIZE = 50_257
# GPT-2's merges as tiktoken fetches and keeps them: address and sha256, of its openai_public.py.
MERGES = (
    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe",
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
)
PART = 2**15  # characters that a thread takes at a time
# Words as GPT-2 cuts them before merging (Radford et al. 2019, encoder.py).
SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# What a byte-level BPE must give back: case, accents of both forms, white space at every place, all
# bytes of UTF-8, and the name of the special.
PROBE = f" It's  A\ne\u0301\u00e9\t\u65e5 \U0001f3b5{END_OF_TEXT} \n" + "".join(
    map(chr, [*range(1, 0x250), *range(0x800, 0xD800, 0x3F), *range(0x10000, 0x110000, 0xFFF)])
)


def _spelt(text: str) -> str:
    """Half a surrogate pair is no text."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _byte_level(whole: Any) -> Any:
    from tokenizers import decoders, pre_tokenizers

    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    return whole


_SHOWN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes with a glyph
_HIDDEN = [b for b in range(256) if b not in _SHOWN]
_GLYPHS = {b: chr(b) for b in _SHOWN} | {b: chr(256 + i) for i, b in enumerate(_HIDDEN)}


def make(kind: str, texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of this kind for these texts; `texts` is not read where it is GPT-2's.

    Args:
        vocab_size: of a trained BPE.
    """
    if kind == "char":
        return CharTokenizer.train(texts)
    return ByteBPE.gpt2() if kind == "gpt2" else ByteBPE.train(texts, vocab_size)


# Where this project's own weights lie, an export in the clone; checkpoint.py reads it.
LYRICS_BASE = Path(__file__).resolve().parents[2] / "assets" / "lyrics-base"
RESTORE = "git checkout -- assets/lyrics-base brings it back, in the clone of this project"


def folder(kind: str, vocab_size: int) -> str:
    """The name of the folder of bins beside data.json: char, gpt2, bpe4096, lyrics-base."""
    return f"bpe{vocab_size}" if kind == "bpe" else kind


def nanogpt_meta(tokenizer: Tokenizer) -> bytes:
    """meta.pkl as nanoGPT reads it; we never read a pickle."""
    names = sorted(tokenizer.vocabulary().items(), key=lambda pair: pair[1])
    return pickle.dumps(
        {
            "vocab_size": tokenizer.vocab_size,
            "itos": {i: name for name, i in names},
            "stoi": {name: i for name, i in names if len(name) == 1},
        }
    )


def load(path: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`.

    Raises:
        DataError: missing, damaged, or of a kind we do not write.
    """
    try:
        text = path.read_text(encoding="utf-8")
        model = json.loads(text)["model"]
        # the released gpt2 file names no type
        is_bpe = model.get("type", "BPE" if "merges" in model else "") == "BPE"
        return (ByteBPE if is_bpe else CharTokenizer).from_json(text)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(
            f"no tokenizer in {path}",
            why="ids mean nothing without it",
            mend="a run, an export and a folder of bins carry a tokenizer.json "
            "(python -m backend.data.binarize writes one)",
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} is no tokenizer that can be used: {first_line(error)}",
            mend="python -m backend.data.binarize --force writes it again beside the bins",
        ) from error
