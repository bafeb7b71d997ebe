"""Weights into a model: cropped or extended on purpose, never by accident."""

from dataclasses import replace

import pytest
import torch

from backend.errors import CheckpointError, ConfigError
from backend.models.weights import WPE
from tests.models.conftest import random_weights

VOCAB, BLOCK = 50, 16


@pytest.fixture
def weights():
    return random_weights()


def logits(model, idx):
    with torch.inference_mode():
        return model.eval()(idx)[0]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_unchanged_weights_are_taken_as_they_are_and_left_as_they_were(weights):
    before = {k: v.clone() for k, v in weights.tensors.items()}
    model = weights.build()
    assert same(model.weights(), before)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()  # training changes the model alone
    assert same(weights.tensors, before)


# --- the block ---


def test_a_shorter_block_drops_the_last_positions_and_changes_no_logit(weights):
    idx = torch.randint(VOCAB, (2, 10))
    short = weights.build(block_size=10)
    assert short.config.block_size == 10
    assert torch.equal(short.transformer.wpe.weight, weights.tensors[WPE][:10])
    torch.testing.assert_close(logits(short, idx), logits(weights.build(), idx))


@pytest.mark.parametrize("block_size", [17, 32, 40, 53])
def test_in_a_longer_block_the_positions_are_repeated(weights, block_size):
    long = weights.build(block_size=block_size)
    table = weights.tensors[WPE]
    for place, row in enumerate(long.transformer.wpe.weight):
        assert torch.equal(row, table[place % BLOCK])
    idx = torch.randint(VOCAB, (2, BLOCK))
    torch.testing.assert_close(logits(long, idx), logits(weights.build(), idx))
    assert logits(long, torch.randint(VOCAB, (1, block_size))).isfinite().all()


@pytest.mark.parametrize("position", ["rotary", "alibi"])
def test_without_a_table_of_positions_the_block_is_free(position):
    weights = random_weights(position=position)
    idx = torch.randint(VOCAB, (2, 8))
    for block_size in (8, 40):
        model = weights.build(block_size=block_size)
        assert same(model.weights(), weights.tensors)
        torch.testing.assert_close(logits(model, idx), logits(weights.build(), idx))


# --- the vocabulary ---


@pytest.mark.parametrize(("vocab_size", "more"), [(VOCAB, 7), (1020, 80), (1100, 100)])
@pytest.mark.parametrize("tied", [True, False])
def test_more_ids_get_fresh_rows_and_the_old_keep_theirs(vocab_size, more, tied):
    weights = random_weights(vocab_size=vocab_size, tied_head=tied)
    torch.manual_seed(5)
    model = weights.build(vocab_size + more)
    assert model.vocab_size == vocab_size + more
    for name in ("transformer.wte.weight",) + ("lm_head.weight",) * (not tied):
        rows = model.weights()[name]
        assert rows.shape == (vocab_size + more, 32)
        assert torch.equal(rows[:vocab_size], weights.tensors[name])
        fresh = rows[vocab_size:]
        assert 0.015 < fresh.std() < 0.025  # as a new model starts
        assert fresh.abs().sum(dim=1).min() > 0
    idx = torch.randint(vocab_size, (2, 8))
    torch.testing.assert_close(logits(model, idx)[..., :vocab_size], logits(weights.build(), idx))


@pytest.mark.parametrize(("vocab_size", "fewer"), [(VOCAB, 9), (1100, 90)])
@pytest.mark.parametrize("tied", [True, False])
def test_fewer_ids_cut_the_last_rows_and_leave_the_others_logits(vocab_size, fewer, tied):
    weights = random_weights(vocab_size=vocab_size, tied_head=tied)
    kept = vocab_size - fewer
    model = weights.build(kept)
    assert torch.equal(
        model.weights()["transformer.wte.weight"], weights.tensors["transformer.wte.weight"][:kept]
    )
    idx = torch.randint(kept, (2, 8))
    torch.testing.assert_close(logits(model, idx), logits(weights.build(), idx)[..., :kept])


# --- the rest ---


@pytest.mark.parametrize(
    ("attn_type", "scale"), [("GK", "none"), ("PA_relu", "row"), ("GKpoly-4", "none")]
)
def test_the_kind_of_attention_is_changed_on_purpose_with_every_weight_kept(
    weights, attn_type, scale
):
    model = weights.build(attn_type=attn_type, attn_scale=None)
    assert (model.config.attn_type, model.config.attn_scale) == (attn_type, scale)
    assert same(model.weights(), weights.tensors)
    idx = torch.randint(VOCAB, (2, 8))
    assert not torch.allclose(logits(model, idx), logits(weights.build(), idx))


def test_dropout_is_the_recipes(weights):
    assert weights.build(dropout=0.3).config.dropout == 0.3


def test_changes_that_do_not_go_together_are_refused(weights):
    with pytest.raises(ConfigError, match="attn_type"):
        weights.build(attn_type="GK-9")
    with pytest.raises(ConfigError, match="block_size = 0"):
        weights.build(block_size=0)


NAMES = [
    "transformer.wte.weight",
    "transformer.wpe.weight",
    "transformer.h.0.ln_1.weight",
    "transformer.h.1.attn.c_attn.weight",
    "transformer.h.1.attn.c_attn.bias",
    "transformer.h.1.mlp.c_proj.weight",
    "transformer.ln_f.bias",
    "lm_head.weight",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["fewer rows", "more rows", "transposed"])
@pytest.mark.parametrize("changes", [{}, {"vocab_size": VOCAB + 4, "block_size": 40}], ids=str)
def test_a_tensor_of_another_shape_than_its_settings_say_is_refused(name, damage, changes):
    weights = random_weights(tied_head=False)
    tensor = weights.tensors[name]
    if damage == "transposed":
        other = tensor[:, None] if tensor.ndim == 1 else tensor.T
    else:
        other = tensor[:-1] if damage == "fewer rows" else torch.cat([tensor, tensor[:1]])
    broken = replace(weights, tensors={**weights.tensors, name: other.contiguous()})
    with pytest.raises(CheckpointError, match="do not fit"):
        broken.build(**changes)


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_that_is_missing_is_named(name):
    weights = random_weights(tied_head=False)
    rest = {k: v for k, v in weights.tensors.items() if k != name}
    for changes in ({}, {"vocab_size": VOCAB + 4, "block_size": 40}):
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            replace(weights, tensors=rest).build(**changes)


def test_a_tensor_that_has_no_place_is_named(weights):
    for name in ("lm_head.weight", "transformer.h.2.ln_1.weight", "transformer.pairs.weight"):
        more = {**weights.tensors, name: torch.zeros(VOCAB, 32)}  # the head is tied here
        with pytest.raises(CheckpointError, match=f"{name} has no place"):
            replace(weights, tensors=more).build()


def test_a_head_of_its_own_for_settings_that_tie_it_is_refused_both_ways(weights):
    untied = random_weights(tied_head=False)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        replace(untied, tensors=weights.tensors).build()
    with pytest.raises(CheckpointError, match=r"lm_head\.weight has no place"):
        replace(weights, tensors=untied.tensors).build()
