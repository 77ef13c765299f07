"""Dealing rows to processes: each in one hand, and the hands about equally full."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertkit.data.dealing import deal, imbalance

SIZES = st.lists(st.integers(1, 512), max_size=60)


@given(sizes=SIZES, number=st.integers(1, 9))
def test_deal_puts_each_row_into_one_hand(sizes: list[int], number: int) -> None:
    hands = deal(sizes, number)
    assert len(hands) == number
    assert sorted(row for hand in hands for row in hand) == list(range(len(sizes)))
    assert all(hand == sorted(hand) for hand in hands)


@given(sizes=SIZES, number=st.integers(1, 9))
def test_deal_keeps_within_a_third_of_the_best(sizes: list[int], number: int) -> None:
    loads = [sum(sizes[row] for row in hand) for hand in deal(sizes, number)]
    # No deal can do better than the mean, the largest row, or two of the rows that must share a hand.
    ordered = sorted(sizes, reverse=True)
    pair = ordered[number - 1] + ordered[number] if len(sizes) > number else 0
    best = max([sum(sizes) / number, max(sizes, default=0), pair])
    assert max(loads) <= best * 4 / 3 + 1e-9 or max(loads) <= best + max(sizes)


def test_deal_balances_tokens_not_rows() -> None:
    assert deal([100, 10, 10, 10, 10, 10, 50], 2) == [[0], [1, 2, 3, 4, 5, 6]]
    assert imbalance([100, 10, 10, 10, 10, 10, 50], [[0], [1, 2, 3, 4, 5, 6]]) == 1.0


def test_imbalance_is_the_fullest_over_the_mean() -> None:
    assert imbalance([30, 10], [[0], [1]]) == pytest.approx(1.5)
    assert imbalance([30], [[0], [], []]) == 3.0
    assert imbalance([], [[], []]) == 1.0
