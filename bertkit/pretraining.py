"""Masked LM, alone or with pairs of segments: what ``pretrain`` minimises and how held-out text is scored.

Shape letters: ``B`` rows, ``T`` padded length, ``M`` masked positions, ``H`` hidden width, ``V`` vocabulary.

The joint loss of a step is that of BERT (arXiv:1810.04805, A.2), ``L = L_MLM + L_NSP``: the mean over all masked
positions of the step and the mean over all its rows. The two have denominators of their own, so every row carries the
ratio of the two numbers in its step, and micro-batches and processes change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from bertkit.adapters.base import Adapter, Batch, Example, Feature, Loss, Prediction
from bertkit.config import PretrainConfig, TrainConfig
from bertkit.data.epochs import EpochBatches
from bertkit.data.masking import IGNORED, Masker, rng_of
from bertkit.data.pairs import Instance, Instances
from bertkit.metrics import interval
from bertkit.task import Task

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TYPE = "masked-lm"
"""Task type that ``run.json`` and ``bertkit.json`` name; no adapter of a task file."""
HELD_OUT_SEED = 0
"""Of held-out text, its rows and their masks: the same in every run, so that runs compare."""
ROUND_MASKED = 32
"""M is rounded up to this: ever-new shapes would fill oneDNN's cache of primitives."""
PAIRS = {"mlm+nsp": "nsp", "mlm+sop": "sop"}
"""Objective -> what its pairs are, and the name of its loss and accuracy."""
SAME = 1e-4
"""Largest share by which logits may differ where the head sees the masked positions alone."""


class Masked(NamedTuple):
    """What a row's features carry beside its ids."""

    labels: np.ndarray
    """``(T,)`` int64: the true id at masked positions, else :data:`IGNORED`."""
    pair: int
    """0 where B follows A, 1 where it does not; 0 without pairs."""
    ratio: float
    """Rows of the step over its masked positions."""


class Rows(Sequence[Feature]):
    """Training rows by their numbers (:mod:`bertkit.data.epochs`), masked when a step asks for them.

    What is masked comes from seed, epoch and instance alone. The rows of one step are made together, because each has
    to know how many positions of its step are masked.
    """

    def __init__(self, batches: EpochBatches, masker: Masker, *, seed: int, segments: bool) -> None:
        """Take the steps; ``segments`` says whether the model takes token types."""
        self.batches = batches
        self.masker = masker
        self.seed = seed
        self.segments = segments
        self._step: dict[int, Feature] = {}

    def __len__(self) -> int:
        return self.batches.num_examples

    def __getitem__(self, number: Any) -> Any:
        """Return the row of a number."""
        if number not in self._step:
            members = self.batches.step_of(number)
            rows = [self._masked(member) for member in members]
            total = sum(int((row.target.labels != IGNORED).sum()) for row in rows)
            for row in rows:
                row.target = row.target._replace(ratio=len(rows) / max(1, total))
            self._step = dict(zip(members, rows, strict=True))
        return self._step[number]

    def _masked(self, number: int) -> Feature:
        epoch, place = self.batches.epochs.split(number)
        instance = self.batches.epochs.instance(number)
        return masked_row(instance, self.masker, rng_of(self.seed, epoch, place), example=place, segments=self.segments)


def held_out(instances: Instances, masker: Masker, *, most: int, segments: bool) -> list[Feature]:
    """Return rows that are masked once and for all, whatever the seed of a run: at most so many, evenly drawn."""
    import numpy as np

    number = len(instances)
    chosen = np.sort(np.random.default_rng(HELD_OUT_SEED).permutation(number)[:most])
    return [
        masked_row(instances[place], masker, rng_of(HELD_OUT_SEED, 0, place), example=example, segments=segments)
        for example, place in enumerate(chosen.tolist())
    ]


def masked_row(
    instance: Instance, masker: Masker, rng: np.random.Generator, *, example: int, segments: bool
) -> Feature:
    """Return an instance as a row for the model."""
    ids, labels = masker.masked(instance.ids, instance.special, rng, continues=instance.continues)
    return Feature(
        example=example,
        input_ids=ids.tolist(),
        token_type_ids=instance.token_type_ids.tolist() if segments else None,
        target=Masked(labels=labels, pair=max(0, instance.label), ratio=1.0),
    )


class Selection:
    """Lets the head of a masked LM see the masked positions alone: V is large, and they are a seventh of all.

    A hook on the unmodified model's body takes them out of the last hidden states, ``(B, T, H)`` to ``(M, 1, H)``, so
    the logits are ``(M, 1, V)``. It is on the inside of whatever wraps the model for several processes.
    """

    def __init__(self) -> None:
        self.places: torch.Tensor | None = None
        """Cells of the next call, ``(M,)`` int64; without them the head sees all."""
        self.reason = "it was not asked for"
        """Why the head sees all positions; empty where it does not."""
        self._handle: Any = None

    def install(self, model: PreTrainedModel) -> None:
        """Take a model whose head works position by position; :attr:`reason` says why another one is left as it is."""
        self._handle = model.base_model.register_forward_hook(self._select)
        self.reason = _trial(model, self)
        if self.reason:
            self._handle.remove()

    def _select(self, body: Any, args: Any, output: Any) -> Any:
        places, self.places = self.places, None
        if places is None:
            return None
        states = output[0]
        picked = states.reshape(-1, states.shape[-1]).index_select(0, places).unsqueeze(1)
        if isinstance(output, Mapping):
            output["last_hidden_state"] = picked  # type: ignore[index]
            return output
        return (picked, *output[1:])


def _trial(model: PreTrainedModel, selection: Selection) -> str:
    """Compare the logits of a few positions both ways, and return why they are not to be trusted, or an empty text."""
    import torch

    ids = torch.arange(12, device=model.device).view(2, 6) % model.config.vocab_size
    places = torch.tensor([1, 4, 9], device=model.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            whole = masked_logits(model(input_ids=ids), places)
            selection.places = places
            picked = masked_logits(model(input_ids=ids), places)
    except Exception as error:
        return f"its head does not take single positions ({type(error).__name__})"
    finally:
        selection.places = None
        model.train(training)
    gap = float((whole - picked).abs().max() / whole.abs().max().clamp(min=1e-6))
    return "" if picked.shape == whole.shape and gap <= SAME else "its head looks at more than one position"


def masked_logits(outputs: Any, places: torch.Tensor) -> torch.Tensor:
    """Return the logits of masked positions, ``(M, V)``, of a model that has them alone or of all positions.

    Args:
        outputs: of a masked LM; logits ``(M, 1, V)`` or ``(B, T, V)``.
        places: cells of the positions, ``(M,)`` int64.
    """
    logits = outputs["logits"] if "logits" in outputs else outputs["prediction_logits"]
    flat: torch.Tensor = logits.reshape(-1, logits.shape[-1])
    # No row has one token only, so a width of 1 is that of masked positions.
    return flat if logits.shape[1] == 1 else flat.index_select(0, places)


def pair_logits(outputs: Any) -> torch.Tensor:
    """Return the logits of the pairs, ``(B, 2)``."""
    name = "sop_logits" if "sop_logits" in outputs else "seq_relationship_logits"
    found: torch.Tensor = outputs[name]
    return found


class MaskedLm(Adapter):
    """Predicts masked tokens, and where the objective has pairs, whether the second segment belongs to the first."""

    defaults: ClassVar[dict[str, Any]] = {"learning_rate": 1e-4, "epochs": 1, "batch_size": 256}
    """Rate and batch size of BERT (arXiv:1810.04805, A.2)."""

    def __init__(self, task: Task, config: TrainConfig, *, pretrain: PretrainConfig) -> None:
        super().__init__(task, config, ())
        self.pretrain = pretrain
        self.pair = PAIRS.get(pretrain.objective, "")
        """``nsp``, ``sop`` or empty."""
        self.selection = Selection()
        self.auto_class = "AutoModelForPreTraining" if self.pair else "AutoModelForMaskedLM"  # type: ignore[misc]
        self.rows: Sequence[Feature] = []
        """Held-out rows, as they are scored."""

    # Rows -------------------------------------------------------------------------------------------------------

    def encode(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Feature]:
        """Return held-out rows by their numbers."""
        return [self.rows[number] for number in examples]  # type: ignore[call-overload]

    def truncation(self, features: Sequence[Feature], examples: Sequence[Example]) -> dict[str, Any]:
        """Return nothing: text that does not fit into a row is in another one."""
        return {}

    def collate(self, features: Sequence[Feature], rng: np.random.Generator | None = None) -> Batch:
        """Pad rows, and list their masked positions.

        Returns:
            The model's inputs, each ``(B, T)`` int64; ``places`` and ``labels`` of the masked positions and the row
            that each is of, ``(M,)`` int64; ``pairs`` ``(B,)`` int64; ``ratio``, a float32 scalar.
        """
        import numpy as np
        import torch

        notes: list[Masked] = [feature.target for feature in features]
        batch = super().collate([_without_target(feature) for feature in features])
        height, width = batch["input_ids"].shape
        table = np.full((height, width), IGNORED, dtype=np.int64)
        for row, note in enumerate(notes):
            start = width - len(note.labels) if self.padding.left else 0
            table[row, start : start + len(note.labels)] = note.labels
        places = np.flatnonzero(table != IGNORED)
        labels = np.full(max(1, math.ceil(len(places) / ROUND_MASKED)) * ROUND_MASKED, IGNORED, dtype=np.int64)
        labels[: len(places)] = table.reshape(-1)[places]
        cells = np.zeros(len(labels), dtype=np.int64)
        cells[: len(places)] = places
        return batch | {
            "places": torch.from_numpy(cells),
            "labels": torch.from_numpy(labels),
            "rows": torch.from_numpy(cells // width),
            "pairs": torch.tensor([note.pair for note in notes]),
            "ratio": torch.tensor(notes[0].ratio, dtype=torch.float32),
        }

    def inputs(self, batch: Batch) -> Batch:
        """Return what the model is called with, and tell its head which positions are wanted."""
        self.selection.places = None if self.selection.reason else batch["places"]
        return super().inputs(batch)

    # The loss ---------------------------------------------------------------------------------------------------

    def loss(self, outputs: Any, batch: Batch) -> Loss:
        """Return ``L_MLM + L_NSP`` times the rows of the batch, each mean being that of the whole step."""
        import torch
        import torch.nn.functional as F

        logits = masked_logits(outputs, batch["places"]).float()
        options: dict[str, Any] = {"reduction": "sum", "label_smoothing": self.config.label_smoothing}
        masked = F.cross_entropy(logits, batch["labels"], ignore_index=IGNORED, **options) * batch["ratio"]
        parts = {"mlm": masked}
        if self.pair:
            parts[self.pair] = F.cross_entropy(pair_logits(outputs).float(), batch["pairs"], reduction="sum")
        total = torch.stack(list(parts.values())).sum()
        return Loss(sum=total, weight=total.new_tensor(len(batch["pairs"])), parts=parts)

    # Held-out text ----------------------------------------------------------------------------------------------

    def reduce(self, outputs: Any, batch: Batch) -> Sequence[np.ndarray]:
        """Return of each row: loss, number and hits of its masked positions; loss and hit of its pair; float64."""
        import torch
        import torch.nn.functional as F

        logits, labels = masked_logits(outputs, batch["places"]).float(), batch["labels"]
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
        counted = labels != IGNORED
        columns = [losses, counted.float(), (counted & (logits.argmax(-1) == labels)).float()]
        # On the CPU: not every device has float64.
        table = torch.zeros(len(batch["pairs"]), 5, dtype=torch.float64)
        table[:, :3].index_add_(0, batch["rows"].cpu(), torch.stack(columns, dim=1).cpu().double())
        if self.pair:
            pairs = pair_logits(outputs).float()
            table[:, 3] = F.cross_entropy(pairs, batch["pairs"], reduction="none").cpu()
            table[:, 4] = (pairs.argmax(-1) == batch["pairs"]).cpu()
        return list(table.numpy())

    def decode(
        self, reduced: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return the sums of each row by name."""
        return [dict(zip(SUMS, map(float, row), strict=True)) for row in reduced]

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example], *, resamples: int = 0
    ) -> dict[str, Any]:
        """Return loss (nats), perplexity and accuracy over masked positions, and loss and accuracy over pairs."""
        import numpy as np

        table = np.array([[row[name] for name in SUMS] for row in predictions])
        names = ["mlm_loss", "perplexity", "mlm_accuracy"]
        names += [f"{self.pair}_loss", f"{self.pair}_accuracy"] if self.pair else []

        def scores(sums: np.ndarray) -> np.ndarray:
            # Sums (R, 5) over rows; drawing rows anew keeps their number.
            masked = np.maximum(sums[:, 1], 1)
            loss = sums[:, 0] / masked
            columns = [loss, np.exp(loss), sums[:, 2] / masked, sums[:, 3] / len(table), sums[:, 4] / len(table)]
            return np.stack(columns[: len(names)], axis=1)

        found: dict[str, Any] = dict(zip(names, scores(table.sum(0)[None])[0].tolist(), strict=True))
        between = interval.of_sums(names, table, scores, resamples=resamples) if resamples else {}
        return found | {f"{name}_interval": bounds for name, bounds in between.items()}

    def better(self, new: float, old: float | None) -> bool:
        """Say whether a loss is lower."""
        return old is None or new < old

    def facts(self) -> dict[str, Any]:
        """Return what ``model/bertkit.json`` says."""
        return super().facts() | {"objective": self.pretrain.objective}


SUMS = ("loss", "masked", "correct", "pair_loss", "pair_correct")
"""What is known of a held-out row."""


def _without_target(feature: Feature) -> Feature:
    return Feature(example=feature.example, input_ids=feature.input_ids, token_type_ids=feature.token_type_ids)
