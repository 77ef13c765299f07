"""The forward pass without gradients: batched by length, each example exactly once, in input order.

Takes an adapter and imports none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from bertkit import memory, processes, replicas
from bertkit.data.batches import by_tokens, padded
from bertkit.data.dealing import deal
from bertkit.events import Listener, Note, ignore
from bertkit.feeding import Feed

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

    from bertkit.adapters.base import Adapter, Example, Feature, Prediction

Advance = Callable[[int], None]
Row = TypeVar("Row")


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


class Room:
    """Tokens that go through a model at once; fewer from the moment on when the device has no memory for them."""

    def __init__(self, tokens: int = 0, listen: Listener = ignore) -> None:
        """Take what is asked for, with 0 for the device's default, and who is told where it was too much."""
        self.tokens = tokens
        self.listen = listen

    def on(self, device: torch.device) -> int:
        """Return the tokens for a device."""
        self.tokens = self.tokens or (BATCH_TOKENS_CPU if device.type == "cpu" else BATCH_TOKENS)
        return self.tokens

    def halve(self, lengths: Sequence[int], device: torch.device, error: Exception) -> None:
        """Make room for half of a batch, and say so.

        Raises:
            OutOfMemoryError: if the batch is a single row.
        """
        if len(lengths) == 1:
            raise memory.OutOfMemoryError(
                f"Out of memory without gradients, with one row of {lengths[0]} tokens: {memory.first_line(error)} "
                "Use a device that nothing else uses, --device cpu, or a smaller train.max_length."
            ) from error
        before, self.tokens = padded(lengths), padded(lengths) // 2
        message = (
            f"{device} has no memory for {before} tokens at once without gradients, so eval.batch_tokens is "
            f"{self.tokens} from here on. The predictions stay the same"
        )
        self.listen(Note(message=message, level="warning"))


def forward(
    adapter: Adapter,
    model: Model,
    features: Sequence[Feature],
    *,
    accelerator: Accelerator,
    batch_tokens: int | Room,
    advance: Advance | None = None,
    together: bool = False,
) -> list[np.ndarray]:
    """Return what :meth:`Adapter.reduce` keeps of each feature, in the order of ``features``.

    Args:
        adapter: collates and reduces.
        model: moved to the accelerator's device; left in evaluation mode.
        features: any number; they go through in batches of similar length.
        accelerator: device and precision.
        batch_tokens: tokens, padding included, that go through at once; 0 leaves it to the device. A :class:`Room` is
            shared by several calls, and knows from one to the next what there is memory for.
        advance: called with the number of features that went through.
        together: whether all processes call this with the same features. The batches are those of one process, dealt
            whole; the main process is given all that came of them, the others nothing.

    Raises:
        OutOfMemoryError: if the device has no memory for a single feature.
    """
    model.eval()
    room = batch_tokens if isinstance(batch_tokens, Room) else Room(batch_tokens)
    lengths = [len(feature) for feature in features]
    batches = by_tokens(lengths, room.on(accelerator.device))
    sharded = together and replicas.is_fsdp(accelerator)
    mine, fillers = _dealt(batches, lengths, sharded=sharded) if together else (batches, [])

    def compute() -> dict[int, np.ndarray]:
        # Of shards each pass is an exchange: nobody may stop in between.
        found = _computed(adapter, model, features, mine, accelerator, room, None if sharded else advance)
        for rows in fillers:
            _reduced(adapter, model, _feed(adapter, features, accelerator), rows, accelerator)
        return found

    parts = processes.gather(compute) if together else [compute()]
    if together:
        # It may be the end of it, by what it raises, and then of it everywhere.
        processes.on_main(lambda: advance(len(features) - len(parts[0])) if advance and len(parts) > 1 else None)
    if not parts:
        return []
    reduced = {row: value for part in parts for row, value in part.items()}
    # Each exactly once: no more values than rows, and none missing.
    assert sum(map(len, parts)) == len(reduced) == len(features), f"{len(reduced)} of {len(features)} were computed"
    return [reduced[row] for row in range(len(features))]


def _dealt(
    batches: list[list[int]], lengths: Sequence[int], *, sharded: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Return this process's batches, and those that it only takes part in, where each pass is an exchange."""
    hands = deal([padded([lengths[row] for row in batch]) for batch in batches], processes.size())
    mine = [batches[place] for place in hands[processes.rank()]]
    lacking = max(map(len, hands)) - len(mine) if sharded else 0
    return mine, [batches[-1][:1]] * lacking


def _computed(
    adapter: Adapter,
    model: Model,
    features: Sequence[Feature],
    batches: Sequence[list[int]],
    accelerator: Accelerator,
    room: Room,
    advance: Advance | None,
) -> dict[int, np.ndarray]:
    """Return what is kept of each row of some batches, which are made smaller where there is no memory for them."""
    lengths = [len(feature) for feature in features]
    reduced: dict[int, np.ndarray] = {}
    feed = _feed(adapter, features, accelerator)
    waiting = list(batches)[::-1]
    while waiting:
        rows = waiting.pop()
        try:
            values = _reduced(adapter, model, feed, rows, accelerator, waiting[-1] if waiting else [])
        except RuntimeError as error:
            if not memory.is_short(error):
                raise
            room.halve([lengths[row] for row in rows], accelerator.device, error)
            values = None
        if values is None:
            # Not in the handler, whose error still holds the tensors of the try.
            feed.clear()
            memory.give_back()
            waiting = _again([*waiting, rows], lengths, room.tokens)
            continue
        reduced |= zip(rows, values, strict=True)
        if advance:
            advance(len(rows))
    return reduced


def _feed(adapter: Adapter, features: Sequence[Feature], accelerator: Accelerator) -> Feed:
    return Feed(lambda rows: adapter.collate([features[row] for row in rows]), accelerator.device)


def _reduced(
    adapter: Adapter,
    model: Model,
    feed: Feed,
    rows: Sequence[int],
    accelerator: Accelerator,
    following: Sequence[int] = (),
) -> Sequence[np.ndarray]:
    """Return what is kept of the rows of one batch; the batch that follows is made while a GPU is busy."""
    import torch

    batch = feed.take(rows)
    with torch.inference_mode(), accelerator.autocast():
        outputs = model(**adapter.inputs(batch))
    feed.make(following)
    return adapter.reduce(outputs, batch)


def _again(waiting: Sequence[Sequence[int]], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Split the rows of batches that wait, the last of them first, into batches of at most ``tokens``."""
    rows = [row for batch in reversed(waiting) for row in batch]
    return [[rows[place] for place in part] for part in by_tokens([lengths[row] for row in rows], tokens)][::-1]


def predict(
    adapter: Adapter,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    features: Sequence[Feature] | None = None,
    accelerator: Accelerator,
    batch_tokens: int | Room,
    advance: Advance | None = None,
    together: bool = False,
) -> list[Prediction]:
    """Return one prediction per example, in order; ``features`` may be given where they were encoded before.

    Of processes that work ``together`` (:func:`forward`) the main one is given them, the others none.
    """
    if features is None:
        features = adapter.encode(examples, tokenizer)
    given: dict[str, Any] = {"accelerator": accelerator, "batch_tokens": batch_tokens, "advance": advance}
    reduced = forward(adapter, model, features, **given, together=together)
    if together and not processes.is_main():
        return []
    return decoded(adapter, reduced, features, examples)


def decoded(
    adapter: Adapter, reduced: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[Example]
) -> list[Prediction]:
    """Return one prediction per example, in order, of what :func:`forward` kept."""
    predictions = adapter.decode(reduced, features, examples)
    assert len(predictions) == len(examples), f"{len(predictions)} predictions for {len(examples)} examples"
    return predictions


class Team:
    """Processes that compute together what the main one alone has read: it asks for a pass, and the others wait.

    In one process there is nobody to be asked.
    """

    def __init__(self, adapter: Adapter, model: Model, accelerator: Accelerator, room: Room) -> None:
        """Take what a pass is made of, the same on every process."""
        self._adapter = adapter
        self._model = model
        self._accelerator = accelerator
        self._room = room
        self._waiting = processes.size() > 1
        """Whether the others wait to be told what comes."""

    def forward(self, features: Sequence[Feature]) -> list[np.ndarray]:
        """Return what :func:`forward` returns of the main process's features; for that process alone."""
        if processes.size() > 1:
            # From here on they know of a fault themselves.
            self._waiting = False
            packed = self._adapter.packed(features)
            processes.on_main(lambda: (features if packed is None else None, packed, self._room.tokens))
        reduced = self._pass(features)
        self._waiting = processes.size() > 1
        return reduced

    def serve(self) -> None:
        """Take part in each pass that the main process asks for, until it ends; for the others.

        Raises:
            BertkitError: what ended it there.
        """
        nothing: Callable[[], Any] = lambda: None  # noqa: E731 (it is the main process's that counts)
        while (given := processes.on_main(nothing)) is not None:
            features, packed, self._room.tokens = given
            self._pass(self._adapter.unpacked(packed) if features is None else features)

    def end(self, error: BaseException | None = None) -> None:
        """Tell the others that no pass follows, and of the fault why; a second time does nothing."""
        waiting, self._waiting = self._waiting, False
        # An interrupt has come to all of them.
        if not waiting or not processes.is_main() or isinstance(error, KeyboardInterrupt):
            return

        def said() -> None:
            if isinstance(error, Exception) and not isinstance(error, StopIteration):
                raise error

        # It is this process's own fault, which raises it as it is.
        with suppress(Exception):
            processes.on_main(said)

    @contextmanager
    def led(self) -> Iterator[None]:
        """Tell the others of a fault of the block."""
        try:
            yield
        except BaseException as error:
            self.end(error)
            raise

    def _pass(self, features: Sequence[Feature]) -> list[np.ndarray]:
        together = processes.size() > 1
        about: dict[str, Any] = {"accelerator": self._accelerator, "batch_tokens": self._room}
        reduced = forward(self._adapter, self._model, features, **about, together=together)
        # The batches of the next pass must be the same on all, also where one had no memory for those of this one.
        self._room.tokens = min(processes.gather(lambda: self._room.tokens), default=self._room.tokens)
        return reduced


def parts(rows: Iterable[Row], chunk: int, size: Callable[[Row], int]) -> Iterator[list[Row]]:
    """Yield lists of up to ``chunk`` rows and about :data:`CHARACTERS` characters; ``size`` counts those of a row."""
    part: list[Row] = []
    total = 0
    for row in rows:
        part.append(row)
        total += size(row)
        if len(part) >= chunk or total >= CHARACTERS:
            yield part
            part, total = [], 0
    if part:
        yield part


def characters(example: Example) -> int:
    """Return the characters of an example's texts."""
    return sum(map(_characters, example.values()))


def _characters(cell: Any) -> int:
    """Return the characters of a text, or of the words in a list."""
    return sum(map(_characters, cell)) if isinstance(cell, list) else len(cell) if isinstance(cell, str) else 0
