"""Kinds of attention: which scales and positions each allows, and why not the others.

    SM           softmax(q k / sqrt(hs)), as GPT-2
    GK           exp(-|q - k|^2 / 2 sqrt(hs)), the Gaussian kernel (Rho et al., ICLR 2025)
    GKpoly-<n>   (1 + s / 2^n)^(2^n) in place of exp(s): degree 2^n, n squarings
    PA_<f>       f(q k / sqrt(hs)) token by token, no softmax (Zimerman et al., 2311.08610)

The weights of a query are then divided by (attn_scale)

    none         nothing
    row          the number of tokens it sees
    row_sqrt     the root of that
    norm         their sum
    T            the length of the input, as Zimerman's code does: a longer input changes earlier
                 rows, so nothing can be cached

This is the one table of what goes with what; `models/attention.py` has the mathematics. Encryption
itself is not part of this project, and layer norms, GELU and the head are no polynomials.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

POSITIONS = ("learned", "rotary", "alibi")
SQUARINGS = 20  # the most that GKpoly-<n> may have


@dataclass(frozen=True)
class Kind:
    """One row of the table. Every kind may be cached but under scale T; Hugging Face's GPT-2 can
    express SM alone."""

    scales: tuple[str, ...]  # the first is the default
    no_scale: str = ""  # why not the others
    positions: tuple[str, ...] = POSITIONS
    no_position: str = ""


_FREE = ("none", "row", "row_sqrt", "norm", "T")
_POINTWISE = ("row", "none", "row_sqrt", "T")
KINDS = {
    "SM": Kind(("none",), "softmax sums to one already"),
    "GK": Kind(_FREE),
    "GKpoly": Kind(_FREE),
    "PA_gelu": Kind(_POINTWISE, "gelu gives negative weights, whose sum may be zero"),
    "PA_relu": Kind(_POINTWISE, "relu may give a row of zeros, whose sum is zero"),
    "PA_sigmoid": Kind((*_POINTWISE, "norm")),
    "PA_square": Kind(
        (*_POINTWISE, "norm"),
        positions=("learned", "rotary"),
        no_position="a square grows where ALiBi's penalty should make far tokens fade",
    ),
    "PA_relu-square": Kind(_POINTWISE, "relu may give a row of zeros, whose sum is zero"),
}


def squarings(attn_type: str) -> int | None:
    """n of GKpoly-<n>; None for other kinds."""
    match = re.fullmatch(r"GKpoly-([1-9][0-9]?)", attn_type)
    n = int(match[1]) if match else SQUARINGS + 1
    return n if n <= SQUARINGS else None


def kind_of(attn_type: str) -> Kind | None:
    """The row of an attn_type; None where there is no such kind."""
    if attn_type.startswith("GKpoly"):
        return KINDS["GKpoly"] if squarings(attn_type) else None
    return KINDS.get(attn_type)


def default_scale(attn_type: str) -> str | None:
    """What attn_scale is where nobody says it; None where there is no such kind."""
    kind = kind_of(attn_type)
    return kind.scales[0] if kind else None


def problems(attn_type: str, attn_scale: str | None, position: str) -> Iterator[str]:
    """What does not go together, one sentence each."""
    kind = kind_of(attn_type)
    if kind is None:
        known = ", ".join(KINDS).replace("GKpoly", f"GKpoly-<1 to {SQUARINGS}>")
        yield f"attn_type = {attn_type!r} is none of {known}"
        return
    if attn_scale is not None and attn_scale not in kind.scales:
        yield (
            f"attn_scale = {attn_scale} does not go with attn_type = {attn_type}: "
            f"{kind.no_scale}; it may be {', '.join(kind.scales)}"
        )
    if position not in kind.positions:
        yield (
            f"position = {position} does not go with attn_type = {attn_type}: "
            f"{kind.no_position}; it may be {', '.join(kind.positions)}"
        )
