"""The training loop: micro-batches, determinism, exact resume, early stopping, faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bertkit import device, encoder, infer, loop
from bertkit.adapters import find
from bertkit.adapters.base import Adapter, Loss
from bertkit.config import DeviceConfig, TrainConfig
from bertkit.data.batches import TrainingBatches
from bertkit.encoder import Encoder
from bertkit.errors import RunError
from bertkit.events import Checkpoint, Event, Scores, Step, Stop
from bertkit.task import DataSource, Task
from tests.conftest import reviews

TASK = Task(
    name="x",
    type="sequence-classification",
    data=DataSource(),
    kind="single",
    labels=("negative", "positive"),
    metrics=("accuracy",),
)


class Setup:
    """A tiny model over the invented reviews, ready to train."""

    def __init__(self, folder: Path, *, dropout: bool = True, rows: int = 40, **settings: Any) -> None:
        self.config = TrainConfig(**{"learning_rate": 1e-3, "epochs": 2, "batch_size": 8, **settings})
        self.adapter: Adapter = find(TASK.type)(TASK, self.config, TASK.labels)
        self.loaded: Encoder = encoder.load(
            encoder.find(str(folder)), auto_class=self.adapter.auto_class, labels=TASK.labels, seed=1
        )
        if not dropout:
            for module in self.loaded.model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        self.adapter.bind(self.loaded.tokenizer)
        self.examples: list[dict[str, Any]] = list(reviews(rows))
        self.features = self.adapter.encode(self.examples, self.loaded.tokenizer)
        self.adapter.prepare(self.features)
        self.accelerator = device.accelerator(device.choose(DeviceConfig(device="cpu", precision="float32", threads=1)))
        self.batches = TrainingBatches(
            [f.example for f in self.features],
            [len(f) for f in self.features],
            batch_size=self.config.batch_size,
            micro_batch_tokens=self.config.micro_batch_tokens,
            seed=3,
        )

    def evaluate(self) -> loop.Evaluation:
        predictions = infer.predict(
            self.adapter,
            self.loaded.model,
            self.loaded.tokenizer,
            self.examples,
            features=self.features,
            accelerator=self.accelerator,
            batch_tokens=1000,
        )
        return loop.Evaluation(scores=self.adapter.score(predictions, self.examples))

    def objective(self, model: torch.nn.Module, batch: dict[str, Any]) -> Loss:
        return self.adapter.loss(model(**self.adapter.inputs(batch)), batch)

    def train(self, **options: Any) -> list[Event]:
        torch.manual_seed(0) if "start" not in options else None
        return list(self.events(**options))

    def events(self, **options: Any) -> Any:
        return loop.training(
            self.loaded.model,
            self.batches,
            options.pop("objective", self.objective),
            collate=lambda rows: self.adapter.collate([self.features[row] for row in rows]),
            config=self.config,
            accelerator=self.accelerator,
            metric="accuracy",
            better=self.adapter.better,
            evaluate=options.pop("evaluate", self.evaluate),
            **options,
        )

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.loaded.model.state_dict().items()}


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Step)]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def frozen(state: dict[str, Any]) -> dict[str, Any]:
    """Copy a checkpoint's state, as writing it to disk would."""
    return {
        part: {k: v.detach().clone() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        for part, values in state.items()
    }


def test_split_into_micro_batches_does_not_change_the_losses(tiny_encoder: Path) -> None:
    whole = losses(Setup(tiny_encoder, dropout=False, epochs=4).train())
    parts = losses(Setup(tiny_encoder, dropout=False, epochs=4, micro_batch_tokens=16).train())
    assert Setup(tiny_encoder, micro_batch_tokens=16).batches.draws().__next__().micro_batches.__len__() > 3
    assert parts == pytest.approx(whole, abs=1e-6)


def test_weighted_loss_is_normalised_over_the_whole_effective_batch(tiny_encoder: Path) -> None:
    settings = {"dropout": False, "class_weights": "balanced", "rows": 41, "epochs": 3}
    whole = losses(Setup(tiny_encoder, **settings).train())
    parts = losses(Setup(tiny_encoder, **settings, micro_batch_tokens=16).train())
    assert parts == pytest.approx(whole, abs=1e-6)


def test_gradients_of_1x8_and_4x2_are_equal(tiny_encoder: Path) -> None:
    gradients = []
    for tokens in (4096, 20):
        setup = Setup(tiny_encoder, dropout=False, max_steps=1, weight_decay=0.0, micro_batch_tokens=tokens)
        before = setup.weights
        setup.train()
        gradients.append({name: setup.weights[name] - before[name] for name in before})
    for name, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][name], atol=1e-6), name


def test_same_seed_gives_the_same_weights_bit_for_bit(tiny_encoder: Path) -> None:
    first, second = Setup(tiny_encoder), Setup(tiny_encoder)
    assert losses(first.train()) == losses(second.train())
    assert same(first.weights, second.weights)


@pytest.mark.parametrize("stop_at", [1, 5, 7])
def test_resumed_training_equals_uninterrupted_bit_for_bit(tiny_encoder: Path, stop_at: int) -> None:
    whole = Setup(tiny_encoder)
    expected = losses(whole.train())
    first = Setup(tiny_encoder)
    torch.manual_seed(0)
    state: dict[str, Any] = {}
    early: list[Event] = []
    for event in first.events(should_stop=lambda: len(losses(early)) >= stop_at - 1):
        early.append(event)
        if isinstance(event, Checkpoint):
            state = frozen(event.state)
    torch.manual_seed(999)
    second = Setup(tiny_encoder)
    late = second.train(start=state)
    assert losses(early) + losses(late) == expected
    assert same(whole.weights, second.weights)


def test_interrupted_training_offers_its_state_and_says_so(tiny_encoder: Path) -> None:
    events = Setup(tiny_encoder).train(should_stop=lambda: True)
    assert isinstance(events[-2], Checkpoint)
    assert isinstance(events[-1], Stop)
    assert (events[-1].reason, events[-1].step) == ("interrupted", 1)


def test_early_stopping_keeps_the_best_step(tiny_encoder: Path) -> None:
    scores = iter([0.5, 0.9, 0.8, 0.7, 0.6])
    setup = Setup(tiny_encoder, epochs=5, eval_steps=2, patience=2)
    events = setup.train(evaluate=lambda: loop.Evaluation(scores={"accuracy": next(scores)}))
    stop = events[-1]
    assert isinstance(stop, Stop)
    assert (stop.reason, stop.step, stop.best_step, stop.best_score) == ("early stopping", 8, 4, 0.9)
    assert stop.last_score == 0.7
    assert [event.best for event in events if isinstance(event, Scores)] == [True, True, False, False]


def test_score_that_is_no_number_is_never_the_best(tiny_encoder: Path) -> None:
    scores = iter([math.nan, 0.2])
    events = Setup(tiny_encoder).train(evaluate=lambda: loop.Evaluation(scores={"accuracy": next(scores)}))
    assert [event.best for event in events if isinstance(event, Scores)] == [False, True]


def test_last_step_is_always_evaluated(tiny_encoder: Path) -> None:
    events = Setup(tiny_encoder, max_steps=7, eval_steps=3).train()
    assert [event.step for event in events if isinstance(event, Scores)] == [3, 6, 7]


def test_save_steps_add_checkpoints_between_evaluations(tiny_encoder: Path) -> None:
    events = Setup(tiny_encoder, save_steps=2, epochs=1).train()
    assert [event.step for event in events if isinstance(event, Checkpoint)] == [2, 4, 5]


def test_gradient_is_clipped(tiny_encoder: Path) -> None:
    free = Setup(tiny_encoder, dropout=False, max_steps=1, max_grad_norm=0.0).train()
    norm = next(event.gradient_norm for event in free if isinstance(event, Step))
    setup = Setup(tiny_encoder, dropout=False, max_steps=1, max_grad_norm=norm / 10)
    clipped: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, closure: Callable[[], float] | None = None) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        clipped.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))))
        return step(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        setup.train()
    assert clipped == pytest.approx([norm / 10], rel=1e-2)


def test_loss_that_is_not_finite_stops_at_its_step(tiny_encoder: Path) -> None:
    setup = Setup(tiny_encoder)
    calls = 0

    def broken(model: torch.nn.Module, batch: dict[str, Any]) -> Loss:
        nonlocal calls
        calls += 1
        loss = setup.objective(model, batch)
        return loss if calls < 3 else Loss(loss.sum * math.nan, loss.weight)

    with pytest.raises(RunError, match=r"Step 3: the loss is nan at learning rate .* Try a lower train.learning_rate"):
        setup.train(objective=broken)


def test_token_count_leaves_padding_out(tiny_encoder: Path) -> None:
    setup = Setup(tiny_encoder, epochs=1)
    events = setup.train()
    assert sum(event.num_tokens for event in events if isinstance(event, Step)) == sum(map(len, setup.features))
