"""A validation split cut off train, the same rows whatever the run's seed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np

from bertkit.data import Dataset, Example, Split
from bertkit.errors import DataError

SHARE = 0.1
MOST = 2000
SEED = 20180
"""Of the cut alone, so that runs with different seeds are scored on the same rows."""


def cut(dataset: Dataset, group: Callable[[Example], Hashable]) -> tuple[Dataset, list[int]]:
    """Cut a tenth of train (at most 2,000 rows) off as ``validation``, in the same shares of each group.

    Args:
        dataset: has ``train`` and no ``validation``.
        group: what to stratify by: the label.

    Returns:
        The new dataset, and the indices into the old train that became validation.

    Raises:
        DataError: if train has fewer than ten rows.
    """
    train = dataset.splits["train"]
    total = len(train.examples)
    if total < 10:
        raise DataError(
            f"{train.source} has {total} rows and there is no validation split: a tenth of so few says nothing. "
            "Name one with --set data.files.validation=FILE, or give more rows."
        )
    chosen = stratified([group(example) for example in train.examples], min(MOST, max(1, round(total * SHARE))))
    held = set(chosen)
    rest = [index for index in range(total) if index not in held]
    note = f"there is no validation split, so {len(chosen)} of {total} training rows are held out for it"
    splits = dataset.splits | {"train": take(train, rest), "validation": take(train, chosen, name="validation")}
    return replace(dataset, splits=splits, notes=[*dataset.notes, note]), chosen


def stratified(groups: list[Hashable], number: int) -> list[int]:
    """Return ``number`` indices, sorted, each group in its share (largest remainders), drawn with the fixed seed."""
    rng = np.random.default_rng(SEED)
    members: dict[Hashable, list[int]] = {}
    for index, name in enumerate(groups):
        members.setdefault(name, []).append(index)
    members = _without_single_rows(members)
    total = sum(map(len, members.values()))
    exact = {name: number * len(rows) / total for name, rows in members.items()}
    take_of = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(members, key=lambda name: (take_of[name] - exact[name], -len(members[name])))
    for name in by_remainder[: number - sum(take_of.values())]:
        take_of[name] += 1
    chosen = [rows[i] for name, rows in members.items() for i in rng.permutation(len(rows))[: take_of[name]]]
    return sorted(chosen)


def _without_single_rows(members: dict[Hashable, list[int]]) -> dict[Hashable, list[int]]:
    """Leave out groups of one row, which train must not lose, where they are few: up to a tenth of all rows."""
    several = {name: rows for name, rows in members.items() if len(rows) > 1}
    singles, total = len(members) - len(several), sum(map(len, members.values()))
    return several if singles <= SHARE * total else members


def take(split: Split, indices: list[int], *, name: str = "") -> Split:
    """Return the rows at ``indices`` as a split that still knows where each stood."""
    lines = [split.lines[i] if split.lines is not None else i + 1 for i in indices]
    return Split(
        name=name or split.name, examples=[split.examples[i] for i in indices], source=split.source, lines=lines
    )


def limit(split: Split, number: int, seed: int) -> Split:
    """Return ``number`` rows after a seeded shuffle, in their original order; 0 is all."""
    if not number or number >= len(split.examples):
        return split
    chosen = np.random.default_rng(seed).permutation(len(split.examples))[:number]
    return take(split, sorted(chosen.tolist()))
