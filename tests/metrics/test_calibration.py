"""Calibration: a temperature that is known is found, an error that is known is measured, a threshold is the best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bertkit.metrics import calibration
from bertkit.metrics.classification import compute


def softmax(logits: Any) -> Any:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-logits))


def drawn(number: int, num_labels: int, *, several: bool = False, seed: int = 0) -> tuple[Any, Any]:
    """Return logits, and labels drawn from the probabilities that the logits stand for."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, size=(number, num_labels))
    if several:
        return logits, (rng.random(logits.shape) < sigmoid(logits)).astype(int)
    return logits, np.array([rng.choice(num_labels, p=row) for row in softmax(logits)])


def loss(probabilities: Any, references: Any) -> float:
    """Return the mean negative log-likelihood."""
    if references.ndim == 2:
        return float(-np.log(np.where(references == 1, probabilities, 1 - probabilities)).mean())
    return float(-np.log(probabilities[np.arange(len(references)), references]).mean())


@pytest.mark.parametrize(("several", "num_labels"), [(False, 2), (False, 5), (True, 3)])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_temperature_of_a_model_that_is_too_sure_is_found(several: bool, num_labels: int, sharpness: float) -> None:
    logits, gold = drawn(4000, num_labels, several=several)
    given = (sigmoid if several else softmax)(sharpness * logits)
    found = calibration.fit_temperature(given, gold)
    assert found == pytest.approx(sharpness, rel=0.08)


@pytest.mark.parametrize("several", [False, True])
def test_calibrated_model_has_a_lower_loss_and_error_on_other_rows(several: bool) -> None:
    logits, gold = drawn(2000, 3, several=several)
    table = (sigmoid if several else softmax)(3 * logits)
    temperature = calibration.fit_temperature(table[:1000], gold[:1000])
    assert temperature is not None
    before, truth = table[1000:], gold[1000:]
    after = calibration.tempered(before, temperature, several=several)
    assert loss(after, truth) < loss(before, truth) - 0.05
    errors = [calibration.expected_error(*calibration.decisions(each, truth)) for each in (before, after)]
    assert errors[1] < 0.5 * errors[0]


def test_temperature_is_the_least_loss_of_all() -> None:
    logits, gold = drawn(300, 4)
    table = softmax(2 * logits)
    temperature = calibration.fit_temperature(table, gold)
    assert temperature is not None
    least = loss(calibration.tempered(table, temperature), gold)
    assert all(loss(calibration.tempered(table, other), gold) >= least for other in np.geomspace(0.1, 15, 200))


@pytest.mark.parametrize("several", [False, True])
def test_tempered_probabilities_are_those_of_divided_logits(several: bool) -> None:
    logits, _ = drawn(50, 3, several=several)
    make = sigmoid if several else softmax
    found = calibration.tempered(make(logits), 2.5, several=several)
    np.testing.assert_allclose(found, make(logits / 2.5), rtol=1e-10)
    np.testing.assert_allclose(calibration.tempered(found, 1 / 2.5, several=several), make(logits), rtol=1e-9)
    assert (found.argmax(axis=1) == logits.argmax(axis=1)).all()


def test_certain_probabilities_stay_finite() -> None:
    table = np.array([[1.0, 0.0], [0.0, 1.0]])
    for several in (False, True):
        assert np.isfinite(calibration.tempered(table, 3.0, several=several)).all()
    assert calibration.fit_temperature(table, np.array([1, 1])) == pytest.approx(20.0, rel=0.01)


def test_nothing_is_fitted_where_all_is_right() -> None:
    assert calibration.fit_temperature(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 1])) is None
    assert calibration.fit_temperature(np.array([[0.9, 0.1]]), np.array([[1, 0]])) is None
    assert calibration.fit_temperature(np.array([[0.9, 0.1]]), np.array([1])) is not None


def test_error_of_a_small_table_is_the_one_by_hand() -> None:
    """Two bins of equal width: 0.3 and 0.5 (mean 0.4, right 1 of 2), and 0.8 and 0.9 (mean 0.85, right 2 of 2)."""
    confidence, right = np.array([0.3, 0.5, 0.8, 0.9]), np.array([True, False, True, True])
    assert calibration.expected_error(confidence, right, number=2) == pytest.approx(0.5 * 0.1 + 0.5 * 0.15)
    low, high = calibration.bins(confidence, right, number=2)
    assert (low.number, low.accuracy, low.confidence) == (2, 0.5, pytest.approx(0.4))
    assert (high.low, high.high, high.accuracy) == (0.5, 1.0, 1.0)


def test_error_without_decisions_is_zero() -> None:
    assert calibration.expected_error(np.array([]), np.array([])) == 0


def test_every_confidence_has_a_bin() -> None:
    found = calibration.bins(np.array([0.0, 1.0, 1 / 15, 0.5]), np.ones(4))
    assert sum(one.number for one in found) == 4
    assert (found[0].number, found[-1].number) == (2, 1)


def test_decisions_are_the_likeliest_label_or_each_label() -> None:
    table = np.array([[0.2, 0.8], [0.6, 0.4]])
    confidence, right = calibration.decisions(table, np.array([1, 1]))
    assert (confidence.tolist(), right.tolist()) == ([0.8, 0.6], [True, False])
    confidence, right = calibration.decisions(table, np.array([[0, 1], [1, 1]]))
    assert (confidence.tolist(), right.tolist()) == ([0.2, 0.8, 0.6, 0.4], [0, 1, 1, 1])


@pytest.mark.parametrize(
    ("kind", "metric"), [("single", "f1"), ("single", "matthews_correlation"), ("multi", "f1_micro")]
)
def test_threshold_is_the_best_of_all(kind: str, metric: str) -> None:
    several = kind == "multi"
    logits, gold = drawn(120, 2 if not several else 3, several=several)
    table = (sigmoid if several else softmax)(logits + np.array([1.5, 0, 0] if several else [1.5, 0]))
    of_label = table if several else table[:, 1]
    about: dict[str, Any] = {"num_labels": table.shape[1], "kind": kind}

    def score(place: float) -> float:
        return float(compute([metric], (of_label >= place).astype(int), gold, **about)[metric])

    threshold, best, at_half = calibration.fit_threshold(metric, of_label, gold, **about)
    assert (best, at_half) == (pytest.approx(score(threshold)), pytest.approx(score(0.5)))
    assert best >= at_half
    if not several:
        assert best == pytest.approx(max(score(place) for place in [0, *of_label, 1]))
        assert best > at_half


def test_threshold_stays_at_half_where_nothing_is_better() -> None:
    probabilities, gold = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])
    found = calibration.fit_threshold("accuracy", probabilities, gold, num_labels=2, kind="single")
    assert found == (0.5, 1.0, 1.0)
    same = calibration.fit_threshold("accuracy", np.full(4, 0.7), gold, num_labels=2, kind="single")
    assert same == (0.5, 0.5, 0.5)
