"""The training loop: micro-batches, determinism, exact resume, early stopping, faults."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
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


@pytest.mark.slow
def test_split_into_micro_batches_does_not_change_the_losses(tiny_encoder: Path) -> None:
    whole = losses(Setup(tiny_encoder, dropout=False, epochs=4).train())
    parts = losses(Setup(tiny_encoder, dropout=False, epochs=4, micro_batch_tokens=16).train())
    assert Setup(tiny_encoder, micro_batch_tokens=16).batches.draws().__next__().micro_batches.__len__() > 3
    assert parts == pytest.approx(whole, abs=1e-6)


@pytest.mark.slow
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


def stopped_and_resumed(make: Callable[[], Setup], stop_at: int, **options: Any) -> tuple[list[Event], Setup]:
    """Train until a step, and go on with a new model; return the events that a run would keep, and the model."""
    first, state, early = make(), {}, []
    torch.manual_seed(0)
    for event in first.events(should_stop=lambda: len(losses(early)) >= stop_at - 1, **options):
        if isinstance(event, Checkpoint):
            state = frozen(event.state)
        early.append(event)
    kept = [e for e in early if not isinstance(e, Stop) and not (isinstance(e, Checkpoint) and e.passing)]
    second = make()
    return [*kept, *second.train(start=state, **options)[1:]], second


def collect(events: Iterable[Event], seen: list[Event]) -> None:
    """Keep the events up to a fault."""
    for event in events:
        seen.append(event)


def plainly(events: Sequence[Event]) -> list[Event]:
    """Return events without what no two trainings have alike, or what only a checkpoint holds."""
    clocks = {"seconds": 0.0, "tokens_per_second": 0.0}
    changes = ((event, clocks if isinstance(event, Step) else {}) for event in events)
    plain = [replace(event, **change) for event, change in changes]
    return [replace(event, state={}) if isinstance(event, Checkpoint) else event for event in plain]


@pytest.mark.parametrize(
    "stop_at", [pytest.param(at, marks=[] if at in (4, 5) else pytest.mark.slow) for at in (1, 3, 4, 5, 6, 9)]
)
def test_resumed_training_yields_the_events_of_an_uninterrupted_one(tiny_encoder: Path, stop_at: int) -> None:
    def make() -> Setup:
        return Setup(tiny_encoder, epochs=2, eval_steps=3, save_steps=2, micro_batch_tokens=32)

    whole = make()
    wanted = whole.train()
    found, resumed = stopped_and_resumed(make, stop_at)
    assert plainly(found) == plainly(wanted)
    assert same(whole.weights, resumed.weights)


@pytest.mark.parametrize("stop_at", range(1, 8))
def test_early_stopping_survives_a_resume(tiny_encoder: Path, stop_at: int) -> None:
    def events(stop: int) -> list[Event]:
        scores = {2: 0.5, 4: 0.9, 6: 0.8, 8: 0.9, 10: 1.0}
        seen: list[Event] = []

        def evaluate() -> loop.Evaluation:
            number = sum(isinstance(event, Step) for event in seen)
            return loop.Evaluation(scores={"accuracy": scores[number]})

        state: dict[str, Any] | None = None
        for stopping in (True, False) if stop else (False,):
            setup = Setup(tiny_encoder, epochs=5, eval_steps=2, patience=2)
            options = {"start": state} if state else {}
            for event in setup.events(
                evaluate=evaluate,
                should_stop=lambda stopping=stopping: stopping and len(losses(seen)) >= stop - 1,
                **options,
            ):
                seen.append(event)
                if isinstance(event, Checkpoint):
                    state = frozen(event.state)
        return seen

    whole, resumed = events(0)[-1], events(stop_at)[-1]
    assert isinstance(whole, Stop)
    assert (whole.reason, whole.step, whole.best_step) == ("early stopping", 8, 4)
    assert resumed == whole


def test_generators_of_python_and_numpy_go_on_where_they_were(tiny_encoder: Path) -> None:
    """An adapter or a loss may draw from them; a normal deviate leaves a second one waiting in NumPy's."""

    def make() -> Setup:
        loop.seed_generators(5)
        setup = Setup(tiny_encoder)
        plain = setup.objective

        def noisy(model: torch.nn.Module, batch: dict[str, Any]) -> Loss:
            loss = plain(model, batch)
            return Loss(loss.sum * (2 + random.random() + np.random.normal()), loss.weight)

        setup.objective = noisy  # type: ignore[method-assign]
        return setup

    whole = make()
    wanted = losses(whole.train())
    for stop_at in (3, 4):
        found, resumed = stopped_and_resumed(make, stop_at)
        assert losses(found) == wanted
        assert same(whole.weights, resumed.weights)


def test_evaluation_that_is_interrupted_comes_again(tiny_encoder: Path) -> None:
    whole = Setup(tiny_encoder)
    wanted = whole.train()
    first, state = Setup(tiny_encoder), {}

    def interrupted() -> loop.Evaluation:
        raise loop.Interrupted

    early = first.train(evaluate=interrupted)
    assert isinstance(early[-2], Checkpoint)
    assert early[-2].passing
    assert isinstance(early[-1], Stop)
    assert (early[-1].reason, early[-1].step) == ("interrupted", 5)
    state = frozen(early[-2].state)
    second = Setup(tiny_encoder)
    late = second.train(start=state)
    assert plainly([*early[:-2], *late[1:]]) == plainly(wanted)
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


def broken_from(setup: Setup, step: int, factor: float = math.nan) -> Callable[..., Loss]:
    """Return an objective that is no number from a step of a single micro-batch on."""
    calls = iter(range(1, 1000))

    def objective(model: torch.nn.Module, batch: dict[str, Any]) -> Loss:
        loss = setup.objective(model, batch)
        return loss if next(calls) < step else Loss(loss.sum * factor, loss.weight)

    return objective


def test_step_that_diverges_names_its_rows_and_changes_no_weight(tiny_encoder: Path) -> None:
    setup = Setup(tiny_encoder)
    seen: list[Event] = []
    draws = setup.batches.draws()
    rows = sorted([next(draws) for _ in range(3)][-1].micro_batches[0])
    events = setup.events(
        objective=broken_from(setup, 3, math.inf), places=lambda features: [f"reviews.jsonl:{f + 1}" for f in features]
    )
    seen += [next(events) for _ in range(3)]
    before = setup.weights
    with pytest.raises(loop.DivergedError) as caught:
        next(events)
    assert [type(event) for event in seen[1:]] == [Step, Step]
    assert caught.value.rows == tuple(f"reviews.jsonl:{row + 1}" for row in rows)
    named = ", ".join(caught.value.rows)
    assert f"Step 3: the loss is inf at learning rate 0.000889, on the rows {named}. Nothing was saved" in str(
        caught.value
    )
    assert same(before, setup.weights)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradient_that_is_not_finite_stops_at_its_step(tiny_encoder: Path, value: float) -> None:
    setup = Setup(tiny_encoder)
    weight = next(iter(setup.loaded.model.classifier.parameters()))
    calls = iter(range(1, 1000))
    weight.register_hook(lambda gradient: gradient if next(calls) < 4 else gradient * value)
    with pytest.raises(
        loop.DivergedError, match=rf"Step 4: the gradient norm is (nan|{value}) at learning rate .*Try a"
    ):
        setup.train()


def test_divergence_spares_the_best_and_says_so(tiny_encoder: Path) -> None:
    setup = Setup(tiny_encoder)
    match = (
        r"Step 7: the loss is nan .*Nothing was saved from this step, and the best checkpoint, of step 5, is untouched"
    )
    seen: list[Event] = []
    with pytest.raises(loop.DivergedError, match=match):
        collect(setup.events(objective=broken_from(setup, 7)), seen)
    assert not [event for event in seen if isinstance(event, Checkpoint) and event.step > 5]


@pytest.mark.parametrize("settings", [{}, {"save_steps": 3, "eval_steps": 100}], ids=["evaluation", "checkpoint"])
def test_weights_that_an_update_broke_are_neither_evaluated_nor_saved(
    tiny_encoder: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, calls = Setup(tiny_encoder, **settings), iter(range(1, 1000))
    step = torch.optim.AdamW.step
    due = 3 if settings else 5

    def breaking(self: torch.optim.AdamW, closure: Callable[[], float] | None = None) -> Any:
        found = step(self, closure)
        if next(calls) == due:
            with torch.no_grad():
                setup.loaded.model.classifier.bias[0] = math.nan
        return found

    def evaluate() -> loop.Evaluation:
        raise AssertionError("it was evaluated")

    monkeypatch.setattr(torch.optim.AdamW, "step", breaking)
    seen: list[Event] = []
    match = rf"Step {due}: weights are not finite after the update: classifier\.bias\. Nothing was saved .*\. Try"
    with pytest.raises(loop.DivergedError, match=match):
        collect(setup.events(evaluate=evaluate), seen)
    assert not [event for event in seen if isinstance(event, Checkpoint | Scores)]


def test_checkpoint_whose_weights_are_not_finite_is_refused(tiny_encoder: Path) -> None:
    first = Setup(tiny_encoder)
    state = frozen(next(e for e in first.events(should_stop=lambda: True) if isinstance(e, Checkpoint)).state)
    state["model"]["classifier.weight"][0, 0] = math.inf
    with pytest.raises(
        RunError, match=r"of step 1 holds weights that are not finite: classifier\.weight\. Start a new"
    ):
        Setup(tiny_encoder).train(start=state)


@pytest.mark.parametrize(("scale", "stops"), [(65536.0, False), (loop.LEAST_SCALE, True)])
def test_gradient_that_overflows_under_fp16_is_the_scalers_until_no_smaller_scale_helps(
    tiny_encoder: Path, scale: float, stops: bool
) -> None:
    setup = Setup(tiny_encoder)
    engine = loop._Engine.__new__(loop._Engine)
    engine.accelerator = SimpleNamespace(scaler=SimpleNamespace(get_scale=lambda: scale))  # type: ignore[assignment]
    engine.places = lambda features: list(map(str, features))
    draw = next(setup.batches.draws())
    if stops:
        with pytest.raises(loop.DivergedError, match="Step 1: the gradient norm is inf"):
            engine._check_finite(0.7, math.inf, draw, loop.State(), 1e-3)
    else:
        engine._check_finite(0.7, math.inf, draw, loop.State(), 1e-3)
    with pytest.raises(loop.DivergedError, match="Step 1: the loss is nan"):
        engine._check_finite(math.nan, 1.0, draw, loop.State(), 1e-3)


def test_token_count_leaves_padding_out(tiny_encoder: Path) -> None:
    setup = Setup(tiny_encoder, epochs=1)
    events = setup.train()
    assert sum(event.num_tokens for event in events if isinstance(event, Step)) == sum(map(len, setup.features))
