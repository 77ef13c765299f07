"""``bertkit tasks``: list tasks, show one, write one for a data file."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertkit import adapters, catalog
from bertkit.data import Split, files
from bertkit.errors import DataError, TaskError, did_you_mean, looked_for
from bertkit.task import DataSource, Task, stays_below

LOOKED_AT = 20
"""Rows by whose columns the task type is guessed."""
MOST_LABELS = 200
"""Labels that are written into a task file; more are left to the data."""
SIBLINGS = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""Split -> names of the file that holds it beside a ``train`` file."""
ORDER = ("summary", "source", "license", "type", "kind", "labels", "metrics", "encoder")


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """A task file that was written."""

    path: Path
    text: str
    notes: list[str] = field(default_factory=list)
    """What was guessed, one sentence each."""


def ls(group: str = "") -> list[Task]:
    """Return the shipped tasks, or those of one group.

    Raises:
        TaskError: if there is no such group.
    """
    names = catalog.names()
    chosen = [name for name in names if name == group] or catalog.group(group) if group else names
    if group and not chosen:
        groups = {name.rpartition("/")[0] for name in names} - {""}
        raise TaskError(
            f"There is no group of tasks '{group}'.{did_you_mean(group, [*groups, *names])} "
            f"There are {', '.join(sorted(groups))}."
        )
    return [catalog.find_task(name) for name in chosen]


def show(name: str | Path) -> str:
    """Return a task as TOML, with what it extends laid in and where its file stands.

    Raises:
        TaskError: if there is no such task.
    """
    task = catalog.find_task(name)
    table = task.to_table()
    ordered = {key: table[key] for key in [*ORDER, *table] if key in table}
    return f"# {task.name}, {task.file or 'made from a data file'}\n" + to_toml(ordered)


def new(data: Path, *, out: Path | None = None, overrides: Mapping[str, Any] | None = None) -> NewTask:
    """Look at a data file and write a commented task file for it.

    Args:
        data: the training examples.
        out: the task file; by default beside ``data``, under its name.
        overrides: a table of task keys that are settled (``{"columns": {"label": "stars"}}``).

    Raises:
        DataError: if ``data`` cannot be read.
        TaskError: if the task file exists already or cannot be written, an override is no key of a task, or the rows
            do not fit the task type.
    """
    data = looked_for(data, DataError, "The data file")
    path = looked_for(out or _beside(data), TaskError, "--out")
    if path.exists():
        raise TaskError(f"{path} exists already. Name another with --out, or remove it first.")
    over = dict(overrides or {})
    split = files.read(data, format=_format(over), columns=over.get("columns"), name="train")
    draft = _draft(split, over)
    sources = {"train": data, **_siblings(data)}
    draft.notes.extend(f"{file.name} is taken as {name}" for name, file in sources.items() if name != "train")
    relative, note = _relative(sources, path)
    draft.notes.extend([note] if note else [])
    text = draft.text(relative)
    _write(path, text)
    return NewTask(path=path, text=text, notes=draft.notes)


def _beside(data: Path) -> Path:
    return data.with_name(data.name.removesuffix(".gz")).with_suffix(".toml") if data.name else data


def to_toml(table: Mapping[str, Any]) -> str:
    """Write a table of texts, numbers, truth values, lists and tables as TOML; a table in a table stands in line."""
    plain = [f"{_key(key)} = {_value(value)}" for key, value in table.items() if not isinstance(value, Mapping)]
    blocks = [
        "\n".join([f"[{_key(key)}]", *(f"{_key(k)} = {_value(v)}" for k, v in value.items())])
        for key, value in table.items()
        if isinstance(value, Mapping)
    ]
    return "\n\n".join(block for block in ["\n".join(plain), *blocks] if block) + "\n"


def _key(key: str) -> str:
    import tomlkit

    return tomlkit.key(key).as_string()


def _value(value: Any) -> str:
    """Return a value as TOML, a table in line; what UTF-8 cannot hold becomes U+FFFD."""
    import tomlkit

    if isinstance(value, Mapping):
        inline = tomlkit.inline_table()
        inline.update({key: tomlkit.item(below) for key, below in value.items()})
        return inline.as_string()
    if isinstance(value, str):
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return str(tomlkit.item(value).as_string())


# A new task ----------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Draft:
    """What was found out about a data file."""

    split: Split
    task: Task
    """With all that the data decides filled in."""
    over: dict[str, Any]
    notes: list[str]

    def text(self, sources: Mapping[str, str]) -> str:
        return "\n".join(self._lines(sources)) + "\n"

    def _lines(self, sources: Mapping[str, str]) -> Iterator[str]:
        rows = len(self.split.examples)
        yield _comment(f"Written by 'bertkit tasks new' after a look at {rows} rows of {self.split.source}.")
        yield "# 'bertkit check' says more about the data. Every guess below is marked; change what is wrong."
        settled = {key: value for key, value in self.over.items() if not isinstance(value, Mapping)}
        head = {"type": self.task.type} | ({"kind": self.task.kind} if self.task.kind else {}) | settled
        if "summary" not in head:
            yield '# summary = "one line that says what is learned"'
        yield to_toml({key: head[key] for key in head if key != "labels"}).rstrip()
        if "type" not in self.over:
            yield f"# type is a guess by the columns. There are {', '.join(adapters.types())}."
        if self.task.kind and "kind" not in self.over:
            yield "# kind is a guess. There are single, multi and regression."
        yield from self._label_lines()
        if "metrics" not in self.over:
            names = ", ".join(self.task.metrics)
            yield f"# metrics = [...]   the first selects the best checkpoint; left out, they are {names}"
        yield "\n[data]"
        yield f"files = {_value(sources)}   # relative to this file"
        yield from (f"{_key(k)} = {_value(v)}" for k, v in self.over.get("data", {}).items() if k != "files")
        if "validation" not in sources:
            yield '# No validation = "...": a part of train is cut off for it, always the same rows.'
        yield from self._column_lines()
        options = {key: value for key, value in self.task.options.items() if key not in self.over.get("options", {})}
        if options:
            yield "\n# a guess by the data\n" + to_toml({"options": options | self.over.get("options", {})}).rstrip()
        laid = {"data", "columns", *(["options"] if options else [])}
        rest = {k: v for k, v in self.over.items() if isinstance(v, Mapping) and k not in laid}
        yield "\n" + to_toml(rest).rstrip() if rest else "\n# [train]\n# epochs = 3"

    def _label_lines(self) -> Iterator[str]:
        labels = self.task.labels
        if 0 < len(labels) <= MOST_LABELS:
            guessed = "" if "labels" in self.over else "; a guess: the distinct values"
            yield f"labels = {_value(labels)}   # in id order{guessed}"
        elif labels:
            yield "# labels = [...]   in id order; left out, they are train's distinct values, sorted"

    def _column_lines(self) -> Iterator[str]:
        yield "\n[columns]"
        yield from map(_comment, self.notes)
        yield from (f"{_key(role)} = {_value(column)}" for role, column in self.task.columns.items())
        names = dict.fromkeys(column for example in self.split.examples for column in example)
        # A column given by its number has its role's name.
        used = {role if isinstance(column, int) else column for role, column in self.task.columns.items()}
        others = [name for name in names if name not in used]
        if others:
            yield f"# Other columns: {', '.join(_value(column) for column in others)}."


def _draft(split: Split, over: dict[str, Any]) -> _Draft:
    """Look at the rows as training would.

    Raises:
        TaskError: if they do not fit the task type, naming what is missing.
    """
    kind = str(over.get("type") or adapters.recognise(split.examples[:LOOKED_AT]))
    bare = Task(name="new", type=kind, data=DataSource(hub="not/read"))
    try:
        task, notes = adapters.find(kind).resolve(
            catalog.find_task(bare, overrides=_without_data(over)), split.examples
        )
    except DataError as error:
        raise TaskError(f"{split.source}: {error}") from error
    return _Draft(split=split, task=task, over=over, notes=notes)


def _without_data(over: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in over.items() if key != "data"}


def _siblings(data: Path) -> dict[str, Path]:
    """Return the files beside ``train.jsonl`` that hold its other splits: ``dev.jsonl``, ``test.jsonl``."""
    stem, dot, suffix = data.name.partition(".")
    if stem != "train":
        return {}
    found = {
        split: next((f for name in names if (f := data.with_name(name + dot + suffix)).is_file()), None)
        for split, names in SIBLINGS.items()
    }
    return {split: file for split, file in found.items() if file}


def _relative(sources: Mapping[str, Path], task_file: Path) -> tuple[dict[str, str], str]:
    """Return the data files as the task file may name them, and what is to be said of the place where they are.

    A task file names data in its own folder or below. Data elsewhere is named as seen from its folder, for --data.
    """
    base = os.path.abspath(task_file.parent)
    found = {split: Path(os.path.relpath(os.path.abspath(file), base)).as_posix() for split, file in sources.items()}
    if all(stays_below(path) for path in found.values()):
        return found, ""
    (place,) = {file.parent for file in sources.values()}
    note = f"the data is not in the folder of the task file or below, so each command needs --data {place}"
    return {split: file.name for split, file in sources.items()}, note


def _format(over: Mapping[str, Any]) -> str:
    data = over.get("data")
    return str(data.get("format", "")) if isinstance(data, Mapping) else ""


def _comment(text: str) -> str:
    """Names of files and columns may hold line breaks, and a comment must not end at one."""
    return "# " + "".join(c if c.isprintable() else "?" for c in text)


def _write(path: Path, text: str) -> None:
    """Write the task file, and take it away again if it cannot be read back."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise TaskError(f"{path} cannot be written: {error.strerror}.") from error
    try:
        catalog.find_task(path.resolve())
    except TaskError:
        path.unlink()
        raise
