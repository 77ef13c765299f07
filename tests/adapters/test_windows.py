"""Which tokens of a long text are shown: windows that cover it, and who owns what two of them show."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertkit.adapters.windows import CUTS, head, head_tail, longest_first, owners, positions, segments, slide
from tests.adapters.test_sequence_classification import text, tokenizer


@given(length=st.integers(0, 120), width=st.integers(1, 40), overlap=st.integers(0, 39))
def test_slide_covers_everything_with_the_overlap_that_is_asked(length: int, width: int, overlap: int) -> None:
    overlap = min(overlap, width - 1)
    found = list(slide(length, width, overlap))
    assert sorted({item for window in found for item in window}) == list(range(length))
    assert all(len(window) == width for window in found[:-1])
    assert 0 <= len(found[-1]) <= width
    assert [len(range(other.start, one.stop)) for one, other in pairwise(found)] == [overlap] * (len(found) - 1)
    assert [window.stop for window in found if window.stop == length] == [length], "no window after the last item"


def test_slide_of_nothing_is_one_empty_window() -> None:
    assert list(slide(0, 10, 3)) == [range(0)]


def test_slide_by_hand() -> None:
    assert list(slide(10, 4, 1)) == [range(4), range(3, 7), range(6, 10)]
    assert list(slide(10, 10, 1)) == [range(10)]
    assert list(slide(11, 10, 1)) == [range(10), range(9, 11)]


@pytest.mark.parametrize("overlap", [4, 5, 100])
def test_slide_goes_on_though_the_overlap_is_as_wide_as_the_window(overlap: int) -> None:
    assert list(slide(6, 4, overlap)) == [range(4), range(1, 5), range(2, 6)]


def is_max_context(windows: list[range], which: int, item: int) -> bool:
    """Say whether no window shows more around an item: the original's function of that name, in other words.

    Of each window that shows the item, count what stands to its left and to its right in it. The smaller count, with a
    hundredth of the window's length added, is what the window is worth; the first of the most worthy has the item.
    """
    champion, record = None, None
    for number, window in enumerate(windows):
        last = window.start + len(window) - 1
        if not window.start <= item <= last:
            continue
        worth = min(item - window.start, last - item) + 0.01 * len(window)
        if record is None or worth > record:
            champion, record = number, worth
    return champion == which


@given(length=st.integers(1, 90), width=st.integers(1, 30), overlap=st.integers(0, 29))
def test_owners_are_those_of_the_original_rule(length: int, width: int, overlap: int) -> None:
    windows = list(slide(length, width, min(overlap, width - 1)))
    owner = owners(windows)
    assert owner.shape == (length,)
    for item in range(length):
        having = [number for number in range(len(windows)) if is_max_context(windows, number, item)]
        assert having == [owner[item]], "each item is owned exactly once"
        assert item in windows[owner[item]]


def test_owners_by_hand() -> None:
    # Item 3 has two to its right in the first window and one to its left in the second; item 4 the other way round.
    assert owners([range(6), range(2, 8)]).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    # One neighbour on the smaller side of item 3 in either: the first of equals.
    assert owners([range(5), range(2, 7)]).tolist() == [0, 0, 0, 0, 1, 1, 1]
    # None on the smaller side in either: the longer window.
    assert owners([range(4), range(3, 5)]).tolist() == [0, 0, 0, 0, 1]
    assert owners([range(2), range(1, 9)]).tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1]


def test_owners_of_one_empty_window_are_none() -> None:
    assert owners([range(0)]).tolist() == []


def test_segments_are_the_positions_of_text_and_pair() -> None:
    encoding = tokenizer()([text(2)], [text(3)]).encodings[0]
    assert segments(encoding) == [[1, 2], [4, 5, 6]]
    assert segments(tokenizer()([text(2)]).encodings[0]) == [[1, 2]]
    assert segments(tokenizer()([""]).encodings[0]) == [[]]


def test_positions_keep_special_tokens() -> None:
    encoding = tokenizer()([text(2)], [text(3)]).encodings[0]
    assert positions(encoding, {1, 5, 6}) == [0, 1, 3, 5, 6, 7]
    assert positions(encoding, set()) == [0, 3, 7]


@given(length=st.integers(0, 60), size=st.integers(0, 60))
def test_cuts_keep_as_much_as_there_is_room_for(length: int, size: int) -> None:
    segment = list(range(length))
    assert CUTS.keys() == {"truncate", "head-tail"}
    assert head(segment, size) == segment[:size]
    kept = list(head_tail(segment, size))
    if length <= size:
        assert kept == segment
        return
    assert len(kept) == size
    assert kept[: size // 4] == segment[: size // 4]
    assert kept[size // 4 :] == segment[length - (size - size // 4) :]


@given(first=st.integers(0, 40), second=st.integers(0, 40), room=st.integers(1, 90))
def test_longest_first_takes_from_the_longer_one(first: int, second: int, room: int) -> None:
    kept = longest_first([first, second], room)
    assert sum(kept) == min(first + second, room)
    assert kept[0] <= first
    assert kept[1] <= second
    assert longest_first([first], room) == [min(first, room)]
