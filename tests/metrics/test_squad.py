"""`squad`, `squad_v2` and `cmrc2018` take and return what the published ``evaluate`` metrics do."""

import json
from pathlib import Path

import evaluate
import numpy as np
import pytest

from bertkit import metrics
from bertkit.errors import DataError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "squad.json").read_text(encoding="utf-8"))


def inputs(rows, **columns):
    predictions = [
        {"id": f"q{i}", "prediction_text": row["answer"], **{name: row[key] for name, key in columns.items()}}
        for i, row in enumerate(rows)
    ]
    return {
        "predictions": predictions,
        "references": [reference(f"q{i}", row["references"]) for i, row in enumerate(rows)],
    }


def reference(name, texts):
    return {"id": name, "answers": {"text": texts, "answer_start": [0] * len(texts)}}


ANSWERABLE = [row for row in GOLDEN["english"] if row["references"]]


@pytest.mark.parametrize(("name", "rows"), [("squad", ANSWERABLE), ("cmrc2018", GOLDEN["chinese"])])
def test_metric_equals_the_official_script_to_the_last_digit(name, rows):
    assert metrics.load(name).compute(**inputs(rows)) == GOLDEN[name]["totals"]


@pytest.mark.parametrize("threshold", ["1.0", "0.5", "0.25"])
def test_squad_v2_equals_the_official_script_to_the_last_digit(threshold):
    rows = inputs(GOLDEN["english"], no_answer_probability="score")
    scores = metrics.load("squad_v2").compute(**rows, no_answer_threshold=float(threshold))
    official = GOLDEN["squad_v2"]["by_threshold"][threshold]
    assert scores == official
    assert list(scores) == list(official)


def test_published_examples_give_the_published_scores():
    prediction = {"prediction_text": "1976", "id": "56e10a3be3433e1400422b22"}
    truth = [{"answers": {"answer_start": [97], "text": ["1976"]}, "id": "56e10a3be3433e1400422b22"}]
    assert metrics.load("squad").compute(predictions=[prediction], references=truth) == {
        "exact_match": 100.0,
        "f1": 100.0,
    }
    probable = [prediction | {"no_answer_probability": 0.0}]
    assert metrics.load("squad_v2").compute(predictions=probable, references=truth) == {
        "exact": 100.0,
        "f1": 100.0,
        "total": 1,
        "HasAns_exact": 100.0,
        "HasAns_f1": 100.0,
        "HasAns_total": 1,
        "best_exact": 100.0,
        "best_exact_thresh": 0.0,
        "best_f1": 100.0,
        "best_f1_thresh": 0.0,
    }


@pytest.mark.parametrize("name", ["squad", "squad_v2", "cmrc2018"])
def test_metric_is_an_evaluate_metric_of_plain_numbers(name):
    metric = metrics.load(name)
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == name
    rows = [{"answer": "x", "references": ["x"], "score": 0.0}]
    columns = {"no_answer_probability": "score"} if name == "squad_v2" else {}
    scores = metric.compute(**inputs(rows, **columns))
    assert json.loads(json.dumps(scores)) == scores


def test_rows_are_matched_by_id_not_by_order():
    predictions = [{"id": "b", "prediction_text": "dog"}, {"id": "a", "prediction_text": "cat"}]
    truth = [reference("a", ["cat"]), reference("b", ["dog"])]
    assert metrics.load("squad").compute(predictions=predictions, references=truth)["exact_match"] == 100.0


def test_ids_may_be_integers():
    predictions = [{"id": 7, "prediction_text": "cat"}, {"id": np.int64(8), "prediction_text": "dog"}]
    truth = [reference(7, ["cat"]), reference("8", ["dog"])]
    assert metrics.load("squad").compute(predictions=predictions, references=truth)["f1"] == 100.0
    metric = metrics.load("cmrc2018")
    metric.add(prediction={"id": 1, "prediction_text": "猫"}, reference=reference(1, ["猫"]))
    assert metric.compute() == {"exact_match": 100.0, "f1": 100.0}


def test_question_without_a_prediction_scores_0_as_in_the_official_script():
    predictions = [{"id": "a", "prediction_text": "cat"}, {"id": "other", "prediction_text": "dog"}]
    truth = [reference("a", ["cat"]), reference("b", ["the"])]
    for name in ("squad", "cmrc2018"):
        assert metrics.load(name).compute(predictions=predictions, references=truth) == {
            "exact_match": 50.0,
            "f1": 50.0,
        }


def test_squad_v2_without_a_prediction_says_which():
    predictions = [{"id": "a", "prediction_text": "cat", "no_answer_probability": 0.0}]
    with pytest.raises(DataError, match=r"Question 'b' has no prediction: metric 'squad_v2' needs one for every"):
        metrics.load("squad_v2").compute(predictions=predictions, references=[reference("b", ["cat"])])


def test_squad_without_a_reference_answer_points_to_squad_v2():
    with pytest.raises(DataError, match=r"Question 1 has no reference answer.* use rules 'squad_v2'"):
        metrics.load("squad").compute(
            predictions=[{"id": "a", "prediction_text": "x"}], references=[reference("a", [])]
        )
