"""``bertkit predict``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bertkit.cli import console, options


def command(
    source: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help="JSONL, CSV, TSV, Parquet, CoNLL, SQuAD; - is stdin."),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN|MODEL", help="The model.  [default: newest run]")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write here instead of stdout.")] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="Predict one text, without a file.")
    ] = None,
    format_: Annotated[
        str,
        typer.Option("--format", metavar="NAME", help="conll (tagging) or squad (span QA).  [default: JSON Lines]"),
    ] = "",
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
    if json and out is None:
        raise typer.BadParameter(
            "--json counts what --out FILE holds; without --out the rows themselves are on stdout."
        )
    from bertkit.workflows.predict import predict_file

    shown = console.Console()
    try:
        lines = predict_file(
            Path(source) if source not in (None, "-") else None,
            out=out,
            stdin=sys.stdin.buffer,
            text=text,
            format=format_,
            run=run,
            task=task or None,
            labels=options.names(labels),
            runs=runs,
            settings=options.settings(set_),
            device=device,
            precision=precision,
            threads=threads,
            backend=backend,
            offline=offline,
            listen=shown.show,
        )
        for line in lines:
            console.emit(line)
    finally:
        shown.close()
    if json:
        console.emit_json({**lines.to_json(), "out": str(out)})
    elif out is not None:
        console.say(f"{out}: {lines.num_rows} rows")
