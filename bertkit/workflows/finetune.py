"""``bertkit finetune``: from a task and an encoder to a run folder with a model in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bertkit import config, processes
from bertkit.config import DeviceConfig
from bertkit.data import sources
from bertkit.data.sources import Data
from bertkit.errors import ConfigError, ModelError, RunError, looked_for
from bertkit.events import Listener, Note, ignore
from bertkit.run import LOCK, Run
from bertkit.run import find as find_run
from bertkit.task import DEFAULT_ENCODER, Task
from bertkit.workflows import locks
from bertkit.workflows.preparation import (
    Settings,
    prepare,
    tables,
    task_of,
)
from bertkit.workflows.training import Finetuned, Request, Training, as_json, follow, plainly

COMMAND = "finetune"


def finetune(
    task: str | Path | Task | Any = None,
    *,
    encoder: str | Path = "",
    revision: str = "",
    data: Data | None = None,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    seed: int | None = None,
    limit: int = 0,
    resume: str | Path | None = None,
    start_from: str | Path | None = None,
    scored: Sequence[str] = (),
    settings: Settings | None = None,
    device: str = "auto",
    precision: config.Precision = "auto",
    threads: int = 0,
    offline: bool = False,
    listen: Listener = ignore,
    should_stop: Callable[[], bool] = lambda: False,
) -> Finetuned:
    """Fine-tune an encoder on a task and keep everything in a run folder.

    Args:
        task: a task's name, a task file, a data file, a :class:`Task`, or the training rows themselves (a
            ``datasets.Dataset``, a list of dicts, a pandas ``DataFrame``). Left out with ``resume``.
        encoder: a Hub name, a folder or an installed encoder; else the task's, else bert-base-uncased.
        revision: branch, tag or commit of a Hub encoder.
        data: a folder in the GLUE layout, a file, rows, or rows by split, in place of the task's own source.
        out: the run folder; else a new one below ``runs``.
        runs: where run folders are made.
        seed: of the head's weights, dropout and data order; 42 where not given.
        limit: train on so many examples, after a seeded shuffle; 0 is all.
        resume: a run to go on with, from its newest whole checkpoint.
        start_from: a finished run, whose trained body is taken for the encoder's; the head is new. The task's
            ``init_from`` names one, too.
        scored: labelled splits to score at the end; all where empty.
        settings: what ``--set`` gives: ``{"train.epochs": 2}``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``.
        threads: CPU threads; 0 leaves torch's choice.
        offline: ask no network.
        listen: is given every event.
        should_stop: asked after each step; where true, the state is saved and training ends.

    Returns:
        Scores and figures; ``status`` says whether training finished.

    Raises:
        BertkitError: one of its kinds, for whatever is wrong; before the first step it leaves no folder behind.
    """
    began = time.perf_counter()
    where = DeviceConfig(device=device, precision=precision, threads=threads)
    run: Run | None
    check_seed(seed)
    processes.join(device)
    if not processes.is_main():
        rows = data if task is None or isinstance(task, str | Path | Task) else task
        return follow(rows if data is None else data, should_stop, began)
    if resume is not None:
        run = find_run(resume, Path(runs))
        refuse_command(run, COMMAND)
        refuse_with_resume(
            run,
            settings=settings,
            out=out,
            task=task,
            encoder=folder_or_name(str(encoder)),
            revision=revision,
            seed=seed,
            limit=limit,
            scored=list(scored),
            start_from=None if start_from is None else str(Path(start_from).resolve()),
            **asked(where),
        )
        if run.status == "finished" and data is None:
            return processes.share(already(run, listen))
        request = Request.of_run(run, data=data, offline=offline)
    else:
        refuse_sections(settings, "distill")
        request = request_of(
            task,
            encoder=encoder,
            revision=revision,
            data=data,
            seed=seed,
            limit=limit,
            start_from=start_from,
            scored=scored,
            settings=settings,
            device=where,
            offline=offline,
            runs=Path(runs),
            listen=listen,
        )
        run = existing(Path(out), COMMAND) if out else None
    if run is not None and run.status == "finished":
        refuse_other(run, request, offline=offline)
        return processes.share(already(run, listen))
    return Training(request, listen, should_stop, began).run(run, Path(runs), Path(out) if out else None)


def check_seed(seed: int | None) -> None:
    """Refuse a seed that no generator takes.

    Raises:
        ConfigError: if it is negative or has more than 63 bits.
    """
    if seed is not None and not 0 <= seed < 2**63:
        raise ConfigError(f"seed is {seed}, and must be a whole number from 0 to 2**63 - 1.")


def request_of(
    task: str | Path | Task | Any,
    *,
    encoder: str | Path,
    revision: str,
    data: Data | None,
    seed: int | None,
    limit: int,
    start_from: str | Path | None,
    scored: Sequence[str],
    settings: Settings | None,
    device: DeviceConfig,
    offline: bool,
    runs: Path,
    listen: Listener,
) -> Request:
    """Return what :func:`finetune` was asked for, fully resolved.

    Raises:
        ConfigError, TaskError: if no task is named, or there is none of the name.
    """
    if task is None and (data is None or isinstance(data, str | Path)):
        raise ConfigError("finetune needs a task: a name ('bertkit tasks' lists them), a task file or a data file.")
    found, rows = task_of(data if task is None else task, settings)
    given = folder_or_name(str(encoder))
    start = start_of(start_from or found.init_from, runs, given, found)
    chosen = str(start.record["encoder"]) if start else encoder_name(given, found, listen)
    return Request(
        task=found,
        encoder=chosen,
        revision=revision,
        data=rows if data is None else data,
        seed=42 if seed is None else seed,
        limit=limit,
        device=device,
        offline=offline,
        start_from=str(start.folder.resolve()) if start else "",
        scored=tuple(scored),
    )


def encoder_name(given: str, task: Task, listen: Listener) -> str:
    """Return the encoder to start from, and say so where the user did not."""
    if given:
        return given
    name = task.encoder or DEFAULT_ENCODER
    said = "as the task says" if task.encoder else "the default"
    listen(Note(message=f"encoder {name}, {said} (--encoder names another)"))
    return name


def start_of(name: str | Path, runs: Path, encoder: str, task: Task) -> Run | None:
    """Return the run whose body training starts from, where one is named.

    Raises:
        ConfigError: if there is no such run, or it was trained from another encoder.
        RunError: if it did not finish.
    """
    if not name:
        return None
    try:
        run = find_run(name, runs)
    except RunError as error:
        raise ConfigError(
            f"{task.name} starts from '{name}' (init_from), which is no run. In a suite it may be another of its "
            f"tasks: 'bertkit finetune {name},{task.name}'."
        ) from error
    if encoder and encoder != run.record["encoder"]:
        raise ConfigError(
            f"{task.name} starts from {run.folder}, which was trained from the encoder {run.record['encoder']}, and "
            f"--encoder is {encoder}. Drop one of the two."
        )
    return run


def folder_or_name(given: str) -> str:
    """Return an encoder's folder, or its file, as an absolute path, and any other name as it is."""
    folder = looked_for(given, ModelError, "The encoder")
    return str(folder.resolve()) if given and (folder.is_dir() or folder.is_file()) else given


def asked(where: DeviceConfig) -> dict[str, Any]:
    """Return what was asked of the device beyond the defaults, which ask for nothing."""
    default = config.describe(DeviceConfig())
    return {name: value for name, value in config.describe(where).items() if value != default[name]}


def existing(out: Path, command: str) -> Run | None:
    """Return the run in a folder, where there is one.

    Raises:
        RunError: if another command made it.
    """
    looked_for(out, RunError, "--out")
    run = Run.open(out) if (out / "run.json").is_file() else None
    if run is not None:
        refuse_command(run, command)
    return run


def refuse_sections(settings: Settings | None, *others: str) -> None:
    """Refuse settings that another command reads, and this one would ignore.

    Raises:
        ConfigError: naming the first.
    """
    given = tables(settings or {})
    for section in others:
        if found := given.get(section):
            raise ConfigError(
                f"--set {section}.{next(iter(found))} changes nothing about finetune: 'bertkit {section}' reads it."
            )


def refuse_command(run: Run, own: str) -> None:
    """Refuse to go on with a run that another command made.

    Raises:
        RunError: naming the command that does.
    """
    if run.command != own:
        raise RunError(
            f"{run.folder} was made by 'bertkit {run.command}': 'bertkit {run.command} --resume {run.folder}' goes on "
            "with it."
        )


def refuse_with_resume(run: Run, **given: Any) -> None:
    """A resumed run is what it was; say which of the arguments asks for something else."""
    stored = {**run.record["request"], **run.record["request"]["device"]}
    if given.pop("settings"):
        raise RunError(f"--resume {run.folder} goes on with its own settings. Drop --set, or start a new run.")
    out = given.pop("out")
    if out is not None and Path(out).resolve() != run.folder.resolve():
        raise RunError(f"--resume {run.folder} goes on in its own folder. Drop --out, or start a new run.")
    for name, value in given.items():
        if value not in (None, "", 0, []) and value != stored.get(name):
            raise RunError(
                f"{run.folder} was trained with {name} {stored.get(name)}; --resume got {name} {value}. "
                f"Drop it, or start a new run."
            )


def refuse_other(run: Run, request: Request, *, offline: bool) -> None:
    """Refuse a finished run that was made from another request, or from other Python rows.

    Raises:
        RunError: naming the first difference.
    """
    difference = config.first_difference(as_json(request.to_json()), run.record["request"])
    if not difference and run.record["request"]["data"] == "python rows":
        prepared = prepare(
            request.task, data=request.data, offline=offline, limit=request.limit, seed=request.seed, listen=ignore
        )
        same = sources.fingerprint(prepared.dataset) == run.record["data_hash"]
        difference = None if same else "data_hash"
    if difference:
        raise RunError(f"{run.folder} is finished, and {plainly(difference)}. Name another --out, or start a new run.")


def already(run: Run, listen: Listener = ignore) -> Finetuned:
    """Give back a finished run, and clear away what a kill in its last moment left."""
    if (run.folder / LOCK).exists():
        with suppress(RunError), locks.run_folder(run.folder):
            run.tidy()
            run.keep_checkpoints(run.record["config"]["train"]["keep_checkpoints"])
    listen(Note(message=f"{run.folder} is finished already; nothing to do"))
    scores = run.scores()
    record = run.record
    return Finetuned(
        run=run.folder,
        task=record["task"],
        encoder=record["encoder"],
        status="finished",
        scores=scores["splits"],
        baselines=record.get("baselines", {}),
        warnings=record.get("warnings", []),
        best_step=scores["best_step"],
        steps=scores["last_step"],
        seconds=record.get("seconds", 0.0),
        examples_per_second=record.get("examples_per_second", 0.0),
        tokens_per_second=record.get("tokens_per_second", 0.0),
        already=True,
    )
