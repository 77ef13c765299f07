"""Token tagging: words and tags, sub-tokens, windows, losses and predictions, against hand-made values."""

from __future__ import annotations

import json
import random
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertkit import encoder, infer, metrics
from bertkit.adapters import find, recognise
from bertkit.adapters.token_tagging import TokenTagging, prefix_space
from bertkit.config import TrainConfig
from bertkit.errors import ConfigError, DataError
from bertkit.task import DataSource, Task
from tests import families
from tests.adapters.test_words import TEXTS
from tests.families import FAMILIES, Family, slow_others
from tests.texts import jumble

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BYTE_LEVEL = [family for family in FAMILIES if family.name in ("RoBERTa", "GPT-2", "ModernBERT")]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def made(
    *,
    labels: tuple[str, ...] = LABELS,
    columns: dict[str, Any] | None = None,
    decode: str = "auto",
    options: dict[str, Any] | None = None,
    metric_names: tuple[str, ...] = ("f1", "tag_accuracy"),
    **train: Any,
) -> TokenTagging:
    task = Task(
        name="x",
        type="token-tagging",
        data=DataSource(),
        labels=labels,
        metrics=metric_names,
        columns=columns or {},
        options=options or {},
        settings={"eval": {"decode": decode}},
    )
    return TokenTagging(task, TrainConfig(**({"on_long": "window"} | train)), labels)


def tagged(text: str, tags: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {"tokens": text.split(" ") if text else []}
    return row | ({"tags": tags.split()} if tags or not text else {})


def raw(text: str, *entities: tuple[int, int, str]) -> dict[str, Any]:
    return {"text": text, "entities": [{"start": a, "end": b, "label": label} for a, b, label in entities]}


@cache
def tokenizer(name: str = "BERT") -> Any:
    """Return a family's tokenizer; BERT's takes a word that it does not know apart into letters."""
    made = next(family for family in FAMILIES if family.name == name).tokenizer()
    if made.pad_token is None:
        made.pad_token = made.eos_token
    return made


def resolved(rows: list[dict[str, Any]], **changes: Any) -> tuple[Task, list[str]]:
    return TokenTagging.resolve(Task(**({"name": "x", "type": "token-tagging", "data": DataSource()} | changes)), rows)


def by_token(adapter: TokenTagging, batch: dict[str, Any], vocabulary: int, seed: int = 0) -> Any:
    """Return the outputs of a model whose logits at a position depend on the token there alone."""
    table = np.random.default_rng(seed).standard_normal((vocabulary, len(adapter.labels))).astype(np.float32)
    return SimpleNamespace(logits=torch.tensor(table)[batch["input_ids"]])


def predicted(adapter: TokenTagging, rows: list[dict[str, Any]], tokens: Any, seed: int = 0) -> list[dict[str, Any]]:
    adapter.bind(tokens)
    features = adapter.encode(rows, tokens)
    batch = adapter.collate(features)
    reduced = adapter.reduce(by_token(adapter, batch, len(tokens), seed), batch)
    return adapter.decode(reduced, features, rows)


# What the data decides ---------------------------------------------------------------------------------------


def test_type_is_found_by_its_name_and_by_its_rows() -> None:
    assert find("token-tagging") is TokenTagging
    assert recognise([tagged("we met Ada", "O O B-PER")]) == "token-tagging"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([tagged("a b", "O O")], True),
        ([{"words": ["a"], "ner_tags": [0]}], True),
        ([{"text": "a b", "tokens": ["a", "b"], "upos": ["X", "X"]}], True),
        ([tagged("a b", "O O"), tagged("")], True),
        ([raw("a b", (0, 1, "PER"))], True),
        ([raw("a b"), raw("c", (0, 1, "LOC"))], True),
        ([], False),
        ([{"tokens": ["a", "b"], "tags": ["O"]}], False),
        ([tagged("a b", "O O"), tagged("a", "O"), {"tokens": ["a", "b"], "tags": ["O"]}], True),
        ([raw("a b"), raw("a b", (0, 1, "PER")), {"text": "a", "entities": [{"start": "0"}]}], True),
        ([tagged("a b", "O O"), {"text": "a", "label": "b"}], False),
        ([{"tokens": "a b", "tags": "O O"}], False),
        ([{"tokens": [1, 2], "tags": ["O", "O"]}], False),
        ([{"text": "a", "label": "b"}], False),
        ([{"text": "a", "entities": [{"start": 0}]}], False),
        ([{"text": "a", "labels": ["x", "y"]}], False),
    ],
)
def test_rows_are_recognised_by_words_with_tags_or_texts_with_entities(rows: list[Any], expected: bool) -> None:
    assert TokenTagging.recognises(rows) is expected


def test_missing_labels_are_the_distinct_tags_with_o_first() -> None:
    task, notes = resolved([tagged("a b c", "B-PER I-PER O")])
    assert task.labels == ("O", "B-PER", "I-PER")
    assert task.metrics == ("f1", "precision", "recall", "f1_macro", "tag_accuracy")
    assert task.options == {"scheme": "IOB2"}
    assert notes == ["labels are the 3 distinct tags, 'O' first", "the tags are BIO-like (IOB2)"]


def test_missing_labels_have_every_prefix_for_every_type() -> None:
    task, notes = resolved([tagged("a b c", "B-PER I-PER B-LOC"), tagged("a", "O")])
    assert task.labels == ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
    assert "'O' first, and I-LOC, so that every type has every prefix" in notes[0]


def test_tags_that_are_not_bio_like_are_scored_by_accuracy_alone() -> None:
    task, notes = resolved([tagged("a b c", "NOUN VERB X")])
    assert (task.labels, task.metrics, task.options) == (("NOUN", "VERB", "X"), ("tag_accuracy",), {})
    assert "labels are the 3 distinct tags, sorted" in notes
    assert "the tags are not BIO-like, so they make no entities" in notes


def test_numbers_without_labels_are_names_in_their_order() -> None:
    assert resolved([{"tokens": ["a"] * 3, "tags": [10, 9, 2]}])[0].labels == ("2", "9", "10")


def test_labels_of_entities_become_tags() -> None:
    task, _ = resolved([raw("Ada", (0, 3, "PER")), raw("b", (0, 1, "LOC"))], columns={})
    assert task.labels == ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
    assert (task.options, task.columns) == ({"scheme": "IOB2"}, {"text": "text", "entities": "entities"})


def test_iob1_is_told_by_the_sentences_and_kept_in_the_options() -> None:
    rows = [tagged("a b c", "I-PER I-PER B-PER"), tagged("a b", "O I-PER")]
    task, notes = resolved(rows)
    assert task.options == {"scheme": "IOB1"}
    assert "the tags are BIO-like (IOB1)" in notes
    assert TokenTagging(task, TrainConfig(), task.labels).scheme == "IOB1"
    ids = [
        {"tokens": row["tokens"], "tags": [("O", "B-PER", "I-PER").index(tag) for tag in row["tags"]]} for row in rows
    ]
    assert resolved(ids, labels=("O", "B-PER", "I-PER"))[0].options == {"scheme": "IOB1"}


def test_given_scheme_is_kept() -> None:
    assert resolved([tagged("a b", "O B-X")], options={"scheme": "IOB1"})[0].options == {"scheme": "IOB1"}


def test_columns_are_guessed_by_name() -> None:
    task, notes = resolved([{"words": ["a", "b"], "ner_tags": ["O", "B-X"], "pos_tags": ["X", "X"]}])
    assert task.columns == {"tokens": "words", "tags": "ner_tags"}
    assert any("column 'ner_tags' is taken as tags" in note for note in notes)


def test_numbers_of_columns_stay_for_the_conll_reader() -> None:
    task, _ = resolved([tagged("a b", "O B-X")], columns={"tokens": 0, "tags": 3})
    assert task.columns == {"tokens": 0, "tags": 3}
    adapter = TokenTagging(task, TrainConfig(), task.labels)
    assert adapter.gold(tagged("a b", "O B-X")) == ["O", "B-X"]
    assert adapter.check({"x": 1}) == ["column 'tokens' is missing, and so is 'text'; there are 'x'"]


def test_column_that_no_row_has_is_refused_where_another_would_take_its_place() -> None:
    with pytest.raises(
        DataError, match=r"No row has the column 'tag', which is named for tags\. Did you mean 'tags'\?"
    ):
        resolved([tagged("a b", "O B-X")], columns={"tags": "tag"})


def test_conll_file_has_the_roles_names_whatever_the_hub_calls_them() -> None:
    rows = [tagged("a b", "O B-X")]
    task, _ = resolved(rows, columns={"tags": "ner_tags"}, data=DataSource(format="conll"))
    assert task.columns["tags"] == "ner_tags"
    adapter = TokenTagging(task, TrainConfig(), task.labels)
    assert adapter.gold(rows[0]) == ["O", "B-X"]
    assert adapter.check(tagged("a b", "O")) == ["column 'tags' has 1 tags, and 'tokens' has 2 words"]


@pytest.mark.parametrize(
    "rows", [[{"tokens": ["a"]}], [{"text": "a", "label": "b"}], [{"tokens": ["a"], "tags": [None]}]]
)
def test_rows_without_tags_are_refused(rows: list[Any]) -> None:
    with pytest.raises(DataError, match=r"No row has tags: .* There are 't.*--set columns.tags=NAME"):
        resolved(rows)


def test_a_single_tag_is_refused() -> None:
    with pytest.raises(DataError, match=r"The tags are 1 distinct ones \('O'\), and tagging needs two"):
        resolved([tagged("a b", "O O")])


def test_entities_of_raw_texts_get_the_tags_of_the_scheme_that_is_named() -> None:
    rows = [raw("Ada met Bob Lee", (0, 3, "X"), (8, 15, "X"))]
    task, _ = resolved(rows, options={"scheme": "BIOES"})
    assert task.labels == ("O", "B-X", "E-X", "I-X", "S-X")
    assert made(labels=task.labels, options={"scheme": "BIOES"}).gold(rows[0]) == ["S-X", "O", "B-X", "E-X"]


def test_metric_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="Metric 'f1' is not defined for tags that are not BIO-like"):
        resolved([tagged("a b", "X Y")], metrics=("f1",))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"options": {"scheme": "BIO"}}, r"options\.scheme is 'BIO', and must be one of 'IOB2', 'IOB1'"),
        (
            {"options": {"counting": "loose"}},
            r"options\.counting is 'loose', and must be one of 'conlleval', 'strict'\.",
        ),
        ({"options": {"schema": "IOB2"}}, r"options\.schema is not a setting of token-tagging\. Did you mean 'scheme'"),
        ({"labels": ("NOUN", "VERB"), "decode": "viterbi"}, "eval.decode is 'viterbi', and the tags are not BIO-like"),
    ],
)
def test_wrong_option_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        made(**changes)


# Checks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        tagged("we met Ada", "O O B-PER"),
        {"tokens": ["we"], "tags": [1]},
        {"tokens": ("we",), "tags": ("O",)},
        {"tokens": [], "tags": []},
        {"tokens": ["", " "], "tags": ["O", "O"]},
        raw("Ada met Bob", (8, 11, "PER"), (0, 3, "PER")),
        raw(""),
        {"tokens": None, "tags": None, **raw("Ada", (0, 3, "PER"))},
        {"text": "other text", **tagged("a b", "O O")},
    ],
)
def test_good_row_has_no_faults(row: dict[str, Any]) -> None:
    assert made().check(row) == []
    assert made().check(row, labelled=False) == []


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"x": 1}, "column 'tokens' is missing, and so is 'text'; there are 'x'"),
        ({}, "column 'tokens' is missing, and so is 'text'; there are none"),
        ({"tokens": None}, "column 'tokens' is null, and must be a list of texts"),
        ({"tokens": "we met"}, "column 'tokens' is 'we met', and must be a list of texts"),
        ({"tokens": ["we", 3]}, "column 'tokens' holds 3 as word 2, and must hold texts"),
        ({"tokens": ["we", None]}, "column 'tokens' holds None as word 2, and must hold texts"),
        ({"text": None}, "column 'text' is null, and must be a text"),
        ({"text": 3}, "column 'text' is 3, and must be a text"),
        ({"text": ["we"]}, "column 'text' is ['we'], and must be a text"),
    ],
)
def test_row_without_words_is_faulty_even_to_predict(row: dict[str, Any], fault: str) -> None:
    assert made().check(row) == [fault]
    assert made().check(row, labelled=False) == [fault]


ALLOWED = "'O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC'"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (tagged("we met"), "column 'tags' holds no tags"),
        ({"tokens": ["we"], "tags": [None]}, "column 'tags' holds no tags"),
        ({"tokens": ["we"], "tags": "O"}, "column 'tags' is 'O', and must be a list of tags"),
        (tagged("we met", "O"), "column 'tags' has 1 tags, and 'tokens' has 2 words"),
        (tagged("we met", "O B-PERS"), f"word 2 ('met'): tag 'B-PERS' is not one of {ALLOWED}. Did you mean 'B-PER'?"),
        ({"tokens": ["we"], "tags": [5]}, f"word 1 ('we'): tag 5 is not one of {ALLOWED}."),
        ({"tokens": ["we"], "tags": [-1]}, f"word 1 ('we'): tag -1 is not one of {ALLOWED}."),
        ({"tokens": ["we"], "tags": [True]}, f"word 1 ('we'): tag True is not one of {ALLOWED}."),
        ({"tokens": ["a", "b"], "tags": ["O", None]}, f"word 2 ('b'): tag None is not one of {ALLOWED}."),
        ({"text": "we met"}, "column 'entities' holds no tags"),
        (
            {"text": "we", "entities": 3},
            "column 'entities' is 3, and must be a list of tables with start, end and label",
        ),
        (
            {"text": "we", "entities": [{"start": 0, "label": "PER"}]},
            "must be a list of tables with start, end and label",
        ),
        (
            {"text": "we", "entities": [{"start": 0.0, "end": 1, "label": "PER"}]},
            "column 'entities' holds {'start': 0.0, 'end': 1, 'label': 'PER'}, and must be a list of tables",
        ),
        (raw("we", (0, 3, "PER")), "entity 0-3: it must have 0 <= start < end <= 2, the length of the text"),
        (raw("we", (-1, 1, "PER")), "entity -1-1: it must have 0 <= start < end <= 2, the length of the text"),
        (raw("we", (1, 1, "PER")), "entity 1-1: it must have 0 <= start < end"),
        (raw("we met", (0, 4, "PER"), (3, 6, "LOC")), "entity 3-6: it overlaps another, which ends at 4"),
        (raw("we  met", (2, 4, "PER")), "entity 2-4: it holds white space alone"),
        (raw("we", (0, 2, "PERS")), "label 'PERS' is not one of 'LOC', 'PER'. Did you mean 'PER'?"),
    ],
)
def test_row_with_wrong_tags_is_faulty(row: dict[str, Any], fault: str) -> None:
    (found,) = made().check(row)
    assert fault in found
    assert made().check(row, labelled=False) == []


def test_entity_whose_tags_are_not_labels_is_faulty() -> None:
    adapter = made(labels=("O", "B-PER", "B-LOC"))
    assert adapter.check(raw("Ada L", (0, 5, "PER"))) == [
        "its entities need the tag 'I-PER', which is not one of the labels"
    ]


def test_faults_of_a_row_are_named_up_to_three() -> None:
    assert len(made().check(tagged("a b c d e", "x x x x x"))) == 3


def test_tag_that_is_a_number_is_a_name_first() -> None:
    assert made(labels=("1", "0")).gold({"tokens": ["a", "b"], "tags": [1, 0]}) == ["1", "0"]
    assert made(labels=("1", "0")).check({"tokens": ["a"], "tags": [2]}) == [
        "word 1 ('a'): tag 2 is not one of '1', '0'."
    ]


# Entities of raw texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "tags"),
    [
        (raw("Ada Bell met Bob.", (0, 8, "PER"), (13, 16, "PER")), "B-PER I-PER O B-PER O"),
        (raw("Ada Bob", (4, 7, "LOC"), (0, 3, "PER")), "B-PER B-LOC"),
        (raw("unhappy", (2, 7, "PER")), "B-PER"),
        (raw("in Rome-Ost", (1, 9, "LOC")), "B-LOC I-LOC I-LOC I-LOC"),
        (raw("AdaBob Eve", (0, 3, "PER"), (3, 10, "LOC")), "B-PER B-LOC"),
        (raw("AdaBob", (0, 3, "PER"), (3, 6, "LOC")), "B-PER"),
        (raw("北京 人", (0, 2, "LOC")), "B-LOC I-LOC O"),
    ],
)
def test_entities_become_the_tags_of_the_words_that_they_touch(row: dict[str, Any], tags: str) -> None:
    adapter = made()
    assert adapter.check(row) == []
    assert adapter.gold(row) == tags.split()


@pytest.mark.parametrize(
    ("labels", "tags"),
    [
        ("O B-X I-X E-X S-X", "B-X I-X E-X O S-X B-X E-X"),
        ("O B-X I-X L-X U-X", "B-X I-X L-X O U-X B-X L-X"),
        ("O I-X", "I-X I-X I-X O I-X I-X I-X"),
        ("O B-X I-X", "B-X I-X I-X O B-X B-X I-X"),
    ],
)
def test_entities_are_written_in_the_scheme_of_the_labels(labels: str, tags: str) -> None:
    row = raw("a b c d e f g", (0, 5, "X"), (8, 9, "X"), (10, 13, "X"))
    assert made(labels=tuple(labels.split())).gold(row) == tags.split()


def test_remarks_count_widened_and_lost_entities_and_illegal_tags() -> None:
    rows = [
        raw("unhappy Ada", (2, 7, "PER"), (8, 11, "PER")),
        raw("AdaBob", (0, 3, "PER"), (3, 6, "LOC")),
        {"text": "a"},
    ]
    assert made().remarks(rows) == [
        "3 entities of 4 widened to whole words",
        "1 entity lost, since another has the word that they are part of",
    ]
    assert made().remarks([tagged("a b c", "I-PER O B-LOC"), tagged("a b", "B-PER I-LOC")]) == [
        "2 places where the tags are not legal IOB2"
    ]
    assert made().remarks([tagged("a b", "B-PER I-PER")]) == []
    assert made(labels=("X", "Y")).remarks([tagged("a b", "X Y")]) == []


def test_balance_counts_entities_by_type_else_words_by_tag() -> None:
    rows = [tagged("a b c", "B-PER I-PER B-PER"), raw("Ada", (0, 3, "PER")), {"text": "unlabelled"}]
    assert made().balance(rows) == {"LOC": 0, "PER": 3}
    assert made(labels=("X", "Y", "Z")).balance([tagged("a b c", "X Y X")]) == {"X": 2, "Y": 1, "Z": 0}


def test_stratum_is_whether_there_is_an_entity() -> None:
    assert made().stratum(tagged("a b", "O B-PER")) is True
    assert made().stratum(tagged("a b", "O O")) is False
    assert made().stratum(tagged("a b")) is None
    assert made(labels=("X", "Y")).stratum(tagged("a", "X")) is None


def test_labelled_is_any_sentence_with_tags_or_entities() -> None:
    assert made().labelled([tagged("a"), tagged("b", "O")])
    assert made().labelled([{"text": "a", "entities": []}])
    assert not made().labelled([tagged("a"), {"text": "b"}, {"tokens": ["a"], "tags": [None]}])


def test_sentence_without_words_cannot_be_trained_on() -> None:
    assert made().unusable({"tokens": [], "tags": []}) == "it has no word"
    assert made().unusable(raw(" \t")) == "it has no word"
    assert made().unusable(tagged("a", "O")) == ""


def test_bare_text_is_a_row_of_the_text_column() -> None:
    assert made().example_of("Ada") == {"text": "Ada"}
    assert made(columns={"text": "body"}).example_of("Ada") == {"body": "Ada"}


# Sub-tokens --------------------------------------------------------------------------------------------------

AWKWARD = [
    tagged("the filmed wasps we", "B-PER I-PER O B-LOC"),
    {"tokens": ["\x00", "good", "", " ", "\u200b", "\ufffd", "\ud83d\ude00", "é", "[SEP]"], "tags": ["O"] * 9},
    {"tokens": [], "tags": []},
    {"tokens": ["", ""], "tags": ["B-PER", "I-PER"]},
    raw("The film, was\tgood!\u200b \x07 北京 e\u0301t 👩‍💻", (4, 8, "PER")),
    raw(""),
    raw(" \n\u3000"),
    {"tokens": ["\x01", "\x02"], "tags": ["O", "O"]},
]


@each_family
def test_first_sub_token_of_each_word_is_labelled(family: Family) -> None:
    tokens, adapter = tokenizer(family.name), made()
    adapter.bind(tokens)
    row = tagged("good the filmed wasps we", "O B-PER I-PER O B-LOC")
    (feature,) = adapter.encode([row], tokens)
    assert feature.aligned.words == [0, 1, 2, 3, 4]
    firsts = [
        tokens.backend_tokenizer.encode([w], is_pretokenized=True, add_special_tokens=False) for w in row["tokens"]
    ]
    assert [feature.input_ids[place] for place in feature.aligned.places] == [first.ids[0] for first in firsts]
    targets = {place: target for place, target in enumerate(feature.target) if target != -100}
    assert targets == dict(zip(feature.aligned.places, [0, 1, 2, 0, 3], strict=True))
    assert len(feature) > 5


@each_family
def test_every_word_gets_a_tag_whatever_the_tokenizer_leaves_of_it(family: Family) -> None:
    tokens, adapter = tokenizer(family.name), made(max_length=16)
    assert [adapter.check(row) for row in AWKWARD] == [[]] * len(AWKWARD)
    adapter.bind(tokens)
    features = adapter.encode(AWKWARD, tokens)
    assert {feature.example for feature in features} == set(range(len(AWKWARD)))
    assert all(0 < len(feature) <= 16 for feature in features)
    predictions = predicted(adapter, AWKWARD, tokens)
    assert [len(p["tags"]) for p in predictions] == [len(adapter.gold(row)) for row in AWKWARD]
    seen = [(f.example, word) for f in features for word in f.aligned.words]
    assert len(seen) == len(set(seen))
    for place, prediction in enumerate(predictions):
        unseen = set(range(len(prediction["tags"]))) - {word for example, word in seen if example == place}
        assert all(prediction["tags"][word] == "O" for word in unseen)


def test_word_of_which_nothing_is_left_is_outside_and_counted() -> None:
    adapter, tokens = made(), tokenizer()
    rows = [{"tokens": ["good", "\x00", "\u200b", "film"], "tags": ["B-PER", "I-PER", "I-PER", "I-PER"]}]
    features = adapter.encode(rows, tokens)
    assert features[0].aligned.words == [0, 3]
    assert predicted(adapter, rows, tokens)[0]["tags"][1:3] == ["O", "O"]
    found = adapter.truncation(features, rows)
    assert (found["words"], found["words_without_token"], found["words_past_limit"]) == (4, 2, 0)
    assert adapter.truncation_notes(found) == ["2 words (50.0%) of which the tokenizer leaves nothing, tagged 'O'"]


@pytest.mark.parametrize("family", BYTE_LEVEL, ids=lambda family: family.name)
def test_byte_level_words_begin_with_a_space_here_and_after_saving(family: Family, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokens = family.tokenizer()
    tokens.pad_token = tokens.pad_token or tokens.eos_token
    made().bind(tokens)
    rows = [tagged("good film", "O O")]
    (feature,) = made().encode(rows, tokens)
    assert [tokens.convert_ids_to_tokens(feature.input_ids[place]) for place in feature.aligned.places] == ["Ġ", "Ġ"]
    tokens.save_pretrained(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain.add_prefix_space
    assert plain(["good", "film"], is_split_into_words=True)["input_ids"] == feature.input_ids
    assert plain("good film")["input_ids"] == feature.input_ids
    before = tokens.backend_tokenizer.to_str()
    prefix_space(tokens)
    assert tokens.backend_tokenizer.to_str() == before


def test_encoding_alone_puts_the_space_there_as_for_bertkit_check() -> None:
    tokens = BYTE_LEVEL[0].tokenizer()
    (feature,) = made().encode([tagged("good", "O")], tokens)
    assert tokens.convert_ids_to_tokens(feature.input_ids[1]) == "Ġ"


def test_byte_level_behind_another_splitter_gets_one_space_a_word(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokens = families.modernbert()
    tokens.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    for _ in range(2):
        prefix_space(tokens)
    assert tokens(["a.b", "c"], is_split_into_words=True).tokens() == ["[CLS]", *"Ġa.bĠc", "[SEP]"]
    tokens.save_pretrained(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain(["a.b", "c"], is_split_into_words=True).tokens() == ["[CLS]", *"Ġa.bĠc", "[SEP]"]


@pytest.mark.parametrize("name", ["BERT", "XLM-R", "DeBERTa-v2/v3"])
def test_tokenizer_that_needs_no_space_is_left_as_it_is(name: str) -> None:
    tokens = next(family for family in FAMILIES if family.name == name).tokenizer()
    before = tokens.backend_tokenizer.to_str()
    prefix_space(tokens)
    assert tokens.backend_tokenizer.to_str() == before


# Lengths -----------------------------------------------------------------------------------------------------


def sentence(length: int, seed: int = 0) -> dict[str, Any]:
    """Return a sentence of words that are one to four sub-tokens long."""
    rng = np.random.default_rng(seed)
    words = [["good", "film", "wax", "by", "zinc"][place] for place in rng.integers(5, size=length)]
    return {"tokens": words, "tags": [LABELS[place] for place in rng.integers(len(LABELS), size=length)]}


@pytest.mark.parametrize("max_length", [8, 9, 13, 16, 32, 64])
@pytest.mark.parametrize("length", [1, 6, 7, 20, 50])
@pytest.mark.parametrize("decode", ["auto", "argmax"])
def test_windows_together_give_what_the_whole_sentence_gives(max_length: int, length: int, decode: str) -> None:
    rows, tokens = [sentence(length, seed) for seed in range(3)], tokenizer()
    windows = made(max_length=max_length, decode=decode)
    assert predicted(windows, rows, tokens) == predicted(made(max_length=512, decode=decode), rows, tokens)
    features = windows.encode(rows, tokens)
    for place, row in enumerate(rows):
        mine = [feature for feature in features if feature.example == place]
        assert [word for feature in mine for word in feature.aligned.words] == list(range(length))
        targets = [target for feature in mine for target in feature.target if target != -100]
        assert [LABELS[target] for target in targets] == row["tags"]
    assert all(len(feature) <= max_length for feature in features)
    assert not any(feature.num_cut for feature in features)


def test_word_is_answered_for_by_the_window_that_shows_most_around_it() -> None:
    rows = [{"tokens": ["good"] * 14, "tags": ["O"] * 14}]
    first, second = made(max_length=12).encode(rows, tokenizer())
    # 10 words of room: 0-9, and 8-13, of which the second answers from where it shows more on its smaller side.
    assert (len(first), len(second)) == (12, 8)
    assert first.aligned.words == list(range(9))
    assert second.aligned.words == list(range(9, 14))
    assert second.target == [-100, -100, 0, 0, 0, 0, 0, -100]


def test_truncated_words_are_outside_and_counted() -> None:
    adapter, tokens = made(max_length=8, on_long="truncate"), tokenizer()
    rows = [{"tokens": ["good"] * 9, "tags": ["O"] * 5 + ["O", "B-PER", "I-PER", "O"]}, tagged("good", "O")]
    features = adapter.encode(rows, tokens)
    assert [feature.num_cut for feature in features] == [3, 0]
    assert features[0].aligned.past_limit == [6, 7, 8]
    long, short = predicted(adapter, rows, tokens)
    assert long["tags"][6:] == ["O", "O", "O"]
    assert (long["truncated"], "truncated" in short) == (True, False)
    found = adapter.truncation(features, rows)
    assert (found["examples"], found["words"], found["words_past_limit"], found["entity_words_past_limit"]) == (
        1,
        10,
        3,
        2,
    )
    assert adapter.truncation_notes(found)[1:] == [
        "3 words (30.0%) past the limit, tagged 'O', 2 of them inside an entity"
    ]


def test_head_and_tail_are_shown_and_the_middle_is_outside() -> None:
    adapter = made(max_length=10, on_long="head-tail")
    (feature,) = adapter.encode([{"tokens": ["good"] * 12}], tokenizer())
    assert feature.aligned.words == [0, 1, 6, 7, 8, 9, 10, 11]
    assert feature.aligned.past_limit == [2, 3, 4, 5]
    assert feature.target is None


def test_word_that_is_cut_in_two_is_still_tagged() -> None:
    adapter = made(max_length=8, on_long="truncate")
    (feature,) = adapter.encode([{"tokens": ["good"] * 5 + ["wax"]}], tokenizer())
    assert feature.aligned.words == [0, 1, 2, 3, 4, 5]
    assert (feature.num_cut, feature.aligned.past_limit) == (2, [])


def test_word_longer_than_a_window_is_tagged_once() -> None:
    rows = [{"tokens": ["good", "zqxjk" * 10, "film"]}]
    features = made(max_length=12).encode(rows, tokenizer())
    assert len(features) > 3
    assert [word for feature in features for word in feature.aligned.words] == [0, 1, 2]


def test_too_long_sentence_is_refused_where_asked() -> None:
    with pytest.raises(DataError, match=r"Example 2 has 11 tokens, and train.max_length is 8 with on_long = 'error'"):
        made(max_length=8, on_long="error").encode([{"tokens": ["good"]}, {"tokens": ["good"] * 9}], tokenizer())


def test_nothing_is_said_where_nothing_is_lost() -> None:
    adapter, rows = made(), [tagged("good film", "O O")]
    found = adapter.truncation(adapter.encode(rows, tokenizer()), rows)
    assert found["share_of_words_past_limit"] == found["share_of_words_without_token"] == 0
    assert adapter.truncation_notes(found) == []


# Loss --------------------------------------------------------------------------------------------------------


def batch_of(adapter: TokenTagging, rows: list[dict[str, Any]], name: str = "BERT") -> dict[str, Any]:
    adapter.bind(tokenizer(name))
    return adapter.collate(adapter.encode(rows, tokenizer(name)))


ROWS = [tagged("good wax film", "B-PER I-PER O"), tagged("the", "B-LOC"), tagged("")]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["BERT", "XLNet"])
def test_loss_is_cross_entropy_over_first_sub_tokens(name: str, smoothing: float) -> None:
    adapter = made(label_smoothing=smoothing)
    batch = batch_of(adapter, ROWS, name)
    logits = torch.randn(*batch["input_ids"].shape, len(LABELS), generator=torch.Generator().manual_seed(1))
    found = adapter.loss(SimpleNamespace(logits=logits), batch)
    at, want = logits[batch["labels"] != -100], torch.tensor([1, 2, 0, 3])
    expected = torch.nn.functional.cross_entropy(at, want, label_smoothing=smoothing, reduction="sum")
    assert (float(found.sum), float(found.weight)) == (pytest.approx(float(expected)), 4.0)


def test_targets_and_words_move_with_left_padding() -> None:
    assert tokenizer("XLNet").padding_side == "left"
    adapter = made()
    batch = batch_of(adapter, ROWS, "XLNet")
    padding = batch["attention_mask"] == 0
    assert bool(padding[1, 0])
    assert not bool(padding[:, -1].any())
    assert bool((batch["labels"][padding] == -100).all())
    assert torch.equal(batch["owned"] == 1, batch["labels"] != -100)
    alone = batch_of(adapter, ROWS[1:2], "XLNet")
    width = alone["input_ids"].shape[1]
    assert torch.equal(batch["labels"][1, -width:], alone["labels"][0])
    assert torch.equal(batch["input_ids"][1, -width:], alone["input_ids"][0])


def test_model_is_given_neither_targets_nor_words() -> None:
    adapter = made()
    assert set(adapter.inputs(batch_of(adapter, ROWS))) == {"input_ids", "attention_mask", "token_type_ids"}


def test_batch_without_tags_has_no_targets() -> None:
    assert "labels" not in batch_of(made(), [tagged("good film"), ROWS[0]])


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_batch_without_a_word_has_no_loss_and_no_weight(weights: str) -> None:
    adapter = made(class_weights=weights, label_smoothing=0.1)
    adapter.prepare(adapter.encode(ROWS, tokenizer()))
    batch = batch_of(adapter, [tagged(""), {"tokens": ["\x00"], "tags": ["O"]}])
    logits = torch.randn(*batch["input_ids"].shape, len(LABELS), requires_grad=True)
    found = adapter.loss(SimpleNamespace(logits=logits), batch)
    found.sum.backward()
    assert (float(found.sum.detach()), float(found.weight)) == (0.0, 0.0)
    assert not bool(logits.grad.any())


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    adapter = made(labels=("O", "B-PER", "B-LOC"), class_weights="balanced")
    rows = [tagged("a b c d", "O O B-PER O"), tagged("a b", "B-LOC O")]
    adapter.prepare(adapter.encode(rows, tokenizer()))
    tags = np.array([0, 0, 1, 0, 2, 0])
    assert adapter.weights == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=tags).tolist())
    batch = batch_of(adapter, rows)
    logits = torch.randn(*batch["input_ids"].shape, 3)
    found = adapter.loss(SimpleNamespace(logits=logits), batch)
    expected = torch.nn.functional.cross_entropy(
        logits[batch["labels"] != -100], torch.tensor(tags), weight=torch.tensor(adapter.weights)
    )
    assert float(found.sum / found.weight) == pytest.approx(float(expected))


def test_label_that_train_lacks_has_weight_zero() -> None:
    adapter = made(class_weights="balanced")
    adapter.prepare(adapter.encode([tagged("a b", "O B-PER")], tokenizer()))
    assert adapter.weights[2:] == [0.0, 0.0, 0.0]


def test_windows_weigh_each_word_once() -> None:
    whole, parts = made(max_length=512), made(max_length=9)
    row = sentence(30)
    one, many = batch_of(whole, [row]), batch_of(parts, [row])
    losses = [a.loss(by_token(a, b, len(tokenizer())), b) for a, b in ((whole, one), (parts, many))]
    assert len(many["input_ids"]) > 3
    assert [float(found.weight) for found in losses] == [30.0, 30.0]
    assert float(losses[1].sum) == pytest.approx(float(losses[0].sum), rel=1e-5)


# Predictions -------------------------------------------------------------------------------------------------


def decoded(adapter: TokenTagging, row: dict[str, Any], logits: list[list[float]]) -> dict[str, Any]:
    """Return the prediction for logits of the words that have a token."""
    features = adapter.encode([row], tokenizer())
    (prediction,) = adapter.decode(
        [np.array(logits, dtype=np.float32).reshape(-1, len(adapter.labels))], features, [row]
    )
    return prediction


def test_reduce_keeps_the_words_logits_in_float32() -> None:
    adapter = made()
    batch = batch_of(adapter, ROWS)
    logits = torch.randn(*batch["input_ids"].shape, len(LABELS))
    kept = adapter.reduce(SimpleNamespace(logits=logits.bfloat16()), batch)
    assert [part.shape for part in kept] == [(3, 5), (1, 5), (0, 5)]
    assert all(part.dtype == np.float32 for part in kept)
    assert np.array_equal(kept[1][0], logits.bfloat16()[1, 1].float().numpy())


def test_viterbi_gives_the_likeliest_legal_tags_and_argmax_the_likeliest() -> None:
    # "I-PER" is likeliest for the first word, and may not begin a sentence.
    logits = [[0.0, 1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0, 0.0]]
    row = tagged("good film")
    assert decoded(made(), row, logits)["tags"] == ["B-PER", "I-PER"]
    assert decoded(made(decode="viterbi"), row, logits)["tags"] == ["B-PER", "I-PER"]
    assert decoded(made(decode="argmax"), row, logits)["tags"] == ["I-PER", "I-PER"]


@pytest.mark.parametrize("labels", ["O B-X I-X B-Y I-Y", "O B-X I-X E-X S-X", "O B-X I-X L-X U-X", "B-X I-X"])
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.booleans(), min_size=1, max_size=4))
def test_viterbi_is_the_best_of_all_legal_sequences(labels: str, seed: int, shown: list[bool]) -> None:
    adapter = made(labels=tuple(labels.split()))
    table = np.random.default_rng(seed).standard_normal((sum(shown), len(adapter.labels)))
    row = {"tokens": ["good" if seen else "\x00" for seen in shown]}
    tags = decoded(adapter, row, table.tolist())["tags"]
    assert [tag for tag, seen in zip(tags, shown, strict=True) if not seen] == ["O"] * (len(shown) - sum(shown))
    outside = np.full(len(adapter.labels), -1e9)
    outside[0] = 0
    rows = iter(table)
    if "O" in adapter.labels:
        full = np.array([next(rows) if seen else outside for seen in shown])
        legal = [ids for ids in product(range(len(adapter.labels)), repeat=len(shown)) if _legal(adapter, ids)]
        best = max(legal, key=lambda ids: sum(full[place, tag] for place, tag in enumerate(ids)))
        assert tags == [adapter.labels[tag] for tag in best]


def _legal(adapter: TokenTagging, ids: tuple[int, ...]) -> bool:
    return adapter._illegal([[adapter.labels[tag] for tag in ids]]) == 0


def test_score_of_an_entity_is_the_mean_probability_of_its_words() -> None:
    logits = [[0.0, np.log(4.0), 0.0, 0.0, 0.0], [0.0, 0.0, np.log(12.0), 0.0, 0.0], [9.0, 0.0, 0.0, 0.0, 0.0]]
    found = decoded(made(), tagged("good film was"), logits)
    assert found["words"] == [[0, 4], [5, 9], [10, 13]]
    assert found["tags"] == ["B-PER", "I-PER", "O"]
    (entity,) = found["entities"]
    assert entity.pop("score") == pytest.approx((4 / 8 + 12 / 16) / 2)
    assert entity == {"label": "PER", "start": 0, "end": 9, "text": "good film"}
    json.dumps(found, allow_nan=False)


def test_raw_text_gets_offsets_into_the_text_as_given() -> None:
    text = "\ufeff Good\u200b  film,\x00 北!"
    one = [0.0, 9.0, 0.0, 0.0, 0.0]
    found = predicted(made(decode="argmax"), [{"text": text}], tokenizer())[0]
    assert [text[a:b] for a, b in found["words"]] == ["\ufeff", "Good\u200b", "film", ",\x00", "北", "!"]
    features = made().encode([{"text": text}], tokenizer())
    assert features[0].aligned.words == [1, 2, 3, 4, 5]
    (prediction,) = made().decode([np.array([one] * 5, dtype=np.float32)], features, [{"text": text}])
    assert prediction["tags"] == ["O", *["B-PER"] * 5]
    assert [entity["text"] for entity in prediction["entities"]] == ["Good\u200b", "film", ",\x00", "北", "!"]


def test_tags_that_are_not_bio_like_make_no_entities() -> None:
    adapter = made(labels=("B", "X"), metric_names=("tag_accuracy",), options={})
    assert adapter.scheme == ""
    assert decoded(adapter, tagged("good film"), [[1.0, 0.0], [0.0, 1.0]]) == {
        "words": [[0, 4], [5, 9]],
        "tags": ["B", "X"],
        "entities": [],
    }


def test_unseen_word_is_outside_even_where_that_is_no_label() -> None:
    adapter = made(labels=("NOUN", "VERB"), metric_names=("tag_accuracy",))
    row = {"tokens": ["good", "\x00"], "tags": ["NOUN", "VERB"]}
    found = decoded(adapter, row, [[1.0, 0.0]])
    assert found["tags"] == ["NOUN", "O"]
    assert adapter.score([found], [row]) == {"tag_accuracy": 0.5}


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from(["BERT", "RoBERTa", "XLM-R", "XLNet"]), st.integers(0, 99))
def test_offsets_cut_the_text_that_they_name(text: str, name: str, seed: int) -> None:
    adapter = made(max_length=16)
    rows = [{"text": text}]
    assert adapter.check(rows[0], labelled=False) == []
    (found,) = predicted(adapter, rows, tokenizer(name), seed)
    assert len(found["words"]) == len(found["tags"])
    spans = {(start, end) for start, end in found["words"]}
    for entity in found["entities"]:
        assert entity["text"] == text[entity["start"] : entity["end"]] != ""
        assert 0 < entity["score"] <= 1
        assert any(start == entity["start"] for start, _ in spans)
        assert any(end == entity["end"] for _, end in spans)
    assert adapter._illegal([found["tags"]]) == 0


@pytest.mark.slow
def test_offsets_of_10000_sentences_cut_the_text_that_they_name(tiny_encoder: Path) -> None:
    from accelerate import Accelerator

    rng = random.Random(0)
    adapter = made(max_length=64)
    source = encoder.find(str(tiny_encoder))
    loaded = encoder.load(source, auto_class=adapter.auto_class, labels=adapter.labels, seed=0)
    adapter.bind(loaded.tokenizer)
    rows = [{"text": jumble(rng)} for _ in range(10_000)]
    found = infer.predict(
        adapter, loaded.model, loaded.tokenizer, rows, accelerator=Accelerator(cpu=True), batch_tokens=16_384
    )
    entities = 0
    for row, prediction in zip(rows, found, strict=True):
        text = row["text"]
        words = [text[start:end] for start, end in prediction["words"]]
        assert len(words) == len(prediction["tags"])
        assert "".join(words) == "".join(text.split())
        for entity in prediction["entities"]:
            assert entity["text"] == text[entity["start"] : entity["end"]] != ""
        entities += len(prediction["entities"])
    assert entities > 10_000


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, max_size=8), st.sampled_from(["BERT", "RoBERTa", "XLM-R", "GPT-2"]))
def test_word_lists_get_as_many_tags_as_words(words: list[str], name: str) -> None:
    (found,) = predicted(made(max_length=12), [{"tokens": words}], tokenizer(name))
    assert len(found["tags"]) == len(words)
    text = " ".join(words)
    assert [text[start:end] for start, end in found["words"]] == words


# Scores ------------------------------------------------------------------------------------------------------


def as_predictions(*tags: str) -> list[dict[str, Any]]:
    return [{"tags": each.split()} for each in tags]


GOLD = [tagged("a b c d", "B-PER I-PER O B-LOC"), tagged("a b c", "O B-LOC I-LOC"), tagged("")]
GIVEN = as_predictions("B-PER I-PER O O", "I-LOC B-LOC I-LOC", "")


def test_scores_are_seqevals() -> None:
    adapter = made(metric_names=("f1", "precision", "recall", "f1_macro", "tag_accuracy"))
    rows, given = GOLD[:2], GIVEN[:2]
    found = adapter.score(given, rows)
    published = metrics.load("seqeval").compute(
        predictions=[each["tags"] for each in given], references=[row["tags"] for row in rows]
    )
    assert found["f1"] == published["overall_f1"]
    assert found["precision"] == published["overall_precision"]
    assert found["recall"] == published["overall_recall"]
    assert found["tag_accuracy"] == published["overall_accuracy"]
    assert found["f1_macro"] == pytest.approx((published["PER"]["f1"] + published["LOC"]["f1"]) / 2)
    assert list(found) == ["f1", "precision", "recall", "f1_macro", "tag_accuracy"]


def test_intervals_stand_beside_the_scores() -> None:
    found = made().score(GIVEN, GOLD, resamples=100)
    assert list(found) == ["f1", "f1_interval", "tag_accuracy", "tag_accuracy_interval"]
    low, high = found["tag_accuracy_interval"]
    assert 0 <= low <= found["tag_accuracy"] <= high <= 1


def test_strict_counting_on_request() -> None:
    rows, given = [tagged("a b c", "O B-LOC I-LOC")], as_predictions("O I-LOC I-LOC")
    assert made().score(given, rows)["f1"] == 1.0
    assert made(options={"counting": "strict"}).score(given, rows)["f1"] == 0.0


def test_details_are_scheme_types_and_illegal_places() -> None:
    found = made().details(GIVEN, [*GOLD[:2], tagged("")])
    assert (found["scheme"], found["counting"], found["illegal"]) == ("IOB2", "conlleval", 0)
    assert found["types"]["PER"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "number": 1}
    assert made().details(as_predictions("O O"), [tagged("a b", "I-PER I-LOC")])["illegal"] == 2
    assert made(labels=("X", "Y")).details(as_predictions("X"), [tagged("a", "Y")]) == {}


def test_a_tag_that_every_word_gets_is_named() -> None:
    assert made().constant(as_predictions("O O O O", "O O O", ""), GOLD) == "O"
    assert made().constant(GIVEN, GOLD) is None
    assert made().constant(as_predictions("O"), [tagged("a", "O")]) is None
    assert made().constant(as_predictions(""), [tagged("")]) is None


def test_entities_of_raw_texts_are_scored_by_words() -> None:
    row = raw("Ada Bell met Bob.", (0, 8, "PER"), (13, 16, "PER"))
    assert made().score(as_predictions("B-PER I-PER O O O"), [row]) == {"f1": pytest.approx(2 / 3), "tag_accuracy": 0.8}


def test_conll_lines_hold_words_true_and_predicted_tags() -> None:
    adapter = made(columns={"tokens": "words", "tags": "ner_tags"})
    write = adapter.writers["conll"]
    rows = [{"words": ["Ada", "met"], "ner_tags": ["B-PER", 0]}, {"tokens": ["Bob"], "ner_tags": ["B-PER"]}]
    given = as_predictions("B-PER O", "O")
    assert list(write(adapter, zip(rows, given, strict=True))) == [
        "Ada\tB-PER\tB-PER", "met\tO\tO", "", "Bob\tB-PER\tO", "",
    ]  # fmt: skip
    assert list(write(adapter, [({"text": "Ada!"}, {"tags": ["B-PER", "O"]})])) == ["Ada\tB-PER", "!\tO", ""]


# Whole models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", slow_others(FAMILIES), ids=lambda family: family.name)
def test_family_learns_saves_and_agrees_with_plain_transformers(family: Family, tmp_path: Path) -> None:
    rows = [tagged("the film was good and dull", "O B-PER I-PER O O B-LOC"), tagged("cold", "B-LOC")]
    adapter = made(decode="argmax", max_length=64)
    loaded = encoder.load(
        encoder.find(str(families.save(family, tmp_path / "body"))),
        auto_class=adapter.auto_class,
        labels=LABELS,
        seed=1,
    )
    adapter.bind(loaded.tokenizer)
    features = adapter.encode(rows, loaded.tokenizer)
    batch = adapter.collate(features)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = adapter.loss(loaded.model(**adapter.inputs(batch)), batch)
        losses.append(float(loss.sum.detach()))
        loss.sum.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 2
    encoder.save(loaded.model, loaded.tokenizer, tmp_path / "model")
    found = []
    for feature, row in zip(features, rows, strict=True):
        alone = adapter.collate([feature])
        with torch.inference_mode():
            reduced = adapter.reduce(loaded.model(**adapter.inputs(alone)), alone)
        found += [p["tags"] for p in adapter.decode(reduced, adapter.encode([row], loaded.tokenizer), [row])]
    assert found == plain(tmp_path / "model", rows) == piped(tmp_path / "model", rows, features)


def plain(folder: Path, rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the tags that transformers' own classes give to the first sub-token of each word."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model, info = AutoModelForTokenClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == dict(enumerate(LABELS))
    tokens = AutoTokenizer.from_pretrained(folder)
    found = []
    for row in rows:
        encoded = tokens(row["tokens"], is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            ids = model(**encoded).logits[0].argmax(-1).tolist()
        words = encoded.word_ids()
        found.append([LABELS[ids[words.index(word)]] for word in range(len(row["tokens"]))])
    return found


def piped(folder: Path, rows: list[dict[str, Any]], features: list[Any]) -> list[list[str]]:
    """Return the tags that transformers' pipeline gives to the same tokens of the words' plain text."""
    from transformers import pipeline

    tag = pipeline("token-classification", model=str(folder), ignore_labels=[], device="cpu")
    found = []
    for row, feature in zip(rows, features, strict=True):
        tags = {each["index"]: each["entity"] for each in tag(" ".join(row["tokens"]))}
        found.append([tags[place] for place in feature.aligned.places])
    return found
