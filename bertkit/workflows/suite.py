"""A suite: a training for each task of a group and each seed, below one folder, and one table of all of them."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from bertkit import catalog, config, encoder
from bertkit import run as run_folders
from bertkit import task as tasks
from bertkit.baselines.stored import Beside
from bertkit.config import DeviceConfig
from bertkit.errors import BertkitError, ConfigError, RunError, TaskError
from bertkit.events import Listener, Note, ignore
from bertkit.run import SUITE, Run, now
from bertkit.task import DEFAULT_ENCODER, Task, from_table
from bertkit.workflows import seeds as several
from bertkit.workflows.eval import Evaluated, evaluate
from bertkit.workflows.finetune import already, asked, finetune, folder_or_name, start_of
from bertkit.workflows.preparation import Settings, tables, task_of
from bertkit.workflows.seeds import Kept, Spread
from bertkit.workflows.training import Request, Training, as_json, plainly

FACTS = Path(__file__).with_name("glue.toml")
Scores = Mapping[str, Mapping[str, Any]]
"""split -> metric -> value, ``<metric>_interval`` beside."""


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
        text = json.dumps(self.record, indent=2, ensure_ascii=False) + "\n"
        run_folders.write_text(self.folder / SUITE, text)

    def keep(self, task: str) -> Kept | None:
        """Choose a task's run, once all of them are finished, and let ``model/`` beside them be its model."""
        runs = {member.run: run for member in self.of(task) if (run := self.finished(member))}
        if len(runs) < len(self.of(task)):
            return None
        kept = several.choose(runs)
        self.record["kept"][task] = asdict(kept)
        self.write()
        folder = self.folder / kept.run
        if folder.name == f"seed-{kept.seed}":
            several.link(folder.parent, folder)
        return kept


# The table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Line:
    """One score of one task."""

    task: str
    split: str
    metric: str
    spread: Spread
    interval: tuple[float, float] | None = None
    """Bootstrap interval, where there is one run."""
    baseline: str = ""
    """The best one that is stored: ``0.6838 majority``."""
    published: str = ""
    """The same encoder's, as a share like the scores, with the digits that its source prints."""

    @property
    def name(self) -> str:
        """The metric's name, with the split where it is not validation."""
        return self.metric if self.split == "validation" else f"{self.metric} ({self.split})"


@dataclass(frozen=True, kw_only=True)
class Average:
    """The mean over tasks, by GLUE's rule."""

    name: str
    """``GLUE average``, or ``average of 6 tasks``."""
    tasks: tuple[str, ...]
    spread: Spread

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {"name": self.name, "tasks": list(self.tasks), **self.spread.to_json()}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a suite came to."""

    suite: Path
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    lines: tuple[Line, ...]
    average: Average | None
    kept: Mapping[str, Kept]
    seconds: Mapping[str, float]
    """task -> seconds in optimizer steps, over all its runs and however often they were interrupted."""
    unfinished: Mapping[str, str]
    """task -> why it is not in the table."""
    published: Mapping[str, str]
    """encoder -> source and protocol of its published row."""
    notes: tuple[str, ...]
    runs: tuple[Mapping[str, Any], ...]
    """As ``finetune --json`` or ``eval --json`` prints each, with its seed."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        table: dict[str, Any] = {}
        for line in self.lines:
            value = line.spread.to_json() | ({"interval": list(line.interval)} if line.interval else {})
            value |= {"published": float(line.published)} if line.published else {}
            table.setdefault(line.task, {}).setdefault(line.split, {})[line.metric] = value
        summary = {
            "tasks": table,
            "seeds": list(self.seeds),
            "average": self.average.to_json() if self.average else None,
            "kept": {task: asdict(kept) for task, kept in self.kept.items()},
            "training_seconds": dict(self.seconds),
            "unfinished": dict(self.unfinished),
            "published": dict(self.published),
            "notes": list(self.notes),
        }
        return {"suite": str(self.suite), "runs": [dict(run) for run in self.runs], "summary": summary}


@cache
def facts() -> dict[str, Any]:
    """Return what ``glue.toml`` says."""
    return tomllib.loads(FACTS.read_text(encoding="utf-8"))


def summarize(suite: Suite) -> Summary:
    """Return the table of what a suite's runs have stored."""
    results = {}
    for member in suite.members:
        run = suite.finished(member)
        if run is not None:
            found = already(run)
            results[member] = (found.scores, found.to_json() | {"seed": member.seed})
    return _summary(suite, results)


def _summary(suite: Suite, results: Mapping[Member, tuple[Scores, Mapping[str, Any]]]) -> Summary:
    """Return the table of scores by member; a task some of whose seeds are missing is named as unfinished."""
    names = list(dict.fromkeys(member.task for member in suite.members))
    done = [task for task in names if all(member in results for member in suite.of(task))]
    by_task = {task: [results[member][0] for member in suite.of(task)] for task in done}
    below = {task: results[suite.of(task)[0]][1].get("baselines", {}) for task in done}
    lines = [line for task in done for line in _lines(suite, task, by_task[task], below[task])]
    encoders = suite.record["request"]["encoders"]
    rows = {encoders[task]: row for task in done if (row := _published_row(encoders[task])) and task in row["scores"]}
    kept = {task: one for task, one in suite.kept.items() if task in names}
    return Summary(
        suite=suite.folder,
        tasks=tuple(names),
        seeds=tuple(suite.record["request"]["seeds"]),
        lines=tuple(lines),
        average=_average(by_task),
        kept=kept,
        seconds={task: round(_seconds(suite, task), 1) for task in done},
        unfinished={task: _state(suite, task) for task in names if task not in done},
        published={name: f"{row['source']}: {row['protocol']}" for name, row in rows.items()},
        notes=tuple(_notes(suite, done, kept)),
        runs=tuple(found for _, found in results.values()),
    )


def _lines(suite: Suite, task: str, scores: Sequence[Scores], baselines: Mapping[str, Scores]) -> Iterator[Line]:
    run = suite.run(suite.of(task)[0])
    assert run is not None
    row = _published_row(suite.record["request"]["encoders"][task])
    published = row["scores"].get(task, {}) if row else {}
    for split, first in scores[0].items():
        for metric in run.record["resolved_task"]["metrics"]:
            if metric not in first:
                continue
            interval = first.get(f"{metric}_interval") if len(scores) == 1 else None
            yield Line(
                task=task,
                split=split,
                metric=metric,
                spread=Spread.of([each[split][metric] for each in scores]),
                interval=(interval[0], interval[1]) if interval else None,
                baseline=_best_baseline(baselines, split, metric),
                published=_share(published.get(f"{split}.{metric}", "")),
            )


def _best_baseline(baselines: Mapping[str, Scores], split: str, metric: str) -> str:
    found = {name: scores[split][metric] for name, scores in baselines.items() if metric in scores.get(split, {})}
    best = max(found, key=lambda name: found[name], default="")
    return f"{found[best]:.4f} {best}" if best else ""


def _published_row(name: str) -> Mapping[str, Any] | None:
    """Return the published row of exactly this encoder."""
    known = {name, encoder.hub_name(name)}
    found = [row for row in facts()["published"] if known & set(row["encoders"])]
    return found[0] if found else None


def _share(percent: str) -> str:
    """Return a percentage as a share, with as many digits as were printed."""
    return f"{float(percent) / 100:.{len(percent.partition('.')[2]) + 2}f}" if percent else ""


def _average(by_task: Mapping[str, Sequence[Scores]]) -> Average | None:
    """Return GLUE's average, seed by seed; over fewer than its nine tasks it is not called so, over one there is none.

    A task of two metrics counts with their mean, MNLI with that of its matched and its mismatched part, and all tasks
    count alike (Wang et al. 2019, arXiv:1804.07461, 4).
    """
    rule: dict[str, list[str]] = facts()["average"]
    values: dict[str, list[float]] = {}
    for task, scores in by_task.items():
        keys = [key.split(".") for key in rule.get(task, [])]
        if keys and all(metric in scores[0].get(split, {}) for split, metric in keys):
            values[task] = [Spread.of([each[split][metric] for split, metric in keys]).mean for each in scores]
    if len(values) < 2:
        return None
    name = "GLUE average" if len(values) == len(rule) else f"average of {len(values)} tasks"
    means = [Spread.of(one).mean for one in zip(*values.values(), strict=True)]
    return Average(name=name, tasks=tuple(values), spread=Spread.of(means))


def _seconds(suite: Suite, task: str) -> float:
    runs = [run for member in suite.of(task) if (run := suite.run(member))]
    return sum((float(event["seconds"]) for run in runs for event in run.events() if event["event"] == "step"), 0.0)


def _state(suite: Suite, task: str) -> str:
    """Return how far the runs of a task came: ``not begun``, ``1 of 3 seeds finished, the next one interrupted``."""
    runs = [suite.run(member) for member in suite.of(task)]
    finished = sum(run is not None and run.status == "finished" for run in runs)
    open_run = next((run for run in runs if run is not None and run.status != "finished"), None)
    state = f"{open_run.status}" if open_run else "not begun"
    return f"{finished} of {len(runs)} seeds finished" if finished else state


def _notes(suite: Suite, done: Sequence[str], kept: Mapping[str, Kept]) -> Iterator[str]:
    for task, table in suite.record["request"]["tasks"].items():
        if table.get("init_from") and task in done:
            yield f"{task} started from the body that {table['init_from']} trained, with a new head."
    for task, one in kept.items():
        if one.seeds > 1:
            yield one.why(task)


# Training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training a suite came to."""

    suite: Path
    status: str
    """``finished`` or ``interrupted``."""
    summary: Summary


def is_asked(task: Any, *, seeds: Any = None, resume: str | Path | None = None, runs: str | Path = "runs") -> bool:
    """Say whether a training is one of several: a group, a list of tasks, several seeds, or a suite to go on with."""
    if resume is not None:
        return at(resume, runs) is not None
    return seeds is not None or (isinstance(task, str) and bool(catalog.members(task)))


def at(where: str | Path | None, runs: str | Path) -> Path | None:
    """Return the folder of the suite, or of one of its tasks with several seeds, that is named; None for all else."""
    if where is None:
        return None
    for folder in (Path(where).expanduser(), Path(runs) / str(where)):
        if (folder / "run.json").is_file():
            return None
        if run_folders.suite_of(folder) is not None:
            return folder
    return None


def finetune_suite(
    task: str | Path | Task | Sequence[str | Path | Task] | None = None,
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
    its first unfinished run.

    Args:
        task: a group (``glue``), a list (``glue/cola,glue/rte`` or a Python list), or one task. Tasks of a group that
            have no train split are left out.
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
    where = DeviceConfig(device=device, precision=precision, threads=threads)
    if resume is not None:
        given: dict[str, Any] = {"task": task, "encoder": folder_or_name(str(encoder)), "revision": revision}
        given |= {"data": data, "out": out, "seed": seed, "seeds": seeds, "limit": limit, "settings": settings}
        suite = _resumed(resume, Path(runs), given | asked(where))
        plan = Plan.of_json(suite.record["request"], str(suite.folder / SUITE))
        return _train(suite, plan, Path(runs), offline, listen, should_stop)
    chosen = _tasks(task, settings, listen)
    plan = Plan(
        tasks=tuple(chosen),
        encoders=_encoders(chosen, folder_or_name(str(encoder)), listen),
        seeds=several.parse(seeds, seed),
        revision=revision,
        data=None if data is None else str(Path(data).expanduser().resolve()),
        limit=limit,
        device=where,
    )
    existing = _existing(Path(out), plan) if out else None
    _check(plan, existing, Path(runs), offline)
    suite = existing or _create(plan, _name(task, plan), Path(runs), Path(out) if out else None)
    try:
        return _train(suite, plan, Path(runs), offline, listen, should_stop)
    except BaseException:
        if existing is None and not any(suite.run(member) for member in suite.members):
            shutil.rmtree(suite.folder, ignore_errors=True)
        raise


def _encoders(chosen: Sequence[Task], given: str, listen: Listener) -> tuple[str, ...]:
    """Return each task's encoder, and say so where the user did not."""
    names = tuple(given or task.encoder or DEFAULT_ENCODER for task in chosen)
    for name in dict.fromkeys(() if given else names):
        said = "as the task says" if any(task.encoder == name for task in chosen) else "the default"
        listen(Note(message=f"encoder {name}, {said} (--encoder names another)"))
    return names


def _tasks(
    given: str | Path | Task | Sequence[str | Path | Task] | None, settings: Settings | None, listen: Listener
) -> list[Task]:
    """Return the tasks with their settings, a task after the one that it starts from.

    Raises:
        TaskError: if there is no such task, or none of them can be trained.
        ConfigError: if tasks start from each other.
    """
    if given is None:
        raise ConfigError("finetune needs a task: a name or a group ('bertkit tasks' lists them), a file or a list.")
    names: list[str | Path | Task] = [given] if isinstance(given, str | Path | Task) else list(given)
    grouped = [catalog.members(name) if isinstance(name, str) else [] for name in names]
    flat = [one for name, below in zip(names, grouped, strict=True) for one in [*below, *([] if below else [name])]]
    over = tables(settings or {})
    own = {str(name): over.pop(str(name)) for name in flat if isinstance(over.get(str(name)), dict)}
    found: dict[str, Task] = {}
    for name in flat:
        special = tables(own.get(str(name), {}))
        shared = {key: value for key, value in over.items() if (key, value) != ("init_from", str(name))}
        one, _ = task_of(name, tasks.merge(shared, special))
        if one.name in found:
            raise TaskError(f"The task '{one.name}' is named twice. Name each once.")
        if any(name in below for below in grouped) and not _trains(one):
            listen(Note(message=f"{one.name} has no train split, so it is not trained"))
        else:
            found[one.name] = one
    if not found:
        raise TaskError(f"None of the tasks {', '.join(map(str, flat))} has a train split.")
    return _ordered(found)


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


def _name(given: Any, plan: Plan) -> str:
    """Return what a new suite's folder is called: ``glue-minilm``, ``glue-rte-minilm``."""
    folders = {task.name.rpartition("/")[0] for task in plan.tasks}
    if len(plan.tasks) == 1:
        first = plan.tasks[0].name
    else:
        first = next(iter(folders)) if len(folders) == 1 and "" not in folders else "suite"
    encoders = {Path(name.rstrip("/")).name for name in plan.encoders}
    return "-".join([first.replace("/", "-"), *(encoders if len(encoders) == 1 else ())])


def _existing(out: Path, plan: Plan) -> Suite | None:
    """Return the suite that stands at ``--out``.

    Raises:
        RunError: if it was made from another plan.
    """
    if not (out / SUITE).is_file():
        return None
    suite = Suite.open(out)
    difference = config.first_difference(plan.to_json(), suite.record["request"])
    if difference is None and list(plan.to_json()["tasks"]) != list(suite.record["request"]["tasks"]):
        difference = "the tasks are in another order"
    if difference:
        raise RunError(f"{out} was made from something else: {plainly(difference)}. Name another --out.")
    return suite


def _resumed(where: str | Path, runs: Path, given: Mapping[str, Any]) -> Suite:
    """Return the suite to go on with; refuse what would change it."""
    folder = at(where, runs)
    if folder is None:
        raise RunError(f"There is no suite '{where}': no folder of that name has a {SUITE}.")
    suite = Suite.open(run_folders.suite_of(folder) or folder)
    stored = suite.record["request"]
    known = stored | stored["device"] | {"out": str(suite.folder)}
    for name, value in given.items():
        if value in (None, "", 0) or not value or str(value) == str(known.get(name)):
            continue
        raise RunError(
            f"--resume {suite.folder} goes on with what the suite was started with. Drop {name} ({value}), "
            "or start a new suite."
        )
    return suite


def _create(plan: Plan, name: str, runs: Path, out: Path | None) -> Suite:
    folder = run_folders.new_folder(runs, name=name, out=out)
    record = {
        "name": name,
        "created": now(),
        "argv": list(sys.argv),
        "request": plan.to_json(),
        "runs": [asdict(member) for member in plan.members()],
        "kept": {},
    }
    suite = Suite(folder, record)
    suite.write()
    return suite


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
    told = "; ".join(f"{name}: {str(fault).rstrip('.')}" for name, fault in faults.items())
    rest = [task.name for task in plan.tasks if task.name not in faults]
    way = f" The others alone: bertkit finetune {','.join(rest)}." if rest else ""
    return type(first)(f"{len(faults)} of {len(plan.tasks)} tasks cannot be trained, so none was. {told}.{way}")


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


def _train(
    suite: Suite,
    plan: Plan,
    runs: Path,
    offline: bool,
    listen: Listener,
    should_stop: Callable[[], bool],
) -> Trained:
    """Train what is not done yet, one run after another."""
    by_name = {task.name: (task, name) for task, name in zip(plan.tasks, plan.encoders, strict=True)}
    members = plan.members()
    for number, member in enumerate(members, start=1):
        task, name = by_name[member.task]
        if suite.finished(member) is None:
            listen(Note(message=f"{task.name}, seed {member.seed}: run {number} of {len(members)}"))
            source = next((m.run for m in members if (m.task, m.seed) == (task.init_from, member.seed)), None)
            status = finetune(
                task,
                encoder=name,
                revision=plan.revision,
                data=plan.data,
                out=suite.folder / member.run,
                runs=runs,
                seed=member.seed,
                limit=plan.limit,
                start_from=suite.folder / source if source else None,
                offline=offline,
                listen=listen,
                should_stop=should_stop,
                **config.describe(plan.device),
            ).status
            if status == "interrupted":
                return Trained(suite=suite.folder, status="interrupted", summary=summarize(suite))
        if member.task not in suite.kept:
            suite.keep(member.task)
    return Trained(suite=suite.folder, status="finished", summary=summarize(suite))


# Evaluating ------------------------------------------------------------------------------------------------------


def evaluate_suite(
    where: str | Path,
    *,
    data: str | Path | None = None,
    split: str = "",
    runs: str | Path = "runs",
    settings: Settings | None = None,
    device: str = "auto",
    precision: config.Precision = "auto",
    threads: int = 0,
    offline: bool = False,
    listen: Listener = ignore,
) -> Summary:
    """Return the table of a suite: of the scores that its runs have stored, unless anything else is asked for.

    Args:
        where: the suite's folder, that of one of its tasks with several seeds, or its name below ``runs``.
        data: other data; as ``split``, ``settings`` and the device, it lets every finished run be evaluated anew.
        split: else the splits that a run was scored on after training.
        runs, settings, device, precision, threads, offline, listen: as in :func:`bertkit.evaluate`.

    Raises:
        BertkitError: if there is no such suite, or one of its runs cannot be evaluated so.
    """
    folder = at(where, runs)
    if folder is None:
        raise RunError(f"There is no suite '{where}': no folder of that name has a {SUITE}.")
    suite = Suite.open(folder)
    place = DeviceConfig(device=device, precision=precision, threads=threads)
    if not (data or split or settings or asked(place)):
        return summarize(suite)
    results: dict[Member, tuple[Scores, Mapping[str, Any]]] = {}
    options: dict[str, Any] = {"data": data, "settings": settings, "offline": offline, "listen": listen}
    options |= config.describe(place)
    for member in suite.members:
        run = suite.finished(member)
        if run is None:
            continue
        listen(Note(message=f"{member.task}, seed {member.seed}"))
        splits = [split] if split or data is not None else list(run.scores()["splits"])
        found = [evaluate(run.folder, split=name, **options) for name in splits]
        scores = {one.split: one.scores for one in found}
        whole = found[0].to_json() | {"seed": member.seed, "scores": scores, "baselines": _merged(found)}
        results[member] = (scores, whole)
    return _summary(suite, results)


def _merged(found: Sequence[Evaluated]) -> Beside:
    """Return the baselines that stand beside several splits of one run."""
    merged: Beside = {}
    for one in found:
        for name, scores in one.baselines.items():
            merged.setdefault(name, {}).update(scores)
    return merged
