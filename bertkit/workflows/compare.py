"""``bertkit runs compare``: two runs on the same examples, and whether they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertkit import adapters, config, run
from bertkit.adapters.base import Adapter, Example, Prediction, shown
from bertkit.config import TrainConfig
from bertkit.errors import DataError, RunError, did_you_mean, looked_for
from bertkit.metrics import significance
from bertkit.metrics.significance import Difference, McNemar, Means
from bertkit.run import Run
from bertkit.task import from_table

if TYPE_CHECKING:
    import numpy as np

_KEPT = "each suite's kept model is compared, the best of its seeds on validation; the seeds themselves stand below"
NAMES = {(1.0, 0.0): "right -> wrong", (0.0, 1.0): "wrong -> right"}
"""Grades with A and with B -> what the change is called."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """An example that one of two models answers better."""

    row: int
    """Number of the example in its split, from 1."""
    change: str
    """``right -> wrong``, ``wrong -> right``; of numbers ``worse`` and ``better``: from A to B."""
    example: Example
    a: Prediction
    b: Prediction
    weight: float
    """How much better B is; below 0 where it is worse."""

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` and ``--out`` write."""
        return {key: getattr(self, key) for key in ("row", "change", "example", "a", "b")}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a comparison of two runs found."""

    a: str
    b: str
    """The run folders."""
    task: str
    split: str
    num_examples: int
    metrics: dict[str, Difference]
    """metric -> both scores, their difference, its interval and p-value."""
    counts: dict[str, int]
    """``both_right``, ``only_a``, ``only_b``, ``both_wrong``: examples; empty where answers are numbers."""
    mcnemar: McNemar | None
    """McNemar's test of who is right; None where answers are numbers."""
    changes: list[Change]
    """Every example that one answers better: those that B answers worse first, then the largest changes."""
    columns: list[str]
    """The columns of the examples that tell what a change is about."""
    notes: list[str]
    """What a reader of the numbers should know."""
    seeds: dict[str, Means]
    """metric -> the scores of every seed, where both are suites of one task and several seeds."""

    @property
    def verdicts(self) -> list[str]:
        """Return a sentence for each metric, of the two models and then of the two recipes."""
        of_models = [self._verdict(name, found) for name, found in self.metrics.items()]
        return of_models + [_of_means(name, found) for name, found in self.seeds.items()]

    def _verdict(self, name: str, found: Difference) -> str:
        about = f"{found.difference:+.4f}, {_of(found.p)}, on {self.num_examples} examples"
        if not found.significant:
            return f"{name}: the difference is not significant ({about})"
        return f"{name}: {'B' if found.difference > 0 else 'A'} is better ({about})"

    def to_json(self) -> dict[str, Any]:
        """Return what ``--json`` prints: the numbers, and every change."""
        whole = {key: getattr(self, key) for key in ("a", "b", "task", "split", "num_examples")}
        whole["metrics"] = {
            name: asdict(found) | {"interval": list(found.interval), "significant": found.significant}
            for name, found in self.metrics.items()
        }
        whole["counts"] = self.counts
        whole["mcnemar"] = None if self.mcnemar is None else asdict(self.mcnemar)
        whole["seeds"] = {
            name: asdict(found) | {"significant": found.significant} for name, found in self.seeds.items()
        }
        return whole | {"changes": [change.to_json() for change in self.changes], "notes": self.notes}

    def first(self, most: int) -> list[Change]:
        """Return at most ``most`` changes of each direction."""
        worse = islice((change for change in self.changes if change.weight < 0), most)
        return [*worse, *islice((change for change in self.changes if change.weight > 0), most)]


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One of the two: what its run predicted on the split."""

    run: Run
    adapter: Adapter
    file: Path
    examples: list[Example]
    predictions: list[Prediction]


def compare(
    a: str | Path,
    b: str | Path,
    *,
    split: str = "validation",
    runs: str | Path = "runs",
    out: str | Path | None = None,
    resamples: int = 10_000,
) -> Compared:
    """Compare two runs on the same examples, by the predictions that they keep.

    Args:
        a: a run, by folder or by name below ``runs``.
        b: another one, whose differences from ``a`` are counted.
        split: of both. Where training did not score it, ``bertkit eval`` did.
        runs: where runs are looked for.
        out: a file that every example that changed is written to, as JSON Lines.
        resamples: of the bootstrap, and random swaps of the permutation test; both have a fixed seed.

    Raises:
        RunError: if there is no such run, or it holds no predictions on the split.
        DataError: if the two were not scored on the same examples, or learned other labels.
    """
    one, other = (_side(run.find(where, Path(runs)), split) for where in (a, b))
    one, other, notes = _aligned(one, other)
    if one.run.folder.resolve() == other.run.folder.resolve():
        notes.append(f"both are the same run, {one.run.folder}")
    _require_same(one, other, split)
    series = [_members(where, Path(runs)) for where in (a, b)]
    several = min(map(len, series)) > 1
    if several and notes:
        notes.append("the scores of their seeds are of other rows each, and are not compared")
    seeds = _means(series[0], series[1], split) if several and not notes else {}
    result = _compared(
        one,
        other,
        split=split,
        resamples=resamples,
        notes=[*notes, *([_KEPT] if seeds else _notes(one, other))],
        seeds=seeds,
    )
    if out is not None:
        lines = (run.json_line(change.to_json()) for change in result.changes)
        run.write_text(Path(out), "".join(f"{line}\n" for line in lines))
    return result


def _compared(
    one: _Side, other: _Side, *, split: str, resamples: int, notes: list[str], seeds: dict[str, Means]
) -> Compared:
    """Compare two sides that hold the same examples."""
    # Both are graded by the first one's task: the same metrics, the same columns.
    adapter, examples = one.adapter, one.examples
    predictions = [*one.predictions, *other.predictions]
    grades = adapter.grades(predictions, examples * 2)
    numbers = bool((grades < 0).any())
    tally = adapter.tally(predictions, examples * 2)
    found = significance.differences(tally, right=None if numbers else grades == 1, resamples=resamples)
    before, after = grades[: len(examples)], grades[len(examples) :]
    counts = {} if numbers else _counts(before == 1, after == 1)
    return Compared(
        a=str(one.run.folder),
        b=str(other.run.folder),
        task=one.run.record["task"],
        split=split,
        num_examples=len(examples),
        metrics=dict(zip(tally.names, found, strict=True)),
        counts=counts,
        mcnemar=significance.mcnemar(counts["only_a"], counts["only_b"]) if counts else None,
        changes=_changes(one, other, before, after),
        columns=_columns(adapter, examples[0]),
        notes=notes,
        seeds=seeds,
    )


def _members(where: str | Path, runs: Path) -> list[Run]:
    """Return the finished runs of a suite, or of the task of one, that a name stands for; of a run, none."""
    for folder in (looked_for(where, RunError, "The run"), runs / str(where)):
        if (folder / "run.json").is_file():
            return []
        if (suite := run.suite_of(folder)) is not None:
            places = [Path(member["run"]) for member in run.read_suite(suite)["runs"]]
            own = [place for place in places if suite == folder or place.parts[0] == folder.name]
            opened = [Run.open(suite / place) for place in own if (suite / place / "run.json").is_file()]
            return [each for each in opened if each.status == "finished"]
    return []


def _means(one: Sequence[Run], other: Sequence[Run], split: str) -> dict[str, Means]:
    """Return how the scores of two lists of runs differ, metric by metric; none where a run was not scored on it."""
    tables = [[each.scores()["splits"].get(split, {}) for each in side] for side in (one, other)]
    return {
        name: significance.welch(*([scores[name] for scores in side] for side in tables))
        for name in one[0].record["resolved_task"]["metrics"]
        if all(name in scores for side in tables for scores in side)
    }


def _of_means(name: str, found: Means) -> str:
    """Return the sentence about one metric of two recipes."""
    about = f"{found.difference:+.4f}, {len(found.a)} and {len(found.b)} seeds"
    if found.p is None:
        return f"{name}: the seeds of each score alike, so nothing says what chance does to the means ({about})"
    about = f"{found.difference:+.4f}, {_of(found.p)}, {len(found.a)} and {len(found.b)} seeds"
    if not found.significant:
        return f"{name}: the difference of the means is not significant ({about})"
    return f"{name}: the mean of {'B' if found.difference > 0 else 'A'} is better ({about})"


def _of(p: float) -> str:
    told = significance.shown(p)
    return f"p {told}" if told.startswith("<") else f"p = {told}"


def brief(prediction: Prediction) -> str:
    """Return a prediction in a few words."""
    if prediction.get("entities"):
        return _cut(", ".join(f"{entity['text']} ({entity['label']})" for entity in prediction["entities"]))
    for key in ("label", "labels", "value", "answer", "tags"):
        if key in prediction:
            found = prediction[key]
            return f"{found:.4f}" if isinstance(found, float) else _cut(found)
    return _cut(json.dumps(prediction, default=str))


def described(change: Change, roles: Sequence[str]) -> list[str]:
    """Return a change as the cells of a table: row, change, the columns of ``roles``, A's answer and B's."""
    cells = [_cut(change.example.get(role, "")) for role in roles]
    return [str(change.row), change.change, *cells, brief(change.a), brief(change.b)]


def _cut(value: Any, most: int = 48) -> str:
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = [" / ".join(dict.fromkeys(value["text"]))]  # the answers of a question
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _side(found: Run, split: str) -> _Side:
    """Read what a run predicted on a split.

    Raises:
        RunError: if it holds no predictions on it, or they are damaged.
    """
    record = found.record
    task = from_table(record["resolved_task"], name=record["task"], where=f"{found.folder}/run.json")
    train = config.build(TrainConfig, record["config"]["train"])
    adapter = adapters.find(task.type)(task, train, task.labels)
    column = str(record["config"].get("predict", {}).get("column", "prediction"))
    file = _predictions(found, split)
    examples, predictions = [], []
    # Not splitlines: texts may hold line separators of Unicode, which JSON leaves as they are.
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            predictions.append(row.pop(column))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise RunError(f"{file}:{number} is damaged: it holds no row with a '{column}'. Train again.") from error
        examples.append(row)
    return _Side(run=found, adapter=adapter, file=file, examples=examples, predictions=predictions)


def _predictions(found: Run, split: str) -> Path:
    """Return the file with a run's predictions on a split.

    Raises:
        RunError: if there is none.
    """
    folders = [found.folder / name for name in ("predictions", "evals")]
    for folder in folders:
        if (folder / f"{split}.jsonl").is_file():
            return folder / f"{split}.jsonl"
    there = sorted({file.stem for folder in folders for file in folder.glob("*.jsonl")})
    if found.status != "finished" or not there:
        raise RunError(f"{found.folder} holds no predictions: it is '{found.status}'. Compare finished runs.")
    raise RunError(
        f"{found.folder} holds no predictions on '{split}'.{did_you_mean(split, there)} There are {', '.join(there)}: "
        f"--split names one, and 'bertkit eval {found.folder} --split {split}' makes them where it has labels."
    )


def _aligned(one: _Side, other: _Side) -> tuple[_Side, _Side, list[str]]:
    """Leave out of a model that was not calibrated the validation rows that the other one was calibrated on."""
    rows = [side.run.record.get("calibration_rows", []) for side in (one, other)]
    if bool(rows[0]) == bool(rows[1]):
        return one, other, []
    gone = set(rows[0] or rows[1])
    fewer, more = (one, other) if rows[0] else (other, one)
    held = more.run.record["held_out_rows"] or range(len(more.examples))
    if len(more.examples) != len(fewer.examples) + len(gone) or len(held) != len(more.examples):
        return one, other, []
    left = [index for index, row in enumerate(held) if row not in gone]
    short = replace(
        more, examples=[more.examples[index] for index in left], predictions=[more.predictions[index] for index in left]
    )
    note = f"without the {len(gone)} rows that {fewer.run.folder} was calibrated on"
    return (one, short, [note]) if rows[0] else (short, other, [note])


def _require_same(one: _Side, other: _Side, split: str) -> None:
    """Refuse two runs that were not scored on the same examples.

    Raises:
        DataError: saying what differs.
    """
    mine, theirs = one.adapter, other.adapter
    kinds = [(each.task.type, each.task.kind, sorted(each.labels)) for each in (mine, theirs)]
    if kinds[0] != kinds[1]:
        named = [f"{kind[0]}{f' ({kind[1]})' * bool(kind[1])} with {len(kind[2])} labels" for kind in kinds]
        if named[0] == named[1]:
            named = [f"labels {', '.join(kind[2][:5])}" for kind in kinds]
        raise DataError(
            f"{one.run.folder} and {other.run.folder} learned different things and cannot be compared: "
            f"{named[0]}, and {named[1]}."
        )
    if len(one.examples) != len(other.examples):
        raise DataError(
            f"The two were not scored on the same examples: {one.file} has {len(one.examples)} rows, and {other.file} "
            f"{len(other.examples)}. 'bertkit eval RUN --data FILE' scores both on one file, and --split names it."
        )
    if not one.examples:
        raise DataError(f"{one.file} holds no rows to compare.")
    for number, pair in enumerate(zip(one.examples, other.examples, strict=True), start=1):
        if (found := _different(mine, theirs, *pair)) is not None:
            role, values = found
            raise DataError(
                f"The two were not scored on the same examples: '{role}' in row {number} of '{split}' is "
                f"{shown(values[0])} in {one.file}, and {shown(values[1])} in {other.file}."
            )


def _different(mine: Adapter, theirs: Adapter, one: Example, other: Example) -> tuple[str, tuple[Any, Any]] | None:
    """Return the first role whose cells differ between two examples, and both cells."""
    for role in (role.rstrip("?!") for role in mine.columns):
        values = mine.value(one, role), theirs.value(other, role)
        if values[0] != values[1]:
            return role, values
    if not any(mine.has(one, role.rstrip("?!")) for role in mine.columns) and one != other:
        return "row", (one, other)
    return None


def _counts(before: np.ndarray, after: np.ndarray) -> dict[str, int]:
    """Return how many examples each has right; both ``(n,)`` bool."""
    return {
        "both_right": int((before & after).sum()),
        "only_a": int((before & ~after).sum()),
        "only_b": int((~before & after).sum()),
        "both_wrong": int((~before & ~after).sum()),
    }


def _changes(one: _Side, other: _Side, before: np.ndarray, after: np.ndarray) -> list[Change]:
    pairs = zip(before.tolist(), after.tolist(), strict=True)
    found = [
        Change(
            row=index + 1,
            change=NAMES.get((old, new), "better" if new > old else "worse"),
            example=one.examples[index],
            a=one.predictions[index],
            b=other.predictions[index],
            weight=new - old,
        )
        for index, (old, new) in enumerate(pairs)
        if old != new
    ]
    return sorted(found, key=lambda change: (change.weight > 0, -abs(change.weight), change.row))


def _columns(adapter: Adapter, example: Example) -> list[str]:
    names = ((adapter.column(role), role) for role in (role.rstrip("?!") for role in adapter.columns))
    return [name for pair in names for name in dict.fromkeys(pair) if name in example]


def _notes(one: _Side, other: _Side) -> list[str]:
    """Say what the numbers do not: that seeds differ alone, or that a model was chosen on these rows."""
    notes = []
    asked = [_without_seed(side.run.record["request"]) for side in (one, other)]
    seeds = [side.run.record["seed"] for side in (one, other)]
    if asked[0] == asked[1] and seeds[0] != seeds[1]:
        notes.append(
            f"the runs differ in their seed alone ({seeds[0]} and {seeds[1]}), so a difference is what seeds do"
        )
    elif one.run.folder != other.run.folder:
        notes.append("two trained models are compared; whether one recipe is better needs several seeds of each")
    return notes


def _without_seed(request: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in request.items() if key != "seed"}
