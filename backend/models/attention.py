"""Causal self-attention, and the cache that makes generation linear.

Letters: B batch, T new tokens, S all visible tokens (cached and new), C channels, nh heads, hs head
size.

`manual` is the readable definition and the oracle of the tests; `sdpa` computes the same faster.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from backend.config.schema import ModelConfig


class KVCache:
    """Keys and values of the tokens so far, allocated once for a whole generation."""

    def __init__(self, config: ModelConfig, batch_size: int, like: torch.Tensor) -> None:
        shape = (
            config.n_layer,
            batch_size,
            config.n_head,
            config.block_size,
            config.n_embd // config.n_head,
        )
        self.k, self.v = like.new_empty(shape), like.new_empty(shape)  # (L, B, nh, block_size, hs)
        self.length = 0

    def append(
        self, layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new k, v (B, nh, T, hs) of a layer; returns all of them (B, nh, S, hs)."""
        end = self.length + k.size(2)
        self.k[layer, :, :, self.length : end] = k
        self.v[layer, :, :, self.length : end] = v
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]


class CausalSelfAttention(nn.Module):
    """Multi-head attention with GPT-2's parameter names."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)  # (B, T, 3, nh, hs)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, nh, T, hs)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, nh, S, hs)
        y = attend_sdpa(q, k, v, self.dropout if self.training else 0.0)  # (B, nh, T, hs)
        y = y.transpose(1, 2).reshape(B, T, C)  # heads side by side again
        out: torch.Tensor = self.resid_dropout(self.c_proj(y))
        return out  # (B, T, C)


def attend_manual(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0
) -> torch.Tensor:
    """softmax(q k^T / sqrt(hs)) v with later tokens masked; the last query sees the last key.

    Args:
        q: (B, nh, T, hs)
        k, v: (B, nh, S, hs), S >= T
    Returns:
        (B, nh, T, hs)
    """
    T, S = q.size(2), k.size(2)
    scores = q @ k.transpose(2, 3) / math.sqrt(q.size(3))  # (B, nh, T, S)
    visible = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
    return F.dropout(weights, dropout) @ v


def attend_sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0
) -> torch.Tensor:
    """`attend_manual` by PyTorch's fused kernels."""
    T, S = q.size(2), k.size(2)
    if T == 1:  # one new token sees everything: no mask
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    if T == S:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    # subtle: is_causal aligns the mask to the first key, and here the last query sees the last key
    visible = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
