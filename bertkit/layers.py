"""Which hidden states of an encoder are read: one layer, several added or side by side, or a learned mix.

The states are counted as transformers counts its ``hidden_states``: number 0 is what goes into the first layer (the
embeddings), number L what comes out of the last. The choices are those of BERT's feature-based table (arXiv:1810.04805,
5.3) and of ELMo (arXiv:1802.05365, equation 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

from bertkit.config import Layers
from bertkit.errors import ConfigError, did_you_mean, joined

if TYPE_CHECKING:
    import torch

CHOICES: tuple[Layers, ...] = get_args(Layers)
LEARNED = ("mix", "mix-last-4")
"""Choices with weights that are trained."""
TOP = 4
"""Layers of the choices that end in ``-4``."""


def parse(name: str) -> Layers:
    """Return a choice by its name.

    Raises:
        ConfigError: if there is no such choice.
    """
    for choice in CHOICES:
        if name == choice:
            return choice
    raise ConfigError(f"'{name}' is no choice of layers.{did_you_mean(name, CHOICES)} There are {joined(CHOICES)}.")


def places(choice: Layers, num_layers: int) -> range:
    """Return which hidden states a choice reads, of an encoder with ``num_layers`` layers; 0 is the embeddings.

    Raises:
        ConfigError: if the encoder has too few layers for it.
    """
    if choice.endswith("-4") and num_layers < TOP:
        raise ConfigError(
            f"'{choice}' reads {TOP} layers, and the encoder has {num_layers}. 'mix' reads as many as there are."
        )
    if choice == "second-to-last" and not num_layers:
        raise ConfigError("'second-to-last' reads the layer below the last one, and the encoder has none. Use 'last'.")
    if choice == "embeddings":
        return range(1)
    if choice == "mix":
        return range(num_layers + 1)
    if choice == "second-to-last":
        return range(num_layers - 1, num_layers)
    return range(num_layers + 1 - (TOP if choice.endswith("-4") else 1), num_layers + 1)


def width(choice: Layers, hidden: int) -> int:
    """Return how wide the vectors of a choice are, of an encoder whose hidden states are ``hidden`` wide."""
    return TOP * hidden if choice == "concat-last-4" else hidden


def names(choice: Layers, num_layers: int) -> list[str]:
    """Return what the hidden states that a choice reads are called: ``embeddings``, ``layer 1``, ..."""
    return [f"layer {place}" if place else "embeddings" for place in places(choice, num_layers)]


def combine(hidden_states: Sequence[torch.Tensor], choice: Layers, mix: torch.nn.Module | None = None) -> torch.Tensor:
    """Return the vectors of a choice.

    Args:
        hidden_states: all of an encoder, L + 1 of ``(..., H)``: ``(B, T, H)`` of a batch, or any other shape.
        choice: one of :data:`CHOICES`.
        mix: what :func:`scalar_mix` made, for the choices that are :data:`LEARNED`.

    Returns:
        ``(..., H)``, or ``(..., 4 H)`` of ``concat-last-4``; dtype and device are those of the states.

    Raises:
        ConfigError: if there are too few layers, or a learned choice comes without its weights.
    """
    return merged([hidden_states[place] for place in places(choice, len(hidden_states) - 1)], choice, mix)


def merged(states: Sequence[torch.Tensor], choice: Layers, mix: torch.nn.Module | None = None) -> torch.Tensor:
    """Return the vectors of a choice from the hidden states that it reads alone, in their order (:func:`places`).

    Raises:
        ConfigError: if a learned choice comes without its weights.
    """
    import torch

    if choice in LEARNED:
        if mix is None:
            fixed = joined(one for one in CHOICES if one not in LEARNED)
            raise ConfigError(f"'{choice}' has weights that training learns, and there are none here. Use {fixed}.")
        return mix(torch.stack(list(states), -2))  # type: ignore[no-any-return]
    if choice == "concat-last-4":
        return torch.cat(list(states), -1)
    return torch.stack(list(states)).sum(0) if choice == "sum-last-4" else states[0]


def scalar_mix(number: int) -> torch.nn.Module:
    """Return ELMo's mix of ``number`` hidden states: ``gamma * sum_j softmax(s)_j h_j`` (arXiv:1802.05365, eq. 1).

    It is called with the states side by side, ``(..., number, H)``, and gives ``(..., H)``. ``scalars`` ``(number,)``
    begin at 0, so that all states count alike, and ``gamma`` ``(1,)`` at 1. Its ``shares()`` are the softmax.
    """
    found: torch.nn.Module = _scalar_mix()(number)
    return found


@cache
def _scalar_mix() -> Any:
    import torch

    class ScalarMix(torch.nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.scalars = torch.nn.Parameter(torch.zeros(number))
            self.gamma = torch.nn.Parameter(torch.ones(1))

        def shares(self) -> torch.Tensor:
            return torch.softmax(self.scalars.float(), 0)

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            weights = (self.gamma.float() * self.shares()).to(states.dtype)
            return torch.einsum("...lh,l->...h", states, weights)

    return ScalarMix
