"""Span QA: places of answers, windows, losses, spans and thresholds, against brute force and hand-computed values."""

from __future__ import annotations

import json
import math
import random
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bertkit import encoder, infer, metrics
from bertkit.adapters.base import ExampleError, Feature, Padding
from bertkit.adapters.span_qa import N_BEST, SpanQA, Window
from bertkit.config import TrainConfig
from bertkit.data import Split
from bertkit.errors import ConfigError, DataError
from bertkit.task import DataSource, Task
from bertkit.workflows import preparation
from tests.adapters.test_sequence_classification import CLS, SEP, ids, text, tokenizer
from tests.adapters.test_windows import is_max_context
from tests.families import FAMILIES, Family
from tests.texts import ODD, WORDS, jumble

Row = dict[str, Any]
LEFT = Padding(token=0, token_type=0, left=True)


def bare(**changes: Any) -> Task:
    return Task(name="x", type="span-qa", data=DataSource(), **changes)


def made(*, left: bool = False, columns: dict[str, Any] | None = None, train: Any = None, **options: Any) -> SpanQA:
    task = bare(columns=columns or {}, options=options, metrics=("f1", "exact_match"))
    given = {"max_length": 20, "on_long": "window", **(train or {})}
    adapter = SpanQA(task, TrainConfig(**given), ())
    if left:
        adapter.padding = LEFT
    return adapter


def row(context: str, *answers: tuple[str, int | None], question: str = "w100 w101", **more: Any) -> Row:
    cell = {"text": [said for said, _ in answers], "answer_start": [start for _, start in answers]}
    return {"id": "q1", "question": question, "context": context, "answers": cell, **more}


def word(number: int, context: str) -> tuple[str, int]:
    """Return the word ``w<number>`` as an answer of the context, with where it stands."""
    return f"w{number}", f" {context} ".index(f" w{number} ")


# What the data decides ---------------------------------------------------------------------------------------


def test_columns_metrics_and_answerability_come_from_the_data() -> None:
    task, notes = SpanQA.resolve(bare(), [row("a b", ("a", 0))])
    assert task.columns == {"question": "question", "context": "context", "answers": "answers"}
    assert (task.metrics, task.options, notes) == (("f1", "exact_match"), {"unanswerable": False}, [])


@pytest.mark.parametrize("none", [row("c"), row("c", ("c", 0), is_impossible=True), row("c") | {"answers": ""}])
def test_one_question_without_an_answer_lets_the_model_answer_nothing(none: Row) -> None:
    task, notes = SpanQA.resolve(bare(), [row("a b", ("a", 0)), none])
    assert task.options == {"unanswerable": True}
    assert notes == ["some questions have no answer, so the model may answer nothing"]


@pytest.mark.parametrize("said", [True, False])
def test_what_the_task_says_of_unanswerable_questions_stands(said: bool) -> None:
    for rows in ([row("a b", ("a", 0))], [row("a b")]):
        task, notes = SpanQA.resolve(bare(options={"unanswerable": said}), rows)
        assert (task.options, notes) == ({"unanswerable": said}, [])


def test_known_names_of_columns_are_taken_and_said() -> None:
    task, notes = SpanQA.resolve(bare(), [{"query": "q", "passage": "a b", "answer": ["a"]}])
    assert task.columns == {"question": "query", "context": "passage", "answers": "answer"}
    assert notes == [
        "column 'query' is taken as question: by its name",
        "column 'passage' is taken as context: by its name",
        "column 'answer' is taken as answers: by its name",
    ]


def test_answers_under_a_column_of_another_name_decide_too() -> None:
    rows = [{"question": "q", "context": "a b", "gold": []}]
    task, _ = SpanQA.resolve(bare(columns={"answers": "gold"}), rows)
    assert task.options == {"unanswerable": True}


def test_missing_column_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(DataError, match=r"no column fits the role 'answers'; there are 'question', 'context'\. Name"):
        SpanQA.resolve(bare(), [{"question": "q", "context": "a b"}])


def test_metric_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"No metric 'accuracy' for span QA\. There are exact_match, f1"):
        SpanQA.resolve(bare(metrics=("accuracy",)), [row("a b", ("a", 0))])


def test_cell_that_makes_no_sense_is_left_for_the_check_which_knows_its_line() -> None:
    task, _ = SpanQA.resolve(bare(), [row("a b") | {"answers": 7}])
    assert task.options == {"unanswerable": False}


def test_row_that_says_nothing_of_answers_does_not_say_that_there_is_none() -> None:
    rows = [row("a b", ("a", 0)), row("a b") | {"answers": None}]
    assert SpanQA.resolve(bare(), rows)[0].options == {"unanswerable": False}
    assert SpanQA.resolve(bare(), [*rows, row("a b")])[0].options == {"unanswerable": True}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "q", "context": "c", "answers": []}], True),
        ([{"question": "q", "context": "c", "answer": "c"}], True),
        ([{"question": "q", "context": "c"}], False),
        ([{"question": "q", "answers": []}], False),
        ([{"context": "c", "answers": []}], False),
        ([{"question": "q", "context": "c", "answers": []}, {"text": "a", "label": "b"}], False),
        ([], False),
    ],
)
def test_rows_are_recognised_by_their_columns(rows: list[Row], said: bool) -> None:
    assert SpanQA.recognises(rows) is said


# Options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "train", "match"),
    [
        ({"strid": 1}, {}, r"options\.strid is not a setting of span-qa\. Did you mean 'stride'\?"),
        ({"stride": "far"}, {}, r"options\.stride is 'far', and must be a whole number"),
        ({"unanswerable": "no"}, {}, r"options\.unanswerable is 'no', and must be true or false"),
        ({"stride": -1}, {}, r"options\.stride is -1, and must be at least 0 and below train\.max_length, 20"),
        ({"stride": -1}, {"on_long": "truncate"}, r"options\.stride is -1, and must be at least 0 and below"),
        ({"stride": 20}, {}, r"options\.stride is 20, and must be at least 0 and below train\.max_length, 20"),
        ({"stride": 1, "max_answer_length": 0}, {}, r"options\.max_answer_length is 0, and must be at least 1"),
        ({"stride": 1, "alternatives": 20}, {}, r"options\.alternatives is 20, and must be 0 to 19"),
        ({"stride": 1, "alternatives": -1}, {}, r"options\.alternatives is -1, and must be 0 to 19"),
        ({"stride": 1, "rules": "sqad"}, {}, r"options\.rules is 'sqad', and must be one of squad, cmrc2018.*'squad'"),
        (
            {"stride": 1},
            {"on_long": "head-tail"},
            r"on_long is 'head-tail', and span-qa has window, truncate and error",
        ),
        ({"stride": 1}, {"class_weights": "balanced"}, r"class_weights is 'balanced', and spans have no classes"),
    ],
)
def test_setting_that_makes_no_sense_is_refused(options: Row, train: Row, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        made(train=train, **options)


def test_decoder_of_another_type_is_refused() -> None:
    task = bare(settings={"eval": {"decode": "viterbi"}})
    with pytest.raises(ConfigError, match=r"eval\.decode is 'viterbi', and for span-qa there is 'auto'"):
        SpanQA(task, TrainConfig(max_length=384), ())


def test_several_wrong_settings_come_together() -> None:
    with pytest.raises(ConfigError, match=r"options\.stride is 99, .*; options\.max_answer_length is -3, "):
        made(stride=99, max_answer_length=-3)


@pytest.mark.parametrize("on_long", ["truncate", "error"])
def test_stride_is_no_matter_without_windows(on_long: str) -> None:
    assert made(train={"on_long": on_long, "max_length": 64}, stride=128).stride == 128


@pytest.mark.parametrize(("max_length", "stride"), [(512, 128), (256, 128), (255, 127), (64, 32)])
def test_default_stride_is_at_most_half_of_the_length(max_length: int, stride: int) -> None:
    assert made(train={"max_length": max_length}).stride == stride


def test_defaults_are_those_of_the_original() -> None:
    adapter = SpanQA(bare(), TrainConfig(**SpanQA.defaults), ())
    assert (adapter.config.max_length, adapter.config.on_long, adapter.stride) == (384, "window", 128)
    assert (adapter.max_answer_length, adapter.alternatives, adapter.unanswerable) == (30, 0, False)
    assert adapter.num_outputs == 2
    assert not adapter.tunes
    assert adapter.state() == {}


# Cells -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ({"text": ["b", "c"], "answer_start": [2, 4]}, [("b", 2), ("c", 4)]),
        ({"text": ["b"], "answer_start": [None]}, [("b", None)]),
        ({"text": ["b"]}, [("b", None)]),
        ({"text": ["b"], "answer_start": None}, [("b", None)]),
        ({"text": [], "answer_start": []}, []),
        ({"text": "b", "answer_start": 2}, [("b", 2)]),
        ([{"text": "b", "answer_start": 2}, {"text": "c"}], [("b", 2), ("c", None)]),
        (["b", "c"], [("b", None), ("c", None)]),
        ("b", [("b", None)]),
        ([], []),
        ("", []),
        (None, []),
    ],
)
def test_answers_have_several_forms(cell: Any, expected: list[Any]) -> None:
    assert [tuple(answer) for answer in made(stride=1).answers(row("a b c") | {"answers": cell})] == expected


@pytest.mark.parametrize(
    ("cell", "match"),
    [
        (7, "^question 'q1': an answer is 7, and must be a text; no answers is"),
        ([""], "^question 'q1': an answer is '', and must be a text"),
        ({}, "^question 'q1': an answer is None, and must be a text"),
        ([None], "^question 'q1': an answer is None, and must be a text"),
        (
            {"text": ["b"], "answer_start": []},
            "the answers' text has 1 entries, and answer_start, \\[\\], must have as",
        ),
        ({"text": ["b"], "answer_start": 3}, "the answers' text has 1 entries, and answer_start, 3, must have as"),
        ([{"text": "b", "answer_start": "2"}], "^question 'q1': an answer_start is '2', and must be a whole number"),
        ([{"text": "b", "answer_start": 2.5}], "^question 'q1': an answer_start is 2.5, and must be a whole number"),
        ([{"text": "b", "answer_start": True}], "^question 'q1': an answer_start is True, and must be a whole number"),
    ],
)
def test_answers_that_are_none_are_refused_by_the_question(cell: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        made(stride=1).answers(row("a b c") | {"answers": cell})
    (problem,) = made(stride=1).check(row("a b c") | {"answers": cell})
    with pytest.raises(DataError, match=match):
        raise DataError(problem)


@pytest.mark.parametrize(
    ("more", "named"),
    [({"id": 7}, "question 7:"), ({"id": "7"}, "question '7':"), ({"id": 0}, "question 0:"), ({}, "question 'who':")],
)
def test_question_is_named_by_its_id_of_any_type_else_by_its_text(more: Row, named: str) -> None:
    with pytest.raises(DataError, match=f"^{named}"):
        made(stride=1).answers({"question": "who", "context": "a", "answers": 5} | more)


def test_impossible_question_has_no_answer_whatever_the_cell_holds() -> None:
    adapter = made(stride=1)
    for cell in ({"text": ["a"], "answer_start": [0]}, None, [], 7):
        example = row("a b", is_impossible=True) | {"answers": cell}
        assert adapter.answers(example) == []
        assert adapter.check(example) == []
        assert adapter.labelled([example])
        assert adapter.stratum(example) is False
    assert len(adapter.answers(row("a b", ("a", 0), is_impossible=False))) == 1


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        (("was", 3), (3, 6)),
        (("was", 7), (7, 10)),
        (("was", 4), None),
        (("was", None), None),
        (("bob", 5), (11, 14)),
        (("bob", -3), (11, 14)),
        (("bob", 999), (11, 14)),
        (("bob", None), (11, 14)),
        (("eve", 0), None),
        (("😀", 0), (15, 16)),
    ],
)
def test_offset_is_repaired_where_the_text_occurs_once(answer: tuple[str, int | None], place: Any) -> None:
    context = "it was was bob 😀"
    assert made(stride=1).located(row(context, answer)) == ([place] if place else [])


def test_text_that_overlaps_itself_occurs_twice() -> None:
    assert made(stride=1).located(row("aaa", ("aa", 5))) == []


def test_answers_are_located_where_another_one_is_not() -> None:
    assert made(stride=1).located(row("a b c b", ("b", 9), ("c", 9))) == [(4, 5)]


@pytest.mark.parametrize(
    ("example", "why"),
    [
        (row("a b a", ("a", 0)), ""),
        (row("a b a"), ""),
        (row("a b a", ("a", 0), is_impossible=True), ""),
        (row("a b a", ("a", 1)), "question 'q1': answer 'a' is not where it is said to be and occurs 2 times"),
        (row("a b a", ("c", 0)), "question 'q1': answer 'c' is not where it is said to be and occurs never"),
        (row("aaa", ("aa", 5)), "question 'q1': answer 'aa' is not where it is said to be and occurs 2 times"),
        (row("a b a", ("a", None)), "question 'q1': answer 'a' occurs 2 times"),
        (row("a b a", ("c", None), id=5), "question 5: answer 'c' occurs never"),
        (row("a b a", ("a", 1), ("b", 0)), ""),
    ],
)
def test_question_whose_answers_stand_nowhere_cannot_be_trained_on(example: Row, why: str) -> None:
    assert made(stride=1).unusable(example) == why


def test_remarks_tell_of_repairs_of_answers_that_stand_nowhere_and_of_none() -> None:
    rows = [
        row("a b c", ("b", 2), id=1),
        row("a b c", ("b", 0), ("c", 0), id=2),
        row("a b b", ("b", 0), ("a", 0), id=12),
        row("a b b", ("x", 0), id="n"),
        row("a b b"),
    ]
    assert made(stride=1).remarks(rows) == [
        "2 answer offsets did not point at their text and were found by it",
        "2 questions have an answer that cannot be found in the context: question 12; question 'n'",
        "1 of 5 questions (20.0%) have no answer",
    ]


def test_remarks_tell_of_shared_ids_and_of_rules_that_do_not_fit_the_script() -> None:
    shared = [row("a b", ("b", 2), id=7), row("a b", ("b", 2), id="7"), row("a b", ("a", 0), id="7", question="w3")]
    assert made(stride=1).remarks(shared[:2]) == []
    assert made(stride=1).remarks(shared) == ["1 ids belong to several questions: 7"]
    chinese = [row("\u4e2d\u6587\u5b57 a", ("a", 4))]
    said = "the contexts are mostly Chinese: --set options.rules=cmrc2018 scores characters, not words"
    assert made(stride=1).remarks(chinese) == [said]
    assert made(stride=1, rules="cmrc2018").remarks(chinese) == []


def test_remarks_on_good_rows_on_answers_without_offsets_and_on_unlabelled_rows_are_none() -> None:
    adapter = made(stride=1)
    assert adapter.remarks([row("a b c", ("b", 2))]) == []
    assert adapter.remarks([row("a b c") | {"answers": ["b"]}]) == []
    assert (
        adapter.remarks([{"question": "q", "context": "c"}, {"question": "q", "context": "c", "answers": None}]) == []
    )
    assert adapter.remarks([]) == []


def test_many_questions_are_not_all_named() -> None:
    rows = [row("a", ("x", 0), id=n) for n in range(20)]
    (said,) = made(stride=1).remarks(rows)
    assert said.startswith("20 questions have an answer that cannot be found in the context: question 0; question 1; ")
    assert said.endswith("question 7; and 12 more")


@pytest.mark.parametrize(
    ("example", "problems"),
    [
        (row("a b", ("a", 0)), []),
        (row("", question=""), []),
        (row("a b", ("x", 0)), []),
        ({"context": "c", "answers": []}, ["column 'question' is missing; there are 'context', 'answers'"]),
        ({"question": "q", "answers": []}, ["column 'context' is missing; there are 'question', 'answers'"]),
        (row("a") | {"question": None}, ["column 'question' is null, and must be a text"]),
        (row("a") | {"context": ["a"]}, ["column 'context' is ['a'], and must be a text"]),
        ({"question": "q", "context": "c"}, ["column 'answers' holds no answers; [] says that there is none"]),
        (row("c") | {"answers": None}, ["column 'answers' holds no answers; [] says that there is none"]),
        ({"question": 1, "answers": 2}, None),
    ],
)
def test_check_says_what_is_wrong_with_a_row(example: Row, problems: list[str] | None) -> None:
    found = made(stride=1).check(example)
    assert found == problems if problems is not None else len(found) == 3


def test_check_of_a_row_to_predict_looks_at_no_answers() -> None:
    assert made(stride=1).check({"question": "q", "context": "c", "answers": 7}, labelled=False) == []
    assert made(stride=1).check({"question": "q", "context": "c"}, labelled=False) == []
    assert len(made(stride=1).check({"question": 3}, labelled=False)) == 2


def test_columns_of_other_names_are_read_and_named() -> None:
    adapter = made(stride=1, columns={"question": "q", "context": "c", "answers": "gold"})
    example = {"q": "w1", "c": "w2 w3", "gold": ["w3"]}
    assert adapter.check(example) == []
    assert adapter.located(example) == [(3, 5)]
    assert adapter.check({"q": "w1", "c": "w2"}) == ["column 'gold' holds no answers; [] says that there is none"]


def test_bare_text_is_refused() -> None:
    with pytest.raises(DataError, match="span-qa needs a question and a context: give rows that have both"):
        made(stride=1).example_of("who?")


def test_labelled_is_false_where_no_row_says_its_answers() -> None:
    adapter = made(stride=1)
    assert not adapter.labelled([{"question": "q", "context": "c"}, {"question": "q", "context": "c", "answers": None}])
    assert adapter.labelled([{"question": "q", "context": "c"}, row("c")])


def test_document_is_the_article_else_the_context() -> None:
    adapter = made(stride=1)
    assert adapter.documents(row("a b", title="Norway")) == ("Norway", "a b")
    assert adapter.documents(row("a b")) == adapter.documents(row("a b", title="")) == ("a b", "a b")


def test_stratum_is_whether_there_is_an_answer() -> None:
    assert [made(stride=1).stratum(example) for example in (row("a", ("a", 0)), row("a"))] == [True, False]


# Features ----------------------------------------------------------------------------------------------------


def encoded(adapter: SpanQA, *rows: Row) -> list[Feature]:
    return list(adapter.encode(list(rows), tokenizer()))


def test_feature_is_question_then_context() -> None:
    context = text(5)
    (feature,) = encoded(made(stride=1), row(context, ("w2 w3", 6)))
    assert feature.input_ids == [CLS, *ids(2, 100), SEP, *ids(5), SEP]
    assert feature.token_type_ids == [0] * 4 + [1] * 6
    assert (feature.example, feature.target, feature.num_cut) == (0, (6, 7), 0)
    place = feature.aligned
    assert (place.null, place.first, place.answerable) == (0, 4, True)
    assert [context[a:b] for a, b in place.spans] == context.split()
    assert place.owned.tolist() == [True] * 5


def test_type_ids_are_left_out_for_a_model_that_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer(), "model_input_names", ["input_ids", "attention_mask"])
    assert encoded(made(stride=1), row(text(5)))[0].token_type_ids is None


def test_every_example_is_encoded_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertkit.adapters.span_qa.ENCODE_CHUNK", 4)
    features = encoded(made(stride=1), *(row(text(1, n)) for n in range(11)))
    assert [(f.example, f.input_ids[4]) for f in features] == [(n, 4 + n) for n in range(11)]
    assert encoded(made(stride=1)) == []


@settings(deadline=None, max_examples=150)
@given(length=st.integers(0, 90), limit=st.integers(10, 40), stride=st.integers(0, 30), question=st.integers(0, 4))
def test_windows_show_every_token_and_share_the_stride(length: int, limit: int, stride: int, question: int) -> None:
    room = limit - 3 - question
    stride = min(stride, room - 1)
    example = row(text(length), question=text(question, 100))
    features = encoded(made(train={"max_length": limit}, stride=stride), example)
    bodies = [f.input_ids[f.aligned.first : -1] for f in features]
    assert all(
        f.input_ids == [CLS, *ids(question, 100), SEP, *body, SEP] for f, body in zip(features, bodies, strict=True)
    )
    assert all(len(f) <= limit for f in features)
    assert sorted({token for body in bodies for token in body}) == ids(length)
    assert all(len(body) == room for body in bodies[:-1])
    assert all(one[len(one) - stride :] == other[:stride] for one, other in pairwise(bodies))
    owned = [np.array(body)[f.aligned.owned] for f, body in zip(features, bodies, strict=True) if body]
    assert sorted(np.concatenate([*owned, []])) == ids(length), "each token is owned exactly once"
    assert {(f.example, f.num_cut) for f in features} == {(0, 0)}


@pytest.mark.parametrize(
    ("first", "last", "targets"),
    [
        (0, 0, [(4, 4), (0, 0), (0, 0)]),
        (9, 9, [(13, 13), (7, 7), (0, 0)]),
        (6, 9, [(10, 13), (4, 7), (0, 0)]),
        (5, 9, [(9, 13), (0, 0), (0, 0)]),
        (6, 10, [(0, 0), (4, 8), (0, 0)]),
        (5, 10, [(0, 0), (0, 0), (0, 0)]),
        (12, 15, [(0, 0), (10, 13), (4, 7)]),
        (15, 16, [(0, 0), (0, 0), (7, 8)]),
        (19, 19, [(0, 0), (0, 0), (11, 11)]),
    ],
)
def test_windows_that_do_not_hold_the_answer_whole_learn_cls(first: int, last: int, targets: list[Any]) -> None:
    """Windows of w0 to w9, w6 to w15 and w12 to w19."""
    context = text(20)
    start = word(first, context)[1]
    said = text(last + 1 - first, first)
    features = encoded(made(train={"max_length": 15}, stride=4), row(context, (said, start)))
    assert [f.input_ids[4] - 4 for f in features] == [0, 6, 12]
    assert [f.target for f in features] == targets


def test_no_answer_is_learned_as_cls_and_an_unknown_one_not_at_all() -> None:
    rows = [
        row(text(3)),
        row(text(3), ("w1", 3), is_impossible=True),
        row(text(3)) | {"answers": None},
        {"question": "w1", "context": text(3)},
        row(text(3), ("x", 0)),
        row(text(3)) | {"answers": 7},
        row(text(3), ("w1", 3)),
    ]
    features = encoded(made(stride=1), *rows)
    assert [f.target for f in features] == [(0, 0), (0, 0), None, None, None, None, (5, 5)]
    assert [f.aligned.answerable for f in features] == [False] * 6 + [True]


def test_first_answer_that_can_be_located_is_learned() -> None:
    example = row(text(5), ("x", 0), ("w3", 0), ("w1", 3))
    assert encoded(made(stride=1), example)[0].target == (7, 7)


def test_answer_inside_words_is_learned_as_the_whole_words() -> None:
    # "0 w1" of "w10 w11": the answer begins and ends inside a word.
    assert encoded(made(stride=1), row("w9 w10 w11 w12", ("0 w1", 5)))[0].target == (5, 6)


def test_truncate_keeps_the_start_of_the_context_and_counts_the_rest() -> None:
    adapter = made(train={"on_long": "truncate"})
    features = encoded(adapter, row(text(40), word(30, text(40))), row(text(16), word(3, text(16))))
    assert [f.input_ids for f in features] == [[CLS, *ids(2, 100), SEP, *ids(15), SEP]] * 2
    assert [(f.num_cut, f.target) for f in features] == [(25, (0, 0)), (1, (7, 7))]
    assert [f.aligned.owned.tolist() for f in features] == [[True] * 15] * 2


def test_truncate_leaves_no_room_only_where_the_question_takes_all() -> None:
    adapter = made(train={"on_long": "truncate"})
    assert encoded(adapter, row(text(5), question=text(16, 50)))[0].input_ids[-2:] == [4, SEP]
    match = (
        r"^Example 1 has a question of 20 tokens, special ones counted: of train\.max_length = 20 that leaves 0 for "
        r"the context\. Shorten it, or train with a larger max_length\.$"
    )
    with pytest.raises(ExampleError, match=match):
        encoded(adapter, row(text(5), question=text(17, 50)))


def test_error_names_example_and_length() -> None:
    adapter = made(train={"on_long": "error"})
    assert len(encoded(adapter, row(text(15)))[0]) == 20
    with pytest.raises(
        ExampleError, match=r"^Example 2 has 21 tokens, and train\.max_length is 20 with on_long = 'err"
    ):
        encoded(adapter, row(text(3)), row(text(16)))


def test_question_that_leaves_windows_no_room_is_refused_before_anything_runs() -> None:
    adapter = made(stride=8)
    assert len(encoded(adapter, row(text(30), question=text(8, 50)))) == 22
    # One window is enough for a short context, whatever the stride.
    assert len(encoded(adapter, row(text(8), question=text(9, 50)))) == 1
    match = (
        r"^Example 2 has a question of 12 tokens, special ones counted: of train\.max_length = 20 that leaves 8 for "
        r"the context, and windows that share options\.stride = 8 need more\. Shorten it, or train with a larger "
        r"max_length or a smaller stride\.$"
    )
    with pytest.raises(ExampleError, match=match):
        encoded(adapter, row(text(3)), row(text(30), question=text(9, 50)))


def test_question_longer_than_the_limit_leaves_nothing() -> None:
    with pytest.raises(ExampleError, match=r"a question of 63 tokens, .* that leaves 0 for the context, and windows"):
        encoded(made(stride=0), row(text(3), question=text(60, 50)))


def test_place_of_a_question_that_is_too_long_is_named() -> None:
    rows = [row(text(3)), row(text(30), question=text(9, 50))]
    split = Split(name="train", examples=rows, source="train.jsonl", lines=[4, 9])
    with pytest.raises(DataError, match=r"^train\.jsonl:9 has a question of 12 tokens, special ones counted"):
        preparation.encode(made(stride=8), split, tokenizer())


def test_empty_context_is_one_window_without_a_span() -> None:
    (feature,) = encoded(made(stride=1), row("", question="w100"))
    assert feature.input_ids == [CLS, *ids(1, 100), SEP, SEP]
    assert feature.aligned.spans.shape == (0, 2)
    assert feature.target == (0, 0)


def test_lone_surrogate_is_a_replacement_character_to_the_model_alone() -> None:
    example = row("w0 \ud800 w1", ("w1", 5), question="w100 \udfff")
    (feature,) = encoded(made(stride=1), example)
    assert feature.input_ids == [CLS, *ids(1, 100), 4 + 150, SEP, 4, 4 + 150, 5, SEP]
    assert feature.target == (6, 6)
    (prediction,) = decided(made(stride=1), [feature], [example], [peak(feature, 5, 5)])
    assert (prediction["answer"], prediction["start"], prediction["end"]) == ("\ud800", 3, 4)


def test_answers_that_no_window_holds_are_counted() -> None:
    context = text(20)
    adapter = made(train={"max_length": 15}, stride=4)
    rows = [
        row(context, word(9, context)),
        row(context, (context[: context.index(" w11")], 0)),
        row(context),
        row(context, ("x", 0)),
        {"question": "w1", "context": context},
        row("w0 \x00", ("\x00", 3)),
    ]
    adapter_features = encoded(adapter, *rows)
    found = adapter.truncation(adapter_features, rows)
    assert found == {
        "examples": 0,
        "share_of_examples": 0.0,
        "tokens": 0,
        "share_of_tokens": 0.0,
        "answers_lost": 1,
        "share_of_answers_lost": pytest.approx(1 / 3),
        "examples_in_windows": 5,
        "windows": 16,
    }
    assert adapter.truncation_notes(found) == [
        "1 answers (33.3%) are in no window whole; in training, their questions count as unanswered"
    ]


def test_answers_that_truncation_cuts_are_counted() -> None:
    context = text(40)
    adapter = made(train={"on_long": "truncate"})
    rows = [row(context, word(3, context)), row(context, word(30, context))]
    found = adapter.truncation(encoded(adapter, *rows), rows)
    assert (found["examples"], found["tokens"], found["answers_lost"]) == (2, 50, 1)
    assert adapter.truncation_notes(found) == [
        "2 examples (100.0%) are longer than 20 tokens and are cut (on_long = 'truncate'), 55.6% of all tokens",
        "1 answers (50.0%) are in no window whole; in training, their questions count as unanswered",
    ]


def test_nothing_lost_is_nothing_said() -> None:
    adapter = made(stride=1)
    rows = [row(text(3), word(1, text(3))), row(text(3)), {"question": "w1", "context": "w2"}]
    found = adapter.truncation(encoded(adapter, *rows), rows)
    assert (found["answers_lost"], found["share_of_answers_lost"], found["windows"]) == (0, 0.0, 3)
    assert adapter.truncation_notes(found) == []


def test_context_of_a_book_is_encoded_whole() -> None:
    adapter = made(train={"max_length": 384}, stride=128)
    context = " ".join(text(100) for _ in range(400))
    features = encoded(adapter, row(context))
    assert sum(int(f.aligned.owned.sum()) for f in features) == 40_000


# Batches and loss --------------------------------------------------------------------------------------------

Logits = tuple[np.ndarray, np.ndarray]
"""Start and end logits of one feature, from its own first position on."""


def drawn(features: list[Feature], seed: int, *, scale: float = 1.0) -> list[Logits]:
    rng = np.random.default_rng(seed)
    return [tuple(rng.normal(scale=scale, size=(2, len(f))).astype(np.float32)) for f in features]  # type: ignore[misc]


def peak(feature: Feature, first: int, last: int) -> Logits:
    start, end = np.zeros(len(feature), np.float32), np.zeros(len(feature), np.float32)
    start[first] = end[last] = 9
    return start, end


def outputs_of(adapter: SpanQA, features: list[Feature], logits: list[Logits]) -> Any:
    """Return what a model gives, with high logits wherever there is padding."""
    width = max(map(len, features))
    tables = torch.full((2, len(features), width), 50.0)
    for index, (feature, pair) in enumerate(zip(features, logits, strict=True)):
        begin = width - len(feature) if adapter.padding.left else 0
        for side, values in enumerate(pair):
            tables[side, index, begin : begin + len(feature)] = torch.tensor(values)
    return SimpleNamespace(start_logits=tables[0].requires_grad_(), end_logits=tables[1].requires_grad_())


def loss_by_hand(features: list[Feature], logits: list[Logits], smoothing: float = 0.0) -> float:
    total = 0.0
    for feature, pair in zip(features, logits, strict=True):
        place = feature.aligned
        candidates = [place.null, *range(place.first, place.first + len(place.spans))]
        for target, values in zip(feature.target, pair, strict=True):
            z = values[candidates].astype(np.float64)
            log_p = z - np.log(np.exp(z - z.max()).sum()) - z.max()
            total += (1 - smoothing) * -log_p[candidates.index(target)] + smoothing * -log_p.mean()
    return total / 2


def questions() -> list[Row]:
    context = text(40)
    return [
        row(context, word(9, context)),
        row(text(3), ("w1", 3)),
        row(text(7), question=text(6, 60)),
        row("", question="w100"),
    ]


def test_batch_marks_context_starts_and_null() -> None:
    adapter = made(stride=1)
    batch = adapter.collate(encoded(adapter, row("w0", ("w0", 0), question="w100"), row("w0 w1", question="w100")))
    assert batch["input_ids"].tolist() == [[2, 104, 3, 4, 3, 0], [2, 104, 3, 4, 5, 3]]
    assert batch["context"].tolist() == [[False] * 3 + [True, False, False], [False] * 3 + [True, True, False]]
    assert torch.equal(batch["starts"], batch["context"])
    assert batch["null"].tolist() == [0, 0]
    assert batch["labels"].tolist() == [[3, 3], [0, 0]]
    assert set(adapter.inputs(batch)) == {"input_ids", "attention_mask", "token_type_ids"}


def test_batch_padded_on_the_left_shifts_everything_alike() -> None:
    adapter = made(stride=1, left=True)
    batch = adapter.collate(encoded(adapter, row("w0", ("w0", 0), question="w100"), row("w0 w1", question="w100")))
    assert batch["input_ids"].tolist() == [[0, 2, 104, 3, 4, 3], [2, 104, 3, 4, 5, 3]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1, 1, 1], [1] * 6]
    assert batch["context"].tolist() == [[False] * 4 + [True, False], [False] * 3 + [True, True, False]]
    assert torch.equal(batch["starts"], batch["context"])
    assert batch["null"].tolist() == [1, 0]
    assert batch["labels"].tolist() == [[4, 4], [0, 0]]


def test_batch_without_answers_has_no_labels() -> None:
    adapter = made(stride=1)
    assert "labels" not in adapter.collate(encoded(adapter, {"question": "w1", "context": "w2"}))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("left", [False, True])
def test_loss_is_the_softmax_over_cls_and_context_by_hand(left: bool, smoothing: float) -> None:
    adapter = made(stride=4, left=left, train={"label_smoothing": smoothing})
    features = encoded(adapter, *questions())
    assert len({f.target for f in features}) > 2
    for seed in range(20):
        logits = drawn(features, seed, scale=3)
        found = adapter.loss(outputs_of(adapter, features, logits), adapter.collate(features))
        assert found.sum.item() == pytest.approx(loss_by_hand(features, logits, smoothing), rel=1e-5)
        assert found.weight.item() == len(features)


@pytest.mark.parametrize("left", [False, True])
def test_loss_does_not_depend_on_the_padding(left: bool) -> None:
    adapter = made(stride=4, left=left)
    features = encoded(adapter, *questions())
    logits = drawn(features, 1)
    together = adapter.loss(outputs_of(adapter, features, logits), adapter.collate(features)).sum.item()
    alone = [
        adapter.loss(outputs_of(adapter, [f], [pair]), adapter.collate([f])).sum.item()
        for f, pair in zip(features, logits, strict=True)
    ]
    assert together == pytest.approx(sum(alone), rel=1e-6)
    # Hugging Face's own, over every position, is another number as soon as there is padding.
    outputs, labels = outputs_of(adapter, features, logits), adapter.collate(features)["labels"]
    whole = torch.nn.functional.cross_entropy(outputs.start_logits, labels[:, 0], reduction="sum").item()
    assert whole > 2 * together


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("left", [False, True])
def test_only_cls_and_context_get_gradients(left: bool, smoothing: float) -> None:
    adapter = made(stride=4, left=left, train={"label_smoothing": smoothing})
    features = encoded(adapter, *questions())
    outputs = outputs_of(adapter, features, drawn(features, 2))
    batch = adapter.collate(features)
    adapter.loss(outputs, batch).sum.backward()
    candidates = batch["context"] | torch.nn.functional.one_hot(batch["null"], batch["context"].shape[1]).bool()
    several = candidates.sum(dim=1, keepdim=True) > 1
    for logits in (outputs.start_logits, outputs.end_logits):
        assert torch.isfinite(logits.grad).all()
        assert not logits.grad[~candidates].any()
        assert logits.grad[candidates & several].all()


def test_loss_of_half_precision_logits_is_float32() -> None:
    adapter = made(stride=4)
    features = encoded(adapter, *questions())
    outputs = outputs_of(adapter, features, drawn(features, 2))
    half = SimpleNamespace(start_logits=outputs.start_logits.bfloat16(), end_logits=outputs.end_logits.bfloat16())
    assert adapter.loss(half, adapter.collate(features)).sum.dtype == torch.float32


# Spans -------------------------------------------------------------------------------------------------------


def decided(adapter: SpanQA, features: list[Feature], rows: list[Row], logits: list[Logits]) -> list[Row]:
    """Reduce in batches of three, so that some windows are padded and others are not, and decode."""
    reduced: list[np.ndarray] = []
    for begin in range(0, len(features), 3):
        part = features[begin : begin + 3]
        with torch.inference_mode():
            reduced += adapter.reduce(outputs_of(adapter, part, logits[begin : begin + 3]), adapter.collate(part))
    return adapter.decode(reduced, features, rows)


def every_span(features: list[Feature], logits: list[Logits], most: int) -> tuple[list[tuple[float, int, int]], float]:
    """Return every span of one example (minus score, start, end), best first, and the score of no answer."""
    places = [f.aligned for f in features]
    order = {start: number for number, start in enumerate(sorted({int(s) for p in places for s in p.spans[:, 0]}))}
    shown = [range(order[int(p.spans[0, 0])], order[int(p.spans[-1, 0])] + 1) for p in places]
    spans, nulls = [], []
    for which, (place, (start, end)) in enumerate(zip(places, logits, strict=True)):
        nulls.append(float(start[place.null] + end[place.null]))
        for i in range(len(place.spans)):
            if not is_max_context(shown, which, shown[which][i]):
                continue
            for j in range(i, min(len(place.spans), i + most)):
                score = float(start[place.first + i] + end[place.first + j])
                spans.append((-score, int(place.spans[i, 0]), int(place.spans[j, 1])))
    return sorted(spans), min(nulls)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("unanswerable", [False, True])
@pytest.mark.parametrize("most", [1, 4, 30])
def test_best_spans_are_those_of_an_exhaustive_search(most: int, unanswerable: bool, left: bool) -> None:
    adapter = made(stride=6, left=left, max_answer_length=most, unanswerable=unanswerable, alternatives=19)
    rows = [row(text(60)), row(text(4, 7)), row(text(33), question=text(5, 60))]
    features = encoded(adapter, *rows)
    assert [sum(f.example == n for f in features) for n in range(3)] == [6, 1, 5]
    for seed in range(25):
        logits = drawn(features, seed, scale=2)
        for index, prediction in enumerate(decided(adapter, features, rows, logits)):
            own = [n for n, f in enumerate(features) if f.example == index]
            spans, null = every_span([features[n] for n in own], [logits[n] for n in own], most)
            check_prediction(adapter, prediction, spans[:N_BEST], null, rows[index]["context"])


def check_prediction(
    adapter: SpanQA, prediction: Row, spans: list[tuple[float, int, int]], null: float, context: str
) -> None:
    """Hold a prediction against all kept spans and the score of no answer."""
    weights = np.exp([*(-score for score, _, _ in spans), null])
    shares = weights / weights.sum()
    wanted = [(context[a:b], a, b, pytest.approx(p)) for (_, a, b), p in zip(spans, shares, strict=False)]
    nothing = ("", 0, 0, pytest.approx(shares[-1]))
    assert prediction["no_answer_score"] == pytest.approx(null + spans[0][0], rel=1e-6, abs=1e-6)
    refused = adapter.unanswerable and prediction["no_answer_score"] > adapter.threshold
    assert fields(prediction) == (nothing if refused else wanted[0])
    rest = wanted if refused else [*wanted[1:], *([nothing] if adapter.unanswerable else [])]
    given = [fields(each) for each in prediction["alternatives"]]
    assert len(given) == min(19, len(rest))
    assert all(each in rest for each in given)
    scores = [each["score"] for each in prediction["alternatives"]]
    assert scores == sorted(scores, reverse=True)
    if adapter.unanswerable:
        assert fields(prediction["best_span"]) == wanted[0]
    else:
        assert "best_span" not in prediction


def fields(answer: Row) -> tuple[Any, ...]:
    return answer["answer"], answer["start"], answer["end"], answer["score"]


def test_scores_of_everything_kept_add_up_to_one() -> None:
    adapter = made(stride=6, unanswerable=True, alternatives=19)
    rows = [row(text(4))]
    features = encoded(adapter, *rows)
    (prediction,) = decided(adapter, features, rows, drawn(features, 3))
    assert prediction["score"] + sum(a["score"] for a in prediction["alternatives"]) == pytest.approx(1)
    assert len(prediction["alternatives"]) == 10, "ten spans and no answer, less the one that is given"


def test_no_answer_score_is_the_least_null_minus_the_best_span_of_all_windows() -> None:
    adapter = made(train={"max_length": 10}, stride=0, unanswerable=True)
    rows = [row(text(10), question="w100 w101")]
    features = encoded(adapter, *rows)
    logits = [(np.zeros(len(f), np.float32), np.zeros(len(f), np.float32)) for f in features]
    logits[0][0][0], logits[1][0][0] = 7.0, 3.0
    logits[1][0][5], logits[1][1][6] = 2.0, 4.0
    (prediction,) = decided(adapter, features, rows, logits)
    assert prediction["no_answer_score"] == 3.0 - 6.0
    assert prediction["answer"] == "w6 w7"


def test_span_never_ends_before_it_starts_nor_outside_the_context() -> None:
    adapter = made(stride=1)
    rows = [row(text(5))]
    features = encoded(adapter, *rows)
    start, end = np.zeros(len(features[0]), np.float32), np.zeros(len(features[0]), np.float32)
    start[[1, 3, 9]] = end[[1, 3, 9]] = 99
    start[7], end[5] = 9, 8
    start[6] = 2
    (prediction,) = decided(adapter, features, rows, [(start, end)])
    assert prediction["answer"] == "w3", "the highest start, and the first of equal ends at or after it"


@pytest.mark.parametrize(("most", "answer"), [(1, "w4"), (2, "w4"), (3, "w2 w3 w4"), (30, "w2 w3 w4")])
def test_answer_is_no_longer_than_it_may_be(most: int, answer: str) -> None:
    adapter = made(stride=1, max_answer_length=most)
    rows = [row(text(5))]
    features = encoded(adapter, *rows)
    start, end = np.zeros(len(features[0]), np.float32), np.zeros(len(features[0]), np.float32)
    start[6], start[8], end[8] = 5, 1, 5
    (prediction,) = decided(adapter, features, rows, [(start, end)])
    assert prediction["answer"] == answer


def test_first_and_shortest_of_equal_spans_is_given() -> None:
    adapter = made(stride=1, alternatives=3)
    rows = [row(text(3))]
    features = encoded(adapter, *rows)
    zeros = np.zeros(len(features[0]), np.float32)
    (prediction,) = decided(adapter, features, rows, [(zeros, zeros)])
    assert prediction["answer"] == "w0"
    assert [each["answer"] for each in prediction["alternatives"]] == ["w0 w1", "w0 w1 w2", "w1"]
    assert prediction["score"] == pytest.approx(1 / 7)


def test_answer_that_is_as_good_as_none_is_given() -> None:
    adapter = made(stride=1, unanswerable=True)
    rows = [row(text(3))]
    features = encoded(adapter, *rows)
    zeros = np.zeros(len(features[0]), np.float32)
    (prediction,) = decided(adapter, features, rows, [(zeros, zeros)])
    assert (prediction["answer"], prediction["no_answer_score"]) == ("w0", 0.0)


@pytest.mark.parametrize(("threshold", "answer"), [(-2.5, ""), (-2.0, "w1"), (0.0, "w1")])
def test_threshold_decides_between_the_best_span_and_none(threshold: float, answer: str) -> None:
    adapter = made(stride=1, unanswerable=True, alternatives=1)
    adapter.from_state({"threshold": threshold})
    rows = [row(text(3))]
    features = encoded(adapter, *rows)
    logits = peak(features[0], 5, 5)
    logits[0][0] = 16
    (prediction,) = decided(adapter, features, rows, [logits])
    assert prediction["no_answer_score"] == -2
    assert prediction["best_span"]["answer"] == "w1"
    assert (prediction["best_span"]["start"], prediction["best_span"]["end"]) == (3, 5)
    assert prediction["answer"] == answer
    other = prediction["alternatives"][0]
    assert {prediction["answer"], other["answer"]} == {"", "w1"}
    assert (prediction if not answer else other)["end"] == 0


def test_threshold_is_no_matter_where_every_question_has_an_answer() -> None:
    adapter = made(stride=1)
    adapter.from_state({"threshold": -100.0})
    rows = [row(text(3))]
    features = encoded(adapter, *rows)
    (prediction,) = decided(adapter, features, rows, [peak(features[0], 0, 0)])
    assert prediction["answer"] == "w0"
    assert prediction["no_answer_score"] == 18


@pytest.mark.parametrize("unanswerable", [False, True])
@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("BERT", ""),
        ("BERT", "   "),
        ("BERT", "\x00\x01 \u200b"),
        ("RoBERTa", "\t \n"),
        ("ModernBERT", " "),
        ("DeBERTa-v2/v3", " \t "),
        ("XLNet", " \u3000"),
        ("GPT-2", "\xa0 "),
    ],
)
def test_context_without_a_span_has_no_answer(name: str, context: str, unanswerable: bool) -> None:
    adapter = made(stride=1, unanswerable=unanswerable, alternatives=3)
    example = row(context, question="good")
    features = adapter.encode([example], tokenizer_of(name))
    (prediction,) = decided(adapter, features, [example], drawn(features, 0))
    expected: Row = {"answer": "", "start": 0, "end": 0, "score": 1.0, "no_answer_score": None, "alternatives": []}
    assert prediction == expected | ({"best_span": None} if unanswerable else {})


@pytest.mark.parametrize("name", ["RoBERTa", "ModernBERT", "DeBERTa-v2/v3", "XLNet"])
def test_white_space_is_never_an_answer(name: str) -> None:
    """Though a window's best spans are all made of it."""
    adapter = made(train={"max_length": 64}, stride=8)
    example = row("\t" * 8 + " " * 8 + "good" + " " * 12, question="film")
    features = adapter.encode([example], tokenizer_of(name))
    logits = []
    for feature in features:
        blank = [b <= 16 and not example["context"][a:b].strip() for a, b in feature.aligned.spans]
        start = np.zeros(len(feature), np.float32)
        start[feature.aligned.first : feature.aligned.first + len(blank)] = 9 * np.array(blank)
        logits.append((start, start))
    (prediction,) = decided(adapter, features, [example], logits)
    assert prediction["answer"]
    assert prediction["answer"] == prediction["answer"].strip()
    assert prediction["answer"] in "good"


def test_cut_context_is_said() -> None:
    adapter = made(train={"on_long": "truncate"})
    rows = [row(text(30)), row(text(3))]
    features = encoded(adapter, *rows)
    found = decided(adapter, features, rows, drawn(features, 0))
    assert [prediction.get("truncated") for prediction in found] == [True, None]


def test_logits_of_any_size_give_scores() -> None:
    adapter = made(stride=1, unanswerable=True)
    rows = [row(text(3))]
    features = encoded(adapter, *rows)
    for factor in (1e4, -1e4):
        start = factor * np.arange(len(features[0]), dtype=np.float32)
        (prediction,) = decided(adapter, features, rows, [(start, start)])
        assert 0 <= prediction["score"] <= 1
        json.dumps(prediction, allow_nan=False)


# Offsets -----------------------------------------------------------------------------------------------------

PLACES = [
    ("a \U0001f600 film was \U0001f600\U0001f44d good", ["\U0001f600", "film", "\U0001f600\U0001f44d", "good"]),
    ("\u6211\u4eec \u770b\u4e86 film \u5f88\u597d\u3002 good", ["\u6211\u4eec", "film", "good"]),
    ("cafe\u0301 was \u0915\u093f\u0924\u093e\u092c\u0941 and \u0e17\u0e35\u0e48 we",
     ["cafe\u0301", "\u0915\u093f\u0924\u093e\u092c\u0941", "\u0e17\u0e35\u0e48", "was"]),
    ("\tthe\t\tfilm\n\n was\x0bgood\u3000meal \u00a0bright ",
     ["the", "film", "was", "good", "meal", "bright", "film\n\n was"]),
    ("\u2764\ufe0f film\u200b good\x00bad \x07 meal", ["\u2764\ufe0f", "film", "meal"]),
    ("\ufb01lm \uff47ood \u0130stanbul \u1e9e meal", ["\ufb01lm", "\uff47ood", "\u0130stanbul", "\u1e9e", "meal"]),
    ("\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd \u0645\u0650\u0635\u0652\u0631\u064f film",
     ["\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd", "\u0645\u0650\u0635\u0652\u0631\u064f", "film"]),
]  # fmt: skip


@cache
def tokenizer_of(name: str) -> Any:
    """Return the tokenizer of an encoder family."""
    return next(family for family in FAMILIES if family.name == name).tokenizer()


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    ("context", "answers"), PLACES, ids=["emoji", "chinese", "marks", "tabs", "odd", "folded", "vowels"]
)
@pytest.mark.parametrize("name", [family.name for family in FAMILIES])
def test_what_is_learned_is_what_is_answered(name: str, context: str, answers: list[str], left: bool) -> None:
    """A model that has learned its targets by heart gives the answers back, code point for code point."""
    # An answer is found from the window that owns its start, which shows half of the stride after it.
    adapter = made(train={"max_length": 64}, stride=40, left=left)
    before = "and it was a cold meal " * 3
    context = f"{before}{context} we and it {before}"
    for answer in answers:
        example = row(context, (answer, context.index(answer, len(before))), question="a")
        features = adapter.encode([example], tokenizer_of(name))
        null = [(f.aligned.null, f.aligned.null) for f in features]
        held = [f for f, none in zip(features, null, strict=True) if f.target != none]
        assert held, f"{answer!r} is in no window"
        logits = [peak(f, *f.target) for f in features]
        (prediction,) = decided(adapter, features, [example], logits)
        assert context[prediction["start"] : prediction["end"]] == prediction["answer"]
        assert prediction["answer"] == answer


def test_answer_takes_no_space_with_it() -> None:
    adapter = made(train={"max_length": 24}, stride=2)
    example = row("the film was good", question="a")
    (feature,) = adapter.encode([example], tokenizer_of("DeBERTa-v2/v3"))
    assert [example["context"][a:b] for a, b in feature.aligned.spans] == ["the", " film", " was", " good"]
    (prediction,) = decided(
        adapter, [feature], [example], [peak(feature, feature.aligned.first + 1, feature.aligned.first + 2)]
    )
    assert (prediction["answer"], prediction["start"], prediction["end"]) == ("film was", 4, 12)


def test_no_answer_stands_at_cls_wherever_the_tokenizer_puts_it() -> None:
    example = row("the film was good " * 12, question="a tool")
    for family in FAMILIES:
        features = made(train={"max_length": 30}, stride=2).encode([example], tokenizer_of(family.name))
        assert len(features) > 1
        for feature in features:
            place = feature.aligned
            assert not place.first <= place.null < place.first + len(place.spans)
            own = tokenizer_of(family.name).cls_token_id
            assert place.null == (0 if own is None else feature.input_ids.index(own))


def test_empty_question_of_an_encoder_without_cls_still_has_a_place_for_no_answer() -> None:
    adapter = made(train={"max_length": 16}, stride=4, unanswerable=True)
    example = row("the film was good", question="")
    features = adapter.encode([example], tokenizer_of("GPT-2"))
    assert len(features) > 1
    assert {f.aligned.null for f in features} == {0}
    (prediction,) = decided(adapter, features, [example], drawn(features, 0))
    assert prediction["best_span"]["answer"]


# Scores and threshold ----------------------------------------------------------------------------------------


def answered(answer: str, score: float | None, best: str | None = None) -> Row:
    span = {"answer": answer if best is None else best, "start": 0, "end": 1, "score": 0.5}
    shown = {"answer": answer, "start": 0, "end": len(answer), "score": 0.5, "no_answer_score": score}
    return shown | {"best_span": span if span["answer"] else None}


GOLD = [
    row("The cat sat on a mat.", ("The cat", 0), ("cat", 4), id="a"),
    row("The cat sat on a mat.", ("on a mat", 12), id="b"),
    row("The cat sat on a mat.", ("sat", 8), id="c"),
]
NONE = [row("The cat sat.", id="d"), row("The cat sat.", ("The cat", 0), id="e", is_impossible=True)]


def test_scores_are_those_of_the_squad_metric() -> None:
    predictions = [answered("cat", 0.0), answered("a mat.", 1.0), answered("dog", -1.0)]
    for prediction in predictions:
        prediction.pop("best_span")
    found = made(stride=1).score(predictions, GOLD)
    theirs = metrics.load("squad").compute(
        predictions=[{"id": g["id"], "prediction_text": p["answer"]} for g, p in zip(GOLD, predictions, strict=True)],
        references=[{"id": g["id"], "answers": g["answers"]} for g in GOLD],
    )
    assert found == theirs
    assert list(found) == ["f1", "exact_match"]
    assert found["exact_match"] == pytest.approx(100 / 3)
    assert found["f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)


def test_scores_where_there_may_be_no_answer_are_those_of_the_squad_v2_metric() -> None:
    adapter = made(stride=1, unanswerable=True)
    adapter.threshold = 1.5
    rows = GOLD + NONE
    best = ["cat", "a mat", "dog", "cat", "sat"]
    scores = [0.25, 1.0, 2.0, 3.0, 2.5]
    predictions = [answered("" if score > 1.5 else said, score, said) for said, score in zip(best, scores, strict=True)]
    submitted = [
        {"id": g["id"], "prediction_text": said, "no_answer_probability": score}
        for g, said, score in zip(rows, best, scores, strict=True)
    ]
    references = [{"id": g["id"], "answers": {"text": [], "answer_start": []}} for g in rows]
    for reference, g in zip(references, GOLD, strict=False):
        reference["answers"] = g["answers"]
    metric = metrics.load("squad_v2")
    tuned = metric.compute(predictions=submitted, references=references, no_answer_threshold=1.5)
    at_0 = metric.compute(predictions=submitted, references=references, no_answer_threshold=0.0)
    found = adapter.score(predictions, rows)
    assert found == {
        "f1": tuned["f1"],
        "exact_match": tuned["exact"],
        "f1_at_0": at_0["f1"],
        "exact_match_at_0": at_0["exact"],
    }
    assert found["f1"] != found["f1_at_0"]
    details = adapter.details(predictions, rows)
    assert details == {"threshold": 1.5} | {
        key: value for key, value in tuned.items() if key not in ("exact", "f1", "total")
    }


def test_details_without_a_threshold_are_those_of_the_answerable() -> None:
    predictions = [answered("cat", 0.0), answered("a mat.", 1.0), answered("dog", -1.0)]
    found = made(stride=1).details(predictions, GOLD)
    assert found == {"HasAns_exact": pytest.approx(100 / 3), "HasAns_f1": pytest.approx(500 / 9), "HasAns_total": 3}


def test_question_without_an_answer_is_scored_by_a_model_that_always_answers() -> None:
    found = made(stride=1).score([answered("cat", 0.0), answered("cat", 0.0)], [GOLD[0], NONE[0]])
    assert found == {"f1": 50.0, "exact_match": 50.0}


def test_intervals_stand_beside_the_scores() -> None:
    predictions = [answered("cat", 0.0), answered("a mat.", 1.0), answered("dog", -1.0)] * 10
    found = made(stride=1).score(predictions, GOLD * 10, resamples=200)
    assert list(found) == ["f1", "f1_interval", "exact_match", "exact_match_interval"]
    low, high = found["f1_interval"]
    assert low < found["f1"] < high


def test_chinese_answers_are_scored_by_characters() -> None:
    rows = [row("\u6211\u4eec\u770b\u4e86\u7535\u5f71", ("\u7535\u5f71", 4))]
    predictions = [answered("\u4e86\u7535\u5f71", 0.0)]
    assert made(stride=1, rules="cmrc2018").score(predictions, rows)["f1"] == pytest.approx(80)
    assert made(stride=1).score(predictions, rows)["f1"] == 0


def test_threshold_is_tuned_on_hand_made_predictions() -> None:
    adapter = made(stride=1, unanswerable=True)
    assert adapter.tunes
    predictions = [
        answered("The cat", -3.0),
        answered("", 0.5, "on a mat"),
        answered("", 2.0, "dog"),
        answered("", 2.0, "cat"),
        answered("", 4.0, "sat"),
    ]
    said = adapter.tune(predictions, GOLD + NONE)
    assert said == (
        "no-answer threshold 0.5000, tuned on 5 training questions held out for it: F1 80.00 there, 60.00 at "
        "threshold 0, and so few say little"
    )
    assert adapter.threshold == 0.5
    assert adapter.state() == {"threshold": 0.5}


def test_threshold_of_questions_without_a_span_is_zero() -> None:
    adapter = made(stride=1, unanswerable=True)
    adapter.tune([answered("", None)] * 3, NONE + GOLD[:1])
    assert adapter.threshold == 0.0
    json.dumps(adapter.state(), allow_nan=False)


def test_state_survives_json_to_the_last_digit() -> None:
    adapter, other = made(stride=1, unanswerable=True), made(stride=1, unanswerable=True)
    # Answering nothing is best, so the threshold is the next number below the lowest score.
    adapter.tune([answered("", 0.1, "dog"), answered("", 0.3, "dog")], [NONE[0], GOLD[0]])
    assert adapter.threshold == math.nextafter(0.1, -math.inf)
    other.from_state(json.loads(json.dumps(adapter.state())))
    assert other.threshold == adapter.threshold
    other.from_state({})
    assert other.threshold == adapter.threshold


@pytest.mark.parametrize(("rows", "kind"), [(GOLD[:2], "have an answer"), (NONE[:2], "have none")])
def test_threshold_is_not_tuned_on_questions_of_one_kind(rows: list[Row], kind: str) -> None:
    adapter = made(stride=1, unanswerable=True)
    said = adapter.tune([answered("", 0.1, "dog"), answered("", 0.3, "dog")], rows)
    assert said == f"no-answer threshold 0.0000, not tuned: all 2 held-out questions {kind}"
    assert adapter.threshold == 0.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-6, 6), st.sampled_from(["cat", "dog", "the cat", None]), st.booleans()),
                min_size=1, max_size=25))  # fmt: skip
def test_tuned_threshold_gives_the_f1_that_it_promises_and_none_gives_more(found: list[tuple[int, Any, bool]]) -> None:
    assume(len({has for _, _, has in found}) == 2)
    adapter = made(stride=1, unanswerable=True)
    rows = [GOLD[0] if has else NONE[0] for _, _, has in found]
    scores = [None if said is None else score / 20 for score, said, _ in found]

    def f1_at(threshold: float) -> float:
        adapter.threshold = threshold
        shown = [
            answered("" if score is None or score > threshold else said, score, said or "")
            for score, (_, said, _) in zip(scores, found, strict=True)
        ]
        return float(adapter.score(shown, rows)["f1"])

    said = adapter.tune([answered("", s, said or "") for s, (_, said, _) in zip(scores, found, strict=True)], rows)
    tuned = adapter.threshold
    every = [-10.0, *(score for score in scores if score is not None)]
    assert f1_at(tuned) == pytest.approx(max(map(f1_at, every)))
    assert f"F1 {f1_at(tuned):.2f} there, {f1_at(0.0):.2f} at threshold 0" in said


def test_better_is_higher() -> None:
    adapter = made(stride=1)
    assert adapter.better(1.0, None)
    assert adapter.better(2.0, 1.0)
    assert not adapter.better(1.0, 1.0)
    assert not adapter.better(math.nan, None)


def test_model_that_answers_nothing_is_named() -> None:
    nothing, something = answered("", 1.0, "cat"), answered("cat", -1.0)
    adapter = made(stride=1, unanswerable=True)
    assert adapter.constant([nothing, nothing], GOLD[:2]) == "no answer"
    assert adapter.constant([nothing, nothing], NONE) is None
    assert adapter.constant([nothing, something], GOLD[:2]) is None
    assert adapter.constant([nothing], GOLD[:1]) is None


def test_official_prediction_file_is_one_object_of_answers() -> None:
    adapter = made(stride=1)
    rows = [GOLD[0], GOLD[1] | {"id": 12}]
    found = SpanQA.writers["squad"](adapter, zip(rows, [answered("\u732b", 0.0), answered("", 1.0)], strict=True))
    assert json.loads("\n".join(found)) == {"a": "\u732b", "12": ""}


# Anything at all ---------------------------------------------------------------------------------------------

CHARACTERS = st.characters(exclude_categories=["Cs"])
anything = st.one_of(
    st.text(CHARACTERS, max_size=60),
    st.lists(st.sampled_from([*ODD, *WORDS, " ", " ", "a"]), max_size=40).map("".join),
    st.builds(lambda c, n: c * n, st.sampled_from("a\u6211\U0001f600\u0301"), st.integers(100, 400)),
    st.tuples(st.text(CHARACTERS, max_size=20), st.sampled_from(["x" * 300, "\u0e17\u0e35\u0e48" * 50])).map("".join),
)


def check_offsets(prediction: Row, context: str) -> None:
    """Hold every answer in a prediction against the text that its offsets cut."""
    best = prediction.get("best_span")
    for each in (prediction, *prediction["alternatives"], *([best] if best else [])):
        assert 0 <= each["start"] <= each["end"] <= len(context)
        assert context[each["start"] : each["end"]] == each["answer"] == each["answer"].strip()
        assert 0 <= each["score"] <= 1
        assert bool(each["answer"]) == (each["end"] > 0)
    assert (prediction["no_answer_score"] is None) == (best is None)
    json.dumps(prediction, allow_nan=False)


@settings(deadline=None, max_examples=150)
@given(
    context=anything,
    question=st.text(CHARACTERS, max_size=5),
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 2**31),
    left=st.booleans(),
)
def test_offsets_cut_the_text_that_they_name_whatever_the_text(
    context: str, question: str, family: Family, seed: int, left: bool
) -> None:
    adapter = made(left=left, train={"max_length": 130}, stride=20, unanswerable=True, alternatives=19)
    example = row(context, question=question)
    features = adapter.encode([example], tokenizer_of(family.name))
    assert all(len(f) <= 130 for f in features)
    for feature in features:
        spans = feature.aligned.spans
        assert len(spans) == 0 or (spans.min() >= 0 and spans.max() <= len(context))
        assert (spans[:, 0] <= spans[:, 1]).all()
    if not any(map(len, features)):
        return
    (prediction,) = decided(adapter, features, [example], drawn(features, seed))
    check_offsets(prediction, context)
    shown = [context[a:b] for f in features for a, b in f.aligned.spans]
    assert (prediction["best_span"] is None) == (not any(part.strip() for part in shown))


@pytest.mark.slow
def test_offsets_of_10000_contexts_cut_the_text_that_they_name(tiny_encoder: Path) -> None:
    from accelerate import Accelerator

    rng = random.Random(0)
    adapter = made(train={"max_length": 64}, stride=16, unanswerable=True, alternatives=5)
    loaded = encoder.load(encoder.find(str(tiny_encoder)), auto_class=adapter.auto_class, num_outputs=2, seed=0)
    adapter.bind(loaded.tokenizer)
    rows = [row(jumble(rng), question=jumble(rng)[:12]) for _ in range(10_000)]
    found = infer.predict(
        adapter, loaded.model, loaded.tokenizer, rows, accelerator=Accelerator(cpu=True), batch_tokens=16_384
    )
    answers = 0
    for example, prediction in zip(rows, found, strict=True):
        check_offsets(prediction, example["context"])
        answers += prediction["best_span"] is not None
    assert answers > 8000


def test_window_is_what_a_feature_knows() -> None:
    """Names that other modules and the docs rely on."""
    assert Window._fields == ("null", "first", "spans", "owned", "answerable")
