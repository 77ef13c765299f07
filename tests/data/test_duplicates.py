"""Rows that are there twice: where, how often, how they are labelled."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pytest

from bertkit.data import duplicates
from bertkit.data.duplicates import Overlap, Row, conflicts, overlaps, unsearched

LONG = "this film was made with so much care that nobody who sees it will ask for the money back"
NEAR = LONG.replace("nobody", "no one")


def rows(name: str, *texts: str | tuple[str, ...], truths: Any = None) -> list[Row]:
    pairs = zip(texts, truths or [None] * len(texts), strict=True)
    return [Row(f"{name}:{n}", (t,) if isinstance(t, str) else t, truth) for n, (t, truth) in enumerate(pairs, start=1)]


def found(**splits: list[Row]) -> dict[tuple[str, str], Overlap]:
    return {(overlap.split, overlap.of): overlap for overlap in overlaps(splits)}


def counts(**splits: list[Row]) -> dict[tuple[str, str], tuple[int, int]]:
    return {key: (overlap.exact, overlap.near) for key, overlap in found(**splits).items()}


def test_duplicates_within_a_split_name_the_first_row() -> None:
    (overlap,) = overlaps({"train": rows("train", "good", "bad", "good", "good")})
    assert (overlap.split, overlap.of, overlap.exact, overlap.near) == ("train", "train", 2, 0)
    assert [(pair.row, pair.like, pair.exact) for pair in overlap.pairs] == [
        ("train:3", "train:1", True),
        ("train:4", "train:1", True),
    ]


def test_duplicates_across_splits_count_against_the_later_one() -> None:
    assert counts(train=rows("train", "a", "b"), validation=rows("validation", "b", "c"), test=rows("test", "c")) == {
        ("validation", "train"): (1, 0),
        ("test", "validation"): (1, 0),
    }


def test_near_duplicates_have_their_similarity_and_places() -> None:
    overlap = found(train=rows("train", "other", LONG), validation=rows("dev", NEAR))["validation", "train"]
    (pair,) = overlap.pairs
    assert (overlap.exact, overlap.near) == (0, 1)
    assert (pair.row, pair.like, pair.exact) == ("dev:1", "train:2", False)
    assert 0.8 <= pair.similarity < 1
    assert (pair.text, pair.like_text) == (NEAR, LONG)


def test_case_and_punctuation_make_a_near_duplicate_of_any_length() -> None:
    assert counts(train=rows("train", "Good!", "good", "goods")) == {("train", "train"): (0, 1)}


def test_exact_match_goes_before_a_near_one() -> None:
    overlap = found(train=rows("train", NEAR, LONG), validation=rows("dev", LONG))["validation", "train"]
    assert [(pair.like, pair.exact) for pair in overlap.pairs] == [("train:2", True)]


def test_likest_of_several_is_named() -> None:
    farther = f"{LONG} and then"
    overlap = found(train=rows("train", farther, LONG), test=rows("test", f"{LONG} a"))["test", "train"]
    assert [pair.like for pair in overlap.pairs] == ["train:2"]
    overlap = found(train=rows("train", farther), test=rows("test", f"{LONG} a"))["test", "train"]
    assert [pair.like for pair in overlap.pairs] == ["train:1"]


def test_every_text_of_a_row_must_be_alike() -> None:
    """Many questions about one context are no duplicates; one question about two contexts is none either."""
    train = rows("train", ("Who was it?", LONG), ("When was it?", LONG), ("Who was it?", "another context"))
    assert counts(train=train) == {}
    assert counts(train=[*train, *rows("more", ("Who was it", NEAR))]) == {("train", "train"): (0, 1)}


def test_empty_rows_are_no_duplicates_of_each_other() -> None:
    assert counts(train=rows("train", "", " ", "")) == {}


def test_punctuation_alone_is_compared_as_it_is() -> None:
    assert counts(train=rows("train", ":)", ":(", "???")) == {}


def test_duplicates_with_another_label_are_counted() -> None:
    train, dev = rows("train", "a", LONG, truths=["x", "y"]), rows("dev", "a", NEAR, "b", truths=["y", "x", "x"])
    overlap = found(train=train, validation=dev)["validation", "train"]
    assert (overlap.exact, overlap.near, overlap.relabelled, overlap.num_rows) == (1, 1, 2, 3)
    assert [pair.same_label for pair in overlap.pairs] == [False, False]
    unlabelled = found(train=train, test=rows("test", "a"))["test", "train"]
    assert (unlabelled.relabelled, unlabelled.pairs[0].same_label) == (0, None)


def test_shown_pairs_are_bounded_and_counts_are_not() -> None:
    (overlap,) = overlaps({"train": rows("train", *["same"] * 10)}, shown=3)
    assert (overlap.exact, len(overlap.pairs)) == (9, 3)


def contradicting(*truths: Hashable) -> list[list[str]]:
    return [found.labels for found in conflicts({"train": rows("train", *["same"] * len(truths), truths=truths)})]


def test_conflict_names_rows_of_all_splits_and_their_labels() -> None:
    splits = {
        "train": rows("train", "a", "b", "a", truths=["x", "x", "x"]),
        "test": rows("test", "a", "b", truths=["y", "x"]),
    }
    (conflict,) = conflicts(splits)
    assert (conflict.text, conflict.rows, conflict.labels) == ("a", ["train:1", "train:3", "test:1"], ["x", "x", "y"])


def test_numbers_contradict_each_other_where_they_are_far_apart() -> None:
    ends = {"test": rows("test", "low", "high", truths=[0.0, 5.0])}
    near = rows("train", "same", "same", truths=[4.0, 4.4])
    far = rows("train", "same", "same", truths=[4.0, 4.6])
    assert conflicts({"train": near, **ends}) == []
    assert [found.labels for found in conflicts({"train": far, **ends})] == [["4", "4.6"]]


def test_answers_contradict_each_other_where_none_is_common() -> None:
    one, two, none = frozenset({"one"}), frozenset({"one", "two"}), frozenset()
    assert contradicting(one, two) == contradicting(none, none) == []
    assert contradicting(one, none) == [["one", "no answer"]]
    assert contradicting(one, frozenset({"two"})) == [["one", "two"]]


def test_rows_without_a_label_or_a_text_contradict_nothing() -> None:
    assert contradicting("x", None) == []
    assert conflicts({"train": rows("train", "", "", truths=["x", "y"])}) == []


def test_texts_beyond_the_bound_are_counted_and_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": rows("train", "one", "two", LONG), "validation": rows("dev", NEAR, "two!")}
    assert unsearched(splits) == 0
    monkeypatch.setattr(duplicates, "MOST_TEXTS", 3)
    assert unsearched(splits) == 1
    assert counts(**splits) == {("validation", "train"): (0, 1)}
