"""Learning rate and parameter groups."""

from types import SimpleNamespace

import pytest
import torch

from bertkit import optim
from bertkit.config import TrainConfig


def rates(total: int, **changes: object) -> list[float]:
    config = TrainConfig(learning_rate=1.0, **changes)  # type: ignore[arg-type]
    return [optim.rate(step, total, config) for step in range(total)]


def test_linear_rate_rises_to_its_peak_and_falls_on_a_line() -> None:
    found = rates(10, warmup_ratio=0.2)
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert found[3:] == pytest.approx([1 - step / 8 for step in range(1, 8)])


def test_no_step_has_rate_zero() -> None:
    assert all(rate > 0 for scheduler in ("linear", "cosine", "constant") for rate in rates(7, lr_scheduler=scheduler))


def test_cosine_rate_is_half_in_the_middle() -> None:
    assert rates(10, warmup_ratio=0, lr_scheduler="cosine")[5] == pytest.approx(0.5)


def test_constant_rate_stays() -> None:
    assert rates(5, warmup_ratio=0, lr_scheduler="constant") == [1.0] * 5


def test_single_step_takes_its_peak_without_warmup() -> None:
    assert rates(1, warmup_ratio=0) == [1.0]


def test_weight_decay_spares_biases_and_normalisation() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    optimizer = optim.adamw(model, TrainConfig(weight_decay=0.1))
    decayed, spared = optimizer.param_groups
    assert [p.shape for p in decayed["params"]] == [torch.Size([4, 4])]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert len(spared["params"]) == 3


def test_adamw_agrees_with_the_formula() -> None:
    """One step of AdamW by hand (arXiv:1711.05101, algorithm 2): from zero moments the update is lr * sign(g)."""
    layer = torch.nn.Linear(3, 1, bias=False)
    before = layer.weight.detach().clone()
    optimizer = optim.adamw(layer, TrainConfig(learning_rate=0.1, weight_decay=0.5, adam_epsilon=1e-12))
    layer.weight.grad = torch.tensor([[1.0, -2.0, 3.0]])
    optimizer.step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * torch.tensor([[1.0, -1.0, 1.0]])
    assert torch.allclose(layer.weight, expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "fused"), [("cpu", True), ("cuda", True), ("mps", False), ("xpu", False)])
def test_adamw_is_fused_where_torch_has_it(kind: str, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    weight = SimpleNamespace(device=torch.device(kind), ndim=2)
    monkeypatch.setattr(optim.embeddings, "trained", lambda model: {"weight": weight})
    monkeypatch.setattr(optim.embeddings, "follow", lambda model, optimizer: None)
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **options: given.update(options))
    optim.adamw(torch.nn.Linear(1, 1), TrainConfig())
    assert given["fused"] is fused
