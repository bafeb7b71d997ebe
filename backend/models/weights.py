"""Weights on their way into a model: read from somewhere, cropped or extended on purpose."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from backend.config.schema import ModelConfig
from backend.errors import CheckpointError
from backend.models.gpt import GPT, VOCABULARY

WPE = "transformer.wpe.weight"
# What may differ from the weights' own settings; the rest is in their shapes or their meaning.
MAY_CHANGE = {"dropout", "block_size", "attn_type", "attn_scale", "init", "zero_init"}


@dataclass(frozen=True)
class Weights:
    """Tensors under GPT-2's names, as `GPT.weights` gives them, and the shape they are of."""

    config: ModelConfig
    vocab_size: int
    tensors: Mapping[str, torch.Tensor]

    def build(self, vocab_size: int | None = None, **changes: Any) -> GPT:
        """A model with these weights.

        Args:
            vocab_size: another number of ids: the last rows are cut, or fresh ones added.
            changes: settings among MAY_CHANGE. A shorter block drops the last positions; in a
                longer one learned positions are repeated (Beltagy et al., 2004.05150, section 5).
        Raises:
            CheckpointError: the tensors do not fit the shape.
            ConfigError: the changes do not go together.
        """
        assert changes.keys() <= MAY_CHANGE, changes
        if "attn_type" in changes:
            changes.setdefault("attn_scale", None)  # the new kind's own
        vocab_size = vocab_size or self.vocab_size
        model = GPT(replace(self.config, **changes), vocab_size)
        tensors = dict(self.tensors)
        if WPE in tensors:
            T, have = model.config.block_size, len(tensors[WPE])
            tensors[WPE] = tensors[WPE].repeat(-(-T // have), 1)[:T]  # (T, C)
        fresh = model.weights()
        for name in VOCABULARY:
            if name in tensors and name in fresh and self.vocab_size != vocab_size:
                more = fresh[name][self.vocab_size :]  # as initialised; empty where rows are cut
                tensors[name] = torch.cat([tensors[name][:vocab_size], more])
        try:
            model.load_weights(tensors)
        except ValueError as error:
            raise CheckpointError(f"these weights do not fit their own settings: {error}") from None
        return model
