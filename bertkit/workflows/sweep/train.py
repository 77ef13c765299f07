"""``bertkit sweep``: the trainings of a sweep, of which other processes and machines may do some at the same time."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertkit import config, processes
from bertkit.config import DeviceConfig
from bertkit.data import sources
from bertkit.errors import ConfigError, RunError
from bertkit.events import Event, Listener, Note, Scores, Start, ignore, once
from bertkit.loop import DivergedError
from bertkit.run import SWEEP, Run
from bertkit.task import Task
from bertkit.workflows import locks
from bertkit.workflows.finetune import asked, encoder_name, finetune, folder_or_name, start_of
from bertkit.workflows.preparation import Settings, task_of
from bertkit.workflows.resume import refuse_changes
from bertkit.workflows.sweep import folder as folders
from bertkit.workflows.sweep import plan as plans
from bertkit.workflows.sweep import space as spaces
from bertkit.workflows.sweep.folder import Sweep
from bertkit.workflows.sweep.plan import Plan
from bertkit.workflows.sweep.space import Point
from bertkit.workflows.sweep.table import ENDED, Swept
from bertkit.workflows.training import Request, Training

if TYPE_CHECKING:
    import optuna

    from bertkit.workflows.sweep.study import Queue


def sweep(
    task: str | Path | Task | None = None,
    *,
    grid: Mapping[str, Any] | Iterable[str] | None = None,
    trials: int = 0,
    prune: bool = False,
    storage: str = "",
    encoder: str | Path = "",
    revision: str = "",
    data: str | Path | None = None,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    seed: int | None = None,
    limit: int = 0,
    resume: str | Path | None = None,
    settings: Settings | None = None,
    device: str = "auto",
    precision: config.Precision = "auto",
    threads: int = 0,
    offline: bool = False,
    listen: Listener = ignore,
    should_stop: Callable[[], bool] = lambda: False,
) -> Swept:
    """Train a task with many settings, and name the best by its first metric on validation.

    The same call again goes on with a sweep that is not finished: trials that were killed go on from their last
    checkpoint. While it runs, the same call from another process, or with a shared ``storage`` from another machine,
    takes trials from the same queue. No trial is scored on any split but validation.

    Args:
        task: a task's name, a task file, a data file or a :class:`Task`. Left out with ``resume``.
        grid: ``{"train.learning_rate": [5e-5, 2e-5]}``, or as ``--grid`` takes it; for ``trials`` also ranges
            (``"1e-5..1e-4"``). Else the BERT paper's: batch size 16, 32; rate 5e-5, 3e-5, 2e-5; 2, 3, 4 epochs.
        trials: draw so many settings with a tree-structured Parzen estimator; 0 tries all combinations.
        prune: end a trial whose score is under the median of the others at the same evaluation, once five have
            finished.
        storage: a database's address as SQLAlchemy writes it; else an SQLite file in the sweep's folder.
        out: the sweep's folder; else an unfinished one of the same call below ``runs``, else a new one there.
        resume: a sweep to go on with; where settings are drawn, ``trials`` may be another number.
        settings: as in :func:`bertkit.finetune`, for all trials.
        encoder, revision, data, runs, seed, limit: as in :func:`bertkit.finetune`; every trial has the same seed.
        device, precision, threads, offline, listen, should_stop: likewise.

    Returns:
        Every trial, and the best.

    Raises:
        BertkitError: one of its kinds, for whatever is wrong; before the first step it leaves no folder behind.
    """
    began = time.perf_counter()
    processes.refuse("a sweep", processes.SHARED_RUNS)
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("A sweep needs a package that is not installed: pip install 'bertkit[sweep]'.")
    where = DeviceConfig(device=device, precision=precision, threads=threads)
    listen = once(listen)
    given: dict[str, Any] = {"encoder": folder_or_name(str(encoder)), "revision": revision}
    if resume is not None:
        found = folders.at(resume, Path(runs))
        stored = found.record["request"]
        given |= {"task": task, "data": data, "settings": settings, "seed": seed, "limit": limit or None, "out": out}
        given |= {"grid": grid, "prune": prune or None, "trials": None if stored["drawn"] else trials or None}
        refuse_changes(found.folder, stored, given | asked(where), kind="sweep")
        plan = Plan.of_json(stored, str(found.folder / SWEEP), offline=offline)
        out, trials = found.folder, trials or found.record["num_trials"]
    else:
        place = None if data is None else str(Path(data).expanduser().resolve())
        given |= {"data": place, "seed": 42 if seed is None else seed, "limit": limit, "device": where}
        request = _request(task, settings, Path(runs), listen, **given, offline=offline)
        plan = plans.make(request, grid, settings, trials=trials, prune=prune)
    number = plan.number(trials)
    plan.check()
    facts = _Facts.of(plan)
    opened, queue = _open(plan, facts, number, Path(runs), Path(out) if out else None, storage, listen)
    work = _Work(plan, facts, opened, queue, Path(runs), listen, should_stop)
    return replace(work.all(), seconds=round(time.perf_counter() - began, 3))


def _request(
    task: str | Path | Task | None,
    settings: Settings | None,
    runs: Path,
    listen: Listener,
    *,
    encoder: str,
    **given: Any,
) -> Request:
    """Return what all trials have alike.

    Raises:
        BertkitError: if there is no such task, or no such run to start from.
    """
    if task is None:
        raise ConfigError("sweep needs a task: a name ('bertkit tasks' lists them), a task file or a data file.")
    found, _ = task_of(task, settings)
    start = start_of(found.init_from, runs, encoder, found)
    return Request(
        task=found,
        encoder=str(start.record["encoder"]) if start else encoder_name(encoder, found, listen),
        start_from=str(start.folder.resolve()) if start else "",
        **given,
    )


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What data and encoder say of a sweep before anything is trained."""

    metric: str
    higher: bool
    unseen: tuple[str, ...]
    alike: Mapping[str, Any]
    """What must be the same on every machine."""

    @classmethod
    def of(cls, plan: Plan) -> _Facts:
        """Find data and encoder and check them.

        Raises:
            BertkitError: for whatever would make training wrong.
        """
        request = replace(plan.at(spaces.corners(plan.space)[0]), scored=())
        prepared, source = Training(request, ignore, lambda: False, 0.0).check()
        return cls(
            metric=prepared.task.metrics[0],
            higher=prepared.adapter.better(1.0, 0.0),
            unseen=tuple(name for name in prepared.scored if name != "validation"),
            alike={"data": sources.fingerprint(prepared.dataset), "encoder": source.revision},
        )


def _open(
    plan: Plan, facts: _Facts, number: int, runs: Path, out: Path | None, storage: str, listen: Listener
) -> tuple[Sweep, Queue]:
    """Find the sweep's folder or make it, and open its study; a folder whose study cannot be opened does not stay.

    Raises:
        BertkitError: if what stands there was made from something else, or the storage cannot be opened.
    """
    from bertkit.workflows.sweep import study

    runs.mkdir(parents=True, exist_ok=True)
    # Of two processes that start at once, one makes the folder and the other finds it.
    with locks.in_turn(runs / ".sweep.lock"):
        if out is not None:
            found = folders.existing(out, plan, storage)
        else:
            found = folders.unfinished(plan, number, runs, storage, listen)
        sweep = found or folders.create(plan, number, runs, out, storage)
        try:
            opened = study.open_study(sweep, plan, higher=facts.higher)
            study.agree(opened, facts.alike)
        except BaseException:
            if found is None:
                shutil.rmtree(sweep.folder, ignore_errors=True)
            raise
    return sweep, study.Queue(opened, plan.space, sweep, number=number)


@dataclass(frozen=True)
class _Work:
    """One process's part in a sweep."""

    plan: Plan
    facts: _Facts
    sweep: Sweep
    queue: Queue
    runs: Path
    listen: Listener
    should_stop: Callable[[], bool]

    def all(self) -> Swept:
        """Train what nobody else trains.

        Raises:
            BertkitError: what a training raises; only where its numbers run away, that trial fails and others go on.
        """
        from bertkit.workflows.sweep.study import Unfinished

        before = self._noted()
        if before.status == "finished":
            self.listen(Note(message=f"{self.sweep.folder} is finished already; nothing to do"))
            return replace(before, already=True)
        stopped = False
        try:
            self.queue.work(self._train, should_stop=self.should_stop)
        except Unfinished:
            stopped = True
        return self._noted(stopped=stopped or self.should_stop())

    def _train(self, number: int, point: Point, trial: optuna.Trial) -> float:
        """Train one trial in its own run folder, which may hold its beginning already; return its score."""
        import optuna

        from bertkit.workflows.sweep.study import Unfinished

        self._noted()
        self.listen(Note(message=f"trial {number} of {self.queue.number}: {spaces.named(point)}"))
        folder = self.sweep.trial(number)
        watch = _Watch(trial, folder, self.listen, prune=self.plan.prune)
        try:
            result = finetune(
                **self.plan.at(point).arguments(),
                out=folder,
                runs=self.runs,
                listen=watch.show,
                should_stop=lambda: watch.pruned or self.should_stop(),
            )
        except DivergedError as error:
            self.listen(Note(message=f"trial {number} failed: {error}", level="warning"))
            raise
        if watch.pruned and result.status == "interrupted":
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            raise optuna.TrialPruned
        if result.status == "interrupted":
            raise Unfinished
        return float(result.scores["validation"][self.facts.metric])

    def _noted(self, *, stopped: bool = False) -> Swept:
        """Return what the sweep has come to, and note it in ``sweep.json``.

        Raises:
            RunError: if every trial failed.
        """
        # What another process has noted meanwhile is not overwritten with what was before.
        with locks.in_turn(self.sweep.lock("noted")):
            trials = self.queue.trials()
            ended = len(trials) == self.queue.number and all(trial.state in ENDED for trial in trials)
            found = Swept(
                sweep=self.sweep.folder,
                task=self.plan.request.task.name,
                encoder=self.plan.request.encoder,
                status="finished" if ended else "interrupted" if stopped else "running",
                metric=self.facts.metric,
                trials=trials,
                higher=self.facts.higher,
                unseen=self.facts.unseen,
            )
            best = found.best
            if ended and best is None:
                errors = [trial.error for trial in trials if trial.error]
                raise RunError(f"All {len(trials)} trials of {found.sweep} failed; the first: {errors[0]}")
            self.sweep.write(
                num_trials=self.queue.number, status=found.status, best=best.to_json() if best is not None else None
            )
        return found


class _Watch:
    """Takes the events of one trial: reports its scores, and says whether it is to end early."""

    def __init__(self, trial: optuna.Trial, folder: Path, listen: Listener, *, prune: bool) -> None:
        self.trial = trial
        self.folder = folder
        self.listen = listen
        self.prune = prune
        self.evaluations = 0
        self.pruned = False

    def show(self, event: Event) -> None:
        """Take one event, and pass it on."""
        self.listen(event)
        if not self.prune:
            return
        if isinstance(event, Start):
            # A trial that goes on was evaluated before.
            self.evaluations = sum(one["event"] == "scores" for one in Run.open(self.folder).events())
        if isinstance(event, Scores) and event.split == "validation":
            self.evaluations += 1
            self.trial.report(event.scores[event.metric], self.evaluations)
            if self.trial.should_prune():
                self.pruned = True
                why = f"under the median of the others at evaluation {self.evaluations}"
                self.listen(Note(message=f"{self.folder.name} is pruned: {why}"))
