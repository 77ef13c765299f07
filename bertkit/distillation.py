"""What a student learns from a teacher: its softened answers, its hidden states, its attention.

Sources: soft labels with a temperature (Hinton et al. 2015, arXiv:1503.02531, 2), hidden states through a learned
projection, attention and the layer map (Jiao et al. 2020, TinyBERT, arXiv:1909.10351, 4.1), a student cut out of the
layers of the teacher (Sanh et al. 2019, DistilBERT, arXiv:1910.01108, 3).

Shape letters: ``B`` batch, ``T`` padded length, ``K`` labels, ``H`` hidden width, ``A`` attention heads, ``n`` items,
``N`` and ``M`` layers of teacher and student.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from bertkit.adapters.base import Adapter, Batch, Loss
from bertkit.config import DistillConfig
from bertkit.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TAUGHT = "teacher"
"""Key of a batch under which the teacher's answers are, where they come with the rows."""
GENERAL = "general"
"""Key of a batch whose labels and answers are not to be looked at."""
ATTACHED = "distillation"
"""Name of the projections inside the student while it learns."""
TYPES = ("sequence-classification", "token-tagging", "span-qa")
"""Task types that can be distilled."""


# Answers ----------------------------------------------------------------------------------------------------------


class Items(NamedTuple):
    """What of a batch's logits is compared."""

    student: torch.Tensor
    """``(n, K)`` float32."""
    teacher: torch.Tensor
    """``(n, K)`` float32; a row of NaN where the teacher has no answer."""
    weights: torch.Tensor
    """``(n,)`` float32; they add up to the weight of the task's own loss."""
    choices: torch.Tensor | None = None
    """``(n, K)`` bool: what may be answered; all where None."""


def logits_of(outputs: Any) -> torch.Tensor:
    """Return what a head says: ``(B, K)``, ``(B, T, K)``, or start and end, ``(B, T, 2)``, of a span head."""
    import torch

    if getattr(outputs, "start_logits", None) is not None:
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
    logits: torch.Tensor = outputs.logits
    return logits


def items(adapter: Adapter, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> Items:
    """Return what is compared of two models' :func:`logits_of` for a batch."""
    return _ITEMS[adapter.task.type](adapter, student.float(), teacher.float(), batch)


def _classes(adapter: Adapter, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> Items:
    weights = student.new_ones(len(student))
    if adapter.weights is not None and adapter.task.kind != "multi" and "labels" in batch:
        weights = student.new_tensor(adapter.weights)[batch["labels"]]
    return Items(student, teacher, weights)


def _words(adapter: Adapter, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> Items:
    owned = batch["owned"].bool()
    if "labels" in batch:
        owned = owned & (batch["labels"] >= 0)
    weights = student.new_ones(int(owned.sum()))
    if adapter.weights is not None and "labels" in batch:
        weights = student.new_tensor(adapter.weights)[batch["labels"][owned]]
    return Items(student[owned], teacher[owned], weights)


def _spans(adapter: Adapter, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> Items:
    """Start and end are an item each, of half the weight of a window; see :meth:`SpanQa.loss`."""
    import torch

    choices = batch["context"].clone()
    choices[torch.arange(len(choices), device=choices.device), batch["null"]] = True
    both = [logits.transpose(1, 2).flatten(0, 1) for logits in (student, teacher)]
    weights = both[0].new_full((len(both[0]),), 0.5)
    return Items(both[0], both[1], weights, choices.repeat_interleave(2, dim=0))


_ITEMS: dict[str, Callable[[Adapter, Any, Any, Batch], Items]] = dict(
    zip(TYPES, (_classes, _words, _spans), strict=True)
)


def soft_loss(found: Items, *, kind: str, temperature: float) -> torch.Tensor:
    """Return how far the student's answers are from the teacher's, weighted and summed: a scalar, float32.

    One label: ``T^2 * KL(softmax(teacher / T) || softmax(student / T))`` (arXiv:1503.02531, 2; the factor keeps the
    size of the gradients). Several labels: the same of a yes and a no each, the mean over K. A number: the squared
    difference. Items that the teacher did not answer add nothing.
    """
    import torch

    known = ~found.teacher.isnan().any(dim=-1)
    teacher = torch.where(known[:, None], found.teacher, 0.0)
    if kind == "regression":
        each = (found.student - teacher).square().mean(dim=-1)
    elif kind == "multi":
        each = temperature**2 * _yes_no(found.student / temperature, teacher / temperature).mean(dim=-1)
    else:
        each = temperature**2 * _divergence(found.student / temperature, teacher / temperature, found.choices)
    total: torch.Tensor = (torch.where(known, each, 0.0) * found.weights).sum()
    return total


def _divergence(student: torch.Tensor, teacher: torch.Tensor, choices: torch.Tensor | None) -> torch.Tensor:
    """Return ``KL(softmax(teacher) || softmax(student))`` over the choices, ``(n,)``."""
    import torch

    if choices is not None:
        student, teacher = (logits.masked_fill(~choices, -math.inf) for logits in (student, teacher))
    ours, theirs = student.log_softmax(dim=-1), teacher.log_softmax(dim=-1)
    parts = theirs.exp() * (theirs - ours)
    return (parts if choices is None else torch.where(choices, parts, 0.0)).sum(dim=-1)


def _yes_no(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the divergence of each label's yes and no, ``(n, K)``."""
    from torch.nn.functional import logsigmoid

    yes = teacher.sigmoid() * (logsigmoid(teacher) - logsigmoid(student))
    return yes + (-teacher).sigmoid() * (logsigmoid(-teacher) - logsigmoid(-student))


def row_weights(adapter: Adapter, batch: Batch) -> torch.Tensor:
    """Return what each row weighs in the task's own loss, ``(B,)`` float32."""
    import torch

    mask = batch["attention_mask"]
    if "owned" in batch:
        owned = batch["owned"].bool() & (batch["labels"] >= 0) if "labels" in batch else batch["owned"].bool()
        if adapter.weights is None or "labels" not in batch:
            counts: torch.Tensor = owned.sum(dim=1).float()
            return counts
        of_labels = torch.tensor(adapter.weights, device=mask.device)
        return torch.where(owned, of_labels[batch["labels"].clamp(min=0)], 0.0).sum(dim=1)
    if adapter.weights is not None and adapter.task.kind == "single" and "labels" in batch:
        found: torch.Tensor = torch.tensor(adapter.weights, device=mask.device)[batch["labels"]]
        return found
    return torch.ones(len(mask), device=mask.device)


# Inside the models ------------------------------------------------------------------------------------------------


def layer_map(given: str, *, student: int, teacher: int, cut: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the teacher's layer, from 1, that each layer of the student is compared with.

    Args:
        given: ``distill.layer_map``.
        student: layers M.
        teacher: layers N.
        cut: layers of the teacher, from 0, that the student was cut out of.

    Raises:
        ConfigError: if the layers that are named are not M of 1 to N.
    """
    if given == "auto" and cut:
        return tuple(layer + 1 for layer in cut)
    if student > teacher and given in ("auto", "uniform", "last"):
        raise ConfigError(
            f"The student has {student} layers and the teacher {teacher}, so distill.layer_map cannot be '{given}'. "
            "Name a layer of the teacher for each of the student's: --set distill.layer_map=1,1,2."
        )
    if given in ("auto", "uniform"):
        return tuple(round(layer * teacher / student) for layer in range(1, student + 1))
    if given == "last":
        return tuple(range(teacher - student + 1, teacher + 1))
    layers = tuple(int(part) for part in given.split(","))
    if len(layers) != student or not all(1 <= layer <= teacher for layer in layers):
        raise ConfigError(
            f"distill.layer_map is '{given}', and must name one layer of the teacher, 1 to {teacher}, for each of the "
            f"student's {student}."
        )
    return layers


def hidden_loss(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Return each row's mean squared difference of states: mean over H, over real tokens and over layers, ``(B,)``.

    Args:
        student: M + 1 states ``(B, T, H)`` of the teacher's width, the embeddings' first.
        teacher: as many, in the same order.
        mask: ``(B, T)``, 1 for real tokens.
    """
    real = mask.float()
    lengths = real.sum(dim=1).clamp(min=1)
    each = [
        ((ours.float() - theirs.float()).square().mean(dim=-1) * real).sum(dim=1) / lengths
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    total: torch.Tensor = sum(each[1:], each[0]) / len(each)
    return total


def attention_loss(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], mask: torch.Tensor
) -> torch.Tensor:
    """Return each row's squared difference of attention probabilities: summed over what is attended to, ``(B,)``.

    The mean is over heads, real tokens and layers. Where the numbers of heads differ, the heads' means are compared.

    Args:
        student: M tables ``(B, A, T, T)``.
        teacher: as many, perhaps of another A.
        mask: ``(B, T)``, 1 for real tokens.
    """
    real = mask.float()
    lengths = real.sum(dim=1).clamp(min=1)
    each = []
    for ours, theirs in zip(student, teacher, strict=True):
        if ours.shape[1] != theirs.shape[1]:
            ours, theirs = ours.mean(dim=1, keepdim=True), theirs.mean(dim=1, keepdim=True)
        squared = (ours.float() - theirs.float()).square() * real[:, None, None, :]
        each.append((squared.sum(dim=-1).mean(dim=1) * real).sum(dim=1) / lengths)
    total: torch.Tensor = sum(each[1:], each[0]) / len(each)
    return total


def attach(student: PreTrainedModel, width: int) -> bool:
    """Give a student projections of its states to another width, trained with it; return whether it needs them.

    They are part of the model while it learns, so that the optimizer, checkpoints and other processes have them; its
    outputs then hold the projected states. One is for the embeddings, one for all layers.
    """
    import torch

    own = student.config.hidden_size
    if own == width:
        return False
    both = [torch.nn.Linear(own, width, bias=False) for _ in range(2)]
    student.add_module(ATTACHED, torch.nn.ModuleList(both).to(student.device))
    student.register_forward_hook(_project)
    return True


def _project(model: Any, args: Any, outputs: Any) -> Any:
    states = outputs.get("hidden_states") if hasattr(outputs, "get") else None
    projections = getattr(model, ATTACHED, None)
    if states is not None and projections is not None:
        first, others = projections
        outputs["hidden_states"] = (first(states[0]), *map(others, states[1:]))
    return outputs


def detach(student: PreTrainedModel) -> None:
    """Take the projections away again; what is left is a plain model."""
    if hasattr(student, ATTACHED):
        delattr(student, ATTACHED)
        hooks = student._forward_hooks
        for key in [key for key, hook in hooks.items() if hook is _project]:
            del hooks[key]


# A student out of its teacher -------------------------------------------------------------------------------------


def spread(student: int, teacher: int) -> tuple[int, ...]:
    """Return M of the N layers of a teacher, from 0, in even steps, the first and the last among them.

    Raises:
        ConfigError: if there are not so many.
    """
    if not 1 <= student <= teacher:
        raise ConfigError(f"--student-layers is {student}, and the teacher has {teacher} layers: 1 to {teacher}.")
    if student == 1:
        return (0,)
    return tuple(round(place * (teacher - 1) / (student - 1)) for place in range(student))


def keep_layers(model: PreTrainedModel, kept: Sequence[int], name: str) -> None:
    """Cut a model down, in place, to some of its layers, counted from 0.

    Raises:
        ConfigError: if it has no such layers.
        ModelError: if the rest would be no model of its family (ALBERT's layers are one; ModernBERT's first is
            another than the rest).
    """
    import torch

    config = model.config
    total = int(config.num_hidden_layers)
    if not kept or list(kept) != sorted(set(kept)) or not all(0 <= layer < total for layer in kept):
        raise ConfigError(
            f"--encoder teacher:{','.join(map(str, kept))} must name layers of {name} in rising order, 0 to "
            f"{total - 1}."
        )
    found = [
        (owner, key)
        for owner in model.base_model.modules()
        for key, child in owner.named_children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == total
    ]
    if len(found) != 1:
        raise ModelError(f"{name} ({type(model).__name__}) has no list of {total} layers to take some out of.")
    owner, key = found[0]
    setattr(owner, key, torch.nn.ModuleList([getattr(owner, key)[layer] for layer in kept]))
    config.num_hidden_layers = len(kept)
    for listed in ("layer_types", "attention_layers"):
        if len(getattr(config, listed, None) or ()) == total:
            setattr(config, listed, [getattr(config, listed)[layer] for layer in kept])
    with torch.device("meta"):
        fresh = type(model)(config)
    if fresh.state_dict().keys() != model.state_dict().keys():
        raise ModelError(
            f"{name} ({type(model).__name__}) cannot be cut down to its layers {', '.join(map(str, kept))}: they are "
            "not all alike. Keep layer 0, or name another student with --encoder."
        )


def reorder_head(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Put the outputs of a model's head in another order, in place: output k becomes what output ``order[k]`` was."""
    import torch

    inside = {id(module) for module in model.base_model.modules()}
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and id(module) not in inside]
    last = layers[-1]
    assert last.out_features == len(order), f"the head's last layer has {last.out_features} outputs"
    for weights in (last.weight, last.bias):
        if weights is not None:
            weights.data = weights.data[list(order)]


# The objective ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What is minimised, a call a batch: ``loop.Objective``."""

    adapter: Adapter
    config: DistillConfig
    think: Callable[[Batch], Any] | None
    """Gives the teacher's outputs for a batch, hidden states and attention with them; None where nothing inside the
    models is compared."""
    layers: tuple[int, ...] = ()
    """See :func:`layer_map`."""

    def __call__(self, model: Any, batch: Batch) -> Loss:
        """Return ``alpha * soft + (1 - alpha) * hard + hidden * states + attention * attention`` for a batch."""
        general = GENERAL in batch
        inside = self.think is not None and (general or self.config.matching == "always")
        wanted = {"output_hidden_states": self.config.hidden > 0, "output_attentions": self.config.attention > 0}
        outputs = model(**self.adapter.inputs(batch), **({k: v for k, v in wanted.items() if v} if inside else {}))
        theirs = self.think(batch) if inside and self.think is not None else None
        matched = self._matched(outputs, theirs, batch) if inside else {}
        if general:
            return Loss(_total(matched), row_weights(self.adapter, batch).sum(), matched)
        answered = self._answered(outputs, theirs, batch)
        if not matched:
            return answered
        return Loss(answered.sum + _total(matched), answered.weight, {**answered.parts, **matched})

    def _answered(self, outputs: Any, theirs: Any, batch: Batch) -> Loss:
        alpha = self.config.alpha
        if not alpha:
            hard = self.adapter.loss(outputs, batch)
            return hard._replace(parts={"hard": hard.sum})
        teacher = batch[TAUGHT] if TAUGHT in batch else logits_of(theirs)
        found = items(self.adapter, logits_of(outputs), teacher, batch)
        soft = alpha * soft_loss(found, kind=self.adapter.task.kind, temperature=self.config.temperature)
        if alpha == 1:
            return Loss(soft, found.weights.sum(), {"soft": soft})
        hard = self.adapter.loss(outputs, batch)
        rest = (1 - alpha) * hard.sum
        return Loss(soft + rest, hard.weight, {"soft": soft, "hard": rest})

    def _matched(self, outputs: Any, theirs: Any, batch: Batch) -> dict[str, torch.Tensor]:
        mask, found = batch["attention_mask"], {}
        weights = row_weights(self.adapter, batch)
        if self.config.hidden:
            states = [theirs.hidden_states[layer] for layer in (0, *self.layers)]
            each = hidden_loss(outputs.hidden_states, states, mask)
            found["hidden"] = self.config.hidden * (each * weights).sum()
        if self.config.attention:
            tables = [theirs.attentions[layer - 1] for layer in self.layers]
            each = attention_loss(outputs.attentions, tables, mask)
            found["attention"] = self.config.attention * (each * weights).sum()
        return found


def _total(terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    first, *others = terms.values()
    total: torch.Tensor = sum(others, first)
    return total
