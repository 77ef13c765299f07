"""95 % bootstrap intervals of the scores, from per-example counts.

A resample draws as many rows as there are, with replacement (Efron 1979; percentile interval: Efron & Tibshirani 1993,
ch. 13). Rows with the same prediction and reference are one *cell*, so that a resample is a weight for each cell, and a
score of all resamples is a few operations on weights ``(R, cells)``. Every score is exact, Spearman's ties included.

Where a resample leaves a score undefined, it is what :mod:`bertkit.metrics.classification` says it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from bertkit.metrics.classification import Array, checked
from bertkit.metrics.names import check_names

PERCENTILES = (2.5, 97.5)
CHUNK = 1_000_000
"""Weights held at once, 8 MB; bounds memory, does not change the result."""
CONSTANT = 1e-12
"""A resample's variance below this share of its mean square is rounding: the resample is constant."""


def intervals(
    names: Sequence[str],
    predictions: ArrayLike,
    references: ArrayLike,
    *,
    num_labels: int,
    kind: str = "single",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return ``{"accuracy": [low, high]}`` for the scores ``names``; the same for the same seed.

    Args:
        names: see :data:`bertkit.metrics.names.SCORES`.
        predictions: as :func:`bertkit.metrics.classification.compute` takes them, ids rather than names.
        references: the same for the truth.
        num_labels: K; not looked at for regression.
        kind: ``single``, ``multi`` or ``regression``.
        resamples: R, at least 1.
        seed: of the resamples. All scores are of the same resamples.

    Raises:
        ConfigError: if a score is unknown or does not fit the kind.
        DataError: if there are no rows, or the rows cannot be scored.
    """
    counts, score = _prepared(names, predictions, references, num_labels=num_labels, kind=kind)
    draws = np.concatenate([score(weights) for weights in weights_of(counts, resamples, seed)])
    bounds = np.percentile(draws, PERCENTILES, axis=0)
    return {name: [float(low), float(high)] for name, low, high in zip(names, *bounds, strict=True)}


def points(
    names: Sequence[str], predictions: ArrayLike, references: ArrayLike, *, num_labels: int, kind: str = "single"
) -> dict[str, float]:
    """Return the scores of the rows themselves, from the same counts: equal to ``classification.compute``.

    Raises:
        ConfigError: if a score is unknown or does not fit the kind.
        DataError: if there are no rows, or the rows cannot be scored.
    """
    counts, score = _prepared(names, predictions, references, num_labels=num_labels, kind=kind)
    return dict(zip(names, score(counts[None, :].astype(np.float64))[0].tolist(), strict=True))


def of_sums(
    names: Sequence[str],
    columns: ArrayLike,
    score: Callable[[Array], Array],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Return ``{"f1": [low, high]}`` for scores that are functions of sums over the examples.

    Args:
        names: M' names.
        columns: ``(n, M)``, one row an example: what it adds to each sum (hits, predicted, true, ...).
        score: from the sums of all resamples ``(R, M)`` float64 to their scores ``(R, M')``.
        resamples: R, at least 1.
        seed: of the resamples. All scores are of the same resamples.
    """
    table = np.asarray(columns, dtype=np.float64)
    weights = weights_of(np.ones(len(table), dtype=np.int64), resamples, seed)
    draws = np.concatenate([score(each @ table) for each in weights])
    bounds = np.percentile(draws, PERCENTILES, axis=0)
    return {name: [float(low), float(high)] for name, low, high in zip(names, *bounds, strict=True)}


def _prepared(
    names: Sequence[str], predictions: ArrayLike, references: ArrayLike, *, num_labels: int, kind: str
) -> tuple[Array, Callable[[Array], Array]]:
    """Return the rows in each cell ``(cells,)`` int64, and scores ``(R, names)`` as a function of weights."""
    rows = beside(names, predictions, references, num_labels=num_labels, kind=kind)
    cells, counts = np.unique(rows, axis=0, return_counts=True)
    return counts, of_rows(names, cells, num_labels=num_labels, kind=kind)


def beside(names: Sequence[str], predictions: ArrayLike, references: ArrayLike, *, num_labels: int, kind: str) -> Array:
    """Return prediction and reference of each row side by side: ``(n, 2)``, or ``(n, 2 K)`` for several labels.

    Raises:
        ConfigError: if a score is unknown or does not fit the kind.
        DataError: if there are no rows, or the rows cannot be scored.
    """
    check_names(names, kind, num_labels)
    return np.column_stack(checked(predictions, references, num_labels=num_labels, kind=kind))


def of_rows(names: Sequence[str], rows: Array, *, num_labels: int, kind: str) -> Callable[[Array], Array]:
    """Return the scores ``(R, names)`` as a function of how often each row counts ``(R, n)``, whole numbers.

    Args:
        names: see :data:`bertkit.metrics.names.SCORES`.
        rows: as :func:`beside` has them.
        num_labels: K; not looked at for regression.
        kind: ``single``, ``multi`` or ``regression``.
    """
    if kind == "regression":
        correlations = {"pearson": _pearson, "spearmanr": _spearman}
        scorers = [correlations[name](rows[:, 0], rows[:, 1]) for name in names]
        return lambda weights: np.stack([score(weights) for score in scorers], axis=1)
    counted = _tables(rows, num_labels, kind)
    return lambda weights: _class_scores(names, counted(weights))


def weights_of(counts: Array, resamples: int, seed: int) -> Iterator[Array]:
    """Yield the weights of bootstrap resamples, ``(up to CHUNK / cells, cells)`` float64, ``resamples`` rows in all.

    Args:
        counts: rows in each cell ``(cells,)`` int64.
        resamples: R.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    num_rows, num_cells = int(counts.sum()), len(counts)
    row_cells = np.repeat(np.arange(num_cells), counts)
    at_once = max(1, CHUNK // num_cells)
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        # The same distribution twice: by cell is faster where there are few, by row where there are many.
        if 20 * num_cells <= num_rows:
            yield rng.multinomial(num_rows, counts / num_rows, size=size).astype(np.float64)
        else:
            drawn = (row_cells[rng.integers(num_rows, size=num_rows)] for _ in range(size))
            yield np.array([np.bincount(cells, minlength=num_cells) for cells in drawn], dtype=np.float64)


# Classes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Table:
    """What the scores need of each resample; float64."""

    kind: str
    num_rows: Array
    """Rows ``(R,)``."""
    correct: Array
    """Rows that are right in all labels ``(R,)``."""
    hits: Array
    """Rows with the label both predicted and true ``(R, K)``; likewise:"""
    predicted: Array
    true: Array


def _tables(cells: Array, num_labels: int, kind: str) -> Callable[[Array], _Table]:
    """Return the table of distinct rows (prediction and reference side by side) as a function of weights."""
    if kind == "multi":
        predicted, true = cells[:, :num_labels], cells[:, num_labels:]
    else:
        predicted, true = (np.eye(num_labels)[cells[:, column]] for column in (0, 1))
    correct = (predicted == true).all(axis=1)
    columns = np.column_stack([correct, predicted * true, predicted, true]).astype(np.float32)

    def counted(weights: Array) -> _Table:
        num_rows = weights.sum(axis=1)
        # Sums of whole numbers below 2^24 are exact in float32, at twice the speed.
        dtype = np.float32 if num_rows.max(initial=0) < 2**24 else np.float64
        sums = np.matmul(weights.astype(dtype), columns.astype(dtype, copy=False)).astype(np.float64)
        hits, predicted, true = np.split(sums[:, 1:], 3, axis=1)
        return _Table(kind=kind, num_rows=num_rows, correct=sums[:, 0], hits=hits, predicted=predicted, true=true)

    return counted


def _accuracy(table: _Table) -> Array:
    return np.asarray(table.correct / table.num_rows)


def _f1(table: _Table) -> Array:
    return _f1_by_label(table)[:, 1]


def _f1_macro(table: _Table) -> Array:
    present = (table.predicted + table.true > 0) | (table.kind == "multi")
    return np.asarray(_f1_by_label(table).sum(axis=1) / present.sum(axis=1))


def _f1_micro(table: _Table) -> Array:
    return _ratio(2 * table.hits.sum(axis=1), (table.predicted + table.true).sum(axis=1))


def _f1_by_label(table: _Table) -> Array:
    return _ratio(2 * table.hits, table.predicted + table.true)


def _matthews_correlation(table: _Table) -> Array:
    """Gorodkin (2004), doi:10.1016/j.compbiolchem.2004.09.006, eq. 8: a correlation of the one-hot classes."""
    total = table.num_rows
    both = table.correct * total - (table.predicted * table.true).sum(axis=1)
    predicted = total**2 - (table.predicted**2).sum(axis=1)
    true = total**2 - (table.true**2).sum(axis=1)
    return _ratio(both, np.sqrt(predicted * true))


_SCORES: dict[str, Callable[[_Table], Array]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "f1_micro": _f1_micro,
    "matthews_correlation": _matthews_correlation,
}


def _class_scores(names: Sequence[str], table: _Table) -> Array:
    return np.stack([_SCORES[name](table) for name in names], axis=1)


# Numbers -------------------------------------------------------------------------------------------------------------


def _pearson(x: Array, y: Array) -> Callable[[Array], Array]:
    """Return the correlation as a function of weights, from weighted moments of the standardised columns."""
    x, y = _centred(x), _centred(y)
    columns = np.stack([x, y, x * x, y * y, x * y], axis=1)

    def score(weights: Array) -> Array:
        total = weights.sum(axis=1)
        sum_x, sum_y, sum_xx, sum_yy, sum_xy = (weights @ columns).T
        spread_x, spread_y = (
            np.where(centred > CONSTANT * square, centred, 0)
            for centred, square in ((sum_xx - sum_x**2 / total, sum_xx), (sum_yy - sum_y**2 / total, sum_yy))
        )
        both = sum_xy - sum_x * sum_y / total
        return np.clip(_ratio(both, np.sqrt(spread_x * spread_y)), -1, 1)

    return score


def _spearman(x: Array, y: Array) -> Callable[[Array], Array]:
    """Return the correlation of the ranks as a function of weights, every resample ranked anew."""
    ranks_x, ranks_y = _ranks(x), _ranks(y)

    def score(weights: Array) -> Array:
        rank_x, rank_y = ranks_x(weights), ranks_y(weights)
        weighted_x, weighted_y = weights * rank_x, weights * rank_y
        both, spread_x, spread_y = (
            np.einsum("rc,rc->r", a, b) for a, b in ((weighted_x, rank_y), (weighted_x, rank_x), (weighted_y, rank_y))
        )
        return np.clip(_ratio(both, np.sqrt(spread_x * spread_y)), -1, 1)

    return score


def _ranks(values: Array) -> Callable[[Array], Array]:
    """Return each cell's rank, less the mean rank, as a function of weights; a tie's rows share their mean rank.

    The rows of a value are those after all smaller ones, so their mean rank is the rows up to and with it, less half of
    its own, plus 1/2; the mean of all ranks is (rows + 1) / 2. Sums of half integers: exact in float64.
    """
    order = np.argsort(values, kind="stable")
    _, starts, group = np.unique(values[order], return_index=True, return_inverse=True)
    group_of_cell = np.empty_like(group)
    group_of_cell[order] = group

    def ranks(weights: Array) -> Array:
        rows = np.add.reduceat(weights[:, order], starts, axis=1)
        up_to = np.cumsum(rows, axis=1)
        centred = up_to - up_to[:, -1:] / 2
        centred -= rows / 2
        return centred[:, group_of_cell]

    return ranks


def _centred(values: Array) -> Array:
    """Return the values from -1 to 1 around 0, so that moments lose no digits; constant values become 0 exactly."""
    spread = values.max() - values.min()
    if spread == 0:
        return np.zeros_like(values)
    scaled = (values - values.min()) / spread
    return np.asarray(scaled - scaled.mean())


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Divide, with 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
