"""A device without memory for a batch: smaller parts, the same steps, said once. Faked: no test needs a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bertkit import infer, memory
from bertkit.events import Note, Step
from tests.test_loop import Setup, frozen, losses, same

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it"


class Small:
    """A model's forward pass on a device that has memory for so many tokens, padding included, at once."""

    def __init__(self, setup: Setup, monkeypatch: pytest.MonkeyPatch, tokens: int, fault: str = CUDA) -> None:
        self.fault = fault
        self.tokens = tokens
        self.seen: list[tuple[int, ...]] = []
        self.refused = 0
        self.forward = setup.loaded.model.forward
        monkeypatch.setattr(setup.loaded.model, "forward", self)

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        shape = tuple(inputs["input_ids"].shape)
        if shape[0] * shape[1] > self.tokens:
            torch.rand(3)  # what was drawn before the fault must not count
            self.refused += 1
            raise torch.OutOfMemoryError(self.fault) if self.fault is CUDA else RuntimeError(self.fault)
        self.seen.append(shape)
        return self.forward(*args, **inputs)


def notes(events: list[Any]) -> list[Note]:
    return [event for event in events if isinstance(event, Note)]


def test_training_goes_on_in_smaller_parts_as_if_it_had_been_set(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(tiny_encoder, micro_batch_tokens=80)
    small = Small(setup, monkeypatch, 50)
    events = setup.train(evaluate=lambda: pytest.fail("not to be evaluated"), should_stop=stop_after(4))
    (note,) = notes(events)
    tokens = int(note.message.partition("train.micro_batch_tokens is ")[2].split()[0])
    assert tokens < 50
    assert small.refused == 1
    other = Setup(tiny_encoder, micro_batch_tokens=tokens)
    assert losses(other.train(should_stop=stop_after(4))) == losses(events)
    assert same(setup.weights, other.weights)


def stop_after(number: int) -> Any:
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= number


@pytest.mark.slow
def test_effective_batch_and_result_stay(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Setup(tiny_encoder, dropout=False).train()
    setup = Setup(tiny_encoder, dropout=False)
    small = Small(setup, monkeypatch, 30)
    parts = setup.train(evaluate=Setup(tiny_encoder).evaluate)
    assert small.refused
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-6)
    counts = [[event.num_examples for event in events if isinstance(event, Step)] for events in (whole, parts)]
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_cpu_that_gives_no_memory_is_a_shortage_too(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tiny_encoder)
    small = Small(setup, monkeypatch, 50, "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    setup.train(evaluate=Setup(tiny_encoder).evaluate, should_stop=stop_after(2))
    evaluated(setup, 400)
    assert small.refused > 1


def test_other_fault_of_torch_ends_training(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tiny_encoder)
    Small(setup, monkeypatch, 50, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        setup.train()
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        evaluated(setup, 400)


@pytest.mark.slow
def test_shortage_is_said_once_with_its_step(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tiny_encoder)
    Small(setup, monkeypatch, 12)
    events = setup.train(evaluate=Setup(tiny_encoder).evaluate)
    first = notes(events)[0]
    assert (first.step, first.level) == (1, "warning")
    assert "cpu has no memory for " in first.message
    assert "smaller parts, and more of them. The examples of a step, their order" in first.message
    steps = [note.step for note in notes(events)]
    assert len(steps) == len(set(steps)) <= 2


@pytest.mark.slow
def test_resumed_training_knows_what_there_is_memory_for(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tiny_encoder)
    Small(setup, monkeypatch, 40)
    states = {}
    for event in setup.events(evaluate=Setup(tiny_encoder).evaluate):
        if type(event).__name__ == "Checkpoint":
            states[event.step] = frozen(event.state)
    state = states[min(states)]
    assert 0 < state["progress"]["micro_batch_tokens"] <= 40
    other = Setup(tiny_encoder)
    small = Small(other, monkeypatch, 40)
    again = other.train(start=state, evaluate=Setup(tiny_encoder).evaluate)
    assert (small.refused, notes(again)) == (0, [])
    assert same(setup.weights, other.weights)


@pytest.mark.slow
def test_single_row_without_memory_is_a_named_fault(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tiny_encoder)
    Small(setup, monkeypatch, 1)
    with pytest.raises(
        memory.OutOfMemoryError,
        match=r"Out of memory in step 1, with one row of data at a time: CUDA out of memory\. Tried to allocate "
        r"2\.00 GiB\. Try a smaller train\.max_length, train\.gradient_checkpointing=true",
    ):
        setup.train()


def test_update_without_memory_is_a_named_fault(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(memory.OutOfMemoryError, match=r"in the optimizer's update of step 1: CUDA out of memory\."):
        Setup(tiny_encoder).train()


def evaluated(setup: Setup, batch_tokens: int | infer.Room) -> list[Any]:
    return infer.forward(
        setup.adapter,
        setup.loaded.model,
        setup.features,
        accelerator=setup.accelerator,
        batch_tokens=batch_tokens,
    )


@pytest.mark.slow
def test_evaluation_goes_on_in_smaller_batches(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tiny_encoder)
    whole = evaluated(setup, 400)
    small = Small(setup, monkeypatch, 60)
    told: list[Any] = []
    room = infer.Room(400, told.append)
    for row, other in zip(evaluated(setup, room), whole, strict=True):
        assert row == pytest.approx(other, abs=1e-6)
    assert small.refused
    assert room.tokens <= 60
    assert all("no memory for" in note.message and "eval.batch_tokens is" in note.message for note in told)
    refused = small.refused
    evaluated(setup, room)
    assert (small.refused, len(told)) == (refused, refused), "what there is memory for is known from then on"


@pytest.mark.slow
def test_evaluation_counts_each_row_once(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(tiny_encoder)
    Small(setup, monkeypatch, 50)
    done: list[int] = []
    infer.forward(
        setup.adapter,
        setup.loaded.model,
        setup.features,
        accelerator=setup.accelerator,
        batch_tokens=400,
        advance=done.append,
    )
    assert sum(done) == len(setup.features)


@pytest.mark.slow
def test_evaluation_of_a_single_row_without_memory_is_a_named_fault(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(tiny_encoder)
    Small(setup, monkeypatch, 1)
    with pytest.raises(
        memory.OutOfMemoryError,
        match=r"Out of memory without gradients, with one row of \d+ tokens: CUDA out of memory\. .*--device cpu",
    ):
        evaluated(setup, 400)
