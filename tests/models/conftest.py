"""Small random models."""

import pytest
import torch

from backend.config.schema import ModelConfig
from backend.models.gpt import GPT


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
