"""What all task types share: padding, columns, options, texts; and how a type is found by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertkit import adapters
from bertkit.adapters.base import Adapter, Feature, Padding, shown, too_long, without_surrogates
from bertkit.adapters.sequence_classification import SequenceClassification
from bertkit.config import TrainConfig
from bertkit.errors import ConfigError, TaskError
from bertkit.task import DataSource, Task


def made(**changes: Any) -> SequenceClassification:
    task = Task(name="x", type="sequence-classification", data=DataSource(), labels=("a", "b"), **changes)
    return SequenceClassification(task, TrainConfig(), task.labels)


def feature(*ids: int, types: list[int] | None = None, target: Any = None) -> Feature:
    return Feature(example=0, input_ids=list(ids), token_type_ids=types, target=target)


# Padding -----------------------------------------------------------------------------------------------------


def test_collate_pads_to_the_longest_on_the_right() -> None:
    adapter = made()
    adapter.padding = Padding(token=9, token_type=0, left=False)
    batch = adapter.collate([feature(1, 2, 3, types=[0, 1, 1]), feature(4, types=[1])])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1], [1, 0, 0]]
    assert "labels" not in batch


def test_collate_pads_on_the_left_where_the_tokenizer_does() -> None:
    adapter = made()
    adapter.bind(SimpleNamespace(pad_token_id=7, pad_token_type_id=3, padding_side="left"))  # type: ignore[arg-type]
    batch = adapter.collate([feature(1, 2, 3, types=[0, 0, 0]), feature(4, types=[0])])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [7, 7, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0], [3, 3, 0]]


def test_collate_leaves_type_ids_out_for_a_model_that_takes_none() -> None:
    assert set(made().collate([feature(1)])) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(("targets", "labelled"), [([0, 1], True), ([0, None], False), ([None, None], False)])
def test_collate_adds_labels_where_every_row_has_one(targets: list[Any], labelled: bool) -> None:
    batch = made().collate([feature(1, target=target) for target in targets])
    assert ("labels" in batch) is labelled
    assert "labels" not in made().inputs(batch)


# Columns and cells -------------------------------------------------------------------------------------------


def test_value_is_under_the_task_s_column_else_under_the_role() -> None:
    adapter = made(columns={"text": "sentence"})
    assert adapter.value({"sentence": "a", "text": "b"}, "text") == "a"
    assert adapter.value({"text": "b"}, "text") == "b"
    assert adapter.value({}, "text") is None
    assert adapter.has({"text": "b"}, "text")
    assert not adapter.has({"review": "b"}, "text")


@pytest.mark.parametrize(
    ("example", "problems"),
    [
        ({"sentence": "a"}, []),
        ({}, ["column 'sentence' is missing; there are none"]),
        ({"review": "a", "stars": 5}, ["column 'sentence' is missing; there are 'review', 'stars'"]),
        ({"sentence": None}, ["column 'sentence' is null, and must be a text"]),
        ({"sentence": ["a"]}, ["column 'sentence' is ['a'], and must be a text"]),
    ],
)
def test_check_text_says_what_is_wrong(example: dict[str, Any], problems: list[str]) -> None:
    assert made(columns={"text": "sentence"}).check_text(example, "text") == problems


def test_shown_value_is_cut_to_60_characters() -> None:
    assert shown("a" * 10) == "'aaaaaaaaaa'"
    assert len(shown("a" * 100)) == 60
    assert shown("a" * 100).endswith("...")


# Texts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain é 漢 😀", "plain é 漢 😀"),
        ("a \ud800 b", "a \ufffd b"),
        ("\udfff", "\ufffd"),
        ("\ud83d\ude00", "\ufffd\ufffd"),  # offsets stay what they are
    ],
)
def test_lone_surrogates_become_replacement_characters(text: str, seen: str) -> None:
    assert without_surrogates(text) == seen


@given(st.text(st.characters(codec=None, categories=None), max_size=30))
def test_every_text_can_be_encoded_afterwards(text: str) -> None:
    seen = without_surrogates(text)
    seen.encode("utf-8")
    if not any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        assert seen == text


def test_too_long_names_the_example_from_1() -> None:
    assert "Example 3 has 200 tokens, and train.max_length is 128" in str(too_long(2, 200, 128))


# Options and facts -------------------------------------------------------------------------------------------


class WithOptions(Adapter):
    """A type with options of its own."""

    options = {"stride": int, "loud": bool}  # noqa: RUF012


def test_unknown_option_is_refused_with_the_nearest() -> None:
    task = Task(name="x", type="span-qa", data=DataSource(), options={"strid": 3, "loud": 1})
    match = (
        r"options.strid is not a setting of span-qa. Did you mean 'stride'\?; options.loud is 1, and must be true or"
    )
    with pytest.raises(ConfigError, match=match):
        WithOptions(task, TrainConfig(), ())


def test_known_option_is_taken() -> None:
    WithOptions(
        Task(name="x", type="span-qa", data=DataSource(), options={"stride": 3, "loud": True}), TrainConfig(), ()
    )


def test_option_of_a_type_without_options_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"options\.stride is not a setting of sequence-classification"):
        made(options={"stride": 3})


def test_facts_are_json_and_hold_what_predict_needs() -> None:
    facts = json.loads(json.dumps(made(columns={"text": "sentence"}, kind="single").facts()))
    assert facts["type"] == "sequence-classification"
    assert facts["columns"] == {"text": "sentence"}
    assert facts["labels"] == ["a", "b"]
    assert (facts["max_length"], facts["on_long"]) == (128, "truncate")


def test_defaults_of_a_type_without_labels() -> None:
    adapter = Adapter(Task(name="x", type="x", data=DataSource()), TrainConfig(), ())
    assert adapter.problem_type == ""
    assert adapter.state() == {}
    assert adapter.balance([]) == {}
    assert adapter.stratum({}) is None
    assert adapter.constant([], []) is None
    assert adapter.class_weights([]) is None
    assert adapter.better(2, 1)
    assert not adapter.better(1, 1)


# Finding a type ----------------------------------------------------------------------------------------------


def test_types_are_the_modules() -> None:
    assert "sequence-classification" in adapters.types()
    assert not {"base", "--init--", "__init__"} & set(adapters.types())


def test_type_is_found_by_name() -> None:
    assert adapters.find("sequence-classification") is SequenceClassification


def test_unknown_type_is_refused_with_the_nearest() -> None:
    match = r"'sequence-clasification' is no task type. Did you mean 'sequence-classification'\? There are "
    with pytest.raises(TaskError, match=match):
        adapters.find("sequence-clasification")


@pytest.mark.parametrize("name", ["no_such_package_here.types", "json.no_such_module"])
def test_module_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(TaskError, match=f"'{name}' names a module that cannot be found. Is its package installed"):
        adapters.find(name)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package outside bertkit."""
    folder = tmp_path / "outside_types"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return folder


def test_type_outside_bertkit_is_its_module_s_one_adapter(package: Path) -> None:
    (package / "choice.py").write_text("from bertkit.adapters.base import Adapter\nclass Choice(Adapter):\n    pass\n")
    assert adapters.find("outside_types.choice").__name__ == "Choice"


@pytest.mark.parametrize(("number", "code"), [(0, "x = 1\n"), (2, "class A(Adapter): pass\nclass B(Adapter): pass\n")])
def test_module_without_exactly_one_adapter_is_refused(package: Path, number: int, code: str) -> None:
    (package / f"wrong{number}.py").write_text(f"from bertkit.adapters.base import Adapter\n{code}")
    match = f"outside_types.wrong{number} defines {number} adapters, and a task type is a module with exactly one"
    with pytest.raises(TaskError, match=match):
        adapters.find(f"outside_types.wrong{number}")
