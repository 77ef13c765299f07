"""What says the label without the text being understood."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bertkit.data.giveaways import decisive_columns, decisive_words, is_sorted

NUMBER = 200
TRUTHS = random.Random(0).choices(["bad", "good"], k=NUMBER)


def columns(truths: Any = TRUTHS, read: Any = None, **cells: list[Any]) -> dict[str, float]:
    rows = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
    return {found.name: found.right for found in decisive_columns(rows, truths, read or {})}


def test_rows_sorted_by_label_are_told() -> None:
    assert is_sorted(sorted(TRUTHS)).startswith("the label changes 1 times from row to row, in a random order about ")
    blocks = ["a"] * 50 + ["b"] * 50 + ["a"] * 50
    assert is_sorted(blocks).startswith("the label changes 2 times")


def test_random_and_alternating_orders_are_not_sorted() -> None:
    assert is_sorted(TRUTHS) == is_sorted(["a", "b"] * 50) == ""


def test_few_rows_one_label_and_a_single_odd_row_say_nothing() -> None:
    assert is_sorted(["a"] * 10 + ["b"] * 10) == is_sorted(["a"] * 100) == is_sorted(["a"] * 99 + ["b"]) == ""


def test_rows_sorted_by_a_number_are_told() -> None:
    numbers = [random.Random(0).random() for _ in range(100)]
    mixed = [random.Random(n).random() for n in range(100)]
    assert is_sorted([n / 10 for n in range(100)]) == "row number and value have a rank correlation of 1.00"
    assert "of -1.00" in is_sorted([-n / 10 for n in range(100)])
    assert is_sorted(mixed) == is_sorted(numbers) == ""


def test_column_that_repeats_the_label_under_other_names_is_found() -> None:
    assert columns(verdict=[truth.upper() for truth in TRUTHS]) == {"verdict": 1.0}
    assert columns(nested=[{"x": truth} for truth in TRUTHS]) == {"nested": 1.0}


def test_column_of_numbers_that_the_label_was_cut_from_is_found() -> None:
    rng = random.Random(1)
    assert columns(score=[rng.random() + (truth == "good") for truth in TRUTHS])["score"] >= 0.98


def test_columns_that_say_little_are_left_alone() -> None:
    rng = random.Random(1)
    noise = [rng.choice("xyz") for _ in TRUTHS]
    mostly = [truth if rng.random() < 0.9 else "bad" for truth in TRUTHS]
    assert columns(id=[f"row {n}" for n in range(NUMBER)], number=list(range(NUMBER)), noise=noise, mostly=mostly) == {}


def test_pairs_of_rows_with_a_common_value_do_not_look_decisive() -> None:
    """With two rows a value, the commoner label of a value is right in three of four rows by chance."""
    assert columns(group=[n // 2 for n in range(NUMBER)]) == {}


def test_column_that_is_right_where_nearly_all_have_one_label_says_nothing() -> None:
    truths = ["a"] * 196 + ["b"] * 4
    assert columns(truths, group=["x"] * 100 + ["y"] * 100) == {}


def test_text_that_the_model_reads_counts_where_few_values_repeat() -> None:
    repeated = [f"{truth} {n % 20}" for n, truth in enumerate(TRUTHS)]
    assert columns(text=repeated, read={"text": "text"}) == {}
    assert columns(text=TRUTHS, read={"text": "text"}) == {"text": 1.0}


def test_column_that_says_a_number_is_found() -> None:
    truths = [float(n % 5) for n in range(NUMBER)]
    assert columns(truths, stars=[f"{n % 5} stars" for n in range(NUMBER)], odd=[n % 2 for n in range(NUMBER)]) == {
        "stars": pytest.approx(1.0)
    }


def words(texts: list[str], truths: Any = TRUTHS) -> list[tuple[str, str]]:
    return [(found.word, found.label) for found in decisive_words([{"text": text} for text in texts], truths)]


def test_word_that_only_one_label_has_is_found() -> None:
    texts = [f"a text, {'Truly' if truth == 'good' else 'so'} it is" for truth in TRUTHS]
    assert sorted(words(texts)) == [("so", "bad"), ("truly", "good")]


def test_word_that_is_frequent_in_one_label_only_is_no_giveaway() -> None:
    rng = random.Random(2)
    assert words(["fine" if truth == "good" and rng.random() < 0.7 else "text" for truth in TRUTHS]) == []


def test_word_of_a_rare_label_is_no_giveaway() -> None:
    truths = ["a"] * 190 + ["b"] * 10
    assert words(["x"] * 190 + ["y"] * 10, truths) == []


def test_numbers_have_no_words() -> None:
    assert words(["high" if n % 2 else "low" for n in range(NUMBER)], [float(n % 2) for n in range(NUMBER)]) == []
