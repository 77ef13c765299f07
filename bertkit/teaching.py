"""A teacher at work: its answers to the rows that a student learns from, and what goes on inside it.

Where the student reads the same features (one tokenizer, one length), the teacher answers each of them. Else it reads
the examples in its own features, and its answers are matched by example (classification) or by word (tagging).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from bertkit import distillation, infer, processes, unpad
from bertkit.adapters.base import Adapter, Batch, Feature, filled
from bertkit.data.batches import Draw, TrainingBatches
from bertkit.encoder import Encoder

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import Accelerator

MEGABYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained model in evaluation mode, without gradients."""

    adapter: Adapter
    """Of the teacher's own length and labels."""
    loaded: Encoder
    accelerator: Accelerator
    order: list[int] | None
    """Place of each of the student's labels among the teacher's; None where the head has no labels."""
    attention: bool = False
    """Whether its attention is asked for, which it then computes the plain way."""
    form: str = field(init=False, default="padded")

    def __post_init__(self) -> None:
        """Put the model in order, on its device."""
        model, device = self.loaded.model, self.accelerator.device
        self.adapter.bind(self.loaded.tokenizer)
        model.eval().requires_grad_(False).to(device)
        if self.attention:
            model.set_attn_implementation("eager")
        elif unpad.is_proven(device.type):
            object.__setattr__(self, "form", unpad.install(model).form)

    def think(self, batch: Batch, **wanted: bool) -> Any:
        """Return its outputs for a batch of the student's, with what is wanted of the insides."""
        import torch

        takes = self.loaded.tokenizer.model_input_names
        inputs = {name: value for name, value in self.adapter.inputs(batch).items() if name in takes}
        with torch.no_grad(), self.accelerator.autocast():
            outputs = self.loaded.model(**inputs, **wanted)
        if self.order is not None:
            outputs.logits = outputs.logits[..., self.order]
        return outputs

    def answers(self, features: Sequence[Feature], room: infer.Room, *, together: bool = False) -> list[np.ndarray]:
        """Return the logits of each of its own features, float32: ``(K,)``, one row a word, or one row a token."""
        reader = cast(Adapter, _Reader(self.adapter, self.order))
        given: dict[str, Any] = {"accelerator": self.accelerator, "batch_tokens": room, "together": together}
        return list(infer.forward(reader, self.loaded.model, features, **given))


@dataclass(frozen=True)
class _Reader:
    """An adapter as :func:`infer.forward` takes it, that keeps the logits themselves."""

    adapter: Adapter
    order: list[int] | None

    def collate(self, features: Sequence[Feature]) -> Batch:
        return self.adapter.collate(features)

    def inputs(self, batch: Batch) -> Batch:
        return self.adapter.inputs(batch)

    def reduce(self, outputs: Any, batch: Batch) -> list[np.ndarray]:
        logits = distillation.logits_of(outputs).float()
        if self.order is not None:
            logits = logits[..., self.order]
        if logits.ndim == 2:
            return list(logits.cpu().numpy())
        answered = batch["owned"].bool() if "owned" in batch else batch["attention_mask"].bool()
        return [row[mask].cpu().numpy() for row, mask in zip(logits, answered, strict=True)]


class Answers:
    """A teacher's answers to the student's features: computed once and kept, where there is room for them."""

    def __init__(
        self,
        teacher: Teacher,
        features: Sequence[Feature],
        own: Sequence[Feature] | None,
        *,
        room: infer.Room,
        kept_mb: int,
    ) -> None:
        """Take what is to be answered; with all processes together.

        Args:
            teacher: answers.
            features: the student's.
            own: the teacher's features of the same examples, where they are others.
            room: tokens that go through the teacher at once.
            kept_mb: megabytes of answers that may be kept.
        """
        self.teacher = teacher
        self.features = features
        self.own = own
        self.room = room
        self.places: dict[int, list[int]] = {}
        """Example -> the teacher's features of it."""
        for place, feature in enumerate(own or ()):
            self.places.setdefault(feature.example, []).append(place)
        self.megabytes = self._size() / MEGABYTE
        self.kept: list[np.ndarray] | None = None
        if self.megabytes <= kept_mb:
            several = processes.size() > 1
            source = features if own is None else own
            found = teacher.answers(source, room, together=several)
            self.kept = processes.share(found if processes.is_main() else None) if several else found

    def _size(self) -> int:
        """Return the bytes of all answers."""
        features = self.features if self.own is None else self.own
        outputs = int(self.teacher.loaded.model.config.num_labels)
        task_type = self.teacher.adapter.task.type
        if task_type == "span-qa":
            return 8 * sum(map(len, features))
        items = sum(len(f.aligned.words) for f in features) if task_type == "token-tagging" else len(features)
        return 4 * outputs * items

    def of(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Return the answers to some of the student's features, in order."""
        if self.own is None:
            if self.kept is not None:
                return [self.kept[row] for row in rows]
            return self.teacher.answers([self.features[row] for row in rows], self.room)
        examples = dict.fromkeys(self.features[row].example for row in rows)
        wanted = [place for example in examples for place in self.places[example]]
        if self.kept is not None:
            found = [self.kept[place] for place in wanted]
        else:
            found = self.teacher.answers([self.own[place] for place in wanted], self.room)
        answers = dict(zip(wanted, found, strict=True))
        return [self._matched(self.features[row], answers) for row in rows]

    def _matched(self, feature: Feature, answers: dict[int, np.ndarray]) -> np.ndarray:
        """Return the answer to a feature from those to the teacher's features of its example."""
        import numpy as np

        assert self.own is not None
        places = self.places[feature.example]
        if feature.aligned is None:
            return np.asarray(np.mean([answers[place] for place in places], axis=0, dtype=np.float32))
        width = answers[places[0]].shape[-1]
        # A word that the teacher's tokenizer leaves nothing of, or that is past its limit, has no answer.
        table = np.full((feature.aligned.num_words, width), np.nan, dtype=np.float32)
        for place in places:
            table[self.own[place].aligned.words] = answers[place]
        return np.asarray(table[feature.aligned.words])

    def batch(self, rows: Sequence[int], batch: Batch, *, left: bool) -> torch.Tensor:
        """Return the answers to a batch's rows, laid out as logits are; 0 where nothing is asked."""
        import numpy as np
        import torch

        answers = self.of(rows)
        if answers[0].ndim == 1:
            return torch.from_numpy(np.stack(answers))
        width = batch["input_ids"].shape[1]
        lengths = [len(self.features[row]) for row in rows]
        mask = batch["owned"].numpy().astype(bool) if "owned" in batch else filled(lengths, left=left, width=width)
        table = np.zeros((*mask.shape, answers[0].shape[-1]), dtype=np.float32)
        table[mask] = np.concatenate(answers)
        return torch.from_numpy(table)


class PhasedBatches(TrainingBatches):
    """Steps of two phases; a subclass, since all but the number of a feature stays as it is.

    In the first epochs the number of each feature is larger by the number of all, by which ``collate`` tells.
    """

    def __init__(self, *args: Any, general_epochs: int = 0, **settings: Any) -> None:
        """Take what :class:`TrainingBatches` takes, and the epochs of the general phase."""
        import numpy as np

        super().__init__(*args, **settings)
        self.general_epochs = general_epochs
        self.num_features = len(self.lengths)
        self.lengths = np.tile(self.lengths, 2)

    def largest_micro_batch(self) -> list[int]:
        """Return the features of the largest part, by their own numbers."""
        return [feature % self.num_features for feature in super().largest_micro_batch()]

    def _draw(self, epoch: int, index: int, chosen: np.ndarray) -> Draw:
        from dataclasses import replace

        draw = super()._draw(epoch, index, chosen)
        if epoch >= self.general_epochs:
            return draw
        return replace(draw, micro_batches=[[f + self.num_features for f in part] for part in draw.micro_batches])


def collate(adapter: Adapter, features: Sequence[Feature], answers: Answers | None) -> Callable[[Sequence[int]], Batch]:
    """Return what makes batches of the numbers that :class:`PhasedBatches` gives, the teacher's answers with them."""
    import torch

    def collated(chosen: Sequence[int]) -> Batch:
        rows = [number % len(features) for number in chosen]
        batch = adapter.collate([features[row] for row in rows])
        if chosen[0] >= len(features):
            batch.pop("labels", None)
            return batch | {distillation.GENERAL: torch.ones(1)}
        if answers is not None:
            batch[distillation.TAUGHT] = answers.batch(rows, batch, left=adapter.padding.left)
        return batch

    return collated
