"""Scores by name: what fits a task, said before step 1."""

import math

import pytest

from bertkit.errors import ConfigError
from bertkit.metrics import names


@pytest.mark.parametrize(
    ("kind", "num_labels", "expected"),
    [
        ("single", 2, ("accuracy", "f1")),
        ("single", 3, ("accuracy", "f1_macro")),
        ("multi", 2, ("f1_micro", "f1_macro")),
        ("regression", 0, ("pearson", "spearmanr")),
    ],
)
def test_defaults_fit_the_kind(kind, num_labels, expected):
    assert names.defaults(kind, num_labels) == expected
    names.check_names(expected, kind, num_labels)


@pytest.mark.parametrize(
    ("given", "kind", "num_labels", "message"),
    [
        (["acuracy"], "single", 2, r"^No metric 'acuracy'\. Did you mean 'accuracy'\? For one label a row there are "),
        (
            ["bleu"],
            "single",
            2,
            r"^No metric 'bleu'\. For one label a row there are accuracy, f1, f1_macro, f1_micro, ",
        ),
        (["pearsonr"], "regression", 0, r"Did you mean 'pearson'\? For a number a row there are pearson, spearmanr\."),
        (["f1"], "single", 3, r"Metric 'f1' needs 2 labels and there are 3: use 'f1_macro' or 'f1_micro'\."),
        (["f1"], "multi", 2, r"'f1' is not defined for several labels a row: use 'f1_micro' or 'f1_macro'\."),
        (
            ["matthews_correlation"],
            "multi",
            3,
            r"not defined for several labels a row\. .* accuracy, f1_macro, f1_micro",
        ),
        (["pearson"], "single", 2, r"Metric 'pearson' is not defined for one label a row\."),
        (["accuracy"], "regression", 0, r"Metric 'accuracy' is not defined for a number a row\."),
        (["f1", "pearson"], "single", 3, r"Metric 'f1' needs 2 labels .*; Metric 'pearson' is not defined"),
        (["accuracy"], "singel", 2, r"Kind 'singel' is not one of single, multi, regression\. Did you mean 'single'\?"),
    ],
)
def test_check_names_refuses_what_does_not_fit(given, kind, num_labels, message):
    with pytest.raises(ConfigError, match=message):
        names.check_names(given, kind, num_labels)


def test_defaults_of_an_unknown_kind_are_refused():
    with pytest.raises(ConfigError, match="Kind 'ranking' is not one of"):
        names.defaults("ranking", 2)


def test_better_compares_in_the_score_s_direction():
    assert names.better("accuracy", 0.9, 0.8)
    assert not names.better("accuracy", 0.8, 0.9)
    assert not names.better("accuracy", 0.8, 0.8)


def test_better_takes_anything_over_nothing_and_never_nan():
    assert names.better("pearson", -1.0, None)
    assert names.better("pearson", -1.0, math.nan)
    assert not names.better("pearson", math.nan, None)
    assert not names.better("pearson", math.nan, -1.0)


def test_better_turns_round_where_lower_is_better(monkeypatch):
    lower = names.Score(summary="", kinds=("single",), higher_is_better=False)
    monkeypatch.setitem(names.SCORES, "accuracy", lower)
    assert names.better("accuracy", 0.1, 0.2)


def test_better_of_an_unknown_score_is_refused():
    with pytest.raises(ConfigError, match=r"No metric 'acuracy'\. Did you mean 'accuracy'\? There are accuracy"):
        names.better("acuracy", 1.0, None)
