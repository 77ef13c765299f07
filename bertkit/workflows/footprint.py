"""How much memory a training takes: counted on one row before the first step, and said where there is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from bertkit import embeddings, loop, memory
from bertkit.adapters.base import Adapter, Feature
from bertkit.data.batches import TrainingBatches
from bertkit.events import Listener, Note
from bertkit.feeding import on_device

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedModel


COUNTED_ROWS = 8
"""Rows of a micro-batch that are counted."""

LIBRARIES = 200_000_000
"""Bytes on a CPU, measured with MiniLM: scikit-learn and evaluate, which come with the first evaluation, take 100 MB,
products that oneDNN compiles, one a shape, and what the heap does not give back the rest."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Memory that a training takes beyond what the process holds before its first step, in bytes."""

    training: int
    """Gradients, moments and what one micro-batch keeps for the backward pass."""
    finishing: int
    """The moments, and a whole checkpoint beside them when the best one is read back."""
    libraries: int
    """What is imported to score, and what oneDNN compiles."""
    disk: int
    """Of the three checkpoints that are kept, and of a fourth while it is written."""

    @property
    def size(self) -> int:
        """Return the most that is needed at one time."""
        return max(self.training, self.finishing) + self.libraries

    def times(self, number: int) -> Need:
        """Return what so many processes take on one machine; one of them writes."""
        several = {name: getattr(self, name) * number for name in ("training", "finishing", "libraries")}
        return replace(self, **several)


def of(
    adapter: Adapter,
    model: PreTrainedModel,
    features: Sequence[Feature],
    batches: TrainingBatches,
    accelerator: Accelerator,
) -> Need:
    """Return the memory that training takes beyond what the process holds now.

    What the backward pass needs is counted on a few rows of the largest micro-batch and scaled to all of it. Random
    numbers and weights are left as they were.
    """
    random_state, training = loop.generators(), model.training
    model.train()
    try:
        kept = _kept(adapter, model, [features[row] for row in batches.largest_micro_batch()], accelerator)
    finally:
        model.train(training)
        loop.set_generators(*random_state)
    return counted(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained=sum(parameter.numel() for parameter in embeddings.trained(model).values()),
        kept=kept,
        libraries=LIBRARIES if accelerator.device.type == "cpu" else 0,
    )


def counted(*, parameters: int, trained: int, kept: int, libraries: int = 0) -> Need:
    """Return what training in float32 weights takes beyond the weights themselves.

    Args:
        parameters: elements of the model, as a checkpoint holds it.
        trained: elements that have a gradient and the two moments of AdamW.
        kept: bytes that the largest micro-batch keeps for the backward pass.
        libraries: bytes that come with code.
    """
    moments, checkpoint = 8 * trained, 4 * parameters + 8 * trained
    return Need(
        training=4 * trained + moments + kept,
        finishing=moments + checkpoint,
        libraries=libraries,
        disk=4 * checkpoint,
    )


def _kept(adapter: Adapter, model: PreTrainedModel, rows: Sequence[Feature], accelerator: Accelerator) -> int:
    """Return the bytes that the loss of a micro-batch keeps for its backward pass, from a few of its rows.

    They go through once and twice: what comes with the second time comes with each further one, and the rest, such as
    weights in 16 bits, only once.
    """
    few = _few(rows)

    def kept(some: Sequence[Feature]) -> int:
        def loss() -> torch.Tensor:
            batch = on_device(adapter.collate(some), accelerator.device)
            with accelerator.autocast():
                return adapter.loss(model(**adapter.inputs(batch)), batch).sum

        return kept_for_backward(loss, besides=chain(model.parameters(), model.buffers()))

    once, twice = kept(few), kept([*few, *few])
    return once + round((twice - once) * (len(rows) / len(few) - 1))


def _few(rows: Sequence[Feature]) -> Sequence[Feature]:
    """Return rows as long, and as padded, as the whole micro-batch: the longest, and some that make up the mean.

    So the count is right for layers that see padding and for those that do not.
    """
    if len(rows) <= COUNTED_ROWS:
        return rows
    longest, *others = sorted(rows, key=len, reverse=True)
    mean = sum(map(len, rows)) / len(rows)
    wanted = (COUNTED_ROWS * mean - len(longest)) / (COUNTED_ROWS - 1)
    return [longest, *sorted(others, key=lambda row: abs(len(row) - wanted))[: COUNTED_ROWS - 1]]


def kept_for_backward(forward: Callable[[], torch.Tensor], *, besides: Iterator[torch.Tensor]) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, each storage once.

    Args:
        forward: gives the loss.
        besides: tensors that are there anyway, such as the parameters.
    """
    import torch

    known = {tensor.untyped_storage().data_ptr() for tensor in besides}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        # Without its history: an output that keeps itself would never be freed.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    # The graph is alive until here, so no storage was freed and its place given to another.
    del loss
    return sum(sizes.values())


def warn(need: Need, listen: Listener) -> None:
    """Say that a training on the CPU takes more memory than is free, before the kernel ends it."""
    free = memory.free()
    if free is not None and need.size > free.size:
        listen(Note(message=shortage(need, free), level="warning"))


def shortage(need: Need, free: memory.Free) -> str:
    """Return the sentence that says what is missing, and what would take less."""
    smaller = (
        "" if need.finishing > need.training else "a smaller train.micro_batch_tokens, which changes no result, or "
    )
    return (
        f"training takes about {memory.gigabytes(need.size)} of memory beyond what is held already, and "
        f"{memory.gigabytes(free.size)} are free {free.reason}: the system may end the process. "
        f"Try {smaller}a smaller encoder"
    )
