"""``bertkit runs verify``: the first steps of a run again, by what ``run.json`` says, and whether they are the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bertkit import config, device
from bertkit import run as run_folders
from bertkit.config import DeviceConfig
from bertkit.data.sources import Data
from bertkit.errors import ConfigError, RunError
from bertkit.events import Event, Listener, Note, Phase, ignore
from bertkit.run import Run
from bertkit.workflows import distilling, pretrain, surroundings
from bertkit.workflows.rehearsal import Rehearsal
from bertkit.workflows.training import Request, Training, as_json, plainly

INPUTS = (
    *("request", "config", "encoder_revision", "encoder_hash", "dataset_revision", "data_hash", "label_map"),
    *("held_out_rows", "tuning_rows", "calibration_rows"),
)
"""Facts of ``run.json`` that must be what they were: with others it is another training."""


@dataclass(frozen=True, kw_only=True)
class StepAgain:
    """One optimizer step, then and now."""

    step: int
    loss: float
    loss_again: float
    gradient_norm: float
    gradient_norm_again: float

    @property
    def same(self) -> bool:
        """Return whether the two are the same, bit for bit."""
        return self.loss == self.loss_again and self.gradient_norm == self.gradient_norm_again


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The first steps of a run beside themselves."""

    run: str
    task: str
    steps: tuple[StepAgain, ...]
    differences: tuple[str, ...]
    """What is not as it was then: versions, device, precision, threads, processor, memory."""

    @property
    def same(self) -> bool:
        """Return whether all steps are the same, bit for bit."""
        return all(step.same for step in self.steps)

    @property
    def verdict(self) -> str:
        """Return what came of it, in a sentence."""
        number = f"the first {len(self.steps)} steps" if len(self.steps) > 1 else "the first step"
        first = next((step for step in self.steps if not step.same), None)
        if first is None:
            return f"{self.run}: losses and gradient norms of {number} are the same, bit for bit"
        what = "loss" if first.loss != first.loss_again else "gradient_norm"
        then, now = getattr(first, what), getattr(first, f"{what}_again")
        why = "; ".join(self.differences) or "versions, device, precision, threads and processor are as they were"
        return (
            f"{self.run}: step {first.step} of {number} is not the same: the {what.replace('_', ' ')} was {then!r} and "
            f"is {now!r} ({why})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        steps = [asdict(step) | {"same": step.same} for step in self.steps]
        return {
            "run": self.run,
            "task": self.task,
            "same": self.same,
            "verdict": self.verdict,
            "differences": list(self.differences),
            "steps": steps,
        }


def verify(
    run: str | Path | None = None,
    *,
    runs: str | Path = "runs",
    steps: int = 10,
    data: Data | None = None,
    offline: bool = False,
    listen: Listener = ignore,
) -> Verified:
    """Train the first steps of a run again and compare their losses and gradient norms, bit for bit.

    Device, precision and threads are those of the run. The run folder is only read.

    Args:
        run: a run; the newest finished one by default.
        runs: where runs are.
        steps: how many steps to take, at least 1; all where the run has fewer.
        data: the rows again, of a run that was trained on Python rows.
        offline: ask no network.
        listen: is given what happens.

    Raises:
        RunError: if the run took no step, or data, encoder or settings are not what they were.
        BertkitError: of its kinds, where something of the training is not to be had here any more.
    """
    found = run_folders.find(run, Path(runs))
    then = _stored_steps(found, steps)
    told = _Told(listen)
    kinds = {
        pretrain.COMMAND: (pretrain.PretrainRequest, pretrain.Pretraining),
        distilling.COMMAND: (Request, distilling.Distilling),
    }
    asked, made_by = kinds.get(found.command, (Request, Training))
    request = replace(asked.of_run(found, data=data, offline=offline), device=_device(found))
    training = made_by(request, told, lambda: False, time.perf_counter())
    prepared, source = training.check()
    _refuse_other(found, training.facts(prepared, source))
    rehearsal = Rehearsal.of(training, training.completed(found, prepared), source)
    listen(Phase(name=f"training the first {len(then)} steps again"))
    now = rehearsal.first_steps(len(then))
    again = tuple(
        StepAgain(
            step=new.step,
            loss=old["loss"],
            loss_again=new.loss,
            gradient_norm=old["gradient_norm"],
            gradient_norm_again=new.gradient_norm,
        )
        for old, new in zip(then, now, strict=True)
    )
    differences = (
        *surroundings.differences(found.record, surroundings.here(rehearsal.place)),
        *_on_the_way(found, len(then), told.shortages),
    )
    return Verified(run=str(found.folder), task=found.record["task"], steps=again, differences=differences)


class _Told:
    """A listener that keeps what is said of steps, such as that memory was short."""

    def __init__(self, listen: Listener) -> None:
        self.listen = listen
        self.shortages: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note) and event.step:
            self.shortages.append(event.message)
        self.listen(event)


def _stored_steps(run: Run, number: int) -> list[dict[str, Any]]:
    """Return the events of the first steps.

    Raises:
        RunError: if there are none, or one is missing.
    """
    if number < 1:
        raise RunError(f"{number} steps of {run.folder} are to be verified, and it must be at least 1.")
    found = [event for event in run.events() if event.get("event") == "step"][:number]
    if not found or "device" not in run.record:
        raise RunError(f"{run.folder} has taken no step yet (status '{run.status}'), so there is nothing to verify.")
    for place, event in enumerate(found, start=1):
        if event.get("step") != place or not {"loss", "gradient_norm"} <= event.keys():
            raise RunError(f"{run.folder / 'events.jsonl'} is damaged: it does not hold step {place}.")
    return found


def _device(run: Run) -> DeviceConfig:
    """Return device, precision and threads as they were, where ``auto`` was asked for too.

    Raises:
        RunError: if they are not to be had here.
    """
    used = run.record["device"]
    place = DeviceConfig(device=used["name"], precision=used["precision"], threads=used["threads"])
    try:
        device.choose(place)
    except ConfigError as error:
        raise RunError(
            f"{run.folder} was trained on {used['name']} in {used['precision']}, so it cannot be verified here: {error}"
        ) from error
    return place


def _refuse_other(run: Run, here: Mapping[str, Any]) -> None:
    """Refuse what would be another training.

    Raises:
        RunError: naming the first difference.
    """
    ours, theirs = ({key: as_json(facts[key]) for key in INPUTS if key in run.record} for facts in (here, run.record))
    # What was asked for may be "auto"; what was used then is asked for now.
    for request in (ours["request"], theirs["request"]):
        request.pop("device", None)
    difference = config.first_difference(ours, theirs)
    if difference:
        raise RunError(f"{run.folder} cannot be verified: {plainly(difference)}.")


def _on_the_way(run: Run, number: int, now: Sequence[str]) -> Iterator[str]:
    """Yield what changed within the first ``number`` steps, then or now."""
    if several := run.record.get("processes"):
        yield f"it was trained in {several['number']} processes, and is verified in one"
    for resumed in run.record.get("resumed", []):
        if resumed["step"] < number and resumed["changed"]:
            yield f"it was resumed after step {resumed['step']}, where {'; '.join(resumed['changed'])}"
    notes = (event for event in run.events() if event.get("event") == "note" and 0 < event.get("step", 0) <= number)
    then = [str(event.get("message")) for event in notes]
    yield from (f"then, and not now: {message}" for message in then if message not in now)
    yield from (f"now, and not then: {message}" for message in now if message not in then)
