"""What finetune, eval and check do alike: from a task's name to checked examples and an adapter."""

from __future__ import annotations

import gc
import hashlib
import inspect
import json
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from unicodedata import unidata_version

from bertkit import adapters, config
from bertkit.adapters.base import Adapter, Example, ExampleError, Feature
from bertkit.catalog import find_task, is_data_file
from bertkit.config import EvalConfig, PredictConfig, TrainConfig
from bertkit.data import Dataset, Split, cache, check, holdout, sources
from bertkit.data.sources import Data
from bertkit.errors import ConfigError, DataError, joined
from bertkit.events import Listener, Note, Phase
from bertkit.task import DataSource, Task

TUNING = " tuning"
"""Name of the rows held out for tuning; no split of a user's has it."""
FEW = 1000
"""Examples below which features are not kept: making them takes no time."""
WORTH_KEEPING = 1.0
"""Seconds that encoding must take for the features to be kept."""
Settings = Mapping[str, Any]
"""What ``--set`` gives: keys with dots (``{"train.epochs": 2}``) or tables (``{"train": {"epochs": 2}}``)."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A task with all that the data decides filled in, its checked examples and its adapter."""

    task: Task
    train: TrainConfig
    eval: EvalConfig
    predict: PredictConfig
    adapter: Adapter
    dataset: Dataset
    held_out: tuple[int, ...] = ()
    """Rows of train that became validation."""
    tuning: Split | None = None
    """Rows held out for :meth:`Adapter.tune`, where the type tunes anything: of train, or half of validation."""
    tuning_rows: tuple[int, ...] = ()
    """Rows of train, validation's left out, that became ``tuning``."""
    calibration_rows: tuple[int, ...] = ()
    """Rows of validation that became ``tuning``, under ``eval.calibrate``; of train, where validation was cut off it.
    Neither trained on nor scored."""
    scored: tuple[str, ...] = ()
    """Labelled splits other than train."""


def task_of(task: str | Path | Task | Any, settings: Settings | None) -> tuple[Task, Data | None]:
    """Return a task, and the data where ``task`` is Python rows instead of a name.

    Raises:
        TaskError: if there is no such task.
    """
    over = tables(settings or {})
    if isinstance(task, Task):
        return find_task(task, overrides=over), None
    if isinstance(task, str | Path):
        path = Path(task)
        if is_data_file(path, over) and "type" not in over:
            kind = str(over.get("data", {}).get("format", ""))
            over["type"] = adapters.recognise(sources.first_rows(path, format=kind))
        return find_task(task, overrides=over), None
    kind = str(over.pop("type", "")) or adapters.recognise(sources.first_rows(task))
    bare = Task(name="data", type=kind, data=DataSource(hub="in/python"))
    return replace(find_task(bare, overrides=over), data=DataSource()), task


def tables(settings: Settings) -> dict[str, Any]:
    """Return settings as nested tables, whichever of the two forms they have.

    Raises:
        ConfigError: if one setting goes below another that is a value.
    """
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        place = tree
        for name in path:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ConfigError(f"The setting '{key}' goes below '{name}', which another one sets to {place!r}.")
        if isinstance(value, Mapping) and isinstance(place.get(last), dict):
            place[last] |= value
        else:
            place[last] = dict(value) if isinstance(value, Mapping) else value
    return tree


def configs(task: Task) -> tuple[TrainConfig, EvalConfig, PredictConfig]:
    """Return the three configurations: defaults, the task type's, then the task's (``--set`` is in it already).

    Raises:
        ConfigError: naming every wrong setting of a section.
    """
    given = task.settings
    return (
        config.build(TrainConfig, adapters.find(task.type).defaults, given.get("train", {})),
        config.build(EvalConfig, given.get("eval", {})),
        config.build(PredictConfig, given.get("predict", {})),
    )


def prepare(
    task: Task, *, data: Data | None, offline: bool, limit: int = 0, seed: int = 42, listen: Listener
) -> Prepared:
    """Read a task's data for training, fill in what the data decides, and check every example.

    Raises:
        DataError, ConfigError, TaskError: for whatever would make training wrong, with file and line.
    """
    train, evaluation, prediction = configs(task)
    kind = adapters.find(task.type)
    listen(Phase(name="reading data"))
    dataset = _as_train(sources.load(task, data=data, offline=offline), data)
    if "train" not in dataset.splits:
        raise DataError(f"The task '{task.name}' has no train split, so it can only be evaluated and predicted.")
    check.require(dataset.splits["train"], lambda example: [])
    refuse_taken(dataset, prediction.column)
    task, notes = kind.resolve(task, dataset.splits["train"].examples)
    adapter = kind(task, train, task.labels)
    labelled = {name: adapter.labelled(split.examples) for name, split in dataset.splits.items()}
    for name, split in dataset.splits.items():
        check.require(split, partial(adapter.check, labelled=labelled[name] or name == "train"))
    held_out: list[int] = []
    if not labelled.get("validation"):
        dataset, held_out = holdout.cut(_without(dataset, "validation"), adapter.stratum, adapter.documents)
    dataset, tuning, tuning_rows = _with_tuning(dataset, adapter)
    calibration_rows: list[int] = []
    if adapter.evaluation.calibrate:
        dataset, tuning, calibration_rows = _with_calibration(dataset, adapter)
    if calibration_rows and held_out:
        of_train = [held_out[row] for row in calibration_rows]
        held_out, calibration_rows = [row for row in held_out if row not in set(of_train)], of_train
    dataset = _usable(dataset, adapter)
    limited = holdout.limit(dataset.splits["train"], limit, seed)
    dataset = replace(dataset, splits=dataset.splits | {"train": limited})
    remarks = (f"{name}: {said}" for name, split in dataset.splits.items() for said in adapter.remarks(split.examples))
    for note in (*notes, *dataset.notes, *remarks):
        listen(Note(message=note))
    _refuse_unseen(adapter, dataset, limited=bool(limit), listen=listen)
    scored = ["validation", *(n for n, has in labelled.items() if has and n not in {"train", "validation"})]
    return Prepared(
        task=task,
        train=train,
        eval=evaluation,
        predict=prediction,
        adapter=adapter,
        dataset=dataset,
        held_out=tuple(held_out),
        tuning=tuning,
        tuning_rows=tuple(tuning_rows),
        calibration_rows=tuple(calibration_rows),
        scored=tuple(scored),
    )


def unusable(split: Split, adapter: Adapter) -> dict[int, str]:
    """Return index -> why, for the examples of a split that cannot be trained on."""
    return {index: why for index, example in enumerate(split.examples) if (why := adapter.unusable(example))}


def unusable_note(split: Split, found: Mapping[int, str]) -> str:
    """Return the sentence that names the examples that are not trained on."""
    named = joined((f"{split.place(index)}: {why}" for index, why in found.items()), most=5)
    return f"{len(found)} of {len(split.examples)} examples cannot be trained on: {named}"


def _usable(dataset: Dataset, adapter: Adapter) -> Dataset:
    """Leave out of train what cannot be trained on, and say so.

    Raises:
        DataError: if nothing is left.
    """
    train = dataset.splits["train"]
    found = unusable(train, adapter)
    if not found:
        return dataset
    note = unusable_note(train, found)
    if len(found) == len(train.examples):
        raise DataError(f"{note}.")
    rest = holdout.take(train, [index for index in range(len(train.examples)) if index not in found])
    return replace(dataset, splits=dataset.splits | {"train": rest}, notes=[*dataset.notes, note])


def _with_tuning(dataset: Dataset, adapter: Adapter) -> tuple[Dataset, Split | None, list[int]]:
    """Cut off train what the type tunes itself on after training, if it does."""
    if not adapter.tunes:
        return dataset, None, []
    purpose = "what is tuned after training needs examples that were not trained on"
    cut, rows = holdout.cut(dataset, adapter.stratum, adapter.documents, name=TUNING, purpose=purpose)
    return _without(cut, TUNING), cut.splits[TUNING], rows


def _with_calibration(dataset: Dataset, adapter: Adapter) -> tuple[Dataset, Split, list[int]]:
    """Take half of validation away for the calibration; what is left is scored, and chooses the best checkpoint."""
    whole = dataset.splits["validation"]
    half, rows = holdout.halve(whole, adapter.stratum, name=TUNING, purpose="eval.calibrate fits on half of it")
    left = without_rows(whole, rows)
    note = (
        f"eval.calibrate: {len(rows)} of {len(whole.examples)} validation rows are kept for the calibration, and the "
        f"scores are of the other {len(left.examples)}"
    )
    splits = dataset.splits | {"validation": left}
    return replace(dataset, splits=splits, notes=[*dataset.notes, note]), half, rows


def without_rows(split: Split, rows: Collection[int]) -> Split:
    """Return a split without some of its rows."""
    gone = set(rows)
    return holdout.take(split, [index for index in range(len(split.examples)) if index not in gone])


def refuse_taken(dataset: Dataset, column: str) -> None:
    """Refuse rows that have the column already under which their predictions will be written.

    Raises:
        DataError: naming the first of them.
    """
    for split in dataset.splits.values():
        for index, example in enumerate(split.examples):
            if column in example:
                raise DataError(
                    f"{split.place(index)}: there is a column '{column}' already, which predictions would replace. "
                    "--set predict.column=NAME writes them to another."
                )


def _as_train(dataset: Dataset, data: Data | None) -> Dataset:
    """Take what is there alone as train: a single file, or a split that is not called test or validation."""
    if "train" in dataset.splits or len(dataset.splits) != 1:
        return dataset
    if set(dataset.splits) <= {"validation", "test"} and not sources.is_single_file(data):
        return dataset
    split = replace(sources.only(dataset), name="train")
    return replace(dataset, splits={"train": split})


def _without(dataset: Dataset, name: str) -> Dataset:
    return replace(dataset, splits={key: split for key, split in dataset.splits.items() if key != name})


def _refuse_unseen(adapter: Adapter, dataset: Dataset, *, limited: bool, listen: Listener) -> None:
    """Refuse labels that a scored split has and train lacks; after ``--limit`` only say so."""
    for name, missing in check.unseen_labels(dataset, adapter.balance).items():
        shown = ", ".join(f"'{label}' ({count} rows)" for label, count in missing.items())
        if limited:
            listen(Note(message=f"the limited train has no example of {shown}, which '{name}' has", level="warning"))
            continue
        split = dataset.splits[name]
        first = next(i for i, example in enumerate(split.examples) if set(_labels_of(adapter, example)) & set(missing))
        raise DataError(
            f"{split.place(first)}: '{name}' has labels that train never shows: {shown}. "
            "Add training examples, or drop those rows."
        )


def _labels_of(adapter: Adapter, example: Example) -> Collection[str]:
    return [label for label, count in adapter.balance([example]).items() if count]


def encode(adapter: Adapter, split: Split, tokenizer: Any) -> list[Feature]:
    """Turn a split's examples into features, or take those that were kept of the same examples.

    Raises:
        DataError: for an example that is too long under ``on_long = "error"``, with file and line.
    """
    with resting_collector():
        key = _cache_key(adapter, split, tokenizer) if len(split.examples) >= FEW and cache.folder() else ""
        if key and (kept := cache.read(key)) is not None:
            return adapter.unpacked(kept)
        began = time.perf_counter()
        try:
            features = adapter.encode(split.examples, tokenizer)
        except ExampleError as error:
            raise error.at(split.place(error.example)) from error
        if key and time.perf_counter() - began > WORTH_KEEPING and (columns := adapter.packed(features)) is not None:
            cache.write(key, columns)
        return features


@contextmanager
def resting_collector() -> Iterator[None]:
    """Have Python not look for cyclic garbage while many objects are made that all stay.

    Imports and features make a million; looking through them again and again took a fifth of the time of the one, and
    a third of the other's.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def import_libraries() -> None:
    """Import what training needs of torch and transformers, after everything that may fail without them.

    Not in a thread while data is read: measured, the two then take turns at the interpreter's lock and nothing is won,
    and transformers' lazy modules do not bear two threads.
    """
    with resting_collector():
        import transformers.modeling_utils  # noqa: F401


def _cache_key(adapter: Adapter, split: Split, tokenizer: Any) -> str:
    """Return a SHA-256 of all that decides over features: examples, tokenizer, settings, and the code itself."""
    facts = adapter.facts()
    backend = tokenizer.backend_tokenizer.to_str()
    decisive = {
        "examples": sources.fingerprint(Dataset(splits={"": split})),
        "adapter": {name: facts[name] for name in ("type", "kind", "columns", "options", "labels")},
        "length": [adapter.config.max_length, adapter.config.on_long],
        "tokenizer": hashlib.sha256(backend.encode()).hexdigest(),
        "inputs": [tokenizer.model_input_names, tokenizer.split_special_tokens, tokenizer.special_tokens_map],
        "code": _code_hash(type(adapter)),
        "versions": [metadata.version("tokenizers"), unidata_version],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()


def _code_hash(kind: type[Adapter]) -> str:
    """Return a SHA-256 of the modules that make features: a change there makes what was kept void."""
    own = (Path(inspect.getfile(each)) for each in kind.__mro__ if each is not object)
    total = hashlib.sha256()
    for file in sorted({*Path(adapters.__file__).parent.glob("*.py"), *own}):
        total.update(file.read_bytes())
    return total.hexdigest()
