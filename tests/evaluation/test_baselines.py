"""The floor under every figure, against a count by hand."""

import json
import lzma
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from backend.config.schema import BinarizeConfig
from backend.data import binarize
from backend.data.bins import Bins
from backend.data.song import CleanSong, write_songs
from backend.errors import DataError
from backend.evaluation import baselines as module
from backend.evaluation.baselines import Baseline, baselines, find
from backend.evaluation.ngram import NGram


@pytest.fixture
def bins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    songs = [
        CleanSong(text=f"{'la ' * n}\nthe {n} bells", song_name=f"Song {n}", artist_name="Anon")
        for n in range(1, 25)
    ]
    write_songs(tmp_path / "data/tiny/data.json", (song.to_json() for song in songs))
    binarize.main(BinarizeConfig(data_dir="data/tiny", val_fraction=0.3))
    return Bins.open("tiny/char")


def by_hand(bins):
    """(nats, tokens) of the unigram: song by song, token by token."""
    size = bins.tokenizer.vocab_size
    counts = Counter(np.asarray(bins.train.tokens[:]).tolist())
    whole = len(bins.train.tokens) + size
    scored = []
    for i in range(bins.val.songs):
        _, text = bins.val.document(i)
        scored += [*np.asarray(text).tolist(), bins.tokenizer.eot]
    return -sum(math.log((counts[t] + 1) / whole) for t in scored), len(scored)


@pytest.mark.parametrize("chunk", [7, 2**22])
def test_uniform_and_unigram_are_those_of_a_count_by_hand(bins, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", chunk)
    nats, n = by_hand(bins)
    found = baselines(bins)
    size, bits = bins.tokenizer.vocab_size, math.log(2) * bins.val.chars
    assert bins.val.songs > 3
    assert found["uniform"].loss == pytest.approx(math.log(size))
    assert found["uniform"].bpc == pytest.approx(n * math.log(size) / bits)
    assert found["unigram"].loss == pytest.approx(nats / n)
    assert found["unigram"].bpc == pytest.approx(nats / bits)
    assert found["unigram"].loss < found["uniform"].loss


def test_the_slow_ones_are_those_of_the_texts_and_are_asked_for(bins, monkeypatch):
    quick = baselines(bins)
    assert set(quick) == {"uniform", "unigram"}
    found = baselines(bins, counted=lambda: module.ngram(bins))
    assert set(found) == {"uniform", "unigram", "5-gram", "xz"}
    model = NGram(bins.train.tokens[:], bins.tokenizer.vocab_size)
    nats = model.nats(bins.val.tokens[:])
    ends = [*bins.val.index[1:, 0], len(bins.val.tokens) - 1]
    by_song = sum(
        nats[int(text) : int(end) + 1].sum()
        for text, end in zip(bins.val.index[:, 1], ends, strict=True)
    )
    assert found["5-gram"].loss == pytest.approx(by_song / by_hand(bins)[1])
    monkeypatch.setattr(module, "CHUNK", 7)
    assert module._ngram_nats(bins, model) == pytest.approx(by_song)

    def text(split):
        songs = (bins.tokenizer.decode(split.document(i)[1].tolist()) for i in range(split.songs))
        return "".join(f"{song}\n\n" for song in songs).encode()

    more = len(lzma.compress(text(bins.train) + text(bins.val))) - len(
        lzma.compress(text(bins.train))
    )
    assert found["xz"].bpc == pytest.approx(8 * more / bins.val.chars)
    assert found["xz"].loss is None
    assert baselines(bins) == found  # kept


def test_they_are_kept_beside_the_bins_and_made_anew_for_other_bins(bins):
    first = baselines(bins)
    path = bins.folder / "baselines.json"
    kept = json.loads(path.read_text())
    assert (kept["format"], kept["bins"]) == (1, bins.sha256)
    kept["baselines"]["unigram"]["loss"] = 0.5
    path.write_text(json.dumps(kept))
    assert baselines(bins)["unigram"].loss == 0.5  # read, not computed
    assert find("tiny/char")["unigram"].loss == 0.5
    assert baselines(replace(bins, sha256="other")) == first
    assert json.loads(path.read_text())["bins"] == "other"


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "bins": "x"}'])
def test_a_file_that_is_not_ours_is_made_anew(bins, text):
    (bins.folder / "baselines.json").write_text(text)
    assert find("tiny/char") == {}
    assert baselines(bins)["uniform"].loss == pytest.approx(math.log(bins.tokenizer.vocab_size))


def test_bins_that_were_made_anew_have_none_of_the_old(bins):
    baselines(bins)
    binarize.main(BinarizeConfig(data_dir="data/tiny", val_fraction=0.5))
    assert find("tiny/char") == {}


def test_an_empty_validation_split_is_told(bins):
    empty = replace(bins, val=replace(bins.val, songs=0, chars=0))
    with pytest.raises(DataError, match="validation split is empty"):
        baselines(empty)


def test_what_counts_no_tokens_has_bits_alone():
    assert Baseline(None, 2.5)._asdict() == {"loss": None, "bpc": 2.5}
