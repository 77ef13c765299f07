"""``bertkit runs``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bertkit.cli import console, options

if TYPE_CHECKING:
    from bertkit.metrics.significance import Means
    from bertkit.workflows.compare import Compared

SHOWN = 5
"""Changed examples of each direction that are shown."""

SEED_COLUMNS = ("metric", "seeds of A", "mean A", "seeds of B", "mean B", "B - A", "95 % interval", "p", "significant")

app = typer.Typer(no_args_is_help=True, help="List, show, compare and verify runs.", rich_markup_mode=None)


@app.command("ls")
def ls(runs: options.Runs = options.RUNS, json: options.Json = False) -> None:
    """List the runs, also those in suites and sweeps, oldest first."""
    from dataclasses import asdict

    from bertkit.workflows import runs as workflow

    found = workflow.ls(runs)
    if json:
        console.emit_json([asdict(line) for line in found])
        return
    if not found:
        console.say(f"there are no runs below {runs}; 'bertkit finetune demo/reviews' makes one")
        return
    grouped = any(r.kept is not None for r in found)
    rows = [
        (
            *(r.run, r.status, r.seed, r.metric, "" if r.score is None else f"{r.score:.4f}", r.created[:16]),
            *(["kept" if r.kept else ""] if grouped else []),
        )
        for r in found
    ]
    console.table("", ("run", "status", "seed", "metric", "validation", "created", *([""] if grouped else [])), rows)


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
    console.score_table("scores", found["scores"].get("splits", {}), found.get("baselines"))
    for evaluation in found["evaluations"]:
        title = f"evaluated on {evaluation['source']}, {evaluation['num_examples']} examples"
        console.score_table(title, {evaluation["split"]: evaluation["scores"]}, evaluation.get("baselines"))


@app.command("compare")
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, by folder or name; or a suite of seeds.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another run.")],
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="The split to compare on.")] = "validation",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write every example that changed here, as JSON Lines."),
    ] = None,
    runs: options.Runs = options.RUNS,
    json: options.Json = False,
) -> None:
    """Compare two runs on the same examples: differences, whether they are significant, and what changed."""
    from bertkit.workflows.compare import compare as workflow

    found = workflow(a, b, split=split, runs=runs, out=out)
    for note in found.notes:
        console.say(f"note: {note}")
    if json:
        console.emit_json(found.to_json())
    else:
        _show(found)
    if out is not None:
        console.say(f"{len(found.changes)} changed examples are in {out}")


@app.command("verify")
def verify(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A run; the newest finished one by default.")] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Steps to take again.")] = 10,
    runs: options.Runs = options.RUNS,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Train the first steps of a run again, and say whether the losses are the same; exit 1 where they are not."""
    from bertkit.workflows.verify import verify as workflow

    with console.listening() as listen:
        found = workflow(run, runs=runs, steps=steps, offline=offline, listen=listen)
    if json:
        console.emit_json(found.to_json())
    else:
        rows = [(s.step, repr(s.loss), repr(s.loss_again), "yes" if s.same else "no") for s in found.steps]
        console.table("", ("step", "loss then", "loss now", "same"), rows)
        for difference in found.differences:
            console.say(f"note: {difference}")
        console.emit(found.verdict)
    if not found.same:
        raise typer.Exit(1)


def _show(found: Compared) -> None:
    from bertkit.metrics.significance import shown as p_value
    from bertkit.workflows.compare import described

    title = f"A = {found.a}, B = {found.b}, {found.num_examples} examples of {found.split}"
    rows = [
        (
            name,
            f"{one.a:.4f}",
            f"{one.b:.4f}",
            f"{one.difference:+.4f}",
            f"{one.interval[0]:+.4f} .. {one.interval[1]:+.4f}",
            p_value(one.p),
            one.test,
            "yes" if one.significant else "no",
        )
        for name, one in found.metrics.items()
    ]
    console.table(title, ("metric", "A", "B", "B - A", "95 % interval", "p", "test", "significant"), rows)
    if found.counts:
        console.table("", ("examples", "number"), [(k.replace("_", " "), n) for k, n in found.counts.items()])
    if found.seeds:
        console.table("over the seeds", SEED_COLUMNS, map(_seed_row, found.seeds.items()))
    for verdict in found.verdicts:
        console.emit(verdict)
    if first := found.first(SHOWN):
        title = f"{len(first)} of {len(found.changes)} examples that changed"
        console.table(title, ("row", "change", *found.columns, "A", "B"), [described(c, found.columns) for c in first])


def _seed_row(pair: tuple[str, Means]) -> tuple[str, ...]:
    from statistics import fmean

    from bertkit.metrics.significance import shown as p_value

    name, found = pair
    numbers = [cell for side in (found.a, found.b) for cell in (str(len(side)), f"{fmean(side):.4f}")]
    between = f"{found.interval[0]:+.4f} .. {found.interval[1]:+.4f}" if found.interval else ""
    p = "" if found.p is None else p_value(found.p)
    return name, *numbers, f"{found.difference:+.4f}", between, p, "yes" if found.significant else "no"
