"""Several processes, one model: DDP, FSDP2, and activation checkpointing, applied from outside.

    model ─ checkpointing ─ wrap ─ optimizer ─ loop: accumulating, clip ─ gathered ─ checkpoint

The model never sees a rank. Everything here with one process is the plain thing, so that the loop
has no second path. What is a collective says so: every process must call it, or the rest hang.
"""

import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import TYPE_CHECKING, Literal, TypeGuard

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from backend.errors import ConfigError
from backend.models.attention import KVCache
from backend.models.gpt import GPT, Block
from backend.runtime import Runtime

if TYPE_CHECKING:  # FSDP imports SymPy: a second, which one process need not wait for
    from torch.distributed.tensor import DTensor

Strategy = Literal["none", "ddp", "fsdp"]


def strategy(asked: Literal["auto", "none", "ddp", "fsdp"], runtime: Runtime) -> Strategy:
    """How the processes share the work; one process always runs plain, and says so.

    Raises:
        ConfigError: several processes that share nothing, or fsdp in float16.
    """
    if runtime.world_size == 1:
        if asked in ("ddp", "fsdp"):
            print(f"note: parallel = {asked} has nothing to share: there is one process")
        return "none"
    if asked == "none":
        raise ConfigError(
            f"parallel = none, and torchrun started {runtime.world_size} processes",
            why="each would train the same run and write over the others",
            mend="--parallel=ddp, or start one process with python -m backend.training.train",
        )
    if asked == "fsdp" and runtime.dtype == torch.float16:
        raise ConfigError(
            "parallel = fsdp does not go with dtype = float16",
            why="the gradient scaler of each process would see only its own part of the gradients",
            mend="--parallel=ddp, or --dtype=bfloat16",
        )
    return "ddp" if asked == "auto" else asked


def wrap(model: GPT, how: Strategy, runtime: Runtime) -> nn.Module:
    """Bring the model to its device and share it. Before the optimizer: FSDP replaces parameters.

    Afterwards `model` itself is still what to evaluate, to save and to sample from: DDP keeps it
    inside, FSDP changes it in place. Under FSDP each forward of it, and each look at its weights,
    is a collective. All processes must have given it the same weights.
    """
    if how == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # fully_shard moves a block to the device as it cuts it up: the model need not fit there
        mesh = init_device_mesh(runtime.device.type, (runtime.world_size,))
        for block in model.transformer.h:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)  # embeddings, which a tied head shares, and the last norm
        # Shards stay fp32 and autocast rounds as it does in one process, so results are equal. Its
        # cache would keep the rounded weights of every block until the forward ends.
        torch.set_autocast_cache_enabled(False)
        # logits are one, cut free of their padding; nobody writes into them
        warnings.filterwarnings("ignore", message=".*returned a view tensor")
        return model
    model.to(runtime.device)
    if how == "none":
        return model
    wrapped = DistributedDataParallel(
        model,
        device_ids=[runtime.device] if runtime.device.type == "cuda" else None,
        gradient_as_bucket_view=True,  # or every gradient exists twice
    )
    # Buffers are constants, and counters that each process keeps for itself: nothing to send at
    # every forward. PyTorch 2.13 renamed the argument, 2.11 has no other.
    wrapped.broadcast_buffers = False
    return wrapped


def accumulating(wrapped: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Around forward and backward of a micro-batch: DDP adds up the processes' gradients in the
    last one of a step. FSDP does so in each, since a process that waited would have to hold the
    whole model's gradient, which is what FSDP is there to avoid."""
    if isinstance(wrapped, DistributedDataParallel) and not last:
        return wrapped.no_sync()
    return nullcontext()


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale gradients down to a global norm; a collective under FSDP.

    Returns:
        (): the norm before, the same in every process
    """
    return whole(nn.utils.clip_grad_norm_(parameters, max_norm))


# --- whole tensors and shards --------------------------------------------------------------------


def sharded(tensor: torch.Tensor) -> "TypeGuard[DTensor]":
    """Does each process hold a part of it? Asked without the import that FSDP alone wants."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, where it lies. A collective if it is sharded."""
    return tensor.full_tensor() if sharded(tensor) else tensor


def gathered(tensors: Mapping[str, torch.Tensor], runtime: Runtime) -> dict[str, torch.Tensor]:
    """Whole tensors on rank 0, nothing elsewhere: the weights, adapters or optimizer state that a
    checkpoint holds, whatever the number of processes. A collective under FSDP.

    One at a time, so that no device ever holds them all: shards are put together, then go to rank
    0's main memory.
    """
    mine = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if runtime.is_main:
            mine[name] = full.cpu() if sharded(tensor) else full
    return mine


def shard_like(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The reverse of `whole`, without talking: every process has the full tensor, from a file, and
    cuts its own part. A copy on the device of `like`; what has another shape (AdamW's count of
    steps) is whole everywhere."""
    if sharded(like) and full.shape == like.shape:
        from torch.distributed.tensor import distribute_tensor

        # src_data_rank: or rank 0 would send everybody their part
        return distribute_tensor(
            full.to(like.device, copy=True), like.device_mesh, like.placements, src_data_rank=None
        )
    return full.to(like.device, copy=True)


class ShardedMuon(torch.optim.Muon):
    """Muon under FSDP, equal to PyTorch's own in one process.

    A matrix becomes orthogonal only as a whole. PyTorch's Muon takes shards too, but the processes
    then talk in each of its products, and their sums of bf16 round otherwise: after 3 steps weights
    were off by 1e-3, and a step took four times as long. Here one matrix after the other is put
    together, PyTorch's step is done on it, everywhere alike, and each process keeps its part.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                full = nn.Parameter(whole(p.detach()))
                full.grad = whole(p.grad)
                once = torch.optim.Muon([{**group, "params": [full]}])
                if state:
                    once.state[full]["momentum_buffer"] = whole(state["momentum_buffer"])
                once.step()  # type: ignore[no-untyped-call]
                p.copy_(shard_like(full.detach(), p))
                state["momentum_buffer"] = shard_like(once.state[full]["momentum_buffer"], p)


# --- activation checkpointing --------------------------------------------------------------------


def checkpointing(model: GPT) -> None:
    """Keep only what enters each block, and compute the rest again in the backward pass, with the
    same random numbers. Names of parameters stay. Before `wrap`, so that FSDP's hooks stand outside
    what is computed again. A counter within a block (`GPT.outside`) counts twice."""
    for block in model.transformer.h:
        # a method, not a partial: Dynamo would pass the block twice
        block.forward = MethodType(_again, block)


def _again(
    block: Block, x: torch.Tensor, cache: KVCache | None, *rest: torch.Tensor | None
) -> torch.Tensor:
    # a cache would be appended to twice; it lives only where nothing is trained
    if cache is not None or not torch.is_grad_enabled():
        return Block.forward(block, x, cache, *rest)
    again: torch.Tensor = checkpoint(
        Block.forward, block, x, None, *rest, use_reentrant=False, preserve_rng_state=True
    )
    return again
