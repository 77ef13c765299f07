"""The training loop: a generator of events, and the only loop of its kind here. It neither prints nor writes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bertkit import embeddings, freezing, memory, optim, processes, replicas
from bertkit.config import TrainConfig
from bertkit.data.batches import Draw, TrainingBatches
from bertkit.errors import RunError, joined
from bertkit.events import Checkpoint, Event, Note, Scores, Start, Step, Stop
from bertkit.feeding import Feed

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from bertkit.adapters.base import Batch, Loss


class DivergedError(RunError):
    """The loss, the gradient or a weight is no number any more; another recipe may do."""

    rows: tuple[str, ...] = ()
    """All rows of the step, where its own loss or gradient is what is wrong."""


class Interrupted(Exception):  # noqa: N818 - no fault: somebody wants to go on later
    """Raised out of ``evaluate`` where training was asked to stop; the state is offered as it is."""


WAY_OUT = "Try a lower train.learning_rate, a longer train.warmup_ratio or --precision float32."
"""What may help where the numbers run away."""
LEAST_SCALE = 2.0**-14
"""Loss scale under fp16 from which down only gradients over 1e9 overflow: no smaller scale helps those."""


NO_ROOM = (
    "Try a smaller train.max_length, train.gradient_checkpointing=true, a smaller encoder, or a device that nothing "
    "else uses."
)
"""What is left to do where smaller parts do not help."""

Objective = Callable[["torch.nn.Module", "Batch"], "Loss"]
"""What is minimised: from the model and a batch on its device to a summed loss."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a call of ``evaluate`` found."""

    scores: dict[str, float]
    constant: str | None = None
    """The one answer that every prediction gave, if that is so."""


@dataclass(kw_only=True)
class State:
    """Where training is; what a checkpoint holds beside weights, moments and generators."""

    step: int = 0
    epoch: int = 0
    """Epoch of the next draw, from 0."""
    index: int = 0
    """Batch of the next draw inside its epoch, from 0."""
    best_step: int | None = None
    best_score: float | None = None
    last_score: float | None = None
    last_evaluation: int = 0
    """Step of the last evaluation."""
    not_better: int = 0
    """Evaluations since the best one."""
    micro_batch_tokens: int = 0
    """What the device has memory for, where that is less than the recipe asks for; else 0."""


def training(
    model: torch.nn.Module,
    batches: TrainingBatches,
    objective: Objective,
    *,
    collate: Callable[[Sequence[int]], Batch],
    config: TrainConfig,
    accelerator: Accelerator,
    metric: str,
    better: Callable[[float, float | None], bool],
    evaluate: Callable[[], Evaluation],
    should_stop: Callable[[], bool] = lambda: False,
    places: Callable[[Sequence[int]], Sequence[str]] = lambda features: list(map(str, features)),
    start: Mapping[str, Any] | None = None,
    plan: freezing.Plan | None = None,
) -> Iterator[Event]:
    """Train ``model`` in place and yield what happens.

    The loss of a step is the sum over its micro-batches divided by their whole weight, so that the split into
    micro-batches does not change it.

    Args:
        model: its trainable parameters are trained.
        batches: says which features a step sees.
        objective: the loss.
        collate: feature indices to a batch.
        config: the recipe.
        accelerator: device and precision.
        metric: the score that selects the best checkpoint.
        better: whether a new score beats the best so far, which is None at first.
        evaluate: scores the model on validation; may raise :class:`Interrupted`.
        should_stop: asked after each step; where true, the state is offered and training ends.
        places: what messages call the rows that features were made of (``train.jsonl:118``).
        start: the state of a :class:`~bertkit.events.Checkpoint` to go on from.
        plan: what is trained from when on; where None, what ``config`` says of a model without random parts.

    Raises:
        DivergedError: if the loss or the gradient is not finite, or a weight that was to be evaluated or saved.
    """
    total = num_steps(batches, config)
    plan = plan or freezing.plan_of(model, config)
    plan.reach_all()
    optimizer = optim.adamw(model, config, plan.scales)
    wrapped, prepared = replicas.prepare(accelerator, model, optimizer)
    replicas.begin(batches.seed)
    engine = _Engine(wrapped, prepared, objective, collate, config, accelerator, batches, places, plan)
    done = 0 if start is None else int(start["progress"]["step"])
    # As the last step left it: only what was trained has moments.
    plan.reach(plan.groups_at(max(0, done - 1), batches.steps_per_epoch))
    state = State() if start is None else restore(start, model, optimizer, accelerator, seed=batches.seed)

    def look(*, stopping: bool) -> Generator[Event, None, bool]:
        """Evaluate and offer the state, where either is due; return whether training is to stop."""
        wanted = _evaluation_is_due(state, config, batches.steps_per_epoch, total)
        saving = _due(state, config.save_steps, total + 1)
        if wanted or saving or stopping:
            _check_weights(model, state)
        if wanted and not stopping:
            try:
                yield _evaluated(state, evaluate(), metric, better)
            except Interrupted:
                stopping = True
        if wanted or saving or stopping:
            passing = stopping and (wanted or not saving)
            best = state.best_step == state.step == state.last_evaluation
            found = capture(state, model, optimizer, accelerator)
            yield Checkpoint(step=state.step, best=best, state=found, passing=passing)
        return stopping

    yield _start(model, batches, total, state, accelerator)
    if start is not None and (before := start["progress"].get("processes", 1)) != processes.size():
        yield _other_number(before, state)
    stopping = False
    if _evaluation_is_due(state, config, batches.steps_per_epoch, total):
        # The run was cut short between this step and its evaluation.
        stopping = yield from look(stopping=False)
    enough = _enough(state, config)
    reason = "interrupted" if stopping else "early stopping" if enough and state.step < total else "finished"
    if state.step < total and not enough and not stopping:
        for draw, following in pairwise(batches.draws(epoch=state.epoch, index=state.index)):
            engine.expect(following, state)
            step = engine.step(draw, state, total, batches.steps_per_epoch)
            yield from engine.said()
            yield step
            stopping = yield from look(stopping=processes.any_of(should_stop()))
            enough = _enough(state, config)
            if stopping or enough or state.step >= total:
                reason = "interrupted" if stopping else "early stopping" if enough and state.step < total else reason
                break
    yield Stop(
        step=state.step,
        reason=reason,
        best_step=state.best_step,
        best_score=state.best_score,
        last_score=state.last_score,
    )


def num_steps(batches: TrainingBatches, config: TrainConfig) -> int:
    """Return the optimizer steps of the whole training, at least one."""
    by_epochs = max(1, round(config.epochs * batches.steps_per_epoch))
    return config.max_steps or by_epochs


class _Engine:
    """One optimizer step: forward and backward over the micro-batches, normalise, clip, update."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: Any,
        objective: Objective,
        collate: Callable[[Sequence[int]], Batch],
        config: TrainConfig,
        accelerator: Accelerator,
        batches: TrainingBatches,
        places: Callable[[Sequence[int]], Sequence[str]],
        plan: freezing.Plan,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.feed = Feed(collate, accelerator.device)
        self.upcoming: Sequence[int] = []
        """Features of the next step's first micro-batch, where it can be made ahead."""
        self.config = config
        self.accelerator = accelerator
        self.batches = batches
        self.places = places
        self.plan = plan
        self.notes: list[Note] = []
        self.sharded = replicas.is_fsdp(accelerator)
        self.exchanging = False
        """Whether other processes may have gradients of this step already, so that it cannot be begun anew."""
        self.parameters = list(embeddings.trained(model).values())

    def step(self, draw: Draw, state: State, total: int, steps_per_epoch: int) -> Step:
        """Take one step, move ``state`` on and return the event."""
        began = time.perf_counter()
        part = self._part(draw, state)
        learning_rate = optim.rate(state.step, total, self.config)
        optim.set_rate(self.optimizer, learning_rate)
        self._thaw(state, steps_per_epoch)
        self.model.train()
        self.plan.rest()
        loss, parts = self._in_memory(draw, part, state)
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, self.config.max_grad_norm or math.inf))
        self._check_finite(loss, norm, draw, state, learning_rate)
        with memory.named(f"in the optimizer's update of step {state.step + 1}", NO_ROOM):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        last = draw.index + 1 == steps_per_epoch
        state.epoch, state.index = (draw.epoch + 1, 0) if last else (draw.epoch, draw.index + 1)
        seconds = time.perf_counter() - began
        return Step(
            step=state.step,
            epoch=draw.epoch + (draw.index + 1) / steps_per_epoch,
            loss=loss,
            learning_rate=learning_rate,
            gradient_norm=norm,
            num_examples=draw.num_examples,
            num_tokens=draw.num_tokens,
            seconds=seconds,
            tokens_per_second=draw.num_tokens / seconds,
            imbalance=part.imbalance,
            parts=parts,
        )

    def _thaw(self, state: State, steps_per_epoch: int) -> None:
        """Let be trained what the coming step is the first to train, and say so."""
        number = self.plan.groups_at(state.step, steps_per_epoch)
        new = self.plan.reach(number) if number != self.plan.reached else []
        if new:
            names = " and ".join(part.name for part in new)
            verb = "are" if len(new) > 1 or new[0].name.endswith("s") else "is"
            message = f"from step {state.step + 1} on, {names} {verb} trained, too"
            self.notes.append(Note(message=message, step=state.step + 1))

    def expect(self, following: Draw, state: State) -> None:
        """Take down what the step after the coming one begins with, so that its first batch can be made ahead."""
        if self.feed.ahead and not state.micro_batch_tokens:
            self.upcoming = next(iter(self._part(following, state).micro_batches), [])

    def said(self) -> list[Note]:
        """Return what there is to be said since the last call."""
        notes, self.notes = self.notes, []
        return notes

    def _part(self, draw: Draw, state: State) -> replicas.Part:
        """Return what this process does of a step."""
        tokens = state.micro_batch_tokens or self.batches.micro_batch_tokens
        return replicas.part_of(draw, self.batches, tokens=tokens, sharded=self.sharded)

    def _in_memory(self, draw: Draw, part: replicas.Part, state: State) -> tuple[float, dict[str, float]]:
        """Add up the gradients of a step, in smaller parts where the device has no memory; return loss and its terms.

        From then on all is as with a smaller ``train.micro_batch_tokens``: the same examples in the same order, and
        the same random numbers from the start of the step.

        Raises:
            OutOfMemoryError: if there is no memory for a single row.
        """
        draw = replace(draw, micro_batches=part.micro_batches)
        if state.micro_batch_tokens and part.micro_batches:
            draw = self.batches.split(draw, state.micro_batch_tokens)
        random_state = generators()
        while True:
            self.exchanging = self.sharded
            try:
                return self._backward(draw, part.fillers)
            except RuntimeError as error:
                if not memory.is_short(error):
                    raise
                if self.exchanging:
                    raise self._no_way_back(draw, state, error) from error
                draw = self._halved(draw, state, error)
            # Not in the handler, whose error still holds the tensors of the try.
            self.feed.clear()
            self.optimizer.zero_grad(set_to_none=True)
            memory.give_back()
            set_generators(*random_state)

    def _halved(self, draw: Draw, state: State, error: Exception) -> Draw:
        """Return a draw in parts of half the size, and note that it is so from now on."""
        step, largest = state.step + 1, self.batches.largest_part(draw)
        if not largest:
            raise memory.OutOfMemoryError(
                f"Out of memory in step {step}, with one row of data at a time: {memory.first_line(error)} {NO_ROOM}"
            ) from error
        state.micro_batch_tokens = largest // 2
        message = (
            f"{self.accelerator.device} has no memory for {largest} tokens at once, so train.micro_batch_tokens is "
            f"{largest // 2} from step {step} on: smaller parts, and more of them. The examples of a step, their order "
            "and the recipe stay as they are"
        )
        others = [note for note in self.notes if note.level != "warning"]
        self.notes = [*others, Note(message=message, level="warning", step=step)]
        return self.batches.split(draw, largest // 2)

    def _no_way_back(self, draw: Draw, state: State, error: Exception) -> memory.OutOfMemoryError:
        """Return the fault of a process that has no memory left when the others have its gradients already."""
        largest = self.batches.largest_part(draw)
        return memory.OutOfMemoryError(
            f"Out of memory in step {state.step + 1}, while gradients were exchanged: {memory.first_line(error)} "
            f"A new run with --set train.micro_batch_tokens={max(1, largest // 2)} takes less, and changes no result."
        )

    def _backward(self, draw: Draw, fillers: Sequence[Sequence[int]] = ()) -> tuple[float, dict[str, float]]:
        """Add up the gradients of the micro-batches, over all processes; return the step's mean loss and its terms."""
        import torch

        losses = []
        names: list[str] = []
        passes = [*draw.micro_batches, *fillers]
        # Dividing by the examples first keeps fp16 sums small; the true weight is known only after the last part.
        for place, features in enumerate(passes, start=1):
            batch = self.feed.take(features)
            last, counts = place == len(passes), place <= len(draw.micro_batches)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.objective(self.model, batch)
                self.exchanging = self.sharded or (last and processes.size() > 1)
                # Accelerate's wrappers take the mean over the processes, and it is the sum that is wanted.
                self.accelerator.backward(loss.sum * (processes.size() if counts else 0) / draw.num_examples)
            names = list(loss.parts)
            terms = [term.detach() for term in loss.parts.values()]
            losses += [(loss.weight, loss.sum.detach(), *terms)] if counts else []
            self.feed.make(self.upcoming if last else passes[place])
        # Only now: on a GPU a number is waited for.
        sums = [sum(map(float, each)) for each in zip(*losses, strict=True)] or [0.0] * (2 + len(names))
        weight, total, *terms_of_all = processes.sums(*sums)
        if not weight:
            return 0.0, {}  # a step of sentences of which the tokenizer leaves nothing: its gradients are zero
        if weight != draw.num_examples:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            torch._foreach_mul_(gradients, draw.num_examples / weight)
        return total / weight, {name: term / weight for name, term in zip(names, terms_of_all, strict=True)}

    def _check_finite(self, loss: float, norm: float, draw: Draw, state: State, learning_rate: float) -> None:
        """Stop at a loss or gradient that is not finite; under fp16 a gradient that overflows is the scaler's."""
        if math.isfinite(loss) and math.isfinite(norm):
            return
        scaler = self.accelerator.scaler
        if math.isfinite(loss) and scaler is not None and scaler.get_scale() > LEAST_SCALE:
            return
        what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient norm is {norm}"
        features = sorted(feature for part in draw.micro_batches for feature in part)
        rows = tuple(dict.fromkeys(self.places(features)))
        named = joined(rows).replace("; ", ", ")
        error = DivergedError(
            f"Step {state.step + 1}: the {what} at learning rate {learning_rate:.3g}, on the rows {named}. "
            f"Nothing was saved from this step{_spared(state)}. {WAY_OUT}"
        )
        error.rows = rows
        raise error


def _start(
    model: torch.nn.Module, batches: TrainingBatches, total: int, state: State, accelerator: Accelerator
) -> Start:
    return Start(
        num_examples=batches.num_examples,
        num_steps=total,
        step=state.step,
        # The plain model's parameters: embedding rows that are left out decay as they would in it.
        num_parameters=sum(model.get_parameter(name).numel() for name in embeddings.trained(model)),
        device=replicas.name_of(accelerator.device),
        precision={"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision),
    )


def _other_number(before: int, state: State) -> Note:
    now = processes.size()
    message = (
        f"the checkpoint of step {state.step} was written with --processes {before}, and goes on with {now}: "
        "weights, optimizer and order of the data go on exactly, dropout draws anew from seed, step and rank"
    )
    return Note(message=message, step=state.step)


def _due(state: State, every: int, otherwise: int) -> bool:
    return state.step % (every or otherwise) == 0


def _evaluation_is_due(state: State, config: TrainConfig, steps_per_epoch: int, total: int) -> bool:
    """Say whether the step that was taken is one after which to evaluate, and was not evaluated yet."""
    if not state.step or state.last_evaluation == state.step:
        return False
    return _due(state, config.eval_steps, steps_per_epoch) or state.step == total


def _spared(state: State) -> str:
    return "" if state.best_step is None else f", and the best checkpoint, of step {state.best_step}, is untouched"


def _check_weights(model: torch.nn.Module, state: State) -> None:
    """Stop before weights that are not finite are evaluated or saved.

    Raises:
        DivergedError: naming some of them.
    """
    broken = not_finite(model)
    if broken:
        raise DivergedError(
            f"Step {state.step}: weights are not finite after the update: {joined(broken, most=3)}. "
            f"Nothing was saved from this step{_spared(state)}. {WAY_OUT}"
        )


def not_finite(model: torch.nn.Module) -> list[str]:
    """Return the names of the parameters that hold a NaN or an infinity."""
    import torch

    parameters = dict(model.named_parameters()) | embeddings.trained(model)
    return [name for name, weight in parameters.items() if not bool(replicas.full(torch.isfinite(weight).all()))]


def _enough(state: State, config: TrainConfig) -> bool:
    return bool(config.patience) and state.not_better >= config.patience


def _evaluated(state: State, found: Evaluation, metric: str, better: Callable[[float, float | None], bool]) -> Scores:
    """Enter an evaluation into ``state`` and return the event. A score that is no number is never the best."""
    score = found.scores[metric]
    best = math.isfinite(score) and better(score, state.best_score)
    state.last_score, state.last_evaluation = score, state.step
    state.not_better = 0 if best else state.not_better + 1
    if best:
        state.best_step, state.best_score = state.step, score
    return Scores(
        step=state.step, split="validation", scores=found.scores, metric=metric, best=best, constant=found.constant
    )


def capture(
    state: State, model: torch.nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> dict[str, Any]:
    """Return all that training needs to go on exactly: JSON-able values and tensors, by name.

    Returns:
        ``progress`` (JSON-able), and the tensor tables ``model``, ``optimizer`` and ``rng``.
    """
    random_state, tensors = generators()
    others, tensors_of_others = replicas.of_all((random_state, tensors))
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
    return {
        "progress": {**vars(state), "python_random": random_state, "scaler": scaler, **others},
        "model": tensors_of(model),
        "optimizer": {
            name: replicas.whole(value) for name, value in embeddings.moments(model, optimizer.state).items()
        },
        "rng": tensors | tensors_of_others,
    }


def restore(
    start: Mapping[str, Any],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    *,
    seed: int = 0,
) -> State:
    """Put a captured state back into model, optimizer and generators.

    Where another number of processes captured it, the generators are seeded anew, from seed, step and rank.

    Raises:
        RunError: if it is not this model's, or its weights are not finite.
    """
    progress = dict(start["progress"])
    scaler = progress.pop("scaler")
    own = replicas.own_of(progress, start["rng"])
    if scaler is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(scaler)
    load_tensors(model, start["model"])
    broken = not_finite(model)
    if broken:
        raise RunError(
            f"The checkpoint of step {progress['step']} holds weights that are not finite: {joined(broken, most=3)}. "
            "Start a new run."
        )
    parameters = embeddings.trained(model)
    for name, value in embeddings.fitted(model, start["optimizer"]).items():
        parameter, _, key = name.rpartition("|")
        place = parameters[parameter]
        optimizer.state[place][key] = replicas.like(value, place)
    if own is None:
        replicas.seed(seed, progress["step"])
    else:
        set_generators(*own)
    return State(**progress)


def tensors_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and persistent buffers by name, each storage once."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in replicas.whole_state(model).items():
        if tensor.data_ptr() not in seen:
            tensors[name] = tensor
            seen.add(tensor.data_ptr())
    return tensors


def load_tensors(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy what :func:`tensors_of` gave back into ``model``.

    Raises:
        RunError: if a tensor is not one of the model's.
    """
    load = replicas.load_whole if replicas.is_sharded(model) else _load
    wrong = load(model, tensors).unexpected_keys
    if wrong:
        raise RunError(f"The checkpoint holds {wrong[0]}, which the model does not have: they do not belong together.")


def _load(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> Any:
    return model.load_state_dict(dict(tensors), strict=False)


def generators() -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Return the states of Python's, NumPy's and torch's generators; that of the order comes from seed and epoch."""
    import torch

    version, internal, gauss = random.getstate()
    generators = {"torch": torch.get_rng_state(), "numpy": _numpy_state()}
    if torch.cuda.is_available():
        generators["cuda"] = torch.cuda.get_rng_state()
    return [version, list(internal), gauss], generators


def seed_generators(seed: int) -> None:
    """Seed Python's and NumPy's generators, which an adapter may draw from; torch's is seeded with the head."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)


def set_generators(python_random: Sequence[Any], generators: Mapping[str, torch.Tensor]) -> None:
    """Put back what :func:`generators` gave."""
    import torch

    random.setstate((python_random[0], tuple(python_random[1]), python_random[2]))
    torch.set_rng_state(generators["torch"])
    if "cuda" in generators and torch.cuda.is_available():
        torch.cuda.set_rng_state(generators["cuda"])
    if "numpy" in generators:
        _set_numpy_state(generators["numpy"])


def _numpy_state() -> torch.Tensor:
    """Return the state of NumPy's global generator as int64: 624 words, the place, whether a Gauss waits, its bits."""
    import numpy as np
    import torch

    _, words, place, waits, gauss = np.random.get_state(legacy=True)
    bits = np.float64(gauss).view(np.int64)
    return torch.from_numpy(np.concatenate([np.asarray(words, dtype=np.int64), [place, waits, bits]]))


def _set_numpy_state(state: torch.Tensor) -> None:
    import numpy as np

    values = state.numpy()
    place, waits, gauss = int(values[-3]), int(values[-2]), float(values[-1].view(np.float64))
    np.random.set_state(("MT19937", values[:-3].astype(np.uint32), place, waits, gauss))
