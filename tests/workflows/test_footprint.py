"""What a training takes of memory: counted, not tried."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from bertkit import memory
from bertkit.workflows import footprint
from tests.test_loop import Setup


def test_need_counts_gradients_moments_and_the_checkpoint() -> None:
    found = footprint.counted(parameters=100, trained=60, kept=1000, libraries=7)
    assert found.training == 4 * 60 + 8 * 60 + 1000
    assert found.finishing == 8 * 60 + (4 * 100 + 8 * 60)
    assert found.size == found.training + 7
    assert footprint.counted(parameters=100, trained=60, kept=0).size == found.finishing
    assert found.disk == 4 * (4 * 100 + 8 * 60)


def test_kept_for_backward_counts_each_storage_once_and_no_weight() -> None:
    layer = torch.nn.Linear(8, 4, bias=False)
    x = torch.ones(16, 8, requires_grad=True)

    def forward() -> torch.Tensor:
        hidden = layer(x)  # keeps x (512 bytes), and the weight, which is there anyway
        product: torch.Tensor = hidden.exp() * x.exp()[:, :4]  # keeps each exp once: 256 and 512 bytes
        return product.sum()

    found = footprint.kept_for_backward(forward, besides=iter(layer.parameters()))
    assert found == 512 + 256 + 512


def of(setup: Setup) -> footprint.Need:
    return footprint.of(setup.adapter, setup.loaded.model, setup.features, setup.batches, setup.accelerator)


def whole(setup: Setup) -> int:
    """Return what the largest micro-batch keeps, counted on all of it."""
    model = setup.loaded.model.train()
    batch = setup.adapter.collate([setup.features[row] for row in setup.batches.largest_micro_batch()])
    besides = iter([*model.parameters(), *model.buffers()])
    return footprint.kept_for_backward(lambda: setup.adapter.loss(model(**batch), batch).sum, besides=besides)


def test_a_few_rows_tell_of_the_largest_micro_batch(tiny_encoder: Path) -> None:
    setup = Setup(tiny_encoder, batch_size=32)
    trained = sum(parameter.numel() for parameter in setup.loaded.model.parameters())
    assert of(setup).training - 12 * trained == pytest.approx(whole(setup), rel=0.2)


def test_counted_rows_are_as_long_as_the_micro_batch() -> None:
    rows: Any = [[0] * length for length in (90, *range(20, 60), *[10] * 40)]
    few = footprint._few(rows)
    assert len(few) == footprint.COUNTED_ROWS
    assert max(map(len, few)) == 90
    assert mean(map(len, few)) == pytest.approx(mean(map(len, rows)), rel=0.1)
    assert footprint._few(rows[:5]) == rows[:5]


def test_count_leaves_mode_gradients_and_random_numbers(tiny_encoder: Path) -> None:
    setup = Setup(tiny_encoder)
    setup.loaded.model.eval()
    state = torch.get_rng_state()
    of(setup)
    assert torch.equal(torch.get_rng_state(), state)
    assert not setup.loaded.model.training
    assert all(parameter.grad is None for parameter in setup.loaded.model.parameters())


def test_libraries_count_on_a_cpu(tiny_encoder: Path) -> None:
    assert of(Setup(tiny_encoder)).libraries == footprint.LIBRARIES


def test_smaller_parts_are_advised_only_where_they_help() -> None:
    free = memory.Free(size=10**9, reason="on this machine")
    parts = footprint.shortage(footprint.counted(parameters=10**8, trained=10**8, kept=10**10), free)
    assert "about 11.2 GB of memory beyond what is held already, and 1.0 GB are free on this machine" in parts
    assert "Try a smaller train.micro_batch_tokens, which changes no result, or a smaller encoder" in parts
    whole = footprint.shortage(footprint.counted(parameters=10**8, trained=10**8, kept=0), free)
    assert "Try a smaller encoder" in whole
