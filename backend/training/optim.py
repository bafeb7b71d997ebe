"""The optimizers, and their schedules: learning rate and batch as pure functions of the step."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from backend.config.schema import OptimConfig
from backend.models import lora
from backend.models.gpt import GPT
from backend.training import parallel

FIRST_BATCH = 8  # a batch that warms up begins with this part of itself


def learning_rate(config: OptimConfig, step: int) -> float:
    """AdamW's learning rate; Muon's is `muon_lr` times the same share of its peak.

    Linear warm-up, then the schedule's fall to min_lr at lr_decay_iters, then flat.

    Args:
        step: optimizer steps done before this one; step 0 already moves.
    """
    peak, floor = config.learning_rate, config.min_lr
    if step < config.warmup_iters:
        return peak * (step + 1) / (config.warmup_iters + 1)
    if not config.decay_lr or config.schedule == "constant":
        return peak
    end = config.lr_decay_iters or config.max_iters
    begin = config.warmup_iters
    if config.schedule == "wsd":  # warm-up, stable, decay (Hu et al., 2404.06395)
        begin = max(begin, end - max(1, round(config.cooldown * end)))
    if step >= end:
        return floor
    done = max(0.0, (step - begin) / (end - begin))
    left = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done
    return floor + left * (peak - floor)


def set_learning_rates(
    optimizers: Sequence[torch.optim.Optimizer], config: OptimConfig, step: int
) -> float:
    """Give every group its rate of this step; returns AdamW's."""
    rate = learning_rate(config, step)
    share = rate / config.learning_rate if config.learning_rate else 1.0
    for optimizer in optimizers:
        muon = isinstance(optimizer, torch.optim.Muon)
        for group in optimizer.param_groups:
            group["lr"] = config.muon_lr * share if muon else rate
    return rate


def sequences(full: int, warmup: int, step: int) -> int:
    """Sequences of one step. While the batch warms up, an eighth, a quarter and a half of `full`,
    a third of the warm-up each, at least 1."""
    if step >= warmup:
        return full
    return max(1, full // (FIRST_BATCH >> (3 * step // warmup)))


def sequences_before(full: int, warmup: int, step: int) -> int:
    """Sequences of all earlier steps together."""
    early = sum(sequences(full, warmup, s) for s in range(min(step, warmup)))
    return early + full * max(0, step - warmup)


def build(model: GPT, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything; or, with optimizer=muon, Muon for the matrices within the blocks and
    AdamW for embeddings, head, vectors and LoRA's adapters.

    Weight decay is on matrices and embeddings only. AdamW's fused kernel is 8 times as fast as its
    loop. Muon's steps are scaled by sqrt(rows / columns) where there are more rows (Jordan et al.
    2024).
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hidden = {
        name
        for name, p in trained.items()
        if config.optimizer == "muon"
        and ".h." in name
        and p.dim() == 2
        and not name.endswith(lora.OWN)
    }
    rest = [p for name, p in trained.items() if name not in hidden]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
    )
    if not hidden:
        return [adamw]
    matrices = [p for name, p in trained.items() if name in hidden]
    kind = parallel.ShardedMuon if parallel.sharded(matrices[0]) else torch.optim.Muon
    muon = kind(
        matrices,
        lr=config.muon_lr,
        momentum=config.muon_momentum,
        weight_decay=config.weight_decay,
    )
    return [adamw, muon]


def state_tensors(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    """The optimizers' state by parameter name, as it lies: `optimizer.<name>.<moment>`."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_state(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """The reverse. A run stopped before its first step has no state, and that is right."""
    owner = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        prefix = f"optimizer.{name}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if state:
            owner[parameter].state[parameter] = {
                # a copy, since the file that these are mapped from is deleted one day
                key: parallel.shard_like(value, parameter)
                for key, value in state.items()
            }
