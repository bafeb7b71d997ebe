"""Loss by its definition: each text token once, with its context, in bits per character."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.config.schema import BinarizeConfig, ModelConfig
from backend.data import binarize
from backend.data.bins import Bins, Split
from backend.data.song import CleanSong, write_songs
from backend.errors import DataError
from backend.evaluation import loss
from backend.evaluation.loss import _windows, split_loss
from backend.models.gpt import GPT
from backend.runtime import Runtime, detect

EOT = 49


def make_split(lengths):
    """Documents of the given (header, text) lengths with random ids."""
    rng = np.random.default_rng(0)
    stream, index = [], []
    for head, text in lengths:
        index.append((len(stream), len(stream) + 1 + head))
        stream += [EOT, *rng.integers(0, 49, head + text)]
    stream.append(EOT)
    return Split(
        np.array(stream, dtype=np.uint16),
        np.array(index, dtype=np.uint64).reshape(-1, 2),
        len(lengths),
        sum(text for _, text in lengths),
        2 * sum(text for _, text in lengths),
    )


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = GPT(ModelConfig(block_size=16, n_layer=2, n_head=2, n_embd=16), vocab_size=50)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8)
    return model.eval()


def test_a_uniform_model_scores_log_v_for_every_text_token_and_the_end():
    model = GPT(ModelConfig(block_size=16, n_layer=1, n_head=1, n_embd=8), vocab_size=50)
    torch.nn.init.zeros_(model.lm_head.weight)
    split = make_split([(5, 40), (0, 7), (30, 1)])
    got = split_loss(model, split, detect(device="cpu"))
    assert got.tokens == (40 + 1) + (7 + 1) + (1 + 1)
    assert got.loss == pytest.approx(math.log(50))
    assert got.bpc == pytest.approx(got.tokens * math.log2(50) / 48)
    assert got.bpb == pytest.approx(got.bpc / 2)
    assert got.perplexity == pytest.approx(50)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_song_within_the_block_scores_its_text_given_its_header(model, batch_size):
    split = make_split([(4, 9), (0, 12), (7, 1), (3, 3)])
    expected = 0.0
    for (start, text), end in zip(
        split.index, [*split.index[1:, 0], len(split.tokens) - 1], strict=True
    ):
        ids = torch.from_numpy(split.tokens[int(start) : int(end) + 1].astype(np.int64))[None]
        logs = model(ids[:, :-1])[0].log_softmax(-1)[0]
        for at in range(int(text - start), ids.size(1)):
            expected -= logs[at - 1, ids[0, at]].item()
    got = split_loss(model, split, detect(device="cpu"), batch_size=batch_size)
    assert got.nats == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "lengths", [[(0, 100)], [(3, 15)], [(40, 60)], [(0, 1)], [(5, 33), (2, 8)]]
)
def test_every_text_token_is_scored_once(lengths):
    split = make_split(lengths)
    scored = []
    for song, start, stop, first in _windows(split, 16):
        assert 0 < stop - start <= 16
        assert split.index[song, 0] <= start < first
        scored += split.tokens[first : stop + 1].tolist()
    expected = []
    for (_, text), end in zip(
        split.index, [*split.index[1:, 0], len(split.tokens) - 1], strict=True
    ):
        expected += split.tokens[int(text) : int(end) + 1].tolist()
    assert scored == expected


@pytest.mark.parametrize(("stride", "least"), [(None, 8), (1, 16), (12, 4), (16, 1), (99, 1)])
def test_every_scored_token_sees_what_the_stride_leaves_or_all_that_there_is(stride, least):
    header = 5
    windows = _windows(make_split([(header, 90)]), 16, stride)
    seen = [at - start for _, start, stop, first in windows for at in range(first, stop + 1)]
    assert len(seen) == 91
    assert all(n >= min(least, 1 + header + position) for position, n in enumerate(seen))


def test_a_stride_of_one_scores_each_token_with_the_block_before_it(model):
    split = make_split([(3, 40)])
    ids = torch.from_numpy(split.tokens.astype(np.int64))
    expected = 0.0
    for at in range(4, len(ids)):
        logs = model(ids[None, max(0, at - 16) : at])[0][0, -1].log_softmax(-1)
        expected -= logs[ids[at]].item()
    alone = detect(device="cpu")
    assert split_loss(model, split, alone, stride=1).nats == pytest.approx(expected, rel=1e-5)
    assert split_loss(model, split, alone).nats != pytest.approx(expected, rel=1e-5)


def test_songs_are_scored_each_by_itself(model):
    alone = detect(device="cpu")
    got = split_loss(model, make_split([(4, 9), (0, 60), (7, 1)]), alone)
    assert got.songs.shape == (3,)
    split = make_split([(4, 9), (0, 60), (7, 1)])
    for i in range(3):
        start, text = map(int, split.index[i])
        end = int(split.index[i + 1, 0]) if i < 2 else len(split.tokens) - 1
        index = np.array([[0, text - start]], dtype=np.uint64)
        one = Split(split.tokens[start : end + 1], index, 1, end - text, 1)
        assert split_loss(model, one, alone).nats == pytest.approx(got.songs[i], rel=1e-5)


def test_scoring_changes_neither_mode_nor_random_state(model):
    model.train()
    before = torch.get_rng_state()
    split_loss(model, make_split([(0, 30)]), detect(device="cpu"))
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


def test_an_empty_split_is_a_sentence(model):
    empty = Split(np.array([EOT], dtype=np.uint16), np.zeros((0, 2), dtype=np.uint64), 0, 0, 0)
    with pytest.raises(DataError, match="validation split is empty"):
        split_loss(model, empty, detect(device="cpu"))


def test_characters_are_those_of_the_text_not_of_the_header(tmp_path, model):
    songs = [
        CleanSong(text=f"{'la ' * 9}{n}\nla", song_name="T", id=f"{n:016x}") for n in range(30)
    ]
    write_songs(tmp_path / "x/data.json", (song.to_json() for song in songs))
    binarize.main(BinarizeConfig(data_dir=str(tmp_path / "x")))
    bins = Bins.open(str(tmp_path / "x/char"))
    texts = {song.id: song.text for song in songs}
    assert bins.val.chars + bins.train.chars == sum(map(len, texts.values()))
    got = split_loss(model, bins.val, detect(device="cpu"))
    assert got.tokens == bins.val.chars + bins.val.songs


def test_a_large_vocabulary_is_read_in_smaller_batches_with_the_same_result(model, monkeypatch):
    split = make_split([(5, 40), (0, 7), (30, 1), (2, 90)])
    whole = split_loss(model, split, detect(device="cpu"))
    sizes = []
    model.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].numel()))
    monkeypatch.setattr(loss, "ROOM", 40 * model.vocab_size)
    got = split_loss(model, split, detect(device="cpu"))
    assert max(sizes) <= 40
    assert (got.tokens, got.chars) == (whole.tokens, whole.chars)
    assert got.nats == pytest.approx(whole.nats, rel=1e-5)


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_shares_of_several_processes_add_up_after_as_many_forwards_each(
    model, monkeypatch, processes
):
    split = make_split([(5, 40), (0, 7), (30, 1), (2, 90)])
    alone = detect(device="cpu")
    whole = split_loss(model, split, alone, batch_size=3)
    monkeypatch.setattr(Runtime, "sum", lambda self, tensor: tensor)
    shares, forwards = [], []
    model.register_forward_hook(lambda *_: forwards.append(rank))
    for rank in range(processes):
        us = replace(alone, rank=rank, world_size=processes)
        shares.append(split_loss(model, split, us, batch_size=3))
    assert sum(share.songs for share in shares) == pytest.approx(whole.songs, rel=1e-12)
    assert sum(share.tokens for share in shares) == whole.tokens
    assert len({forwards.count(rank) for rank in range(processes)}) == 1
