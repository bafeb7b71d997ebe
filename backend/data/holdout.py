"""Holdout: which documents of a corpus are for validation, in one order of all its texts.

own          the corpus has a validation of its own
contiguous   the end of the text, as nanoGPT divides Shakespeare; also of too few documents
row          by a hash of the seed and the row, or the rows that nanoGPT holds out of openwebtext
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from backend.data import tokenizers
from backend.data.bins import draw
from backend.data.texts import PIECE, Corpus, Part
from backend.data.tokenizers import Tokenizer
from backend.errors import DataError

FEW = 20  # documents; below this the end of the text is held out
BPE_SAMPLE = 200_000_000  # characters that merges are learnt from
Sided = tuple[str, bool, str]  # train | val, does a document begin?, text
Parts = Mapping[str, Part]  # "" is to be divided; train and val are the corpus' own
bar = partial(tqdm, unit=" chars", unit_scale=True, disable=None, leave=False)


@dataclass
class Plan:
    """How documents go to train and val. It is saved: a run that is taken up divides alike."""

    split_by: str  # row | contiguous | own
    val_fraction: float
    rows: int = 0  # nanoGPT's split of openwebtext follows from how many there are
    cut: int = 0  # characters to train on, where it is contiguous
    nearest: int = -1  # the row to hold out where the hash would none
    notes: list[str] = field(default_factory=list)

    def held_out(self, seed: int) -> Callable[[int], bool]:
        """Is this row of validation?"""
        if self.rows:  # as train_test_split of Hugging Face's datasets
            order = np.random.default_rng(seed).permutation(self.rows)
            return set(order[: math.ceil(self.val_fraction * self.rows)].tolist()).__contains__
        return lambda row: row == self.nearest or draw(seed, str(row)) < self.val_fraction


class Place(NamedTuple):
    """How far a corpus is read."""

    part: int = 0
    piece: int = 0  # of this part
    row: int = 0  # documents of this part
    chars: int = 0
    empty: int = 0


START = Place()


def divided(
    corpus: Corpus, plan: Plan, parts: Parts, place: Place = START
) -> Iterator[tuple[Place, list[Sided]]]:
    """Every piece of text after `place`: the place where it ends, and the text with its side.

    An empty document has no text; one in which validation begins has two.
    """
    held_out = plan.held_out(corpus.seed)
    for number, (side, part) in itertools.islice(enumerate(parts.items()), place.part, None):
        if number > place.part:
            place = place._replace(part=number, piece=0, row=0)
        for new, text in corpus.pieces(part, place.piece):
            if new and place.row == corpus.limit:
                break
            start = place.chars
            empty = new and len(text) < PIECE and not text.strip()
            chars = 0 if empty else len(text)
            place = Place(
                number, place.piece + 1, place.row + new, start + chars, place.empty + empty
            )
            if empty:
                yield place, []
            elif plan.split_by == "own":
                yield place, [(side, new, text)]
            elif plan.split_by == "row":
                yield place, [("val" if held_out(place.row - 1) else "train", new, text)]
            else:
                within = min(max(plan.cut - start, 0), len(text))
                val = ("val", new or start <= plan.cut, text[within:])
                yield place, [each for each in (("train", new, text[:within]), val) if each[2]]


@dataclass
class Seen:
    """What a first pass over the texts finds."""

    documents: int = 0
    place: Place = START
    lowest: tuple[float, int] = (2.0, -1)  # draw, row
    highest: float = 0.0

    def texts(self, corpus: Corpus, parts: Parts) -> Iterator[str]:
        with bar(desc="reading") as progress:
            for self.place, pieces in divided(corpus, Plan("own", 0), parts):
                for _, new, text in pieces:
                    if new:
                        drawn = draw(corpus.seed, str(self.place.row - 1))
                        self.documents += 1
                        self.lowest = min(self.lowest, (drawn, self.place.row - 1))
                        self.highest = max(self.highest, drawn)
                    progress.update(len(text))
                    yield text


def planned(corpus: Corpus, parts: Parts, kind: str, vocab_size: int) -> tuple[Plan, Tokenizer]:
    """The split and the tokenizer, from a pass over as much of the texts as they need.

    Raises:
        DataError: there is no text.
    """
    own = "" not in parts
    shuffled, contiguous = corpus.split_by == "shuffled", corpus.split_by == "contiguous"
    on_hub = isinstance(parts.get(""), str)
    plan = Plan("own" if own else "row", corpus.val_fraction)
    known = corpus.known_rows() if shuffled and on_hub else 0
    whole = kind == "char" or contiguous or (shuffled and not on_hub)
    seen, tokenizer = Seen(), None
    texts = seen.texts(corpus, parts)
    if kind == "char":
        tokenizer = tokenizers.make(kind, texts, 0)
    elif not own and not known:
        for _ in texts:
            enough = seen.documents >= FEW and seen.lowest[0] < plan.val_fraction <= seen.highest
            if enough and not whole:
                break
    if not (seen.documents or own or known):
        raise DataError("there is no text in it", mend="another --path, or --text_key")

    if contiguous or (seen.documents < FEW and not own and not known):
        plan.split_by, plan.val_fraction = "contiguous", corpus.val_fraction_of_few
        plan.cut = int((1 - plan.val_fraction) * seen.place.chars)
        if not contiguous:
            plan.notes.append(
                f"only {seen.documents} documents: the last {plan.val_fraction:.0%} of the text is "
                f"held out, as nanoGPT does; a split by document starts at {FEW}"
            )
    elif shuffled and (known or whole):
        plan.rows = known or seen.place.row
    elif shuffled:
        plan.notes.append("the hub tells no number of rows: held out by a hash, not as nanoGPT")
    elif not own and seen.lowest[0] >= plan.val_fraction:
        plan.nearest = seen.lowest[1]
        plan.notes.append("the hash held out no document, so the one nearest to it was taken")
    if corpus.split_by == "own" and plan.split_by == "row":
        plan.notes.append("no files called train and val: held out by a hash")
    if tokenizer is None:
        everything = divided(corpus, plan, parts)
        train = (t for _, texts in everything for side, _, t in texts if side == "train")
        tokenizer = tokenizers.make(kind, _first(train), vocab_size)
    return plan, tokenizer


def _first(texts: Iterable[str], characters: int = BPE_SAMPLE) -> Iterator[str]:
    for text in texts:
        yield text
        if (characters := characters - len(text)) <= 0:
            return
