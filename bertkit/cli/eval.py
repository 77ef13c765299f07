"""``bertkit eval``."""

from typing import Annotated

import typer

from bertkit.cli import console, options


def command(
    run: Annotated[str | None, typer.Argument(metavar="RUN|MODEL", help="A run, a model folder or a Hub name.")] = None,
    task: Annotated[str, typer.Option("--task", metavar="TASK", help="Another task than the run's own.")] = "",
    data: options.Data = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="The split to score.  [default: validation]")
    ] = "",
    labels: options.Labels = "",
    set_: options.Set = None,
    json: options.Json = False,
    offline: options.Offline = False,
    runs: options.Runs = options.RUNS,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = 0,
) -> None:
    """Score a run, or any checkpoint, on a labelled split; the newest finished run by default."""
    from bertkit.workflows.eval import evaluate

    shown = console.Console()
    try:
        result = evaluate(
            run,
            task=task or None,
            data=data,
            split=split,
            labels=options.names(labels),
            runs=runs,
            settings=options.settings(set_),
            device=device,
            precision=precision,
            threads=threads,
            offline=offline,
            listen=shown.show,
        )
    finally:
        shown.close()
    if json:
        console.emit_json(result.to_json())
    else:
        console.score_table(f"{result.run} on {result.num_examples} examples", {result.split: result.scores})
        console.details(result.details)
