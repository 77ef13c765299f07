"""``bertkit runs``."""

from typing import Annotated

import typer

from bertkit.cli import console, options

app = typer.Typer(no_args_is_help=True, help="List and show runs.", rich_markup_mode=None)


@app.command("ls")
def ls(runs: options.Runs = options.RUNS, json: options.Json = False) -> None:
    """List the runs, oldest first."""
    from dataclasses import asdict

    from bertkit.workflows import runs as workflow

    found = workflow.ls(runs)
    if json:
        console.emit_json([asdict(line) for line in found])
        return
    if not found:
        console.say(f"there are no runs below {runs}; 'bertkit finetune demo/reviews' makes one")
        return
    rows = [
        (r.run, r.status, r.seed, r.metric, "" if r.score is None else f"{r.score:.4f}", r.created[:16]) for r in found
    ]
    console.table("", ("run", "status", "seed", "metric", "validation", "created"), rows)


@app.command("show")
def show(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run; the newest finished one by default.")] = None,
    runs: options.Runs = options.RUNS,
    json: options.Json = False,
) -> None:
    """Show what a run knows: task, encoder, settings, scores, evaluations."""
    from bertkit.workflows import runs as workflow

    found = workflow.show(run, runs=runs)
    if json:
        console.emit_json(found)
        return
    facts = ("run", "status", "task", "encoder", "encoder_revision", "seed", "created", "seconds", "data_hash", "error")
    console.table("", ("fact", "value"), [(name, found[name]) for name in facts if found.get(name) not in (None, "")])
    console.table("", ("setting", "value"), [(f"train.{k}", v) for k, v in found["config"]["train"].items()])
    console.score_table("scores", found["scores"].get("splits", {}))
    for evaluation in found["evaluations"]:
        title = f"evaluated on {evaluation['source']}, {evaluation['num_examples']} examples"
        console.score_table(title, {evaluation["split"]: evaluation["scores"]})
