"""The schedule's values, and what is decayed."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backend.config.schema import ModelConfig, OptimConfig
from backend.models.gpt import GPT
from backend.training.optim import (
    build,
    learning_rate,
    sequences,
    sequences_before,
    set_learning_rates,
)


@pytest.fixture
def schedule():
    return OptimConfig(
        learning_rate=1.0, min_lr=0.1, warmup_iters=9, max_iters=109, lr_decay_iters=None
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (4, 0.5), (8, 0.9), (9, 1.0), (59, 0.55), (109, 0.1), (500, 0.1)],
)
def test_warm_up_is_linear_and_the_decay_a_half_cosine(schedule, step, expected):
    assert learning_rate(schedule, step) == pytest.approx(expected)


def test_without_decay_the_rate_stays():
    config = OptimConfig(learning_rate=1.0, warmup_iters=0, decay_lr=False)
    assert learning_rate(config, 0) == learning_rate(config, 10**6) == 1.0


@pytest.mark.parametrize(
    ("kind", "step", "expected"),
    [
        ("linear", 9, 1.0), ("linear", 59, 0.55), ("linear", 109, 0.1), ("linear", 500, 0.1),
        ("wsd", 9, 1.0), ("wsd", 87, 1.0), ("wsd", 98, 0.55), ("wsd", 109, 0.1),
        ("constant", 9, 1.0), ("constant", 108, 1.0), ("constant", 500, 1.0),
    ],
)  # fmt: skip
def test_the_other_schedules(schedule, kind, step, expected):
    config = dataclasses.replace(schedule, schedule=kind, cooldown=22 / 109)
    assert learning_rate(config, step) == pytest.approx(expected)
    assert learning_rate(config, 4) == pytest.approx(0.5)


@given(
    kind=st.sampled_from(["cosine", "linear", "wsd"]),
    warmup=st.integers(0, 50),
    more=st.integers(1, 200),
    cooldown=st.floats(0.01, 1.0),
)
def test_every_schedule_rises_once_and_falls_to_its_floor(kind, warmup, more, cooldown):
    config = OptimConfig(
        schedule=kind, warmup_iters=warmup, max_iters=warmup + more, learning_rate=1.0,
        min_lr=0.0, cooldown=cooldown,
    )  # fmt: skip
    rates = [learning_rate(config, step) for step in range(warmup + more + 1)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == 0.0
    assert all(0 <= rate <= 1 for rate in rates)


@given(st.integers(1, 600), st.integers(0, 40), st.integers(0, 60))
def test_a_batch_warms_up_in_powers_of_two_and_every_sequence_is_counted(full, warmup, step):
    sizes = [sequences(full, warmup, s) for s in range(step)]
    assert sequences_before(full, warmup, step) == sum(sizes)
    assert sizes == sorted(sizes)
    assert all(size in {max(1, full // d) for d in (8, 4, 2, 1)} for size in sizes)
    assert sequences(full, warmup, warmup) == full
    if warmup >= 3:
        assert sequences(full, warmup, 0) == max(1, full // 8)


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest():
    model = GPT(ModelConfig(block_size=8, n_layer=2, n_head=1, n_embd=8), vocab_size=10)
    adamw, muon = build(model, OptimConfig(optimizer="muon", muon_lr=0.03))
    names = {id(p): name for name, p in model.named_parameters()}
    mine = {names[id(p)] for p in muon.param_groups[0]["params"]}
    assert mine == {
        f"transformer.h.{i}.{m}.weight"
        for i in (0, 1)
        for m in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    others = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert not mine & others
    assert mine | others == set(names.values())
    rate = set_learning_rates([adamw, muon], OptimConfig(optimizer="muon", warmup_iters=9), 4)
    assert rate == pytest.approx(0.5 * 6e-4)
    assert {group["lr"] for group in adamw.param_groups} == {rate}
    assert muon.param_groups[0]["lr"] == pytest.approx(0.5 * 0.02)


def test_a_warm_up_longer_than_the_run_is_a_problem_but_not_without_decay():
    long = dict(warmup_iters=2000, max_iters=1000)
    assert any("never reach" in p for p in OptimConfig(**long).problems())
    assert not list(OptimConfig(**long, decay_lr=False).problems())


def test_only_matrices_and_embeddings_are_decayed():
    model = GPT(ModelConfig(block_size=8, n_layer=1, n_head=1, n_embd=8), vocab_size=10)
    [adamw] = build(model, OptimConfig())
    decayed, free = adamw.param_groups
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0.0
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in free["params"]} == {1}
    n = sum(p.numel() for group in (decayed, free) for p in group["params"])
    assert n == sum(p.numel() for p in model.parameters())


def test_one_step_equals_adamw_by_hand():
    torch.manual_seed(0)
    model = GPT(ModelConfig(block_size=8, n_layer=1, n_head=1, n_embd=8), vocab_size=10)
    config = OptimConfig(learning_rate=0.01, weight_decay=0.1)
    weight = model.transformer.wpe.weight
    before = weight.detach().clone()
    [optimizer] = build(model, config)
    model(torch.randint(10, (2, 8)), torch.randint(10, (2, 8)))[1].backward()
    gradient = weight.grad.clone()
    optimizer.step()
    # after one step both moments are the gradient itself: the move is lr * sign(gradient)
    moved = gradient / (gradient.abs() + 1e-8)
    expected = before * (1 - 0.01 * 0.1) - 0.01 * moved
    torch.testing.assert_close(weight.detach(), expected, atol=1e-5, rtol=1e-4)
    assert math.isfinite(weight.sum().item())
