"""How much memory a training takes: counted on one row before the first step, and said where there is not enough."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from bertkit import embeddings, loop, memory
from bertkit.adapters.base import Adapter, Feature
from bertkit.data.batches import TrainingBatches
from bertkit.events import Listener, Note
from bertkit.feeding import on_device

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel


def of(
    adapter: Adapter,
    model: PreTrainedModel,
    features: Sequence[Feature],
    batches: TrainingBatches,
    accelerator: Accelerator,
) -> memory.Need:
    """Return the memory that training takes beyond what the process holds now.

    What the backward pass needs is counted on the longest row and scaled to the largest micro-batch. Random numbers
    and weights are left as they were.
    """
    trained = sum(parameter.numel() for parameter in embeddings.trained(model).values())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    row = int(batches.lengths.argmax())
    random_state = loop.generators()
    training = model.training
    model.train()
    try:
        kept = _kept(adapter, model, features[row], accelerator)
    finally:
        model.train(training)
        loop.set_generators(*random_state)
    share = batches.most_tokens / max(1, len(features[row]))
    cast = trained if accelerator.mixed_precision != "no" else 0
    return memory.need(parameters=parameters, trained=trained, kept=int(kept * share), cast=cast)


def _kept(adapter: Adapter, model: PreTrainedModel, feature: Feature, accelerator: Accelerator) -> int:
    """Return the bytes that the loss of one row keeps for its backward pass."""
    import torch

    def loss() -> torch.Tensor:
        batch = on_device(adapter.collate([feature]), accelerator.device)
        with accelerator.autocast():
            return adapter.loss(model(**adapter.inputs(batch)), batch).sum

    return memory.kept_for_backward(loss, besides=chain(model.parameters(), model.buffers()))


def warn(need: memory.Need, listen: Listener) -> None:
    """Say that a training on the CPU takes more memory than is free, before the kernel ends it."""
    free = memory.free()
    if free is not None and need.size > free.size:
        listen(Note(message=shortage(need, free), level="warning"))


def shortage(need: memory.Need, free: memory.Free) -> str:
    """Return the sentence that says what is missing, and what would take less."""
    smaller = (
        "" if need.finishing > need.training else "a smaller train.micro_batch_tokens, which changes no result, or "
    )
    return (
        f"training takes about {memory.gigabytes(need.size)} of memory beyond what is held already, and "
        f"{memory.gigabytes(free.size)} are free {free.reason}: the system may end the process. "
        f"Try {smaller}a smaller encoder"
    )
