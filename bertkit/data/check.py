"""Faults that would make training wrong, found before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bertkit.data import Dataset, Example, Split
from bertkit.errors import DataError, joined, sentence

MOST = 5
"""Faults that one message names."""


def problems(split: Split, check: Callable[[Example], list[str]]) -> list[str]:
    """Return ``file:line: what is wrong`` for every faulty example."""
    return [
        f"{split.place(index)}: {fault.removesuffix('.')}"
        for index, example in enumerate(split.examples)
        for fault in check(example)
    ]


def require(split: Split, check: Callable[[Example], list[str]]) -> None:
    """Check every example of a split.

    Raises:
        DataError: naming the first faults and the count of all; for a fault that all rows share, saying so.
    """
    if not split.examples:
        raise DataError(f"{split.source} is empty: the split '{split.name}' has no rows.")
    found = problems(split, check)
    if not found:
        return
    rows = f" ({len(found)} faults in {len(split.examples)} rows)" if len(found) > 1 else ""
    raise DataError(sentence([f"{joined(found[: min(MOST, len(found))])}{rows}"]))


def unseen_labels(dataset: Dataset, balance: Callable[[list[Example]], dict[str, int]]) -> dict[str, Mapping[str, int]]:
    """Return, per scored split, the labels (with counts) that it has and that train lacks."""
    trained = balance(dataset.splits["train"].examples)
    found: dict[str, Mapping[str, int]] = {}
    for name, split in dataset.splits.items():
        if name == "train":
            continue
        counts = balance(split.examples)
        missing = {label: count for label, count in counts.items() if count and not trained.get(label)}
        if missing:
            found[name] = missing
    return found
