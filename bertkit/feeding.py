"""Batches on their way to a device: pinned, copied without waiting, and on a GPU made one ahead.

A GPU computes by itself once its work is given to it. Between giving it a batch and waiting for what comes of it, the
processor makes the next batch and begins to copy it; no thread is needed, and the order in which batches are made stays
that in which they are used. At most one batch waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bertkit import unpad

if TYPE_CHECKING:
    import torch

Batch = dict[str, Any]
Rows = Sequence[int]


class Feed:
    """Batches of rows on a device; one of them may be made ahead of its use, and changes nothing."""

    def __init__(self, collate: Callable[[Rows], Batch], device: torch.device) -> None:
        """Take what makes a batch of rows, and where batches are needed."""
        self.collate = collate
        self.device = device
        self.ahead = device.type == "cuda"
        """Whether the device computes while the processor does something else."""
        self._waiting: tuple[list[int], Batch] | None = None

    def take(self, rows: Rows) -> Batch:
        """Return the batch of these rows: the one that waits where it is theirs, else a new one."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting[0] == list(rows):
            return waiting[1]
        return on_device(self.collate(rows), self.device)

    def make(self, rows: Rows) -> None:
        """Make the batch that will be taken next, where that costs no time; without rows there is none."""
        if self.ahead and rows:
            self._waiting = None
            self._waiting = list(rows), on_device(self.collate(rows), self.device)

    def clear(self) -> None:
        """Forget the batch that waits; its memory is free."""
        self._waiting = None


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch with its tensors on ``device``; to CUDA from pinned memory, without waiting for the copy."""
    if device.type != "cuda":
        return {name: value.to(device) for name, value in batch.items()}
    # torch keeps pinned memory that a copy still reads, also where nothing else does.
    moved = {name: value.pin_memory().to(device, non_blocking=True) for name, value in batch.items()}
    if "attention_mask" in moved:
        unpad.remember(moved["attention_mask"], batch["attention_mask"])
    return moved
