"""One entry for all sources: which of the readers a task, ``--data`` or a Python object asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from bertkit.data import Dataset, Example, Split
from bertkit.errors import BertkitError, DataError, TaskError, did_you_mean, looked_for, together
from bertkit.task import Task, is_split_name

Rows = Any
"""A ``datasets.Dataset``, a pandas ``DataFrame`` or a list of dicts."""
Data = str | Path | Mapping[str, Rows] | Rows
"""What ``data=`` takes: a folder, a file, rows, or rows by split."""


def load(
    task: Task, *, data: Data | None = None, offline: bool = False, splits: Collection[str] | None = None
) -> Dataset:
    """Read the examples of a task.

    Args:
        task: says where they are, unless ``data`` does.
        data: a folder in the classic GLUE layout or one that holds the task's files; a single file, which then is
            the one split there is, under its own name; or Python rows.
        offline: do not ask the Hub.
        splits: names of the splits to read, where not all are needed.

    Raises:
        DataError: for whatever cannot be read, with file and line.
    """
    if data is not None and not isinstance(data, str | Path):
        return _from_rows(data)
    if data is not None:
        return _from_path(task, _path(data), splits)
    if task.data.files:
        return _from_files(task, task.folder, splits)
    if task.data.hub:
        from bertkit.data import hub

        return hub.load_dataset(task, offline=offline, splits=splits)
    raise TaskError(f"The task '{task.name}' names no data of its own: give it some with --data.")


def is_single_file(data: Data | None) -> bool:
    """Say whether ``data`` is one file, which then is one split of its own name."""
    return isinstance(data, str | Path) and _path(data).is_file()


def _path(data: str | Path) -> Path:
    """Return the path that ``--data`` names.

    Raises:
        DataError: if one cannot look whether it is there: no such home, a name that is too long, a folder that is shut.
    """
    return looked_for(data, DataError, "--data")


def format_for(path: Path, of_task: str) -> str:
    """Return the format to read a file in that takes the place of the task's own data, for which ``of_task`` is meant.

    A suffix that can only mean one thing wins; ``.tsv``, ``.txt`` or none at all may hold what the task's files hold.
    """
    plain = path.name.removesuffix(".gz").lower()
    return "" if plain.endswith((".jsonl", ".parquet", ".conll", ".conllu")) else of_task


def first_rows(
    data: Data,
    *,
    format: str = "",  # noqa: A002 (the task file's word)
    number: int = 20,
) -> list[Example]:
    """Return the first rows of a data file or of Python rows, to see what they are; none where they cannot be read."""
    from bertkit.data import files

    try:
        if isinstance(data, str | Path):
            return [row for row, _ in islice(files.stream(_path(data), format=format), number)]
        rows = next(iter(data.values()), []) if isinstance(data, Mapping) else data
        if hasattr(rows, "iloc"):
            first = rows.iloc[:number]  # pandas
        else:
            first = rows.select(range(min(number, len(rows)))) if hasattr(rows, "select") else rows[:number]
        return files.from_python(first, name="rows").examples
    except (DataError, TypeError):
        return []


def fingerprint(dataset: Dataset) -> str:
    """Return a SHA-256 over all examples, split by split, that changes when any of them does."""
    total = hashlib.sha256()
    written = json.JSONEncoder(sort_keys=True, default=str).encode
    for name in sorted(dataset.splits):
        # A file's name, which a split may have, can hold bytes that are no text.
        total.update(name.encode("utf-8", "backslashreplace"))
        for example in dataset.splits[name].examples:
            total.update(written(example).encode())
    return total.hexdigest()


def _from_rows(data: Any) -> Dataset:
    from bertkit.data import files

    by_split = data if isinstance(data, Mapping) else {"train": data}
    for name in by_split:
        if not is_split_name(str(name)):
            raise DataError(f"data= names a split {name!r}, and a name is letters, digits, '_', '-' and '.'.")
    return Dataset(splits={str(name): files.from_python(rows, name=str(name)) for name, rows in by_split.items()})


def _from_path(task: Task, path: Path, splits: Collection[str] | None) -> Dataset:
    from bertkit.data import files, glue

    if path.is_file():
        name = path.name.split(".")[0]
        split = files.read(path, format=format_for(path, task.data.format), columns=task.columns)
        return Dataset(splits={name: replace(split, name=name)})
    if not path.is_dir():
        raise DataError(f"--data {path}: there is no such file or folder.")
    if task.data.files or task.data.local:
        return _from_files(task, path, splits)
    if not task.data.folder:
        raise DataError(
            f"The task '{task.name}' has no folder layout, so --data takes a file here, and {path} is a folder."
        )
    return Dataset(splits=glue.read_folder(task, path, splits=splits))


def _from_files(task: Task, folder: Path, splits: Collection[str] | None) -> Dataset:
    from bertkit.data import files

    chosen = _chosen(task.data.files or task.data.local, splits)
    paths = {name: _plain_or_gzipped(folder / file) for name, file in chosen.items()}
    faults: list[BertkitError] = []
    # All that are missing are named before the first is read, which can take long.
    for path in paths.values():
        try:
            files.check_readable(path, format=task.data.format)
        except DataError as fault:
            faults.append(fault)
    if faults:
        raise together(faults)
    about: dict[str, Any] = {"format": task.data.format, "columns": task.columns}
    return Dataset(splits={name: files.read(path, name=name, **about) for name, path in paths.items()})


def _plain_or_gzipped(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.exists() else path


def _chosen(found: Mapping[str, Any], splits: Iterable[str] | None) -> dict[str, Any]:
    if splits is None:
        return dict(found)
    unknown = [name for name in splits if name not in found]
    if unknown:
        raise DataError(
            f"There is no split '{unknown[0]}'.{did_you_mean(unknown[0], found)} There are {', '.join(found)}."
        )
    return {name: found[name] for name in splits}


def only(dataset: Dataset) -> Split:
    """Return the single split of a dataset."""
    (split,) = dataset.splits.values()
    return split
