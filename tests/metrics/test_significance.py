"""Paired tests and intervals: scipy's numbers, textbook tables, and differences whose truth is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bertkit.metrics import interval, significance
from bertkit.metrics.significance import mcnemar, welch

NUMBERS = ("pearson", "spearmanr")


def tally(names: tuple[str, ...], one: Any, other: Any, gold: Any, *, kind: str = "single", num_labels: int = 2) -> Any:
    """Return the tally of two models' predictions of the same examples."""
    about: dict[str, Any] = {"num_labels": num_labels, "kind": kind}
    return significance.Tally(
        names=names,
        rows=interval.beside(names, np.concatenate([one, other]), np.concatenate([gold, gold]), **about),
        score=lambda rows: interval.of_rows(names, rows, **about),
        shares=("accuracy",),
    )


def right(one: Any, other: Any, gold: Any) -> Any:
    return np.concatenate([one, other]) == np.concatenate([gold, gold])


def answers(counts: dict[tuple[bool, bool], int]) -> tuple[Any, Any, Any]:
    """Return two models' answers to questions whose answer is 1, so often right and wrong together."""
    pairs = [pair for pair, number in counts.items() for _ in range(number)]
    one, other = (np.array([int(pair[side]) for pair in pairs]) for side in (0, 1))
    return one, other, np.ones(len(pairs), dtype=int)


# McNemar ---------------------------------------------------------------------------------------------------------


def test_mcnemar_of_a_published_example() -> None:
    """The airway study of Fagerland, Lydersen and Laake 2013, where 1 and 7 pairs differ."""
    assert mcnemar(1, 7).p == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar(1, 7).mid_p == pytest.approx(0.0391, abs=5e-5)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (0, 5), (3, 9), (9, 3), (12, 12), (40, 71), (500, 460)])
def test_mcnemar_is_the_sum_over_the_binomial_distribution(only_a: int, only_b: int) -> None:
    total = only_a + only_b
    share = [math.comb(total, k) / 2**total for k in range(total + 1)]
    tail = 2 * sum(share[: min(only_a, only_b) + 1])
    found = mcnemar(only_a, only_b)
    assert found.p == pytest.approx(min(1.0, tail))
    # Half of what was seen is left out: of both tails, or of the one that both are where the counts are equal.
    assert found.mid_p == pytest.approx(1 - share[only_a] / 2 if only_a == only_b else tail - share[only_a])
    assert found.mid_p < found.p


def test_mcnemar_of_models_that_agree_is_one() -> None:
    assert mcnemar(0, 0) == significance.McNemar(p=1.0, mid_p=1.0)


def test_accuracy_has_mcnemars_p() -> None:
    one, other, gold = answers({(True, True): 50, (True, False): 3, (False, True): 15, (False, False): 20})
    (found,) = significance.differences(
        tally(("accuracy",), one, other, gold), right=right(one, other, gold), resamples=500
    )
    assert (found.test, found.p) == ("mcnemar", stats.binomtest(3, 18).pvalue)
    assert found.difference == pytest.approx(12 / 88)
    assert found.a == pytest.approx(53 / 88)
    assert found.significant


# Permutation -----------------------------------------------------------------------------------------------------


def scipy_p(statistic: Any, one: Any, other: Any, **options: Any) -> float:
    """Return scipy's paired permutation test of a statistic of two models."""

    def difference(x: Any, y: Any) -> float:
        return float(statistic(y) - statistic(x))

    found = stats.permutation_test(
        (one, other), difference, permutation_type="samples", vectorized=False, rng=np.random.default_rng(1), **options
    )
    return float(found.pvalue)


@pytest.mark.slow
def test_permutation_is_scipys_over_every_swap() -> None:
    """Of 9 examples all 512 swaps are tried by scipy; 40,000 random ones come near."""
    rng = np.random.default_rng(5)
    gold = rng.normal(size=9)
    one, other = gold + rng.normal(size=9), gold + 0.3 * rng.normal(size=9)
    found = significance.differences(
        tally(NUMBERS, one, other, gold, kind="regression", num_labels=0), resamples=40_000
    )
    for difference, correlation in zip(found, (stats.pearsonr, stats.spearmanr), strict=True):
        exact = scipy_p(lambda given, of=correlation: of(given, gold).statistic, one, other, n_resamples=np.inf)
        assert difference.test == "permutation"
        assert difference.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 40_000) + 1e-4)


def test_permutation_of_a_class_score_is_scipys() -> None:
    """Equal pairs of answers are drawn together as a binomial number; the swaps are the same."""

    def f1(given: Any) -> float:
        return float(2 * (given * gold).sum() / (given.sum() + gold.sum()))

    rng = np.random.default_rng(2)
    gold = rng.integers(0, 2, 60)
    one = np.where(rng.random(60) < 0.6, gold, 1 - gold)
    other = np.where(rng.random(60) < 0.8, gold, 1 - gold)
    (found,) = significance.differences(tally(("f1",), one, other, gold), resamples=20_000)
    assert found.difference == pytest.approx(f1(other) - f1(one))
    expected = scipy_p(f1, one, other, n_resamples=2_000)
    assert found.p == pytest.approx(expected, abs=0.02)
    assert 0.001 < expected < 0.5


def test_models_that_are_alike_do_not_differ() -> None:
    gold = np.arange(40) % 2
    for found in significance.differences(tally(("accuracy", "f1"), gold, gold, gold), resamples=200):
        assert (found.difference, found.interval, found.p, found.significant) == (0, (0, 0), 1, False)


def test_false_alarms_are_as_many_as_the_level_says() -> None:
    """Two models of one quality: about 1 of 20 comparisons is significant, not more."""
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        gold = rng.integers(0, 2, 80)
        one, other = (np.where(rng.random(80) < 0.75, gold, 1 - gold) for _ in range(2))
        (found,) = significance.differences(tally(("f1",), one, other, gold), resamples=200)
        alarms += found.significant
    assert alarms <= 20  # 10 expected; more than 20 has a probability of 0.001


# Intervals -------------------------------------------------------------------------------------------------------


def test_interval_of_accuracy_is_that_of_theory() -> None:
    """The difference of two shares of the same n examples has variance ((b + c) - (b - c)^2 / n) / n^2."""
    one, other, gold = answers({(True, True): 500, (True, False): 60, (False, True): 100, (False, False): 340})
    (found,) = significance.differences(tally(("accuracy",), one, other, gold), resamples=20_000)
    width = 1.96 * math.sqrt((160 - 40**2 / 1000) / 1000**2)
    assert found.interval == pytest.approx((0.04 - width, 0.04 + width), abs=0.002)


@pytest.mark.slow
def test_interval_is_scipys_bootstrap() -> None:
    rng = np.random.default_rng(4)
    gold = rng.normal(size=50)
    one, other = gold + rng.normal(size=50), gold + 0.5 * rng.normal(size=50)

    def difference(x: Any, y: Any, truth: Any) -> float:
        return float(stats.pearsonr(y, truth).statistic - stats.pearsonr(x, truth).statistic)

    options: dict[str, Any] = {"paired": True, "vectorized": False, "method": "percentile", "n_resamples": 1_500}
    expected = stats.bootstrap((one, other, gold), difference, rng=np.random.default_rng(0), **options)
    made = tally(("pearson",), one, other, gold, kind="regression", num_labels=0)
    (found,) = significance.differences(made, resamples=4_000)
    low, high = expected.confidence_interval
    assert found.interval == pytest.approx((low, high), abs=0.02)


def test_same_seed_gives_the_same_numbers() -> None:
    one, other, gold = answers({(True, True): 20, (True, False): 5, (False, True): 9, (False, False): 6})
    made = tally(("accuracy", "f1"), one, other, gold)
    first, again, different = (significance.differences(made, resamples=300, seed=seed) for seed in (0, 0, 1))
    assert first == again != different


# Sums ------------------------------------------------------------------------------------------------------------


def test_tally_of_sums_scores_as_the_sums_do() -> None:
    rows = np.array([[1, 1], [0, 1], [1, 1], [1, 1], [1, 1], [0, 1]])  # A: 2 of 3, B: 2 of 3
    made = significance.of_sums(["share"], rows, lambda sums: sums[:, :1] / sums[:, 1:])
    (found,) = significance.differences(made, resamples=100)
    assert (found.a, found.b, found.difference) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 0)


# Seeds -----------------------------------------------------------------------------------------------------------


def test_welch_is_scipys() -> None:
    one, other = [0.81, 0.79, 0.80], [0.84, 0.86, 0.83, 0.85]
    expected = stats.ttest_ind(other, one, equal_var=False)
    found = welch(one, other)
    assert (found.p, found.difference) == (pytest.approx(expected.pvalue), pytest.approx(0.045))
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert found.significant


def test_welch_of_few_seeds_that_scatter_is_not_significant() -> None:
    assert not welch([0.70, 0.80], [0.78, 0.86]).significant


def test_welch_without_scatter_says_nothing() -> None:
    found = welch([0.5, 0.5], [0.6, 0.6])
    assert (found.p, found.interval, found.significant) == (None, None, False)
