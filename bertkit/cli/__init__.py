"""The command line: parse, call the workflow, render. One file a command."""

import sys
from typing import Annotated

import typer

from bertkit import __version__
from bertkit.cli import baseline, check, doctor, finetune, predict, runs, sweep, tasks
from bertkit.cli import eval as evaluate
from bertkit.errors import BertkitError

app = typer.Typer(
    name="bertkit",
    help="Fine-tune BERT-style encoders: from a task file to a model that opens in plain transformers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("finetune")(finetune.command)
app.command("eval")(evaluate.command)
app.command("predict")(predict.command)
app.command("check")(check.command)
app.command("baseline")(baseline.command)
app.command("sweep")(sweep.command)
app.add_typer(tasks.app, name="tasks")
app.add_typer(runs.app, name="runs")
app.command("doctor")(doctor.command)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"bertkit {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune BERT-style encoders: from a task file to a model that opens in plain transformers."""


def main() -> None:
    """Run the command line; a bertkit error is one line on stderr and exit code 1."""
    from bertkit.cli import console

    console.stand_in()
    console.quiet_libraries()
    try:
        app()
    except BertkitError as error:
        console.error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        console.flush()
