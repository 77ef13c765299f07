"""Scores of sequence classification against values worked out by hand. Warnings are errors here."""

import json
import math
import warnings

import numpy as np
import pytest

from bertkit.errors import ConfigError, DataError
from bertkit.metrics.classification import compute

SINGLE = ["accuracy", "f1_macro", "f1_micro", "matthews_correlation"]


def scores(names, predictions, references, **about):
    return compute(names, np.array(predictions), np.array(references), **about)


def test_two_labels_by_hand():
    # TP 2, TN 1, FP 1, FN 1: F1 of label 1 is 4/6, of label 0 2/4.
    found = scores(["f1", *SINGLE], [1, 1, 0, 1, 0], [1, 1, 0, 0, 1], num_labels=2)
    mcc = (2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2)
    expected = {
        "f1": 2 / 3,
        "accuracy": 0.6,
        "f1_macro": (2 / 3 + 0.5) / 2,
        "f1_micro": 0.6,
        "matthews_correlation": mcc,
    }
    assert found == pytest.approx(expected, abs=1e-12)
    assert list(found) == ["f1", *SINGLE]
    assert {type(value) for value in found.values()} == {float}


def test_three_labels_by_hand():
    # F1: label 0 2/3, label 1 2/3, label 2 0.
    found = scores(["f1_macro", "f1_micro"], [0, 1, 0, 1], [0, 1, 2, 1], num_labels=3)
    assert found == pytest.approx({"f1_macro": (2 / 3 + 1 + 0) / 3, "f1_micro": 0.75}, abs=1e-12)


def test_f1_is_of_the_label_with_id_1():
    assert scores(["f1"], [0, 0, 1], [0, 0, 0], num_labels=2) == {"f1": 0.0}
    assert scores(["f1"], [1, 1, 0], [1, 1, 1], num_labels=2) == pytest.approx({"f1": 0.8})


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_gives_correlation_0_and_no_warning(label):
    found = scores(["f1", *SINGLE], [label] * 3, [label] * 3, num_labels=2)
    expected = {"f1": float(label), "accuracy": 1.0, "f1_macro": 1.0, "f1_micro": 1.0, "matthews_correlation": 0.0}
    assert found == expected


def test_constant_predictions_give_correlation_0():
    assert scores(["matthews_correlation"], [1, 1, 1], [0, 1, 1], num_labels=2) == {"matthews_correlation": 0.0}


def test_f1_macro_leaves_out_labels_that_occur_nowhere():
    assert scores(["f1_macro"], [0, 3], [0, 3], num_labels=5) == {"f1_macro": 1.0}
    # Label 4 is predicted once and never true: it enters, with 0.
    assert scores(["f1_macro"], [0, 3, 4], [0, 3, 3], num_labels=5) == pytest.approx({"f1_macro": (1 + 2 / 3) / 3})


def test_several_labels_by_hand():
    # Columns: TP 1 FN 1 (2/3); TP 1 FP 1 (2/3); nothing (0 in the mean). One row of three is right in all.
    predictions, references = [[1, 0, 0], [0, 1, 0], [0, 1, 0]], [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    found = scores(["accuracy", "f1_micro", "f1_macro"], predictions, references, num_labels=3, kind="multi")
    assert found == pytest.approx({"accuracy": 1 / 3, "f1_micro": 4 / 6, "f1_macro": (2 / 3 + 2 / 3 + 0) / 3})


def test_several_labels_none_given_gives_0_and_no_warning():
    nothing = np.zeros((4, 3), dtype=int)
    found = compute(["accuracy", "f1_micro", "f1_macro"], nothing, nothing, num_labels=3, kind="multi")
    assert found == {"accuracy": 1.0, "f1_micro": 0.0, "f1_macro": 0.0}


def test_several_labels_with_a_single_column_score_that_label():
    found = scores(["accuracy", "f1_micro", "f1_macro"], [[1], [0], [0]], [[1], [0], [1]], num_labels=1, kind="multi")
    assert found == pytest.approx({"accuracy": 2 / 3, "f1_micro": 2 / 3, "f1_macro": 2 / 3})


def test_pearson_by_hand():
    # Deviations (-1, 0, 1) and (-4/3, -1/3, 5/3): 3 / sqrt(2 * 42/9).
    found = scores(["pearson"], [1.0, 2.0, 3.0], [1.0, 2.0, 4.0], num_labels=0, kind="regression")
    assert found == pytest.approx({"pearson": 3 / math.sqrt(2 * 42 / 9)}, abs=1e-12)


def test_spearman_shares_the_mean_rank_of_ties_by_hand():
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3.5, 3.5 less 2.5: both 4.5, spreads 4.5 and 4.5.
    found = scores(["spearmanr"], [1.0, 7.0, 7.0, 9.0], [0.0, 2.0, 3.0, 3.0], num_labels=0, kind="regression")
    both = (-1.5) * (-1.5) + 0 * (-0.5) + 0 * 1 + 1.5 * 1
    assert found == pytest.approx({"spearmanr": both / 4.5}, abs=1e-12)


def test_numbers_keep_all_their_digits():
    # float32 takes 1 + 1e-9 for 1: the ranks would tie.
    found = scores(["spearmanr"], [1.0, 1.0 + 1e-9, 2.0], [1.0, 2.0, 3.0], num_labels=0, kind="regression")
    assert found == pytest.approx({"spearmanr": 1.0}, abs=1e-12)


@pytest.mark.parametrize(
    ("predictions", "references"), [([2.5, 2.5], [1.0, 2.0]), ([1.0, 2.0], [0.1, 0.1]), ([1.0], [1.0])]
)
def test_constant_numbers_give_0_which_is_json(predictions, references):
    found = scores(["pearson", "spearmanr"], predictions, references, num_labels=0, kind="regression")
    assert found == {"pearson": 0.0, "spearmanr": 0.0}
    assert json.dumps(found, allow_nan=False)


def test_nearly_constant_predictions_do_not_warn():
    predictions = 1 + np.array([0.0, 1.0, 2.0]) * 1e-15
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compute(["pearson"], predictions, np.array([1.0, 2.0, 3.0]), num_labels=0, kind="regression")
    assert -1 <= found["pearson"] <= 1


def test_label_names_are_scored_in_id_order():
    labels = ["no", "maybe"]
    found = compute(["f1"], np.array(["maybe", "no"]), np.array(["maybe", "maybe"]), num_labels=2, labels=labels)
    assert found == pytest.approx({"f1": 2 / 3})
    same = np.array(["maybe", "no"], dtype=object)
    assert compute(["accuracy"], same, same, num_labels=2, labels=labels) == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("kind", "predictions", "references", "message"),
    [
        ("single", [], [], r"There are no rows to score\. Is the split empty, or without labels\?"),
        ("single", [1], [1, 0], r"There are 1 predictions and 2 references\. Both must be the same rows in order\."),
        ("single", [1, 0], [1, -1], r"Row 2: reference -1 is not a label id from 0 to 1\."),
        ("single", [2, 0], [1, 1], r"Row 1: prediction 2 is not a label id from 0 to 1\."),
        ("single", [0.5], [1], r"The predictions are float64 of shape \(1,\), and must be label ids of shape \(1,\)\."),
        ("single", ["a"], ["b"], r"The predictions are label names, and compute\(\) needs labels="),
        ("multi", [[1, 0, 0]], [[1, 0]], r"The predictions are int64 of shape \(1, 3\), and must be 0 and 1 of shape"),
        ("multi", [[1, 0]], [[1, 2]], r"Row 1: reference \[1, 2\] is not a row of 0 and 1\."),
        ("regression", [[1.0]], [1.0], r"of shape \(1, 1\), and must be numbers of shape \(1,\)\."),
        (
            "regression",
            [1.0, np.nan],
            [1.0, 2.0],
            r"Row 2: prediction nan is not a finite number; a smaller train\.lea",
        ),
        ("regression", [1.0], [np.inf], r"Row 1: reference inf is not a finite number\."),
    ],
)
def test_rows_that_cannot_be_scored_are_named(kind, predictions, references, message):
    names = {"single": ["accuracy"], "multi": ["f1_micro"], "regression": ["pearson"]}[kind]
    with pytest.raises(DataError, match=message):
        scores(names, predictions, references, num_labels=2, kind=kind)


def test_an_unknown_label_name_suggests_the_nearest():
    with pytest.raises(DataError, match=r"Row 2: prediction 'postive' is not one of 'negative', 'positive'\. Did you"):
        compute(
            ["accuracy"],
            ["positive", "postive"],
            ["positive", "positive"],
            num_labels=2,
            labels=("negative", "positive"),
        )


def test_a_score_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="Metric 'f1' is not defined for several labels a row"):
        scores(["f1"], [[1, 0]], [[1, 0]], num_labels=2, kind="multi")
