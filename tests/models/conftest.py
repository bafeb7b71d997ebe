"""Small random models, and a pickle that would run a command."""

import os

import pytest
import torch

from backend.config.schema import ModelConfig
from backend.models.gpt import GPT
from backend.models.weights import Weights


class Armed:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def random_weights(vocab_size=50, **shape):
    """Weights that are all away from their initial values, norms and biases too."""
    torch.manual_seed(0)
    config = ModelConfig(**(dict(block_size=16, n_layer=2, n_head=4, n_embd=32) | shape))
    model = GPT(config, vocab_size)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return Weights(model.config, vocab_size, {k: v.clone() for k, v in model.weights().items()})


def slide(context, keep, block_size):
    """The rule for a context that is full, as README tells it: the header, and the last half."""
    if len(context) <= block_size:
        return context
    half = max(1, block_size // 2)
    keep = min(keep, half // 2)
    return context[:keep] + context[len(context) - (half - keep) :]


@pytest.fixture
def config():
    return ModelConfig(block_size=32, n_layer=2, n_head=4, n_embd=32)


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    model = GPT(config, vocab_size=50).eval()
    with torch.no_grad():
        for weight in model.parameters():  # at 0.02 a random model says little: make it decided
            weight.mul_(5)
    return model
