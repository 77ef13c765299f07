"""What an evaluation gives to its report: facts, groups of rows, and where the page goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bertkit import report
from bertkit.adapters.base import Adapter, Example, Feature, Prediction
from bertkit.data import Split
from bertkit.events import Listener, Note, Phase
from bertkit.report.groups import CUT, WHOLE, WINDOWS, Scorer
from bertkit.run import write_text
from bertkit.workflows.saved import Saved

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
        return None if str(given) == NONE else Path(given).expanduser()
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
    """Write the report of an evaluation; without matplotlib, say so and write none.

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

    Raises:
        RunError: if the file cannot be written.
    """
    listen(Phase(name="writing the report"))
    about = report.Evaluation(
        title=f"{model.task.name or Path(model.name).name}: {rows.name}",
        facts=facts(model, rows),
        scores=scores,
        metric=model.task.metrics[0],
        outcomes=model.adapter.outcomes(predictions, rows.examples),
        score=scorer(model.adapter, predictions, rows.examples),
        events=model.run.events() if model.run is not None else (),
        baselines=baselines or {},
        remarks=remarks,
        **lengths(model.adapter, features, rows.examples),
    )
    try:
        page = report.page(about)
    except ModuleNotFoundError as error:
        listen(Note(message=f"no report is written: {error.name} is not installed ('pip install {error.name}')"))
        return None
    return write_text(where, page)


def facts(model: Saved, rows: Split) -> dict[str, str]:
    """Return what is said of an evaluation at the top of its page."""
    record = model.run.record if model.run is not None else {}
    config = model.adapter.config
    found = {
        "model": Path(model.name).name if model.run is not None else model.name,
        "encoder": str(record.get("encoder", "")),
        "data": str(rows.source),
        "rows": f"{len(rows.examples):,}",
        "labels": f"{len(model.adapter.labels):,}" if model.adapter.labels else "",
        "longest": f"{config.max_length} tokens ({config.on_long})",
        "seed": str(record.get("seed", "")),
    }
    return {name: value for name, value in found.items() if value}


def scorer(adapter: Adapter, predictions: Sequence[Prediction], examples: Sequence[Example]) -> Scorer:
    """Return a function that scores some of the rows by the task's own metrics."""

    def score(rows: Sequence[int]) -> dict[str, Any]:
        resamples = RESAMPLES if len(rows) <= MOST_RESAMPLED else 0
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
