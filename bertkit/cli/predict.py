"""``bertkit predict``."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bertkit.cli import console, options


def command(
    source: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help="JSONL, CSV, TSV, Parquet, CoNLL, SQuAD; - is stdin."),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN|MODEL|SUITE", help="The model.  [default: newest run]")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write here instead of stdout.")] = None,
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
        alone = {"--out": out, "--text": text, "--format": format_, "--task": task, "--labels": labels}
        _refuse_beside_submission(source, run, [name for name, value in alone.items() if value])
    elif data is not None:
        raise typer.BadParameter("--data goes with --submission; the rows to predict are INPUT.")
    given: dict[str, Any] = {"runs": runs, "settings": options.settings(set_), "device": device, "threads": threads}
    given |= {"precision": precision, "backend": backend, "offline": offline}
    if submission is not None:
        _submission(str(run), submission, given | {"data": data}, json=json)
        return
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
            listen=shown.show,
            **given,
        )
        for line in lines:
            console.emit(line)
    finally:
        shown.close()
    if json:
        console.emit_json({**lines.to_json(), "out": str(out)})
    elif out is not None:
        console.say(f"{out}: {lines.num_rows} rows")


def _refuse_beside_submission(source: str | None, run: str | None, others: list[str]) -> None:
    """Refuse what does not go with --submission, or lacks what does."""
    if source != "glue" or run is None:
        raise typer.BadParameter("--submission wants: bertkit predict glue --run SUITE --submission out.zip")
    if others:
        raise typer.BadParameter(f"{others[0]} does not go with --submission.")


def _submission(run: str, out: Path, given: dict[str, Any], *, json: bool) -> None:
    """Write GLUE's leaderboard files."""
    from bertkit.workflows.submission import write_submission

    shown = console.Console()
    try:
        made = write_submission(run, out, **given, listen=shown.show)
    finally:
        shown.close()
    if json:
        console.emit_json(made.to_json())
        return
    rows = [(name, number, made.runs[name]) for name, number in made.files.items()]
    console.table(f"{made.out}, complete", ("file", "rows", "run"), rows)
