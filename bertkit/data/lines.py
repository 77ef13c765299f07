"""What the readers of all text formats share: the lines of a stream, and rows, good and bad, with their places."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from bertkit.data import Example
from bertkit.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
MOST_LEVELS = 100
"""Lists and objects inside each other that a row may have. What is written again by a recursive writer, further down
Python's stack than it was read, must not be as deep as the reader can go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row that could be read."""

    example: Example
    place: str
    """``train.jsonl:118``, or ``train.parquet row 118``."""
    line: int | None
    """Line of its start, from 1, where the file has lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that could not be read."""

    place: str
    reason: str
    """Half a sentence: ``not JSON: Expecting value (column 9)``."""
    content: Any = None
    """What stands there, as far as it could be read: the text of a line, or the cells of one."""

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class Lines:
    """The lines of a binary stream as text without their ends; knows the line number and what was not UTF-8."""

    def __init__(self, file: BinaryIO, name: str, where: str) -> None:
        self.file = file
        self.name = name
        """What places call it."""
        self.where = where
        """What messages about the whole file call it."""
        self.number = 0
        """Lines given so far."""
        self.fault = ""
        """What is wrong with the bytes of the lines since it was last cleared, or empty."""
        self._offset = 0

    def __iter__(self) -> Iterator[str]:
        for line in self.raw():
            yield line.removesuffix("\n").removesuffix("\r")
            self.fault = ""

    def place(self, line: int) -> str:
        """Return ``train.jsonl:118``."""
        return f"{self.name}:{line}"

    def raw(self) -> Iterator[str]:
        """Yield lines with their ends, as the csv module wants them; the caller clears ``fault`` row by row."""
        for raw in _reading(self.file, self.where):
            self.number += 1
            if self.number == 1 and raw.startswith(UTF_16_MARKS):
                raise DataError(f"{self.where} is UTF-16. Convert it, for example with 'iconv -f UTF-16 -t UTF-8'.")
            body = raw.removeprefix(BYTE_ORDER_MARK) if self.number == 1 else raw
            yield self._decoded(body, self._offset + len(raw) - len(body))
            self._offset += len(raw)

    def _decoded(self, line: bytes, offset: int) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.fault = self.fault or (
                f"not UTF-8 (byte 0x{line[error.start]:02x} at offset {offset + error.start}). "
                "Convert the file, for example with 'iconv -f ISO-8859-1 -t UTF-8'"
            )
            return line.decode("utf-8", "replace")


def _reading(file: BinaryIO, where: str) -> Iterator[bytes]:
    """Yield the lines of a stream; a gzip fault or a failing disk becomes a DataError."""
    try:
        yield from file
    except EOFError as error:
        raise DataError(f"{where} is cut off: the gzip stream ends early. Fetch or write the file again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{where} is not a gzip file, or is damaged: {error}.") from error
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror or error}.") from error


_JSON_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
_JSON_KINDS |= {bool: "true or false", type(None): "null"}


def json_kind(value: Any) -> str:
    """Return what a value read from JSON is called: ``a list``."""
    return _JSON_KINDS.get(type(value), type(value).__name__)


def no_constant(name: str) -> NoReturn:
    """Refuse ``NaN`` and the infinities, which Python's reader takes and JSON does not have (RFC 8259, section 6).

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is no JSON value; write null where there is none")


def finite(text: str) -> float:
    """Read a JSON number with a fraction or an exponent; ``1e999`` would become an infinity, which JSON does not have.

    Raises:
        ValueError: if no float is so large.
    """
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is larger than any float")
    return value


def too_deep(value: Any) -> bool:
    """Say whether lists and objects stand more than :data:`MOST_LEVELS` deep inside each other; without recursion."""
    layer = [value]
    for _ in range(MOST_LEVELS):
        lists = [one for one in layer if isinstance(one, list)]
        layer = [item for one in lists for item in one] + [
            item for one in layer if isinstance(one, dict) for item in one.values()
        ]
        if not layer:
            return False
    return any(isinstance(one, list | dict) for one in layer)
