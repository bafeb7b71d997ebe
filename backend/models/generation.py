"""Generation: prefill, then one token at a time; samplers are small pure functions.

    prompt ─ prefill ─ logits ─ [forbid ─ temperature ─ top-k ─ draw] ─ token ─ decode ─ ...

When the context is full, half a block of it is kept, the header and the newest rest, and prefilled
again. A model that cannot be cached reads its whole context for every token.
Letters: B batch, T time, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch

from backend.models.attention import KVCache
from backend.models.gpt import GPT


def forbid(logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """Never draw these ids. logits: (B, V)."""
    logits = logits.clone()
    logits[:, list(ids)] = -torch.inf
    return logits


def top_k(logits: torch.Tensor, k: int | None) -> torch.Tensor:
    """Keep the k likeliest of each row. logits: (B, V)."""
    if k is None or k >= logits.size(-1):
        return logits
    least = logits.topk(k).values[:, -1:]  # (B, 1)
    return logits.masked_fill(logits < least, -torch.inf)


def draw(
    logits: torch.Tensor, temperature: float, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """One token per row, each row by its own generator; temperature 0 takes the likeliest.

    Args:
        logits: (B, V)
    Returns:
        (B,) ids on the CPU
    """
    if temperature < 1e-4:  # below this, division overflows rather than sharpens
        return logits.argmax(dim=-1).cpu()
    weights = (logits.float() / temperature).softmax(dim=-1).cpu()  # (B, V)
    # Drawn on the CPU, so that a seed gives the same song on every device.
    rows = [torch.multinomial(w, 1, generator=g) for w, g in zip(weights, generators, strict=True)]
    return torch.cat(rows)


def slide(context: torch.Tensor, keep: int, block_size: int) -> torch.Tensor:
    """The context to go on with when it is full. (B, block_size) -> (B, shorter)."""
    half = max(1, block_size // 2)
    keep = min(keep, half // 2)  # a header longer than that must not push the song out
    return torch.cat([context[:, :keep], context[:, context.size(1) - half + keep :]], dim=1)


@torch.inference_mode()
def tokens(
    model: GPT,
    prompt: torch.Tensor,
    *,
    max_new_tokens: int,
    temperature: float,
    k: int | None,
    generators: Sequence[torch.Generator],
    keep: int = 0,
    never: Sequence[int] = (),
) -> Iterator[torch.Tensor]:
    """Ids as they come, one (B,) tensor per step.

    Args:
        prompt: (B, T) ids, T at least 1; a prompt longer than the block loses its middle.
        keep: leading tokens that survive when the context slides.
    """
    block_size = model.config.block_size
    context = prompt
    if context.size(1) > block_size:
        context = slide(context, keep, block_size)
    head = model.lm_head.weight
    like = torch.empty(0, dtype=head.dtype, device=prompt.device)  # whole where the head is sharded
    cache = KVCache(model.config, prompt.size(0), like) if model.cacheable else None
    new = context
    for _ in range(max_new_tokens):
        logits = model(context if cache is None else new, cache=cache)[0][:, -1]  # (B, V)
        ids = draw(top_k(forbid(logits, never), k), temperature, generators)  # (B,)
        yield ids
        new = ids.to(prompt.device)[:, None]  # (B, 1)
        context = torch.cat([context, new], dim=1)
        if context.size(1) > block_size:
            context = new = slide(context, keep, block_size)
            if cache is not None:
                cache.clear()


def complete(
    model: GPT,
    prompt: Sequence[int],
    *,
    eot: int | None,
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float,
    k: int | None,
    keep: int = 0,
    never: Sequence[int] = (),
) -> list[tuple[list[int], str]]:
    """One continuation of `prompt` per seed: (ids without the end-of-text, "end" or "length"). A
    model without an end-of-text, None, never ends by itself.

    The text of a seed does not depend on the other seeds.
    """
    was_training = model.training
    model.eval()
    start = torch.tensor([list(prompt)] * len(seeds), device=model.lm_head.weight.device)  # (B, T)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    songs: list[list[int]] = [[] for _ in seeds]
    ended = [False] * len(seeds)
    for ids in tokens(
        model,
        start,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        k=k,
        generators=generators,
        keep=keep,
        never=never,
    ):
        for i, token in enumerate(ids.tolist()):
            ended[i] = ended[i] or token == eot
            if not ended[i]:
                songs[i].append(token)
        if all(ended):
            break
    model.train(was_training)
    return [(song, "end" if end else "length") for song, end in zip(songs, ended, strict=True)]
