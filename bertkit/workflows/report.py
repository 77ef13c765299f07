"""What an evaluation gives to its report: facts, groups of rows, and where the page goes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bertkit import report
from bertkit.adapters.base import Adapter, Example, Feature, Prediction
from bertkit.data import Split
from bertkit.errors import ConfigError, RunError, looked_for
from bertkit.events import Listener, Note, Phase
from bertkit.report.groups import CUT, WHOLE, WINDOWS, Scorer
from bertkit.report.parts import Link, Table
from bertkit.run import Run, write_text
from bertkit.workflows.saved import Saved

if TYPE_CHECKING:
    from bertkit.workflows.seeds import Spread
    from bertkit.workflows.suite.folder import Suite
    from bertkit.workflows.suite.plan import Member
    from bertkit.workflows.suite.table import Line, Summary

NAME = "report.html"
NONE = "none"
"""In place of a file: write no report."""
RESAMPLES = 200
"""Of the intervals of a group of rows: they are looked at, not quoted."""
MOST_RESAMPLED = 5_000
"""Rows of a group up to which it gets an interval; those of more are narrow, and slow."""
Scores = Mapping[str, Any]


def place(model: Saved, split: str, given: str | Path) -> Path | None:
    """Return where the report of a split goes: the file that was given, else a place in the run; None for nowhere.

    A run has the page of ``validation`` at its top, beside ``scores.json``, and others beside their ``evals/`` file.
    """
    if given:
        return None if str(given) == NONE else looked_for(given, RunError, "--report")
    if model.run is None:
        return None
    return model.run.folder / (NAME if split == "validation" else f"evals/{split}/{NAME}")


def write(
    model: Saved,
    rows: Split,
    features: Sequence[Feature],
    predictions: Sequence[Prediction],
    scores: Scores,
    *,
    where: Path,
    baselines: Mapping[str, Scores] | None = None,
    remarks: Sequence[str] = (),
    listen: Listener,
) -> Path | None:
    """Write the report of an evaluation; where it cannot be written, say so.

    Args:
        model: what was evaluated.
        rows: the split.
        features: what it was encoded to.
        predictions: one a row.
        scores: of all rows, with their intervals.
        where: the file.
        baselines: name -> scores of simpler models on the same rows.
        remarks: what stands above all numbers.
        listen: is told of what goes on.
    """
    listen(Phase(name="writing the report"))
    about = report.Evaluation(
        title=f"{model.task.name or Path(model.name).name}: {rows.name}",
        facts=facts(model, rows, features),
        scores=scores,
        metric=model.task.metrics[0],
        outcomes=model.adapter.outcomes(predictions, rows.examples),
        score=scorer(model.adapter, predictions, rows.examples, asked=model.eval.resamples),
        events=model.run.events() if model.run is not None else (),
        baselines=baselines or {},
        remarks=remarks,
        mix=model.run.record.get("head", {}).get("mix", {}) if model.run is not None else {},
        **lengths(model.adapter, features, rows.examples),
    )
    return _written(where, lambda: report.page(about), listen)


def _written(where: Path, make: Callable[[], str], listen: Listener) -> Path | None:
    """Write a page, or say why there is none: scores are not lost over it."""
    try:
        return write_text(where, make())
    except ModuleNotFoundError as error:
        listen(Note(message=f"no report is written: {error.name} is not installed ('pip install {error.name}')"))
    except (ConfigError, RunError) as error:
        listen(Note(message=f"no report is written: {error}", level="warning"))
    return None


def facts(model: Saved, rows: Split, features: Sequence[Feature]) -> dict[str, str]:
    """Return what is said of an evaluation at the top of its page."""
    record = model.run.record if model.run is not None else {}
    config = model.adapter.config
    found = {
        "model": Path(model.name).name if model.run is not None else model.name,
        "encoder": str(record.get("encoder", "")),
        "data": str(rows.source),
        "rows": f"{len(rows.examples):,}",
        "labels": f"{len(model.adapter.labels):,}" if model.adapter.labels else "",
        "length limit": f"{config.max_length} tokens ({config.on_long})",
        **cut_by_it(features),
        "seed": str(record.get("seed", "")),
        **beside(record),
    }
    return {name: value for name, value in found.items() if value}


def beside(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what a student's teacher is, and the student itself, where the two were compared."""
    lines = record.get("comparison", [])
    metric = record["resolved_task"]["metrics"][0] if lines else ""
    return {"student" if line["name"] == "distilled" else line["name"]: _contender(line, metric) for line in lines}


def _contender(line: Mapping[str, Any], metric: str) -> str:
    layers = f"{line['layers']} layer{'' if line['layers'] == 1 else 's'}"
    return (
        f"{metric} {line['scores']['validation'][metric]:.4f} on validation, {layers}, "
        f"{line['parameters'] / 1e6:.2f} M parameters, {line['megabytes']:.1f} MB, "
        f"{line['examples_per_second']:,.0f} examples/s"
    )


def cut_by_it(features: Sequence[Feature]) -> dict[str, str]:
    """Return how many rows the length limit cut, and how many it had read in several windows."""
    number = len({feature.example for feature in features})
    lost = len({feature.example for feature in features if feature.num_cut})
    windows = Counter(feature.example for feature in features)
    several = sum(1 for count in windows.values() if count > 1)
    found = {"cut by it": f"{lost:,} of {number:,} rows"}
    return found | ({"in windows": f"{several:,} of {number:,} rows"} if several else {})


def scorer(adapter: Adapter, predictions: Sequence[Prediction], examples: Sequence[Example], *, asked: int) -> Scorer:
    """Return a function that scores some of the rows by the task's own metrics, with intervals if any are asked for."""

    def score(rows: Sequence[int]) -> dict[str, Any]:
        resamples = min(RESAMPLES, asked) if len(rows) <= MOST_RESAMPLED else 0
        found = adapter.score([predictions[n] for n in rows], [examples[n] for n in rows], resamples=resamples)
        names = [name for metric in adapter.task.metrics for name in (metric, f"{metric}_interval")]
        return {name: found[name] for name in names if name in found}

    return score


def lengths(adapter: Adapter, features: Sequence[Feature], examples: Sequence[Example]) -> dict[str, Any]:
    """Return how long each text is, in what, and what the length limit did to it.

    Tokens are counted with the special ones; where texts are read in windows, which overlap, characters are.
    """
    tokens, windows, cut = ([0] * len(examples) for _ in range(3))
    for feature in features:
        tokens[feature.example] += len(feature)
        windows[feature.example] += 1
        cut[feature.example] = feature.num_cut
    kept = [CUT if lost else WINDOWS if number > 1 else WHOLE for lost, number in zip(cut, windows, strict=True)]
    if max(windows, default=1) > 1:
        counts = [characters(adapter, example) for example in examples]
        return {"lengths": counts, "unit": "characters", "kept": kept}
    return {"lengths": [n + lost for n, lost in zip(tokens, cut, strict=True)], "unit": "tokens", "kept": kept}


def characters(adapter: Adapter, example: Example) -> int:
    """Return the characters of all that the model reads of an example."""
    roles = (role.rstrip("?") for role in adapter.columns if not role.endswith("!"))
    values = (adapter.value(example, role) for role in dict.fromkeys((*roles, "text")))
    return sum(len(value) if isinstance(value, str) else sum(map(len, value)) for value in values if value)


# Suites ----------------------------------------------------------------------------------------------------------


def suite(found: Summary, of: Suite, *, folder: Path, given: str | Path = "", listen: Listener) -> Path | None:
    """Write the report of a suite; where it cannot be written, say so.

    Args:
        found: its table.
        of: the suite.
        folder: its folder, or that of one of its tasks with several seeds.
        given: file of the page, ``none`` for none; in the folder where not given.
        listen: is told of what goes on.
    """
    if str(given) == NONE:
        return None
    where = looked_for(given, RunError, "--report") if given else folder / NAME
    listen(Phase(name="writing the report"))
    done = [task for task in found.tasks if task not in found.unfinished]
    runs = [(member, run) for task in done for member in of.of(task) if (run := of.finished(member)) is not None]
    about = report.Suite(
        title=f"{folder.name}: {len(done)} of {len(found.tasks)} tasks" if len(found.tasks) > 1 else folder.name,
        facts=_suite_facts(found, of),
        remarks=[f"{task} is not in the table: {why}." for task, why in {**found.unfinished, **found.left_out}.items()],
        text=_how_to_read(found),
        scores=_suite_scores(found),
        runs=Table(
            columns=["task", "seed", "run", "", *_metrics(found)], rows=list(_members(found, runs, where)), digits=4
        ),
        notes=[*found.notes, *(f"Published for {name}: {source}." for name, source in found.published.items())],
        compared=[_compared(line) for line in found.lines],
        curves={task: {f"seed {m.seed}": run.events() for m, run in runs if m.task == task} for task in done},
    )
    return _written(where, lambda: report.suite(about), listen)


def _suite_facts(found: Summary, of: Suite) -> dict[str, str]:
    encoders = dict.fromkeys(of.record["request"]["encoders"].values())
    seconds = sum(found.seconds.values())
    return {
        "encoder": ", ".join(encoders),
        "tasks": f"{len(found.tasks)}",
        "seeds": ", ".join(map(str, found.seeds)),
        "training": f"{seconds / 60:,.1f} minutes" if seconds >= 60 else f"{seconds:.0f} s",
    }


def _how_to_read(found: Summary) -> str:
    said = "Mean and standard deviation over the seeds." if len(found.seeds) > 1 else "95 % bootstrap intervals."
    if any(line.baseline for line in found.lines):
        said += " Baseline: the best of the simple models on the same rows."
    if any(line.published for line in found.lines):
        said += " Published: of the same encoder, by the protocol below."
    return said


def _suite_scores(found: Summary) -> Table:
    """Return a row for each score and one for the average, in the columns of the terminal's table."""
    several = len(found.seeds) > 1
    extra = [name for name in ("baseline", "published") if any(getattr(line, name) for line in found.lines)]
    middle = ["mean", "deviation", "median", "best"] if several else ["score", "95 % interval"]
    rows: list[list[Any]] = []
    for line in found.lines:
        beside = (getattr(line, name) for name in extra)
        rows.append([line.task, line.name, *_numbers(line.spread, line.interval, several), *beside])
    if found.average is not None:
        rows.append([found.average.name, "", *_numbers(found.average.spread, None, several), *("" for _ in extra)])
    return Table(columns=["task", "metric", *middle, *extra], rows=rows, digits=4, lead=2, folds=False)


def _numbers(spread: Spread, interval: Sequence[float] | None, several: bool) -> list[Any]:
    if several:
        return [spread.mean, spread.standard_deviation, spread.median, spread.best]
    return [spread.mean, f"{interval[0]:.4f} – {interval[1]:.4f}" if interval else ""]


def _metrics(found: Summary) -> list[str]:
    return list(dict.fromkeys(line.name for line in found.lines))


def _members(found: Summary, runs: Sequence[tuple[Member, Run]], where: Path) -> Iterator[list[Any]]:
    """Yield every run with its scores, those of metrics that its task does not have left empty."""
    for member, run in runs:
        place = found.seeds.index(member.seed)
        values = {line.name: line.spread.values[place] for line in found.lines if line.task == member.task}
        kept = found.kept.get(member.task)
        mark = "kept" if kept is not None and len(found.seeds) > 1 and kept.seed == member.seed else ""
        scores = [values.get(name) for name in _metrics(found)]
        yield [member.task, str(member.seed), _link(member.run, run.folder / NAME, where), mark, *scores]


def _link(name: str, page: Path, where: Path) -> Link | str:
    """Return the way from one page to another, or the name alone where that is not there."""
    if not page.is_file():
        return name
    return Link(text=name, href=quote(os.path.relpath(page.resolve(), where.resolve().parent)))


def _compared(line: Line) -> report.Compared:
    baseline, _, _ = line.baseline.partition(" ")
    return report.Compared(
        name=f"{line.task} {line.name}",
        values=line.spread.values,
        baseline=float(baseline) if baseline else None,
        published=float(line.published) if line.published else None,
    )
