"""Rows that are other ones in each epoch: pre-training instances, and the steps that see them.

A row is known by one number, ``epoch * rows of an epoch + row``, so that whoever makes batches of numbers needs to know
nothing of epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bertkit.data.batches import TrainingBatches
from bertkit.data.pairs import Instance, Instances

Make = Callable[[int, int], Instances]
"""From an epoch, from 0, and the number of its instances (0: as many as there are) to the instances."""


class Epochs:
    """The instances of all epochs, as many in each as in the first; those of the last two that were asked for wait."""

    def __init__(self, make: Make) -> None:
        self._make = make
        first = make(0, 0)
        self.size = len(first)
        """Instances of an epoch."""
        self._held: dict[int, Instances] = {0: first}

    def __len__(self) -> int:
        return self.size

    def of(self, epoch: int) -> Instances:
        """Return the instances of an epoch."""
        if epoch not in self._held:
            newest = list(self._held)[-1:]
            self._held = {key: self._held[key] for key in newest} | {epoch: self._make(epoch, self.size)}
        return self._held[epoch]

    def split(self, number: int) -> tuple[int, int]:
        """Return epoch and instance of a number."""
        return divmod(int(number), self.size)

    def instance(self, number: int) -> Instance:
        """Return the instance of a number."""
        epoch, place = self.split(number)
        return self.of(epoch)[place]

    def __getitem__(self, numbers: Any) -> Any:
        """Return the lengths of one or several numbers, ``()`` or ``(n,)`` int64: what batches are laid out by."""
        chosen = np.asarray(numbers, dtype=np.int64)
        if chosen.ndim == 0:
            epoch, place = self.split(int(chosen))
            return self.of(epoch).lengths[place]
        found = np.zeros(len(chosen), dtype=np.int64)
        for epoch in np.unique(chosen // self.size).tolist():
            here = chosen // self.size == epoch
            found[here] = self.of(epoch).lengths[chosen[here] % self.size]
        return found


class EpochBatches(TrainingBatches):
    """Optimizer steps over the instances of :class:`Epochs`; features are their numbers."""

    def __init__(
        self, epochs: Epochs, *, batch_size: int, micro_batch_tokens: int, seed: int, group_by_length: bool = False
    ) -> None:
        """Take the instances; the rest is as in :class:`~bertkit.data.batches.TrainingBatches`."""
        sizes: dict[str, int] = {"batch_size": batch_size, "micro_batch_tokens": micro_batch_tokens, "seed": seed}
        super().__init__([], [], **sizes, group_by_length=group_by_length)
        self.epochs = epochs
        self.lengths = epochs  # type: ignore[assignment]
        self._places: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def num_examples(self) -> int:
        """Return the instances of an epoch."""
        return self.epochs.size

    def features(self, epoch: int, examples: np.ndarray) -> np.ndarray:
        """Return the numbers of some instances of an epoch."""
        found: np.ndarray = epoch * self.epochs.size + np.asarray(examples)
        return found

    def longest(self, epoch: int) -> np.ndarray:
        """Return the lengths of an epoch's instances."""
        return self.epochs.of(epoch).lengths

    def step_of(self, number: int) -> Sequence[int]:
        """Return all numbers of the step that sees a number."""
        epoch, place = self.epochs.split(number)
        if self._places is None or self._places[0] != epoch:
            order = self.order(epoch)
            self._places = epoch, order, np.argsort(order)
        _, order, inverse = self._places
        begin = int(inverse[place]) // self.batch_size * self.batch_size
        chosen: list[int] = self.features(epoch, order[begin : begin + self.batch_size]).tolist()
        return chosen
