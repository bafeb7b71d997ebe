"""Generation: texts on their way, a token each a step, and the samplers.

    ids ─ context ─ prefill ─ decode ─ logits ─ [bias ─ never, forbidden ─ top-k ─ temperature ─
    top-p ─ min-p ─ draw] ─ token ─ ids

Samplers are pure functions, in that order. A row is one text. Rows may differ in length, take the
places of those that left, and be changed by whoever reads the tokens: said more, taken back, ended.

When the context of a row is full, half a block of it is kept, the header and the newest rest, and
read again. A model that cannot be cached reads its whole context for every token; the rule is the
same, and so are the tokens.

Letters: B rows, T time, V vocabulary, K candidates.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, islice

import torch

from backend.models.attention import KVCache
from backend.models.gpt import GPT

ROOM = 2**30  # bytes of keys and values: rows beyond that wait
MOST = 64  # rows at once
GREEDY = 1e-4  # below this, dividing by the temperature overflows rather than sharpens


# --- samplers ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn."""

    temperature: float = 1.0  # 0 takes the likeliest
    top_k: int | None = None  # only the k likeliest
    top_p: float = (
        1.0  # of these the likeliest that make up this probability (Holtzman, 1904.09751)
    )
    min_p: float = 0.0  # and this likely, measured by the likeliest (Nguyen et al., 2407.01082)
    never: Sequence[int] = ()  # ids that no text has


def forbid(logits: torch.Tensor, ids: Iterable[int]) -> torch.Tensor:
    """These ids are not drawn, unless nothing else is left. logits: (V,)."""
    left = logits.clone()
    left[list(ids)] = -torch.inf
    return left if left.max() > -torch.inf else logits


def top_k(logits: torch.Tensor, k: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The k likeliest of each row, in the order of their ids: logits and ids, (B, V) -> (B, K)."""
    B, V = logits.shape
    if k is None or k >= V:
        return logits, torch.arange(V, device=logits.device).expand(B, V)
    ids = logits.topk(k, sorted=False).indices.sort().values  # neighbours may tie: ids never do
    return logits.gather(1, ids), ids


def top_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """The likeliest that together reach probability p; the likeliest always. logits: (B, K)."""
    if p >= 1:
        return logits
    likely, order = logits.softmax(dim=-1).sort(descending=True, stable=True)  # (B, K)
    before = likely.cumsum(dim=-1) - likely  # of those that are likelier
    outside = (before >= p).scatter(1, order, before >= p)
    outside.scatter_(1, order[:, :1], False)
    return logits.masked_fill(outside, -torch.inf)


def min_p(logits: torch.Tensor, p: float) -> torch.Tensor:
    """Those at least p times as likely as the likeliest. logits: (B, K)."""
    if p <= 0:
        return logits
    likely = logits.softmax(dim=-1)
    return logits.masked_fill(likely < p * likely.amax(dim=-1, keepdim=True), -torch.inf)


def draw(logits: torch.Tensor, uniform: Sequence[float]) -> torch.Tensor:
    """One candidate per row, by the inverse of its distribution at uniform [0, 1).

    On the CPU and in double precision, so that a seed gives the same song on every device.

    Args:
        logits: (B, K)
    Returns:
        (B,) positions of the candidates
    """
    mass = logits.double().softmax(dim=-1).cumsum(dim=-1)  # (B, K)
    at = torch.tensor(uniform, dtype=torch.float64)[:, None] * mass[:, -1:]
    return torch.searchsorted(mass, at, right=True)[:, 0].clamp(max=logits.size(1) - 1)


def choose(logits: torch.Tensor, how: Sampling, rows: Sequence["Row"]) -> list[int]:
    """The next token of each row. logits: (B, V)."""
    logits = logits.float()
    biased = [i for i, row in enumerate(rows) if row.bias is not None or row.forbidden]
    if how.never or biased:
        logits = logits.clone()
    for i in biased:
        if (bias := rows[i].bias) is not None:
            logits[i] += bias.to(logits.device)
    if how.never:
        logits[:, list(how.never)] = -torch.inf
    for i in biased:
        if forbidden := rows[i].forbidden.get(len(rows[i].ids)):
            logits[i] = forbid(logits[i], forbidden)
    if how.temperature < GREEDY:
        likeliest: list[int] = logits.argmax(dim=-1).tolist()
        return likeliest
    candidates, ids = (t.cpu() for t in top_k(logits, how.top_k))  # (B, K)
    candidates = min_p(top_p(candidates / how.temperature, how.top_p), how.min_p)
    at = draw(candidates, [row.draws.random() for row in rows])
    chosen: list[int] = ids.gather(1, at[:, None])[:, 0].tolist()
    return chosen


# --- the engine ----------------------------------------------------------------------------------


@dataclass(eq=False)
class Row:
    """One text on its way: ids, the prompt included, and what decides the next one."""

    ids: list[int]
    seed: int
    left: int  # tokens that may still be drawn
    keep: int = 0  # leading ids that stay in the context when it slides
    bias: torch.Tensor | None = None  # (V,) added to the logits of the next token
    forbidden: dict[int, set[int]] = field(default_factory=dict)  # place -> ids not drawn there
    done: bool = False
    start: int = 0  # the context is ids[:keep] and ids[start:], or all ids where that is less
    cached: int = 0  # tokens of the context whose keys and values are kept

    def __post_init__(self) -> None:
        self.draws = random.Random(self.seed)  # the same on every machine and device

    def context(self) -> list[int]:
        """What the model reads."""
        slid = self.start > self.keep
        return self.ids[: self.keep] + self.ids[self.start :] if slid else self.ids

    def fit(self, block_size: int) -> None:
        """Slide where the context is longer than the block."""
        if len(self.ids) - max(self.start - self.keep, 0) > block_size:
            half = max(1, block_size // 2)
            self.keep = min(self.keep, half // 2)  # a longer header must not push the song out
            self.start = len(self.ids) - half + self.keep
            self.cached = 0

    def say(self, ids: Iterable[int]) -> None:
        """Go on with these, which were not drawn."""
        self.ids += ids

    def take_back(self, n: int) -> None:
        """Forget the last n tokens, which were drawn, and what was forbidden behind them."""
        del self.ids[len(self.ids) - n :]
        self.left += n
        self.forbidden = {at: ids for at, ids in self.forbidden.items() if at <= len(self.ids)}
        if self.start >= len(self.ids):  # further back than the window reaches: begin a new one
            self.start = self.cached = 0
        self.cached = min(self.cached, len(self.context()) - 1)


class Reader:
    """The model and its cache: rows -> logits of their next tokens."""

    def __init__(self, model: GPT, at_once: int, length: int) -> None:
        self.model, self.block_size = model, model.config.block_size
        config, weight = model.config, model.transformer.wte.weight
        self.at_once, self.device = at_once, weight.device
        # whole where the weight is sharded
        like = torch.empty(0, dtype=weight.dtype, device=self.device)
        self.cache: KVCache | None = None
        if model.cacheable:
            self.cache = KVCache(config, at_once, like, min(length, self.block_size))

    def read(self, rows: Sequence[Row]) -> torch.Tensor:
        """Logits (B, V) of the token after each row's context, at most `at_once` of them."""
        for row in rows:
            row.fit(self.block_size)
        contexts = [row.context() for row in rows]
        if self.cache is None:
            return self._whole(contexts)
        longest = max(map(len, contexts))
        if longest > self.cache.k.size(3):  # more was said than was to be drawn
            self.cache.widen(min(2 * longest, self.block_size))
        for (cached, behind), group in groupby(
            range(len(rows)), lambda i: (rows[i].cached, len(contexts[i]) > rows[i].cached + 1)
        ):
            if behind:  # all but the newest token, which all rows read together
                self._prefill([*group], cached, contexts)
        for row, context in zip(rows, contexts, strict=True):
            row.cached = len(context)
        logits = self._forward(0, [context[-1:] for context in contexts], contexts)
        return logits[:, -1]

    @torch.inference_mode()  # as its keys and values were made, once they had to be widened
    def move(self, source: int, target: int, row: Row) -> None:
        """The row at place `source` goes to a place that has become free."""
        if self.cache is not None and source != target:
            self.cache.move(source, target, row.cached)

    def _prefill(self, places: list[int], cached: int, contexts: list[list[int]]) -> None:
        """Rows side by side that hold equally many tokens. What fills up the shorter ones comes
        behind their own tokens, which never see it, and is overwritten."""
        assert self.cache is not None
        mine = [contexts[i] for i in places]
        alike = cached == 0 and all(context == mine[0] for context in mine)  # samples of one prompt
        new = [context[cached:-1] for context in (mine[:1] if alike else mine)]
        self._forward(places[0], new, [context[: cached + 1] for context in mine[: len(new)]])
        for place in places[1:] * alike:
            self.cache.move(places[0], place, len(new[0]))

    def _forward(self, first: int, new: list[list[int]], upto: list[list[int]]) -> torch.Tensor:
        """Read the new tokens of the rows from place `first` on; `upto` ends with the first new
        one of each."""
        assert self.cache is not None
        cache = self.cache.rows(first, first + len(new))
        cache.hold([len(context) - 1 for context in upto])
        if self.model.config.bigram:
            before = [[context[-2] if len(context) > 1 else -1] for context in upto]
            cache.last = torch.tensor(before, device=self.device)  # (B, 1)
        longest = max(map(len, new))
        idx = [ids + [0] * (longest - len(ids)) for ids in new]
        logits: torch.Tensor = self.model(
            torch.tensor(idx, device=self.device), cache=cache, last=True
        )[0]
        return logits  # (B, 1, V)

    def _whole(self, contexts: list[list[int]]) -> torch.Tensor:
        """Without a cache: contexts of one length together, for their length decides."""
        by_length = defaultdict(list)
        for i, context in enumerate(contexts):
            by_length[len(context)].append(i)
        logits: list[torch.Tensor] = [torch.empty(0)] * len(contexts)
        for places in by_length.values():
            idx = torch.tensor([contexts[i] for i in places], device=self.device)  # (b, T)
            for i, row in zip(places, self.model(idx, last=True)[0][:, -1], strict=True):
                logits[i] = row
        return torch.stack(logits)  # (B, V)


def room(model: GPT) -> int:
    """How many rows may be worked on together."""
    config, size = model.config, model.transformer.wte.weight.element_size()
    a_row = 2 * config.n_layer * config.block_size * config.n_embd * size
    return max(1, min(MOST, ROOM // a_row))


def generate(
    model: GPT, rows: Iterable[Row], how: Sampling, *, at_once: int | None = None
) -> Iterator[tuple[Row, int]]:
    """Draw tokens until every row is done or has none left.

    Yields (row, token) when the token has just been put to the row's ids: the reader may now end
    the row, take tokens back, or say more. What a row gets does not depend on the others, but for
    the rounding of their common products.

    Args:
        rows: of at least one id each; taken up as places become free.
        at_once: rows that are worked on together; None is as many as there is room for.
    """
    was_training = model.training
    model.eval()
    waiting, live = iter(rows), list[Row]()
    first = list(islice(waiting, at_once or room(model)))
    if not first:
        return
    # what each may come to, as far as one can know
    longest = max(len(row.ids) + row.left for row in first)
    reader = Reader(model, len(first), longest)
    waiting = (row for row in chain(first, waiting) if not row.done and row.left > 0)
    try:
        while True:
            for place in reversed(range(len(live))):
                if live[place].done or live[place].left <= 0:
                    reader.move(len(live) - 1, place, live[-1])
                    live[place] = live[-1]
                    live.pop()
            live += islice(waiting, reader.at_once - len(live))
            if not live:
                return
            with torch.inference_mode():
                tokens = choose(reader.read(live), how, live)
            for row, token in zip(live, tokens, strict=True):
                row.ids.append(token)
                row.left -= 1
                yield row, token
    finally:
        model.train(was_training)


def complete(
    model: GPT,
    prompt: Sequence[int],
    how: Sampling,
    *,
    eot: int | None,
    seeds: Sequence[int],
    max_new_tokens: int,
    keep: int = 0,
) -> list[tuple[list[int], str]]:
    """One continuation of `prompt` per seed: (ids without the end-of-text, "end" or "length"). A
    model without an end-of-text, None, never ends by itself."""
    rows = [Row([*prompt], seed, left=max_new_tokens, keep=keep) for seed in seeds]
    for row, token in generate(model, rows, how):
        if token == eot:
            row.done = True
    return [
        (row.ids[len(prompt) : -1 if row.done else None], "end" if row.done else "length")
        for row in rows
    ]
