"""Songs that a model wrote beside songs that people wrote: the figures of lyrics.py, at the same
lengths, over several seeds.

    held out    songs of the corpus that nobody trained on: what all others are measured by
    training    other songs of the corpus: how far people are from each other
    model       one for each held-out song, asked for by its header
    5-gram      the same, by a model that knows four tokens back (ngram.py), as long as a person's

Song i of each is cut to the words of the shortest among held out, training and model, so that every
column is of the same lengths; a 5-gram's ends mean nothing, so it goes on. Form, language and
novelty are of whole songs.
"""

import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from backend.data.bins import Bins, Split
from backend.data.sections import sung_lines
from backend.data.song import split_header
from backend.errors import DataError
from backend.evaluation import lyrics
from backend.evaluation.ngram import NGram
from backend.evaluation.sounds import Sounds, words
from backend.models.generation import Row, Sampling, generate
from backend.models.gpt import GPT

LONGEST = 2**16  # tokens of a text that are measured: a split may be one long text
LEAST = 12  # words of a song that is measured at all
BLEU_SONGS = 200
KNOWN_CHARS = 2**25  # of training songs, whose words are no non-words
OF_LINES = {  # means over songs cut to whole lines, with what stands beside them in the table
    "rhyme_density": "vowels rhymed per word (Malmi et al. 2016)",
    "end_rhyme_rate": "lines that rhyme with one of three before or after",
    "repeated_lines": "lines that stood before in the song",
    "repeated_4grams": "4-grams of words that stood before in the song (seq-rep-4, Welleck 2020)",
    "longest_loop": "times that one line follows itself at most",
    "compressibility": "1 - deflated size / size (Varnum et al. 2021)",
    "words_per_line": "",
    "non_words": "words that no training song has",
}
OF_SETS = {  # of all songs together, cut to words
    "distinct_1": "different words, of all (Li et al. 2016)",
    "distinct_2": "different pairs of words, of all",
    "distinct_3": "different triples of words, of all",
    "vocabulary": "different words among the first so many of all songs in turn",
    "self_bleu": "likeness of the songs to each other, BLEU-4 (Zhu et al. 2018)",
}
OF_WHOLE = {
    "words": "whole songs: in one of them",
    "ended": "whole songs: that ended by themselves",
    "lines_per_stanza": "whole songs",
    "chorus_share": "whole songs: lines in stanzas that come again word for word",
    "chorus_agreement": "whole songs: lines of a later [Chorus] that the first one has",
    "line_distance": "whole songs: Jensen-Shannon distance of words per line to the held-out",
    "stanza_distance": "whole songs: the same of lines per stanza",
    "section_distance": "whole songs: the same of which section follows which",
    "language_share": "whole songs: in the language that most held-out songs are in",
    "longest_copy": "whole songs: words of the longest run that a training song has",
    "copied_5grams": "whole songs: runs of five words that a training song has (Merrill 2024)",
}
MEANINGS = OF_LINES | OF_SETS | OF_WHOLE


@dataclass(frozen=True)
class Written:
    """Songs of one source for one seed, beside those held out."""

    texts: list[str]
    ended: float | None = None  # share that ended by themselves


@dataclass(frozen=True)
class HeldOut:
    """Songs to measure by: their texts, and the ids that ask a model for each."""

    texts: list[str]
    prompts: list[list[int]]  # end-of-text and header
    languages: list[str | None]

    @classmethod
    def of(cls, bins: Bins, n: int) -> "HeldOut":
        """n songs of the validation split, evenly spread, or as many as there are.

        Raises:
            DataError: there are none.
        """
        if not bins.val.songs:
            raise DataError(
                "no song is held out to measure by",
                mend="more songs, or a larger --val_fraction in python -m backend.data.binarize",
            )
        texts, prompts, languages = [], [], []
        for i in np.linspace(0, bins.val.songs - 1, min(n, bins.val.songs)).round().astype(int):
            head, ids = bins.val.document(int(i), most=LONGEST)
            known, _ = split_header(bins.tokenizer.decode(head.tolist()))
            text = bins.tokenizer.decode(ids.tolist())
            texts.append(text)
            prompts.append([bins.tokenizer.eot, *head.tolist()])
            languages.append(known.get("language") or lyrics.language(text))
        return cls(texts, prompts, languages)


def known_words(bins: Bins) -> set[str]:
    """Words of the training songs, of the first KNOWN_CHARS characters of them."""
    known: set[str] = set()
    chars = 0
    for i in range(bins.train.songs):
        text = bins.tokenizer.decode(bins.train.document(i, most=KNOWN_CHARS)[1].tolist())
        known.update(words(text))
        if (chars := chars + len(text)) > KNOWN_CHARS:
            break
    return known


def training_songs(split: Split, bins: Bins, n: int, seed: int) -> Written:
    """n songs of the training split, drawn by the seed."""
    chosen = random.Random(seed).sample(range(split.songs), min(n, split.songs))
    ids = (split.document(i, most=LONGEST)[1].tolist() for i in chosen)
    return Written([bins.tokenizer.decode(each) for each in ids])


def model_songs(
    model: GPT, bins: Bins, held_out: HeldOut, how: Sampling, *, seed: int, max_new_tokens: int
) -> Written:
    """One song for each held-out one, asked for by its header."""
    eot = bins.tokenizer.eot
    rows = [
        Row([*prompt], seed + i, left=max_new_tokens, keep=len(prompt))
        for i, prompt in enumerate(held_out.prompts)
    ]
    for row, token in generate(model, rows, how):
        row.done = token == eot
    texts = [
        bins.tokenizer.decode([t for t in row.ids[len(prompt) :] if t != eot])
        for row, prompt in zip(rows, held_out.prompts, strict=True)
    ]
    return Written(texts, sum(row.done for row in rows) / len(rows))


def ngram_songs(
    model: NGram, bins: Bins, held_out: HeldOut, *, seed: int, max_new_tokens: int
) -> Written:
    """One text for each held-out song, as long as that, or as the model's may be."""
    never = [bins.tokenizer.eot, *bins.tokenizer.never_sampled()]
    encoded = map(bins.tokenizer.encode, map(bins.tokenizer.nearest, held_out.texts))
    lengths = [min(len(ids), max_new_tokens) for ids in encoded]
    written = model.write(held_out.prompts, lengths, seed=seed, never=never)
    return Written([bins.tokenizer.decode(ids) for ids in written])


def figures(
    sources: Sequence[Mapping[str, Written]],
    held_out: HeldOut,
    *,
    known: set[str],
    sound: Callable[[str | None], Sounds],
    more: Callable[[str], Mapping[str, float]] = lambda text: {},
) -> tuple[dict[str, dict[str, dict[str, float]]], int]:
    """Source -> figure -> {mean, spread} over the seeds, and how many songs were too short.

    Args:
        sources: for each seed, source -> its songs, as many as there are held out; "held out" and
            those that decide the lengths among them.
        sound: language -> how its words sound.
        more: further figures of a whole song, such as novelty.
    """
    short = 0
    per_seed: list[dict[str, dict[str, float]]] = []
    for written in sources:
        whole = {"held out": Written(held_out.texts), **written}
        deciding = [name for name in whole if name != "5-gram"]
        lengths = [
            min(len(lyrics.sung_words(whole[name].texts[i])) for name in deciding)
            for i in range(len(held_out.texts))
        ]
        chosen = [i for i, n in enumerate(lengths) if n >= LEAST]
        short += len(lengths) - len(chosen)
        cut = {
            name: [lyrics.cut(each.texts[i], lengths[i]) for i in chosen]
            for name, each in whole.items()
        }
        n_words = min(sum(len(lyrics.sung_words(t)) for t in texts) for texts in cut.values())
        voices = [sound(held_out.languages[i]) for i in chosen]
        per_seed.append({})
        for name, each in whole.items():
            lines = [lyrics.cut(each.texts[i], lengths[i], whole_lines=True) for i in chosen]
            per_seed[-1][name] = (
                _means(OF_LINES, map(partial(lyrics.quality, known=known), lines, voices))
                | _of_sets(cut[name], n_words)
                | _of_whole(each, held_out, more if name != "training" else lambda text: {})
            )
        per_seed[-1].get("training", {}).pop("non_words", None)  # it has none, by definition
    names = dict.fromkeys(name for found in per_seed for name in found)
    return {
        name: {
            key: _over_seeds([found[name][key] for found in per_seed if key in found[name]])
            for key in dict.fromkeys(key for found in per_seed for key in found[name])
        }
        for name in names
    }, short


def _over_seeds(values: Sequence[float]) -> dict[str, float]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "spread": spread}


def _means(keys: Iterable[str], rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Over the rows that have the figure."""
    found = list(rows)
    each = {key: [row[key] for row in found if key in row] for key in keys}
    return {key: statistics.fmean(values) for key, values in each.items() if values}


def _of_sets(texts: Sequence[str], n_words: int) -> dict[str, float]:
    if not texts:
        return {}
    found: dict[str, float] = {f"distinct_{n}": lyrics.distinct(texts, n) for n in (1, 2, 3)}
    found["self_bleu"] = lyrics.self_bleu(texts[:BLEU_SONGS])
    found["vocabulary"] = lyrics.vocabulary(texts, n_words)
    return found


def _of_whole(
    written: Written, held_out: HeldOut, more: Callable[[str], Mapping[str, float]]
) -> dict[str, float]:
    texts = written.texts
    found = _means(OF_WHOLE, ({**lyrics.quality(text), **more(text)} for text in texts))
    theirs, ours = forms(held_out.texts), forms(texts)
    for key, form in theirs.items():
        if form and ours[key] and texts is not held_out.texts:
            found[key] = lyrics.jensen_shannon(form, ours[key])
    [(most, _)] = Counter(held_out.languages).most_common(1)
    if most is not None:
        found["language_share"] = statistics.fmean(lyrics.language(t) == most for t in texts)
    if written.ended is not None:
        found["ended"] = written.ended
    return found


def forms(texts: Sequence[str]) -> dict[str, Counter[Any]]:
    """What distances of form are taken of: counts over all texts."""
    return {
        "line_distance": Counter(len(words(line)) for t in texts for line in sung_lines(t)),
        "stanza_distance": Counter(len(stanza) for t in texts for stanza in lyrics.stanzas(t)),
        "section_distance": Counter(pair for t in texts for pair in lyrics.section_order(t)),
    }
