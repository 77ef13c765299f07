"""The look at data before training: what it counts, and what it calls wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import bertkit
from bertkit.errors import DataError, TaskError
from bertkit.workflows.check import Checked
from tests.conftest import reviews, write_jsonl
from tests.workflows.training import Listener, train


def check(task: Any, encoder: Path, *, settings: Mapping[str, Any] | None = None, **options: Any) -> Checked:
    return bertkit.check(task, encoder=encoder, settings={"train.max_length": 64} | dict(settings or {}), **options)


def test_good_data_has_no_problems(tiny_encoder: Path, reviews_file: Path) -> None:
    found = check(reviews_file, tiny_encoder)
    assert found.problems == []
    (split,) = found.splits
    assert (split.name, split.num_examples, split.labelled) == ("train", 80, True)
    assert split.balance == {"negative": 40, "positive": 40}
    assert found.task.columns == {"text": "text", "label": "label"}
    assert json.loads(json.dumps(found.to_json()))["labels"] == ["negative", "positive"]


def test_lengths_are_those_of_the_encoder(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "the " * n, "label": "ab"[n % 2]} for n in range(1, 101)]
    found = check(write_jsonl(tmp_path / "train.jsonl", rows), tiny_encoder, settings={"train.max_length": 52})
    (split,) = found.splits
    assert split.lengths == {"median": 52.5, "p99": pytest.approx(101, abs=0.1), "longest": 102}
    assert split.truncation["examples"] == 50
    assert split.truncation["tokens"] == sum(range(1, 51))
    assert [said[:34] for said in split.lost] == ["50 examples (50.0%) are longer than"[:34]]


def test_counts_of_a_sample_say_so(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertkit.workflows.check.SAMPLE", 40)
    rows = [{"text": "the " * 60, "label": "ab"[n % 2]} for n in range(100)]
    found = check(write_jsonl(tmp_path / "train.jsonl", rows), tiny_encoder, settings={"train.max_length": 52})
    (said,) = found.splits[0].lost
    assert said.startswith("34 examples (100.0%) are longer")
    assert said.endswith("(counted in one row of 3)")


def test_class_table_is_the_one_of_the_data(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "the film", "label": "rare" if n == 0 else "common"} for n in range(50)]
    (split,) = check(rows, tiny_encoder).splits
    assert split.balance == {"common": 49, "rare": 1}


def test_every_faulty_row_is_a_problem_with_its_line(tiny_encoder: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*reviews(20), {"text": None, "label": "positive"}, {"text": "a", "label": None}]
    found = check(write_jsonl(tmp_path / "train.jsonl", rows), tiny_encoder)
    assert found.problems == [
        "train.jsonl:21: column 'text' is null, and must be a text",
        "train.jsonl:22: column 'label' holds no label",
    ]


def test_labels_that_train_lacks_are_a_problem(tiny_encoder: Path) -> None:
    data = {"train": reviews(20), "validation": [*reviews(4), {"text": "it", "label": "mixed"}]}
    found = check(data, tiny_encoder, settings={"labels": ["negative", "positive", "mixed"]})
    assert found.problems == ["'validation' has labels that train never shows: mixed (1 rows)"]


def test_unlabelled_test_split_is_no_problem(tiny_encoder: Path) -> None:
    data = {"train": reviews(20), "test": [{"text": "it", "label": None}]}
    found = check(data, tiny_encoder)
    assert found.problems == []
    assert [split.labelled for split in found.splits] == [True, False]


def test_rows_that_training_would_refuse_as_too_long_are_a_problem(tiny_encoder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "train.jsonl", [*reviews(20), {"text": "the " * 20, "label": "positive"}])
    found = check(file, tiny_encoder, settings={"train.max_length": 16, "train.on_long": "error"})
    assert len(found.problems) == 1
    assert found.problems[0].startswith("train.jsonl:21 has 22 tokens, and train.max_length is 16")


@pytest.mark.parametrize(
    "rows",
    [
        [*reviews(20), {"text": None, "label": "positive"}],
        [*reviews(20), {"text": "a", "label": None}],
        [*reviews(20), {"text": ["a"], "label": "positive"}],
        [*reviews(20), {"label": "positive"}],
        [row | {"prediction": 1} for row in reviews(20)],
    ],
)
def test_check_and_finetune_agree(rows: Any, tiny_encoder: Path, tmp_path: Path) -> None:
    problems = check(rows, tiny_encoder).problems
    with pytest.raises(DataError) as caught:
        train(rows, encoder=tiny_encoder, out=tmp_path / "run")
    assert problems
    assert all(problem in str(caught.value) for problem in problems)


def test_guesses_are_told(tiny_encoder: Path) -> None:
    listener = Listener()
    rows = [{"review": row["text"], "verdict": row["label"]} for row in reviews(20)]
    found = check(rows, tiny_encoder, listen=listener)
    assert found.task.columns == {"text": "review", "label": "verdict"}
    assert any("'review' is taken as text" in note for note in listener.notes)
    assert any("'verdict' is taken as label" in note for note in listener.notes)
    assert found.notes == listener.notes


def test_encoder_that_cannot_be_had_leaves_lengths_out(tmp_path: Path) -> None:
    found = bertkit.check(reviews(20), encoder=str(tmp_path / "nowhere"))
    assert found.problems == []
    assert found.splits[0].lengths == {}
    assert any("lengths are not measured: " in note and "nowhere" in note for note in found.notes)


def test_nothing_to_look_at_is_an_error(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no file .*none\.jsonl"):
        check(tmp_path / "none.jsonl", tiny_encoder)
    with pytest.raises(TaskError, match=r"No task 'glue/sst-2'\. Did you mean 'glue/sst2'"):
        check("glue/sst-2", tiny_encoder)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match=r"empty\.jsonl is empty"):
        check(tmp_path / "empty.jsonl", tiny_encoder)


def test_empty_split_is_a_problem(tiny_encoder: Path, tmp_path: Path) -> None:
    data = {"train": reviews(20), "validation": []}
    with pytest.raises(DataError, match=r"validation is empty"):
        check(data, tiny_encoder)


def test_length_beyond_the_encoder_is_a_problem(tiny_encoder: Path, reviews_file: Path) -> None:
    """``finetune`` refuses it, so ``check`` must not call it good."""
    found = check(reviews_file, tiny_encoder, settings={"train.max_length": 100})
    assert len(found.problems) == 1
    assert "train.max_length is 100" in found.problems[0]
    assert "64" in found.problems[0]
