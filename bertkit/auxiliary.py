"""The auxiliary objective of GPT's second stage: language modelling on the texts of a task, beside the task's loss.

Radford et al. 2018 ("Improving Language Understanding by Generative Pre-Training"), 3.2: ``L3 = L2 + lambda * L1``,
with lambda 0.5. ``L1`` is the mean over all real tokens of a step but each row's first, predicted from those to their
left through the model's own head, which is its word embeddings again.

``L2`` and ``L1`` have denominators of their own, so every row carries the ratio of the two numbers in its step, and
micro-batches and processes change nothing.

Shape letters: ``B`` rows, ``T`` padded length, ``N`` predicted tokens, ``H`` hidden width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from bertkit.adapters.base import Adapter, Batch, Feature, Loss
from bertkit.data.batches import Draw, TrainingBatches
from bertkit.errors import ConfigError
from bertkit.task import Task

if TYPE_CHECKING:
    import torch

TYPE = "sequence-classification"
"""Task type that it stands beside."""
RATIO = "lm_ratio"
"""What a batch calls the weight of its step's task loss over the number of its predicted tokens."""
LOGITS_AT_ONCE = 2**24
"""Logits that are held at one time, in float32 64 MiB; the backward pass computes them again."""
_AGAIN: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
SAME = 1e-4
"""Largest share by which states and logits may differ that are to be the same."""


def require_type(task: Task) -> None:
    """Check that a task can have the auxiliary objective.

    Raises:
        ConfigError: if it is of another type.
    """
    if task.type != TYPE:
        raise ConfigError(
            f"train.lm_weight is set, and the task '{task.name}' is of type {task.type}: the auxiliary language model "
            f"stands beside {TYPE}. Set it to 0."
        )


# Steps ------------------------------------------------------------------------------------------------------------


class JointBatches(TrainingBatches):
    """Steps whose rows know the ratio of their two denominators; a subclass, since all else stays as it is.

    In every other epoch the number of each feature is larger by the number of all: a step may be made ready while the
    last one of the epoch before, with the same features, is still at work.
    """

    def __init__(self, *args: Any, weights: Sequence[float], **settings: Any) -> None:
        """Take what :class:`TrainingBatches` takes, and what each feature adds to the weight of the task's loss."""
        super().__init__(*args, **settings)
        self.num_features = len(self.lengths)
        self.weights = np.asarray(weights, dtype=np.float64)
        self.predicted = np.maximum(0, self.lengths - 1)
        self.lengths = np.tile(self.lengths, 2)
        self.ratios = np.zeros(2 * self.num_features)
        """Ratio of the step that saw a number last, or is about to."""

    @property
    def num_tokens(self) -> int:
        """Return the tokens of an epoch, padding left out."""
        return int(self.lengths[: self.num_features].sum())

    def largest_micro_batch(self) -> list[int]:
        """Return the features of the largest part, by their own numbers."""
        return [feature % self.num_features for feature in super().largest_micro_batch()]

    def features(self, epoch: int, examples: np.ndarray) -> np.ndarray:
        """Return the numbers of some examples' features."""
        return super().features(epoch, examples) + epoch % 2 * self.num_features

    def _draw(self, epoch: int, index: int, chosen: np.ndarray) -> Draw:
        draw = super()._draw(epoch, index, chosen)
        numbers = np.concatenate(draw.micro_batches)
        own = numbers % self.num_features
        self.ratios[numbers] = self.weights[own].sum() / max(1, self.predicted[own].sum())
        return draw


def collate(adapter: Adapter, train: Sequence[Feature], batches: JointBatches) -> Callable[[Sequence[int]], Batch]:
    """Return what makes batches of the numbers that :class:`JointBatches` gives."""
    import torch

    def collated(chosen: Sequence[int]) -> Batch:
        batch = adapter.collate([train[number % len(train)] for number in chosen])
        return batch | {RATIO: torch.tensor(batches.ratios[chosen[0]], dtype=torch.float32)}

    return collated


# The language model -----------------------------------------------------------------------------------------------


class LanguageModel:
    """The head that a left-to-right language model was pre-trained with, on the body of a classifier.

    A hook on the unmodified model's body computes the loss from its last states, inside whatever wraps the model for
    several processes and for autocast.
    """

    def __init__(self, model: Any) -> None:
        """Take a model on whose body :func:`refusal` found nothing."""
        self.table = model.get_input_embeddings()
        self.wanted = False
        self.total: torch.Tensor | None = None
        model.base_model.register_forward_hook(self._after, with_kwargs=True)

    def _after(self, body: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if self.wanted:
            self.wanted = False
            ids = args[0] if args else kwargs["input_ids"]
            self.total = self.loss(output[0], ids, kwargs["attention_mask"])

    def loss(self, states: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the summed loss of all real tokens but each row's first, a float32 scalar.

        Args:
            states: the body's last ones, ``(B, T, H)``.
            ids: ``(B, T)`` int64.
            mask: ``(B, T)``, 0 at padding.
        """
        import torch
        from torch.utils.checkpoint import checkpoint

        real = mask.bool()
        predicts = real[:, :-1] & real[:, 1:]
        rows, targets = states[:, :-1][predicts], ids[:, 1:][predicts]
        size = max(1, LOGITS_AT_ONCE // self.table.weight.shape[0])
        parts = [
            checkpoint(self._part, rows[start : start + size], targets[start : start + size], **_AGAIN)
            for start in range(0, max(1, len(rows)), size)
        ]
        return torch.stack(parts).sum()

    def _part(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the summed loss of some tokens, from states ``(n, H)``."""
        import torch.nn.functional as F

        logits = F.linear(states, self.table.weight).float()
        return F.cross_entropy(logits, targets, reduction="sum")

    def objective(self, adapter: Adapter, weight: float) -> Callable[[Any, Batch], Loss]:
        """Return what is minimised: the task's loss and ``weight`` times the language model's, each a mean."""

        def objective(model: Any, batch: Batch) -> Loss:
            self.wanted = True
            own = adapter.loss(model(**adapter.inputs(batch)), batch)
            total, self.total = self.total, None
            assert total is not None
            lm = total * batch[RATIO]
            return Loss(sum=own.sum + weight * lm, weight=own.weight, parts={"task": own.sum, "lm": lm})

        return objective


def install(model: Any, name: str) -> LanguageModel:
    """Return the language model that a classifier's body is.

    Args:
        model: as it is before the first step.
        name: of the encoder, for messages.

    Raises:
        ConfigError: if it is none, or has a head of another kind.
    """
    if reason := refusal(model):
        raise ConfigError(
            f"train.lm_weight trains the language model that an encoder was pre-trained as, and {name} "
            f"({model.config.model_type}) {reason}. Set it to 0, or take an encoder such as openai-community/gpt2."
        )
    return LanguageModel(model)


def refusal(model: Any) -> str:
    """Return why a model's body is no left-to-right language model with tied embeddings, or an empty text.

    Its states must not change with what comes after; and what transformers' own class makes of the same weights must be
    what :class:`LanguageModel` makes of them.
    """
    import torch

    body, training = model.base_model, model.training
    ids = torch.arange(8, device=body.device).view(1, 8) % body.config.vocab_size
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % body.config.vocab_size
    model.eval()
    try:
        with torch.no_grad():
            states, changed = (body(input_ids=each)[0] for each in (ids, other))
            if not _close(changed[:, :-1], states[:, :-1]) or _close(changed[:, -1:], states[:, -1:]):
                return "is no left-to-right language model"
            whole = _language_model(model)
            if isinstance(whole, str):
                return whole
            logits = whole(input_ids=ids).logits
            ours = torch.nn.functional.linear(states, model.get_input_embeddings().weight)
            return "" if _close(ours, logits) else "has a head that does more than multiply by its word embeddings"
    finally:
        model.train(training)


def _language_model(model: Any) -> Any:
    """Return transformers' language model around a body, or why there is none; it holds no weights of its own."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            found = AutoModelForCausalLM.from_config(deepcopy(model.config), trust_remote_code=False)
    except ValueError:
        return "has no language model's head in transformers"
    head = found.get_output_embeddings()
    if head is None or not getattr(model.config, "tie_word_embeddings", False):
        return "has a head that is not its word embeddings"
    setattr(found, found.base_model_prefix, model.base_model)
    head.weight = model.get_input_embeddings().weight
    if any(parameter.is_meta for parameter in found.parameters()):
        return "has a head with weights of its own, which are not in a classifier"
    return found.eval()


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= SAME * other.abs().max().clamp(min=1e-6))
