"""``bertkit embed``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bertkit import config
from bertkit.cli import console, options
from bertkit.cli.predict import stdin_of


def command(
    source: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help="JSONL, CSV, TSV, Parquet, a text a line (.txt); - is stdin."),
    ] = None,
    encoder: options.Encoder = "",
    revision: options.Revision = "",
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN|SUITE", help="The encoder that a run has trained.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="FILE.npy, .parquet, .jsonl or .jsonl.gz, instead of stdout."),
    ] = None,
    pooling: Annotated[
        config.Pooling, typer.Option("--pooling", help="One vector a text; words is one a word.")
    ] = "mean",
    layers: Annotated[
        config.Layers, typer.Option("--layers", help="Which hidden states; mix is what a run has learned.")
    ] = "last",
    normalize: Annotated[bool, typer.Option("--normalize", help="Make each vector 1 long (L2).")] = False,
    on_error: Annotated[
        config.OnError,
        typer.Option("--on-error", help="What a bad row does; skip writes it to FILE.rejects.jsonl."),
    ] = "stop",
    text: Annotated[str | None, typer.Option("--text", metavar="TEXT", help="Embed one text, without a file.")] = None,
    set_: options.Set = None,
    json: options.Json = False,
    offline: options.Offline = False,
    runs: options.Runs = options.RUNS,
    device: options.Device = "auto",
    precision: options.Precision = "float32",
    threads: options.Threads = 0,
) -> None:
    """Turn each text of INPUT into a vector, or each of its words."""
    if (source is None) == (text is None):
        raise typer.BadParameter("give an INPUT file (- for standard input) or --text TEXT, one of the two.")
    if json and out is None:
        raise typer.BadParameter("--json counts what --out FILE holds; without --out the vectors are on stdout.")
    given: dict[str, Any] = {"encoder": encoder, "revision": revision, "run": run, "runs": runs, "pooling": pooling}
    given |= {"layers": layers, "normalize": normalize, "settings": options.settings(set_), "device": device}
    given |= {"precision": precision, "threads": threads, "offline": offline}
    from bertkit.workflows.embed import embed_file

    path = Path(source) if source not in (None, "-") else None
    with console.listening() as listen:
        about: dict[str, Any] = {"stdin": stdin_of(source), "text": text, "on_error": on_error, "listen": listen}
        made = embed_file(path, out=out, **about, **given)
        for line in made:
            console.emit_row(line)
    if json:
        console.emit_json(made.to_json())
    elif out is not None or on_error == "skip":
        skipped = f"; {made.num_rejected} skipped" if on_error == "skip" else ""
        each = "one a word" if pooling == "words" else "one a row"
        console.say(f"{out or 'stdout'}: {made.num_rows} rows, vectors of {made.opened.width}, {each}{skipped}")
