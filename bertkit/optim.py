"""Parameter groups, AdamW and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bertkit import embeddings
from bertkit.config import TrainConfig

if TYPE_CHECKING:
    import torch


SCALE = "scale"
"""Key of a parameter group: what the learning rate is multiplied by for it."""


def adamw(model: torch.nn.Module, config: TrainConfig, scales: Mapping[str, float] | None = None) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; weight decay acts on matrices only (arXiv:1711.05101).

    Biases and the gains of normalisations are vectors, and vectors are not decayed.

    Args:
        model: its parameters that require a gradient.
        config: rate, decay and moments.
        scales: share of the learning rate that a parameter has, by name; 1 where it is not named.
    """
    import torch

    named = embeddings.trained(model)
    trained = list(named.values())
    optimizer = torch.optim.AdamW(
        _groups(named, config, scales or {}),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=trained[0].device.type in {"cpu", "cuda"},
    )
    embeddings.follow(model, optimizer)
    return optimizer


def _groups(
    named: Mapping[str, torch.nn.Parameter], config: TrainConfig, scales: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return parameter groups: for each scale of the rate one that is decayed and one that is not."""
    by_scale: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in named.items():
        by_scale.setdefault(scales.get(name, 1.0), []).append(parameter)
    return [
        {
            "params": [p for p in parameters if (p.ndim >= 2) == matrices],
            "lr": config.learning_rate * scale,
            "weight_decay": config.weight_decay if matrices else 0.0,
            SCALE: scale,
        }
        for scale, parameters in by_scale.items()
        for matrices in (True, False)
    ]


def rate(step: int, total: int, config: TrainConfig) -> float:
    """Return the learning rate of a step.

    The rate rises on a line over the first ``warmup_ratio * total`` steps and is at its peak at the step after
    them; no step has rate 0.

    Args:
        step: from 0 to ``total - 1``.
        total: steps of the whole training.
        config: peak, warm-up and shape.
    """
    warmup = math.ceil(config.warmup_ratio * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    falling = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
    return config.learning_rate * falling[config.lr_scheduler]


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every parameter group: ``value`` times the group's own scale, where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get(SCALE, 1.0)
