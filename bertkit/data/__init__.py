"""Examples: from the Hub, a GLUE folder, files or Python objects, each row with the place it came from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Example = dict[str, Any]
"""A raw row: column -> value, as the source has it."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The examples of one split."""

    name: str
    """``train``, ``validation``, ``test`` or the task's own name."""
    examples: list[Example]
    source: str
    """What messages call it: ``train.jsonl``, ``nyu-mll/glue sst2 train``."""
    lines: Sequence[int] | None = None
    """Line of each example in ``source``, from 1, where the source has lines; else rows are counted from 1."""
    rows: Sequence[int] | None = None
    """Number of each example among the rows of ``source``, from 1, where this is a part of a source without lines."""

    def place(self, index: int) -> str:
        """Return ``train.jsonl:118`` for the example at ``index``."""
        if self.lines is not None:
            return f"{self.source}:{self.lines[index]}"
        return f"{self.source} row {index + 1 if self.rows is None else self.rows[index]}"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The splits of a task, and what a run must remember of where they came from."""

    splits: dict[str, Split]
    revision: str = ""
    """Commit of the Hub repository, or empty."""
    notes: list[str] = field(default_factory=list)
    """What was assumed or made; shown to the user."""
