"""What a suite trains: which tasks, in which order, from which encoders, with which seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertkit import catalog, config
from bertkit import task as tasks
from bertkit.config import DeviceConfig
from bertkit.data import glue
from bertkit.errors import ConfigError, TaskError
from bertkit.events import Listener, Note, once
from bertkit.task import Task, from_table
from bertkit.workflows.finetune import encoder_name
from bertkit.workflows.preparation import Settings, tables, task_of
from bertkit.workflows.training import as_json

Given = str | Path | Task | Sequence[str | Path | Task]
"""What is asked for: a group, a list, or one task."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One training of a suite."""

    task: str
    seed: int
    run: str
    """Its folder, relative to the suite's."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a suite was asked for, fully resolved; stored in ``suite.json``, so that ``--resume`` needs nothing else."""

    tasks: tuple[Task, ...]
    """In the order they are trained."""
    encoders: tuple[str, ...]
    """One for each task."""
    seeds: tuple[int, ...]
    revision: str
    data: str | None
    limit: int
    device: DeviceConfig
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Task of a group that ``data`` does not hold -> why it is not trained."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        whole = {
            "tasks": {task.name: task.to_table() for task in self.tasks},
            "encoders": {task.name: name for task, name in zip(self.tasks, self.encoders, strict=True)},
            "seeds": self.seeds,
            "revision": self.revision,
            "data": self.data,
            "limit": self.limit,
            "device": config.describe(self.device),
            "left_out": dict(self.left_out),
        }
        return dict(as_json(whole))

    @classmethod
    def of_json(cls, stored: Mapping[str, Any], where: str) -> Plan:
        """Return the plan that a ``suite.json`` holds."""
        return cls(
            tasks=tuple(from_table(table, name=name, where=where) for name, table in stored["tasks"].items()),
            encoders=tuple(stored["encoders"].values()),
            seeds=tuple(stored["seeds"]),
            revision=stored["revision"],
            data=stored["data"],
            limit=stored["limit"],
            device=DeviceConfig(**stored["device"]),
            left_out=stored["left_out"],
        )

    @property
    def name(self) -> str:
        """Return what a new suite's folder is called: ``glue-minilm``, ``glue-rte-minilm``."""
        groups = {task.name.rpartition("/")[0] for task in self.tasks}
        if len(self.tasks) == 1:
            first = self.tasks[0].name
        else:
            first = next(iter(groups)) if len(groups) == 1 and "" not in groups else "suite"
        encoders = {Path(name.rstrip("/")).name for name in self.encoders}
        return "-".join([first.replace("/", "-"), *(encoders if len(encoders) == 1 else ())])

    def of(self, member: Member) -> tuple[Task, str]:
        """Return the task and the encoder of one of its trainings."""
        return next(
            (task, name) for task, name in zip(self.tasks, self.encoders, strict=True) if task.name == member.task
        )

    def members(self) -> list[Member]:
        """Return the trainings in their order, the seeds of a task one after another."""
        short = [task.name.rpartition("/")[2] for task in self.tasks]
        places = [
            name if short.count(name) == 1 else task.name.replace("/", "-")
            for name, task in zip(short, self.tasks, strict=True)
        ]
        found = []
        for task, place in zip(self.tasks, places, strict=True):
            for seed in self.seeds:
                parts = [place] if len(self.tasks) > 1 else []
                parts += [f"seed-{seed}"] if len(self.seeds) > 1 or not parts else []
                found.append(Member(task=task.name, seed=seed, run="/".join(parts)))
        return found


def make(
    task: Given | None,
    settings: Settings | None,
    *,
    encoder: str,
    seeds: tuple[int, ...],
    revision: str,
    data: str | None,
    limit: int,
    device: DeviceConfig,
    listen: Listener,
) -> Plan:
    """Return the plan of a new suite, and say what is left out of it.

    Raises:
        TaskError, ConfigError: as :func:`chosen`.
    """
    found, left_out = chosen(task, settings, Path(data) if data else None, listen)
    return Plan(
        tasks=tuple(found),
        encoders=encoders_of(found, encoder, listen),
        seeds=seeds,
        revision=revision,
        data=data,
        limit=limit,
        device=device,
        left_out=left_out,
    )


def chosen(
    given: Given | None, settings: Settings | None, data: Path | None, listen: Listener
) -> tuple[list[Task], dict[str, str]]:
    """Return the tasks with their settings, a task after the one that it starts from, and those that are left out.

    Returns:
        The tasks to train; task of a group that ``data`` does not hold -> why it is left out. A task that is named
        itself is never left out for that.

    Raises:
        TaskError: if there is no such task, or none of them can be trained.
        ConfigError: if tasks start from each other.
    """
    if not given:
        raise ConfigError("finetune needs a task: a name or a group ('bertkit tasks' lists them), a file or a list.")
    found, spelled = _found(given, tables(settings or {}))
    left_out: dict[str, str] = {}
    for task in list(found.values()):
        if not _trains(task):
            listen(Note(message=f"{task.name} has no train split, so it is not trained"))
        elif task.name not in spelled and not _is_there(task, data):
            left_out[task.name] = f"{data} has no train split of it"
            listen(Note(message=f"{task.name} is left out: {left_out[task.name]}", level="warning"))
        else:
            continue
        del found[task.name]
    if not found:
        raise TaskError(f"None of the tasks of {given} has a train split{f' in {data}' if left_out else ''}.")
    return _ordered(found), left_out


def _found(given: Given, over: dict[str, Any]) -> tuple[dict[str, Task], set[str]]:
    """Return name -> task, its settings laid over it, and the names that are given themselves, not by a group.

    Raises:
        TaskError: if there is no such task, or one is named twice.
    """
    names: list[str | Path | Task] = [given] if isinstance(given, str | Path | Task) else list(given)
    below = [catalog.members(name) if isinstance(name, str) else [] for name in names]
    flat = [one for name, some in zip(names, below, strict=True) for one in [*some, *([] if some else [name])]]
    others = [key for key in over if key in catalog.names() and key not in map(str, flat)]
    if others:
        raise ConfigError(
            f"--set {others[0]}.KEY is for {others[0]}, which is not among the tasks: {', '.join(map(str, flat))}."
        )
    own = {str(name): over.pop(str(name)) for name in flat if isinstance(over.get(str(name)), dict)}
    found: dict[str, Task] = {}
    for name in flat:
        shared = {key: value for key, value in over.items() if (key, value) != ("init_from", str(name))}
        one, _ = task_of(name, tasks.merge(shared, tables(own.get(str(name), {}))))
        if one.name in found:
            raise TaskError(f"The task '{one.name}' is named twice. Name each once.")
        found[one.name] = one
    groups = [catalog.group(part.strip()) for name in names if isinstance(name, str) for part in name.split(",")]
    return found, set(found).difference(*groups)


def _is_there(task: Task, data: Path | None) -> bool:
    """Say whether the data of a task can be there; only a folder in the classic layout is looked into."""
    return data is None or not data.is_dir() or not task.data.folder or glue.has_train(task, data)


def _trains(task: Task) -> bool:
    splits = task.data.splits or task.data.files
    return not splits or "train" in splits


def _ordered(found: Mapping[str, Task]) -> list[Task]:
    """Return the tasks, each behind the one that it starts from."""
    ordered: dict[str, Task] = {}
    while len(ordered) < len(found):
        ready = [
            task
            for name, task in found.items()
            if name not in ordered and (task.init_from not in found or task.init_from in ordered)
        ]
        if not ready:
            left = [name for name in found if name not in ordered]
            raise ConfigError(f"The tasks {', '.join(left)} start from each other (init_from). Let one of them not.")
        ordered |= {task.name: task for task in ready}
    return list(ordered.values())


def encoders_of(chosen: Sequence[Task], given: str, listen: Listener) -> tuple[str, ...]:
    """Return each task's encoder, and say so where the user did not."""
    told = once(listen)
    return tuple(encoder_name(given, task, told) for task in chosen)
