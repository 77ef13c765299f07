"""The text of a corpus, line by line and in documents: from text files, rows of files and the Hub's data sets.

Layouts, recognised by looking at the first lines of each source (:attr:`Reading.layout` overrides):

- ``wikitext``: `` = Title = `` behind an empty line begins a document; `` = = Section = = `` and all lines to the next
  title belong to it. Headings are text, without their signs.
- ``blocks``: lines are sentences or paragraphs, an empty line ends a document: what BERT's own scripts read.
- ``lines``: a line is a document.

Rows of JSONL, Parquet, CSV and TSV files and of the Hub's data sets are documents, unless there are titles among
them. A cell is a text, or a list of sentences, or a list of sentences that are lists of words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from bertkit.data import files, guess
from bertkit.data.lines import json_kind
from bertkit.errors import DataError, did_you_mean, looked_for
from bertkit.events import Listener, Note, ignore

Layout = Literal["", "lines", "blocks", "wikitext"]

LOOKED_AT = 2000
"""Lines of a source by which its layout is recognised, and rows by which its column is guessed."""
TITLE = re.compile(r"\s*= (?!=)(?P<title>.*\S) (?<!= )=\s*")
HEADING = re.compile(r"\s*=(?: =)* (?P<title>[^=\s].*?) =(?: =)*\s*")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
ROWS = frozenset({"jsonl", "csv", "tsv", "parquet"})
"""Formats of rows; what has another suffix is plain text."""
NOT_TEXT = frozenset({"json", "conll", "conllu"})
"""Formats that other commands read, and that have no text to be pre-trained on."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the text of a corpus is read."""

    layout: Layout = ""
    """``lines``, ``blocks`` or ``wikitext``; recognised by looking where empty."""
    column: str = ""
    """Column of rows that holds the text; guessed where empty."""
    sentences: Literal["split", "lines"] = "split"
    """``split``: lines are cut into sentences by the sentencex library; ``lines``: each line is one sentence, as BERT's
    scripts have it."""
    words: Literal["", "spaces", "segmenter"] = ""
    """Where Chinese words are, for whole-word masking. ``spaces``: the corpus has spaces between them, which are taken
    out between two ideographs before the text is tokenised, or lists of words; ``segmenter``: found by the rjieba
    library; empty: each ideograph is a word."""
    name: str = ""
    """Configuration of a Hub data set."""
    split: str = "train"
    """Split of a Hub data set."""
    revision: str = ""
    """Branch, tag or commit of a Hub data set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A line of a document."""

    text: str | list[str] | list[list[str]]
    """As it stands there; or its sentences, or their words."""
    starts: bool
    """Whether a document begins here."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a text file, or the cell of a row."""

    content: Any
    place: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file or a split of a Hub data set that is there and can be read."""

    path: Path | None = None
    hub: str = ""
    """``owner/name``."""
    name: str = ""
    """What messages call it."""

    @property
    def suffix(self) -> str:
        """Return ``txt`` of ``a.txt.gz``."""
        return "" if self.path is None else Path(self.path.name.removesuffix(".gz")).suffix.lower().removeprefix(".")


def sources(paths: Sequence[str | Path]) -> list[Source]:
    """Find what a corpus is made of, before anything slow is done.

    Args:
        paths: files, folders (all files in them, hidden ones left out, sorted by name) or Hub data sets.

    Raises:
        DataError: if there is nothing, or something that is no text.
    """
    found = [source for path in paths for source in _sources_of(str(path))]
    for source in found:
        if source.path is not None:
            files.check_readable(source.path, any_suffix=True)
        if source.suffix in NOT_TEXT:
            raise DataError(
                f"{source.name} is a .{source.suffix} file, and a corpus is text: .txt, "
                f"{', '.join(f'.{name}' for name in sorted(ROWS))}, also with .gz."
            )
    if not found:
        raise DataError("The corpus names no file: give text files, folders of them or a Hub data set.")
    return found


def _sources_of(name: str) -> list[Source]:
    path = looked_for(name, DataError, "The corpus")
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if _is_visible(file.relative_to(path)) and file.is_file())
        if not inside:
            raise DataError(f"The folder {path} holds no file: a corpus is text files, or folders of them.")
        return [Source(path=file, name=file.name) for file in inside]
    if not path.exists() and HUB_NAME.fullmatch(name) and not path.parent.is_dir():
        return [Source(hub=name, name=name)]
    return [Source(path=path, name=path.name)]


def _is_visible(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def passages(
    found: Iterable[Source], reading: Reading, *, offline: bool = False, listen: Listener = ignore
) -> Iterator[Passage]:
    """Yield the lines of all sources in a stream; a source begins a document.

    Args:
        found: as :func:`sources` gives them.
        reading: how to read.
        offline: do not ask the Hub.
        listen: is told what was recognised and guessed.

    Raises:
        DataError: with file:line, if something cannot be read.
    """
    for source in found:
        lines, is_rows = _lines(source, reading, offline=offline, listen=listen)
        first = list(islice(lines, LOOKED_AT))
        layout = reading.layout or _recognised(first, is_rows=is_rows)
        if not reading.layout and layout != "lines":
            listen(Note(message=f"{source.name} is read as layout '{layout}'"))
        yield from LAYOUTS[layout](chain(first, lines))


def _lines(source: Source, reading: Reading, *, offline: bool, listen: Listener) -> tuple[Iterator[_Line], bool]:
    """Return the lines of a source, and whether they are cells of rows."""
    if source.path is None:
        from bertkit.data import hub

        rows = hub.stream_rows(
            source.hub, name=reading.name, split=reading.split, revision=reading.revision, offline=offline
        )
        return _cells(rows, source, reading, listen), True
    if source.suffix in ROWS:
        return _cells(files.stream(source.path), source, reading, listen), True
    return (_Line(text, f"{source.name}:{number}") for number, text in files.lines(source.path)), False


def _cells(
    rows: Iterator[tuple[dict[str, Any], str]], source: Source, reading: Reading, listen: Listener
) -> Iterator[_Line]:
    first = list(islice(rows, LOOKED_AT))
    column = reading.column or _guessed([row for row, _ in first], source, listen)
    for row, place in chain(first, rows):
        if column not in row:
            raise DataError(f"{place}: there is no column '{column}'.{did_you_mean(column, row)} {_way(row)}")
        yield _Line(_checked(row[column], column, place), place)


def _guessed(rows: list[dict[str, Any]], source: Source, listen: Listener) -> str:
    found = guess.guess_columns(rows, ("text",))
    if "text" not in found.columns:
        raise DataError(f"{source.name} has no column that is clearly its text. {_way(rows[0] if rows else {})}")
    for note in found.notes:
        listen(Note(message=f"{source.name}: {note}"))
    return found.columns["text"]


def _way(row: dict[str, Any]) -> str:
    return f"Name one of {', '.join(map(repr, row)) or 'its columns'} with --set pretrain.column=NAME."


def _checked(cell: Any, column: str, place: str) -> Any:
    """Return a cell that is a text, a list of texts or a list of lists of texts; None is an empty text."""
    if cell is None:
        return ""
    levels = [cell]
    for depth in range(3):
        if all(isinstance(one, str) for one in levels):
            return cell
        if depth == 2 or not all(isinstance(one, list) for one in levels):
            break
        levels = [item for one in levels for item in one]
    wrong = next(one for one in levels if not isinstance(one, str))
    raise DataError(
        f"{place}: column '{column}' holds {json_kind(wrong)}, and a corpus takes a text, a list of sentences, or a "
        "list of sentences that are lists of words."
    )


# Layouts -------------------------------------------------------------------------------------------------------


def _recognised(lines: list[_Line], *, is_rows: bool) -> Layout:
    """Tell the layout by the first lines of a source."""
    texts = [line.content for line in lines if isinstance(line.content, str)]
    if any(_is_title(text, before) for before, text in zip(["", *texts], texts, strict=False)):
        return "wikitext"
    blocks = [len(block) for block in "".join("x" if text.strip() else " " for text in texts).split()]
    if is_rows or len(blocks) < 2:
        return "lines"
    # Single documents between empty lines are no blocks; two in three must have several lines.
    return "blocks" if sum(size > 1 for size in blocks) * 3 >= 2 * len(blocks) else "lines"


def _is_title(text: str, before: str) -> bool:
    return not before.strip() and TITLE.fullmatch(text) is not None


def _of_lines(lines: Iterable[_Line]) -> Iterator[Passage]:
    for line in lines:
        if not isinstance(line.content, str):
            yield Passage(text=line.content, starts=True)
            continue
        starts = True
        for text in line.content.splitlines() or [""]:
            yield Passage(text=text, starts=starts)
            starts = False


def _of_blocks(lines: Iterable[_Line]) -> Iterator[Passage]:
    starts = True
    for line in _only_texts(lines, "blocks"):
        if line.strip():
            yield Passage(text=line, starts=starts)
            starts = False
        else:
            starts = True


def _of_wikitext(lines: Iterable[_Line]) -> Iterator[Passage]:
    before, starts = "", True
    for line in _only_texts(lines, "wikitext"):
        is_title = _is_title(line, before)
        if line.strip():
            heading = HEADING.fullmatch(line)
            yield Passage(text=heading["title"] if heading else line, starts=starts or is_title)
            starts = False
        before = line


def _only_texts(lines: Iterable[_Line], layout: str) -> Iterator[str]:
    for line in lines:
        if not isinstance(line.content, str):
            raise DataError(f"{line.place}: the layout '{layout}' has lines of text, and this is a list: take 'lines'.")
        yield from line.content.splitlines() or [""]


LAYOUTS = {"lines": _of_lines, "blocks": _of_blocks, "wikitext": _of_wikitext}
