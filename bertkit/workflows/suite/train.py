"""Training a suite: one run after another, from the first that is not done."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertkit import config, processes
from bertkit.config import DeviceConfig
from bertkit.errors import BertkitError, joined
from bertkit.events import Listener, Note, ignore
from bertkit.run import SUITE
from bertkit.task import Task
from bertkit.workflows import seeds as several
from bertkit.workflows.finetune import asked, finetune, folder_or_name, start_of
from bertkit.workflows.preparation import Settings
from bertkit.workflows.suite import folder as folders
from bertkit.workflows.suite import plan as plans
from bertkit.workflows.suite.folder import Suite
from bertkit.workflows.suite.plan import Given, Member, Plan
from bertkit.workflows.suite.table import Summary, summarize
from bertkit.workflows.training import Request, Training

PAUSE = 2.0
"""Seconds between two looks at what other processes have done."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training a suite came to."""

    suite: Path
    status: str
    """``finished`` or ``interrupted``."""
    summary: Summary


def finetune_suite(
    task: Given | None = None,
    *,
    encoder: str | Path = "",
    revision: str = "",
    data: str | Path | None = None,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    seed: int | None = None,
    seeds: str | int | Sequence[int] | None = None,
    limit: int = 0,
    resume: str | Path | None = None,
    settings: Settings | None = None,
    device: str = "auto",
    precision: config.Precision = "auto",
    threads: int = 0,
    offline: bool = False,
    listen: Listener = ignore,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Fine-tune an encoder on several tasks, or with several seeds, each in a run folder below one suite folder.

    Data, encoder and settings of every task are checked before the first is trained. An unfinished suite goes on with
    its first unfinished run, or with the first that no other process trains at the moment: several that are started
    alike share the runs, and each gives back the whole table.

    Args:
        task: a group (``glue``), a list (``glue/cola,glue/rte`` or a Python list), or one task. Tasks of a group that
            have no train split, or none in the folder that ``data`` is, are left out; one that is named itself is not.
        seed: the first seed, 42 where not given.
        seeds: how many seeds (``seed``, ``seed`` + 1, ...), or a list of them.
        out: the suite's folder; else a new one below ``runs``.
        resume: a suite to go on with.
        settings: as in :func:`bertkit.finetune`; below a task's name (``{"glue/rte": {"train.epochs": 10}}``) they
            are its alone. ``init_from`` for all is not for the task that it names.
        encoder, revision, data, runs, limit: as in :func:`bertkit.finetune`.
        device, precision, threads, offline, listen, should_stop: likewise.

    Returns:
        The table, and whether all of it was trained.

    Raises:
        BertkitError: one of its kinds, for whatever is wrong; before the first step it leaves no folder behind.
    """
    processes.refuse("a suite", processes.SHARED_RUNS)
    where = DeviceConfig(device=device, precision=precision, threads=threads)
    given: dict[str, Any] = {"encoder": folder_or_name(str(encoder)), "revision": revision, "limit": limit}
    if resume is not None:
        given |= {"task": task, "data": data, "out": out, "seed": seed, "seeds": seeds, "settings": settings}
        given |= {"limit": limit or None}
        suite = folders.resumed(resume, Path(runs), given | asked(where))
        plan = Plan.of_json(suite.record["request"], str(suite.folder / SUITE))
        return _Work(suite, plan, Path(runs), offline, listen, should_stop).all()
    place = None if data is None else str(Path(data).expanduser().resolve())
    given |= {"seeds": several.parse(seeds, seed), "data": place, "device": where}
    plan = plans.make(task, settings, listen=listen, **given)
    there = folders.existing(Path(out), plan) if out else None
    _check(plan, there, Path(runs), offline)
    suite = there or folders.create(plan, Path(runs), Path(out) if out else None)
    try:
        return _Work(suite, plan, Path(runs), offline, listen, should_stop).all()
    except BaseException:
        if there is None and not any(suite.run(member) for member in suite.members):
            shutil.rmtree(suite.folder, ignore_errors=True)
        raise


def _check(plan: Plan, suite: Suite | None, runs: Path, offline: bool) -> None:
    """Find data, encoder and settings of every task that is not done, and check them, before anything is trained.

    Raises:
        BertkitError: naming every task with a fault, and the fault.
    """
    faults: dict[str, BertkitError] = {}
    names = {task.name for task in plan.tasks}
    for task, name in zip(plan.tasks, plan.encoders, strict=True):
        members = [member for member in plan.members() if member.task == task.name]
        if suite is not None and all(suite.finished(member) for member in members):
            continue
        # A Hub that was out of reach a moment ago is not waited for a second time.
        without_hub = offline or any(fault.absence for fault in faults.values())
        try:
            outside = "" if task.init_from in names else task.init_from
            request = _request(plan, task, name, members[0].seed, offline=without_hub)
            start = start_of(outside, runs, name, task)
            started = replace(request, start_from=str(start.folder) if start else "")
            Training(started, ignore, lambda: False, 0.0).check()
        except BertkitError as error:
            faults[task.name] = error
    if faults:
        raise _together(plan, faults)


def _together(plan: Plan, faults: Mapping[str, BertkitError]) -> BertkitError:
    """Return the one error of all tasks that cannot be trained, and the command that leaves them out."""
    first = next(iter(faults.values()))
    if len(plan.tasks) == 1:
        return first
    # What is neither here nor on a Hub that can be reached has one reason for all.
    absent = [name for name, fault in faults.items() if fault.absence]
    told_of = {part.what for part in faults[absent[0]].absences} if absent else set()
    others = dict.fromkeys(part.what for name in absent for part in faults[name].absences if part.what not in told_of)
    lacking = f" Missing likewise: {', '.join(others)}." if others else ""
    alike = f" (and alike {', '.join(absent[1:])})" if absent[1:] else ""
    shown = {name: fault for name, fault in faults.items() if name not in absent[1:]}
    told = "; ".join(
        f"{name}{alike if name in absent else ''}: {str(fault).rstrip('.')}" for name, fault in shown.items()
    )
    rest = [task.name for task in plan.tasks if task.name not in faults]
    way = f" The others alone: bertkit finetune {','.join(rest)}." if rest else ""
    return type(first)(
        f"{len(faults)} of {len(plan.tasks)} tasks cannot be trained, so none was. {told}.{lacking}{way}"
    )


def _request(plan: Plan, task: Task, encoder: str, seed: int, *, offline: bool) -> Request:
    return Request(
        task=task,
        encoder=encoder,
        revision=plan.revision,
        data=plan.data,
        seed=seed,
        limit=plan.limit,
        device=plan.device,
        offline=offline,
    )


class _Work:
    """The training of a suite's runs, of which other processes may do some at the same time."""

    def __init__(
        self,
        suite: Suite,
        plan: Plan,
        runs: Path,
        offline: bool,
        listen: Listener,
        should_stop: Callable[[], bool],
    ) -> None:
        self.suite = suite
        self.plan = plan
        self.runs = runs
        self.offline = offline
        self.listen = listen
        self.should_stop = should_stop

    def all(self) -> Trained:
        """Train what is not done yet, one run after another, and wait for what other processes have begun."""
        status = "finished"
        while left := self.suite.unfinished:
            if (stopped := self._first(left)) is None:
                stopped = self._wait(left)
            if stopped:
                status = "interrupted"
                break
        for task in self.plan.tasks:
            self.suite.keep(task.name)
        if status == "finished":
            self.suite.unlock()
        return Trained(suite=self.suite.folder, status=status, summary=summarize(self.suite))

    def _first(self, left: Sequence[Member]) -> bool | None:
        """Train the first run that no other process has; say whether it was interrupted, None where there is none."""
        waiting = {(member.task, member.seed) for member in left}
        for member in left:
            task, encoder = self.plan.of(member)
            if (task.init_from, member.seed) in waiting:
                continue
            with self.suite.alone(member) as mine:
                if mine:
                    return self.suite.finished(member) is None and self._train(member, task, encoder)
        return None

    def _train(self, member: Member, task: Task, encoder: str) -> bool:
        """Train a run; say whether it was interrupted."""
        members = self.plan.members()
        place = members.index(member) + 1
        self.listen(Note(message=f"{task.name}, seed {member.seed}: run {place} of {len(members)}"))
        source = next((one.run for one in members if (one.task, one.seed) == (task.init_from, member.seed)), None)
        request = _request(self.plan, task, encoder, member.seed, offline=self.offline)
        done = finetune(
            **replace(request, start_from=str(self.suite.folder / source) if source else "").arguments(),
            out=self.suite.folder / member.run,
            runs=self.runs,
            listen=self.listen,
            should_stop=self.should_stop,
        )
        if done.status == "interrupted":
            return True
        self.suite.keep(member.task)
        return False

    def _wait(self, left: Sequence[Member]) -> bool:
        """Wait until another process has done or left one of its runs; say whether to stop instead."""
        self.listen(Note(message=f"waiting for other processes: {joined(member.run for member in left)}"))
        while not self.should_stop():
            time.sleep(PAUSE)
            if self.suite.unfinished != list(left) or any(map(self._is_free, left)):
                return False
        return True

    def _is_free(self, member: Member) -> bool:
        with self.suite.alone(member) as mine:
            return mine
