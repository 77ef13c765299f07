"""``bertkit sweep``: many trainings of one task with different settings, and the best of them by validation score."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any, Literal

from bertkit import config
from bertkit import run as run_folders
from bertkit import task as tasks
from bertkit.config import DeviceConfig
from bertkit.data import sources
from bertkit.errors import ConfigError, RunError
from bertkit.events import Event, Listener, Note, Scores, Start, ignore
from bertkit.loop import DivergedError
from bertkit.run import Run, command_line, hide_password, now
from bertkit.task import DEFAULT_ENCODER, Task, from_table
from bertkit.workflows import space as spaces
from bertkit.workflows.finetune import asked, finetune, folder_or_name
from bertkit.workflows.preparation import Settings, configs, tables, task_of
from bertkit.workflows.space import Point, Space
from bertkit.workflows.training import Request, Training, as_json, plainly

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from bertkit.workflows.study import Queue

SWEEP = "sweep.json"
"""The file that makes a folder of trials a sweep."""
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "interrupted", "RUNNING": "running", "WAITING": "waiting"}
"""Optuna's states -> ours; a trial that training gave up is ``failed``."""
ENDED = ("finished", "pruned", "failed")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a sweep, however often it was interrupted."""

    trial: int
    """From 1."""
    state: str
    """``finished``, ``pruned``, ``failed``, ``interrupted``, ``running`` or ``waiting``."""
    settings: Point
    """What it changes."""
    score: float | None = None
    """The task's first metric on validation; of a pruned trial the last one."""
    run: str = ""
    """Its run folder; of another machine's with the machine's name before it."""
    error: str = ""
    """Why training gave it up."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep came to."""

    sweep: Path
    task: str
    encoder: str
    status: str
    """``finished``, ``interrupted``, or ``running``: others are still at work on the last trials."""
    metric: str
    number: int
    """How many trials there shall be."""
    trials: tuple[Trial, ...]
    """By number."""
    best: Trial | None
    """The finished trial with the best score; the first of equals."""
    higher: bool = True
    """Whether a higher score is the better one."""
    unseen: tuple[str, ...] = ()
    """Labelled splits that no trial was scored on."""
    seconds: float = 0.0
    """Wall-clock time of this command."""
    already: bool = False
    """All trials were finished before, and nothing was done."""

    @property
    def ranked(self) -> list[Trial]:
        """The trials, the best of the finished ones first, then what did not finish."""
        sign = -1 if self.higher else 1

        def place(one: Trial) -> tuple[bool, float, int]:
            return one.state != "finished", math.inf if one.score is None else sign * one.score, one.trial

        return sorted(self.trials, key=place)

    def count(self, state: str) -> int:
        """Return how many trials came so far."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def verdict(self) -> str:
        """Return the sentences that say what was chosen, from how many, and what that does to its score."""
        if self.best is None:
            return f"No trial of {len(self.trials)} has finished, so none is the best."
        counted = [f"{number} {state}" for state in STATES_SHOWN if (number := self.count(state))]
        first = (
            f"The best of {len(self.trials)} trials ({', '.join(counted)}) by {self.metric} on validation is trial "
            f"{self.best.trial} with {_number(self.best.score)}: {spaces.named(self.best.settings)}."
        )
        if len(self.trials) == 1:
            return first
        return (
            f"{first} It was chosen on the rows that score it, so that number is too good, the more so the more "
            f"trials there were. {self._untouched()}"
        )

    def _untouched(self) -> str:
        if not self.unseen:
            return "Report a score on rows that chose nothing."
        return f"No trial was scored on '{self.unseen[0]}': that score is yet to be had, once, for the report."

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "sweep": str(self.sweep),
            "task": self.task,
            "encoder": self.encoder,
            "status": self.status,
            "metric": self.metric,
            "num_trials": len(self.trials),
            "best": _json_of(self.best) if self.best else None,
            "trials": [_json_of(trial) for trial in self.trials],
            "verdict": self.verdict,
            "seconds": self.seconds,
        }


STATES_SHOWN = (*ENDED, "interrupted", "running", "waiting")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep was asked for, fully resolved; stored in ``sweep.json``, so that ``--resume`` needs nothing else."""

    task: Task
    encoder: str
    revision: str
    data: str | None
    seed: int
    limit: int
    space: Space
    drawn: bool
    """Whether settings are drawn, or all combinations tried."""
    prune: bool
    device: DeviceConfig
    offline: bool = field(default=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return dict(
            as_json(
                {
                    "task": self.task.name,
                    "task_table": self.task.to_table(),
                    **{key: getattr(self, key) for key in ("encoder", "revision", "data", "seed", "limit")},
                    "space": spaces.to_json(self.space),
                    "drawn": self.drawn,
                    "prune": self.prune,
                    "device": config.describe(self.device),
                }
            )
        )

    @classmethod
    def of_json(cls, stored: Mapping[str, Any], where: str, *, offline: bool) -> Plan:
        """Return the plan that a ``sweep.json`` holds."""
        plain = {key: stored[key] for key in ("encoder", "revision", "data", "seed", "limit", "drawn", "prune")}
        return cls(
            **plain,
            task=from_table(stored["task_table"], name=stored["task"], where=where),
            space=spaces.from_json(stored["space"]),
            device=DeviceConfig(**stored["device"]),
            offline=offline,
        )

    @property
    def name(self) -> str:
        """What the sweep's folder is called: ``glue-rte-minilm-sweep``."""
        return f"{self.task.name.replace('/', '-')}-{Path(self.encoder.rstrip('/')).name}-sweep"

    @property
    def study(self) -> str:
        """What the study is called: the same on every machine that gives the same command, wherever its data is."""
        told = self.to_json()
        table = {key: value for key, value in told.pop("task_table").items() if key not in ("data", "track")}
        rest = {key: value for key, value in told.items() if key not in ("data", "device", "encoder")}
        return f"{self.name}-{sha256(json.dumps([table, rest], sort_keys=True).encode()).hexdigest()[:8]}"

    def at(self, point: Mapping[str, Any]) -> Task:
        """Return the task with the settings of a trial.

        Raises:
            BertkitError: if it does not take them.
        """
        table = tasks.merge(self.task.to_table(), tables(point))
        changed = replace(from_table(table, name=self.task.name, where="--grid"), file=None)
        configs(changed)
        return changed


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
        resume: a sweep to go on with.
        settings: as in :func:`bertkit.finetune`, for all trials.
        encoder, revision, data, runs, seed, limit: as in :func:`bertkit.finetune`; every trial has the same seed.
        device, precision, threads, offline, listen, should_stop: likewise.

    Returns:
        Every trial, and the best.

    Raises:
        BertkitError: one of its kinds, for whatever is wrong; before the first step it leaves no folder behind.
    """
    began = time.perf_counter()
    _require()
    where = DeviceConfig(device=device, precision=precision, threads=threads)
    shown = _once(listen)
    if resume is not None:
        folder, record = _resumed(Path(resume), Path(runs))
        given: dict[str, Any] = {
            "task": task,
            "encoder": folder_or_name(str(encoder)),
            "data": data,
            "settings": settings,
        }
        given |= {"revision": revision, "seed": seed, "limit": limit, "grid": grid, "prune": prune, "out": out}
        given |= {"trials": 0 if record["request"]["drawn"] else trials}
        _refuse_with_resume(folder, record, given | asked(where))
        plan = Plan.of_json(record["request"], str(folder / SWEEP), offline=offline)
        out, trials = folder, trials or (record["num_trials"] if plan.drawn else 0)
    else:
        if task is None:
            raise ConfigError("sweep needs a task: a name ('bertkit tasks' lists them), a task file or a data file.")
        found, _ = task_of(task, settings)
        plan = Plan(
            task=found,
            encoder=_encoder(folder_or_name(str(encoder)), found, shown),
            revision=revision,
            data=None if data is None else str(Path(data).expanduser().resolve()),
            seed=42 if seed is None else seed,
            limit=limit,
            space=spaces.parse(grid, trials=trials, fixed=_fixed(found, settings)),
            drawn=trials > 0,
            prune=prune,
            device=where,
            offline=offline,
        )
    number = _number_of(plan, trials)
    for point in spaces.corners(plan.space):
        plan.at(point)
    whole = Sweep(plan, number, Path(runs), storage, shown, should_stop)
    whole.open(None if out is None else Path(out))
    return replace(whole.work(), seconds=round(time.perf_counter() - began, 3))


class Sweep:
    """One process's part in a sweep."""

    def __init__(
        self,
        plan: Plan,
        number: int,
        runs: Path,
        storage: str,
        tell: Listener,
        should_stop: Callable[[], bool],
    ) -> None:
        self.plan = plan
        self.number = number
        self.runs = runs
        self.storage = storage
        self.tell = tell
        self.should_stop = should_stop
        self.folder = Path()
        self.record: dict[str, Any] = {}
        self.metric = ""
        self.direction: Literal["maximize", "minimize"] = "maximize"
        self.unseen: tuple[str, ...] = ()
        self.queue: Queue

    # The folder ----------------------------------------------------------------------------------------------

    def open(self, out: Path | None) -> None:
        """Check data and encoder, then find or make the sweep's folder and its study.

        Raises:
            BertkitError: for whatever would make training wrong.
        """
        from filelock import FileLock

        from bertkit.workflows import study

        facts = self._check()
        self.runs.mkdir(parents=True, exist_ok=True)
        # Of two processes that start at once, one makes the folder and the other finds it.
        with FileLock(self.runs / ".sweep.lock"):
            made = not self._find(out)
            if made:
                self._create(out)
            try:
                address = self._address()
                opened = study.open_study(
                    address,
                    self.plan.study,
                    self.plan.space,
                    drawn=self.plan.drawn,
                    direction=self.direction,
                    prune=self.plan.prune,
                    seed=self.plan.seed,
                    shared=bool(self.storage),
                )
                study.agree(opened, facts)
            except BaseException:
                if made:
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise
        self.queue = study.Queue(
            opened, self.plan.space, number=self.number, folder=self.folder, place=self.record["id"]
        )

    def _check(self) -> dict[str, Any]:
        """Find data and encoder and check them; return what all trials must have alike."""
        plan = self.plan
        request = Request(
            task=plan.at(spaces.corners(plan.space)[0]),
            **{
                key: getattr(plan, key) for key in ("encoder", "revision", "data", "seed", "limit", "device", "offline")
            },
        )
        prepared, source = Training(request, ignore, lambda: False, 0.0).check()
        self.metric = prepared.task.metrics[0]
        self.direction = "maximize" if prepared.adapter.better(1.0, 0.0) else "minimize"
        self.unseen = tuple(name for name in prepared.scored if name != "validation")
        return {"data": sources.fingerprint(prepared.dataset), "encoder": source.revision}

    def _find(self, out: Path | None) -> bool:
        """Open the folder that is named, or the one of the same call that is not finished; say whether there is one.

        Raises:
            RunError: if the named one was made from something else.
        """
        asked_for = self.plan.to_json()
        if out is not None:
            if not (out / SWEEP).is_file():
                return False
            self.folder, self.record = out, read(out)
            difference = config.first_difference(asked_for, self.record["request"])
            difference = difference or self._other_storage()
            if difference:
                raise RunError(f"{out} was made from something else: {plainly(difference)}. Name another --out.")
            return True
        for file in sorted(self.runs.glob(f"*/{SWEEP}"), reverse=True):
            with suppress(RunError):
                record = read(file.parent)
                same = record["request"] == asked_for and record["num_trials"] == self.number
                # A shared study has one result, however often it is asked for.
                if same and (record["status"] != "finished" or self.storage):
                    self.folder, self.record = file.parent, record
                    if self._other_storage() is None:
                        self.tell(Note(message=f"going on with {self.folder} (--out DIR begins another)"))
                        return True
        return False

    def _other_storage(self) -> str | None:
        stored = self.record["storage"]
        given = hide_password(self.storage)
        if not given and "***" not in stored:
            self.storage = stored
            return None
        return None if given == stored else f"storage is {given or 'a file in the folder'!r} now and was {stored!r}"

    def _create(self, out: Path | None) -> None:
        self.folder = run_folders.new_folder(self.runs, name=self.plan.name, out=out)
        self.record = {
            "created": now(),
            "id": uuid.uuid4().hex,
            "argv": command_line(),
            "storage": hide_password(self.storage),
            "study": self.plan.study,
            "request": self.plan.to_json(),
        }
        self._write("running")

    def _write(self, status: str, best: Trial | None = None) -> None:
        self.record |= {"num_trials": self.number, "status": status, "best": _json_of(best) if best else None}
        run_folders.write_text(self.folder / SWEEP, json.dumps(self.record, indent=2, ensure_ascii=False) + "\n")

    def _address(self) -> str:
        return self.storage or f"sqlite:///{(self.folder / 'sweep.db').resolve().as_posix()}"

    # The trials ----------------------------------------------------------------------------------------------

    def work(self) -> Swept:
        """Train what nobody else trains.

        Raises:
            BertkitError: what a training raises; only where its numbers run away, that trial fails and others go on.
        """
        from bertkit.workflows.study import Unfinished

        before = self._result("finished")
        if before.status == "finished":
            self.tell(Note(message=f"{self.folder} is finished already; nothing to do"))
            return replace(before, already=True)
        self._write("running", before.best)
        try:
            self.queue.work(self._train, should_stop=self.should_stop)
        except Unfinished:
            result = self._result("interrupted")
        else:
            result = self._result("interrupted" if self.should_stop() else "finished")
        self._write(result.status, result.best)
        return result

    def _train(self, number: int, point: Point, trial: optuna.Trial) -> float:
        """Train one trial in its own run folder, which may hold its beginning already; return its score."""
        import optuna

        from bertkit.workflows import study

        folder = self.folder / f"trial-{number:03d}"
        if folder.is_dir() and not (folder / "run.json").is_file():
            shutil.rmtree(folder)
        trial.set_user_attr(study.RUN, f"{gethostname()}:{folder.resolve()}")
        self.tell(Note(message=f"trial {number} of {self.number}: {spaces.named(point)}"))
        watch = _Watch(self, trial, folder)
        try:
            result = finetune(
                self.plan.at(point),
                **{key: getattr(self.plan, key) for key in ("encoder", "revision", "data", "seed", "limit", "offline")},
                out=folder,
                runs=self.runs,
                scored=("validation",),
                listen=watch.show,
                should_stop=lambda: watch.pruned or self.should_stop(),
                **config.describe(self.plan.device),
            )
        except DivergedError as error:
            trial.set_user_attr(study.FAILED, str(error))
            self.tell(Note(message=f"trial {number} failed: {error}", level="warning"))
            raise
        if watch.pruned and result.status == "interrupted":
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            raise optuna.TrialPruned
        if result.status == "interrupted":
            raise study.Unfinished
        score = float(result.scores["validation"][self.metric])
        return study.finite(score, self.direction)

    # The result ----------------------------------------------------------------------------------------------

    def _result(self, status: str) -> Swept:
        found = tuple(
            self._trial(n, one)
            for n, (_, one) in enumerate(sorted(self.queue.latest().items())[: self.number], start=1)
        )
        ended = len(found) == self.number and all(trial.state in ENDED for trial in found)
        status = "finished" if ended else "running" if status == "finished" else status
        result = Swept(
            sweep=self.folder,
            task=self.plan.task.name,
            encoder=self.plan.encoder,
            status=status,
            metric=self.metric,
            number=self.number,
            trials=found,
            best=None,
            higher=self.direction == "maximize",
            unseen=self.unseen,
        )
        best = next((trial for trial in result.ranked if trial.state == "finished"), None)
        if ended and best is None:
            errors = [trial.error for trial in found if trial.error]
            raise RunError(f"All {len(found)} trials of {self.folder} failed; the first: {errors[0]}")
        return replace(result, best=best)

    def _trial(self, number: int, one: FrozenTrial) -> Trial:
        from bertkit.workflows import study

        error = str(one.user_attrs.get(study.FAILED, ""))
        score = one.value if one.value is not None and math.isfinite(one.value) else None
        here = one.user_attrs.get(study.PLACE) == self.folder_id
        run = str(one.user_attrs.get(study.RUN, ""))
        return Trial(
            trial=number,
            state="failed" if error else STATES[one.state.name],
            settings=dict(one.params),
            score=score,
            run=str(self.folder / f"trial-{number:03d}") if here else run,
            error=error,
        )

    @property
    def folder_id(self) -> str:
        """Return what says that a trial was trained in this folder, wherever it has been moved since."""
        return str(self.record["id"])


class _Watch:
    """Takes the events of one trial: reports its scores, and says whether it is to end early."""

    def __init__(self, sweep: Sweep, trial: optuna.Trial, folder: Path) -> None:
        self.sweep = sweep
        self.trial = trial
        self.folder = folder
        self.evaluations = 0
        self.pruned = False

    def show(self, event: Event) -> None:
        """Take one event, and pass it on."""
        self.sweep.tell(event)
        if isinstance(event, Start):
            # A trial that goes on was evaluated before.
            self.evaluations = sum(one["event"] == "scores" for one in Run.open(self.folder).events())
        if isinstance(event, Scores) and event.split == "validation" and self.sweep.plan.prune:
            self.evaluations += 1
            self.trial.report(event.scores[event.metric], self.evaluations)
            if self.trial.should_prune():
                self.pruned = True
                why = f"under the median of the others at evaluation {self.evaluations}"
                self.sweep.tell(Note(message=f"{self.folder.name} is pruned: {why}"))


def read(folder: Path) -> dict[str, Any]:
    """Return what ``sweep.json`` holds.

    Raises:
        RunError: if there is none, or it is damaged.
    """
    file = folder / SWEEP
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{folder} is no sweep: it has no {SWEEP}.") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged: {error}. Sweep again, or restore it from a copy.") from error
    missing = sorted({"id", "storage", "request", "num_trials", "status"} - found.keys())
    if missing:
        raise RunError(f"{file} is damaged: it lacks {', '.join(missing)}. Sweep again, or restore it from a copy.")
    return found


def _require() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("optuna", "filelock")):
        raise ConfigError("A sweep needs a package that is not installed: pip install 'bertkit[sweep]'.")


def _resumed(where: Path, runs: Path) -> tuple[Path, dict[str, Any]]:
    folder = where if (where / SWEEP).is_file() or not (runs / where / SWEEP).is_file() else runs / where
    return folder, read(folder)


def _refuse_with_resume(folder: Path, record: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse what would change a sweep that is gone on with."""
    known = record["request"] | record["request"]["device"] | {"out": str(folder)}
    for name, value in given.items():
        if value and str(value) != str(known.get(name)):
            raise RunError(
                f"--resume {folder} goes on with what the sweep was started with. Drop {name} ({value}), or start a "
                "new sweep."
            )


def _encoder(given: str, task: Task, tell: Listener) -> str:
    """Return the encoder to start from, and say so where the user did not."""
    if not given:
        said = "as the task says" if task.encoder else "the default"
        tell(Note(message=f"encoder {task.encoder or DEFAULT_ENCODER}, {said} (--encoder names another)"))
    return given or task.encoder or DEFAULT_ENCODER


def _fixed(task: Task, settings: Settings | None) -> dict[str, Any]:
    """Return what ``--set`` holds fast, and the task's end of training, which makes epochs void."""
    held = tables(settings or {})
    steps = task.settings.get("train", {}).get("max_steps", 0)
    return tasks.merge({"train": {"max_steps": steps}} if steps else {}, held)


def _number_of(plan: Plan, trials: int) -> int:
    """Return how many trials there shall be.

    Raises:
        ConfigError: if that is none, or more than there are combinations.
    """
    most = spaces.size(plan.space)
    if trials < 0 or not plan.space:
        raise ConfigError(f"--trials is {trials}, and must be at least 1." if plan.space else NOTHING)
    if not plan.drawn:
        return int(most)
    if trials > most:
        raise ConfigError(f"--trials {trials} is more than the {most:.0f} combinations there are. Drop it to try all.")
    return trials


NOTHING = "--set holds everything that the default grid tries. Name what to try with --grid KEY=A,B,C."


def _once(listen: Listener) -> Listener:
    """Pass a note on the first time only: what is true of every trial is told once."""
    told: set[str] = set()

    def pass_on(event: Event) -> None:
        if isinstance(event, Note):
            if event.message in told:
                return
            told.add(event.message)
        listen(event)

    return pass_on


def _json_of(trial: Trial) -> dict[str, Any]:
    """Return a trial as JSON-able values; what is empty is left out."""
    kept = {key: getattr(trial, key) for key in ("trial", "state", "settings", "score")}
    return kept | {key: value for key in ("run", "error") if (value := getattr(trial, key))}


def _number(score: float | None) -> str:
    return "no number" if score is None else f"{score:.4f}"
