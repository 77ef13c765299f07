"""Vectors of texts and of words: hidden states of an encoder, pooled, without any head.

Shape letters: ``B`` batch, ``T`` padded length, ``W`` width of a vector (H, or 4 H of ``concat-last-4``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from bertkit import device, encoder, heads, layers, unpad
from bertkit.adapters import windows, words
from bertkit.adapters.base import Adapter, Batch, Example, Feature, Prediction, encodings
from bertkit.config import DeviceConfig, EmbedConfig, Layers, Pooling, TrainConfig
from bertkit.encoder import Source
from bertkit.errors import ConfigError, joined
from bertkit.task import DataSource, Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedTokenizerBase

ENCODE_CHUNK = 2048
"""Texts that the tokenizer is given at once; bounds memory."""
SMALLEST = 1e-12
"""Norm below which a vector is not made longer by normalising."""
TEXT = "text"
"""The role of the column that is read, and its name where rows have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The words of a feature that have tokens in it, n of them."""

    spans: list[tuple[int, int]]
    """Start and end of each, in code points of the text, end exclusive."""
    places: list[list[int]]
    """Positions of each one's tokens in the feature; at least one."""


class Embedding(Adapter):
    """Texts in, vectors out; :mod:`bertkit.infer` runs it as it runs a task type, though there is nothing to learn."""

    columns: ClassVar[tuple[str, ...]] = (TEXT,)

    def __init__(self, task: Task, config: TrainConfig, *, pooling: Pooling, layers: Layers, normalize: bool) -> None:
        super().__init__(task, config, ())
        self.pooling = pooling
        self.layers = layers
        self.normalize = normalize
        self.mix: torch.nn.Module | None = None
        """The learned weights of ``layers``, where it has any."""
        self.at_end = False
        """Whether [CLS], or what stands for it, is a row's last token."""

    def check(self, example: Example, *, labelled: bool = True) -> list[str]:
        """Return what is wrong with the text; an empty one is in order."""
        return self.check_text(example, TEXT)

    def encode(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Feature]:
        """Turn each text into one feature, ``[CLS] text [SEP]``, cut where it is too long."""
        with_types = "token_type_ids" in tokenizer.model_input_names
        features: list[Feature] = []
        for start in range(0, len(examples), ENCODE_CHUNK):
            texts = self.texts(examples[start : start + ENCODE_CHUNK], TEXT)
            found = encodings(tokenizer, texts, offsets=self.pooling == "words")
            for index, (text, encoding) in enumerate(zip(texts, found, strict=True)):
                features.append(self._feature(start + index, text, encoding, with_types=with_types))
                if not features[-1].input_ids:
                    # GPT-2's tokenizer makes nothing of an empty text, and a model takes no empty row.
                    features[-1].input_ids = [int(tokenizer.pad_token_id or 0)]
                    features[-1].token_type_ids = [0] if with_types else None
        return features

    def _feature(self, place: int, text: str, encoding: Any, *, with_types: bool) -> Feature:
        kept: Sequence[int] = range(len(encoding))
        if len(encoding) > self.config.max_length:
            segment = windows.segments(encoding)[0]
            room = self.config.max_length - (len(encoding) - len(segment))
            kept = windows.positions(encoding, {*windows.head(segment, room)})
        ids, types = encoding.ids, encoding.type_ids
        return Feature(
            example=place,
            input_ids=[ids[p] for p in kept],
            token_type_ids=[types[p] for p in kept] if with_types else None,
            num_cut=len(encoding) - len(kept),
            aligned=_words(text, encoding, kept) if self.pooling == "words" else None,
        )

    def collate(self, features: Sequence[Feature], rng: np.random.Generator | None = None) -> Batch:
        """Pad features; of words, add the cells of the ``(B, T)`` table that each one's tokens stand in.

        ``cells`` int64 has them word after word, ``starts`` int64 where each word's begin, ``counts`` int64 ``(B,)``
        how many words each row has.
        """
        import torch

        batch = super().collate(features, rng)
        if self.pooling == "words":
            width = batch["input_ids"].shape[1]
            cells: list[list[int]] = []
            for row, feature in enumerate(features):
                first = row * width + (width - len(feature) if self.padding.left else 0)
                cells += [[first + place for place in places] for places in feature.aligned.places]
            starts = list(accumulate(map(len, cells), initial=0))[:-1]
            batch["cells"] = torch.tensor([cell for places in cells for cell in places], dtype=torch.int64)
            batch["starts"] = torch.tensor(starts, dtype=torch.int64)
            batch["counts"] = torch.tensor([len(feature.aligned.spans) for feature in features], dtype=torch.int64)
        return batch

    def reduce(self, outputs: Any, batch: Batch) -> list[np.ndarray]:
        """Return the vector of each row, ``(W,)`` float32, or those of its words, ``(n, W)``.

        Args:
            outputs: the hidden states that :attr:`layers` reads, ``(B, T, H)`` each.
            batch: what :meth:`collate` made.
        """
        import torch

        with torch.inference_mode():
            # Whatever the layers computed in, sums are float32.
            states = layers.merged([state.float() for state in outputs], self.layers, self.mix)
            found = self._pooled(states, batch)
            if self.normalize:
                found = torch.nn.functional.normalize(found, dim=-1, eps=SMALLEST)
            values: np.ndarray = found.cpu().numpy()
        if self.pooling != "words":
            return list(values)
        ends = list(accumulate(batch["counts"].tolist(), initial=0))
        return [values[start:end] for start, end in pairwise(ends)]

    def _pooled(self, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return ``(B, W)``, or of words ``(n, W)``, from states ``(B, T, W)``."""
        import torch

        if self.pooling == "words":
            flat = states.reshape(-1, states.shape[-1])
            bags = (batch["cells"], flat, batch["starts"])
            return torch.nn.functional.embedding_bag(*bags, mode="mean") if len(bags[2]) else flat[:0]
        real = batch["attention_mask"].bool()
        if self.pooling == "cls":
            whole = real.long()
            place = real.shape[1] - 1 - whole.flip(1).argmax(1) if self.at_end else whole.argmax(1)
            return states[torch.arange(len(states), device=states.device), place]
        padding = ~real.unsqueeze(-1)
        if self.pooling == "max":
            return states.masked_fill(padding, float("-inf")).amax(1)
        means: torch.Tensor = states.masked_fill(padding, 0.0).sum(1) / real.sum(1, keepdim=True)
        return means

    def decode(
        self, reduced: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return ``vectors`` (arrays, as :meth:`reduce` gave them) and ``truncated``; of words, their ``words``."""
        found: list[Prediction] = []
        for value, feature in zip(reduced, features, strict=True):
            one: Prediction = {"vectors": value, "truncated": feature.num_cut > 0}
            found.append(one if feature.aligned is None else one | {"words": feature.aligned.spans})
        return found


def _words(text: str, encoding: Any, kept: Sequence[int]) -> Words:
    """Return the words of a text that have tokens among those that are kept; a token may be of two words."""
    sentence = words.of_text(text)
    places: dict[int, list[int]] = {}
    sequences, offsets = encoding.sequence_ids, encoding.offsets
    for index, position in enumerate(kept):
        if sequences[position] is not None:
            for word in sentence.covered(*offsets[position]):
                places.setdefault(word, []).append(index)
    found = sorted(places)
    return Words(spans=[sentence.spans[word] for word in found], places=[places[word] for word in found])


class States:
    """An encoder that gives the hidden states which a choice of layers reads, ``(B, T, H)`` each."""

    def __init__(self, model: Any) -> None:
        """Take what :func:`bertkit.heads.headed` made; its head is not used."""
        self.model = model

    def eval(self) -> None:
        """Leave training mode."""
        self.model.eval()

    def __call__(self, **inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the states of a batch."""
        found: list[torch.Tensor] = self.model.states(**inputs)
        return found


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An encoder on its device, and what reads it."""

    adapter: Embedding
    model: States
    tokenizer: PreTrainedTokenizerBase
    accelerator: Accelerator
    precision: str
    width: int
    """Numbers of a vector, W."""


def load(
    source: Source,
    where: DeviceConfig,
    *,
    column: str = TEXT,
    settings: EmbedConfig,
    pooling: Pooling = "mean",
    choice: Layers = "last",
    normalize: bool = False,
) -> Opened:
    """Load an encoder without its head.

    Args:
        source: what :func:`bertkit.encoder.find` gave.
        where: device, precision and threads.
        column: that holds the text.
        settings: the longest text.
        pooling: what becomes one vector.
        choice: which hidden states.
        normalize: make every vector 1 long.

    Raises:
        ModelError: if the files cannot be loaded.
        ConfigError: if the encoder has too few layers for the choice, or has not learned it.
    """
    place = device.choose(where)
    accelerator = device.accelerator(place)
    spec = _spec(source, choice)
    loaded = encoder.load(source, auto_class="AutoModel", head=spec)
    loaded.model.to(accelerator.device)
    if unpad.is_proven(accelerator.device.type):
        installed = unpad.install(loaded.model)
        if place.precision == "bf16" and installed.form in unpad.PACKED:
            # As predict does: faster than to round them anew in each batch.
            encoder.round_weights(loaded.model)
            accelerator = device.accelerator(replace(place, precision="float32"))
    task = Task(name="embed", type="embedding", data=DataSource(), columns={TEXT: column})
    config = TrainConfig(max_length=min(settings.max_length, loaded.max_length))
    adapter = Embedding(task, config, pooling=pooling, layers=choice, normalize=normalize)
    adapter.bind(loaded.tokenizer)
    head: Any = loaded.model
    adapter.mix, adapter.at_end = head.head.mix, head.spec.at_end
    return Opened(
        adapter=adapter,
        model=States(loaded.model),
        tokenizer=loaded.tokenizer,
        accelerator=accelerator,
        precision=place.precision,
        width=layers.width(choice, head.spec.hidden),
    )


def _spec(source: Source, choice: Layers) -> heads.Spec:
    """Return the head by whose layers the encoder is read: of a learned mix, the one that was saved with it.

    Raises:
        ConfigError: if none was.
    """
    if choice not in layers.LEARNED:
        return heads.Spec(kind="linear", layers=choice, reads="tokens", outputs=1)
    stored = heads.stored(source.folder)
    if stored is None or stored.layers != choice:
        fixed = joined(one for one in layers.CHOICES if one not in layers.LEARNED)
        raise ConfigError(
            f"--layers {choice} has weights that a training learns, and {source.name} was not saved with any. Train "
            f"with --set train.layers={choice} and give that run, or use {fixed}."
        )
    return stored


def parts_of(opened: Opened) -> int:
    """Return how much a character counts where rows are taken together, so that word vectors fit into memory."""
    return max(1, opened.width // 16) if opened.adapter.pooling == "words" else 1


def numbers(vector: np.ndarray) -> list[float]:
    """Return a vector as numbers that JSON writes short, and that are the same float32 when they are read again.

    Nine significant digits tell every float32 from its neighbours (IEEE 754-2019, 5.12.2).
    """
    return [float(f"{number:.9g}") for number in vector.tolist()]
