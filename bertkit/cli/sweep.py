"""``bertkit sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bertkit.cli import console, interrupt, options

if TYPE_CHECKING:
    from bertkit.workflows.sweep.table import Swept


def command(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK|FILE", help="A task's name or file, or a data file.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid", metavar="KEY=A,B,C", help="Values to try; may be repeated.  [default: the BERT paper's]"
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", metavar="N", min=0, help="Draw N settings, also from KEY=LOW..HIGH; 0 tries all.")
    ] = 0,
    prune: Annotated[bool, typer.Option("--prune", help="End trials that are under the median of the others.")] = False,
    storage: Annotated[
        str, typer.Option("--storage", metavar="URL", help="A database that several machines share.  [default: a file]")
    ] = "",
    encoder: options.Encoder = "",
    revision: options.Revision = "",
    data: options.Data = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The sweep's folder; else the unfinished or a new one.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of every trial, and of the draw.  [default: 42]")
    ] = None,
    limit: options.Limit = 0,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="SWEEP", help="Go on with an unfinished one.")
    ] = None,
    set_: options.Set = None,
    json: options.Json = False,
    offline: options.Offline = False,
    runs: options.Runs = options.RUNS,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = 0,
) -> None:
    """Train a task with many settings, and name the best by validation score; the same command goes on."""
    if (task is None) == (resume is None):
        raise typer.BadParameter("give a TASK (a name, a task file or a data file) or --resume SWEEP, one of the two.")
    given: dict[str, Any] = {
        "encoder": encoder,
        "revision": revision,
        "data": data,
        "out": out,
        "runs": runs,
        "seed": seed,
    }
    given |= {"limit": limit, "resume": resume, "settings": options.settings(set_), "device": device}
    given |= {"precision": precision, "threads": threads, "offline": offline}
    from bertkit.workflows.sweep.train import sweep

    with interrupt.handled() as stopping, console.listening() as listen:
        found = sweep(
            task, grid=grid, trials=trials, prune=prune, storage=storage, **given,
            listen=listen, should_stop=stopping,
        )  # fmt: skip
    if found.status == "interrupted":
        again = ["--storage", storage] if "@" in storage else []
        console.next_command("bertkit", "sweep", "--resume", found.sweep, *again)
        raise typer.Exit(stopping.exit_code)
    if json:
        console.emit_json(found.to_json())
    else:
        _show(found)


def _show(found: Swept) -> None:
    from bertkit.workflows.sweep.space import shown

    keys = list(dict.fromkeys(key for trial in found.trials for key in trial.settings))
    rows = [
        (
            trial.trial,
            *(shown(trial.settings.get(key, "")) for key in keys),
            "" if trial.score is None else f"{trial.score:.4f}",
            trial.state,
            "best" if trial == found.best else "",
        )
        for trial in found.ranked
    ]
    columns = ("trial", *(key.removeprefix("train.") for key in keys), found.metric, "", "")
    console.table(f"{found.sweep}, {found.task}, {found.encoder}", columns, rows)
    console.emit(found.verdict)
    if found.best is not None:
        console.emit(f"Its run: {found.best.run}")
        if found.unseen:
            console.next_command("bertkit", "eval", found.best.run, "--split", found.unseen[0])
