"""``bertkit check``."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bertkit.cli import console, options

if TYPE_CHECKING:
    from bertkit.workflows.check import Checked
    from bertkit.workflows.findings import SplitReport

MOST_LABELS = 50
MOST_PROBLEMS = 20
PAIRS = 3
"""Duplicates that are shown of two splits."""
CONFLICTS = 5
WIDTH = 50
"""Characters of a text in a table."""
BAR = 20
"""Characters of the longest bar."""


def command(
    task: Annotated[str, typer.Argument(metavar="TASK|FILE", help="A task's name or file, or a data file.")],
    encoder: options.Encoder = "",
    data: options.Data = None,
    set_: options.Set = None,
    json: options.Json = False,
    offline: options.Offline = False,
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=0, help="CPU threads; 0 is one a core.")] = 0,
) -> None:
    """Look at a task's data without a model: labels, lengths, duplicates, giveaways; exit 1 where training is wrong."""
    if threads:
        # The tokenizer and the near-duplicate search count their threads when they are first used.
        os.environ["RAYON_NUM_THREADS"] = str(threads)
    from bertkit.workflows.check import check

    with console.listening() as listen:
        found = check(task, encoder=encoder, data=data, settings=options.settings(set_), offline=offline, listen=listen)
    if json:
        console.emit_json(found.to_json())
    else:
        _show(found)
    if found.problems:
        raise typer.Exit(1)


def _show(found: "Checked") -> None:
    columns = ", ".join(f"{role} = {column}" for role, column in found.task.columns.items())
    kind = f", {found.task.kind}" if found.task.kind else ""
    console.emit(f"{found.task.name}: {found.task.type}{kind}; {columns}")
    _splits(found)
    _labels(found)
    _lengths(found)
    _duplicates(found)
    for split in found.splits:
        for lost in split.lost:
            console.emit(f"{split.name}: {lost}")
    for warning in found.warnings:
        console.emit(f"warning: {warning}")
    for problem in found.problems[:MOST_PROBLEMS]:
        console.emit(f"wrong: {problem}")
    if len(found.problems) > MOST_PROBLEMS:
        console.emit(f"... and {len(found.problems) - MOST_PROBLEMS} more")


def _splits(found: "Checked") -> None:
    cut = f"cut at {found.max_length}"
    names = ("split", "rows", "median tokens", "keeps 99 %", "longest", cut, "unknown", "empty", "labelled", "faults")
    rows = [
        (s.name, s.num_examples, *_tokens(s), s.num_empty, "yes" if s.labelled else "no", len(s.problems))
        for s in found.splits
    ]
    console.table("", names, rows)


def _tokens(split: "SplitReport") -> tuple[str, ...]:
    if not split.lengths:
        return ("",) * 5
    sizes = [f"{split.lengths[name]:.0f}" for name in ("median", "keeps_99", "longest")]
    unknown = f"{split.unknown.share:.1%}" if split.unknown is not None else ""
    return *sizes, f"{split.truncation['share_of_examples']:.1%}", unknown


def _labels(found: "Checked") -> None:
    balance = {split.name: split.balance for split in found.splits if split.balance}
    labels = list(dict.fromkeys(label for counts in balance.values() for label in counts))
    if not balance:
        return
    rows = [(label, *(_share(counts, label) for counts in balance.values())) for label in labels[:MOST_LABELS]]
    console.table("", ("label", *balance), rows)
    if len(labels) > MOST_LABELS:
        console.emit(f"... and {len(labels) - MOST_LABELS} more labels")


def _share(counts: dict[str, int], label: str) -> str:
    number = counts.get(label, 0)
    return f"{number} ({number / max(1, sum(counts.values())):.1%})"


def _lengths(found: "Checked") -> None:
    """Show the histogram and, below it, what other limits would cut."""
    splits = [split for split in found.splits if split.lengths]
    if not splits:
        return
    names = [split.name for split in splits]
    bins = max((split.histogram for split in splits), key=len)
    filled = [place for place in range(len(bins)) if any(_rows_in(split, place) for split in splits)]
    rows = [
        (f"{bins[place].least} to {bins[place].most}", *(_bar(split, place) for split in splits))
        for place in range(filled[0], len(bins))
    ]
    console.table("", ("tokens", *names), rows)
    for split in splits:
        if split.measured < split.num_examples:
            console.emit(f"{split.name}: tokens are counted in {split.measured} of {split.num_examples} rows")
    limits = sorted({cut.limit for split in splits for cut in split.cuts})
    console.table("", ("longer than", *names), [(limit, *(_cut(split, limit) for split in splits)) for limit in limits])


def _rows_in(split: "SplitReport", place: int) -> int:
    return split.histogram[place].rows if place < len(split.histogram) else 0


def _bar(split: "SplitReport", place: int) -> str:
    most = max(one.rows for one in split.histogram)
    return f"{_rows_in(split, place):<6} {'#' * -(-BAR * _rows_in(split, place) // most)}"


def _cut(split: "SplitReport", limit: int) -> str:
    cut = next((cut for cut in split.cuts if cut.limit == limit), None)
    if cut is None or not cut.rows:
        return "nothing"
    return f"{cut.share_of_rows:.1%} of rows, {cut.share_of_tokens:.1%} of tokens"


def _duplicates(found: "Checked") -> None:
    if found.duplicates:
        rows = [(o.split, o.of, o.exact, o.near, o.relabelled) for o in found.duplicates]
        console.table("", ("rows of", "also in", "exact", "near", "other label"), rows)
        pairs = [pair for overlap in found.duplicates for pair in _some(overlap.pairs, lambda pair: bool(pair.exact))]
        head = ("row", "like", "similarity", "label", "text", "like text")
        same = {True: "same", False: "other", None: ""}
        console.table(
            "",
            head,
            [
                (p.row, p.like, f"{p.similarity:.2f}", same[p.same_label], *_apart(p.text, p.like_text, p.exact))
                for p in pairs
            ],
        )
    if found.conflicts:
        shown = [(" ".join(c.rows[:4]), _short(" / ".join(c.labels[:4])), _short(c.text)) for c in found.conflicts]
        console.table("", ("the same text", "labels", "text"), shown[:CONFLICTS])


def _some(pairs: Sequence[Any], exact: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield the first pairs that are exact, and the first that are not."""
    for wanted in (True, False):
        yield from [pair for pair in pairs if exact(pair) is wanted][:PAIRS]


def _apart(text: str, like: str, exact: bool) -> tuple[str, str]:
    """Return two texts for a table, from a little before the place where they part."""
    if exact:
        return _short(text), "the same"
    same = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(text, like, strict=False)))
    whole = max(len(text), len(like)) <= WIDTH or same == len(text) == len(like)
    start = 0 if whole else max(0, same - WIDTH // 2)
    return _short(text, start), _short(like, start)


def _short(text: str, start: int = 0) -> str:
    shown = f"...{text[start:]}" if start else text
    return shown if len(shown) <= WIDTH else f"{shown[: WIDTH - 3]}..."
