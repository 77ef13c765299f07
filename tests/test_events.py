"""Events as ``events.jsonl`` holds them."""

from __future__ import annotations

import json
from typing import get_args

import pytest
import torch

from bertkit.events import (
    Checkpoint,
    Event,
    Note,
    Phase,
    Progress,
    Scores,
    Start,
    Step,
    Stop,
    ignore,
    to_json,
)

EVENTS: list[Event] = [
    Note(message="labels are sorted"),
    Phase(name="encoding"),
    Start(num_examples=10, num_steps=3),
    Step(
        step=1,
        epoch=0.3,
        loss=0.7,
        learning_rate=1e-5,
        gradient_norm=1.5,
        num_examples=4,
        num_tokens=40,
        seconds=0.1,
        tokens_per_second=400.0,
    ),
    Scores(step=1, split="validation", scores={"accuracy": 0.5}, metric="accuracy", best=True),
    Checkpoint(step=1, best=True, state={"model": {"weight": torch.ones(2)}}),
    Progress(name="evaluating", done=1, total=2),
    Stop(step=3, reason="finished", best_step=1, best_score=0.5, last_score=0.4),
]


def test_there_is_a_case_for_every_event() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_event_is_json_with_its_name_first(event: Event) -> None:
    row = to_json(event)
    assert json.loads(json.dumps(row)) == row
    assert next(iter(row.items())) == ("event", type(event).__name__.lower())


def test_step_has_all_its_fields() -> None:
    row = to_json(EVENTS[3])
    assert row["tokens_per_second"] == 400.0
    assert len(row) == 11


def test_checkpoint_is_logged_without_its_tensors() -> None:
    assert to_json(EVENTS[5]) == {"event": "checkpoint", "step": 1, "best": True}
    assert "tensor" not in repr(EVENTS[5])


def test_ignore_takes_every_event() -> None:
    for event in EVENTS:
        ignore(event)
