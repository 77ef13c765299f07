"""The forward pass without gradients: batched by length, each example exactly once, in input order.

Takes an adapter and imports none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bertkit.data.batches import by_tokens

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

    from bertkit.adapters.base import Adapter, Example, Feature, Prediction

Advance = Callable[[int], None]


class Model(Protocol):
    """What predictions are computed with: a Hugging Face model, or what :mod:`bertkit.backends` makes of one."""

    def eval(self) -> Any:
        """Leave training mode."""

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Return the outputs of a batch: what the task type's head gives, as attributes."""


BATCH_TOKENS, BATCH_TOKENS_CPU = 16_384, 2_048
"""Tokens that go through a model at once, where nothing else is asked for: on a GPU, which wants much work at a time,
and on a CPU, whose caches hold little and where more tokens are more padding."""
CHARACTERS = 4_000_000
"""Characters of text that are predicted together; bounds the memory of windows over long contexts."""


def forward(
    adapter: Adapter,
    model: Model,
    features: Sequence[Feature],
    *,
    accelerator: Accelerator,
    batch_tokens: int,
    advance: Advance | None = None,
) -> list[np.ndarray]:
    """Return what :meth:`Adapter.reduce` keeps of each feature, in the order of ``features``.

    Args:
        adapter: collates and reduces.
        model: moved to the accelerator's device; left in evaluation mode.
        features: any number; they go through in batches of similar length.
        accelerator: device and precision.
        batch_tokens: tokens, padding included, that go through at once; 0 leaves it to the device.
        advance: called with the number of features that went through.
    """
    import torch

    model.eval()
    batch_tokens = batch_tokens or (BATCH_TOKENS_CPU if accelerator.device.type == "cpu" else BATCH_TOKENS)
    reduced: list[np.ndarray | None] = [None] * len(features)
    for rows in by_tokens([len(feature) for feature in features], batch_tokens):
        batch = on_device(adapter.collate([features[row] for row in rows]), accelerator.device)
        with torch.inference_mode(), accelerator.autocast():
            outputs = model(**adapter.inputs(batch))
        for row, value in zip(rows, adapter.reduce(outputs, batch), strict=True):
            reduced[row] = value
        if advance:
            advance(len(rows))
    missing = sum(value is None for value in reduced)
    assert not missing, f"{missing} features were not computed"
    return [value for value in reduced if value is not None]


def predict(
    adapter: Adapter,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    features: Sequence[Feature] | None = None,
    accelerator: Accelerator,
    batch_tokens: int,
    advance: Advance | None = None,
) -> list[Prediction]:
    """Return one prediction per example, in order; ``features`` may be given where they were encoded before."""
    if features is None:
        features = adapter.encode(examples, tokenizer)
    reduced = forward(adapter, model, features, accelerator=accelerator, batch_tokens=batch_tokens, advance=advance)
    predictions = adapter.decode(reduced, features, examples)
    assert len(predictions) == len(examples), f"{len(predictions)} predictions for {len(examples)} examples"
    return predictions


def stream(
    adapter: Adapter,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    examples: Iterable[Example],
    *,
    chunk: int,
    accelerator: Accelerator,
    batch_tokens: int,
) -> Iterator[tuple[Example, Prediction]]:
    """Yield each example with its prediction, in input order.

    At most ``chunk`` examples are in memory at a time, fewer where their texts are long.
    """
    for part in _parts(examples, chunk):
        predictions = predict(adapter, model, tokenizer, part, accelerator=accelerator, batch_tokens=batch_tokens)
        yield from zip(part, predictions, strict=True)


def _parts(examples: Iterable[Example], chunk: int) -> Iterator[list[Example]]:
    """Yield lists of up to ``chunk`` examples and about :data:`CHARACTERS` characters."""
    part: list[Example] = []
    size = 0
    for example in examples:
        part.append(example)
        size += sum(map(_characters, example.values()))
        if len(part) >= chunk or size >= CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


def _characters(cell: Any) -> int:
    """Return the characters of a text, or of the words in a list."""
    return sum(map(_characters, cell)) if isinstance(cell, list) else len(cell) if isinstance(cell, str) else 0


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a batch with its tensors on ``device``."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
