"""What says the label without the text being understood: the order of rows, another column, a single word."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from bertkit.data import Example

ENOUGH = 50
"""Labelled rows below which order and columns say nothing."""
FEW_CHANGES = 0.1
"""Share of the changes of label from row to row, as a random order would have them, up to which rows are sorted."""
SORTED = 0.9
"""Rank correlation of row number and value from which rows are sorted by a number."""
RIGHT = 0.98
"""Share of labels from which a column says them."""
LEFT = 0.1
"""What a column may leave of the errors of always giving the commonest label: 0.98 is nothing where 0.98 have one."""
REPEATED = 0.5
"""Share of rows whose value must be there again: a column of ids says nothing."""
BINS = 20
"""Ranges of equally many rows that a column of numbers is cut into."""
FEW_TEXTS = 0.05
"""Different values, as a share of the rows, up to which a text that the model reads counts as a column of values."""
IN_LABEL, ELSEWHERE = 0.9, 0.01
"""Share of a label's rows that a word is in, at least, and of the others, at most, to give the label away."""
LABEL_ROWS = 20
"""Rows of a label below which its words say nothing."""


class Column(NamedTuple):
    """A column that says the label."""

    name: str
    right: float
    """Share of rows whose label the others with the same value say; for numbers, of their variance."""


class Word(NamedTuple):
    """A word that says the label."""

    word: str
    column: str
    label: str
    inside: float
    """Share of the label's rows that it is in."""
    outside: float
    """Share of the other rows that it is in."""


def is_sorted(truths: Sequence[Hashable]) -> str:
    """Say how rows are sorted by their labels, or return an empty text.

    Args:
        truths: of the rows, in order: hashable labels, or floats.
    """
    if len(truths) < ENOUGH:
        return ""
    if all(isinstance(truth, float) for truth in truths):
        rank = _rank_correlation(truths)
        return f"row number and value have a rank correlation of {rank:.2f}" if abs(rank) >= SORTED else ""
    counts, total = Counter(truths), len(truths)
    # Two neighbours of a random order differ with this probability.
    differ = 1 - sum(count * (count - 1) for count in counts.values()) / (total * (total - 1))
    expected = (total - 1) * differ
    changes = sum(one != other for one, other in pairwise(truths))
    if len(counts) < 2 or expected < len(counts) or changes > max(FEW_CHANGES * expected, len(counts) - 1):
        return ""
    return f"the label changes {changes} times from row to row, in a random order about {expected:,.0f} times"


def _rank_correlation(values: Sequence[Any]) -> float:
    import numpy as np
    from scipy.stats import rankdata

    ranks = rankdata(np.array(values, dtype=float))
    if np.ptp(ranks) == 0:
        return 0.0
    return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1])


def decisive_columns(examples: Sequence[Example], truths: Sequence[Hashable], read: Mapping[str, str]) -> list[Column]:
    """Return the columns whose value says the label.

    Args:
        examples: rows, without the column of the label and those that only repeat it under another role.
        truths: their labels: hashable, or floats.
        read: column -> role of what the model reads; these count only where few values repeat.
    """
    if len(examples) < ENOUGH or len(set(truths)) < 2:
        return []
    found = []
    for name in dict.fromkeys(name for example in examples for name in example):
        values = [_value(example.get(name)) for example in examples]
        different = len(set(values))
        if different < 2 or (name in read and different > FEW_TEXTS * len(values)):
            continue
        if different > REPEATED * len(values):
            values = _binned(values)
        right = _said(values, truths)
        if right is not None:
            found.append(Column(name, right))
    return found


def _value(cell: Any) -> Hashable:
    return cell if isinstance(cell, str | int | float | bool | None) else repr(cell)


def _binned(values: Sequence[Hashable]) -> list[Hashable]:
    """Return the ranges that numbers fall into; values that are no numbers as they are."""
    import numpy as np

    try:
        numbers = np.array([float(str(value)) for value in values])
    except ValueError:
        return list(values)
    if not np.isfinite(numbers).all():
        return list(values)
    edges = np.quantile(numbers, np.linspace(0, 1, BINS + 1)[1:-1])
    return list(np.searchsorted(edges, numbers, side="right").tolist())


def _said(values: Sequence[Hashable], truths: Sequence[Any]) -> float | None:
    """Return which share of the labels the other rows with the same value say, if nearly all."""
    groups: dict[Hashable, list[Any]] = defaultdict(list)
    for value, truth in zip(values, truths, strict=True):
        groups[value].append(truth)
    several = [group for group in groups.values() if len(group) > 1]
    covered = sum(map(len, several))
    if covered < REPEATED * len(values):
        return None
    if isinstance(truths[0], float):
        share = _explained(several)
        return share if share >= RIGHT else None
    right = sum(_right(Counter(group)) for group in several) / covered
    commonest = max(Counter(truths).values()) / len(truths)
    return right if right >= RIGHT and 1 - right <= LEFT * (1 - commonest) else None


def _right(counts: Counter[Any]) -> int:
    """Return how many rows of a group have the label that most of the group's other rows have."""
    right = 0
    for label, count in counts.items():
        most = max((other for name, other in counts.items() if name != label), default=0)
        right += count if count - 1 >= max(most, 1) else 0
    return right


def _explained(groups: Sequence[Sequence[float]]) -> float:
    """Return the share of the variance that goes when each number is guessed by the mean of its group's others."""
    numbers = [number for group in groups for number in group]
    mean = sum(numbers) / len(numbers)
    total = sum((number - mean) ** 2 for number in numbers)
    left = sum(((n - (sum(group) - n) / (len(group) - 1)) ** 2) for group in groups for n in group)
    return 1 - left / total if total else 0.0


def decisive_words(examples: Sequence[Example], truths: Sequence[Hashable]) -> list[Word]:
    """Return words of any text column that stand in nearly all rows of one label and in hardly any other.

    Args:
        examples: rows, without the column of the label.
        truths: their labels; numbers have no words.
    """
    if len(examples) < ENOUGH or any(not isinstance(truth, str) for truth in truths):
        return []
    sizes = Counter(truths)
    names = dict.fromkeys(name for example in examples for name, cell in example.items() if isinstance(cell, str))
    return [word for name in names for word in _words_of(name, examples, truths, sizes)]


def _words_of(
    name: str, examples: Sequence[Example], truths: Sequence[Hashable], sizes: Mapping[Hashable, int]
) -> Iterator[Word]:
    counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for example, truth in zip(examples, truths, strict=True):
        counts[truth].update(set(re.findall(r"[^\W_]+", str(example.get(name) or "").casefold())))
    everywhere = sum(counts.values(), Counter[str]())
    for label, words in counts.items():
        others = len(examples) - sizes[label]
        if min(sizes[label], others) < LABEL_ROWS:
            continue
        for word, count in words.most_common(BINS):
            inside, outside = count / sizes[label], (everywhere[word] - count) / others
            if inside >= IN_LABEL and outside <= ELSEWHERE:
                yield Word(word, name, str(label), inside, outside)
