"""The table of a suite: what its runs' scores come to, task by task, and GLUE's average of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertkit.events import ignore
from bertkit.workflows import standing
from bertkit.workflows.finetune import already
from bertkit.workflows.seeds import FLATTERED, Kept, Spread
from bertkit.workflows.suite.facts import facts, published_row, share
from bertkit.workflows.suite.folder import Suite
from bertkit.workflows.suite.plan import Member

Scores = Mapping[str, Mapping[str, Any]]
"""split -> metric -> value, ``<metric>_interval`` beside."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One score of one task."""

    task: str
    split: str
    metric: str
    spread: Spread
    intervals: tuple[tuple[float, float] | None, ...]
    """Bootstrap interval of each run's score, in the order of ``spread.values``; None where none was computed."""
    baseline: str = ""
    """The best one that is stored: ``0.6838 majority``."""
    published: str = ""
    """The same encoder's, as a share like the scores, with the digits that its source prints."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval, where there is one run; that of a mean over seeds is another thing."""
        return self.intervals[0] if len(self.intervals) == 1 else None

    @property
    def name(self) -> str:
        """The metric's name, with the split where it is not validation."""
        return self.metric if self.split == "validation" else f"{self.metric} ({self.split})"


@dataclass(frozen=True, kw_only=True)
class Average:
    """The mean over tasks, by GLUE's rule."""

    name: str
    """``GLUE average``, or ``average of 6 tasks``."""
    tasks: tuple[str, ...]
    spread: Spread

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {"name": self.name, "tasks": list(self.tasks), **self.spread.to_json()}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a suite came to."""

    suite: Path
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    lines: tuple[Line, ...]
    average: Average | None
    kept: Mapping[str, Kept]
    seconds: Mapping[str, float]
    """task -> seconds in optimizer steps, over all its runs and however often they were interrupted."""
    unfinished: Mapping[str, str]
    """task -> why it is not in the table."""
    left_out: Mapping[str, str]
    """Task of the group that was never to be trained, for want of data -> why."""
    published: Mapping[str, str]
    """encoder -> source and protocol of its published row."""
    notes: tuple[str, ...]
    runs: tuple[Mapping[str, Any], ...]
    """As ``finetune --json`` or ``eval --json`` prints each, with its seed."""
    report: Path | None = None
    """The page that was written."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        table: dict[str, Any] = {}
        for line in self.lines:
            value = line.spread.to_json() | ({"interval": list(line.interval)} if line.interval else {})
            value |= {"published": float(line.published)} if line.published else {}
            table.setdefault(line.task, {}).setdefault(line.split, {})[line.metric] = value
        summary = {
            "tasks": table,
            "seeds": list(self.seeds),
            "average": self.average.to_json() if self.average else None,
            "kept": {task: asdict(kept) for task, kept in self.kept.items()},
            "training_seconds": dict(self.seconds),
            "unfinished": dict(self.unfinished),
            "left_out": dict(self.left_out),
            "published": dict(self.published),
            "notes": list(self.notes),
        }
        whole = {"suite": str(self.suite), "runs": [dict(run) for run in self.runs], "summary": summary}
        return whole | ({"report": str(self.report)} if self.report else {})


def summarize(suite: Suite) -> Summary:
    """Return the table of what a suite's runs have stored."""
    results = {}
    for member in suite.members:
        run = suite.finished(member)
        if run is not None:
            found = already(run)
            below = standing.of_run(suite.folder.parent, run, ignore) or found.baselines
            results[member] = (found.scores, found.to_json() | {"seed": member.seed, "baselines": below})
    return summary(suite, results)


def summary(suite: Suite, results: Mapping[Member, tuple[Scores, Mapping[str, Any]]]) -> Summary:
    """Return the table of scores by member; a task some of whose seeds are missing is named as unfinished."""
    names = list(dict.fromkeys(member.task for member in suite.members))
    done = [task for task in names if all(member in results for member in suite.of(task))]
    by_task = {task: [results[member][0] for member in suite.of(task)] for task in done}
    below = {task: results[suite.of(task)[0]][1].get("baselines", {}) for task in done}
    lines = [line for task in done for line in _lines(suite, task, by_task[task], below[task])]
    encoders = suite.record["request"]["encoders"]
    rows = {encoders[task]: row for task in done if (row := published_row(encoders[task])) and task in row["scores"]}
    kept = {task: one for task, one in suite.kept.items() if task in names}
    return Summary(
        suite=suite.folder,
        tasks=tuple(names),
        seeds=tuple(suite.record["request"]["seeds"]),
        lines=tuple(lines),
        average=average(by_task),
        kept=kept,
        seconds={task: round(_seconds(suite, task), 1) for task in done},
        unfinished={task: _state(suite, task) for task in names if task not in done},
        left_out=suite.record["request"]["left_out"],
        published={name: f"{row['source']}: {row['protocol']}" for name, row in rows.items()},
        notes=(*_constant(suite, done), *_low(lines), *_notes(suite, done, kept)),
        runs=tuple(found for _, found in results.values()),
    )


def _lines(suite: Suite, task: str, scores: Sequence[Scores], baselines: Mapping[str, Scores]) -> Iterator[Line]:
    run = suite.run(suite.of(task)[0])
    assert run is not None
    row = published_row(suite.record["request"]["encoders"][task])
    published = row["scores"].get(task, {}) if row else {}
    for split, first in scores[0].items():
        for metric in run.record["resolved_task"]["metrics"]:
            if metric not in first:
                continue
            yield Line(
                task=task,
                split=split,
                metric=metric,
                spread=Spread.of([each[split][metric] for each in scores]),
                intervals=tuple(_interval(each[split], metric) for each in scores),
                baseline=_best_baseline(baselines, split, metric),
                published=share(published.get(f"{split}.{metric}", "")),
            )


def _interval(scores: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    low_and_high = scores.get(f"{metric}_interval")
    return (low_and_high[0], low_and_high[1]) if low_and_high else None


def _best_baseline(baselines: Mapping[str, Scores], split: str, metric: str) -> str:
    found = {name: scores[split][metric] for name, scores in baselines.items() if metric in scores.get(split, {})}
    best = max(found, key=lambda name: found[name], default="")
    return f"{found[best]:.4f} {best}" if best else ""


def average(by_task: Mapping[str, Sequence[Scores]]) -> Average | None:
    """Return GLUE's average, seed by seed; over fewer than its nine tasks it is not called so, over one there is none.

    A task of two metrics counts with their mean, MNLI with that of its matched and its mismatched part, and all tasks
    count alike (Wang et al. 2019, arXiv:1804.07461, 4).
    """
    rule: dict[str, list[str]] = facts()["average"]
    values: dict[str, list[float]] = {}
    for task, scores in by_task.items():
        keys = [key.split(".") for key in rule.get(task, [])]
        if keys and all(metric in scores[0].get(split, {}) for split, metric in keys):
            values[task] = [Spread.of([each[split][metric] for split, metric in keys]).mean for each in scores]
    if len(values) < 2:
        return None
    name = "GLUE average" if len(values) == len(rule) else f"average of {len(values)} tasks"
    means = [Spread.of(one).mean for one in zip(*values.values(), strict=True)]
    return Average(name=name, tasks=tuple(values), spread=Spread.of(means))


def _seconds(suite: Suite, task: str) -> float:
    runs = [run for member in suite.of(task) if (run := suite.run(member))]
    return sum((float(event["seconds"]) for run in runs for event in run.events() if event["event"] == "step"), 0.0)


def _state(suite: Suite, task: str) -> str:
    """Return how far the runs of a task came: ``not begun``, ``1 of 3 seeds finished``, ``interrupted``."""
    members = suite.of(task)
    finished = sum(suite.finished(member) is not None for member in members)
    if finished:
        return f"{finished} of {len(members)} seeds finished"
    begun = next(((member, run) for member in members if (run := suite.run(member))), None)
    if begun is None:
        return "not begun"
    member, run = begun
    # A process that was killed could not say so.
    return "interrupted" if run.status == "running" and not suite.is_busy(member) else run.status


def _constant(suite: Suite, done: Sequence[str]) -> Iterator[str]:
    """Say which runs give one answer only; their own output has the usual causes."""
    for member in suite.members:
        run = suite.finished(member) if member.task in done else None
        for split, label in (run.record.get("constant") or {}).items() if run is not None else ():
            if split == "validation":
                yield f"warning: {member.task}, seed {member.seed}: every prediction on validation is '{label}'."


def _low(lines: Sequence[Line]) -> Iterator[str]:
    """Say which tasks' first score on validation is not above that of a simple model."""
    first = {line.task: line for line in reversed(lines) if line.split == "validation"}
    for task in dict.fromkeys(line.task for line in lines):
        line = first.get(task)
        if line is not None and line.baseline and line.spread.mean <= float(line.baseline.split()[0]):
            yield f"warning: {task}: {line.metric} {line.spread.mean:.4f} is not above the baseline, {line.baseline}."


def _notes(suite: Suite, done: Sequence[str], kept: Mapping[str, Kept]) -> Iterator[str]:
    for task, table in suite.record["request"]["tasks"].items():
        if table.get("init_from") and task in done:
            yield f"{task} started from the body that {table['init_from']} trained, with a new head."
    for task, one in kept.items():
        if one.seeds > 1:
            yield one.why(task)
    if any(one.seeds > 1 for one in kept.values()):
        yield FLATTERED
