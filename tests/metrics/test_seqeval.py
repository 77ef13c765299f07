"""``metrics.load("seqeval")`` against what seqeval itself said, stored in ``tests/golden/seqeval.json``."""

import json
import warnings
from pathlib import Path

import pytest
from sklearn.exceptions import UndefinedMetricWarning

from bertkit import metrics
from bertkit.errors import ConfigError, DataError
from bertkit.metrics.seqeval import Seqeval

STORED = json.loads((Path(__file__).parents[1] / "golden" / "seqeval.json").read_text(encoding="utf-8"))
CASES = STORED["cases"]
PUBLISHED = {
    "predictions": [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
    "references": [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
}


def spelled(sentences: str, suffix: bool) -> list[list[str]]:
    rows = [[STORED["tags"][code] for code in sentence] for sentence in sentences.split()]
    if suffix:
        rows = [["-".join([*tag.split("-", 1)[1:], tag.split("-", 1)[0]]) for tag in row] for row in rows]
    return rows


def computed(case: dict) -> tuple[dict, set[str]]:
    """Return the scores of a stored case, and what was warned of, in the words of the file."""
    suffix = case["settings"].get("suffix", False)
    rows = {column: spelled(case[column], suffix) for column in ("predictions", "references")}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = Seqeval()._compute(**rows, **case["settings"])
    words = {"Precision": "Precision", "Recall": "Recall", "Not tags of entities": "NE tag"}
    return scores, {words[said] for said in words for w in caught if str(w.message).startswith(said)}


@pytest.mark.parametrize("mode", [None, "strict"])
def test_seqeval_equals_the_stored_output_to_the_last_digit(mode):
    cases = [case for case in CASES if case["settings"].get("mode") == mode and "error" not in case]
    assert len(cases) > 120
    for case in cases:
        scores, warned = computed(case)
        kinds = {kind: list(row.values()) for kind, row in scores.items() if isinstance(row, dict)}
        overall = [scores[f"overall_{name}"] for name in ("precision", "recall", "f1", "accuracy")]
        assert (kinds, overall, warned) == (case["types"], case["overall"], set(case["warned"])), case
        assert list(scores) == [*case["types"], *(name for name in scores if name.startswith("overall_"))]


def test_seqeval_refuses_what_seqeval_refuses():
    cases = [case for case in CASES if "error" in case]
    assert len(cases) > 15
    for case in cases:
        with pytest.raises(DataError, match=r"give (its )?scheme|strict counting needs one"):
            computed(case)


def test_the_stored_cases_hold_every_scheme_and_both_outcomes():
    schemes = {case["settings"].get("scheme") for case in CASES if case["settings"].get("mode")}
    assert schemes == {None, "IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU"}
    f1s = [case["overall"][2] for case in CASES if "overall" in case]
    assert sum(0 < f1 < 1 for f1 in f1s) > 200
    assert {0.0, 1.0} < set(f1s)


def test_seqeval_takes_and_returns_what_the_published_metric_does():
    scores = metrics.load("seqeval").compute(**PUBLISHED)
    assert scores == {
        "MISC": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "number": 1},
        "PER": {"precision": 1.0, "recall": 1.0, "f1": 1.0, "number": 1},
        "overall_precision": 0.5,
        "overall_recall": 0.5,
        "overall_f1": 0.5,
        "overall_accuracy": 0.8,
    }
    assert list(scores) == ["MISC", "PER", *(f"overall_{n}" for n in ("precision", "recall", "f1", "accuracy"))]
    json.dumps(scores)
    assert type(scores["PER"]["number"]) is int


def test_seqeval_collects_batches_and_takes_every_setting():
    metric = metrics.load("seqeval")
    for prediction, reference in zip(PUBLISHED["predictions"], PUBLISHED["references"], strict=True):
        metric.add(prediction=prediction, reference=reference)
    settings = {"suffix": False, "scheme": "IOB2", "mode": "strict", "sample_weight": None, "zero_division": 0}
    assert metric.compute(**settings)["overall_f1"] == 0.5


def test_seqeval_warns_once_a_score_that_is_not_defined():
    rows = {"predictions": [["O", "O"]], "references": [["B-PER", "B-LOC"]]}
    message = r"^Precision and F1 are not defined and set to 0\.0 for 'LOC', 'PER', all types together: no predicted "
    with pytest.warns(UndefinedMetricWarning, match=message) as caught:
        scores = metrics.load("seqeval").compute(**rows)
    assert len(caught) == 1
    assert scores["overall_f1"] == 0.0
    assert metrics.load("seqeval").compute(**rows, zero_division=1)["overall_precision"] == 1.0


def test_seqeval_of_no_entities_gives_zeros_and_the_accuracy():
    rows = {"predictions": [["O", "O"], []], "references": [["O", "O"], []]}
    scores = metrics.load("seqeval").compute(**rows, zero_division=0)
    assert scores == {"overall_precision": 0, "overall_recall": 0, "overall_f1": 0, "overall_accuracy": 1.0}
    assert metrics.load("seqeval").compute(predictions=[[]], references=[[]], zero_division=0)["overall_accuracy"] == 0


def test_seqeval_says_that_sample_weight_changes_nothing():
    with pytest.warns(UserWarning, match=r"'seqeval' takes sample_weight and does not use it: no score changes\."):
        scores = metrics.load("seqeval").compute(**PUBLISHED, sample_weight=[0, 5])
    assert scores == metrics.load("seqeval").compute(**PUBLISHED)


def test_seqeval_warns_of_tags_that_are_no_entities():
    rows = {"predictions": [["NOUN"]], "references": [["VERB"]]}
    with pytest.warns(UserWarning, match=r"^Not tags of entities, but counted: '(NOUN|VERB)'\.$"):
        metrics.load("seqeval").compute(**rows, zero_division=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheme": "IOB3"}, r"Scheme 'IOB3' is not one of IOB1, IOB2, IOE1, IOE2, IOBES, BILOU\. Did you mean 'IOB"),
        ({"mode": "Strict"}, r"Mode 'Strict' is not 'strict' or None, which counts as conlleval does\."),
        ({"zero_division": "ignore"}, r"zero_division is 'ignore'; it must be 'warn', 0 or 1\."),
    ],
)
def test_seqeval_refuses_settings_that_mean_nothing(settings, message):
    with pytest.raises(ConfigError, match=message):
        metrics.load("seqeval").compute(**PUBLISHED, **settings)


@pytest.mark.parametrize(
    ("reference", "settings", "message"),
    [
        (["O"], {}, r"Sentence 1 has 2 predicted tags and 1 true ones: give one a word\."),
        (["O", ""], {}, r"A tag is empty: every word needs one; 'O' is outside\."),
        (["O", "E-X"], {"mode": "strict", "scheme": "IOB2"}, r"Tag 'E-X' is not of IOB2, which has I, O, B: give its"),
        (["O", "NOUN"], {"mode": "strict"}, r"Tag 'NOUN' has none of the prefixes O, B, I, E, S, L, U: strict count"),
        (["O", "I-X"], {"mode": "strict"}, r"The prefixes of the references, I, O, do not tell the scheme: give sch"),
    ],
)
def test_seqeval_refuses_rows_that_cannot_be_counted(reference, settings, message):
    with pytest.raises(DataError, match=message):
        metrics.load("seqeval").compute(predictions=[["O", "O"]], references=[reference], **settings)
