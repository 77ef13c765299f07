"""The page itself: what it is about, its scores, the sections. jinja2 makes HTML of them and escapes every text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, resources
from typing import TYPE_CHECKING, Any

from bertkit.metrics.names import with_intervals
from bertkit.report import curve, groups
from bertkit.report.parts import Section, Table, plain

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a page is made of."""

    title: str
    facts: Mapping[str, str]
    """What is said at the top: task, encoder, split, ..."""
    scores: Mapping[str, Any]
    """metric -> value, ``<metric>_interval`` beside."""
    metric: str
    """The score that selects the best checkpoint; drawn over the groups."""
    outcomes: Mapping[str, Any]
    """Predictions beside the truth; see ``Adapter.outcomes``."""
    score: groups.Scorer
    """Scores some of the rows."""
    lengths: ArrayLike = ()
    """Of each row's text; nothing where they are not known."""
    unit: str = "tokens"
    """What the lengths count."""
    kept: Sequence[str] = ()
    """What the length limit did to each row: see :mod:`bertkit.report.groups`."""
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """name -> metric -> value on the same rows, of simpler models."""
    events: Iterable[Mapping[str, Any]] = ()
    """The lines of the run's ``events.jsonl``."""
    remarks: Sequence[str] = ()
    """What the reader must know before any number."""


def page(about: Evaluation) -> str:
    """Return the page as HTML that loads nothing.

    Raises:
        ImportError: if matplotlib or jinja2 is not installed.
    """
    from jinja2 import Environment, StrictUndefined

    template = resources.files("bertkit.report").joinpath("template.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": cell, "plain": plain}
    environment.tests["figure"] = is_number
    return environment.from_string(template).render(
        about=about, scores=score_table(about.scores, about.baselines), sections=list(sections(about))
    )


def sections(about: Evaluation) -> Iterator[Section]:
    """Yield what stands below the scores, in order."""
    yield from curve.sections(about.events)
    form = about.outcomes.get("form")
    own = import_module(f"bertkit.report.{form}").sections(about.outcomes) if form else iter(())
    made: list[Section] = list(own)
    # The errors are the longest, and so the last.
    yield from (section for section in made if not section.cases)
    whole = about.scores.get(about.metric)
    yield from groups.sections(about.lengths, about.unit, about.kept, about.score, metric=about.metric, whole=whole)
    yield from (section for section in made if section.cases)


def score_table(scores: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return every score with its interval, and the baselines' beside."""
    rows = []
    for name, value, interval in with_intervals(scores):
        between = f"{interval[0]:.4f} – {interval[1]:.4f}" if interval else None
        rows.append([name, float(value), between, *(found.get(name) for found in baselines.values())])
    return Table(columns=["metric", "score", "95 % interval", *baselines], rows=rows, digits=4)


def cell(value: Any, digits: int) -> str:
    """Return a cell of a table as text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else plain(str(value))


def is_number(value: Any) -> bool:
    """Say whether a cell stands to the right: a number, or nothing."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
