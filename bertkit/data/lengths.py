"""How long texts are in tokens, and what each limit would cut off them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 99
"""Per cent of rows that the proposed length leaves whole."""
SHORTEST = 8
"""Upper end of the histogram's first bin; each next is twice it."""
LIMITS = (32, 64, 128, 256, 384, 512, 1024, 2048, 4096, 8192)
"""Lengths at which it is said what they would cut."""
USUAL = 128
"""The limit where none is set."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Rows of about one length."""

    least: int
    most: int
    """Tokens, both ends included."""
    rows: int


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What a length limit would cut, were the texts truncated there."""

    limit: int
    """Tokens, special ones included."""
    rows: int
    share_of_rows: float
    share_of_tokens: float


def histogram(lengths: Sequence[int]) -> list[Bin]:
    """Return the rows by length, in bins that double: 0 to 8 tokens, 9 to 16, 17 to 32, ..."""
    bins: list[Bin] = []
    least, most = 0, SHORTEST
    while lengths and least <= max(lengths):
        bins.append(Bin(least=least, most=most, rows=sum(least <= length <= most for length in lengths)))
        least, most = most + 1, most * 2
    return bins


def cuts(lengths: Sequence[int], limits: Sequence[int]) -> list[Cut]:
    """Return what each limit cuts, up to the first from :data:`USUAL` on that cuts nothing."""
    found = []
    for limit in sorted(set(limits)):
        longer = [length for length in lengths if length > limit]
        found.append(
            Cut(
                limit=limit,
                rows=len(longer),
                share_of_rows=len(longer) / len(lengths),
                share_of_tokens=(sum(longer) - limit * len(longer)) / max(1, sum(lengths)),
            )
        )
        if not longer and limit >= USUAL:
            break
    return found


def keeping(lengths: Sequence[int], percent: int = KEPT) -> int:
    """Return the least length that leaves this share of rows whole."""
    return sorted(lengths)[-(-len(lengths) * percent // 100) - 1]
