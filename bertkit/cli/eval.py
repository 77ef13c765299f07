"""``bertkit eval``."""

from typing import Annotated, Any

import typer

from bertkit.cli import console, launch, options


def command(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN|MODEL|SUITE", help="A run, a model folder, a Hub name or a suite.")
    ] = None,
    task: Annotated[str, typer.Option("--task", metavar="TASK", help="Another task than the run's own.")] = "",
    data: options.Data = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="The split to score.  [default: validation]")
    ] = "",
    labels: options.Labels = "",
    report: Annotated[
        str, typer.Option("--report", metavar="FILE|none", help="The HTML report.  [default: in the run's folder]")
    ] = "",
    set_: options.Set = None,
    json: options.Json = False,
    offline: options.Offline = False,
    runs: options.Runs = options.RUNS,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = 0,
    processes: options.Processes = "1",
) -> None:
    """Score a run, or any checkpoint, on a labelled split; the newest finished run by default.

    Of a suite, show the table of what its runs have stored; with other data or settings, evaluate each anew.
    """
    from bertkit.workflows.eval import evaluate
    from bertkit.workflows.suite import folder

    given: dict[str, Any] = {"data": data, "split": split, "runs": runs, "settings": options.settings(set_)}
    given |= {"device": device, "precision": precision, "threads": threads, "offline": offline}
    if folder.at(run, runs) is not None:
        if task or labels:
            raise typer.BadParameter(f"{run} is a suite: --task and --labels go with one run.")
        if processes != "1":
            raise typer.BadParameter(f"{run} is a suite, and --processes takes one run.")
        _suite(str(run), given | {"report": report}, json=json)
        return
    launch.spread(processes, device=device, threads=threads)

    with console.listening() as listen:
        result = evaluate(
            run,
            task=task or None,
            labels=options.names(labels),
            report=report,
            listen=listen,
            **given,
        )
    if json:
        console.emit_json(result.to_json())
    else:
        title = f"{result.run} on {result.num_examples} examples"
        console.score_table(title, {result.split: result.scores}, result.baselines)
        console.details(result.details)
        if result.report is not None:
            console.say(f"report: {result.report}")


def _suite(where: str, given: dict[str, Any], *, json: bool) -> None:
    """Show the table of a suite."""
    from bertkit.workflows.suite.evaluate import evaluate_suite

    with console.listening() as listen:
        found = evaluate_suite(where, **given, listen=listen)
    if json:
        console.emit_json(found.to_json())
    else:
        console.suite_table(found)
        if found.report is not None:
            console.say(f"report: {found.report}")
