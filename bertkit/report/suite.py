"""The page of several runs: their table, how they stand to baselines and published scores, every run, their curves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from bertkit.report import curve, plots
from bertkit.report.page import rendered
from bertkit.report.parts import Plot, Section, Table

LARGEST_SHARE = 1.0
"""Scores above it are percentages, and are drawn by themselves."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A score beside others of the same rows."""

    name: str
    """Task and metric."""
    values: Sequence[float]
    """Of each seed."""
    baseline: float | None = None
    """The best one."""
    published: float | None = None


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What the page of a suite is made of."""

    title: str
    facts: Mapping[str, str]
    remarks: Sequence[str] = ()
    """What the reader must know before any number."""
    text: str = ""
    """How the table is read."""
    scores: Table
    runs: Table
    """Every run, with a link to its page."""
    notes: Sequence[str] = ()
    """What is to be known of the runs."""
    compared: Sequence[Compared] = ()
    curves: Mapping[str, Mapping[str, Iterable[Mapping[str, Any]]]] = field(default_factory=dict)
    """task -> name of a run -> the lines of its ``events.jsonl``."""


def suite(about: Suite) -> str:
    """Return the page of a suite as HTML that loads nothing.

    Raises:
        ImportError: if matplotlib or jinja2 is not installed.
    """
    return rendered(about.title, about.facts, about.remarks, sections(about))


def sections(about: Suite) -> Iterator[Section]:
    """Yield the table and what stands below it, in order."""
    yield Section(title="Scores", text=about.text, tables=[about.scores], notes=about.notes)
    yield from _compared(about.compared)
    drawn = [plot for task, runs in about.curves.items() for plot in _curves(task, runs)]
    if drawn:
        text = "The validation score over the steps, a line for each seed."
        yield Section(title="Learning curves", text=text, plots=drawn)
    yield Section(title="Every run", text="A run's name leads to its own page, where it has one.", tables=[about.runs])


def _compared(found: Sequence[Compared]) -> Iterator[Section]:
    """Yield the drawing of all scores; shares and percentages are kept apart."""
    scales = groupby(sorted(found, key=_is_percent), key=_is_percent)
    drawn = [Plot(svg=_drawn(list(group), "percent" if percent else "share")) for percent, group in scales]
    if drawn:
        text = (
            "A point is a run, the bar their mean. What baselines and publications reach is marked where it is known."
        )
        yield Section(title="Beside others", text=text, plots=drawn)


def _is_percent(one: Compared) -> bool:
    return max(one.values) > LARGEST_SHARE


def _drawn(found: Sequence[Compared], scale: str) -> str:
    sides = {name: [getattr(each, name) for each in found] for name in ("baseline", "published")}
    return plots.compared(
        [each.name for each in found],
        [each.values for each in found],
        {name: values for name, values in sides.items() if any(value is not None for value in values)},
        name=f"scores of the suite ({scale})",
    )


def _curves(task: str, runs: Mapping[str, Iterable[Mapping[str, Any]]]) -> Iterator[Plot]:
    found, metric = {}, ""
    for name, events in runs.items():
        _, _, scored, of_run = curve.read(events)
        if len(scored) > 1:
            found[name], metric = ([step for step, _, _ in scored], [value for _, value, _ in scored]), of_run
    if found:
        yield Plot(svg=plots.families(found, name=task, labels=("step", f"validation {metric}")))
