"""Read and write words in columns: CoNLL (any columns) and CoNLL-U, a sentence at a time.

Both have one word a line and an empty line behind a sentence, which may hold tabs and spaces.

- **CoNLL** has as many columns as its writer liked, the same number all through a file. They are separated by a tab
  where the line holds one, else by runs of spaces, and by nothing else: U+00A0, U+3000 or U+2028 are part of a word.
  ``-DOCSTART-`` lines end a sentence and are no words. A word may begin with ``#``, as in tweets, so a line is a
  comment only where it opens a sentence and looks like one; see :func:`_is_comment`.
- **CoNLL-U** has ten columns, separated by tabs (https://universaldependencies.org/format.html). A row has the names
  of the Hub's ``universal_dependencies``, and one entry a word: the lines of a multiword token (``3-4``) and of an
  empty node (``5.1``) give none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from bertkit.data import Example
from bertkit.data.lines import BadRow, Lines, Row
from bertkit.errors import DataError

DOCUMENT_START = "-DOCSTART-"
UNIVERSAL_COLUMNS = ("id", "tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The ten columns of CoNLL-U, by the names that the Hub's ``universal_dependencies`` gives them."""
UNIVERSAL_COMMENTS = {"sent_id": "idx", "text": "text"}
"""Comments of CoNLL-U that become columns, and their names there."""
EMPTY_CELL = "_"
"""What stands in a written file where a row has no value; CoNLL-U's sign for it."""

_KEY_AND_VALUE = re.compile(r"# ?[\w.:-]+ = ")
_COMMENT = re.compile(r"#+([ \t]|$)|#(begin|end) document|# ?[\w.:-]+ ?=")
_ID = re.compile(r"(?P<word>[1-9][0-9]*)|[1-9][0-9]*-[1-9][0-9]*|[0-9]+\.[1-9][0-9]*")
_BREAKS = re.compile(r"[\t\r\n]+")
_SURROGATES = re.compile("[\ud800-\udfff]")


class _Line(NamedTuple):
    text: str
    number: int
    fault: str
    """What is wrong with its bytes, or empty."""


class _Fault(Exception):  # noqa: N818 (never leaves this module)
    """What makes a sentence unreadable; becomes a :class:`BadRow`."""

    def __init__(self, line: _Line, reason: str) -> None:
        super().__init__(reason)
        self.line = line


_Block = list[_Line]
"""The lines of a sentence, and the comments that open it."""


def rows(lines: Lines, columns: Mapping[str, Any]) -> Iterator[Row | BadRow]:
    """Yield the sentences of a CoNLL file, in constant memory.

    A row has ``tokens``, ``tags`` and every other column under its number, from 0, as a text: ``"1"``. A file of one
    column has no tags, whatever ``columns`` says: it is one to predict.

    Args:
        lines: the file.
        columns: role -> position, from 0. Without one, ``tokens`` are the first column and ``tags`` the last. Values
            that are no integers are names, meant for other readers, and are passed over.

    Raises:
        DataError: if the file holds no sentence, or has no such column.
    """
    blocks = _blocks(lines)
    head: list[_Block] = []
    first = _first_word(blocks, head)
    if first is None:
        raise DataError(f"{lines.where} is empty: it holds no sentence.")
    names = _names(len(_cells(first.text)), columns, lines.place(first.number))
    for block in chain(head, blocks):
        yield from _sentence(block, first, names, lines)


def universal_rows(lines: Lines, columns: Mapping[str, Any]) -> Iterator[Row | BadRow]:
    """Yield the sentences of a CoNLL-U file, in constant memory.

    A row has ``idx`` (``sent_id``) and ``text`` where the comments hold them, and lists of texts, one a word:
    ``tokens``, ``lemmas``, ``upos``, ``xpos``, ``feats``, ``head``, ``deprel``, ``deps``, ``misc``; ``_`` stays ``_``.

    Args:
        lines: the file.
        columns: role -> position, from 0, of columns to give under that name too: ``{"tags": 3}``.

    Raises:
        DataError: if the file holds no sentence, or has no such column.
    """
    positions = _positions(columns)
    _check_positions(positions, len(UNIVERSAL_COLUMNS), lines.where)
    empty = True
    for block in _blocks(lines):
        try:
            row = _universal_row(block, positions, lines)
        except _Fault as fault:
            empty = False
            yield BadRow(place=lines.place(fault.line.number), reason=str(fault))
            continue
        if row is not None:
            empty = False
            yield row
    if empty:
        raise DataError(f"{lines.where} is empty: it holds no sentence.")


# Sentences -----------------------------------------------------------------------------------------------------


def _blocks(lines: Lines) -> Iterator[_Block]:
    block: _Block = []
    for text in lines:
        if text.strip("\t ") and not text.startswith(DOCUMENT_START):
            block.append(_Line(text, lines.number, lines.fault))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _first_word(blocks: Iterator[_Block], head: list[_Block]) -> _Line | None:
    """Return the first line that must be a word, which says how many columns the file has.

    A line that begins with ``#`` may be a comment, so a line behind it decides; in a file that has no other, what
    does not look like a comment, or has a tab.

    Args:
        blocks: the file.
        head: is given the blocks that were read to find it.
    """
    for block in blocks:
        head.append(block)
        for line in block:
            if not line.text.startswith("#"):
                return line
    hashes = list(chain.from_iterable(head))
    words = [line for line in hashes if not _COMMENT.match(line.text)]
    return next(iter(words or [line for line in hashes if "\t" in line.text]), None)


def _is_comment(text: str, first: str) -> bool:
    """Say whether the line that opens a sentence is a comment in a file whose first word is the line ``first``.

    ``# key = value`` is one. What else begins with ``#`` is one where it has not the file's columns, or not its tabs,
    and goes on with white space (or is OntoNotes' ``#begin document``): ``# O`` may be a word, and a hash tag that
    lost its columns must not pass for a comment.
    """
    if not text.startswith("#"):
        return False
    if _KEY_AND_VALUE.match(text):
        return True
    alike = len(_cells(text)) == len(_cells(first)) and ("\t" in text or "\t" not in first)
    return not alike and bool(_COMMENT.match(text))


def _cells(text: str) -> list[str]:
    return text.split("\t") if "\t" in text else [cell for cell in text.split(" ") if cell]


def _sentence(block: _Block, first: _Line, names: Sequence[str], lines: Lines) -> Iterator[Row | BadRow]:
    """Yield the row of a block, or none where it holds comments alone."""
    start = 0
    while start < len(block) and _is_comment(block[start].text, first.text):
        start += 1
    try:
        cells = [_checked(line, first, len(names)) for line in block[start:]]
    except _Fault as fault:
        yield BadRow(place=lines.place(fault.line.number), reason=str(fault))
        return
    if cells:
        number = block[start].number
        values = map(list, zip(*cells, strict=True))
        yield Row(example=dict(zip(names, values, strict=True)), place=lines.place(number), line=number)


def _checked(line: _Line, first: _Line, width: int) -> list[str]:
    if line.fault:
        raise _Fault(line, line.fault)
    cells = _cells(line.text)
    if len(cells) != width:
        raise _Fault(
            line,
            f"{_counted(len(cells))}, and line {first.number} has {width}; a tab separates them where the line holds "
            "one, else spaces do",
        )
    return cells


def _counted(count: int) -> str:
    return f"{count} column" if count == 1 else f"{count} columns"


# Columns -------------------------------------------------------------------------------------------------------


def _positions(columns: Mapping[str, Any]) -> dict[str, int]:
    return {role: value for role, value in columns.items() if isinstance(value, int) and not isinstance(value, bool)}


def _check_positions(positions: Mapping[str, int], width: int, where: str) -> None:
    for role, position in positions.items():
        if not 0 <= position < width:
            raise DataError(
                f"{where}: columns.{role} is {position}, and the file has {_counted(width)}, which count from 0 to "
                f"{width - 1}."
            )


def _names(width: int, columns: Mapping[str, Any], place: str) -> list[str]:
    """Return the name of each column of a CoNLL file.

    Raises:
        DataError: if there is no such column, or one has two roles.
    """
    positions = _positions(columns)
    if width == 1:
        positions.pop("tags", None)
    elif "tags" not in positions:
        positions["tags"] = width - 1
    positions.setdefault("tokens", 0)
    _check_positions(positions, width, place)
    names = [str(position) for position in range(width)]
    for role, position in positions.items():
        if not names[position].isdecimal():
            raise DataError(
                f"{place}: columns.{names[position]} and columns.{role} are both {position}; the file has "
                f"{_counted(width)}, which count from 0."
            )
        names[position] = role
    return names


# CoNLL-U -------------------------------------------------------------------------------------------------------


def _universal_row(block: _Block, positions: Mapping[str, int], lines: Lines) -> Row | None:
    example: Example = {}
    words: list[list[str]] = []
    start = 0
    for line in block:
        if line.fault:
            raise _Fault(line, line.fault)
        if line.text.startswith("#"):
            example |= _comment(line.text)
        elif cells := _word(line, len(words)):
            words.append(cells)
            start = start or line.number
    if not words:
        return None
    values = [list(column) for column in zip(*words, strict=True)]
    example |= dict(zip(UNIVERSAL_COLUMNS[1:], values[1:], strict=True))
    example |= {role: list(values[position]) for role, position in positions.items()}
    return Row(example=example, place=lines.place(start), line=start)


def _comment(text: str) -> Example:
    key, equals, value = text[1:].partition("=")
    name = UNIVERSAL_COMMENTS.get(key.strip(" \t"), "")
    return {name: value.strip(" \t")} if name and equals else {}


def _word(line: _Line, before: int) -> list[str] | None:
    """Return the columns of a word that follows ``before`` others, or None for what is no word."""
    cells = line.text.split("\t")
    if len(cells) != len(UNIVERSAL_COLUMNS):
        raise _Fault(line, f"{_counted(len(cells))}, and CoNLL-U has {len(UNIVERSAL_COLUMNS)}, separated by tabs")
    kind = _ID.fullmatch(cells[0])
    if kind is None:
        raise _Fault(line, f"the id '{cells[0]}' is none of CoNLL-U, like 3, 3-4 or 3.1")
    if kind["word"] is None:
        return None
    if cells[0] != str(before + 1):
        raise _Fault(
            line, f"the id '{cells[0]}' stands where {before + 1} must follow; is the empty line between two missing?"
        )
    return cells


# Writing -------------------------------------------------------------------------------------------------------


def written(
    pairs: Iterable[tuple[Example, Mapping[str, Any]]],
    *,
    tokens: str = "tokens",
    text: str = "text",
    tags: str = "tags",
) -> Iterator[str]:
    """Yield the lines, without line ends, of a CoNLL file of predictions, as conlleval reads them.

    A line holds, between tabs, the word, the row's numbered columns in order, its gold tag and the predicted tag. The
    first row says which columns there are, so that each line has as many; a row without one gets ``_`` there. A tab
    or line break inside a cell becomes a space.

    Args:
        pairs: rows, and the predictions of the ``token-tagging`` adapter.
        tokens: column of the words.
        text: column of the text from which the words are cut where there are no words.
        tags: column of the gold tags; rows may have none.
    """
    names: list[str] | None = None
    for row, prediction in pairs:
        words = row.get(tokens)
        if words is None:
            words = [row[text][start:end] for start, end in prediction["words"]]
        if names is None:
            names = _written_names(row, tags, len(words))
        kept = [_column(row.get(name), len(words)) for name in names]
        for cells in zip(words, *kept, prediction["tags"], strict=True):
            yield "\t".join(map(_cell, cells))
        yield ""


def _written_names(row: Example, tags: str, count: int) -> list[str]:
    numbered = sorted((name for name in row if name.isdecimal() and name != tags), key=int)
    return [name for name in [*numbered, tags] if _has_column(row.get(name), count)]


def _has_column(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count


def _column(values: Any, count: int) -> list[Any]:
    return values if _has_column(values, count) else [EMPTY_CELL] * count


def _cell(value: Any) -> str:
    if value is None:
        return EMPTY_CELL
    return _SURROGATES.sub("\ufffd", _BREAKS.sub(" ", str(value)))
