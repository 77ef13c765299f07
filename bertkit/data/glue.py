"""Read the classic GLUE download layout and give its rows the Hub's column names and label names.

The layout's facts are one table, :data:`LAYOUTS`: which file holds which of the Hub's splits, under which header name
(or, in CoLA's headerless files, at which position) a column stands, and what a label cell means. Checked against the
loader that made ``nyu-mll/glue`` (huggingface/datasets, ``datasets/glue/glue.py``) and GLUE's own files.

A row has the Hub's columns, ``idx`` included: the row's number in its file, from 0. (MRPC's ``idx`` on the Hub counts
in the file from before GLUE took its dev rows out, so only there it differs.) Quotes are characters like any other.
MRPC's original ``msr_paraphrase_train.txt`` is not taken for ``train.tsv``: it still holds the dev rows.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertkit.data import Example, Split
from bertkit.data.files import tab_separated
from bertkit.errors import DataError, did_you_mean
from bertkit.task import Task

LABEL = "label"
NO_LABEL = ("", "-1")
"""Cells of a row without a label."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one GLUE task lies in its folder."""

    columns: Mapping[str, str]
    """The Hub's name of a column -> the file's."""
    labels: Mapping[str, str] | None = None
    """A label cell -> the Hub's name of the label; None where the cell is a number to be learned."""
    files: Mapping[str, str] = field(
        default_factory=lambda: {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
    )
    """The Hub's name of a split -> its file, which may also lie there as ``.gz``."""
    positions: Mapping[str, int] = field(default_factory=dict)
    """The Hub's name of a column -> where it stands in a file without a header."""
    drops_short_rows: bool = False
    """Whether rows that lack a needed field are left out, as the Hub's loader does for QQP's."""


def _names(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _numbered(*names: str) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(names)}


_NLI_COLUMNS = {"premise": "sentence1", "hypothesis": "sentence2", LABEL: "gold_label"}
_NLI_LABELS = _names("entailment", "neutral", "contradiction")

LAYOUTS = {
    "cola": Layout(
        columns=_names("sentence", LABEL),
        labels=_numbered("unacceptable", "acceptable"),
        positions={"sentence": 3, LABEL: 1},
    ),
    "sst2": Layout(columns=_names("sentence", LABEL), labels=_numbered("negative", "positive")),
    "mrpc": Layout(
        columns={"sentence1": "#1 String", "sentence2": "#2 String", LABEL: "Quality"},
        labels=_numbered("not_equivalent", "equivalent"),
    ),
    "qqp": Layout(
        columns={**_names("question1", "question2"), LABEL: "is_duplicate"},
        labels=_numbered("not_duplicate", "duplicate"),
        drops_short_rows=True,
    ),
    "stsb": Layout(columns={**_names("sentence1", "sentence2"), LABEL: "score"}),
    "mnli": Layout(
        columns=_NLI_COLUMNS,
        labels=_NLI_LABELS,
        files={
            "train": "train.tsv",
            "validation_matched": "dev_matched.tsv",
            "validation_mismatched": "dev_mismatched.tsv",
            "test_matched": "test_matched.tsv",
            "test_mismatched": "test_mismatched.tsv",
        },
    ),
    "qnli": Layout(columns=_names("question", "sentence", LABEL), labels=_names("entailment", "not_entailment")),
    "rte": Layout(columns=_names("sentence1", "sentence2", LABEL), labels=_names("entailment", "not_entailment")),
    "wnli": Layout(columns=_names("sentence1", "sentence2", LABEL), labels=_numbered("not_entailment", "entailment")),
    "ax": Layout(columns=_NLI_COLUMNS, labels=_NLI_LABELS, files={"test": "diagnostic.tsv"}),
}
"""The Hub's name of a GLUE task (``[data] name``) -> its layout."""


def read_folder(task: Task, folder: Path, *, splits: Collection[str] | None = None) -> dict[str, Split]:
    """Read a GLUE task from a folder in the classic download layout.

    Args:
        task: its ``[data]`` names the GLUE task, the folder (``SST-2``) and the splits.
        folder: the folder that holds ``SST-2``, or that folder itself.
        splits: the splits to read, all of which must be there. By default those that are there, with ``train``
            among them if the task has one.

    Returns:
        The task's name of a split -> its examples.

    Raises:
        DataError: if a file is missing (with the names that were looked for) or a row is broken (with its line).
    """
    layout = _layout(task)
    wanted = _wanted(task, layout, splits)
    found = {split: file for split, name in wanted.items() if (file := _find(task, folder, name))}
    needed = [split for split in wanted if splits is not None or split == "train" or not found]
    for split in needed:
        if split not in found:
            looked = ", ".join(str(path) for path in _candidates(task, folder, wanted[split]))
            raise DataError(f"There is no {split} split of {task.name} in {folder}: looked for {looked}.")
    hub = task.data.splits
    return {
        split: _read(file, layout, split, labelled=not hub.get(split, split).startswith("test"))
        for split, file in found.items()
    }


def has_train(task: Task, folder: Path) -> bool:
    """Say whether a folder in the classic download layout holds the train split of a GLUE task."""
    layout = LAYOUTS.get(task.data.name)
    return layout is None or _find(task, folder, layout.files.get("train", "train.tsv")) is not None


def _layout(task: Task) -> Layout:
    name = task.data.name
    if name not in LAYOUTS:
        raise DataError(
            f"The GLUE layout of '{name or task.name}' is not known, so --data cannot be a folder for {task.name}."
            f"{did_you_mean(name, LAYOUTS)} Known are {', '.join(LAYOUTS)}."
        )
    return LAYOUTS[name]


def _wanted(task: Task, layout: Layout, splits: Collection[str] | None) -> dict[str, str]:
    """Return the task's name of a split -> its file in the layout."""
    named = task.data.splits or {split: split for split in layout.files}
    unknown = [split for split in splits or () if split not in named]
    if unknown:
        raise DataError(
            f"{task.name} has no split '{unknown[0]}'.{did_you_mean(unknown[0], named)} It has {', '.join(named)}."
        )
    files = {split: layout.files[source] for split, source in named.items() if source in layout.files}
    return files if splits is None else {split: file for split, file in files.items() if split in splits}


def _candidates(task: Task, folder: Path, name: str) -> list[Path]:
    places = [folder / task.data.folder, folder] if task.data.folder else [folder]
    return [place / file for place in places for file in (name, f"{name}.gz")]


def _find(task: Task, folder: Path, name: str) -> Path | None:
    return next((path for path in _candidates(task, folder, name) if path.is_file()), None)


def _read(path: Path, layout: Layout, split: str, *, labelled: bool) -> Split:
    source = f"{path.resolve().parent.name}/{path.name}"
    rows = tab_separated(path, name=source)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} is empty.")
    places, rows = _places(first, rows, layout, source)
    if labelled and LABEL not in places:
        raise DataError(f"{source}: the header has no column '{layout.columns[LABEL]}', so {split} has no labels.")
    examples: list[Example] = []
    lines = []
    for number, (line, cells) in enumerate(rows):
        if max(places.values()) < len(cells):
            examples.append(_example(cells, places, layout, f"{source}:{line}") | {"idx": number})
            lines.append(line)
        elif not layout.drops_short_rows:
            raise DataError(f"{source}:{line}: there are {len(cells)} fields, and {max(places.values()) + 1} needed.")
    if not examples:
        raise DataError(f"{path} is empty: it has a header but no rows.")
    return Split(name=split, examples=examples, source=source, lines=lines)


def _places(
    first: tuple[int, list[str]], rows: Iterator[tuple[int, list[str]]], layout: Layout, source: str
) -> tuple[Mapping[str, int], Iterator[tuple[int, list[str]]]]:
    """Return the Hub's name of a column -> its position, and the rows; the first line is a header or a row."""
    header = first[1]
    places = {column: header.index(name) for column, name in layout.columns.items() if name in header}
    missing = [layout.columns[column] for column in layout.columns if column not in places and column != LABEL]
    if not missing:
        return places, rows
    if layout.positions:
        return layout.positions, _again(first, rows)
    raise DataError(f"{source}: the header has no column '{missing[0]}'; it has {', '.join(map(repr, header[:12]))}.")


def _again(first: tuple[int, list[str]], rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    yield first
    yield from rows


def _example(cells: list[str], places: Mapping[str, int], layout: Layout, place: str) -> Example:
    row: Example = {column: cells[places[column]] for column in layout.columns if column != LABEL}
    return row | {LABEL: _label(cells[places[LABEL]], layout, place) if LABEL in places else None}


def _label(cell: str, layout: Layout, place: str) -> Any:
    if cell in NO_LABEL:
        return None
    if layout.labels is None:
        try:
            return float(cell)
        except ValueError:
            raise DataError(f"{place}: score '{cell}' is not a number.") from None
    if cell in layout.labels:
        return layout.labels[cell]
    raise DataError(f"{place}: label '{cell}' is not one of {', '.join(map(repr, layout.labels))}.")
