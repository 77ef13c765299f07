"""What stands beside a score: the stored baselines of the same rows, and a plain word where a score is worth little."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bertkit.adapters.base import Adapter
from bertkit.baselines import stored
from bertkit.baselines.stored import Beside
from bertkit.data import Split
from bertkit.errors import RunError
from bertkit.events import Listener, Note
from bertkit.run import Run
from bertkit.task import Task

CONSTANT_CAUSES = (
    "Usual causes: too few steps so far (train.epochs), a learning rate that is too high (--set "
    "train.learning_rate=2e-5), too little warm-up (train.warmup_ratio), or, where there are "
    "classes, rare ones (train.class_weights=balanced)."
)
LOW_CAUSES = (
    "Usual causes: too few steps (train.epochs), a learning rate that does not fit (train.learning_rate), texts that "
    "are cut (train.max_length), a wrong column or label order ('bertkit check'), or an encoder of another language."
)
EVEN_CAUSES = (
    "A simple model does as well: the rows are too few or too easy to show a difference, or the encoder has learned no "
    "more than that model sees (train.epochs, train.learning_rate)."
)

UNDER = "is under"
SAME = "'bertkit baseline' with the same --data, --limit, --seed and --set makes some that stand beside it."


def of_run(runs: Path, run: Run, listen: Listener) -> Beside:
    """Return the stored baselines of a run's rows; where there are only those of other rows, say so.

    None, and a warning, where the file is damaged.
    """
    places, task = _places(runs, run), run.record["task"]
    try:
        found = stored.of_run(places, run.record)
        if not found and any(stored.entries(place, task) for place in places):
            listen(Note(message=f"the stored baselines of {task} are of other rows or labels than this run's. {SAME}"))
    except RunError as error:
        listen(Note(message=f"no baseline is shown: {error}", level="warning"))
        return {}
    return found


def of_rows(runs: Path, run: Run | None, task: Task, split: Split, listen: Listener) -> Beside:
    """Return the stored baselines on a split's rows: a run's own, else those of the task."""
    try:
        if run is None:
            return stored.of_rows([runs], task.name, task.to_table(), split)
        return stored.of_rows(_places(runs, run), task.name, task.to_table(), split, record=run.record)
    except RunError as error:
        listen(Note(message=f"no baseline is shown: {error}", level="warning"))
        return {}


def _places(runs: Path, run: Run) -> list[Path]:
    """Return where a run's baselines may be: where runs are, or around the run, which a suite may hold."""
    return list(dict.fromkeys([runs.resolve(), *list(run.folder.resolve().parents)[:3]]))


def constant_warning(label: str, *splits: str) -> str:
    """Return what to say of a model that gives one answer only, on validation where no split is named."""
    return f"every prediction on {' and '.join(splits) or 'validation'} is '{label}'. {CONSTANT_CAUSES}"


def warnings(
    adapter: Adapter, scores: Mapping[str, Mapping[str, Any]], constant: Mapping[str, str], beside: Beside
) -> list[str]:
    """Return what is to be said of scores that are worth little, a sentence or two each.

    Args:
        adapter: says which of two scores is the better one.
        scores: split -> metric -> value.
        constant: split -> the one answer that every prediction gave, where that is so.
        beside: the baselines.
    """
    answers = dict.fromkeys(constant.values())
    found = [constant_warning(said, *(split for split, label in constant.items() if label == said)) for said in answers]
    low = [said for split in scores if (said := _under(adapter, split, scores[split], beside))]
    causes = LOW_CAUSES if any(f" {UNDER} " in said for said in low) else EVEN_CAUSES
    return found + ([f"{'; '.join(low)}. {causes}"] if low else [])


def say(found: Iterable[str], listen: Listener) -> None:
    """Give warnings out as notes."""
    for warning in found:
        listen(Note(message=warning, level="warning"))


def _under(adapter: Adapter, split: str, scores: Mapping[str, Any], beside: Beside) -> str:
    """Return that a split's first score is not above its best baseline, or an empty text."""
    metric = adapter.task.metrics[0]
    there = {name: splits[split][metric] for name, splits in beside.items() if metric in splits.get(split, {})}
    best: tuple[str, float] | None = None
    for name, value in there.items():
        if best is None or adapter.better(value, best[1]):
            best = name, value
    if best is None or adapter.better(scores[metric], best[1]):
        return ""
    relation = UNDER if adapter.better(best[1], scores[metric]) else "is not above"
    return f"{split} {metric} {scores[metric]:.4f} {relation} the baseline '{best[0]}', {best[1]:.4f}"
