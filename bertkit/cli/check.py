"""``bertkit check``."""

from typing import Annotated

import typer

from bertkit.cli import console, options


def command(
    task: Annotated[str, typer.Argument(metavar="TASK|FILE", help="A task's name or file, or a data file.")],
    encoder: options.Encoder = "",
    data: options.Data = None,
    set_: options.Set = None,
    json: options.Json = False,
    offline: options.Offline = False,
) -> None:
    """Look at a task's data without training: columns, labels, lengths, what is cut; exit 1 where it is wrong."""
    from bertkit.workflows.check import check

    shown = console.Console()
    try:
        found = check(
            task, encoder=encoder, data=data, settings=options.settings(set_), offline=offline, listen=shown.show
        )
    finally:
        shown.close()
    if json:
        console.emit_json(found.to_json())
    else:
        columns = ", ".join(f"{role} = {column}" for role, column in found.task.columns.items())
        kind = f", {found.task.kind}" if found.task.kind else ""
        console.emit(f"{found.task.name}: {found.task.type}{kind}; {columns}")
        rows = [
            (s.name, s.num_examples, *_lengths(s), "yes" if s.labelled else "no", len(s.problems)) for s in found.splits
        ]
        names = (
            "split",
            "rows",
            "median tokens",
            "99 %",
            "longest",
            f"cut at {found.max_length}",
            "labelled",
            "faults",
        )
        console.table("", names, rows)
        balance = {s.name: s.balance for s in found.splits if s.balance}
        if balance:
            labels = list(dict.fromkeys(label for counts in balance.values() for label in counts))
            console.table("", ("label", *balance), [(x, *(balance[s].get(x, 0) for s in balance)) for x in labels[:50]])
        for split in found.splits:
            for lost in split.lost:
                console.emit(f"{split.name}: {lost}")
        for problem in found.problems[:20]:
            console.emit(problem)
        if len(found.problems) > 20:
            console.emit(f"... and {len(found.problems) - 20} more")
    if found.problems:
        raise typer.Exit(1)


def _lengths(split: "SplitReport") -> tuple[str, str, str, str]:  # type: ignore[name-defined]  # noqa: F821
    if not split.lengths:
        return "", "", "", ""
    sizes = [f"{split.lengths[name]:.0f}" for name in ("median", "p99", "longest")]
    return sizes[0], sizes[1], sizes[2], f"{split.truncation['share_of_examples']:.1%}"
