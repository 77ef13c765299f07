"""The command line: parse, call the workflow, render. One file a command."""

import os
import sys
from collections import namedtuple
from typing import Annotated, NoReturn

import typer

from bertkit import __version__, processes
from bertkit.cli import baseline, check, distill, doctor, embed, finetune, predict, pretrain, runs, sweep, tasks
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
app.command("embed")(embed.command)
app.command("pretrain")(pretrain.command)
app.command("check")(check.command)
app.command("baseline")(baseline.command)
app.command("distill")(distill.command)
app.command("sweep")(sweep.command)
app.add_typer(tasks.app, name="tasks")
app.add_typer(runs.app, name="runs")
app.command("doctor")(doctor.command)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"bertkit {__version__}")
        raise typer.Exit


SEVERAL = ("finetune", "pretrain", "eval", "predict", "distill")
"""Commands that several processes can share."""


@app.callback()
def top(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune BERT-style encoders: from a task file to a model that opens in plain transformers."""
    if context.invoked_subcommand not in SEVERAL:
        processes.refuse(f"'{context.invoked_subcommand}'", "Start it without a launcher.")


def _interrupted(end: BaseException) -> bool:
    """Say whether an end is Ctrl-C, or an exit that Typer made of it."""
    before: BaseException | None = end
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return before is not None


def _status(end: BaseException) -> int:
    """Return the exit status of an end that is no interrupt."""
    code = end.code if isinstance(end, SystemExit) else 1
    return code if isinstance(code, int) else int(code is not None)


def main() -> None:
    """Run the command line; a bertkit error is one line on stderr and exit code 1."""
    from bertkit.cli import console, voice

    console.stand_in()
    console.quiet_libraries()
    try:
        voice.hush()
        try:
            app()
        finally:
            console.flush()
    except (SystemExit, KeyboardInterrupt) as end:
        several, interrupted = processes.size() > 1, _interrupted(end)
        # None ends before all are done, as a launcher would end the others; but for an interrupt: another may wait for
        # this one where none reaches it, and is let go when this one is gone.
        if not interrupted:
            processes.leave()
        _end(130 if interrupted else _status(end), several=several)
    except Exception as error:
        several = processes.size() > 1
        if not isinstance(error, BertkitError) and not several:
            raise
        voice.tell(error)
        _end(1, several=several)


def _end(status: int, *, several: bool) -> NoReturn:
    """End the process; one of several without its interpreter's end, which may abort what C++ threads are still at."""
    if several:
        sys.stderr.flush()
        os._exit(status)
    # Where Ctrl-C came while a string was executed (dataclasses are made so, at import), 'python -m' kills itself by
    # the signal at its end, although it was caught. The next string lets it forget; a named tuple is made of one.
    namedtuple("Forgotten", "")
    sys.exit(status)
