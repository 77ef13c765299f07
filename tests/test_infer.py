"""The forward pass: every example once, in input order, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from bertkit import device, encoder, infer, processes
from bertkit.adapters.base import Feature
from bertkit.adapters.sequence_classification import SequenceClassification
from bertkit.config import TrainConfig
from bertkit.encoder import Encoder
from bertkit.loop import Interrupted
from bertkit.task import DataSource, Task
from tests.several import together

TASK = Task(
    name="x",
    type="sequence-classification",
    data=DataSource(),
    kind="single",
    labels=("negative", "positive"),
    metrics=("accuracy",),
    columns={"text": "text", "label": "label"},
)


def adapter_of(**train: Any) -> SequenceClassification:
    return SequenceClassification(TASK, TrainConfig(**train), TASK.labels)


class Echo(torch.nn.Module):
    """Gives back each row's first id and its length, and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.sizes.append(tuple(input_ids.shape))
        return SimpleNamespace(logits=torch.stack([input_ids[:, 0], attention_mask.sum(dim=1)], dim=1))


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return device.accelerator(device.Device(name="cpu", precision="float32", reason="", threads=1))


@pytest.fixture(scope="module")
def loaded(tiny_encoder: Path) -> Encoder:
    return encoder.load(
        encoder.find(str(tiny_encoder)), auto_class=SequenceClassification.auto_class, labels=TASK.labels, seed=1
    )


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 60), max_size=50), batch_tokens=st.integers(1, 400))
def test_forward_gives_each_feature_once_in_order(
    accelerator: Accelerator, lengths: list[int], batch_tokens: int
) -> None:
    features = [Feature(example=i, input_ids=[i] * length) for i, length in enumerate(lengths)]
    model, counts = Echo(), []
    reduced = infer.forward(
        adapter_of(), model, features, accelerator=accelerator, batch_tokens=batch_tokens, advance=counts.append
    )
    assert [tuple(int(x) for x in row) for row in reduced] == list(enumerate(lengths))
    assert sum(counts) == sum(size[0] for size in model.sizes) == len(lengths)
    assert all(rows * width <= batch_tokens or rows == 1 for rows, width in model.sizes)


def ended_by_the_last_advance() -> str:
    processes.join("cpu")
    place = device.Device(name="cpu", precision="float32", reason="", threads=1)
    features = [Feature(example=i, input_ids=[i] * 5) for i in range(8)]
    done: list[int] = []

    def advance(number: int) -> None:
        done.append(number)
        if len(done) > 4:
            raise Interrupted

    try:
        infer.forward(
            adapter_of(),
            Echo(),
            features,
            accelerator=device.accelerator(place),
            batch_tokens=5,
            advance=advance,
            together=True,
        )
    except Interrupted:
        return f"ended after {len(done)}"
    return "not ended"


def test_what_the_main_process_ends_is_ended_in_all() -> None:
    """The main one alone is told of the others' part."""
    assert together(2, ended_by_the_last_advance) == ["ended after 5", "ended after 4"]


@settings(deadline=None)
@given(windows=st.lists(st.integers(1, 5), min_size=1, max_size=20), batch_tokens=st.integers(1, 200))
def test_predict_gives_one_prediction_an_example_whatever_its_windows(
    accelerator: Accelerator, windows: list[int], batch_tokens: int
) -> None:
    features = [
        Feature(example=i, input_ids=[i] * (1 + (7 * i + w) % 30), num_cut=i)
        for i, number in enumerate(windows)
        for w in range(number)
    ]
    predictions = infer.predict(
        adapter_of(),
        Echo(),
        None,  # type: ignore[arg-type]
        [{}] * len(windows),
        features=features,
        accelerator=accelerator,
        batch_tokens=batch_tokens,
    )
    assert len(predictions) == len(windows)
    for index, prediction in enumerate(predictions):
        mean = sum(len(f) for f in features if f.example == index) / windows[index]
        gap = torch.tensor([float(index), mean], dtype=torch.float64).softmax(0)
        assert prediction["probabilities"]["positive"] == pytest.approx(gap[1].item())
        assert prediction.get("truncated", False) is (index > 0)


def test_no_examples_are_no_predictions(accelerator: Accelerator) -> None:
    assert infer.forward(adapter_of(), Echo(), [], accelerator=accelerator, batch_tokens=100) == []


def test_an_adapter_that_loses_a_row_is_found_out(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = adapter_of()
    monkeypatch.setattr(adapter, "decode", lambda reduced, features, examples: [{}])
    features = [Feature(example=i, input_ids=[i]) for i in range(3)]
    with pytest.raises(AssertionError, match="1 predictions for 3 examples"):
        infer.predict(
            adapter,
            Echo(),
            None,  # type: ignore[arg-type]
            [{}] * 3,
            features=features,
            accelerator=accelerator,
            batch_tokens=10,
        )
