"""The scores of sequence classification by name: which fit what, and which direction is better. Plain data."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bertkit.errors import ConfigError, did_you_mean, joined

KINDS = {"single": "one label a row", "multi": "several labels a row", "regression": "a number a row"}
"""Kind of a task -> what messages call it."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What is known about a score before there is anything to score."""

    summary: str
    kinds: tuple[str, ...]
    """Kinds of a task it is defined for."""
    higher_is_better: bool = True


SCORES = {
    "accuracy": Score(
        summary="share of the rows that are right; with several labels a row, right in all of them",
        kinds=("single", "multi"),
    ),
    "f1": Score(summary="F1 of the label with id 1, where there are two", kinds=("single",)),
    "f1_macro": Score(summary="mean of the labels' F1", kinds=("single", "multi")),
    "f1_micro": Score(summary="F1 of all decisions together", kinds=("single", "multi")),
    "matthews_correlation": Score(summary="correlation of predicted and true classes, -1 to 1", kinds=("single",)),
    "pearson": Score(summary="linear correlation, -1 to 1", kinds=("regression",)),
    "spearmanr": Score(summary="correlation of the ranks, -1 to 1", kinds=("regression",)),
}


def defaults(kind: str, num_labels: int) -> tuple[str, ...]:
    """Return the scores of a task that names none; the first one selects the best checkpoint.

    Raises:
        ConfigError: if ``kind`` is none of :data:`KINDS`.
    """
    _check_kind(kind)
    if kind == "regression":
        return ("pearson", "spearmanr")
    if kind == "multi":
        return ("f1_micro", "f1_macro")
    return ("accuracy", "f1" if num_labels == 2 else "f1_macro")


def check_names(names: Iterable[str], kind: str, num_labels: int) -> None:
    """Check that every score exists and fits the task; loads no library, so it can be done before step 1.

    Raises:
        ConfigError: naming every score that is unknown or does not fit, with those that do.
    """
    _check_kind(kind)
    problems = [problem for name in names if (problem := _problem(name, kind, num_labels))]
    if problems:
        fitting = [name for name in SCORES if not _problem(name, kind, num_labels)]
        raise ConfigError(f"{ended(joined(problems))} For {KINDS[kind]} there are {', '.join(fitting)}.")


def better(name: str, new: float, old: float | None, scores: Mapping[str, Score] = SCORES) -> bool:
    """Say whether ``new`` is better than ``old``; anything beats None and nan, equal is not better.

    Args:
        name: of the score.
        new: its value now.
        old: its value before, None for none.
        scores: those of the task type; by default those of sequence classification.

    Raises:
        ConfigError: if there is no score ``name``.
    """
    if name not in scores:
        raise ConfigError(f"{ended(unknown(name, scores))} There are {', '.join(scores)}.")
    if math.isnan(new):
        return False
    if old is None or math.isnan(old):
        return True
    return new > old if scores[name].higher_is_better else new < old


def with_intervals(scores: Mapping[str, Any]) -> Iterator[tuple[str, float, Sequence[float] | None]]:
    """Yield each score of a table as it is stored with its interval, or None where it has none."""
    for name, value in scores.items():
        if not name.endswith("_interval"):
            yield name, value, scores.get(f"{name}_interval")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ConfigError(f"Kind '{kind}' is not one of {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")


def _problem(name: str, kind: str, num_labels: int) -> str:
    """Return what is wrong with the score ``name``, or an empty string."""
    if name not in SCORES:
        return unknown(name, SCORES)
    if name == "f1" and kind == "single" and num_labels != 2:
        return f"Metric 'f1' needs 2 labels and there are {num_labels}: use 'f1_macro' or 'f1_micro'"
    if kind not in SCORES[name].kinds:
        use = ": use 'f1_micro' or 'f1_macro'" if (name, kind) == ("f1", "multi") else ""
        return f"Metric '{name}' is not defined for {KINDS[kind]}{use}"
    return ""


def unknown(name: str, scores: Iterable[str]) -> str:
    """Return what a message says of a name that is none of ``scores``, with the nearest of them."""
    return f"No metric '{name}'.{did_you_mean(name, scores)}".removesuffix(".")


def ended(text: str) -> str:
    """Return the sentence with its full stop, unless it is a question."""
    return text if text.endswith("?") else f"{text}."
