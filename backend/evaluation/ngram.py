"""An interpolated n-gram model of token ids: what a model must beat to know more than spelling.

    P(w | h) = max(c(h w) - D, 0) / c(h) + D n(h) / c(h) * P(w | h without its first token)

c counts n-grams of the highest order; below it, by how many different tokens an n-gram is preceded
(Kneser & Ney 1995, interpolated by Chen & Goodman 1999). n(h) is the number of different tokens
after h, D = n1 / (n1 + 2 n2) of each order, and below all of them every token is equally likely.

An order is a sorted array of keys, context id * V + token, where the context's id is its own place
in the order below: arrays alone, 20 bytes for each different n-gram.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TRIES = 50  # to draw a token that is allowed, where hardly any other was ever seen


class Order(NamedTuple):
    """n-grams of one length."""

    keys: Ids  # (n,) sorted: context id * V + token
    heaped: Floats  # (n+1,) discounted counts of all before
    starts: npt.NDArray[np.int32]  # (contexts+1,) where the n-grams of a context begin
    discount: float

    def find(self, contexts: Ids, ids: Ids, V: int) -> Ids:
        """Places of n-grams, -1 where there is none; context -1 has none."""
        wanted = contexts * V + ids
        places = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return np.where((self.keys[places] == wanted) & (contexts >= 0), places, -1)

    def total(self, contexts: Ids) -> tuple[Ids, Ids, Floats]:
        """(first n-gram, one past the last, c(h)) of each context; nothing for -1."""
        first = np.where(contexts >= 0, self.starts[contexts], 0)
        last = np.where(contexts >= 0, self.starts[contexts + 1], 0)
        return first, last, self.heaped[last] - self.heaped[first] + self.discount * (last - first)


class NGram:
    """Trained when it is made."""

    def __init__(self, tokens: npt.NDArray[np.integer], vocab_size: int, n: int = 5) -> None:
        """tokens: (N,) the stream, N at least 1; about 40 bytes of memory for each meanwhile."""
        import torch  # here alone: the flow reads what was scored before, and never loads torch

        self.vocab_size, self.n = vocab_size, n
        self.orders: list[Order] = []
        ids = np.zeros(len(tokens) + 1, np.int32)  # of the n-gram that ends at each position
        keys = counts = np.zeros(0, np.int64)
        contexts = 1
        for m in range(1, n + 1):
            if len(ids) < 2:  # fewer tokens than that
                break
            wanted = ids[:-1] * np.int64(vocab_size) + tokens[m - 1 :]
            # torch's radix sort takes a seventh of the time of numpy's; np.unique twice the memory
            ordered, places = torch.from_numpy(wanted).sort(stable=True)
            wanted, order = ordered.numpy(), places.numpy()
            firsts = np.flatnonzero(np.diff(wanted, prepend=-1))
            if m > 1:  # how many different tokens stand before each shorter n-gram
                before = np.bincount(ids[1:][order[firsts]], minlength=len(keys))
                self._add(keys, np.maximum(before, 1), contexts)
                contexts = len(keys)
            counts = np.diff(firsts, append=len(wanted))
            ids = np.empty(len(wanted), np.int32)
            ids[order] = np.repeat(np.arange(len(firsts), dtype=np.int32), counts)
            keys = wanted[firsts]
        self._add(keys, counts, contexts)

    def _add(self, keys: Ids, counts: Ids, contexts: int) -> None:
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        discount = once / (once + 2 * twice) if once and twice else 0.5
        heaped = np.append(0.0, np.cumsum(counts - discount))
        bounds = np.arange(contexts + 1, dtype=np.int64) * self.vocab_size
        starts = np.searchsorted(keys, bounds).astype(np.int32)
        self.orders.append(Order(keys, heaped, starts, discount))

    def nats(self, tokens: npt.NDArray[np.integer]) -> Floats:
        """-ln P of each token of a stream, given the n-1 before it: (N,)."""
        ids = tokens.astype(np.int64)
        likely = np.full(len(ids), 1 / self.vocab_size)
        contexts = np.zeros(len(ids), np.int64)
        for order in self.orders:
            first, last, total = order.total(contexts)
            places = order.find(contexts, ids, self.vocab_size)
            own = np.where(places >= 0, order.heaped[places + 1] - order.heaped[places], 0.0)
            known = last > first
            mixed = (own + order.discount * (last - first) * likely) / np.where(known, total, 1)
            likely = np.where(known, mixed, likely)
            contexts = np.append(-1, places[:-1])
        nats: Floats = -np.log(likely)
        return nats

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        lengths: Sequence[int],
        *,
        seed: int,
        never: Sequence[int] = (),
    ) -> list[list[int]]:
        """A continuation of each prompt, of so many tokens.

        Args:
            never: ids that are not drawn; they take no part in how likely the others are.
        """
        draw = np.random.default_rng(seed)
        V, B = self.vocab_size, len(prompts)
        states = [np.zeros(B, np.int64), *(np.full(B, -1) for _ in self.orders[1:])]

        def step(ids: Ids) -> None:
            for m in range(len(states) - 1, 0, -1):
                states[m] = self.orders[m - 1].find(states[m - 1], ids, V)

        for back in range(self.n, 0, -1):
            step(np.array([p[-back] if back <= len(p) else -1 for p in prompts], np.int64))
        allowed = np.setdiff1d(np.arange(V), never)
        written = np.empty((max(lengths, default=0), B), np.int64)
        for row in written:
            row[:] = -1
            for _ in range(TRIES):
                if not (open_ := row < 0).any():
                    break
                for m in range(len(self.orders) - 1, -1, -1):
                    order = self.orders[m]
                    first, last, total = order.total(states[m])
                    lower = draw.random(B) * total < order.discount * (last - first)
                    here = open_ & ~lower & (last > first)
                    mass = order.heaped[first] + draw.random(B) * (
                        order.heaped[last] - order.heaped[first]
                    )
                    place = np.searchsorted(order.heaped, mass, side="right") - 1
                    ids = order.keys[place.clip(first, np.maximum(last - 1, 0))] % V
                    row[here] = ids[here]
                    open_ &= ~here
                row[open_] = draw.choice(allowed, int(open_.sum()))
                row[np.isin(row, never)] = -1
            row[row < 0] = draw.choice(allowed, int((row < 0).sum()))
            step(row)
        return [written[:length, i].tolist() for i, length in enumerate(lengths)]
