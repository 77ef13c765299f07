"""Features are kept between runs, where that pays, and never used for anything but what they were made from."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from bertkit import encoder
from bertkit.adapters.sequence_classification import SequenceClassification
from bertkit.config import TrainConfig
from bertkit.data import Split
from bertkit.task import DataSource, Task
from bertkit.workflows import preparation
from bertkit.workflows.preparation import encode, resting_collector
from tests.conftest import reviews, write_jsonl

SPLIT = Split(name="train", examples=[dict(row) for row in reviews(1000)], source="x.jsonl")


class Counting(SequenceClassification):
    calls = 0

    def encode(self, examples: Any, tokenizer: Any) -> Any:
        type(self).calls += 1
        return super().encode(examples, tokenizer)


def made(labels: tuple[str, ...] = ("negative", "positive"), **train: Any) -> Counting:
    task = Task(name="x", type="sequence-classification", data=DataSource(), labels=labels)
    return Counting(task, TrainConfig(**{"max_length": 32, **train}), labels)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BERTKIT_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(preparation, "WORTH_KEEPING", 0.0)
    monkeypatch.setattr(Counting, "calls", 0)
    return tmp_path / "kept"


@pytest.fixture
def tokens(tiny_encoder: Path) -> Any:
    return encoder.load_tokenizer(encoder.find(str(tiny_encoder)))


def test_second_time_the_features_are_taken_from_the_cache(tokens: Any, folder: Path) -> None:
    fresh = encode(made(), SPLIT, tokens)
    again = encode(made(), SPLIT, tokens)
    assert Counting.calls == 1
    assert again == fresh
    assert len([*folder.iterdir()]) == 1


def test_damaged_file_is_made_anew(tokens: Any, folder: Path) -> None:
    fresh = encode(made(), SPLIT, tokens)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert encode(made(), SPLIT, tokens) == fresh
    assert encode(made(), SPLIT, tokens) == fresh
    assert Counting.calls == 2


@pytest.mark.parametrize("changed", ["row", "order", "labels", "max_length", "on_long", "word", "inputs", "code"])
def test_whatever_decides_over_features_makes_others(
    tokens: Any, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(made(), SPLIT, tokens)
    adapter, rows = made(), list(SPLIT.examples)
    if changed == "row":
        rows[500] = rows[500] | {"text": "another film"}
    elif changed == "order":
        rows.reverse()
    elif changed == "labels":
        adapter = made(("positive", "negative"))
    elif changed == "max_length":
        adapter.config = replace(adapter.config, max_length=31)
    elif changed == "on_long":
        adapter.config = replace(adapter.config, on_long="window")
    elif changed == "word":
        tokens.add_tokens(["film!"])
    elif changed == "inputs":
        tokens.model_input_names = ["input_ids", "attention_mask"]
    else:
        monkeypatch.setattr(preparation, "_code_hash", lambda kind: "other")
    encode(adapter, replace(SPLIT, examples=rows), tokens)
    assert Counting.calls == 2


def test_what_does_not_matter_to_features_leaves_them(tokens: Any) -> None:
    encode(made(), SPLIT, tokens)
    encode(made(learning_rate=1e-3, batch_size=4), replace(SPLIT, name="test", source="y.jsonl"), tokens)
    assert Counting.calls == 1


def test_few_examples_leave_nothing_behind(tokens: Any, folder: Path) -> None:
    encode(made(), replace(SPLIT, examples=SPLIT.examples[:999]), tokens)
    assert not folder.exists()


def test_what_is_quick_leaves_nothing_behind(tokens: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "WORTH_KEEPING", 3600.0)
    encode(made(), SPLIT, tokens)
    assert not folder.exists()


@pytest.mark.slow
def test_processes_at_once_make_the_same_features(tokens: Any, folder: Path) -> None:
    """Each of 16 processes encodes eight splits, in an order of its own, and finds what others keep meanwhile."""
    lengths = range(16, 32, 2)
    wanted = {length: made(max_length=length).encode(SPLIT.examples, tokens) for length in lengths}
    here = get_context("fork")
    started = here.Barrier(16)

    def work(me: int) -> None:
        started.wait(900)
        for length in random.Random(me).sample(lengths, len(lengths)):
            if encode(made(max_length=length), SPLIT, tokens) != wanted[length]:
                os._exit(1)
        os._exit(0)

    processes = [here.Process(target=work, args=(me,)) for me in range(16)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 16
    assert len([*folder.iterdir()]) == len(lengths)


@pytest.mark.slow
def test_first_step_needs_no_library_that_only_evaluation_needs(tiny_encoder: Path, tmp_path: Path) -> None:
    """``evaluate`` takes seconds to import, scikit-learn and datasets one."""
    write_jsonl(tmp_path / "reviews.jsonl", reviews(40))
    code = f"""
import bertkit, sys
from bertkit.events import Step
class Stepped(Exception): ...
def listen(event):
    if isinstance(event, Step):
        print([name for name in ("datasets", "evaluate", "pandas", "sklearn") if name in sys.modules])
        raise Stepped
try:
    bertkit.finetune("reviews.jsonl", encoder={str(tiny_encoder)!r}, settings={{"train.max_length": 64}}, listen=listen)
except Stepped:
    print("stepped")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "stepped"], done.stdout


def test_collector_is_on_again_whatever_happens() -> None:
    def failing() -> None:
        with resting_collector():
            assert not gc.isenabled()
            raise ZeroDivisionError

    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        failing()
    assert gc.isenabled()
    gc.disable()
    try:
        with resting_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
