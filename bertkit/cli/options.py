"""The options that several commands share, each written once."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bertkit import config

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")]
Offline = Annotated[bool, typer.Option("--offline", help="Ask no network; use what is on this machine.")]
Runs = Annotated[
    Path, typer.Option("--runs", metavar="DIR", envvar="BERTKIT_RUNS", help="Where run folders are.", show_default=True)
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[config.Precision, typer.Option("--precision", help="Precision of matrix products.")]
Backend = Annotated[config.Backend, typer.Option("--backend", help="What computes; openvino is an extra.")]
Threads = Annotated[int, typer.Option("--threads", metavar="N", min=0, help="CPU threads; 0 is torch's choice.")]
Processes = Annotated[
    str, typer.Option("--processes", metavar="N|auto", help="Processes on this machine; auto is one for each GPU.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the task or a setting; may be repeated."),
]
Encoder = Annotated[
    str,
    typer.Option(
        "--encoder", metavar="NAME|DIR", help="A Hub name, a folder, a run, minilm, or a file of word vectors."
    ),
]
Revision = Annotated[str, typer.Option("--revision", metavar="R", help="Branch, tag or commit of the encoder.")]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=0, help="Train on N examples; 0 is all.")]
RunFolder = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run folder; else a new one.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR|FILE", help="Data in place of the task's own: a GLUE folder or a file."),
]
Labels = Annotated[
    str, typer.Option("--labels", metavar="a,b", help="Label names in the model's id order, where it has none.")
]

RUNS = Path("runs")


def settings(given: list[str] | None) -> dict[str, Any]:
    """Return what ``--set`` gave as nested tables."""
    return config.parse_overrides(given or [])


def names(given: str) -> list[str]:
    """Split ``a,b``."""
    return [name.strip() for name in given.split(",") if name.strip()]
