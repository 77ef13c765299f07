"""Batches on their way to a device: which is made when, and that making one ahead changes nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bertkit import device, feeding, infer, loop, replicas, unpad
from bertkit.adapters.base import Feature
from bertkit.feeding import Feed
from tests.test_infer import adapter_of
from tests.test_loop import Setup, losses, same

CPU = torch.device("cpu")


class Collate:
    """Makes a batch of rows and notes which."""

    def __init__(self) -> None:
        self.made: list[list[int]] = []

    def __call__(self, rows: Any) -> dict[str, Any]:
        self.made.append(list(rows))
        return {"rows": torch.tensor(list(rows))}


@pytest.fixture
def _ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let batches be made ahead on the CPU, as on a GPU."""
    real = Feed.__init__

    def init(self: Feed, *given: Any) -> None:
        real(self, *given)
        self.ahead = True

    monkeypatch.setattr(Feed, "__init__", init)


def test_cpu_makes_no_batch_ahead() -> None:
    collate = Collate()
    feed = Feed(collate, CPU)
    feed.make([1, 2])
    assert collate.made == []
    assert feed.take([1, 2])["rows"].tolist() == [1, 2]


@pytest.mark.usefixtures("_ahead")
def test_batch_that_waits_is_taken_once() -> None:
    collate = Collate()
    feed = Feed(collate, CPU)
    feed.make([1, 2])
    feed.make([])
    assert feed.take([1, 2])["rows"].tolist() == [1, 2]
    assert collate.made == [[1, 2]]
    feed.take([1, 2])
    assert collate.made == [[1, 2], [1, 2]]


@pytest.mark.usefixtures("_ahead")
def test_batch_of_other_rows_is_made_anew_and_the_one_that_waits_forgotten() -> None:
    collate = Collate()
    feed = Feed(collate, CPU)
    feed.make([1, 2])
    assert feed.take([3])["rows"].tolist() == [3]
    assert feed._waiting is None
    feed.make([4])
    feed.clear()
    feed.take([4])
    assert collate.made == [[1, 2], [3], [4], [4]]


def test_cuda_gets_pinned_memory_without_waiting() -> None:
    calls: list[Any] = []

    class Tensor:
        def pin_memory(self) -> Tensor:
            calls.append("pinned")
            return self

        def to(self, device: Any, **given: Any) -> Tensor:
            calls.append((device.type, given))
            return self

    feeding.on_device({"x": Tensor()}, SimpleNamespace(type="cuda"))  # type: ignore[arg-type]
    assert calls == ["pinned", ("cuda", {"non_blocking": True})]
    mask = Tensor()
    moved = feeding.on_device({"attention_mask": mask}, SimpleNamespace(type="cuda"))  # type: ignore[arg-type]
    assert getattr(moved["attention_mask"], unpad.KNOWN) is mask
    calls.clear()
    feeding.on_device({"x": Tensor()}, SimpleNamespace(type="mps"))  # type: ignore[arg-type]
    assert calls == [("mps", {})]


@pytest.mark.parametrize("tokens", [4096, 32])
def test_training_with_batches_made_ahead_is_the_same(
    tokens: int, tiny_encoder: Path, request: pytest.FixtureRequest
) -> None:
    plain = Setup(tiny_encoder, micro_batch_tokens=tokens)
    expected = losses(plain.train())
    request.getfixturevalue("_ahead")
    ahead = Setup(tiny_encoder, micro_batch_tokens=tokens)
    assert losses(ahead.train()) == expected
    assert same(plain.weights, ahead.weights)


@pytest.mark.usefixtures("_ahead")
def test_each_batch_of_a_training_is_made_once(tiny_encoder: Path) -> None:
    setup = Setup(tiny_encoder, micro_batch_tokens=32)
    made: list[tuple[int, ...]] = []
    events = loop.training(
        setup.loaded.model,
        setup.batches,
        setup.objective,
        collate=lambda rows: (made.append(tuple(rows)), setup.adapter.collate([setup.features[r] for r in rows]))[1],
        config=setup.config,
        accelerator=setup.accelerator,
        metric="accuracy",
        better=setup.adapter.better,
        evaluate=lambda: loop.Evaluation(scores={"accuracy": 0.0}),
    )
    steps = len(losses(list(events)))
    draws = setup.batches.draws()
    wanted = [tuple(part) for _ in range(steps) for part in next(draws).micro_batches]
    # The last one is of a step that is not taken.
    assert made[: len(wanted)] == wanted
    assert len(made) == len(wanted) + 1


@pytest.mark.usefixtures("_ahead")
def test_next_batch_of_a_prediction_is_made_before_the_last_one_is_waited_for() -> None:
    """Each batch once, in order, and the one that follows before anybody looks at what the model gave."""
    adapter = adapter_of()
    features = [Feature(example=row, input_ids=[5] * length) for row, length in enumerate((3, 9, 4, 8, 2))]
    told: list[Any] = []
    real = adapter.collate
    adapter.collate = lambda some: (told.append(("made", [f.example for f in some])), real(some))[1]  # type: ignore[method-assign]
    adapter.reduce = lambda outputs, batch: (told.append("waited"), list(outputs))[1]  # type: ignore[method-assign]

    class Lengths(torch.nn.Module):
        def forward(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            told.append("given")
            return attention_mask.sum(1).numpy()

    accelerator = device.accelerator(device.Device(name="cpu", precision="float32", reason="", threads=1))
    found = infer.forward(adapter, Lengths(), features, accelerator=accelerator, batch_tokens=16)
    assert list(map(int, found)) == [3, 9, 4, 8, 2]
    batches = [entry for entry in told if entry[0] == "made"]
    assert [rows for _, rows in batches] == [[1], [3, 2], [0, 4]]
    one, two, three = batches
    assert told == [one, "given", two, "waited", "given", three, "waited", "given", "waited"]


def test_count_of_steps_is_restored_where_the_weights_are() -> None:
    """Fused AdamW on CUDA takes no count that is on the CPU; the meta device stands in for a GPU."""
    weight = torch.empty(2, device="meta")
    assert replicas.like(torch.tensor(3.0), weight).device.type == "meta"
    assert replicas.like(torch.ones(2), weight).device.type == "meta"
