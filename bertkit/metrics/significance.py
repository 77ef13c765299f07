"""Whether two models differ on the same examples: paired tests and the paired bootstrap.

- McNemar's exact test, for a score that is the share of right examples (McNemar 1947, doi:10.1007/BF02295996; for
  classifiers: Dietterich 1998, doi:10.1162/089976698300017197, 3.1): of the examples that one model alone has right,
  how likely is a split at least so uneven if either model is as good? With the mid-p variant, which is less cautious
  (Fagerland, Lydersen and Laake 2013, doi:10.1186/1471-2288-13-91).
- Approximate randomisation, for every other score (Noreen 1989; Yeh 2000, C00-2137): if both models are alike, then
  swapping their answers on any example changes nothing. How often is the difference at least so large after random
  swaps?
- The paired bootstrap interval of the difference (Efron and Tibshirani 1993, ch. 13): both models are scored on the
  same resamples.
- Welch's t-test (Welch 1947, doi:10.1093/biomet/34.1-2.28), for two recipes, each trained with several seeds.

Examples that both models answer alike, and that count alike, are one *cell* (see :mod:`bertkit.metrics.interval`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bertkit.metrics import interval
from bertkit.metrics.classification import Array

LEVEL = 0.05
"""A p-value from which a difference is called not significant."""
ROUNDING = 1e-12
"""Differences that are nearer to each other than this are the same."""


def shown(p: float) -> str:
    """Return a p-value as it is read: ``0.0123``, ``< 0.0001``."""
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What each example adds to the scores, so that any choice of examples can be scored at once."""

    names: tuple[str, ...]
    """The scores, M' of them."""
    rows: Array
    """``(n, M)``, one row an example: all of prediction and reference that the scores depend on."""
    score: Callable[[Array], Callable[[Array], Array]]
    """From rows ``(c, M)`` to a function of their weights ``(R, c)``, whole numbers, to scores ``(R, M')``."""
    shares: tuple[str, ...] = ()
    """Scores that are the share of right examples."""


def of_sums(names: Sequence[str], rows: Array, score: Callable[[Array], Array], *, shares: Sequence[str] = ()) -> Tally:
    """Return the tally of scores that are a function of sums over the examples.

    Args:
        names: M' names.
        rows: ``(n, M)``, what an example adds to each sum.
        score: from sums ``(R, M)`` to scores ``(R, M')``.
        shares: the scores that are the share of right examples.
    """
    table = np.asarray(rows, dtype=np.float64)
    return Tally(
        names=tuple(names), rows=table, score=lambda cells: lambda weights: score(weights @ cells), shares=tuple(shares)
    )


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of two models on the same examples."""

    a: float
    b: float
    difference: float
    """``b - a``."""
    interval: tuple[float, float]
    """95 % paired bootstrap interval of the difference."""
    p: float
    """How likely a difference at least so large is between models that are alike; two-sided."""
    test: str
    """``mcnemar`` or ``permutation``."""

    @property
    def significant(self) -> bool:
        """Say whether p is below 0.05 and the interval does not hold 0."""
        low, high = self.interval
        return self.p < LEVEL and not low <= 0 <= high


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """McNemar's test of two models."""

    p: float
    """Exact, two-sided: never too small."""
    mid_p: float
    """Half of the probability of what was seen left out: nearer to the nominal level."""


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """Return McNemar's exact test and its mid-p variant.

    Args:
        only_a: examples that A has right and B wrong.
        only_b: examples that B has right and A wrong.
    """
    from scipy.stats import binom, binomtest

    total = only_a + only_b
    if total == 0:
        return McNemar(p=1.0, mid_p=1.0)
    exact = float(binomtest(only_a, total, 0.5).pvalue)
    # At equal counts both tails hold what was seen, which the exact p-value, at most 1, counts once.
    seen = float(binom.pmf(only_a, total, 0.5)) * (0.5 if only_a == only_b else 1.0)
    return McNemar(p=exact, mid_p=exact - seen)


@dataclass(frozen=True, kw_only=True)
class Means:
    """One score of two recipes, each trained with several seeds."""

    a: tuple[float, ...]
    b: tuple[float, ...]
    """A score for each seed."""
    difference: float
    """The mean of ``b`` less that of ``a``."""
    interval: tuple[float, float] | None
    """95 % interval of the difference."""
    p: float | None
    """Two-sided. Like the interval, None where the seeds of neither differ: then nothing says what chance does."""

    @property
    def significant(self) -> bool:
        """Say whether p is below 0.05."""
        return self.p is not None and self.p < LEVEL


def welch(a: Sequence[float], b: Sequence[float]) -> Means:
    """Return Welch's t-test of the means of two lists of scores, at least two each.

    Args:
        a: a score for each seed of the one.
        b: of the other; not paired with ``a``, as two recipes share nothing by sharing a seed.
    """
    from scipy.stats import ttest_ind

    difference = float(np.mean(b) - np.mean(a))
    interval, p = None, None
    if max(np.ptp(a), np.ptp(b)) > ROUNDING:
        found = ttest_ind(b, a, equal_var=False)
        low, high = found.confidence_interval(0.95)
        interval, p = (float(low), float(high)), float(found.pvalue)
    return Means(a=tuple(a), b=tuple(b), difference=difference, interval=interval, p=p)


def differences(
    tally: Tally, *, right: Array | None = None, resamples: int = 10_000, seed: int = 0
) -> list[Difference]:
    """Return how two models differ in each score, in the order of ``tally.names``; the same for the same seed.

    Args:
        tally: of ``2 n`` rows: model A's on all examples, then model B's on the same examples in the same order.
        right: who is right where, ``(2 n,)`` bool; needed for ``tally.shares``.
        resamples: of the bootstrap, and random swaps.
        seed: of both.
    """
    one, other = np.split(tally.rows, 2)
    cells, counts = np.unique(np.hstack([one, other]), axis=0, return_counts=True)
    one, other = np.split(cells, 2, axis=1)
    score_a, score_b, score_both = (tally.score(rows) for rows in (one, other, np.vstack([one, other])))
    whole = counts[None, :].astype(np.float64)
    a, b = score_a(whole)[0], score_b(whole)[0]
    draws = [score_b(weights) - score_a(weights) for weights in interval.weights_of(counts, resamples, seed)]
    low, high = np.percentile(np.concatenate(draws), interval.PERCENTILES, axis=0)
    swaps = _swaps(counts, (one != other).any(axis=1), resamples, seed)
    swapped = np.concatenate(
        [
            score_both(given[:, ::-1].reshape(len(given), -1)) - score_both(given.reshape(len(given), -1))
            for given in swaps
        ]
    )
    # What was seen is one of the possible swaps, so that p is never 0 (Noreen 1989; Phipson and Smyth 2010).
    p = (1 + (np.abs(swapped) >= np.abs(b - a) - ROUNDING).sum(axis=0)) / (1 + resamples)
    exact = _mcnemar_of(right)
    return [
        Difference(
            a=float(a[k]),
            b=float(b[k]),
            difference=float(b[k] - a[k]),
            interval=(float(low[k]), float(high[k])),
            p=exact.p if exact and name in tally.shares else float(p[k]),
            test="mcnemar" if exact and name in tally.shares else "permutation",
        )
        for k, name in enumerate(tally.names)
    ]


def _mcnemar_of(right: Array | None) -> McNemar | None:
    if right is None:
        return None
    one, other = np.split(np.asarray(right, dtype=bool), 2)
    return mcnemar(int((one & ~other).sum()), int((other & ~one).sum()))


def _swaps(counts: Array, differ: Array, resamples: int, seed: int) -> Iterator[Array]:
    """Yield how often A's and B's answers of each cell count for model A: ``(up to CHUNK / cells, 2, cells)`` float64.

    The other way round they are model B's.

    Args:
        counts: examples in each cell ``(cells,)``.
        differ: whether A and B answer differently there ``(cells,)`` bool.
        resamples: how many.
        seed: of the draws.
    """
    rng = np.random.default_rng([seed, 1])
    at_once = max(1, interval.CHUNK // (2 * len(counts)))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        given = np.zeros((size, 2, len(counts)))
        given[:, 1, differ] = rng.binomial(counts[differ], 0.5, size=(size, int(differ.sum())))
        given[:, 0] = counts - given[:, 1]
        yield given
