"""Head: what leaves the last block -> loss, some rows at a time.

On a CPU half of a step of a small model with a vocabulary of 4,096 went into its logits: tanh,
softmax and their gradients each wrote (N, V) numbers to memory and read them again. Pieces that
stay in the processor's cache, with the gradient made while they are there (as in Liger Kernel, Hsu
et al. 2024), take less than half of that. Letters: N rows, C channels, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from backend.data.batches import IGNORE

ROOM, LEAST = 2**20, 128  # numbers in a piece; rows, or reading the weights takes the time


def softcapped(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    """Logits between -cap and cap, in fp32 (Gemma 2, section 2); without a cap as they are."""
    return logits if cap is None else cap * torch.tanh(logits.float() / cap)


def in_pieces(x: torch.Tensor) -> bool:
    """Is that the faster of two equal ways? On a CPU, in training, where nothing is compiled."""
    return x.is_cpu and x.requires_grad and not torch.compiler.is_compiling()


class InPieces(torch.autograd.Function):
    """(x (N, C), weight (V, C), targets (N,), cap or None) -> mean loss () in nats.

    The gradients are made in the forward pass, as if the one that comes in were 1.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, cap: float | None
    ) -> torch.Tensor:
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        ctx.kinds = x.dtype, weight.dtype
        with torch.autocast("cpu", enabled=False):
            x, weight = x.to(kind), weight.to(kind)
            wants_x, wants_weight = ctx.needs_input_grad[:2]
            dx = torch.empty_like(x) if wants_x else None
            dw = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
            share = (targets != IGNORE).float()[:, None]  # (N, 1) of each row in the mean
            share /= share.sum()
            right = targets.clamp(min=0)[:, None]  # (N, 1)
            loss = torch.zeros(())
            step = max(LEAST, ROOM // len(weight))
            for at in range(0, len(x), step):
                rows = slice(at, at + step)
                logits = F.linear(x[rows], weight).float()  # (rows, V)
                if cap is not None:
                    bent = logits.mul_(1 / cap).tanh_()
                    logits = bent * cap
                else:  # below a cap exp cannot overflow
                    logits -= logits.amax(1, keepdim=True)
                likely = logits.gather(1, right[rows])
                d = logits.exp_()  # the softmax, and then the gradient of the logits
                total = d.sum(1, keepdim=True)
                loss += ((total.log() - likely) * share[rows]).sum()
                d *= share[rows] / total
                d.scatter_add_(1, right[rows], -share[rows])
                if cap is not None:
                    d *= bent.square_().neg_().add_(1)  # tanh' = 1 - tanh^2
                d = d.to(kind)
                if dx is not None:
                    dx[rows] = d @ weight
                if dw is not None:
                    dw += d.T @ x[rows]
        ctx.save_for_backward(dx, dw)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grads = zip(ctx.saved_tensors, ctx.kinds, strict=True)
        return *(None if g is None else (g * d).to(kind) for g, kind in grads), None, None
