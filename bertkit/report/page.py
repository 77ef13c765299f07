"""The page itself: what it is about, its scores, the sections. jinja2 makes HTML of them and escapes every text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, resources
from typing import TYPE_CHECKING, Any

from bertkit.errors import ConfigError, did_you_mean
from bertkit.metrics.names import with_intervals
from bertkit.report import curve, groups
from bertkit.report.parts import Link, Section, Table, plain

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FORMS = ("classes", "labels", "numbers", "tags", "spans")
"""Modules that show what ``Adapter.outcomes`` gives."""


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
    mix: Mapping[str, Any] = field(default_factory=dict)
    """What a head has learned of the layers that it mixes: ``layers``, ``shares``, ``gamma``."""


def page(about: Evaluation) -> str:
    """Return the page as HTML that loads nothing.

    Raises:
        ConfigError: if the outcomes are of a form that no page shows.
        ImportError: if matplotlib or jinja2 is not installed.
    """
    return rendered(about.title, about.facts, about.remarks, sections(about))


def rendered(title: str, facts: Mapping[str, str], remarks: Sequence[str], sections: Iterable[Section]) -> str:
    """Return a page of sections, of which the first has the scores."""
    from jinja2 import Environment, StrictUndefined

    template = resources.files("bertkit.report").joinpath("template.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": cell, "plain": plain}
    environment.tests |= {"figure": is_number, "link": lambda value: isinstance(value, Link)}
    made = environment.from_string(template)
    return made.render(title=title, facts=facts, remarks=remarks, sections=list(sections))


def sections(about: Evaluation) -> Iterator[Section]:
    """Yield the scores and what stands below them, in order."""
    yield score_section(about.scores, about.baselines)
    yield from curve.sections(about.events)
    yield from mix_sections(about.mix)
    made: list[Section] = list(own_sections(about.outcomes))
    yield from (section for section in made if not section.last)
    whole = about.scores.get(about.metric)
    yield from groups.sections(about.lengths, about.unit, about.kept, about.score, metric=about.metric, whole=whole)
    yield from (section for section in made if section.last)


def mix_sections(mix: Mapping[str, Any]) -> Iterator[Section]:
    """Yield the learned shares of the layers that a head mixes; nothing where it mixes none."""
    if not mix:
        return
    even = 1 / len(mix["shares"])
    rows = [[name, share, share / even] for name, share in zip(mix["layers"], mix["shares"], strict=True)]
    text = (
        "The head reads a weighted sum of the encoder's layers, and learned the weights (ELMo, arXiv:1802.05365, "
        f"equation 1). The sum is scaled by {mix['gamma']:.3f}, learned as well. Equal shares would be {even:.3f}."
    )
    table = Table(columns=["layer", "share", "times the equal share"], rows=rows, lead=1, folds=False)
    yield Section(title="Mix of layers", text=text, tables=[table])


def own_sections(outcomes: Mapping[str, Any]) -> Iterator[Section]:
    """Yield what is shown of the form that a task type gave; nothing where it gave none.

    Raises:
        ConfigError: if there is no such form.
    """
    form = outcomes.get("form")
    if form is None:
        return
    if form not in FORMS:
        raise ConfigError(
            f"The report has no form '{form}', but {', '.join(map(repr, FORMS))}.{did_you_mean(form, FORMS)}"
        )
    yield from import_module(f"bertkit.report.{form}").sections(outcomes)


def score_section(scores: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> Section:
    """Return every score with its interval, and the baselines' beside."""
    found = list(with_intervals(scores))
    some = any(interval for _, _, interval in found)
    rows = []
    for name, value, interval in found:
        between = [f"{interval[0]:.4f} – {interval[1]:.4f}" if interval else ""] if some else []
        rows.append([name, float(value), *between, *(each.get(name) for each in baselines.values())])
    said = ["95 % bootstrap intervals over the rows."] if some else []
    said += ["Beside the scores, what simpler models reach on the same rows."] if baselines else []
    said += [] if baselines else ["'bertkit baseline' would put beside them what simple models reach."]
    columns = ["metric", "score", *(["95 % interval"] if some else []), *baselines]
    table = Table(columns=columns, rows=rows, digits=4, lead=1, folds=False)
    return Section(title="Scores", text=" ".join(said), tables=[table])


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
