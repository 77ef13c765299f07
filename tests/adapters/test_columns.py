"""Features as flat arrays: what comes back equals what went in, for every task type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bertkit.adapters import columns
from bertkit.adapters.base import Adapter, Feature
from bertkit.config import TrainConfig
from bertkit.task import DataSource, Task
from tests.adapters import test_sequence_classification as classification
from tests.adapters import test_span_qa as spans
from tests.adapters import test_token_tagging as tagging
from tests.adapters.test_sequence_classification import text
from tests.texts import ODD


def equal(one: Any, other: Any) -> bool:
    """Compare with types, since a list is not equal to an array of the same numbers."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return type(one) is type(other) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, Feature) or hasattr(one, "__dataclass_fields__"):
        names = one.__dataclass_fields__
        return type(one) is type(other) and all(equal(getattr(one, n), getattr(other, n)) for n in names)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and bool(one == other)


def assert_kept(adapter: Adapter, features: list[Feature]) -> None:
    packed = adapter.packed(features)
    assert packed is not None
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in packed.values())
    again = adapter.unpacked(packed)
    assert len(again) == len(features)
    for one, other in zip(features, again, strict=True):
        assert equal(one, other), f"{one}\n{other}"


@pytest.mark.parametrize(
    ("kind", "labels", "cells"),
    [
        ("single", ("negative", "positive"), ["positive", "negative"]),
        ("single", ("negative", "positive"), ["positive", None]),
        ("single", ("negative", "positive"), [None, None]),
        ("multi", ("a", "b", "c"), ["a|c", "", "b"]),
        ("multi", ("a", "b", "c"), ["a|c", None]),
        ("regression", (), [1, 2.5, None]),
    ],
)
def test_classification_comes_back(kind: str, labels: tuple[str, ...], cells: list[Any]) -> None:
    adapter = classification.made(kind=kind, labels=labels, max_length=12, on_long="window")
    rows = [{"text": text(3 + 9 * n), "label": cell} for n, cell in enumerate(cells)]
    features = classification.encoded(adapter, *rows, {"text": "", "label": cells[0]})
    assert len(features) > len(cells)
    assert_kept(adapter, features)


def test_cut_pairs_come_back() -> None:
    adapter = classification.made(pair=True, max_length=12, on_long="truncate")
    features = classification.encoded(adapter, {"text": text(9), "text_pair": text(9, 20), "label": "positive"})
    assert features[0].num_cut
    assert_kept(adapter, features)


def test_features_without_type_ids_come_back() -> None:
    adapter = classification.made()
    features = [Feature(example=0, input_ids=[1, 2]), Feature(example=1, input_ids=[3], target=1)]
    assert_kept(adapter, features)


@pytest.mark.parametrize("left", [False, True])
def test_windows_of_questions_come_back(left: bool) -> None:
    adapter = spans.made(left=left, stride=3)
    context = text(30)
    rows = [
        spans.row(context, ("w2 w3", 6)),
        spans.row(context),
        spans.row(text(4), ("not there", None)),
        spans.row(""),
        {"question": "w1", "context": text(2)},
    ]
    features = spans.encoded(adapter, *rows)
    assert len({feature.target is None for feature in features}) == 2
    assert_kept(adapter, features)


@pytest.mark.parametrize("name", ["BERT", "RoBERTa"])
def test_tagged_words_come_back(name: str) -> None:
    adapter = tagging.made(max_length=8, on_long="window")
    tokens = tagging.tokenizer(name)
    rows = [*tagging.AWKWARD, tagging.tagged("good film " * 9)]
    features = adapter.encode(rows, tokens)
    assert len(features) > len(rows)
    assert_kept(adapter, features)


def test_words_past_the_limit_come_back() -> None:
    adapter = tagging.made(max_length=8, on_long="truncate")
    features = adapter.encode([tagging.tagged("good film " * 9)], tagging.tokenizer())
    assert features[0].aligned.past_limit
    assert_kept(adapter, features)


def test_no_features_come_back() -> None:
    assert_kept(classification.made(), [])
    assert_kept(spans.made(), [])
    assert_kept(tagging.made(), [])


def test_type_that_does_not_say_how_is_not_kept() -> None:
    task = Task(name="x", type="mine", data=DataSource())
    assert Adapter(task, TrainConfig(), ()).packed([Feature(example=0, input_ids=[1])]) is None


@pytest.mark.parametrize("rows", [[], [[]], [[1, 2], [], [3]]])
def test_rows_of_unlike_lengths_come_back(rows: list[list[int]]) -> None:
    packed = columns.flat("x", rows, np.int32)
    assert columns.lists(packed, "x") == rows
    assert [row.tolist() for row in columns.arrays(packed, "x")] == rows


def test_odd_texts_are_tokenised_as_the_tokenizer_itself_does() -> None:
    """The direct call must give what ``tokenizer(...)`` gives."""
    from bertkit.adapters.base import encodings

    for tokens in (classification.tokenizer(), tagging.tokenizer("RoBERTa"), tagging.tokenizer("BERT")):
        texts = [row for row in ODD if not any(0xD800 <= ord(c) < 0xE000 for c in row)]
        tokens.backend_tokenizer.enable_truncation(3)
        found = [encodings(tokens, texts, pairs) for pairs in (None, texts[::-1])]
        wanted = [tokens(texts, pairs, truncation=False, verbose=False).encodings for pairs in (None, texts[::-1])]
        for one, other in zip(found, wanted, strict=True):
            assert [(e.ids, e.type_ids, e.sequence_ids) for e in one] == [
                (e.ids, e.type_ids, e.sequence_ids) for e in other
            ]
