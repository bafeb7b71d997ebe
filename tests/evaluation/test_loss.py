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
from backend.models.gpt import GPT, IGNORE
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
    for ids, targets in _windows(split, 16):
        assert len(ids) <= 16
        for at in np.flatnonzero(targets != IGNORE):
            scored.append(int(targets[at]))
    expected = []
    for (_, text), end in zip(
        split.index, [*split.index[1:, 0], len(split.tokens) - 1], strict=True
    ):
        expected += split.tokens[int(text) : int(end) + 1].tolist()
    assert scored == expected


def test_every_scored_token_sees_half_a_block_or_all_that_there_is():
    header = 5
    windows = _windows(make_split([(header, 90)]), 16)
    seen = [at + 1 for _, targets in windows for at in np.flatnonzero(targets != IGNORE)]
    assert len(seen) == 91
    assert all(n >= min(8, 1 + header + position) for position, n in enumerate(seen))


def test_scoring_changes_neither_mode_nor_random_state(model):
    model.train()
    before = torch.get_rng_state()
    split_loss(model, make_split([(0, 30)]), detect(device="cpu"))
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


def test_an_empty_split_is_a_sentence(model):
    empty = Split(np.array([EOT], dtype=np.uint16), np.zeros((0, 2), dtype=np.uint64), 0, 0)
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
    assert sum(share.nats for share in shares) == pytest.approx(whole.nats, rel=1e-12)
    assert sum(share.tokens for share in shares) == whole.tokens
    assert len({forwards.count(rank) for rank in range(processes)}) == 1
