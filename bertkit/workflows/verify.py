"""``bertkit runs verify``: the first steps of a run again, by what ``run.json`` says, and whether they are the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bertkit import config, device
from bertkit import run as run_folders
from bertkit.config import DeviceConfig
from bertkit.data.sources import Data
from bertkit.errors import RunError
from bertkit.events import Listener, Phase, ignore
from bertkit.run import Run
from bertkit.workflows.rehearsal import Rehearsal
from bertkit.workflows.training import Request, Training, as_json, plainly

INPUTS = (
    *("request", "config", "encoder_revision", "encoder_hash", "dataset_revision", "data_hash", "label_map"),
    *("held_out_rows", "tuning_rows", "calibration_rows"),
)
"""Facts of ``run.json`` that must be what they were: with others it is another training."""
SURROUNDINGS = ("versions", "processor")
"""Facts of ``run.json`` that may be others, and then the last bits of a loss may be."""


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
    """What is not as it was then: versions, processor."""

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
        why = "; ".join(self.differences) or "versions, processor, threads and precision are as they were"
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
    request = replace(Request.of_run(found, data=data, offline=offline), device=_device(found))
    training = Training(request, listen, lambda: False, time.perf_counter())
    prepared, source = training.check()
    here = training.facts(prepared, source)
    _refuse_other(found, here)
    rehearsal = Rehearsal.of(training, prepared, source)
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
    surroundings = {"versions": here["versions"], "processor": device.processor()}
    differences = tuple(_differences(found.record, surroundings))
    return Verified(run=str(found.folder), task=found.record["task"], steps=again, differences=differences)


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
    """Return device, precision and threads as they were, where ``auto`` was asked for too."""
    used = run.record["device"]
    return DeviceConfig(device=used["name"], precision=used["precision"], threads=used["threads"])


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


def _differences(record: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not as it was then, and what ``run.json`` does not say."""
    for name in SURROUNDINGS:
        if name not in record:
            yield f"run.json does not say the {name}"
            continue
        for key, now in here[name].items():
            then = record[name].get(key)
            if then != now:
                yield f"{key} was {then or 'absent'} and is {now or 'absent'}"
