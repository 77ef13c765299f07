"""Batches: each row once, budgets kept, order from seed and epoch alone."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertkit.data.batches import Draw, TrainingBatches, by_tokens, padded


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 500))
def test_by_tokens_gives_each_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = by_tokens(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[row] for row in batch) * len(batch)
        assert padded <= budget or len(batch) == 1


def epoch(batches: TrainingBatches, number: int = 0) -> list[Draw]:
    return list(islice(batches.draws(epoch=number), batches.steps_per_epoch))


def made(*, rows: int = 103, seed: int = 1, grouped: bool = False, tokens: int = 10_000) -> TrainingBatches:
    lengths = np.random.default_rng(0).integers(3, 60, rows).tolist()
    return TrainingBatches(
        range(rows), lengths, batch_size=8, micro_batch_tokens=tokens, seed=seed, group_by_length=grouped
    )


def features(draws: list[Draw]) -> list[int]:
    return [row for draw in draws for part in draw.micro_batches for row in part]


@pytest.mark.parametrize("grouped", [False, True])
def test_epoch_shows_each_example_once(grouped: bool) -> None:
    draws = epoch(made(grouped=grouped))
    assert sorted(features(draws)) == list(range(103))
    assert [draw.num_examples for draw in draws] == [8] * 12 + [7]


def test_order_depends_on_seed_and_epoch() -> None:
    first = features(epoch(made()))
    assert first == features(epoch(made()))
    assert first != features(epoch(made(seed=2)))
    assert first != features(epoch(made(), 1))


@pytest.mark.parametrize("grouped", [False, True])
def test_starting_at_a_position_goes_on_as_coming_there(grouped: bool) -> None:
    whole = list(islice(made(grouped=grouped).draws(), 30))
    assert list(islice(made(grouped=grouped).draws(epoch=whole[17].epoch, index=whole[17].index), 13)) == whole[17:]


def test_micro_batches_see_the_same_examples() -> None:
    for whole, parts in zip(epoch(made()), epoch(made(tokens=64)), strict=True):
        assert sorted(features([whole])) == sorted(features([parts]))
        assert whole.num_tokens == parts.num_tokens


def test_grouped_batches_hold_less_padding() -> None:
    def padding(batches: TrainingBatches) -> int:
        lengths = batches.lengths
        return sum(max(lengths[p]) * len(p) - sum(lengths[p]) for draw in epoch(batches) for p in draw.micro_batches)

    assert padding(made(grouped=True)) < padding(made()) / 2


def test_windows_of_an_example_stay_in_one_step() -> None:
    batches = TrainingBatches([0, 0, 0, 1, 2, 2], [9, 9, 4, 5, 9, 2], batch_size=1, micro_batch_tokens=18, seed=0)
    draws = epoch(batches)
    assert {tuple(sorted(features([draw]))) for draw in draws} == {(0, 1, 2), (3,), (4, 5)}
    assert [draw.num_examples for draw in draws] == [1, 1, 1]


def test_largest_micro_batch_is_that_of_the_first_epoch() -> None:
    batches = made(tokens=120)
    found = batches.largest_micro_batch()
    parts = [part for draw in epoch(batches) for part in draw.micro_batches]
    assert found in parts
    assert padded(batches.lengths[found]) == max(padded(batches.lengths[part]) for part in parts)
