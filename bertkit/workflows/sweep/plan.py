"""What a sweep trains: one task, and the settings that its trials change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from bertkit import task as tasks
from bertkit.errors import ConfigError
from bertkit.task import Task, from_table
from bertkit.workflows.preparation import Settings, configs, tables
from bertkit.workflows.sweep import space as spaces
from bertkit.workflows.sweep.space import Point, Space
from bertkit.workflows.training import Request, as_json

NOTHING = "--set holds everything that the default grid tries. Name what to try with --grid KEY=A,B,C."


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep was asked for, fully resolved; stored in ``sweep.json``, so that ``--resume`` needs nothing else."""

    request: Request
    """What all trials have alike."""
    space: Space
    drawn: bool
    """Whether settings are drawn, or all combinations tried."""
    prune: bool

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        own = {"space": spaces.to_json(self.space), "drawn": self.drawn, "prune": self.prune}
        return dict(as_json(self.request.to_json() | own))

    @classmethod
    def of_json(cls, stored: Mapping[str, Any], where: str, *, offline: bool) -> Plan:
        """Return the plan that a ``sweep.json`` holds."""
        return cls(
            request=Request.of_json(stored, where, offline=offline),
            space=spaces.from_json(stored["space"]),
            drawn=stored["drawn"],
            prune=stored["prune"],
        )

    @property
    def name(self) -> str:
        """What the sweep's folder is called: ``glue-rte-minilm-sweep``."""
        encoder = Path(self.request.encoder.rstrip("/")).name
        return f"{self.request.task.name.replace('/', '-')}-{encoder}-sweep"

    @property
    def study(self) -> str:
        """What the study is called: the same on every machine that gives the same command, wherever its data is."""
        told = self.to_json()
        table = {key: value for key, value in told.pop("task_table").items() if key not in ("data", "track")}
        rest = {key: value for key, value in told.items() if key not in ("data", "device", "encoder", "start_from")}
        return f"{self.name}-{sha256(json.dumps([table, rest], sort_keys=True).encode()).hexdigest()[:8]}"

    def number(self, trials: int) -> int:
        """Return how many trials there shall be.

        Raises:
            ConfigError: if that is none, or more than there are combinations.
        """
        most = spaces.size(self.space)
        if not self.space:
            raise ConfigError(NOTHING)
        if trials < 0:
            raise ConfigError(f"--trials is {trials}, and must be at least 1.")
        if not self.drawn:
            return int(most)
        if trials > most:
            raise ConfigError(
                f"--trials {trials} is more than the {most:.0f} combinations there are. Drop it to try all."
            )
        return trials

    def at(self, point: Point) -> Request:
        """Return what is asked of a trial. No split but validation is scored: it is what chooses.

        Raises:
            BertkitError: if the task does not take its settings.
        """
        own = self.request.task
        table = tasks.merge(own.to_table(), tables(point))
        changed = replace(from_table(table, name=own.name, where="--grid"), file=None)
        configs(changed)
        return replace(self.request, task=changed, scored=("validation",))

    def check(self) -> None:
        """Check every setting that may be tried.

        Raises:
            BertkitError: as :meth:`at`.
        """
        for point in spaces.corners(self.space):
            self.at(point)


def make(
    request: Request,
    grid: Mapping[str, Any] | Iterable[str] | None,
    settings: Settings | None,
    *,
    trials: int,
    prune: bool,
) -> Plan:
    """Return the plan of a new sweep.

    Raises:
        ConfigError: as :func:`bertkit.workflows.sweep.space.parse`.
    """
    fixed = _fixed(request.task, settings)
    space = spaces.parse(grid, trials=trials, fixed=fixed)
    return Plan(request=request, space=space, drawn=trials > 0, prune=prune)


def _fixed(task: Task, settings: Settings | None) -> dict[str, Any]:
    """Return what ``--set`` holds fast, and the task's end of training, which makes epochs void."""
    held = tables(settings or {})
    steps = task.settings.get("train", {}).get("max_steps", 0)
    return tasks.merge({"train": {"max_steps": steps}} if steps else {}, held)
