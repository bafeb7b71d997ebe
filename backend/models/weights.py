"""Weights on their way into a model: read from somewhere, cropped or extended on purpose."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from backend.config.loader import from_values
from backend.config.schema import ModelConfig
from backend.errors import CheckpointError, ConfigError, first_line
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

    @property
    def n_params(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())

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
        try:
            model.load_weights(self._fitted(model))
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"these weights do not fit their own settings: {first_line(error)}"
            ) from None
        return model

    def _fitted(self, model: GPT) -> dict[str, torch.Tensor]:
        """The tensors with as many positions and ids as the model has."""
        tensors, fresh = dict(self.tensors), model.weights()
        if WPE in tensors:
            T, have = model.config.block_size, len(tensors[WPE])
            if have != self.config.block_size:
                raise ValueError(f"{WPE} has {have} positions, not {self.config.block_size}")
            tensors[WPE] = tensors[WPE].repeat(-(-T // have), 1)[:T]  # (T, C)
        for name in VOCABULARY:
            if name in tensors and name in fresh and self.vocab_size != model.vocab_size:
                more = fresh[name][self.vocab_size :]  # as initialised; empty where rows are cut
                tensors[name] = torch.cat([tensors[name][: model.vocab_size], more])
        return tensors


def shape_from(values: Mapping[str, Any]) -> ModelConfig:
    """A shape that a file states, its types checked.

    Raises:
        ValueError: a key we do not know, a wrong type, an impossible value.
    """
    try:
        return replace(from_values(ModelConfig, values), origins={}).resolved()
    except ConfigError as error:
        raise ValueError(" ".join(line.strip() for line in error.what.splitlines()[1:])) from None
