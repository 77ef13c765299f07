"""Choices of layers: what they read, how wide they are, ELMo's mix."""

from __future__ import annotations

import pytest
import torch

from bertkit import layers
from bertkit.config import Layers
from bertkit.errors import ConfigError


def states(number: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 4, generator=generator) for _ in range(number)]


def test_each_choice_reads_its_layers() -> None:
    h = states()
    assert torch.equal(layers.combine(h, "embeddings"), h[0])
    assert torch.equal(layers.combine(h, "last"), h[6])
    assert torch.equal(layers.combine(h, "second-to-last"), h[5])
    torch.testing.assert_close(layers.combine(h, "sum-last-4"), h[3] + h[4] + h[5] + h[6])
    assert torch.equal(layers.combine(h, "concat-last-4"), torch.cat(h[3:], -1))


@pytest.mark.parametrize("choice", layers.CHOICES)
def test_width_is_that_of_the_vectors(choice: Layers) -> None:
    mix = layers.scalar_mix(len(layers.places(choice, 6))) if choice in layers.LEARNED else None
    assert layers.combine(states(), choice, mix).shape == (2, 3, layers.width(choice, 4))


def test_mix_is_equation_1_of_elmo() -> None:
    h, mix = states(), layers.scalar_mix(7)
    torch.testing.assert_close(layers.combine(h, "mix", mix), torch.stack(h).mean(0))
    with torch.no_grad():
        mix.scalars.copy_(torch.arange(7.0))
        mix.gamma.fill_(2.5)
    weights = torch.arange(7.0).exp() / torch.arange(7.0).exp().sum()
    expected = 2.5 * sum(weight * state for weight, state in zip(weights, h, strict=True))
    torch.testing.assert_close(layers.combine(h, "mix", mix), expected)
    torch.testing.assert_close(mix.shares(), weights)


def test_mix_of_the_top_reads_no_embeddings() -> None:
    h, mix = states(), layers.scalar_mix(4)
    torch.testing.assert_close(layers.combine(h, "mix-last-4", mix), torch.stack(h[3:]).mean(0))
    assert layers.names("mix-last-4", 6) == ["layer 3", "layer 4", "layer 5", "layer 6"]
    assert layers.names("mix", 2) == ["embeddings", "layer 1", "layer 2"]


def test_too_few_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'sum-last-4' reads 4 layers, and the encoder has 2.*'mix'"):
        layers.combine(states(3), "sum-last-4")


def test_learned_choice_without_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'mix' has weights that training learns.*sum-last-4"):
        layers.combine(states(), "mix")


def test_unknown_choice_is_refused() -> None:
    assert layers.parse("concat-last-4") == "concat-last-4"
    with pytest.raises(ConfigError, match=r"'lst' is no choice of layers. Did you mean 'last'"):
        layers.parse("lst")
