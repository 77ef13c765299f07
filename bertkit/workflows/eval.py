"""``bertkit eval``: score a model on a labelled split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertkit import config, infer
from bertkit.adapters.base import Prediction
from bertkit.config import DeviceConfig
from bertkit.data import Dataset, Split, check, holdout, sources
from bertkit.data.sources import Data
from bertkit.errors import DataError, did_you_mean
from bertkit.events import Listener, Note, Phase, Progress, ignore
from bertkit.run import now
from bertkit.task import Task, from_table
from bertkit.workflows import saved
from bertkit.workflows.preparation import Settings, describe_truncation, task_of, truncation
from bertkit.workflows.saved import Saved


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What an evaluation found."""

    run: str
    """Run or model that was evaluated."""
    task: str
    split: str
    num_examples: int
    scores: dict[str, Any]
    """metric -> value, ``<metric>_interval`` beside."""
    predictions: list[Prediction]
    """One per example, in order."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {key: getattr(self, key) for key in ("run", "task", "split", "num_examples", "scores")}


def evaluate(
    run: str | Path | None = None,
    *,
    task: str | Path | Task | None = None,
    data: Data | None = None,
    split: str = "",
    labels: Sequence[str] = (),
    runs: str | Path = "runs",
    settings: Settings | None = None,
    device: str = "auto",
    precision: config.Precision = "auto",
    threads: int = 0,
    offline: bool = False,
    listen: Listener = ignore,
) -> Evaluated:
    """Score a run or any checkpoint on a labelled split.

    Args:
        run: a run, a model folder or a Hub name; else the newest finished run below ``runs``.
        task: another task than the run's; needed for a checkpoint that bertkit did not save.
        data: a file or folder in place of the task's own data; a file's name is then the split's.
        split: ``validation`` where not given.
        labels: label names in the model's id order, for a checkpoint that only says ``LABEL_0``.
        runs, settings, device, precision, threads, offline, listen: as in :func:`bertkit.finetune`.

    Returns:
        The scores. A run keeps them under ``evals/``.

    Raises:
        BertkitError: if model or data cannot be found or do not fit each other.
    """
    found = task_of(task, settings)[0] if task is not None else None
    model = saved.find(run, runs=Path(runs), task=found, labels=labels, settings=settings, offline=offline)
    if run is None:
        listen(Note(message=f"newest finished run: {model.name}"))
    listen(Phase(name="reading data"))
    rows = _split(model, data, split, offline=offline)
    if not model.adapter.labelled(rows.examples):
        raise DataError(f"{rows.source}: the split '{rows.name}' has no labels, so it can be predicted but not scored.")
    check.require(rows, model.adapter.check)
    listen(Phase(name="loading the model"))
    opened = model.open(DeviceConfig(device=device, precision=precision, threads=threads))
    adapter = model.adapter
    features = adapter.encode(rows.examples, opened.loaded.tokenizer)
    said = describe_truncation(rows.name, truncation(features), adapter.config.max_length, adapter.config.on_long)
    if said:
        listen(Note(message=said, level="warning"))
    predictions = infer.predict(
        adapter,
        opened.loaded.model,
        opened.loaded.tokenizer,
        rows.examples,
        features=features,
        accelerator=opened.accelerator,
        batch_tokens=model.eval.batch_tokens,
        advance=_counter(listen, rows.name, len(features)),
    )
    scores = adapter.score(predictions, rows.examples, resamples=model.eval.resamples)
    result = Evaluated(
        run=model.name,
        task=model.task.name,
        split=rows.name,
        num_examples=len(rows.examples),
        scores=scores,
        predictions=predictions,
    )
    if model.run is not None:
        facts = {"evaluated": now(), "source": rows.source, "precision": opened.precision}
        model.run.write_json(f"evals/{rows.name}.json", result.to_json() | facts)
    return result


def _split(model: Saved, data: Data | None, name: str, *, offline: bool) -> Split:
    """Return the split to score: the given file's, else the run's own or the task's."""
    task = model.task
    stored = model.run.record["request"] if model.run else None
    if data is None and stored is not None and task.name == stored["task"]:
        # The run's own data: the same source, the same rows held out.
        data = None if stored["data"] == "python rows" else stored["data"]
        task = from_table(stored["task_table"], name=task.name, where=f"{model.name}/run.json")
    if sources.is_single_file(data) and not (stored and data == stored["data"]):
        return sources.only(sources.load(task, data=data))
    wanted = name or "validation"
    held_out = bool(model.run and model.run.record["held_out_rows"])
    dataset = sources.load(task, data=data, offline=offline, splits=None if held_out else [wanted])
    dataset = _with_held_out(model, dataset)
    if wanted not in dataset.splits:
        raise DataError(
            f"There is no split '{wanted}'.{did_you_mean(wanted, dataset.splits)} "
            f"There are {', '.join(dataset.splits)}: --split names one."
        )
    return dataset.splits[wanted]


def _with_held_out(model: Saved, dataset: Dataset) -> Dataset:
    """Cut validation off train as the run did, by the rows that it noted."""
    rows = model.run.record["held_out_rows"] if model.run else []
    if not rows:
        return dataset
    name = "train" if "train" in dataset.splits else next(iter(dataset.splits))
    validation = holdout.take(dataset.splits[name], rows, name="validation")
    return Dataset(splits={**dataset.splits, "validation": validation})


def _counter(listen: Listener, name: str, total: int) -> Any:
    done = 0

    def advance(number: int) -> None:
        nonlocal done
        done += number
        listen(Progress(name=f"evaluating {name}", done=done, total=total))

    return advance
