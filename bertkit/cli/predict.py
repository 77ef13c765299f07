"""``bertkit predict``."""

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from bertkit import config
from bertkit import processes as ranks
from bertkit.cli import console, launch, options
from bertkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from bertkit.workflows.merge import Merged
    from bertkit.workflows.predict import Predictions
    from bertkit.workflows.shards import Shard


def command(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help="JSONL, CSV, TSV, Parquet, CoNLL, SQuAD; - is stdin."),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN|MODEL|SUITE", help="The model.  [default: newest run]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write here instead of stdout; goes on after a kill."),
    ] = None,
    on_error: Annotated[
        config.OnError,
        typer.Option("--on-error", help="What a bad row does; skip writes it to FILE.rejects.jsonl."),
    ] = "stop",
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="Predict one text, without a file.")
    ] = None,
    format_: Annotated[
        str,
        typer.Option("--format", metavar="NAME", help="conll (tagging) or squad (span QA).  [default: JSON Lines]"),
    ] = "",
    shard: Annotated[
        str, typer.Option("--shard", metavar="K/N", help="Write the K-th of N parts of --out, counted from 1.")
    ] = "",
    merge: Annotated[bool, typer.Option("--merge", help="Put the parts of --out together; predicts nothing.")] = False,
    submission: Annotated[
        Path | None,
        typer.Option("--submission", metavar="ZIP", help="With INPUT glue and --run SUITE: GLUE's leaderboard files."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="With --submission: a GLUE folder of test splits.")
    ] = None,
    task: Annotated[
        str, typer.Option("--task", metavar="TASK", help="For a model bertkit did not save: its task.")
    ] = "",
    labels: options.Labels = "",
    set_: options.Set = None,
    json: options.Json = False,
    offline: options.Offline = False,
    runs: options.Runs = options.RUNS,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = 0,
    backend: options.Backend = "torch",
    processes: options.Processes = "1",
) -> None:
    """Write each row of INPUT as a line of JSON, with a prediction added; the newest finished run by default."""
    if merge:
        _merge(context, source, out, format_, json=json)
        return
    if (source is None) == (text is None):
        raise typer.BadParameter("give an INPUT file (- for standard input) or --text TEXT, one of the two.")
    if json and out is None and submission is None:
        raise typer.BadParameter(
            "--json counts what --out FILE holds; without --out the rows themselves are on stdout."
        )
    part = _shard(shard, out, text) if shard else None
    if submission is not None:
        alone: dict[str, Any] = {"--out": out, "--text": text, "--format": format_, "--task": task, "--labels": labels}
        alone |= {"--on-error": on_error != "stop", "--shard": shard, "--processes": processes != "1"}
        _refuse_beside_submission(source, run, [name for name, value in alone.items() if value])
    elif data is not None:
        raise typer.BadParameter("--data goes with --submission; the rows to predict are INPUT.")
    given: dict[str, Any] = {"runs": runs, "settings": options.settings(set_), "device": device, "threads": threads}
    given |= {"precision": precision, "backend": backend, "offline": offline}
    if submission is not None:
        ranks.refuse("--submission", "Start it without a launcher.")
        _submission(str(run), submission, given | {"data": data}, json=json)
        return
    launch.spread(processes, device=device, threads=threads)
    from bertkit.workflows.predict import predict_file

    with console.listening() as listen:
        lines = predict_file(
            Path(source) if source not in (None, "-") else None,
            out=out,
            stdin=stdin_of(source),
            text=text,
            format=format_,
            on_error=on_error,
            shard=part,
            run=run,
            task=task or None,
            labels=options.names(labels),
            listen=listen,
            **given,
        )
        with closing(lines):
            for line in lines:
                console.emit_row(line)
    if part is not None and out is not None:
        _tell_part(lines, part, out, json=json)
        return
    _tell(lines, out, json=json)


def _tell(found: "Predictions | Merged", out: Path | None, *, of: str = "", json: bool) -> None:
    """Say what an output holds, and where the rows are that were skipped."""
    from bertkit.workflows.partial import rejects_of

    beside = rejects_of(out) if out is not None and found.num_rejected else None
    if json:
        told = {"rejects": str(beside) if beside else None} if found.skip else {}
        console.emit_json({**found.to_json(), "out": str(out), **told})
    elif out is not None or found.skip:
        skipped = f"; {found.num_rejected} skipped{f', in {beside}' if beside else ''}" if found.skip else ""
        console.say(f"{out or 'stdout'}: {found.num_rows} rows{of}{skipped}")


def _shard(text: str, out: Path | None, one: str | None) -> "Shard":
    """Return which part of the output is to be written."""
    from bertkit.workflows.shards import parse

    try:
        found = parse(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    if one is not None:
        raise typer.BadParameter("--shard divides an INPUT, and --text is one row.")
    if out is None:
        raise typer.BadParameter(f"--shard {text} writes a part of an output: name it with --out FILE.")
    return found


def _tell_part(lines: "Predictions", part: "Shard", out: Path, *, json: bool) -> None:
    """Say what a part of the output holds."""
    from bertkit.workflows.shards import folder_of

    folder = folder_of(out, part)
    if json:
        console.emit_json({**lines.to_json(), "out": str(out), "shard": str(part), "part": str(folder)})
        return
    skipped = f"; {lines.num_rejected} skipped" if lines.skip else ""
    console.say(f"{folder}: {lines.num_rows} rows{skipped}")
    if part.of > 1:
        console.say(f"with all {part.of} parts beside it, 'bertkit predict --merge --out {out}' puts them together")


MERGING = ("merge", "source", "out", "format_", "json")
"""Parameters that go with --merge."""


def _merge(context: typer.Context, source: str | None, out: Path | None, kind: str, *, json: bool) -> None:
    """Put the parts of an output together."""
    ranks.refuse("--merge", "Start it without a launcher.")
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name))
        if parameter.name not in MERGING and given is not None and given.name == "COMMANDLINE":
            raise typer.BadParameter(f"{parameter.opts[0]} does not go with --merge: the parts say how they were made.")
    if out is None:
        raise typer.BadParameter("--merge wants the output whose parts it puts together: --out FILE.")
    if source == "-":
        raise typer.BadParameter("with --merge, INPUT is a file to hold the parts against, and - is none.")
    from bertkit.workflows.merge import merge

    with console.listening() as listen:
        found = merge(out, source=Path(source) if source else None, format=kind, listen=listen)
    _tell(found, out, of=f" of {found.num_shards} parts", json=json)


def stdin_of(source: str | None) -> BinaryIO | None:
    """Return standard input, where it is what is read.

    Raises:
        DataError: if there is none (``<&-``).
    """
    if source != "-":
        return None
    if sys.stdin is None:
        raise DataError("standard input is closed. Name a file, or send rows to it.")
    return sys.stdin.buffer


def _refuse_beside_submission(source: str | None, run: str | None, others: list[str]) -> None:
    """Refuse what does not go with --submission, or lacks what does."""
    if source != "glue" or run is None:
        raise typer.BadParameter("--submission wants: bertkit predict glue --run SUITE --submission out.zip")
    if others:
        raise typer.BadParameter(f"{others[0]} does not go with --submission.")


def _submission(run: str, out: Path, given: dict[str, Any], *, json: bool) -> None:
    """Write GLUE's leaderboard files."""
    from bertkit.workflows.submission import write_submission

    with console.listening() as listen:
        made = write_submission(run, out, **given, listen=listen)
    if json:
        console.emit_json(made.to_json())
        return
    rows = [(name, number, made.runs[name]) for name, number in made.files.items()]
    console.table(f"{made.out}, complete", ("file", "rows", "run"), rows)
