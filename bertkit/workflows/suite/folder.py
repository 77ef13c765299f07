"""The folder of a suite: ``suite.json``, the runs below it, and which of them was kept."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bertkit import catalog, config
from bertkit import run as run_folders
from bertkit.errors import RunError, looked_for
from bertkit.run import SUITE, Run, now
from bertkit.workflows import locks, seeds
from bertkit.workflows.resume import refuse_changes
from bertkit.workflows.seeds import Kept
from bertkit.workflows.suite.plan import Member, Plan
from bertkit.workflows.training import plainly


class Suite:
    """A folder of runs."""

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self.folder = folder
        self.record = record

    @classmethod
    def open(cls, folder: Path) -> Suite:
        """Open a suite's folder, or that of one of its tasks, which is then all that is seen of it.

        Raises:
            RunError: if it is none, or ``suite.json`` is damaged.
        """
        place = run_folders.suite_of(folder)
        if place is None:
            raise RunError(f"{folder} is no suite: it has no {SUITE}.")
        record = run_folders.read_suite(place)
        if place != folder:
            record["runs"] = [member for member in record["runs"] if Path(member["run"]).parts[0] == folder.name]
        return cls(place, record)

    @property
    def members(self) -> list[Member]:
        """Return its trainings, done or not."""
        return [Member(**member) for member in self.record["runs"]]

    @property
    def kept(self) -> dict[str, Kept]:
        """Return task -> the run whose model is used; tasks that are not done yet are left out."""
        return {task: Kept(**kept) for task, kept in self.record["kept"].items()}

    def of(self, task: str) -> list[Member]:
        """Return the trainings of a task."""
        return [member for member in self.members if member.task == task]

    def run(self, member: Member) -> Run | None:
        """Return a training's run, or None where it was not begun."""
        folder = self.folder / member.run
        return Run.open(folder) if (folder / "run.json").is_file() else None

    def finished(self, member: Member) -> Run | None:
        """Return a training's run where it is finished."""
        run = self.run(member)
        return run if run is not None and run.status == "finished" else None

    def write(self) -> None:
        """Write ``suite.json``."""
        run_folders.write_json(self.folder / SUITE, self.record)

    @property
    def unfinished(self) -> list[Member]:
        """Return the trainings that are not finished."""
        return [member for member in self.members if self.finished(member) is None]

    def keep(self, task: str) -> None:
        """Choose a task's run, once all of them are finished, and let ``model/`` beside them be its model."""
        runs = {member.run: run for member in self.of(task) if (run := self.finished(member))}
        with locks.in_turn(self._lock("suite")):
            # Another process may have written it.
            self.record["kept"] = run_folders.read_suite(self.folder)["kept"]
            if len(runs) < len(self.of(task)) or task in self.kept:
                return
            kept = seeds.choose(runs)
            folder = self.folder / kept.run
            if folder.name == f"seed-{kept.seed}":
                seeds.link(folder.parent, folder)
            # Last: what is noted here is not done again after an interruption.
            self.record["kept"][task] = asdict(kept)
            self.write()

    def alone(self, member: Member) -> AbstractContextManager[bool]:
        """Keep other processes from a training; give False where one of them has it."""
        return locks.alone(self._lock(member.run.replace("/", "-")))

    def is_busy(self, member: Member) -> bool:
        """Say whether a process is at a training."""
        return locks.is_held(self._lock(member.run.replace("/", "-")))

    def _lock(self, name: str) -> Path:
        return self.folder / f".{name}.lock"

    def unlock(self) -> None:
        """Take away the files of locks, once all is trained."""
        for file in self.folder.glob(".*.lock"):
            file.unlink(missing_ok=True)


def is_asked(task: Any, *, seeds: Any = None, resume: str | Path | None = None, runs: str | Path = "runs") -> bool:
    """Say whether a training is one of several: a group, a list of tasks, several seeds, or a suite to go on with."""
    if resume is not None:
        return at(resume, runs) is not None
    return seeds is not None or (isinstance(task, str) and bool(catalog.members(task)))


def at(where: str | Path | None, runs: str | Path) -> Path | None:
    """Return the folder of the suite, or of one of its tasks with several seeds, that is named; None for all else."""
    if where is None:
        return None
    for folder in (looked_for(where, RunError, "The run or suite"), Path(runs) / str(where)):
        if (folder / "run.json").is_file():
            return None
        if run_folders.suite_of(folder) is not None:
            return folder
    return None


def existing(out: Path, plan: Plan) -> Suite | None:
    """Return the suite that stands at ``--out``.

    Raises:
        RunError: if it was made from another plan.
    """
    if not (looked_for(out, RunError, "--out") / SUITE).is_file():
        return None
    suite = Suite.open(out)
    difference = config.first_difference(plan.to_json(), suite.record["request"])
    if difference is None and list(plan.to_json()["tasks"]) != list(suite.record["request"]["tasks"]):
        difference = "the tasks are in another order"
    if difference:
        raise RunError(f"{out} was made from something else: {plainly(difference)}. Name another --out.")
    return suite


def resumed(where: str | Path, runs: Path, given: Mapping[str, Any]) -> Suite:
    """Return the suite to go on with; refuse what would change it."""
    folder = at(where, runs)
    if folder is None:
        raise RunError(f"There is no suite '{where}': no folder of that name has a {SUITE}.")
    suite = Suite.open(run_folders.suite_of(folder) or folder)
    refuse_changes(suite.folder, suite.record["request"], given, kind="suite")
    return suite


def create(plan: Plan, runs: Path, out: Path | None) -> Suite:
    """Make the folder of a new suite; where a process that was started alike made it meanwhile, open that.

    Raises:
        RunError: if it cannot be made, or ``out`` holds something else.
    """
    try:
        folder = run_folders.new_folder(runs, name=plan.name, out=out)
    except RunError:
        there = existing(out, plan) if out else None
        if there is None:
            raise
        return there
    record = {
        "name": plan.name,
        "created": now(),
        "argv": run_folders.command_line(),
        "request": plan.to_json(),
        "runs": [asdict(member) for member in plan.members()],
        "kept": {},
    }
    suite = Suite(folder, record)
    suite.write()
    return suite
