"""Lengths in tokens, in bins and against limits."""

from __future__ import annotations

import pytest

from bertkit.data.lengths import cuts, histogram, keeping


def test_histogram_has_bins_that_double() -> None:
    found = [(b.least, b.most, b.rows) for b in histogram([2, 8, 9, 16, 17, 40])]
    assert found == [(0, 8, 2), (9, 16, 2), (17, 32, 1), (33, 64, 1)]
    assert histogram([]) == []


def test_cuts_count_rows_and_tokens_past_each_limit() -> None:
    found = {cut.limit: cut for cut in cuts([10, 20, 70, 100], [32, 64, 128, 512])}
    assert list(found) == [32, 64, 128]
    assert (found[32].rows, found[32].share_of_rows) == (2, 0.5)
    assert found[32].share_of_tokens == pytest.approx((38 + 68) / 200)
    assert (found[64].rows, found[64].share_of_tokens) == (2, pytest.approx(42 / 200))
    assert found[128].rows == 0


def test_length_that_keeps_99_in_100() -> None:
    assert keeping(list(range(1, 101))) == 99
    assert keeping(list(range(1, 202))) == 199
    assert keeping([5]) == 5
    assert keeping([1] * 98 + [50, 60]) == 50
