"""A validation split cut off train, the same rows whatever the run's seed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np

from bertkit.data import Dataset, Example, Split
from bertkit.errors import DataError

SHARE = 0.1
MOST = 2000
LEAST_HALVED = 20
"""Rows of which half is still worth something."""
SEED = 20180
"""Of the cut alone, so that runs with different seeds are scored on the same rows."""


def cut(
    dataset: Dataset,
    group: Callable[[Example], Hashable],
    documents: Callable[[Example], Sequence[Hashable]] = lambda example: (),
    *,
    name: str = "validation",
    purpose: str = "there is no validation split",
) -> tuple[Dataset, list[int]]:
    """Cut a tenth of train (at most 2,000 rows) off: whole documents where there are any, else in equal shares.

    Args:
        dataset: has ``train``, and no split ``name``.
        group: what to stratify by: the label.
        documents: what a row is part of, largest first (its article, its paragraph); empty where it is nothing's part.
            The largest of which about a tenth can be cut off stay whole.
        name: of the new split.
        purpose: why, for the note.

    Returns:
        The new dataset, and the indices into the old train that were cut off.

    Raises:
        DataError: if train has fewer than ten rows.
    """
    train = dataset.splits["train"]
    total = len(train.examples)
    if total < 10:
        way = "Name one with --set data.files.validation=FILE, or give" if name == "validation" else "Give"
        raise DataError(
            f"{train.source} has {total} rows and {purpose}: a tenth of so few says nothing. {way} more rows."
        )
    number = min(MOST, max(1, round(total * SHARE)))
    chosen = _of_documents([documents(example) for example in train.examples], number)
    together = bool(chosen)
    chosen = chosen or stratified([group(row) for row in train.examples], number)
    held = set(chosen)
    rest = [index for index in range(total) if index not in held]
    note = f"{purpose}, so {len(chosen)} of {total} training rows{' (whole documents)' * together} are held out for it"
    splits = dataset.splits | {"train": take(train, rest), name: take(train, chosen, name=name)}
    return replace(dataset, splits=splits, notes=[*dataset.notes, note]), chosen


def halve(split: Split, group: Callable[[Example], Hashable], *, name: str, purpose: str) -> tuple[Split, list[int]]:
    """Return half of a split's rows as the split ``name``, and their indices: the same rows whatever the run's seed.

    Args:
        split: at least 20 rows.
        group: what to stratify by: the label.
        name: of the half.
        purpose: why, for the message.

    Raises:
        DataError: if there are fewer rows.
    """
    total = len(split.examples)
    if total < LEAST_HALVED:
        raise DataError(
            f"{split.source} has {total} rows of '{split.name}', and {purpose}: half of so few says nothing. "
            f"Give at least {LEAST_HALVED}, or leave it out."
        )
    chosen = stratified([group(row) for row in split.examples], total // 2)
    return take(split, chosen, name=name), chosen


def _of_documents(parts: list[Sequence[Hashable]], number: int) -> list[int]:
    """Return about ``number`` indices of whole documents, the largest that allow it; none where all are in one."""
    chosen: list[int] = []
    for level in zip(*parts, strict=True):
        if len(set(level)) > 1:
            chosen = whole(list(level), number)
            if number <= 2 * len(chosen) <= 3 * number:
                break
    return chosen


def whole(documents: list[Hashable], number: int) -> list[int]:
    """Return about ``number`` indices, sorted, all of each chosen document; drawn with the fixed seed.

    Documents are taken in a random order while they fit; the smallest where none does.
    """
    members: dict[Hashable, list[int]] = {}
    for index, name in enumerate(documents):
        members.setdefault(name, []).append(index)
    sizes = list(members.values())
    drawn = [sizes[place] for place in np.random.default_rng(SEED).permutation(len(sizes))]
    chosen: list[int] = []
    for rows in drawn:
        if len(chosen) + len(rows) <= number:
            chosen += rows
    return sorted(chosen or min(drawn, key=len))


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
    return Split(
        name=name or split.name,
        examples=[split.examples[i] for i in indices],
        source=split.source,
        lines=None if split.lines is None else [split.lines[i] for i in indices],
        rows=[i + 1 if split.rows is None else split.rows[i] for i in indices],
    )


def limit(split: Split, number: int, seed: int) -> Split:
    """Return ``number`` rows after a seeded shuffle, in their original order; 0 is all."""
    if not number or number >= len(split.examples):
        return split
    chosen = np.random.default_rng(seed).permutation(len(split.examples))[:number]
    return take(split, sorted(chosen.tolist()))
