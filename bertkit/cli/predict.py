"""``bertkit predict``."""

import sys
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from bertkit import config
from bertkit.cli import console, options
from bertkit.errors import DataError


def command(
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
) -> None:
    """Write each row of INPUT as a line of JSON, with a prediction added; the newest finished run by default."""
    if (source is None) == (text is None):
        raise typer.BadParameter("give an INPUT file (- for standard input) or --text TEXT, one of the two.")
    if json and out is None and submission is None:
        raise typer.BadParameter(
            "--json counts what --out FILE holds; without --out the rows themselves are on stdout."
        )
    if submission is not None:
        alone: dict[str, Any] = {"--out": out, "--text": text, "--format": format_, "--task": task, "--labels": labels}
        alone["--on-error"] = on_error != "stop"
        _refuse_beside_submission(source, run, [name for name, value in alone.items() if value])
    elif data is not None:
        raise typer.BadParameter("--data goes with --submission; the rows to predict are INPUT.")
    given: dict[str, Any] = {"runs": runs, "settings": options.settings(set_), "device": device, "threads": threads}
    given |= {"precision": precision, "backend": backend, "offline": offline}
    if submission is not None:
        _submission(str(run), submission, given | {"data": data}, json=json)
        return
    from bertkit.workflows.partial import rejects_of
    from bertkit.workflows.predict import predict_file

    with console.listening() as listen:
        lines = predict_file(
            Path(source) if source not in (None, "-") else None,
            out=out,
            stdin=stdin_of(source),
            text=text,
            format=format_,
            on_error=on_error,
            run=run,
            task=task or None,
            labels=options.names(labels),
            listen=listen,
            **given,
        )
        for line in lines:
            console.emit_row(line)
    beside = rejects_of(out) if out is not None and lines.num_rejected else None
    if json:
        told = {"rejects": str(beside) if beside else None} if on_error == "skip" else {}
        console.emit_json({**lines.to_json(), "out": str(out), **told})
    elif out is not None or on_error == "skip":
        skipped = f"; {lines.num_rejected} skipped{f', in {beside}' if beside else ''}" if on_error == "skip" else ""
        console.say(f"{out or 'stdout'}: {lines.num_rows} rows{skipped}")


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
