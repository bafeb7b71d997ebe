"""The schedule's values, and what is decayed."""

import math

import pytest
import torch

from backend.config.schema import ModelConfig, OptimConfig
from backend.models.gpt import GPT
from backend.training.optim import adamw, learning_rate


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


def test_a_warm_up_longer_than_the_run_is_a_problem_but_not_without_decay():
    long = dict(warmup_iters=2000, max_iters=1000)
    assert any("never reach" in p for p in OptimConfig(**long).problems())
    assert not list(OptimConfig(**long, decay_lr=False).problems())


def test_only_matrices_and_embeddings_are_decayed():
    model = GPT(ModelConfig(block_size=8, n_layer=1, n_head=1, n_embd=8), vocab_size=10)
    decayed, free = adamw(model, OptimConfig()).param_groups
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
    optimizer = adamw(model, config)
    model(torch.randint(10, (2, 8)), torch.randint(10, (2, 8)))[1].backward()
    gradient = weight.grad.clone()
    optimizer.step()
    # after one step both moments are the gradient itself: the move is lr * sign(gradient)
    moved = gradient / (gradient.abs() + 1e-8)
    expected = before * (1 - 0.01 * 0.1) - 0.01 * moved
    torch.testing.assert_close(weight.detach(), expected, atol=1e-5, rtol=1e-4)
    assert math.isfinite(weight.sum().item())
