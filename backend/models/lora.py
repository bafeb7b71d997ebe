"""LoRA: low-rank adapters beside frozen weights (Hu et al., 2106.09685), saved in peft's format.

    y = x W + (alpha / rank) x A B,   A small and random, B zero at the start, both trained

Only the adapters have gradients and optimizer state, a few per cent of the weights, which is what
makes a large model fit. peft reads the files onto a GPT2LMHeadModel of the same base.

Letters: r rank.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from backend.models.gpt import GPT

TARGETS = ("c_attn", "c_proj", "c_fc")
OWN = (".lora_A", ".lora_B")  # ends of the names that adapters add
PREFIX = "base_model.model."  # peft's, before every name


class Adapted(nn.Linear):
    """A linear layer with an adapter; weight and bias keep their names and are frozen."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which would make weights of its own
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.alpha, self.scale = alpha, alpha / rank
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, device=base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = F.linear(F.linear(x, self.lora_A), self.lora_B)  # (..., in) -> (..., r) -> (..., out)
        return F.linear(x, self.weight, self.bias) + self.scale * low


def add(model: GPT, rank: int, alpha: float) -> None:
    """Freeze the model and give every target an adapter, in place."""
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if name in TARGETS:
                assert isinstance(child, nn.Linear)
                setattr(module, name, Adapted(child, rank, alpha))


def rank_and_alpha(model: GPT) -> tuple[int, float]:
    """Of a model with adapters."""
    layer = next(m for m in model.modules() if isinstance(m, Adapted))
    return len(layer.lora_A), layer.alpha


def adapters(model: GPT) -> dict[str, torch.Tensor]:
    """The adapters by peft's names; empty for a model without."""
    return {
        f"{PREFIX}{name}.weight": tensor
        for name, tensor in model.state_dict().items()
        if name.endswith(OWN)
    }


def load(model: GPT, tensors: Mapping[str, torch.Tensor]) -> None:
    """The reverse.

    Raises:
        ValueError: other names or shapes.
    """
    own = adapters(model)
    if own.keys() != tensors.keys():
        raise ValueError(f"{sorted(own.keys() ^ tensors.keys())[0]} is on one side only")
    for name, mine in own.items():
        if mine.shape != tensors[name].shape:
            raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {tuple(mine.shape)}")
        with torch.no_grad():
            mine.copy_(tensors[name])


def merged(
    weights: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], scale: float
) -> dict[str, torch.Tensor]:
    """Weights with the adapters multiplied out: W + scale B A.

    Raises:
        ValueError: an adapter of a layer that is not there, or of another shape.
    """
    result = dict(weights)
    for name, a in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        layer = name.removeprefix(PREFIX).removesuffix(".lora_A.weight") + ".weight"
        b = tensors.get(name.replace(".lora_A.", ".lora_B."))
        if layer not in result or b is None:
            raise ValueError(f"{name} has no counterpart")
        if result[layer].shape != (len(b), a.size(1)):
            raise ValueError(f"{layer} is {tuple(result[layer].shape)}, not {(len(b), a.size(1))}")
        result[layer] = result[layer] + scale * (b.float() @ a.float())  # (out, in)
    return result


def peft_config(rank: int, alpha: float, base: str) -> dict[str, Any]:
    """adapter_config.json."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": list(TARGETS),
        "fan_in_fan_out": True,  # Hugging Face's GPT-2 keeps its matrices transposed
        "bias": "none",
        "inference_mode": True,
    }
