"""``bertkit check``: what training would meet in a task's data, without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bertkit import adapters, encoder
from bertkit.adapters.base import Adapter, ExampleError
from bertkit.data import Split, sources
from bertkit.data import check as data_check
from bertkit.data.duplicates import Conflict, Overlap
from bertkit.data.sources import Data
from bertkit.encoder import Source
from bertkit.errors import BertkitError, DataError
from bertkit.events import Listener, Note, Phase, ignore
from bertkit.task import DEFAULT_ENCODER, Task
from bertkit.workflows.findings import Content, SplitReport, content
from bertkit.workflows.preparation import Settings, configs, refuse_taken, task_of
from bertkit.workflows.tokens import Measured, measure

SAMPLE = 20_000
"""Rows of a split whose lengths are measured, at most; taken evenly over it."""
MOST = 100
"""Rows of a kind that a report names; counts are of all."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found in a task's data."""

    task: Task
    """Columns, kind and labels filled in."""
    encoder: str
    max_length: int
    splits: list[SplitReport]
    duplicates: list[Overlap] = field(default_factory=list)
    """Rows that are there twice, split by split; only those splits that have any."""
    conflicts: list[Conflict] = field(default_factory=list)
    """The same text with different labels, the first of them."""
    num_conflicts: int = 0
    problems: list[str]
    """What would make training wrong; ``bertkit check`` exits 1 where there is any."""
    warnings: list[str] = field(default_factory=list)
    """What may make scores mean less than they seem to, or training learn something else than it should."""
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "task": self.task.name,
            "encoder": self.encoder,
            "columns": self.task.columns,
            "kind": self.task.kind,
            "labels": list(self.task.labels),
            "max_length": self.max_length,
            "splits": [asdict(split) for split in self.splits],
            "duplicates": [asdict(overlap) for overlap in self.duplicates],
            "conflicts": [asdict(conflict) for conflict in self.conflicts],
            "num_conflicts": self.num_conflicts,
            "problems": self.problems,
            "warnings": self.warnings,
            "notes": self.notes,
        }


def check(
    task: str | Path | Task | Any,
    *,
    encoder: str | Path = "",
    data: Data | None = None,
    settings: Settings | None = None,
    offline: bool = False,
    listen: Listener = ignore,
) -> Checked:
    """Look at a task's data: columns and labels, lengths and unknown words, duplicates, and what gives labels away.

    Args:
        task: a task's name, a task file, a data file, or rows.
        encoder: whose tokenizer measures lengths; else the task's. Where it cannot be had, lengths are left out, and
            where it was named here, that is a problem.
        data, settings, offline, listen: as in :func:`bertkit.finetune`.

    Raises:
        BertkitError: if there is nothing to look at: no such task, no readable data, no such column.
    """
    found, rows = task_of(task, settings)
    listen(Phase(name="reading data"))
    dataset = sources.load(found, data=rows if data is None else data, offline=offline)
    kind = adapters.find(found.type)
    train_config = configs(found)[0]
    first = dataset.splits.get("train") or next(iter(dataset.splits.values()))
    data_check.require(first, lambda example: [])
    resolved, notes = kind.resolve(found, first.examples)
    adapter = kind(resolved, train_config, resolved.labels)
    chosen = str(encoder) or resolved.encoder or DEFAULT_ENCODER
    tokenizer, positions, why = _tokenizer(chosen, offline=offline)
    unread = [f"lengths are not measured: {why}"] if tokenizer is None else []
    notes += [] if str(encoder) else unread
    listen(Phase(name="checking rows"))
    splits = [_report(split, adapter, tokenizer, name == "train") for name, split in dataset.splits.items()]
    problems = [problem for report in splits for problem in report.problems]
    if problems:
        notes.append("duplicates, and what gives labels away, are looked for once no row has a fault")
    listen(Phase(name="looking for duplicates"))
    said = Content() if problems else content(dataset, adapter, splits, chosen)
    problems += unread if str(encoder) else []
    if positions is not None and train_config.max_length > positions:
        problems.append(f"train.max_length is {train_config.max_length}, and {chosen} has positions for {positions}")
    try:
        refuse_taken(dataset, configs(found)[2].column)
    except DataError as error:
        problems.append(str(error))
    notes += [*said.notes, *dataset.notes]
    for note in notes:
        listen(Note(message=note))
    return Checked(
        task=resolved,
        encoder=chosen,
        max_length=train_config.max_length,
        splits=splits,
        duplicates=said.duplicates,
        conflicts=said.conflicts[:MOST],
        num_conflicts=len(said.conflicts),
        problems=[*problems, *said.problems],
        warnings=said.warnings,
        notes=notes,
    )


def _tokenizer(name: str, *, offline: bool) -> tuple[Any, int | None, str]:
    """Return the tokenizer and the encoder's positions, where its config says them; or None and why there is none."""
    try:
        source: Source = encoder.find(name, offline=offline)
        return encoder.load_tokenizer(source), encoder.stored_positions(source.folder), ""
    except BertkitError as error:
        return None, None, str(error)


def _report(split: Split, adapter: Adapter, tokenizer: Any, is_train: bool) -> SplitReport:
    if not split.examples:
        return SplitReport(
            name=split.name, source=split.source, num_examples=0, labelled=False, problems=[f"{split.source} is empty"]
        )
    labelled = adapter.labelled(split.examples)
    problems = data_check.problems(split, lambda row: adapter.check(row, labelled=labelled or is_train))
    step = -(-len(split.examples) // SAMPLE)
    measured: Measured | None = None
    if tokenizer is not None and not problems:
        try:
            measured = measure(adapter, split.examples[::step], tokenizer)
        except ExampleError as error:
            problems.append(f"{split.place(error.example * step)} {error.detail}")
    empty = [] if problems else [i for i, row in enumerate(split.examples) if _has_empty(adapter.readings(row))]
    report = SplitReport(
        name=split.name,
        source=split.source,
        num_examples=len(split.examples),
        labelled=labelled,
        balance=adapter.balance(split.examples) if labelled and not problems else {},
        empty=[split.place(index) for index in empty[:MOST]],
        num_empty=len(empty),
        problems=problems,
    )
    return report if measured is None else _with_tokens(report, measured, step, adapter)


def _with_tokens(report: SplitReport, measured: Measured, step: int, adapter: Adapter) -> SplitReport:
    """Return a report with what was counted in every ``step``-th row."""
    some = "" if step == 1 else f" (counted in one row of {step})"
    lost = [f"{said}{some}" for said in adapter.truncation_notes(measured.truncation)]
    return replace(report, lost=lost, measured=-(-report.num_examples // step), **vars(measured))


def _has_empty(texts: Mapping[str, str]) -> bool:
    return any(not text.strip() for text in texts.values())
