"""``finetune --dry-run``: what a training would take, and the warning where memory is short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertkit import memory
from bertkit.errors import DataError, RunError
from bertkit.workflows import estimate as workflow
from bertkit.workflows import footprint
from bertkit.workflows.estimate import estimate
from tests.conftest import write_jsonl
from tests.workflows.training import TINY, Listener, lines, train

OPTIONS: dict[str, Any] = {"precision": "float32", "threads": 1}


@pytest.mark.slow
def test_steps_and_tokens_are_those_of_the_training(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    settings = TINY | {"train.epochs": 2, "train.eval_steps": 3}
    found = estimate(reviews_file, encoder=tiny_encoder, runs=tmp_path / "runs", settings=settings, **OPTIONS)
    assert not (tmp_path / "runs").exists(), "a dry run leaves nothing behind"
    run = train(reviews_file, encoder=tiny_encoder, runs=tmp_path / "runs", settings=settings).run
    events = lines(run / "events.jsonl")
    steps = [row for row in events if row["event"] == "step"]
    assert found.steps == len(steps)
    assert found.tokens == sum(row["num_tokens"] for row in steps)
    assert found.num_examples == next(row for row in events if row["event"] == "start")["num_examples"]
    scored = sum(row["event"] == "scores" for row in events)
    assert found.evaluations == scored + 1
    assert found.tokens_per_second > 0
    assert found.training_seconds == pytest.approx(found.tokens / found.tokens_per_second)
    assert found.evaluation_seconds > 0
    assert (found.device, found.precision, found.threads) == ("cpu", "float32", 1)


@pytest.mark.slow
def test_memory_grows_with_the_micro_batch(tiny_encoder: Path, reviews_file: Path) -> None:
    options = {"encoder": tiny_encoder, **OPTIONS}
    small, large = (
        estimate(reviews_file, settings=TINY | {"train.micro_batch_tokens": tokens}, **options) for tokens in (16, 4096)
    )
    assert small.memory_more < large.memory_more < footprint.LIBRARIES + 100e6
    assert small.memory > small.memory_more
    assert small.disk == large.disk > 0


def test_gradient_checkpointing_takes_less_memory(tiny_encoder: Path, reviews_file: Path) -> None:
    plain, again = (
        estimate(
            reviews_file,
            encoder=tiny_encoder,
            settings=TINY | {"train.gradient_checkpointing": way, "train.batch_size": 64, "train.fast": False},
            **OPTIONS,
        )
        for way in (False, True)
    )
    assert again.memory_more < plain.memory_more


def test_estimate_is_shown_and_printed(tiny_encoder: Path, reviews_file: Path) -> None:
    found = estimate(reviews_file, encoder=tiny_encoder, settings=TINY, **OPTIONS)
    assert found.to_json()["dry_run"] is True
    shown = dict(found.rows())
    assert shown["steps"] == str(found.steps)
    assert "beyond the loaded model" in shown["memory"]


def test_faults_of_a_training_are_faults_of_a_dry_run(tiny_encoder: Path, tmp_path: Path) -> None:
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"text": "a", "label": "x"}, {"text": 3, "label": "y"}])
    with pytest.raises(DataError, match=r"bad\.jsonl:2: "):
        estimate(bad, encoder=tiny_encoder, **OPTIONS)


def test_folder_with_something_in_it_is_refused(tiny_encoder: Path, reviews_file: Path) -> None:
    with pytest.raises(RunError, match=r"--dry-run is about a new run, and there is something in .* already\. Name"):
        estimate(reviews_file, encoder=tiny_encoder, out=reviews_file.parent, **OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("act", [train, estimate])
def test_shortage_is_warned_of_before_the_first_step(
    act: Any, tiny_encoder: Path, reviews_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free", lambda *_: memory.Free(size=1000, reason="under the cgroup limit of 0.1 GB"))
    listener = Listener()
    act(reviews_file, encoder=tiny_encoder, runs=tmp_path / "runs", settings=TINY, listen=listener, **OPTIONS)
    names = [type(event).__name__ for event in listener.events]
    (place,) = (n for n, event in enumerate(listener.events) if "the system may end the process" in str(event))
    assert "Step" not in names[:place]
    assert "0.0 GB are free under the cgroup limit of 0.1 GB" in listener.events[place].message
    assert listener.events[place].level == "warning"


@pytest.mark.slow
def test_enough_memory_is_not_warned_of(tiny_encoder: Path, reviews_file: Path, tmp_path: Path) -> None:
    listener = Listener()
    train(reviews_file, encoder=tiny_encoder, runs=tmp_path / "runs", settings=TINY, listen=listener)
    assert not any("the system may end" in note for note in listener.notes)


@pytest.mark.slow
def test_count_of_memory_changes_no_result(
    tiny_encoder: Path, reviews_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = train(reviews_file, encoder=tiny_encoder, out=tmp_path / "a", settings=TINY)
    monkeypatch.setattr("bertkit.workflows.footprint.of", lambda *_: footprint.counted(parameters=0, trained=0, kept=0))
    plain = train(reviews_file, encoder=tiny_encoder, out=tmp_path / "b", settings=TINY)
    one, other = (
        [row["loss"] for row in lines(found.run / "events.jsonl") if row["event"] == "step"]
        for found in (counted, plain)
    )
    assert one == other


@pytest.mark.parametrize(("seconds", "said"), [(0.2, "under 1 s"), (40, "40 s"), (750, "12 min"), (12600, "3.5 h")])
def test_durations_are_said_plainly(seconds: float, said: str) -> None:
    assert workflow.duration(seconds) == said


def test_evaluations_are_counted() -> None:
    assert workflow.num_evaluations(10, 5) == 3
    assert workflow.num_evaluations(11, 5) == 4
