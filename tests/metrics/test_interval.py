"""Bootstrap intervals: the counts give the scores exactly, and the interval is the one that theory gives."""

import math

import numpy as np
import pytest

from bertkit.errors import ConfigError, DataError
from bertkit.metrics import interval
from bertkit.metrics.classification import compute

SINGLE = ["accuracy", "f1_macro", "f1_micro", "matthews_correlation"]
MULTI = ["accuracy", "f1_micro", "f1_macro"]
NUMBERS = ["pearson", "spearmanr"]


def rows(kind, num_labels, num_rows, rng):
    """Return predictions that are right in most rows, and references."""
    if kind == "single":
        references = rng.integers(0, num_labels, num_rows)
        return np.where(rng.random(num_rows) < 0.7, references, rng.integers(0, num_labels, num_rows)), references
    if kind == "multi":
        references = (rng.random((num_rows, num_labels)) < 0.3).astype(int)
        return np.where(rng.random(references.shape) < 0.8, references, 1 - references), references
    references = rng.integers(0, 26, num_rows) / 5
    return np.round(references + rng.normal(size=num_rows), rng.integers(0, 6)), references


def names_of(kind, num_labels):
    return {"single": SINGLE + ["f1"] * (num_labels == 2), "multi": MULTI, "regression": NUMBERS}[kind]


@pytest.mark.parametrize("case", range(40))
@pytest.mark.parametrize("kind", ["single", "multi", "regression"])
def test_points_from_counts_equal_compute(kind, case):
    rng = np.random.default_rng(case)
    num_labels, num_rows = int(rng.integers(2, 8)), int(rng.integers(1, 60))
    predictions, references = rows(kind, num_labels, num_rows, rng)
    drawn = rng.integers(num_rows, size=2 * num_rows)  # some rows several times, some never
    predictions, references = predictions[drawn], references[drawn]
    about = {"num_labels": num_labels, "kind": kind}
    names = names_of(kind, num_labels)
    expected = compute(names, predictions, references, **about)
    assert interval.points(names, predictions, references, **about) == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize(("kind", "num_labels"), [("single", 2), ("single", 5), ("multi", 3), ("regression", 0)])
def test_every_resample_scores_as_its_rows_do(kind, num_labels):
    """A resample's weights, expanded to rows and scored by scikit-learn and scipy, give the same numbers."""
    predictions, references = rows(kind, num_labels, 12, np.random.default_rng(3))
    about = {"num_labels": num_labels, "kind": kind}
    names = names_of(kind, num_labels)
    counts, score = interval._prepared(names, predictions, references, **about)
    cells = np.unique(np.column_stack([predictions, references]), axis=0)
    half = cells.shape[1] // 2
    parts = [cells[:, :half], cells[:, half:]] if kind == "multi" else [cells[:, 0], cells[:, 1]]
    weights = next(interval.weights_of(counts, 30, 0))
    assert (weights == 0).any()
    for weight, found in zip(weights, score(weights), strict=True):
        expanded = [np.repeat(part, weight.astype(int), axis=0) for part in parts]
        expected = compute(names, *expanded, **about)
        assert dict(zip(names, found, strict=True)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("num_rows", [30, 5000])  # resampled by row, by cell
def test_a_resample_has_as_many_rows_as_there_are(num_rows):
    counts = np.array([num_rows - 10, 6, 4])
    weights = np.concatenate(list(interval.weights_of(counts, 500, 1)))
    assert weights.shape == (500, 3)
    assert (weights.sum(axis=1) == num_rows).all()
    # Mean and variance of a multinomial, within 5 standard errors.
    share = counts / num_rows
    variance = num_rows * share * (1 - share)
    assert (np.abs(weights.mean(axis=0) - counts) < 5 * np.sqrt(variance / 500)).all()
    assert weights.var(axis=0) == pytest.approx(variance, rel=0.35)


def test_the_interval_of_an_accuracy_is_the_binomial_one():
    references = np.ones(10_000, dtype=int)
    predictions = (np.arange(10_000) < 9_000).astype(int)
    low, high = interval.intervals(["accuracy"], predictions, references, num_labels=2, resamples=4000)["accuracy"]
    half = 1.96 * math.sqrt(0.9 * 0.1 / 10_000)
    assert low == pytest.approx(0.9 - half, abs=0.0006)
    assert high == pytest.approx(0.9 + half, abs=0.0006)


def test_the_interval_of_a_correlation_is_fisher_s():
    rng = np.random.default_rng(0)
    references = rng.normal(size=2000)
    predictions = 0.8 * references + 0.6 * rng.normal(size=2000)
    about = {"num_labels": 0, "kind": "regression"}
    point = interval.points(["pearson"], predictions, references, **about)["pearson"]
    low, high = interval.intervals(["pearson"], predictions, references, **about)["pearson"]
    half = 1.96 / math.sqrt(2000 - 3)
    assert low == pytest.approx(math.tanh(math.atanh(point) - half), abs=0.004)
    assert high == pytest.approx(math.tanh(math.atanh(point) + half), abs=0.004)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        predictions = (rng.random(300) < 0.8).astype(int)
        ones = np.ones(300, dtype=int)
        low, high = interval.intervals(["accuracy"], predictions, ones, num_labels=2, resamples=400)["accuracy"]
        covered += low <= 0.8 <= high
    # 95 % less a little: the percentile interval is known to be slightly short. 3 standard errors are 3.3 points.
    assert 0.91 <= covered / 400 <= 0.985


@pytest.mark.parametrize(("kind", "num_labels"), [("single", 3), ("multi", 3), ("regression", 0)])
def test_the_same_seed_gives_the_same_interval(kind, num_labels):
    predictions, references = rows(kind, num_labels, 200, np.random.default_rng(2))
    names, about = names_of(kind, num_labels), {"num_labels": num_labels, "kind": kind}
    first = interval.intervals(names, predictions, references, seed=11, **about)
    assert first == interval.intervals(names, predictions, references, seed=11, **about)
    assert first != interval.intervals(names, predictions, references, seed=12, **about)


def test_the_interval_of_a_score_does_not_depend_on_the_others():
    predictions, references = rows("single", 3, 200, np.random.default_rng(2))
    together = interval.intervals(SINGLE, predictions, references, num_labels=3)
    alone = interval.intervals(["f1_macro"], predictions, references, num_labels=3)
    assert alone["f1_macro"] == together["f1_macro"]


def test_the_interval_does_not_depend_on_the_chunks(monkeypatch):
    predictions, references = rows("regression", 0, 50, np.random.default_rng(2))
    whole = interval.intervals(NUMBERS, predictions, references, num_labels=0, kind="regression")
    monkeypatch.setattr(interval, "CHUNK", 170)
    parts = interval.intervals(NUMBERS, predictions, references, num_labels=0, kind="regression")
    assert [parts[name] for name in NUMBERS] == [pytest.approx(whole[name], abs=1e-12) for name in NUMBERS]


@pytest.mark.parametrize(
    ("kind", "predictions", "references"),
    [("single", [1], [1]), ("single", [0], [1]), ("multi", [[1, 0]], [[1, 1]]), ("regression", [1.5], [2.0])],
)
def test_one_row_has_its_point_for_an_interval(kind, predictions, references):
    names, about = names_of(kind, 2), {"num_labels": 2, "kind": kind}
    point = compute(names, predictions, references, **about)
    bounds = interval.intervals(names, predictions, references, **about)
    assert bounds == {name: [point[name]] * 2 for name in names}


def test_a_constant_column_has_0_for_an_interval():
    found = interval.intervals(NUMBERS, [0.1] * 30, np.arange(30.0), num_labels=0, kind="regression")
    assert found == {"pearson": [0.0, 0.0], "spearmanr": [0.0, 0.0]}


def test_resamples_that_are_constant_count_as_0():
    # Half of all resamples of two rows draw the same row twice: constant, so 0; the others correlate fully.
    found = interval.intervals(NUMBERS, [0.1, 0.7], [1.0, 2.0], num_labels=0, kind="regression")
    assert found == {"pearson": [0.0, pytest.approx(1)], "spearmanr": [0.0, 1.0]}


def test_a_constant_resample_scores_0_whatever_rounding_leaves():
    values, others = np.random.default_rng(0).normal(size=(2, 300))
    _, score = interval._prepared(NUMBERS, values, others, num_labels=0, kind="regression")
    assert (score(300 * np.eye(300)) == 0).all()


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="There are no rows to score"):
        interval.intervals(["accuracy"], [], [], num_labels=2)


def test_a_score_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="Metric 'pearson' is not defined for one label a row"):
        interval.points(["pearson"], [1], [1], num_labels=2)
