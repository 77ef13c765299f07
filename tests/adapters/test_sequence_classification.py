"""Sequence classification: labels, lengths, losses and predictions, against hand-computed values and the libraries."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from bertkit.adapters.base import Feature
from bertkit.adapters.sequence_classification import SequenceClassification, label_name
from bertkit.config import TrainConfig
from bertkit.errors import ConfigError, DataError
from bertkit.task import DataSource, Task

LABELS = ("negative", "positive")
CLS, SEP = 2, 3
WORDS = 150
"""Words of the tokenizer below: ``w0``, ``w1``, ... have the ids 4, 5, ..."""


def made(*, kind: str = "single", labels: tuple[str, ...] = LABELS, pair: bool = False, **train: Any) -> Any:
    columns = {"text": "text", "label": "label"} | ({"text_pair": "text_pair"} if pair else {})
    metrics = {"single": ("accuracy",), "multi": ("f1_micro",), "regression": ("pearson",)}[kind]
    task = Task(
        name="x",
        type="sequence-classification",
        data=DataSource(),
        kind=kind,
        labels=labels,
        metrics=metrics,
        columns=columns,
    )
    return SequenceClassification(task, TrainConfig(**train), labels)


def bare(**changes: Any) -> Task:
    return replace(Task(name="x", type="sequence-classification", data=DataSource()), **changes)


@cache
def tokenizer() -> Any:
    """Return a tokenizer in which every word is a token of its own, with BERT's template."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(WORDS)), "\ufffd"]
    backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def text(length: int, start: int = 0) -> str:
    return " ".join(f"w{n}" for n in range(start, start + length))


def ids(length: int, start: int = 0) -> list[int]:
    return list(range(4 + start, 4 + start + length))


# Labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [("negative", 0), ("positive", 1), ("0", 0), ("1", 1), (0, 0), (1, 1), (0.0, 0), (1.0, 1), ("1.0", 1)],
)
def test_label_is_read_by_name_else_as_an_id(value: Any, expected: int) -> None:
    assert made().label_id(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(1, 0), ("1", 0), (1.0, 0), (0, 1), ("0", 1), ("2", 2)])
def test_label_that_is_a_name_and_an_id_is_the_name(value: Any, expected: int) -> None:
    assert made(labels=("1", "0", "2")).label_id(value) == expected


@pytest.mark.parametrize("value", [0, "0", 0.0, 6])
def test_number_is_no_id_where_names_are_numbers(value: Any) -> None:
    with pytest.raises(DataError, match=r"^label '\d' is not one of '1', '2', '3', '4', '5'\.$"):
        made(labels=("1", "2", "3", "4", "5")).label_id(value)


@pytest.mark.parametrize(("value", "expected"), [("1.0", 0), (1.0, 0), ("2.0", 1)])
def test_label_is_read_as_it_is_written_first(value: Any, expected: int) -> None:
    assert made(labels=("1.0", "2.0")).label_id(value) == expected


def test_number_beside_names_with_a_fraction_is_no_id() -> None:
    with pytest.raises(DataError, match=r"label '0' is not one of '1\.0', '2\.0'"):
        made(labels=("1.0", "2.0")).label_id(0)


@pytest.mark.parametrize(("value", "expected"), [(True, 1), (False, 0), ("true", 1)])
def test_truth_value_is_a_name(value: Any, expected: int) -> None:
    assert made(labels=("false", "true")).label_id(value) == expected


@pytest.mark.parametrize("value", [True, 2, -1, "2", 0.5, "Positive", "", " 1", "1.5", "²"])
def test_what_is_neither_name_nor_id_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match=r"^label '.*' is not one of 'negative', 'positive'\.$"):
        made().label_id(value)


def test_unknown_label_is_named_with_those_that_are() -> None:
    with pytest.raises(DataError, match=r"^label 'postive' is not one of 'negative', 'positive'\.$"):
        made().label_id("postive")


def test_unknown_label_of_many_is_told_the_nearest() -> None:
    labels = (*(f"intent_{n}" for n in range(10)), "greeting")
    with pytest.raises(DataError, match=r"is not one of 'intent_0', .*'intent_9'\. Did you mean 'greeting'\?"):
        made(labels=labels).label_id("greetin")


def test_long_label_is_cut_in_the_message() -> None:
    with pytest.raises(DataError, match=r"^label 'aaa[a]{40,60}\.\.' is not"):
        made().label_id("a" * 1000)


@pytest.mark.parametrize(
    ("value", "name"), [(3, "3"), (3.0, "3"), ("3.0", "3"), (3.5, "3.5"), (True, "true"), ("a", "a")]
)
def test_label_name_is_one_text_for_one_value(value: Any, name: str) -> None:
    assert label_name(value) == name


@pytest.mark.parametrize(
    "cell", [["a", "c"], ("a", "c"), '["a", "c"]', "a|c", " a | c ", "c|a", [0, 2], "0|2", '[0, "c"]', "a|c|a"]
)
def test_multi_cell_is_a_list_or_json_or_names_between_bars(cell: Any) -> None:
    assert made(kind="multi", labels=("a", "b", "c")).target(cell) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("cell", [[], "", "[]", " "])
def test_multi_cell_may_be_empty(cell: Any) -> None:
    assert made(kind="multi", labels=("a", "b")).target(cell) == [0.0, 0.0]


def test_multi_cell_with_an_unknown_label_is_refused() -> None:
    with pytest.raises(DataError, match=r"label 'd' is not one of 'a', 'b'"):
        made(kind="multi", labels=("a", "b")).target("a|d")


def test_multi_cell_with_broken_json_is_refused() -> None:
    with pytest.raises(DataError, match=r"""labels '\["a",' are not a JSON list"""):
        made(kind="multi", labels=("a", "b")).target('["a", ')


@pytest.mark.parametrize(("cell", "number"), [(2.5, 2.5), (3, 3.0), ("3.75", 3.75), (" 1e1 ", 10.0), (-0.5, -0.5)])
def test_regression_value_is_a_number_or_a_text_of_one(cell: Any, number: float) -> None:
    assert made(kind="regression", labels=()).target(cell) == number


@pytest.mark.parametrize(("cell", "match"), [("good", "label 'good' is not a number"), ([], r"label \[\] is not a")])
def test_regression_value_that_is_no_number_is_refused(cell: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        made(kind="regression", labels=()).target(cell)


@pytest.mark.parametrize("cell", ["nan", float("inf"), "-inf"])
def test_regression_value_that_is_not_finite_is_refused(cell: Any) -> None:
    with pytest.raises(DataError, match="is not a finite number"):
        made(kind="regression", labels=()).target(cell)


# What the data decides ---------------------------------------------------------------------------------------


def resolved(cells: list[Any], **changes: Any) -> tuple[Task, list[str]]:
    return SequenceClassification.resolve(bare(**changes), [{"text": "a", "label": cell} for cell in cells])


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["pos", "neg", "pos"], ("neg", "pos")),
        ([10, 9, 2, 10], ("2", "9", "10")),
        (["10", "9", "2"], ("2", "9", "10")),
        ([1.0, 0.0, None], ("0", "1")),
        ([1, -1, 1], ("-1", "1")),
        (["1.0", "0.0"], ("0", "1")),
        ([True, False], ("false", "true")),
        (["b", "10", "9"], ("10", "9", "b")),
    ],
)
def test_missing_labels_are_the_sorted_values(cells: list[Any], labels: tuple[str, ...]) -> None:
    task, notes = resolved(cells)
    assert task.labels == labels
    assert task.kind == "single"
    assert f"labels are the {len(labels)} distinct values of column 'label', sorted" in notes


def test_missing_labels_of_lists_are_the_sorted_items() -> None:
    task, _ = resolved([["b", "a"], [], ["c"]])
    assert (task.kind, task.labels, task.metrics) == ("multi", ("a", "b", "c"), ("f1_micro", "f1_macro"))


def test_numbers_with_fractions_are_regression() -> None:
    task, _ = resolved([0.5, 1.5, 3.25])
    assert (task.kind, task.labels, task.metrics) == ("regression", (), ("pearson", "spearmanr"))


def test_declared_labels_make_many_numbers_classes() -> None:
    task, notes = resolved(list(range(30)), labels=tuple(map(str, range(30))))
    assert (task.kind, len(task.labels), notes) == ("single", 30, [])


def test_a_pair_column_is_read_though_the_task_names_only_text_and_label() -> None:
    rows = [{"text": "a", "text_pair": "b", "label": n % 2} for n in range(4)]
    task, _ = SequenceClassification.resolve(bare(columns={"text": "text", "label": "label"}), rows)
    assert task.columns == {"text": "text", "text_pair": "text_pair", "label": "label"}


@pytest.mark.parametrize("cells", [["a", "a"], [None, None]])
def test_fewer_than_two_labels_are_refused(cells: list[str]) -> None:
    with pytest.raises(DataError, match=r"Column 'label' holds [01] distinct labels .*--set columns.label=NAME"):
        resolved(cells)


@pytest.mark.parametrize("cell", [{"start": 0}, [{"start": 0, "end": 1, "label": "x"}]])
def test_tables_are_no_labels(cell: Any) -> None:
    with pytest.raises(DataError, match=r"Column 'label' holds tables, .*--set type=token-tagging"):
        resolved([cell, cell])


def test_missing_column_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(DataError, match=r"no column fits the role 'label'; there are 'text', 'n'\. Name one with"):
        SequenceClassification.resolve(bare(), [{"text": "a b", "n": 0.5}])


def test_metric_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="Metric 'pearson' is not defined for one label a row"):
        resolved(["a", "b"], metrics=("pearson",))


# Checks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "problem"),
    [
        ({"text": "a", "label": "positive"}, None),
        ({"text": "", "label": 1}, None),
        ({"label": 1}, "column 'text' is missing; there are 'label'"),
        ({"text": None, "label": 1}, "column 'text' is null, and must be a text"),
        ({"text": 3, "label": 1}, "column 'text' is 3, and must be a text"),
        ({"text": "a", "label": None}, "column 'label' holds no label"),
        ({"text": "a"}, "column 'label' holds no label"),
        ({"text": "a", "label": "x"}, "label 'x' is not one of 'negative', 'positive'."),
    ],
)
def test_check_says_what_is_wrong_with_a_row(example: dict[str, Any], problem: str | None) -> None:
    assert made().check(example) == ([] if problem is None else [problem])


def test_check_of_a_row_to_predict_looks_at_no_label() -> None:
    assert made().check({"text": "a", "label": "x"}, labelled=False) == []


def test_check_asks_for_the_second_text_of_a_pair() -> None:
    problems = made(pair=True).check({"text": "a", "label": 0})
    assert problems == ["column 'text_pair' is missing; there are 'text', 'label'"]


def test_balance_counts_every_label_in_id_order() -> None:
    rows = [{"label": "c"}, {"label": "a"}, {"label": 2}, {"label": None}, {}]
    assert list(made(labels=("a", "b", "c")).balance(rows).items()) == [("a", 1), ("b", 0), ("c", 2)]
    assert made(kind="multi", labels=("a", "b")).balance([{"label": "a|b"}, {"label": ["b"]}]) == {"a": 1, "b": 2}
    assert made(kind="regression", labels=()).balance([{"label": 1.5}]) == {}


def test_stratum_is_the_label_whatever_its_spelling() -> None:
    assert made().stratum({"label": "positive"}) == made().stratum({"label": "1"}) == 1
    assert made(kind="multi", labels=("a", "b")).stratum({"label": "b"}) == (0.0, 1.0)
    assert made(kind="regression", labels=()).stratum({"label": 1.5}) is None


def test_labelled_is_false_where_every_label_is_missing() -> None:
    assert not made().labelled([{"text": "a", "label": None}, {"text": "b"}])
    assert made().labelled([{"text": "a", "label": None}, {"text": "b", "label": 0}])


# Features ----------------------------------------------------------------------------------------------------


def encoded(adapter: Any, *rows: dict[str, Any]) -> list[Feature]:
    return list(adapter.encode(list(rows), tokenizer()))


def test_single_text_is_one_segment() -> None:
    (feature,) = encoded(made(), {"text": text(3), "label": "positive"})
    assert feature.input_ids == [CLS, *ids(3), SEP]
    assert feature.token_type_ids == [0] * 5
    assert (feature.example, feature.target, feature.num_cut) == (0, 1, 0)


def test_pair_is_two_segments_with_type_ids_0_and_1() -> None:
    (feature,) = encoded(made(pair=True), {"text": text(2), "text_pair": text(3, 50), "label": 0})
    assert feature.input_ids == [CLS, *ids(2), SEP, *ids(3, 50), SEP]
    assert feature.token_type_ids == [0, 0, 0, 0, 1, 1, 1, 1]


def test_type_ids_are_left_out_for_a_model_that_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer(), "model_input_names", ["input_ids", "attention_mask"])
    (feature,) = encoded(made(pair=True), {"text": text(2), "text_pair": text(3, 50), "label": 0})
    assert feature.token_type_ids is None


def test_pair_column_is_not_read_by_a_task_of_single_texts() -> None:
    rows = [{"text": text(2), "text_pair": text(3, 50)}, {"text": text(1)}]
    assert [f.input_ids for f in encoded(made(), *rows)] == [[CLS, *ids(2), SEP], [CLS, *ids(1), SEP]]


def test_lone_surrogate_is_a_replacement_character_to_the_model_alone() -> None:
    row = {"text": "w0 \ud800 w1", "label": 0}
    (feature,) = encoded(made(), row)
    assert feature.input_ids == [CLS, 4, 4 + WORDS, 5, SEP]
    assert row == {"text": "w0 \ud800 w1", "label": 0}


def test_rows_to_predict_may_have_labels_that_the_model_does_not_know() -> None:
    features = encoded(made(), {"text": "w0", "label": "hidden"}, {"text": "w1", "label": 1}, {"text": "w2"})
    assert [feature.target for feature in features] == [None, 1, None]


def test_every_example_is_encoded_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertkit.adapters.sequence_classification.ENCODE_CHUNK", 4)
    features = encoded(made(), *({"text": text(1, n)} for n in range(11)))
    assert [(f.example, f.input_ids[1]) for f in features] == [(n, 4 + n) for n in range(11)]


lengths = st.integers(0, 40)


@settings(deadline=None, max_examples=150)
@given(length=lengths, limit=st.integers(8, 45))
def test_truncate_cuts_a_single_text_as_the_tokenizer_does(length: int, limit: int) -> None:
    (feature,) = encoded(made(max_length=limit), {"text": text(length)})
    own = tokenizer()(text(length), truncation="longest_first", max_length=limit)
    assert feature.input_ids == own["input_ids"]
    assert feature.token_type_ids == own["token_type_ids"]
    assert feature.num_cut == max(0, length + 2 - limit)


@settings(deadline=None, max_examples=300)
@given(first=lengths, second=lengths, limit=st.integers(8, 60))
def test_truncate_cuts_a_pair_as_the_tokenizer_does(first: int, second: int, limit: int) -> None:
    row = {"text": text(first), "text_pair": text(second, 60)}
    (feature,) = encoded(made(max_length=limit, pair=True), row)
    # As lists: a lone empty second text would be taken for none.
    own = tokenizer()([row["text"]], [row["text_pair"]], truncation="longest_first", max_length=limit)
    assert feature.input_ids == own["input_ids"][0]
    assert feature.token_type_ids == own["token_type_ids"][0]
    assert feature.num_cut == max(0, first + second + 3 - limit)


@settings(deadline=None, max_examples=100)
@given(length=st.integers(0, 60), limit=st.integers(8, 50))
def test_head_tail_gives_a_quarter_of_the_room_to_the_start(length: int, limit: int) -> None:
    (feature,) = encoded(made(max_length=limit, on_long="head-tail"), {"text": text(length)})
    room = limit - 2
    head = room // 4
    expected = ids(length) if length <= room else [*ids(head), *ids(room - head, length - (room - head))]
    assert feature.input_ids == [CLS, *expected, SEP]
    assert feature.num_cut == max(0, length - room)


def test_head_tail_cuts_both_texts_of_a_pair() -> None:
    row = {"text": text(20), "text_pair": text(20, 60)}
    (feature,) = encoded(made(max_length=19, on_long="head-tail", pair=True), row)
    assert feature.input_ids == [CLS, *ids(2), *ids(6, 14), SEP, *ids(2, 60), *ids(6, 74), SEP]
    assert feature.num_cut == 24


@settings(deadline=None, max_examples=100)
@given(length=st.integers(0, 100), limit=st.integers(8, 50))
def test_windows_show_every_token_and_overlap_by_a_quarter(length: int, limit: int) -> None:
    features = encoded(made(max_length=limit, on_long="window"), {"text": text(length)})
    width = limit - 2
    bodies = [feature.input_ids[1:-1] for feature in features]
    assert all(f.input_ids[0] == CLS and f.input_ids[-1] == SEP and len(f) <= limit for f in features)
    assert sorted({token for body in bodies for token in body}) == ids(length)
    assert all(len(body) == width for body in bodies[:-1])
    for one, other in pairwise(bodies):
        assert len(set(one) & set(other)) == width // 4
    assert {(f.example, f.num_cut) for f in features} == {(0, 0)}


@settings(deadline=None, max_examples=100)
@given(first=lengths, second=lengths, limit=st.integers(11, 40))
def test_windows_keep_the_shorter_text_of_a_pair(first: int, second: int, limit: int) -> None:
    row = {"text": text(first), "text_pair": text(second, 60)}
    features = encoded(made(max_length=limit, on_long="window", pair=True), row)
    if first + second + 3 <= limit:
        assert len(features) == 1
        return
    room = limit - 3
    texts = [ids(first), ids(second, 60)]
    longer = int(second > first)
    fixed = texts[1 - longer][: room // 2]
    shown = [[token for token in f.input_ids if token > SEP] for f in features]
    assert all(set(fixed) <= set(tokens) for tokens in shown)
    assert {token for tokens in shown for token in tokens} == {*texts[longer], *fixed}
    assert all(len(f) <= limit and f.input_ids.count(SEP) == 2 for f in features)
    assert {f.num_cut for f in features} == {len(texts[1 - longer]) - len(fixed)}


def test_windows_of_several_examples_follow_each_other() -> None:
    rows = [{"text": text(n)} for n in (3, 20, 1, 30)]
    features = encoded(made(max_length=10, on_long="window"), *rows)
    assert [f.example for f in features] == [0, 1, 1, 1, 2, 3, 3, 3, 3, 3]


def test_error_names_example_and_length() -> None:
    adapter = made(max_length=8, on_long="error")
    match = r"Example 2 has 12 tokens, and train.max_length is 8 with on_long = 'error'. Raise max_length, or set"
    with pytest.raises(DataError, match=match):
        encoded(adapter, {"text": text(6)}, {"text": text(10)})


@pytest.mark.parametrize(
    ("kind", "labels", "cells", "dtype", "expected"),
    [
        ("single", LABELS, ["positive", 0], torch.int64, [1, 0]),
        ("multi", ("a", "b"), ["a|b", []], torch.float32, [[1, 1], [0, 0]]),
        ("regression", (), [1.5, "2"], torch.float32, [1.5, 2.0]),
    ],
)
def test_targets_have_the_type_that_the_loss_needs(
    kind: str, labels: tuple[str, ...], cells: list[Any], dtype: torch.dtype, expected: list[Any]
) -> None:
    adapter = made(kind=kind, labels=labels)
    features = encoded(adapter, *({"text": "w0", "label": cell} for cell in cells))
    targets = adapter.collate(features)["labels"]
    assert targets.dtype == dtype
    assert targets.tolist() == expected


# Losses ------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.3, -2.0], [1.0, 1.0, 1.0]])
TARGETS = torch.tensor([0, 2, 1])


def loss_of(adapter: Any, logits: torch.Tensor, targets: torch.Tensor) -> Any:
    return adapter.loss(SimpleNamespace(logits=logits), {"labels": targets})


def features_of(targets: list[Any]) -> list[Feature]:
    return [Feature(example=i, input_ids=[CLS], target=target) for i, target in enumerate(targets)]


def test_single_label_loss_is_the_summed_log_loss() -> None:
    found = loss_of(made(labels=("a", "b", "c")), LOGITS, TARGETS)
    z = LOGITS.numpy().astype(float)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    assert found.sum.item() == pytest.approx(-(log_p[0, 0] + log_p[1, 2] + log_p[2, 1]), rel=1e-6)
    assert found.weight.item() == 3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_single_label_loss_over_its_weight_is_torch_s(smoothing: float, weighted: bool) -> None:
    adapter = made(labels=("a", "b", "c"), label_smoothing=smoothing, class_weights="balanced" if weighted else "none")
    adapter.prepare(features_of([0, 0, 0, 1, 1, 2]))
    weights = torch.tensor([6 / 9, 1.0, 2.0]) if weighted else None
    theirs = torch.nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)(LOGITS, TARGETS)
    found = loss_of(adapter, LOGITS, TARGETS)
    assert (found.sum / found.weight).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_multi_label_loss_is_the_mean_over_labels_summed_over_rows() -> None:
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    found = loss_of(made(kind="multi", labels=("a", "b", "c")), LOGITS, targets)
    p = 1 / (1 + np.exp(-LOGITS.numpy().astype(float)))
    t = targets.numpy()
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(axis=1).sum()
    assert found.sum.item() == pytest.approx(expected, rel=1e-6)
    assert found.weight.item() == 3


def test_multi_label_smoothing_moves_targets_towards_a_half() -> None:
    targets = torch.tensor([[1.0, 0.0]])
    adapter = made(kind="multi", labels=("a", "b"), label_smoothing=0.2)
    soft = torch.tensor([[0.9, 0.1]])
    logits = LOGITS[:1, :2]
    theirs = torch.nn.BCEWithLogitsLoss()(logits, soft)
    assert loss_of(adapter, logits, targets).sum.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_regression_loss_is_the_summed_squared_error() -> None:
    found = loss_of(
        made(kind="regression", labels=()), torch.tensor([[1.0], [2.5], [-1.0]]), torch.tensor([0.0, 2.0, 1.0])
    )
    assert found.sum.item() == pytest.approx(1 + 0.25 + 4)
    assert found.weight.item() == 3


def test_loss_of_half_precision_logits_is_taken_in_float32() -> None:
    found = loss_of(made(labels=("a", "b", "c")), LOGITS.to(torch.bfloat16), TARGETS)
    assert found.sum.dtype == torch.float32


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40).map(lambda rest: [0, 1, 2, 3, *rest]))
def test_class_weights_are_scikit_learn_s_balanced(targets: list[int]) -> None:
    adapter = made(labels=("a", "b", "c", "d"), class_weights="balanced")
    theirs = compute_class_weight("balanced", classes=np.arange(4), y=np.array(targets))
    assert adapter.class_weights(features_of(targets)) == pytest.approx(theirs.tolist())


def test_class_weight_of_a_label_that_train_lacks_is_0() -> None:
    assert made(class_weights="balanced").class_weights(features_of([0, 0])) == [0.5, 0.0]


def test_class_weights_of_several_labels_weigh_the_positive_term() -> None:
    adapter = made(kind="multi", labels=("a", "b", "c"), class_weights="balanced")
    targets = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert adapter.class_weights(features_of(targets)) == [0.0, 3.0, 1.0]


@pytest.mark.parametrize(("kind", "labels"), [("single", LABELS), ("regression", ())])
def test_no_class_weights_unless_asked_for(kind: str, labels: tuple[str, ...]) -> None:
    assert made(kind=kind, labels=labels).class_weights(features_of([0, 1])) is None
    if kind == "regression":
        assert made(kind=kind, labels=labels, class_weights="balanced").class_weights(features_of([0.5])) is None


# Predictions -------------------------------------------------------------------------------------------------


def decoded(adapter: Any, logits: list[list[float]], examples: list[int], num_cut: int = 0) -> list[dict[str, Any]]:
    features = [Feature(example=e, input_ids=[CLS], num_cut=num_cut) for e in examples]
    return list(
        adapter.decode([np.array(row, dtype=np.float32) for row in logits], features, [{}] * (max(examples) + 1))
    )


def test_decode_averages_the_logits_of_windows() -> None:
    one, other = decoded(made(), [[0.0, 4.0], [0.0, -2.0], [0.0, 1.0], [3.0, 0.0]], [0, 0, 0, 1])
    p = 1 / (1 + np.exp(-1.0))
    assert one["probabilities"] == pytest.approx({"negative": 1 - p, "positive": p})
    assert (one["label"], one["score"]) == ("positive", pytest.approx(p))
    assert other["label"] == "negative"


@given(st.lists(st.floats(-500, 500), min_size=5, max_size=5))
def test_probabilities_sum_to_1_and_the_label_is_the_likeliest(logits: list[float]) -> None:
    (prediction,) = decoded(made(labels=tuple("abcde")), [logits], [0])
    probabilities = prediction["probabilities"]
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-9)
    assert list(probabilities) == list("abcde")
    assert prediction["score"] == probabilities[prediction["label"]] == max(probabilities.values())
    json.dumps(prediction, allow_nan=False)


def test_truncated_stands_with_predictions_of_cut_texts_alone() -> None:
    assert decoded(made(), [[0.0, 1.0]], [0], num_cut=3)[0]["truncated"] is True
    assert "truncated" not in decoded(made(), [[0.0, 1.0]], [0])[0]


def test_multi_label_prediction_takes_labels_from_the_threshold_on() -> None:
    adapter = made(kind="multi", labels=("a", "b", "c"))
    (prediction,) = decoded(adapter, [[0.0, -0.1, 3.0]], [0])
    assert prediction["labels"] == ["a", "c"]
    assert prediction["probabilities"]["a"] == 0.5
    adapter.from_state({"threshold": 0.9})
    assert decoded(adapter, [[0.0, -0.1, 3.0]], [0])[0]["labels"] == ["c"]
    assert adapter.state() == {"threshold": 0.9}


def test_multi_label_probabilities_of_extreme_logits_are_0_and_1() -> None:
    (prediction,) = decoded(made(kind="multi", labels=("a", "b")), [[1e4, -1e4]], [0])
    assert prediction["probabilities"] == {"a": 1.0, "b": 0.0}


def test_regression_prediction_is_the_mean_value() -> None:
    assert decoded(made(kind="regression", labels=()), [[1.0], [2.0]], [0, 0]) == [{"value": 1.5}]


def test_reduce_gives_float32_logits_a_row() -> None:
    outputs = SimpleNamespace(logits=LOGITS.to(torch.bfloat16).requires_grad_())
    rows = made().reduce(outputs, {})
    assert [row.shape for row in rows] == [(3,)] * 3
    assert {row.dtype for row in rows} == {np.dtype("float32")}


# Scores ------------------------------------------------------------------------------------------------------


def test_score_gives_the_task_s_metrics_and_their_intervals() -> None:
    predictions = [{"label": name} for name in ("positive", "negative", "positive", "positive")]
    examples = [{"label": cell} for cell in ("positive", 0, "1", "negative")]
    assert made().score(predictions, examples) == {"accuracy": 0.75}
    scores = made().score(predictions, examples, resamples=200)
    assert list(scores) == ["accuracy", "accuracy_interval"]
    low, high = scores["accuracy_interval"]
    assert 0 <= low <= 0.75 <= high <= 1


def test_score_of_several_labels_and_of_numbers() -> None:
    multi = made(kind="multi", labels=("a", "b"))
    assert multi.score([{"labels": ["a"]}, {"labels": []}], [{"label": "a|b"}, {"label": ""}]) == {
        "f1_micro": pytest.approx(2 / 3)
    }
    numbers = made(kind="regression", labels=())
    found = numbers.score([{"value": 1.0}, {"value": 2.0}, {"value": 3.0}], [{"label": n} for n in (2, "4", 6)])
    assert found == {"pearson": pytest.approx(1)}


def test_better_is_higher_and_not_equal_and_never_nan() -> None:
    adapter = made()
    assert adapter.better(0.5, None)
    assert adapter.better(0.6, 0.5)
    assert not adapter.better(0.5, 0.5)
    assert not adapter.better(float("nan"), None)


@pytest.mark.parametrize(
    ("given_labels", "wanted", "expected"),
    [
        (["positive", "positive"], ["positive", "negative"], "positive"),
        (["positive", "negative"], ["positive", "negative"], None),
        (["positive", "positive"], ["positive", 1], None),
        (["positive"], ["negative"], None),
    ],
)
def test_constant_is_the_one_label_against_several(
    given_labels: list[str], wanted: list[Any], expected: str | None
) -> None:
    found = made().constant([{"label": g} for g in given_labels], [{"label": w} for w in wanted])
    assert found == expected


def test_constant_is_for_single_labels_alone() -> None:
    adapter = made(kind="regression", labels=())
    assert adapter.constant([{"value": 1.0}] * 3, [{"label": n} for n in range(3)]) is None


@pytest.mark.parametrize(("kind", "labels"), [("single", LABELS), ("multi", ("a", "b")), ("regression", ())])
def test_problem_type_is_transformers_name(kind: str, labels: tuple[str, ...]) -> None:
    from transformers import BertConfig

    assert BertConfig(problem_type=made(kind=kind, labels=labels).problem_type).problem_type.startswith(kind)
