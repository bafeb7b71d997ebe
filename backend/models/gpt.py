"""The GPT: GPT-2's architecture, and by independent settings what was measured to be better.

    ids ─ wte + wpe + pairs ─ [ x + attn(ln_1 x) ─ x + mlp(ln_2 x) ] x n_layer ─ ln_f ─ lm_head

Parts are chosen when the model is built, never in `forward`. With the default settings it is GPT-2
exactly, and state-dict keys are GPT-2's, so weights move by name (Radford et al. 2019; the residual
projections start at 0.02 / sqrt(2 n_layer), section 2.3 there).

Letters: B batch, T time, C channels, V vocabulary.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from backend.config import kinds
from backend.config.schema import ModelConfig
from backend.data.batches import IGNORE as IGNORE
from backend.errors import ConfigError
from backend.models.attention import QUERIES, CausalSelfAttention, Kernel, KVCache, of_documents
from backend.models.head import InPieces, in_pieces, softcapped

HASH = 0x9E3779B1  # 2^32 / golden ratio: spreads neighbouring keys (Knuth, TAOCP 3, 6.4)


class MLP(nn.Module):
    """Widen four times, bend, and back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.c_fc(x))  # (B, T, 4C)
        out: torch.Tensor = self.dropout(self.c_proj(x))
        return out  # (B, T, C)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu2": lambda x: F.relu(x).square(),
}


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(
        self, x: torch.Tensor, cache: KVCache | None, seen: torch.Tensor | None
    ) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), cache, seen)
        out: torch.Tensor = x + self.mlp(self.ln_2(x))
        return out  # (B, T, C)


class Places(nn.Module):
    """GPT-2's table of positions, which go on where the cache ends."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.block_size, config.n_embd))

    def forward(
        self, idx: torch.Tensor, cache: KVCache | None, documents: torch.Tensor | None = None
    ) -> torch.Tensor:
        """idx (B, T) -> (T, C), or (B, 1, C) where the rows of the cache differ"""
        past = cache.past if cache else 0
        if isinstance(past, int):
            return self.weight[past : past + idx.size(1)]
        return self.weight[past[:, 0, 0]]


class Pairs(nn.Module):
    """An embedding for every two neighbouring tokens; the first, of all or of its document, stands
    alone."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        n_pairs = (vocab_size + 1) * vocab_size  # 0 is "no token before", then the ids
        self.rows = min(config.bigram, n_pairs)
        self.multiplier = 1 if self.rows == n_pairs else HASH
        self.weight = nn.Parameter(torch.zeros(self.rows, config.n_embd))

    def forward(
        self, idx: torch.Tensor, cache: KVCache | None, documents: torch.Tensor | None = None
    ) -> torch.Tensor:
        """idx (B, T) -> (B, T, C)"""
        last = cache.last if cache else torch.full_like(idx[:, :1], -1)
        before = torch.cat([last, idx[:, :-1]], dim=1) + 1  # (B, T)
        if documents is not None:
            new = documents[:, 1:] != documents[:, :-1]
            before = before.masked_fill(F.pad(new, (1, 0)), 0)
        key = before * self.vocab_size + idx
        return F.embedding((key * self.multiplier & 0xFFFFFFFF) % self.rows, self.weight)


class Transformer(nn.Module):
    """Everything under the head; its attributes give the keys `transformer.wte`, ... of GPT-2."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(padded(vocab_size), config.n_embd)
        self.tables: list[nn.Module] = []  # what is added to the token's own embedding
        if config.position == "learned":
            self.wpe = Places(config)
            self.tables.append(self.wpe)
        if config.bigram:
            self.pairs = Pairs(config, vocab_size)
            self.tables.append(self.pairs)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)

    def forward(
        self, idx: torch.Tensor, cache: KVCache | None, documents: torch.Tensor | None
    ) -> torch.Tensor:
        x = self.wte(idx)  # (B, T, C)
        for table in self.tables:
            x = x + table(idx, cache, documents)
        x = self.drop(x)
        seen = None if documents is None else of_documents(documents)  # (B, 1, T, T)
        for block in self.h:
            x = block(x, cache, seen)
        if cache is not None:
            cache.advance(idx)
        out: torch.Tensor = self.ln_f(x)
        return out  # (B, T, C)


class GPT(nn.Module):
    """A GPT of any size and kind.

    Args:
        config: the shape.
        vocab_size: ids are 0..vocab_size-1.
    Raises:
        ConfigError: settings that do not go together.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        if wrong := list(config.problems()):
            raise ConfigError("; ".join(wrong))
        self.config, self.vocab_size = config.resolved(), vocab_size
        self.transformer = Transformer(self.config, vocab_size)
        self.lm_head = nn.Linear(config.n_embd, padded(vocab_size), bias=False)
        if config.tied_head:
            self.lm_head.weight = self.transformer.wte.weight
        self.cap = config.logit_softcap
        self._init()

    @torch.no_grad()
    def _init(self) -> None:
        config = self.config
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | Places):
                by_width = (3 * module.weight.size(1)) ** -0.5
                nn.init.normal_(module.weight, std=0.02 if config.init == "gpt2" else by_width)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, weight in self.named_parameters():
            if name.endswith("c_proj.weight"):  # the two writers into the residual stream
                weight.mul_(0.0 if config.zero_init else (2 * config.n_layer) ** -0.5)
        if config.zero_init and not config.tied_head:
            nn.init.zeros_(self.lm_head.weight)

    def forward(
        self,
        idx: torch.Tensor,
        targets: torch.Tensor | None = None,
        cache: KVCache | None = None,
        documents: torch.Tensor | None = None,
        last: bool = False,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Logits for every position; where targets are given, the mean loss in their place.

        Args:
            idx: (B, T) ids, T at most block_size less what the cache holds.
            targets: (B, T) ids, IGNORE where there is no loss.
            cache: keys and values of earlier tokens; it grows by T.
            documents: (B, T) numbers; a token sees only those before it that have its own.
            last: logits (B, 1, V) of the last position only.
        Returns:
            logits (B, T, V) and None, or None and the loss () in nats
        """
        assert cache is None or documents is None, "a cache does not know its tokens' documents"
        x = self.transformer(idx, cache, documents)  # (B, T, C)
        if last:
            x = x[:, -1:]
        # the padding of the matrix is cut off, so it never shares in the softmax
        if targets is not None and in_pieces(x):
            weight = self.lm_head.weight[: self.vocab_size]
            rows = x.flatten(0, 1), weight, targets.reshape(-1), self.cap
            return None, InPieces.apply(*rows)  # type: ignore[no-untyped-call]
        logits = softcapped(self.lm_head(x)[..., : self.vocab_size], self.cap)  # (B, T, V)
        if targets is None:
            return logits, None
        flat = logits.float().view(-1, self.vocab_size)  # (B*T, V), the softmax in fp32
        return None, F.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORE)

    @property
    def cacheable(self) -> bool:
        """May keys and values be kept? Not where earlier rows change with the length."""
        return self.config.attn_scale != "T"

    def weights(self) -> dict[str, torch.Tensor]:
        """The state dict as it is stored: without padding, a tied head once."""
        stored = {k: v for k, v in self.state_dict().items() if k not in self._absent()}
        return {k: v[: self.vocab_size] if k in VOCABULARY else v for k, v in stored.items()}

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """The reverse.

        Raises:
            ValueError: a name that is missing or unknown, or another shape.
        """
        own = self.weights()  # views of the parameters, but for their padding
        if missing := sorted(own.keys() - weights.keys()):
            raise ValueError(f"{missing[0]} is missing ({len(missing)} in all)")
        if unknown := sorted(weights.keys() - own.keys()):
            raise ValueError(f"{unknown[0]} has no place in this model ({len(unknown)} such)")
        for name, mine in own.items():
            if mine.shape != weights[name].shape:
                raise ValueError(
                    f"{name} is {tuple(weights[name].shape)}, the model has {tuple(mine.shape)}"
                )
            mine.copy_(weights[name])

    def _absent(self) -> set[str]:
        return {"lm_head.weight"} if self.config.tied_head else set()

    def outside(self) -> tuple[int, int]:
        """GKpoly: scores below its domain, and all scores, since the model was built."""
        counts = [m.outside for m in self.modules() if isinstance(m, Kernel)]
        return sum(int(c[0]) for c in counts), sum(int(c[1]) for c in counts)


VOCABULARY = ("transformer.wte.weight", "lm_head.weight")  # a row for every id


def padded(vocab_size: int) -> int:
    """Rows of the embedding: a large vocabulary is filled up to a multiple of 64, as matrix units
    like it; 50,257 becomes 50,304."""
    return vocab_size if vocab_size < 1024 else -(-vocab_size // 64) * 64


def n_params(model: GPT) -> int:
    """Parameters, tied ones once, without padding: 124,439,808 for GPT-2 small."""
    return sum(v.numel() for v in model.weights().values())


def flops_per_token(model: GPT) -> int:
    """Forward and backward: 6 per parameter that multiplies, and 12 L C T for attention (PaLM,
    appendix B). Tables that are only looked up cost nothing; the head does, tied or not.
    """
    tables = ("transformer.wpe", "transformer.pairs") + ("transformer.wte",) * (
        not model.config.tied_head
    )
    n = sum(v.numel() for k, v in model.weights().items() if not k.startswith(tables))
    return 6 * n + 12 * model.config.n_layer * model.config.n_embd * model.config.block_size


def on_meta(config: ModelConfig, vocab_size: int) -> GPT:
    """The model without its numbers, for counting."""
    with torch.device("meta"):
        return GPT(config, vocab_size)


def training_gb(model: GPT, batch_size: int, *, checkpointing: bool = False) -> float:
    """Estimate of the memory a step needs.

    Weights take 4 bytes, those that are trained 12 more (gradient and AdamW's two moments). For the
    backward pass autograd keeps, counted on a CPU in fp32, 17 to 20 C values a token and layer; the
    attention matrices where they are not fused away, one more for each squaring; and the logits
    three times, though a CPU makes its loss in pieces: the estimate is high there, of a large
    vocabulary. bf16 needs less. With activation checkpointing only what enters a block is kept,
    and all of one block, the one that is just computed again.
    """
    config, T = model.config, model.config.block_size
    n = kinds.squarings(config.attn_type) or 0
    fused = config.attn_type == "SM" and not config.dropout and config.position != "alibi"
    seen = (T + min(T, QUERIES)) / 2  # keys that a query's block looks at, on average
    matrices = 0.0 if fused else (3 + n) * config.n_head * seen
    block = 20 * config.n_embd + matrices
    blocks = config.n_layer * config.n_embd + block if checkpointing else config.n_layer * block
    per_token = 4 * (blocks + 3 * model.vocab_size)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    weights = 4 * sum(p.numel() for p in model.parameters()) + 12 * trained
    return (weights + batch_size * T * per_token) / 2**30
