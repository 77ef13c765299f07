"""Which tokens of a text that is too long a feature shows: its start, its start and end, or overlapping windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def segments(encoding: Any) -> list[list[int]]:
    """Return the positions of the text and, if there is one, of its pair, special tokens left out."""
    places: dict[int, list[int]] = {0: []}
    for position, segment in enumerate(encoding.sequence_ids):
        if segment is not None:
            places.setdefault(segment, []).append(position)
    return [places[key] for key in sorted(places)]


def positions(encoding: Any, kept: set[int]) -> list[int]:
    """Return the positions in ``kept`` and those of the special tokens, in order."""
    return [p for p, segment in enumerate(encoding.sequence_ids) if segment is None or p in kept]


def head(segment: Sequence[int], size: int) -> Sequence[int]:
    """Keep the first ``size`` positions."""
    return segment[:size]


def head_tail(segment: Sequence[int], size: int) -> Sequence[int]:
    """Keep a quarter of the room from the start and the rest from the end (arXiv:1905.05583, 5.3.1)."""
    if len(segment) <= size:
        return segment
    first = size // 4
    return [*segment[:first], *segment[len(segment) - (size - first) :]]


CUTS = {"truncate": head, "head-tail": head_tail}
"""``on_long`` -> what it keeps of a segment."""


def slide(length: int, width: int, overlap: int) -> Iterator[range]:
    """Yield ranges of at most ``width`` items, each sharing ``overlap`` with the one before, that cover ``length``."""
    step = max(1, width - overlap)
    for start in range(0, max(1, length), step):
        yield range(start, min(length, start + width))
        if start + width >= length:
            return


def owners(windows: Sequence[range]) -> np.ndarray:
    """Return, for each item, the window that shows the most context around it: BERT's max-context rule.

    It is the one with the larger smaller side, the first of equals; a longer window wins by a hundredth of its length
    (google-research/bert, ``run_squad.py``).

    Args:
        windows: ranges that cover 0 to the last one's end.

    Returns:
        ``(length,)`` int64, indices into ``windows``.
    """
    import numpy as np

    best = np.full(windows[-1].stop, -1.0)
    owner = np.zeros(windows[-1].stop, dtype=np.int64)
    for index, window in enumerate(windows):
        items = np.arange(window.start, window.stop)
        context = np.minimum(items - window.start, window.stop - 1 - items) + 0.01 * len(window)
        more = items[context > best[window.start : window.stop]]
        best[more] = context[more - window.start]
        owner[more] = index
    return owner


def longest_first(lengths: Sequence[int], room: int) -> list[int]:
    """Return how many tokens of one or two segments fit into ``room``, cutting the longer one first.

    The numbers are those of the tokenizers library's ``longest_first``.
    """
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    short, long = sorted(lengths)
    long = min(long, max(short, room - short))
    if short + long > room:
        short, long = room // 2, room - room // 2
    return [short, long] if lengths[0] <= lengths[1] else [long, short]
