"""Dealing a step's rows, or whole batches, to several processes, so that each has about the same tokens."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np


def deal(sizes: Sequence[int] | np.ndarray, number: int) -> list[list[int]]:
    """Deal things of some sizes to ``number`` hands: the largest first, each to the hand that holds least.

    Longest processing time first (Graham 1969): no hand exceeds the best possible most by more than a third.

    Args:
        sizes: of each thing, at least 0.
        number: of hands.

    Returns:
        For each hand the indices of its things, rising; each index in one hand.
    """
    hands: list[list[int]] = [[] for _ in range(number)]
    # Among equals the hand with fewer things, then the first: a function of the sizes alone.
    loads = [(0, 0, hand) for hand in range(number)]
    for index in np.argsort(-np.asarray(sizes, dtype=np.int64), kind="stable").tolist():
        load, count, hand = heapq.heappop(loads)
        hands[hand].append(index)
        heapq.heappush(loads, (load + int(sizes[index]), count + 1, hand))
    return [sorted(hand) for hand in hands]


def imbalance(sizes: Sequence[int] | np.ndarray, hands: Sequence[Sequence[int]]) -> float:
    """Return what the fullest hand holds over the mean of all; 1 is even, the number of hands is one for all."""
    loads = [sum(int(sizes[index]) for index in hand) for hand in hands]
    return max(loads) * len(loads) / sum(loads) if sum(loads) else 1.0
