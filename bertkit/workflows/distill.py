"""``bertkit distill``: a small student learns a task from a trained teacher."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertkit import card, config, distillation, encoder, infer, processes
from bertkit.config import DeviceConfig
from bertkit.data.sources import Data
from bertkit.errors import ConfigError
from bertkit.events import Listener, Note, Phase, ignore
from bertkit.run import BESIDE, Run
from bertkit.run import find as find_run
from bertkit.task import Task
from bertkit.workflows import finetune as tuning
from bertkit.workflows.distilling import COMMAND, CUT, Distilling, follow, layers_of, teacher_of
from bertkit.workflows.preparation import Settings, task_of
from bertkit.workflows.saved import Opened, Saved
from bertkit.workflows.training import Finetuned, Request

if TYPE_CHECKING:
    from bertkit.adapters.base import Example

ALONE = {"alpha": 0.0, "hidden": 0.0, "attention": 0.0, "general_epochs": 0, "augment": 0}
"""Settings of ``[distill]`` under which a teacher has no say: what is left is fine-tuning."""
TIMED_ROWS = 1000
"""Rows that each model predicts for its speed."""
ROUNDS = 3
"""Times that it does so, the models in turn; the median counts."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A line of the comparison."""

    name: str
    """``teacher``, ``distilled`` or ``alone``."""
    model: str
    """Run folder, model folder or Hub name."""
    encoder: str
    layers: int
    parameters: int
    megabytes: float
    """Of its weights on the disk."""
    examples_per_second: float
    """By predict, all models in turn on the same rows, on this machine: to be compared with the other lines only."""
    scores: dict[str, dict[str, Any]]
    """split -> metric -> value, intervals beside."""


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """What a distillation came to."""

    student: Finetuned
    contenders: tuple[Contender, ...] = ()
    """Teacher and student, and the student fine-tuned alone where it was asked for; none where it was interrupted."""
    metric: str = ""
    """The task's first."""
    interrupted: Path | None = None
    """The run that was stopped, where one was."""

    @property
    def run(self) -> Path:
        """Return the student's run folder."""
        return self.student.run

    def kept(self, name: str = "distilled") -> float:
        """Return the share of the teacher's score on validation that a student keeps."""
        found = {line.name: line.scores["validation"][self.metric] for line in self.contenders}
        return float(found[name] / found["teacher"]) if found["teacher"] else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {**self.student.to_json(), "metric": self.metric, "comparison": [asdict(c) for c in self.contenders]}


def distill(
    task: str | Path | Task | Any = None,
    *,
    teacher: str | Path = "",
    encoder: str | Path = "",
    student_layers: int = 0,
    compare: bool = False,
    revision: str = "",
    data: Data | None = None,
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
) -> Distilled:
    """Train a student by a teacher's answers, and compare the two.

    Args:
        task: as for :func:`bertkit.finetune`; left out with ``resume``.
        teacher: a finished run of the task, the folder of its model, or a Hub name.
        encoder: the student: a Hub name, a folder, an installed encoder, or layers of the teacher, from 0
            (``teacher:0,5``).
        student_layers: in its place: so many layers of the teacher, in even steps.
        compare: whether the student is fine-tuned without the teacher as well, from the same weights.
        revision, data, out, runs, seed, limit, settings, offline, listen, should_stop: as for :func:`bertkit.finetune`.
        device, precision, threads: as for :func:`bertkit.finetune`.
        resume: a distillation to go on with.

    Returns:
        The student's training, and the comparison.

    Raises:
        BertkitError: one of its kinds, for whatever is wrong; before the first step it leaves no folder behind.
    """
    began = time.perf_counter()
    where = DeviceConfig(device=device, precision=precision, threads=threads)
    tuning.check_seed(seed)
    processes.join(device)
    if not processes.is_main():
        rows = data if task is None or isinstance(task, str | Path | Task) else task
        return _followed(rows if data is None else data, should_stop, began, compare=compare)
    asked: dict[str, Any] = {"revision": revision, "seed": seed, "limit": limit}
    if resume is not None:
        run: Run | None = find_run(resume, Path(runs))
        assert run is not None
        tuning.refuse_command(run, COMMAND)
        student = tuning.folder_or_name(str(encoder))
        if student_layers and student_layers != len(layers_of(run.record["request"]["encoder"])):
            student = f"of {student_layers} layers"
        given: dict[str, Any] = {
            "task": task,
            "encoder": student,
            "teacher": _teacher_name(teacher, Path(runs)) if str(teacher) else "",
            "scored": [],
            "start_from": None,
        }
        tuning.refuse_with_resume(run, settings=settings, out=out, **given, **asked, **tuning.asked(where))
        request = Request.of_run(run, data=data, offline=offline)
    else:
        found, rows = _task(task, data, settings)
        teacher_name = _teacher_name(teacher, Path(runs))
        request = tuning.request_of(
            found,
            encoder=_student(str(encoder), student_layers, teacher_name, found, offline=offline),
            data=rows,
            start_from=None,
            scored=(),
            settings=None,
            device=where,
            offline=offline,
            runs=Path(runs),
            listen=listen,
            **asked,
        )
        request = replace(request, teacher=teacher_name)
        layers_of(request.encoder)
        run = tuning.existing(Path(out), COMMAND) if out else None
    given_out = Path(out) if out else None
    student_result = _trained(request, run, Path(runs), given_out, listen, should_stop, began)
    if student_result.status == "interrupted":
        return Distilled(student=student_result, interrupted=student_result.run)
    return _finished(request, student_result, Path(runs), listen, should_stop, compare=compare)


def _followed(data: Data | None, should_stop: Callable[[], bool], began: float, *, compare: bool) -> Distilled:
    """Be one of the other processes, which have no part in the comparison but the training of what is compared."""
    student = follow(data, should_stop, began)
    if compare and student.status != "interrupted":
        follow(data, should_stop, began)
    return Distilled(student=student)


def _task(task: Any, data: Data | None, settings: Settings | None) -> tuple[Task, Data | None]:
    """Return the task, and the data where it is given.

    Raises:
        ConfigError: if no task is named.
    """
    if task is None and (data is None or isinstance(data, str | Path)):
        raise ConfigError("distill needs a task: a name ('bertkit tasks' lists them), a task file or a data file.")
    found, rows = task_of(data if task is None else task, settings)
    # What a student starts from is said by --encoder, never by another run of the task.
    return replace(found, init_from=""), rows if data is None else data


def _teacher_name(teacher: str | Path, runs: Path) -> str:
    """Return a run's or a folder's absolute path, and a Hub name as it is.

    Raises:
        ConfigError: if none is given.
        RunError: if there is no such run.
    """
    if not str(teacher):
        raise ConfigError("distill needs a teacher: --teacher RUN names a finished run of the task.")
    folder = Path(teacher).expanduser()
    if any((folder / file).is_file() for file in ("run.json", "config.json")):
        return str(folder.resolve())
    if "/" in str(teacher) and not (runs / str(teacher)).is_dir() and not folder.parent.is_dir():
        return str(teacher)
    return str(find_run(teacher, runs).folder.resolve())


def _student(given: str, layers: int, teacher: str, task: Task, *, offline: bool) -> str:
    """Return the name of the student.

    Raises:
        ConfigError: if none is given, or two are.
    """
    if bool(given) == bool(layers):
        raise ConfigError(
            "distill needs one student: --student-layers 2 takes layers of the teacher, in even steps (--encoder "
            "teacher:0,5 names them), and --encoder NAME another encoder."
        )
    if given:
        return given
    folder = teacher_of(teacher, task, offline=offline).source.folder
    chosen = distillation.spread(layers, encoder.num_layers(folder))
    return f"{CUT}{','.join(map(str, chosen))}"


def _trained(
    request: Request,
    run: Run | None,
    runs: Path,
    out: Path | None,
    listen: Listener,
    should_stop: Callable[[], bool],
    began: float,
) -> Finetuned:
    """Train, or give back what was trained before."""
    if run is not None and run.status == "finished":
        tuning.refuse_other(run, request, offline=request.offline)
        return processes.share(tuning.already(run, listen))
    return Distilling(request, listen, should_stop, began).run(run, runs, out)


def _finished(
    request: Request,
    student: Finetuned,
    runs: Path,
    listen: Listener,
    should_stop: Callable[[], bool],
    *,
    compare: bool,
) -> Distilled:
    """Fine-tune the student alone where that is asked for, and compare."""
    models = {"teacher": request.teacher, "distilled": str(student.run)}
    if compare:
        listen(Note(message="the student once more, from the same weights, without the teacher"))
        out = student.run.with_name(f"{student.run.name}-alone")
        settings = dict(request.task.settings)
        settings["distill"] = settings.get("distill", {}) | ALONE
        alone = _trained(
            replace(request, task=replace(request.task, settings=settings)),
            tuning.existing(out, COMMAND),
            runs,
            out,
            listen,
            should_stop,
            time.perf_counter(),
        )
        if alone.status == "interrupted":
            return Distilled(student=student, interrupted=student.run)
        models["alone"] = str(alone.run)
        Run.open(alone.run).update(**{BESIDE: student.run.name})
    run = Run.open(student.run)
    metric = str(run.record["resolved_task"]["metrics"][0])
    lines = _stored(run, models) or compared(run, models, request, listen)
    return Distilled(student=student, contenders=tuple(lines), metric=metric)


def _stored(run: Run, models: dict[str, str]) -> list[Contender]:
    """Return the comparison that a run holds already, if it is of these models."""
    lines = [Contender(**line) for line in run.record.get("comparison", [])]
    return lines if {line.name: line.model for line in lines} == models else []


def compared(run: Run, models: dict[str, str], request: Request, listen: Listener) -> list[Contender]:
    """Compare models on the rows that the student was scored on, and keep it in its ``run.json`` and card.

    Args:
        run: the student's.
        models: name of a line -> run, folder or Hub name.
        request: what the student was made from.
        listen: is told of what goes on.
    """
    listen(Phase(name="comparing the models"))
    scores = run.scores()
    rows = {name: _rows(run, name) for name in scores["splits"]}
    found = {name: _found(model, run, request) for name, model in models.items()}
    opened = {name: model.open(request.device) for name, model in found.items()}
    speeds = _speeds(found, opened, rows["validation"][:TIMED_ROWS])
    lines = []
    for name, model in found.items():
        own = Run.open(Path(models[name])).scores()["splits"] if name != "teacher" else None
        size = sum(file.stat().st_size for file in model.source.folder.glob("*.safetensors"))
        body = opened[name].loaded.model
        lines.append(
            Contender(
                name=name,
                model=models[name],
                encoder=str(model.run.record["encoder"]) if model.run else model.source.name,
                layers=int(getattr(body.config, "num_hidden_layers", 0)),
                parameters=sum(weights.numel() for weights in body.parameters()),
                megabytes=round(size / 1e6, 2),
                examples_per_second=round(speeds[name], 1),
                scores=own or {split: _scored(model, opened[name], each, run) for split, each in rows.items()},
            )
        )
    run.update(comparison=[asdict(line) for line in lines])
    run.write_text("README.md", card.render(run.record, scores["splits"], best_step=scores["best_step"]))
    return lines


def _found(name: str, run: Run, request: Request) -> Saved:
    """Return a model that reads the rows of the student's run."""
    from bertkit.task import from_table

    task = from_table(run.record["resolved_task"], name=run.record["task"], where=f"{run.folder}/run.json")
    found = teacher_of(name, task, offline=request.offline)
    own = replace(task, labels=tuple(found.adapter.labels))
    adapter = type(found.adapter)(own, found.adapter.config, found.adapter.labels)
    adapter.from_state(found.adapter.state())
    return replace(found, task=own, adapter=adapter)


def _rows(run: Run, split: str) -> list[Example]:
    """Return the rows of a scored split, which stand beside their predictions."""
    column = run.record["config"]["predict"]["column"]
    text = (run.folder / "predictions" / f"{split}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    return [{key: value for key, value in row.items() if key != column} for row in rows]


def _scored(model: Saved, opened: Opened, rows: Sequence[Example], run: Run) -> dict[str, Any]:
    predictions = _predict(model, opened, rows)
    return model.adapter.score(predictions, rows, resamples=run.record["config"]["eval"]["resamples"])


def _predict(model: Saved, opened: Opened, rows: Sequence[Example]) -> list[dict[str, Any]]:
    about: dict[str, Any] = {"accelerator": opened.accelerator, "batch_tokens": model.eval.batch_tokens}
    return infer.predict(model.adapter, opened.model, opened.loaded.tokenizer, rows, **about)


def _speeds(found: dict[str, Saved], opened: dict[str, Opened], rows: Sequence[Example]) -> dict[str, float]:
    """Return the rows a second that each model predicts, tokenisation included."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(ROUNDS + 1):
        for name, model in found.items():
            began = time.perf_counter()
            _predict(model, opened[name], rows)
            seconds[name].append(time.perf_counter() - began)
    # The first round warms up.
    return {name: len(rows) / statistics.median(each[1:]) for name, each in seconds.items()}
