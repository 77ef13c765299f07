"""The comparison of two runs: the same rows or a refusal, what the numbers are, what changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from bertkit.errors import DataError, RunError
from bertkit.workflows.compare import Compared, brief, compare
from tests.conftest import sentences
from tests.workflows.training import lines, record

Edit = Callable[[int, dict[str, Any]], dict[str, Any]]
STEPS = {"best_step": 1, "last_step": 1}
WORDS = ("negative", "positive")


def write(run: Path, rows: list[dict[str, Any]], split: str = "validation") -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (run / "predictions" / f"{split}.jsonl").write_text(text, encoding="utf-8")


def change(run: Path, **facts: Any) -> None:
    (run / "run.json").write_text(json.dumps(record(run) | facts))


def predicted(row: dict[str, Any], label: str) -> dict[str, Any]:
    sure = {name: float(name == label) for name in WORDS}
    return row | {"prediction": {"label": label, "score": 1.0, "probabilities": sure}}


def wrong(row: dict[str, Any]) -> dict[str, Any]:
    return predicted(row, WORDS[row["label"] == "negative"])


def right(row: dict[str, Any]) -> dict[str, Any]:
    return predicted(row, row["label"])


@pytest.fixture
def runs(finished_run: Path, tmp_path: Path) -> Path:
    """Return a folder with two copies of a run on 40 validation rows, of which both have all right."""
    rows = [{"text": f"text {index}", "label": WORDS[index % 2]} for index in range(40)]
    for name in "ab":
        copy = Path(shutil.copytree(finished_run, tmp_path / "runs" / name))
        write(copy, [right(row) for row in rows])
    return tmp_path / "runs"


def edit(run: Path, change_row: Edit) -> None:
    write(run, [change_row(n, row) for n, row in enumerate(lines(run / "predictions/validation.jsonl"), start=1)])


def run_compare(runs: Path, **options: Any) -> Compared:
    return compare("a", "b", runs=runs, **{"resamples": 300, **options})


# Numbers ---------------------------------------------------------------------------------------------------------


def test_difference_has_interval_test_and_verdict(runs: Path) -> None:
    edit(runs / "a", lambda n, row: wrong(row) if n <= 12 else row)
    edit(runs / "b", lambda n, row: wrong(row) if n == 20 else row)
    found = run_compare(runs)
    one = found.metrics["accuracy"]
    assert (one.a, one.b, one.test) == (pytest.approx(28 / 40), pytest.approx(39 / 40), "mcnemar")
    assert one.p == stats.binomtest(1, 13).pvalue
    low, high = one.interval
    assert 0 < low < one.difference < high
    assert found.counts == {"both_right": 27, "only_a": 1, "only_b": 12, "both_wrong": 0}
    assert found.mcnemar is not None
    assert found.mcnemar.p == one.p
    assert found.verdicts[0] == "accuracy: B is better (+0.2750, p = 0.0034, on 40 examples)"
    assert found.num_examples == 40


def test_small_difference_is_said_to_be_not_significant(runs: Path) -> None:
    edit(runs / "b", lambda n, row: wrong(row) if n < 3 else row)
    verdict = run_compare(runs).verdicts[0]
    assert verdict == "accuracy: the difference is not significant (-0.0500, p = 0.5000, on 40 examples)"


def test_tiny_p_is_not_shown_as_zero(runs: Path) -> None:
    edit(runs / "b", lambda n, row: wrong(row))
    verdict = run_compare(runs).verdicts[0]
    assert verdict == "accuracy: A is better (-1.0000, p < 0.0001, on 40 examples)"


def test_other_scores_have_a_permutation_test(runs: Path) -> None:
    for name in "ab":
        change(runs / name, resolved_task=record(runs / name)["resolved_task"] | {"metrics": ["f1", "accuracy"]})
    edit(runs / "a", lambda n, row: wrong(row) if n <= 12 else row)
    found = run_compare(runs)
    assert {name: one.test for name, one in found.metrics.items()} == {"f1": "permutation", "accuracy": "mcnemar"}
    assert found.metrics["f1"].p < 0.01


@pytest.mark.slow
def test_tags_and_answers_are_compared(tagging_run: Path, questions_run: Path, tmp_path: Path) -> None:
    tags = compare(tagging_run, tagging_run, resamples=50)
    assert {name: one.difference for name, one in tags.metrics.items()} == dict.fromkeys(tags.metrics, 0.0)
    other = Path(shutil.copytree(tagging_run, tmp_path / "other"))
    edit(other, lambda n, row: row | {"prediction": {"tags": ["O"] * len(row["tokens"]), "entities": []}})
    found = compare(tagging_run, other, resamples=200)
    assert found.metrics["f1"].b == 0
    assert found.metrics["f1"].significant
    assert {one.change for one in found.changes} == {"right -> wrong"}
    asked = compare(questions_run, questions_run, resamples=50)
    assert asked.metrics["exact_match"].test == "mcnemar"
    assert asked.metrics["f1"].test == "permutation"


def test_numbers_are_better_or_worse(runs: Path) -> None:
    for name in "ab":
        made = record(runs / name)["resolved_task"] | {"kind": "regression", "metrics": ["pearson"], "labels": []}
        change(runs / name, resolved_task=made)
        rows = [
            {"text": "t", "label": n / 10, "prediction": {"value": n / 10 + (n % 3) * (name == "b")}} for n in range(30)
        ]
        write(runs / name, rows)
    found = run_compare(runs)
    assert (found.counts, found.mcnemar) == ({}, None)
    assert {one.change for one in found.changes} == {"worse"}
    assert [one.weight for one in found.changes][:3] == [pytest.approx(-2)] * 3
    assert found.metrics["pearson"].a == pytest.approx(1)


# What changed ----------------------------------------------------------------------------------------------------


def test_changed_examples_stand_with_both_predictions(runs: Path, tmp_path: Path) -> None:
    edit(runs / "a", lambda n, row: wrong(row) if n in (4, 9) else row)
    edit(runs / "b", lambda n, row: wrong(row) if n in (7, 9) else row)
    found = run_compare(runs, out=tmp_path / "changes.jsonl")
    assert [(one.row, one.change) for one in found.changes] == [(7, "right -> wrong"), (4, "wrong -> right")]
    written = lines(tmp_path / "changes.jsonl")
    assert written == found.to_json()["changes"]
    assert written[0]["example"] == {"text": "text 6", "label": "negative"}
    assert (written[0]["a"]["label"], written[0]["b"]["label"]) == ("negative", "positive")
    assert found.columns == ["text", "label"]


def test_table_is_bounded_and_json_is_whole(runs: Path) -> None:
    edit(runs / "b", lambda n, row: wrong(row) if n % 2 else row)
    found = run_compare(runs)
    assert [one.row for one in found.first(5)] == [1, 3, 5, 7, 9]
    assert len(found.to_json()["changes"]) == 20
    json.dumps(found.to_json(), allow_nan=False)


def test_line_separators_inside_texts_are_no_line_ends(runs: Path) -> None:
    for name in "ab":
        edit(runs / name, lambda n, row: row | {"text": f"one\u2028two {n}"})
    assert run_compare(runs).num_examples == 40


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ({"label": "positive", "score": 0.9}, "positive"),
        ({"labels": ["a", "b"]}, "a b"),
        ({"value": 1.23456}, "1.2346"),
        ({"answer": "x" * 60, "score": 1}, "x" * 45 + "..."),
        ({"tags": ["O"], "entities": []}, "O"),
        ({"tags": ["B-X"], "entities": [{"text": "Ann", "label": "X"}]}, "Ann (X)"),
        ({"other": 1}, '{"other": 1}'),
    ],
)
def test_predictions_are_told_in_few_words(prediction: dict[str, Any], expected: str) -> None:
    assert brief(prediction) == expected


# Notes -----------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_their_seed_are_said_to(runs: Path) -> None:
    change(runs / "b", seed=7, request=record(runs / "b")["request"] | {"seed": 7})
    (note,) = run_compare(runs).notes
    assert note == "the runs differ in their seed alone (42 and 7), so a difference is what seeds do"
    assert compare("a", "a", runs=runs, resamples=10).notes == [f"both are the same run, {runs / 'a'}"]


def test_two_models_are_not_two_recipes(runs: Path) -> None:
    change(runs / "b", request=record(runs / "b")["request"] | {"encoder": "x"})
    (note,) = run_compare(runs).notes
    assert note == "two trained models are compared; whether one recipe is better needs several seeds of each"


# Refusals --------------------------------------------------------------------------------------------------------


def test_other_texts_or_labels_are_refused(runs: Path) -> None:
    edit(runs / "b", lambda n, row: row | {"text": "another"} if n == 3 else row)
    with pytest.raises(
        DataError,
        match=r"not scored on the same examples: 'text' in row 3 of 'validation' is 'text 2' in .*a/predictions/"
        r"validation\.jsonl, and 'another' in .*b/predictions",
    ):
        run_compare(runs)
    edit(runs / "b", lambda n, row: row | {"text": f"text {n - 1}", "label": "positive"})
    with pytest.raises(DataError, match=r"'label' in row 1 of 'validation' is 'negative' in .*, and 'positive' in"):
        run_compare(runs)


def test_other_number_of_rows_is_refused(runs: Path) -> None:
    write(runs / "b", lines(runs / "b/predictions/validation.jsonl")[:-1])
    with pytest.raises(
        DataError,
        match=r"not scored on the same examples: .* 40 rows, and .* 39\. 'bertkit eval RUN --data FILE' scores both on",
    ):
        run_compare(runs)


def test_other_labels_and_types_are_refused(runs: Path, tagging_run: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"learned different things and cannot be compared: sequence-classification \(single\) with 2 labels, and "
        r"token-tagging with 5 labels",
    ):
        compare("a", tagging_run, runs=runs)
    change(runs / "b", resolved_task=record(runs / "b")["resolved_task"] | {"labels": ["bad", "good"]})
    with pytest.raises(DataError, match=r"cannot be compared: labels negative, positive, and labels bad, good\."):
        run_compare(runs)


def test_a_run_beside_itself_is_noted(runs: Path) -> None:
    assert f"both are the same run, {runs / 'a'}" in compare("a", runs / "a", runs=runs).notes
    assert not any("the same run" in note for note in compare("a", "b", runs=runs).notes)


def test_missing_predictions_are_named(runs: Path) -> None:
    with pytest.raises(
        RunError,
        match=r"holds no predictions on 'validatoin'\. Did you mean 'validation'\? There are validation: --split names "
        r"one, and 'bertkit eval .*a --split validatoin' makes them",
    ):
        run_compare(runs, split="validatoin")
    shutil.rmtree(runs / "b" / "predictions")
    with pytest.raises(RunError, match=r"b holds no predictions: it is 'finished'\. Compare finished runs\."):
        run_compare(runs)
    with pytest.raises(RunError, match=r"There is no run 'c'"):
        compare("a", "c", runs=runs)


def test_damaged_and_empty_predictions_are_refused(runs: Path) -> None:
    file = runs / "b/predictions/validation.jsonl"
    file.write_text(file.read_text() + '{"text": "half')
    with pytest.raises(RunError, match=r"validation\.jsonl:41 is damaged: it holds no row with a 'prediction'"):
        run_compare(runs)
    for name in "ab":
        (runs / name / "predictions/validation.jsonl").write_text("")
    with pytest.raises(DataError, match=r"a/predictions/validation\.jsonl holds no rows to compare"):
        run_compare(runs)


# Calibrated runs, later evaluations, suites ----------------------------------------------------------------------


def test_rows_of_the_calibration_are_left_out_of_the_other_run(runs: Path) -> None:
    rows, gone = lines(runs / "b/predictions/validation.jsonl"), [1, 5, 20]
    write(runs / "b", [row for index, row in enumerate(rows) if index not in gone])
    change(runs / "a", held_out_rows=[])
    change(runs / "b", held_out_rows=[], calibration_rows=gone)
    found = run_compare(runs)
    assert found.num_examples == 37
    assert found.notes[0] == f"without the 3 rows that {runs / 'b'} was calibrated on"
    assert compare("b", "a", runs=runs, resamples=10).num_examples == 37


def test_rows_of_the_calibration_are_found_where_validation_was_cut_off_train(runs: Path) -> None:
    rows, held = lines(runs / "b/predictions/validation.jsonl"), list(range(0, 200, 5))
    write(runs / "b", [row for index, row in enumerate(rows) if index not in (2, 4)])
    change(runs / "a", held_out_rows=held)
    change(runs / "b", held_out_rows=[row for row in held if row not in (10, 20)], calibration_rows=[10, 20])
    edit(runs / "a", lambda n, row: wrong(row) if n in (3, 40) else row)
    found = run_compare(runs)
    assert (found.num_examples, found.counts["only_b"]) == (38, 1)


def test_split_that_eval_scored_is_compared(runs: Path) -> None:
    for name in "ab":
        (runs / name / "evals").mkdir()
        shutil.move(runs / name / "predictions/validation.jsonl", runs / name / "evals/more.jsonl")
    assert run_compare(runs, split="more").num_examples == 40


@pytest.fixture
def suites(runs: Path) -> Path:
    """Return a folder with two suites of three seeds each, made of the runs."""
    for name, scores in (("a", (0.80, 0.81, 0.79)), ("b", (0.85, 0.87, 0.86))):
        suite = runs / f"suite-{name}"
        members = []
        for seed, score in enumerate(scores):
            member = Path(shutil.copytree(runs / name, suite / f"seed-{seed}"))
            change(member, seed=seed)
            (member / "scores.json").write_text(json.dumps({"splits": {"validation": {"accuracy": score}}, **STEPS}))
            members.append({"task": "reviews", "seed": seed, "run": f"seed-{seed}"})
        kept = {"reviews": {"run": "seed-1", "seed": 1, "metric": "accuracy", "score": 0.8, "seeds": 3}}
        facts = {"name": "x", "created": "", "request": {}, "runs": members, "kept": kept}
        (suite / "suite.json").write_text(json.dumps(facts))
    return runs


def test_suites_are_compared_over_their_seeds(suites: Path) -> None:
    found = compare("suite-a", "suite-b", runs=suites, resamples=50)
    means = found.seeds["accuracy"]
    assert means.a == (0.80, 0.81, 0.79)
    assert means.p == pytest.approx(stats.ttest_ind(means.b, means.a, equal_var=False).pvalue)
    assert found.verdicts[-1] == "accuracy: the mean of B is better (+0.0600, p = 0.0018, 3 and 3 seeds)"
    assert found.a == str(suites / "suite-a/seed-1")
    assert found.notes == [
        "each suite's kept model is compared, the best of its seeds on validation; the seeds themselves stand below"
    ]
    json.dumps(found.to_json(), allow_nan=False)


def test_seeds_that_do_not_scatter_say_nothing(suites: Path) -> None:
    for member in suites.glob("suite-*/seed-*"):
        score = 0.8 if "suite-a" in str(member) else 0.9
        (member / "scores.json").write_text(json.dumps({"splits": {"validation": {"accuracy": score}}, **STEPS}))
    found = compare("suite-a", "suite-b", runs=suites, resamples=50)
    assert "the seeds of each score alike, so nothing says what chance does to the means" in found.verdicts[-1]
    assert found.to_json()["seeds"]["accuracy"]["p"] is None


def test_seeds_that_were_scored_on_other_rows_are_not_compared(suites: Path) -> None:
    for member in suites.glob("suite-b/seed-*"):
        write(member, lines(member / "predictions/validation.jsonl")[2:])
        change(member, held_out_rows=[], calibration_rows=[0, 1])
    for member in suites.glob("suite-a/seed-*"):
        change(member, held_out_rows=[])
    found = compare("suite-a", "suite-b", runs=suites, resamples=50)
    assert (found.seeds, found.num_examples) == ({}, 38)
    assert "the scores of their seeds are of other rows each, and are not compared" in found.notes


def test_suite_against_a_run_compares_models_alone(suites: Path) -> None:
    assert compare("suite-a", "b", runs=suites, resamples=50).seeds == {}


def test_sentences_are_shown_by_their_words(tagging_run: Path, tmp_path: Path) -> None:
    from bertkit.workflows.compare import described

    other = Path(shutil.copytree(tagging_run, tmp_path / "other"))
    edit(other, lambda n, row: row | {"prediction": {"tags": ["O"] * len(row["tokens"]), "entities": []}})
    found = compare(tagging_run, other, resamples=10)
    cells = described(found.changes[0], found.columns)
    assert found.columns == ["tokens", "tags"]
    assert cells[2] == " ".join(found.changes[0].example["tokens"])[:48]
    assert len(sentences(1)[0]["tokens"]) > 1
