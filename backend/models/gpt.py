"""The GPT: GPT-2's architecture, all of it, in the order the data flows.

    ids ─ wte + wpe ─ [ x + attn(ln_1 x) ─ x + mlp(ln_2 x) ] x n_layer ─ ln_f ─ lm_head (= wte)

State-dict keys are GPT-2's, so weights move by name (Radford et al. 2019; the residual projections
start at 0.02 / sqrt(2 n_layer), section 2.3 there).

Letters: B batch, T time, C channels, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from backend.config.schema import ModelConfig
from backend.models.attention import CausalSelfAttention, KVCache

IGNORE = -1  # target of positions that carry no loss


class MLP(nn.Module):
    """Widen four times, GELU (the tanh form, as GPT-2), and back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.c_fc(x), approximate="tanh")  # (B, T, 4C)
        out: torch.Tensor = self.dropout(self.c_proj(x))
        return out  # (B, T, C)


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor, cache: KVCache | None) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        out: torch.Tensor = x + self.mlp(self.ln_2(x))
        return out  # (B, T, C)


class Transformer(nn.Module):
    """Everything under the head; its attributes give the keys `transformer.wte`, ... of GPT-2."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)

    def forward(self, idx: torch.Tensor, cache: KVCache | None) -> torch.Tensor:
        T, past = idx.size(1), cache.length if cache else 0
        at = torch.arange(past, past + T, device=idx.device)  # (T,)
        x = self.drop(self.wte(idx) + self.wpe(at))  # (B, T, C)
        for block in self.h:
            x = block(x, cache)
        if cache:
            cache.length += T
        out: torch.Tensor = self.ln_f(x)
        return out  # (B, T, C)


class GPT(nn.Module):
    """A GPT-2 of any size.

    Args:
        config: the shape.
        vocab_size: ids are 0..vocab_size-1.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.transformer = Transformer(config, vocab_size)
        self.lm_head = nn.Linear(config.n_embd, vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight  # tied
        self.apply(self._init)
        for name, weight in self.named_parameters():
            if name.endswith("c_proj.weight"):  # the two writers into the residual stream
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * config.n_layer))

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self, idx: torch.Tensor, targets: torch.Tensor | None = None, cache: KVCache | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits for every position, and the mean loss where targets are given.

        Args:
            idx: (B, T) ids, T at most block_size less what the cache holds.
            targets: (B, T) ids, IGNORE where there is no loss.
            cache: keys and values of earlier tokens; it grows by T.
        Returns:
            logits (B, T, V), loss () in nats or None
        """
        logits = self.lm_head(self.transformer(idx, cache))  # (B, T, V)
        if targets is None:
            return logits, None
        flat = logits.view(-1, logits.size(-1)).float()  # (B*T, V), the softmax in fp32
        return logits, F.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORE)


def n_params(model: GPT) -> int:
    """Parameters, tied ones once: 124,439,808 for GPT-2 small."""
    return sum(p.numel() for p in model.parameters())


def flops_per_token(config: ModelConfig, n_parameters: int) -> int:
    """Forward and backward: 6 per parameter and 12 L C T for attention (PaLM, appendix B)."""
    return 6 * n_parameters + 12 * config.n_layer * config.n_embd * config.block_size


def training_gb(config: ModelConfig, vocab_size: int, batch_size: int) -> float:
    """Estimate of the memory a step needs: weights, gradients and AdamW's two moments (16 bytes a
    parameter), and per token what autograd saves: about 17 C fp32 values a layer, 30 C with dropout
    (counted on a CPU), and the logits with their gradient.
    """
    C, L = config.n_embd, config.n_layer
    parameters = vocab_size * C + config.block_size * C + L * 12 * C * C
    per_token = 4 * (L * (30 if config.dropout else 17) * C + 3 * vocab_size)
    return (16 * parameters + batch_size * config.block_size * per_token) / 2**30
