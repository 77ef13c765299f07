"""``bertkit finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bertkit import processes as ranks
from bertkit.cli import console, interrupt, launch, options

if TYPE_CHECKING:
    from bertkit.workflows.training import Finetuned


def command(
    task: Annotated[
        str | None,
        typer.Argument(metavar="TASK|FILE|GROUP", help="A task's name or file, a data file, or several: glue, a,b."),
    ] = None,
    encoder: options.Encoder = "",
    revision: options.Revision = "",
    data: options.Data = None,
    out: options.RunFolder = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of head, dropout and order.  [default: 42]")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="N|LIST", help="Train with N seeds (5), or these (1,2,3).")
    ] = None,
    limit: options.Limit = 0,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN|SUITE", help="Go on with an unfinished one.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train nothing: say steps, tokens, time and memory.")
    ] = False,
    set_: options.Set = None,
    json: options.Json = False,
    offline: options.Offline = False,
    runs: options.Runs = options.RUNS,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = 0,
    processes: options.Processes = "1",
) -> None:
    """Fine-tune an encoder on a task and keep everything in a run folder."""
    if (task is None) == (resume is None):
        raise typer.BadParameter("give a TASK (a name, a task file or a data file) or --resume RUN, one of the two.")
    given: dict[str, Any] = {"encoder": encoder, "revision": revision, "data": data, "out": out, "runs": runs}
    given |= {"seed": seed, "limit": limit, "resume": resume, "settings": options.settings(set_)}
    given |= {"device": device, "precision": precision, "threads": threads, "offline": offline}
    from bertkit.workflows.suite import folder

    several = folder.is_asked(task, seeds=seeds, resume=resume, runs=runs)
    if processes != "1" and (several or dry_run):
        raise typer.BadParameter(
            "--processes takes one TASK, without --seeds and --dry-run. Of several runs each is one process's: start "
            "the command twice, and they share the runs."
        )
    if several or dry_run:
        ranks.refuse("this", "Start it without a launcher: one TASK is what several processes train.")
    launch.spread(processes, device=device, threads=threads)
    if dry_run:
        if several or resume is not None:
            raise typer.BadParameter("--dry-run takes one TASK, without --seeds and --resume.")
        _estimate(task, given, json=json)
    elif several:
        _several(task, given | {"seeds": seeds}, json=json)
    elif seeds is not None:
        raise typer.BadParameter(f"--resume {resume} is one run, so --seeds does not go with it.")
    else:
        _one(task, given, json=json)


def _one(task: str | None, given: dict[str, Any], *, json: bool) -> None:
    """Train one run, and show its scores."""
    from bertkit.workflows.finetune import finetune

    with interrupt.handled() as stopping, console.listening() as listen:
        result = finetune(task, **given, listen=listen, should_stop=stopping)
    if result.status == "interrupted":
        console.next_command("bertkit", "finetune", "--resume", result.run)
        raise typer.Exit(stopping.exit_code)
    if json:
        console.emit_json(result.to_json())
    else:
        _show(result, given["runs"])


def _estimate(task: str | None, given: dict[str, Any], *, json: bool) -> None:
    """Show what a training would take."""
    from bertkit.workflows.estimate import estimate

    del given["resume"]
    with console.listening() as listen:
        found = estimate(task, **given, listen=listen)
    if json:
        console.emit_json(found.to_json())
    else:
        console.table(f"{found.task}, {found.encoder}: nothing was trained", ("what", "estimate"), found.rows())


def _show(result: Finetuned, runs: Path) -> None:
    title = f"{result.task}, {result.encoder}, best step {result.best_step} of {result.steps}"
    console.score_table(title, result.scores, result.baselines)
    console.say(f"{result.run}: {result.seconds:.0f} s, {result.tokens_per_second:,.0f} tokens/s in training")
    # Without --run, predict looks for the newest run where runs are kept.
    where = [] if result.run.parent == runs else ["--run", result.run]
    console.next_command("bertkit", "predict", "file.jsonl", *where)


def _several(task: str | None, given: dict[str, Any], *, json: bool) -> None:
    """Train the runs of a suite, and show the table of all."""
    from bertkit.workflows.suite.train import finetune_suite

    with interrupt.handled() as stopping, console.listening() as listen:
        result = finetune_suite(task, **given, listen=listen, should_stop=stopping)
    if result.status == "interrupted":
        console.next_command("bertkit", "finetune", "--resume", result.suite)
        raise typer.Exit(stopping.exit_code)
    if json:
        console.emit_json(result.summary.to_json())
    else:
        console.suite_table(result.summary)
        console.next_command("bertkit", "eval", result.suite)
