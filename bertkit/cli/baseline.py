"""``bertkit baseline``."""

from pathlib import Path
from typing import Annotated

import typer

from bertkit.cli import console, options


def command(
    task: Annotated[str, typer.Argument(metavar="TASK|FILE", help="A task's name or file, or a data file.")],
    data: options.Data = None,
    vectors: Annotated[
        Path | None,
        typer.Option("--vectors", metavar="FILE", help="Word vectors as text: word2vec, GloVe, fastText; also .gz."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Of the cross-validation and of --limit.")
    ] = 42,
    limit: options.Limit = 0,
    set_: options.Set = None,
    json: options.Json = False,
    offline: options.Offline = False,
    runs: options.Runs = options.RUNS,
) -> None:
    """Score simple models on a task's rows, to stand beside every score of the same rows."""
    from bertkit.workflows.baseline import baseline

    with console.listening() as listen:
        found = baseline(
            task,
            data=data,
            vectors=vectors,
            seed=seed,
            limit=limit,
            settings=options.settings(set_),
            offline=offline,
            runs=runs,
            listen=listen,
        )
    if json:
        console.emit_json(found.to_json())
        return
    console.table(
        f"{found.task}, {found.num_examples['train']:,} training examples",
        ("baseline", "what it is"),
        found.summaries.items(),
    )
    console.baseline_table(found.baselines)
    console.say(f"{found.file}: {found.seconds:.0f} s; shown beside every score of a run on the same rows")
