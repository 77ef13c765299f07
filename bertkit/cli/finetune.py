"""``bertkit finetune``."""

from pathlib import Path
from typing import Annotated

import typer

from bertkit.cli import console, interrupt, options


def command(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK|FILE", help="A task's name or file, or a data file.")
    ] = None,
    encoder: options.Encoder = "",
    revision: Annotated[
        str, typer.Option("--revision", metavar="R", help="Branch, tag or commit of the encoder.")
    ] = "",
    data: options.Data = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run folder; else a new one.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of head, dropout and order.  [default: 42]")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="Train on N examples; 0 is all.")] = 0,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with an unfinished run.")
    ] = None,
    set_: options.Set = None,
    json: options.Json = False,
    offline: options.Offline = False,
    runs: options.Runs = options.RUNS,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = 0,
) -> None:
    """Fine-tune an encoder on a task and keep everything in a run folder."""
    if (task is None) == (resume is None):
        raise typer.BadParameter("give a TASK (a name, a task file or a data file) or --resume RUN, one of the two.")
    from bertkit.workflows.finetune import finetune

    shown = console.Console()
    with interrupt.handled() as stopping:
        try:
            result = finetune(
                task,
                encoder=encoder,
                revision=revision,
                data=data,
                out=out,
                runs=runs,
                seed=seed,
                limit=limit,
                resume=resume,
                settings=options.settings(set_),
                device=device,
                precision=precision,
                threads=threads,
                offline=offline,
                listen=shown.show,
                should_stop=stopping,
            )
        finally:
            shown.close()
    if result.status == "interrupted":
        console.next_command("bertkit", "finetune", "--resume", result.run)
        raise typer.Exit(stopping.exit_code)
    if json:
        console.emit_json(result.to_json())
        return
    console.score_table(
        f"{result.task}, {result.encoder}, best step {result.best_step} of {result.steps}", result.scores
    )
    console.say(f"{result.run}: {result.seconds:.0f} s, {result.tokens_per_second:,.0f} tokens/s in training")
    # Without --run, predict looks for the newest run where runs are kept.
    where = [] if result.run.parent == runs else ["--run", result.run]
    console.next_command("bertkit", "predict", "file.jsonl", *where)
