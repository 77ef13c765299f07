"""``bertkit eval``: score a model on a labelled split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bertkit import config, infer, processes
from bertkit.adapters.base import Adapter, Feature, Prediction
from bertkit.baselines.stored import Beside
from bertkit.config import DeviceConfig
from bertkit.data import Dataset, Split, check, holdout, sources
from bertkit.data.sources import Data
from bertkit.errors import BertkitError, DataError, RunError, did_you_mean, together
from bertkit.events import Listener, Note, Phase, counter, ignore
from bertkit.run import Run, now
from bertkit.task import Task, from_table
from bertkit.workflows import following, saved, standing
from bertkit.workflows import report as reports
from bertkit.workflows.preparation import Settings, task_of, without_rows
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
    details: dict[str, Any]
    """What stands behind the scores: each entity type, questions with and without an answer."""
    predictions: list[Prediction]
    """One per example, in order."""
    baselines: Beside = field(default_factory=dict)
    """Name of a stored baseline -> split -> metric -> value, where ``bertkit baseline`` was run on the same rows."""
    warnings: list[str] = field(default_factory=list)
    """What is to be said of scores that are worth little: one answer only, or a baseline that is better."""
    report: Path | None = None
    """The page that was written."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        whole = {key: getattr(self, key) for key in ("run", "task", "split", "num_examples", "scores")}
        whole |= {key: value for key in ("details", "baselines", "warnings") if (value := getattr(self, key))}
        return whole | ({"report": str(self.report)} if self.report else {})


def evaluate(
    run: str | Path | None = None,
    *,
    task: str | Path | Task | None = None,
    data: Data | None = None,
    split: str = "",
    labels: Sequence[str] = (),
    report: str | Path = "",
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
        report: file of the HTML report, ``none`` for none; in the run's folder where not given.
        runs, settings, device, precision, threads, offline, listen: as in :func:`bertkit.finetune`.

    Returns:
        The scores. A run keeps them under ``evals/``, and has a report of them.

    Raises:
        BertkitError: if model or data cannot be found or do not fit each other.
    """
    processes.join(device)
    if not processes.is_main():
        listen = ignore
    found = task_of(task, settings)[0] if task is not None else None
    try:
        model = saved.find(run, runs=Path(runs), task=found, labels=labels, settings=settings, offline=offline)
    except BertkitError as fault:
        raise together([fault, *_absent_data(fault, found, data)]) from fault
    if run is None:
        listen(Note(message=f"newest finished run: {model.name}"))
    listen(Phase(name="reading data"))
    rows, said = _scored(model, _split(model, data, split, task=found, offline=offline))
    if said:
        listen(Note(message=said))
    model = model.resolved(rows.examples)
    if not model.adapter.labelled(rows.examples):
        raise _unlabelled(rows, model.adapter)
    check.require(rows, model.adapter.check)
    listen(Phase(name="loading the model"))
    opened = model.open(DeviceConfig(device=device, precision=precision, threads=threads))
    adapter = model.adapter
    features = following.encoded(adapter, rows, opened.loaded.tokenizer)
    for remark in adapter.remarks(rows.examples):
        listen(Note(message=f"{rows.name}: {remark}"))
    for said in adapter.truncation_notes(adapter.truncation(features, rows.examples)):
        listen(Note(message=f"{rows.name}: {said}", level="warning"))
    with processes.contact():
        predictions = infer.predict(
            adapter,
            opened.loaded.model,
            opened.loaded.tokenizer,
            rows.examples,
            features=features,
            accelerator=opened.accelerator,
            batch_tokens=infer.Room(model.eval.batch_tokens, listen),
            advance=counter(listen, f"evaluating {rows.name}", len(features)),
            together=processes.size() > 1,
        )
    if not processes.is_main():
        return processes.share()
    scores = adapter.score(predictions, rows.examples, resamples=model.eval.resamples)
    beside = standing.of_rows(Path(runs), model.run, model.task, rows, listen)
    constant = adapter.constant(predictions, rows.examples)
    given = {} if constant is None else {rows.name: constant}
    low = standing.warnings(adapter, {rows.name: scores}, given, beside)
    standing.say(low, listen)
    result = Evaluated(
        run=model.name,
        task=model.task.name,
        split=rows.name,
        num_examples=len(rows.examples),
        scores=scores,
        details=adapter.details(predictions, rows.examples),
        predictions=predictions,
        baselines=beside,
        warnings=low,
    )
    if model.run is not None:
        facts = {"evaluated": now(), "source": rows.source, "precision": opened.precision}
        try:
            model.run.write_json(f"evals/{rows.name}.json", result.to_json() | facts)
            pairs = zip(rows.examples, predictions, strict=True)
            lines = (example | {model.predict.column: prediction} for example, prediction in pairs)
            model.run.write_lines(f"evals/{rows.name}.jsonl", lines)
        except RunError as error:
            listen(Note(message=f"the scores are not kept: {error}", level="warning"))
    return processes.share(replace(result, report=_report(model, rows, features, result, report, listen)))


def _report(
    model: Saved, rows: Split, features: Sequence[Feature], result: Evaluated, given: str | Path, listen: Listener
) -> Path | None:
    """Write the report, where there is a place for it."""
    where = reports.place(model, rows.name, given)
    if where is None:
        return None
    beside = {name: splits.get(rows.name, {}) for name, splits in result.baselines.items()}
    return reports.write(
        model,
        rows,
        features,
        result.predictions,
        result.scores,
        where=where,
        baselines=beside,
        remarks=result.warnings,
        listen=listen,
    )


def _unlabelled(rows: Split, adapter: Adapter) -> DataError:
    """Return the error of a split without labels, which says where they were looked for if there is no such column."""
    first = rows.examples[0] if rows.examples else {}
    wanted = [role.rstrip("!") for role in adapter.columns if not role.endswith("?")]
    missing = [role for role in wanted if not adapter.has(first, role)]
    where = ""
    if len(wanted) > 1 and missing == wanted[-1:]:
        (role,) = missing
        there = ", ".join(map(repr, list(first)[:8]))
        where = f" There is no column '{adapter.column(role)}'; there are {there}: --set columns.{role}=NAME names one."
    return DataError(
        f"{rows.source}: the split '{rows.name}' has no labels, so it can be predicted but not scored.{where}"
    )


def _absent_data(fault: BertkitError, task: Task | None, data: Data | None) -> list[BertkitError]:
    """Return the fault of data that is not there either, where the model could not be had without the Hub."""
    if fault.absence is None or task is None:
        return []
    try:
        sources.load(task, data=data, offline=True)
    except BertkitError as other:
        return [other]
    return []


def _split(model: Saved, data: Data | None, name: str, *, task: Task | None, offline: bool) -> Split:
    """Return the split to score: the given file or rows, else the run's own or the task's."""
    if sources.is_single_file(data):
        return sources.only(sources.load(model.task, data=data))
    if data is not None and not isinstance(data, str | Path | Mapping):
        return sources.only(sources.load(model.task, data={"rows": data}))
    source, wanted = model.task, name or "validation"
    own = _own_task(model, task)
    if own is not None and model.run is not None:
        stored = model.run.record["request"]["data"]
        source = own
        own_data = _is_stored(data, stored)
        data = None if stored == "python rows" and data is None else stored if data is None else data
        if own_data and model.run.record["held_out_rows"]:
            return _named(_with_held_out(model.run, sources.load(source, data=data, offline=offline)), wanted)
        if own_data and wanted == "validation" and model.run.record.get("calibration_rows"):
            whole = _named(sources.load(source, data=data, offline=offline, splits=_only(data, wanted)), wanted)
            _require_calibrated(model.run, whole)
            return whole
    return _named(sources.load(source, data=data, offline=offline, splits=_only(data, wanted)), wanted)


def _own_task(model: Saved, given: Task | None) -> Task | None:
    """Return the task that a run was made from, unless another with other data is asked for."""
    if model.run is None:
        return None
    request = model.run.record["request"]
    own = from_table(request["task_table"], name=request["task"], where=f"{model.name}/run.json")
    return own if given is None or given.to_table()["data"] == own.to_table()["data"] else None


def _is_stored(data: Data | None, stored: str | None) -> bool:
    """Say whether ``data`` is what the run was trained on; Python rows are compared when they are read."""
    if isinstance(data, str | Path):
        return str(Path(data).expanduser().resolve()) == stored
    return data is None or stored == "python rows"


def _only(data: Data | None, wanted: str) -> list[str] | None:
    """Return the names of the splits to read; rows given by split are all there already."""
    return [wanted] if data is None or isinstance(data, str | Path) else None


def _named(dataset: Dataset, wanted: str) -> Split:
    if wanted not in dataset.splits:
        raise DataError(
            f"There is no split '{wanted}'.{did_you_mean(wanted, dataset.splits)} "
            f"There are {', '.join(dataset.splits)}: --split names one."
        )
    return dataset.splits[wanted]


def _scored(model: Saved, rows: Split) -> tuple[Split, str]:
    """Leave out the rows that the model was calibrated on, wherever the same file now lies; and say so.

    Where it cannot be known which rows they were, that is what is said of a validation split.
    """
    run = model.run
    number = len(run.record.get("calibration_rows", ())) if run is not None else 0
    if run is not None and number:
        for each in (rows, _without_calibration(run, rows)):
            if each is not None and _is_other_half(run, each):
                return each, f"{rows.name} without the {number} rows that were kept for the calibration"
    if rows.name != "validation" or "temperature" not in model.adapter.state():
        return rows, ""
    return rows, (
        f"{model.name} was calibrated on half of its validation rows; where these are among them, scores are flattered"
    )


def _without_calibration(run: Run, split: Split) -> Split | None:
    """Return a split without the rows that temperature and threshold were fitted on; None where it has too few."""
    chosen = run.record["calibration_rows"]
    return without_rows(split, chosen) if max(chosen) < len(split.examples) else None


def _is_other_half(run: Run, split: Split) -> bool:
    return sources.fingerprint(Dataset(splits={"validation": split})) == str(run.record["held_out_hash"])


def _require_calibrated(run: Run, split: Split) -> None:
    """Refuse the run's own validation where it is not what it was.

    Raises:
        DataError: saying what to do.
    """
    left = _without_calibration(run, split)
    if left is None or not _is_other_half(run, left):
        raise DataError(
            f"{split.source} is not what it was when {run.folder} was calibrated on half of it, so the other half "
            "cannot be found again. Restore it, or name the rows to score with --data FILE."
        )


def _with_held_out(run: Run, dataset: Dataset) -> Dataset:
    """Cut validation off train as the run did, by the rows that it noted.

    Raises:
        DataError: if those rows are not what they were.
    """
    rows = run.record["held_out_rows"]
    train = dataset.splits.get("train") or next(iter(dataset.splits.values()))
    held = set(rows)
    if max(held) < len(train.examples):
        validation = holdout.take(train, rows, name="validation")
        rest = holdout.take(train, [n for n in range(len(train.examples)) if n not in held], name="train")
        if sources.fingerprint(Dataset(splits={"validation": validation})) == run.record["held_out_hash"]:
            return replace(dataset, splits={**dataset.splits, "train": rest, "validation": validation})
    raise DataError(
        f"{train.source} is not what it was when {run.folder} was trained, so its held-out rows cannot be found again. "
        "Restore it, or name the rows to score with --data FILE."
    )
