"""Causal self-attention of every kind, positions, and the cache that makes generation linear.

    x ─ c_attn ─ q, k, v ─ [qk norm ─ rotate] ─ cache ─ weigh and sum the v ─ c_proj ─ x

A kind (`attn_type`, `attn_scale`: config/kinds.py) is what the weights are; `by_blocks` is their
definition and works for all of them. Where the weights are a softmax, PyTorch's fused kernel (SDPA)
computes the same and is taken where it is the faster one.

Where several songs share a row, a token sees its own song only (`of_documents`). It stays at its
place in the row: positions are not counted anew, and scale T divides by the length of the row.

Letters: B batch, T new tokens (queries), S all visible tokens (cached and new), C channels, nh
heads, hs head size.
"""

import math
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from backend.config import kinds
from backend.config.schema import ModelConfig

QUERIES = 256  # queries of one block: a block never looks at keys that none of it sees


class KVCache:
    """Keys and values of the tokens so far, allocated once for a whole generation: for a block of
    tokens, or for `length`, where less will do.

    Rows may hold different numbers of tokens; they then take one new token each:

        row 0  k k k k k n .      n: where the new token goes
        row 1  k k n . . . .      . hidden by `seen`
    """

    past: int | torch.Tensor  # tokens held: by every row alike, else (B, 1, 1, 1)
    seen: torch.Tensor | None  # (B, 1, 1, S) what one more token sees, where rows differ

    def __init__(
        self, config: ModelConfig, batch_size: int, like: torch.Tensor, length: int | None = None
    ) -> None:
        shape = (
            config.n_layer,
            batch_size,
            config.n_head,
            length or config.block_size,
            config.n_embd // config.n_head,
        )
        # (L, B, nh, length, hs); zeros, for what is not seen is still multiplied, by 0
        self.k, self.v = like.new_zeros(shape), like.new_zeros(shape)
        # (B, 1) the newest id, for pairs of tokens; -1 is none
        self.last = torch.full((batch_size, 1), -1, device=like.device)
        self.hold([0] * batch_size)

    def widen(self, length: int) -> None:
        """Room for so many tokens in each row."""
        more = (0, 0, 0, length - self.k.size(3))
        self.k, self.v = F.pad(self.k, more), F.pad(self.v, more)

    def hold(self, lengths: Sequence[int]) -> None:
        """From now on row i holds its first lengths[i] tokens; what lies behind is forgotten."""
        self.lengths = list(lengths)
        if len(set(lengths)) == 1:
            self.past, self.seen = lengths[0], None
        else:
            self.past = torch.tensor(lengths, device=self.k.device).view(-1, 1, 1, 1)
            self.seen = torch.arange(max(lengths) + 1, device=self.k.device) <= self.past

    def append(
        self, layer: int, k: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the new k, v (B, nh, T, hs) of a layer; returns all of them (B, nh, S, hs)."""
        if isinstance(self.past, int):
            end = self.past + k.size(2)
            self.k[layer, :, :, self.past : end] = k
            self.v[layer, :, :, self.past : end] = v
        else:
            assert k.size(2) == 1, "rows of different lengths take one token each"
            end = max(self.lengths) + 1
            rows = torch.arange(k.size(0), device=k.device)
            at = self.past.flatten()
            self.k[layer][rows, :, at] = k[:, :, 0].to(self.k.dtype)
            self.v[layer][rows, :, at] = v[:, :, 0].to(self.v.dtype)
        return self.k[layer, :, :, :end], self.v[layer, :, :, :end]

    def advance(self, idx: torch.Tensor) -> None:
        """All layers have stored the tokens idx (B, T)."""
        self.last[:] = idx[:, -1:]
        self.hold([length + idx.size(1) for length in self.lengths])

    def rows(self, first: int, end: int) -> "KVCache":
        """Some of the rows, as a cache that shares their memory, but counts for itself."""
        part = copy(self)
        part.k, part.v = self.k[:, first:end], self.v[:, first:end]
        part.last = self.last[first:end].clone()
        part.hold(self.lengths[first:end])
        return part

    def move(self, source: int, target: int, length: int) -> None:
        """The first tokens of row `source` take the place of row `target`."""
        self.k[:, target, :, :length] = self.k[:, source, :, :length]
        self.v[:, target, :, :length] = self.v[:, source, :, :length]


class CausalSelfAttention(nn.Module):
    """Multi-head attention with GPT-2's parameter names."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.n_head, self.p = layer, config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.norm = _rms if config.qk_norm else nn.Identity()
        self.position = POSITIONS[config.position](config)
        kind = (config.attn_type, config.attn_scale)
        softmax = kind in (("SM", "none"), ("GK", "norm"))
        self.attend: Softmax | Kernel = Softmax(config) if softmax else Kernel(config)

    def forward(
        self,
        x: torch.Tensor,
        cache: KVCache | None = None,
        seen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x (B, T, C), seen (B, 1, T, T): what each token sees, None is all before -> (B, T, C)"""
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)  # (B, T, 3, nh, hs)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, nh, T, hs)
        past = cache.past if cache else 0
        q, k = (self.position.rotate(self.norm(a), past) for a in (q, k))
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, nh, S, hs)
            seen = cache.seen
        p = self.p if self.training else 0.0
        y = self.attend(q, k, v, self.position, p, seen, past)  # (B, nh, T, hs)
        y = y.transpose(1, 2).reshape(B, T, C)  # heads side by side again
        out: torch.Tensor = self.resid_dropout(self.c_proj(y))
        return out  # (B, T, C)


# --- positions -----------------------------------------------------------------------------------


class Learned(nn.Module):
    """A table of positions added to the embeddings (`wpe`, in gpt.py): nothing to do here."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    def rotate(self, x: torch.Tensor, past: int | torch.Tensor) -> torch.Tensor:
        """Queries or keys x (B, nh, T, hs), of which the first stands at position `past`; where
        rows differ it is (B, 1, 1, 1), and T is 1."""
        return x

    def bias(
        self, first: int | torch.Tensor, end: int, device: torch.device
    ) -> torch.Tensor | None:
        """What is added to the scores of the queries at first..end-1 (nh, end - first, end); of one
        query a row, where rows differ: first (B, 1, 1, 1) -> (B, nh, 1, end)."""
        return None


class Rotary(Learned):
    """Rotary positions (Su et al., 2104.09864): pairs of channels turn by angles that grow with the
    position, so that q k depends on the distance alone."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        half = config.n_embd // config.n_head // 2
        speeds = 10_000.0 ** (-torch.arange(half) / half)
        angles = torch.arange(config.block_size)[:, None] * speeds  # (block_size, hs / 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def rotate(self, x: torch.Tensor, past: int | torch.Tensor) -> torch.Tensor:
        at = slice(past, past + x.size(2)) if isinstance(past, int) else past[..., 0]
        cos, sin = self.cos[at], self.sin[at]  # (T, hs / 2) or (B, 1, 1, hs / 2)
        a, b = x.float().chunk(2, dim=-1)  # 2 x (B, nh, T, hs / 2)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Alibi(Learned):
    """A penalty for distance, of another slope in every head (Press et al., 2108.12409)."""

    slopes: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        power = 2 ** math.floor(math.log2(config.n_head))
        slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
        between = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
        slopes += between[: config.n_head - power]  # where the heads are no power of two
        self.register_buffer("slopes", torch.tensor(slopes), persistent=False)  # (nh,)

    def bias(
        self, first: int | torch.Tensor, end: int, device: torch.device
    ) -> torch.Tensor | None:
        at = torch.arange(end, device=device)
        queries = at[first:, None] if isinstance(first, int) else first
        distance = (queries - at).clamp(min=0)  # (end - first, end) or (B, 1, 1, end)
        return -self.slopes[:, None, None] * distance


POSITIONS = {"learned": Learned, "rotary": Rotary, "alibi": Alibi}


# --- weights -------------------------------------------------------------------------------------


class Softmax(nn.Module):
    """softmax(q k / sqrt(hs)); and the Gaussian kernel divided by its sum, which is a softmax too:
    the query's own norm cancels in

        exp(-|q - k|^2 / 2 sqrt(hs)) / sum  =  softmax((q k - |k|^2 / 2) / sqrt(hs))

    so that the keys' norms ride along as two more channels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = (config.n_embd // config.n_head) ** -0.5
        self.extend = _carry_norms if config.attn_type == "GK" else _as_they_are

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        position: Learned,
        dropout: float,
        seen: torch.Tensor | None = None,
        past: int | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """q (B, nh, T, hs), k and v (B, nh, S, hs), seen (B, 1, T, S) -> (B, nh, T, hs)"""
        width = v.size(3)
        q, k, v = self.extend(q, k, v)
        T, S = q.size(2), k.size(2)
        # SDPA's bf16 backward on a CPU takes 1.2 to 4 times as long; but by blocks scores are
        # rounded to bf16, which the keys' norms are too large for
        on_cpu = q.device.type == "cpu" and q.dtype == torch.bfloat16
        if on_cpu and torch.is_grad_enabled() and self.extend is _as_they_are:
            return by_blocks(q, k, v, self.weights, position, dropout, seen, past)
        bias = position.bias(S - T if past is None else past, S, q.device)
        if bias is None and seen is None and T in (1, S):  # one new token sees everything
            y = F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=T > 1, scale=self.scale
            )
            return y[..., :width]
        # is_causal would align the mask to the first key, and here the last query sees the last key
        mask = _mask(S - T, S, q, seen)  # (T, S) or (B, 1, T, S)
        mask = mask if bias is None else mask + bias.to(q.dtype)  # (nh, T, S) or (B, nh, T, S)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, scale=self.scale
        )
        return y[..., :width]

    def weights(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        bias: torch.Tensor | None,
        length: int,
        seen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Weights (B, nh, T, S) of T queries, of which the last sees all S keys, or what `seen`
        (B, 1, T, S) says."""
        T, S = q.size(2), k.size(2)
        scores = (q * self.scale) @ k.transpose(2, 3) + _mask(S - T, S, q, seen)
        scores = scores if bias is None else scores + bias.to(q.dtype)
        weights: torch.Tensor = scores.softmax(dim=-1)
        return weights


class Kernel(nn.Module):
    """The kinds without a softmax. Scores and weights in fp32 whatever the autocast: in bf16 the
    squarings of GKpoly-8 are off by 0.39."""

    outside: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = (config.n_embd // config.n_head) ** -0.5
        self.gaussian = config.attn_type.startswith("GK")
        n = kinds.squarings(config.attn_type)
        self.kernel = partial(_polynomial, n=n) if n else KERNELS[config.attn_type]
        self.divide = DIVIDE[str(config.attn_scale)]
        self.least = -(2.0**n) if n else -math.inf  # below this the polynomial rises again
        # [visible scores below it, visible scores]: counted, and clamped to it
        self.register_buffer("outside", torch.zeros(2, dtype=torch.int64), persistent=False)

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        position: Learned,
        dropout: float,
        seen: torch.Tensor | None = None,
        past: int | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """q (B, nh, T, hs), k and v (B, nh, S, hs), seen (B, 1, T, S) -> (B, nh, T, hs)"""
        return by_blocks(q, k, v, self.weights, position, dropout, seen, past)

    def weights(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        bias: torch.Tensor | None,
        length: int,
        seen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Weights (B, nh, T, S) of T queries, of which the last sees all S keys, or what `seen`
        (B, 1, T, S) says; in an input of `length` tokens."""
        T, S = q.size(2), k.size(2)
        with torch.autocast(q.device.type, enabled=False):
            q, k = q.float(), k.float()
            scores = q @ k.transpose(2, 3)  # (B, nh, T, S)
            if self.gaussian:
                lengths = q.square().sum(3)[..., None] + k.square().sum(3)[:, :, None]
                scores = scores - lengths / 2  # = -|q - k|^2 / 2
            scores = scores * self.scale
            scores = scores if bias is None else scores + bias
            visible = seen
            if visible is None:
                visible = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
            if self.least > -math.inf:
                below = (scores.detach() < self.least) & visible
                alike = scores.numel() // visible.numel()  # scores that share one mask
                self.outside += torch.stack([below.sum(), visible.sum() * alike])
                scores = scores.clamp(min=self.least)
            # masked after the kernel, with zero: minus infinity, on either side, ends in NaN
            return self.divide(torch.where(visible, self.kernel(scores), 0.0), visible, length)


def by_blocks(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    weights: Callable[..., torch.Tensor],
    position: Learned,
    dropout: float,
    seen: torch.Tensor | None = None,
    past: int | torch.Tensor | None = None,
) -> torch.Tensor:
    """Weights times values, block by block of queries; the last query sees the last key.

        keys      0 . . . . . . S
        block 1   [w w]               what lies right of a block is never computed
        block 2   [w w w w]
        block 3   [w w w w w w]

    Args:
        q: (B, nh, T, hs)
        k, v: (B, nh, S, hs), S >= T
        weights: of `Softmax` or `Kernel`
        seen: (B, 1, T, S) what each query sees; None is every key before it and its own
        past: position of the first query, (B, 1, 1, 1) where rows differ; None is S - T
    Returns:
        (B, nh, T, hs)
    """
    T, S = q.size(2), k.size(2)
    past = S - T if past is None else past
    parts = []
    for start in range(0, T, QUERIES):
        end = min(start + QUERIES, T)
        last = S - T + end
        bias = position.bias(past + start, last, q.device)
        own = None if seen is None else seen[:, :, start:end, :last]
        w = weights(q[:, :, start:end], k[:, :, :last], bias, S, own)  # (B, nh, end - start, last)
        parts.append(F.dropout(w, dropout).to(v.dtype) @ v[:, :, :last])
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _polynomial(scores: torch.Tensor, n: int) -> torch.Tensor:
    """(1 + s / 2^n)^(2^n) by n squarings: exp(s) on [-2^n, 0], to 1e-3 for n = 8."""
    u = scores / float(2**n)
    last = min(n, 4)
    for _ in range(n - last):
        u = u * (2 + u)  # (1 + u)^2 - 1: where u is tiny, 1 + u would round it away
    x: torch.Tensor = 1 + u
    for _ in range(last):
        x = x.square()  # where u is near -1, this form is the exact one
    return x


KERNELS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "GK": torch.exp,
    "PA_gelu": F.gelu,
    "PA_relu": F.relu,
    "PA_sigmoid": torch.sigmoid,
    "PA_square": torch.square,
    "PA_relu-square": lambda scores: F.relu(scores).square(),
}


def _seen(visible: torch.Tensor) -> torch.Tensor:
    return visible.sum(dim=-1, keepdim=True)  # (T, 1) or (B, 1, T, 1) tokens that a query sees


# (weights (B, nh, T, S), visible (T, S) or (B, 1, T, S), length of the input) -> weights
DIVIDE: dict[str, Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]] = {
    "none": lambda w, visible, length: w,
    "row": lambda w, visible, length: w / _seen(visible),
    "row_sqrt": lambda w, visible, length: w / _seen(visible).sqrt(),
    # a row whose weights all underflow stays zero
    "norm": lambda w, visible, length: w / w.sum(-1, keepdim=True).clamp(min=1e-30),
    "T": lambda w, visible, length: w / length,
}


def _carry_norms(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q' k' = q k - |k|^2 / 2. The norm takes two channels: in one, bf16 would round too much. All
    three are filled up to one width, a multiple of 8, which the fused kernels want."""
    half = k.float().square().sum(dim=3, keepdim=True) / 2  # (B, nh, S, 1)
    high = half.to(q.dtype).float()  # q's type: a cache keeps k in fp32, and autocast rounds it
    more = torch.cat([-high, high - half], dim=3).to(k.dtype)
    ones = torch.ones_like(q[..., :1])
    q, k = torch.cat([q, ones, ones], dim=3), torch.cat([k, more], dim=3)
    fill = -q.size(3) % 8
    return F.pad(q, (0, fill)), F.pad(k, (0, fill)), F.pad(v, (0, fill + 2))


def _as_they_are(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return q, k, v


def _rms(x: torch.Tensor) -> torch.Tensor:
    """Queries and keys to length sqrt(hs), without a gain (QK-norm, Henry et al., 2010.04245)."""
    return F.rms_norm(x, (x.size(-1),))


def of_documents(documents: torch.Tensor) -> torch.Tensor:
    """What each token sees where it sees its own document only: (B, T) -> (B, 1, T, T)"""
    same = documents[:, :, None] == documents[:, None, :]  # (B, T, T)
    return same.tril()[:, None]


def _mask(
    first: int, end: int, like: torch.Tensor, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """0 where a query at first..end-1 sees a key, else minus infinity: (end - first, end), or as
    `seen` (B, 1, end - first, end) has it."""
    if seen is not None:
        return torch.zeros_like(seen, dtype=like.dtype).masked_fill(~seen, -torch.inf)
    rows = torch.full((end - first, end), -torch.inf, dtype=like.dtype, device=like.device)
    return rows.triu(first + 1)
