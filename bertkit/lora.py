"""LoRA through peft: small matrices are trained beside the encoder's own, which stay as they are, and merged at last.

``W x`` becomes ``W x + alpha / rank * B A x`` with ``A`` ``(rank, in)`` drawn at random and ``B`` ``(out, rank)`` zero,
so that training begins at the encoder as it is (Hu et al. 2021, arXiv:2106.09685, 4.1). Once merged, a model has the
names and the shapes that it had before.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from bertkit import freezing
from bertkit.config import TrainConfig
from bertkit.errors import ConfigError

if TYPE_CHECKING:
    import torch

NAME = "default"
"""What peft calls the one set of matrices."""
ATTENTION = "Attention"
"""Part of the class names of attention, in every family."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """What :func:`install` did."""

    tuner: Any
    """peft's own."""
    rank: int
    matrices: int
    """Of the encoder's, that something was put beside."""

    def facts(self, config: TrainConfig) -> dict[str, Any]:
        """Return what ``run.json`` says."""
        return {
            "rank": self.rank,
            "alpha": config.lora_alpha,
            "dropout": config.lora_dropout,
            "modules": config.lora_modules,
            "matrices": self.matrices,
            "saved": "merged",
            "peft": metadata.version("peft"),
        }


def require() -> None:
    """Check that peft is installed, without importing it.

    Raises:
        ConfigError: if it is not.
    """
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("train.lora_rank needs peft: pip install 'bertkit[lora]'.")


def install(model: Any, config: TrainConfig, *, new: Collection[str] = (), name: str = "the encoder") -> Lora:
    """Put matrices of rank ``config.lora_rank`` beside the encoder's; they, and what starts at random, are trained.

    Args:
        model: with its head; torch's generator is drawn from.
        config: what begins with ``lora_`` is read.
        new: names of parameters that start at random: a pooler among them is trained.
        name: of the encoder, for messages.

    Raises:
        ConfigError: if peft is not installed, or the encoder has no such matrices.
    """
    require()
    import peft
    from transformers.pytorch_utils import Conv1D

    found = targets(model, config.lora_modules, name=name)
    body = getattr(model, "base_model", model)
    aside = [*(p for n, p in model.named_parameters() if n in new), *_outside(model, body)]
    recipe = peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(found),
        fan_in_fan_out=all(isinstance(module, Conv1D) for module in found.values()),
    )
    tuner = peft.LoraModel(model, {NAME: recipe}, NAME)
    for parameter in aside:
        parameter.requires_grad_(True)
    return Lora(tuner=tuner, rank=config.lora_rank, matrices=len(found))


def _outside(model: Any, body: Any) -> list[torch.nn.Parameter]:
    """Return the parameters of the head."""
    inside = {id(parameter) for parameter in body.parameters()} if body is not model else set()
    return [parameter for parameter in model.parameters() if id(parameter) not in inside]


def targets(model: Any, modules: str, *, name: str = "the encoder") -> dict[str, torch.nn.Module]:
    """Return by name the linear modules of an encoder's layers that LoRA stands beside.

    Args:
        model: any.
        modules: ``attention`` or ``all-linear``.
        name: of the encoder, for messages.

    Raises:
        ConfigError: if there is none.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    names = {id(module): place for place, module in model.named_modules()}
    linear = [
        module
        for layer in freezing.anatomy(model).stack.modules
        for inner in layer.modules()
        if modules == "all-linear" or ATTENTION in type(inner).__name__
        for module in inner.modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    ]
    found = {names[id(module)]: module for module in linear}
    if not found:
        other = "" if modules == "all-linear" else " --set train.lora_modules=all-linear looks outside of it, too."
        raise ConfigError(f"train.lora_modules is {modules!r}, and {name} has no linear modules there.{other}")
    return found


def merge(lora: Lora) -> None:
    """Add what was trained to the encoder's own matrices; the model is a plain one again."""
    lora.tuner.merge_and_unload()
