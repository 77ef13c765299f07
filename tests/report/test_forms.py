"""What each task type shows: the numbers behind the sections, counted by hand."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from bertkit.errors import DataError
from bertkit.report import classes, curve, groups, labels, numbers, spans, tags
from bertkit.report.groups import CUT, WHOLE, Group
from bertkit.report.parts import Section, cut, plain, share
from tests.report import pages


def by_title(sections: Any) -> dict[str, Section]:
    return {section.title: section for section in sections}


# One label -------------------------------------------------------------------------------------------------------


def test_confusion_counts_true_down_and_predicted_across() -> None:
    found = classes.confusion([0, 0, 1, 2, 2], [0, 1, 1, 0, 2], 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_classes_have_precision_recall_and_f1() -> None:
    counts = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    first, _, third = classes.by_class(counts, ["a", "b", "c"])
    assert first == ["a", 0.6, 0.75, pytest.approx(2 / 3), 4, 5]
    assert third == ["c", None, None, None, 0, 0]


def test_classes_equal_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    rng = np.random.default_rng(0)
    gold, given = rng.integers(4, size=200), rng.integers(4, size=200)
    rows = classes.by_class(classes.confusion(gold, given, 4), list("abcd"))
    wanted = np.array(precision_recall_fscore_support(gold, given))
    assert np.array([row[1:5] for row in rows]) == pytest.approx(wanted.T)


def test_most_confused_pairs_come_first() -> None:
    counts = np.array([[5, 1, 0], [4, 4, 0], [0, 2, 8]])
    assert classes.most_confused(counts, ["a", "b", "c"]) == [
        ("b", "a", 4, 0.5),
        ("c", "b", 2, 0.2),
        ("a", "b", 1, pytest.approx(1 / 6)),
    ]


def test_surest_errors_come_first() -> None:
    assert classes.surest_errors([0, 0, 1, 1], [1, 0, 0, 0], [0.6, 0.99, 0.9, 0.7]) == [2, 3, 0]


def test_large_matrix_draws_the_classes_with_most_errors() -> None:
    labels = tuple(f"c{n}" for n in range(30))
    found = by_title(classes.sections(pages.classes(90, labels=labels)))["Confusion matrix and classes"]
    assert "Drawn are the 20 of 30 classes with the most errors" in found.text
    assert "c29" in found.tables[0].rows[29]


def test_calibration_names_the_error_of_the_metrics() -> None:
    from bertkit.metrics.calibration import decisions, expected_error

    given = pages.classes()
    found = by_title(classes.sections(given))["Calibration"]
    error = expected_error(*decisions(given["probabilities"], given["gold"]))
    assert f"(ECE) {error:.4f}" in found.text
    assert "on the whole the confidence is too high" in found.text


def test_errors_have_texts_labels_and_confidence() -> None:
    found = by_title(classes.sections(pages.classes()))["Most confident errors"]
    assert [case.row for case in found.cases] == [1, 5, 9, 13]
    assert found.cases[0].facts == [("true", "negative"), ("predicted", "positive"), ("confidence", "0.9900")]
    assert found.cases[0].texts == [pages.EVIL]
    assert found.last


def test_no_errors_are_said_to_be_none() -> None:
    given = pages.classes()
    given["gold"] = given["predicted"]
    assert by_title(classes.sections(given))["Most confident errors"].text == "There are none."


# Several labels, numbers -----------------------------------------------------------------------------------------


def test_labels_are_counted_one_by_one() -> None:
    found = by_title(labels.sections(pages.several()))
    assert found["Labels"].tables[0].rows[0] == ["toxic", 1.0, 1.0, 1.0, 2, 2]
    assert found["Labels"].tables[0].rows[2] == ["threat", 1.0, 0.5, pytest.approx(2 / 3), 2, 1]
    assert "2 of 4 rows have exactly the right labels" in found["Labels"].text


def test_surest_wrong_labels_come_first() -> None:
    first, second = by_title(labels.sections(pages.several()))["Most confident errors"].cases
    assert (first.row, first.facts[0]) == (3, ("label", f"{pages.EVIL} (given, and not true)"))
    assert (second.row, second.facts[0]) == (1, ("label", "threat (true, and not given)"))


def test_residuals_have_bias_and_size() -> None:
    found = by_title(numbers.sections(pages.numbers()))
    values = dict(found["Predicted and true, and residuals"].tables[0].rows)
    assert values["mean error"] == pytest.approx(1 / 8)
    assert values["mean absolute error"] == pytest.approx(3 / 8)
    assert values["root mean squared error"] == pytest.approx(np.sqrt(5 / 8))
    assert [case.row for case in found["Largest errors"].cases] == [3, 7]
    assert found["Largest errors"].cases[0].facts[-1] == ("off by", "+2")


# Tags ------------------------------------------------------------------------------------------------------------


def test_entities_are_right_or_wrong_in_one_way() -> None:
    true = [("PER", 0, 2), ("LOC", 4, 5), ("ORG", 6, 8), ("PER", 9, 10), ("LOC", 12, 14)]
    given = [("PER", 0, 2), ("PER", 4, 5), ("ORG", 7, 8), ("LOC", 9, 11), ("ORG", 15, 16)]
    assert [outcome for outcome, _ in tags.compared(given, true)] == [
        tags.RIGHT, tags.TYPE, tags.BOUNDARY, tags.BOTH, tags.MISSED, tags.INVENTED
    ]  # fmt: skip


def test_kinds_of_error_are_counted_by_type() -> None:
    found = by_title(tags.sections(pages.tags()))["Boundary and type errors"].tables[0]
    assert list(found.columns) == ["type", "right", "boundary", "type", "boundary and type", "missed", "invented"]
    assert found.rows == [["LOC", 1, 0, 0, 0, 1, 0], ["PER", 0, 1, 1, 0, 0, 1], ["all", 1, 1, 1, 0, 1, 1]]
    assert tags.kinds_of_error([]) == {}
    assert tags.kinds_of_error([([], [("PER", 0, 1)])]) == {"PER": Counter({tags.MISSED: 1})}


def test_types_are_those_of_the_scores() -> None:
    rows = by_title(tags.sections(pages.tags()))["Types"].tables[0].rows
    assert rows == [["LOC", 0.5, 0.5, 0.5, 2], ["PER", 0.0, 0.0, 0.0, 2]]


def test_surest_wrong_sentences_come_first_and_silent_ones_last() -> None:
    cases = by_title(tags.sections(pages.tags()))["Most confident errors"].cases
    assert [case.row for case in cases] == [4, 1, 2, 3]
    assert cases[1].facts[:2] == [("true", "Ann Lee [PER]"), ("predicted", "Ann Lee [LOC]")]
    assert [name for name, _ in cases[-1].facts] == ["true", "predicted"]


def test_tags_that_make_no_entities_are_classes_of_words() -> None:
    given = {"labels": ("NOUN", "VERB"), "scheme": "", "gold": [["NOUN", "VERB"]], "tags": [["NOUN", "NOUN"]]}
    found = by_title(tags.sections(given))
    assert list(found) == ["Confusion matrix and classes"]
    assert found["Confusion matrix and classes"].tables[0].rows[0][:3] == ["NOUN", 0.5, 1.0]


# Questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("How many are there?", "how many"),
        ("HOW is it?", "how"),
        ("In which year, and who?", "which"),
        ("Whose house?", "whose"),
        ("Somewhat odd, is it?", "other"),
        ("谁?", "other"),
    ],
)
def test_question_word(question: str, word: str) -> None:
    assert spans.question_word(question) == word


def test_answered_and_refused_are_counted() -> None:
    found = spans.answer_kinds([["a"], ["a"], [], []], ["a", "", "b", ""])
    assert list(found.values()) == [1, 1, 1, 1]


def test_questions_with_and_without_an_answer_are_told_apart() -> None:
    found = by_title(spans.sections(pages.questions()))["Answerable or not"]
    scores, counts = found.tables
    assert [row[:3] for row in scores.rows] == [["yes", 12, pytest.approx(1000 / 12)], ["no", 4, 75.0]]
    assert counts.rows == [["answered", 11, 1], ["not answered", 1, 3]]


def test_questions_are_scored_by_word_and_by_size_of_the_answer() -> None:
    found = by_title(spans.sections(pages.questions()))
    words = {row[0]: row[1] for row in found["Scores by question word"].tables[0].rows}
    assert words == {"how many": 4, "other": 4, "what": 4, "which": 4}
    sizes = {row[0]: row[1] for row in found["Scores by answer length"].tables[0].rows}
    assert sizes == {"1": 4, "3": 8}


def test_split_without_unanswerable_questions_has_no_such_table() -> None:
    given = pages.questions()
    places = [n for n, each in enumerate(given["references"]) if each]
    some = {key: [value[n] for n in places] for key, value in given.items() if key != "form"}
    assert "Answerable or not" not in by_title(spans.sections(some))


def test_wrong_answers_stand_in_their_context() -> None:
    given = pages.questions()
    context = f"{'x' * 200} a blue tool {'y' * 200}"
    given["contexts"], given["starts"] = [context] * 16, [201] * 16
    case = by_title(spans.sections(given))["Most confident errors"].cases[0]
    assert (case.row, case.facts[0], case.facts[1]) == (8, ("true", "no answer"), ("predicted", "a blue tool"))
    assert case.texts[1].startswith("…xxx")
    assert "a blue tool" in case.texts[1]
    assert case.texts[1].endswith("yyy…")


# Groups and curves -----------------------------------------------------------------------------------------------


def test_groups_by_length_are_of_about_equal_size_and_hold_every_row_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, size=1000)
    found = groups.quantile_groups(lengths)
    assert len(found) == 5
    assert all(150 < len(group.rows) < 250 for group in found)
    assert sorted(np.concatenate([group.rows for group in found]).tolist()) == list(range(1000))
    for before, after in pairwise(found):
        assert lengths[before.rows].max() < lengths[after.rows].min()


def test_equal_lengths_stay_together() -> None:
    assert [group.name for group in groups.quantile_groups([3] * 10)] == ["3"]
    assert [group.name for group in groups.quantile_groups([1] * 9 + [7])] == ["1", "7"]
    assert groups.quantile_groups([]) == []


def test_truncation_is_shown_only_where_it_did_something() -> None:
    def titles(kept: list[str]) -> list[str]:
        score = pages.constant({"f1": 0.5})
        given: dict[str, Any] = {"metric": "f1", "whole": 0.5}
        return [section.title for section in groups.sections([1] * 4, "tokens", kept, score, **given)]

    assert titles([WHOLE] * 4) == []
    assert titles([CUT, WHOLE, WHOLE, CUT]) == ["Scores by truncation"]


def test_group_that_cannot_be_scored_is_left_empty() -> None:
    def score(rows: Any) -> dict[str, Any]:
        if len(rows) < 2:
            raise DataError("too few")
        return {"pearson": 0.5, "pearson_interval": [0.1, 0.9]}

    two = [Group(name="a", rows=np.arange(9)), Group(name="b", rows=np.array([9]))]
    table = groups.table(groups.scored(two, score), "tokens")
    assert list(table.columns) == ["tokens", "rows", "pearson"]
    assert table.rows == [["a", 9, 0.5], ["b", 1, None]]


def test_small_groups_have_no_interval() -> None:
    score = pages.constant({"f1": 0.5, "f1_interval": [0.5, 0.5]})
    found = groups.scored([Group(name="a", rows=np.arange(5)), Group(name="b", rows=np.arange(4))], score)
    assert ["f1_interval" in scores for _, scores in found] == [True, False]


def test_curve_reads_losses_scores_and_what_was_kept() -> None:
    steps, losses, scored, metric = curve.read(pages.events("f1"))
    assert (steps[-1], losses[1], metric) == (40, 0.5, "f1")
    assert scored == [(10, 0.5, True), (20, 0.6, True), (30, 0.7, True), (40, 0.65, False)]
    svg = next(curve.sections(pages.events("f1"))).plots[1].svg
    assert "kept" in svg
    assert list(curve.sections([])) == []


def test_many_steps_are_averaged() -> None:
    x, y = curve.averaged(np.arange(1000), np.ones(1000))
    assert len(x) == len(y) == 200
    assert (x[0], y.mean()) == (2.0, 1.0)


@pytest.mark.parametrize(("value", "shown"), [(0.99999, "0.9999"), (1.0, "1.0000"), (0.5, "0.5000")])
def test_probability_below_one_is_not_shown_as_one(value: float, shown: str) -> None:
    assert share(value) == shown


def test_texts_are_cut_and_cleaned() -> None:
    assert cut("x" * 700) == "x" * 599 + "…"
    assert plain("a\u202eb\ud800\tc") == "a\ufffdb\ufffd\tc"
