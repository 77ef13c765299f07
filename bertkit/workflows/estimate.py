"""``bertkit finetune --dry-run``: what a training would take, from its data and a few steps that are thrown away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertkit import config, infer, loop, memory
from bertkit.config import DeviceConfig
from bertkit.data.sources import Data
from bertkit.errors import RunError
from bertkit.events import Listener, Note, Phase, Step, ignore
from bertkit.task import Task
from bertkit.workflows import footprint
from bertkit.workflows.finetune import request_of
from bertkit.workflows.preparation import Settings
from bertkit.workflows.rehearsal import Rehearsal
from bertkit.workflows.training import Training

MEASURED_STEPS = 3
"""Steps that are taken to measure the time; the first one, which also warms up, is not counted where there are more."""
MEASURED_ROWS = 128
"""Validation features whose evaluation is timed."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a training would take."""

    task: str
    encoder: str
    num_examples: int
    """Training examples in one epoch."""
    steps: int
    """Optimizer steps in all, where early stopping does not end it before."""
    evaluations: int
    tokens: int
    """Real tokens that the steps see, padding not counted; an average epoch's where the last one is not whole."""
    tokens_per_second: float
    """Measured on a few steps."""
    training_seconds: float
    """Of the steps."""
    evaluation_seconds: float
    """Of all evaluations of validation."""
    memory: int
    """Bytes of the whole process at its most."""
    memory_more: int
    """Bytes of it that are not held yet when the first step begins."""
    memory_free: int | None
    """Bytes that can be had on the device; None where the system does not say."""
    disk: int
    """Bytes of the run folder at its most: three checkpoints, and a fourth while it is written."""
    device: str
    precision: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {"dry_run": True, **asdict(self)}

    def rows(self) -> list[tuple[str, str]]:
        """Return what is shown, a line each."""
        free = "" if self.memory_free is None else f", {memory.gigabytes(self.memory_free)} are free"
        more = f" ({memory.gigabytes(self.memory_more)} beyond the loaded model{free})"
        return [
            ("training examples", f"{self.num_examples:,}"),
            ("steps", f"{self.steps:,}"),
            ("tokens", f"{self.tokens:,}"),
            ("time of the steps", f"{duration(self.training_seconds)}, at {self.tokens_per_second:,.0f} tokens/s"),
            (f"time of {self.evaluations} evaluations", duration(self.evaluation_seconds)),
            ("memory", memory.gigabytes(self.memory) + more),
            ("disk", memory.gigabytes(self.disk)),
            ("device", f"{self.device}, {self.precision}, {self.threads} threads"),
        ]


def estimate(
    task: str | Path | Task | Any = None,
    *,
    encoder: str | Path = "",
    revision: str = "",
    data: Data | None = None,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    seed: int | None = None,
    limit: int = 0,
    start_from: str | Path | None = None,
    scored: Sequence[str] = (),
    settings: Settings | None = None,
    device: str = "auto",
    precision: config.Precision = "auto",
    threads: int = 0,
    offline: bool = False,
    listen: Listener = ignore,
) -> Estimate:
    """Say what :func:`bertkit.finetune` would take with the same arguments; no run folder is made.

    Everything before the first step is done as it would be, so that whatever refuses a training refuses this too.
    Then a few steps are taken and thrown away.

    Raises:
        BertkitError: as :func:`bertkit.finetune` does.
    """
    if out is not None and Path(out).is_dir() and any(Path(out).iterdir()):
        raise RunError(f"--dry-run is about a new run, and there is something in {out} already. Name another --out.")
    request = request_of(
        task,
        encoder=encoder,
        revision=revision,
        data=data,
        seed=seed,
        limit=limit,
        start_from=start_from,
        scored=scored,
        settings=settings,
        device=DeviceConfig(device=device, precision=precision, threads=threads),
        offline=offline,
        runs=Path(runs),
        listen=listen,
    )
    training = Training(request, listen, lambda: False, time.perf_counter())
    return _measured(Rehearsal.of(training, *training.check()), listen)


def _measured(ready: Rehearsal, listen: Listener) -> Estimate:
    """Take some steps and an evaluation, and scale them to the whole training."""
    batches, place, train = ready.batches, ready.place, ready.prepared.train
    free, held = memory.free(ready.accelerator.device), memory.held(ready.accelerator.device)
    if ready.loaded.plan:
        ready.loaded.plan.reach_all()
    need = footprint.of(ready.prepared.adapter, ready.loaded.model, ready.features["train"], batches, ready.accelerator)
    if free is not None and need.size > free.size:
        listen(Note(message=footprint.shortage(need, free), level="warning"))
    listen(Phase(name="measuring a few steps"))
    if ready.loaded.plan and ready.loaded.plan.states_are_fixed and train.cache_features:
        message = (
            "the encoder is frozen and its features are computed once: the time is that of computing them each time"
        )
        listen(Note(message=message))
    rate = _tokens_per_second(ready.some_steps(MEASURED_STEPS))
    steps = loop.num_steps(batches, train)
    tokens = round(batches.num_tokens * steps / batches.steps_per_epoch)
    evaluations = num_evaluations(steps, train.eval_steps or batches.steps_per_epoch)
    return Estimate(
        task=ready.prepared.task.name,
        encoder=ready.loaded.source.name,
        num_examples=batches.num_examples,
        steps=steps,
        evaluations=evaluations,
        tokens=tokens,
        tokens_per_second=rate,
        training_seconds=tokens / rate,
        evaluation_seconds=evaluations * _evaluation_seconds(ready),
        memory=held + need.size,
        memory_more=need.size,
        memory_free=None if free is None else free.size,
        disk=need.disk,
        device=place.name,
        precision=place.precision,
        threads=place.threads,
    )


def _tokens_per_second(taken: Sequence[Step]) -> float:
    """Return the real tokens a second of steps, of which the first one also warms up."""
    counted = taken[1:] or taken
    return sum(step.num_tokens for step in counted) / sum(step.seconds for step in counted)


def _evaluation_seconds(ready: Rehearsal) -> float:
    """Return the time that the forward pass over validation takes, from rows that are spread evenly over it."""
    features = ready.features["validation"]
    some = features[:: -(-len(features) // MEASURED_ROWS)]
    tokens = ready.prepared.eval.batch_tokens
    began = time.perf_counter()
    infer.forward(ready.prepared.adapter, ready.loaded.model, some, accelerator=ready.accelerator, batch_tokens=tokens)
    return (time.perf_counter() - began) * sum(map(len, features)) / sum(map(len, some))


def num_evaluations(steps: int, every: int) -> int:
    """Return how often validation is scored: each so many steps, after the last one, and at the end for the intervals.

    Args:
        steps: of the whole training.
        every: steps between two evaluations.
    """
    return -(-steps // every) + 1


def duration(seconds: float) -> str:
    """Return a time as one says it: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
