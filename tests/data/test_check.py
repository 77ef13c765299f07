"""Faults of examples, told with file and line before anything heavy is loaded."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from bertkit.data import Dataset, Split
from bertkit.data.check import problems, require, unseen_labels
from bertkit.errors import DataError


def split(*examples: dict[str, Any], name: str = "train", lines: list[int] | None = None) -> Split:
    return Split(name=name, examples=list(examples), source="data/train.jsonl", lines=lines)


def odd(example: dict[str, Any]) -> list[str]:
    return [f"n is {example['n']}"] * (example["n"] % 2)


def balance(examples: list[dict[str, Any]]) -> dict[str, int]:
    return {"a": 0, "b": 0, "c": 0} | Counter(e["label"] for e in examples)


def test_problems_name_file_and_line() -> None:
    rows = split({"n": 0}, {"n": 1}, {"n": 3}, lines=[1, 5, 9])
    assert problems(rows, odd) == ["data/train.jsonl:5: n is 1", "data/train.jsonl:9: n is 3"]


def test_problems_of_a_source_without_lines_name_the_row_from_1() -> None:
    assert problems(split({"n": 0}, {"n": 1}), odd) == ["data/train.jsonl row 2: n is 1"]


def test_fault_that_ends_with_a_question_gets_no_full_stop() -> None:
    with pytest.raises(DataError, match=r"row 1: no 'a'\. Did you mean 'b'\?$"):
        require(split({"n": 0}), lambda example: ["no 'a'. Did you mean 'b'?"])


def test_good_rows_pass() -> None:
    require(split({"n": 0}, {"n": 2}), odd)


def test_empty_split_is_named() -> None:
    with pytest.raises(DataError, match=r"^data/train.jsonl is empty: the split 'train' has no rows\.$"):
        require(split(), odd)


def test_one_fault_is_told_without_a_count() -> None:
    with pytest.raises(DataError, match=r"^data/train.jsonl:118: n is 1\.$"):
        require(split({"n": 1}, lines=[118]), odd)


def test_several_faults_come_together_with_their_count() -> None:
    rows = split({"n": 1}, {"n": 0}, {"n": 3}, lines=[1, 2, 3])
    with pytest.raises(DataError) as caught:
        require(rows, odd)
    assert str(caught.value) == "data/train.jsonl:1: n is 1; data/train.jsonl:3: n is 3 (2 faults in 3 rows)."


def test_only_the_first_faults_of_many_are_named() -> None:
    with pytest.raises(DataError) as caught:
        require(split(*({"n": 1} for _ in range(1000))), odd)
    message = str(caught.value)
    assert message.count("n is 1") == 5
    assert message.endswith("(1000 faults in 1000 rows).")


def test_a_row_may_have_several_faults() -> None:
    with pytest.raises(DataError, match=r"2 faults in 1 rows"):
        require(split({"n": 0}), lambda example: ["one", "two"])


def labelled(**splits: str) -> Dataset:
    return Dataset(splits={name: split(*({"label": c} for c in labels), name=name) for name, labels in splits.items()})


def test_unseen_labels_are_counted_by_split() -> None:
    dataset = labelled(train="aab", validation="abcc", test="c", other="ab")
    assert unseen_labels(dataset, balance) == {"validation": {"c": 2}, "test": {"c": 1}}


def test_labels_that_only_train_has_are_in_order() -> None:
    assert unseen_labels(labelled(train="abc", validation="a"), balance) == {}


def test_rows_without_labels_are_not_unseen() -> None:
    assert unseen_labels(labelled(train="ab", test=""), balance) == {}
