"""Tokenizers: text <-> ids, saved whole as a Hugging Face `tokenizer.json`.

Character level: code points sorted, ids 0..n-1 (nanoGPT's ids), then <|endoftext|> = n and
<|unknown|> = n+1. The two specials are entries of the vocabulary that no text can produce: the
literal string "<|endoftext|>" in lyrics is thirteen characters.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from backend.errors import DataError

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<|unknown|>"
Ids = npt.NDArray[np.unsignedinteger[Any]]


class Tokenizer(Protocol):
    """What every tokenizer can do. Ids fit `dtype`, which is also the type of the bins."""

    kind: str
    vocab_size: int
    eot: int
    dtype: type[np.unsignedinteger]

    def encode(self, text: str) -> Ids: ...  # (len(text),) for characters

    def decode(self, ids: Iterable[int]) -> str: ...

    def unseen(self, text: str) -> list[str]: ...

    def never_sampled(self) -> list[int]: ...

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

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """The characters of all texts, sorted by code point."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return cls(sorted(seen))

    def encode(self, text: str) -> Ids:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        return self._table[points]

    def decode(self, ids: Iterable[int]) -> str:
        """Specials become their names, so that nothing is hidden."""
        names = [*self.characters, END_OF_TEXT, UNKNOWN]
        return "".join(names[i] for i in ids)

    def unseen(self, text: str) -> list[str]:
        """Characters that would become <|unknown|>, in order of appearance."""
        known = set(self.characters)
        return list(dict.fromkeys(c for c in text if c not in known))

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


def load(path: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`.

    Raises:
        DataError: missing, damaged, or of a kind we do not write.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return CharTokenizer.from_json(text)
    except FileNotFoundError:
        raise DataError(
            f"no tokenizer.json in {path.parent}",
            mend=f"python -m backend.data.binarize --data_dir={path.parent.parent}",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a tokenizer this project wrote: {error}",
            mend=f"python -m backend.data.binarize --data_dir={path.parent.parent} --force",
        ) from error
