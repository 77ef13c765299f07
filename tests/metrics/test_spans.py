"""Exact match, F1 and thresholds of span QA, equal to the official scripts' stored outputs in every digit."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertkit.errors import ConfigError, DataError
from bertkit.metrics import spans

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "squad.json").read_text(encoding="utf-8"))
NAMES = ("exact_match", "f1")


def columns(rows):
    return [row["answer"] for row in rows], [row["references"] for row in rows]


ENGLISH = columns(GOLDEN["english"])
ANSWERABLE = columns([row for row in GOLDEN["english"] if row["references"]])
CHINESE = columns(GOLDEN["chinese"])
SCORES = [row["score"] for row in GOLDEN["english"]]
HAS_ANSWER = [bool(row["references"]) for row in GOLDEN["english"]]


# The official scripts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rules", "rows"), [("squad", ANSWERABLE), ("squad_v2", ENGLISH), ("cmrc2018", CHINESE)])
def test_raw_equals_the_official_script_on_every_question(rules, rows):
    found = spans.raw(*rows, rules=rules)
    assert found.dtype == np.float64
    for answer, references, ours, official in zip(*rows, found.tolist(), GOLDEN[rules]["rows"], strict=True):
        assert ours == official, (answer, references)


@pytest.mark.parametrize(("rules", "rows"), [("squad", ANSWERABLE), ("cmrc2018", CHINESE)])
def test_compute_equals_the_official_script_to_the_last_digit(rules, rows):
    assert spans.compute(NAMES, *rows, rules=rules) == GOLDEN[rules]["totals"]


@pytest.mark.parametrize("threshold", ["1.0", "0.5", "0.25"])
def test_thresholds_and_splits_equal_the_official_script_to_the_last_digit(threshold):
    official = GOLDEN["squad_v2"]["by_threshold"][threshold]
    questions = spans.raw(*ENGLISH, rules="squad_v2")
    scored = spans.with_threshold(questions, SCORES, HAS_ANSWER, float(threshold))
    means = spans.means(NAMES, scored)
    answered = [bool(answer) for answer in ENGLISH[0]]
    assert official == {
        "exact": means["exact_match"],
        "f1": means["f1"],
        "total": len(scored),
        **spans.split_by_answer(scored, HAS_ANSWER),
        **spans.best_threshold(questions, SCORES, HAS_ANSWER, answered=answered),
    }


def test_golden_cases_are_worth_comparing():
    for rules in ("squad", "squad_v2", "cmrc2018"):
        f1s = [f1 for _, f1 in GOLDEN[rules]["rows"]]
        assert sum(f1 == 0 for f1 in f1s) > 20
        assert sum(0 < f1 < 1 for f1 in f1s) > 40
        assert sum(f1 == 1 for f1 in f1s) > 20


# One question -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel\tTower!", "eiffel tower"),
        ("an apple a day", "apple day"),
        ("theme, Anna", "theme anna"),
        ("the-end", "theend"),
        ("“quoted”", "“quoted”"),
        ("the\u00a0end", "end"),
        ("a. the an", ""),
        ("Straße", "straße"),
    ],
)
def test_normalise_drops_case_ascii_punctuation_and_articles(text, expected):
    assert spans.normalise(text) == expected


def test_f1_takes_the_best_reference_and_counts_repeated_words():
    assert spans.f1("cat cat dog", ["fish", "cat dog"]) == 2 * (2 / 3) * 1 / (2 / 3 + 1)
    assert spans.exact("The cat.", ["dog", "cat"]) == 1.0


def test_rules_differ_where_a_side_is_empty():
    assert (spans.exact("", ["the"]), spans.f1("", ["the"])) == (1.0, 0.0)
    assert (spans.exact("", ["the"], rules="squad_v2"), spans.f1("", ["the"], rules="squad_v2")) == (1.0, 1.0)
    assert spans.exact("", ["the", "cat"], rules="squad") == 1.0
    assert spans.exact("", ["the", "cat"], rules="squad_v2") == 0.0
    assert (spans.exact("", ["。"], rules="cmrc2018"), spans.f1("", ["。"], rules="cmrc2018")) == (1.0, 0.0)


@pytest.mark.parametrize("rules", ["squad_v2", "cmrc2018"])
def test_question_without_references_wants_an_empty_answer(rules):
    assert spans.raw(["", "x"], [[], []], rules=rules).tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_question_without_references_is_refused_by_the_first_squad():
    with pytest.raises(DataError, match=r"Question 2 has no reference answer, and rules 'squad' .* use rules 'squad_v"):
        spans.raw(["x", ""], [["x"], []], rules="squad")
    with pytest.raises(DataError, match=r"The question has no reference answer, and rules 'squad' know none such"):
        spans.f1("x", [])


def test_chinese_is_compared_by_the_longest_run_of_characters():
    assert spans.f1("光荣公司和", ["光荣和"], rules="cmrc2018") == 2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3)
    assert spans.exact("《三国志》", ["三国志"], rules="cmrc2018") == 1.0
    assert spans.f1("2008年", ["2009年"], rules="cmrc2018") == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("在iphone 6s上", ["在", "iphone", "6s", "上"]),
        ("it's 3.5%, ok.", ["it", "'s", "3.5", "%", ",", "ok", "."]),
        ("cannot don't 10,000", ["can", "not", "do", "n't", "10,000"]),
        ('say "x" ("y")', ["say", "``", "x", "''", "(", "``", "y", "''", ")"]),
        ("one. two", ["one", ".", "two"]),
        ("henry a. walsh", ["henry", "a.", "walsh"]),
        ("u.s. army", ["u.s.", "army"]),
        ("(see fig.)", ["(", "see", "fig", ".", ")"]),
        ("wait...", ["wait", "..."]),
        (" \u3000 ", []),
        ("", []),
    ],
)
def test_segments_are_chinese_characters_and_treebank_words(text, expected):
    assert spans._segments(text) == expected


@given(st.text(), st.lists(st.text(), min_size=1, max_size=3), st.sampled_from(["squad", "squad_v2", "cmrc2018"]))
def test_any_text_is_scored_between_0_and_1(answer, references, rules):
    exact, f1 = spans.raw([answer], [references], rules=rules)[0]
    assert exact in (0.0, 1.0)
    assert 0 <= f1 <= 1


# All questions ----------------------------------------------------------------------------------------------------


def test_compute_returns_the_named_scores_only():
    assert spans.compute(("f1",), ["a cat", "dog"], [["cat"], ["fish"]], rules="squad") == {"f1": 50.0}


def test_intervals_hold_the_scores_and_repeat_with_the_seed():
    first = spans.intervals(NAMES, *ENGLISH, rules="squad_v2", resamples=200, seed=3)
    assert first == spans.intervals(NAMES, *ENGLISH, rules="squad_v2", resamples=200, seed=3)
    for name, score in spans.compute(NAMES, *ENGLISH, rules="squad_v2").items():
        low, high = first[name]
        assert 0 <= low < score < high <= 100


def test_intervals_follow_the_order_of_the_names():
    both = spans.intervals(NAMES, *ENGLISH, rules="squad_v2", resamples=50)
    assert spans.intervals(("f1",), *ENGLISH, rules="squad_v2", resamples=50) == {"f1": both["f1"]}


def test_unknown_names_and_rules_suggest_the_nearest():
    with pytest.raises(
        ConfigError, match=r"No metric 'exact_mach' for span QA\. Did you mean 'exact_match'\? There are"
    ):
        spans.compute(("exact_mach",), ["x"], [["x"]], rules="squad")
    with pytest.raises(ConfigError, match=r"Rules 'squad2' are not one of squad, squad_v2, cmrc2018\. Did you mean"):
        spans.raw(["x"], [["x"]], rules="squad2")


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="There are 2 answers and 1 lists of references"):
        spans.raw(["x", "y"], [["x"]], rules="squad")
    with pytest.raises(DataError, match="There are no questions to score"):
        spans.raw([], [], rules="squad")
    with pytest.raises(DataError, match="There are no questions to score"):
        spans.means(NAMES, np.empty((0, 2)))


# No answer --------------------------------------------------------------------------------------------------------

RAW = np.array([[1, 1], [0, 0.5], [0, 0], [0, 0]])
HAS = [True, True, False, False]


def test_best_threshold_answers_what_gains():
    best = spans.best_threshold(RAW, [-3, -1, 0, 2], HAS)
    assert best == {"best_exact": 75.0, "best_exact_thresh": -3.0, "best_f1": 87.5, "best_f1_thresh": -1.0}


@pytest.mark.parametrize("none", [None, math.inf])
def test_best_threshold_never_answers_where_there_was_no_span(none):
    best = spans.best_threshold(RAW, [none, -1, 0, none], HAS)
    assert best["best_exact"] == 50.0
    assert best["best_f1"] == 62.5
    assert best["best_f1_thresh"] == -1.0


def test_best_threshold_of_no_span_at_all_is_a_number():
    for attainable in (False, True):
        best = spans.best_threshold(RAW, [None] * 4, HAS, attainable=attainable)
        assert best == {"best_exact": 50.0, "best_exact_thresh": 0.0, "best_f1": 50.0, "best_f1_thresh": 0.0}


def test_best_threshold_knows_which_answers_are_empty():
    questions = np.array([[1.0, 1.0], [1.0, 1.0]])
    assert spans.best_threshold(questions, [1, 2], [False, True])["best_exact"] == 100.0
    assert spans.best_threshold(questions, [1, 2], [False, True], answered=[True, True])["best_exact"] == 50.0


def test_attainable_threshold_gives_the_score_that_it_promises():
    rng = np.random.default_rng(5)
    for _ in range(50):
        has = rng.random(30) < 0.5
        questions = np.where(has[:, None], rng.integers(0, 2, (30, 1)), 0) * np.ones((1, 2))
        scores = rng.integers(-4, 3, 30).astype(float)
        best = spans.best_threshold(questions, scores, has, attainable=True)
        scored = spans.with_threshold(questions, scores, has, best["best_exact_thresh"])
        assert spans.means(("exact_match",), scored)["exact_match"] == best["best_exact"]
        every = [spans.with_threshold(questions, scores, has, cut)[:, 0].mean() * 100 for cut in range(-5, 4)]
        assert best["best_exact"] == pytest.approx(max(every))


def test_with_threshold_keeps_what_equals_it():
    questions = np.array([[1.0, 1.0], [0.0, 0.5], [0.0, 0.0]])
    scored = spans.with_threshold(questions, [0.5, 0.6, None], [True, True, False], 0.5)
    assert scored.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_split_leaves_out_a_part_without_questions():
    assert spans.split_by_answer(np.array([[1.0, 1.0]]), [True]) == {
        "HasAns_exact": 100.0,
        "HasAns_f1": 100.0,
        "HasAns_total": 1,
    }


def test_no_answer_scores_that_cannot_be_used_are_refused():
    with pytest.raises(DataError, match="The no-answer score of question 2 is nan: it must be a number, or None"):
        spans.best_threshold(RAW, [0, math.nan, 0, 0], HAS)
    with pytest.raises(DataError, match="There are 4 scored answers, 3 no-answer scores and 4 truths"):
        spans.best_threshold(RAW, [0, 0, 0], HAS)
    with pytest.raises(DataError, match="There are no questions to find a threshold on"):
        spans.best_threshold(np.empty((0, 2)), [], [])
