"""Rows that cannot be predicted: what is wrong with them, where they stand, and whether that ends the command."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bertkit.data.lines import BadRow, Row, no_constant
from bertkit.errors import DataError, sentence
from bertkit.run import json_line

MOST_CHARACTERS = 1000
"""Of a reason: names of columns come from the data, and may be megabytes long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A row that could be read, or not even that, and cannot be predicted."""

    place: str
    """``new.jsonl:118``."""
    reason: str
    row: Any
    """The row; where it could not be read, the text of its line or its cells, if those were there."""

    @property
    def error(self) -> DataError:
        """Return the fault that ends a command that does not skip."""
        return DataError(sentence([f"{self.place}: {self.reason}"]))

    def line(self) -> str:
        """Return the row's line in the file of rejects."""
        return json_line({"place": self.place, "reason": self.reason, "row": self.row})


def rejected(row: Row | BadRow, reason: str) -> Rejected:
    """Return a row with what is wrong with it, cut to a readable length."""
    if len(reason) > MOST_CHARACTERS:
        reason = f"{reason[: MOST_CHARACTERS - 3]}..."
    return Rejected(place=row.place, reason=reason, row=row.content if isinstance(row, BadRow) else row.example)


def as_json(rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
    """Yield rows, those that could not be written as a line of JSON as bad ones: Parquet holds infinities."""
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            line = json_line(row.example)
            if "Infinity" in line or "NaN" in line:
                json.loads(line, parse_constant=no_constant)
        except (ValueError, TypeError, RecursionError) as error:
            shown = None if isinstance(error, RecursionError) else repr(row.example)
            yield BadRow(place=row.place, reason=f"it cannot be written as JSON: {error}", content=shown)
        else:
            yield row
