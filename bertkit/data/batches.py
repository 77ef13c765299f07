"""Batches from lengths alone: the recipe's examples for a step, split or sorted to bound and to save padding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

GROUP = 50
"""Batches whose examples are sorted together under ``group_by_length``, as transformers' Trainer does."""

LOOKED_AT = 2_000
"""Steps among which the largest part is looked for: that takes a tenth of a second."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The examples of one optimizer step."""

    epoch: int
    """Epoch, from 0."""
    index: int
    """Batch inside the epoch, from 0."""
    micro_batches: list[list[int]]
    """Feature indices, in the parts that go through the model one after another."""
    num_examples: int
    num_tokens: int


class TrainingBatches:
    """Optimizer steps over features, in an order that depends on seed and epoch alone.

    A step sees ``batch_size`` examples (all windows of each), the last of an epoch what is left. The position is
    ``(epoch, index)``; starting there gives the same draws as having come there.
    """

    def __init__(
        self,
        examples: Sequence[int],
        lengths: Sequence[int],
        *,
        batch_size: int,
        micro_batch_tokens: int,
        seed: int,
        group_by_length: bool = False,
    ) -> None:
        """Take, per feature, the example that it belongs to (ascending) and its length in tokens."""
        self.lengths = np.asarray(lengths, dtype=np.int64)
        starts = np.flatnonzero(np.diff(np.asarray(examples), prepend=-1))
        self.groups = np.split(np.arange(len(lengths)), starts[1:])
        self.batch_size = batch_size
        self.micro_batch_tokens = micro_batch_tokens
        self.seed = seed
        self.group_by_length = group_by_length

    @property
    def num_examples(self) -> int:
        """Return the examples in an epoch."""
        return len(self.groups)

    @property
    def num_tokens(self) -> int:
        """Return the tokens of an epoch, padding left out."""
        return int(self.lengths.sum())

    @property
    def steps_per_epoch(self) -> int:
        """Return the optimizer steps in an epoch."""
        return math.ceil(self.num_examples / self.batch_size)

    def largest_micro_batch(self) -> list[int]:
        """Return the features of the largest part, padding counted, of the steps of the first epoch."""
        parts = (
            part for draw in islice(self.draws(), min(self.steps_per_epoch, LOOKED_AT)) for part in draw.micro_batches
        )
        return max(parts, key=lambda part: padded(self.lengths[part]), default=[])

    def draws(self, *, epoch: int = 0, index: int = 0) -> Iterator[Draw]:
        """Yield steps without end, from a position on."""
        while True:
            order = self.order(epoch)
            for place in range(index, self.steps_per_epoch):
                chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
                yield self._draw(epoch, place, chosen)
            epoch, index = epoch + 1, 0

    def split(self, draw: Draw, tokens: int) -> Draw:
        """Return a draw in the parts that it would have with ``tokens`` as ``micro_batch_tokens``."""
        features = np.concatenate([np.asarray(part) for part in draw.micro_batches])
        parts = by_tokens(self.lengths[features], tokens)
        return replace(draw, micro_batches=[features[part].tolist() for part in parts])

    def largest_part(self, draw: Draw) -> int:
        """Return the tokens, with padding, of the largest part of a draw that can be split; 0 where none can."""
        parts = (part for part in draw.micro_batches if len(part) > 1)
        return max((padded(self.lengths[part]) for part in parts), default=0)

    def _draw(self, epoch: int, index: int, chosen: np.ndarray) -> Draw:
        features = self.features(epoch, chosen)
        lengths = self.lengths[features]
        parts = by_tokens(lengths, self.micro_batch_tokens)
        return Draw(
            epoch=epoch,
            index=index,
            micro_batches=[features[part].tolist() for part in parts],
            num_examples=len(chosen),
            num_tokens=int(lengths.sum()),
        )

    def features(self, epoch: int, examples: np.ndarray) -> np.ndarray:
        """Return the features of some examples, in their order."""
        return np.concatenate([self.groups[example] for example in examples])

    def longest(self, epoch: int) -> np.ndarray:
        """Return the tokens of each example's longest feature."""
        return np.array([self.lengths[group].max() for group in self.groups])

    def order(self, epoch: int) -> np.ndarray:
        """Return the examples of an epoch as its steps take them."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.num_examples)
        if not self.group_by_length:
            return order
        longest = self.longest(epoch)
        size = self.batch_size * GROUP
        pieces = [order[start : start + size] for start in range(0, len(order), size)]
        grouped = np.concatenate([piece[np.argsort(-longest[piece], kind="stable")] for piece in pieces])
        batches = [grouped[start : start + self.batch_size] for start in range(0, len(grouped), self.batch_size)]
        # Only whole batches change places: the short one must stay last for the positions to hold.
        whole = batches if len(batches[-1]) == self.batch_size else batches[:-1]
        shuffled = [whole[place] for place in rng.permutation(len(whole))]
        return np.concatenate([*shuffled, *batches[len(whole) :]])


def padded(lengths: Sequence[int] | np.ndarray) -> int:
    """Return the tokens, with padding, of a batch of rows of these lengths."""
    return len(lengths) * int(max(lengths))


def by_tokens(lengths: Sequence[int] | np.ndarray, budget: int) -> list[list[int]]:
    """Split rows into batches of similar length, longest first, of at most ``budget`` tokens with padding.

    Args:
        lengths: tokens of each row.
        budget: a row that is longer by itself is a batch by itself.

    Returns:
        Row indices; each row once.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[list[int]] = []
    width = room = 0
    for row in order.tolist():
        if not batches or room < 1:
            width = max(1, int(lengths[row]))
            room = max(1, budget // width)
            batches.append([])
        batches[-1].append(row)
        room -= 1
    return batches
