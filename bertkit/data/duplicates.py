"""Rows that are there twice, within a split or across splits, word for word or nearly, and how they are labelled.

A row is what the model reads of an example: one text, or several (a pair; a question and its context). Rows are nearly
the same where each of their texts is: the many questions about one context are no duplicates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bertkit.data import similar

MOST_TEXTS = 500_000
"""Different texts of a role among which near-duplicates are looked for: bounds time (minutes) and memory (1 GB).
:func:`unsearched` says whether there are more."""
SHOWN = 50
"""Pairs of two splits that are kept to be shown: of exact ones the first, of near ones the likest."""
NEAR_NUMBERS = 0.1
"""Numbers that are this near, as a share of the range of all, contradict each other no more than annotators do."""
Texts = tuple[str, ...]
"""What the model reads of an example, in the order of the type's roles."""


class Row(NamedTuple):
    """An example as duplicates see it."""

    place: str
    """``train.tsv:118``."""
    texts: Texts
    truth: Hashable
    """What it is labelled with; None without a label."""

    @property
    def empty(self) -> bool:
        """Say whether there is nothing to read; such rows are no duplicates of each other."""
        return not any(text.strip() for text in self.texts)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two rows that are the same, or nearly."""

    row: str
    """Place of the later one."""
    like: str
    """Place of the earlier one."""
    similarity: float
    """1.0 where they differ at most in case, punctuation and white space."""
    exact: bool
    """Whether they are the same character by character."""
    same_label: bool | None
    """None where one of them has no label."""
    text: str
    """What the later row says."""
    like_text: str
    """What the earlier row says."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How many rows of a split have an equal, or nearly equal, row in another, or earlier in the same split."""

    split: str
    of: str
    """The other split; the same name for duplicates within one."""
    num_rows: int
    """Rows of ``split``, the empty ones left out."""
    exact: int = 0
    near: int = 0
    """Rows that have a near-duplicate and no exact one."""
    relabelled: int = 0
    """Of all these, those that are labelled otherwise."""
    pairs: list[Pair] = field(default_factory=list)
    """Exact ones, then near ones, the likest first; not all of them."""


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Rows that say the same and are labelled differently."""

    text: str
    rows: list[str]
    """Their places."""
    labels: list[str]
    """What each of them is labelled with."""


def overlaps(splits: Mapping[str, Sequence[Row]], *, shown: int = SHOWN) -> list[Overlap]:
    """Count the duplicates within each split, and of each split in those before it.

    Args:
        splits: in order: train first, so that what stands in both counts against validation.
        shown: pairs that each keeps, of exact and of near ones.

    Returns:
        One for each split and one for each two of them, those without any left out.
    """
    filled = {name: [row for row in rows if not row.empty] for name, rows in splits.items()}
    keys = {name: [tuple(map(similar.normal, row.texts)) for row in rows] for name, rows in filled.items()}
    likes = _alike_keys(list(dict.fromkeys(key for split in keys.values() for key in split)))
    firsts = {name: _First.of(filled[name], keys[name]) for name in filled}
    room = _room(row.truth for rows in filled.values() for row in rows)
    found = []
    for place, (name, rows) in enumerate(filled.items()):
        for other in list(filled)[: place + 1]:
            pairs = []
            for index, (row, key) in enumerate(zip(rows, keys[name], strict=True)):
                before = index if other == name else len(filled[other])
                match = firsts[other].match(row.texts, key, likes.get(key, ()), before)
                if match is not None:
                    pairs.append(_pair(row, filled[other][match[0]], match[1], room))
            if pairs:
                found.append(_overlap(name, other, len(rows), pairs, shown))
    return found


@dataclass(frozen=True)
class _First:
    """Where each text of a split stands first."""

    exact: dict[Texts, int]
    normal: dict[Texts, int]

    @classmethod
    def of(cls, rows: Sequence[Row], keys: Sequence[Texts]) -> _First:
        exact: dict[Texts, int] = {}
        normal: dict[Texts, int] = {}
        for index, (row, key) in enumerate(zip(rows, keys, strict=True)):
            exact.setdefault(row.texts, index)
            normal.setdefault(key, index)
        return cls(exact, normal)

    def match(
        self, texts: Texts, key: Texts, likes: Sequence[tuple[Texts, float]], before: int
    ) -> tuple[int, float] | None:
        """Return index and similarity of the row that is most like these texts, of those before one."""
        for index in (self.exact.get(texts, before), self.normal.get(key, before)):
            if index < before:
                return index, 1.0
        there = [(index, near) for like, near in likes if (index := self.normal.get(like, before)) < before]
        return max(there, key=lambda match: (match[1], -match[0]), default=None)


def _alike_keys(keys: Sequence[Texts]) -> dict[Texts, list[tuple[Texts, float]]]:
    """Return for each row of normal texts those that are nearly the same in every text, with the least similarity."""
    if not keys:
        return {}
    alike = [_alike_texts([key[role] for key in keys]) for role in range(len(keys[0]))]
    with_text: list[dict[str, list[Texts]]] = []
    for role in range(len(keys[0])):
        index: dict[str, list[Texts]] = defaultdict(list)
        for key in keys:
            index[key[role]].append(key)
        with_text.append(index)
    return {key: found for key in keys if (found := list(_likes(key, alike, with_text)))}


def _likes(
    key: Texts, alike: Sequence[Mapping[str, Mapping[str, float]]], with_text: Sequence[Mapping[str, Sequence[Texts]]]
) -> Iterator[tuple[Texts, float]]:
    """Yield the rows that are like one in every text, found by the text for which there are fewest to look at."""
    near = [{text: 1.0} | dict(alike[role].get(text, {})) for role, text in enumerate(key)]
    role = min(range(len(key)), key=lambda role: sum(len(with_text[role][text]) for text in near[role]))
    for text in near[role]:
        for other in with_text[role][text]:
            if other != key and all(text in near[place] for place, text in enumerate(other)):
                yield other, min(near[place][text] for place, text in enumerate(other))


def unsearched(splits: Mapping[str, Sequence[Row]]) -> int:
    """Return how many different texts are beyond MOST_TEXTS, of the role that has most: they were not compared."""
    # Rows that are this few need no second look at their texts.
    if sum(map(len, splits.values())) <= MOST_TEXTS:
        return 0
    roles: dict[int, set[str]] = defaultdict(set)
    for rows in splits.values():
        for row in rows:
            for role, text in enumerate(row.texts):
                roles[role].add(similar.normal(text))
    most = max((len(texts - {""}) for texts in roles.values()), default=0)
    return max(0, most - MOST_TEXTS)


def _alike_texts(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return text -> the texts that are nearly the same, with their similarity; those without any are left out."""
    different = list(dict.fromkeys(text for text in texts if text))[:MOST_TEXTS]
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for first, second, near in similar.alike(different):
        found[different[first]][different[second]] = near
        found[different[second]][different[first]] = near
    return found


def _pair(row: Row, like: Row, similarity: float, room: float) -> Pair:
    labelled = row.truth is not None and like.truth is not None
    return Pair(
        row=row.place,
        like=like.place,
        similarity=similarity,
        exact=row.texts == like.texts,
        same_label=not _contradict([row.truth, like.truth], room) if labelled else None,
        text=" | ".join(row.texts),
        like_text=" | ".join(like.texts),
    )


def _overlap(split: str, of: str, num_rows: int, pairs: Sequence[Pair], shown: int) -> Overlap:
    exact = [pair for pair in pairs if pair.exact]
    near = sorted((pair for pair in pairs if not pair.exact), key=lambda pair: -pair.similarity)
    return Overlap(
        split=split,
        of=of,
        num_rows=num_rows,
        exact=len(exact),
        near=len(near),
        relabelled=sum(pair.same_label is False for pair in pairs),
        pairs=[*exact[:shown], *near[:shown]],
    )


def conflicts(splits: Mapping[str, Sequence[Row]]) -> list[Conflict]:
    """Return the rows of all splits that are the same character by character and labelled differently."""
    labelled = [row for rows in splits.values() for row in rows if row.truth is not None and not row.empty]
    groups: dict[Texts, list[Row]] = defaultdict(list)
    for row in labelled:
        groups[row.texts].append(row)
    room = _room(row.truth for row in labelled)
    return [
        Conflict(
            text=" | ".join(texts),
            rows=[row.place for row in rows],
            labels=[_shown(row.truth) for row in rows],
        )
        for texts, rows in groups.items()
        if _contradict([row.truth for row in rows], room)
    ]


def _room(truths: Iterable[Hashable]) -> float:
    """Return how far apart numbers may be without contradicting each other."""
    numbers = [truth for truth in truths if isinstance(truth, float)]
    return NEAR_NUMBERS * (max(numbers) - min(numbers)) if numbers else 0.0


def _contradict(truths: Sequence[Any], room: float) -> bool:
    """Say whether labels differ: numbers by more than ``room``; answers have none in common."""
    if isinstance(truths[0], float):
        return bool(max(truths) - min(truths) > room)
    if isinstance(truths[0], frozenset):
        return len(set(truths)) > 1 and not frozenset.intersection(*truths)
    return len(set(truths)) > 1


def _shown(truth: Hashable) -> str:
    """Return a label for a message."""
    if isinstance(truth, tuple):
        return " ".join(map(str, truth)) or "no label"
    if isinstance(truth, frozenset):
        return " / ".join(sorted(truth)) or "no answer"
    return f"{truth:g}" if isinstance(truth, float) else str(truth)
