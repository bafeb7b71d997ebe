"""Figures of lyrics: pure functions from texts to numbers, each with its paper. No single score.

A text is a song as data.json holds it: lines, blank lines between stanzas, [Section] headers alone
on their lines. Headers are no lyrics: they count for the order of sections alone. Every figure
depends on length, so compare texts of the same lengths, and always with songs that people wrote.
"""

import math
import zlib
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import chain, islice

from backend.data.clean import guess_language
from backend.data.sections import section, sung_lines
from backend.evaluation.sounds import VOWELS, WORD, Phones, Sounds, english, words

LOOKBACK = 10  # words that a rhyme may lie back: raplysaattori's, for whom densities are published
RHYME_LINES = 3  # lines that an end rhyme may lie back: abba is 3
BLEU_N = 4
# Vowels as their transcriber, eSpeak, writes them: a diphthong is two, the vowel of "the" is none.
MALMI = {
    "AA": "A", "AE": "a", "AH": "V", "AO": "o", "AW": "aU", "AX": "", "AY": "ai", "EH": "e",
    "ER": "3", "EY": "ei", "IH": "i", "IY": "i", "OW": "oU", "OY": "oi", "UH": "U", "UW": "u",
}  # fmt: skip
EPSILON = 0.1  # for an n-gram that no other text has: Chen & Cherry 2014, method 1, as Texygen


# --- rhyme ----------------------------------------------------------------------------------------


def rhyme_density(text: str, sound: Sounds = english) -> float:
    """Mean length, in vowels (MALMI), of the longest rhyme that each word ends: Malmi et al. 2016
    (DopeLearning, arXiv 1505.04771), as their program raplysaattori counts it.

    For each word but the first, the longest run of vowels that ends it and also ends one of the ten
    words before it. The run may reach back over several words, not into the other run; equal words
    and single vowels are no rhyme. Repeated lines count once. 0 for fewer than two words.
    """
    sung: list[str] = []
    for line in dict.fromkeys(" ".join(words(line)) for line in sung_lines(text)):
        sung += line.split()
    vowels: list[str] = []  # of all words
    heard: list[tuple[str, int]] = []  # word, where its last vowel stands
    for word in sung:
        own = "".join(MALMI.get(phone, phone) for phone in sound(word) if phone in VOWELS)
        vowels += own
        if own:
            heard.append((word, len(vowels) - 1))
    total = 0
    for i, (word, end) in enumerate(heard):
        longest = 0
        for other, before in heard[max(0, i - LOOKBACK) : i]:
            if other == word:
                continue
            n, most = 0, min(before + 1, end - before)
            while n < most and vowels[before - n] == vowels[end - n]:
                n += 1
            longest = max(longest, n)
        total += longest if longest > 1 else 0
    return total / (len(heard) - 1) if len(heard) > 1 else 0.0


def tail(phones: Phones) -> Phones:
    """The last vowel and what follows it: what an end rhyme has in common."""
    last = max((i for i, phone in enumerate(phones) if phone in VOWELS), default=len(phones))
    return phones[last:]


def end_rhyme_rate(text: str, sound: Sounds = english) -> float:
    """Share of lines that rhyme with one of the three lines before or after in their stanza
    (a feature of Hulzebosch 2017): the last vowel and what follows it are equal, the words are not.
    Lines that are alone in their stanza do not count.
    """
    rhymed = lines = 0
    for stanza in stanzas(text):
        ends = [own[-1] for line in stanza if (own := words(line))]
        tails = [tail(sound(word)) for word in ends]
        if len(ends) < 2:
            continue
        lines += len(ends)
        for i in range(len(ends)):
            near = range(max(0, i - RHYME_LINES), min(len(ends), i + RHYME_LINES + 1))
            rhymed += any(tails[i] and tails[i] == tails[j] and ends[i] != ends[j] for j in near)
    return rhymed / lines if lines else 0.0


# --- repetition -----------------------------------------------------------------------------------


def distinct(texts: Sequence[str], n: int) -> float:
    """distinct-n: n-grams of words that are different, over all n-grams (Li et al. 2016). They do
    not cross texts. 0 where no text is that long.
    """
    grams: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        found = _grams(sung_words(text), n)
        grams.update(found)
        total += len(found)
    return len(grams) / total if total else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU-4 of each text with all others as references (Texygen, Zhu et al. 2018): 1 where
    all are alike, near 0 where they share nothing. 0 for fewer than two texts.

    n-grams that no other has count as 0.1 of one, and BLEU's penalty on short texts is in.
    """
    said = [ws for text in texts if (ws := sung_words(text))]
    if len(said) < 2:
        return 0.0
    logs = [0.0] * len(said)
    lengths = sorted(map(len, said))
    for n in range(1, BLEU_N + 1):
        counts = [Counter(_grams(ws, n)) for ws in said]
        most: dict[tuple[str, ...], tuple[int, int, int]] = {}  # count, whose, the second count
        for i, counted in enumerate(counts):
            for gram, count in counted.items():
                best, whose, second = most.get(gram, (0, -1, 0))
                if count > best:
                    most[gram] = (count, i, best)
                elif count > second:
                    most[gram] = (best, whose, count)
        for i, counted in enumerate(counts):
            clipped = 0
            for gram, count in counted.items():
                best, whose, second = most[gram]
                clipped += min(count, second if whose == i else best)
            logs[i] += math.log((clipped or EPSILON) / max(1, counted.total())) / BLEU_N
    total = 0.0
    for ws, log in zip(said, logs, strict=True):
        others = lengths.copy()
        others.remove(len(ws))
        near = min(others, key=lambda length: (abs(length - len(ws)), length))
        total += math.exp(log + min(0.0, 1 - near / len(ws)))
    return total / len(said)


def compressibility(text: str) -> float:
    """1 - compressed size / size, of the lyrics in bytes, by LZ77 and Huffman codes (deflate): how
    repetitive a song is (Morris 2017; Varnum et al. 2021, PLoS ONE 16(1) e0244576).
    """
    raw = "\n".join(sung_lines(text)).encode()
    if not raw:
        return 0.0
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)  # without the header, which weighs on shorts
    return 1 - (len(deflate.compress(raw)) + len(deflate.flush())) / len(raw)


def repeated_lines(text: str) -> float:
    """Share of lines that stood before in the song, whatever their case and punctuation."""
    lines = [key for line in sung_lines(text) if (key := tuple(words(line)))]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def longest_loop(text: str) -> int:
    """How often one line follows itself at most: the loops that models fall into (Welleck et al.
    2020). 1 where no line does, 0 for no lines."""
    longest = run = 0
    before: tuple[str, ...] = ()
    for line in sung_lines(text):
        if key := tuple(words(line)):
            run = run + 1 if key == before else 1
            longest, before = max(longest, run), key
    return longest


def repeated_grams(text: str, n: int = 4) -> float:
    """seq-rep-n: share of n-grams of words that stood before in the song (Welleck et al. 2020)."""
    grams = _grams(sung_words(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


# --- form -----------------------------------------------------------------------------------------


def stanzas(text: str) -> list[list[str]]:
    """The lines of each stanza, without headers; empty ones are none."""
    return [lines for block in text.split("\n\n") if (lines := sung_lines(block))]


def chorus_share(text: str) -> float:
    """Share of lines in stanzas that are sung more than once, of two lines or more."""
    keys = [tuple(tuple(words(line)) for line in stanza) for stanza in stanzas(text)]
    counts = Counter(keys)
    lines = sum(map(len, keys))
    return sum(len(k) for k in keys if len(k) > 1 and counts[k] > 1) / lines if lines else 0.0


def chorus_agreement(text: str) -> float | None:
    """Of the lines under the second and later [Chorus], the share that the first one has; None
    where none comes again. People repeat it, models must learn to."""
    first: set[tuple[str, ...]] | None = None
    same = total = 0
    for block in text.split("\n\n"):
        head = section(block.split("\n", 1)[0])
        if not head or "Chorus" not in head.names or head.repeat:
            continue
        lines = [tuple(words(line)) for line in sung_lines(block)]
        if first is None:
            first = set(lines) or None
        else:
            same += sum(line in first for line in lines)
            total += len(lines)
    return same / total if total else None


def section_order(text: str) -> list[tuple[str, str]]:
    """Which section follows which, from "start" to "end"; a stanza without a header is "-"."""
    names = ["start"]
    for block in text.split("\n\n"):
        if not block.strip():
            continue
        head = section(block.strip("\n").split("\n", 1)[0])
        names.append(("Repeat " * head.repeat + " / ".join(head.names)).strip() if head else "-")
    names.append("end")
    return list(zip(names, names[1:], strict=False))


def jensen_shannon(a: Mapping[Hashable, float], b: Mapping[Hashable, float]) -> float:
    """Distance of two distributions, given as counts: the square root of the Jensen-Shannon
    divergence in bits (Endres & Schindelin 2003). 0 alike, 1 with nothing in common.

    Raises:
        ValueError: one of them is empty.
    """
    n, m = sum(a.values()), sum(b.values())
    if not n or not m:
        raise ValueError("a distribution of nothing")
    divergence = 0.0
    for key in a.keys() | b.keys():
        p, q = a.get(key, 0) / n, b.get(key, 0) / m
        mean = (p + q) / 2
        divergence += sum(x * math.log2(x / mean) for x in (p, q) if x) / 2
    return math.sqrt(max(0.0, divergence))


# --- words ----------------------------------------------------------------------------------------


def sung_words(text: str) -> list[str]:
    """All sung words in turn."""
    return words("\n".join(sung_lines(text)))


def cut(text: str, n: int, *, whole_lines: bool = False) -> str:
    """The beginning of a song, up to its n-th word, or the last line that ends there or before:
    songs compare at the same lengths."""
    lines: list[str] = []
    for line in text.split("\n"):
        if n <= 0:
            break
        ends = [match.end() for match in WORD.finditer(line)] if sung_lines(line) else []
        if len(ends) > n:
            if whole_lines and lines:
                break
            line = line[: ends[n - 1]]
        n -= len(ends)
        lines.append(line)
    return "\n".join(lines).rstrip("\n")


def vocabulary(texts: Sequence[str], n: int) -> int:
    """Different words among the first n of all texts in turn, or among fewer where there are
    fewer: compare at the same n."""
    return len(set(islice(chain.from_iterable(map(sung_words, texts)), n)))


def non_words(text: str, known: Collection[str]) -> float:
    """Share of words that are none of the known ones (lower case, as `words` gives them). Songs
    that people wrote have new words too: compare with those."""
    said = sung_words(text)
    return sum(word not in known for word in said) / len(said) if said else 0.0


def language(text: str) -> str | None:
    """The language of a song, as clean finds it; None where its words do not tell."""
    return guess_language(sung_lines(text))


# --- all of them ----------------------------------------------------------------------------------


def quality(
    text: str, sound: Sounds = english, *, known: Collection[str] | None = None
) -> dict[str, float]:
    """What one song shows by itself: name -> figure. Shares are from 0 to 1."""
    lines = sung_lines(text)
    n_words = len(sung_words(text))
    figures = {
        "words": n_words,
        "lines": len(lines),
        "words_per_line": n_words / len(lines) if lines else 0.0,
        "lines_per_stanza": len(lines) / len(stanzas(text)) if lines else 0.0,
        "rhyme_density": rhyme_density(text, sound),
        "end_rhyme_rate": end_rhyme_rate(text, sound),
        "repeated_lines": repeated_lines(text),
        "repeated_4grams": repeated_grams(text),
        "longest_loop": longest_loop(text),
        "chorus_share": chorus_share(text),
        "compressibility": compressibility(text),
        "distinct_1": distinct([text], 1),
        "distinct_2": distinct([text], 2),
    }
    if (agreement := chorus_agreement(text)) is not None:
        figures["chorus_agreement"] = agreement
    if known is not None:
        figures["non_words"] = non_words(text, known)
    return figures


def _grams(said: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(said[i:] for i in range(n)), strict=False))
