"""Parameter groups, AdamW and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bertkit import embeddings
from bertkit.config import TrainConfig

if TYPE_CHECKING:
    import torch


def adamw(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable parameters; weight decay acts on matrices only (arXiv:1711.05101).

    Biases and the gains of normalisations are vectors, and vectors are not decayed.
    """
    import torch

    trained = list(embeddings.trained(model).values())
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=trained[0].device.type in {"cpu", "cuda"},
    )
    embeddings.follow(model, optimizer)
    return optimizer


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
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = value
