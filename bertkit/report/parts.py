"""What a page is made of. Plain data: the template alone makes HTML of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

ERRORS = 25
"""Errors that are shown with their texts."""
LONGEST = 600
"""Characters of a text that are shown."""
FOLDED = 12
"""Rows from which a table is folded away."""
ROWS = 200
"""Rows of a table that are shown."""
NARROW = 6
"""Columns of a table that fit beside a plot."""
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Characters that no page shows, or that change what the reader sees of those around them: control characters, bidi
controls (Unicode Technical Report 36, 3.4), and surrogates, which UTF-8 cannot hold."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A cell that leads to another page."""

    text: str
    href: str
    """Relative and quoted: :func:`urllib.parse.quote`."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a heading. Numbers stand to the right, floats with ``digits`` decimals, None is an empty cell."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    digits: int = 3
    lead: int = -1
    """Column whose numbers are what the reader came for."""
    folds: bool = True
    """Whether it is folded away where it is long."""

    @property
    def shown(self) -> Sequence[Sequence[Any]]:
        """Return the rows that are shown."""
        return self.rows[:ROWS]

    @property
    def folded(self) -> bool:
        """Say whether the table is so long that it is folded away."""
        return self.folds and len(self.rows) > FOLDED


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing."""

    svg: str
    """An ``<svg>`` element with every text in it escaped."""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One example that is worth reading."""

    row: int
    """Its number among the rows that were scored, from 1."""
    facts: Sequence[tuple[str, str]]
    """What is said of it (``true``: ``positive``), in order."""
    texts: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what stands below it."""

    title: str
    text: str = ""
    """What the section shows and how it is read, in a sentence or two."""
    plots: Sequence[Plot] = field(default_factory=tuple)
    tables: Sequence[Table] = field(default_factory=tuple)
    cases: Sequence[Case] = field(default_factory=tuple)
    notes: Sequence[str] = field(default_factory=tuple)
    """Sentences below."""
    last: bool = False
    """Whether it is so long that it stands at the end of the page."""

    @property
    def beside(self) -> bool:
        """Say whether the tables stand beside the plot: where that is one, and they are small."""
        small = all(len(table.columns) <= NARROW and not table.folded for table in self.tables)
        return len(self.plots) == 1 and bool(self.tables) and small


def cut(text: str, longest: int = LONGEST) -> str:
    """Return a text for a page, cut to a readable length."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def share(value: float) -> str:
    """Return a probability for a page; one that is almost 1 does not become 1."""
    return f"{min(value, 0.9999):.4f}" if value < 1 else "1.0000"


def plain(text: str) -> str:
    """Return a text without what a page cannot show or should not obey; U+FFFD stands where it was."""
    return UNSEEN.sub("\ufffd", text)
