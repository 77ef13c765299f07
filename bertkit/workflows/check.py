"""``bertkit check``: what training would meet in a task's data, without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertkit import adapters, encoder
from bertkit.adapters.base import Adapter, ExampleError
from bertkit.data import Dataset, Split, sources
from bertkit.data import check as data_check
from bertkit.data.sources import Data
from bertkit.encoder import Source
from bertkit.errors import BertkitError, DataError
from bertkit.events import Listener, Note, Phase, ignore
from bertkit.task import DEFAULT_ENCODER, Task
from bertkit.workflows.preparation import Settings, configs, refuse_taken, task_of, unusable, unusable_note

SAMPLE = 20_000
"""Rows of a split whose lengths are measured, at most; taken evenly over it."""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What was found in one split."""

    name: str
    source: str
    num_examples: int
    labelled: bool
    balance: dict[str, int] = field(default_factory=dict)
    """label -> rows."""
    lengths: dict[str, float] = field(default_factory=dict)
    """Quantiles (``median``, ``p99``, ``longest``) of the length in tokens; empty where no tokenizer was at hand."""
    truncation: dict[str, Any] = field(default_factory=dict)
    """What ``max_length`` cuts; empty where no tokenizer was at hand."""
    lost: list[str] = field(default_factory=list)
    """What the length limit costs, in sentences."""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found in a task's data."""

    task: Task
    """Columns, kind and labels filled in."""
    encoder: str
    max_length: int
    splits: list[SplitReport]
    problems: list[str]
    """What would make training wrong; ``bertkit check`` exits 1 where there is any."""
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        from dataclasses import asdict

        return {
            "task": self.task.name,
            "encoder": self.encoder,
            "columns": self.task.columns,
            "kind": self.task.kind,
            "labels": list(self.task.labels),
            "max_length": self.max_length,
            "splits": [asdict(split) for split in self.splits],
            "problems": self.problems,
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
    """Look at a task's data: columns, labels and their balance, lengths, and what ``max_length`` would cut.

    Args:
        task: a task's name, a task file, a data file, or rows.
        encoder: whose tokenizer measures lengths; else the task's. Where it cannot be had, lengths are left out.
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
    if tokenizer is None:
        notes.append(f"lengths are not measured: {why}")
    listen(Phase(name="checking rows"))
    splits = [_report(split, adapter, tokenizer, name == "train") for name, split in dataset.splits.items()]
    problems = [problem for report in splits for problem in report.problems]
    if positions is not None and train_config.max_length > positions:
        problems.append(f"train.max_length is {train_config.max_length}, and {chosen} has positions for {positions}")
    if not problems:
        problems += _unseen(dataset, adapter)
        notes += _remarks(dataset, adapter)
    try:
        refuse_taken(dataset, configs(found)[2].column)
    except DataError as error:
        problems.append(str(error))
    for note in (*notes, *dataset.notes):
        listen(Note(message=note))
    return Checked(
        task=resolved,
        encoder=chosen,
        max_length=train_config.max_length,
        splits=splits,
        problems=problems,
        notes=[*notes, *dataset.notes],
    )


def _tokenizer(name: str, *, offline: bool) -> tuple[Any, int | None, str]:
    """Return the tokenizer and the encoder's positions, where its config says them; or None and why there is none."""
    try:
        source: Source = encoder.find(name, offline=offline)
        config = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
        positions = config.get("max_position_embeddings")
        known = positions if isinstance(positions, int) and positions > 0 else None
        return encoder.load_tokenizer(source), known, ""
    except BertkitError as error:
        return None, None, str(error)


def _report(split: Split, adapter: Adapter, tokenizer: Any, is_train: bool) -> SplitReport:
    if not split.examples:
        return SplitReport(
            name=split.name, source=split.source, num_examples=0, labelled=False, problems=[f"{split.source} is empty"]
        )
    labelled = adapter.labelled(split.examples)
    problems = data_check.problems(split, lambda row: adapter.check(row, labelled=labelled or is_train))
    lengths: dict[str, float] = {}
    cut: dict[str, Any] = {}
    step = -(-len(split.examples) // SAMPLE)
    if tokenizer is not None and not problems:
        try:
            lengths, cut = _lengths(adapter, split.examples[::step], tokenizer)
        except ExampleError as error:
            problems.append(f"{split.place(error.example * step)} {error.detail}")
    return SplitReport(
        name=split.name,
        source=split.source,
        num_examples=len(split.examples),
        labelled=labelled,
        balance=adapter.balance(split.examples) if labelled and not problems else {},
        lengths=lengths,
        truncation=cut,
        lost=[_of_sample(said, step) for said in adapter.truncation_notes(cut)] if cut else [],
        problems=problems,
    )


def _of_sample(said: str, step: int) -> str:
    """Return a sentence whose counts are those of every ``step``-th row, saying so."""
    return said if step == 1 else f"{said} (counted in one row of {step})"


def _lengths(adapter: Adapter, examples: Sequence[dict[str, Any]], tokenizer: Any) -> tuple[dict[str, float], Any]:
    """Return quantiles of the uncut lengths in tokens, and what the limit cuts."""
    features = adapter.encode(examples, tokenizer)
    whole: dict[int, int] = {}
    for feature in features:
        whole[feature.example] = max(whole.get(feature.example, 0), len(feature) + feature.num_cut)
    values = np.array(list(whole.values()))
    quantiles = {"median": np.median(values), "p99": np.quantile(values, 0.99), "longest": values.max()}
    return {name: float(value) for name, value in quantiles.items()}, adapter.truncation(features, examples)


def _remarks(dataset: Dataset, adapter: Adapter) -> list[str]:
    """Return what the type has to say of each split, and which training examples it could not use."""
    said = [f"{name}: {each}" for name, split in dataset.splits.items() for each in adapter.remarks(split.examples)]
    train = dataset.splits.get("train")
    found = unusable(train, adapter) if train else {}
    return [*said, unusable_note(train, found)] if train and found else said


def _unseen(dataset: Dataset, adapter: Adapter) -> list[str]:
    if "train" not in dataset.splits:
        return []
    return [
        f"'{name}' has labels that train never shows: {', '.join(f'{k} ({v} rows)' for k, v in missing.items())}"
        for name, missing in data_check.unseen_labels(dataset, adapter.balance).items()
    ]
