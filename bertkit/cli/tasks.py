"""``bertkit tasks``."""

from pathlib import Path
from typing import Annotated

import typer

from bertkit.cli import console, options

app = typer.Typer(invoke_without_command=True, help="List, show and write tasks.", rich_markup_mode=None)


@app.callback()
def default(context: typer.Context) -> None:
    """List, show and write tasks; without a command, list them."""
    if context.invoked_subcommand is None:
        ls()


@app.command("ls")
def ls(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="A folder of tasks, such as glue.")] = "",
    json: options.Json = False,
) -> None:
    """List the shipped tasks."""
    from bertkit.workflows import tasks as workflow

    found = workflow.ls(group)
    if json:
        console.emit_json([{"task": task.name, **task.to_table()} for task in found])
        return
    console.table("", ("task", "type", "summary"), [(task.name, task.type, task.summary) for task in found])


@app.command("show")
def show(task: Annotated[str, typer.Argument(metavar="TASK|FILE", help="A task's name or file.")]) -> None:
    """Show a task, everything that it extends filled in."""
    from bertkit.workflows import tasks as workflow

    console.emit(workflow.show(task).rstrip())


@app.command("new")
def new(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data file to look at.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The task file to write.")] = None,
    set_: options.Set = None,
) -> None:
    """Write a commented task file for a data file, and say what was guessed."""
    from bertkit.workflows import tasks as workflow

    made = workflow.new(data, out=out, overrides=options.settings(set_))
    for note in made.notes:
        console.say(note)
    console.emit(str(made.path))
    console.next_command("bertkit", "finetune", made.path)
