"""Dropout with a fast mask: the share, the scale, the gradient, the generator."""

from __future__ import annotations

import pytest
import torch
import transformers

from bertkit import dropout
from tests import families


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_share_is_dropped_and_the_rest_scaled(share: float) -> None:
    torch.manual_seed(0)
    x = torch.full((401, 251), 2.0)
    found = dropout.dropout(x, share)
    assert float((found == 0).float().mean()) == pytest.approx(share, abs=5e-3)
    assert found[found != 0].unique().tolist() == pytest.approx([2 / (1 - share)], rel=1e-4)
    assert float(found.mean()) == pytest.approx(2, rel=0.02)


def test_every_position_is_dropped_alike() -> None:
    torch.manual_seed(0)
    rows = torch.stack([dropout.dropout(torch.ones(37), 0.25) == 0 for _ in range(4000)]).float()
    assert rows.mean(0).tolist() == pytest.approx([0.25] * 37, abs=0.03)
    together = torch.corrcoef(rows.T) - torch.eye(37)
    assert float(together.abs().max()) < 0.08


def test_gradient_passes_where_the_value_did() -> None:
    x = torch.rand(50, 7, requires_grad=True)
    found = dropout.dropout(x, 0.3)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.allclose(gradient * x, found)


def test_none_and_all_are_the_edges() -> None:
    x = torch.rand(9)
    assert torch.equal(dropout.dropout(x, 0.0), x)
    assert not dropout.dropout(x, 1.0).any()


def test_the_generator_is_torchs() -> None:
    torch.manual_seed(5)
    state, first = torch.get_rng_state(), dropout.dropout(torch.ones(100), 0.5)
    second = dropout.dropout(torch.ones(100), 0.5)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(dropout.dropout(torch.ones(100), 0.5), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_and_half_precision_are_taken(dtype: torch.dtype) -> None:
    x = torch.ones(6, 8, dtype=dtype).t()
    found = dropout.dropout(x, 0.5)
    assert found.dtype == dtype
    assert set(found.flatten().tolist()) <= {0.0, 2.0}


def test_modules_are_swapped_and_restored() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Dropout1d(0.5))
    names, kinds = list(model.state_dict()), [type(module) for module in model]
    assert dropout.install(model) == 1
    assert dropout.install(model) == 0
    assert isinstance(model[1], torch.nn.Dropout)
    assert list(model.state_dict()) == names
    x = torch.ones(1000)
    torch.manual_seed(0)
    expected = dropout.dropout(x, 0.5)
    torch.manual_seed(0)
    assert torch.equal(model[1](x), expected)
    assert torch.equal(model.eval()[1](x), x)
    dropout.remove(model)
    assert [type(module) for module in model] == kinds


@pytest.mark.parametrize("family", families.slow_others(families.FAMILIES), ids=lambda family: family.name)
def test_a_silenced_model_computes_in_training_as_in_evaluation(family: families.Family) -> None:
    config = getattr(transformers, family.config)(**{"vocab_size": 60, **family.sizes})
    shares = {name for name, value in config.to_dict().items() if "drop" in name and isinstance(value, float)}
    for name in shares:
        setattr(config, name, 0.5)
    torch.manual_seed(0)
    model = getattr(transformers, family.model)(config)
    rows = {"input_ids": torch.arange(10, 26).view(2, 8), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    with torch.no_grad():
        plain = model.eval()(**rows)[0]
        assert not torch.allclose(model.train()(**rows)[0], plain, atol=1e-2)
        dropout.silence(model)
        assert torch.allclose(model(**rows)[0], plain, atol=1e-6)
    assert {getattr(model.config, name) for name in shares} == {0.5}
