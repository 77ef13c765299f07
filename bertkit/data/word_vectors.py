"""Static word vectors from a text file: word2vec's text format, GloVe's, fastText's ``.vec``; also gzipped.

A line is a word and its numbers. word2vec and fastText begin with a line that says how many words and numbers there
are, GloVe does not. Some words of published files hold spaces, so numbers are counted from the end of a line.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bertkit.data.lines import Lines
from bertkit.errors import DataError, joined

if TYPE_CHECKING:
    import numpy as np

SUSPECT = 0.5
"""Share of damaged lines from which on a file is something else."""
NAMED = 5
"""Damaged lines that are named."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """The vectors of some words."""

    rows: dict[str, int]
    """Word -> row of the table."""
    table: np.ndarray
    """``(n, D)`` float32."""
    damage: str = ""
    """What is wrong with the file, with its lines; empty where nothing is."""
    whole: bool = True
    """Whether the file was read to its end."""


def check_readable(path: Path) -> None:
    """Check, before anything slow is done, that there is such a file.

    Raises:
        DataError: if there is none.
    """
    if not path.is_file():
        raise DataError(f"--vectors {path}: there is no such file.")


def read(path: Path, wanted: Collection[str] | None, *, most: int = 0) -> Vectors:
    """Read the vectors of the words in ``wanted``; of the others nothing is kept.

    A damaged line is left out and named in ``damage``. Of a word that is there twice, the first is taken.

    Args:
        path: the file.
        wanted: words as they are written in the file; None is all.
        most: read no further than so many words; 0 is to the end.

    Raises:
        DataError: if it cannot be read, or is no file of word vectors.
    """
    import numpy as np

    with _opened(path) as file:
        reader = _Reader(Lines(file, path.name, str(path)))
        found: dict[str, np.ndarray] = {}
        for word, numbers in reader.words(wanted, most):
            found.setdefault(word, numbers)
    if reader.num_good < SUSPECT * (reader.num_good + len(reader.damaged)) or not reader.num_good:
        first = f" ({reader.damaged[0]})" if reader.damaged else ""
        raise DataError(
            f"{path} is no text file of word vectors{first}: a line must be a word and its numbers. "
            "word2vec's binary format must be saved as text first."
        )
    table = np.array(list(found.values()), dtype=np.float32).reshape(len(found), reader.size)
    rows = {word: row for row, word in enumerate(found)}
    return Vectors(rows=rows, table=table, damage=reader.damage(), whole=reader.whole)


class _Reader:
    """Goes through the lines of a file of vectors once."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.size = 0
        """Numbers of a word; known from the first line on."""
        self.promised = 0
        """Words that the first line says there are; 0 where it says nothing."""
        self.num_good = 0
        self.damaged: list[str] = []
        self.whole = True

    def words(self, wanted: Collection[str] | None, most: int = 0) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the words that are wanted, each with its numbers ``(D,)`` float32; no further than ``most`` words."""
        for line in self.lines:
            if self.lines.number == 1 and self._is_head(line):
                continue
            if most and self.num_good == most:
                self.whole = False
                return
            word, text = self._parts(line.rstrip())
            fault = self.lines.fault or self._fault(word, text)
            needed = wanted is None or word in wanted
            numbers = None if fault or not needed else _numbers(text)
            if not fault and needed and numbers is None:
                fault = "holds something that is no finite number"
            if fault:
                self.damaged.append(f"{self.lines.place(self.lines.number)}: {fault}")
                continue
            self.num_good += 1
            if numbers is not None:
                yield word, numbers

    def _is_head(self, line: str) -> bool:
        """Take ``400000 300`` for what it is."""
        parts = line.split()
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
            return False
        self.promised, self.size = int(parts[0]), int(parts[1])
        return True

    def _parts(self, line: str) -> tuple[str, list[str]]:
        """Return a word and its numbers, as many as the first line had."""
        if not self.size:
            self.size = len(line.split()) - 1
        parts = line.rsplit(None, self.size) if self.size > 0 else [line]
        return parts[0].strip(), parts[1:]

    def _fault(self, word: str, text: list[str]) -> str:
        if self.size < 1:
            return "has no numbers"
        if len(text) != self.size:
            return f"has {len(text)} numbers, and the first line says {self.size}"
        head, _, last = word.rpartition(" ")
        return f"has more than {self.size} numbers" if head and _numbers([last]) is not None else ""

    def damage(self) -> str:
        """Return what was wrong, in a sentence without its full stop."""
        faults = []
        if self.damaged:
            lines = "line is" if len(self.damaged) == 1 else "lines are"
            faults.append(f"{len(self.damaged)} damaged {lines} left out: {joined(self.damaged, most=NAMED)}")
        there = self.num_good + len(self.damaged)
        if self.whole and self.promised and there != self.promised:
            faults.append(
                f"{self.lines.where} says that it holds {self.promised} words, and has {there}: is it cut off?"
            )
        return "; ".join(faults)


def _numbers(text: list[str]) -> np.ndarray | None:
    """Return numbers ``(D,)`` float32, or None where one is none or not finite."""
    import numpy as np

    try:
        values = np.array(list(map(float, text)))
    except ValueError:
        return None
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    return found if np.isfinite(found).all() else None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    check_readable(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    with file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield io.BufferedReader(unpacked)
        else:
            yield file
