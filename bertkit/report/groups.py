"""Scores by the length of a text and by what the length limit did to it: groups of rows, scored one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bertkit.errors import DataError
from bertkit.metrics.classification import Array
from bertkit.metrics.names import with_intervals
from bertkit.report import plots
from bertkit.report.parts import Plot, Section, Table

Scorer = Callable[[Sequence[int]], Mapping[str, Any]]
"""From rows to their scores, intervals included where there are any."""
BINS = 5
"""Groups of about equal size into which lengths are cut."""
MOST_DRAWN = 10
"""Groups that are drawn; the table has all."""
LEAST = 5
"""Rows from which a group has an interval."""
WHOLE, CUT, WINDOWS = "whole", "cut", "in windows"
"""What the length limit did to an example."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some rows under a name."""

    name: str
    rows: Array
    """Their indices ``(n,)`` int64."""


def quantile_groups(values: ArrayLike, most: int = BINS) -> list[Group]:
    """Return rows in groups of about equal size by a whole number each, the least first; equal numbers stay together.

    Args:
        values: one for each row ``(n,)``.
        most: groups at most; fewer where many rows have the same number.
    """
    numbers = np.asarray(values)
    if not len(numbers):
        return []
    # Each upper bound is the number of some row, so that no group is empty.
    uppers = np.unique(np.quantile(numbers, np.linspace(0, 1, most + 1)[1:], method="higher"))
    place = np.searchsorted(uppers, numbers)
    groups = (np.flatnonzero(place == number) for number in range(len(uppers)))
    return [Group(name=_range(numbers[rows]), rows=rows) for rows in groups]


def named_groups(names: Sequence[str], order: Sequence[str] = ()) -> list[Group]:
    """Return rows by the name that each has: first those in ``order``, then the others, the most frequent first."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    rank = {name: number for number, name in enumerate(order)}
    chosen = sorted(rows, key=lambda name: (rank.get(name, len(rank)), -len(rows[name]), name))
    return [Group(name=name, rows=np.array(rows[name])) for name in chosen]


def sections(
    lengths: ArrayLike, unit: str, kept: Sequence[str], score: Scorer, *, metric: str, whole: float | None
) -> Iterator[Section]:
    """Yield the scores by length and, where the limit had any effect, by truncation.

    Args:
        lengths: of each row ``(n,)``.
        unit: what they count (``tokens``).
        kept: what the limit did to each row: :data:`WHOLE`, :data:`CUT` or :data:`WINDOWS`.
        score: scores some rows.
        metric: the score that is drawn.
        whole: its value over all rows.
    """
    by_length = scored(quantile_groups(lengths), score)
    if len(by_length) > 1:
        text = "Groups of about equal size, with 95 % intervals. A difference that is small beside them may be chance."
        yield _section("Scores by length", text, unit, by_length, metric, whole)
    by_kept = scored(named_groups(kept, (WHOLE, CUT, WINDOWS)), score)
    if len(by_kept) > 1:
        text = "What the length limit did to a text: nothing, cut off what was too long, or read it in several windows."
        yield _section("Scores by truncation", text, "text", by_kept, metric, whole)


def scored(groups: Sequence[Group], score: Scorer) -> list[tuple[Group, Mapping[str, Any]]]:
    """Return each group with its scores; none where a group cannot be scored by itself."""
    found = []
    for group in groups:
        try:
            found.append((group, _believed(group, score(group.rows.tolist()))))
        except DataError:
            found.append((group, {}))
    return found


def _believed(group: Group, scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return scores, without intervals where so few rows allow none."""
    few = len(group.rows) < LEAST
    return {name: value for name, value in scores.items() if not (few and name.endswith("_interval"))}


def _section(
    title: str,
    text: str,
    unit: str,
    found: Sequence[tuple[Group, Mapping[str, Any]]],
    metric: str,
    whole: float | None,
) -> Section:
    return Section(title=title, text=text, plots=drawn(found, metric, unit, whole), tables=[table(found, unit)])


def table(found: Sequence[tuple[Group, Mapping[str, Any]]], unit: str) -> Table:
    """Return one row for each group: rows and scores; shares have three decimals, percentages one."""
    names = list(dict.fromkeys(name for _, scores in found for name, _, _ in with_intervals(scores)))
    rows = [[group.name, len(group.rows), *(scores.get(name) for name in names)] for group, scores in found]
    percent = any(abs(value) > 1 for _, scores in found for _, value, _ in with_intervals(scores))
    return Table(columns=[unit, "rows", *names], rows=rows, digits=1 if percent else 3)


def drawn(found: Sequence[tuple[Group, Mapping[str, Any]]], metric: str, unit: str, whole: float | None) -> list[Plot]:
    """Return the plot of one score over the groups that have it; none below two groups."""
    there = [(group.name, scores) for group, scores in found if metric in scores][:MOST_DRAWN]
    if len(there) < 2:
        return []
    names = [name for name, _ in there]
    bounds = [tuple(given) if (given := scores.get(f"{metric}_interval")) else None for _, scores in there]
    values = [float(scores[metric]) for _, scores in there]
    title = f"{metric} by {unit}"
    return [Plot(svg=plots.intervals(names, values, bounds, name=title, labels=(unit, metric), whole=whole))]


def _range(values: Array) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}–{high}"
