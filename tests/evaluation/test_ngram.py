"""The n-gram model against its formula, written out with dictionaries."""

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from backend.evaluation.ngram import NGram


def by_formula(train, V, n):
    """P(token | the tokens before it), token by token, as the paper writes it."""
    grams = {
        m: [tuple(train[i : i + m]) for i in range(len(train) - m + 1)] for m in range(1, n + 1)
    }
    counts = {n: Counter(grams[n])}
    for m in range(1, n):
        before = defaultdict(set)
        for i in range(1, len(train) - m + 1):
            before[tuple(train[i : i + m])].add(train[i - 1])
        counts[m] = Counter({g: max(1, len(before[g])) for g in grams[m]})
    discounts, after = {}, {}
    for m, counted in counts.items():
        once, twice = (sum(c == k for c in counted.values()) for k in (1, 2))
        discounts[m] = once / (once + 2 * twice) if once and twice else 0.5
        after[m] = defaultdict(dict)
        for gram, count in counted.items():
            after[m][gram[:-1]][gram[-1]] = count

    def likely(w, context, m):
        if m == 0:
            return 1 / V
        if len(context) < m - 1:
            return likely(w, context, m - 1)
        h = tuple(context[len(context) - m + 1 :])
        lower = likely(w, context, m - 1)
        if not after[m][h]:
            return lower
        total, D = sum(after[m][h].values()), discounts[m]
        return (max(after[m][h].get(w, 0) - D, 0) + D * len(after[m][h]) * lower) / total

    return likely


@pytest.fixture
def text():
    draw = random.Random(3)
    words = ["ab", "abc", "ca", "d"]
    return [ord(c) - 97 for c in "".join(draw.choices(words, [5, 3, 2, 1], k=120))]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_probabilities_are_those_of_the_formula(text, n):
    V = 6  # two ids that never occur
    likely = by_formula(text, V, n)
    held_out = [0, 1, 2, 3, 0, 1, 1, 4, 0, 1, 2, 0, 1]
    expected = [
        -math.log(likely(w, held_out[max(0, i - n + 1) : i], n)) for i, w in enumerate(held_out)
    ]
    got = NGram(np.array(text, np.uint16), V, n).nats(np.array(held_out, np.uint16))
    assert got == pytest.approx(expected)


def test_all_tokens_together_are_certain(text):
    model = NGram(np.array(text), 6)
    for context in ([0, 1, 0, 1], [3, 3, 3, 3], [5, 0, 1, 2]):
        whole = sum(math.exp(-model.nats(np.array([*context, w]))[-1]) for w in range(6))
        assert whole == pytest.approx(1)


def test_it_knows_what_it_read_and_guesses_what_it_did_not(text):
    model = NGram(np.array(text), 6)
    assert model.nats(np.array(text)).mean() < math.log(4) * 0.6
    for few in ([2], [2, 2], [0, 1, 2]):  # fewer tokens than the order
        assert np.isfinite(NGram(np.array(few), 6).nats(np.array([2, 0, 1]))).all()


def test_what_it_writes_is_drawn_from_its_own_probabilities(text):
    model = NGram(np.array(text), 6)
    songs = model.write([[0, 1, 0, 1]] * 4000, [1] * 4000, seed=1)
    drawn = Counter(song[0] for song in songs)
    for w in range(6):
        expected = math.exp(-model.nats(np.array([0, 1, 0, 1, w]))[-1])
        assert drawn[w] / 4000 == pytest.approx(expected, abs=0.03)


def test_songs_have_the_lengths_asked_for_and_hang_on_the_seed_alone(text):
    model = NGram(np.array(text), 6)
    songs = model.write([[0], [1, 2], [], [0, 1, 2, 3, 0, 1]], [5, 0, 9, 2], seed=7, never=[1, 5])
    assert [len(song) for song in songs] == [5, 0, 9, 2]
    assert not {1, 5} & {w for song in songs for w in song}
    assert songs == model.write(
        [[0], [1, 2], [], [0, 1, 2, 3, 0, 1]], [5, 0, 9, 2], seed=7, never=[1, 5]
    )
    assert songs != model.write(
        [[0], [1, 2], [], [0, 1, 2, 3, 0, 1]], [5, 0, 9, 2], seed=8, never=[1, 5]
    )
