"""A task: one TOML file that says what to learn from which data. Strict keys; ``extends`` for variants."""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import date, time
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, get_args

from bertkit import config
from bertkit.config import SECTIONS, Tracker
from bertkit.errors import TaskError, did_you_mean, sentence

DEFAULT_ENCODER = "google-bert/bert-base-uncased"
KINDS = ("single", "multi", "regression")


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where examples come from: ``[data]``. Exactly one of ``hub`` and ``files``."""

    hub: str = ""
    """Dataset repository on the Hub, ``owner/name``."""
    name: str = ""
    """Configuration of that repository (``sst2``)."""
    revision: str = ""
    """Branch, tag or commit; only where it is publicly known."""
    folder: str = ""
    """Folder below ``--data DIR`` in the classic GLUE download layout (``SST-2``)."""
    splits: dict[str, str] = field(default_factory=dict)
    """bertkit's name of a split -> the source's name."""
    files: dict[str, str] = field(default_factory=dict)
    """bertkit's name of a split -> a data file, relative to the task file and in its folder or below."""
    local: dict[str, str] = field(default_factory=dict)
    """bertkit's name of a split -> a file below ``--data DIR`` as its authors distribute it, for data on the Hub."""
    format: str = ""
    """A reader's name (``jsonl``, ``csv``, ``tsv``, ``parquet``, ``conll``, ``conllu``, ``json``); else the suffix
    decides."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to learn, from which data. Made by :func:`load`; see ``docs/reference/task-keys.md``."""

    name: str
    """Its path below ``tasks/`` without the suffix (``glue/sst2``); for a user's own file, the file's stem."""
    type: str
    """Task type: the name of an adapter (``sequence-classification``) or an importable module (``mypkg.mymodule``)."""
    data: DataSource
    summary: str = ""
    """One line, shown by ``bertkit tasks``."""
    source: str = ""
    """Address of the paper or page that describes the data."""
    license: str = ""
    """Licence of the data, where it is known."""
    kind: str = ""
    """``single``, ``multi`` or ``regression``; where empty, the label column decides."""
    labels: tuple[str, ...] = ()
    """Label names in id order; where empty, the distinct values of train, sorted."""
    metrics: tuple[str, ...] = ()
    """Metric names; the first selects the best checkpoint. Where empty, the adapter's default."""
    encoder: str = ""
    """Encoder to start from where ``--encoder`` does not say."""
    init_from: str = ""
    """In a suite, another of its tasks, from whose trained body (its head left out) this one starts: ``glue/mnli``.
    Else a finished run."""
    track: tuple[str, ...] = ()
    """Where a run's events go beside ``events.jsonl``: ``tensorboard``, ``trackio``, ``wandb``, ``mlflow``; one, or
    several as a list or with commas. Each is an extra."""
    columns: dict[str, Any] = field(default_factory=dict)
    """role -> column of the data."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``train``, ``eval``, ``predict`` and ``distill``: settings that this task changes from the defaults."""
    options: dict[str, Any] = field(default_factory=dict)
    """``[options]``: keys that the task type defines; its adapter checks them."""
    file: Path | None = None
    """The TOML file, or None for a task made in Python or from a bare data file."""

    @property
    def folder(self) -> Path:
        """The folder that ``[data] files`` is relative to."""
        return self.file.parent if self.file else Path()

    def to_table(self) -> dict[str, Any]:
        """Return the task as JSON-able values, keys as in the file; what is empty is left out, files are absolute."""
        source = {f.name: getattr(self.data, f.name) for f in fields(self.data)}
        source["files"] = {split: str((self.folder / name).resolve()) for split, name in self.data.files.items()}
        plain = {key: getattr(self, key) for key in sorted(TASK_KEYS - {"extends", "data", *SECTIONS})}
        whole = plain | {"data": {k: v for k, v in source.items() if v}} | self.settings
        return {k: list(v) if isinstance(v, tuple) else v for k, v in whole.items() if v or k == "data"}


TASK_KEYS = frozenset(
    {
        "summary",
        "source",
        "license",
        "type",
        "kind",
        "labels",
        "metrics",
        "encoder",
        "init_from",
        "track",
        "extends",
        "data",
        "columns",
        "options",
        *SECTIONS,
    }
)
DATA_KEYS = frozenset(f.name for f in fields(DataSource))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a task file as a table.

    Raises:
        TaskError: if it cannot be read, is not UTF-8 or is not TOML (with the line).
    """
    try:
        return config.read_toml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 (byte {error.start}). Save the task file as UTF-8.") from error
    except ValueError as error:
        raise TaskError(f"{path} is not TOML: {error}.") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on it, table by table; lists and values are replaced.

    ``files`` and ``hub`` exclude each other, so the one that is laid over removes the other.
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    for ours, other in (("files", "hub"), ("hub", "files")):
        if over.get(ours) and other not in over:
            merged.pop(other, None)
    return merged


def from_table(table: Mapping[str, Any], *, name: str, where: str, file: Path | None = None) -> Task:
    """Make a task of a table that :func:`read_toml` read, ``extends`` already resolved.

    Args:
        table: keys as in a task file.
        name: the task's name.
        where: what messages call the file.
        file: the file itself.

    Raises:
        TaskError: naming every unknown key, missing key and wrong type at once.
    """
    data = table.get("data", {})
    problems = [*_table_problems(table), *_data_problems(data), *_value_problems(table, "")]
    if problems:
        raise TaskError(f"{where}: {sentence(problems)}")
    return Task(
        name=name,
        type=table["type"],
        data=DataSource(**data),
        summary=table.get("summary", ""),
        source=table.get("source", ""),
        license=table.get("license", ""),
        kind=table.get("kind", ""),
        labels=tuple(table.get("labels", ())),
        metrics=tuple(table.get("metrics", ())),
        encoder=table.get("encoder", ""),
        init_from=table.get("init_from", ""),
        track=tuple(_trackers(table)),
        columns=dict(table.get("columns", {})),
        settings={key: dict(table[key]) for key in SECTIONS if key in table},
        options=dict(table.get("options", {})),
        file=file,
    )


def _table_problems(table: Mapping[str, Any]) -> list[str]:
    problems = [f"'{key}' is not a key of a task{_near(key, TASK_KEYS)}" for key in table if key not in TASK_KEYS]
    problems += [f"'{key}' is missing" for key in ("type", "data") if key not in table]
    texts = [
        key
        for key in ("summary", "source", "license", "type", "kind", "encoder", "init_from")
        if not isinstance(table.get(key, ""), str)
    ]
    problems += [f"'{key}' is {table[key]!r}, and must be a text" for key in texts]
    for key in ("labels", "metrics"):
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            problems.append(f"'{key}' is {value!r}, and must be a list of texts")
        elif len(set(value)) < len(value):
            problems.append(f"'{key}' names {next(v for v in value if value.count(v) > 1)!r} twice")
    problems += _tracker_problems(table)
    problems += [
        f"[{key}] must be a table"
        for key in ("columns", "options", *SECTIONS)
        if not isinstance(table.get(key, {}), dict)
    ]
    if table.get("kind", "") not in ("", *KINDS):
        problems.append(f"'kind' is {table['kind']!r}, and must be one of {', '.join(map(repr, KINDS))}")
    return problems


def _near(name: str, choices: Iterable[str]) -> str:
    """Return ``". Did you mean 'x'?"``, or an empty text, with which the sentence goes on."""
    near = did_you_mean(name, choices)
    return f".{near}" if near else ""


def _trackers(table: Mapping[str, Any]) -> list[Any]:
    """Return the trackers' names; ``--set track=a,b`` gives them as one text."""
    given = table.get("track", [])
    if isinstance(given, str):
        return [name.strip() for name in given.split(",") if name.strip()]
    return given if isinstance(given, list) else [given]


def _tracker_problems(table: Mapping[str, Any]) -> list[str]:
    known, names = get_args(Tracker), _trackers(table)
    problems = [
        f"'track' names {name!r}, and there is {', '.join(known)}{_near(str(name), known)}"
        for name in names
        if name not in known
    ]
    return problems or [f"'track' names {name!r} twice" for name in dict.fromkeys(names) if names.count(name) > 1]


def _value_problems(value: Any, key: str) -> Iterator[str]:
    """Yield what TOML can say and ``run.json`` cannot hold: dates and times, infinities and NaN."""
    if isinstance(value, date | time):
        yield f"'{key}' is the date or time {value}; put it in quotes if a text is meant"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"'{key}' is {value}, and must be a finite number"
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _value_problems(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _value_problems(item, key)


def is_split_name(name: str) -> bool:
    """Say whether a split may have a name, which becomes part of file names in the run folder."""
    return bool(re.fullmatch(r"[^\W_][\w. +-]{0,99}", name))


def stays_below(path: str) -> bool:
    """Say whether a path that is relative to a folder stays in it, on any system."""
    return not any(
        pure.is_absolute() or pure.drive or pure.root or ".." in pure.parts
        for pure in (PurePosixPath(path), PureWindowsPath(path))
    )


def _can_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _place_problems(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield names of splits that are no file names, and paths that leave the folder that ``--data`` names."""
    for key in ("splits", "files", "local"):
        for name in data[key] if isinstance(data.get(key), dict) else ():
            if not is_split_name(name):
                yield f"'data.{key}' names a split {name!r}, and a name is letters, digits, '_', '-' and '.'"
    files = data["files"].values() if isinstance(data.get("files"), dict) else ()
    for path in files:
        if isinstance(path, str) and not _can_be_a_path(path):
            yield f"'data.files' names {path!r}, which cannot be a file's name"
    local = data["local"].values() if isinstance(data.get("local"), dict) else ()
    for key, path in [("folder", data.get("folder", "")), *(("local", path) for path in local)]:
        if isinstance(path, str) and not (stays_below(path) and _can_be_a_path(path)):
            yield f"'data.{key}' is {path!r}, and must stay below the folder that --data names"


def _data_problems(data: Any) -> list[str]:
    if not isinstance(data, dict):
        return ["[data] must be a table"]
    problems = [f"'data.{key}' is not a key of a task{_near(key, DATA_KEYS)}" for key in data if key not in DATA_KEYS]
    for key in ("splits", "files", "local"):
        value = data.get(key, {})
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            problems.append(f"'data.{key}' must be a table of texts, for example {{ train = \"train.jsonl\" }}")
    for key in DATA_KEYS - {"splits", "files", "local"}:
        if not isinstance(data.get(key, ""), str):
            problems.append(f"'data.{key}' is {data[key]!r}, and must be a text")
    problems += _place_problems(data)
    if data and bool(data.get("hub")) == bool(data.get("files")):
        problems.append("[data] needs either 'hub' or 'files'")
    return problems
