"""Each metric takes and returns what the published ``evaluate`` metric of that name does.

The stored numbers are those that the published metric cards print for the same rows, or worked out by hand.
"""

import math

import numpy as np
import pytest
from scipy import stats

from bertkit import metrics
from bertkit.metrics.glue import TASKS

SIX = {"references": [0, 1, 2, 0, 1, 2], "predictions": [0, 1, 1, 2, 1, 0]}
FIVE = {"references": [0, 1, 0, 1, 0], "predictions": [0, 0, 1, 1, 0]}
FOUR_CLASSES = {"references": [1, 3, 2, 0, 3, 2], "predictions": [1, 2, 2, 0, 3, 3]}
NUMBERS = {"references": [1, 2, 3, 4, 5], "predictions": [10, 9, 2.5, 6, 4]}


def test_accuracy_equals_the_published_examples():
    metric = metrics.load("accuracy")
    assert metric.compute(**SIX) == {"accuracy": 0.5}
    assert metric.compute(**SIX, normalize=False) == {"accuracy": 3.0}
    weights = [0.5, 2, 0.7, 0.5, 9, 0.4]
    assert metric.compute(**SIX, sample_weight=weights) == {"accuracy": pytest.approx(0.8778625954198473)}


def test_accuracy_of_several_labels_counts_whole_rows():
    rows = {"references": [[0, 1, 1], [1, 1, 0]], "predictions": [[0, 1, 1], [0, 1, 0]]}
    assert metrics.load("accuracy", "multilabel").compute(**rows) == {"accuracy": 0.5}


def test_f1_equals_the_published_examples():
    metric = metrics.load("f1")
    assert metric.compute(**FIVE) == {"f1": 0.5}
    assert metric.compute(**FIVE, pos_label=0)["f1"] == pytest.approx(2 / 3)
    assert round(metric.compute(**FIVE, sample_weight=[0.9, 0.5, 3.9, 1.2, 0.3])["f1"], 2) == 0.35


@pytest.mark.parametrize(("average", "expected"), [("macro", 0.8 / 3), ("micro", 1 / 3), ("weighted", 0.8 / 3)])
def test_f1_averages_over_classes(average, expected):
    rows = {"predictions": [0, 2, 1, 0, 0, 1], "references": [0, 1, 2, 0, 1, 2]}
    scores = metrics.load("f1").compute(**rows, average=average)
    assert type(scores["f1"]) is float
    assert scores == {"f1": pytest.approx(expected)}


def test_f1_without_average_gives_one_score_a_label():
    rows = {"predictions": [0, 2, 1, 0, 0, 1], "references": [0, 1, 2, 0, 1, 2]}
    assert metrics.load("f1").compute(**rows, average=None)["f1"].tolist() == pytest.approx([0.8, 0, 0])
    assert metrics.load("f1").compute(**rows, average=None, labels=[0])["f1"] == pytest.approx(0.8)


def test_f1_labels_choose_what_is_averaged():
    rows = {"predictions": [0, 1, 1, 2], "references": [0, 1, 2, 2]}
    assert metrics.load("f1").compute(**rows, average="macro", labels=[1, 2])["f1"] == pytest.approx(2 / 3)


def test_f1_of_several_labels_averages_over_columns():
    rows = {"predictions": [[0, 1, 1], [1, 1, 0]], "references": [[0, 1, 1], [0, 1, 0]]}
    assert metrics.load("f1", "multilabel").compute(**rows, average="macro")["f1"] == pytest.approx(2 / 3)


def test_matthews_correlation_equals_the_published_examples():
    metric = metrics.load("matthews_correlation")
    assert round(metric.compute(**FOUR_CLASSES)["matthews_correlation"], 2) == 0.54
    weighted = metric.compute(**FOUR_CLASSES, sample_weight=[0.5, 3, 1, 1, 1, 2])
    assert round(weighted["matthews_correlation"], 2) == 0.1
    negative = metric.compute(**FOUR_CLASSES, sample_weight=[0.5, 1, 0, 0, 0, 1])
    assert round(negative["matthews_correlation"], 2) == -0.25


def test_matthews_correlation_of_several_labels_is_per_column():
    rows = {"predictions": [[0, 1], [1, 0], [1, 1]], "references": [[0, 1], [1, 1], [1, 0]]}
    metric = metrics.load("matthews_correlation", "multilabel")
    assert metric.compute(**rows)["matthews_correlation"] == pytest.approx([1.0, -0.5])
    assert metric.compute(**rows, average="macro")["matthews_correlation"] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="average is 'micro'; it must be 'macro' or None"):
        metric.compute(**rows, average="micro")


def test_pearsonr_equals_the_published_examples():
    scores = metrics.load("pearsonr").compute(**NUMBERS, return_pvalue=True)
    assert {name: round(value, 2) for name, value in scores.items()} == {"pearsonr": -0.74, "p-value": 0.15}
    assert set(metrics.load("pearsonr").compute(**NUMBERS)) == {"pearsonr"}


def test_spearmanr_equals_the_published_examples():
    scores = metrics.load("spearmanr").compute(**NUMBERS, return_pvalue=True)
    assert {name: round(value, 2) for name, value in scores.items()} == {"spearmanr": -0.7, "spearmanr_pvalue": 0.19}
    plain = metrics.load("spearmanr").compute(**NUMBERS)
    assert set(plain) == {"spearmanr"}
    assert type(plain["spearmanr"]) is float


# The definitions of the official GLUE script, in plain Python -----------------------------------------------------


def confusion(predictions, references):
    pairs = list(zip(predictions, references, strict=True))
    return tuple(pairs.count(pair) for pair in ((1, 1), (0, 0), (1, 0), (0, 1)))


def accuracy(predictions, references):
    return sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)


def f1(predictions, references):
    true_positives, _, false_positives, false_negatives = confusion(predictions, references)
    return 2 * true_positives / (2 * true_positives + false_positives + false_negatives)


def matthews_correlation(predictions, references):
    tp, tn, fp, fn = confusion(predictions, references)
    return (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))


def pearson(predictions, references):
    return stats.pearsonr(predictions, references)[0]


def spearmanr(predictions, references):
    return stats.spearmanr(predictions, references)[0]


@pytest.mark.parametrize("task", sorted(TASKS))
def test_glue_equals_the_official_definitions(task):
    rng = np.random.default_rng(7)
    if task == "stsb":
        references = rng.integers(0, 26, 200) / 5
        predictions = np.clip(references + rng.normal(size=200), 0, 5)
    else:
        references = rng.integers(0, 2, 200)
        predictions = np.where(rng.random(200) < 0.7, references, 1 - references)
    expected = {name: globals()[name](predictions.tolist(), references.tolist()) for name in TASKS[task]}
    scores = metrics.load("glue", task).compute(predictions=predictions, references=references)
    assert list(scores) == list(expected)
    assert scores == pytest.approx(expected, abs=1e-6 if task == "stsb" else 1e-12)
    assert {type(value) for value in scores.values()} == {float}


def test_glue_mnli_scores_three_classes():
    scores = metrics.load("glue", "mnli_matched").compute(predictions=[0, 1, 2, 2], references=[0, 1, 2, 1])
    assert scores == {"accuracy": 0.75}
